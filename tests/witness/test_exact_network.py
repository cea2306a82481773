"""Exact evaluation against float64 on integers, and against lists of fractions."""

from __future__ import annotations

import decimal
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax import lax

from jaxcert.box import Box
from jaxcert.model import Model
from jaxcert.spec import Spec
from jaxcert.trace.tracing import program_of
from jaxcert.witness.exact import ExactNetwork
from jaxcert.witness.exact_numbers import Exact
from jaxcert.witness.exact_ranges import Range
from jaxcert.witness.judge import Judge


def conv(w: Any, x: Any, **changes: Any) -> Any:
    options = {
        "window_strides": (2, 1),
        "padding": ((1, 2), (0, 1)),
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }
    return lax.conv_general_dilated(x, w, **(options | changes))


def window(x: Any, start: Any, kind: Any) -> Any:
    return lax.reduce_window(
        x, start, kind, (1, 3, 2, 1), (1, 2, 1, 1), ((0, 0), (1, 1), (0, 1), (0, 0))
    )


# On integers float64 makes no rounding: what is exact must be equal.
DENSE = {
    "dense": lambda w, x: jax.nn.relu(x @ w) @ w[:5] - 3,
    "bent": lambda w, x: jax.nn.leaky_relu(x @ w, 0.25) + jnp.abs(x @ w),
    "clipped": lambda w, x: jnp.clip(x @ w, -2, 7) - jnp.max(x) + jnp.min(x),
    "products": lambda w, x: (x @ w) * x[:5] + x[1:6] ** 2 - (x @ w) / 4,
    "moved": lambda w, x: (
        x[jnp.array([3, 1, 1])] @ w[:3]
        + jnp.pad(x, (1, 2))[:5]
        + jnp.concatenate([x[:2], 2 * x[:3]])
        + jnp.cumsum(jnp.flip(x))[:5]
    ),
    "chosen": lambda w, x: jnp.where(x @ w > 0, x @ w, 2 * x[:5] - 1),
    "dot of two": lambda w, x: jnp.stack([x @ x, (x @ w) @ x[:5]]),
}
IMAGES = {
    "conv": lambda w, x: conv(w, x),
    "dilated": lambda w, x: conv(w, x, rhs_dilation=(2, 1), lhs_dilation=(1, 2)),
    "grouped": lambda w, x: conv(w[:, :, :2], x, feature_group_count=2),
    "channels first": lambda w, x: conv(
        w.transpose(3, 2, 0, 1), x.transpose(0, 3, 1, 2),
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
    ),
    "pooled": lambda w, x: window(conv(w, x), -jnp.inf, lax.max),
    "summed": lambda w, x: window(conv(w, x), 0.0, lax.add).mean((1, 2, 3)) * 24,
}  # fmt: skip


@pytest.mark.parametrize("name", [*DENSE, *IMAGES])
def test_on_integers_it_is_what_float64_computes(name: str):
    rng = np.random.default_rng(0)
    dense = name in DENSE
    f = (DENSE | IMAGES)[name]
    w = rng.integers(-4, 5, size=(7, 5) if dense else (3, 3, 4, 8)).astype(np.float32)
    shape = (7,) if dense else (1, 6, 6, 4)
    x = rng.integers(-4, 5, size=shape).astype(np.float64)
    program = program_of(f, w, x)
    network = ExactNetwork(program, w)
    found = network.output(Box.point(x))
    with jax.enable_x64(True):
        expected = np.asarray(f(jnp.asarray(w, jnp.float64), jnp.asarray(x)))
    values = np.array([float(v) for v in found.lo.fractions()])
    if name == "summed":
        np.testing.assert_allclose(values, expected.reshape(-1), rtol=1e-12)
    else:
        np.testing.assert_array_equal(values, expected.reshape(-1))
    around = network.output(Box(x - 1, x + 1))
    if around is not None:
        lo, hi = ([float(v) for v in end.fractions()] for end in (around.lo, around.hi))
        assert (lo <= values).all() and (values <= hi).all()


