"""Operators that compute, on drawn attributes: values, and soundness of their bounds.

Values are compared with onnxruntime, where it answers; where it refuses the model, so
do we. Points of a box, evaluated in float64, lie inside what ibp and crown state.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx_models import floats, ints, make_model, node, onnx, runtime, scalar, write

import jaxcert as jc
from jaxcert.errors import JaxcertError, UnsupportedError
from jaxcert.interop.onnx import load_onnx
from jaxcert.trace.tracing import program_as_given

rng = np.random.default_rng(3)
SIZES = ((1, 4), (1, 2, 3))


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A model: its operator, and the inputs it is asked about, in [low, high]."""

    nodes: list[Any]
    shape: tuple[int, ...]
    weights: dict[str, np.ndarray]
    opset: int = 17
    low: float = -2.0
    high: float = 2.0


def of(
    op: str,
    shape: tuple[int, ...],
    weights: dict[str, np.ndarray | None] | None = None,
    opset: int = 17,
    span: tuple[float, float] = (-2.0, 2.0),
    outputs: tuple[str, ...] = ("y",),
    **attributes: Any,
) -> Drawn:
    """A model of one operator with these further inputs, None for none."""
    weights = weights or {}
    given_ = {k: v for k, v in weights.items() if v is not None}
    names = [k if v is not None else "" for k, v in weights.items()]
    made = node(op, ["x", *names], list(outputs))
    made.attribute.extend(
        onnx.helper.make_attribute(k, v) for k, v in attributes.items() if v is not None
    )
    return Drawn([made], shape, given_, opset, *span)


@st.composite
def elementwise(draw: Any, op: str, opset: int = 17, **alphas: Any) -> Drawn:
    settings = {k: draw(st.sampled_from(v)) for k, v in alphas.items()}
    return of(op, draw(st.sampled_from(SIZES)), opset=opset, **settings)


@st.composite
def along_axis(draw: Any, op: str, opset: Any = (17,), **settings: Any) -> Drawn:
    shape = draw(st.sampled_from(SIZES))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    drawn = {k: draw(st.sampled_from(v)) for k, v in settings.items()}
    return of(op, shape, opset=draw(st.sampled_from(opset)), axis=axis, **drawn)


@st.composite
def inner_softmax(draw: Any, op: str) -> Drawn:
    made = draw(along_axis(op, opset=(11, 13)))
    made.nodes[0].output[0] = "s"
    return dataclasses.replace(made, nodes=[*made.nodes, node("Neg", ["s"], ["y"])])


@st.composite
def transposed(draw: Any) -> Drawn:
    rank = draw(st.sampled_from([1, 2, 2]))

    def some(low: int, high: int, count: int = rank) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    groups = draw(st.sampled_from([1, 1, 2]))
    kernel, strides = some(1, 3), some(1, 3)
    auto = draw(
        st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
    )
    pads = some(0, 1, 2 * rank) if auto == "NOTSET" else None
    shape = (1, 2 * groups, *some(2, 3))
    weights = {"w": floats(2 * groups, 2, *kernel)}
    if draw(st.booleans()):
        weights["b"] = floats(2 * groups)
    return of(
        "ConvTranspose", shape, weights, strides=strides, group=groups,
        dilations=some(1, 2), auto_pad=auto, pads=pads,
        output_padding=draw(st.none() | st.just([s - 1 for s in strides])),
    )  # fmt: skip


COORDINATES = "half_pixel asymmetric align_corners pytorch_half_pixel".split()
ROUNDINGS = "round_prefer_floor round_prefer_ceil floor ceil".split()


@st.composite
def resizes(draw: Any) -> Drawn:
    shape = (1, 1, *(draw(st.integers(2, 4)) for _ in range(2)))
    mode = draw(st.sampled_from(["nearest", "linear", "cubic"]))
    coordinates = draw(st.sampled_from(COORDINATES))
    if draw(st.booleans()):
        sizes = ints(1, 1, *(draw(st.integers(1, 7)) for _ in range(2)))
        inputs = {"r": None, "s": None, "t": sizes}
    else:
        factors = [draw(st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0])) for _ in range(2)]
        inputs = {"r": None, "s": np.array([1, 1, *factors], np.float32)}
    rounding = draw(st.sampled_from(ROUNDINGS)) if mode == "nearest" else None
    return of(
        "Resize", shape, inputs, opset=draw(st.sampled_from([13, 19])), mode=mode,
        coordinate_transformation_mode=coordinates, nearest_mode=rounding,
    )  # fmt: skip


