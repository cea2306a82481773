"""Cuts: inequalities on several neurons of a layer at once, and their multipliers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxcert.bounds.backward import Terms


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cuts:
    """Inequalities `p . x + q . relu(x) <= limit` over groups of neurons of one layer.

    G groups of k neurons with F inequalities each; x are the inputs of the neurons. An
    inequality that is 0 <= 0 fills an empty place.

    Attributes:
      index: which neurons of the flat layer, shape (G, k).
      at_input: p, shape (G, F, k).
      at_output: q, shape (G, F, k).
      limit: shape (G, F).
      cost: what a unit of multiplier adds to the rounding slack, shape (G, F).
    """

    index: Int[Array, "G k"]
    at_input: Float[Array, "G F k"]
    at_output: Float[Array, "G F k"]
    limit: Float[Array, "G F"]
    cost: Float[Array, "G F"]

    def terms(
        self, multipliers: Float[Array, "rows G F"], shape: tuple[int, ...]
    ) -> Terms:
        """Returns the sum of the cuts times max(multipliers, 0), which is <= 0.

        For a layer of the given shape; one row of terms per row of multipliers.
        """
        weights, count = jnp.maximum(multipliers, 0), len(multipliers)
        pick = jax.nn.one_hot(
            self.index.reshape(-1), math.prod(shape), dtype=weights.dtype
        )

        def placed(coefficients: Array) -> Array:
            each = jnp.einsum(
                "rgf,gfk->rgk", weights, coefficients, precision=lax.Precision.HIGHEST
            )
            flat = each.reshape(count, -1)
            flat = jnp.matmul(flat, pick, precision=lax.Precision.HIGHEST)
            return flat.reshape(count, *shape)

        return Terms(
            placed(self.at_input),
            placed(self.at_output),
            -jnp.sum(weights * self.limit, axis=(1, 2)),
        )

    def charge(self, multipliers: Float[Array, "*rows G F"]) -> Float[Array, "*rows"]:
        """Returns what these multipliers add to the slack of a bound."""
        return jnp.sum(jnp.maximum(multipliers, 0) * self.cost, axis=(-2, -1))


def cast_floats(tree: Any, dtype: Any) -> Any:
    """Returns the tree with its float leaves in another float type."""

    def cast(leaf: Array) -> Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)
