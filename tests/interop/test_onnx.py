"""Reading and writing ONNX files, against onnxruntime as the independent answer."""

from __future__ import annotations

import dataclasses
import gzip
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from onnx_models import (
    FLOAT,
    floats,
    ints,
    make_model,
    node,
    onnx,
    refused,
    rng,
    runtime,
    scalar,
    write,
)
from test_onnx_operators import STRATEGIES

from jaxcert.errors import InputError, UnsupportedError
from jaxcert.interop import onnx_export, onnx_file, onnx_lowering
from jaxcert.interop.onnx import load_onnx
from jaxcert.interop.onnx_ops import SUPPORTED
from jaxcert.network import content_hash

SHARED = Path(__file__).parents[2].parent / "shared"


def check_against_runtime(model: Any, folder: Path, low: float = -2.0) -> Any:
    path = write(model, folder)
    network = load_onnx(path)
    abstract = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), network.params
    )
    jaxpr = jax.make_jaxpr(network.apply)(
        abstract, jax.ShapeDtypeStruct(network.input_shape, np.float32)
    )
    assert jaxpr.out_avals[0].shape == (network.num_outputs,)
    compiled = jax.jit(network.apply)
    for _ in range(2):
        x = rng.uniform(low, 2.0, network.input_shape).astype(np.float32)
        expected = runtime(path.read_bytes(), x, network.apply.has_batch_axis).ravel()
        got = compiled(network.params, x)
        assert got.shape == (network.num_outputs,)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    return network


@dataclasses.dataclass
class Case:
    name: str
    nodes: list[Any]
    shape: tuple[Any, ...] = (1, 6)
    weights: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    opset: int = 17
    low: float = -2.0


def one(
    op: str,
    shape: tuple[Any, ...] = (1, 6),
    opset: int = 17,
    low: float = -2.0,
    title: str = "",
    inputs: dict[str, np.ndarray | None] | None = None,
    **attributes: Any,
) -> Case:
    """A model of one operator; an input of None is left out."""
    inputs = inputs or {}
    names = [n if a is not None else "" for n, a in inputs.items()]
    weights = {n: a for n, a in inputs.items() if a is not None}
    nodes = [node(op, ["x", *names], ["y"], **attributes)]
    return Case(
        f"{op}-{opset}{title and '-' + title}", nodes, shape, weights, opset, low
    )


IMAGE = (1, 3, 8, 7)
KERNEL = floats(4, 3, 3, 3)
B4 = floats(4)
NORM = {"s": floats(3), "b": floats(3), "m": floats(3), "v": floats(3) ** 2 + 0.1}
X3 = (1, 3, 4)
X3B = ("batch", 3, 4)

