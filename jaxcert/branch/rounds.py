"""Branch and bound in rounds.

First over the signs of the whole network, of all inputs together, which is all that
most of them need. Where that stalls, one input after the other: the network is reduced
to what the box leaves undecided, the ranges of its neurons are found by branch and
bound of their own, then each row of the spec; and the search over signs goes on in the
smaller network, with the narrower ranges.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert.bounds.alpha import Layout, Multipliers, default_slopes, layout_of
from jaxcert.box import Box
from jaxcert.branch.brackets import (
    ApothemAnswer,
    Beginning,
    Root,
    begin,
    boxes_to_prove,
    close_brackets,
)
from jaxcert.branch.instances import ApothemTask
from jaxcert.branch.leaves import Leaves, Proof
from jaxcert.branch.linear_program import is_piecewise_linear
from jaxcert.branch.neurons import (
    Kept,
    NeuronOptions,
    Trees,
    branched_ranges,
    least_rows,
)
from jaxcert.branch.reduced import Reduced, reduced
from jaxcert.branch.signs import BranchOptions
from jaxcert.devices import float64
from jaxcert.model import Model
from jaxcert.spec import Spec
from jaxcert.witness.judge import Judge

# By how much a proof must exceed 0, of the bounds at first: a checker rounds as well.
_SPARE = 2.0**-36


@float64()
def close_in_rounds(
    model: Model,
    task: ApothemTask,
    options: BranchOptions,
    deadline: Any = np.inf,
    judge: Judge | None = None,
) -> ApothemAnswer:
    """Returns what `close_brackets` does, which takes the same arguments.

    Where time is limited, inputs that need rounds of their own share what is left.
    """
    judge, layout = judge or Judge(model), task.layout(model.program)
    options = options.resolved(layout)
    neurons = _neurons(model, layout, options)
    if neurons is None or options.record:
        return close_brackets(model, task, options, deadline, judge)
    first, most = begin(model, task, options), neurons.after * np.sum(task.wanted)
    answer = close_brackets(
        model, task, options, deadline, judge, beginning=first, most=most
    )
    rows = np.flatnonzero(answer.open)
    for place, row in enumerate(rows):
        now = time.monotonic()
        if now >= deadline:
            break
        # It may come forward where there is but one.
        share = len(rows) - place
        until = deadline if share == 1 else now + (float(deadline) - now) / share
        mine, root = slice(row, row + 1), first.root
        own = dataclasses.replace(task, **(_rows(task, mine) | _found(answer, mine)))
        root = jax.tree.map(lambda v, mine=mine: v[mine], root)
        closed = _by_rounds(model, own, neurons, options, root, until, judge)
        answer = _with_row(answer, int(row), closed)
    return answer


def _neurons(
    model: Model, layout: Layout, options: BranchOptions
) -> NeuronOptions | None:
    """Returns how the ranges of neurons are branched; None if they are not."""
    plain = not options.narrowing(layout) or not is_piecewise_linear(model.program)
    # A network is reduced over a box.
    if plain or layout.joint or options.neurons is None or not options.neurons.rounds:
        return None
    return options.neurons


def _rows(record: Any, rows: slice) -> dict[str, Any]:
    """Returns the attributes of a task or an answer that have the inputs in front."""
    scalars = ("tolerance", "full", "proof")
    named = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    wanted = {name: v for name, v in named.items() if name not in scalars}
    return jax.tree.map(lambda v: np.asarray(v)[rows], wanted)


def _found(answer: ApothemAnswer, rows: slice) -> dict[str, Any]:
    """Returns what a task takes over from an answer."""
    named = _rows(answer, rows)
    return {name: named[name] for name in ("lower", "upper", "witness")}


def _with_row(answer: ApothemAnswer, row: int, closed: ApothemAnswer) -> ApothemAnswer:
    """Returns the answer with what was found of one input since, that was open."""

    def put(old: Any, new: Any) -> np.ndarray:
        whole = np.array(old)
        whole[row] = np.asarray(new)[0]
        return whole

    old, new = (_rows(each, slice(None)) for each in (answer, closed))
    new["processed"] = new["processed"] + answer.processed[row]
    full = answer.full or closed.full
    return dataclasses.replace(answer, **jax.tree.map(put, old, new), full=full)


def _by_rounds(
    model: Model,
    task: ApothemTask,
    neurons: NeuronOptions,
    options: BranchOptions,
    root: Root,
    deadline: Any,
    judge: Judge,
) -> ApothemAnswer:
    """Returns the bracket of a single input, as far as rounds close it."""
    work, small, answer = 0, None, None
    spec = jax.tree.map(lambda v: np.asarray(v)[0], task.spec)
    for number, splits in enumerate(neurons.rounds):
        radius, width, boxes = boxes_to_prove(task)
        box = jax.tree.map(lambda v: v[0], boxes)
        # What is left of the network says nothing of points beyond.
        within = dataclasses.replace(task.family, domain=jax.device_get(boxes))
        task = dataclasses.replace(task, family=within)
        try:
            small = _reduced_again(model, box, spec, root, small)
        except OverflowError:
            return close_brackets(model, task, options, deadline, judge)
        small, count = branched_ranges(neurons, small, box, splits, deadline)
        rows = small.maps[-1].combined(spec.coefficients, spec.offset)
        least, more = least_rows(
            neurons, small, len(small.ranges), box, rows, neurons.leaves, deadline
        )
        last = number == len(neurons.rounds) - 1
        answer = close_brackets(
            small.model, task, options, deadline, judge,
            beginning=Beginning(radius, width, boxes, _root(small, spec, least)),
            most=np.inf if last else neurons.after,
        )  # fmt: skip
        work += count + more + int(answer.processed[0])
        if not answer.open[0] or time.monotonic() >= deadline:
            break
        task = dataclasses.replace(task, **_found(answer, slice(None)))
    assert answer is not None  # there is a round at least
    return dataclasses.replace(answer, processed=np.array([work]))


def _reduced_again(
    model: Model, box: Box, spec: Spec, root: Root, small: Reduced | None
) -> Reduced:
    """Returns the network over the box, reduced from what is known of it."""
    if small is None:
        layout = layout_of(model.program)
        ranges, slack, cost = jax.tree.map(
            lambda v: v[0], (root.ranges, root.slack, root.cost)
        )
        return reduced(layout, model, box, ranges, spec.coefficients, (slack, cost))
    layout = layout_of(small.model.program)
    charges: Any = small.slack, small.cost
    ranges = small.named(layout)
    again = reduced(layout, small.model, box, ranges, spec.coefficients, charges)
    neurons = np.where(again.neurons >= 0, small.neurons[again.neurons], -1)
    return dataclasses.replace(again, neurons=neurons)


def _root(small: Reduced, spec: Spec, least: np.ndarray) -> Root:
    """Returns what the search over the signs of a reduced network starts from."""
    layout = layout_of(small.model.program)
    ranges = small.named(layout)
    clauses = spec.clauses(jnp.asarray(least))
    found = ranges, clauses, small.slack, small.cost, default_slopes(layout, ranges)
    nothing: tuple[dict, dict, dict] = {}, {}, {}
    return Root(*jax.tree.map(lambda v: np.asarray(v)[None], (*found, *nothing)))


@float64()
def prove_in_rounds(
    model: Model, task: ApothemTask, options: BranchOptions, deadline: float = np.inf
) -> Proof | None:
    """Returns the proof of a box whose ranges have proofs of their own; None without.

    Args:
      model: the network.
      task: of a single box.
      options, deadline: as of `close_brackets`; whatever they say of records.
    """
    layout = task.layout(model.program)
    neurons = _neurons(model, layout, options.resolved(layout))
    if neurons is None:
        return None
    first = begin(model, task, dataclasses.replace(options, record=True, cuts=None))
    spec, box, root = jax.tree.map(
        lambda v: np.asarray(v)[0], (task.spec, first.box, first.root)
    )
    small, trees = None, Trees()
    for splits in neurons.rounds:
        try:
            small = _reduced_again(model, box, spec, first.root, small)
        except OverflowError:
            return None
        small, _ = branched_ranges(neurons, small, box, splits, deadline, trees)
        spare = 2 * float(small.slack) + _SPARE * float(np.abs(root.clauses).max())
        rows = small.maps[-1].combined(spec.coefficients, spec.offset - spare)
        kept: Kept = {}
        least, _ = least_rows(
            neurons, small, len(small.ranges), box, rows, neurons.leaves, deadline, kept
        )
        best = [_best_row(spec, least, clause) for clause in range(spec.num_clauses)]
        if all(least[row] > 0 for row in best):
            number = {node.output: k for k, node in enumerate(layout.nodes)}
            return Proof(
                _of_clauses(small, layout.size, spec, [(r, kept[r]) for r in best]),
                {number[i]: slopes for i, slopes in root.recorded.items()},
                trees=tuple(trees.values()),
            )
        if time.monotonic() >= deadline:
            break
    return None


def _best_row(spec: Spec, least: np.ndarray, clause: int) -> int:
    own = np.flatnonzero(np.asarray(spec.clause) == clause)
    return int(own[np.argmax(least[own])])


def _of_clauses(
    small: Reduced, size: int, spec: Spec, proved: list[tuple[int, Leaves]]
) -> Leaves:
    """Returns leaves of rows of a reduced network as those of clauses of the network.

    Args:
      small: the reduced network.
      size: neurons of the network.
      spec: its rows and clauses.
      proved: a row of each clause, and its leaves.
    """
    live, members = small.neurons >= 0, np.asarray(spec.clause)
    parts, widest = [], np.bincount(members).max()
    for clause, (row, own) in enumerate(proved):

        def spread(v: Any) -> Any:
            whole = np.zeros((len(v), size), v.dtype)
            whole[:, small.neurons[live]] = v[:, live]
            return whole

        found, numbers = own.multipliers, own.owner + np.int32(clause)
        logits: Any = np.full((len(numbers), widest), -np.inf, np.float32)
        logits[:, np.count_nonzero(members[:row] == clause)] = 0
        multipliers = Multipliers(spread(found.slope), spread(found.split), logits)
        parts.append(Leaves(own.owner, numbers, spread(own.signs), multipliers))
    return Leaves.joined(parts)
