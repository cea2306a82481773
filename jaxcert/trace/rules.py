"""Rules: which nodes each primitive becomes. One table, read top to bottom.

A rule takes the builder and an equation with at least one operand that depends on x,
and returns the value id of the result (or one id per result). The rules themselves are
in `rules_affine`, `rules_piecewise`, `rules_smooth` and `rules_decisions`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from jaxcert.errors import InputError, UnsupportedError
from jaxcert.trace import activations as r
from jaxcert.trace import rules_affine as affine
from jaxcert.trace import rules_decisions as decisions
from jaxcert.trace import rules_piecewise as piecewise
from jaxcert.trace import rules_precision as precision
from jaxcert.trace import rules_smooth as smooth
from jaxcert.trace import rules_softmax, steps
from jaxcert.trace.builder import Builder, Rule
from jaxcert.trace.equations import Equation, unsupported
from jaxcert.trace.flatten import Flattener
from jaxcert.trace.patterns import Matcher
from jaxcert.trace.program import Node


def build_nodes(flat: Flattener, result: int) -> tuple[tuple[Node, ...], int]:
    """Returns the nodes that compute `result` from x, and the id they leave it in.

    Raises:
      UnsupportedError: a needed primitive has no rule.
    """
    matcher = Matcher(flat)
    needed, matches = {result}, {}
    for equation in reversed(flat.equations):
        if not needed.intersection(equation.outputs):
            continue
        found = (
            None if len(equation.outputs) > 1 else matcher.match(equation.outputs[0])
        )
        if found is not None:
            matches[equation.outputs[0]] = found
            needed.add(found.x)
        else:
            needed.update(i for i in equation.inputs if flat.depends_on_x(i))
    builder = Builder(flat, needed)
    for equation in flat.equations:
        if not needed.intersection(equation.outputs):
            continue
        found = matches.get(equation.outputs[0])
        if found is not None:
            pattern = PATTERN_RULES[found.name]
            builder.at(equation)
            value = pattern(builder, builder.resolve(found.x), *found.numbers)
            value = precision.as_typed(builder, equation, value, found.name)
            builder.alias[equation.outputs[0]] = value
            continue
        rule = _REGISTERED.get(equation.name) or RULES.get(equation.name)
        if rule is None:
            raise unsupported(equation)
        builder.at(equation)
        made = rule(builder, equation)
        values = made if isinstance(made, tuple) else (made,)
        if len(values) == 1:  # no operation with several results rounds
            values = (precision.as_typed(builder, equation, values[0]),)
        builder.alias.update(zip(equation.outputs, values, strict=True))
    return builder.finish(result)


_LINEAR = affine.monotone()
_SPREADING = affine.monotone(separable=False)
_WITH_CONSTANTS = affine.monotone(offset=True)
# A gather out of bounds reads its fill value: an offset, not a linear map.
_GATHER = affine.monotone(offset=True, separable=False)
_ADDITION = affine.monotone(offset=True, elementwise=True)

RULES: dict[str, Rule] = {
    # affine
    "add": _ADDITION,
    "add_any": _ADDITION,
    "sub": affine.antitone_second,
    "neg": affine.negate,
    "mul": affine.mul,
    "div": affine.div,
    "dot_general": affine.contraction,
    "conv_general_dilated": affine.contraction,
    "reduce_sum": _SPREADING,
    "cumsum": _SPREADING,
    "reduce_window_sum": _SPREADING,
    "broadcast_in_dim": _SPREADING,
    "tile": _SPREADING,
    "gather": _GATHER,
    "reshape": _LINEAR,
    "transpose": _LINEAR,
    "squeeze": _LINEAR,
    "expand_dims": _LINEAR,
    "rev": _LINEAR,
    "slice": _LINEAR,
    "dynamic_slice": _LINEAR,
    "split": affine.split,
    "concatenate": _WITH_CONSTANTS,
    "stack": _WITH_CONSTANTS,
    "pad": _WITH_CONSTANTS,
    "dynamic_update_slice": _WITH_CONSTANTS,
    "select_n": affine.select,
    "convert_element_type": precision.convert,
    "reduce_precision": precision.reduce_precision,
    # piecewise linear
    "max": piecewise.maximum,
    "min": piecewise.minimum,
    "abs": piecewise.absolute,
    "clamp": piecewise.clamp,
    "reduce_max": piecewise.reduce_max,
    "reduce_min": piecewise.reduce_min,
    "reduce_window_max": piecewise.window_max,
    # smooth
    "exp": smooth.elementwise(r.EXP),
    "exp2": smooth.exp2,
    "expm1": smooth.elementwise(r.EXPM1),
    "log": smooth.elementwise(r.LOG),
    "log1p": smooth.elementwise(r.LOG1P),
    "sqrt": smooth.elementwise(r.SQRT),
    "rsqrt": smooth.rsqrt,
    "square": smooth.elementwise(r.SQUARE),
    "integer_pow": smooth.integer_pow,
    "pow": smooth.real_pow,
    "tanh": smooth.elementwise(r.TANH),
    "logistic": smooth.elementwise(r.LOGISTIC),
    "erf": smooth.elementwise(r.ERF),
    "erfc": smooth.erfc,
    "sin": smooth.elementwise(r.SIN),
    "cos": smooth.elementwise(r.COS),
    # decisions
    "gt": decisions.comparison(lambda x, y: x.lo > y.hi, lambda x, y: x.hi > y.lo),
    "ge": decisions.comparison(lambda x, y: x.lo >= y.hi, lambda x, y: x.hi >= y.lo),
    "lt": decisions.comparison(lambda x, y: x.hi < y.lo, lambda x, y: x.lo < y.hi),
    "le": decisions.comparison(lambda x, y: x.hi <= y.lo, lambda x, y: x.lo <= y.hi),
    "eq": decisions.comparison(
        lambda x, y: (x.lo == y.hi) & (x.hi == y.lo),
        lambda x, y: (x.hi >= y.lo) & (x.lo <= y.hi),
    ),
    "ne": decisions.differs,
    "is_finite": decisions.is_finite,
    "and": decisions.logical,
    "or": decisions.logical,
    "not": decisions.logical,
    "reduce_and": decisions.non_decreasing,
    "reduce_or": decisions.non_decreasing,
    "sign": decisions.non_decreasing,
    "cummax": decisions.non_decreasing,
    "cummin": decisions.non_decreasing,
    "floor": smooth.elementwise(steps.FLOOR),
    "ceil": smooth.elementwise(steps.CEIL),
    "round": decisions.rounded,
    "sort": decisions.ordered,
    "top_k": decisions.ordered,
}

PATTERN_RULES: dict[str, Callable[..., int]] = {
    "relu": lambda b, x: b.activation(r.RELU, x),
    "leaky_relu": piecewise.leaky,
    "elu": piecewise.elu,
    "hard_tanh": piecewise.hard_tanh,
    "softplus": lambda b, x: b.activation(r.SOFTPLUS, x),
    "silu": lambda b, x: b.activation(r.SILU, x),
    "gelu": lambda b, x: b.activation(r.gelu(b.kind), x),
    "gelu_by_quotient": lambda b, x: b.activation(r.gelu(b.kind, quotient=True), x),
    "gelu_tanh": lambda b, x: b.activation(r.gelu_tanh(b.kind), x),
    "mish": lambda b, x: b.activation(r.MISH, x),
    "soft_sign": lambda b, x: b.activation(r.SOFT_SIGN, x),
    "finite": lambda b, x, _: b.activation(r.FINITE, x),
    "softmax": rules_softmax.softmax,
    "log_softmax": rules_softmax.log_softmax,
}

_REGISTERED: dict[str, Rule] = {}


def register_rule(primitive: Any, activation: r.Activation) -> None:
    """Registers the bounds of an elementwise primitive of one operand.

    Args:
      primitive: the JAX primitive, or its name.
      activation: value, range and relaxation of the function it computes; see
        `jaxcert.activations` (`convex`, `concave`, `s_shaped`, `curved`). Soundness
        of every later bound through this primitive rests on it.

    Raises:
      InputError: the primitive has a built-in rule.
    """
    name = primitive if isinstance(primitive, str) else primitive.name
    if name in RULES:
        raise InputError(
            f"primitive '{name}' has a built-in rule; wrap the function in a primitive "
            "of your own (jax.extend.core.Primitive) and register that"
        )
    _REGISTERED[name] = _elementwise(activation)


def registered() -> Hashable:
    """Returns what is registered: programs traced under other rules do not serve."""
    return frozenset(_REGISTERED.items())


def _elementwise(activation: r.Activation) -> Rule:
    """The rule of a registered activation; refuses what is no function of one value."""

    def rule(b: Builder, e: Equation) -> int:
        shapes = {b.flat.shapes[i] for i in (*e.inputs, *e.outputs)}
        if len(e.inputs) != 1 or len(e.outputs) != 1 or len(shapes) != 1:
            raise UnsupportedError(
                f"primitive '{e.name}' ({e.where}) was registered as an activation, "
                "but is not an elementwise function of one operand: its other operands "
                "would be ignored. Wrap one-operand functions only"
            )
        return b.activation(activation, b.resolve(e.inputs[0]))

    return rule
