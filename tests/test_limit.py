"""Time limits and memory: what is late is left behind, and sizes go by bytes."""

from __future__ import annotations

import resource
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcert as jc
import jaxcert.api
import jaxcert.certifier
import jaxcert.memory
import jaxcert.oracle.decide
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


# ---------------------------------------------------------------- certify and verify


def relu_network(params, x):
    w, b, v = params
    return v @ jax.nn.relu(w @ x + b)


PARAMS = (
    np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 2.0]]),
    np.array([0.0, -1.0, 0.0]),
    np.array([[1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]),
)
X = np.array([0.8, 0.3])


@pytest.fixture
def stuck(monkeypatch):
    """Makes what is named in a module wait for ever, as a long compilation would."""
    go_on = threading.Event()

    def wait(module, name):
        monkeypatch.setattr(module, name, lambda *_: go_on.wait(600))

    yield wait
    go_on.set()


def test_verify_answers_what_is_known_when_time_is_over(stuck):
    spec, box = jc.Spec.classification(0, 2), jc.Box(X - 0.3, X + 0.2)
    options = jc.CertifyOptions(oracle="complete", attack=None)

    def ask(limit):
        verdict = jc.verify(
            relu_network, PARAMS, box, spec, options=options, time_limit=limit
        )
        return jc.Status(int(verdict.status)), jc.Reason(int(verdict.reason)), verdict

    sure = ask(None)
    assert ask(600.0)[:2] == sure[:2] == (jc.Status.REFUTED, jc.Reason.WITNESS)
    stuck(jaxcert.oracle.decide, "branch_and_bound")
    begin = time.monotonic()
    status, reason, verdict = ask(2.0)
    assert (status, reason) == (jc.Status.UNKNOWN, jc.Reason.TIME)
    assert np.isfinite(verdict.bound) and np.isnan(verdict.witness).all()
    stuck(jaxcert.oracle.decide, "bounded")
    status, reason, verdict = ask(0.1)
    assert (status, reason) == (jc.Status.UNKNOWN, jc.Reason.TIME)
    assert verdict.bound == -np.inf
    assert time.monotonic() - begin < 60


def test_certify_answers_what_is_known_when_time_is_over(stuck):
    bounds = jc.CertifyOptions(batch_size=1)
    complete = jc.CertifyOptions(batch_size=1, oracle="complete")

    def ask(limit, options):
        return jc.certify(relu_network, PARAMS, X, options=options, time_limit=limit)

    sure, begin = ask(None, bounds), time.monotonic()
    in_time = ask(600.0, bounds)
    assert 0 < in_time.lower == sure.lower < in_time.upper == sure.upper < np.inf
    stuck(jaxcert.certifier, "close_in_rounds")
    answer = ask(20.0, complete)  # bounds and attack are compiled already
    assert (answer.lower, answer.upper) == (sure.lower, sure.upper)
    stuck(jaxcert.certifier.stages, "search")
    answer = ask(0.1, bounds)
    assert answer.outcome == jc.Outcome.UNKNOWN and answer.lower == 0
    assert np.isnan(answer.box.lo).all() and answer.upper == np.inf
    assert time.monotonic() - begin < 120


@pytest.mark.parametrize("limit", [0.0, -1.0, np.nan])
def test_limits_that_are_none(limit):
    for ask in (
        lambda: jc.certify(relu_network, PARAMS, X, time_limit=limit),
        lambda: jc.verify(
            relu_network, PARAMS, jc.Box.point(X), jc.Spec.classification(0, 2),
            time_limit=limit,
        ),
    ):  # fmt: skip
        with pytest.raises(jc.InputError, match="time_limit is .* must be > 0"):
            ask()
