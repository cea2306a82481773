"""The command `audit`: verdicts on boxes of others, files, continuation, mistakes."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import Ended, ran
from studies.milp_reference.network import read_mlp
from tiny import diamond_network

from jaxcert.commands.audit import command, decide
from jaxcert.commands.audit import run as audit
from jaxcert.commands.audit.boxes import published_claims
from jaxcert.commands.audit.files import KEYS, TIMEOUT
from jaxcert.commands.audit.table import table
from jaxcert.errors import InputError
from jaxcert.learning.models import export_onnx, save_checkpoint
from jaxcert.oracle.decide import Decision

pytest.importorskip("onnx")

PEER = Path(__file__).parents[2].parent / "shared/peers/parallelepipedonn"

# Boxes of two features and what they are, for the network of `diamond`.
BOXES: dict[str, tuple[list[float], list[float], str]] = {
    "inside": ([-0.4, -0.4], [0.4, 0.4], "sound"),
    "corners": ([-0.6, -0.6], [0.6, 0.6], "broken"),
    "point": ([0.3, -2.0], [0.3, -2.0], "trivial"),
    "outside": ([1.1, -1.0], [2.0, 1.0], "sound"),
    "tip": ([0.9, -1.0], [2.0, 1.0], "broken"),
    "pinned": ([0.0, 0.5], [0.4, 0.5], "sound"),
}


Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def diamond(tmp_path_factory) -> Path:
    """A folder with net.onnx and net.npz: logits (|x_0| + |x_1|, 1)."""
    network = diamond_network()
    folder = tmp_path_factory.mktemp("diamond")
    save_checkpoint(folder / "net.npz", network)
    export_onnx(folder / "net.onnx", network)
    return folder


@pytest.fixture
def run(diamond, tmp_path, capsys) -> Run:
    """Runs the command in this process, on the diamond, into tmp_path/out."""
    own = {"model": diamond / "net.onnx", "output": tmp_path / "out"}
    return lambda *words, **flags: ran(command, capsys, *words, **(own | flags))


def margin(x: np.ndarray, label: int) -> float:
    """Returns the margin of a point of the diamond network, by hand."""
    return float((np.abs(x).sum() - 1) * (1 if label == 0 else -1))


def save(path: Path, names: list[str], **more: Any) -> Path:
    lo, hi = (np.array([BOXES[name][end] for name in names]) for end in (0, 1))
    np.savez(path, **({"lo": lo, "hi": hi, "input": np.array(names)} | more))
    return path


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "audit.jsonl").open()]


def verdicts(folder: Path) -> dict[str, str]:
    return {record["input"]: record["verdict"] for record in lines(folder)}


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The names of the boxes that were decided, in order."""
    made: list[str] = []
    decided = decide.Auditor.decide

    def noted(self, claim, label, deadline):
        made.append(claim.name)
        return decided(self, claim, label, deadline)

    monkeypatch.setattr(decide.Auditor, "decide", noted)
    return made


def test_verdicts(run, tmp_path):
    boxes = save(tmp_path / "boxes.npz", list(BOXES))
    done = run(boxes=boxes)
    assert done.code == 0, done.err
    out = tmp_path / "out"
    assert verdicts(out) == {name: box[2] for name, box in BOXES.items()}
    *printed, last = done.out.splitlines()
    assert last == f"report: {out / 'report.html'}"
    assert all(len(line) <= 80 for line in printed)
    for line, (name, box) in zip(printed[2:], BOXES.items(), strict=False):
        assert line.startswith(name) and box[2] in line
    assert printed[-3:] == [
        "2 of 5 boxes contain an adversarial example, 3 proved sound, 0 unknown",
        "1 box is a single point (trivial), not counted",
        "0 of the 2 points found have a margin <= -1",
    ]
    for record in lines(out):
        assert set(record) == {*KEYS, TIMEOUT}
        assert (record["witness_class"] is None) == (record["verdict"] == "sound")
        assert record["predicted"] is None and record["label_from"] == "center"
        assert record["holds_input"] is None
    with np.load(out / "witnesses.npz") as found:
        assert found["input"].tolist() == ["corners", "tip"]
        for row, name in enumerate(found["input"].tolist()):
            lo, hi, _ = BOXES[name]
            witness, label = found["witness"][row], int(found["label"][row])
            assert (found["lo"][row] == lo).all() and (found["hi"][row] == hi).all()
            assert np.all((lo <= witness) & (witness <= hi))
            assert found["witness_class"][row] == 1 - label
            assert found["witness_margin"][row] == pytest.approx(margin(witness, label))
            assert margin(witness, label) < 0


