"""The soundness campaign: finds nothing in the library, and every planted fault."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import exact
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled
from in_process import ran
from studies.soundness_campaign import (
    bounds,
    certify,
    command,
    own,
    planted,
    strict,
    ties,
)
from studies.soundness_campaign import exact as exact_polygons
from studies.soundness_campaign import kinds as arithmetic
from studies.soundness_campaign import rounding as rounded
from studies.soundness_campaign import run as campaign
from studies.soundness_campaign.networks import Architecture, draw_architecture
from studies.soundness_campaign.numbers import LONG
from studies.soundness_campaign.record import Suspicion, load, save
from studies.soundness_campaign.weights import REGIMES, draw_center, draw_params

import jaxcert as jc
from jaxcert.bounds import rounding
from jaxcert.bounds.ibp import Ibp
from jaxcert.errors import InputError
from jaxcert.interop.vnnlib import load_vnnlib
from jaxcert.oracle import bounds as incomplete
from jaxcert.verdict import Status
from jaxcert.witness import attack
from jaxcert.witness.judge import Judge

SCRIPT = Path(__file__).parents[2] / "experiments" / "soundness_campaign.py"
SIMPLE = Architecture((2,), ("dense 4", "relu", "dense 3"))


@pytest.fixture(autouse=True)
def shared_process(monkeypatch):
    """What other tests compiled is theirs."""
    monkeypatch.setattr(jax, "clear_caches", lambda: None)


@pytest.fixture
def simple(monkeypatch):
    """Every random architecture is the same small one, which compiles in no time."""
    monkeypatch.setattr(campaign, "draw_architecture", lambda rng, family: SIMPLE)


def small(tmp_path, **settings):
    return campaign.run(tmp_path, 30, 0, kinds=("bounds",), **settings)


# ------------------------------------------------------------------ a small campaign


@pytest.mark.campaign
def test_a_small_campaign_finds_no_violation(tmp_path, simple, monkeypatch):
    (record,) = small(tmp_path)
    # Two boxes, three rows, nine offsets, three oracles.
    assert record["networks"] == 30 and record["verdicts"] == 30 * 2 * 3 * 9 * 3
    assert record["violations"] == 0 and record["not_judged"] == 0
    assert record["proved"] > 500 and record["refuted"] > 200
    assert not (tmp_path / "violations").exists()
    lines = (tmp_path / "groups.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [record]

    # --resume: nothing is done again, but for a line that was cut off.
    path = tmp_path / "groups.jsonl"
    made = []
    original = campaign.bounds.bounds_group
    monkeypatch.setattr(
        campaign.bounds, "bounds_group", lambda *a: made.append(1) or original(*a)
    )
    assert small(tmp_path, resume=True) == [record] and not made
    path.write_text(lines[0][:-5])
    (again,) = small(tmp_path, resume=True)
    assert made == [1]
    assert {**again, "seconds": 0} == {**record, "seconds": 0}
    with pytest.raises(InputError, match="already holds a campaign .groups.jsonl.. Co"):
        small(tmp_path)
    with pytest.raises(InputError, match="written with --seed=0 --networks=30"):
        campaign.run(tmp_path, 30, 1, resume=True, kinds=("bounds",))


def test_the_script_ends_with_1_where_a_group_has_violations(tmp_path, capsys):
    record = {
        "group": "bounds_piecewise-000", "seed": 0, "of_networks": 4, "networks": 4,
        "verdicts": 9, "proved": 1, "refuted": 3, "unknown": 5, "violations": 0,
    }  # fmt: skip
    for violations in (0, 2):
        line = json.dumps({**record, "violations": violations})
        (tmp_path / "groups.jsonl").write_text(line + "\n")
        ended = ran(
            command, capsys, output=tmp_path, resume=True, networks=4, kinds="bounds"
        )
        assert ended.code == (violations > 0), ended.err
        heading, row, _ = ended.out.splitlines()
        assert heading.split()[-1] == "violations"
        assert row.split() == ["bounds", "piecewise", "4", "9", "1", "3", "5",
                               str(violations)]  # fmt: skip


# Bounds are asked about needles in ../branch/test_exact.py.
@pytest.mark.campaign
def test_planted_spikes_are_not_proved_by_bounds():
    asker = exact_polygons.Asker(planted.SPIKED["deep"])
    rng, lo, hi = np.random.default_rng(0), np.zeros(3), np.ones(3)
    for _ in range(10):
        params, point = planted.spiked(rng, asker.architecture, lo, hi)
        tally = campaign.Tally()
        for way in ("ibp", "crown"):
            asker.ask(
                tally, params, (lo, hi), (np.array([[1.0, -1]]), np.zeros(1)), way,
                None, point,
            )  # fmt: skip
        assert tally.proved == 0 and not tally.suspicions
        layers = [(w.T, b) for w, b in (p for p in params if p)]
        margin = exact.evaluate(layers, point) @ [1, -1]
        assert margin < 0
        # Away from the spike the network is robust.
        others = exact.evaluate(layers, rng.uniform(lo, hi, (200, 3))) @ [1, -1]
        assert np.median(others) > 0


# ------------------------------------------------------------------ planted faults


def test_without_the_slack_the_campaign_reports_violations(
    tmp_path, simple, monkeypatch, capsys
):
    for module in (rounding, incomplete):
        monkeypatch.setattr(
            module, "float64_slack", lambda *a, **_: jnp.zeros((), jnp.float64)
        )
    (record,) = small(tmp_path)
    assert record["by_claim"]["proved"] > 0
    saved = sorted((tmp_path / "violations").glob("*.json"))
    assert len(saved) == 5 and record["violations"] > 5
    found = load(saved[0])
    assert found.architecture == SIMPLE and found.stands()
    margin = json.loads(saved[0].read_text())["exact_margin"]
    assert float(margin) == float(found.margin()) <= 0
    # The library as it is does not claim it: the fault was ours.
    monkeypatch.undo()
    assert campaign.reproduce(saved[0], ("ibp", "crown")) == 0
    assert "PROVED" not in capsys.readouterr().out


@pytest.mark.campaign
def test_a_shifted_bound_is_reported(tmp_path, simple, monkeypatch):
    original = Ibp.rows_and_boxes

    def shifted(self, params, box, spec):
        rows, boxes = original(self, params, box, spec)
        return rows + 1e-6 * (1 + jnp.abs(rows)), boxes

    monkeypatch.setattr(Ibp, "rows_and_boxes", shifted)
    (record,) = small(tmp_path)
    assert record["by_claim"]["proved"] > 0
    assert campaign.table([record]).splitlines()[-1].split()[-1] != "0"


@pytest.mark.campaign
def test_a_false_witness_is_reported(tmp_path, simple, monkeypatch):
    monkeypatch.setattr(attack, "point_slack", lambda *a: jnp.asarray(-1e-2))
    monkeypatch.setattr(Judge, "slack", lambda *a: -1e-2)
    (record,) = small(tmp_path)
    assert set(record["by_claim"]) == {"refuted"}


def test_exact_minima_refute_a_bound_that_is_too_high(monkeypatch):
    monkeypatch.setattr(
        exact_polygons.Asker, "verdict", lambda *a: incomplete_verdict()
    )
    rng = np.random.default_rng(0)
    tally = exact_polygons.exact_group(bounds.draw_problems(rng, SIMPLE, 3), rng)
    # One of three specs fails in truth; every oracle "proves" all of them.
    violations, left = tally.judged()
    assert left == 0 and len(violations) == 3 * 4
    assert {v.claim for v in violations} == {"proved, exactly not"}


def incomplete_verdict():
    one = jnp.ones(())
    return incomplete.from_bound(one, jnp.zeros(2), jnp.zeros((), bool), 0.0)


# ------------------------------------------------- networks whose arithmetic matters


def few_casts(rng):
    architecture = Architecture((2,), ("cast bfloat16", "dense 3"))
    return rounded.own_group(rounded.own_problems(rng, architecture, 12), rng, ())


def few_computed(rng):
    architecture = Architecture((2,), ("cancelled 3",))
    return rounded.own_group(rounded.own_problems(rng, architecture, 12), rng, ())


def few_double(rng):
    architecture = Architecture((2,), ("dense 3",))
    boxes = ("small", "wide")
    problems = bounds.draw_problems(rng, architecture, 12, ("double",), boxes)
    return ties.minima_group(problems, rng, ties.DOUBLE_SHIFTS, "onnx", ())


def few_ties(rng):
    problems = bounds.draw_problems(
        rng, Architecture((2,), ("dense 3", "clip")), 12, ("dyadic",), ("small", "wide")
    )
    return ties.minima_group(ties.dyadic(problems), rng, ties.TIE_SHIFTS, "jax", ())


def few_strict(rng):
    return strict.strict_group(rng, Architecture((2,), ("dense 3", "clip")), 12)


def few_layernorm(rng):
    architecture = Architecture((3,), ("layernorm 1e-6", "dense 3"))
    problems = bounds.draw_problems(rng, architecture, 8, boxes=("small", "tiny"))
    return exact_polygons.points_group(problems, rng, ("crown",), (-1e-3, 1e-3, 1.0))


FEW = {
    "casts": few_casts, "computed": few_computed, "double": few_double,
    "ties": few_ties, "strict": few_strict, "layernorm": few_layernorm,
}  # fmt: skip


# Oracles are asked about casts in ../trace/test_precision.py.
@pytest.mark.campaign
@pytest.mark.parametrize("kind", FEW)
def test_a_few_networks_of_every_kind_show_no_violation(kind: str):
    tally = FEW[kind](np.random.default_rng(0))
    violations, left = tally.judged()
    assert not left and not [(v.claim, v.oracle) for v in violations]
    assert tally.networks >= 8 and tally.proved > 0
    # A witness must hold in every way of computing weights: of these few, none does.
    assert tally.refuted > 0 or kind == "computed"


@pytest.mark.parametrize("kind", sampled(FEW))
def test_an_oracle_that_proves_everything_is_noticed(kind: str, monkeypatch, tmp_path):
    verdict = incomplete_verdict()
    monkeypatch.setattr(exact_polygons.Asker, "verdict", lambda *a: verdict)
    monkeypatch.setattr(strict, "answer", lambda *a: ("unsat", ""))
    tally = FEW[kind](np.random.default_rng(0))
    violations, _ = tally.judged()
    assert len(violations) >= 3 and tally.proved > len(violations)
    assert {v.claim for v in violations} <= {"proved", "proved, exactly not"}
    # What is saved tells all that is needed to ask again.
    save(tmp_path, "first", violations[0])
    again = load(tmp_path / "first.json")
    assert again.stands() and again.text == violations[0].text
    assert again.route == violations[0].route
    assert again.margin() == violations[0].margin()


@pytest.mark.parametrize("kind", sampled(FEW))
def test_a_witness_that_is_none_is_noticed(kind: str, monkeypatch):
    def refuted(self, params, box, *rest):
        found = incomplete_verdict()
        status = np.int32(Status.REFUTED)
        return dataclasses.replace(found, status=status, witness=box[0])

    lines = "((X_0 0.0)\n (X_1 0.0)\n (Y_0 1.0)\n (Y_1 1.0))"
    monkeypatch.setattr(exact_polygons.Asker, "verdict", refuted)
    monkeypatch.setattr(strict, "answer", lambda *a: ("sat", lines))
    violations, _ = FEW[kind](np.random.default_rng(0)).judged()
    assert len(violations) >= 3
    assert {v.claim for v in violations} <= {"refuted", "refuted, exactly not"}


@pytest.mark.parametrize("layers", [("cast bfloat16", "dense 3"), ("dense 3", "clip")])
def test_a_certificate_that_is_too_large_is_noticed(layers, monkeypatch):
    def certified(f, params, x, **settings):
        n = len(x)
        label = np.array([int(f(params, jnp.float32(v)).argmax()) for v in x])
        nothing = np.full_like(x, np.nan)
        return jc.Certification(
            np.zeros(n, int), label, label, np.full(n, np.inf), np.full(n, np.inf),
            jc.Box(np.full_like(x, -2.0), np.full_like(x, 2.0)), nothing,
            np.full(n, -1), np.zeros(n, int), np.zeros(n, int),
        )  # fmt: skip

    monkeypatch.setattr(certify.jc, "certify", certified)
    architecture = Architecture((2,), layers)
    tally = certify.certify_group(
        np.random.default_rng(0), architecture, 3, "crown", ("plain",)
    )
    violations, _ = tally.judged()
    assert violations and {v.claim for v in violations} == {"proved"}


def test_every_group_of_the_new_kinds_has_its_share_of_networks():
    for kind in FEW:
        names = [name for name, _ in getattr(arithmetic, kind)(3000)]
        assert len(set(names)) == len(names) >= 3
        assert kind in campaign.DEFAULT_KINDS


# ------------------------------------------------------------------ the judges


def test_polygons_agree_with_one_linear_program_per_pattern():
    architecture = Architecture((2,), ("dense 4", "relu", "dense 3", "relu", "dense 3"))
    rng = np.random.default_rng(0)
    for _ in range(4):
        x = draw_center(rng, (2,))
        params = draw_params(rng, architecture, x, "plain")
        row = rng.normal(size=3)
        lo, hi = x - 0.5, x + [0.5, rng.integers(2)]
        least, point = exact_polygons.exact_minimum(architecture, params, lo, hi, row)
        layers = [(w.T, b) for w, b in (p for p in params if p)]
        other = exact.brute_force_min_margin(layers, lo, hi, row, 0.0)
        assert float(least) == pytest.approx(other.value, abs=1e-7)
        assert exact.evaluate(layers, point) @ row == pytest.approx(float(least))


def test_polygons_of_every_piecewise_layer_lie_below_all_points():
    layers = ("dense 6", "max_pair", "residual", "dense 4", "clip", "scale", "dense 6",
              "min_pair", "leaky_relu", "dense 3", "abs", "max_half")  # fmt: skip
    architecture = Architecture((2,), layers)
    rng = np.random.default_rng(1)
    params = draw_params(rng, architecture, np.zeros(2), "plain")
    lo, hi = np.array([-1.0, -0.5]), np.array([1.0, 1.0])
    row = rng.normal(size=3)
    least, point = exact_polygons.exact_minimum(architecture, params, lo, hi, row)
    axes = np.stack(np.meshgrid(*[np.linspace(0, 1, 81)] * 2), axis=-1)
    grid = lo + (hi - lo) * axes.reshape(1, -1, 2)
    lifted = jax.tree.map(lambda v: LONG.convert(v[None]), params)
    values = architecture.evaluate(LONG, lifted, LONG.convert(grid))[0] @ row
    assert float(least) - 1e-12 <= values.min() <= float(least) + 0.2
    at = architecture.exact(params, point) @ [float(c) for c in row]
    assert float(at) == pytest.approx(float(least))


@pytest.mark.parametrize(
    "family", sampled(["piecewise", "products", "smooth", "image", "folded"], 2)
)
def test_judges_agree_with_each_other_and_with_jax(family: str):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        architecture = draw_architecture(rng, family)
        x = draw_center(rng, architecture.shape)
        params = draw_params(rng, architecture, x, "plain")
        lifted = jax.tree.map(lambda v: LONG.convert(v[None]), params)
        long = architecture.evaluate(LONG, lifted, LONG.convert(x[None, None]))[0, 0]
        exactly = architecture.exact(params, x).astype(np.float64)
        with jax.enable_x64(True):
            y = np.asarray(architecture.function()(params, jnp.asarray(x)))
        np.testing.assert_allclose(long.astype(np.float64), exactly, 1e-14, 1e-15)
        np.testing.assert_allclose(y, exactly, 1e-11, 1e-12)


def test_polygons_tell_open_faces_from_closed_ones():
    """y = (x0, x1), 0 <= x0, x0 <= 1 and x1 in [0, 1]: x0 >= 1 is met on a face."""
    architecture = Architecture((2,), ("dense 2",))
    params = ((np.eye(2), np.zeros(2)),)
    lo, hi, no = np.zeros(2), np.ones(2), np.zeros(2, bool)
    pieces = exact_polygons.pieces_of(architecture, params, lo, hi)

    def violated(open_hi, strict_output, row=(-1.0, 0.0), constant=1):
        asked = strict.Comparison(np.array(row), constant, strict_output, "")
        question = strict.Question(lo, hi, no, np.array(open_hi), (asked,), False)
        return question.violation(pieces)

    assert violated([False, True], False) == (1, 0.5)
    assert violated([True, False], False) is None
    assert violated([False, False], True) is None
    assert violated([True, True], True, constant=0.5) is not None
    # Only the corner (1, 1) has x0 + x1 >= 2.
    assert violated([False, False], False, (-1.0, -1.0), 2) == (1, 1)
    assert violated([False, True], False, (-1.0, -1.0), 2) is None


def test_a_property_reads_as_it_was_meant(tmp_path):
    rng = np.random.default_rng(0)
    architecture = Architecture((2,), ("dense 3", "clip"))
    params = draw_params(rng, architecture, np.zeros(2), "dyadic")
    points = np.stack(np.meshgrid(*[np.arange(-8, 9) / 8] * 2), axis=-1).reshape(-1, 2)
    held = 0
    for _ in range(40):
        question = strict.draw_question(rng, architecture, params)
        (tmp_path / "p.vnnlib").write_text(question.text(3))
        prop = load_vnnlib(tmp_path / "p.vnnlib")
        for x in points[rng.integers(len(points), size=40)]:
            y = architecture.exact(params, x)
            expected = question.contains(x) and question.satisfied(y)
            assert prop.violates(x, [float(v) for v in y]) == expected
            held += expected
    assert held > 10


def test_networks_that_round_are_judged_by_their_own_answers():
    architecture = Architecture((1,), ("cast bfloat16", "dense 2"))
    params = ((), (np.float32([[1], [0]]), np.float32([0, 0.5004])))
    row, none = np.array([[-1.0, 1.0]]), np.zeros(1)
    # The example: .5008 is .5 in bfloat16, which is less than .5004.
    margin, doubt = own.own_margin(architecture, params, np.array([0.5008]), row, none)
    assert 0.0003 < margin < 0.0005 and 0 < doubt < 1e-5
    margin, _ = own.own_margin(architecture, params, np.array([0.503]), row, none)
    assert margin < -0.003
    least, point = own.own_least(
        architecture, jax.tree.map(lambda v: v[None], params), np.array([[0.5]]),
        np.array([[0.503]]), row[None], np.random.default_rng(0),
    )  # fmt: skip
    assert float(least[0, 0]) == pytest.approx(0.5004 - 0.50390625, abs=2e-5)
    assert 0.5019 < point[0, 0, 0] <= 0.503


def test_every_regime_gives_finite_weights():
    rng = np.random.default_rng(0)
    for family in ("piecewise", "smooth", "image", "folded"):
        for regime in {*REGIMES, "underflow", "flushed", "offsets"}:
            architecture = draw_architecture(rng, family)
            x = draw_center(rng, architecture.shape)
            params = draw_params(rng, architecture, x, regime)
            assert all(np.isfinite(v).all() for p in params for v in p)


def test_a_point_that_satisfies_the_spec_is_no_violation():
    params = draw_params(np.random.default_rng(0), SIMPLE, np.zeros(2), "plain")
    x = np.zeros(2)
    row = np.array([[1.0, 0.0, 0.0]])
    y = float(SIMPLE.exact(params, x)[0])
    doubt = Suspicion("proved", "", SIMPLE, params, x, x, row, np.array([-y]), x)
    assert doubt.stands() == (SIMPLE.exact(params, x)[0] <= y)
    shifted = dataclasses.replace(doubt, offset=np.array([1e-9 - y]))
    assert not shifted.stands()
    refuted = dataclasses.replace(shifted, claim="refuted")
    assert refuted.stands()


def test_the_table_fits_80_columns():
    record = {
        "group": "bounds_piecewise-000", "networks": 10000, "verdicts": 9_999_999,
        "proved": 1_000_000, "refuted": 100_000, "unknown": 8_899_999,
        "violations": 12345,
    }  # fmt: skip
    lines = campaign.table([record, {**record, "group": "published-fashion"}])
    assert all(len(line) <= 80 for line in lines.splitlines())
    assert lines.splitlines()[-1].split() == [
        "all", "20,000", "19,999,998", "2,000,000", "200,000", "17,799,998", "24,690",
    ]  # fmt: skip
