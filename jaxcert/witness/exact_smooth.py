"""Smooth functions of exact arrays: ranges around what decimal arithmetic gives.

`decimal` rounds exp, ln and sqrt correctly to as many digits as one asks for. It is
asked for eight more than the bits that are kept, so that a few roundings stay below
2^-bits, relative to a result or to 1; so much is charged to the radius, with what the
radius of the argument does, by the mean value theorem.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from jaxcert.witness.exact_numbers import Budget, Exact, Inexact, raised

_WORK = 2e4
"""Multiply-adds that take as long as one value does."""
_MOST_DIGITS = 300
"""In front of the point; no float holds more."""


def _tanh(z: Decimal) -> Decimal:
    return 1 - 2 / ((2 * z).exp() + 1)


def _logistic(z: Decimal) -> Decimal:
    return 1 / (1 + (-z).exp())


def _rsqrt(z: Decimal) -> Decimal:
    return 1 / z.sqrt()


_FUNCTIONS: dict[str, Callable[[Decimal], Decimal]] = {
    "exp": Decimal.exp,
    "log": Decimal.ln,
    "logistic": _logistic,
    "rsqrt": _rsqrt,
    "sqrt": Decimal.sqrt,
    "tanh": _tanh,
}
_POSITIVE = frozenset(("log", "rsqrt", "sqrt"))
"""Functions of numbers > 0."""


def smooth(name: str, x: Exact, budget: Budget) -> Exact:
    """Returns a range of a smooth function, element by element.

    Raises:
      Inexact: all digits are asked for, the function has no rule here, its argument
        may lie outside of its domain, or the range is too wide to say anything.
    """
    if budget.bits is None or name not in _FUNCTIONS:
        raise Inexact
    budget.spend(_WORK * x.integers.size)
    share = 2.0**-budget.bits
    digits = budget.bits * 31 // 100 + 10
    with decimal.localcontext(_context(digits)):
        try:
            arguments = [_decimal(v) for v in x.fractions()]
            if name in _POSITIVE and any(z <= 0 for z in arguments):
                raise Inexact
            results = [_FUNCTIONS[name](z) for z in arguments]
            if any(v.adjusted() > _MOST_DIGITS for v in results):
                raise Inexact
            centres = [
                Fraction(v) if v.adjusted() > -10 * digits else Fraction(0)
                for v in results
            ]
        except (decimal.Overflow, decimal.InvalidOperation) as error:
            raise Inexact from error
    found = _of_fractions(centres, x.shape, budget.bits)
    moved = raised(x.radii() + x.magnitude() * share, 4)
    steep = _steepness(name, x, moved, found)
    radius = moved * steep + found.radii() + (found.magnitude() + 1) * share
    return Exact(found.integers, found.unit, raised(radius, 8))


def _context(digits: int) -> decimal.Context:
    """Returns decimal arithmetic as it is assumed here, whatever a caller has set."""
    traps = [decimal.Overflow, decimal.InvalidOperation, decimal.DivisionByZero]
    return decimal.Context(
        digits, decimal.ROUND_HALF_EVEN, -999_999, 999_999, 1, 0, [], traps
    )


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def _of_fractions(values: list[Fraction], shape: Any, bits: int) -> Exact:
    """Returns values in as many bits as the greatest takes, cut off behind them."""
    greatest = max(map(abs, values), default=Fraction(0))
    if greatest == 0:
        return Exact.of(np.zeros(shape))
    exponent = greatest.numerator.bit_length() - greatest.denominator.bit_length()
    unit = Fraction(2) ** (exponent - bits)
    integers = np.array([v // unit for v in values] + [0], object)[:-1]
    off = np.full(shape, float(unit))
    return Exact(integers.reshape(shape), unit, raised(off, 1))


def _steepness(name: str, x: Exact, moved: np.ndarray, found: Exact) -> Any:
    """Returns no less than |f'| wherever x may be, moved by as much."""
    if name in ("tanh", "logistic"):
        return 1.0
    if name == "exp":  # e^(z + r) <= e^z (1 + 2 r) for r <= 1
        if np.any(moved > 1):
            raise Inexact
        return raised((found.magnitude() + found.radii()) * (1 + 2 * moved), 8)
    # 1 / z, 1 / (2 sqrt z) and 1 / (2 z sqrt z), at the least z there may be.
    least = (x.centre + -Exact.of(raised(moved, 1))).fractions()
    if any(v <= 0 for v in least):
        raise Inexact
    power = {"log": 1.0, "sqrt": 0.5, "rsqrt": 1.5}[name]
    floats = np.array([float(v) for v in least]).reshape(x.shape)
    with np.errstate(all="ignore"):
        # A power of a float is off by far less than it is doubled here.
        return raised(2 * floats**-power, 1)
