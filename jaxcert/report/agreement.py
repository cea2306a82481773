"""Whether the lines of a run agree with its boxes, witnesses and certificates.

A line is what people read, the box is what was proved. Whoever edits the first, by
accident or not, has proved nothing: so every number of a line that its box determines
is derived again before the line is believed, shown or continued.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jaxcert.errors import InputError
from jaxcert.report.pictures import domain_of
from jaxcert.report.summary import OBJECTIVE, norm_of_objective
from jaxcert.runs.array_files import ArrayArchive
from jaxcert.runs.files import file_stem, parse_json

PROOFS = "proofs"

# A face is x - t w, computed in float64 and stepped outward, and its slack x - lo is
# rounded once more: some six roundings, each of at most half an ulp of |x| + t w.
_ROUNDINGS = 8 * 2.0**-53
_TINY = 1e-300  # a distance of 0 is rounded up to a denormal
# Edges are sums and logarithms of what is stored; NumPy adds up in no fixed order.
_SUMS = 1e-9
_ADVICE = (
    "The line or its box was changed. Restore both, or remove the line and continue "
    "the run with --resume, which redoes this input"
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
    """The arrays of a run in float64, flat: (n, d) each; domain and rates (d,)."""

    x: Float[np.ndarray, "n d"]
    lo: Float[np.ndarray, "n d"]
    hi: Float[np.ndarray, "n d"]
    witness: Float[np.ndarray, "n d"]
    grown_lo: Float[np.ndarray, "n d"]
    grown_hi: Float[np.ndarray, "n d"]
    domain: tuple[np.ndarray, np.ndarray]
    rates: np.ndarray
    norm: str

    @staticmethod
    def of(arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> _Rows:
        shape = arrays["x"].shape[1:]
        names = ("x", "lo", "hi", "witness", "grown_lo", "grown_hi")
        count = len(arrays["x"])
        flat: dict[str, np.ndarray] = {
            n: np.asarray(arrays[n], np.float64).reshape(count, math.prod(shape))
            for n in names
        }
        lower, upper = domain_of(config, shape)
        rates = config.get("rates")
        rates = np.ones(shape) if rates is None else np.asarray(rates, np.float64)
        if rates.size != math.prod(shape) or not np.all(rates >= 0):
            raise InputError(f"rates must be {math.prod(shape)} numbers of at least 0")
        domain = lower.reshape(-1), upper.reshape(-1)
        norm = norm_of_objective(config.get("objective", OBJECTIVE))
        return _Rows(**flat, domain=domain, rates=rates.reshape(-1), norm=norm)


def check_agreement(
    lines: Path,
    numbers: Sequence[int],
    records: Sequence[Mapping[str, Any]],
    arrays: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
) -> None:
    """Raises InputError where a line says something else than what is stored beside it.

    Args:
      lines: the file of lines; certificates are looked for beside it.
      numbers: of the lines, from 1.
      records: as they were read, in the order of `arrays`.
      arrays: of the boxes, one row per record.
      config: the run's settings: domain, rates, and what every line repeats.
    """
    if not records:
        return

    def fail(row: int, field: str, why: str) -> InputError:
        where = f"{lines}, line {numbers[row]}, input {records[row]['input']!r}"
        return InputError(f"{where}: {field} {why}. {_ADVICE}")

    for row, record in enumerate(records):
        _check_words(row, record, config, fail)
    # A damaged box may hold anything: what overflows or is NaN agrees with nothing.
    with np.errstate(all="ignore"):
        rows = _Rows.of(arrays, config)
        _check_boxes(records, rows, fail)
        _check_witnesses(records, rows, np.asarray(arrays["witness_class"]), fail)
        _check_grown(records, rows, fail)
    _check_proofs(lines.parent / PROOFS, records, rows, fail)


_Fail = Callable[[int, str, str], InputError]


def _check_words(
    row: int, record: Mapping[str, Any], config: Mapping[str, Any], fail: _Fail
) -> None:
    """Checks what a line says against itself and against the run's settings."""
    for key in ("objective", "oracle", "arithmetic", "required_margin"):
        if key in config and record[key] != config[key]:
            raise fail(
                row, key, f"is {record[key]!r}, in the run's settings {config[key]!r}"
            )
    label, predicted, status = record["label"], record["predicted"], record["status"]
    wrong = label is not None and predicted != label
    if wrong != (status == "misclassified"):
        raise fail(
            row, "status", f"is {status}, of label {label} predicted {predicted}"
        )
    lower, upper = record["apothem_lower"], record["apothem_upper"]
    if (lower > 0) != (status == "certified"):
        raise fail(row, "apothem_lower", f"is {lower!r}, of an input that is {status}")
    if status == "misclassified" and upper != 0:
        raise fail(row, "apothem_upper", f"is {upper!r}, of an input that is {status}")


