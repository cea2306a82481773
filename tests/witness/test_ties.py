"""Verdicts at ties: random networks of small integers, judged by fractions.

A network of dyadic weights takes its least value at vertices of the arrangement of its
kinks, so ties are frequent, and fractions know them. Nothing here has a tolerance.
"""

from __future__ import annotations

import os
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled

import jaxcert as jc
from jaxcert.box import distance_above
from jaxcert.branch.signs import BranchOptions
from jaxcert.model import Model
from jaxcert.witness.judge import Judge


def f(params, x):
    w1, b1, w2, b2, w3, b3 = params
    h = jax.nn.relu(w1 @ x + b1)
    h = jax.nn.relu(w2 @ h + b2)
    return w3 @ h + b3


def network(rng: np.random.Generator, width: int = 3):
    def dyadic(*shape: int) -> np.ndarray:
        return (rng.integers(-4, 5, size=shape) / 4).astype(np.float32)

    return (
        dyadic(width, 2), dyadic(width), dyadic(width, width), dyadic(width),
        dyadic(2, width), dyadic(2),
    )  # fmt: skip


def fractions(array) -> list:
    return [Fraction(float(v)) for v in np.asarray(array).reshape(-1)]


def exact(params, x: list[Fraction]) -> list[Fraction]:
    """Returns the outputs at x, by lists of fractions."""
    for layer in range(3):
        w, b = params[2 * layer], fractions(params[2 * layer + 1])
        x = [
            sum((p * q for p, q in zip(fractions(row), x, strict=True)), c)
            for row, c in zip(w, b, strict=True)
        ]
        if layer < 2:
            x = [max(v, Fraction(0)) for v in x]
    return x


def exact_least(params, lo, hi, row) -> Fraction:
    """Returns the least `row y` over a box of two features: that of a vertex.

    The box is cut into convex polygons by the kinks, neuron by neuron; on each of them
    every neuron is an affine map (a, b, c): a x_0 + b x_1 + c.
    """
    (a, c), (b, d) = fractions(lo), fractions(hi)
    polygons = [([(a, c), (b, c), (b, d), (a, d)], [(1, 0, 0), (0, 1, 0)])]
    for layer in range(3):
        w, bias = params[2 * layer], fractions(params[2 * layer + 1])
        found = []
        for corners, maps in polygons:
            lines = []
            for weights, offset in zip(w, bias, strict=True):
                line = [Fraction(0), Fraction(0), offset]
                for weight, part in zip(fractions(weights), maps, strict=True):
                    line = [p + weight * q for p, q in zip(line, part, strict=True)]
                lines.append(tuple(line))
            found += [(corners, lines)] if layer == 2 else split(corners, lines)
        polygons = found
    weights = fractions(row)
    return min(
        sum(r * value(line, v) for r, line in zip(weights, lines, strict=True))
        for corners, lines in polygons
        for v in corners
    )


def value(line, vertex) -> Fraction:
    return line[0] * vertex[0] + line[1] * vertex[1] + line[2]


def split(corners, lines, done=()):
    """Returns the parts of a polygon with the relus of the lines on each."""
    if len(done) == len(lines):
        return [(corners, list(done))]
    line, parts = lines[len(done)], []
    values = [value(line, v) for v in corners]
    for sign, kept in ((1, line), (-1, (Fraction(0),) * 3)):
        part = []
        for i, (p, u) in enumerate(zip(corners, values, strict=True)):
            q, v = corners[i - 1], values[i - 1]
            if u * v < 0:
                t = v / (v - u)
                part.append(tuple(m + t * (n - m) for m, n in zip(q, p, strict=True)))
            if sign * u >= 0:
                part.append(p)
        if part:
            parts += split(part, lines, (*done, kept))
    return parts


