"""Reading ONNX files: what is accepted, and how a file becomes a `Network`.

A file is data from somebody else. It is read with a bound on its size, nothing outside
it is opened, and whatever is not understood is an error that names the node.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert.errors import InputError, JaxcertError, UnsupportedError
from jaxcert.interop.onnx_file import (
    parse,
    read_bytes,
    refuse_external_data,
    tensor_array,
)
from jaxcert.interop.onnx_graph import OnnxGraph
from jaxcert.interop.onnx_lowering import (
    REMEDY,
    Builder,
    Call,
    Computed,
    Constant,
    Value,
)
from jaxcert.interop.onnx_ops import (
    EXACT,
    LOGITS_NOTE,
    MIXED,
    SUPPORTED,
    refuse_arithmetic,
)
from jaxcert.interop.onnx_types import (
    is_float,
    is_low,
    numpy_type,
    type_name,
    type_names,
)
from jaxcert.network import Network, content_hash

OLDEST_OPSET = 7
"""Older operator sets broadcast by attributes."""
NEWEST_OPSET = 28
"""Newest operator set whose changes the rules have been checked against."""

_EXPORT_AGAIN = "export the network again"
_FLOAT_TYPES = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16")
_FLOAT32_ALONE = ("float32",)
# What may stand between a final Softmax and the output without changing its meaning.
_PASS_THROUGH = frozenset(
    {"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"}
)


def load_onnx(path: str | os.PathLike[str]) -> Network:
    """Returns the network that an ONNX file (or a gzipped one) describes.

    The network maps one input, without batch axis, to its flattened outputs. Its
    parameters have the types of the file, and a cast to a narrower float is part of it:
    `types` names them all. A final Softmax is replaced by its logits (see `notes`).

    Raises:
      InputError: the file cannot be read, is damaged, refers to other files, or is not
        one network with one float input and one output.
      UnsupportedError: it holds an operator, or a form of one, that has no rule.
    """
    name = os.fspath(path)
    model = parse(read_bytes(name), name)
    reader = _Reader(model, name)
    try:
        graph, params, num_outputs = reader.read()
    except JaxcertError as error:
        raise type(error)(_one_line(str(error))) from error
    title = os.path.basename(name).removesuffix(".gz").removesuffix(".onnx")
    return Network(
        apply=graph,
        params=params,
        input_shape=graph.input_shape,
        num_outputs=num_outputs,
        name=title,
        content_hash=content_hash(repr(graph), params),
        notes=tuple(reader.builder.notes),
        types=reader.types(),
    )


def final_softmax(network: Network) -> str | None:
    """Returns Softmax or LogSoftmax if the file ends in it, where its logits are read.

    Both are strictly increasing in the order of the logits: Y_i >= Y_j holds of the
    outputs of the file iff it holds of the logits. Of other properties (Y_i >= 0.5,
    Y_0 + Y_1 >= Y_2) this is false.
    """
    for note in network.notes:
        if note.endswith(LOGITS_NOTE):
            return note.split()[1]
    return None


def _one_line(message: str) -> str:
    """Returns the message with the names that a file brings along made harmless."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
    return shown if len(shown) <= 1000 else f"{shown[:500]} ... {shown[-480:]}"


