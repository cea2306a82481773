"""What a comparison prints: a row per algorithm, means over audited sound boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_WIDTH = 80
_Record = Mapping[str, Any]
_HEAD = (
    "algorithm", "sound", "apothem", "min", "mean", "max", "log-vol", "perim.",
    "calls", "sec.",
)  # fmt: skip
_WIDTHS = (17, 5, 7, 6, 6, 6, 7, 6, 6, 5)


def table(records: Sequence[_Record]) -> str:
    """Returns the table of the boxes that claim to be sound, in 80 columns.

    Geometry is the mean over the boxes that the audit proved; calls and seconds are
    means over all inputs.
    """
    rows = [_line(_HEAD), "-" * _WIDTH]
    notes = []
    for name, group in _groups(records).items():
        sound = [r for r in group if r["verdict"] == "sound"]
        cells = [name, f"{len(sound)}/{len(group)}"]
        for key, form in (
            ("apothem", ".4f"), ("min_edge", ".4f"), ("mean_edge", ".4f"),
            ("max_edge", ".4f"), ("log_volume", ".0f"), ("perimeter", ".1f"),
        ):  # fmt: skip
            cells.append(format(_mean(sound, key), form) if sound else "-")
        calls = [r for r in group if r["oracle_calls"] is not None]
        cells.append(f"{_mean(calls, 'oracle_calls'):.0f}" if calls else "-")
        cells.append(_seconds(_mean(group, "seconds")))
        rows.append(_line(cells))
        notes += _notes(name, group, sound)
    return "\n".join(rows + notes)


def dual_table(records: Sequence[_Record], misses: Mapping[str, int]) -> str:
    """Returns the table of the dual boxes, in 80 columns.

    Args:
      records: of algorithms for dual boxes.
      misses: how many sound boxes are not inside their finished dual box, by
        algorithm; one is a contradiction.
    """
    rows = []
    for name, group in _groups(records).items():
        ended = [r for r in group if r["finished"]]
        whole = sum(r["apothem"] == math.inf for r in ended)
        rows += [
            f"{name}, dual boxes: {len(ended)}/{len(group)} finished, {whole} of them "
            "the whole domain;",
            f"  means of those: min edge {_mean(ended, 'min_edge'):.4f}, mean edge "
            f"{_mean(ended, 'mean_edge'):.4f};",
            f"  {_mean(group, 'oracle_calls'):.0f} calls, "
            f"{_seconds(_mean(group, 'seconds'))} s; "
            f"{misses[name]} proved boxes not inside their dual box",
        ]
    return "\n".join(rows)


def _groups(records: Sequence[_Record]) -> dict[str, list[_Record]]:
    groups: dict[str, list[_Record]] = {}
    for record in records:
        groups.setdefault(record["algorithm"], []).append(record)
    return groups


def _notes(name: str, group: Sequence[_Record], sound: Sequence[_Record]) -> list[str]:
    """Returns what the numbers of a row do not tell: limits, broken boxes, -inf."""
    words = []
    for verdict in ("broken", "unknown"):
        if count := sum(r["verdict"] == verdict for r in group):
            words.append(f"{count} {verdict}")
    if late := sum(not r["finished"] for r in group):
        words.append(f"{late} ended by the limit")
    if flat := sum(r["log_volume"] == -math.inf for r in sound):
        words.append(f"{flat} with an edge of 0 (log-volume -inf)")
    return [f"  {name}: {', '.join(words)}"] if words else []


def _mean(records: Sequence[_Record], key: str) -> float:
    values = [float(r[key]) for r in records]
    return math.fsum(values) / len(values) if values else math.nan


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _line(cells: Sequence[str]) -> str:
    first, *others = (
        cell.rjust(width) if k else cell.ljust(width)
        for k, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True))
    )
    return " ".join([first, *others]).rstrip()
