"""Closing the brackets of apothems by branch and bound.

The apothem optimum of an input is the distance of its nearest counterexample. So no
radius needs to be guessed: the search proves the radius one tolerance below the nearest
witness known; every nearer witness that branch and bound meets lowers that radius, and
what was proved for the larger ball stays proved for the smaller one. When no subproblem
is left the bracket is closed.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxcert.ball import Region, enclosing
from jaxcert.bounds.alpha import (
    Layout,
    Multipliers,
    Ranges,
    default_slopes,
    row_bounds,
)
from jaxcert.bounds.ascent import AscentOptions, ascend
from jaxcert.bounds.crown import CrownOptions, bound_layers
from jaxcert.bounds.cuts import Cuts
from jaxcert.bounds.ibp import interval_rows
from jaxcert.bounds.multineuron import cutter
from jaxcert.bounds.rounding import float64_slack, multiplier_cost
from jaxcert.bounds.tighten import recorded_ranges, tighten_layers
from jaxcert.box import distance_above
from jaxcert.branch.instances import (
    ApothemTask,
    Instances,
    Known,
    Room,
    ball,
    clause_rows,
    start,
)
from jaxcert.branch.leaves import Leaves, Proof, RecordedCuts
from jaxcert.branch.search import Chunks, Search
from jaxcert.branch.settle import settle_leaves
from jaxcert.branch.signs import (
    BranchOptions,
    accept_witnesses,
    run_chunk,
    take_turns,
)
from jaxcert.devices import float64
from jaxcert.model import Model
from jaxcert.spec import Spec
from jaxcert.verdict import Reason
from jaxcert.witness.judge import MOST_SUSPECTS, Judge


class Root(NamedTuple):
    """What the search starts from; leaves have the inputs in front.

    ranges: of layers; clauses: their CROWN bounds, of what is recorded if it is; slack,
    cost: what those must exceed, and by how much more per unit of beta; slopes:
    CROWN's; cuts: on several neurons; recorded: the slopes of the ranges, if asked for;
    behind: scales and slopes of the sums that recorded cuts rest on.
    """

    ranges: Ranges
    clauses: Array
    slack: Array
    cost: Array
    slopes: Array
    cuts: dict[int, Cuts]
    recorded: dict[int, Array]
    behind: dict[int, tuple[Array, Array]]


@functools.partial(jax.jit, static_argnames=("layout", "options"))
def roots(
    layout: Layout,
    options: BranchOptions,
    model: Model,
    box: Region,
    spec: Spec,
) -> Root:
    """Returns what the search starts from, per input."""
    program = layout.program

    def one(box: Region, spec: Spec) -> Any:
        values = model.values(enclosing(box).lo.dtype)
        layers = bound_layers(program, values, box, CrownOptions())
        by_interval = interval_rows(program, values, layers.boxes, spec)
        rows = layers.lower_values({program.output: spec.coefficients}, spec.offset)
        clauses = spec.clauses(jnp.maximum(rows, by_interval))
        slack = float64_slack(program, values, layers.boxes, spec.coefficients)
        ranges = {i: layers.boxes[i] for i in layout.needed()}
        values32 = model.values(jnp.float32)
        recorded: dict[int, Array] = {}
        cuts: dict[int, Cuts] = {}
        behind: dict[int, tuple[Array, Array]] = {}
        tighten = options.tighten
        maker = None
        if options.cuts is not None:
            both = values32, values
            maker = cutter(layout, both, layers.boxes, options.cuts, tighten)
        if options.record:
            ranges, recorded = recorded_ranges(
                layout, values32, values, box, ranges, tighten
            )
            # What closes a clause must be what a leaf without signs says to a checker.
            lines = layout.parts(default_slopes(layout, ranges).astype(rows.dtype))
            outputs = {program.output: spec.coefficients}, spec.offset
            rows, _ = row_bounds(layout, values, box, ranges, outputs, lines)
            clauses = spec.clauses(rows)
            if maker is not None:
                cuts, behind = maker.recorded_cuts(box, ranges)
        elif maker is not None:
            ranges, cuts = maker.tighten_layers(box, ranges)
        elif tighten.iterations > 0:
            ranges = tighten_layers(layout, values32, values, box, ranges, tighten)
        cost = layout.join(multiplier_cost(program, values, layers.boxes))
        slopes = default_slopes(layout, ranges)
        return Root(ranges, clauses, slack, cost, slopes, cuts, recorded, behind)

    return jax.vmap(one)(box, spec)


@dataclasses.dataclass(frozen=True, eq=False)
class ApothemAnswer:
    """What branch and bound found.

    Attributes:
      lower: proved radius (the one given, where nothing more was proved), (J,).
      box: the box of that radius where more was proved, rounded outward, or the ball,
        (J, *d).
      improved: where more was proved, (J,).
      upper, witness: the nearest counterexample, (J,) and (J, *d).
      processed: subproblems bounded per input, (J,).
      open: inputs that ran out of time or multipliers: their bracket is not closed.
      full: whether the search ended because the stack was full.
      proof: of all inputs, if it was recorded.
    """

    lower: np.ndarray
    box: Region
    improved: np.ndarray
    upper: np.ndarray
    witness: np.ndarray
    processed: np.ndarray
    open: np.ndarray
    full: bool = False
    proof: Proof | None = None


class Beginning(NamedTuple):
    """Where a search begins.

    radius: to be proved, (J,); width: how far below a witness it is put; box: of these
    radii, (J, *d); root: over the boxes.
    """

    radius: np.ndarray
    width: float
    box: Region
    root: Root


def boxes_to_prove(task: ApothemTask) -> tuple[np.ndarray, float, Region]:
    """Returns the radius of every input, how far it is below a witness, and the box."""
    # Finite: inf - inf would close the inputs that have no witness.
    width = min(0.95 * task.tolerance, 1e300)
    below = np.where(np.isfinite(task.upper), task.upper, 0) - width
    radius = np.where(np.isfinite(task.upper), below, np.inf)
    radius = np.minimum(radius, task.reach)
    radius = np.where(task.wanted, np.maximum(radius, task.lower), task.lower)
    return radius, width, ball(task.family, np.maximum(radius, 0))


@float64()
def begin(model: Model, task: ApothemTask, options: BranchOptions) -> Beginning:
    """Returns where `close_brackets` begins."""
    layout = task.layout(model.program)
    radius, width, box = boxes_to_prove(task)
    root = roots(layout, options.resolved(layout), model, box, task.spec)
    return Beginning(radius, width, box, root)


@float64()
def close_brackets(
    model: Model,
    task: ApothemTask,
    options: BranchOptions,
    deadline: float = np.inf,
    judge: Judge | None = None,
    *,
    beginning: Beginning | None = None,
    most: float = np.inf,
) -> ApothemAnswer:
    """Returns brackets closed to the tolerance, as far as the deadline allows.

    Args:
      model: the network; its only nonlinear parts that are split are ReLUs.
      task: see `ApothemTask`.
      options: how branch and bound runs.
      deadline: `time.monotonic()` after which no further chunk begins.
      judge: of points that rounding leaves in doubt; made here if there is none.
      beginning: of this task, if it is known.
      most: subproblems after which no further chunk begins.
    """
    suspects = _Suspects(judge or Judge(model), task)
    layout = task.layout(model.program)
    options = options.resolved(layout)
    radius, width, box, root = beginning or begin(model, task, options)
    open_clauses = ~(np.asarray(root.clauses) > np.asarray(root.slack)[:, None])
    open_clauses &= (task.wanted & (radius > task.lower))[:, None]
    owner, clause = np.nonzero(open_clauses)
    rows, offset = clause_rows(task.spec, owner, clause)
    instances = Instances(
        family=task.family, ranges=root.ranges, slack=root.slack, split_cost=root.cost,
        floor=task.lower, width=np.float64(width), owner=owner.astype(np.int32),
        clause=clause.astype(np.int32), rows=rows, offset=offset, cuts=root.cuts,
    )  # fmt: skip
    instances, search = start(
        layout, instances, _room(layout, options), radius, box, root.slopes, task
    )
    if owner.size and layout.size and time.monotonic() < deadline:
        multipliers = _ascend_roots(
            layout, options.root, model, instances, box, search.items.multipliers,
            search.items.instance, len(instances.owner),
        )  # fmt: skip
        items = dataclasses.replace(search.items, multipliers=multipliers)
        search = dataclasses.replace(search, items=items)
    visits: dict[bytes, int] = {}
    leaves: list[Leaves] = []
    chunks = Chunks(
        functools.partial(run_chunk, layout, options, model, instances),
        options.steps,
        deadline,
    )
    # Without a ReLU there is nothing to split: what the bounds left open stays open.
    while (
        layout.size
        and chunks.wanted(search)
        and np.asarray(search.known.processed).sum() < most
    ):
        search = chunks.run(search)
        known = suspects.judged(instances, search.known)
        search = dataclasses.replace(search, known=known)
        if options.record:
            leaves.append(_drained(known))
            search = search.learned(proved_count=jnp.int32(0))
        if int(known.leaf_count) > 0:
            search = settle_leaves(
                layout, options, model, instances, search, task, visits, deadline
            )
        # Every input that waits half done takes room: only while there is plenty.
        if len(task.lower) > 1 and 4 * int(search.count) < search.capacity:
            search = take_turns(instances, search)
    full = chunks.reason == Reason.ROOM and int(search.count) > 0
    answer = _answer(instances, jax.device_get(search), task)
    answer = dataclasses.replace(answer, full=full)
    if options.record:
        width_of_clause = instances.offset.shape[1]
        proof = _proof(
            layout, root, answer.improved, open_clauses, width_of_clause, leaves
        )
        answer = dataclasses.replace(answer, proof=proof)
    return answer


def _room(layout: Layout, options: BranchOptions) -> Room:
    proved = options.steps * options.block if options.record else 0
    return Room(options.block, options.parked, proved, options.narrowing(layout))


def _drained(state: Known) -> Leaves:
    """Returns what was proved in the last chunk, in numpy."""
    count = int(state.proved_count)
    return jax.tree.map(lambda v: np.asarray(v[:count]), state.proved)


def _proof(
    layout: Layout,
    root: Root,
    improved: np.ndarray,
    open_clauses: np.ndarray,
    rows: int,
    proved: list[Leaves],
) -> Proof:
    """Returns the proofs of all inputs whose box was improved, of the others nothing.

    Clauses that were not branched have one leaf without signs: the bounds alone prove
    them.
    """
    number = {node.output: k for k, node in enumerate(layout.nodes)}
    j, c = np.nonzero(~open_clauses & improved[:, None])
    nothing = np.zeros((len(j), layout.size), np.float32)
    slopes = np.asarray(root.slopes, np.float32)[j]
    unused = {
        i: np.zeros((len(j), *cuts.limit.shape[1:]), np.float32)
        for i, cuts in root.cuts.items()
    }
    row = np.zeros((len(j), rows), np.float32)
    multipliers: Any = Multipliers(slopes, nothing, row, unused)
    unbranched: Any = Leaves(j, c, nothing.astype(np.int8), multipliers)
    parts = [unbranched, *(part.rows(improved[part.owner]) for part in proved)]
    leaves = Leaves.joined(parts)
    cut = {number[i]: v for i, v in leaves.multipliers.cut.items()}
    multipliers = dataclasses.replace(leaves.multipliers, cut=cut)
    leaves = dataclasses.replace(leaves, multipliers=multipliers)
    recorded = {number[i]: np.asarray(v) for i, v in root.recorded.items()}
    cuts = {}
    for i, made in root.cuts.items():
        each = made.index, made.at_input, made.at_output, *root.behind[i]
        cuts[number[i]] = RecordedCuts(*map(np.asarray, each))
    return Proof(leaves, recorded, cuts)


@functools.partial(jax.jit, static_argnames=("layout", "options", "count"))
def _ascend_roots(
    layout: Layout,
    options: AscentOptions,
    model: Model,
    instances: Instances,
    box: Region,
    multipliers: Multipliers,
    instance: Array,
    count: int,
) -> Multipliers:
    """Returns the stack's multipliers with the first `count` optimised thoroughly."""
    values = model.values(jnp.float32)

    def one(arguments: tuple[Array, Multipliers]) -> Multipliers:
        index, begin = arguments
        problem = instances.problem(index, box).cast(jnp.float32)
        signs = jnp.zeros(layout.size, jnp.int8)
        return ascend(layout, values, problem, signs, begin, options)

    first = jax.tree.map(lambda v: v[:count], multipliers)
    better = lax.map(one, (instance[:count], first), batch_size=64)
    return jax.tree.map(lambda v, b: v.at[:count].set(b), multipliers, better)