def test_required_margin(run, tmp_path):
    boxes = save(tmp_path / "boxes.npz", ["inside", "corners"])
    done = run(boxes=boxes, required_margin=0.5)
    assert list(verdicts(tmp_path / "out").values()) == ["broken", "broken"]
    assert "2 of 2 boxes contain a point of margin <= 0.5, 0 proved" in done.out
    done = run(boxes=boxes, required_margin=-0.5, output=tmp_path / "less")
    assert list(verdicts(tmp_path / "less").values()) == ["sound", "sound"]
    assert "0 of 2 boxes contain a point of margin <= -0.5, 2 proved" in done.out


def test_the_class_to_keep_is_given_or_predicted_at_x_or_at_the_centre(run, tmp_path):
    # "corners" is all of class 1 but for its corners, near one of which x is.
    names = ["corners", "corners", "corners", "inside"]
    x = np.array([[0.59, 0.59], [np.nan, np.nan], [0, 0], [0, 0.5]])
    boxes = save(
        tmp_path / "boxes.npz", names,
        input=np.array(["x", "center", "label", "far"]), x=x,
        label=np.array([-1, -1, 0, 1]),
    )  # fmt: skip
    done = run(boxes=boxes)
    found = {record["input"]: record for record in lines(tmp_path / "out")}
    told = {
        name: (r["label"], r["label_from"], r["predicted"], r["holds_input"])
        for name, r in found.items()
    }
    assert told == {
        "x": (0, "x", 0, True),
        "center": (1, "center", None, None),
        "label": (0, "label", 1, True),
        "far": (1, "label", 1, False),
    }
    assert [r["verdict"] for r in found.values()] == [*["broken"] * 3, "sound"]
    assert "1 boxes do not hold the input x they are given with, such as far" in (
        done.err
    )


def test_progress_is_told(run, tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "_SECONDS_PER_LINE", 0.0)
    done = run(boxes=save(tmp_path / "boxes.npz", ["corners", "point"]))
    assert "1 of 2 boxes: 1 broken\n2 of 2 boxes: 1 broken, 1 trivial\n" in done.err


def test_a_point_other_than_x_is_not_trivial(run, tmp_path):
    boxes = save(tmp_path / "boxes.npz", ["point", "point"], x=[[0.3, -2.0], [0, 0]],
                 input=np.array(["its", "other"]))  # fmt: skip
    assert run(boxes=boxes).code == 0
    assert verdicts(tmp_path / "out") == {"its": "trivial", "other": "broken"}


def test_csv_pairs(run, tmp_path):
    folder = tmp_path / "boxes"
    folder.mkdir()
    for name in ("tip", "inside"):
        for end, values in zip(("lo", "hi"), BOXES[name], strict=False):
            (folder / f"{name}.{end}.csv").write_text(", ".join(map(str, values)))
    (folder / "tip.x.csv").write_text("0.1 0.1\n")
    (folder / "notes.csv").write_text("of somebody\n")
    assert run(boxes=folder).code == 0
    inside, tip = lines(tmp_path / "out")
    assert (inside["input"], inside["verdict"], inside["label"]) == (
        "inside", "sound", 1,
    )  # fmt: skip
    assert (tip["input"], tip["verdict"], tip["label_from"]) == ("tip", "broken", "x")
    assert run(boxes=folder / "tip.lo.csv", output=tmp_path / "one").code == 0
    assert list(verdicts(tmp_path / "one")) == ["tip"]


