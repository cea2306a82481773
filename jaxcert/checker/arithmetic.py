"""Arithmetic that errs on the safe side.

It is rational, or IEEE float64 rounded to nearest, in which A @ B is off by at
most gamma_n |A| |B|, gamma_n = n u / (1 - n u), u = 2^-53, in any order of summation,
fused or not (Higham, Accuracy and Stability, chapter 3), and by underflow; all else is
stepped outward.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import math
from fractions import Fraction

import numpy as np

BLOCK = 2**22  # numbers in one block of rows, at most
LARGEST = 2.0**150  # of a value
_TINY = 2.0**-800  # above every sum of underflows, of 2^-1022 per operation
_GRID = 2**160  # fractions that no rational number is equal to are multiples of 1 / it


class Arithmetic:
    """Fractions in object arrays if `exact`, else float64 stepped outward."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        self.zero, self.one, self.half = map(self.number, (0.0, 1.0, 0.5))

    def number(self, array):
        """Returns the same numbers, of float64 or of its own."""
        if self.exact:
            own = Fraction
            return each(lambda v: v if type(v) is own else own(float(v)), array)
        return np.asarray(array, np.float64)

    def up(self, x):
        """Returns >= every number that one operation may have rounded to x.

        |x| 2^-52 is at least the distance to the next number, and no rounding is beyond
        that; where it underflows _TINY is.
        """
        return x if self.exact else x + (abs(x) * 2.0**-52 + _TINY)

    def down(self, x):
        """Returns <= every number that one operation may have rounded to x."""
        return -self.up(-x)

    def above(self, x, n: int):
        """Returns >= every number >= 0 that n operations may have rounded to x.

        They add, multiply and divide such numbers, or subtract two that are given, and
        each is off by a factor within 1 +- u: so all are by (1 - u)^-n <= 1 + 2 n u at
        most, and 2 u are left for the rounding of this product. If rational, x is
        rounded up, since fractions would grow without end.
        """
        if self.exact:
            return each(lambda v: Fraction(math.ceil(v * _GRID), _GRID), x)
        return x * (1 + (n + 1) * 2.0**-52)

    def below(self, x, n: int):
        """Returns <= every number >= 0 that n such operations may have rounded to x."""
        if self.exact:
            return each(lambda v: Fraction(math.floor(v * _GRID), _GRID), x)
        return x * (1 - (n + 1) * 2.0**-52)

    def dot(self, a, b):
        """Returns a @ b as computed."""
        if not self.exact:
            return a @ b
        (p, s), (q, t) = (_integers(matrix) for matrix in (a, b))
        return each(lambda value: Fraction(value, s * t), p @ q)

    def along(self, a, b):
        """Returns a_i @ b_i of all rows i as computed."""
        return (a * b).sum(axis=1) if self.exact else np.einsum("ij,ij->i", a, b)

    def bound(self, a, b, dot=None):
        """Returns >= a @ b, for b >= 0 and a >= 0 whose entries may be rounded once.

        (1 - gamma_{n+1}) a @ b <= fl(a @ b), and 1 <= (1 - gamma_{n+1}) (1 + 2(n+4)u);
        4 u are left for the roundings of the product and of the sum. `dot` is the
        product that is meant: this one, or `along`.
        """
        found = (dot or self.dot)(a, b)
        if self.exact:
            return found
        return found * (1 + (a.shape[-1] + 6) * 2.0**-52) + _TINY

    def charge(self, a, reach, n=1, dot=None):
        """Returns >= |error of a @ w| @ size, for reach >= |w| @ size, w of n rows.

        |error| <= gamma_n |a| |w|. No w: of a, rounded once. (2 n + 8) u is twice
        gamma_n and more, which is enough for the roundings of this product.
        """
        if self.exact:
            return Fraction(0)
        return (dot or self.dot)(abs(a), reach) * ((n + 4) * 2.0**-52) + _TINY

    def total(self, parts):
        """Returns <= the sum of some numbers or arrays.

        In any order of summation its error is at most gamma_m times the sum of the
        absolute values of m parts, and (2 m + 8) u is twice that.
        """
        found = sum(parts)
        if self.exact:
            return found
        return found - (sum(map(abs, parts)) * ((len(parts) + 4) * 2.0**-52) + _TINY)

    def least(self, a, lo, hi, dot=None):
        """Returns <= a @ v for lo <= v <= hi: a mid - |a| rad, lo >= mid - rad, ..."""
        mid = (lo + hi) * self.half
        rad = np.maximum(self.up(hi - mid), self.up(mid - lo))
        error = self.charge(a, abs(mid), a.shape[-1], dot)
        spread = self.bound(abs(a), rad, dot)
        return self.total([(dot or self.dot)(a, mid), -spread, -error])


def each(function, a):
    return np.asarray(np.frompyfunc(function, 1, 1)(a), object)


def _integers(a):
    """Returns integers p and a scale s with a = p / s."""
    scale = math.lcm(*{value.denominator for value in a.flat})
    return each(lambda v: v.numerator * (scale // v.denominator), a), scale


def excess(a, b, scale: float, rate):
    """Returns the signs of (a - b) - scale rate, exactly.

    Rounding is monotone: it hides the sign only where the rounded sides are equal.
    """
    left, right = a - b, scale * rate
    sign = np.where(left > right, 1, -1)
    for i in np.flatnonzero(left == right):
        exact = Fraction(a[i]) - Fraction(b[i]) - Fraction(scale) * Fraction(rate[i])
        sign[i] = (exact > 0) - (exact < 0)
    return sign
