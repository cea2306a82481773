"""Where the faces of a box should go, if the margin fell linearly as they move.

A cut says that a face that moves out by e_f lowers the margin at some point by
w_f e_f, w_f >= 0: weight @ extents <= budget keeps it. Extents are the slacks of the F
faces (lower ones first), measured in the rates of the faces. What is chosen here is a
proposal for an oracle; nothing is proved.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

# Levels that are tried at once, and how often the window between two is narrowed.
_LEVELS, _NARROWINGS = 16, 7
# The part of each budget for faces that can go all the way at little cost.
_CHEAP = 0.25
_RISES = 8
_DUAL_STEPS = 120
_TINY = 1e-30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cuts:
    """Linear limits of the extents: weight @ extents <= budget.

    Attributes:
      weight: >= 0, shape (M, F); a row of zeros limits nothing.
      budget: shape (M,).
    """

    weight: Float[Array, "M F"]
    budget: Float[Array, " M"]

    def left(self, extents: Float[Array, " F"]) -> Float[Array, " M"]:
        """Returns what is left of every budget."""
        return self.budget - self.weight @ extents

    def blocks(
        self, extents: Float[Array, " F"], delta: float, surplus: Float[Array, ""]
    ) -> Bool[Array, " F"]:
        """Returns which faces, moved by delta, overdraw a budget by the surplus."""
        left = jnp.maximum(self.left(extents), 0)
        return jnp.any(self.weight * delta > (left + surplus)[:, None], axis=0)


def fill_evenly(
    cuts: Cuts,
    low: Float[Array, " F"],
    cap: Float[Array, " F"],
    delta: float,
    surplus: Float[Array, ""],
) -> Float[Array, " F"]:
    """Returns extents grown evenly from `low` until no face can move by delta.

    A face is blocked where that would overdraw a budget by more than the surplus.

    All faces rise to one level (none falls below `low`, none rises above `cap`) until a
    cut stops some of them; the others go on: a lexicographic maximum of the least
    extents (progressive filling, Bertsekas and Gallager, Data Networks, section 6.5),
    but for faces that reach their cap at hardly any cost, which go there first.
    """
    # Extents that break a cut already are no place to start from, but do no harm.
    cuts = Cuts(cuts.weight, jnp.maximum(cuts.budget, cuts.weight @ low))
    start = _cheap_first(cuts, low, cap)
    steps = jnp.arange(1, _LEVELS + 1, dtype=low.dtype) / _LEVELS

    def at(level: Array, low: Array, active: Array) -> Array:
        return jnp.where(active, jnp.clip(level, low, cap), low)

    def raised(low: Array, active: Array) -> Array:
        """The highest level that keeps all cuts, for the active faces."""
        bottom = jnp.min(jnp.where(active, low, jnp.inf))
        top = jnp.max(jnp.where(active, cap, -jnp.inf))

        def narrow(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            bottom, top = ends
            levels = bottom + (top - bottom) * steps
            tried = jax.vmap(at, in_axes=(0, None, None))(levels, low, active)
            used = cuts.weight @ tried.T
            good = jnp.all(used <= cuts.budget[:, None], axis=0)
            best = jnp.max(jnp.where(good, levels, bottom))
            over = jnp.min(jnp.where(~good, levels, top))
            return best, over

        bottom, _ = lax.fori_loop(0, _NARROWINGS, narrow, (bottom, top))
        return at(bottom, low, active)

    def more(carry: tuple[Array, Array, Array]) -> Array:
        index, _, active = carry
        return jnp.any(active) & (index < _RISES)

    def rise(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        index, extents, active = carry
        extents = raised(extents, active)
        going = active & (extents < cap) & ~cuts.blocks(extents, delta, surplus)
        # A level that cannot rise although nothing blocks: the rest of it is lost.
        return index + 1, extents, going

    active = (start < cap) & ~cuts.blocks(start, delta, surplus)
    return lax.while_loop(more, rise, (jnp.int32(0), start, active))[1]


@functools.partial(jax.jit, static_argnames=("fairness",))
def fill(
    cuts: Cuts,
    low: Float[Array, " F"],
    cap: Float[Array, " F"],
    delta: float,
    fairness: float | None = None,
) -> Float[Array, " F"]:
    """Returns extents between `low` and `cap` that keep the cuts, as large as they go.

    Args:
      cuts: what limits them.
      low, cap: the least and the greatest.
      delta: what is not worth a further rise of all faces.
      fairness: of the utility that shapes them first, see `fill_fairly`; None for none.
    """
    if fairness is not None:
        low = jnp.maximum(low, fill_fairly(cuts, cap, fairness))
    even = fill_evenly(cuts, low, cap, delta, jnp.zeros((), low.dtype))
    return fill_rest(cuts, even, cap)


def fill_rest(
    cuts: Cuts, extents: Float[Array, " F"], cap: Float[Array, " F"]
) -> Float[Array, " F"]:
    """Returns extents with every face moved as far as the cuts allow, one by one.

    The cheapest faces come first. Afterwards no face can move by itself.
    """
    left = jnp.maximum(cuts.left(extents), 0)
    share = cuts.weight * (cap - extents) / jnp.maximum(left, _TINY)[:, None]
    order = jnp.argsort(jnp.max(share, axis=0))

    def move(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        extents, left = carry
        face = order[index]
        weight = cuts.weight[:, face]
        room = jnp.min(
            jnp.where(weight > 0, left / jnp.maximum(weight, _TINY), jnp.inf)
        )
        by = jnp.clip(room, 0, cap[face] - extents[face])
        return extents.at[face].add(by), jnp.maximum(left - by * weight, 0)

    return lax.fori_loop(0, extents.size, move, (extents, left))[0]


def _cheap_first(
    cuts: Cuts, low: Float[Array, " F"], cap: Float[Array, " F"]
) -> Float[Array, " F"]:
    """Returns `low`, with faces at their caps that cost next to nothing there."""
    left = jnp.maximum(cuts.left(low), 0)
    share = cuts.weight * (cap - low) / jnp.maximum(left, _TINY)[:, None]
    cost = jnp.max(share, axis=0)
    order = jnp.argsort(cost)
    cheap = jnp.zeros_like(low, bool).at[order].set(jnp.cumsum(cost[order]) <= _CHEAP)
    return jnp.where(cheap, cap, low)


def fill_fairly(
    cuts: Cuts, cap: Float[Array, " F"], fairness: float
) -> Float[Array, " F"]:
    """Returns extents that nearly maximise the sum of U(edge) under the cuts.

    U is the alpha-fair utility, U'(e) = e^-fairness: 0 gives the sum of the edges, 1
    their log-volume, and a large fairness the least edge. The dual problem is solved by
    multiplicative steps on the prices of the cuts; what they ask for is scaled back
    until it keeps all cuts.

    Source: Mo and Walrand, "Fair end-to-end window-based congestion control", IEEE/ACM
    Transactions on Networking 8 (2000).
    """
    features = cap.size // 2
    caps = cap.reshape(2, features)
    exponent = max(fairness, 0.05)

    def wanted(prices: Array) -> Array:
        cost = (prices @ cuts.weight).reshape(2, features)
        edge = (cost + _TINY) ** (-1 / exponent)
        first = jnp.argmin(cost, axis=0)
        cheap = jnp.arange(2)[:, None] == first
        near = jnp.minimum(edge, caps)
        rest = jnp.sum(jnp.where(cheap, near, 0), axis=0)
        far = jnp.clip(edge - rest, 0, caps)
        return jnp.where(cheap, near, far).reshape(-1)

    budget = jnp.maximum(cuts.budget, _TINY)

    def step(index: Array, carry: tuple[Array, Array, Array]) -> Any:
        log_prices, best, best_worth = carry
        extents = wanted(jnp.exp(log_prices))
        used = cuts.weight @ extents / budget
        scale = 1 / jnp.maximum(jnp.max(used), 1)
        worth = _utility((scale * extents).reshape(2, features).sum(0), exponent)
        better = worth > best_worth
        best = jnp.where(better, scale * extents, best)
        best_worth = jnp.maximum(worth, best_worth)
        rate = 2 * exponent / (1 + index / 20)
        move = jnp.clip(jnp.log(used + 1e-6), -1, 1)
        return log_prices + rate * move, best, best_worth

    prices = -jnp.log(jnp.full_like(budget, jnp.min(budget)))
    carry = (prices, jnp.zeros_like(cap), jnp.asarray(-jnp.inf, cap.dtype))
    return lax.fori_loop(0, _DUAL_STEPS, step, carry)[1]


def _utility(edges: Float[Array, " d"], fairness: float) -> Float[Array, ""]:
    """Returns the sum of U(edge), or a monotone function of it for a large fairness."""
    if fairness < 1:
        return jnp.sum(edges ** (1 - fairness))
    if fairness == 1:
        return jnp.sum(jnp.log(edges + _TINY))
    return -jax.nn.logsumexp((1 - fairness) * jnp.log(edges + _TINY))
