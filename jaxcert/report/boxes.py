"""The arrays of a run: boxes and witnesses, one row per input, in one file or in parts.

Several rows of one input are several answers to it, the newest in the newest part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.errors import InputError
from jaxcert.report.agreement import check_agreement
from jaxcert.runs.array_files import read_npz
from jaxcert.runs.journal import Record

BOX_KEYS = ("input", "x", "lo", "hi", "witness", "witness_class")
GROWN_BOX_KEYS = ("grown_lo", "grown_hi")

LINES = "certificates.jsonl"
BOXES = "boxes.npz"
PARTS = "parts"


def read_boxes(
    directory: Path, records: Sequence[Record], config: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the arrays of the records in their order, and the names without arrays.

    Of several stored for one input the newest counts that agrees with its record: a
    kill may have come between the boxes of a chunk and its lines.
    """
    sources: list[dict[str, np.ndarray]] = []
    places: dict[str, list[tuple[int, int]]] = {}
    paths = part_paths(directory)
    if (directory / BOXES).exists():
        paths = [directory / BOXES, *paths]
    for path in paths:
        arrays = _read_npz(path)
        for row, name in enumerate(arrays["input"].tolist()):
            places.setdefault(name, []).insert(0, (len(sources), row))
        sources.append(arrays)

    def agreeing(record: Record, stored: list[tuple[int, int]]) -> tuple[int, int]:
        for i, row in stored:
            own = {key: array[row : row + 1] for key, array in sources[i].items()}
            try:
                check_agreement(directory / LINES, [0], [record], own, config)
            except InputError:
                continue
            return i, row
        return stored[0]  # whose disagreement is told where all are looked at

    names = [record["input"] for record in records]
    place = {
        name: agreeing(record, own) if _differ(sources, own) else own[0]
        for name, record in zip(names, records, strict=True)
        if (own := places.get(name))
    }
    missing = [name for name in names if name not in place]
    present = [name for name in names if name in place]
    if not present:
        empty = {key: np.zeros((0,)) for key in (*BOX_KEYS, *GROWN_BOX_KEYS)}
        empty["input"] = np.zeros((0,), dtype="U1")
        empty["witness_class"] = np.zeros((0,), dtype=np.int64)
        return empty, missing
    shapes = {sources[place[name][0]]["x"].shape[1:] for name in present}
    if len(shapes) > 1:
        raise InputError(
            f"{directory}: the stored boxes have several shapes {sorted(shapes)}. They "
            "are of different runs; choose another --output"
        )
    result = {"input": np.array(present)}
    for key in (*BOX_KEYS[1:], *GROWN_BOX_KEYS):
        rows = [sources[i][key][row] for i, row in map(place.__getitem__, present)]
        result[key] = np.stack(rows)
    return result, missing


def _differ(
    sources: Sequence[Mapping[str, np.ndarray]], stored: Sequence[tuple[int, int]]
) -> bool:
    """Whether the boxes and witnesses of one input differ."""
    keys = (*BOX_KEYS[1:], *GROWN_BOX_KEYS)
    (i, row), *others = stored
    return any(
        not np.array_equal(sources[i][key][row], sources[j][key][k], equal_nan=True)
        for j, k in others
        for key in keys
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of one box file."""
    remedy = "Delete it and continue the run with --resume; its inputs are then redone"
    arrays = read_npz(path, remedy, BOX_KEYS, GROWN_BOX_KEYS)
    names, x = arrays["input"], arrays["x"]
    for key, array in arrays.items():
        shape = names.shape if key in ("input", "witness_class") else x.shape
        kinds = {"input": "U", "witness_class": "i"}.get(key, "f")
        fits = array.dtype.kind == kinds or not names.size
        if not fits or array.shape != shape or shape[:1] != (names.size,):
            raise InputError(
                f"{path} is damaged ({key} is {array.dtype} of shape {array.shape}). "
                f"{remedy}"
            )
    for key in GROWN_BOX_KEYS:
        if key not in arrays:
            arrays[key] = np.full(x.shape, np.nan)
    return arrays


def part_paths(directory: Path) -> list[Path]:
    """Returns the part files, oldest first."""
    return sorted((directory / PARTS).glob("boxes-[0-9][0-9][0-9][0-9][0-9].npz"))


def missing_boxes(directory: Path, missing: Sequence[str]) -> str:
    return (
        f"{directory}: {len(missing)} lines of {LINES} have no box in {BOXES}, the "
        f"first is input {missing[0]!r}. Run again with --resume, which redoes them"
    )


def box_arrays(
    records: Sequence[Mapping[str, Any]],
    x: np.ndarray,
    lo: np.ndarray,
    hi: np.ndarray,
    witness: np.ndarray | None,
    witness_class: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Returns the arrays of one part, checked and complete."""
    x = floating(x)
    if witness is None:
        witness = np.full_like(x, math.nan)
    if witness_class is None:
        witness_class = np.full(len(records), -1)
    wrong = np.array([r["status"] == "misclassified" for r in records])
    arrays = {
        "input": np.array([r["input"] for r in records]),
        "x": x,
        "lo": floating(lo).copy(),
        "hi": floating(hi).copy(),
        "witness": floating(witness),
        "witness_class": np.asarray(witness_class, dtype=np.int64),
    }
    check_rows(arrays, ("x", "lo", "hi", "witness"), (len(records), *x.shape[1:]))
    if arrays["witness_class"].shape != (len(records),):
        raise InputError(
            f"witness_class has shape {arrays['witness_class'].shape}, must be "
            f"{(len(records),)}: one class per record"
        )
    arrays["lo"][wrong] = math.nan
    arrays["hi"][wrong] = math.nan
    return arrays


def check_rows(
    arrays: Mapping[str, np.ndarray], keys: Sequence[str], shape: tuple[int, ...]
) -> None:
    for key in keys:
        if arrays[key].shape != shape:
            raise InputError(
                f"{key} has shape {arrays[key].shape}, must be {shape}: one row per "
                "record"
            )


def floating(array: Any) -> np.ndarray:
    """Returns a floating array of the same values; integers become float64."""
    array = np.asarray(array)
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(float)
