"""The keypoint task: garments on a canvas, and where their extremal points lie."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxcert.learning.data import Dataset

CANVAS = 48
NAMES = ("top", "bottom", "left", "right")
# Outputs are (pixel - HALF) / HALF.
HALF = CANVAS / 2
_VISIBLE = 0.15


@dataclasses.dataclass(frozen=True, eq=False)
class Keypoints:
    """Canvases and the keypoints on them.

    Attributes:
      x: (n, 48, 48, 1), float32 in [0, 1].
      y: row and column of the top, bottom, left and right point, (n, 8), float32 in
        units of half a canvas from its centre.
    """

    x: np.ndarray
    y: np.ndarray


def keypoints(dataset: Dataset, seed: int) -> Keypoints:
    """Returns every garment of a data set at a random place of a canvas of its own.

    The background is a plane of random slope with noise, in [0, 0.3]; the garment's
    pixels (those above 0.15) lie above it. The keypoints are computed from these
    pixels: the middle of the first and last row and column that hold one.
    """
    draw = np.random.default_rng(seed)
    images = dataset.images[..., 0]
    n, side, _ = images.shape
    free = CANVAS - side
    grid = np.linspace(-1, 1, CANVAS)
    slopes = draw.uniform(-1, 1, (n, 2, 1, 1))
    plane = slopes[:, 0] * grid[None, :, None] + slopes[:, 1] * grid[None, None, :]
    noise = draw.uniform(-0.05, 0.05, (n, CANVAS, CANVAS))
    x = np.clip(0.15 + 0.05 * plane + noise, 0, 1)
    corners = draw.integers(0, free + 1, (n, 2))
    y = np.zeros((n, 8))
    for i, (image, (row, column)) in enumerate(zip(images, corners, strict=True)):
        garment = image > _VISIBLE
        place = x[i, row : row + side, column : column + side]
        place[garment] = 0.3 + 0.7 * image[garment]
        y[i] = extremal_points(garment) + np.tile([row, column], 4)
    return Keypoints(
        x[..., None].astype(np.float32), ((y - HALF) / HALF).astype(np.float32)
    )


def extremal_points(garment: np.ndarray) -> np.ndarray:
    """Returns row and column of the top, bottom, left and right point of a mask, (8,).

    Of several pixels in the extremal row or column the mean; the middle of the mask's
    frame where it is empty.
    """
    rows, columns = np.nonzero(garment)
    if not len(rows):
        return np.tile((np.array(garment.shape) - 1) / 2, 4)
    top, bottom = rows.min(), rows.max()
    left, right = columns.min(), columns.max()
    return np.array([
        top, columns[rows == top].mean(), bottom, columns[rows == bottom].mean(),
        rows[columns == left].mean(), left, rows[columns == right].mean(), right,
    ])  # fmt: skip


def pixel_error(predicted: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the mean distance of the keypoints from where they are, in pixels."""
    gap = (np.asarray(predicted) - wanted).reshape(len(wanted), -1, 2) * HALF
    return float(np.sqrt((gap**2).sum(axis=-1)).mean())
