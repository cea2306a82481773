"""A file of one JSON object per line that survives a kill and is continued."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxcert.errors import InputError
from jaxcert.report import strict_json
from jaxcert.report.disk import append_all, read, read_json, write_whole, writing

Row = dict[str, Any]


class Ledger:
    """The rows of a run; a row that was appended survives a kill.

    Attributes:
      rows: what is known so far, in the order in which it became known.
      torn: whether a half-written last line was dropped.
    """

    def __init__(
        self, folder: Path, name: str, config: Mapping[str, Any], resume: bool
    ) -> None:
        """Begins FOLDER/NAME.jsonl, or continues it; its settings lie in NAME.json.

        Args:
          folder: made if absent.
          name: of both files.
          config: what changes the meaning of a row.
          resume: continue what is there.

        Raises:
          InputError: there are rows and `resume` is false, or rows of another config,
            or lines that are none, or the folder cannot be written.
        """
        self.path, settings = folder / f"{name}.jsonl", folder / f"{name}.json"
        self.rows: list[Row] = []
        self.torn = False
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        begun = self.path.exists() and self.path.stat().st_size > 0
        if begun and not resume:
            raise InputError(
                f"{self.path} already holds rows. Continue it with --resume, or choose "
                "another --output; nothing was changed"
            )
        config = strict_json.encode(config, "config")
        if begun:
            self._check(settings, config)
            self._continue()
        else:
            text = strict_json.dumps(config, settings.name, indent=1)
            write_whole(settings, text.encode() + b"\n")

    def append(self, *rows: Row) -> None:
        """Stores rows, all or none of them; when it returns, they survive a kill."""
        plain = [strict_json.encode(row, "row") for row in rows]
        lines = "".join(strict_json.dumps(row, "row") + "\n" for row in plain)
        with writing(self.path), open(self.path, "ab", buffering=0) as file:
            append_all(file, lines.encode("ascii"))
            os.fsync(file.fileno())
        self.rows += plain

    def _check(self, settings: Path, config: Mapping[str, Any]) -> None:
        advice = "Choose another --output"
        stored = read_json(settings, advice)
        for key in {**stored, **config}:
            if stored.get(key) != config.get(key):
                raise InputError(
                    f"{settings} is of other settings: {key} is {stored.get(key)!r} "
                    f"there and {config.get(key)!r} here. {advice}"
                )

    def _continue(self) -> None:
        *lines, rest = read(self.path).split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("no object")
            except ValueError as error:
                raise InputError(
                    f"{self.path}, line {number}: not a row of this program ({error}). "
                    "Choose another --output; nothing was changed"
                ) from error
            self.rows.append(row)
        if rest:
            self.torn = True
            write_whole(self.path, b"".join(line + b"\n" for line in lines))
