"""Exact rules: what primitives do to exact arrays, and to exact ranges of them.

An operand is a `Range` of exact arrays, or a numpy array of truth values or integers.
Whatever moves elements without computing runs on their indices by JAX itself; what
computes is written here. A primitive without a rule has no exact value.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcert.trace.equations import Equation
from jaxcert.witness.exact_numbers import (
    Budget,
    Exact,
    Inexact,
    aligned,
    extreme,
)
from jaxcert.witness.exact_products import convolution, dot_general, window_reduction
from jaxcert.witness.exact_ranges import Operand, Range, Rule, increasing, range_of
from jaxcert.witness.exact_smooth import smooth

# ------------------------------------------------------------------ moving elements


def _moved(*positions: int | slice) -> Rule:
    """The rule of a primitive whose result consists of elements of these operands."""

    def rule(equation: Equation, operands: list[Operand], budget: Budget) -> Operand:
        chosen: list[int] = []
        for position in positions:
            everything = range(len(operands))
            chosen += (
                everything[position] if isinstance(position, slice)
                else [position]
            )  # fmt: skip
        if not any(isinstance(operands[i], Range) for i in chosen):
            return _run(equation, operands)
        ranges = [range_of(operands[i]) for i in chosen]
        indices, start = list(operands), 0
        for i, value in zip(chosen, ranges, strict=True):
            size = value.lo.integers.size
            numbers = np.arange(start, start + size, dtype=np.int32)
            indices[i], start = numbers.reshape(value.shape), start + size
        budget.spend(start)
        moved = _run(equation, indices)

        def picked(index: np.ndarray) -> Range:
            if index.size and not (index.min() >= 0 and index.max() < start):
                raise Inexact  # a fill value, which is none of the elements

            def pick(*arrays: Exact) -> Exact:
                parts, unit = aligned(*arrays)
                flat = np.concatenate([part.reshape(-1) for part in parts])
                if all(array.radius is None for array in arrays):
                    return Exact(flat[index], unit)
                radii = np.concatenate([a.radii().reshape(-1) for a in arrays])
                return Exact(flat[index], unit, radii[index])

            lo = pick(*(v.lo for v in ranges))
            if all(v.is_point for v in ranges):
                return Range.point(lo)
            return Range(lo, pick(*(v.hi for v in ranges)))

        return [picked(m) for m in moved] if isinstance(moved, list) else picked(moved)

    return rule


def _run(equation: Equation, operands: list[Any]) -> Any:
    """Returns what JAX computes of arrays without fractions."""
    try:
        results = equation.bind(*map(jnp.asarray, operands), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Inexact from error
    if equation.primitive.multiple_results:
        return [np.asarray(r) for r in results]
    return np.asarray(results)


def _select(equation: Equation, operands: list[Operand], budget: Budget) -> Operand:
    if isinstance(operands[0], Range):
        raise Inexact
    return _moved(slice(1, None))(equation, operands, budget)


# ----------------------------------------------------------------------- arithmetic


def _sub(_: Equation, operands: list[Operand], budget: Budget) -> Range:
    x, y = map(range_of, operands)
    budget.spend(x.lo.integers.size + y.lo.integers.size)
    lo = x.lo + -y.hi
    return Range(lo, lo if x.is_point and y.is_point else x.hi + -y.lo)


def _neg(_: Equation, operands: list[Operand], budget: Budget) -> Range:
    x = range_of(operands[0])
    budget.spend(x.lo.integers.size)
    lo = -x.hi
    return Range(lo, lo if x.is_point else -x.lo)


def _mul(_: Equation, operands: list[Operand], budget: Budget) -> Range:
    x, y = map(range_of, operands)
    budget.spend(4 * max(x.lo.integers.size, y.lo.integers.size))
    if x.is_point and y.is_point:
        return Range.point(budget.kept((x.lo * y.lo).reduced()))
    corners = [a * b for a in (x.lo, x.hi) for b in (y.lo, y.hi)]
    return Range(*(_extremes(corners, sign) for sign in (-1, 1)))


def _extremes(arrays: list[Exact], sign: int) -> Exact:
    return functools.reduce(lambda a, b: extreme(a, b, sign), arrays)


def _div(equation: Equation, operands: list[Operand], budget: Budget) -> Range:
    y = range_of(operands[1])
    if not y.is_point:
        raise Inexact
    inverse = y.lo.inverse(budget.bits)
    return _mul(equation, [operands[0], Range.point(inverse)], budget)


def _power(equation: Equation, operands: list[Operand], budget: Budget) -> Range:
    x, exponent = range_of(operands[0]), equation.params.get("y", 2)
    if not x.is_point or not 0 <= exponent <= 8:
        raise Inexact
    budget.spend(8 * x.lo.integers.size)
    power = Exact.of(np.ones(x.shape, np.int64))
    for _ in range(exponent):
        power = budget.kept(power * x.lo)
    return Range.point(power)


def _abs(_: Equation, operands: list[Operand], budget: Budget) -> Range:
    x = range_of(operands[0])
    budget.spend(2 * x.lo.integers.size)
    if x.is_point:
        return Range.point(x.lo.map(abs))
    # |x| = max(x, -x), and at least 0 where both ends have different signs.
    lo = extreme(extreme(x.lo, -x.hi, 1), _zero(), 1)
    return Range(lo, extreme(x.hi, -x.lo, 1))


def _zero() -> Exact:
    return Exact.of(0)


def _clamp(_: Equation, low: Exact, x: Exact, high: Exact) -> Exact:
    return extreme(extreme(x, low, 1), high, -1)


def _sum(equation: Equation, x: Exact) -> Exact:
    axes = tuple(equation.params["axes"])

    def change(v: np.ndarray) -> np.ndarray:
        return np.sum(v, axis=axes) if v.size else v.sum(axis=axes)

    return x.map(change, change)


def _cumsum(equation: Equation, x: Exact) -> Exact:
    axis = equation.params["axis"]

    def change(v: np.ndarray) -> np.ndarray:
        if equation.params["reverse"]:
            return np.flip(np.cumsum(np.flip(v, axis), axis), axis)
        return np.cumsum(v, axis)

    return x.map(change, change)


def _greater(sign: int) -> Rule:
    """The rule of max (sign 1) and min (-1), which know their neutral element."""
    extremes = increasing(lambda _, x, y: extreme(x, y, sign))

    def rule(equation: Equation, operands: list[Operand], budget: Budget) -> Operand:
        x, y = operands
        for value, other in ((x, y), (y, x)):
            neutral = isinstance(value, np.ndarray) and np.all(value == -sign * np.inf)
            if neutral and value.ndim == 0 and isinstance(other, Range):
                return other
        return extremes(equation, operands, budget)

    return rule


def _reduced(kind: Any) -> Callable[[Equation, Exact], Exact]:
    def change(equation: Equation, x: Exact) -> Exact:
        axes = tuple(equation.params["axes"])
        return x.map(
            lambda v: kind.reduce(v, axis=axes), lambda r: np.max(r, axis=axes)
        )

    return change


def _whole(change: Callable[[Exact], np.ndarray]) -> Callable[..., Exact]:
    """A step, where all of the range of an element lies on one of its levels."""

    def stepped(_: Equation, x: Exact) -> Exact:
        found = change(x.lower)
        if x.radius is not None and (found != change(x.upper)).any():
            raise Inexact
        return Exact(found, Fraction(1))

    return stepped


def _floors(x: Exact) -> np.ndarray:
    floors = (x.integers * x.unit.numerator) // x.unit.denominator
    return np.asarray(floors, object)


def _signs(x: Exact) -> np.ndarray:
    return np.asarray(np.sign(x.integers), object)


def _smooth(equation: Equation, operands: list[Operand], budget: Budget) -> Range:
    x = range_of(operands[0])
    if not x.is_point:
        raise Inexact
    return Range.point(smooth(equation.name, x.lo, budget))


# ------------------------------------------------------------------------ decisions


def _compared(below: bool, equal: bool, above: bool) -> Rule:
    """The rule of a comparison, by its value where x < y, x = y and x > y."""

    def rule(equation: Equation, operands: list[Operand], budget: Budget) -> np.ndarray:
        if not any(isinstance(v, Range) for v in operands):
            return _run(equation, operands)
        x, y = map(range_of, operands)
        budget.spend(x.lo.integers.size + y.lo.integers.size)
        ends = [(x.lo.lower, y.hi.upper), (x.hi.upper, y.lo.lower)]
        exact = all(end.radius is None for v in (x, y) for end in (v.lo, v.hi))
        if x.is_point and y.is_point and exact:
            ends = ends[:1]
        answers = []
        for a, b in ends:
            (p, q), _ = aligned(a, b)
            less, more = np.less(p, q).astype(bool), np.greater(p, q).astype(bool)
            answers.append(np.where(less, below, np.where(more, above, equal)))
        # Monotone comparisons are decided by the ends; of == the ends say too little.
        if len(answers) > 1 and ((answers[0] != answers[1]).any() or below == above):
            raise Inexact
        return answers[0].astype(bool)

    return rule


def _finite(_: Equation, operands: list[Operand], budget: Budget) -> np.ndarray:
    return np.ones(range_of(operands[0]).shape, bool)


def _plain(equation: Equation, operands: list[Operand], budget: Budget) -> Operand:
    """Truth values and integers: JAX computes them, modulo a power of 2 as f states."""
    if any(isinstance(v, Range) for v in operands):
        raise Inexact
    typed = zip(operands, equation.input_types, strict=True)
    return _run(equation, [np.asarray(v).astype(kind) for v, kind in typed])


def _convert(equation: Equation, operands: list[Operand], budget: Budget) -> Operand:
    """A cast between float types is exact where every number has the narrower type."""
    (x,), kind = operands, np.dtype(equation.params["new_dtype"])
    if not jnp.issubdtype(kind, jnp.floating):
        return _plain(equation, operands, budget)
    x = range_of(x)
    if kind == np.float64:
        return x
    if kind.itemsize < 4:
        raise Inexact  # what is computed from here on is rounded, not only the cast
    for end in {id(e): e for e in (x.lo, x.hi)}.values():
        if end.radius is not None:
            raise Inexact
        budget.spend(8 * end.integers.size)
        for value in end.fractions():
            try:
                number = float(value)
            except OverflowError as error:
                raise Inexact from error
            with np.errstate(all="ignore"):
                kept = float(np.asarray(number).astype(kind))
            if not math.isfinite(kept) or Fraction(kept) != value:
                raise Inexact
    return x


def rule_of(equation: Equation) -> Rule:
    """Returns what computes the exact results of an equation.

    Raises:
      Inexact: nothing does.
    """
    kind = equation.params.get("preferred_element_type")
    narrow = kind is not None and np.dtype(kind).itemsize < 4
    if equation.name not in RULES or narrow:
        raise Inexact
    return _plain if equation.without_floats else RULES[equation.name]


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        "reshape transpose broadcast_in_dim squeeze expand_dims rev slice split tile "
        "gather dynamic_slice copy".split(),
        _moved(0),
    ),
    "pad": _moved(0, 1),
    "dynamic_update_slice": _moved(0, 1),
    "concatenate": _moved(slice(None)),
    "stack": _moved(slice(None)),
    "select_n": _select,
    "add": increasing(lambda _, x, y: x + y),
    "add_any": increasing(lambda _, x, y: x + y),
    "sub": _sub,
    "neg": _neg,
    "mul": _mul,
    "div": _div,
    "square": _power,
    "integer_pow": _power,
    "abs": _abs,
    "max": _greater(1),
    "min": _greater(-1),
    "clamp": increasing(_clamp),
    "floor": increasing(_whole(_floors)),
    "sign": increasing(_whole(_signs)),
    "reduce_sum": increasing(_sum),
    "cumsum": increasing(_cumsum),
    "reduce_max": increasing(_reduced(np.maximum)),
    "reduce_min": increasing(_reduced(np.minimum)),
    "reduce_window_sum": increasing(window_reduction(np.add)),
    "reduce_window_max": increasing(window_reduction(np.maximum)),
    **dict.fromkeys("exp log logistic rsqrt sqrt tanh".split(), _smooth),
    "dot_general": dot_general,
    "conv_general_dilated": convolution,
    "convert_element_type": _convert,
    "is_finite": _finite,
    "lt": _compared(True, False, False),
    "le": _compared(True, True, False),
    "gt": _compared(False, False, True),
    "ge": _compared(False, True, True),
    "eq": _compared(False, True, False),
    "ne": _compared(True, False, True),
    **dict.fromkeys("and or not xor iota stop_gradient".split(), _plain),
}
