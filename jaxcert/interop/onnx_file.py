"""The bytes of an ONNX file: read with bounds, parsed, and its tensors as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcert.errors import InputError, UnsupportedError
from jaxcert.files import read_bounded

MAX_BYTES = 2**31
"""Largest file that is read, before and after decompression: the format's own limit."""

_WHOLE_TYPES = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32")
_HALF_TYPES = ("FLOAT16", "BFLOAT16")


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


def type_name(data_type: int) -> str:
    """Returns the name of an ONNX element type, "unknown" for a number without one."""
    import onnx

    types = onnx.TensorProto.DataType
    return types.Name(data_type) if data_type in types.values() else "unknown"


def tensor_array(tensor: Any, path: str) -> np.ndarray:
    """Returns the numbers of a tensor: float32 or float64, int64, or bool.

    Raises:
      InputError: the numbers are not as many as the shape says.
      UnsupportedError: the type is none that weights or shapes have.
    """
    import onnx

    kind = type_name(tensor.data_type)
    if kind not in ("FLOAT", "DOUBLE", "BOOL", *_HALF_TYPES, *_WHOLE_TYPES):
        raise UnsupportedError(
            f"weight '{tensor.name}' of {path} is of type {kind}: export the network "
            "in float32"
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
    if kind in _HALF_TYPES:
        return array.astype(np.float32)
    return array.astype(np.int64) if kind in _WHOLE_TYPES else array
