"""Rules of smooth functions: one relaxed activation, or a composition of them."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from jaxcert.box import Box
from jaxcert.trace import activations as r
from jaxcert.trace.builder import Builder, Rule
from jaxcert.trace.equations import Equation, unsupported


def elementwise(activation: r.Activation) -> Rule:
    """Returns the rule of a function that is one relaxed activation."""
    return lambda b, e: b.activation(activation, b.resolve(e.inputs[0]))


def integer_pow(b: Builder, e: Equation) -> int:
    """x ** n: an even or odd power, the reciprocal of one, or 1 for n = 0."""
    return _power(b, b.resolve(e.inputs[0]), e.params["y"])


def _power(b: Builder, x: int, exponent: int) -> int:
    if exponent == 0:
        return b.affine(
            "pow", (x,), b.flat.shapes[x], lambda _, z: jnp.ones_like(z),
            lambda _, z: Box(jnp.ones_like(z.lo), jnp.ones_like(z.hi)),
            has_offset=True, separable=True,
        )  # fmt: skip
    if exponent < 0:
        return b.activation(r.RECIPROCAL, _power(b, x, -exponent))
    return x if exponent == 1 else b.activation(r.power(exponent), x)


def real_pow(b: Builder, e: Equation) -> int:
    """x ** c: an integer power, a root, or a real power of x >= 0."""
    exponent = b.flat.scalar(e.inputs[1])
    if exponent is None or not math.isfinite(exponent) or not b.moves(e.inputs[0]):
        raise unsupported(e)
    x = b.resolve(e.inputs[0])
    if exponent == int(exponent):
        return _power(b, x, int(exponent))
    if exponent == 0.5:
        return b.activation(r.SQRT, x)
    return b.activation(r.real_power(exponent), x)


def rsqrt(b: Builder, e: Equation) -> int:
    """1 / sqrt(x)."""
    return b.activation(r.RSQRT, b.resolve(e.inputs[0]))


def erfc(b: Builder, e: Equation) -> int:
    """1 - erf(x)."""
    one = b.flat.constant(np.float32(1))
    return b.shifted(b.activation(r.ERF, b.resolve(e.inputs[0])), one, -1.0, 1.0)


def exp2(b: Builder, e: Equation) -> int:
    """exp(x log 2)."""
    return b.activation(r.EXP, b.scale(b.resolve(e.inputs[0]), math.log(2)))
