"""Relaxations: two lines that enclose every activation over every interval."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxcert.trace import activations as r
from jaxcert.trace import steps

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
    "soft_sign": (r.SOFT_SIGN, -30, 30),
    "mish": (r.MISH, -20, 20),
    "silu": (r.SILU, -30, 30),
    "gelu": (r.gelu(np.float64), -10, 10),
    "gelu_tanh": (r.gelu_tanh(np.float64), -10, 10),
    "sin": (r.SIN, -20, 20),
    "cos": (r.COS, -20, 20),
    "square": (r.SQUARE, -30, 30),
    "cube": (r.power(3), -10, 10),
    "fourth": (r.power(4), -10, 10),
    "fifth": (r.power(5), -5, 5),
    "reciprocal": (r.RECIPROCAL, 0.01, 30),
    "negative_reciprocal": (r.RECIPROCAL, -30, -0.01),
    "rsqrt": (r.RSQRT, 1e-6, 30),
    "cube_root": (r.real_power(1 / 3), 0, 30),
    "small_power": (r.real_power(0.01), 0, 30),
    "pow_1.5": (r.real_power(1.5), 0, 30),
    "pow_-0.7": (r.real_power(-0.7), 1e-6, 30),
    "finite": (r.FINITE, -30, 30),
}
# Of some, the same in any precision.
LITTLE = {
    "logistic": lambda z: 1 / (1 + mpmath.exp(-z)),
    "silu": lambda z: z / (1 + mpmath.exp(-z)),
    "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
    "gelu": lambda z: z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
    "gelu_tanh": lambda z: z * LITTLE["logistic"](
        mpmath.sqrt(8 / mpmath.pi) * (z + mpmath.mpf(0.044715) * z**3)
    ),
}  # fmt: skip
each = pytest.mark.parametrize("name", ACTIVATIONS)


@functools.cache
def relaxed(name: str):
    """Returns (lo, hi) -> the lines, the range, and what is undecided; compiled."""
    of = ACTIVATIONS[name][0]
    return jax.jit(lambda lo, hi: (
        of.relax(lo, hi), of.interval(lo, hi), of.undecided(lo, hi)
    ))  # fmt: skip


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
        lines, (least, most), _ = jax.device_get(relaxed(name)(lo, hi))
        z = lo + (hi - lo) * np.linspace(0, 1, 1501)[:, None]
        z = np.clip(z, lo, hi)
        g = np.asarray(activation.value(jnp.asarray(z)))
    below = lines.lower_slope * z + lines.lower_intercept
    above = lines.upper_slope * z + lines.upper_intercept
    parts = [g, lines.lower_intercept, lines.upper_intercept, below, above]
    scale = np.max([np.abs(p).reshape(-1, len(lo)).max(0) for p in parts], axis=0)
    allowed = 2.0**-36 * (1 + np.nan_to_num(scale, nan=0.0))
    assert np.isfinite(below).all() and np.isfinite(above).all()
    assert (below <= g + allowed).all(), np.max(below - g)
    assert (above >= g - allowed).all(), np.max(g - above)
    assert (np.asarray(least) <= g + allowed).all()
    assert (np.asarray(most) >= g - allowed).all()


@pytest.mark.parametrize("name", ["logistic", "gelu_tanh", "gelu", "silu", "softplus"])
def test_lines_enclose_what_is_little_of_itself(name: str):
    """Left of 0, to a few roundings of their own size: a logarithm may follow."""
    lo = np.linspace(-18 if "gelu" in name else -60, -5, 50) + np.zeros((2, 1))
    hi = lo + np.array([[0.0], [0.2]])
    with jax.enable_x64(True), mpmath.workprec(400):
        lines, (least, most), _ = jax.device_get(relaxed(name)(lo, hi))
        for z in (lo, hi):
            g = np.vectorize(LITTLE[name], otypes=[object])(z)
            below = lines.lower_slope * z + lines.lower_intercept
            above = lines.upper_slope * z + lines.upper_intercept
            allowed = 1e-11 * np.abs(z) * np.abs(g)
            assert (np.maximum(below, least) <= g + allowed).all()
            assert (np.minimum(above, most) >= g - allowed).all()


@each
@pytest.mark.parametrize(
    "ends",
    [(np.nan, 1.0), (1.0, np.nan), (np.nan, np.nan), (np.nan, -1.0), (-1.0, np.nan)],
)
def test_a_nan_end_gives_nan_lines_and_never_a_stable_neuron(name: str, ends):
    lo, hi = (np.array([v], np.float32) for v in ends)
    lines, ranges, undecided = jax.device_get(relaxed(name)(lo, hi))
    assert np.isnan(lines.lower_intercept).all()
    assert np.isnan(lines.upper_intercept).all()
    assert np.isnan(np.stack(ranges)).any()
    assert undecided[0]


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
    [
        ("silu", 0.5001),
        ("gelu", 0.8),
        ("gelu_tanh", 0.8),
        ("mish", 0.7),
        ("sin", 1.0),
        ("cos", 1.0),
    ],
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
        (r.SQRT, -1e-30, 0.0),
        (r.SQRT, 0.0, np.inf),
        (r.RSQRT, 0.0, 1.0),
        (r.real_power(1.5), -1e-30, 1.0),
        (r.real_power(-0.7), 0.0, 1.0),
        (r.FINITE, 0.0, np.inf),
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


ROOTS = {"sqrt": (r.SQRT, 0.5)} | {
    f"pow_{p}": (r.real_power(p), p) for p in (0.01, 1 / 3, 0.9, 1.5, 2.5)
}


def near_zero() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intervals at and near 0 of all widths, and errors of their ends."""
    rng = np.random.default_rng(1)
    lo = 10.0 ** rng.uniform(-30, 1, 400)
    lo[::3] = 0
    hi = lo + 10.0 ** rng.uniform(-30, 1, 400)
    hi[::10] = lo[::10]
    return lo, hi, 10.0 ** rng.uniform(-25, -3, 400)


