"""A file of one JSON object per line that survives a kill and is continued."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxcert.runs.journal import Journal, Kind, Record


class Ledger(Journal):
    """The rows of a run; a row that was appended survives a kill.

    Attributes:
      rows: what is known so far, in the order in which it became known.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        config: Mapping[str, Any],
        resume: bool,
        check: Callable[[Record], None] | None = None,
    ) -> None:
        """Begins FOLDER/NAME.jsonl, or continues it; its settings lie in NAME.json.

        Args:
          check: raises ValueError for a row that this program does not write.
        """
        self.rows: list[Record] = []
        self._check_row = check
        kind = Kind(f"{name}.jsonl", f"{name}.json", "rows", "a row")
        super().__init__(kind, folder, resume, config)

    def append(self, *rows: Record) -> None:
        """Stores rows; when it returns, they survive a kill."""
        self._write(rows)

    def _take(self, record: Record) -> None:
        if self._check_row is not None:
            self._check_row(record)
        self.rows.append(record)

    # A folder may hold several ledgers, so that it is the file that is spoken of.

    def _held(self) -> str:
        return f"{self.path} already holds {self.kind.noun}"

    def _other(self) -> str:
        return f"{self.folder / self.kind.settings} is of other settings"