@st.composite
def upsamples(draw: Any) -> Drawn:
    shape = (1, 2, *(draw(st.integers(1, 4)) for _ in range(2)))
    factors = [draw(st.sampled_from([1.0, 1.5, 2.0, 3.0])) for _ in range(2)]
    mode = draw(st.sampled_from(["nearest", "linear"]))
    if draw(st.booleans()):
        return of("Upsample", shape, opset=8, mode=mode, scales=[1.0, 1.0, *factors])
    scales = np.array([1, 1, *factors], np.float32)
    return of("Upsample", shape, {"s": scales}, opset=9, mode=mode)


@st.composite
def blocks(draw: Any, op: str) -> Drawn:
    mode = draw(st.sampled_from(["DCR", "CRD"])) if op == "DepthToSpace" else None
    shape = draw(st.sampled_from([(1, 8, 2, 2), (1, 4, 4, 2)]))
    return of(op, shape, blocksize=draw(st.sampled_from([1, 2])), mode=mode)


@st.composite
def channel_norms(draw: Any, op: str, opset: int) -> Drawn:
    shape = draw(st.sampled_from([(1, 4, 3), (1, 2, 2, 3)]))
    weights = {"s": floats(shape[1]), "b": floats(shape[1])}
    groups = draw(st.sampled_from([1, 2])) if op == "GroupNormalization" else None
    epsilon = draw(st.sampled_from([None, 0.01, 0.5]))
    return of(op, shape, weights, opset, epsilon=epsilon, num_groups=groups)


@st.composite
def trailing_norms(draw: Any, op: str, opset: int) -> Drawn:
    shape = draw(st.sampled_from(SIZES))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    rest = shape[axis % len(shape) :]
    weights = {"s": floats(*rest)}
    if op == "LayerNormalization" and draw(st.booleans()):
        weights["b"] = floats(*rest)
    epsilon = draw(st.sampled_from([0.01, 0.5]))
    return of(op, shape, weights, opset, axis=axis, epsilon=epsilon)


@st.composite
def reductions(draw: Any, op: str) -> Drawn:
    shape = draw(st.sampled_from(SIZES))
    count = draw(st.integers(0, len(shape)))
    axes = draw(st.permutations(range(len(shape))))[:count]
    axes = [a - len(shape) * draw(st.integers(0, 1)) for a in axes]
    keep = draw(st.integers(0, 1))
    span = (0.5, 2.0) if op in ("ReduceLogSum", "ReduceL2") else (-2.0, 2.0)
    if draw(st.booleans()):
        return of(op, shape, opset=11, span=span, keepdims=keep, axes=axes or None)
    inputs = {"a": ints(*axes)} if axes else {}
    return of(op, shape, inputs, 18, span, keepdims=keep)


@st.composite
def einsums(draw: Any) -> Drawn:
    shape, equation, other = draw(
        st.sampled_from(
            [
                ((1, 3), "ij,jk->ik", (3, 2)),
                ((1, 3), "ij, ij -> i", (1, 3)),
                ((1, 2, 3), "...ij,kj->...ik", (2, 3)),
                ((1, 3), "ij->ji", None),
                ((1, 2, 3), "zab,zcb", "x"),
            ]
        )
    )
    if isinstance(other, str):
        nodes = [node("Einsum", ["x", "x"], ["y"], equation=equation)]
        return Drawn(nodes, shape, {})
    weights = {} if other is None else {"w": floats(*other)}
    return of("Einsum", shape, weights, equation=equation)


@st.composite
def cumsums(draw: Any) -> Drawn:
    shape = draw(st.sampled_from(SIZES))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    return of(
        "CumSum", shape, {"a": np.array(axis)},
        exclusive=draw(st.integers(0, 1)), reverse=draw(st.integers(0, 1)),
    )  # fmt: skip


@st.composite
def trilus(draw: Any) -> Drawn:
    offset = draw(st.none() | st.integers(-3, 3))
    weights = {} if offset is None else {"k": np.array(offset)}
    return of("Trilu", (1, 2, 3), weights, upper=draw(st.integers(0, 1)))


