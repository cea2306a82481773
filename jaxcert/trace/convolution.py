"""Convolutions with the channels last, forwards and backwards.

XLA compiles a convolution within a loop on the CPU as it is written, and calls its fast
routine only where the channels come last in the operands and the kernel is laid out as
(*spatial, in, out); what JAX's own transpose writes is not (jax issue 12868). Bounds
are all but entirely convolutions and their transposes within loops: this primitive is
its own transpose but for the kernel, so that both are written in that form.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend import core as jex
from jax.interpreters import ad, batching, mlir

Pairs = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Window:
    """How a kernel moves, one entry per spatial axis; see `lax.conv_general_dilated`.

    Attributes:
      strides: steps of the window.
      padding: zeros before and behind, cut off where negative.
      base: dilation of the operand.
      kernel: dilation of the kernel.
    """

    strides: tuple[int, ...]
    padding: Pairs
    base: tuple[int, ...]
    kernel: tuple[int, ...]

    def transposed(self, size: tuple, taps: tuple, made: tuple) -> Window:
        """Returns the window of the transpose.

        Args:
          size, taps, made: spatial shapes of operand, kernel and result.
        """
        padding = []
        for axis, (before, _) in enumerate(self.padding):
            reach = (taps[axis] - 1) * self.kernel[axis]
            first = reach - before
            whole = (size[axis] - 1) * self.base[axis] + 1
            used = (made[axis] - 1) * self.strides[axis] + 1
            padding.append((first, whole + reach - used - first))
        return Window(self.base, tuple(padding), self.strides, self.kernel)

    def cuts(self, taps: tuple) -> bool:
        """Whether kernels of so many taps see parts of the operand that do not overlap.

        Then the convolution is a product of matrices.
        """
        still = (1,) * len(taps)
        unpadded = not any(map(any, self.padding))
        return unpadded and self.strides == taps and self.base == self.kernel == still


def convolve(x: Any, kernel: Any, params: dict[str, Any]) -> Any:
    """Returns `conv_general_dilated` of operands, by its parameters.

    Groups of features or batches are left to JAX.
    """
    if _groups(params):
        return lax.conv_general_dilated_p.bind(x, kernel, **params)
    lhs, rhs, out = params["dimension_numbers"]
    window = _window(params)
    # Specs are (batch, features, *spatial) of operands, (out, in, *spatial) of kernels.
    x = jnp.transpose(x, (lhs[0], *lhs[2:], lhs[1]))
    kernel = jnp.transpose(kernel, (*rhs[2:], rhs[1], rhs[0]))
    if window.cuts(kernel.shape[:-2]):
        made = _of_parts(x, kernel)
    else:
        made = _convolution.bind(x, kernel, window=window)
    order = np.argsort((out[0], *out[2:], out[1]))
    return jnp.transpose(made, tuple(map(int, order)))


def is_product(kernel: tuple[int, ...], params: dict[str, Any]) -> bool:
    """Returns whether it is a product of matrices for a kernel of this shape."""
    _, rhs, _ = params["dimension_numbers"]
    taps = tuple(kernel[axis] for axis in rhs[2:])
    return not _groups(params) and _window(params).cuts(taps)


def _groups(params: dict[str, Any]) -> bool:
    return params["feature_group_count"] != 1 or params["batch_group_count"] != 1


def _window(params: dict[str, Any]) -> Window:
    return Window(
        tuple(params["window_strides"]), tuple(map(tuple, params["padding"])),
        tuple(params["lhs_dilation"]), tuple(params["rhs_dilation"]),
    )  # fmt: skip


def _of_parts(x: Any, kernel: Any) -> Any:
    """Returns the convolution that steps by its kernel, as one product of matrices.

    XLA's own of a patch embedding in float64, transposed, takes 25 times as long.
    """
    taps = kernel.shape[:-2]
    counts = [size // n for size, n in zip(x.shape[1:-1], taps, strict=True)]
    used = tuple(slice(count * n) for count, n in zip(counts, taps, strict=True))
    split = [n for pair in zip(counts, taps, strict=True) for n in pair]
    parts = x[:, *used].reshape(len(x), *split, x.shape[-1])
    axes = range(len(taps))
    order = (0, *(1 + 2 * i for i in axes), *(2 + 2 * i for i in axes), -1)
    parts = jnp.transpose(parts, order).reshape(len(x), *counts, -1)
    flat = kernel.reshape(-1, kernel.shape[-1])
    return jnp.matmul(parts, flat, precision=lax.Precision.HIGHEST)


def _apply(x: Any, kernel: Any, *, window: Window) -> Any:
    spatial = "".join(chr(ord("0") + axis) for axis in range(x.ndim - 2))
    layout = f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"
    return lax.conv_general_dilated(
        x, kernel, window.strides, window.padding, window.base, window.kernel,
        dimension_numbers=layout, precision=lax.Precision.HIGHEST,
    )  # fmt: skip


def _apply_on_cpu(x: Any, kernel: Any, *, window: Window) -> Any:
    """The same: XLA's own of a dilated operand in float64 takes 20 times as long, and
    that to a few channels 3 times."""
    dilated = any(base > 1 for base in window.base)
    steps = max(*window.strides, *window.kernel)
    if x.dtype != jnp.float64 or steps > 1:
        return _apply(x, kernel, window=window)
    if dilated:
        return _by_phases(x, kernel, window)
    *taps, channels, made = kernel.shape
    if math.prod(taps) * made <= 2 * channels:
        return _by_taps(x, kernel, window)
    return _apply(x, kernel, window=window)


def _by_taps(x: Any, kernel: Any, window: Window) -> Any:
    """Returns the convolution as one product of matrices, whose results are summed.

    What every tap makes of all of the operand comes first: it is little where the
    result has few channels.
    """
    *taps, channels, made = kernel.shape
    rows = jnp.moveaxis(kernel, -2, -1).reshape(-1, channels)
    highest = lax.Precision.HIGHEST
    each = lax.dot_general(rows, x, (((1,), (x.ndim - 1,)), ((), ())), highest)
    zero = jnp.zeros((), x.dtype)
    around = [(before, behind, 0) for before, behind in window.padding]
    each = lax.pad(each, zero, [(0, 0, 0), (0, 0, 0), *around])
    each = each.reshape(*taps, made, *each.shape[1:])
    sizes = [n - t + 1 for n, t in zip(each.shape[-len(taps) :], taps, strict=True)]
    total = functools.reduce(
        jnp.add,
        (
            each[*tap, ..., *(slice(t, t + n) for t, n in zip(tap, sizes, strict=True))]
            for tap in itertools.product(*map(range, taps))
        ),
    )
    return jnp.moveaxis(total, 0, -1)


def _by_phases(x: Any, kernel: Any, window: Window) -> Any:
    """Returns the convolution of a dilated operand as products of matrices.

    Results that are as far apart as elements of the dilated operand meet the same taps,
    of which only some meet an element: one product for each of these phases.
    """
    axes, taps = range(len(window.base)), kernel.shape[:-2]
    made = jax.eval_shape(functools.partial(_apply, window=window), x, kernel).shape
    counts = [-(-made[1 + i] // window.base[i]) for i in axes]
    # Per axis and phase, the taps that meet an element, and where it is for result 0.
    met = []
    for count, base, (before, _) in zip(taps, window.base, window.padding, strict=True):
        shifts = [(tap, divmod(tap - before, base)) for tap in range(count)]
        phases = [
            [(tap, place + (at > 0)) for tap, (place, at) in shifts if -at % base == k]
            for k in range(base)
        ]
        # The same number for each, so that one loop does for all: absent taps are 0.
        most = max(map(len, phases))
        met.append([[*some, *[(count, 0)] * (most - len(some))] for some in phases])
    places = [[place for phase in of for _, place in phase] for of in met]
    least = [min(of) for of in places]
    room = [max(of) + n for of, n in zip(places, counts, strict=True)]
    around = [
        (max(-low, 0), max(high - n, 0))
        for low, high, n in zip(least, room, x.shape[1:-1], strict=True)
    ]
    x = jnp.pad(x, ((0, 0), *around, (0, 0)))
    kernel = jnp.pad(kernel, (*[(0, 1)] * len(axes), (0, 0), (0, 0)))
    pairs = [list(itertools.product(*some)) for some in itertools.product(*met)]
    moved = [
        [
            [at + more for (_, at), (more, _) in zip(p, around, strict=True)]
            for p in some
        ]
        for some in pairs
    ]
    chosen = np.array([[[tap for tap, _ in p] for p in of] for of in pairs])
    rows = kernel[tuple(np.moveaxis(chosen, -1, 0))]
    rows = rows.reshape(len(pairs), -1, made[-1])
    sizes = (len(x), *counts, x.shape[-1])

    def phase(given: tuple[Any, Any]) -> Any:
        begins, rows = given
        parts = [
            lax.dynamic_slice(x, (0, *begin, 0), sizes)
            for begin in (tuple(b) for b in begins)
        ]
        joined = jnp.concatenate(parts, axis=-1)
        return jnp.matmul(joined, rows, precision=lax.Precision.HIGHEST)

    whole = lax.map(phase, (jnp.asarray(moved), rows))
    whole = whole.reshape(*window.base, len(x), *counts, made[-1])
    order = [len(axes), *(k for i in axes for k in (len(axes) + 1 + i, i))]
    whole = jnp.transpose(whole, (*order, whole.ndim - 1))
    ends = [count * base for count, base in zip(counts, window.base, strict=True)]
    whole = whole.reshape(len(x), *ends, made[-1])
    return whole[:, *(slice(n) for n in made[1:-1])]


def _to_operand(made: Any, x: Any, kernel: Any, *, window: Window) -> Any:
    shapes = x.aval.shape[1:-1], kernel.shape[:-2], made.shape[1:-1]
    flipped = lax.rev(kernel, range(kernel.ndim - 2))
    swapped = jnp.swapaxes(flipped, -1, -2)
    return _convolution.bind(made, swapped, window=window.transposed(*shapes))


def _to_kernel(made: Any, x: Any, kernel: Any, *, window: Window) -> Any:
    def apply(kernel: Any) -> Any:
        return _apply(x, kernel, window=window)

    return jax.linear_transpose(apply, kernel.aval)(made)[0]


def _batched(operands: Any, axes: Any, *, window: Window) -> tuple[Any, int]:
    (x, kernel), (of_x, of_kernel) = operands, axes
    if of_kernel is not None:
        made = jax.vmap(lambda x, k: _apply(x, k, window=window), (of_x, of_kernel))
        return made(x, kernel), 0
    x = jnp.moveaxis(x, of_x, 0)
    flat = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
    made = _convolution.bind(flat, kernel, window=window)
    return made.reshape(*x.shape[:2], *made.shape[1:]), 0


def _shaped(x: Any, kernel: Any, *, window: Window) -> ShapedArray:
    apply = functools.partial(_apply, window=window)
    made = jax.eval_shape(
        apply, *(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in (x, kernel))
    )
    return ShapedArray(made.shape, made.dtype)


_convolution = jex.Primitive("channels_last_convolution")
_convolution.def_impl(jax.jit(_apply, static_argnames=("window",)))
_convolution.def_abstract_eval(_shaped)
mlir.register_lowering(_convolution, mlir.lower_fun(_apply, multiple_results=False))
mlir.register_lowering(
    _convolution, mlir.lower_fun(_apply_on_cpu, multiple_results=False), "cpu"
)
ad.defbilinear(_convolution, _to_operand, _to_kernel)
batching.primitive_batchers[_convolution] = _batched
