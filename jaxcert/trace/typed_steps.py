"""Parameter steps: what f computes from params alone, in the types that it states.

Every step is computed in the type at hand and rounded to the type that f states, which
for + - * / and sqrt in float32 gives what each operation gives on its own: float64 has
more than twice the digits (Figueroa 1995). A compiled run may fuse two operations, sum
in another order, keep more precision or have another exp. `run` therefore states, for
every value i that was rounded, an error beside it as `values[~i]`:

    every evaluation that rounds once per operation, or less, lies within
    values[i] -+ values[~i]

by a running error analysis (Higham, chapter 3): what the operands' errors carry, plus
twice the roundings of the step, since both evaluations may be off by those.

A step that is not in the tables below runs as it stands, in its own types, and its
result is taken as computed: `Program.assumptions` names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcert.trace.equations import Equation, Values
from jaxcert.trace.floats import (
    FloatFormat,
    float_format,
    half_ulp,
    is_float,
    reduced_format,
    round_to,
    summed,
    widens,
)

# Elements move or one of them is taken: linear, and without rounding.
_MOVES = frozenset(
    "broadcast_in_dim expand_dims reshape rev slice split squeeze tile transpose "
    "concatenate stack pad dynamic_slice dynamic_update_slice gather real neg abs "
    "reduce_max reduce_min reduce_window_max cummax cummin max min clamp".split()
)
_DECISIONS = frozenset("eq ne lt le gt ge is_finite and or not xor".split())
_STEPS = frozenset("floor ceil round sign".split())
# Without rounding, where the operands have no error.
_EXACT = frozenset(
    "bitcast_convert_type iota sort argmax argmin scatter top_k full empty "
    "optimization_barrier reduce_and reduce_or random_wrap random_unwrap".split()
)
_INCREASING = frozenset(
    "exp exp2 expm1 log log1p sqrt cbrt tanh logistic erf sinh asinh atan".split()
)
# Rounded once, the others a few times.
_ONCE = frozenset("add add_any sub mul div sqrt square".split())
_FEW = 8
# XLA makes exp2 and sinh of exp, and rounds the argument of that, which is up to 710.
# Its log1p is off by 240 half ulps of float64 next to 1 - sqrt(2).
_MANY = {"exp2": 512, "sinh": 512, "log1p": 256}
_SUMS = ("reduce_sum", "cumsum", "reduce_window_sum")
_PRODUCTS = ("dot_general", "conv_general_dilated")
_ROUNDED = (
    _INCREASING
    | _ONCE
    | frozenset((*_SUMS, *_PRODUCTS, "rsqrt", "sin", "cos", "integer_pow", "pow"))
    | frozenset(("convert_element_type", "reduce_precision"))
)
_CARRIED = _MOVES | _DECISIONS | _STEPS | _ROUNDED | {"select_n"}


def is_modelled(step: Equation, inexact: Collection[int]) -> bool:
    """Returns whether the error of a step's results is known."""
    if step.without_floats:
        return True
    if step.nested:
        return False
    carries = any(i in inexact for i in step.inputs)
    return step.name in _CARRIED or (step.name in _EXACT and not carries)


def is_inexact(step: Equation, inexact: Collection[int]) -> bool:
    """Returns whether a modelled step's results have an error."""
    if any(i in inexact for i in step.inputs):
        return True
    if step.name not in _ROUNDED or not is_float(step.output_types[0]):
        return False
    if step.name in ("convert_element_type", "reduce_precision"):
        return not _holds(step)
    return True


def _target(step: Equation) -> FloatFormat:
    if step.name == "reduce_precision":
        return reduced_format(
            step.params["exponent_bits"], step.params["mantissa_bits"]
        )
    return float_format(step.output_types[0])


def _holds(step: Equation) -> bool:
    """Returns whether a cast is exact: whether the new type holds all of the old."""
    (old,) = step.input_types
    if is_float(old):
        return widens(float_format(old), _target(step))
    most = 1 if jnp.issubdtype(old, jnp.bool_) else _greatest(old)
    return most <= 2 ** _target(step).precision


def _greatest(dtype: Any) -> int:
    info = jnp.iinfo(dtype)
    return max(abs(int(info.min)), int(info.max))


def run(step: Equation, values: Values, inexact: Collection[int], dtype: Any) -> None:
    """Adds the results of a step to values, and their errors at `~i`."""
    operands = [values[i] for i in step.inputs]
    results = _results(step, operands, dtype)
    values.update(zip(step.outputs, results, strict=True))
    if step.outputs[0] in inexact:
        errors = [values.get(~i) for i in step.inputs]
        made = _errors(step, operands, errors, results, dtype)
        values.update((~i, e) for i, e in zip(step.outputs, made, strict=True))


