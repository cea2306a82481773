"""JSON as the standard has it: infinities are strings, "no value" is null.

JSON knows no infinity, and the token `Infinity` that Python writes is refused by other
readers. An infinite number is therefore the STRING "Infinity" or "-Infinity", and
`null` always means that there is no value (a misclassified input has no edges).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from jaxcert.errors import InputError

_INFINITIES = {"Infinity": math.inf, "-Infinity": -math.inf}


def encode(value: Any, where: str) -> Any:
    """Returns `value` as plain lists, dicts, strings and finite numbers.

    NaN becomes null, an infinity one of the strings "Infinity" and "-Infinity".

    Args:
      value: numbers, strings, None, arrays, array scalars, paths, and lists, tuples
        and mappings of these.
      where: what the value is called in the error message.

    Raises:
      InputError: the value holds something that JSON cannot hold.
    """
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy and of JAX
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [encode(item, where) for item in value]
    if isinstance(value, Mapping):
        return {str(k): encode(item, f"{where}.{k}") for k, item in value.items()}
    raise InputError(
        f"{where} is of type {type(value).__name__}, which JSON cannot hold. "
        "Give a number, a string, None, or lists and mappings of these"
    )


def decode(value: Any) -> Any:
    """Returns `value` with the strings "Infinity" and "-Infinity" as numbers again."""
    if isinstance(value, str):
        return _INFINITIES.get(value, value)
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, dict):
        return {key: decode(item) for key, item in value.items()}
    return value


def dumps(value: Any, where: str, indent: int | None = None) -> str:
    """Returns `value` as strict JSON text; see `encode`."""
    return json.dumps(encode(value, where), indent=indent, allow_nan=False)
