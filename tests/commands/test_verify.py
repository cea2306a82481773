"""The script `verify`: answers, counterexamples, benchmarks, continuation, mistakes."""

from __future__ import annotations

import csv
import gzip
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import Ended, ran

from jaxcert.bounds.multineuron import CutOptions
from jaxcert.branch.signs import BranchOptions
from jaxcert.commands.verify import answer as answering
from jaxcert.commands.verify import command
from jaxcert.commands.verify.instances import Row
from jaxcert.commands.verify.subject import load_subject
from jaxcert.errors import InputError
from jaxcert.interop.vnnlib import Property, load_vnnlib
from jaxcert.oracle import complete, decide
from jaxcert.runs.worker import Worker
from jaxcert.witness.attack import AttackOptions

onnx = pytest.importorskip("onnx")

BENCHMARK = Path(__file__).parents[2].parent / "shared/peers/vnncomp/mnist_fc"
SCRIPT = Path(__file__).parents[2] / "experiments/verify.py"
HEADER = "onnx,vnnlib,result,seconds"

# y = (|x_0| + |x_1|, x_0 - x_1), so y_1 <= y_0: one bound alone does not see it.
DIAMOND = (
    np.array([[1.0, -1, 0, 0], [0, 0, 1, -1]]),
    np.zeros(4),
    np.array([[1.0, 1], [1, -1], [1, -1], [1, 1]]),
    np.zeros(2),
)
DECLARED = "".join(f"(declare-const {v} Real)\n" for v in ("X_0", "X_1", "Y_0", "Y_1"))
BOX = "".join(f"(assert (>= X_{i} -1))\n(assert (<= X_{i} 1))\n" for i in (0, 1))

# The specs have one clause of one row, or one of two: few programs are compiled.
PROPERTIES = {
    "sat": ("sat", BOX + "(assert (>= Y_0 1.9))"),
    "unsat": ("unsat", BOX + "(assert (>= Y_0 2.1))"),
    "rows_sat": ("sat", BOX + "(assert (and (<= Y_0 0.5) (>= Y_1 0.4)))"),
    "rows_unsat": ("unsat", BOX + "(assert (and (<= Y_0 0.5) (>= Y_1 0.6)))"),
    "boxes_sat": (
        "sat",
        """(assert (or
        (and (>= X_0 0) (<= X_0 0.5) (>= X_1 0) (<= X_1 0.5))
        (and (>= X_0 0.5) (<= X_0 1) (>= X_1 -1) (<= X_1 -0.75))))
        (assert (>= Y_1 1.9))""",
    ),
    "boxes_unsat": (
        "unsat",
        """(assert (or
        (and (>= X_0 0) (<= X_0 0.5) (>= X_1 0) (<= X_1 0.5))
        (and (>= X_0 -1) (<= X_0 0) (>= X_1 -1) (<= X_1 -0.75))))
        (assert (>= Y_1 1.9))""",
    ),
    "mixed_sat": (
        "sat",
        BOX
        + """(assert (or
        (and (<= X_0 0) (>= Y_1 1.5))
        (and (>= X_0 0.5) (<= Y_0 0.6))))""",
    ),
    "mixed_unsat": (
        "unsat",
        BOX
        + """(assert (or
        (and (<= X_0 0) (>= Y_1 1.5))
        (and (>= X_0 0.5) (<= Y_0 0.4))))""",
    ),
    "no_input": ("unsat", BOX + "(assert (>= X_0 2))\n(assert (>= Y_0 0))"),
    "any_output": (
        "sat",
        BOX + "(assert (or (and (>= X_0 0.5)) (and (>= Y_0 9))))",
    ),
}


Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def workers(environment) -> Iterator[Callable[..., Worker]]:
    """Gives every benchmark of equal options the same worker: starting takes long."""
    made: dict[tuple[str, ...], Kept] = {}

    def given(command: Sequence[str]) -> Worker:
        words = tuple(command)
        return made.setdefault(words, Kept(["env", *assigned, *words]))

    assigned = [f"{k}={environment[k]}" for k in environment if k.startswith("JAX_")]
    yield given
    for worker in made.values():
        Worker.end(worker)


def strips(count: int, *least: float) -> str:
    """Returns a property of strips of the box, each with its own least Y_0."""
    ends = np.linspace(-1, 1, count + 1)
    parts = [
        f"(and (>= X_0 {a}) (<= X_0 {b}) (>= X_1 0) (<= X_1 1) (>= Y_0 {at}))"
        for a, b, at in zip(ends, ends[1:], least, strict=False)
    ]
    return DECLARED + f"(assert (or {' '.join(parts)}))"


