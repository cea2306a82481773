"""Training: standard, adversarial (PGD) and certified (IBP, CROWN-IBP)."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxcert.bounds.crown import CrownOptions, crown
from jaxcert.bounds.ibp import ibp
from jaxcert.box import Box
from jaxcert.data import Dataset
from jaxcert.errors import InputError
from jaxcert.evaluate import certified_margins, margins, pgd
from jaxcert.models import Architecture, FlaxApply, build, from_params
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

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(
                f"unknown training method {self.method!r}; known: {', '.join(METHODS)}"
            )
        for field in ("epochs", "batch_size", "pgd_steps"):
            if not getattr(self, field) >= 1:
                raise InputError(
                    f"{field} must be at least 1, got {getattr(self, field)}"
                )
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"learning_rate must be above 0, got {self.learning_rate}")
        for field in ("epsilon", "warmup_epochs", "ramp_epochs"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise InputError(
                    f"{field} must be at least 0, got {getattr(self, field)}"
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

    Inputs and perturbed inputs lie in [0, 1].

    Args:
      architecture: the network to train; its input shape must be the images'.
      dataset: the training split.
      config: how to train.
      progress: called after every epoch with its record.

    Raises:
      InputError: images or labels that do not fit the architecture, a batch larger
        than the data set, or a loss that is no longer finite.
    """
    _check_fit(architecture, dataset)
    batches = len(dataset.labels) // config.batch_size
    if batches == 0:
        raise InputError(
            f"batch_size {config.batch_size} exceeds the {len(dataset.labels)} images "
            f"of {dataset.name} {dataset.split}"
        )
    key = jax.random.key(config.seed)
    weights_key, order_key = jax.random.split(key)
    model = build(architecture, nnx.Rngs(weights_key))
    params = nnx.to_pure_dict(nnx.state(model))
    state = _State(params, _optimizer(config, batches).init(params), jnp.int32(0))
    images, labels = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
    records = []
    for epoch in range(1, config.epochs + 1):
        start = time.perf_counter()
        epoch_key = jax.random.fold_in(order_key, epoch)
        state, totals = _epoch(architecture, config, state, images, labels, epoch_key)
        loss, accuracy, robust = np.asarray(totals).tolist()
        if not np.isfinite(loss):
            raise InputError(
                f"training diverged in epoch {epoch}: the loss is {loss}; lower the "
                "learning rate or lengthen the ramp of epsilon"
            )
        radius = float(_schedule(config, batches, state.step)[0])
        epsilon = 0.0 if config.method == "standard" else radius
        seconds = time.perf_counter() - start
        records.append(EpochRecord(epoch, loss, accuracy, robust, epsilon, seconds))
        if progress is not None:
            progress(records[-1])
    name = f"{dataset.name}_{architecture.kind}_{config.method}"
    return from_params(state.params, architecture, name), tuple(records)


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    params: Any
    optimizer: Any
    step: Int[Array, ""]


def _optimizer(config: TrainConfig, batches: int) -> optax.GradientTransformation:
    ramped = min(config.warmup_epochs + config.ramp_epochs, config.epochs)
    if config.method == "standard":
        ramped = 0.0
    constant = round(ramped * batches)
    decay = max(config.epochs * batches - constant, 1)
    rate = optax.join_schedules(
        [
            optax.constant_schedule(config.learning_rate),
            optax.cosine_decay_schedule(config.learning_rate, decay),
        ],
        [constant],
    )
    # Interval bounds of an untrained network can be huge, and so are their gradients.
    return optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate))


def _schedule(
    config: TrainConfig, batches: int, step: Int[Array, ""]
) -> tuple[Array, Array, Array]:
    """Returns (epsilon, kappa, beta) at a step."""
    since = step / batches - config.warmup_epochs
    ramp = max(config.ramp_epochs, 1.0 / batches)
    share = jnp.clip(since / ramp, 0.0, 1.0)

    def between(start: float, end: float) -> Array:
        return start + share * (end - start)

    return (
        between(0.0, config.epsilon),
        between(config.kappa_start, config.kappa_end),
        between(config.beta_start, config.beta_end),
    )