def _results(step: Equation, operands: list[Any], dtype: Any) -> list[Any]:
    known = step.name in _CARRIED and not step.nested and not step.without_floats
    if not known:
        typed = [
            jnp.asarray(v, t) if isinstance(t, np.dtype) else v  # no PRNG keys
            for v, t in zip(operands, step.input_types, strict=True)
        ]
        made = step.primitive.bind(*typed, **step.params)
        made = made if step.primitive.multiple_results else [made]
        return [jnp.asarray(r, dtype) if _floats(r) else r for r in made]
    if step.name == "convert_element_type":
        made = [_converted(step, operands[0], dtype)]
    else:
        made = _bound(step, dtype)(*operands)
    if step.name not in _ROUNDED:
        return made
    return [round_to(r, _target(step)) if _floats(r) else r for r in made]


def _floats(value: Any) -> bool:
    return is_float(jnp.result_type(value))


def _converted(step: Equation, value: Any, dtype: Any) -> Any:
    kind = step.output_types[0]
    return jnp.asarray(value, dtype if is_float(kind) else kind)


def _bound(step: Equation, dtype: Any) -> Callable[..., list[Any]]:
    """Returns the step on operands in the float dtype; other types as f states them."""

    def bind(*operands: Any) -> list[Any]:
        typed = [
            jnp.asarray(v, dtype if _floats(v) else t)
            for v, t in zip(operands, step.input_types, strict=True)
        ]
        made = step.bind(*typed, dtype=dtype)
        return list(made) if step.primitive.multiple_results else [made]

    return bind


def _errors(
    step: Equation,
    operands: list[Any],
    errors: list[Any],
    results: list[Any],
    dtype: Any,
) -> list[Any]:
    """Returns the errors of the results; NaN counts as infinite."""
    carried = _carried(step, operands, errors, results, dtype)
    made = []
    for error, result in zip(carried, results, strict=True):
        if step.name in _ROUNDED and _floats(result):
            error = error + _local(step, operands, errors, result, dtype)
        made.append(jnp.where(jnp.isnan(error), jnp.inf, error))
    return made


def _local(
    step: Equation, operands: list[Any], errors: list[Any], result: Any, dtype: Any
) -> Any:
    """Returns twice what the roundings of the step itself move its result by."""
    target = _target(step)
    if step.name in ("convert_element_type", "reduce_precision"):
        # Another run may skip the cast: it has the operand itself.
        moved = jnp.abs(result - jnp.asarray(operands[0], dtype))
        return moved if errors[0] is None else moved + half_ulp(abs(result), target)
    if step.name in _SUMS + _PRODUCTS:
        absolute = [jnp.abs(v) for v in operands]
        terms = sum_terms(step.name, step.params, [jnp.shape(v) for v in operands])
        (size,) = _bound(step, dtype)(*absolute)
        return 2 * (summed(terms, target) * size + (terms + 2) * target.least)
    times = 1 if step.name in _ONCE else _MANY.get(step.name, _FEW)
    if step.name in ("integer_pow", "pow"):
        times = 2 * _FEW
    if step.name == "integer_pow":
        times = max(times, 2 * abs(step.params["y"]))
    return 2 * times * (1.001 * target.unit * jnp.abs(result) + target.least)


def sum_terms(name: str, params: dict[str, Any], shapes: list[Any]) -> int:
    """Returns how many products or numbers one sum of such a primitive has."""
    shape = shapes[0]
    if name == "dot_general":
        (contracting, _), _ = params["dimension_numbers"]
        return math.prod(shape[i] for i in contracting)
    if name == "conv_general_dilated":
        kernel = shapes[1]
        return math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
    if name == "reduce_sum":
        return math.prod(shape[i] for i in params["axes"])
    if name == "cumsum":
        return shape[params["axis"]]
    return math.prod(params["window_dimensions"])


