"""Splitting the input: the features that vary, clipped to where violations can be."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_network, relu_network, sampled

import jaxcert as jc
from jaxcert.bounds.crown import CrownOptions
from jaxcert.bounds.quadratic import is_quadratic
from jaxcert.branch.inputs import (
    InputSplitOptions,
    Varying,
    bound_box,
    decide_by_input,
    violations,
)
from jaxcert.branch.search import by_parts
from jaxcert.branch.signs import BranchOptions
from jaxcert.devices import float64
from jaxcert.model import Model
from jaxcert.oracle import complete
from jaxcert.oracle.complete import branch_and_bound
from jaxcert.witness.judge import Judge

decided = jax.jit(bound_box, static_argnums=(0, 1))

CLAUSES = np.array([0, 1, 1], np.int32)


def three_rows(offset):
    """Row 0 alone, and one of the rows 1 and 2."""
    rows = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [-1.0, 0.0, 1.0]])
    return jc.Spec(jnp.asarray(rows), jnp.asarray(offset), jnp.asarray(CLAUSES), 2)


@pytest.mark.parametrize("seed", sampled(range(8), 2))
def test_no_violation_is_clipped_away(seed: int):
    rng = np.random.default_rng(seed)
    params = random_network((3, 10, 10, 3), seed)
    clipped = 0
    with float64():
        program = Model(relu_network, params, (3,)).program
        bound = jax.jit(functools.partial(bound_box, program, CrownOptions(bucket=4)))
        for _ in range(25):
            lo = rng.uniform(-1, 1, 3)
            hi = lo + rng.uniform(0, 0.6, 3)
            z = lo + (hi - lo) * rng.uniform(size=(2000, 3))
            z[:8] = np.where(np.indices((2, 2, 2)).reshape(3, -1).T, lo, hi)
            y = np.asarray(jax.vmap(relu_network, (None, 0))(params, jnp.asarray(z)))
            rows = y @ np.asarray(three_rows(np.zeros(3)).coefficients).T
            # Some of the points violate it, or nearly none do.
            value = np.minimum(rows[:, 0], np.maximum(rows[:, 1], rows[:, 2]))
            shift = np.quantile(value, rng.choice([0.0, 1e-3, 0.05, 0.5]))
            spec = three_rows(np.full(3, -shift))
            found = bound(params, jc.Box(jnp.asarray(lo), jnp.asarray(hi)), spec)
            violating = z[value - shift <= 0]
            assert len(violating)
            assert not found.proved
            inside = (violating >= found.box.lo) & (violating <= found.box.hi)
            assert inside.all()
            assert (lo <= found.box.lo).all() and (found.box.hi <= hi).all()
            clipped += bool((found.box.edges() < 0.9 * (hi - lo)).any())
    assert clipped > 3


def test_clipping_is_the_half_space_of_a_row():
    """z0 + 2 z1 - 1 > 0 on the unit square is violated below a line only."""
    with float64():
        box = jc.Box(jnp.zeros(2), jnp.ones(2))
        spec = jc.Spec.rows(jnp.ones((1, 1)), jnp.zeros(1))
        pulled, least = jnp.array([[1.0, 2.0]]), jnp.array([-1.0])
        part, empty = violations(box, spec, pulled, least, jnp.asarray(1e-12))
        assert not empty.any()
        np.testing.assert_allclose(part.hi, [[1.0, 0.5]], atol=1e-11)
        assert part.hi[0, 1] > 0.5  # outward
        np.testing.assert_array_equal(part.lo, [[0.0, 0.0]])
        # Undefined or infinite numbers clip nothing.
        for bad in (jnp.nan, jnp.inf, -jnp.inf):
            for rows, low in ((pulled * bad, least), (pulled, least * bad)):
                part, empty = violations(box, spec, rows, low, jnp.asarray(1e-12))
                assert not empty.any()
                np.testing.assert_array_equal(part.hi, [[1.0, 1.0]])
                np.testing.assert_array_equal(part.lo, [[0.0, 0.0]])


def test_rows_of_one_clause_that_are_never_both_violated_prove_it():
    """z0 - 1/4 > 0 or 3/4 - z0 > 0 holds everywhere; neither row does."""

    def f(params, x):
        return params * jnp.stack([x[0] - 0.25, 0.75 - x[0]])

    spec = jc.Spec.disjunction(np.eye(2), np.zeros(2))
    with float64():
        program = Model(f, np.ones(2), (1,)).program
        box = jc.Box(jnp.zeros(1), jnp.ones(1))
        assert decided(program, CrownOptions(), np.ones(2), box, spec).proved
        spec = jc.Spec.disjunction(np.eye(2), np.full(2, -0.25))
        assert not decided(program, CrownOptions(), np.ones(2), box, spec).proved


# ------------------------------------------------------------------------- features


def wide_network(seed: int):
    """Forty features in a row of images, of which a box lets two vary."""
    params = random_network((40, 12, 12, 2), seed)
    rng = np.random.default_rng(seed)
    lo = rng.uniform(-1, 1, (5, 8))
    hi = lo.copy()
    hi[1, 3] += 1.0
    hi[4, 0] += 1.5
    return params, jc.Box(lo, hi)


def images(params, x):
    return relu_network(params, x.reshape(-1))


@pytest.mark.parametrize("shift", [1e-3, -1e-3])
def test_a_box_of_few_varying_features_is_split_itself(shift: float, monkeypatch):
    monkeypatch.setattr(complete, "close_in_rounds", None)  # signs are not split
    params, box = wide_network(1)
    side = np.linspace(0, 1, 201)
    z = np.tile(box.lo, (201, 201, 1, 1))
    z[:, :, 1, 3] += side[:, None]
    z[:, :, 4, 0] += 1.5 * side
    y = np.asarray(jax.vmap(images, (None, 0))(params, z.reshape(-1, 5, 8)))
    least = float((y[:, 0] - y[:, 1]).min())
    spec = jc.Spec.rows(np.array([[1.0, -1.0]]), np.array([shift * 5 - least]))
    options = BranchOptions(inputs=InputSplitOptions(block=16))
    model = Model(images, params, (5, 8))
    verdict, work = branch_and_bound(model, box, spec, options)
    assert work > 1
    if shift > 0:
        assert verdict.proved
    else:
        assert verdict.refuted
        point = np.asarray(verdict.witness)
        assert point.shape == (5, 8)
        assert (box.lo <= point).all() and (point <= box.hi).all()
        y = np.asarray(images(params, point))
        assert y[0] - y[1] + shift * 5 - least <= 1e-5


@float64()
def test_the_features_that_vary_are_put_back_where_they_were():
    _, box = wide_network(0)
    varying = Varying.of(jax.tree.map(jnp.asarray, box))
    assert {11, 32} <= set(varying.index.tolist()) and varying.index.size == 8
    part = jax.tree.map(varying.part, box)
    whole = varying.whole(part)
    np.testing.assert_array_equal(whole.lo, box.lo)
    np.testing.assert_array_equal(whole.hi, box.hi)
    moved = varying.whole(jc.Box(part.lo + 0.25 * (part.lo < part.hi), part.hi))
    changed = np.argwhere(np.asarray(moved.lo) != np.asarray(whole.lo))
    assert changed.tolist() == [[1, 3], [4, 0]]


@pytest.mark.parametrize(
    ("features", "varies", "size"), [(3, 0, 3), (3, 2, 3), (20, 0, 8), (20, 9, 16)]
)
def test_few_numbers_of_varying_features_are_compiled_for(features, varies, size):
    lo = np.zeros(features)
    hi = np.where(np.arange(features) < varies, 1.0, 0.0)[::-1]
    index = Varying.of(jc.Box(lo, hi)).index.tolist()
    assert len(index) == len(set(index)) == size
    assert set(np.flatnonzero(hi)) <= set(index)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 12])
def test_parts_without_an_item_are_not_computed(count: int):
    computed = []

    def bound(v):
        jax.debug.callback(lambda v: computed.append(float(v)), v)
        return {"twice": 2 * v, "shape": jnp.ones(3) * v}

    items, valid = jnp.arange(1.0, 13.0), jnp.arange(12) < count
    found = jax.jit(lambda items, valid: by_parts(bound, items, valid, 4))(items, valid)
    jax.effects_barrier()
    np.testing.assert_array_equal(found["twice"][:count], 2 * items[:count])
    assert found["shape"].shape == (12, 3)
    assert len(computed) == -(-count // 4) * 4
    assert not np.asarray(found["twice"][len(computed) :]).any()


def _on_the_circle(params, x):
    """sin^2 + cos^2 - 2^-70, which is below 1 everywhere, but not in float64."""
    return jnp.square(jnp.sin(x)) + jnp.square(jnp.cos(x)) - params


@pytest.mark.parametrize(
    "jump",
    [jnp.floor, lambda z: jnp.where(z >= 1, 1.0, 0.0)],
    ids=["floor", "where"],
)
def test_a_point_at_a_jump_inside_its_range_refutes_nothing(jump):
    def f(params, x):
        return jump(_on_the_circle(params, x))

    with float64():
        params, spec = np.float32(2.0**-70), jc.Spec.rows([[-1.0]], [0.5])
        program = Model(f, params, (1,)).program
        box = jc.Box(jnp.full(1, -0.5), jnp.full(1, 0.75))
        found = decided(program, CrownOptions(bucket=None), params, box, spec)
        value = f(params, found.point)
        below = jc.Spec.rows([[-1.0]], [-2.5])  # violated, whatever z is rounded to
        violated = decided(program, CrownOptions(bucket=None), params, box, below)
    assert not found.proved and not found.refutes
    assert value == 1 and found.doubt == -0.5
    assert violated.refutes


# ------------------------------------------------------------------- second degree


def step_of_a_loop(p, x):
    """x'Px and its fall in one step of a stable loop, with a saturated input."""
    u = jnp.clip(p["k"] @ x, -2.0, 2.0)
    after = x + 0.125 * jnp.stack([x[1], p["b"] * u - jnp.sin(x[0])])
    return jnp.stack([x @ p["p"] @ x, (x - after) @ p["p"] @ (x + after)])


