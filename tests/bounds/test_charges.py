"""Bounds in steps hold as they are: exact arithmetic is the judge of every one."""

from __future__ import annotations

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from cases import sampled
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcert as jc
from jaxcert.bounds.ibp import node_interval
from jaxcert.bounds.rounding import float64_slack
from jaxcert.bounds.staged import Staged, StagedOptions, ranges_at
from jaxcert.bounds.undecided import Undecided
from jaxcert.model import Model
from jaxcert.trace.tracing import program_of

OPTIONS = StagedOptions(iterations=6)
TOKENS, WIDTH = 4, 3


def rows_of(outputs: int) -> jc.Spec:
    eye = np.eye(outputs)
    return jc.Spec.rows(np.concatenate([eye, -eye]), np.zeros(2 * outputs))


def bounds_of(model: Model, params, box: jc.Box, outputs: int) -> list[np.ndarray]:
    """Lower bounds of all outputs and of their negatives, by every method."""
    with jax.enable_x64(True):
        values = model.program.prepare(params, np.float64)
        staged = Staged(model.program, values, box)
        spec = rows_of(outputs)
        found = [staged.interval_rows(spec)]
        staged.tighten()
        return [*found, staged.rows(spec), staged.rows(spec, OPTIONS)]


def layers(params, x):
    for w, b in params[:-1]:
        x = x + jax.nn.relu(w @ x + b)
    w, b = params[-1]
    return w @ x + b


def exactly(params, x: np.ndarray) -> list[Fraction]:
    """`layers` in rational arithmetic."""

    def affine(w, b, x):
        rows = zip(w.tolist(), b.tolist(), strict=True)
        return [
            sum((Fraction(a) * z for a, z in zip(row, x, strict=True)), Fraction(c))
            for row, c in rows
        ]

    x = [Fraction(z) for z in x.tolist()]
    for w, b in params[:-1]:
        x = [z + max(y, 0) for z, y in zip(x, affine(w, b, x), strict=True)]
    return affine(*params[-1], x)


def weights(seed: int, cancel: float):
    """Weights of which sums are far less than their terms."""
    rng = np.random.default_rng(seed)

    def layer(outputs: int):
        w = rng.normal(size=(outputs, 6))
        w[:, 1::2] = -w[:, ::2] * (1 + cancel * rng.normal(size=(outputs, 3)))
        return w, rng.normal(size=outputs)

    return [layer(6), layer(6), layer(6), layer(3)]


@functools.cache
def layers_model() -> Model:
    return Model(layers, weights(0, 1.0), (6,))


@pytest.mark.parametrize("seed", sampled(range(30), 6))
def test_no_bound_of_a_point_is_beyond_the_exact_value(seed: int):
    params = weights(seed, 10.0 ** -(seed % 9))
    x = np.random.default_rng(seed + 100).normal(size=6) * 10.0 ** (seed % 4)
    y = exactly(params, x)
    exact = [*y, *(-v for v in y)]
    for bounds in bounds_of(layers_model(), params, jc.Box(x, x), 3):
        for bound, value in zip(bounds.tolist(), exact, strict=True):
            assert Fraction(bound) <= value
            # and no more is charged than what rounding may do
            assert value - Fraction(bound) <= Fraction(1e-9) * (1 + abs(value) + 10**4)


@pytest.mark.parametrize("seed", sampled(range(30), 4))
def test_no_bound_of_a_box_is_beyond_an_exact_value(seed: int):
    params, rng = weights(seed, 1e-6), np.random.default_rng(seed)
    x, radius = rng.normal(size=6), 10.0 ** -rng.integers(0, 12)
    box = jc.Box(x - radius, x + radius)
    found = bounds_of(layers_model(), params, box, 3)
    for corner in rng.integers(0, 2, (8, 6)):
        y = exactly(params, np.where(corner, box.hi, box.lo))
        for bounds in found:
            for bound, value in zip(
                bounds.tolist(), [*y, *(-v for v in y)], strict=True
            ):
                assert Fraction(bound) <= value


