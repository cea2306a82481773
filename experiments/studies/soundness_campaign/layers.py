"""Layers of the campaign that say more than a name: "cast bfloat16", "low float16 6".

Some round: to a narrow type, or by computing weights from other weights in float32.
What such a network answers is what f itself answers in the types that it states, so
they have no other judge than f (`_campaign_own`). The rest is written twice, as all
layers are: in JAX for one input, and in numpy for batches in any kind of number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from studies.soundness_campaign.numbers import Numbers

Shape = tuple[int, ...]
Words = Sequence[str]

_BITS = {
    "float32": 23, "float16": 10, "bfloat16": 7, "float8_e4m3fn": 3, "float8_e5m2": 2,
}  # fmt: skip
_SHARP = 1 + 1e-9
_SHARPS = np.array([_SHARP, 1 - 1e-9, 1 + 3e-10, 1 - 2e-9])


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer whose name is followed by words.

    Attributes:
      shapes: (words, shape of its input) -> (shapes of its parameters, of its output).
      jax: (words, parameters, one input) -> output.
      numpy: the same for batches of networks and points, (M, P, n), and a kind of
        number; None where only f itself can judge.
      rational: whether fractions evaluate it.
      draw: changes normally distributed parameters to what the layer is about.
    """

    shapes: Callable[[Words, Shape], tuple[tuple[Shape, ...], Shape]]
    jax: Callable[[Words, Any, Any], Any]
    numpy: Callable[[Numbers, Words, Any, Any], Any] | None = None
    rational: bool = False
    draw: Callable[[np.random.Generator, list[Any]], list[Any]] | None = None


def mantissa_bits(layer: str) -> int | None:
    """Returns the bits of the fraction that a layer rounds to; None if it is wide."""
    kind, *words = layer.split()
    if kind == "reduce":
        return int(words[1])
    return _BITS.get(words[0]) if kind in LAYERS and words else None


# ---------------------------------------------------------------- narrow types


def _dtype(name: str) -> Any:
    return jnp.dtype(getattr(jnp, name))


def _same(words: Words, shape: Shape) -> tuple[tuple[Shape, ...], Shape]:
    return (), shape


def _dense(words: Words, shape: Shape) -> tuple[tuple[Shape, ...], Shape]:
    size = int(words[-1])
    return ((size, shape[0]), (size,)), (size,)


def _cast(words: Words, p: Any, x: Any) -> Any:
    return x.astype(_dtype(words[0])).astype(x.dtype)


def _reduce(words: Words, p: Any, x: Any) -> Any:
    return lax.reduce_precision(x, int(words[0]), int(words[1]))


def _sawtooth(words: Words, p: Any, x: Any) -> Any:
    return x + 64 * (x - _cast(words, p, x))


def _wide(words: Words, p: Any, x: Any) -> Any:
    return x.astype(jnp.float32)


def _low(words: Words, p: Any, x: Any) -> Any:
    kind = _dtype(words[0])
    return p[0].astype(kind) @ x.astype(kind) + p[1].astype(kind)


def _mixed(words: Words, p: Any, x: Any) -> Any:
    kind = _dtype(words[0])
    narrow = p[0].astype(kind), x.astype(kind)
    return jnp.matmul(*narrow, preferred_element_type=p[1].dtype) + p[1]


def _narrowed(words: Words, p: Any, x: Any) -> Any:
    product = jnp.matmul(p[0], x, preferred_element_type=_dtype(words[0]))
    return product.astype(x.dtype) + p[1]


# ---------------------------------------------------------------- computed weights


def _squares(words: Words, shape: Shape) -> tuple[tuple[Shape, ...], Shape]:
    size = int(words[0])
    return ((size, shape[0]), (size, shape[0]), (size,)), (size,)


def _cancelled(words: Words, p: Any, x: Any) -> Any:
    a, c, b = p
    return ((a * a - c) * 2.0**23) @ x + b


def _cancelling(rng: np.random.Generator, p: list[Any]) -> list[Any]:
    """c such that a * a - c, in float32, is a weight of some 2^-23."""
    a = rng.uniform(0.5, 1, p[0].shape).astype(np.float32)
    return [a, (a * a - np.float32(p[1] * 2.0**-23)).astype(np.float32), p[2]]


def _quantised(words: Words, p: Any, x: Any) -> Any:
    return p[0].astype(_dtype(words[0])).astype(p[0].dtype) @ x + p[1]


def _centred(words: Words, p: Any, x: Any) -> Any:
    return (p[0] - p[0].mean(axis=1, keepdims=True)) @ x + p[1]


