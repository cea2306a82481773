"""What imports what: `import jaxcert` is light, and the checker stands alone."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import jaxcert as jc

ROOT = Path(jc.__file__).parents[1]

HEAVY = ("flax", "tensorflow_datasets", "tensorflow", "onnx", "matplotlib", "scipy",
         "sklearn", "rich", "jinja2", "torch")  # fmt: skip


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_import_loads_no_heavy_package_and_changes_no_configuration():
    # jax itself imports parts of scipy: only what jaxcert adds to it counts.
    out = run(
        "import sys, jax, jax.numpy, optax\n"
        "before = set(sys.modules)\n"
        "settings = dict(jax.config.values)\n"
        "import jaxcert\n"
        "for name in dir(jaxcert): getattr(jaxcert, name)\n"
        "added = {m.split('.')[0] for m in set(sys.modules) - before}\n"
        f"print(sorted(added & set({HEAVY!r})))\n"
        "print(dict(jax.config.values) == settings, jax.config.jax_enable_x64)\n"
    )
    assert out.splitlines() == ["[]", "True False"]


def test_import_and_certify_work_where_heavy_packages_are_absent():
    blocked = [name for name in HEAVY if name not in ("scipy",)]
    out = run(
        "import sys\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        "import jax.numpy as jnp, jaxcert as jc, jax\n"
        "w = jnp.eye(2)\n"
        "spec = jc.Spec.classification(0, 2)\n"
        "box = jc.Box(jnp.array([.6, 0.]), jnp.array([1., .5]))\n"
        "print(jc.verify(lambda w, x: w @ x, w, box, spec).proved)\n"
        "print(jax.config.jax_enable_x64, jnp.zeros(1).dtype)\n"
    )
    assert out.splitlines() == ["True", "False float32"]


def test_a_missing_optional_package_is_named_where_it_is_needed(tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(b"not a network")
    out = run(
        "import sys\n"
        "sys.modules['onnx'] = None\n"
        "import jaxcert as jc\n"
        "try:\n"
        f"    jc.load_onnx({str(path)!r})\n"
        "except jc.JaxcertError as error:\n"
        "    print(type(error).__name__)\n"
    )
    assert out in ("InputError", "UnsupportedError")


def test_import_loads_no_jax():
    out = run("import sys, jaxcert; print([n for n in ('jax', 'numpy', 'optax')"
              " if n in sys.modules])")  # fmt: skip
    assert out == "[]"


def test_type_checkers_and_the_interpreter_see_the_same_names():
    tree = ast.parse(Path(jc.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names:
            typed[alias.asname or alias.name] = (node.module, alias.name)
    assert set(jc.__all__) <= set(typed) <= set(dir(jc))
    assert set(typed) == {*jc._HOME, "activations"} == set(jc.__all__)
    for name, (module, own) in typed.items():
        home = __import__(module, fromlist=[own])
        assert getattr(jc, name) is getattr(home, own)
    with pytest.raises(AttributeError, match="has no attribute 'certfy'"):
        jc.certfy  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Boxes'"):
        from jaxcert import Boxes  # noqa: F401


@functools.cache
def imported(path: Path) -> set[str]:
    """Returns the modules that a file imports anywhere in it, in full."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # A relative one stays in its folder, or the folder above.
            above = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def test_nothing_but_writers_of_certificates_imports_the_checker():
    """And the checker imports nothing of ours: what it judges is not its judge."""
    seen = 0
    for path in sorted((ROOT / "jaxcert").rglob("*.py")):
        names = imported(path)
        folder = path.relative_to(ROOT / "jaxcert").parts[0]
        checker = {n for n in names if f"{n}.".startswith("jaxcert.checker.")}
        if folder == "checker":
            ours = {n for n in names if f"{n}.".startswith("jaxcert.")}
            assert ours == checker, f"{path} imports {sorted(ours - checker)}"
        elif folder != "certificate":
            assert not checker, f"{path} imports {sorted(checker)}"
        seen += bool(checker)
    assert seen > 6


# Downward only: each room may use those before it.
ROOMS = (
    {"errors", "verdict", "rows"},
    {"ball", "box", "cache", "checks", "devices", "memory", "shapes", "spec"},
    {"trace"},
    {"limit", "model", "network", "scope"},
    {"bounds"},
    {"witness"},
    {"branch"},
    {"oracle"},
    {"search"},
    {"measures", "options"},
    {"checker", "runs"},
    {"report"},
    {"answer"},
    {"certification", "dual_answer"},
    {"certifier"},
    {"api"},
    {"interop"},
    {"learning"},
    {"certificate", "convex", "semantic", "smoothing"},
    {"commands"},
)
ASIDE = {"runs", "interop", "learning", "report", "commands"}
"""None of these is used by what bounds, decides and searches."""


def imports() -> dict[str, set[str]]:
    """Returns the modules of jaxcert that each one imports, wherever it does so."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in (ROOT / "jaxcert").rglob("*.py")
    }
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    return {
        # Its own package is not what it imports, but where it lives.
        module: {
            n
            for n in imported(path) & set(paths)
            if not f"{module}.".startswith(f"{n}.")
        }
        for module, path in paths.items()
    }


def room(module: str) -> str:
    return module.split(".")[1]


def test_rooms_are_entered_from_above_alone():
    level = {name: number for number, names in enumerate(ROOMS) for name in names}
    wrong = []
    for module, names in imports().items():
        if module == "jaxcert":
            continue
        for name in names:
            up = level[room(name)] > level[room(module)]
            aside = room(name) in ASIDE and level[room(module)] < level["runs"]
            checks = room(name) == "checker" != room(module) != "certificate"
            if up or aside or checks:
                wrong.append(f"{module} imports {name}")
    assert not wrong


def test_no_circle_of_modules():
    graph = imports()
    graph["jaxcert"] = set()  # lazy: it imports nothing until a name is asked for
    done: set[str] = set()
    while True:
        ready = {m for m, names in graph.items() if m not in done and names <= done}
        if not ready:
            break
        done |= ready
    assert set(graph) == done
