"""Data sets of one's own: a folder of images or of arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxcert.errors import InputError
from jaxcert.learning.dataset import SPLITS, Dataset, as_unit
from jaxcert.learning.image_folder import class_words, load_images
from jaxcert.runs.array_files import read_npz
from jaxcert.runs.files import expand_home


def is_own(name: str) -> bool:
    """Returns whether a data set is named by a path."""
    return "/" in name or name.startswith((".", "~"))


def load_own(name: str, split: str) -> Dataset:
    """Returns a split of a folder of one's own.

    The split is `FOLDER/SPLIT.npz`, with arrays `images` (n, h, w) or (n, h, w, c) and
    `labels`, or the images of `FOLDER/SPLIT` (see `load_images`); else, where the
    folder has no splits, all that it holds. Bytes are divided by 255; other numbers
    have to lie in [0, 1].

    Raises:
      InputError: it holds no such split, no classes, or images of another form.
    """
    folder = expand_home(name)
    if (folder / f"{split}.npz").is_file():
        return _load_npz(folder / f"{split}.npz", split)
    splits = [folder / s for s in SPLITS if (folder / s).is_dir()]
    part = folder / split if (folder / split).is_dir() else folder
    if splits and part == folder or list(folder.glob("*.npz")):
        raise InputError(f"{folder} has no {split} split: no {split}/ and {split}.npz")
    known = set().union(*(class_words(own) for own in splits or [folder]))
    found = load_images(part, known)
    if found.labels is None or found.class_names is None:
        raise InputError(
            f"{part} states no classes: put the images of each class into a folder of "
            "its name, or write labels.csv"
        )
    return Dataset(
        folder.name, split if splits else "all", as_unit(found.pixels), found.labels,
        found.class_names, f"images of {part}",
    )  # fmt: skip


def _load_npz(path: Path, split: str) -> Dataset:
    arrays = read_npz(path, "Write it with numpy.savez(images=..., labels=...)")
    images, labels = arrays.get("images"), arrays.get("labels")
    if images is None or labels is None or images.ndim not in (3, 4):
        raise InputError(f"{path} needs arrays images (n, h, w[, c]) and labels (n,)")
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype == np.uint8:
        images = as_unit(images)
    elif not (images.dtype.kind == "f" and ((images >= 0) & (images <= 1)).all()):
        raise InputError(
            f"{path} has images of {images.dtype} outside [0, 1]: store bytes (uint8), "
            "or numbers in [0, 1]"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise InputError(f"{path} needs one integer label for each image")
    if not len(labels) or labels.min() < 0 or labels.max() >= 2**31:
        raise InputError(f"{path}: labels must be class numbers from 0 on")
    names = tuple(str(k) for k in range(int(labels.max()) + 1))
    return Dataset(
        path.parent.name, split, images.astype(np.float32), labels.astype(np.int32),
        names, f"arrays of {path}",
    )  # fmt: skip
