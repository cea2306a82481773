"""ONNX operators that normalise, and the reductions that are made of several steps."""

from __future__ import annotations

import math
from collections.abc import Callable

from jaxcert.interop.onnx_lowering import Call, Value
from jaxcert.interop.onnx_shapes import Outputs, axes_of, axis_of, reshape_to
from jaxcert.interop.onnx_windows import keep_shape, lower_reduce, per_channel


def _mean(call: Call, x: Value, axes: tuple[int, ...]) -> Value:
    return call.emit("reduce_mean", x, axes=axes, keepdims=True)


def _square(call: Call, x: Value) -> Value:
    return call.emit("mul", x, x)


def _centred(call: Call, x: Value, axes: tuple[int, ...]) -> Value:
    return call.emit("sub", x, _mean(call, x, axes))


def _scaled_down(call: Call, x: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    """Returns x / sqrt(mean(x^2) + epsilon)."""
    variance = call.emit("add", _mean(call, _square(call, x), axes), epsilon)
    return call.emit("mul", x, call.emit("rsqrt", variance))


def _epsilon(call: Call) -> float:
    epsilon = call.attribute("epsilon", 1e-5)
    if epsilon < 0:
        raise ValueError(f"epsilon {epsilon} is negative")
    return epsilon


def _trailing(call: Call, x: Value) -> tuple[int, ...]:
    axis = axis_of(call.attribute("axis", -1), len(x.shape))
    return tuple(range(axis, len(x.shape)))


def lower_instance_norm(call: Call) -> Outputs:
    x = call.value()
    if len(x.shape) < 3 or math.prod(x.shape[2:]) == 0:
        raise ValueError(f"its input has shape {x.shape}")
    axes = tuple(range(2, len(x.shape)))
    result = _scaled_down(call, _centred(call, x, axes), axes, _epsilon(call))
    return _scale_and_shift(call, x, result)


def _scale_and_shift(call: Call, x: Value, result: Value) -> Outputs:
    scale, bias = (per_channel(call, call.value(i), len(x.shape)) for i in (1, 2))
    result = call.emit("add", call.emit("mul", result, scale), bias)
    return [keep_shape(x, result)]


def lower_layer_norm(call: Call) -> Outputs:
    x = call.value()
    call.attribute("stash_type")  # the type of its steps, which are not rounded here
    axes = _trailing(call, x)
    result = _scaled_down(call, _centred(call, x, axes), axes, _epsilon(call))
    result = call.emit("mul", result, call.value(1))
    if call.has(2):
        result = call.emit("add", result, call.value(2))
    return [keep_shape(x, result)]


def lower_rms_norm(call: Call) -> Outputs:
    x = call.value()
    call.attribute("stash_type")
    result = _scaled_down(call, x, _trailing(call, x), _epsilon(call))
    return [keep_shape(x, call.emit("mul", result, call.value(1)))]


def lower_group_norm(call: Call) -> Outputs:
    x, groups = call.value(), call.attribute("num_groups")
    call.attribute("stash_type")
    if groups is None or len(x.shape) < 3 or groups < 1 or x.shape[1] % groups:
        raise ValueError(f"num_groups {groups} does not fit shape {x.shape}")
    if call.opset < 21:
        raise call.unsupported("has a scale per group (opset 21 has one per channel)")
    rows, channels = x.shape[:2]
    apart = (rows, groups, channels // groups, *x.shape[2:])
    axes = tuple(range(2, len(apart)))
    (split,) = reshape_to(call, x, apart)
    result = _scaled_down(call, _centred(call, split, axes), axes, _epsilon(call))
    (joined,) = reshape_to(call, result, x.shape)
    return _scale_and_shift(call, x, joined)


def lower_mean_variance(call: Call) -> Outputs:
    """(x - mean) / (sqrt(variance) + 1e-9), as the standard states it."""
    x = call.value()
    axes = call.attribute("axes", (0, 2, 3))
    axes = tuple(sorted({axis_of(a, len(x.shape)) for a in axes}))
    centred = _centred(call, x, axes)
    spread = call.emit("sqrt", _mean(call, _square(call, centred), axes))
    return [call.emit("div", centred, call.emit("add", spread, 1e-9))]


def lower_lp_norm(call: Call) -> Outputs:
    """x / norm(x) along an axis; 0 / 0 is a range without a value here."""
    x, order = call.value(), call.attribute("p", 2)
    axis = axis_of(call.attribute("axis", -1), len(x.shape))
    if order not in (1, 2):
        raise ValueError(f"p is {order}, neither 1 nor 2")
    size = call.emit("abs", x) if order == 1 else _square(call, x)
    norm = call.emit("reduce_sum", size, axes=(axis,), keepdims=True)
    return [call.emit("div", x, norm if order == 1 else call.emit("sqrt", norm))]


def lower_reduce_of(before: str, after: str = "") -> Callable[[Call], Outputs]:
    """Returns the rule of `after(sum(before(x)))`."""
    rule = lower_reduce("reduce_sum", 18)

    def lower(call: Call) -> Outputs:
        x = call.value()
        if before:
            x = _square(call, x) if before == "square" else call.emit(before, x)
        if not axes_of(call, 18) and call.flag("noop_with_empty_axes"):
            raise call.unsupported("reduces no axis (noop_with_empty_axes=1)")
        (total,) = rule(call.reading(x))
        return [call.emit(after, total) if after else total]

    return lower


def lower_reduce_prod(call: Call) -> Outputs:
    """Products of pairs, until one is left: each is relaxed as a product of two."""
    x, axes = call.value(), axes_of(call, 18)
    rule = lower_reduce("reduce_sum", 18)
    if not axes and call.flag("noop_with_empty_axes"):
        return [x]
    rank = len(x.shape)
    reduced = tuple(axis_of(a, rank) for a in axes) if axes else tuple(range(rank))
    for axis in dict.fromkeys(reduced):
        x = _product_along(call, x, axis)
    return rule(call.reading(x))  # sums of one element each


def _product_along(call: Call, x: Value, axis: int) -> Value:
    count = x.shape[axis]
    if count == 0:
        raise ValueError(f"it multiplies no element of shape {x.shape}")
    while count > 1:
        half = count // 2
        best = call.emit(
            "mul", _part(call, x, axis, 0, half), _part(call, x, axis, half, 2 * half)
        )
        if count % 2:
            rest = _part(call, x, axis, 2 * half, count)
            best = call.emit("concat", best, rest, axis=axis)
        x, count = best, half + count % 2
    return x


def _part(call: Call, x: Value, axis: int, start: int, stop: int) -> Value:
    starts, limits = [0] * len(x.shape), list(x.shape)
    starts[axis], limits[axis] = start, stop
    return call.emit(
        "slice", x, starts=tuple(starts), limits=tuple(limits),
        strides=(1,) * len(x.shape), reverse=(),
    )  # fmt: skip
