"""Float types: what rounding to one of them does to a number, and how far it moves it.

A cast to a narrower type is an operation like any other: it has a value (`round_to`)
and an error (`half_ulp`). `widens` says which casts are the identity.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxcert.errors import UnsupportedError

# A result may be rounded on the way, to float32 for example, and then once more.
_TWICE = 1 + 2.0**-10


@dataclasses.dataclass(frozen=True)
class FloatFormat:
    """The numbers of a binary float type.

    Attributes:
      name: for messages.
      precision: bits of the significand, the leading one included.
      least_exponent: 2 to it is the least normal number.
      largest: finite number.
      overflow: what a greater one becomes: infinite, NaN, or `largest`.
      gradual: whether there are numbers below the least normal one; rounding to
        formats without them, those of `lax.reduce_precision`, gives zero.
    """

    name: str
    precision: int
    least_exponent: int
    largest: float
    overflow: float
    gradual: bool = True

    @property
    def unit(self) -> float:
        """The unit roundoff u: half an ulp of 1."""
        return 2.0**-self.precision

    @property
    def flushes(self) -> bool:
        """Whether numbers below the least normal one may be lost.

        XLA loses those of float32 where that is faster, and of types of its range.
        """
        return not self.gradual or self.least_exponent <= -126

    @property
    def least(self) -> float:
        """What rounding moves the least numbers by, at most."""
        exponent = self.least_exponent - (0 if self.flushes else self.precision)
        return 2.0**exponent


@functools.cache
def float_format(dtype: Any) -> FloatFormat:
    """Returns the format of a float dtype.

    Raises:
      UnsupportedError: it has no sign or no zero, like float8_e8m0fnu.
    """
    info = jnp.finfo(dtype)
    name = np.dtype(dtype).name
    if info.nmant < 1 or not float(info.min) < 0:
        raise UnsupportedError(
            f"numbers of type {name} have no rounding error that could be bounded; "
            "compute with another float type"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        beyond = float(np.asarray(1e300).astype(dtype)) if info.bits < 64 else np.inf
    least = int(np.log2(np.float64(info.smallest_normal)))
    return FloatFormat(name, int(info.nmant) + 1, least, float(info.max), beyond)


def reduced_format(exponent_bits: int, mantissa_bits: int) -> FloatFormat:
    """Returns the format that `lax.reduce_precision` rounds to.

    Raises:
      UnsupportedError: fewer than 2 bits of exponent.
    """
    if exponent_bits < 2:
        raise UnsupportedError(
            f"reduce_precision to {exponent_bits} bits of exponent has no normal "
            "numbers; ask for 2 or more"
        )
    bias = 2 ** (exponent_bits - 1) - 1
    exponent = min(bias, 1023)
    largest = (2 - 2.0**-mantissa_bits) * 2.0**exponent
    name = f"reduce_precision({exponent_bits}, {mantissa_bits})"
    return FloatFormat(name, mantissa_bits + 1, 1 - exponent, largest, np.inf, False)


FLOAT32, FLOAT64 = float_format(jnp.float32), float_format(jnp.float64)


def has_float64() -> bool:
    """Returns whether JAX has 64-bit types enabled here."""
    return bool(jnp.result_type(float) == jnp.float64)


def is_float(dtype: Any) -> bool:
    """Returns whether a dtype is one of floats."""
    return jnp.issubdtype(dtype, jnp.floating)


def widens(source: FloatFormat, target: FloatFormat) -> bool:
    """Returns whether every number of source is one of target: the cast is exact.

    Numbers of source that may be lost anyway do not count.
    """
    finest = source.least_exponent - (0 if source.flushes else source.precision - 1)
    held = target.least_exponent - (target.precision - 1 if target.gradual else 0)
    return (
        target.precision >= source.precision
        and target.largest >= source.largest
        and held <= finest
    )


def is_low(dtype: Any) -> bool:
    """Returns whether a dtype is a float type that does not hold those of float32."""
    return is_float(dtype) and not widens(FLOAT32, float_format(dtype))


def round_to(z: Float[Array, "*n"], target: FloatFormat) -> Float[Array, "*n"]:
    """Returns z rounded to the nearest number of a format, halves to even.

    In the float type of z. XLA may drop a cast to a narrower type and back (it "allows
    excess precision"); it never drops this.
    """
    info = jnp.finfo(z.dtype)
    rounded = z
    if target.precision - 1 < info.nmant:
        rounded = lax.reduce_precision(z, info.nexp, target.precision - 1)
    if target.least_exponent > info.minexp:
        least = 2.0**target.least_exponent
        quantum = 2.0 ** (target.least_exponent - target.precision + 1)
        below = lax.round(z / quantum, _EVEN) * quantum if target.gradual else 0 * z
        rounded = jnp.where(jnp.abs(z) < least, below, rounded)
    if target.largest < float(info.max):
        beyond = jnp.abs(rounded) > target.largest
        rounded = jnp.where(beyond, jnp.sign(z) * target.overflow, rounded)
    return rounded


_EVEN = lax.RoundingMethod.TO_NEAREST_EVEN


def half_ulp(largest: Float[Array, "*n"], target: FloatFormat) -> Float[Array, "*n"]:
    """Returns how far rounding moves any number of magnitude up to `largest`.

    |round(z) - z| <= 2^(e - p) for |z| < 2^(e + 1), with e no less than the least
    exponent. Infinite where a number may be beyond the largest finite one.
    """
    binade = jnp.maximum(_power_below(largest), 2.0**target.least_exponent)
    bound = jnp.maximum(binade * target.unit, target.least) * _TWICE
    return jnp.where(largest <= target.largest, bound, jnp.inf)


def _power_below(z: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns the greatest power of two that is <= z: its bits of exponent alone."""
    integer = jnp.int64 if z.dtype == jnp.float64 else jnp.int32
    mask = int(np.array(np.inf, z.dtype).view(np.dtype(integer)))
    bits = lax.bitcast_convert_type(z, integer) & integer(mask)
    return lax.bitcast_convert_type(bits, z.dtype)


def summed(terms: int, target: FloatFormat) -> float:
    """Returns g: a sum of products is off by at most g times the sum of magnitudes.

    (1 + u)^(n + 1) - 1 for n terms in any order (Higham, chapter 3): finite for every
    n, unlike gamma_n = n u / (1 - n u).
    """
    return float(np.expm1((terms + 1) * np.log1p(target.unit))) * _TWICE
