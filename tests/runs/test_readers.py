"""Damaged files of every kind: each is read as it was, or refused in one clear line."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from made_runs import CONFIG, arrays, grown_records, many, with_grown
from mutations import mutations

from jaxcert.convex.classifier import (
    ConvexClassifier,
    load_classifier,
    save_classifier,
)
from jaxcert.convex.features import Shift
from jaxcert.convex.networks import ConvexArchitecture, skeleton
from jaxcert.errors import InputError, JaxcertError
from jaxcert.interop.vnnlib import load_vnnlib
from jaxcert.learning.architecture import Architecture
from jaxcert.learning.data import load_dataset
from jaxcert.learning.inputs import load_inputs
from jaxcert.learning.models import from_params, load_checkpoint, save_checkpoint
from jaxcert.report import RunFiles, read_run
from jaxcert.report.regions import Regions
from jaxcert.runs.array_files import ArrayArchive, read_npy, read_npz
from jaxcert.runs.files import (
    FREE_BYTES,
    parse_json,
    read_bounded,
    read_json,
    unpacked_limit,
)

CHEAP, FEW, ALL = 60, 24, 2000
"""Mutations of every kind in the usual test, of slow kinds there, in the campaign."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
      write: writes a good one into a folder and returns its path.
      read: reads the one at that path, and returns what it holds.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    count: int = CHEAP


def run_folder(folder: Path, finish: bool = True, grown: bool = False) -> Path:
    records = grown_records(True) if grown else many(8)
    rows = with_grown(records, (4, 4)) if grown else arrays(records, (4, 4))
    files = RunFiles(folder, resume=False, config=CONFIG)
    files.append(records, *rows)
    if finish:
        files.finish()
    return folder


def of_run(name: str, **how: bool) -> Kind:
    def read(path: Path) -> Any:
        folder = path.parent.parent if path.parent.name == "parts" else path.parent
        run = read_run(folder)
        config = {**CONFIG, "bounds": list(CONFIG["bounds"])}
        if run.config == config:  # and what is read can be continued
            RunFiles(folder, True, CONFIG)
        return run.records, run.x, run.lo, run.hi, run.witness, run.witness_class

    return Kind(lambda folder: run_folder(folder, **how) / name, read)


def write_inputs(folder: Path, name: str) -> Path:
    x, path = np.random.default_rng(0).random((3, 2, 2)), folder / name
    if name.endswith(".npy"):
        np.save(path, x)
    elif name.endswith(".npz"):
        np.savez_compressed(path, x=x, labels=np.arange(3), names=np.array(list("abc")))
    else:
        path.write_text(",".join(map(repr, x[0].ravel().tolist())))
    return path


def of_inputs(name: str) -> Kind:
    def read(path: Path) -> Any:
        found = load_inputs(path, (2, 2))
        assert np.isfinite(found.x).all()
        return found.names, found.x, found.labels

    return Kind(lambda folder: write_inputs(folder, name), read)


def checkpoint(folder: Path) -> Path:
    architecture = Architecture("mlp", (3,), 2, hidden=(4,))
    rng = np.random.default_rng(0)
    layers = {
        i: {"kernel": rng.random(shape, np.float32), "bias": np.zeros(shape[1], "f")}
        for i, shape in enumerate([(3, 4), (4, 2)])
    }
    network = from_params({"head": {"layers": layers}}, architecture, "tiny")
    save_checkpoint(folder / "net.npz", network, {"note": 1})
    return folder / "net.npz"


def read_checkpoint(path: Path) -> Any:
    network = load_checkpoint(path)
    return jax.tree.leaves(network.params), network.name


def convex(folder: Path) -> Path:
    architecture = ConvexArchitecture("mlp", (3,), hidden=(2,))
    params = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 0.5, np.float32), skeleton(architecture)[1]
    )
    model = ConvexClassifier(architecture, params, Shift(np.zeros(3, "f")), (3,))
    save_classifier(folder / "convex.npz", model)
    return folder / "convex.npz"


def read_convex(path: Path) -> Any:
    model = load_classifier(path)[0]
    return jax.tree.leaves(model.params), model.shift, model.name


def regions(folder: Path) -> Path:
    axis = np.linspace(0, 1, 4)
    everywhere = np.zeros((3, 2)), np.ones((3, 2))
    classes = np.arange(16, dtype=np.int32).reshape(4, 4) % 3
    Regions(axis, axis, classes, *everywhere).write(folder)
    return folder / "regions.npz"


def read_regions(path: Path) -> Any:
    return tuple(dataclasses.asdict(Regions.read(path.parent)).values())


PROPERTY = """; a box and a half-space
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(assert (and (>= X_0 0.25) (<= X_0 0.5) (>= X_1 -1) (<= X_1 1e0)))
(assert (or (<= Y_0 (+ 1 2.5)) (>= Y_0 7)))
"""


