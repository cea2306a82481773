"""What a box leaves of a network, and bounds of that."""

from __future__ import annotations

import functools
from fractions import Fraction

import jax
import numpy as np
import pytest
from cases import (
    exact32,
    random_network,
    residual_network,
    sampled,
    without_shortcuts,
)
from exact import exact_min_margin

import jaxcert as jc
from jaxcert.bounds import blocks, undecided
from jaxcert.bounds.blocks import Chosen
from jaxcert.bounds.staged import Staged
from jaxcert.bounds.undecided import Undecided, is_reducible
from jaxcert.model import Model

SIZES = (3, 8, 8, 3)
ROWS = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [-1.0, 0.0, 0.5]])
SPEC = jc.Spec.rows(ROWS, np.array([0.5, -0.25, 0.0]))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Two layers fill two blocks; a third one would ask for more."""
    monkeypatch.setattr(undecided, "_CAPACITY", 128)
    with jax.enable_x64(True):
        yield


@functools.cache
def asked(seed: int, width: float) -> tuple[Model, jc.Box]:
    center = np.array([0.3, -0.2, 0.5])
    box = jc.Box(center - width / 2, center + width / 2)
    return Model(residual_network, random_network(SIZES, seed), (3,)), box


def left_of(model: Model, box: jc.Box) -> Undecided:
    left = Undecided(model.program, model.prepared, box)
    assert left.reduce()
    return left


def points_of(box: jc.Box, count: int = 200) -> np.ndarray:
    inside = np.random.default_rng(0).uniform(box.lo, box.hi, (count, 3))
    corners = np.random.default_rng(1).integers(0, 2, (count, 3)).astype(bool)
    return np.concatenate([inside, np.where(corners, box.lo, box.hi)])


CASES = [(seed, width) for seed in range(8) for width in (0.0, 0.1, 0.6)]


@pytest.mark.parametrize("case", sampled(CASES, 4))
def test_what_is_left_is_the_network_on_the_box(case):
    model, box = asked(*case)
    left = left_of(model, box)
    assert case[1] > 0 or left.size == 0
    maps = left.rows_of(SPEC)
    assert np.all(maps.loss > 0) and np.all(maps.loss < 1e-10)
    x = points_of(box)
    y = model.outputs(x) @ ROWS.T + np.asarray(SPEC.offset)
    for row in range(3):
        rows = maps.at(np.full(len(x), row)).rows(left.before)
        found = np.asarray(blocks.values(left.blocks[0], rows, x))
        # A value is charged for the rounding that bounds are.
        assert np.all(np.abs(found + maps.loss[row] - y[:, row]) <= maps.loss[row])


@pytest.mark.parametrize("case", sampled(CASES, 3))
def test_bounds_are_those_of_crown_and_hold_of_all_points(case):
    model, box = asked(*case)
    staged = Staged(model.program, model.prepared, box)
    staged.tighten()
    left = left_of(model, box)
    maps = left.rows_of(SPEC)
    crown, _ = left.least(maps, 0)
    np.testing.assert_allclose(crown, staged.rows(SPEC), rtol=0, atol=1e-9)
    better, slopes = left.least(maps, 12)
    assert np.all(better >= crown)
    assert np.all((slopes >= 0) & (slopes <= 1))
    wide = left.blocks[0].ranges
    left.tighten(8)
    narrow = left.blocks[0].ranges
    assert np.all(narrow.lo >= wide.lo) and np.all(narrow.hi <= wide.hi)
    best, _ = left.least(maps, 12)
    y = model.outputs(points_of(box)) @ ROWS.T + np.asarray(SPEC.offset)
    assert np.all(best <= y.min(axis=0))


@pytest.mark.parametrize("seed", sampled(range(8), 1))
def test_bounds_and_ranges_are_no_greater_than_least_values(seed):
    """Judged by MILPs, which are right to 1e-6."""
    model, box = asked(seed, 0.6)
    layers = without_shortcuts(random_network(SIZES, seed), box.lo)
    left = left_of(model, box)
    left.tighten(8)
    bounds, _ = left.least(left.rows_of(SPEC), 12)
    for row, offset, bound in zip(ROWS, SPEC.offset, bounds, strict=True):
        exact = exact_min_margin(layers, box.lo, box.hi, row, float(offset)).value
        assert bound <= exact + 1e-6
    second = range(*left.layers[1])
    assert len(second) > 0
    ranges = left.blocks[0].ranges
    neurons = left.neurons[list(second)] - 8
    for slot, neuron in zip(second, neurons, strict=True):
        row = np.eye(19)[neuron]
        lo = exact_min_margin(layers[:2], box.lo, box.hi, row, 0.0).value
        hi = -exact_min_margin(layers[:2], box.lo, box.hi, -row, 0.0).value
        assert ranges.lo[slot] <= lo + 1e-6 and hi - 1e-6 <= ranges.hi[slot]


def test_derivatives_are_those_of_the_bound():
    model, box = asked(0, 0.6)
    left = left_of(model, box)
    double, _ = left.blocks
    maps = left.rows_of(SPEC)
    rng = np.random.default_rng(0)
    shape = 3, left.capacity
    signs = rng.integers(-1, 2, shape).astype(np.int8)
    chosen = Chosen(rng.uniform(0, 1, shape), rng.uniform(0, 0.1, shape))
    rows = maps.rows(left.before)
    bounded = jax.jit(blocks.least)
    pulled = bounded(double, rows, signs, chosen)
    found = blocks.derivative(double, rows, signs, chosen, pulled)
    step = 1e-6
    free = np.asarray(double.ranges.lo < 0) & np.asarray(double.ranges.hi > 0)
    checked = 0
    for name in ("slope", "split"):
        for neuron in np.flatnonzero(free):
            moved = {}
            for side in (-step, step):
                to = np.array(getattr(chosen, name))
                to[:, neuron] += side
                new = Chosen(**{"slope": chosen.slope, "split": chosen.split, name: to})
                moved[side] = np.asarray(bounded(double, rows, signs, new).bound)
            numeric = (moved[step] - moved[-step]) / (2 * step)
            of_sign = signs[:, neuron]
            used = of_sign == 0 if name == "slope" else of_sign != 0
            exact = np.asarray(getattr(found, name))[:, neuron]
            np.testing.assert_allclose(numeric[used], exact[used], atol=1e-6)
            checked += int(np.sum(np.abs(numeric[used]) > 1e-3))
    assert checked > 10


def test_signs_and_their_multipliers_bound_the_part_where_they_hold():
    model, box = asked(0, 0.6)
    left = left_of(model, box)
    double, _ = left.blocks
    maps = left.rows_of(SPEC)
    x = points_of(box, 2000)
    rows = maps.at(np.zeros(len(x), int)).rows(left.before)
    z = np.asarray(blocks.neurons_at(double, rows.before, x)[0])
    y = np.asarray(blocks.values(double, rows, x))
    slots = np.flatnonzero(left.neurons >= 0)
    rng, bounded = np.random.default_rng(0), jax.jit(blocks.least)
    met = 0
    for _ in range(40):
        some = rng.choice(slots, 2, replace=False)
        signs = np.zeros((1, left.capacity), np.int8)
        signs[0, some] = rng.choice([-1, 1], 2)
        slope = rng.uniform(0, 1, signs.shape)
        split = rng.uniform(0, 1, signs.shape) * 10 ** rng.uniform(-3, 1)
        row = maps.at([0]).rows(left.before)
        bound = bounded(double, row, signs, Chosen(slope, split)).bound[0]
        inside = np.all(z[:, some] * signs[0, some] >= 0, axis=1)
        met += int(inside.any())
        assert np.all(y[inside] >= bound)
    assert met > 10


@pytest.mark.parametrize("seed", range(4))
def test_bounds_hold_of_exact_values_where_sums_cancel(seed):
    """Rational arithmetic is the judge; without losses some bound would be wrong."""
    rng = np.random.default_rng(seed)
    params = [
        (exact32(rng.normal(size=(8, 3)) * 1e4), exact32(rng.normal(size=8) * 1e4)),
        (exact32(rng.normal(size=(8, 8)) * 1e4), exact32(rng.normal(size=8))),
        (exact32(rng.normal(size=(3, 8))), exact32(rng.normal(size=3))),
    ]
    model = Model(residual_network, params, (3,))
    point = exact32(rng.normal(size=3))
    box = jc.Box(point, point)
    spec = jc.Spec.rows(np.concatenate([np.eye(3), -np.eye(3)]), np.zeros(6))
    left = left_of(model, box)
    maps = left.rows_of(spec)
    bounds, _ = left.least(maps, 0)

    def times(matrix, vector, offset):
        return [
            sum((Fraction(float(a)) * v for a, v in zip(row, vector, strict=True)),
                Fraction(float(b)))
            for row, b in zip(matrix, offset, strict=True)
        ]  # fmt: skip

    x = [Fraction(float(v)) for v in point]
    h = [max(v, Fraction(0)) for v in times(params[0][0], x, params[0][1])]
    k = [max(v, Fraction(0)) for v in times(params[1][0], h, params[1][1])]
    k = [a + b for a, b in zip(k, h, strict=True)]
    y = [a + b for a, b in zip(times(params[2][0], k, params[2][1]), x, strict=True)]
    exact = [*y, *(-v for v in y)]
    assert all(Fraction(float(b)) <= v for b, v in zip(bounds, exact, strict=True))
    spare = [float(v - Fraction(float(b))) for b, v in zip(bounds, exact, strict=True)]
    size = max(abs(float(v)) for v in exact)
    assert max(spare) <= 1e-9 * size
    # Both sides of a value lose something: it was not computed exactly.
    assert all(a + b > 0 for a, b in zip(spare[:3], spare[3:], strict=True))


def test_nothing_is_known_of_rows_over_neurons_that_blocks_lack():
    model, box = asked(0, 0.6)
    left = left_of(model, box)
    whole = left.rows_of(SPEC)
    place = int(np.flatnonzero(left.neurons >= 0)[-1])
    left.neurons[place] = -1
    bounds, _ = left.least(left.rows_of(SPEC), 0)
    reaches = whole.of_output[:, place] != 0
    assert reaches.any()
    assert not (bounds[reaches] > -np.inf).any()


def test_what_a_row_decides_of_an_exact_range_is_decided_everywhere():
    """Intervals charge the first layer more than rows do: a neuron at 0 may differ."""
    params = [(np.eye(8, 3), np.zeros(8)), *random_network(SIZES, 0)[1:]]
    model = Model(residual_network, params, (3,))
    box = jc.Box(np.zeros(3), np.full(3, 0.5))
    left = left_of(model, box)
    least, _ = left.least(left.rows_of(SPEC), 0)
    y = model.outputs(points_of(box)) @ ROWS.T + np.asarray(SPEC.offset)
    assert np.all(np.isfinite(least)) and np.all(least <= y.min(axis=0))


def test_blocks_grow_with_what_is_undecided(monkeypatch):
    model, box = asked(0, 0.6)
    whole = left_of(model, box)
    monkeypatch.setattr(undecided, "_CAPACITY", 64)
    grown = left_of(model, box)
    assert grown.capacity == 128 and grown.size == whole.size
    mine, other = grown.blocks[0].ranges, whole.blocks[0].ranges
    np.testing.assert_allclose(mine.lo, other.lo, rtol=0, atol=1e-10)
    np.testing.assert_allclose(mine.hi, other.hi, rtol=0, atol=1e-10)
    monkeypatch.setattr(undecided, "_MOST", 64)
    assert not Undecided(model.program, model.prepared, box).reduce()


def test_nothing_is_found_when_the_time_is_over():
    model, box = asked(0, 0.6)
    late = Undecided(model.program, model.prepared, box, deadline=0.0)
    assert not late.reduce()


def test_which_networks_are_reducible():
    def program(f):
        return Model(f, [np.ones(3)], (3,)).program

    assert is_reducible(program(lambda p, x: p[0] * jax.nn.relu(p[0] * x)))
    assert not is_reducible(program(lambda p, x: p[0] * x))
    assert not is_reducible(program(lambda p, x: p[0] * jax.nn.relu(x)))
