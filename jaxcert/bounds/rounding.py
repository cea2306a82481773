"""Rounding: what a bound computed in float64 must exceed before it counts as a proof.

Until every rule is evaluated with outward rounding, a float64 bound is accepted only if
it exceeds a slack that dwarfs the rounding of its evaluation. A sum of n products of
magnitude at most M has an error of at most n 2^-53 M to first order (Higham, Accuracy
and Stability of Numerical Algorithms, chapter 3), in any order of summation. With M the
magnitude that any layer could reach if nothing cancelled, the slack 2^-36 (1 + M)
leaves room for n up to 2^17 terms along the deepest path of the network.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcert.bounds.ibp import node_interval
from jaxcert.box import Box
from jaxcert.program import ActivationNode, Node, OpaqueNode, Program, Values

FLOAT64_SLACK = 2.0**-36


def magnitude(
    program: Program, values: Values, boxes: dict[int, Box]
) -> Float[Array, ""]:
    """Returns the greatest magnitude of any value if no sum cancelled.

    Symmetric intervals [-M, M] are sent through the network: an affine map A z + b
    gives |A| M + |b|. A smooth activation restarts from its range in `boxes`.
    """
    start = boxes[program.input]
    sizes = {program.input: jnp.maximum(jnp.abs(start.lo), jnp.abs(start.hi))}
    greatest = jnp.max(sizes[program.input], initial=0)
    for node in program.nodes:
        box = boxes[node.output]
        if box.lo.dtype != bool and not _restarts(node):
            operands = {*node.inputs, *node.hint_inputs}
            symmetric = {i: Box(-sizes[i], sizes[i]) for i in operands}
            box = node_interval(node, values, symmetric, use_hint=False)
        ends = (jnp.abs(v.astype(start.lo.dtype)) for v in (box.lo, box.hi))
        sizes[node.output] = jnp.maximum(*ends)
        greatest = jnp.maximum(greatest, jnp.max(sizes[node.output], initial=0))
    return greatest


def _restarts(node: Node) -> bool:
    if isinstance(node, ActivationNode):
        return not node.activation.piecewise_linear
    return isinstance(node, OpaqueNode)


def float64_slack(
    program: Program, values: Values, boxes: dict[int, Box], rows: Array
) -> Float[Array, ""]:
    """Returns what a float64 bound of spec rows must exceed: 2^-36 (1 + |C| M).

    Args:
      program: the program.
      values: its prepared parameter values, in float64.
      boxes: range of every value over the box, in float64.
      rows: the coefficients C of the spec, shape (rows, outputs).
    """
    scale = jnp.max(jnp.sum(jnp.abs(rows), axis=-1))
    return FLOAT64_SLACK * (1 + scale * magnitude(program, values, boxes))
