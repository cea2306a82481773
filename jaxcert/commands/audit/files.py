"""The files of an audit: verdicts line by line, the witnesses of broken boxes."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.errors import InputError
from jaxcert.runs.array_files import read_npz, write_npz
from jaxcert.runs.files import Closing, writing
from jaxcert.runs.journal import Journal, Kind, Record, Texts
from jaxcert.runs.scopes import tell_scope
from jaxcert.scope import Scope

WITNESSES, PARTS = "witnesses.npz", "audit_parts"
VERDICTS = ("broken", "sound", "unknown", "trivial")

KEYS = (
    "input", "label", "label_from", "predicted", "verdict", "required_margin",
    "witness_class", "witness_margin", "found_by", "holds_input", "min_edge",
    "max_edge", "subproblems", "seconds", "content_hash",
)  # fmt: skip
"""What a line states. Class and margin of a trivial box are those of its point."""
TIMEOUT = "timeout"
"""What a line states beside: the most seconds that the box was given."""

KIND = Kind(
    "audit.jsonl", "audit.json", "an audit", "a verdict", "its box", KEYS,
    operator.itemgetter("input"), texts=Texts(second="the second one on {}"),
    newer=(TIMEOUT,),
)  # fmt: skip


class AuditFiles(Closing):
    """The writer of one audit; a kill loses at most the box in progress.

    The witness of a broken box is on the disk, in a file of its own in `audit_parts/`,
    before its line is. Leaving the block gathers all of them in witnesses.npz, with
    arrays input, label, witness, witness_class, witness_margin, lo, hi.

    Attributes:
      journal: its lines.
    """

    def __init__(
        self,
        folder: Path,
        resume: bool,
        config: Mapping[str, Any],
        scope: Scope | None = None,
    ) -> None:
        """Begins an audit, or continues the one in the folder; see `Journal`.

        `scope`, what its proofs cover, is told in audit.json beside the settings.
        """
        self.folder, parts = folder, folder / PARTS
        if (folder / WITNESSES).exists() and not (folder / KIND.lines).exists():
            raise InputError(
                f"{folder} holds a {WITNESSES}, but no {KIND.lines} that it belongs "
                "to. Choose another --output; nothing was changed"
            )
        self.journal = Journal(KIND, folder, resume, config, self._check)
        if scope is not None:
            tell_scope(folder / KIND.settings, scope)
        with writing(parts):
            parts.mkdir(exist_ok=True)
            for path in parts.glob("*.tmp"):
                path.unlink()
            if not self.journal.begun:
                (folder / WITNESSES).unlink(missing_ok=True)
                for path in parts.glob("*.npz"):
                    path.unlink()
        present = [int(path.stem) for path in parts.glob("*.npz")]
        self._next_part = max(present, default=-1) + 1

    @property
    def records(self) -> dict[str, Record]:
        """What is answered, by name."""
        return self.journal.by_key

    def close(self) -> None:
        """Gathers the witnesses."""
        self._gather()

    def append(self, record: Record, found: Mapping[str, np.ndarray] | None) -> None:
        """Stores a verdict; when it returns, it survives a kill.

        It takes the place of an earlier one on the same box.

        Args:
          record: with the name of the box under `input`.
          found: for a broken box, its row of witnesses.npz without the name.
        """
        if found is not None:
            row = {key: np.asarray(value)[None] for key, value in found.items()}
            row["input"] = np.array([record["input"]])
            part = self.folder / PARTS / f"{self._next_part:06d}.npz"
            write_npz(part, row, compressed=True)
            self._next_part += 1
            self._with_witness.add(record["input"])
        self.journal.put(record)

    @functools.cached_property
    def _with_witness(self) -> set[str]:
        return set(self._witnesses())

    def _check(self, record: Record) -> str | None:
        if record["verdict"] not in VERDICTS:
            raise ValueError("no verdict")
        if record["verdict"] == "broken" and record["input"] not in self._with_witness:
            return f"{record['input']} has no witness; it is redone"
        return None

    def _witnesses(self) -> dict[str, dict[str, np.ndarray]]:
        """Returns the stored rows of witnesses, by name; the newest of each counts."""
        paths = sorted((self.folder / PARTS).glob("*.npz"))
        if (self.folder / WITNESSES).exists():
            paths.insert(0, self.folder / WITNESSES)
        found = {}
        for path in paths:
            try:
                arrays = read_npz(path, "Choose another --output")
                for row, name in enumerate(arrays["input"].tolist()):
                    found[name] = {key: array[row] for key, array in arrays.items()}
            except (LookupError, TypeError) as error:  # other arrays than ours
                raise InputError(
                    f"{path} is damaged ({error}). Choose another --output"
                ) from error
        return found

    def _gather(self) -> None:
        """Writes witnesses.npz from what is on the disk, then removes the parts."""
        stored = self._witnesses()
        broken = [n for n, r in self.records.items() if r["verdict"] == "broken"]
        rows = [stored[name] for name in broken]
        keys = rows[0] if rows else ["input"]
        arrays = {key: np.array([row[key] for row in rows]) for key in keys}
        write_npz(self.folder / WITNESSES, arrays, compressed=True)
        parts = self.folder / PARTS
        with writing(parts):
            for path in parts.glob("*.npz"):
                path.unlink()
            parts.rmdir()
