"""The complete oracle for apothems: bounds, then branch and bound on what is left.

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
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxcert.bounds.alpha import (
    AscentOptions,
    Layout,
    Multipliers,
    Problem,
    Ranges,
    TightenOptions,
    ascend,
    default_slopes,
    tighten_layers,
)
from jaxcert.bounds.crown import CrownOptions, bound_layers
from jaxcert.bounds.ibp import interval_rows, program_of
from jaxcert.bounds.rounding import float64_slack, multiplier_cost
from jaxcert.box import Box, Rates
from jaxcert.oracle.branch_and_bound import (
    BranchOptions,
    Instances,
    Pool,
    SearchState,
    ball,
    resume_leaves,
    run_chunk,
)
from jaxcert.oracle.input_split import decide_by_input
from jaxcert.oracle.leaf import (
    affine_maps,
    is_piecewise_linear,
    nearest_violation,
    proving_multipliers,
)
from jaxcert.program import Program
from jaxcert.spec import Spec
from jaxcert.verdict import Reason, Status, Verdict

_CAPACITY = 1 << 15
# How often the host solves one leaf before its input is given up.
_VISITS = 4


@functools.lru_cache(maxsize=64)
def layout_of(program: Program) -> Layout:
    """Returns the layout of a program, the same one every time."""
    return Layout(program)


@functools.partial(jax.jit, static_argnames=("layout", "options"))
def _roots(
    layout: Layout,
    options: TightenOptions,
    params32: Any,
    params: Any,
    box: Box,
    spec: Spec,
) -> tuple[Ranges, Array, Array, Array, Array]:
    """Returns ranges, CROWN bounds of clauses, slack, beta costs, slopes per input."""
    program = layout.program

    def one(box: Box, spec: Spec) -> Any:
        values = program.prepare(params, box.lo.dtype)
        layers = bound_layers(program, values, box, CrownOptions())
        by_interval = interval_rows(program, values, layers.boxes, spec)
        rows = layers.lower_values({program.output: spec.coefficients}, spec.offset)
        clauses = spec.clauses(jnp.maximum(rows, by_interval))
        slack = float64_slack(program, values, layers.boxes, spec.coefficients)
        ranges = {i: layers.boxes[i] for i in layout.needed()}
        if options.iterations > 0:
            values32 = program.prepare(params32, jnp.float32)
            ranges = tighten_layers(layout, values32, values, box, ranges, options)
        cost = layout.join(multiplier_cost(program, values, layers.boxes))
        return ranges, clauses, slack, cost, default_slopes(layout, ranges)

    return jax.vmap(one)(box, spec)


@dataclasses.dataclass(frozen=True, eq=False)
class ApothemTask:
    """What branch and bound starts from, numpy float64, J inputs.

    Attributes:
      x: (J, *d).
      domain, rates: shape d.
      spec: one per input, leaves (J, ...); every clause has the same number of rows.
      lower: radius already proved, (J,).
      upper: distance of the nearest witness, inf if none, (J,).
      witness: (J, *d).
      reach: radius at which the ball fills the domain, (J,).
      wanted: which inputs to work on, (J,).
      tolerance: width of the bracket to reach.
    """

    x: np.ndarray
    domain: Box
    rates: Rates
    spec: Spec
    lower: np.ndarray
    upper: np.ndarray
    witness: np.ndarray
    reach: np.ndarray
    wanted: np.ndarray
    tolerance: float


@dataclasses.dataclass(frozen=True, eq=False)
class ApothemAnswer:
    """What branch and bound found.

    Attributes:
      lower: proved radius (the one given, where nothing more was proved), (J,).
      box: the box of that radius where more was proved, rounded outward, (J, *d).
      improved: where more was proved, (J,).
      upper, witness: the nearest counterexample, (J,) and (J, *d).
      processed: subproblems bounded per input, (J,).
      open: inputs that ran out of time or multipliers: their bracket is not closed.
    """

    lower: np.ndarray
    box: Box
    improved: np.ndarray
    upper: np.ndarray
    witness: np.ndarray
    processed: np.ndarray
    open: np.ndarray


def close_brackets(
    f: Callable[[Any, Any], Any],
    params32: Any,
    params64: Any,
    task: ApothemTask,
    options: BranchOptions,
    deadline: float = np.inf,
) -> ApothemAnswer:
    """Returns brackets closed to the tolerance, as far as the deadline allows.

    Must run where float64 is enabled.

    Args:
      f: the network's function; its only nonlinear parts that are split are ReLUs.
      params32, params64: its weights in both float types.
      task: see `ApothemTask`.
      options: how branch and bound runs.
      deadline: `time.monotonic()` after which no further chunk begins.
    """
    program = program_of(f, params32, task.x[0])
    layout = layout_of(program)
    options = options.resolved(layout)
    width = 0.95 * task.tolerance
    below = np.where(np.isfinite(task.upper), task.upper, 0) - min(width, 1e300)
    radius = np.where(np.isfinite(task.upper), below, np.inf)
    radius = np.minimum(radius, task.reach)
    radius = np.where(task.wanted, np.maximum(radius, task.lower), task.lower)
    instances = Instances(
        x=task.x, domain=task.domain, rates=task.rates, ranges={}, slack=task.lower,
        split_cost=np.zeros((len(task.x), layout.size)),
        floor=task.lower, width=np.float64(width), owner=np.zeros(1, np.int32),
        rows=task.spec.coefficients, offset=task.spec.offset,
    )  # fmt: skip
    box = ball(instances, np.maximum(radius, 0))
    ranges, clauses, slack, cost, slopes = _roots(
        layout, options.tighten, params32, params64, box, task.spec
    )
    open_clauses = ~(np.asarray(clauses) > np.asarray(slack)[:, None])
    open_clauses &= (task.wanted & (radius > task.lower))[:, None]
    owner, clause = np.nonzero(open_clauses)
    rows, offset = _clause_rows(task.spec, owner, clause)
    instances = dataclasses.replace(
        instances, ranges=ranges, slack=slack, split_cost=cost,
        owner=owner.astype(np.int32), rows=rows, offset=offset,
    )  # fmt: skip
    instances, state = _start(layout, instances, options, radius, box, slopes, task)
    if owner.size and layout.size:
        multipliers = _ascend_roots(
            layout, options.root, params32, instances, box, state.pool.multipliers,
            state.pool.instance, len(instances.owner),
        )  # fmt: skip
        pool = dataclasses.replace(state.pool, multipliers=multipliers)
        state = dataclasses.replace(state, pool=pool)
    visits: dict[bytes, int] = {}
    # Without a ReLU there is nothing to split: what the bounds left open stays open.
    while layout.size and time.monotonic() < deadline:
        if int(state.leaf_count) > 0:
            state = _settle_leaves(
                layout, options, params64, instances, state, task, visits
            )
        elif int(state.count) == 0:
            break
        before = int(state.processed.sum())
        state = run_chunk(layout, options, params32, params64, instances, state)
        if int(state.processed.sum()) == before and int(state.leaf_count) == 0:
            break  # the stack is full: what is open stays open
    return _answer(instances, jax.device_get(state), task)


def decide(
    f: Callable[[Any, Any], Any],
    params32: Any,
    params64: Any,
    box: Box,
    spec: Spec,
    options: BranchOptions,
    deadline: float = np.inf,
) -> tuple[Verdict, int]:
    """Returns the verdict on one box and the number of subproblems it took.

    Must run where float64 is enabled. Narrow inputs, and those of networks with smooth
    activations, are split themselves. Otherwise signs are: the box is the ball around
    its centre, clipped to itself, and the first witness ends the search.

    Args:
      f: the network's function.
      params32, params64: its weights in both float types.
      box: numpy float64, not empty.
      spec: what must hold, numpy float64.
      options: how branch and bound runs.
      deadline: `time.monotonic()` after which no further chunk begins.
    """
    center = np.asarray(box.center)
    program = program_of(f, params32, center)
    narrow = program.input_size <= options.narrow
    splits_signs = is_piecewise_linear(program) and layout_of(program).size > 0
    if narrow or not splits_signs:
        spec = jax.tree.map(jnp.asarray, spec)
        proved, witness, processed = decide_by_input(
            program, params64, box, spec, options.inputs, deadline
        )
        return _verdict(program, params64, spec, proved, witness, center), processed
    ones = np.ones_like(center)
    answer = close_brackets(
        f,
        params32,
        params64,
        ApothemTask(
            x=center[None],
            domain=box,
            rates=Rates(ones, ones),
            spec=jax.tree.map(lambda v: np.asarray(v)[None], spec),
            lower=np.array([-1.0]),
            upper=np.array([np.inf]),
            witness=np.full((1, *center.shape), np.nan),
            reach=np.array([np.max(box.hi - box.lo, initial=0)]),
            wanted=np.array([True]),
            tolerance=np.inf,
        ),
        options,
        deadline,
    )
    witness = answer.witness[0] if np.isfinite(answer.upper[0]) else None
    proved = bool(answer.improved[0]) and witness is None
    verdict = _verdict(program, params64, spec, proved, witness, center)
    return verdict, int(answer.processed[0])


def _verdict(
    program: Program,
    params: Any,
    spec: Spec,
    proved: bool,
    witness: np.ndarray | None,
    center: np.ndarray,
) -> Verdict:
    """Returns the verdict that a search ends with, in numpy."""
    status, reason = Status.UNKNOWN, Reason.LIMIT
    point, margin = np.full(center.shape, np.nan), np.nan
    if proved:
        status, reason = Status.PROVED, Reason.BOUND
    elif witness is not None:
        status, reason, point = Status.REFUTED, Reason.WITNESS, witness
        logits = program.evaluate(params, jnp.asarray(witness))
        margin = float(spec.margin(spec.values(logits)))
    return Verdict(
        status=np.int32(status),
        reason=np.int32(reason),
        bound=np.float64(0.0 if proved else -np.inf),
        witness=point,
        witness_margin=np.float64(margin),
    )


def _settle_leaves(
    layout: Layout,
    options: BranchOptions,
    params64: Any,
    instances: Instances,
    state: SearchState,
    task: ApothemTask,
    visits: dict[bytes, int],
) -> SearchState:
    """Returns the state after the parked leaves were solved by linear programming."""
    leaves = jax.tree.map(np.array, jax.device_get(state.leaves))
    count, capacity = int(state.leaf_count), len(leaves.tries)
    radius, still = np.array(state.radius), np.array(state.open)
    stuck = np.array(state.stuck)
    points = np.zeros((capacity, *task.x.shape[1:]))
    has_point, wanted = np.zeros(capacity, bool), np.zeros(capacity, bool)
    solvable = is_piecewise_linear(layout.program)
    room = int(state.count) + capacity <= len(state.pool.tries)
    for k in range(count):
        instance = int(leaves.instance[k])
        j = int(instances.owner[instance])
        if not still[j]:
            continue
        key = leaves.instance[k].tobytes() + leaves.signs[k].tobytes()
        visits[key] = visits.get(key, 0) + 1
        if not solvable or not room or visits[key] > _VISITS:
            stuck[j], still[j] = True, False
            continue
        problem = Problem(
            box=jax.tree.map(lambda v, j=j: v[j], state.box),
            ranges=jax.tree.map(lambda v, j=j: v[j], instances.ranges),
            rows=instances.rows[instance],
            offset=instances.offset[instance],
        )
        maps = jax.device_get(affine_maps(layout, params64, problem, leaves.signs[k]))
        fixed = leaves.signs[k]
        slack = float(instances.slack[j])
        point = nearest_violation(
            maps, fixed, task.x[j], task.domain, task.rates, slack
        )
        if point is not None:
            points[k] = np.clip(
                point.reshape(task.x.shape[1:]), task.domain.lo, task.domain.hi
            )
            away = _distance(task.rates, task.x[j], points[k])
            has_point[k] = away < state.upper[j]
            radius[j] = min(radius[j], away - float(instances.width))
        box = jax.tree.map(
            lambda v, j=j: np.asarray(v[j]),
            ball(instances, np.maximum(radius, 0)),
        )
        beta, weights = proving_multipliers(maps, fixed, box)
        if beta is not None and weights is not None:
            leaves.multipliers.split[k] = beta
            leaves.multipliers.row[k] = np.log(weights + 1e-9)
        leaves.tries[k] = options.patience
        wanted[k] = True
    state = dataclasses.replace(
        state, stuck=jnp.asarray(stuck), open=jnp.asarray(still)
    )
    if not room:
        # Every parked input was given up; pushing would write over open subproblems.
        return dataclasses.replace(state, leaf_count=jnp.zeros_like(state.leaf_count))
    return resume_leaves(
        layout, params64, instances, state, leaves, points, has_point, wanted
    )


def _distance(rates: Rates, x: np.ndarray, z: np.ndarray) -> float:
    return float(Rates(np.asarray(rates.lower), np.asarray(rates.upper)).distance(x, z))


@functools.partial(jax.jit, static_argnames=("layout", "options", "count"))
def _ascend_roots(
    layout: Layout,
    options: AscentOptions,
    params32: Any,
    instances: Instances,
    box: Box,
    multipliers: Multipliers,
    instance: Array,
    count: int,
) -> Multipliers:
    """Returns the stack's multipliers with the first `count` optimised thoroughly."""
    values = layout.program.prepare(params32, jnp.float32)

    def one(arguments: tuple[Array, Multipliers]) -> Multipliers:
        index, start = arguments
        j = instances.owner[index]
        problem = Problem(
            box=jax.tree.map(lambda v: v[j], box),
            ranges=jax.tree.map(lambda v: v[j], instances.ranges),
            rows=instances.rows[index],
            offset=instances.offset[index],
        )
        signs = jnp.zeros(layout.size, jnp.int8)
        problem = problem.cast(jnp.float32)
        return ascend(layout, values, problem, signs, start, options)

    first = jax.tree.map(lambda v: v[:count], multipliers)
    better = lax.map(one, (instance[:count], first), batch_size=64)
    return jax.tree.map(lambda v, b: v.at[:count].set(b), multipliers, better)


