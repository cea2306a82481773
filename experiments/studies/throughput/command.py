"""Measures boxes per second, side by side with other tools, in one run.

    python experiments/throughput.py --output=out/throughput
    python experiments/throughput.py --models=net.onnx,256x2,cnn --inputs=FOLDER \\
        --methods=crown,ibp --batches=1,64 --cores=2 --output=out/throughput

Every box is a ball of --epsilon around an input, clipped to [0, 1]^d; what is bounded
are the margins of the predicted class, in float32. The tools that are importable get
the same boxes: jaxcert, a plain torch CROWN, auto_LiRPA, Marabou (method complete). The
times are medians of repeats after a warm-up, compilation apart, and only of tools whose
bounds agree with a float64 reference. Writes throughput.jsonl, table.txt and
throughput.png.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags, logging

from jaxcert.commands.console import expand
from jaxcert.errors import InputError
from jaxcert.learning.inputs import load_inputs
from jaxcert.runs.journal import Journal, rows
from studies.throughput import networks
from studies.throughput.case import METHODS, Case
from studies.throughput.report import compilation, picture, table
from studies.throughput.run import Protocol, measure
from studies.throughput.tools import TOOLS, available

_MODELS = flags.DEFINE_list(
    "models", list(networks.STANDARD), "Names of random networks, .onnx, checkpoints."
)
_INPUTS = flags.DEFINE_string("inputs", None, "CSV folder or array file; else random.")
_METHODS = flags.DEFINE_list("methods", list(METHODS), "What to measure.")
_BATCHES = flags.DEFINE_list("batches", ["1", "64", "1024"], "Batch sizes.")
_TOOLS = flags.DEFINE_list("tools", [], "Which tools; else all importable ones.")
_CORES = flags.DEFINE_integer(
    "cores", None, "CPU cores, the first that are allowed; else all.", lower_bound=1
)
_EPSILON = flags.DEFINE_float("epsilon", 0.02, "Radius of the boxes.", lower_bound=0)
_ITERATIONS = flags.DEFINE_integer("iterations", 20, "Of alpha-crown.", lower_bound=1)
_CHUNK = flags.DEFINE_integer(
    "chunk", 8, "Boxes that jaxcert takes through the layers together.", lower_bound=1
)
_SECONDS = flags.DEFINE_float(
    "seconds", 2.0, "Least time to measure each tool for.", lower_bound=0
)
_LIMIT = flags.DEFINE_float("complete_seconds", 60.0, "Limit of one complete call.")
_ASKED = flags.DEFINE_integer(
    "asked", 8, "Boxes of a batch that Marabou decides.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write.", required=True)
_RESUME = flags.DEFINE_boolean("resume", False, "Keep the cases that are measured.")


def main(argv: Sequence[str]) -> int:
    del argv
    methods = _known("methods", _METHODS.value, METHODS)
    present = available()
    tools = _known("tools", _TOOLS.value, tuple(TOOLS)) or present
    missing = [tool for tool in tools if tool not in present]
    if missing:
        raise InputError(
            f"{missing[0]} cannot be measured: the package {TOOLS[missing[0]][0]} is "
            "not importable"
        )
    batches = [_count(word) for word in _BATCHES.value]
    cores = _pin(_CORES.value, "torch" in tools)
    # XLA gives small programs one core: so a device per core, for a part of the batch.
    jax.config.update("jax_num_cpu_devices", cores)
    # So that what is printed is what a first run waits for.
    jax.config.update("jax_enable_compilation_cache", False)
    device = jax.devices()[0].device_kind
    protocol = Protocol(tuple(tools), _SECONDS.value)
    config = _config(methods, tools, cores, device)
    folder = expand(_OUTPUT.value)
    journal = Journal(rows("throughput"), folder, _RESUME.value, config)
    done = {(r["network_hash"], r["method"], r["batch"]) for r in journal.records}
    for name in _MODELS.value:
        named = name in networks.STANDARD or "." not in name
        subject = networks.standard(name) if named else networks.load(name)
        digest = subject.network.content_hash
        for method in methods:
            for batch in batches:
                if (digest, method, batch) in done:
                    continue
                case = _case(subject, method, batch)
                # Together: a case is known by any of its rows.
                journal.append(*(found := list(measure(case, protocol))))
                for row in found:
                    _log(row)
    text = table(journal.records, tools)
    (folder / "table.txt").write_text(f"{text}\n\n{compilation(journal.records)}\n")
    picture(journal.records, tools, folder / "throughput")
    fastest = max(row["matrix_rate"] for row in journal.records)
    print(f"{device}, {cores} cores, {2e-9 * fastest:,.0f} GFLOP/s in matrix products")
    print(text)
    print(f"\nwrote {folder}/throughput.jsonl, table.txt, throughput.png")
    return 0


def _case(subject: networks.Subject, method: str, batch: int) -> Case:
    network = subject.network
    shape = (batch, *network.input_shape)
    if _INPUTS.value:
        found = load_inputs(expand(_INPUTS.value), network.input_shape).x
        x = np.resize(found, shape).astype(np.float32)
    else:
        x = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    logits = jax.vmap(network.apply, (None, 0))(network.params, x)
    labels = np.asarray(logits.argmax(axis=1), np.int32)
    return Case(
        subject, method, x, labels, _EPSILON.value, _ITERATIONS.value, _CHUNK.value,
        _LIMIT.value, _ASKED.value,
    )  # fmt: skip


def _config(
    methods: list[str], tools: list[str], cores: int, device: str
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
        "inputs": _INPUTS.value and Path(_INPUTS.value).name,
        "epsilon": _EPSILON.value,
        "iterations": _ITERATIONS.value,
        "chunk": _CHUNK.value,
        "complete_seconds": _LIMIT.value,
        "asked": _ASKED.value,
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
    return len(chosen)


def _known(flag: str, words: Sequence[str], known: Sequence[str]) -> list[str]:
    for word in words:
        if word not in known:
            raise InputError(f"--{flag}: unknown {word!r}; known: {', '.join(known)}")
    return list(words)


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise InputError(f"--batches takes integers of at least 1, got {word!r}")
    return int(word)


def _log(row: dict[str, Any]) -> None:
    speed = row.get("boxes_per_second")
    found = row["problem"] or f"{speed:.4g} boxes/s"
    logging.info(
        "%s %s batch %d %s: %s, first call %.2f s",
        row["network"], row["method"], row["batch"], row["tool"], found,
        row["first_seconds"],
    )  # fmt: skip