def test_where_products_cancel_forms_of_second_degree_decide():
    """The least fall outside of a small level, found by a grid, is bracketed."""
    params = {
        "k": np.array([-1.5, -2.0]), "b": np.array(1.0),
        "p": np.array([[3.0, 1.0], [1.0, 1.5]]),
    }  # fmt: skip
    model = Model(step_of_a_loop, params, (2,))
    box = jc.Box(np.array([-0.6, -0.8]), np.array([0.7, 0.9]))
    sides = (np.linspace(a, b, 801) for a, b in zip(box.lo, box.hi, strict=True))
    z = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    with float64():
        assert is_quadratic(model.program)
        y = jax.vmap(functools.partial(step_of_a_loop, params))(z)
        value, fall = np.asarray(y).T
        least = fall[value > 0.25].min()
        assert least > 0.01

        def asked(wanted: float):
            """Whether the value is below 1/4 or the fall above what is wanted."""
            rows = np.array([[-1.0, 0.0], [0.0, 1.0]])
            spec = jc.Spec.disjunction(rows, np.array([0.25, -wanted]))
            spec = jax.tree.map(jnp.asarray, spec)
            options = InputSplitOptions(block=64, part_of_forms=16, capacity=1 << 12)
            return decide_by_input(Judge(model), box, spec, options, np.inf)

        below, above = asked(0.98 * least), asked(1.02 * least)
    assert below.proved and below.witness is None
    assert below.processed < 2_000
    assert not above.proved
    x = above.witness
    assert (box.lo <= x).all() and (x <= box.hi).all()
    y = step_of_a_loop(params, x)
    assert y[0] >= 0.25 and y[1] <= 1.02 * least


