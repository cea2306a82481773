"""The classifiers that are compared: feature-convex, and ReLU networks by boxes."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from jaxcert.certifier import Certifier, CertifyOptions, Outcome, float64
from jaxcert.convex import ConvexClassifier, certified_radii
from jaxcert.learning.models import from_params
from jaxcert.network import Network
from studies.asymmetric.task import NORMS, implied_radii

_BATCH = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Certified:
    """What a method proves about inputs of the sensitive class.

    Attributes:
      score: f(x), or what takes its place; above 0: predicted sensitive.
      radius: shape (n, 3), in the norms of `NORMS`; 0 where nothing is proved.
    """

    score: np.ndarray
    radius: np.ndarray


class Method(Protocol):
    """A classifier with a logit shift that can be certified.

    Attributes:
      title: what tables call it.
      norm: position in `NORMS` of the one norm that it certifies, from which the
        others are implied; None if it certifies every one.
      probabilistic: whether a certificate may be wrong, with a known probability.
    """

    @property
    def title(self) -> str: ...
    @property
    def norm(self) -> int | None: ...
    @property
    def probabilistic(self) -> bool: ...

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Returns numbers whose sign, after the shift is added, is the prediction."""
        ...

    def certify(self, x: np.ndarray, shift: float) -> Certified:
        """Returns what is proved about inputs with the shift."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureConvex:
    """Radii in closed form, in every norm at once."""

    classifier: ConvexClassifier
    title = "feature-convex"
    norm = None
    probabilistic = False

    def scores(self, x: np.ndarray) -> np.ndarray:
        return self.classifier.scores(x)

    def certify(self, x: np.ndarray, shift: float) -> Certified:
        found = certified_radii(self.classifier.with_shift(shift), x, NORMS)
        return Certified(found.score, found.radius)


@dataclasses.dataclass(frozen=True, eq=False)
class Boxes:
    """The exact apothem of a ReLU network with two logits, inside [0, 1]."""

    network: Network
    title: str
    time_limit: float
    norm = 2
    probabilistic = False

    @float64()
    def scores(self, x: np.ndarray) -> np.ndarray:
        params = jax.tree.map(_float64, self.network.params)
        logits = _logits(self.network.apply, params, _float64(x))
        return np.asarray(logits[:, 1] - logits[:, 0])

    def certify(self, x: np.ndarray, shift: float) -> Certified:
        network = shifted(self.network, shift)
        certifier = Certifier(
            network.apply,
            network.params,
            (0.0, 1.0),
            network.input_shape,
            options=CertifyOptions(oracle="complete", batch_size=_BATCH),
        )
        deadline = time.monotonic() + self.time_limit
        answer = certifier.batch(x, np.ones(len(x), np.int32), deadline)
        proved = answer.outcome == Outcome.CERTIFIED
        radius = np.where(proved, answer.lower, 0.0)
        score = dataclasses.replace(self, network=network).scores(x)
        return Certified(score, implied_radii(radius, self.norm, x[0].size))


def _float64(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)


@functools.partial(jax.jit, static_argnums=0)
def _logits(apply: Callable, params: Any, x: Any) -> jax.Array:
    return jax.vmap(apply, (None, 0))(params, x)


def shifted(network: Network, shift: float) -> Network:
    """Returns the network with the shift added to its second logit, in float32."""
    params = jax.tree.map(np.array, network.params)
    layers = params["head"]["layers"]
    layers[max(layers)]["bias"][1] += np.float32(shift)
    return from_params(params, network.apply.architecture, network.name)  # type: ignore[attr-defined]
