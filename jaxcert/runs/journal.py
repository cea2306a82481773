"""The journal of a run: a line for whatever is known, safe from a kill at once.

A journal is a file of lines and the settings that they depend on. It is never
overwritten, and continued only under the settings it was begun with. A last line that a
kill has torn is dropped and its answer redone; a line that this program does not write
is refused before anything is changed. Of two lines of one key the later counts: an
answer that is refined is written once more, and `settle` removes what it replaces.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import operator
import os
from collections.abc import (
    Callable,
    Collection,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import Any

from absl import logging

from jaxcert.errors import InputError
from jaxcert.runs import strict_json
from jaxcert.runs.files import append, parse_json, read, read_json, write_whole, writing
from jaxcert.runs.scopes import SCOPE

Record = dict[str, Any]

# What reading a line that is not ours may raise.
_NOT_OURS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


def _read_object(line: bytes) -> Record:
    record = strict_json.decode(parse_json(line))
    if not isinstance(record, dict):
        raise ValueError("no object")
    return record


def _write_object(record: Mapping[str, Any]) -> bytes:
    return strict_json.dumps(record, "a record").encode("ascii")


@dataclasses.dataclass(frozen=True)
class Form:
    """How a record is written as a line, which is strict JSON unless said otherwise.

    Attributes:
      read: returns the record of a line, or None for one that says nothing; raises
        ValueError, LookupError or TypeError for one that this program does not write.
      write: returns the line, without its end.
      header: the first line of the file, if it has one.
      mends_last: whether a last line that cannot be read counts as torn: a machine that
        loses power may leave one of NUL bytes.
    """

    read: Callable[[bytes], Record | None] = _read_object
    write: Callable[[Mapping[str, Any]], bytes] = _write_object
    header: bytes = b""
    mends_last: bool = False


@dataclasses.dataclass(frozen=True)
class Texts:
    """What messages say of a journal; names in braces are filled in.

    Attributes:
      held: the beginning of the refusal to overwrite.
      other: the refusal to continue under other settings.
      refused: the refusal of a line that this program does not write.
      torn: what the user is told of a torn line.
      second: why a second line of one key is refused; "": it is not, the later counts.
    """

    held: str = "{folder} already holds {noun} ({lines})"
    other: str = (
        "{folder} holds {noun} with other settings: {key} is {there!r} there and "
        "{here!r} here. Choose another --output"
    )
    refused: str = (
        "{path}, line {number}: not {line} of this program ({reason}). Choose another "
        "--output; nothing was changed"
    )
    torn: str = "{path}: the last line is torn; {redone} is redone"
    second: str = ""


@dataclasses.dataclass(frozen=True)
class Kind:
    """Where the lines of a run are, what tells them apart, what messages call them.

    Attributes:
      lines: name of their file.
      settings: name of the file with what they depend on; "": every line says it.
      noun: all of them: "an audit".
      line: one of them: "a verdict".
      redone: what is done again where one is torn: "its box".
      keys: what a line states, no more and no less; (): not all state the same.
      key: of a record, what tells it from the others; None: nothing does.
      under: where every line says the settings, the name under which; "": beside what
        else it states.
      form: of a line.
      texts: of the messages.
      newer: what a line may state beside `keys`: lines of earlier versions do not.
    """

    lines: str
    settings: str
    noun: str
    line: str
    redone: str = "it"
    keys: tuple[str, ...] = ()
    key: Callable[[Record], Hashable] | None = None
    under: str = ""
    form: Form = Form()
    texts: Texts = Texts()
    newer: tuple[str, ...] = ()


def rows(name: str) -> Kind:
    """Returns the kind of rows in NAME.jsonl, with others in one folder."""
    texts = Texts(
        held="{path} already holds {noun}",
        other="{folder}/{settings} is of other settings: {key} is {there!r} there and "
        "{here!r} here. Choose another --output",
    )
    return Kind(f"{name}.jsonl", f"{name}.json", "rows", "a row", texts=texts)


def stating(lines: str) -> Kind:
    """Returns the kind of records each of which states all settings."""
    texts = Texts(
        other="{path} was written with another {key}: resume with the same flags, or "
        "choose another --output"
    )
    return Kind(lines, "", "records", "a record", under="settings", texts=texts)


def named(lines: str, keys: Iterable[str]) -> Kind:
    """Returns the kind of records with a `name` that is unique, and these keys."""
    return Kind(
        lines, "settings.json", "a run", "a record", keys=("name", *keys),
        key=operator.itemgetter("name"),
        texts=Texts(second="the second one of its name"),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Lines:
    """What a file of lines holds.

    Attributes:
      records: in the order of the file.
      raw: their lines as stored.
      numbers: of these lines, from 1.
      notices: sentences on what was dropped while reading.
      torn: whether the last line was, and is dropped.
    """

    records: list[Record]
    raw: list[bytes]
    numbers: list[int]
    notices: list[str]
    torn: bool

    def latest(self, key: Callable[[Record], Hashable]) -> Lines:
        """Returns the last line of every key, in the order of the first ones."""
        last = {key(record): row for row, record in enumerate(self.records)}
        rows = list(last.values())
        return dataclasses.replace(
            self,
            records=[self.records[row] for row in rows],
            raw=[self.raw[row] for row in rows],
            numbers=[self.numbers[row] for row in rows],
        )


def read_lines(
    path: Path, kind: Kind, take: Callable[[Record], str | None] | None = None
) -> Lines:
    """Returns what a file of lines holds; changes nothing.

    Args:
      path: the file.
      kind: of its lines.
      take: told every record; returns why it is dropped, or None; raises as
        `Form.read`.

    Raises:
      InputError: it cannot be read, or a line is not of this kind.
    """
    *lines, rest = read(path).split(b"\n")
    torn, header = bool(rest), kind.form.header
    if header:
        first = lines[0].strip() if lines else header[: len(rest)]
        if first != (header if lines else rest):
            raise _refusal(kind, path, 1, "another header")
    records: list[Record] = []
    raw: list[bytes] = []
    numbers: list[int] = []
    notices: list[str] = []
    for number, line in enumerate(lines, 1):
        if header and number == 1:
            continue
        try:
            with _refusing(kind, path, number):
                record = kind.form.read(line)
                if record is not None and take and (reason := take(record)):
                    record = None
                    notices.append(f"{path}: {reason}")
        except InputError:
            if not kind.form.mends_last or number < len(lines) or rest:
                raise
            torn, record = True, None
        if record is not None:
            records.append(record)
            raw.append(line)
            numbers.append(number)
    if torn:
        notices.append(_said(kind.texts.torn, kind, path))
    return Lines(records, raw, numbers, notices, torn)


class Journal:
    """The lines of a run, in the file and in memory.

    Attributes:
      kind: of the lines.
      folder: where they lie.
      path: their file.
      settings: what they depend on, as JSON text.
      records: those of an earlier run, then those added, as they read back.
      by_key: the last of each `kind.key`, in the order of the first ones.
      begun: whether there were any lines when it was opened.
      torn: whether the last one was, and is dropped.
      notices: sentences on what is dropped; they are logged.
    """

    def __init__(
        self,
        kind: Kind,
        folder: Path,
        resume: bool,
        config: Mapping[str, Any],
        check: Callable[[Record], str | None] | None = None,
        choose: Callable[[Lines], Collection[int]] | None = None,
    ) -> None:
        """Begins a run, or continues the one in the folder.

        Args:
          kind: of the lines.
          folder: made if absent.
          resume: continue what is there.
          config: what changes the meaning of a line; a run is continued only under
            the same.
          check: returns why the line of a record is dropped and its answer redone, None
            if it is kept; raises ValueError, LookupError or TypeError for a record that
            this program does not write.
          choose: the same for all lines together, before anything is changed: returns
            the indices of records that are dropped, with a notice added.

        Raises:
          InputError: the folder holds a run and `resume` is false, one of another
            config, lines of something else, or it cannot be written.
        """
        self.kind, self.folder, self.path = kind, folder, folder / kind.lines
        self.records: list[Record] = []
        self.by_key: dict[Any, Record] = {}
        self.notices: list[str] = []
        self.torn = False
        self._check, self._choose = check, choose
        with writing(folder):
            if folder.exists() and not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            folder.mkdir(parents=True, exist_ok=True)
            self.begun = self.path.exists() and self.path.stat().st_size > 0
        if self.begun and not resume:
            raise InputError(
                f"{_said(kind.texts.held, kind, self.path)}. Continue it with "
                "--resume, or choose another --output; nothing was changed"
            )
        encoded = strict_json.encode(config, "config")
        self.settings = strict_json.dumps(encoded, "config", indent=1)
        self._config = strict_json.decode(encoded)
        if self.begun:
            if kind.settings:
                advice = "Choose another --output"
                self._compare(read_json(folder / kind.settings, advice), encoded, True)
            self._continue()
        elif kind.settings:
            write_whole(folder / kind.settings, self.settings.encode() + b"\n")
        # What cannot be written is told now, not after the first long answer.
        append(self.path, b"")
        if kind.form.header and not self.path.stat().st_size:
            append(self.path, kind.form.header + b"\n")

    def append(self, *records: Mapping[str, Any]) -> None:
        """Stores records; when it returns, they survive a kill.

        They are taken as a continued run would read them.
        """
        lines = [self._line(record) for record in records]
        append(self.path, b"".join(line + b"\n" for line in lines))
        for line in lines:
            if (record := self.kind.form.read(line)) is not None:
                self._take(record)

    def put(self, record: Record) -> None:
        """Stores a record, in the place of the one of its key if there is one."""
        assert self.kind.key is not None
        known = self.kind.key(record) in self.by_key
        (self.replace if known else self.append)(record)

    def replace(self, record: Mapping[str, Any]) -> None:
        """Stores a record in the place of the one of its key, which must be there.

        A kill leaves one of the two.
        """
        assert self.kind.key is not None
        line, of = self._line(record), self.kind.key
        stored = self.kind.form.read(line)
        assert stored is not None
        key, lines = of(stored), read_lines(self.path, self.kind)
        known = [of(each) for each in lines.records]
        lines.raw[known.index(key)] = line
        self._rewrite(lines.raw, ())
        self.records = [stored if of(r) == key else r for r in self.records]
        self.by_key[key] = stored

    def _line(self, record: Mapping[str, Any]) -> bytes:
        """Returns a record as a line, with the settings where every line says them."""
        under = self.kind.under
        stated = {under: self._config} if under else self._config
        if self.kind.settings:
            stated = {}
        return self.kind.form.write({**record, **stated})

    def reread(self) -> Lines:
        """Returns what is on the disk, after removing a torn last line from it."""
        lines = read_lines(self.path, self.kind)
        if lines.notices:
            self._rewrite(lines.raw, lines.notices)
        return lines

    def settle(self) -> None:
        """Keeps the last line of every key alone in the file."""
        assert self.kind.key is not None
        lines = read_lines(self.path, self.kind)
        last = lines.latest(self.kind.key)
        if len(last.raw) < len(lines.raw):
            self._rewrite(last.raw, ())

    def _continue(self) -> None:
        """Takes what is there; rewrites the file without what is redone."""
        lines = read_lines(self.path, self.kind, self._take)
        dropped = set(self._choose(lines) if self._choose else ())
        kept = [i for i in range(len(lines.raw)) if i not in dropped]
        if dropped:
            self.records, self.by_key = [], {}
            for i in kept:
                self._take(lines.records[i])
        self.torn = lines.torn
        if lines.notices:
            self._rewrite([lines.raw[i] for i in kept], lines.notices)

    def _rewrite(self, kept: Iterable[bytes], notices: Sequence[str]) -> None:
        """Keeps these lines alone, and says why."""
        header = self.kind.form.header
        whole = [header, *kept] if header else kept
        write_whole(self.path, b"".join(line + b"\n" for line in whole))
        for notice in notices:
            logging.warning("%s", notice)
        self.notices += notices

    def _take(self, record: Record) -> str | None:
        """Keeps a record that was read; returns why it is dropped instead, if it is."""
        kind = self.kind
        if kind.keys and set(record) - set(kind.newer) != set(kind.keys):
            raise ValueError("other keys")
        if not kind.settings:
            stored = dict(record[kind.under]) if kind.under else record
            self._compare(stored, self._config, False)
        key = kind.key(record) if kind.key else None
        if kind.texts.second and key in self.by_key:
            raise ValueError(kind.texts.second.format(key))
        if self._check and (reason := self._check(record)):
            return reason
        self.records.append(record)
        if kind.key:
            self.by_key[key] = record
        return None

    def _compare(
        self, stored: Mapping[str, Any], config: Mapping[str, Any], every: bool
    ) -> None:
        """Raises InputError if settings differ; `every`: also in those not of ours."""
        for key in {**(stored if every else {}), **config}:
            there, here = stored.get(key), config.get(key)
            if there != here and not (every and key == SCOPE):
                facts = {"key": key, "there": there, "here": here, "stored": stored}
                raise InputError(
                    _said(self.kind.texts.other, self.kind, self.path, **facts)
                )


def _said(text: str, kind: Kind, path: Path, **facts: Any) -> str:
    names = {name: getattr(kind, name) for name in ("lines", "settings", "noun",
                                                    "line", "redone")}  # fmt: skip
    return text.format(path=path, folder=path.parent, **names, **facts)


def _refusal(kind: Kind, path: Path, number: int, reason: object) -> InputError:
    return InputError(
        _said(kind.texts.refused, kind, path, number=number, reason=reason)
    )


@contextlib.contextmanager
def _refusing(kind: Kind, path: Path, number: int) -> Iterator[None]:
    """Turns what a line of something else raises into an InputError that names it."""
    try:
        yield
    except InputError:  # a ValueError, but one that says what it is
        raise
    except _NOT_OURS as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise _refusal(kind, path, number, reason) from error
