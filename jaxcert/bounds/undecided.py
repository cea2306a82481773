"""What a box leaves of a network of ReLUs, found layer by layer, and bounds of that.

Intervals leave some neurons of a layer undecided. The inputs of each of them are pulled
back through the network, exactly: through ReLUs that the box decides as identities or
zeros, and not through the undecided ones, whose outputs stay where they are. Of these
maps, which lead from the inputs and from undecided neurons before, CROWN's bounds cost
as much as there are such neurons (`blocks.py`). What they leave undecided is the layer
of a smaller network; optimised slopes narrow its ranges further.

Maps are computed in float64, and their rounding is the loss of `blocks.py`: a row c
over the output of a node is replaced by one over its inputs, and whatever was computed
is right but for what `charges.py` says. In blocks a step from z to the values before it
loses u (|A| M + |b| + R), one from relu(z) to z loses 3 u R, with M and R the greatest
magnitudes, and u = 2^-52 n for the n roundings that a term of a row meets at most:
those of the products of all neurons and inputs, one per block, and a few of each line.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxcert.bounds import blocks
from jaxcert.bounds.alpha import layout_of
from jaxcert.bounds.ascent import AscentOptions
from jaxcert.bounds.backward import Coefficients, accumulate, through_affine
from jaxcert.bounds.blocks import WIDTH, Blocks, Chosen, Rows
from jaxcert.bounds.cuts import cast_floats
from jaxcert.bounds.staged import (
    Enclosure,
    enclosed,
    parts_at,
    pulled_by_parts,
    unit_of_rows,
    unknown_ranges,
)
from jaxcert.box import Box
from jaxcert.spec import Spec
from jaxcert.trace.equations import Values
from jaxcert.trace.program import AffineNode, Node, Program, is_relu

_ROWS = 64
"""Rows that are bounded together."""
_CAPACITY, _MOST = 2048, 8192
"""Neurons that blocks are made for at first, and at most: a shape of programs."""
SLOPES = AscentOptions(slope_rate=0.5, decay=0.8)
"""How the slopes of rows are optimised."""
# What is flushed below 2^-1022, with more than all operations there may be.
_FLUSHED = 2.0**-960


class Maps(NamedTuple):
    """Rows over inputs and undecided neurons, right up to their loss, numpy float64.

    of_input: (n, d); of_output: (n, N); offset, loss: (n,).
    """

    of_input: np.ndarray
    of_output: np.ndarray
    offset: np.ndarray
    loss: np.ndarray

    def at(self, index: Any) -> Maps:
        """Returns some of them."""
        return Maps(*(v[index] for v in self))

    def times(self, sides: Float[np.ndarray, " n"]) -> Maps:
        """Returns each times 1 or -1."""
        each = sides[:, None]
        return Maps(
            self.of_input * each, self.of_output * each, self.offset * sides, self.loss
        )

    def grown(self, count: int, width: int) -> Maps:
        """Returns them with zeros behind: so many rows, of so many neurons."""
        rows = count - len(self.offset)
        each = (0, rows)
        return Maps(
            np.pad(self.of_input, (each, (0, 0))),
            np.pad(self.of_output, (each, (0, width - self.of_output.shape[1]))),
            np.pad(self.offset, each),
            np.pad(self.loss, each),
        )

    def rows(self, before: int) -> Rows:
        """Returns what lower bounds are asked of, which reach so many blocks."""
        parts = self.of_input, self.of_output, self.offset - self.loss
        return Rows(*parts, np.int32(before))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=64)
def _parts(program: Program) -> tuple[tuple[int, tuple[Node, ...]], ...]:
    """Returns the nodes in parts, each up to an input of ReLUs or the output."""
    return parts_at(program, _relu_inputs(program))


def _relu_inputs(program: Program) -> set[int]:
    return {node.inputs[0] for node in program.nodes if is_relu(node)}


def is_reducible(program: Program) -> bool:
    """Returns whether ReLUs are fed by nodes whose values are no output."""
    ends = _relu_inputs(program)
    return bool(ends) and not ends & {program.input, program.output}


@functools.partial(jax.jit, static_argnames=("program",))
def _mapped(
    program: Program,
    prepared: Values,
    known: Enclosure,
    part: Int[Array, ""],
    index: Int[Array, " B"],
    given: Float[Array, "B outputs"],
) -> tuple[Array, Array, Array, Array]:
    """Returns rows pulled back to inputs and undecided neurons, offsets and losses.

    Coefficients of inputs, (B, d), and of the outputs of all ReLUs, (B, neurons), 0 for
    those that are decided.

    Args:
      program, prepared, known: the network over its box.
      part: number of the part at whose end the rows begin.
      index: elements of the value there, flat.
      given: rows over the outputs, where that is the last part.
    """
    layout, count = layout_of(program), len(index)

    def begun(last: bool, shape: tuple[int, ...]) -> Array:
        if last:
            return given
        return jax.nn.one_hot(index, math.prod(shape), dtype=given.dtype)

    def through(
        nodes: Any, rows: Coefficients, carry: tuple[Array, Array]
    ) -> tuple[Coefficients, tuple[Array, Array], dict[int, Array]]:
        rows, undecided, (const, loss) = dict(rows), {}, carry
        for node in reversed(nodes):
            if node.output not in rows:
                continue
            loss = loss + known.charges.at(node.output, rows)
            if isinstance(node, AffineNode):
                const = through_affine(node, prepared, rows, const)
                continue
            coefficients, z = rows.pop(node.output), known.boxes[node.inputs[0]]
            free = node.activation.undecided(z.lo, z.hi)
            undecided[node.output] = jnp.where(free, coefficients, 0)
            passes = ~free & (z.lo >= 0)
            accumulate(rows, node.inputs[0], jnp.where(passes, coefficients, 0))
        return rows, (const, loss), undecided

    nothing = jnp.zeros(count), jnp.zeros(count)
    rows, (const, loss), undecided = pulled_by_parts(
        _parts(program), part, begun, through, nothing
    )
    found = {n.output: jnp.zeros((count, *n.shape)) for n in layout.nodes} | undecided
    outputs = [found[node.output].reshape(count, -1) for node in layout.nodes]
    at_input = rows[program.input].reshape(count, -1)
    return at_input, jnp.concatenate(outputs, axis=1), const, loss


@functools.partial(jax.jit, static_argnames=("options",))
def _bounded(
    options: AscentOptions,
    left: tuple[Blocks, Blocks],
    rows: Rows,
    iterations: Int[Array, ""],
) -> tuple[Float[Array, " B"], Chosen]:
    """Returns lower bounds of rows, in float64, and the choice that they are made of.

    Args:
      options: how slopes are optimised.
      left: the network, in float64 and in float32.
      rows: float64.
      iterations: evaluations of the bound; 0 for CROWN.
    """
    double, single = left
    signs = jnp.zeros((len(rows.offset), double.ranges.lo.size), jnp.int8)
    options = dataclasses.replace(options, iterations=iterations)
    start = Chosen.of_crown(double, len(rows.offset))
    chosen = blocks.ascended(single, rows, signs, start, options)
    return blocks.least(double, rows, signs, chosen).bound, chosen


@jax.jit
def _in_float32(maps: tuple[Array, Array]) -> tuple[Array, Array]:
    return cast_floats(maps, jnp.float32)


class Undecided:
    """The undecided neurons of a network over a box; used where float64 is enabled.

    Attributes:
      size: how many neurons it has.
      neurons: of the ReLUs of the program, the number of each in blocks; -1 for none.
      layers: of every ReLU layer, its first place in blocks, and that behind the last.
    """

    def __init__(
        self, program: Program, prepared: Values, box: Box, deadline: float = np.inf
    ) -> None:
        """Knows nothing yet.

        Args:
          program: of affine maps and ReLUs, `is_reducible`.
          prepared: its parameter values, float64.
          box: float64, not empty.
          deadline: `time.monotonic()` after which nothing more is bounded.
        """
        self._program, self._prepared, self._deadline = program, prepared, deadline
        self._layout, box = layout_of(program), box.normal()
        self._box: Any = jax.tree.map(jnp.asarray, box)
        lo, hi = (np.asarray(v, np.float64).reshape(-1) for v in (box.lo, box.hi))
        self._flat, self._width = Box(lo, hi), lo.size  # type: ignore[arg-type]
        self.size = 0
        nothing = np.zeros(0)
        self._maps = Maps(
            np.zeros((0, self._width)), np.zeros((0, 0)), nothing, nothing
        )
        self._lo, self._hi = np.zeros(0), np.zeros(0)
        self._center = np.zeros(0)  # relu(z) at the centre, about
        self.neurons = np.zeros(0, int)  # number of each in the layout
        self.layers: list[tuple[int, int]] = []  # first of its neurons, and behind
        self._filled = 0
        self._on_device: list[tuple[Array, Array]] = []  # in float64 and float32
        self._grow(_CAPACITY)
        self._unit = unit_of_rows(program)

    def reduce(self) -> bool:
        """Finds them; returns False where time or room was over before that."""
        known: dict[int, Any] = unknown_ranges(self._program, joint=False)
        for node in self._layout.nodes:  # also of ranges that are exact
            far = np.full(node.shape, np.inf)
            known[node.inputs[0]] = Box(-far, far)  # type: ignore[arg-type]
        around = self._enclosed(known)
        numbers = {value: k for k, (value, _) in enumerate(_parts(self._program))}
        start = 0
        for node in self._layout.nodes:
            (value,) = node.inputs
            face = around.boxes[value]
            lo, hi = (np.array(v).reshape(-1) for v in (face.lo, face.hi))
            first, kept = self._filled, []
            for at in _in_parts(np.flatnonzero(blocks.undecided(lo, hi))):
                if self._late():
                    return False
                maps = self._mapped(around, numbers[value], at)
                near = self._sides(maps)
                least = self._least(maps.times(near), first)
                _narrow(lo, hi, at, near, least)
                open_ = ~(least >= 0)
                kept.append((at[open_], maps.at(open_), near[open_]))
            # What one end decides needs no other.
            for at, maps, near in _regrouped(kept):
                if self._late():
                    return False
                _narrow(lo, hi, at, -near, self._least(maps.times(-near), first))
                free = blocks.undecided(lo[at], hi[at])
                at = at[free]
                if not self._add(maps.at(free), lo[at], hi[at], start + at):
                    return False
            self.layers.append((first, self._filled))
            # No block has neurons of two layers.
            self._filled = -(-self._filled // WIDTH) * WIDTH
            start += node.size
            faces: Any = (lo.reshape(node.shape), hi.reshape(node.shape))
            known[value] = Box(*faces)
            around = self._enclosed(known)
        self._around = around
        return True

    def rows_of(self, spec: Spec) -> Maps:
        """Returns the rows of a spec over the network that was found."""
        coefficients = np.asarray(spec.coefficients, np.float64)
        last, offset = len(_parts(self._program)) - 1, np.asarray(spec.offset)
        found = [
            self._mapped(self._around, last, np.zeros(_ROWS, int), part)
            for part in _in_parts(coefficients)
        ]
        maps = Maps(*(np.concatenate(v) for v in zip(*found, strict=True)))
        loss = maps.loss + self._roundings * (np.abs(maps.offset) + np.abs(offset))
        return maps._replace(offset=maps.offset + offset, loss=loss)

    def least(
        self, maps: Maps, iterations: int
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n N"]]:
        """Returns lower bounds of rows of the whole network, and their lower slopes.

        Those by CROWN where no evaluation is asked for.
        """
        found = [
            self._chosen(maps.at(part), self._filled, iterations)
            for part in _in_parts(np.arange(len(maps.offset)))
        ]
        least, slopes = zip(*found, strict=True)
        return np.concatenate(least), np.concatenate(slopes)

    def tighten(self, iterations: int) -> None:
        """Bounds all neurons again, with slopes optimised for either side of each."""
        for first, behind in self.layers:
            if first == 0:
                continue  # these ranges are exact
            free = np.arange(first, behind)
            free = free[blocks.undecided(self._lo[free], self._hi[free])]
            for at in _in_parts(free):
                if self._late():
                    return
                maps = self._maps.at(at)
                near = self._sides(maps)
                for side in (near, -near):
                    least = self._least(maps.times(side), first, iterations)
                    _narrow(self._lo, self._hi, at, side, least)

    @property
    def blocks(self) -> tuple[Blocks, Blocks]:
        """What is known, in float64 and in float32."""
        if not self._on_device:
            double = jax.device_put((self._maps.of_input, self._maps.of_output))
            self._on_device = [double, _in_float32(double)]
        unit, reach = self._roundings, self._reach()
        flushed = _FLUSHED * (1 + reach.sum())
        magnitude = np.maximum(np.abs(self._lo), np.abs(self._hi))
        ranges: Any = Box(self._lo, self._hi)  # type: ignore[arg-type]
        known = (
            self._maps.offset, ranges, self._maps.loss + unit * magnitude,
            3 * unit * magnitude + flushed, unit * reach[: self._width], flushed,
        )  # fmt: skip
        # Copies, in numpy: what is known here changes.
        double, single = (
            jax.tree.map(lambda v, dtype=dtype: np.array(v, dtype), (self._flat, known))
            for dtype in (np.float64, np.float32)
        )
        of_double, of_single = self._on_device
        return (
            Blocks(double[0], *of_double, *double[1]),
            Blocks(single[0], *of_single, *single[1]),
        )

    @property
    def before(self) -> int:
        """How many blocks there are."""
        return self._filled // WIDTH

    @property
    def capacity(self) -> int:
        """How many neurons there is room for."""
        return self._lo.size

    @property
    def _roundings(self) -> float:
        """u of blocks and their rows."""
        count = self.capacity // WIDTH
        return 2.0**-52 * (self._width + self.capacity + 8 * count + 4 * WIDTH)

    def _reach(self) -> Float[np.ndarray, " reach"]:
        """Returns the greatest magnitudes of inputs and outputs of neurons."""
        ends = np.abs(self._flat.lo), np.abs(self._flat.hi)
        return np.concatenate([np.maximum(*ends), np.maximum(self._hi, 0)])

    def _late(self) -> bool:
        return time.monotonic() >= self._deadline

    def _enclosed(self, known: dict[int, Box]) -> Enclosure:
        return enclosed(self._program, self._prepared, self._box, known, self._unit)

    def _grow(self, capacity: int) -> None:
        more = capacity - self.capacity
        self._maps = self._maps.grown(capacity, capacity)
        self._maps.offset[self._filled :] = -1
        self._lo, self._hi, self.neurons = (
            np.pad(v, (0, more), constant_values=-1)
            for v in (self._lo, self._hi, self.neurons)
        )
        self._center = np.pad(self._center, (0, more))
        self._on_device = []

    def _add(
        self, maps: Maps, lo: np.ndarray, hi: np.ndarray, neurons: np.ndarray
    ) -> bool:
        """Adds neurons of the layer at hand; returns False if there is no room."""
        behind = self._filled + len(lo)
        while behind > self.capacity:
            if 2 * self.capacity > _MOST:
                return False
            self._grow(2 * self.capacity)
        own = slice(self._filled, behind)
        for mine, new in zip(
            self._maps, maps.grown(len(lo), self.capacity), strict=True
        ):
            mine[own] = new
        self._lo[own], self._hi[own], self.neurons[own] = lo, hi, neurons
        self._center[own] = np.maximum(self._at_center(maps), 0)
        self._filled, self.size, self._on_device = behind, self.size + len(lo), []
        return True

    def _mapped(
        self,
        around: Enclosure,
        part: int,
        index: Int[np.ndarray, " n"],
        given: Float[np.ndarray, "n outputs"] | None = None,
    ) -> Maps:
        """Returns maps of elements at the end of a part, or of rows of outputs."""
        outputs = math.prod(self._program.output_shape)
        count = len(index if given is None else given)
        rows = np.zeros((_ROWS, outputs))
        rows[:count] = 0 if given is None else given
        filled = np.zeros(_ROWS, int)
        filled[:count] = index[:count]
        found = _mapped(
            self._program, self._prepared, around, np.int32(part), filled, rows
        )
        at_input, at_output, offset, loss = (np.asarray(v)[:count] for v in found)
        used = self.neurons >= 0
        of_output = np.zeros((count, self.capacity))
        of_output[:, used] = at_output[:, self.neurons[used]]
        # What ranges leave undecided is in blocks: else nothing is known of a row.
        missed = np.delete(at_output, self.neurons[used], axis=1).any(axis=1)
        loss = np.where(missed, np.inf, loss)
        reach = self._reach()
        size = np.abs(at_input) @ reach[: self._width] + np.abs(offset)
        size = size + np.abs(of_output) @ reach[self._width :]
        loss = loss + self._roundings * size + _FLUSHED * (1 + reach.sum())
        return Maps(at_input, of_output, offset, loss)

    def _sides(self, maps: Maps) -> Float[np.ndarray, " n"]:
        """Returns 1 for rows that are positive at the centre, else -1."""
        return np.where(self._at_center(maps) > 0, 1.0, -1.0)

    def _at_center(self, maps: Maps) -> Float[np.ndarray, " n"]:
        center = (self._flat.lo + self._flat.hi) / 2
        by_output = maps.of_output @ self._center[: maps.of_output.shape[1]]
        return maps.of_input @ center + by_output + maps.offset

    def _least(
        self, maps: Maps, behind: int, iterations: int = 0
    ) -> Float[np.ndarray, " n"]:
        """Returns lower bounds of rows that reach the neurons up to behind."""
        return self._chosen(maps, behind, iterations)[0]

    def _chosen(
        self, maps: Maps, behind: int, iterations: int
    ) -> tuple[np.ndarray, np.ndarray]:
        count = len(maps.offset)
        asked = maps.grown(_ROWS, self.capacity).rows(behind // WIDTH)
        bound, chosen = _bounded(SLOPES, self.blocks, asked, np.asarray(iterations))
        return np.asarray(bound)[:count], np.asarray(chosen.slope)[:count]


def _narrow(
    lo: np.ndarray, hi: np.ndarray, at: np.ndarray, side: np.ndarray, least: np.ndarray
) -> None:
    """Meets ranges at some places with lower bounds of them times a side, in place.

    NaN takes nothing from what was known before.
    """
    up, down = at[side > 0], at[side < 0]
    lo[up] = np.fmax(lo[up], least[side > 0])
    hi[down] = np.fmin(hi[down], -least[side < 0])
    # Two roundings of one number may cross.
    lo[at], hi[at] = np.minimum(lo[at], hi[at]), np.maximum(lo[at], hi[at])


def _regrouped(kept: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Gives (places, maps, sides) of many calls in parts that are full."""
    if not kept:
        return
    places, maps, sides = zip(*kept, strict=True)
    at, side = np.concatenate(places), np.concatenate(sides)
    joined = Maps(*map(np.concatenate, zip(*maps, strict=True)))
    for part in _in_parts(np.arange(len(at))):
        yield at[part], joined.at(part), side[part]


def _in_parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]
