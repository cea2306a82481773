"""Numbers of ONNX files: what the network is made of is exactly what the file says."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_models import FLOAT, make_model, node, onnx, scalar, write

import jaxcert as jc
from jaxcert.commands.dual.run import Lowest
from jaxcert.interop.onnx import load_onnx
from jaxcert.model import Model
from jaxcert.oracle.decide import Effort, decide

DOUBLE = onnx.TensorProto.DOUBLE


def number(v: Any) -> Fraction:
    return Fraction(float(v))


ALL_FLOAT32 = {"w": np.ones((2, 1), np.float32), "c": scalar(1.7), "d": scalar(1e-5)}
FILES = {
    "a bias that is scaled": (
        [node("Gemm", ["x", "w", "c"], ["y"], beta=0.3)], ALL_FLOAT32,
        number(np.float32(1.7)) * number(np.float32(0.3)),
    ),
    "numbers that are added": (
        [node("Sum", ["c", "d", "x"], ["y"])], ALL_FLOAT32,
        number(np.float32(1.7)) + number(np.float32(1e-5)),
    ),
    "a number of float64": (
        [node("Add", ["x", "c"], ["y"])], {"c": np.array(0.1)}, number(0.1),
    ),
    "a limit of float64": (
        [node("Clip", ["x", "c"], ["y"])], {"c": np.array(0.1)}, number(0.1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_no_number_of_a_file_is_rounded_on_the_way(tmp_path: Path, name: str):
    nodes, weights, expected = FILES[name]
    kind = DOUBLE if weights["c"].dtype == np.float64 else FLOAT
    made = make_model(nodes, (1, 2), weights, types=(kind, kind))
    network = load_onnx(write(made, tmp_path))
    zero = jc.Box(np.zeros(2), np.zeros(2))
    for sign, f in ((1, network.apply), (-1, Lowest(network.apply))):
        model = Model(f, network.params, (2,))
        got = float(model.outputs(np.zeros((1, 2)))[0, 0])
        assert abs(number(got) - sign * expected) <= Fraction(2) ** -53
        row = np.eye(1, model.num_outputs)
        for side, away in itertools.product((1, -1), (1e-12, -1e-12)):
            # side * f + away > side * expected: true of the one, false of the other.
            offset = np.array([away - side * sign * float(expected)])
            spec = jc.Spec.rows(side * row, offset)
            verdict = decide(model, zero, spec, Effort("crown")).verdict
            assert verdict.proved == (away > 0)
