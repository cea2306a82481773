"""alpha-CROWN: CROWN bounds with the slopes of ReLUs optimised for every row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcert.ball import Ball, Region, enclosing, of_jax
from jaxcert.bounds.alpha import layout_of, relaxations_of
from jaxcert.bounds.backward import Coefficients, least_over, pull_to_input
from jaxcert.bounds.crown import (
    AffineBounds,
    CrownOptions,
    Layers,
    bound_layers,
    output_rows,
)
from jaxcert.bounds.cuts import cast_floats
from jaxcert.bounds.ibp import interval_rows
from jaxcert.bounds.tighten import Known, TightenOptions, ascend_rows, tighten_layers
from jaxcert.spec import Spec
from jaxcert.trace.pinned import own_settings
from jaxcert.trace.program import Program
from jaxcert.trace.tracing import program_as_given


@dataclasses.dataclass(frozen=True)
class AlphaCrown:
    """alpha-CROWN bounds of f; see `alpha_crown`."""

    f: Callable[[Any, Any], Any]
    options: TightenOptions = TightenOptions()

    @own_settings()
    def __call__(self, params: Any, box: Region) -> AffineBounds:
        """Returns affine functions that enclose f(params, z) for every z of the box."""
        box = of_jax(box)
        like = enclosing(box).lo
        program = program_as_given(self.f, params, like)
        rows = output_rows(program, like.dtype)
        pulled, const, _ = self._optimised(program, params, box, rows)
        return AffineBounds.of_both_sides(pulled, const)

    @own_settings()
    def lower_rows(self, params: Any, box: Region, spec: Spec) -> Float[Array, " rows"]:
        """Returns a lower bound over the box, or ball, of every row of the spec.

        The greatest of the optimised, the CROWN and the interval bound of each row.
        """
        box = of_jax(box)
        program = program_as_given(self.f, params, enclosing(box).lo)
        rows = {program.output: spec.coefficients}, spec.offset
        pulled, const, layers = self._optimised(program, params, box, rows)
        by_interval = interval_rows(program, layers.values, layers.boxes, spec)
        optimised = least_over(pulled, const, box)
        return jnp.maximum(
            optimised, jnp.maximum(layers.lower_values(*rows), by_interval)
        )

    def _optimised(
        self,
        program: Program,
        params: Any,
        box: Region,
        rows: tuple[Coefficients, Float[Array, " rows"]],
    ) -> tuple[Float[Array, "rows *d"], Float[Array, " rows"], Layers]:
        """Returns rows over the input, below the given ones, and the layers of CROWN.

        Slopes are optimised in float32; what they prove is computed in the box's type.
        """
        layout = layout_of(program, joint=isinstance(box, Ball))
        dtype = enclosing(box).lo.dtype
        values = program.prepare(params, dtype)
        values32 = program.prepare(params, jnp.float32)
        layers = bound_layers(program, values, box, CrownOptions())
        ranges = {i: layers.boxes[i] for i in layout.needed()}
        ranges = tighten_layers(layout, values32, values, box, ranges, self.options)
        rows32 = cast_floats(rows, jnp.float32)
        best = ascend_rows(layout, values32, Known(box, ranges), rows32, self.options)
        lines = relaxations_of(layout, ranges, cast_floats(best.slope, dtype))
        pulled, const, _ = pull_to_input(program, values, lines, ranges, *rows)
        return pulled, const, layers


def alpha_crown(
    f: Callable[[Any, Any], Any], options: TightenOptions | None = None
) -> AlphaCrown:
    """Returns the alpha-CROWN bounds of `f(params, x)`.

    They are asked as those of `crown` are: `alpha_crown(f)(params, box)` is an
    `AffineBounds`, `alpha_crown(f).lower_rows(params, box, spec)` bounds every row of a
    Spec from below and is never looser than CROWN. The lower slope of every unstable
    ReLU is optimised in [0, 1], for every neuron of later layers and for every row
    apart; any slope is valid, so that optimising cannot break a bound. What is no ReLU
    has CROWN's lines. For one box: batch with `jax.vmap`, compile with `jax.jit`.
    Computed in the float type of the box, without outward rounding.

    Source: Xu et al., "Fast and complete: enabling complete verification with massively
    parallel incomplete verifiers", ICLR 2021.

    Args:
      f: any JAX function of params and one input, made of supported primitives, that
        returns a vector.
      options: how slopes are optimised, of layers and of rows.

    Raises (on call):
      UnsupportedError: f uses a primitive on x that has no rule.
      InputError: f does not return a vector.

    Example:
      >>> import jax, jax.numpy as jnp, jaxcert as jc
      >>> f = lambda w, x: jnp.sum(jax.nn.relu(w @ x), keepdims=True)
      >>> w = jnp.array([[2.0, 1.0], [-1.0, 1.0]])
      >>> box = jc.Box(-jnp.ones(2), jnp.array([0.5, 1.0]))
      >>> [b(f)(w, box).concretize(box).lo.item() for b in (jc.crown, jc.alpha_crown)]
      [-1.5, 0.0]
    """
    return AlphaCrown(f, options or TightenOptions())
