"""Answering VNN-LIB properties of ONNX networks, one by one or a whole benchmark."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common
import jax
import numpy as np
from _instances import (
    Instance,
    ResultsFile,
    Row,
    contradictions,
    existing,
    read_instances,
    summary,
)
from _worker import DiedError, LateError, Worker
from absl import logging
from scipy import special

from jaxcert.bounds.multineuron import CutOptions
from jaxcert.box import Box
from jaxcert.certifier import float64
from jaxcert.errors import InputError, OutOfMemoryError, UnsupportedError
from jaxcert.interop.onnx import final_softmax, load_onnx
from jaxcert.interop.vnnlib import (
    Case,
    Property,
    format_counterexample,
    load_vnnlib,
)
from jaxcert.limit import TimeLimitError, run_until
from jaxcert.network import Network
from jaxcert.oracle.attack import AttackOptions, AttackOracle
from jaxcert.oracle.branch_and_bound import BranchOptions
from jaxcert.oracle.complete import decide
from jaxcert.oracle.linear import is_linear
from jaxcert.search import stages

CONTRADICTION = 3
"""Exit code of a benchmark with an answer that contradicts the expected one."""

WORKER = (sys.executable, str(Path(__file__).with_name("_verification_worker.py")))
"""What starts a process that answers the instances of a benchmark."""

# Seconds after the limit at which a worker that cannot even say so is killed.
_GRACE = 3.0


@dataclasses.dataclass(frozen=True)
class Request:
    """What verify.py is asked; see its flags."""

    onnx: str = ""
    vnnlib: str = ""
    timeout: float | None = None
    instances: str = ""
    output: str = ""
    only: str = ""
    resume: bool = False
    restarts: int = 5
    steps: int = 30
    cuts: bool = False
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise InputError(f"timeout is {self.timeout}; it must be > 0")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise InputError(f"memory_gb is {self.memory_gb}; it must be > 0")
        _common.check_ranges(self, restarts=(1, 2**12), steps=(1, 2**12))
        if bool(self.instances) == bool(self.onnx or self.vnnlib):
            raise InputError(
                "give either --onnx and --vnnlib, or --instances and --output"
            )
        if self.instances:
            if not self.output:
                raise InputError("--instances needs --output, the CSV file to write")
        elif not (self.onnx and self.vnnlib):
            raise InputError("--onnx and --vnnlib belong together: give both")
        elif self.output or self.only or self.resume or self.memory_gb:
            raise InputError(
                "--output, --only, --resume and --memory_gb belong to --instances"
            )

    @property
    def effort(self) -> Effort:
        # Short chunks: the deadline is looked at between two of them.
        branch = BranchOptions(steps=10, cuts=CutOptions() if self.cuts else None)
        return Effort(AttackOptions(self.restarts, self.steps), branch)


@dataclasses.dataclass(frozen=True)
class Effort:
    """How hard a counterexample is searched, and how branch and bound then runs."""

    attack: AttackOptions
    branch: BranchOptions


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is known about one instance.

    Attributes:
      result: sat, unsat, unknown, timeout or error.
      counterexample: in VNN-COMP form, for sat; else ''.
    """

    result: str
    counterexample: str = ""


Load = Callable[[Path], Network]


def answer(request: Request, begin: float) -> int:
    """Answers what is asked on stdout or into files; returns the exit code.

    Args:
      request: what is asked.
      begin: `time.monotonic()` from which the time of a single instance counts.
    """
    return _benchmark(request) if request.instances else _one(request, begin)


def _one(request: Request, begin: float) -> int:
    """Answers one instance on stdout."""
    onnx, vnnlib = (
        existing(_common.expand(name)) for name in (request.onnx, request.vnnlib)
    )
    deadline = math.inf if request.timeout is None else begin + request.timeout
    found = verify_files(onnx, vnnlib, deadline, request.effort, load_subject)
    print(found.result)
    if found.counterexample:
        print(found.counterexample)
    return 0


