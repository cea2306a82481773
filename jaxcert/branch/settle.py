"""Solving parked leaves on the host by linear programming, and its like over balls."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxcert.ball import Ball, Region
from jaxcert.bounds.alpha import (
    Layout,
    Multipliers,
    Problem,
    charged_bound,
    narrowed,
)
from jaxcert.box import distances
from jaxcert.branch import ball_program, linear_program
from jaxcert.branch.instances import (
    ApothemTask,
    Instances,
    Known,
    Subproblems,
    ball,
)
from jaxcert.branch.linear_program import (
    LeafProof,
    affine_maps,
    is_piecewise_linear,
)
from jaxcert.branch.search import Search
from jaxcert.branch.signs import BranchOptions, resume_leaves
from jaxcert.memory import free_bytes
from jaxcert.model import Model

# How often the host solves one leaf before its input is given up.
_VISITS = 4


def _has_room(layout: Layout) -> bool:
    """Returns whether the affine maps of a leaf fit: neurons times the widest value."""
    program = layout.program
    widest = max([program.input_size, *(node.size for node in program.nodes)])
    return 4 * 8 * layout.size * widest < free_bytes() // 2


@functools.partial(jax.jit, static_argnames=("layout",))
def _posed(
    layout: Layout, model: Model, instances: Instances, boxes: Region, leaf: Subproblems
) -> tuple[Problem, tuple[Array, ...]]:
    """Returns the problem of a leaf, and its affine maps; see `affine_maps`."""
    problem = narrowed(instances.problem(leaf.instance, boxes), leaf.ranges)
    return problem, affine_maps(layout, model.double, problem, leaf.signs)


@functools.partial(jax.jit, static_argnames=("layout",))
def _is_proved(
    layout: Layout,
    model: Model,
    problem: Problem,
    signs: Int[Array, " N"],
    multipliers: Multipliers,
    charges: tuple[Float[Array, " N"], Float[Array, ""]],
) -> Bool[Array, ""]:
    """Returns whether these multipliers, float64, prove a leaf.

    The charges are the cost of a unit of each neuron's beta, and the slack.
    """
    values = model.values(jnp.float64)
    problem, (cost, slack) = dataclasses.replace(problem, cuts={}), charges
    bound, charged, _ = charged_bound(layout, values, problem, signs, multipliers, cost)
    return bound > slack + charged


def settle_leaves(
    layout: Layout,
    options: BranchOptions,
    model: Model,
    instances: Instances,
    search: Search,
    task: ApothemTask,
    visits: dict[bytes, int],
    deadline: float = np.inf,
) -> Search:
    """Returns the search after the parked leaves were solved by linear programming.

    If that takes longer than the deadline they stay parked, which is to stay open.

    Args:
      layout: the ReLUs of the program.
      options: how branch and bound runs.
      model: the network.
      instances, search: see there.
      task: what branch and bound started from.
      visits: how often each leaf was here, by its signs; counted on.
      deadline: `time.monotonic()` after which no further leaf is solved.
    """
    state: Known = search.known
    leaves = jax.tree.map(np.array, jax.device_get(state.leaves))
    count, capacity = int(state.leaf_count), len(leaves.tries)
    radius, still = np.array(state.radius), np.array(state.open)
    stuck, upper = np.array(state.stuck), np.asarray(state.upper)
    slacks, split_cost = np.asarray(instances.slack), np.asarray(instances.split_cost)
    shape = task.family.core.lo.shape[1:]
    points = np.zeros((capacity, *shape))
    has_point, wanted = np.zeros(capacity, bool), np.zeros(capacity, bool)
    of_box = task.family.rates.norm == "linf"
    nearest = (linear_program if of_box else ball_program).nearest_violation
    solvable = is_piecewise_linear(layout.program) and _has_room(layout)
    room = int(search.count) + capacity <= search.capacity
    for k in range(count):
        instance = int(leaves.instance[k])
        j = int(instances.owner[instance])
        if not still[j]:
            continue
        if time.monotonic() >= deadline:
            return search
        key = leaves.instance[k].tobytes() + leaves.signs[k].tobytes()
        visits[key] = visits.get(key, 0) + 1
        if not solvable or not room or visits[key] > _VISITS:
            stuck[j], still[j] = True, False
            continue
        leaf = jax.tree.map(lambda v, k=k: v[k], leaves)
        problem, maps = jax.device_get(
            _posed(layout, model, instances, state.box, leaf)
        )
        fixed = leaves.signs[k]
        slack = float(slacks[j])
        family = jax.tree.map(lambda v, j=j: v[j], task.family)

        def proof(j: int = j, maps: Any = maps, fixed: Any = fixed) -> LeafProof | None:
            regions = jax.device_get(ball(task.family, np.maximum(radius, 0)))
            region = jax.tree.map(lambda v: v[j], regions)
            if isinstance(region, Ball):
                return ball_program.proving_multipliers(maps, fixed, region, deadline)
            return linear_program.proving_multipliers(maps, fixed, region, deadline)

        found = proof()
        # Only a leaf that the box violates needs the slower search for where.
        if found is None or found.bound <= 2 * slack:
            point = nearest(maps, fixed, family, slack, deadline)
            tie = point is None
            if tie:
                # Where no point is beyond the slack one may still be exactly at 0: it
                # becomes a suspect, and lowers no radius before it was judged.
                point = nearest(maps, fixed, family, 0.0, deadline)
            if point is not None:
                domain = family.domain
                points[k] = np.clip(point.reshape(shape), domain.lo, domain.hi)
                away = float(distances(family, points[k][None])[0])
                has_point[k] = away < upper[j]
                if not tie:
                    radius[j] = min(radius[j], away - float(instances.width))
                    found = proof()
        if found is not None:
            # The stack holds float32, whose multipliers may be too coarse for what is
            # tight; a certificate can hold no others.
            exact = Multipliers(leaves.multipliers.slope[k], found.beta, found.row)
            charges = split_cost[j], slacks[j]
            if not options.record and bool(
                _is_proved(layout, model, problem, fixed, exact, charges)
            ):
                continue
            leaves.multipliers.split[k] = found.beta
            leaves.multipliers.row[k] = found.row
            # The program knows of no cuts: in a leaf they add nothing.
            for multipliers in leaves.multipliers.cut.values():
                multipliers[k] = 0
        leaves.tries[k] = options.patience
        wanted[k] = True
    search = search.learned(stuck=stuck, open=still)
    if not room:
        # Every parked input was given up; pushing would write over open subproblems.
        return search.learned(leaf_count=jnp.zeros_like(state.leaf_count))
    return resume_leaves(
        layout, model, instances, search, leaves, points, has_point, wanted
    )