class _Reader:
    """One pass over one file."""

    def __init__(self, model: Any, path: str) -> None:
        self.model = model
        self.graph = model.graph
        self.path = path
        self.builder = Builder(path)
        self.values: dict[str, Value] = {}
        self.producers: dict[str, int] = {}
        self.final: set[int] = set()

    def read(self) -> tuple[OnnxGraph, dict[str, np.ndarray], int]:
        """Returns the graph, its parameters and the number of outputs."""
        refuse_external_data(self.model, self.path)
        self.opset = self._operator_set()
        has_batch_axis, input_shape = self._declare_input()
        self._declare_initializers()
        self._index_nodes()
        if len(self.graph.output) != 1:
            names = ", ".join(o.name for o in self.graph.output) or "none"
            raise InputError(
                f"{self.path} has {len(self.graph.output)} outputs ({names}) where one "
                "is needed: export the network with its logits as the only output"
            )
        output = self.graph.output[0]
        self._mark_final(output.name)
        for index in self._in_order(output.name):
            self._lower(index)
        value = self.values[output.name]
        if isinstance(value, Constant) or not value.varies:
            raise InputError(
                f"output '{output.name}' of {self.path} does not depend on the input: "
                f"{_EXPORT_AGAIN}"
            )
        num_outputs = math.prod(value.shape)
        if num_outputs == 0:
            raise InputError(
                f"output '{output.name}' of {self.path} is empty (shape "
                f"{value.shape}): {_EXPORT_AGAIN}"
            )
        graph = OnnxGraph(
            input_shape, has_batch_axis, tuple(self.builder.nodes), value.name
        )
        if not has_batch_axis and len(input_shape) > 1:
            self._refuse_fixed_batch(graph, value.shape)
        if self.types() != _FLOAT32_ALONE:
            self.builder.note(f"the file computes in {' and '.join(self.types())}")
        return graph, self.builder.params, num_outputs

    def types(self) -> tuple[str, ...]:
        """Returns the float types that the network computes in, the widest first."""
        return type_names(self.builder.types)

    def _operator_set(self) -> int:
        versions = [
            o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")
        ]
        if not versions:
            raise InputError(
                f"{self.path} names no version of the ONNX operators: copy the whole "
                f"file, or {_EXPORT_AGAIN}"
            )
        version = versions[-1]
        if len(set(versions)) > 1:
            named = ", ".join(map(str, versions))
            self.builder.note(
                f"the file names the versions {named} of the ONNX operators; the last "
                "is read, as onnxruntime does"
            )
        if not OLDEST_OPSET <= version <= NEWEST_OPSET:
            raise UnsupportedError(
                f"{self.path} uses version {version} of the ONNX operators, and "
                f"versions {OLDEST_OPSET} to {NEWEST_OPSET} are read: convert it with "
                "onnx.version_converter"
            )
        return version

    def _declare_input(self) -> tuple[bool, tuple[int, ...]]:
        weights = {t.name for t in self.graph.initializer}
        inputs = [i for i in self.graph.input if i.name not in weights]
        if len(inputs) != 1:
            names = ", ".join(i.name for i in inputs) or "none"
            raise InputError(
                f"{self.path} has {len(inputs)} inputs ({names}) where one is needed: "
                "export the network with one input"
            )
        name, kind = inputs[0].name, inputs[0].type.tensor_type
        typename = type_name(kind.elem_type)
        if typename not in _FLOAT_TYPES:
            raise InputError(
                f"input '{name}' of {self.path} is of type {typename}, not float: "
                "export the network without the conversion to float"
            )
        if not kind.HasField("shape") or not kind.shape.dim:
            raise InputError(
                f"input '{name}' of {self.path} has no shape: export the network with "
                "a fixed input shape"
            )
        # 0 or less where the file gives no number
        dims = [max(d.dim_value, 0) for d in kind.shape.dim]
        has_batch_axis = len(dims) > 1 and dims[0] in (0, 1)
        shape = tuple(dims[1:] if has_batch_axis else dims)
        if min(shape) < 1:
            shown = [
                n or d.dim_param or "?"
                for n, d in zip(dims, kind.shape.dim, strict=True)
            ]
            raise InputError(
                f"input '{name}' of {self.path} has the shape {shown}, and only a "
                "batch axis in front may be open: export it with a fixed input shape"
            )
        full = (1, *shape) if has_batch_axis else shape
        dtype = cast(np.dtype, numpy_type(kind.elem_type))
        self.builder.types.add(dtype)
        value: Value = Computed("x", full, dtype)
        self.values[name] = (
            self.builder.rounded(value, dtype) if is_low(dtype) else value
        )
        return has_batch_axis, shape

    def _refuse_fixed_batch(self, graph: OnnxGraph, result: tuple[int, ...]) -> None:
        rows = graph.input_shape[0]
        if len(result) < 2 or result[0] != rows:
            return
        # A batch is what keeps its rows apart: a NaN in one row stays in this row. It
        # gets everywhere it is multiplied, by 0 as well.
        x = jnp.zeros(graph.input_shape).at[0].set(jnp.nan)
        with jax.debug_nans(False):
            output = np.asarray(graph(self.builder.params, x)).reshape(rows, -1)
        if not np.isnan(output[1:]).any():
            raise InputError(
                f"{self.path} takes a fixed batch of {rows} inputs: export it with "
                "batch size 1 or an open batch axis"
            )

    def _declare_initializers(self) -> None:
        for sparse in self.graph.sparse_initializer:
            raise UnsupportedError(
                f"weight '{sparse.values.name}' of {self.path} is stored sparse: "
                "export the network with dense weights"
            )
        for tensor in self.graph.initializer:
            if tensor.name in self.values:
                raise InputError(
                    f"{self.path} defines '{tensor.name}' twice: {_EXPORT_AGAIN}"
                )
            array = tensor_array(tensor, self.path)
            self.builder.room += 2 * array.size
            key = ("initializer", tensor.name)
            self.values[tensor.name] = Constant(array, key, tensor.name)

    def _index_nodes(self) -> None:
        for index, node in enumerate(self.graph.node):
            for name in filter(None, node.output):
                if name in self.producers or name in self.values:
                    raise InputError(
                        f"{self.path} defines '{name}' twice: {_EXPORT_AGAIN}"
                    )
                self.producers[name] = index

    def _mark_final(self, name: str) -> None:
        """Remembers the nodes between which and the output nothing is computed."""
        index = self.producers.get(name)
        while index is not None and index not in self.final:
            self.final.add(index)
            node = self.graph.node[index]
            passes = node.op_type in _PASS_THROUGH and node.input
            index = self.producers.get(node.input[0]) if passes else None

    def _in_order(self, output: str) -> Iterator[int]:
        """Yields the nodes that the output needs, each after those it reads.

        Depth first from the output, so that the order does not depend on the file's.
        """
        done: set[int] = set()
        open_nodes: set[int] = set()
        if output not in self.values and output not in self.producers:
            raise InputError(
                f"output '{output}' of {self.path} is computed nowhere: {_EXPORT_AGAIN}"
            )
        stack = [self.producers[output]] if output in self.producers else []
        while stack:
            index = stack[-1]
            if index in done:
                stack.pop()
                continue
            node = self.graph.node[index]
            self._refuse_node(index)
            waiting = []
            for name in filter(None, node.input):
                if name in self.producers:
                    waiting.append(self.producers[name])
                elif name not in self.values:
                    raise InputError(
                        f"{self._where(index)} reads '{name}', which is computed "
                        f"nowhere: {_EXPORT_AGAIN}"
                    )
            waiting = [i for i in waiting if i not in done]
            if index in open_nodes and waiting:
                raise InputError(
                    f"{self._where(index)} depends on its own result: {_EXPORT_AGAIN}"
                )
            if waiting:
                open_nodes.add(index)
                stack.extend(reversed(waiting))
            else:
                done.add(index)
                stack.pop()
                yield index

    def _where(self, index: int) -> str:
        node = self.graph.node[index]
        name = node.name or next(iter(node.output), "")
        return f"operator '{node.op_type}' (node '{name}') in {self.path}"

    def _refuse_node(self, index: int) -> None:
        node = self.graph.node[index]
        where = self._where(index)
        if node.domain not in ("", "ai.onnx"):
            raise UnsupportedError(
                f"{where} belongs to the domain '{node.domain}', and only the standard "
                f"operators are read: {REMEDY}"
            )
        local = {f.name for f in self.model.functions if f.domain in ("", "ai.onnx")}
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            raise UnsupportedError(
                f"{where} is control flow, which is not supported: {REMEDY}"
            )
        known = node.op_type == "Constant" or node.op_type in SUPPORTED
        if not known or node.op_type in local:
            raise UnsupportedError(f"{where} is not supported: {REMEDY}")

    def _attributes(self, index: int) -> Mapping[str, Any]:
        import onnx

        attributes: dict[str, Any] = {}
        for attribute in self.graph.node[index].attribute:
            if attribute.ref_attr_name or attribute.name in attributes:
                raise ValueError(f"attribute '{attribute.name}' is not well defined")
            value = onnx.helper.get_attribute_value(attribute)
            if isinstance(value, onnx.TensorProto):
                value = tensor_array(value, self.path)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"attribute '{attribute.name}' is {value}")
            attributes[attribute.name] = value
        return attributes

    def _lower(self, index: int) -> None:
        where = self._where(index)
        try:
            self._lower_node(index, where)
        except JaxcertError:
            raise
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            UnicodeDecodeError,
            ValueError,
        ) as error:
            reason = (str(error).strip().splitlines() or ["malformed"])[0]
            raise InputError(
                f"{where} is malformed: {reason}; {_EXPORT_AGAIN}"
            ) from error

    def _lower_node(self, index: int, where: str) -> None:
        node = self.graph.node[index]
        attributes = self._attributes(index)
        if node.op_type == "Constant":
            value = self._constant(attributes, node.output[0], where)
            self.values[node.output[0]] = value
            return
        rule = SUPPORTED[node.op_type]
        if not rule.fewest <= len(node.input) <= rule.most:
            raise ValueError(f"it has {len(node.input)} inputs")
        call = Call(
            builder=self.builder,
            op=node.op_type,
            opset=self.opset,
            inputs=[self._input(name, where) for name in node.input],
            attributes=attributes,
            where=where,
            num_outputs=len(node.output),
            is_final=index in self.final,
        )
        refuse_arithmetic(call)
        stated = self._stated_type(call)
        self.builder.folds_floats = not any(
            isinstance(v, Computed) for v in call.inputs
        )
        results = rule.lower(call)
        if stated is not None and is_low(stated):
            results = [self._in_type(call, v, stated) for v in results]
        if call.unread():
            raise call.unsupported(f"has the attribute '{call.unread()[0]}'")
        # A second output (a mask, indices) stays undefined: its reader is refused.
        self.values.update(zip(node.output, results, strict=False))

    def _stated_type(self, call: Call) -> np.dtype | None:
        """Returns the float type that the operator computes in, None where none is."""
        types = [v.dtype for v in call.inputs if v is not None and is_float(v.dtype)]
        if len(set(types)) > 1 and call.op not in MIXED:
            names = " and ".join(dict.fromkeys(t.name for t in types))
            raise ValueError(f"its inputs are of types {names}")
        return types[0] if types else None

    def _in_type(self, call: Call, value: Value, dtype: np.dtype) -> Value:
        """Returns a result, computed in float32, rounded to the type below it."""
        if call.op == "Cast" or not is_float(value.dtype):
            return value
        if isinstance(value, Computed) and call.op in EXACT:
            return value
        return self.builder.rounded(value, dtype)

    def _input(self, name: str, where: str) -> Value | None:
        if name and name not in self.values:
            raise UnsupportedError(
                f"{where} reads '{name}', a secondary output, which is not supported: "
                f"{REMEDY}"
            )
        return self.values[name] if name else None

    def _constant(
        self, attributes: Mapping[str, Any], name: str, where: str
    ) -> Constant:
        if len(attributes) != 1:
            raise ValueError("it does not hold one value")
        ((kind, value),) = attributes.items()
        types: dict[str, Any] = {"value_int": np.int64, "value_ints": np.int64}
        types |= {"value_float": np.float32, "value_floats": np.float32}
        if kind == "value" and isinstance(value, np.ndarray):
            return Constant(value, ("constant", name), name)
        if kind not in types:
            raise UnsupportedError(f"{where} holds a {kind}: {REMEDY}")
        return Constant(np.array(value, types[kind]), ("constant", name), name)
