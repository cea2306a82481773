"""What branch and bound works on: instances, open subproblems, and the search's state.

All of it are pytrees of arrays, so that a step of the search is one device program.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxcert.ball import Ball, Region, region_of
from jaxcert.bounds.alpha import Layout, Multipliers, Problem, Ranges, layout_of
from jaxcert.bounds.cuts import Cuts
from jaxcert.box import Box, Family, Rates
from jaxcert.branch.leaves import Leaves
from jaxcert.branch.search import Search
from jaxcert.memory import room_for, tree_bytes
from jaxcert.spec import Spec
from jaxcert.trace.program import Program

# Most memory for the stack, and most subproblems on it; it holds at least 4 blocks.
_STACK_BYTES = 1 << 29
_MOST_ITEMS = 1 << 15


@dataclasses.dataclass(frozen=True, eq=False)
class ApothemTask:
    """What branch and bound starts from, numpy float64, J inputs.

    Attributes:
      family: the boxes or balls of every input, leaves (J, *d).
      spec: one per input, leaves (J, ...); every clause has the same number of rows.
      lower: radius already proved, (J,).
      upper: distance of the nearest witness, inf if none, (J,).
      witness: (J, *d).
      reach: radius at which the ball fills the domain, (J,).
      wanted: which inputs to work on, (J,).
      tolerance: width of the bracket to reach.
    """

    family: Family
    spec: Spec
    lower: np.ndarray
    upper: np.ndarray
    witness: np.ndarray
    reach: np.ndarray
    wanted: np.ndarray
    tolerance: float

    def layout(self, program: Program) -> Layout:
        """Returns the layout of a program over the sets of this task."""
        return layout_of(program, joint=self.family.rates.norm != "linf")

    @staticmethod
    def of_region(region: Region, spec: Spec) -> ApothemTask:
        """Returns the task of proving one box, or one ball of a radius > 0, as it is.

        See `of_boxes`. Of a ball the distance of the witness from the centre says
        whether it lies in it.

        Args:
          region, spec: numpy float64.
        """

        def one(tree: Any) -> Any:
            return jax.tree.map(lambda v: np.asarray(v)[None], tree)

        if not isinstance(region, Ball):
            return ApothemTask.of_boxes(*one((region, spec)))
        core = one(Box.point(region.center))
        return ApothemTask(
            family=Family(core, *one((region.domain, region.rates))),
            spec=one(spec),
            lower=np.zeros(1),
            upper=np.full(1, np.inf),
            witness=np.full(core.lo.shape, np.nan),
            reach=np.asarray(region.radius, np.float64)[None],
            wanted=np.ones(1, bool),
            tolerance=1e300,  # nothing is asked of radii below
        )

    @staticmethod
    def of_boxes(
        boxes: Box, spec: Spec, wanted: np.ndarray | None = None
    ) -> ApothemTask:
        """Returns the task of proving boxes that are what they are, at any radius.

        `improved` of its answer says which were proved; the first witness, at distance
        0, ends an input.

        Args:
          boxes: leaves (J, *d), numpy float64.
          spec: one per box, leaves (J, ...).
          wanted: which of them to prove, (J,); by default all.
        """
        count, still = len(boxes.lo), np.zeros(np.shape(boxes.lo))
        return ApothemTask(
            family=Family(boxes, boxes, Rates(still, still)),  # type: ignore[arg-type]
            spec=spec,
            lower=np.zeros(count),
            upper=np.full(count, np.inf),
            witness=np.full(still.shape, np.nan),
            reach=np.ones(count),
            wanted=np.ones(count, bool) if wanted is None else np.asarray(wanted),
            tolerance=1.0,  # of a radius that cannot change
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Instances:
    """What is to be proved, fixed during the search; float64.

    J inputs with a box each, I instances: one clause of one input's spec.

    Attributes:
      family: the boxes of every input, leaves (J, *d).
      ranges: layer ranges over each input's first box, leaves (J, ...).
      slack: what a bound must exceed, (J,).
      split_cost: by how much more per unit of each neuron's beta, (J, N).
      floor: radius that is already proved, (J,).
      width: how far below a witness the radius to prove is put.
      owner, clause: the input of every instance, and the clause of its spec, (I,).
      rows: (I, rows, outputs).
      offset: (I, rows).
      cuts: inequalities on several neurons over each input's first box, by output id of
        their ReLU, leaves (J, ...).
    """

    family: Family
    ranges: Ranges
    slack: Float[Array, " J"]
    split_cost: Float[Array, "J N"]
    floor: Float[Array, " J"]
    width: Float[Array, ""]
    owner: Int[Array, " I"]
    clause: Int[Array, " I"]
    rows: Float[Array, "I rows outputs"]
    offset: Float[Array, "I rows"]
    cuts: dict[int, Cuts] = dataclasses.field(default_factory=dict)

    def problem(self, index: Int[Array, "*n"], boxes: Region) -> Problem:
        """Returns the problems of instances, leaves (*n, ...), `boxes` per input."""
        owner = self.owner[index]

        def of_input(v: Array) -> Array:
            return v[owner]

        return Problem(
            box=jax.tree.map(of_input, boxes),
            ranges=jax.tree.map(of_input, self.ranges),
            rows=self.rows[index],
            offset=self.offset[index],
            cuts=jax.tree.map(of_input, self.cuts),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Subproblems:
    """Subproblems: instances with some signs fixed.

    Attributes:
      instance: (P,).
      signs: -1, 0 or 1 per neuron, (P, N) int8.
      ranges: of the inputs of ReLUs, where they are narrower than the instance's,
        rounded outward to float32, leaves (P, ...).
      multipliers: where the optimisation starts, leaves (P, ...), float32.
      tries: how often a leaf came back, (P,).
    """

    instance: Int[Array, " P"]
    signs: Int[Array, "P N"]
    ranges: Ranges
    multipliers: Multipliers
    tries: Int[Array, " P"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Known:
    """What a search over signs has learned.

    Attributes:
      box: the box or ball that is being proved for every input, (J, *d).
      radius: its radius, (J,).
      upper: distance of the nearest witness, inf if none, (J,).
      witness: (J, *d).
      suspect: the point of least margin that rounding leaves in doubt, (J, *d).
      suspect_margin: that margin, (J,); inf if there is none.
      open: whether an input is still worked on, (J,).
      stuck: whether it was given up, (J,).
      processed: subproblems bounded so far, per input, (J,).
      leaves: parked leaves, a stack of its own.
      leaf_count: leaves on it.
      proved: what was proved since the host last took it away; empty unless recorded.
      proved_count: rows of it.
    """

    box: Region
    radius: Float[Array, " J"]
    upper: Float[Array, " J"]
    witness: Float[Array, "J *d"]
    suspect: Float[Array, "J *d"]
    suspect_margin: Float[Array, " J"]
    open: Bool[Array, " J"]
    stuck: Bool[Array, " J"]
    processed: Int[Array, " J"]
    leaves: Subproblems
    leaf_count: Int[Array, ""]
    proved: Leaves
    proved_count: Int[Array, ""]


@jax.jit
def ball(family: Family, radius: Float[Array, " J"]) -> Region:
    """Returns the sets of these radii, clipped to the domain; boxes rounded outward.

    The family has leaves (J, ...).
    """
    return jax.vmap(lambda family, r: region_of(family, r, outward=True))(
        family, radius
    )


@dataclasses.dataclass(frozen=True)
class Room:
    """How much the stacks of a search must hold.

    Attributes:
      block: subproblems that are bounded per step.
      parked: leaves that end a chunk.
      proved: proved subproblems that are kept per chunk; 0 to keep none.
      ranges: whether subproblems have ranges of their own.
    """

    block: int
    parked: int
    proved: int = 0
    ranges: bool = True


def start(
    layout: Layout,
    instances: Instances,
    room: Room,
    radius: np.ndarray,
    box: Region,
    slopes: Any,
    task: ApothemTask,
) -> tuple[Instances, Search]:
    """Returns padded instances and the stack with every open clause on it."""
    count = len(instances.owner)
    padded = 64
    while padded < count:
        padded *= 4

    def pad(v: Any) -> np.ndarray:
        v = np.asarray(v)
        return np.concatenate([v, np.zeros((padded - count, *v.shape[1:]), v.dtype)])

    instances = dataclasses.replace(
        instances, owner=pad(instances.owner), clause=pad(instances.clause),
        rows=pad(instances.rows),
        offset=pad(instances.offset),
    )  # fmt: skip
    sizes = _sizes(instances, room)
    capacity = _capacity(layout, sizes, max(2 * padded, 4 * room.block))
    # The first clauses end on top of the stack.
    order = np.arange(count, dtype=np.int32)[::-1]
    slope = np.asarray(slopes, np.float32)[instances.owner[order]]
    state = _Given(
        box, radius, task.upper, task.witness, task.wanted & (radius > task.lower)
    )
    known = _untouched(layout, room, sizes, jax.tree.map(np.asarray, state))
    pool = _stack_of(layout, capacity, sizes, pad(order), pad(slope))
    return instances, Search(pool, jax.device_put(np.int32(count)), known)


class _Given(NamedTuple):
    """Attributes of `Known` at the start, and which inputs are open."""

    box: Region
    radius: Any
    upper: Any
    witness: Any
    open: Any


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _untouched(layout: Layout, room: Room, sizes: _Sizes, given: _Given) -> Known:
    """Returns what a search knows at its start, in arrays of its own."""
    given, count = jax.tree.map(jnp.array, given), len(given.radius)
    return Known(
        **given._asdict(),
        suspect=jnp.full_like(given.witness, jnp.nan),
        suspect_margin=jnp.full(count, jnp.inf),
        stuck=jnp.zeros(count, bool),
        processed=jnp.zeros(count, jnp.int32),
        leaves=_empty_pool(layout, room.parked + room.block, sizes),
        leaf_count=jnp.zeros((), jnp.int32),
        proved=_no_proofs(layout, room.proved, sizes),
        proved_count=jnp.zeros((), jnp.int32),
    )


def _capacity(layout: Layout, sizes: _Sizes, least: int) -> int:
    """Returns how many subproblems the memory for the stack holds, within limits."""
    item = jax.eval_shape(functools.partial(_empty_pool, layout, 1, sizes))
    return room_for(tree_bytes(item), least, _MOST_ITEMS, _STACK_BYTES)


_Sizes = tuple[int, tuple[tuple[int, tuple[int, ...]], ...], bool]
"""Rows of a clause, shapes of multipliers of cuts by output id, and `Room.ranges`."""


def _sizes(instances: Instances, room: Room) -> _Sizes:
    shapes = {i: cuts.limit.shape[1:] for i, cuts in instances.cuts.items()}
    return instances.offset.shape[1], tuple(shapes.items()), room.ranges


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _empty_pool(layout: Layout, capacity: int, sizes: _Sizes) -> Subproblems:
    rows, cuts, has_ranges = sizes
    ranges = {}
    for node in layout.improvable if has_ranges else ():
        everything = jnp.full((capacity, *node.shape), jnp.inf, jnp.float32)
        ranges[node.inputs[0]] = Box(-everything, everything)
    return Subproblems(
        instance=jnp.zeros(capacity, jnp.int32),
        signs=jnp.zeros((capacity, layout.size), jnp.int8),
        ranges=ranges,
        multipliers=Multipliers(
            slope=jnp.zeros((capacity, layout.size), jnp.float32),
            split=jnp.zeros((capacity, layout.size), jnp.float32),
            row=jnp.zeros((capacity, rows), jnp.float32),
            cut={i: jnp.zeros((capacity, *shape), jnp.float32) for i, shape in cuts},
        ),
        tries=jnp.zeros(capacity, jnp.int32),
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _stack_of(
    layout: Layout,
    capacity: int,
    sizes: _Sizes,
    instance: Int[Array, " n"],
    slope: Float[Array, "n N"],
) -> Subproblems:
    """Returns a stack whose first n subproblems are those instances, not yet split."""
    pool = _empty_pool(layout, capacity, sizes)
    begin = pool.multipliers
    slopes = begin.slope.at[: len(slope)].set(slope)
    return dataclasses.replace(
        pool,
        instance=pool.instance.at[: len(instance)].set(instance),
        multipliers=dataclasses.replace(begin, slope=slopes),
    )


def _no_proofs(layout: Layout, capacity: int, sizes: _Sizes) -> Leaves:
    blank = _empty_pool(layout, capacity, sizes)
    return Leaves(blank.instance, blank.tries, blank.signs, blank.multipliers)


def clause_rows(
    spec: Spec, owner: np.ndarray, clause: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of each (input, clause), padded by repeating the first."""
    members = np.asarray(spec.clause)
    most = max(np.bincount(m, minlength=spec.num_clauses).max() for m in members)
    chosen = np.zeros((len(owner), most), np.int64)
    for k, (j, c) in enumerate(zip(owner, clause, strict=True)):
        rows = np.flatnonzero(members[j] == c)
        chosen[k] = np.concatenate([rows, np.repeat(rows[:1], most - len(rows))])
    picked = owner[:, None]
    return np.asarray(spec.coefficients)[picked, chosen], np.asarray(spec.offset)[
        picked, chosen
    ]
