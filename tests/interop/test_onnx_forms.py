"""Unusual but legal forms of ONNX files, and damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from onnx_models import floats, ints, make_model, node, onnx, refused, runtime, scalar
from onnx_models import write as write_model

from jaxcert.errors import InputError, UnsupportedError
from jaxcert.interop.onnx import load_onnx
from jaxcert.network import Network


def agrees(model: Any, folder: Path, low: float = -2.0) -> Network:
    path = write_model(model, folder)
    network = load_onnx(path)
    apply = jax.jit(network.apply)
    for seed in range(3):
        random = np.random.default_rng(seed)
        x = random.uniform(low, 2, network.input_shape).astype(np.float32)
        expected = runtime(path.read_bytes(), x, network.apply.has_batch_axis)
        got = apply(network.params, x)
        np.testing.assert_allclose(got, expected.ravel(), rtol=2e-6, atol=1e-6)
    return network


def test_a_batch_axis_of_minus_one(tmp_path: Path) -> None:
    model = make_model([node("Relu", ["x"], ["y"])], (1, 6))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert load_onnx(write_model(model, tmp_path)).input_shape == (6,)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -1
    text = r"has the shape \['\?', '\?'\], and only a batch axis in front may be open"
    refused(write_model(model, tmp_path), text)


def test_rows_that_meet_are_no_batch(tmp_path: Path) -> None:
    mixing = [
        [node("MatMul", ["w", "x"], ["y"])],
        [node("ReduceSum", ["x", "zero"], ["s"]), node("Add", ["x", "s"], ["y"])],
        [node("Transpose", ["x"], ["y"])],
        [
            node("Reshape", ["x", "flat"], ["f"]),
            node("MatMul", ["f", "v"], ["g"]),
            node("Reshape", ["g", "square"], ["y"]),
        ],
    ]
    weights = {"w": floats(2, 2), "v": floats(4, 4), "zero": ints(0)}
    weights |= {"flat": ints(-1), "square": ints(2, 2)}
    for nodes in mixing:
        network = agrees(make_model(nodes, (2, 2), weights), tmp_path)
        assert network.input_shape == (2, 2) and network.num_outputs == 4
    apart = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])]
    model = make_model(apart, (2, 2), weights)
    assert load_onnx(write_model(model, tmp_path)).input_shape == (2,)


def test_exponents(tmp_path: Path) -> None:
    for exponents in (
        np.array([2, 2, 2, 2, 2, 2], np.float32),
        np.array([1, 2, 3, 0.5, -1.5, 0], np.float32),
        np.array([[0], [2], [0.5]], np.float32),
        ints(3, 2, 3, 1, 0, 2),
        ints(0),
    ):
        nodes = [node("Pow", ["x", "e"], ["p"]), node("Add", ["p", "x"], ["y"])]
        agrees(make_model(nodes, (1, 6), {"e": exponents}), tmp_path, 0.1)
    model = make_model(nodes, (1, 20), {"e": np.arange(20, dtype=np.float32)})
    refused(write_model(model, tmp_path), "20 different exponents", UnsupportedError)


def test_a_root_beside_a_negative_number(tmp_path: Path) -> None:
    exponents = np.array([0.5, 2, 3], np.float32)
    model = make_model([node("Pow", ["x", "e"], ["y"])], (1, 3), {"e": exponents})
    network = load_onnx(write_model(model, tmp_path))
    got = network.apply(network.params, np.array([4, -3, -2], np.float32))
    np.testing.assert_allclose(got, [2, 9, -8], rtol=1e-6)


def test_clip_with_crossed_bounds_is_its_upper_one(tmp_path: Path) -> None:
    weights = {"low": scalar(1.0), "high": scalar(-0.5)}
    nodes = [node("Clip", ["x", "low", "high"], ["c"]), node("Add", ["c", "x"], ["y"])]
    network = agrees(make_model(nodes, weights=weights), tmp_path)
    np.testing.assert_array_equal(
        network.apply(network.params, np.zeros(6, np.float32)), np.full(6, -0.5)
    )
    # Before version 11, runtimes refuse it.
    nodes[0] = node("Clip", ["x"], ["c"], min=1.0, max=-0.5)
    path = write_model(make_model(nodes, opset=10), tmp_path)
    refused(path, "lower bound 1.0 is above its upper bound -0.5")


@pytest.mark.parametrize(
    "versions",
    [
        [("", 13), ("", 13)],
        [("", 11), ("", 13)],
        [("ai.onnx", 11), ("", 13)],
        [("", 11), ("ai.onnx", 13)],
        [("", 13), ("", 11)],
        [("", 13), ("ai.onnx.ml", 2)],
    ],
)
def test_versions_named_twice(versions: list[tuple[str, int]], tmp_path: Path) -> None:
    last = [v for d, v in versions if d in ("", "ai.onnx")][-1]
    # The operator whose axes became an input in version 13.
    reduce = (
        node("ReduceSum", ["x", "a"], ["y"])
        if last == 13
        else node("ReduceSum", ["x"], ["y"], axes=[1])
    )
    model = make_model([reduce], (1, 2, 3), {"a": ints(1)})
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, v in versions)
    network = agrees(model, tmp_path)
    differing = len({v for d, v in versions if d != "ai.onnx.ml"}) > 1
    assert len(network.notes) == differing
    assert all("the last is read, as onnxruntime does" in n for n in network.notes)


def test_where_with_a_constant_condition(tmp_path: Path) -> None:
    weights = {
        "row": np.array([1, 0, 0, 1, 1, 0], bool),
        "one": np.array(True),
        "column": np.array([[True], [False]]),
        "none": scalar(-1000.0),
        "w": floats(6),
    }
    for first, second in (("x", "none"), ("w", "x"), ("x", "double")):
        for condition in ("row", "one", "column"):
            nodes = [
                node("Add", ["x", "x"], ["double"]),
                node("Where", [condition, first, second], ["s"]),
                node("Add", ["s", "x"], ["y"]),
            ]
            agrees(make_model(nodes, (1, 6), weights), tmp_path)
    nodes = [node("Where", ["w", "x", "w"], ["y"])]
    model = make_model(nodes, (1, 6), weights)
    refused(write_model(model, tmp_path), "condition is of type float32, not bool")


def test_rounding_operators(tmp_path: Path) -> None:
    nodes = [node("Sin", ["x"], ["a"]), node("Cos", ["x"], ["b"])]
    nodes += [node("Concat", ["a", "b"], ["y"], axis=1)]
    agrees(make_model(nodes, (1, 6)), tmp_path)
    for op in ("Floor", "Ceil", "Round", "Sign"):
        path = write_model(make_model([node(op, ["x"], ["y"])], (1, 9)), tmp_path)
        network = load_onnx(path)
        x = np.array([-2.5, -1.5, -1, -0.5, 0, 0.5, 1.5, 2.4, 3], np.float32)
        expected = runtime(path.read_bytes(), x, True).ravel()
        np.testing.assert_array_equal(network.apply({}, x), expected)


# --- damaged files -----------------------------------------------------------------


def whole_model(seed: int) -> Any:
    """A model in which many operators and attributes can be damaged."""
    random = np.random.default_rng(seed)
    weights = {
        "k": random.normal(size=(2, 1, 3, 3)).astype(np.float32),
        "w": random.normal(size=(18, 4)).astype(np.float32),
        "shape": ints(1, -1),
        "start": ints(-1),
        "end": ints(-9),
        "axis": ints(1),
        "step": ints(-1),
        "pads": ints(0, 1, 0, 0),
        "times": ints(1, 2),
        "low": scalar(-1.0),
        "half": random.normal(size=4).astype(np.float16),
        "zero": np.zeros(4, np.float16),
    }
    nodes = [
        node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1], strides=[1, 1], group=1),
        node("MaxPool", ["c"], ["m"], kernel_shape=[2, 2], strides=[1, 1]),
        node("Clip", ["m", "low"], ["l"]),
        node("Slice", ["l", "start", "end", "axis", "step"], ["s"]),
        node("Reshape", ["s", "shape"], ["r"]),
        node("Pad", ["r", "pads"], ["p"]),
        node("Slice", ["p", "axis", "eighteen", "axis"], ["q"]),
        node("Expand", ["q", "axis"], ["e"]),
        node("Tile", ["r", "times"], ["t"]),
        node("Slice", ["t", "zero_i", "eighteen", "axis"], ["u"]),
        node("MatMul", ["u", "w"], ["h"]),
        node("Add", ["half", "zero"], ["hz"]),
        node("Cast", ["hz"], ["b"], to=1),
        node("Add", ["h", "b"], ["i"]),
        node("Concat", ["i", "e"], ["y"], axis=1),
    ]
    weights |= {"zero_i": ints(0), "eighteen": ints(18)}
    return make_model(nodes, (1, 1, 4, 4), weights)


def mutate(model: Any, random: np.random.Generator) -> bytes:
    """The model with some bytes, or some numbers of its structure, changed."""
    if random.integers(3) == 0:
        data = bytearray(model.SerializeToString())
        for at in random.integers(0, len(data), random.integers(1, 6)):
            data[at] = random.integers(0, 256)
        return bytes(data)
    strange = [0, 1, -1, 2, 7, -5, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63)]
    copy = type(model).FromString(model.SerializeToString())
    graph = copy.graph
    for _ in range(random.integers(1, 4)):
        number = int(strange[random.integers(len(strange))])
        what = random.integers(7)
        operator = graph.node[random.integers(len(graph.node))]
        tensor = graph.initializer[random.integers(len(graph.initializer))]
        if what == 0 and operator.attribute:
            attribute = operator.attribute[random.integers(len(operator.attribute))]
            if attribute.ints:
                attribute.ints[random.integers(len(attribute.ints))] = number
            else:
                attribute.i = number
        elif what == 1 and tensor.data_type == onnx.TensorProto.INT64:
            size = len(tensor.raw_data) // 8
            tensor.raw_data = ints(*[number] * size).tobytes()
        elif what == 2:
            tensor.data_type = int(random.integers(0, 24))
        elif what == 3 and tensor.dims:
            tensor.dims[random.integers(len(tensor.dims))] = abs(number) % 2**40
        elif what == 4:
            names = [n for o in graph.node for n in (*o.input, *o.output)]
            at = random.integers(len(operator.input))
            operator.input[at] = names[random.integers(len(names))]
        elif what == 5:
            kinds = sorted({o.op_type for o in graph.node} | {"Split", "GatherND"})
            operator.op_type = kinds[random.integers(len(kinds))]
        else:
            dims = graph.input[0].type.tensor_type.shape.dim
            dims[random.integers(len(dims))].dim_value = number
    return copy.SerializeToString()


@pytest.mark.parametrize("seed", range(3))
def test_damaged_models_end_in_one_clear_line(seed: int, tmp_path: Path) -> None:
    import resource

    random = np.random.default_rng(seed)
    model = whole_model(seed)
    path = write_model(model, tmp_path)
    agrees(model, tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusals = 0
    for _ in range(100):
        path.write_bytes(mutate(model, random))
        try:
            load_onnx(path)
        except (InputError, UnsupportedError) as error:
            refusals += 1
            assert len(str(error)) <= 1000 and str(error).isprintable()
    assert refusals >= 30
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2 * 2**20, f"{grown} KiB more"  # 2 GiB
