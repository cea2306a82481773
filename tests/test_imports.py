"""What `import jaxcert` loads, and that it leaves JAX's configuration alone."""

from __future__ import annotations

import subprocess
import sys

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
