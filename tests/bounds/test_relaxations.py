"""Relaxations: two lines that enclose every activation over every interval."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert.bounds import relaxations as r

# (activation, where it is defined and does not overflow)
ACTIVATIONS = {
    "relu": (r.RELU, -30, 30),
    "exp": (r.EXP, -30, 20),
    "expm1": (r.EXPM1, -30, 20),
    "log": (r.LOG, 1e-3, 30),
    "log1p": (r.LOG1P, -0.999, 30),
    "sqrt": (r.SQRT, 0, 30),
    "tanh": (r.TANH, -30, 30),
    "logistic": (r.LOGISTIC, -30, 30),
    "erf": (r.ERF, -8, 8),
    "softplus": (r.SOFTPLUS, -30, 30),
    "silu": (r.SILU, -30, 30),
    "gelu": (r.GELU, -10, 10),
    "gelu_tanh": (r.GELU_TANH, -10, 10),
    "sin": (r.SIN, -20, 20),
    "cos": (r.COS, -20, 20),
    "square": (r.SQUARE, -30, 30),
    "cube": (r.power(3), -10, 10),
    "fourth": (r.power(4), -10, 10),
    "fifth": (r.power(5), -5, 5),
    "reciprocal": (r.RECIPROCAL, 0.01, 30),
    "negative_reciprocal": (r.RECIPROCAL, -30, -0.01),
}
each = pytest.mark.parametrize("name", ACTIVATIONS)


def intervals(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Random intervals of all widths, down to a point, many of them around 0."""
    rng = np.random.default_rng(0)
    start = rng.uniform(low, high, 200)
    start[:80] = np.clip(rng.normal(size=80) * 0.5, low, high)
    width = (high - low) * 10.0 ** rng.uniform(-14, 0, 200)
    width[:40] = rng.uniform(0, 3, 40)
    width[-20:] = 0
    edges = [low, low, (low + high) / 2, low], [high, low, high, (low + high) / 2]
    lo = np.concatenate([start, edges[0]])
    hi = np.concatenate([np.minimum(start + width, high), edges[1]])
    return lo, np.maximum(lo, hi)


@each
def test_lines_and_range_enclose_the_activation(name: str):
    activation, low, high = ACTIVATIONS[name]
    lo, hi = intervals(low, high)
    with jax.enable_x64(True):
        lines = jax.device_get(activation.relax(jnp.asarray(lo), jnp.asarray(hi)))
        least, most = activation.interval(jnp.asarray(lo), jnp.asarray(hi))
        z = lo + (hi - lo) * np.linspace(0, 1, 1501)[:, None]
        z = np.clip(z, lo, hi)
        g = np.asarray(activation.value(jnp.asarray(z)))
    below = lines.lower_slope * z + lines.lower_intercept
    above = lines.upper_slope * z + lines.upper_intercept
    parts = [g, lines.lower_intercept, lines.upper_intercept, below, above]
    scale = np.max([np.abs(p).reshape(-1, len(lo)).max(0) for p in parts], axis=0)
    allowed = 2.0**-36 * (1 + np.nan_to_num(scale, nan=0.0))
    # sqrt has no tangent at 0: the degenerate interval there may stay unbounded.
    fine = np.isfinite(below).all(0) & np.isfinite(above).all(0)
    assert fine.sum() >= len(lo) - 2
    assert (below <= g + allowed)[:, fine].all(), np.nanmax((below - g)[:, fine])
    assert (above >= g - allowed)[:, fine].all(), np.nanmax((g - above)[:, fine])
    assert (np.asarray(least) <= g + allowed).all()
    assert (np.asarray(most) >= g - allowed).all()


@each
@pytest.mark.parametrize(
    "ends",
    [(np.nan, 1.0), (1.0, np.nan), (np.nan, np.nan), (np.nan, -1.0), (-1.0, np.nan)],
)
def test_a_nan_end_gives_nan_lines_and_never_a_stable_neuron(name: str, ends):
    activation, _, _ = ACTIVATIONS[name]
    lo, hi = (jnp.asarray([v]) for v in ends)
    lines = activation.relax(lo, hi)
    assert np.isnan(lines.lower_intercept).all()
    assert np.isnan(lines.upper_intercept).all()
    assert np.isnan(np.stack(activation.interval(lo, hi))).any()
    assert bool(activation.undecided(lo, hi)[0])


@each
def test_an_unbounded_interval_gives_no_false_line(name: str):
    activation, _, _ = ACTIVATIONS[name]
    lo, hi = jnp.asarray([-np.inf]), jnp.asarray([np.inf])
    lines = activation.relax(lo, hi)
    for z in (-50.0, -1.0, 0.5, 50.0):
        g = activation.value(jnp.asarray([z]))
        below = lines.lower_slope * z + lines.lower_intercept
        above = lines.upper_slope * z + lines.upper_intercept
        assert not bool((below > g)[0]) and not bool((above < g)[0])


@pytest.mark.parametrize(
    ("name", "constant"),
    [("silu", 0.5001), ("gelu", 0.8), ("gelu_tanh", 0.8), ("sin", 1.0), ("cos", 1.0)],
)
def test_curvature_constants_bound_the_second_derivative(name: str, constant: float):
    activation, _, _ = ACTIVATIONS[name]
    with jax.enable_x64(True):
        z = jnp.linspace(-30, 30, 600_001)
        first = jax.grad(lambda v: activation.value(v))
        second = jax.jit(jax.vmap(jax.grad(first)))(z)
        greatest = float(jnp.max(jnp.abs(second)))
    assert greatest <= constant
    assert greatest > 0.9 * constant  # and is not taken much too large
    # The library's constant is this one: the error over [0, 128] is M / 8.
    with jax.enable_x64(True):
        lo, hi = jnp.asarray([0.0]), jnp.asarray([128.0])
        grid = activation.value(jnp.linspace(0.0, 128.0, 129))
        error = float(grid.min() - activation.interval(lo, hi)[0][0])
    assert error == pytest.approx(constant / 8)


@pytest.mark.parametrize(
    ("activation", "lo", "hi"),
    [
        (r.SQRT, -0.5, 1.0),
        (r.LOG, -0.5, 1.0),
        (r.LOG, -2.0, -1.0),
        (r.LOG1P, -1.5, 0.0),
        (r.RECIPROCAL, -1.0, 1.0),
        (r.RECIPROCAL, 0.0, 1.0),
        (r.RECIPROCAL, -1.0, 0.0),
        (r.EXP, 0.0, 1e6),
    ],
)
def test_no_line_where_the_function_has_no_finite_value(activation, lo, hi):
    lines = activation.relax(jnp.asarray([lo]), jnp.asarray([hi]))
    assert not np.isfinite(lines.lower_intercept).any()
    assert not np.isfinite(lines.upper_intercept).any()
