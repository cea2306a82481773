"""Numbers that judge float64: longdouble, 100 decimal digits, and exact fractions.

The campaign's networks are evaluated here by numpy alone, on arrays of one of three
kinds of number. It shares no code with jaxcert, not even the tracing of functions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import decimal
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

_DIGITS = 100
# The series of erf needs about this many terms where |z| <= 7; beyond, erf is +-1.
_ERF_TERMS, _ERF_END = 400, 12.0


@dataclasses.dataclass(frozen=True)
class Numbers:
    """One kind of number, in numpy arrays.

    Attributes:
      name: for records.
      convert: float64 array -> array of these numbers, exactly.
      exp, log, sqrt: elementwise; None where the numbers do not have them.
    """

    name: str
    convert: Callable[[Any], np.ndarray]
    exp: Callable[[Any], Any] | None = None
    log: Callable[[Any], Any] | None = None
    sqrt: Callable[[Any], Any] | None = None

    def number(self, value: float) -> Any:
        """Returns one number; arrays take it as a scalar."""
        return self.convert(np.array([value]))[0]

    def tanh(self, z: Any) -> Any:
        """Returns tanh, by exp(-2 |z|), which never overflows."""
        assert self.exp is not None
        small = self.exp(-2 * np.abs(z))
        positive = (1 - small) / (1 + small)
        return np.where(z < 0, -positive, positive)

    def sigmoid(self, z: Any) -> Any:
        """Returns 1 / (1 + exp(-z)), without overflow."""
        assert self.exp is not None
        small = self.exp(-np.abs(z))
        return np.where(z < 0, small / (1 + small), 1 / (1 + small))

    def softplus(self, z: Any) -> Any:
        """Returns log(1 + exp(z)), without overflow."""
        assert self.exp is not None and self.log is not None
        return np.maximum(z, 0 * z) + self.log(1 + self.exp(-np.abs(z)))

    def gelu(self, z: Any) -> Any:
        """Returns z (1 + erf(z / sqrt 2)) / 2.

        erf(t) = 2 t exp(-t^2) / sqrt(pi) * sum_n (2 t^2)^n / (1 3 5 .. (2n + 1)): all
        terms are positive, nothing cancels.
        """
        assert self.exp is not None and self.sqrt is not None
        half = self.number(0.5)
        end = self.number(_ERF_END)
        inside = np.clip(z, -end, end)
        square = inside * inside  # 2 t^2
        term = np.where(z == z, 1 + 0 * inside, inside)
        total = term
        for n in range(1, _ERF_TERMS):
            term = term * square / (2 * n + 1)
            total = total + term
        tail = inside * self.exp(-half * square) * total
        erf = tail * self.sqrt(self.number(2.0) / self._pi())
        erf = np.where(z > end, 1 + 0 * z, np.where(z < -end, 0 * z - 1, erf))
        return half * z * (1 + erf)

    def _pi(self) -> Any:
        digits = (
            "3.14159265358979323846264338327950288419716939937510582097494459230781"
            "640628620899862803482534211706798214808651"
        )
        if self.name == "decimals":
            return decimal.Decimal(digits)
        return np.longdouble(digits)


def _each(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return np.frompyfunc(function, 1, 1)


def _fractions(values: Any) -> np.ndarray:
    return np.asarray(_each(lambda v: Fraction(float(v)))(values), object)


def _decimals(values: Any) -> np.ndarray:
    return np.asarray(_each(lambda v: decimal.Decimal(float(v)))(values), object)


LONG = Numbers(
    "longdouble",
    lambda values: np.asarray(values, np.longdouble),
    np.exp,
    np.log,
    np.sqrt,
)
FRACTIONS = Numbers("fractions", _fractions)
DECIMALS = Numbers(
    "decimals",
    _decimals,
    _each(lambda v: v.exp()),
    _each(lambda v: v.ln()),
    _each(lambda v: v.sqrt()),
)


@contextlib.contextmanager
def digits() -> Iterator[None]:
    """Runs the block with enough digits, and an exponent range without an end."""
    context = decimal.Context(
        prec=_DIGITS, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=[]
    )
    with decimal.localcontext(context):
        yield
