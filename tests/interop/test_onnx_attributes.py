"""Operators on shapes and indices over the whole space of their attributes.

Valid and invalid ones, against onnxruntime: where it answers, the answer is the same or
the form is named as unsupported; where it refuses the model, the model is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from cases import sampled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_models import ints, make_model, node, onnx, runtime, write

from jaxcert.errors import JaxcertError, UnsupportedError
from jaxcert.interop.onnx import load_onnx

FAR = [-(2**63), -(2**31), 2**31 - 1, 2**63 - 1]


@st.composite
def index(draw: Any, size: int = 4) -> int:
    """A number near the ends of an axis, or far outside."""
    near = st.integers(-2 * size - 1, 2 * size + 1)
    return draw(st.one_of(*[near] * 6, st.sampled_from(FAR)))


def shapes(least: int = 1) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(1, 4), min_size=least, max_size=3).map(tuple)


def axis(rank: int) -> st.SearchStrategy[int]:
    valid = st.integers(-rank, rank - 1)
    return st.one_of(*[valid] * 9, st.integers(-rank - 1, rank))


def places(size: int) -> st.SearchStrategy[int]:
    valid = st.integers(-size, size - 1)
    return st.one_of(*[valid] * 30, st.integers(-size - 1, size))


@st.composite
def some_axes(draw: Any, rank: int, least: int = 0) -> list[int]:
    """Different axes, mostly, from the front or from the back."""
    count = draw(st.integers(least, rank))
    chosen = draw(st.permutations(range(rank)))[:count]
    odd = draw(st.integers(0, 7)) == 0
    return [
        draw(axis(rank)) if odd else a - rank * draw(st.integers(0, 1)) for a in chosen
    ]


Case = tuple[tuple[int, ...], int, dict[str, np.ndarray | None], dict[str, Any]]
"""Shape of the input, version of the operators, further inputs, attributes."""


@st.composite
def slices(draw: Any) -> Case:
    shape = draw(shapes())
    count = draw(st.integers(1, len(shape)))
    many = {"min_size": count, "max_size": count}
    starts, ends = draw(st.lists(index(), **many)), draw(st.lists(index(), **many))
    aim = draw(st.integers(0, 2))  # at ranges that hold something: forwards, backwards
    if aim == 1:
        starts, ends = [min(s, 0) for s in starts], [max(e, 4) for e in ends]
    elif aim == 2:
        starts, ends = (
            [s if s < -4 else abs(s) for s in starts],
            [min(e, -5) for e in ends],
        )
    axes = draw(st.none() | some_axes(len(shape), count).map(lambda a: a[:count]))
    usual = {0: st.integers(-5, 5), 1: st.integers(1, 5), 2: st.integers(-5, -1)}[aim]
    steps = st.lists(st.one_of(*[usual] * 6, index()), **many)
    steps = draw(steps if aim == 2 else st.none() | steps)
    if draw(st.booleans()):
        inputs: Any = {"s": ints(*starts), "e": ints(*ends)}
        inputs["a"] = None if axes is None else ints(*axes)
        inputs["t"] = None if steps is None else ints(*steps)
        return shape, 13, inputs, {}
    settings = {"starts": starts, "ends": ends}
    return shape, 9, {}, settings if axes is None else {**settings, "axes": axes}


@st.composite
def gathers(draw: Any) -> Case:
    shape = draw(shapes())
    inner = draw(st.lists(st.integers(0, 3), max_size=2))
    size = int(np.prod(inner))
    along = draw(axis(len(shape)))
    reach = shape[along] if -len(shape) <= along < len(shape) else 1
    indices = draw(st.lists(places(reach), min_size=size, max_size=size))
    array = np.array(indices, draw(st.sampled_from([np.int32, np.int64])))
    return shape, 13, {"i": array.reshape(inner)}, {"axis": along}


@st.composite
def gather_elements(draw: Any) -> Case:
    shape = draw(shapes())
    inner = [draw(st.integers(1, n + (draw(st.integers(0, 9)) == 0))) for n in shape]
    size = int(np.prod(inner))
    along = draw(axis(len(shape)))
    reach = shape[along] if -len(shape) <= along < len(shape) else 1
    indices = draw(st.lists(places(reach), min_size=size, max_size=size))
    array = np.array(indices, np.int64).reshape(inner)
    return shape, 13, {"i": array}, {"axis": along}


@st.composite
def gather_nds(draw: Any) -> Case:
    shape = draw(shapes())
    batch = draw(st.integers(0, 1))
    depth = draw(st.integers(1, max(len(shape) - batch, 1) + 1))
    inner = [*draw(st.lists(st.integers(1, 3), max_size=2)), depth]
    if batch:
        inner = [shape[0], *inner]
    size = int(np.prod(inner))
    reach = min(shape[batch : batch + depth], default=1)
    indices = draw(st.lists(places(reach), min_size=size, max_size=size))
    array = np.array(indices, np.int64).reshape(inner)
    return shape, 13, {"i": array}, {"batch_dims": batch}


@st.composite
def pads(draw: Any) -> Case:
    shape = draw(shapes())
    mode = draw(st.sampled_from(["constant", "reflect", "edge", "wrap"]))
    opset = draw(st.sampled_from([10, 13, 18, 19]))
    count = len(shape)
    inputs: dict[str, np.ndarray | None] = {}
    if opset >= 18 and draw(st.booleans()):
        axes = draw(some_axes(count, 1))
        inputs, count = {"a": ints(*axes)}, len(axes)
    amount = st.lists(st.integers(-2, 3), min_size=2 * count, max_size=2 * count)
    amounts = draw(amount)
    if mode != "constant" and draw(st.integers(0, 3)):
        amounts = [abs(a) for a in amounts]
    value = draw(st.none() | st.sampled_from([0.0, 0.5, -2.0]))
    if opset < 11:
        settings = {"pads": amounts, "mode": mode}
        return shape, opset, {}, settings | ({} if value is None else {"value": value})
    first: dict[str, np.ndarray | None] = {"p": ints(*amounts)}
    first["v"] = None if value is None else np.array(value, np.float32)
    return shape, opset, first | inputs, {"mode": mode}


@st.composite
def reshapes(draw: Any) -> Case:
    shape = draw(shapes())
    factors = st.sampled_from([-1, 0, 1, 2, 3, 4, 6, int(np.prod(shape))])
    wanted = draw(st.lists(factors, max_size=4))
    zero = draw(st.sampled_from([None, 0, 1]))
    settings = {} if zero is None else {"allowzero": zero}
    return shape, 14, {"s": ints(*wanted)}, settings


@st.composite
def transposes(draw: Any) -> Case:
    shape = draw(shapes())
    orders = st.permutations(range(len(shape)))
    wrong = st.lists(axis(len(shape)), max_size=4)
    order = draw(st.one_of(st.none(), orders, orders, wrong))
    return shape, 13, {}, {} if order is None else {"perm": list(order)}


@st.composite
def squeezes(draw: Any) -> Case:
    shape = tuple(draw(st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=4)))
    ones = [i for i, n in enumerate(shape) if n == 1]
    axes = draw(st.none() | st.just(ones) | some_axes(len(shape)))
    if draw(st.booleans()):
        return shape, 11, {}, {} if axes is None else {"axes": axes}
    return shape, 13, {} if axes is None else {"a": ints(*axes)}, {}


@st.composite
def unsqueezes(draw: Any) -> Case:
    shape = draw(shapes())
    count = draw(st.integers(1, 2))
    axes = draw(some_axes(len(shape) + count, count).map(lambda a: a[:count]))
    if draw(st.booleans()):
        return shape, 11, {}, {"axes": axes}
    return shape, 13, {"a": ints(*axes)}, {}


@st.composite
def flattens(draw: Any) -> Case:
    shape = draw(shapes())
    opset = draw(st.sampled_from([9, 11, 13]))
    return shape, opset, {}, {"axis": draw(st.integers(-4, 4))}


@st.composite
def concats(draw: Any) -> Case:
    shape = draw(shapes())
    other = tuple(draw(st.sampled_from([n, n, n, 1, 2])) for n in shape)
    opset = draw(st.sampled_from([10, 11, 13]))
    others = np.arange(np.prod(other), dtype=np.float32).reshape(other)
    return shape, opset, {"c": others}, {"axis": draw(axis(len(shape)))}


@st.composite
def expands(draw: Any) -> Case:
    shape = draw(shapes())
    wanted = draw(st.lists(st.sampled_from([-1, 0, 1, 1, 2, 3, 4]), max_size=4))
    return shape, 13, {"s": ints(*wanted)}, {}


@st.composite
def tiles(draw: Any) -> Case:
    shape = draw(shapes())
    repeats = draw(st.lists(st.integers(-1, 3), max_size=4))
    right = draw(st.lists(st.integers(0, 3), min_size=len(shape), max_size=len(shape)))
    return shape, 13, {"r": ints(*draw(st.sampled_from([right, right, repeats])))}, {}


@st.composite
def reductions(draw: Any) -> Case:
    shape = draw(shapes())
    axes = draw(st.none() | some_axes(len(shape)))
    settings: dict[str, Any] = {"keepdims": draw(st.integers(0, 1))}
    if draw(st.booleans()):
        return shape, 11, {}, settings | ({} if axes is None else {"axes": axes})
    settings["noop_with_empty_axes"] = draw(st.integers(0, 1))
    return shape, 18, {} if axes is None else {"a": ints(*axes)}, settings


@st.composite
def splits(draw: Any) -> Any:
    """A case, and how many results it has."""
    shape = draw(shapes())
    along = draw(axis(len(shape)))
    reach = shape[along] if -len(shape) <= along < len(shape) else 1
    opset = draw(st.sampled_from([11, 13, 18]))
    settings: dict[str, Any] = {"axis": along}
    if draw(st.booleans()):  # sizes are given
        sizes = draw(st.lists(st.integers(-1, 3), min_size=1, max_size=4))
        if draw(st.integers(0, 4)):  # mostly such as there are
            ends = sorted(draw(st.lists(st.integers(0, reach), max_size=3)))
            sizes = np.diff([0, *ends, reach]).tolist()
        if opset < 13:
            return shape, opset, {}, {**settings, "split": sizes}, len(sizes)
        return shape, opset, {"s": ints(*sizes)}, settings, len(sizes)
    parts = draw(st.sampled_from([reach, reach, 1, 2, 3, 4]))
    if opset == 18 and draw(st.integers(0, 5)):
        named = draw(st.sampled_from([parts] * 7 + [parts + 1]))
        settings["num_outputs"] = named
    return shape, opset, {}, settings, parts


def all_outputs(op: str) -> Callable[[Any], Any]:
    """Builds a model that returns all results of the operator, one after another."""

    def build(case: Any) -> Any:
        shape, opset, weights, attributes, count = case
        names = [f"r{k}" for k in range(count)]
        flat = [f"f{k}" for k in range(count)]
        nodes = [
            node(op, ["x", *weights], names, **attributes),
            *(
                node("Flatten", [a], [b], axis=0)
                for a, b in zip(names, flat, strict=True)
            ),
            node("Concat", flat, ["y"], axis=1),
        ]
        return make_model(nodes, shape, weights, opset)

    return build


def one_output(op: str) -> Callable[[Case], Any]:
    def build(case: Case) -> Any:
        shape, opset, inputs, attributes = case
        names = [n if a is not None else "" for n, a in inputs.items()]
        weights = {n: a for n, a in inputs.items() if a is not None}
        operator = node(op, ["x", *names], ["y"])
        for name, value in attributes.items():
            kind = onnx.AttributeProto.INTS if value == [] else None
            made = onnx.helper.make_attribute(name, value, attr_type=kind)
            operator.attribute.append(made)
        return make_model([operator], shape, weights, opset)

    return build


OPERATORS: dict[str, st.SearchStrategy[Case]] = {
    "Slice": slices(),
    "Gather": gathers(),
    "GatherElements": gather_elements(),
    "GatherND": gather_nds(),
    "Pad": pads(),
    "Reshape": reshapes(),
    "Transpose": transposes(),
    "Squeeze": squeezes(),
    "Unsqueeze": unsqueezes(),
    "Flatten": flattens(),
    "Concat": concats(),
    "Expand": expands(),
    "Tile": tiles(),
    "ReduceSum": reductions(),
    "ReduceMax": reductions(),
    "ReduceMean": reductions(),
    "Split": splits(),
}

ALL_READ = ("Unsqueeze",)
"""Operators of which no form that is drawn is refused."""


def check(model: Any, folder: Path, shape: tuple[int, ...]) -> str:
    """Compares with onnxruntime; returns how it ended."""
    model.ir_version = 9
    path = write(model, folder)
    x = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)
    try:
        expected = runtime(path.read_bytes(), x, False)
    except Exception as error:  # the runtime has no common class of its errors
        assert type(error).__module__.startswith("onnxruntime"), error
        expected = None
    try:
        network = load_onnx(path, [shape])
    except JaxcertError as error:
        message = str(error)
        batch = "is empty" in message
        constant = "does not depend on the input" in message
        # The runtime takes some axes that are named twice, which the standard forbids.
        known = batch or constant or "named twice" in message
        unsupported = isinstance(error, UnsupportedError)
        assert expected is None or known or unsupported, message
        return "refused"
    assert expected is not None, f"onnxruntime refuses {model.graph.node}"
    # A batch axis of size 1 is not part of one input.
    got = jax.jit(network.apply)(network.params, x.reshape(network.input_shape))
    np.testing.assert_array_equal(np.asarray(got), expected.ravel(), str(model.graph))
    return "equal"


@pytest.mark.parametrize("examples", sampled([14, 60]))
@pytest.mark.parametrize("op", OPERATORS)
def test_attribute_space(op: str, examples: int, tmp_path: Path) -> None:
    build = all_outputs(op) if op == "Split" else one_output(op)
    ends: dict[str, int] = {"equal": 0, "refused": 0}

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(OPERATORS[op])
    def run(case: Case) -> None:
        ends[check(build(case), tmp_path, case[0])] += 1

    run()
    # There may be fewer cases than examples.
    assert ends["equal"] >= max(1, sum(ends.values()) // 8), ends
    assert ends["refused"] >= 1 or op in ALL_READ, ends
