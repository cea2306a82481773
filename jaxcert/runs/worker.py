"""A worker: a process that answers one question at a time, and may die of it.

Whatever a question does to it (memory that the system does not have, a crash of a
compiler, code that cannot be interrupted), the one who asks lives on, is told what
happened, and starts another worker. Between questions a worker keeps what it has
compiled, for starting one takes seconds.

Questions and answers are lines of JSON. The worker writes `{"ready": true}` when it has
started, then any number of `{"log": [level, text]}` and one answer per question. It
ends when nobody can ask any more: when its stdin is closed.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

from absl import logging

from jaxcert.errors import JaxcertError
from jaxcert.runs.files import Closing

# Seconds that it may take to start: on a busy machine imports alone take 20.
_START = 300.0
# What the C++ library, the compiler and Python say before they end for this.
_MEMORY = ("bad_alloc", "out of memory", "cannot allocate memory", "memoryerror")


class DiedError(Exception):
    """The worker is dead; the message says of what, in a few words."""


class LateError(Exception):
    """The worker did not answer in time, and was killed."""


class Worker(Closing):
    """Starts the process when it is asked first, and again after it has ended.

    Use it as a context manager: its end ends the process.
    """

    def __init__(self, command: Sequence[str]) -> None:
        """Starts nothing yet.

        Args:
          command: of the process, which speaks the protocol above.
        """
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._errors: collections.deque[str] = collections.deque(maxlen=20)
        self._readers: list[threading.Thread] = []

    def close(self) -> None:
        """Ends the process, if there is one."""
        self.end()

    def ask(self, question: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Returns the answer; what the worker logs meanwhile is logged here.

        Args:
          question: anything that JSON can say.
          seconds: after which the worker is killed.

        Raises:
          DiedError: the worker died of it.
          LateError: it had to be killed.
          JaxcertError: no worker could be started.
        """
        self.start()
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead: told below
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        return self._answer(seconds)

    def start(self) -> None:
        """Starts the process, unless it runs; returns when it is ready.

        Raises:
          JaxcertError: it ended instead.
        """
        if self._process is not None:
            return
        pipe = subprocess.PIPE
        # A session of its own: Ctrl-C is for the one who asks.
        self._process = process = subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        self._lines = queue.SimpleQueue()
        self._errors = collections.deque(maxlen=20)
        self._readers = [
            threading.Thread(target=read, args=(stream, into), daemon=True)
            for read, stream, into in (
                (_read_lines, process.stdout, self._lines),
                (_pass_on, process.stderr, self._errors),
            )
        ]
        for reader in self._readers:
            reader.start()
        try:
            self._answer(_START)
        except (DiedError, LateError) as error:
            last = self._errors[-1] if self._errors else "it said nothing"
            raise JaxcertError(
                f"cannot start a process to work in: {error} ({last}). Is there enough "
                "memory, also by `ulimit -v`?"
            ) from error

    def end(self) -> None:
        """Ends the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):  # a question it did not read
            if process.stdin is not None:
                process.stdin.close()

    def _answer(self, seconds: float) -> dict[str, Any]:
        give_up = time.monotonic() + seconds
        while True:
            try:
                left = min(give_up - time.monotonic(), threading.TIMEOUT_MAX)
                line = self._lines.get(timeout=max(left, 0.0))
            except queue.Empty:
                self.end()
                raise LateError(f"killed after {seconds:.0f} s") from None
            if line is None:
                raise DiedError(self._cause())
            message = json.loads(line)
            if "log" not in message:
                return message
            level, text = message["log"]
            logging.log(level, "%s", text)

    def _cause(self) -> str:
        """Returns why the process has ended, and forgets it."""
        process, self._process = self._process, None
        assert process is not None
        code = process.wait()
        for reader in self._readers:
            reader.join(1.0)  # what it said last may say why
        said = " ".join(self._errors).lower()
        # Nobody but the system kills it: it does when there is no memory left.
        if code == -signal.SIGKILL or any(word in said for word in _MEMORY):
            return "killed for memory"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"ended with code {code}"


def _read_lines(stream: IO[bytes], into: queue.SimpleQueue[bytes | None]) -> None:
    """Puts all lines into the queue, and None when there are no more."""
    with stream:
        for line in stream:
            into.put(line)
    into.put(None)


def _pass_on(stream: IO[bytes], into: collections.deque[str]) -> None:
    """Writes what the process says on stderr to our own, and keeps its end."""
    with stream:
        for line in stream:
            text = line.decode(errors="replace")
            into.append(text.strip())
            sys.stderr.write(text)


# What follows runs in the worker.


class Questions:
    """The worker's end: iterate over the questions, answer each.

    stdout belongs to the protocol from then on: what else is printed goes to stderr.
    """

    def __init__(self) -> None:
        """Says that the worker is ready."""
        self._out = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.answer({"ready": True})

    def __iter__(self) -> Questions:
        return self

    def __next__(self) -> dict[str, Any]:
        return json.loads(self._lines.get())

    def answer(self, answer: Mapping[str, Any]) -> None:
        """Sends one line."""
        self._out.write(json.dumps(answer).encode() + b"\n")

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            self._lines.put(line)
        # Nobody waits for an answer any more, whatever is being computed.
        os._exit(0)
