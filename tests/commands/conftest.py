"""The command `certify`, run in this process or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from in_process import Ended, ran

from jaxcert.commands.certify import command as certify

SCRIPTS = Path(__file__).resolve().parents[2] / "experiments"
Certify = Callable[..., Ended]


@pytest.fixture
def run_certify(tiny, capsys) -> Certify:
    """Runs the command as its process would, by default on the tiny network.

    The oracle is crown unless named, for it is the one that compiles in little time,
    and batches are of one size, for which all runs compile.
    """
    first = f"--model={tiny.checkpoint}", "--oracle=crown", "--batch_size=4"
    return lambda *words: ran(certify, capsys, *first, *words)


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """The numbers of inputs that the search was asked about, call by call."""
    made: list[int] = []
    batch = certify.Certifier.batch_with_proofs

    def counted(self, x, *arguments, **known):
        made.append(len(x))
        return batch(self, x, *arguments, **known)

    monkeypatch.setattr(certify.Certifier, "batch_with_proofs", counted)
    return made


@pytest.fixture
def start(tiny, environment) -> Callable[..., subprocess.Popen]:
    """Starts the script as a process of its own; what still runs is ended."""
    started: list[subprocess.Popen] = []

    def begin(
        *arguments: object, more: dict[str, str] | None = None, **options
    ) -> subprocess.Popen:
        words = [sys.executable, str(SCRIPTS / "certify.py")]
        words += [f"--model={tiny.checkpoint}", "--oracle=crown", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        every = environment | (more or {})
        process = subprocess.Popen(words, env=every, **(pipes | options))
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()
