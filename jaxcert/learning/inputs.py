"""Inputs to certify that come as files, and the choice of some of them."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from jaxcert.errors import InputError
from jaxcert.runs.array_files import read_npy, read_npz
from jaxcert.runs.files import expand_home, read_text

Labels = Int[np.ndarray, " n"]

_CHECKED = 1 << 20
"""Numbers of an array that are looked at together: an array file may be large."""


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs read from files.

    Attributes:
      names: one name per input: the file's, or the row's.
      x: float64, shape (n, *input_shape).
      labels: int32, shape (n,); None where the files state none.
      skipped: (name, reason) of every file that was left out.
    """

    names: tuple[str, ...]
    x: Float[np.ndarray, " n *shape"]
    labels: Labels | None
    skipped: tuple[tuple[str, str], ...] = ()


def load_inputs(
    path: str | os.PathLike[str],
    input_shape: tuple[int, ...],
    most_bytes: int | None = None,
    scale: float | None = None,
) -> Inputs:
    """Returns the inputs of a folder of CSV files, one CSV file or an array file.

    A CSV file holds one input: its values in row-major order, separated by commas or
    white space. Its label is the number before the first `-` or `_` of its name
    (`7-4.csv`, `0_1.csv`), if every file has one. Files are taken in order of their
    names; an empty one is skipped and reported.

    A `.npy` file holds an array of shape (n, *input_shape) or (n, features); an `.npz`
    file holds such an array as `x` or `images` and may hold `labels` and `names`.

    Args:
      path: the folder or file.
      input_shape: shape of one input of the network.
      most_bytes: most that an `.npz` may unpack to; None: 400 times its size, but at
        least 256 MiB and at most 4 GiB (uncompressed ones are read at any size).
      scale: what all numbers are divided by; an array of bytes needs one.

    Raises:
      InputError: no such path, or contents of another form; names the file.
    """
    path = expand_home(path)
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix.lower() == ".csv")
            if not files:
                raise InputError(f"no .csv file in the folder {path}")
            return _scaled(_load_csv(files, input_shape), scale)
        if not path.exists():
            raise InputError(f"no such file or folder: {path}")
        if suffix == ".csv":
            return _scaled(_load_csv([path], input_shape), scale)
        if suffix in (".npy", ".npz"):
            return _scaled(_load_arrays(path, input_shape, most_bytes, scale), scale)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    raise InputError(f"{path}: inputs come as a folder of .csv, a .csv, .npy or .npz")


def _scaled(found: Inputs, scale: float | None) -> Inputs:
    if scale is None:
        return found
    return dataclasses.replace(found, x=found.x / scale)


def _load_csv(files: list[Path], input_shape: tuple[int, ...]) -> Inputs:
    read, skipped = {}, []
    for file in files:
        values = _parse_csv(file, math.prod(input_shape))
        if values is None:
            skipped.append((file.name, "the file is empty"))
        else:
            read[file.name] = values
    if not read:
        raise InputError(f"every .csv file in {files[0].parent} is empty")
    labels = {name: re.match(r"(\d{1,9})[-_]", name) for name in read}
    without = [name for name, label in labels.items() if label is None]
    if without and len(without) < len(read):
        raise InputError(
            f"some file names in {files[0].parent} start with a class (such as "
            f"7-4.csv) and some do not: {without[0]}"
        )
    numbers = [int(label[1]) for label in labels.values() if label is not None]
    return Inputs(
        tuple(read),
        np.stack(list(read.values())).reshape(-1, *input_shape),
        np.array(numbers, np.int32) if numbers else None,
        tuple(skipped),
    )


def _parse_csv(file: Path, count: int) -> np.ndarray | None:
    text = read_text(file, kind="a text file of numbers")
    words = text.replace(",", " ").split()
    if not words:
        return None
    values = np.empty(len(words))
    for index, word in enumerate(words):
        try:
            values[index] = float(word)
        except ValueError as error:
            raise InputError(
                f"{file}: value {index + 1} is not a number: {word[:40]!r}"
            ) from error
    if len(values) != count:
        raise InputError(f"{file} has {len(values)} values, the network takes {count}")
    if not np.isfinite(values).all():
        first = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(f"{file}: value {first + 1} is not finite: {words[first]}")
    return values