def quarters(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    lo = rng.integers(-4, 4, size=2) / 4
    return lo, lo + rng.integers(0, 5, size=2) / 4


ROW = np.array([1.0, -1.0])
NETWORKS = int(os.environ.get("JAXCERT_TIES", "40"))


@pytest.mark.parametrize("split_signs", sampled([True, False], 1))
def test_verdicts_at_ties_are_those_of_fractions(split_signs: bool):
    rng = np.random.default_rng(int(split_signs))
    branch = BranchOptions(block=16, narrow=0 if split_signs else 8, steps=5)
    options = jc.CertifyOptions(oracle="complete", branch=branch)
    ties = refuted_ties = decided = 0
    for _ in range(NETWORKS):
        params, (lo, hi) = network(rng), quarters(rng)
        least = exact_least(params, lo, hi, ROW)
        # Of the least values some are no float64 numbers: then there is no tie.
        for shift in (0.0, 2.0**-60, -(2.0**-60), 0.25):
            offset = float(-least) + shift
            truth = least + Fraction(offset)
            spec = jc.Spec.rows(ROW[None], np.array([offset]))
            verdict = jc.verify(f, params, jc.Box(lo, hi), spec, options=options)
            if verdict.proved:
                assert truth > 0
            if verdict.refuted:
                z = np.asarray(verdict.witness)
                assert (lo <= z).all() and (z <= hi).all()
                y = exact(params, fractions(z))
                assert y[0] - y[1] + Fraction(offset) <= 0
                assert truth <= 0
            decided += bool(verdict.proved | verdict.refuted)
            if truth == 0:
                ties += 1
                refuted_ties += bool(verdict.refuted)
    # A vertex that is no float64 point is no witness that anybody could write down.
    assert ties > 0.9 * NETWORKS / 2
    assert refuted_ties >= 0.9 * ties
    assert decided > 0.8 * 4 * NETWORKS


@pytest.mark.parametrize("seed", sampled(range(3)))
def test_upper_ends_at_ties_are_exact_distances(seed: int):
    rng = np.random.default_rng(seed)
    options = jc.CertifyOptions(oracle="complete", batch_size=16)
    for _ in range(3):
        params = network(rng)
        x = rng.integers(0, 9, size=(16, 2)) / 8
        answer = jc.certify(f, params, x, input_shape=(2,), options=options)
        for i in range(len(x)):
            if answer.outcome[i] == jc.Outcome.MISCLASSIFIED:
                continue
            label = int(answer.label[i])
            row = ROW if label == 0 else -ROW
            if np.isfinite(answer.upper[i]):
                z = answer.witness[i]
                y = exact(params, fractions(z))
                assert (y[0] - y[1]) * int(row[0]) <= 0
                away = max(
                    abs(a - b)
                    for a, b in zip(fractions(z), fractions(x[i]), strict=True)
                )
                assert away <= Fraction(float(answer.upper[i]))
                assert answer.witness_class[i] == 1 - label
            if np.isfinite(answer.lower[i]) and answer.lower[i] > 0:
                lo = np.maximum(x[i] - answer.lower[i], 0)
                hi = np.minimum(x[i] + answer.lower[i], 1)
                assert exact_least(params, lo, hi, row) > 0


def layer_norms(params, x):
    for w in params[:-1]:
        h = w @ x
        h = h - h.mean()
        x = h / jnp.sqrt((h * h).mean() + 1e-6)
    return params[-1] @ x


def test_a_margin_that_is_positive_by_less_than_the_slack_is_no_witness():
    with jax.enable_x64(True):
        judge = Judge(Model(lambda w, x: w * x, np.ones(1), (1,)))
        half = np.array([[0.5]])
        for margin in (2.0**-52, 0.0, -(2.0**-52)):
            spec = jax.tree.map(
                np.asarray, jc.Spec.rows(np.ones((1, 1)), np.array([margin - 0.5]))
            )
            values = judge.values(spec, half)
            assert values.margin[0] == margin and judge.slack(spec, half[0]) > abs(
                margin
            )
            assert (judge.first(spec, half) is None) == (margin > 0)


def test_the_slack_of_a_witness_is_that_of_the_point():
    rng = np.random.default_rng(0)
    shapes = (6, 3), (6, 6), (2, 6)
    params = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    # The box holds points where all of h is nearly equal: there no slack is finite.
    box = jc.Box(-np.ones(3), np.ones(3))
    options = jc.CertifyOptions(oracle="crown")
    spec = jc.Spec.classification(0, 2)
    verdict = jc.verify(layer_norms, params, box, spec, options=options)
    assert verdict.refuted
    h = np.asarray(verdict.witness)
    assert (np.abs(h) <= 1).all()
    for w in params[:-1]:
        h = w.astype(float) @ h
        h = (h - h.mean()) / np.sqrt(h.var() + 1e-6)
    margin = ROW @ (params[-1].astype(float) @ h)
    assert margin < -1
    np.testing.assert_allclose(verdict.witness_margin, margin, rtol=1e-6)


@pytest.mark.parametrize("oracle", sampled(["crown", "complete"]))
def test_a_tie_ends_the_bracket(oracle):
    def two(_, x):
        return jax.nn.relu(jnp.stack([x[0], x[1] - 3]))

    answer = jc.certify(
        two, {}, np.array([0.5, 0.0]), input_shape=(2,),
        options=jc.CertifyOptions(oracle=oracle),
    )  # fmt: skip
    assert answer.upper == 0.5
    assert 0.5 - 1e-4 <= answer.lower < 0.5
    assert answer.witness[0] == 0 and answer.witness_class == 1


@pytest.mark.parametrize("margin", [0.25, -0.25])
def test_a_required_margin_is_missed_at_equality(margin: float):
    def two(_, x):
        return jnp.stack([jax.nn.relu(x[0]), 0 * x[1]])

    answer = jc.certify(
        two, {}, np.array([0.75, 0.0]), np.int32(0), input_shape=(2,),
        required_margin=margin, domain=(np.full(2, -1.0), np.ones(2)),
        options=jc.CertifyOptions(oracle="complete"),
    )  # fmt: skip
    if margin > 0:
        # relu(x_0) > 1/4 fails at 1/4, at a distance of 1/2.
        assert 0.5 - 1e-4 <= answer.lower < 0.5 <= answer.upper <= 0.5 + 1e-9
    else:
        assert np.isinf(answer.upper) and np.isinf(answer.lower)


@pytest.mark.parametrize("seed", range(4))
def test_distances_are_rounded_up_to_the_next_number(seed: int):
    rng = np.random.default_rng(seed)
    for _ in range(500):
        x, z = rng.uniform(size=(2, 3))
        rates = jc.Rates(*rng.uniform(0.1, 3, size=(2, 3)))
        found = distance_above(jc.Box(x, x), rates, z)
        most = Fraction(0)
        for i in range(3):
            step = Fraction(z[i]) - Fraction(x[i])
            rate = rates.upper[i] if step > 0 else rates.lower[i]
            most = max(most, abs(step) / Fraction(rate))
        assert Fraction(found) >= most > Fraction(float(np.nextafter(found, 0)))
    still = jc.Rates(np.zeros(1), np.ones(1))
    assert np.isinf(distance_above(jc.Box(np.ones(1), np.ones(1)), still, np.zeros(1)))
    assert distance_above(jc.Box(np.ones(1), np.ones(1)), still, np.ones(1)) == 0


def test_of_steps_that_round_to_one_number_the_greatest_counts():
    rng, rounded = np.random.default_rng(5), 0
    for _ in range(200):
        x = rng.uniform(-1, 1, 8) * 2.0 ** rng.integers(-4, 4, 8)
        z = x + rng.choice([-1, 1], 8) * rng.choice([0.3, 2.0**-30, 0.7])
        rates = jc.Rates(*(np.full(8, rate) for rate in rng.choice([1.0, 0.7], 2)))
        found = Fraction(distance_above(jc.Box(x, x), rates, z))
        steps = [Fraction(b) - Fraction(a) for a, b in zip(x, z, strict=True)]
        exact = [
            abs(s) / Fraction((rates.upper if s > 0 else rates.lower)[0]) for s in steps
        ]
        assert Fraction(float(np.nextafter(float(found), 0))) < max(exact) <= found
        rounded += len(set(exact)) > len({abs(float(s)) for s in steps})
    assert rounded > 20


@pytest.mark.campaign
def test_the_upper_end_holds_its_witness_with_odd_rates():
    def two(w, x):
        return w @ x

    rng = np.random.default_rng(0)
    w = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], np.float32)
    rates = jc.Rates(np.array([0.7, 0.3, 1.1]), np.array([1.3, 0.9, 0.1]))
    x = rng.uniform(size=(64, 3))
    options = jc.CertifyOptions(batch_size=64)
    answer = jc.certify(two, w, x, rates=rates, options=options)
    count = 0
    for i in np.flatnonzero(np.isfinite(answer.upper) & (answer.upper > 0)):
        count += 1
        for z, a, down, up in zip(
            answer.witness[i], x[i], rates.lower, rates.upper, strict=True
        ):
            step = Fraction(z) - Fraction(a)
            exact_step = abs(step) / Fraction(up if step > 0 else down)
            assert exact_step <= Fraction(float(answer.upper[i]))
    assert count > 20


@pytest.mark.parametrize("seed", [0.0, 2.0**-1023])
def test_what_is_flushed_of_a_point_is_no_witness(seed):
    """tanh(1) is more than 1/2, and 1 is 2^1023 times the only number in the box."""

    def steep(w, x):
        return jnp.tanh(w * x * 2.0**23)

    box = jc.Box(np.full(1, 2.0**-1023), np.full(1, 2.0**-1023))
    spec = jax.tree.map(np.asarray, jc.Spec.rows(np.ones((1, 1)), np.array([-0.5])))
    with jax.enable_x64(True):
        judge = Judge(Model(steep, np.full(1, 2.0**1000), (1,)))
        found = judge.search(spec, box, np.array([[seed]]))
        assert judge.search(spec, jc.Box.point(np.zeros(1)), np.zeros((1, 1)))
    assert found is None
