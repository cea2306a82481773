"""The files of a benchmark: instances to answer, and the results, row by row."""

from __future__ import annotations

import ast
import csv
import dataclasses
import io
import math
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from jaxcert.commands import console
from jaxcert.errors import InputError
from jaxcert.runs.files import write_whole, writing
from jaxcert.runs.journal import Form, Journal, Kind, Record, Texts
from jaxcert.runs.scopes import tell_scope
from jaxcert.scope import Scope

DECIDED = ("sat", "unsat")
RESULTS = (*DECIDED, "unknown", "timeout", "error")
"""What a row says; an error may be followed by its reason, `error: reason`."""
HEADER = ("onnx", "vnnlib", "result", "seconds")

Key = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Instance:
    """One question of a benchmark.

    Attributes:
      onnx, vnnlib: the files, as the list names them; see `named_files` for several
        networks.
      folder: what relative names are relative to.
      timeout: seconds.
      expected: the answer that is known, in lower case; '' if there is none.
    """

    onnx: str
    vnnlib: str
    folder: Path
    timeout: float
    expected: str = ""

    @property
    def key(self) -> Key:
        """What tells the instances of one benchmark apart."""
        return self.onnx, self.vnnlib

    def path(self, name: str) -> Path:
        """Returns where a file lies."""
        return existing(self.folder / console.expand(name))

    def networks(self) -> dict[str, Path]:
        """Returns where the networks lie, by the names that the property gives them."""
        return named_files(self.onnx, self.folder)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a results file."""

    result: str
    seconds: float

    @property
    def kind(self) -> str:
        """The result without a reason, one of RESULTS."""
        return self.result.partition(":")[0]

    def may_end_in(self, seconds: float) -> bool:
        """Whether its instance ran out of time, and sooner than after `seconds`."""
        return self.kind == "timeout" and self.seconds < seconds

    def says_more_than(self, timeout: Row) -> bool:
        """Whether it says more of an instance than a row that ran out of time."""
        if self.kind == "timeout":
            return self.seconds > timeout.seconds
        return self.kind != "error"


def named_files(text: str, folder: Path = Path()) -> dict[str, Path]:
    """Returns the files of networks by name: one without, as "", or several with.

        net.onnx
        f=first.onnx,g=second.onnx
        [("f", "first.onnx"), ("g", "second.onnx")]

    Args:
      text: a path, or one of the lists.
      folder: what relative names are relative to.

    Raises:
      InputError: a list that is none of these, or a name twice.
    """

    def at(file: str) -> Path:
        return existing(folder / console.expand(file))

    if at(text).exists() or "=" not in text and not text.lstrip().startswith("["):
        return {"": at(text)}
    try:
        if "=" in text:
            parts = [part.partition("=") for part in text.split(",")]
            pairs = [(name.strip(), file.strip()) for name, _, file in parts]
        else:
            pairs = [(str(n), str(f)) for n, f in ast.literal_eval(text.strip())]
        if len(dict(pairs)) < len(pairs) or not all(n and f for n, f in pairs):
            raise ValueError
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise InputError(
            f"networks are named as NAME=FILE,NAME=FILE, each once, not as "
            f"{console.one_line(text)}"
        ) from error
    return {name: at(file) for name, file in pairs}


def existing(path: Path) -> Path:
    """Returns the path, or that of its gzipped form if only this one exists."""
    packed = path.with_name(path.name + ".gz") if path.name else path
    return packed if packed.exists() and not path.exists() else path


def read_instances(path: Path, timeout: float | None) -> list[Instance]:
    """Returns the instances of a list, every pair of files once.

    Columns are onnx, vnnlib, timeout_s and expected by a header, or the first three of
    these in this order without one; others are ignored.

    Args:
      path: of the CSV file.
      timeout: for all instances; None for their own.

    Raises:
      InputError: the file cannot be read, lacks a column or a value, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"there is no file {path}: check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} as text ({error})") from error
    columns: Mapping[str, int] = {"onnx": 0, "vnnlib": 1, "timeout_s": 2}
    found: dict[Key, Instance] = {}
    first = True
    for line, cells in _rows(text, path):
        if first and {"onnx", "vnnlib"} <= set(cells):
            columns = {name: at for at, name in enumerate(cells)}
            first = False
            continue
        first = False
        row = {name: cells[at] for name, at in columns.items() if at < len(cells)}
        for name in ("onnx", "vnnlib"):
            if not row.get(name) or "\n" in row[name]:
                raise InputError(
                    f"{path}, line {line}: no {name} file is named. Columns are onnx, "
                    "vnnlib, timeout_s"
                )
        limit = timeout
        if limit is None:
            limit = _seconds(row.get("timeout_s", ""), f"{path}, line {line}")
        instance = Instance(
            row["onnx"], row["vnnlib"], path.parent, limit,
            row.get("expected", "").lower(),
        )  # fmt: skip
        if instance.key in found:
            logging.warning("%s, line %d: listed before; ignored", path, line)
        found.setdefault(instance.key, instance)
    if not found:
        raise InputError(f"{path} lists no instance")
    return list(found.values())


def _read_row(line: bytes) -> Record | None:
    """Returns a row as a record; None for a blank one; raises ValueError for others."""
    cells = [cell.strip() for row in csv.reader([line.decode()]) for cell in row]
    if not any(cells):
        return None
    onnx, vnnlib, result, seconds = cells
    row = Row(result, float(seconds))
    if row.kind not in RESULTS or not 0 <= row.seconds < math.inf:
        raise ValueError("no result")
    return {"key": (onnx, vnnlib), "row": row}


