"""The files of a run of dual.py: settings, boxes line by line, their instances."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.runs.array_files import write_npz
from jaxcert.runs.files import writing
from jaxcert.runs.journal import Journal, Kind, Record
from jaxcert.runs.scopes import tell_scope
from jaxcert.scope import Scope

INSTANCES = "instances"


def _key(record: Record) -> tuple[str, int]:
    return str(record["input"] or ""), int(record["class"])


KIND = Kind("dual.jsonl", "dual.json", "dual boxes", "a dual box", "its box", key=_key)


class DualFiles:
    """The writer of one run; a kill loses at most the box in progress.

    Instances are on the disk, in a file of their own, before the line of their box is.

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
        name = f"{INSTANCES}/{len(self.journal.by_key):05d}.npz"
        write_npz(self.folder / name, dict(arrays), compressed=True)
        self.journal.append({**record, "instances": name})
