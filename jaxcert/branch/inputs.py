"""Branch and bound over the input box: complete for narrow inputs, of any activation.

The subproblems of this search (`search.py`) are boxes. A step bounds each by CROWN in
float64, drops what is proved, tries the point at which each bound is least as a
counterexample, and hands back the two halves of everything else, cut where the bound's
coefficients say that it pays most. A box too small to be cut leaves the answer UNKNOWN.
Points that rounding leaves in doubt are judged by the host between two chunks.

Boxes weigh what their inputs do: stack and block are sized by bytes (`memory.py`).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxcert.bounds.crown import CrownOptions, bound_layers
from jaxcert.bounds.ibp import interval_rows
from jaxcert.bounds.rounding import float64_slack
from jaxcert.box import Box
from jaxcert.branch.search import Chunks, Search, advance
from jaxcert.memory import room_for
from jaxcert.spec import Spec
from jaxcert.trace.program import Program
from jaxcert.verdict import Reason
from jaxcert.witness.judge import MOST_SUSPECTS, Judge


@dataclasses.dataclass(frozen=True)
class InputSplitOptions:
    """How the input box is split.

    Attributes:
      block: most boxes bounded per step.
      steps: most steps per call (a chunk).
      capacity: most boxes on the stack.
      crown: how each box is bounded.
    """

    block: int = 512
    steps: int = 20
    capacity: int = 1 << 18
    crown: CrownOptions = CrownOptions(bucket=16)

    def fitted(self, program: Program, rows: int) -> InputSplitOptions:
        """Returns the options with block and stack as large as the memory allows.

        Args:
          program: whose inputs are split.
          rows: of the spec that is bounded over every box.
        """
        sizes = [program.input_size, *(node.size for node in program.nodes)]
        asked = 2 * (self.crown.bucket or max(sizes))
        # Rows at two values and what is computed of them; ranges, lines and errors.
        step = 4 * max(asked, rows) * max(sizes) + 12 * sum(sizes)
        block = room_for(8 * step, 1, self.block)
        least = min(4 * block, self.capacity)
        capacity = room_for(16 * program.input_size, least, self.capacity)
        return dataclasses.replace(self, block=block, capacity=capacity)


class InputAnswer(NamedTuple):
    """What splitting the input came to.

    proved; witness: a point that violates the spec, or None; processed: boxes bounded;
    reason: why neither, where it is neither.
    """

    proved: bool
    witness: np.ndarray | None
    processed: int
    reason: Reason


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Known:
    """What a search over input boxes, leaves (P, *d) of float64, has learned.

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


def bound_box(
    program: Program, options: CrownOptions, params: Any, box: Box, spec: Spec
) -> tuple[Array, Array, Array, Array, Array]:
    """Returns whether the spec is proved, a point, whether it refutes, where to cut.

    The last result is the point's margin if rounding leaves in doubt whether it
    refutes, else inf: the slack is that of the whole box.
    """
    values = program.prepare(params, jnp.float64)
    layers = bound_layers(program, values, box, options)
    pulled, const = layers.lower({program.output: spec.coefficients}, spec.offset)
    by_interval = interval_rows(program, values, layers.boxes, spec)
    axes = tuple(range(1, pulled.ndim))
    least = jnp.where(pulled > 0, pulled * box.lo, pulled * box.hi).sum(axes) + const
    rows = jnp.maximum(least, by_interval)
    slack = float64_slack(program, values, layers.boxes, spec.coefficients)
    bar = slack
    if program.noisy:
        bar = float64_slack(
            program, values, layers.boxes, spec.coefficients, noise=False
        )
    proved = spec.margin(rows) > bar

    clauses = spec.clauses(rows)
    worst = jnp.argmin(jnp.where(jnp.isnan(clauses), -jnp.inf, clauses))
    inside = spec.clause == worst
    # The clause's best row decides it; cut where that row's bound has most to gain.
    row = jnp.argmax(jnp.where(inside, rows, -jnp.inf))
    point = jnp.where(pulled[row] > 0, box.lo, box.hi)
    point = jnp.where(jnp.isfinite(pulled[row]), point, box.center)
    gain = jnp.where(inside.reshape((-1,) + (1,) * box.lo.ndim), jnp.abs(pulled), 0)
    gain = jnp.nan_to_num(gain.sum(axis=0), nan=1.0, posinf=1.0)
    feature = jnp.argmax((gain + 1e-3 * gain.max() + 1e-30) * box.edges())

    def margin(z: Array) -> Array:
        y = program.evaluate_prepared(values, z)
        value = spec.margin(spec.values(y))
        return jnp.where(jnp.isnan(value), jnp.inf, value)

    at_point, at_center = margin(point), margin(box.center)
    point = jnp.where(at_point <= at_center, point, box.center)
    value = jnp.minimum(at_point, at_center)
    refutes = value <= -slack
    doubt = jnp.where(refutes | (value > slack), jnp.inf, value)
    return proved, point, refutes, feature, doubt


