"""ONNX operators that rearrange values, or are constants: their rules."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxcert.interop.onnx_folding import MAX_FOLDED
from jaxcert.interop.onnx_lowering import Call, Computed, Constant, Value

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


def _reshape_to(call: Call, x: Value, shape: tuple[int, ...]) -> Outputs:
    return [x if x.shape == shape else call.emit("reshape", x, shape=shape)]


def lower_flatten(call: Call) -> Outputs:
    x, axis = call.value(), call.attribute("axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    if not 0 <= axis <= len(x.shape):
        raise ValueError(f"axis {axis} does not exist in shape {x.shape}")
    return _reshape_to(call, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


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
    return _reshape_to(call, x, tuple(wanted))


def lower_squeeze(call: Call) -> Outputs:
    x, axes = call.value(), axes_of(call, 13)
    rank = len(x.shape)
    if axes is None:
        axes = tuple(i for i, n in enumerate(x.shape) if n == 1)
    drop = {axis_of(a, rank) for a in axes}
    if any(x.shape[a] != 1 for a in drop):
        raise ValueError(f"axes {axes} of shape {x.shape} are not all of size 1")
    return _reshape_to(
        call, x, tuple(n for i, n in enumerate(x.shape) if i not in drop)
    )


def lower_unsqueeze(call: Call) -> Outputs:
    x, axes = call.value(), axes_of(call, 13)
    if axes is None:
        raise ValueError("it names no axes")
    rank = len(x.shape) + len(axes)
    new = {axis_of(a, rank) for a in axes}
    if len(new) != len(axes):
        raise ValueError(f"axes {axes} are named twice")
    old = iter(x.shape)
    return _reshape_to(
        call, x, tuple(1 if i in new else next(old) for i in range(rank))
    )


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


def _take_range(
    call: Call, x: Value, axis: int, start: int, step: int, count: int
) -> Value:
    starts, limits, strides = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
    last = start + (count - 1) * step
    first = min(start, last) if count else 0
    starts[axis] = first
    limits[axis] = max(start, last) + 1 if count else 0
    strides[axis] = abs(step)
    return call.emit(
        "slice",
        x,
        starts=tuple(starts),
        limits=tuple(limits),
        strides=tuple(strides),
        reverse=(axis,) if step < 0 and count > 1 else (),
    )


def _picked(size: int, start: int, end: int, step: int) -> range:
    """Returns the places that ONNX picks of an axis; see the operator Slice.

    Not those of Python, which takes nothing where a start below the range goes back.
    """
    if step == 0:
        raise ValueError("a step is 0")
    least, most = (0, size) if step > 0 else (-1, size - 1)
    start = start + size if start < 0 else start
    end = end + size if end < 0 else end
    return range(min(max(start, 0), most), min(max(end, least), most), step)


def lower_slice(call: Call) -> Outputs:
    x = call.value()
    if call.opset < 10:
        starts, ends = call.attribute("starts"), call.attribute("ends")
        axes, steps = call.attribute("axes"), None
    else:
        starts, ends = call.integers(1, "starts"), call.integers(2, "ends")
        axes = call.integers(3, "axes") if call.has(3) else None
        steps = call.integers(4, "steps") if call.has(4) else None
    axes = axes if axes is not None else tuple(range(len(starts)))
    steps = steps if steps is not None else (1,) * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis_of(axis, len(x.shape))
        picked = _picked(x.shape[axis], start, end, step)
        if picked != range(x.shape[axis]):
            x = _take_range(call, x, axis, picked.start, step, len(picked))
    return [x]


def lower_split(call: Call) -> Outputs:
    x = call.value()
    axis = axis_of(call.attribute("axis", 0), len(x.shape))
    if call.opset < 13:
        sizes = call.attribute("split")
    else:
        sizes = call.integers(1, "sizes") if call.has(1) else None
    if sizes is None:
        parts = call.attribute("num_outputs", call.num_outputs)
        each = -(-x.shape[axis] // parts)
        sizes = (*(each,) * (parts - 1), x.shape[axis] - each * (parts - 1))
    call.attribute("num_outputs")
    if sum(sizes) != x.shape[axis] or min(sizes) < 0:
        raise ValueError(f"sizes {sizes} do not split axis {axis} of {x.shape}")
    starts = np.cumsum((0, *sizes)).tolist()
    return [
        _take_range(call, x, axis, start, 1, size)
        for start, size in zip(starts, sizes, strict=False)
    ]


def lower_gather(call: Call) -> Outputs:
    x = call.value()
    axis = axis_of(call.attribute("axis", 0), len(x.shape))
    size = x.shape[axis]
    index_shape = call.constant(1, "indices").shape
    indices = call.integers(1, "indices")
    if any(not -size <= i < size for i in indices):
        raise ValueError(f"an index is outside axis {axis} of shape {x.shape}")
    indices = tuple(i % size for i in indices)
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    if (
        indices
        and step
        and indices == tuple(range(indices[0], indices[0] + step * len(indices), step))
    ):
        part = _take_range(call, x, axis, indices[0], step, len(indices))
    else:
        part = call.emit("gather", x, axis=axis, indices=indices)
    shape = (*x.shape[:axis], *index_shape, *x.shape[axis + 1 :])
    return _reshape_to(call, part, shape)


def lower_pad(call: Call) -> Outputs:
    x = call.value()
    rank = len(x.shape)
    if call.attribute("mode", "constant") != "constant":
        raise call.unsupported(f"pads in mode {call.attribute('mode')!r}")
    if call.opset < 11:
        pads, value = call.attribute("pads"), call.attribute("value", 0.0)
        axes: tuple[int, ...] | None = None
    else:
        pads = call.integers(1, "pads")
        value = call.number(2, "padding value") if call.has(2) else 0.0
        axes = call.integers(3, "axes") if call.has(3) else None
    axes = tuple(range(rank)) if axes is None else tuple(axis_of(a, rank) for a in axes)
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise ValueError(f"pads {pads} do not fit axes {axes} of shape {x.shape}")
    padding = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        padding[axis] = (pads[i], pads[i + len(axes)])
    if all(p == (0, 0) for p in padding):
        return [x]
    return [call.emit("pad", x, padding=tuple(padding), value=float(value))]


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


def lower_equal(call: Call) -> Outputs:
    """Equality of constants: which shape it is, where exporters write Expand."""
    if any(isinstance(v, Computed) for v in call.inputs):
        raise call.unsupported("compares values of the network")
    return [call.emit("equal", call.value(0), call.value(1))]


def lower_where(call: Call) -> Outputs:
    condition, x, y = call.constant(0, "condition"), call.value(1), call.value(2)
    if condition.dtype != np.bool_:
        raise TypeError(f"its condition is of type {condition.dtype}, not bool")
    shape = np.broadcast_shapes(condition.shape, x.shape, y.shape)
    if math.prod(shape) > MAX_FOLDED:
        raise ValueError(f"its result of shape {shape} is too large")
    mask = np.broadcast_to(condition.array, shape).tobytes()
    return [call.emit("select", x, y, mask=mask, shape=shape)]
