"""Where the device's time goes: a trace of CROWN, and one of closing brackets.

    python -m device profile --model=NET.onnx --inputs=FOLDER --output=OUT

Writes, of each, how long the device computed in the time that the call took, and the
operations that cost most. The traces are `OUTPUT/crown.trace.json.gz` and
`OUTPUT/brackets.trace.json.gz`.
"""

from __future__ import annotations

import collections
import dataclasses
import gzip
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from studies.throughput.case import Case
from studies.throughput.networks import standard
from studies.throughput.with_jaxcert import jaxcert

from device.rows import Row, Rows, peak_bytes
from jaxcert.certifier import Certifier, CertifyOptions
from jaxcert.commands.options import REQUIRED, Options, folder, option
from jaxcert.learning.inputs import load_inputs
from jaxcert.learning.models import load_network

# They span what others compute.
_CONTAINERS = ("while", "conditional", "cond", "call")
# A line of what an accelerator executes; its other lines tell of the same once more.
_EXECUTED = "Stream"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `profile`."""

    model: str = option(REQUIRED, "An .onnx file, for the brackets.")
    inputs: str = option(REQUIRED, "A folder of CSV files.")
    network: str = option("256x4", "A network of `throughput`, for CROWN.")
    batch: int = option(1024, "Boxes of CROWN.", least=1)
    most: int = option(12, "Operations that are named.", least=1)
    output: str = folder(REQUIRED)


def main(request: Request) -> int:
    """Runs the measurement; returns its exit code."""
    rows = Rows(request.output)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # what Python calls would fill the trace
    for name, run in (("crown", _crown(request)), ("brackets", _brackets(request))):
        run()  # compiles
        with tempfile.TemporaryDirectory() as place:
            begin = time.perf_counter()
            with jax.profiler.trace(place, profiler_options=options):
                run()
                spent = time.perf_counter() - begin
            (trace,) = Path(place).rglob("*.trace.json.gz")
            kept = rows.path.with_name(f"{name}.trace.json.gz")
            shutil.copy(trace, kept)
        rows.add(
            "profile", of=name, seconds=spent, peak_bytes=peak_bytes(),
            **costs(kept, request.most),
        )  # fmt: skip
    return 0


def costs(trace: Path, most: int) -> Row:
    """Returns the seconds that the device computed, and its costliest operations.

    Of an accelerator every kernel and copy counts, under its own name where it belongs
    to no operation; of a CPU what has an operation.
    """
    with gzip.open(trace, "rt") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    lines = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event.get("name") == "thread_name"
    }
    executing = {key for key, name in lines.items() if name.startswith(_EXECUTED)}
    devices = {process for process, _ in executing}
    seconds: dict[str, float] = collections.defaultdict(float)
    calls: dict[str, int] = collections.defaultdict(int)
    for event in events:
        process, about = event.get("pid"), event.get("args", {})
        executed = (process, event.get("tid")) in executing
        if event.get("ph") != "X" or (process in devices and not executed):
            continue
        operation = about.get("hlo_op", event["name"] if executed else "")
        if not operation or operation.partition(".")[0] in _CONTAINERS:
            continue
        name = f"{about.get('hlo_module', '?')}/{operation}"
        seconds[name] += event.get("dur", 0.0) / 1e6
        calls[name] += 1
    costly = sorted(seconds, key=seconds.__getitem__, reverse=True)[:most]
    return {
        "device_seconds": sum(seconds.values()),
        "operations": [[name, seconds[name], calls[name]] for name in costly],
    }


def _crown(request: Request) -> Callable[[], Any]:
    subject = standard(request.network)
    shape = (request.batch, *subject.network.input_shape)
    x = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    labels = np.zeros(request.batch, np.int32)
    return jaxcert(Case(subject, "crown", x, labels, 0.02, 20, 0, 60.0))


def _brackets(request: Request) -> Callable[[], Any]:
    network = load_network(request.model)
    x = load_inputs(request.inputs, network.input_shape).x
    certifier = Certifier(
        network.apply, network.params, None, network.input_shape,
        options=CertifyOptions(oracle="complete"),
    )  # fmt: skip
    return lambda: certifier.batch(x[:64], None)
