"""Data sets: every source gives the same arrays, every damage its own message."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import urllib.error
from pathlib import Path

import numpy as np
import pytest

from jaxcert.errors import InputError
from jaxcert.learning import data
from jaxcert.learning.data import DATASETS, load_dataset

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs the real data sets of ../shared/data"
)


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """Nothing on this machine is found by the automatic search."""
    monkeypatch.delenv("JAXCERT_DATA_DIR", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no_tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def fails(message: str):
    return pytest.raises(InputError, match=message)


def idx_bytes(array: np.ndarray, magic: int | None = None) -> bytes:
    magic = magic or (2051 if array.ndim == 3 else 2049)
    numbers = (magic, *array.shape)
    header = b"".join(int(n).to_bytes(4, "big") for n in numbers)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
        path = folder / f"t10k-{name}-ubyte.gz"
        path.write_bytes(gzip.compress(idx_bytes(array)))


@pytest.fixture
def small(tmp_path):
    pixels = np.arange(3 * 784, dtype=np.uint8).reshape(3, 28, 28)
    labels = np.array([7, 0, 9], np.uint8)
    write_idx(tmp_path / "d" / "mnist", pixels, labels)
    return tmp_path / "d", pixels, labels


def test_digits():
    train, test = load_dataset("digits", "train"), load_dataset("digits")
    assert train.images.shape == (1437, 8, 8, 1)
    assert test.images.shape == (360, 8, 8, 1)
    assert test.images.dtype == np.float32 and test.labels.dtype == np.int32
    assert test.images.min() == 0 and test.images.max() == 1
    assert test.class_names == tuple("0123456789")
    assert test.labels[:5].tolist() == [2, 3, 4, 5, 6]


@needs_shared
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_and_tfds_give_equal_arrays_in_canonical_order(name):
    idx = load_dataset(name, "test", SHARED)
    tfds = load_dataset(name, "test", SHARED / "tfds")
    np.testing.assert_array_equal(idx.images, tfds.images)
    np.testing.assert_array_equal(idx.labels, tfds.labels)
    assert idx.images.shape == (10000, 28, 28, 1) and idx.images.dtype == np.float32
    assert idx.labels.dtype == tfds.labels.dtype == np.int32
    first = {"mnist": [7, 2, 1, 0, 4], "fashion_mnist": [9, 2, 1, 1, 6]}[name]
    assert idx.labels[:5].tolist() == first
    assert idx.source.startswith("IDX files") and "not the published" not in idx.source
    assert tfds.source.startswith("tensorflow-datasets")


@needs_shared
def test_the_environment_variable_is_searched_first(monkeypatch):
    monkeypatch.setenv("JAXCERT_DATA_DIR", str(SHARED))
    assert load_dataset("mnist").source == f"IDX files {SHARED / 'mnist'}"


@needs_shared
def test_the_tfds_default_directory_is_searched(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(SHARED / "tfds"))
    assert load_dataset("mnist").source.startswith("tensorflow-datasets")


@needs_shared
def test_one_data_set_is_not_taken_for_another():
    folder = re.escape(str(SHARED / "fashion_mnist"))
    with fails(f"^{folder} holds fashion_mnist, not mnist$"):
        load_dataset("mnist", "test", SHARED / "fashion_mnist")


def test_small_idx_files_are_read_and_said_to_be_others(small):
    folder, pixels, labels = small
    for place in (folder, folder / "mnist"):
        found = load_dataset("mnist", "test", place)
        np.testing.assert_array_equal(
            found.images[..., 0], pixels.astype(np.float32) / np.float32(255)
        )
        assert found.labels.tolist() == labels.tolist()
        assert found.source.endswith("(not the published images)")


def test_unknown_names():
    with fails("^unknown data set 'cifar'; known: digits, mnist, fashion_mnist, "):
        load_dataset("cifar")
    for name in DATASETS:
        with fails(f"^unknown split 'valid' of {name}; known: train, test$"):
            load_dataset(name, "valid")


def test_an_explicit_directory_never_falls_through_to_a_download(tmp_path, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("must not download")

    monkeypatch.setattr(data.urllib.request, "urlopen", never)
    with fails(r"^no data directory .*/absent \(data_dir\)$"):
        load_dataset("mnist", "test", tmp_path / "absent")
    with fails(
        r"^no mnist test split: no .*/mnist/VERSION/dataset_info.json \(data_dir\); "
        r"no t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz in .* or .* "
        r"\(data_dir\)$"
    ):
        load_dataset("mnist", "test", tmp_path)


def damaged(small, name: str, contents: bytes, compress: bool = True) -> None:
    folder, _, _ = small
    path = folder / "mnist" / f"t10k-{name}-ubyte.gz"
    path.write_bytes(gzip.compress(contents) if compress else contents)
    load_dataset("mnist", "test", folder)


def test_damaged_idx_files(small):
    _, pixels, labels = small
    whole = idx_bytes(pixels)
    with fails("images-idx3-ubyte.gz is truncated: it ends inside its header$"):
        damaged(small, "images-idx3", whole[:10])
    with fails("is not an IDX file of images: magic number 2049, not 2051$"):
        damaged(small, "images-idx3", idx_bytes(pixels, magic=2049))
    with fails(r"images-idx3-ubyte.gz announces 2352 bytes of images, has fewer$"):
        damaged(small, "images-idx3", whole[:-1])
    with fails(r"announces 2352 bytes of images, has more$"):
        damaged(small, "images-idx3", whole + b"\0")
    with fails(r"holds images of \[27, 28\], not \[28, 28\]$"):
        damaged(small, "images-idx3", idx_bytes(pixels[:, :27]))
    with fails("is not a complete gzip file: Not a gzipped file"):
        damaged(small, "images-idx3", whole, compress=False)
    with fails("is not a complete gzip file: Compressed file ended before"):
        damaged(small, "images-idx3", gzip.compress(whole)[:-20], compress=False)
    with fails(
        "has 2 images in t10k-images-idx3-ubyte.gz but 3 labels in "
        "t10k-labels-idx1-ubyte.gz$"
    ):
        damaged(small, "images-idx3", idx_bytes(pixels[:2]))
    damaged(small, "images-idx3", whole)
    with fails(r"t10k-labels-idx1-ubyte.gz: labels must lie in 0..9$"):
        damaged(small, "labels-idx1", idx_bytes(np.array([1, 2, 10])))
    with fails("is not an IDX file of labels: magic number 2051, not 2049$"):
        damaged(small, "labels-idx1", idx_bytes(labels, magic=2051))


def test_a_hostile_size_is_not_unpacked(small):
    _, pixels, _ = small
    header = b"".join(n.to_bytes(4, "big") for n in (2051, 2**32 - 1, 28, 28))
    with fails("announces 3367254359280 bytes of images, has fewer"):
        damaged(small, "images-idx3", header + pixels.tobytes())


def prepared(tmp_path, info: str) -> Path:
    folder = tmp_path / "t" / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(info)
    return tmp_path / "t"


def test_tfds_directory_of_another_format(tmp_path):
    folder = prepared(tmp_path, json.dumps({"fileFormat": "tfrecord"}))
    with fails(
        "mnist/3.0.1 is prepared as tfrecord, which only TensorFlow reads; prepare it "
        "with file_format='array_record'"
    ):
        load_dataset("mnist", "test", folder)


def test_damaged_tfds_directories(tmp_path):
    with fails("^cannot read .*dataset_info.json: Expecting"):
        load_dataset("mnist", "test", prepared(tmp_path, "{"))


@needs_shared
def test_tfds_directory_without_its_records(tmp_path):
    whole = SHARED / "tfds" / "mnist" / "3.0.1"
    folder = prepared(tmp_path, (whole / "dataset_info.json").read_text())
    features = folder / "mnist" / "3.0.1" / "features.json"
    features.write_text((whole / "features.json").read_text())
    with fails("^cannot read the test split of .*mnist/3.0.1: .*prepare it again"):
        load_dataset("mnist", "test", folder)


@needs_shared
def test_tfds_directory_with_damaged_records(tmp_path):
    whole = SHARED / "tfds" / "mnist" / "3.0.1"
    folder = prepared(tmp_path, (whole / "dataset_info.json").read_text())
    for name in ("features.json", "mnist-test.array_record-00000-of-00001"):
        contents = (whole / name).read_bytes()
        (folder / "mnist" / "3.0.1" / name).write_bytes(contents[: 1 << 20])
    with fails("^cannot read the test split of .*mnist/3.0.1: .*prepare it again"):
        load_dataset("mnist", "test", folder)


@needs_shared
def test_tfds_directory_of_another_data_set(tmp_path):
    whole = SHARED / "tfds" / "fashion_mnist" / "3.0.1"
    folder = prepared(tmp_path, (whole / "dataset_info.json").read_text())
    for source in whole.iterdir():
        if "train" not in source.name:
            target = folder / "mnist" / "3.0.1" / source.name
            target.write_bytes(source.read_bytes())
    with fails("does not hold the published test split of mnist: its images have an"):
        load_dataset("mnist", "test", folder)


class Server:
    """Stands in for urlopen; `files` by the last part of the address."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.asked = files, []

    def __call__(self, url, timeout):
        self.asked.append(url)
        if url.rsplit("/", 1)[1] not in self.files:
            raise urllib.error.URLError("no route to host")
        return io.BytesIO(self.files[url.rsplit("/", 1)[1]])


