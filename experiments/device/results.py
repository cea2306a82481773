"""Reads what the parts leave behind: rows of their own, or files of the commands."""

from __future__ import annotations

import collections
import csv
from pathlib import Path
from xml.etree import ElementTree

from device.rows import Row, read_rows

_ONE_EACH = ("throughput.jsonl", "sweep.jsonl")


def rows_of(path: Path, kind: str) -> list[Row]:
    """Returns the rows of a part's file, as far as it was written.

    Args:
      path: of the file.
      kind: its name as commands call it, which says how to read it.
    """
    if not path.is_file():
        return []
    if kind == "tests.xml":
        return _tests(path)
    if kind == "results.csv":
        return _benchmark(path)
    rows = read_rows(path)
    if kind in _ONE_EACH:
        return [{"figure": kind.partition(".")[0], **row} for row in rows]
    return rows


def _tests(path: Path) -> list[Row]:
    suite = ElementTree.parse(path).getroot()
    cases = list(suite.iter("testcase"))
    wrong = [
        f"{case.get('classname')}.{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(wrong) - skipped
    return [{"figure": "tests", "passed": passed, "skipped": skipped, "failed": wrong}]


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