def test_all_digits_of_sums_are_kept():
    rng = np.random.default_rng(1)
    w1, w2 = rng.normal(size=(2, 40, 40)).astype(np.float32)
    x = rng.normal(size=40) * 10.0 ** rng.integers(-9, 9, size=40)

    def f(w, x):
        return jax.nn.relu(x @ w[0]) @ w[1] + 1

    found = ExactNetwork(program_of(f, (w1, w2), x), (w1, w2)).output(Box.point(x))
    h = [Fraction(v) for v in x.tolist()]
    for w in (w1, w2):
        columns = [[Fraction(float(v)) for v in column] for column in w.T]
        h = [sum(a * b for a, b in zip(h, c, strict=True)) for c in columns]
        h = [max(v, Fraction(0)) for v in h] if w is w1 else [v + 1 for v in h]
    assert found.lo.fractions() == h


# Arithmetic with a radius, on numbers with many digits: what is exact must lie within.
ROUNDED = DENSE | IMAGES | {
    "divided": lambda w, x: (x @ w) / (2 + (x @ x) * w[0]) + jnp.sign(x[0]) * x[:5],
    "stepped": lambda w, x: jnp.floor(8 * x[:5]) * (x @ w) + jnp.sum(x**3),
    "stepped scalar": lambda w, x: jnp.floor(8 * jnp.sum(x**2)) * (x @ w),
}  # fmt: skip


@pytest.mark.parametrize("bits", [8, 30, 96])
@pytest.mark.parametrize("name", ROUNDED)
def test_a_radius_holds_what_is_exact(name: str, bits: int):
    rng = np.random.default_rng(2)
    image = name in IMAGES
    w = rng.normal(size=(3, 3, 4, 8) if image else (7, 5)).astype(np.float32)
    x = rng.normal(size=(1, 6, 6, 4) if image else (7,))
    program = program_of(ROUNDED[name], w, x)
    exact = ExactNetwork(program, w).output(Box.point(x))
    near = ExactNetwork(program, w, bits=bits).output(Box.point(x))
    assert near is not None or bits == 8
    if near is None:  # a decision that so few bits leave open
        assert name in ("chosen", "stepped", "stepped scalar")
        return
    radii = [Fraction(r) for r in near.lo.radii().reshape(-1).tolist()]
    for a, b, r in zip(exact.lo.fractions(), near.lo.fractions(), radii, strict=True):
        assert abs(a - b) <= r
    assert bits > 30 or near.lo.radius is not None
    assert max(radii) <= 1e5 * 2.0**-bits


def smooth_network(w: Any, x: Any) -> Any:
    z = x @ (w / jnp.sqrt((w**2).sum(axis=0) + 1e-3))
    h = jnp.tanh(z) + jax.nn.sigmoid(3 * z) - jnp.exp(-jnp.abs(z))
    spread = lax.rsqrt(jnp.mean(h**2) + 1e-5)
    return jax.nn.softmax(h * spread) + jnp.log(1 + jnp.exp(-z)) + jnp.sqrt(h**2 + 1)


@pytest.mark.parametrize("bits", [30, 96, 160])
@pytest.mark.parametrize("seed", range(3))
def test_smooth_values_lie_within_their_radius(seed: int, bits: int):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(6, 5))
    x = rng.normal(size=6) * 10.0 ** rng.integers(-2, 2)
    with jax.enable_x64(True):
        model = Model(smooth_network, w, x.shape)
        program, double, prepared = model.program, model.double, model.prepared
    network = ExactNetwork(program, double, prepared=prepared, bits=bits)
    found = network.output(Box.point(x))
    with mpmath.workdps(100):
        matrix = mpmath.matrix(w.tolist())
        z = []
        for j in range(5):
            column = [matrix[i, j] for i in range(6)]
            norm = mpmath.sqrt(sum(v**2 for v in column) + mpmath.mpf(1e-3))
            products = [mpmath.mpf(a) * v for a, v in zip(x, column, strict=True)]
            z.append(sum(products) / norm)
        h = [
            mpmath.tanh(v) + 1 / (1 + mpmath.exp(-3 * v)) - mpmath.exp(-abs(v))
            for v in z
        ]
        spread = 1 / mpmath.sqrt(sum(v**2 for v in h) / 5 + mpmath.mpf(1e-5))
        total = sum(mpmath.exp(v * spread) for v in h)
        radii = found.lo.radii().tolist()
        for v, u, value, radius in zip(h, z, found.lo.fractions(), radii, strict=True):
            true = mpmath.exp(v * spread) / total
            true += mpmath.log(1 + mpmath.exp(-u)) + mpmath.sqrt(v**2 + 1)
            got = mpmath.mpf(value.numerator) / value.denominator
            assert abs(true - got) <= radius
            assert radius <= max(1e5 * 2.0**-bits, 1e-10)  # the weights have errors


