"""Files: read within bounds, and written so that none is ever half of the new one."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from jaxcert.errors import InputError

MOST_BYTES = 2**32
"""Most bytes that a packed file of arrays or lines may unpack to."""
MOST_RATIO = 400
"""How many times its own size it may unpack to, once that is above `FREE_BYTES`."""
FREE_BYTES = 2**28
"""What every file may unpack to, however small it is."""


def unpacked_limit(size: int, most: int | None = None, free: int = FREE_BYTES) -> int:
    """Returns how many bytes a file of `size` bytes may unpack to.

    A file of 3 MB that unpacks to 3 GiB is a mistake or an attack. Weights that are
    mostly zero do reach 180 times their packed size. What is stored as it is needs no
    limit: whoever could store it can read it.

    Args:
      size: of the file.
      most: the limit itself, from a caller who knows; None for the rule: `MOST_RATIO`
        times the size, at least `free` and at most `MOST_BYTES`, never below the size.
      free: what is always allowed.
    """
    if most is not None:
        return most
    return max(size, min(MOST_BYTES, max(free, MOST_RATIO * size)))


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
    path: str | os.PathLike[str],
    limit: int,
    *,
    gzipped: bool | None,
    kind: str,
    remedy: str,
    free: int | None = None,
) -> bytes:
    """Returns the bytes of a file, unpacked if it is gzipped.

    Args:
      path: the file.
      limit: most bytes that are read, before and after decompression.
      gzipped: whether it is; None to look at its first bytes.
      kind: what it should be, for messages: "an .onnx file".
      remedy: what to do with one that is too large.
      free: bytes that any gzip file may unpack to; above, `MOST_RATIO` times its size
        is the limit, if that is less than `limit`. None for `limit` alone.

    Raises:
      InputError: it is missing, no file, too large, damaged, or cannot be read.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a file: name {kind}")
        if status.st_size > limit:
            raise _too_large(path, limit, remedy)
        with open(path, "rb") as file:
            if gzipped is None:
                gzipped = file.read(2) == b"\x1f\x8b"
                file.seek(0)
            if not gzipped:
                data = file.read(limit + 1)
            else:
                if free is not None:
                    limit = min(limit, max(free, MOST_RATIO * status.st_size))
                with gzip.open(file) as unpacked:
                    data = unpacked.read(limit + 1)
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}: check the path") from error
    except InputError:  # a ValueError, but one that says what it is
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile, struct.error) as error:
        raise InputError(
            f"{path} is a damaged or truncated gzip file: copy it again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}): check its permissions"
        ) from error
    except (ValueError, MemoryError, OverflowError) as error:
        raise InputError(
            f"{path} cannot be read ({_brief(error)}): check the file"
        ) from error
    if len(data) > limit:
        raise _too_large(path, limit, remedy)
    return data


def read_text(
    path: str | os.PathLike[str], *, kind: str, most: int | None = None
) -> str:
    """Returns the text of a file in UTF-8, without the mark that some begin with.

    Args:
      path: the file.
      kind: what it should be, for messages: "a .csv file".
      most: most bytes that are read; None for `MOST_BYTES`.

    Raises:
      InputError: it is missing, no file, too large, or no text.
    """
    data = read_bounded(
        path, most or MOST_BYTES, gzipped=False, kind=kind, remedy="check the file"
    )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: not text in UTF-8. Name {kind}"
        ) from error


def parse_json(text: str | bytes) -> Any:
    """Returns what JSON text says.

    Raises:
      ValueError: it is not JSON as the standard has it (no NaN, no infinity, no name
        twice in an object), or nested or large beyond all reason.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (RecursionError, MemoryError) as error:
        raise ValueError("nested too deeply, or too large") from error


def _no_constant(token: str) -> None:
    raise ValueError(f"{token} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _too_large(path: str | os.PathLike[str], limit: int, remedy: str) -> InputError:
    return InputError(
        f"{path} is larger than {limit} bytes, the most that is read: {remedy}"
    )


def _brief(error: BaseException) -> str:
    """Returns what an error says, in one line of some hundred characters."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def file_stem(name: str) -> str:
    """Returns an input's name, made fit for a file; different names stay different."""
    stem = name.removesuffix(".csv")
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem).lstrip(".")
    if kept == stem:
        return stem
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{kept or 'input'}-{digest[:8]}"


class Closing:
    """What a `with` block closes when it is left, also by an error or by Ctrl-C."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the use of what is held."""
        raise NotImplementedError


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


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Yields a neighbour of a file that takes its place, on the disk, after the block.

    Raises:
      OSError: the folder is missing or cannot be written.
    """
    path = Path(path)
    # Of this process alone: another may be writing the same file.
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(beside, path)
    finally:
        with contextlib.suppress(OSError):  # no folder, which is told by `open`
            beside.unlink()


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Replaces a file, whole or not at all; its bytes are on the disk first.

    Raises:
      OSError: the folder is missing or cannot be written.
    """
    with replacing(path) as handle:
        handle.write(data)


def write_whole(path: Path, data: bytes) -> None:
    """Replaces a file of a run as `write_atomically` does.

    Raises:
      InputError: it cannot be written.
    """
    with writing(path):
        write_atomically(path, data)


def append(path: Path, data: bytes) -> None:
    """Appends to a file of a run; when it returns, the bytes survive a kill.

    Raises:
      InputError: it cannot be written.
    """
    with writing(path), open(path, "ab", buffering=0) as file:
        # A full disk may take a part of the bytes, and says so only by their count.
        while data:
            data = data[file.write(data) :]
        os.fsync(file.fileno())


def read(path: Path) -> bytes:
    """Returns the bytes of a file of a run.

    Raises:
      InputError: it cannot be read.
    """
    return read_bounded(
        path, MOST_BYTES, gzipped=False, kind="a file of a run", remedy="check the file"
    )


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Returns the object in a JSON file; `advice` is what to do if there is none.

    Raises:
      InputError: there is none.
    """
    try:
        value = parse_json(read(path))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}). {advice}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object. {advice}")
    return value
