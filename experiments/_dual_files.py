"""The files of a run of dual.py: settings, boxes line by line, their instances."""

from __future__ import annotations

import json
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

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

LINES, SETTINGS, INSTANCES = "dual.jsonl", "dual.json", "instances"

Record = dict[str, Any]
Key = tuple[str, int]


class DualFiles:
    """The writer of one run; a kill loses at most the box in progress.

    Instances are on the disk, in a file of their own, before the line of their box is.

    Attributes:
      records: what is answered, by the names of input and class.
      notices: sentences the user should read.
    """

    def __init__(self, folder: Path, resume: bool, config: Mapping[str, Any]) -> None:
        """Begins a run, or continues the one in the folder.

        Args:
          folder: made if absent.
          resume: continue what is there.
          config: what changes the meaning of a line; a run is continued only under the
            same.

        Raises:
          InputError: the folder holds a run and `resume` is false, one with another
            config, something else, or it cannot be written.
        """
        self._folder = folder
        self.records: dict[Key, Record] = {}
        self.notices: list[str] = []
        lines = folder / LINES
        with writing(folder):
            (folder / INSTANCES).mkdir(parents=True, exist_ok=True)
        config = strict_json.encode(config, "config")
        if lines.exists() and lines.stat().st_size > 0:
            if not resume:
                raise InputError(
                    f"{folder} already holds dual boxes ({LINES}). Continue with "
                    "--resume, or choose another --output; nothing was changed"
                )
            self._check_config(config)
            self._continue()
        else:
            text = strict_json.dumps(config, SETTINGS, indent=1)
            write_whole(folder / SETTINGS, text.encode() + b"\n")
        with writing(lines):
            # Unbuffered: a line is in the file when `write` returns.
            self._lines = open(lines, "ab", buffering=0)

    def __enter__(self) -> DualFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._lines.close()

    def append(self, record: Record, arrays: Mapping[str, np.ndarray]) -> None:
        """Stores a box; when it returns, it survives a kill.

        Args:
          record: names `input` and `class`.
          arrays: its instances.
        """
        key = _key(record)
        name = f"{INSTANCES}/{len(self.records):05d}.npz"
        write_npz(self._folder / name, dict(arrays), compressed=True)
        record = {**record, "instances": name}
        line = strict_json.dumps(record, LINES).encode("ascii") + b"\n"
        with writing(self._folder / LINES):
            append_all(self._lines, line)
            os.fsync(self._lines.fileno())
        self.records[key] = strict_json.decode(json.loads(line))

    def _check_config(self, config: Mapping[str, Any]) -> None:
        advice = "Choose another --output"
        stored = read_json(self._folder / SETTINGS, advice)
        for key in {**stored, **config}:
            if stored.get(key) != config.get(key):
                raise InputError(
                    f"{self._folder} holds dual boxes of other settings: {key} is "
                    f"{stored.get(key)!r} there and {config.get(key)!r} here. {advice}"
                )

    def _continue(self) -> None:
        """Takes what is answered; drops a last line that a kill has torn."""
        path = self._folder / LINES
        *lines, rest = read(path).split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                record = strict_json.decode(json.loads(line))
                self.records[_key(record)] = record
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}, line {number}: not a dual box ({error!r}). Choose "
                    "another --output; nothing was changed"
                ) from error
        if rest:
            write_whole(path, b"".join(line + b"\n" for line in lines))
            self.notices.append(f"{path}: the last line is torn; its box is redone")


def _key(record: Record) -> Key:
    return str(record["input"] or ""), int(record["class"])
