"""alpha-beta-CROWN: the lower bound of a subproblem as a function of its multipliers.

A subproblem fixes the signs of some ReLU inputs. For any slope in [0, 1] of every
unstable ReLU, any beta >= 0 on every fixed sign and any weights >= 0 on the rows of a
clause, back-substitution gives a valid lower bound (weak duality), so the multipliers
may be optimised by anything: it can fail to help, never break soundness.

Sources: Xu et al., "Fast and complete", ICLR 2021 (slopes); Wang et al., "Beta-CROWN",
NeurIPS 2021 (multipliers of splits).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxcert.bounds.backward import (
    Coefficients,
    concretize_lower,
    independent_values,
    pull_to_input,
)
from jaxcert.bounds.crown import both_sides, meet_in_buckets, row_source
from jaxcert.bounds.relaxations import Relaxation
from jaxcert.box import Box
from jaxcert.program import ActivationNode, OpaqueNode, ProductNode, Program, Values

Ranges = dict[int, Box]
"""Ranges by value id, of whatever relaxations are made of."""


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """All ReLU neurons of a program in one flat vector, in the order of its nodes."""

    program: Program

    @functools.cached_property
    def nodes(self) -> tuple[ActivationNode, ...]:
        """The ReLU nodes."""
        return tuple(
            node
            for node in self.program.nodes
            if isinstance(node, ActivationNode) and node.activation.piecewise_linear
        )

    @property
    def size(self) -> int:
        """Number of ReLU neurons."""
        return sum(node.size for node in self.nodes)

    def parts(self, vector: Float[Array, " N"]) -> dict[int, Array]:
        """Returns the vector's pieces by output id, in the shapes of the nodes."""
        pieces, start = {}, 0
        for node in self.nodes:
            piece = vector[..., start : start + node.size]
            pieces[node.output] = piece.reshape((*vector.shape[:-1], *node.shape))
            start += node.size
        return pieces

    def join(self, pieces: dict[int, Array]) -> Float[Array, " N"]:
        """Returns one flat vector from pieces by output id (of one subproblem)."""
        return jnp.concatenate(
            [pieces[node.output].reshape(-1) for node in self.nodes]
            or [jnp.zeros(0, jnp.float32)]
        )

    def needed(self) -> tuple[int, ...]:
        """Returns the values of which a subproblem needs the range."""
        ids: list[int] = []
        for node in self.program.nodes:
            if isinstance(node, ActivationNode | ProductNode):
                ids += node.inputs
            elif isinstance(node, OpaqueNode):
                ids.append(node.output)
        return tuple(dict.fromkeys(ids))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """One clause over one box.

    Attributes:
      box: the inputs.
      ranges: range over the box of every value in `Layout.needed`.
      rows: coefficients C of the clause's rows, shape (rows, outputs).
      offset: d, shape (rows,).
    """

    box: Box
    ranges: Ranges
    rows: Float[Array, "rows outputs"]
    offset: Float[Array, " rows"]

    def cast(self, dtype: Any) -> Problem:
        """Returns the same problem in another float type."""
        return jax.tree.map(lambda v: v.astype(dtype), self)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Multipliers:
    """What a lower bound is optimised over.

    Attributes:
      slope: lower slope of every unstable ReLU, in [0, 1], shape (N,).
      split: beta >= 0 of every fixed sign, shape (N,).
      row: logits of the weights of the clause's rows, shape (rows,).
    """

    slope: Float[Array, " N"]
    split: Float[Array, " N"]
    row: Float[Array, " rows"]


def restricted(layout: Layout, ranges: Ranges, signs: Int[Array, " N"]) -> Ranges:
    """Returns the ranges of ReLU inputs cut at 0 where a sign is fixed."""
    by_node, cut = layout.parts(signs), dict(ranges)
    for node in layout.nodes:
        (z,) = node.inputs
        sign, box = by_node[node.output], cut[z]
        lo = jnp.where(sign > 0, jnp.maximum(box.lo, 0), box.lo)
        hi = jnp.where(sign < 0, jnp.minimum(box.hi, 0), box.hi)
        cut[z] = Box(lo, hi)
    return cut


def default_slopes(layout: Layout, ranges: Ranges) -> Float[Array, " N"]:
    """Returns CROWN's slopes: 1 where u > -l, else 0."""
    pieces = {}
    for node in layout.nodes:
        box = ranges[node.inputs[0]]
        pieces[node.output] = jnp.where(box.hi > -box.lo, 1.0, 0.0)
    return layout.join(pieces).astype(jnp.float32)


