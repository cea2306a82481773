"""Reads fully connected ReLU networks from ONNX, sharing no code with jaxcert."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from jaxcert.errors import InputError, UnsupportedError
from jaxcert.runs.files import read_bounded


@dataclasses.dataclass(frozen=True)
class Mlp:
    """Affine layers `W x + b`, W of shape (out, in), with a ReLU between any two."""

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def margin(self, x: np.ndarray, label: int) -> tuple[float, float]:
        """Returns the margin at x in float64, and a bound of its rounding error.

        The error of a sum of n terms, in any order, is at most gamma_n times the sum of
        absolute values (Higham, Accuracy and Stability, section 3.1).
        """
        value, error = x, np.zeros_like(x)
        for index, (weight, bias) in enumerate(self.layers):
            gamma = (weight.shape[1] + 2) * 2.0**-52
            size = np.abs(weight) @ (np.abs(value) + error) + np.abs(bias)
            error = np.abs(weight) @ error * (1 + gamma) + gamma * size
            value = weight @ value + bias
            if index < len(self.layers) - 1:
                value = np.maximum(value, 0)
        rows = value[label] - value
        errors = (error[label] + error) * (1 + 2**-50) + np.abs(rows) * 2**-52
        others = np.arange(len(value)) != label
        least = int(np.argmin(np.where(others, rows, np.inf)))
        return float(rows[least]), float(errors[others].max())


def read_mlp(path: str) -> Mlp:
    """Returns the network of an ONNX file that is a chain of affine maps and ReLUs."""
    import onnx

    data = read_bounded(
        path, 2**31, gzipped=None, kind="an .onnx file", remedy="check the file"
    )
    try:
        graph = onnx.load_model_from_string(data).graph
    except Exception as error:  # whatever protobuf and zlib raise on damaged files
        raise InputError(f"{path} is not a readable ONNX file ({error})") from error
    constants = {
        t.name: onnx.numpy_helper.to_array(t).astype(np.float64)
        for t in graph.initializer
    }
    sources = [i for i in graph.input if i.name not in constants]
    if len(sources) != 1 or len(graph.output) != 1:
        raise UnsupportedError(f"{path} does not have one input and one output")
    dims = sources[0].type.tensor_type.shape.dim
    chain = _Chain(path, sources[0].name, tuple(d.dim_value or 1 for d in dims))
    for node in graph.node:
        attributes = {
            a.name: onnx.helper.get_attribute_value(a) for a in node.attribute
        }
        if node.op_type == "Constant" and "value" in attributes:
            array = onnx.numpy_helper.to_array(attributes["value"])
            constants[node.output[0]] = array.astype(np.float64)
        else:
            operands = [constants.get(name) for name in node.input]
            chain.append(node, operands, attributes)
    if chain.name != graph.output[0].name:
        raise UnsupportedError(f"the output of {path} is not the end of its chain")
    return chain.finish()


class _Chain:
    """Composes the nodes of a chain; W, b are the affine map since the last ReLU."""

    def __init__(self, path: str, name: str, shape: tuple[int, ...]) -> None:
        self.path, self.name, self.shape = path, name, shape
        self.layers: list[tuple[np.ndarray, np.ndarray]] = []
        self.begin()

    def begin(self) -> None:
        size = math.prod(self.shape)
        self.weight, self.bias = np.eye(size), np.zeros(size)
        self.empty = True

    def append(
        self, node: Any, operands: list[np.ndarray | None], attributes: dict[str, Any]
    ) -> None:
        """Takes the next node; `operands` are its constants, None for the others."""
        kind = node.op_type
        where = f"{kind} '{node.name}' in {self.path}"
        varying = [
            name for name, c in zip(node.input, operands, strict=True) if c is None
        ]
        if varying != [self.name]:
            raise UnsupportedError(f"{where} is no link of a chain")
        first = operands[0] is None
        constant = next((c for c in operands if c is not None), None)
        self.name = node.output[0]
        if kind == "Relu":
            self.layers.append((self.weight, self.bias))
            self.begin()
        elif kind in ("Flatten", "Reshape", "Identity"):
            if kind == "Flatten":
                axis = attributes.get("axis", 1)
                self.shape = (
                    math.prod(self.shape[:axis]),
                    math.prod(self.shape[axis:]),
                )
            elif kind == "Reshape" and constant is not None:
                target = tuple(int(v) for v in constant.reshape(-1))
                self.shape = np.empty(self.shape, bool).reshape(target).shape
        elif constant is None or (not first and kind not in ("Add", "Sub", "Mul")):
            raise UnsupportedError(f"{where} has no place in a ReLU MLP")
        elif kind == "MatMul":
            self.multiply(constant.T, np.zeros(constant.shape[1]), where)
        elif kind == "Gemm":
            weight = constant if attributes.get("transB", 0) else constant.T
            bias = operands[2] if len(operands) > 2 else None
            bias = np.zeros(1) if bias is None else bias
            if attributes.get("transA", 0):
                raise UnsupportedError(f"{where} transposes its input")
            full = np.broadcast_to(bias.reshape(-1), weight.shape[:1])
            alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
            self.multiply(alpha * weight, beta * full, where)
        elif kind in ("Add", "Sub", "Mul", "Div"):
            self.elementwise(kind, constant, first, where)
        else:
            raise UnsupportedError(f"{where} has no place in a ReLU MLP")

    def multiply(self, weight: np.ndarray, bias: np.ndarray, where: str) -> None:
        size = math.prod(self.shape)
        if weight.ndim != 2 or weight.shape[1] != size or self.shape[-1] != size:
            raise UnsupportedError(f"{where} does not fit the shape {self.shape}")
        self.bias = weight @ self.bias + bias
        self.weight = weight.copy() if self.empty else weight @ self.weight
        self.shape = (*self.shape[:-1], len(weight))
        self.empty = False

    def elementwise(
        self, kind: str, constant: np.ndarray, first: bool, where: str
    ) -> None:
        if np.broadcast_shapes(constant.shape, self.shape) != self.shape:
            raise UnsupportedError(f"{where} does not fit the shape {self.shape}")
        value = np.broadcast_to(constant, self.shape).reshape(-1)
        if kind in ("Mul", "Div"):
            value = 1 / value if kind == "Div" else value
            self.weight = value[:, None] * self.weight
            self.bias = value * self.bias
            self.empty = False
        elif first:
            self.bias = self.bias - value if kind == "Sub" else self.bias + value
        else:
            sign = -1 if kind == "Sub" else 1
            self.weight, self.bias = sign * self.weight, sign * self.bias + value
            self.empty = self.empty and sign == 1

    def finish(self) -> Mlp:
        return Mlp((*self.layers, (self.weight, self.bias)))
