"""The case matrix: small networks made of every supported primitive.

Every case is a function `f(params, x)` with three outputs and inputs in [-1, 1]^d. In
front of the operation lies an affine map that sends that cube into the operation's
interval of interest, behind it another one that mixes its outputs with random signs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from quickly import AS_USERS_DO as AS_USERS_DO

WIDTH = 6
INPUTS = 4
OUTPUTS = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
      name: of the operation.
      f: `f(params, x)`.
      params: its weights, numpy float64 arrays whose values are float32 numbers.
      shape: shape of x; legal inputs are [-1, 1]^shape.
      lattice: the range is taken from a lattice, and is monotone up to its error only.
    """

    name: str
    f: Callable[[Any, Any], Any]
    params: Any
    shape: tuple[int, ...]
    lattice: bool = False


def exact32(array: Any) -> np.ndarray:
    """Returns float32 numbers in a float64 array: every cast of them is exact."""
    return np.asarray(np.asarray(array, np.float32), np.float64)


def relu_network(params: Any, x: Any) -> Any:
    """A fully connected ReLU network; params are pairs (weights, biases)."""
    for w, b in params[:-1]:
        x = jax.nn.relu(w @ x + b)
    w, b = params[-1]
    return w @ x + b


def residual_network(params: Any, x: Any) -> Any:
    """A residual network whose output sees all layers and three inputs.

    Its params are those of `relu_network`: two layers of one size, and the outputs.
    """
    (w, b), (v, c), (u, e) = params
    h = jax.nn.relu(w @ x + b)
    k = jax.nn.relu(v @ h + c) + h
    return u @ k + e + x[:3]


def without_shortcuts(params: Any, lo: Any) -> list[tuple[Any, Any]]:
    """Returns `residual_network` of three inputs x >= lo as layers (`exact.Layers`).

    What goes past a layer is >= 0, and a neuron more.
    """
    (w, b), (v, c), (u, e) = params
    n, eye, none = len(b), np.eye(3), np.zeros((len(b), 3))
    past = np.block([[v, none], [np.eye(n), none], [none.T, eye]])
    return [
        (np.vstack([w, eye]).T, np.concatenate([b, -np.asarray(lo)])),
        (past.T, np.concatenate([c, np.zeros(n + 3)])),
        (np.hstack([u, u, eye]).T, e + np.asarray(lo)),
    ]


def random_network(sizes: Sequence[int], seed: int) -> list[tuple[Any, Any]]:
    """Returns parameters of `relu_network`, float32 numbers in float64 arrays."""
    rng = np.random.default_rng(seed)
    return [
        (exact32(rng.normal(size=(n, m))), exact32(rng.normal(size=n) * 0.5))
        for m, n in itertools.pairwise(sizes)
    ]


def _seed(name: str) -> int:
    return sum(ord(c) * (i + 1) for i, c in enumerate(name))


def wrap(
    name: str,
    operation: Callable[[Any, Any], Any],
    low: float = -2.0,
    high: float = 2.0,
    **flags: bool,
) -> Case:
    """Returns W2 operation(params, m + W1 x) + b2 with m + W1 x inside [low, high]."""
    rng = np.random.default_rng(_seed(name))
    half = (high - low) / 2
    first = rng.uniform(-1, 1, (WIDTH, INPUTS))
    first *= half / np.abs(first).sum(axis=1, keepdims=True)
    params = {
        "w1": exact32(first * (1 - 1e-6)),
        "b1": exact32(np.full(WIDTH, (high + low) / 2)),
        "v": exact32(rng.normal(size=WIDTH)),
        "mask": np.arange(WIDTH) % 2 == 0,
        "index": np.int32(2),
    }
    size = jax.eval_shape(operation, params, jnp.zeros(WIDTH)).size
    params["w2"] = exact32(rng.normal(size=(OUTPUTS, size)))
    params["b2"] = exact32(rng.normal(size=OUTPUTS))

    def f(p: Any, x: Any) -> Any:
        z = p["w1"] @ x + p["b1"]
        return p["w2"] @ operation(p, z).reshape(-1) + p["b2"]

    return Case(name, f, params, (INPUTS,), **flags)


