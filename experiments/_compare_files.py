"""The files of a comparison: a line per box as soon as it is known, and the boxes."""

from __future__ import annotations

import json
import os
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.box import Box
from jaxcert.errors import InputError
from jaxcert.report import strict_json
from jaxcert.report.disk import (
    append_all,
    read,
    read_json,
    write_npz,
    write_whole,
    writing,
)

LINES, SETTINGS, BOXES = "rows.jsonl", "compare.json", "boxes"

KEYS = (
    "algorithm", "input", "label", "finished", "verdict", "apothem", "min_edge",
    "mean_edge", "max_edge", "perimeter", "log_volume", "oracle_calls", "seconds",
    "audit_seconds",
)  # fmt: skip
"""What a line states. `verdict` is that of the audit; null for a dual box."""

Record = dict[str, Any]
Key = tuple[str, str]


class CompareFiles:
    """The writer of one comparison; a kill loses at most the box in progress.

    A box is on the disk, in `boxes/ALGORITHM/ROW.npz` (arrays x, lo, hi, label with a
    leading axis of 1, as audit.py reads them), before its line is.

    Attributes:
      records: what is known, by algorithm and input.
    """

    def __init__(self, folder: Path, resume: bool, config: Mapping[str, Any]) -> None:
        """Begins a comparison, or continues the one in the folder.

        Raises:
          InputError: the folder holds a comparison and `resume` is false, one with
            another config, damaged lines, or it cannot be written.
        """
        self.folder = folder
        self.records: dict[Key, Record] = {}
        lines = folder / LINES
        with writing(folder):
            (folder / BOXES).mkdir(parents=True, exist_ok=True)
        begun = lines.exists() and lines.stat().st_size > 0
        if begun and not resume:
            raise InputError(
                f"{folder} already holds a comparison ({LINES}). Continue it with "
                "--resume, or choose another --output; nothing was changed"
            )
        config = strict_json.encode(config, "config")
        if begun:
            self._check_config(config)
            self._continue(lines)
        else:
            text = strict_json.dumps(config, SETTINGS, indent=1)
            write_whole(folder / SETTINGS, text.encode() + b"\n")
        with writing(lines):
            # Unbuffered: a line is in the file when `write` returns.
            self._lines = open(lines, "ab", buffering=0)

    def __enter__(self) -> CompareFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._lines.close()

    def append(self, record: Record, row: int, x: np.ndarray, box: Box) -> None:
        """Stores a record and its box; when it returns, they survive a kill."""
        path = self._path(record["algorithm"], row)
        with writing(path.parent):
            path.parent.mkdir(exist_ok=True)
        arrays = {"x": x, "lo": box.lo, "hi": box.hi, "label": record["label"]}
        stored = {name: np.asarray(value)[None] for name, value in arrays.items()}
        write_npz(path, stored, compressed=True)
        line = strict_json.dumps(record, record["input"]).encode("ascii") + b"\n"
        with writing(self.folder / LINES):
            append_all(self._lines, line)
            os.fsync(self._lines.fileno())
        self.records[record["algorithm"], record["input"]] = record

    def box(self, algorithm: str, row: int) -> Box:
        """Returns a stored box.

        Raises:
          InputError: its file is missing or damaged.
        """
        path = self._path(algorithm, row)
        try:
            with np.load(path, allow_pickle=False) as stored:
                return Box(stored["lo"][0], stored["hi"][0])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} is missing or damaged ({error}). Choose another --output"
            ) from error

    def _path(self, algorithm: str, row: int) -> Path:
        return self.folder / BOXES / algorithm / f"{row:06d}.npz"

    def _check_config(self, config: Mapping[str, Any]) -> None:
        advice = "Choose another --output"
        stored = read_json(self.folder / SETTINGS, advice)
        for key in {**stored, **config}:
            if stored.get(key) != config.get(key):
                raise InputError(
                    f"{self.folder} holds a comparison with other settings: {key} is "
                    f"{stored.get(key)!r} there and {config.get(key)!r} here. {advice}"
                )

    def _continue(self, path: Path) -> None:
        """Takes the lines that are there; a torn last one is dropped and redone."""
        *lines, rest = read(path).split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                record = strict_json.decode(json.loads(line))
                if set(record) != set(KEYS):
                    raise ValueError("other keys")
                self.records[record["algorithm"], record["input"]] = record
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{path}, line {number}: not a row of this program ({error}). "
                    "Choose another --output; nothing was changed"
                ) from error
        if rest:
            write_whole(path, b"".join(line + b"\n" for line in lines))
