"""Exact rules: what primitives do to exact arrays, and to exact ranges of them.

An operand is a `Range` of exact arrays, or a numpy array of truth values or integers.
Whatever moves elements without computing runs on their indices by JAX itself; what
computes is written here. A primitive without a rule has no exact value.
"""

from __future__ import annotations

import dataclasses
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
    matrix_product,
)
from jaxcert.witness.exact_smooth import smooth


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


def _increasing(change: Callable[..., Exact]) -> Rule:
    """The rule of a function that is non-decreasing in all elements of its operands."""

    def rule(equation: Equation, operands: list[Operand], budget: Budget) -> Range:
        ranges = [_range(v) for v in operands]
        budget.spend(sum(v.lo.integers.size for v in ranges))
        lo = change(equation, *(v.lo for v in ranges))
        if all(v.is_point for v in ranges):
            return Range.point(lo)
        return Range(lo, change(equation, *(v.hi for v in ranges)))

    return rule


def _range(operand: Operand) -> Range:
    if isinstance(operand, Range):
        return operand
    return Range.point(Exact.of(operand))


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
        ranges = [_range(operands[i]) for i in chosen]
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
    x, y = map(_range, operands)
    budget.spend(x.lo.integers.size + y.lo.integers.size)
    lo = x.lo + -y.hi
    return Range(lo, lo if x.is_point and y.is_point else x.hi + -y.lo)


def _neg(_: Equation, operands: list[Operand], budget: Budget) -> Range:
    x = _range(operands[0])
    budget.spend(x.lo.integers.size)
    lo = -x.hi
    return Range(lo, lo if x.is_point else -x.lo)


def _mul(_: Equation, operands: list[Operand], budget: Budget) -> Range:
    x, y = map(_range, operands)
    budget.spend(4 * max(x.lo.integers.size, y.lo.integers.size))
    if x.is_point and y.is_point:
        return Range.point(budget.kept((x.lo * y.lo).reduced()))
    corners = [a * b for a in (x.lo, x.hi) for b in (y.lo, y.hi)]
    return Range(*(_extremes(corners, sign) for sign in (-1, 1)))


def _extremes(arrays: list[Exact], sign: int) -> Exact:
    return functools.reduce(lambda a, b: extreme(a, b, sign), arrays)


def _div(equation: Equation, operands: list[Operand], budget: Budget) -> Range:
    y = _range(operands[1])
    if not y.is_point:
        raise Inexact
    inverse = y.lo.inverse(budget.bits)
    return _mul(equation, [operands[0], Range.point(inverse)], budget)


def _power(equation: Equation, operands: list[Operand], budget: Budget) -> Range:
    x, exponent = _range(operands[0]), equation.params.get("y", 2)
    if not x.is_point or not 0 <= exponent <= 8:
        raise Inexact
    budget.spend(8 * x.lo.integers.size)
    power = Exact.of(np.ones(x.shape, np.int64))
    for _ in range(exponent):
        power = budget.kept(power * x.lo)
    return Range.point(power)


def _abs(_: Equation, operands: list[Operand], budget: Budget) -> Range:
    x = _range(operands[0])
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
    extremes = _increasing(lambda _, x, y: extreme(x, y, sign))

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
    x = _range(operands[0])
    if not x.is_point:
        raise Inexact
    return Range.point(smooth(equation.name, x.lo, budget))


# ------------------------------------------------------------------- matrix products


def _dot(equation: Equation, operands: list[Operand], budget: Budget) -> Range:
    (lc, rc), (lb, rb) = equation.params["dimension_numbers"]
    x, y = map(_range, operands)

    def laid_out(v: Exact, batch: Any, contract: Any, last: bool) -> Exact:
        free = [i for i in range(len(v.shape)) if i not in (*batch, *contract)]
        tail = [*free, *contract] if last else [*contract, *free]
        sizes = [math.prod(v.shape[i] for i in part) for part in (batch, free)]
        count = math.prod(v.shape[i] for i in contract)
        shape = (sizes[0], *((sizes[1], count) if last else (count, sizes[1])))
        return v.moved(lambda a: a.transpose([*batch, *tail]).reshape(shape))

    def free_sizes(v: Exact, batch: Any, contract: Any) -> list[int]:
        return [n for i, n in enumerate(v.shape) if i not in (*batch, *contract)]

    out = [x.shape[i] for i in lb]
    out += free_sizes(x.lo, lb, lc) + free_sizes(y.lo, rb, rc)
    left = x.map(lambda v: laid_out(v, lb, lc, True))
    right = y.map(lambda v: laid_out(v, rb, rc, False))

    def product(a: Exact, b: Exact) -> Exact:
        return matrix_product(a, b, budget)

    return _bilinear(product, left, right).map(
        lambda v: v.moved(lambda a: a.reshape(out))
    )


def _bilinear(product: Callable[[Exact, Exact], Exact], x: Range, y: Range) -> Range:
    """Returns the range of a product of sums, one factor of which is known."""
    if x.is_point and y.is_point:
        return Range.point(product(x.lo, y.lo))
    if x.is_point:
        return _bilinear(lambda a, b: product(b, a), y, x)
    if not y.is_point:
        raise Inexact
    positive = y.lo.map(lambda v: np.maximum(v, 0))
    negative = y.lo.map(lambda v: np.minimum(v, 0))
    return Range(
        product(x.lo, positive) + product(x.hi, negative),
        product(x.hi, positive) + product(x.lo, negative),
    )


