"""Flax NNX networks, their checkpoints, and the way from a file to a Network."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxcert.errors import InputError
from jaxcert.learning.architecture import Architecture
from jaxcert.learning.checkpoint import (
    Format,
    Header,
    check_hash,
    check_params,
    read_checkpoint,
    write_checkpoint,
)
from jaxcert.network import Network, content_hash

_FORMAT = Format("jaxcert checkpoint", 1)
# Exact in float32, so that the float32 and the float64 network are the same function.
_NORM_EPSILON = 2.0**-16


class MLP(nnx.Module):
    """Dense layers with ReLU between them; takes (..., features)."""

    def __init__(
        self,
        features: tuple[int, ...],
        *,
        batch_norm: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        """Makes the layers features[0] -> features[1] -> ... -> features[-1]."""
        pairs = list(zip(features[:-1], features[1:], strict=True))
        self.layers = nnx.List([nnx.Linear(n, m, rngs=rngs) for n, m in pairs])
        self.norms = _norms(features[1:-1], batch_norm, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits, shape (..., features[-1])."""
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index < len(self.layers) - 1:
                x = nnx.relu(self.norms[index](x) if self.norms else x)
        return x


class CNN(nnx.Module):
    """Convolution blocks and dense layers; takes (..., h, w, c)."""

    def __init__(self, architecture: Architecture, *, rngs: nnx.Rngs) -> None:
        """Makes the layers of an architecture of kind "cnn"."""
        channels = (architecture.input_shape[-1], *architecture.channels)
        self.convolutions = nnx.List(
            [
                nnx.Conv(
                    channels[i],
                    channels[i + 1],
                    (architecture.kernel, architecture.kernel),
                    strides=stride,
                    padding=architecture.padding,
                    rngs=rngs,
                )
                for i, stride in enumerate(architecture.conv_strides)
            ]
        )
        self.norms = _norms(channels[1:], architecture.batch_norm, rngs)
        self.pool = architecture.pool
        flat = math.prod(architecture.feature_shape)
        self.head = MLP(
            (flat, *architecture.hidden, architecture.num_classes),
            batch_norm=architecture.batch_norm,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits, shape (..., num_classes)."""
        for index, convolution in enumerate(self.convolutions):
            x = convolution(x)
            x = nnx.relu(self.norms[index](x) if self.norms else x)
            if self.pool == "max":
                x = nnx.max_pool(x, (2, 2), strides=(2, 2))
            elif self.pool == "avg":
                x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
        return self.head(x.reshape(*x.shape[:-3], -1))


class _Flat(nnx.Module):
    """An MLP that takes inputs of any shape."""

    def __init__(self, architecture: Architecture, *, rngs: nnx.Rngs) -> None:
        self.axes = len(architecture.input_shape)
        flat = math.prod(architecture.input_shape)
        self.head = MLP(
            (flat, *architecture.hidden, architecture.num_classes),
            batch_norm=architecture.batch_norm,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(x.reshape(*x.shape[: x.ndim - self.axes], -1))


def _norms(widths: tuple[int, ...], wanted: bool, rngs: nnx.Rngs) -> nnx.List:
    if not wanted:
        return nnx.List([])
    return nnx.List(
        [
            nnx.BatchNorm(n, momentum=0.9, epsilon=_NORM_EPSILON, rngs=rngs)
            for n in widths
        ]
    )


def build(architecture: Architecture, rngs: nnx.Rngs) -> nnx.Module:
    """Returns a fresh network, in training mode.

    It takes inputs of shape (*batch, *input_shape) and gives logits of shape
    (*batch, num_classes).
    """
    maker = CNN if architecture.kind == "cnn" else _Flat
    return maker(architecture, rngs=rngs)


@functools.lru_cache(maxsize=64)
def _skeleton(architecture: Architecture) -> tuple[nnx.GraphDef, dict]:
    """Returns the graph in evaluation mode and the shapes of its parameters."""
    model = nnx.eval_shape(lambda: build(architecture, nnx.Rngs(0)))
    model.eval()
    graph, state = nnx.split(model)
    return graph, nnx.to_pure_dict(state)


@dataclasses.dataclass(frozen=True)
class FlaxApply:
    """The function `apply(params, x)` of every network of one architecture.

    Attributes:
      architecture: what is applied; two of equal architecture are equal.
    """

    architecture: Architecture

    def __call__(self, params: Any, x: jax.Array) -> jax.Array:
        """Returns the logits (num_classes,) of one input, in evaluation mode."""
        graph, _ = _skeleton(self.architecture)
        return nnx.merge(graph, params)(x)


def to_network(model: nnx.Module, architecture: Architecture, name: str) -> Network:
    """Returns the network of a model in evaluation mode: a snapshot of its weights.

    Args:
      model: what `build(architecture, ...)` made, trained since.
      architecture: its architecture.
      name: what to call it.

    Raises:
      InputError: a model of another architecture, or a weight that is not finite.
    """
    params = nnx.to_pure_dict(nnx.state(model))
    return from_params(params, architecture, name)


def from_params(params: Any, architecture: Architecture, name: str) -> Network:
    """Returns the network of a nested dictionary of weights, as float32.

    Raises:
      InputError: an array is missing, too many, of another shape, or not finite.
    """
    arrays = check_params(params, _skeleton(architecture)[1], name)
    return Network(
        FlaxApply(architecture),
        arrays,
        architecture.input_shape,
        architecture.num_classes,
        name,
        content_hash(architecture.to_json(), arrays),
    )


def save_checkpoint(
    path: str | os.PathLike[str],
    network: Network,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Writes a network of this module to one `.npz` file that holds no code.

    The file has a JSON header (format, version, architecture, name, content hash,
    metadata) and the weights by path. It is written atomically.

    Args:
      path: file to write; must end in .npz.
      network: from `to_network`, `load_checkpoint` or `jaxcert.learning.train`.
      metadata: anything that JSON can hold, such as the training configuration.

    Raises:
      InputError: a network that no Architecture describes, another suffix, metadata
        that JSON cannot hold, or a place that cannot be written.
    """
    header = {
        "architecture": dataclasses.asdict(_architecture_of(network)),
        "name": network.name,
        "content_hash": network.content_hash,
        "metadata": metadata or {},
    }
    write_checkpoint(Path(path), _FORMAT, header, network.params)


def _architecture_of(network: Network) -> Architecture:
    if not isinstance(network.apply, FlaxApply):
        raise InputError(
            f"{network.name}: only networks built from a jaxcert Architecture can be "
            "written"
        )
    return network.apply.architecture


def load_checkpoint(path: str | os.PathLike[str]) -> Network:
    """Returns the network of a checkpoint, after its content hash was compared.

    Raises:
      InputError: missing, truncated or no checkpoint; another format version; an array
        that is missing, of another shape or not finite; another content hash.
    """
    header, params = read_checkpoint(Path(path), _FORMAT, _shapes)
    architecture = Architecture.from_dict(header["architecture"])
    try:
        network = from_params(params, architecture, str(header.get("name") or path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    check_hash(path, header, network.content_hash)
    return network


def checkpoint_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the metadata that a checkpoint was saved with.

    Raises:
      InputError: as `load_checkpoint`, but for the weights' values and their hash.
    """
    return read_checkpoint(Path(path), _FORMAT, _shapes)[0].get("metadata", {})


def _shapes(header: Header) -> dict:
    return _skeleton(Architecture.from_dict(header.get("architecture")))[1]


def load_network(path: str | os.PathLike[str]) -> Network:
    """Returns the network of a file: `.onnx`, `.onnx.gz`, or a `.npz` checkpoint.

    Raises:
      InputError: another suffix, or a file that the reader of its kind rejects.
    """
    name = Path(path).name
    if name.endswith((".onnx", ".onnx.gz")):
        from jaxcert.interop.onnx import load_onnx

        return load_onnx(path)
    if name.endswith(".npz"):
        return load_checkpoint(path)
    raise InputError(f"{path}: a network file ends in .onnx, .onnx.gz or .npz")


def export_onnx(path: str | os.PathLike[str], network: Network) -> None:
    """Writes a network of this module as an ONNX file, for other tools to read.

    The file takes inputs of shape (batch, *input_shape), channels last.

    Raises:
      InputError: a network that no Architecture describes, the onnx package is
        missing, or a place that cannot be written.
    """
    from jaxcert.interop import onnx_export as onnx

    architecture = _architecture_of(network)
    params = jax.tree.map(np.asarray, network.params)
    layers: list[onnx.Layer] = []

    def add(layer: onnx.Layer, norms: Any, index: int) -> None:
        layers.append(layer)
        if architecture.batch_norm:
            layers.append(onnx.BatchNorm(**norms[index], epsilon=_NORM_EPSILON))
        layers.append(onnx.Relu())

    for index, stride in enumerate(architecture.conv_strides):
        weights = params["convolutions"][index]
        convolution = onnx.Conv2D(
            weights["kernel"], weights["bias"], (stride, stride), architecture.padding
        )
        add(convolution, params.get("norms"), index)
        if architecture.pool == "max":
            layers.append(onnx.MaxPool((2, 2), (2, 2)))
        elif architecture.pool == "avg":
            layers.append(onnx.AvgPool((2, 2), (2, 2)))
    layers.append(onnx.Flatten())
    head, last = params["head"], len(architecture.hidden)
    for index in range(last):
        weights = head["layers"][index]
        dense = onnx.Dense(weights["kernel"], weights["bias"])
        add(dense, head.get("norms"), index)
    weights = head["layers"][last]
    layers.append(onnx.Dense(weights["kernel"], weights["bias"]))
    onnx.save_onnx(path, layers, network.input_shape, network.name)
