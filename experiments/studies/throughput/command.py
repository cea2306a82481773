"""Measures boxes per second, side by side with other tools, in one run.

    python experiments/throughput.py --output=out/throughput
    python experiments/throughput.py --model=net.onnx,256x2,cnn --inputs=FOLDER \\
        --methods=crown,ibp --batches=1,64 --cores=2 --output=out/throughput

Every box is a ball of --epsilon around an input, clipped to [0, 1]^d; what is bounded
are the margins of the predicted class, in float32. The tools that are importable get
the same boxes: jaxcert, a plain torch CROWN, auto_LiRPA, Marabou (method complete). The
times are medians of repeats after a warm-up, compilation apart, and only of tools whose
bounds agree with a float64 reference. Writes throughput.jsonl, table.txt and
throughput.png.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from jaxcert.commands.console import expand
from jaxcert.commands.options import REQUIRED, Options, folder, option
from jaxcert.errors import InputError
from jaxcert.learning.inputs import load_inputs
from jaxcert.runs.journal import Journal, rows
from studies.throughput import networks
from studies.throughput.case import METHODS, Case
from studies.throughput.report import compilation, picture, table
from studies.throughput.run import Protocol, measure
from studies.throughput.tools import TOOLS, available


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of the study `throughput`."""

    model: tuple[str, ...] = option(
        tuple(networks.STANDARD), "Names of random networks, .onnx, checkpoints."
    )
    inputs: str | None = option(None, "CSV folder or array file; else random.")
    methods: tuple[str, ...] = option(tuple(METHODS), "What to measure.")
    batches: tuple[int, ...] = option((1, 64, 1024), "Batch sizes.")
    tools: tuple[str, ...] = option((), "Which tools; else all importable ones.")
    cores: int | None = option(
        None, "CPU cores, the first that are allowed; else all.", least=1
    )
    epsilon: float = option(0.02, "Radius of the boxes.", least=0, below=math.inf)
    iterations: int = option(20, "Of alpha-crown.", least=1)
    chunk: int = option(
        8,
        "Boxes that jaxcert takes through the layers together; 0: as many as the "
        "memory of the device allows.",
        least=0,
    )
    seconds: float = option(
        2.0, "Least time to measure each tool for.", least=0, below=math.inf
    )
    timeout: float = option(60.0, "Seconds of one complete call.", above=0)
    asked: int = option(8, "Boxes of a batch that Marabou decides.", least=1)
    output: str = folder(REQUIRED)
    resume: bool = option(False, "Keep the cases that are measured.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag, words, known in (
            ("methods", self.methods, METHODS),
            ("tools", self.tools, TOOLS),
        ):
            for word in words:
                if word not in known:
                    raise InputError(
                        f"--{flag}: unknown {word!r}; known: {', '.join(known)}"
                    )
        if wrong := [size for size in self.batches if size < 1]:
            raise InputError(
                f"--batches takes integers of at least 1, got '{wrong[0]}'"
            )


def main(request: Request) -> int:
    """Runs the study; returns its exit code."""
    methods, batches = list(request.methods), request.batches
    present = available()
    tools = list(request.tools) or present
    missing = [tool for tool in tools if tool not in present]
    if missing:
        raise InputError(
            f"{missing[0]} cannot be measured: the package {TOOLS[missing[0]][0]} is "
            "not importable"
        )
    cores = _pin(request.cores, "torch" in tools)
    # XLA gives small programs one core: so a device per core, for a part of the batch.
    jax.config.update("jax_num_cpu_devices", cores)
    # So that what is printed is what a first run waits for.
    jax.config.update("jax_enable_compilation_cache", False)
    device = jax.devices()[0].device_kind
    protocol = Protocol(tuple(tools), request.seconds)
    config = _config(request, tools, cores, device)
    output = expand(request.output)
    journal = Journal(rows("throughput"), output, request.resume, config)
    done = {(r["network_hash"], r["method"], r["batch"]) for r in journal.records}
    for name in request.model:
        named = name in networks.STANDARD or "." not in name
        subject = networks.standard(name) if named else networks.load(name)
        digest = subject.network.content_hash
        for method in methods:
            for batch in batches:
                if (digest, method, batch) in done:
                    continue
                case = _case(request, subject, method, batch)
                # Together: a case is known by any of its rows.
                journal.append(*(found := list(measure(case, protocol))))
                for row in found:
                    _log(row)
    text = table(journal.records, tools)
    (output / "table.txt").write_text(f"{text}\n\n{compilation(journal.records)}\n")
    picture(journal.records, tools, output / "throughput")
    fastest = max(row["matrix_rate"] for row in journal.records)
    print(f"{device}, {cores} cores, {2e-9 * fastest:,.0f} GFLOP/s in matrix products")
    print(text)
    print(f"\nwrote {output}/throughput.jsonl, table.txt, throughput.png")
    return 0


def _case(request: Request, subject: networks.Subject, method: str, batch: int) -> Case:
    network = subject.network
    shape = (batch, *network.input_shape)
    if request.inputs:
        found = load_inputs(expand(request.inputs), network.input_shape).x
        x = np.resize(found, shape).astype(np.float32)
    else:
        x = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    logits = jax.vmap(network.apply, (None, 0))(network.params, x)
    labels = np.asarray(logits.argmax(axis=1), np.int32)
    return Case(
        subject, method, x, labels, request.epsilon, request.iterations, request.chunk,
        request.timeout, request.asked,
    )  # fmt: skip


def _config(
    request: Request, tools: list[str], cores: int, device: str
) -> dict[str, Any]:
    packages = {"jax", "jaxcert", *(TOOLS[tool][0] for tool in tools)}
    versions = {}
    for package in sorted(packages):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "from a folder"
    return {
        "tools": tools,
        "inputs": request.inputs and Path(request.inputs).name,
        "epsilon": request.epsilon,
        "iterations": request.iterations,
        "chunk": request.chunk,
        "complete_seconds": request.timeout,
        "asked": request.asked,
        "cores": cores,
        "devices": jax.local_device_count(),
        "device": device,
        "precision": "float32",
        "versions": versions,
    }


def _pin(cores: int | None, torch_too: bool) -> int:
    """Keeps this process to so many cores, before JAX has started; returns how many."""
    allowed = sorted(os.sched_getaffinity(0))
    if cores is not None and cores > len(allowed):
        raise InputError(f"--cores={cores}, but this process has {len(allowed)} cores")
    chosen = allowed[:cores]
    os.sched_setaffinity(0, chosen)
    if torch_too:
        import torch

        torch.set_num_threads(len(chosen))
        # As jaxcert computes: with all bits of float32, which is not cuDNN's default.
        torch.backends.cudnn.allow_tf32 = False
    return len(chosen)


def _log(row: dict[str, Any]) -> None:
    speed = row.get("boxes_per_second")
    found = row["problem"] or f"{speed:.4g} boxes/s"
    logging.info(
        "%s %s batch %d %s: %s, first call %.2f s",
        row["network"], row["method"], row["batch"], row["tool"], found,
        row["first_seconds"],
    )  # fmt: skip