def _write_row(record: Mapping[str, Any]) -> bytes:
    text, row = io.StringIO(), record["row"]
    cells = (*record["key"], row.result, f"{row.seconds:.3f}")
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue().encode()


def _kind(name: str) -> Kind:
    """Returns the kind of a results file: rows of CSV below a header, no settings."""
    other = (
        "{path} is no results file of verify.py, or is damaged: repair it or choose "
        "another --output; nothing was changed"
    )
    texts = Texts(
        held="{path} exists already",
        refused=other,
        torn="the last row of {path} was incomplete; its instance is redone",
        second="answered twice",
    )
    form = Form(_read_row, _write_row, ",".join(HEADER).encode())
    key = operator.itemgetter("key")
    return Kind(name, "", "results", "a row", key=key, form=form, texts=texts)


class ResultsFile:
    """The writer of a results file; a kill loses at most the row in progress.

    Attributes:
      path: the file.
      rows: what is answered, in the order of the file.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        """Opens a new results file, or continues one; see `Journal`."""
        self.path = path
        self._journal = Journal(_kind(path.name), path.parent, resume, {})
        self.rows: dict[Key, Row] = {r["key"]: r["row"] for r in self._journal.records}
        self._told: dict[str, Scope] = {}
        if not self._journal.begun:
            with writing(self._scopes):  # of an older run with the same name
                self._scopes.unlink(missing_ok=True)

    @property
    def _scopes(self) -> Path:
        return self.path.with_name(f"{self.path.stem}_scopes.json")

    def append(self, key: Key, row: Row, counterexample: str) -> Path | None:
        """Stores an answer; returns where the counterexample lies, if there is one.

        It takes the place of an earlier one to the same instance. Counterexample 7 is
        that of the seventh row below the header.
        """
        known = key in self.rows
        path = self._counterexample(self.number(key) if known else len(self.rows) + 1)
        with writing(path):
            if counterexample:
                path.parent.mkdir(exist_ok=True)
                write_whole(path, counterexample.encode() + b"\n")
            else:
                # Of an older run with the same name; no answer of this one.
                path.unlink(missing_ok=True)
        self._journal.put({"key": key, "row": row})
        self.rows[key] = row
        return path if counterexample else None

    def number(self, key: Key) -> int:
        """Returns which row answers an instance, from 1."""
        return list(self.rows).index(key) + 1

    def counterexample(self, key: Key) -> str:
        """Returns the counterexample of an answered instance; empty without one."""
        path = self._counterexample(self.number(key))
        with writing(path):
            return path.read_text() if path.exists() else ""

    def _counterexample(self, number: int) -> Path:
        folder = self.path.with_name(f"{self.path.stem}_counterexamples")
        return folder / f"{number:03d}.txt"

    def tell(self, onnx: str, scope: Scope) -> None:
        """Stores what proofs of a network cover in NAME_scopes.json, by its name."""
        if self._told.get(onnx) != scope:
            tell_scope(self._scopes, scope, onnx)
            self._told[onnx] = scope


def contradictions(
    instances: Iterable[Instance], rows: Mapping[Key, Row]
) -> list[Instance]:
    """Returns the instances that are decided otherwise than expected."""
    return [
        instance
        for instance in instances
        if instance.key in rows and _compare(instance, rows[instance.key]) == "wrong"
    ]


def summary(instances: Sequence[Instance], rows: Mapping[Key, Row]) -> str:
    """Returns a table with a line per network, a total, and what contradicts."""
    done = [instance for instance in instances if instance.key in rows]
    expected = any(instance.expected for instance in done)
    head = ["network", "n", *RESULTS, "seconds"]
    if expected:
        head += ["agree", "open", "WRONG"]

    def line(name: str, chosen: Sequence[Instance]) -> list[str]:
        found = [rows[instance.key] for instance in chosen]
        counts = [sum(row.kind == result for row in found) for result in RESULTS]
        cells = [name, len(chosen), *counts, f"{sum(r.seconds for r in found):.1f}"]
        if expected:
            compared = [_compare(i, rows[i.key]) for i in chosen]
            cells += [compared.count(kind) for kind in ("agree", "unsolved", "wrong")]
        return [str(cell) for cell in cells]

    networks = dict.fromkeys(instance.onnx for instance in done)
    table = [head]
    for name in networks:
        table.append(line(_title(name), [i for i in done if i.onnx == name]))
    if len(networks) != 1:
        table.append(line("total", done))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    widths[0] = min(widths[0], 80 - sum(widths[1:]) - len(widths[1:]))
    for cells in table:
        if len(cells[0]) > widths[0]:
            cells[0] = cells[0][: widths[0] - 2] + ".."
    lines = [
        " ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]
    for instance in contradictions(done, rows):
        lines.append(
            f"CONTRADICTION: {console.one_line(' '.join(instance.key))}: "
            f"{rows[instance.key].result}, expected {instance.expected}"
        )
    return "\n".join(lines)


def _compare(instance: Instance, row: Row) -> str:
    """Returns 'agree', 'unsolved' or 'wrong'; '' if no answer is known."""
    if instance.expected not in DECIDED:
        return ""
    if row.result not in DECIDED:
        return "unsolved"
    return "agree" if row.result == instance.expected else "wrong"


def _title(onnx: str) -> str:
    name = os.path.basename(onnx).removesuffix(".gz").removesuffix(".onnx")
    return console.one_line(name)


def _rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (line, cells without blanks around them) of all rows but empty ones."""
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num, stripped
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from error


def _seconds(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise InputError(
            f"{where}: timeout_s is {text[:40]!r}; give a number of seconds > 0, or "
            "--timeout for all instances"
        )
    return value
