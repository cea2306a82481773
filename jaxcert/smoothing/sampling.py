"""Counts of what a randomized classifier answers on noisy copies of its inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxcert.smoothing.noise import Noise

Classify = Callable[[Any, Array, Array], Array]
"""(params, key, x) -> class of one input; a number outside 0 .. K - 1 is no class."""


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws samples in an order of their own, whatever the calls that ask for them.

    Sample s of an input depends on the input's key and on s alone: its chunk's number
    is folded into the key. So a run that was interrupted goes on with fresh samples
    and ends with the same counts.

    Attributes:
      classify: what is smoothed; hashable.
      num_classes: K.
      noise: what is added to the inputs.
      chunk: samples that share a key, drawn at once.
      batch_size: most noisy copies at once; inputs are taken together up to it.
    """

    classify: Classify
    num_classes: int
    noise: Noise
    chunk: int
    batch_size: int

    def count(
        self,
        params: Any,
        keys: Array,
        x: Float[Array, "m *d"],
        start: int,
        stop: int,
    ) -> Int[np.ndarray, "m K"]:
        """Returns how often each class is the answer among samples start .. stop - 1.

        Args:
          params: of the classifier.
          keys: one per input.
          x: inputs, float32.
          start: first sample.
          stop: the sample after the last, < 2^31.
        """
        together = max(1, min(self.batch_size // self.chunk, len(x)))
        static = (
            self.classify, self.num_classes, type(self.noise), self.chunk, together
        )  # fmt: skip
        # Whole groups only: a remainder would be compiled as a second program.
        rows = np.arange(-(-len(x) // together) * together) % len(x)
        scale, span = np.float32(self.noise.scale), np.array([start, stop], np.int32)
        counts = _count(static, params, keys[rows], x[rows], scale, span)
        return np.asarray(counts)[: len(x)].astype(np.int64)


@partial(jax.jit, static_argnums=0)
def _count(
    static: tuple[Classify, int, type[Noise], int, int],
    params: Any,
    keys: Array,
    x: Float[Array, "m *d"],
    scale: Float[Array, ""],
    span: Int[Array, " 2"],
) -> Int[Array, "m K"]:
    classify, num_classes, kind, chunk, together = static

    def one(pair: tuple[Array, Array], index: Array) -> Array:
        key, x = pair
        noise_key, own_key = jax.random.split(jax.random.fold_in(key, index))
        noisy = x + scale * kind.unit(noise_key, (chunk, *x.shape))
        keys = jax.random.split(own_key, chunk)
        said = jax.vmap(classify, (None, 0, 0))(params, keys, noisy)
        number = index * chunk + jnp.arange(chunk)
        counted = (span[0] <= number) & (number < span[1])
        rows = (said[:, None] == jnp.arange(num_classes)) & counted[:, None]
        return rows.sum(0, dtype=jnp.int32)

    def add(index: Array, counts: Array) -> Array:
        # Memory stays that of one chunk, however many samples there are.
        return counts + lax.map(
            lambda pair: one(pair, index), (keys, x), batch_size=together
        )

    counts = jnp.zeros((x.shape[0], num_classes), jnp.int32)
    first, last = span[0] // chunk, (span[1] - 1) // chunk
    return lax.fori_loop(first, last + 1, add, counts)
