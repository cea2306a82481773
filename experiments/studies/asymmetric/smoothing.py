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

from jaxcert.network import Network
from jaxcert.smoothing import SmoothingOptions, certify
from studies.asymmetric.methods import Certified, shifted
from studies.asymmetric.task import implied_radii

_MEDIAN_OF = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Smoothing:
    """Randomized smoothing with Gaussian noise (Cohen et al. 2019): probabilistic."""

    network: Network
    options: SmoothingOptions
    seed: int
    title = "smoothing"
    norm = 1
    probabilistic = True

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Returns the median over noise of the logit difference."""
        single = jnp.asarray(x, jnp.float32)
        # Keys of their own: `certify` may not see samples that chose the shift.
        keys = _keys(self.seed + 1, single)
        apply, params = self.network.apply, self.network.params
        return np.asarray(
            _medians(apply, params, self.options.noise.scale, single, keys)
        )

    def certify(self, x: np.ndarray, shift: float) -> Certified:
        network = shifted(self.network, shift)
        single = jnp.asarray(x, jnp.float32)
        found = certify(
            network.apply,
            network.params,
            _keys(self.seed, single),
            single,
            self.options,
        )
        share = found.hits / found.samples
        score = np.where(found.selected == 1, share, 1 - share) - 0.5
        radius = np.where(found.predicted == 1, found.radius, 0.0)
        return Certified(score, implied_radii(radius, self.norm, x[0].size))


def _keys(seed: int, x: jax.Array) -> jax.Array:
    """Returns a key per input, which depends on it alone and not on its batch."""
    rows = np.array([zlib.crc32(np.asarray(row).tobytes()) for row in x], np.uint32)
    key = jax.random.key(seed, impl="threefry2x32")
    return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)


@functools.partial(jax.jit, static_argnums=0)
def _medians(
    apply: Callable, params: Any, sigma: jax.Array, x: jax.Array, keys: jax.Array
) -> jax.Array:
    def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, key = pair
        noise = jax.random.normal(key, (_MEDIAN_OF, *x.shape), x.dtype)
        logits = jax.vmap(apply, (None, 0))(params, x + sigma * noise)
        return jnp.median(logits[:, 1] - logits[:, 0])

    return jax.lax.map(one, (x, keys))
