"""What a VNN-LIB file asserts: a tree of comparisons, in postfix order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Atom:
    """The comparison `sum of coefficient * variable + constant <= 0` (or `< 0`).

    Attributes:
      inputs, outputs: pairs of an index and its coefficient, which is not 0.
      constant: what is added.
      strict: whether 0 itself is excluded.
      line: of the file.
    """

    inputs: tuple[tuple[int, Fraction], ...]
    outputs: tuple[tuple[int, Fraction], ...]
    constant: Fraction
    strict: bool
    line: int


@dataclasses.dataclass(frozen=True)
class Junction:
    """`and` or `or` of the last `count` values in postfix order."""

    operator: Literal["and", "or"]
    count: int


Assertions = tuple[Atom | Junction, ...]


def fold(
    program: Assertions,
    atom: Callable[[Atom], Any],
    join: dict[str, Callable[[list[Any]], Any]],
) -> Any:
    """Returns the value of a tree in postfix order; no recursion, however deep."""
    stack: list[Any] = []
    for step in program:
        if isinstance(step, Atom):
            stack.append(atom(step))
        else:
            first = len(stack) - step.count
            stack[first:] = [join[step.operator](stack[first:])]
    (value,) = stack
    return value
