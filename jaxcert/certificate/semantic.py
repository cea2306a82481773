"""Certificates against changes of an image: trees over the few parameters.

As in `store.py`, a file stays only if the independent checker accepts it. The trees are
found with the checker's own bounds of the network behind the change.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.certificate.answers import stored_network
from jaxcert.certificate.checked import WrittenProof, write_checked
from jaxcert.certificate.halving import halving_tree
from jaxcert.certificate.trees import EVERY, ProofArrays
from jaxcert.checker.arithmetic import Arithmetic
from jaxcert.checker.bounds import Bounds
from jaxcert.checker.changes import front
from jaxcert.checker.clauses import Clauses
from jaxcert.checker.network import Network
from jaxcert.devices import float64
from jaxcert.model import Model
from jaxcert.semantic.changes import InputFamily

# How much of the radius may be given up, step by step, until a proof is found.
_SHRINK = (0.0, 2.0**-24, 2.0**-16, 2.0**-12, 2.0**-8)


@dataclasses.dataclass(frozen=True, eq=False)
class ChangeClaim:
    """What a certificate states of one image.

    Attributes:
      change: name of the family.
      family: how the image changes.
      x: the image, of the network's input shape.
      label: the class that wins.
      lower: the radius up to which it does; inf for all legal parameters.
      witness: parameters at which it does not, (k,); NaN if none are known.
    """

    change: str
    family: InputFamily
    x: np.ndarray
    label: int
    lower: float
    witness: np.ndarray

    def box(self, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the parameters up to the radius, of which a share is given up."""
        radius = min(self.lower, self.family.reach()) * (1 - share)
        domain, rates = self.family.domain, self.family.rates
        lo = np.maximum(-radius * np.asarray(rates.lower), domain.lo)
        hi = np.minimum(radius * np.asarray(rates.upper), domain.hi)
        if self.lower == np.inf and not share:
            lo = np.where(np.asarray(rates.lower) > 0, domain.lo, 0.0)
            hi = np.where(np.asarray(rates.upper) > 0, domain.hi, 0.0)
        return lo + 0.0, hi


@float64()
def write_change(
    path: Path, model: Model, claim: ChangeClaim, deadline: float = np.inf
) -> WrittenProof:
    """Writes the certificate of an image, and the network beside it.

    Where no proof is found, the parameters shrink by the least that helps.

    Args:
      path: of the file, .npz; its folder is made if missing.
      model: the network.
      claim: what was proved.
      deadline: `time.monotonic()` after which no proof is looked for.

    Raises:
      UnsupportedError: see `network_file`.
      OSError: the folder cannot be written.
    """
    begin, network = time.monotonic(), stored_network(model)
    network.write(path.parent)
    raw = (path.parent / network.name).read_bytes()
    head = {
        "version": 8,
        "claim": "semantic",
        "network": network.reference,
        "change": claim.change,
        "label": claim.label,
        "required_margin": 0.0,
    }
    x = np.asarray(claim.x, np.float64)
    stated = {"change_x": x.reshape(-1)}
    if np.isfinite(claim.witness).all():
        stated["change_witness"] = np.asarray(claim.witness, np.float64)
    report = None
    for share in _SHRINK:
        lo, hi = claim.box(share)
        with np.errstate(all="ignore"):
            made, *box = front(claim.change, stated["change_x"], x.shape, lo, hi)
            net = Network(raw, False, made)
            question = _question(net, box, claim.label)
            nodes = halving_tree(question.bounds, question, deadline)
        if nodes is None:
            if time.monotonic() >= deadline:
                break
            continue
        finding = time.monotonic() - begin
        ends = {"change_lo": lo, "change_hi": hi}
        proof = ProofArrays(net.neurons)
        proof.add(0, EVERY, nodes)
        arrays = stated | ends | proof.arrays(widest=1)
        report, size = write_checked(path, head, arrays)
        if not report.holds and "change_witness" in report.reason:
            # Rounding leaves it in doubt: nothing is claimed of it.
            stated.pop("change_witness", None)
            arrays.pop("change_witness", None)
            report, size = write_checked(path, head, arrays)
        if report.holds:
            return WrittenProof(path, report, size, finding)
    return WrittenProof(None, report, 0, time.monotonic() - begin)


def _question(net: Network, box: Any, label: int) -> Clauses:
    """Returns the clauses that class `label` is ahead of each other one."""
    lo, hi = box
    bounds = Bounds(Arithmetic(False), net, lo, hi, {})
    eye = np.eye(net.sizes[-1])
    rows = eye[label] - np.delete(eye, label, axis=0)
    return Clauses(bounds, [(row[None], np.zeros(1)) for row in rows])