def image(name: str, operation: Callable[[Any, Any], Any], **flags: bool) -> Case:
    """Returns W2 operation(params, x) + b2 for images of shape (5, 4, 2)."""
    rng = np.random.default_rng(_seed(name))
    params = {
        "kernel": exact32(rng.normal(size=(3, 3, 2, 4)) / 2),
        "grouped": exact32(rng.normal(size=(3, 2, 1, 4)) / 2),
        "bias": exact32(rng.normal(size=4)),
        "mean": exact32(rng.normal(size=4)),
        "var": exact32(rng.uniform(0.2, 2, size=4)),
    }
    size = jax.eval_shape(operation, params, jnp.zeros((5, 4, 2))).size
    params["w2"] = exact32(rng.normal(size=(OUTPUTS, size)))
    params["b2"] = exact32(rng.normal(size=OUTPUTS))

    def f(p: Any, x: Any) -> Any:
        return p["w2"] @ operation(p, x).reshape(-1) + p["b2"]

    return Case(name, f, params, (5, 4, 2), **flags)


def _elementwise(name: str, g: Callable, *span: float, **flags: bool) -> Case:
    return wrap(name, lambda p, z: g(z), *span, **flags)


ACTIVATIONS: dict[str, tuple[Any, ...]] = {
    "relu": (jax.nn.relu,),
    "relu_where": (lambda z: jnp.where(z > 0, z, 0),),
    "relu6": (jax.nn.relu6, -2, 9),
    "leaky_relu": (jax.nn.leaky_relu,),
    "leaky_half": (lambda z: jax.nn.leaky_relu(z, 0.5),),
    "leaky_above_one": (lambda z: jax.nn.leaky_relu(z, 1.75),),
    "leaky_negative": (lambda z: jax.nn.leaky_relu(z, -0.25),),
    "elu": (jax.nn.elu, -3, 2),
    "elu_alpha": (lambda z: jax.nn.elu(z, 0.5), -3, 2),
    "elu_negative_alpha": (lambda z: jax.nn.elu(z, -0.5), -3, 2),
    "selu": (jax.nn.selu, -3, 2),
    "celu": (jax.nn.celu, -3, 2),
    "hard_tanh": (jax.nn.hard_tanh,),
    "hard_sigmoid": (jax.nn.hard_sigmoid, -5, 5),
    "hard_swish": (jax.nn.hard_swish, -5, 5),
    "clip": (lambda z: jnp.clip(z, -0.5, 0.75),),
    "clamp": (lambda z: lax.clamp(-0.5, z, 0.75),),
    "tanh": (jnp.tanh,),
    "tanh_wide": (jnp.tanh, -25, 25),
    "logistic": (jax.nn.sigmoid, -5, 5),
    "log_sigmoid": (jax.nn.log_sigmoid, -4, 4),
    "exp": (jnp.exp,),
    "exp2": (jnp.exp2,),
    "expm1": (jnp.expm1,),
    "log": (jnp.log, 0.125, 3),
    "log1p": (jnp.log1p, -0.75, 2),
    "sqrt": (jnp.sqrt, 0.0625, 3),
    "rsqrt": (lax.rsqrt, 0.25, 3),
    "square": (jnp.square,),
    "x_times_x": (lambda z: z * z,),
    "integer_pow_3": (lambda z: z**3,),
    "integer_pow_4": (lambda z: z**4,),
    "integer_pow_5": (lambda z: z**5,),
    "integer_pow_-1": (lambda z: z**-1, 0.25, 2),
    "integer_pow_-2": (lambda z: z**-2, -2, -0.25),
    "pow_whole": (lambda z: lax.pow(z, 3.0),),
    "pow_half": (lambda z: lax.pow(z, 0.5), 0.125, 2),
    "pow_1.5": (lambda z: lax.pow(z, 1.5), 0.125, 2),
    "pow_-0.75": (lambda z: lax.pow(z, -0.75), 0.25, 2),
    "softplus": (jax.nn.softplus, -4, 4),
    "squareplus": (jax.nn.squareplus,),
    "soft_sign": (jax.nn.soft_sign,),
    "gelu_erf": (lambda z: jax.nn.gelu(z, approximate=False), -4, 3),
    "gelu_tanh": (lambda z: jax.nn.gelu(z, approximate=True), -4, 3),
    "silu": (jax.nn.silu, -5, 4),
    "mish": (jax.nn.mish, -3, 2),
    "erf": (lax.erf,),
    "erfc": (lax.erfc,),
    "sin": (jnp.sin, -4, 4),
    "cos": (jnp.cos, -4, 4),
    "abs": (jnp.abs,),
    "neg": (lambda z: -z,),
    "sign": (jnp.sign,),
    "floor": (lambda z: jnp.floor(2 * z),),
    "ceil": (lambda z: jnp.ceil(2 * z),),
    "round": (lambda z: jnp.round(2 * z),),
    "divide_by_constant": (lambda z: z / -3.0,),
    "constant_by_x": (lambda z: -2.0 / z, 0.25, 2),
    "constant_by_negative_x": (lambda z: 2.0 / z, -2, -0.25),
    "where_shifted": (lambda z: jnp.where(z > 0.125, z, 0),),
    "where_two_branches": (lambda z: jnp.where(z < 0.25, z * z, 1 - z),),
    "greater_as_number": (lambda z: (z > 0.25).astype(z.dtype) * z,),
    "less_equal": (lambda z: jnp.where(z <= 0.25, 1.0, -1.0) + 0 * z,),
    "equal": (lambda z: jnp.where(z == 0.25, 5.0, z),),
    "not_equal": (lambda z: jnp.where(z != 0.25, z, -5.0),),
    "logical": (lambda z: jnp.where(((z > -1) & (z < 1)) | ~(z < 1.5), z, -z),),
    "max_constant": (lambda z: jnp.maximum(z, 0.5),),
    "min_constant": (lambda z: jnp.minimum(z, 0.5),),
    "max_minus_infinity": (lambda z: jnp.maximum(z, -jnp.inf),),
    "min_infinity": (lambda z: jnp.minimum(jnp.inf, z),),
    "cast": (lambda z: z.astype(jnp.float32).astype(z.dtype),),
}
_LATTICE = {"silu", "gelu_erf", "gelu_tanh", "mish", "sin", "cos"}

