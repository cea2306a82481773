"""Networks that several tools can be given: a graph of layers with plain weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert.errors import InputError, UnsupportedError
from jaxcert.learning.models import FlaxApply, load_network
from jaxcert.network import Network, content_hash
from studies.milp_reference.network import read_mlp

Kind = Literal["dense", "conv", "relu", "flatten", "add"]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One operation of a graph.

    Attributes:
      kind: what it does; "dense" takes a vector, "conv" (channels, height, width).
      inputs: numbers of the values it takes; 0 is the network's input and k the output
        of the k-th layer, from 1.
      stride, padding: of a convolution, the same in both directions.
    """

    kind: Kind
    inputs: tuple[int, ...]
    stride: int = 1
    padding: int = 0


@dataclasses.dataclass(frozen=True)
class Graph:
    """`apply(params, x)` of layers in topological order; the last one's is the output.

    `params` has one entry per layer: (weight, bias) as torch lays them out, (out, in)
    and (out, in, height, width), or () where a layer has none.
    """

    layers: tuple[Layer, ...]

    def __call__(self, params: Any, x: jax.Array) -> jax.Array:
        """Returns the logits of one input."""
        values = [x]
        for layer, weights in zip(self.layers, params, strict=True):
            operands = [values[i] for i in layer.inputs]
            values.append(_apply(layer, weights, operands))
        return values[-1]


