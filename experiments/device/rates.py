"""What the device can do at most, and that no product of ours is rounded to TF32.

    python -m device rates --output=OUT

Times matrix products in float32 (all bits asked for, and JAX's default) and float64,
and a copy. TF32 keeps 10 bits of a factor: a product of random matrices is then off by
some 3e-4, else by some 1e-6. Shown of the plain product and of the bounds of a linear
network.
"""

from __future__ import annotations

import dataclasses
import platform
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from device.rows import Rows, timed
from jaxcert.bounds.crown import crown
from jaxcert.bounds.ibp import ibp
from jaxcert.box import Box
from jaxcert.commands.options import REQUIRED, Options, folder, option
from jaxcert.devices import float64
from jaxcert.memory import free_bytes
from jaxcert.spec import Spec

TF32 = 5e-5
"""Relative error up to which a product has all bits of float32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `rates`."""

    size: int = option(8192, "Side of the matrices.", least=2)
    copied: int = option(1 << 31, "Bytes of the copy.", least=4)
    seconds: float = option(0.5, "Least time of each figure.", above=0)
    output: str = folder(REQUIRED)


def main(request: Request) -> int:
    """Measures; returns the exit code: 1 if the bounds were rounded to TF32."""
    rows = Rows(request.output)
    devices = jax.devices()
    rows.add(
        "machine", platform=devices[0].platform, devices=len(devices),
        jax=jax.__version__, python=platform.python_version(), free_bytes=free_bytes(),
    )  # fmt: skip
    worst = _bounds_error()
    rows.add("bounds of a linear network", worst_error=worst, full=worst <= TF32)
    for name, precision in (("highest", "highest"), ("default", None)):
        rate, error = _product(request, np.float32, precision)
        rows.add(
            "float32 product", precision=name, tflops=rate, error=error,
            full=error <= TF32,
        )  # fmt: skip
    with float64():
        rate, error = _product(request, np.float64, "highest")
        rows.add("float64 product", tflops=rate, error=error)
    block = jnp.ones(request.copied // 4, jnp.float32)
    negate = jax.jit(lambda v: -v)
    middle = statistics.median(timed(lambda: negate(block), request.seconds))
    rows.add("copy", gb_per_second=2 * block.nbytes / middle / 1e9)
    return 0 if worst <= TF32 else 1  # NaN is not


def _product(request: Request, dtype: Any, precision: Any) -> tuple[float, float]:
    """Returns TFLOP/s of a product, and its relative error against the host's."""
    random = np.random.default_rng(0)
    a, b = (
        random.normal(size=(request.size, request.size)).astype(dtype) for _ in range(2)
    )
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
    on = jax.device_put((a, b))
    middle = statistics.median(timed(lambda: multiply(*on), request.seconds))
    few = np.asarray(multiply(*on)[:8], np.float64)
    exact = a[:8].astype(np.float64) @ b.astype(np.float64)
    error = float(np.linalg.norm(few - exact) / np.linalg.norm(exact))
    return 2 * request.size**3 / middle / 1e12, error


def _bounds_error() -> float:
    """Returns the relative error of what bounds say of a point of a linear network."""
    random = np.random.default_rng(1)
    weights = [random.normal(size=(512, 512)).astype(np.float32) for _ in range(2)]
    x = random.normal(size=512).astype(np.float32)
    exact = weights[1].astype(np.float64) @ (weights[0].astype(np.float64) @ x)
    exact = exact[0] - exact[1:]

    def f(weights: Any, x: jax.Array) -> jax.Array:
        return weights[1] @ (weights[0] @ x)

    spec, worst = Spec.classification(0, 512), 0.0
    for method in (ibp, crown):
        found = method(f).lower_rows(weights, Box(x, x), spec)  # type: ignore[arg-type]
        error = np.linalg.norm(np.asarray(found) - exact) / np.linalg.norm(exact)
        worst = float(np.maximum(worst, error))  # NaN stays
    return worst
