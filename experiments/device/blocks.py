"""Subproblems that branch and bound bounds per second, by the size of its blocks.

    python -m device blocks --model=NET.onnx --inputs=FOLDER --output=OUT

Boxes too large to be decided by bounds alone are searched for `--seconds` after the
search is compiled. 0 is the block that the library takes by itself.
"""

from __future__ import annotations

import dataclasses
import time

import jax
import numpy as np

from device.rows import Compiling, Rows, peak_bytes
from jaxcert.bounds.alpha import layout_of
from jaxcert.box import Box
from jaxcert.branch.brackets import ApothemAnswer, close_brackets
from jaxcert.branch.instances import ApothemTask
from jaxcert.branch.signs import BranchOptions
from jaxcert.commands.options import REQUIRED, Options, folder, option
from jaxcert.learning.inputs import load_inputs
from jaxcert.learning.models import load_network
from jaxcert.network import Network
from jaxcert.spec import Spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `blocks`."""

    model: str = option(REQUIRED, "An .onnx file of ReLUs.")
    inputs: str = option(REQUIRED, "A folder of CSV files.")
    boxes: int = option(32, "How many inputs.", least=1)
    epsilon: float = option(0.05, "Radius of the boxes.", above=0)
    blocks: tuple[int, ...] = option((0, 1024), "Subproblems bounded together.")
    seconds: float = option(6.0, "To search for, of each size.", above=0)
    output: str = folder(REQUIRED)


def main(request: Request) -> int:
    """Runs the measurement; returns its exit code."""
    rows = Rows(request.output)
    network = load_network(request.model)
    task = _task(request, network)
    deadline = np.array(np.inf)

    def begin(program: str, seconds: float) -> None:
        if "run_chunk" in program:
            deadline[...] = time.monotonic() + request.seconds

    compiling = Compiling(begin)
    for block in request.blocks:
        options = BranchOptions(block=block)
        deadline[...] = np.inf
        before, start = compiling.seconds, time.perf_counter()
        answer = close_brackets(network.model, task, options, deadline)  # type: ignore[arg-type]
        spent = time.perf_counter() - start
        compiled = compiling.seconds - before
        rows.add(
            "branch and bound", network=network.name, boxes=len(task.lower),
            block=options.resolved(layout_of(network.model.program)).block,
            by_default=block == 0, compile_seconds=compiled, seconds=spent - compiled,
            peak_bytes=peak_bytes(), **_counts(answer, spent - compiled),
        )  # fmt: skip
    return 0


def _counts(answer: ApothemAnswer, seconds: float) -> dict[str, float]:
    done = int(np.sum(answer.processed))
    return {
        "subproblems": done,
        "per_second": done / seconds,
        "proved": int(np.sum(answer.improved)),
        "refuted": int(np.isfinite(answer.upper).sum()),
        "open": int(np.sum(answer.open)),
    }


def _task(request: Request, network: Network) -> ApothemTask:
    x = load_inputs(request.inputs, network.input_shape).x[: request.boxes]
    logits = jax.vmap(network.apply, (None, 0))(network.params, x.astype(np.float32))
    labels = np.asarray(logits.argmax(axis=1), np.int32)
    specs = jax.vmap(lambda c: Spec.classification(c, logits.shape[1]))(labels)
    boxes = Box(np.clip(x - request.epsilon, 0, 1), np.clip(x + request.epsilon, 0, 1))  # type: ignore[arg-type]
    double = jax.tree.map(_float64, jax.device_get(specs))
    return ApothemTask.of_boxes(boxes, double)


def _float64(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype == np.float32 else array
