"""Matrices of blocks on the diagonal: found where they are, and products the same."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx_models import make_model, node, refused, rng, runtime, write

from jaxcert.interop.onnx import load_onnx
from jaxcert.interop.onnx_products import diagonal

SETTINGS = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],
)


def matrix_of(blocks: np.ndarray) -> np.ndarray:
    count, height, width = blocks.shape
    matrix = np.zeros((count, height, count, width), np.float32)
    matrix[np.arange(count), :, np.arange(count), :] = blocks
    return matrix.reshape(count * height, count * width)


@given(
    count=st.integers(4, 9), height=st.integers(1, 9), width=st.integers(1, 9),
    rows=st.sampled_from([0, 1, 3]), equal=st.booleans(), gemm=st.booleans(),
    spoiled=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@SETTINGS
def test_products_by_blocks_are_those_of_the_file(
    tmp_path: Path, count: int, height: int, width: int, rows: int, equal: bool,
    gemm: bool, spoiled: bool, seed: int,
):  # fmt: skip
    rng = np.random.default_rng(seed)
    height, width = 10 * height, 10 * width  # large enough to be looked at
    blocks = rng.normal(size=(1 if equal else count, height, width))
    matrix = matrix_of(np.broadcast_to(blocks, (count, height, width)).astype("f4"))
    if spoiled:
        matrix[-1, 0] = 1.5
    turned = gemm and bool(seed % 2)
    op = "Gemm" if gemm else "MatMul"
    made = node(op, ["x", "w"], ["y"], **({"transB": 1} if turned else {}))
    weights = {"w": np.ascontiguousarray(matrix.T) if turned else matrix}
    shape = (1, rows, len(matrix)) if rows and not gemm else (1, len(matrix))
    model = make_model([made], shape, weights)
    path = write(model, tmp_path)
    network = load_onnx(path)
    x = rng.normal(size=shape).astype(np.float32)
    expected = runtime(path.read_bytes(), x, False)
    got = jax.jit(network.apply)(network.params, x.reshape(network.input_shape))
    np.testing.assert_allclose(got, expected.ravel(), 1e-4, 1e-4)
    kept = max(np.size(v) for v in network.params.values())
    whole = spoiled or matrix.size < 1 << 14 or (shape[-2] > 1 and not equal)
    assert kept == (matrix.size if whole else blocks.size)


@pytest.mark.parametrize("count", [4, 6, 64])
def test_as_many_blocks_are_found_as_there_are(count: int):
    rng = np.random.default_rng(count)
    blocks = rng.normal(size=(count, 60, 40)).astype(np.float32)
    found = diagonal(matrix_of(blocks))
    np.testing.assert_array_equal(found, blocks)
    assert diagonal(np.ones((256, 128), np.float32)) is None


def test_a_full_matrix_takes_no_room_to_be_looked_at():
    matrix = np.ones((2048, 512), np.float32)
    tracemalloc.start()
    assert diagonal(matrix) is None
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < matrix.nbytes


@pytest.mark.parametrize("odd", [np.nan, np.inf])
@pytest.mark.parametrize("place", [(0, 200), (200, 200)])
def test_what_is_not_finite_is_in_no_matrix(
    tmp_path: Path, odd: float, place: tuple[int, int]
):
    matrix = matrix_of(rng.normal(size=(8, 32, 32)))
    matrix[place] = odd
    model = make_model([node("MatMul", ["x", "w"], ["y"])], (1, 256), {"w": matrix})
    refused(write(model, tmp_path), "NaN or infinity")
