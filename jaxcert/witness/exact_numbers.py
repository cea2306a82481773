"""Exact arrays: rational numbers as Python integers times one common unit.

Matrix products are the costly part. They are computed by float64 matrix products of
limbs: integers so short that every sum of their products stays below 2^53, where
float64 is exact in any order of summation.
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


class Inexact(Exception):
    """The value cannot be computed exactly, or only with too much work."""


class Budget:
    """Counts multiply-adds of float64 numbers, and stops what takes too many."""

    def __init__(self, work: float) -> None:
        self.left = float(work)

    def spend(self, work: float) -> None:
        """Charges work.

        Raises:
          Inexact: there is not so much left.
        """
        self.left -= work
        if self.left < 0:
            raise Inexact


@dataclasses.dataclass(frozen=True, eq=False)
class Exact:
    """The array `integers * unit`.

    Attributes:
      integers: Python integers in a numpy object array.
      unit: > 0.
      origin: an array of which this one holds all elements in another order, and the
        change of order; it remembers its limbs.
    """

    integers: np.ndarray
    unit: Fraction
    origin: tuple[Exact, Any] | None = None

    def __post_init__(self) -> None:
        # numpy unpacks an array of no axes in every operation.
        object.__setattr__(self, "integers", _wrapped(self.integers))

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

    def map(self, change: Any) -> Exact:
        """Returns the array with a change of integers that commutes with scaling."""
        return Exact(change(self.integers), self.unit)

    def moved(self, change: Any) -> Exact:
        """Returns the array transposed or reshaped."""
        return Exact(change(self.integers), self.unit, (self, change))

    def __neg__(self) -> Exact:
        return self.map(lambda v: -v)

    def __add__(self, other: Exact) -> Exact:
        (a, b), unit = aligned(self, other)
        return Exact(a + b, unit)

    def __mul__(self, other: Exact) -> Exact:
        return Exact(self.integers * other.integers, self.unit * other.unit)

    def inverse(self) -> Exact:
        """Returns 1 / values.

        Raises:
          Inexact: one of them is 0, or they have too large a common multiple.
        """
        flat = [int(v) for v in self.integers.reshape(-1)]
        if 0 in flat:
            raise Inexact
        multiple = math.lcm(*flat)
        if multiple.bit_length() > _MOST_BITS:
            raise Inexact
        quotients = np.empty(len(flat), object)
        quotients[:] = [multiple // v for v in flat]
        return Exact(quotients.reshape(self.shape), 1 / (self.unit * multiple))

    def fractions(self) -> list[Fraction]:
        """Returns the flat values."""
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
        return Exact(self.integers >> trailing, self.unit * Fraction(2) ** trailing)


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
    return Exact((np.maximum if sign > 0 else np.minimum)(x, y), unit)


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
    return Exact(total, x.unit * y.unit).reduced()


def _objects(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).astype(np.int64).astype(object)


def _wrapped(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value if value.dtype == object else value.astype(object)
    array = np.empty((), object)
    array[()] = int(value)
    return array
