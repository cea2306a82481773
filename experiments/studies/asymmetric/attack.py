"""Attacks on feature-convex certificates, in float64."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from optax.projections import projection_l1_ball, projection_l2_ball

from jaxcert.certifier import float64
from jaxcert.checks import as_arrays
from jaxcert.convex import ConvexClassifier, networks
from studies.asymmetric.task import NORM_NAMES, NORMS

_STEPS = 60
# In radii. Long steps along one pixel, as in l1, run across the valley and up again.
_FIRST_STEP = 0.2
MULTIPLES = (1.0, 3.0, 10.0)
"""How many certified radii away attacks go; beyond the first they should succeed."""


@dataclasses.dataclass(frozen=True)
class Attacks:
    """How often attacks found the other class.

    Attributes:
      norm: name of the norm.
      multiple: radius of the attack in certified radii.
      made: how many attacks, half by gradient steps, half one steepest step.
      found: how many of them ended in the other class.
      inputs: how many inputs were attacked, each by both.
      broken: of how many of them at least one attack ended in the other class.
    """

    norm: str
    multiple: float
    made: int
    found: int
    inputs: int
    broken: int


@float64()
def attack_all(
    classifier: ConvexClassifier,
    x: np.ndarray,
    radius: np.ndarray,
    count: int,
    seed: int,
) -> list[Attacks]:
    """Returns the outcome of attacks inside certified radii and beyond them.

    Args:
      classifier: with its shift.
      x: certified inputs, shape (n, *d), n >= 1.
      radius: their certified radii, shape (n, 3), all above 0.
      count: least number of attacks at every multiple.
      seed: of the random starts.
    """
    each = math.ceil(count / (2 * len(NORMS)))
    rows = np.arange(each) % len(x)
    found = []
    keys = jax.random.split(jax.random.key(seed), each)
    params = as_arrays(classifier.params, np.float64)
    for column, (name, p) in enumerate(zip(NORM_NAMES, NORMS, strict=True)):
        for multiple in MULTIPLES:
            least = _attack(
                (classifier.architecture, p),
                (params, classifier.features, np.float64(classifier.shift)),
                x[rows].astype(np.float64),
                multiple * radius[rows, column],
                keys,
            )
            hits = np.asarray(least) <= 0
            counts = 2 * each, int(hits.sum()), each, int(hits.any(axis=1).sum())
            found.append(Attacks(name, multiple, *counts))
    return found


@functools.partial(jax.jit, static_argnums=0)
def _attack(
    static: tuple[networks.ConvexArchitecture, float],
    classifier: Any,
    x: jax.Array,
    radius: jax.Array,
    keys: jax.Array,
) -> jax.Array:
    """Returns the least f of both attacks on every input, shape (n, 2)."""
    architecture, p = static
    params, features, shift = classifier

    def score(x: jax.Array) -> jax.Array:
        return networks.apply(architecture, params, features(x)) + shift

    slope = jax.value_and_grad(score)

    def one(x: jax.Array, radius: jax.Array, key: jax.Array) -> jax.Array:
        def descend(step: jax.Array, state: tuple) -> tuple:
            moved, least = state
            value, downhill = slope(x + moved)
            length = _FIRST_STEP * radius * (1 - step / (_STEPS + 1))
            moved = _into_ball(moved + length * steepest(downhill, p), radius, p)
            return moved, jnp.minimum(least, value)

        noise = jax.random.normal(key, x.shape, x.dtype)
        start = _into_ball(radius * steepest(noise, p), radius / 2, p)
        moved, least = jax.lax.fori_loop(0, _STEPS, descend, (start, jnp.inf))
        once = radius * steepest(slope(x)[1], p)
        last, at_once = jax.vmap(score)(x + jnp.stack([moved, once]))
        return jnp.stack([jnp.minimum(least, last), at_once])

    return jax.vmap(one)(x, radius, keys)


def steepest(slope: jax.Array, p: float) -> jax.Array:
    """Returns the direction of unit p-norm along which f falls fastest."""
    if p == math.inf:
        return -jnp.sign(slope)
    if p == 2:
        return -slope / jnp.maximum(jnp.linalg.norm(slope.ravel()), 1e-300)
    at = jnp.argmax(jnp.abs(slope))
    hot = jnp.arange(slope.size).reshape(slope.shape) == at
    return jnp.where(hot, -jnp.sign(slope), 0)


def _into_ball(moved: jax.Array, radius: jax.Array, p: float) -> jax.Array:
    flat = moved.ravel()
    if p == math.inf:
        flat = jnp.clip(flat, -radius, radius)
    elif p == 2:
        flat = projection_l2_ball(flat, radius)
    else:
        flat = projection_l1_ball(flat, radius)
    return flat.reshape(moved.shape)
