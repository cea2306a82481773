"""The compiled stages of a certification, each one call for a whole batch of inputs.

prove (float32) -> refute (float32) -> reprove (float64) -> confirm (float64). The first
two are heuristics that say where to look; only what the last two establish is reported.
Every stage takes params as arguments and the network's function as a static one, so
that one compilation per batch size serves every network of the same architecture.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxcert.ball import enclosing
from jaxcert.bounds.ibp import propagate
from jaxcert.bounds.rounding import float64_slack
from jaxcert.box import Box, Rates, outward
from jaxcert.oracle.bounds import BoundOracle
from jaxcert.search.apothem import Query, SearchOptions, SearchState, search_apothem
from jaxcert.spec import Spec
from jaxcert.trace.tracing import program_of
from jaxcert.witness.attack import AttackOracle
from jaxcert.witness.rays import nearest_on_ray

# How much of the radius the re-proof gives up, step by step, until float64 agrees.
_SHRINK = (0.0, 2.0**-24, 2.0**-20, 2.0**-16, 2.0**-12, 2.0**-8, 2.0**-4, 0.5, 1.0)
# How far beyond a float32 witness float64 may look for one along the same ray.
_STRETCH = (1.0, 1 + 2.0**-18, 1 + 2.0**-14, 1 + 2.0**-10, 1 + 2.0**-6)
_HALVINGS = 40


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Task:
    """A batch of inputs and what is asked of them.

    Attributes:
      x: inputs, shape (batch, *d).
      label: the class that must win, shape (batch,).
      domain: box of legal inputs, shape d.
      rates: rates of the faces, shape d.
      required_margin: scalar.
    """

    x: Float[Array, "batch *d"]
    label: Int[Array, " batch"]
    domain: Box
    rates: Rates
    required_margin: Float[Array, ""]

    def queries(self, num_classes: int) -> tuple[Query, Query]:
        """Returns the batch of queries, and their axes for `jax.vmap`."""
        dtype = self.x.dtype

        def spec(label: Array) -> Spec:
            return Spec.classification(label, num_classes, self.required_margin, dtype)

        specs = jax.vmap(spec)(self.label)
        # A cast to float32 may have moved x out of the domain by a rounding.
        x = jnp.clip(self.x, self.domain.lo, self.domain.hi)
        batch = Query(x, self.domain, self.rates, specs)
        return batch, Query(0, None, None, 0)  # type: ignore[arg-type]


@functools.partial(jax.jit, static_argnames=("oracle", "options", "num_classes"))
def search(
    oracle: BoundOracle | AttackOracle,
    options: SearchOptions,
    num_classes: int,
    params: Any,
    task: Task,
    floor: Float[Array, " batch"],
    tolerance: Float[Array, ""],
) -> SearchState:
    """Returns the states of `search_apothem` for the whole batch."""
    queries, axes = task.queries(num_classes)
    one = functools.partial(search_apothem, oracle, options)
    many = jax.vmap(one, in_axes=(None, axes, 0, None))
    return many(params, queries, floor, tolerance)


@functools.partial(jax.jit, static_argnames=("oracle", "num_classes"))
def reprove(
    oracle: BoundOracle,
    num_classes: int,
    params: Any,
    task: Task,
    radius: Float[Array, " batch"],
) -> tuple[Float[Array, " batch"], Box]:
    """Returns the proved radius (-1: none) and box of every input, in float64.

    Tries the given radius, then ever smaller ones down to 0. The box is rounded outward
    so that it contains the exact ball of the radius that is returned, and it is that
    box which is proved. Of another norm than "linf" the ball is proved, and the box is
    the one around it.
    """
    queries, axes = task.queries(num_classes)

    def one(query: Query, radius: Array) -> tuple[Array, Box]:
        nothing = jnp.full_like(query.x, jnp.nan)
        tries = jnp.maximum(radius, 0) * (1 - jnp.asarray(_SHRINK, query.x.dtype))

        def attempt(state: tuple[Array, Array, Box]) -> tuple[Array, Array, Box]:
            index, _, _ = state
            region = query.region(tries[index], outward=True)
            proved = oracle(params, region, query.spec, query.x).proved
            box = enclosing(region)
            proved = proved & box.contains(query.x)
            best = jnp.where(proved, tries[index], -1.0)
            kept = jax.tree.map(lambda v: jnp.where(proved, v, jnp.nan), box)
            return index + 1, best, kept

        def unproved(state: tuple[Array, Array, Box]) -> Array:
            index, best, _ = state
            return (best < 0) & (index < len(_SHRINK))

        start = jnp.int32(0), jnp.asarray(-1.0, query.x.dtype), Box(nothing, nothing)
        _, best, box = lax.while_loop(unproved, attempt, start)
        return best, box

    return jax.vmap(one, in_axes=(axes, 0))(queries, radius)


@functools.partial(jax.jit, static_argnames=("f", "num_classes"))
def confirm(
    f: Any,
    num_classes: int,
    params: Any,
    task: Task,
    witness: Float[Array, "batch *d"],
) -> tuple[Float[Array, " batch"], Float[Array, "batch *d"]]:
    """Returns distance (inf: none) and witness, decided in float64.

    The point counts only if its float64 margin is below minus the rounding slack. It is
    then drawn towards x along the ray between them, as far as that stays true.
    """
    queries, axes = task.queries(num_classes)
    program = program_of(f, params, task.x[0])
    values = program.prepare(params, task.x.dtype)

    def one(query: Query, witness: Array) -> tuple[Array, Array]:
        spec, domain = query.spec, query.domain
        stretch = jnp.asarray(_STRETCH, query.x.dtype)

        def at(t: Array) -> Array:
            point = domain.project(query.x + t * (witness - query.x))
            return query.rates.pin(query.x, point)

        def violates(point: Array) -> Array:
            here = propagate(program, values, Box.point(point))
            rows = spec.coefficients
            slack = float64_slack(program, values, here, rows, lines=False)
            y = program.evaluate_prepared(values, point)
            return spec.margin(spec.values(y)) <= -slack

        _, point, found = nearest_on_ray(at, violates, stretch, _HALVINGS)
        distance = outward(query.rates.distance(query.x, point), point.size)
        return jnp.where(found, distance, jnp.inf), point

    return jax.vmap(one, in_axes=(axes, 0))(queries, witness)
