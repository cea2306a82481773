"""Arrays in .npz and .npy files: every size is checked before anything is unpacked.

A zip directory states what its members unpack to, and an array's header how many bytes
follow it. Both are compared with the limits and with one another first, so that a file
of some kilobytes cannot ask for gigabytes; members are then read as streams that end
where the directory says. Pickled objects are never unpacked. Whatever `zipfile`, `zlib`
and NumPy's header reader raise on damaged bytes ends as one `InputError`.
"""

from __future__ import annotations

import math
import os
import stat
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxcert.errors import InputError
from jaxcert.runs.files import Closing, replacing, unpacked_limit, writing

_MOST_MEMBERS = 1 << 17
_KINDS = "biufU"
# What the readers below are known to raise on damaged bytes. RecursionError and
# NotImplementedError are RuntimeErrors, UnicodeDecodeError is a ValueError.
_DAMAGE = (
    ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, EOFError,
    RuntimeError, SyntaxError, tokenize.TokenError, struct.error, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip


class ArrayArchive(Closing):
    """An open .npz file; use it as a context manager.

    Attributes:
      path: of the file.
      sizes: bytes that each array unpacks to, its header included.
    """

    def __init__(
        self, path: str | os.PathLike[str], remedy: str, most: int | None = None
    ) -> None:
        """Opens the file and reads its directory, no array.

        Args:
          path: the file.
          remedy: what to do about a file that is damaged, for messages.
          most: most bytes that it may unpack to; None for `unpacked_limit`.

        Raises:
          InputError: missing, no file, damaged, or it would unpack to too much.
        """
        self.path, self._remedy = os.fspath(path), remedy
        file = _opened(self.path)
        try:
            self._archive = zipfile.ZipFile(file)
            members = self._archive.infolist()
            self._check(members)
            limit = unpacked_limit(os.fstat(file.fileno()).st_size, most)
        except (*_DAMAGE, OSError) as error:
            file.close()
            raise self.damaged(error) from error
        self._file = file
        self.sizes = {m.filename.removesuffix(".npy"): m.file_size for m in members}
        total = sum(m.file_size for m in members)
        if total > limit:
            file.close()
            raise InputError(
                f"{self.path} would unpack to {total} bytes, more than {limit}, the "
                "most that is read of a file of its size: store it without "
                "compression, or in parts"
            )

    def close(self) -> None:
        """Closes the file."""
        self._archive.close()
        self._file.close()

    def read(self, name: str) -> np.ndarray:
        """Returns one array.

        Raises:
          InputError: there is none of that name, or it is damaged.
        """
        if name not in self.sizes:
            has = ", ".join(list(self.sizes)[:8]) or "nothing"
            raise self.damaged(f"no array {name}; it holds {has}")
        try:
            with self._archive.open(f"{name}.npy") as member:
                return _read_array(member, self.sizes[name])
        except (*_DAMAGE, OSError) as error:
            raise self.damaged(error, f"array {name}: ") from error

    def damaged(self, reason: BaseException | str, where: str = "") -> InputError:
        """Returns the error that says why the file cannot be used, and what to do."""
        return _damaged(self.path, where, reason, self._remedy)

    def _check(self, members: list[zipfile.ZipInfo]) -> None:
        if len(members) > _MOST_MEMBERS:
            raise ValueError(f"{len(members)} members, more than {_MOST_MEMBERS}")
        names = [member.filename for member in members]
        if len(set(names)) < len(names):
            raise ValueError("two members of one name")
        for member in members:
            if not member.filename.endswith(".npy"):
                raise ValueError(f"member {member.filename[:40]!r} is no array")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{member.filename} is packed in an unknown way")


def write_npz(path: Path, arrays: dict[str, np.ndarray], compressed: bool) -> None:
    """Replaces an .npz file, whole or not at all, without pickled objects.

    Raises:
      InputError: it cannot be written.
    """
    save = np.savez_compressed if compressed else np.savez
    with writing(path), replacing(path) as handle:
        save(handle, allow_pickle=False, **arrays)  # type: ignore[arg-type]


def read_npz(
    path: str | os.PathLike[str],
    remedy: str,
    names: Collection[str] | None = None,
    optional: Collection[str] = (),
    most: int | None = None,
) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file.

    Args:
      path: the file.
      remedy: what to do about a file that is damaged, for messages.
      names: of the arrays that it must hold; others are not unpacked. None for all.
      optional: arrays that are read where they are there.
      most: most bytes that it may unpack to; None for `unpacked_limit`.

    Raises:
      InputError: missing, damaged, without one of the arrays, or too large.
    """
    with ArrayArchive(path, remedy, most) as archive:
        if names is None:
            wanted = list(archive.sizes)
        else:
            wanted = [*names, *(name for name in optional if name in archive.sizes)]
        return {name: archive.read(name) for name in wanted}


def read_npy(path: str | os.PathLike[str], remedy: str) -> np.ndarray:
    """Returns the array of an .npy file.

    Raises:
      InputError: missing, damaged, or something else than numbers or strings.
    """
    name = os.fspath(path)
    with _opened(name) as file:
        try:
            return _read_array(file, os.fstat(file.fileno()).st_size)
        except (*_DAMAGE, OSError) as error:
            raise _damaged(name, "", error, remedy) from error


def _opened(path: str) -> IO[bytes]:
    """Returns the regular file, open for reading."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{path} is not a file: check the path")
        return open(path, "rb")
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}: check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {path} ({reason}): check the path") from error


def _read_array(file: Any, size: int) -> np.ndarray:
    """Returns the array in a stream of `size` bytes; raises one of `_DAMAGE`."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version} of arrays is not known")
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the Python that a damaged header is
        shape, columns_first, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are never unpacked")
    if dtype.kind not in _KINDS or not dtype.itemsize:
        raise ValueError(f"elements of type {dtype.str} are no numbers or strings")
    if any(n < 0 for n in shape):
        raise ValueError(f"the shape is {shape}")
    count = math.prod(shape) * dtype.itemsize
    if file.tell() + count != size:
        raise ValueError(
            f"shape {shape} of {dtype.str} takes {count} bytes, {size - file.tell()} "
            "are there"
        )
    data = bytearray(count)
    view = memoryview(data)
    while len(view):
        got = file.readinto(view)
        if not got:
            raise EOFError("it ends too early")
        view = view[got:]
    if file.read(1):  # the end is where a zip member's checksum is compared
        raise ValueError("more bytes than the directory states")
    array = np.frombuffer(data, dtype).reshape(
        shape, order="F" if columns_first else "C"
    )
    _check_elements(array)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _check_elements(array: np.ndarray) -> None:
    """Raises ValueError for bytes that are no truth value or no character."""
    if not array.size:
        return
    if array.dtype.kind == "b" and array.view(np.uint8).max() > 1:
        raise ValueError("a truth value is neither 0 nor 1")
    if array.dtype.kind == "U":
        # Halves of surrogate pairs are let through: names of files may hold them.
        codes = np.frombuffer(array.tobytes(), f"{array.dtype.str[0]}u4")
        if codes.max() > 0x10FFFF:
            raise ValueError("a string holds a number that is no character")


def _damaged(
    path: str, where: str, reason: BaseException | str, remedy: str
) -> InputError:
    if isinstance(reason, MemoryError):
        reason = "there is not enough memory for it"
    text = " ".join(str(reason).split())[:200] or type(reason).__name__
    return InputError(f"{path} is damaged ({where}{text}). {remedy}")
