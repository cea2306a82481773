"""Combinations of x and ReLUs in rational numbers, and what primitives make of them.

    c + sum_i a_i x_i + sum_k g_k relu(t_k),

where t_k is such a combination of x and earlier ReLUs, with 1 before the last of them.
For relu(g t) = g relu(t) if g > 0, and relu(-t) = relu(t) - t: however a network writes
it, relu(t) is one term. Nothing is rounded. Piecewise linear primitives have rules;
what has others has no such form.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from jaxcert.trace.equations import Equation

_MOST_RELUS, _MOST_TERMS = 32, 1 << 20
"""ReLUs in one combination, and terms added up in all: more are not read."""

Row = Mapping[int, Fraction]
"""A combination: its coefficients by term, none of them 0.

Term 0 is 1, term 1 + i is x_i, and those behind are ReLUs in the order of their making.
"""
ONE = 0
"""The term that is 1."""
PLUS, MINUS = Fraction(1), Fraction(-1)
Key = tuple[tuple[int, int, int], ...]
"""What tells combinations apart; see `key_of`."""


class NoLattice(Exception):
    """A function is no lattice, or too large to be read as one."""


@functools.lru_cache(maxsize=1 << 12)
def fraction(number: float) -> Fraction:
    """Returns a number as it is.

    Raises:
      NoLattice: it is not finite.
    """
    if not math.isfinite(number):
        raise NoLattice
    return Fraction(number)


def constant(number: float) -> Row:
    """Returns a number as a combination."""
    return {ONE: fraction(number)} if number else {}


def key_of(row: Row) -> Key:
    """Returns what is equal for equal combinations alone."""
    return tuple(
        (term, row[term].numerator, row[term].denominator) for term in sorted(row)
    )


class Table:
    """Combinations, and the ReLUs that they are made of.

    Args:
      inputs: how many there are.
      relus: the arguments of the ReLUs so far.

    Attributes:
      first_relu: the term of the first one.
      relus: the argument of each ReLU.
      rows: combinations; a value is an array of their numbers.
    """

    def __init__(self, inputs: int, relus: Sequence[Row]) -> None:
        self.first_relu = 1 + inputs
        self.relus, self.rows = list(relus), list[Row]()
        self._numbers = {key_of(row): number for number, row in enumerate(relus)}
        self._left = _MOST_TERMS

    def added(self, row: Row) -> int:
        """Returns the number that a combination gets."""
        self.rows.append(row)
        return len(self.rows) - 1

    def last(self, row: Row) -> int | None:
        """Returns the last ReLU of a combination, a term; None where it is affine."""
        term = max(row, default=ONE)
        return term if term >= self.first_relu else None

    def argument(self, term: int) -> Row:
        """Returns the argument of the ReLU that is a term."""
        return self.relus[term - self.first_relu]

    def sum(self, terms: Iterable[tuple[Row, Fraction]]) -> Row:
        """Returns the sum of combinations times their factors.

        Raises:
          NoLattice: it has too many ReLUs, or all sums so far too many terms.
        """
        total: dict[int, Fraction] = {}
        for row, factor in terms:
            self._left -= 1 + len(row)
            for term, value in row.items():
                more = value if factor == 1 else value * factor
                total[term] = total[term] + more if term in total else more
        found = {term: value for term, value in total.items() if value}
        if self._left < 0 or len(found) > self.first_relu + _MOST_RELUS:
            raise NoLattice
        return found

    def relu(self, row: Row) -> Row:
        """Returns max(0, row)."""
        last = max(row, default=ONE)
        if last == ONE:
            return row if row and row[ONE] > 0 else {}
        lead, argument = row[last], row
        if lead != 1:
            argument = {term: value / lead for term, value in row.items()}
        number = self._numbers.setdefault(key_of(argument), len(self.relus))
        if number == len(self.relus):
            self.relus.append(argument)
        found = {self.first_relu + number: abs(lead)}
        # relu(-g t) = g relu(t) - g t for g > 0.
        return found if lead > 0 else self.plus(found, row)

    def plus(self, one: Row, other: Row) -> Row:
        """Returns one + other."""
        return self.sum([(one, PLUS), (other, PLUS)]) if other else one

    def minus(self, one: Row, other: Row) -> Row:
        """Returns one - other."""
        return self.sum([(one, PLUS), (other, MINUS)]) if other else one

    def negative(self, row: Row) -> Row:
        """Returns -row."""
        return self.sum([(row, MINUS)])

    def magnitude(self, row: Row) -> Row:
        """Returns |row|."""
        return self.plus(self.relu(row), self.relu(self.negative(row)))

    def greater(self, one: Row, other: Row) -> Row:
        """Returns max(one, other)."""
        return self.plus(other, self.relu(self.minus(one, other)))

    def less(self, one: Row, other: Row) -> Row:
        """Returns min(one, other)."""
        return self.minus(one, self.relu(self.minus(one, other)))


# ---------------------------------------------------------------------------- rules

# An operand that moves with x is an array of numbers of combinations, another one an
# array of floats. The last argument says which ones move.
_Rule = Callable[[Table, Equation, list[np.ndarray], list[bool]], np.ndarray]


def _moved(move: Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]) -> _Rule:
    """The rule of what puts the elements of its operand in other places."""
    return lambda table, equation, operands, moves: move(operands[0], equation.params)


def _broadcast(x: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    wide = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], x.shape, strict=True):
        wide[axis] = size
    return np.broadcast_to(x.reshape(wide), params["shape"])


def _slice(x: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    strides = params["strides"] or (1,) * x.ndim
    ends = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return x[tuple(slice(*end) for end in ends)]


def _numbered(table: Table, operand: np.ndarray, moves: bool) -> np.ndarray:
    """Returns an operand as numbers of combinations."""
    if moves:
        return operand
    different, place = np.unique(operand, return_inverse=True)
    rows = [table.added(constant(v)) for v in different.tolist()]
    return np.array(rows, int)[place].reshape(operand.shape)


def _concatenate(
    table: Table, equation: Equation, operands: list[np.ndarray], moves: list[bool]
) -> np.ndarray:
    parts = [_numbered(table, v, m) for v, m in zip(operands, moves, strict=True)]
    return np.concatenate(parts, equation.params["dimension"])


def _stack(
    table: Table, equation: Equation, operands: list[np.ndarray], moves: list[bool]
) -> np.ndarray:
    parts = [_numbered(table, v, m) for v, m in zip(operands, moves, strict=True)]
    return np.stack(parts, equation.params["axis"])


def _of_one(result: Callable[[Table, Row], Row]) -> _Rule:
    """The rule of what is computed element by element."""

    def rule(
        table: Table, equation: Equation, operands: list[np.ndarray], moves: list[bool]
    ) -> np.ndarray:
        numbers = operands[0].reshape(-1).tolist()
        rows = [table.added(result(table, table.rows[i])) for i in numbers]
        return np.array(rows, int).reshape(operands[0].shape)

    return rule


def _over_axes(result: Callable[[Table, Row, Row], Row]) -> _Rule:
    """The rule of what is computed of all elements along some axes."""

    def rule(
        table: Table, equation: Equation, operands: list[np.ndarray], moves: list[bool]
    ) -> np.ndarray:
        (x,), axes = operands, equation.params["axes"]
        kept = [i for i in range(x.ndim) if i not in axes]
        shape = [x.shape[i] for i in kept]
        flat = x.transpose([*kept, *axes]).reshape((math.prod(shape), -1))
        if not flat.size:
            raise NoLattice
        rows = [
            table.added(functools.reduce(functools.partial(result, table), row))
            for row in ([table.rows[i] for i in numbers] for numbers in flat.tolist())
        ]
        return np.array(rows, int).reshape(shape)

    return rule


def _of_two(result: Callable[[Table, Row, Row], Row]) -> _Rule:
    """The rule of what is computed of two operands, element by element."""

    def rule(
        table: Table, equation: Equation, operands: list[np.ndarray], moves: list[bool]
    ) -> np.ndarray:
        both = [_numbered(table, v, m) for v, m in zip(operands, moves, strict=True)]
        x, y = np.broadcast_arrays(*both)
        pairs = zip(x.reshape(-1).tolist(), y.reshape(-1).tolist(), strict=True)
        rows = [
            table.added(result(table, table.rows[i], table.rows[j])) for i, j in pairs
        ]
        return np.array(rows, int).reshape(x.shape)

    return rule


def _mul(
    table: Table, equation: Equation, operands: list[np.ndarray], moves: list[bool]
) -> np.ndarray:
    if all(moves):
        raise NoLattice
    x, factors = np.broadcast_arrays(*(operands if moves[0] else operands[::-1]))
    pairs = zip(x.reshape(-1).tolist(), factors.reshape(-1).tolist(), strict=True)
    rows = [table.added(table.sum([(table.rows[i], fraction(c))])) for i, c in pairs]
    return np.array(rows, int).reshape(x.shape)


def _dot_general(
    table: Table, equation: Equation, operands: list[np.ndarray], moves: list[bool]
) -> np.ndarray:
    if all(moves):
        raise NoLattice
    summed, shared = equation.params["dimension_numbers"]
    flat, shape = [], [operands[0].shape[i] for i in shared[0]]
    for array, inner, batch in zip(operands, summed, shared, strict=True):
        free = [i for i in range(array.ndim) if i not in (*inner, *batch)]
        sizes = [math.prod(array.shape[i] for i in p) for p in (batch, free, inner)]
        flat.append(array.transpose([*batch, *free, *inner]).reshape(sizes))
        shape += [array.shape[i] for i in free]
    x, weights = flat if moves[0] else flat[::-1]
    found = np.empty((len(x), x.shape[1], weights.shape[1]), int)
    for batch, column in np.ndindex(len(x), weights.shape[1]):
        (places,) = np.nonzero(weights[batch, column])
        factors = [fraction(w) for w in weights[batch, column, places].tolist()]
        for place, numbers in enumerate(x[batch][:, places].tolist()):
            terms = zip((table.rows[i] for i in numbers), factors, strict=True)
            found[batch, place, column] = table.added(table.sum(terms))
    return (found if moves[0] else found.swapaxes(1, 2)).reshape(shape)


RULES: dict[str, _Rule] = {
    "reshape": _moved(lambda x, params: x.reshape(params["new_sizes"])),
    "squeeze": _moved(lambda x, params: np.squeeze(x, params["dimensions"])),
    "transpose": _moved(lambda x, params: x.transpose(params["permutation"])),
    "broadcast_in_dim": _moved(_broadcast),
    "slice": _moved(_slice),
    "concatenate": _concatenate,
    "stack": _stack,
    "neg": _of_one(Table.negative),
    "abs": _of_one(Table.magnitude),
    "add": _of_two(Table.plus),
    "sub": _of_two(Table.minus),
    "max": _of_two(Table.greater),
    "min": _of_two(Table.less),
    "reduce_sum": _over_axes(Table.plus),
    "reduce_max": _over_axes(Table.greater),
    "reduce_min": _over_axes(Table.less),
    "mul": _mul,
    "dot_general": _dot_general,
}
