"""Which devices compute, and spreading independent batches over them.

Inputs have nothing to tell each other. So every device certifies batches of its own,
with its own loops and its own stack of subproblems, driven by a thread of its own: no
device waits for another, there is no collective, and a batch is answered by the very
program that a single device runs, to the last bit.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import math
import queue
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

IN_HASTE: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
"""Compiler options of programs that run a few times: XLA compiles them three times as
fast, and elementwise operations take some ten times as long. Products of matrices are
those of a library either way."""
LESS_OPTIMISED: dict[str, int | bool] = {"xla_backend_optimization_level": 1}
"""Compiler options of programs that are products of matrices more than elementwise
operations: XLA compiles them in half the time, and they run as fast."""
if jaxlib.__version__.startswith("0.10."):  # unknown to later ones, an error there
    for _options in IN_HASTE, LESS_OPTIMISED:
        _options["xla_cpu_use_fusion_emitters"] = False

# Entries of matrices that convolutions in float64 may be without a fast routine.
_LITTLE = 1 << 26
# Answers per device that may wait for one of an earlier part.
_AHEAD = 4
# The matrix products that a device's float types are compared by.
_SIDE, _PRODUCTS = 1024, 3

Part = TypeVar("Part")
Answer = TypeVar("Answer")


def no_convolution(program: Any) -> bool:
    """Returns whether bounds of a program meet no convolution."""
    return not program.slides


def some_convolution(program: Any) -> bool:
    """Returns whether a program has a convolution."""
    return program.convolves


def little_convolution(program: Any) -> bool:
    """Returns whether what bounds meet of convolutions is little for a single value.

    Written as matrices they would have no more than so many entries: what XLA makes of
    them in haste takes some 30 ms then.
    """
    return program.slides_over <= _LITTLE


def jit_in_haste(
    compute: Callable[..., Answer],
    *,
    static_argnames: tuple[str, ...] = ("program",),
    donate_argnames: tuple[str, ...] = (),
    when: Callable[[Any], bool] = little_convolution,
    options: dict[str, int | bool] = IN_HASTE,
) -> Callable[..., Answer]:
    """Returns a function compiled in haste on CPUs where its network convolves little.

    There is no library for convolutions in float64: what XLA makes of them in haste
    takes some hundred times as long. Other devices are given what users' programs are.

    Args:
      compute: its first argument is a Program, or has it as `program`.
      static_argnames, donate_argnames: as of `jax.jit`.
      when: whether haste pays, given the Program.
      options: of the compiler, which make the haste.
    """
    compiled = functools.partial(
        jax.jit, compute, static_argnames=static_argnames,
        donate_argnames=donate_argnames,
    )  # fmt: skip
    hasty, thorough = compiled(compiler_options=options), compiled()

    @functools.wraps(compute)
    def run(first: Any, *arguments: Any, **named: Any) -> Answer:
        program = getattr(first, "program", first)
        chosen = hasty if when(program) and not is_accelerator() else thorough
        return chosen(first, *arguments, **named)

    return run


def as_one_program(
    compute: Callable[..., Answer], static: int
) -> Callable[..., Answer]:
    """Returns a function that is compiled as a whole where it is called with arrays.

    JAX would compile every operation of it for itself, which takes longer. Called
    while something is traced it is a part of that.

    Args:
      compute: its arguments are pytrees of arrays, but for the first ones.
      static: how many of these are static.
    """
    compiled = jax.jit(compute, static_argnums=tuple(range(static)))

    @functools.wraps(compute)
    def run(*arguments: Any) -> Answer:
        leaves = jax.tree.leaves(arguments[static:])
        traced = any(isinstance(v, jax.core.Tracer) for v in leaves)
        return (compute if traced else compiled)(*arguments)

    return run


def is_accelerator() -> bool:
    """Returns whether the device of this thread is another than a CPU."""
    return local_devices()[0].platform != "cpu"


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
def float64(share: float = 0.1) -> Iterator[None]:
    """Runs the block with float64 enabled, where that is fast.

    That is on the device of this thread, or on the CPU: see `deciding_device`.

    Args:
      share: of the block's arithmetic that is float64, the rest being float32. Searches
        optimise in float32 and decide in float64; what only evaluates has 1.
    """
    with jax.enable_x64(True), jax.default_device(deciding_device(share)):
        yield


def deciding_device(share: float, device: jax.Device | None = None) -> jax.Device:
    """Returns what computes a block of which a share of the arithmetic is float64.

    That is a device, by default the thread's, unless it has no float64 (TPUs), or the
    CPU is faster by the matrix products that both were timed with, once per process:
    consumer GPUs compute float64 at 1/64 of their float32 rate.
    """
    device = device or local_devices()[0]
    if device.platform == "cpu":
        return device
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to leave the CPU alone
        return device
    if device.platform == "tpu":
        return host
    on_host, on_device = (
        share * double + (1 - share) * single
        for single, double in map(product_seconds, (host, device))
    )
    return host if on_host < on_device else device


@functools.cache
def product_seconds(device: jax.Device) -> tuple[float, float]:
    """Returns the seconds of a matrix product on a device, in float32 and float64."""
    return _product_seconds(device, np.float32), _product_seconds(device, np.float64)


def _product_seconds(device: jax.Device, dtype: Any) -> float:
    with jax.enable_x64(True), jax.default_device(device):
        factor = jax.device_put(np.ones((_SIDE, _SIDE), dtype), device)
        multiply = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
        multiply(factor).block_until_ready()
        spent = []
        for _ in range(_PRODUCTS):
            begin = time.perf_counter()
            multiply(factor).block_until_ready()
            spent.append(time.perf_counter() - begin)
    return min(spent)


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
