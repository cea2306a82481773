"""Exact ranges: all arrays between two exact ones, and rules for functions of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxcert.trace.equations import Equation
from jaxcert.witness.exact_numbers import Budget, Exact


@dataclasses.dataclass(frozen=True, eq=False)
class Range:
    """All arrays between two exact ones; one array where both are the same object."""

    lo: Exact
    hi: Exact

    @staticmethod
    def point(value: Exact) -> Range:
        """Returns the range of one array."""
        return Range(value, value)

    @property
    def is_point(self) -> bool:
        """Whether it is known to hold one array only."""
        return self.lo is self.hi

    def map(self, change: Callable[[Exact], Exact]) -> Range:
        """Returns the range of a change that is non-decreasing in every element."""
        lo = change(self.lo)
        return Range(lo, lo if self.is_point else change(self.hi))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the arrays."""
        return self.lo.shape


Operand = Any
Rule = Callable[[Equation, list[Operand], Budget], Operand]


def increasing(change: Callable[..., Exact]) -> Rule:
    """Returns the rule of what is non-decreasing in all elements of its operands."""

    def rule(equation: Equation, operands: list[Operand], budget: Budget) -> Range:
        ranges = [range_of(v) for v in operands]
        budget.spend(sum(v.lo.integers.size for v in ranges))
        lo = change(equation, *(v.lo for v in ranges))
        if all(v.is_point for v in ranges):
            return Range.point(lo)
        return Range(lo, change(equation, *(v.hi for v in ranges)))

    return rule


def range_of(operand: Operand) -> Range:
    """Returns an operand as a range."""
    if isinstance(operand, Range):
        return operand
    return Range.point(Exact.of(operand))
