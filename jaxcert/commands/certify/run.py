"""Certifying the inputs of a run, batch by batch, on all devices of this process."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from jaxcert.branch.leaves import Proof
from jaxcert.certification import Certification
from jaxcert.certifier import Certifier
from jaxcert.commands.certify.grow import Grower
from jaxcert.commands.certify.proofs import Proofs
from jaxcert.commands.certify.refine import Earlier
from jaxcert.commands.inputs import Selection
from jaxcert.devices import spread
from jaxcert.report import Record, RunFiles
from jaxcert.runs.progress import progress

# How often a run that has no terminal says how far it is.
_NEWS_SECONDS = 30.0


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """The answer for one batch: rows of the selection, and how long they took."""

    rows: np.ndarray
    answer: Certification
    proof: Proof | None
    seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What a run certifies, with what, and where its answers go.

    Attributes:
      certifier: answers batches.
      chosen: the inputs.
      rows: which of them are this process's to answer, in order.
      devices: what computes.
      files: where answers are stored.
      proofs: writes certificates, if they are wanted.
      grower: grows the boxes, if that is wanted.
      arithmetic: real or float32, for the records.
    """

    certifier: Certifier
    chosen: Selection
    rows: np.ndarray
    devices: Sequence[jax.Device]
    files: RunFiles
    proofs: Proofs | None
    grower: Grower | None
    arithmetic: str

    def certify(self, seconds: float) -> str:
        """Certifies what is not done; returns what stopped it, or ''.

        Then goes on with the brackets that a shorter limit has left open.

        Args:
          seconds: after which no batch begins, and branch and bound stops.
        """
        names, files = self.chosen.names, self.files
        resumed = bool(files.done)
        todo = [int(i) for i in self.rows if names[i] not in files.done]
        if len(todo) < len(self.rows):
            logging.info("%d inputs are done already", len(self.rows) - len(todo))
        deadline = time.monotonic() + seconds
        longer = resumed and seconds > files.time_limit
        try:
            if not resumed:
                files.tell_time_limit(seconds)
            in_time = self._each("certifying", todo, deadline, self._store)
            if in_time and longer and self.certifier.options.oracle == "complete":
                in_time = self._refine(deadline)
                if in_time:
                    files.tell_time_limit(seconds)
        except KeyboardInterrupt:
            return "Ctrl-C"
        return "" if in_time else "the time limit"

    def _each(
        self,
        doing: str,
        todo: list[int],
        deadline: float,
        store: Callable[[_Part, float], None],
        earlier: Earlier | None = None,
    ) -> bool:
        """Answers rows, batch by batch; returns whether that ended in time."""
        finished = 0
        with (
            progress(doing, "inputs", len(todo), _NEWS_SECONDS) as show,
            self._answers(todo, deadline, earlier) as answers,
        ):
            for part in answers:
                store(part, deadline)
                finished += len(part.rows)
                show(finished)
        return finished == len(todo)

    def _refine(self, deadline: float) -> bool:
        """Goes on with the open brackets; returns whether that ended in time."""
        names, tolerance = self.chosen.names, self.certifier.tolerance
        earlier = Earlier.read(self.files.directory)
        todo = [int(i) for i in self.rows if earlier.is_open(names[i], tolerance)]
        if self.proofs is None:
            files = [i for i in todo if earlier.certified_by_file(names[i])]
            todo = [i for i in todo if i not in set(files)]
            if files:
                logging.warning(
                    "%d open brackets have a certificate, which would be left behind: "
                    "give --proofs to refine them", len(files),
                )  # fmt: skip
        logging.info("%d brackets are open; they are refined", len(todo))

        def store(part: _Part, deadline: float) -> None:
            self._store_refined(part, earlier, deadline)

        return self._each("refining", todo, deadline, store, earlier)

    def print_times(self) -> None:
        """Certifies everything once more and prints where the time goes."""
        seconds, stages = self.certifier.seconds, ("prove", "refute", "reprove",
                                                   "confirm", "branch")  # fmt: skip
        for stage in stages:
            setattr(seconds, stage, 0.0)
        with self._answers([int(i) for i in self.rows], math.inf) as answers:
            for _ in answers:
                pass
        print(
            f"\nsecond run, {len(self.rows)} inputs, without compilation:\n"
            f"  proof search {seconds.prove:.3f} s + re-proof in float64 "
            f"{seconds.reprove:.3f} s\n"
            f"  attack       {seconds.refute:.3f} s + confirmation       "
            f"{seconds.confirm:.3f} s\n"
            f"  branch and bound {seconds.branch:.3f} s"
        )

    def _answers(
        self, todo: list[int], deadline: float, earlier: Earlier | None = None
    ) -> contextlib.closing[Generator[_Part, None, None]]:
        """Returns an iterator over the answers, batch by batch, that must be closed."""
        size = self.certifier.options.batch_size

        def parts() -> Iterator[np.ndarray]:
            for start in range(0, len(todo), size):
                if time.monotonic() >= deadline:
                    return
                yield np.array(todo[start : start + size])

        def answer(rows: np.ndarray, until: Any) -> _Part:
            begin = time.perf_counter()
            chosen, known = self.chosen, dict[str, Any]()
            labels = None if chosen.labels is None else chosen.labels[rows]
            if earlier is not None:
                known["known"] = earlier.known([chosen.names[i] for i in rows])
            search = self.certifier.batch_with_proofs
            found = search(chosen.x[rows], labels, until, **known)
            return _Part(rows, *found, time.perf_counter() - begin)

        return contextlib.closing(spread(answer, parts(), self.devices, deadline))

    def _store(self, part: _Part, deadline: float) -> None:
        x, answer, begin = self.chosen.x[part.rows], part.answer, time.perf_counter()
        names = [self.chosen.names[i] for i in part.rows]
        if self.proofs is not None:
            answer = self.proofs.write(names, x, answer, part.proof)
        spent = part.seconds + time.perf_counter() - begin
        self._warn_of_open_brackets(answer, deadline)
        for row, margin in answer.doubts().items():
            logging.warning(
                "%s: the attack took a point for a counterexample, and rounding leaves "
                "that in doubt (margin %.1e in float64); unconfirmed, nothing is "
                "claimed of it", names[row], margin,
            )  # fmt: skip
        records = self._records(names, answer, spent)
        grown = None
        if self.grower is not None:
            boxes = self.grower.grow(names, x, answer, deadline)
            grown = boxes.lo, boxes.hi
            for record, own in zip(records, boxes.records, strict=True):
                record["grown"] = own
        self.files.append(records, **answer.record_arrays(), x=x, grown=grown)

    def _store_refined(self, part: _Part, earlier: Earlier, deadline: float) -> None:
        """Stores the brackets that are narrower than they were, with their boxes."""
        x, answer, begin = self.chosen.x[part.rows], part.answer, time.perf_counter()
        names = [self.chosen.names[i] for i in part.rows]
        self._warn_of_open_brackets(answer, deadline)
        spent = part.seconds
        if self.proofs is not None:
            least = earlier.least(names, self._records(names, answer, spent))
            answer = self.proofs.write(names, x, answer, part.proof, least)
            spent += time.perf_counter() - begin
        records = self._records(names, answer, spent)
        least, lost = earlier.least(names, records), set[str]()
        if self.proofs is not None:  # what the checker rejects stays what it accepted
            lost = {n for n in self.proofs.rejected if earlier.certified_by_file(n)}
        kept = [i for i, n in enumerate(names) if least[i] >= 0 and n not in lost]
        if not kept:
            return
        names, x, answer = [names[i] for i in kept], x[kept], answer[kept]
        records = [earlier.with_work(records[i]) for i in kept]
        grown = None
        if self.grower is not None:
            grown = tuple(np.array(v, np.float64) for v in earlier.grown(names))
            for record, name in zip(records, names, strict=True):
                record["grown"] = earlier.record(name)["grown"]
            larger = np.flatnonzero(answer.lower > least[kept])
            if larger.size:
                own = [names[i] for i in larger]
                boxes = self.grower.grow(own, x[larger], answer[larger], deadline)
                grown[0][larger], grown[1][larger] = boxes.lo, boxes.hi
                for i, its in zip(larger, boxes.records, strict=True):
                    records[i]["grown"] = its
        self.files.refine(records, **answer.record_arrays(), x=x, grown=grown)

    def _records(
        self, names: Sequence[str], answer: Certification, seconds: float
    ) -> list[Record]:
        """Returns the records of a batch that took so long."""
        more = {
            "arithmetic": self.arithmetic,
            "seconds": round(seconds / len(names), 6),
        }
        return [record | more for record in answer.records(names)]

    def _warn_of_open_brackets(self, answer: Certification, deadline: float) -> None:
        """Says that the time limit came before the brackets were closed."""
        tolerance, oracle = self.certifier.tolerance, self.certifier.options.oracle
        if oracle != "complete" or time.monotonic() < deadline:
            return
        with np.errstate(invalid="ignore"):
            wide = int(np.sum(answer.upper - answer.lower > tolerance))
        if wide:
            logging.warning(
                "the time limit came first: %d of %d brackets are wider than tolerance "
                "%g. They are stored as far as proved; --resume with a larger "
                "--time_limit goes on with them",
                wide, len(answer.upper), tolerance,
            )  # fmt: skip
