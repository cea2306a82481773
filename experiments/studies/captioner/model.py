"""A recurrent captioner: image to words, sampled one after the other."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxcert.errors import InputError
from jaxcert.learning.data import Dataset
from jaxcert.runs.array_files import read_npz, write_npz
from studies.captioner.captions import (
    CAPTIONS,
    END,
    LENGTH,
    NOUNS,
    START,
    WORDS,
    shades,
)

_PIXELS = 28 * 28
_BATCH = 128


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How the captioner is trained: Adam, on images with fresh Gaussian noise."""

    noise: float
    epochs: int
    seed: int


class Captioner(nnx.Module):
    """Dense encoder of the image, GRU decoder of the words."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        """Makes layers of 128 encoder units, 64 recurrent ones, 16 per word."""
        self.inner = nnx.Linear(_PIXELS, 128, rngs=rngs)
        self.outer = nnx.Linear(128, 64, rngs=rngs)
        self.embedding = nnx.Embed(len(WORDS), 16, rngs=rngs)
        self.gates = nnx.Linear(16 + 64, 128, rngs=rngs)
        self.proposal = nnx.Linear(16 + 64, 64, rngs=rngs)
        self.readout = nnx.Linear(64, len(WORDS), rngs=rngs)

    def begin(self, x: Float[Array, "*n h w c"]) -> Float[Array, "*n 64"]:
        """Returns the recurrent state that an image starts with."""
        x = x.reshape(*x.shape[:-3], _PIXELS)
        return jnp.tanh(self.outer(nnx.relu(self.inner(x))))

    def step(self, state: Array, word: Int[Array, "*n"]) -> tuple[Array, Array]:
        """Returns the next state and the logits of the next word."""
        seen = self.embedding(word)
        both = jnp.concatenate([seen, state], axis=-1)
        update, reset = jnp.split(jax.nn.sigmoid(self.gates(both)), 2, axis=-1)
        mixed = jnp.concatenate([seen, reset * state], axis=-1)
        state = (1 - update) * state + update * jnp.tanh(self.proposal(mixed))
        return state, self.readout(state)


@functools.lru_cache(maxsize=1)
def _graph() -> nnx.GraphDef:
    return nnx.graphdef(nnx.eval_shape(lambda: Captioner(nnx.Rngs(0))))


@dataclasses.dataclass(frozen=True)
class Generate:
    """The function `generate(params, key, x) -> caption`, words drawn at random.

    Attributes:
      temperature: the logits are divided by it.
    """

    temperature: float

    def __call__(self, params: Any, key: Array, x: Array) -> Int[Array, " length"]:
        """Returns the words of one image's caption, the end repeated to its length."""
        model = nnx.merge(_graph(), params)

        def speak(carry: tuple[Array, Array], key: Array) -> tuple:
            state, word = carry
            state, logits = model.step(state, word)
            said = jax.random.categorical(key, logits / self.temperature)
            said = jnp.where(word == END, END, said).astype(jnp.int32)
            return (state, said), said

        start = model.begin(x), jnp.int32(START)
        keys = jax.random.split(key, LENGTH)
        return jax.lax.scan(speak, start, keys)[1]


def train(data: Dataset, options: TrainOptions) -> Any:
    """Returns the parameters of a captioner of the images' classes and shades.

    Which of its nouns an image is called by is drawn anew whenever it is seen.

    Raises:
      InputError: images of another size or with other classes.
    """
    if data.images[0].size != _PIXELS or len(data.class_names) != len(CAPTIONS):
        raise InputError(f"the captioner is for fashion_mnist, not for {data.name}")
    rng = np.random.default_rng(options.seed)
    params = nnx.to_pure_dict(nnx.state(Captioner(nnx.Rngs(options.seed))))
    steps = len(data.labels) // _BATCH * options.epochs
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    state = optimizer.init(params)
    light, key = shades(data.images), jax.random.key(options.seed)

    def loss(params: Any, x: Array, captions: Array) -> Array:
        model = nnx.merge(_graph(), params)

        def read(carry: tuple[Array, Array], following: Array) -> tuple:
            hidden, word = carry
            hidden, logits = model.step(hidden, word)
            cost = optax.softmax_cross_entropy_with_integer_labels(logits, following)
            return (hidden, following), jnp.where(word == END, 0, cost).mean()

        begin = model.begin(x), jnp.full(len(x), START, captions.dtype)
        return jax.lax.scan(read, begin, captions.T)[1].sum()

    @jax.jit
    def step(params: Any, state: Any, x: Array, captions: Array, key: Array) -> tuple:
        noisy = x + options.noise * jax.random.normal(key, x.shape, x.dtype)
        value, gradient = jax.value_and_grad(loss)(params, noisy, captions)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    done = 0
    for epoch in range(options.epochs):
        order = rng.permutation(len(data.labels))
        values = []
        for first in range(0, len(order) - _BATCH + 1, _BATCH):
            rows = order[first : first + _BATCH]
            nouns = rng.integers(NOUNS, size=_BATCH)
            captions = CAPTIONS[data.labels[rows], light[rows], nouns]
            noise_key = jax.random.fold_in(key, done)
            params, state, value = step(
                params, state, data.images[rows], captions, noise_key
            )
            values.append(value)
            done += 1
        logging.info("epoch %d: loss %.4f", epoch + 1, float(np.mean(values)))
    return params


def save(path: Path, params: Any) -> None:
    """Writes the parameters, whole or not at all."""
    leaves = {_name(keys): leaf for keys, leaf in _leaves(params)}
    write_npz(path, {k: np.asarray(v) for k, v in leaves.items()}, compressed=False)


def load(path: Path) -> Any:
    """Returns parameters as `save` wrote them.

    Raises:
      InputError: the file is damaged or another network's.
    """
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Captioner(nnx.Rngs(0)))))
    try:
        arrays = read_npz(path, "")
        expected = {_name(keys): leaf.shape for keys, leaf in _leaves(shapes)}
        if {key: array.shape for key, array in arrays.items()} != expected:
            raise ValueError("other arrays")
    except (InputError, ValueError) as error:
        raise InputError(
            f"{path} is no captioner of this program ({error}): remove it, and a new "
            "one is trained"
        ) from error
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: jnp.asarray(arrays[_name(keys)]), shapes
    )


def _leaves(params: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(params)


def _name(keys: Any) -> str:
    return "/".join(str(key.key) for key in keys)
