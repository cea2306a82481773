"""Records of a run, one JSON line each: a kill loses what is not yet a line."""

from __future__ import annotations

import json
import os
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxcert.errors import InputError
from jaxcert.report import strict_json
from jaxcert.report.disk import append_all, read, read_json, write_whole, writing

SETTINGS = "settings.json"
Record = dict[str, Any]


class Records:
    """The lines of one run, and the settings under which they were found.

    Attributes:
      folder: where they are.
      settings: what the records depend on, as text.
      by_name: the records, by their `name`.
      notices: sentences the user should read.
    """

    def __init__(
        self, path: Path, resume: bool, settings: Mapping[str, Any], keys: Iterable[str]
    ) -> None:
        """Begins a run in the folder of `path`, or continues the one that is there.

        Args:
          path: the file of lines; its folder is made if absent.
          resume: continue what is there.
          settings: what changes the meaning of a record; a run is continued only
            under the same.
          keys: what every record has, besides its `name`.

        Raises:
          InputError: the folder holds a run and `resume` is false, one with other
            settings, lines of something else, or it cannot be written.
        """
        self.folder, self._path = path.parent, path
        self.by_name: dict[str, Record] = {}
        self.notices: list[str] = []
        self._keys = {"name", *keys}
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        begun = path.exists() and path.stat().st_size > 0
        if begun and not resume:
            raise InputError(
                f"{self.folder} already holds a run ({path.name}). Continue it with "
                "--resume, or choose another --output; nothing was changed"
            )
        settings = strict_json.encode(settings, "settings")
        self.settings = strict_json.dumps(settings, SETTINGS, indent=1)
        if begun:
            self._check_settings(settings)
            self._continue()
        else:
            write_whole(self.folder / SETTINGS, self.settings.encode() + b"\n")
        with writing(path):
            # Unbuffered: a line is in the file when `write` returns.
            self._lines = open(path, "ab", buffering=0)

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._lines.close()

    def append(self, records: Iterable[Record]) -> None:
        """Stores records; when it returns, they survive a kill."""
        records = list(records)
        lines = [strict_json.dumps(r, r["name"]).encode("ascii") for r in records]
        with writing(self._path):
            append_all(self._lines, b"".join(line + b"\n" for line in lines))
            os.fsync(self._lines.fileno())
        self.by_name |= {record["name"]: record for record in records}

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        advice = "Choose another --output"
        stored = read_json(self.folder / SETTINGS, advice)
        for key in {**stored, **settings}:
            if stored.get(key) != settings.get(key):
                raise InputError(
                    f"{self.folder} holds a run with other settings: {key} is "
                    f"{stored.get(key)!r} there and {settings.get(key)!r} here. "
                    f"{advice}"
                )

    def _continue(self) -> None:
        """Takes what is there; drops a torn last line."""
        *lines, rest = read(self._path).split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                record = strict_json.decode(json.loads(line))
                if set(record) != self._keys or record["name"] in self.by_name:
                    raise ValueError("other keys, or the second one of its name")
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{self._path}, line {number}: not a record of this program "
                    f"({error}). Choose another --output; nothing was changed"
                ) from error
            self.by_name[record["name"]] = record
        if rest:
            self.notices.append(f"{self._path}: the last line is torn; it is redone")
            write_whole(self._path, b"".join(line + b"\n" for line in lines))
