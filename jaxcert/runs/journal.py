"""The files of a run that can be resumed: its lines, and the settings behind them.

A run writes one JSON object per line as soon as it is known. It is never overwritten,
and continued only under the settings it was begun with; a line that a kill has torn is
dropped and redone.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from jaxcert.errors import InputError
from jaxcert.report import strict_json
from jaxcert.report.disk import append_all, read, read_json, write_whole, writing
from jaxcert.runs.files import parse_json

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Kind:
    """Where the lines of a run are, and what messages call them.

    Attributes:
      lines: name of their file.
      settings: name of the file with what they depend on; "": every line says it.
      noun: all of them: "an audit".
      line: one of them: "a verdict".
      redone: what is done again where one is torn: "its box".
      keys: what a line states, no more and no less; (): not all state the same.
    """

    lines: str
    settings: str
    noun: str
    line: str
    redone: str = "it"
    keys: tuple[str, ...] = ()


class Journal:
    """The files of a run; each kind of run says in `_take` what becomes of a record.

    Attributes:
      folder: where they lie.
      path: the file of lines.
      begun: whether it held any when it was opened.
      torn: whether the last one was, and is dropped.
    """

    def __init__(
        self, kind: Kind, folder: Path, resume: bool, config: Mapping[str, Any]
    ) -> None:
        """Begins a run, or continues the one in the folder.

        Args:
          kind: of the lines.
          folder: made if absent.
          resume: continue what is there.
          config: what changes the meaning of a line; a run is continued only under
            the same.

        Raises:
          InputError: the folder holds a run and `resume` is false, one of another
            config, lines of something else, or it cannot be written.
        """
        self.kind, self.folder, self.path = kind, folder, folder / kind.lines
        self.torn = False
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self.begun = self.path.exists() and self.path.stat().st_size > 0
        if self.begun and not resume:
            raise InputError(
                f"{self._held()}. Continue it with --resume, or choose another "
                "--output; nothing was changed"
            )
        config = strict_json.encode(config, "config")
        if self.begun:
            self._check(config)
            self._continue()
        elif kind.settings:
            text = strict_json.dumps(config, kind.settings, indent=1)
            write_whole(folder / kind.settings, text.encode() + b"\n")
        with writing(self.path):
            # What cannot be written is told now, not after the first long answer.
            open(self.path, "ab").close()

    def _take(self, record: Record) -> str | None:
        """Keeps a record that was read, or has just been written.

        Returns:
          Why its line is dropped and its answer redone; None: it is kept.

        Raises:
          ValueError, KeyError, TypeError: this program writes no such record.
          InputError: it is of other settings.
        """
        raise NotImplementedError

    def _write(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Appends records; when it returns, they survive a kill.

        They are taken as a continued run would read them.
        """
        lines = [strict_json.dumps(record, self.kind.lines) for record in records]
        with writing(self.path), open(self.path, "ab", buffering=0) as file:
            append_all(file, "".join(line + "\n" for line in lines).encode("ascii"))
            os.fsync(file.fileno())
        for line in lines:
            self._take(strict_json.decode(parse_json(line)))

    def _held(self) -> str:
        """Returns the beginning of the refusal to overwrite."""
        return f"{self.folder} already holds {self.kind.noun} ({self.kind.lines})"

    def _other(self) -> str:
        """Returns the beginning of the refusal to continue under other settings."""
        return f"{self.folder} holds {self.kind.noun} with other settings"

    def _check(self, config: Mapping[str, Any]) -> None:
        if not self.kind.settings:
            return
        advice = "Choose another --output"
        stored = read_json(self.folder / self.kind.settings, advice)
        for key in {**stored, **config}:
            if stored.get(key) != config.get(key):
                raise InputError(
                    f"{self._other()}: {key} is {stored.get(key)!r} there and "
                    f"{config.get(key)!r} here. {advice}"
                )

    def _continue(self) -> None:
        """Takes what is there; rewrites the file without what is redone."""
        *lines, rest = read(self.path).split(b"\n")
        kept, notices = [], []
        for number, line in enumerate(lines, 1):
            if lost := self._read(number, line):
                notices.append(lost)
            else:
                kept.append(line + b"\n")
        if rest:
            self.torn = True
            notices.append(f"the last line is torn; {self.kind.redone} is redone")
        if notices:
            write_whole(self.path, b"".join(kept))
        for notice in notices:
            logging.warning("%s: %s", self.path, notice)

    def _read(self, number: int, line: bytes) -> str | None:
        try:
            record = strict_json.decode(parse_json(line))
            if not isinstance(record, dict):
                raise ValueError("no object")
            if self.kind.keys and set(record) != set(self.kind.keys):
                raise ValueError("other keys")
            return self._take(record)
        except InputError:
            raise
        except (
            ValueError, LookupError, TypeError, AttributeError, ArithmeticError
        ) as error:  # fmt: skip
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise InputError(
                f"{self.path}, line {number}: not {self.kind.line} of this program "
                f"({reason}). Choose another --output; nothing was changed"
            ) from error