@st.composite
def scatters(draw: Any, op: str) -> Drawn:
    shape = (1, 3, 4)
    if op == "ScatterElements":
        axis = draw(st.sampled_from([1, 2, -1, -2]))
        size = shape[axis]
        picked = draw(st.permutations(range(-size, 0)))[:2]
        rows = np.array([[picked, picked]])
        indices = rows if axis in (2, -1) else rows.transpose(0, 2, 1)
        return of(op, shape, {"i": indices, "u": floats(1, 2, 2)}, axis=axis)
    depth = draw(st.sampled_from([2, 3]))
    columns = [[0, 0], draw(st.permutations(range(3)))[:2]]
    columns.append([draw(st.integers(-4, 3)) for _ in range(2)])
    indices = np.stack(columns[:depth], axis=1)
    return of(op, shape, {"i": indices, "u": floats(2, *shape[depth:])})


@st.composite
def choices(draw: Any, op: str) -> Drawn:
    """Where(op(x, c), 2 x, d), perhaps of the negated condition or of two."""
    nodes = [node(op, ["x", "c"], ["a"]), node("Add", ["x", "x"], ["z"])]
    last = draw(st.sampled_from(["a", "Not", "And", "Or"]))
    if last != "a":
        nodes.append(node("LessOrEqual", ["x", "d"], ["b"]))
        operands = ["b"] if last == "Not" else ["a", "b"]
        nodes.append(node(last, operands, ["k"]))
    nodes.append(node("Where", ["a" if last == "a" else "k", "z", "d"], ["y"]))
    return Drawn(nodes, (1, 2, 3), {"c": floats(3), "d": scalar(0.25)})


@st.composite
def extremes(draw: Any, op: str) -> Drawn:
    """The index of an extreme, as a float, and perhaps as one-hot values."""
    axis = draw(st.integers(-3, 2))
    keep, last = draw(st.integers(0, 1)), draw(st.integers(0, 1))
    nodes = [
        node(op, ["x"], ["i"], axis=axis, keepdims=keep, select_last_index=last),
        node("Cast", ["i"], ["y"], to=1),
    ]
    weights: dict[str, np.ndarray] = {}
    if draw(st.booleans()):
        place = draw(st.integers(-2, 1))
        nodes[1] = node("OneHot", ["i", "depth", "values"], ["y"], axis=place)
        weights = {"depth": ints(3), "values": np.array([-1, 2.5], np.float32)}
    return Drawn(nodes, (1, 2, 3), weights)


@st.composite
def quantised(draw: Any) -> Drawn:
    kind = draw(st.sampled_from([np.int8, np.uint8]))
    many, axis = draw(st.booleans()), draw(st.integers(0, 1))
    shape = ((1, 3)[axis],) if many else ()
    scale = np.full(shape, draw(st.sampled_from([0.011, 0.3])), np.float32)
    zero = np.full(shape, draw(st.integers(0, 100)), kind)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    return Drawn(nodes, (1, 3), {"s": scale, "z": zero}, 13)


STRATEGIES: dict[str, st.SearchStrategy[Drawn]] = {
    "Softsign": elementwise("Softsign"),
    "Mish": elementwise("Mish", 18),
    "Celu": elementwise("Celu", alpha=[None, 0.5, 2.0]),
    "ThresholdedRelu": elementwise("ThresholdedRelu", alpha=[None, 0.0, 0.5]),
    "Softmax": inner_softmax("Softmax"),
    "LogSoftmax": inner_softmax("LogSoftmax"),
    "ConvTranspose": transposed(),
    "Resize": resizes(),
    "Upsample": upsamples(),
    "DepthToSpace": blocks("DepthToSpace"),
    "SpaceToDepth": blocks("SpaceToDepth"),
    "InstanceNormalization": channel_norms("InstanceNormalization", 17),
    "GroupNormalization": channel_norms("GroupNormalization", 21),
    "LayerNormalization": trailing_norms("LayerNormalization", 17),
    "RMSNormalization": trailing_norms("RMSNormalization", 23),
    "MeanVarianceNormalization": st.just(
        of("MeanVarianceNormalization", (1, 2, 2, 3), opset=13)
    ),
    "LpNormalization": along_axis("LpNormalization", p=[1, 2]).map(
        lambda d: dataclasses.replace(d, low=0.5)
    ),
    **{
        f"Reduce{kind}": reductions(f"Reduce{kind}")
        for kind in "L1 L2 LogSum LogSumExp SumSquare Prod Max Min".split()
    },
    "Einsum": einsums(),
    "CumSum": cumsums(),
    "Trilu": trilus(),
    "ScatterND": scatters("ScatterND"),
    "ScatterElements": scatters("ScatterElements"),
    "Greater": choices("Greater"),
    "Less": choices("Less"),
    "GreaterOrEqual": choices("GreaterOrEqual"),
    "Equal": choices("Equal"),
    "ArgMax": extremes("ArgMax"),
    "ArgMin": extremes("ArgMin"),
    "QuantizeLinear": quantised(),
}


