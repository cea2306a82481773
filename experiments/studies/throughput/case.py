"""What the tools are asked for: one method on one batch of boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxcert.bounds.crown import Crown, CrownOptions, crown
from jaxcert.bounds.ibp import Ibp, ibp
from jaxcert.box import Box
from jaxcert.spec import Spec
from studies.throughput.networks import Subject

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown", "complete")


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """Boxes to bound with one method.

    Attributes:
      subject: the network.
      method: one of METHODS.
      x: centres, (boxes, *shape) float32.
      labels: the class to keep, (boxes,).
      epsilon: radius of the boxes before they are clipped to [0, 1].
      iterations: evaluations of "alpha-crown".
      chunk: boxes that jaxcert takes through the layers together; 0 for as many as the
        device's memory allows.
      seconds: limit of "complete".
      asked: boxes that a tool decides which takes them one by one (Marabou).
    """

    subject: Subject
    method: str
    x: np.ndarray
    labels: np.ndarray
    epsilon: float
    iterations: int
    chunk: int
    seconds: float
    asked: int = 8

    @property
    def box(self) -> Box:
        """The boxes, numpy float32."""
        radius = np.float32(self.epsilon)
        lo: Any = np.maximum(self.x - radius, 0)
        hi: Any = np.minimum(self.x + radius, 1)
        return Box(lo, hi)

    @property
    def spec(self) -> Spec:
        """The margins that must be positive, leaves (boxes, ...)."""
        classes = self.subject.network.num_outputs
        one = jax.vmap(lambda label: Spec.classification(label, classes))
        return jax.device_get(one(self.labels))

    def bounds(self) -> Ibp | Crown:
        """Returns the library's bounds of ibp, crown-ibp or crown."""
        f = self.subject.network.apply
        if self.method == "ibp":
            return ibp(f)
        inner: Any = "ibp" if self.method == "crown-ibp" else "crown"
        return crown(f, CrownOptions(intermediate=inner))


Run = Callable[[], np.ndarray]
Tool = Callable[[Case], Run | None]
