"""Reading ONNX files: what is accepted, and how a file becomes a `Network`.

A file is data from somebody else. It is read with a bound on its size, nothing outside
it is opened, and whatever is not understood is an error that names the node.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
from jaxcert.interop.onnx_ports import (
    input_ports,
    input_values,
    is_fixed_batch,
    joined_outputs,
)
from jaxcert.interop.onnx_types import is_float, is_low, type_names
from jaxcert.network import Network, Port, content_hash

OLDEST_OPSET = 7
"""Older operator sets broadcast by attributes."""
NEWEST_OPSET = 28
"""Newest operator set whose changes the rules have been checked against."""

_EXPORT_AGAIN = "export the network again"
_FLOAT32_ALONE = ("float32",)
# What may stand between a final Softmax and the output without changing its meaning.
_PASS_THROUGH = frozenset(
    {"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"}
)


def load_onnx(
    path: str | os.PathLike[str], shapes: Sequence[tuple[int, ...]] | None = None
) -> Network:
    """Returns the network that an ONNX file (or a gzipped one) describes.

    The network maps one input, without batch axis, to its flattened outputs. Several
    inputs of a file are the parts of one vector, several outputs likewise; `inputs` and
    `outputs` name them. Its parameters have the types of the file, and a cast to a
    narrower float is part of it: `types` names them all. The final Softmax of a single
    output is replaced by its logits (see `notes`).

    Args:
      path: of the file.
      shapes: whole shapes of all inputs, which set what the file leaves open, and are
        taken as they are. Without them an open batch axis in front is 1, and of a fixed
        batch one input is taken, since its rows do not depend on each other.

    Raises:
      InputError: the file cannot be read, is damaged, refers to other files, has an
        input that is no float, or open axes that nothing sets.
      UnsupportedError: it holds an operator, or a form of one, that has no rule.
    """
    name = os.fspath(path)
    model = parse(read_bytes(name), name)
    reader = _Reader(model, name, shapes)
    try:
        graph, params, num_outputs = reader.read()
        if shapes is None and reader.fixed_batch(graph):
            reader = _Reader(model, name, shapes, graph.input_shape[0])
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
        inputs=reader.inputs,
        outputs=reader.outputs,
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

    def __init__(
        self,
        model: Any,
        path: str,
        shapes: Sequence[tuple[int, ...]] | None,
        rows: int = 0,
    ) -> None:
        self.model = model
        self.graph = model.graph
        self.path = path
        self.shapes, self.rows = shapes, rows  # rows of a batch that are all x
        self.inputs: tuple[Port, ...] = ()
        self.outputs: tuple[Port, ...] = ()
        self.builder = Builder(path)
        self.values: dict[str, Value] = {}
        self.producers: dict[str, int] = {}
        self.final: set[int] = set()

    def read(self) -> tuple[OnnxGraph, dict[str, np.ndarray], int]:
        """Returns the graph, its parameters and the number of outputs."""
        refuse_external_data(self.model, self.path)
        self.opset = self._operator_set()
        self.inputs = input_ports(self.graph, self.path, self.shapes)
        has_batch_axis, input_shape, values = input_values(
            self.builder, self.graph, self.inputs, self.rows
        )
        self.values.update(values)
        self._declare_initializers()
        self._index_nodes()
        names = [output.name for output in self.graph.output]
        if not names:
            raise InputError(f"{self.path} has no output: {_EXPORT_AGAIN}")
        if len(names) == 1:
            self._mark_final(names[0])
        for index in self._in_order(names):
            self._lower(index)
        value = self._joined(names)
        graph = OnnxGraph(
            input_shape, has_batch_axis, tuple(self.builder.nodes), value.name
        )
        if self.rows:
            self.builder.note(
                f"the file takes a fixed batch of {self.rows} inputs; one is read, and "
                "stands in every row"
            )
        if self.types() != _FLOAT32_ALONE:
            self.builder.note(f"the file computes in {' and '.join(self.types())}")
        return graph, self.builder.params, math.prod(value.shape)

    def fixed_batch(self, graph: OnnxGraph) -> bool:
        """Returns whether the file that was read takes a batch of fixed size."""
        single = len(self.inputs) == 1 and not graph.has_batch_axis
        if not single or len(graph.input_shape) < 2:
            return False
        shapes = [port.shape for port in self.outputs]
        return is_fixed_batch(graph, self.builder.params, shapes)

    def _joined(self, names: Sequence[str]) -> Computed:
        """Returns the outputs as one value."""
        values = [self.values[name] for name in names]
        self.outputs = tuple(
            Port(name, tuple(value.shape), str(value.dtype))
            for name, value in zip(names, values, strict=True)
        )
        for name, value in zip(names, values, strict=True):
            if len(names) == 1 and not (isinstance(value, Computed) and value.varies):
                raise InputError(
                    f"output '{name}' of {self.path} does not depend on the input: "
                    f"{_EXPORT_AGAIN}"
                )
            if math.prod(value.shape) == 0:
                raise InputError(
                    f"output '{name}' of {self.path} is empty (shape {value.shape}): "
                    f"{_EXPORT_AGAIN}"
                )
            if len(names) > 1 and not is_float(value.dtype):
                raise UnsupportedError(
                    f"output '{name}' of {self.path} is of type {value.dtype}; only "
                    "floats are read beside other outputs: export it without"
                )
        value = joined_outputs(self.builder, values, self.rows)
        if not isinstance(value, Computed) or not value.varies:
            raise InputError(
                f"no output of {self.path} depends on the input: {_EXPORT_AGAIN}"
            )
        return value

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

    def _in_order(self, outputs: Sequence[str]) -> Iterator[int]:
        """Yields the nodes that the outputs need, each after those it reads.

        Depth first from the outputs, so that the order does not depend on the file's.
        """
        done: set[int] = set()
        open_nodes: set[int] = set()
        for output in outputs:
            if output not in self.values and output not in self.producers:
                raise InputError(
                    f"output '{output}' of {self.path} is computed nowhere: "
                    f"{_EXPORT_AGAIN}"
                )
        stack = [self.producers[o] for o in reversed(outputs) if o in self.producers]
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
