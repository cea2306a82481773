"""What reading an ONNX graph node by node needs: values, constants, parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from jaxcert.errors import InputError, UnsupportedError
from jaxcert.interop.onnx_graph import Attributes, Node, evaluate

MAX_ELEMENTS = 2**28
"""Most elements that one intermediate value of a network may have."""
MAX_FOLDED = 2**24
"""Most elements that a constant computed while reading may have."""
REMEDY = (
    "re-export the network with the operators of "
    "jaxcert.interop.onnx_ops.SUPPORTED, or write it as a JAX function f(params, x)"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A value that the file fixes: an initializer or what follows from some.

    `key` tells where it comes from, so that a weight used twice is one parameter.
    """

    array: np.ndarray
    key: tuple[Any, ...]
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the constant."""
        return self.array.shape

    @property
    def is_float(self) -> bool:
        """Whether it is a float, and so a weight rather than a static setting."""
        return np.issubdtype(self.array.dtype, np.floating)


@dataclasses.dataclass(frozen=True)
class Computed:
    """A value that the network computes: its name in the graph and its shape.

    `varies` tells whether it depends on the input, or on the weights alone.
    """

    name: str
    shape: tuple[int, ...]
    varies: bool = True


Value: TypeAlias = Constant | Computed


def _integer_divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if np.any(b == 0):
        raise ValueError("integer division by zero")
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))


def _fold_slice(
    x: np.ndarray,
    starts: Sequence[int],
    limits: Sequence[int],
    strides: Sequence[int],
    reverse: tuple[int, ...],
) -> np.ndarray:
    part = x[tuple(slice(*s) for s in zip(starts, limits, strides, strict=True))]
    return np.flip(part, reverse) if reverse else part


# Rearrangements are exact, so weights are rearranged here once and for all.
_FOLD_ANY: Mapping[str, Callable[..., Any]] = {
    "reshape": lambda x, shape: np.reshape(x, shape),
    "transpose": lambda x, permutation: np.transpose(x, permutation),
    "broadcast": lambda x, shape: np.broadcast_to(x, shape),
    "slice": _fold_slice,
    "gather": lambda x, axis, indices: np.take(x, indices, axis),
    "concat": lambda *xs, axis: np.concatenate(xs, axis),
}
# Arithmetic is folded for integers (shapes, indices) only: on floats it would round,
# and the network is the real-valued function of the weights as they are stored.
_FOLD_INTEGER: Mapping[str, Callable[..., Any]] = {
    "neg": np.negative,
    "abs": np.abs,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _integer_divide,
    "min": np.minimum,
    "max": np.maximum,
    "reduce_sum": lambda x, axes, keepdims: np.sum(x, axis=axes, keepdims=keepdims),
    "reduce_max": lambda x, axes, keepdims: np.max(x, axis=axes, keepdims=keepdims),
    "reduce_min": lambda x, axes, keepdims: np.min(x, axis=axes, keepdims=keepdims),
    "reduce_prod": lambda x, axes, keepdims: np.prod(x, axis=axes, keepdims=keepdims),
    "equal": np.equal,
    "where": np.where,
}


def _fold_size(
    op: str, attributes: Mapping[str, Any], constants: Sequence[Constant]
) -> int:
    """Returns a bound on the size of a folded value, 0 where it does not grow."""
    first = constants[0]
    if op == "broadcast":
        return math.prod(attributes["shape"])
    if op == "concat":
        return sum(c.array.size for c in constants)
    if op == "gather":
        rows = first.array.size // max(first.shape[attributes["axis"]], 1)
        return rows * len(attributes["indices"])
    if op in _FOLD_ANY:
        return 0
    return math.prod(max(c.array.size, 1) for c in constants)


class Builder:
    """Collects the nodes and the parameters of the graph that is being read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.nodes: list[Node] = []
        self.params: dict[str, np.ndarray] = {}
        self.notes: list[str] = []
        self._names: dict[tuple[Any, ...], str] = {}

    def note(self, text: str) -> None:
        """Adds a sentence the user should read, once."""
        if text not in self.notes:
            self.notes.append(text)

    def emit(self, op: str, *operands: Value | float, **attributes: Any) -> Value:
        """Returns the value of an operation, folded where it is a constant."""
        settings: Attributes = tuple(sorted(attributes.items()))
        constants = [v for v in operands if isinstance(v, Constant)]
        if len(constants) == len(operands):
            fold = _FOLD_ANY.get(op)
            if fold is None and not any(c.is_float for c in constants):
                fold = _FOLD_INTEGER.get(op)
            if fold is not None:
                return self._fold(fold, op, settings, constants)
        inputs = [self._operand(v) for v in operands]
        abstract = [
            jax.ShapeDtypeStruct(v.shape, np.float32)
            for v, entry in zip(operands, inputs, strict=True)
            if isinstance(entry, str) and not isinstance(v, float)
        ]

        def call(*arrays: Any) -> Any:
            rest = iter(arrays)
            filled = [next(rest) if isinstance(v, str) else v for v in inputs]
            return evaluate(op, settings, filled)

        shape = tuple(jax.eval_shape(call, *abstract).shape)
        if math.prod(shape) > MAX_ELEMENTS:
            raise ValueError(
                f"its result of shape {shape} has more than {MAX_ELEMENTS} elements"
            )
        self.nodes.append(Node(op, tuple(inputs), settings))
        varies = any(isinstance(v, Computed) and v.varies for v in operands)
        return Computed(f"n{len(self.nodes) - 1}", shape, varies)

    def _fold(
        self,
        fold: Callable[..., Any],
        op: str,
        settings: Attributes,
        constants: Sequence[Constant],
    ) -> Constant:
        attributes = dict(settings)
        if _fold_size(op, attributes, constants) > MAX_FOLDED:
            raise ValueError(f"its constant result has more than {MAX_FOLDED} elements")
        array = np.asarray(fold(*(c.array for c in constants), **attributes))
        key = (op, settings, tuple(c.key for c in constants))
        return Constant(array, key, constants[0].name)

    def _operand(self, value: Value | float) -> str | float:
        if isinstance(value, float):
            return value
        if isinstance(value, Computed):
            return value.name
        if not value.is_float:
            raise TypeError(
                f"constant '{value.name}' is of type {value.array.dtype} where a "
                "float is needed"
            )
        if value.key not in self._names:
            array = self._as_float32(value)
            if array.ndim == 0:
                # The 0.5 and the 1 of a formula: part of the architecture.
                return float(array)
            self._names[value.key] = f"w{len(self.params)}"
            self.params[self._names[value.key]] = array
        return self._names[value.key]

    def _as_float32(self, value: Constant) -> np.ndarray:
        if not np.all(np.isfinite(value.array)):
            raise InputError(
                f"weight '{value.name}' in {self.path} contains NaN or infinity: the "
                "network is damaged or was not trained to an end; export it again"
            )
        with np.errstate(over="ignore", under="ignore"):
            array = np.array(value.array, np.float32, order="C")
        if not np.all(np.isfinite(array)):
            raise InputError(
                f"weight '{value.name}' in {self.path} does not fit float32: rescale "
                "the network"
            )
        if np.any(array != value.array):
            self.note(
                "weights in double precision were rounded to float32: what is "
                "certified is the rounded network"
            )
        return array


