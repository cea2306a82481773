"""Run by test_devices.py in a process of its own: many devices answer as one does.

The oracle is given, and how many of the eight devices answer; each compiles for itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import quickly

# Not even the first pass of optimisation: 8 devices compile 8 times.
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {quickly.FLAGS}"

import jax  # noqa: E402
import numpy as np  # noqa: E402

import jaxcert as jc  # noqa: E402
from jaxcert.bounds.crown import crown  # noqa: E402
from jaxcert.box import Box, Rates  # noqa: E402
from jaxcert.certifier import Certification, Certifier  # noqa: E402
from jaxcert.devices import local_devices, spread  # noqa: E402
from jaxcert.oracle.bounds import BoundOracle  # noqa: E402
from jaxcert.search import stages  # noqa: E402
from jaxcert.search.apothem import SearchOptions  # noqa: E402

COLLECTIVES = (
    "all-reduce", "all-gather", "all-to-all", "collective-", "reduce-scatter",
    "send(", "recv(",
)  # fmt: skip
FEATURES, HIDDEN, CLASSES, BATCH = 8, 20, 3, 2


def network(params, x):
    w1, b1, w2, b2 = params
    return w2 @ jax.nn.relu(w1 @ x + b1) + b2


def certified(
    certifier: Certifier, x: np.ndarray, devices: Sequence[jax.Device]
) -> tuple[Certification, set[jax.Device]]:
    """Returns the answers, and the devices that were used."""
    used = set()

    def work(start, until):
        used.add(local_devices()[0])
        return certifier.batch(x[start : start + BATCH], None, until)

    parts = list(spread(work, range(0, len(x), BATCH), devices))
    return jax.tree.map(lambda *v: np.concatenate(v), *parts), used


def check_equal(params, oracle: str, count: int, x: np.ndarray) -> None:
    """One device and `count` give the same, to the last bit."""
    devices = local_devices()[:count]
    options = jc.CertifyOptions(oracle=oracle, batch_size=BATCH)
    if oracle == "crown":
        options = jc.CertifyOptions(oracle=oracle, batch_size=BATCH, attack=None)
    certifier = Certifier(network, params, None, (FEATURES,), options=options)
    one, alone = certified(certifier, x, devices[:1])
    many, used = certified(certifier, x, devices)
    assert alone == {devices[0]} and used == set(devices)
    jax.tree.map(np.testing.assert_array_equal, one, many)
    assert (one.lower > 0).all()
    if oracle == "complete":
        assert one.subproblems.sum() > 0 and (one.upper - one.lower <= 1e-4).all()


def check_no_collective(params, x: np.ndarray) -> None:
    """The search of the last device is a program of its own: it talks to no other."""
    one = np.ones(FEATURES, np.float32)
    task = stages.Task(
        x[:BATCH].astype(np.float32), np.zeros(BATCH, np.int32), Box(0 * one, one),
        Rates(one, one), np.float32(0),
    )  # fmt: skip
    last = local_devices()[-1]
    with jax.default_device(last):
        compiled = stages.search.lower(
            BoundOracle(crown(network)), SearchOptions(8, 40, "prove"), CLASSES,
            params, task, np.zeros(BATCH, np.float32), np.float32(1e-4),
        ).compile()  # fmt: skip
    text = compiled.as_text()
    assert "while(" in text and "num_partitions=" not in text, text[:500]
    assert not [word for word in COLLECTIVES if word in text]


def main() -> None:
    assert len(local_devices()) == 8
    random = np.random.default_rng(0)
    sizes = (HIDDEN, FEATURES), (HIDDEN,), (CLASSES, HIDDEN), (CLASSES,)
    params = tuple(random.normal(size=size).astype(np.float32) for size in sizes)
    x = random.uniform(0.2, 0.8, size=(19, FEATURES))
    oracle, count = sys.argv[1], int(sys.argv[2])
    check_equal(params, oracle, count, x[:5] if oracle == "complete" else x)
    check_no_collective(params, x)


if __name__ == "__main__":
    main()
