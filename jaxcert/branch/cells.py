"""Dual boxes by splitting the domain itself: for narrow inputs, of any activation.

What lies beyond the known instances of a class is covered by cells, those of all
classes on one stack. A step takes the top block. A cell that does not stick out of the
instances' box by more than the tolerance is kept, and so is the part that does not of a
cell that sticks out on one face only; a cell that CROWN proves free of the class, in
float64 and beyond the rounding slack, is dropped; every other one is halved. The points
at which the bounds are least are evaluated: instances among them move the inner box.
The dual box is the hull of the instances, of what was kept, and of all that is left on
the stack, so that stopping early leaves a wider one.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int

from jaxcert.box import Box
from jaxcert.branch.inputs import InputSplitOptions, bound_box
from jaxcert.branch.pace import Pace
from jaxcert.branch.stack import pop_block, push
from jaxcert.search.reach import Reach, ReachOptions, not_class, stretch
from jaxcert.spec import Spec
from jaxcert.trace.program import Program

# Instances that reach to within this part of the tolerance need no cell.
_SPARE = 0.95


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cells:
    """Boxes that may hold points of a class, leaves (P, ...).

    Attributes:
      box: the cell.
      owner: index of the class.
    """

    box: Box
    owner: Int[Array, " P"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SplitState:
    """The stack and what is known, of C classes.

    Attributes:
      stack: cells; rows from `count` on mean nothing.
      count: cells on it.
      reach: instances, leaves (C, ...).
      kept: hull of what was kept, leaves (C, *d).
      processed: cells bounded so far, (C,).
    """

    stack: Cells
    count: Int[Array, ""]
    reach: Reach
    kept: Box
    processed: Int[Array, " C"]


@dataclasses.dataclass(frozen=True, eq=False)
class SplitTask:
    """What is asked, numpy float64.

    Attributes:
      program, params: the network.
      domain: shape d.
      labels: the C classes.
      num_classes: of the network.
      reach: instances of each that are known, leaves (C, ...).
      tolerance: per feature, in its units, shape d.
    """

    program: Program
    params: Any
    domain: Box
    labels: tuple[int, ...]
    num_classes: int
    reach: Reach
    tolerance: np.ndarray


class Stopwatch:
    """Notes when the bracket of every face of a dual box was closed.

    Attributes:
      seconds: since it was started, (F,); NaN while open.
    """

    def __init__(self, tolerance: np.ndarray, begin: float | None = None) -> None:
        """Starts, or counts from an earlier `time.monotonic()`."""
        self._begin = time.monotonic() if begin is None else begin
        self._tolerance = np.tile(np.reshape(tolerance, -1), 2)
        self.seconds = np.full(len(self._tolerance), np.nan)

    def note(self, gap: ArrayLike) -> None:
        """Notes the faces whose bracket is no wider than the tolerance by now."""
        closed = (np.asarray(gap) <= self._tolerance) & np.isnan(self.seconds)
        self.seconds[closed] = time.monotonic() - self._begin


def _beyond(cell: Box, inner: Box) -> Float[Array, "2 *d"]:
    """Returns by how much a cell sticks out of the inner box, per face."""
    return jnp.stack([inner.lo - cell.lo, cell.hi - inner.hi])


def trim(
    cell: Box, inner: Box, tolerance: Float[Array, "*d"]
) -> tuple[Box, Box, Array]:
    """Returns (what must be looked at, what is kept, whether all of it is kept).

    The two parts cover the cell. What is kept sticks out of the inner box by at most
    the tolerance; [inf, -inf] if that is nothing.
    """
    sticks = _beyond(cell, inner) > tolerance
    many, shape = jnp.sum(sticks), cell.lo.shape
    low, high = sticks[0] & (many == 1), sticks[1] & (many == 1)
    look = Box(
        jnp.where(high, jnp.maximum(cell.lo, inner.hi), cell.lo),
        jnp.where(low, jnp.minimum(cell.hi, inner.lo), cell.hi),
    )
    rest = Box(jnp.where(low, inner.lo, cell.lo), jnp.where(high, inner.hi, cell.hi))
    nothing = Box(jnp.full(shape, jnp.inf), jnp.full(shape, -jnp.inf))
    gone = (many > 1) | rest.is_empty()
    kept = jax.tree.map(lambda a, b: jnp.where(gone, a, b), nothing, rest)
    return look, kept, many == 0


@functools.partial(
    jax.jit, static_argnames=("program", "options"), donate_argnames=("state",)
)
def run_chunk(
    program: Program,
    options: InputSplitOptions,
    params: Any,
    specs: Spec,
    tolerance: Float[Array, "*d"],
    state: SplitState,
    steps: Int[Array, ""],
) -> SplitState:
    """Returns the state after at most so many steps.

    Stops early when no cell is left, or when the stack has no room for the halves of
    one more block.

    Args:
      program, params: the network, float64.
      options: see there.
      specs: of `not_class`, one per class, leaves (C, ...).
      tolerance: per feature.
      state: donated.
      steps: most of them.
    """
    block, classes = options.block, specs.offset.shape[0]

    def more(carry: tuple[Array, SplitState]) -> Array:
        index, state = carry
        start = jnp.maximum(state.count - block, 0)
        room = start + 2 * block <= state.stack.owner.size
        return (state.count > 0) & room & (index < steps)

    def body(carry: tuple[Array, SplitState]) -> tuple[Array, SplitState]:
        index, state = carry
        popped: Cells
        popped, start, valid = pop_block(state.stack, state.count, block)
        owner = popped.owner
        inner = jax.tree.map(lambda v: v[owner], jax.vmap(Reach.box)(state.reach))
        cells, rest, done = jax.vmap(trim, in_axes=(0, 0, None))(
            popped.box, inner, tolerance
        )
        bound = functools.partial(bound_box, program, options.crown, params)
        own = jax.tree.map(lambda v: v[owner], specs)
        proved, point, found, feature, _ = jax.vmap(bound)(cells, own)
        survives = valid & ~done & ~proved
        low, high = jax.vmap(Box.split)(cells, feature)
        # Halves that equal their parent: the cell cannot be cut any more.
        whole = jax.vmap(lambda a, b: jnp.all((a.lo == b.lo) & (a.hi == b.hi)))
        stuck = survives & (whole(low, cells) | whole(high, cells))
        survives = survives & ~stuck
        halves = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), low, high)
        children = Cells(halves, jnp.concatenate([owner, owner]))
        wanted = jnp.concatenate([survives, survives])
        stack, count = push(state.stack, start, children, wanted)
        kept = _gathered(state.kept, rest, owner, valid)
        kept = _gathered(kept, cells, owner, stuck)
        mine = owner == jnp.arange(classes)[:, None]
        instances = mine & valid & ~done & found
        reach = jax.vmap(Reach.joined, in_axes=(0, None, 0))(
            state.reach, point, instances
        )
        bounded = (valid & ~done).astype(state.processed.dtype)
        processed = state.processed.at[owner].add(bounded)
        return index + 1, SplitState(stack, count, reach, kept, processed)

    return lax.while_loop(more, body, (jnp.int32(0), state))[1]


def _gathered(hulls: Box, boxes: Box, owner: Array, wanted: Array) -> Box:
    """Returns the hulls of each class with the wanted boxes of it."""
    where = jnp.where(wanted, owner, len(hulls.lo))
    return Box(
        hulls.lo.at[where].min(boxes.lo, mode="drop"),
        hulls.hi.at[where].max(boxes.hi, mode="drop"),
    )


@functools.partial(jax.jit, donate_argnames=("state",))
def farthest_first(tolerance: Float[Array, "*d"], state: SplitState) -> SplitState:
    """Returns the state with the cells that stick out most on top of the stack."""
    inner = jax.vmap(Reach.box)(state.reach)
    own = jax.tree.map(lambda v: v[state.stack.owner], inner)
    width = jnp.where(tolerance > 0, tolerance, 1)
    beyond = jax.vmap(_beyond)(state.stack.box, own) / width
    beyond = beyond.reshape(len(beyond), -1).max(axis=1)
    # Finite: where nothing is known of a class, and before the rows without a cell.
    beyond = jnp.minimum(beyond, 1e300)
    index = jnp.arange(len(beyond))
    order = jnp.argsort(jnp.where(index < state.count, beyond, jnp.inf), stable=True)
    stack = jax.tree.map(lambda v: v[order], state.stack)
    return dataclasses.replace(state, stack=stack)


@jax.jit
def hulls(state: SplitState) -> Box:
    """Returns the hull of all that may hold points of each class, leaves (C, *d)."""
    inner = jax.vmap(Reach.box)(state.reach)
    known = jax.vmap(Box.hull)(inner, state.kept)
    left = jnp.arange(len(state.stack.owner)) < state.count
    return _gathered(known, state.stack.box, state.stack.owner, left)


def split_domain(
    task: SplitTask,
    options: InputSplitOptions,
    search: ReachOptions,
    deadline: float,
    watches: Sequence[Stopwatch],
) -> tuple[Box, Reach, np.ndarray]:
    """Returns (dual boxes, instances, cells bounded) of all classes, numpy.

    The dual box of a class without points is [inf, -inf]. Runs where float64 is
    enabled.

    Args:
      task: see there.
      options: how cells are bounded, and how many fit.
      search: how instances are moved on between two chunks.
      deadline: `time.monotonic()` after which no further chunk begins.
      watches: of each class.
    """
    tolerance = jnp.asarray(_SPARE * task.tolerance)
    specs = [not_class(c, task.num_classes) for c in task.labels]
    spec: Spec = jax.tree.map(lambda *v: jnp.stack(v), *specs)
    options = options.fitted(task.program, len(spec.offset[0]))
    state, pace = _start(task, options), Pace(options.steps, deadline)
    turn = 0
    while int(state.count) > 0 and time.monotonic() < deadline:
        before = np.asarray(state.processed), int(state.count)
        if 2 * int(state.count) < options.capacity:
            state = farthest_first(tolerance, state)
        with pace.chunk() as steps:
            state = run_chunk(
                task.program, options, task.params, spec, tolerance, state, steps
            )
            jax.block_until_ready(state)
        unchanged = np.array_equal(before[0], np.asarray(state.processed))
        if unchanged and before[1] == int(state.count):
            break
        moved = [
            stretch(
                task.program, search, task.params, task.domain, own,
                jax.tree.map(lambda v, k=k: v[k], state.reach), np.int32(turn),
            )
            for k, own in enumerate(specs)
        ]  # fmt: skip
        reach = jax.tree.map(lambda *v: jnp.stack(v), *moved)
        state = dataclasses.replace(state, reach=reach)
        _note(watches, state)
        turn += 1
    outer, reach, processed = jax.device_get(
        (hulls(state), state.reach, state.processed)
    )
    return outer, reach, processed


def _note(watches: Sequence[Stopwatch], state: SplitState) -> None:
    """Tells the watches how wide the brackets are now; empty boxes have none."""
    outer, inner = jax.device_get((hulls(state), jax.vmap(Reach.box)(state.reach)))
    for k, watch in enumerate(watches):
        gap = np.stack([inner.lo[k] - outer.lo[k], outer.hi[k] - inner.hi[k]])
        empty = not np.all(outer.lo[k] <= outer.hi[k])
        watch.note(0.0 if empty else gap.reshape(-1))


def _start(task: SplitTask, options: InputSplitOptions) -> SplitState:
    """Returns the stack with cells that cover what lies beyond the instances.

    One cell of each class where the stack has no room for one per face.
    """
    shape, count = task.domain.lo.shape, len(task.labels)
    inner = jax.device_get(jax.vmap(Reach.box)(task.reach))
    found = [(task.domain, k) for k in range(count)]
    if 2 * task.domain.lo.size * count + 2 * options.block <= options.capacity:
        found = [
            (cell, k)
            for k in range(count)
            for cell in _outside(task.domain, inner.lo[k], inner.hi[k])
        ]
    capacity = max(options.capacity, len(found) + 2 * options.block)
    lo, hi = np.zeros((2, capacity, *shape))
    owner = np.zeros(capacity, np.int32)
    for row, (cell, k) in enumerate(found):
        lo[row], hi[row], owner[row] = cell.lo, cell.hi, k
    box: Any = Box(jnp.asarray(lo), jnp.asarray(hi))
    infinite = jnp.full((count, *shape), jnp.inf)
    return SplitState(
        stack=Cells(box, jnp.asarray(owner)),
        count=jnp.asarray(len(found), jnp.int32),
        reach=jax.tree.map(jnp.asarray, task.reach),
        kept=Box(infinite, -infinite),
        processed=jnp.zeros(count, jnp.int32),
    )


def _outside(domain: Box, lo: np.ndarray, hi: np.ndarray) -> Iterator[Box]:
    """Yields boxes that cover the domain but for [lo, hi], sharing only faces."""
    rest_lo, rest_hi = np.array(domain.lo), np.array(domain.hi)
    if not np.all(lo <= hi):
        yield Box(rest_lo, rest_hi)  # type: ignore[arg-type]
        return
    for index in np.ndindex(rest_lo.shape):
        if rest_lo[index] < lo[index]:
            end = rest_hi.copy()
            end[index] = lo[index]
            yield Box(rest_lo.copy(), end)  # type: ignore[arg-type]
            rest_lo[index] = lo[index]
        if hi[index] < rest_hi[index]:
            end = rest_lo.copy()
            end[index] = hi[index]
            yield Box(end, rest_hi.copy())  # type: ignore[arg-type]
            rest_hi[index] = hi[index]