def _carried(
    step: Equation,
    operands: list[Any],
    errors: list[Any],
    results: list[Any],
    dtype: Any,
) -> list[Any]:
    """Returns how far the errors of the operands move the results."""
    zero = [jnp.zeros(jnp.shape(r), dtype) for r in results]
    if all(e is None for e in errors):
        return zero
    bind, name = _bound(step, dtype), step.name
    none = [jnp.zeros(jnp.shape(v), dtype) for v in operands]
    e = [n if v is None else v for n, v in zip(none, errors, strict=True)]
    size = [jnp.abs(jnp.asarray(v, dtype)) for v in operands]
    indices = [
        v
        for v, kind in zip(errors, step.input_types, strict=True)
        if v is not None and not is_float(kind)
    ]
    if name == "select_n":
        picked = bind(operands[0], *e[1:])[0]
        return [jnp.where(e[0] > 0, jnp.inf, picked)]
    if name in _DECISIONS:
        return [_undecided(name, operands, e, results[0])]
    if name in _MOVES and indices:
        return [jnp.where(jnp.any(indices[0] > 0), jnp.inf, z) for z in zero]
    if name in _STEPS or (name == "convert_element_type" and not _floats(results[0])):
        ends = [operands[0] - e[0], operands[0] + e[0]]
        if name == "convert_element_type":
            low, high = (_converted(step, v, dtype) for v in ends)
        else:
            low, high = (bind(v)[0] for v in ends)
        return [jnp.where(low == high, 0.0, jnp.inf)]
    if name in ("convert_element_type", "reduce_precision"):
        return [e[0]]
    if name in ("max", "min", "clamp"):
        most = e[0]
        for other in e[1:]:
            most = jnp.maximum(most, other)
        return [jnp.broadcast_to(most, jnp.shape(results[0]))]
    if name in ("neg", "abs", "real"):
        return [e[0]]
    if name in ("cummax", "cummin"):
        return [jnp.full_like(e[0], jnp.max(e[0], initial=0))]
    if name in ("reduce_min", "reduce_window_max", "reduce_max"):
        # No extreme moves by more than the largest error of all.
        return [jnp.full_like(zero[0], jnp.max(e[0], initial=0))]
    if name in _MOVES:
        typed = [
            v if is_float(kind) else given
            for v, given, kind in zip(e, operands, step.input_types, strict=True)
        ]
        return [jnp.where(jnp.isnan(v), 0.0, v) for v in bind(*typed)]
    if name in ("add", "add_any", "sub"):
        return [jnp.broadcast_to(e[0] + e[1], jnp.shape(results[0]))]
    if name in ("mul", *_PRODUCTS):
        (a, b), (ea, eb) = size, e
        (left,), (right,), (both,) = bind(a, eb), bind(ea, b), bind(ea, eb)
        return [left + right + both]
    if name in _SUMS:
        return bind(e[0])
    return [_through(step, bind, operands, size, e, results[0])]


def _undecided(name: str, operands: list[Any], e: list[Any], result: Any) -> Any:
    """Returns infinity where a decision may turn out differently, else 0."""
    if name in ("eq", "ne", "lt", "le", "gt", "ge"):
        gap = jnp.abs(operands[0] - operands[1])
        return jnp.where(gap <= e[0] + e[1], jnp.inf, 0.0)
    if name == "is_finite":
        finite = jnp.isfinite(operands[0]) & jnp.isfinite(e[0])
        return jnp.where(finite, 0.0, jnp.inf)
    most = e[0]
    for other in e[1:]:
        most = jnp.maximum(most, other)
    return jnp.broadcast_to(most, jnp.shape(result))


def _through(
    step: Equation,
    bind: Callable[..., list[Any]],
    operands: list[Any],
    size: list[Any],
    e: list[Any],
    result: Any,
) -> Any:
    """Returns how far errors of its operands move an elementwise function."""
    name = step.name
    if name in ("sin", "cos"):
        return jnp.minimum(e[0], 2.0)
    if name == "div":
        b, (ea, eb) = size[1], e
        error = (ea + jnp.abs(result) * eb) / (b - eb)
        return jnp.where(b > eb, error, jnp.inf)
    if name == "square" or (name == "integer_pow" and step.params["y"] > 0):
        # |(x + d)^n - x^n| is greatest where both have one sign.
        return bind(size[0] + e[0])[0] - bind(size[0])[0]
    if name == "integer_pow":
        moved = jnp.abs(bind(size[0] - e[0])[0] - bind(size[0])[0])
        return jnp.where(size[0] > e[0], moved, jnp.inf)
    if name == "pow":
        # Monotone in base and in exponent where the base is positive.
        (x, y), (ex, ey) = operands, e
        y = jnp.asarray(y, x.dtype)
        ends = [bind(p, q)[0] for p in (x - ex, x + ex) for q in (y - ey, y + ey)]
        moved = jnp.max(jnp.stack([jnp.abs(v - bind(x, y)[0]) for v in ends]), axis=0)
        return jnp.where(x > ex, moved, jnp.inf)
    # Monotone: exp and its like, and rsqrt. No value at an end is NaN: infinite.
    middle = bind(operands[0])[0]
    ends = [bind(v)[0] for v in (operands[0] - e[0], operands[0] + e[0])]
    return jnp.maximum(jnp.abs(ends[0] - middle), jnp.abs(ends[1] - middle))
