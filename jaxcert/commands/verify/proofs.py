"""Proofs beside the results of a benchmark: one file per decided row, checked."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from jaxcert.branch.signs import BranchOptions
from jaxcert.certificate.answers import Question, WrittenAnswer, write_answer
from jaxcert.commands.verify.instances import DECIDED, Instance, ResultsFile
from jaxcert.commands.verify.subject import Load, joint_network
from jaxcert.errors import JaxcertError
from jaxcert.interop.vnnlib import load_vnnlib
from jaxcert.limit import TimeLimitError, run_until
from jaxcert.runs.worker import DiedError, LateError, Worker

_INPUT = re.compile(r"\(X_(\d+) ([^)\s]+)\)")
# Seconds after the limit at which a worker that is checking what it found is killed.
_GRACE = 60.0


def prove(
    question: Mapping[str, Any], branch: BranchOptions, load: Load
) -> dict[str, Any]:
    """Returns what was written for an answer, as JSON has it; see `WrittenAnswer`.

    Args:
      question: `prove`, the path of the file; `onnx`, the networks by name, `vnnlib`,
        `counterexample`, in VNN-COMP form for sat and else empty; `seconds` that
        finding it may take.
      branch: how branch and bound runs.
      load: reads networks.
    """
    deadline = time.monotonic() + question["seconds"]
    try:
        onnx = {name: Path(file) for name, file in question["onnx"].items()}
        vnnlib = Path(question["vnnlib"])
        network = joint_network(load_vnnlib(vnnlib), onnx, vnnlib, load)
        asked = Question.of(network, vnnlib, branch)
        path, witness = Path(question["prove"]), point_of(question["counterexample"])
        found = run_until(
            lambda: write_answer(path, asked, witness, deadline), deadline + _GRACE / 2
        )
    except TimeLimitError:
        found = WrittenAnswer(None, "there was no time for it")
    except (JaxcertError, OSError, MemoryError) as error:
        found = WrittenAnswer(None, str(error) or type(error).__name__)
    return dataclasses.asdict(found) | {"path": found.path and str(found.path)}


def point_of(counterexample: str) -> np.ndarray | None:
    """Returns the inputs of a counterexample in VNN-COMP form; None of an empty one."""
    values = {int(i): float(v) for i, v in _INPUT.findall(counterexample)}
    return np.array([values[i] for i in range(len(values))]) if values else None


class Proofs:
    """The proofs of a results file: NAME_proofs/NNN.npz for its row NNN."""

    def __init__(self, results: ResultsFile, seconds: float | None) -> None:
        """Makes nothing yet.

        Args:
          results: whose answers are proved.
          seconds: that finding a proof may take; None for those of the instance.
        """
        self._results, self._seconds = results, seconds
        self.folder = results.path.with_name(f"{results.path.stem}_proofs")

    def path(self, instance: Instance) -> Path:
        """Returns where the proof of an answered instance is."""
        return self.folder / f"{self._results.number(instance.key):03d}.npz"

    def forget(self, instance: Instance) -> None:
        """Removes the file of an older run with the same name."""
        self.path(instance).unlink(missing_ok=True)

    def add(self, instance: Instance, worker: Worker) -> None:
        """Proves an answer, if it is one and has no proof yet; says what came of it."""
        row = self._results.rows[instance.key]
        path = self.path(instance)
        if row.result not in DECIDED or path.exists():
            return
        onnx = {name: str(file) for name, file in instance.networks().items()}
        vnnlib = str(instance.path(instance.vnnlib))
        shown = self._results.counterexample(instance.key)
        seconds = instance.timeout if self._seconds is None else self._seconds
        question = {
            "prove": str(path), "onnx": onnx, "vnnlib": vnnlib, "seconds": seconds,
            "counterexample": shown,
        }  # fmt: skip
        try:
            worker.start()
            found = worker.ask(question, seconds + _GRACE)
        except (LateError, DiedError) as error:
            found = {"path": None, "refused": f"the process ended: {error}"}
        name = " ".join(instance.key)
        if found["path"] is None:
            logging.warning(
                "%s: %s has no proof: %s", name, row.result, found["refused"]
            )
            return
        logging.info(
            "%s: %s proved in %.2f s by %d leaves, %.1f kB, checked in %.2f s",
            name, row.result, found["finding"], found["leaves"], found["size"] / 1e3,
            found["checking"],
        )  # fmt: skip

    def summary(self) -> str:
        """Returns how many answers have a proof."""
        rows = self._results.rows
        decided = [row.result in DECIDED for row in rows.values()]
        proved = [
            (self.folder / f"{number:03d}.npz").exists()
            for number, is_decided in enumerate(decided, 1)
            if is_decided
        ]
        return (
            f"{sum(decided)} answers: {sum(proved)} with a checked proof in "
            f"{self.folder.name}"
        )
