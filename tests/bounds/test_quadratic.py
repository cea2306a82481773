"""Forms of second degree: never above what the function takes, exact where it is."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled

from jaxcert.bounds.ibp import propagate
from jaxcert.bounds.quadratic import is_quadratic, quadratic_rows
from jaxcert.bounds.rounding import float64_slack
from jaxcert.box import Box
from jaxcert.spec import Spec
from jaxcert.trace.tracing import program_of

ROWS = Spec.rows(
    np.array([[1.0, -0.5, 0.3], [-1.0, 0.2, 0.0], [0.0, 0.0, 1.0]]), np.zeros(3)
)


def closed_loop(p, x):
    """A controller, sines of an angle, and a quadratic function before and after."""
    u = p["w2"] @ jnp.maximum(p["w1"] @ x + p["b1"], 0)
    step = p["a"] @ x + u * jnp.sin(x[1]) + jnp.cos(x[0]) * p["b2"]
    after = x + 0.125 * step
    value, change = x @ p["p"] @ x, (after - x) @ p["p"] @ (after + x)
    return jnp.stack([value, change, jnp.square(u[0]) * step[1]])


def weights(seed: int, k: int):
    random = np.random.default_rng(seed)
    shapes = {"w1": (6, k), "b1": (6,), "w2": (k, 6), "a": (k, k), "b2": (k,)}
    drawn = {name: random.normal(size=shape) for name, shape in shapes.items()}
    root = random.normal(size=(k, k))
    return drawn | {"p": root @ root.T}


def bounded(f, params, lo, hi, spec):
    """Returns the bounds of boxes (n, k), with the slack of each."""
    with jax.enable_x64(True):
        spec = jax.tree.map(jnp.asarray, spec)
        program = program_of(f, params, np.zeros(lo.shape[1]))
        assert is_quadratic(program)
        values = program.prepare(params, jnp.float64)

        def one(lo, hi):
            around = propagate(program, values, Box(lo, hi))
            slack = float64_slack(program, values, around, spec.coefficients)
            return quadratic_rows(program, values, Box(lo, hi), spec, around), slack

        return jax.device_get(jax.jit(jax.vmap(one))(lo, hi))


@pytest.mark.parametrize("seed", sampled(range(12), 1))
def test_rows_and_their_planes_lie_below_the_function(seed):
    k, random = 2, np.random.default_rng(seed)
    params = weights(seed, k)
    lo = random.uniform(-2, 2, (60, k))
    hi = lo + random.uniform(0, 1, (60, k)) ** 3 * random.choice([0, 1, 2], (60, k))
    found, slack = bounded(closed_loop, params, lo, hi, ROWS)
    steps = np.linspace(0, 1, 17)
    eps = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, k)
    z = lo[:, None] + (hi - lo)[:, None] * eps
    with jax.enable_x64(True):
        y = jax.jit(jax.vmap(jax.vmap(lambda z: closed_loop(params, z))))(z)
    rows = np.asarray(y) @ np.asarray(ROWS.coefficients).T
    assert np.isfinite(found.rows).all()
    assert (found.rows[:, None] - slack[:, None, None] <= rows).all()
    # The affine function is least at the corner that its coefficients point from.
    corner = np.where(found.pulled > 0, lo[:, None], hi[:, None])
    rise = np.einsum("nrk,nzrk->nzr", found.pulled, z[:, :, None] - corner[:, None])
    plane = found.least[:, None] + rise
    assert (plane - slack[:, None, None] * 2 <= rows).all()
    # They are bounds worth having: closer than a quarter of the rows' own ranges.
    small = (hi - lo).max(axis=1) < 0.2
    gap = rows.min(axis=1) - found.rows
    spread = rows.max(axis=1) - rows.min(axis=1)
    assert small.sum() > 10
    assert (gap[small] <= 0.25 * spread[small] + slack[small, None]).mean() > 0.9


def test_what_cancels_costs_nothing():
    """(x + y)(x - y) - x x + y y is 0, and a sum of squares is least where it is 0."""

    def f(p, x):
        a, b = p * x[0], p * x[1]
        return jnp.stack([(a + b) * (a - b) - a * a + b * b, a * a - a * b + b * b])

    lo, hi = np.array([[-1.0, -0.5]]), np.array([[1.0, 2.0]])
    spec = Spec.rows(np.array([[1.0, 0], [-1, 0], [0, 1]]), np.zeros(3))
    found, _ = bounded(f, np.ones(()), lo, hi, spec)
    np.testing.assert_allclose(found.rows[0, :2], 0, atol=1e-9)
    assert -0.05 <= found.rows[0, 2] <= 0


def test_concave_parts_are_bounded_term_by_term():
    """-x^2 + y^2 - x y on [-1, 1]^2: -2.25 is reached, -3 is the sum of the terms."""

    def f(p, x):
        x = p * x
        return jnp.stack([-x[0] * x[0] + x[1] * x[1] - x[0] * x[1]])

    spec = Spec.rows(np.ones((1, 1)), np.zeros(1))
    found, _ = bounded(f, np.ones(()), -np.ones((1, 2)), np.ones((1, 2)), spec)
    assert -3 - 1e-9 <= found.rows[0, 0] <= -1.25


@pytest.mark.parametrize("seed", sampled(range(40), 1))
def test_rounding_is_charged(seed):
    """Against fractions, where weights of far apart sizes cancel: with no slack."""
    random = np.random.default_rng(seed)
    k = 2
    sizes = 2.0 ** random.integers(-40, 40, (3, k))
    w = (random.normal(size=(3, k)) * sizes).astype(np.float64)

    def f(p, x):
        a, b, c = (p[i] @ x for i in range(3))
        return jnp.stack([a * b + c * c - (a + c) * (b + c) + c * (a + b)])

    spec = Spec.rows(np.array([[1.0], [-1.0]]), np.zeros(2))
    lo = random.uniform(-1, 1, (20, k))
    hi = lo + 2.0 ** -random.integers(0, 50, (20, k))
    found, _ = bounded(f, w, lo, hi, spec)
    for n in range(len(lo)):
        for ends in product((0, 1), repeat=k):
            x = [Fraction((hi if e else lo)[n, i]) for i, e in enumerate(ends)]
            a, b, c = (
                sum(Fraction(w[i, j]) * x[j] for j in range(k)) for i in range(3)
            )
            y = a * b + c * c - (a + c) * (b + c) + c * (a + b)
            assert Fraction(found.rows[n, 0]) <= y
            assert Fraction(found.rows[n, 1]) <= -y


def test_what_overflows_proves_nothing():
    def f(p, x):
        x = p * x
        return jnp.stack([x[0] * x[1] * x[0] * x[1]])

    spec = Spec.rows(np.ones((1, 1)), np.zeros(1))
    lo, hi = np.array([[1.0, 1.0]]), np.array([[2.0, 2.0]])
    found, _ = bounded(f, np.asarray(1e90), lo, hi, spec)
    assert not (found.rows > 0).any()