def jump_in_a_part(p, x):
    """-3.5 next to x = 1, where 1 + 2^-60 > 1: in float64 these are one number."""
    away = jnp.where(x[0] > 5, -1.0, jnp.square(x[0] - 1))
    y = jnp.where(1 - away + 2.0**-60 > 1, x[0] - 4.5, 1.0)
    return jnp.stack([y + 1e-6 * x[0] * x[1]])


def test_rounding_before_a_jump_is_charged_in_every_part_of_the_box():
    """In all of the box both sides of the jump are possible: there it costs nothing."""
    model = Model(jump_in_a_part, {}, (2,))
    box = jc.Box(np.array([-1.0, 0.0]), np.array([11.0, 1.0]))
    spec = jc.Spec.rows(np.eye(1), np.array([-0.1]))
    options = InputSplitOptions(block=8, capacity=1 << 8, crown=CrownOptions("ibp"))
    with float64():
        assert not decide_by_input(Judge(model), box, spec, options, np.inf).proved


def linear_of(hidden, bias, out, offset: float):
    """Returns a network of one hidden layer, its params, and the spec that y > 0."""

    def f(params, x):
        w, b, v = params
        return v @ jnp.maximum(w @ x + b, 0)

    params = [np.array(v, np.float32) for v in (hidden, bias, [out])]
    spec = jc.Spec.rows(np.ones((1, 1)), np.array([offset]))
    return f, params, jax.tree.map(np.asarray, spec)


def test_what_is_cut_is_what_bounds_lose_by():
    """10 x_0 moves the bound most, 2 max(x_1, 0) - x_1 is what bounds lose by."""
    hidden = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    f, params, spec = linear_of(hidden, [0.0, 0.0, 1.0], [10.0, 2.0, -1.0], -8.9)
    model, box = Model(f, params, (2,)), jc.Box(np.array([1.0, -1]), np.array([2.0, 1]))
    verdict, work = branch_and_bound(model, box, spec, BranchOptions())
    assert verdict.proved and work == 5  # the box, and both halves along two features
    f, params, spec = linear_of(hidden, [0.0, 0.0, 1.0], [10.0, 2.0, -1.0], -9.1)
    assert branch_and_bound(model, box, spec, BranchOptions())[0].refuted


@pytest.mark.parametrize("offset", [1.1, 0.9])
def test_a_row_is_bounded_by_slope_0_too(offset):
    """max(x, 0) - 1, -1 in two large terms: CROWN's own slope for -1 <= x <= 2 is 1."""
    hidden, bias = [[1.0], [1.0], [1.0]], [0.0, 3.0, 4.0]
    f, params, spec = linear_of(hidden, bias, [1.0, 1.0, -1.0], offset)
    with float64():
        program, box = (
            Model(f, params, (1,)).program,
            jc.Box(-np.ones(1), np.full(1, 2.0)),
        )
        found = decided(program, CrownOptions(), params, box, spec)
    assert found.proved == (offset > 1)
    assert offset > 1 or abs(float(found.lacks) - 0.1) < 1e-6
