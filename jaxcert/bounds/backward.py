"""The backward pass: linear bounds of any value, pulled back to the input.

A row `Lambda . z + const` over some value z of the program is a lower bound of itself;
each node replaces the row by one over its inputs that is no greater:

- affine nodes exactly, by the transpose of the map (`jax.vjp` at zeros);
- activations by their lower line where the coefficient is positive and by the upper
  line where it is negative;
- products by McCormick's planes; opaque nodes by their range.

An upper bound of a row is minus the lower bound of the negated row.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxcert.ball import Ball, Region
from jaxcert.box import Box
from jaxcert.trace.activations import Relaxation
from jaxcert.trace.equations import Values
from jaxcert.trace.program import (
    ActivationNode,
    AffineNode,
    Node,
    OpaqueNode,
    ProductNode,
    Program,
)

Coefficients = dict[int, Array]
"""Rows by value id: an array of shape (rows, *shape of the value)."""


@dataclasses.dataclass(frozen=True)
class Terms:
    """What is added to rows at an activation g: `p . z + q . g(z) + constant`.

    Sound if it is <= 0 wherever the bound is asked for (weak duality).

    Attributes:
      at_input: p, shape (rows or 1, *n).
      at_output: q, of the same shape; None for 0.
      constant: shape (rows or 1,).
    """

    at_input: Array
    at_output: Array | None = None
    constant: Array | float = 0.0

    def __add__(self, other: Terms) -> Terms:
        """Returns both."""
        outputs = [t.at_output for t in (self, other) if t.at_output is not None]
        return Terms(
            self.at_input + other.at_input,
            sum(outputs[1:], outputs[0]) if outputs else None,
            self.constant + other.constant,
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Planes:
    """Where the planes that enclose products x y touch: any points give valid ones.

    `b x + a y - c` with c the greatest value of `b x + a y - x y` over the ranges of x
    and y, which a corner takes, is a lower plane for any a, b; with the least value it
    is an upper one. At a corner of the ranges they are McCormick's, at their centres
    the means of his two.

    Attributes:
      lower: (a, b) of the lower planes, shaped as (x, y), or with the rows in front.
      upper: (a, b) of the upper planes.
    """

    lower: tuple[Array, Array]
    upper: tuple[Array, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Charges:
    """What lower bounds of rows over one region are charged for rounding.

    They are constants to derivatives. See `charges.py`.

    Attributes:
      unit: of their offset, relative to it.
      steps: what the step from the output of a node to its inputs loses per unit of
        coefficient on each element, by output id; at the input, what the last sum does.
      flushed: what is lost there however small coefficients are.
    """

    unit: Float[Array, ""]
    steps: dict[int, Array]
    flushed: dict[int, Array]

    def offset(self, offset: Float[Array, " rows"]) -> Float[Array, " rows"]:
        """Returns the offset of rows less what its sum with other numbers loses."""
        return offset - self.unit * jnp.abs(offset)

    def at(self, value: int, rows: Coefficients) -> Float[Array, " rows"] | float:
        """Returns what rows over a value lose in the step from there."""
        if value not in self.steps:
            return 0.0
        each = _row_sum(jnp.abs(rows[value]) * self.steps[value])
        return lax.stop_gradient(each + self.flushed[value])


def concretize_lower(rows: Float[Array, "rows *d"], box: Box) -> Float[Array, " rows"]:
    """Returns min over the box of each row: sum of Lambda+ lo + Lambda- hi."""
    return _row_sum(jnp.where(rows > 0, rows * box.lo, rows * box.hi))


def least_over(
    rows: Float[Array, "rows *d"], const: Float[Array, " rows"], region: Region
) -> Float[Array, " rows"]:
    """Returns min over a set of each row and its constant; NaN where one overflows.

    What overflows stays infinite, or becomes NaN, on its way to the input: as infinity
    it would prove anything.
    """
    if isinstance(region, Ball):
        return without_infinity(region.least(rows) + const)
    return without_infinity(concretize_lower(rows, region) + const)


def without_infinity(least: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns lower bounds, NaN for infinity, which is that of nothing."""
    return jnp.where(least == jnp.inf, jnp.nan, least)


def pull_affine(
    program: Program,
    values: Values,
    rows: Coefficients,
    const: Float[Array, " rows"],
    charges: Charges | None = None,
) -> tuple[Coefficients, Float[Array, " rows"]]:
    """Returns the same rows, exactly, over the input and outputs of nonlinear nodes.

    With charges they are lower bounds; see `pull_through`.
    """
    rows = dict(rows)
    for node in reversed(program.nodes):
        if node.output in rows and isinstance(node, AffineNode):
            if charges is not None:
                const = const - charges.at(node.output, rows)
            const = through_affine(node, values, rows, const)
    return rows, const


