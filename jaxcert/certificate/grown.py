"""Certificates of grown boxes: the proof of the box, and what stops every face.

As in `store.py`, a file stays only if the independent checker accepts it. A face that
the checker's arithmetic does not see stopped is written down as open.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxcert.box import Box
from jaxcert.branch.brackets import ApothemAnswer, close_brackets
from jaxcert.branch.instances import Leaves, ProofTrees
from jaxcert.certificate.store import CertificateWriter, Claim, Written, task_of_boxes
from jaxcert.certification import Certification
from jaxcert.certifier import Certifier, float64
from jaxcert.checker.arithmetic import Arithmetic
from jaxcert.checker.faces import AT_REST, OPEN, violations
from jaxcert.checker.network import network_of
from jaxcert.search.faces import moved_out
from jaxcert.search.growth import Growth


def prove_boxes(
    certifier: Certifier,
    labels: np.ndarray,
    boxes: Box,
    wanted: np.ndarray,
    deadline: float = np.inf,
) -> ApothemAnswer:
    """Returns the proofs of boxes that are what they are, with their trees.

    `improved` says which were proved, `trees` is what their certificates are made of.

    Args:
      certifier: of the network, with its domain and margin.
      labels: class of each box, (J,).
      boxes: leaves (J, *d).
      wanted: which of them to prove, (J,).
      deadline: `time.monotonic()` after which nothing more is proved.
    """
    # Whoever checks faces knows nothing of cuts.
    branch = dataclasses.replace(certifier.options.branch, record=True, cuts=None)
    with float64():
        task = task_of_boxes(
            boxes, labels, certifier.num_classes, certifier.required_margin, wanted
        )
        return close_brackets(certifier.model, task, branch, deadline)


@dataclasses.dataclass(frozen=True, eq=False)
class GrownClaim(Claim):
    """What a certificate of a grown box states; flat numpy, F = 2d faces.

    Attributes:
      delta: how far no stopped face can move, in input units times the rates.
      points: points of the box, (n, d).
      blocked, ends: (F,), which point stops a face, and where; see `Growth`.
      proved: whether the proof of the box is recorded.
    """

    delta: float
    points: np.ndarray
    blocked: np.ndarray
    ends: np.ndarray
    proved: bool = False

    @staticmethod
    def of(
        name: str,
        x: np.ndarray,
        row: int,
        found: Certification,
        growth: Growth,
        delta: float,
    ) -> GrownClaim:
        """Returns the claim about one input of a batch that grew."""
        points = growth.points[row]
        return GrownClaim(
            name=name,
            label=int(found.label[row]),
            x=np.asarray(x, np.float64).reshape(-1),
            lo=np.asarray(growth.box.lo[row]).reshape(-1),
            hi=np.asarray(growth.box.hi[row]).reshape(-1),
            lower=np.nan,  # the writer measures it
            upper=float(found.upper[row]),
            witness=np.asarray(found.witness[row]).reshape(-1),
            delta=delta,
            points=points.reshape(len(points), x.size),
            blocked=growth.blocked[row],
            ends=growth.ends[row],
        )


class GrownWriter(CertificateWriter):
    """Writes the certificates of the grown boxes of one network into a folder."""

    def write_grown(self, claim: GrownClaim, trees: ProofTrees | None) -> Written:
        """Writes the certificate of one grown box.

        Args:
          claim: what it states; its apothem is measured here.
          trees: the proof of its box; None to claim the faces alone.
        """
        claim = dataclasses.replace(claim, proved=trees is not None)
        if trees is None:
            size = self._layout.size
            nothing = np.zeros((0, size), np.float32)
            none = np.zeros(0, np.int32)
            leaves = Leaves(none, none, nothing.astype(np.int8), nothing, nothing)
            trees = ProofTrees(leaves, {})
        return self._write(self._measured(claim), trees)

    def _measured(self, claim: GrownClaim) -> GrownClaim:
        """Returns the claim with the apothem of its box, rounded down."""
        down, up = self._free(claim)
        slack = np.concatenate([(claim.x - claim.lo)[down], (claim.hi - claim.x)[up]])
        rates = np.concatenate(
            [_flat(self._rates.lower)[down], _flat(self._rates.upper)[up]]
        )
        least = np.min(slack / rates, initial=np.inf)
        return dataclasses.replace(claim, lower=float(least * (1 - 2.0**-50)))

    def _free(self, claim: Claim) -> tuple[np.ndarray, np.ndarray]:
        """Returns which lower and which upper faces may move."""
        down = (claim.lo > _flat(self._domain.lo)) & (_flat(self._rates.lower) > 0)
        up = (claim.hi < _flat(self._domain.hi)) & (_flat(self._rates.upper) > 0)
        return down, up

    def _shrunk(self, claim: Claim, share: float) -> Claim:
        """Returns the claim with all faces that may move drawn in by a share."""
        if share == 0 or not isinstance(claim, GrownClaim):
            return claim
        (down, up), keep = self._free(claim), 1 - share
        lo = np.where(down, claim.x - (claim.x - claim.lo) * keep, claim.lo)
        hi = np.where(up, claim.x + (claim.hi - claim.x) * keep, claim.hi)
        lo, hi = np.clip(lo, claim.lo, claim.x), np.clip(hi, claim.x, claim.hi)
        return self._measured(dataclasses.replace(claim, lo=lo, hi=hi))

    def _header(self, claim: Claim, version_of_format: int) -> dict[str, Any]:
        header = super()._header(claim, version_of_format)
        if isinstance(claim, GrownClaim):
            header |= {"delta": float(claim.delta), "proved": claim.proved}
        return header

    def _arrays(self, claim: Claim, leaves: Leaves) -> dict[str, np.ndarray]:
        arrays = super()._arrays(claim, leaves)
        if isinstance(claim, GrownClaim):
            arrays |= self._faces(claim)
        return arrays

    def _faces(self, claim: GrownClaim) -> dict[str, np.ndarray]:
        """Returns the members that speak of the faces."""
        points = np.clip(claim.points, claim.lo, claim.hi)
        domain, rates = jax.tree.map(_flat, (self._domain, self._rates))
        farthest = moved_out(Box(claim.lo, claim.hi), domain, rates, claim.delta)  # type: ignore[arg-type]
        below, above = np.split(claim.ends, 2)
        low = np.maximum(farthest.lo, below)
        high = np.minimum(farthest.hi, above)
        ends = np.concatenate([low, high])
        beyond = np.concatenate([low < claim.lo, high > claim.hi])
        free = np.concatenate(self._free(claim))
        tried = np.flatnonzero(free & beyond & (claim.blocked >= 0))
        moved = points[claim.blocked[tried]]
        moved[np.arange(len(tried)), tried % points.shape[1]] = ends[tried]
        by = np.where(free, OPEN, AT_REST)
        if len(tried):
            raw = (self.folder / self.network.name).read_bytes()
            network = network_of(raw, False)
            with np.errstate(all="ignore"):
                sure = violations(
                    Arithmetic(False), network, moved, claim.label, self._margin
                )
            by[tried[sure]] = claim.blocked[tried[sure]]
        used, place = np.unique(by[by >= 0], return_inverse=True)
        by[by >= 0] = place
        return {
            "face_points": np.ascontiguousarray(points[used], np.float64),
            "face_by": by.astype(np.int32),
            "face_ends": ends.astype(np.float64),
        }


def _flat(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64).reshape(-1)
