"""Zonotopes: never above what the function takes, with no slack, and worth having."""

from __future__ import annotations

import functools
from fractions import Fraction
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled
from jax import lax

from jaxcert.bounds import zonotope
from jaxcert.bounds.zonotope import has_zonotopes, zonotope_rows
from jaxcert.box import Box
from jaxcert.branch import inputs
from jaxcert.branch.inputs import InputSplitOptions
from jaxcert.branch.signs import BranchOptions
from jaxcert.model import Model
from jaxcert.oracle.complete import branch_and_bound
from jaxcert.spec import Spec
from jaxcert.trace.tracing import program_of

ROWS = Spec.rows(np.array([[1.0, -0.5], [-1.0, 0.0]]), np.array([0.25, 0.0]))
K = 2


def transposed(x, kernel):
    """A transposed convolution with stride 2: (C, 2, 2) to (D, 5, 5)."""
    numbers = ("NCHW", "OIHW", "NCHW")
    return lax.conv_general_dilated(
        x[None], kernel, (1, 1), [(2, 2)] * 2, (2, 2), dimension_numbers=numbers
    )[0]


def strided(x, kernel):
    """A convolution with stride 2: (D, 5, 5) to (E, 3, 3)."""
    numbers = ("NCHW", "OIHW", "NCHW")
    return lax.conv_general_dilated(
        x[None], kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=numbers
    )[0]


def by_matrices(p, x):
    """The same network as `generator`, for object arrays of fractions too."""
    z = p["first"] @ x + p["b1"]
    z = np.maximum(p["up"] @ np.maximum(z, 0) * p["scale"], 0)
    z = np.maximum(p["down"] @ z, 0)
    return p["last"] @ z


def generator(p, x, bent=lambda z: z):
    z = jnp.maximum(p["first"] @ x + p["b1"], 0).reshape(2, 2, 2)
    z = transposed(z, p["k1"]) * p["scale"].reshape(3, 5, 5)
    z = jnp.maximum(bent(z), 0)
    z = jnp.maximum(strided(z, p["k2"]), 0)
    return p["last"] @ z.reshape(-1)


def smooth(p, x):
    return generator(p, x, jnp.tanh)


def weights(seed: int, spread: int = 0):
    """Weights of sizes 2^-spread to 2^spread."""
    random = np.random.default_rng(seed)
    shapes = {
        "first": (8, K), "b1": (8,), "k1": (3, 2, 3, 3), "scale": (75,),
        "k2": (2, 3, 3, 3), "last": (2, 18),
    }  # fmt: skip
    return {
        name: random.normal(size=shape)
        * 2.0 ** random.integers(-spread, spread + 1, shape)
        for name, shape in shapes.items()
    }


@functools.cache
def compiled(f, rows: int, dropped: bool = False):
    """Returns what bounds one box; without charges where they are dropped."""
    with jax.enable_x64(True):
        program = program_of(f, weights(0), np.zeros(K))
        assert has_zonotopes(program, K)

        def bound(p, lo, hi):
            values = program.prepare(p, jnp.float64)
            return zonotope_rows(
                program, values, Box(lo, hi), jnp.arange(K), ROWS, rows
            )

        given = weights(0), np.zeros(K), np.ones(K)
        with pytest.MonkeyPatch.context() as patch:
            if dropped:
                patch.setattr(zonotope._Forms, "_unit", lambda self, own: 0.0)
            return jax.jit(bound).lower(*given).compile()


def boxes(random, count: int):
    lo = random.uniform(-1, 1, (count, K))
    hi = lo + random.uniform(0, 1, (count, K)) ** 3 * random.choice([0, 1], (count, K))
    return lo, hi


@pytest.mark.parametrize("seed", sampled(range(12), 1))
def test_rows_and_their_planes_lie_below_the_function(seed):
    random, p = np.random.default_rng(seed), weights(seed)
    lo, hi = boxes(random, 40)
    steps = np.linspace(0, 1, 17)
    eps = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, K)
    tight = []
    with jax.enable_x64(True):
        at = jax.jit(jax.vmap(lambda z: smooth(p, z)))
        for a, b in zip(lo, hi, strict=True):
            found = jax.device_get(compiled(smooth, 96)(p, a, b))
            z = a + (b - a) * eps
            rows = np.asarray(at(z)) @ ROWS.coefficients.T + ROWS.offset
            assert np.isfinite(found.rows).all()
            noise = 1e-12 * (1 + np.abs(rows).max())  # of the points' own evaluation
            assert (found.rows <= rows + noise).all()
            # The affine function is least at the corner its coefficients point from.
            corner = np.where(found.pulled > 0, a, b)
            rise = np.einsum("rk,zrk->zr", found.pulled, z[:, None] - corner)
            assert (found.least + rise <= rows + noise).all()
            if (b - a).max() < 0.05:
                spread = rows.max(axis=0) - rows.min(axis=0)
                gap = rows.min(axis=0) - found.rows
                tight.append(gap <= 0.25 * spread + 1e-9)
    assert len(tight) > 5 and np.mean(tight) > 0.8


