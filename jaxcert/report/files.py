"""The files of a run: written chunk by chunk, so that a kill at any instant loses
at most the chunk in progress.

Order of writing, for each chunk of inputs:
  1. `parts/boxes-NNNNN.npz`, whole or not at all (written beside, then renamed);
  2. one line per input appended to the journal `certificates.jsonl`, and flushed.
The lines decide what counts as done; every line has its boxes on disk already. A kill
after step 1 leaves boxes without lines, which are ignored and redone. A kill inside a
line leaves a torn last line, which is dropped and redone. A refined answer is stored in
the same way; of several lines of an input the last counts, with the newest boxes that
agree with it. `close` and `finish` gather the parts in `boxes.npz` (renamed into place
before the parts are deleted), and leave one line per input.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import time
from collections.abc import KeysView, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxcert.errors import InputError
from jaxcert.report.agreement import check_agreement
from jaxcert.report.boxes import (
    BOX_KEYS,
    BOXES,
    GROWN_BOX_KEYS,
    LINES,
    PARTS,
    box_arrays,
    check_rows,
    floating,
    missing_boxes,
    part_paths,
    read_boxes,
)
from jaxcert.report.stored import (
    KIND,
    RECORD_KEYS,
    RUN,
    SCHEMA,
    SUMMARY,
    TIME_LIMIT,
    check_record,
    check_refined,
    input_of,
    read_about,
    read_config,
    read_scope_of_run,
    read_time_limit,
    refines,
)
from jaxcert.report.summary import summarise
from jaxcert.runs import strict_json
from jaxcert.runs.array_files import write_npz
from jaxcert.runs.files import Closing, read_json, write_whole, writing
from jaxcert.runs.journal import Journal, Lines
from jaxcert.runs.scopes import SCOPE, tell_scope
from jaxcert.scope import Scope


class RunFiles(Closing):
    """The writer of one run's files in one directory.

    Use it as a context manager: leaving the block, also by Ctrl-C, calls `close`.

    Attributes:
      directory: where the files are.
      notices: what the user was told, such as that a torn line was dropped.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        resume: bool,
        config: Mapping[str, Any],
        flags: Mapping[str, Any] | None = None,
        scope: Scope | None = None,
        command: str = "",
    ):
        """Opens or continues the run in `output_dir`.

        Args:
          output_dir: made if absent.
          resume: continue the run that is there; a new one is begun where there is
            none.
          config: what changes the meaning of a record (model content hash, data set,
            required_margin, domain, objective, oracle, tolerance, seed); a run is
            continued only under the same. Leave out what may change between the two,
            such as which inputs, the batch size and the time limit. The report knows
            `model`, `dataset`, `split`, `domain_lower`, `domain_upper`, `class_names`
            and `feature_names`, and prints every other key as it is.
          flags: all settings, for summary.json.
          command: what was typed, for summary.json and the report.
          scope: what the proofs cover, for run.json, summary.json and the report.

        Raises:
          InputError: the directory cannot be written, it holds a run and `resume` is
            false, or it holds a run with another config.
        """
        self.directory = Path(output_dir)
        self.notices: list[str] = []
        self._config = strict_json.encode(config, "config")
        self._flags = strict_json.encode(flags or {}, "flags")
        self._command = command
        self._start = time.monotonic()
        self._earlier_seconds = 0.0
        self._closed = False
        self._journal = Journal(KIND, self.directory, resume, {}, choose=self._choose)
        self.notices += self._journal.notices
        with writing(self.directory):
            (self.directory / PARTS).mkdir(exist_ok=True)
            for path in (self.directory / PARTS).glob("*.tmp"):
                path.unlink()  # half written when the run was killed
        if not self._journal.begun:
            # No line, so nothing here counts as done: what lies here is left over.
            with writing(self.directory):
                for name in (BOXES, SUMMARY):
                    (self.directory / name).unlink(missing_ok=True)
                for path in part_paths(self.directory):
                    path.unlink()
            stored = {"schema": SCHEMA, "config": self._config, "started": _now()}
            told = strict_json.dumps(stored, RUN, indent=1).encode() + b"\n"
            try:
                write_whole(self.directory / RUN, told)
            except InputError:
                self._journal.path.unlink()  # no run was begun
                raise
        if scope is not None:
            tell_scope(self.directory / RUN, scope)
        present = [int(path.stem[-5:]) for path in part_paths(self.directory)]
        self._next_part = max(present, default=-1) + 1

    @property
    def done(self) -> KeysView[str]:
        """Names of the inputs that the run already answers."""
        return self._journal.by_key.keys()

    @property
    def time_limit(self) -> float:
        """The longest time limit that open brackets were given, in seconds."""
        return read_time_limit(self.directory)

    def tell_time_limit(self, seconds: float) -> None:
        """Says that brackets that are still open are so after a limit of `seconds`."""
        if seconds > self.time_limit:
            path = self.directory / RUN
            held = read_json(path, "Choose another --output")
            told = {**held, TIME_LIMIT: strict_json.encode(seconds, TIME_LIMIT)}
            write_whole(path, strict_json.dumps(told, RUN, indent=1).encode() + b"\n")

    def refine(self, records: Sequence[Mapping[str, Any]], **arrays: Any) -> None:
        """Stores narrower brackets of inputs that are answered, as `append` does.

        Until it returns, and after a kill before that, the earlier answers count.

        Raises:
          InputError: as `append`, or a bracket is not narrower than the one that is
            there.
        """
        for record in records:
            earlier = self._journal.by_key.get(record["input"])
            if earlier is None or not refines(record, earlier):
                raise InputError(
                    f"input {record['input']!r}: no wider bracket is stored in "
                    f"{self.directory} that this one refines"
                )
        self._store(records, set(), **arrays)

    def append(
        self,
        records: Sequence[Mapping[str, Any]],
        x: Float[np.ndarray, " n *shape"],
        lo: Float[np.ndarray, " n *shape"],
        hi: Float[np.ndarray, " n *shape"],
        witness: Float[np.ndarray, " n *shape"] | None = None,
        witness_class: Int[np.ndarray, " n"] | None = None,
        grown: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Stores a chunk of answers; when it returns, they survive a kill.

        Args:
          records: one per input, with exactly the keys `RECORD_KEYS`, and "grown", a
            dict of `GROWN_KEYS` or None, where boxes grow.
          x, lo, hi: inputs and proved boxes. The box of a misclassified input is
            stored as NaN ("no box") whatever is given.
          witness: counterexamples, NaN rows where there is none.
          witness_class: their predicted classes, -1 where there is none.
          grown: (lo, hi) of the boxes that the proved ones grew to, NaN where none did.

        Raises:
          InputError: a record lacks a key, claims a bracket that is not ordered, or
            answers an input that is already answered; arrays that do not fit; or the
            files cannot be written.
        """
        seen = set(self.done)
        self._store(records, seen, x, lo, hi, witness, witness_class, grown)

    def _store(
        self,
        records: Sequence[Mapping[str, Any]],
        seen: set[str],
        x: np.ndarray,
        lo: np.ndarray,
        hi: np.ndarray,
        witness: np.ndarray | None = None,
        witness_class: np.ndarray | None = None,
        grown: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Stores answers to inputs that are none of `seen`."""
        if self._closed:
            raise InputError(f"the run in {self.directory} is closed")
        if not records:
            return
        ordered = []
        for record in records:
            check_record(record)
            if record["input"] in seen:
                raise InputError(
                    f"input {record['input']!r} is already answered in "
                    f"{self.directory}. Give each input once"
                )
            seen.add(record["input"])
            keys = (*RECORD_KEYS, *(["grown"] if "grown" in record else []))
            plain = {key: record[key] for key in keys}
            ordered.append(strict_json.encode(plain, f"record of {record['input']!r}"))
        arrays = box_arrays(records, x, lo, hi, witness, witness_class)
        if grown is not None:
            pair = zip(GROWN_BOX_KEYS, grown, strict=True)
            arrays |= {key: floating(v) for key, v in pair}
            check_rows(arrays, GROWN_BOX_KEYS, x.shape)
        part = self.directory / PARTS / f"boxes-{self._next_part:05d}.npz"
        write_npz(part, arrays, compressed=False)
        self._next_part += 1
        self._journal.append(*ordered)

    def add_seconds(self, seconds: float) -> None:
        """Counts time that was spent on these answers before, by another process."""
        self._earlier_seconds += seconds

    def finish(self) -> dict[str, Any]:
        """Gathers the boxes in boxes.npz, writes summary.json and returns its content.

        The summary says `complete: true`; call this when every input was answered.
        """
        return self._seal(complete=True)

    def close(self) -> None:
        """Gathers what there is, with `complete: false`; nothing after `finish`."""
        if not self._closed:
            self._seal(complete=False)

    def _seal(self, complete: bool) -> dict[str, Any]:
        if self._closed:
            raise InputError(f"the run in {self.directory} is closed")
        self._closed = True
        # From the disk, not from memory: an interrupt may have come between the two.
        lines = self._journal.reread()
        check_refined(self.directory / LINES, lines)
        self.notices += lines.notices
        records = lines.latest(input_of).records
        config = strict_json.decode(self._config)
        arrays, missing = read_boxes(self.directory, records, config)
        if missing:
            raise InputError(missing_boxes(self.directory, missing))
        if not any("grown" in r for r in records):
            arrays = {key: arrays[key] for key in BOX_KEYS}
        parts = part_paths(self.directory)
        write_npz(self.directory / BOXES, arrays, compressed=True)
        self._journal.settle()
        with writing(self.directory / PARTS):
            # Oldest first: the newest that agrees with the line is the right one.
            for path in parts:
                path.unlink()
            if not any((self.directory / PARTS).iterdir()):
                (self.directory / PARTS).rmdir()
        summary = {
            "schema": SCHEMA,
            "complete": complete,
            **summarise(records),
            "wall_seconds": round(
                self._earlier_seconds + time.monotonic() - self._start, 3
            ),
            "date": _now(),
            "versions": _versions(),
            "device": _device(),
            "config": self._config,
            "flags": self._flags,
            "command": self._command,
        }
        scope = read_scope_of_run(self.directory)
        if scope is not None:
            summary[SCOPE] = scope.record()
        write_whole(
            self.directory / SUMMARY,
            strict_json.dumps(summary, SUMMARY, indent=1).encode() + b"\n",
        )
        return summary

    def _check_config(self) -> None:
        """Raises InputError where the run that is there has other settings."""
        if not (self.directory / RUN).exists():
            raise InputError(
                f"{self.directory} holds {LINES} but no {RUN}, so its settings are "
                "not known and it cannot be continued. Choose another --output"
            )
        stored = read_config(self.directory)
        keys = [*stored, *(key for key in self._config if key not in stored)]
        differing = [
            f"{key} is {_brief(stored, key)} there and {_brief(self._config, key)} here"
            for key in keys
            if stored.get(key) != self._config.get(key)
            or (key in stored) != (key in self._config)
        ]
        if differing:
            raise InputError(
                f"{self.directory} holds a run with other settings: "
                f"{'; '.join(differing)}. Continue it under the same settings, or "
                "choose another --output"
            )

    def _choose(self, lines: Lines) -> list[int]:
        """Returns which lines have no box, and says so; see `Journal`.

        Raises:
          InputError: the run has other settings, two lines are of one input and the
            second does not refine the first, or one disagrees with its box.
        """
        self._check_config()
        about = read_about(self.directory)
        self._earlier_seconds = about.get("wall_seconds", 0.0)
        path = self.directory / LINES
        check_refined(path, lines)
        last, config = lines.latest(input_of), strict_json.decode(self._config)
        arrays, lost = read_boxes(self.directory, last.records, config)
        missing = set(lost)
        names = [record["input"] for record in last.records]
        boxed = [i for i, name in enumerate(names) if name not in missing]
        check_agreement(
            path,
            [last.numbers[i] for i in boxed],
            [last.records[i] for i in boxed],
            arrays,
            config,
        )
        if missing:
            lines.notices.append(
                f"{len(missing)} of {len(names)} lines of {path} have no stored box; "
                "they are dropped and redone"
            )
        return [i for i, r in enumerate(lines.records) if r["input"] in missing]


def _brief(config: Mapping[str, Any], key: str) -> str:
    """Returns one setting in few characters; a list of bounds may be long."""
    if key not in config:
        return "not set"
    text = repr(config[key])
    return text if len(text) <= 40 else text[:36] + " ..."


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    """Returns the versions that a result depends on."""
    versions = {"python": platform.python_version()}
    for package in ("jax", "jaxlib", "numpy", "jaxcert"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _device() -> str:
    """Returns what JAX computes on, such as "1 x cpu (cpu)"."""
    import jax

    devices = jax.local_devices()
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