def test_boxes_are_clipped_to_the_domain(run, tmp_path):
    boxes = save(tmp_path / "boxes.npz", ["corners"])
    assert run(boxes=boxes, domain_upper=0.3).code == 0
    assert verdicts(tmp_path / "out") == {"corners": "broken"}
    assert lines(tmp_path / "out")[0]["max_edge"] == pytest.approx(0.9)
    assert run(
        boxes=boxes, domain_upper=0.3, domain_lower=-0.3, output=tmp_path / "clipped"
    ).code == 0  # fmt: skip
    assert verdicts(tmp_path / "clipped") == {"corners": "sound"}


def test_what_the_time_does_not_suffice_for_is_unknown(run, tmp_path):
    boxes = save(tmp_path / "boxes.npz", ["outside"])
    done = run(boxes=boxes, timeout=1e-9)
    assert done.code == 0 and verdicts(tmp_path / "out") == {"outside": "unknown"}
    assert "0 of 1 boxes contain an adversarial example, 0 proved sound, 1 unknown" in (
        done.out
    )


def test_unknown_boxes_are_asked_again_with_more_time(run, tmp_path, asked):
    names, out = ["inside", "corners", "outside"], tmp_path / "out"
    boxes = save(tmp_path / "boxes.npz", names)
    run(boxes=boxes, timeout=1e-9)
    known = {"inside": "unknown", "corners": "broken", "outside": "unknown"}
    assert asked == names and verdicts(out) == known
    before = (out / "audit.jsonl").read_bytes()
    # No more time than before: unknown is an answer.
    done = run(boxes=boxes, resume=True, timeout=1e-9)
    assert asked == names and "3 boxes are done already" in done.err
    assert (out / "audit.jsonl").read_bytes() == before
    done = run(boxes=boxes, resume=True, timeout=50)
    assert asked[3:] == ["inside", "outside"]
    assert "2 boxes are unknown; they get more time" in done.err
    assert verdicts(out) == {"inside": "sound", "corners": "broken", "outside": "sound"}
    assert (out / "audit.jsonl").read_bytes().splitlines()[1] in before.splitlines()
    with np.load(out / "witnesses.npz") as found:
        assert found["input"].tolist() == ["corners"]
    assert run(boxes=boxes, resume=True, timeout=99).code == 0 and len(asked) == 5


def test_an_audit_of_an_earlier_version_is_continued(run, tmp_path, asked):
    """Its lines do not state what time the box was given: those that are open had 0."""
    boxes, out = save(tmp_path / "boxes.npz", ["inside", "outside"]), tmp_path / "out"
    assert run(boxes=boxes, timeout=1e-9).code == 0
    old = [{k: v for k, v in line.items() if k != TIMEOUT} for line in lines(out)]
    path = out / "audit.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    assert run(boxes=boxes, resume=True).code == 0
    assert asked == ["inside", "outside"] * 2
    assert verdicts(out) == {"inside": "sound", "outside": "sound"}
    path.write_text(path.read_text().replace(TIMEOUT, "limit"))
    done = run(boxes=boxes, resume=True)
    assert done.code == 1 and "not a verdict of this program (other keys)" in done.err


@pytest.mark.parametrize("witness", [[0.1, 0.1], [5.0, 5.0]])
def test_a_witness_that_the_network_denies_is_not_used(
    run, tmp_path, monkeypatch, witness
):
    """Neither one of the right class nor one outside of the box."""
    lying = types.SimpleNamespace(refuted=True, proved=False, witness=witness)
    made: list[str] = []

    def lie(model, box, spec, effort, deadline):
        made.append("branch and bound" if effort.attack is None else "attack")
        return Decision(lying, made[-1], 3)

    monkeypatch.setattr(decide, "decide", lie)
    done = run(boxes=save(tmp_path / "boxes.npz", ["inside"]))
    assert verdicts(tmp_path / "out") == {"inside": "unknown"}
    assert "box inside: a witness did not stand the check in float64" in done.err
    assert made == ["attack", "branch and bound"]
    with np.load(tmp_path / "out/witnesses.npz") as found:
        assert not len(found["input"])


def test_rows_without_a_box_are_left_out(run, tmp_path):
    boxes = save(tmp_path / "boxes.npz", ["inside", "tip"])
    arrays = dict(np.load(boxes))
    arrays["lo"][0] = arrays["hi"][0] = np.nan
    np.savez(boxes, **arrays)
    done = run(boxes=boxes)
    assert verdicts(tmp_path / "out") == {"tip": "broken"}
    assert "1 of 2 rows are NaN (no box); left out" in done.err


