"""Branch and bound over the input box: complete for narrow inputs, of any activation.

One stack of boxes of fixed capacity. A step pops the top block, bounds every box by
CROWN in float64, drops what is proved, tries the point at which each bound is least as
a counterexample, and pushes the two halves of everything else, cut where the bound's
coefficients say that it pays most. Nothing is dropped that was not proved; a full stack
or a box too small to be cut leaves the answer UNKNOWN. Points that rounding leaves in
doubt are judged by the host between two chunks.

Boxes weigh what their inputs do: stack and block are sized by bytes (`memory.py`).
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
from jaxtyping import Array, Bool, Float, Int

from jaxcert.bounds.crown import CrownOptions, bound_layers
from jaxcert.bounds.ibp import interval_rows
from jaxcert.bounds.rounding import float64_slack
from jaxcert.box import Box
from jaxcert.branch.pace import Pace
from jaxcert.branch.stack import pop_block, push
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
class SplitState:
    """The stack and what was found.

    Attributes:
      stack: boxes, leaves (P, *d), float64; rows from `count` on mean nothing.
      count: boxes on the stack.
      witness: a point that violates the spec; NaN if none is known.
      refuted: whether there is one.
      suspect: the point of least margin of those that rounding leaves in doubt.
      suspect_margin: that margin; inf if there is none.
      stuck: whether a box came up that cannot be cut any more.
      processed: boxes bounded so far.
    """

    stack: Box
    count: Int[Array, ""]
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
    jax.jit, static_argnames=("program", "options"), donate_argnames=("state",)
)
def run_chunk(
    program: Program,
    options: InputSplitOptions,
    params: Any,
    spec: Spec,
    state: SplitState,
    steps: Int[Array, ""],
) -> SplitState:
    """Returns the state after at most so many steps."""
    block = options.block

    def more(carry: tuple[Array, SplitState]) -> Array:
        index, state = carry
        start = jnp.maximum(state.count - block, 0)
        room = start + 2 * block <= options.capacity
        going = (state.count > 0) & room & ~state.refuted & ~state.stuck
        return going & (index < steps)

    def body(carry: tuple[Array, SplitState]) -> tuple[Array, SplitState]:
        index, state = carry
        popped, start, valid = pop_block(state.stack, state.count, block)
        bound = functools.partial(bound_box, program, options.crown, params)
        proved, point, refutes, feature, doubt = jax.vmap(bound, in_axes=(0, None))(
            popped, spec
        )
        refutes = refutes & valid
        doubt = jnp.where(valid & ~proved, doubt, jnp.inf)
        worst = jnp.argmin(doubt)
        worse = doubt[worst] < state.suspect_margin
        survives = valid & ~proved
        low, high = jax.vmap(Box.split)(popped, feature)
        # Halves that equal their parent: the cut face has nowhere to go.
        whole = jax.vmap(lambda a, b: jnp.all((a.lo == b.lo) & (a.hi == b.hi)))
        stuck = jnp.any(survives & (whole(low, popped) | whole(high, popped)))
        children = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), low, high)
        wanted = jnp.concatenate([survives, survives])
        stack, count = push(state.stack, start, children, wanted)
        found = jnp.any(refutes)
        return index + 1, SplitState(
            stack=stack,
            count=count,
            witness=jnp.where(found, point[jnp.argmax(refutes)], state.witness),
            refuted=state.refuted | found,
            suspect=jnp.where(worse, point[worst], state.suspect),
            suspect_margin=jnp.minimum(doubt[worst], state.suspect_margin),
            stuck=state.stuck | stuck,
            processed=state.processed + jnp.sum(valid).astype(state.processed.dtype),
        )

    return lax.while_loop(more, body, (jnp.int32(0), state))[1]


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
    state = SplitState(
        stack=_stack_of(options.capacity, jax.tree.map(jnp.asarray, box)),
        count=jnp.ones((), jnp.int32),
        witness=jnp.full(np.shape(box.lo), jnp.nan),
        refuted=jnp.zeros((), bool),
        suspect=jnp.full(np.shape(box.lo), jnp.nan),
        suspect_margin=jnp.asarray(jnp.inf),
        stuck=jnp.zeros((), bool),
        processed=jnp.zeros((), jnp.int32),
    )
    pace, reason = Pace(options.steps, deadline), Reason.TIME
    witness, suspects = None, 0
    while time.monotonic() < deadline:
        before = int(state.processed)
        with pace.chunk() as steps:
            state = run_chunk(program, options, params, spec, state, steps)
            jax.block_until_ready(state)
        if bool(state.refuted):
            witness = np.asarray(state.witness)
        elif np.isfinite(state.suspect_margin) and suspects < MOST_SUSPECTS:
            suspects += 1
            found = judge.search(spec, box, np.asarray(state.suspect)[None])
            witness = None if found is None else found.point
            state = dataclasses.replace(state, suspect_margin=jnp.asarray(jnp.inf))
        if witness is not None:
            break
        if bool(state.stuck):
            reason = Reason.LIMIT
            break
        if int(state.processed) == before:
            reason = Reason.ROOM  # if boxes are left
            break
    proved = int(state.count) == 0 and witness is None and not bool(state.stuck)
    return InputAnswer(proved, witness, int(state.processed), reason)
