"""Certified radii of feature-convex classifiers, rounded outward in float64.

The theorem (Pfrommer et al. 2023, theorem 1). Let f = g o phi + shift, with g convex
and s a subgradient of g at z = phi(x). For every x', with q the dual exponent of p,

    f(x') >= f(x) + s . (phi(x') - z) >= f(x) - |s|_q Lip_p(phi) |x' - x|_p,

so f(x') > 0 whenever |x' - x|_p < f(x) / (Lip_p(phi) |s|_q).

What is computed in floating point is no subgradient: a computed s + e costs
|e|_q |phi(x') - z|_p, and at a kink a rounding of the pre-activation can pick the side
that does not touch g at z. Both are accounted for, without any assumption on the side:

1. *Any* gates make a minorant. Every ReLU satisfies relu(a) >= t a for all a and every
   t in [0, 1]. Weights behind a ReLU are non-negative, so replacing each ReLU by its
   gate t gives an affine l with g >= l everywhere. The gates are taken from a float64
   evaluation (t = 1 where it gave a > 0, else 0); where that side is wrong, l(z) lies
   below g(z) and nothing else happens. So with s = grad l, exactly constant,

       f(x') >= l(z) + shift - |s|_q Lip_p(phi) |x' - x|_p.

2. The error of l(z) and of s is that of sums of products. With fixed gates both are
   sums over paths through the network, each the product of weights along the path (and
   of z at its beginning). In any order of summation, with or without fused
   multiply-add, the computed sum is the sum over paths of products times (1 + d), with
   |d| <= n u / (1 - n u), u = 2^-53, for at most n roundings per path (Higham, chapter
   3). The sum of the magnitudes of the paths is the same network with |weights| at |z|.
   Below 2^-1022 a result may be lost altogether: operations times 2^-1022 times the
   greatest product of weights behind one bound that.

3. Norms, constants and the quotient are rounded in the safe direction. The dual
   exponent is rounded down, for |s|_q does not increase with q.

What is proved is about the real-valued function of the stored float32 weights, batch
norm included, at the float64 input, over all of R^d.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxcert.checks import as_arrays
from jaxcert.convex import networks
from jaxcert.convex.answers import Radii
from jaxcert.convex.classifier import ConvexClassifier, checked_inputs, in_batches
from jaxcert.convex.features import Features
from jaxcert.convex.networks import ConvexArchitecture
from jaxcert.errors import InputError
from jaxcert.learning.checkpoint import by_path

_HALF_ULP = 2.0**-53
# Below the least normal number XLA flushes to zero.
_LEAST = 2.0**-1022
# Roundings charged to an array of a batch norm or a bias, the root included.
_PLAIN = 16
# 1 / sqrt(var + epsilon) of a batch norm, and 1, are at most this.
_MOST_NORM = networks.NORM_EPSILON**-0.5


def certified_radii(
    classifier: ConvexClassifier,
    x: Float[ArrayLike, "n *d"],
    norms: Sequence[float] = (1.0, 2.0, math.inf),
) -> Radii:
    """Returns closed-form certified radii, for every input and every norm.

    One value and one gradient per input, vmapped, and the same once more with
    magnitudes; see the top of this file for the theorem.

    Args:
      classifier: f.
      x: inputs.
      norms: exponents p >= 1, infinity included.

    Raises:
      InputError: inputs of another shape or not finite, or a p below 1.
    """
    for p in norms:
        if not p >= 1:
            raise InputError(f"the exponent of a norm must be at least 1, got {p}")
    values = checked_inputs(classifier, x)
    params = as_arrays(classifier.params, np.float64)

    def run(part: np.ndarray) -> tuple[Array, ...]:
        shift = np.float64(classifier.shift)
        return _minorants(
            classifier.architecture, classifier.features, params, shift, part
        )

    score, lower, slope = in_batches(run, values)
    slope = slope.reshape(len(values), -1)
    radius = np.zeros((len(values), len(norms)))
    for column, p in enumerate(norms):
        steepness = _up(norm_above(slope, p) * classifier.features.lipschitz(p))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            quotient = np.nextafter(lower / steepness, 0)
        proved = (lower > 0) & (steepness < math.inf)
        radius[:, column] = np.where(proved, quotient, 0)
    return Radii(score, lower, radius, tuple(norms))


@functools.partial(jax.jit, static_argnums=0)
def _minorants(
    architecture: ConvexArchitecture,
    features: Features,
    params: Any,
    shift: Array,
    x: Float[Array, "n *d"],
) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, "n *m"]]:
    """Returns f, lower bounds of l(z) + shift, and upper bounds of |grad l|."""
    sizes = _magnitudes(params)
    unit = 2 * _HALF_ULP * (_roundings(params) + features.roundings)
    lost = _LEAST * _operations(architecture, params) * _amplification(params)

    def one(x: Array) -> tuple[Array, Array, Array]:
        z, reach = features(x), features.magnitude(x)
        gates: list[Array] = []

        def remember(a: Array) -> Array:
            gates.append((a > 0).astype(a.dtype))
            return jax.nn.relu(a)

        score = networks.apply(architecture, params, z, remember) + shift

        def gated(params: Any, z: Array) -> Array:
            rest: Iterator[Array] = iter(gates)
            return networks.apply(architecture, params, z, lambda a: a * next(rest))

        value, slope = jax.value_and_grad(gated, argnums=1)(params, z)
        size, slope_size = jax.value_and_grad(gated, argnums=1)(sizes, reach)
        error = unit * (size + jnp.abs(shift)) + lost
        return (
            score,
            value + shift - error,
            jnp.abs(slope) + (unit * slope_size + lost),
        )

    return jax.vmap(one)(x)


def _magnitudes(params: Any) -> Any:
    """Returns parameters whose network adds up the magnitudes of all paths."""

    def size(keys: Any, leaf: Array) -> Array:
        # A batch norm subtracts its mean.
        return -jnp.abs(leaf) if keys[-1].key == "mean" else jnp.abs(leaf)

    return jax.tree_util.tree_map_with_path(size, params)


def _roundings(params: Any) -> int:
    """Returns how many roundings a path meets at most, forwards and backwards.

    A sum of n products meets n, and every kernel is met once: with as many terms as it
    has inputs forwards, and as it has outputs backwards.
    """
    total = _PLAIN
    for array in by_path(params).values():
        total += _PLAIN
        if array.ndim >= 2:
            total += math.prod(array.shape[:-1])
            total += math.prod(array.shape[:-2]) * array.shape[-1]
    return total


def _operations(architecture: ConvexArchitecture, params: Any) -> float:
    """Returns more than the operations of an evaluation and its gradient.

    Every number of an array takes part at most once per position of the features.
    """
    numbers = sum(array.size for array in by_path(params).values())
    return 16.0 * numbers * (1 + math.prod(architecture.feature_shape))


def _amplification(params: Any) -> Array:
    """Returns more than what an error made anywhere is multiplied by on its way."""
    factors = [
        _MOST_NORM + jnp.sum(jnp.abs(array)) for array in by_path(params).values()
    ]
    return jnp.prod(jnp.stack(factors))


def norm_above(vectors: Float[np.ndarray, "n m"], p: float) -> Float[np.ndarray, " n"]:
    """Returns upper bounds of the dual norms |v|_q of the rows, 1/p + 1/q = 1.

    Args:
      vectors: entries >= 0, NaN and infinity included, which give infinity.
      p: exponent >= 1 of the norm whose dual is meant.
    """
    most = vectors.max(axis=1, initial=0)
    # A sum of m numbers, each within a few ulps, and a root.
    slack = 1 + (vectors.shape[1] + 64) * 2.0**-50
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if p == 1:
            norm = most
        elif p == math.inf:
            norm = vectors.sum(axis=1) * slack
        else:
            q = _dual_exponent(p)
            shares = vectors / np.where(most > 0, most, 1)[:, None]
            norm = most * (shares**q).sum(axis=1) ** (1 / q) * slack
    return np.where(np.isfinite(norm), norm, math.inf)


def _dual_exponent(p: float) -> float:
    """Returns p / (p - 1) rounded down, at most the greatest float."""
    exact = Fraction(p) / (Fraction(p) - 1)
    q = float(exact)
    return q if Fraction(q) <= exact else math.nextafter(q, 1.0)


def _up(values: np.ndarray) -> np.ndarray:
    return np.nextafter(values, math.inf)
