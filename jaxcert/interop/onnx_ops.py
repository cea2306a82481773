"""The ONNX operators that jaxcert reads, each as a rule that emits graph nodes.

A rule takes a `Call` (one ONNX node) and returns the values of its outputs. The table
at the end, `SUPPORTED`, is the list of operators.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from jaxcert.interop.onnx_activations import (
    lower_celu,
    lower_clip,
    lower_elu,
    lower_gelu,
    lower_hard_sigmoid,
    lower_hard_swish,
    lower_leaky_relu,
    lower_pow,
    lower_reciprocal,
    lower_selu,
    lower_swish,
    unary,
)
from jaxcert.interop.onnx_decisions import (
    lower_arg,
    lower_comparison,
    lower_logic,
    lower_one_hot,
    lower_thresholded_relu,
    lower_where,
)
from jaxcert.interop.onnx_lowering import Call, Computed
from jaxcert.interop.onnx_normalisation import (
    lower_group_norm,
    lower_instance_norm,
    lower_layer_norm,
    lower_lp_norm,
    lower_mean_variance,
    lower_reduce_of,
    lower_reduce_prod,
    lower_rms_norm,
)
from jaxcert.interop.onnx_places import (
    lower_cumsum,
    lower_gather,
    lower_gather_elements,
    lower_gather_nd,
    lower_pad,
    lower_scatter_elements,
    lower_scatter_nd,
    lower_slice,
    lower_split,
    lower_tile,
    lower_trilu,
)
from jaxcert.interop.onnx_products import lower_matmul, product
from jaxcert.interop.onnx_quantised import lower_dequantize, lower_quantize
from jaxcert.interop.onnx_resize import (
    lower_depth_to_space,
    lower_resize,
    lower_space_to_depth,
)
from jaxcert.interop.onnx_shapes import (
    Outputs,
    axis_of,
    lower_concat,
    lower_constant_of_shape,
    lower_dropout,
    lower_expand,
    lower_flatten,
    lower_identity,
    lower_mod,
    lower_non_zero,
    lower_range,
    lower_reshape,
    lower_shape,
    lower_size,
    lower_squeeze,
    lower_transpose,
    lower_unsqueeze,
    reshape_to,
)
from jaxcert.interop.onnx_types import is_float, is_low, numpy_type, type_name
from jaxcert.interop.onnx_windows import (
    keep_shape,
    lower_batch_norm,
    lower_conv,
    lower_conv_transpose,
    lower_global_pool,
    lower_pool,
    lower_reduce,
)


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
    (result,) = product(call, a, b)
    if alpha != 1:
        result = call.emit("mul", result, float(alpha))
    if not call.has(2) or beta == 0:
        return [result]
    c = call.value(2)
    if beta != 1:
        c = call.emit("mul", c, float(beta))
    return [keep_shape(result, call.emit("add", result, c))]


def _einsum(call: Call) -> Outputs:
    equation = call.attribute("equation")
    if not isinstance(equation, str) or "->" in equation.split("->", 1)[-1]:
        raise ValueError(f"equation {equation!r} is none")
    values = [call.value(i) for i in range(len(call.inputs))]
    return [call.emit("einsum", *values, equation=equation.replace(" ", ""))]


LOGITS_NOTE = (
    "replaced by its logits: the class and the sign of every margin are unchanged, and "
    "a required margin refers to the logits"
)


def _softmax(op: str) -> Callable[[Call], Outputs]:
    return lambda call: _softmax_of(call, op)


def _softmax_of(call: Call, op: str) -> Outputs:
    x = call.value()
    rank = len(x.shape)
    axis = axis_of(call.attribute("axis", 1 if call.opset < 13 else -1), rank)
    reach = math.prod(x.shape[axis:]) if call.opset < 13 else x.shape[axis]
    # In a narrow type classes may become equal: there it is more than its logits.
    if call.is_final and reach == math.prod(x.shape) and not is_low(x.dtype):
        call.builder.note(f"final {call.op} {LOGITS_NOTE}")
        return [x]
    if call.opset < 13 and axis != rank - 1:
        (rows,) = reshape_to(call, x, (math.prod(x.shape[:axis]), reach))
        return reshape_to(call, call.emit(op, rows, axis=1), x.shape)
    return [call.emit(op, x, axis=axis)]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How an operator is read, and how many inputs it takes at least and at most."""

    lower: Callable[[Call], Outputs]
    fewest: int = 1
    most: int = 1


