"""Networks that round on the way are judged by themselves, in the types they state.

f is evaluated operation by operation, and compiled; XLA may fuse operations and leave a
rounding out, so the two differ, and a proof must hold for both. What float32 arithmetic
itself may lose is forgiven, for jaxcert speaks of real arithmetic between the roundings
that f asks for: some 2^-18 of the values, far less than what a narrow type loses.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import jax
import numpy as np

from studies.soundness_campaign.layers import mantissa_bits
from studies.soundness_campaign.networks import Architecture, Params

_FORGIVEN = {False: 2.0**-18, True: 2.0**-45}


@functools.lru_cache(maxsize=64)
def _ways(architecture: Architecture) -> tuple[Any, Any]:
    """Returns f of stacks of networks and points, as it is and compiled."""
    many = jax.vmap(jax.vmap(architecture.function(), (None, 0)))
    return many, jax.jit(many)


def own_outputs(
    architecture: Architecture, params: Params, points: Any, wide: bool = False
) -> np.ndarray:
    """Returns what f answers at points (M, P, *d): (2, M, P, K), eager and compiled.

    With `wide` the inputs are float64, whatever the weights are.
    """
    plain, compiled = _ways(architecture)
    kind = architecture.float_type
    params = jax.tree.map(lambda v: np.asarray(v, kind), params)
    points = np.asarray(points, np.float64 if wide else kind)
    with (
        jax.enable_x64(wide or architecture.double),
        jax.numpy_dtype_promotion("standard"),
        np.errstate(all="ignore"),
    ):
        with jax.disable_jit():
            eager = np.asarray(plain(params, points), np.float64)
        return np.stack([eager, np.asarray(compiled(params, points), np.float64)])


def forgiven(architecture: Architecture, rows: Any, offset: Any, y: Any) -> Any:
    """Returns what the arithmetic between two roundings may lose of `rows y + offset`.

    Args:
      architecture: of the network.
      rows, offset: of the spec, (..., R, K) and (..., R).
      y: outputs, (..., K).
    """
    size = np.matmul(np.abs(rows), np.abs(y)[..., None])[..., 0] + np.abs(offset)
    return _FORGIVEN[architecture.double] * (1 + size)


def own_margin(
    architecture: Architecture,
    params: Params,
    point: np.ndarray,
    rows: np.ndarray,
    offset: np.ndarray,
    wide: bool = False,
) -> tuple[Any, float]:
    """Returns the least of `rows y + offset` at a point over both ways, and its doubt.

    Minus infinity where f answers no number: the spec does not hold there. The doubt is
    what is forgiven. See `own_outputs` for `wide`.
    """
    stack = jax.tree.map(lambda v: np.asarray(v)[None], params)
    at = np.asarray(point)[None, None]
    outputs = own_outputs(architecture, stack, at, wide)[:, 0, 0]
    rows, offset = np.atleast_2d(rows), np.atleast_1d(offset)
    if not np.isfinite(outputs).all():
        return float("-inf"), 0.0
    doubt = max(forgiven(architecture, rows, offset, y).max() for y in outputs)
    values = [
        sum((Fraction(c) * Fraction(v) for c, v in zip(row, y, strict=True)),
            Fraction(shift))
        for y in outputs.tolist()
        for row, shift in zip(rows.tolist(), offset.tolist(), strict=True)
    ]  # fmt: skip
    return min(values), float(doubt)


def own_least(
    architecture: Architecture, params: Params, lo: np.ndarray, hi: np.ndarray,
    rows: np.ndarray, rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Returns the least certain value found of every row, (M, R), and its points.

    Certain: what is forgiven is added. Points are corners, random ones, those next to
    the midpoints where the narrow types round, and then steps from the worst.
    """
    shape = architecture.shape
    low, high = (v.reshape(len(v), -1) for v in (lo, hi))
    points = _points(architecture, low, high, rng)
    least, best = _least(
        architecture, params, rows, points.reshape(*points.shape[:2], *shape)
    )
    for _ in range(2):
        steps = _steps(best.reshape(*best.shape[:2], -1), low, high, rng)
        steps = _single(architecture, steps, low, high)
        found = _least(
            architecture, params, rows, steps.reshape(*steps.shape[:2], *shape)
        )
        better = found[0] < least
        wide = better.reshape(*better.shape, *[1] * len(shape))
        least = np.where(better, found[0], least)
        best = np.where(wide, found[1], best)
    return least, best


def _least(
    architecture: Architecture, params: Params, rows: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    outputs = own_outputs(architecture, params, points)  # (2, M, P, K)
    with np.errstate(all="ignore"):
        values = np.einsum("wmpk,mrk->wmpr", outputs, rows)
        zero = np.zeros(rows.shape[:2])[:, None]
        values = values + forgiven(architecture, rows[:, None], zero, outputs)
    values = np.where(np.isnan(values), -np.inf, values).min(axis=0)  # (M, P, R)
    index = values.argmin(axis=1)
    least = np.take_along_axis(values, index[:, None], axis=1)[:, 0]
    return least.astype(np.longdouble), points[np.arange(len(points))[:, None], index]


def _points(
    architecture: Architecture, low: np.ndarray, high: np.ndarray,
    rng: np.random.Generator, count: int = 400,
) -> np.ndarray:  # fmt: skip
    """Returns points (M, P, d): every coordinate is one that is worth a try."""
    tries = [low, high, low + (high - low) / 2]
    uniform = [low + (high - low) * rng.random(low.shape) for _ in range(12)]
    bits = {mantissa_bits(layer) for layer in architecture.layers} - {None}
    for narrow in sorted(b for b in bits if b is not None):
        for at in uniform[:4]:
            with np.errstate(divide="ignore"):
                power = np.where(at == 0, -126, np.floor(np.log2(np.abs(at))))
            ulp = 2.0 ** (power - narrow)
            middle = (np.floor(at / ulp) + 0.5) * ulp
            middle = np.clip(middle, low, high).astype(architecture.float_type)
            tries += [middle, *(np.nextafter(middle, s, dtype=middle.dtype)
                                for s in (-np.inf, np.inf))]  # fmt: skip
    stack = np.stack(tries + uniform, axis=1)  # (M, T, d)
    chosen = rng.integers(0, stack.shape[1], (len(low), count, low.shape[1]))
    mixed = np.take_along_axis(stack, chosen, axis=1)
    return _single(architecture, np.concatenate([stack, mixed], axis=1), low, high)


def _steps(
    best: np.ndarray, low: np.ndarray, high: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Returns points (M, R * 40, d) around the worst points (M, R, d)."""
    around = np.repeat(best, 40, axis=1)
    size = 10.0 ** rng.uniform(-6, 0, (*around.shape[:2], 1))
    moved = around + size * (high - low)[:, None] * rng.normal(size=around.shape)
    ends = np.where(rng.random(around.shape) < 0.5, low[:, None], high[:, None])
    which = rng.random(around.shape)
    return np.where(which < 0.5, around, np.where(which < 0.65, ends, moved))


def _single(
    architecture: Architecture, points: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Returns points of the float type of f's inputs that lie in the box."""
    points = np.asarray(points, architecture.float_type)
    inner = _inner(architecture, low, high)
    return np.clip(points, inner[0][:, None], inner[1][:, None])


def _inner(
    architecture: Architecture, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the outermost numbers of that type inside the box."""
    kind = architecture.float_type
    lo, hi = np.asarray(low, kind), np.asarray(high, kind)
    lo = np.where(lo < low, np.nextafter(lo, kind(np.inf)), lo)
    return lo, np.where(hi > high, np.nextafter(hi, kind(-np.inf)), hi)
