"""A stored run: the form of its records, and the reader of its files."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxcert.errors import InputError
from jaxcert.report import strict_json
from jaxcert.report.disk import read, read_json

Record = dict[str, Any]

RECORD_KEYS = (
    "input",
    "label",
    "predicted",
    "status",
    "objective",
    "apothem_lower",
    "apothem_upper",
    "min_edge",
    "mean_edge",
    "max_edge",
    "log_volume",
    "required_margin",
    "arithmetic",
    "oracle",
    "oracle_calls",
    "subproblems",
    "seconds",
)
# Only these may hold the strings "Infinity" and "-Infinity": a file may be called so.
NUMBER_KEYS = (
    "apothem_lower",
    "apothem_upper",
    "min_edge",
    "mean_edge",
    "max_edge",
    "log_volume",
    "required_margin",
    "seconds",
)
# Of a run that grew its boxes, under the key "grown"; null where there is no box.
GROWN_KEYS = (
    "objective",
    "delta",
    "apothem",
    "min_edge",
    "mean_edge",
    "max_edge",
    "log_volume",
    "faces_on_domain",
    "faces_stopped",
    "faces_open",
    "subproblems",
    "seconds",
    "proof",
)
STATUSES = ("certified", "misclassified", "unknown")
BOX_KEYS = ("input", "x", "lo", "hi", "witness", "witness_class")
GROWN_BOX_KEYS = ("grown_lo", "grown_hi")

LINES = "certificates.jsonl"
BOXES = "boxes.npz"
PARTS = "parts"
RUN = "run.json"
SUMMARY = "summary.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as its files hold it; row i of every array belongs to `records[i]`.

    Attributes:
      records: one dict per input with the keys `RECORD_KEYS`, and "grown" if boxes
        grew; infinities are floats, None is "no value".
      x: inputs, (n, *input_shape).
      lo, hi: proved boxes, NaN where there is none.
      grown_lo, grown_hi: the boxes that they grew to, NaN where there is none.
      witness: counterexamples, NaN where there is none.
      witness_class: predicted class of each counterexample, -1 where there is none.
      config: the settings that every record of the run shares.
      about: what summary.json says of versions, device, date, flags and wall seconds;
        empty where the run was killed before it wrote one.
      notices: sentences on what was dropped while reading.
    """

    records: list[Record]
    x: Float[np.ndarray, " n *shape"]
    lo: Float[np.ndarray, " n *shape"]
    hi: Float[np.ndarray, " n *shape"]
    grown_lo: Float[np.ndarray, " n *shape"]
    grown_hi: Float[np.ndarray, " n *shape"]
    witness: Float[np.ndarray, " n *shape"]
    witness_class: Int[np.ndarray, " n"]
    config: dict[str, Any]
    about: dict[str, Any]
    notices: tuple[str, ...]


def read_run(output_dir: str | os.PathLike[str]) -> Run:
    """Returns the run in `output_dir`, finished or not; changes nothing there.

    Raises:
      InputError: there is no run, or a file of it is damaged.
    """
    directory = Path(output_dir)
    if not (directory / LINES).is_file():
        raise InputError(
            f"{directory} holds no run ({LINES} is missing). Give the directory that "
            "was the --output of a run"
        )
    records, _, notices = read_lines(directory / LINES)
    arrays, missing = read_boxes(directory, [r["input"] for r in records])
    if missing:
        raise InputError(missing_boxes(directory, missing))
    return Run(
        records=records,
        x=arrays["x"],
        lo=arrays["lo"],
        hi=arrays["hi"],
        grown_lo=arrays["grown_lo"],
        grown_hi=arrays["grown_hi"],
        witness=arrays["witness"],
        witness_class=arrays["witness_class"],
        config=strict_json.decode(read_config(directory)),
        about=read_about(directory),
        notices=tuple(notices),
    )


