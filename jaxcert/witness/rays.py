"""Rays: the nearest violation on the way from one point to another."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

# Steps done, ends of the part that is halved, whether there is a point, and which.
_State = tuple[Array, Array, Array, Array, Array]


def nearest_on_ray(
    at: Callable[[Array], Array],
    violates: Callable[[Array], Array],
    tries: Float[Array, " n"],
    halvings: int,
) -> tuple[Float[Array, ""], Float[Array, "*d"], Bool[Array, ""]]:
    """Returns where on a ray a point violates, that point, and whether there is one.

    The first of `tries` that violates, drawn towards 0 as far as halving finds it still
    to violate. The point is the one that was asked about, to the last bit. There is one
    loop for all: the network, which is nearly all of the program, is compiled once.

    Args:
      at: maps t >= 0 to a point, shape (*d).
      violates: whether a point does.
      tries: values of t.
      halvings: how often.
    """
    count = len(tries)

    def ask(state: _State) -> _State:
        index, safe, bad, found, kept = state
        halving = index >= count
        t = jnp.where(halving, (safe + bad) / 2, tries[jnp.minimum(index, count - 1)])
        point = at(t)
        better = violates(point) & (halving | ~found)
        safe = jnp.where(halving & ~better, t, safe)
        bad, kept = (
            jnp.where(better, new, old) for new, old in ((t, bad), (point, kept))
        )
        return index + 1, safe, bad, found | better, kept

    def unfinished(state: _State) -> Array:
        index, found = state[0], state[3]
        return index < jnp.where(found, count + halvings, count)

    zero = jnp.zeros_like(tries[0])
    start = (
        jnp.int32(0),
        zero,
        zero,
        jnp.zeros((), bool),
        jnp.full_like(at(zero), jnp.nan),
    )
    _, _, t, found, point = lax.while_loop(unfinished, ask, start)
    return t, point, found
