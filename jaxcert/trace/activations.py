"""Activations: their value, their range and their linear relaxation over an interval.

Every relaxation of g over [l, u] is four arrays with
`lower_slope z + lower_intercept <= g(z) <= upper_slope z + upper_intercept` for all z
in [l, u]. A NaN bound gives NaN everywhere, so that it ends as UNKNOWN and never as a
stable neuron.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Relaxation:
    """Two lines per neuron that enclose an activation; all of one shape."""

    lower_slope: Float[Array, "*n"]
    lower_intercept: Float[Array, "*n"]
    upper_slope: Float[Array, "*n"]
    upper_intercept: Float[Array, "*n"]


@dataclasses.dataclass(frozen=True)
class Activation:
    """A function of one variable, applied to every element.

    Attributes:
      name: for messages.
      value: g, elementwise.
      interval: (l, u) -> (min g, max g) over [l, u], outward or exact.
      relax: (l, u) -> `Relaxation`.
      steepness: (l, u) -> an upper bound of |g'| over [l, u] and of the slopes of its
        lines; how far rounding before g can carry behind it.
      piecewise_linear: whether g is the ReLU; the others are never decided by splits.
      sign: (whether z >= 0) -> whether g(z) >= 0 is certain, rounding or not.
      modulus: of a g that has values for z >= 0 alone: (l, u, e) -> how far apart g may
        be, beyond steepness times e, at two points of [l, u] that are e apart. It is
        what bounds rounding where g' is infinite, as that of a root at 0.
      jump: of a step function: (l, u, e) -> how far g may jump within e of l and u.
      third: an upper bound of |g'''| everywhere, for what expands g to second degree.
      relative: whether g is computed up to a few roundings of its own size.
      increasing: whether neither g nor any of its lines falls anywhere.
    """

    name: str
    value: Callable[[Array], Array]
    interval: Callable[[Array, Array], tuple[Array, Array]]
    relax: Callable[[Array, Array], Relaxation]
    steepness: Callable[[Array, Array], Array]
    piecewise_linear: bool = False
    sign: Callable[[Bool[Array, "*n"]], Bool[Array, "*n"]] = jnp.zeros_like
    modulus: Callable[[Array, Array, Array], Array] | None = None
    jump: Callable[[Array, Array, Array], Array] | None = None
    third: float | None = None
    relative: bool = False
    increasing: bool = False

    def carried(self, lo: Array, hi: Array, error: Array) -> Array:
        """Returns how far an error of the argument moves g, or its lines, on [lo, hi].

        NaN where g has no value somewhere on [lo, hi].
        """
        moved = self.steepness(lo, hi) * error
        for more in (self.modulus, self.jump):
            moved = moved if more is None else moved + more(lo, hi, error)
        return moved

    def undecided(self, lo: Array, hi: Array) -> Bool[Array, "*n"]:
        """Returns which neurons would gain from tighter bounds than [lo, hi].

        A ReLU that keeps its sign is linear, and is relaxed without loss.
        """
        if self.piecewise_linear:
            unknown = jnp.isnan(lo) | jnp.isnan(hi)
            return (~(lo >= 0) & ~(hi <= 0)) | unknown
        return ~(hi <= lo)


def _relu_relax(lo: Array, hi: Array) -> Relaxation:
    """max(z, 0) over [l, u] (CROWN, Zhang et al. 2018, section 3.3).

    l < 0 < u: alpha z <= relu(z) <= u (z - l) / (u - l) for every alpha in [0, 1]; here
    alpha = 1 if u > -l else 0, which leaves the lesser area.
    """
    width = hi - lo
    # No 0/0 at a point, not even in a branch that is not taken: its gradient is NaN.
    slope = hi / jnp.where(width == 0, 1, width)
    alpha = jnp.where(hi > -lo, 1.0, 0.0).astype(lo.dtype) + 0 * slope
    # A NaN at either end makes no stable neuron, whatever the other end says.
    on, off = (lo >= 0) & ~jnp.isnan(hi), (hi <= 0) & ~jnp.isnan(lo)
    zero, one = jnp.zeros_like(lo), jnp.ones_like(lo)

    def by_state(unstable: Array, active: Array) -> Array:
        return jnp.where(on, active, jnp.where(off, zero, unstable))

    return Relaxation(
        lower_slope=by_state(alpha, one),
        lower_intercept=by_state(0 * slope, zero),
        upper_slope=by_state(slope, one),
        upper_intercept=by_state(-slope * lo, zero),
    )


def _increasing(value: Callable) -> Callable:
    def interval(lo: Array, hi: Array) -> tuple[Array, Array]:
        a, b = value(lo), value(hi)
        # A function without a value at one end has no range, not half of one.
        undefined = jnp.isnan(a) | jnp.isnan(b)
        return jnp.where(undefined, jnp.nan, a), jnp.where(undefined, jnp.nan, b)

    return interval


RELU = Activation(
    name="relu",
    value=lambda z: jnp.maximum(z, 0),
    interval=_increasing(lambda z: jnp.maximum(z, 0)),
    relax=_relu_relax,
    steepness=lambda lo, hi: jnp.ones_like(lo),
    piecewise_linear=True,
    sign=jnp.ones_like,
)


def _chord(g: Callable, lo: Array, hi: Array, slope_at: Array) -> tuple[Array, Array]:
    """Returns (slope, intercept) of the line through (l, g(l)) and (u, g(u)).

    Where u - l is too small for a quotient, the derivative `slope_at` stands in.
    """
    width = hi - lo
    tiny = width <= 1e-6 * (1 + jnp.abs(lo))
    slope = jnp.where(tiny, slope_at, (g(hi) - g(lo)) / jnp.where(tiny, 1, width))
    return slope, g(lo) - slope * lo


def _derivative(g: Callable) -> Callable:
    return lambda z: jax.jvp(g, (z,), (jnp.ones_like(z),))[1]


def _steepest_at_ends(g: Callable) -> Callable[[Array, Array], Array]:
    """|g'| of a g whose g'' changes its sign at 0 at most: greatest at l, u or 0."""

    def steepness(lo: Array, hi: Array) -> Array:
        slope = _derivative(g)
        inner = jnp.clip(jnp.zeros_like(lo), lo, hi)
        candidates = [jnp.abs(slope(z)) for z in (lo, hi, inner)]
        return functools.reduce(jnp.maximum, candidates)

    return steepness


def _steepness_from_curvature(g: Callable, curvature: float) -> Callable:
    """|g'| <= |g'(l)| + M (u - l) where |g''| <= M."""
    return lambda lo, hi: jnp.abs(_derivative(g)(lo)) + curvature * (hi - lo)


def _line_above_ends(
    g: Callable, slope: Array, lo: Array, hi: Array, sign: int
) -> Array:
    """Returns the intercept that puts a line of given slope beyond g at both ends."""
    at_lo, at_hi = g(lo) - slope * lo, g(hi) - slope * hi
    return jnp.maximum(at_lo, at_hi) if sign > 0 else jnp.minimum(at_lo, at_hi)


def _convex_relax(g: Callable) -> Callable[[Array, Array], Relaxation]:
    """Convex g: tangent(m) <= g <= chord, m the midpoint, by convexity."""

    def relax(lo: Array, hi: Array) -> Relaxation:
        middle = lo + (hi - lo) / 2
        slope = _derivative(g)(middle)
        chord, _ = _chord(g, lo, hi, slope)
        # A line of any slope that lies above both ends lies above a convex g.
        above = _line_above_ends(g, chord, lo, hi, +1)
        # NaN or infinite at an end: no line, instead of the one that still exists.
        poison = 0 * above
        return Relaxation(
            slope, g(middle) - slope * middle + poison, chord, above + poison
        )

    return relax


def _negated(relax: Callable[[Array, Array], Relaxation]) -> Callable:
    """Returns the relaxation of -g from that of g."""

    def flipped(lo: Array, hi: Array) -> Relaxation:
        r = relax(lo, hi)
        return Relaxation(
            -r.upper_slope, -r.upper_intercept, -r.lower_slope, -r.lower_intercept
        )

    return flipped


def _concave_relax(g: Callable) -> Callable[[Array, Array], Relaxation]:
    return _negated(_convex_relax(lambda z: -g(z)))


def _s_shaped_relax(g: Callable) -> Callable[[Array, Array], Relaxation]:
    """g convex on z <= 0 and concave on z >= 0, increasing (CROWN, section 3.3).

    Upper line: the tangent at d >= 0 with tangent_d(l) >= g(l). It is above g on the
    concave part; on [l, 0] it is above both ends of a convex piece. Lower line by
    symmetry. Where no such d <= u exists the chord is above g. Bisection keeps the end
    of its bracket at which the inequality was evaluated and holds.
    """

    def upper(g: Callable, lo: Array, hi: Array) -> tuple[Array, Array]:
        # Of -g(-z) its own: that of g at -z is the same, but not what rounding leaves.
        slope_of = _derivative(g)

        def clears(d: Array) -> Array:
            return g(d) + slope_of(d) * (lo - d) >= g(lo)

        def halve(_, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            fails, holds = bracket
            middle = fails + (holds - fails) / 2
            good = clears(middle)
            return jnp.where(good, fails, middle), jnp.where(good, middle, holds)

        start = jnp.maximum(lo, 0), hi
        _, touch = jax.lax.fori_loop(0, 24, halve, start)
        middle = lo + (hi - lo) / 2
        concave, convex = lo >= 0, hi <= 0
        point = jnp.where(concave, middle, touch)
        chord, _ = _chord(g, lo, hi, slope_of(middle))
        by_chord = convex | (~concave & ~clears(jnp.maximum(hi, 0)))
        slope = jnp.where(by_chord, chord, slope_of(point))
        tangent = g(point) - slope * point
        ends = _line_above_ends(g, chord, lo, hi, +1)
        intercept = jnp.where(by_chord, ends, tangent)
        return slope, intercept + 0 * (lo + hi)

    def relax(lo: Array, hi: Array) -> Relaxation:
        upper_slope, upper_intercept = upper(g, lo, hi)
        # -g(-z) has the same shape: its upper line is the lower line of g, mirrored.
        lower_slope, mirrored = upper(lambda z: -g(-z), -hi, -lo)
        return Relaxation(lower_slope, -mirrored, upper_slope, upper_intercept)

    return relax


_CELLS = 128


def _lattice(lo: Array, hi: Array) -> Array:
    steps = jnp.linspace(0, 1, _CELLS + 1, dtype=lo.dtype)
    steps = steps.reshape((-1,) + (1,) * lo.ndim)
    points = lo + (hi - lo) * steps
    # lo + (hi - lo) may round past hi; the last point has to be hi itself.
    return points.at[-1].set(hi)


def _curved_relax(g: Callable, curvature: float) -> Callable:
    """Any g with |g''| <= M: chord slope k, intercepts from a lattice of spacing h.

    Between two lattice points g(z) - k z differs from its linear interpolant by at most
    M h^2 / 8, so min/max over the lattice -+ M h^2 / 8 bound it on all of [l, u].
    """

    def relax(lo: Array, hi: Array) -> Relaxation:
        middle = lo + (hi - lo) / 2
        slope, _ = _chord(g, lo, hi, _derivative(g)(middle))
        residual = g(_lattice(lo, hi)) - slope * _lattice(lo, hi)
        error = curvature * ((hi - lo) / _CELLS) ** 2 / 8
        return Relaxation(
            slope, residual.min(axis=0) - error, slope, residual.max(axis=0) + error
        )

    return relax


def _curved_interval(g: Callable, curvature: float) -> Callable:
    def interval(lo: Array, hi: Array) -> tuple[Array, Array]:
        values = g(_lattice(lo, hi))
        error = curvature * ((hi - lo) / _CELLS) ** 2 / 8
        return values.min(axis=0) - error, values.max(axis=0) + error

    return interval


def convex(name: str, g: Callable, interval: Callable | None = None) -> Activation:
    """Returns the activation of a convex g, increasing unless `interval` says else."""
    return Activation(
        name, g, interval or _increasing(g), _convex_relax(g), _steepest_at_ends(g),
        increasing=interval is None,
    )  # fmt: skip


def concave(name: str, g: Callable) -> Activation:
    """Returns the activation of a concave, increasing g."""
    return Activation(
        name, g, _increasing(g), _concave_relax(g), _steepest_at_ends(g),
        increasing=True,
    )  # fmt: skip


def s_shaped(name: str, g: Callable) -> Activation:
    """Returns the activation of an odd-symmetric increasing g around its inflection 0.

    g must be convex on z <= 0 and concave on z >= 0, and g(z) - g(0) odd.
    """
    return Activation(
        name, g, _increasing(g), _s_shaped_relax(g), _steepest_at_ends(g),
        increasing=True,
    )  # fmt: skip


def curved(
    name: str, g: Callable, curvature: float, third: float | None = None
) -> Activation:
    """Returns the activation of any twice differentiable g with |g''| <= curvature.

    And |g'''| <= third, where that is given.
    """
    return Activation(
        name,
        g,
        _curved_interval(g, curvature),
        _curved_relax(g, curvature),
        _steepness_from_curvature(g, curvature),
        third=third,
    )


def _positive(activation: Activation) -> Activation:
    """Returns the activation, known to be >= 0 everywhere."""
    return dataclasses.replace(activation, sign=jnp.ones_like)


def _even_interval(g: Callable) -> Callable:
    def interval(lo: Array, hi: Array) -> tuple[Array, Array]:
        a, b = g(lo), g(hi)
        inside = (lo <= 0) & (hi >= 0)  # neither end is NaN then
        least = jnp.where(inside, jnp.zeros_like(a), jnp.minimum(a, b))
        return least, jnp.maximum(a, b)

    return interval


def power(exponent: int) -> Activation:
    """Returns z ** exponent for an integer exponent >= 2."""

    def g(z: Array) -> Array:
        return jax.lax.integer_pow(z, exponent)

    name = f"integer_pow[{exponent}]"
    if exponent % 2 == 0:
        return _positive(convex(name, g, _even_interval(g)))
    # -z^3 has the shape of tanh: convex left of 0 and concave right of it, but it
    # decreases; the argument for the tangent lines does not use the direction.
    return Activation(
        name,
        g,
        _increasing(g),
        _negated(_s_shaped_relax(lambda z: -g(z))),
        _steepest_at_ends(g),
        sign=lambda known: known,
    )


# Lines on a root are no steeper than it is here: rounding errors of about 2^-50 in
# their argument then cost no more than the root itself makes of them.
_STEEPEST_AT = 2.0**-40


def root(name: str, g: Callable, exponent: float) -> Activation:
    """Returns the activation of g(z) = z ** p on z >= 0, for 0 < p < 1.

    Upper line: of slope s = g'(t) for a t >= 2^-40; as g is concave, g(z) - s z is
    greatest at clip(t, l, u). Lower line: through one end, below the other. g' is
    infinite at 0, but |a^p - b^p| <= |a - b|^p.
    """

    def slope_at(z: Array) -> Array:
        slope = exponent * jnp.maximum(z, _STEEPEST_AT) ** (exponent - 1)
        return jnp.where(z >= 0, slope, jnp.nan)

    def relax(lo: Array, hi: Array) -> Relaxation:
        middle = jnp.maximum(lo + (hi - lo) / 2, _STEEPEST_AT)
        upper, touch = slope_at(middle), jnp.clip(middle, lo, hi)
        chord, _ = _chord(g, lo, hi, upper)
        lower = jnp.minimum(chord, slope_at(lo))
        below = _line_above_ends(g, lower, lo, hi, -1)
        poison = 0 * (g(lo) + g(hi))
        return Relaxation(
            lower, below + poison, upper, g(touch) - upper * touch + poison
        )

    def modulus(lo: Array, hi: Array, error: Array) -> Array:
        return jnp.where(lo < _STEEPEST_AT, error**exponent, 0)

    return Activation(
        name, g, _increasing(g), relax, lambda lo, hi: slope_at(lo),
        sign=jnp.ones_like, modulus=modulus,
    )  # fmt: skip


def real_power(exponent: float) -> Activation:
    """Returns z ** p for a p that is no integer: z >= 0 for p > 0, else z > 0."""
    name = f"pow[{exponent:g}]"

    def g(z: Array) -> Array:
        return jax.lax.pow(z, jnp.asarray(exponent, z.dtype))

    if 0 < exponent < 1:
        return root(name, g, exponent)
    if exponent < 0:
        return _falling(name, g, exponent)

    def steepness(lo: Array, hi: Array) -> Array:
        slope = exponent * hi ** (exponent - 1)
        return jnp.where(lo >= 0, slope, jnp.nan)

    return Activation(
        name, g, _increasing(g), _convex_relax(g), steepness,
        sign=jnp.ones_like, modulus=lambda lo, hi, error: jnp.zeros_like(error),
    )  # fmt: skip


def _falling(name: str, g: Callable, exponent: float) -> Activation:
    """z ** p for p < 0 on z > 0: convex, decreasing, steepest next to the pole at 0."""

    def interval(lo: Array, hi: Array) -> tuple[Array, Array]:
        pole = ~(lo > 0) | jnp.isnan(hi)
        return jnp.where(pole, jnp.nan, g(hi)), jnp.where(pole, jnp.nan, g(lo))

    def steepness(lo: Array, hi: Array) -> Array:
        return jnp.where(lo > 0, -exponent * lo ** (exponent - 1), jnp.nan)

    return Activation(
        name, g, interval, _convex_relax(g), steepness, sign=jnp.ones_like
    )


def _reciprocal(z: Array) -> Array:
    return 1 / z


def _reciprocal_interval(lo: Array, hi: Array) -> tuple[Array, Array]:
    """[1/u, 1/l] on one side of 0; NaN where 0 lies in [l, u]."""
    pole = ~(lo > 0) & ~(hi < 0)
    return jnp.where(pole, jnp.nan, 1 / hi), jnp.where(pole, jnp.nan, 1 / lo)


def _reciprocal_relax(lo: Array, hi: Array) -> Relaxation:
    """1/z is convex on z > 0 and concave on z < 0; nothing holds across the pole."""
    right, left = _convex_relax(_reciprocal), _concave_relax(_reciprocal)
    pole = ~(lo > 0) & ~(hi < 0)

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(pole, jnp.nan, jnp.where(lo > 0, a, b))

    return jax.tree.map(pick, right(lo, hi), left(lo, hi))


def _reciprocal_steepness(lo: Array, hi: Array) -> Array:
    """1 / z^2 at the end next to the pole; NaN across it."""
    pole = ~(lo > 0) & ~(hi < 0)
    nearest = jnp.minimum(jnp.abs(lo), jnp.abs(hi))
    return jnp.where(pole, jnp.nan, 1 / nearest**2)


RECIPROCAL = Activation(
    "reciprocal",
    _reciprocal,
    _reciprocal_interval,
    _reciprocal_relax,
    _reciprocal_steepness,
    relative=True,
)
# where(is_finite(z), z, c): the identity wherever z has a finite range, nothing else.
FINITE = Activation(
    "finite",
    lambda z: z,
    lambda lo, hi: (lo + 0 * (lo + hi), hi + 0 * (lo + hi)),
    lambda lo, hi: Relaxation(
        jnp.ones_like(lo), 0 * (lo + hi), jnp.ones_like(lo), 0 * (lo + hi)
    ),
    lambda lo, hi: 1 + 0 * (lo + hi),
    sign=lambda known: known,
)
SQUARE = dataclasses.replace(
    _positive(convex("square", jnp.square, _even_interval(jnp.square))), third=0.0
)
EXP = dataclasses.replace(_positive(convex("exp", jnp.exp)), relative=True)
EXPM1 = convex("expm1", jnp.expm1)
LOG = concave("log", jnp.log)
LOG1P = concave("log1p", jnp.log1p)
SQRT = root("sqrt", jnp.sqrt, 0.5)
RSQRT = _falling("rsqrt", jax.lax.rsqrt, -0.5)
TANH = s_shaped("tanh", jnp.tanh)
LOGISTIC = _positive(s_shaped("logistic", jax.nn.sigmoid))
ERF = s_shaped("erf", jax.lax.erf)
SOFT_SIGN = s_shaped("soft_sign", jax.nn.soft_sign)
SOFTPLUS = _positive(convex("softplus", jax.nn.softplus))
# Greatest |g''|, rounded up: silu 1/2 at 0; gelu 2 / sqrt(2 pi) < 0.8 at 0, and the
# tanh form of gelu the same at 0 (its other extrema are below 0.3); mish below 0.65
# near -0.09; sine and cosine 1.
SILU = curved("silu", jax.nn.silu, 0.5001)
MISH = curved("mish", jax.nn.mish, 0.7)
SIN = curved("sin", jnp.sin, 1.0, third=1.0)
COS = curved("cos", jnp.cos, 1.0, third=1.0)


@functools.cache
def gelu(kind: Any, *, quotient: bool = False) -> Activation:
    """Returns gelu with its constant as float type `kind` holds it.

    That is the root of 1/2, or the one of 2 that z is divided by.
    """
    factor = float(np.sqrt(0.5).astype(kind))
    if quotient:
        factor = 1 / float(np.sqrt(2.0).astype(kind))
    return curved("gelu", lambda z: z * jax.lax.erfc(-factor * z) / 2, 0.8)


@functools.cache
def gelu_tanh(kind: Any) -> Activation:
    """Returns the tanh form of gelu, with its constants as type `kind` holds them.

    (1 + tanh v) / 2 is the logistic function of 2 v, in which nothing cancels.
    """
    constants = (np.sqrt(2 / np.pi), np.float64(0.044715))
    root, cubic = (float(c.astype(kind)) for c in constants)

    def value(z: Array) -> Array:
        return z * jax.nn.sigmoid(2 * root * (z + cubic * z**3))

    return curved("gelu_tanh", value, 0.8)
