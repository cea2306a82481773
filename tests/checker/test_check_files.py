"""Damaged and hostile files, and networks, are rejected without harm."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builder import Case, Stored

from jaxcert.checker import reading
from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Status


def same_content(one: Path, two: bytes) -> bool:
    """Returns whether the arrays of two files are equal."""
    try:
        with np.load(one) as a, np.load(io.BytesIO(two)) as b:
            return set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a)
    except Exception:  # whatever damage does to numpy's reader
        return False


def damaged(raw: bytes, random) -> Iterator[bytes]:
    for _ in range(60):
        i = random.integers(len(raw))
        yield raw[:i] + bytes([raw[i] ^ (1 << random.integers(8))]) + raw[i + 1 :]


@pytest.mark.parametrize("which", ["certificate", "network"])
def test_flipped_bits_are_rejected_or_change_nothing(cases, tmp_path, which):
    case = cases["deep"]
    path = case.write(tmp_path)
    broken = path
    if which == "network":
        broken = tmp_path / case.certificate.head["network"]["file"]
    raw = broken.read_bytes()
    rejected = 0
    for changed in damaged(raw, np.random.default_rng(0)):
        broken.write_bytes(changed)
        report = check_certificate(path)
        if report.accepted:  # a date of the archive, say: what it holds is the same
            assert same_content(broken, raw)
        else:
            assert report.reason
            rejected += 1
    assert rejected >= 40


@pytest.mark.parametrize("which", ["certificate", "network"])
def test_truncated_files_are_rejected(cases, tmp_path, which):
    case = cases["few"]
    path = case.write(tmp_path)
    cut = path
    if which == "network":
        cut = tmp_path / case.certificate.head["network"]["file"]
    raw = cut.read_bytes()
    for share in np.linspace(0, 0.999, 20):
        cut.write_bytes(raw[: int(share * len(raw))])
        report = check_certificate(path)
        assert report.status is Status.REJECTED
        assert "damaged file: BadZipFile" in report.reason


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path: Path, content: dict[str, bytes], **options) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def npy(header: dict, data: bytes = b"") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


@pytest.mark.parametrize("name", ["x.npy", "leaf_signs.npy", "header.npy"])
def test_sizes_are_not_believed(cases, tmp_path, name):
    path = cases["few"].write(tmp_path)
    content = members(path)
    huge = {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**15)}
    report = check_certificate(rewrite(path, content | {name: npy(huge)}))
    assert report.status is Status.REJECTED and "has another size" in report.reason


def test_a_bomb_is_refused_before_it_is_unpacked(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BYTES", 2**20)
    path = cases["few"].write(tmp_path)
    shape = {"descr": "|u1", "fortran_order": False, "shape": (2**21,)}
    content = members(path) | {"x.npy": npy(shape, bytes(2**21))}
    rewrite(path, content, compression=zipfile.ZIP_DEFLATED)
    report = check_certificate(path)
    assert (
        report.status is Status.REJECTED
        and "bytes of arrays, more than" in report.reason
    )
    rewrite(path, content)
    report = check_certificate(path)
    assert report.status is Status.REJECTED and "has more than" in report.reason


def test_pickles_are_refused(cases, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = cases["few"].write(tmp_path)
    file = io.BytesIO()
    np.save(file, np.array([Trap()], object), allow_pickle=True)
    for name in ("x.npy", "leaf_target.npy", "header.npy"):
        report = check_certificate(
            rewrite(path, members(path) | {name: file.getvalue()})
        )
        assert (
            report.status is Status.REJECTED
            and "holds pickled objects" in report.reason
        )
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "name, reason",
    [
        ("../x.npy", "array named '../x'"),
        ("sub/x.npy", "array named 'sub/x'"),
        ("x|<f8.npy", "array named"),
        ("x", "two arrays named 'x'"),
    ],
)
def test_strange_members_are_refused(cases, tmp_path, name, reason):
    path = cases["few"].write(tmp_path)
    content = members(path)
    report = check_certificate(rewrite(path, content | {name: content["x.npy"]}))
    assert report.status is Status.REJECTED and reason in report.reason


def test_strange_packing_is_refused(cases, tmp_path):
    path = cases["few"].write(tmp_path)
    rewrite(path, members(path), compression=zipfile.ZIP_LZMA)
    assert "is packed in an unknown way" in check_certificate(path).reason


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"{}", b"\xff}", b"[" * 100000 + b"}", b'{"a":1} ']
)
def test_strange_headers_are_rejected(cases, tmp_path, text):
    path = cases["few"].write(tmp_path)
    shape = {"descr": "|u1", "fortran_order": False, "shape": (len(text),)}
    report = check_certificate(
        rewrite(path, members(path) | {"header.npy": npy(shape, text)})
    )
    assert report.status is Status.REJECTED and report.reason


def hostile_networks(network: Stored) -> Iterator[tuple[str, Stored]]:
    def node(index: int, **values) -> Stored:
        changed = network.copy()
        changed.head["nodes"][index] |= values
        return changed

    def term(**values) -> Stored:
        changed = network.copy()
        changed.head["nodes"][0]["terms"][0] |= values
        return changed

    yield "size", node(1, size=10**15)
    yield "input", node(1, input=7)
    yield "input", node(1, input=-1)
    yield "input", node(1, input=2)
    yield "another size", node(1, input=0)
    yield "no array", node(0, offset="nothing")
    yield "op", node(1, op="tanh")
    yield "no array", term(weight="nothing")
    yield "shape", term(weight="w1")
    yield "kind", term(kind="pickle")
    yield "no array", node(0, terms=[], offset=None)
    yield "input_shape", Stored(network.head | {"input_shape": [2**40]}, network.arrays)
    yield "shape", Stored(network.head | {"input_shape": [4]}, network.arrays)
    relu = {"op": "relu", "size": 2**24, "input": 0}
    yield "weights", Stored(
        network.head
        | {"input_shape": [2**24], "nodes": [relu] * 2},
        network.arrays,
    )  # fmt: skip


def test_hostile_networks_are_rejected(cases, tmp_path):
    case = cases["few"]
    for reason, network in hostile_networks(case.network):
        stored = case.certificate.copy()
        file = f"network-{network.sha256[:16]}.npz"
        stored.head["network"] = {"sha256": network.sha256, "file": file}
        report = check_certificate(Case(case.layers, network, stored).write(tmp_path))
        assert report.status is Status.REJECTED and reason in report.reason, (
            report.reason
        )


@pytest.mark.parametrize(
    "key, value, reason",
    [
        ("index", np.array([0, 1, 2, 3, 5], np.int32), "index out of range"),
        ("index", np.array([0, 1, 2, 3, -2], np.int32), "index out of range"),
        ("column", 99, "column out of range"),
        ("column", -1, "column out of range"),
        ("column", 0, "an entry occurs twice"),
        ("start", 3, "no row start"),
    ],
)
def test_strange_sparse_weights_are_rejected(cases, tmp_path, key, value, reason):
    case = cases["terms"]
    network = case.network.copy()
    name = "w0.index" if key == "index" else f"w1.{key}"
    array = network.arrays[name].copy()
    array[slice(None) if key == "index" else slice(0, 2)] = value
    network.arrays[name] = array
    stored = case.certificate.copy()
    file = f"network-{network.sha256[:16]}.npz"
    stored.head["network"] = {"sha256": network.sha256, "file": file}
    report = check_certificate(Case(case.layers, network, stored).write(tmp_path))
    assert report.status is Status.REJECTED and reason in report.reason


def test_what_is_no_file_is_rejected(cases, tmp_path):
    assert "FileNotFound" in check_certificate(tmp_path / "none.npz").reason
    assert "is no file" in check_certificate(tmp_path).reason
    os.mkfifo(tmp_path / "pipe.npz")
    assert "is no file" in check_certificate(tmp_path / "pipe.npz").reason
    path = cases["few"].write(tmp_path)
    (tmp_path / cases["few"].certificate.head["network"]["file"]).unlink()
    report = check_certificate(path)
    assert report.status is Status.REJECTED and "network-" in report.reason