@dataclasses.dataclass(eq=False)
class Call:
    """One ONNX node as the operator table sees it.

    Every attribute that is asked for is remembered, so that one that nobody asked for,
    and which might change the meaning of the node, is an error.

    Attributes:
      builder: where the rule emits what it is made of.
      op: operator of the node.
      opset: version of the operator set that the file is written in.
      inputs: values of its inputs, None where an optional one is left out.
      attributes: its attributes as Python values.
      where: the node and the file, for messages.
      num_outputs: how many outputs it names.
      is_final: whether its result is the network's output, up to its shape.
    """

    builder: Builder
    op: str
    opset: int
    inputs: Sequence[Value | None]
    attributes: Mapping[str, Any]
    where: str
    num_outputs: int
    is_final: bool
    _read: set[str] = dataclasses.field(default_factory=set)

    @property
    def emit(self) -> Callable[..., Value]:
        """Emits a node of the graph: `Builder.emit`."""
        return self.builder.emit

    def attribute(self, name: str, default: Any = None) -> Any:
        """Returns an attribute: int, float, str, or tuple of them."""
        self._read.add(name)
        value = self.attributes.get(name, default)
        if isinstance(value, bytes):
            return value.decode()
        return tuple(value) if isinstance(value, list) else value

    def flag(self, name: str, default: bool = False) -> bool:
        """Returns an attribute that is 0 or 1; runtimes read other numbers unlike."""
        value = self.attribute(name, int(default))
        if value not in (0, 1):
            raise ValueError(f"{name} is {value}, neither 0 nor 1")
        return bool(value)

    def unread(self) -> list[str]:
        """Returns the names of attributes that the operator's rule did not read."""
        return sorted(set(self.attributes) - self._read)

    def has(self, index: int) -> bool:
        """Returns whether the optional input is present."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int = 0) -> Value:
        """Returns an input."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            raise InputError(f"{self.where} lacks its input {index}: export it again")
        return value

    def constant(self, index: int, meaning: str) -> Constant:
        """Returns an input that has to be a constant."""
        value = self.value(index)
        if not isinstance(value, Constant):
            raise self.unsupported(f"computes its {meaning} from the network's input")
        return value

    def integers(self, index: int, meaning: str) -> tuple[int, ...]:
        """Returns a constant input as a tuple of whole numbers."""
        array = self.constant(index, meaning).array
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"its {meaning} is of type {array.dtype}, not integer")
        return tuple(int(v) for v in array.reshape(-1))

    def number(self, index: int, meaning: str) -> float:
        """Returns a constant input as one float."""
        array = self.constant(index, meaning).array
        if array.size != 1 or np.isnan(array.reshape(-1)[0]):
            raise ValueError(f"its {meaning} is not one number")
        return float(array.reshape(-1)[0])

    def unsupported(self, what: str) -> UnsupportedError:
        """Returns the error for a form of the operator that has no rule."""
        return UnsupportedError(
            f"{self.where} {what}, which is not supported: {REMEDY}"
        )