@pytest.mark.campaign
def test_a_wide_input(run, tiny, tmp_path):
    """Signs are split there, and arrays may come flat."""
    x = np.random.default_rng(0).uniform(0, 1, (1, 8, 8, 1))
    logits = np.sort(tiny.logits(x)[0])
    assert logits[-1] - logits[-2] > 1e-3
    flat = x.reshape(1, -1)
    radius = np.array([[1e-6], [0.5]])
    np.savez(
        tmp_path / "boxes.npz", lo=flat - radius, hi=flat + radius, x=[flat[0]] * 2
    )
    done = run(model=tiny.onnx, boxes=tmp_path / "boxes.npz")
    assert done.code == 0, done.err
    assert verdicts(tmp_path / "out") == {"0": "sound", "1": "broken"}
    with np.load(tmp_path / "out/witnesses.npz") as found:
        assert found["witness"].shape == x.shape
        logits = tiny.logits(found["witness"])[0]
        assert logits.argmax() == found["witness_class"][0] != found["label"][0]


# name of the file or folder, what to change in the arrays (or the text), the message
GOOD = {"lo": np.zeros((2, 2)), "hi": np.ones((2, 2))}
ARRAYS: list[tuple[dict[str, Any], str]] = [
    ({"lo": np.zeros((2, 3))}, "lo has shape (2, 3), the network takes inputs of sha"),
    ({"hi": np.ones((3, 2))}, "2 rows in lo, but 3 in hi"),
    ({"lo": np.zeros(2)}, "lo has shape (2,), the network takes inputs of shape (2,)"),
    ({"lo": np.array([[0, 0], [0, 1.5]])}, "box 1 is empty: lo > hi for 1 of 2 featur"),
    ({"lo": np.array([[0, np.nan], [0, 0]])}, "box 0: lo holds NaN, infinity or"),
    ({"hi": np.array([[1, 1], [1, np.inf]])}, "box 1: hi holds NaN, infinity or"),
    ({"lo": np.full((2, 2), np.nan), "hi": np.full((2, 2), np.nan)}, "no boxes: all"),
    ({"lo": np.zeros((0, 2)), "hi": np.ones((0, 2))}, "holds no boxes"),
    ({"hi": np.array([["1", "1"]] * 2)}, "hi must be real numbers, not <U1"),
    ({"x": np.array([[0.5, np.nan], [0, 0]])}, "box 0: x holds NaN"),
    ({"label": np.array([0, 2])}, "label 2 of input 1 is out of range: the network"),
    ({"label": np.array([0.0, 1.0])}, "label must be 2 integers, got float64"),
    ({"label": np.array([0])}, "label must be 2 integers, got int64 of shape (1,)"),
    ({"input": np.array([1, 2])}, "input must be 2 strings, got int64"),
    ({"input": np.array(["a", "a"])}, "names in input must differ"),
    ({"hi": np.array([{}, {}])}, "array hi: it holds pickled objects"),
]


@pytest.mark.parametrize(("arrays", "message"), ARRAYS)
def test_malformed_arrays(run, tmp_path, arrays, message):
    np.savez(tmp_path / "boxes.npz", **(GOOD | arrays))
    refused(run(boxes=tmp_path / "boxes.npz"), message, tmp_path)


