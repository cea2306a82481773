"""Lattices: functions that are minima and maxima of affine functions of x.

Networks of ReLUs write one minimum in many ways: a - relu(a - b), or (s - |t|) / 2 with
s = a + b, t = a - b, |t| = relu(t) + relu(-t) and s = relu(s) - relu(-s). Values are
brought to a normal form here, in rational numbers, in which all of these are the same:

    c + sum_i a_i x_i + sum_k g_k relu(t_k),

where t_k is such a combination of x and earlier ReLUs, with 1 before the last of them.
For relu(g t) = g relu(t) if g > 0, and relu(-t) = relu(t) - t.

Let relu(t) be the last ReLU of a combination R + g relu(t). The combination is
max(R, R + g t) if g > 0, and min(R, R + g t) if g < 0. Neither R nor R + g t has that
ReLU: both are taken apart in turn, until only affine functions are left. That holds for
any network. Where all ReLUs belong to minima and maxima, those parts are few; networks
that have many are no lattices here.

Source of such networks: Ferlez and Shoukry, "AReN: Assured ReLU NN Architecture for
Model Predictive Control of LTI Systems", HSCC 2020.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxcert.spec import Spec
from jaxcert.trace.equations import Equation, Values
from jaxcert.trace.program import Program

_MOST_INPUTS, _MOST_RELUS, _MOST_TERMS = 16, 32, 1 << 20
"""Inputs; ReLUs in one combination; terms added up in all: more are not read."""
_MOST_PARTS = 4
"""Parts that a margin may have per ReLU; two minima of one pair are two parts each."""
_LEAST = 2.0**-126
"""Weights below this may have been lost when they were prepared."""

Row = Mapping[int, Fraction]
"""A combination: its coefficients by term, none of them 0.

