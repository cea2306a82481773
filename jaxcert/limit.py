"""Keeping a time limit, whatever is computed when it is over.

Searches look at the clock between two chunks of work, but a compilation or one large
program cannot be stopped. So the work is done in a thread of its own, which is left
behind when its time is up: its result is lost, and what is known is answered.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np

from jaxcert.errors import InputError, JaxcertError
from jaxcert.trace.pinned import own_settings

Result = TypeVar("Result")

_NAME = "jaxcert-limited"


def deadline_after(seconds: float | None) -> float:
    """Returns `time.monotonic()` after so many seconds; infinite for None.

    Raises:
      InputError: not a number > 0.
    """
    if seconds is None:
        return math.inf
    if not seconds > 0:
        raise InputError(f"time_limit is {seconds}; it must be > 0 seconds, or None")
    return time.monotonic() + seconds


class TimeLimitError(JaxcertError):
    """The time limit is over, and the work is not done."""


def run_until(
    work: Callable[[], Result], deadline: Any, patience: float = 1.0
) -> Result:
    """Returns `work()`, computed in a thread that is left behind if it is late.

    A process that ends while such a thread compiles should do so by `os._exit`: XLA
    does not expect to be taken down in the middle of it (see `left_behind`).

    Args:
      work: what to compute; it runs with the caller's `jax.default_device`, and enters
        any other context of jax itself.
      deadline: `time.monotonic()` by which it should end, a float or array ();
        infinite: it runs here.
      patience: seconds that work which looks at the clock has for ending by itself.

    Raises:
      TimeLimitError: it has not ended by then.
      Exception: whatever `work` raises.
    """
    deadline = float(deadline)
    if deadline == math.inf:
        return work()
    config: Any = jax.config
    device = config.jax_default_device
    done: list[Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with own_settings(), jax.default_device(device):
                done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name=_NAME, daemon=True)
    thread.start()
    left = deadline + patience - time.monotonic()
    thread.join(min(max(left, 0.0), threading.TIMEOUT_MAX))
    if failed:
        raise failed[0]
    if done:
        return done[0]
    raise TimeLimitError("the time limit is over, and the work is not done")


class Stop:
    """Whether Ctrl-C ended a search early.

    Attributes:
      by: "Ctrl-C", or "".
    """

    by: str = ""


@contextlib.contextmanager
def stopped_by_ctrl_c(until: np.ndarray) -> Iterator[Stop]:
    """Lets the first Ctrl-C inside the block end the search, the second one raise.

    The deadline comes forward, so that the search answers what is proved by then; a
    compilation is waited for. Where the program handles SIGINT in its own way, and in
    threads, Ctrl-C is left to it.

    Args:
      until: the deadline, an array () that the search looks at.
    """
    stop = Stop()
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield stop
        return

    def ended(number: int, frame: Any) -> None:
        if stop.by:
            signal.default_int_handler(number, frame)
        stop.by = "Ctrl-C"
        until[...] = -math.inf

    signal.signal(signal.SIGINT, ended)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def left_behind() -> bool:
    """Returns whether a thread that `run_until` has left behind still computes."""
    return any(thread.name == _NAME for thread in threading.enumerate())