_MANY = 2**31

SUPPORTED: Mapping[str, Rule] = {
    "Abs": Rule(unary("abs")),
    "Add": Rule(_binary("add"), 2, 2),
    "And": Rule(lower_logic("logical_and"), 2, 2),
    "ArgMax": Rule(lower_arg("argmax")),
    "ArgMin": Rule(lower_arg("argmin")),
    "AveragePool": Rule(lower_pool),
    "BatchNormalization": Rule(lower_batch_norm, 5, 5),
    "Cast": Rule(_cast),
    "Ceil": Rule(unary("ceil")),
    "Celu": Rule(lower_celu),
    "Clip": Rule(lower_clip, 1, 3),
    "Concat": Rule(lower_concat, 1, _MANY),
    "ConstantOfShape": Rule(lower_constant_of_shape),
    "Conv": Rule(lower_conv, 2, 3),
    "ConvTranspose": Rule(lower_conv_transpose, 2, 3),
    "Cos": Rule(unary("cos")),
    "CumSum": Rule(lower_cumsum, 2, 2),
    "DepthToSpace": Rule(lower_depth_to_space),
    "DequantizeLinear": Rule(lower_dequantize, 2, 3),
    "Div": Rule(_binary("div"), 2, 2),
    "Dropout": Rule(lower_dropout, 1, 3),
    "Einsum": Rule(_einsum, 1, _MANY),
    "Elu": Rule(lower_elu),
    "Equal": Rule(lower_comparison("equal"), 2, 2),
    "Erf": Rule(unary("erf")),
    "Exp": Rule(unary("exp")),
    "Expand": Rule(lower_expand, 2, 2),
    "Flatten": Rule(lower_flatten),
    "Floor": Rule(unary("floor")),
    "Gather": Rule(lower_gather, 2, 2),
    "GatherElements": Rule(lower_gather_elements, 2, 2),
    "GatherND": Rule(lower_gather_nd, 2, 2),
    "Gelu": Rule(lower_gelu),
    "Gemm": Rule(_gemm, 2, 3),
    "GlobalAveragePool": Rule(lower_global_pool("reduce_mean")),
    "GlobalMaxPool": Rule(lower_global_pool("reduce_max")),
    "Greater": Rule(lower_comparison("greater"), 2, 2),
    "GreaterOrEqual": Rule(lower_comparison("greater_equal"), 2, 2),
    "GroupNormalization": Rule(lower_group_norm, 3, 3),
    "HardSigmoid": Rule(lower_hard_sigmoid),
    "HardSwish": Rule(lower_hard_swish),
    "Identity": Rule(lower_identity),
    "InstanceNormalization": Rule(lower_instance_norm, 3, 3),
    "LayerNormalization": Rule(lower_layer_norm, 2, 3),
    "LeakyRelu": Rule(lower_leaky_relu),
    "Less": Rule(lower_comparison("less"), 2, 2),
    "LessOrEqual": Rule(lower_comparison("less_equal"), 2, 2),
    "Log": Rule(unary("log")),
    "LogSoftmax": Rule(_softmax("log_softmax")),
    "LpNormalization": Rule(lower_lp_norm),
    "MatMul": Rule(lower_matmul, 2, 2),
    "Max": Rule(_variadic("max"), 1, _MANY),
    "MaxPool": Rule(lower_pool),
    "Mean": Rule(_mean_of_inputs, 1, _MANY),
    "MeanVarianceNormalization": Rule(lower_mean_variance),
    "Min": Rule(_variadic("min"), 1, _MANY),
    "Mish": Rule(unary("mish")),
    "Mod": Rule(lower_mod, 2, 2),
    "Mul": Rule(_binary("mul"), 2, 2),
    "Neg": Rule(unary("neg")),
    "NonZero": Rule(lower_non_zero),
    "Not": Rule(lower_logic("logical_not")),
    "OneHot": Rule(lower_one_hot, 3, 3),
    "Or": Rule(lower_logic("logical_or"), 2, 2),
    "PRelu": Rule(_binary("prelu"), 2, 2),
    "Pad": Rule(lower_pad, 1, 4),
    "Pow": Rule(lower_pow, 2, 2),
    "QuantizeLinear": Rule(lower_quantize, 2, 3),
    "RMSNormalization": Rule(lower_rms_norm, 2, 2),
    "Range": Rule(lower_range, 3, 3),
    "Reciprocal": Rule(lower_reciprocal),
    "ReduceL1": Rule(lower_reduce_of("abs"), 1, 2),
    "ReduceL2": Rule(lower_reduce_of("square", "sqrt"), 1, 2),
    "ReduceLogSum": Rule(lower_reduce_of("", "log"), 1, 2),
    "ReduceLogSumExp": Rule(lower_reduce("logsumexp", 18), 1, 2),
    "ReduceMax": Rule(lower_reduce("reduce_max", 18), 1, 2),
    "ReduceMean": Rule(lower_reduce("reduce_mean", 18), 1, 2),
    "ReduceMin": Rule(lower_reduce("reduce_min", 18), 1, 2),
    "ReduceProd": Rule(lower_reduce_prod, 1, 2),
    "ReduceSum": Rule(lower_reduce("reduce_sum", 13), 1, 2),
    "ReduceSumSquare": Rule(lower_reduce_of("square"), 1, 2),
    "Relu": Rule(unary("relu")),
    "Reshape": Rule(lower_reshape, 2, 2),
    "Resize": Rule(lower_resize, 1, 4),
    "Round": Rule(unary("round_even")),
    "ScatterElements": Rule(lower_scatter_elements, 3, 3),
    "ScatterND": Rule(lower_scatter_nd, 3, 3),
    "Selu": Rule(lower_selu),
    "Shape": Rule(lower_shape),
    "Sigmoid": Rule(unary("sigmoid")),
    "Sign": Rule(unary("sign")),
    "Sin": Rule(unary("sin")),
    "Size": Rule(lower_size),
    "Slice": Rule(lower_slice, 1, 5),
    "Softmax": Rule(_softmax("softmax")),
    "Softplus": Rule(unary("softplus")),
    "Softsign": Rule(unary("soft_sign")),
    "SpaceToDepth": Rule(lower_space_to_depth),
    "Split": Rule(lower_split, 1, 2),
    "Sqrt": Rule(unary("sqrt")),
    "Squeeze": Rule(lower_squeeze, 1, 2),
    "Sub": Rule(_binary("sub"), 2, 2),
    "Sum": Rule(_variadic("add"), 1, _MANY),
    "Swish": Rule(lower_swish),
    "Tanh": Rule(unary("tanh")),
    "ThresholdedRelu": Rule(lower_thresholded_relu),
    "Tile": Rule(lower_tile, 2, 2),
    "Transpose": Rule(lower_transpose),
    "Trilu": Rule(lower_trilu, 1, 2),
    "Unsqueeze": Rule(lower_unsqueeze, 1, 2),
    "Upsample": Rule(lower_resize, 1, 2),
    "Where": Rule(lower_where, 3, 3),
    "Xor": Rule(lower_logic("logical_xor"), 2, 2),
}
"""The operators that are read, besides Constant, which is part of the weights."""


