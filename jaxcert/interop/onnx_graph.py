"""The network function that an ONNX file becomes: a small graph of JAX operations.

The graph is the architecture alone. Names, opsets, and the attribute or input form of
an operand are gone, shapes are static, and every float weight is a parameter, so two
files that describe equal architectures give equal graphs and share compiled programs.

The type of the operands is the type of the result, so that one graph serves a search in
float32 and a proof in float64. What the file computes in a type below float32 is
computed in float32 at least and then rounded to that type by a node of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxcert.errors import InputError
from jaxcert.interop.onnx_types import WIDE, is_low

Attributes = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation of the graph.

    Attributes:
      op: key of `OPERATORS`.
      inputs: what it reads, in order: "x" (the network's input), "w3" (a parameter),
        "n5" (the result of node 5), or a float that belongs to the architecture.
      attributes: static settings, sorted by name.
    """

    op: str
    inputs: tuple[str | float, ...]
    attributes: Attributes = ()


@dataclasses.dataclass(frozen=True)
class OnnxGraph:
    """`apply(params, x) -> logits` of a network read from an ONNX file.

    Attributes:
      input_shape: shape of one input, without batch axis.
      has_batch_axis: whether the nodes expect a leading batch axis of size 1.
      nodes: in the order of evaluation.
      output: name of the value that holds the logits.
    """

    input_shape: tuple[int, ...]
    has_batch_axis: bool
    nodes: tuple[Node, ...]
    output: str

    @functools.cached_property
    def needs_float64(self) -> bool:
        """Whether f has to be traced with float64 (`tracing.with_types`).

        It does where weights are computed from others, as batch normalisation does:
        the file means the factor in real arithmetic, not its rounding to float32. And
        where a number of a formula, such as the 0.1 of a file in float64, is none of
        float32.
        """
        fixed: set[str] = set()
        for i, node in enumerate(self.nodes):
            read = [v for v in node.inputs if isinstance(v, str)]
            if read and all(v[0] == "w" or v in fixed for v in read):
                fixed.add(f"n{i}")
            numbers = np.array([*_numbers((node.inputs, node.attributes))], np.float64)
            with np.errstate(over="ignore"):
                if np.any(numbers != numbers.astype(WIDE)):
                    return True
        return bool(fixed)

    def __call__(
        self, params: Mapping[str, Any], x: Float[Array, "*shape"]
    ) -> Float[Array, " outputs"]:
        """Returns the logits of one input, flattened to one axis.

        Raises:
          InputError: x does not have the shape `input_shape`.
        """
        if jnp.shape(x) != self.input_shape:
            raise InputError(
                f"the network takes one input of shape {self.input_shape}, not "
                f"{jnp.shape(x)}: reshape it, and use jax.vmap for a batch"
            )
        x = _at_least_float32(x)
        values = {name: _widened(value, x.dtype) for name, value in params.items()}
        values["x"] = x
        if self.has_batch_axis:
            values["x"] = jnp.reshape(values["x"], (1, *self.input_shape))
        for i, node in enumerate(self.nodes):
            operands = [values[v] if isinstance(v, str) else v for v in node.inputs]
            values[f"n{i}"] = evaluate(node.op, node.attributes, operands)
        return jnp.reshape(values[self.output], (-1,))


def evaluate(op: str, attributes: Attributes, operands: list[Any]) -> Any:
    """Returns the result of one operation of `OPERATORS`."""
    return OPERATORS[op](*operands, **dict(attributes))


def _numbers(settings: Any) -> Iterator[float]:
    """Yields the floats in nested tuples."""
    if isinstance(settings, float):
        yield settings
    elif isinstance(settings, tuple):
        for setting in settings:
            yield from _numbers(setting)


def _at_least_float32(value: Any) -> Any:
    value = jnp.asarray(value)
    return value.astype(WIDE) if is_low(value.dtype) else value


def _widened(weight: Any, dtype: Any) -> Any:
    """Returns a weight in the type of the input, where the file computes in none below.

    What is computed of weights alone, such as the factors of a batch normalisation, is
    then as precise as the rest.
    """
    weight = jnp.asarray(weight)
    if is_low(weight.dtype):
        return weight.astype(WIDE)
    return weight.astype(jnp.promote_types(weight.dtype, dtype))


