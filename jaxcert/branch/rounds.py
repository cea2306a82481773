"""Branch and bound of a single input, in rounds.

First over the signs of the whole network, which is all that most inputs need. Where
that stalls the network is reduced to what the box leaves undecided, the ranges of its
neurons are found by branch and bound of their own, then each row of the spec; and the
search over signs goes on in the smaller network, with the narrower ranges.
"""

from __future__ import annotations

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert.bounds.alpha import default_slopes, layout_of
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
from jaxcert.branch.neurons import branched_ranges, least_rows
from jaxcert.branch.reduced import Reduced, reduced
from jaxcert.branch.signs import BranchOptions
from jaxcert.devices import float64
from jaxcert.model import Model
from jaxcert.spec import Spec
from jaxcert.witness.judge import Judge


@float64()
def close_bracket(
    model: Model,
    task: ApothemTask,
    options: BranchOptions,
    deadline: float = np.inf,
    judge: Judge | None = None,
) -> ApothemAnswer:
    """Returns what `close_brackets` does, of one input, which may take rounds.

    Args:
      model, options, deadline: as of `close_brackets`.
      task: of a single input.
      judge: of points that rounding leaves in doubt; made here if there is none.
    """
    judge, layout = judge or Judge(model), layout_of(model.program)
    options = options.resolved(layout)
    neurons = options.neurons
    if neurons is None or options.record or not options.narrowing(layout):
        return close_brackets(model, task, options, deadline, judge)
    first = begin(model, task, options)
    answer = close_brackets(
        model, task, options, deadline, judge, beginning=first, most=neurons.after
    )
    work, small = int(answer.processed[0]), None
    spec = jax.tree.map(lambda v: np.asarray(v)[0], task.spec)
    for number, splits in enumerate(neurons.rounds):
        if not answer.open[0] or time.monotonic() >= deadline:
            break
        task = dataclasses.replace(
            task, lower=answer.lower, upper=answer.upper, witness=answer.witness
        )
        radius, width, boxes = boxes_to_prove(task)
        box = jax.tree.map(lambda v: v[0], boxes)
        small = _reduced_again(model, box, spec, first.root, small)
        small, count = branched_ranges(neurons, small, box, splits, deadline)
        rows = small.maps[-1].combined(spec.coefficients, spec.offset)
        depth = len(small.ranges)
        least, more = least_rows(
            neurons, small, depth, box, rows, neurons.leaves, deadline
        )
        work += count + more
        beginning = Beginning(radius, width, boxes, _root(small, spec, least))
        last = number == len(neurons.rounds) - 1
        answer = close_brackets(
            small.model, task, options, deadline, judge,
            beginning=beginning, most=np.inf if last else neurons.after,
        )  # fmt: skip
        work += int(answer.processed[0])
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
    else:
        model, slack, cost = small.model, small.slack, small.cost
        layout = layout_of(model.program)
        ranges = small.named(layout)
    return reduced(layout, model, box, ranges, spec.coefficients, (slack, cost))


def _root(small: Reduced, spec: Spec, least: np.ndarray) -> Root:
    """Returns what the search over the signs of a reduced network starts from."""
    layout = layout_of(small.model.program)
    ranges = small.named(layout)
    clauses = spec.clauses(jnp.asarray(least))
    found = ranges, clauses, small.slack, small.cost, default_slopes(layout, ranges)
    nothing: tuple[dict, dict, dict] = {}, {}, {}
    return Root(*jax.tree.map(lambda v: np.asarray(v)[None], (*found, *nothing)))
