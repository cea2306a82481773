"""Rules of decisions: comparisons, logic and steps, of which only ranges are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxcert.box import Box
from jaxcert.trace import steps
from jaxcert.trace.builder import Builder, Rule
from jaxcert.trace.equations import Equation


def comparison(certain: Callable[..., Any], possible: Callable[..., Any]) -> Rule:
    """Truth values as a box: lo = true for all points, hi = true for some."""

    def rule(b: Builder, e: Equation) -> int:
        moves = [b.moves(i) for i in e.inputs]

        def interval(values: Any, *boxes: Box) -> Box:
            queue = iter(boxes)
            x, y = (
                next(queue) if m else Box(values[i], values[i])
                for i, m in zip(e.inputs, moves, strict=True)
            )
            unknown = sum(jnp.isnan(v) for v in (x.lo, x.hi, y.lo, y.hi)) > 0
            return Box(certain(x, y) & ~unknown, possible(x, y) | unknown)

        return b.opaque(e.name, b.moving(e), b.shape(e), b.operation(e), interval)

    return rule


def is_finite(b: Builder, e: Equation) -> int:
    """True for every number of a finite range; nothing is known of any other."""

    def interval(_: Any, z: Box) -> Box:
        certain = jnp.isfinite(z.lo) & jnp.isfinite(z.hi)
        return Box(certain, jnp.ones_like(certain))

    return b.opaque(e.name, b.moving(e), b.shape(e), b.operation(e), interval)


def logical(b: Builder, e: Equation) -> int:
    """and, or: non-decreasing in every operand; not: the ends change places."""
    apply = b.operation(e)
    if e.name == "not":
        return b.opaque(
            e.name, b.moving(e), b.shape(e), apply, lambda _, x: Box(~x.hi, ~x.lo)
        )
    return b.opaque(e.name, b.moving(e), b.shape(e), apply, _both_ends(apply))


def _both_ends(apply: Callable[..., Any]) -> Callable[..., Box]:
    def interval(values: Any, *boxes: Box) -> Box:
        lo = apply(values, *(z.lo for z in boxes))
        return Box(lo, apply(values, *(z.hi for z in boxes)))

    return interval


def rounded(b: Builder, e: Equation) -> int:
    """round: to the nearest whole number, halves to the even one, or away from 0."""
    if e.params["rounding_method"] != lax.RoundingMethod.TO_NEAREST_EVEN:
        return step(b, e)
    return b.activation(steps.ROUND_EVEN, b.resolve(e.inputs[0]))


def step(b: Builder, e: Equation) -> int:
    """A non-decreasing step: its range."""
    apply = b.operation(e)
    return b.opaque(e.name, b.moving(e), b.shape(e), apply, _both_ends(apply))
