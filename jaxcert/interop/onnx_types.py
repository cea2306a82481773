"""Element types of ONNX files, and casts between them as runtimes do them.

A value is computed in the type that the file states. The types below float32 (`is_low`)
are computed as runtimes without arithmetic of their own do it: every operator in
float32, its result rounded once.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

WIDE = np.dtype(np.float32)
"""The type in which operators on narrower floats are computed."""

_FLOATS = (
    "FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ",
    "FLOAT8E5M2", "FLOAT8E5M2FNUZ",
)  # fmt: skip
_OTHERS = (
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64",
)  # fmt: skip


def type_name(data_type: int) -> str:
    """Returns the name of an ONNX element type, "unknown" for a number without one."""
    import onnx

    types = onnx.TensorProto.DataType
    return types.Name(data_type) if data_type in types.values() else "unknown"


def numpy_type(data_type: int) -> np.dtype | None:
    """Returns the numpy type of an ONNX element type, None where it is not read."""
    import onnx

    if type_name(data_type) not in (*_FLOATS, *_OTHERS):
        return None
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type))


def is_float(dtype: np.dtype) -> bool:
    """Returns whether the type is a float; numpy alone does not know bfloat16."""
    return bool(jax.dtypes.issubdtype(dtype, np.floating))


def is_low(dtype: np.dtype) -> bool:
    """Returns whether the type is a float below float32."""
    return is_float(dtype) and dtype.itemsize < WIDE.itemsize


def largest(dtype: np.dtype) -> float:
    """Returns the largest finite number of a float type."""
    return float(jax.numpy.finfo(dtype).max)


def cast_array(array: np.ndarray, dtype: np.dtype, saturate: bool = True) -> np.ndarray:
    """Returns the numbers in another type, rounded to nearest or cut to whole numbers.

    Args:
      array: the numbers.
      dtype: the type wanted.
      saturate: what is too large for an 8-bit float becomes its largest number.

    Raises:
      ValueError: a number does not fit a whole type: runtimes differ there.
    """
    if is_float(array.dtype) and not is_float(dtype) and dtype != np.bool_:
        array = np.trunc(array.astype(np.float64))
        ends = np.iinfo(dtype)
        # As powers of two, the ends are exact: float64 would round 2^63 - 1 up.
        inside = (array >= float(ends.min)) & (
            array < math.ldexp(1.0, ends.bits - (ends.min < 0))
        )
        if not inside.all():
            raise ValueError(f"it casts a number to {dtype} that does not fit")
    with np.errstate(all="ignore"):
        limit = saturation(dtype, saturate)
        if limit is not None:
            array = np.clip(array.astype(np.float64), -limit, limit)
        return np.asarray(array).astype(dtype)


def saturation(dtype: np.dtype, saturate: bool = True) -> float | None:
    """Returns the number at which a cast to the type stops, None where it has none."""
    low = is_float(dtype) and dtype.itemsize == 1
    return largest(dtype) if low and saturate else None


def type_names(types: set[Any]) -> tuple[str, ...]:
    """Returns the names of float types, the widest first."""
    return tuple(t.name for t in sorted(types, key=lambda t: (-t.itemsize, t.name)))
