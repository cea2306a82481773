"""Rounding: what a bound computed in float64 must exceed before it counts as a proof.

Bounds in steps are charged for rounding as they go (`charges.py`) and hold as they are.
Any other float64 bound is accepted only if it exceeds a slack that covers the rounding
of its evaluation. A sum of n products is computed with an error of at most about
n 2^-53 times the sum of their magnitudes, in any order of summation (Higham, Accuracy
and Stability of Numerical Algorithms, chapter 3). A bound is a sum over paths through
the network, and every path meets at most as many roundings as all layers together have
terms; twice that, times 2^-53, is the unit u charged here at every layer. Errors
are carried to the output:

    affine      A z + b     |A| e + u (|A| M + |b|)
    moved elements          e
    activation  g(z)        L e + u (|g| + L M),  L = sup |g'| on the widened range
    product     x y         M_x e_y + M_y e_x + e_x e_y + u M_x M_y, and u for shares
    decision                how far its range moves when its inputs are widened by e
    computed weights        what their own errors do (`weight_errors`), added
    low precision           a bound has it as a range; a value at a point, as an error

Numbers below 2^-1022 may be lost altogether, in weights, products and coefficients:
every operation adds t (1 + M) to its error, with t the same count times 2^-1022, and
the backward pass loses at most t M at every value, which is added at the end.

t is 1 for values at a point. In bounds lines and planes hold on computed ranges, which
the values may leave by e. There a line of slope s and g part by |g' - s| e more, with s
and g' between -L and L: t is 3, and 2 where g increases, for both are >= 0 then. A ReLU
that keeps its sign on the widened range has t = 1: its line is itself. A plane moves by
M_y e_x and M_x e_y, and parts from the product by twice that: t is 3.

M is the magnitude that a value could reach if nothing cancelled. The backward
pass multiplies by slopes of at most L and by the same |A|: the same sum covers it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcert.bounds.signs import Signs, known_signs
from jaxcert.box import Box
from jaxcert.devices import jit_in_haste
from jaxcert.trace.equations import Values
from jaxcert.trace.program import (
    ActivationNode,
    AffineNode,
    Node,
    NoiseNode,
    OpaqueNode,
    ProductNode,
    Program,
    is_relu,
)
from jaxcert.trace.weight_errors import weight_error

_HALF_ULP = 2.0**-53
# Below the least normal number XLA flushes to zero; exact, but for that, in float64.
_LEAST = 2.0**-1022
# Roundings charged to one evaluation of an elementwise operation, and of exp and such.
_PLAIN, _TRANSCENDENTAL = 8, 128


def rounding_unit(program: Program) -> float:
    """Returns u: twice 2^-53 times the roundings that any path through f meets."""
    sizes = {program.input: program.input_size}
    total = program.input_size
    for node in program.nodes:
        sizes[node.output] = node.size
        total += roundings(node, sizes)
    return 2 * _HALF_ULP * total


def roundings(node: Node, sizes: dict[int, int]) -> int:
    """Returns how many roundings any path through a node meets in it, at most.

    Args:
      node: the node.
      sizes: number of elements of its inputs.
    """
    if isinstance(node, AffineNode):
        reach = max(node.size, *(sizes[i] for i in node.inputs))
        return _PLAIN if node.separable else reach + _PLAIN
    if isinstance(node, ProductNode) and node.sums:
        # Both operands are as large as the terms of one sum, or larger.
        return max(sizes[i] for i in node.inputs) + _PLAIN
    return _PLAIN if is_relu(node) else _TRANSCENDENTAL


def lost_by(unit: Any) -> Any:
    """Returns t: what flushing loses along all roundings that u counts."""
    return unit / _HALF_ULP * _LEAST


# Nothing is computed: every element of the result is one of the input's.
_MOVES = frozenset(
    "reshape transpose squeeze expand_dims rev slice split broadcast broadcast_in_dim "
    "tile".split()
)


def moves(node: Node) -> TypeGuard[AffineNode]:
    """Whether a node only puts the elements of its one input in other places."""
    plain = len(node.inputs) == 1 and not node.weights and node.name in _MOVES
    return plain and isinstance(node, AffineNode) and not node.has_offset


class _Errors:
    """Magnitude and error of every value, in the order of the program.

    The two lie in one array, magnitudes first: what an affine map does to both is one
    operation then, and there is half as much to compile.
    """

    def __init__(
        self,
        unit: float,
        values: Values,
        boxes: dict[int, Box],
        noise: bool,
        lines: bool,
    ) -> None:
        self._unit, self._values, self._boxes = unit, values, boxes
        self._noise, self._lines = noise, lines
        self._both: dict[int, Array] = {}
        # The greatest magnitude of a value, or more, and that of all values so far.
        self._greatest: dict[int, Array] = {}
        self._top: Array = jnp.zeros((), boxes[min(boxes)].lo.dtype)
        # Truth values have no error, but a range of their own once inputs are widened.
        self._truth: dict[int, Box] = {}
        # Values that no rounding error makes negative.
        self.signs: Signs = {}

    def size(self, value: int) -> Array:
        """Returns the magnitudes of a value."""
        return self._both[value][0]

    def error(self, value: int) -> Array:
        """Returns the errors of a value."""
        return self._both[value][1]

    def start(self, value: int) -> None:
        """Sets the input: a box is exact."""
        size = self._boxes[value].magnitude
        self._keep(value, size, jnp.zeros_like(size))

    def add(self, node: Node) -> None:
        """Adds the output of one node."""
        box, out = self._boxes[node.output], node.output
        if box.lo.dtype == bool:
            self._decision(node, box)
        elif moves(node):
            self._both[out] = jax.vmap(lambda z: node.apply(self._values, z))(
                self._both[node.inputs[0]]
            )
            self._greatest[out] = self._greatest[node.inputs[0]]
        else:
            size, error = self._added(node, box)
            self._keep(out, size, error)

    def total_size(self) -> Array:
        """Returns the sum over all values of their greatest magnitude."""
        return jnp.sum(jnp.stack([*self._greatest.values()]))

    def cost(self, value: int) -> Array:
        """Returns the error that a unit of multiplier on each element brings."""
        lost = lost_by(self._unit) * (1 + self.total_size())
        return self.error(value) + self._unit * self.size(value) + lost

    def _keep(self, value: int, size: Array, error: Array) -> None:
        self._greatest[value] = jnp.max(size, initial=0)  # NaN stays NaN
        self._top = jnp.maximum(self._top, self._greatest[value])
        lost = lost_by(self._unit) * (1 + self._top) if self._both else 0.0
        self._both[value] = jnp.stack([size, error + lost])

    def _decision(self, node: Node, box: Box) -> None:
        inputs = [self._wide(i) for i in node.inputs]
        assert isinstance(node, AffineNode | OpaqueNode)
        self._truth[node.output] = node.interval(self._values, *inputs)
        if any(~i in self._values for i in node.weights):
            nothing = jnp.zeros_like(box.lo)
            self._truth[node.output] = Box(nothing, ~nothing)

    def _added(self, node: Node, box: Box) -> tuple[Array, Array]:
        """Returns magnitude and error of a node's output, but for what is lost."""
        match node:
            case ActivationNode():
                return self._activation(node)
            case ProductNode():
                mx, my = (self.size(i) for i in node.inputs)
                ex, ey = (self.error(i) for i in node.inputs)
                size = node.apply(mx, my)
                carried = node.apply(mx, ey) + node.apply(ex, my + ey)
                times = 3 if self._lines else 1
                common = 0 if node.shares is None else 1  # of coefficients
                return size, times * carried + self._unit * (size + common)
            case OpaqueNode():
                inputs = [self._wide(i) for i in node.inputs]
                wide = node.interval(self._values, *inputs)
                size = wide.magnitude
                moved = Box(wide.lo - box.lo, wide.hi - box.hi).magnitude
                error = moved + self._unit * size
                if isinstance(node, NoiseNode) and self._noise:
                    error += 2 * size  # from one end of the range to the other
                if any(~i in self._values for i in node.weights):
                    error = jnp.full_like(error, jnp.inf)
                return size, error
            case AffineNode():
                return self._affine(node)
        raise TypeError(f"unknown node {type(node).__name__}")

    def _affine(self, node: AffineNode) -> tuple[Array, Array]:
        inputs = [self._both[i] for i in node.inputs]
        return through_affine(node, self._values, inputs, self._unit)

    def _activation(self, node: ActivationNode) -> tuple[Array, Array]:
        (z,), out = node.inputs, node.output
        wide = self._wide(z)
        steepness = node.activation.steepness(wide.lo, wide.hi)
        carried = node.activation.carried(wide.lo, wide.hi, self.error(z))
        if node.activation.piecewise_linear:
            size = self.size(z)
        else:
            size = self._boxes[out].magnitude + carried
        local = size + steepness * self.size(z)
        beyond = self._beyond(node, wide, carried) if self._lines else 0.0
        return size, carried + beyond + self._unit * local

    def _beyond(self, node: ActivationNode, wide: Box, carried: Array) -> Array:
        """Returns by how much its lines and a function part beyond a computed range."""
        if is_relu(node):
            keeps = ~node.activation.undecided(wide.lo, wide.hi)  # NaN does not
            return jnp.where(keeps, 0, carried)
        return carried if node.activation.increasing else 2 * carried

    def _wide(self, value: int) -> Box:
        if value in self._truth:
            return self._truth[value]
        box, error = self._boxes[value], self.error(value)
        lo = box.lo - error
        if value in self.signs:  # NaN stays NaN
            lo = jnp.where(self.signs[value] & (lo < 0), 0, lo)
        return Box(lo, box.hi + error)


