"""Lattices: functions that are minima and maxima of affine functions of x.

Networks of ReLUs write one minimum in many ways: a - relu(a - b), or (s - |t|) / 2 with
s = a + b, t = a - b, |t| = relu(t) + relu(-t) and s = relu(s) - relu(-s). All of these
are the same combination of x and ReLUs (`combinations.py`).

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
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxcert.spec import Spec
from jaxcert.trace.combinations import (
    ONE,
    PLUS,
    RULES,
    Key,
    NoLattice,
    Row,
    Table,
    constant,
    fraction,
    key_of,
)
from jaxcert.trace.equations import Equation, Values
from jaxcert.trace.program import Program

_MOST_INPUTS = 16
"""Networks of more are not read."""
_MOST_PARTS = 4
"""Parts that a margin may have per ReLU; two minima of one pair are two parts each."""
_LEAST = 2.0**-126
"""Weights below this may have been lost when they were prepared."""


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
        table = Table(self.inputs, self.relus)
        clauses: dict[int, Row] = {}
        try:
            for weights, offset, clause in zip(
                np.asarray(spec.coefficients).tolist(),
                np.asarray(spec.offset).tolist(),
                np.asarray(spec.clause).tolist(),
                strict=True,
            ):
                factors = map(fraction, weights)
                terms = list(zip(self.outputs, factors, strict=True))
                row = table.sum([*terms, (constant(offset), PLUS)])
                others = clauses.get(clause)
                clauses[clause] = row if others is None else table.greater(others, row)
            return _taken_apart(functools.reduce(table.less, clauses.values()), table)
        except NoLattice:
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
    readable = all(e.name in RULES and _is_wide(e) for e in equations)
    if not readable or program.noisy or program.input_size > _MOST_INPUTS:
        return None
    given = (*jax.tree.leaves(params), *program.typed.known.values())
    if any(map(_is_tiny, given)):
        return None
    values, table = prepare(), Table(program.input_size, ())
    first = [table.added({1 + i: PLUS}) for i in range(program.input_size)]
    moving = {program.input: np.array(first).reshape(program.input_shape)}
    try:
        for equation in equations:
            operands = []
            for i in equation.inputs:
                if i not in moving and (i in program.inexact or i not in values):
                    raise NoLattice
                operands.append(moving[i] if i in moving else np.asarray(values[i]))
            moves = [i in moving for i in equation.inputs]
            if not any(moves):
                raise NoLattice
            (output,) = equation.outputs
            moving[output] = RULES[equation.name](table, equation, operands, moves)
    except NoLattice:
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


class _Part(NamedTuple):
    """The minimum or maximum of two combinations, of which `last` is the last ReLU."""

    last: int
    minimum: bool
    left: Key
    right: Key


def _taken_apart(root: Row, table: Table) -> Lattice:
    """Returns the lattice that a combination is.

    Raises:
      NoLattice: it has too many parts, or a coefficient that float64 has not.
    """
    leaves: dict[Key, Row] = {}
    parts: dict[Key, _Part] = {}
    most, waiting = 1 + _MOST_PARTS * len(table.relus), [(key_of(root), root)]
    while waiting:
        key, row = waiting.pop()
        last = table.last(row)
        if last is None:
            leaves[key] = row
        elif key not in parts:
            factor = row[last]
            rest = {term: value for term, value in row.items() if term != last}
            moved = table.sum([(rest, PLUS), (table.argument(last), factor)])
            both = [(key_of(rest), rest), (key_of(moved), moved)]
            parts[key] = _Part(last, factor < 0, both[0][0], both[1][0])
            waiting += both
        if len(leaves) + len(parts) > most:
            raise NoLattice
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
    terms = [*range(1, table.first_relu), ONE]
    try:
        affine = [[float(row.get(t, 0)) for t in terms] for row in leaves.values()]
    except OverflowError as error:
        raise NoLattice from error
    numbers = np.array(affine)
    return Lattice(numbers[:, :-1], numbers[:, -1], tuple(levels))
