"""Rules of low precision: operations whose result is held in a narrow float type.

Such a result is z + e, z that of the real operation and e a number of which only the
range is known: the rounding of z to its type. The range contains 0: XLA may keep more
precision than f states.

    casts                       |e| <= half an ulp of the greatest |z|
    + - *                       the same
    other elementwise functions a few half ulps
    sums                        |e| <= ((1 + u)^(n + 1) - 1) sum |a_i x_i|
    products of matrices        see `_of_product`
    max, relu, reshape, ...     exact

The half ulp is that of the narrow type, from its least number upward; where z may be
beyond its largest number nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcert.box import Box
from jaxcert.errors import UnsupportedError
from jaxcert.trace.builder import Builder
from jaxcert.trace.equations import Equation, Values
from jaxcert.trace.floats import (
    FLOAT32,
    FloatFormat,
    float_format,
    half_ulp,
    is_float,
    is_low,
    reduced_format,
    round_to,
    summed,
    widens,
)
from jaxcert.trace.typed_steps import sum_terms

_EXACT = frozenset(
    "neg abs max min clamp reduce_max reduce_min reduce_window_max select_n reshape "
    "transpose broadcast_in_dim tile squeeze expand_dims rev slice dynamic_slice "
    "concatenate stack pad dynamic_update_slice gather sort cummax cummin sign floor "
    "ceil round relu hard_tanh convert_element_type reduce_precision".split()
)
# Half ulps by which a result may be off. Measured on all numbers of bfloat16, float16
# and float8_e4m3fn, 2026-11-26: 1 for most, 4.3 for logistic and expm1.
_HALF_ULPS = dict.fromkeys(("add", "add_any", "sub", "mul", "sqrt", "square"), 1)
_HALF_ULPS |= {"div": 2, "leaky_relu": 1}
_HALF_ULPS |= dict.fromkeys(
    "exp expm1 log log1p rsqrt pow tanh logistic erf erfc sin cos".split(), 8
)
# Not defined at 0, where small numbers may be lost.
_POLES = ("log", "rsqrt", "pow")
_SUMS = ("reduce_sum", "cumsum", "reduce_window_sum")
_PRODUCTS = ("dot_general", "conv_general_dilated")
# Types whose matrix products are summed in float32 everywhere.
_WIDE_SUMS = ("bfloat16", "float16")


def convert(b: Builder, e: Equation) -> int:
    """A cast: exact to a type that holds the old one; else z + e; a bool is 0 or 1."""
    x, source = b.resolve(e.inputs[0]), b.flat.types[e.inputs[0]]
    target = e.params["new_dtype"]
    if not is_float(target):
        raise UnsupportedError(
            f"'{e.name}' ({e.where}) makes a {np.dtype(target).name} of a value that "
            "depends on x: integers and their overflow are not modelled. Keep such "
            "values in a float type"
        )
    if not jnp.issubdtype(source, jnp.bool_):
        return _rounded(b, x, float_format(source), float_format(target))

    def number(z: Any) -> Any:
        return jnp.where(z, 1.0, 0.0)

    return b.opaque(
        e.name, (x,), b.shape(e), lambda _, z: number(z),
        lambda _, z: Box(number(z.lo), number(z.hi)),
    )  # fmt: skip


def reduce_precision(b: Builder, e: Equation) -> int:
    """A cast to the format with these bits and back."""
    source = float_format(b.flat.types[e.inputs[0]])
    target = reduced_format(e.params["exponent_bits"], e.params["mantissa_bits"])
    return _rounded(b, b.resolve(e.inputs[0]), source, target)


def _rounded(b: Builder, x: int, source: FloatFormat, target: FloatFormat) -> int:
    if widens(source, target):
        return x
    return _noisy(b, x, (), target, lambda _, z: half_ulp(z, target))


def as_typed(b: Builder, e: Equation, value: int, name: str = "") -> int:
    """Returns the value of an operation as the type of its result holds it.

    Raises:
      UnsupportedError: the type is narrow and the operation's error is not known.
    """
    kind, name = e.output_types[0], name or e.name
    if not is_low(kind) or name in _EXACT:
        return value
    target = float_format(kind)
    if name in _SUMS + _PRODUCTS:
        bound = _of_product if name in _PRODUCTS else _of_sum
        return _noisy(b, value, b.moving(e), target, bound(b, e, target))
    if name == "integer_pow" and e.params["y"] > 0:
        times = max(1, 2 * (e.params["y"] - 1))
    elif name in _HALF_ULPS:
        times = _HALF_ULPS[name]
    else:
        raise UnsupportedError(
            f"how '{name}' ({e.where}) is rounded in {target.name} is not known: "
            "compute it in float32 (cast its operand with astype)"
        )
    at_pole = name in _POLES and target.flushes
    inputs = (b.resolve(e.inputs[0]),) if at_pole else ()

    def error(_: Any, size: Any, *operands: Box) -> Any:
        moved = times * half_ulp(size, target)
        if name == "logistic":
            # 1 / (1 + exp(-z)) is 0 where exp(-z) overflows.
            moved = moved + 2 / target.largest
        if name == "sqrt" and target.flushes:
            moved = moved + 2.0 ** (target.least_exponent // 2)
        for z in operands:
            moved = jnp.where(z.lo > 2.0**target.least_exponent, moved, jnp.inf)
        return moved

    return _noisy(b, value, inputs, target, error)


def _of_sum(b: Builder, e: Equation, target: FloatFormat) -> Callable[..., Any]:
    """A sum of n numbers in any order: ((1 + u)^(n + 1) - 1) sum |x_i|."""
    terms = sum_terms(e.name, e.params, [b.flat.shapes[i] for i in e.inputs])
    apply = b.operation(e)

    def error(values: Any, _: Any, x: Box) -> Any:
        size = apply(values, x.magnitude)
        moved = summed(terms, target) * size + (terms + 2) * target.least
        return jnp.where(size <= target.largest, moved, jnp.inf)

    return error


def _of_product(b: Builder, e: Equation, target: FloatFormat) -> Callable[..., Any]:
    """Products summed in float32, parts and the whole rounded to their narrow type.

    u sum |a_i x_i| for the parts, ((1 + u32)^(n + 1) - 1) sum |a_i x_i| for the sums in
    any order and half an ulp for the result. float8 is summed in its own type by some:
    it is charged like a sum.
    """
    terms = sum_terms(e.name, e.params, [b.flat.shapes[i] for i in e.inputs])
    apply, sizes = b.operation(e), _weight_sizes(b, e)
    share = summed(terms, target)
    wide = target.name in _WIDE_SUMS
    if wide:
        share = (1 + target.unit) * (1 + summed(terms, FLOAT32)) - 1
        b.flat.assume(
            f"products of '{e.name}' in {target.name} ({e.where}) are taken to be "
            f"summed in float32 or wider, with at most two roundings to {target.name}"
        )

    def error(values: Any, size: Any, *boxes: Box) -> Any:
        total = apply(sizes(values), *(x.magnitude for x in boxes))
        moved = share * total + (terms + 2) * target.least
        if wide:
            moved = moved + half_ulp(jnp.minimum(size + moved, total), target)
        return jnp.where(total <= target.largest, moved, jnp.inf)

    return error


def _weight_sizes(b: Builder, e: Equation) -> Callable[[Values], Values]:
    """Returns values -> the same with the magnitudes of the equation's weights."""
    weights = [i for i in e.inputs if not b.moves(i)]

    def sizes(values: Values) -> Values:
        return {
            **values,
            **{i: jnp.abs(values[i]) + values.get(~i, 0) for i in weights},
        }

    return sizes


def _noisy(
    b: Builder,
    value: int,
    inputs: tuple[int, ...],
    target: FloatFormat,
    error: Callable[..., Any],
) -> int:
    """Adds value + e, |e| <= error(values, |value|, *boxes of inputs)."""

    def apply(_: Any, z: Any, *operands: Any) -> Any:
        # Rounding moves a value, but its slope is that of what is rounded.
        still = lax.stop_gradient(z)
        return round_to(still, target) - still

    def interval(values: Any, z: Box, *boxes: Box) -> Box:
        bound = error(values, z.magnitude, *boxes)
        return Box(-bound, bound)

    return b.add_noise(value, (value, *inputs), apply, interval)
