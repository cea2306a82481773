"""What errors of computed weights do to an affine node.

An affine node is affine in its weights too: B(w, x) + L(w) + K(x), with only one of B
and L per weight. With errors E for the weights, 0 for all others and magnitudes M for
x, |apply(E, M) - apply(0, M)| = B(E, M) + |L(E)| is how far its result moves. Where a
weight is not a number (an index, a truth value) nothing is known once it has an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxcert.trace.equations import Values
from jaxcert.trace.floats import is_float
from jaxcert.trace.program import AffineNode


def weight_error(
    node: AffineNode, values: Values, magnitudes: Sequence[Any], weights: Sequence[int]
) -> Any:
    """Returns how far the node's result moves with the errors of these weights.

    Args:
      node: the node.
      values: what `Program.prepare` returned.
      magnitudes: of its inputs, >= 0.
      weights: ids, of which those with an error count.
    """
    inexact = [i for i in weights if ~i in values]
    if node.weight_error is not None and inexact:
        return node.weight_error(values, *magnitudes)
    numbers = [i for i in inexact if is_float(jnp.result_type(values[i]))]
    error = jnp.zeros(node.shape, magnitudes[0].dtype)
    if numbers:
        none = {
            i: jnp.zeros_like(values[i])
            for i in node.weights + tuple(weights)
            if is_float(jnp.result_type(values[i]))
        }
        still = node.apply({**values, **none}, *magnitudes)
        moved = {**none, **{i: values[~i] for i in numbers}}
        error = jnp.abs(node.apply({**values, **moved}, *magnitudes) - still)
    for i in inexact:
        if i not in numbers:
            error = error + jnp.where(jnp.any(values[~i] > 0), jnp.inf, 0.0)
    return error