def test_decimal_settings_of_callers_change_nothing():
    x = np.array([0.5, -3.0])
    program = program_of(lambda w, x: jnp.exp(x) * jnp.tanh(x), (), x)
    network = ExactNetwork(program, (), prepared={}, bits=96)
    expected = network.output(Box.point(x))
    with decimal.localcontext(prec=3, Emin=-2, Emax=2, clamp=1) as context:
        context.traps[decimal.Inexact] = context.traps[decimal.Rounded] = True
        found = network.output(Box.point(x))
    assert found.lo.fractions() == expected.lo.fractions()
    np.testing.assert_array_equal(found.lo.radius, expected.lo.radius)


NOT_EXACT = {
    "smooth": lambda w, x: jnp.tanh(x @ w),
    "root": lambda w, x: x / jnp.sqrt(w.sum()),
    "bfloat16": lambda w, x: x.astype(jnp.bfloat16).astype(jnp.float32),
}


@pytest.mark.parametrize("name", NOT_EXACT)
def test_what_has_no_exact_value_has_none(name: str):
    w, x = np.ones((3, 3), np.float32), np.ones(3)
    program = program_of(NOT_EXACT[name], w, x)
    assert ExactNetwork(program, w).output(Box.point(x)) is None


# int8: 100 * 2 is -56, -(-128) is -128, and -7 / 2 is -3.
WHOLE = {
    "product": lambda w, x: (w * 2).astype(x.dtype) * x,
    "sum": lambda w, x: (w + w).astype(x.dtype) * x,
    "sums": lambda w, x: jnp.sum(w, dtype=jnp.int8).astype(x.dtype) * x,
    "cube": lambda w, x: (w**3).astype(x.dtype) * x,
    "negative": lambda w, x: (-w).astype(x.dtype) * x,
    "magnitude": lambda w, x: jnp.abs(w).astype(x.dtype) * x,
    "quotient": lambda w, x: lax.div(w, jnp.int8(2)).astype(x.dtype) * x,
    "sign": lambda w, x: jnp.sign(w).astype(x.dtype) * x,
}


@pytest.mark.parametrize("bits", [None, 96])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_wrap_around_as_those_of_f(name: str, bits: int | None):
    w, x = np.array([100, -128, -7], np.int8), np.array([1.0, -2.0, 0.25])
    program = program_of(WHOLE[name], w, x)
    found = ExactNetwork(program, w, prepared={}, bits=bits).output(Box.point(x))
    with jax.enable_x64(True):
        expected = np.asarray(WHOLE[name](jnp.asarray(w), jnp.asarray(x)))
    assert [float(v) for v in found.lo.fractions()] == expected.tolist()


def test_a_tie_that_wraps_around_is_told_from_a_win():
    def f(w, x):
        return (w[:1] * 2).astype(x.dtype) * x[:1] + 56 * x[1:] + 2.0**-60

    model = Model(f, np.array([100], np.int8), (2,))
    with jax.enable_x64(True):
        judge, x = Judge(model), np.ones(2)
        for sign, violated in ((1, False), (-1, True)):
            row = Spec.rows(np.array([[float(sign)]]), np.zeros(1))
            found = judge.first(row, x[None])
            assert (found is not None) == violated
            assert found is None or found.margin == -(2.0**-60)


def test_margins_of_units_too_far_apart_are_unknown():
    w, x = np.ones((3, 3), np.float32), np.ones(3)
    network = ExactNetwork(program_of(lambda w, x: x @ w, w, x), w)
    zero = np.array([0, 0, 0], object)
    tiny = Exact(zero, Fraction(1, 1 << 8000), np.full(3, 2.0**950))
    spec = Spec.rows(np.ones((1, 3)), np.zeros(1))
    assert network.margin(spec, Range.point(tiny)) is None
    assert network.rows(spec, Range.point(tiny)) is None


def test_work_is_bounded():
    w, x = np.ones((3, 3), np.float32), np.ones(3)
    program = program_of(lambda w, x: x @ w, w, x)
    assert ExactNetwork(program, w).output(Box.point(x)) is not None
    assert ExactNetwork(program, w, work=10).output(Box.point(x)) is None
    assert ExactNetwork(program, w).output(Box.point(x * np.inf)) is None
