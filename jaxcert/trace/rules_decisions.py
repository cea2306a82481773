"""Rules of decisions: comparisons, logic, steps and orders: only ranges are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxcert.box import Box
from jaxcert.errors import UnsupportedError
from jaxcert.trace import steps
from jaxcert.trace.builder import Builder, Rule
from jaxcert.trace.equations import Equation, unsupported


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


def differs(b: Builder, e: Equation) -> int | tuple[int, ...]:
    """x != y; a value differs from itself where it is no number."""
    if e.inputs[0] != e.inputs[1]:
        return _DIFFERS(b, e)

    def interval(_: Any, z: Box) -> Box:
        finite = jnp.isfinite(z.lo) & jnp.isfinite(z.hi)
        return Box(jnp.zeros_like(finite), ~finite)

    x, apply = b.resolve(e.inputs[0]), b.operation(e)
    return b.opaque(
        e.name, (x,), b.shape(e), lambda values, z: apply(values, z, z), interval
    )


_DIFFERS = comparison(
    lambda x, y: (x.hi < y.lo) | (x.lo > y.hi),
    lambda x, y: ~((x.lo == y.hi) & (x.hi == y.lo)),
)


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
        return non_decreasing(b, e)
    return b.activation(steps.ROUND_EVEN, b.resolve(e.inputs[0]))


def non_decreasing(b: Builder, e: Equation) -> int:
    """The range of what is non-decreasing in every element."""
    apply = b.operation(e)
    return b.opaque(e.name, b.moving(e), b.shape(e), apply, _both_ends(apply))


def ordered(b: Builder, e: Equation) -> tuple[int, ...]:
    """sort and top_k: the k-th smallest element is non-decreasing in every element.

    One of which nothing is known leaves nothing known of any: NaN would be sorted last.

    Raises:
      UnsupportedError: places are asked for, which are integers that depend on x; or x
        is ordered by something else.
    """
    others = any(b.moves(i) for i in e.inputs[1:])
    if others or not b.moves(e.inputs[0]) or e.params.get("num_keys", 1) != 1:
        raise unsupported(e)
    if any(i in b.needed for i in e.outputs[1:]):
        raise UnsupportedError(
            f"the places where '{e.name}' ({e.where}) finds its values are integers "
            "that depend on x: only the values can be bounded. Do without the places"
        )
    operation = b.operation(e)

    def apply(values: Any, x: Any) -> Any:
        return operation(values, x)[0]

    def interval(values: Any, z: Box) -> Box:
        unknown = jnp.any(jnp.isnan(z.lo) | jnp.isnan(z.hi))
        ends = (apply(values, v) for v in (z.lo, z.hi))
        return Box(*(jnp.where(unknown, jnp.full_like(v, jnp.nan), v) for v in ends))

    value = b.opaque(e.name, b.moving(e), b.shape(e), apply, interval)
    return (value,) * len(e.outputs)  # nobody reads the others