def _benchmark(request: Request) -> int:
    """Answers the instances of a list into a file, and prints a summary."""
    instances = read_instances(_common.expand(request.instances), request.timeout)
    chosen = [i for i in instances if any(request.only in name for name in i.key)]
    if not chosen:
        raise InputError(f"no instance has {request.only!r} in its name: change --only")
    interrupted = False
    output = _common.expand(request.output)
    with ResultsFile(output, request.resume) as results, _worker(request) as worker:
        for notice in results.notices:
            logging.warning("%s", notice)
        todo = [i for i in chosen if i.key not in results.rows]
        if len(todo) < len(chosen):
            logging.info("%d instances are done already", len(chosen) - len(todo))
        try:
            for number, instance in enumerate(todo, 1):
                found = _answer(instance, worker)
                path = results.append(instance.key, *found)
                logging.info(
                    "%d/%d %s: %s in %.2f s%s%s", number, len(todo),
                    " ".join(instance.key), found[0].result, found[0].seconds,
                    instance.expected and f", expected {instance.expected}",
                    f" ({path})" if path else "",
                )  # fmt: skip
        except KeyboardInterrupt:
            interrupted = True
    print(summary(chosen, results.rows))
    if interrupted:
        print("stopped by Ctrl-C; continue with --resume")
        return 130
    return CONTRADICTION if contradictions(chosen, results.rows) else 0


def _worker(request: Request) -> Worker:
    """Returns a worker that is not started yet. This process computes nothing."""
    given = dataclasses.asdict(request)
    given["level"] = logging.get_absl_logger().getEffectiveLevel()
    return Worker((*WORKER, json.dumps(given)))


def _answer(instance: Instance, worker: Worker) -> tuple[Row, str]:
    """Returns result and counterexample; whatever happens costs this instance only."""
    name = " ".join(instance.key)
    try:
        onnx, vnnlib = (str(instance.path(name)) for name in instance.key)
    except (OSError, ValueError) as error:
        logging.error("%s: %s", name, error)
        return Row("error", 0.0), ""
    question = {"name": name, "onnx": onnx, "vnnlib": vnnlib}
    worker.start()
    begin, counterexample = time.monotonic(), ""
    try:
        limit = instance.timeout
        found = worker.ask(question | {"seconds": limit}, limit + _GRACE)
        result, counterexample = found["result"], found["counterexample"]
        seconds = time.monotonic() - begin
        if found["worn"]:
            worker.end()
    except LateError as error:
        logging.warning("%s: %s: it could not be interrupted", name, error)
        result, seconds = "timeout", time.monotonic() - begin
    except DiedError as error:
        logging.error("%s: the process that worked on it was %s", name, error)
        result, seconds = f"error: {error}", time.monotonic() - begin
    return Row(result, seconds), counterexample


def load_subject(onnx: Path) -> Network:
    """Returns the network of a file; its notes are logged.

    Raises:
      InputError: see `load_onnx`, or a weight is not finite.
      UnsupportedError: see `load_onnx`.
    """
    network = load_onnx(onnx)
    for note in network.notes:
        if "replaced by its logits" in note:
            continue  # asked about below, where the property is known
        logging.warning("%s: %s", onnx, note)
    return network


def verify_files(
    onnx: Path, vnnlib: Path, deadline: float, effort: Effort, load: Load
) -> Answer:
    """Returns the answer to one instance; what is found after the deadline is timeout.

    Args:
      onnx, vnnlib: the files.
      deadline: `time.monotonic()` by which to answer. What runs then and cannot be
        stopped, such as a compilation, is left behind in a thread (`run_until`).
      effort: of the attack, and of branch and bound.
      load: reads networks.

    Raises:
      JaxcertError: a file cannot be read or understood, the two do not fit together,
        or the memory does not suffice.
    """
    try:
        answer = run_until(
            lambda: _verify_files(onnx, vnnlib, deadline, effort, load), deadline
        )
    except TimeLimitError:
        return Answer("timeout")
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise OutOfMemoryError(
                f"out of memory on {onnx} with {vnnlib}: use a machine with more"
            ) from error
        raise
    late = time.monotonic() - deadline
    if late < 0:
        return answer
    if answer.result not in ("unknown", "timeout"):
        logging.info("%s was found %.2f s after the deadline", answer.result, late)
    return Answer("timeout")


