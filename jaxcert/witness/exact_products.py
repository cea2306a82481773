"""Exact rules of matrix products, convolutions, and sums and maxima over windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxcert.trace.equations import Equation
from jaxcert.witness.exact_numbers import Budget, Exact, Inexact, matrix_product
from jaxcert.witness.exact_ranges import Operand, Range, range_of


def dot_general(equation: Equation, operands: list[Operand], budget: Budget) -> Range:
    """The rule of a matrix product with batches, one factor of which is known."""
    (lc, rc), (lb, rb) = equation.params["dimension_numbers"]
    x, y = map(range_of, operands)

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


def convolution(equation: Equation, operands: list[Operand], budget: Budget) -> Range:
    """The rule of a convolution with a known kernel."""
    p = equation.params
    if p["batch_group_count"] != 1:
        raise Inexact
    numbers, groups = p["dimension_numbers"], p["feature_group_count"]
    x, w = map(range_of, operands)
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


def window_reduction(kind: Any) -> Callable[[Equation, Exact], Exact]:
    """Returns what sums (np.add) or maximises (np.maximum) over windows."""

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
