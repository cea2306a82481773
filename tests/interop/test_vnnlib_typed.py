"""VNN-LIB 2.0, and what version 1.0 says of inputs that is no box."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcert.box import Box
from jaxcert.errors import InputError, JaxcertError, UnsupportedError
from jaxcert.interop.vnnlib import Property, load_vnnlib
from jaxcert.interop.vnnlib_joint import check_ports, files_of, joined
from jaxcert.interop.vnnlib_tree import Atom
from jaxcert.network import Network, Port
from jaxcert.witness.judge import Judge

ONE = """(vnnlib-version <2.0>)
; a comment
(declare-network f
  (declare-input X float32 [1,2])
  (declare-output Y Real [2]))
"""
BOX = "".join(
    f"(assert (>= X[0,{i}] -1.0)) (assert (<= X[0, {i}] 1))\n" for i in range(2)
)
TWO = """(vnnlib-version <2.0>)
(declare-network f
  (declare-input A real [2]) (declare-input S real []) (declare-output B real [1,2]))
(declare-network g (equal-to f)
  (declare-input C real [2]) (declare-input T real []) (declare-output D real [1,2]))
"""
OLD = """(declare-const X_0 Real) (declare-const X_1 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real)
(assert (and (>= X_0 -1) (<= X_0 1) (>= X_1 -1) (<= X_1 1)))
"""


def load(folder: Path, text: str) -> Property:
    path = folder / "p.vnnlib"
    path.write_text(text)
    return load_vnnlib(path)


def networks(*shapes: tuple[int, int], seed: int = 0) -> list[Network]:
    """Random ReLU networks of (inputs, outputs)."""
    random, found = np.random.default_rng(seed), []
    for inputs, outputs in shapes:
        params = {
            "v": random.normal(size=(3, inputs)).astype(np.float32),
            "w": random.normal(size=(outputs, 3)).astype(np.float32),
        }
        found.append(Network(relu, params, (inputs,), outputs, "net", "0" * 64))
    return found


def relu(params, x):
    return params["w"] @ jax.nn.relu(params["v"] @ x)


def bounded(*names: str) -> str:
    return "".join(f"(assert (<= {n} 1)) (assert (>= {n} -1))" for n in names)


# -------------------------------------------------------------- what is read


def test_tensors_are_numbered_in_row_major_order(tmp_path):
    prop = load(tmp_path, TWO + bounded("A[0]", "A[1]", "S", "C[0]", "C[1]", "T")
                + "(assert (<= (- (* 2 D[0,1]) B[0, 0]) 0.5))")  # fmt: skip
    assert (prop.num_inputs, prop.num_outputs) == (6, 4)
    (case,) = prop.cases
    ((rows, offset),) = case.disjuncts
    assert rows.tolist() == [[-1, 0, 0, 2]] and offset.tolist() == [-0.5]
    assert [t.first for n in prop.networks for t in n.inputs] == [0, 2, 3, 5]
    assert prop.networks[1].same_as == "f" and not prop.passed
    assert prop.networks[0].inputs[1].element(0) == "S"
    assert prop.networks[1].outputs[0].element(1) == "D[0,1]"


def test_version_2_says_what_version_1_says(tmp_path):
    text = "(assert (or (and (<= {0} {1}) (> {2} 0.25)) (>= (+ {0} {1}) 3)))"
    new = load(tmp_path, ONE + BOX + text.format("Y[0]", "Y[1]", "X[0,1]"))
    old = load(tmp_path, OLD + text.format("Y_0", "Y_1", "X_1"))

    def outputs_of(prop: Property) -> list[object]:
        atoms = [step for step in prop.assertions if isinstance(step, Atom)]
        return [dataclasses.replace(a, line=0) for a in atoms if a.outputs]

    assert outputs_of(new) == outputs_of(old)  # but for the lines
    for a, b in zip(new.cases, old.cases, strict=True):
        assert np.array_equal((a.lo, a.hi, *a.inner), (b.lo, b.hi, *b.inner))
        for c, d in zip(a.disjuncts, b.disjuncts, strict=True):
            assert np.array_equal(c[0], d[0]) and np.array_equal(c[1], d[1])
    assert "declares float32; what is proved" in new.notes[0] and not old.notes


@pytest.mark.parametrize(
    ("condition", "at", "violated"),
    [
        ("(!= Y[0] Y[1])", (1, 1), False),
        ("(!= Y[0] Y[1])", (1, 2), True),
        ("(== Y[0] Y[1])", (1, 1), True),
        ("(== Y[0] Y[1])", (1, 2), False),
        ("(<= (- Y[0]) -3)", (3, 0), True),
        ("(<= (- 1 Y[0] Y[1]) 0)", (0.5, 0.25), False),
        ("(<= (* -1.5 Y[0] 2) -6)", (2, 0), True),
    ],
)
def test_terms_and_comparisons(tmp_path, condition, at, violated):
    prop = load(tmp_path, f"{ONE}{BOX}(assert {condition})")
    assert prop.violates(np.zeros(2), np.array(at, float)) is violated


def test_a_counterexample_is_written_as_the_standard_asks(tmp_path):
    prop = load(tmp_path, f"{ONE}{BOX}(assert (<= Y[0] Y[1]))")
    shown = prop.counterexample(np.array([0.5, -1.0]), np.array([0.1, 2.0]))
    assert shown == "X float32 [1,2]\n0.5\n-1.0\nY real [2]\n0.1\n2.0"
    old = load(tmp_path, OLD + "(assert (<= Y_0 Y_1))")
    assert old.counterexample(np.zeros(2), np.ones(2)).startswith("(X_0 0.0)", 1)


MISTAKES = [
    (1, "(vnnlib-version <3.0>)", UnsupportedError, "version 3.0 is not supported"),
    (1, "(vnnlib-version 2)", InputError, "not of the form .vnnlib-version <2.0>"),
    (3, "(declare-network f", InputError, "f is declared twice"),
    (3, "(declare-network 1f", InputError, "'1f' where a name must stand"),
    (4, "(declare-input X int32 [1])", UnsupportedError, "X is of type 'int32'; known"),
    (4, "(declare-input X real [0])", InputError, "X has no elements"),
    (4, "(declare-input X real [-1,2])", InputError, "where .1,2,.... must stand"),
    (4, "(declare-input X real)", InputError, "not of the form .declare-input X"),
    (4, "(declare-input X real [9999,9999])", InputError, "X is too large"),
    (4, "(declare-input X real [2] initialized)", UnsupportedError, "'initialized'"),
    (3, "(declare-network g (isomorphic-to h)", InputError, "is like 'h': unknown"),
    (
        3,
        "(declare-network g (equal-to f)(declare-input W real [1])",
        InputError,
        "is like f and declares other tensors",
    ),
    (4, "(declare-input W real [1])(equal-to g)", InputError, "'equal-to' stands in"),
    (4, '(declare-hidden H real [2] "h")', UnsupportedError, "hidden nodes are not"),
    (4, "(declare-thing X)", InputError, "'declare-thing' in declare-network"),
]


@pytest.mark.parametrize(("line", "text", "kind", "message"), MISTAKES)
def test_mistakes_in_declarations_name_their_line(tmp_path, line, text, kind, message):
    lines = ["(vnnlib-version <2.0>)", "", "(declare-network g"]
    lines += ["(declare-input Z real [1])", "(declare-output V real [1]))"]
    if line == 3:
        lines[2:] = [
            "(declare-network f (declare-input P real [1])",
            "(declare-output Q real [1]))",
            text,
            "(declare-input Z real [1])",
            "(declare-output V real [1]))",
        ]
        line = 5
    else:
        lines[line - 1] = text
        if text.startswith(("(isomorphic", "(declare-hidden", "(declare-thing")):
            lines.insert(4, "(declare-input Z real [1])")
    with pytest.raises(kind, match=f"p.vnnlib, line {line}: .*{message}"):
        load(tmp_path, "\n".join(lines) + "\n(assert (<= V[0] 1))")


@pytest.mark.parametrize(
    ("condition", "kind", "message"),
    [
        ("(<= X[0] 1)", InputError, r"'X\[0\]' has 1 indices and X has 2 axes"),
        ("(<= X 1)", InputError, "'X' has 0 indices and X has 2 axes"),
        ("(<= X[0,2] 1)", InputError, r"'X\[0,2\]' lies outside X of shape \[1, 2\]"),
        ("(<= Z[0] 1)", InputError, "is neither a number nor a declared variable"),
        ("(<= Y[0] Y[1] 1)", InputError, "'<=' compares two terms"),
        ("(<= (+ Y[0]) 1)", InputError, r"'\+' takes two terms or more"),
        ("(<= (* Y[0] X[0,0]) 1)", UnsupportedError, "a product of variables is not"),
        ("(<= (exp Y[0]) 1)", UnsupportedError, "operator 'exp' is not supported"),
        ("(not (<= Y[0] 1))", UnsupportedError, "operator 'not' is not supported"),
    ],
)
def test_mistakes_in_assertions_name_their_line(tmp_path, condition, kind, message):
    with pytest.raises(kind, match=f"line 8: .*{message}"):
        load(tmp_path, f"{ONE}{BOX}(assert {condition})")


def test_an_input_without_a_bound_is_called_by_its_name(tmp_path):
    with pytest.raises(InputError, match=r"gives X\[0,1\] no lower bound"):
        load(tmp_path, ONE + bounded("X[0,0]") + "(assert (<= Y[0] 1))")


# ------------------------------------------- inputs and outputs, over one network


def violated_by(prop: Property, z: np.ndarray, outputs: np.ndarray) -> bool:
    """What the normal form says at a point, in exact arithmetic."""
    for case in prop.cases:
        if not np.all((case.lo <= z) & (z <= case.hi)):
            continue
        for rows, offset in case.disjuncts:
            exact = [
                sum(
                    Fraction(c) * Fraction(v) for c, v in zip(row, outputs, strict=True)
                )
                + Fraction(d)
                for row, d in zip(rows.tolist(), offset.tolist(), strict=True)
            ]
            if all(value <= 0 for value in exact):
                return True
    return False


CONDITIONS = [
    "(<= Y_0 X_1)",
    "(and (<= (+ X_0 X_1) 0.5) (>= Y_1 X_0))",
    "(or (<= (+ Y_0 Y_1) (* 2 X_0)) (and (>= (- X_1 X_0) 0.25) (>= Y_0 1)))",
    "(and (= X_0 X_1) (<= Y_0 Y_1))",
]


@pytest.mark.parametrize("condition", CONDITIONS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_the_normal_form_over_the_joint_network_is_the_tree(
    tmp_path_factory, condition, seed
):
    prop = load(tmp_path_factory.mktemp("p"), f"{OLD}(assert {condition})")
    network = joined(prop, networks((2, 2), seed=seed))
    assert network.num_outputs == 2 + len(prop.passed)
    random, seen = np.random.default_rng(seed), set()
    model = network.model
    for z in random.uniform(-1, 1, size=(25, *network.input_shape)).round(2):
        outputs = model.outputs(z[None])[0]
        np.testing.assert_array_equal(outputs[2:], z[list(prop.passed)])
        tree = prop.violated_at(z, outputs)
        assert violated_by(prop, z, outputs) == tree
        seen.add(tree)
    assert seen


def test_equal_inputs_are_one_variable(tmp_path):
    ties = "(assert (== A[0] C[0])) (assert (<= A[1] C[1])) (assert (>= A[1] C[1]))"
    box = bounded("A[0]", "C[1]", "S", "T")
    prop = load(tmp_path, f"{TWO}{box}{ties}(assert (> D[0,0] (+ B[0,0] 0.5)))")
    assert prop.spread == (0, 1, 2, 0, 1, 3) and not prop.passed
    (case,) = prop.cases
    assert case.lo.tolist() == [-1] * 4
    (one,) = networks((3, 2))
    network = joined(prop, [one, one])
    assert network.input_shape == (4,) and len(network.params) == 1
    z = np.array([0.5, -0.25, 1.0, -1.0])
    expected = [
        one.apply(one.params, z[[0, 1, 2]]),
        one.apply(one.params, z[[0, 1, 3]]),
    ]
    np.testing.assert_allclose(
        network.apply(network.params, z), np.concatenate(expected), rtol=1e-6
    )
    x = prop.inputs_at(z)
    assert x.tolist() == [0.5, -0.25, 1.0, 0.5, -0.25, -1.0]
    assert prop.counterexample(z, np.arange(4.0)).split("\n")[:5] == [
        "A real [2]", "0.5", "-0.25", "S real []", "1.0",
    ]  # fmt: skip


def test_inputs_that_are_equal_in_one_disjunct_alone_stay_two(tmp_path):
    text = f"{OLD}(assert (or (and (= X_0 X_1) (<= Y_0 0)) (>= Y_1 1)))"
    prop = load(tmp_path, text)
    assert prop.spread == (0, 1) and prop.passed == (0, 1)


def test_the_joint_network_is_exact_to_the_judge(tmp_path):
    prop = load(tmp_path, f"{OLD}(assert (<= (+ Y_0 X_0) X_1))")
    network = joined(prop, networks((2, 2)))
    z: Any = np.array([0.25, -0.5])
    found = Judge(network.model).exact.output(Box(z, z))
    assert found is not None and found.is_point
    assert [float(v) for v in found.lo.fractions()[2:]] == [0.25, -0.5]


# ------------------------------------------------------------ files and networks


def test_every_declared_network_needs_a_file(tmp_path):
    prop = load(tmp_path, TWO + bounded("A[0]", "A[1]", "S", "C[0]", "C[1]", "T")
                + "(assert (<= D[0,1] 0))")  # fmt: skip
    assert files_of(prop, {"f": "a.onnx"}) == ["a.onnx", "a.onnx"]
    assert files_of(prop, {"": "a.onnx"}) == ["a.onnx", "a.onnx"]
    for named in ({"f": "a", "g": "b"}, {"h": "a"}, {}):
        with pytest.raises(InputError, match="the property needs files for f, and got"):
            files_of(prop, named)
    old = load(tmp_path, OLD + "(assert (<= Y_0 Y_1))")
    assert files_of(old, {"": "a.onnx"}) == ["a.onnx"]
    with pytest.raises(InputError, match="one file without a name, and got f"):
        files_of(old, {"f": "a.onnx"})


def test_files_have_the_declared_tensors(tmp_path):
    prop = load(tmp_path, f"{ONE}{BOX}(assert (<= Y[0] Y[1]))")
    (plain,) = networks((2, 2))
    fits = dataclasses.replace(
        plain, inputs=(Port("x", (1, 2)),), outputs=(Port("y", (2,), "float64"),)
    )
    check_ports(prop, [fits])
    for change, message in (
        ({"inputs": (Port("x", (2,)),)}, r"X is declared of shape \[1, 2\], and 'x'"),
        ({"inputs": (Port("x", (1, 2), "float64"),)}, "X is declared as float32, and"),
        ({"outputs": fits.outputs * 2}, "declared with 1 outputs, and net has 2"),
    ):
        with pytest.raises(InputError, match=message):
            check_ports(prop, [dataclasses.replace(fits, **change)])
    with pytest.raises(InputError, match="declares 2 inputs and net has 3"):
        joined(prop, networks((3, 2)))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_files_are_errors_of_their_own(tmp_path_factory, data):
    text = TWO + bounded("A[0]", "A[1]", "S", "T") + "(assert (<= D[0,1] B[0,0]))"
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 9)))
    new = data.draw(st.text('()[]<>= ,;"ABf01.-*+', max_size=4))
    try:
        load(tmp_path_factory.mktemp("d"), text[:start] + new + text[stop:])
    except JaxcertError:
        pass