def pull_to_input(
    program: Program,
    values: Values,
    relaxations: dict[int, Relaxation],
    boxes: dict[int, Box],
    rows: Coefficients,
    const: Float[Array, " rows"],
    terms: dict[int, Terms] | None = None,
    planes: dict[int, Planes] | None = None,
) -> tuple[Float[Array, "rows *d"], Float[Array, " rows"], Coefficients]:
    """Returns rows over the input that are lower bounds of the given ones.

    The third result holds the coefficients at the output of every activation, before
    terms are added, which branching scores are made of.

    Args:
      program: the program.
      values: its prepared parameter values.
      relaxations: lines of every activation, by output id.
      boxes: ranges of the inputs of products and outputs of opaque nodes.
      rows: coefficients by value id.
      const: constant of every row.
      terms: by output id of activations, what is added to the rows there.
      planes: by output id of products; those at the centres where there are none.
    """
    rows, const, at_outputs = pull_through(
        program.nodes, values, relaxations, boxes, rows, const, terms, planes
    )
    count = const.shape[0]
    empty = jnp.zeros((count, *program.input_shape), const.dtype)
    return rows.get(program.input, empty), const, at_outputs


def pull_through(
    nodes: Sequence[Node],
    values: Values,
    relaxations: dict[int, Relaxation],
    boxes: dict[int, Box],
    rows: Coefficients,
    const: Float[Array, " rows"],
    terms: dict[int, Terms] | None = None,
    planes: dict[int, Planes] | None = None,
    charges: Charges | None = None,
) -> tuple[Coefficients, Float[Array, " rows"], Coefficients]:
    """Returns rows over what these nodes are made of; see `pull_to_input`.

    With charges they are lower bounds whatever rounding did to them.
    """
    rows, at_outputs = dict(rows), {}
    terms, planes = terms or {}, planes or {}
    for node in reversed(nodes):
        if node.output not in rows:
            continue
        if charges is not None:
            const = const - charges.at(node.output, rows)
        if isinstance(node, ProductNode) and node.shares is not None:
            const = _less_common(node, boxes, rows, const)
        match node:
            case AffineNode():
                const = through_affine(node, values, rows, const)
            case ActivationNode():
                at_outputs[node.output] = rows[node.output]
                added = terms.get(node.output)
                if added is not None and added.at_output is not None:
                    rows[node.output] = rows[node.output] + added.at_output
                const = _through_lines(node, relaxations[node.output], rows, const)
                if added is not None:
                    accumulate(rows, node.inputs[0], added.at_input)
                    const = const + added.constant
            case ProductNode() if node.output in planes:
                const = _through_planes(node, boxes, planes[node.output], rows, const)
            case ProductNode():
                const = _through_product(node, boxes, rows, const)
            case OpaqueNode():
                opaque = rows.pop(node.output)
                const = const + concretize_lower(opaque, boxes[node.output])
    return rows, const, at_outputs


def through_affine(
    node: AffineNode, values: Values, rows: Coefficients, const: Array
) -> Array:
    coefficients = rows.pop(node.output)
    zeros = [jnp.zeros(shape, coefficients.dtype) for shape in node.input_shapes]
    at_zero, transpose = jax.vjp(lambda *xs: node.apply(values, *xs), *zeros)
    pulled = jax.vmap(transpose)(coefficients)
    for value, part in zip(node.inputs, pulled, strict=True):
        accumulate(rows, value, part)
    if node.has_offset:
        exact = lax.Precision.HIGHEST
        const = const + jnp.tensordot(
            coefficients, at_zero, at_zero.ndim, precision=exact
        )
    return const


def _through_lines(
    node: ActivationNode, lines: Relaxation, rows: Coefficients, const: Array
) -> Array:
    coefficients = rows.pop(node.output)
    positive = coefficients > 0
    slope = jnp.where(positive, lines.lower_slope, lines.upper_slope)
    intercept = jnp.where(positive, lines.lower_intercept, lines.upper_intercept)
    accumulate(rows, node.inputs[0], coefficients * slope)
    return const + _row_sum(coefficients * intercept)


def _less_common(
    node: ProductNode, boxes: dict[int, Box], rows: Coefficients, const: Array
) -> Array:
    """Takes from coefficients of shares of 1 what they have in common, s: it is s.

    With s their mean at the centre, whose weights are the shares there, the whole that
    they are shares of has no coefficient left.
    """
    coefficients, axis = rows[node.output], node.shares
    assert axis is not None
    shares = node.apply(*(boxes[i].center for i in node.inputs))
    shares = shares / shares.sum(axis=axis, keepdims=True)
    common = (coefficients * shares).sum(axis=axis + 1, keepdims=True)
    rows[node.output] = coefficients - common
    return const + _row_sum(common)


