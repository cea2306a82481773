"""Certifies inputs of a network: a bracket around each apothem, a box, a witness.

    python experiments/certify.py --model=demo --dataset=digits --inputs=0:100 \\
        --output=out/digits

Writes certificates.jsonl, boxes.npz, summary.json and report.html into --output and
prints a table. Ctrl-C leaves valid files; --resume continues and redoes nothing.
Batches are spread over all devices; docs/scale.md tells how to use several processes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags, logging

from jaxcert.bounds.multineuron import CutOptions
from jaxcert.branch.signs import BranchOptions
from jaxcert.certifier import Certifier, CertifyOptions
from jaxcert.checks import check_inputs, check_labels
from jaxcert.commands import console
from jaxcert.commands.certify.grow import NOTHING, Grower
from jaxcert.commands.certify.proofs import Proofs
from jaxcert.commands.certify.record import OBJECTIVE
from jaxcert.commands.certify.regions import write_regions
from jaxcert.commands.certify.run import Run
from jaxcert.commands.certify.shards import (
    check_unchanged,
    merge,
    of_shards,
    read_shards,
    this_shard,
    wants_merge,
)
from jaxcert.commands.inputs import Selection, select_inputs, select_network
from jaxcert.devices import local_devices
from jaxcert.errors import InputError
from jaxcert.network import Network
from jaxcert.report import RunFiles, read_run, summarise, table, write_report
from jaxcert.search.growth import FAIRNESS, GrowthOptions
from jaxcert.witness.attack import AttackOptions

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
_CUTS = flags.DEFINE_boolean(
    "cuts", False, "Relax neurons in pairs in branch and bound (docs/relaxations.md)."
)
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
_DEVICES = flags.DEFINE_integer(
    "devices", 0, "Devices of this process to compute on; 0: all.", lower_bound=0
)
_RADIUS = flags.DEFINE_float(
    "radius", None, "Radius of the first sentence; default: one that half reach."
)
_AGAIN = flags.DEFINE_boolean(
    "again", False, "Certify a second time, to print times without compilation."
)


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    options = _options()
    if not _OUTPUT.value:
        raise InputError("output is empty: name the folder to write")
    output = console.expand(_OUTPUT.value)
    shard = this_shard()
    if (shard or wants_merge()) and _GROW.value != NOTHING:
        raise InputError("--grow works in one process: leave --processes out")
    if (shard or wants_merge()) and _MODEL.value == "demo":
        raise InputError(
            "several processes need one network: name its file with --model. A run "
            "with --model=demo writes one (network.npz)"
        )
    devices = _devices()
    data_dir = console.expand(_DATA_DIR.value) if _DATA_DIR.value else None
    network = select_network(
        _MODEL.value, output, _DATASET.value, data_dir, _SEED.value
    )
    for note in network.notes:
        logging.warning("%s", note)
    chosen = select_inputs(
        _INPUTS.value, network, _DATASET.value, _SPLIT.value, data_dir
    )
    # A batch is padded to its size, and no one wants more padding than inputs.
    batch = min(options.batch_size, max(64, len(chosen.names)))
    options = dataclasses.replace(options, batch_size=batch)
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
    config, rows = _config(network, chosen), np.arange(len(chosen.names))
    if wants_merge():
        return _merge(output, config, chosen, batch)
    if shard:
        output, rows = shard.folder(output), shard.rows(len(rows), batch)
        config = of_shards(config, batch)
    with _files(output, config) as files:
        _check_done(files, chosen)
        proofs = None
        if _wants_proofs():
            proofs = Proofs.into(output / "proofs", certifier, _ARITHMETIC.value)
        grower = _grower(certifier, output)
        run = Run(
            certifier, chosen, rows, devices, files, proofs, grower, _ARITHMETIC.value
        )
        interrupted = run.certify(_TIME_LIMIT.value or math.inf)
        if not interrupted:
            files.finish()
        if grower is not None:
            write_regions(certifier, output)
    _show(files, proofs, grower, report=_REPORT.value and not shard)
    if shard:
        print(f"\nshard {shard}: merge when all {shard.count} are done")
    if interrupted:
        print(f"stopped by {interrupted}; continue with --resume")
    elif _AGAIN.value:
        run.print_times()
    return 130 if interrupted == "Ctrl-C" else 0


def _options() -> CertifyOptions:
    """Returns how to certify; raises InputError for a flag out of range."""
    if _OBJECTIVE.value != OBJECTIVE:
        raise InputError(f"unknown objective '{_OBJECTIVE.value}'; choose {OBJECTIVE}")
    if _RADIUS.value is not None and not 0 <= _RADIUS.value < math.inf:
        raise InputError(f"radius is {_RADIUS.value}; it must be >= 0")
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
    if _CUTS.value and _ORACLE.value != "complete":
        raise InputError("--cuts belongs to --oracle=complete: no other branches")
    cuts = CutOptions() if _CUTS.value else None
    return CertifyOptions(
        oracle=_ORACLE.value,
        candidates=_CANDIDATES.value,
        batch_size=_BATCH_SIZE.value,
        attack=AttackOptions(restarts=_RESTARTS.value, seed=_SEED.value),
        branch=BranchOptions(record=_wants_proofs(), cuts=cuts),
    )


def _devices() -> tuple[jax.Device, ...]:
    """Returns what to compute on."""
    devices = local_devices()
    if _DEVICES.value > len(devices):
        raise InputError(
            f"devices is {_DEVICES.value}; this process has {len(devices)}"
        )
    return devices[: _DEVICES.value or None]


def _files(output: Path, config: dict) -> RunFiles:
    return RunFiles(output, _RESUME.value, config, console.flag_values(__package__))


def _merge(output: Path, config: dict, chosen: Selection, batch: int) -> int:
    """Puts the shards in `output` together; returns the exit code."""
    shards = read_shards(output, chosen, batch, of_shards(config, batch))
    with _files(output, config) as files:
        _check_done(files, chosen)
        merge(files, shards, chosen, batch)
        files.finish()
    _show(files, None, None, _REPORT.value)
    return 0


def _check_done(files: RunFiles, chosen: Selection) -> None:
    """Raises InputError if the run answers an input of equal name but other values."""
    if not files.done.isdisjoint(chosen.names):
        check_unchanged(files.directory, read_run(files.directory), chosen)


def _show(
    files: RunFiles, proofs: Proofs | None, grower: Grower | None, report: bool
) -> None:
    records = read_run(files.directory).records
    summary = summarise(records, radius=_RADIUS.value)
    print(table(records, summary, tolerance=_TOLERANCE.value))
    if proofs is not None:
        print(f"\n{proofs.summary()}")
    if grower is not None:
        print(f"\n{grower.summary()}")
    if report:
        print(f"\nreport: {write_report(files.directory)}")


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
    if _CUTS.value:
        config["cuts"] = True
    if _GROW.value != NOTHING:
        config |= {"grow": _GROW.value, "delta": _DELTA.value}
    if chosen.class_names is not None:
        config["class_names"] = list(chosen.class_names)
    return config