_half = jax.custom_jvp(lambda z: z / 2 + jnp.tanh(z))
_half.defjvp(lambda p, t: (_half(*p), t[0]))


@jax.custom_vjp
def _double(z: Any) -> Any:
    return 2 * z * jnp.tanh(z)


_double.defvjp(lambda z: (_double(z), None), lambda _, g: (g,))


def _normalised(p: Any, z: Any) -> Any:
    """Weight normalisation, a loop and a sort: computations on params alone."""
    unit = p["v"] / jnp.linalg.norm(p["v"])
    total, _ = lax.scan(lambda c, v: (c + v * v, None), 0 * p["v"][0], p["v"])
    ranked = jnp.sort(p["v"]) + lax.cond(p["index"] > 1, jnp.sin, jnp.cos, p["v"])
    return z * unit + total + ranked


def _layer_norm(p: Any, z: Any) -> Any:
    centred = z - z.mean()
    return centred * lax.rsqrt((centred * centred).mean() + 0.5)


STRUCTURES: dict[str, tuple[Any, ...]] = {
    "reshape_transpose": (lambda p, z: jnp.tanh(z.reshape(2, 3)).T * p["v"][:2],),
    "reduce_sum": (lambda p, z: jax.nn.relu(z).reshape(2, 3).sum(axis=0),),
    "reduce_max": (lambda p, z: z.reshape(2, 3).max(axis=0),),
    "reduce_max_odd": (lambda p, z: z[:5].max()[None],),
    "reduce_min": (lambda p, z: z.reshape(2, 3).min(axis=1),),
    "max_of_two": (lambda p, z: jnp.maximum(z[:3], z[3:]),),
    "min_of_two": (lambda p, z: jnp.minimum(z[:3], z[3:] ** 2),),
    "max_with_params": (lambda p, z: jnp.maximum(z, p["v"]),),
    "min_with_params": (lambda p, z: jnp.minimum(p["v"], z),),
    "clip_with_params": (lambda p, z: jnp.clip(z, -(p["v"] ** 2), 0.5),),
    "broadcast_squeeze": (
        lambda p, z: jnp.squeeze(jnp.broadcast_to(z[None, :, None], (1, 6, 2)), 0),
    ),
    "broadcast_in_sum": (lambda p, z: z[:, None] + z[None, :3],),
    "concatenate": (lambda p, z: jnp.concatenate([z[:2], p["v"], z, -z]),),
    "stack": (lambda p, z: jnp.stack([z, -z, p["v"]], axis=1),),
    "tile_repeat_roll": (lambda p, z: jnp.tile(z, 2) + jnp.roll(jnp.repeat(z, 2), 1),),
    "slice_strided": (lambda p, z: z[::2] * z[1::2],),
    "slice_negative": (lambda p, z: z[::-1] + 2 * z[-1:] - z[4:5],),
    "slice_backwards": (lambda p, z: jnp.tanh(z[4:0:-2]),),
    "pad": (lambda p, z: jnp.pad(z, (1, 2), constant_values=1.5),),
    "pad_interior_negative": (lambda p, z: lax.pad(z, 0.5, [(-1, 2, 1)]),),
    "pad_reflect": (lambda p, z: jnp.pad(z, (2, 2), mode="reflect"),),
    "gather": (lambda p, z: z[jnp.array([0, 3, 3, 1, -1])],),
    "gather_fill": (
        lambda p, z: z.at[jnp.array([0, 9])].get(mode="fill", fill_value=-5.0),
    ),
    "gather_clip": (lambda p, z: jnp.take(z, jnp.array([1, 77]), mode="clip"),),
    "dynamic_slice": (lambda p, z: lax.dynamic_slice(z, (p["index"],), (3,)),),
    "dynamic_index": (lambda p, z: z[p["index"]] * z,),
    "dynamic_update_slice": (
        lambda p, z: lax.dynamic_update_slice(p["v"], z[:2], (p["index"],)),
    ),
    "split": (lambda p, z: jnp.split(z, 3)[0] - 2 * jnp.split(z, 3)[2],),
    "select_constant": (lambda p, z: lax.select_n(p["mask"], z, p["v"]),),
    "where_mask_of_two": (lambda p, z: jnp.where(p["mask"], z, jnp.square(z)),),
    "where_both_move": (lambda p, z: jnp.where(z > z[::-1], z, 2 * z),),
    "cumsum": (lambda p, z: jnp.cumsum(jnp.abs(z)) - lax.cumsum(z, reverse=True),),
    "sort": (lambda p, z: jnp.sort(z) * p["v"] + lax.cummax(z, reverse=True),),
    "median_and_top": (
        lambda p, z: jnp.append(jnp.median(z), lax.top_k(z * p["v"], 2)[0]),
    ),
    "loops": (lambda p, z: _loops(p, z),),
    "branches": (
        lambda p, z: (
            lax.cond(z[0] > 0.25, lambda v: v + v[0], lambda v: 2 * v, z)
            + lax.switch(p["index"], [jnp.sin, jnp.cos, lambda v: v * p["v"]], z)
        ),
    ),
    "two_perturbed_dot": (lambda p, z: z.reshape(2, 3) @ z.reshape(3, 2),),
    "two_perturbed_batched": (
        lambda p, z: jnp.einsum("bij,bkj->bki", *[z.reshape(2, 1, 3)] * 2),
    ),
    "inner_product": (lambda p, z: jnp.dot(z, jnp.tanh(z))[None],),
    "product_of_two": (lambda p, z: z[:3] * z[3:],),
    "scalar_product": (lambda p, z: z[0] * z[1:],),
    "quotient_of_two": (lambda p, z: z[:3] / (z[3:] + 3),),
    "add_sub_self": (lambda p, z: (z + z) - (z - z[::-1]),),
    "sub_constants": (lambda p, z: (1 - z) - p["v"] - (z - 2.0),),
    "residual": (lambda p, z: z + jax.nn.relu(z @ jnp.outer(p["v"], p["v"]) / 4),),
    "used_twice": (lambda p, z: jax.nn.relu(z) - 0.5 * jax.nn.relu(-z) + z,),
    "constant_output": (lambda p, z: 3 * p["v"],),
    "partly_constant": (lambda p, z: jnp.concatenate([p["v"], 0 * z]),),
    "params_only": (_normalised,),
    "jit_inside": (lambda p, z: jax.jit(lambda v: jnp.tanh(v) * p["v"])(z),),
    "custom_jvp_inside": (lambda p, z: _half(z),),
    "custom_vjp_inside": (lambda p, z: _double(z),),
    "remat_inside": (lambda p, z: jax.checkpoint(lambda v: jnp.sin(v) + v)(z),),
    "stop_gradient_inside": (lambda p, z: z * lax.stop_gradient(jnp.tanh(z)),),
    "nested_vmap": (lambda p, z: jax.vmap(lambda v: jnp.tanh(v) * p["v"])(z),),
    "mean_variance": (lambda p, z: jnp.stack([z.mean(), z.var()]),),
    "layer_norm": (_layer_norm,),
    "batch_norm": (
        lambda p, z: (z - p["v"]) * lax.rsqrt(p["v"] ** 2 + 1e-3) * 1.5 + p["v"],
    ),
    "softmax": (lambda p, z: jax.nn.softmax(z),),
    "log_softmax": (lambda p, z: jax.nn.log_softmax(z),),
    "attention": (lambda p, z: jax.nn.softmax(jnp.outer(z, p["v"])) @ z,),
    "norm": (lambda p, z: jnp.sqrt(jnp.sum(z * z) + 1.0)[None],),
    "deep_relu": (
        lambda p, z: jax.nn.relu(jax.nn.relu(z - p["v"]) @ jnp.ones((6, 6)) - z),
    ),
    "deep_smooth": (lambda p, z: jnp.tanh(jax.nn.softplus(z) * p["v"] - 1),),
}
_LATTICE_STRUCTURES = {"remat_inside", "branches"}