def _same_rank(*operands: Any) -> list[Any]:
    # Explicit, so that the network also runs under jax_numpy_rank_promotion="raise".
    rank = max(np.ndim(v) for v in operands)
    return [
        jnp.reshape(v, (1,) * (rank - np.ndim(v)) + np.shape(v))
        if 0 < np.ndim(v) < rank
        else v
        for v in operands
    ]


def _same_dtype(*operands: Any) -> list[Any]:
    types = [v.dtype for v in operands if not isinstance(v, float)]
    if len(set(types)) <= 1:
        return list(operands)
    dtype = functools.reduce(jnp.promote_types, types)
    return [v if isinstance(v, float) else v.astype(dtype) for v in operands]


def _cast(x: Any, dtype: str) -> Any:
    # Without float64, in a search, the widest type there is stands for it.
    return x.astype(jax.dtypes.canonicalize_dtype(dtype))


def _round(x: Any, dtype: str, limit: float | None) -> Any:
    """Rounds to a type below float32, and keeps the type in which x is stored."""
    if limit is not None:
        x = _clip(x, -limit, limit)
    return x.astype(dtype).astype(x.dtype)


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(*operands: Any) -> Any:
        return function(*_same_dtype(*_same_rank(*operands)))

    return apply


def _clip(x: Any, low: float | None, high: float | None) -> Any:
    if low is not None:
        x = jnp.maximum(x, low)
    return x if high is None else jnp.minimum(x, high)


def _pow(x: Any, exponent: float) -> Any:
    if exponent == 0.5:
        return jnp.sqrt(x)
    if exponent == int(exponent):
        return lax.integer_pow(x, int(exponent))
    return jnp.power(x, exponent)


def _prelu(x: Any, slope: Any) -> Any:
    # Split into two ReLUs: the slope is a weight, so its sign is not known here.
    x, slope = _same_dtype(*_same_rank(x, slope))
    return jnp.maximum(x, 0.0) + slope * jnp.minimum(x, 0.0)


def _conv(
    x: Any,
    kernel: Any,
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilations: tuple[int, ...],
    groups: int,
    input_dilations: tuple[int, ...] | None = None,
) -> Any:
    x, kernel = _same_dtype(x, kernel)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=padding,
        lhs_dilation=input_dilations,
        rhs_dilation=dilations,
        feature_group_count=groups,
    )


def _pool(
    x: Any,
    kind: str,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilations: tuple[int, ...],
) -> Any:
    start, monoid = (-np.inf, lax.max) if kind == "max" else (0.0, lax.add)
    return lax.reduce_window(
        x,
        np.array(start, x.dtype),
        monoid,
        (1, 1, *window),
        (1, 1, *strides),
        ((0, 0), (0, 0), *padding),
        window_dilation=(1, 1, *dilations),
    )


def _avg_pool(x: Any, counts: tuple[tuple[int, ...], ...], **window: Any) -> Any:
    # Division by whole numbers: 1 / 9 would not be exact in any binary format.
    total = _pool(x, "sum", **window)
    divisor = functools.reduce(np.multiply.outer, [np.array(c) for c in counts])
    if np.all(divisor == divisor.flat[0]):
        return total / float(divisor.flat[0])
    return total / divisor[None, None].astype(total.dtype)


