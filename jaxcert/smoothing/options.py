"""What is smoothed and how: generated outputs, sampling options, oracle errors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxcert.errors import InputError
from jaxcert.smoothing.binomial import Counts, check_alpha, least_samples, upper_bound
from jaxcert.smoothing.noise import Gaussian, Noise

MOST_SAMPLES = 2**30


@dataclasses.dataclass(frozen=True)
class Stopping:
    """Stops counting for an input as soon as a wanted radius is certified, or hopeless.

    The counts are looked at after ..., n / 4, n / 2 and n samples. Every look has its
    own Clopper-Pearson bound at alpha / looks; by the union bound all of them hold at
    once with probability 1 - alpha, and so does the one at which counting stopped,
    whatever made it stop.

    Attributes:
      radius: the wanted radius, >= 0.
      looks: how often is looked at most.
    """

    radius: float
    looks: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.radius < math.inf:
            raise InputError(f"the wanted radius is {self.radius}; it must be >= 0")
        if not 1 <= self.looks <= 30:
            raise InputError(f"looks is {self.looks}; it must lie in 1 .. 30")


@dataclasses.dataclass(frozen=True)
class SmoothingOptions:
    """How a smoothed classifier is certified (Cohen et al. 2019, figure "Certify").

    Attributes:
      noise: what is added to the input; its class says in which norm radii are.
      n0: samples that choose the class.
      n: fresh samples that bound the class's probability (at most, with `stopping`).
      alpha: most probability with which the answer about one input may be false.
      stopping: None, or when to stop before n samples.
      chunk: samples of one input drawn together; part of what identifies a sample.
      batch_size: most noisy inputs at once; None for 250 on a CPU, where few are
        faster, and what the memory allows of an accelerator, which 10,000 fill. No
        answer depends on it.
    """

    noise: Noise = Gaussian(0.25)
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    stopping: Stopping | None = None
    chunk: int = 250
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.noise, Noise):
            raise InputError(
                f"noise is {self.noise!r}; give a jaxcert.smoothing Gaussian, Laplace "
                "or Uniform"
            )
        for name in ("n0", "n", "chunk", "batch_size"):
            number = getattr(self, name)
            if name == "batch_size" and number is None:
                continue
            whole = isinstance(number, (int, np.integer))
            if not whole or not 1 <= number <= MOST_SAMPLES:
                raise InputError(
                    f"{name} is {number}; it must be a whole number in 1 .. 2^30"
                )
        check_alpha(self.alpha)

    def shared_by(self, inputs: int) -> SmoothingOptions:
        """Returns options whose answers about so many inputs hold all at once.

        With probability 1 - alpha: the union bound gives alpha / inputs to each.
        """
        return dataclasses.replace(self, alpha=self.alpha / inputs)

    def looks(self) -> tuple[int, ...]:
        """Returns the sample counts at which counting may stop, increasing; n last."""
        count = 1 if self.stopping is None else self.stopping.looks
        return tuple(sorted({-(-self.n // 2**i) for i in range(count)}))

    def check_samples(self, eps: float = 0.0) -> None:
        """Raises InputError where n is too small to certify any class.

        Even if every sample agrees, the class is certified only if the bound of its
        probability, less the oracle's error eps, exceeds 1/2.
        """
        least = least_samples(0.5 + eps, self.alpha_per_look())
        if least is None:
            raise InputError(
                f"the oracle error is {eps:g}: from 1/2 on, no number of samples "
                "certifies a class"
            )
        if self.n < least:
            looks = len(self.looks())
            share = f" at each of {looks} looks" if looks > 1 else ""
            raise InputError(
                f"n is {self.n}; with alpha {self.alpha_per_look():g}{share} even "
                "samples that all agree certify a class only from n = "
                f"{least} on: raise n, or alpha"
            )

    def alpha_per_look(self) -> float:
        """Returns the failure probability of the bound at one look."""
        return self.alpha / len(self.looks())


@dataclasses.dataclass(frozen=True, eq=False)
class OracleError:
    """A bound of how often an oracle is wrong, in the way that matters.

    `certify` needs: among outputs generated from noisy copies OF THIS INPUT, the
    oracle names the certified class, but the class is another, with probability at
    most eps. `certify_harmless` needs the same of "harmless, but it is harmful".
    Nothing is asked of perturbed inputs.

    Attributes:
      eps: in [0, 1]; one number, or one per input.
      alpha: probability with which this bound itself may be false: 0 if it is given,
        see `estimate_oracle_error` otherwise.
    """

    eps: Float[ArrayLike, "*m"] = 0.0
    alpha: float = 0.0

    def __post_init__(self) -> None:
        eps = np.asarray(self.eps, np.float64)
        if eps.ndim > 1 or not ((eps >= 0) & (eps <= 1)).all():
            raise InputError(
                f"the oracle error is {self.eps}; give a probability in [0, 1], or one "
                "per input"
            )
        if not 0 <= self.alpha < 1:
            raise InputError(f"the oracle error's alpha is {self.alpha}; give [0, 1)")

    def of(self, inputs: int) -> Float[np.ndarray, " m"]:
        """Returns eps for each of so many inputs.

        Raises:
          InputError: it is of another number of inputs.
        """
        eps = np.asarray(self.eps, np.float64)
        if eps.shape not in ((), (inputs,)):
            raise InputError(
                f"there are {eps.size} oracle errors for {inputs} inputs: give one, or "
                "one per input"
            )
        return np.broadcast_to(eps, (inputs,))


def estimate_oracle_error(wrong: Counts, labelled: Counts, alpha: float) -> OracleError:
    """Returns the Clopper-Pearson upper bound of an oracle's error.

    It bounds the error under the distribution from which the labelled outputs were
    drawn, independently and after the class was chosen: outputs for noisy copies of
    one input bound it for that input. A pool over many inputs bounds the mean error
    over them, which says nothing about a single one.

    Args:
      wrong: labelled outputs on which the oracle erred; one number, or one per input.
      labelled: how many outputs were labelled.
      alpha: failure probability; it adds to that of the certificate.
    """
    return OracleError(upper_bound(wrong, labelled, alpha), alpha)


@dataclasses.dataclass(frozen=True)
class Generated:
    """A generator and the oracle that names the class of what it generates.

    Both are JAX functions of one input and hashable; see `on_host` for oracles that
    are none.

    Attributes:
      generate: (params, key, x) -> sequence.
      label: sequence -> class, an integer; outside 0 .. num_classes - 1: no class.
      num_classes: K.
    """

    generate: Callable[[Any, Array, Array], Any]
    label: Callable[[Any], Array]
    num_classes: int

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise InputError(
                f"num_classes is {self.num_classes}; an oracle tells at least 2 apart"
            )

    def __call__(self, params: Any, key: Array, x: Array) -> Array:
        """Returns the class of one generated output."""
        return jnp.asarray(self.label(self.generate(params, key, x)))


@dataclasses.dataclass(frozen=True)
class Predicted:
    """The class of the greatest logit, and no class where a logit is NaN.

    Attributes:
      f: (params, x) -> logits (K,).
    """

    f: Callable[[Any, Array], Array]

    def __call__(self, params: Any, key: Array, x: Array) -> Array:
        """Returns the predicted class of one input, -1 for none."""
        del key
        logits = self.f(params, x)
        return jnp.where(jnp.isnan(logits).any(), -1, jnp.argmax(logits))


@dataclasses.dataclass(frozen=True)
class _OnHost:
    label: Callable[[np.ndarray], int]

    def __call__(self, sequence: Array) -> Array:
        def labels(sequences: np.ndarray) -> np.ndarray:
            rows = np.asarray(sequences).reshape(-1, *sequence.shape)
            found = np.array([int(self.label(row)) for row in rows], np.int32)
            return found.reshape(np.shape(sequences)[: -sequence.ndim or None])

        answer = jax.ShapeDtypeStruct((), jnp.int32)
        return jax.pure_callback(labels, answer, sequence, vmap_method="broadcast_all")


def on_host(label: Callable[[np.ndarray], int]) -> Callable[[Array], Array]:
    """Returns an oracle for `Generated` from any Python function of one array.

    It is called once per sample, on the host: a parser, a dictionary, another program.
    """
    return _OnHost(label)
