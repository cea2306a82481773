"""ONNX operators of one value: activations, powers, clipping."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxcert.interop.onnx_lowering import Call, Constant, Value
from jaxcert.interop.onnx_places import gather_along
from jaxcert.interop.onnx_shapes import Outputs
from jaxcert.interop.onnx_types import largest


def unary(op: str) -> Callable[[Call], Outputs]:
    """Returns the rule of an operator that is one operation of the graph."""
    return lambda call: [call.emit(op, call.value())]


def lower_leaky_relu(call: Call) -> Outputs:
    return [call.emit("leaky_relu", call.value(), slope=call.attribute("alpha", 0.01))]


def lower_elu(call: Call) -> Outputs:
    return [call.emit("elu", call.value(), alpha=call.attribute("alpha", 1.0))]


def lower_celu(call: Call) -> Outputs:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1)) = alpha elu(x / alpha)."""
    alpha = call.attribute("alpha", 1.0)
    if alpha <= 0:
        raise call.unsupported(f"has alpha={alpha}, which is not positive")
    x = call.emit("div", call.value(), alpha)
    return [call.emit("mul", call.emit("elu", x, alpha=1.0), alpha)]


def lower_selu(call: Call) -> Outputs:
    alpha = call.attribute("alpha", 1.6732632423543772)
    gamma = call.attribute("gamma", 1.0507009873554805)
    return [call.emit("mul", call.emit("elu", call.value(), alpha=alpha), gamma)]


def lower_gelu(call: Call) -> Outputs:
    form = call.attribute("approximate", "none")
    if form not in ("none", "tanh"):
        raise ValueError(f"approximate={form!r} does not exist")
    return [call.emit("gelu", call.value(), tanh=form == "tanh")]


def lower_hard_sigmoid(call: Call) -> Outputs:
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    line = call.emit("add", call.emit("mul", call.value(), alpha), beta)
    return [call.emit("clip", line, low=0.0, high=1.0)]


def lower_hard_swish(call: Call) -> Outputs:
    line = call.emit("add", call.emit("div", call.value(), 6.0), 0.5)
    gate = call.emit("clip", line, low=0.0, high=1.0)
    return [call.emit("mul", call.value(), gate)]


def lower_swish(call: Call) -> Outputs:
    """x sigmoid(alpha x) = silu(alpha x) / alpha."""
    alpha = call.attribute("alpha", 1.0)
    if alpha == 1:
        return [call.emit("silu", call.value())]
    if alpha == 0:
        return [call.emit("mul", call.value(), 0.5)]
    gate = call.emit("silu", call.emit("mul", call.value(), alpha))
    return [call.emit("div", gate, alpha)]


def lower_reciprocal(call: Call) -> Outputs:
    return [call.emit("div", 1.0, call.value())]


_MOST_EXPONENTS = 16


def lower_pow(call: Call) -> Outputs:
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
        _power(call, gather_along(call, flat, 0, order[which[order] == i]), float(kind))
        for i, kind in enumerate(kinds)
    ]
    joined = gather_along(
        call, call.emit("concat", *parts, axis=0), 0, np.argsort(order)
    )
    return [call.emit("reshape", joined, shape=shape)]


def _power(call: Call, x: Value, exponent: float) -> Value:
    if exponent == 0:
        return call.fill(x, 1.0)
    return x if exponent == 1 else call.emit("pow", x, exponent=exponent)


def lower_clip(call: Call) -> Outputs:
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