def relaxations_of(
    layout: Layout, ranges: Ranges, slopes: dict[int, Array]
) -> dict[int, Relaxation]:
    """Returns the lines of every activation, with the given slopes where unstable."""
    lines = {}
    for node in layout.program.nodes:
        if not isinstance(node, ActivationNode):
            continue
        z = ranges[node.inputs[0]]
        line = node.activation.relax(z.lo, z.hi)
        if node.output in slopes:
            unstable = node.activation.undecided(z.lo, z.hi)
            # NaN bounds stay NaN: the slope must not hide them.
            slope = slopes[node.output] + 0 * line.lower_slope
            slope = jnp.where(unstable, slope, line.lower_slope)
            line = dataclasses.replace(line, lower_slope=slope)
        lines[node.output] = line
    return lines


def subproblem_bound(
    layout: Layout,
    values: Values,
    problem: Problem,
    signs: Int[Array, " N"],
    multipliers: Multipliers,
) -> tuple[Float[Array, ""], tuple[Float[Array, "*d"], Float[Array, " N"]]]:
    """Returns a lower bound of the clause where the signs hold, and what it came from.

    Positive means: at every point of the box with these signs some row is positive.
    The second result is the coefficients at the input and at every ReLU's output.
    """
    ranges = restricted(layout, problem.ranges, signs)
    slopes = layout.parts(jnp.clip(multipliers.slope, 0, 1))
    betas = layout.parts(jnp.maximum(multipliers.split, 0) * signs)
    weights = jax.nn.softmax(multipliers.row)[None]
    row = jnp.matmul(weights, problem.rows, precision=lax.Precision.HIGHEST)
    pulled, const, at_outputs = pull_to_input(
        layout.program,
        values,
        relaxations_of(layout, ranges, slopes),
        ranges,
        {layout.program.output: row},
        jnp.sum(weights * problem.offset, axis=1),
        betas,
    )
    bound = (concretize_lower(pulled, problem.box) + const)[0]
    coefficients = {
        node.output: at_outputs.get(node.output, jnp.zeros((1, *node.shape), row.dtype))
        for node in layout.nodes
    }
    return bound, (pulled[0], layout.join(coefficients))


@dataclasses.dataclass(frozen=True)
class AscentOptions:
    """Projected Adam on the multipliers.

    Attributes:
      iterations: evaluations of the bound, >= 1.
      slope_rate: first step of the slopes.
      split_rate: first step of the betas, relative to the coefficients they act on.
      row_rate: first step of the row weights.
      decay: of all rates, per iteration.
    """

    iterations: int = 12
    slope_rate: float = 0.2
    split_rate: float = 0.2
    row_rate: float = 0.2
    decay: float = 0.95


def ascend(
    layout: Layout,
    values: Values,
    problem: Problem,
    signs: Int[Array, " N"],
    start: Multipliers,
    options: AscentOptions,
    pace: Float[Array, ""] | float = 1.0,
) -> Multipliers:
    """Returns multipliers whose bound is at least that of the start.

    All in the float type of the problem. The best iterate is kept; `pace` scales all
    rates, to converge further from where an earlier ascent ended.
    """

    def bound(multipliers: Multipliers) -> tuple[Array, Array]:
        value, (_, outputs) = subproblem_bound(
            layout, values, problem, signs, multipliers
        )
        return value, outputs

    evaluate = jax.value_and_grad(bound, has_aux=True)
    (first, outputs), slope_of = evaluate(start)
    scale = jnp.mean(jnp.abs(outputs)) + 1e-6
    rates = Multipliers(
        slope=jnp.full_like(start.slope, options.slope_rate) * pace,
        split=jnp.full_like(start.split, options.split_rate) * scale * pace,
        row=jnp.full_like(start.row, options.row_rate) * pace,
    )

    def project(m: Multipliers) -> Multipliers:
        return Multipliers(jnp.clip(m.slope, 0, 1), jnp.maximum(m.split, 0), m.row)

    def step(index: Array, carry: Any) -> Any:
        current, gradient, first_moment, second_moment, best, best_value = carry
        first_moment = jax.tree.map(
            lambda m, g: 0.9 * m + 0.1 * g, first_moment, gradient
        )
        second_moment = jax.tree.map(
            lambda v, g: 0.99 * v + 0.01 * g * g, second_moment, gradient
        )
        count = index + 1.0
        fade = options.decay**index

        def move(z: Array, m: Array, v: Array, rate: Array) -> Array:
            m, v = m / (1 - 0.9**count), v / (1 - 0.99**count)
            return z + fade * rate * m / (jnp.sqrt(v) + 1e-12)

        current = project(
            jax.tree.map(move, current, first_moment, second_moment, rates)
        )
        (value, _), gradient = evaluate(current)
        better = value > best_value
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), current, best)
        best_value = jnp.maximum(value, best_value)
        return current, gradient, first_moment, second_moment, best, best_value

    zeros = jax.tree.map(jnp.zeros_like, start)
    carry = (start, slope_of, zeros, zeros, start, first)
    return lax.fori_loop(0, options.iterations - 1, step, carry)[4]


