"""A split of a labelled image data set."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from jaxcert.learning.inputs import Labels

Images = Float[np.ndarray, "n h w c"]
SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a labelled image data set, in its canonical order.

    Attributes:
      name: one of `DATASETS`.
      split: "train", "test", or "all" of a folder that is not split.
      images: float32, shape (n, h, w, c), values in [0, 1].
      labels: int32, shape (n,), indices into `class_names`.
      class_names: one name per class.
      source: where the images came from, for people to read.
    """

    name: str
    split: str
    images: Images
    labels: Labels
    class_names: tuple[str, ...]
    source: str

    def first(self, count: int | None) -> Dataset:
        """Returns the data set with its first `count` images alone; None for all."""
        return dataclasses.replace(
            self, images=self.images[:count], labels=self.labels[:count]
        )


def as_unit(pixels: np.ndarray) -> Images:
    """Returns bytes as float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255)
