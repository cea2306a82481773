"""The verdict on one box: broken, with the point that shows it, sound, or unknown."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from absl import logging

from jaxcert.box import Box
from jaxcert.branch.signs import BranchOptions
from jaxcert.certifier import float64
from jaxcert.commands.audit.boxes import Claim
from jaxcert.network import Network
from jaxcert.oracle.decide import Effort, decide
from jaxcert.spec import Spec
from jaxcert.verdict import Verdict
from jaxcert.witness.attack import AttackOptions


@dataclasses.dataclass(frozen=True, eq=False)
class Finding:
    """What is known of one box.

    Attributes:
      verdict: broken, sound, unknown or trivial.
      found_by: attack or branch and bound; '' if unknown or trivial.
      subproblems: of branch and bound.
      witness: of a broken one: the point, shape of the input, float64; else None.
      logits: there, by the network itself in float64; at the point of a trivial box.
      margin: of these logits.
    """

    verdict: str
    found_by: str = ""
    subproblems: int = 0
    witness: np.ndarray | None = None
    logits: np.ndarray | None = None
    margin: float = math.nan


class Auditor:
    """Decides boxes of one network, one after the other."""

    def __init__(
        self, network: Network, required_margin: float, attack: AttackOptions
    ) -> None:
        """Takes the weights.

        Raises:
          InputError: a weight is not finite, or there are fewer than 2 classes.
        """
        Spec.classification(0, network.num_outputs)
        self.network = network
        self._required = required_margin
        self._model = network.model
        # Short chunks: the deadline is looked at between two of them.
        self._effort = Effort(attack=attack, branch=BranchOptions(steps=10))
        self._without_attack = dataclasses.replace(self._effort, attack=None)
        self._apply = jax.jit(network.apply)

    @float64()
    def logits(self, x: np.ndarray) -> np.ndarray:
        """Returns the logits at one point, by the network itself in float64."""
        return np.asarray(self._apply(self._model.double, x), np.float64)

    def decide(self, claim: Claim, label: int, deadline: float) -> Finding:
        """Returns the verdict on one box: attacked first, then branch and bound."""
        if claim.is_point:
            logits = self.logits(claim.lo)
            margin = _margin(logits, label)
            return Finding("trivial", logits=logits, margin=margin)
        lo: Any = claim.lo
        hi: Any = claim.hi
        box = Box(lo, hi)
        spec = self._spec(label)
        found = decide(self._model, box, spec, self._effort, deadline)
        finding = self._confirmed(claim, label, found.verdict)
        if finding is None and found.found_by == "attack":
            found = decide(self._model, box, spec, self._without_attack, deadline)
            finding = self._confirmed(claim, label, found.verdict)
        if finding is None:
            finding = Finding("sound" if found.verdict.proved else "unknown")
        by = "" if finding.verdict == "unknown" else found.found_by
        return dataclasses.replace(finding, found_by=by, subproblems=found.subproblems)

    @float64()
    def _spec(self, label: int) -> Spec:
        spec = Spec.classification(
            label, self.network.num_outputs, self._required, np.float64
        )
        return jax.tree.map(np.asarray, spec)

    def _confirmed(self, claim: Claim, label: int, verdict: Verdict) -> Finding | None:
        """Returns the finding of a witness, unless the network itself disagrees."""
        if not verdict.refuted:
            return None
        witness = np.asarray(verdict.witness, np.float64)
        logits = self.logits(witness)
        margin = _margin(logits, label)
        inside = bool(np.all((claim.lo <= witness) & (witness <= claim.hi)))
        if inside and margin <= self._required:
            return Finding("broken", "", 0, witness, logits, margin)
        logging.warning(
            "box %s: a witness did not stand the check in float64: not used", claim.name
        )
        return None


def _margin(logits: np.ndarray, label: int) -> float:
    return float(logits[label] - np.max(np.delete(logits, label)))
