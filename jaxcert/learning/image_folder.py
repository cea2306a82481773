"""Images of one's own: PNG and JPEG files by class, or beside a table of labels."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxcert.errors import InputError
from jaxcert.learning.inputs import Labels
from jaxcert.runs.files import expand_home, read_text

SUFFIXES = (".png", ".jpg", ".jpeg")
LABELS = "labels.csv"


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Images that were read from files.

    Attributes:
      names: their paths in the folder.
      pixels: uint8, (n, h, w, 1) where all are grey, else (n, h, w, 3).
      labels: int32, (n,); None where nothing states any.
      class_names: one per class; None without labels.
    """

    names: tuple[str, ...]
    pixels: UInt8[np.ndarray, "n h w c"]
    labels: Labels | None
    class_names: tuple[str, ...] | None


def holds_images(folder: Path) -> bool:
    """Returns whether a folder has images, in itself or in the folders of classes."""
    return folder.is_dir() and bool(_by_class(folder) or _files(folder))


def class_words(folder: Path) -> set[str]:
    """Returns what the classes of a folder are called; none where nothing says."""
    if groups := _by_class(folder):
        return set(groups)
    stated = folder / LABELS
    return set(_read_labels(stated).values()) if stated.is_file() else set()


def load_images(path: str | os.PathLike[str], known: Collection[str] = ()) -> Images:
    """Returns the images of a folder.

    They lie in a folder per class (`cat/1.png`), or all in the folder itself, where
    `labels.csv` may state their classes: a line `file,class` each, with or without the
    heading `file,label`. Classes are numbered in the order of their names; where all
    names are whole numbers these are the numbers of the classes.

    Args:
      path: the folder.
      known: further classes, of which this folder may hold no image.

    Raises:
      InputError: no images, images of several sizes, files that are none, or labels
        that do not fit.
    """
    folder = expand_home(path)
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}")
    groups = _by_class(folder)
    if groups:
        files = [file for own in groups.values() for file in own]
        words = [name for name, own in groups.items() for _ in own]
        labels, names = _numbered(words, known, folder)
    else:
        files, labels, names = _files(folder), None, None
        if not files:
            raise InputError(
                f"{folder} holds no images: put {', '.join(SUFFIXES)} files into it, "
                "or into a folder for each class"
            )
        if (folder / LABELS).is_file():
            stated = _read_labels(folder / LABELS)
            missing = [file.name for file in files if file.name not in stated]
            if missing:
                raise InputError(
                    f"{folder / LABELS} states no class of {missing[0]!r}"
                    + (f" and {len(missing) - 1} others" if missing[1:] else "")
                )
            words = [stated[file.name] for file in files]
            labels, names = _numbered(words, known, folder)
    shown = tuple(file.relative_to(folder).as_posix() for file in files)
    return Images(shown, _read(files), labels, names)


def _by_class(folder: Path) -> dict[str, list[Path]]:
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    return {p.name: own for p in inside if (own := _files(p))}


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)


def _numbered(
    words: Sequence[str], known: Collection[str], folder: Path
) -> tuple[Labels, tuple[str, ...]]:
    """Returns the class of each word, and the names of the classes."""
    names = sorted({*words, *known})
    if all(name.isdecimal() and len(name) < 7 for name in names):
        number = {name: int(name) for name in names}
        if len(set(number.values())) < len(names):
            raise InputError(f"{folder}: two classes have the same number")
        names = [str(k) for k in range(max(number.values()) + 1)]
    else:
        number = {name: k for k, name in enumerate(names)}
    return np.array([number[word] for word in words], np.int32), tuple(names)


def _read_labels(path: Path) -> Mapping[str, str]:
    text = read_text(path, kind="a table of labels")
    stated: dict[str, str] = {}
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and cells[1:] == ["label"]):
            continue
        if len(cells) != 2 or not all(cells):
            raise InputError(f"{path}, line {number}: write file,class")
        if cells[0] in stated:
            raise InputError(f"{path}, line {number}: {cells[0]!r} stands there twice")
        stated[cells[0]] = cells[1]
    return stated


def _read(files: Sequence[Path]) -> UInt8[np.ndarray, "n h w c"]:
    """Returns the pixels of images of one size, grey where all are."""
    from PIL import Image

    found = []
    for file in files:
        try:
            with warnings.catch_warnings():
                # A small file that unpacks to a huge image is a mistake or an attack.
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file, formats=("PNG", "JPEG")) as image:
                    grey = image.mode in ("1", "L")
                    found.append(np.asarray(image.convert("L" if grey else "RGB")))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning,
                Image.DecompressionBombError) as error:  # fmt: skip
            raise InputError(f"cannot read the image {file}: {error}") from error
    first, size = files[0].name, found[0].shape[:2]
    for file, pixels in zip(files, found, strict=True):
        if pixels.shape[:2] != size:
            raise InputError(
                f"{file} has {pixels.shape[1]} x {pixels.shape[0]} pixels, {first} "
                f"{size[1]} x {size[0]}: a network takes images of one size; scale "
                "them before"
            )
    if all(pixels.ndim == 2 for pixels in found):
        return np.stack(found)[..., None]
    coloured = [np.stack([p] * 3, axis=-1) if p.ndim == 2 else p for p in found]
    return np.stack(coloured)
