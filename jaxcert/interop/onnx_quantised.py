"""ONNX operators of quantised networks: QuantizeLinear and DequantizeLinear.

A quantised value is a whole number, which the graph holds as a float; rounding to it is
an operation of the network, a step function that bounds know by its lines.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np

from jaxcert.interop.onnx_decisions import as_whole
from jaxcert.interop.onnx_lowering import Call, Computed, Constant, Value
from jaxcert.interop.onnx_shapes import Outputs, axis_of
from jaxcert.interop.onnx_types import WIDE, is_low, numpy_type, type_name

_QUANTISED = ("int8", "uint8", "int16", "uint16", "int32")


def _settings(call: Call, x: Value) -> tuple[Value, np.ndarray]:
    """Returns the scale and the zero point in shapes that broadcast against x."""
    scale = call.constant(1, "scale")
    rank = len(x.shape)
    if call.attribute("block_size", 0):
        raise call.unsupported("has a scale per block")
    if is_low(scale.dtype) or np.any(~(scale.array.astype(np.float64) > 0)):
        raise call.unsupported("has a scale that is not a positive float32")
    axis = call.attribute("axis", 1)
    zero = call.constant(2, "zero point").array if call.has(2) else None
    shape: tuple[int, ...] = ()
    if scale.array.size > 1:
        axis = axis_of(axis, rank)
        if scale.shape != (x.shape[axis],):
            raise ValueError(f"scale {scale.shape} does not fit {x.shape}")
        shape = tuple(n if i == axis else 1 for i, n in enumerate(x.shape))
    if zero is not None and zero.size != scale.array.size:
        raise ValueError(f"zero point {zero.shape} does not fit scale {scale.shape}")
    numbers = np.zeros((), np.int64) if zero is None else zero.astype(np.int64)
    if zero is not None:
        numbers = numbers.reshape(shape)
    return call.emit("reshape", scale, shape=shape), numbers


def _zero_point(call: Call, numbers: np.ndarray) -> Constant:
    array = numbers.astype(np.float32)
    return Constant(array, ("zero point", array.shape, array.tobytes()), "zero point")


def lower_quantize(call: Call) -> Outputs:
    """clip(round(x / scale) + zero, least, most), halves to the even neighbour."""
    x = call.value()
    scale, zero = _settings(call, x)
    call.flag("saturate", True)
    if call.attribute("precision", 0):
        raise call.unsupported("states a precision")
    asked = call.attribute("output_dtype", 0)
    dtype: np.dtype | None = np.dtype(np.uint8)
    if call.has(2):
        dtype = call.constant(2, "zero point").dtype
    elif asked:
        dtype = numpy_type(asked)
    if dtype is None or dtype.name not in _QUANTISED:
        named = type_name(asked) if dtype is None else dtype.name
        raise call.unsupported(f"makes values of type {named}")
    if isinstance(x, Constant):
        raise call.unsupported("quantises a constant")
    if x.dtype != WIDE:
        raise call.unsupported(f"quantises values of type {x.dtype}")
    ends = np.iinfo(dtype)
    whole = call.emit("round_even", call.emit("div", x, scale))
    if np.any(zero):
        whole = call.emit("add", whole, _zero_point(call, zero))
    whole = call.emit("clip", whole, low=float(ends.min), high=float(ends.max))
    return [as_whole(whole, dtype)]


def lower_dequantize(call: Call) -> Outputs:
    """(x - zero) scale."""
    x = call.value()
    scale, zero = _settings(call, x)
    if call.attribute("output_dtype", 0):
        raise call.unsupported("states a type of its result")
    if x.dtype.name not in _QUANTISED:
        raise call.unsupported(f"reads values of type {x.dtype.name}")
    if isinstance(x, Constant):
        exact = (x.array.astype(np.int64) - zero).astype(WIDE)
        key = ("dequantised", x.key, zero.tobytes())
        number: Value = Constant(exact, key, x.name)
    else:
        number = dataclasses.replace(cast(Computed, x), dtype=WIDE)
        if np.any(zero):
            number = call.emit("sub", number, _zero_point(call, zero))
    return [call.emit("mul", number, scale)]
