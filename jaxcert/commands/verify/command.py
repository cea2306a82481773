"""Decides VNN-LIB properties of ONNX networks: sat, unsat, unknown or timeout.

    python experiments/verify.py --onnx=NET.onnx --vnnlib=PROPERTY.vnnlib --timeout=60
    python experiments/verify.py --onnx=f=A.onnx,g=B.onnx --vnnlib=BOTH.vnnlib
    python experiments/verify.py --instances=instances.csv --output=results.csv

The first form prints the answer on the first line and, for sat, the counterexample as
the property's version of VNN-LIB asks below it. The second is for properties of several
networks (VNN-LIB 2.0), which are named as the property declares them; networks that are
`equal-to` another have its file. A list of instances names them alike, or as
[("f", "A.onnx"), ("g", "B.onnx")]. What is proved is about real arithmetic, whatever
float type the property declares. The last form answers a whole benchmark, writes onnx,
vnnlib, result and seconds row by row, beside it counterexamples and, in
NAME_scopes.json, what proofs of each network cover and take for granted, and prints a
summary; --resume continues, and asks again about rows that say `timeout` where the
limit is longer now. Exit code 3 says that an answer contradicts the `expected` column.
A FILE that does not exist is looked for as FILE.gz.

--proofs writes a proof of every answer into NAME_proofs, one file per row, which only
stays if the independent checker accepts it; `python jaxcert/checker results.csv` checks
them all again. Looking for it begins after the answer, and may take as long once more,
or --proof_timeout.

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
from pathlib import Path

from jaxcert.commands.verify.answer import Request, answer


def main(request: Request) -> int:
    """Runs the command; returns its exit code."""
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
