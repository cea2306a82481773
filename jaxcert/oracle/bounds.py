"""The oracle that proves by bounds alone: PROVED or UNKNOWN, never REFUTED.

Of one box, to be mapped over a batch, and of thousands in few calls.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxcert.ball import Region, enclosing
from jaxcert.bounds.crown import Crown, crown
from jaxcert.bounds.ibp import Ibp
from jaxcert.bounds.rounding import float64_slack
from jaxcert.box import Box
from jaxcert.checks import check_not_flushed
from jaxcert.devices import float64
from jaxcert.memory import room_for
from jaxcert.model import Model
from jaxcert.spec import Spec
from jaxcert.trace.tracing import program_as_given
from jaxcert.verdict import Verdict, from_bound

# Rows of the widest layer that bounding a box takes besides four per row of its spec:
# 4.5 MB where that has 2,040 values.
_ROWS = 256


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


@float64()
def proved_at_once(
    model: Model, boxes: Sequence[Box], specs: Sequence[Spec], block: int
) -> Bool[np.ndarray, " n"]:
    """Returns which specs CROWN proves, each over its own box, in blocks.

    Args:
      model: the network.
      boxes: numpy float64, not empty.
      specs: one per box, numpy float64.
      block: most of them that are bounded at once, if there is the memory.

    Raises:
      InputError: a coefficient of a spec is flushed by XLA.
    """
    oracle, proved = BoundOracle(crown(model.f)), np.zeros(len(boxes), bool)
    alike: dict[tuple[int, int], list[int]] = {}
    for i, spec in enumerate(specs):
        check_not_flushed("the spec", np.asarray(spec.coefficients))
        alike.setdefault((len(spec.offset), spec.num_clauses), []).append(i)
    widest = max(model.program.input_size, *(n.size for n in model.program.nodes))
    for (rows, _), every in alike.items():
        most = min(block, len(every))
        size = room_for(8 * (4 * rows + _ROWS) * widest, 1, most)
        for first in range(0, len(every), size):
            own = every[first : first + size]
            # The last block is filled up: one shape is compiled.
            full = own + own[:1] * (size - len(own))
            parts = [(boxes[i].normal(), specs[i]) for i in full]
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
            found = _proved(oracle, model.double, *stacked)
            proved[own] = np.asarray(found)[: len(own)]
    return proved


@functools.partial(jax.jit, static_argnames=("oracle",))
def _proved(
    oracle: BoundOracle, params: Any, boxes: Box, specs: Spec
) -> Bool[Array, " n"]:
    def one(box: Box, spec: Spec) -> Array:
        return oracle(params, box, spec, box.center).proved

    return jax.vmap(one)(boxes, specs)