def _clause_rows(
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


def _start(
    layout: Layout,
    instances: Instances,
    options: BranchOptions,
    radius: np.ndarray,
    box: Box,
    slopes: Any,
    task: ApothemTask,
) -> tuple[Instances, SearchState]:
    """Returns padded instances and the stack with every open clause on it."""
    count, inputs = len(instances.owner), len(radius)
    padded = 64
    while padded < count:
        padded *= 4

    def pad(v: Any) -> np.ndarray:
        v = np.asarray(v)
        return np.concatenate([v, np.zeros((padded - count, *v.shape[1:]), v.dtype)])

    most = instances.offset.shape[1]
    instances = dataclasses.replace(
        instances, owner=pad(instances.owner), rows=pad(instances.rows),
        offset=pad(instances.offset),
    )  # fmt: skip
    capacity = max(_CAPACITY, 2 * padded, 4 * options.block)
    # The first clauses end on top of the stack.
    order = np.arange(count)[::-1]
    first = np.zeros(capacity, np.int32)
    first[:count] = order
    start = np.zeros((capacity, layout.size), np.float32)
    start[:count] = np.asarray(slopes)[instances.owner[order]]
    pool = _empty_pool(layout, capacity, most)
    pool = dataclasses.replace(
        pool,
        instance=jnp.asarray(first),
        multipliers=dataclasses.replace(pool.multipliers, slope=jnp.asarray(start)),
    )
    state = SearchState(
        pool=pool,
        count=jnp.asarray(count, jnp.int32),
        box=jax.tree.map(jnp.array, box),
        radius=jnp.asarray(radius),
        upper=jnp.asarray(task.upper),
        witness=jnp.asarray(task.witness),
        open=jnp.asarray(task.wanted & (radius > task.lower)),
        stuck=jnp.zeros(inputs, bool),
        processed=jnp.zeros(inputs, jnp.int32),
        leaves=_empty_pool(layout, options.parked + options.block, most),
        leaf_count=jnp.zeros((), jnp.int32),
    )
    return instances, state


def _empty_pool(layout: Layout, capacity: int, rows: int) -> Pool:
    return Pool(
        instance=jnp.zeros(capacity, jnp.int32),
        signs=jnp.zeros((capacity, layout.size), jnp.int8),
        multipliers=Multipliers(
            slope=jnp.zeros((capacity, layout.size), jnp.float32),
            split=jnp.zeros((capacity, layout.size), jnp.float32),
            row=jnp.zeros((capacity, rows), jnp.float32),
        ),
        tries=jnp.zeros(capacity, jnp.int32),
    )


def _answer(
    instances: Instances, state: SearchState, task: ApothemTask
) -> ApothemAnswer:
    waiting = np.zeros(len(task.lower), bool)
    # Parked leaves are open subproblems as much as those on the stack.
    for stack, count in ((state.pool, state.count), (state.leaves, state.leaf_count)):
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
