"""Inputs from files, and the choice among them."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from jaxcert.errors import InputError
from jaxcert.learning import inputs
from jaxcert.learning.inputs import load_inputs, parse_selection

PEERS = Path(__file__).resolve().parents[2] / "shared/peers/parallelepipedonn/inputs"
SHAPE = (2, 2, 1)


def fails(message: str):
    return pytest.raises(InputError, match=message)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


@pytest.mark.skipif(not PEERS.is_dir(), reason="needs the inputs of ../shared/peers")
def test_published_folders():
    mnist = load_inputs(PEERS / "mnist", (784,))
    assert mnist.x.shape == (49, 784) and mnist.x.dtype == np.float64
    assert mnist.skipped == (("9-5.csv", "the file is empty"),)
    assert mnist.names[:2] == ("0-1.csv", "0-2.csv")
    assert mnist.labels.tolist() == [int(name[0]) for name in mnist.names]
    fashion = load_inputs(PEERS / "fashion_mnist", (1, 28, 28))
    assert fashion.x.shape == (50, 1, 28, 28) and fashion.skipped == ()
    assert fashion.names[0] == "0_1.csv" and fashion.labels.dtype == np.int32


def test_csv_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("not an input")
    write(tmp_path, **{"7-4": "0 1\n.5 0.25\n", "0_1": "0,1,.5,1e-1", "3-1": " \n"})
    found = load_inputs(tmp_path, SHAPE)
    assert found.names == ("0_1.csv", "7-4.csv")
    assert found.labels.tolist() == [0, 7]
    assert found.skipped == (("3-1.csv", "the file is empty"),)
    assert found.x.shape == (2, *SHAPE)
    assert found.x[1].ravel().tolist() == [0, 1, 0.5, 0.25]


def test_csv_without_classes(tmp_path):
    write(tmp_path, a="0 0 0 0", b="1 1 1 1")
    assert load_inputs(tmp_path, SHAPE).labels is None
    assert load_inputs(tmp_path / "b.csv", SHAPE).names == ("b.csv",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "1-1.csv has 3 values, the network takes 4$"),
        ("1 2 3 4 5", "1-1.csv has 5 values, the network takes 4$"),
        ("1 2 x 4", "1-1.csv: value 3 is not a number: 'x'$"),
        ("1 nan 3 4", "1-1.csv: value 2 is not finite: nan$"),
        ("1 2 3 -inf", "1-1.csv: value 4 is not finite: -inf$"),
    ],
)
def test_malformed_csv(tmp_path, text, message):
    write(tmp_path, **{"0-1": "0 0 0 0", "1-1": text})
    with fails(message):
        load_inputs(tmp_path, SHAPE)


def test_malformed_folders(tmp_path):
    with fails("^no .csv file in the folder "):
        load_inputs(tmp_path, SHAPE)
    with fails("^no such file or folder: .*absent$"):
        load_inputs(tmp_path / "absent", SHAPE)
    write(tmp_path, a="")
    with fails("^every .csv file in .* is empty$"):
        load_inputs(tmp_path, SHAPE)
    write(tmp_path, **{"1-1": "0 0 0 0", "other": "0 0 0 0"})
    with fails(r"^some file names in .* start with a class .* do not: other.csv$"):
        load_inputs(tmp_path, SHAPE)
    (tmp_path / "other.csv").write_bytes(b"\xff\xfe\x00\x81")
    with fails("other.csv, line 1: not text in UTF-8. Name a text file of numbers$"):
        load_inputs(tmp_path, SHAPE)
    (tmp_path / "x.png").write_bytes(b"")
    with fails("x.png: inputs come as a folder of .csv, a .csv, .npy or .npz$"):
        load_inputs(tmp_path / "x.png", SHAPE)


@pytest.mark.parametrize("shape", [(3, 2, 2), (3, 2, 2, 1), (3, 1, 2, 2), (3, 4)])
def test_npy(tmp_path, shape):
    x = np.arange(12, dtype=np.float32).reshape(shape)
    np.save(tmp_path / "x.npy", x)
    found = load_inputs(tmp_path / "x.npy", SHAPE)
    np.testing.assert_array_equal(found.x, x.reshape(3, *SHAPE))
    assert found.x.dtype == np.float64
    assert found.names == ("0", "1", "2") and found.labels is None


@pytest.mark.parametrize("key", ["x", "images"])
def test_npz(tmp_path, key):
    arrays = {key: np.zeros((2, 4)), "labels": np.array([3, 1]), "names": ["a", "b"]}
    np.savez(tmp_path / "x.npz", **arrays)
    found = load_inputs(tmp_path / "x.npz", SHAPE)
    assert found.names == ("a", "b") and found.labels.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros(3)}, "x.npz needs an array x or images, has: y$"),
        ({"x": np.zeros((2, 5))}, r"x.npz has an array of shape \(2, 5\), the network"),
        ({"x": np.zeros((2, 2, 1))}, "must have n of them in its first axis$"),
        ({"x": np.zeros(4)}, r"array of shape \(4,\), the network takes inputs of"),
        ({"x": np.zeros((0, 4))}, "x.npz holds no inputs$"),
        ({"x": np.array([["a"] * 4])}, "inputs must be real numbers, not <U1$"),
        ({"x": np.full((2, 4), np.nan)}, "x.npz: input 0 has a value not finite$"),
        (
            {"x": np.zeros((2, 4)), "labels": np.zeros(3, int)},
            r"x.npz: labels must be 2 integers, got int64 of shape \(3,\)$",
        ),
        (
            {"x": np.zeros((2, 4)), "labels": np.zeros(2)},
            r"x.npz: labels must be 2 integers, got float64 of shape \(2,\)$",
        ),
        (
            {"x": np.zeros((2, 4)), "labels": np.array([0, -1])},
            "x.npz: labels must be class numbers from 0 on$",
        ),
        (
            {"x": np.zeros((2, 4)), "names": np.array([1, 2])},
            r"x.npz: names must be 2 strings, got int64 of shape \(2,\)$",
        ),
        (
            {"x": np.zeros((2, 4)), "names": np.array(["a", "a"])},
            "x.npz: names must differ from one another$",
        ),
    ],
)
def test_malformed_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with fails(message):
        load_inputs(tmp_path / "x.npz", SHAPE)


def test_layouts_are_not_scrambled(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4, 4)))
    with fails(r"array of shape \(2, 3, 4, 4\), the network takes .* \(4, 4, 3\)"):
        load_inputs(tmp_path / "x.npy", (4, 4, 3))


def test_array_files_run_no_code(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with fails("x.npy is damaged .it holds pickled objects, which are never unpacked"):
        load_inputs(tmp_path / "x.npy", SHAPE)


def test_truncated_array_files(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((5, 4)))
    np.save(tmp_path / "x.npy", np.zeros((5, 4)))
    for name in ("x.npz", "x.npy"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-30])
        with fails(f"{name} is damaged .*Copy it again"):
            load_inputs(path, SHAPE)
        path.write_bytes(b"")
        with fails(f"{name} is damaged .*Copy it again"):
            load_inputs(path, SHAPE)


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("all", list(range(10))),
        ("5", [5]),
        ("3,7", [3, 7]),
        ("0:4", [0, 1, 2, 3]),
        ("0:10:4", [0, 4, 8]),
        ("8:", [8, 9]),
        (":2", [0, 1]),
        ("9, 2:4", [9, 2, 3]),
    ],
)
def test_selections(text, indices):
    assert parse_selection(text, 10).tolist() == indices


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read the selection ''; write all, 5, 3,17, 0:100 or 0:100:10"),
        ("a:b", "cannot read the selection 'a:b'; write all, 5, 3,17, 0:100 or"),
        ("-1", "cannot read the selection '-1'"),
        ("1,", "cannot read the selection '1,'"),
        ("1:2:3:4", "cannot read the selection '1:2:3:4'"),
        ("10", "selection '10' goes past the end: there are 10 inputs, 0 to 9"),
        ("0:11", "selection '0:11' goes past the end: there are 10 inputs, 0 to 9"),
        ("4:4", "selection '4:4' is empty"),
        ("5:2", "selection '5:2' is empty"),
        ("0:4:0", "selection '0:4:0': the step must be at least 1"),
        ("3,3", "selection '3,3' names an input twice"),
    ],
)
def test_malformed_selections(text, message):
    with fails(f"^{re.escape(message)}"):
        parse_selection(text, 10)


def test_an_array_of_doubles_is_held_once(tmp_path, monkeypatch):
    x = np.zeros((2000, 500))
    np.save(tmp_path / "x.npy", x)
    tracemalloc.start()
    found = load_inputs(tmp_path / "x.npy", (500,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.x.nbytes == x.nbytes and peak < 1.5 * x.nbytes
    x[1999, 499] = np.inf
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr(inputs, "_CHECKED", 4000)
    with pytest.raises(InputError, match="x.npy: input 1999 has a value not finite$"):
        load_inputs(tmp_path / "x.npy", (500,))
