"""CROWN and alpha-CROWN of one box in steps, whose programs grow with depth alone.

`bound_layers` writes a backward pass per layer into one program, whose text grows with
the square of the depth: deep networks take a minute to compile and a second to run.
Here the host goes from layer to layer. Three programs serve all of them: ranges and
lines from what is known so far, a backward pass that may begin at any layer, and the
same optimised. Rows that begin at one layer are zero at all others; that costs up to
twice the arithmetic, so that it is for few boxes of deep networks.

The programs are computed in float64. Any slopes in [0, 1] and any planes are valid
(weak duality), and what each step may lose to rounding is taken off as it is done
(`charges.charged`): every range and bound holds as it is.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxcert.ball import Ball, Region, enclosing
from jaxcert.bounds.alpha import with_slope
from jaxcert.bounds.ascent import climb
from jaxcert.bounds.backward import (
    Charges,
    Coefficients,
    Planes,
    least_over,
    pull_through,
)
from jaxcert.bounds.charges import charged
from jaxcert.bounds.crown import bounded_again, matters
from jaxcert.bounds.ibp import interval_rows
from jaxcert.bounds.rounding import rounding_unit
from jaxcert.box import Box
from jaxcert.devices import jit_in_haste
from jaxcert.spec import Spec
from jaxcert.trace.activations import Relaxation
from jaxcert.trace.equations import Values
from jaxcert.trace.program import (
    ActivationNode,
    Node,
    ProductNode,
    Program,
    is_relu,
)

_BUCKET = 32
"""Elements that are bounded together, from both sides."""


@dataclasses.dataclass(frozen=True)
class StagedOptions:
    """How the optimised bounds are.

    Attributes:
      iterations: evaluations per row of the spec, >= 1.
      layers: those per element of a layer; 0 leaves CROWN's.
      rate: first step of slopes and planes, which lie in [0, 1].
      decay: of the rate, per iteration.
    """

    iterations: int = 60
    layers: int = 0
    rate: float = 0.25
    decay: float = 0.96


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Enclosure:
    """Ranges of all values over a box or ball, and the lines of all activations.

    With what bounds made of them are charged for rounding.
    """

    region: Region
    boxes: dict[int, Box]
    lines: dict[int, Relaxation]
    charges: Charges


@jit_in_haste
def enclosed(
    program: Program,
    values: Values,
    region: Region,
    known: dict[int, Box],
    unit: Float[Array, ""],
) -> Enclosure:
    """Returns what intervals say, met with ranges that are known already."""
    boxes, charges = charged(program, values, enclosing(region), known, unit)
    lines = {}
    for node in program.nodes:
        if isinstance(node, ActivationNode):
            z = boxes[node.inputs[0]]
            lines[node.output] = node.activation.relax(z.lo, z.hi)
    return Enclosure(region, boxes, lines, charges)


def ranges_at(program: Program, values: Values, point: Array) -> dict[int, Box]:
    """Returns the values at a point, as they are computed in float64."""
    point = jnp.asarray(point)
    known = unknown_ranges(program, joint=False)
    return enclosed(program, values, Box.point(point), known, jnp.zeros(())).boxes


def unknown_ranges(program: Program, *, joint: bool) -> dict[int, Box]:
    """Returns ranges that say nothing, of all values that are to be bounded."""
    shapes = {node.output: node.shape for node in program.nodes}
    known = {}
    for value in sum(bounded_again(program, joint=joint).values(), ()):
        far = jnp.asarray(np.full(shapes[value], np.inf))
        known[value] = Box(-far, far)
    return known


@functools.lru_cache(maxsize=64)
def _segments(
    program: Program, joint: bool
) -> tuple[tuple[int, tuple[Node, ...]], ...]:
    """Returns the nodes in parts, each up to a value that is bounded, and that value.

    The last part ends at the output. For `joint` see `independent_values`.
    """
    asked = bounded_again(program, joint=joint).values()
    return parts_at(program, {v for values in asked for v in values})


def parts_at(
    program: Program, ends: Set[int]
) -> tuple[tuple[int, tuple[Node, ...]], ...]:
    """Returns the values and the output, in order, and the nodes up to each of them."""
    parts, nodes = [], []
    for node in program.nodes:
        nodes.append(node)
        if node.output in ends or node.output == program.output:
            parts.append((node.output, tuple(nodes)))
            nodes = []
    return tuple(parts)


def pulled_by_parts(
    parts: tuple[tuple[int, tuple[Node, ...]], ...],
    part: Int[Array, ""],
    begun: Callable[[bool, tuple[int, ...]], Array],
    through: Callable[
        [tuple[Node, ...], Coefficients, Any], tuple[Coefficients, Any, dict]
    ],
    carry: Any,
) -> tuple[Coefficients, Any, dict]:
    """Returns rows that begin at the end of a part, pulled back through all before it.

    Parts behind it are left out as the program runs: what is known of them may be no
    numbers yet.

    Args:
      parts: see `parts_at`.
      part: number of the part.
      begun: returns the rows, (rows, elements), given whether they begin at the output,
        and the shape of the value there.
      through: returns rows pulled through nodes, what is carried on, and what is found
        there, which is 0 of parts that are left out.
      carry: what is carried on first.
    """
    rows: Coefficients = {}
    found: dict = {}
    for number, (value, nodes) in reversed([*enumerate(parts)]):
        shape = nodes[-1].shape
        start = begun(number == len(parts) - 1, shape).reshape((-1, *shape))
        start = jnp.where(part == number, start, 0)
        rows[value] = rows[value] + start if value in rows else start
        pull = functools.partial(through, nodes)
        made = jax.eval_shape(pull, rows, carry)

        def skipped(_: Coefficients, carry: Any, made: Any = made) -> Any:
            nothing = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), made)
            return nothing[0], carry, nothing[2]

        rows, carry, more = lax.cond(part >= number, pull, skipped, rows, carry)
        found |= more
    return rows, carry, found


def unit_of_rows(program: Program) -> Float[Array, ""]:
    """Returns u for rows over the outputs, whose sum is one more than nodes count."""
    outputs = math.prod(program.output_shape)
    return jnp.asarray(rounding_unit(program) + 2.0**-52 * outputs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Asked:
    """Rows of which lower bounds are asked, at the end of one part of the program.

    Attributes:
      part: number of the part.
      index: elements of the value at its end, flat; both sides of each are bounded. At
        the output, what is given as rows is bounded instead.
      rows: over the outputs, (2 * bucket, outputs).
      offset: of these, (2 * bucket,).
    """

    part: Int[Array, ""]
    index: Int[Array, " bucket"]
    rows: Float[Array, "rows outputs"]
    offset: Float[Array, " rows"]

    def pulled(
        self,
        program: Program,
        values: Values,
        known: Enclosure,
        planes: dict[int, Planes],
    ) -> Float[Array, " rows"]:
        """Returns lower bounds of the rows."""
        parts = _segments(program, isinstance(known.region, Ball))

        def begun(last: bool, shape: tuple[int, ...]) -> Array:
            return self.rows if last else self._units(shape)

        def through(
            nodes: tuple[Node, ...], rows: Coefficients, const: Array
        ) -> tuple[Coefficients, Array, dict]:
            rows, const, _ = pull_through(
                nodes, values, known.lines, known.boxes, rows, const, None, planes,
                known.charges,
            )  # fmt: skip
            return rows, const, {}

        const = known.charges.offset(self.offset)
        rows, const, _ = pulled_by_parts(parts, self.part, begun, through, const)
        if not parts:  # f(x) is x
            rows[program.input] = self.rows.reshape((-1, *program.input_shape))
        if program.input not in rows:
            return const
        const = const - known.charges.at(program.input, rows)
        return least_over(rows[program.input], const, known.region)

    def _units(self, shape: tuple[int, ...]) -> Array:
        units = jax.nn.one_hot(self.index, math.prod(shape), dtype=self.rows.dtype)
        return jnp.concatenate([units, -units])


@functools.partial(jax.jit, static_argnames=("program",))
def _least(
    program: Program, values: Values, known: Enclosure, asked: _Asked
) -> Float[Array, " rows"]:
    """Returns lower bounds by CROWN."""
    return asked.pulled(program, values, known, {})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Chosen:
    """What may be chosen for every row, in [0, 1]: what is optimised.

    Attributes:
      slopes: lower slopes of ReLUs, (rows, *shape), by output id.
      planes: where the planes of products touch, as parts of the ranges.
    """

    slopes: dict[int, Array]
    planes: dict[int, Planes]

    @staticmethod
    def of_crown(program: Program, known: Enclosure, count: int) -> _Chosen:
        """Returns CROWN's choice for so many rows."""
        slopes, planes = {}, {}
        for node in program.nodes:
            if is_relu(node):
                slope = known.lines[node.output].lower_slope
                slopes[node.output] = jnp.broadcast_to(slope, (count, *slope.shape))
            elif isinstance(node, ProductNode):
                x, y = (
                    jnp.full((count, *known.boxes[i].lo.shape), 0.5)
                    for i in node.inputs
                )
                planes[node.output] = Planes((x, y), (x, y))
        return _Chosen(slopes, planes)

    def made(
        self, program: Program, known: Enclosure
    ) -> tuple[Enclosure, dict[int, Planes]]:
        """Returns the lines and planes that are chosen."""
        lines, planes = dict(known.lines), {}
        for node in program.nodes:
            if is_relu(node):
                z, line = known.boxes[node.inputs[0]], lines[node.output]
                slope = self.slopes[node.output]
                lines[node.output] = with_slope(node, z, line, slope)
            elif node.output in self.planes:
                x, y = (known.boxes[i] for i in node.inputs)
                part = self.planes[node.output]
                planes[node.output] = Planes(
                    *(
                        (x.lo + a * x.edges(), y.lo + b * y.edges())
                        for a, b in (part.lower, part.upper)
                    )
                )
        return dataclasses.replace(known, lines=lines), planes


