"""ONNX files of several inputs and outputs, and batch axes of any size or name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import FLOAT, floats, ints, make_model, node, onnx, ort, refused, write

import jaxcert as jc
from jaxcert.errors import InputError, UnsupportedError
from jaxcert.interop.onnx import load_onnx

Shapes = dict[str, tuple[Any, ...]]


def model_of(
    nodes: list[Any],
    inputs: Shapes,
    outputs: tuple[str, ...],
    weights: dict[str, np.ndarray] | None = None,
) -> Any:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "test",
        [info(name, FLOAT, shape) for name, shape in inputs.items()],
        [info(name, FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(a, n) for n, a in (weights or {}).items()],
    )
    opset = onnx.helper.make_opsetid("", 17)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)


def answers(path: Path, feed: dict[str, np.ndarray]) -> np.ndarray:
    """Returns all outputs of onnxruntime, joined."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    return np.concatenate([y.ravel() for y in session.run(None, feed)])


def two_and_two(first: int, second: int) -> Any:
    """Two inputs that meet, and two outputs of different shapes, in a mixed order."""
    weights = {"v": floats(first, 3), "w": floats(second, 3), "u": floats(3, 2)}
    nodes = [
        node("MatMul", ["a", "v"], ["p"]),
        node("MatMul", ["b", "w"], ["q"]),
        node("Add", ["p", "q"], ["s"]),
        node("Relu", ["s"], ["h"]),
        node("MatMul", ["h", "u"], ["y"]),
        node("Sub", ["h", "p"], ["z"]),
    ]
    shapes: Shapes = {"a": ("batch", first), "b": (1, second)}
    return model_of(nodes, shapes, ("z", "y"), weights)


@settings(max_examples=6, deadline=None)
@given(first=st.integers(1, 4), second=st.integers(1, 4), seed=st.integers(0, 99))
def test_several_inputs_and_outputs_are_parts_of_one_vector(
    tmp_path_factory, first, second, seed
):
    folder = tmp_path_factory.mktemp("ports")
    path = write(two_and_two(first, second), folder)
    network = load_onnx(path)
    assert [(p.name, p.shape) for p in network.inputs] == [
        ("a", (1, first)), ("b", (1, second)),
    ]  # fmt: skip
    assert [(p.name, p.shape) for p in network.outputs] == [
        ("z", (1, 3)), ("y", (1, 2)),
    ]  # fmt: skip
    assert network.input_shape == (first + second,) and network.num_outputs == 5
    random = np.random.default_rng(seed)
    points = random.normal(size=(20, first + second)).astype(np.float32)
    run = jax.jit(network.apply)
    box = jc.Box(points.min(0), points.max(0))
    out = jax.jit(jc.crown(network.apply))(network.params, box).concretize(box)
    for x in points:
        expected = answers(path, {"a": x[None, :first], "b": x[None, first:]})
        np.testing.assert_allclose(
            run(network.params, x), expected, rtol=1e-5, atol=1e-5
        )
        assert np.all(out.lo - 1e-4 <= expected) and np.all(expected <= out.hi + 1e-4)


@pytest.mark.parametrize("rows", [2, 5])
def test_of_a_fixed_batch_one_input_is_read(tmp_path, rows):
    weights = {"w": floats(6, 4), "v": floats(4, 3), "shape": ints(rows, 2, 3),
               "flat": ints(rows, 6)}  # fmt: skip
    nodes = [
        node("Reshape", ["x", "shape"], ["r"]),  # which names the size of the batch
        node("Relu", ["r"], ["s"]),
        node("Reshape", ["s", "flat"], ["t"]),
        node("MatMul", ["t", "w"], ["h"]),
        node("Tanh", ["h"], ["k"]),
        node("MatMul", ["k", "v"], ["y"]),
    ]
    path = write(make_model(nodes, (rows, 6), weights), tmp_path)
    network = load_onnx(path)
    assert network.input_shape == (6,) and network.num_outputs == 3
    assert f"fixed batch of {rows} inputs" in " ".join(network.notes)
    x = np.random.default_rng(rows).normal(size=(rows, 6)).astype(np.float32)
    expected = answers(path, {"x": x}).reshape(rows, 3)
    for row in range(rows):
        found = network.apply(network.params, x[row])
        np.testing.assert_allclose(found, expected[row], rtol=1e-5, atol=1e-5)
    whole = load_onnx(path, [(rows, 6)])
    assert whole.input_shape == (rows, 6) and whole.num_outputs == 3 * rows
    found = whole.apply(whole.params, x)
    np.testing.assert_allclose(found, expected.ravel(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["batch", "N", "unk__1", None])
def test_open_axes_are_what_is_declared(tmp_path, name):
    weights = {"w": floats(3, 2)}
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])]
    path = write(make_model(nodes, (name, 3), weights), tmp_path)
    assert load_onnx(path).input_shape == (3,)
    assert load_onnx(path, [(1, 3)]).input_shape == (3,)
    network = load_onnx(path, [(4, 3)])
    assert network.input_shape == (4, 3) and network.num_outputs == 8
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    found = network.apply(network.params, x)
    np.testing.assert_allclose(found, answers(path, {"x": x}), rtol=1e-5, atol=1e-5)
    two_open = write(make_model(nodes, ("n", 2, "d"), {"w": floats(3, 2)}), tmp_path)
    assert load_onnx(two_open, [(1, 2, 3)]).input_shape == (2, 3)


def test_shapes_that_do_not_fit_are_named(tmp_path):
    path = write(make_model([node("Relu", ["x"], ["y"])], ("batch", 6)), tmp_path)
    for shape in ((1, 7), (6,), (1, 1, 6), (0, 6)):
        with pytest.raises(InputError, match="they do not belong together"):
            load_onnx(path, [shape])
    with pytest.raises(InputError, match="has 1 inputs .x., and 2 are declared"):
        load_onnx(path, [(1, 6), (1, 6)])


def test_outputs_that_cannot_be_joined(tmp_path):
    nodes = [node("Relu", ["x"], ["y"]), node("ArgMax", ["x"], ["k"], axis=1)]
    model = model_of(nodes, {"x": (1, 3)}, ("y", "k"))
    model.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    with pytest.raises((UnsupportedError, InputError), match="'k'"):
        load_onnx(write(model, tmp_path))
    constant = [node("Constant", [], [n], value_floats=[1.0]) for n in ("y", "z")]
    refused(
        write(model_of(constant, {"x": (1, 3)}, ("y", "z")), tmp_path),
        "no output of .* depends on the input",
    )


def test_softmax_beside_another_output_is_computed(tmp_path):
    nodes = [node("Softmax", ["x"], ["y"], axis=1), node("Relu", ["x"], ["z"])]
    path = write(model_of(nodes, {"x": (1, 3)}, ("y", "z")), tmp_path)
    network, x = load_onnx(path), np.array([[0.5, -1.0, 2.0]], np.float32)
    found = network.apply(network.params, x[0])
    np.testing.assert_allclose(found, answers(path, {"x": x}), rtol=1e-5, atol=1e-6)
