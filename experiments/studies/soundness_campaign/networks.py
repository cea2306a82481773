"""Random architectures for the soundness campaign.

An architecture is a tuple of layer names, such as ("dense 6", "relu", "dense 3"). It is
written twice: in JAX for one input, which is what jaxcert is handed, and in numpy for
batches of networks and points in any kind of number, which judges the answers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from studies.soundness_campaign.layers import LAYERS, Layer
from studies.soundness_campaign.numbers import DECIMALS, FRACTIONS, Numbers, digits

Params = tuple[tuple[np.ndarray, ...], ...]


@dataclasses.dataclass(frozen=True)
class Op:
    """A layer without parameters: in JAX, in numpy, and whether fractions suffice."""

    jax: Callable[[Any], Any]
    numpy: Callable[[Numbers, Any], Any]
    rational: bool = True
    halves: bool = False


def _front(z: Any) -> Any:
    return z[..., : z.shape[-1] // 2]


def _back(z: Any) -> Any:
    half = z.shape[-1] // 2
    return z[..., half : 2 * half]


def _clip(n: Numbers, z: Any) -> Any:
    return np.minimum(np.maximum(z, n.number(-0.5)), n.number(0.75))


def _relu(n: Numbers, z: Any) -> Any:
    return np.maximum(z, 0 * z)


def _leaky(n: Numbers, z: Any) -> Any:
    return np.where(z < 0, z * n.number(0.25), z)


PIECEWISE = {
    "relu": Op(jax.nn.relu, _relu),
    "leaky_relu": Op(lambda z: jax.nn.leaky_relu(z, 0.25), _leaky),
    "abs": Op(jnp.abs, lambda n, z: np.abs(z)),
    "clip": Op(lambda z: jnp.clip(z, -0.5, 0.75), _clip),
    "max_half": Op(
        lambda z: jnp.maximum(z, 0.5), lambda n, z: np.maximum(z, n.number(0.5))
    ),
    "max_pair": Op(
        lambda z: jnp.maximum(_front(z), _back(z)),
        lambda n, z: np.maximum(_front(z), _back(z)),
        halves=True,
    ),
    "min_pair": Op(
        lambda z: jnp.minimum(_front(z), _back(z)),
        lambda n, z: np.minimum(_front(z), _back(z)),
        halves=True,
    ),
}
PRODUCTS = {
    "product": Op(
        lambda z: _front(z) * _back(z), lambda n, z: _front(z) * _back(z), halves=True
    ),
    "quotient": Op(
        lambda z: _front(z) / (jnp.abs(_back(z)) + 0.5),
        lambda n, z: _front(z) / (np.abs(_back(z)) + n.number(0.5)),
        halves=True,
    ),
    "square": Op(jnp.square, lambda n, z: z * z),
    "cube": Op(lambda z: z**3, lambda n, z: z * z * z),
    "reciprocal": Op(
        lambda z: 1 / (jnp.abs(z) + 0.5), lambda n, z: 1 / (np.abs(z) + n.number(0.5))
    ),
}
SMOOTH = {
    "tanh": Op(jnp.tanh, lambda n, z: n.tanh(z), False),
    "sigmoid": Op(jax.nn.sigmoid, lambda n, z: n.sigmoid(z), False),
    "softplus": Op(jax.nn.softplus, lambda n, z: n.softplus(z), False),
    "gelu": Op(
        lambda z: jax.nn.gelu(z, approximate=False), lambda n, z: n.gelu(z), False
    ),
    "silu": Op(jax.nn.silu, lambda n, z: z * n.sigmoid(z), False),
    "exp": Op(jnp.exp, lambda n, z: n.exp(z), False),  # type: ignore[misc]
    "log": Op(
        lambda z: jnp.log(jnp.abs(z) + 0.5),
        lambda n, z: n.log(np.abs(z) + n.number(0.5)),  # type: ignore[misc]
        False,
    ),
    "sqrt": Op(
        lambda z: jnp.sqrt(z * z + 0.25),
        lambda n, z: n.sqrt(z * z + n.number(0.25)),  # type: ignore[misc]
        False,
    ),
}
OPS = PIECEWISE | PRODUCTS | SMOOTH


def _pool(n: Numbers, z: Any) -> Any:
    *lead, h, w, c = z.shape
    z = z[..., : h // 2 * 2, : w // 2 * 2, :]
    z = z.reshape(*lead, h // 2, 2, w // 2, 2, c)
    return np.maximum.reduce(np.maximum.reduce(z, axis=-2), axis=-3)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Layers of a network that takes inputs of `shape` and returns 3 or so logits.

    Layers: "dense n", "residual" (z + relu(W z + b)), "scale" (a batch norm in eval
    mode), "folded" (the same, folded to s z + (beta - mean s)), "conv c" (3 x 3, same
    padding), "pool" (max, 2 x 2), "flat", and the names in OPS and in LAYERS.
    """

    shape: tuple[int, ...]
    layers: tuple[str, ...]

    @functools.cached_property
    def rational(self) -> bool:
        """Whether exact fractions evaluate it."""
        plain = all(OPS[name].rational for name in self.layers if name in OPS)
        return plain and all(layer.rational for layer in self._worded)

    @functools.cached_property
    def piecewise(self) -> bool:
        """Whether it is piecewise linear."""
        plain = not any(name in PRODUCTS or name in SMOOTH for name in self.layers)
        return plain and all(layer.rational for layer in self._worded)

    @functools.cached_property
    def own(self) -> bool:
        """Whether it rounds on the way, so that only f itself can say what it is."""
        return any(layer.numpy is None for layer in self._worded)

    @property
    def judge(self) -> str:
        """What evaluates it without doubt."""
        if self.own:
            return "the types of f"
        return "fractions" if self.rational else "100 digits"

    @property
    def float_type(self) -> Any:
        """The float type of its weights; that of its inputs where it rounds."""
        return np.float32 if self.own and not self.double else np.float64

    @property
    def double(self) -> bool:
        """Whether it rounds what is computed in float64."""
        return self.own and "cast float32" in self.layers

    @property
    def _worded(self) -> list[Layer]:
        names = [layer.partition(" ")[0] for layer in self.layers]
        return [LAYERS[name] for name in names if name in LAYERS]

    def parameter_shapes(self) -> list[tuple[tuple[int, ...], ...]]:
        """Returns the shapes of the parameters of every layer."""
        shape, shapes = self.shape, []
        for layer in self.layers:
            kind, _, count = layer.partition(" ")
            made: tuple[tuple[int, ...], ...] = ()
            if kind == "dense":
                made = (int(count), shape[0]), (int(count),)
                shape = (int(count),)
            elif kind == "residual":
                made = (shape[0], shape[0]), (shape[0],)
            elif kind in ("scale", "folded"):
                made = (shape[-1],) * 1, (shape[-1],), (shape[-1],), (shape[-1],)
            elif kind == "conv":
                made = (3, 3, shape[-1], int(count)), (int(count),)
                shape = (*shape[:-1], int(count))
            elif kind == "pool":
                shape = shape[0] // 2, shape[1] // 2, shape[2]
            elif kind == "flat":
                shape = (int(np.prod(shape)),)
            elif kind in LAYERS:
                made, shape = LAYERS[kind].shapes(layer.split()[1:], shape)
            elif OPS[kind].halves:
                shape = (shape[0] // 2,)
            shapes.append(made)
        return shapes

    def function(self) -> Callable[[Any, Any], Any]:
        """Returns `f(params, x)` for jaxcert; a new function every time."""

        def f(params: Any, x: Any) -> Any:
            for layer, p in zip(self.layers, params, strict=True):
                x = _apply_jax(layer, p, x)
            return x

        return f

    def evaluate(self, numbers: Numbers, params: Any, x: Any) -> Any:
        """Returns the outputs (M, P, K) of M networks at P points each, (M, P, *shape).

        Both are arrays of these numbers already.
        """
        for layer, p in zip(self.layers, params, strict=True):
            x = apply_numpy(numbers, layer, p, x)
        return x

    def exact(self, params: Params, x: np.ndarray) -> np.ndarray:
        """Returns the logits of one network at one point, in fractions or 100 digits.

        Fractions where the network is rational; then there is no rounding at all.
        """
        numbers = FRACTIONS if self.rational else DECIMALS
        lifted = jax.tree.map(lambda v: numbers.convert(np.asarray(v)[None]), params)
        with digits(), np.errstate(all="ignore"):
            return self.evaluate(numbers, lifted, numbers.convert(x[None, None]))[0, 0]


def _apply_jax(layer: str, p: Any, x: Any) -> Any:
    kind, *words = layer.split()
    if kind in LAYERS:
        return LAYERS[kind].jax(words, p, x)
    match kind:
        case "dense":
            return p[0] @ x + p[1]
        case "residual":
            return x + jax.nn.relu(p[0] @ x + p[1])
        case "scale":
            gamma, beta, mean, spread = p
            return (x - mean) * (gamma / spread) + beta
        case "folded":
            gamma, beta, mean, spread = p
            factor = gamma / spread
            return x * factor + (beta - mean * factor)
        case "conv":
            out = lax.conv_general_dilated(
                x[None], p[0], (1, 1), "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
            return out[0] + p[1]
        case "pool":
            window = (2, 2, 1)
            return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
        case "flat":
            return x.reshape(-1)
    return OPS[kind].jax(x)


def apply_numpy(n: Numbers, layer: str, p: Any, x: Any) -> Any:
    """Returns what a layer makes of x, (M, P, *shape), in the given numbers."""
    kind, *words = layer.split()
    if kind in LAYERS:
        evaluate = LAYERS[kind].numpy
        assert evaluate is not None, f"only f itself can judge {layer}"
        return evaluate(n, words, p, x)
    match kind:
        case "dense":
            return np.matmul(x, p[0].swapaxes(1, 2)) + p[1][:, None]
        case "residual":
            return x + _relu(n, np.matmul(x, p[0].swapaxes(1, 2)) + p[1][:, None])
        case "scale" | "folded":
            between = (slice(None), *[None] * (x.ndim - 2))
            gamma, beta, mean, spread = (v[between] for v in p)
            return (x - mean) * (gamma / spread) + beta
        case "conv":
            h, w, c = x.shape[2:]
            padded = np.concatenate([0 * x[:, :, :1], x, 0 * x[:, :, :1]], axis=2)
            edge = 0 * padded[:, :, :, :1]
            padded = np.concatenate([edge, padded, edge], axis=3)
            total: Any = 0
            for i in range(3):
                for j in range(3):
                    part = padded[:, :, i : i + h, j : j + w]
                    part = part.reshape(*x.shape[:2], h * w, c)
                    total = total + np.matmul(part, p[0][:, None, i, j])
            total = total + p[1][:, None, None]
            return total.reshape(*x.shape[:4], p[1].shape[-1])
        case "pool":
            return _pool(n, x)
        case "flat":
            return x.reshape(*x.shape[:2], -1)
    return OPS[kind].numpy(n, x)


# -------------------------------------------------------------------- architectures


def draw_architecture(rng: np.random.Generator, family: str) -> Architecture:
    """Returns a random architecture: piecewise, products, smooth, image or folded."""
    if family == "image":
        ops = ["relu", "leaky_relu", "abs", "tanh", "sigmoid", "clip"]
        first, second = rng.choice(ops, 2)
        middle = [["pool"], ["scale"], ["scale", "pool"], []][rng.integers(4)]
        tail = ["dense 5", str(second)] if rng.random() < 0.5 else []
        shape = (4, 4, int(rng.integers(1, 3)))
        conv = f"conv {rng.integers(2, 4)}"
        return Architecture(
            shape, (conv, *middle, str(first), "flat", *tail, "dense 3")
        )
    names = {
        "piecewise": [*PIECEWISE],
        "products": [*PRODUCTS, "product", "relu", "abs"],
        "smooth": [*SMOOTH, *SMOOTH, "relu", "product", "max_pair"],
        "folded": ["relu", "abs"],
    }[family]
    layers: list[str] = []
    for depth in range(int(rng.choice([1, 1, 2, 2, 3]))):
        layers.append(f"dense {2 * rng.integers(2, 5)}")
        if family == "folded" or rng.random() < 0.2:
            layers.append("folded" if family == "folded" else "scale")
        layers.append(str(rng.choice(names)))
        if depth and rng.random() < 0.4:
            layers.append("residual")
    return Architecture((int(rng.choice([1, 2, 3, 4, 6])),), (*layers, "dense 3"))
