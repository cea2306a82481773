"""Rules of softmax: exponentials, their sum and its reciprocal, multiplied.

What JAX subtracts from the arguments, their maximum, changes nothing: it is left out of
bounds, where it would be relaxed for nothing. Exponentials that overflow are no bound.
"""

from __future__ import annotations

from typing import Any

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
        lambda p, q: p * jnp.expand_dims(q, k),
        interval_hint=lambda _, z: _range(z, k), hint_inputs=(x,),
    )  # fmt: skip


def log_softmax(b: Builder, x: int, axis: float) -> int:
    """x_i - log sum_j exp(x_j); its range as that of softmax."""
    k, shape = int(axis), b.flat.shapes[x]
    _, total = _exponentials(b, x, k)
    log = b.structural(
        "log_softmax", b.activation(r.LOG, total), shape,
        lambda z: jnp.broadcast_to(jnp.expand_dims(z, k), shape), separable=False,
    )  # fmt: skip

    def hint(_: Any, z: Box) -> Box:
        found = _range(z, k)
        return Box(jnp.log(found.lo), jnp.log(found.hi))

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

    def at(own: Any, others: Any) -> Any:
        gaps = jnp.expand_dims(others, axis) - jnp.expand_dims(own, axis + 1)
        size = own.shape[axis]
        itself = jnp.eye(size, dtype=bool).reshape(
            (*(1,) * axis, size, size, *(1,) * (own.ndim - axis - 1))
        )
        powers = jnp.where(itself, jnp.ones_like(gaps), jnp.exp(gaps))
        return 1 / powers.sum(axis=axis + 1)

    return Box(at(z.lo, z.hi), at(z.hi, z.lo))
