"""Time limits and memory: what is late is left behind, and sizes go by bytes."""

from __future__ import annotations

import resource
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcert.memory
from jaxcert.limit import TimeLimitError, left_behind, run_until
from jaxcert.memory import free_bytes, resident_bytes, room_for, tree_bytes


def test_work_in_time_is_returned_and_its_errors_are_raised():
    assert run_until(lambda: 3, np.inf) == 3
    soon = time.monotonic() + 60
    assert run_until(lambda: 3, soon) == 3
    with pytest.raises(KeyError, match="mine"):
        run_until(lambda: {}["mine"], soon)


def test_late_work_is_left_behind():
    go_on = threading.Event()
    with pytest.raises(TimeLimitError, match="time limit is over"):
        run_until(lambda: go_on.wait(60), time.monotonic() + 0.05, patience=0.05)
    assert left_behind()
    go_on.set()
    give_up = time.monotonic() + 30
    while left_behind() and time.monotonic() < give_up:
        time.sleep(0.01)
    assert not left_behind()


def test_the_device_of_the_caller_is_that_of_the_work():
    device = jax.devices()[0]
    with jax.default_device(device):
        seen = run_until(lambda: jax.config.jax_default_device, time.monotonic() + 60)
    assert seen == device


def test_sizes_go_by_bytes_in_powers_of_two(monkeypatch):
    monkeypatch.setattr(jaxcert.memory, "free_bytes", lambda: 8 << 20)
    # A share of what is free, an eighth, is for one stack.
    assert room_for(1 << 10, 4, 1 << 30) == 1 << 10
    assert room_for(3 << 8, 4, 1 << 30) == 1 << 10
    assert room_for(1 << 10, 4, 100) == 100
    assert room_for(1 << 30, 4, 1 << 10) == 4
    assert room_for(1 << 10, 4, 1 << 30, most_bytes=1 << 12) == 4
    monkeypatch.setattr(jaxcert.memory, "free_bytes", lambda: 1 << 50)
    assert room_for(1 << 10, 4, 1 << 40) == 1 << 21  # no more than 2 GiB


def test_the_limit_of_the_address_space_counts():
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(open("/proc/self/statm").read().split()[0])
    size = pages * resource.getpagesize()
    assert 0 < resident_bytes() <= size
    try:
        resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), hard))
        assert free_bytes() <= 64 << 20
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
    assert free_bytes() > 64 << 20


def test_bytes_of_trees():
    shapes = {"a": jax.ShapeDtypeStruct((3, 5), jnp.int8), "b": np.zeros(7)}
    assert tree_bytes(shapes) == 15 + 56
