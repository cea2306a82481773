"""Files that are either the old one or the new one, never half of it."""

from __future__ import annotations

import os
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
