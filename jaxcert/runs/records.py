"""Records of a run, one JSON line each: a kill loses what is not yet a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxcert.report import strict_json
from jaxcert.runs.journal import Journal, Kind, Record

SETTINGS = "settings.json"


class Records(Journal):
    """The lines of one run, and the settings under which they were found.

    Attributes:
      settings: what the records depend on, as text.
      by_name: the records, by their `name`.
    """

    def __init__(
        self, path: Path, resume: bool, settings: Mapping[str, Any], keys: Iterable[str]
    ) -> None:
        """Begins a run in the folder of `path`, or continues it; see `Journal`.

        Args:
          path: the file of lines.
          resume: continue what is there.
          settings: what changes the meaning of a record.
          keys: what every record has, besides its `name`.
        """
        self.by_name: dict[str, Record] = {}
        self.settings = strict_json.dumps(settings, SETTINGS, indent=1)
        kind = Kind(path.name, SETTINGS, "a run", "a record", keys=("name", *keys))
        super().__init__(kind, path.parent, resume, settings)

    def append(self, records: Iterable[Record]) -> None:
        """Stores records; when it returns, they survive a kill."""
        self._write(records)

    def _take(self, record: Record) -> None:
        if record["name"] in self.by_name:
            raise ValueError("the second one of its name")
        self.by_name[record["name"]] = record