def _check_boxes(
    records: Sequence[Mapping[str, Any]], rows: _Rows, fail: _Fail
) -> None:
    certified = np.array([r["status"] == "certified" for r in records])
    lower = np.array([r["apothem_lower"] for r in records], np.float64)
    inside = _holds_inside(rows.lo, rows.hi, rows)
    measured = _apothems(rows.lo, rows.hi, rows)
    # The box is a cube (scaled by the rates, clipped to the domain), so that each of
    # its faces is where the apothem says, or on the domain's boundary before that.
    with np.errstate(invalid="ignore"):
        reach = np.where(rows.rates == 0, 0.0, lower[:, None] * rows.rates)
    tolerance = _ROUNDINGS * (abs(rows.x) + np.where(np.isfinite(reach), reach, 0))
    off = np.zeros(len(records), bool)
    for face, side, end in (
        (rows.x - rows.lo, rows.lo <= rows.domain[0], rows.domain[0]),
        (rows.hi - rows.x, rows.hi >= rows.domain[1], rows.domain[1]),
    ):
        slack = tolerance + _ROUNDINGS * np.where(np.isfinite(end), abs(end), 0)
        short = ~side & (face < reach - slack)
        off |= (short | (face > reach + slack)).any(axis=1)
    unmeasured = np.array([all(r[k] is None for k in _EDGES) for r in records])
    for row, record in enumerate(records):
        if not certified[row] or rows.norm != "linf":  # a ball has no box
            if not np.isnan([rows.lo[row], rows.hi[row]]).all():
                raise fail(row, "status", f"is {record['status']}, but a box is stored")
            if not unmeasured[row]:
                raise fail(row, "min_edge", "is given, but no box is stored")
            continue
        if not inside[row]:
            raise fail(
                row,
                "status",
                "is certified, but no box around x in the domain is stored",
            )
        if off[row] or math.isinf(lower[row]) != math.isinf(measured[row]):
            raise fail(
                row, "apothem_lower",
                f"is {float(lower[row])!r}, but its box has the apothem "
                f"{float(measured[row])!r}",
            )  # fmt: skip
        _check_edges(row, "", record, (rows.lo[row], rows.hi[row]), fail)


_EDGES = ("min_edge", "mean_edge", "max_edge", "log_volume")


def _check_edges(
    row: int,
    where: str,
    record: Mapping[str, Any],
    box: tuple[np.ndarray, np.ndarray],
    fail: _Fail,
) -> None:
    edges = box[1] - box[0]
    with np.errstate(divide="ignore"):
        found = (edges.min(), edges.mean(), edges.max(), np.log(edges).sum())
    for key, value in zip(_EDGES, map(float, found), strict=True):
        stated = record[key]
        size = abs(value) if key != "log_volume" else 1 + np.abs(np.log(edges)).sum()
        same = stated is not None and (
            stated == value or abs(stated - value) <= _SUMS * size
        )
        if not same:
            raise fail(row, where + key, f"is {stated!r}, of its box {value!r}")


def _check_witnesses(
    records: Sequence[Mapping[str, Any]],
    rows: _Rows,
    witness_class: np.ndarray,
    fail: _Fail,
) -> None:
    upper = np.array([r["apothem_upper"] for r in records], np.float64)
    move = rows.witness - rows.x
    steps = np.where(move == 0, 0.0, abs(move) / rows.rates)
    rounding = _ROUNDINGS * (abs(rows.x) + abs(rows.witness)) / rows.rates
    rounding = np.where(rows.rates == 0, 0, rounding)
    power = {"l1": 1, "l2": 2}.get(rows.norm, np.inf)
    distance, rounding = (
        np.linalg.norm(v, ord=power, axis=1) for v in (steps, rounding)
    )
    rounding = rounding + _ROUNDINGS * steps.shape[1] * distance
    inside = (rows.domain[0] <= rows.witness) & (rows.witness <= rows.domain[1])
    for row, record in enumerate(records):
        none = bool(np.isnan(rows.witness[row]).all())
        if none != (witness_class[row] < 0):
            raise fail(row, "the witness", "and its class are not both there")
        if record["status"] == "misclassified" or none:
            if not none or not (math.isinf(upper[row]) or upper[row] == 0):
                what = "a" if not none else "no"
                raise fail(
                    row,
                    "apothem_upper",
                    f"is {float(upper[row])!r}, but {what} witness is stored",
                )
            if upper[row] == 0 and record["status"] != "misclassified":
                raise fail(row, "apothem_upper", "is 0, but no witness is stored")
            continue
        if not inside[row].all():
            raise fail(row, "the witness", "lies outside the domain")
        # NaN, too, is not within.
        within = (
            abs(upper[row] - distance[row])
            <= rounding[row] + 4e-16 * distance[row] + _TINY
        )
        if not within:
            raise fail(
                row, "apothem_upper",
                f"is {float(upper[row])!r}, but its witness is at "
                f"{float(distance[row])!r}",
            )  # fmt: skip


