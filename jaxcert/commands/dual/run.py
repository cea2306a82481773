"""Computing dual boxes of a network, and checking published ones by instances."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from jaxcert.box import Box
from jaxcert.branch.cells import not_class
from jaxcert.certifier import float64
from jaxcert.checks import check_inputs, check_labels, checked_domain
from jaxcert.commands import console
from jaxcert.commands.dual.files import DualFiles
from jaxcert.commands.dual.page import write_page
from jaxcert.commands.dual.proofs import Proofs
from jaxcert.commands.dual.table import claim_text, table
from jaxcert.commands.inputs import Selection, select_inputs
from jaxcert.commands.options import (
    DATASET,
    Options,
    data_dir,
    folder,
    option,
    seed,
    time_limit,
)
from jaxcert.errors import InputError
from jaxcert.learning.models import load_network
from jaxcert.model import Model
from jaxcert.network import Network
from jaxcert.report.answers import data_fact
from jaxcert.runs.files import write_whole
from jaxcert.runs.journal import Record
from jaxcert.runs.strict_json import dumps
from jaxcert.scope import scope_of
from jaxcert.search.dual import DualBox, DualOptions, DualTask, dual_boxes
from jaxcert.search.reach import ReachOptions, move_one_feature

CLAIMS, PROOFS = "claims.jsonl", "proofs"
# A proof may take as long as its box, and so many seconds in any case.
_PROOF_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `jaxcert dual`."""

    model: str = option("", "An .onnx (or .onnx.gz) file or a checkpoint (.npz).")
    classes: str = option(
        "all", "all, predicted (of the inputs, with --within), or 0,3,7."
    )
    lowest: bool = option(
        False, "The class is the least output (ACAS Xu), not the greatest."
    )
    within: float = option(
        0.0,
        "Only inputs within this distance of each of --inputs; 0: all.",
        least=0,
        below=math.inf,
    )
    inputs: str = option(
        "", "Indices of the data set, a CSV folder, or an .npy/.npz file."
    )
    dataset: str = option("digits", DATASET)
    data_dir: str | None = data_dir()
    split: str = option("test", "train or test.")
    claimed_radius: float = option(
        0.0,
        "Look for instances farther away from --inputs; 0: do not.",
        least=0,
        below=math.inf,
    )
    domain_lower: tuple[float, ...] = option(
        (0.0,), "Least legal values: one for all features, or one of each."
    )
    domain_upper: tuple[float, ...] = option((1.0,), "Greatest legal values, likewise.")
    tolerance: float = option(
        0.01,
        "Width of a closed bracket, as a part of the feature's range.",
        above=0,
        below=1,
    )
    time_limit: float = time_limit(0.0, "after which nothing new is begun")
    seed: int = seed("the search for instances")
    output: str = folder("out/dual")
    resume: bool = option(False, "Continue the run in --output.")
    proofs: bool = option(
        False, "Write a certificate per box that `jaxcert check` checks."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise InputError("give the network with --model")
        for name in ("within", "claimed_radius"):
            if getattr(self, name) and not self.inputs:
                raise InputError(f"--{name} needs --inputs: around what?")
        if self.classes == "predicted" and not self.within:
            raise InputError("--classes=predicted needs --within: predicted for what?")


@dataclasses.dataclass(frozen=True)
class Lowest:
    """A network of which the least output wins, as one of which the greatest does."""

    apply: Any

    @property
    def needs_float64(self) -> bool:
        """Whether the network does, see `OnnxGraph.needs_float64`."""
        return getattr(self.apply, "needs_float64", False)

    def __call__(self, params: Any, x: Any) -> Any:
        return -self.apply(params, x)


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A network, with what belongs to it.

    Attributes:
      network: as read.
      model: the same, of which the greatest output wins.
      domain: box of legal inputs, numpy float64.
    """

    network: Network
    model: Model
    domain: Box

    def winner(self, x: np.ndarray) -> np.ndarray:
        """Returns the classes of inputs (n, *d)."""
        return np.argmax(self.model.outputs(x), axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """One domain and the classes asked for in it; `name` is '' for all of F."""

    name: str
    domain: Box
    classes: list[int]


def compute(request: Request) -> int:
    """Computes the boxes into the output folder, prints tables; returns the exit code.

    Raises:
      InputError: what is asked makes no sense, or cannot be read or written.
    """
    subject = _subject(request)
    chosen = _chosen(request, subject)
    parts = list(_parts(request, subject, chosen))
    output = console.expand(request.output)
    stopped = ""
    limit = request.time_limit or math.inf
    scope = scope_of(subject.model.program, subject.network.types)
    console.warn_of_assumptions(scope)
    config = _config(request, subject, chosen)
    files = DualFiles(output, request.resume, config, scope)
    proofs = None
    if request.proofs:
        proofs = Proofs.into(output / PROOFS, subject.network.model, request.lowest)
    try:
        deadline = time.monotonic() + limit
        _compute_all(request, subject, chosen, parts, files, deadline, proofs)
        files.settle()
        if time.monotonic() > deadline:
            stopped = "the time limit"
    except KeyboardInterrupt:
        stopped = "Ctrl-C"
    records = list(files.journal.by_key.values())
    wanted = sum(len(part.classes) for part in parts)
    print(table(records, subject.network.name, request.lowest))
    if proofs is not None:
        print(proofs.summary())
    facts = {"command": request.command("dual"), "tolerance": request.tolerance}
    if chosen is not None:
        facts |= data_fact(chosen.x)
    page = output / "report.html"
    told = "" if proofs is None else proofs.summary()
    print(f"report: {write_page(page, records, facts, subject.network, scope, told)}")
    if request.claimed_radius and chosen is not None and not stopped:
        claims = _claims(request, subject, chosen)
        lines = [dumps(claim, CLAIMS).encode() + b"\n" for claim in claims]
        write_whole(output / CLAIMS, b"".join(lines))
        print(f"\n{claim_text(claims, request.claimed_radius)}")
    if stopped and len(records) < wanted:
        print(f"stopped by {stopped}; continue with --resume")
    return 130 if stopped == "Ctrl-C" else 0


def _subject(request: Request) -> Subject:
    network = load_network(console.expand(request.model))
    for note in network.notes:
        logging.warning("%s", note)
    shape = network.input_shape
    ends = [
        _per_feature(getattr(request, name), name, shape)
        for name in ("domain_lower", "domain_upper")
    ]
    model = network.model
    if request.lowest:
        model = Model(Lowest(network.apply), network.params, shape)
    return Subject(network, model, checked_domain((ends[0], ends[1]), shape))


def _per_feature(
    numbers: tuple[float, ...], name: str, shape: tuple[int, ...]
) -> np.ndarray:
    if len(numbers) not in (1, math.prod(shape)):
        raise InputError(
            f"{name} has {len(numbers)} values; give one, or one for each of the "
            f"{math.prod(shape)} features"
        )
    return np.broadcast_to(numbers, math.prod(shape)).reshape(shape)


def _chosen(request: Request, subject: Subject) -> Selection | None:
    if not request.inputs:
        return None
    chosen = select_inputs(
        request.inputs,
        subject.network,
        request.dataset,
        request.split,
        request.data_dir,
    )
    check_inputs(chosen.x, subject.domain, chosen.names)
    if chosen.labels is not None:
        count = subject.network.num_outputs
        check_labels(chosen.labels, len(chosen.names), count, chosen.names)
    return chosen


def _parts(
    request: Request, subject: Subject, chosen: Selection | None
) -> Iterator[Part]:
    count = subject.network.num_outputs
    if chosen is None or not request.within:
        yield Part("", subject.domain, _classes(request.classes, count))
        return
    predicted = subject.winner(chosen.x)
    for name, x, own in zip(chosen.names, chosen.x, predicted, strict=True):
        ball = _ball(x, request.within, subject.domain)
        classes = [int(own)]
        if request.classes != "predicted":
            classes = _classes(request.classes, count)
        yield Part(name, ball, classes)


@float64()
def _ball(x: np.ndarray, radius: float, domain: Box) -> Box:
    return jax.device_get(Box.ball(x, radius, domain, outward=True))  # type: ignore[arg-type]


def _classes(text: str, count: int) -> list[int]:
    if text == "all":
        return list(range(count))
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) < count for word in words):
        raise InputError(
            f"classes is {text!r}; write all, or some of 0 .. {count - 1} as 0,3,7"
        )
    return sorted({int(word) for word in words})


def _config(
    request: Request, subject: Subject, chosen: Selection | None
) -> dict[str, Any]:
    return {
        "model": subject.network.name,
        "model_hash": subject.network.content_hash,
        "class_is": "lowest" if request.lowest else "greatest",
        "within": request.within,
        "inputs": chosen.source if chosen is not None else None,
        "domain_lower": np.unique(subject.domain.lo)
        if subject.domain.lo.size > 8
        else subject.domain.lo.reshape(-1),
        "domain_upper": np.unique(subject.domain.hi)
        if subject.domain.hi.size > 8
        else subject.domain.hi.reshape(-1),
        "tolerance": request.tolerance,
        "seed": request.seed,
    }


def _compute_all(
    request: Request,
    subject: Subject,
    chosen: Selection | None,
    parts: Sequence[Part],
    files: DualFiles,
    deadline: float,
    proofs: Proofs | None,
) -> None:
    """Computes what is not done, and proves it, until the deadline."""
    options = DualOptions(
        tolerance=request.tolerance, reach=ReachOptions(seed=request.seed)
    )
    points = np.zeros((0, *subject.network.input_shape)) if chosen is None else chosen.x
    limit, held = request.time_limit or math.inf, files.journal.by_key
    rounds = [
        (part, [c for c in part.classes if (part.name, c) not in held])
        for part in parts
    ]
    # What less time left open is worked on again, after all that is new.
    rounds += [
        (part, [c for c in part.classes if _may_be_refined(held, part, c, limit)])
        for part in parts
    ]
    for part, todo in rounds:
        if not todo or time.monotonic() >= deadline:
            continue
        begin = time.perf_counter()
        task = DualTask(part.domain, todo, points)
        found = dual_boxes(subject.model, task, options, deadline)
        for box in found:
            seconds = time.perf_counter() - begin
            if (earlier := held.get((part.name, box.label))) is not None:
                box = files.box(earlier, part.domain, request.tolerance).narrowed(box)
                seconds += earlier["seconds"]
            record = {**_record(part, box, seconds), "time_limit": limit}
            files.append(record, {"instances": box.witness})
            logging.info(
                "%sclass %d: %s after %.1f s", part.name and f"{part.name} ",
                box.label, record["status"], seconds,
            )  # fmt: skip
            if proofs is not None:
                proofs.write(part.name, box, min(deadline, _proved_by(seconds)))
            begin = time.perf_counter()
    for part in parts if proofs is not None else ():
        for label in part.classes:
            kept = held.get((part.name, label))
            if kept is not None and not proofs.has(part.name, label):  # type: ignore[union-attr]
                box = files.box(kept, part.domain, request.tolerance)
                proofs.write(part.name, box, min(deadline, _proved_by(kept["seconds"])))  # type: ignore[union-attr]


def _proved_by(seconds: float) -> float:
    """Returns until when a proof is looked for, of a box that took so long."""
    return time.monotonic() + max(_PROOF_SECONDS, seconds)


def _may_be_refined(
    held: Mapping[Any, Record], part: Part, label: int, limit: float
) -> bool:
    """Whether a box is open, and was given less time than there is now."""
    record = held.get((part.name, label), {})
    return record.get("status") == "open" and limit > record.get("time_limit", 0.0)


def _record(part: Part, box: DualBox, seconds: float) -> Record:
    arrays = {
        "domain_lo": box.domain.lo, "domain_hi": box.domain.hi,
        "outer_lo": box.outer.lo, "outer_hi": box.outer.hi,
        "inner_lo": box.inner.lo, "inner_hi": box.inner.hi,
    }  # fmt: skip
    return {
        "input": part.name or None,
        "class": box.label,
        "status": box.status,
        "faces": box.gap.size,
        "on_domain": int(box.on_domain.sum()),
        "smaller": 0 if box.empty else int(box.smaller.sum()),
        "open": int(box.open.sum()),
        "widest_bracket": float(np.max(box.gap)),
        "subproblems": box.subproblems,
        "seconds": round(seconds, 3),
        "face_seconds": np.round(box.seconds, 3),
        **{name: np.asarray(v).reshape(-1) for name, v in arrays.items()},
    }


@float64()
def _claims(request: Request, subject: Subject, chosen: Selection) -> list[Record]:
    """Returns, per input, the farthest instance that differs in one feature from it."""
    count = subject.network.num_outputs
    labels = subject.winner(chosen.x) if chosen.labels is None else chosen.labels
    claims = []
    for name, x, label in zip(chosen.names, chosen.x, labels, strict=True):
        points, valid = jax.device_get(
            move_one_feature(
                subject.model.program, subject.model.double, subject.domain,
                not_class(int(label), count), x,
            )
        )  # fmt: skip
        away = np.abs(points - x).reshape(len(points), -1).max(axis=1)
        face = int(np.argmax(np.where(valid, away, -1)))
        feature = face % x.size
        claims.append(
            {
                "input": name,
                "class": int(label),
                "instance_found": bool(valid[face]),
                "distance": float(away[face]) if valid[face] else 0.0,
                "feature": feature,
                "from": float(x.flat[feature]),
                "to": float(points[face].flat[feature]),
                "farther": bool(valid[face] and away[face] > request.claimed_radius),
            }
        )
    return claims
