"""The oracle that proves by bounds alone: PROVED or UNKNOWN, never REFUTED."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcert.ball import Region, enclosing
from jaxcert.bounds.crown import Crown
from jaxcert.bounds.ibp import Ibp
from jaxcert.bounds.rounding import float64_slack
from jaxcert.spec import Spec
from jaxcert.trace.tracing import program_as_given
from jaxcert.verdict import Verdict, from_bound


@dataclasses.dataclass(frozen=True)
class BoundOracle:
    """PROVED where the method's lower bound of the margin exceeds the slack.

    The slack covers the rounding of float64 arithmetic. In float32 the answer steers a
    search and proves nothing; callers re-prove in float64 what they report.

    Attributes:
      method: `ibp(f)` or `crown(f)`.
    """

    method: Ibp | Crown

    def __call__(
        self, params: Any, box: Region, spec: Spec, hint: Float[Array, "*d"]
    ) -> Verdict:
        """Returns PROVED or UNKNOWN; the hint is not used."""
        # Without x64 JAX computes in float32 what numpy hands over in float64.
        box = jax.tree.map(jnp.asarray, box)
        rows, boxes = self.method.rows_and_boxes(params, box, spec)
        like = enclosing(box).lo
        program = program_as_given(self.method.f, params, like)
        values = program.prepare(params, like.dtype)
        slack = float64_slack(program, values, boxes, spec.coefficients, noise=False)
        if like.dtype != jnp.float64:
            slack = jnp.zeros_like(slack)
        return from_bound(spec.margin(rows), like, box.is_empty(), slack)