def test_rows_over_repeated_elements_are_charged_for_their_sums():
    """In float64 1 - 1e-17 is 1: computed, the row is 0 over what is repeated."""
    model = Model(
        lambda p, x: jnp.broadcast_to(jax.nn.relu(x + p), (3,)), np.zeros(1), (1,)
    )
    box = jc.Box(np.array([1.0]), np.array([2.0]))
    rows, offset = [1.0, -1e-17, -1.0], 5e-18
    exact = 2 * sum(map(Fraction, rows)) + Fraction(offset)
    assert exact < 0
    spec = jc.Spec.rows(np.array([rows]), np.array([offset]))
    with jax.enable_x64(True):
        staged = Staged(model.program, model.prepared, box)
        for bound in (*staged.interval_rows(spec), *staged.rows(spec)):
            assert Fraction(bound) <= exact


def test_large_weights_make_much_of_subnormal_inputs():
    """XLA flushes the ends, both of which are read as 0."""
    weight, ends = 1e30, np.array([[1e-308], [2e-308]])
    model = Model(lambda p, x: -jax.nn.relu(p * x), np.full(1, weight), (1,))
    spec = jc.Spec.rows(np.ones((1, 1)), np.zeros(1))
    with jax.enable_x64(True):
        staged = Staged(model.program, model.prepared, jc.Box(*ends))
        left = Undecided(model.program, model.prepared, jc.Box(*ends))
        assert left.reduce()
        found = left.least(left.rows_of(spec), 0)[0]
        for bound in (*staged.interval_rows(spec), *staged.rows(spec), *found):
            assert Fraction(bound) <= -Fraction(weight) * Fraction(ends[1, 0])


def test_values_at_a_point_are_charged_nothing():
    params, x = weights(0, 1e-3), np.linspace(-1, 1, 6)
    model = Model(layers, params, (6,))
    with jax.enable_x64(True):
        ranges = ranges_at(model.program, model.prepared, x)
    out = ranges[model.program.output]
    assert np.array_equal(out.lo, out.hi)
    np.testing.assert_allclose(out.lo, model.outputs(x[None])[0], rtol=1e-9)


# ------------------------------------------------------------------------- softmax


def mixed(params, x):
    """Two rows of shares, and what they make of values that vary too."""
    scores = x.reshape(2, TOKENS) + params["at"]
    shares = jax.nn.softmax(scores, axis=1)
    values = params["value"] + params["gain"] * x[:TOKENS, None]
    return (shares @ values).reshape(-1)


def mixed_exactly(params, x: np.ndarray) -> list[mpmath.mpf]:
    found = []
    for scores, at in zip(x.reshape(2, TOKENS), params["at"], strict=True):
        both = zip(scores.tolist(), at.tolist(), strict=True)
        powers = [mpmath.exp(mpmath.mpf(a) + mpmath.mpf(b)) for a, b in both]
        for value, gain in zip(params["value"].T, params["gain"].T, strict=True):
            terms = [
                p * (mpmath.mpf(v) + mpmath.mpf(gain.item()) * mpmath.mpf(z))
                for p, v, z in zip(
                    powers, value.tolist(), x[:TOKENS].tolist(), strict=True
                )
            ]
            found.append(mpmath.fsum(terms) / mpmath.fsum(powers))
    return found


@functools.cache
def mixed_model() -> Model:
    shapes = {"at": (2, TOKENS), "value": (TOKENS, WIDTH), "gain": (1, WIDTH)}
    return Model(mixed, {k: np.zeros(v) for k, v in shapes.items()}, (2 * TOKENS,))


