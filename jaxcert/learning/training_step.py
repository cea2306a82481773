"""One step of training, in which every number of the configuration is an argument.

So one compiled step serves all learning rates, radii and schedules of a method, and
`jax.vmap` trains a population of networks of one architecture in one program.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxcert.bounds.crown import CrownOptions, crown
from jaxcert.bounds.ibp import ibp
from jaxcert.box import Box
from jaxcert.learning.evaluate import certified_margins, margins, pgd
from jaxcert.learning.models import Architecture, FlaxApply, build


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a training program is compiled for.

    Attributes:
      architecture: the network.
      method, batch_size, pgd_steps: as in TrainConfig.
      epochs: passes over the training split.
      batches: steps per epoch.
      noisy: whether noise is added to the images.
    """

    architecture: Architecture
    method: Literal["standard", "pgd", "ibp", "crown_ibp"]
    batch_size: int
    pgd_steps: int
    epochs: int
    batches: int
    noisy: bool = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Numbers:
    """What may differ between networks that train in one program; see TrainConfig."""

    epsilon: Float[Array, ""] | float
    learning_rate: Float[Array, ""] | float
    warmup_epochs: Float[Array, ""] | float
    ramp_epochs: Float[Array, ""] | float
    kappa_start: Float[Array, ""] | float
    kappa_end: Float[Array, ""] | float
    beta_start: Float[Array, ""] | float
    beta_end: Float[Array, ""] | float
    noise: Float[Array, ""] | float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """What training changes.

    Attributes:
      params: the weights.
      optimizer: moments of Adam.
      step: steps done.
      totals: sums over the steps of the epoch of (loss, accuracy, robust accuracy).
    """

    params: Any
    optimizer: Any
    step: Int[Array, ""]
    totals: Float[Array, " 3"]


# Interval bounds of an untrained network can be huge, and so are their gradients.
_OPTIMIZER = optax.chain(optax.clip_by_global_norm(10.0), optax.scale_by_adam())


def initial(architecture: Architecture, key: Array) -> State:
    """Returns a network with random weights that has not trained yet."""
    params = nnx.to_pure_dict(nnx.state(build(architecture, nnx.Rngs(key))))
    return State(params, _OPTIMIZER.init(params), jnp.int32(0), jnp.zeros(3))


def schedule(
    recipe: Recipe, numbers: Numbers, step: Int[Array, ""]
) -> tuple[Array, Array, Array]:
    """Returns (epsilon, kappa, beta) at a step."""
    since = step / recipe.batches - numbers.warmup_epochs
    ramp = jnp.maximum(numbers.ramp_epochs, 1.0 / recipe.batches)
    share = jnp.clip(since / ramp, 0.0, 1.0)

    def between(start: Any, end: Any) -> Array:
        return start + share * (end - start)

    return (
        between(0.0, numbers.epsilon),
        between(numbers.kappa_start, numbers.kappa_end),
        between(numbers.beta_start, numbers.beta_end),
    )


def learning_rate(recipe: Recipe, numbers: Numbers, step: Int[Array, ""]) -> Array:
    """Returns the rate at a step: constant until the ramp ends, then a cosine to 0."""
    ramped = jnp.minimum(numbers.warmup_epochs + numbers.ramp_epochs, recipe.epochs)
    if recipe.method == "standard":
        ramped = jnp.zeros_like(ramped)
    constant = jnp.round(ramped * recipe.batches)
    decay = jnp.maximum(recipe.epochs * recipe.batches - constant, 1.0)
    share = jnp.clip((step - constant) / decay, 0.0, 1.0)
    return numbers.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * share))


def update(
    recipe: Recipe,
    state: State,
    numbers: Numbers,
    data: tuple[Float[Array, " n *shape"], Int[Array, " n"]],
    order: Int[Array, " n"],
    key: Array,
) -> State:
    """Returns the state after one batch.

    Args:
      recipe: what is compiled for.
      state: before; its step says which part of the order is the batch.
      numbers: the rest of the configuration.
      data: all images and labels.
      order: the permutation of the images in this epoch.
      key: of the noise of this epoch.
    """
    first = (state.step % recipe.batches) * recipe.batch_size
    rows = jax.lax.dynamic_slice(order, (first,), (recipe.batch_size,))
    batch = data[0][rows], data[1][rows], jax.random.fold_in(key, state.step)
    now = schedule(recipe, numbers, state.step)
    (loss, (params, right)), gradient = jax.value_and_grad(_loss, has_aux=True)(
        state.params, recipe, batch, now, numbers.noise
    )
    updates, optimizer = _OPTIMIZER.update(gradient, state.optimizer, params)
    rate = learning_rate(recipe, numbers, state.step)
    params = optax.apply_updates(params, jax.tree.map(lambda u: -rate * u, updates))
    totals = state.totals + jnp.stack([loss, *right])
    return State(params, optimizer, state.step + 1, totals)


def _loss(
    params: Any,
    recipe: Recipe,
    batch: tuple[Array, Array, Array],
    now: tuple[Array, Array, Array],
    scale: Array | float,
) -> tuple[Array, tuple[Any, tuple[Array, Array]]]:
    """Returns the loss and (params with new running means, (accuracy, robust))."""
    x, y, key = batch
    epsilon, kappa, beta = now
    architecture = recipe.architecture
    apply = FlaxApply(architecture)
    params = stop_running_means(params)
    if recipe.method == "pgd":
        frozen = jax.lax.stop_gradient(params)
        attacked = pgd(apply, frozen, x, y, epsilon, key, recipe.pgd_steps)
        logits, params = _train_forward(architecture, params, attacked)
        clean = jax.vmap(apply, (None, 0))(frozen, x)
        return _cross_entropy(logits, y), (
            params,
            (_right(clean, y), _right(logits, y)),
        )
    if recipe.noisy:
        x = x + scale * jax.random.normal(key, x.shape, x.dtype)
    logits, moved = _train_forward(architecture, params, x)
    loss = _cross_entropy(logits, y)
    if recipe.method == "standard":
        return loss, (moved, (_right(logits, y), _right(logits, y)))

    def worst(x: Array, label: Array) -> Array:
        box = Box.ball(x, epsilon, Box.unit(x.shape, x.dtype))
        classes = architecture.num_classes
        rows = certified_margins(ibp(apply), params, box, label, classes)
        if recipe.method == "crown_ibp":
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
