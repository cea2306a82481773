"""The files of an audit: verdicts line by line, the witnesses of broken boxes."""

from __future__ import annotations

import json
import os
import types
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.errors import InputError
from jaxcert.report import strict_json
from jaxcert.report.disk import (
    append_all,
    read,
    read_json,
    write_npz,
    write_whole,
    writing,
)

LINES = "audit.jsonl"
WITNESSES = "witnesses.npz"
SETTINGS = "audit.json"
PARTS = "audit_parts"
VERDICTS = ("broken", "sound", "unknown", "trivial")

KEYS = (
    "input", "label", "label_from", "predicted", "verdict", "required_margin",
    "witness_class", "witness_margin", "found_by", "holds_input", "min_edge",
    "max_edge", "subproblems", "seconds", "content_hash",
)  # fmt: skip
"""What a line states. Class and margin of a trivial box are those of its point."""

Record = dict[str, Any]


class AuditFiles:
    """The writer of one audit; a kill loses at most the box in progress.

    The witness of a broken box is on the disk, in a file of its own in `audit_parts/`,
    before its line is. Leaving the block gathers all of them in witnesses.npz, with
    arrays input, label, witness, witness_class, witness_margin, lo, hi.

    Attributes:
      records: what is answered, by name.
      notices: sentences the user should read.
    """

    def __init__(self, folder: Path, resume: bool, config: Mapping[str, Any]) -> None:
        """Begins an audit, or continues the one in the folder.

        Args:
          folder: made if absent.
          resume: continue what is there.
          config: what changes the meaning of a verdict; an audit is continued only
            under the same.

        Raises:
          InputError: the folder holds an audit and `resume` is false, one with another
            config, something else, or it cannot be written.
        """
        self.folder = folder
        self.records: dict[str, Record] = {}
        self.notices: list[str] = []
        lines, parts = folder / LINES, folder / PARTS
        if (folder / WITNESSES).exists() and not lines.exists():
            raise InputError(
                f"{folder} holds a {WITNESSES}, but no {LINES} that it belongs to. "
                "Choose another --output; nothing was changed"
            )
        with writing(folder):
            parts.mkdir(parents=True, exist_ok=True)
            for path in parts.glob("*.tmp"):
                path.unlink()
        begun = lines.exists() and lines.stat().st_size > 0
        if begun and not resume:
            raise InputError(
                f"{folder} already holds an audit ({LINES}). Continue it with "
                "--resume, or choose another --output; nothing was changed"
            )
        config = strict_json.encode(config, "config")
        if begun:
            self._check_config(config)
            self._continue()
        else:
            with writing(folder):
                (folder / WITNESSES).unlink(missing_ok=True)
                for path in parts.glob("*.npz"):
                    path.unlink()
            text = strict_json.dumps(config, SETTINGS, indent=1)
            write_whole(folder / SETTINGS, text.encode() + b"\n")
        present = [int(path.stem) for path in parts.glob("*.npz")]
        self._next_part = max(present, default=-1) + 1
        with writing(lines):
            # Unbuffered: a line is in the file when `write` returns.
            self._lines = open(lines, "ab", buffering=0)

    def __enter__(self) -> AuditFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._lines.close()
        self._gather()

    def append(self, record: Record, found: Mapping[str, np.ndarray] | None) -> None:
        """Stores a verdict; when it returns, it survives a kill.

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
        line = strict_json.dumps(record, record["input"]).encode("ascii") + b"\n"
        with writing(self.folder / LINES):
            append_all(self._lines, line)
            os.fsync(self._lines.fileno())
        self.records[record["input"]] = record

    def _check_config(self, config: Mapping[str, Any]) -> None:
        advice = "Choose another --output"
        stored = read_json(self.folder / SETTINGS, advice)
        for key in {**stored, **config}:
            if stored.get(key) != config.get(key):
                raise InputError(
                    f"{self.folder} holds an audit with other settings: {key} is "
                    f"{stored.get(key)!r} there and {config.get(key)!r} here. {advice}"
                )

    def _continue(self) -> None:
        """Takes what is answered; drops a torn line, and broken without a witness."""
        path = self.folder / LINES
        *lines, rest = read(path).split(b"\n")
        if rest:
            self.notices.append(f"{path}: the last line is torn; its box is redone")
        known = set(self._witnesses())
        kept = b""
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                name, broken = record["input"], record["verdict"] == "broken"
                if set(record) != set(KEYS) or record["verdict"] not in VERDICTS:
                    raise ValueError("other keys, or no verdict")
                if name in self.records:
                    raise ValueError(f"the second one on {name}")
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}, line {number}: not a verdict of this program ({error}). "
                    "Choose another --output; nothing was changed"
                ) from error
            if broken and name not in known:
                self.notices.append(f"{path}: {name} has no witness; it is redone")
                continue
            kept += line + b"\n"
            self.records[name] = record
        if self.notices:
            write_whole(path, kept)

    def _witnesses(self) -> dict[str, dict[str, np.ndarray]]:
        """Returns the stored rows of witnesses, by name; the newest of each counts."""
        paths = sorted((self.folder / PARTS).glob("*.npz"))
        if (self.folder / WITNESSES).exists():
            paths.insert(0, self.folder / WITNESSES)
        found = {}
        for path in paths:
            try:
                with np.load(path, allow_pickle=False) as stored:
                    arrays = {key: stored[key] for key in stored.files}
                for row, name in enumerate(arrays["input"].tolist()):
                    found[name] = {key: array[row] for key, array in arrays.items()}
            except (
                ValueError, KeyError, OSError, IndexError, EOFError,
                zipfile.BadZipFile, zlib.error,
            ) as error:  # fmt: skip
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