def in_fractions(p):
    """Returns the weights of `by_matrices`, whose convolutions are matrices."""
    with jax.enable_x64(True):
        up = jax.jacobian(lambda z: transposed(z, p["k1"]).reshape(-1))
        down = jax.jacobian(lambda z: strided(z, p["k2"]).reshape(-1))
        made = {
            "up": up(jnp.zeros((2, 2, 2))).reshape(75, 8),
            "down": down(jnp.zeros((3, 5, 5))).reshape(18, 75),
        }
    exact = np.vectorize(Fraction, otypes=[object])
    names = "first", "b1", "scale", "last"
    return {
        n: exact(np.asarray(v)) for n, v in ({n: p[n] for n in names} | made).items()
    }


def violations(seed: int, dropped: bool) -> int:
    """Returns how many bounds of random boxes lie above the function at a corner."""
    random, p = np.random.default_rng(seed), weights(seed, 12)
    exact, wrong = in_fractions(p), 0
    lo, hi = boxes(random, 8)
    hi[::2] = lo[::2] + 2.0 ** -random.integers(20, 60, (4, K))
    bound = compiled(generator, 96, dropped)
    rows = np.vectorize(Fraction, otypes=[object])(np.asarray(ROWS.coefficients))
    for a, b in zip(lo, hi, strict=True):
        with jax.enable_x64(True):
            found = np.asarray(bound(p, a, b).rows)
        for ends in product((0, 1), repeat=K):
            x = np.array([Fraction((b if e else a)[i]) for i, e in enumerate(ends)])
            y = rows @ by_matrices(exact, x) + [Fraction(v) for v in ROWS.offset]
            wrong += sum(bool(Fraction(v) > w) for v, w in zip(found, y, strict=True))
    return wrong


@pytest.mark.parametrize("seed", sampled(range(20), 2))
def test_rounding_is_charged(seed):
    """Against fractions, weights of far apart sizes, boxes near to points: no slack."""
    assert violations(seed, dropped=False) == 0


def test_without_charges_bounds_are_wrong():
    assert sum(violations(seed, dropped=True) for seed in range(4)) > 0


def test_where_there_is_no_room_nothing_is_said():
    p = weights(1)
    with jax.enable_x64(True):
        lo, hi = np.full(K, -0.9), np.full(K, 0.9)
        found = compiled(generator, 8)(p, lo, hi)  # one block of rows
        assert np.isnan(found.rows).all()
        assert (np.asarray(found.gain) > 0).all()  # and yet it is known where to cut
        found = compiled(generator, 8)(p, lo, lo)
        assert np.isfinite(found.rows).all()


def test_layers_are_not_walked_where_more_rows_are_expected_than_there_is_room_for():
    """8 and 18 ReLUs: five of the first let expect eleven of the others."""

    def f(p, x):
        z = jnp.maximum(p["first"] @ x + p["b1"], 0).reshape(2, 2, 2)
        z = jnp.maximum(strided(transposed(z, p["k1"]), p["k2"]).reshape(-1), 0)
        return p["last"] @ z

    p = weights(6)
    p["first"][:] = [[1.0, 0.0]]
    p["k2"] = np.abs(p["k2"]) * 2.0**-20
    p["k1"] = np.abs(p["k1"])  # the second layer has no neuron that is undecided
    lo, hi = np.full(K, -1.0), np.full(K, 1.0)
    for undecided, enough in (4, True), (5, False):
        p["b1"] = np.where(np.arange(8) < undecided, 0.5, 2.0)
        with jax.enable_x64(True):
            found = compiled(f, 16)(p, lo, hi)
        assert np.isfinite(found.rows).all() == enough


def test_what_overflows_proves_nothing():
    p = {name: v * 1e80 for name, v in weights(2).items()}
    with jax.enable_x64(True):
        found = compiled(generator, 96)(p, np.full(K, 0.5), np.full(K, 0.7))
    assert not (np.asarray(found.rows) > 0).any()


def test_what_cancels_costs_nothing():
    """relu(v) - relu(v) is 0, wherever the two are computed."""

    def f(p, x):
        z = jnp.maximum(transposed((p["first"] @ x).reshape(2, 2, 2), p["k1"]), 0)
        twice = strided(z, p["k2"]), strided(z, -p["k2"])
        one = (twice[0] + twice[1]).sum()
        return jnp.stack([one, 2 * one])

    with jax.enable_x64(True):
        found = compiled(f, 96)(weights(3), -np.ones(K), np.ones(K))
    np.testing.assert_allclose(found.rows, [0.25, 0], atol=1e-9)