@functools.partial(jax.jit, static_argnames=("program", "options"))
def _ascended(
    program: Program,
    options: StagedOptions,
    values: Values,
    known: Enclosure,
    asked: _Asked,
    iterations: Int[Array, ""],
) -> Float[Array, " rows"]:
    """Returns lower bounds by alpha-CROWN, slopes and planes optimised for each row."""
    start = _Chosen.of_crown(program, known, len(asked.offset))

    def bounds(chosen: _Chosen) -> tuple[Array, Array]:
        least = asked.pulled(program, values, *chosen.made(program, known))
        return jnp.sum(least), least

    def evaluate(chosen: _Chosen) -> Any:
        (_, each), gradient = jax.value_and_grad(bounds, has_aux=True)(chosen)
        return (each, None), jax.tree.map(jnp.nan_to_num, gradient)

    def project(chosen: _Chosen) -> _Chosen:
        return jax.tree.map(lambda v: jnp.clip(v, 0, 1), chosen)

    def rates_of(_: Any) -> _Chosen:
        return jax.tree.map(lambda v: jnp.full_like(v, options.rate), start)

    return climb(evaluate, start, rates_of, project, options.decay, iterations)[1]


class Staged:
    """Bounds of one box or ball, layer by layer; to be used where float64 is enabled.

    Args:
      program: the program.
      values: its prepared parameter values, float64.
      region: float64, not empty.
      deadline: `time.monotonic()` after which no further layer is bounded.
    """

    def __init__(
        self, program: Program, values: Values, region: Region, deadline: float = np.inf
    ) -> None:
        self._program, self._values, self._deadline = program, values, deadline
        around = region if isinstance(region, Ball) else region.normal()
        self._region = jax.tree.map(jnp.asarray, around)
        joint = isinstance(region, Ball)
        self._asked = bounded_again(program, joint=joint)
        self._parts = _segments(program, joint)
        self._known = unknown_ranges(program, joint=joint)
        self._unit = unit_of_rows(program)
        self.enclosure = self._enclosed()

    @property
    def boxes(self) -> dict[int, Box]:
        """The range of every value, as far as it is known."""
        return self.enclosure.boxes

    def _enclosed(self) -> Enclosure:
        return enclosed(
            self._program, self._values, self._region, self._known, self._unit
        )

    def _late(self) -> bool:
        return time.monotonic() >= self._deadline

    def tighten(self, options: StagedOptions | None = None) -> None:
        """Bounds all layers by CROWN, or by slopes and planes optimised for them."""
        numbers = {v: k for k, (v, _) in enumerate(self._parts)}
        for node in self._program.nodes:
            for value in self._asked.get(node.output, ()):
                box = self.boxes[value]
                index = np.flatnonzero(np.asarray(matters(node, box)))
                if len(index) and not self._late():
                    self._known[value] = self._bounded(
                        numbers[value], box, index, options
                    )
                    self.enclosure = self._enclosed()

    def _bounded(
        self, part: int, box: Box, index: np.ndarray, options: StagedOptions | None
    ) -> Box:
        lo, hi = (np.array(face).reshape(-1) for face in (box.lo, box.hi))
        for start in range(0, len(index), _BUCKET):
            if self._late():
                break
            at = index[start : start + _BUCKET]
            filled = np.concatenate([at, np.repeat(at[-1:], _BUCKET - len(at))])
            least = self._answer(part, filled, None, options)
            below, above = least[: len(at)], -least[_BUCKET:][: len(at)]
            # NaN takes nothing from what was known before.
            below = np.where(np.isnan(below), lo[at], np.maximum(below, lo[at]))
            above = np.where(np.isnan(above), hi[at], np.minimum(above, hi[at]))
            lo[at], hi[at] = np.minimum(below, above), np.maximum(below, above)
        return Box(*(jnp.asarray(face.reshape(box.lo.shape)) for face in (lo, hi)))

    def interval_rows(self, spec: Spec) -> np.ndarray:
        """Returns lower bounds of the rows of a spec by ranges alone, numpy float64."""
        spec = jax.tree.map(jnp.asarray, spec)
        known = self.enclosure
        return np.asarray(_interval_rows(self._program, self._values, known, spec))

    def rows(self, spec: Spec, options: StagedOptions | None = None) -> np.ndarray:
        """Returns lower bounds of the rows of a spec, numpy float64."""
        coefficients, offset = (np.asarray(v) for v in (spec.coefficients, spec.offset))
        found, last = [], len(self._parts) - 1
        for start in range(0, len(offset), 2 * _BUCKET):
            part = coefficients[start : start + 2 * _BUCKET]
            room = 2 * _BUCKET - len(part)
            rows = np.concatenate([part, np.zeros((room, part.shape[1]))])
            more = np.concatenate([offset[start:][: len(part)], np.zeros(room)])
            least = self._answer(last, np.zeros(_BUCKET, int), (rows, more), options)
            found.append(least[: len(part)])
        return np.concatenate(found)

    def _answer(
        self,
        part: int,
        index: np.ndarray,
        rows: tuple[np.ndarray, np.ndarray] | None,
        options: StagedOptions | None,
    ) -> np.ndarray:
        if rows is None:
            outputs = math.prod(self._program.output_shape)
            rows = np.zeros((2 * _BUCKET, outputs)), np.zeros(2 * _BUCKET)
        asked = _Asked(
            jnp.asarray(part), jnp.asarray(index), *(jnp.asarray(v) for v in rows)
        )
        if options is None:
            least = _least(self._program, self._values, self.enclosure, asked)
        else:
            last = part == len(self._parts) - 1
            times = options.iterations if last else options.layers
            least = _ascended(
                self._program, options, self._values, self.enclosure, asked,
                jnp.asarray(times),
            )  # fmt: skip
        return np.asarray(least)


@jit_in_haste
def _interval_rows(
    program: Program, values: Values, known: Enclosure, spec: Spec
) -> Float[Array, " rows"]:
    return interval_rows(program, values, known.boxes, spec, known.charges)
