"""The README and the documentation: every block runs, every command is one."""

from __future__ import annotations

import doctest
import functools
import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags
from pages import COMMAND_LINES, PAGES, ROOT, SHARED, blocks
from tiny import Tiny

import jaxcert as jc
from jaxcert.commands.__main__ import COMMANDS
from jaxcert.commands.options import flags_of, read
from jaxcert.report.boxes import BOX_KEYS
from jaxcert.report.stored import RECORD_KEYS, SCHEMA

NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.py"))


def pages() -> Iterator[object]:
    """Yields all pages; of those that compile much, the README alone is always run."""
    for page in PAGES:
        long = page.name in ("index.md", "network.md")
        marks = pytest.mark.campaign if long else ()
        yield pytest.param(page, marks=marks, id=page.name)


@pytest.mark.parametrize("page", [*pages()])
def test_examples_print_what_they_say(page: Path):
    parts = [content for _, content in blocks(page) if ">>>" in content]
    text = "\n\n".join(parts)
    assert page.read_text().count(">>>") == text.count(">>>")
    examples = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(examples).failed == 0


def test_python_is_written_so_that_it_runs():
    """A block of Python without prompts would be executed by nobody."""
    for page in PAGES:
        for language, content in blocks(page):
            assert language in ("", "text"), f"{page.name}: a block of {language}"
            if "jc." in content and ">>>" not in content:
                assert page.name == "network.md", content
            if not language and ">>>" not in content:
                assert not re.search(r"^(import|from) ", content, re.M), content


def parts_of(module: Any, kept: Callable[[Any], bool]) -> tuple[Any, Any]:
    """Returns what Equinox's `partition` does, of a module that is a pytree."""
    one, other = (
        jax.tree.map(lambda v, want=want: v if kept(v) == want else None, module)
        for want in (True, False)
    )
    return one, other


def whole_of(*trees: Any) -> Any:
    """Returns what Equinox's `combine` does."""

    def known(*leaves: Any) -> Any:
        return next((leaf for leaf in leaves if leaf is not None), None)

    return jax.tree.map(known, *trees, is_leaf=lambda v: v is None)


@jax.tree_util.register_pytree_node_class
class Layer:
    """A callable module as Equinox makes them: its function is a leaf, too."""

    def __init__(self, weight: Any, function: Any) -> None:
        self.leaves = weight, function

    def __call__(self, x: Any) -> Any:
        weight, function = self.leaves
        return weight @ function(x)

    def tree_flatten(self) -> tuple[Any, None]:
        return self.leaves, None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: Any) -> Layer:
        return cls(*leaves)


def test_blocks_of_other_packages_run(tiny: Tiny, tmp_path, monkeypatch):
    """Equinox is none of our own, so that its two functions stand in for it."""
    texts = [text for language, text in blocks(ROOT / "docs/network.md") if language]
    (equinox,) = (text for text in texts if "eqx." in text)
    (onnx,) = (t for t in texts if "load_onnx" in t and "torch" not in t)
    fast = functools.partial(jc.certify, options=jc.CertifyOptions("ibp", attack=None))
    found: list[jc.Certification] = []
    library = types.SimpleNamespace(
        certify=lambda *given: found.append(fast(*given)), load_onnx=jc.load_onnx
    )
    parts = types.SimpleNamespace(
        partition=parts_of, combine=whole_of, is_array=lambda v: not callable(v)
    )
    model = Layer(np.array([[1.0, 0.0], [0.0, 1.0]]), jax.nn.relu)
    names = {"jc": library, "eqx": parts, "model": model, "x": np.array([0.75, 0.25])}
    exec(equinox, names)
    assert round(float(found[-1].lower), 2) == 0.25
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny.onnx, "net.onnx")
    exec(onnx, {"jc": library, "x": np.full((2, 8, 8, 1), 0.5)})
    assert len(found[-1]) == 2


def in_equinox() -> Any:
    equinox = pytest.importorskip("equinox")
    model = equinox.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    return model, {"eqx": equinox}, jax.vmap(model)


def in_keras() -> Any:
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras has another backend in this process")
    layers = keras.layers
    deep = [layers.Dense(4, "relu"), layers.BatchNormalization(), layers.Dense(2)]
    model = keras.Sequential([layers.Input((2,)), *deep])
    return model, {}, model


def in_pytorch() -> Any:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs it")
    nn = torch.nn
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    return model, {}, lambda x: model(torch.tensor(x)).detach()


