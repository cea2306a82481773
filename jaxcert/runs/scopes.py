"""What the proofs of a run cover, in a JSON file of the run, beside what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxcert.errors import InputError
from jaxcert.runs import strict_json
from jaxcert.runs.files import read_json, write_whole
from jaxcert.scope import Scope

SCOPE = "scope"
"""The key, where the file holds other things; no setting, so never compared."""


def read_scope(path: Path, held: dict[str, Any], key: str = SCOPE) -> Scope | None:
    """Returns what a file holds under a key; None where there is none, as in old runs.

    Raises:
      InputError: something else lies there; says in which file.
    """
    if key not in held:
        return None
    try:
        return Scope.read(held[key])
    except ValueError as error:
        raise InputError(
            f"{path}: {key} is not what this program writes ({error}). Choose another "
            "--output"
        ) from error


def tell_scope(path: Path, scope: Scope, key: str = SCOPE) -> None:
    """Writes into a file what the proofs of a run cover.

    What it said of earlier answers stays; an old run, which said nothing, is completed.

    Raises:
      InputError: the file holds something else, or cannot be written.
    """
    held = read_json(path, "Choose another --output") if path.exists() else {}
    before = read_scope(path, held, key)
    whole = scope if before is None else before.joined(scope)
    if whole != before:
        text = strict_json.dumps({**held, key: whole.record()}, path.name, indent=1)
        write_whole(path, text.encode() + b"\n")
