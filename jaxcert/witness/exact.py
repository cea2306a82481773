"""Exact evaluation: what a network's output is in real arithmetic, at a point or a box.

Stored weights and inputs are dyadic rationals, and a network of affine maps, maxima and
the like keeps them rational. So where float64 cannot tell a tie from a win, fractions
can: the function that was traced is evaluated on exact numbers. A smooth activation has
no exact value, and a large network too many digits: then there is no answer, but for
one in a given number of digits, and how far it may be off.
"""

from __future__ import annotations

import dataclasses
import functools
from fractions import Fraction
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from jaxcert.box import Box
from jaxcert.spec import Spec
from jaxcert.trace.equations import Equation, Values
from jaxcert.trace.program import Program
from jaxcert.witness.exact_numbers import Budget, Exact, Inexact
from jaxcert.witness.exact_ranges import Operand, Range
from jaxcert.witness.exact_rules import rule_of

_WORK = 4e9
"""Most multiply-adds of one evaluation, of float64 numbers: seconds."""


class ExactNetwork:
    """A traced function with its weights, evaluated without any rounding.

    Args:
      program: the traced function.
      params: its weights: float64, or what they are exactly.
      work: most multiply-adds of limbs that one evaluation may take.
      prepared: with `bits`, what `program.prepare` returned of the weights: those that
        f computes with rounding are ranges around what it has.
      bits: that numbers keep; None: all of them.
    """

    def __init__(
        self,
        program: Program,
        params: Any,
        work: float = _WORK,
        *,
        prepared: Values | None = None,
        bits: int | None = None,
    ) -> None:
        self.program, self._params, self._work = program, params, work
        self._prepared, self._bits = prepared, bits

    @functools.cached_property
    def _fixed(self) -> dict[int, Operand] | None:
        """What does not depend on the input; None where it has no exact value."""
        program = self.program
        leaves = jax.tree.leaves(self._params)
        constants = program.typed.known
        given = {**constants, **dict(zip(program.param_ids, leaves, strict=True))}
        needed = _needed(program)
        computed = needed & program.inexact
        prepared = self._prepared or {}
        if program.noisy or not computed.issubset(prepared):
            return None
        try:
            budget = Budget(self._work, self._bits)
            values = {i: _operand(given[i], budget) for i in needed & given.keys()}
            for i in computed:
                values[i] = _around(prepared[i], prepared[~i])
            _run(_steps(program)[0], values, needed, budget)
        except Inexact:
            return None
        return values

    def output(self, box: Box) -> Range | None:
        """Returns a range that holds the outputs over a box, by interval arithmetic.

        At a point, a box of lo = hi, it is the output itself. None where the network
        has no exact value, or one that takes too much work.
        """
        fixed = self._fixed
        if fixed is None:
            return None
        try:
            lo = Exact.of(box.lo)
            same = np.array_equal(np.asarray(box.lo), np.asarray(box.hi))
            x = Range(lo, lo if same else Exact.of(box.hi))
            values = {**fixed, self.program.input: x}
            needed = _needed(self.program)
            budget = Budget(self._work, self._bits)
            _run(_steps(self.program)[1], values, needed, budget)
        except Inexact:
            return None
        found = values[self.program.typed.result]
        return found if isinstance(found, Range) else None

    def margin(self, spec: Spec, output: Range) -> Fraction | None:
        """Returns the spec's margin at an output, which violates it iff that is <= 0.

        Where the output has a radius it is an upper bound. None: the spec has no exact
        numbers.
        """
        assert output.is_point
        rows = _rows(spec, output, upper=True)
        if rows is None:
            return None
        best: dict[int, Fraction] = {}
        for value, clause in zip(rows, np.asarray(spec.clause).tolist(), strict=True):
            best[clause] = max(value, best.get(clause, value))
        return min(best.values())

    def rows(self, spec: Spec, output: Range) -> list[Fraction] | None:
        """Returns the spec's rows at an output; of a range, lower bounds of them."""
        return _rows(spec, output, upper=False)

    def excludes(self, spec: Spec, strict: Bool[np.ndarray, " rows"], box: Box) -> bool:
        """Returns whether interval arithmetic shows the spec on a box, without slack.

        Every clause has a row that is > 0 all over the box; where the violation itself
        is strict, `C y + d < 0`, >= 0 suffices. False says nothing.
        """
        output = self.output(box)
        rows = None if output is None else self.rows(spec, output)
        if rows is None:
            return False
        shown = {
            clause
            for row, clause, open_ in zip(
                rows, np.asarray(spec.clause).tolist(), strict, strict=True
            )
            if row > 0 or (open_ and row == 0)
        }
        return shown == set(range(spec.num_clauses))


def _rows(spec: Spec, output: Range, *, upper: bool) -> list[Fraction] | None:
    """Returns bounds of the spec's rows at an output, or None."""
    try:
        coefficients, total = Exact.of(spec.coefficients), Exact.of(spec.offset)
        positive = coefficients.map(lambda v: np.maximum(v, 0))
        negative = coefficients.map(lambda v: np.minimum(v, 0))
        for weights, end in ((positive, output.lo), (negative, output.hi)):
            products = weights * end
            total = total + products.map(_row_sums, _row_sums)
        return (total.upper if upper else total.lower).fractions()
    except Inexact:
        return None


def _row_sums(v: np.ndarray) -> np.ndarray:
    return v.sum(axis=1)


def _around(value: Any, error: Any) -> Operand:
    """Returns the range of all numbers within an error of a weight."""
    value = np.asarray(value)
    if value.dtype.kind in "biu":
        raise Inexact  # a truth value or an index, of which nothing is known then
    radius = np.broadcast_to(np.asarray(error, np.float64), value.shape)
    return Range.point(dataclasses.replace(Exact.of(value), radius=radius))


def _operand(value: Any, budget: Budget) -> Operand:
    array = np.asarray(value)
    if array.dtype.kind in "biu" or np.all(np.isinf(array)):
        return array
    budget.spend(64.0 * array.size)
    return Range.point(Exact.of(np.asarray(array, np.float64)))


def _steps(program: Program) -> tuple[tuple[Equation, ...], tuple[Equation, ...]]:
    """Returns the equations that depend on params alone, and the others."""
    count = len(program.param_steps)
    return program.typed.equations[:count], program.typed.equations[count:]


@functools.lru_cache(maxsize=64)
def _needed(program: Program) -> frozenset[int]:
    """Returns the ids of values that the output depends on."""
    needed = {program.typed.result}
    for equation in reversed(program.typed.equations):
        if needed.intersection(equation.outputs):
            needed.update(equation.inputs)
    return frozenset(needed)


def _run(
    equations: tuple[Equation, ...],
    values: dict[int, Operand],
    needed: frozenset[int],
    budget: Budget,
) -> None:
    """Adds the results of equations to the values.

    Raises:
      Inexact: one of them has none that is exact, or too much work is needed.
    """
    for equation in equations:
        if all(i in values or i not in needed for i in equation.outputs):
            continue
        operands = [values[i] for i in equation.inputs]
        results = rule_of(equation)(equation, operands, budget)
        many = results if isinstance(results, list) else [results]
        for i, result in zip(equation.outputs, many, strict=True):
            if isinstance(result, np.ndarray) and result.dtype.kind not in "biu":
                result = Range.point(Exact.of(result))
            values[i] = result
