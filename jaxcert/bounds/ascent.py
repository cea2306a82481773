"""Optimising the multipliers of bounds: Adam, projected to where bounds stay valid.

Any multipliers in their range give a valid bound, so nothing here needs to be believed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxcert.bounds.alpha import Layout, Multipliers, Problem, subproblem_bound
from jaxcert.trace.equations import Values

Evaluate = Callable[[Any], tuple[tuple[Array, Any], Any]]
"""Multipliers -> ((objective, anything), gradient of the objective's sum)."""


def climb(
    evaluate: Evaluate,
    start: Any,
    rates_of: Callable[[Any], Any],
    project: Callable[[Any], Any],
    decay: float,
    iterations: int | Int[Array, ""],
) -> tuple[Any, Array]:
    """Returns the best multipliers that Adam meets, of each objective, and these.

    The bound stands in the program once: compiling it is what takes long.

    Args:
      evaluate: gives objectives, shape () or (rows,), to be maximised.
      start: a pytree; with row objectives its leaves are (rows, ...).
      rates_of: first step per leaf, a pytree like `start`, from what `evaluate` gives
        beside the objectives at the start.
      project: puts multipliers back where they are valid.
      decay: of all rates, per move.
      iterations: how often to evaluate, >= 1.
    """
    # Asked for its shapes first, it is traced once all the same.
    evaluate = jax.jit(evaluate)
    zeros = jax.tree.map(jnp.zeros_like, start)

    def step(index: Array, carry: Any) -> Any:
        current, rates, mean, square, best, best_value = carry
        (value, found), gradient = evaluate(current)
        better = value > best_value

        def keep(new: Array, old: Array) -> Array:
            where = better.reshape(better.shape + (1,) * (new.ndim - better.ndim))
            return jnp.where(where, new, old)

        best = jax.tree.map(keep, current, best)
        best_value = jnp.maximum(value, best_value)
        rates = jax.tree.map(
            lambda new, old: jnp.where(index == 0, new, old), rates_of(found), rates
        )
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
        square = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, square, gradient)
        grown, squared = 1 - 0.9 ** (index + 1.0), 1 - 0.99 ** (index + 1.0)
        fade = decay**index

        def move(z: Array, m: Array, v: Array, rate: Array) -> Array:
            return z + fade * rate * (m / grown) / (jnp.sqrt(v / squared) + 1e-12)

        current = project(jax.tree.map(move, current, mean, square, rates))
        return current, rates, mean, square, best, best_value

    value = jax.eval_shape(evaluate, start)[0][0]
    worst = jnp.full(value.shape, -jnp.inf, value.dtype)
    carry = (start, zeros, zeros, zeros, start, worst)
    return lax.fori_loop(0, iterations, step, carry)[4:]


@dataclasses.dataclass(frozen=True)
class AscentOptions:
    """Projected Adam on the multipliers of a subproblem.

    Attributes:
      iterations: evaluations of the bound, >= 1; within a program it may be an array.
      slope_rate: first step of the slopes.
      split_rate: first step of the betas, relative to the coefficients they act on.
      row_rate: first step of the row weights.
      cut_rate: first step of the multipliers of cuts, relative to the coefficients of
        their layer.
      decay: of all rates, per iteration.
    """

    iterations: int | Int[Array, ""] = 12
    slope_rate: float = 0.2
    split_rate: float = 0.2
    row_rate: float = 0.2
    cut_rate: float = 0.05
    decay: float = 0.95


def ascend(
    layout: Layout,
    values: Values,
    problem: Problem,
    signs: Int[Array, " N"],
    start: Multipliers,
    options: AscentOptions,
    pace: Float[Array, ""] | float = 1.0,
) -> Multipliers:
    """Returns multipliers whose bound is at least that of the start.

    All in the float type of the problem. The best iterate is kept; `pace` scales all
    rates, to converge further from where an earlier ascent ended.
    """

    def bound(multipliers: Multipliers) -> tuple[Array, Array]:
        value, (_, outputs) = subproblem_bound(
            layout, values, problem, signs, multipliers
        )
        return value, outputs

    def rates_of(outputs: Array) -> Multipliers:
        scale = jnp.mean(jnp.abs(outputs)) + 1e-6
        by_layer = layout.parts(outputs)

        def cut_rate(layer: int, cut: Array) -> Array:
            size = jnp.mean(jnp.abs(by_layer[layer])) + 1e-6
            return jnp.full_like(cut, options.cut_rate) * size * pace

        return Multipliers(
            slope=jnp.full_like(start.slope, options.slope_rate) * pace,
            split=jnp.full_like(start.split, options.split_rate) * scale * pace,
            row=jnp.full_like(start.row, options.row_rate) * pace,
            cut={i: cut_rate(i, cut) for i, cut in start.cut.items()},
        )

    def project(m: Multipliers) -> Multipliers:
        cut = {i: jnp.maximum(c, 0) for i, c in m.cut.items()}
        return Multipliers(jnp.clip(m.slope, 0, 1), jnp.maximum(m.split, 0), m.row, cut)

    evaluate = jax.value_and_grad(bound, has_aux=True)
    found = climb(evaluate, start, rates_of, project, options.decay, options.iterations)
    return found[0]
