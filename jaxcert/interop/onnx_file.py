"""The bytes of an ONNX file: read with bounds, parsed, and its tensors as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcert.errors import InputError, UnsupportedError
from jaxcert.interop.onnx_types import numpy_type, type_name
from jaxcert.runs.files import read_bounded

MAX_BYTES = 2**31
"""Largest file that is read, before and after decompression: the format's own limit."""


def read_bytes(path: str) -> bytes:
    """Returns the bytes of a file, unpacked if it is gzipped."""
    return read_bounded(
        path, MAX_BYTES, gzipped=None, kind="an .onnx or .onnx.gz file",
        remedy="split the network or check the file",
    )  # fmt: skip


def parse(data: bytes, path: str) -> Any:
    """Returns the `onnx.ModelProto` that the bytes hold."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise InputError(
            "reading ONNX files needs the onnx package: pip install 'jaxcert[onnx]'"
        ) from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError) as error:
        raise InputError(
            f"{path} is not an ONNX file, or is truncated: copy or export it again"
        ) from error
    if not model.HasField("graph") or not model.graph.node:
        raise InputError(
            f"{path} holds no network: copy the whole file, or export the network again"
        )
    return model


def _graphs(graph: Any) -> Iterator[Any]:
    """Yields a graph and the graphs inside its control flow."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t


def refuse_external_data(model: Any, path: str) -> None:
    """Raises InputError if a tensor, wherever it stands, is stored in another file."""
    import onnx

    scopes = [*_graphs(model.graph)]
    for function in model.functions:
        for node in function.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    scopes.extend(_graphs(attribute.g))
    for scope in scopes:
        for tensor in _tensors(scope):
            external = tensor.data_location == onnx.TensorProto.EXTERNAL
            if external or tensor.external_data:
                raise InputError(
                    f"weight '{tensor.name}' of {path} is stored in another "
                    "file, and nothing outside the file is opened: save the model "
                    "with its weights inside (onnx.save_model(model, path, "
                    "save_as_external_data=False))"
                )


def tensor_array(tensor: Any, path: str) -> np.ndarray:
    """Returns the numbers of a tensor, in the type that the file states.

    Raises:
      InputError: the numbers are not as many as the shape says.
      UnsupportedError: the type is none that weights or shapes have.
    """
    import onnx

    if numpy_type(tensor.data_type) is None:
        raise UnsupportedError(
            f"weight '{tensor.name}' of {path} is of type "
            f"{type_name(tensor.data_type)}: export the network in float32"
        )
    try:
        array = onnx.numpy_helper.to_array(tensor)
        if array.shape != tuple(tensor.dims):
            raise ValueError(f"{array.shape} is not {tuple(tensor.dims)}")
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(
            f"weight '{tensor.name}' of {path} does not hold as many numbers as its "
            f"shape {tuple(tensor.dims)} says: copy or export it again"
        ) from error
    return array
