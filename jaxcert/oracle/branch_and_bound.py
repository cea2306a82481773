"""Branch and bound over the signs of ReLU inputs, for many instances in one program.

One stack of fixed capacity holds the open subproblems of all instances. A step pops the
top block, bounds it (multipliers optimised in float32, the bound decided in float64),
drops what is proved, and pushes two children of everything else. A `lax.while_loop`
runs steps until nothing is open, the stack is full, or a chunk is over; the host only
looks in between chunks.

Nothing is ever dropped that was not proved, except subproblems of an input that is
closed: refuted (it needs no proof any more) or given up (it is answered UNKNOWN). A
subproblem in which every sign is fixed, a leaf, is a linear program and is proved by
converged multipliers alone; if they do not converge it is parked for the host to solve.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxcert.bounds.alpha import (
    AscentOptions,
    Layout,
    Multipliers,
    Problem,
    Ranges,
    TightenOptions,
    ascend,
    restricted,
    subproblem_bound,
)
from jaxcert.box import Box, Rates
from jaxcert.oracle.input_split import InputSplitOptions
from jaxcert.program import Values


@dataclasses.dataclass(frozen=True)
class BranchOptions:
    """How branch and bound runs.

    Attributes:
      block: subproblems bounded per step; 0 for 256, and 64 above 256 neurons.
      steps: most steps per call (a chunk).
      patience: how often a leaf is pushed back before it is parked.
      parked: leaves that end a chunk, so that the host solves them.
      ascent: how multipliers of subproblems are optimised; 0 iterations stand for 12
        with one hidden layer and 30 with more: deeper, subproblems that are not
        optimised well enough multiply (BUILD_NOTES.md, 2026-11-20).
      root: how those of the first subproblems are, which all others start from.
      tighten: how layer ranges are tightened before branching.
      inputs: how the input box is split, where that is done instead.
      narrow: inputs of at most this many features are split themselves; so are those
        of networks with smooth activations, of any width.
    """

    block: int = 0
    steps: int = 50
    patience: int = 2
    parked: int = 32
    ascent: AscentOptions = AscentOptions(iterations=0)
    root: AscentOptions = AscentOptions(iterations=100, decay=0.98)
    tighten: TightenOptions = TightenOptions()
    inputs: InputSplitOptions = InputSplitOptions()
    narrow: int = 8

    def resolved(self, layout: Layout) -> BranchOptions:
        """Returns the options with what None stands for filled in."""
        iterations = self.ascent.iterations or (30 if len(layout.nodes) > 1 else 12)
        return dataclasses.replace(
            self,
            block=self.block or (64 if layout.size > 256 else 256),
            ascent=dataclasses.replace(self.ascent, iterations=iterations),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Instances:
    """What is to be proved, fixed during the search; float64.

    J inputs with a box each, I instances: one clause of one input's spec.

    Attributes:
      x: inputs, (J, *d).
      domain: box of legal inputs, shape d.
      rates: rates of the faces, shape d.
      ranges: layer ranges over each input's first box, leaves (J, ...).
      slack: what a bound must exceed, (J,).
      split_cost: by how much more per unit of each neuron's beta, (J, N).
      floor: radius that is already proved, (J,).
      width: how far below a witness the radius to prove is put.
      owner: the input of every instance, (I,).
      rows: (I, rows, outputs).
      offset: (I, rows).
    """

    x: Float[Array, "J *d"]
    domain: Box
    rates: Rates
    ranges: Ranges
    slack: Float[Array, " J"]
    split_cost: Float[Array, "J N"]
    floor: Float[Array, " J"]
    width: Float[Array, ""]
    owner: Int[Array, " I"]
    rows: Float[Array, "I rows outputs"]
    offset: Float[Array, "I rows"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pool:
    """The stack of open subproblems; rows from `count` on mean nothing.

    Attributes:
      instance: (P,).
      signs: -1, 0 or 1 per neuron, (P, N) int8.
      multipliers: where the optimisation starts, leaves (P, ...), float32.
      tries: how often a leaf came back, (P,).
    """

    instance: Int[Array, " P"]
    signs: Int[Array, "P N"]
    multipliers: Multipliers
    tries: Int[Array, " P"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SearchState:
    """Everything that changes.

    Attributes:
      pool: the stack.
      count: subproblems on it.
      box: the box that is being proved for every input, (J, *d).
      radius: its radius, (J,).
      upper: distance of the nearest witness, inf if none, (J,).
      witness: (J, *d).
      open: whether an input is still worked on, (J,).
      stuck: whether it was given up, (J,).
      processed: subproblems bounded so far, per input, (J,).
      leaves: parked leaves, a stack of its own.
      leaf_count: leaves on it.
    """

    pool: Pool
    count: Int[Array, ""]
    box: Box
    radius: Float[Array, " J"]
    upper: Float[Array, " J"]
    witness: Float[Array, "J *d"]
    open: Bool[Array, " J"]
    stuck: Bool[Array, " J"]
    processed: Int[Array, " J"]
    leaves: Pool
    leaf_count: Int[Array, ""]


def ball(instances: Instances, radius: Float[Array, " J"]) -> Box:
    """Returns the boxes of these radii, rounded outward and clipped to the domain."""

    def one(x: Array, r: Array) -> Box:
        return Box.ball(x, r, instances.domain, instances.rates, outward=True)

    return jax.vmap(one)(instances.x, radius)


def step(
    layout: Layout,
    options: BranchOptions,
    params32: Any,
    params64: Any,
    instances: Instances,
    state: SearchState,
) -> SearchState:
    """Returns the state after one block was bounded and branched."""
    program, block = layout.program, options.block
    values32 = program.prepare(params32, jnp.float32)
    values64 = program.prepare(params64, jnp.float64)
    start = jnp.maximum(state.count - block, 0)
    popped: Pool = jax.tree.map(
        lambda a: lax.dynamic_slice_in_dim(a, start, block), state.pool
    )
    owner = instances.owner[popped.instance]
    valid = (start + jnp.arange(block) < state.count) & state.open[owner]

    problem = Problem(
        box=jax.tree.map(lambda v: v[owner], state.box),
        ranges=jax.tree.map(lambda v: v[owner], instances.ranges),
        rows=instances.rows[popped.instance],
        offset=instances.offset[popped.instance],
    )

    def optimise(
        problem: Problem, signs: Array, m: Multipliers, tries: Array
    ) -> Multipliers:
        pace = jnp.float32(0.7) ** tries
        problem = problem.cast(jnp.float32)
        return ascend(layout, values32, problem, signs, m, options.ascent, pace)

    def decide(problem: Problem, signs: Array, m: Multipliers) -> Any:
        m = jax.tree.map(lambda v: v.astype(jnp.float64), m)
        return subproblem_bound(layout, values64, problem, signs, m)

    best = jax.vmap(optimise)(problem, popped.signs, popped.multipliers, popped.tries)
    bound, (at_input, at_outputs) = jax.vmap(decide)(problem, popped.signs, best)
    betas = jnp.maximum(best.split, 0).astype(jnp.float64)
    charged = jnp.sum(betas * instances.split_cost[owner], axis=1)
    proved = bound > instances.slack[owner] + charged
    survives = valid & ~proved

    state = dataclasses.replace(
        state,
        processed=state.processed.at[owner].add(valid.astype(jnp.int32)),
    )
    box = problem.box
    points = jnp.where(at_input > 0, box.lo, box.hi)
    state = share_witnesses(
        layout, values64, instances, state, popped.instance, points, survives
    )

    neuron, splittable = jax.vmap(functools.partial(_branch, layout))(
        problem.ranges, popped.signs, at_outputs
    )
    tries = popped.tries + ~splittable
    parked = survives & ~splittable & (tries > options.patience) & state.open[owner]
    survives = survives & state.open[owner] & ~parked
    chosen = jax.nn.one_hot(neuron, layout.size, dtype=jnp.int8)
    chosen = jnp.where(splittable[:, None], chosen, 0)
    kept = dataclasses.replace(popped, multipliers=best, tries=tries)
    leaves, leaf_count = push(state.leaves, state.leaf_count, kept, parked)
    state = dataclasses.replace(state, leaves=leaves, leaf_count=leaf_count)
    children = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]),
        dataclasses.replace(kept, signs=popped.signs + chosen),
        dataclasses.replace(kept, signs=popped.signs - chosen),
    )
    wanted = jnp.concatenate([survives, survives & splittable])
    pool, count = push(state.pool, start.astype(state.count.dtype), children, wanted)
    return dataclasses.replace(state, pool=pool, count=count)


def push(
    stack: Pool, start: Int[Array, ""], new: Pool, wanted: Bool[Array, " n"]
) -> tuple[Pool, Int[Array, ""]]:
    """Returns the stack with the wanted rows of `new` from `start` on, and its count.

    The stack must have room for all rows of `new`.
    """
    place = jnp.where(wanted, jnp.cumsum(wanted) - 1, wanted.size)

    def write(stack: Array, new: Array) -> Array:
        packed = jnp.zeros_like(new).at[place].set(new, mode="drop")
        return lax.dynamic_update_slice_in_dim(stack, packed, start, axis=0)

    count = (start + jnp.sum(wanted)).astype(start.dtype)
    return jax.tree.map(write, stack, new), count


def _branch(
    layout: Layout, ranges: Ranges, signs: Int[Array, " N"], at_outputs: Array
) -> tuple[Array, Array]:
    """Returns the neuron to split, and whether there is one.

    The score is what the upper line of an unstable ReLU costs at worst: the intercept
    u |l| / (u - l) times the negative part of its coefficient (Bunel et al. 2020).
    """
    cut = restricted(layout, ranges, signs)
    gap, unstable = {}, {}
    for node in layout.nodes:
        z = cut[node.inputs[0]]
        unstable[node.output] = node.activation.undecided(z.lo, z.hi)
        gap[node.output] = jnp.where(
            unstable[node.output], -z.lo * z.hi / (z.hi - z.lo), 0.0
        )
    free = layout.join(unstable) & (signs == 0)
    weight = jnp.maximum(-at_outputs, 0) + 0.1 * jnp.maximum(at_outputs, 0)
    score = jnp.where(free, weight * layout.join(gap) + 1e-30, -1.0)
    return jnp.argmax(score), jnp.any(free)


def share_witnesses(
    layout: Layout,
    values: Values,
    instances: Instances,
    state: SearchState,
    instance: Int[Array, " block"],
    points: Float[Array, "block *d"],
    asked: Bool[Array, " block"],
) -> SearchState:
    """Returns the state after trying points as counterexamples, in float64.

    A point counts if every row of its clause is below minus the rounding slack.
    """
    owner = instances.owner[instance]
    slack = instances.slack[owner]

    def violates(z: Array, rows: Array, offset: Array, slack: Array) -> Array:
        y = layout.program.evaluate_prepared(values, z)
        row = jnp.matmul(rows, y, precision=lax.Precision.HIGHEST) + offset
        return jnp.max(row) <= -slack

    rows, offset = instances.rows[instance], instances.offset[instance]
    found = jax.vmap(violates)(points, rows, offset, slack) & asked

    def improve(state: SearchState) -> SearchState:
        def nearer(x: Array, z: Array, *clause: Array) -> Array:
            def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
                safe, bad = ends
                middle = (safe + bad) / 2
                point = instances.domain.project(x + middle * (z - x))
                worse = violates(point, *clause)
                return jnp.where(worse, safe, middle), jnp.where(worse, middle, bad)

            zero, one = jnp.zeros((), x.dtype), jnp.ones((), x.dtype)
            _, t = lax.fori_loop(0, 20, halve, (zero, one))
            return instances.domain.project(x + t * (z - x))

        x = instances.x[owner]
        close = jax.vmap(nearer)(x, points, rows, offset, slack)
        distance = jax.vmap(instances.rates.distance)(x, close)
        distance = jnp.where(found, jnp.nextafter(distance, jnp.inf), jnp.inf)
        count = state.upper.size
        least = jax.ops.segment_min(distance, owner, count)
        wins = found & (distance <= least[owner]) & (distance < state.upper[owner])
        where = jnp.where(wins, owner, count)
        upper = jnp.minimum(state.upper, least)
        witness = state.witness.at[where].set(close, mode="drop")
        radius = jnp.minimum(state.radius, upper - instances.width)
        still = state.open & (radius > instances.floor)
        return dataclasses.replace(
            state,
            upper=upper,
            witness=witness,
            radius=radius,
            box=ball(instances, jnp.maximum(radius, 0)),
            open=still,
        )

    return lax.cond(jnp.any(found), improve, lambda s: s, state)


@functools.partial(
    jax.jit, static_argnames=("layout", "options"), donate_argnames=("state",)
)
def run_chunk(
    layout: Layout,
    options: BranchOptions,
    params32: Any,
    params64: Any,
    instances: Instances,
    state: SearchState,
) -> SearchState:
    """Returns the state after at most `options.steps` steps.

    Stops early when nothing is left, or when the stack has no room for the children of
    one more block: then subproblems stay open, none is lost.
    """
    capacity = state.pool.instance.size

    def more(carry: tuple[Array, SearchState]) -> Array:
        index, state = carry
        start = jnp.maximum(state.count - options.block, 0)
        room = start + 2 * options.block <= capacity
        room = room & (state.leaf_count < options.parked)
        return (state.count > 0) & room & (index < options.steps)

    def body(carry: tuple[Array, SearchState]) -> tuple[Array, SearchState]:
        index, state = carry
        after = step(layout, options, params32, params64, instances, state)
        return index + 1, after

    return lax.while_loop(more, body, (jnp.int32(0), state))[1]


@functools.partial(jax.jit, static_argnames=("layout",), donate_argnames=("state",))
def resume_leaves(
    layout: Layout,
    params64: Any,
    instances: Instances,
    state: SearchState,
    leaves: Pool,
    points: Float[Array, "n *d"],
    has_point: Bool[Array, " n"],
    wanted: Bool[Array, " n"],
) -> SearchState:
    """Returns the state after the host solved the parked leaves.

    Its points are tried as counterexamples, and the wanted leaves go back on the stack
    with its multipliers, to be proved there; nothing the host says is believed.
    """
    values64 = layout.program.prepare(params64, jnp.float64)
    state = share_witnesses(
        layout, values64, instances, state, leaves.instance, points, has_point
    )
    pool, count = push(state.pool, state.count, leaves, wanted)
    return dataclasses.replace(
        state, pool=pool, count=count, leaf_count=jnp.zeros_like(state.leaf_count)
    )
