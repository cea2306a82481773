"""What reading an ONNX graph node by node needs: values, constants, parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import jax
import numpy as np

from jaxcert.errors import InputError, UnsupportedError
from jaxcert.interop.onnx_folding import MAX_FOLDED, MAX_FOLDED_TOGETHER, fold
from jaxcert.interop.onnx_graph import Attributes, Node, evaluate
from jaxcert.interop.onnx_types import (
    WIDE,
    cast_array,
    is_float,
    is_low,
    largest,
    saturation,
)

MAX_ELEMENTS = 2**28
"""Most elements that one intermediate value of a network may have."""
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
    def dtype(self) -> np.dtype:
        """Type of the constant."""
        return self.array.dtype

    @property
    def is_float(self) -> bool:
        """Whether it is a float, and so a weight rather than a static setting."""
        return is_float(self.dtype)


@dataclasses.dataclass(frozen=True)
class Computed:
    """A value that the network computes: its name in the graph, its shape and type.

    `varies` tells whether it depends on the input, or on the weights alone.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    varies: bool = True


Value: TypeAlias = Constant | Computed


class Builder:
    """Collects the nodes and the parameters of the graph that is being read.

    Attributes:
      path: the file, for messages.
      nodes: of the graph, so far.
      params: weights of the graph, so far, in the types of the file.
      notes: sentences the user should read.
      types: float types of the values that the network computes and of its weights.
      room: how many elements the constants still to be computed may have.
      folds_floats: whether the operator being read has constants alone as inputs: then
        its arithmetic is done here, in the types of the file, as a runtime does it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.nodes: list[Node] = []
        self.params: dict[str, np.ndarray] = {}
        self.notes: list[str] = []
        self.types: set[np.dtype] = set()
        self.folds_floats = False
        self.room = MAX_FOLDED_TOGETHER
        self._names: dict[tuple[Any, ...], str] = {}

    def note(self, text: str) -> None:
        """Adds a sentence the user should read, once."""
        if text not in self.notes:
            self.notes.append(text)

    def emit(self, op: str, *operands: Value | float, **attributes: Any) -> Value:
        """Returns the value of an operation, folded where it is a constant."""
        settings: Attributes = tuple(sorted(attributes.items()))
        values = [v for v in operands if not isinstance(v, float)]
        numbers = [v for v in values if v.dtype != np.bool_] or values
        types = dict.fromkeys(WIDE if is_low(v.dtype) else v.dtype for v in numbers)
        if len(types) > 1 and op != "power":
            raise ValueError(f"its operands are of types {', '.join(map(str, types))}")
        fixed = not any(isinstance(v, Computed) for v in operands)
        if fixed:
            folded = self._fold(op, settings, operands)
            if folded is not None:
                return folded
        inputs = [self._operand(v, as_weight=fixed) for v in operands]
        abstract = [
            jax.ShapeDtypeStruct(v.shape, bool if v.dtype == np.bool_ else np.float32)
            for v, entry in zip(operands, inputs, strict=True)
            if isinstance(entry, str) and not isinstance(v, float)
        ]

        def call(*arrays: Any) -> Any:
            rest = iter(arrays)
            filled = [next(rest) if isinstance(v, str) else v for v in inputs]
            return evaluate(op, settings, filled)

        result = jax.eval_shape(call, *abstract)
        shape = tuple(result.shape)
        if math.prod(shape) > MAX_ELEMENTS:
            raise ValueError(
                f"its result of shape {shape} has more than {MAX_ELEMENTS} elements"
            )
        self.nodes.append(Node(op, tuple(inputs), settings))
        varies = any(isinstance(v, Computed) and v.varies for v in operands)
        # A choice between two numbers of a formula is of the type of the network.
        kind = numbers[0].dtype if numbers[0].dtype != np.bool_ else WIDE
        dtype = np.dtype(np.bool_) if result.dtype == np.bool_ else kind
        return Computed(f"n{len(self.nodes) - 1}", shape, dtype, varies)

    def cast(self, value: Value, dtype: np.dtype, saturate: bool = True) -> Value:
        """Returns the value in another type, rounded as the type demands.

        Raises:
          UnsupportedError: the network's input decides about a whole number.
        """
        if value.dtype == dtype:
            return value
        if isinstance(value, Constant):
            self._spend(value.array)
            array = cast_array(value.array, dtype, saturate)
            key = ("cast", dtype.name, saturate, value.key)
            return Constant(array, key, value.name)
        if is_low(dtype) and is_float(value.dtype):
            return self.rounded(value, dtype, saturate)
        if is_low(dtype):
            return self.rounded(self.cast(value, WIDE), dtype, saturate)
        self.types.add(dtype)
        if not is_float(value.dtype) and value.dtype != np.bool_:
            value = dataclasses.replace(value, dtype=WIDE)  # a float of whole numbers
        if value.dtype == np.bool_ or not is_low(value.dtype) or dtype != WIDE:
            value = cast(Computed, self.emit("cast", value, dtype=dtype.name))
        return dataclasses.replace(value, dtype=dtype)

    def rounded(self, value: Value, dtype: np.dtype, saturate: bool = True) -> Value:
        """Returns the value rounded to a type below float32, if it is not already."""
        if isinstance(value, Constant):
            return self.cast(value, dtype, saturate)
        self.types.add(dtype)
        limit = saturation(dtype, saturate)
        result = self.emit("round", value, dtype=dtype.name, limit=limit)
        return dataclasses.replace(cast(Computed, result), dtype=dtype)

    def _fold(
        self, op: str, settings: Attributes, operands: Sequence[Value | float]
    ) -> Constant | None:
        constants = [v for v in operands if isinstance(v, Constant)]
        arrays = [
            v if isinstance(v, float) else cast(Constant, v).array for v in operands
        ]
        array = fold(op, settings, arrays, self.folds_floats)
        if array is None:
            return None
        if array.base is None:  # else it is a view
            self._spend(array)
        keys = tuple(v.key if isinstance(v, Constant) else v for v in operands)
        return Constant(array, (op, settings, keys), constants[0].name)

    def _spend(self, array: np.ndarray) -> None:
        self.room -= array.size
        if self.room < 0:
            raise ValueError("the constants computed so far take too much memory")

    def _operand(self, value: Value | float, as_weight: bool) -> str | float:
        if isinstance(value, float):
            return value
        if isinstance(value, Computed):
            return value.name
        if not value.is_float:
            raise TypeError(
                f"constant '{value.name}' is of type {value.array.dtype} where a "
                "float is needed"
            )
        if value.array.ndim == 0 and not as_weight:
            # The 0.5 and the 1 of a formula: part of the architecture.
            self.types.add(value.dtype)
            return float(self._checked(value))
        if value.key not in self._names:
            array = self._checked(value)
            self.types.add(array.dtype)
            self._names[value.key] = f"w{len(self.params)}"
            self.params[self._names[value.key]] = array
        return self._names[value.key]

    def _checked(self, value: Constant) -> np.ndarray:
        if not np.all(np.isfinite(value.array)):
            raise InputError(
                f"weight '{value.name}' in {self.path} contains NaN or infinity: the "
                "network is damaged or was not trained to an end; export it again"
            )
        if np.any(np.abs(value.array.astype(np.float64)) > largest(WIDE)):
            raise InputError(
                f"weight '{value.name}' in {self.path} does not fit float32, in which "
                "the search runs: rescale the network"
            )
        return np.array(value.array, order="C")


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
        if isinstance(value, float):
            value = float(np.float32(value))  # attributes have this type, and defaults
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

    def reading(self, x: Value) -> Call:
        """Returns the same node with x as its first input."""
        return dataclasses.replace(self, inputs=[x, *self.inputs[1:]])

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

    def fill(self, x: Value, number: float) -> Constant:
        """Returns a constant of the shape and type of x, the same number everywhere."""
        if math.prod(x.shape) > MAX_FOLDED:
            raise ValueError(f"its constant result has more than {MAX_FOLDED} elements")
        array = np.full(x.shape, number).astype(x.dtype)
        return Constant(array, ("full", x.shape, x.dtype.name, number), self.op)

    def unsupported(self, what: str) -> UnsupportedError:
        """Returns the error for a form of the operator that has no rule."""
        return UnsupportedError(
            f"{self.where} {what}, which is not supported: {REMEDY}"
        )
