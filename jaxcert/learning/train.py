"""Training: standard, adversarial (PGD) and certified (IBP, CROWN-IBP)."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxcert.checks import check_at_least
from jaxcert.errors import InputError
from jaxcert.learning.data import Dataset
from jaxcert.learning.models import Architecture, from_params
from jaxcert.learning.training_step import (
    Numbers,
    Recipe,
    State,
    initial,
    schedule,
    update,
)
from jaxcert.network import Network

METHODS = ("standard", "pgd", "ibp", "crown_ibp")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a network is trained.

    The radius is 0 for `warmup_epochs`, grows linearly to `epsilon` over
    `ramp_epochs` and stays. Over the same ramp kappa goes from `kappa_start` to
    `kappa_end`, and beta of CROWN-IBP from `beta_start` to `beta_end`. The learning
    rate is constant until the end of the ramp and then falls to 0 on a cosine.

    Attributes:
      method: "standard", "pgd" (Madry et al. 2018), "ibp" (Gowal et al. 2018) or
        "crown_ibp" (Zhang et al. 2020).
      epsilon: radius of the l-infinity ball, in input units; unused by "standard".
      epochs: passes over the training split.
      batch_size: images per step; the rest of an epoch that fills no batch is left out.
      learning_rate: of Adam.
      seed: of the weights, the order of the images and the attacks.
      warmup_epochs: epochs at radius 0.
      ramp_epochs: epochs over which the radius grows.
      kappa_start: weight of the clean loss in the certified loss, before the ramp.
      kappa_end: the same after the ramp.
      beta_start: weight of CROWN against interval bounds, before the ramp.
      beta_end: the same after the ramp.
      pgd_steps: steps of the training attack.
      noise: standard deviation of the Gaussian noise that is added to every image
        anew, for randomized smoothing (Cohen et al. 2019); "standard" only.
    """

    method: Literal["standard", "pgd", "ibp", "crown_ibp"] = "standard"
    epsilon: float = 0.1
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    seed: int = 0
    warmup_epochs: float = 0.0
    ramp_epochs: float = 0.0
    kappa_start: float = 1.0
    kappa_end: float = 0.5
    beta_start: float = 1.0
    beta_end: float = 0.0
    pgd_steps: int = 7
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(
                f"unknown training method {self.method!r}; known: {', '.join(METHODS)}"
            )
        check_at_least(self, 1, "epochs", "batch_size", "pgd_steps")
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"learning_rate must be above 0, got {self.learning_rate}")
        check_at_least(self, 0, "epsilon", "warmup_epochs", "ramp_epochs", "noise")
        if self.noise > 0 and self.method != "standard":
            raise InputError(
                f"noise belongs to the method standard, not to {self.method}: set one "
                "of the two"
            )
        for field in ("kappa_start", "kappa_end", "beta_start", "beta_end"):
            if not 0 <= getattr(self, field) <= 1:
                raise InputError(
                    f"{field} must lie in [0, 1], got {getattr(self, field)}"
                )


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """What one epoch of training came to.

    Attributes:
      epoch: number of the epoch, from 1.
      loss: mean training loss.
      accuracy: share of training images predicted right, as the batches passed.
      robust: the same share under the attack ("pgd") or with a positive bound of the
        margin ("ibp", "crown_ibp") at the radius of the moment; equals `accuracy` for
        "standard".
      epsilon: radius at the end of the epoch; 0 for "standard".
      seconds: wall time, with compilation in the first epoch.
    """

    epoch: int
    loss: float
    accuracy: float
    robust: float
    epsilon: float
    seconds: float


def train(
    architecture: Architecture,
    dataset: Dataset,
    config: TrainConfig,
    progress: Callable[[EpochRecord], None] | None = None,
) -> tuple[Network, tuple[EpochRecord, ...]]:
    """Returns a network trained on a data set, and one record per epoch.

    Inputs and perturbed inputs lie in [0, 1], noisy ones anywhere.

    Args:
      architecture: the network to train; its input shape must be the images'.
      dataset: the training split.
      config: how to train.
      progress: called after every epoch with its record.

    Raises:
      InputError: images or labels that do not fit the architecture, a batch larger
        than the data set, or a loss that is no longer finite.
    """
    batches = batches_of(architecture, dataset, config.batch_size)
    recipe, numbers = prepared(architecture, config, batches)
    weights_key, order_key = jax.random.split(jax.random.key(config.seed))
    state = initial(architecture, weights_key)
    data = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)

    def one(epoch: int) -> tuple[float, float, float, float]:
        nonlocal state
        epoch_key = jax.random.fold_in(order_key, epoch)
        state = train_epoch(recipe, state, numbers, data, epoch_key)
        loss, accuracy, robust = (np.asarray(state.totals) / batches).tolist()
        return loss, accuracy, robust, radius_after(recipe, numbers, epoch)

    remedy = "lower the learning rate or lengthen the ramp of epsilon"
    records = run_epochs(config.epochs, one, remedy, progress)
    name = network_name(architecture, dataset, config)
    return from_params(state.params, architecture, name), records