Term 0 is 1, term 1 + i is x_i, and those behind are ReLUs in the order of their making.
"""
_ONE = 0
_PLUS, _MINUS = Fraction(1), Fraction(-1)
_Key = tuple[tuple[int, int, int], ...]


class _NoLattice(Exception):
    """A function is no lattice, or too large to be read as one."""


class Level(NamedTuple):
    """Minima and maxima of values of earlier levels.

    Attributes:
      left, right: numbers of the values of which they are, (n,).
      minima: how many of them are minima, which come first.
    """

    left: Int[np.ndarray, " n"]
    right: Int[np.ndarray, " n"]
    minima: int


@dataclasses.dataclass(frozen=True, eq=False)
class Lattice:
    """A function of x: the last of the values that levels make of affine functions.

    Attributes:
      weights, offset: of the affine functions, (leaves, inputs) and (leaves,): rational
        numbers, rounded to the nearest of float64.
      levels: in order; their values are numbered after the leaves.
    """

    weights: Float[np.ndarray, "leaves inputs"]
    offset: Float[np.ndarray, " leaves"]
    levels: tuple[Level, ...]

    @property
    def size(self) -> int:
        """Number of all values."""
        return len(self.offset) + sum(len(level.left) for level in self.levels)

    def value(self, leaves: Float[np.ndarray, "leaves n"]) -> Float[np.ndarray, " n"]:
        """Returns the function, given its leaves, without any rounding.

        It increases in every leaf: of lower bounds of these it is a lower bound.
        """
        values = np.empty((self.size, leaves.shape[1]))
        start = len(leaves)
        values[:start] = leaves
        for level in self.levels:
            left, right = values[level.left], values[level.right]
            middle, stop = start + level.minima, start + len(left)
            first, rest = slice(None, level.minima), slice(level.minima, None)
            np.minimum(left[first], right[first], out=values[start:middle])
            np.maximum(left[rest], right[rest], out=values[middle:stop])
            start = stop
        return values[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class NormalForm:
    """A network as combinations of its inputs and ReLUs, exactly.

    Attributes:
      inputs: how many inputs it has, in row-major order.
      outputs: one combination per output.
      relus: the argument of each ReLU.
    """

    inputs: int
    outputs: tuple[Row, ...]
    relus: tuple[Row, ...]

    def lattice(self, spec: Spec) -> Lattice | None:
        """Returns the margin of a spec as a lattice; None where it has too many parts.

        Args:
          spec: numpy float64, of the outputs; its numbers are taken as they are.
        """
        table = _Table(self.inputs, self.relus)
        clauses: dict[int, Row] = {}
        try:
            for weights, offset, clause in zip(
                np.asarray(spec.coefficients).tolist(),
                np.asarray(spec.offset).tolist(),
                np.asarray(spec.clause).tolist(),
                strict=True,
            ):
                factors = map(_fraction, weights)
                terms = list(zip(self.outputs, factors, strict=True))
                row = table.sum([*terms, (_constant(offset), _PLUS)])
                others = clauses.get(clause)
                clauses[clause] = row if others is None else table.greater(others, row)
            return _taken_apart(functools.reduce(table.less, clauses.values()), table)
        except _NoLattice:
            return None


def normal_form(
    program: Program, params: Any, prepare: Callable[[], Values]
) -> NormalForm | None:
    """Returns the normal form of a network; None where it has none that is small.

    Arithmetic on x is that of real numbers, as for all bounds. Networks of many inputs,
    of other activations, or with wide dense layers are given up soon.

    Args:
      program: the network.
      params: its weights.
      prepare: returns what `program.prepare` makes of them in float64.
    """
    equations = program.typed.equations[len(program.param_steps) :]
    readable = all(e.name in _RULES and _is_wide(e) for e in equations)
    if not readable or program.noisy or program.input_size > _MOST_INPUTS:
        return None
    given = (*jax.tree.leaves(params), *program.typed.known.values())
    if any(map(_is_tiny, given)):
        return None
    values, table = prepare(), _Table(program.input_size, ())
    first = [table.added({1 + i: _PLUS}) for i in range(program.input_size)]
    moving = {program.input: np.array(first).reshape(program.input_shape)}
    try:
        for equation in equations:
            operands = []
            for i in equation.inputs:
                if i not in moving and (i in program.inexact or i not in values):
                    raise _NoLattice
                operands.append(moving[i] if i in moving else np.asarray(values[i]))
            moves = [i in moving for i in equation.inputs]
            if not any(moves):
                raise _NoLattice
            (output,) = equation.outputs
            moving[output] = _RULES[equation.name](table, equation, operands, moves)
    except _NoLattice:
        return None
    if program.typed.result not in moving:
        return None
    outputs = moving[program.typed.result].reshape(-1)
    rows = tuple(table.rows[i] for i in outputs)
    return NormalForm(program.input_size, rows, tuple(table.relus))


def _is_wide(equation: Equation) -> bool:
    """Whether all types of an equation are floats of 32 bits or more."""
    kinds = [np.dtype(t) for t in (*equation.input_types, *equation.output_types)]
    return all(kind.kind == "f" and kind.itemsize >= 4 for kind in kinds)


def _is_tiny(array: Any) -> bool:
    """Whether a number is so small that it may have been flushed to 0."""
    size = np.abs(np.asarray(array, np.float64))
    return bool(np.any((size < _LEAST) & (size > 0)))


@functools.lru_cache(maxsize=1 << 12)
def _fraction(number: float) -> Fraction:
    """Returns a number as it is.

    Raises:
      _NoLattice: it is not finite.
    """
    if not math.isfinite(number):
        raise _NoLattice
    return Fraction(number)


def _constant(number: float) -> Row:
    return {_ONE: _fraction(number)} if number else {}


def _key(row: Row) -> _Key:
    return tuple(
        (term, row[term].numerator, row[term].denominator) for term in sorted(row)
    )


class _Table:
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
        self._numbers = {_key(row): number for number, row in enumerate(relus)}
        self._left = _MOST_TERMS

    def added(self, row: Row) -> int:
        """Returns the number that a combination gets."""
        self.rows.append(row)
        return len(self.rows) - 1

    def last(self, row: Row) -> int | None:
        """Returns the last ReLU of a combination, a term; None where it is affine."""
        term = max(row, default=_ONE)
        return term if term >= self.first_relu else None

    def argument(self, term: int) -> Row:
        """Returns the argument of the ReLU that is a term."""
        return self.relus[term - self.first_relu]

    def sum(self, terms: Iterable[tuple[Row, Fraction]]) -> Row:
        """Returns the sum of combinations times their factors.

        Raises:
          _NoLattice: it has too many ReLUs, or all sums so far too many terms.
        """
        total: dict[int, Fraction] = {}
        for row, factor in terms:
            self._left -= 1 + len(row)
            for term, value in row.items():
                more = value if factor == 1 else value * factor
                total[term] = total[term] + more if term in total else more
        found = {term: value for term, value in total.items() if value}
        if self._left < 0 or len(found) > self.first_relu + _MOST_RELUS:
            raise _NoLattice
        return found

    def relu(self, row: Row) -> Row:
        """Returns max(0, row)."""
        last = max(row, default=_ONE)
        if last == _ONE:
            return row if row and row[_ONE] > 0 else {}
        lead, argument = row[last], row
        if lead != 1:
            argument = {term: value / lead for term, value in row.items()}
        number = self._numbers.setdefault(_key(argument), len(self.relus))
        if number == len(self.relus):
            self.relus.append(argument)
        found = {self.first_relu + number: abs(lead)}
        # relu(-g t) = g relu(t) - g t for g > 0.
        return found if lead > 0 else self.plus(found, row)

    def plus(self, one: Row, other: Row) -> Row:
        """Returns one + other."""
        return self.sum([(one, _PLUS), (other, _PLUS)]) if other else one

    def minus(self, one: Row, other: Row) -> Row:
        """Returns one - other."""
        return self.sum([(one, _PLUS), (other, _MINUS)]) if other else one

    def negative(self, row: Row) -> Row:
        """Returns -row."""
        return self.sum([(row, _MINUS)])

    def magnitude(self, row: Row) -> Row:
        """Returns |row|."""
        return self.plus(self.relu(row), self.relu(self.negative(row)))

    def greater(self, one: Row, other: Row) -> Row:
        """Returns max(one, other)."""
        return self.plus(other, self.relu(self.minus(one, other)))

    def less(self, one: Row, other: Row) -> Row:
        """Returns min(one, other)."""
        return self.minus(one, self.relu(self.minus(one, other)))


class _Part(NamedTuple):
    """The minimum or maximum of two combinations, of which `last` is the last ReLU."""

    last: int
    minimum: bool
    left: _Key
    right: _Key


def _taken_apart(root: Row, table: _Table) -> Lattice:
    """Returns the lattice that a combination is.

    Raises:
      _NoLattice: it has too many parts, or a coefficient that float64 has not.
    """
    leaves: dict[_Key, Row] = {}
    parts: dict[_Key, _Part] = {}
    most, waiting = 1 + _MOST_PARTS * len(table.relus), [(_key(root), root)]
    while waiting:
        key, row = waiting.pop()
        last = table.last(row)
        if last is None:
            leaves[key] = row
        elif key not in parts:
            factor = row[last]
            rest = {term: value for term, value in row.items() if term != last}
            moved = table.sum([(rest, _PLUS), (table.argument(last), factor)])
            both = [(_key(rest), rest), (_key(moved), moved)]
            parts[key] = _Part(last, factor < 0, both[0][0], both[1][0])
            waiting += both
        if len(leaves) + len(parts) > most:
            raise _NoLattice
    depth = dict.fromkeys(leaves, 0)
    for key in sorted(parts, key=lambda key: parts[key].last):
        depth[key] = 1 + max(depth[parts[key].left], depth[parts[key].right])
    order = sorted(parts, key=lambda key: (depth[key], not parts[key].minimum))
    number = {key: place for place, key in enumerate([*leaves, *order])}
    levels = []
    for _, keys in itertools.groupby(order, depth.__getitem__):
        level = [parts[key] for key in keys]
        left = np.array([number[part.left] for part in level])
        right = np.array([number[part.right] for part in level])
        levels.append(Level(left, right, sum(part.minimum for part in level)))
    terms = [*range(1, table.first_relu), _ONE]
    try:
        affine = [[float(row.get(t, 0)) for t in terms] for row in leaves.values()]
    except OverflowError as error:
        raise _NoLattice from error
    numbers = np.array(affine)
    return Lattice(numbers[:, :-1], numbers[:, -1], tuple(levels))


# ---------------------------------------------------------------------------- rules

# An operand that moves with x is an array of numbers of combinations, another one an
# array of floats. The last argument says which ones move.
_Rule = Callable[[_Table, Equation, list[np.ndarray], list[bool]], np.ndarray]


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


def _numbered(table: _Table, operand: np.ndarray, moves: bool) -> np.ndarray:
    """Returns an operand as numbers of combinations."""
    if moves:
        return operand
    different, place = np.unique(operand, return_inverse=True)
    rows = [table.added(_constant(v)) for v in different.tolist()]
    return np.array(rows, int)[place].reshape(operand.shape)


def _concatenate(
    table: _Table, equation: Equation, operands: list[np.ndarray], moves: list[bool]
) -> np.ndarray:
    parts = [_numbered(table, v, m) for v, m in zip(operands, moves, strict=True)]
    return np.concatenate(parts, equation.params["dimension"])


def _stack(
    table: _Table, equation: Equation, operands: list[np.ndarray], moves: list[bool]
) -> np.ndarray:
    parts = [_numbered(table, v, m) for v, m in zip(operands, moves, strict=True)]
    return np.stack(parts, equation.params["axis"])


def _of_one(result: Callable[[_Table, Row], Row]) -> _Rule:
    """The rule of what is computed element by element."""

    def rule(
        table: _Table, equation: Equation, operands: list[np.ndarray], moves: list[bool]
    ) -> np.ndarray:
        numbers = operands[0].reshape(-1).tolist()
        rows = [table.added(result(table, table.rows[i])) for i in numbers]
        return np.array(rows, int).reshape(operands[0].shape)

    return rule


def _over_axes(result: Callable[[_Table, Row, Row], Row]) -> _Rule:
    """The rule of what is computed of all elements along some axes."""

    def rule(
        table: _Table, equation: Equation, operands: list[np.ndarray], moves: list[bool]
    ) -> np.ndarray:
        (x,), axes = operands, equation.params["axes"]
        kept = [i for i in range(x.ndim) if i not in axes]
        shape = [x.shape[i] for i in kept]
        flat = x.transpose([*kept, *axes]).reshape((math.prod(shape), -1))
        if not flat.size:
            raise _NoLattice
        rows = [
            table.added(functools.reduce(functools.partial(result, table), row))
            for row in ([table.rows[i] for i in numbers] for numbers in flat.tolist())
        ]
        return np.array(rows, int).reshape(shape)

    return rule


def _of_two(result: Callable[[_Table, Row, Row], Row]) -> _Rule:
    """The rule of what is computed of two operands, element by element."""

    def rule(
        table: _Table, equation: Equation, operands: list[np.ndarray], moves: list[bool]
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
    table: _Table, equation: Equation, operands: list[np.ndarray], moves: list[bool]
) -> np.ndarray:
    if all(moves):
        raise _NoLattice
    x, factors = np.broadcast_arrays(*(operands if moves[0] else operands[::-1]))
    pairs = zip(x.reshape(-1).tolist(), factors.reshape(-1).tolist(), strict=True)
    rows = [table.added(table.sum([(table.rows[i], _fraction(c))])) for i, c in pairs]
    return np.array(rows, int).reshape(x.shape)


def _dot_general(
    table: _Table, equation: Equation, operands: list[np.ndarray], moves: list[bool]
) -> np.ndarray:
    if all(moves):
        raise _NoLattice
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
        factors = [_fraction(w) for w in weights[batch, column, places].tolist()]
        for place, numbers in enumerate(x[batch][:, places].tolist()):
            terms = zip((table.rows[i] for i in numbers), factors, strict=True)
            found[batch, place, column] = table.added(table.sum(terms))
    return (found if moves[0] else found.swapaxes(1, 2)).reshape(shape)


_RULES: dict[str, _Rule] = {
    "reshape": _moved(lambda x, params: x.reshape(params["new_sizes"])),
    "squeeze": _moved(lambda x, params: np.squeeze(x, params["dimensions"])),
    "transpose": _moved(lambda x, params: x.transpose(params["permutation"])),
    "broadcast_in_dim": _moved(_broadcast),
    "slice": _moved(_slice),
    "concatenate": _concatenate,
    "stack": _stack,
    "neg": _of_one(_Table.negative),
    "abs": _of_one(_Table.magnitude),
    "add": _of_two(_Table.plus),
    "sub": _of_two(_Table.minus),
    "max": _of_two(_Table.greater),
    "min": _of_two(_Table.less),
    "reduce_sum": _over_axes(_Table.plus),
    "reduce_max": _over_axes(_Table.greater),
    "reduce_min": _over_axes(_Table.less),
    "mul": _mul,
    "dot_general": _dot_general,
}
