"""The complete oracle for one box: branch and bound over inputs or over signs."""

from __future__ import annotations

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert.ball import Ball, Region
from jaxcert.bounds.alpha import layout_of
from jaxcert.box import Box
from jaxcert.branch.inputs import decide_by_input
from jaxcert.branch.instances import ApothemTask
from jaxcert.branch.lattice import decide_lattice
from jaxcert.branch.linear_program import is_piecewise_linear
from jaxcert.branch.rounds import close_in_rounds
from jaxcert.branch.signs import BranchOptions
from jaxcert.branch.wide import decide_wide, is_wide
from jaxcert.devices import float64
from jaxcert.model import Model
from jaxcert.oracle.linear import decide_linear, is_linear
from jaxcert.spec import Spec
from jaxcert.trace.lattice import Lattice
from jaxcert.verdict import Reason, Status, Verdict, refuted, unknown
from jaxcert.witness.judge import Judge


@float64()
def branch_and_bound(
    model: Model,
    region: Region,
    spec: Spec,
    options: BranchOptions,
    deadline: float = np.inf,
    judge: Judge | None = None,
) -> tuple[Verdict, int]:
    """Returns the verdict on a box or ball and the number of subproblems it took.

    Networks without a nonlinear part need no search.
    Where few features vary, or activations are smooth, the features are split: by what
    affine functions say where few vary and the margin is a lattice of such.
    Otherwise signs are, and over balls always.

    Args:
      model: the network.
      region: numpy float64, not empty; a ball has a radius > 0, and its witness lies
        in it exactly.
      spec: what must hold, numpy float64.
      options: how branch and bound runs.
      deadline: `time.monotonic()` after which no further chunk begins.
      judge: of points that rounding leaves in doubt; made here if there is none.
    """
    program, judge = model.program, judge or Judge(model)
    center, reason = np.asarray(region.center), Reason.LIMIT
    around = region if isinstance(region, Ball) else region.normal()
    if isinstance(region, Ball):
        if not layout_of(program).size:  # it is bounded as well as may be already
            return unknown(center, Reason.BOUND_TOO_LOOSE), 0
    elif is_linear(program):
        spec = jax.tree.map(jnp.asarray, spec)
        proved, witness, processed = decide_linear(judge, region, spec, deadline)
        if time.monotonic() >= deadline:
            reason = Reason.TIME
        found = _verdict(model, spec, proved, witness, center, reason)
        return found, processed
    elif splits_inputs(model, region, options):
        known = _by_lattice(judge, region, spec, options, deadline)
        if known is not None:
            return known
        spec = jax.tree.map(jnp.asarray, spec)
        proved, witness, processed, reason = decide_by_input(
            judge, around, spec, options.inputs, deadline
        )
        witness = _inside(region, witness)
        found = _verdict(model, spec, proved, witness, center, reason)
        return found, processed
    elif reduces(model, region, spec, options):
        assert options.wide is not None
        proved, witness, before, reason = decide_wide(
            judge, region, spec, options.wide, deadline
        )
        if proved or witness is not None or reason == Reason.TIME:
            found = _verdict(model, spec, proved, witness, center, reason)
            return found, before
    task = ApothemTask.of_region(around, spec)
    answer = close_in_rounds(model, task, options, deadline, judge)
    witness = answer.witness[0] if np.isfinite(answer.upper[0]) else None
    proved = bool(answer.improved[0]) and witness is None
    witness = _inside(region, witness)  # it may lie beyond the radius
    if answer.full:
        reason = Reason.ROOM
    elif time.monotonic() >= deadline:
        reason = Reason.TIME
    verdict = _verdict(model, spec, proved, witness, center, reason)
    return verdict, int(answer.processed[0])


def _inside(region: Region, witness: np.ndarray | None) -> np.ndarray | None:
    """Returns the witness of a set around the region if it lies in the region."""
    if witness is None:
        return None
    if isinstance(region, Ball):
        return witness if region.holds(witness) else None
    inside = np.all((region.lo <= witness) & (witness <= region.hi))
    return witness if inside else None


def splits_inputs(model: Model, box: Box, options: BranchOptions) -> bool:
    """Returns whether branch and bound of a box splits its features, or else signs."""
    if np.count_nonzero(np.asarray(box.lo) < np.asarray(box.hi)) <= options.narrow:
        return True
    program = model.program
    return not is_piecewise_linear(program) or layout_of(program).size == 0


def lattice_of(
    model: Model, box: Box, spec: Spec, options: BranchOptions
) -> Lattice | None:
    """Returns the margin as a lattice, where branch and bound of a box splits that."""
    few = np.count_nonzero(np.asarray(box.lo) < np.asarray(box.hi)) <= options.narrow
    form = model.normal_form if few else None
    return None if form is None else form.lattice(spec)


def _by_lattice(
    judge: Judge, box: Box, spec: Spec, options: BranchOptions, deadline: float
) -> tuple[Verdict, int] | None:
    """Returns verdict and count of boxes; None where the margin's lattice says nothing.

    See `branch_and_bound`.
    """
    model, center = judge.model, np.asarray(box.center)
    lattice = lattice_of(model, box, spec, options)
    if lattice is None:
        return None
    found = decide_lattice(judge, lattice, box, spec, deadline)
    if found.witness is not None:
        return refuted(found.witness.point, found.witness.margin), found.processed
    if found.reason == Reason.LIMIT:
        return None
    verdict = _verdict(model, spec, found.proved, None, center, found.reason)
    return verdict, found.processed


def reduces(model: Model, region: Region, spec: Spec, options: BranchOptions) -> bool:
    """Returns whether branch and bound begins with what a box leaves undecided.

    That has bounds of its own; where it comes to nothing the whole network is branched.
    """
    wide = options.wide
    if wide is None or options.record or options.cuts or isinstance(region, Ball):
        return False
    if splits_inputs(model, region, options):
        return False
    return is_wide(model.program, spec, wide)


def _verdict(
    model: Model,
    spec: Spec,
    proved: bool,
    witness: np.ndarray | None,
    center: np.ndarray,
    reason: Reason,
) -> Verdict:
    """Returns the verdict that a search ends with, in numpy.

    The reason is that of an UNKNOWN.
    """
    if witness is not None:
        logits = jnp.asarray(model.outputs(witness[None])[0])
        return refuted(witness, float(spec.margin(spec.values(logits))))
    if proved:
        return dataclasses.replace(
            unknown(center, Reason.BOUND),
            status=np.int32(Status.PROVED),
            bound=np.float64(0.0),
        )
    return unknown(center, reason)
