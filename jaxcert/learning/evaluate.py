"""Clean, attacked and certified accuracy, and the margins they are made of."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxcert.bounds.crown import Crown, CrownOptions, crown
from jaxcert.bounds.ibp import Ibp, ibp
from jaxcert.box import Box
from jaxcert.checks import check_at_least
from jaxcert.errors import InputError
from jaxcert.learning.data import Dataset
from jaxcert.network import Network
from jaxcert.options import Progress
from jaxcert.spec import Spec
from jaxcert.trace.tracing import program_of
from jaxcert.witness.attack import walk

Apply = Callable[[Any, Any], Any]
BOUNDS = ("ibp", "crown_ibp", "crown")


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """How accuracies are measured.

    Attributes:
      bound: what certifies: "ibp", "crown_ibp" (CROWN with interval bounds of the
        inner layers) or "crown" (full); each is at least as tight as the one before.
      pgd_steps: steps of the attack.
      restarts: random starts of the attack.
      batch_size: images per call.
      seed: of the attack's starts.
      slack: a margin counts as certified if its bound, computed in float64, exceeds
        this; it covers the rounding of that computation.
    """

    bound: Literal["ibp", "crown_ibp", "crown"] = "crown_ibp"
    pgd_steps: int = 20
    restarts: int = 1
    batch_size: int = 250
    seed: int = 0
    slack: float = 1e-6

    def __post_init__(self) -> None:
        if self.bound not in BOUNDS:
            raise InputError(
                f"unknown bound {self.bound!r}; known: {', '.join(BOUNDS)}"
            )
        check_at_least(self, 1, "pgd_steps", "restarts", "batch_size")
        if not self.slack >= 0:
            raise InputError(f"slack must be at least 0, got {self.slack}")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Shares of a data set, in [0, 1]; certified <= true robust accuracy <= attacked.

    Attributes:
      count: number of images.
      epsilon: radius of the ball, clipped to [0, 1].
      clean: predicted right.
      attacked: predicted right, and no attack found a point of another class.
      certified: margin proved positive all over the ball.
      seconds: wall time, with compilation.
    """

    count: int
    epsilon: float
    clean: float
    attacked: float
    certified: float
    seconds: float


