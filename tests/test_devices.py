"""Spreading batches over devices."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxcert import devices as own
from jaxcert.devices import deciding_device, float64, local_devices, spread

# A thread each, whatever they are; what needs other devices runs as a process.
THREE = local_devices()[:1] * 3


@pytest.mark.parametrize(
    ("oracle", "count"),
    [
        ("crown", 2),
        pytest.param("crown", 8, marks=pytest.mark.campaign),
        pytest.param("complete", 2, marks=pytest.mark.campaign),
    ],
)
def test_many_devices_answer_as_one_does(oracle: str, count: int):
    """Simulated devices: equal to the last bit, and no collective."""
    script = Path(__file__).with_name("on_eight_devices.py")
    words = [sys.executable, script, oracle, str(count)]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("devices", [THREE[:1], THREE])
def test_answers_come_in_order(devices):
    def work(part, until):
        assert until == 5e9
        time.sleep(0.002 * (part % 5))
        return part * part

    answers = list(spread(work, range(40), devices, 5e9))
    assert answers == [part * part for part in range(40)]
    assert list(spread(work, [], devices)) == []


def test_all_devices_work_at_once():
    met = threading.Barrier(3)

    def work(part, until):
        if part > 0:  # the first is alone
            met.wait(timeout=30)
        return threading.current_thread().name

    assert len(set(spread(work, range(7), THREE))) == 3


def test_a_slow_part_holds_up_no_other():
    begun, last = [], threading.Event()

    def work(part, until):
        begun.append(part)
        if part == 1:
            assert last.wait(timeout=30)
        if part == 9:
            last.set()
        return part

    assert list(spread(work, range(10), THREE)) == list(range(10))


def test_parts_are_taken_when_a_device_is_free():
    """No part is begun long after it was asked for: a time limit would come between."""
    taken, running = [], []

    def parts():
        for part in range(20):
            taken.append(sum(running))
            yield part

    def work(part, until):
        running.append(1)
        time.sleep(0.002)
        running.append(-1)
        return part

    assert list(spread(work, parts(), THREE)) == list(range(20))
    assert max(taken) <= 2


def test_answers_that_wait_are_few():
    """A part that takes for ever must not let the memory fill with answers."""
    release, begun = threading.Event(), []

    def work(part, until):
        begun.append(part)
        if part == 1:
            release.wait(timeout=30)
        return part

    with contextlib.closing(spread(work, range(1000), THREE)) as answers:
        assert next(answers) == 0
        threading.Timer(0.5, release.set).start()
        assert next(answers) == 1
        assert len(begun) < 100


def test_closing_ends_the_work_in_progress():
    begun = []

    def work(part, until):
        begun.append(part)
        while part and time.monotonic() < until:
            time.sleep(0.001)
        return part

    with contextlib.closing(spread(work, range(9), THREE)) as answers:
        assert next(answers) == 0
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            next(answers)
    assert sorted(begun) == [0, 1, 2, 3]


@pytest.mark.parametrize("devices", [THREE[:1], THREE])
def test_a_failing_part_fails_the_run(devices):
    def work(part, until):
        if part == 4:
            raise MemoryError("part 4")
        return part

    with pytest.raises(MemoryError, match="part 4"):
        list(spread(work, range(100), devices))


def test_the_device_is_that_of_the_thread():
    (device, *_) = jax.local_devices()
    assert local_devices() == tuple(jax.local_devices())
    with jax.default_device("cpu"):
        assert local_devices() == tuple(jax.local_devices(backend="cpu"))
    with jax.default_device(device), float64():
        assert local_devices() == (device,)
        assert jax.numpy.zeros(()).dtype == np.float64
    assert jax.numpy.zeros(()).dtype == np.float32


class _Device:
    """Stands for a device of another platform, with seconds for its products."""

    def __init__(self, platform: str, single: float, double: float) -> None:
        self.platform, self.seconds = platform, (single, double)


@pytest.mark.parametrize(
    ("platform", "single", "double", "share", "stays"),
    [
        ("gpu", 0.001, 0.002, 1.0, True),  # a data centre's
        ("gpu", 0.001, 0.064, 1.0, True),  # a consumer's: still as fast as the host
        ("gpu", 0.010, 0.640, 1.0, False),  # a small one: slower in float64,
        ("gpu", 0.010, 0.640, 0.1, True),  # which is little of what a search does
        ("gpu", 0.010, 9.000, 0.1, False),
        ("tpu", 0.001, 0.001, 0.1, False),  # what it has is no IEEE float64
    ],
)
def test_float64_is_computed_where_it_was_measured_to_be_faster(
    monkeypatch, platform, single, double, share, stays
):
    device = _Device(platform, single, double)
    seconds = {device: device.seconds, jax.devices("cpu")[0]: (0.3, 0.6)}
    if not stays and platform == "gpu":
        seconds[jax.devices("cpu")[0]] = (0.1, 0.2)
    monkeypatch.setattr(own, "product_seconds", seconds.__getitem__)
    chosen = deciding_device(share, device)
    assert chosen is (device if stays else jax.devices("cpu")[0])


def test_without_a_cpu_backend_the_device_decides(monkeypatch):
    def missing(backend=None):
        raise RuntimeError("Unknown backend cpu")

    monkeypatch.setattr(jax, "local_devices", missing)
    device = _Device("gpu", 1.0, 64.0)
    assert deciding_device(1.0, device) is device


def test_products_are_timed_in_both_types(monkeypatch):
    monkeypatch.setattr(own, "_SIDE", 64)
    own.product_seconds.cache_clear()
    single, double = own.product_seconds(jax.devices("cpu")[0])
    assert 0 < single < 10 and 0 < double < 10
    own.product_seconds.cache_clear()


def test_a_cpu_is_not_timed(monkeypatch):
    monkeypatch.setattr(own, "product_seconds", lambda device: pytest.fail("timed"))
    with float64(), float64(share=1.0):
        assert jax.numpy.ones(1).dtype == np.float64


def test_only_a_cpu_compiles_in_haste_and_no_large_convolution(monkeypatch):
    hasty = []

    def jit(compute, **named):
        def run(*arguments):
            hasty.append("compiler_options" in named)
            return compute(*arguments)

        return run

    monkeypatch.setattr(jax, "jit", jit)
    run = own.jit_in_haste(lambda first, x: x + 1)
    for entries in (1 << 27, 1 << 26):
        program = types.SimpleNamespace(slides_over=entries)
        assert run(program, 1) == run(types.SimpleNamespace(program=program), 1) == 2
    monkeypatch.setattr(own, "is_accelerator", lambda: True)
    assert run(program, 1) == 2
    assert hasty == [False, False, True, True, False]
