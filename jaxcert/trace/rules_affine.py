"""Rules of affine operations: exact maps, and the exact range of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcert.box import Box
from jaxcert.trace import activations as r
from jaxcert.trace.builder import Builder, Rule
from jaxcert.trace.convolution import is_product
from jaxcert.trace.equations import Equation, unsupported


def monotone(
    *, offset: bool = False, separable: bool = True, elementwise: bool = False
) -> Rule:
    """Non-decreasing in every element: [f(lo), f(hi)] is the range."""

    def rule(b: Builder, e: Equation) -> int:
        apply = b.operation(e)

        def interval(values: Any, *boxes: Box) -> Box:
            lo = apply(values, *(box.lo for box in boxes))
            return Box(lo, apply(values, *(box.hi for box in boxes)))

        moving = b.moving(e)
        spreads = elementwise and b.flat.shapes[moving[0]] != b.shape(e)
        return b.affine(
            e.name, moving, b.shape(e), apply, interval,
            has_offset=offset, separable=separable and len(moving) == 1 and not spreads,
            spread=None if offset else apply,
        )  # fmt: skip

    return rule


def antitone_second(b: Builder, e: Equation) -> int:
    """x - y: [x.lo - y.hi, x.hi - y.lo]."""
    apply, moving = b.operation(e), b.moving(e)
    first_moves = b.moves(e.inputs[0])

    def interval(values: Any, *boxes: Box) -> Box:
        if len(boxes) == 2:
            x, y = boxes
            return Box(apply(values, x.lo, y.hi), apply(values, x.hi, y.lo))
        (z,) = boxes
        a, c = apply(values, z.lo), apply(values, z.hi)
        return Box(a, c) if first_moves else Box(c, a)

    return b.affine(
        "sub", moving, b.shape(e), apply, interval,
        has_offset=len(moving) == 1,
        separable=len(moving) == 1 and b.flat.shapes[moving[0]] == b.shape(e),
    )  # fmt: skip


def negate(b: Builder, e: Equation) -> int:
    """-x: [-x.hi, -x.lo]."""
    return b.scale(b.resolve(e.inputs[0]), -1.0)


def _scaled_interval(apply: Callable[..., Any]) -> Callable[..., Box]:
    def interval(values: Any, x: Box) -> Box:
        a, c = apply(values, x.lo), apply(values, x.hi)
        return Box(jnp.minimum(a, c), jnp.maximum(a, c))

    return interval


def _magnitude(apply: Callable[..., Any]) -> Callable[..., Any]:
    return lambda values, size: jnp.abs(apply(values, size))


def mul(b: Builder, e: Equation) -> int:
    """c x: scaled; x x: the square; x y: a product node (McCormick)."""
    moving = b.moving(e)
    if len(moving) == 1:
        apply = b.operation(e)
        spreads = b.flat.shapes[moving[0]] != b.shape(e)
        return b.affine(
            "mul", moving, b.shape(e), apply, _scaled_interval(apply),
            separable=not spreads, spread=_magnitude(apply),
        )  # fmt: skip
    x, y = moving
    if x == y:
        return b.activation(r.SQUARE, x)
    return b.product(b.broadcast_to(x, b.shape(e)), b.broadcast_to(y, b.shape(e)))


def div(b: Builder, e: Equation) -> int:
    """x / c: scaled; a / y: a times the reciprocal of y."""
    if not b.moves(e.inputs[1]):
        apply = b.operation(e)
        spreads = b.flat.shapes[b.moving(e)[0]] != b.shape(e)
        return b.affine(
            "div", b.moving(e), b.shape(e), apply, _scaled_interval(apply),
            separable=not spreads, spread=_magnitude(apply),
            error=_divisor_error(b.operation(e), e.inputs[1]),
        )  # fmt: skip
    y = b.broadcast_to(b.resolve(e.inputs[1]), b.shape(e))
    inverse = b.activation(r.RECIPROCAL, y)
    if b.moves(e.inputs[0]):
        return b.product(b.broadcast_to(b.resolve(e.inputs[0]), b.shape(e)), inverse)
    numerator = e.inputs[0]

    def apply_scaled(values: Any, z: Any) -> Any:
        return values[numerator] * z

    return b.affine(
        "div", (inverse,), b.shape(e), apply_scaled, _scaled_interval(apply_scaled),
        separable=True, spread=_magnitude(apply_scaled),
    )  # fmt: skip


def _divisor_error(apply: Callable[..., Any], divisor: int) -> Callable[..., Any]:
    """|x / c' - x / c| <= |x / c| e / (|c| - e) for |c' - c| <= e < |c|."""

    def error(values: Any, size: Any) -> Any:
        c, e = jnp.abs(values[divisor]), values[~divisor]
        share = jnp.where(c > e, e / (c - e), jnp.inf)
        return jnp.abs(apply(values, size)) * share

    return error


def contraction(b: Builder, e: Equation) -> int:
    """W x for a weight W: centre c and radius r give W c -+ |W| r, the exact range."""
    moving = b.moving(e)
    if len(moving) == 2:
        if e.name != "dot_general":
            raise unsupported(e)
        return _dot_of_two(b, e)
    apply, absolute = b.operation(e), b.operation(e, weights=jnp.abs)

    def interval(values: Any, x: Box) -> Box:
        center, radius = apply(values, x.center), absolute(values, x.radius)
        return Box(center - radius, center + radius)

    name = e.name
    if name == "conv_general_dilated":
        kernel = b.flat.shapes[e.inputs[1]]
        name = "dot_general" if is_product(kernel, e.params) else name
    return b.affine(
        name, moving, b.shape(e), apply, interval, separable=False, spread=absolute
    )


def _dot_of_two(b: Builder, e: Equation) -> int:
    """sum_k x_mk y_nk."""
    (lc, rc), (lb, rb) = e.params["dimension_numbers"]
    x, y = (b.resolve(i) for i in e.inputs)
    out = b.shape(e)
    if x == y and (lc, lb) == (rc, rb) and len(out) == len(lb):
        # A squared norm: as squares it is known not to be negative.
        batch, contract = list(lb), list(lc)
        return b.structural(
            "dot_general", b.activation(r.SQUARE, x), out,
            lambda z: z.transpose([*batch, *contract]).reshape((*out, -1)).sum(axis=-1),
            separable=False,
        )  # fmt: skip

    def laid_out(shape: Sequence[int], batch: Any, contract: Any) -> tuple[Any, Any]:
        free = [i for i in range(len(shape)) if i not in (*batch, *contract)]
        sizes = [[shape[i] for i in part] for part in (batch, free, contract)]
        return [*batch, *free, *contract], sizes

    left, (batch, lfree, _) = laid_out(b.flat.shapes[x], lb, lc)
    right, (_, rfree, summed) = laid_out(b.flat.shapes[y], rb, rc)
    count, rows, columns, terms = map(math.prod, (batch, lfree, rfree, summed))

    def expand(p: Any, q: Any) -> tuple[Any, Any]:
        p = p.transpose(left).reshape((count, rows, 1, terms))
        return p, q.transpose(right).reshape((count, 1, columns, terms))

    def apply(p: Any, q: Any) -> Any:
        return e.bind(p, q, dtype=p.dtype)

    return b.bilinear(
        "dot_general", (x, y), out, expand, apply,
        collect=lambda z: z.sum(axis=-1).reshape(out),
    )  # fmt: skip


def select(b: Builder, e: Equation) -> int | tuple[int, ...]:
    """A constant predicate picks elements; one that depends on x gives the hull."""
    if not b.moves(e.inputs[0]):
        return monotone(offset=True)(b, e)
    if len(e.inputs) != 3:
        raise unsupported(e)
    apply = b.operation(e)
    moves = [b.moves(i) for i in e.inputs]
    shape = b.shape(e)

    def interval(values: Any, *boxes: Box) -> Box:
        queue = iter(boxes)

        def operand(position: int) -> Box:
            if moves[position]:
                return next(queue)
            constant = values[e.inputs[position]]
            return Box(constant, constant)

        pick, off, on = operand(0), operand(1), operand(2)
        lo, hi = jnp.minimum(off.lo, on.lo), jnp.maximum(off.hi, on.hi)
        lo = jnp.where(pick.lo, on.lo, jnp.where(pick.hi, lo, off.lo))
        hi = jnp.where(pick.lo, on.hi, jnp.where(pick.hi, hi, off.hi))
        return Box(jnp.broadcast_to(lo, shape), jnp.broadcast_to(hi, shape))

    return b.opaque(e.name, b.moving(e), shape, apply, interval)


def split(b: Builder, e: Equation) -> tuple[int, ...]:
    """One slice per result."""
    x, axis = b.resolve(e.inputs[0]), e.params["axis"]
    starts = np.cumsum([0, *e.params["sizes"]])

    def part(start: int, stop: int) -> int:
        shape = list(b.flat.shapes[x])
        shape[axis] = int(stop - start)
        return b.structural(
            "split",
            x,
            tuple(shape),
            lambda z: lax.slice_in_dim(z, start, stop, 1, axis),
        )

    pairs = itertools.pairwise(int(s) for s in starts)
    return tuple(part(start, stop) for start, stop in pairs)
