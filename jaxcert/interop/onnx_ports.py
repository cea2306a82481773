"""The inputs and outputs of an ONNX file, their shapes, and how they become one each.

A network of jaxcert maps one array to one vector. Several inputs are the parts of one
vector, in the order of the file and each in row-major order; several outputs likewise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert.errors import InputError
from jaxcert.interop.onnx_graph import OnnxGraph
from jaxcert.interop.onnx_lowering import Builder, Computed, Value
from jaxcert.interop.onnx_types import is_low, numpy_type, type_name
from jaxcert.network import Port

FLOAT_TYPES = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16")
_DRAWS = 4
Shape = tuple[int, ...]


def input_ports(
    graph: Any, path: str, shapes: Sequence[Shape] | None
) -> tuple[Port, ...]:
    """Returns the inputs that are no weights, with the shapes that they are read in.

    Args:
      graph: the `onnx.GraphProto`.
      path: of the file, for messages.
      shapes: what open axes are set to, a whole shape per input; None for a single
        input whose only open axis is that of the batch, which becomes 1.

    Raises:
      InputError: no input, one that is no float, or a shape that is open or another.
    """
    weights = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in weights]
    if not inputs:
        raise InputError(
            f"{path} has no input that is not a weight: export the network with one"
        )
    if shapes is not None and len(shapes) != len(inputs):
        names = ", ".join(i.name for i in inputs)
        raise InputError(
            f"{path} has {len(inputs)} inputs ({names}), and {len(shapes)} are "
            "declared: declare all of them, in the order of the file"
        )
    given = [None] * len(inputs) if shapes is None else list(shapes)
    return tuple(
        _port(value, path, shape) for value, shape in zip(inputs, given, strict=True)
    )


def _port(value: Any, path: str, given: Shape | None) -> Port:
    name, kind = value.name, value.type.tensor_type
    typename = type_name(kind.elem_type)
    if typename not in FLOAT_TYPES:
        raise InputError(
            f"input '{name}' of {path} is of type {typename}, not float: "
            "export the network without the conversion to float"
        )
    dtype = str(numpy_type(kind.elem_type))
    if not kind.HasField("shape") or not (kind.shape.dim or given == ()):
        raise InputError(
            f"input '{name}' of {path} has no shape: export the network with "
            "a fixed input shape"
        )
    # 0 or less where the file gives no number
    dims = tuple(max(d.dim_value, 0) for d in kind.shape.dim)
    shown = [n or d.dim_param or "?" for n, d in zip(dims, kind.shape.dim, strict=True)]
    if given is not None:
        fits = len(given) == len(dims) and all(
            n == own or own == 0 for n, own in zip(given, dims, strict=True)
        )
        if not fits or min(given, default=1) < 1:
            raise InputError(
                f"input '{name}' of {path} has the shape {shown}, and {list(given)} is "
                "declared: they do not belong together"
            )
        return Port(name, given, dtype)
    has_batch_axis = len(dims) > 1 and dims[0] in (0, 1)
    full = (1, *dims[1:]) if has_batch_axis else dims
    if min(full) < 1:
        raise InputError(
            f"input '{name}' of {path} has the shape {shown}, and only a "
            "batch axis in front may be open: export it with a fixed input shape"
        )
    return Port(name, full, dtype)


def input_values(
    builder: Builder, graph: Any, ports: tuple[Port, ...], rows: int
) -> tuple[bool, Shape, dict[str, Value]]:
    """Returns whether "x" gets a batch axis, its shape, and the value of every input.

    Args:
      builder: of the network.
      graph: the `onnx.GraphProto`.
      ports: of all inputs.
      rows: of a fixed batch, all of them x; 0 for none.
    """
    kinds = {i.name: i.type.tensor_type.elem_type for i in graph.input}
    types = [cast(np.dtype, numpy_type(kinds[port.name])) for port in ports]
    builder.types.update(types)
    batched = len(ports) == 1 and len(ports[0].shape) > 1 and ports[0].shape[0] == 1
    if rows:
        (port,) = ports
        row: Value = Computed("x", (1, *port.shape[1:]), types[0])
        parts = [builder.emit("concat", *[row] * rows, axis=0)]
        batched, shape = True, port.shape[1:]
    elif len(ports) == 1:
        parts = [Computed("x", ports[0].shape, types[0])]
        shape = ports[0].shape[batched:]
    else:
        if len(set(types)) > 1:
            names = ", ".join(port.name for port in ports)
            raise InputError(
                f"the inputs {names} are of different float types: export them in one"
            )
        sizes = [math.prod(port.shape) for port in ports]
        shape = (sum(sizes),)
        whole, parts = Computed("x", shape, types[0]), []
        ends = list(itertools.accumulate(sizes, initial=0))
        for port, first, last in zip(ports, ends[:-1], ends[1:], strict=True):
            part = builder.emit(
                "slice", whole, starts=(first,), limits=(last,), strides=(1,),
                reverse=(),
            )  # fmt: skip
            parts.append(builder.emit("reshape", part, shape=port.shape))
    values = {
        port.name: builder.rounded(part, dtype) if is_low(dtype) else part
        for port, part, dtype in zip(ports, parts, types, strict=True)
    }
    return batched, shape, values


def joined_outputs(builder: Builder, values: Sequence[Value], rows: int) -> Value:
    """Returns the outputs as one value: one as it is, several as one vector.

    Of a fixed batch of `rows` (0 for none) it is the first row.
    """
    if rows:
        values = [
            builder.emit(
                "slice", v, starts=(0,) * len(v.shape), limits=(1, *v.shape[1:]),
                strides=(1,) * len(v.shape), reverse=(),
            )
            for v in values
        ]  # fmt: skip
    if len(values) == 1:
        return values[0]
    flat = [builder.emit("reshape", v, shape=(math.prod(v.shape),)) for v in values]
    return builder.emit("concat", *flat, axis=0)


def is_fixed_batch(graph: OnnxGraph, params: Any, outputs: Sequence[Shape]) -> bool:
    """Returns whether the first axis of the input is a batch, as far as values tell.

    A batch is what keeps its rows apart: a NaN in one row stays in this row, and gets
    everywhere it is multiplied, by 0 as well; and no row changes with the others.

    Args:
      graph, params: of the network, its input of its full shape.
      outputs: shapes of its outputs.
    """
    rows = graph.input_shape[0]
    if any(len(shape) < 2 or shape[0] != rows for shape in outputs):
        return False
    ends = list(itertools.accumulate((math.prod(s) for s in outputs), initial=0))

    def by_rows(x: Any) -> np.ndarray:
        y = np.asarray(graph(params, x))
        spans = itertools.pairwise(ends)
        return np.concatenate([y[a:b].reshape(rows, -1) for a, b in spans], axis=1)

    with jax.debug_nans(False):
        broken = by_rows(jnp.zeros(graph.input_shape).at[0].set(jnp.nan))
    if np.isnan(broken[1:]).any():
        return False
    random = np.random.default_rng(0)
    shape = (_DRAWS, *graph.input_shape)
    draws = jnp.asarray(random.normal(size=shape), jnp.float32)
    first = [by_rows(x.at[0].set(draws[0, 0]))[0] for x in draws]
    return all(np.allclose(own, first[0], rtol=1e-4, atol=1e-5) for own in first)
