"""Affine forms: ranges of all layers in one forward pass, for inputs of few features.

Over a box with centre m and radii r every value is enclosed as

    v(m + r eps) in  centre + generators . eps + [-error, error],   eps in [-1, 1]^k

one generator per input feature. An affine map A acts on the centre as A and its offset,
on the generators as A, on the error as |A|. That is k + 2 evaluations for a whole
layer, where back-substitution needs two rows for every undecided neuron: for the two or
three parameters of a semantic input set it is the cheaper way to the same ranges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcert.bounds.ibp import node_interval
from jaxcert.box import Box
from jaxcert.trace.activations import Relaxation
from jaxcert.trace.equations import Values
from jaxcert.trace.program import ActivationNode, AffineNode, Node, Program, is_relu


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """centre + generators . eps + [-error, error], elementwise.

    A generator may belong to any number in [-1, 1], also to a product of such.
    """

    centre: Float[Array, "*n"]
    generators: Float[Array, "k *n"]
    error: Float[Array, "*n"]

    def range(self) -> Box:
        reach = jnp.abs(self.generators).sum(axis=0) + self.error
        return Box(self.centre - reach, self.centre + reach)


class RowBounds(NamedTuple):
    """Lower bounds of spec rows over one box.

    Attributes:
      rows: the bounds, (rows,).
      pulled, least: coefficients of an affine function of the input that is no greater
        than the row, (rows, *d), and its least value, (rows,).
      gain: about what a unit of each feature's width costs a bound, (rows, *d).
    """

    rows: Float[Array, " rows"]
    pulled: Float[Array, "rows *d"]
    least: Float[Array, " rows"]
    gain: Float[Array, "rows *d"]


def forward_layers(
    program: Program, values: Values, box: Box
) -> tuple[dict[int, Box], dict[int, Relaxation]]:
    """Returns the range of every value and the lines of every activation over the box.

    In the float type of the box and without outward rounding, as all bounds here; the
    three sums of a form round like three bounds, which a caller's slack has to cover.
    """
    k = box.lo.size
    units = jnp.eye(k, dtype=box.lo.dtype).reshape((k, *box.lo.shape))
    start = Form(box.center, units * box.radius, jnp.zeros_like(box.lo))
    forms, boxes = {program.input: start}, {program.input: box}
    relaxations: dict[int, Relaxation] = {}
    for node in program.nodes:
        known = all(i in forms for i in node.inputs)
        if known and isinstance(node, AffineNode):
            form = through_affine(node, values, [forms[i] for i in node.inputs])
        elif isinstance(node, ActivationNode):
            z = boxes[node.inputs[0]]
            relaxations[node.output] = node.activation.relax(z.lo, z.hi)
            lines = parallel_lines(node, z)
            form = through_lines(lines, z, forms[node.inputs[0]])
        else:
            boxes[node.output] = node_interval(node, values, boxes)
            if boxes[node.output].lo.dtype != bool:
                forms[node.output] = constant_form(boxes[node.output], k)
            continue
        forms[node.output] = form
        boxes[node.output] = meet_cheap(node, form.range(), values, boxes)
    return boxes, relaxations


def through_affine(node: AffineNode, values: Values, inputs: Sequence[Form]) -> Form:
    """A acts on centre and generators; |e'| <= |A| e on the rest."""
    centres = tuple(form.centre for form in inputs)

    def moved(*tangents: Array) -> tuple[Array, Array]:
        return jax.jvp(lambda *xs: node.apply(values, *xs), centres, tangents)

    generators = tuple(form.generators for form in inputs)
    centre, pushed = jax.vmap(moved, out_axes=(None, 0))(*generators)
    around = {
        i: Box(-form.error, form.error)
        for i, form in zip(node.inputs, inputs, strict=True)
    }
    # Half the width leaves the offset of A out.
    error = node_interval(node, values, around, use_hint=False).radius
    return Form(centre, pushed, error)


def through_lines(lines: Relaxation, z: Box, form: Form) -> Form:
    """g(z) - s z lies in a strip, which joins the error."""
    found = strip(lines, z)
    return Form(
        found.slope * form.centre + found.middle,
        found.slope * form.generators,
        jnp.abs(found.slope) * form.error + found.half,
    )


class Strip(NamedTuple):
    """g(z) - slope z lies in middle + [-half, half], elementwise."""

    slope: Float[Array, "*n"]
    middle: Float[Array, "*n"]
    half: Float[Array, "*n"]


def strip(lines: Relaxation, z: Box) -> Strip:
    """Returns the strip of an activation's upper slope s over [l, u].

    g(z) - s z lies in [a, b], b the intercept of the upper line, a the least of
    `lower line - s z` over [l, u], which one of the ends takes.
    """
    slope = lines.upper_slope
    at_ends = [(lines.lower_slope - slope) * end for end in (z.lo, z.hi)]
    least = jnp.minimum(*at_ends) + lines.lower_intercept
    most = lines.upper_intercept
    return Strip(slope, (least + most) / 2, (most - least) / 2)


def parallel_lines(node: ActivationNode, z: Box) -> Relaxation:
    """Returns lines of which those of a ReLU have one slope, u / (u - l).

    a z <= relu(z) for every a in [0, 1]: no other strip is as narrow.
    """
    lines = node.activation.relax(z.lo, z.hi)
    if not is_relu(node):
        return lines
    return dataclasses.replace(lines, lower_slope=jnp.minimum(lines.upper_slope, 1))


def constant_form(box: Box, k: int) -> Form:
    """What is known by its range alone moves with no feature."""
    still = jnp.zeros((k, *box.lo.shape), box.lo.dtype)
    return Form(box.center, still, box.radius)


def meet_cheap(node: Node, found: Box, values: Any, boxes: dict[int, Box]) -> Box:
    """Returns the form's range, met with the interval of operations that are cheap."""
    if isinstance(node, AffineNode) and not node.separable:
        return found
    return met(found, node_interval(node, values, boxes))


def met(one: Box, other: Box) -> Box:
    """Returns the intersection of two ranges of the same numbers."""
    both = one.intersect(other)
    # Two roundings of one number may cross; keep the interval from turning around.
    return Box(jnp.minimum(both.lo, both.hi), jnp.maximum(both.lo, both.hi))
