"""The lines of a comparison: one per method and input, flushed as they come."""

from __future__ import annotations

import json
import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcert.errors import InputError
from jaxcert.report import strict_json
from jaxcert.report.disk import append_all, read, read_json, write_whole, writing

LINES, SETTINGS, SUMMARY = "certificates.jsonl", "asymmetric.json", "summary.json"
KEYS = ("method", "input", "score", "l1", "l2", "linf", "seconds")
"""What a line states: radii are 0 where nothing is proved."""

Row = dict[str, Any]


class ComparisonFiles:
    """The writer of a comparison; a kill loses at most the batch in progress.

    Attributes:
      rows: what is answered, by method and input.
      notices: sentences the user should read.
    """

    def __init__(self, folder: Path, resume: bool, config: Mapping[str, Any]) -> None:
        """Begins a comparison, or continues the one in the folder.

        Raises:
          InputError: the folder holds one and `resume` is false, one with other
            settings, something else, or it cannot be written.
        """
        self.folder = folder
        self.rows: dict[tuple[str, str], Row] = {}
        self.notices: list[str] = []
        lines, settings = folder / LINES, folder / SETTINGS
        config = strict_json.encode(config, "config")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if settings.exists():
            if not resume:
                raise InputError(
                    f"{folder} already holds a comparison ({SETTINGS}). Continue it "
                    "with --resume, or choose another --output; nothing was changed"
                )
            _check_config(folder, config)
            self._continue(lines)
        else:
            text = strict_json.dumps(config, SETTINGS, indent=1)
            write_whole(settings, text.encode() + b"\n")
        with writing(lines):
            # Unbuffered: a line is in the file when `write` returns.
            self._lines = open(lines, "ab", buffering=0)

    def __enter__(self) -> ComparisonFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._lines.close()

    def append(self, rows: Sequence[Row]) -> None:
        """Stores a batch of answers; when it returns, they survive a kill."""
        with writing(self.folder / LINES):
            for row in rows:
                line = strict_json.dumps(row, row["input"]).encode("ascii") + b"\n"
                append_all(self._lines, line)
                self.rows[row["method"], row["input"]] = row
            os.fsync(self._lines.fileno())

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json."""
        text = strict_json.dumps(summary, SUMMARY, indent=1)
        write_whole(self.folder / SUMMARY, text.encode() + b"\n")

    def _continue(self, path: Path) -> None:
        """Takes what is answered; drops a torn last line, whose batch is redone."""
        if not path.exists():
            return
        *lines, rest = read(path).split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                row = strict_json.decode(json.loads(line))
                if not isinstance(row, dict) or tuple(row) != KEYS:
                    raise ValueError("other keys")
            except ValueError as error:
                raise InputError(
                    f"{path}, line {number}: not a line of this program ({error}). "
                    "Choose another --output; nothing was changed"
                ) from error
            self.rows[row["method"], row["input"]] = row
        if rest:
            self.notices.append(f"{path}: the last line is torn; its input is redone")
            write_whole(path, b"".join(line + b"\n" for line in lines))


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    advice = "Choose another --output"
    stored = read_json(folder / SETTINGS, advice)
    for key in {**stored, **config}:
        if stored.get(key) != config.get(key):
            raise InputError(
                f"{folder} holds a comparison with other settings: {key} is "
                f"{stored.get(key)!r} there and {config.get(key)!r} here. {advice}"
            )
