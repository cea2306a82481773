"""Files that are either the old one or the new one, never half of it."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from pathlib import Path

from jaxcert.errors import InputError


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Returns the path with `~` expanded, which a shell leaves alone in --flag=~/x.

    Raises:
      InputError: there is no such home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{os.fspath(path)}: there is no such home directory; write the path out"
        ) from error


def read_bounded(
    path: str, limit: int, *, gzipped: bool | None, kind: str, remedy: str
) -> bytes:
    """Returns the bytes of a file, unpacked if it is gzipped.

    Args:
      path: the file.
      limit: most bytes that are read, before and after decompression.
      gzipped: whether it is; None to look at its first bytes.
      kind: what it should be, for messages: "an .onnx file".
      remedy: what to do with one that is too large.

    Raises:
      InputError: it is missing, no file, too large, damaged, or cannot be read.
    """
    too_large = InputError(
        f"{path} is larger than {limit} bytes, the most that is read: {remedy}"
    )
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a file: name {kind}")
        if status.st_size > limit:
            raise too_large
        with open(path, "rb") as file:
            if gzipped is None:
                gzipped = file.read(2) == b"\x1f\x8b"
                file.seek(0)
            if gzipped:
                with gzip.open(file) as unpacked:
                    data = unpacked.read(limit + 1)
            else:
                data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}: check the path") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} is a damaged or truncated gzip file: copy it again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): check its permissions"
        ) from error
    if len(data) > limit:
        raise too_large
    return data


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file through a neighbour that takes its place once it is complete.

    Raises:
      OSError: the folder is missing or cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
