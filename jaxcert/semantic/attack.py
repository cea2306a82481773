"""Nearest violations of an input family, by lattices of parameters.

A family has two or three parameters, so a lattice sees all of it: the violation that is
nearest in the lattice of the whole range gives the range of the next, finer lattice.
That runs in float32; what it found is drawn towards the centre along its ray and
decided in float64.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxcert.box import outward
from jaxcert.branch.questions import Questions
from jaxcert.spec import Spec
from jaxcert.trace.program import Program
from jaxcert.witness.judge import point_slack
from jaxcert.witness.rays import nearest_on_ray

_POINTS = 400
_ZOOMS = 3
_HALVINGS = 40
# How far beyond a float32 violation float64 may look for one along the same ray.
_STRETCH = (1.0, 1 + 2.0**-18, 1 + 2.0**-12, 1 + 2.0**-8)


def lattice(k: int, points: int) -> np.ndarray:
    """Returns about that many points of [-1, 1]^k, its centre and corners with them."""
    side = max(3, round(points ** (1 / k)) // 2 * 2 + 1)
    axis = np.linspace(-1, 1, side)
    return np.stack(np.meshgrid(*[axis] * k, indexing="ij"), -1).reshape(-1, k)


def spread(
    questions: Questions, steps: Float[Array, " k"], radius: Float[Array, ""]
) -> Float[Array, " k"]:
    """Returns the parameters at a point of [-1, 1]^k in the box of a radius."""
    rate = jnp.where(steps < 0, questions.rates.lower, questions.rates.upper)
    return questions.domain.project(questions.centre + radius * steps * rate)


@functools.partial(jax.jit, static_argnames=("program",))
def nearest_violations(
    program: Program,
    params: tuple[Any, Any],
    questions: tuple[Questions, Questions],
    radius: Float[Array, " n"],
) -> tuple[Float[Array, " n"], Float[Array, "n k"]]:
    """Returns distance (inf: none found) and parameters of a violation per question.

    Args:
      program: of `f((params, x), theta)`.
      params: weights in float32 and in float64.
      questions: the same in float32 and in float64.
      radius: where to look, (n,), float64.
    """
    single, double = questions
    steps = lattice(len(single.centre), _POINTS)

    def one(arguments: tuple[Any, ...]) -> tuple[Array, Array]:
        (x32, spec32), (x64, spec64), slack, radius = arguments
        guess = _zoom(program, (params[0], x32), single, spec32, steps, radius)
        values = program.prepare((params[1], x64), jnp.float64)

        def at(t: Array) -> Array:
            ray = t * (guess.astype(jnp.float64) - double.centre)
            return double.domain.project(double.centre + ray)

        def violates(point: Array) -> Array:
            bar = slack
            if program.jumps:  # by more than the slack of a whole box tells
                here = point_slack(program, values, spec64, point)
                bar = jnp.maximum(slack, here)
            y = program.evaluate_prepared(values, point)
            return spec64.margin(spec64.values(y)) <= -bar

        # Where the centre itself violates there is nothing to prove.
        tries = jnp.asarray((0.0, *_STRETCH), jnp.float64)
        t, point, found = nearest_on_ray(at, violates, tries, _HALVINGS)
        distance = double.rates.distance(double.centre, point)
        distance = jnp.where(t == 0, 0, outward(distance))
        return jnp.where(found, distance, jnp.inf), point

    each = tuple((q.x, q.spec) for q in questions)
    return lax.map(one, (*each, double.slack, radius), batch_size=8)


def _zoom(
    program: Program,
    params: tuple[Any, Any],
    questions: Questions,
    spec: Spec,
    lattice_steps: np.ndarray,
    radius: Float[Array, ""],
) -> Float[Array, " k"]:
    """Returns the nearest violation of the last lattice that had one, in float32.

    The farthest corner where none had.
    """
    values = program.prepare(params, jnp.float32)
    steps = jnp.asarray(lattice_steps, jnp.float32)

    def finer(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        reach, best = state
        points = jax.vmap(spread, (None, 0, None))(questions, steps, reach)
        y = jax.vmap(functools.partial(program.evaluate_prepared, values))(points)
        margin = jax.vmap(lambda y: spec.margin(spec.values(y)))(y)
        away = jax.vmap(questions.rates.distance, (None, 0))(questions.centre, points)
        away = jnp.where(margin <= 0, away, jnp.inf)
        nearest = jnp.argmin(away)
        closer = away[nearest] < reach
        return (
            jnp.where(closer, away[nearest], reach),
            jnp.where(jnp.isfinite(away[nearest]), points[nearest], best),
        )

    reach = radius.astype(jnp.float32)
    start = reach, spread(questions, steps[-1], reach)
    return lax.fori_loop(0, _ZOOMS, finer, start)[1]
