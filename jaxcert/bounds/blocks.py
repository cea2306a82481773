"""Bounds of what a box leaves of a network, by one step for all blocks of its neurons.

A ReLU whose sign the box decides is the identity or 0 there. So over the box a network
is affine maps from the inputs and from the undecided neurons before (`undecided.py`).
Their neurons lie in blocks of `WIDTH` here, none of which reaches its own layer or a
later one, and a backward pass is a loop over blocks: its program is as long for eight
layers as for one. A program with a node for each of their maps takes a minute to
compile.

Every map is wrong by what rounding did to it. What that may cost a row is a number per
neuron, its loss, for which bounds are charged: like those of `charges.py` they hold as
they are.

The derivative of a bound by the lower slope of a neuron with coefficient v > 0 is v z,
and by the multiplier of its sign s it is -s z, with z the neuron's input at the point
where the bound is taken, in the network of the lines that were chosen: a forward pass
through the same blocks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxcert.bounds.ascent import AscentOptions, climb
from jaxcert.bounds.backward import without_infinity
from jaxcert.bounds.cuts import cast_floats
from jaxcert.box import Box

WIDTH = 64
"""Neurons of a block."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blocks:
    """The undecided neurons of a network over a box: K blocks, N = K WIDTH neurons.

    z = A x + B relu(z) + b, up to its loss. A neuron that is none has the range
    [-1, -1] and no map.

    Attributes:
      box: of the inputs, (d,).
      of_input: A, (N, d).
      of_output: B, (N, N).
      offset: b, (N,).
      ranges: of z, (N,).
      loss: what a row loses per unit of its coefficient on z, (N,).
      loss_at_output: likewise on relu(z), (N,).
      loss_at_input: likewise on x, (d,).
      flushed: what it loses in any case, ().
    """

    box: Box
    of_input: Float[Array, "N d"]
    of_output: Float[Array, "N N"]
    offset: Float[Array, " N"]
    ranges: Box
    loss: Float[Array, " N"]
    loss_at_output: Float[Array, " N"]
    loss_at_input: Float[Array, " d"]
    flushed: Float[Array, ""]

    def cast(self, dtype: Any) -> Blocks:
        """Returns the same in another float type."""
        return cast_floats(self, dtype)

    def inputs(self, x: Float[Array, "B d"], before: Int[Array, ""]) -> Array:
        """Returns A x of the neurons of the first blocks, (B, N); of others 0."""

        width = self._together

        def through(number: Array, made: Array) -> Array:
            part = _product(x, _rows(self.of_input, number, width).T)
            return _with_block(made, number, part, width)

        made = jnp.zeros((len(x), len(self.of_input)), x.dtype)
        return lax.fori_loop(0, _count(before, width), through, made)

    def pulled(self, z: Float[Array, "B N"], before: Int[Array, ""]) -> Array:
        """Returns rows over neurons of the first blocks as rows z A over x, (B, d)."""

        width = self._together

        def through(number: Array, x: Array) -> Array:
            part = _rows(self.of_input, number, width)
            return x + _product(_block(z, number, width), part)

        made = jnp.zeros((len(z), self.of_input.shape[1]), z.dtype)
        return lax.fori_loop(0, _count(before, width), through, made)

    @property
    def _together(self) -> int:
        """Neurons whose maps of the input are multiplied at once; it divides N."""
        return math.gcd(4 * WIDTH, len(self.of_input))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows over inputs and outputs of blocks, of which lower bounds are asked.

    Attributes:
      of_input: coefficients of x, (B, d).
      of_output: coefficients of relu(z), (B, N).
      offset: less what the rows have lost already, (B,).
      before: how many blocks they may reach.
    """

    of_input: Float[Array, "B d"]
    of_output: Float[Array, "B N"]
    offset: Float[Array, " B"]
    before: Int[Array, ""]

    def at(self, index: Int[Array, " n"]) -> Rows:
        """Returns some of them, by their numbers."""
        of_input, of_output = self.of_input[index], self.of_output[index]
        return Rows(of_input, of_output, self.offset[index], self.before)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chosen:
    """What the bound of a row may choose.

    Attributes:
      slope: lower slope of every undecided neuron, in [0, 1], (B, N).
      split: beta >= 0 of every fixed sign, (B, N).
    """

    slope: Float[Array, "B N"]
    split: Float[Array, "B N"]

    @staticmethod
    def of_crown(blocks: Blocks, count: int) -> Chosen:
        """Returns CROWN's choice for so many rows, float32: slope 1 where u > -l."""
        z = blocks.ranges
        slope = jnp.where(z.hi > -z.lo, 1.0, 0.0).astype(jnp.float32)
        slopes = jnp.broadcast_to(slope, (count, slope.size))
        return Chosen(slopes, jnp.zeros(slopes.shape, jnp.float32))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pulled:
    """Lower bounds of rows, and what they were made of.

    Attributes:
      bound: NaN where it overflows, (B,).
      at_input: coefficients of x, (B, d).
      at_output: coefficients of relu(z), (B, N).
    """

    bound: Float[Array, " B"]
    at_input: Float[Array, "B d"]
    at_output: Float[Array, "B N"]


