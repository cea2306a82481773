"""ONNX operators that decide: comparisons, logic, Where, ArgMax, OneHot.

Truth values and whole numbers that depend on the input are values of the network like
others: a truth value is a bool in the graph, a whole number a float. Only their ranges
are known to bounds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import cast

import numpy as np

from jaxcert.interop.onnx_folding import MAX_FOLDED
from jaxcert.interop.onnx_lowering import Call, Computed, Constant, Value
from jaxcert.interop.onnx_shapes import Outputs, axis_of, reshape_to
from jaxcert.interop.onnx_types import is_float, is_low

_WHOLE = 2**24
"""Whole numbers up to it are float32 numbers."""


def as_whole(value: Value, dtype: np.dtype) -> Value:
    """Returns a computed value, a float of whole numbers, as one of a whole type."""
    return dataclasses.replace(cast(Computed, value), dtype=dtype)


def _as_float(call: Call, value: Value) -> Value:
    """Returns a whole number as the float that stands for it in the graph."""
    if is_float(value.dtype):
        return value
    if isinstance(value, Computed):
        return dataclasses.replace(value, dtype=np.dtype(np.float32))
    if value.array.size and np.abs(value.array.astype(np.float64)).max() > _WHOLE:
        raise call.unsupported(f"compares with whole numbers beyond {_WHOLE}")
    return call.builder.cast(value, np.dtype(np.float32))


def lower_comparison(op: str) -> Callable[[Call], Outputs]:
    def rule(call: Call) -> Outputs:
        x, y = call.value(0), call.value(1)
        if x.dtype != y.dtype:
            raise ValueError(f"its operands are of types {x.dtype} and {y.dtype}")
        if isinstance(x, Computed) or isinstance(y, Computed):
            if x.dtype == np.bool_:
                raise call.unsupported("compares truth values")
            x, y = _as_float(call, x), _as_float(call, y)
        return [call.emit(op, x, y)]

    return rule


def lower_logic(op: str) -> Callable[[Call], Outputs]:
    def rule(call: Call) -> Outputs:
        values = [call.value(i) for i in range(len(call.inputs))]
        if any(v.dtype != np.bool_ for v in values):
            raise TypeError("its operands are no truth values")
        computed = [isinstance(v, Computed) for v in values]
        if any(computed) and not all(computed):
            raise call.unsupported("combines a computed truth value with a constant")
        if any(computed) and op == "logical_xor":
            raise call.unsupported("computes an exclusive or from the network's input")
        return [call.emit(op, *values)]

    return rule


def lower_where(call: Call) -> Outputs:
    condition, x, y = call.value(0), call.value(1), call.value(2)
    if condition.dtype != np.bool_:
        raise TypeError(f"its condition is of type {condition.dtype}, not bool")
    shape = np.broadcast_shapes(condition.shape, x.shape, y.shape)
    if isinstance(condition, Constant):
        if math.prod(shape) > MAX_FOLDED:
            raise ValueError(f"its result of shape {shape} is too large")
        mask = np.broadcast_to(condition.array, shape).tobytes()
        return [call.emit("select", x, y, mask=mask, shape=shape)]
    if not (is_float(x.dtype) and is_float(y.dtype)):
        raise call.unsupported(f"chooses between values of type {x.dtype}")
    return [call.emit("where", condition, x, y, shape=shape)]


def lower_arg(op: str) -> Callable[[Call], Outputs]:
    """The first (or last) index of the greatest or least element along an axis."""

    def rule(call: Call) -> Outputs:
        x = call.value()
        axis = axis_of(call.attribute("axis", 0), len(x.shape))
        last = call.flag("select_last_index")
        keep = call.flag("keepdims", True)
        if x.shape[axis] == 0 or x.shape[axis] > _WHOLE:
            raise ValueError(f"axis {axis} of shape {x.shape} has no such index")
        if isinstance(x, Constant):
            raise call.unsupported("reads a constant")
        index = call.emit(op, x, axis=axis, last=last)
        shape = tuple(
            1 if i == axis else n for i, n in enumerate(x.shape) if keep or i != axis
        )
        (index,) = reshape_to(call, index, shape)
        return [as_whole(index, np.dtype(np.int64))]

    return rule


def lower_one_hot(call: Call) -> Outputs:
    indices, values = call.value(0), call.constant(2, "values")
    depth = int(call.number(1, "depth"))
    rank = len(indices.shape) + 1
    axis = axis_of(call.attribute("axis", -1), rank)
    if depth < 1 or values.array.size != 2 or is_low(values.dtype):
        raise ValueError(f"depth {depth} and {values.array.size} values do not fit")
    off, on = values.array.reshape(2)
    (spread,) = reshape_to(
        call, indices, (*indices.shape[:axis], 1, *indices.shape[axis:])
    )
    places = np.arange(depth).reshape((depth, *(1,) * (rank - 1 - axis)))
    if isinstance(spread, Constant):
        chosen = np.mod(spread.array, depth) == places
        inside = (spread.array >= -depth) & (spread.array < depth)
        array = np.where(chosen & inside, on, off).astype(values.dtype)
        return [Constant(array, (call.op, depth, axis, spread.key), values.name)]
    if not is_float(values.dtype):
        raise call.unsupported(f"makes values of type {values.dtype}")
    one = Constant(places.astype(np.float32), ("places", depth, axis, rank), "places")
    is_one = call.emit("equal", _as_float(call, spread), one)
    shape = (*indices.shape[:axis], depth, *indices.shape[axis:])
    return [call.emit("where", is_one, float(on), float(off), shape=shape)]


def lower_thresholded_relu(call: Call) -> Outputs:
    """x where x > alpha, else 0."""
    x, alpha = call.value(), call.attribute("alpha", 1.0)
    if isinstance(x, Constant):
        raise call.unsupported("reads a constant")
    if alpha == 0:
        return [call.emit("relu", x)]
    above = call.emit("greater", x, alpha)
    return [call.emit("where", above, x, 0.0, shape=x.shape)]
