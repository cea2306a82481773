"""docs/operators.md says what is read, and how its bounds are made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from onnx_models import make_model, write
from test_onnx import CASES
from test_onnx_operators import STRATEGIES, Drawn

from jaxcert.interop.onnx import NEWEST_OPSET, OLDEST_OPSET, load_onnx
from jaxcert.interop.onnx_ops import SUPPORTED
from jaxcert.trace.program import ActivationNode, OpaqueNode, ProductNode
from jaxcert.trace.tracing import program_of

PAGE = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()
KINDS = dict(re.findall(r"^\| (\w+) \| (exact|relaxed|range|value) \|", PAGE, re.M))


def test_the_page_names_what_is_read() -> None:
    assert set(KINDS) == {*SUPPORTED, "Constant"}
    assert list(KINDS) == sorted(KINDS)
    assert f"Operator sets {OLDEST_OPSET} to {NEWEST_OPSET}" in PAGE


def bounds_of(model: Any, folder: Path) -> str:
    network = load_onnx(write(model, folder))
    x = jnp.zeros(network.input_shape, np.float32)
    nodes = program_of(network.apply, network.params, x).nodes
    if any(isinstance(n, OpaqueNode) for n in nodes):
        return "range"
    curved = any(
        isinstance(n, ProductNode)
        or (isinstance(n, ActivationNode) and not n.activation.piecewise_linear)
        for n in nodes
    )
    return "relaxed" if curved else "exact"


ALONE = {c.nodes[0].op_type: c for c in reversed(CASES) if len(c.nodes) == 1}


@pytest.mark.parametrize("op", sorted({*ALONE, *STRATEGIES} - {"Equal"}))
def test_bounds_are_made_as_the_page_says(op: str, tmp_path: Path) -> None:
    found: list[str] = []
    if op in ALONE:
        case = ALONE[op]
        model = make_model(case.nodes, case.shape, case.weights, case.opset)
        found.append(bounds_of(model, tmp_path))
    else:

        @settings(
            max_examples=3, derandomize=True, deadline=None, phases=[Phase.generate]
        )
        @given(STRATEGIES[op])
        def examine(drawn: Drawn) -> None:
            model = make_model(drawn.nodes, drawn.shape, drawn.weights, drawn.opset)
            model.ir_version = 10
            found.append(bounds_of(model, tmp_path))

        examine()
    assert KINDS[op] in found, found
