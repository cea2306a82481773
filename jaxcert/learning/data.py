"""Data sets: labelled images to certify and to train on."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.client
import io
import math
import os
import struct
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxcert.errors import InputError
from jaxcert.learning import cifar
from jaxcert.learning.dataset import SPLITS, Dataset, as_unit
from jaxcert.learning.inputs import Inputs, load_inputs, parse_selection
from jaxcert.learning.own_data import is_own, load_own
from jaxcert.learning.prepared import read_prepared
from jaxcert.runs.files import expand_home, write_atomically

__all__ = [
    "DATASETS",
    "SPLITS",
    "Dataset",
    "Inputs",
    "load_dataset",
    "load_inputs",
    "parse_selection",
]


@dataclasses.dataclass(frozen=True)
class _Published:
    """A data set in the MNIST layout: four IDX files, known by their contents.

    Attributes:
      url: folder from which the four gzip files are served.
      sha256: per split, the digests of the decompressed image and label files. The
        gzip files themselves circulate in several compressions of one content.
      class_names: one name per class.
    """

    url: str
    sha256: dict[str, tuple[str, str]]
    class_names: tuple[str, ...]


_DIGITS = tuple("0123456789")
_IDX_PREFIX = {"train": "train", "test": "t10k"}
_IMAGE_SHAPE = (28, 28, 1)
_IMAGE_MAGIC, _LABEL_MAGIC = 2051, 2049
_DIGITS_TEST = 360

_PUBLISHED = {
    "mnist": _Published(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        {
            "train": (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            "test": (
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        },
        _DIGITS,
    ),
    "fashion_mnist": _Published(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train": (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            "test": (
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        },
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
}

DATASETS = ("digits", *_PUBLISHED, "cifar10")


def load_dataset(
    name: str, split: str = "test", data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
    """Returns a split of a data set, the same arrays whatever the source.

    `digits` comes with scikit-learn: 1797 images of 8 x 8, of which the last 360 are
    the test split. `mnist` and `fashion_mnist` are looked for in `data_dir`, or where
    that is None in `$JAXCERT_DATA_DIR` and then the TFDS default directory: in each
    first as a directory prepared by tensorflow-datasets (`DIR/mnist/3.0.1/...`, format
    array_record, read without TensorFlow), then as IDX gzip files (`DIR/mnist/*.gz` or
    `DIR/*.gz`). Where no directory was given and none has them they are downloaded to
    a cache directory and their contents are checked.

    Index i is image i of the published IDX files, from either source. `cifar10` is
    looked for as its published binary files, then as TFDS prepared it; of the latter,
    and of any other data set, the order is that of the prepared files.

    Args:
      name: one of `DATASETS`, the name of any image data set that tensorflow-datasets
        has prepared, or the path of a folder of one's own (`load_own`).
      split: "train" or "test".
      data_dir: the only directory to look into; None or '' for the search above.
        `digits` lies in no directory: for it data_dir is ignored.

    Raises:
      InputError: unknown name or split, files that are damaged or are another data
        set's, nothing found in `data_dir`, or a download that failed.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r} of {name}; known: train, test")
    if name not in DATASETS and (is_own(name) or expand_home(name).is_dir()):
        return load_own(name, split)
    if name == "digits":
        return _load_digits(split)
    data_dir, missing = data_dir or None, []
    for where, directory in _directories(data_dir):
        if data_dir is not None and not directory.is_dir():
            raise InputError(f"no data directory {directory} ({where})")
        for read in _READERS.get(name, (_read_tfds,)):
            found = read(name, split, directory)
            if isinstance(found, Dataset):
                return found
            missing.append(f"{found} ({where})")
    if data_dir is not None:
        raise InputError(f"no {name} {split} split: " + "; ".join(missing))
    if name == "cifar10":
        raise InputError(
            f"no {name} {split} split: {'; '.join(missing)}. Unpack {cifar.SOURCE} "
            "into DIR and give data_dir=DIR"
        )
    if name not in DATASETS:
        raise InputError(
            f"unknown data set {name!r}; known: {', '.join(DATASETS)}, any images that "
            f"tensorflow-datasets has prepared ({'; '.join(missing)}), and a folder of "
            "one's own, written with a /"
        )
    return _download(name, split, missing)