def _far_off(rng: np.random.Generator, p: list[Any]) -> list[Any]:
    return [p[0] + 10.0 ** rng.uniform(5, 7), p[1]]


def _of_each(count: int) -> Callable[[Words, Shape], tuple[tuple[Shape, ...], Shape]]:
    return lambda words, shape: (((shape[-1],),) * count, shape)


def _statistics(words: Words, p: Any, x: Any) -> Any:
    gamma, beta, mean, variance = p
    factor = gamma * lax.rsqrt(variance + 1e-5)
    return x * factor + (beta - mean * factor)


def _offsets(rng: np.random.Generator, p: list[Any]) -> list[Any]:
    gamma, beta, mean, variance = p
    mean, variance = mean * 10.0 ** rng.uniform(5, 7), np.abs(variance) + 0.1
    return [gamma, beta + mean * gamma / np.sqrt(variance + 1e-5), mean, variance]


# ---------------------------------------------------------------- normalisation


def _around_one(rng: np.random.Generator, p: list[Any]) -> list[Any]:
    return [1 + p[0] / 3, *p[1:]]


def _mean(n: Numbers, z: Any) -> Any:
    return z.sum(axis=-1, keepdims=True) / n.number(z.shape[-1])


def _layernorm(words: Words, p: Any, x: Any) -> Any:
    centred = x - jnp.mean(x)
    scale = lax.rsqrt(jnp.mean(jnp.square(centred)) + float(words[0]))
    return centred * scale * p[0] + p[1]


def _layernorm_numpy(n: Numbers, words: Words, p: Any, z: Any) -> Any:
    assert n.sqrt is not None
    centred = z - _mean(n, z)
    spread = n.sqrt(_mean(n, centred * centred) + n.number(float(words[0])))
    return centred / spread * p[0][:, None] + p[1][:, None]


def _fastnorm(words: Words, p: Any, x: Any) -> Any:
    mean = jnp.mean(x)
    variance = jnp.maximum(jnp.mean(jnp.square(x)) - jnp.square(mean), 0)
    return (x - mean) * (lax.rsqrt(variance + float(words[0])) * p[0]) + p[1]


def _rmsnorm(words: Words, p: Any, x: Any) -> Any:
    return x / jnp.sqrt(jnp.mean(jnp.square(x)) + float(words[0])) * p[0]


def _rmsnorm_numpy(n: Numbers, words: Words, p: Any, z: Any) -> Any:
    assert n.sqrt is not None
    spread = n.sqrt(_mean(n, z * z) + n.number(float(words[0])))
    return z / spread * p[0][:, None]


def _softmax(words: Words, p: Any, x: Any) -> Any:
    return jax.nn.softmax(x)


def _softmax_numpy(n: Numbers, words: Words, p: Any, z: Any) -> Any:
    assert n.exp is not None
    powers = n.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


# ------------------------------------------------------------------- double constants


def _gap(words: Words, p: Any, x: Any) -> Any:
    """z up to rounding; 0 where the constants are rounded to float32."""
    sharp = _SHARP if words[0] == "literal" else _SHARPS[: x.shape[0]]
    return (x * sharp - x) * 1e9


def _gap_numpy(n: Numbers, words: Words, p: Any, z: Any) -> Any:
    literal = words[0] == "literal"
    sharp = n.convert(np.array([_SHARP] if literal else _SHARPS[: z.shape[-1]]))
    return (z * sharp - z) * n.number(1e9)


LAYERS = {
    "cast": Layer(_same, _cast),
    "reduce": Layer(_same, _reduce),
    "sawtooth": Layer(_same, _sawtooth),
    "wide": Layer(_same, _wide),
    "low": Layer(_dense, _low),
    "mixed": Layer(_dense, _mixed),
    "narrowed": Layer(_dense, _narrowed),
    "cancelled": Layer(_squares, _cancelled, draw=_cancelling),
    "quantised": Layer(_dense, _quantised),
    "centred": Layer(_dense, _centred, draw=_far_off),
    "statistics": Layer(_of_each(4), _statistics, draw=_offsets),
    "layernorm": Layer(_of_each(2), _layernorm, _layernorm_numpy, draw=_around_one),
    "fastnorm": Layer(_of_each(2), _fastnorm, _layernorm_numpy, draw=_around_one),
    "rmsnorm": Layer(_of_each(1), _rmsnorm, _rmsnorm_numpy, draw=_around_one),
    "softmax": Layer(_same, _softmax, _softmax_numpy),
    "gap": Layer(_same, _gap, _gap_numpy, rational=True),
}
