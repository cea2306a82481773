"""Steps: rounding to whole numbers, its range and the lines that enclose it."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from jaxcert.trace.activations import Activation, Relaxation


def _step(name: str, g: Callable, above: float) -> Activation:
    """Returns a g of whole numbers with z + above - 1 <= g(z) <= z + above.

    Lines: of slope 1 by that inequality, or 0 at g(l) and g(u), whichever is closer to
    g in the middle. [l, u] is widened by the rounding error e of its ends, within which
    a jump may lie: g(u) - g(u - 2 e) and g(l + 2 e) - g(l) are no less than it.
    """

    def interval(lo: Array, hi: Array) -> tuple[Array, Array]:
        unknown = jnp.isnan(lo) | jnp.isnan(hi)
        return jnp.where(unknown, jnp.nan, g(lo)), jnp.where(unknown, jnp.nan, g(hi))

    def relax(lo: Array, hi: Array) -> Relaxation:
        least, most = g(lo), g(hi)
        middle = lo + (hi - lo) / 2
        below, over = middle + above - 1 > least, middle + above < most
        zero, one = 0 * (lo + hi), 1 + 0 * (lo + hi)
        return Relaxation(
            jnp.where(below, one, zero),
            jnp.where(below, above - 1 + zero, least + zero),
            jnp.where(over, one, zero),
            jnp.where(over, above + zero, most + zero),
        )

    def jump(lo: Array, hi: Array, error: Array) -> Array:
        at_hi, at_lo = g(hi) - g(hi - 2 * error), g(lo + 2 * error) - g(lo)
        return jnp.where(error > 0, jnp.maximum(at_hi, at_lo), 0 * error)

    return Activation(
        name, g, interval, relax, lambda lo, hi: jnp.ones_like(lo), jump=jump
    )


FLOOR = _step("floor", jnp.floor, 0.0)
CEIL = _step("ceil", jnp.ceil, 1.0)
ROUND_EVEN = _step("round", jnp.round, 0.5)