def test_an_array_is_missing(run, tmp_path):
    np.savez(tmp_path / "boxes.npz", lo=np.zeros((2, 2)), x=np.zeros((2, 2)))
    message = "needs the arrays lo and hi, has: lo, x"
    refused(run(boxes=tmp_path / "boxes.npz"), message, tmp_path)


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ({}, "", "no NAME.lo.csv in the folder"),
        ({}, "none.npz", "no such file or folder"),
        ({}, "none.lo.csv", "no such file or folder"),
        ({"b.txt": "0 1"}, "b.txt", "b.txt: boxes come as an .npz file with arrays lo"),
        ({"b.npz": "0 1"}, "b.npz", "b.npz is damaged (File is not a zip file)"),
        ({"a.lo.csv": "0 0"}, "", "has a.lo.csv, but no a.hi.csv"),
        ({"a.hi.csv": "0 0"}, "", "has a.hi.csv, but no a.lo.csv"),
        ({"a.lo.csv": "0 0", "a.hi.csv": "1"}, "", "a.hi.csv has 1 values, the netwo"),
        ({"a.lo.csv": "", "a.hi.csv": "1 1"}, "", "a.lo.csv is empty"),
        ({"a.lo.csv": "0 ?", "a.hi.csv": "1 1"}, "", "value 2 is not a number: '?'"),
        ({"a.lo.csv": "0 nan", "a.hi.csv": "1 1"}, "", "value 2 is not finite: nan"),
        ({"a.lo.csv": "0 2", "a.hi.csv": "1 1"}, "", "box a is empty: lo > hi for 1"),
    ],
)
def test_malformed_files(run, tmp_path, files, name, message):
    folder = tmp_path / "boxes"
    folder.mkdir()
    for file, text in files.items():
        (folder / file).write_text(text)
    refused(run(boxes=folder / name if name else folder), message, tmp_path)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"model": ""}, "give the network with --model"),
        ({"model": "none.onnx"}, "none.onnx"),
        ({"model": "net.txt"}, "net.txt: a network file ends in .onnx"),
        ({"boxes": ""}, "give either --boxes, or --published_log and --inputs"),
        ({"published_log": "a.log"}, "give either --boxes, or --published_log"),
        ({"inputs": "folder"}, "--published_log and --inputs belong together"),
        ({"output": ""}, "output is empty: name the folder to write"),
        ({"timeout": 0.0}, "timeout is 0.0; it must be > 0"),
        ({"required_margin": float("nan")}, "required_margin is nan; it must be finit"),
        ({"restarts": 0}, "restarts is 0; it must lie in 1 .. 4096"),
        ({"seed": -1}, "seed is -1; it must lie in 0 .. 4294967295"),
        ({"domain_lower": 1.0, "domain_upper": 0.0}, "the domain is empty: it begins"),
        ({"domain_lower": 9.0}, "box inside lies outside the domain: its values span"),
    ],
)
def test_mistakes_in_flags(run, tmp_path, request_, message):
    boxes = save(tmp_path / "boxes.npz", ["inside"])
    refused(run(**({"boxes": boxes} | request_)), message, tmp_path)


def refused(done: Ended, message: str, folder: Path) -> None:
    """Checks for one line, code 1, and that nothing was written."""
    assert done.code == 1 and not done.out
    errors = done.err.splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: ")
    assert message in errors[0]
    assert not (folder / "out").exists()


def test_resume_redoes_nothing(run, tmp_path, asked, monkeypatch):
    boxes = save(tmp_path / "boxes.npz", list(BOXES))
    decided = decide.Auditor.decide

    def interrupted(self, claim, label, deadline):
        if claim.name == "outside":
            raise KeyboardInterrupt
        return decided(self, claim, label, deadline)

    with monkeypatch.context() as patch:
        patch.setattr(decide.Auditor, "decide", interrupted)
        done = run(boxes=boxes)
    assert done.code == 130 and "continue with --resume" in done.out
    assert "1 of 2 boxes contain an adversarial example" in done.out
    out = tmp_path / "out"
    before = (out / "audit.jsonl").read_text()
    assert asked == list(BOXES)[:3]
    assert (out / "witnesses.npz").exists() and not (out / "audit_parts").exists()
    done = run(boxes=boxes)
    assert done.code == 1 and "already holds an audit (audit.jsonl)" in done.err
    done = run(boxes=boxes, resume=True)
    assert done.code == 0 and "3 boxes are done already" in done.err
    assert asked == list(BOXES)
    assert (out / "audit.jsonl").read_text().startswith(before)
    with np.load(out / "witnesses.npz") as found:
        assert found["input"].tolist() == ["corners", "tip"]
    again = run(boxes=boxes, resume=True)
    assert asked == list(BOXES) and again.out == done.out


