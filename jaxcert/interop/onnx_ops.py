"""The ONNX operators that jaxcert reads, each as a rule that emits graph nodes.

A rule takes a `Call` (one ONNX node) and returns the values of its outputs. The table
at the end, `SUPPORTED`, is the list of operators.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from jaxcert.interop.onnx_lowering import Call, Computed, Constant, Value
from jaxcert.interop.onnx_places import (
    lower_gather,
    lower_gather_elements,
    lower_gather_nd,
    lower_pad,
    lower_slice,
    lower_split,
    lower_tile,
)
from jaxcert.interop.onnx_shapes import (
    Outputs,
    axis_of,
    lower_concat,
    lower_constant_of_shape,
    lower_dropout,
    lower_equal,
    lower_expand,
    lower_flatten,
    lower_identity,
    lower_reshape,
    lower_shape,
    lower_squeeze,
    lower_transpose,
    lower_unsqueeze,
    lower_where,
)
from jaxcert.interop.onnx_types import is_float, is_low, largest, numpy_type, type_name
from jaxcert.interop.onnx_windows import (
    keep_shape,
    lower_batch_norm,
    lower_conv,
    lower_global_pool,
    lower_pool,
    lower_reduce,
    lower_reduce_prod,
)


def _unary(op: str) -> Callable[[Call], Outputs]:
    return lambda call: [call.emit(op, call.value())]


def _binary(op: str) -> Callable[[Call], Outputs]:
    return lambda call: [call.emit(op, call.value(0), call.value(1))]


def _variadic(op: str) -> Callable[[Call], Outputs]:
    def rule(call: Call) -> Outputs:
        result = call.value()
        for i in range(1, len(call.inputs)):
            result = call.emit(op, result, call.value(i))
        return [result]

    return rule


def _mean_of_inputs(call: Call) -> Outputs:
    (total,) = _variadic("add")(call)
    return [call.emit("div", total, float(len(call.inputs)))]


def _leaky_relu(call: Call) -> Outputs:
    return [call.emit("leaky_relu", call.value(), slope=call.attribute("alpha", 0.01))]


def _elu(call: Call) -> Outputs:
    return [call.emit("elu", call.value(), alpha=call.attribute("alpha", 1.0))]


def _selu(call: Call) -> Outputs:
    alpha = call.attribute("alpha", 1.6732632423543772)
    gamma = call.attribute("gamma", 1.0507009873554805)
    return [call.emit("mul", call.emit("elu", call.value(), alpha=alpha), gamma)]


def _gelu(call: Call) -> Outputs:
    form = call.attribute("approximate", "none")
    if form not in ("none", "tanh"):
        raise ValueError(f"approximate={form!r} does not exist")
    return [call.emit("gelu", call.value(), tanh=form == "tanh")]


def _hard_sigmoid(call: Call) -> Outputs:
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    line = call.emit("add", call.emit("mul", call.value(), alpha), beta)
    return [call.emit("clip", line, low=0.0, high=1.0)]


def _hard_swish(call: Call) -> Outputs:
    line = call.emit("add", call.emit("div", call.value(), 6.0), 0.5)
    gate = call.emit("clip", line, low=0.0, high=1.0)
    return [call.emit("mul", call.value(), gate)]


def _swish(call: Call) -> Outputs:
    if call.attribute("alpha", 1.0) != 1.0:
        raise call.unsupported("has alpha other than 1")
    return [call.emit("silu", call.value())]


def _reciprocal(call: Call) -> Outputs:
    return [call.emit("div", 1.0, call.value())]


_MOST_EXPONENTS = 16


def _pow(call: Call) -> Outputs:
    x, exponents = call.value(0), call.constant(1, "exponent").array
    if isinstance(x, Constant):
        return [call.emit("power", x, call.value(1))]
    exponents = exponents.astype(np.float64)
    if not np.isfinite(exponents).all() or exponents.size == 0:
        raise ValueError("its exponents are not finite numbers")
    shape = np.broadcast_shapes(x.shape, exponents.shape)
    if x.shape != shape:
        x = call.emit("broadcast", x, shape=shape)
    kinds, which = np.unique(exponents, return_inverse=True)
    if len(kinds) == 1:
        return [_power(call, x, float(kinds[0]))]
    if len(kinds) > _MOST_EXPONENTS:
        raise call.unsupported(f"has {len(kinds)} different exponents")
    # Part by part, since the root of one element is none of its neighbour's.
    which = np.broadcast_to(which.reshape(exponents.shape), shape).reshape(-1)
    order = np.argsort(which, kind="stable")
    flat = call.emit("reshape", x, shape=(order.size,))
    parts = [
        _power(call, _gather(call, flat, order[which[order] == i]), float(kind))
        for i, kind in enumerate(kinds)
    ]
    joined = _gather(call, call.emit("concat", *parts, axis=0), np.argsort(order))
    return [call.emit("reshape", joined, shape=shape)]


def _gather(call: Call, flat: Value, places: np.ndarray) -> Value:
    return call.emit("gather", flat, axis=0, indices=tuple(places.tolist()))


def _power(call: Call, x: Value, exponent: float) -> Value:
    if exponent == 0:
        return call.fill(x, 1.0)
    return x if exponent == 1 else call.emit("pow", x, exponent=exponent)


def _clip(call: Call) -> Outputs:
    x = call.value()
    if call.opset < 11:
        low, high = call.attribute("min"), call.attribute("max")
    else:
        low = call.number(1, "lower bound") if call.has(1) else None
        high = call.number(2, "upper bound") if call.has(2) else None
    limit = largest(x.dtype)
    # Exporters write the largest float, or infinity, for "no bound".
    low = None if low is not None and low <= -limit else low
    high = None if high is not None and high >= limit else high
    if low is None and high is None:
        return [x]
    if low is not None and high is not None and low > high:
        if call.opset < 11:
            raise ValueError(f"lower bound {low} is above its upper bound {high}")
        return [call.fill(x, high)]  # Min(high, Max(x, low)), by the standard
    return [call.emit("clip", x, low=low, high=high)]


def _cast(call: Call) -> Outputs:
    value, to = call.value(), call.attribute("to")
    saturate = call.flag("saturate", True)
    call.attribute("round_mode")  # concerns FLOAT8E8M0 only, which is not read
    dtype = numpy_type(to)
    if dtype is None:
        raise call.unsupported(f"casts to {type_name(to)}")
    if isinstance(value, Computed) and not is_float(dtype):
        raise call.unsupported("casts to a type that is not float")
    return [call.builder.cast(value, dtype, saturate)]


def _gemm(call: Call) -> Outputs:
    a, b = call.value(0), call.value(1)
    if call.flag("transA"):
        a = call.emit("transpose", a, permutation=(1, 0))
    if call.flag("transB"):
        b = call.emit("transpose", b, permutation=(1, 0))
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise ValueError(f"its operands have shapes {a.shape} and {b.shape}")
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    result = call.emit("matmul", a, b)
    if alpha != 1:
        result = call.emit("mul", result, float(alpha))
    if not call.has(2) or beta == 0:
        return [result]
    c = call.value(2)
    if beta != 1:
        c = call.emit("mul", c, float(beta))
    return [keep_shape(result, call.emit("add", result, c))]


LOGITS_NOTE = (
    "replaced by its logits: the class and the sign of every margin are unchanged, and "
    "a required margin refers to the logits"
)


def _softmax(call: Call) -> Outputs:
    x = call.value()
    axis = axis_of(call.attribute("axis", 1 if call.opset < 13 else -1), len(x.shape))
    reach = math.prod(x.shape[axis:]) if call.opset < 13 else x.shape[axis]
    if not call.is_final:
        raise call.unsupported("stands inside the network")
    if is_low(x.dtype):
        raise call.unsupported(f"computes in {x.dtype}, which makes classes equal")
    if reach != math.prod(x.shape):
        raise call.unsupported(f"does not run over all {math.prod(x.shape)} outputs")
    call.builder.note(f"final {call.op} {LOGITS_NOTE}")
    return [x]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How an operator is read, and how many inputs it takes at least and at most."""

    lower: Callable[[Call], Outputs]
    fewest: int = 1
    most: int = 1


