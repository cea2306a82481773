"""Which devices compute, and spreading independent batches over them.

Inputs have nothing to tell each other. So every device certifies batches of its own,
with its own loops and its own stack of subproblems, driven by a thread of its own: no
device waits for another, there is no collective, and a batch is answered by the very
program that a single device runs, to the last bit.
"""

from __future__ import annotations

import collections
import contextlib
import math
import queue
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, TypeVar

import jax
import numpy as np

IN_HASTE = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
}
"""Compiler options of programs that run a few times: XLA compiles them three times as
fast, and elementwise operations take some ten times as long. Products of matrices are
those of a library either way."""

# Answers per device that may wait for one of an earlier part.
_AHEAD = 4

Part = TypeVar("Part")
Answer = TypeVar("Answer")


def local_devices() -> tuple[jax.Device, ...]:
    """Returns the devices of this process; one alone if `jax.default_device` names it.

    Where `jax.default_device` names a platform: its devices.
    """
    config: Any = jax.config
    chosen = config.jax_default_device
    if chosen is None or isinstance(chosen, str):
        return tuple(jax.local_devices(backend=chosen))
    return (chosen,)


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Runs the block with float64 enabled, on a device that has it.

    That is the device of this thread, or the CPU where it has no float64.
    """
    device = local_devices()[0]
    if device.platform == "tpu":
        device = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(device):
        yield


def spread(
    work: Callable[[Part, np.ndarray], Answer],
    parts: Iterable[Part],
    devices: Sequence[jax.Device],
    deadline: float | np.ndarray = math.inf,
) -> Generator[Answer, None, None]:
    """Yields the answers of all parts, in their order, computed on all devices.

    With one device the parts are worked on in this thread, one after the other. With
    several the first part is worked on alone, so that the others find its programs
    traced; then each device takes the next part as soon as it is free.

    Whoever may stop early closes the iterator (`contextlib.closing`): that ends the
    parts in progress, whose answers are lost.

    Args:
      work: called with a part and its deadline, an array () that comes forward to the
        past when the iterator is closed. `jax.default_device` is the part's device.
      parts: a part is taken only when a device is free for it.
      devices: of this process.
      deadline: `time.monotonic()` at which to stop work in progress; of an array () it
        is that array which parts are called with.
    """
    until = deadline if isinstance(deadline, np.ndarray) else np.array(deadline)
    idle: queue.SimpleQueue[jax.Device] = queue.SimpleQueue()
    for device in devices:
        idle.put(device)

    def run(part: Part) -> Answer:
        device = idle.get()
        try:
            with jax.default_device(device):
                return work(part, until)
        finally:
            idle.put(device)

    if len(devices) == 1:
        for part in parts:
            yield run(part)
        return
    waiting: collections.deque[futures.Future[Answer]] = collections.deque()
    most = _AHEAD * len(devices)
    pool = futures.ThreadPoolExecutor(len(devices))
    try:
        for number, part in enumerate(parts):
            waiting.append(pool.submit(run, part))
            if number == 0:
                yield waiting.popleft().result()
            while len(waiting) == most or len(_running(waiting)) == len(devices):
                if len(waiting) == most or waiting[0].done():
                    yield waiting.popleft().result()
                else:
                    futures.wait(_running(waiting), return_when=futures.FIRST_COMPLETED)
        while waiting:
            yield waiting.popleft().result()
    finally:
        until[...] = -math.inf
        pool.shutdown(cancel_futures=True)


def _running(waiting: Iterable[futures.Future]) -> list[futures.Future]:
    return [future for future in waiting if not future.done()]