def through_affine(
    node: AffineNode, values: Values, inputs: Sequence[Array], unit: float
) -> tuple[Array, Array]:
    """Returns magnitude and error of an affine node's output, |A| M + |b| and
    |A| e + u (|A| M + |b|) with what errors of its weights do.

    Args:
      node: the node.
      values: prepared parameter values.
      inputs: M and e of every input, one array (2, *n) each.
      unit: u.
    """
    if node.spread is not None:
        size, carried = jax.vmap(functools.partial(node.spread, values))(*inputs)
    else:
        both = jax.vmap(
            lambda *sizes: node.interval(values, *(Box(-z, z) for z in sizes))
        )(*inputs)
        size = jnp.maximum(jnp.abs(both.lo[0]), jnp.abs(both.hi[0]))
        # Half the width leaves b out; what cancels there is far below the rest.
        carried = (both.hi[1] - both.lo[1]) / 2
    error = carried + unit * size
    if any(~i in values for i in node.weights):
        sizes = [both[0] for both in inputs]
        error += weight_error(node, values, sizes, node.weights)
    return size, error


def _errors(
    unit: float,
    program: Program,
    values: Values,
    boxes: dict[int, Box],
    noise: bool = False,
    lines: bool = True,
) -> _Errors:
    errors = _Errors(unit, values, boxes, noise, lines)
    errors.signs = known_signs(program, values, boxes[program.input])
    errors.start(program.input)
    for node in program.nodes:
        errors.add(node)
    return errors


