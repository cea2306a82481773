"""Decides VNN-LIB properties of ONNX networks: sat, unsat, unknown or timeout.

    python experiments/verify.py --onnx=NET.onnx --vnnlib=PROPERTY.vnnlib --timeout=60
    python experiments/verify.py --instances=instances.csv --output=results.csv

The first form prints the answer on the first line and, for sat, the counterexample in
VNN-COMP form below it. The second one answers a whole benchmark, writes onnx, vnnlib,
result and seconds row by row, counterexamples beside it, and prints a summary; --resume
continues, and exit code 3 says that an answer contradicts the `expected` column. A FILE
that does not exist is looked for as FILE.gz.

The time limit holds for reading, compiling, attack and search together. What cannot be
stopped when it is over is left behind, and the answer is `timeout`.

A benchmark is answered by a worker, a process of its own that keeps what it compiled
from one instance to the next. An instance that makes it die costs one row, `error:
killed for memory` (or what else happened), and one that it cannot be called back from
is killed 3 s after its limit. The next instance then gets a new worker; what that takes
to start, some seconds, counts for no instance.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxcert.commands.verify.answer import Request, answer

_ONNX = flags.DEFINE_string("onnx", "", "The network, .onnx or .onnx.gz.")
_VNNLIB = flags.DEFINE_string("vnnlib", "", "The property, .vnnlib or .vnnlib.gz.")
_TIMEOUT = flags.DEFINE_float(
    "timeout", None, "Seconds per instance; default: none, or those of --instances."
)
_INSTANCES = flags.DEFINE_string(
    "instances", "", "CSV file of a benchmark: onnx, vnnlib, timeout_s[, expected]."
)
_OUTPUT = flags.DEFINE_string("output", "", "CSV file of its results.")
_ONLY = flags.DEFINE_string("only", "", "Only instances with this in a file's name.")
_RESUME = flags.DEFINE_boolean("resume", False, "Continue the results in --output.")
_RESTARTS = flags.DEFINE_integer("restarts", 5, "Starts of the attack per disjunct.")
_STEPS = flags.DEFINE_integer("steps", 30, "Gradient steps of the attack.")
_MEMORY_GB = flags.DEFINE_float(
    "memory_gb", None, "Most GB of address space of the worker; default: no limit."
)
_CUTS = flags.DEFINE_boolean(
    "cuts", False, "Relax neurons in pairs in branch and bound (docs/relaxations.md)."
)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    del argv
    request = Request(
        onnx=_ONNX.value,
        vnnlib=_VNNLIB.value,
        timeout=_TIMEOUT.value,
        instances=_INSTANCES.value,
        output=_OUTPUT.value,
        only=_ONLY.value,
        resume=_RESUME.value,
        restarts=_RESTARTS.value,
        steps=_STEPS.value,
        cuts=_CUTS.value,
        memory_gb=_MEMORY_GB.value,
    )
    return answer(request, _process_start())


def _process_start() -> float:
    """Returns `time.monotonic()` when this process began, as far as Linux tells."""
    try:
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        since_boot = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot
    except (OSError, ValueError, IndexError, AttributeError):
        age = 0.0
    # A sandbox may tell nonsense; what is counted here are the imports.
    return time.monotonic() - (age if 0 <= age < 60 else 0.0)