def run_epochs(
    epochs: int,
    one: Callable[[int], tuple[float, float, float, float]],
    remedy: str,
    progress: Callable[[EpochRecord], None] | None = None,
) -> tuple[EpochRecord, ...]:
    """Returns one record per epoch.

    Args:
      epochs: how many.
      one: trains the epoch of a number, from 1, and returns loss, accuracy, robust
        share and radius of its record.
      remedy: what to do about a loss that is no longer finite, for the message.
      progress: called after every epoch with its record.

    Raises:
      InputError: the loss is no longer finite.
    """
    records: list[EpochRecord] = []
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        loss, accuracy, robust, epsilon = one(epoch)
        if not np.isfinite(loss):
            raise InputError(
                f"training diverged in epoch {epoch}: the loss is {loss}; {remedy}"
            )
        seconds = time.perf_counter() - start
        records.append(EpochRecord(epoch, loss, accuracy, robust, epsilon, seconds))
        if progress is not None:
            progress(records[-1])
    return tuple(records)


def prepared(
    architecture: Architecture, config: TrainConfig, batches: int
) -> tuple[Recipe, Numbers]:
    """Returns a configuration as what is compiled for and what is handed over."""
    numbers = {f.name: getattr(config, f.name) for f in dataclasses.fields(Numbers)}
    recipe = Recipe(
        architecture, config.method, config.batch_size, config.pgd_steps,
        config.epochs, batches, config.noise > 0,
    )  # fmt: skip
    return recipe, Numbers(**{name: jnp.float32(v) for name, v in numbers.items()})


def radius_after(recipe: Recipe, numbers: Numbers, epoch: int) -> float:
    """Returns the radius at the end of an epoch; 0 for "standard"."""
    if recipe.method == "standard":
        return 0.0
    return float(schedule(recipe, numbers, jnp.int32(epoch * recipe.batches))[0])


def network_name(
    architecture: Architecture, dataset: Dataset, config: TrainConfig
) -> str:
    """Returns what a trained network is called."""
    return f"{dataset.name}_{architecture.kind}_{config.method}"


def batches_of(architecture: Architecture, dataset: Dataset, batch_size: int) -> int:
    """Returns the number of steps per epoch.

    Raises:
      InputError: the data do not fit the architecture, or fill no batch.
    """
    _check_fit(architecture, dataset)
    return full_batches(dataset, batch_size)


def full_batches(dataset: Dataset, batch_size: int) -> int:
    """Returns how many batches a data set fills.

    Raises:
      InputError: none.
    """
    batches = len(dataset.labels) // batch_size
    if batches == 0:
        raise InputError(
            f"batch_size {batch_size} exceeds the {len(dataset.labels)} images "
            f"of {dataset.name} {dataset.split}"
        )
    return batches


def _check_fit(architecture: Architecture, dataset: Dataset) -> None:
    if tuple(dataset.images.shape[1:]) != architecture.input_shape:
        raise InputError(
            f"{dataset.name} has images of shape {tuple(dataset.images.shape[1:])}, "
            f"the architecture takes {architecture.input_shape}"
        )
    if int(dataset.labels.max()) >= architecture.num_classes:
        raise InputError(
            f"{dataset.name} has the label {int(dataset.labels.max())}, the "
            f"architecture {architecture.num_classes} classes from 0 on"
        )


def train_epoch(
    recipe: Recipe,
    state: State,
    numbers: Numbers,
    data: tuple[Float[Array, " n *shape"], Int[Array, " n"]],
    key: Array,
) -> State:
    """Returns the state after one pass, totals of this pass alone."""
    order_key, attack_key = jax.random.split(key)
    order = jax.random.permutation(order_key, data[1].shape[0])
    state = dataclasses.replace(state, totals=jnp.zeros(3))
    # The host only enqueues the steps. With convolutions, one lax.scan over them took
    # 10 times as long on CPUs.
    for _ in range(recipe.batches):
        state = _step(recipe, state, numbers, data, order, attack_key)
    return state


_step = functools.partial(jax.jit, static_argnums=0, donate_argnums=1)(update)
