"""A stack of fixed capacity on the device: pytrees of arrays whose rows are its items.

Rows from the count on mean nothing. Branch and bound pops the top block, and pushes
what is left of it, with its children, in its place.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int


def pop_block(
    stack: Any, count: Int[Array, ""], block: int
) -> tuple[Any, Int[Array, ""], Bool[Array, " block"]]:
    """Returns the top `block` rows, where they start, and which of them are items."""
    start = jnp.maximum(count - block, 0).astype(count.dtype)
    popped = jax.tree.map(lambda v: lax.dynamic_slice_in_dim(v, start, block), stack)
    return popped, start, start + jnp.arange(block) < count


def push(
    stack: Any, start: Int[Array, ""], new: Any, wanted: Bool[Array, " n"]
) -> tuple[Any, Int[Array, ""]]:
    """Returns the stack with the wanted rows of `new` from `start` on, and its count.

    The stack must have room for all rows of `new`.
    """
    place = jnp.where(wanted, jnp.cumsum(wanted) - 1, wanted.size)

    def write(stack: Array, new: Array) -> Array:
        packed = jnp.zeros_like(new).at[place].set(new, mode="drop")
        return lax.dynamic_update_slice_in_dim(stack, packed, start, axis=0)

    count = (start + jnp.sum(wanted)).astype(start.dtype)
    return jax.tree.map(write, stack, new), count