def training_data(
    name: str, split: str, data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
    """Returns a split to train or to test on; see `load_dataset`.

    Raises:
      InputError: the data set is a folder without splits, too: images that were
        trained on say nothing of others.
    """
    data = load_dataset(name, split, data_dir)
    if data.split != split:
        raise InputError(
            f"{name} is not split: training needs {name}/train and {name}/test"
        )
    return data


def _directories(data_dir: str | os.PathLike[str] | None) -> list[tuple[str, Path]]:
    if data_dir is not None:
        return [("data_dir", expand_home(data_dir))]
    directories = []
    if os.environ.get("JAXCERT_DATA_DIR"):
        named = expand_home(os.environ["JAXCERT_DATA_DIR"])
        directories.append(("$JAXCERT_DATA_DIR", named))
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    directories.append(("TFDS default", expand_home(default)))
    return directories


def _load_digits(split: str) -> Dataset:
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise InputError(
            "the digits data set comes with scikit-learn: pip install scikit-learn"
        ) from error
    bunch = datasets.load_digits()
    rows = slice(-_DIGITS_TEST, None) if split == "test" else slice(-_DIGITS_TEST)
    images = (bunch.images[rows, :, :, None] / 16.0).astype(np.float32)
    labels = bunch.target[rows].astype(np.int32)
    return Dataset("digits", split, images, labels, _DIGITS, "scikit-learn")


def _dataset(
    name: str, split: str, pixels: np.ndarray, labels: np.ndarray, source: str
) -> Dataset:
    images = as_unit(pixels.reshape(-1, *_IMAGE_SHAPE))
    names = _PUBLISHED[name].class_names
    return Dataset(name, split, images, labels.astype(np.int32), names, source)


# Readers return a Dataset, or a string that says what was not found.


def _read_tfds(name: str, split: str, directory: Path) -> Dataset | str:
    found = read_prepared(name, split, directory)
    if isinstance(found, str):
        return found
    folder, pixels, labels = found.folder, found.pixels, found.labels
    if name not in _PUBLISHED:
        source = f"tensorflow-datasets {folder}, in the order of its files"
        images = as_unit(pixels)
        return Dataset(
            name, split, images, labels.astype(np.int32), found.class_names, source
        )
    pixels = pixels.reshape(len(pixels), *pixels.shape[1:3])
    order = _tfds_order(split, len(labels))
    pixels, labels = pixels[order], labels[order].astype(np.uint8)
    if _digests(pixels, labels) != _PUBLISHED[name].sha256[split]:
        raise InputError(
            f"{folder} does not hold the published {split} split of {name}: its "
            "images have another digest; prepare it again, or remove it to use "
            "another source"
        )
    return _dataset(name, split, pixels, labels, f"tensorflow-datasets {folder}")


def _read_cifar(name: str, split: str, directory: Path) -> Dataset | str:
    found = cifar.read_cifar10(split, directory)
    if isinstance(found, str):
        return found
    pixels, labels, folder = found
    return Dataset(
        name, split, as_unit(pixels), labels.astype(np.int32), cifar.CLASSES,
        f"binary files {folder}",
    )  # fmt: skip


def _tfds_order(split: str, count: int) -> np.ndarray:
    """Returns, for every image of the IDX file, its position in the prepared one.

    tensorflow-datasets writes its examples sorted by md5(split + key), and the key of
    both data sets is the index in the IDX file.
    """
    keys = [hashlib.md5(f"{split}{index}".encode()).digest() for index in range(count)]
    position = np.empty(count, np.int64)
    position[sorted(range(count), key=keys.__getitem__)] = np.arange(count)
    return position


def _digests(pixels: np.ndarray, labels: np.ndarray) -> tuple[str, str]:
    """Returns the SHA-256 of the two IDX files that these bytes would make."""
    count, height, width = pixels.shape
    images = _header(_IMAGE_MAGIC, count, height, width)
    both = ((images, pixels), (_header(_LABEL_MAGIC, count), labels))
    first, second = (
        hashlib.sha256(header + np.ascontiguousarray(data).tobytes()).hexdigest()
        for header, data in both
    )
    return first, second


def _header(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers)


def _read_idx(name: str, split: str, directory: Path) -> Dataset | str:
    image_name, label_name = _idx_names(split)
    for folder in (directory / name, directory):
        if (folder / image_name).is_file() and (folder / label_name).is_file():
            pixels = _read_idx_file(folder / image_name, _IMAGE_MAGIC)
            labels = _read_idx_file(folder / label_name, _LABEL_MAGIC)
            if len(pixels) != len(labels):
                raise InputError(
                    f"{folder} has {len(pixels)} images in {image_name} but "
                    f"{len(labels)} labels in {label_name}"
                )
            if not len(labels) or labels.max() > 9:
                raise InputError(f"{folder / label_name}: labels must lie in 0..9")
            digest = _digests(pixels, labels)[0]
            for other, published in _PUBLISHED.items():
                if other != name and digest == published.sha256[split][0]:
                    raise InputError(f"{folder} holds {other}, not {name}")
            source = f"IDX files {folder}"
            if digest != _PUBLISHED[name].sha256[split][0]:
                source += " (not the published images)"
            return _dataset(name, split, pixels, labels, source)
    return f"no {image_name} and {label_name} in {directory / name} or {directory}"


def _idx_names(split: str) -> tuple[str, str]:
    prefix = _IDX_PREFIX[split]
    return f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"


def _read_idx_file(path: Path, magic: int) -> np.ndarray:
    """Returns the uint8 contents, (n, 28, 28) for images and (n,) for labels."""
    dims = 3 if magic == _IMAGE_MAGIC else 1
    try:
        with gzip.open(path) as file:
            header = file.read(4 + 4 * dims)
            if len(header) < 4 + 4 * dims:
                raise InputError(f"{path} is truncated: it ends inside its header")
            found, *shape = np.frombuffer(header, ">u4").tolist()
            if found != magic:
                raise InputError(
                    f"{path} is not an IDX file of {_kind(magic)}: magic number "
                    f"{found}, not {magic}"
                )
            if dims == 3 and tuple(shape[1:]) != _IMAGE_SHAPE[:2]:
                raise InputError(f"{path} holds images of {shape[1:]}, not [28, 28]")
            # One byte more than announced, never all that a hostile file unpacks to.
            size = math.prod(shape)
            data = file.read(min(size, 1 << 30) + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error, struct.error) as error:
        raise InputError(f"{path} is not a complete gzip file: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) != size:
        less = "fewer" if len(data) < size else "more"
        raise InputError(f"{path} announces {size} bytes of {_kind(magic)}, has {less}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _kind(magic: int) -> str:
    return "images" if magic == _IMAGE_MAGIC else "labels"


_READERS: dict[str, tuple[Callable[[str, str, Path], Dataset | str], ...]] = {
    **dict.fromkeys(_PUBLISHED, (_read_tfds, _read_idx)),
    "cifar10": (_read_cifar, _read_tfds),
}
"""Where each data set is looked for, in this order; others as TFDS prepared them."""


def _download(name: str, split: str, missing: list[str]) -> Dataset:
    """Returns the split from the cache directory, after a download where it lacks it.

    Raises:
      InputError: the download failed, or gave other contents than the published ones.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = expand_home(base) / "jaxcert" / name
    published = _PUBLISHED[name]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file_name, digest in zip(
            _idx_names(split), published.sha256[split], strict=True
        ):
            path = folder / file_name
            if not path.exists() or _payload_sha256(path.read_bytes()) != digest:
                _fetch(published.url + file_name, path, digest)
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"found no {name} {split} split and could not download it ({error}). "
            "Looked for: " + "; ".join(missing) + ". Either (1) give data_dir a "
            f"directory prepared by tensorflow-datasets ({name}/VERSION, format "
            f"array_record), or (2) put {' and '.join(_idx_names(split))} into "
            f"DIR/{name} and give data_dir=DIR, or (3) make {published.url} reachable"
        ) from error
    found = _read_idx(name, split, folder)
    if isinstance(found, str):
        raise InputError(found)
    return dataclasses.replace(found, source=f"downloaded from {published.url}")


def _fetch(url: str, path: Path, digest: str) -> None:
    with urllib.request.urlopen(url, timeout=30) as response:
        data = response.read(1 << 27)
    if _payload_sha256(data) != digest:
        raise InputError(
            f"{url} served other contents than the published ones (SHA-256 of the "
            f"unpacked file is not {digest}); nothing was kept"
        )
    write_atomically(path, data)


def _payload_sha256(data: bytes) -> str | None:
    """Returns the digest of what the gzip data unpack to; None if they do not."""
    try:
        with gzip.open(io.BytesIO(data)) as file:
            return hashlib.sha256(file.read(1 << 27)).hexdigest()
    except (OSError, EOFError, zlib.error):
        return None
