"""Auditing boxes of which somebody says that they hold one class."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np
from absl import logging

from jaxcert.checks import check_labels
from jaxcert.commands import console
from jaxcert.commands.audit.boxes import Claim, clipped, published_claims, read_claims
from jaxcert.commands.audit.decide import Auditor
from jaxcert.commands.audit.files import TIMEOUT, AuditFiles
from jaxcert.commands.audit.page import write_page
from jaxcert.commands.audit.table import summary, table
from jaxcert.commands.options import Options, folder, option, seed
from jaxcert.errors import InputError, JaxcertError
from jaxcert.learning.models import load_network
from jaxcert.network import Network
from jaxcert.report.answers import data_fact
from jaxcert.runs.journal import Record
from jaxcert.runs.progress import progress
from jaxcert.scope import scope_of
from jaxcert.witness.attack import AttackOptions

_SECONDS_PER_LINE = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `jaxcert audit`."""

    model: str = option("", "An .onnx (or .onnx.gz) file or a checkpoint (.npz).")
    boxes: str = option(
        "",
        "An .npz file with arrays lo and hi of shape (n, *d), and optionally input "
        "(names), x and label (-1: not known); or a folder of files NAME.lo.csv and "
        "NAME.hi.csv, optionally NAME.x.csv, each with the values of one array in "
        "row-major order; or the NAME.lo.csv of one box. Without a label, the class to "
        "keep is the one predicted at x, and without x the one at the centre.",
    )
    published_log: str = option(
        "",
        "Instead of --boxes: a result log of ParallelepipedoNN whose boxes are cubes "
        "(*_c-bu-d.log). Each is rebuilt from its min edge, around its input.",
    )
    inputs: str = option("", "The .csv inputs that the log names.")
    output: str = folder("out/audit")
    resume: bool = option(False, "Continue the audit in --output.")
    required_margin: float = option(
        0.0,
        "What the margin must exceed all over a box.",
        above=-math.inf,
        below=math.inf,
    )
    timeout: float = option(
        60.0, "Seconds per box, compilation included; then it is unknown.", above=0
    )
    domain_lower: float | None = option(
        None,
        "Clip boxes to values from here on; default: no clipping, 0 with "
        "--published_log.",
    )
    domain_upper: float | None = option(
        None,
        "Clip boxes to values up to here; default: no clipping, 1 with "
        "--published_log.",
    )
    restarts: int = option(5, "Starts of the attack per class.", least=1, most=2**12)
    steps: int = option(30, "Gradient steps of the attack.", least=1, most=2**12)
    seed: int = seed("the attack")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise InputError("give the network with --model")
        if bool(self.boxes) == bool(self.published_log):
            raise InputError("give either --boxes, or --published_log and --inputs")
        if bool(self.inputs) != bool(self.published_log):
            raise InputError("--published_log and --inputs belong together: give both")
        if not self.domain[0] < self.domain[1]:
            raise InputError(
                "the domain is empty: it begins at {:g} and ends at {:g}. Give a "
                "--domain_lower below --domain_upper".format(*self.domain)
            )

    @property
    def domain(self) -> tuple[float, float]:
        """What boxes are clipped to; published ones to [0, 1] by default."""
        ends = (0.0, 1.0) if self.published_log else (-math.inf, math.inf)
        given = self.domain_lower, self.domain_upper
        lower, upper = (
            default if end is None else end
            for end, default in zip(given, ends, strict=True)
        )
        return lower, upper


def audit(request: Request) -> int:
    """Audits the boxes that are asked about; returns the exit code."""
    network = load_network(console.expand(request.model))
    for note in network.notes:
        logging.warning("%s", note)
    scope = scope_of(network.model.program, network.types)
    console.warn_of_assumptions(scope)
    claims = _claims(request, network)
    config = {
        "model": network.name,
        "model_hash": network.content_hash,
        "required_margin": request.required_margin,
    }
    attack = AttackOptions(request.restarts, request.steps, request.seed)
    auditor = Auditor(network, request.required_margin, attack)
    output, interrupted = console.expand(request.output), False
    with AuditFiles(output, request.resume, config, scope) as files:
        todo = [c for c in claims if _is_new(c, files)]
        again = [c for c in claims if _has_more_time(c, files, request.timeout)]
        if answered := len(claims) - len(todo) - len(again):
            logging.info("%d boxes are done already", answered)
        if again:
            logging.info("%d boxes are unknown; they get more time", len(again))
        todo += again
        try:
            seconds, verdicts = _SECONDS_PER_LINE, collections.Counter[str]()
            with progress("auditing", "boxes", len(todo), seconds) as show:
                for claim in todo:
                    files.append(*_audit_one(auditor, claim, request))
                    verdicts[files.records[claim.name]["verdict"]] += 1
                    words = ", ".join(f"{n} {word}" for word, n in verdicts.items())
                    show(verdicts.total(), words)
        except KeyboardInterrupt:
            interrupted = True
        done = [files.records[c.name] for c in claims if c.name in files.records]
    print(table(done))
    print(summary(done, request.required_margin))
    facts = {"command": request.command("audit"), **vars_of(request)}
    faces = data_fact(np.array([(claim.lo, claim.hi) for claim in claims]))
    facts |= {name.replace("inputs", "boxes"): value for name, value in faces.items()}
    print(f"report: {write_page(output / 'report.html', done, facts, network, scope)}")
    if interrupted:
        print("stopped by Ctrl-C; continue with --resume")
    return 130 if interrupted else 0


