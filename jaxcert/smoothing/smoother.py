"""Smoother: counts answers for a batch of inputs, in steps that can be stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxcert.devices import is_accelerator
from jaxcert.errors import InputError
from jaxcert.memory import room_for
from jaxcert.smoothing.binomial import lower_bound, upper_bound
from jaxcert.smoothing.options import (
    Generated,
    OracleError,
    Predicted,
    SmoothingOptions,
)
from jaxcert.smoothing.sampling import Sampler

Model = Callable[[Any, Array], Array] | Generated

_SELECTION, _ESTIMATION = 0, 1
_EXACT = OracleError()
# Noisy inputs at once, and floats that a network may hold per feature of each.
_CPU_BATCH, _ACCELERATOR_BATCH, _FLOATS_PER_FEATURE = 250, 1 << 16, 64


@dataclasses.dataclass(frozen=True, eq=False)
class Tally:
    """The counts of a batch so far: all that has to be stored to go on later.

    Attributes:
      selection: how often each class was the answer among the n0 samples that choose.
      counts: the same among the samples that bound the probability.
      samples: how many of the latter were drawn.
    """

    selection: Int[np.ndarray, "m K"]
    counts: Int[np.ndarray, "m K"]
    samples: Int[np.ndarray, " m"]

    @property
    def selected(self) -> Int[np.ndarray, " m"]:
        """The class chosen for each input."""
        return self.selection.argmax(axis=1)

    @property
    def hits(self) -> Int[np.ndarray, " m"]:
        """How many of the samples answered the chosen class."""
        return np.take_along_axis(self.counts, self.selected[:, None], 1)[:, 0]


class Smoother:
    """Draws the samples of `certify`: `select`, then `advance` until none is open."""

    def __init__(self, model: Model, params: Any, options: SmoothingOptions) -> None:
        """Takes (params, x) -> logits (K,), or a `Generated`."""
        try:
            hash(model)
        except TypeError as error:
            raise InputError(
                f"the model cannot be hashed ({error}): give a function, or a frozen "
                "dataclass with a __call__"
            ) from error
        self.options = options
        self._params = params
        self._classify = model if isinstance(model, Generated) else Predicted(model)

    def select(self, key: Array, x: Float[ArrayLike, "m *d"]) -> Tally:
        """Returns the counts of the samples that choose each input's class."""
        x = self._checked(x)
        keys = _stage(input_keys(key, len(x)), _SELECTION)
        selection = self._sampler(x).count(self._params, keys, x, 0, self.options.n0)
        return Tally(
            selection, np.zeros_like(selection), np.zeros(len(selection), np.int64)
        )

    def fixed(self, x: Float[ArrayLike, "m *d"], selected: int) -> Tally:
        """Returns an empty tally in which one class is chosen, without samples."""
        x = self._checked(x)
        shape = (len(x), self._num_classes(x))
        selection = np.zeros(shape, np.int64)
        selection[:, selected] = 1
        return Tally(selection, np.zeros(shape, np.int64), np.zeros(len(x), np.int64))

    def open(self, tally: Tally, oracle: OracleError = _EXACT) -> Bool[np.ndarray, "m"]:
        """Returns for which inputs samples are still to be drawn."""
        options, samples = self.options, np.maximum(tally.samples, 1)
        unfinished = tally.samples < options.n
        if options.stopping is None:
            return unfinished
        alpha, wanted = options.alpha_per_look(), options.stopping.radius
        hits, eps = np.minimum(tally.hits, samples), oracle.of(len(samples))
        certain = lower_bound(hits, samples, alpha) - eps
        # Giving up is no claim, so the other bound needs no share of alpha.
        possible = upper_bound(hits, samples, options.alpha) - eps
        decided = (options.noise.radius(certain) > wanted) | (
            options.noise.radius(possible) <= wanted
        )
        at_look = np.isin(tally.samples, options.looks())
        return unfinished & ~(at_look & decided)

    def advance(
        self,
        tally: Tally,
        key: Array,
        x: Float[ArrayLike, "m *d"],
        most: int | None = None,
        oracle: OracleError = _EXACT,
    ) -> Tally:
        """Returns the tally after up to `most` more samples of every open input.

        Counts up to the next look at most. `key` and `x` are those of `select`, and
        so are the samples: what was drawn before is never drawn again.
        """
        x, is_open = self._checked(x), self.open(tally, oracle)
        if not is_open.any():
            return tally
        start = int(tally.samples[is_open].min())
        rows = np.flatnonzero(is_open & (tally.samples == start))
        stop = next(look for look in self.options.looks() if look > start)
        stop = min(stop, start + (most or stop))
        # Repeated rows fill up to few different sizes, so that few are compiled.
        size = min(len(x), 1 << (len(rows) - 1).bit_length())
        padded = np.resize(rows, size)
        keys = _stage(input_keys(key, len(x)), _ESTIMATION)[padded]
        sampler = self._sampler(x)
        drawn = sampler.count(self._params, keys, x[padded], start, stop)
        counts, samples = tally.counts.copy(), tally.samples.copy()
        counts[rows] += drawn[: len(rows)]
        samples[rows] = stop
        return dataclasses.replace(tally, counts=counts, samples=samples)

    def _sampler(self, x: Array) -> Sampler:
        o, classes = self.options, self._num_classes(x)
        together = o.batch_size or _usual_batch(x[0].size)
        return Sampler(self._classify, classes, o.noise, o.chunk, together)

    def _num_classes(self, x: Array) -> int:
        model, key = self._classify, jax.random.key(0)
        try:
            if isinstance(model, Generated):
                answer = jax.eval_shape(model, self._params, key, x[0])
            else:
                answer = jax.eval_shape(model.f, self._params, x[0])
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the model does not take one input of shape {x.shape[1:]}: {error}"
            ) from error
        shape = getattr(answer, "shape", None)
        if isinstance(model, Generated):
            if shape != () or not jnp.issubdtype(answer.dtype, jnp.integer):
                raise InputError(f"the oracle returns {answer}; it must be one integer")
            return model.num_classes
        if shape is None or len(shape) != 1 or shape[0] < 2:
            raise InputError(
                f"the classifier returns {answer} for one input of shape "
                f"{x.shape[1:]}; smoothing needs a vector of at least 2 logits, or a "
                "Generated"
            )
        return int(shape[0])

    @staticmethod
    def _checked(x: Float[ArrayLike, "m *d"]) -> Array:
        x = np.asarray(x, np.float32)
        if x.ndim < 1 or not len(x):
            raise InputError("there is no input to certify: give x a leading axis")
        broken = ~np.isfinite(x.reshape(len(x), -1)).all(axis=1)
        if broken.any():
            raise InputError(
                f"input {np.flatnonzero(broken)[0]} holds NaN or infinity: clean it "
                "before certifying"
            )
        return jnp.asarray(x)


def _usual_batch(features: int) -> int:
    """Returns how many noisy inputs are classified at once where nothing is said."""
    if not is_accelerator():
        return _CPU_BATCH
    each = 4 * _FLOATS_PER_FEATURE * max(features, 1)
    return room_for(each, _CPU_BATCH, _ACCELERATOR_BATCH)


def input_keys(key: Array, count: int) -> Array:
    """Returns one key per input: those given, or one key with indices folded in.

    Raises:
      InputError: no typed key, one of another generator than threefry (whose numbers
        would depend on which inputs share a batch), or another number of keys.
    """
    typed = isinstance(key, jax.Array) and jnp.issubdtype(
        key.dtype, jax.dtypes.prng_key
    )
    if not typed or str(jax.random.key_impl(key)) != "threefry2x32":
        raise InputError("make the key with jax.random.key(seed, impl='threefry2x32')")
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    if key.shape != (count,):
        raise InputError(
            f"there are keys of shape {key.shape} for {count} inputs: give one key, or "
            "one per input"
        )
    return key


def _stage(keys: Array, stage: int) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, stage)