@st.composite
def questions(draw):
    """Weights, a box and the corners and points of it that are looked at."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    gap = draw(st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e3]))
    common = draw(st.sampled_from([0.0, 1.0, 1e3]))
    radius = draw(st.sampled_from([0.0, 1e-9, 1e-3, 0.3, 3.0, 20.0]))
    at = gap * rng.choice([-1.0, -0.5, 0.0], (2, TOKENS))
    at[:, draw(st.integers(0, TOKENS - 1))] = 0  # or all exponentials may be 0
    params = {
        "at": at,
        "value": common + rng.normal(size=(TOKENS, WIDTH)),
        "gain": rng.normal(size=(1, WIDTH)),
    }
    x = rng.normal(size=2 * TOKENS)
    lo, hi = x - radius, x + radius
    points = rng.uniform(lo, hi, (6, 2 * TOKENS))
    corners = np.where(rng.integers(0, 2, (6, 2 * TOKENS)), hi, lo)
    return params, jc.Box(lo, hi), np.concatenate([points, corners])


@settings(max_examples=25, deadline=None)
@given(questions())
def test_bounds_behind_a_softmax_hold_for_scores_near_and_far(question):
    params, box, points = question
    found = bounds_of(mixed_model(), params, box, 2 * WIDTH)
    with mpmath.workprec(200):
        for x in np.clip(points, box.lo, box.hi):
            y = mixed_exactly(params, x)
            exact = [*y, *(-v for v in y)]
            for bounds in found:
                for bound, value in zip(bounds.tolist(), exact, strict=True):
                    assert not mpmath.mpf(bound) > value
    assert np.isfinite(found[-1]).all()


def test_what_shares_have_in_common_is_bounded_without_loss():
    """Their sum is 1, however much each of them may vary."""

    def f(_, x):
        shares = jax.nn.softmax(x)
        return jnp.stack([7 * shares.sum(), shares @ jnp.arange(100.0, 104.0)])

    box = jc.Box(np.full(TOKENS, -0.5), np.full(TOKENS, 0.5))
    _, crown, _ = bounds_of(Model(f, {}, (TOKENS,)), {}, box, 2)
    np.testing.assert_allclose(crown[[0, 2]], [7, -7], atol=1e-9)
    assert crown[1] <= 101.5 - 0.3 and crown[1] >= 100


@pytest.mark.parametrize(
    ("g", "low", "expected"),
    [
        (jax.nn.relu, -1.0, 5 / 4),
        (jax.nn.relu, 0.5, 1),
        (lambda z: jax.nn.relu(z - 3), -1.0, 1),
        (jnp.tanh, -1.0, 3 / 2),
        (jnp.sin, -1.0, 2),
        (lambda z: z[::-1] * z, -1.0, 2),
    ],
    ids=["relu", "active", "inactive", "tanh", "sin", "product"],
)
def test_the_slack_counts_how_lines_leave_functions_beyond_ranges(g, low, expected):
    """An error of e in z is 2 e behind ReLU and tanh, 3 e behind sine and product.

    With z of magnitude M, and u M its error, values at a point have u times 4 M (ReLU),
    2 M (tanh, sine) and 4 M^2 (product).
    """

    def f(w, x):
        return g(w @ x)

    w, rows = np.float64([[1e9, 1.0 - 1e9], [1e9, 1.0 - 1e9]]), np.eye(2)[:1]
    with jax.enable_x64(True):
        program = program_of(f, w, np.zeros(2))
        values = program.prepare(w, jnp.float64)
        box = jc.Box.point(np.float64([1.0, 1.0]))
        z = program.nodes[0].output
        narrow = jc.Box(np.full(2, low), np.ones(2))
        boxes = {program.input: box, z: narrow}
        for node in program.nodes[1:]:
            boxes[node.output] = node_interval(node, values, boxes)
        at_points, of_lines = (
            float(float64_slack(program, values, boxes, rows, lines=lines))
            for lines in (False, True)
        )
    assert of_lines / at_points == pytest.approx(expected, rel=0.01)
