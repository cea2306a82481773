"""Rules: which nodes each primitive becomes. One table, at the end of the file.

A rule takes the builder and an equation with at least one operand that depends on x,
and returns the value id of the result. Piecewise linear operations are rewritten, as
real-valued functions exactly, to affine maps and ReLU:

    max(x, y) = y + relu(x - y)      min(x, y) = x - relu(x - y)
    |x| = 2 relu(x) - x              leaky_a(x) = a x + (1 - a) relu(x)

so that every method has one activation to deal with. The rewritten node keeps the exact
range of the original as a hint to interval propagation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcert.bounds import relaxations as r
from jaxcert.bounds.builder import Builder, Rule
from jaxcert.box import Box
from jaxcert.errors import InputError, UnsupportedError
from jaxcert.patterns import Matcher
from jaxcert.program import (
    Equation,
    Flattener,
    Node,
    unsupported,
)


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
    builder = Builder(flat)
    for equation in flat.equations:
        if not needed.intersection(equation.outputs):
            continue
        found = matches.get(equation.outputs[0])
        if found is not None:
            rule = PATTERN_RULES[found.name]
            builder.at(equation)
            value = rule(builder, builder.resolve(found.x), *found.numbers)
            builder.alias[equation.outputs[0]] = value
            continue
        rule = _REGISTERED.get(equation.name) or RULES.get(equation.name)
        if rule is None:
            raise unsupported(equation)
        builder.at(equation)
        values = rule(builder, equation)
        values = values if isinstance(values, tuple) else (values,)
        builder.alias.update(zip(equation.outputs, values, strict=True))
    return builder.finish(result)


# --- affine -------------------------------------------------------------------------


def _monotone(
    *, offset: bool = False, separable: bool = True, elementwise: bool = False
) -> Rule:
    """Non-decreasing in every element: [f(lo), f(hi)] is the range."""

    def rule(b: Builder, e: Equation) -> int:
        apply = b.operation(e)

        def interval(values: Any, *boxes: Box) -> Box:
            lo = apply(values, *(box.lo for box in boxes))
            return Box(lo, apply(values, *(box.hi for box in boxes)))

        moving = b.moving(e)
        spread = elementwise and b.flat.shapes[moving[0]] != b.shape(e)
        return b.affine(
            e.name, moving, b.shape(e), apply, interval,
            has_offset=offset, separable=separable and len(moving) == 1 and not spread,
        )  # fmt: skip

    return rule


def _antitone_second(b: Builder, e: Equation) -> int:
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


def _negate(b: Builder, e: Equation) -> int:
    return b.scale(b.resolve(e.inputs[0]), -1.0)


def _scaled_interval(apply: Callable[..., Any]) -> Callable[..., Box]:
    def interval(values: Any, x: Box) -> Box:
        a, c = apply(values, x.lo), apply(values, x.hi)
        return Box(jnp.minimum(a, c), jnp.maximum(a, c))

    return interval


def _mul(b: Builder, e: Equation) -> int:
    """c x: scaled; x x: the square; x y: a product node (McCormick)."""
    moving = b.moving(e)
    if len(moving) == 1:
        apply = b.operation(e)
        spread = b.flat.shapes[moving[0]] != b.shape(e)
        return b.affine(
            "mul", moving, b.shape(e), apply, _scaled_interval(apply),
            separable=not spread,
        )  # fmt: skip
    x, y = moving
    if x == y:
        return b.activation(r.SQUARE, x)
    return b.product(b.broadcast_to(x, b.shape(e)), b.broadcast_to(y, b.shape(e)))


def _div(b: Builder, e: Equation) -> int:
    """x / c: scaled; a / y: a times the reciprocal of y."""
    if not b.moves(e.inputs[1]):
        apply = b.operation(e)
        spread = b.flat.shapes[b.moving(e)[0]] != b.shape(e)
        return b.affine(
            "div", b.moving(e), b.shape(e), apply, _scaled_interval(apply),
            separable=not spread,
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
        separable=True,
    )  # fmt: skip


def _contraction(b: Builder, e: Equation) -> int:
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

    return b.affine(e.name, moving, b.shape(e), apply, interval, separable=False)


def _dot_of_two(b: Builder, e: Equation) -> int:
    """sum_k x_mk y_nk, as products of broadcast operands and a sum."""
    (lc, rc), (lb, rb) = e.params["dimension_numbers"]
    x, y = (b.resolve(i) for i in e.inputs)

    def laid_out(value: int, batch: Any, contract: Any, side: int) -> tuple[int, Any]:
        shape = b.flat.shapes[value]
        free = [i for i in range(len(shape)) if i not in (*batch, *contract)]
        order = [*batch, *free, *contract]
        sizes = [
            [shape[i] for i in part] for part in (list(batch), free, list(contract))
        ]
        counts = [math.prod(s) for s in sizes]
        wide = (counts[0], counts[1], 1, counts[2])
        wide = wide if side == 0 else (counts[0], 1, counts[1], counts[2])
        moved = b.structural(
            "dot_general", value, wide, lambda z: z.transpose(order).reshape(wide)
        )
        return moved, sizes

    left, (batch, lfree, _) = laid_out(x, lb, lc, 0)
    right, (_, rfree, _) = laid_out(y, rb, rc, 1)
    ls, rs = b.flat.shapes[left], b.flat.shapes[right]
    full = (ls[0], ls[1], rs[2], ls[3])
    product = b.product(b.broadcast_to(left, full), b.broadcast_to(right, full))
    out = (*batch, *lfree, *rfree)
    return b.structural(
        "dot_general", product, out, lambda z: z.sum(axis=-1).reshape(out),
        separable=False,
    )  # fmt: skip


def _select(b: Builder, e: Equation) -> int:
    """A constant predicate picks elements; one that depends on x gives the hull."""
    if not b.moves(e.inputs[0]):
        return _monotone(offset=True)(b, e)
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


def _split(b: Builder, e: Equation) -> tuple[int, ...]:
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


def _same(b: Builder, e: Equation) -> int:
    return b.resolve(e.inputs[0])


def _convert(b: Builder, e: Equation) -> int:
    """A cast between float types is the identity; a bool becomes 0 or 1."""
    x = b.resolve(e.inputs[0])
    if not jnp.issubdtype(e.params["new_dtype"], jnp.floating):
        raise unsupported(e)
    if e.inputs[0] not in b.flat.logical:
        return x

    def number(z: Any) -> Any:
        return jnp.where(z, 1.0, 0.0)

    return b.opaque(
        e.name, (x,), b.shape(e), lambda _, z: number(z),
        lambda _, z: Box(number(z.lo), number(z.hi)),
    )  # fmt: skip


# --- piecewise linear ---------------------------------------------------------------


def _max_of(b: Builder, x: int, y: int) -> int:
    """max(x, y) = y + relu(x - y), both depending on x."""
    gap = b.activation(r.RELU, b.sub(x, y))

    def hint(_: Any, p: Box, q: Box) -> Box:
        return Box(jnp.maximum(p.lo, q.lo), jnp.maximum(p.hi, q.hi))

    return b.add(y, gap, hint=hint, hint_inputs=(x, y))


def _max(b: Builder, e: Equation) -> int:
    return _extreme(b, e.inputs[0], e.inputs[1], b.shape(e), 1.0)


def _min(b: Builder, e: Equation) -> int:
    return _extreme(b, e.inputs[0], e.inputs[1], b.shape(e), -1.0)


def _extreme(b: Builder, p: int, q: int, shape: Sequence[int], sign: float) -> int:
    """max for sign 1; min as -max(-x, -y) for sign -1."""
    if not b.moves(p):
        p, q = q, p
    x = b.broadcast_to(b.resolve(p), shape)
    if not b.moves(q) and b.flat.scalar(q) == -sign * math.inf:
        return x  # the neutral element; x - c would be infinite
    if b.moves(q):
        y = b.broadcast_to(b.resolve(q), shape)
        if sign > 0:
            return _max_of(b, x, y)
        return b.scale(_max_of(b, b.scale(x, -1.0), b.scale(y, -1.0)), -1.0)
    if b.flat.scalar(q) == 0.0 and sign > 0:
        return b.activation(r.RELU, x)
    # max(x, c) = c + relu(x - c); min(x, c) = c - relu(c - x)
    gap = b.activation(r.RELU, b.shifted(x, q, sign, -sign))
    return b.shifted(gap, q, sign, 1.0)


def _clamp(b: Builder, e: Equation) -> int:
    low, x, high = e.inputs
    if b.moves(low) or b.moves(high):
        raise unsupported(e)
    lifted = _extreme(b, x, low, b.shape(e), 1.0)
    return _extreme(b, lifted, high, b.shape(e), -1.0)


def _abs(b: Builder, e: Equation) -> int:
    x = b.resolve(e.inputs[0])

    def hint(_: Any, z: Box) -> Box:
        a, c = jnp.abs(z.lo), jnp.abs(z.hi)
        low = jnp.where((z.lo <= 0) & (z.hi >= 0), 0 * (a + c), jnp.minimum(a, c))
        return Box(low, jnp.maximum(a, c))

    doubled = b.scale(b.activation(r.RELU, x), 2.0)
    return b.add(doubled, b.scale(x, -1.0), hint=hint, hint_inputs=(x,))


def _leaky(b: Builder, x: int, slope: float) -> int:
    def value(z: Any) -> Any:
        return jnp.where(z >= 0, z, slope * z)

    def hint(_: Any, z: Box) -> Box:
        a, c = value(z.lo), value(z.hi)
        low, high = jnp.minimum(a, c), jnp.maximum(a, c)
        kink = (z.lo <= 0) & (z.hi >= 0)
        low = jnp.where(kink, jnp.minimum(low, 0), low)
        return Box(low, jnp.where(kink, jnp.maximum(high, 0), high))

    bent = b.scale(b.activation(r.RELU, x), 1 - slope)
    return b.add(b.scale(x, slope), bent, hint=hint, hint_inputs=(x,))


def _elu(b: Builder, x: int, alpha: float) -> int:
    """elu(x) = relu(x) + alpha (exp(x - relu(x)) - 1)."""
    positive = b.activation(r.RELU, x)
    negative = b.activation(r.EXPM1, b.sub(x, positive))

    def hint(_: Any, z: Box) -> Box:
        a, c = (
            jnp.where(e > 0, e, alpha * jnp.expm1(jnp.minimum(e, 0)))
            for e in (z.lo, z.hi)
        )
        return Box(a, c)

    increasing = alpha >= 0
    return b.add(
        positive, b.scale(negative, alpha),
        hint=hint if increasing else None, hint_inputs=(x,) if increasing else (),
    )  # fmt: skip


def _hard_tanh(b: Builder, x: int) -> int:
    one, minus = b.flat.constant(np.float32(1)), b.flat.constant(np.float32(-1))
    shape = b.flat.shapes[x]
    lifted = _extreme(b, x, minus, shape, 1.0)
    return _extreme(b, lifted, one, shape, -1.0)


def _tournament(b: Builder, values: list[int]) -> int:
    while len(values) > 1:
        half = len(values) // 2
        pairs = zip(values[:half], values[half : 2 * half], strict=True)
        values = [_max_of(b, x, y) for x, y in pairs] + values[2 * half :]
    return values[0]


def _reduce_max(b: Builder, e: Equation, sign: float = 1.0) -> int:
    """A tournament of pairwise maxima over halves of the reduced axes."""
    axes, x = e.params["axes"], b.scale(b.resolve(e.inputs[0]), sign)
    shape = b.flat.shapes[x]
    kept = [i for i in range(len(shape)) if i not in axes]
    count = math.prod(shape[i] for i in axes)
    if count == 0:
        raise unsupported(e)
    flat_shape = (count, *(shape[i] for i in kept))
    order = [*axes, *kept]
    x = b.structural(
        e.name, x, flat_shape, lambda z: z.transpose(order).reshape(flat_shape)
    )

    def part(v: int, start: int, stop: int) -> int:
        return b.structural(
            e.name, v, (stop - start, *flat_shape[1:]), lambda z: z[start:stop]
        )

    while count > 1:
        half = count // 2
        best = _max_of(b, part(x, 0, half), part(x, half, 2 * half))
        if count % 2:
            rest = part(x, 2 * half, count)
            joined = (half + 1, *flat_shape[1:])
            best = b.affine(
                e.name, (best, rest), joined,
                lambda _, p, q: jnp.concatenate([p, q]),
                lambda _, p, q: Box(
                    jnp.concatenate([p.lo, q.lo]), jnp.concatenate([p.hi, q.hi])
                ),
            )  # fmt: skip
        x, count = best, half + count % 2
    done = b.structural(e.name, x, flat_shape[1:], lambda z: z[0])
    return b.scale(done, sign)


def _reduce_min(b: Builder, e: Equation) -> int:
    return _reduce_max(b, e, sign=-1.0)


def _window_max(b: Builder, e: Equation) -> int:
    """Max pooling: a tournament over the positions inside the window."""
    p, x = e.params, b.resolve(e.inputs[0])
    if any(d != 1 for d in p["base_dilation"]):
        raise unsupported(e)
    shape, out = b.flat.shapes[x], b.shape(e)
    window, strides = p["window_dimensions"], p["window_strides"]
    padding, dilation = p["padding"], p["window_dilation"]
    offsets = list(itertools.product(*(range(w) for w in window)))

    def along(axis: int, k: int) -> np.ndarray:
        start = k * dilation[axis] - padding[axis][0]
        return start + strides[axis] * np.arange(out[axis])

    positions = [[along(a, k[a]) for a in range(len(shape))] for k in offsets]
    inside = [
        [(q >= 0) & (q < n) for q, n in zip(grid, shape, strict=True)]
        for grid in positions
    ]
    if all(np.all(m) for grid in inside for m in grid):

        def pick(grid: list[np.ndarray]) -> int:
            starts = [int(q[0]) for q in grid]
            stops = [int(q[-1]) + 1 for q in grid]
            return b.structural(
                e.name, x, out, lambda z: lax.slice(z, starts, stops, strides)
            )

        return _tournament(b, [pick(grid) for grid in positions])
    return _tournament(b, _padded_window(b, e, x, positions, inside))


def _padded_window(
    b: Builder, e: Equation, x: int, positions: list, inside: list
) -> list[int]:
    """Positions in the padding repeat one inside: the maximum stays the same."""
    shape, out = b.flat.shapes[x], b.shape(e)
    valid = np.stack(
        [_outer([m for m in grid], np.logical_and) for grid in inside]
    )  # (offsets, *out)
    if not valid.any(axis=0).all():
        raise unsupported(e)
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]
    flat = np.stack(
        [_outer([q * s for q, s in zip(g, strides, strict=True)], np.add)
         for g in positions]
    )  # fmt: skip
    first = np.take_along_axis(flat, valid.argmax(axis=0)[None], axis=0)
    indices = np.where(valid, flat, first)
    return [
        b.structural(
            e.name, x, out, lambda z, i=i: z.reshape(-1)[i.reshape(-1)].reshape(out),
            separable=False,
        )
        for i in indices
    ]  # fmt: skip


def _outer(vectors: list[np.ndarray], combine: Any) -> np.ndarray:
    result = vectors[0]
    for vector in vectors[1:]:
        result = combine(result[..., None], vector)
    return result


# --- smooth -------------------------------------------------------------------------


def _smooth(activation: r.Activation) -> Rule:
    return lambda b, e: b.activation(activation, b.resolve(e.inputs[0]))


def _integer_pow(b: Builder, e: Equation) -> int:
    return _power(b, b.resolve(e.inputs[0]), e.params["y"])


def _power(b: Builder, x: int, exponent: int) -> int:
    if exponent == 0:
        raise UnsupportedError(f"x ** 0 is constant ({b.where}): write 1 instead")
    if exponent < 0:
        return b.activation(r.RECIPROCAL, _power(b, x, -exponent))
    return x if exponent == 1 else b.activation(r.power(exponent), x)


def _pow(b: Builder, e: Equation) -> int:
    """x ** c: an integer power, a square root, or exp(c log x)."""
    exponent = b.flat.scalar(e.inputs[1])
    fixed = exponent is not None and math.isfinite(exponent)
    if not fixed or not b.moves(e.inputs[0]):
        raise unsupported(e)
    x = b.resolve(e.inputs[0])
    if exponent == int(exponent):
        return _power(b, x, int(exponent))
    if exponent == 0.5:
        return b.activation(r.SQRT, x)
    return b.activation(r.EXP, b.scale(b.activation(r.LOG, x), exponent))


def _rsqrt(b: Builder, e: Equation) -> int:
    root = b.activation(r.SQRT, b.resolve(e.inputs[0]))
    return b.activation(r.RECIPROCAL, root)


def _erfc(b: Builder, e: Equation) -> int:
    one = b.flat.constant(np.float32(1))
    return b.shifted(b.activation(r.ERF, b.resolve(e.inputs[0])), one, -1.0, 1.0)


def _exp2(b: Builder, e: Equation) -> int:
    return b.activation(r.EXP, b.scale(b.resolve(e.inputs[0]), math.log(2)))


# --- decisions: only their range is known -------------------------------------------


def _comparison(certain: Callable[..., Any], possible: Callable[..., Any]) -> Rule:
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


def _logical(b: Builder, e: Equation) -> int:
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


def _step(b: Builder, e: Equation) -> int:
    """sign, floor, ceil, round: non-decreasing steps."""
    apply = b.operation(e)
    return b.opaque(e.name, b.moving(e), b.shape(e), apply, _both_ends(apply))


_LINEAR = _monotone()
_SPREADING = _monotone(separable=False)
_WITH_CONSTANTS = _monotone(offset=True)
# A gather out of bounds reads its fill value: an offset, not a linear map.
_GATHER = _monotone(offset=True, separable=False)
_ADDITION = _monotone(offset=True, elementwise=True)

RULES: dict[str, Rule] = {
    # affine
    "add": _ADDITION,
    "add_any": _ADDITION,
    "sub": _antitone_second,
    "neg": _negate,
    "mul": _mul,
    "div": _div,
    "dot_general": _contraction,
    "conv_general_dilated": _contraction,
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
    "split": _split,
    "concatenate": _WITH_CONSTANTS,
    "stack": _WITH_CONSTANTS,
    "pad": _WITH_CONSTANTS,
    "dynamic_update_slice": _WITH_CONSTANTS,
    "select_n": _select,
    "convert_element_type": _convert,
    "reduce_precision": _same,
    # piecewise linear
    "max": _max,
    "min": _min,
    "abs": _abs,
    "clamp": _clamp,
    "reduce_max": _reduce_max,
    "reduce_min": _reduce_min,
    "reduce_window_max": _window_max,
    # smooth
    "exp": _smooth(r.EXP),
    "exp2": _exp2,
    "expm1": _smooth(r.EXPM1),
    "log": _smooth(r.LOG),
    "log1p": _smooth(r.LOG1P),
    "sqrt": _smooth(r.SQRT),
    "rsqrt": _rsqrt,
    "square": _smooth(r.SQUARE),
    "integer_pow": _integer_pow,
    "pow": _pow,
    "tanh": _smooth(r.TANH),
    "logistic": _smooth(r.LOGISTIC),
    "erf": _smooth(r.ERF),
    "erfc": _erfc,
    "sin": _smooth(r.SIN),
    "cos": _smooth(r.COS),
    # decisions
    "gt": _comparison(lambda x, y: x.lo > y.hi, lambda x, y: x.hi > y.lo),
    "ge": _comparison(lambda x, y: x.lo >= y.hi, lambda x, y: x.hi >= y.lo),
    "lt": _comparison(lambda x, y: x.hi < y.lo, lambda x, y: x.lo < y.hi),
    "le": _comparison(lambda x, y: x.hi <= y.lo, lambda x, y: x.lo <= y.hi),
    "eq": _comparison(
        lambda x, y: (x.lo == y.hi) & (x.hi == y.lo),
        lambda x, y: (x.hi >= y.lo) & (x.lo <= y.hi),
    ),
    "ne": _comparison(
        lambda x, y: (x.hi < y.lo) | (x.lo > y.hi),
        lambda x, y: ~((x.lo == y.hi) & (x.hi == y.lo)),
    ),
    "and": _logical,
    "or": _logical,
    "not": _logical,
    "sign": _step,
    "floor": _step,
    "ceil": _step,
    "round": _step,
}

PATTERN_RULES: dict[str, Callable[..., int]] = {
    "relu": lambda b, x: b.activation(r.RELU, x),
    "leaky_relu": _leaky,
    "elu": _elu,
    "hard_tanh": _hard_tanh,
    "softplus": lambda b, x: b.activation(r.SOFTPLUS, x),
    "silu": lambda b, x: b.activation(r.SILU, x),
    "gelu": lambda b, x: b.activation(r.GELU, x),
    "gelu_tanh": lambda b, x: b.activation(r.GELU_TANH, x),
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
