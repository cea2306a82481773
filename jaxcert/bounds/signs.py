"""Signs: which values are >= 0 for reasons that no rounding can touch.

The computed range of x^2 + y^2 begins at 0, give or take a rounding error; the value
itself is never negative. A root of it has a value all over the box only because of
that. So the sign is told from what the operations are, apart from computed ranges.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxcert.bounds.ibp import node_interval
from jaxcert.box import Box
from jaxcert.trace.equations import Values
from jaxcert.trace.program import ActivationNode, AffineNode, Node, Program

Signs = dict[int, Array]
"""By value id: which elements are known to be >= 0."""


def known_signs(program: Program, values: Values, box: Box) -> Signs:
    """Returns which elements of the values before a root are >= 0 all over the box.

    Nothing, where no activation asks for it (`Activation.modulus`).
    """
    wanted: set[int] = set()
    for node in reversed(program.nodes):
        root = isinstance(node, ActivationNode) and node.activation.modulus is not None
        if root or node.output in wanted:
            wanted.update(node.inputs, node.hint_inputs)
    signs, extremes = {}, {}
    if program.input in wanted:
        signs[program.input] = box.lo >= 0
        extremes[program.input] = _extremes(signs[program.input], box.lo.dtype)
    for node in program.nodes:
        if node.output not in wanted:
            continue
        if isinstance(node, ActivationNode):
            known = node.activation.sign(signs[node.inputs[0]])
        elif _contracts(node):
            known = _product_sums(node, values, signs[node.inputs[0]])
        else:
            lo = node_interval(node, values, extremes).lo
            if lo.dtype == bool:  # truth values: both are possible
                extremes[node.output] = Box(jnp.zeros_like(lo), jnp.ones_like(lo))
                continue
            known = lo > 0 if _adds_constant(node) else lo >= 0
            if any(~i in values for i in node.weights):  # of either sign, perhaps
                known = jnp.zeros_like(known)
        signs[node.output] = known
        extremes[node.output] = _extremes(known, box.lo.dtype)
    return signs


def _extremes(known: Array, dtype: Any) -> Box:
    """[0, inf] where the sign is known, [-inf, inf] elsewhere.

    Every rule computes the ends of a range from the ends of its operands. From 0 and
    infinity that takes no rounding: sums, maxima and multiples of them are 0, infinite
    or NaN, which is no sign.
    """
    least = jnp.where(known, 0, -jnp.inf).astype(dtype)
    return Box(least, jnp.full_like(least, jnp.inf))


def _contracts(node: Node) -> TypeGuard[AffineNode]:
    """Whether the node sums products of its input with one weight, and no more."""
    names = ("dot_general", "conv_general_dilated")
    one = len(node.weights) == 1
    return isinstance(node, AffineNode) and node.name in names and one


def _product_sums(node: AffineNode, values: Values, known: Array) -> Array:
    """Returns which sums of products are >= 0: those of no other than these.

    A product of two numbers >= 0 is >= 0, in real arithmetic, rounded, and flushed to
    0; so is a sum of such products, whatever the order. A product with a weight that is
    0 is 0. Weights are judged by their bits, for comparisons may flush them, and those
    that are computed with an error by all that they may be.
    """
    (number,) = node.weights
    weight, error = values[number], values.get(~number)
    if weight.dtype not in (jnp.float32, jnp.float64):
        return jnp.zeros(node.shape, bool)
    whole = jnp.int64 if weight.dtype == jnp.float64 else jnp.int32
    bits = lax.bitcast_convert_type(weight, whole)
    negative, present = bits < 0, bits != 0
    if error is not None:
        inexact = lax.bitcast_convert_type(error, whole) != 0
        negative, present = negative | (inexact & ~(weight > error)), present | inexact
    # Sums of zeros and ones cannot cancel: they are 0 iff no product is in doubt.
    kind = weight.dtype
    spoiled = node.apply(
        {**values, number: negative.astype(kind)}, jnp.ones_like(known, kind)
    )
    unsigned = node.apply(
        {**values, number: present.astype(kind)}, (~known).astype(kind)
    )
    return (spoiled == 0) & (unsigned == 0)


def _adds_constant(node: Node) -> bool:
    """Whether a constant enters that was flushed to 0 from below, for all we know."""
    two_values = node.name in ("add", "add_any") and len(node.inputs) == 2
    return isinstance(node, AffineNode) and node.has_offset and not two_values