@dataclasses.dataclass(frozen=True)
class TightenOptions:
    """How layer ranges are tightened before branching.

    Attributes:
      iterations: ascent steps per neuron; 0 leaves CROWN's ranges.
      bucket: neurons per step, each with slopes of its own.
      rate: first step of the slopes.
      decay: of the rate, per iteration.
    """

    iterations: int = 20
    bucket: int = 64
    rate: float = 0.25
    decay: float = 0.92


def tighten_layers(
    layout: Layout,
    values32: Values,
    values64: Values,
    box: Box,
    ranges: Ranges,
    options: TightenOptions,
) -> Ranges:
    """Returns ranges where every undecided ReLU input has optimised slopes behind it.

    Slopes are optimised in float32, one set per neuron and side; the ranges are
    evaluated in float64 and met with the given ones, layer by layer.
    """
    program, exact = layout.program, independent_values(layout.program)
    ranges = dict(ranges)
    for node in layout.nodes:
        (z,) = node.inputs
        if z in exact:
            continue
        source32 = row_source(program, values32, z, jnp.float32)
        source64 = row_source(program, values64, z, jnp.float64)
        known = dict(ranges)

        def bound(
            index: Array, source32: Any = source32, source64: Any = source64,
            known: Ranges = known,
        ) -> tuple[Array, Array]:  # fmt: skip
            slopes = _ascend_rows(
                layout, values32, box, known, both_sides(*source32(index)), options
            )
            slopes = {i: s.astype(jnp.float64) for i, s in slopes.items()}
            least = _row_bounds(
                layout, values64, box, known, both_sides(*source64(index)), slopes
            )
            return least[: index.size], -least[index.size :]

        mask = node.activation.undecided(ranges[z].lo, ranges[z].hi)
        ranges[z] = meet_in_buckets(bound, ranges[z], mask, options.bucket)
    return ranges


def _row_bounds(
    layout: Layout,
    values: Values,
    box: Box,
    ranges: Ranges,
    rows: tuple[Coefficients, Array],
    slopes: dict[int, Array],
) -> Float[Array, " rows"]:
    lines = relaxations_of(layout, ranges, slopes)
    pulled, const, _ = pull_to_input(layout.program, values, lines, ranges, *rows)
    return concretize_lower(pulled, box) + const


def _ascend_rows(
    layout: Layout,
    values: Values,
    box: Box,
    ranges: Ranges,
    rows: tuple[Coefficients, Array],
    options: TightenOptions,
) -> dict[int, Array]:
    """Returns slopes (rows, *shape) per ReLU, those of the best bound of each row."""
    box, ranges = jax.tree.map(lambda v: v.astype(jnp.float32), (box, ranges))
    count = rows[1].shape[0]
    start = {}
    for node in layout.nodes:
        if node.inputs[0] in ranges:
            z = ranges[node.inputs[0]]
            slope = jnp.where(z.hi > -z.lo, 1.0, 0.0).astype(jnp.float32)
            start[node.output] = jnp.broadcast_to(slope, (count, *node.shape))

    def total(slopes: dict[int, Array]) -> tuple[Array, Array]:
        each = _row_bounds(layout, values, box, ranges, rows, slopes)
        return jnp.sum(each), each

    evaluate = jax.value_and_grad(total, has_aux=True)

    def step(index: Array, carry: Any) -> Any:
        slopes, first, second, best, best_value = carry
        (_, each), gradient = evaluate(slopes)
        better = each > best_value

        def keep(new: Array, old: Array) -> Array:
            return jnp.where(better.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

        best = jax.tree.map(keep, slopes, best)
        best_value = jnp.maximum(each, best_value)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, second, gradient)
        rate = options.rate * options.decay**index
        grown, squared = 1 - 0.9 ** (index + 1.0), 1 - 0.99 ** (index + 1.0)

        def move(s: Array, m: Array, v: Array) -> Array:
            direction = (m / grown) / (jnp.sqrt(v / squared) + 1e-12)
            return jnp.clip(s + rate * direction, 0, 1)

        return (
            jax.tree.map(move, slopes, first, second),
            first,
            second,
            best,
            best_value,
        )

    zeros = jax.tree.map(jnp.zeros_like, start)
    carry = (start, zeros, zeros, start, jnp.full(count, -jnp.inf, jnp.float32))
    return lax.fori_loop(0, options.iterations, step, carry)[3]
