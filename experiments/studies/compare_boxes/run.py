"""Comparing algorithms for boxes: run, audit, record, print."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from jaxcert.box import Box
from jaxcert.checks import check_inputs, check_labels, checked_domain
from jaxcert.commands import console
from jaxcert.commands.audit.boxes import Claim
from jaxcert.commands.audit.decide import Auditor
from jaxcert.commands.inputs import Selection, select_inputs
from jaxcert.commands.options import Options, data_dir, folder, option
from jaxcert.errors import InputError
from jaxcert.learning.models import load_network
from jaxcert.measures import apothem, edge_measures
from jaxcert.network import Network
from jaxcert.runs.journal import Record
from jaxcert.search.growth import FAIRNESS
from jaxcert.witness.attack import AttackOptions
from studies.compare_boxes.competitors import (
    BoxResult,
    Competitor,
    Problem,
    uniform_cube,
)
from studies.compare_boxes.files import CompareFiles
from studies.compare_boxes.growing import Growing
from studies.compare_boxes.liu import Liu
from studies.compare_boxes.oracle_loop import one_by_one
from studies.compare_boxes.published_algorithms import (
    BottomUpDichotomic,
    Cyclic,
    DualBottomUp,
    TopDown,
)
from studies.compare_boxes.table import dual_table, table

SOUND: Mapping[str, Competitor] = {
    "cube": uniform_cube,
    "cyclic": one_by_one(Cyclic()),
    "top_down": one_by_one(TopDown()),
    "bottom_up": one_by_one(BottomUpDichotomic()),
    "liu": Liu(),
    "liu_clipped": Liu(clipped=True),
    **{name: Growing(name) for name in FAIRNESS},
}
DUAL: Mapping[str, Competitor] = {"dual_bottom_up": one_by_one(DualBottomUp())}
ALGORITHMS = {**SOUND, **DUAL}

_AUDIT_SECONDS = 60.0
_AUDIT_ATTACK = AttackOptions(restarts=5, steps=30)
_SECONDS_PER_LINE = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of the study `compare_boxes`."""

    model: str = option("", "An .onnx file or a checkpoint (.npz).")
    inputs: str = option(
        "0:10",
        "Indices (0:100; 3,17; all), a CSV folder, or an .npy/.npz file.",
    )
    dataset: str = option(
        "mnist", "digits, mnist or fashion_mnist, if --inputs are indices."
    )
    split: str = option("test", "train or test.")
    data_dir: str | None = data_dir()
    output: str = folder("out/compare")
    resume: bool = option(False, "Continue the run in --output.")
    algorithms: tuple[str, ...] = option(
        tuple(ALGORITHMS), f"Which to run: {', '.join(ALGORITHMS)}."
    )
    required_margin: float = option(
        0.0,
        "Prove margin > this; -1 reproduces published slack.",
        above=-math.inf,
        below=math.inf,
    )
    delta: float = option(
        0.1, "Resolution of the published algorithms.", above=0, below=math.inf
    )
    timeout: float = option(
        60.0,
        "Seconds per input and algorithm, without compilation.",
        above=0,
        below=math.inf,
    )
    domain_lower: float = option(0.0, "Least legal value of a feature.")
    domain_upper: float = option(1.0, "Greatest legal value of a feature.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise InputError("give the network with --model")
        if not self.algorithms:
            raise InputError(f"no algorithm is named; choose from {_names()}")
        if unknown := [name for name in self.algorithms if name not in ALGORITHMS]:
            raise InputError(
                f"unknown algorithm {unknown[0]!r}; choose from {_names()}"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """The inputs that have something to prove.

    Attributes:
      rows: their numbers in the selection.
      names, x, labels: row-aligned.
      left_out: how many inputs are misclassified, or within the required margin.
    """

    rows: np.ndarray
    names: tuple[str, ...]
    x: np.ndarray
    labels: np.ndarray
    left_out: int

    def only(self, wanted: np.ndarray) -> Chosen:
        """Returns those at which `wanted` is true."""
        names = tuple(name for name, w in zip(self.names, wanted, strict=True) if w)
        parts = (self.rows[wanted], names, self.x[wanted], self.labels[wanted])
        return Chosen(*parts, self.left_out)


def _names() -> str:
    return ", ".join(ALGORITHMS)


def compare(request: Request) -> int:
    """Runs the algorithms that are asked for; returns the exit code."""
    network = load_network(console.expand(request.model))
    for note in network.notes:
        logging.warning("%s", note)
    selection = select_inputs(
        request.inputs, network, request.dataset, request.split, request.data_dir
    )
    ends = (request.domain_lower, request.domain_upper)
    problem = Problem(
        network=network,
        domain=checked_domain(ends, network.input_shape),
        required_margin=request.required_margin,
        delta=request.delta,
    )
    check_inputs(selection.x, problem.domain, selection.names)
    auditor = Auditor(network, request.required_margin, _AUDIT_ATTACK)
    chosen = _with_something_to_prove(auditor, network, selection, request)
    output, interrupted = console.expand(request.output), False
    files = CompareFiles(output, request.resume, _config(request, network, chosen))
    try:
        for name in request.algorithms:
            _run(name, problem, auditor, chosen, request.timeout, files)
    except KeyboardInterrupt:
        interrupted = True
    print(_report(request, network, chosen, files))
    if interrupted:
        print("stopped by Ctrl-C; continue with --resume")
    return 130 if interrupted else 0


def _with_something_to_prove(
    auditor: Auditor, network: Network, selection: Selection, request: Request
) -> Chosen:
    logits = np.array([auditor.logits(x) for x in selection.x])
    labels = selection.labels
    if labels is None:
        labels = np.argmax(logits, axis=1)
    check_labels(labels, len(logits), network.num_outputs, selection.names)
    others = np.where(np.eye(logits.shape[1], dtype=bool)[labels], -np.inf, logits)
    won = logits[np.arange(len(labels)), labels] - others.max(axis=1)
    wanted = won > max(request.required_margin, 0)
    if not wanted.any():
        raise InputError("no input is classified right with the required margin")
    every = Chosen(
        rows=np.arange(len(labels)),
        names=selection.names,
        x=selection.x,
        labels=labels,
        left_out=int(np.sum(~wanted)),
    )
    return every.only(wanted)


def _config(request: Request, network: Network, chosen: Chosen) -> dict[str, Any]:
    digest = hashlib.sha256(repr((chosen.names, chosen.labels.tolist())).encode())
    digest.update(np.ascontiguousarray(chosen.x).tobytes())
    return {
        "model": network.name,
        "model_hash": network.content_hash,
        "inputs_hash": digest.hexdigest()[:16],
        "required_margin": request.required_margin,
        "delta": request.delta,
        "time_limit": request.timeout,
        "domain_lower": request.domain_lower,
        "domain_upper": request.domain_upper,
    }


def _run(
    name: str,
    problem: Problem,
    auditor: Auditor,
    chosen: Chosen,
    seconds: float,
    files: CompareFiles,
) -> None:
    """Runs one algorithm on the inputs that are not done, and audits every box."""
    todo = chosen.only(np.array([(name, n) not in files.records for n in chosen.names]))
    if not todo.names:
        return
    logging.info("%s: %d inputs", name, len(todo.names))
    said = time.monotonic()
    results: Iterator[BoxResult] = ALGORITHMS[name](
        problem, todo.x, todo.labels, seconds
    )
    for done, (row, result) in enumerate(zip(todo.rows, results, strict=True), 1):
        at = done - 1
        x, label = todo.x[at], int(todo.labels[at])
        record = {"algorithm": name, "input": todo.names[at], "label": label}
        record |= _measures(problem, x, result)
        record |= _audited(name, auditor, x, label, result)
        files.append(record, int(row), x, Box(result.lo, result.hi))  # type: ignore[arg-type]
        if time.monotonic() - said > _SECONDS_PER_LINE:
            said = time.monotonic()
            logging.info("%s: %d of %d inputs", name, done, len(todo.names))


def _measures(problem: Problem, x: np.ndarray, result: BoxResult) -> Record:
    box = Box(result.lo, result.hi)  # type: ignore[arg-type]
    return {
        "finished": result.finished,
        "apothem": apothem(x, box, problem.domain),
        **edge_measures(box),
        "perimeter": float((result.hi - result.lo).sum()),
        "oracle_calls": result.oracle_calls,
        "seconds": round(result.seconds, 6),
    }


def _audited(
    name: str, auditor: Auditor, x: np.ndarray, label: int, result: BoxResult
) -> Record:
    """Returns whether a box that claims to be sound is proved, or refuted, to be."""
    if name in DUAL:
        return {"verdict": None, "audit_seconds": 0.0}
    begin = time.monotonic()
    claim = Claim(name, result.lo, result.hi, x, label)
    if not claim.holds_input:
        raise AssertionError(f"{name} answered a box that does not hold its input")
    verdict = auditor.decide(claim, label, begin + _AUDIT_SECONDS).verdict
    # The point itself keeps its class by more than the margin: it was chosen for that.
    verdict = "sound" if verdict == "trivial" else verdict
    return {"verdict": verdict, "audit_seconds": round(time.monotonic() - begin, 6)}


def _report(
    request: Request, network: Network, chosen: Chosen, files: CompareFiles
) -> str:
    def of(names: Mapping[str, Competitor]) -> list[Record]:
        keys = [(a, n) for a in names if a in request.algorithms for n in chosen.names]
        return [files.records[key] for key in keys if key in files.records]

    sound, dual = of(SOUND), of(DUAL)
    parts = [
        f"{console.one_line(network.name)}: {len(chosen.names)} inputs, "
        f"{chosen.left_out} misclassified left out; margin > "
        f"{request.required_margin:g}, delta {request.delta:g},\n"
        f"at most {request.timeout:g} s per input; edges: least, mean, greatest"
    ]
    if sound:
        parts.append(table(sound))
        if any(record["algorithm"] == "liu" for record in sound):
            parts[-1] += "\n  liu knows no domain, and edges beyond it count"
    if dual:
        misses = {name: _misses(name, request, chosen, files) for name in DUAL}
        parts.append(dual_table(dual, misses))
    return "\n\n".join(parts)


def _misses(dual: str, request: Request, chosen: Chosen, files: CompareFiles) -> int:
    """Returns how many proved boxes, within the domain, are not in the dual box."""
    count = 0
    for row, name in zip(chosen.rows, chosen.names, strict=True):
        record = files.records.get((dual, name))
        if record is None or not record["finished"]:
            continue
        outer = files.box(dual, int(row))
        for inner in SOUND:
            known = files.records.get((inner, name))
            if known is None or known["verdict"] != "sound":
                continue
            box = files.box(inner, int(row))
            lo = np.maximum(box.lo, request.domain_lower)
            hi = np.minimum(box.hi, request.domain_upper)
            count += not bool(np.all((outer.lo <= lo) & (hi <= outer.hi)))
    return count
