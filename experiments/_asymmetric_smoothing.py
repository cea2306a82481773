"""Randomized smoothing as one of the methods that are compared."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from _asymmetric_methods import Certified, shifted
from _asymmetric_task import implied_radii

from jaxcert.network import Network

_NOISE_BATCH = 1000
_SELECTION, _ALPHA = 100, 0.001


@dataclasses.dataclass(frozen=True, eq=False)
class Smoothing:
    """Randomized smoothing with Gaussian noise (Cohen et al. 2019): probabilistic."""

    network: Network
    sigma: float
    samples: int
    seed: int
    title = "smoothing"
    norm = 1
    probabilistic = True

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Returns the median over noise of the logit difference."""
        single = jnp.asarray(x, jnp.float32)
        keys = _keys(self.seed, single)
        apply, params = self.network.apply, self.network.params
        return np.asarray(_medians(apply, params, self.sigma, single, keys))

    def certify(self, x: np.ndarray, shift: float) -> Certified:
        network = shifted(self.network, shift)
        single = jnp.asarray(x, jnp.float32)
        first, second = (_keys(self.seed + k, single) for k in (1, 2))
        votes = _count(network, self.sigma, _SELECTION, single, first)
        found = _count(network, self.sigma, self.samples, single, second)
        selected = np.asarray(votes) > _SELECTION / 2
        # Clopper-Pearson: one-sided, exact.
        hits = np.asarray(found, np.float64)
        least = scipy.stats.beta.ppf(_ALPHA, hits, self.samples - hits + 1)
        sure = selected & (least > 0.5)
        radius = np.where(sure, self.sigma * scipy.stats.norm.ppf(least), 0.0)
        score = np.asarray(votes) / _SELECTION - 0.5
        return Certified(score, implied_radii(radius, self.norm, x[0].size))


def _count(
    network: Network, sigma: float, samples: int, x: jax.Array, keys: jax.Array
) -> jax.Array:
    """Returns how many noisy copies of every input are predicted sensitive."""
    chunk = min(samples, _NOISE_BATCH)
    sizes = np.minimum(chunk, samples - chunk * np.arange(-(-samples // chunk)))
    return _votes(network.apply, chunk, network.params, sigma, sizes, x, keys)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _votes(
    apply: Callable,
    chunk: int,
    params: Any,
    sigma: jax.Array,
    sizes: jax.Array,
    x: jax.Array,
    keys: jax.Array,
) -> jax.Array:
    def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, key = pair

        def add(total: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple:
            number, size = step
            noisy = _noisy(x, jax.random.fold_in(key, number), sigma, chunk)
            logits = jax.vmap(apply, (None, 0))(params, noisy)
            hit = (logits[:, 1] > logits[:, 0]) & (jnp.arange(chunk) < size)
            return total + hit.sum(), None

        steps = jnp.arange(len(sizes)), sizes
        return jax.lax.scan(add, jnp.int32(0), steps)[0]

    return jax.lax.map(one, (x, keys))


def _noisy(x: jax.Array, key: jax.Array, sigma: jax.Array, count: int) -> jax.Array:
    return x + sigma * jax.random.normal(key, (count, *x.shape), x.dtype)


def _keys(seed: int, x: jax.Array) -> jax.Array:
    """Returns a key per input, which depends on it alone and not on its batch."""
    rows = np.array([zlib.crc32(np.asarray(row).tobytes()) for row in x], np.uint32)
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), rows)


@functools.partial(jax.jit, static_argnums=0)
def _medians(
    apply: Callable, params: Any, sigma: jax.Array, x: jax.Array, keys: jax.Array
) -> jax.Array:
    def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        noisy = _noisy(*pair, sigma, _SELECTION)
        logits = jax.vmap(apply, (None, 0))(params, noisy)
        return jnp.median(logits[:, 1] - logits[:, 0])

    return jax.lax.map(one, (x, keys))
