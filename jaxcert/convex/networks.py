"""Input-convex networks in Flax NNX, and the projection that keeps them convex.

A network is convex in its input when every path from a ReLU to the output has
non-negative weights: sums and non-negative multiples of convex functions are convex,
and so is the ReLU of one, for it is convex and does not decrease (Amos et al. 2017).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxcert.errors import InputError
from jaxcert.learning.checkpoint import by_path

NORM_EPSILON = 2.0**-16
"""Added to the variance of every batch norm; exact in float32."""

LEAST_SCALE = float(np.float32(1e-3))
"""The least scale of a batch norm behind a ReLU."""

Activate = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class ConvexArchitecture:
    """The shape of an input-convex network.

    Attributes:
      kind: "mlp" or "cnn".
      feature_shape: shape of one input of the network, that is, of phi(x); (h, w, c)
        for a cnn.
      hidden: widths of the hidden layers (mlp).
      channels: channels of every convolution (cnn).
      depth: number of convolutions, the free first one included (cnn).
      first_kernel: side of the first kernel (cnn); the others have side 3.
    """

    kind: Literal["mlp", "cnn"]
    feature_shape: tuple[int, ...]
    hidden: tuple[int, ...] = (200, 50)
    channels: int = 4
    depth: int = 2
    first_kernel: int = 5

    def __post_init__(self) -> None:
        if self.kind not in ("mlp", "cnn"):
            raise InputError(f"unknown kind {self.kind!r} of convex network: mlp, cnn")
        for field in ("feature_shape", "hidden"):
            numbers = tuple(getattr(self, field))
            object.__setattr__(self, field, numbers)
            if not numbers or not all(isinstance(n, int) and n > 0 for n in numbers):
                raise InputError(f"convex network: {field} must be integers above 0")
        for field in ("channels", "depth", "first_kernel"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"convex network: {field} must be an integer above 0")
        if self.kind == "cnn" and len(self.feature_shape) != 3:
            raise InputError(
                f"a convex cnn takes features (h, w, c), not {self.feature_shape}"
            )

    @staticmethod
    def from_dict(values: Any) -> ConvexArchitecture:
        """Returns the architecture of a mapping, such as JSON gives it.

        Raises:
          InputError: another set of keys, or values that are none of an architecture.
        """
        names = {field.name for field in dataclasses.fields(ConvexArchitecture)}
        if not isinstance(values, dict) or set(values) != names:
            raise InputError(
                f"a convex architecture has the keys {', '.join(sorted(names))}"
            )
        try:
            return ConvexArchitecture(**values)
        except TypeError as error:
            raise InputError(f"malformed convex architecture: {error}") from error


class ConvexMLP(nnx.Module):
    """An input-convex MLP with passthrough; takes (..., *feature_shape).

    z_1 = BN(ReLU(W_1 x)), z_{k+1} = BN(ReLU(W_k z_k + V_k x)), g = w z + v x: W_1 and
    all V are free, every other W and every scale is non-negative. The batch norms have
    one mean, variance, scale and bias for the whole layer.
    """

    def __init__(self, architecture: ConvexArchitecture, *, rngs: nnx.Rngs) -> None:
        """Makes the layers feature size -> hidden[0] -> ... -> hidden[-1] -> 1."""
        flat = math.prod(architecture.feature_shape)
        widths = (*architecture.hidden, 1)
        self.axes = len(architecture.feature_shape)
        self.first = nnx.Linear(flat, widths[0], rngs=rngs)
        self.monotone = nnx.List(
            [
                nnx.Linear(
                    n,
                    m,
                    use_bias=False,
                    kernel_init=nnx.initializers.uniform(0.003),
                    rngs=rngs,
                )
                for n, m in zip(widths[:-1], widths[1:], strict=True)
            ]
        )
        self.passthrough = nnx.List(
            [nnx.Linear(flat, m, rngs=rngs) for m in widths[1:]]
        )
        self.norms = nnx.List([_norm(1, rngs) for _ in architecture.hidden])

    def __call__(
        self, x: Float[Array, "*n"], activate: Activate = jax.nn.relu
    ) -> Float[Array, "*b"]:
        """Returns g(x) without a class axis; `activate` stands in for every ReLU."""
        x = x.reshape(*x.shape[: x.ndim - self.axes], -1)
        z = self.first(x)
        for index, layer in enumerate(self.monotone):
            z = self.norms[index](activate(z)[..., None])[..., 0]
            z = layer(z) + self.passthrough[index](x)
        return z[..., 0]


class ConvexCNN(nnx.Module):
    """An input-convex ConvNet; takes (..., h, w, c).

    z_1 = ReLU(conv(BN(x))), z_{k+1} = ReLU(conv(BN z_k) + BN z_k), g = w BN(z): the
    first convolution is free, every later kernel, w and every later scale is
    non-negative.
    """

    def __init__(self, architecture: ConvexArchitecture, *, rngs: nnx.Rngs) -> None:
        """Makes the convolutions, all of `channels` channels and equal size."""
        height, width, depth = architecture.feature_shape
        channels = architecture.channels
        side = architecture.first_kernel
        self.input_norm = _norm(depth, rngs)
        self.first = nnx.Conv(depth, channels, (side, side), rngs=rngs)
        blocks = architecture.depth - 1
        self.monotone = nnx.List(
            [
                nnx.Conv(
                    channels,
                    channels,
                    (3, 3),
                    kernel_init=nnx.initializers.uniform(0.005),
                    rngs=rngs,
                )
                for _ in range(blocks)
            ]
        )
        self.norms = nnx.List([_norm(channels, rngs) for _ in range(blocks + 1)])
        self.readout = nnx.Linear(
            height * width * channels,
            1,
            kernel_init=nnx.initializers.uniform(0.003),
            rngs=rngs,
        )

    def __call__(
        self, x: Float[Array, "*b h w c"], activate: Activate = jax.nn.relu
    ) -> Float[Array, "*b"]:
        """Returns g(x) without a class axis; `activate` stands in for every ReLU."""
        z = activate(self.first(self.input_norm(x)))
        for index, convolution in enumerate(self.monotone):
            z = self.norms[index](z)
            z = activate(convolution(z) + z)
        z = self.norms[-1](z)
        return self.readout(z.reshape(*z.shape[:-3], -1))[..., 0]


def _norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(features, momentum=0.9, epsilon=NORM_EPSILON, rngs=rngs)


def build(architecture: ConvexArchitecture, rngs: nnx.Rngs) -> nnx.Module:
    """Returns a fresh network, in training mode: it maps (*batch, ...) to (*batch)."""
    maker = ConvexMLP if architecture.kind == "mlp" else ConvexCNN
    return maker(architecture, rngs=rngs)


@functools.lru_cache(maxsize=64)
def skeleton(
    architecture: ConvexArchitecture, training: bool = False
) -> tuple[nnx.GraphDef, dict]:
    """Returns the graph of a network and the shapes of its parameters."""
    model = nnx.eval_shape(lambda: build(architecture, nnx.Rngs(0)))
    if not training:
        model.eval()
    graph, state = nnx.split(model)
    return graph, nnx.to_pure_dict(state)


def apply(
    architecture: ConvexArchitecture,
    params: Any,
    z: Float[Array, "*m"],
    activate: Activate = jax.nn.relu,
) -> Float[Array, "*b"]:
    """Returns g of one or many feature arrays, in evaluation mode."""
    graph, _ = skeleton(architecture)
    return nnx.merge(graph, params)(z, activate)


def least_allowed(path: str) -> float | None:
    """Returns the least value that keeps the network convex; None where it is free."""
    name = path.split("/")
    if name[0] == "norms" and name[-1] == "scale":
        return LEAST_SCALE
    if name[0] in ("monotone", "readout") and name[-1] == "kernel":
        return 0.0
    return None


def project(params: Any) -> Any:
    """Returns the nearest parameters of a convex network: what is too small is raised.

    To be called after every optimizer step.
    """

    def clamp(keys: Any, leaf: Array) -> Array:
        least = least_allowed("/".join(str(key.key) for key in keys))
        return leaf if least is None else jnp.maximum(leaf, least)

    return jax.tree_util.tree_map_with_path(clamp, params)


def check_convex(params: Any, name: str) -> None:
    """Raises InputError unless the parameters make a convex network.

    Args:
      params: of a network of this module.
      name: what the message calls it.
    """
    for path, array in by_path(params).items():
        least, found = least_allowed(path), float(np.min(np.asarray(array), initial=0))
        if least is not None and found < 0:
            raise InputError(
                f"{name}: array {path} holds {found:.4g}, so the network is not convex "
                "and nothing can be certified about it: call jaxcert.convex.project "
                "after every training step"
            )
        if path.split("/")[-1] == "var" and found < 0:
            raise InputError(
                f"{name}: array {path} holds the variance {found:.4g}, which no batch "
                "has: train the network again or load another"
            )
