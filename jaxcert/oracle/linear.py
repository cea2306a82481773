"""Networks without a nonlinear part: decided at once, without a search.

Every row of the spec is an affine function of the input, so that its least value over a
box is exact, up to rounding, and taken at a corner. A clause of several rows holds
where at every point one of them is positive: weights of the rows that prove it, or a
point where none is, come from one linear program. Neither is believed: the weights'
bound is evaluated in float64, with its slack, and the point is judged (`witness.py`).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxcert.bounds.backward import pull_affine
from jaxcert.bounds.ibp import propagate
from jaxcert.bounds.rounding import float64_slack
from jaxcert.box import Box
from jaxcert.branch.linear_program import proving_multipliers
from jaxcert.spec import Spec
from jaxcert.trace.program import AffineNode, Program
from jaxcert.witness.judge import Judge


def is_linear(program: Program) -> bool:
    """Returns whether a program is made of affine maps alone."""
    return all(isinstance(node, AffineNode) for node in program.nodes)


@functools.partial(jax.jit, static_argnames=("program",))
def _rows(
    program: Program, params: Any, box: Box, spec: Spec
) -> tuple[Float[Array, "rows *d"], Float[Array, " rows"], Float[Array, ""]]:
    """Returns the rows as functions of the input, and what bounds must exceed."""
    values = program.prepare(params, jnp.float64)
    slack = float64_slack(
        program, values, propagate(program, values, box), spec.coefficients
    )
    rows, offset = pull_affine(
        program, values, {program.output: spec.coefficients}, spec.offset
    )
    empty = jnp.zeros((len(offset), *program.input_shape))
    return rows.get(program.input, empty), offset, slack


def decide_linear(
    judge: Judge, box: Box, spec: Spec, deadline: float
) -> tuple[bool, np.ndarray | None, int]:
    """Returns (proved, witness or None, clauses looked at).

    Must run where float64 is enabled.

    Args:
      judge: of points, and with it the network, which `is_linear`.
      box: numpy float64, not empty.
      spec: what must hold, float64.
      deadline: `time.monotonic()` at which a linear program is given up.
    """
    program, params = judge.model.program, judge.model.double
    rows, offset, slack = jax.device_get(_rows(program, params, box, spec))
    rows = rows.reshape(len(rows), -1)
    lo, hi = np.ravel(box.lo), np.ravel(box.hi)
    flat = Box(lo, hi)  # type: ignore[arg-type]  # numpy goes where jax goes
    nothing = np.zeros((0, lo.size)), np.zeros(0), np.zeros(0, np.int8)
    proved = True
    for clause in range(spec.num_clauses):
        own = np.flatnonzero(np.asarray(spec.clause) == clause)
        maps = *nothing[:2], rows[own], offset[own], nothing[2]
        found = proving_multipliers(maps, nothing[2], flat, deadline)
        if found is None:
            proved = False
            continue
        # The slack carries one term per row of the spec: also a sum of them.
        weights = found.weights / max(np.sum(found.weights), 1e-300)
        row = weights @ rows[own]
        least = np.where(row > 0, row * lo, row * hi).sum() + weights @ offset[own]
        if least > slack * (1 + 1e-9):
            continue
        proved = False
        point = np.clip(found.point, lo, hi).reshape(np.shape(box.lo))
        violation = judge.search(spec, box, point[None])
        if violation is not None:
            return False, violation.point, clause + 1
    return proved, None, spec.num_clauses
