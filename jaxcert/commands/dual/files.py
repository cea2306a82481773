"""The files of a run of dual.py: settings, boxes line by line, their instances."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.box import Box
from jaxcert.errors import InputError
from jaxcert.runs.array_files import read_npz, write_npz
from jaxcert.runs.files import writing
from jaxcert.runs.journal import Journal, Kind, Record
from jaxcert.runs.scopes import tell_scope
from jaxcert.scope import Scope
from jaxcert.search.dual import DualBox

INSTANCES = "instances"
_ENDS = ("lo", "hi")


def _key(record: Record) -> tuple[str, int]:
    return str(record["input"] or ""), int(record["class"])


KIND = Kind("dual.jsonl", "dual.json", "dual boxes", "a dual box", "its box", key=_key)


class DualFiles:
    """The writer of one run; a kill loses at most the box in progress.

    Instances are on the disk, in a file of their own, before the line of their box is.
    A box that is refined is appended once more: the later line counts.

    Attributes:
      journal: the lines, by the names of input and class.
    """

    def __init__(
        self,
        folder: Path,
        resume: bool,
        config: Mapping[str, Any],
        scope: Scope | None = None,
    ) -> None:
        """Begins a run, or continues the one in the folder; see `Journal`.

        `scope`, what its proofs cover, is told in dual.json beside the settings.
        """
        self.folder = folder
        self.journal = Journal(KIND, folder, resume, config)
        if scope is not None:
            tell_scope(folder / KIND.settings, scope)
        with writing(folder / INSTANCES):
            (folder / INSTANCES).mkdir(exist_ok=True)

    def append(self, record: Record, arrays: Mapping[str, np.ndarray]) -> None:
        """Stores a box; when it returns, it survives a kill.

        Args:
          record: names `input` and `class`.
          arrays: its instances.
        """
        numbers = [int(path.stem) for path in self._instances()]
        name = f"{INSTANCES}/{max(numbers, default=-1) + 1:05d}.npz"
        write_npz(self.folder / name, dict(arrays), compressed=True)
        self.journal.append({**record, "instances": name})

    def box(self, record: Record, domain: Box, tolerance: float) -> DualBox:
        """Returns the box of a line.

        Args:
          record: the line.
          domain, tolerance: as they were asked.

        Raises:
          InputError: its instances are lost or damaged, or it is of another domain.
        """
        shape = domain.lo.shape
        for end in _ENDS:
            there = np.reshape(record[f"domain_{end}"], shape)
            if not np.array_equal(there, getattr(domain, end)):
                raise InputError(
                    f"{self.journal.path}: the box of class {record['class']} of input "
                    f"{record['input']!r} is of another domain. Choose another --output"
                )
        remedy = "Remove its line and continue with --resume"
        witness = read_npz(self.folder / record["instances"], remedy)[INSTANCES]
        ends: dict[str, Any] = {
            name: Box(*(np.reshape(record[f"{name}_{end}"], shape) for end in _ENDS))  # type: ignore[arg-type]
            for name in ("outer", "inner")
        }
        return DualBox(
            record["class"], domain, ends["outer"], ends["inner"], witness,
            tolerance * np.asarray(domain.hi - domain.lo), record["subproblems"],
            np.asarray(record["face_seconds"], np.float64),
        )  # fmt: skip

    def settle(self) -> None:
        """Removes lines that were refined, and instances that no line names."""
        self.journal.settle()
        kept = {record["instances"] for record in self.journal.by_key.values()}
        with writing(self.folder / INSTANCES):
            for path in self._instances():
                if f"{INSTANCES}/{path.name}" not in kept:
                    path.unlink()

    def _instances(self) -> list[Path]:
        return list((self.folder / INSTANCES).glob("[0-9]*.npz"))
