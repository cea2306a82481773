"""Exact arrays: rational numbers as Python integers times one common unit.

Matrix products are the costly part. They are computed by float64 matrix products of
limbs: integers so short that every sum of their products stays below 2^53, where
float64 is exact in any order of summation.

Where a value has no exact form, or too many digits, an array holds the centres of
ranges: it has a radius then, of floats that are rounded up (van der Hoeven, Ball
arithmetic, 2009). The last digits of centres are cut off and charged to the radius.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from fractions import Fraction
from typing import Any

import numpy as np

_MANTISSA = 53
_MOST_LIMBS = 64
_MOST_BITS = 1 << 13
_LEAST = 2.0**-1000


class Inexact(Exception):
    """The value cannot be computed exactly, or only with too much work."""


class Budget:
    """Counts multiply-adds of float64 numbers, and stops what takes too many.

    Args:
      work: how many there may be.
      bits: that arrays keep; None: all of them, or there is no value.
    """

    def __init__(self, work: float, bits: int | None = None) -> None:
        self.left, self.bits = float(work), bits

    def spend(self, work: float) -> None:
        """Charges work.

        Raises:
          Inexact: there is not so much left.
        """
        self.left -= work
        if self.left < 0:
            raise Inexact

    def kept(self, value: Exact) -> Exact:
        """Returns a value without the digits that are too many."""
        return value if self.bits is None else value.shortened(self.bits)


@dataclasses.dataclass(frozen=True, eq=False)
class Exact:
    """The array `integers * unit`, or one that nowhere lies farther off than a radius.

    Attributes:
      integers: Python integers in a numpy object array.
      unit: > 0.
      radius: float64, >= 0, of the same shape; None: the array itself.
      origin: an array of which this one holds all elements in another order, and the
        change of order; it remembers its limbs.
    """

    integers: np.ndarray
    unit: Fraction
    radius: np.ndarray | None = None
    origin: tuple[Exact, Any] | None = None

    def __post_init__(self) -> None:
        # numpy unpacks an array of no axes in every operation.
        object.__setattr__(self, "integers", _wrapped(self.integers))
        if self.radius is not None and not np.all(np.isfinite(self.radius)):
            raise Inexact

    @staticmethod
    def of(array: Any) -> Exact:
        """Returns the exact values of floats or integers.

        Raises:
          Inexact: one of them is not finite, or they need too many bits.
        """
        array = np.asarray(array)
        if array.dtype.kind in "biu":
            return Exact(_objects(array.astype(np.int64)), Fraction(1))
        floats = np.asarray(array, np.float64)
        if not np.all(np.isfinite(floats)):
            raise Inexact
        fraction, exponent = np.frexp(floats)
        mantissa = np.ldexp(fraction, _MANTISSA).astype(np.int64)
        nonzero = mantissa != 0
        if not nonzero.any():
            return Exact(_objects(mantissa), Fraction(1))
        # Trailing zeros of every mantissa go into its exponent.
        lowest = (mantissa & -mantissa).astype(np.float64)
        trailing = np.where(nonzero, np.frexp(np.abs(lowest))[1] - 1, 0)
        mantissa, exponent = mantissa >> trailing, exponent - _MANTISSA + trailing
        least = int(exponent[nonzero].min())
        shift = np.where(nonzero, exponent - least, 0)
        if int(shift.max()) > _MOST_BITS:
            raise Inexact
        unit = Fraction(2) ** least
        return Exact(_objects(mantissa) << _objects(shift), unit)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.integers.shape

    def map(self, change: Any, spread: Any = None) -> Exact:
        """Returns the array with a change of integers that commutes with scaling.

        Args:
          change: of the integers.
          spread: what radii become, of up to as many terms as the array has elements;
            None: no element of the result moves by more than one of the array does.
        """
        radius = self.radius
        if radius is not None and spread is not None:
            radius = raised(spread(radius), radius.size)
        return Exact(change(self.integers), self.unit, radius)

    def moved(self, change: Any) -> Exact:
        """Returns the array transposed or reshaped."""
        radius = None if self.radius is None else change(self.radius)
        return Exact(change(self.integers), self.unit, radius, (self, change))

    def __neg__(self) -> Exact:
        return self.map(lambda v: -v)

    def __add__(self, other: Exact) -> Exact:
        (a, b), unit = aligned(self, other)
        total = _wrapped(a + b)
        if self.radius is None and other.radius is None:
            return Exact(total, unit)
        radius = raised(self.radii() + other.radii(), 2)
        return Exact(total, unit, np.broadcast_to(radius, total.shape))

    def __mul__(self, other: Exact) -> Exact:
        found = Exact(self.integers * other.integers, self.unit * other.unit)
        if self.radius is None and other.radius is None:
            return found
        with np.errstate(all="ignore"):
            radius = self.magnitude() * other.radii()
            radius = radius + self.radii() * (other.magnitude() + other.radii())
        return dataclasses.replace(found, radius=raised(radius, 4))

    def radii(self) -> np.ndarray:
        """Returns the radius, 0 where there is none."""
        return np.zeros(self.shape) if self.radius is None else self.radius

    def magnitude(self) -> np.ndarray:
        """Returns float64 numbers that are no smaller than those of the centres."""
        extra = max(self.bits - _MANTISSA, 0)
        leading: Any = _wrapped(abs(self.integers)) >> extra  # type: ignore[operator]
        floats = _wrapped(leading).astype(np.float64) + 1
        with np.errstate(all="ignore"):
            return raised(floats * _float_above(self.unit * Fraction(2) ** extra), 2)

    @property
    def lower(self) -> Exact:
        """An exact array that is nowhere greater."""
        return self if self.radius is None else self.centre + -Exact.of(self.radius)

    @property
    def upper(self) -> Exact:
        """An exact array that is nowhere smaller."""
        return self if self.radius is None else self.centre + Exact.of(self.radius)

    @property
    def centre(self) -> Exact:
        """The array without its radius."""
        return dataclasses.replace(self, radius=None)

    def shortened(self, bits: int) -> Exact:
        """Returns the array with integers of about so many bits."""
        extra = self.bits - bits
        if extra <= bits // 4:
            return self
        unit = self.unit * Fraction(2) ** extra
        radius = raised(self.radii() + _float_above(unit), 2)
        return Exact(self.integers >> extra, unit, radius)

    def inverse(self, bits: int | None = None) -> Exact:
        """Returns 1 / values.

        Args:
          bits: that the results keep at least; None: all of them.

        Raises:
          Inexact: one of them may be 0, or they have too large a common multiple.
        """
        flat = [int(v) for v in self.integers.reshape(-1)]
        if 0 in flat:
            raise Inexact
        if bits is not None:
            # |1 / y - 1 / y'| <= r / (|y| (|y| - r)), and what the division cuts off.
            one = 1 << (self.bits + bits)
            unit = 1 / (self.unit * one)
            inverses = np.array([one // v for v in flat] + [0], object)[:-1]
            least = self.map(abs).lower
            if np.any(np.less_equal(least.integers, 0)):
                raise Inexact
            within = np.array([_float_above(1 / v) for v in least.fractions()])
            within = within.reshape(self.shape)
            radius = self.radii() * within * within + _float_above(unit)
            return Exact(inverses.reshape(self.shape), unit, raised(radius, 4))
        multiple = math.lcm(*flat)
        if multiple.bit_length() > _MOST_BITS:
            raise Inexact
        quotients = np.empty(len(flat), object)
        quotients[:] = [multiple // v for v in flat]
        return Exact(quotients.reshape(self.shape), 1 / (self.unit * multiple))

    def fractions(self) -> list[Fraction]:
        """Returns the flat values, or centres."""
        return [int(v) * self.unit for v in self.integers.reshape(-1)]

    @functools.cached_property
    def bits(self) -> int:
        """Bits of the largest integer."""
        if self.integers.size == 0:
            return 0
        if self.origin is not None:
            return self.origin[0].bits
        flat = self.integers.reshape(-1)
        most = max(int(np.max(flat)), -int(np.min(flat)))
        return most.bit_length()

    @functools.cached_property
    def _limbs(self) -> dict[int, list[np.ndarray]]:
        return {}

    def limbs(self, width: int) -> list[np.ndarray]:
        """Returns float64 arrays L_i of magnitude < 2^width: integers = sum L_i 2^wi.

        Raises:
          Inexact: there are too many.
        """
        if self.origin is not None:
            before, change = self.origin
            return [change(limb) for limb in before.limbs(width)]
        if width not in self._limbs:
            if self.bits > width * _MOST_LIMBS:
                raise Inexact
            sign = np.where(self.integers < 0, -1.0, 1.0)
            rest, found = _wrapped(abs(self.integers)), []
            for _ in range(max(1, -(-self.bits // width))):
                low = _wrapped(rest & ((1 << width) - 1))
                found.append(sign * low.astype(np.float64))
                rest = _wrapped(rest >> width)
            self._limbs[width] = found
        return self._limbs[width]

    def reduced(self) -> Exact:
        """Returns the same values with the common powers of 2 in the unit."""
        if self.integers.size == 0:
            return self
        union = int(np.bitwise_or.reduce(self.integers.reshape(-1)))
        trailing = (union & -union).bit_length() - 1
        if trailing <= 0:
            return self
        unit = self.unit * Fraction(2) ** trailing
        return Exact(self.integers >> trailing, unit, self.radius)


def raised(numbers: np.ndarray, terms: int) -> np.ndarray:
    """Returns floats, >= 0, above the sums of so many terms that they are computed as.

    Each term may be a product of up to three floats that are rounded once.
    """
    with np.errstate(all="ignore"):
        return numbers * (1 + 2.0**-51 * (terms + 8)) + _LEAST


def _float_above(value: Fraction) -> float:
    """Returns a float that is no smaller than a number > 0."""
    try:
        return float(value) * (1 + 2.0**-51) + _LEAST
    except OverflowError:
        return math.inf


def aligned(*arrays: Exact) -> tuple[list[np.ndarray], Fraction]:
    """Returns the integers of arrays over their greatest common unit.

    Raises:
      Inexact: the units are too far apart.
    """
    units = [array.unit for array in arrays]
    denominator = math.lcm(*(u.denominator for u in units))
    numerators = [u.numerator * (denominator // u.denominator) for u in units]
    common = math.gcd(*numerators)
    factors = [n // common for n in numerators]
    if max(factors).bit_length() > _MOST_BITS:
        raise Inexact
    scaled = [_wrapped(a.integers * f) for a, f in zip(arrays, factors, strict=True)]
    return scaled, Fraction(common, denominator)


def extreme(a: Exact, b: Exact, sign: int) -> Exact:
    """Returns the elementwise maximum (sign 1) or minimum (sign -1)."""
    (x, y), unit = aligned(a, b)
    found = _wrapped((np.maximum if sign > 0 else np.minimum)(x, y))
    if a.radius is None and b.radius is None:
        return Exact(found, unit)
    radius = np.maximum(a.radii(), b.radii())
    return Exact(found, unit, np.broadcast_to(radius, found.shape))


def matrix_product(
    x: Exact, y: Exact, budget: Budget, gather: np.ndarray | None = None
) -> Exact:
    """Returns `x @ y` for stacks (..., m, k) of matrices and (..., k, n).

    Args:
      x, y: the factors.
      budget: pays for it.
      gather: of x, which is flat then: the index of every element of its matrices, -1
        for zeros.

    Raises:
      Inexact: too much work.
    """
    shape = x.shape if gather is None else gather.shape
    terms = max(shape[-1], 1)
    width = (_MANTISSA - (terms * _MOST_LIMBS).bit_length()) // 2
    if width < 4:
        raise Inexact
    x, y = budget.kept(x), budget.kept(y)
    count = -(-max(x.bits, 1) // width) * -(-max(y.bits, 1) // width)
    budget.spend(math.prod(shape) * y.shape[-1] * count + 64.0 * math.prod(y.shape))
    left, right = x.limbs(width), y.limbs(width)
    if gather is not None:
        left = [np.append(limb, 0.0)[gather] for limb in left]
    # All limbs of x by one of y at a time: y, the weights, is read once for each.
    *stack, m, k = left[0].shape
    tall = np.stack(left, axis=-3).reshape(*stack, len(left) * m, k)
    levels: list[Any] = [0.0] * (len(left) + len(right) - 1)
    for j, limb in enumerate(right):
        parts = np.matmul(tall, limb).reshape(*stack, len(left), m, limb.shape[-1])
        for i in range(len(left)):
            # At most _MOST_LIMBS products, each of `terms` terms below 2^(2 width).
            levels[i + j] = levels[i + j] + parts[..., i, :, :]
    total: Any = 0
    for level, part in enumerate(levels):
        total = total + (_objects(part) << (level * width))
    found = Exact(total, x.unit * y.unit)
    if x.radius is not None or y.radius is not None:
        sizes, radii = x.magnitude(), x.radii()
        if gather is not None:
            sizes, radii = (np.append(v, 0.0)[gather] for v in (sizes, radii))
        with np.errstate(all="ignore"):
            radius = sizes @ y.radii() + radii @ raised(y.magnitude() + y.radii(), 2)
        found = dataclasses.replace(found, radius=raised(radius, 2 * terms))
    return budget.kept(found.reduced())


def _objects(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).astype(np.int64).astype(object)


def _wrapped(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value if value.dtype == object else value.astype(object)
    array = np.empty((), object)
    array[()] = int(value)
    return array