@pytest.fixture
def published(small, monkeypatch):
    """The small data set, as if it were the published one."""
    _, pixels, labels = small
    raw = (idx_bytes(pixels), idx_bytes(labels))
    names = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
    digests = tuple(hashlib.sha256(data).hexdigest() for data in raw)
    entry = data._Published("https://example.org/m/", {"test": digests}, ("a",) * 10)
    monkeypatch.setitem(data._PUBLISHED, "mnist", entry)
    monkeypatch.delitem(data._PUBLISHED, "fashion_mnist")
    server = Server(dict(zip(names, map(gzip.compress, raw), strict=True)))
    monkeypatch.setattr(data.urllib.request, "urlopen", server)
    return server


def test_download_is_verified_and_cached(published, small, tmp_path):
    found = load_dataset("mnist")
    assert found.source == "downloaded from https://example.org/m/"
    np.testing.assert_array_equal(found.labels, small[2])
    assert len(published.asked) == 2
    load_dataset("mnist")
    assert len(published.asked) == 2
    cache = tmp_path / "cache" / "jaxcert" / "mnist"
    assert sorted(path.name for path in cache.iterdir()) == sorted(published.files)
    # A damaged file in the cache is fetched again, and only that one.
    (cache / "t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    load_dataset("mnist")
    assert len(published.asked) == 3


def test_download_of_other_contents_is_refused(published, tmp_path):
    published.files["t10k-images-idx3-ubyte.gz"] = gzip.compress(b"other")
    with fails(
        "^https://example.org/m/t10k-images-idx3-ubyte.gz served other contents than "
        "the published ones .* nothing was kept$"
    ):
        load_dataset("mnist")
    assert not list((tmp_path / "cache" / "jaxcert" / "mnist").iterdir())
    published.files["t10k-images-idx3-ubyte.gz"] = b"<html>not gzip</html>"
    with fails("served other contents"):
        load_dataset("mnist")


def test_failed_download_names_all_three_ways(published):
    published.files.clear()
    with fails(
        r"^found no mnist test split and could not download it \(.*no route to host.*\)"
        r"\. Looked for: .*TFDS default.* \(1\) give data_dir a directory prepared by "
        r"tensorflow-datasets .* \(2\) put t10k-images-idx3-ubyte.gz and "
        r"t10k-labels-idx1-ubyte.gz into DIR/mnist .* \(3\) make "
        r"https://example.org/m/ reachable$"
    ):
        load_dataset("mnist")
