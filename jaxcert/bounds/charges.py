"""Charges: what bounds in steps take off for rounding, step by step.

The slack of `rounding.py` is about any bound of a region at once, and carries errors of
ranges to the output by |A|, as if nothing cancelled: behind two layers of attention it
is larger than what is to be proved. Here every range is widened by what its own
operation may have lost, so that nothing is carried on: lines and planes are made for
ranges that hold. A backward pass replaces a row c over the output of a node by one over
its inputs; whatever row it has computed, the inequality between the two holds for the
values that the inputs take, but for |c| times u S. With R the greatest magnitudes of
the ranges of the inputs, S is

    affine      A z + b     |A| R + |b|, and what errors of computed weights do
    moved elements          0, and R where they are repeated: rows are summed there
    ReLU                    3 R
    activation  g(z)        |g| + 2 L R, L a bound of |g'| and of the slopes of lines
    product     x y         6 R_x R_y, and 1 for shares of 1
    decision, noise         their range

and u the unit of `rounding.py`: twice 2^-53 times the roundings that any path meets.
Lines are sums of terms of at most |g| + 2 L R, planes `b x + a y - c` of at most
6 R_x R_y, and what coefficients of shares of 1 have in common is no greater than the
greatest of them. What is flushed below 2^-1022 is charged
per value, however small its coefficients are.
"""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcert.bounds.backward import Charges
from jaxcert.bounds.crown import meet
from jaxcert.bounds.ibp import node_interval
from jaxcert.bounds.rounding import lost_by, moves
from jaxcert.bounds.signs import known_signs
from jaxcert.box import Box
from jaxcert.trace.equations import Values
from jaxcert.trace.program import (
    ActivationNode,
    AffineNode,
    Node,
    OpaqueNode,
    ProductNode,
    Program,
    is_relu,
)
from jaxcert.trace.weight_errors import weight_error


def charged(
    program: Program,
    values: Values,
    box: Box,
    known: dict[int, Box],
    unit: Float[Array, ""],
) -> tuple[dict[int, Box], Charges]:
    """Returns ranges of all values that hold whatever rounding did, and what that cost.

    Args:
      program: the program.
      values: its prepared parameter values.
      box: of inputs.
      known: ranges that hold, which others are met with.
      unit: u, or 0 for ranges as they are computed, which are charged nothing.
    """
    counts = unit > 0
    boxes, lost = {program.input: box}, lost_by(unit)
    steps = {program.input: unit * box.magnitude}
    flushed = {program.input: lost * jnp.sum(1 + box.magnitude)}
    signs = known_signs(program, values, box)
    top = jnp.max(box.magnitude, initial=0)
    for node in program.nodes:
        found = node_interval(node, values, boxes)
        if found.lo.dtype != bool and not moves(node):
            size, of_weights = _size(node, values, boxes, found)
            top = jnp.maximum(top, jnp.max(size, initial=0))
            each = unit * size + of_weights + lost * (1 + top)
            each = jnp.where(counts, each, 0)
            steps[node.output] = each
            reaches = [jnp.sum(1 + boxes[i].magnitude) for i in node.inputs]
            flushed[node.output] = lost * functools.reduce(operator.add, reaches)
            ends = _end_errors(node, values, boxes, found, unit) or Box(each, each)
            ends = jax.tree.map(lambda end: jnp.where(counts, end, 0), ends)
            found = _widened(found, ends, signs.get(node.output))
        elif found.lo.dtype != bool and node.size > boxes[node.inputs[0]].lo.size:
            # Its elements are exact, but a row over them becomes sums of its elements.
            size = found.magnitude
            each = unit * size + lost * (1 + size)
            steps[node.output] = jnp.where(counts, each, 0)
            flushed[node.output] = lost * jnp.sum(1 + size)
        elif any(~i in values for i in node.weights):
            found = Box(found.lo & ~counts, found.hi | counts)
        if node.output in known:
            more = known[node.output]
            found = Box(*meet(found.lo, found.hi, more.lo, more.hi))
        boxes[node.output] = found
    return boxes, Charges(unit, steps, flushed)


def _end_errors(
    node: Node, values: Values, boxes: dict[int, Box], found: Box, unit: Array
) -> Box | None:
    """Returns what either end of a range loses, where it is less than what rows do.

    A maximum is exact, and the sum of exponentials loses what is little of itself.
    """
    lost = lost_by(unit) * (1 + found.magnitude)
    if isinstance(node, ActivationNode):
        if is_relu(node):
            return Box(jnp.zeros_like(lost), jnp.zeros_like(lost))
        if node.activation.relative:
            return Box(*(unit * jnp.abs(end) + lost for end in (found.lo, found.hi)))
    if isinstance(node, AffineNode) and node.sums:
        (z,) = (boxes[i] for i in node.inputs)
        ends = [node.apply(values, jnp.abs(end)) for end in (z.lo, z.hi)]
        return Box(*(unit * end + lost for end in ends))
    return None


def _widened(box: Box, errors: Box, positive: Array | None) -> Box:
    lo = box.lo - errors.lo
    if positive is not None:  # NaN stays NaN
        lo = jnp.where(positive & (lo < 0), 0, lo)
    return Box(lo, box.hi + errors.hi)


def _size(
    node: Node, values: Values, boxes: dict[int, Box], found: Box
) -> tuple[Array, Array | float]:
    """Returns the size of a node's output, and what errors of weights add to it."""
    inputs = [boxes[i] for i in node.inputs]
    reach = [box.magnitude for box in inputs]
    error: Array | float = 0.0
    match node:
        case ActivationNode() if is_relu(node):
            size = 3 * reach[0]
        case ActivationNode():
            steepness = node.activation.steepness(inputs[0].lo, inputs[0].hi)
            size = found.magnitude + 2 * steepness * reach[0]
        case ProductNode():
            size = 6 * node.apply(*reach)
            if node.shares is not None:
                size = size + 1
        case OpaqueNode():
            size = found.magnitude
        case AffineNode():
            if node.spread is not None:
                size = node.spread(values, *reach)
            else:
                size = node.interval(values, *(Box(-z, z) for z in reach)).magnitude
            error = weight_error(node, values, reach, node.weights)
        case _:
            raise TypeError(f"unknown node {type(node).__name__}")
    if isinstance(node, OpaqueNode) and any(~i in values for i in node.weights):
        error = jnp.full_like(size, jnp.inf)
    return size, error
