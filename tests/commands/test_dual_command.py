"""The command `dual`: boxes, files, continuation, published networks, mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from in_process import Ended, ran

from jaxcert.checker import command as check
from jaxcert.commands.dual import command

PEERS = Path(__file__).parents[2].parent / "shared/peers"
PUBLISHED = PEERS / "parallelepipedonn"
ACAS = PEERS / "vnncomp/acasxu"
# The box of ACAS Xu property 3, on which "clear of conflict" never wins.
PROPERTY_3 = (
    "-0.303531156,-0.009549297,0.493380324,0.3,0.3",
    "-0.298552812,0.009549297,0.5,0.5,0.5",
)

Run = Callable[..., Ended]


@pytest.fixture
def run(capsys, tmp_path) -> Run:
    """Runs the command in this process, into tmp_path/out."""
    own = {"output": tmp_path / "out"}
    return lambda *words, **flags: ran(command, capsys, *words, **(own | flags))


def lines(folder: Path) -> list[dict]:
    return [
        json.loads(line)
        for line in (folder / "dual.jsonl").read_text().split("\n")
        if line
    ]


def test_all_classes_of_a_network_their_instances_and_continuation(run, tiny, tmp_path):
    out = tmp_path / "out"
    ended = run(model=str(tiny.checkpoint), classes="0,7")
    assert ended.code == 0, ended.err
    *printed, last = ended.out.splitlines()
    assert max(map(len, printed)) <= 80 and last.startswith("report: ")
    found = lines(out)
    assert [r["class"] for r in found] == [0, 7]
    for r in found:
        points = np.load(out / r["instances"])["instances"]
        assert np.all(np.argmax(tiny.logits(points), axis=1) == r["class"])
        assert points.min() >= 0 and points.max() <= 1
        own = points.reshape(128, 64)[np.arange(128), np.arange(128) % 64]
        np.testing.assert_array_equal(own, r["inner_lo"] + r["inner_hi"])
        assert r["status"] == "closed" and r["open"] == 0
        assert np.all(np.array(r["outer_lo"]) <= own[:64])
        assert np.all(own[64:] <= np.array(r["outer_hi"]))

    ended = run(model=str(tiny.checkpoint))
    assert ended.code == 1 and "already holds dual boxes" in ended.err
    text = (out / "dual.jsonl").read_bytes()
    (out / "dual.jsonl").write_bytes(text[:-9])
    ended = run(model=str(tiny.checkpoint), classes="0,7", resume=True)
    assert ended.code == 0, ended.err
    assert "the last line is torn; its box is redone" in ended.err
    assert "class 7: closed" in ended.err and "class 0" not in ended.err
    again = lines(out)
    assert again[0] == found[0]
    assert [r["class"] for r in again] == [0, 7]
    assert again[1]["outer_lo"] == found[1]["outer_lo"]
    # A box that less time left open is refined; the better of both ends is kept.
    hurried = again[0] | {
        "outer_lo": [0.0] * 64, "outer_hi": [1.0] * 64, "status": "open", "open": 3,
        "time_limit": 1.0,
    }  # fmt: skip
    path = out / "dual.jsonl"
    rest = [json.dumps(again[1])]
    path.write_text("\n".join([json.dumps(hurried), *rest]) + "\n")
    flags = {"model": str(tiny.checkpoint), "classes": "0,7", "resume": True}
    assert run(**flags, time_limit=1.0).code == 0 and lines(out)[0] == hurried
    ended = run(**flags, time_limit=500.0)
    assert ended.code == 0 and "class 0: closed" in ended.err
    assert "class 7" not in ended.err
    refined, other = lines(out)
    assert other == again[1] and refined["time_limit"] == 500
    for key in ("outer_lo", "outer_hi", "inner_lo", "inner_hi", "status", "open"):
        assert refined[key] == again[0][key], key
    assert refined["subproblems"] >= hurried["subproblems"]
    stored = sorted(p.name for p in (out / "instances").iterdir())
    assert stored == sorted(Path(r["instances"]).name for r in (refined, other))
    # Killed before the line that was refined was removed: the later one counts.
    path.write_text("\n".join(json.dumps(r) for r in (hurried, other, refined)) + "\n")
    assert run(**flags, time_limit=500.0).code == 0
    assert lines(out) == [refined, other]
    path.write_text(json.dumps(hurried | {"domain_lo": [0.5] * 64}) + "\n")
    ended = run(**flags, time_limit=900.0)
    assert (
        ended.code == 1 and "of class 0 of input None is of another domain" in ended.err
    )
    path.write_text("\n".join(json.dumps(r) for r in again) + "\n")
    ended = run(model=str(tiny.checkpoint), tolerance=0.5, resume=True)
    assert ended.code == 1 and "tolerance is 0.01 there and 0.5 here" in ended.err


def test_within_a_ball_and_a_claimed_radius(run, tiny, tmp_path):
    x = np.random.default_rng(0).uniform(0, 1, (2, 8, 8, 1))
    np.savez(tmp_path / "inputs.npz", x=x)
    ended = run(
        model=str(tiny.checkpoint), inputs=str(tmp_path / "inputs.npz"), within=0.02,
        claimed_radius=0.5, proofs=True,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = lines(tmp_path / "out")
    assert len(found) == 20
    assert "certificates: 20 of 20 boxes, accepted by the independent" in ended.out
    assert check.main([str(tmp_path / "out")]) == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "certificates: 20 of 20 boxes" in page
    winners = np.argmax(tiny.logits(x), axis=1)
    sample = np.random.default_rng(1).uniform(-0.02, 0.02, (2000, 64))
    for r in found:
        k = int(r["input"])
        assert r["status"] == "empty" or r["open"] == 0
        if r["class"] == winners[k]:
            assert r["status"] == "closed"
        points = np.clip(x[k].reshape(1, 64) + sample, 0, 1)
        mine = points[np.argmax(tiny.logits(points), axis=1) == r["class"]]
        if r["status"] == "empty":
            assert len(mine) == 0
            continue
        assert np.all(np.array(r["outer_lo"]) <= mine)
        assert np.all(mine <= np.array(r["outer_hi"]))
    for line in (tmp_path / "out/claims.jsonl").read_text().splitlines():
        claim = json.loads(line)
        k = int(claim["input"])
        z = x[k].reshape(64).copy()
        z[claim["feature"]] = claim["to"]
        assert claim["farther"] and abs(z - x[k].reshape(64)).max() > 0.5
        assert np.argmax(tiny.logits(z[None])) == claim["class"] == winners[k]


@pytest.mark.campaign
@pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="needs the networks of ../shared/peers"
)
def test_the_published_radius_of_complete_boxes_is_wrong(run, tmp_path):
    pytest.importorskip("onnx")
    ended = run(
        "--claimed_radius=0.9375", "--classes=0,1",
        model=PUBLISHED / "networks/mnist_nn-32.onnx",
        inputs=PUBLISHED / "inputs/mnist",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "wrong for 49 of 49 inputs" in ended.out
    for r in lines(tmp_path / "out"):
        assert (r["on_domain"], r["open"]) == (1568, 0)


@pytest.mark.campaign
@pytest.mark.skipif(not ACAS.is_dir(), reason="needs the networks of ../shared/peers")
def test_of_acas_xu_no_class_is_left_where_a_property_excludes_it(run, tmp_path):
    pytest.importorskip("onnx")
    ended = run(
        model=str(ACAS / "onnx/ACASXU_run2a_1_1_batch_2000.onnx.gz"), lowest=True,
        domain_lower=PROPERTY_3[0], domain_upper=PROPERTY_3[1], tolerance=0.05,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = lines(tmp_path / "out")
    assert found[0]["status"] == "empty"
    assert {r["status"] for r in found} <= {"empty", "closed"}
    assert all(min(r["face_seconds"]) >= 0 for r in found)
    faces = re.findall(r"^(?:lower|upper) \d .* (\d+\.\d)  closed", ended.out, re.M)
    assert len(faces) == 10 * sum(r["status"] == "closed" for r in found)
    assert "all, class 0: proved that there is none" in ended.out


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({}, "give the network with --model"),
        ({"output": ""}, "output is empty: name the folder to write"),
        ({"within": -1.0}, "within is -1.0; it must be a number >= 0"),
        ({"within": 0.1}, "--within needs --inputs: around what?"),
        ({"claimed_radius": 0.1}, "--claimed_radius needs --inputs: around what?"),
        ({"classes": "predicted"}, "--classes=predicted needs --within"),
        ({"classes": "1,11"}, "classes is '1,11'; write all, or some of 0 .. 9"),
        ({"tolerance": 0.0}, "tolerance is 0.0; it must lie between 0 and 1"),
        ({"time_limit": -1.0}, "time_limit is -1.0; it must be >= 0"),
        ({"seed": -1}, "seed is -1; it must lie in 0 .. "),
        ({"domain_lower": "0,1"}, "domain_lower has 2 values; give one, or one"),
        ({"domain_upper": "a"}, "--domain_upper takes numbers with commas, got a"),
        ({"domain_lower": "2"}, "the domain is empty"),
    ],
)
def test_mistakes_are_one_line(run, tiny, flags, text):
    named = {} if not flags else {"model": str(tiny.checkpoint)}
    ended = run(**named, **flags)
    assert ended.code == 1
    assert text in ended.err and ended.err.count("\n") == 1
