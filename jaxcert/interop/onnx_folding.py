"""What an ONNX file computes from its constants alone, computed while it is read.

In the types that the file states, as a runtime does it: a weight that is computed from
others is the number that the runtime multiplies by, roundings included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcert.interop.onnx_graph import Attributes, evaluate
from jaxcert.interop.onnx_types import WIDE, is_float, is_low

MAX_FOLDED = 2**24
"""Most elements that a constant computed while reading may have, or its operand's."""
MAX_FOLDED_TOGETHER = 2**26
"""Most elements that all of them may have, besides twice those of the weights."""


def _special(name: str) -> Callable[..., Any]:
    from scipy import special  # loading it takes long

    return getattr(special, name)


def _integer_divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if np.any(b == 0):
        raise ValueError("integer division by zero")
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))


def _slice(
    x: np.ndarray,
    starts: Sequence[int],
    limits: Sequence[int],
    strides: Sequence[int],
    reverse: tuple[int, ...],
) -> np.ndarray:
    part = x[tuple(slice(*s) for s in zip(starts, limits, strides, strict=True))]
    return np.flip(part, reverse) if reverse else part


def _select(x: Any, y: Any, mask: bytes, shape: tuple[int, ...]) -> np.ndarray:
    return np.where(np.frombuffer(mask, bool).reshape(shape), x, y)


# Exact for every type.
_REARRANGE: Mapping[str, Callable[..., Any]] = {
    "reshape": lambda x, shape: np.reshape(x, shape),
    "transpose": lambda x, permutation: np.transpose(x, permutation),
    "broadcast": lambda x, shape: np.broadcast_to(x, shape),
    "slice": _slice,
    "gather": lambda x, axis, indices: np.take(x, indices, axis),
    "concat": lambda *xs, axis: np.concatenate(xs, axis),
    "select": _select,
}


def _cumsum(x: np.ndarray, axis: int, reverse: bool) -> np.ndarray:
    ordered = np.flip(x, axis) if reverse else x
    total = np.cumsum(ordered, axis, dtype=x.dtype)
    return np.flip(total, axis) if reverse else total


def _reduce(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, axes, keepdims: function(
        x, axis=axes, keepdims=keepdims, dtype=x.dtype
    )


_COMMON: Mapping[str, Callable[..., Any]] = {
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "add": np.add,
    "sub": np.subtract,
    "equal": np.equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "mul": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "reduce_sum": _reduce(np.sum),
    "reduce_max": lambda x, axes, keepdims: np.max(x, axis=axes, keepdims=keepdims),
    "reduce_min": lambda x, axes, keepdims: np.min(x, axis=axes, keepdims=keepdims),
}
_INTEGER: Mapping[str, Callable[..., Any]] = {
    **_COMMON,
    "div": _integer_divide,
    "logical_not": np.logical_not,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "cumsum": _cumsum,
    "reduce_prod": _reduce(np.prod),
}
_FLOAT: Mapping[str, Callable[..., Any]] = {
    **_COMMON,
    "div": np.divide,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "floor": np.floor,
    "ceil": np.ceil,
    "round_even": np.round,
    "erf": lambda x: _special("erf")(x),
    "sigmoid": lambda x: _special("expit")(x),
    "relu": lambda x: np.maximum(x, 0),
    "clip": lambda x, low, high: np.clip(x, low, high),
    "matmul": np.matmul,
    "reduce_mean": _reduce(np.mean),
    "power": lambda x, exponent: np.power(x, exponent).astype(x.dtype),
}


def fold(
    op: str,
    settings: Attributes,
    operands: Sequence[np.ndarray | float],
    floats: bool,
) -> np.ndarray | None:
    """Returns what the operation makes of constants, or None where it is not folded.

    Args:
      op: operation of a graph, or one of those on whole numbers above.
      settings: its attributes.
      operands: arrays, and floats that belong to the operation.
      floats: whether arithmetic on floats is done. Rearranging them always is.

    Raises:
      ValueError: the result is too large.
    """
    attributes = dict(settings)
    arrays = [v for v in operands if isinstance(v, np.ndarray)]
    if op in _REARRANGE:
        _refuse_large(_size(op, attributes, arrays), arrays)
        return np.asarray(_REARRANGE[op](*operands, **attributes))
    dtype = arrays[0].dtype
    if not any(is_float(a.dtype) for a in arrays):
        if op not in _INTEGER:
            return None
        _refuse_large(_size(op, attributes, arrays), arrays)
        with np.errstate(all="ignore"):
            return np.asarray(_INTEGER[op](*operands, **attributes))
    if not floats:
        return None
    wide = [
        np.asarray(v, WIDE if is_low(dtype) else dtype)
        if isinstance(v, float) or is_low(v.dtype)
        else v
        for v in operands
    ]
    if op in _FLOAT:
        _refuse_large(_size(op, attributes, wide), arrays)
        with np.errstate(all="ignore"):
            return np.asarray(_FLOAT[op](*wide, **attributes))
    numbers = [v if isinstance(v, np.ndarray) else float(v) for v in operands]
    shape = jax.eval_shape(lambda: evaluate(op, settings, numbers)).shape
    _refuse_large(math.prod(shape), arrays)
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        return np.asarray(evaluate(op, settings, wide))


def _refuse_large(size: int, arrays: Sequence[np.ndarray]) -> None:
    if size > max(MAX_FOLDED, *(a.size for a in arrays)):
        raise ValueError(f"its constant result has more than {MAX_FOLDED} elements")


def _size(op: str, attributes: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> int:
    """Returns a bound on the size of a folded value, 0 where it does not grow."""
    first = arrays[0]
    if op in ("broadcast", "select"):
        return math.prod(attributes["shape"])
    if op == "concat":
        return sum(a.size for a in arrays)
    if op == "gather":
        rows = first.size // max(first.shape[attributes["axis"]], 1)
        return rows * len(attributes["indices"])
    if op == "matmul":
        batch = np.broadcast_shapes(*(a.shape[:-2] for a in arrays))
        return math.prod((*batch, *first.shape[-2:-1], *arrays[1].shape[-1:]))
    if len(arrays) == 1:
        return 0
    return math.prod(np.broadcast_shapes(*(a.shape for a in arrays)))
