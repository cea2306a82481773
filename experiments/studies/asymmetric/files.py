"""The lines of a comparison: one per method and input, flushed as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcert.report import strict_json
from jaxcert.report.disk import write_whole
from jaxcert.runs.journal import Journal, Kind, Record

SUMMARY = "summary.json"
KEYS = ("method", "input", "score", "l1", "l2", "linf", "seconds")
"""What a line states: radii are 0 where nothing is proved."""

KIND = Kind(
    "certificates.jsonl", "asymmetric.json", "a comparison", "a line", "its input", KEYS
)


class ComparisonFiles(Journal):
    """The writer of a comparison; a kill loses at most the batch in progress.

    Attributes:
      rows: what is answered, by method and input.
    """

    def __init__(self, folder: Path, resume: bool, config: Mapping[str, Any]) -> None:
        """Begins a comparison, or continues the one in the folder; see `Journal`."""
        self.rows: dict[tuple[str, str], Record] = {}
        super().__init__(KIND, folder, resume, config)

    def append(self, rows: Sequence[Record]) -> None:
        """Stores a batch of answers; when it returns, they survive a kill."""
        self._write(rows)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json."""
        text = strict_json.dumps(summary, SUMMARY, indent=1)
        write_whole(self.folder / SUMMARY, text.encode() + b"\n")

    def _take(self, record: Record) -> None:
        self.rows[record["method"], record["input"]] = record
