"""Rules of softmax: exponentials, their sum and its reciprocal, multiplied.

What JAX subtracts from the arguments, their maximum, changes nothing: it is left out of
bounds, where it would be relaxed for nothing. Exponentials that overflow are no bound.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxcert.box import Box
from jaxcert.trace import activations as r
from jaxcert.trace.builder import Builder


def softmax(b: Builder, x: int, axis: float) -> int:
    """exp(x_i) / sum_j exp(x_j), which is 1 / (1 + sum_{j != i} exp(x_j - x_i)).

    The second form increases in x_i and decreases in the others: at their ends it
    gives the exact range.
    """
    k, shape = int(axis), b.flat.shapes[x]
    powers, total = _exponentials(b, x, k)
    inverse = b.activation(r.RECIPROCAL, total)

    def expand(p: Any, q: Any) -> tuple[Any, Any]:
        return p, jnp.expand_dims(q, k)

    return b.bilinear(
        "softmax", (powers, inverse), shape, expand,
        lambda p, q: p * jnp.expand_dims(q, k), shares=k,
        interval_hint=lambda _, z: _range(z, k), hint_inputs=(x,),
    )  # fmt: skip


def log_softmax(b: Builder, x: int, axis: float) -> int:
    """x_i - log sum_j exp(x_j); its range as that of softmax.

    Its range is no logarithm of that of softmax, which may be lost: log 0 is no bound.
    """
    k, shape = int(axis), b.flat.shapes[x]
    _, total = _exponentials(b, x, k)
    log = b.structural(
        "log_softmax", b.activation(r.LOG, total), shape,
        lambda z: jnp.broadcast_to(jnp.expand_dims(z, k), shape), separable=False,
    )  # fmt: skip

    def hint(_: Any, z: Box) -> Box:
        below, above = _gaps(z, k)
        return Box(*(-jax.nn.logsumexp(gaps, k + 1) for gaps in (below, above)))

    return b.sub(x, log, hint=hint, hint_inputs=(x,))


def _exponentials(b: Builder, x: int, axis: int) -> tuple[int, int]:
    """Returns exp(x) and its sum along the axis."""
    powers = b.activation(r.EXP, x)
    kept = [n for i, n in enumerate(b.flat.shapes[x]) if i != axis]
    total = b.structural(
        "softmax", powers, kept, lambda z: z.sum(axis=axis), separable=False
    )
    return powers, total


def _range(z: Box, axis: int) -> Box:
    """1 / (1 + sum_{j != i} exp(x_j - x_i)), at the ends of the ranges."""
    below, above = _gaps(z, axis)
    return Box(*(1 / jnp.exp(gaps).sum(axis=axis + 1) for gaps in (below, above)))


def _gaps(z: Box, axis: int) -> tuple[Any, Any]:
    """Returns all x_j - x_i, 0 for j = i, where element i is least, and greatest.

    The axis of i is followed by that of j.
    """

    def at(own: Any, others: Any) -> Any:
        gaps = jnp.expand_dims(others, axis) - jnp.expand_dims(own, axis + 1)
        size = own.shape[axis]
        itself = jnp.eye(size, dtype=bool).reshape(
            (*(1,) * axis, size, size, *(1,) * (own.ndim - axis - 1))
        )
        return jnp.where(itself, jnp.zeros_like(gaps), gaps)

    return at(z.lo, z.hi), at(z.hi, z.lo)
