"""Dual boxes by splitting the domain itself: for narrow inputs, of any activation.

What lies beyond the known instances of a class is covered by cells, the subproblems of
one search (`search.py`) for all classes. A cell that does not stick out of the
instances' box by more than the tolerance is kept, and so is the part that does not of a
cell that sticks out on one face only; a cell that CROWN proves free of the class, in
float64 and beyond the rounding slack, is dropped; every other one is halved. The points
at which the bounds are least are evaluated: instances among them move the inner box,
and those that rounding leaves in doubt are judged between two chunks.
The dual box is the hull of the instances, of what was kept, and of all that is left on
the stack, so that stopping early leaves a wider one.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxcert.box import Box
from jaxcert.branch.inputs import InputSplitOptions, bound_box, halves
from jaxcert.branch.search import Chunks, Search, advance, by_parts
from jaxcert.spec import Spec
from jaxcert.trace.program import Program

# Instances that reach to within this part of the tolerance need no cell.
_SPARE = 0.95


def not_class(label: int, num_classes: int) -> Spec:
    """Returns the spec that some other class wins strictly, float64 in numpy.

    One clause of the rows f_j - f_label > 0: where it holds, a point is not of the
    class, ties included.
    """
    eye: Any = np.eye(num_classes)
    others = np.delete(np.arange(num_classes), label)
    zeros: Any = np.zeros(num_classes - 1)
    return Spec(eye[others] - eye[label], zeros, zeros.astype(np.int32), 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reach:
    """The instance of a class that goes farthest towards each face.

    Attributes:
      point: (F, *d); NaN where none is known.
    """

    point: Float[Array, "F *d"]

    @staticmethod
    def none(shape: tuple[int, ...]) -> Reach:
        """Returns the reach of no instance at all, numpy."""
        point: Any = np.full((2 * int(np.prod(shape)), *shape), np.nan)
        return Reach(point)

    @jax.jit
    def box(self) -> Box:
        """Returns the least box that holds the instances; of none, [inf, -inf]."""
        shape = self.point.shape[1:]
        lo, hi = jnp.split(_of_face(self.point), 2)
        lo = jnp.where(jnp.isnan(lo), jnp.inf, lo)
        hi = jnp.where(jnp.isnan(hi), -jnp.inf, hi)
        return Box(lo.reshape(shape), hi.reshape(shape))

    @jax.jit
    def joined(self, points: Float[Array, "n *d"], valid: Bool[Array, " n"]) -> Reach:
        """Returns the reach with the valid ones of these points."""
        flat = points.reshape(len(points), -1)
        features = flat.shape[1]
        signed = jnp.concatenate([-flat, flat], axis=1)
        signed = jnp.where(valid[:, None] & ~jnp.isnan(signed), signed, -jnp.inf)
        best = jnp.argmax(signed, axis=0)
        sign = jnp.repeat(jnp.array([-1.0, 1.0]), features)
        known = sign * _of_face(self.point)
        known = jnp.where(jnp.isnan(known), -jnp.inf, known)
        farther = jnp.max(signed, axis=0) > known
        mask = farther.reshape((-1,) + (1,) * (points.ndim - 1))
        return Reach(jnp.where(mask, points[best], self.point))


def _of_face(points: Float[Array, "F *d"]) -> Float[Array, " F"]:
    """Returns the feature of every face of the point that belongs to it."""
    flat = points.reshape(len(points), -1)
    index = jnp.arange(len(points))
    return flat[index, index % flat.shape[1]]


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
class Known:
    """What a search over cells has learned of C classes.

    Attributes:
      reach: instances, leaves (C, ...).
      suspect: the farthest points that rounding leaves in doubt, leaves (C, ...).
      kept: hull of what was kept, leaves (C, *d).
      processed: cells bounded so far, (C,).
    """

    reach: Reach
    suspect: Reach
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
    jax.jit, static_argnames=("program", "options"), donate_argnames=("search",)
)
def run_chunk(
    program: Program,
    options: InputSplitOptions,
    params: Any,
    specs: Spec,
    tolerance: Float[Array, "*d"],
    search: Search,
    steps: Int[Array, ""],
) -> Search:
    """Returns the search after at most so many steps.

    Args:
      program, params: the network, float64.
      options: see there.
      specs: of `not_class`, one per class, leaves (C, ...).
      tolerance: per feature.
      search: donated.
      steps: most of them.
    """
    classes = specs.offset.shape[0]

    def step(
        known: Known, popped: Cells, valid: Bool[Array, " block"]
    ) -> tuple[Known, Cells, Bool[Array, " n"]]:
        owner = popped.owner
        inner = jax.tree.map(lambda v: v[owner], jax.vmap(Reach.box)(known.reach))
        cells, rest, done = jax.vmap(trim, in_axes=(0, 0, None))(
            popped.box, inner, tolerance
        )
        bound = functools.partial(bound_box, program, options.crown, params)
        own = jax.tree.map(lambda v: v[owner], specs)
        found = by_parts(lambda cell: bound(*cell), (cells, own), valid, options.part)
        survives = valid & ~done & ~found.proved
        in_doubt = survives & jnp.isfinite(found.doubt)
        worth = found.worth.reshape(len(owner), -1)
        parts, whole = halves(found.box, jnp.argmax(worth, axis=1))
        stuck = survives & whole
        survives = survives & ~stuck
        kept = _gathered(known.kept, rest, owner, valid)
        kept = _gathered(kept, found.box, owner, stuck)
        mine = owner == jnp.arange(classes)[:, None]
        join = jax.vmap(Reach.joined, in_axes=(0, None, 0))
        reach = join(known.reach, found.point, mine & valid & ~done & found.refutes)
        suspect = join(known.suspect, found.point, mine & in_doubt)
        bounded = (valid & ~done).astype(known.processed.dtype)
        processed = known.processed.at[owner].add(bounded)
        children = Cells(parts, jnp.concatenate([owner, owner]))
        wanted = jnp.concatenate([survives, survives])
        return Known(reach, suspect, kept, processed), children, wanted

    return advance(step, search, options.block, steps)


def _gathered(hulls: Box, boxes: Box, owner: Array, wanted: Array) -> Box:
    """Returns the hulls of each class with the wanted boxes of it."""
    where = jnp.where(wanted, owner, len(hulls.lo))
    return Box(
        hulls.lo.at[where].min(boxes.lo, mode="drop"),
        hulls.hi.at[where].max(boxes.hi, mode="drop"),
    )


@functools.partial(jax.jit, donate_argnames=("search",))
def farthest_first(tolerance: Float[Array, "*d"], search: Search) -> Search:
    """Returns the search with the cells that stick out most on top of the stack."""
    cells: Cells = search.items
    inner = jax.vmap(Reach.box)(search.known.reach)
    own = jax.tree.map(lambda v: v[cells.owner], inner)
    width = jnp.where(tolerance > 0, tolerance, 1)
    beyond = jax.vmap(_beyond)(cells.box, own) / width
    beyond = beyond.reshape(len(beyond), -1).max(axis=1)
    return search.ordered(beyond)


@jax.jit
def hulls(search: Search) -> Box:
    """Returns the hull of all that may hold points of each class, leaves (C, *d)."""
    cells: Cells = search.items
    inner = jax.vmap(Reach.box)(search.known.reach)
    known = jax.vmap(Box.hull)(inner, search.known.kept)
    left = jnp.arange(search.capacity) < search.count
    return _gathered(known, cells.box, cells.owner, left)


Stretch = Callable[[int, Reach, Reach, int], Reach]
"""(number of a class, its reach, points in doubt, turn) -> the reach, moved on"""


def split_domain(
    task: SplitTask,
    options: InputSplitOptions,
    stretch: Stretch,
    deadline: float,
    watches: Sequence[Stopwatch],
) -> tuple[Box, Reach, np.ndarray]:
    """Returns (dual boxes, instances, cells bounded) of all classes, numpy.

    The dual box of a class without points is [inf, -inf]. Runs where float64 is
    enabled.

    Args:
      task: see there.
      options: how cells are bounded, and how many fit.
      stretch: how instances are moved on between two chunks.
      deadline: `time.monotonic()` after which no further chunk begins.
      watches: of each class.
    """
    tolerance = jnp.asarray(_SPARE * task.tolerance)
    specs = [not_class(c, task.num_classes) for c in task.labels]
    spec: Spec = jax.tree.map(lambda *v: np.stack(v), *specs)
    options = options.fitted(task.program, len(spec.offset[0]), task.domain.lo.size)
    search, turn = _start(task, options), 0
    chunks = Chunks(
        functools.partial(
            run_chunk, task.program, options, task.params, spec, tolerance
        ),
        options.steps,
        deadline,
    )
    while chunks.wanted(search):
        if 2 * int(search.count) < options.capacity:
            search = farthest_first(tolerance, search)
        search = chunks.run(search)
        known = search.known
        moved = []
        for k in range(len(specs)):
            both = known.reach, known.suspect
            own, suspect = jax.tree.map(lambda v, k=k: v[k], both)
            moved.append(stretch(k, own, suspect, turn))
        reach = jax.tree.map(lambda *v: jnp.stack(v), *moved)
        nothing = jax.tree.map(lambda v: jnp.full_like(v, jnp.nan), known.suspect)
        search = search.learned(reach=reach, suspect=nothing)
        _note(watches, search)
        turn += 1
    outer, reach, processed = jax.device_get(
        (hulls(search), search.known.reach, search.known.processed)
    )
    return outer, reach, processed


def _note(watches: Sequence[Stopwatch], search: Search) -> None:
    """Tells the watches how wide the brackets are now; empty boxes have none."""
    inner_boxes = jax.vmap(Reach.box)(search.known.reach)
    outer, inner = jax.device_get((hulls(search), inner_boxes))
    for k, watch in enumerate(watches):
        if not np.all(outer.lo[k] <= outer.hi[k]):
            watch.note(0.0)
            continue
        gap = np.stack([inner.lo[k] - outer.lo[k], outer.hi[k] - inner.hi[k]])
        watch.note(gap.reshape(-1))


def _start(task: SplitTask, options: InputSplitOptions) -> Search:
    """Returns the search with cells that cover what lies beyond the instances.

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
    known = Known(
        reach=jax.tree.map(jnp.asarray, task.reach),
        suspect=jax.tree.map(
            lambda v: jnp.full(v.shape, jnp.nan, jnp.float64), task.reach
        ),
        kept=Box(infinite, -infinite),
        processed=jnp.zeros(count, jnp.int32),
    )
    cells = Cells(box, jnp.asarray(owner))
    return Search(cells, jnp.asarray(len(found), jnp.int32), known)


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