def _through_product(
    node: ProductNode, boxes: dict[int, Box], rows: Coefficients, const: Array
) -> Array:
    """x y between the means of McCormick's two lower and of its two upper planes.

    The same for sums of products, whose terms all have the coefficient of the sum.

    With centres a, b of x, y: b x + a y - (lx ly + ux uy) / 2 <= x y and
    x y <= b x + a y - (lx uy + ux ly) / 2 (McCormick 1976).
    """
    coefficients = rows.pop(node.output)
    x, y = (boxes[i] for i in node.inputs)
    below = -(node.apply(x.lo, y.lo) + node.apply(x.hi, y.hi)) / 2
    above = -(node.apply(x.lo, y.hi) + node.apply(x.hi, y.lo)) / 2
    _, transpose = jax.vjp(node.apply, x.center, y.center)
    # The coefficients of x are those at the centre of y, and those of y at that of x.
    for value, part in zip(node.inputs, jax.vmap(transpose)(coefficients), strict=True):
        accumulate(rows, value, part)
    intercept = jnp.where(coefficients > 0, below, above)
    return const + _row_sum(coefficients * intercept)


def _through_planes(
    node: ProductNode,
    boxes: dict[int, Box],
    planes: Planes,
    rows: Coefficients,
    const: Array,
) -> Array:
    """x y between planes of one's choice, those of each row where they have rows."""
    coefficients = rows.pop(node.output)
    x, y = (boxes[i] for i in node.inputs)
    parts = jnp.maximum(coefficients, 0), jnp.minimum(coefficients, 0)
    for part, (a, b), most in zip(
        parts, (planes.lower, planes.upper), (jnp.maximum, jnp.minimum), strict=True
    ):

        def pulled(c: Array, a: Array, b: Array) -> tuple[Array, Array]:
            return jax.vjp(node.apply, a, b)[1](c)

        def constant(a: Array, b: Array, most: Any = most) -> Array:
            pa, qb = node.expand(a, b)
            ends = [node.expand(*pair) for pair in ((x.lo, y.lo), (x.hi, y.hi))]
            corners = [qb * p + pa * q - p * q for p, _ in ends for _, q in ends]
            return -node.collect(functools.reduce(most, corners))

        each = a.ndim > len(x.lo.shape)
        axes = (0, 0, 0) if each else (0, None, None)
        for value, found in zip(
            node.inputs, jax.vmap(pulled, in_axes=axes)(part, a, b), strict=True
        ):
            accumulate(rows, value, found)
        intercept = jax.vmap(constant)(a, b) if each else constant(a, b)
        const = const + _row_sum(part * intercept)
    return const


def accumulate(rows: Coefficients, value: int, pulled: Array) -> None:
    rows[value] = rows[value] + pulled if value in rows else pulled


def _row_sum(terms: Array) -> Array:
    # As a matrix product: XLA on the CPU runs a reduction next to a matrix product 2x
    # slower than the two products together (BUILD_NOTES.md, 2026-11-20).
    flat = terms.reshape((terms.shape[0], -1))
    ones = jnp.ones(flat.shape[1], flat.dtype)
    return jnp.matmul(flat, ones, precision=lax.Precision.HIGHEST)


def independent_values(program: Program, *, joint: bool = False) -> set[int]:
    """Returns the values whose interval enclosure is already exact per element.

    Along separable nodes the elements stay independent of each other; one affine node
    that mixes independent elements still has an exact range, element by element.

    Args:
      program: the program.
      joint: the inputs are those of a ball, which bounds features together: what mixes
        them has no exact range.
    """
    independent = {program.input}
    exact: set[int] = set()
    for node in program.nodes:
        if len(node.inputs) != 1 or not isinstance(node, AffineNode | ActivationNode):
            continue
        (source,) = node.inputs
        separable = isinstance(node, ActivationNode) or node.separable
        if source in independent:
            if separable:
                independent.add(node.output)
            elif not joint:
                exact.add(node.output)
        elif source in exact and separable:
            exact.add(node.output)
    return independent | exact


_COPIES = ("broadcast", "broadcast_in_dim", "gather", "tile")


def follows_input(node: Node) -> bool:
    """Returns whether every element is a function of one element of the one input.

    Its range is then exact for the range of that element, or close to it.
    """
    if isinstance(node, ActivationNode):
        return True
    separable = isinstance(node, AffineNode) and node.separable
    return len(node.inputs) == 1 and (separable or node.name in _COPIES)


def nonlinear_inputs(node: Node) -> tuple[int, ...]:
    """Returns the values of which a node's relaxation needs the range."""
    return node.inputs if isinstance(node, ActivationNode | ProductNode) else ()
