"""The command `smoothing` on a tiny network: answers, resuming, mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from in_process import Ended, ran

from jaxcert.commands.smoothing import command
from jaxcert.smoothing import Gaussian, Smoother, lower_bound

Run = Callable[..., Ended]


@pytest.fixture
def run(tiny, tmp_path, capsys) -> Run:
    own = {
        "model": tiny.checkpoint, "sigma": 0.1, "dataset": "digits", "inputs": "0:8",
        "n": 600, "output": tmp_path / "out",
    }  # fmt: skip
    return lambda **flags: ran(command, capsys, **(own | flags))


def records(folder: Path, without: tuple[str, ...] = ("seconds",)) -> list[dict]:
    lines = (folder / "smoothing.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in without}
        for line in lines
    ]


def test_a_run_prints_and_writes_what_was_counted(run, tmp_path):
    ended = run(radii=("0", "0.1", "0.2"))
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert max(map(len, lines[:-2])) <= 80 and lines[-1].startswith("report: ")
    text = " ".join(ended.out.split())
    assert "Probabilistic, not proved: with a chance of at least 99.9 %" in text
    assert "for each answer, the smoothed class is the same for every input" in text
    found = records(tmp_path / "out")
    assert [r["input"] for r in found] == [str(i) for i in range(8)]
    hits = np.array([r["hits"] for r in found])
    p = lower_bound(hits, 600, 0.001)
    np.testing.assert_allclose([r["p_lower"] for r in found], p, rtol=1e-12)
    np.testing.assert_allclose(
        [r["radius"] for r in found], Gaussian(0.1).radius(p), rtol=1e-9
    )
    assert all(r["earlier"].keys() == {"6", "60"} for r in found)
    assert all(r["earlier"]["60"] <= min(60, r["hits"]) for r in found)
    right = sum(r["predicted"] == r["label"] and r["radius"] > 0.1 for r in found)
    row = next(line for line in lines if line.startswith("tiny 0.1 "))
    assert float(row.split()[5].rstrip("%")) == pytest.approx(100 * right / 8, abs=0.1)
    told = sum(r["radius"] > 0 for r in found)
    assert f"{told} of {told} radii follow from their counts" in text
    (path,) = (tmp_path / "out/proofs").iterdir()
    with np.load(path) as file:
        assert file["hits"].tolist() == hits.tolist()
        assert json.loads(file["header"].tobytes())["scale"] == float(np.float32(0.1))
    assert (tmp_path / "out/accuracy.png").read_bytes()[1:4] == b"PNG"
    assert not (tmp_path / "out/counts.npz").exists()


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(run, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(output=str(whole)).code == 0
    advance, drawn = Smoother.advance, []

    def interrupted(self, tally, key, x, most=None, **more):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        after = advance(self, tally, key, x, most, **more)
        drawn.append(int((after.samples - tally.samples).max()))
        return after

    monkeypatch.setattr(Smoother, "advance", interrupted)
    assert run(output=str(broken)).code == 130
    assert drawn == [6, 54] and (broken / "counts.npz").exists()
    monkeypatch.setattr(Smoother, "advance", advance)
    monkeypatch.setattr(
        Smoother, "select", lambda *_: pytest.fail("the class was chosen already")
    )
    assert run(output=str(broken), resume=True).code == 0
    assert records(broken) == records(whole)
    # Once more: nothing is left to do.
    monkeypatch.setattr(Smoother, "advance", interrupted)
    assert run(output=str(broken), resume=True).code == 0
    assert records(broken) == records(whole)


@pytest.mark.campaign
def test_counts_of_other_settings_or_damaged_ones_are_not_taken_up(run, tmp_path):
    out = tmp_path / "out"
    assert run(seed=1).code == 0
    expected = records(out)
    out.rename(tmp_path / "before")
    out.mkdir()
    (out / "counts.npz").write_bytes(b"PK\x03\x04 cut off")
    ended = run(seed=1)
    assert "counts.npz is damaged: its inputs are counted anew" in ended.err
    assert records(out) == expected
    # Torn last line, and the counts of another group lying about.
    lines = (out / "smoothing.jsonl").read_bytes()
    (out / "smoothing.jsonl").write_bytes(lines[:-40])
    ended = run(seed=1, resume=True)
    assert "the last line is torn; it is redone" in ended.err
    assert records(out) == expected


@pytest.mark.campaign
def test_a_union_shares_alpha_and_says_so(run, tmp_path):
    ended = run(union=True, noise="laplace", stop_radius=0.05)
    assert "for all 8 answers of a row at once" in " ".join(ended.out.split())
    found = records(tmp_path / "out")
    assert all(r["alpha"] == pytest.approx(0.001 / 8) for r in found)
    assert {r["norm"] for r in found} == {"l1"}
    assert min(r["samples"] for r in found) < 600
    assert max(map(len, ended.out.splitlines()[:-2])) <= 80


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"model": ""}, "name the networks with --model=A.npz,B.npz"),
        ({"sigma": "1,2"}, "there are 2 --sigma for 1 --model: give one each"),
        ({"sigma": "x"}, "--sigma takes numbers with commas, got x"),
        ({"sigma": ""}, "tiny.npz was not trained with noise: say with --sigma"),
        ({"sigma": -1}, "the scale of Gaussian noise is -1.0; it must be a num"),
        ({"radii": -1}, "a radius is at least 0, got -1"),
        ({"n": 0}, "n is 0; it must be a whole number in 1 .. 2^30"),
        ({"n": 9}, "n is 9; with alpha 0.001 even samples that all agree certify a cl"),
        ({"alpha": 2.0}, "alpha is 2.0; a failure probability lies in (0, 1)"),
        ({"seed": -1}, "seed is -1; it must lie in 0 .. 4294967295"),
        ({"output": ""}, "output is empty: name the folder to write"),
        ({"model": "no.npz"}, "no checkpoint no.npz"),
    ],
)
def test_mistakes_are_one_line(run, request_, message):
    ended = run(**request_)
    assert ended.code == 1
    assert message in ended.err and len(ended.err.splitlines()) == 1


def test_labels_that_the_network_does_not_know_are_refused(run, tmp_path):
    np.savez(tmp_path / "in.npz", x=np.zeros((2, 64)), labels=np.array([9, 10]))
    ended = run(inputs=str(tmp_path / "in.npz"))
    assert ended.code == 1
    assert "label 10 of input 1 is out of range: the network has classes" in ended.err


def test_a_run_is_not_mixed_with_another(run):
    assert run(inputs="0:2").code == 0
    ended = run(inputs="0:2")
    assert "already holds a run (smoothing.jsonl). Continue it with --resume" in (
        ended.err
    )
    ended = run(inputs="0:2", resume=True, n=700)
    assert "a run with other settings: n is 600 there and 700 here" in ended.err
