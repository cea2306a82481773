"""The files of a comparison: a line per box as soon as it is known, and the boxes."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.box import Box
from jaxcert.errors import InputError
from jaxcert.runs.array_files import read_npz, write_npz
from jaxcert.runs.files import writing
from jaxcert.runs.journal import Journal, Kind, Record

BOXES = "boxes"

KEYS = (
    "algorithm", "input", "label", "finished", "verdict", "apothem", "min_edge",
    "mean_edge", "max_edge", "perimeter", "log_volume", "oracle_calls", "seconds",
    "audit_seconds",
)  # fmt: skip
"""What a line states. `verdict` is that of the audit; null for a dual box."""

KIND = Kind(
    "rows.jsonl", "compare.json", "a comparison", "a row", "its box", KEYS,
    operator.itemgetter("algorithm", "input"),
)  # fmt: skip


class CompareFiles:
    """The writer of one comparison; a kill loses at most the box in progress.

    A box is on the disk, in `boxes/ALGORITHM/ROW.npz` (arrays x, lo, hi, label with a
    leading axis of 1, as audit.py reads them), before its line is.

    Attributes:
      journal: the lines.
    """

    def __init__(self, folder: Path, resume: bool, config: Mapping[str, Any]) -> None:
        """Begins a comparison, or continues the one in the folder; see `Journal`."""
        self.folder = folder
        self.journal = Journal(KIND, folder, resume, config)

    @property
    def records(self) -> dict[tuple[str, str], Record]:
        """What is known, by algorithm and input."""
        return self.journal.by_key

    def append(self, record: Record, row: int, x: np.ndarray, box: Box) -> None:
        """Stores a record and its box; when it returns, they survive a kill."""
        path = self._path(record["algorithm"], row)
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"x": x, "lo": box.lo, "hi": box.hi, "label": record["label"]}
        stored = {name: np.asarray(value)[None] for name, value in arrays.items()}
        write_npz(path, stored, compressed=True)
        self.journal.append(record)

    def box(self, algorithm: str, row: int) -> Box:
        """Returns a stored box.

        Raises:
          InputError: its file is missing or damaged.
        """
        path = self._path(algorithm, row)
        stored = read_npz(path, "Choose another --output", ("lo", "hi"))
        if not all(len(face) if face.ndim else 0 for face in stored.values()):
            raise InputError(f"{path} holds no box. Choose another --output")
        return Box(stored["lo"][0], stored["hi"][0])

    def _path(self, algorithm: str, row: int) -> Path:
        return self.folder / BOXES / algorithm / f"{row:06d}.npz"