class Kept(Worker):
    """A worker that outlives the benchmark it was started for."""

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def run(capsys, monkeypatch, workers) -> Run:
    """Runs the command in this process, its time counted from now."""
    monkeypatch.setattr(answering, "Worker", workers)
    monkeypatch.setattr(command, "_process_start", time.monotonic)
    return lambda *words, **flags: ran(command, capsys, *words, **flags)


@pytest.fixture
def start(environment) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts the script as a process of its own; what still runs is ended."""
    started: list[subprocess.Popen] = []

    def begin(*arguments: object) -> subprocess.Popen:
        words = [sys.executable, str(SCRIPT), *map(str, arguments)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            words, env=environment, stdout=pipe, stderr=pipe, text=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with the network net.onnx, and a file for each property."""
    folder = tmp_path_factory.mktemp("files")
    write_network(folder / "net.onnx", DIAMOND, (1, 2))
    for name, (_, text) in PROPERTIES.items():
        (folder / f"{name}.vnnlib").write_text(DECLARED + text)
    return folder


def write_network(
    path: Path, weights: tuple[np.ndarray, ...], shape: tuple[int, ...], *last: str
) -> None:
    """Writes Flatten, Gemm, Relu, Gemm and what else is named."""
    names = ("w1", "b1", "w2", "b2")
    helper = onnx.helper
    kinds = [("Flatten", "x"), ("Gemm", "v0", "w1", "b1"), ("Relu", "v1")]
    kinds += [("Gemm", "v2", "w2", "b2")]
    kinds += [(kind, f"v{3 + i}") for i, kind in enumerate(last)]
    nodes = [
        helper.make_node(kind, list(read), [f"v{i}"])
        for i, (kind, *read) in enumerate(kinds)
    ]
    numbers = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", numbers, shape)],
        [helper.make_tensor_value_info(f"v{len(nodes) - 1}", numbers, None)],
        [
            onnx.numpy_helper.from_array(w.astype(np.float32), name)
            for name, w in zip(names, weights, strict=True)
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    path.write_bytes(model.SerializeToString())


def outputs(weights: tuple[np.ndarray, ...], x: np.ndarray) -> np.ndarray:
    w1, b1, w2, b2 = weights
    return np.maximum(x @ w1 + b1, 0) @ w2 + b2


def point(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y of a counterexample, read without jaxcert."""
    assert re.fullmatch(r"\((\([XY]_\d+ \S+\)\s*)+\)\n?", text), text
    found = re.findall(r"\(([XY])_(\d+) (\S+?)\)", text)
    values = {
        letter: [(int(i), float(v)) for kind, i, v in found if kind == letter]
        for letter in "XY"
    }
    for pairs in values.values():
        assert [i for i, _ in pairs] == list(range(len(pairs)))
    return tuple(np.array([v for _, v in values[k]]) for k in "XY")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_list(path: Path, names, header="onnx,vnnlib,timeout_s,expected") -> Path:
    lines = [header] if header else []
    for name in names:
        # Without expected column the fourth one means nothing.
        lines.append(f"net.onnx,{name}.vnnlib,60,{PROPERTIES[name][0]}")
    path.write_text("\n".join(lines) + "\n")
    return path


# One instance


@pytest.mark.parametrize("name", PROPERTIES)
def test_answers(run, files, name):
    done = run(onnx=files / "net.onnx", vnnlib=files / f"{name}.vnnlib")
    assert done.code == 0, done.err
    first, _, rest = done.out.partition("\n")
    assert first == PROPERTIES[name][0]
    if first != "sat":
        assert not rest
        return
    x, y = point(rest)
    assert len(x) == len(y) == 2 and (np.abs(x) <= 1).all()
    np.testing.assert_allclose(y, outputs(DIAMOND, x), atol=1e-14)
    by_hand = {
        "sat": y[0] >= 1.9,
        "rows_sat": y[0] <= 0.5 and y[1] >= 0.4,
        "boxes_sat": x[0] >= 0.5 and x[1] <= -0.75 and y[1] >= 1.9,
        "mixed_sat": x[0] >= 0.5 and y[0] <= 0.6,
        "any_output": x[0] >= 0.5,
    }
    assert by_hand[name]


@pytest.mark.parametrize("name", ["sat", "unsat", "boxes_unsat", "mixed_sat"])
def test_answers_by_bounds_attack_and_branching(run, files, name, monkeypatch):
    """As for networks that are no minima and maxima; the diamond is read as such."""
    read = []
    for module in (answering, complete):
        monkeypatch.setattr(module, "lattice_of", lambda *_: read.append(_))
    test_answers(run, files, name)
    assert read


@pytest.mark.parametrize("last", ["Softmax", "LogSoftmax"])
def test_outputs_compared_under_a_softmax(run, tmp_path, last):
    """A Softmax keeps the order of the outputs, and nothing else that is asked."""
    write_network(tmp_path / "net.onnx", DIAMOND, (1, 2), last)
    texts = {
        "sat": BOX + "(assert (>= (* 2 Y_0) (* 2 Y_1)))",
        "unsat": BOX.replace("X_1 -1", "X_1 0.25") + "(assert (and (>= Y_1 Y_0)))",
    }
    texts["unsat"] = texts["unsat"].replace("X_0 -1", "X_0 0.25")
    for answer, text in texts.items():
        (tmp_path / "p.vnnlib").write_text(DECLARED + text)
        done = run(onnx=tmp_path / "net.onnx", vnnlib=tmp_path / "p.vnnlib")
        assert done.out.startswith(answer + "\n"), done.out + done.err
        if answer == "sat":
            x, y = point(done.out.partition("\n")[2])
            exact = outputs(DIAMOND, x)
            exact = exact - np.log(np.sum(np.exp(exact)))
            exact = np.exp(exact) if last == "Softmax" else exact
            np.testing.assert_allclose(y, exact, atol=1e-14)
            assert y[0] >= y[1]
    for text in ("(>= Y_0 0.5)", "(>= (+ Y_0 Y_1) 1)", "(>= Y_0 (* 2 Y_1))"):
        (tmp_path / "p.vnnlib").write_text(DECLARED + BOX + f"(assert {text})")
        done = run(onnx=tmp_path / "net.onnx", vnnlib=tmp_path / "p.vnnlib")
        one_line_error(done, f"ends in a {last}, of which")


def test_gzipped_files_are_found(run, files, tmp_path):
    for name in ("net.onnx", "sat.vnnlib"):
        packed = gzip.compress((files / name).read_bytes())
        (tmp_path / f"{name}.gz").write_bytes(packed)
    for ending in ("", ".gz"):
        done = run(
            onnx=tmp_path / f"net.onnx{ending}",
            vnnlib=tmp_path / f"sat.vnnlib{ending}",
            timeout=60,
        )
        assert (done.code, done.out.splitlines()[0]) == (0, "sat"), done.err


def test_inputs_are_in_row_major_order(run, tmp_path):
    # y = sum of 10^i x_i over the flattened input of shape (2, 3).
    scale = np.stack([10.0 ** np.arange(6), -(10.0 ** np.arange(6))], axis=1)
    weights = scale, np.zeros(2), np.array([[1.0, 1], [-1, 1]]), np.zeros(2)
    write_network(tmp_path / "net.onnx", weights, (1, 2, 3))
    text = "".join(f"(declare-const X_{i} Real)\n" for i in range(6))
    text += "(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
    for i in range(6):
        text += f"(assert (>= X_{i} {i}))\n(assert (<= X_{i} {i + 0.5}))\n"
    (tmp_path / "p.vnnlib").write_text(text + "(assert (>= Y_0 593827))\n")
    done = run(onnx=tmp_path / "net.onnx", vnnlib=tmp_path / "p.vnnlib")
    assert done.out.startswith("sat\n"), done.err
    x, y = point(done.out.partition("\n")[2])
    assert (x >= np.arange(6)).all() and (x <= np.arange(6) + 0.5).all()
    np.testing.assert_allclose(y[0], x @ scale[:, 0], rtol=1e-14)
    assert y[0] >= 593827


def test_only_a_confirmed_counterexample_is_sat(run, files, monkeypatch):
    monkeypatch.setattr(Property, "violates", lambda self, x, y: False)
    done = run(onnx=files / "net.onnx", vnnlib=files / "sat.vnnlib")
    assert (done.code, done.out) == (0, "unknown\n")
    assert "did not stand the check" in done.err


@pytest.mark.parametrize("name", ["sat", "unsat"])
def test_timeout(run, files, name):
    done = run(onnx=files / "net.onnx", vnnlib=files / f"{name}.vnnlib", timeout=0.001)
    assert (done.code, done.out) == (0, "timeout\n")


def test_what_is_found_late_is_a_timeout(run, files, monkeypatch):
    def slowly(network, prop, deadline, effort):
        time.sleep(max(0.0, deadline - time.monotonic()))
        return answering.Answer("sat", "((X_0 0))")

    monkeypatch.setattr(answering, "verify_property", slowly)
    done = run(onnx=files / "net.onnx", vnnlib=files / "sat.vnnlib", timeout=0.05)
    assert (done.code, done.out) == (0, "timeout\n")
    assert re.search(r"sat was found \d+\.\d\d s after the deadline", done.err)


# Benchmarks


def test_benchmark(run, files, tmp_path):
    names = list(PROPERTIES)
    instances = write_list(files / "header.csv", names)
    output = tmp_path / "deep" / "results.csv"
    done = run(instances=instances, output=output)
    assert done.code == 0, done.err
    assert output.read_text().splitlines()[0] == HEADER
    found = rows(output)
    assert [row["vnnlib"] for row in found] == [f"{n}.vnnlib" for n in names]
    assert [row["result"] for row in found] == [PROPERTIES[n][0] for n in names]
    assert all(0 < float(row["seconds"]) < 60 for row in found)
    folder = tmp_path / "deep" / "results_counterexamples"
    numbers = [i for i, n in enumerate(names, 1) if PROPERTIES[n][0] == "sat"]
    assert sorted(p.name for p in folder.iterdir()) == [f"{i:03d}.txt" for i in numbers]
    for number in numbers:
        x, y = point((folder / f"{number:03d}.txt").read_text())
        np.testing.assert_allclose(y, outputs(DIAMOND, x), atol=1e-14)
        file = files / f"{names[number - 1]}.vnnlib"
        assert load_vnnlib(file).violates(x, outputs(DIAMOND, x), 1e-12)
    head, line, last = done.out.splitlines()
    assert last.startswith("report: ")
    table = dict(zip(head.split(), line.split(), strict=True))
    assert table.pop("seconds")
    assert table == {
        "network": "net",
        "n": "10",
        "sat": "5",
        "unsat": "5",
        "unknown": "0",
        "timeout": "0",
        "error": "0",
        "agree": "10",
        "open": "0",
        "WRONG": "0",
    }
    assert done.err.count(", expected ") == 10


def test_every_answer_is_proved(run, files, tmp_path):
    instances = write_list(files / "proofs.csv", list(PROPERTIES))
    output = tmp_path / "results.csv"
    wanted = {"instances": instances, "output": output, "proofs": True}
    done = run(**wanted)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == (
        "10 answers: 10 with a checked proof in results_proofs"
    )
    assert (
        len(re.findall(r" proved in .* s by \d+ leaves, .* kB, checked", done.err))
        == 10
    )
    checker = Path(answering.__file__).parents[2] / "checker"
    check = [sys.executable, str(checker), str(output), "--benchmark", str(files)]
    judged = subprocess.run(check, capture_output=True, text=True, check=False)
    # No input satisfies one property, whatever the network does.
    assert judged.returncode == 3, judged.stdout + judged.stderr
    assert (
        judged.stdout.count("\naccepted ") + judged.stdout.startswith("accepted") == 9
    )
    assert "VACUOUS 009: the property allows no input" in judged.stdout

    # What is missing is written when the run is continued.
    proof = tmp_path / "results_proofs/001.npz"
    before = proof.stat().st_size
    proof.unlink()
    done = run(**wanted, resume=True)
    assert done.code == 0 and proof.stat().st_size == before
    assert done.err.count(" proved in ") == 1


@pytest.mark.parametrize(
    "header",
    ["", "category,timeout_s,vnnlib,onnx"],
    ids=["no header", "another order"],
)
def test_columns(run, files, tmp_path, header):
    line = "net.onnx,sat.vnnlib,60" if not header else "x,60,sat.vnnlib,net.onnx"
    absolute = line.replace("sat.vnnlib", str(files / "unsat.vnnlib"))
    instances = files / "columns.csv"
    instances.write_text("\n".join([header, line, "", absolute]) + "\n")
    output = tmp_path / "results.csv"
    done = run(instances=instances, output=output)
    assert done.code == 0, done.err
    assert [row["result"] for row in rows(output)] == ["sat", "unsat"]
    assert "agree" not in done.out and "WRONG" not in done.out


def test_cuts_are_asked_of_branch_and_bound(run, files, monkeypatch):
    given, real = [], answering.decide

    def decide(*arguments, **more):
        branch = arguments[3].branch
        if branch is None:  # the attack, which comes first
            return real(*arguments, **more)
        given.append(branch)
        raise InputError("that is all")

    monkeypatch.setattr(answering, "decide", decide)
    for cuts in (False, True):
        names = dict(onnx=files / "net.onnx", vnnlib=files / "unsat.vnnlib")
        assert run(**names, cuts=cuts).code == 1
    assert [options.cuts for options in given] == [None, CutOptions()]


def test_signs_are_not_split_where_bounds_suffice(run, tmp_path, monkeypatch):
    """What splits them takes several times as long to compile as the bounds do."""
    wide = (np.ones((12, 2)), np.zeros(2), np.eye(2), np.array([1.0, 0.0]))
    write_network(tmp_path / "net.onnx", wide, (1, 12))
    inputs = [f"(declare-const X_{i} Real)" for i in range(12)]
    bounds = [f"(assert (>= X_{i} -1.0)) (assert (<= X_{i} 1.0))" for i in range(12)]
    declared = "\n".join([*inputs, *bounds, "(declare-const Y_0 Real)"])
    monkeypatch.setattr(decide, "branch_and_bound", None)
    for row, code in (("(assert (<= Y_0 0.5))", 0), ("(assert (<= Y_0 Y_1))", 1)):
        property_file = tmp_path / "property.vnnlib"
        property_file.write_text(f"{declared}\n(declare-const Y_1 Real)\n{row}\n")
        if code:  # bounds are not enough, and there is nothing else
            with pytest.raises(TypeError):
                run(onnx=tmp_path / "net.onnx", vnnlib=property_file)
        else:
            done = run(onnx=tmp_path / "net.onnx", vnnlib=property_file)
            assert (done.code, done.out) == (0, "unsat\n"), done.err


def test_timeouts_of_the_list_and_of_the_flag(run, files, tmp_path):
    instances = files / "timeouts.csv"
    instances.write_text("net.onnx,sat.vnnlib,0.0001\nnet.onnx,unsat.vnnlib,600\n")
    done = run(instances=instances, output=tmp_path / "a.csv")
    assert [row["result"] for row in rows(tmp_path / "a.csv")] == ["timeout", "unsat"]
    instances.write_text("net.onnx,sat.vnnlib\n")
    done = run(instances=instances, output=tmp_path / "b.csv")
    assert done.code == 1 and "line 1: timeout_s is ''" in done.err
    assert not (tmp_path / "b.csv").exists()
    done = run(instances=instances, output=tmp_path / "b.csv", timeout=60)
    assert done.code == 0
    assert [row["result"] for row in rows(tmp_path / "b.csv")] == ["sat"]


def test_timeouts_are_asked_again_with_more_time(run, files, tmp_path):
    instances = write_list(files / "again.csv", ["unsat", "sat", "rows_unsat"])
    output = tmp_path / "r.csv"
    wanted = {"instances": instances, "output": output, "resume": True, "proofs": True}
    assert run(**wanted, only="rows_").code == 0
    assert run(**wanted, timeout=1e-4).code == 0
    first = rows(output)
    assert [row["result"] for row in first] == ["unsat", "timeout", "timeout"]
    before = output.read_bytes()
    # No more time than before: a timeout is an answer.
    done = run(**wanted, timeout=1e-4)
    assert output.read_bytes() == before and "3 instances are done already" in done.err
    done = run(**wanted)
    assert done.code == 0 and "2 ran out of time; they get more" in done.err
    found = rows(output)
    assert [row["vnnlib"] for row in found] == [row["vnnlib"] for row in first]
    assert found[0] == first[0]
    assert [row["result"] for row in found[1:]] == ["unsat", "sat"]
    # Counterexamples and proofs go by the rows, which stay where they were.
    folder = tmp_path / "r_counterexamples"
    assert [path.name for path in folder.iterdir()] == ["003.txt"]
    assert done.out.splitlines()[-1] == (
        "3 answers: 3 with a checked proof in r_proofs"
    )
    before = output.read_bytes()
    assert run(**wanted, timeout=900).code == 0 and output.read_bytes() == before


def test_what_an_instance_says_after_its_time():
    ended = Row("timeout", 5.0)
    assert ended.may_end_in(5.1) and not ended.may_end_in(5.0)
    assert not Row("unknown", 1.0).may_end_in(9.0)  # it ended for another reason
    assert not Row("error: killed for memory", 1.0).may_end_in(9.0)
    said = {
        text: Row(text, 6.0).says_more_than(ended)
        for text in ("sat", "unsat", "unknown", "timeout", "error")
    }
    assert [text for text, more in said.items() if not more] == ["error"]
    assert not Row("timeout", 4.0).says_more_than(ended)


def test_contradictions_and_unsolved(run, files, tmp_path):
    instances = files / "wrong.csv"
    instances.write_text(
        "onnx,vnnlib,timeout_s,expected\n"
        "net.onnx,sat.vnnlib,60,unsat\n"
        "net.onnx,unsat.vnnlib,0.0001,unsat\n"
        "net.onnx,rows_sat.vnnlib,60,unknown\n"
    )
    done = run(instances=instances, output=tmp_path / "r.csv")
    assert done.code == 3
    head, line, last, page = done.out.splitlines()
    assert page.startswith("report: ")
    table = dict(zip(head.split(), line.split(), strict=True))
    assert (table["agree"], table["open"], table["WRONG"]) == ("0", "1", "1")
    assert last == "CONTRADICTION: net.onnx sat.vnnlib: sat, expected unsat"


def test_a_broken_file_is_one_error(run, files, tmp_path):
    (files / "broken.vnnlib").write_text(DECLARED + BOX + "(assert (>= Y_0 1")
    (files / "broken.onnx").write_bytes(b"not a network")
    instances = files / "broken.csv"
    instances.write_text(
        "net.onnx,broken.vnnlib,60\nbroken.onnx,sat.vnnlib,60\n"
        "none.onnx,sat.vnnlib,60\nnet.onnx,sat.vnnlib,60\n"
    )
    done = run(instances=instances, output=tmp_path / "r.csv")
    assert done.code == 0
    results = [row["result"] for row in rows(tmp_path / "r.csv")]
    assert results == ["error", "error", "error", "sat"]
    for part in (
        r"error: net.onnx broken.vnnlib: .*never closed",
        r"error: broken.onnx sat.vnnlib: ",
        r"error: none.onnx sat.vnnlib: there is no file",
    ):
        assert re.search(part, done.err), part


# What the worker of `hurt` does to itself, by a part of the property's name.
HURTING = """
import os, signal, sys
sys.path[:0] = [{folder!r}]
from jaxcert.commands.verify import worker
import numpy as np

find = worker.verify_files

def hurt(onnx, vnnlib, deadline, *rest):
    if "mistake" in vnnlib.name:
        raise TypeError("a mistake of ours")
    if "kill" in vnnlib.name:
        os.kill(os.getpid(), signal.SIGKILL)
    if "crash" in vnnlib.name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "abort" in vnnlib.name:
        os.write(2, b"terminate called after throwing an instance of std::bad_alloc")
        os.abort()
    if "hold" in vnnlib.name:
        # A call into C that keeps Python's lock: no thread can answer meanwhile.
        import ctypes
        ctypes.PyDLL(None).sleep(1000)
    if "eat" in vnnlib.name:
        from jaxcert.commands.verify import answer as answering
        answering._verify_files = lambda *_: np.ones(10**15)
    return find(onnx, vnnlib, deadline, *rest)

worker.verify_files = hurt
worker.main(sys.argv[1])
"""


def test_an_instance_that_kills_the_process_costs_one_row(
    run, files, tmp_path, monkeypatch
):
    names = ("mistake", "kill", "crash", "abort", "eat", "hold")
    script = tmp_path / "hurting.py"
    script.write_text(HURTING.format(folder=str(SCRIPT.parent)))
    monkeypatch.setattr(answering, "WORKER", (sys.executable, str(script)))
    lines = []
    for name in names:
        (files / f"{name}.vnnlib").write_text(DECLARED + PROPERTIES["sat"][1])
        lines.append(f"net.onnx,{name}.vnnlib,{2 if name == 'hold' else 60}")
    instances = files / "hurting.csv"
    instances.write_text("\n".join([*lines, "net.onnx,sat.vnnlib,60"]) + "\n")
    output = tmp_path / "r.csv"
    done = run(instances=instances, output=output)
    assert done.code == 0, done.err
    found = {
        row["vnnlib"].removesuffix(".vnnlib"): row["result"] for row in rows(output)
    }
    assert found == {
        "mistake": "error",
        "kill": "error: killed for memory",
        "crash": "error: killed by SIGSEGV",
        "abort": "error: killed for memory",
        "eat": "error: out of memory",
        "hold": "timeout",
        "sat": "sat",
    }
    assert "net.onnx mistake.vnnlib: TypeError: a mistake of ours" in done.err
    assert "net.onnx crash.vnnlib: the process that worked on it was killed" in done.err
    table = dict(zip(*map(str.split, done.out.splitlines()[:2]), strict=True))
    assert (table["error"], table["timeout"], table["sat"]) == ("5", "1", "1")
    # Rows with a reason are answers too: nothing is done again.
    before = output.read_bytes()
    again = run(instances=instances, output=output, resume=True)
    assert again.code == 0 and output.read_bytes() == before, again.err


def test_only(run, files, tmp_path):
    instances = write_list(files / "only.csv", ["sat", "rows_sat", "unsat"])
    output = tmp_path / "r.csv"
    run(instances=instances, output=output, only="rows_")
    assert [row["vnnlib"] for row in rows(output)] == ["rows_sat.vnnlib"]
    # The rest, with what is done in the summary.
    done = run(instances=instances, output=output, resume=True)
    assert [row["vnnlib"] for row in rows(output)][1:] == ["sat.vnnlib", "unsat.vnnlib"]
    assert "1 instances are done already" in done.err
    assert done.out.splitlines()[1].split()[1] == "3"
    # The counterexamples go by the rows of the results.
    assert len(point((tmp_path / "r_counterexamples/002.txt").read_text())) == 2


def test_existing_results_are_refused(run, files, tmp_path):
    instances = write_list(files / "existing.csv", ["sat"])
    (tmp_path / "r.csv").write_text("kept")
    done = run(instances=instances, output=tmp_path / "r.csv")
    assert done.code == 1 and "--resume" in done.err and not done.out
    done = run(instances=instances, output=tmp_path / "r.csv", resume=True)
    assert done.code == 1 and "no results file" in done.err
    assert (tmp_path / "r.csv").read_text() == "kept"


@pytest.mark.parametrize(
    "torn",
    ["", "onnx,vn", f"{HEADER}\n", f"{HEADER}\nnet.onnx,sat.vnnlib,unsat,1."],
    ids=["empty", "header", "no row", "row"],
)
def test_torn_files_are_repaired(run, files, tmp_path, torn):
    instances = write_list(files / "torn.csv", ["sat", "unsat"])
    (tmp_path / "r.csv").write_text(torn)
    done = run(instances=instances, output=tmp_path / "r.csv", resume=True)
    assert done.code == 0, done.err
    assert [row["result"] for row in rows(tmp_path / "r.csv")] == ["sat", "unsat"]
    assert ("incomplete" in done.err) == (not torn.endswith("\n") and bool(torn))


@pytest.mark.parametrize(
    "row",
    ["net.onnx,sat.vnnlib,perhaps,1", "net.onnx,sat.vnnlib,sat", "a,b,sat,x"],
)
def test_damaged_files_are_kept(run, files, tmp_path, row):
    instances = write_list(files / "damaged.csv", ["sat"])
    text = f"{HEADER}\n{row}\nnet.onnx,unsat.vnnlib,unsat,1.0\n"
    (tmp_path / "r.csv").write_text(text)
    done = run(instances=instances, output=tmp_path / "r.csv", resume=True)
    assert done.code == 1 and "repair it" in done.err
    assert (tmp_path / "r.csv").read_text() == text


def test_interrupted(run, files, tmp_path, monkeypatch):
    instances = write_list(files / "stop.csv", ["sat", "unsat", "rows_sat"])
    ask, calls = Worker.ask, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return ask(*arguments)

    monkeypatch.setattr(Worker, "ask", interrupted)
    output = tmp_path / "r.csv"
    done = run(instances=instances, output=output)
    assert done.code == 130 and "continue with --resume" in done.out
    first = rows(output)
    assert [row["result"] for row in first] == ["sat"]
    done = run(instances=instances, output=output, resume=True)
    assert done.code == 0 and len(calls) == 4
    assert rows(output)[:1] == first
    assert [row["result"] for row in rows(output)] == ["sat", "unsat", "sat"]


def test_killed(run, files, tmp_path, start):
    count = 400
    for i in range(count):
        text = DECLARED + BOX + f"(assert (>= Y_0 {1.9 if i % 2 else 2.1}))\n"
        (tmp_path / f"{i}.vnnlib").write_text(text)
    instances = tmp_path / "list.csv"
    net = files / "net.onnx"
    instances.write_text("".join(f"{net},{i}.vnnlib,60\n" for i in range(count)))
    output = tmp_path / "r.csv"
    process = start(f"--instances={instances}", f"--output={output}")
    give_up = time.monotonic() + 50
    while time.monotonic() < give_up and process.poll() is None:
        if output.exists() and output.read_bytes().count(b"\n") > 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    text = output.read_text()
    before = text[: text.rfind("\n") + 1]
    answered = len(before.splitlines()) - 1
    assert 0 < answered < count
    # The rest of the list is cut short: all of it proves nothing more.
    instances.write_text(
        "".join(f"{net},{i}.vnnlib,60\n" for i in range(min(answered + 4, count)))
    )
    done = run(instances=instances, output=output, resume=True)
    assert done.code == 0, done.err
    assert output.read_text().startswith(before)
    for i, row in enumerate(rows(output)):
        assert (row["vnnlib"], row["result"]) == (
            f"{i}.vnnlib",
            "sat" if i % 2 else "unsat",
        )


# Mistakes of the user


def test_mistakes_are_one_line(run, files, tmp_path):
    net, prop = {"onnx": files / "net.onnx"}, {"vnnlib": files / "sat.vnnlib"}
    three = "(declare-const X_2 Real)\n(assert (and (>= X_2 0) (<= X_2 1)))\n"
    (tmp_path / "three.vnnlib").write_text(DECLARED + three + PROPERTIES["sat"][1])
    write_network(tmp_path / "softmax.onnx", DIAMOND, (1, 2), "Softmax")
    both = net | prop
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "either --onnx and --vnnlib, or --instances"),
        (net, "belong together"),
        (both | {"instances": "list.csv"}, "either"),
        (both | {"output": "r.csv"}, "belong to --instances"),
        (both | {"timeout": 0.0}, "timeout is 0.0; it must be > 0"),
        (both | {"timeout": math.nan}, "timeout is nan"),
        (both | {"restarts": 0}, "restarts is 0"),
        (net | {"vnnlib": tmp_path / "no.vnnlib"}, "there is no file"),
        (prop | {"onnx": tmp_path / "no.onnx"}, "there is no file"),
        (net | {"vnnlib": tmp_path}, "is not a file"),
        (net | {"vnnlib": tmp_path / "three.vnnlib"}, "declares 3 inputs and"),
        (prop | {"onnx": tmp_path / "softmax.onnx"}, "ends in a Softmax"),
        ({"instances": "list.csv"}, "--instances needs --output"),
        (both | {"proofs": True}, "belong to --instances"),
        (both | {"proof_timeout": 3.0}, "--proof_timeout belongs to --proofs"),
    ]
    for request, message in cases:
        one_line_error(run(**request), message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file"),
        (b"", "lists no instance"),
        (b"onnx,vnnlib,timeout_s\n", "lists no instance"),
        (b"net.onnx,,60\n", "line 1: no vnnlib file"),
        (b"onnx,vnnlib\n\nnet.onnx,p.vnnlib\n", "line 3: timeout_s is ''"),
        (b"net.onnx,p.vnnlib,0\n", "line 1: timeout_s is '0'"),
        (b"\xff\xfe\x00", "as text"),
    ],
)
def test_lists_that_are_wrong(run, tmp_path, text, message):
    if text is not None:
        (tmp_path / "list.csv").write_bytes(text)
    output = tmp_path / "r.csv"
    one_line_error(run(instances=tmp_path / "list.csv", output=output), message)
    assert not output.exists()


def one_line_error(done: Ended, message: str) -> None:
    assert (done.code, done.out) == (1, ""), done
    (line,) = done.err.splitlines()
    assert line.startswith("error: ") and message in line, line


def test_process(files, start, run):
    """What it answers with time enough is tested where one is killed."""
    net, prop = f"--onnx={files}/net.onnx", f"--vnnlib={files}/sat.vnnlib"
    assert run(net, prop, "--timeout=soon").code == 2
    for arguments, code, out, message in (
        ((net, prop, "--timeout=0.3"), 0, "timeout\n", ""),
        ((net,), 1, "", "belong together"),
    ):
        process = start(*arguments)
        found, errors = process.communicate(timeout=600)
        assert process.returncode == code, errors
        assert found.startswith(out) and bool(found) == bool(out)
        assert errors.count("\n") == bool(message) and message in errors


def test_no_instance_left_by_only(run, files, tmp_path):
    instances = write_list(files / "none.csv", ["sat"])
    done = run(instances=instances, output=tmp_path / "r.csv", only="other")
    assert done.code == 1 and "change --only" in done.err


# Real instances


@pytest.mark.campaign
@pytest.mark.skipif(
    not BENCHMARK.is_dir(), reason="the VNN-COMP benchmarks are not on this machine"
)
def test_mnist_fc(run, tmp_path):
    instances = tmp_path / "list.csv"
    net = BENCHMARK / "onnx/mnist-net_256x2.onnx"
    properties = [BENCHMARK / f"vnnlib/prop_{i}_0.03.vnnlib" for i in (0, 1)]
    instances.write_text("".join(f"{net},{p},120\n" for p in properties))
    output = tmp_path / "r.csv"
    done = run(instances=instances, output=output)
    assert done.code == 0, done.err
    assert [row["result"] for row in rows(output)] == ["unsat", "sat"]
    x, y = point((tmp_path / "r_counterexamples/002.txt").read_text())
    prop = load_vnnlib(properties[1].with_name(properties[1].name + ".gz"))
    assert prop.violates(x, y)
    runtime = pytest.importorskip("onnxruntime")
    model = gzip.decompress(net.with_name(net.name + ".gz").read_bytes())
    session = runtime.InferenceSession(model)
    (given,) = session.get_inputs()
    shape = [d if isinstance(d, int) else 1 for d in given.shape]
    (found,) = session.run(None, {given.name: x.astype(np.float32).reshape(shape)})
    np.testing.assert_allclose(found.reshape(-1), y, atol=1e-3)


def test_many_boxes_are_bounded_in_blocks(run, files, tmp_path, monkeypatch):
    """What they prove is not asked about again; a counterexample of one is found."""
    left: list[Any] = []

    def decided(model, box, *others, **known):
        left.append(box)
        return decide.decide(model, box, *others, **known)

    monkeypatch.setattr(answering, "decide", decided)
    effort = decide.Effort(attack=AttackOptions(), branch=BranchOptions())
    net = load_subject(files / "net.onnx")
    for last, expected, most in ((2.5, "unsat", 0), (1.9, "sat", 2)):
        path = tmp_path / f"{expected}.vnnlib"
        path.write_text(strips(70, *([2.5] * 69), last))
        left.clear()
        prop = load_vnnlib(path)
        found = answering.verify_property(net, prop, math.inf, effort)
        assert found.result == expected and len(left) <= most
        assert bool(left) == (expected == "sat")
