"""The front door: one box and one specification, decided by the effort allowed.

First bounds, which cost least, then the attack, which refutes what is easily refuted,
then branch and bound. Whoever decides a box comes through here: `jaxcert.verify`, the
commands `verify` and `audit`, and the comparisons of `experiments`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert.ball import Region, enclosing
from jaxcert.bounds.staged import Staged, StagedOptions
from jaxcert.branch.signs import BranchOptions
from jaxcert.checks import check_not_flushed
from jaxcert.devices import float64
from jaxcert.model import Model
from jaxcert.oracle.complete import branch_and_bound
from jaxcert.spec import Spec
from jaxcert.verdict import Reason, Verdict, from_bound, refuted, unknown
from jaxcert.witness.attack import AttackOptions, AttackOracle, find_witness
from jaxcert.witness.judge import Accepts, Judge

BOUNDS, ATTACK, BRANCH = "bounds", "attack", "branch and bound"


@dataclasses.dataclass(frozen=True)
class Effort:
    """How hard a box is tried; what is None is left out.

    Attributes:
      bounds: the dearest bounds that may prove it.
      attack: how a counterexample is looked for.
      branch: how branch and bound goes on.
    """

    bounds: Literal["ibp", "crown", "alpha"] | None = None
    attack: AttackOptions | None = None
    branch: BranchOptions | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """What is tried, in order."""
        tried = {BOUNDS: self.bounds, ATTACK: self.attack, BRANCH: self.branch}
        return tuple(name for name, effort in tried.items() if effort is not None)


class Decision(NamedTuple):
    """What is known of a box.

    Attributes:
      verdict: PROVED, REFUTED with a witness, or UNKNOWN.
      found_by: what came to it: bounds, attack, or branch and bound; '' if UNKNOWN.
      subproblems: that branch and bound took.
    """

    verdict: Verdict
    found_by: str = ""
    subproblems: int = 0


@float64()
def decide(
    model: Model,
    region: Region,
    spec: Spec,
    effort: Effort,
    deadline: Any = np.inf,
    *,
    judge: Judge | None = None,
    accepts: Accepts | None = None,
    told: Callable[[Verdict], None] = lambda _: None,
    stage: Callable[[str], None] = lambda _: None,
) -> Decision:
    """Returns the verdict on a box or ball; points within rounding are judged exactly.

    Args:
      model: the network.
      region: numpy float64, not empty; a ball has a radius > 0.
      spec: what must hold for every output over it, numpy float64.
      effort: what is tried.
      deadline: `time.monotonic()` after which branch and bound stops; an array () may
        come forward.
      judge: of points that rounding leaves in doubt; made here if there is none.
      accepts: what a witness of the attack must satisfy besides; see `Judge.first`.
      told: told the verdict of the bounds, which takes the least time.
      stage: told the name of each stage as it begins.

    Raises:
      InputError: a coefficient of the spec is flushed by XLA.
    """
    check_not_flushed("the spec", np.asarray(spec.coefficients))
    verdict, judge = unknown(np.asarray(region.center)), judge or Judge(model)
    if effort.bounds is not None:
        stage(BOUNDS)
        verdict = bounded(model, region, spec, effort.bounds, deadline)
        told(verdict)
        if verdict.proved:
            return Decision(verdict, BOUNDS)
    if effort.attack is not None:
        stage(ATTACK)
        attacker = AttackOracle(model.f, effort.attack)
        witness = find_witness(attacker, judge, region, spec, accepts)
        if witness is not None:
            return Decision(refuted(witness.point, witness.margin), ATTACK)
    if effort.branch is None:
        return Decision(verdict)
    stage(BRANCH)
    verdict, count = branch_and_bound(
        model, region, spec, effort.branch, deadline, judge
    )
    decided = bool(verdict.proved) or bool(verdict.refuted)
    return Decision(verdict, BRANCH if decided else "", count)


def bounded(
    model: Model,
    region: Region,
    spec: Spec,
    most: Literal["ibp", "crown", "alpha"],
    deadline: float = np.inf,
) -> Verdict:
    """Returns what bounds alone say of one box or ball, in numpy.

    The cheapest first, up to `most`: what intervals prove compiles nothing for CROWN.
    Bounds in steps hold as they are, so that one above 0 is a proof.
    """
    program, values = model.program, model.prepared
    staged = Staged(program, values, region, deadline)
    begin = np.asarray(enclosing(region).lo)
    verdict = unknown(begin, Reason.BOUND_TOO_LOOSE)
    for method in ("ibp", "crown", "alpha"):
        if method != "ibp" and time.monotonic() >= deadline:
            break
        if method == "crown":
            staged.tighten()
        rows = staged.interval_rows(spec)
        if method != "ibp":
            options = StagedOptions() if method == "alpha" else None
            rows = np.maximum(rows, staged.rows(spec, options))
        bound: Any = np.asarray(spec.margin(jnp.asarray(rows)))
        found = jax.device_get(from_bound(bound, begin, region.is_empty(), 0.0))
        if found.proved or not found.bound <= verdict.bound:
            verdict = found
        if found.proved or method == most:
            break
    return verdict
