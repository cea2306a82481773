"""Answering VNN-LIB properties of ONNX networks, one by one or a whole benchmark."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from absl import logging
from scipy import special

from jaxcert.bounds.multineuron import CutOptions
from jaxcert.bounds.zonotope import has_zonotopes
from jaxcert.box import Box
from jaxcert.branch.signs import BranchOptions
from jaxcert.certifier import float64
from jaxcert.commands import console
from jaxcert.commands.options import Options, option
from jaxcert.commands.verify.instances import (
    Instance,
    ResultsFile,
    Row,
    contradictions,
    existing,
    named_files,
    read_instances,
    summary,
)
from jaxcert.commands.verify.page import write_page
from jaxcert.commands.verify.proofs import Proofs
from jaxcert.commands.verify.subject import Load, all_of, joint_network, load_subject
from jaxcert.errors import InputError, OutOfMemoryError
from jaxcert.interop.onnx import final_softmax
from jaxcert.interop.vnnlib import Case, Property, load_vnnlib
from jaxcert.limit import TimeLimitError, run_until
from jaxcert.network import Network
from jaxcert.oracle.bounds import proved_at_once
from jaxcert.oracle.complete import lattice_of, reduces, splits_inputs
from jaxcert.oracle.decide import Effort, decide
from jaxcert.oracle.linear import is_linear
from jaxcert.runs.worker import DiedError, LateError, Worker
from jaxcert.scope import Scope, scope_of
from jaxcert.spec import Spec
from jaxcert.verdict import Verdict
from jaxcert.witness.attack import AttackOptions
from jaxcert.witness.judge import Accepts, Judge, Outputs, Witness

# What strict rows must be violated by where a tie was found first, relative to d.
_GAP = 1e-9
# How far exact outputs may lie from those of float64, relative to the greatest.
_AGREEMENT = 1e-6
# Cases of a property that are bounded in blocks first, of networks of so few elements:
# of others, compiling the bounds takes longer than what intervals leave.
_MANY_CASES, _CASE_BLOCK, _LITTLE = 64, 256, 1 << 13
CONTRADICTION = 3
"""Exit code of a benchmark with an answer that contradicts the expected one."""

WORKER = (sys.executable, "-m", "jaxcert.commands.verify.worker")
"""What starts a process that answers the instances of a benchmark."""

# Seconds after the limit at which a worker that cannot even say so is killed.
_GRACE = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `jaxcert verify`."""

    onnx: str = option(
        "",
        "The network, .onnx or .onnx.gz; of a property of several NAME=FILE,NAME=FILE.",
    )
    vnnlib: str = option("", "The property, .vnnlib or .vnnlib.gz.")
    timeout: float | None = option(
        None, "Seconds per instance; default: none, or those of --instances.", above=0
    )
    instances: str = option(
        "", "CSV file of a benchmark: onnx, vnnlib, timeout_s[, expected]."
    )
    output: str = option("", "CSV file of its results.")
    only: str = option("", "Only instances with this in a file's name.")
    resume: bool = option(False, "Continue the results in --output.")
    restarts: int = option(5, "Starts of the attack per disjunct.", least=1, most=2**12)
    steps: int = option(30, "Gradient steps of the attack.", least=1, most=2**12)
    memory_gb: float | None = option(
        None, "Most GB of address space of the worker; default: no limit.", above=0
    )
    cuts: bool = option(
        False, "Relax neurons in pairs in branch and bound (docs/relaxations.md)."
    )

    proofs: bool = option(
        False,
        "Write NAME_proofs beside --output: a proof of every answer, checked by the "
        "independent checker.",
    )
    proof_timeout: float | None = option(
        None, "Seconds for finding each proof; default: those of the instance.", above=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.proof_timeout is not None and not self.proofs:
            raise InputError("--proof_timeout belongs to --proofs: give both")
        if bool(self.instances) == bool(self.onnx or self.vnnlib):
            raise InputError(
                "give either --onnx and --vnnlib, or --instances and --output"
            )
        if self.instances:
            if not self.output:
                raise InputError("--instances needs --output, the CSV file to write")
        elif not (self.onnx and self.vnnlib):
            raise InputError("--onnx and --vnnlib belong together: give both")
        elif self.output or self.only or self.resume or self.memory_gb or self.proofs:
            raise InputError(
                "--output, --only, --resume, --memory_gb and --proofs belong to "
                "--instances"
            )

    @property
    def effort(self) -> Effort:
        # Short chunks: the deadline is looked at between two of them.
        branch = BranchOptions(steps=10, cuts=CutOptions() if self.cuts else None)
        return Effort(None, AttackOptions(self.restarts, self.steps), branch)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is known about one instance.

    Attributes:
      result: sat, unsat, unknown, timeout or error.
      counterexample: in VNN-COMP form, for sat; else ''.
      scope: what proofs about the network cover; None where it was not got to know.
    """

    result: str
    counterexample: str = ""
    scope: Scope | None = None


def answer(request: Request, begin: float) -> int:
    """Answers what is asked on stdout or into files; returns the exit code.

    Args:
      request: what is asked.
      begin: `time.monotonic()` from which the time of a single instance counts.
    """
    return _benchmark(request) if request.instances else _one(request, begin)


def _one(request: Request, begin: float) -> int:
    """Answers one instance on stdout."""
    networks = named_files(request.onnx)
    vnnlib = existing(console.expand(request.vnnlib))
    deadline = math.inf if request.timeout is None else begin + request.timeout
    found = verify_files(networks, vnnlib, deadline, request.effort, load_subject)
    print(found.result)
    if found.counterexample:
        print(found.counterexample)
    if found.scope is not None:
        console.warn_of_assumptions(found.scope)
    return 0


def _benchmark(request: Request) -> int:
    """Answers the instances of a list into a file, and prints a summary."""
    instances = read_instances(console.expand(request.instances), request.timeout)
    chosen = [i for i in instances if any(request.only in name for name in i.key)]
    if not chosen:
        raise InputError(f"no instance has {request.only!r} in its name: change --only")
    interrupted = False
    output = console.expand(request.output)
    results = ResultsFile(output, request.resume)
    proofs = Proofs(results, request.proof_timeout) if request.proofs else None
    with _worker(request) as worker:
        todo = [i for i in chosen if i.key not in results.rows]
        again = [
            i for i in chosen
            if i.key in results.rows and results.rows[i.key].may_end_in(i.timeout)
        ]  # fmt: skip
        todo += again
        asked = {i.key for i in todo}
        done = [i for i in chosen if i.key not in asked]
        if done:
            logging.info("%d instances are done already", len(done))
        if again:
            logging.info("%d ran out of time; they get more", len(again))
        try:
            if proofs is not None:
                for instance in done:
                    proofs.add(instance, worker)
            for number, instance in enumerate(todo, 1):
                row, counterexample, scope = _answer(instance, worker)
                if scope is not None:
                    results.tell(instance.onnx, scope)
                earlier, path = results.rows.get(instance.key), None
                if earlier is None or row.says_more_than(earlier):
                    path = results.append(instance.key, row, counterexample)
                logging.info(
                    "%d/%d %s: %s in %.2f s%s%s", number, len(todo),
                    " ".join(instance.key), row.result, row.seconds,
                    instance.expected and f", expected {instance.expected}",
                    f" ({path})" if path else "",
                )  # fmt: skip
                if proofs is not None:
                    proofs.forget(instance)
                    proofs.add(instance, worker)
        except KeyboardInterrupt:
            interrupted = True
    print(summary(chosen, results.rows))
    typed = request.command("verify")
    page = write_page(output.with_suffix(".html"), chosen, results.rows, typed)
    print(f"report: {page}")
    if proofs is not None:
        print(proofs.summary())
    if interrupted:
        print("stopped by Ctrl-C; continue with --resume")
        return 130
    return CONTRADICTION if contradictions(chosen, results.rows) else 0


def _worker(request: Request) -> Worker:
    """Returns a worker that is not started yet. This process computes nothing."""
    names = ("restarts", "steps", "cuts", "memory_gb")  # how to answer, not what
    given = {name: getattr(request, name) for name in names}
    given["level"] = logging.get_absl_logger().getEffectiveLevel()
    return Worker((*WORKER, json.dumps(given)))


def _answer(instance: Instance, worker: Worker) -> tuple[Row, str, Scope | None]:
    """Returns result, counterexample and what proofs of the network cover.

    Whatever happens costs this instance only.
    """
    name = " ".join(instance.key)
    try:
        onnx = {name: str(file) for name, file in instance.networks().items()}
        vnnlib = str(instance.path(instance.vnnlib))
    except (OSError, ValueError) as error:
        logging.error("%s: %s", name, error)
        return Row("error", 0.0), "", None
    question = {"name": name, "onnx": onnx, "vnnlib": vnnlib}
    worker.start()
    begin, counterexample, scope = time.monotonic(), "", None
    try:
        limit = instance.timeout
        found = worker.ask(question | {"seconds": limit}, limit + _GRACE)
        result, counterexample = found["result"], found["counterexample"]
        seconds = time.monotonic() - begin
        scope = None if found["scope"] is None else Scope.read(found["scope"])
        if found["worn"]:
            worker.end()
    except LateError as error:
        logging.warning("%s: %s: it could not be interrupted", name, error)
        result, seconds = "timeout", time.monotonic() - begin
    except DiedError as error:
        logging.error("%s: the process that worked on it was %s", name, error)
        result, seconds = f"error: {error}", time.monotonic() - begin
    return Row(result, seconds), counterexample, scope


def verify_files(
    onnx: Mapping[str, Path], vnnlib: Path, deadline: float, effort: Effort, load: Load
) -> Answer:
    """Returns the answer to one instance; what is found after the deadline is timeout.

    Args:
      onnx: the files of the networks by the names that the property gives them, or one
        by "".
      vnnlib: the file of the property.
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
                f"out of memory on {all_of(onnx)} with {vnnlib}: more is needed"
            ) from error
        raise
    late = time.monotonic() - deadline
    if late < 0:
        return answer
    if answer.result not in ("unknown", "timeout"):
        logging.info("%s was found %.2f s after the deadline", answer.result, late)
    return Answer("timeout")


