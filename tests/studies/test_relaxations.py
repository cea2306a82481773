"""Relaxations against each other, their pictures, and the measurement on a network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cases import sampled
from in_process import Ended, ran
from studies.milp_reference.network import Mlp
from studies.relaxations import command, pictures, runs
from studies.relaxations.laws import compare
from studies.relaxations.questions import Question, facets, least

from jaxcert.bounds import hull

# A study of the project; what it runs of the package has tests of its own.
pytestmark = pytest.mark.campaign

EXACT = "exact"


@pytest.mark.campaign
@pytest.mark.parametrize("count", sampled([8, 40]))
def test_no_relaxation_is_tighter_than_a_tighter_one(count: int):
    comparisons = list(compare(count, seed=3))
    assert [c.violations for c in comparisons] == [()] * len(comparisons)
    lost = {
        name: sum((c.bounds[EXACT] - c.bounds[name]).sum() for c in comparisons)
        for name in comparisons[0].bounds
    }
    assert lost["box"] > 1.5 * lost["crown"]
    assert lost["crown"] > 1.2 * lost["triangle"]
    assert lost["triangle"] > 1.5 * lost["krelu"] > 0


@pytest.mark.campaign
def test_triples_are_between_pairs_and_the_exact_bound():
    rng = np.random.default_rng(1)
    layers = tuple(
        (rng.normal(size=s), rng.normal(size=s[0]) / 2) for s in ((4, 3), (1, 4))
    )
    question = Question(Mlp(layers), -np.ones(3), np.ones(3), np.eye(1), np.zeros(1))
    pairs = least("krelu", question)
    triples = least("krelu", Question(**{**vars(question), "k": 3}))
    exact = least("exact", question)
    assert pairs - 1e-5 <= triples <= exact + 1e-5


def test_a_relaxation_that_says_too_much_is_reported(monkeypatch, capsys):
    from studies.relaxations import laws

    original = laws.least

    def too_tight(method, question):
        bound = original(method, question)
        return bound + 1.0 if method == "krelu" else bound

    monkeypatch.setattr(laws, "least", too_tight)
    ended = run(capsys, laws=2)
    assert ended.code == 3
    assert "krelu is above exact" in ended.out
    assert "the k-ReLU LP with k = 1 is not the triangle LP" in ended.out


def test_facets_of_one_neuron_are_the_triangle():
    bounds = np.array([1.0, 3.0])  # -l and u
    p, q, c = facets(bounds, 1)
    rows = {tuple(np.round(r, 6) + 0.0) for r in np.hstack([p, q, c[:, None]])}
    assert rows == {(0.0, -1.0, 0.0), (1.0, -1.0, 0.0), (-0.75, 1.0, 0.75)}
    assert (hull.octahedron(1) == [[-1], [1]]).all()


def run(capsys, **options) -> Ended:
    return ran(command, capsys, **options)


@pytest.mark.campaign
def test_pictures_are_drawn(capsys, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(pictures, "_DIRECTIONS", 16)
    ended = run(capsys, output=str(tmp_path))
    assert ended.code == 0, ended.err
    for name in ("single.png", "pair.png", "outputs.png"):
        assert f"wrote {tmp_path / name}" in ended.out
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.campaign
def test_a_network_is_measured_and_resumed(capsys, tmp_path: Path, tiny):
    pytest.importorskip("onnx")
    options = {
        "model": str(tiny.onnx), "dataset": "digits", "inputs": "0:6",
        "epsilon": 0.02, "output": str(tmp_path), "timeout": 20.0,
        "methods": ["crown", "alpha", "triangle", "complete"],
    }  # fmt: skip
    ended = run(capsys, **options)
    assert ended.code == 0, ended.err
    lines = (tmp_path / runs.LINES).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    images = {r["input"] for r in records}
    assert len(records) == 4 * len(images) > 0
    by_method = {
        m: {r["input"]: r for r in records if r["method"] == m}
        for m in options["methods"]
    }
    for name in images:
        crown, alpha, triangle = (
            by_method[m][name]["bound"] for m in ("crown", "alpha", "triangle")
        )
        assert crown <= alpha + 1e-6 and alpha <= triangle + 1e-4
        decided = by_method["complete"][name]["status"]
        assert decided in ("verified", "refuted")
        if any(by_method[m][name]["status"] == "verified" for m in ("crown", "alpha")):
            assert decided == "verified"
    again = run(capsys, **options)
    assert again.code == 1 and "already holds results" in again.err
    # A torn line is redone, and nothing else.
    (tmp_path / runs.LINES).write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:9])
    resumed = run(capsys, **options, resume=True)
    assert resumed.code == 0, resumed.err
    assert len((tmp_path / runs.LINES).read_text().splitlines()) == len(lines)
    assert "alpha-CROWN" in resumed.out and (tmp_path / "time.png").exists()
    other = run(capsys, **{**options, "epsilon": 0.03}, resume=True)
    assert other.code == 1 and "holds results with epsilon 0.02, not 0.03" in other.err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"methods": ["lp"]}, "--methods names 'lp'; choose from crown, alpha"),
        ({"epsilon": 0.0}, "epsilon is 0.0; it must lie between 0 and 1"),
        ({"timeout": 0.0}, "timeout is 0.0; it must be > 0"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path: Path, options: dict, text: str):
    ended = run(capsys, model="net.onnx", output=str(tmp_path), **options)
    assert ended.code == 1
    assert text in ended.err and len(ended.err.splitlines()) == 1
