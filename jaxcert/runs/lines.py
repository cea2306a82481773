"""Records of a run that state its settings, each of them, in a file of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxcert.errors import InputError
from jaxcert.report import strict_json
from jaxcert.runs.journal import Journal, Kind, Record


class Lines(Journal):
    """The records of a run, in the file and in memory.

    Attributes:
      records: those of an earlier run, then those added, as they read back.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], resume: bool) -> None:
        """Begins the file at `path`, or continues it; see `Journal`.

        Args:
          path: the file.
          settings: what all records of it have in common; stored in every line.
          resume: continue what is there.
        """
        self.records: list[Record] = []
        self._settings = strict_json.decode(strict_json.encode(settings, "settings"))
        kind = Kind(path.name, "", "records", "a record")
        super().__init__(kind, path.parent, resume, settings)

    def append(self, record: Record) -> None:
        """Stores a record; when it returns, it survives a kill."""
        self._write([{**record, "settings": self._settings}])

    def _take(self, record: Record) -> None:
        found = dict(record["settings"])
        other = [k for k, v in self._settings.items() if found.get(k) != v]
        if other:
            raise InputError(
                f"{self.path} was written with another {other[0]}: resume with the "
                "same flags, or choose another --output"
            )
        self.records.append(record)