def _windows(
    shape: tuple[int, ...],
    window: tuple[int, ...],
    strides: Any,
    padding: Any,
    dilations: tuple[Any, Any],
) -> np.ndarray:
    """Returns flat indices (*out, *window) into an array of a shape, -1 for padding."""
    base, spread = dilations
    index = np.arange(math.prod(shape)).reshape(shape)
    parts = []
    for axis, n in enumerate(shape):
        wide = (n - 1) * base[axis] + 1 if n else 0
        before, after = padding[axis]
        total = before + wide + after
        count = (total - (window[axis] - 1) * spread[axis] - 1) // strides[axis] + 1
        at = strides[axis] * np.arange(max(count, 0))[:, None] - before
        at = at + spread[axis] * np.arange(window[axis])
        valid = (at >= 0) & (at < wide) & (at % base[axis] == 0)
        parts.append(np.where(valid, at // base[axis], -1))
    outs = [part.shape[0] for part in parts]
    found = np.zeros((*outs, *window), np.int64)
    inside = np.ones(found.shape, bool)
    strides_flat = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    for axis, part in enumerate(parts):
        place = [1] * found.ndim
        place[axis], place[len(shape) + axis] = part.shape
        part = part.reshape(place)
        found = found + part * strides_flat[axis]
        inside = inside & (part >= 0)
    assert index.size == 0 or found.size == 0 or found[inside].max() < index.size
    return np.where(inside, found, -1)


def _conv(equation: Equation, operands: list[Operand], budget: Budget) -> Range:
    p = equation.params
    if p["batch_group_count"] != 1:
        raise Inexact
    numbers, groups = p["dimension_numbers"], p["feature_group_count"]
    x, w = map(_range, operands)
    if not w.is_point:
        raise Inexact
    x = x.map(lambda v: v.moved(lambda a: a.transpose(numbers.lhs_spec)))
    kernel = w.lo.moved(lambda a: a.transpose(numbers.rhs_spec))
    batch, channels, *spatial = x.shape
    out_channels, depth, *window = kernel.shape
    each = _windows(
        tuple(spatial), tuple(window), p["window_strides"], p["padding"],
        (p["lhs_dilation"], p["rhs_dilation"]),
    )  # fmt: skip
    outs = each.shape[: len(spatial)]
    flat = each.reshape(math.prod(outs), math.prod(window))
    budget.spend(batch * channels * flat.size)
    start = np.arange(batch * channels).reshape(batch, channels, 1, 1)
    every = np.where(flat >= 0, flat + start * math.prod(spatial), -1)
    # (batch, groups, positions, channels of the group and window)
    every = every.reshape(batch, groups, depth, *flat.shape).transpose(0, 1, 3, 2, 4)
    gather = every.reshape(batch, groups, len(flat), depth * flat.shape[1])
    columns = kernel.moved(
        lambda a: a.reshape(groups, out_channels // groups, -1).transpose(0, 2, 1)
    )

    def product(a: Exact, b: Exact) -> Exact:
        return matrix_product(a, b, budget, gather)

    flat_x = x.map(lambda v: v.moved(np.ravel))
    found = _bilinear(product, flat_x, Range.point(columns))
    order = np.argsort(numbers.out_spec)

    def back(v: np.ndarray) -> np.ndarray:
        v = v.transpose(0, 1, 3, 2).reshape(batch, out_channels, *outs)
        return v.transpose(order)

    return found.map(lambda v: v.moved(back))


def _window_reduction(kind: Any) -> Callable[[Equation, Exact], Exact]:
    def change(equation: Equation, x: Exact) -> Exact:
        p = equation.params
        window = tuple(p["window_dimensions"])
        index = _windows(
            x.shape, window, p["window_strides"], p["padding"],
            (p["base_dilation"], p["window_dilation"]),
        )  # fmt: skip
        index = index.reshape(*index.shape[: len(window)], -1)

        def spread(r: np.ndarray) -> np.ndarray:
            return (np.sum if kind is np.add else np.max)(
                np.append(r.reshape(-1), 0.0)[index], axis=-1
            )

        def reduce(v: np.ndarray) -> np.ndarray:
            # Padding counts as 0 in sums; in a maximum it is below everything.
            empty = 0 if kind is np.add else min([*v.reshape(-1), 0])
            flat = np.append(v.reshape(-1), empty)
            return kind.reduce(flat[index], axis=-1)

        if kind is np.maximum and (index < 0).all(axis=-1).any():
            raise Inexact
        return x.map(reduce, spread)

    return change


# ------------------------------------------------------------------------ decisions


def _compared(below: bool, equal: bool, above: bool) -> Rule:
    """The rule of a comparison, by its value where x < y, x = y and x > y."""

    def rule(equation: Equation, operands: list[Operand], budget: Budget) -> np.ndarray:
        if not any(isinstance(v, Range) for v in operands):
            return _run(equation, operands)
        x, y = map(_range, operands)
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
    return np.ones(_range(operands[0]).shape, bool)


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
    x = _range(x)
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
    "add": _increasing(lambda _, x, y: x + y),
    "add_any": _increasing(lambda _, x, y: x + y),
    "sub": _sub,
    "neg": _neg,
    "mul": _mul,
    "div": _div,
    "square": _power,
    "integer_pow": _power,
    "abs": _abs,
    "max": _greater(1),
    "min": _greater(-1),
    "clamp": _increasing(_clamp),
    "floor": _increasing(_whole(_floors)),
    "sign": _increasing(_whole(_signs)),
    "reduce_sum": _increasing(_sum),
    "cumsum": _increasing(_cumsum),
    "reduce_max": _increasing(_reduced(np.maximum)),
    "reduce_min": _increasing(_reduced(np.minimum)),
    "reduce_window_sum": _increasing(_window_reduction(np.add)),
    "reduce_window_max": _increasing(_window_reduction(np.maximum)),
    **dict.fromkeys("exp log logistic rsqrt sqrt tanh".split(), _smooth),
    "dot_general": _dot,
    "conv_general_dilated": _conv,
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
