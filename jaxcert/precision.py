"""Where, and how, float64 is computed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


def float64_device() -> jax.Device:
    """Returns where float64 is computed: the CPU if the accelerator has no float64."""
    default = jax.devices()[0]
    return jax.devices("cpu")[0] if default.platform == "tpu" else default


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Runs the block with float64 enabled, on a device that has it.

    It holds for the thread that runs the block.
    """
    with jax.enable_x64(True), jax.default_device(float64_device()):
        yield
