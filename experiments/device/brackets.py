"""Closes the brackets of a batch of inputs, and says how long that takes and where.

    python -m device brackets --model=NET.onnx --inputs=FOLDER --output=OUT
    python -m device brackets --model=NET.onnx --inputs=0:1000 --output=OUT

Indices are of --dataset. All inputs are certified twice with branch and bound: what the
first pass takes longer is tracing and compiling.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import jax
import numpy as np

from device.rows import Rows, peak_bytes
from jaxcert.certification import Outcome
from jaxcert.certifier import Certifier, CertifyOptions
from jaxcert.commands.inputs import Selection, select_inputs
from jaxcert.commands.options import REQUIRED, Options, data_dir, folder, option
from jaxcert.learning.models import load_network

STAGES = ("prove", "refute", "reprove", "confirm", "branch")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `brackets`."""

    model: str = option(REQUIRED, "An .onnx file.")
    dataset: str = option("fashion_mnist", "Of which --inputs are indices.")
    data_dir: str | None = data_dir()
    inputs: str = option(REQUIRED, "A folder of CSV files, or indices.")
    tolerance: float = option(1e-4, "Width of a closed bracket.", above=0)
    batch_size: int = option(64, "Inputs per call.", least=1)
    passes: int = option(2, "How often all are certified.", least=1)
    output: str = folder(REQUIRED)


def main(request: Request) -> int:
    """Runs the measurement; returns its exit code."""
    rows = Rows(request.output)
    network = load_network(request.model)
    chosen = select_inputs(
        request.inputs, network, request.dataset, "test", request.data_dir
    )
    certifier = Certifier(
        network.apply, network.params, None, network.input_shape,
        tolerance=request.tolerance,
        options=CertifyOptions(oracle="complete", batch_size=request.batch_size),
    )  # fmt: skip
    for number in range(1, request.passes + 1):
        seconds = certifier.seconds
        for stage in STAGES:
            setattr(seconds, stage, 0.0)
        begin = time.perf_counter()
        found = _certified(certifier, chosen, request.batch_size)
        spent = time.perf_counter() - begin
        rows.add(
            "brackets", network=Path(request.model).stem, inputs=len(chosen.x),
            batch_size=request.batch_size, first=number == 1, seconds=spent,
            stages={stage: getattr(seconds, stage) for stage in STAGES},
            peak_bytes=peak_bytes(), **found,
        )  # fmt: skip
    return 0


def _certified(certifier: Certifier, chosen: Selection, size: int) -> dict[str, float]:
    """Returns what comes out of all inputs together."""
    parts = []
    for start in range(0, len(chosen.x), size):
        rows = slice(start, start + size)
        labels = None if chosen.labels is None else chosen.labels[rows]
        parts.append(certifier.batch(chosen.x[rows], labels))
    answer = jax.tree.map(lambda *v: np.concatenate(v), *parts)
    certified = answer.outcome == Outcome.CERTIFIED
    width = (answer.upper - answer.lower)[certified]
    return {
        "certified": int(certified.sum()),
        "misclassified": int((answer.outcome == Outcome.MISCLASSIFIED).sum()),
        "closed": int((width <= certifier.tolerance).sum()),
        "mean_lower": float(answer.lower[certified].mean()),
        "mean_upper": float(answer.upper[certified].mean()),
        "subproblems": int(answer.subproblems.sum()),
    }
