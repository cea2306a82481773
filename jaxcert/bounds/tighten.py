"""Tightening the ranges of ReLU inputs, on which all relaxations rest.

Before branching every undecided neuron is bounded with slopes of its own
(`tighten_layers`). In a subproblem the signs that are fixed in one layer narrow the
neurons of the next; bounding the few that matter most again (`refine_ranges`) is cheap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxcert.ball import Region, enclosing
from jaxcert.bounds.alpha import Layout, Ranges, row_bounds
from jaxcert.bounds.ascent import climb
from jaxcert.bounds.backward import Coefficients
from jaxcert.bounds.crown import both_sides, meet, meet_in_buckets, row_source
from jaxcert.bounds.cuts import Cuts, cast_floats
from jaxcert.bounds.ibp import propagate
from jaxcert.box import Box
from jaxcert.trace.equations import Values
from jaxcert.trace.program import ActivationNode

_BUCKET = 32  # neurons that are bounded together


@dataclasses.dataclass(frozen=True)
class TightenOptions:
    """How layer ranges are tightened before branching.

    Attributes:
      iterations: ascent steps per neuron; 0 leaves CROWN's ranges.
      bucket: neurons per step, each with slopes of its own.
      rate: first step of the slopes.
      decay: of the rates, per iteration.
      cut_rate: first step of the multipliers of cuts, relative to the coefficients of
        their layer.
    """

    iterations: int = 20
    bucket: int = 64
    rate: float = 0.25
    decay: float = 0.92
    cut_rate: float = 0.1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Known:
    """What bounds of rows rest on.

    Attributes:
      box: the inputs.
      ranges: of all values that relaxations are made of.
      cuts: inequalities on several neurons, by output id of their ReLU.
    """

    box: Region
    ranges: Ranges
    cuts: dict[int, Cuts] = dataclasses.field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowMultipliers:
    """Multipliers of every row of its own, by output id of the ReLUs.

    Attributes:
      slope: lower slopes in [0, 1], (rows, *shape); CROWN's where there are none.
      cut: >= 0 of every cut, (rows, G, F).
    """

    slope: dict[int, Array] = dataclasses.field(default_factory=dict)
    cut: dict[int, Array] = dataclasses.field(default_factory=dict)


def tighten_layers(
    layout: Layout,
    values32: Values,
    values64: Values,
    box: Region,
    ranges: Ranges,
    options: TightenOptions,
) -> Ranges:
    """Returns ranges where every undecided ReLU input has optimised slopes behind it.

    Slopes are optimised in float32, one set per neuron and side; the ranges are
    evaluated in float64 and met with the given ones, layer by layer.
    """
    ranges = dict(ranges)
    for node in layout.improvable:
        known = Known(box, dict(ranges))
        ranges[node.inputs[0]] = tightened(
            layout, values32, values64, known, node, options
        )
    return ranges


def tightened(
    layout: Layout,
    values32: Values,
    values64: Values,
    known: Known,
    node: ActivationNode,
    options: TightenOptions,
) -> Box:
    """Returns the range of one ReLU's input, by multipliers of every neuron and side.

    They are optimised in float32, and the bounds are evaluated in float64.
    """
    source = row_source(layout.program, values32, node.inputs[0], jnp.float32)

    def multipliers_of(index: Array) -> RowMultipliers:
        rows = both_sides(*source(index))
        return ascend_rows(layout, values32, known, rows, options)

    return _bounded_again(layout, values64, known, node, multipliers_of, options.bucket)


def _bounded_again(
    layout: Layout,
    values: Values,
    known: Known,
    node: ActivationNode,
    multipliers_of: Callable[[Array], RowMultipliers],
    bucket: int,
) -> Box:
    """Returns a ReLU's input range, met with bounds of its undecided neurons.

    `multipliers_of(index)` gives the multipliers of the rows of these neurons, lower
    bounds first.
    """
    z = known.ranges[node.inputs[0]]
    source = row_source(layout.program, values, node.inputs[0], z.lo.dtype)

    def bound(index: Array) -> tuple[Array, Array]:
        rows = both_sides(*source(index))
        multipliers = cast_floats(multipliers_of(index), z.lo.dtype)
        least, _ = charged_bounds(layout, values, known, rows, multipliers)
        return least[: index.size], -least[index.size :]

    mask = node.activation.undecided(z.lo, z.hi)
    return meet_in_buckets(bound, z, mask, bucket)


def charged_bounds(
    layout: Layout,
    values: Values,
    known: Known,
    rows: tuple[Coefficients, Array],
    multipliers: RowMultipliers,
) -> tuple[Float[Array, " rows"], Coefficients]:
    """Returns `row_bounds`, less what rounding may do to the multipliers of cuts."""
    shapes = {node.output: node.shape for node in layout.nodes}
    terms = {i: known.cuts[i].terms(m, shapes[i]) for i, m in multipliers.cut.items()}
    least, at_outputs = row_bounds(
        layout, values, known.box, known.ranges, rows, multipliers.slope, terms
    )
    for i, m in multipliers.cut.items():
        least = least - known.cuts[i].charge(m)
    return least, at_outputs


def ascend_rows(
    layout: Layout,
    values: Values,
    known: Known,
    rows: tuple[Coefficients, Array],
    options: TightenOptions,
) -> RowMultipliers:
    """Returns float32 multipliers, those of the best bound that is met for each row."""
    known, count = cast_floats(known, jnp.float32), rows[1].shape[0]
    slopes = {}
    for node in layout.nodes:
        if node.inputs[0] in known.ranges:
            z = known.ranges[node.inputs[0]]
            slope = jnp.where(z.hi > -z.lo, 1.0, 0.0).astype(jnp.float32)
            slopes[node.output] = jnp.broadcast_to(slope, (count, *node.shape))
    zeros = {
        i: jnp.zeros((count, *cuts.limit.shape), jnp.float32)
        for i, cuts in known.cuts.items()
    }
    start = RowMultipliers(slopes, zeros)

    def total(multipliers: RowMultipliers) -> tuple[Array, tuple[Array, Any]]:
        each, at_outputs = charged_bounds(layout, values, known, rows, multipliers)
        return jnp.sum(each), (each, at_outputs)

    def evaluate(multipliers: RowMultipliers) -> Any:
        derivative = jax.value_and_grad(total, has_aux=True)
        (_, found), gradient = derivative(multipliers)
        return found, gradient

    def project(m: RowMultipliers) -> RowMultipliers:
        return RowMultipliers(
            {i: jnp.clip(s, 0, 1) for i, s in m.slope.items()},
            {i: jnp.maximum(c, 0) for i, c in m.cut.items()},
        )

    def rates_of(at_outputs: dict[int, Array]) -> RowMultipliers:
        def cut_rate(layer: int, cut: Array) -> Array:
            if layer not in at_outputs:
                return jnp.zeros_like(cut)
            size = jnp.abs(at_outputs[layer]).reshape(count, -1).mean(axis=1) + 1e-6
            return jnp.full_like(cut, options.cut_rate) * size[:, None, None]

        return RowMultipliers(
            {i: jnp.full_like(s, options.rate) for i, s in slopes.items()},
            {i: cut_rate(i, c) for i, c in zeros.items()},
        )

    found = climb(evaluate, start, rates_of, project, options.decay, options.iterations)
    return found[0]


STEPS = 128
"""Recorded slopes are multiples of 1 / 128; any slope in [0, 1] is valid."""


def recorded_ranges(
    layout: Layout,
    values32: Values,
    values64: Values,
    box: Region,
    ranges: Ranges,
    options: TightenOptions,
) -> tuple[Ranges, dict[int, Array]]:
    """Returns the ranges that a checker derives from recorded slopes, and the slopes.

    It starts from intervals, and from no hint of what nodes were made of, which the
    checker does not know; the slopes are optimised under the given `ranges`.
    """
    enclosures = propagate(layout.program, values64, enclosing(box), use_hint=False)
    intervals = {i: enclosures[i] for i in ranges}
    slopes = _recorded_slopes(layout, values32, box, ranges, intervals, options)
    return _by_slopes(layout, values64, box, intervals, slopes), slopes


def _recorded_slopes(
    layout: Layout,
    values32: Values,
    box: Region,
    ranges: Ranges,
    intervals: Ranges,
    options: TightenOptions,
) -> dict[int, Array]:
    """Returns slopes (2, n, neurons of all ReLUs before) as uint8, by output id.

    Those that bound the inputs of every improvable ReLU, lower bounds first, in units
    of 1 / 128; 0 where it does not matter, because intervals decide one of the two
    neurons.
    """
    found = {}
    for node in layout.improvable:
        (z,) = node.inputs
        before = layout.nodes[: layout.nodes.index(node)]
        if not before:
            # Several affine maps in a row: back-substitution alone is exact.
            found[node.output] = jnp.zeros((2, node.size, 0), jnp.uint8)
            continue
        source = row_source(layout.program, values32, z, jnp.float32)

        def one(index: Array, source: Any = source, before: Any = before) -> Array:
            rows = both_sides(*source(index[None]))
            known = Known(box, ranges)
            slopes = ascend_rows(layout, values32, known, rows, options).slope
            flat = [slopes[b.output].reshape(2, -1) for b in before]
            return jnp.concatenate(flat, axis=1)

        slopes = lax.map(one, jnp.arange(node.size), batch_size=32)
        open_before = jnp.concatenate([_undecided(b, intervals) for b in before])
        matters = _undecided(node, intervals)[:, None, None] & open_before
        stored = jnp.where(matters, jnp.round(slopes * STEPS), 0).astype(jnp.uint8)
        found[node.output] = jnp.moveaxis(stored, 0, 1)
    return found


def _undecided(node: ActivationNode, ranges: Ranges) -> Array:
    z = ranges[node.inputs[0]]
    return node.activation.undecided(z.lo, z.hi).reshape(-1)


def _by_slopes(
    layout: Layout,
    values: Values,
    box: Region,
    ranges: Ranges,
    slopes: dict[int, Array],
) -> Ranges:
    """Returns ranges met with the bounds that recorded slopes give, layer by layer."""
    ranges = dict(ranges)
    for number, node in enumerate(layout.nodes):
        if node not in layout.improvable:
            continue
        (z,) = node.inputs

        def slopes_of(
            index: Array, before: Any = layout.nodes[:number],
            mine: Array = slopes[node.output], dtype: Any = ranges[z].lo.dtype,
        ) -> RowMultipliers:  # fmt: skip
            both = (mine[:, index].astype(dtype) / STEPS).reshape(2 * index.size, -1)
            parts, start = {}, 0
            for b in before:
                part = both[:, start : start + b.size]
                parts[b.output] = part.reshape(-1, *b.shape)
                start += b.size
            return RowMultipliers(parts)

        known = Known(box, dict(ranges))
        ranges[z] = _bounded_again(layout, values, known, node, slopes_of, _BUCKET)
    return ranges


def refine_undecided(
    layout: Layout, values: Values, box: Region, ranges: Ranges
) -> Ranges:
    """Returns ranges where every undecided neuron is bounded again by CROWN."""
    ranges = dict(ranges)
    for node in layout.improvable:
        known = Known(box, dict(ranges))
        ranges[node.inputs[0]] = _bounded_again(
            layout, values, known, node, lambda _: RowMultipliers(), _BUCKET
        )
    return ranges


def refine_ranges(
    layout: Layout,
    values: Values,
    box: Region,
    ranges: Ranges,
    score: Float[Array, " N"],
    count: int,
) -> Ranges:
    """Returns ranges where `count` neurons of every layer are bounded again by CROWN.

    Args:
      layout: the ReLUs of the program.
      values: its prepared parameter values, float64.
      box: the inputs.
      ranges: valid where they are asked for, as cut by fixed signs.
      score: how much every neuron matters; the greatest are refined.
      count: neurons per layer.
    """
    ranges, scores = dict(ranges), layout.parts(score)
    for node in layout.improvable:
        (z,) = node.inputs
        source = row_source(layout.program, values, z, ranges[z].lo.dtype)
        flat = scores[node.output].reshape(-1)
        index = lax.top_k(flat, min(count, node.size))[1]
        rows = both_sides(*source(index))
        least, _ = row_bounds(layout, values, box, ranges, rows, {})
        lo, hi = (face.reshape(-1) for face in (ranges[z].lo, ranges[z].hi))
        new = meet(lo[index], hi[index], least[: index.size], -least[index.size :])
        lo, hi = lo.at[index].set(new[0]), hi.at[index].set(new[1])
        ranges[z] = Box(lo.reshape(node.shape), hi.reshape(node.shape))
    return ranges
