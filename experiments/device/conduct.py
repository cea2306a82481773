"""Runs everything that an accelerator is to show, in one call with one time limit.

    experiments/device/pack.sh
    OUT=out/device experiments/device/run.sh

The accelerator and the CPU of its machine are measured beside each other, each with
half of the cores, part by part, most valuable first, every part in a process of its
own that ends at its limit. Writes OUTPUT/results.jsonl as the parts end, OUTPUT/log.txt
(all that they print), traces of the profile, and OUTPUT/summary.txt, which is printed
too. --rehearse cuts all sizes; --parts names the parts to run, by default all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent import futures
from pathlib import Path

from device.parts import ACCELERATOR, HOST, LANES, Part, Plan
from device.results import rows_of
from device.summary import summary
from jaxcert.commands.console import expand
from jaxcert.commands.options import REQUIRED, Options, folder, option
from jaxcert.errors import InputError

RESULTS = "results.jsonl"
_LEAST = 10.0  # seconds below which no part begins
_LEAVE = 4.0  # that a part has for what it writes when it is told to stop
_REHEARSED = 4.0  # times as slow as an accelerator's host a rehearsal may be


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `conduct`."""

    pack: str = option(".device", "The folder that pack.sh has filled.")
    time_limit: float = option(525.0, "Seconds for everything.", above=0)
    rehearse: bool = option(False, "Cut all sizes, and only show that all of it runs.")
    parts: tuple[str, ...] = option((), "Names of the parts to run; else all.")
    output: str = folder(REQUIRED)


def main(request: Request) -> int:
    """Runs the parts; returns 0 if all of them ran to their ends, else 1."""
    pack = expand(request.pack).absolute()
    if not pack.is_dir():
        raise InputError(f"there is no folder {pack}: run experiments/device/pack.sh")
    parts = Plan(pack, request.rehearse).parts()
    known = list(dict.fromkeys(part.name for part in parts))
    if unknown := set(request.parts) - set(known):
        raise InputError(f"no part {min(unknown)!r}; known: {', '.join(known)}")
    wanted = [p for p in parts if not request.parts or p.name in request.parts]
    output = expand(request.output)
    if (output / RESULTS).exists():
        raise InputError(
            f"{output} holds the results of another run: name a new folder"
        )
    output.mkdir(parents=True, exist_ok=True)
    # A shell starts its background jobs deaf to Ctrl-C, and so would we our parts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    patience = _REHEARSED if request.rehearse else 1.0
    conductor = _Conductor(output, time.monotonic() + request.time_limit, patience)
    cores = sorted(os.sched_getaffinity(0))
    apart = len(cores) >= 4  # else they would only hinder each other
    half = len(cores) // 2
    shares = {ACCELERATOR: cores[:half], HOST: cores[half:]} if apart else {}
    with futures.ThreadPoolExecutor(len(LANES) if apart else 1) as pool:
        ends = [
            pool.submit(
                conductor.run, [p for p in wanted if p.lane == lane],
                shares.get(lane, cores),
            )
            for lane in LANES
        ]  # fmt: skip
        try:
            complete = [end.result() for end in ends]
        except KeyboardInterrupt:
            conductor.stop()
            raise
    text = summary(output / RESULTS)
    (output / "summary.txt").write_text(text + "\n")
    print(text)
    return 0 if all(complete) else 1


@dataclasses.dataclass
class _Conductor:
    """Runs parts, and writes down what becomes of them.

    Attributes:
      output: folder of what is kept.
      deadline: `time.monotonic()` at which all is over.
      patience: how many times its limit a part may take.
    """

    output: Path
    deadline: float
    patience: float

    def __post_init__(self) -> None:
        self._writing = threading.Lock()
        self._running: set[subprocess.Popen] = set()

    def stop(self) -> None:
        """Ends what runs, and begins nothing more."""
        self.deadline = 0.0
        for process in tuple(self._running):
            _kill(process, signal.SIGKILL)

    def run(self, parts: list[Part], cores: list[int]) -> bool:
        """Runs the parts of a lane one by one; returns whether all of them ended."""
        complete = True
        for part in parts:
            left = self.deadline - time.monotonic()
            if left < _LEAST:
                self._note(part, "no time", 0.0, "", cores)
                complete = False
                continue
            with tempfile.TemporaryDirectory() as place:
                limit = min(self.patience * part.limit, left)
                complete &= self._one(part, Path(place), limit, cores)
        return complete

    def _one(self, part: Part, place: Path, limit: float, cores: list[int]) -> bool:
        command = [
            sys.executable,
            *(w.replace("{out}", str(place)) for w in part.command),
        ]
        environment = os.environ | dict(part.environment)
        if part.lane == HOST:
            environment["JAX_PLATFORMS"] = "cpu"
        begin, log = time.monotonic(), place / "log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                command, stdout=said, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, process_group=0, env=environment,
            )  # fmt: skip
            os.sched_setaffinity(process.pid, cores)
            self._running.add(process)
            end = _ended(process, limit - _LEAVE)
            self._running.discard(process)
        text = log.read_text(errors="replace")
        spent = time.monotonic() - begin
        self._note(part, end, spent, text, cores)
        rows = rows_of(place / part.rows, part.rows) if part.rows else []
        with self._writing, (self.output / RESULTS).open("a") as file:
            for row in rows:
                about = {"part": part.name, "lane": part.lane}
                file.write(json.dumps(about | row) + "\n")
            for trace in place.glob("*.trace.json.gz"):
                (self.output / trace.name).write_bytes(trace.read_bytes())
        return end == "0"

    def _note(
        self, part: Part, end: str, seconds: float, said: str, cores: list[int]
    ) -> None:
        row = {
            "part": part.name, "lane": part.lane, "figure": "end", "end": end,
            "seconds": round(seconds, 2), "cores": len(cores),
        }  # fmt: skip
        title = f"{part.lane} {part.name}: {end}, {seconds:.1f} s"
        with self._writing:
            print(title, flush=True)
            with (self.output / RESULTS).open("a") as file:
                file.write(json.dumps(row) + "\n")
            with (self.output / "log.txt").open("a") as file:
                file.write(f"==== {title}\n{said}\n")


def _ended(process: subprocess.Popen, limit: float) -> str:
    """Returns the exit code of a process, or that it was stopped at its limit."""
    try:
        return str(process.wait(limit))
    except subprocess.TimeoutExpired:
        pass
    # As Ctrl-C: what is known is written. Not all of it listens while it compiles.
    for number in (signal.SIGINT, signal.SIGKILL):
        _kill(process, number)
        try:
            process.wait(_LEAVE)
            break
        except subprocess.TimeoutExpired:
            continue
    return "stopped"


def _kill(process: subprocess.Popen, number: int) -> None:
    """Sends a signal to a part and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
