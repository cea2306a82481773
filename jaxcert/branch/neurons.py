"""Ranges of single neurons by branch and bound, each with a budget of its own.

What an output bound loses, it loses in relaxations, whose size is that of the ranges in
front of ReLUs. The least value of one neuron over the box is a question like that about
an output, of a shorter network: fixing a few signs of earlier neurons answers it nearly
exactly. Ranges found so hold for every clause and every smaller box.

For each side of each undecided neuron the leaf of least bound is split, again and
again; the least bound of all leaves, which cover the box, bounds the neuron. All sides
of a bucket take one step together.

Solvers of mixed integer programs do this for alpha-beta-CROWN (Zhang et al., "General
cutting planes for bound-propagation-based neural network verification", NeurIPS 2022);
here it is branch and bound on the device.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxcert.ball import lowest
from jaxcert.bounds.alpha import (
    Layout,
    Multipliers,
    Problem,
    charged_bound,
    default_slopes,
    layout_of,
)
from jaxcert.bounds.ascent import AscentOptions, ascend
from jaxcert.bounds.backward import Coefficients
from jaxcert.bounds.tighten import STEPS, Known
from jaxcert.box import Box
from jaxcert.branch.branching import kinks, neuron_to_split
from jaxcert.branch.leaves import Leaves, RangeTree
from jaxcert.branch.reduced import Map, Reduced
from jaxcert.model import Model
from jaxcert.trace.program import Node

# What a tree must narrow a range by to be worth its leaves, of the width.
_GAIN = 0.01

Trees = dict[tuple[int, int], RangeTree]
"""By neuron and end."""
Kept = dict[int, Leaves]
"""By row; of no clause."""


@dataclasses.dataclass(frozen=True)
class NeuronOptions:
    """How ranges of neurons are found by branching.

    Attributes:
      after: subproblems of the whole network after which neurons are branched.
      rounds: most splits per end of a range, in each round.
      leaves: most parts of the box that are kept per bound; also the most splits of a
        row of the spec.
      bucket: bounds that take a step together.
      enough: part of what might be gained that may be left.
      ascent: how multipliers of leaves are optimised.
      root: evaluations, instead of those of `ascent`, for the whole box and where no
        sign is left to be fixed.
    """

    after: int = 4096
    rounds: tuple[int, ...] = (256, 1024)
    leaves: int = 1024
    bucket: int = 64
    enough: float = 0.05
    ascent: AscentOptions = AscentOptions(iterations=3)
    root: int = 40


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Leaf:
    """A part of the box given by signs, leaves (...,).

    Attributes:
      bound: of the row where the signs hold.
      signs: (N,).
      multipliers: of the bound.
      neuron: which it is to be split by.
      start: beta that its children start from, (2,).
      splittable: whether there is such a neuron; else its multipliers are optimised
        further.
      tries: how often they were.
    """

    bound: Float[Array, ""]
    signs: Int[Array, " N"]
    multipliers: Multipliers
    neuron: Int[Array, ""]
    start: Float[Array, " 2"]
    splittable: Bool[Array, ""]
    tries: Int[Array, ""]


@functools.partial(jax.jit, static_argnames=("layout", "options"))
def least_values(
    layout: Layout,
    options: NeuronOptions,
    model: Model,
    known: Known,
    cost: Float[Array, " N"],
    rows: Coefficients,
    const: Float[Array, " B"],
    splits: Int[Array, ""],
) -> tuple[Float[Array, " B"], Int[Array, ""], Leaf]:
    """Returns lower bounds of rows over a box, the number of steps, and the leaves.

    Leaves are (room, B, ...), of bound inf where there is none.
    A row is branched further until its bound is > 0, or near the value of a point.

    Args:
      layout: the ReLUs of the program.
      options: see there.
      model: the network.
      known: the box and ranges, float64.
      cost: what a unit of each neuron's beta adds to the slack.
      rows: coefficients by value id, (B, *shape), float64.
      const: of each row.
      splits: most of them; no more than `options.leaves`.
    """
    values32, values64 = model.values(jnp.float32), model.values(jnp.float64)
    splits = jnp.minimum(splits, options.leaves)  # a leaf without room would be lost

    def problem_of(row: Coefficients, const: Array) -> Problem:
        return Problem(
            known.box, known.ranges, {i: c[None] for i, c in row.items()}, const[None]
        )

    def value_at(point: Array, row: Coefficients, const: Array) -> Array:
        found = {layout.program.input: point}

        def seen(node: Node, value: Array, operands: Any) -> Array:
            found[node.output] = value
            return value

        layout.program.evaluate_prepared(values32, point, seen)
        return const + sum(jnp.vdot(c, found[i]) for i, c in row.items())

    def child(
        row: Coefficients,
        const: Array,
        leaf: Leaf,
        sign: Array,
        start: Array,
        iterations: Array,
    ) -> tuple[Leaf, Array]:
        split = leaf.multipliers.split.at[leaf.neuron].set(start)
        split = jnp.where(leaf.splittable, split, leaf.multipliers.split)
        begin = dataclasses.replace(leaf.multipliers, split=split)
        signs = leaf.signs.at[leaf.neuron].set(sign)
        signs = jnp.where(leaf.splittable, signs, leaf.signs)
        pace = jnp.float32(0.7) ** leaf.tries
        problem = problem_of(row, const)
        ascent = dataclasses.replace(options.ascent, iterations=iterations)
        single = problem.cast(jnp.float32)
        best = ascend(layout, values32, single, signs, begin, ascent, pace)
        # The bound is that of the slopes as proofs store them.
        slopes = jnp.round(jnp.clip(best.slope, 0, 1) * STEPS) / STEPS
        best = dataclasses.replace(best, slope=slopes)
        bound, charged, (at_input, at_outputs) = charged_bound(
            layout, values64, problem, signs, best, cost
        )
        neuron, splittable = neuron_to_split(
            layout, known.ranges, signs, at_outputs, narrowing=False
        )
        starts = kinks(best.slope[neuron], at_outputs[neuron]).astype(jnp.float32)
        bound = bound - charged
        bound = jnp.where(jnp.isnan(bound), -jnp.inf, bound)  # NaN bounds nothing
        point = lowest(known.box, at_input)
        value = value_at(point.astype(jnp.float32), row, const)
        neuron = neuron.astype(jnp.int32)
        tries = leaf.tries + ~leaf.splittable
        return Leaf(bound, signs, best, neuron, starts, splittable, tries), value

    def children(
        row: Coefficients, const: Array, leaf: Leaf, signs: Array, iterations: Array
    ) -> tuple[Leaf, Array]:
        one = functools.partial(child, row, const, leaf, iterations=iterations)
        both, found = jax.vmap(one)(signs, leaf.start)
        return both, jnp.min(found)

    count, capacity = const.size, options.leaves + 2
    each = jnp.arange(count)
    # Before the first step the leaf is the whole box, not yet bounded.
    whole = Leaf(
        bound=jnp.float64(-jnp.inf),
        signs=jnp.zeros(layout.size, jnp.int8),
        multipliers=Multipliers(
            default_slopes(layout, known.ranges),
            jnp.zeros(layout.size, jnp.float32),
            jnp.zeros(1, jnp.float32),
        ),
        neuron=jnp.zeros((), jnp.int32),
        start=jnp.zeros(2, jnp.float32),
        splittable=jnp.bool_(True),
        tries=jnp.zeros((), jnp.int32),
    )
    leaves = jax.tree.map(
        lambda v: jnp.broadcast_to(v, (capacity, count, *v.shape)), whole
    )
    bounds = leaves.bound.at[1:].set(jnp.inf)
    leaves = dataclasses.replace(leaves, bound=bounds)

    def worst(leaves: Leaf) -> tuple[Array, Leaf]:
        at = jnp.argmin(leaves.bound, axis=0)
        return at, jax.tree.map(lambda v: v[at, each], leaves)

    def wanted(leaf: Leaf, begin: Array, upper: Array) -> Array:
        enough = leaf.bound - begin >= (1 - options.enough) * (upper - begin)
        return (leaf.bound <= 0) & ~enough

    def more(carry: tuple) -> Array:
        step, _, _, leaf, begin, upper = carry
        going = wanted(leaf, begin, upper)
        return (step == 0) | ((step <= splits) & jnp.any(going))

    def body(carry: tuple) -> tuple:
        step, leaves, at, leaf, begin, upper = carry
        first = step == 0
        signs = jnp.where(first, 0, jnp.array([1, -1])).astype(jnp.int8)
        going = first | wanted(leaf, begin, upper)
        thorough = first | jnp.any(going & ~leaf.splittable)
        times = jnp.where(thorough, options.root, options.ascent.iterations)
        both, found = jax.vmap(children, in_axes=(0, 0, 0, None, None))(
            rows, const, leaf, signs, times
        )

        def write(stack: Array, new: Array) -> Array:
            own = jnp.where(going, at, capacity)
            # The whole box, and a leaf that cannot be split, are one part.
            parts = going & leaf.splittable & ~first
            last = jnp.where(parts, step, capacity)
            stack = stack.at[own, each].set(new[:, 0], mode="drop")
            return stack.at[last, each].set(new[:, 1], mode="drop")

        leaves = jax.tree.map(write, leaves, both)
        at, leaf = worst(leaves)
        begin = jnp.where(first, leaf.bound, begin)
        return step + 1, leaves, at, leaf, begin, jnp.minimum(upper, found)

    leaf = jax.tree.map(lambda v: jnp.broadcast_to(v, (count, *v.shape)), whole)
    infinite = jnp.full(count, jnp.inf)
    at = jnp.zeros(count, jnp.int64)
    carry = jnp.int32(0), leaves, at, leaf, -infinite, infinite
    step, leaves, _, leaf, _, _ = lax.while_loop(more, body, carry)
    return leaf.bound, step, leaves


def branched_ranges(
    options: NeuronOptions,
    small: Reduced,
    box: Box,
    splits: int,
    deadline: float = np.inf,
    trees: Trees | None = None,
) -> tuple[Reduced, int]:
    """Returns the network with ranges that branch and bound narrows, layer by layer.

    And the number of subproblems that it took.

    Args:
      options: see there.
      small: the network over the box, reduced.
      box: of one input, float64.
      splits: most of them per end of a range.
      deadline: `time.monotonic()` after which no further bucket begins.
      trees: gets those that prove the ranges; what they gain little by stays as it was.
    """
    work = 0
    # The range of the first layer is exact, over the box that it was taken of.
    for number in range(1, len(small.ranges)):
        z = small.ranges[number]
        lo, hi = np.array(z.lo), np.array(z.hi)
        nearest = np.minimum(-lo, hi)
        # The end that is nearer to 0 may decide the neuron.
        for side in (np.where(hi > -lo, 1.0, -1.0), np.where(hi > -lo, -1.0, 1.0)):
            free = np.flatnonzero((lo < 0) & (hi > 0))
            # Those that are decided soon do not wait for others of their bucket.
            free = free[np.argsort(nearest[free], kind="stable")]
            rows = small.maps[number].rows(free, side[free])
            kept: Kept | None = None if trees is None else {}
            least, count = least_rows(
                options, small, number, box, rows, splits, deadline, kept
            )
            work += count
            if trees is not None and kept is not None:
                known = np.where(side[free] > 0, lo[free], -hi[free])
                gained = least > known + _GAIN * (hi - lo)[free]
                least = np.where(gained, least, known)
                for row in np.flatnonzero(gained).tolist():
                    tree = _tree(small, number, free[row], side[free[row]], kept[row])
                    trees[tree.neuron, tree.end] = tree
            lower = side[free] > 0
            low, high = np.where(lower, least, -np.inf), np.where(lower, np.inf, -least)
            # Two roundings of one number may cross: the range stays what it was.
            lo[free] = np.minimum(np.maximum(lo[free], low), hi[free])
            hi[free] = np.maximum(np.minimum(hi[free], high), lo[free])
        small = small.with_range(number, lo, hi)
    return small, work


def least_rows(
    options: NeuronOptions,
    small: Reduced,
    depth: int,
    box: Box,
    rows: Map,
    splits: int,
    deadline: float = np.inf,
    kept: Kept | None = None,
) -> tuple[Float[np.ndarray, " n"], int]:
    """Returns lower bounds of a map over the box, and the subproblems that it took.

    They are -inf where time was over.

    Args:
      options, small, box, splits, deadline: as of `branched_ranges`.
      depth: number of the map whose place it takes: of the ReLU layers before it.
      rows: the map, n rows.
      kept: gets the leaves of every row that there was time for.
    """
    model, count = small.up_to(depth), len(rows.offset)
    layout = layout_of(model.program)
    cost = small.cost[: layout.size]
    known, shape = Known(box, small.named(layout)), model.input_shape
    found, work = np.full(count, -np.inf), 0
    for first in range(0, count, options.bucket):
        if time.monotonic() >= deadline:
            break
        part = np.arange(first, min(first + options.bucket, count))
        index = np.resize(part, options.bucket)
        coefficients = {model.program.input: rows.input[index].reshape(-1, *shape)}
        for node, matrix in zip(layout.nodes, rows.hidden, strict=True):
            coefficients[node.output] = matrix[index]
        least, steps, leaves = least_values(
            layout, options, model, known, cost, coefficients,
            rows.offset[index], np.int32(splits),
        )  # fmt: skip
        found[part] = np.asarray(least)[: part.size]
        work += 2 * int(steps) * part.size
        if kept is not None:
            kept |= {row: _leaves_of(leaves, k) for k, row in enumerate(part.tolist())}
    return found, work


def _leaves_of(stack: Leaf, row: int) -> Leaves:
    """Returns the leaves of one row of a bucket, numpy."""
    there = np.flatnonzero(np.asarray(stack.bound)[:, row] < np.inf)

    def pick(v: Array) -> Any:
        return np.asarray(v)[there, row]

    nothing: Any = np.zeros(len(there), np.int32)
    multipliers = jax.tree.map(pick, stack.multipliers)
    return Leaves(nothing, nothing, pick(stack.signs), multipliers)


def _tree(
    small: Reduced, number: int, place: int, side: float, leaves: Leaves
) -> RangeTree:
    """Returns the tree of one end of a neuron, at that place of a layer's range."""
    before = small.neurons[: leaves.signs.shape[1]]
    live, first = before >= 0, sum(z.lo.size for z in small.ranges[:number])
    multipliers = leaves.multipliers
    slopes = np.round(np.clip(multipliers.slope[:, live], 0, 1) * STEPS)
    return RangeTree(
        neuron=int(small.neurons[first + place]),
        end=int(side),
        columns=before[live],
        signs=np.asarray(leaves.signs[:, live], np.int8),
        slopes=slopes.astype(np.uint8),
        splits=np.maximum(multipliers.split[:, live], 0),
    )
