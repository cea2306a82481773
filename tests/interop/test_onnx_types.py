"""The types that an ONNX file states: weights, casts and constants, as runtimes do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_models import FLOAT, floats, make_model, node, onnx, refused, runtime, write

from jaxcert.errors import UnsupportedError
from jaxcert.interop.onnx import load_onnx
from jaxcert.network import Network

Types = onnx.TensorProto
HALF, DOUBLE, BFLOAT = Types.FLOAT16, Types.DOUBLE, Types.BFLOAT16
LOW = {
    "FLOAT16": np.float16,
    "BFLOAT16": ml_dtypes.bfloat16,
    "FLOAT8E4M3FN": ml_dtypes.float8_e4m3fn,
    "FLOAT8E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "FLOAT8E5M2": ml_dtypes.float8_e5m2,
    "FLOAT8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}


def evaluate(network: Network, x: np.ndarray) -> np.ndarray:
    """The lowered network in the types of its file."""
    with jax.enable_x64(True):
        return np.asarray(network.apply(network.params, jnp.asarray(x)))


def compare(model: Any, folder: Path, x: np.ndarray, tolerance: float = 0.0) -> Network:
    """Loads the model and compares it with onnxruntime, optimised or not."""
    path = write(model, folder)
    network = load_onnx(path)
    got = evaluate(network, x)
    for optimised in (False, True):
        expected = runtime(path.read_bytes(), x, True, optimised).ravel()
        np.testing.assert_allclose(
            got, expected.astype(got.dtype), rtol=tolerance, atol=tolerance
        )
    return network


# --- casts -----------------------------------------------------------------------


@pytest.mark.optimised
@pytest.mark.parametrize("name", LOW)
def test_a_cast_to_a_narrow_float_is_computed(name: str, tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["x"], ["h"], to=getattr(Types, name)),
        node("Cast", ["h"], ["f"], to=FLOAT),
        node("Mul", ["f", "k"], ["y"]),
    ]
    x = (floats(600) * 10.0 ** np.repeat(np.arange(-6, 6), 50)).astype(np.float32)
    x = x[np.abs(x) < float(ml_dtypes.finfo(LOW[name]).max)]
    weights = {"k": np.array(1024.0, np.float32)}
    model = make_model(nodes, (1, x.size), weights, 19)
    model.ir_version = 9
    network = compare(model, tmp_path, x)
    expected = x.astype(LOW[name]).astype(np.float32) * np.float32(1024)
    np.testing.assert_array_equal(evaluate(network, x), expected)
    assert np.any(expected != x * 1024)
    assert network.types == ("float32", np.dtype(LOW[name]).name)
    assert network.notes == (
        f"the file computes in float32 and {np.dtype(LOW[name]).name}",
    )
    # A program that holds its numbers in float64 rounds them as well.
    with jax.enable_x64(True):
        wide = np.asarray(network.apply({}, jnp.asarray(x, jnp.float64)))
    np.testing.assert_array_equal(wide, expected)


def test_the_threshold_of_a_cast(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["x"], ["h"], to=HALF),
        node("Cast", ["h"], ["f"], to=FLOAT),
        node("Mul", ["f", "k"], ["y"]),
    ]
    weights = {"k": np.array(1000.0, np.float32)}
    model = make_model(nodes, (1, 1), weights)
    network = compare(model, tmp_path, np.array([0.30018], np.float32), 1e-6)
    assert evaluate(network, np.array([0.30018], np.float32)) > 300.29


def test_too_large_for_8_bits(tmp_path: Path) -> None:
    x = np.array([1e6, -1e6, 449.0, 3.0, np.inf], np.float32)
    for saturate in (1, 0):
        nodes = [
            node("Cast", ["x"], ["h"], to=Types.FLOAT8E4M3FN, saturate=saturate),
            node("Cast", ["h"], ["y"], to=FLOAT),
        ]
        model = make_model(nodes, (1, 5), opset=19)
        model.ir_version = 9
        network = compare(model, tmp_path, x)
        assert np.isnan(evaluate(network, x)).any() == (not saturate)
        # Constants take the same way.
        nodes[0].input[0] = "c"
        nodes.append(node("Add", ["x", "y"], ["z"]))
        nodes[1].output[0] = "y"
        finite = x[:4]
        model = make_model(nodes, (1, 4), {"c": finite}, 19, "z")
        model.ir_version = 9
        if saturate:
            compare(model, tmp_path, np.zeros(4, np.float32))
        else:
            refused(write(model, tmp_path), "contains NaN or infinity")


def test_a_cast_to_double_and_back(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["x"], ["d"], to=DOUBLE),
        node("Mul", ["d", "w"], ["e"]),
        node("Sub", ["e", "d"], ["s"]),
        node("Cast", ["s"], ["y"], to=FLOAT),
    ]
    weights = {"w": np.array([1 + 1e-12, 1 - 1e-10, 1 + 3e-9])}
    model = make_model(nodes, (1, 3), weights)
    network = compare(model, tmp_path, floats(3))
    assert network.types == ("float64", "float32")
    assert network.params["w0"].dtype == np.float64
    # Without float64, as in a search, nothing warns and nothing fails.
    assert network.apply(network.params, floats(3)).dtype == np.float32


def test_other_casts_of_the_input_are_refused(tmp_path: Path) -> None:
    for to, text in ((Types.INT8, "is not float"), (Types.STRING, "casts to STRING")):
        nodes = [node("Cast", ["x"], ["h"], to=to), node("Cast", ["h"], ["y"], to=1)]
        refused(write(make_model(nodes), tmp_path), text, UnsupportedError)


# --- networks in other types than float32 ------------------------------------------


def test_a_double_network_keeps_its_digits(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Add", ["h", "b"], ["i"]),
        node("Relu", ["i"], ["j"]),
        node("MatMul", ["j", "v"], ["y"]),
    ]
    random = np.random.default_rng(0)
    shapes = {"w": (6, 9), "b": (9,), "v": (9, 3)}
    weights = {k: random.normal(size=s) for k, s in shapes.items()}
    model = make_model(nodes, (1, 6), weights, types=(DOUBLE, DOUBLE))
    network = compare(model, tmp_path, random.normal(size=6), 1e-14)
    assert {a.dtype for a in network.params.values()} == {np.dtype(np.float64)}
    np.testing.assert_array_equal(network.params["w0"], weights["w"])
    assert network.types == ("float64",)
    assert network.notes == ("the file computes in float64",)
    # relu((1 + 1e-9) x) 1e9 - relu(x) 1e9 is x, and 0 for the rounded weights.
    weights = {"w": np.array([[1 + 1e-9, 1.0]]), "v": np.array([[1e9], [-1e9]])}
    nodes = [nodes[0], node("Relu", ["h"], ["j"]), nodes[3]]
    model = make_model(nodes, (1, 1), weights, types=(DOUBLE, DOUBLE))
    network = compare(model, tmp_path, np.ones(1), 1e-6)
    assert evaluate(network, np.ones(1)) > 0.9


def test_a_float32_network_says_so(tmp_path: Path) -> None:
    model = make_model([node("MatMul", ["x", "w"], ["y"])], weights={"w": floats(6, 2)})
    network = load_onnx(write(model, tmp_path))
    assert network.types == ("float32",) and network.notes == ()


def test_a_half_network_rounds_after_every_operator(tmp_path: Path) -> None:
    nodes = [
        node("Gemm", ["x", "w", "b"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("Mul", ["r", "r"], ["q"]),
        node("MatMul", ["q", "v"], ["y"]),
    ]
    shapes = {"w": (6, 9), "b": (9,), "v": (9, 3)}
    weights = {k: floats(*s).astype(np.float16) for k, s in shapes.items()}
    model = make_model(nodes, (1, 6), weights, types=(HALF, HALF))
    path = write(model, tmp_path)
    network = load_onnx(path)
    assert {a.dtype for a in network.params.values()} == {np.dtype(np.float16)}
    assert network.types == ("float16",)
    x = floats(6).astype(np.float16)
    got = evaluate(network, x)
    wide = {k: a.astype(np.float32) for k, a in weights.items()}

    def half(value: np.ndarray) -> np.ndarray:
        return value.astype(np.float16).astype(np.float32)

    hidden = np.maximum(half(x.astype(np.float32) @ wide["w"] + wide["b"]), 0)
    np.testing.assert_array_equal(got, half(half(hidden * hidden) @ wide["v"]))
    expected = runtime(path.read_bytes(), x, True, False).ravel()
    np.testing.assert_allclose(got, expected.astype(np.float32), rtol=2e-3, atol=1e-2)
    # The input is rounded too, whoever holds it in a wider type.
    x = floats(6)
    np.testing.assert_array_equal(
        evaluate(network, x), evaluate(network, x.astype(np.float16))
    )


def test_types_may_not_be_mixed(tmp_path: Path) -> None:
    model = make_model([node("Add", ["x", "w"], ["y"])], weights={"w": np.ones(6)})
    refused(write(model, tmp_path), "its inputs are of types float32 and float64")
    weights = {"w": np.ones(6, np.float16)}
    model = make_model([node("Max", ["x", "w"], ["y"])], weights=weights)
    refused(write(model, tmp_path), "its inputs are of types float32 and float16")
    weights = {"a": np.ones(1, np.int64), "b": np.ones(1, np.int32)}
    nodes = [node("Add", ["a", "b"], ["c"]), node("Reshape", ["x", "c"], ["y"])]
    model = make_model(nodes, weights=weights)
    refused(write(model, tmp_path), "its operands are of types int(64|32), int")


# --- what a file computes from its constants ---------------------------------------


def test_a_constant_cast_to_half_is_rounded(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["c"], ["h"], to=HALF),
        node("Cast", ["h"], ["f"], to=FLOAT),
        node("Add", ["x", "f"], ["y"]),
    ]
    for values in (np.array([2049.0], np.float32), np.array([2049], np.int64)):
        model = make_model(nodes, (1, 1), {"c": values})
        network = compare(model, tmp_path, np.zeros(1, np.float32))
        assert evaluate(network, np.zeros(1, np.float32)) == 2048
        assert network.types == ("float32",)  # what the network itself computes in


def test_a_computed_weight_is_that_of_the_runtime(tmp_path: Path) -> None:
    a = np.float32(1 + 2**-12)
    nodes = [
        node("Mul", ["a", "a"], ["q"]),
        node("Sub", ["q", "c"], ["d"]),
        node("Mul", ["d", "k"], ["w"]),
        node("Mul", ["x", "w"], ["y"]),
    ]
    weights = {
        "a": np.full(1, a, np.float32),
        "c": np.full(1, np.float32(a * a), np.float32),
        "k": np.full(1, 2.0**24, np.float32),
    }
    x = np.ones(1, np.float32)
    network = compare(make_model(nodes, (1, 1), weights), tmp_path, x)
    assert evaluate(network, x) == 0
    wide = {k: v.astype(np.float64) for k, v in network.params.items()}
    with jax.enable_x64(True):
        assert network.apply(wide, jnp.ones(1, jnp.float64)) == 0


NUMBERS = st.floats(-8, 8, width=16).map(lambda v: v or 0.5)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    steps=st.lists(
        st.sampled_from("Add Sub Mul Div Neg Abs Relu Min Max Sqrt Cast".split()),
        min_size=1,
        max_size=5,
    ),
    kind=st.sampled_from([np.float32, np.float64]),
    low=st.sampled_from([HALF, FLOAT, DOUBLE]),
    a=st.lists(NUMBERS, min_size=3, max_size=3),
    b=st.lists(NUMBERS, min_size=3, max_size=3),
)
def test_folded_arithmetic_is_that_of_the_runtime(
    steps: list[str], kind: Any, low: int, a: Any, b: Any, tmp_path: Path
) -> None:
    """Chains of correctly rounded operators on constants: equal to the last bit."""
    back = {np.float32: FLOAT, np.float64: DOUBLE}[kind]
    nodes, last = [], "a"
    for i, op in enumerate(steps):
        result = f"c{i}"
        if op == "Cast":
            nodes.append(node("Cast", [last], [f"t{i}"], to=low))
            nodes.append(node("Cast", [f"t{i}"], [result], to=back))
        elif op == "Sqrt":
            nodes.append(node("Abs", [last], [f"t{i}"]))
            nodes.append(node("Sqrt", [f"t{i}"], [result]))
        else:
            second = ["b"] if op in ("Add", "Sub", "Mul", "Div", "Min", "Max") else []
            nodes.append(node(op, [last, *second], [result]))
        last = result
    nodes.append(node("Add", ["x", last], ["y"]))
    third = np.array([1 / 3, 0.1, 1.7], kind)
    weights = {"a": np.array(a, kind) * third, "b": np.array(b, kind) / third}
    model = make_model(nodes, (1, 3), weights, types=(back, back))
    compare(model, tmp_path, np.zeros(3, kind))


INT_OPS = ["Add", "Sub", "Mul", "Div", "Min", "Max"]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    op=st.sampled_from(INT_OPS),
    kind=st.sampled_from([np.int32, np.int64]),
    a=st.integers(-(2**31), 2**31 - 1),
    b=st.integers(-(2**31), 2**31 - 1).filter(bool),
)
def test_folded_whole_numbers_wrap_as_those_of_the_runtime(
    op: str, kind: Any, a: int, b: int, tmp_path: Path
) -> None:
    if op == "Div" and (a, b) == (-(2**31), -1):
        return  # undefined
    nodes = [
        node(op, ["a", "b"], ["c"]),
        node("Cast", ["c"], ["d"], to=DOUBLE),
        node("Add", ["x", "d"], ["y"]),
    ]
    weights = {"a": np.array([a], kind), "b": np.array([b], kind)}
    model = make_model(nodes, (1, 1), weights, types=(DOUBLE, DOUBLE))
    compare(model, tmp_path, np.zeros(1))


def test_other_folded_operators_agree(tmp_path: Path) -> None:
    """Operators that are not correctly rounded agree but for the last digits."""
    c = np.abs(floats(1, 4)) + 0.1
    image = floats(1, 1, 4, 4)
    cases = [
        *[node(op, ["c"], ["d"]) for op in "Exp Log Tanh Sigmoid Erf Softplus".split()],
        *[node(op, ["c"], ["d"]) for op in "Elu Selu LeakyRelu HardSwish".split()],
        node("HardSigmoid", ["c"], ["d"]),
        node("ReduceMean", ["c"], ["d"], keepdims=1),
        node("ReduceSum", ["c"], ["d"], keepdims=1),
        node("Pow", ["c", "two"], ["d"]),
        node("MatMul", ["c", "m"], ["d"]),
        node("Gemm", ["c", "m", "c"], ["d"], alpha=0.5, beta=2.0, transB=1),
        node("MaxPool", ["image"], ["d"], kernel_shape=[4, 1]),
        node("Conv", ["image", "image"], ["d"]),
    ]
    weights = {"c": c, "m": floats(4, 4), "image": image}
    weights["two"] = np.array(2.5, np.float32)
    for operator in cases:
        nodes = [operator, node("Add", ["x", "d"], ["y"])]
        model = make_model(nodes, (1, 4), weights)
        network = compare(model, tmp_path, np.zeros(4, np.float32), 2e-6)
        operations = [n.op for n in network.apply.nodes]
        assert operations == ["add"] and len(network.params) <= 1, operator.op_type


def test_half_constants(tmp_path: Path) -> None:
    a, b = (np.abs(floats(4)).astype(np.float16) for _ in range(2))
    for op in ("Add", "Mul", "Div", "Sub"):
        nodes = [
            node(op, ["a", "b"], ["h"]),
            node("Cast", ["h"], ["f"], to=FLOAT),
            node("Add", ["x", "f"], ["y"]),
        ]
        network = load_onnx(
            write(make_model(nodes, (1, 4), {"a": a, "b": b}), tmp_path)
        )
        function = {"Add": np.add, "Mul": np.multiply, "Div": np.divide}.get(op)
        expected = (function or np.subtract)(a, b).astype(np.float32)
        got = evaluate(network, np.zeros(4, np.float32))
        np.testing.assert_array_equal(got, expected)


def test_a_number_that_no_whole_type_holds(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["c"], ["s"], to=Types.INT64),
        node("Reshape", ["x", "s"], ["y"]),
    ]
    for value in (np.nan, np.inf, 2.0**63):
        model = make_model(nodes, weights={"c": np.array([value], np.float32)})
        refused(write(model, tmp_path), "casts a number to int64 that does not fit")
    model = make_model(nodes, weights={"c": np.array([-1.7, 6.9], np.float32)})
    assert load_onnx(write(model, tmp_path)).num_outputs == 6
