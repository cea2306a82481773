"""The checker as a program: alone, with nothing but numpy, and loud where it fails."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from builder import Case, change, replaced
from test_check_claims import margin_slightly_below_0
from test_check_mutations import MUTATIONS

import jaxcert.checker
from jaxcert.checker import command

FOLDER = Path(jaxcert.checker.__file__).parent
ROOT = FOLDER.parents[1]
FILES = sorted(FOLDER.glob("*.py"))
CODES = {"accepted": 0, "REJECTED": 1, "NOT PROVED": 1, "VACUOUS": 3}


def run(*words: object, **options) -> tuple[int, list[str], str]:
    """Returns exit code, lines of stdout, and stderr of python with these words."""
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, **options
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.fixture
def proofs(cases, tmp_path) -> Path:
    """Returns the folder of a run with one file of each kind, called after it."""
    folder = tmp_path / "proofs"
    folder.mkdir()
    for name, case in kinds(cases["few"]).items():
        case.write(folder, f"{name}.npz")
    return folder


def kinds(case: Case) -> dict[str, Case]:
    """Returns a case for everything that can be said of a file."""
    dropped = MUTATIONS["dropped_leaf"][1](case, np.random.default_rng(0))
    assert dropped is not None
    size = len(case.certificate.arrays["x"])
    unproved = change(
        case,
        lambda s: s.arrays.update(
            face_points=np.zeros((0, size)), face_ends=np.zeros(2 * size),
            face_by=np.full(2 * size, -2, np.int32),
        ),
        lambda s: replaced(s, delta=0.1, proved=False),
        *(
            lambda s, name=name: s.arrays.update({name: s.arrays[name][:0]})
            for name in ("leaf_target", "leaf_signs", "leaf_slopes", "leaf_betas")
        ),
    )  # fmt: skip
    return {
        "accepted": case, "REJECTED": dropped, "NOT PROVED": unproved,
        "VACUOUS": margin_slightly_below_0(case),
    }  # fmt: skip


@pytest.mark.parametrize("name", CODES)
def test_a_line_and_an_exit_code_for_each(proofs, capsys, name):
    code = command.main([str(proofs / f"{name}.npz")])
    lines = capsys.readouterr().out.splitlines()
    assert code == CODES[name]
    assert re.match(rf"{name} {name}: .", lines[0])
    assert lines[-1].startswith(f"1 checked: {int(name == 'accepted')} accepted, ")
    assert ("network" in lines[0]) == (name != "REJECTED")


def test_the_worst_decides(proofs, capsys):
    def code_of(*names: str) -> int:
        return command.main([str(proofs / f"{name}.npz") for name in names])

    assert code_of("accepted", "accepted") == 0
    assert code_of("accepted", "VACUOUS") == 3
    assert code_of("VACUOUS", "REJECTED", "accepted") == 1
    assert code_of("NOT PROVED", "VACUOUS") == 1
    capsys.readouterr()
    assert command.main([str(proofs.parent)]) == 1
    *lines, total = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"4 checked: 1 accepted, 1 not proved, 1 vacuous, 1 rejected; median \S+ ms",
        total,
    )
    assert "grown boxes: 1, 0 with their proof, 1 not proved; 0 maximal;" in lines


def test_json_is_the_whole_claim(proofs, capsys):
    assert command.main(["--json", str(proofs)]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {Path(line["file"]).stem: line for line in lines}
    assert {k: v["status"] for k, v in found.items()} == {
        "accepted": "accepted", "REJECTED": "rejected", "VACUOUS": "vacuous",
        "NOT PROVED": "not proved",
    }  # fmt: skip
    good, bad = found["accepted"], found["REJECTED"]
    assert good["claim"].startswith("class ") and good["required_margin"] == 0.0
    assert good["domain_lo"] == [0, 0] and len(good["network_sha256"]) == 64
    assert bad["claim"] == "" and bad["apothem_lower"] is None and bad["reason"]


def test_the_caller_insists(cases, proofs, capsys):
    path, sha256 = str(proofs / "accepted.npz"), cases["few"].network.sha256

    def code_of(*words: str) -> int:
        code = command.main([path, *words])
        assert ("REJECTED" in capsys.readouterr().out) == (code == 1)
        return code

    every = f"--network={sha256.upper()} --margin=0 --domain 0 1 --arithmetic=real"
    assert code_of(*every.split(), "--exact") == 0
    assert code_of(f"--network={'0' * 64}") == 1
    assert code_of("--margin=0.001") == 1 and code_of("--margin=-1") == 0
    assert code_of("--domain", "0", "1.5") == 1 and code_of("--domain", "-1", "1") == 1
    assert code_of("--rates=1") == 1 and code_of("--arithmetic=float32") == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("{folder}/nothing",), "there is no such file or folder"),
        (("{folder}",), "holds no certificate"),
        ((), "required: PATH"),
        (("{folder}", "--network=abc"), "is no sha256: write 64 hex digits"),
        (("{folder}", "--margin=nan"), "is not finite"),
        (("{folder}", "--domain", "0"), "expected 2 arguments"),
        (("{folder}", "--margins=0"), "unrecognized arguments: --margins=0"),
    ],
)
def test_mistakes_of_the_caller(tmp_path, capsys, words, reason):
    words = [word.format(folder=tmp_path) for word in words]
    try:
        code = command.main(words)
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    assert code == 2 and not said.out and reason in said.err


def test_other_arrays_of_a_run_are_not_taken_for_certificates(tmp_path, capsys):
    for name in ("run.json", "boxes.npz", "network.npz"):
        (tmp_path / name).touch()
    assert command.main([str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert not said.out and "wrote no certificates" in said.err
    assert "certify and verify write them with --proofs" in said.err


def test_a_missing_path_is_not_hidden_by_one_that_is_there(proofs, capsys):
    assert command.main([str(proofs / "accepted.npz"), str(proofs / "none.npz")]) == 2
    assert not capsys.readouterr().out


# Alone


BLOCK = (
    "import sys\n"
    "for name in ('jax', 'jaxlib', 'scipy', 'optax', 'flax', 'absl', 'ml_dtypes'):\n"
    "    sys.modules[name] = None\n"
)


@pytest.mark.parametrize("name", CODES)
def test_the_folder_runs_by_itself(proofs, tmp_path, name):
    """A copy of the folder under another name, apart from jaxcert, without JAX."""
    copy = shutil.copytree(FOLDER, tmp_path / "elsewhere")
    program = BLOCK + (
        "import runpy\n"
        f"sys.argv = ['checker', {str(proofs / f'{name}.npz')!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(copy)!r}, run_name='__main__')\n"
        "finally:\n"
        "    assert not any(n.startswith('jaxcert.') for n in sys.modules)\n"
        "    assert 'jaxcert' not in sys.modules\n"
    )
    # -I: neither this folder nor the environment names a place of jaxcert.
    code, lines, err = run("-I", "-c", program, cwd=tmp_path)
    assert code == CODES[name], err
    assert lines[0].startswith(f"{name} {name}: ")


@pytest.mark.parametrize("how", [(FOLDER,), ("-m", "jaxcert.checker"),
                                 (ROOT / "experiments" / "check.py",)])  # fmt: skip
def test_every_way_to_run_it(proofs, how):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("accepted", "REJECTED"):
        code, lines, err = run(*how, proofs / f"{name}.npz", env=environment, cwd=ROOT)
        assert code == CODES[name] and not err
        assert lines[0].startswith(f"{name} {name}: ")


def test_it_imports_no_jax(proofs):
    program = BLOCK + (
        "from jaxcert.checker.command import main\n"
        f"code = main([{str(proofs / 'accepted.npz')!r}])\n"
        "ours = sorted(n for n in sys.modules if n.startswith('jaxcert.'))\n"
        "print(code, all(n.startswith('jaxcert.checker') for n in ours))"
    )
    code, lines, err = run("-c", program, env={"PYTHONPATH": str(ROOT)})
    assert code == 0 and lines[-1] == "0 True", err


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_by_itself_is_silent(proofs, path):
    """Run on a forged certificate, none may end as if all were well."""
    code, lines, err = run(path, proofs / "REJECTED.npz")
    assert code == 1
    alone = path.name == "__main__.py"
    assert lines[0].startswith("REJECTED") if alone else "run: python jaxcert" in err


def test_it_imports_numpy_and_the_standard_library_only():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""] if node.level == 0 else []
                assert node.level <= 1
            for name in names:
                top = name.split(".")[0]
                assert top in {"numpy", *sys.stdlib_module_names}, (path.name, name)
                assert top not in ("pickle", "marshal", "shelve", "ctypes")


def test_it_is_short():
    """What has to be read to believe it: no blank lines, no docstrings."""
    kernel = {"reading", "arithmetic", "network", "bounds", "clauses", "tree", "proof"}
    kinds = {
        "box": kernel | {"boxes"},
        "answer": kernel | {"answers", "vnnlib"},
        "special": {"curves", "float32"},
    }
    total = Counter()
    for path in FILES:
        source = path.read_text()
        lines = {i for i, line in enumerate(source.splitlines(), 1) if line.strip()}
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                first = node.body[0]
                if ast.get_docstring(node) is not None:
                    lines -= set(range(first.lineno, (first.end_lineno or 0) + 1))
        assert len(lines) <= 200, path.name
        for kind, names in kinds.items():
            total[kind] += len(lines) * (path.stem in names)
    assert total["box"] <= 775 and total["answer"] <= 902 and total["special"] <= 175


def test_the_readme_counts_the_lines_that_must_be_believed():
    """Each row of its tables that ends in a number names files, and their lines."""
    text = (FOLDER / "README.md").read_text()
    sizes = {path.name: len(path.read_text().splitlines()) for path in FILES}
    rows = re.findall(r"^\| (.*`\w+\.py`.*) \| ([\d,]+) \|$", text, re.M)
    assert len(rows) >= 8
    for files, lines in rows:
        counted = sum(sizes[name] for name in re.findall(r"`(\w+\.py)`", files))
        stated = int(lines.replace(",", ""))
        assert abs(counted - stated) <= 0.03 * stated, (files, counted)