def _load_arrays(
    path: Path,
    input_shape: tuple[int, ...],
    most_bytes: int | None,
    scale: float | None,
) -> Inputs:
    remedy = "Copy it again, or write it with numpy.save or numpy.savez"
    if path.suffix.lower() == ".npy":
        arrays = {"x": read_npy(path, remedy)}
    else:
        arrays = read_npz(path, remedy, most=most_bytes)
    x = arrays.get("x", arrays.get("images"))
    if x is None:
        raise InputError(
            f"{path} needs an array x or images, has: {', '.join(arrays) or 'nothing'}"
        )
    if x.dtype.kind not in "fiub":
        raise InputError(f"{path}: inputs must be real numbers, not {x.dtype}")
    if x.dtype == np.uint8 and scale is None:
        raise InputError(
            f"{path} holds bytes: say with --scale what to divide them by (255 for "
            "images in [0, 1], 1 to leave them as they are)"
        )
    if x.ndim < 2 or not _same_layout(x.shape[1:], input_shape):
        raise InputError(
            f"{path} has an array of shape {x.shape}, the network takes inputs of "
            f"shape {input_shape}: the array must have n of them in its first axis"
        )
    if not len(x):
        raise InputError(f"{path} holds no inputs")
    x = x.astype(np.float64, copy=False).reshape(-1, *input_shape)
    step = _CHECKED // max(math.prod(input_shape), 1) + 1
    for start in range(0, len(x), step):
        part = x[start : start + step]
        bad = ~np.isfinite(part.reshape(len(part), -1)).all(axis=1)
        if bad.any():
            number = start + int(bad.argmax())
            raise InputError(f"{path}: input {number} has a value not finite")
    names = arrays.get("names", np.arange(len(x)).astype(str))
    labels = arrays.get("labels")
    for key, array, kinds in (("names", names, "U"), ("labels", labels, "iu")):
        if array is not None and (
            array.shape != (len(x),) or array.dtype.kind not in kinds
        ):
            what = "strings" if key == "names" else "integers"
            raise InputError(
                f"{path}: {key} must be {len(x)} {what}, got {array.dtype} of shape "
                f"{array.shape}"
            )
    if len(set(names.tolist())) != len(x):
        raise InputError(f"{path}: names must differ from one another")
    if labels is not None and (labels.min() < 0 or labels.max() >= 2**31):
        raise InputError(f"{path}: labels must be class numbers from 0 on")
    return Inputs(
        tuple(names.tolist()), x, None if labels is None else labels.astype(np.int32)
    )


def _same_layout(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Returns whether a plain reshape keeps the meaning: equal but for axes of 1,
    or one of the two flat."""
    a, b = (tuple(n for n in shape if n != 1) for shape in (found, wanted))
    flat = math.prod(found) == math.prod(wanted) and min(len(a), len(b)) <= 1
    return a == b or flat


def parse_selection(text: str, n: int) -> np.ndarray:
    """Returns the indices that a selection names among n, in its order.

    `all`, one index (`5`), a range that excludes its end (`0:100`, `0:100:10`, `50:`),
    or several of these with commas (`3,17,20:30`).

    Raises:
      InputError: malformed, empty, an index from n on, or an index named twice.
    """
    if text.strip() == "all":
        return np.arange(n)
    chosen: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d*)(?:(:)(\d*)(?::(\d+))?)?\s*", part)
        if not match or not (match[1] or match[2]):
            raise InputError(
                f"cannot read the selection {text!r}; write all, 5, 3,17, 0:100 or "
                "0:100:10"
            )
        start = int(match[1] or 0)
        stop = start + 1 if not match[2] else int(match[3] or n)
        step = int(match[4] or 1)
        if step == 0:
            raise InputError(f"selection {text!r}: the step must be at least 1")
        if stop > n:
            raise InputError(
                f"selection {text!r} goes past the end: there are {n} inputs, 0 to "
                f"{n - 1}"
            )
        chosen.extend(range(start, stop, step))
    if not chosen:
        raise InputError(f"selection {text!r} is empty")
    if len(set(chosen)) < len(chosen):
        raise InputError(f"selection {text!r} names an input twice")
    return np.array(chosen)
