"""What a measurement writes down: one line of JSON as soon as a figure is known."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxcert.commands.console import expand

Row = dict[str, Any]
ROWS = "rows.jsonl"
_LONG = 1.0  # seconds of compiling from which on a program has a row


class Rows:
    """The file of rows of one measurement, `ROWS` in its folder.

    What takes long to compile gets a row as well.

    Attributes:
      path: of the file.
      compiling: what this process compiles from now on.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(expand(folder)) / ROWS
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.compiling = Compiling(self._compiled)

    def add(self, figure: str, **values: Any) -> None:
        """Appends a row: what it is a figure of, and what was measured."""
        row = {"figure": figure, "device": jax.devices()[0].device_kind, **values}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _compiled(self, program: str, seconds: float) -> None:
        """Notes at once what takes long, for whoever is stopped before a figure."""
        if seconds >= _LONG:
            self.add("compile", program=program, seconds=seconds)


def read_rows(path: Path) -> list[Row]:
    """Returns the rows of a file; none of a file that is not there.

    A last line that a kill has torn is left out.
    """
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def timed(run: Callable[[], Any], least: float, calls: int = 3) -> list[float]:
    """Returns the seconds of calls after a warm-up: `calls` and `least` s, at least."""
    jax.block_until_ready(run())
    spent: list[float] = []
    while len(spent) < calls or sum(spent) < least:
        begin = time.perf_counter()
        jax.block_until_ready(run())
        spent.append(time.perf_counter() - begin)
    return spent


def peak_bytes() -> int:
    """Returns the most memory that was held: of the device, or of a CPU's process."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


class Compiling:
    """Seconds that JAX traces and compiles in this process, from its own events.

    Attributes:
      seconds: all of them together.
      compiled: told the name of every program that is now ready to run, and the
        seconds that it took to compile.
    """

    def __init__(self, compiled: Callable[[str, float], None]) -> None:
        self.seconds, self.compiled = 0.0, compiled
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration_secs: float, **about: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds += duration_secs
        if event.endswith("/backend_compile_duration"):
            self.compiled(str(about.get("fun_name")), duration_secs)