@functools.partial(
    jax.jit, static_argnames=("program", "options"), donate_argnames=("search",)
)
def run_chunk(
    program: Program,
    options: InputSplitOptions,
    params: Any,
    spec: Spec,
    search: Search,
    steps: Int[Array, ""],
) -> Search:
    """Returns the search after at most so many steps; it ends at a counterexample."""

    def step(
        known: Known, boxes: Box, valid: Bool[Array, " block"]
    ) -> tuple[Known, Box, Bool[Array, " n"]]:
        bound = functools.partial(bound_box, program, options.crown, params)
        proved, point, refutes, feature, doubt = jax.vmap(bound, in_axes=(0, None))(
            boxes, spec
        )
        refutes = refutes & valid
        survives = valid & ~proved
        doubt = jnp.where(survives, doubt, jnp.inf)
        worst = jnp.argmin(doubt)
        worse = doubt[worst] < known.suspect_margin
        children, whole = halves(boxes, feature)
        found = jnp.any(refutes)
        known = Known(
            witness=jnp.where(found, point[jnp.argmax(refutes)], known.witness),
            refuted=known.refuted | found,
            suspect=jnp.where(worse, point[worst], known.suspect),
            suspect_margin=jnp.minimum(doubt[worst], known.suspect_margin),
            stuck=known.stuck | jnp.any(survives & whole),
            processed=known.processed + jnp.sum(valid).astype(known.processed.dtype),
        )
        return known, children, jnp.concatenate([survives, survives])

    def going(known: Known) -> Array:
        return ~known.refuted & ~known.stuck

    return advance(step, search, options.block, steps, going)


def halves(boxes: Box, feature: Int[Array, " n"]) -> tuple[Box, Bool[Array, " n"]]:
    """Returns both halves of boxes, and which boxes have a half equal to themselves.

    Those cannot be cut any more: the cut face has nowhere to go.
    """
    low, high = jax.vmap(Box.split)(boxes, feature)
    whole = jax.vmap(lambda a, b: jnp.all((a.lo == b.lo) & (a.hi == b.hi)))
    parts = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), low, high)
    return parts, whole(low, boxes) | whole(high, boxes)


@functools.partial(jax.jit, static_argnames=("capacity",))
def _stack_of(capacity: int, box: Box) -> Box:
    """Returns a stack with one box on it."""

    def stacked(face: Array) -> Array:
        return jnp.zeros((capacity, *face.shape), face.dtype).at[0].set(face)

    return jax.tree.map(stacked, box)


def decide_by_input(
    judge: Judge,
    box: Box,
    spec: Spec,
    options: InputSplitOptions,
    deadline: float,
) -> InputAnswer:
    """Returns what can be decided by the deadline. Runs where float64 is enabled.

    Args:
      judge: of points that rounding leaves in doubt, and with it the network.
      box: numpy float64, not empty.
      spec: what must hold, float64.
      options: how the input box is split.
      deadline: `time.monotonic()` after which no further chunk begins.
    """
    program, params = judge.model.program, judge.model.double
    options = options.fitted(program, len(spec.offset))
    known = Known(
        witness=jnp.full(np.shape(box.lo), jnp.nan),
        refuted=jnp.zeros((), bool),
        suspect=jnp.full(np.shape(box.lo), jnp.nan),
        suspect_margin=jnp.asarray(jnp.inf),
        stuck=jnp.zeros((), bool),
        processed=jnp.zeros((), jnp.int32),
    )
    stack = _stack_of(options.capacity, jax.tree.map(jnp.asarray, box))
    search = Search(stack, jnp.ones((), jnp.int32), known)
    advance_by = functools.partial(run_chunk, program, options, params, spec)
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
    stuck, processed = bool(search.known.stuck), int(search.known.processed)
    proved = int(search.count) == 0 and witness is None and not stuck
    reason = Reason.LIMIT if stuck else chunks.reason
    return InputAnswer(proved, witness, processed, reason)