@pytest.mark.parametrize(
    ("make", "word"),
    [(in_equinox, "eqx."), (in_keras, "stateless_call"), (in_pytorch, "torch.")],
)
def test_blocks_run_with_the_packages_themselves(make, word, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.chdir(tmp_path)
    model, names, evaluate = make()
    (text,) = (t for _, t in blocks(ROOT / "docs/network.md") if word in t)
    x, found = np.float32([[0.75, 0.25], [0.1, 0.9]]), []

    def certify(f, params, x):
        options = jc.CertifyOptions("ibp", attack=None)
        outputs = [f(params, z) for z in x]
        found.append((outputs, jc.certify(f, params, x, options=options)))

    library = types.SimpleNamespace(certify=certify, load_onnx=jc.load_onnx)
    exec(text, names | {"jc": library, "model": model, "x": x})
    ((outputs, answer),) = found
    expected = np.asarray(evaluate(x))
    np.testing.assert_allclose(np.stack(outputs), expected, atol=1e-5)
    assert (answer.label == np.argmax(expected, axis=1)).all()
    assert answer.lower.max() > 0


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES, ids=lambda text: text[:60])
def test_commands_are_ones_that_are_there(page: str, line: str):
    words = [word for word in shlex.split(line) if word != "..."]
    if words[0] == "srun":
        words = words[1:]
    words[0] = words[0].removeprefix(".venv/bin/")
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
        return
    if words[:2] == ["jaxcert", "--help"] or words[0] in (
        "git",
        "cd",
        "pip",
        "python3",
    ):
        return
    if words[0] == "jaxcert":
        name, module = words[1], f"jaxcert.commands.{words[1]}.command"
        assert name in COMMANDS
    elif words[0] == "python" and words[1].startswith("experiments/"):
        name = Path(words[1]).stem
        assert (ROOT / words[1]).is_file()
        own = f"jaxcert.commands.{name}.command"
        module = own if name in COMMANDS else f"studies.{name}.command"
    else:
        assert words[:2] == ["python", "jaxcert/checker"], line
        return
    if name == "check":
        return
    request = importlib.import_module(module).Request
    values = flags_of(request)
    given = [word for word in words[2:] if "..." not in line or word.startswith("--")]
    try:
        assert values(["command", *given]) == ["command"]  # all are flags
    except flags.Error:
        if "..." not in line:  # what is left out may be required
            raise
        return
    if "..." not in line:
        read(request, values)


# `make docs` executes them, too.
@pytest.mark.campaign
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "agg")
    if "fashion_mnist" in path.stem:
        if not SHARED.is_dir():
            pytest.skip("needs the real data sets of ../shared/data")
        monkeypatch.setenv("JAXCERT_DATA_DIR", str(SHARED))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
    runpy.run_path(str(path))
    assert capsys.readouterr().out
    assert path.read_text().startswith("# ---\n# jupyter:")


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 900
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
            if "://" not in link:
                there = (page.parent / link).resolve()
                # Notebooks become pages when the site is built.
                assert there.exists() or there.with_suffix(".py").exists(), link


def test_the_site_names_every_page_and_every_public_name():
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in ROOT.glob("docs/*.md"):
        assert f": {page.name}\n" in nav
    for path in NOTEBOOKS:
        assert f"notebooks/{path.stem}.md" in nav
    reference = (ROOT / "docs" / "reference.md").read_text()
    named = set(re.findall(r"^::: .*\.(\w+)$", reference, re.M))
    assert set(jc.__all__) - {"activations"} <= named
    for dotted in re.findall(r"^::: (.*)$", reference, re.M):
        module, _, name = dotted.rpartition(".")
        assert hasattr(importlib.import_module(module), name), dotted


def test_the_schema_of_runs_is_written_down():
    text = (ROOT / "docs" / "files.md").read_text()
    for key in (*RECORD_KEYS, *BOX_KEYS):
        assert f"`{key}`" in text
    assert f"form: {SCHEMA}." in text


def test_terms_are_in_the_glossary():
    text = (ROOT / "docs" / "concepts.md").read_text()
    for term in ("CROWN", "IBP", "Oracle", "Witness", "Apothem", "Rates", "VNN-LIB"):
        assert f"**{term}.**" in text


def test_contributing_says_how_a_rule_is_added_and_soundness_tested():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    heads = re.findall(r"^## (.*)$", text, re.M)
    assert "How a rule is added" in heads and "How soundness is tested" in heads
    for path in re.findall(r"`((?:jaxcert|tests)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


def test_limits_are_said():
    """Devices with what was run on them and when; and what no JAX function may hold."""
    readme = (ROOT / "README.md").read_text()
    for what in ("Loops", "Fourier", "inverses", "integers"):
        assert what in readme.partition("## Limits")[2]
    scale = (ROOT / "docs" / "scale.md").read_text()
    assert (
        "measured on CPUs" in scale and "BUILD_NOTES.md says on which devices" in scale
    )
    devices = (ROOT / "BUILD_NOTES.md").read_text().partition("## Devices")[2]
    assert re.search(r"20\d\d-\d\d-\d\d", devices.partition("\n## ")[0])


def test_the_version_is_one():
    version = re.search(
        r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M
    )
    assert version
    assert f"version: {version[1]}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version[1]}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="needs the extra docs"
)
def test_the_site_builds_without_a_warning(tmp_path):
    for path in NOTEBOOKS:  # their pages are made by `make docs`
        page = path.with_suffix(".md")
        if not page.exists():
            pytest.skip("make docs makes the pages of the notebooks first")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, env=os.environ, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
