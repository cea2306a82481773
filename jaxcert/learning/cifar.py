"""CIFAR-10 in its published binary form."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxcert.errors import InputError
from jaxcert.runs.files import read_bounded

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
    "truck",
)  # fmt: skip
FOLDER = "cifar-10-batches-bin"
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"

_FILES = {
    "train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)),
    "test": ("test_batch.bin",),
}
_RECORD = 1 + 3 * 32 * 32
_PER_FILE = 10_000


def read_cifar10(
    split: str, directory: Path
) -> tuple[np.ndarray, np.ndarray, Path] | str:
    """Returns pixels (n, 32, 32, 3), labels and where they lie, or what was not found.

    A file holds 10,000 records of 3,073 bytes: the label, then the red, the green and
    the blue plane, row by row.

    Args:
      split: "train" or "test".
      directory: holds the files, or the folder that the published archive unpacks to.

    Raises:
      InputError: a file is of another length, or holds a label that is none.
    """
    names = _FILES[split]
    for folder in (directory, directory / FOLDER, directory / "cifar10"):
        if all((folder / name).is_file() for name in names):
            break
    else:
        return f"no {names[0]} in {directory} or {directory / FOLDER}"
    parts = [_read(folder / name) for name in names]
    pixels, labels = (np.concatenate(own) for own in zip(*parts, strict=True))
    return pixels, labels, folder


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    size = _PER_FILE * _RECORD
    data = read_bounded(
        path, size, gzipped=False, kind="a CIFAR-10 file", remedy="copy it again"
    )
    if len(data) % _RECORD or not data:
        raise InputError(
            f"{path} has {len(data)} bytes, which is no number of CIFAR-10 images "
            f"({_RECORD} bytes each): copy it again"
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    labels = rows[:, 0]
    if labels.max() > 9:
        raise InputError(f"{path} holds a label above 9: it is no CIFAR-10 file")
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels
