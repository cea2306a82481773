"""Reads what the parts leave behind: rows of their own, or files of the commands."""

from __future__ import annotations

import collections
import csv
from pathlib import Path

from device.rows import Row, read_rows
from device.verdicts import VERDICTS

_ONE_EACH = ("throughput.jsonl", "sweep.jsonl")


def rows_of(path: Path, kind: str) -> list[Row]:
    """Returns the rows of a part's file, as far as it was written.

    Args:
      path: of the file.
      kind: its name as commands call it, which says how to read it.
    """
    if not path.is_file():
        return []
    if kind == VERDICTS:
        return _tests(read_rows(path))
    if kind == "results.csv":
        return _benchmark(path)
    rows = read_rows(path)
    if kind in _ONE_EACH:
        return [{"figure": kind.partition(".")[0], **row} for row in rows]
    return rows


def _tests(verdicts: list[Row]) -> list[Row]:
    names = {
        outcome: [row["test"] for row in verdicts if row["outcome"] == outcome]
        for outcome in ("passed", "skipped", "failed")
    }
    longest = max(verdicts, key=lambda row: row["seconds"], default=None)
    row = {
        "figure": "tests", "passed": len(names["passed"]),
        "skipped": len(names["skipped"]), "failed": names["failed"],
        "longest": longest and f"{longest['test']} {longest['seconds']:.1f} s",
    }  # fmt: skip
    return [row]


def _benchmark(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    counts = collections.Counter(row["result"].partition(":")[0] for row in found)
    return [
        {
            "figure": "benchmark",
            "instances": len(found),
            **counts,
            "seconds_of_decided": sum(
                float(r["seconds"]) for r in found if r["result"] in ("sat", "unsat")
            ),
            "rows": [list(row.values()) for row in found],
        }
    ]