# The others consist of primitives whose bounds the cases of tests/cases.py test.
BOUNDED = frozenset(
    "ArgMax ConvTranspose Einsum Greater LayerNormalization LogSoftmax QuantizeLinear "
    "ReduceProd Resize Softmax".split()
)


def values_agree(case: Drawn, folder: Path) -> Any:
    """Compares with onnxruntime; returns the network, None where we or both refuse.

    We alone refuse an output beyond the kernel, for which the standard names no value.
    """
    model = make_model(case.nodes, case.shape, case.weights, case.opset)
    model.ir_version = 10
    path = write(model, folder)
    x = rng.uniform(case.low, case.high, case.shape).astype(np.float32)
    try:
        expected = runtime(path.read_bytes(), x, False, optimised=False)
    except Exception as error:  # the runtime has no common class of its errors
        assert type(error).__module__.startswith("onnxruntime"), error
        with pytest.raises(JaxcertError):
            load_onnx(path)
        return None
    try:
        network = load_onnx(path)
    except UnsupportedError as error:
        assert "beyond its kernel" in str(error), error
        return None
    got = jax.jit(network.apply)(network.params, x.reshape(network.input_shape))
    np.testing.assert_allclose(got, expected.ravel(), 1e-5, 1e-5, err_msg=str(case))
    return network


def points_lie_inside(network: Any, case: Drawn) -> None:
    """Points of boxes lie inside interval and CROWN bounds, but for float64's slack."""
    shape = network.input_shape
    low, high = np.full(shape, case.low), np.full(shape, case.high)
    middle = rng.uniform(case.low, case.high, shape)
    near = [np.clip(middle + r, case.low, case.high) for r in (-0.05, 0.05)]
    lo, hi = np.stack([low, near[0]]), np.stack([high, near[1]])
    share = rng.random((2, 16, *shape))
    points = np.where(share < 0.3, lo[:, None], np.where(share > 0.7, hi[:, None], 0))
    inside = lo[:, None] + (hi - lo)[:, None] * rng.random(share.shape)
    points = np.where((share < 0.3) | (share > 0.7), points, inside)
    crown = jc.crown(network.apply, jc.CrownOptions(bucket=None))
    with jax.enable_x64(True):
        params = {k: np.asarray(v, np.float64) for k, v in network.params.items()}
        program = program_as_given(network.apply, params, jnp.asarray(low))

        @jax.jit
        @jax.vmap
        def compute(lo: Any, hi: Any, points: Any) -> Any:
            box = jc.Box(lo, hi)
            values = jax.vmap(lambda z: program.evaluate(params, z))(points)
            linear = crown(params, box).concretize(box)
            return values, (jc.ibp(network.apply)(params, box), linear)

        values, bounds = jax.device_get(compute(lo, hi, points))
    for box in bounds:
        assert np.isfinite(box.lo).all() and np.isfinite(box.hi).all(), case
        slack = 2.0**-36 * (1 + np.maximum(np.abs(box.lo), np.abs(box.hi)))[:, None]
        assert (values >= box.lo[:, None] - slack).all(), case
        assert (values <= box.hi[:, None] + slack).all(), case


def run(op: str, examples: int, bounded: int, folder: Path) -> None:
    asked = agreed = 0

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(STRATEGIES[op])
    def examine(case: Drawn) -> None:
        nonlocal asked, agreed
        asked += 1  # fewer than examples where there are no more cases
        network = values_agree(case, folder)
        if network is not None:
            agreed += 1
            if agreed <= bounded:
                points_lie_inside(network, case)

    examine()
    assert agreed >= max(1, asked // 4)


@pytest.mark.parametrize("op", STRATEGIES)
def test_operator(op: str, tmp_path: Path) -> None:
    run(op, 4, int(op in BOUNDED), tmp_path)


@pytest.mark.campaign
@pytest.mark.parametrize("op", STRATEGIES)
def test_operator_over_many_attributes(op: str, tmp_path: Path) -> None:
    run(op, 60, 10, tmp_path)
