"""Matrix products of ONNX files, and what of a weight is needed.

Networks that hold many small ones side by side, such as trees of minima and maxima,
store each of their layers as one matrix, nearly all zeros: blocks on its diagonal. The
product is as many products of blocks, and its cost and that of every bound falls by
their number.
"""

from __future__ import annotations

import math

import numpy as np

from jaxcert.interop.onnx_lowering import Call, Constant, Value
from jaxcert.interop.onnx_shapes import Outputs, reshape_to
from jaxcert.interop.onnx_types import is_low

_LARGE = 1 << 14
"""Elements of a matrix that is worth the two nodes more."""


def lower_matmul(call: Call) -> Outputs:
    """`x @ y`."""
    return product(call, call.value(0), call.value(1))


def product(call: Call, x: Value, y: Value) -> Outputs:
    """Returns `x @ y`, by its blocks where y is a matrix of blocks on the diagonal."""
    found = None
    if isinstance(y, Constant) and not isinstance(x, Constant) and len(y.shape) == 2:
        found = None if is_low(y.dtype) or len(x.shape) < 2 else diagonal(y.array)
    if found is None:
        return [call.emit("matmul", x, y)]
    count, height, width = found.shape
    *before, _ = x.shape
    rows, made = math.prod(before), (*before, y.shape[1])
    assert isinstance(y, Constant)
    if np.all(found == found[0]):
        block = Constant(found[0], ("block", y.key), y.name)
        (x,) = reshape_to(call, x, (rows * count, height))
        return reshape_to(call, call.emit("matmul", x, block), made)
    if rows != 1:
        return [call.emit("matmul", x, y)]
    blocks = Constant(found, ("blocks", y.key), y.name)
    (x,) = reshape_to(call, x, (count, 1, height))
    return reshape_to(call, call.emit("matmul", x, blocks), made)


def diagonal(matrix: np.ndarray) -> np.ndarray | None:
    """Returns the blocks of a matrix that is 0 elsewhere, as many as there may be.

    Args:
      matrix: shape (count * height, count * width), large.

    Returns:
      Shape (count, height, width), count >= 4; None where there are no such blocks.
    """
    if matrix.size < _LARGE:
        return None
    height, width = matrix.shape
    mask = matrix != 0  # NaN is an element, too
    (row,) = np.nonzero(mask.any(axis=1))
    first, last = mask.argmax(axis=1), width - 1 - mask[:, ::-1].argmax(axis=1)
    first, last = first[row], last[row]
    for count in _divisors(math.gcd(height, width)):
        if count < 4:
            return None
        p, q = height // count, width // count
        if np.array_equal(row // p, first // q) and np.array_equal(row // p, last // q):
            parts = matrix.reshape(count, p, count, q)
            return parts[np.arange(count), :, np.arange(count), :]
    return None


def _divisors(number: int) -> list[int]:
    """Returns the divisors, the greatest first."""
    found = [k for k in range(1, math.isqrt(number) + 1) if number % k == 0]
    return sorted({*found, *(number // k for k in found)}, reverse=True)
