"""The library's own growth, as one of the algorithms that are compared."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcert.certification import CertifyOptions
from jaxcert.certifier import Certifier
from jaxcert.search.growth import OPEN, GrowthOptions
from studies.compare_boxes.competitors import BoxResult, Problem

_TOLERANCE, _DELTA, _BATCH = 1e-4, 1e-3, 64


@dataclasses.dataclass(frozen=True)
class Growing:
    """`Certifier.grow` with one objective, maximal to 1e-3 whatever delta others have.

    The time of an input is its share of that of its batch. A box is finished where
    every face is known to be blocked.

    Attributes:
      objective: of GrowthOptions.
      rounds: most proposals.
    """

    objective: Any
    rounds: int = 60

    def __call__(
        self, problem: Problem, xs: np.ndarray, labels: np.ndarray, seconds: float
    ) -> Iterator[BoxResult]:
        certifier = Certifier(
            problem.network.apply,
            problem.network.params,
            problem.domain,
            problem.network.input_shape,
            tolerance=_TOLERANCE,
            required_margin=problem.required_margin,
            options=CertifyOptions(oracle="complete", batch_size=_BATCH),
        )
        options = GrowthOptions(self.objective, delta=_DELTA, rounds=self.rounds)
        for start in range(0, len(xs), _BATCH):
            x, label = xs[start : start + _BATCH], labels[start : start + _BATCH]
            if start == 0:  # compiles
                certifier.grow(
                    x,
                    certifier.batch(x, label),
                    dataclasses.replace(options, rounds=1),
                )
            begin = time.monotonic()
            deadline = begin + seconds * len(x)
            grown = certifier.grow(
                x, certifier.batch(x, label, deadline), options, deadline
            )
            share = (time.monotonic() - begin) / len(x)
            for row in range(len(x)):
                yield BoxResult(
                    np.asarray(grown.box.lo[row]),
                    np.asarray(grown.box.hi[row]),
                    int(grown.rounds[row]),
                    share,
                    bool((grown.blocked[row] != OPEN).all()),
                )
