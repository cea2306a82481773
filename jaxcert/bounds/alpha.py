"""alpha-beta-CROWN: the lower bound of a subproblem as a function of its multipliers.

A subproblem fixes the signs of some ReLU inputs. For any slope in [0, 1] of every
unstable ReLU, any beta >= 0 on every fixed sign and any weights >= 0 on the rows of a
clause, back-substitution gives a valid lower bound (weak duality), so the multipliers
may be optimised by anything (`ascent.py`): it can fail to help, never break soundness.

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

from jaxcert.ball import Region
from jaxcert.bounds.backward import (
    Coefficients,
    Terms,
    independent_values,
    least_over,
    pull_to_input,
)
from jaxcert.bounds.crown import meet
from jaxcert.bounds.cuts import Cuts, cast_floats
from jaxcert.box import Box
from jaxcert.trace.activations import Relaxation
from jaxcert.trace.equations import Values
from jaxcert.trace.program import (
    ActivationNode,
    OpaqueNode,
    ProductNode,
    Program,
    is_relu,
)

Ranges = dict[int, Box]
"""Ranges by value id, of whatever relaxations are made of."""


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """All ReLU neurons of a program in one flat vector, in the order of its nodes.

    Attributes:
      program: the program.
      joint: whether its inputs are those of a ball; see `independent_values`.
    """

    program: Program
    joint: bool = False

    @functools.cached_property
    def nodes(self) -> tuple[ActivationNode, ...]:
        """The ReLU nodes."""
        return tuple(filter(is_relu, self.program.nodes))

    @functools.cached_property
    def improvable(self) -> tuple[ActivationNode, ...]:
        """The ReLU nodes whose input's range is not exact anyway."""
        exact = independent_values(self.program, joint=self.joint)
        return tuple(node for node in self.nodes if node.inputs[0] not in exact)

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


def layout_of(program: Program, *, joint: bool = False) -> Layout:
    """Returns the layout of a program, the same one every time."""
    return _layout(program, joint)


_layout = functools.lru_cache(maxsize=64)(Layout)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """One clause over one box or ball.

    Attributes:
      box: the inputs.
      ranges: range over the box of every value in `Layout.needed`.
      rows: coefficients C of the clause's rows, shape (rows, outputs); or those of rows
        over any values, by value id, (rows, *shape).
      offset: d, shape (rows,).
      cuts: inequalities on several neurons, by output id of their ReLU.
    """

    box: Region
    ranges: Ranges
    rows: Float[Array, "rows outputs"] | Coefficients
    offset: Float[Array, " rows"]
    cuts: dict[int, Cuts] = dataclasses.field(default_factory=dict)

    def cast(self, dtype: Any) -> Problem:
        """Returns the same problem in another float type."""
        return cast_floats(self, dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Multipliers:
    """What a lower bound is optimised over.

    Attributes:
      slope: lower slope of every unstable ReLU, in [0, 1], shape (N,).
      split: beta >= 0 of every fixed sign, shape (N,).
      row: logits of the weights of the clause's rows, shape (rows,).
      cut: >= 0 of every cut, by output id, shape (G, F).
    """

    slope: Float[Array, " N"]
    split: Float[Array, " N"]
    row: Float[Array, " rows"]
    cut: dict[int, Float[Array, "G F"]] = dataclasses.field(default_factory=dict)


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


def narrowed(problem: Problem, ranges: Ranges) -> Problem:
    """Returns the problem with some of its ranges met with these, of any float type."""
    met = dict(problem.ranges)
    for value, box in ranges.items():
        old = met[value]
        lo, hi = (face.astype(old.lo.dtype) for face in (box.lo, box.hi))
        met[value] = Box(*meet(old.lo, old.hi, lo, hi))
    return dataclasses.replace(problem, ranges=met)


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
            line = with_slope(node, z, line, slopes[node.output])
        lines[node.output] = line
    return lines


def with_slope(
    node: ActivationNode, z: Box, line: Relaxation, slope: Float[Array, "*n"]
) -> Relaxation:
    """Returns the lines of a ReLU over a range of its input, where undecided with
    another lower slope in [0, 1]; it may have rows in front."""
    unstable = node.activation.undecided(z.lo, z.hi)
    # NaN bounds stay NaN: the slope must not hide them.
    slope = jnp.where(unstable, slope + 0 * line.lower_slope, line.lower_slope)
    return dataclasses.replace(line, lower_slope=slope)


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
    # beta s z >= 0 where z has the sign s.
    terms = {i: Terms(-beta[None]) for i, beta in betas.items()}
    for i, cuts in problem.cuts.items():
        shape = betas[i].shape
        terms[i] = terms[i] + cuts.terms(multipliers.cut[i][None], shape)
    weights = jax.nn.softmax(multipliers.row)[None]
    rows = problem.rows
    if not isinstance(rows, dict):
        rows = {layout.program.output: rows}
    mixed = {
        i: jnp.tensordot(weights, c, 1, precision=lax.Precision.HIGHEST)
        for i, c in rows.items()
    }
    pulled, const, at_outputs = pull_to_input(
        layout.program,
        values,
        relaxations_of(layout, ranges, slopes),
        ranges,
        mixed,
        jnp.sum(weights * problem.offset, axis=1),
        terms,
    )
    bound = least_over(pulled, const, problem.box)[0]
    coefficients = {
        node.output: at_outputs.get(
            node.output, jnp.zeros((1, *node.shape), weights.dtype)
        )
        for node in layout.nodes
    }
    return bound, (pulled[0], layout.join(coefficients))


def charged_bound(
    layout: Layout,
    values: Values,
    problem: Problem,
    signs: Int[Array, " N"],
    multipliers: Multipliers,
    cost: Float[Array, " N"],
) -> tuple[
    Float[Array, ""], Float[Array, ""], tuple[Float[Array, "*d"], Float[Array, " N"]]
]:
    """Returns what `subproblem_bound` does, and what the multipliers cost, in float64.

    The subproblem is proved where bound > slack + cost: the second result is what the
    rounding of the multipliers' terms adds to the slack.

    Args:
      layout, values, problem, signs: as in `subproblem_bound`, float64.
      multipliers: of any float type.
      cost: per unit of each neuron's beta.
    """
    multipliers = cast_floats(multipliers, jnp.float64)
    bound, parts = subproblem_bound(layout, values, problem, signs, multipliers)
    charged = jnp.sum(jnp.maximum(multipliers.split, 0) * cost)
    for i, cuts in problem.cuts.items():
        charged = charged + cuts.charge(multipliers.cut[i])
    return bound, charged, parts


def row_bounds(
    layout: Layout,
    values: Values,
    box: Region,
    ranges: Ranges,
    rows: tuple[Coefficients, Array],
    slopes: dict[int, Array],
    terms: dict[int, Terms] | None = None,
) -> tuple[Float[Array, " rows"], Coefficients]:
    """Returns lower bounds of rows over any values, `rows` = (coefficients, constants).

    Slopes are given by output id of the ReLUs, one set for all rows or (rows, *shape);
    a ReLU without has CROWN's. The second result is the coefficients at their outputs.
    """
    lines = relaxations_of(layout, ranges, slopes)
    pulled, const, at_outputs = pull_to_input(
        layout.program, values, lines, ranges, *rows, terms
    )
    return least_over(pulled, const, box), at_outputs