def check_record(record: Mapping[str, Any]) -> None:
    """Raises InputError where a record does not have the agreed form."""
    name = record.get("input")
    if not isinstance(name, str):
        raise InputError(f"a record's input must be a string, got {name!r}")
    missing = [key for key in RECORD_KEYS if key not in record]
    unknown = [key for key in record if key not in (*RECORD_KEYS, "grown")]
    if missing or unknown:
        raise InputError(
            f"record of {name!r}: missing keys {missing}, unknown keys {unknown}. Give "
            "exactly jaxcert.report.RECORD_KEYS"
        )
    if record["status"] not in STATUSES:
        raise InputError(
            f"record of {name!r}: status is {record['status']!r}, must be one of "
            f"{', '.join(STATUSES)}"
        )
    grown = record.get("grown")
    if grown is not None and sorted(grown) != sorted(GROWN_KEYS):
        raise InputError(
            f"record of {name!r}: grown has the keys {sorted(grown)}. Give exactly "
            "jaxcert.report.GROWN_KEYS"
        )
    lower, upper = record["apothem_lower"], record["apothem_upper"]
    # `not <=` also catches NaN. A disordered bracket is a false proof or a false
    # witness, and must not reach a file that people trust.
    if lower is None or upper is None or not 0 <= lower <= upper:
        raise InputError(
            f"record of {name!r}: the apothem bracket [{lower}, {upper}] is not "
            "ordered. This is an error of the search, please report it"
        )


def read_lines(path: Path) -> tuple[list[Record], list[bytes], list[str]]:
    """Returns the records, their lines as stored, and what was dropped."""
    raw = read(path)
    *lines, rest = raw.split(b"\n")
    records: list[Record] = []
    kept: list[bytes] = []
    notices: list[str] = []
    torn = f"{path}: the last line is torn (the run was killed); it is dropped"
    if rest:
        notices.append(torn)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            for key in NUMBER_KEYS:
                record[key] = strict_json.decode(record[key])
            if record.get("grown") is not None:
                record["grown"] = strict_json.decode(record["grown"])
            check_record(record)
        except (ValueError, KeyError, TypeError) as error:
            # A machine that loses power may leave a last line of NUL bytes.
            if number == len(lines) and not rest:
                notices.append(torn)
                continue
            raise InputError(
                f"{path}, line {number}: not a record of this program ({error}). "
                "Remove that line, and continue the run with --resume"
            ) from error
        records.append(record)
        kept.append(line)
    name, lines_of_it = next(
        iter(collections.Counter(r["input"] for r in records).most_common(1)), ("", 0)
    )
    if lines_of_it > 1:
        raise InputError(
            f"{path}: input {name!r} has {lines_of_it} lines. Remove all but one"
        )
    return records, kept, notices


def read_boxes(
    directory: Path, names: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the arrays of `names` in their order, and the names without arrays.

    Of several answers to one input the one in the newest part counts.
    """
    sources: list[dict[str, np.ndarray]] = []
    place: dict[str, tuple[int, int]] = {}
    paths = part_paths(directory)
    if (directory / BOXES).exists():
        paths = [directory / BOXES, *paths]
    for path in paths:
        arrays = _read_npz(path)
        for row, name in enumerate(arrays["input"].tolist()):
            place[name] = (len(sources), row)
        sources.append(arrays)
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


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of one box file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in BOX_KEYS}
            nothing = np.full_like(arrays["lo"], np.nan)
            for key in GROWN_BOX_KEYS:
                arrays[key] = stored[key] if key in stored else nothing
            return arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is damaged ({error}). Delete it and continue the run with "
            "--resume; its inputs are then redone"
        ) from error


def read_about(directory: Path) -> dict[str, Any]:
    """Returns the content of summary.json; empty where there is none yet.

    Raises:
      InputError: the file is damaged.
    """
    path = directory / SUMMARY
    if not path.exists():
        return {}
    advice = "Remove it and continue the run with --resume, which writes it anew"
    about = strict_json.decode(read_json(path, advice))
    seconds = about.get("wall_seconds", 0.0)
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not (number and 0 <= seconds < math.inf):
        raise InputError(f"{path}: wall_seconds is {seconds!r}. {advice}")
    if not isinstance(about.get("versions", {}), dict):
        raise InputError(f"{path}: versions must be an object. {advice}")
    return about


def read_config(directory: Path) -> dict[str, Any]:
    """Returns the settings in run.json as stored; empty where there is none.

    Raises:
      InputError: the file is damaged: the run cannot be continued then.
    """
    path = directory / RUN
    if not path.exists():
        return {}
    advice = "The run's settings are lost with it: choose another --output"
    config = read_json(path, advice).get("config", {})
    if not isinstance(config, dict):
        raise InputError(f"{path}: config must be an object. {advice}")
    return config


def part_paths(directory: Path) -> list[Path]:
    """Returns the part files, oldest first."""
    return sorted((directory / PARTS).glob("boxes-[0-9][0-9][0-9][0-9][0-9].npz"))


def missing_boxes(directory: Path, missing: Sequence[str]) -> str:
    return (
        f"{directory}: {len(missing)} lines of {LINES} have no box in {BOXES}, the "
        f"first is input {missing[0]!r}. Run again with --resume, which redoes them"
    )
