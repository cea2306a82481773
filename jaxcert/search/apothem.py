"""Apothem search: the largest ball that an oracle proves, or the least it refutes.

One `lax.while_loop` for a whole batch of inputs: every step asks the oracle about K
candidate radii per input at once and narrows the window between the answers K + 1 fold.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxcert.ball import Region, region_of
from jaxcert.box import Box, Family, Rates
from jaxcert.errors import InputError
from jaxcert.oracle.protocol import Oracle
from jaxcert.spec import Spec


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """How the window is narrowed.

    Attributes:
      candidates: K, radii per input and step, >= 1.
      max_steps: most steps, whatever the tolerance.
      goal: "prove" narrows down the largest PROVED radius, "refute" the least REFUTED
        one, "both" the gap between them (for complete oracles).
    """

    candidates: int = 8
    max_steps: int = 40
    goal: Literal["prove", "refute", "both"] = "both"

    def __post_init__(self) -> None:
        for name in ("candidates", "max_steps"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"SearchOptions.{name} is {getattr(self, name)}; it must be >= 1"
                )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Query:
    """One input whose apothem is asked for; batched with a leading axis.

    Attributes:
      x: the input.
      domain: box of legal inputs.
      rates: how fast each face moves with the radius.
      spec: what must hold.
    """

    x: Float[Array, "*d"]
    domain: Box
    rates: Rates
    spec: Spec

    def region(self, radius: Float[Array, ""], *, outward: bool = False) -> Region:
        """Returns the box or ball of this radius around x, clipped to the domain."""
        family = Family(Box.point(self.x), self.domain, self.rates)
        return region_of(family, radius, outward=outward)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SearchState:
    """The bracket of one input, and the window in which it is being narrowed.

    Attributes:
      lower: largest radius that the oracle PROVED (-1: none yet).
      upper: least distance of a witness (inf: none yet).
      witness: that witness; NaN if none.
      low: no radius above it was accepted or refuted as the goal asks; the window's
        lower end.
      high: the window's upper end.
      calls: boxes the oracle was asked about.
    """

    lower: Float[Array, ""]
    upper: Float[Array, ""]
    witness: Float[Array, "*d"]
    low: Float[Array, ""]
    high: Float[Array, ""]
    calls: Int[Array, ""]


def start_state(query: Query, floor: Float[Array, ""]) -> SearchState:
    """Returns the state before the first step, to search radii above `floor`."""
    reach = query.rates.reach(query.x, query.domain)
    dtype = query.x.dtype
    return SearchState(
        lower=jnp.full((), -1.0, dtype),
        upper=jnp.full((), jnp.inf, dtype),
        witness=jnp.full_like(query.x, jnp.nan),
        low=jnp.minimum(floor, reach).astype(dtype),
        high=reach.astype(dtype),
        calls=jnp.zeros((), jnp.int32),
    )


def step(
    oracle: Oracle,
    options: SearchOptions,
    params: Any,
    query: Query,
    state: SearchState,
    radii: Float[Array, " K"],
) -> SearchState:
    """Returns the state after asking the oracle about these radii (increasing)."""
    boxes = jax.vmap(query.region)(radii)
    ask = jax.vmap(oracle, in_axes=(None, 0, None, None))
    verdicts = ask(params, boxes, query.spec, state.witness)
    proved, refuted = verdicts.proved, verdicts.refuted
    lower = jnp.maximum(state.lower, jnp.max(jnp.where(proved, radii, -1.0)))

    distance = jax.vmap(query.rates.distance, in_axes=(None, 0))
    reached = jnp.where(refuted, distance(query.x, verdicts.witness), jnp.inf)
    nearest = jnp.argmin(reached)
    closer = reached[nearest] < state.upper
    upper = jnp.where(closer, reached[nearest], state.upper)
    witness = jnp.where(closer, verdicts.witness[nearest], state.witness)

    if options.goal == "prove":
        low = jnp.maximum(state.low, lower)
        open_above = jnp.where((radii > low) & ~proved, radii, jnp.inf)
        high = jnp.minimum(state.high, jnp.min(open_above))
    elif options.goal == "refute":
        high = jnp.minimum(state.high, upper)
        open_below = jnp.where((radii < high) & ~refuted, radii, -jnp.inf)
        low = jnp.minimum(jnp.maximum(state.low, jnp.max(open_below)), high)
    else:
        low = jnp.maximum(state.low, lower)
        high = jnp.minimum(state.high, upper)
    calls = state.calls + radii.size
    return SearchState(lower, upper, witness, low, high, calls)


def search_apothem(
    oracle: Oracle,
    options: SearchOptions,
    params: Any,
    query: Query,
    floor: Float[Array, ""],
    tolerance: Float[Array, ""],
) -> SearchState:
    """Returns the final state for one input; batch with `jax.vmap`.

    The first step asks about the whole reach (beyond which the ball fills the domain)
    and about K - 1 radii below it; each later one about K radii inside the window.
    Ends once the window is no wider than the tolerance, or after `max_steps`.

    Args:
      oracle: what is asked.
      options: see `SearchOptions`.
      params: the network's weights.
      query: the input.
      floor: radius from which on to search, >= 0.
      tolerance: width of the window at the end, > 0, in radius units.
    """
    count = options.candidates
    fractions = jnp.arange(1, count + 1, dtype=query.x.dtype)

    # The first step is one of the loop: outside of it the oracle, which is nearly all
    # of the program, would be compiled once more.
    def proceed(carry: tuple[Array, SearchState]) -> tuple[Array, SearchState]:
        index, state = carry
        parts = jnp.where(index == 0, count, count + 1)
        radii = state.low + (state.high - state.low) * fractions / parts
        return index + 1, step(oracle, options, params, query, state, radii)

    def unfinished(carry: tuple[Array, SearchState]) -> Array:
        index, state = carry
        wide = state.high - state.low > tolerance
        return (index == 0) | (wide & (index < options.max_steps))

    start = jnp.int32(0), start_state(query, floor)
    return lax.while_loop(unfinished, proceed, start)[1]
