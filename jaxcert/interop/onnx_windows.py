"""ONNX operators on windows, channels and axes: convolution, pooling, reduction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxcert.interop.onnx_lowering import Call, Constant, Value
from jaxcert.interop.onnx_shapes import Outputs, axes_of, axis_of


def keep_shape(expected: Value, got: Value) -> Value:
    if got.shape != expected.shape:
        raise ValueError(f"adding its bias changes {expected.shape} to {got.shape}")
    return got


def _window(
    call: Call, spatial: tuple[int, ...], kernel: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Returns strides, padding and dilations of a convolution or a pooling."""
    rank = len(spatial)
    strides = call.attribute("strides") or (1,) * rank
    dilations = call.attribute("dilations") or (1,) * rank
    pads = call.attribute("pads")
    auto = call.attribute("auto_pad", "NOTSET")
    if (len(strides), len(dilations), len(kernel)) != (rank,) * 3 or min(
        *strides, *dilations, *kernel
    ) < 1:
        raise ValueError(
            f"window {kernel}, strides {strides} and dilations {dilations} do not fit "
            f"{rank} spatial dimensions"
        )
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if auto in ("NOTSET", ""):
        pads = pads or (0,) * (2 * rank)
        if len(pads) != 2 * rank or min(pads) < 0:
            raise ValueError(f"pads {pads} do not fit {rank} spatial dimensions")
        padding = tuple((pads[i], pads[i + rank]) for i in range(rank))
    elif auto == "VALID":
        padding = ((0, 0),) * rank
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max((-(-n // s) - 1) * s + r - n, 0)
            for n, s, r in zip(spatial, strides, reach, strict=True)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        ends = (small, large) if auto == "SAME_UPPER" else (large, small)
        padding = tuple(zip(*ends, strict=True))
    else:
        raise ValueError(f"auto_pad={auto!r} does not exist")
    return strides, padding, dilations


def lower_conv(call: Call) -> Outputs:
    x, kernel = call.value(0), call.value(1)
    if len(x.shape) < 3 or len(kernel.shape) != len(x.shape):
        raise ValueError(f"input {x.shape} and kernel {kernel.shape} do not fit")
    window = kernel.shape[2:]
    if call.attribute("kernel_shape", window) != window:
        raise ValueError(f"kernel_shape is not that of its kernel {kernel.shape}")
    strides, padding, dilations = _window(call, x.shape[2:], window)
    result = call.emit(
        "conv",
        x,
        kernel,
        strides=strides,
        padding=padding,
        dilations=dilations,
        groups=call.attribute("group", 1),
    )
    if call.has(2):
        bias = per_channel(call, call.value(2), len(x.shape))
        result = keep_shape(result, call.emit("add", result, bias))
    return [result]


def lower_conv_transpose(call: Call) -> Outputs:
    """The transpose of a convolution: one over its input with zeros put in between."""
    x, kernel = call.value(0), call.value(1)
    rank = len(x.shape) - 2
    if rank < 1 or len(kernel.shape) != rank + 2 or kernel.shape[0] != x.shape[1]:
        raise ValueError(f"input {x.shape} and kernel {kernel.shape} do not fit")
    window, groups = kernel.shape[2:], call.attribute("group", 1)
    if call.attribute("kernel_shape", window) != window:
        raise ValueError(f"kernel_shape is not that of its kernel {kernel.shape}")
    if groups < 1 or kernel.shape[0] % groups:
        raise ValueError(f"group {groups} does not divide {kernel.shape[0]} channels")
    strides, dilations, padding = _transposed_window(call, x.shape[2:], window)
    result = call.emit(
        "conv",
        x,
        _transposed_kernel(call, kernel, groups),
        strides=(1,) * rank,
        padding=padding,
        dilations=dilations,
        groups=groups,
        input_dilations=strides,
    )
    if call.has(2):
        bias = per_channel(call, call.value(2), len(x.shape))
        result = keep_shape(result, call.emit("add", result, bias))
    return [result]


def _transposed_window(
    call: Call, spatial: tuple[int, ...], window: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Returns strides, dilations, and the padding of the equal convolution."""
    rank = len(spatial)
    strides = call.attribute("strides") or (1,) * rank
    dilations = call.attribute("dilations") or (1,) * rank
    extra = call.attribute("output_padding") or (0,) * rank
    auto, wanted = call.attribute("auto_pad", "NOTSET"), call.attribute("output_shape")
    pads = call.attribute("pads") or (0,) * (2 * rank)
    if auto not in ("NOTSET", "", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad={auto!r} does not exist")
    if (len(strides), len(dilations), len(extra), len(pads)) != (
        rank, rank, rank, 2 * rank
    ) or min(*strides, *dilations, *window) < 1 or min(*pads, *extra) < 0:  # fmt: skip
        raise ValueError(f"its attributes do not fit {rank} spatial dimensions")
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        raise ValueError(f"output_padding {extra} is not below strides {strides}")
    reach = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    before, after = pads[:rank], pads[rank:]
    if auto == "VALID":
        before = after = (0,) * rank
    if wanted is not None or auto.startswith("SAME"):
        if wanted is None:
            wanted = tuple(n * s for n, s in zip(spatial, strides, strict=True))
        wanted = wanted[-rank:]
        if len(wanted) != rank or min(wanted) < 1:
            raise ValueError(f"output_shape {wanted} does not fit {rank} dimensions")
        total = [
            s * (n - 1) + e + r - w
            for s, n, e, r, w in zip(
                strides, spatial, extra, reach, wanted, strict=True
            )
        ]
        if min(total) < 0:
            raise call.unsupported(f"has the output shape {wanted}, beyond its kernel")
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        upper = auto == "SAME_UPPER"
        before, after = (small, large) if upper else (large, small)
    padding = tuple(
        (r - 1 - b, r - 1 - a + e)
        for r, b, a, e in zip(reach, before, after, extra, strict=True)
    )
    if any(
        (n - 1) * s + 1 + low + high < r
        for n, s, r, (low, high) in zip(spatial, strides, reach, padding, strict=True)
    ):
        raise ValueError(f"pads {pads} leave nothing of shape {spatial}")
    return strides, dilations, padding


def _transposed_kernel(call: Call, kernel: Value, groups: int) -> Value:
    """Returns the kernel mirrored, with its channels in and out exchanged."""
    inputs, outputs, *window = kernel.shape
    each, axes = inputs // groups, tuple(range(len(window)))
    kernel = call.emit("reshape", kernel, shape=(groups, each, outputs, *window))
    order = (0, 2, 1, *(a + 3 for a in axes))
    kernel = call.emit("transpose", kernel, permutation=order)
    kernel = call.emit("reshape", kernel, shape=(groups * outputs, each, *window))
    return call.emit(
        "slice",
        kernel,
        starts=(0,) * len(kernel.shape),
        limits=kernel.shape,
        strides=(1,) * len(kernel.shape),
        reverse=tuple(a + 2 for a in axes),
    )


def per_channel(call: Call, value: Value, rank: int) -> Value:
    """Returns a value per channel, in a shape that broadcasts over the others."""
    if len(value.shape) != 1:
        raise ValueError(f"a value per channel has shape {value.shape}")
    return call.emit("reshape", value, shape=(1, *value.shape, *(1,) * (rank - 2)))


def lower_batch_norm(call: Call) -> Outputs:
    call.attribute("momentum")
    if call.flag("training_mode") or call.attribute("spatial", 1) != 1:
        raise call.unsupported("is in training mode or not per channel")
    x = call.value(0)
    if len(x.shape) < 2:
        raise ValueError(f"its input has shape {x.shape}")
    scale, bias, mean, variance = (
        per_channel(call, call.value(i), len(x.shape)) for i in range(1, 5)
    )
    epsilon = call.attribute("epsilon", 1e-5)
    if isinstance(variance, Constant) and np.any(variance.array + epsilon <= 0):
        raise ValueError("its variance is not positive")
    deviation = call.emit("sqrt", call.emit("add", variance, epsilon))
    factor = call.emit("div", scale, deviation)
    centred = call.emit("sub", x, mean)
    result = call.emit("add", call.emit("mul", centred, factor), bias)
    return [keep_shape(x, result)]


def lower_pool(call: Call) -> Outputs:
    x = call.value()
    if len(x.shape) < 3:
        raise ValueError(f"its input has shape {x.shape}")
    spatial = x.shape[2:]
    window = call.attribute("kernel_shape")
    if window is None or len(window) != len(spatial):
        raise ValueError(f"kernel_shape {window} does not fit input {x.shape}")
    call.attribute("storage_order")  # concerns the indices, which are not read
    ceil_mode = call.flag("ceil_mode")
    strides, padding, dilations = _window(call, spatial, window)
    include_pad = call.flag("count_include_pad")
    padded: list[tuple[int, int]] = []
    counts: list[tuple[int, ...]] = []
    for n, k, s, d, (low, high) in zip(
        spatial, window, strides, dilations, padding, strict=True
    ):
        reach = (k - 1) * d + 1
        if max(low, high) >= reach or n + low + high < reach:
            raise ValueError(
                f"window {window} and padding {padding} do not fit {spatial}"
            )
        span = n + low + high - reach
        size = (-(-span // s) if ceil_mode else span // s) + 1
        if (size - 1) * s >= n + low:
            size -= 1  # a window may not start in the padding on the right
        padded.append((low, max((size - 1) * s + reach - n - low, 0)))
        at = np.arange(size)[:, None] * s + np.arange(k) * d
        first, last = (0, n + low + high) if include_pad else (low, low + n)
        counts.append(tuple(((at >= first) & (at < last)).sum(axis=1).tolist()))
    geometry = dict(
        window=window, strides=strides, padding=tuple(padded), dilations=dilations
    )
    if call.op == "MaxPool":
        return [call.emit("max_pool", x, **geometry)]
    return [call.emit("avg_pool", x, counts=tuple(counts), **geometry)]


def lower_global_pool(op: str) -> Callable[[Call], Outputs]:
    def rule(call: Call) -> Outputs:
        x = call.value()
        if len(x.shape) < 3:
            raise ValueError(f"its input has shape {x.shape}")
        axes = tuple(range(2, len(x.shape)))
        return [call.emit(op, x, axes=axes, keepdims=True)]

    return rule


def lower_reduce(op: str, since: int) -> Callable[[Call], Outputs]:
    def rule(call: Call) -> Outputs:
        x = call.value()
        axes = axes_of(call, since)
        if not axes:
            if call.flag("noop_with_empty_axes"):
                return [x]
            axes = tuple(range(len(x.shape)))
        call.flag("noop_with_empty_axes")
        axes = tuple(sorted(axis_of(a, len(x.shape)) for a in axes))
        if len(set(axes)) != len(axes):
            raise ValueError(f"axes {axes} are named twice")
        keep = call.flag("keepdims", True)
        return [call.emit(op, x, axes=axes, keepdims=keep)]

    return rule
