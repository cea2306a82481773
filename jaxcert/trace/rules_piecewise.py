"""Rules of piecewise linear operations, rewritten exactly to affine maps and ReLU.

    max(x, y) = y + relu(x - y)      min(x, y) = x - relu(x - y)
    |x| = 2 relu(x) - x              leaky_a(x) = a x + (1 - a) relu(x)

so that every method has one activation to deal with. The rewritten node keeps the exact
range of the original as a hint to interval propagation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcert.box import Box
from jaxcert.trace import activations as r
from jaxcert.trace.builder import Builder
from jaxcert.trace.equations import Equation, unsupported


def _max_of(b: Builder, x: int, y: int) -> int:
    """max(x, y) = y + relu(x - y), both depending on x."""
    gap = b.activation(r.RELU, b.sub(x, y))

    def hint(_: Any, p: Box, q: Box) -> Box:
        return Box(jnp.maximum(p.lo, q.lo), jnp.maximum(p.hi, q.hi))

    return b.add(y, gap, hint=hint, hint_inputs=(x, y))


def maximum(b: Builder, e: Equation) -> int:
    """max(x, y), either of them possibly constant."""
    return _extreme(b, e.inputs[0], e.inputs[1], b.shape(e), 1.0)


def minimum(b: Builder, e: Equation) -> int:
    """min(x, y), either of them possibly constant."""
    return _extreme(b, e.inputs[0], e.inputs[1], b.shape(e), -1.0)


def _extreme(b: Builder, p: int, q: int, shape: Sequence[int], sign: float) -> int:
    """max for sign 1; min as -max(-x, -y) for sign -1."""
    if not b.moves(p):
        p, q = q, p
    x = b.broadcast_to(b.resolve(p), shape)
    if not b.moves(q) and b.flat.scalar(q) == -sign * math.inf:
        return x  # the neutral element; x - c would be infinite
    if b.moves(q):
        y = b.broadcast_to(b.resolve(q), shape)
        if sign > 0:
            return _max_of(b, x, y)
        return b.scale(_max_of(b, b.scale(x, -1.0), b.scale(y, -1.0)), -1.0)
    if b.flat.scalar(q) == 0.0 and sign > 0:
        return b.activation(r.RELU, x)
    # max(x, c) = c + relu(x - c); min(x, c) = c - relu(c - x)
    gap = b.activation(r.RELU, b.shifted(x, q, sign, -sign))
    return b.shifted(gap, q, sign, 1.0)


def clamp(b: Builder, e: Equation) -> int:
    """min(max(x, low), high) for constant ends."""
    low, x, high = e.inputs
    if b.moves(low) or b.moves(high):
        raise unsupported(e)
    lifted = _extreme(b, x, low, b.shape(e), 1.0)
    return _extreme(b, lifted, high, b.shape(e), -1.0)


def absolute(b: Builder, e: Equation) -> int:
    """|x| = 2 relu(x) - x."""
    x = b.resolve(e.inputs[0])

    def hint(_: Any, z: Box) -> Box:
        a, c = jnp.abs(z.lo), jnp.abs(z.hi)
        kink = (z.lo <= 0) & (z.hi >= 0)  # neither end is NaN then
        low = jnp.where(kink, jnp.zeros_like(a), jnp.minimum(a, c))
        return Box(low, jnp.maximum(a, c))

    doubled = b.scale(b.activation(r.RELU, x), 2.0)
    return b.add(doubled, b.scale(x, -1.0), hint=hint, hint_inputs=(x,))


def leaky(b: Builder, x: int, slope: float) -> int:
    """leaky_a(x) = a x + (1 - a) relu(x)."""

    def value(z: Any) -> Any:
        return jnp.where(z >= 0, z, slope * z)

    def hint(_: Any, z: Box) -> Box:
        a, c = value(z.lo), value(z.hi)
        low, high = jnp.minimum(a, c), jnp.maximum(a, c)
        kink = (z.lo <= 0) & (z.hi >= 0)
        low = jnp.where(kink, jnp.minimum(low, 0), low)
        return Box(low, jnp.where(kink, jnp.maximum(high, 0), high))

    bent = b.scale(b.activation(r.RELU, x), 1 - slope)
    return b.add(b.scale(x, slope), bent, hint=hint, hint_inputs=(x,))


def elu(b: Builder, x: int, alpha: float) -> int:
    """elu(x) = relu(x) + alpha (exp(x - relu(x)) - 1)."""
    positive = b.activation(r.RELU, x)
    negative = b.activation(r.EXPM1, b.sub(x, positive))

    def hint(_: Any, z: Box) -> Box:
        a, c = (
            jnp.where(e > 0, e, alpha * jnp.expm1(jnp.minimum(e, 0)))
            for e in (z.lo, z.hi)
        )
        return Box(a, c)

    increasing = alpha >= 0
    return b.add(
        positive, b.scale(negative, alpha),
        hint=hint if increasing else None, hint_inputs=(x,) if increasing else (),
    )  # fmt: skip


def hard_tanh(b: Builder, x: int) -> int:
    """min(max(x, -1), 1)."""
    one, minus = b.flat.constant(np.float32(1)), b.flat.constant(np.float32(-1))
    shape = b.flat.shapes[x]
    lifted = _extreme(b, x, minus, shape, 1.0)
    return _extreme(b, lifted, one, shape, -1.0)


def _tournament(b: Builder, values: list[int]) -> int:
    while len(values) > 1:
        half = len(values) // 2
        pairs = zip(values[:half], values[half : 2 * half], strict=True)
        values = [_max_of(b, x, y) for x, y in pairs] + values[2 * half :]
    return values[0]


def reduce_max(b: Builder, e: Equation, sign: float = 1.0) -> int:
    """A tournament of pairwise maxima over halves of the reduced axes."""
    axes, x = e.params["axes"], b.scale(b.resolve(e.inputs[0]), sign)
    shape = b.flat.shapes[x]
    kept = [i for i in range(len(shape)) if i not in axes]
    count = math.prod(shape[i] for i in axes)
    if count == 0:
        raise unsupported(e)
    flat_shape = (count, *(shape[i] for i in kept))
    order = [*axes, *kept]
    x = b.structural(
        e.name, x, flat_shape, lambda z: z.transpose(order).reshape(flat_shape)
    )

    def part(v: int, start: int, stop: int) -> int:
        return b.structural(
            e.name, v, (stop - start, *flat_shape[1:]), lambda z: z[start:stop]
        )

    while count > 1:
        half = count // 2
        best = _max_of(b, part(x, 0, half), part(x, half, 2 * half))
        if count % 2:
            rest = part(x, 2 * half, count)
            joined = (half + 1, *flat_shape[1:])
            best = b.affine(
                e.name, (best, rest), joined,
                lambda _, p, q: jnp.concatenate([p, q]),
                lambda _, p, q: Box(
                    jnp.concatenate([p.lo, q.lo]), jnp.concatenate([p.hi, q.hi])
                ),
            )  # fmt: skip
        x, count = best, half + count % 2
    done = b.structural(e.name, x, flat_shape[1:], lambda z: z[0])
    return b.scale(done, sign)


def reduce_min(b: Builder, e: Equation) -> int:
    """-max(-x)."""
    return reduce_max(b, e, sign=-1.0)


def window_max(b: Builder, e: Equation) -> int:
    """Max pooling: a tournament over the positions inside the window."""
    p, x = e.params, b.resolve(e.inputs[0])
    if any(d != 1 for d in p["base_dilation"]):
        raise unsupported(e)
    shape, out = b.flat.shapes[x], b.shape(e)
    window, strides = p["window_dimensions"], p["window_strides"]
    padding, dilation = p["padding"], p["window_dilation"]
    offsets = list(itertools.product(*(range(w) for w in window)))

    def along(axis: int, k: int) -> np.ndarray:
        start = k * dilation[axis] - padding[axis][0]
        return start + strides[axis] * np.arange(out[axis])

    positions = [[along(a, k[a]) for a in range(len(shape))] for k in offsets]
    inside = [
        [(q >= 0) & (q < n) for q, n in zip(grid, shape, strict=True)]
        for grid in positions
    ]
    if all(np.all(m) for grid in inside for m in grid):

        def pick(grid: list[np.ndarray]) -> int:
            starts = [int(q[0]) for q in grid]
            stops = [int(q[-1]) + 1 for q in grid]
            return b.structural(
                e.name, x, out, lambda z: lax.slice(z, starts, stops, strides)
            )

        return _tournament(b, [pick(grid) for grid in positions])
    return _tournament(b, _padded_window(b, e, x, positions, inside))


def _padded_window(
    b: Builder, e: Equation, x: int, positions: list, inside: list
) -> list[int]:
    """Positions in the padding repeat one inside: the maximum stays the same."""
    shape, out = b.flat.shapes[x], b.shape(e)
    valid = np.stack(
        [_outer([m for m in grid], np.logical_and) for grid in inside]
    )  # (offsets, *out)
    if not valid.any(axis=0).all():
        raise unsupported(e)
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]
    flat = np.stack(
        [_outer([q * s for q, s in zip(g, strides, strict=True)], np.add)
         for g in positions]
    )  # fmt: skip
    first = np.take_along_axis(flat, valid.argmax(axis=0)[None], axis=0)
    indices = np.where(valid, flat, first)

    def pick(index: np.ndarray) -> int:
        return b.structural(
            e.name, x, out, lambda z: z.reshape(-1)[index.reshape(-1)].reshape(out),
            separable=False,
        )  # fmt: skip

    return [pick(index) for index in indices]


def _outer(vectors: list[np.ndarray], combine: Any) -> np.ndarray:
    result = vectors[0]
    for vector in vectors[1:]:
        result = combine(result[..., None], vector)
    return result