CASES = [
    *[
        one(op)
        for op in "Abs Neg Relu LeakyRelu Sigmoid Tanh Exp Softplus Elu Selu Erf "
        "HardSigmoid HardSwish Identity Flatten ReduceMean".split()
    ],
    one("Sqrt", low=0.1),
    one("Log", low=0.1),
    one("Reciprocal", low=0.1),
    one("LeakyRelu", title="alpha", alpha=0.3),
    one("Elu", title="alpha", alpha=0.5),
    one("HardSigmoid", title="alpha", alpha=0.4, beta=0.3),
    one("Gelu", opset=20),
    one("Gelu", opset=20, title="tanh", approximate="tanh"),
    one("PRelu", IMAGE, inputs={"a": floats(3, 1, 1)}),
    one("PRelu", title="one", inputs={"a": floats(1)}),
    one("Add", inputs={"a": floats(6)}),
    one("Add", X3, title="broadcast", inputs={"a": floats(3, 1)}),
    one("Sub", inputs={"a": floats(1, 6)}),
    one("Mul", inputs={"a": scalar(0.3)}),
    one("Div", inputs={"a": floats(6) ** 2 + 0.5}),
    one("Pow", inputs={"a": scalar(2.0)}),
    one("Pow", title="integer", inputs={"a": ints(3)}),
    one("Pow", low=0.1, title="half", inputs={"a": scalar(0.5)}),
    one("Pow", low=0.1, title="any", inputs={"a": scalar(-1.7)}),
    one("Pow", title="one", inputs={"a": scalar(1.0)}),
    one("Min", inputs={"a": floats(6), "b": floats(1, 6)}),
    one("Max", inputs={"a": scalar(0.0)}),
    one("Max", title="single"),
    one("Sum", inputs={"a": floats(6), "b": floats(6)}),
    one("Mean", inputs={"a": floats(6), "b": floats(6)}),
    one("Clip", opset=10, min=-0.5, max=0.7),
    one("Clip", inputs={"a": scalar(-0.5), "b": scalar(0.7)}),
    one("Clip", title="upper", inputs={"a": None, "b": scalar(0.7)}),
    one("Clip", title="lower", inputs={"a": scalar(0.0)}),
    one("Clip", title="none"),
    one(
        "Clip",
        title="infinite",
        inputs={"a": scalar(-np.inf), "b": scalar(np.finfo(np.float32).max)},
    ),
    one("MatMul", inputs={"a": floats(6, 5)}),
    one("MatMul", X3, title="batched", inputs={"a": floats(4, 5)}),
    one("MatMul", title="vector", inputs={"a": floats(6)}),
    one("Gemm", inputs={"a": floats(6, 5), "c": floats(5)}),
    one("Gemm", opset=9, inputs={"a": floats(6, 5), "c": floats(1, 5)}),
    one("Gemm", title="no-bias", inputs={"a": floats(6, 5)}),
    one(
        "Gemm",
        title="scaled",
        inputs={"a": floats(5, 6), "c": floats(5)},
        transB=1,
        alpha=0.5,
        beta=1.5,
    ),
    one("Gemm", (6, 1), title="trans-a", inputs={"a": floats(6, 5)}, transA=1),
    one("Conv", IMAGE, inputs={"w": KERNEL, "b": B4}),
    one("Conv", IMAGE, title="pads", inputs={"w": KERNEL}, pads=[1, 0, 2, 1]),
    one("Conv", IMAGE, title="same", inputs={"w": KERNEL}, auto_pad="SAME_UPPER"),
    one(
        "Conv",
        IMAGE,
        title="same-lower",
        inputs={"w": floats(4, 3, 2, 4)},
        auto_pad="SAME_LOWER",
        strides=[2, 3],
    ),
    one("Conv", IMAGE, title="valid", inputs={"w": KERNEL}, auto_pad="VALID"),
    one(
        "Conv",
        (1, 4, 9, 9),
        title="groups",
        inputs={"w": floats(6, 2, 3, 3), "b": floats(6)},
        group=2,
        dilations=[2, 1],
        strides=[1, 2],
    ),
    one("Conv", (1, 3, 9), title="1d", inputs={"w": floats(4, 3, 3), "b": B4}),
    one("BatchNormalization", IMAGE, inputs=NORM, epsilon=0.01),
    one("BatchNormalization", (1, 3), title="flat", inputs=NORM),
    one("BatchNormalization", (1, 3), 9, title="old", inputs=NORM),
    *[
        one(op, IMAGE, opset, title=f"{i}", **settings)
        for op, opset in (("MaxPool", 12), ("AveragePool", 19))
        for i, settings in enumerate(
            [
                {"kernel_shape": [2, 2], "strides": [2, 2]},
                {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]},
                {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
                {"kernel_shape": [2, 2], "dilations": [2, 3]},
                {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
                {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"},
                {
                    "kernel_shape": [2, 2],
                    "strides": [3, 3],
                    "pads": [0, 0, 1, 1],
                    "ceil_mode": 1,
                },
            ]
        )
    ],
    one(
        "AveragePool",
        IMAGE,
        title="include-pad",
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        count_include_pad=1,
    ),
    one(
        "AveragePool",
        IMAGE,
        19,
        title="include-pad-ceil",
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        ceil_mode=1,
        count_include_pad=1,
    ),
    one("MaxPool", (1, 3, 9), title="1d", kernel_shape=[2], strides=[2]),
    one("GlobalAveragePool", IMAGE),
    one("GlobalMaxPool", IMAGE),
    one("Flatten", X3, title="axis-2", axis=2),
    one("Flatten", X3, title="negative", axis=-1),
    one("Reshape", X3, inputs={"s": ints(0, -1)}),
    one("Reshape", X3B, title="all", inputs={"s": ints(-1)}),
    one("Reshape", X3, 14, title="allowzero", inputs={"s": ints(4, 3)}, allowzero=1),
    one("Transpose", X3, perm=[0, 2, 1]),
    one("Transpose", X3, title="default"),
    one("Concat", inputs={"a": floats(1, 2)}, axis=1),
    one("Concat", X3, title="negative", inputs={"a": floats(1, 3, 2)}, axis=-1),
    one("Squeeze", (1, 3, 1, 2), 11, axes=[2]),
    one("Squeeze", (1, 3, 1, 2), inputs={"a": ints(-2)}),
    one("Squeeze", (1, 3, 1, 2), title="all"),
    one("Unsqueeze", X3, 11, axes=[1, 3]),
    one("Unsqueeze", X3, inputs={"a": ints(-1, 0)}),
    one("Slice", X3, 9, starts=[1, -3], ends=[3, 2**31 - 1], axes=[1, 2]),
    one("Slice", X3, title="no-axes", inputs={"s": ints(0, 1), "e": ints(1, 9)}),
    one(
        "Slice",
        X3,
        title="steps",
        inputs={"s": ints(2, 0), "e": ints(-9, 4), "a": ints(1, -1), "t": ints(-1, 2)},
    ),
    one(
        "Slice",
        X3,
        title="back",
        inputs={"s": ints(-1), "e": ints(-(2**63)), "a": ints(2), "t": ints(-3)},
    ),
    one("Gather", X3, inputs={"i": ints(2, 0, -1)}, axis=1),
    one("Gather", X3, title="scalar", inputs={"i": np.array(1, np.int64)}, axis=1),
    one("Gather", X3, title="range", inputs={"i": ints(3, 2, 1)}, axis=2),
    one(
        "Gather",
        X3,
        title="matrix",
        inputs={"i": ints(0, 3, 1, 1).reshape(2, 2)},
        axis=2,
    ),
    one("Pad", X3, 10, pads=[0, 1, 0, 0, 0, 2], value=0.5),
    one("Pad", X3, title="negative", inputs={"p": ints(0, 1, -1, 0, 0, 2)}),
    one(
        "Pad", X3, title="value", inputs={"p": ints(0, 1, 0, 0, 0, 2), "v": scalar(2.0)}
    ),
    one(
        "Pad",
        X3,
        18,
        title="axes",
        inputs={"p": ints(1, 2), "v": None, "a": ints(-1)},
    ),
    one("ReduceSum", X3, 12, axes=[1], keepdims=0),
    one("ReduceSum", X3, inputs={"a": ints(-1)}),
    one("ReduceSum", X3, title="noop", noop_with_empty_axes=1),
    one("ReduceSum", X3, title="all"),
    one("ReduceMean", X3, axes=[1, 2], keepdims=0),
    one("ReduceMean", X3, 18, inputs={"a": ints(1)}),
    one("ReduceMax", X3, axes=[2]),
    one("ReduceMin", X3, axes=[1], keepdims=0),
    one("Expand", X3, inputs={"s": ints(2, 1, 3, 4)}),
    one("Dropout", opset=11, ratio=0.4),
    one("Dropout", inputs={"r": scalar(0.4), "t": np.array(False)}),
    one("Cast", to=FLOAT),
    Case(
        "Cast-double",
        [
            node("Cast", ["x"], ["d"], to=onnx.TensorProto.DOUBLE),
            node("Mul", ["d", "w"], ["e"]),
            node("Cast", ["e"], ["y"], to=FLOAT),
        ],
        weights={"w": np.array([1.5, -2, 0.25, 1, 3, 4], np.float64)},
    ),
    Case(
        "Cast-constant",
        [node("Cast", ["i"], ["f"], to=FLOAT), node("Mul", ["x", "f"], ["y"])],
        weights={"i": ints(1, 2, 3, 4, 5, 6)},
    ),
    Case(
        "Split",
        [node("Split", ["x"], ["a", "b"], axis=1), node("Sub", ["a", "b"], ["y"])],
    ),
    Case(
        "Split-sizes",
        [
            node("Split", ["x", "s"], ["a", "b", "c"], axis=-1),
            node("Concat", ["c", "b"], ["y"], axis=1),
        ],
        weights={"s": ints(1, 2, 3)},
    ),
    Case(
        "Split-uneven",
        [
            node("Split", ["x"], ["a", "b", "c", "d"], axis=1, num_outputs=4),
            node("Concat", ["d", "a"], ["y"], axis=1),
        ],
        shape=(1, 7),
        opset=18,
    ),
    Case(
        "Constant",
        [
            node("Constant", [], ["h"], value_float=0.5),
            node("Constant", [], ["s"], value_ints=[2, 3]),
            node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(floats(6))),
            node("Mul", ["x", "h"], ["a"]),
            node("Add", ["a", "w"], ["b"]),
            node("Reshape", ["b", "s"], ["y"]),
        ],
    ),
    Case(
        "Shape-flatten",
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"], axis=0),
            node("Unsqueeze", ["n", "zeros"], ["n1"]),
            node("Concat", ["n1", "rest"], ["t"], axis=0),
            node("Reshape", ["x", "t"], ["y"]),
        ],
        shape=X3B,
        weights={"zero": np.array(0, np.int64), "zeros": ints(0), "rest": ints(-1)},
    ),
    Case(
        "ConstantOfShape-expand",
        [
            node(
                "ConstantOfShape",
                ["n"],
                ["one"],
                value=onnx.helper.make_tensor("v", onnx.TensorProto.INT64, [1], [1]),
            ),
            node("Mul", ["one", "minus"], ["m"]),
            node("Equal", ["want", "m"], ["q"]),
            node("Where", ["q", "one", "want"], ["shape"]),
            node("Expand", ["x", "shape"], ["y"]),
        ],
        weights={"n": ints(3), "minus": ints(-1), "want": ints(2, -1, 6)},
    ),
    Case(
        "ReduceProd-shape",
        [
            node("Shape", ["x"], ["s"]),
            node("ReduceProd", ["s"], ["p"], keepdims=1),
            node("Reshape", ["x", "p"], ["y"]),
        ],
        shape=X3,
    ),
    Case(
        "gelu-by-hand",
        [
            node("Div", ["x", "r"], ["a"]),
            node("Erf", ["a"], ["b"]),
            node("Add", ["b", "i"], ["c"]),
            node("Mul", ["x", "c"], ["d"]),
            node("Mul", ["d", "h"], ["y"]),
        ],
        weights={"r": scalar(np.sqrt(2)), "i": scalar(1.0), "h": scalar(0.5)},
    ),
    Case(
        "residual-file-order",
        [
            node("Gemm", ["x", "w", "b"], ["h"]),
            node("Relu", ["h"], ["r"]),
            node("Add", ["r", "x"], ["s"]),
            node("Gemm", ["s", "w", "b"], ["y"]),
        ],
        weights={"w": floats(6, 6), "b": floats(6)},
    ),
    Case(
        "Range-of-places",
        [
            node("Size", ["x"], ["n"]),
            node("Range", ["zero", "n", "one"], ["r"]),
            node("Mod", ["r", "two"], ["m"]),
            node("NonZero", ["m"], ["odd"]),
            node("Equal", ["m", "one"], ["a"]),
            node("Greater", ["r", "two"], ["b"]),
            node("Xor", ["a", "b"], ["c"]),
            node("Where", ["c", "x", "zeros"], ["z"]),
            node("Gather", ["z", "odd"], ["y"], axis=1),
        ],
        weights={
            "zero": np.array(0),
            "one": np.array(1),
            "two": np.array(2),
            "zeros": floats(1, 6),
        },
    ),
    Case(
        "DequantizeLinear-weights",
        [
            node("DequantizeLinear", ["w", "s", "z"], ["v"], axis=0),
            node("MatMul", ["x", "v"], ["y"]),
        ],
        weights={
            "w": np.arange(-9, 9, dtype=np.int8).reshape(6, 3),
            "s": np.linspace(0.1, 0.6, 6, dtype=np.float32),
            "z": np.arange(6, dtype=np.int8),
        },
    ),
    one("Relu", (6,), title="no-batch"),
    one("Flatten", (3, 4), title="no-batch", axis=0),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_operator_agrees_with_onnxruntime(case: Case, tmp_path: Path) -> None:
    model = make_model(case.nodes, case.shape, case.weights, case.opset)
    check_against_runtime(model, tmp_path, case.low)


def test_every_supported_operator_has_a_case() -> None:
    tested = {n.op_type for case in CASES for n in case.nodes}
    elsewhere = {"Swish", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos"}
    elsewhere |= {"GatherElements", "GatherND", "Tile", *STRATEGIES}
    elsewhere |= {"LessOrEqual", "Not", "And", "Or", "OneHot", "DequantizeLinear"}
    assert {*SUPPORTED, "Constant"} == tested | elsewhere


@pytest.mark.parametrize("alpha", [None, 0.0, 1.75])
def test_swish_is_silu_of_a_multiple(alpha: float | None, tmp_path: Path) -> None:
    settings = {} if alpha is None else {"alpha": alpha}
    nodes = [node("Swish", ["x"], ["y"], **settings)]
    network = load_onnx(write(make_model(nodes, opset=24), tmp_path))
    x, slope = floats(6), 1.0 if alpha is None else alpha
    expected = x / (1 + np.exp(-slope * x))
    got = network.apply(network.params, x)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


# --- the published networks ------------------------------------------------------

PUBLISHED = sorted(
    [
        *(SHARED / "peers").glob("vnncomp/*/onnx/*.onnx.gz"),
        *(SHARED / "peers").glob("parallelepipedonn/networks/*.onnx"),
    ]
)


@pytest.mark.campaign
@pytest.mark.skipif(not PUBLISHED, reason="the folder ../shared/peers is not there")
def test_published_networks() -> None:
    architectures: dict[str, set[Any]] = {}
    for path in PUBLISHED:
        network = load_onnx(path)
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        x = rng.uniform(0, 1, network.input_shape).astype(np.float32)
        expected = runtime(data, x, network.apply.has_batch_axis).ravel()
        apply = jax.jit(network.apply)
        got = apply(network.params, x)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        assert network.notes == ()
        assert path.name.startswith(network.name) and "." not in network.name
        architectures.setdefault(path.parts[-3], set()).add(network.apply)
    counts = {name: len(graphs) for name, graphs in architectures.items()}
    # One architecture per family, save for the two depths of mnist_fc.
    assert counts == {"acasxu": 1, "mnist_fc": 2, "parallelepipedonn": 1}


# --- architecture and parameters -------------------------------------------------


def mlp(
    names: str = "", seed: int = 0, order: int = 1, transposed: bool = False
) -> Any:
    """6 -> 5 -> 4 -> 3 with a side branch; names, order and layout do not matter."""
    random = np.random.default_rng(seed)
    sizes = {"a": (6, 5), "b": (5,), "c": (5, 4), "d": (6, 4), "e": (4, 3)}
    weights = {
        names + k: random.normal(size=s).astype(np.float32) for k, s in sizes.items()
    }
    first = [names + "a", names + "b"]
    if transposed:
        weights[first[0]] = weights[first[0]].T
    branches = [
        [
            node("Gemm", ["x", *first], [names + "1"], transB=int(transposed)),
            node("Relu", [names + "1"], [names + "2"]),
            node("MatMul", [names + "2", names + "c"], [names + "3"]),
        ],
        [node("MatMul", ["x", names + "d"], [names + "4"])],
    ][::order]
    tail = [
        node("Add", [names + "3", names + "4"], [names + "5"]),
        node("MatMul", [names + "5", names + "e"], ["y"]),
    ]
    return make_model([*branches[0], *branches[1], *tail], (1, 6), weights)


def test_equal_architectures_share_a_program(tmp_path: Path) -> None:
    models = [mlp(), mlp("other/", 1), mlp("z", 2, -1), mlp("", 3, 1, True)]
    networks = [
        load_onnx(write(m, tmp_path, f"{i}.onnx")) for i, m in enumerate(models)
    ]
    traces = []

    def run(apply: Any, params: Any, x: Any) -> Any:
        traces.append(apply)
        return apply(params, x)

    compiled = jax.jit(run, static_argnums=0)
    x = floats(6)
    for i, network in enumerate(networks):
        assert network.apply == networks[0].apply
        assert hash(network.apply) == hash(networks[0].apply)
        expected = runtime((tmp_path / f"{i}.onnx").read_bytes(), x, True).ravel()
        np.testing.assert_allclose(
            compiled(network.apply, network.params, x), expected, rtol=1e-5, atol=1e-5
        )
    assert len(traces) == 1
    assert len({n.content_hash for n in networks}) == len(networks)


def test_content_hash_tells_weights_and_architectures_apart(tmp_path: Path) -> None:
    first = load_onnx(write(mlp(), tmp_path))
    again = load_onnx(write(mlp("renamed"), tmp_path))
    assert first.content_hash == again.content_hash
    assert len(first.content_hash) == 64
    params = dict(first.params)
    params["w0"] = params["w0"].copy()
    params["w0"][0, 0] = np.nextafter(params["w0"][0, 0], np.float32(9))
    text = repr(first.apply)
    assert content_hash(text, first.params) == first.content_hash
    assert content_hash(text, params) != first.content_hash
    assert content_hash(text + " ", first.params) != first.content_hash
    other = make_model([node("Tanh", ["x"], ["y"])])
    assert load_onnx(write(other, tmp_path)).apply != first.apply


def test_params_are_float32_and_only_weights(tmp_path: Path) -> None:
    network = load_onnx(write(mlp(), tmp_path))
    assert {a.dtype for a in network.params.values()} == {np.dtype(np.float32)}
    assert list(network.params) == ["w0", "w1", "w2", "w3", "w4"]
    assert network.input_shape == (6,) and network.num_outputs == 3


def test_a_shared_weight_is_one_parameter(tmp_path: Path) -> None:
    case = next(c for c in CASES if c.name == "residual-file-order")
    network = load_onnx(write(make_model(case.nodes, weights=case.weights), tmp_path))
    assert {a.shape for a in network.params.values()} == {(6, 6), (6,)}
    assert len(network.params) == 2


def test_float64_is_computed_in_float64(tmp_path: Path) -> None:
    weights = {"w": KERNEL, "b": B4, "d": floats(4 * 3 * 2, 5), "k": ints(1, -1)}
    nodes = [
        node("Conv", ["x", "w", "b"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("AveragePool", ["r"], ["p"], kernel_shape=[2, 2], pads=[1, 1, 0, 0]),
        node("MaxPool", ["p"], ["q"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Slice", ["q", "zero", "nine", "axes"], ["s"]),
        node("Reshape", ["s", "k"], ["f"]),
        node("MatMul", ["f", "d"], ["y"]),
    ]
    weights |= {"zero": ints(0, 0), "nine": ints(9, 9), "axes": ints(2, 3)}
    network = load_onnx(write(make_model(nodes, IMAGE, weights), tmp_path))
    x = rng.uniform(-1, 1, network.input_shape).astype(np.float32)
    single = np.asarray(network.apply(network.params, x))
    with jax.enable_x64(True):
        double = {k: jnp.asarray(v, jnp.float64) for k, v in network.params.items()}
        exact = network.apply(double, jnp.asarray(x, jnp.float64))
        mixed = network.apply(network.params, jnp.asarray(x, jnp.float64))
        assert exact.dtype == mixed.dtype == np.float64
        exact, mixed = np.asarray(exact), np.asarray(mixed)
    np.testing.assert_allclose(exact, mixed, rtol=1e-13)
    np.testing.assert_allclose(exact, single, rtol=1e-4, atol=1e-5)
    assert np.max(np.abs(exact - single)) > 0


def test_strict_promotion(tmp_path: Path) -> None:
    with (
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
    ):
        network = check_against_runtime(mlp(), tmp_path)
    assert network.num_outputs == 3


def test_wrong_input_shape_names_both_shapes(tmp_path: Path) -> None:
    network = load_onnx(write(mlp(), tmp_path))
    with pytest.raises(InputError, match=r"shape \(6,\), not \(2, 6\).*jax.vmap"):
        network.apply(network.params, floats(2, 6))


def test_nodes_that_the_output_does_not_need_are_not_read(tmp_path: Path) -> None:
    nodes = [node("LSTM", ["x", "x", "x"], ["dead"]), node("Relu", ["x"], ["y"])]
    network = load_onnx(write(make_model(nodes), tmp_path))
    assert len(network.apply.nodes) == 1


def test_gzip_and_a_plain_file_are_the_same_network(tmp_path: Path) -> None:
    plain = write(mlp(), tmp_path)
    packed = tmp_path / "net.onnx.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    first, second = load_onnx(plain), load_onnx(str(packed))
    assert first.name == second.name == "net"
    assert first.content_hash == second.content_hash


# --- notes -----------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [11, 17])
def test_final_softmax_becomes_logits(op: str, opset: int, tmp_path: Path) -> None:
    weights = {"w": floats(6, 4)}
    dense = node("MatMul", ["x", "w"], ["h"])
    tail = [node(op, ["h"], ["p"], axis=1), node("Identity", ["p"], ["y"])]
    network = load_onnx(write(make_model([dense, *tail], weights=weights), tmp_path))
    assert len(network.notes) == 1
    assert f"final {op} replaced by its logits" in network.notes[0]
    assert "required margin refers to the logits" in network.notes[0]
    x = floats(6)
    np.testing.assert_allclose(
        network.apply(network.params, x), x @ weights["w"], rtol=1e-5, atol=1e-5
    )


# --- what is refused, and in which words -----------------------------------------


def test_missing_file_and_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "there is no file .*: check the path")
    refused(tmp_path, "is not a file: name an .onnx or .onnx.gz file")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    path = write(mlp(), tmp_path)
    monkeypatch.setattr("builtins.open", denied)
    refused(path, r"cannot be read \(Permission denied\): check its permissions")


def test_oversized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(mlp(), tmp_path)
    packed = tmp_path / "bomb.onnx.gz"
    packed.write_bytes(gzip.compress(bytes(10**6)))
    monkeypatch.setattr(onnx_file, "MAX_BYTES", path.stat().st_size - 1)
    refused(path, "is larger than .* bytes, the most that is read")
    monkeypatch.setattr(onnx_file, "MAX_BYTES", packed.stat().st_size + 1)
    refused(packed, "is larger than .* bytes, the most that is read")


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx.gz"
    data = gzip.compress(mlp().SerializeToString())
    for cut in (data[:-20], data[:30] + b"\xff" * 40, b"\x1f\x8b"):
        path.write_bytes(cut)
        refused(path, "damaged or truncated gzip file: copy it again")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = mlp().SerializeToString()
    path = tmp_path / "net.onnx"
    for cut in [*range(0, 40), *range(40, len(data), 37)]:
        path.write_bytes(data[:cut])
        refused(path, "truncated|holds no network|names no version")


def test_not_an_onnx_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"these are no weights at all\n" * 9)
    refused(path, "is not an ONNX file, or is truncated: copy or export it again")
    path.write_bytes(b"")
    refused(path, "holds no network: copy the whole file")


def test_damaged_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    data = bytearray(mlp().SerializeToString())
    path = tmp_path / "net.onnx"
    random = np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(data)
        for at in random.integers(0, len(data), 3):
            damaged[at] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            load_onnx(path)
        except (InputError, UnsupportedError):
            continue


def test_without_the_onnx_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(mlp(), tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    text = r"reading ONNX files needs the onnx package: pip install 'jaxcert\[onnx\]'"
    refused(path, text, named=False)
    with pytest.raises(InputError, match="writing ONNX files needs the onnx package"):
        onnx_export.save_onnx(path, [], (3,))


def external(tensor: Any) -> None:
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "secret.bin"
    tensor.ClearField("raw_data")


def test_external_data_is_refused_unopened(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(4 * 30))
    model = mlp()
    external(model.graph.initializer[0])
    text = "stored in another file, and nothing outside the file is opened: save"
    refused(write(model, tmp_path), text)
    inner = onnx.numpy_helper.from_array(floats(6), "inner")
    external(inner)
    nodes = [node("Constant", [], ["w"], value=inner), node("Add", ["x", "w"], ["y"])]
    refused(write(make_model(nodes), tmp_path), text)
    branch = onnx.helper.make_graph([], "branch", [], [], [inner])
    nodes = [node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)]
    refused(write(make_model(nodes), tmp_path), text)


def relu(**changes: Any) -> Any:
    return make_model([node("Relu", ["x"], ["y"])], **changes)


def test_inputs_and_outputs(tmp_path: Path) -> None:
    model = relu()
    del model.graph.input[:]
    refused(write(model, tmp_path), "has no input that is not a weight")
    model = relu()
    del model.graph.output[:]
    refused(write(model, tmp_path), "has no output")
    refused(write(relu(output="z"), tmp_path), "output 'z' of .* is computed nowhere")
    model = relu()
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    refused(write(model, tmp_path), "input 'x' of .* is of type INT64, not float")
    model = relu()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    refused(write(model, tmp_path), "input 'x' of .* has no shape")
    for shape in (("batch", 3, "side"), ("n",), (None, None)):
        model = relu(input_shape=shape)
        refused(write(model, tmp_path), "only a batch axis in front may be open")
    nodes = [node("Constant", [], ["c"], value_floats=[1.0]), node("Abs", ["c"], ["y"])]
    model = make_model([node("Constant", [], ["y"], value_floats=[1.0])])
    refused(write(model, tmp_path), "output 'y' of .* does not depend on the input")
    model = make_model(nodes)
    refused(write(model, tmp_path), "output 'y' of .* does not depend on the input")
    case = {"s": ints(3), "e": ints(3), "a": ints(1)}
    model = make_model([node("Slice", ["x", *case], ["y"])], weights=case)
    refused(write(model, tmp_path), "output 'y' of .* is empty")


def test_weights(tmp_path: Path) -> None:
    add = [node("Add", ["x", "bias"], ["y"], name="plus")]
    for value in (np.nan, np.inf):
        weights = {"bias": np.full(6, value, np.float32)}
        model = make_model(add, weights=weights)
        refused(write(model, tmp_path), "weight 'bias' in .* contains NaN or infinity")
    double = [node("Cast", ["x"], ["d"], to=11), node("Add", ["d", "bias"], ["y"])]
    model = make_model(double, weights={"bias": np.full(6, 1e300)})
    refused(write(model, tmp_path), "weight 'bias' in .* does not fit float32")
    model = make_model(add, weights={"bias": floats(6).astype(np.complex64)})
    text = "weight 'bias' of .* is of type COMPLEX64: export the network in float32"
    refused(write(model, tmp_path), text, UnsupportedError)
    model = make_model(add, weights={"bias": ints(1, 2, 3, 4, 5, 6)})
    refused(write(model, tmp_path), "its operands are of types float32, int64")
    model = make_model(add, weights={"bias": floats(6)})
    model.graph.initializer[0].dims[0] = 7
    refused(
        write(model, tmp_path), r"does not hold as many numbers as its shape \(7,\)"
    )
    model = make_model(add)
    sparse = onnx.helper.make_sparse_tensor(
        onnx.helper.make_tensor("bias", FLOAT, [1], [1.0]),
        onnx.helper.make_tensor("at", onnx.TensorProto.INT64, [1], [0]),
        [6],
    )
    model.graph.sparse_initializer.append(sparse)
    text = "weight 'bias' of .* is stored sparse"
    refused(write(model, tmp_path), text, UnsupportedError)


def test_broken_graphs(tmp_path: Path) -> None:
    model = make_model([node("Add", ["x", "ghost"], ["y"], name="plus")])
    text = r"operator 'Add' \(node 'plus'\) in .* reads 'ghost', which is computed no"
    refused(write(model, tmp_path), text)
    nodes = [node("Add", ["x", "b"], ["a"]), node("Add", ["x", "a"], ["b"])]
    model = make_model([*nodes, node("Relu", ["b"], ["y"])])
    refused(write(model, tmp_path), "depends on its own result")
    model = make_model([node("Relu", ["x"], ["y"]), node("Abs", ["x"], ["y"])])
    refused(write(model, tmp_path), "defines 'y' twice")
    model = relu(weights={"w": floats(6)})
    model.graph.initializer.append(model.graph.initializer[0])
    refused(write(model, tmp_path), "defines 'w' twice")
    model = relu()
    del model.opset_import[:]
    refused(write(model, tmp_path), "names no version of the ONNX operators")
    text = "uses version 6 of the ONNX operators.*onnx.version_converter"
    refused(write(relu(opset=6), tmp_path), text, UnsupportedError)
    text = "uses version 99 of the ONNX operators"
    refused(write(relu(opset=99), tmp_path), text, UnsupportedError)


def test_names_in_the_file_cannot_disturb_the_terminal(tmp_path: Path) -> None:
    model = make_model([node("LSTM", ["x"], ["y"], name="a\n\x1b[2J" + "b" * 5000)])
    path = write(model, tmp_path)
    refused(
        path, r"node 'a\\n\\x1b\[2Jbbb.*\.\.\..*write it as", UnsupportedError, False
    )
    with pytest.raises(UnsupportedError) as caught:
        load_onnx(path)
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()


UNSUPPORTED = {
    "unknown": (
        [node("LSTM", ["x", "x", "x"], ["y"], name="cell")],
        r"operator 'LSTM' \(node 'cell'\) in .* is not supported: re-export the "
        r"network with the operators of jaxcert.interop.onnx_ops.SUPPORTED, or write "
        r"it as a JAX function",
    ),
    "domain": (
        [node("Relu", ["x"], ["y"], domain="com.acme")],
        "belongs to the domain 'com.acme', and only the standard operators",
    ),
    "control flow": (
        [
            node(
                "If",
                ["x"],
                ["y"],
                then_branch=onnx.helper.make_graph([], "b", [], []),
                else_branch=onnx.helper.make_graph([], "b", [], []),
            )
        ],
        "is control flow, which is not supported",
    ),
    "computed exponent": (
        [node("Pow", ["x", "x"], ["y"])],
        "computes its exponent from the network's input",
    ),
    "pad mode": (
        [node("Pad", ["x", "less"], ["y"], mode="reflect")],
        r"pads with \(0, 0, 0, -1\) in mode 'reflect'",
    ),
    "training": (
        [node("Dropout", ["x", "r", "t"], ["y"])],
        "operator 'Dropout' .* is in training mode",
    ),
    "cast to integer": (
        [node("Cast", ["x"], ["y"], to=onnx.TensorProto.INT64)],
        "casts to a type that is not float",
    ),
    "odd attribute": (
        [node("Relu", ["x"], ["y"], leak=0.1)],
        "has the attribute 'leak', which is not supported",
    ),
    "mask": (
        [node("Dropout", ["x"], ["a", "mask"]), node("Add", ["a", "mask"], ["y"])],
        "reads 'mask', a secondary output",
    ),
    "quantised product": (
        [node("QLinearMatMul", ["x", "r", "p", "p", "r", "p", "r", "p"], ["y"])],
        "operator 'QLinearMatMul' .* is not supported",
    ),
    "condition and constant": (
        [node("Less", ["x", "r"], ["a"]), node("And", ["a", "t"], ["y"])],
        "combines a computed truth value with a constant",
    ),
    "smoothed resize": (
        [node("Resize", ["x", "", "scales"], ["y"], antialias=1)],
        r"operator 'Resize' .* smooths before it shrinks \(antialias=1\)",
    ),
    "cropped resize": (
        [
            node(
                "Resize",
                ["x", "", "scales"],
                ["y"],
                coordinate_transformation_mode="tf_crop_and_resize",
            )
        ],
        r"coordinate_transformation_mode='tf_crop_and_resize' \(half_pixel, asymmetric",
    ),
    "scatter twice": (
        [node("ScatterND", ["x", "twice", "some"], ["y"])],
        "writes one place twice",
    ),
    "quantised to 4 bits": (
        [
            node(
                "QuantizeLinear",
                ["x", "r"],
                ["y"],
                output_dtype=onnx.TensorProto.INT4,
            )
        ],
        "makes values of type INT4",
    ),
    "whole quotient": (
        [
            node("ArgMax", ["x"], ["a"], axis=1),
            node("ArgMin", ["x"], ["b"], axis=1),
            node("Div", ["a", "b"], ["q"]),
            node("Cast", ["q"], ["y"], to=onnx.TensorProto.FLOAT),
        ],
        "computes with values of type int64",
    ),
    "whole mean": (
        [
            node("ArgMax", ["x"], ["a"], axis=0),
            node("ReduceMean", ["a"], ["q"]),
            node("Cast", ["q"], ["y"], to=onnx.TensorProto.FLOAT),
        ],
        "computes with values of type int64",
    ),
    "difference that wraps": (
        [
            node("QuantizeLinear", ["x", "r"], ["q"]),
            node("Sub", ["q", "q"], ["d"]),
            node("DequantizeLinear", ["d", "r"], ["y"]),
        ],
        "computes with values of type uint8",
    ),
    "magnitude that wraps": (
        [
            node("QuantizeLinear", ["x", "r"], ["q"], output_dtype=3),
            node("Abs", ["q"], ["a"]),
            node("DequantizeLinear", ["a", "r"], ["y"]),
        ],
        "computes with values of type int8",
    ),
    "one-hot of floats": (
        [node("OneHot", ["x", "depth", "scales"], ["y"])],
        "computes indices of type float32",
    ),
    "string constant": (
        [node("Constant", [], ["c"], value_string="a"), node("Add", ["x", "c"], ["y"])],
        "holds a value_string",
    ),
}


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_unsupported(what: str, tmp_path: Path) -> None:
    nodes, text = UNSUPPORTED[what]
    weights = {
        "s": ints(2, 3),
        "p": ints(0, 0, 0, 1),
        "less": ints(0, 0, 0, -1),
        "r": scalar(0.5),
        "t": np.array(True),
        "scales": np.array([1, 2], np.float32),
        "depth": scalar(3.0),
        "twice": ints(0, 3, 0, 3).reshape(2, 2),
        "some": floats(2),
    }
    model = make_model(nodes, weights=weights)
    refused(write(model, tmp_path), text, UnsupportedError)


def test_batch_norm_in_training_mode(tmp_path: Path) -> None:
    nodes = [node("BatchNormalization", ["x", *NORM], ["y"], training_mode=1)]
    model = make_model(nodes, IMAGE, NORM)
    refused(write(model, tmp_path), "is in training mode", UnsupportedError)


MALFORMED = {
    "matmul": ("MatMul", {"a": floats(5, 2)}, {}, "contract"),
    "reshape": ("Reshape", {"s": ints(4)}, {}, r"shape \(1, 6\) cannot become \(4,\)"),
    "two unknowns": ("Reshape", {"s": ints(-1, -1)}, {}, "is not a shape"),
    "float shape": ("Reshape", {"s": floats(1)}, {}, "shape is of type float32"),
    "perm": ("Transpose", {}, {"perm": [0, 0]}, "does not order 2 dimensions"),
    "axis": ("Concat", {"a": floats(1, 6)}, {"axis": 5}, "axis 5 does not exist"),
    "gather": ("Gather", {"i": ints(7)}, {"axis": 1}, "an index is outside axis 1"),
    "squeeze": ("Squeeze", {"a": ints(1)}, {}, "are not all of size 1"),
    "pads": ("Pad", {"p": ints(1)}, {}, "pads .* do not fit axes"),
    "inputs": ("Relu", {"a": floats(6)}, {}, "it has 2 inputs"),
    "huge": ("Pad", {"p": ints(0, 0, 0, 2**40)}, {}, "more than 268435456 elements"),
    "expand": ("Expand", {"s": ints(2**20, 2**20, 6)}, {}, "more than 268435456"),
    "pool": ("MaxPool", {}, {"kernel_shape": [2, 2]}, r"its input has shape \(1, 6\)"),
    "conv": ("Conv", {"w": KERNEL}, {}, "do not fit"),
    "alpha": ("LeakyRelu", {}, {"alpha": float("nan")}, "attribute 'alpha' is nan"),
    "bound": ("Clip", {"a": scalar(np.nan)}, {}, "lower bound is not one number"),
    "flag": (
        "Gemm",
        {"a": floats(6, 6)},
        {"transB": 2},
        "transB is 2, neither 0 nor 1",
    ),
    "exponent": ("Pow", {"a": scalar(np.inf)}, {}, "exponents are not finite numbers"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_node(what: str, tmp_path: Path) -> None:
    op, weights, attributes, text = MALFORMED[what]
    nodes = [node(op, ["x", *weights], ["y"], name="culprit", **attributes)]
    path = write(make_model(nodes, weights=weights), tmp_path)
    refused(path, rf"operator '{op}' \(node 'culprit'\) in .* is malformed: .*{text}")


def test_constants_cannot_grow_without_bound(tmp_path: Path) -> None:
    doubling = [
        node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(40)
    ]
    nodes = [*doubling, node("Reshape", ["x", "c40"], ["y"])]
    path = write(make_model(nodes, weights={"c0": ints(1)}), tmp_path)
    refused(path, f"constant result has more than {onnx_lowering.MAX_FOLDED} elements")
    nodes = [node("ConstantOfShape", ["n"], ["c"]), node("Add", ["x", "c"], ["y"])]
    path = write(make_model(nodes, weights={"n": ints(2**40)}), tmp_path)
    refused(path, "is negative or too large")


def test_negative_variance(tmp_path: Path) -> None:
    weights = {**NORM, "v": np.full(3, -1, np.float32)}
    nodes = [node("BatchNormalization", ["x", *weights], ["y"])]
    refused(
        write(make_model(nodes, (1, 3), weights), tmp_path),
        "its variance is not positive",
    )


# --- export ----------------------------------------------------------------------

Layers = list[onnx_export.Layer]


def norm(n: int) -> onnx_export.BatchNorm:
    return onnx_export.BatchNorm(
        floats(n), floats(n) ** 2 + 0.5, floats(n), floats(n), 2.0**-16
    )


def reference(layers: Layers, x: np.ndarray) -> np.ndarray:
    """The layers in the words of Flax, as an answer that does not go through ONNX."""
    from flax import linen as nn

    value = jnp.asarray(x)
    for layer in layers:
        match layer:
            case onnx_export.Dense():
                value = value @ layer.weight
                value = value if layer.bias is None else value + layer.bias
            case onnx_export.Conv2D():
                value = jax.lax.conv_general_dilated(
                    value[None],
                    layer.kernel,
                    layer.strides,
                    layer.padding,
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )[0]
                value = value if layer.bias is None else value + layer.bias
            case onnx_export.Relu():
                value = jax.nn.relu(value)
            case onnx_export.MaxPool():
                value = nn.max_pool(value, layer.window, layer.strides, layer.padding)
            case onnx_export.AvgPool():
                value = nn.avg_pool(value, layer.window, layer.strides, layer.padding)
            case onnx_export.BatchNorm():
                value = (value - layer.mean) / np.sqrt(layer.var + layer.epsilon)
                value = value * layer.scale + layer.bias
            case onnx_export.Flatten():
                value = value.reshape(-1)
    return np.asarray(value)


EXPORTS: dict[str, tuple[Layers, tuple[int, ...]]] = {
    "mlp": (
        [
            onnx_export.Flatten(),
            onnx_export.Dense(floats(20, 7), floats(7)),
            norm(7),
            onnx_export.Relu(),
            onnx_export.Dense(floats(7, 3)),
        ],
        (5, 4),
    ),
    "flat": ([onnx_export.Dense(floats(6, 3), floats(3))], (6,)),
    "cnn": (
        [
            onnx_export.Conv2D(floats(3, 3, 2, 4), floats(4), (2, 1), "SAME"),
            norm(4),
            onnx_export.Relu(),
            onnx_export.MaxPool((2, 2), (2, 2)),
            onnx_export.Conv2D(floats(2, 2, 4, 3), None, (1, 1), "VALID"),
            onnx_export.Relu(),
            onnx_export.AvgPool((2, 2), (1, 1), "SAME"),
            onnx_export.Flatten(),
            onnx_export.Dense(floats(1 * 3 * 3, 5), floats(5)),
        ],
        (8, 9, 2),
    ),
    "same pools": (
        [
            norm(2),
            onnx_export.MaxPool((3, 2), (2, 2), "SAME"),
            onnx_export.AvgPool((3, 3), (2, 2), "SAME"),
            onnx_export.Flatten(),
        ],
        (7, 8, 2),
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_export_round_trip(name: str, tmp_path: Path) -> None:
    layers, shape = EXPORTS[name]
    path = tmp_path / "net.onnx"
    onnx_export.save_onnx(path, layers, shape)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    network = load_onnx(path)
    assert network.input_shape == shape and network.notes == ()
    batch = floats(3, *shape)
    from_runtime = runtime(path.read_bytes(), batch, False)
    for x, expected in zip(batch, from_runtime, strict=True):
        np.testing.assert_allclose(reference(layers, x), expected, rtol=1e-4, atol=1e-5)
        got = network.apply(network.params, x)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    before = path.read_bytes()
    onnx_export.save_onnx(path, layers, shape)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("layers", "shape", "text"),
    [
        ([onnx_export.Dense(floats(3, 2))], (4, 1), r"layer 0 \(Dense\): .*Flatten"),
        ([onnx_export.Dense(floats(3, 2))], (4,), r"its weight has shape \(3, 2\)"),
        ([onnx_export.Dense(np.full((4, 2), np.nan))], (4,), "contains NaN"),
        ([onnx_export.Conv2D(floats(3, 3, 1, 2))], (4,), r"needs an image \(H, W, C\)"),
        ([onnx_export.Conv2D(floats(3, 3, 2))], (4, 4, 1), r"kernel has shape"),
        ([onnx_export.MaxPool((5, 5), (1, 1))], (4, 4, 1), "larger than shape"),
        ([onnx_export.MaxPool((0, 1), (1, 1))], (4, 4, 1), r"are not \(h, w\)"),
        ([onnx_export.MaxPool((1, 1), (1, 1), "FULL")], (4, 4, 1), "neither 'SAME'"),
        ([onnx_export.Relu()], (4, 4), "not logits: end with Dense"),
        (["dense"], (4,), r"layer 0 \(str\): .* cannot be written"),
        ([], (), "is not the shape of an input"),
    ],
)
def test_export_refuses(layers: Any, shape: Any, text: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises((InputError, UnsupportedError), match=text):
        onnx_export.save_onnx(path, layers, shape)
    assert not path.exists()


def test_export_to_a_missing_folder(tmp_path: Path) -> None:
    layers, shape = EXPORTS["flat"]
    with pytest.raises(InputError, match="cannot be written .*: check the folder"):
        onnx_export.save_onnx(tmp_path / "none" / "net.onnx", layers, shape)
