"""Small ONNX models, and the answers of onnxruntime, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxcert.errors import InputError
from jaxcert.interop.onnx import load_onnx

onnx = pytest.importorskip("onnx", reason="the onnx package is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

FLOAT = onnx.TensorProto.FLOAT
node = onnx.helper.make_node
rng = np.random.default_rng(0)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def make_model(
    nodes: list[Any],
    input_shape: tuple[Any, ...] = (1, 6),
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    output: str = "y",
    types: tuple[int, int] = (FLOAT, FLOAT),
) -> Any:
    """A model with input "x" and output "y", of the given types."""
    graph = onnx.helper.make_graph(
        nodes,
        "test",
        [onnx.helper.make_tensor_value_info("x", types[0], input_shape)],
        [onnx.helper.make_tensor_value_info(output, types[1], None)],
        [onnx.numpy_helper.from_array(a, n) for n, a in (weights or {}).items()],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8
    )


def write(model: Any, folder: Path, name: str = "net.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def runtime(
    data: bytes, x: np.ndarray, batched: bool, optimised: bool = True
) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimised:
        level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    feed = x[None] if batched else x
    return session.run(None, {session.get_inputs()[0].name: feed})[0]


def refused(
    path: Path, text: str, kind: type[Exception] = InputError, named: bool = True
) -> None:
    with pytest.raises(kind, match=text) as caught:
        load_onnx(path)
    message = str(caught.value)
    assert "\n" not in message
    assert not named or path.name in message
