"""Certifying the inputs of a run, batch by batch, on all devices of this process."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from jaxcert.branch.leaves import Proof
from jaxcert.certification import Certification
from jaxcert.certifier import Certifier
from jaxcert.commands.certify.grow import Grower
from jaxcert.commands.certify.proofs import Proofs
from jaxcert.commands.inputs import Selection
from jaxcert.devices import spread
from jaxcert.report import RunFiles
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

        Args:
          seconds: after which no batch begins, and branch and bound stops.
        """
        names, done = self.chosen.names, self.files.done
        todo = [int(i) for i in self.rows if names[i] not in done]
        if len(todo) < len(self.rows):
            logging.info("%d inputs are done already", len(self.rows) - len(todo))
        deadline = time.monotonic() + seconds
        finished = 0
        try:
            with (
                progress("certifying", "inputs", len(todo), _NEWS_SECONDS) as show,
                self._answers(todo, deadline) as answers,
            ):
                for part in answers:
                    self._store(part, deadline)
                    finished += len(part.rows)
                    show(finished)
        except KeyboardInterrupt:
            return "Ctrl-C"
        return "the time limit" if finished < len(todo) else ""

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
        self, todo: list[int], deadline: float
    ) -> contextlib.closing[Generator[_Part, None, None]]:
        """Returns an iterator over the answers, batch by batch, that must be closed."""
        size = self.certifier.options.batch_size

        def parts() -> Iterator[np.ndarray]:
            for start in range(0, len(todo), size):
                if time.monotonic() >= deadline:
                    return
                yield np.array(todo[start : start + size])

        return contextlib.closing(spread(self._answer, parts(), self.devices, deadline))

    def _answer(self, rows: np.ndarray, until: Any) -> _Part:
        begin = time.perf_counter()
        chosen = self.chosen
        labels = None if chosen.labels is None else chosen.labels[rows]
        answer = self.certifier.batch_with_proofs(chosen.x[rows], labels, until)
        return _Part(rows, *answer, time.perf_counter() - begin)

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
        more = {"arithmetic": self.arithmetic, "seconds": round(spent / len(names), 6)}
        records = [record | more for record in answer.records(names)]
        grown = None
        if self.grower is not None:
            boxes = self.grower.grow(names, x, answer, deadline)
            grown = boxes.lo, boxes.hi
            for record, own in zip(records, boxes.records, strict=True):
                record["grown"] = own
        self.files.append(
            records,
            x=x,
            lo=np.asarray(answer.box.lo),
            hi=np.asarray(answer.box.hi),
            witness=answer.witness,
            witness_class=answer.witness_class,
            grown=grown,
        )

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
                "%g. They are stored as far as proved, and --resume does not redo them",
                wide, len(answer.upper), tolerance,
            )  # fmt: skip