_MANY = 2**31

SUPPORTED: Mapping[str, Rule] = {
    "Abs": Rule(_unary("abs")),
    "Add": Rule(_binary("add"), 2, 2),
    "AveragePool": Rule(lower_pool),
    "BatchNormalization": Rule(lower_batch_norm, 5, 5),
    "Cast": Rule(_cast),
    "Ceil": Rule(_unary("ceil")),
    "Clip": Rule(_clip, 1, 3),
    "Concat": Rule(lower_concat, 1, _MANY),
    "Cos": Rule(_unary("cos")),
    "ConstantOfShape": Rule(lower_constant_of_shape),
    "Conv": Rule(lower_conv, 2, 3),
    "Div": Rule(_binary("div"), 2, 2),
    "Dropout": Rule(lower_dropout, 1, 3),
    "Elu": Rule(_elu),
    "Equal": Rule(lower_equal, 2, 2),
    "Erf": Rule(_unary("erf")),
    "Exp": Rule(_unary("exp")),
    "Expand": Rule(lower_expand, 2, 2),
    "Floor": Rule(_unary("floor")),
    "Flatten": Rule(lower_flatten),
    "Gather": Rule(lower_gather, 2, 2),
    "GatherElements": Rule(lower_gather_elements, 2, 2),
    "GatherND": Rule(lower_gather_nd, 2, 2),
    "Gelu": Rule(_gelu),
    "Gemm": Rule(_gemm, 2, 3),
    "GlobalAveragePool": Rule(lower_global_pool("reduce_mean")),
    "GlobalMaxPool": Rule(lower_global_pool("reduce_max")),
    "HardSigmoid": Rule(_hard_sigmoid),
    "HardSwish": Rule(_hard_swish),
    "Identity": Rule(lower_identity),
    "LeakyRelu": Rule(_leaky_relu),
    "Log": Rule(_unary("log")),
    "LogSoftmax": Rule(_softmax),
    "MatMul": Rule(_binary("matmul"), 2, 2),
    "Max": Rule(_variadic("max"), 1, _MANY),
    "MaxPool": Rule(lower_pool),
    "Mean": Rule(_mean_of_inputs, 1, _MANY),
    "Min": Rule(_variadic("min"), 1, _MANY),
    "Mul": Rule(_binary("mul"), 2, 2),
    "Neg": Rule(_unary("neg")),
    "PRelu": Rule(_binary("prelu"), 2, 2),
    "Pad": Rule(lower_pad, 1, 4),
    "Pow": Rule(_pow, 2, 2),
    "Reciprocal": Rule(_reciprocal),
    "ReduceMax": Rule(lower_reduce("reduce_max", 18), 1, 2),
    "ReduceMean": Rule(lower_reduce("reduce_mean", 18), 1, 2),
    "ReduceMin": Rule(lower_reduce("reduce_min", 18), 1, 2),
    "ReduceProd": Rule(lower_reduce_prod, 1, 2),
    "ReduceSum": Rule(lower_reduce("reduce_sum", 13), 1, 2),
    "Relu": Rule(_unary("relu")),
    "Reshape": Rule(lower_reshape, 2, 2),
    "Round": Rule(_unary("round_even")),
    "Selu": Rule(_selu),
    "Shape": Rule(lower_shape),
    "Sigmoid": Rule(_unary("sigmoid")),
    "Sign": Rule(_unary("sign")),
    "Sin": Rule(_unary("sin")),
    "Slice": Rule(lower_slice, 1, 5),
    "Softmax": Rule(_softmax),
    "Softplus": Rule(_unary("softplus")),
    "Split": Rule(lower_split, 1, 2),
    "Sqrt": Rule(_unary("sqrt")),
    "Squeeze": Rule(lower_squeeze, 1, 2),
    "Sub": Rule(_binary("sub"), 2, 2),
    "Sum": Rule(_variadic("add"), 1, _MANY),
    "Swish": Rule(_swish),
    "Tanh": Rule(_unary("tanh")),
    "Tile": Rule(lower_tile, 2, 2),
    "Transpose": Rule(lower_transpose),
    "Unsqueeze": Rule(lower_unsqueeze, 1, 2),
    "Where": Rule(lower_where, 3, 3),
}
"""The operators that are read, besides Constant, which is part of the file's weights.

Softmax and LogSoftmax are read as a network's last operator only."""


EXACT = frozenset(
    "Abs Cast Ceil Clip Concat ConstantOfShape Dropout Equal Expand Flatten Floor "
    "Gather GatherElements GatherND GlobalMaxPool Identity Max MaxPool Min Neg Pad "
    "ReduceMax ReduceMin Relu Reshape Round Shape Sign Slice Split Squeeze Tile "
    "Transpose Unsqueeze Where".split()
)
"""Operators whose results are exact in every type, so that nothing is rounded."""

MIXED = frozenset({"BatchNormalization", "Dropout", "Pow"})
"""Operators whose inputs may differ in type; the first has that of the result."""
