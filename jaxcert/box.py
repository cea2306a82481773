"""Box: an axis-aligned set of inputs, and the quantities that are measured on it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

# Safely above the least normal float32, 2^-126.
_NORMAL = 2.0**-124
FLUSHED = 2.0**-960
"""A float64 below which differences of two numbers may be subnormal."""

Norm = Literal["linf", "l1", "l2"]
"""How displacements of several features are measured together."""
NORMS: tuple[Norm, ...] = ("linf", "l1", "l2")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Box:
    """The set of all z with `lo <= z <= hi` componentwise.

    A batch of boxes is a Box whose leaves have a leading axis; the methods below are
    for one box and are batched with `jax.vmap`.

    Attributes:
      lo: lower faces, any shape.
      hi: upper faces, same shape.
    """

    lo: Float[Array, "*d"]
    hi: Float[Array, "*d"]

    @staticmethod
    def unit(shape: tuple[int, ...], dtype=jnp.float32) -> Box:
        """Returns [0, 1]^d, the default domain."""
        return Box(jnp.zeros(shape, dtype), jnp.ones(shape, dtype))

    @staticmethod
    def point(x: Float[Array, "*d"]) -> Box:
        """Returns the box that holds x alone."""
        return Box(x, x)

    @staticmethod
    def ball(
        x: Float[Array, "*d"],
        radius: Float[ArrayLike, ""],
        domain: Box | None = None,
        rates: Rates | None = None,
        *,
        outward: bool = False,
    ) -> Box:
        """Returns clip([x - radius w_lo, x + radius w_hi], domain).

        Args:
          x: centre; must lie in the domain.
          radius: scalar, in input units (times the rates, if given).
          domain: box of legal inputs; None for no clipping.
          rates: weights w_lo, w_hi >= 0 per feature and side; None for 1.
          outward: round every face that moves outward, so that the box contains the
            exact one.
        """
        down = radius if rates is None else radius * rates.lower
        up = radius if rates is None else radius * rates.upper
        return Box.point(x)._moved(down, up, domain, outward)

    def _moved(self, down: Any, up: Any, domain: Box | None, outward: bool) -> Box:
        """Returns [lo - down, hi + up], rounded outward if asked, and clipped."""
        lo, hi = self.lo - down, self.hi + up
        if outward:
            down = jnp.where(down == 0, 0, jnp.nextafter(down, jnp.inf))
            up = jnp.where(up == 0, 0, jnp.nextafter(up, jnp.inf))
            lo, hi = self.lo - down, self.hi + up
            lo = jnp.where(down == 0, self.lo, jnp.nextafter(lo, -jnp.inf))
            hi = jnp.where(up == 0, self.hi, jnp.nextafter(hi, jnp.inf))
        if domain is not None:
            lo, hi = jnp.maximum(lo, domain.lo), jnp.minimum(hi, domain.hi)
        return Box(lo, hi)

    @property
    def center(self) -> Float[Array, "*d"]:
        """The midpoint."""
        return self.lo + (self.hi - self.lo) / 2

    @property
    def radius(self) -> Float[Array, "*d"]:
        """Half of every edge."""
        return (self.hi - self.lo) / 2

    @property
    def magnitude(self) -> Float[Array, "*d"]:
        """The greatest |z| of every element."""
        return jnp.maximum(jnp.abs(self.lo), jnp.abs(self.hi))

    def edges(self) -> Float[Array, "*d"]:
        """Returns the edge lengths hi - lo."""
        return self.hi - self.lo

    def log_volume(self) -> Float[Array, ""]:
        """Returns the sum of the logarithms of the edges; -inf if an edge is 0."""
        return jnp.sum(jnp.log(self.edges()))

    def contains(self, z: Float[Array, "*d"]) -> Bool[Array, ""]:
        """Returns whether z lies in the box; NaN lies in no box."""
        return jnp.all((self.lo <= z) & (z <= self.hi))

    def contains_box(self, other: Box) -> Bool[Array, ""]:
        """Returns whether the other box is a subset of this one."""
        return jnp.all((self.lo <= other.lo) & (other.hi <= self.hi))

    def intersect(self, other: Box) -> Box:
        """Returns the intersection; it has lo > hi somewhere where that is empty."""
        return Box(jnp.maximum(self.lo, other.lo), jnp.minimum(self.hi, other.hi))

    def is_empty(self) -> Bool[Array, ""]:
        """Returns whether no point lies in the box (a NaN face empties it)."""
        return ~jnp.all(self.lo <= self.hi)

    def hull(self, other: Box) -> Box:
        """Returns the least box that contains both."""
        return Box(jnp.minimum(self.lo, other.lo), jnp.maximum(self.hi, other.hi))

    def project(self, z: Float[Array, "*d"]) -> Float[Array, "*d"]:
        """Returns the point of the box that is nearest to z."""
        return jnp.clip(z, self.lo, self.hi)

    def float32(self) -> Box:
        """Returns the box in float32, every end rounded outward.

        Ends that XLA may flush to zero become the least normal numbers around them.
        """
        lo, hi = self.lo.astype(jnp.float32), self.hi.astype(jnp.float32)
        above = lo.astype(self.lo.dtype) > self.lo
        below = hi.astype(self.hi.dtype) < self.hi
        lo = jnp.where(above, jnp.nextafter(lo, -jnp.inf), lo)
        hi = jnp.where(below, jnp.nextafter(hi, jnp.inf), hi)
        low = jnp.where(self.lo >= 0, 0.0, -_NORMAL).astype(jnp.float32)
        high = jnp.where(self.hi <= 0, 0.0, _NORMAL).astype(jnp.float32)
        return Box(
            jnp.where(jnp.abs(self.lo) < _NORMAL, low, lo),
            jnp.where(jnp.abs(self.hi) < _NORMAL, high, hi),
        )

    def normal(self) -> Box:
        """Returns a box around it that XLA flushes nothing of; numpy float64.

        Its ends are 0 or so large that differences of them are normal numbers: large
        weights make much of an end that was flushed to 0.
        """
        lo, hi = (np.asarray(end, np.float64) for end in (self.lo, self.hi))
        low, high = np.where(lo < 0, -FLUSHED, 0.0), np.where(hi > 0, FLUSHED, 0.0)
        low = np.where(np.abs(lo) < FLUSHED, low, lo)
        high = np.where(np.abs(hi) < FLUSHED, high, hi)
        return Box(low, high)  # type: ignore[arg-type]

    def split(self, feature: Int[ArrayLike, ""]) -> tuple[Box, Box]:
        """Returns the two halves of the box along one feature (a flat index).

        The halves share the midpoint face, so that together they cover the box.
        """
        shape, middle = self.lo.shape, self.center.reshape(-1)[feature]
        hi = self.hi.reshape(-1).at[feature].set(middle).reshape(shape)
        lo = self.lo.reshape(-1).at[feature].set(middle).reshape(shape)
        return Box(self.lo, hi), Box(lo, self.hi)

    def slack(
        self, x: Float[Array, "*d"]
    ) -> tuple[Float[Array, "*d"], Float[Array, "*d"]]:
        """Returns (x - lo, hi - x), the slack of every lower and upper face."""
        return x - self.lo, self.hi - x

    def apothem(
        self, x: Float[Array, "*d"], domain: Box, rates: Rates | None = None
    ) -> Float[Array, ""]:
        """Returns the least slack over the faces not on the domain's boundary.

        With rates, the least slack / rate; a face of rate 0 is not asked to move and
        does not count. A face that collapsed inside the domain counts with slack 0; a
        face on the boundary does not count; with all faces there, it is infinite.
        """
        down, up = self.slack(x)
        if rates is not None:
            down, up = _time(down, rates.lower), _time(up, rates.upper)
        down = jnp.where(self.lo <= domain.lo, jnp.inf, down)
        up = jnp.where(self.hi >= domain.hi, jnp.inf, up)
        return jnp.minimum(jnp.min(down), jnp.min(up))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rates:
    """How fast each face moves: box(t) = clip([x - t lower, x + t upper], domain).

    With another norm than "linf" the sets are balls of it (`ball.py`), and t bounds the
    norm of what every feature moves, each in units of the rate of its side.

    Attributes:
      lower: rate of every lower face, >= 0, shape of the input.
      upper: rate of every upper face, >= 0, shape of the input.
      norm: "linf", "l1" or "l2".
    """

    lower: Float[Array, "*d"]
    upper: Float[Array, "*d"]
    norm: Norm = dataclasses.field(default="linf", metadata={"static": True})

    def distance(
        self, x: Float[Array, "*d"], z: Float[Array, "*d"]
    ) -> Float[Array, ""]:
        """Returns the least t for which the set of t around x, unclipped, holds z.

        Infinite where z differs from x on a side that has rate 0.
        """
        return self._steps(Box.point(x), z)

    def _steps(self, core: Box, z: Float[Array, "*d"]) -> Float[Array, ""]:
        down, up = jnp.maximum(core.lo - z, 0), jnp.maximum(z - core.hi, 0)
        steps = jnp.maximum(_ratio(down, self.lower), _ratio(up, self.upper))
        return norm_of(steps, self.norm)

    def pin(self, x: Float[Array, "*d"], z: Float[Array, "*d"]) -> Float[Array, "*d"]:
        """Returns z with the sides of rate 0 put back to x."""
        z = jnp.where(self.lower > 0, z, jnp.maximum(z, x))
        return jnp.where(self.upper > 0, z, jnp.minimum(z, x))

    def reach(self, x: Float[Array, "*d"], domain: Box) -> Float[Array, ""]:
        """Returns the least t from which on the set no longer grows inside the domain.

        Faces of rate 0 never move and do not count.
        """
        down = jnp.where(self.lower > 0, _ratio(x - domain.lo, self.lower), 0)
        up = jnp.where(self.upper > 0, _ratio(domain.hi - x, self.upper), 0)
        return norm_of(jnp.maximum(down, up), self.norm)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Family:
    """Nested boxes: box(t) = clip([core.lo - t w_lo, core.hi + t w_hi], domain).

    Around a point they are the balls of an apothem search; around a box, its growth.
    With another norm than "linf" the core is a point, and `ball.region_of` gives sets.

    Attributes:
      core: box(0); it lies in the domain.
      domain: box of legal inputs.
      rates: w, how fast each face moves.
    """

    core: Box
    domain: Box
    rates: Rates

    @staticmethod
    def many(cores: Box, domain: Box, rates: Rates) -> Family:
        """Returns a batch of families, numpy: leaves (n, *d).

        Args:
          cores: leaves (n, *d).
          domain, rates: of each, leaves (n, *d), or of all, leaves d.
        """

        def every(v: Float[ArrayLike, "..."]) -> np.ndarray:
            return np.broadcast_to(v, np.shape(cores.lo))

        return Family(cores, jax.tree.map(every, domain), jax.tree.map(every, rates))

    def box(self, t: Float[ArrayLike, ""], *, outward: bool = False) -> Box:
        """Returns box(t); with `outward`, one that contains the exact box(t).

        With another norm than "linf" it is the box around the set of t.
        """
        down, up = t * self.rates.lower, t * self.rates.upper
        return self.core._moved(down, up, self.domain, outward)

    def distance(self, z: Float[Array, "*d"]) -> Float[Array, ""]:
        """Returns the least t for which box(t), unclipped, holds z; inf: none."""
        return self.rates._steps(self.core, z)

    def toward(self, z: Float[Array, "*d"], part: Float[ArrayLike, ""]) -> Array:
        """Returns the point that lies this part of the way from the core to z."""
        begin = self.core.project(z)
        return self.domain.project(begin + part * (z - begin))


def outward(distance: Float[Array, "*n"], features: int = 0) -> Float[Array, "*n"]:
    """Returns computed distances rounded up by more than their own rounding.

    A difference and a quotient are computed with a relative error of at most 2^-52, a
    norm of so many features with that of `norm_of`.
    """
    return jnp.nextafter(distance * (1 + (features + 8) * 2.0**-52), jnp.inf)


def norm_of(steps: Float[Array, "*d"], norm: Norm) -> Float[Array, ""]:
    """Returns the norm of steps >= 0; it neither overflows nor underflows on its way.

    Computed with a relative error of at most (n + 4) 2^-53 for n steps, in float64.
    """
    most = jnp.max(steps, initial=0)
    if norm == "linf":
        return most
    if norm == "l1":
        return jnp.sum(steps)
    some = (most > 0) & jnp.isfinite(most)
    part = jnp.where(some, steps / jnp.where(some, most, 1), 0)
    # Beneath a root that is 0 there is no gradient.
    total = jnp.where(some, jnp.sum(part * part), 1)
    return jnp.where(some, most * jnp.sqrt(total), most)


def distances(family: Family, points: Float[np.ndarray, "n *d"]) -> np.ndarray:
    """Returns `family.distance` of points, shape (n,), computed on the host.

    Nothing is compiled for how many they are.

    Args:
      family: one, leaves (*d,), or one of each point, leaves (n, *d); numpy float64.
      points: float64.
    """
    core, rates = family.core, family.rates
    sides: Any = ((core.lo, points, rates.lower), (points, core.hi, rates.upper))
    down, up = (_steps_of_side(*(np.asarray(v) for v in side)) for side in sides)
    return norms(np.maximum(down, up), rates.norm)


def norms(steps: Float[np.ndarray, "n *d"], norm: Norm) -> np.ndarray:
    """Returns the norms of n arrays of steps >= 0, numpy; see `norm_of`."""
    power = {"linf": np.inf, "l1": 1, "l2": 2}[norm]
    return np.linalg.norm(steps.reshape(len(steps), -1), ord=power, axis=1)


def distance_above(core: Box, rates: Rates, z: Float[np.ndarray, "*d"]) -> float:
    """Returns the least float64 number that is no less than the exact distance of z.

    Args:
      core: box(0) of the family, numpy float64.
      rates: numpy float64.
      z: a point; infinite where no set of the family, unclipped, holds it.
    """
    sides: Any = ((core.lo, z, rates.lower), (z, core.hi, rates.upper))
    found: list[Fraction] = []
    for side in sides:
        large, small, rate = (np.asarray(v, np.float64).reshape(-1) for v in side)
        step = _steps_of_side(large, small, rate)
        if np.isinf(step).any():
            return float("inf")
        # Of a maximum only those within rounding of the greatest can be it.
        least = step.max(initial=0) * (1 - 2.0**-48) if rates.norm == "linf" else 0
        kept = np.flatnonzero((large > small) & (step >= least))
        if rates.norm == "linf" and len(set(rate[kept])) == 1:
            kept = kept[[_greatest_difference(large[kept], small[kept])]]
        for i in kept:
            exact = Fraction(large[i]) - Fraction(small[i])
            found.append(exact / Fraction(rate[i]))
    zero = Fraction(0)
    if rates.norm == "l2":
        return _root_above(sum((step * step for step in found), zero))
    total = sum(found, zero) if rates.norm == "l1" else max(found, default=zero)
    return _float_above(total, lambda t: t)


def _greatest_difference(large: np.ndarray, small: np.ndarray) -> int:
    """Returns where large - small is greatest exactly; its float64 values are finite.

    Each is its float64 value and the error of that, which Knuth's two-sum gives; of two
    the one with the greater value is no less, and of equal values errors decide.
    """
    value = large - small
    taken = large - value
    error = (large - (value + taken)) + (taken - small)
    return int(np.lexsort((error, value))[-1])


def _float_above(
    least: Fraction, power: Callable[[Fraction], Fraction], guess: float = 0.0
) -> float:
    """Returns the least float64 t >= 0 with power(t) >= least, near a guess."""
    try:
        t = guess or float(least)
    except OverflowError:  # beyond the greatest number
        return float("inf")
    while np.isfinite(t) and power(Fraction(t)) < least:
        t = float(np.nextafter(t, np.inf))
    while 0 < t < np.inf and power(Fraction(below := np.nextafter(t, 0))) >= least:
        t = float(below)
    return t


def _root_above(square: Fraction) -> float:
    """Returns the least float64 number that is no less than a square root."""
    if square == 0:
        return 0.0
    # Integers with enough digits, of an even power of two.
    shift = square.denominator.bit_length() - square.numerator.bit_length() + 140
    shift += shift % 2
    scaled = int(square * 2**shift) if shift >= 0 else int(square / 2**-shift)
    guess = Fraction(math.isqrt(scaled)) * Fraction(2) ** (-shift // 2)
    return _float_above(square, lambda t: t * t, float(guess))


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def _steps_of_side(large: Any, small: Any, rate: Any) -> np.ndarray:
    """Returns (large - small) / rate where that is above 0, and 0 elsewhere; numpy."""
    return np.where(large > small, (large - small) / rate, 0.0)


def _time(slack: Array, rate: Array) -> Array:
    return jnp.where(rate > 0, slack / jnp.where(rate > 0, rate, 1), jnp.inf)


def _ratio(step: Array, rate: Array) -> Array:
    # 0/0 is 0 here: a face that need not move is there at once, whatever its rate.
    moving = step > 0
    return jnp.where(moving, step / jnp.where(rate > 0, rate, 1), 0) + jnp.where(
        moving & (rate <= 0), jnp.inf, 0
    )