def _loops(p: Any, z: Any) -> Any:
    def round_of(carry: Any, row: Any) -> tuple[Any, Any]:
        return jax.nn.relu(carry - row) + z, carry * row

    last, made = lax.scan(round_of, z, jnp.stack([p["v"], z]), reverse=True)
    halved = lax.while_loop(
        lambda c: c[0] < 2, lambda c: (c[0] + 1, jax.nn.relu(c[1]) / 2), (0, last)
    )
    return made.sum(axis=0) + halved[1]


def _conv(kernel: str = "kernel", **settings: Any) -> Callable[[Any, Any], Any]:
    def operation(p: Any, x: Any) -> Any:
        out = lax.conv_general_dilated(
            x[None], p[kernel], dimension_numbers=("NHWC", "HWIO", "NHWC"), **settings
        )
        return jax.nn.relu(out + p["bias"])

    return operation


def _pool(reducer: Any, start: float, window: Any, strides: Any, padding: Any) -> Any:
    def operation(p: Any, x: Any) -> Any:
        dims, steps = (*window, 1), (*strides, 1)
        return lax.reduce_window(x, start, reducer, dims, steps, padding)

    return operation


def _average_same(p: Any, x: Any) -> Any:
    pool = _pool(lax.add, 0.0, (3, 3), (2, 2), "SAME")
    return pool(p, jnp.sin(x)) / pool(p, jnp.ones_like(x))


