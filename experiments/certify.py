"""Certifies inputs of a network: a bracket around each apothem, a box, a witness.

    python experiments/certify.py --model=demo --dataset=digits --inputs=0:100 \\
        --output=out/digits

Writes certificates.jsonl, boxes.npz, summary.json and report.html into --output and
prints a table. Ctrl-C leaves valid files; --resume continues and redoes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import _common
import numpy as np
from _grow import NOTHING, Grower
from _inputs import Selection, select_inputs, select_network
from _proofs import Proofs
from _record import record_of
from _regions import write_regions
from absl import flags, logging

from jaxcert.certifier import (
    Certification,
    Certifier,
    CertifyOptions,
)
from jaxcert.checks import check_inputs, check_labels
from jaxcert.errors import InputError
from jaxcert.network import Network
from jaxcert.oracle.attack import AttackOptions
from jaxcert.oracle.branch_and_bound import BranchOptions
from jaxcert.report import (
    RunFiles,
    read_run,
    summarise,
    table,
    write_report,
)
from jaxcert.search.growth import FAIRNESS, GrowthOptions

_MODEL = flags.DEFINE_string(
    "model", "demo", "An .onnx file, a checkpoint (.npz), or 'demo' to train one."
)
_DATASET = flags.DEFINE_string("dataset", "digits", "digits, mnist or fashion_mnist.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data set lies.")
_SPLIT = flags.DEFINE_string("split", "test", "train or test.")
_INPUTS = flags.DEFINE_string(
    "inputs", "0:100", "Indices (0:100; 3,17; all), a CSV folder, or an .npy/.npz file."
)
_OBJECTIVE = flags.DEFINE_string("objective", "apothem", "What the box maximises.")
_ORACLE = flags.DEFINE_string(
    "oracle", "complete", "What proves: ibp, crown, or complete (exact brackets)."
)
_TOLERANCE = flags.DEFINE_float(
    "tolerance", 1e-4, "Width of the bracket to reach, in input units."
)
_MARGIN = flags.DEFINE_float(
    "required_margin", 0.0, "Prove margin > this; -1 reproduces published slack."
)
_LOWER = flags.DEFINE_float("domain_lower", 0.0, "Least legal value of a feature.")
_UPPER = flags.DEFINE_float("domain_upper", 1.0, "Greatest legal value of a feature.")
_CANDIDATES = flags.DEFINE_integer("candidates", 8, "Radii checked per input and call.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Inputs per call.")
_RESTARTS = flags.DEFINE_integer("restarts", 2, "Starts of the attack per class.")
_TIME_LIMIT = flags.DEFINE_float(
    "time_limit",
    0.0,
    "Seconds after which no batch begins and --oracle=complete stops; 0: no limit.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the attack and the demo network.")
_OUTPUT = flags.DEFINE_string("output", "out/certify", "Folder to write.")
_RESUME = flags.DEFINE_boolean("resume", False, "Continue the run in --output.")
_REPORT = flags.DEFINE_boolean("report", True, "Write report.html.")
_PROOFS = flags.DEFINE_boolean(
    "proofs", False, "Write a certificate per input that experiments/check.py checks."
)
_ARITHMETIC = flags.DEFINE_enum(
    "arithmetic",
    "real",
    ["real", "float32"],
    "What is proved: the network in real numbers, or every float32 evaluation of it "
    "(implies --proofs).",
)
_GROW = flags.DEFINE_enum(
    "grow",
    NOTHING,
    [NOTHING, *FAIRNESS],
    "Grow every box on to a maximal one, for this objective; with --proofs, "
    "certificates of the grown boxes are written as well.",
)
_DELTA = flags.DEFINE_float(
    "delta", 1e-3, "No face of a grown box can move on by this, in input units."
)
_AGAIN = flags.DEFINE_boolean(
    "again", False, "Certify a second time, to print times without compilation."
)


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    if _OBJECTIVE.value != "apothem":
        raise InputError(f"unknown objective '{_OBJECTIVE.value}'; choose apothem")
    if not _TIME_LIMIT.value >= 0:
        raise InputError(f"time_limit is {_TIME_LIMIT.value}; it must be >= 0")
    if not 0 <= _SEED.value < 2**32:
        raise InputError(f"seed is {_SEED.value}; it must lie in 0 .. {2**32 - 1}")
    for name, value, most in (
        ("candidates", _CANDIDATES.value, 2**16),
        ("restarts", _RESTARTS.value, 2**10),
    ):
        if not 1 <= value <= most:
            raise InputError(f"{name} is {value}; it must lie in 1 .. {most}")
    options = CertifyOptions(
        oracle=_ORACLE.value,
        candidates=_CANDIDATES.value,
        batch_size=_BATCH_SIZE.value,
        attack=AttackOptions(restarts=_RESTARTS.value, seed=_SEED.value),
        branch=BranchOptions(record=_wants_proofs()),
    )
    if not _OUTPUT.value:
        raise InputError("output is empty: name the folder to write")
    output = _common.expand(_OUTPUT.value)
    data_dir = _common.expand(_DATA_DIR.value) if _DATA_DIR.value else None
    network = select_network(
        _MODEL.value, output, _DATASET.value, data_dir, _SEED.value
    )
    for note in network.notes:
        logging.warning("%s", note)
    chosen = select_inputs(
        _INPUTS.value, network, _DATASET.value, _SPLIT.value, data_dir
    )
    # A batch is padded to its size, and no one wants more padding than inputs.
    most = max(64, len(chosen.names))
    options = dataclasses.replace(options, batch_size=min(most, options.batch_size))
    certifier = Certifier(
        network.apply,
        network.params,
        (_LOWER.value, _UPPER.value),
        network.input_shape,
        tolerance=_TOLERANCE.value,
        required_margin=_MARGIN.value,
        options=options,
    )
    _check(certifier, chosen)
    config = _config(network, chosen)
    with RunFiles(output, _RESUME.value, config, _flag_values()) as files:
        _check_unchanged(files, chosen)
        proofs = None
        if _wants_proofs():
            proofs = Proofs.into(output / "proofs", certifier, _ARITHMETIC.value)
        grower = _grower(certifier, output)
        interrupted = _certify_all(certifier, chosen, files, proofs, grower)
        if not interrupted:
            files.finish()
    for notice in files.notices:
        logging.warning("%s", notice)
    records = read_run(output).records
    print(table(records, summarise(records), tolerance=_TOLERANCE.value))
    if proofs is not None:
        print(f"\n{proofs.summary()}")
    if grower is not None:
        print(f"\n{grower.summary()}")
        write_regions(certifier, output)
    if _REPORT.value:
        print(f"\nreport: {write_report(output)}")
    if interrupted:
        print(f"stopped by {interrupted}; continue with --resume")
    if _AGAIN.value and not interrupted:
        _print_times(certifier, chosen)
    return 130 if interrupted == "Ctrl-C" else 0


def _wants_proofs() -> bool:
    """Nothing but the checker proves what float32 evaluations do."""
    return _PROOFS.value or _ARITHMETIC.value == "float32"


def _grower(certifier: Certifier, output: Path) -> Grower | None:
    if _GROW.value == NOTHING:
        return None
    folder = output / "grown" if _wants_proofs() else None
    options = GrowthOptions(_GROW.value, _DELTA.value)  # type: ignore[arg-type]
    return Grower.into(folder, certifier, options, _ARITHMETIC.value)


def _check(certifier: Certifier, chosen: Selection) -> None:
    """Raises InputError, with its name, for an input or a label out of range."""
    names = chosen.names
    check_inputs(chosen.x, certifier.domain, names)
    if chosen.labels is not None:
        check_labels(chosen.labels, len(names), certifier.num_classes, names)


def _check_unchanged(files: RunFiles, chosen: Selection) -> None:
    """Raises InputError if the run answers an input of equal name but other values."""
    if files.done.isdisjoint(chosen.names):
        return
    run = read_run(files.directory)
    stored = {record["input"]: row for row, record in enumerate(run.records)}
    for row, name in enumerate(chosen.names):
        if name not in stored:
            continue
        label = None if chosen.labels is None else int(chosen.labels[row])
        same = np.array_equal(run.x[stored[name]], chosen.x[row])
        if not same or run.records[stored[name]]["label"] != label:
            raise InputError(
                f"input {name} has other values or another label in the run that "
                f"{files.directory} holds. Choose another --output"
            )


def _certify_all(
    certifier: Certifier,
    chosen: Selection,
    files: RunFiles,
    proofs: Proofs | None,
    grower: Grower | None,
) -> str:
    """Certifies what is not done; returns what stopped it, or ''."""
    todo = [i for i, name in enumerate(chosen.names) if name not in files.done]
    if len(todo) < len(chosen.names):
        logging.info("%d inputs are done already", len(chosen.names) - len(todo))
    limit = _TIME_LIMIT.value or math.inf
    deadline = time.monotonic() + limit
    size = certifier.options.batch_size
    try:
        with _progress(len(todo)) as show:
            for start in range(0, len(todo), size):
                if time.monotonic() >= deadline:
                    return "the time limit"
                part = np.array(todo[start : start + size])
                _certify_part(certifier, chosen, part, files, proofs, grower, deadline)
                show(start + len(part))
    except KeyboardInterrupt:
        return "Ctrl-C"
    return ""


def _certify_part(
    certifier: Certifier,
    chosen: Selection,
    part: np.ndarray,
    files: RunFiles,
    proofs: Proofs | None,
    grower: Grower | None,
    deadline: float,
) -> None:
    begin = time.perf_counter()
    labels = None if chosen.labels is None else chosen.labels[part]
    answer, trees = certifier.batch_with_proofs(chosen.x[part], labels, deadline)
    names = [chosen.names[i] for i in part]
    if proofs is not None:
        answer = proofs.write(names, chosen.x[part], answer, trees)
    seconds = (time.perf_counter() - begin) / len(part)
    _warn_of_open_brackets(answer, deadline)
    records = [
        record_of(certifier, answer, row, name, labels is not None)
        | {"arithmetic": _ARITHMETIC.value, "seconds": round(seconds, 6)}
        for row, name in enumerate(names)
    ]
    grown = None
    if grower is not None:
        boxes = grower.grow(names, chosen.x[part], answer, deadline)
        grown = boxes.lo, boxes.hi
        for record, own in zip(records, boxes.records, strict=True):
            record["grown"] = own
    files.append(
        records,
        x=chosen.x[part],
        lo=np.asarray(answer.box.lo),
        hi=np.asarray(answer.box.hi),
        witness=answer.witness,
        witness_class=answer.witness_class,
        grown=grown,
    )


def _warn_of_open_brackets(answer: Certification, deadline: float) -> None:
    """Says once that the time limit came before the brackets were closed."""
    if _ORACLE.value != "complete" or time.monotonic() < deadline:
        return
    with np.errstate(invalid="ignore"):
        wide = int(np.sum(answer.upper - answer.lower > _TOLERANCE.value))
    if wide:
        logging.warning(
            "the time limit came first: %d of %d brackets are wider than tolerance "
            "%g. They are stored as far as proved, and --resume does not redo them",
            wide, len(answer.upper), _TOLERANCE.value,
        )  # fmt: skip


def _config(network: Network, chosen: Selection) -> dict:
    config = {
        "model": network.name,
        "model_hash": network.content_hash,
        "dataset": chosen.source,
        "domain_lower": _LOWER.value,
        "domain_upper": _UPPER.value,
        "objective": _OBJECTIVE.value,
        "oracle": _ORACLE.value,
        "arithmetic": _ARITHMETIC.value,
        "required_margin": _MARGIN.value,
        "tolerance": _TOLERANCE.value,
        "candidates": _CANDIDATES.value,
        "restarts": _RESTARTS.value,
        "seed": _SEED.value,
    }
    if _GROW.value != NOTHING:
        config |= {"grow": _GROW.value, "delta": _DELTA.value}
    if chosen.class_names is not None:
        config["class_names"] = list(chosen.class_names)
    return config


def _flag_values() -> dict:
    own = flags.FLAGS.flags_by_module_dict().get("__main__", [])
    own = own or flags.FLAGS.flags_by_module_dict().get(__name__, [])
    return {flag.name: flag.value for flag in own}


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar on a terminal; the block calls what it gets with the number done."""
    from rich.progress import Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stdout.isatty(), transient=True) as bar:
        task = bar.add_task("certifying", total=total)
        yield lambda done: bar.update(task, completed=done)


def _print_times(certifier: Certifier, chosen: Selection) -> None:
    """Certifies everything once more and prints where the time goes."""
    seconds = certifier.seconds
    for stage in ("prove", "refute", "reprove", "confirm", "branch"):
        setattr(seconds, stage, 0.0)
    size = certifier.options.batch_size
    for start in range(0, len(chosen.x), size):
        part = slice(start, start + size)
        labels = None if chosen.labels is None else chosen.labels[part]
        certifier.batch_with_proofs(chosen.x[part], labels)
    print(
        f"\nsecond run, {len(chosen.x)} inputs, without compilation:\n"
        f"  proof search {seconds.prove:.3f} s + re-proof in float64 "
        f"{seconds.reprove:.3f} s\n"
        f"  attack       {seconds.refute:.3f} s + confirmation       "
        f"{seconds.confirm:.3f} s\n"
        f"  branch and bound {seconds.branch:.3f} s"
    )


if __name__ == "__main__":
    _common.run(main)
