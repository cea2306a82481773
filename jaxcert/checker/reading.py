"""Reading the files of certificates: nothing that they say of themselves is believed.

A file is .npz without pickles: a JSON `header` as uint8, and arrays. Sizes, types and
names are checked before anything is unpacked; whatever is wrong raises `Rejected`.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import io
import json
import math
import os
import re
import stat
import zipfile
from typing import Any

import numpy as np

NAME = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}"  # of files and arrays
BYTES, _HEADER = 2**30, 2**24  # at most: of a file, packed or not; of its header


class Rejected(Exception):
    """Says why a file is not accepted."""


def need(condition, reason: str) -> None:
    """Rejects, unless the condition holds; of an array, everywhere."""
    if not (condition if isinstance(condition, bool) else np.all(condition)):
        place = np.argwhere(~np.asarray(condition, bool)).tolist()[0]
        raise Rejected(reason + (f" at {place}" if place else ""))


def whole(value: Any, low: float, high: float, what: str, types=(int,)):
    """Returns the value, an integer (or another type) with low <= value < high."""
    good = type(value) in types and low <= value < high
    need(good, f"{what} is {str(value)[:40]!r}")
    return value


def read(path) -> bytes:
    """Returns the bytes of a regular file of bounded size."""
    status, name = os.stat(path), os.path.basename(path)
    need(stat.S_ISREG(status.st_mode), f"{name} is no file")
    need(status.st_size <= BYTES, f"{name} has more than {BYTES} bytes")
    with open(path, "rb") as file:
        return file.read(BYTES)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object; two members of one name would leave its meaning open."""
    need(len(dict(pairs)) == len(pairs), "a name stands twice in the header")
    return dict(pairs)


def unpacked(raw: bytes, form: str, newest: int = 1):
    """Returns header bytes, header and finite arrays; sizes are checked before use."""
    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        total = sum(member.file_size for member in archive.infolist())
        need(total <= BYTES, f"{total} bytes of arrays, more than {BYTES}")
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            need(bool(re.fullmatch(NAME, name)), f"array named {name!r}")
            need(name not in arrays, f"two arrays named {name!r}")
            known = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            need(known, f"array {name!r} is packed in an unknown way")
            with archive.open(member) as file:
                np.lib.format.read_magic(file)
                shape, columns, dtype = np.lib.format.read_array_header_1_0(file)
                need(not dtype.hasobject, f"array {name!r} holds pickled objects")
                known = dtype.str in ("<f8", "<f4", "<i4", "|i1", "|u1")
                need(known, f"array {name!r} has type {dtype.str}")
                size = math.prod(shape) * dtype.itemsize + file.tell()
                need(size == member.file_size, f"array {name!r} has another size")
                flat = np.frombuffer(file.read(), dtype)
            need(np.isfinite(flat), f"array {name!r} has a NaN or an infinity")
            arrays[name] = flat.reshape(shape, order="F" if columns else "C")
    text = arrays.pop("header", np.zeros(0, np.uint8)).tobytes()
    need(len(text) <= _HEADER and text.endswith(b"}"), "there is no header")
    head = json.loads(text, object_pairs_hook=_unique)
    found, form = head.get("format"), f"jaxcert {form}"
    need(found == form, f"format {str(found)[:40]!r}, not {form!r}")
    whole(head.get("version"), 1, newest + 1, "version of the format")
    return text, head, arrays


def take(arrays, name, types: str, shape: tuple[int, ...]):
    """Returns the array of that name, of one of the types and of that shape."""
    need(isinstance(name, str) and name in arrays, f"there is no array {name!r}")
    kind, have = arrays[name].dtype.str[1:], arrays[name].shape
    need(kind in types.split(), f"array {name!r} has type {kind}, not {types}")
    need(bool(have == shape), f"array {name!r} has shape {have}, not {shape}")
    return arrays[name]