def _epoch(
    architecture: Architecture,
    config: TrainConfig,
    state: _State,
    images: Float[Array, " n *shape"],
    labels: Int[Array, " n"],
    key: Array,
) -> tuple[_State, Float[Array, " 3"]]:
    """Returns the state after one pass, and mean (loss, accuracy, robust accuracy)."""
    batches = labels.shape[0] // config.batch_size
    order_key, attack_key = jax.random.split(key)
    order = jax.random.permutation(order_key, labels.shape[0])
    totals = jnp.zeros(3)
    # The host only enqueues the steps. With convolutions, one lax.scan over them took
    # 10 times as long on CPUs.
    for first in range(0, batches * config.batch_size, config.batch_size):
        rows = order[first : first + config.batch_size]
        state, totals = _step(
            (architecture, config, batches),
            (state, totals),
            (images, labels),
            rows,
            attack_key,
        )
    return state, totals / batches


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _step(
    static: tuple[Architecture, TrainConfig, int],
    carried: tuple[_State, Array],
    data: tuple[Array, Array],
    rows: Int[Array, " batch"],
    key: Array,
) -> tuple[_State, Array]:
    """Returns the state after one batch, and the totals with this batch added."""
    architecture, config, batches = static
    state, totals = carried
    batch = data[0][rows], data[1][rows], jax.random.fold_in(key, state.step)
    schedule = _schedule(config, batches, state.step)
    (loss, (params, right)), gradient = jax.value_and_grad(_loss, has_aux=True)(
        state.params, architecture, config, batch, schedule
    )
    updates, optimizer_state = _optimizer(config, batches).update(
        gradient, state.optimizer, params
    )
    params = optax.apply_updates(params, updates)
    state = _State(params, optimizer_state, state.step + 1)
    return state, totals + jnp.stack([loss, *right])


def _loss(
    params: Any,
    architecture: Architecture,
    config: TrainConfig,
    batch: tuple[Array, Array, Array],
    schedule: tuple[Array, Array, Array],
) -> tuple[Array, tuple[Any, tuple[Array, Array]]]:
    """Returns the loss and (params with new running means, (accuracy, robust))."""
    x, y, noise = batch
    epsilon, kappa, beta = schedule
    apply = FlaxApply(architecture)
    params = stop_running_means(params)
    if config.method == "pgd":
        frozen = jax.lax.stop_gradient(params)
        attacked = pgd(apply, frozen, x, y, epsilon, noise, config.pgd_steps)
        logits, params = _train_forward(architecture, params, attacked)
        clean = jax.vmap(apply, (None, 0))(frozen, x)
        return _cross_entropy(logits, y), (
            params,
            (_right(clean, y), _right(logits, y)),
        )
    logits, moved = _train_forward(architecture, params, x)
    loss = _cross_entropy(logits, y)
    if config.method == "standard":
        return loss, (moved, (_right(logits, y), _right(logits, y)))

    def worst(x: Array, label: Array) -> Array:
        box = Box.ball(x, epsilon, Box.unit(x.shape, x.dtype))
        classes = architecture.num_classes
        rows = certified_margins(ibp(apply), params, box, label, classes)
        if config.method == "crown_ibp":
            crown_ibp = crown(apply, CrownOptions(intermediate="ibp"))
            tight = certified_margins(crown_ibp, params, box, label, classes)
            rows = beta * tight + (1 - beta) * rows
        return -rows

    worst_logits = jax.vmap(worst)(x, y)
    loss = kappa * loss + (1 - kappa) * _cross_entropy(worst_logits, y)
    return loss, (moved, (_right(logits, y), _right(worst_logits, y)))


def _cross_entropy(logits: Array, labels: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _right(logits: Array, labels: Array) -> Array:
    """Returns the share of rows in which the label's logit exceeds every other."""
    return jnp.mean(margins(logits, labels) > 0)


def _is_running_mean(path: Any) -> bool:
    return path[-1].key in ("mean", "var")


def stop_running_means(params: Any) -> Any:
    """Returns the parameters with constants for the running means of batch norms."""
    # They are averages over batches: the bounds depend on them, training must not.
    return jax.tree_util.tree_map_with_path(
        lambda path, a: jax.lax.stop_gradient(a) if _is_running_mean(path) else a,
        params,
    )


def _train_forward(architecture: Architecture, params: Any, x: Array) -> tuple:
    """Returns the logits of a batch in training mode, and params with its means."""
    if not architecture.batch_norm:
        return jax.vmap(FlaxApply(architecture), (None, 0))(params, x), params
    graph = nnx.graphdef(nnx.eval_shape(lambda: build(architecture, nnx.Rngs(0))))
    return forward_with_means(graph, params, x)


def forward_with_means(graph: nnx.GraphDef, params: Any, x: Array) -> tuple:
    """Returns the logits of a batch in training mode, and params with its means."""
    model = nnx.merge(graph, params)
    logits = model(x)
    after = nnx.to_pure_dict(nnx.state(model))
    after = jax.lax.stop_gradient(after)
    params = jax.tree_util.tree_map_with_path(
        lambda path, new, old: new if _is_running_mean(path) else old, after, params
    )
    return logits, params