def _cnn(p: Any, x: Any) -> Any:
    z = _conv(window_strides=(1, 1), padding="SAME")(p, x)
    z = (z - p["mean"]) / jnp.sqrt(p["var"] + 1e-3)
    pooled = lax.reduce_window(
        z, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )
    return jax.nn.relu(pooled - 0.5)


IMAGES: dict[str, Callable[[Any, Any], Any]] = {
    "conv_same": _conv(window_strides=(1, 1), padding="SAME"),
    "conv_strided_valid": _conv(window_strides=(2, 1), padding="VALID"),
    "conv_uneven_padding": _conv(window_strides=(1, 2), padding=[(0, 2), (1, 0)]),
    "conv_grouped": _conv(
        "grouped", window_strides=(1, 1), padding="SAME", feature_group_count=2
    ),
    "conv_dilated": _conv(
        window_strides=(1, 1), padding=[(2, 2), (2, 2)], rhs_dilation=(2, 2)
    ),
    "conv_transposed": _conv(
        window_strides=(1, 1), padding=[(1, 1), (1, 1)], lhs_dilation=(2, 2)
    ),
    "max_pool": _pool(lax.max, -jnp.inf, (2, 2), (2, 2), "VALID"),
    "max_pool_overlapping_padded": _pool(lax.max, -jnp.inf, (2, 2), (1, 1), "SAME"),
    "max_pool_dense": _pool(
        lax.max, -jnp.inf, (2, 3), (1, 1), [(1, 0), (1, 2), (0, 0)]
    ),
    "average_pool": _pool(lax.add, 0.0, (2, 2), (2, 1), "VALID"),
    "average_pool_same": _average_same,
    "global_average": lambda p, x: jnp.abs(x).mean(axis=(0, 1)),
    "cnn": _cnn,
}