def multiplier_cost(
    program: Program, values: Values, boxes: dict[int, Box]
) -> dict[int, Array]:
    """Returns what a unit of multiplier on a ReLU input z adds to the slack.

    The term beta z of a split is one more sum over paths, of magnitude beta M_z and
    with an error of at most beta (e_z + u M_z). By output id of the ReLU nodes.
    """
    unit = rounding_unit(program)
    errors = _errors(unit, program, values, boxes)
    return {n.output: errors.cost(n.inputs[0]) for n in _relus(program)}


def cut_cost(
    program: Program, values: Values, boxes: dict[int, Box], terms: int
) -> tuple[dict[int, Array], float]:
    """Returns what units of a cut's coefficients and limit add to the slack.

    A cut adds mu p z + mu q relu(z) - mu c: sums over paths like those of a split, but
    through the ReLU, whose error is the greater one. First per neuron and unit of p or
    q, by output id of the ReLU nodes; then per unit of c.

    Args:
      program, values, boxes: as for `multiplier_cost`.
      terms: numbers that cuts add to any path, at most; they are rounded too.
    """
    unit = rounding_unit(program) + 2 * _HALF_ULP * terms
    errors = _errors(unit, program, values, boxes)
    return {n.output: errors.cost(n.output) for n in _relus(program)}, unit


def _relus(program: Program) -> list[ActivationNode]:
    return list(filter(is_relu, program.nodes))


def float64_slack(
    program: Program,
    values: Values,
    boxes: dict[int, Box],
    rows: Array,
    *,
    noise: bool = True,
    lines: bool = True,
) -> Float[Array, ""]:
    """Returns what a float64 bound of spec rows `C y + d` must exceed, > 0.

    A value at a point that violates a row by as much refutes it.

    NaN or infinite where an error cannot be bounded: then nothing exceeds it.

    Args:
      program: the program.
      values: its prepared parameter values, in float64.
      boxes: range of every value over the box, in float64.
      rows: the coefficients C of the spec, shape (rows, outputs). The offset d is taken
        to be of the magnitude of C y; a greater one rounds relatively to itself.
      noise: whether rounding to narrow types counts, from one way to round to any
        other. A bound ranges over all of them and may do without; a value at a point
        was rounded in one way.
      lines: whether it is for bounds by lines, and not for values at points alone.
    """
    unit = rounding_unit(program) + 2 * _HALF_ULP * sum(rows.shape)
    errors = _errors(unit, program, values, boxes, noise, lines)
    coefficients = jnp.abs(rows)
    carried = coefficients @ errors.error(program.output)
    local = coefficients @ errors.size(program.output)
    lost = lost_by(unit) * (1 + jnp.max(coefficients)) * (1 + errors.total_size())
    return jnp.max(carried + unit * (1 + local)) + lost


slack_of = jit_in_haste(float64_slack, static_argnames=("program", "noise", "lines"))
"""`float64_slack` of one box, by a program that all who ask share."""
