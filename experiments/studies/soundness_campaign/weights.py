"""Random weights and boxes for the soundness campaign, ordinary and wicked ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from studies.soundness_campaign.layers import LAYERS
from studies.soundness_campaign.networks import Architecture, Params, apply_numpy
from studies.soundness_campaign.numbers import Numbers

REGIMES = (
    "plain", "plain", "scaled", "huge", "small", "denormal", "dead", "nearly_dead",
    "constant", "duplicate", "ties", "dyadic", "cancel", "cancel",
)  # fmt: skip
_DOUBLE = ("underflow", "double", "twins")


def draw_params(
    rng: np.random.Generator, architecture: Architecture, x: np.ndarray, regime: str
) -> Params:
    """Returns the weights of one network, float64, of which most are float32 numbers.

    Args:
      rng: where they are drawn from.
      architecture: of the network.
      x: a point; regime "cancel" has kinks and cancellations right there.
      regime: one of REGIMES, or "underflow", "flushed" (made for four dense layers),
        "offsets", or "double" and "twins", whose weights no float32 can hold.
    """
    drawn = [
        [rng.normal(size=s) / np.sqrt(max(int(np.prod(s[1:])), 1)) for s in shapes]
        for shapes in architecture.parameter_shapes()
    ]
    for layer, p in zip(architecture.layers, drawn, strict=True):
        if layer in ("scale", "folded"):
            p[3] = np.abs(p[3]) + 0.1
        kind = layer.partition(" ")[0]
        draw = LAYERS[kind].draw if kind in LAYERS else None
        if draw is not None:
            p[:] = draw(rng, p)
    matrices = [p for p in drawn if len(p) == 2 and p[0].ndim > 1]
    if matrices:
        _shape_weights(rng, matrices, regime)
    if regime == "offsets":
        for layer, p in zip(architecture.layers, drawn, strict=True):
            if layer == "folded":
                p[2] = p[2] * 1e7
                p[1] = p[2] * (p[0] / p[3]) + p[1]
    single = rng.random() < 0.7 and regime not in _DOUBLE
    rounded = [tuple(_rounded(v, single) for v in p) for p in drawn]
    if regime == "cancel":
        rounded = _cancelled(rng, architecture, rounded, x, single)
    if architecture.own and not architecture.double:
        return tuple(tuple(v.astype(np.float32) for v in p) for p in rounded)
    return tuple(rounded)


def _rounded(v: np.ndarray, single: bool) -> np.ndarray:
    with np.errstate(all="ignore"):
        narrow = np.clip(v, -3e38, 3e38).astype(np.float32)
    return narrow.astype(np.float64) if single else np.asarray(v, np.float64)


def _shape_weights(
    rng: np.random.Generator, matrices: list[list[np.ndarray]], regime: str
) -> None:
    """Changes weights and biases of the dense and conv layers in place."""
    pick = 0 if regime == "twins" else int(rng.integers(len(matrices)))
    w, b = matrices[pick]
    neuron = int(rng.integers(len(b)))
    mine = (..., neuron) if w.ndim == 4 else (neuron,)
    follows = pick + 1 < len(matrices) and matrices[pick + 1][0].ndim == 2
    after = matrices[pick + 1][0] if follows else None
    if after is not None and (w.ndim != 2 or after.shape[1] != len(b)):
        after = None
    match regime:
        case "scaled":
            for (v, c), (u, _) in zip(matrices, [*matrices[1:], (None, None)],
                                      strict=True):  # fmt: skip
                size = 10.0 ** rng.uniform(-6, 6, len(c))
                v *= size if v.ndim == 4 else size[:, None]
                c *= size
                if u is not None and u.shape[-1] == len(c) and u.ndim == 2:
                    u /= size
        case "huge" | "small":
            size = 10.0 ** rng.uniform(0, 30 if rng.random() < 0.7 else 140)
            w *= size if regime == "huge" else 1 / size
        case "denormal":
            tiny = 1e-40 if rng.random() < 0.5 else 1e-309
            w[rng.random(w.shape) < 0.5] *= tiny
            b *= tiny
        case "dead" | "nearly_dead":
            if regime == "dead":
                b[neuron] = -1e3
            else:
                w[mine] *= 1.7e-7
                b[neuron] *= 1e-7
            if after is not None:
                after[:, neuron] *= 1e7
        case "constant":
            w *= 0
        case "duplicate":
            other = (neuron + 1) % len(b)
            twin = (..., other) if w.ndim == 4 else (other,)
            w[twin], b[other] = w[mine], b[neuron]
            if after is not None:
                after[:, other] = -after[:, neuron] * (1 + rng.integers(2) * 2.0**-20)
        case "twins":
            # Two neurons that float32 cannot tell apart, and their difference.
            other, sharp = (neuron + 1) % len(b), 10.0 ** rng.uniform(8, 10)
            w[other], b[other] = w[mine] * (1 + 1 / sharp), b[neuron]
            if after is not None:
                after[:, other], after[:, neuron] = sharp, -sharp
        case "ties":
            last, bias = matrices[-1]
            last[1], bias[1] = last[0], bias[0]
        case "dyadic":
            for v, c in matrices:
                v[...], c[...] = np.round(2 * v) / 2, np.round(4 * c) / 4
        case "flushed":
            # Ranges in the middle are below 1e-38, which float32 flushes to zero.
            lost, total = rng.uniform(39, 45), 0.0
            for index, (v, c) in enumerate(matrices):
                late = index >= len(matrices) / 2
                back = lost / (len(matrices) // 2)
                power = back if late else -5.0 if index == 0 else 5 - lost
                total += power
                v *= 10.0**power
                c *= 10.0**total
        case "underflow":
            # What the first layers lose below 1e-308 the others bring back.
            many = max(len(matrices) // 2, 1)
            lost = rng.uniform(300, 325)
            for index, (v, c) in enumerate(matrices):
                power = -lost / many if index < many else lost / (len(matrices) - many)
                v *= 10.0 ** min(power, 300)
                c *= float(index == len(matrices) - 1)


def _cancelled(
    rng: np.random.Generator,
    architecture: Architecture,
    params: list[tuple[np.ndarray, ...]],
    x: np.ndarray,
    single: bool,
) -> list[tuple[np.ndarray, ...]]:
    """Returns the weights with biases that cancel what every layer computes at x."""
    size = 10.0 ** rng.uniform(0, 9)
    plain = Numbers("float64", lambda v: np.asarray(v, np.float64), np.exp, np.log,
                    np.sqrt)  # fmt: skip
    z: Any = x[None, None]
    made = []
    for layer, p in zip(architecture.layers, params, strict=True):
        kind = layer.partition(" ")[0]
        if kind in ("dense", "conv"):
            w = _rounded(p[0] * size, single)
            y = apply_numpy(plain, layer, (w[None], 0 * p[1][None]), z)
            back = -y.reshape(-1, len(p[1]))[0]
            ulps = rng.integers(-1, 2, len(back)) * 2.0**-52 * np.abs(back)
            p = w, _rounded(np.nan_to_num(back + ulps), single)
        with np.errstate(all="ignore"):
            lifted = tuple(v[None] for v in p)
            z = np.nan_to_num(apply_numpy(plain, layer, lifted, z))
        made.append(p)
    return made


# -------------------------------------------------------------------- boxes

BOXES = ("point", "ulps", "tiny", "small", "one_sided", "clipped", "collapsed", "wide",
         "vast")  # fmt: skip


def draw_center(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a point of [-1, 1]^d, sometimes with dyadic or zero coordinates."""
    x = rng.uniform(-1, 1, shape)
    style = rng.random()
    if style < 0.2:
        x = np.round(4 * x) / 4
    elif style < 0.4:
        x = np.asarray(x, np.float32).astype(np.float64)
    return x


def draw_box(
    rng: np.random.Generator, x: np.ndarray, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (lo, hi) of a box of one of BOXES that holds x."""
    lo, hi = x.copy(), x.copy()
    spread = {
        "point": 0.0, "ulps": 2.0**-52, "tiny": 10.0 ** rng.uniform(-13, -4),
        "small": 0.05, "one_sided": 10.0 ** rng.uniform(-9, 0), "clipped": 0.5,
        "collapsed": 10.0 ** rng.uniform(-9, 0), "wide": 3.0, "vast": 1e6,
    }[kind]  # fmt: skip
    down, up = spread * rng.uniform(0, 1, (2, *x.shape))
    if kind == "one_sided":
        side = rng.random(x.shape) < 0.5
        down, up = np.where(side, down, 0), np.where(side, 0, up)
    if kind == "collapsed":
        still = rng.random(x.shape) < 0.5
        down, up = np.where(still, 0, down), np.where(still, 0, up)
    lo, hi = x - down, x + up
    if kind == "clipped":
        edge = np.minimum(np.abs(x), 0.9)
        lo, hi = np.maximum(lo, -edge), np.minimum(hi, edge)
    return np.minimum(lo, x), np.maximum(hi, x)