def test_after_a_kill(run, tmp_path, asked, monkeypatch):
    """Witnesses lie in parts only, one line is torn, and one lost its witness."""
    boxes = save(tmp_path / "boxes.npz", ["tip", "inside", "corners", "outside"])
    with monkeypatch.context() as patch:
        patch.setattr(audit.AuditFiles, "_gather", lambda self: None)
        run(boxes=boxes)
    out = tmp_path / "out"
    parts = sorted((out / "audit_parts").iterdir())
    assert len(parts) == 2 and not (out / "witnesses.npz").exists()
    parts[0].unlink()
    path = out / "audit.jsonl"
    path.write_text(path.read_text()[:-20])
    asked.clear()
    done = run(boxes=boxes, resume=True)
    assert done.code == 0, done.err
    assert asked == ["tip", "outside"]
    assert "the last line is torn; its box is redone" in done.err
    assert "tip has no witness; it is redone" in done.err
    assert list(verdicts(out)) == ["inside", "corners", "tip", "outside"]
    with np.load(out / "witnesses.npz") as found:
        assert found["input"].tolist() == ["corners", "tip"]


def test_only_the_same_audit_is_continued(run, tmp_path):
    boxes = save(tmp_path / "boxes.npz", ["inside", "corners"])
    out = tmp_path / "out"
    assert run(boxes=boxes).code == 0
    done = run(boxes=boxes, resume=True, required_margin=-1.0)
    assert done.code == 1 and "other settings: required_margin is 0.0 there" in done.err
    other = save(tmp_path / "other.npz", ["inside"], input=np.array(["corners"]))
    done = run(boxes=other, resume=True)
    assert done.code == 1 and "box corners differs from the one of the same" in done.err
    text = (out / "audit.jsonl").read_text()
    damaged = text.replace("sound", "fine") + "\n" + text
    (out / "audit.jsonl").write_text(damaged)
    done = run(boxes=boxes, resume=True)
    assert done.code == 1 and "audit.jsonl, line 1: not a verdict of this" in done.err
    assert (out / "audit.jsonl").read_text() == damaged
    (out / "audit.jsonl").write_text(text)
    (out / "witnesses.npz").write_bytes(b"PK")
    done = run(boxes=boxes, resume=True)
    assert done.code == 1 and "witnesses.npz is damaged" in done.err
    (out / "audit.jsonl").unlink()
    done = run(boxes=boxes)
    assert done.code == 1 and "holds a witnesses.npz, but no audit.jsonl" in done.err


def test_tables_fit_80_columns():
    record = {
        "label": 1234, "verdict": "broken", "witness_class": 1234,
        "witness_margin": -1.2345e-12, "found_by": "attack", "min_edge": 1.234e-12,
        "seconds": 12345.678,
    }  # fmt: skip
    records = [record | {"input": f"{i}-{'x' * 99}.csv"} for i in range(60)]
    printed = table(records).splitlines()
    assert len(printed) == 62 and max(map(len, printed)) == 80
    assert printed[-1].startswith("59-xxx") and "xx.csv  1234  broken" in printed[-1]
    # More are gathered by class.
    kinds = ("broken", "sound", "unknown")
    records = [record | {"label": i % 70, "verdict": kinds[i % 3]} for i in range(1000)]
    printed = table(records).splitlines()
    assert len(printed) == 64 and max(map(len, printed)) <= 80
    assert printed[-1].split()[:-1] == ["all", "1000", "334", "333", "333", "0"]


