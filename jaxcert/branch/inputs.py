"""Branch and bound over the input box: complete for narrow inputs, of any activation.

The subproblems of this search (`search.py`) are boxes of the features that may vary. A
step cuts each of them in two halves, bounds these by CROWN in float64, drops what is
proved, tries the point at which each bound is least as a counterexample, clips what is
left to where the bounds allow counterexamples, and hands that back. Few features are
all tried, and the halves kept whose bounds lack least; else the box is cut where the
bounds' coefficients say that it pays most. A box too small to be cut leaves the answer
UNKNOWN. Points that rounding leaves in doubt are judged by the host between two chunks.

Boxes weigh what their features do: stack and part are sized by bytes (`memory.py`).

Source of the clipping: Zhou et al., "Clip-and-Verify", NeurIPS 2025.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxcert.bounds.backward import least_over
from jaxcert.bounds.crown import CrownOptions, Layers, bound_layers, matters
from jaxcert.bounds.forward import RowBounds
from jaxcert.bounds.ibp import interval_rows, propagate
from jaxcert.bounds.quadratic import is_quadratic, quadratic_rows
from jaxcert.bounds.rounding import float64_slack
from jaxcert.bounds.zonotope import generator_bytes, has_zonotopes, zonotope_rows
from jaxcert.box import FLUSHED, Box
from jaxcert.branch.search import Chunks, Search, SearchAnswer, advance, by_parts
from jaxcert.devices import LESS_OPTIMISED, jit_in_haste
from jaxcert.memory import room_for
from jaxcert.spec import Spec
from jaxcert.trace.activations import Relaxation
from jaxcert.trace.equations import Values
from jaxcert.trace.program import Program, is_relu
from jaxcert.witness.judge import MOST_SUSPECTS, Judge, point_slack

# Programs of more nodes than these, none of which has more elements, are compiled in
# haste: XLA takes most of a minute for those of a controller of 136 nodes, else 18 s.
_MANY_NODES, _LITTLE = 64, 64
# Numbers of features that vary are rounded up to a multiple of this, the least of which
# is how many are all tried.
_FEW = 8
# What the width of a feature counts beside the share of the lack that cutting it takes.
_MOVES = 0.1


@dataclasses.dataclass(frozen=True)
class InputSplitOptions:
    """How the input box is split.

    Attributes:
      block: most boxes bounded per step.
      part: how many of them at once.
      part_of_forms: how many where forms of second degree bound them.
      generators: most rows of a zonotope; such boxes are bounded one by one, and so
        many per step as `block_of_zonotopes` says.
      steps: most steps per call (a chunk).
      capacity: most boxes on the stack.
      crown: how each box is bounded.
    """

    block: int = 512
    part: int = 8
    part_of_forms: int = 64
    generators: int = 1280
    block_of_zonotopes: int = 4
    steps: int = 20
    capacity: int = 1 << 18
    crown: CrownOptions = CrownOptions(bucket=16)

    def for_zonotopes(self, program: Program) -> InputSplitOptions:
        """Returns the options with generators as the memory allows, in small blocks."""
        rows = room_for(generator_bytes(program), 64, self.generators)
        block = min(self.block, self.block_of_zonotopes)
        return dataclasses.replace(self, generators=rows, part=1, block=block)

    def fitted(self, program: Program, rows: int, free: int) -> InputSplitOptions:
        """Returns the options with part, block and stack as the memory allows.

        Args:
          program: whose inputs are split.
          rows: of the spec that is bounded over every box.
          free: features that vary, which are all that the stack holds.
        """
        sizes = [program.input_size, *(node.size for node in program.nodes)]
        asked = 2 * (self.crown.bucket or max(sizes))
        # Rows at two values and what is computed of them; ranges, lines and errors.
        step = 4 * max(asked, rows) * max(sizes) + 12 * sum(sizes)
        part = room_for(8 * step, 1, min(self.part, self.block))
        # What a block's boxes hand back: points, what is left of them, both its halves.
        block = room_for(64 * program.input_size, part, self.block)
        block = max(block // part, 1) * part
        least = min(2 * block, self.capacity)
        capacity = room_for(24 * free, least, self.capacity)
        return dataclasses.replace(self, part=part, block=block, capacity=capacity)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Known:
    """What a search over input boxes, leaves (P, k) of float64, has learned.

    Attributes:
      witness: a point that violates the spec; NaN if none is known.
      refuted: whether there is one.
      suspect: the point of least margin of those that rounding leaves in doubt.
      suspect_margin: that margin; inf if there is none.
      stuck: whether a box came up that cannot be cut any more.
      processed: boxes bounded so far.
    """

    witness: Float[Array, "*d"]
    refuted: Bool[Array, ""]
    suspect: Float[Array, "*d"]
    suspect_margin: Float[Array, ""]
    stuck: Bool[Array, ""]
    processed: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Open:
    """Boxes of the features that vary which are not proved.

    Attributes:
      box: leaves (n, k).
      worth, lacks: see `Bounded`, (n, k) and (n,).
      fresh: whether they were not bounded yet, (n,).
    """

    box: Box
    worth: Float[Array, "n k"]
    lacks: Float[Array, " n"]
    fresh: Bool[Array, " n"]


class Bounded(NamedTuple):
    """What is known of a box once it is bounded.

    Attributes:
      proved: whether the spec holds all over it.
      lacks: by how much all its clauses together are below what proves them.
      point: where its bound is least, or its centre; shape (*d).
      refutes: whether the spec is violated there.
      doubt: the margin there if rounding leaves in doubt whether it is, else inf: the
        slack is that of the whole box, and no less than that of the point.
      box: the part of it that holds all points that violate the spec, (*d).
      worth: how much is gained by cutting that part, per feature, (*d).
    """

    proved: Bool[Array, ""]
    lacks: Float[Array, ""]
    point: Float[Array, "*d"]
    refutes: Bool[Array, ""]
    doubt: Float[Array, ""]
    box: Box
    worth: Float[Array, "*d"]


class Slacks(NamedTuple):
    """What rounding may do anywhere in a box.

    Attributes:
      point: to the rows at a point.
      bound: to a lower bound of rows, which ranges over all ways to round to narrow
        types.
    """

    point: Float[Array, ""]
    bound: Float[Array, ""]


class Around(NamedTuple):
    """What is known of the whole box that is split, and holds in all of its parts."""

    boxes: dict[int, Box]
    slacks: Slacks


@functools.partial(jit_in_haste, when=lambda program: True)
def around_of(program: Program, params: Any, box: Box, spec: Spec) -> Around:
    """Returns ranges of all values over a box by intervals, and the slacks."""
    values = program.prepare(params, jnp.float64)
    boxes = propagate(program, values, box)
    point, bound = (
        float64_slack(program, values, boxes, spec.coefficients, noise=noise)
        for noise in (True, False)
    )
    return Around(boxes, Slacks(point, bound))


def bound_by_forms(
    program: Program, params: Any, around: Around, box: Box, spec: Spec
) -> Bounded:
    """Returns what forms of second degree say of a spec over one box, float64."""
    values = program.prepare(params, jnp.float64)
    found = quadratic_rows(program, values, box, spec, around.boxes)
    return _judged(program, values, box, spec, found, around.slacks)


def bound_by_zonotope(
    program: Program,
    params: Any,
    varying: Varying,
    capacity: int,
    box: Box,
    spec: Spec,
) -> Bounded:
    """Returns what a zonotope says of a spec over one box, float64.

    Its bounds are charged for rounding as they are made: there is no slack, and points
    that violate the spec as it is computed are left to the judge.
    """
    values = program.prepare(params, jnp.float64)
    found = zonotope_rows(program, values, box, varying.index, spec, capacity)
    bar = Slacks(jnp.asarray(jnp.inf), jnp.asarray(0.0))
    bounded = _judged(program, values, box, spec, found, bar)
    doubt = jnp.where(bounded.doubt <= 0, bounded.doubt, jnp.inf)
    return bounded._replace(doubt=doubt)


def bound_box(
    program: Program, options: CrownOptions, params: Any, box: Box, spec: Spec
) -> Bounded:
    """Returns what CROWN says of a spec over one box, float64."""
    values = program.prepare(params, jnp.float64)
    layers = bound_layers(program, values, box, options)
    pulled, least = _rows_of(layers, spec)
    by_interval = interval_rows(program, values, layers.boxes, spec)
    rows = jnp.maximum(least, by_interval)
    found = RowBounds(rows, pulled, least, jnp.abs(pulled))
    slack = float64_slack(program, values, layers.boxes, spec.coefficients)
    bar = slack
    if program.noisy:
        bar = float64_slack(
            program, values, layers.boxes, spec.coefficients, noise=False
        )
    return _judged(program, values, box, spec, found, Slacks(slack, bar))


def _rows_of(layers: Layers, spec: Spec) -> tuple[Float[Array, "rows *d"], Array]:
    """Returns coefficients and least values of lower bounds of the rows of a spec.

    Of every row the better one of two: by the lower lines of the layers, and by slope 0
    for all undecided ReLUs, which is valid since max(z, 0) >= 0.
    """
    program, every = layers.program, layers.relaxations

    def bounded(relaxations: dict[int, Relaxation]) -> tuple[Array, Array]:
        lines = dataclasses.replace(layers, relaxations=relaxations)
        rows = {program.output: spec.coefficients}
        pulled, const = lines.lower(rows, spec.offset)
        return pulled, least_over(pulled, const, layers.region)

    flat = dict(every)
    for node in program.nodes:
        if is_relu(node):
            own = every[node.output]
            undecided = matters(node, layers.boxes[node.inputs[0]])
            slope = jnp.where(undecided, 0, own.lower_slope)
            flat[node.output] = dataclasses.replace(own, lower_slope=slope)
    if all(flat[k] is every[k] for k in every):
        return bounded(every)
    both = jax.tree.map(lambda *v: jnp.stack(v), every, flat)
    pulled, least = jax.vmap(bounded)(both)
    better = least[1] > least[0]
    wide = better.reshape((-1,) + (1,) * (pulled.ndim - 2))
    return jnp.where(wide, pulled[1], pulled[0]), jnp.where(better, least[1], least[0])


def _judged(
    program: Program,
    values: Values,
    box: Box,
    spec: Spec,
    found: RowBounds,
    slacks: Slacks,
) -> Bounded:
    """Returns what bounds of the rows say of a box, and its points."""
    rows, pulled, least, gains = found
    slack, bar = slacks.point, slacks.bound
    clauses = spec.clauses(rows)
    parts, empty = violations(box, spec, pulled, least, bar)
    left = ~((clauses > bar) | (empty & ~jnp.isnan(clauses)))
    wide = left.reshape((-1,) + (1,) * box.lo.ndim)
    # Something undefined anywhere says nothing of any point.
    sure = ~jnp.any(jnp.isnan(clauses)) & jnp.any(left)
    clipped = Box(
        jnp.where(sure, jnp.where(wide, parts.lo, jnp.inf).min(axis=0), box.lo),
        jnp.where(sure, jnp.where(wide, parts.hi, -jnp.inf).max(axis=0), box.hi),
    )

    worst = jnp.argmin(jnp.where(jnp.isnan(clauses), -jnp.inf, clauses))
    inside = spec.clause == worst
    # The clause's best row decides it; cut where that row's bound has most to gain.
    row = jnp.argmax(jnp.where(inside, rows, -jnp.inf))
    point = jnp.where(pulled[row] > 0, box.lo, box.hi)
    point = jnp.where(jnp.isfinite(pulled[row]), point, box.center)
    gain = jnp.where(inside.reshape((-1,) + (1,) * box.lo.ndim), gains, 0)
    gain = jnp.nan_to_num(gain.sum(axis=0), nan=1.0, posinf=1.0)

    def margin(z: Array) -> Array:
        y = program.evaluate_prepared(values, z)
        value = spec.margin(spec.values(y))
        return jnp.where(jnp.isnan(value), jnp.inf, value)

    at_point, at_center = jax.vmap(margin)(jnp.stack([point, box.center]))
    point = jnp.where(at_point <= at_center, point, box.center)
    value = jnp.minimum(at_point, at_center)
    if program.jumps:  # at the point, by more than the ends of the box tell
        slack = jnp.maximum(slack, point_slack(program, values, spec, point))
    refutes = value <= -slack
    return Bounded(
        proved=~jnp.any(left),
        lacks=jnp.sum(jnp.where(left, jnp.maximum(bar - clauses, 0), 0)),
        point=point,
        refutes=refutes,
        doubt=jnp.where(refutes | (value > slack), jnp.inf, value),
        box=clipped,
        worth=(gain + 1e-3 * gain.max() + 1e-30) * clipped.edges(),
    )


def violations(
    box: Box,
    spec: Spec,
    pulled: Float[Array, "rows *d"],
    least: Float[Array, " rows"],
    bar: Float[Array, ""],
) -> tuple[Box, Bool[Array, " clauses"]]:
    """Returns boxes that hold all violations of each clause, and which are empty.

    A clause is violated where none of its rows is > 0. A row is at least A z + c - bar,
    whose least value over the box is l - bar; with a_i > 0 it is at least
    a_i (z_i - lo_i) + l - bar, so that z_i <= lo_i + (bar - l) / a_i wherever the row
    is not positive, and likewise from above where a_i < 0. The bar counts twice here,
    once for the rounding of these few operations, which are rounded outward besides.

    Args:
      box: a box, float64.
      spec: whose clauses are asked about.
      pulled, least: A of every row, and l.
      bar: what rounding may do to a row's bound anywhere in the box.
    """
    spare = (2 * bar - least).reshape((-1,) + (1,) * box.lo.ndim)
    step = spare / jnp.abs(pulled) * (1 + 2.0**-40) + 2.0**-1000  # not flushed to 0
    step = jnp.where(jnp.isfinite(step) & jnp.isfinite(pulled), step, jnp.inf)
    hi = jnp.where(pulled > 0, jnp.nextafter(box.lo + step, jnp.inf), box.hi)
    lo = jnp.where(pulled < 0, jnp.nextafter(box.hi - step, -jnp.inf), box.lo)
    lo = jax.ops.segment_max(jnp.maximum(lo, box.lo), spec.clause, spec.num_clauses)
    hi = jax.ops.segment_min(jnp.minimum(hi, box.hi), spec.clause, spec.num_clauses)
    return Box(lo, hi), jnp.any(lo > hi, axis=tuple(range(1, lo.ndim)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Varying:
    """The features of a box that vary; the others stay what they are.

    Attributes:
      box: the whole box, (*d).
      index: of the features that vary, and of some others, in row-major order, (k,).
    """

    box: Box
    index: Int[Array, " k"]

    @staticmethod
    def of(box: Box) -> Varying:
        """Returns the features of a box that have an edge.

        Some others are added, so that their number is one of few: it is a shape of
        compiled programs, which many boxes of a network share.
        """
        fixed = np.asarray(box.lo == box.hi).reshape(-1)
        wanted = -(-np.count_nonzero(~fixed) // _FEW) * _FEW
        first = np.argsort(fixed, kind="stable")[: max(wanted, _FEW)]
        return Varying(box, jnp.asarray(np.sort(first)))

    def part(self, v: Float[Array, "*d"]) -> Float[Array, " k"]:
        """Returns what belongs to the features that vary."""
        return v.reshape(-1)[self.index]

    def whole(self, part: Box) -> Box:
        """Returns the box whose varying features lie in `part`, leaves (k,)."""

        def put(v: Array, part: Array) -> Array:
            return v.reshape(-1).at[self.index].set(part).reshape(v.shape)

        return jax.tree.map(put, self.box, part)


def _long(program: Program) -> bool:
    """Whether a program is many operations on little: compiling is what takes long."""
    return len(program.nodes) > _MANY_NODES and all(
        node.size <= _LITTLE for node in program.nodes
    )


def _chunk(
    program: Program,
    options: InputSplitOptions,
    params: Any,
    spec: Spec,
    varying: Varying,
    around: Around | None,
    search: Search,
    steps: Int[Array, ""],
) -> Search:
    """Returns the search after at most so many steps; it ends at a counterexample.

    Boxes are bounded by forms of second degree where `around` is given, else by
    zonotopes where the program has them, else by CROWN. These say how much they lose by
    each feature; CROWN does not, and of few features all are tried.
    """
    features = varying.index.size
    zonotopes = around is None and has_zonotopes(program, features)
    tried = features if around is None and not zonotopes and features <= _FEW else 1

    def bound(part: Box) -> Bounded:
        box = varying.whole(part)
        if around is not None:
            found = bound_by_forms(program, params, around, box, spec)
        elif zonotopes:
            rows = options.generators
            found = bound_by_zonotope(program, params, varying, rows, box, spec)
        else:
            found = bound_box(program, options.crown, params, box, spec)
        return found._replace(
            box=jax.tree.map(varying.part, found.box), worth=varying.part(found.worth)
        )

    def step(
        known: Known, boxes: Open, valid: Bool[Array, " block"]
    ) -> tuple[Known, Open, Bool[Array, " n"]]:
        parts, shares, wanted = _parts_of(boxes, valid, tried)
        asked = wanted.reshape(-1)
        first = jnp.argsort(~asked, stable=True)
        flat = jax.tree.map(lambda v: v.reshape((-1, features))[first], parts)
        most = min(options.part, asked.size)
        found = by_parts(bound, flat, asked[first], most)
        found = jax.tree.map(lambda v: v[jnp.argsort(first)], found)
        refutes = found.refutes & asked
        doubt = jnp.where(asked & ~found.proved, found.doubt, jnp.inf)
        worst = jnp.argmin(doubt)
        worse = doubt[worst] < known.suspect_margin
        chosen = _best(found.lacks.reshape(wanted.shape), boxes.lacks, shares, wanted)

        def of_chosen(v: Array) -> Array:
            v = v.reshape((*wanted.shape, *v.shape[1:]))
            return jnp.concatenate(list(v[:, jnp.arange(len(valid)), chosen]))

        children = Open(
            jax.tree.map(of_chosen, found.box),
            of_chosen(found.worth),
            of_chosen(found.lacks),
            jnp.zeros(2 * len(valid), bool),
        )
        uncut = valid & ~jnp.any(wanted, axis=(0, 2))
        any_refutes = jnp.any(refutes)
        witness = found.point[jnp.argmax(refutes)]
        known = Known(
            witness=jnp.where(any_refutes, witness, known.witness),
            refuted=known.refuted | any_refutes,
            suspect=jnp.where(worse, found.point[worst], known.suspect),
            suspect_margin=jnp.minimum(doubt[worst], known.suspect_margin),
            stuck=known.stuck | jnp.any(uncut),
            processed=known.processed + jnp.sum(asked).astype(known.processed.dtype),
        )
        return known, children, of_chosen(asked & ~found.proved)

    def going(known: Known) -> Array:
        return ~known.refuted & ~known.stuck

    return advance(step, search, max(options.block // (2 * tried), 1), steps, going)


def _parts_of(
    boxes: Open, valid: Bool[Array, " n"], tried: int
) -> tuple[Box, Float[Array, "n t"], Bool[Array, "2 n t"]]:
    """Returns halves of boxes along the features that are worth most, (2, n, t, k).

    Also the shares of these features in what all are worth; and which halves there are,
    none where a box cannot be cut. A fresh box has one part, the first: itself.
    """
    worth, feature = jax.lax.top_k(boxes.worth, tried)
    each = jax.tree.map(lambda v: jnp.repeat(v, tried, axis=0), boxes.box)
    parts, whole = halves(each, feature.reshape(-1))
    fresh = boxes.fresh[:, None]
    both = ~fresh & ~whole.reshape(feature.shape)
    once = fresh & (jnp.arange(tried) == 0)
    wanted = jnp.stack([both | once, both]) & valid[:, None]

    def part(half: Array, own: Array) -> Array:
        half = half.reshape((*wanted.shape, -1))
        return jnp.where(fresh[..., None], own[:, None], half)

    share = worth / jnp.sum(boxes.worth, axis=1, keepdims=True)
    return jax.tree.map(part, parts, boxes.box), share, wanted


def _best(
    left: Float[Array, "2 n t"],
    lacks: Float[Array, " n"],
    shares: Float[Array, "n t"],
    wanted: Bool[Array, "2 n t"],
) -> Int[Array, " n"]:
    """Returns which of the features tried has the halves that lack least.

    Bounds may get looser by cutting: a half lacks no more than its box. What features
    are worth counts a little, or one that changes nothing would be cut again and again.

    Args:
      left: what the halves lack.
      lacks: what the boxes do.
      shares, wanted: see `_parts_of`.
    """
    score = jnp.sum(1 - jnp.fmin(left / lacks[:, None], 1), axis=0)
    score = jnp.nan_to_num(score) + _MOVES * jnp.nan_to_num(shares)
    return jnp.argmax(jnp.where(wanted[0], score, -jnp.inf), axis=1)


_compiled = functools.partial(
    jit_in_haste, _chunk, static_argnames=("program", "options"),
    donate_argnames=("search",),
)  # fmt: skip
run_chunk = _compiled(when=_long)
"""`_chunk`, compiled for CROWN and forms of second degree."""
_run_zonotopes = _compiled(when=lambda program: True, options=LESS_OPTIMISED)


def halves(boxes: Box, feature: Int[Array, " n"]) -> tuple[Box, Bool[Array, " n"]]:
    """Returns both halves of boxes, and which boxes cannot be cut any more.

    They have a half equal to themselves, for the cut face has nowhere to go; or the cut
    edge is so short that XLA flushes what is computed of its halves.
    """
    low, high = jax.vmap(Box.split)(boxes, feature)
    whole = jax.vmap(lambda a, b: jnp.all((a.lo == b.lo) & (a.hi == b.hi)))
    edge = jax.vmap(lambda box, i: box.edges().reshape(-1)[i])(boxes, feature)
    parts = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), low, high)
    return parts, whole(low, boxes) | whole(high, boxes) | (edge < FLUSHED)


@functools.partial(jax.jit, static_argnames=("capacity",))
def _stack_of(capacity: int, box: Box) -> Open:
    """Returns a stack with one box on it, (k,), which was not bounded yet."""

    def stacked(face: Array) -> Array:
        return jnp.zeros((capacity, *face.shape), face.dtype).at[0].set(face)

    boxes = jax.tree.map(stacked, box)
    none = jnp.zeros_like(boxes.lo)
    return Open(boxes, none, none[:, 0], jnp.arange(capacity) == 0)


def decide_by_input(
    judge: Judge,
    box: Box,
    spec: Spec,
    options: InputSplitOptions,
    deadline: float,
) -> SearchAnswer:
    """Returns what can be decided by the deadline. Runs where float64 is enabled.

    Args:
      judge: of points that rounding leaves in doubt, and with it the network.
      box: numpy float64, not empty; XLA flushes nothing of it, see `Box.normal`.
      spec: what must hold, float64.
      options: how the input box is split.
      deadline: `time.monotonic()` after which no further chunk begins.
    """
    program, params = judge.model.program, judge.model.double
    whole = jax.tree.map(jnp.asarray, box)
    varying, around = Varying.of(whole), None
    if is_quadratic(program):
        around = around_of(program, params, whole, spec)
        if np.isfinite(around.slacks.bound):
            options = dataclasses.replace(options, part=options.part_of_forms)
        else:
            around = None  # known of no part, it may be of some
    run = run_chunk
    if around is None and has_zonotopes(program, varying.index.size):
        options, run = options.for_zonotopes(program), _run_zonotopes
    options = options.fitted(program, len(spec.offset), varying.index.size)
    known = Known(
        witness=jnp.full(np.shape(box.lo), jnp.nan),
        refuted=jnp.zeros((), bool),
        suspect=jnp.full(np.shape(box.lo), jnp.nan),
        suspect_margin=jnp.asarray(jnp.inf),
        stuck=jnp.zeros((), bool),
        processed=jnp.zeros((), jnp.int32),
    )
    stack = _stack_of(options.capacity, jax.tree.map(varying.part, whole))
    search = Search(stack, jnp.ones((), jnp.int32), known)
    advance_by = functools.partial(run, program, options, params, spec, varying, around)
    chunks = Chunks(advance_by, options.steps, deadline)
    witness, suspects = None, 0
    while witness is None and not bool(search.known.stuck) and chunks.wanted(search):
        search = chunks.run(search)
        known = search.known
        if bool(known.refuted):
            witness = np.asarray(known.witness)
        elif np.isfinite(known.suspect_margin) and suspects < MOST_SUSPECTS:
            suspects += 1
            found = judge.search(spec, box, np.asarray(known.suspect)[None])
            witness = None if found is None else found.point
            search = search.learned(suspect_margin=jnp.asarray(jnp.inf))
    return SearchAnswer.of(search, chunks, witness)
