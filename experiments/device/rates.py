"""What the device can do at most, and that what it computes is as exact as is assumed.

    python -m device rates --output=OUT

Times matrix products in float32 (all bits asked for, and JAX's default) and float64,
and a copy. TF32 keeps 10 bits of a factor: a product of random matrices is then off by
some 3e-4, else by some 1e-6. Shown of the plain product and of the bounds of a linear
network. Elementary functions are compared with those of the host in extended precision;
`jaxcert.bounds.rounding` charges 128 roundings for each in float64.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import math
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
from jaxcert.devices import deciding_device, float64, product_seconds
from jaxcert.memory import free_bytes
from jaxcert.spec import Spec

TF32 = 5e-5
"""Relative error up to which a product has all bits of float32."""
EMULATED = 1e-12
"""Relative error up to which a product has all bits of float64."""
FUNCTIONS = 64.0
"""Units in the last place that a function may be off in float64: 128 roundings."""
_PACKAGES = ("jax", "jaxlib", "numpy", "torch", "flax", "optax")
_ARGUMENTS = 1 << 16  # that every elementary function is evaluated at


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `rates`."""

    size: int = option(8192, "Side of the matrices.", least=2)
    copied: int = option(1 << 31, "Bytes of the copy.", least=4)
    seconds: float = option(0.5, "Least time of each figure.", above=0)
    output: str = folder(REQUIRED)


def main(request: Request) -> int:
    """Measures; returns the exit code: 1 if what decides has lost bits."""
    rows = Rows(request.output)
    devices = jax.devices()
    rows.add(
        "machine", platform=devices[0].platform, devices=len(devices),
        python=platform.python_version(), free_bytes=free_bytes(), **_versions(),
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
        exact = error <= EMULATED
        rows.add("float64 product", tflops=rate, error=error, full=exact)
        ulps = _ulps(np.float64)
        exact &= max(ulps.values()) <= FUNCTIONS
        rows.add("float64 functions", ulps=ulps)
    rows.add("float32 functions", ulps=_ulps(np.float32))
    single, double = product_seconds(devices[0])
    rows.add(
        "where float64 is computed", product32_seconds=single, product64_seconds=double,
        evaluating=deciding_device(1.0).platform, search=deciding_device(0.1).platform,
    )  # fmt: skip
    block = jnp.ones(request.copied // 4, jnp.float32)
    negate = jax.jit(lambda v: -v)
    middle = statistics.median(timed(lambda: negate(block), request.seconds))
    rows.add("copy", gb_per_second=2 * block.nbytes / middle / 1e9)
    return 0 if worst <= TF32 and exact else 1  # NaN is not


def _versions() -> dict[str, str | None]:
    """Returns the versions of what computes; None of what is not installed."""
    found: dict[str, str | None] = dict.fromkeys(_PACKAGES)
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _ulps(dtype: Any) -> dict[str, float]:
    """Returns the worst errors of elementary functions, in units in the last place."""
    random = np.random.default_rng(2)
    x = random.uniform(-16, 16, _ARGUMENTS).astype(dtype)
    y = random.uniform(0.5, 100, _ARGUMENTS).astype(dtype)
    wide, positive = x.astype(np.longdouble), y.astype(np.longdouble)
    worst = {}
    for name, f, exact in (
        ("exp", lambda x, y: jnp.exp(x), np.exp(wide)),
        ("log", lambda x, y: jnp.log(y), np.log(positive)),
        ("tanh", lambda x, y: jnp.tanh(x), np.tanh(wide)),
        ("logistic", lambda x, y: jax.nn.sigmoid(x), 1 / (1 + np.exp(-wide))),
        ("sqrt", lambda x, y: jnp.sqrt(y), np.sqrt(positive)),
        ("divide", lambda x, y: x / y, wide / positive),
    ):
        found = np.asarray(jax.jit(f)(x, y)).astype(np.longdouble)
        unit = np.spacing(np.abs(exact).astype(dtype)).astype(np.longdouble)
        error = np.max(np.abs(found - exact) / unit)
        worst[name] = float(error) if np.isfinite(error) else math.inf
    return worst


def _product(request: Request, dtype: Any, precision: Any) -> tuple[float, float]:
    """Returns TFLOP/s of a product, and its relative error against the host's."""
    random = np.random.default_rng(0)
    shape = (request.size, request.size)
    a, b = (random.standard_normal(shape, np.float32).astype(dtype) for _ in range(2))
    a, b = (factor * dtype(np.pi) for factor in (a, b))  # of all bits
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
