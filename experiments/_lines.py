"""A file of records, one line of strict JSON each, that outlives a killed run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxcert.errors import InputError
from jaxcert.files import write_atomically
from jaxcert.report.strict_json import decode, dumps

Record = dict[str, Any]


class Lines:
    """The records of a run, in the file and in memory.

    Attributes:
      records: those kept from an earlier run, then those added, as they read back.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], resume: bool) -> None:
        """Reads the complete lines of an earlier run if it is to be continued.

        Args:
          path: the file.
          settings: what all records of it have in common; stored in every line.
          resume: whether to keep what is there.

        Raises:
          InputError: lines of other settings, or a place that cannot be written.
        """
        self.path = path
        self.settings = json.loads(dumps(settings, "settings"))
        self.records = self._kept() if resume and path.is_file() else []
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "".join(map(_line, self.records)).encode())
        self.records = [decode(record) for record in self.records]

    def _kept(self) -> list[Record]:
        records = []
        for line in self.path.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut off by a kill: it is made again
            found = record.get("settings", {})
            other = [k for k, v in self.settings.items() if found.get(k) != v]
            if other:
                raise InputError(
                    f"{self.path} was written with another {other[0]}: resume with "
                    "the same flags, or choose another --output"
                )
            records.append(record)
        return records

    @contextmanager
    def adding(self) -> Iterator[Any]:
        """Yields `add(record)`, which writes a line and flushes it."""
        with self.path.open("a") as file:

            def add(record: Mapping[str, Any]) -> None:
                line = _line({**record, "settings": self.settings})
                file.write(line)
                file.flush()
                self.records.append(decode(json.loads(line)))

            yield add


def _line(record: Mapping[str, Any]) -> str:
    return dumps(record, "record") + "\n"