def _verify_files(
    onnx: Path, vnnlib: Path, deadline: float, effort: Effort, load: Load
) -> Answer:
    """Returns the answer to one instance, whenever it is found."""
    network, prop = load(onnx), load_vnnlib(vnnlib)
    softmax = final_softmax(network)
    if softmax and not prop.compares_outputs:
        raise UnsupportedError(
            f"{onnx} ends in a {softmax}, of which {vnnlib} states more than "
            "comparisons of one output with another: export the network without it, "
            "and state the property of the logits"
        )
    for note in prop.notes:
        logging.warning("%s", note)
    inputs = math.prod(network.input_shape)
    for what, here, there in (
        ("inputs", prop.num_inputs, inputs),
        ("outputs", prop.num_outputs, network.num_outputs),
    ):
        if here != there:
            raise InputError(
                f"{vnnlib} declares {here} {what} and the network {onnx} has {there}: "
                "they do not belong together"
            )
    return verify_property(network, prop, deadline, effort)


def verify_property(
    network: Network, prop: Property, deadline: float, effort: Effort
) -> Answer:
    """Returns unsat if every case is proved, sat if the counterexample of one is one.

    First all cases are attacked, then branch and bound takes one after the other. A
    network without a nonlinear part needs neither: bounds find the corner themselves.
    """
    model = network.model
    attacker = AttackOracle(model.f, effort.attack)

    def attacked(box: Box, case: Case) -> Any:
        return jax.device_get(stages.ask(attacker, model.double, box, case.spec()))

    def decided(box: Box, case: Case) -> Any:
        return decide(model, box, case.spec(), effort.branch, deadline)[0]

    proved: set[int] = set()
    linear = is_linear(model.program)
    with float64():
        for ask in (decided,) if linear else (attacked, decided):
            for number, case in enumerate(prop.cases):
                if time.monotonic() >= deadline:
                    return Answer("timeout")
                verdict = ask(_box(network, case), case)
                if verdict.refuted:
                    found = counterexample(network, prop, case, verdict.witness)
                    if found:
                        return Answer("sat", found)
                elif verdict.proved:
                    proved.add(number)
    return Answer("unsat" if len(proved) == len(prop.cases) else "unknown")


def counterexample(network: Network, prop: Property, case: Case, witness: Any) -> str:
    """Returns the point in VNN-COMP form if it is one of the property, else ''.

    The outputs are computed by the network itself in float64, and the assertions of the
    file are evaluated on them in exact arithmetic.
    """
    x = np.asarray(witness, np.float64)
    y = np.asarray(jax.jit(network.apply)(network.model.double, x), np.float64)
    flat = x.reshape(-1)
    inside = bool(np.all((case.lo <= flat) & (flat <= case.hi)))
    shown = _file_outputs(network, y)
    if inside and prop.violates(x, y) and prop.violates(x, shown):
        return format_counterexample(x, shown)
    logging.warning("a counterexample did not stand the check in float64: not used")
    return ""


def _file_outputs(network: Network, logits: np.ndarray) -> np.ndarray:
    """Returns what the file itself answers, its final Softmax included."""
    functions = {"Softmax": special.softmax, "LogSoftmax": special.log_softmax}
    softmax = final_softmax(network)
    return functions[softmax](logits) if softmax else logits


def _box(network: Network, case: Case) -> Box:
    """Returns the box of a case: X_i are the inputs in row-major order."""
    shape = network.input_shape
    lo: Any = case.lo.reshape(shape)
    hi: Any = case.hi.reshape(shape)
    return Box(lo, hi)