EXACT = frozenset(
    "Abs And ArgMax ArgMin Cast Ceil Clip Concat ConstantOfShape DepthToSpace "
    "Dropout Equal Expand Flatten Floor Gather GatherElements GatherND "
    "GlobalMaxPool Greater GreaterOrEqual Identity Less LessOrEqual Max MaxPool "
    "Min Mod Neg NonZero Not OneHot Or Pad Range ReduceMax ReduceMin Relu Reshape "
    "Round ScatterElements ScatterND Shape Sign Size Slice SpaceToDepth Split "
    "Squeeze ThresholdedRelu Tile Transpose Trilu Unsqueeze Where Xor".split()
)
"""Operators whose results are exact in every type, so that nothing is rounded."""

_WHOLE = (EXACT - {"Abs", "Neg"}) | {"DequantizeLinear"}
"""Operators that do with whole numbers what they do with floats of the same value."""


def refuse_arithmetic(call: Call) -> None:
    """Refuses arithmetic on whole numbers that depend on the network's input.

    In the graph they are floats, but whole numbers wrap around and divide downward.

    Raises:
      UnsupportedError: the node reads one and does more than move or compare it.
    """
    for value in call.inputs:
        if not isinstance(value, Computed) or call.op in _WHOLE:
            continue
        if not is_float(value.dtype) and value.dtype != np.bool_:
            raise call.unsupported(
                f"computes with values of type {value.dtype}, which depend on the "
                "network's input (cast them to float first)"
            )


MIXED = frozenset({"BatchNormalization", "Dropout", "Pow"})
"""Operators whose inputs may differ in type; the first has that of the result."""
