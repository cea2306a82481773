"""What every algorithm that is compared is asked, and what it answers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from jaxcert.box import Box
from jaxcert.certification import CertifyOptions
from jaxcert.certifier import Certifier
from jaxcert.network import Network
from jaxcert.spec import Spec


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What is asked of every algorithm.

    Attributes:
      network: whose class is to be kept.
      domain: box of legal inputs F, numpy float64, shape of one input.
      required_margin: what the margin must exceed all over a box.
      delta: resolution of a face: by how much a published algorithm moves it.
    """

    network: Network
    domain: Box
    required_margin: float
    delta: float

    def spec(self, label: int) -> Spec:
        """Returns what must hold all over a sound box, numpy float64.

        Must run where float64 is enabled.
        """
        spec = Spec.classification(
            label, self.network.num_outputs, self.required_margin, np.float64
        )
        return jax.tree.map(np.asarray, spec)


@dataclasses.dataclass(frozen=True, eq=False)
class BoxResult:
    """The box that an algorithm ends with; nothing is known of it yet.

    Attributes:
      lo, hi: float64, of the shape of one input.
      oracle_calls: boxes that an oracle was asked about; None if there is no oracle.
      seconds: wall time of this input, without compilation.
      finished: whether the algorithm came to its end, rather than to the time limit.
    """

    lo: np.ndarray
    hi: np.ndarray
    oracle_calls: int | None
    seconds: float
    finished: bool


Competitor = Callable[[Problem, np.ndarray, np.ndarray, float], Iterator[BoxResult]]
"""`competitor(problem, xs, labels, seconds)` yields a result per input, in order.

xs are float64, (n, *d), in the domain; labels (n,), each the class predicted there with
more than the required margin; seconds is the limit per input. What works on a whole
batch at once yields all its results at the end, each with its share of the time.
"""

_CUBE_TOLERANCE, _BATCH = 1e-4, 64


def uniform_cube(
    problem: Problem, xs: np.ndarray, labels: np.ndarray, seconds: float
) -> Iterator[BoxResult]:
    """Yields the apothem ball of every input, exact to 1e-4, clipped to the domain."""
    certifier = Certifier(
        problem.network.apply,
        problem.network.params,
        problem.domain,
        problem.network.input_shape,
        tolerance=_CUBE_TOLERANCE,
        required_margin=problem.required_margin,
        options=CertifyOptions(oracle="complete", batch_size=_BATCH),
    )
    for start in range(0, len(xs), _BATCH):
        x, label = xs[start : start + _BATCH], labels[start : start + _BATCH]
        if start == 0:
            certifier.batch(x, label)  # compiles
        begin = time.monotonic()
        answer = certifier.batch(x, label, begin + seconds * len(x))
        share = (time.monotonic() - begin) / len(x)
        proved = ~np.isnan(answer.box.lo)
        lo, hi = (np.where(proved, v, x) for v in (answer.box.lo, answer.box.hi))
        for row in range(len(x)):
            full = np.isinf(answer.lower[row])
            width = 0.0 if full else answer.upper[row] - answer.lower[row]
            yield BoxResult(
                lo[row], hi[row], int(answer.oracle_calls[row]), share,
                bool(width <= _CUBE_TOLERANCE),
            )  # fmt: skip
