"""ONNX operators that rearrange values, or are constants: their rules."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxcert.interop.onnx_folding import MAX_FOLDED
from jaxcert.interop.onnx_lowering import Call, Constant, Value

Outputs = Sequence[Value]


def axis_of(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} does not exist in {rank} dimensions")
    return axis % rank


def axes_of(call: Call, since: int, index: int = 1) -> tuple[int, ...] | None:
    """Returns the axes, an attribute before opset `since` and an input from then on."""
    if call.opset < since:
        return call.attribute("axes")
    return call.integers(index, "axes") if call.has(index) else None


def reshape_to(call: Call, x: Value, shape: tuple[int, ...]) -> Outputs:
    """Returns x in the shape, a node less where it has it."""
    return [x if x.shape == shape else call.emit("reshape", x, shape=shape)]


def lower_flatten(call: Call) -> Outputs:
    x, axis = call.value(), call.attribute("axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    before = call.attribute("axis", 1) < 0 and call.opset < 11
    if before or not 0 <= axis <= len(x.shape):
        raise ValueError(f"axis {axis} does not exist in shape {x.shape}")
    return reshape_to(call, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def lower_reshape(call: Call) -> Outputs:
    x, wanted = call.value(), list(call.integers(1, "shape"))
    if not call.flag("allowzero"):
        wanted = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    if wanted.count(-1) > 1 or min(wanted, default=0) < -1:
        raise ValueError(f"shape {tuple(wanted)} is not a shape")
    size = math.prod(x.shape)
    if -1 in wanted:
        rest = -math.prod(wanted)
        wanted[wanted.index(-1)] = size // rest if rest else 0
    if math.prod(wanted) != size:
        raise ValueError(f"shape {x.shape} cannot become {tuple(wanted)}")
    return reshape_to(call, x, tuple(wanted))


def lower_squeeze(call: Call) -> Outputs:
    x, axes = call.value(), axes_of(call, 13)
    rank = len(x.shape)
    if axes is None:
        axes = tuple(i for i, n in enumerate(x.shape) if n == 1)
    drop = {axis_of(a, rank) for a in axes}
    if any(x.shape[a] != 1 for a in drop):
        raise ValueError(f"axes {axes} of shape {x.shape} are not all of size 1")
    return reshape_to(call, x, tuple(n for i, n in enumerate(x.shape) if i not in drop))


def lower_unsqueeze(call: Call) -> Outputs:
    x, axes = call.value(), axes_of(call, 13)
    if axes is None:
        raise ValueError("it names no axes")
    rank = len(x.shape) + len(axes)
    new = {axis_of(a, rank) for a in axes}
    if len(new) != len(axes):
        raise ValueError(f"axes {axes} are named twice")
    old = iter(x.shape)
    return reshape_to(call, x, tuple(1 if i in new else next(old) for i in range(rank)))


def lower_transpose(call: Call) -> Outputs:
    x = call.value()
    rank = len(x.shape)
    order = call.attribute("perm", tuple(reversed(range(rank))))
    if sorted(order) != list(range(rank)):
        raise ValueError(f"perm {order} does not order {rank} dimensions")
    return [call.emit("transpose", x, permutation=order)]


def lower_concat(call: Call) -> Outputs:
    values = [call.value(i) for i in range(len(call.inputs))]
    axis = axis_of(call.attribute("axis", 0), len(values[0].shape))
    return [call.emit("concat", *values, axis=axis)]


def lower_expand(call: Call) -> Outputs:
    x = call.value()
    shape = np.broadcast_shapes(x.shape, call.integers(1, "shape"))
    return [x if x.shape == shape else call.emit("broadcast", x, shape=shape)]


def lower_identity(call: Call) -> Outputs:
    return [call.value()]


def lower_dropout(call: Call) -> Outputs:
    call.attribute("ratio")
    call.attribute("seed")
    if call.opset >= 12 and call.has(2) and call.number(2, "training mode"):
        raise call.unsupported("is in training mode")
    return [call.value()]


def lower_shape(call: Call) -> Outputs:
    x = call.value()
    part = x.shape[slice(call.attribute("start", 0), call.attribute("end"))]
    return [Constant(np.array(part, np.int64), ("shape", part), "shape")]


def lower_constant_of_shape(call: Call) -> Outputs:
    shape = call.integers(0, "shape")
    if min(shape, default=0) < 0 or math.prod(shape) > MAX_FOLDED:
        raise ValueError(f"its shape {shape} is negative or too large")
    fill = call.attribute("value", np.zeros(1, np.float32))
    array = np.full(shape, np.reshape(fill, ()), fill.dtype)
    return [Constant(array, ("full", shape, fill.dtype.name, fill.item()), "fill")]


def lower_size(call: Call) -> Outputs:
    count = math.prod(call.value().shape)
    return [Constant(np.array(count, np.int64), ("size", count), "size")]


def lower_range(call: Call) -> Outputs:
    start, limit, delta = (call.constant(i, "ends").array for i in range(3))
    if len({start.dtype, limit.dtype, delta.dtype}) > 1 or delta == 0:
        raise ValueError("its ends and step are of different types, or its step is 0")
    if any(v.size != 1 or not np.isfinite(v).all() for v in (start, limit, delta)):
        raise ValueError("its ends and step are not finite numbers")
    first, last, step = (v.reshape(()).item() for v in (start, limit, delta))
    count = max(math.ceil((last - first) / step), 0)
    if count > MAX_FOLDED:
        raise ValueError(f"it makes more than {MAX_FOLDED} elements")
    array = (first + np.arange(count) * step).astype(start.dtype)
    return [Constant(array, ("range", first, last, step, array.dtype.name), "range")]


def lower_non_zero(call: Call) -> Outputs:
    array = call.constant(0, "operand").array
    if array.ndim == 0:
        raise call.unsupported("looks for elements of a number")
    found = np.stack(np.nonzero(array)).astype(np.int64)
    return [Constant(found, ("nonzero", call.constant(0, "operand").key), "places")]


def lower_mod(call: Call) -> Outputs:
    x, y = call.constant(0, "operand"), call.constant(1, "divisor")
    if x.is_float or y.is_float or call.flag("fmod"):
        raise call.unsupported("divides values that are not whole")
    if np.any(y.array == 0):
        raise ValueError("it divides by zero")
    array = np.mod(x.array, y.array)
    return [Constant(array, ("mod", x.key, y.key), x.name)]