def _apply(layer: Layer, weights: Any, operands: list[jax.Array]) -> jax.Array:
    first = operands[0]
    match layer.kind:
        case "dense":
            return weights[0] @ first + weights[1]
        case "conv":
            pads = [(layer.padding, layer.padding)] * 2
            strides = (layer.stride, layer.stride)
            out = jax.lax.conv_general_dilated(first[None], weights[0], strides, pads)
            return out[0] + weights[1][:, None, None]
        case "relu":
            return jnp.maximum(first, 0)
        case "flatten":
            return first.reshape(-1)
        case "add":
            return first + operands[1]


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A network to measure; `network.apply` is a Graph."""

    network: Network

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.network.name

    @property
    def graph(self) -> Graph:
        """Its layers."""
        return self.network.apply  # type: ignore[return-value]


class Builder:
    """Collects layers, by default each on top of the one before."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.layers: list[Layer] = []
        self.params: list[Any] = []

    def append(
        self,
        kind: Kind,
        weights: tuple[np.ndarray, ...] = (),
        inputs: tuple[int, ...] | None = None,
        **options: int,
    ) -> int:
        """Adds a layer and returns the number of its value."""
        inputs = (len(self.layers),) if inputs is None else inputs
        self.layers.append(Layer(kind, inputs, **options))
        self.params.append(tuple(np.asarray(w, np.float32) for w in weights))
        return len(self.layers)

    def dense(self, inputs: int, outputs: int) -> int:
        """Adds a random dense layer (He initialisation, small random biases)."""
        return self.append("dense", self._random((outputs, inputs)))

    def conv(
        self, shape: tuple[int, int, int, int], stride: int, source: int | None = None
    ) -> int:
        """Adds a random convolution, shape (out, in, k, k), that keeps or strides."""
        inputs = None if source is None else (source,)
        padding = (shape[-1] - 1) // 2
        weights = self._random(shape)
        return self.append("conv", weights, inputs, stride=stride, padding=padding)

    def _random(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        fan_in = math.prod(shape[1:])
        weight = self.random.normal(size=shape) * math.sqrt(2 / fan_in)
        return weight, 0.1 * self.random.normal(size=shape[0])

    def build(self, name: str, input_shape: tuple[int, ...]) -> Subject:
        """Returns the network."""
        graph, params = Graph(tuple(self.layers)), tuple(self.params)
        (outputs,) = jax.eval_shape(graph, params, np.zeros(input_shape)).shape
        digest = content_hash(repr(graph), params)
        return Subject(Network(graph, params, input_shape, outputs, name, digest))


def random_mlp(widths: Sequence[int], name: str, seed: int = 0) -> Subject:
    """Returns a random ReLU network of these widths, inputs and outputs included."""
    builder = Builder(seed)
    for index, pair in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        if index:
            builder.append("relu")
        builder.dense(*pair)
    return builder.build(name, (widths[0],))


def random_cnn(seed: int = 0) -> Subject:
    """Returns 1x28x28, two convolutions of stride 2 (8, 16), 64 neurons, 10 classes."""
    builder = Builder(seed)
    builder.conv((8, 1, 4, 4), 2)
    builder.append("relu")
    builder.conv((16, 8, 4, 4), 2)
    builder.append("relu")
    builder.append("flatten")
    builder.dense(16 * 7 * 7, 64)
    builder.append("relu")
    builder.dense(64, 10)
    return builder.build("cnn", (1, 28, 28))


def random_resnet(seed: int = 0) -> Subject:
    """Returns 1x28x28, a strided convolution and two residual blocks of 8 channels."""
    builder = Builder(seed)
    builder.conv((8, 1, 3, 3), 2)
    builder.append("relu")
    before = builder.conv((8, 8, 3, 3), 2)
    before = builder.append("relu")
    for _ in range(2):
        builder.conv((8, 8, 3, 3), 1, before)
        builder.append("relu")
        after = builder.conv((8, 8, 3, 3), 1)
        builder.append("add", inputs=(before, after))
        before = builder.append("relu")
    builder.append("flatten")
    builder.dense(8 * 7 * 7, 10)
    return builder.build("resnet", (1, 28, 28))


def standard(name: str) -> Subject:
    """Returns one of the networks in STANDARD, with random weights."""
    match name:
        case "784-32-10":
            return random_mlp((784, 32, 10), name)
        case "256x2" | "256x4" | "256x6":
            return random_mlp((784, *[256] * int(name[-1]), 10), name)
        case "cnn":
            return random_cnn()
        case "resnet":
            return random_resnet()
    raise InputError(f"unknown network {name!r}; known: {', '.join(STANDARD)}")


STANDARD = ("784-32-10", "256x2", "256x4", "256x6", "cnn", "resnet")


def load(path: str) -> Subject:
    """Returns the network of a file, if every tool can be given it.

    That is an ONNX file of dense layers and ReLUs, or a checkpoint without pooling and
    batch norm.

    Raises:
      InputError, UnsupportedError: no such file, or another kind of network.
    """
    if not path.endswith(".npz"):
        name = Path(path).name.removesuffix(".gz").removesuffix(".onnx")
        if not Path(path).is_file():
            raise InputError(f"there is no file {path}: check the path")
        return _from_layers(read_mlp(path).layers, name)
    network = load_network(path)
    if not isinstance(network.apply, FlaxApply):
        raise UnsupportedError(f"{path} has no architecture to give to other tools")
    architecture = network.apply.architecture
    if architecture.pool != "none" or architecture.batch_norm:
        raise UnsupportedError(
            f"{path} has pooling or batch norm, which the baselines do not take: train "
            "a network without them"
        )
    params = jax.tree.map(np.asarray, network.params)
    dense = [params["head"]["layers"][i] for i in range(len(architecture.hidden) + 1)]
    builder = Builder()
    shape: tuple[int, ...] = (math.prod(network.input_shape),)
    if architecture.kind == "cnn":
        shape = (network.input_shape[2], *network.input_shape[:2])
        dense = _convolutions(builder, architecture, params, dense)
    for index, weights in enumerate(dense):
        if index:
            builder.append("relu")
        builder.append("dense", (weights["kernel"].T, weights["bias"]))
    return builder.build(network.name, shape)


def _from_layers(layers: Sequence[tuple[np.ndarray, np.ndarray]], name: str) -> Subject:
    builder = Builder()
    for index, weights in enumerate(layers):
        if index:
            builder.append("relu")
        builder.append("dense", weights)
    return builder.build(name, (layers[0][0].shape[1],))


def _convolutions(
    builder: Builder, architecture: Any, params: Any, dense: list[Any]
) -> list[Any]:
    """Adds a checkpoint's convolutions; returns its dense layers for channels first."""
    size = architecture.input_shape[0]
    for index, stride in enumerate(architecture.conv_strides):
        weights, kernel = params["convolutions"][index], architecture.kernel
        padding = 0
        if architecture.padding == "SAME":
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding, odd = divmod(total, 2)
            square = architecture.input_shape[0] == architecture.input_shape[1]
            if odd or not square:
                raise UnsupportedError(
                    "the baselines take convolutions of symmetric padding alone: "
                    "train with --padding=VALID"
                )
        pair = weights["kernel"].transpose(3, 2, 0, 1), weights["bias"]
        builder.append("conv", pair, stride=stride, padding=padding)
        builder.append("relu")
        size = (size + 2 * padding - kernel) // stride + 1
    builder.append("flatten")
    height, width, channels = architecture.feature_shape
    kernel = dense[0]["kernel"].reshape(height, width, channels, -1)
    kernel = kernel.transpose(2, 0, 1, 3).reshape(height * width * channels, -1)
    return [{**dense[0], "kernel": kernel}, *dense[1:]]
