"""Interval bound propagation: a box in, a box that encloses every output out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcert.ball import Region, enclosing, of_jax
from jaxcert.bounds.backward import (
    Charges,
    concretize_lower,
    pull_affine,
    without_infinity,
)
from jaxcert.box import Box
from jaxcert.devices import as_one_program
from jaxcert.errors import InputError
from jaxcert.spec import Spec
from jaxcert.trace.equations import Values
from jaxcert.trace.pinned import own_settings
from jaxcert.trace.program import (
    ActivationNode,
    AffineNode,
    Node,
    OpaqueNode,
    ProductNode,
    Program,
)
from jaxcert.trace.tracing import program_as_given


def node_interval(
    node: Node, values: Values, boxes: dict[int, Box], *, use_hint: bool = True
) -> Box:
    """Returns the range of one node's output from the ranges of its inputs."""
    operands = [boxes[i] for i in node.inputs]
    match node:
        case ActivationNode():
            (z,) = operands
            box = Box(*node.activation.interval(z.lo, z.hi))
        case ProductNode():
            box = _product_interval(node, *operands)
        case AffineNode() | OpaqueNode():
            box = node.interval(values, *operands)
        case _:
            raise TypeError(f"unknown node {type(node).__name__}")
    if use_hint and node.interval_hint is not None:
        hint = node.interval_hint(values, *(boxes[i] for i in node.hint_inputs))
        box = box.intersect(hint)
    return box


def _product_interval(node: ProductNode, x: Box, y: Box) -> Box:
    """Every product lies between its least and its greatest corner."""
    (xlo, ylo), (xhi, yhi) = node.expand(x.lo, y.lo), node.expand(x.hi, y.hi)
    corners = [p * q for p in (xlo, xhi) for q in (ylo, yhi)]
    least, most = (functools.reduce(f, corners) for f in (jnp.minimum, jnp.maximum))
    return Box(node.collect(least), node.collect(most))


def propagate(
    program: Program, values: Values, box: Box, *, use_hint: bool = True
) -> dict[int, Box]:
    """Returns the interval enclosure of every value of the program.

    Without hints it is what the nodes alone imply, of which a certificate is made.
    """
    boxes = {program.input: box}
    for node in program.nodes:
        boxes[node.output] = node_interval(node, values, boxes, use_hint=use_hint)
    return boxes


def interval_rows(
    program: Program,
    values: Values,
    boxes: dict[int, Box],
    spec: Spec,
    charges: Charges | None = None,
) -> Float[Array, " rows"]:
    """Returns lower bounds of the spec's rows from interval enclosures.

    The rows are folded into the affine maps at the network's end, so that the last
    layer loses nothing to the interval of each output on its own. For `charges` see
    `pull_through`.
    """
    at_output, offset = {program.output: _rows_at_output(program, spec)}, spec.offset
    if charges is not None:
        offset = charges.offset(offset)
    rows, offset = pull_affine(program, values, at_output, offset, charges)
    for value, coefficients in rows.items():
        if charges is not None:
            offset = offset - charges.at(value, rows)
        offset = offset + concretize_lower(coefficients, boxes[value])
    return without_infinity(offset)


def _rows_at_output(program: Program, spec: Spec) -> Array:
    outputs = spec.coefficients.shape[-1]
    if program.output_shape != (outputs,):
        raise InputError(
            f"the spec speaks of {outputs} outputs, but the network returns shape "
            f"{program.output_shape}: give a spec with one column per output and a "
            "network that returns a vector"
        )
    return spec.coefficients


@dataclasses.dataclass(frozen=True)
class Ibp:
    """Interval bound propagation of f; see `ibp`."""

    f: Callable[[Any, Any], Any]

    @own_settings()
    def __call__(self, params: Any, box: Region) -> Box:
        """Returns a Box that encloses f(params, z) for every z of the box or ball."""
        box = enclosing(of_jax(box))
        return _enclosure(program_as_given(self.f, params, box.lo), params, box)

    def lower_rows(self, params: Any, box: Region, spec: Spec) -> Float[Array, " rows"]:
        """Returns a lower bound over the box or ball of every row of the spec."""
        return self.rows_and_boxes(params, box, spec)[0]

    @own_settings()
    def rows_and_boxes(
        self, params: Any, box: Region, spec: Spec
    ) -> tuple[Float[Array, " rows"], dict[int, Box]]:
        """Returns `lower_rows` and the range of every value of the program."""
        box = enclosing(of_jax(box))
        program = program_as_given(self.f, params, box.lo)
        return _rows_and_boxes(program, params, box, spec)


@functools.partial(as_one_program, static=1)
def _enclosure(program: Program, params: Any, box: Box) -> Box:
    values = program.prepare(params, box.lo.dtype)
    return propagate(program, values, box)[program.output]


@functools.partial(as_one_program, static=1)
def _rows_and_boxes(
    program: Program, params: Any, box: Box, spec: Spec
) -> tuple[Float[Array, " rows"], dict[int, Box]]:
    values = program.prepare(params, box.lo.dtype)
    boxes = propagate(program, values, box)
    return interval_rows(program, values, boxes, spec), boxes


def ibp(f: Callable[[Any, Any], Any]) -> Ibp:
    """Returns the interval bound propagation of `f(params, x)`.

    `ibp(f)(params, box)` encloses the outputs over the box in a Box;
    `ibp(f).lower_rows(params, box, spec)` bounds every row of a Spec from below. Both
    are for one box, or the box around a `Ball`: batch with `jax.vmap`, compile with
    `jax.jit`. Bounds are computed in the float type of the box, without outward
    rounding. f is taken as it is called here: where JAX has 64-bit types enabled,
    params and constants in float64 are that; elsewhere they are float32.

    Source: Gowal et al., "On the effectiveness of interval bound propagation", 2018.

    Args:
      f: any JAX function of params and one input, made of supported primitives.

    Raises (on call):
      UnsupportedError: f uses a primitive on x that has no rule.

    Example:
      >>> import jax.numpy as jnp, jaxcert as jc
      >>> f = lambda w, x: jnp.maximum(w @ x, 0.0)
      >>> w = jnp.array([[1.0, -1.0], [2.0, 0.0]])
      >>> out = jc.ibp(f)(w, jc.Box(jnp.zeros(2), jnp.ones(2)))
      >>> out.lo.tolist(), out.hi.tolist()
      ([0.0, 0.0], [1.0, 2.0])
    """
    return Ibp(f)