def test_rows_of_a_value_that_is_read_again_are_kept():
    """A connection past an activation: over a narrow box bounds are nearly exact."""

    def f(p, x):
        z = jnp.maximum(transposed((p["first"] @ x).reshape(2, 2, 2), p["k1"]), 0)
        y = jnp.maximum(strided(z, p["k2"]).reshape(-1), 0)
        return p["last"] @ y + jnp.stack([z.sum(), (z * z.shape[0]).sum()])

    random, p = np.random.default_rng(5), weights(5)
    exact = in_fractions(p)
    rows = np.vectorize(Fraction, otypes=[object])(np.asarray(ROWS.coefficients))
    for lo in random.uniform(-1, 1, (8, K)):
        hi = lo + 1e-5
        with jax.enable_x64(True):
            found = np.asarray(compiled(f, 96)(p, lo, hi).rows)
        taken = []
        for ends in product(*zip(lo, hi, strict=True)):
            x = np.array([Fraction(v) for v in ends])
            z = np.maximum(exact["up"] @ (exact["first"] @ x), 0)
            y = exact["last"] @ np.maximum(exact["down"] @ z, 0)
            taken.append(rows @ (y + z.sum() * np.array([1, 3])) + [Fraction(1, 4), 0])
        least, most = np.min(taken, axis=0), np.max(taken, axis=0)
        assert all(Fraction(v) <= w for v, w in zip(found, least, strict=True))
        assert (least - found <= 0.1 * (most - least) + 1e-9).all()


@pytest.mark.parametrize("shift", sampled([0.02, -0.02]))
def test_boxes_of_convolutions_are_split_by_zonotopes(shift, monkeypatch):
    monkeypatch.setattr(inputs, "bound_box", None)  # CROWN is not asked
    p, lo, hi = weights(4), np.full(K, -0.8), np.full(K, 0.8)
    steps = np.linspace(0, 1, 201)
    z = lo + (hi - lo) * np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, K)
    with jax.enable_x64(True):
        y = np.asarray(jax.jit(jax.vmap(lambda z: generator(p, z)))(z))[:, 0]
    spec = Spec.rows(np.array([[1.0, 0]]), np.array([shift * np.ptp(y) - y.min()]))
    options = BranchOptions(inputs=InputSplitOptions(generators=96))
    found, count = branch_and_bound(
        Model(generator, p, (K,)), Box(lo, hi), spec, options
    )
    assert count > 1
    assert found.proved if shift > 0 else found.refuted
    if shift < 0:
        at = np.asarray(found.witness)
        assert (lo <= at).all() and (at <= hi).all() and found.bound <= 0


def test_weights_that_are_flushed_are_charged_by_what_they_are_multiplied_with():
    """2^-1030 times 2^40 is a number that XLA has, but the first of the two is not."""
    p = {name: np.zeros(v.shape) for name, v in weights(0).items()}
    p["first"][:, 0], p["scale"][:] = 2.0**-1030, 1.0
    p["k1"][0, 0], p["k2"][0, 0], p["last"][0] = 1.0, 1.0, -(2.0**990)
    lo, hi = np.full(K, 2.0**40), np.full(K, 2.0**41)
    rows = np.vectorize(Fraction, otypes=[object])(np.asarray(ROWS.coefficients))
    y = rows @ by_matrices(in_fractions(p), np.array([Fraction(v) for v in lo]))
    assert y[0] < -1
    with jax.enable_x64(True):
        least = np.asarray(compiled(generator, 112)(p, lo, hi).rows)
    assert all(map(Fraction.__le__, map(Fraction, least), y + [Fraction(1, 4), 0]))


def test_what_is_wider_than_all_that_activations_read_is_kept_for_others():
    """A convolution that a sum and, behind an activation of that, the output read."""

    def f(p, x):
        z = jnp.maximum((p["first"] @ x).reshape(2, 2, 2), 0)
        wide = transposed(z, p["k1"])
        bent = jnp.maximum(wide.sum(axis=0), 0)
        return bent[0, :2] + wide[:2, 0, 0]

    p, lo = weights(5), np.array([0.3, -0.2])
    with jax.enable_x64(True):
        found = compiled(f, 32)(p, lo, lo)
        wanted = ROWS.coefficients @ f(p, lo) + ROWS.offset
    np.testing.assert_allclose(found.rows, wanted, atol=1e-9)
    assert (np.asarray(found.rows) <= wanted).all()
