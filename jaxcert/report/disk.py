"""Reading and writing files of a run: whole or not at all, with clear errors."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.errors import InputError
from jaxcert.runs.files import MOST_BYTES, parse_json, read_bounded


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an operating-system error into an InputError that names `path`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = (
            "Free some space and continue the run with --resume"
            if full
            else "Choose another --output"
        )
        raise InputError(f"cannot write {path}: {error.strerror}. {advice}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Replaces a file by `content`, whole or not at all."""
    with _replacing(path) as handle:
        handle.write(content)


def write_npz(path: Path, arrays: dict[str, np.ndarray], compressed: bool) -> None:
    """Replaces an npz file, whole or not at all, without pickled objects."""
    save = np.savez_compressed if compressed else np.savez
    with _replacing(path) as handle:
        save(handle, allow_pickle=False, **arrays)


def append_all(handle: io.RawIOBase, content: bytes) -> None:
    """Appends to an unbuffered file; a full disk raises OSError.

    Such a disk may take a part of the bytes, and says so only by their count.
    """
    while content:
        content = content[handle.write(content) :]


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    beside = path.with_name(path.name + ".tmp")
    with writing(path):
        with open(beside, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(beside, path)


def read(path: Path) -> bytes:
    """Returns the bytes of a file; raises InputError where it cannot be read."""
    return read_bounded(
        path, MOST_BYTES, gzipped=False, kind="a file of a run", remedy="check the file"
    )


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Returns the object in a JSON file; `advice` is what to do if there is none."""
    try:
        value = parse_json(read(path))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}). {advice}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object. {advice}")
    return value
