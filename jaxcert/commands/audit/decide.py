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
from jaxcert.oracle.decide import decide
from jaxcert.search import stages
from jaxcert.spec import Spec
from jaxcert.verdict import Verdict
from jaxcert.witness.attack import AttackOptions, AttackOracle


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
        self._attack = AttackOracle(self._model.f, attack)
        self._apply = jax.jit(network.apply)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Returns the logits at one point, by the network itself in float64."""
        with float64():
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
        with float64():
            spec = Spec.classification(
                label, self.network.num_outputs, self._required, np.float64
            )
            spec = jax.tree.map(np.asarray, spec)
            verdict: Verdict = stages.ask(self._attack, self._model.double, box, spec)
            found = self._confirmed(claim, label, verdict)
        if found is not None:
            return dataclasses.replace(found, found_by="attack")
        with float64():
            # Short chunks: the deadline is looked at between two of them.
            verdict, subproblems = decide(
                self._model, box, spec, BranchOptions(steps=10), deadline
            )
            found = self._confirmed(claim, label, verdict)
        if found is None:
            found = Finding("sound" if verdict.proved else "unknown")
        by = "" if found.verdict == "unknown" else "branch and bound"
        return dataclasses.replace(found, found_by=by, subproblems=subproblems)

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