def vnnlib(folder: Path, name: str) -> Path:
    data = PROPERTY.encode()
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def idx(folder: Path) -> Path:
    pixels = np.zeros((10, 28, 28), np.uint8)
    for name, numbers, data in (
        ("t10k-images-idx3-ubyte.gz", (2051, 10, 28, 28), pixels),
        ("t10k-labels-idx1-ubyte.gz", (2049, 10), np.arange(10, dtype=np.uint8)),
    ):
        header = b"".join(n.to_bytes(4, "big") for n in numbers)
        (folder / name).write_bytes(gzip.compress(header + data.tobytes()))
    return folder / "t10k-labels-idx1-ubyte.gz"


def read_idx(path: Path) -> Any:
    found = load_dataset("mnist", "test", path.parent)
    return found.images, found.labels


KINDS = {
    "boxes.npz": of_run("boxes.npz"),
    "grown boxes.npz": of_run("boxes.npz", grown=True),
    "parts": of_run("parts/boxes-00000.npz", finish=False),
    "certificates.jsonl": of_run("certificates.jsonl"),
    "grown certificates.jsonl": of_run("certificates.jsonl", grown=True),
    "run.json": of_run("run.json"),
    "summary.json": of_run("summary.json"),
    "inputs.npy": of_inputs("x.npy"),
    "inputs.npz": of_inputs("x.npz"),
    "inputs.csv": of_inputs("1-1.csv"),
    "checkpoint": Kind(checkpoint, read_checkpoint, FEW),
    "convex network": Kind(convex, read_convex, FEW),
    "regions.npz": Kind(regions, read_regions),
    "vnnlib": Kind(lambda f: vnnlib(f, "p.vnnlib"), load_vnnlib),
    "vnnlib.gz": Kind(lambda f: vnnlib(f, "p.vnnlib.gz"), load_vnnlib),
    "idx.gz": Kind(idx, read_idx),
}


def check(kind: Kind, folder: Path, count: int) -> None:
    path = kind.write(folder)
    whole = path.read_bytes()
    others = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p != path}
    good = jax.tree.leaves(kind.read(path))
    refused = 0
    for index, (data, guarded) in enumerate(mutations(whole, count)):
        for other, content in others.items():
            other.parent.mkdir(exist_ok=True)
            other.write_bytes(content)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        try:
            found = jax.tree.leaves(kind.read(path))
        except JaxcertError as error:
            refused += 1
            text = str(error)
            assert "\n" not in text and len(text) < 1500, f"mutation {index}: {text}"
            continue
        except BaseException as error:
            raise AssertionError(f"mutation {index} of {path.name}") from error
        if guarded:  # by checksums, so that what was read is what was written
            same = map(np.array_equal, map(np.asarray, found), map(np.asarray, good))
            assert len(found) == len(good) and all(same) or nan_equal(found, good)
    assert refused > count // 4


def nan_equal(found: list, good: list) -> bool:
    pairs = zip(found, good, strict=True)
    return all(
        np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")
        for a, b in pairs
    )


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_in_one_line(name, tmp_path):
    check(KINDS[name], tmp_path, KINDS[name].count)


@pytest.mark.campaign
@pytest.mark.parametrize("name", KINDS)
def test_thousands_of_damaged_files_are_refused_in_one_line(name, tmp_path):
    check(KINDS[name], tmp_path, ALL)


# --- what damaged and hostile files hold ---------------------------------------------


def npy(descr: Any, shape: Any, data: bytes = b"", order: str = "False") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    text += " " * (63 - (10 + len(text)) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


def archive(
    path: Path, compression: int = zipfile.ZIP_STORED, **members: bytes
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    return path


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (npy("'<f8'", (10**9, 10**9)), "takes 8000000000000000000 bytes, 0 are there"),
        (npy("'<f8'", (-1,)), r"the shape is \(-1,\)"),
        (npy("'<U0'", (10**12,)), "elements of type <U0 are no numbers"),
        (npy("'|O'", (1,), b"cos\nsystem\n"), "pickled objects, which are never"),
        (npy("[('a', '<f8')]", (1,), bytes(8)), "elements of type .V8 are no numbers"),
        (npy("'<f8'", (2,), bytes(15)), r"takes 16 bytes, 15 are there"),
        (npy("'<f8'", (0, 10**30)), "."),
        (npy("'|b1'", (2,), b"\x01\x07"), "a truth value is neither 0 nor 1"),
        (npy("'<U1'", (1,), b"\xff\xff\xff\x7f"), "a number that is no character"),
        (npy("'<f8'", "((((((((((1,),),),),),),),),),)"), "."),
        (npy("'<f8'", "(" * 2000), "."),
        (npy("1 +", (1,)), "."),
        (npy("'<f8'", (2**63, 2)), "."),
        (b"\x93NUMPY\x03\x00" + bytes(20), "format version"),
        (b"\x93NUMPY\x01\x00\xff\xff", "."),
        (b"PK\x03\x04", "."),
        (b"", "."),
    ],
)
def test_headers_that_lie(tmp_path, data, reason):
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(InputError, match=rf"x.npy is damaged \(.*{reason}"):
        read_npy(tmp_path / "x.npy", "Copy it again")
    path = archive(tmp_path / "x.npz", x=data)
    with pytest.raises(InputError, match=rf"x.npz is damaged \(array x: .*{reason}"):
        read_npz(path, "Copy it again")