def evaluate(
    network: Network,
    dataset: Dataset,
    epsilon: float,
    options: EvaluationOptions | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Returns clean, attacked and certified accuracy within an l-infinity radius.

    Bounds are computed in float64, and attack points count if float64 confirms them.

    Args:
      network: to evaluate.
      dataset: its images must have as many values as the network takes.
      epsilon: radius, in input units; the ball is clipped to [0, 1].
      options: None for the defaults.
      progress: told after every batch how many images are done, and of how many.

    Raises:
      InputError: images or labels that do not fit the network, a negative or infinite
        radius.
    """
    options = options or EvaluationOptions()
    _check_fit(network, dataset, epsilon)
    start = time.perf_counter()
    with jax.enable_x64():
        params = jax.tree.map(_float64, network.params)

        def measure(x: Array, labels: Array, key: Array) -> Array:
            static = network.apply, dataclasses.replace(options, seed=0, batch_size=1)
            return _measure(*static, params, x, labels, epsilon, key)

        shares = _shares(measure, network, dataset, options, progress)
    seconds = time.perf_counter() - start
    clean, attacked, certified = shares.tolist()
    count = len(dataset.labels)
    return Evaluation(count, epsilon, clean, attacked, certified, seconds)


def evaluate_population(
    networks: Sequence[Network],
    dataset: Dataset,
    epsilons: Sequence[float],
    options: EvaluationOptions | None = None,
) -> tuple[Evaluation, ...]:
    """Returns what `evaluate` does for networks of one architecture, in one program.

    Args:
      networks: of equal `apply` and shapes.
      dataset: as in `evaluate`.
      epsilons: one radius per network.
      options: None for the defaults.

    Raises:
      InputError: as `evaluate`, or networks of different architectures.
    """
    options = options or EvaluationOptions()
    first, *others = networks
    if any(network.apply != first.apply for network in others):
        raise InputError("a population is of one architecture; evaluate others apart")
    for network, epsilon in zip(networks, epsilons, strict=True):
        _check_fit(network, dataset, epsilon)
    start = time.perf_counter()
    with jax.enable_x64():
        stacked = jax.tree.map(lambda *v: np.stack(v), *(n.params for n in networks))
        params, radii = jax.tree.map(_float64, (stacked, np.asarray(epsilons)))

        def measure(x: Array, labels: Array, key: Array) -> Array:
            static = first.apply, dataclasses.replace(options, seed=0, batch_size=1)
            return _measure_population(*static, params, x, labels, radii, key)

        shares = _shares(measure, first, dataset, options)
    seconds = (time.perf_counter() - start) / len(networks)
    count = len(dataset.labels)
    return tuple(
        Evaluation(count, epsilon, clean, attacked, certified, seconds)
        for epsilon, (clean, attacked, certified) in zip(
            epsilons, shares.tolist(), strict=True
        )
    )


def _check_fit(network: Network, dataset: Dataset, epsilon: float) -> None:
    if not 0 <= epsilon < float("inf"):
        raise InputError(f"epsilon must be at least 0, got {epsilon}")
    if len(dataset.labels) == 0:
        raise InputError(f"{dataset.name} {dataset.split} has no images to evaluate")
    if dataset.images[0].size != int(np.prod(network.input_shape)):
        raise InputError(
            f"{dataset.name} has images of shape {dataset.images.shape[1:]}, "
            f"{network.name} takes {network.input_shape}"
        )
    if int(dataset.labels.max()) >= network.num_outputs:
        raise InputError(
            f"{dataset.name} has the label {int(dataset.labels.max())}, "
            f"{network.name} only {network.num_outputs} outputs"
        )


def _shares(
    measure: Callable[[Array, Array, Array], Array],
    network: Network,
    dataset: Dataset,
    options: EvaluationOptions,
    progress: Progress | None = None,
) -> Float[np.ndarray, "*members 3"]:
    """Returns the shares that are right, right under attack, and certified.

    `measure(x, labels, key)` answers for a batch, bools (*members, 3, n).
    """
    count = len(dataset.labels)
    size = min(options.batch_size, count)
    keys = np.random.default_rng(options.seed)
    totals: Any = 0
    for first in range(0, count, size):
        # The last batch is filled with images again, so that it compiles nothing.
        rows = np.arange(first, first + size) % count
        x = dataset.images[rows].reshape(size, *network.input_shape)
        key = jax.random.key(int(keys.integers(1 << 31)))
        result = measure(_float64(x), jnp.asarray(dataset.labels[rows]), key)
        totals = totals + np.asarray(result)[..., : count - first].sum(axis=-1)
        if progress is not None:
            progress(min(first + size, count), count)
    return totals / count


def _float64(array: Any) -> Array:
    return jnp.asarray(np.asarray(array), jnp.float64)


def _float32(array: Array) -> Array:
    return array.astype(jnp.float32)


def _measured(
    apply: Apply,
    options: EvaluationOptions,
    params: Any,
    x: Float[Array, " n *shape"],
    labels: Int[Array, " n"],
    epsilon: Float[ArrayLike, ""],
    key: Array,
) -> Array:
    """Returns bools of shape (3, n): right, right under attack, certified."""
    logits = jax.vmap(apply, (None, 0))(params, x)
    right = margins(logits, labels) > 0
    robust = right

    if options.bound == "ibp":
        bound: Ibp | Crown = ibp(apply)
    else:
        inner: Literal["crown", "ibp"] = (
            "ibp" if options.bound == "crown_ibp" else "crown"
        )
        bound = crown(apply, CrownOptions(intermediate=inner))

    def certify(x: Array, label: Array) -> Array:
        box = Box.ball(x, epsilon, Box.unit(x.shape, x.dtype))
        spec = Spec.classification(label, logits.shape[-1], dtype=x.dtype)
        return jnp.min(bound.lower_rows(params, box, spec))

    # The attack may search in float32; what it found counts if float64 confirms it.
    single, x_single = jax.tree.map(_float32, (params, x))
    ball = Box.ball(x, epsilon, Box.unit(x.shape, x.dtype))
    for attempt in jax.random.split(key, options.restarts):
        z = pgd(apply, single, x_single, labels, epsilon, attempt, options.pgd_steps)
        z = ball.project(z.astype(x.dtype))
        robust &= margins(jax.vmap(apply, (None, 0))(params, z), labels) > 0
    # What the attack refuted needs no bounds: a batch that it refuted whole is skipped.
    least = jax.lax.cond(
        jnp.any(robust),
        lambda: jax.vmap(certify)(x, labels),
        lambda: jnp.full(labels.shape, -jnp.inf, x.dtype),
    )
    certified = right & (least > options.slack)
    return jnp.stack([right, robust, certified])


_measure = functools.partial(jax.jit, static_argnums=(0, 1))(_measured)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measure_population(
    apply: Apply,
    options: EvaluationOptions,
    params: Any,
    x: Float[Array, " n *shape"],
    labels: Int[Array, " n"],
    epsilons: Float[Array, " members"],
    key: Array,
) -> Array:
    """Returns bools of shape (members, 3, n), of params with a leading axis."""

    def one(params: Any, epsilon: Array) -> Array:
        return _measured(apply, options, params, x, labels, epsilon, key)

    return jax.vmap(one)(params, epsilons)


def margins(
    logits: Float[Array, "*n k"], labels: Int[Array, "*n"]
) -> Float[Array, "*n"]:
    """Returns the label's logit minus the greatest other; NaN where a logit is."""
    hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jnp.max(jnp.where(hot, -jnp.inf, logits), axis=-1)
    return jnp.sum(jnp.where(hot, logits, 0), axis=-1) - others


def pgd(
    apply: Apply,
    params: Any,
    x: Float[Array, " n *shape"],
    labels: Int[Array, " n"],
    epsilon: Float[ArrayLike, ""],
    key: Array,
    steps: int,
) -> Float[Array, " n *shape"]:
    """Returns points of the balls, clipped to [0, 1], with the least margin found.

    Projected gradient descent on the margin from a random start; steps of the
    gradient's sign shrink from epsilon / 2 towards 0. Of the start and all steps the
    point of least margin is returned.
    """
    radius = jnp.asarray(epsilon, x.dtype)
    box = Box.ball(x, radius, Box.unit(x.shape, x.dtype))
    # In a loop XLA compiles convolutions as they are written; see `convolution`.
    apply = program_of(apply, params, x[0]).evaluate

    def total(z: Array) -> tuple[Array, Array]:
        margin = margins(jax.vmap(apply, (None, 0))(params, z), labels)
        return margin.sum(), margin

    z = box.lo + jax.random.uniform(key, x.shape, x.dtype) * box.edges()
    shares = 0.5 * (1 - jnp.arange(steps) / (steps + 1))
    return walk(total, box, box.project(z), shares.astype(x.dtype), radius)[0]


def certified_margins(
    bound: Ibp | Crown,
    params: Any,
    box: Box,
    label: Int[ArrayLike, ""],
    num_classes: int,
) -> Float[Array, " k"]:
    """Returns lower bounds of y_label - y_j over a box, 0 at the label itself.

    Its negative is the logits of the worst case (Gowal et al. 2018, section 3).
    """
    spec = Spec.classification(label, num_classes, dtype=box.lo.dtype)
    rows = bound.lower_rows(params, box, spec)
    others = jnp.arange(num_classes - 1)
    others = others + (others >= label)
    return jnp.zeros(num_classes, box.lo.dtype).at[others].set(rows)
