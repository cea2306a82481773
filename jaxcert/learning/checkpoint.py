"""Checkpoints: one `.npz` file of a JSON header and weights by path, without code."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert.errors import InputError
from jaxcert.runs.array_files import ArrayArchive
from jaxcert.runs.files import parse_json, write_atomically

_HEADER = "header"
_HEADER_LIMIT = 1 << 20

# What building the shapes of a damaged header may raise; RecursionError and what JAX
# raises are RuntimeErrors.
_DAMAGE = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError,
    MemoryError,
)  # fmt: skip

Header = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Format:
    """What a kind of checkpoint calls itself.

    Attributes:
      name: the header's `format`, also used in messages.
      version: the header's `version`.
    """

    name: str
    version: int


def by_path(params: Any) -> dict[str, Any]:
    """Returns the leaves of nested dictionaries, by their keys joined with `/`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def check_params(params: Any, expected: Any, name: str) -> Any:
    """Returns params as float32, after a comparison with what is expected.

    Args:
      params: nested dictionaries of arrays.
      expected: the same of arrays or shapes.
      name: what messages call the network.

    Raises:
      InputError: an array is missing, too many, of another shape, or not finite.
    """
    wanted, given = by_path(expected), by_path(params)
    missing, extra = wanted.keys() - given.keys(), given.keys() - wanted.keys()
    if missing or extra:
        words = [f"no array {path}" for path in sorted(missing)]
        words += [f"an array {path} too many" for path in sorted(extra)]
        raise InputError(f"{name}: {'; '.join(words[:4])} for its architecture")
    for path, array in given.items():
        if tuple(array.shape) != tuple(wanted[path].shape):
            raise InputError(
                f"{name}: array {path} has shape {tuple(array.shape)}, its "
                f"architecture needs {tuple(wanted[path].shape)}"
            )
        if not np.isfinite(np.asarray(array)).all():
            raise InputError(
                f"{name}: array {path} holds NaN or infinity, so nothing can be "
                "certified about this network: train it again (a lower learning rate "
                "may help) or load another"
            )
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)


def write_checkpoint(path: Path, kind: Format, header: Header, params: Any) -> None:
    """Writes a checkpoint atomically.

    Args:
      path: file to write; must end in .npz.
      kind: goes into the header.
      header: what else it holds; `metadata` is the user's.
      params: nested dictionaries of arrays.

    Raises:
      InputError: another suffix, metadata that JSON cannot hold, or a place that cannot
        be written.
    """
    if path.suffix != ".npz":
        raise InputError(f"a checkpoint's name ends in .npz, not {path.name!r}")
    header = {"format": kind.name, "version": kind.version} | header
    try:
        text = json.dumps(header, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"checkpoint metadata must be plain JSON: {error}") from error
    members: dict[str, Any] = {_HEADER: np.frombuffer(text, np.uint8)}
    members |= {k: np.asarray(v) for k, v in by_path(params).items()}
    buffer = io.BytesIO()
    np.savez(buffer, **members)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def read_checkpoint(
    path: Path, kind: Format, expected: Callable[[Header], Any]
) -> tuple[Header, Any]:
    """Returns the header and the weights of a checkpoint, in nested dictionaries.

    Args:
      path: the file.
      kind: what it must be.
      expected: maps the header to the shapes of the weights, in nested dictionaries;
        may raise InputError, which then names the file.

    Raises:
      InputError: missing, truncated or no checkpoint; another format version; an array
        that is missing, not float32 or larger than expected.
    """
    if not path.is_file():
        raise InputError(f"no checkpoint {path}")
    remedy = f"It is no {kind.name}, or was truncated or changed: copy it again"
    with ArrayArchive(path, remedy) as archive:
        if archive.sizes.get(_HEADER, _HEADER_LIMIT) >= _HEADER_LIMIT:
            raise InputError(f"{path} is not a {kind.name}: no header")
        try:
            header = parse_json(archive.read(_HEADER).tobytes())
            shapes = _expected_shapes(path, kind, header, expected)
        except InputError:
            raise
        except _DAMAGE as error:
            raise archive.damaged(error, "header: ") from error
        arrays = {}
        for key, shape in by_path(shapes).items():
            # An array much larger than its architecture says is never unpacked.
            if key not in archive.sizes:
                raise InputError(f"{path}: no array {key} for its architecture")
            if archive.sizes[key] > 4 * math.prod(shape.shape) + 4096:
                raise InputError(
                    f"{path}: array {key} is larger than its architecture needs"
                )
            arrays[key] = archive.read(key)
            if arrays[key].dtype != np.float32:
                raise InputError(
                    f"{path}: array {key} is {arrays[key].dtype}, not float32"
                )
    params = jax.tree_util.tree_map_with_path(
        lambda keys, _: arrays["/".join(str(key.key) for key in keys)], shapes
    )
    return header, params


def check_hash(path: str | os.PathLike[str], header: Header, found: str) -> None:
    """Raises InputError unless the header's content hash is the one found."""
    if found != header.get("content_hash"):
        raise InputError(
            f"{path}: the weights do not have the content hash of the header; the "
            "file was changed or damaged"
        )


def _expected_shapes(
    path: Path, kind: Format, header: Any, expected: Callable[[Header], Any]
) -> Any:
    if not isinstance(header, dict) or header.get("format") != kind.name:
        raise InputError(f"{path} is not a {kind.name}: its header is another's")
    if header.get("version") != kind.version:
        raise InputError(
            f"{path} has checkpoint version {header.get('version')}; this jaxcert "
            f"reads version {kind.version}"
        )
    if not isinstance(header.get("metadata", {}), dict):
        raise InputError(f"{path}: metadata must be an object")
    try:
        return expected(header)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