@pytest.mark.parametrize("name", ROOTS)
def test_an_error_moves_a_root_no_further_than_is_charged(name: str):
    # Range and lines are made over [lo, hi]; the argument lies up to `error` outside.
    activation, exponent = ROOTS[name]
    lo, hi, error = near_zero()
    wide_lo, wide_hi = np.maximum(lo - error, 0), hi + error
    with jax.enable_x64(True):
        ends = jnp.asarray(lo), jnp.asarray(hi)
        lines = jax.device_get(activation.relax(*ends))
        least, most = (np.asarray(v) for v in activation.interval(*ends))
        wide = jnp.asarray(wide_lo), jnp.asarray(wide_hi)
        charged = np.asarray(activation.carried(*wide, jnp.asarray(error)))
        slopes = np.asarray(activation.steepness(*wide))
    assert np.isfinite(charged).all()
    assert (np.abs(lines.lower_slope) <= slopes).all()
    assert (np.abs(lines.upper_slope) <= slopes).all()
    long = np.longdouble
    parts = np.linspace(0, 1, 401, dtype=long)[:, None]
    outside = np.concatenate(
        [wide_lo + (lo - wide_lo) * parts, hi + (wide_hi - hi) * parts]
    )
    exact = outside ** long(exponent)
    rounded = 2.0**-46 * (1 + slopes * wide_hi)
    allowed = charged + rounded
    assert (exact <= most + allowed).all()
    assert (exact >= least - allowed).all()
    below = lines.lower_slope.astype(long) * outside + lines.lower_intercept
    above = lines.upper_slope.astype(long) * outside + lines.upper_intercept
    assert (below <= exact + allowed).all()
    assert (above >= exact - allowed).all()


@pytest.mark.parametrize("name", ROOTS)
def test_an_error_below_zero_is_charged_infinitely(name: str):
    activation, _ = ROOTS[name]
    lo, hi, error = (jnp.asarray([v]) for v in (-1e-30, 1.0, 1e-30))
    assert np.isnan(activation.carried(lo, hi, error)).all()


def test_the_square_root_has_finite_lines_at_zero():
    lines = r.SQRT.relax(jnp.zeros(1), jnp.ones(1))
    # The secant below, and a tangent above that is steep nowhere.
    assert lines.lower_slope == 1 and lines.lower_intercept == 0
    assert 0.5 <= float(lines.upper_slope[0]) < 1


STEPS = {"floor": steps.FLOOR, "ceil": steps.CEIL, "round": steps.ROUND_EVEN}


@pytest.mark.parametrize("name", STEPS)
def test_lines_of_steps_enclose_them_next_to_every_jump(name: str):
    g = STEPS[name]
    ends = np.array([-2.0, -1.5, -0.75, -0.5, 0.0, 0.25, 0.5, 1.0, 1.5, 2.25])
    ends = np.sort(np.concatenate([ends - 1e-9, ends, ends + 1e-9]))
    lo, hi = (v[np.triu_indices(len(ends))] for v in np.meshgrid(ends, ends))
    lo, hi = np.minimum(lo, hi), np.maximum(lo, hi)
    with jax.enable_x64(True):
        lines = jax.device_get(g.relax(jnp.asarray(lo), jnp.asarray(hi)))
        z = np.clip(ends[:, None], lo, hi)
        value = np.asarray(g.value(jnp.asarray(z)))
        low, high = map(np.asarray, g.interval(jnp.asarray(lo), jnp.asarray(hi)))
    assert (lines.lower_slope * z + lines.lower_intercept <= value + 1e-15).all()
    assert (value <= lines.upper_slope * z + lines.upper_intercept + 1e-15).all()
    assert (low == value.min(axis=0)).all() and (high == value.max(axis=0)).all()


@pytest.mark.parametrize("name", STEPS)
def test_an_error_next_to_a_jump_carries_a_whole_step(name: str):
    g = STEPS[name]
    jump = 0.5 if name == "round" else 1.0
    with jax.enable_x64(True):
        for z, error, least, most in (
            (jump, 1e-9, 1.0, 1.1),
            (jump + 5e-10, 1e-9, 1.0, 1.1),
            (jump - 5e-10, 1e-9, 1.0, 1.1),
            (jump + 0.25, 1e-9, 0.0, 1e-6),
            (jump, 0.0, 0.0, 0.0),
        ):
            lo, hi, e = (jnp.asarray(v) for v in (z - error, z + error, error))
            assert least <= float(g.carried(lo, hi, e)) <= most, (z, error)
    nothing = g.relax(jnp.asarray(jnp.nan), jnp.asarray(1.0))
    assert all(np.isnan(v) for v in jax.tree.leaves(nothing))


@pytest.mark.parametrize(
    "name", [name for name, (of, *_) in ACTIVATIONS.items() if of.third is not None]
)
def test_third_derivatives_are_no_greater_than_stated(name: str):
    activation, low, high = ACTIVATIONS[name]
    third = jax.grad(jax.grad(jax.grad(activation.value)))
    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(third))(jnp.linspace(low, high, 20_001))
    most = float(jnp.abs(found).max())
    assert 0.99 * activation.third <= most <= activation.third
