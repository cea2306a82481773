"""Which sign a subproblem is split by, and what its children start from.

Scores are those of Bunel et al. 2020 (JMLR 21, "Branch and bound for piecewise linear
neural network verification"); looking ahead at the bounds of children is the filtered
smart branching of De Palma et al. 2021 ("Improved branch and bound for neural network
verification via Lagrangian decomposition").
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxcert.bounds.alpha import (
    Layout,
    Multipliers,
    Problem,
    Ranges,
    restricted,
    subproblem_bound,
)
from jaxcert.bounds.cuts import cast_floats
from jaxcert.box import Box
from jaxcert.trace.equations import Values

# Where ranges follow the signs a split narrows all later layers too: how much more a
# neuron counts per layer.
_LAYER_WEIGHT, _LAYERS = 4.0, 3
# What a coefficient > 0 counts for, beside one < 0.
_LOWER_WEIGHT = 0.1


def scores(
    layout: Layout,
    ranges: Ranges,
    signs: Int[Array, " N"],
    weight: Float[Array, " N"],
    *,
    narrowing: bool,
) -> tuple[Float[Array, " N"], Bool[Array, " N"]]:
    """Returns weight times the intercept of a free neuron's upper line, and the free.

    The intercept u |l| / (u - l) is what that line costs at worst. A neuron that is
    decided has score -1.

    Args:
      layout: the ReLUs of the program.
      ranges: of their inputs.
      signs: of the subproblem.
      weight: of every neuron.
      narrowing: whether signs narrow the ranges of later layers. Neurons of earlier
        layers count more then, for what they cost there.
    """
    gap, unstable, factor = {}, {}, {}
    last = len(layout.nodes) - 1
    for layer, node in enumerate(layout.nodes):
        z = ranges[node.inputs[0]]
        free = node.activation.undecided(z.lo, z.hi)
        gap[node.output] = chord_height(z, free)
        unstable[node.output] = free
        earlier = _LAYER_WEIGHT ** min(last - layer, _LAYERS) if narrowing else 1.0
        factor[node.output] = jnp.full(node.shape, earlier)
    free = layout.join(unstable) & (signs == 0)
    cost = weight * layout.join(gap) * layout.join(factor)
    return jnp.where(free, cost + 1e-30, -1.0), free


def neuron_to_split(
    layout: Layout,
    ranges: Ranges,
    signs: Int[Array, " N"],
    at_outputs: Float[Array, " N"],
    *,
    narrowing: bool,
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """Returns the neuron of the greatest score, and whether one is free.

    Args:
      layout, ranges, signs, narrowing: as of `scores`.
      at_outputs: coefficients of the bound at the outputs of the neurons.
    """
    cut = restricted(layout, ranges, signs)
    score, free = scores(layout, cut, signs, weight(at_outputs), narrowing=narrowing)
    return jnp.argmax(score), jnp.any(free)


def look_ahead(
    layout: Layout,
    values: Values,
    problem: Problem,
    signs: Int[Array, " N"],
    multipliers: Multipliers,
    at_outputs: Float[Array, " N"],
    candidates: int,
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """Returns the neuron whose children gain most at once, and whether one is free.

    Both children of the neurons of the best scores are bounded with the multipliers
    that they start from; what counts is the product of what they gain.

    Args:
      layout, signs: as of `scores`.
      values: prepared parameters, float32: nothing here needs to be believed.
      problem: of the subproblem, of any float type.
      multipliers: of its bound.
      at_outputs: coefficients of that bound at the outputs of the neurons.
      candidates: how many neurons are tried.
    """
    cut = restricted(layout, problem.ranges, signs)
    score, free = scores(layout, cut, signs, weight(at_outputs), narrowing=False)
    best, neurons = lax.top_k(score, min(candidates, layout.size))
    problem = problem.cast(jnp.float32)
    multipliers = cast_floats(multipliers, jnp.float32)
    bound = functools.partial(subproblem_bound, layout, values, problem)
    now, _ = bound(signs, multipliers)

    def value(neuron: Array) -> Array:
        def gain(sign: Array, start: Array) -> Array:
            split = multipliers.split.at[neuron].set(start)
            child = dataclasses.replace(multipliers, split=split)
            return bound(signs.at[neuron].set(sign), child)[0] - now

        starts = kinks(multipliers.slope[neuron], at_outputs[neuron])
        starts = starts.astype(jnp.float32)
        gains = jax.vmap(gain)(jnp.array([1, -1], signs.dtype), starts)
        return worth(gains, now)

    found = jnp.where(best > 0, lax.map(value, neurons), -jnp.inf)
    return neurons[jnp.argmax(found)], jnp.any(free)


def kinks(
    slope: Float[Array, "*n"], at_output: Float[Array, "*n"]
) -> Float[Array, "*n 2"]:
    """Returns the beta that children (+ and -) start from.

    A ReLU with coefficient v > 0 has the line alpha z below it. Where z >= 0 is known
    z takes its place, and beta = (1 - alpha) v leaves the bound as it was; where z <= 0
    is known 0 does, and beta = alpha v. Without, a child may start far below its parent
    and not come back. What takes the place of a chord, where v < 0, is no less than it
    between l and u, with beta = 0.

    Args:
      slope: alpha, clipped to [0, 1] here.
      at_output: v.
    """
    slope = jnp.clip(slope, 0, 1).astype(at_output.dtype)
    rise = jnp.maximum(at_output, 0)
    return jnp.stack([rise * (1 - slope), rise * slope], axis=-1)


def chord_height(z: Box, free: Bool[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns how far the chord of a ReLU is above it at 0; 0 where it is not free."""
    return jnp.where(free, -z.lo * z.hi / (z.hi - z.lo), 0.0)


def worth(gains: Float[Array, "2 *n"], bound: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns the product of what both children gain on the bound of their parent.

    Where one gains nothing the other still tells neurons apart.
    """
    return jnp.prod(jnp.maximum(gains, 1e-6 * (1 + jnp.abs(bound))), axis=0)


def weight(at_outputs: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns what the upper line of a neuron counts for, by its coefficients."""
    return jnp.maximum(-at_outputs, 0) + _LOWER_WEIGHT * jnp.maximum(at_outputs, 0)