CASES: tuple[Case, ...] = (
    *(
        _elementwise(name, *definition, lattice=name in _LATTICE)
        for name, definition in ACTIVATIONS.items()
    ),
    *(
        wrap(name, *definition, lattice=name in _LATTICE_STRUCTURES)
        for name, definition in STRUCTURES.items()
    ),
    *(
        image(name, operation, lattice=name == "average_pool_same")
        for name, operation in IMAGES.items()
    ),
)
BY_NAME = {case.name: case for case in CASES}


def nested_boxes(case: Case, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns (lo, hi) of boxes inside [-1, 1]^d: five nested ones, and two others.

    The whole cube, half of it, thirds, narrow, a point; then a mixed box in which some
    features do not move, and one whose edges are only a few roundings wide.
    """
    rng = np.random.default_rng(seed + _seed(case.name))
    center = exact32(rng.uniform(-0.5, 0.5, case.shape))
    boxes = [(-np.ones(case.shape), np.ones(case.shape))]
    for radius in (0.5, 0.15, 0.01, 0.0):
        down, up = radius * rng.uniform(0.5, 1, (2, *case.shape))
        lo, hi = np.maximum(boxes[-1][0], center - down), center + up
        boxes.append((lo, np.minimum(boxes[-1][1], hi)))
    still = rng.random(case.shape) < 0.5
    boxes.append((center - 0.4 * still, center + 0.3 * still))
    boxes.append((center, center * (1 + 1e-15) + 1e-15))
    lo, hi = (np.stack(side) for side in zip(*boxes, strict=True))
    return np.minimum(lo, hi), np.maximum(lo, hi)


def points_of(lo: np.ndarray, hi: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Returns corners and points of boxes: shape (boxes, 2 count + 3, *d)."""
    rng = np.random.default_rng(seed)
    low, high = lo[:, None], hi[:, None]
    side = rng.random((1, count, *lo.shape[1:])) < 0.5
    inside = low + (high - low) * rng.random((1, count, *lo.shape[1:]))
    points = [np.where(side, low, high), inside, low, high, (low + high) / 2]
    return np.clip(np.concatenate(points, axis=1), low, high)


def sampled(values: Iterable[Any], keep: int = 1) -> list[Any]:
    """Returns parameters of a test, all but `keep` of them for `make test-all` alone.

    Those that are kept lie evenly in their order, the first one among them.
    """
    values = list(values)
    kept = {round(k * len(values) / keep) for k in range(keep)}
    return [
        value if k in kept else pytest.param(value, marks=pytest.mark.campaign)
        for k, value in enumerate(values)
    ]


def cancelling(seed: int, size: float):
    """Outputs -1 everywhere; a neuron z of no influence, and where z is just not 0.

    z is a sum of three terms of the given size that cancel but for 1e-8 of it.
    """
    rng = np.random.default_rng(seed)
    a, p = exact32(rng.uniform(1, 2, (2, 3)))
    a, p = size * a, p.copy()
    p[2] = exact32(-(p[0] * a[0] + p[1] * a[1]) / a[2])
    slope = sum(Fraction(u) * Fraction(v) for u, v in zip(p, a, strict=True))
    const = Fraction(float(exact32(-float(slope) / 2)))
    x = float(-const / slope)
    sign = 1 if slope * Fraction(x) + const >= 0 else -1
    params = [
        (np.stack([a, 0 * a], axis=1), np.zeros(3)),
        (np.stack([p, 0 * p]), np.array([float(const), 1.0])),
        (np.array([[1e-30, 1.0], [0, 0]]), np.array([-2.0, 0.0])),
    ]
    return params, np.array([x, 0.5]), sign
