"""Pruning of whole neurons for networks that are easier to certify.

A neuron is a channel of a convolution or a unit of a hidden dense layer. A pruned one
has no weights and no bias: its ReLU is 0 for every input, so that bounds have nothing
to relax there. Neurons are pruned step by step, the network is trained in between
(`prune_network`), and all methods end with the same number of pruned neurons.

The score "stable" is this project's own, in the spirit of scoring neurons by bias and
smoothness under the perturbation (arXiv:2510.00083, whose formula was not available).
Of neuron j of a layer, with pre-activation z_j, bias b_j, activation a_j = relu(z_j),
outgoing weights o_j, and d_j the greatest move of z_j over sampled parameters of the
input change:

    score_j = use_j (smooth_j + bias_j) / 2
    use_j    = mean(a_j) |o_j|_2 / the layer's mean of that product
    smooth_j = mean(|z_j| / (|z_j| + d_j))      1: no change flips the ReLU
    bias_j   = |b_j| / (|b_j| + mean(d_j))      1: z_j is its bias, which nothing moves

Means are over images and positions. The lowest scores of the whole network are pruned.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from jaxcert.checks import check_at_least
from jaxcert.errors import InputError
from jaxcert.learning.architecture import Architecture
from jaxcert.learning.models import FlaxApply, build

METHODS = ("none", "random", "magnitude", "stable")
Masks = tuple[np.ndarray, ...]
"""Which neurons of every hidden layer are kept: booleans, layer by layer."""

_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class PruneConfig:
    """How a network is pruned and trained.

    Attributes:
      method: how neurons are scored: "none" prunes nothing, "random" scores by chance,
        "magnitude" by the norm of the incoming weights over the layer's mean norm,
        "stable" as above.
      sparsity: share of all hidden neurons to prune, in [0, 1).
      rounds: steps in which it is reached.
      epochs: passes over the data after every step.
      batch_size: inputs per training step.
      learning_rate: of Adam.
      penalty: weight of `concentration` in the loss.
      images: inputs that the scores are computed from.
      seed: of the order of the inputs, their changes, and random scores.
    """

    method: Literal["none", "random", "magnitude", "stable"] = "stable"
    sparsity: float = 0.5
    rounds: int = 4
    epochs: int = 1
    batch_size: int = 128
    learning_rate: float = 2e-3
    penalty: float = 0.0
    images: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(
                f"unknown pruning method {self.method!r}; known: {', '.join(METHODS)}"
            )
        if not 0 <= self.sparsity < 1:
            raise InputError(f"sparsity must lie in [0, 1), got {self.sparsity}")
        check_at_least(self, 1, "rounds", "epochs", "batch_size", "images")
        check_at_least(self, 0, "penalty")
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"learning_rate must be above 0, got {self.learning_rate}")


@dataclasses.dataclass(frozen=True)
class Task:
    """What a network is trained for.

    Attributes:
      x: inputs, (n, *shape).
      y: outputs wanted, (n, K).
      change: `change(x, u) -> x'`, one input with a change drawn from u in [-1, 1]^k;
        what the network is to bear.
      parameters: k.
    """

    x: np.ndarray
    y: np.ndarray
    change: Callable[[Array, Array], Array]
    parameters: int


def fresh_params(architecture: Architecture, seed: int) -> Any:
    """Returns the weights of an untrained network."""
    return nnx.to_pure_dict(nnx.state(build(architecture, nnx.Rngs(seed))))


def train_regression(
    architecture: Architecture, params: Any, task: Task, config: PruneConfig
) -> Any:
    """Returns weights trained for `config.epochs` without pruning anything.

    Raises:
      InputError: the loss is no longer finite, or neurons that cannot be pruned.
    """
    masks = full_masks(architecture)
    return _train(architecture, params, masks, task, config, salt=0)


def prune_network(
    architecture: Architecture, params: Any, task: Task, config: PruneConfig
) -> Iterator[tuple[Any, Masks]]:
    """Yields weights and masks after every round of pruning and training.

    Raises:
      InputError: as `train_regression`.
    """
    masks = full_masks(architecture)
    draw = np.random.default_rng(config.seed)
    for index in range(1, config.rounds + 1):
        if config.method != "none":
            scores = _scores(architecture, params, task, config, draw)
            share = config.sparsity * index / config.rounds
            masks = lowest_pruned(scores, masks, share)
        params = _train(architecture, params, masks, task, config, salt=index)
        yield params, masks


def full_masks(architecture: Architecture) -> Masks:
    """Returns masks that keep every neuron.

    Raises:
      InputError: an architecture with batch norm or pooling, whose neurons are not
        what the scores speak of.
    """
    if architecture.batch_norm or architecture.pool != "none":
        raise InputError(
            "only networks without batch norm and pooling can be pruned: build one "
            "with batch_norm=False and pool='none'"
        )
    widths = (*architecture.channels, *architecture.hidden)
    return tuple(np.ones(width, bool) for width in widths)


def lowest_pruned(scores: tuple[np.ndarray, ...], masks: Masks, share: float) -> Masks:
    """Returns masks with the lowest scores pruned, up to a share of all neurons.

    What is pruned stays pruned, and every layer keeps the neuron of its highest score.
    """
    gone = [np.where(m, s, -np.inf) for s, m in zip(scores, masks, strict=True)]
    for layer in gone:
        layer[np.argmax(layer)] = np.inf
    flat = np.concatenate(gone)
    count = min(round(share * len(flat)), int((flat < np.inf).sum()))
    kept = np.ones(len(flat), bool)
    kept[np.argsort(flat, kind="stable")[:count]] = False
    ends = np.cumsum([len(layer) for layer in gone])[:-1]
    return tuple(np.split(kept, ends))


def with_masks(architecture: Architecture, params: Any, masks: Any) -> Any:
    """Returns the weights with those of pruned neurons, in and bias, set to 0."""
    params = jax.tree.map(lambda leaf: leaf, params)  # containers of its own
    for layer, mask in zip(_layers(architecture, params)[:-1], masks, strict=True):
        layer["kernel"], layer["bias"] = layer["kernel"] * mask, layer["bias"] * mask
    return params


def _layers(architecture: Architecture, params: Any) -> list[dict[str, Array]]:
    """Returns kernel and bias of every layer, in order, the last one linear."""
    dense = params["head"]["layers"]
    convolutions = params.get("convolutions", {})
    return [convolutions[i] for i in range(len(architecture.channels))] + [
        dense[i] for i in range(len(architecture.hidden) + 1)
    ]


def pre_activations(architecture: Architecture, params: Any, x: Array) -> list[Array]:
    """Returns the inputs of every hidden ReLU, (..., neurons), of one input."""
    found = []
    layers = _layers(architecture, params)
    for stride, layer in zip(architecture.conv_strides, layers, strict=False):
        x = lax.conv_general_dilated(
            x[None], layer["kernel"], (stride, stride), architecture.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[0] + layer["bias"]  # fmt: skip
        found.append(x)
        x = jnp.maximum(x, 0)
    x = x.reshape(-1)
    for layer in layers[len(architecture.channels) : -1]:
        x = x @ layer["kernel"] + layer["bias"]
        found.append(x)
        x = jnp.maximum(x, 0)
    return found


def stable_scores(
    architecture: Architecture,
    params: Any,
    x: Float[Array, "n *d"],
    change: Callable[[Array, Array], Array],
    steps: Float[Array, "m k"],
) -> list[Array]:
    """Returns the score "stable" of every neuron, layer by layer; see the module.

    Args:
      architecture: of the network.
      params: its weights.
      x: inputs.
      change: as in `Task`.
      steps: the changes over which d is taken, points of [-1, 1]^k.
    """

    def one(x: Array) -> list[tuple[Array, ...]]:
        at = functools.partial(pre_activations, architecture, params)
        still = at(x)
        moved = lax.map(lambda u: at(change(x, u)), steps)
        means = []
        for z, others in zip(still, moved, strict=True):
            d = jnp.max(jnp.abs(others - z), axis=0)
            smooth = jnp.abs(z) / (jnp.abs(z) + d + _TINY)
            terms = (jnp.maximum(z, 0), smooth, d)
            means.append(tuple(t.reshape(-1, t.shape[-1]).mean(axis=0) for t in terms))
        return means

    means = jax.tree.map(lambda v: v.mean(axis=0), lax.map(one, x, batch_size=32))
    layers = _layers(architecture, params)
    scores = []
    for (active, smooth, d), layer, after in zip(
        means, layers[:-1], layers[1:], strict=True
    ):
        use = active * _outgoing(after["kernel"], len(layer["bias"]))
        use = use / (use.mean() + _TINY)
        bias = jnp.abs(layer["bias"]) / (jnp.abs(layer["bias"]) + d + _TINY)
        scores.append(use * (smooth + bias) / 2)
    return scores


def _outgoing(kernel: Array, neurons: int) -> Array:
    """Returns the norm of the weights behind every neuron of the layer before.

    Where convolutions end the channels are the last axis of the features.
    """
    if kernel.ndim == 2:
        kernel = kernel.reshape(-1, neurons, kernel.shape[-1])
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=(*range(kernel.ndim - 2), -1)))


def _incoming(layer: dict[str, Array]) -> Array:
    """Returns the norm of the incoming weights and bias of every neuron."""
    kernel = layer["kernel"].reshape(-1, layer["kernel"].shape[-1])
    return jnp.sqrt(jnp.sum(kernel**2, axis=0) + layer["bias"] ** 2 + _TINY)


def concentration(gains: list[Float[Array, " neurons"]]) -> Float[Array, ""]:
    """Returns how far the pruned mass is spread over the layers, in [0, 1].

    Every neuron carries the mass exp(-3 g / mean g) of its gain g, 1 where it is
    pruned. The masses of the layers, made a distribution mu over the layer numbers, are
    compared with the nearest point mass in the 1-Wasserstein distance, which is
    sum_l mu_l |l - median of mu|, here over the greatest difference of two numbers. As
    a penalty it draws the neurons that are about to be pruned into few layers.
    """
    mass = jnp.stack(
        [jnp.exp(-3 * g / (lax.stop_gradient(g.mean()) + _TINY)).sum() for g in gains]
    )
    share = mass / mass.sum()
    place = jnp.arange(len(gains), dtype=share.dtype)
    median = jnp.argmax(jnp.cumsum(lax.stop_gradient(share)) >= 0.5)
    return jnp.sum(share * jnp.abs(place - median)) / max(len(gains) - 1, 1)


def _scores(
    architecture: Architecture,
    params: Any,
    task: Task,
    config: PruneConfig,
    draw: np.random.Generator,
) -> tuple[np.ndarray, ...]:
    layers = _layers(architecture, params)[:-1]
    if config.method == "random":
        return tuple(draw.uniform(size=len(layer["bias"])) for layer in layers)
    if config.method == "magnitude":
        norms = [np.asarray(_incoming(layer)) for layer in layers]
        return tuple(norm / norm.mean() for norm in norms)
    corners = np.stack(
        np.meshgrid(*[[-1.0, 0.0, 1.0]] * task.parameters, indexing="ij")
    )
    steps = corners.reshape(task.parameters, -1).T.astype(np.float32)
    x = jnp.asarray(task.x[: config.images])
    scores = jax.jit(stable_scores, static_argnums=(0, 3))(
        architecture, params, x, task.change, steps
    )
    return tuple(np.asarray(score) for score in scores)


def _train(
    architecture: Architecture,
    params: Any,
    masks: Masks,
    task: Task,
    config: PruneConfig,
    salt: int,
) -> Any:
    count, size = len(task.x), min(config.batch_size, len(task.x))
    batches = count // size
    steps = config.epochs * batches
    schedule = optax.cosine_decay_schedule(config.learning_rate, steps, 0.05)
    params = jax.tree.map(jnp.array, params)
    carried = params, optax.scale_by_adam().init(params), jnp.zeros(())
    order = np.random.default_rng([config.seed, salt])
    key = jax.random.fold_in(jax.random.key(config.seed), salt)
    rows = np.concatenate(
        [order.permutation(count)[: batches * size] for _ in range(config.epochs)]
    )
    for index, part in enumerate(rows.reshape(steps, size)):
        carried = _step(
            (architecture, task.change, task.parameters),
            carried,
            (task.x[part], task.y[part], jax.random.fold_in(key, index)),
            masks,
            (np.float32(schedule(index)), np.float32(config.penalty)),
        )
    params, _, total = carried
    if not np.isfinite(float(total)):
        raise InputError("training diverged: lower the learning rate")
    return with_masks(architecture, params, masks)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _step(
    static: tuple[Architecture, Callable[[Array, Array], Array], int],
    carried: tuple[Any, Any, Array],
    batch: tuple[Array, Array, Array],
    masks: Any,
    strengths: tuple[Array, Array],
) -> tuple[Any, Any, Array]:
    """Returns weights and optimiser after one batch, and the sum of the losses."""
    architecture, change, parameters = static
    params, state, total = carried
    x, y, key = batch
    rate, penalty = strengths

    def loss(params: Any) -> Array:
        kept = with_masks(architecture, params, masks)
        u = jax.random.uniform(key, (len(x), parameters), minval=-1, maxval=1)
        out = jax.vmap(FlaxApply(architecture), (None, 0))(kept, jax.vmap(change)(x, u))
        gains = [_incoming(layer) for layer in _layers(architecture, kept)[:-1]]
        return jnp.mean(jnp.square(out - y)) + penalty * concentration(gains)

    value, gradient = jax.value_and_grad(loss)(params)
    updates, state = optax.scale_by_adam().update(gradient, state)
    params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
    return params, state, total + value