def vars_of(request: Request) -> dict[str, Any]:
    """Returns what decides the verdicts, for the page."""
    names = "required_margin", "timeout", "restarts", "steps", "seed"
    return {name: getattr(request, name) for name in names}


def _claims(request: Request, network: Network) -> list[Claim]:
    """Returns the boxes to audit, clipped to the domain."""
    shape = network.input_shape
    if request.published_log:
        log, inputs = map(console.expand, (request.published_log, request.inputs))
        return published_claims(log, inputs, shape, request.domain)
    claims = read_claims(console.expand(request.boxes), shape)
    for claim in claims:
        if claim.label is not None:
            label = np.array([claim.label])
            check_labels(label, 1, network.num_outputs, [claim.name])
    claims = [clipped(claim, request.domain) for claim in claims]
    outside = [claim.name for claim in claims if claim.holds_input is False]
    if outside:
        logging.warning(
            "%d boxes do not hold the input x they are given with, such as %s",
            len(outside), outside[0],
        )  # fmt: skip
    return claims


def _has_more_time(claim: Claim, files: AuditFiles, seconds: float) -> bool:
    """Returns whether a box is unknown, and was given less time than `seconds`."""
    record = files.records.get(claim.name)
    if record is None or record["verdict"] != "unknown":
        return False
    return seconds > record.get(TIMEOUT, 0.0)


def _is_new(claim: Claim, files: AuditFiles) -> bool:
    """Returns whether the audit lacks a line on a box.

    Raises:
      InputError: it has one on another box of the same name.
    """
    record = files.records.get(claim.name)
    if record is not None and record.get("content_hash") != claim.content_hash:
        raise InputError(
            f"box {claim.name} differs from the one of the same name that "
            f"{files.folder} answers. Choose another --output"
        )
    return record is None


def _audit_one(
    auditor: Auditor, claim: Claim, request: Request
) -> tuple[Record, dict[str, Any] | None]:
    """Returns the line of a box, and its row of witnesses if it is broken."""
    begin = time.monotonic()
    at_input = None if claim.x is None else int(np.argmax(auditor.logits(claim.x)))
    label, label_from = claim.label, "label"
    if label is None:
        label, label_from = at_input, "x"
    if label is None:
        center = claim.lo + (claim.hi - claim.lo) / 2
        label, label_from = int(np.argmax(auditor.logits(center))), "center"
    try:
        found = auditor.decide(claim, label, begin + request.timeout)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise JaxcertError(
                f"out of memory on box {claim.name}: use a machine with more, then "
                "continue with --resume"
            ) from error
        raise
    edges = claim.hi - claim.lo
    there = None if found.logits is None else int(np.argmax(found.logits))
    record = {
        "input": claim.name,
        "label": label,
        "label_from": label_from,
        "predicted": at_input,
        "verdict": found.verdict,
        "required_margin": request.required_margin,
        "witness_class": there,
        "witness_margin": None if there is None else found.margin,
        "found_by": found.found_by or None,
        "holds_input": claim.holds_input,
        "min_edge": float(edges.min()),
        "max_edge": float(edges.max()),
        "subproblems": found.subproblems,
        "seconds": round(time.monotonic() - begin, 6),
        "content_hash": claim.content_hash,
        TIMEOUT: request.timeout,
    }
    if found.witness is None:
        return record, None
    return record, {
        "label": label,
        "witness": found.witness,
        "witness_class": there,
        "witness_margin": found.margin,
        "lo": claim.lo,
        "hi": claim.hi,
    }