def _verify_files(
    onnx: Mapping[str, Path], vnnlib: Path, deadline: float, effort: Effort, load: Load
) -> Answer:
    """Returns the answer to one instance, whenever it is found."""
    prop = load_vnnlib(vnnlib)
    network = joint_network(prop, onnx, vnnlib, load)
    for note in prop.notes:
        logging.warning("%s", note)
    scope = scope_of(network.model.program, network.types)
    found = verify_property(network, prop, deadline, effort)
    return dataclasses.replace(found, scope=scope)


@float64()
def verify_property(
    network: Network, prop: Property, deadline: float, effort: Effort
) -> Answer:
    """Returns unsat if every case is proved, sat if the counterexample of one is one.

    All cases that are left go through one means after the other, the cheapest to
    compile first: intervals, the attack, and branch and bound, which begins with CROWN.
    A network without a nonlinear part needs only the last: bounds find the corner. So
    does a lattice of few features, for which nothing is compiled there.
    """
    inquiry = _Inquiry(network, prop, deadline, effort)
    asks = [inquiry.bounded, inquiry.attacked, inquiry.decided]
    if is_linear(network.model.program) or all(map(inquiry.is_lattice, prop.cases)):
        asks = [inquiry.decided]
    left = inquiry.not_proved_at_once()
    for ask in asks:
        cases, left = left, []
        for case in cases:
            if time.monotonic() >= deadline:
                return Answer("timeout")
            answer = ask(case)
            if answer and answer != "proved":
                return Answer("sat", answer)
            if not answer:
                left.append(case)
    return Answer("unknown" if left else "unsat")


