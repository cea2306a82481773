"""Branch and bound over the signs of what a box leaves undecided of a wide network.

Where a network has thousands of neurons and a box leaves some hundreds of them, bounds
of the whole network take most of the time, and compiling a step for its many layers
the rest. Here the undecided neurons are found layer by layer (`undecided.py`), then the
rows of the spec are bounded, by CROWN, by optimised slopes, and by those with ranges
that optimised slopes narrow; and clauses that are left are branched, by one step for
all blocks of neurons (`blocks.py`). Each begins only where that before is not enough.

A step bounds the top block of the stack, with slopes and multipliers optimised in
float32 and the bound decided in float64, and splits what is left by looking ahead, as
`signs.py` does. Ranges stay those of the root. Points where bounds are taken are
candidates for counterexamples, which the host judges.
"""

from __future__ import annotations

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxcert.bounds import blocks
from jaxcert.bounds.alpha import layout_of
from jaxcert.bounds.ascent import AscentOptions
from jaxcert.bounds.blocks import Blocks, Chosen, Pulled, Rows
from jaxcert.bounds.cuts import cast_floats
from jaxcert.bounds.undecided import Maps, Undecided, is_reducible
from jaxcert.box import Box
from jaxcert.branch.branching import chord_height, kinks, weight, worth
from jaxcert.branch.linear_program import is_piecewise_linear
from jaxcert.branch.search import Chunks, Search, SearchAnswer, advance
from jaxcert.memory import room_for
from jaxcert.spec import Spec
from jaxcert.trace.program import Program
from jaxcert.verdict import Reason
from jaxcert.witness.judge import MOST_SUSPECTS, Judge


@dataclasses.dataclass(frozen=True)
class WideOptions:
    """How wide networks are decided.

    Attributes:
      above: ReLU neurons above which a network is one.
      slopes: evaluations of the bounds of rows before ranges are narrowed.
      tighten: evaluations per end of a range.
      root: evaluations of the bounds of rows then.
      block: subproblems that are bounded per step.
      ascent: how multipliers of subproblems are optimised.
      lookahead: neurons that are tried before one is split.
      patience: how often a subproblem without a neuron to split is tried again.
      capacity: most subproblems on the stack.
      steps: most steps per call (a chunk).
    """

    above: int = 4096
    slopes: int = 15
    tighten: int = 5
    root: int = 15
    block: int = 64
    ascent: AscentOptions = AscentOptions(iterations=5, decay=0.9)
    lookahead: int = 4
    patience: int = 8
    capacity: int = 1 << 13
    steps: int = 20


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Subproblems:
    """Rows with some signs fixed, leaves (P, ...).

    Attributes:
      row: which one.
      signs: -1, 0 or 1 per neuron, int8.
      slope, split: where the optimisation starts, float32; see `blocks.Chosen`.
      tries: how often it came back without a neuron to split.
    """

    row: Int[Array, " P"]
    signs: Int[Array, "P N"]
    slope: Float[Array, "P N"]
    split: Float[Array, "P N"]
    tries: Int[Array, " P"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Known:
    """What a search has learned.

    Attributes:
      suspect: the point of least value of its row, (d,).
      suspect_value: that value; inf if there is none.
      stuck: whether a subproblem came up that can be neither proved nor split.
      processed: subproblems bounded so far.
    """

    suspect: Float[Array, " d"]
    suspect_value: Float[Array, ""]
    stuck: Bool[Array, ""]
    processed: Int[Array, ""]


@functools.partial(jax.jit, static_argnames=("options",), donate_argnames=("search",))
def run_chunk(
    options: WideOptions,
    left: tuple[Blocks, Blocks],
    rows: Rows,
    search: Search,
    steps: Int[Array, ""],
) -> Search:
    """Returns the search after at most so many steps."""
    double, single = left

    def step(
        known: Known, items: Subproblems, valid: Bool[Array, " block"]
    ) -> tuple[Known, Subproblems, Bool[Array, " n"]]:
        asked = rows.at(items.row)
        pace = jnp.float32(0.7) ** items.tries[:, None]
        begin = Chosen(items.slope, items.split)
        best = blocks.ascended(single, asked, items.signs, begin, options.ascent, pace)
        found = blocks.least(double, asked, items.signs, best)
        left = valid & ~(found.bound > 0)
        points = blocks.corner(double, found)
        value = jnp.where(left, blocks.values(double, asked, points), jnp.inf)
        worst = jnp.nanargmin(value)
        worse = value[worst] < known.suspect_value
        neuron, splittable = _neuron_to_split(
            options, single, asked, items.signs, best, found
        )
        tries = items.tries + ~splittable
        known = Known(
            suspect=jnp.where(worse, points[worst], known.suspect),
            suspect_value=jnp.where(worse, value[worst], known.suspect_value),
            stuck=known.stuck | jnp.any(left & (tries > options.patience)),
            processed=known.processed + jnp.sum(valid).astype(known.processed.dtype),
        )
        parts = [
            _with_sign(items.signs, best, found.at_output, neuron, sign * splittable)
            for sign in (1, -1)
        ]
        children = [
            Subproblems(items.row, signs, chosen.slope, chosen.split, tries)
            for signs, chosen in parts
        ]
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *children)
        # What cannot be split is its own first child.
        return known, both, jnp.concatenate([left, left & splittable])

    def going(known: Known) -> Array:
        return ~known.stuck & ~(known.suspect_value <= 0)

    return advance(step, search, options.block, steps, going)


