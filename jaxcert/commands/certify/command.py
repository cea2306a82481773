"""Certifies inputs of a network: a bracket around each apothem, a box, a witness.

    python experiments/certify.py --model=demo --dataset=digits --inputs=0:100 \\
        --output=out/digits

Writes certificates.jsonl, boxes.npz, summary.json and report.html into --output and
prints a table. What the proofs cover and take for granted is in summary.json and in the
report. Ctrl-C leaves valid files; --resume continues and redoes nothing, and with a
larger --time_limit goes on with the brackets that are open.
Batches are spread over all devices; docs/scale.md tells how to use several processes.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from pathlib import Path

import jax
import numpy as np
from absl import logging

from jaxcert.certification import CertifyOptions
from jaxcert.certifier import Certifier
from jaxcert.checks import check_inputs, check_labels
from jaxcert.commands import console
from jaxcert.commands.certify.grow import NOTHING, Grower
from jaxcert.commands.certify.proofs import Proofs, are_cheap
from jaxcert.commands.certify.regions import write_regions
from jaxcert.commands.certify.request import Request
from jaxcert.commands.certify.run import Run
from jaxcert.commands.certify.shards import (
    Whole,
    check_unchanged,
    merge,
    of_shards,
    read_shards,
    this_shard,
)
from jaxcert.commands.inputs import Selection, select_inputs, select_network
from jaxcert.devices import local_devices
from jaxcert.errors import InputError
from jaxcert.network import Network
from jaxcert.report import RunFiles, read_run, summarise, table, write_report
from jaxcert.report.page import certificates_of, checked, claim
from jaxcert.scope import Scope, scope_of
from jaxcert.search.growth import GrowthOptions

_WIDTH = 80  # of what is printed


def main(request: Request) -> int:
    """Runs the command; returns its exit code."""
    options = request.options
    output = console.expand(request.output)
    shard = this_shard(request)
    if (shard or request.merge) and request.grow != NOTHING:
        raise InputError("--grow works in one process: leave --processes out")
    if (shard or request.merge) and request.model == "demo":
        raise InputError(
            "several processes need one network: name its file with --model. A run "
            "with --model=demo writes one (network.npz)"
        )
    devices = _devices(request)
    network = select_network(
        request.model, output, request.dataset, request.data_dir, request.seed
    )
    for note in network.notes:
        logging.warning("%s", note)
    chosen = select_inputs(
        request.inputs, network, request.dataset, request.split, request.data_dir,
        request.scale,
    )  # fmt: skip
    # A batch is padded to its size, and no one wants more padding than inputs.
    batch = min(options.batch_size, max(64, len(chosen.names)))
    options = dataclasses.replace(options, batch_size=batch)
    certifier = _certifier(request, network, options)
    cheap = request.wants_cheap_proofs and are_cheap(certifier)
    if cheap:
        branch = dataclasses.replace(options.branch, record=True)
        options = dataclasses.replace(options, branch=branch)
        certifier = _certifier(request, network, options)
    _check(certifier, chosen)
    scope = scope_of(certifier.model.program, network.types, request.arithmetic)
    console.warn_of_assumptions(scope)
    config, rows = _config(request, network, chosen), np.arange(len(chosen.names))
    if request.merge:
        return _merge(request, output, config, scope, chosen, batch)
    if shard:
        output, rows = shard.folder(output), shard.rows(len(rows), batch)
        config = of_shards(config, batch)
    with _files(request, output, config, scope) as files:
        _check_done(files, chosen)
        proofs = None
        if request.wants_proofs:
            proofs = Proofs.into(output / "proofs", certifier, request.arithmetic)
        elif cheap:
            proofs = Proofs.where_cheap(output / "proofs", certifier)
        grower = _grower(request, certifier, output)
        run = Run(
            certifier, chosen, rows, devices, files, proofs, grower, request.arithmetic
        )
        interrupted = run.certify(request.time_limit or math.inf)
        if files.done >= {chosen.names[i] for i in rows}:
            files.finish()
        if grower is not None:
            write_regions(certifier, output)
    _show(request, files, proofs, grower, report=request.report and not shard)
    if shard:
        print(f"\nshard {shard}: merge when all {shard.count} are done")
    if interrupted:
        print(f"stopped by {interrupted}; continue with --resume")
    elif request.again:
        run.print_times()
    return 130 if interrupted == "Ctrl-C" else 0


def _devices(request: Request) -> tuple[jax.Device, ...]:
    """Returns what to compute on."""
    devices = local_devices()
    if request.devices > len(devices):
        raise InputError(
            f"devices is {request.devices}; this process has {len(devices)}"
        )
    return devices[: request.devices or None]


def _files(request: Request, output: Path, config: dict, scope: Scope) -> RunFiles:
    typed = request.command("certify")
    return RunFiles(output, request.resume, config, request.record(), scope, typed)


def _merge(
    request: Request,
    output: Path,
    config: dict,
    scope: Scope,
    chosen: Selection,
    batch: int,
) -> int:
    """Puts the shards in `output` together; returns the exit code."""
    whole = Whole(output, chosen, batch, request.processes)
    shards = read_shards(whole, of_shards(config, batch))
    with _files(request, output, config, scope) as files:
        _check_done(files, chosen)
        merge(files, shards, whole)
        files.finish()
    _show(request, files, report=request.report)
    return 0


def _check_done(files: RunFiles, chosen: Selection) -> None:
    """Raises InputError if the run answers an input of equal name but other values."""
    if not files.done.isdisjoint(chosen.names):
        check_unchanged(files.directory, read_run(files.directory), chosen)


def _show(
    request: Request,
    files: RunFiles,
    proofs: Proofs | None = None,
    grower: Grower | None = None,
    *,
    report: bool,
) -> None:
    run = read_run(files.directory)
    summary = summarise(run.records, radius=request.radius)
    print(table(run.records, summary, tolerance=request.tolerance))
    if summary["certified"]:
        said = claim(run), checked(run, certificates_of(run, files.directory))
        print("\n" + "\n".join(textwrap.fill(text, _WIDTH) for text in said))
    if proofs is not None and (written := proofs.summary()):
        print(f"\n{written}")
    if grower is not None:
        print(f"\n{grower.summary()}")
    if report:
        print(f"\nreport: {write_report(files.directory)}")


def _certifier(
    request: Request, network: Network, options: CertifyOptions
) -> Certifier:
    return Certifier(
        network.apply,
        network.params,
        (request.domain_lower, request.domain_upper),
        network.input_shape,
        norm=request.norm,  # type: ignore[arg-type]
        tolerance=request.tolerance,
        required_margin=request.required_margin,
        options=options,
    )


def _grower(request: Request, certifier: Certifier, output: Path) -> Grower | None:
    if request.grow == NOTHING:
        return None
    folder = output / "grown" if request.wants_proofs else None
    options = GrowthOptions(request.grow, request.delta)  # type: ignore[arg-type]
    return Grower.into(folder, certifier, options, request.arithmetic)


def _check(certifier: Certifier, chosen: Selection) -> None:
    """Raises InputError, with its name, for an input or a label out of range."""
    names = chosen.names
    check_inputs(chosen.x, certifier.domain, names)
    if chosen.labels is not None:
        check_labels(chosen.labels, len(names), certifier.num_classes, names)


def _config(request: Request, network: Network, chosen: Selection) -> dict:
    config = {
        "model": network.name,
        "model_hash": network.content_hash,
        "dataset": chosen.source,
        **request.settings(),
    }
    if chosen.class_names is not None:
        config["class_names"] = list(chosen.class_names)
    return config