def least(
    blocks: Blocks, rows: Rows, signs: Int[Array, "B N"], chosen: Chosen
) -> Pulled:
    """Returns lower bounds of rows where the signs hold.

    In float64 they hold as they are. The choice may be of another float type.
    """
    chosen = cast_floats(chosen, blocks.offset.dtype)

    def through(step: Array, carry: tuple[Array, Array, Array]) -> Any:
        at_output, neurons, const = carry
        number = rows.before - 1 - step
        v, sign = _block(at_output, number), _block(signs, number).astype(const.dtype)
        lower, upper, intercept = _lines(blocks, number, sign, chosen)
        z = v * jnp.where(v > 0, lower, upper)
        z = z - jnp.maximum(_block(chosen.split, number), 0) * sign
        const = const + _product(z, _block(blocks.offset, number))
        const = const + jnp.sum(jnp.minimum(v, 0) * intercept, axis=-1)
        const = const - _product(jnp.abs(z), _block(blocks.loss, number))
        const = const - _product(jnp.abs(v), _block(blocks.loss_at_output, number))
        at_output = at_output + _product(z, _rows(blocks.of_output, number))
        return at_output, _with_block(neurons, number, z), const

    start = rows.of_output, jnp.zeros_like(rows.of_output), rows.offset
    at_output, z, const = lax.fori_loop(0, rows.before, through, start)
    x = rows.of_input + blocks.pulled(z, rows.before)
    found = jnp.where(x > 0, x * blocks.box.lo, x * blocks.box.hi)
    found = found - jnp.abs(x) * blocks.loss_at_input
    found = _product(found, jnp.ones(x.shape[1], x.dtype))
    return Pulled(without_infinity(const + found - blocks.flushed), x, at_output)


def corner(blocks: Blocks, pulled: Pulled) -> Float[Array, "B d"]:
    """Returns the inputs at which bounds are taken."""
    return jnp.where(pulled.at_input > 0, blocks.box.lo, blocks.box.hi)


def neurons_at(
    blocks: Blocks, before: Int[Array, ""], x: Float[Array, "B d"]
) -> tuple[Float[Array, "B N"], Float[Array, "B N"]]:
    """Returns z and relu(z) of the first blocks at inputs, up to rounding."""
    return _forward(blocks, before, x, lambda z, number: jnp.maximum(z, 0))


def values(blocks: Blocks, rows: Rows, x: Float[Array, "B d"]) -> Float[Array, " B"]:
    """Returns the value of every row at its input, up to rounding."""
    _, outputs = neurons_at(blocks, rows.before, x)
    at_input = jnp.sum(x * rows.of_input, axis=1)
    return at_input + jnp.sum(outputs * rows.of_output, axis=1) + rows.offset


