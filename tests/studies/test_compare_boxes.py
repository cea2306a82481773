"""The script `compare_boxes`: published algorithms, their audit, files, mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import Ended, ran
from studies.compare_boxes import command
from studies.compare_boxes import run as comparison
from studies.compare_boxes.competitors import BoxResult, Problem
from studies.compare_boxes.files import KEYS
from studies.compare_boxes.liu import Liu
from studies.compare_boxes.oracle_loop import one_by_one
from studies.compare_boxes.published_algorithms import (
    BottomUpDichotomic,
    Cyclic,
    DualBottomUp,
    TopDown,
)
from studies.compare_boxes.table import table
from tiny import diamond_network

from jaxcert.box import Box
from jaxcert.errors import InputError
from jaxcert.learning.models import load_network, save_checkpoint

# A study of the project; what it runs of the package has tests of its own.
pytestmark = pytest.mark.campaign

PEER = Path(__file__).parents[2].parent / "shared/peers/parallelepipedonn"
DOMAIN = (-2.0, 2.0)
# In the diamond |x_0| + |x_1| < 1, where class 1 wins; steps of delta miss its edges.
XS = np.array([[0.0, 0.0], [0.5013, 0.1], [-0.3, 0.5507], [0.0519, -0.9004]])
DELTA = 0.0717

Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def diamond(tmp_path_factory) -> Path:
    """A folder with net.npz, logits (|x_0| + |x_1|, 1), and inputs with labels."""
    network = diamond_network()
    folder = tmp_path_factory.mktemp("diamond")
    save_checkpoint(folder / "net.npz", network)
    # The last one is misclassified.
    x, labels = np.vstack([XS, [[1.5, 0.0]]]), np.ones(5, np.int32)
    names = np.array(["a", "b", "c", "d", "wrong"])
    np.savez(folder / "inputs.npz", x=x, labels=labels, names=names)
    return folder


@pytest.fixture(scope="module")
def problem(diamond) -> Problem:
    network = load_network(diamond / "net.npz")
    return problem_of(network, DOMAIN, DELTA)


def problem_of(network, domain: tuple[float, float], delta: float) -> Problem:
    lo, hi = (np.full(network.input_shape, end) for end in domain)
    return Problem(network, Box(lo, hi), 0.0, delta)


@pytest.fixture
def run(diamond, tmp_path, capsys) -> Run:
    """Runs the study in this process, on the diamond, into tmp_path/out."""
    own = {
        "model": diamond / "net.npz", "inputs": diamond / "inputs.npz",
        "output": tmp_path / "out", "domain_lower": DOMAIN[0],
        "domain_upper": DOMAIN[1], "algorithms": "top_down", "delta": DELTA,
    }  # fmt: skip
    return lambda **flags: ran(command, capsys, **(own | flags))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/rows.jsonl").open()]


def reach(lo: np.ndarray, hi: np.ndarray) -> float:
    """Returns the greatest |x_0| + |x_1| in a box: it is sound iff this is < 1."""
    return float(np.maximum(np.abs(lo), np.abs(hi)).sum())


def bisected(sound: Callable[[float], bool], end: float, delta: float) -> float:
    """Returns the step that a bisection of [0, end] to delta ends with, by hand."""
    low, high = 0.0, end
    while high - low > delta:
        middle = (low + high) / 2
        low, high = (middle, high) if sound(middle) else (low, middle)
    return high if high == end and sound(end) else low


def results(competitor, problem: Problem) -> list[BoxResult]:
    labels = np.ones(len(XS), np.int32)
    found = list(competitor(problem, XS, labels, 600.0))
    assert all(result.finished for result in found)
    return found


@pytest.mark.campaign
def test_cyclic_ends_where_a_bisection_by_hand_does(problem):
    for x, found in zip(XS, results(one_by_one(Cyclic()), problem), strict=True):
        end = np.max(np.abs(x)) + 2

        def ball(r, x=x):
            return np.maximum(x - r, -2), np.minimum(x + r, 2)

        best = bisected(lambda r, ball=ball: reach(*ball(r)) < 1, end, DELTA)
        np.testing.assert_allclose([found.lo, found.hi], ball(best), rtol=1e-14)


@pytest.mark.campaign
def test_bottom_up_ends_where_bisections_by_hand_do(problem):
    competitor = one_by_one(BottomUpDichotomic())
    for x, found in zip(XS, results(competitor, problem), strict=True):
        faces = np.array([x, x])
        for i in range(2):
            for side, sign in ((0, -1), (1, 1)):

                def moved(step, i=i, side=side, sign=sign, x=x, faces=faces):
                    other = faces.copy()
                    other[side, i] = x[i] + sign * step
                    return other

                step = bisected(
                    lambda s, moved=moved: reach(*moved(s)) < 1, 2 - sign * x[i], DELTA
                )
                faces = moved(step)
        np.testing.assert_allclose([found.lo, found.hi], faces, atol=1e-14)


@pytest.mark.campaign
def test_a_bisection_reaches_the_domain(diamond):
    # Within |x_i| <= .4 the class is kept everywhere.
    small = problem_of(load_network(diamond / "net.npz"), (-0.4, 0.4), DELTA)
    for search in (Cyclic(), BottomUpDichotomic(), TopDown()):
        competitor = one_by_one(search)
        x, label = np.array([[0.1, -0.4]]), np.ones(1, np.int32)
        (found,) = competitor(small, x, label, 600.0)
        assert found.finished
        np.testing.assert_array_equal([found.lo, found.hi], [[-0.4] * 2, [0.4] * 2])


def test_top_down_ends_with_a_sound_box_after_steps_of_delta(problem):
    for x, found in zip(XS, results(one_by_one(TopDown()), problem), strict=True):
        assert reach(found.lo, found.hi) < 1
        assert np.all((found.lo <= x) & (x <= found.hi))
        # Every call but the last one cut a face; none is cut 4 / delta times.
        assert 2 < found.oracle_calls <= 4 * (4 / DELTA + 1) + 1
        assert np.max(found.hi - found.lo) > 0


@pytest.mark.campaign
def test_dual_bottom_up_holds_the_class_and_little_more(problem):
    for found in results(one_by_one(DualBottomUp()), problem):
        assert np.all(found.lo <= -1) and np.all(found.hi >= 1)
        assert np.all(found.lo >= -1 - DELTA) and np.all(found.hi <= 1 + DELTA)


@pytest.mark.campaign
def test_liu_ends_with_symmetric_sound_boxes_of_greater_volume_than_cubes(problem):
    whole, clipped = (results(Liu(clip), problem) for clip in (False, True))
    for x, found, inside in zip(XS, whole, clipped, strict=True):
        np.testing.assert_allclose(found.hi - x, x - found.lo, atol=1e-15)
        for box in (found, inside):
            assert reach(box.lo, box.hi) < 1
        assert np.all(inside.lo >= -2) and np.all(inside.hi <= 2)
        cube = (1 - np.abs(x).sum()) / 2
        # The bound is a relaxation: at least a quarter of the cube's area.
        assert np.prod(found.hi - found.lo) >= (2 * cube) ** 2 / 4


@pytest.mark.campaign
def test_a_row_states_what_the_box_is_and_the_audit(run, tmp_path, diamond):
    ended = run(algorithms=("top_down", "dual_bottom_up"))
    assert ended.code == 0, ended.err
    records = rows(tmp_path)
    assert [r["input"] for r in records] == ["a", "b", "c", "d"] * 2
    for record in records[:4]:
        assert set(record) == set(KEYS)
        row = "abcd".index(record["input"])
        with np.load(tmp_path / f"out/boxes/top_down/{row:06d}.npz") as stored:
            lo, hi = stored["lo"][0], stored["hi"][0]
            np.testing.assert_array_equal(stored["x"][0], XS[row])
        edges = hi - lo
        assert record["verdict"] == "sound" and record["finished"]
        assert record["min_edge"] == edges.min() and record["max_edge"] == edges.max()
        assert record["perimeter"] == pytest.approx(edges.sum())
        assert record["mean_edge"] == pytest.approx(edges.mean())
        slack = min((XS[row] - lo).min(), (hi - XS[row]).min())
        assert record["apothem"] == pytest.approx(slack, abs=1e-15)
    assert "4 inputs, 1 misclassified left out" in ended.out
    assert "top_down            4/4" in ended.out
    assert "dual_bottom_up, dual boxes: 4/4 finished, 0 of them" in ended.out
    assert "0 proved boxes not inside" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80


def test_boxes_of_an_algorithm_that_lies_or_stops_early_are_not_counted(
    run, tmp_path, monkeypatch
):
    def liar(problem, xs, labels, seconds):
        for x in xs:
            yield BoxResult(x - 0.3, x + 0.3, 1, 0.0, True)

    monkeypatch.setitem(comparison.ALGORITHMS, "cube", liar)
    ended = run(algorithms=("cube", "top_down"), timeout=1e-9)
    assert ended.code == 0, ended.err
    verdicts = [(r["algorithm"], r["input"], r["verdict"]) for r in rows(tmp_path)]
    assert verdicts[:4] == [
        ("cube", "a", "sound"), ("cube", "b", "broken"), ("cube", "c", "broken"),
        ("cube", "d", "broken"),
    ]  # fmt: skip
    # Not a single cut: the whole domain.
    assert [verdict for *_, verdict in verdicts[4:]] == ["broken"] * 4
    assert "cube                1/4  0.3000 0.6000" in ended.out
    assert "top_down            0/4       -" in ended.out
    assert "top_down: 4 broken, 4 ended by the limit" in ended.out


def test_a_dual_box_that_misses_a_sound_one_is_told(run, monkeypatch):
    def small(problem, xs, labels, seconds):
        for x in xs:
            yield BoxResult(x, x, 1, 0.0, True)

    monkeypatch.setitem(comparison.ALGORITHMS, "dual_bottom_up", small)
    ended = run(algorithms=("top_down", "dual_bottom_up"))
    assert "4 proved boxes not inside" in ended.out


def test_resume_redoes_nothing_and_drops_a_torn_line(run, tmp_path, monkeypatch):
    run()
    path = tmp_path / "out/rows.jsonl"
    first = path.read_bytes()
    path.write_bytes(first[:-20])
    asked = []
    top_down = comparison.ALGORITHMS["top_down"]

    def counted(problem, xs, labels, seconds):
        asked.append(len(xs))
        return top_down(problem, xs, labels, seconds)

    monkeypatch.setitem(comparison.ALGORITHMS, "top_down", counted)
    assert run(resume=True).code == 0
    assert run(resume=True).code == 0
    assert asked == [1]
    kept = path.read_bytes().splitlines()
    assert kept[:3] == first.splitlines()[:3] and len(kept) == 4


def test_another_run_is_not_continued(run):
    run()
    assert "already holds a comparison" in run().err
    ended = run(resume=True, delta=0.2)
    assert ended.code == 1
    assert f"other settings: delta is {DELTA} there and 0.2 here" in ended.err


def test_minus_infinity_is_printed_and_counted():
    record = dict.fromkeys(KEYS, 0.0) | {
        "algorithm": "bottom_up", "input": "a", "verdict": "sound", "finished": True,
        "log_volume": -np.inf,
    }  # fmt: skip
    other = record | {"input": "b", "log_volume": -3.0}
    text = table([record, other])
    assert "-inf" in text.splitlines()[2]
    assert "bottom_up: 1 with an edge of 0 (log-volume -inf)" in text


@pytest.mark.parametrize(
    ("request_of", "words"),
    [
        ({"model": ""}, "give the network with --model"),
        ({"output": ""}, "output is empty: name the folder to write"),
        ({"algorithms": ("magic",)}, "unknown algorithm 'magic'; choose from cube, "),
        ({"algorithms": ()}, "no algorithm is named; choose from cube, "),
        ({"delta": 0.0}, "delta is 0.0; it must be > 0 and finite"),
        ({"timeout": -1.0}, "timeout is -1.0; it must be > 0 and finite"),
        ({"required_margin": np.nan}, "required_margin is nan; it must be finite"),
    ],
)
def test_mistakes_are_named(request_of, words):
    with pytest.raises(InputError, match=words):
        comparison.Request(**({"model": "net.npz"} | request_of))


@pytest.mark.campaign
def test_nothing_to_prove_is_an_error(run):
    ended = run(required_margin=5.0)
    assert ended.code == 1
    assert "no input is classified right with the required margin" in ended.err


@pytest.mark.campaign
@pytest.mark.skipif(not PEER.is_dir(), reason="needs the networks of ../shared/peers")
def test_top_down_on_a_published_input_stays_below_the_optimum(run, tmp_path):
    pytest.importorskip("onnx")
    ended = run(
        model=str(PEER / "networks/mnist_nn-32.onnx"),
        inputs=str(PEER / "inputs/mnist/0-1.csv"),
        domain_lower=0.0,
        domain_upper=1.0,
        algorithms=("cyclic", "top_down"),
        delta=0.1,
    )
    assert ended.code == 0, ended.err
    cyclic, top_down = rows(tmp_path)
    assert cyclic["verdict"] == top_down["verdict"] == "sound"
    # The optimum is .1306, MILP-checked; cyclic ends within delta of it.
    assert 0.1306 - 0.1 <= cyclic["apothem"] <= 0.1307
    assert top_down["apothem"] <= 0.1307
    assert top_down["mean_edge"] > cyclic["mean_edge"]