class _Inquiry:
    """Asks about the cases of one property; must be used where float64 is enabled.

    Proofs are about a case's closed box and its rows with `<=`. Counterexamples are
    looked for among the inputs that strict bounds allow, and must satisfy strict rows.
    An answer is "proved", a counterexample in VNN-COMP form, or '' for none.
    """

    def __init__(
        self, network: Network, prop: Property, deadline: float, effort: Effort
    ) -> None:
        self._network, self._prop = network, prop
        self._deadline, self._effort = deadline, effort
        self._judge = Judge(network.model)
        self._run = jax.jit(network.apply)

    def not_proved_at_once(self) -> list[Case]:
        """Returns the cases that are left, of many, by bounds of whole blocks of them.

        One by one, each would take longer to ask about than to bound.
        """
        cases, program = list(self._prop.cases), self._network.model.program
        size = sum(node.size for node in program.nodes)
        if len(cases) < _MANY_CASES or size > _LITTLE:
            return cases
        boxes = [self._box(case.lo, case.hi) for case in cases]
        specs = [case.spec() for case in cases]
        proved = proved_at_once(self._network.model, boxes, specs, _CASE_BLOCK)
        return [case for case, done in zip(cases, proved, strict=True) if not done]

    def is_lattice(self, case: Case) -> bool:
        """Returns whether branch and bound splits a lattice."""
        model, box = self._network.model, self._box(case.lo, case.hi)
        branch = self._effort.branch or BranchOptions()
        return lattice_of(model, box, case.spec(), branch) is not None

    def bounded(self, case: Case) -> str:
        """Returns what intervals prove, where branch and bound has nothing like them.

        The first box of its zonotopes says more, and of convolutions in float64 another
        program takes long to compile.
        """
        features = int(np.count_nonzero(case.lo < case.hi))
        if has_zonotopes(self._network.model.program, features):
            return ""
        effort = Effort(bounds="ibp")
        verdict = self._decide(self._box(case.lo, case.hi), case.spec(), effort)
        return "proved" if verdict.proved else ""

    def attacked(self, case: Case) -> str:
        """Returns what the attack finds."""
        inside = self._inside(case)
        if inside is None:
            return ""
        effort = dataclasses.replace(self._effort, branch=None)
        found = self._decide(inside, case.spec(), effort, self._accepts)
        if not found.refuted:
            return ""
        return self._confirmed(case, case.spec(), found.witness)

    def decided(self, case: Case) -> str:
        """Returns what exact intervals or branch and bound say."""
        spec, box = case.spec(), self._box(case.lo, case.hi)
        if case.strict.any() and self._judge.exact.excludes(spec, case.strict, box):
            return "proved"
        verdict = self._branch(box, spec)
        if verdict.proved:
            return "proved"
        if not verdict.refuted:
            return ""
        found = self._confirmed(case, spec, verdict.witness)
        if not found:
            logging.warning("a counterexample did not stand the check: not used")
            inside = self._inside(case)
            closed = np.array_equal(case.inner, (case.lo, case.hi))
            if inside is not None and not (closed and not case.strict.any()):
                # It lies on a strict bound, or at a tie. Others may not.
                spec = case.spec(_GAP)
                verdict = self._branch(inside, spec)
                if verdict.refuted:
                    found = self._confirmed(case, spec, verdict.witness)
        return found

    def _branch(self, box: Box, spec: Spec) -> Verdict:
        """Returns what branch and bound says, after bounds that compile much faster.

        Boxes that few features span are split at once: alone, bounds rarely prove them.
        What a box leaves of a wide network is bounded as it is found.
        """
        branch, varying = self._effort.branch or BranchOptions(), box.lo < box.hi
        bounds: Literal["crown", "alpha"] | None = "crown"
        if np.count_nonzero(varying) <= branch.narrow:
            bounds = None
        elif splits_inputs(self._network.model, box, branch):
            bounds = "alpha"
        elif reduces(self._network.model, box, spec, branch):
            bounds = None
        effort = dataclasses.replace(self._effort, attack=None, bounds=bounds)
        return self._decide(box, spec, effort)

    def _decide(
        self, box: Box, spec: Spec, effort: Effort, accepts: Accepts | None = None
    ) -> Verdict:
        return decide(
            self._network.model, box, spec, effort, self._deadline,
            judge=self._judge, accepts=accepts,
        ).verdict  # fmt: skip

    def _confirmed(self, case: Case, spec: Spec, witness: Any) -> str:
        """Returns a counterexample at or near a witness of the closed case, or ''."""
        inside = self._inside(case)
        if inside is None:
            return ""
        point = np.clip(np.asarray(witness, np.float64), inside.lo, inside.hi)
        return self._shown(self._judge.search(spec, inside, point[None], self._accepts))

    def _accepts(self, x: np.ndarray, outputs: Outputs) -> bool:
        """Returns whether a point of a case is a counterexample of the file.

        The network itself computes the outputs in float64, and the assertions are
        evaluated on them in exact arithmetic: on the exact outputs, where those
        decided, which must be about the same.
        """
        y = np.asarray(self._run(self._network.model.double, x), np.float64).reshape(-1)
        if any(isinstance(v, Fraction) for v in outputs):
            exact = np.array([float(v) for v in outputs])
            if not np.abs(exact - y).max() <= _AGREEMENT * (1 + np.abs(y).max()):
                return False
            return self._prop.violated_at(x, outputs)
        return self._prop.violated_at(x, y)

    def _inside(self, case: Case) -> Box | None:
        """Returns the inputs that the file allows; None if no float64 number is one."""
        least, greatest = case.inner
        return self._box(least, greatest) if np.all(least <= greatest) else None

    def _box(self, lo: np.ndarray, hi: np.ndarray) -> Box:
        """Returns a box of inputs: X_i are those of the network in row-major order."""
        shape = self._network.input_shape
        return Box(lo.reshape(shape), hi.reshape(shape))  # type: ignore[arg-type]

    def _shown(self, witness: Witness | None) -> str:
        """Returns a witness and what the file answers in VNN-COMP form, or nothing."""
        if witness is None:
            return ""
        y = np.array([float(v) for v in witness.outputs])[: self._prop.num_outputs]
        shown = _file_outputs(self._network, y)
        if shown is not y and not self._prop.violated_at(witness.point, shown):
            return ""
        return self._prop.counterexample(witness.point, shown)


def _file_outputs(network: Network, logits: np.ndarray) -> np.ndarray:
    """Returns what the file itself answers, its final Softmax included."""
    functions = {"Softmax": special.softmax, "LogSoftmax": special.log_softmax}
    softmax = final_softmax(network)
    return functions[softmax](logits) if softmax else logits
