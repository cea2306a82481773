"""Writing ONNX files, so that other tools can take the networks trained here.

A network is described by a sequence of layers in the layout of Flax: images are
(H, W, C), convolution kernels (h, w, in, out), dense weights (in, out).
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from jaxcert.errors import InputError, JaxcertError, UnsupportedError
from jaxcert.runs.files import write_atomically

OPSET = 17
"""Operator set of the files written: old enough for every common verifier."""
_IR_VERSION = 8  # the file format that goes with OPSET

Padding: TypeAlias = Literal["SAME", "VALID"]
Pair: TypeAlias = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """`x @ weight + bias` on a flat value; weight (in, out), bias (out,) or None."""

    weight: ArrayLike
    bias: ArrayLike | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Conv2D:
    """Convolution of an image; kernel (h, w, in, out), bias (out,) or None."""

    kernel: ArrayLike
    bias: ArrayLike | None = None
    strides: Pair = (1, 1)
    padding: Padding = "SAME"


@dataclasses.dataclass(frozen=True)
class Relu:
    """max(x, 0)."""


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """Largest value of each window of an image."""

    window: Pair
    strides: Pair
    padding: Padding = "VALID"


@dataclasses.dataclass(frozen=True)
class AvgPool:
    """Mean of each window of an image; padding counts as zeros, as in Flax."""

    window: Pair
    strides: Pair
    padding: Padding = "VALID"


@dataclasses.dataclass(frozen=True, eq=False)
class BatchNorm:
    """`(x - mean) / sqrt(var + epsilon) * scale + bias`, each of shape (channels,)."""

    mean: ArrayLike
    var: ArrayLike
    scale: ArrayLike
    bias: ArrayLike
    epsilon: float = 1e-5


@dataclasses.dataclass(frozen=True)
class Flatten:
    """All features on one axis, in the order (H, W, C)."""


Layer: TypeAlias = Dense | Conv2D | Relu | MaxPool | AvgPool | BatchNorm | Flatten


def save_onnx(
    path: str | os.PathLike[str],
    layers: Sequence[Layer],
    input_shape: tuple[int, ...],
    name: str = "jaxcert",
) -> None:
    """Writes the network as an ONNX file, complete or not at all.

    The file's input is named "input" and has shape (batch, *input_shape) with an open
    batch axis; its output "logits" has shape (batch, outputs).

    Args:
      path: the file to write.
      layers: the layers in the order of evaluation.
      input_shape: shape of one input; (H, W, C) where the first layers take images.
      name: name of the graph in the file.

    Raises:
      InputError: the layers do not fit each other, a weight is not finite, or the file
        cannot be written.
    """
    try:
        import onnx
    except ImportError as error:
        raise InputError(
            "writing ONNX files needs the onnx package: pip install 'jaxcert[onnx]'"
        ) from error
    if not input_shape or min(input_shape) < 1:
        raise InputError(f"{input_shape} is not the shape of an input: give its sizes")
    writer = _Writer(tuple(input_shape))
    for index, layer in enumerate(layers):
        try:
            writer.add(layer)
        except JaxcertError as error:
            kind = type(layer).__name__
            raise type(error)(f"layer {index} ({kind}): {error}") from error
    if len(writer.shape) != 1:
        raise InputError(
            f"the last layer gives shape {writer.shape}, not logits: end with Dense"
        )
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    outputs = [
        helper.make_tensor_value_info("logits", float32, ["batch", *writer.shape])
    ]
    graph = helper.make_graph(
        [*writer.nodes, helper.make_node("Identity", [writer.value], ["logits"])],
        name,
        [helper.make_tensor_value_info("input", float32, ["batch", *input_shape])],
        outputs,
        writer.weights,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="jaxcert",
    )
    try:
        write_atomically(path, model.SerializeToString(deterministic=True))
    except OSError as error:
        raise InputError(
            f"{os.fspath(path)} cannot be written ({error.strerror}): check the folder"
        ) from error


class _Writer:
    """The nodes so far, and the value they end in.

    `shape` is that of one input in the layout of Flax. `channels_first` tells that the
    value in the file has the channels in front, as ONNX wants images.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.channels_first = False
        self.value = "input"
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, layer: Layer) -> None:
        """Appends a layer."""
        match layer:
            case Relu():
                self._node("Relu")
            case Flatten():
                self._channels_last()
                self._node("Flatten", axis=1)
                self.shape = (math.prod(self.shape),)
            case Dense():
                self._dense(layer)
            case Conv2D():
                self._conv(layer)
            case MaxPool():
                self._pool(layer, "MaxPool")
            case AvgPool():
                self._pool(layer, "AveragePool", count_include_pad=1)
            case BatchNorm():
                self._batch_norm(layer)
            case _:
                raise UnsupportedError(
                    "this kind of layer cannot be written; use those of "
                    "jaxcert.interop.onnx_export"
                )

    def _node(self, op: str, *weights: str, **attributes: Any) -> None:
        import onnx

        result = f"{op.lower()}_{len(self.nodes)}"
        inputs = [self.value, *weights]
        self.nodes.append(
            onnx.helper.make_node(op, inputs, [result], name=result, **attributes)
        )
        self.value = result

    def _weight(self, role: str, array: ArrayLike, shape: tuple[int, ...]) -> str:
        import onnx

        # A copy in C order: the file holds the bytes as they lie.
        values = np.array(array, np.float32, order="C")
        if values.shape != shape:
            raise InputError(f"its {role} has shape {values.shape}, not {shape}")
        if not np.isfinite(values).all():
            raise InputError(f"its {role} contains NaN or infinity")
        name = f"{role}_{len(self.nodes)}"
        self.weights.append(onnx.numpy_helper.from_array(values, name))
        return name

    def _channels_first(self) -> None:
        if len(self.shape) != 3:
            raise InputError(f"it needs an image (H, W, C), not shape {self.shape}")
        if not self.channels_first:
            self._node("Transpose", perm=[0, 3, 1, 2])
            self.channels_first = True

    def _channels_last(self) -> None:
        if self.channels_first:
            self._node("Transpose", perm=[0, 2, 3, 1])
            self.channels_first = False

    def _dense(self, layer: Dense) -> None:
        if len(self.shape) != 1 or np.ndim(layer.weight) != 2:
            raise InputError(
                f"it needs a flat value and a weight (in, out), not shapes "
                f"{self.shape} and {np.shape(layer.weight)}: put a Flatten before it"
            )
        outputs = np.shape(layer.weight)[1]
        names = [self._weight("weight", layer.weight, (*self.shape, outputs))]
        if layer.bias is not None:
            names.append(self._weight("bias", layer.bias, (outputs,)))
        self._node("Gemm", *names)
        self.shape = (outputs,)

    def _conv(self, layer: Conv2D) -> None:
        self._channels_first()
        kernel = np.asarray(layer.kernel)
        if kernel.ndim != 4:
            raise InputError(
                f"its kernel has shape {kernel.shape}, not (h, w, in, out)"
            )
        window, outputs = kernel.shape[:2], kernel.shape[3]
        kernel = kernel.transpose(3, 2, 0, 1)
        sizes, pads = self._slide(window, layer.strides, layer.padding)
        expected = (outputs, self.shape[2], *window)
        names = [self._weight("kernel", kernel, expected)]
        if layer.bias is not None:
            names.append(self._weight("bias", layer.bias, (outputs,)))
        self._node(
            "Conv",
            *names,
            kernel_shape=list(window),
            strides=list(layer.strides),
            pads=pads,
        )
        self.shape = (*sizes, outputs)

    def _pool(self, layer: MaxPool | AvgPool, op: str, **attributes: Any) -> None:
        self._channels_first()
        sizes, pads = self._slide(layer.window, layer.strides, layer.padding)
        self._node(
            op,
            kernel_shape=list(layer.window),
            strides=list(layer.strides),
            pads=pads,
            **attributes,
        )
        self.shape = (*sizes, self.shape[2])

    def _slide(
        self, window: Pair, strides: Pair, padding: Padding
    ) -> tuple[list[int], list[int]]:
        """Returns height and width of the result, and the pads of ONNX."""
        if padding not in ("SAME", "VALID"):
            raise InputError(f"padding {padding!r} is neither 'SAME' nor 'VALID'")
        if len(window) != 2 or len(strides) != 2 or min(*window, *strides) < 1:
            raise InputError(f"window {window} and strides {strides} are not (h, w)")
        sizes, low, high = [], [], []
        for n, k, s in zip(self.shape, window, strides, strict=False):
            size = -(-n // s) if padding == "SAME" else (n - k) // s + 1
            total = max((size - 1) * s + k - n, 0) if padding == "SAME" else 0
            if size < 1:
                raise InputError(f"window {window} is larger than shape {self.shape}")
            sizes.append(size)
            low.append(total // 2)
            high.append(total - total // 2)
        return sizes, [*low, *high]

    def _batch_norm(self, layer: BatchNorm) -> None:
        if len(self.shape) != 1:
            self._channels_first()
        names = [
            self._weight(role, getattr(layer, role), self.shape[-1:])
            for role in ("scale", "bias", "mean", "var")
        ]
        self._node("BatchNormalization", *names, epsilon=float(layer.epsilon))