def _mean(x: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
    count = math.prod(x.shape[a] for a in axes)
    return jnp.sum(x, axis=axes, keepdims=keepdims) / float(count)


def _slice(
    x: Any,
    starts: tuple[int, ...],
    limits: tuple[int, ...],
    strides: tuple[int, ...],
    reverse: tuple[int, ...],
) -> Any:
    part = lax.slice(x, starts, limits, strides)
    return lax.rev(part, reverse) if reverse else part


def _gather(x: Any, axis: int, indices: tuple[int, ...]) -> Any:
    others = tuple(i for i in range(x.ndim) if i != axis)
    numbers = lax.GatherDimensionNumbers(
        offset_dims=others, collapsed_slice_dims=(axis,), start_index_map=(axis,)
    )
    sizes = tuple(1 if i == axis else n for i, n in enumerate(x.shape))
    return lax.gather(
        x,
        np.array(indices, np.int32)[:, None],
        numbers,
        sizes,
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )


def _pad(x: Any, padding: tuple[tuple[int, int], ...], value: float) -> Any:
    return lax.pad(x, np.array(value, x.dtype), [(lo, hi, 0) for lo, hi in padding])


def _select(x: Any, y: Any, mask: bytes, shape: tuple[int, ...]) -> Any:
    chosen = np.frombuffer(mask, bool).reshape(shape)
    x, y = _same_dtype(x, y)
    return jnp.where(chosen, jnp.broadcast_to(x, shape), jnp.broadcast_to(y, shape))


def _where(condition: Any, x: Any, y: Any, shape: tuple[int, ...]) -> Any:
    x, y = _same_dtype(x, y)
    return jnp.where(*(jnp.broadcast_to(v, shape) for v in (condition, x, y)))


def _arg(x: Any, axis: int, last: bool, sign: float) -> Any:
    """The first or last index of the greatest element of sign * x, as a float."""
    x = sign * x
    count = x.shape[axis]
    order = np.arange(count, dtype=x.dtype)
    index = jnp.expand_dims(order, tuple(i for i in range(x.ndim) if i != axis))
    best = x >= jnp.max(x, axis=axis, keepdims=True)
    if last:
        return jnp.max(jnp.where(best, index, 0.0), axis=axis)
    return jnp.min(jnp.where(best, index, float(count - 1)), axis=axis)


def _einsum(*operands: Any, equation: str) -> Any:
    return jnp.einsum(equation, *_same_dtype(*operands))


def _concat(*operands: Any, axis: int) -> Any:
    return lax.concatenate(_same_dtype(*operands), axis)


OPERATORS: Mapping[str, Callable[..., Any]] = {
    # elementwise, one operand
    "neg": jnp.negative,
    "abs": jnp.abs,
    "exp": jnp.exp,
    "log": jnp.log,
    "sqrt": jnp.sqrt,
    "erf": jax.scipy.special.erf,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "leaky_relu": lambda x, slope: jax.nn.leaky_relu(x, slope),
    "elu": lambda x, alpha: jax.nn.elu(x, alpha),
    "gelu": lambda x, tanh: jax.nn.gelu(x, approximate=tanh),
    "clip": _clip,
    "pow": _pow,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "sign": jnp.sign,
    "floor": jnp.floor,
    "ceil": jnp.ceil,
    "round_even": jnp.round,
    "rsqrt": lax.rsqrt,
    "soft_sign": jax.nn.soft_sign,
    "mish": jax.nn.mish,
    "cast": _cast,
    "round": _round,
    # elementwise, two operands
    "add": _elementwise(jnp.add),
    "sub": _elementwise(jnp.subtract),
    "mul": _elementwise(jnp.multiply),
    "div": _elementwise(jnp.true_divide),
    "min": _elementwise(jnp.minimum),
    "max": _elementwise(jnp.maximum),
    "prelu": _prelu,
    # decisions
    "equal": _elementwise(jnp.equal),
    "less": _elementwise(jnp.less),
    "less_equal": _elementwise(jnp.less_equal),
    "greater": _elementwise(jnp.greater),
    "greater_equal": _elementwise(jnp.greater_equal),
    "logical_not": jnp.logical_not,
    "logical_and": _elementwise(jnp.logical_and),
    "logical_or": _elementwise(jnp.logical_or),
    "where": _where,
    "argmax": functools.partial(_arg, sign=1.0),
    "argmin": functools.partial(_arg, sign=-1.0),
    # linear maps and reductions
    "matmul": lambda x, y: jnp.matmul(*_same_dtype(x, y)),
    "conv": _conv,
    "einsum": _einsum,
    "max_pool": functools.partial(_pool, kind="max"),
    "avg_pool": _avg_pool,
    "reduce_sum": lambda x, axes, keepdims: jnp.sum(x, axis=axes, keepdims=keepdims),
    "reduce_max": lambda x, axes, keepdims: jnp.max(x, axis=axes, keepdims=keepdims),
    "reduce_min": lambda x, axes, keepdims: jnp.min(x, axis=axes, keepdims=keepdims),
    "reduce_mean": _mean,
    "logsumexp": lambda x, axes, keepdims: jax.nn.logsumexp(x, axes, keepdims=keepdims),
    "cumsum": lambda x, axis, reverse: lax.cumsum(x, axis, reverse=reverse),
    "softmax": lambda x, axis: jax.nn.softmax(x, axis),
    "log_softmax": lambda x, axis: jax.nn.log_softmax(x, axis),
    # rearrangement
    "reshape": lambda x, shape: jnp.reshape(x, shape),
    "transpose": lambda x, permutation: jnp.transpose(x, permutation),
    "broadcast": lambda x, shape: jnp.broadcast_to(x, shape),
    "slice": _slice,
    "gather": _gather,
    "pad": _pad,
    "concat": _concat,
    "select": _select,
}