def _check_grown(
    records: Sequence[Mapping[str, Any]], rows: _Rows, fail: _Fail
) -> None:
    inside = _holds_inside(rows.grown_lo, rows.grown_hi, rows)
    measured = _apothems(rows.grown_lo, rows.grown_hi, rows)
    for row, record in enumerate(records):
        grown = record.get("grown")
        box = rows.grown_lo[row], rows.grown_hi[row]
        if grown is None:
            if not np.isnan(box).all():
                raise fail(row, "grown", "is not there, but a grown box is stored")
            continue
        if record["status"] != "certified" or not inside[row]:
            raise fail(row, "grown", "is there, but no grown box around x is stored")
        stated, found = grown["apothem"], float(measured[row])
        if not (stated == found or abs(stated - found) <= _SUMS * found):
            raise fail(row, "grown.apothem", f"is {stated!r}, of its box {found!r}")
        _check_edges(row, "grown.", grown, box, fail)


def _holds_inside(
    lo: np.ndarray, hi: np.ndarray, rows: _Rows
) -> Bool[np.ndarray, " n"]:
    """Returns which boxes are boxes around x, in the domain; False for NaN."""
    below, above = rows.domain
    inside = (below <= lo) & (lo <= rows.x) & (rows.x <= hi) & (hi <= above)
    return np.all(inside, axis=1)


def _apothems(lo: np.ndarray, hi: np.ndarray, rows: _Rows) -> Float[np.ndarray, " n"]:
    """Returns the least slack, in rates, over the faces off the domain's boundary."""
    free = rows.rates > 0
    least = np.full(len(lo), np.inf)
    for slack, on_boundary in (
        (rows.x - lo, lo <= rows.domain[0]), (hi - rows.x, hi >= rows.domain[1]),
    ):  # fmt: skip
        steps = np.where(on_boundary | ~free, np.inf, slack / rows.rates)
        least = np.minimum(least, steps.min(axis=1))
    return least


def _check_proofs(
    folder: Path, records: Sequence[Mapping[str, Any]], rows: _Rows, fail: _Fail
) -> None:
    """Checks certified lines against the certificates that are there."""
    if not folder.is_dir():
        return
    for row, record in enumerate(records):
        path = folder / f"{file_stem(record['input'])}.npz"
        if record["status"] != "certified" or not path.exists():
            continue
        remedy = f"Remove it and line {record['input']!r}, and continue with --resume"
        with ArrayArchive(path, remedy) as archive:
            try:
                head = parse_json(archive.read("header").tobytes())
                label = record["predicted"]
                stated = {
                    "label": label if record["label"] is None else record["label"],
                    "required_margin": record["required_margin"],
                    "arithmetic": record["arithmetic"],
                }
                ends = ("apothem_lower", "apothem_upper")
                bracket = [math.inf if head[k] is None else head[k] for k in ends]
                own = [record[key] for key in ends]
                other = [key for key, value in stated.items() if head[key] != value]
                # Killed after a refined certificate was written and before its line:
                # the certificate proves more than is said.
                proved = (bracket[0] >= own[0], bracket[1] <= own[1])
                other += [
                    key for key, is_so in zip(ends, proved, strict=True) if not is_so
                ]
                stated |= {key: _or_none(record[key]) for key in ends}
            except (ValueError, LookupError, TypeError) as error:
                raise archive.damaged(error, "header: ") from error
            for key in other:
                raise fail(row, key, f"is {stated[key]!r}, in {path} {head[key]!r}")
            kept = ("x", "lo", "hi") if rows.norm == "linf" else ("x",)
            of_file = {key: archive.read(key) for key in kept}
            for key, array in of_file.items():
                of_line = getattr(rows, key)[row]
                same = np.array_equal(array, of_line)
                if bracket[0] > own[0] and key != "x" and array.shape == of_line.shape:
                    # Of the larger box that it proves.
                    beyond = array <= of_line if key == "lo" else array >= of_line
                    same = bool(beyond.all())
                if not same:
                    raise fail(row, key, f"is another one in {path}")


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
