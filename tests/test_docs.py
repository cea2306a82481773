"""The README and the documentation: every block runs, every command is one."""

from __future__ import annotations

import doctest
import importlib.util
import itertools
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from markdown_it import MarkdownIt
from PIL import Image
from tiny import Tiny

import jaxcert as jc
from jaxcert.commands.__main__ import COMMANDS
from jaxcert.commands.options import flags_of, read
from jaxcert.learning.data import load_dataset
from jaxcert.report.boxes import BOX_KEYS
from jaxcert.report.stored import RECORD_KEYS, SCHEMA

ROOT = Path(jc.__file__).parents[1]
PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")),
]  # fmt: skip
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.py"))
SHARED = ROOT.parent / "shared" / "data"
SHELL = ("make ", "git ", "cd ", "pip ", "python ", "python3 ", "jaxcert ", "srun ",
         ".venv/bin/", "PYTHONPATH=")  # fmt: skip


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yields (language, content) of the blocks of code in a page."""
    for token in MarkdownIt().parse(page.read_text()):
        if token.type in ("fence", "code_block"):
            yield token.info, token.content


def lines(content: str) -> list[str]:
    """Returns the command lines of a block, those that are continued joined."""
    joined = re.sub(r"\\\n\s*", "", content)
    return [line.partition("    #")[0].strip() for line in joined.splitlines() if line]


COMMAND_LINES = [
    (page.name, line)
    for page in PAGES
    for _, content in blocks(page)
    for line in lines(content)
    if content.startswith(SHELL) and line != "..."
]


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
            if not language and ">>>" not in content:
                assert not re.search(r"^(import|from) ", content, re.M), content


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
        assert words[:2] in (["python", "-c"], ["python", "jaxcert/checker"]), line
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


# Lines that need a data set, another tool, a cluster or what they leave out; and those
# of `make`, which starts this test.
_ELSEWHERE = re.compile(r"mnist|sweep|smoothing|throughput|^(make|git|cd|python3) |pip")
EXECUTED = {
    page: [own for name, own in COMMAND_LINES if name == page]
    for page in ("README.md", "index.md", "commands.md", "data.md", "tabular.md")
}


def named_in_pages(folder: Path, tiny: Tiny, page: str) -> None:
    """Writes the files that the command lines of a page name."""
    shutil.copy(tiny.onnx, folder / "NET.onnx")
    digits = load_dataset("digits", "test")
    images, labels = digits.images[:4], digits.labels[:4]
    parts = ("train", "test") if page == "data.md" else ("",)
    for part, (row, label) in itertools.product(parts, enumerate(labels)):
        own = folder / "PHOTOS" / part / str(label)
        own.mkdir(parents=True, exist_ok=True)
        pixels = np.uint8(np.round(255 * images[row, ..., 0]))
        Image.fromarray(pixels).save(own / f"{row}.png")
    near = {"lo": np.maximum(images - 0.01, 0), "hi": np.minimum(images + 0.01, 1)}
    np.savez(folder / "BOXES.npz", x=images, **near)
    names = [f"(declare-const X_{k} Real)" for k in range(64)]
    names += [f"(declare-const Y_{k} Real)" for k in range(10)]
    ends = zip(near["lo"][0].ravel(), near["hi"][0].ravel(), strict=True)
    box = [
        f"(assert (>= X_{k} {lo:.9f})) (assert (<= X_{k} {hi:.9f}))"
        for k, (lo, hi) in enumerate(ends)
    ]
    box.append(f"(assert (>= Y_{(labels[0] + 1) % 10} Y_{labels[0]}))")
    (folder / "PROPERTY.vnnlib").write_text("\n".join(names + box))
    (folder / "instances.csv").write_text("NET.onnx,PROPERTY.vnnlib,60\n")
    rows = [f"{k % 7},{k % 5},{'ripe' if k % 7 > 3 else 'green'}" for k in range(60)]
    (folder / "TABLE.csv").write_text("\n".join(["weight,age,class", *rows]))


@pytest.mark.campaign
@pytest.mark.parametrize("page", EXECUTED)
def test_commands_run_as_they_are_printed(page: str, tiny: Tiny, tmp_path: Path):
    named_in_pages(tmp_path, tiny, page)
    ran = 0
    for line in EXECUTED[page]:
        if _ELSEWHERE.search(line) or "..." in line:
            continue
        words = shlex.split(line.removeprefix(".venv/bin/"))
        assert words[0] == "jaxcert", line
        program = [sys.executable, "-m", "jaxcert.commands", *words[1:]]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            program, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr
        ran += 1
    assert ran


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
