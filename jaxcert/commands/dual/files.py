"""The files of a run of dual.py: settings, boxes line by line, their instances."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.report.disk import write_npz, writing
from jaxcert.runs.journal import Journal, Kind, Record

INSTANCES = "instances"
KIND = Kind("dual.jsonl", "dual.json", "dual boxes", "a dual box", "its box")


class DualFiles(Journal):
    """The writer of one run; a kill loses at most the box in progress.

    Instances are on the disk, in a file of their own, before the line of their box is.

    Attributes:
      records: what is answered, by the names of input and class.
    """

    def __init__(self, folder: Path, resume: bool, config: Mapping[str, Any]) -> None:
        """Begins a run, or continues the one in the folder; see `Journal`."""
        self.records: dict[tuple[str, int], Record] = {}
        super().__init__(KIND, folder, resume, config)
        with writing(folder / INSTANCES):
            (folder / INSTANCES).mkdir(exist_ok=True)

    def append(self, record: Record, arrays: Mapping[str, np.ndarray]) -> None:
        """Stores a box; when it returns, it survives a kill.

        Args:
          record: names `input` and `class`.
          arrays: its instances.
        """
        name = f"{INSTANCES}/{len(self.records):05d}.npz"
        write_npz(self.folder / name, dict(arrays), compressed=True)
        self._write([{**record, "instances": name}])

    def _take(self, record: Record) -> None:
        self.records[str(record["input"] or ""), int(record["class"])] = record
