"""ONNX operators that pick elements by their places: Slice, Gather, Pad and others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxcert.interop.onnx_lowering import Call, Constant, Value
from jaxcert.interop.onnx_shapes import Outputs, axis_of, reshape_to

MAX_PLACES = 2**22
"""Most elements of a result whose places are listed one by one."""


def _take_range(
    call: Call, x: Value, axis: int, start: int, step: int, count: int
) -> Value:
    starts, limits, strides = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
    last = start + (count - 1) * step
    first = min(start, last) if count else 0
    starts[axis] = first
    limits[axis] = max(start, last) + 1 if count else 0
    strides[axis] = abs(step) if count > 1 else 1
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
        if call.opset < 18 and x.shape[axis] % parts:
            raise ValueError(f"axis {axis} of {x.shape} has no {parts} equal parts")
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
    return reshape_to(call, part, shape)


def lower_gather_elements(call: Call) -> Outputs:
    x, indices = call.value(), call.constant(1, "indices")
    axis = axis_of(call.attribute("axis", 0), len(x.shape))
    call.integers(1, "indices")
    pairs = enumerate(zip(indices.shape, x.shape, strict=True))
    if any(n > m and i != axis for i, (n, m) in pairs):
        raise ValueError(f"indices of shape {indices.shape} do not fit {x.shape}")
    part = tuple(slice(None if i == axis else n) for i, n in enumerate(indices.shape))
    places = _places(x, indices.array.size)[part]
    index = _inside(indices.array, x.shape[axis])
    return [_pick(call, x, np.take_along_axis(places, index, axis))]


def lower_gather_nd(call: Call) -> Outputs:
    x, indices = call.value(), call.constant(1, "indices")
    call.integers(1, "indices")
    batch = call.attribute("batch_dims", 0)
    if not indices.shape or not 0 <= batch < min(len(x.shape), len(indices.shape)):
        raise ValueError(f"batch_dims {batch} do not fit {x.shape}, {indices.shape}")
    if x.shape[:batch] != indices.shape[:batch]:
        raise ValueError(f"indices of shape {indices.shape} do not fit {x.shape}")
    depth = indices.shape[-1]
    if not 1 <= depth <= len(x.shape) - batch:
        raise ValueError(f"indices of {depth} places do not fit shape {x.shape}")
    rest = math.prod(x.shape[batch + depth :])
    places = _places(x, indices.array.size * rest)
    grid = np.indices(indices.shape[:-1], sparse=True)[:batch]
    index = tuple(
        _inside(indices.array[..., i], x.shape[batch + i]) for i in range(depth)
    )
    return [_pick(call, x, places[(*grid, *index)])]


def lower_tile(call: Call) -> Outputs:
    x, repeats = call.value(), call.integers(1, "repeats")
    if len(repeats) != len(x.shape) or min(repeats, default=0) < 0:
        raise ValueError(f"repeats {repeats} do not fit shape {x.shape}")
    for axis, count in enumerate(repeats):
        if count * x.shape[axis] > MAX_PLACES:
            raise ValueError(f"its result has more than {MAX_PLACES} elements")
        if count != 1:
            places = tuple(range(x.shape[axis])) * count
            x = call.emit("gather", x, axis=axis, indices=places)
    return [x]


def _inside(indices: np.ndarray, size: int) -> np.ndarray:
    if np.any((indices < -size) | (indices >= size)):
        raise ValueError(f"an index is outside an axis of size {size}")
    return np.where(indices < 0, indices + size, indices)


def _places(x: Value, count: int) -> np.ndarray:
    """Returns the number of every element of x."""
    if max(count, math.prod(x.shape)) > MAX_PLACES:
        raise ValueError(f"it picks among more than {MAX_PLACES} elements")
    return np.arange(math.prod(x.shape)).reshape(x.shape)


def _pick(call: Call, x: Value, places: np.ndarray) -> Value:
    """Returns the elements of these numbers."""
    (flat,) = reshape_to(call, x, (math.prod(x.shape),))
    indices = tuple(places.reshape(-1).tolist())
    picked = call.emit("gather", flat, axis=0, indices=indices)
    return reshape_to(call, picked, places.shape)[0]


def lower_scatter_nd(call: Call) -> Outputs:
    x, indices, updates = call.value(0), call.constant(1, "indices"), call.value(2)
    call.integers(1, "indices")
    depth = indices.shape[-1] if indices.shape else 0
    if not 1 <= depth <= len(x.shape):
        raise ValueError(f"indices of shape {indices.shape} do not fit {x.shape}")
    index = tuple(_inside(indices.array[..., i], x.shape[i]) for i in range(depth))
    places = _places(x, math.prod(updates.shape))[index]
    return _scattered(call, x, places, updates)


def lower_scatter_elements(call: Call) -> Outputs:
    x, indices, updates = call.value(0), call.constant(1, "indices"), call.value(2)
    call.integers(1, "indices")
    axis = axis_of(call.attribute("axis", 0), len(x.shape))
    index = list(np.indices(indices.shape))
    if len(indices.shape) != len(x.shape):
        raise ValueError(f"indices of shape {indices.shape} do not fit {x.shape}")
    index[axis] = _inside(indices.array, x.shape[axis])
    return _scattered(call, x, _places(x, indices.array.size)[tuple(index)], updates)


def _scattered(call: Call, x: Value, places: np.ndarray, updates: Value) -> Outputs:
    """Returns x with the updates at these places, by picking from both."""
    if call.attribute("reduction", "none") != "none":
        raise call.unsupported("adds to what it replaces (reduction is not 'none')")
    if places.shape != updates.shape:
        raise ValueError(f"updates of shape {updates.shape} do not fit {places.shape}")
    size, count = math.prod(x.shape), places.size
    if len(np.unique(places)) != count:
        raise call.unsupported("writes one place twice")
    source = np.arange(size)
    source[places.reshape(-1)] = size + np.arange(count)
    flat = [
        *reshape_to(call, x, (size,)),
        *reshape_to(call, updates, (count,)),
    ]
    both = call.emit("concat", *flat, axis=0)
    return reshape_to(call, gather_along(call, both, 0, source), x.shape)


def lower_trilu(call: Call) -> Outputs:
    x = call.value()
    offset = call.integers(1, "diagonal")[0] if call.has(1) else 0
    if len(x.shape) < 2 or math.prod(x.shape) > MAX_PLACES:
        raise ValueError(f"its input has shape {x.shape}")
    upper = call.flag("upper", True)
    kept = (np.triu if upper else np.tril)(np.ones(x.shape, bool), offset)
    zero = Constant(np.zeros((), x.dtype), ("zero", x.dtype.name), "zero")
    return [call.emit("select", x, zero, mask=kept.tobytes(), shape=x.shape)]


def lower_cumsum(call: Call) -> Outputs:
    x = call.value()
    axis = axis_of(int(call.number(1, "axis")), len(x.shape))
    backwards, size = call.flag("reverse"), x.shape[axis]
    if call.flag("exclusive") and size:
        # Without its own element every sum is that of its neighbour.
        padding = [(0, 0)] * len(x.shape)
        padding[axis] = (0, 1) if backwards else (1, 0)
        x = call.emit("pad", x, padding=tuple(padding), value=0.0)
        x = _take_range(call, x, axis, 1 if backwards else 0, 1, size)
    return [call.emit("cumsum", x, axis=axis, reverse=backwards)]


def gather_along(call: Call, x: Value, axis: int, places: np.ndarray) -> Value:
    """Returns the elements at these places of an axis."""
    return call.emit("gather", x, axis=axis, indices=tuple(places.tolist()))


def lower_pad(call: Call) -> Outputs:
    x = call.value()
    rank = len(x.shape)
    mode = call.attribute("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise ValueError(f"mode {mode!r} does not exist")
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
    if any(n + low + high < 0 for n, (low, high) in zip(x.shape, padding, strict=True)):
        raise ValueError(f"pads {pads} take more than there is of shape {x.shape}")
    if mode == "constant":
        return [call.emit("pad", x, padding=tuple(padding), value=float(value))]
    if min(pads) < 0 or (mode == "wrap" and call.opset < 19):
        raise call.unsupported(f"pads with {pads} in mode {mode!r}")
    return [_pad_with_own(call, x, padding, mode)]


def _pad_with_own(
    call: Call, x: Value, padding: list[tuple[int, int]], mode: Any
) -> Value:
    """Pads with elements of x itself."""
    for axis, (low, high) in enumerate(padding):
        size = x.shape[axis]
        if mode == "reflect" and max(low, high) >= size:
            raise ValueError(f"reflecting {max(low, high)} elements of {size}")
        if max(low, high) > MAX_PLACES:
            raise ValueError(f"its result has more than {MAX_PLACES} elements")
        if (low, high) != (0, 0):
            kept = np.pad(np.arange(size), (low, high), mode)
            x = gather_along(call, x, axis, kept)
    return x