class _Suspects:
    """Judges the points that rounding leaves in doubt, on the host."""

    def __init__(self, judge: Judge, task: ApothemTask) -> None:
        self._judge, self._task = judge, task
        self._failures = np.zeros(len(task.lower), int)

    def judged(self, instances: Instances, state: Known) -> Known:
        """Returns the state with those that are witnesses accepted."""
        margin, still = np.asarray(state.suspect_margin), np.asarray(state.open)
        chosen = np.isfinite(margin) & still & (self._failures < MOST_SUSPECTS)
        if not chosen.any():
            return state
        points, upper = np.array(state.suspect), np.asarray(state.upper)
        distance = np.full(len(margin), np.inf)
        for j in np.flatnonzero(chosen):
            family, spec = jax.tree.map(
                lambda v, j=j: np.asarray(v)[j], (self._task.family, self._task.spec)
            )
            found = self._judge.nearest(spec, family, points[j])
            if found is None:
                self._failures[j] += 1
                continue
            points[j] = found.point
            distance[j] = distance_above(family.core, family.rates, found.point)
            if not distance[j] < upper[j]:
                self._failures[j] += 1
        return accept_witnesses(instances, state, points, distance)


def _answer(instances: Instances, search: Search, task: ApothemTask) -> ApothemAnswer:
    state: Known = search.known
    waiting = np.zeros(len(task.lower), bool)
    # Parked leaves are open subproblems as much as those on the stack.
    for stack, count in (
        (search.items, search.count),
        (state.leaves, state.leaf_count),
    ):
        waiting[instances.owner[stack.instance[: int(count)]]] = True
    waiting &= state.open
    unfinished = (waiting | state.stuck) & task.wanted
    proved = task.wanted & ~unfinished & (state.radius > task.lower)
    return ApothemAnswer(
        lower=np.where(proved, state.radius, task.lower),
        box=state.box,
        improved=proved,
        upper=state.upper,
        witness=state.witness,
        processed=state.processed,
        open=unfinished,
    )
