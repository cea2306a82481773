"""What is measured of a box, for lines and tables."""

from __future__ import annotations

import jax
import numpy as np

from jaxcert.box import Box, Rates
from jaxcert.devices import float64


def edge_measures(box: Box) -> dict[str, float]:
    """Returns the least, mean and greatest edge of a box, and its log-volume."""
    edges = np.asarray(box.hi) - np.asarray(box.lo)
    with np.errstate(divide="ignore"):
        log_volume = float(np.sum(np.log(edges)))
    return {
        "min_edge": float(edges.min()),
        "mean_edge": float(edges.mean()),
        "max_edge": float(edges.max()),
        "log_volume": log_volume,
    }


@float64()
def apothem(x: np.ndarray, box: Box, domain: Box, rates: Rates | None = None) -> float:
    """Returns the apothem of a box around x, in float64."""
    return float(jax.device_get(box.apothem(x, domain, rates)))  # type: ignore[arg-type]