def _forward(
    blocks: Blocks,
    before: Array,
    x: Array,
    made: Callable[[Array, Array], Array],
) -> tuple[Float[Array, "B N"], Float[Array, "B N"]]:
    """Returns z of all neurons, and `made(z, block)` of each, which later ones see."""
    by_input = blocks.inputs(x, before)

    def through(number: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        inputs, outputs = carry
        z = _block(by_input, number) + _block(blocks.offset, number)
        z = z + _product(outputs, _rows(blocks.of_output, number).T)
        outputs = _with_block(outputs, number, made(z, number))
        return _with_block(inputs, number, z), outputs

    nothing = jnp.zeros_like(by_input)
    return lax.fori_loop(0, before, through, (nothing, nothing))


def derivative(
    blocks: Blocks, rows: Rows, signs: Int[Array, "B N"], chosen: Chosen, pulled: Pulled
) -> Chosen:
    """Returns the derivative of every bound by what it has chosen, given what `least`
    made of it; in the float type of the blocks."""

    def made(z: Array, number: Array) -> Array:
        v, sign = _block(pulled.at_output, number), _block(signs, number)
        lower, upper, intercept = _lines(blocks, number, sign.astype(z.dtype), chosen)
        return jnp.where(v > 0, lower * z, upper * z + intercept)

    z, _ = _forward(blocks, rows.before, corner(blocks, pulled), made)
    slope = jnp.maximum(pulled.at_output, 0) * z
    return Chosen(slope, -signs.astype(z.dtype) * z)


def ascended(
    blocks: Blocks,
    rows: Rows,
    signs: Int[Array, "B N"],
    start: Chosen,
    options: AscentOptions,
    pace: Float[Array, "B 1"] | float = 1.0,
) -> Chosen:
    """Returns a choice whose bounds are at least those of the start.

    All in the float type of the blocks; `pace` scales the steps of every row.
    """
    rows = cast_floats(rows, blocks.offset.dtype)

    def evaluate(chosen: Chosen) -> Any:
        pulled = least(blocks, rows, signs, chosen)
        gradient = derivative(blocks, rows, signs, chosen, pulled)
        found = pulled.bound, pulled.at_output
        return found, jax.tree.map(jnp.nan_to_num, gradient)

    def rates_of(at_output: Array) -> Chosen:
        scale = jnp.mean(jnp.abs(at_output), axis=1, keepdims=True) + 1e-6
        slope = jnp.full_like(start.slope, options.slope_rate) * pace
        split = jnp.full_like(start.split, options.split_rate) * scale * pace
        return Chosen(slope, split)

    def project(chosen: Chosen) -> Chosen:
        return Chosen(jnp.clip(chosen.slope, 0, 1), jnp.maximum(chosen.split, 0))

    found = climb(evaluate, start, rates_of, project, options.decay, options.iterations)
    return found[0]


def undecided(lo: Any, hi: Any) -> Any:
    """Returns which ranges decide no sign, numpy or traced."""
    return ~(lo >= 0) & ~(hi <= 0)


def _lines(
    blocks: Blocks, number: Array, sign: Array, chosen: Chosen
) -> tuple[Array, Array, Array]:
    """Returns lower and upper slopes of a block's neurons, and upper intercepts."""
    lo, hi = (_block(face, number) for face in (blocks.ranges.lo, blocks.ranges.hi))
    lo = jnp.where(sign > 0, jnp.maximum(lo, 0), lo)
    hi = jnp.where(sign < 0, jnp.minimum(hi, 0), hi)
    free = undecided(lo, hi)  # so is NaN, and its lines are NaN
    known = jnp.where(hi <= 0, 0.0, 1.0).astype(lo.dtype)
    chord = hi / jnp.where(free, hi - lo, 1)
    slope = jnp.clip(_block(chosen.slope, number), 0, 1) + 0 * chord
    lower, upper = jnp.where(free, slope, known), jnp.where(free, chord, known)
    return lower, upper, jnp.where(free, -chord * lo, 0)


def _count(before: Array, width: int) -> Array:
    """Returns how many parts of this width hold so many blocks."""
    return (before * WIDTH + width - 1) // width


def _block(rows: Array, number: Array, width: int = WIDTH) -> Array:
    """Returns the part of something over neurons, the last axis, that is a block's."""
    return lax.dynamic_slice_in_dim(rows, number * width, width, axis=-1)


def _rows(maps: Array, number: Array, width: int = WIDTH) -> Array:
    """Returns the maps of a block."""
    return lax.dynamic_slice_in_dim(maps, number * width, width, axis=0)


def _with_block(rows: Array, number: Array, part: Array, width: int = WIDTH) -> Array:
    return lax.dynamic_update_slice_in_dim(rows, part, number * width, axis=1)


def _product(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)