def test_the_cube_of_a_logged_edge(tmp_path):
    """Its least edge is the logged one, wherever the input lies in the domain."""
    random = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    edges = dict.fromkeys(("0-1.csv", "1-1.csv", "2-1.csv", "3-1.csv"), 0.0)
    for number, name in enumerate(edges):
        x = random.uniform(0, 1, 5) if number else np.array([0, 0.3, 0.5, 0.7, 1])
        np.savetxt(tmp_path / "in" / name, x)
        edges[name] = float(random.uniform(0, 0.9))
    log = "".join(f"../in put/{n} 4 1.0 900 {e!r} 0.9 4 0\n" for n, e in edges.items())
    (tmp_path / "a.log").write_text("Some exception caught!\n\n" + log)
    claims = published_claims(tmp_path / "a.log", tmp_path / "in", (5,), (0.0, 1.0))
    for claim, (name, edge) in zip(claims, edges.items(), strict=True):
        assert claim.name == name and claim.holds_input
        assert np.min(claim.hi - claim.lo) == pytest.approx(edge)
        down, up = claim.x - claim.lo, claim.hi - claim.x
        radius = max(down.max(), up.max())
        for slack, room in ((down, claim.x), (up, 1 - claim.x)):
            assert np.allclose(slack, np.minimum(radius, room))
    # With a feature at an end of the domain the radius is the edge.
    assert np.max(claims[0].hi - claims[0].x) == pytest.approx(edges["0-1.csv"])


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (None, "there is no file"),
        ("no result\n", "a.log holds no line of an input and 7 numbers"),
        ("b.csv 4 1 9 0.1 1 4 0\n", "names 1 inputs that"),
        ("a.csv 4 1 9 1.5 1 4 0\n", "a.log: the min edge of a.csv is 1.5, the domain"),
        ("a.csv 4 1 9 nan 1 4 0\n", "a.log: the min edge of a.csv is nan, the domain"),
        ("a.csv 4 1 9 0 1 4 0\n" * 2, "line 2: a.csv has a result already"),
        ("far.csv 4 1 9 0.1 1 4 0\n", "input far.csv lies outside the domain"),
    ],
)
def test_mistakes_in_published_logs(tmp_path, log, message):
    (tmp_path / "in").mkdir()
    for name, text in (("a.csv", "0 1"), ("far.csv", "0 2")):
        (tmp_path / "in" / name).write_text(text)
    if log is not None:
        (tmp_path / "a.log").write_text(log)
    with pytest.raises(InputError) as caught:
        published_claims(tmp_path / "a.log", tmp_path / "in", (2,), (0.0, 1.0))
    assert message in str(caught.value)


@pytest.mark.campaign
@pytest.mark.skipif(not PEER.is_dir(), reason="needs the boxes of ../shared/peers")
@pytest.mark.parametrize(
    ("data", "network", "broken", "sound", "trivial"),
    [
        ("mnist", "mnist_nn-32", 8, 28, 13),
        ("fashion_mnist", "fashion_mnist_nn-64", 42, 2, 6),
    ],
)
def test_published_boxes(run, tmp_path, data, network, broken, sound, trivial):
    model = PEER / "networks" / f"{network}.onnx"
    done = run(
        model=model, published_log=PEER / "results" / f"{data}_c-bu-d.log",
        inputs=PEER / "inputs" / data,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert (
        f"{broken} of {broken + sound} boxes contain an adversarial example, "
        f"{sound} proved sound, 0 unknown\n{trivial} boxes are single points"
    ) in done.out
    # By another reader of the file, in numpy, with a bound of its rounding.
    mlp = read_mlp(str(model))
    edges = {record["input"]: record["min_edge"] for record in lines(tmp_path / "out")}
    with np.load(tmp_path / "out/witnesses.npz") as found:
        assert len(found["input"]) == broken
        for name, witness, label in zip(
            found["input"].tolist(), found["witness"], found["label"], strict=True
        ):
            x = np.loadtxt(PEER / "inputs" / data / name).reshape(-1)
            z = witness.reshape(-1)
            # Faces are rounded to float64, so they may be off by an ulp of 1.
            assert np.abs(z - x).max() <= edges[name] + 2.0**-52
            assert z.min() >= 0 and z.max() <= 1
            assert mlp.margin(x, int(label))[0] > 0
            value, error = mlp.margin(z, int(label))
            assert value + error < 0


def test_the_command_line(run, diamond, tmp_path):
    boxes = save(tmp_path / "boxes.npz", ["corners", "inside"])
    flags = {"model": diamond / "net.npz", "boxes": boxes}
    done = run("--steps=30", "--required_margin=0.5", **flags)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-3].startswith("2 of 2 boxes contain a point of")
    done = run("--published_log=a.log", **flags)
    assert done.code == 1 and len(done.err.splitlines()) == 1
