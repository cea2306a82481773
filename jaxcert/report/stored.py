"""A stored run: the form of its records, and the reader of its files."""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxcert.errors import InputError
from jaxcert.report.agreement import check_agreement
from jaxcert.report.boxes import LINES, missing_boxes, read_boxes
from jaxcert.runs import journal, strict_json
from jaxcert.runs.files import parse_json, read_json
from jaxcert.runs.journal import Form, Kind, Lines, Record, Texts
from jaxcert.runs.scopes import read_scope
from jaxcert.scope import Scope

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
GROWN_NUMBER_KEYS = (
    "delta", "apothem", "min_edge", "mean_edge", "max_edge", "log_volume", "seconds",
)  # fmt: skip
STATUSES = ("certified", "misclassified", "unknown")

RUN = "run.json"
SUMMARY = "summary.json"

TIME_LIMIT = "time_limit"
"""In run.json: seconds that open brackets were given; no setting."""

SCHEMA = 1
"""Of the files of a run, docs/files.md; files without a number are of the first."""

_LOST = "The run's settings are lost with it: choose another --output"


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
      scope: what the proofs cover; None where an old run does not say.
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
    scope: Scope | None = None


def read_run(output_dir: str | os.PathLike[str]) -> Run:
    """Returns the run in `output_dir`, finished or not; changes nothing there.

    Raises:
      InputError: there is no run, a file of it is damaged, or a line says something
        else than the box, the witness or the certificate that is stored beside it.
    """
    directory = Path(output_dir)
    if not (directory / LINES).is_file():
        raise InputError(
            f"{directory} holds no run ({LINES} is missing). Give the directory that "
            "was the --output of a run"
        )
    lines = read_lines(directory / LINES)
    records, config = lines.records, strict_json.decode(read_config(directory))
    arrays, missing = read_boxes(directory, records, config)
    if missing:
        raise InputError(missing_boxes(directory, missing))
    check_agreement(directory / LINES, lines.numbers, records, arrays, config)
    return Run(
        records=records,
        x=arrays["x"],
        lo=arrays["lo"],
        hi=arrays["hi"],
        grown_lo=arrays["grown_lo"],
        grown_hi=arrays["grown_hi"],
        witness=arrays["witness"],
        witness_class=arrays["witness_class"],
        config=config,
        about=read_about(directory),
        notices=tuple(lines.notices),
        scope=read_scope_of_run(directory),
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
    if grown is not None:
        if not isinstance(grown, Mapping) or sorted(grown) != sorted(GROWN_KEYS):
            raise InputError(
                f"record of {name!r}: grown has the keys {sorted(grown)}. Give exactly "
                "jaxcert.report.GROWN_KEYS"
            )
        _check_types(f"record of {name!r}: grown.", grown, _GROWN_TYPES)
    _check_types(f"record of {name!r}: ", record, _TYPES)
    lower, upper = record["apothem_lower"], record["apothem_upper"]
    # `not <=` also catches NaN. A disordered bracket is a false proof or a false
    # witness, and must not reach a file that people trust.
    if lower is None or upper is None or not 0 <= lower <= upper:
        raise InputError(
            f"record of {name!r}: the apothem bracket [{lower}, {upper}] is not "
            "ordered. This is an error of the search, please report it"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and 0 <= value < 2**63  # type: ignore[operator]


def _or_none(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or kind(value)


# What each value is; `check_record` looks at the others, and `encode` at words.
_EDGE_TYPES = {
    key: _or_none(_is_number)
    for key in ("min_edge", "mean_edge", "max_edge", "log_volume", "seconds")
}
_TYPES: dict[str, Callable[[Any], bool]] = {
    **_EDGE_TYPES,
    "label": _or_none(_is_count),
    "predicted": _is_count,
    "required_margin": lambda v: _is_number(v) and math.isfinite(v),
    "arithmetic": lambda v: v in ("real", "float32"),
    "oracle_calls": _or_none(_is_count),
    "subproblems": _or_none(_is_count),
}
_GROWN_TYPES: dict[str, Callable[[Any], bool]] = {
    **_EDGE_TYPES,
    "objective": lambda v: isinstance(v, str),
    "delta": _is_number,
    "apothem": _is_number,
    "faces_on_domain": _is_count,
    "faces_stopped": _is_count,
    "faces_open": _is_count,
    "subproblems": _is_count,
    "proof": lambda v: v in (None, True, False),
}


def _check_types(
    where: str,
    record: Mapping[str, Any],
    types: Mapping[str, Callable[[Any], bool]],
) -> None:
    for key, right in types.items():
        if not right(record[key]):
            shown = ascii(record[key])[:40]
            raise InputError(f"{where}{key} is {shown}, which it cannot be")


def read_lines(path: Path) -> Lines:
    """Returns the last line of every input, and what was dropped.

    Raises:
      InputError: a line is no record, or a later one of an input refines none.
    """
    lines = journal.read_lines(path, KIND)
    check_refined(path, lines)
    return lines.latest(input_of)


def check_refined(path: Path, lines: Lines) -> None:
    """Raises InputError if a second line of an input does not refine its first."""
    last: dict[str, Record] = {}
    for record in lines.records:
        name = record["input"]
        if name in last and not refines(record, last[name]):
            count = sum(r["input"] == name for r in lines.records)
            raise InputError(
                f"{path}: input {name!r} has {count} lines. Remove all but one"
            )
        last[name] = record


def refines(later: Mapping[str, Any], earlier: Mapping[str, Any]) -> bool:
    """Whether a record has a narrower bracket of the same input than another one."""
    same = ("label", "predicted", "objective", "required_margin", "arithmetic")
    if any(later[key] != earlier[key] for key in same):
        return False
    new, old = ((r["apothem_lower"], r["apothem_upper"]) for r in (later, earlier))
    return new != old and old[0] <= new[0] and new[1] <= old[1]


def _read_line(line: bytes) -> Record | None:
    """Returns the record of a line, None for a blank one; see `journal.Form`."""
    if not line.strip():
        return None
    record = parse_json(line)
    if not isinstance(record, dict):
        raise ValueError("no object")
    _decode_numbers(record, NUMBER_KEYS)
    if record.get("grown") is not None:
        _decode_numbers(record["grown"], GROWN_NUMBER_KEYS)
    try:
        check_record(record)
    except InputError as error:
        raise ValueError(error) from error
    return record


input_of = operator.itemgetter("input")
"""What tells the records of a run apart."""

KIND = Kind(
    LINES,
    "",  # in `RUN`, beside when the run was begun
    "a run",
    "a record",
    key=input_of,
    form=Form(_read_line, mends_last=True),
    texts=Texts(
        refused="{path}, line {number}: not {line} of this program ({reason}). Remove "
        "that line, and continue the run with --resume",
        torn="{path}: the last line is torn (the run was killed); it is dropped",
    ),
)
"""Of the lines of a run."""


def _decode_numbers(record: dict[str, Any], keys: Sequence[str]) -> None:
    """Makes infinities floats again, and what JSON wrote as 1 instead of 1.0."""
    for key in keys:
        value = strict_json.decode(record[key])
        record[key] = float(value) if type(value) is int else value


def read_about(directory: Path) -> dict[str, Any]:
    """Returns the content of summary.json; empty where there is none yet.

    Raises:
      InputError: the file is damaged.
    """
    path = directory / SUMMARY
    if not path.exists():
        return {}
    advice = "Remove it and continue the run with --resume, which writes it anew"
    about = strict_json.decode(_read_known(path, advice))
    seconds = about.get("wall_seconds", 0.0)
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not (number and 0 <= seconds < math.inf):
        raise InputError(f"{path}: wall_seconds is {seconds!r}. {advice}")
    if not isinstance(about.get("versions", {}), dict):
        raise InputError(f"{path}: versions must be an object. {advice}")
    return about


def _read_known(path: Path, advice: str) -> dict[str, Any]:
    """Returns the object in a file of a run.

    Raises:
      InputError: it is damaged, or of a schema that is not known here.
    """
    held = read_json(path, advice)
    schema = held.get("schema", SCHEMA)
    if schema != SCHEMA or isinstance(schema, bool):
        raise InputError(
            f"{path} is of schema {schema!r}; this version of jaxcert reads {SCHEMA}. "
            "Use the version that wrote it, or choose another --output"
        )
    return held


def read_config(directory: Path) -> dict[str, Any]:
    """Returns the settings in run.json as stored; empty where there is none.

    Raises:
      InputError: the file is damaged: the run cannot be continued then.
    """
    path = directory / RUN
    if not path.exists():
        return {}
    config = _read_known(path, _LOST).get("config", {})
    if not isinstance(config, dict):
        raise InputError(f"{path}: config must be an object. {_LOST}")
    return config


def read_time_limit(directory: Path) -> float:
    """Returns the longest time limit that open brackets of a run were given, seconds.

    0 where run.json does not say: of a run of an earlier version.

    Raises:
      InputError: the file is damaged.
    """
    stored = _read_known(directory / RUN, _LOST).get(TIME_LIMIT, 0)
    seconds = strict_json.decode(stored)
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not (number and seconds >= 0):
        raise InputError(f"{directory / RUN}: {TIME_LIMIT} is {stored!r}. {_LOST}")
    return float(seconds)


def read_scope_of_run(directory: Path) -> Scope | None:
    """Returns what the proofs of a run cover, by run.json; None where it does not say.

    Raises:
      InputError: the file is damaged.
    """
    path = directory / RUN
    return read_scope(path, read_json(path, _LOST)) if path.exists() else None