def _with_sign(
    signs: Array, chosen: Chosen, at_output: Array, neuron: Array, sign: Array | int
) -> tuple[Array, Chosen]:
    """Returns signs with that of a neuron fixed, and what its bound starts from.

    The sign 0 leaves all as it is.
    """
    each = jnp.arange(len(signs))
    starts = kinks(chosen.slope[each, neuron], at_output[each, neuron])
    start = jnp.where(sign > 0, starts[:, 0], starts[:, 1]).astype(jnp.float32)
    start = jnp.where(sign != 0, start, chosen.split[each, neuron])
    fixed = jnp.where(sign != 0, sign, signs[each, neuron]).astype(signs.dtype)
    split = chosen.split.at[each, neuron].set(start)
    return signs.at[each, neuron].set(fixed), Chosen(chosen.slope, split)


def _neuron_to_split(
    options: WideOptions,
    single: Blocks,
    rows: Rows,
    signs: Array,
    chosen: Chosen,
    pulled: Pulled,
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
    """Returns the neurons whose children gain most at once, and whether one is free.

    As `branching.look_ahead`: both children of the neurons of the best scores are
    bounded with the multipliers that they start from; the product of gains counts.
    """
    z = single.ranges
    free = blocks.undecided(z.lo, z.hi) & (signs == 0)
    rows, pulled = cast_floats((rows, pulled), jnp.float32)
    gap = chord_height(z, free)
    scores = jnp.where(free, weight(pulled.at_output) * gap + 1e-30, -1.0)
    best, neurons = lax.top_k(scores, options.lookahead)

    def gain(asked: tuple[Array, Array]) -> Array:
        child = _with_sign(signs, chosen, pulled.at_output, *asked)
        return blocks.least(single, rows, *child).bound - pulled.bound

    both = (
        jnp.repeat(neurons.T, 2, axis=0),
        jnp.tile(jnp.array([1, -1]), neurons.shape[1]),
    )
    gains = lax.map(gain, both).reshape(-1, 2, len(signs)).swapaxes(0, 1)
    value = worth(gains, pulled.bound).T
    first = jnp.argmax(jnp.where(best > 0, value, -jnp.inf), axis=1)
    neuron = jnp.take_along_axis(neurons, first[:, None], axis=1)[:, 0]
    return neuron, jnp.any(free, axis=1)


def is_wide(program: Program, spec: Spec, options: WideOptions) -> bool:
    """Returns whether a network is wide, and each row of a spec a clause of its own.

    Nor are all ranges of neurons exact by intervals, as those of one layer are: then
    the roots of the whole network are bounded in less time.
    """
    layout = layout_of(program)
    wide = layout.size > options.above and is_piecewise_linear(program)
    alone = spec.num_clauses == len(spec.offset)
    return wide and bool(layout.improvable) and alone and is_reducible(program)


def decide_wide(
    judge: Judge, box: Box, spec: Spec, options: WideOptions, deadline: float
) -> SearchAnswer:
    """Returns what can be decided by the deadline. Runs where float64 is enabled.

    The reason is ROOM where too much is undecided, or too much open.

    Args:
      judge: of points that may be counterexamples, and with it the network.
      box: numpy float64, not empty.
      spec: what must hold, numpy float64; see `is_wide`.
      options: how it is decided.
      deadline: `time.monotonic()` after which nothing more is begun.
    """
    model = judge.model
    left = Undecided(model.program, model.prepared, box, deadline)

    def unknown() -> Reason:
        return Reason.TIME if time.monotonic() >= deadline else Reason.ROOM

    if not left.reduce():
        return SearchAnswer(False, None, 0, unknown())
    maps = left.rows_of(spec)
    stages = (False, 0), (False, options.slopes), (True, options.root)
    for narrower, iterations in stages:
        if narrower:
            left.tighten(options.tighten)
        if time.monotonic() >= deadline:
            return SearchAnswer(False, None, 0, Reason.TIME)
        least, slopes = left.least(maps, iterations)
        wanted = ~(least > 0)
        maps, slopes = maps.at(wanted), slopes[wanted]
        if not wanted.any():
            return SearchAnswer(True, None, 0, Reason.BOUND)
    return _branched(judge, box, spec, options, deadline, left, maps, slopes)


def _branched(
    judge: Judge,
    box: Box,
    spec: Spec,
    options: WideOptions,
    deadline: float,
    left: Undecided,
    maps: Maps,
    slopes: Float[np.ndarray, "rows N"],
) -> SearchAnswer:
    """Returns what branching rows comes to, from these lower slopes."""
    count, size = slopes.shape
    room = room_for(9 * size, max(4 * options.block, 2 * count), options.capacity)
    start = Subproblems(
        jnp.arange(count, dtype=jnp.int32), jnp.zeros((count, size), jnp.int8),
        jnp.asarray(slopes), jnp.zeros((count, size), jnp.float32),
        jnp.zeros(count, jnp.int32),
    )  # fmt: skip
    items = jax.tree.map(
        lambda v: jnp.zeros((room, *v.shape[1:]), v.dtype).at[:count].set(v), start
    )
    shape = np.shape(box.lo)
    known = Known(
        suspect=jnp.zeros(maps.of_input.shape[1]),
        suspect_value=jnp.asarray(jnp.inf),
        stuck=jnp.zeros((), bool),
        processed=jnp.zeros((), jnp.int32),
    )
    asked = maps.rows(left.before)
    search = Search(items, jnp.asarray(np.int32(count)), known)
    advance_by = functools.partial(run_chunk, options, left.blocks, asked)
    chunks = Chunks(advance_by, options.steps, deadline)
    witness, suspects = None, 0
    while witness is None and not bool(search.known.stuck) and chunks.wanted(search):
        search = chunks.run(search)
        if float(search.known.suspect_value) <= 0:
            if suspects < MOST_SUSPECTS:
                point = np.asarray(search.known.suspect).reshape(shape)
                point = np.clip(point, box.lo, box.hi)  # of the box around it
                found = judge.search(spec, box, point[None])
                witness = None if found is None else found.point
            suspects += 1
            nothing = jnp.asarray(jnp.inf)
            search = search.learned(suspect_value=nothing)
    return SearchAnswer.of(search, chunks, witness)
