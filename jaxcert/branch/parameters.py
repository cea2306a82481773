"""Branch and bound over the parameters of input families, many inputs in one stack.

Every input x of a batch has its own question about `theta -> f(params, x, theta)`: the
apothem around the parameters that leave x as it is, or the least value of every row of
a spec over a given box of parameters. All of them share one stack (`search.py`) of
parameter boxes. A step bounds each in float64, drops what is proved, evaluates the
centre of each box and the point at which its bound is least, and hands back the halves
of the rest.

    apothem   what must be proved is the box of one tolerance below the nearest witness
              known: a nearer witness shrinks it, and what was proved of the larger box
              stays proved.
    minimum   what must be proved is `row > least value seen - tolerance`: a smaller
              value lowers the bar, and what passed the higher one stays proved.

Nothing is dropped that was not proved or does not belong to the question any more, so
what is still on the stack at a deadline is exactly what is not proved.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxcert.bounds.backward import least_over, pull_to_input
from jaxcert.bounds.forward import forward_layers
from jaxcert.bounds.ibp import interval_rows
from jaxcert.bounds.rounding import float64_slack
from jaxcert.box import Box, outward
from jaxcert.branch.inputs import halves
from jaxcert.branch.linear_program import is_piecewise_linear
from jaxcert.branch.questions import (
    Known,
    ParameterBoxes,
    ParameterSplitOptions,
    Questions,
    distance_to,
    start_search,
)
from jaxcert.branch.search import Chunks, Search, advance, by_parts
from jaxcert.spec import Spec
from jaxcert.trace.equations import Values
from jaxcert.trace.program import Program
from jaxcert.witness.judge import point_slack

Goal = Literal["apothem", "minimum"]
# A form of `forward_layers` is three sums, each with the rounding of one bound; the
# fourth part is for the arithmetic on bars and boxes around it.
_SLACK_PARTS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class ParameterAnswer:
    """What branch and bound established.

    Attributes:
      radius: proved radius of every question, (n,); negative: none.
      bound: proved lower bound of every row over the box of `radius`, (n, rows).
      upper, witness: nearest violation found, (n,) and (n, k).
      processed: boxes bounded per question, (n,).
      open: questions that ran out of time, room or digits, (n,).
    """

    radius: np.ndarray
    bound: np.ndarray
    upper: np.ndarray
    witness: np.ndarray
    processed: np.ndarray
    open: np.ndarray


def _rows(
    program: Program, values: Values, spec: Spec, box: Box
) -> tuple[Array, Array, dict[int, Box]]:
    """Returns lower bounds of the rows, their coefficients, and all ranges."""
    boxes, relaxations = forward_layers(program, values, box)
    pulled, const, _ = pull_to_input(
        program, values, relaxations, boxes,
        {program.output: spec.coefficients}, spec.offset,
    )  # fmt: skip
    by_lines = least_over(pulled, const, box)
    by_interval = interval_rows(program, values, boxes, spec)
    return jnp.maximum(by_lines, by_interval), pulled, boxes


def _slack(
    program: Program, values: Values, boxes: dict[int, Box], spec: Spec
) -> Float[Array, ""]:
    slack = float64_slack(program, values, boxes, spec.coefficients)
    # Offsets need not be of the size of C y, which is what the slack covers.
    return _SLACK_PARTS * slack + 2.0**-48 * jnp.max(jnp.abs(spec.offset))


@functools.partial(jax.jit, static_argnames=("program",))
def with_slacks(
    program: Program, params: Any, questions: Questions, radius: Array
) -> Questions:
    """Returns the questions with the slack of their whole box: parts need no more."""

    def one(arguments: tuple[Any, Spec, Array]) -> Array:
        x, spec, radius = arguments
        box = questions.box(radius)
        values = program.prepare((params, x), box.lo.dtype)
        boxes, _ = forward_layers(program, values, box)
        return _slack(program, values, boxes, spec)

    slack = lax.map(one, (questions.x, questions.spec, radius))
    return dataclasses.replace(questions, slack=slack)


@functools.partial(
    jax.jit, static_argnames=("program", "options", "goal"), donate_argnames=("search",)
)
def _run_chunk(
    program: Program,
    options: ParameterSplitOptions,
    goal: Goal,
    params: Any,
    questions: Questions,
    search: Search,
    steps: Int[Array, ""],
) -> Search:
    """Returns the search after at most so many steps."""

    def step(
        state: Known, popped: ParameterBoxes, valid: Bool[Array, " block"]
    ) -> tuple[Known, ParameterBoxes, Bool[Array, " n"]]:
        boxes, owner, bound = popped.box, popped.owner, popped.bound
        asked_box = jax.vmap(questions.box)(state.radius[owner])
        boxes = jax.vmap(Box.intersect)(boxes, asked_box)
        wanted = valid & ~jax.vmap(Box.is_empty)(boxes)
        # What is not asked any more is bounded at a point, which costs least.
        still = Box.point(jnp.broadcast_to(questions.centre, boxes.lo.shape))
        boxes = jax.tree.map(
            lambda a, b: jnp.where(wanted[:, None], a, b), boxes, still
        )

        def one(item: tuple[Array, Box]) -> tuple[Array, ...]:
            owner, box = item
            x, spec = questions.select(owner)
            values = program.prepare((params, x), box.lo.dtype)
            rows, pulled, ranges = _rows(program, values, spec, box)
            slack = questions.slack[owner]
            # Of affine maps and ReLUs nothing in it depends on the ranges.
            if not is_piecewise_linear(program):
                slack = jnp.maximum(slack, _slack(program, values, ranges, spec))
            gap = rows - state.bar[owner]
            worst = pulled[jnp.argmin(jnp.where(jnp.isnan(gap), -jnp.inf, gap))]
            least = jnp.where(jnp.isfinite(worst) & (worst > 0), box.lo, box.hi)
            points = jnp.stack([least, box.center])
            at = jax.vmap(functools.partial(program.evaluate_prepared, values))(points)
            there = jnp.broadcast_to(slack, (len(points),))
            if program.jumps:  # at a point, by more than the ends of the box tell
                of = functools.partial(point_slack, program, values, spec)
                there = jnp.maximum(there, jax.vmap(of)(points))
            gain = jnp.nan_to_num(jnp.abs(worst), nan=1.0, posinf=1.0)
            axis = jnp.argmax((gain + 0.1 * gain.max() + 1e-30) * box.edges())
            return rows, slack, points, jax.vmap(spec.values)(at), there, axis

        found = by_parts(one, (owner, boxes), valid, options.part)
        rows, slack, points, at, there, axis = found
        # What was proved of a box holds for its parts; NaN proves nothing.
        bound = jnp.fmax(bound, rows - slack[:, None])
        asked = owner, wanted, there
        state = _learn(goal, questions, state, asked, points, at)
        survives = wanted & ~jnp.all(bound > state.bar[owner], axis=1)
        parts, whole = halves(boxes, axis)
        stuck = survives & whole
        survives &= ~stuck
        near = jax.vmap(functools.partial(distance_to, questions))
        stuck_at = jnp.where(stuck, near(boxes), jnp.inf)
        children = ParameterBoxes(
            parts, jnp.concatenate([owner, owner]), jnp.concatenate([bound, bound])
        )
        # The nearest boxes come on top: what is proved early is proved around x.
        order = jnp.argsort(-near(parts))
        state = dataclasses.replace(
            state,
            stuck=state.stuck.at[owner].min(stuck_at),
            processed=state.processed.at[owner].add(wanted),
        )
        kept = jnp.concatenate([survives, survives])[order]
        return state, jax.tree.map(lambda v: v[order], children), kept

    return advance(step, search, options.block, steps)


def _learn(
    goal: Goal,
    questions: Questions,
    state: Known,
    asked: tuple[Int[Array, " B"], Bool[Array, " B"], Float[Array, "B p"]],
    points: Float[Array, "B p k"],
    at: Float[Array, "B p rows"],
) -> Known:
    """Returns the state with what the rows at some points of the boxes say.

    Of every box: its question, whether it is one, and the slack at each point.
    """
    parts = points.shape[1]
    owner, valid = (jnp.repeat(v, parts) for v in asked[:2])
    slack = asked[2].reshape(-1)
    points, at = points.reshape((-1, points.shape[-1])), at.reshape((-1, at.shape[-1]))
    if goal == "minimum":
        lower = jnp.where(valid[:, None], at - questions.width, jnp.inf)
        return dataclasses.replace(state, bar=state.bar.at[owner].min(lower))
    violates = jnp.min(at - state.bar[owner], axis=1) <= -slack
    distance = jax.vmap(questions.rates.distance, (None, 0))(questions.centre, points)
    distance = jnp.where(valid & violates, outward(distance), jnp.inf)
    upper = state.upper.at[owner].min(distance)
    wins = (distance == upper[owner]) & (distance < state.upper[owner])
    # One winner each: two writes to one row could mix.
    index = jnp.arange(len(wins))
    winner = (
        jnp.full(upper.shape, len(wins))
        .at[owner]
        .min(jnp.where(wins, index, len(wins)))
    )
    point = points[jnp.minimum(winner, len(wins) - 1)]
    # Infinity minus an infinite width is no number, and no box would be left of it.
    below = jnp.where(jnp.isfinite(upper), upper - questions.width, jnp.inf)
    return dataclasses.replace(
        state,
        upper=upper,
        witness=jnp.where((winner < len(wins))[:, None], point, state.witness),
        radius=jnp.minimum(state.radius, below),
    )


def ask(
    program: Program,
    params: Any,
    questions: Questions,
    goal: Goal,
    radius: np.ndarray,
    known: tuple[np.ndarray, np.ndarray] | None = None,
    options: ParameterSplitOptions | None = None,
    deadline: float = np.inf,
) -> ParameterAnswer:
    """Returns what can be proved up to the given radii. Runs where float64 is enabled.

    With goal "apothem" and `questions.width` infinite the first violation ends a
    question: a yes or no about the box of its radius.

    Args:
      program: of `f((params, x), theta)`, which returns a vector.
      params: weights, float64.
      questions: what is asked, with the slacks of at least these radii.
      goal: see above.
      radius: greatest radius of interest per question, (n,); negative: do not ask.
      known: distance and parameters of violations already found, (n,) and (n, k).
      options: how boxes are split.
      deadline: `time.monotonic()` after which no further chunk begins.

    Raises:
      InputError: more boxes to start from than the stack holds.
    """
    n, rows = questions.spec.offset.shape
    options = (options or ParameterSplitOptions()).fitted(program, rows)
    k = len(questions.centre)
    upper, witness = known or (np.full(n, np.inf), np.full((n, k), np.nan))
    radius = np.array(radius, np.float64)
    known_one = np.isfinite(upper)  # infinity minus infinity is no number
    nearest = upper[known_one] - float(questions.width)
    radius[known_one] = np.minimum(radius[known_one], nearest)
    bar = np.full((n, rows), np.inf if goal == "minimum" else 0.0)
    search = start_search(questions, options, radius, bar, upper, witness)
    advance_by = functools.partial(
        _run_chunk, program, options, goal, params, questions
    )
    chunks = Chunks(advance_by, options.steps, deadline)
    while chunks.wanted(search):
        search = chunks.run(search)
    return _answer(questions, search)


def _answer(questions: Questions, search: Search) -> ParameterAnswer:
    near = jax.jit(jax.vmap(functools.partial(distance_to, questions)))(
        search.items.box
    )
    search, near = jax.device_get((search, near))
    items, state = search.items, search.known
    radius, left = np.array(state.radius), np.arange(len(near)) < search.count
    left &= near <= radius[items.owner]
    owner = items.owner[left]
    least, bound = np.array(state.stuck), np.array(state.bar)
    np.minimum.at(least, owner, near[left])
    np.minimum.at(bound, owner, items.bound[left])
    bound[np.isfinite(state.stuck)] = -np.inf
    is_open = ~(least > radius)  # a radius that is no number proves nothing
    return ParameterAnswer(
        radius=np.minimum(radius, least),
        bound=np.where(np.isfinite(bound), bound, -np.inf),
        upper=np.asarray(state.upper),
        witness=np.asarray(state.witness),
        processed=np.asarray(state.processed),
        open=is_open,
    )
