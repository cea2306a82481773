"""Decision regions and dual boxes of networks of two features, for the report."""

from __future__ import annotations

import math
import time
from pathlib import Path

import jax
import numpy as np

from jaxcert.box import Box
from jaxcert.certifier import Certifier
from jaxcert.report.regions import Regions
from jaxcert.search.dual import DualOptions, DualTask, dual_boxes

_GRID = 300
_SECONDS = 60.0


def write_regions(certifier: Certifier, output: Path) -> None:
    """Writes what the report draws behind the boxes, if inputs have two features."""
    shape, domain = certifier.input_shape, jax.tree.map(np.ravel, certifier.domain)
    if math.prod(shape) != 2:
        return
    first, second = (
        np.linspace(domain.lo[i], domain.hi[i], _GRID, dtype=float) for i in (0, 1)
    )
    points = np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1)
    count = certifier.num_classes
    task = DualTask(
        jax.tree.map(np.asarray, certifier.domain), range(count),
        np.zeros((0, *shape)),
    )  # fmt: skip
    boxes: list[Box] = [
        box.outer
        for box in dual_boxes(
            certifier.model, task, DualOptions(), time.monotonic() + _SECONDS
        )
    ]
    outputs = certifier.model.outputs(points.reshape(-1, *shape))
    classes = np.argmax(outputs, axis=1).reshape(_GRID, _GRID)
    Regions(
        first, second, classes.astype(np.int32),
        np.stack([np.ravel(box.lo) for box in boxes]),
        np.stack([np.ravel(box.hi) for box in boxes]),
    ).write(output)  # fmt: skip
