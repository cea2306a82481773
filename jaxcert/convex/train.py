"""Training of feature-convex classifiers, with a projection after every step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxcert.checks import check_at_least
from jaxcert.convex import networks
from jaxcert.convex.classifier import ConvexClassifier
from jaxcert.convex.features import Features
from jaxcert.convex.networks import ConvexArchitecture, project
from jaxcert.errors import InputError
from jaxcert.learning.data import Dataset
from jaxcert.learning.train import EpochRecord, full_batches, run_epochs
from jaxcert.learning.training_step import forward_with_means, stop_running_means


@dataclasses.dataclass(frozen=True)
class ConvexTrainConfig:
    """How a feature-convex classifier is trained; the defaults are the published ones.

    Stochastic gradient descent with momentum on the binary cross-entropy plus
    `penalty` times the Frobenius norm of the Jacobian of g over the batch.

    Attributes:
      epochs: passes over the training images.
      batch_size: images per step; the rest of an epoch that fills no batch is left out.
      learning_rate: of the first epoch.
      decay: what the rate is multiplied by after every epoch.
      momentum: of the descent.
      penalty: weight of the Jacobian.
      seed: of the weights and the order of the images.
    """

    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 1e-3
    decay: float = 0.99
    momentum: float = 0.9
    penalty: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 1, "epochs", "batch_size")
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 < self.decay <= 1:
            raise InputError(f"decay must lie in (0, 1], got {self.decay}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must lie in [0, 1), got {self.momentum}")
        check_at_least(self, 0, "penalty")


def train_classifier(
    architecture: ConvexArchitecture,
    features: Features,
    dataset: Dataset,
    config: ConvexTrainConfig,
    progress: Callable[[EpochRecord], None] | None = None,
) -> tuple[ConvexClassifier, tuple[EpochRecord, ...]]:
    """Returns a trained classifier, without a shift, and one record per epoch.

    Args:
      architecture: of the convex network.
      features: the map in front of it.
      dataset: the training images, with label 1 for the sensitive class, else 0.
      config: how to train.
      progress: called after every epoch with its record.

    Raises:
      InputError: labels other than 0 and 1, a batch larger than the data set, or a loss
        that is no longer finite.
    """
    batches = full_batches(dataset, config.batch_size)
    if not np.isin(dataset.labels, (0, 1)).all():
        raise InputError(
            f"{dataset.name} has labels other than 0 and 1: make the sensitive class 1 "
            "and the other 0"
        )
    weights_key, order_key = jax.random.split(jax.random.key(config.seed))
    model = networks.build(architecture, nnx.Rngs(weights_key))
    params = project(nnx.to_pure_dict(nnx.state(model)))
    z, labels = jax.jit(features)(dataset.images), jnp.asarray(dataset.labels)
    state = params, _optimizer(config, batches).init(params)

    def one(epoch: int) -> tuple[float, float, float, float]:
        nonlocal state
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), len(z))
        totals = jnp.zeros(2)
        for first in range(0, batches * config.batch_size, config.batch_size):
            rows = order[first : first + config.batch_size]
            state, totals = _step(
                (architecture, config, batches), (state, totals), (z, labels), rows
            )
        loss, accuracy = (np.asarray(totals) / batches).tolist()
        return loss, accuracy, accuracy, 0.0

    records = run_epochs(config.epochs, one, "lower the learning rate", progress)
    classifier = ConvexClassifier(
        architecture,
        state[0],
        features,
        dataset.images.shape[1:],
        name=f"{dataset.name}_convex_{architecture.kind}",
    )
    return classifier, records


def _optimizer(config: ConvexTrainConfig, batches: int) -> Any:
    rate = optax.exponential_decay(
        config.learning_rate, batches, config.decay, staircase=True
    )
    return optax.sgd(rate, config.momentum)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _step(
    static: tuple[ConvexArchitecture, ConvexTrainConfig, int],
    carried: tuple[tuple[Any, Any], Float[Array, " 2"]],
    data: tuple[Array, Array],
    rows: Int[Array, " batch"],
) -> tuple[tuple[Any, Any], Float[Array, " 2"]]:
    """Returns the state after one batch, and the totals with this batch added."""
    architecture, config, batches = static
    (params, optimizer_state), totals = carried
    graph = networks.skeleton(architecture, training=True)[0]

    def objective(params: Any) -> tuple[Array, tuple[Any, Array]]:
        params = stop_running_means(params)

        def forward(z: Array) -> tuple[Array, tuple[Array, Any]]:
            logits, moved = forward_with_means(graph, params, z)
            return logits.sum(), (logits, moved)

        jacobian, (logits, moved) = jax.grad(forward, has_aux=True)(data[0][rows])
        labels = data[1][rows]
        loss = optax.sigmoid_binary_cross_entropy(logits, labels).mean()
        # Its square root has no slope at 0, which a constant network would have.
        steepness = jnp.sqrt(jnp.sum(jacobian**2) + 1e-20)
        right = jnp.mean((logits > 0) == (labels == 1))
        return loss + config.penalty * steepness, (moved, jnp.stack([loss, right]))

    gradient, (params, measured) = jax.grad(objective, has_aux=True)(params)
    updates, optimizer_state = _optimizer(config, batches).update(
        gradient, optimizer_state, params
    )
    params = project(optax.apply_updates(params, updates))
    return (params, optimizer_state), totals + measured
