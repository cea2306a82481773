"""The lines of a comparison: one per method and input, flushed as they come."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxcert.runs import strict_json
from jaxcert.runs.files import write_whole
from jaxcert.runs.journal import Kind

SUMMARY = "summary.json"
KEYS = ("method", "input", "score", "l1", "l2", "linf", "seconds")
"""What a line states: radii are 0 where nothing is proved."""

KIND = Kind(
    "certificates.jsonl", "asymmetric.json", "a comparison", "a line", "its input",
    KEYS, operator.itemgetter("method", "input"),
)  # fmt: skip


def finish(folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes summary.json."""
    text = strict_json.dumps(summary, SUMMARY, indent=1)
    write_whole(folder / SUMMARY, text.encode() + b"\n")