def test_arrays_come_back_as_they_were(tmp_path):
    given = {
        "a": np.arange(6.0).reshape(2, 3), "b": np.asfortranarray(np.eye(3)),
        "c": np.array(["", "h\u00e9", "\udcff.csv"]), "d": np.array(3, ">i4"),
        "e": np.zeros((0, 4), np.float32), "f": np.array([True, False]),
        "g": np.arange(3, dtype=np.float16), "h": np.array([], "U1"),
    }  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **given)
        found = read_npz(tmp_path / "x.npz", "")
        for key, array in given.items():
            np.testing.assert_array_equal(found[key], array)
            assert found[key].shape == array.shape and found[key].dtype.isnative
            np.save(tmp_path / "x.npy", array)
            np.testing.assert_array_equal(read_npy(tmp_path / "x.npy", ""), array)
    with ArrayArchive(tmp_path / "x.npz", "Ask for another") as stored:
        with pytest.raises(InputError, match="no array z; it holds a, b, .* another"):
            stored.read("z")
    only = read_npz(tmp_path / "x.npz", "", names=("a",), optional=("f", "z"))
    assert set(only) == {"a", "f"}


def test_archives_that_are_none_of_ours(tmp_path):
    path = tmp_path / "x.npz"
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        archive(path, compression, x=npy("'<f8'", (1,), bytes(8)))
        with pytest.raises(InputError, match="is packed in an unknown way"):
            read_npz(path, "")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.txt", "text")
    with pytest.raises(InputError, match="member 'x.txt' is no array"):
        read_npz(path, "")
    with pytest.raises(InputError, match="is not a file: check the path"):
        read_npz(tmp_path, "")
    with pytest.raises(InputError, match="there is no file .*y.npz: check the path"):
        read_npz(tmp_path / "y.npz", "")


def test_limits_follow_the_size_of_the_file():
    assert unpacked_limit(10) == FREE_BYTES
    assert unpacked_limit(3_000_000) == 1_200_000_000
    assert unpacked_limit(2**31) == 2**32
    assert unpacked_limit(2**34) == 2**34  # stored as it is: no bomb
    assert unpacked_limit(10, most=7) == 7


BOMB = """
import resource, sys
from jaxcert.errors import InputError
from jaxcert.learning.inputs import load_inputs
from jaxcert.interop.vnnlib import load_vnnlib
from jaxcert.report import read_run
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
x, p = sys.argv[1:]
for read in (lambda: load_inputs(x, (2, 2)), lambda: load_vnnlib(p)):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read()
    except InputError as error:
        print(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000, f"{grown} kB"
"""


def test_bombs_are_refused_before_they_unpack(tmp_path):
    # Some 400 kB that unpack to 400 MB: as bad as 3 MB that unpack to 3 GB.
    path, size = tmp_path / "x.npz", 2**25 * 12
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as file:
        with file.open("x.npy", "w", force_zip64=True) as member:
            member.write(npy("'<f8'", (size // 32, 2, 2)))
            zeros = bytes(2**24)
            for _ in range(size // len(zeros)):
                member.write(zeros)
    packed = tmp_path / "p.vnnlib.gz"
    with gzip.open(packed, "wb", 9) as file:
        for _ in range(40):
            file.write(b"(assert (<= Y_0 1))\n" * 50_000)
    assert packed.stat().st_size < 200_000
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(path), str(packed)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert f"x.npz would unpack to {size + 128} bytes, more than " in first
    assert "p.vnnlib.gz is larger than" in second
    # Who knows better says so.
    found = io.BytesIO()
    np.savez_compressed(found, x=np.zeros((9, 2, 2)))
    path.write_bytes(found.getvalue())
    with pytest.raises(InputError, match="would unpack to .* bytes, more than 100,"):
        load_inputs(path, (2, 2), most_bytes=100)
    assert load_inputs(path, (2, 2), most_bytes=1000).x.shape == (9, 2, 2)


def test_json_that_is_none(tmp_path):
    path = tmp_path / "run.json"
    for text in ("[" * 10**5, '{"a": NaN}', '{"a": 1, "a": 2}', "1" * 5000, "\ud800"):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(InputError, match="run.json is not JSON .* Do this"):
            read_json(path, "Do this")
        with pytest.raises(ValueError):
            parse_json(path.read_bytes())
    assert parse_json(json.dumps({"a": [1.5, None, "x"]})) == {"a": [1.5, None, "x"]}


def test_a_gzip_stream_that_breaks_off(tmp_path):
    path = tmp_path / "p.vnnlib.gz"
    whole = gzip.compress(PROPERTY.encode())
    for data in (whole[:-9], whole[:5], whole[:10] + b"\xff" * 40, whole + b"\x1f"):
        path.write_bytes(data)
        with pytest.raises(InputError, match="damaged or truncated gzip file"):
            read_bounded(path, 10**6, gzipped=True, kind="a file", remedy="check it")
