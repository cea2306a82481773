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
from jaxcert.branch.leaves import Proof
from jaxcert.certificate.store import CertificateWriter, Claim, Written
from jaxcert.certification import Certification
from jaxcert.certifier import float64
from jaxcert.checker.arithmetic import Arithmetic
from jaxcert.checker.claim import Faces as Faces
from jaxcert.checker.faces import AT_REST, OPEN, violations
from jaxcert.checker.network import network_of
from jaxcert.search.faces import moved_out
from jaxcert.search.growth import Growth


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
    ) -> GrownClaim:
        """Returns the claim about one input of a batch that grew."""
        grown = dataclasses.replace(found, box=growth.box)
        given = vars(Claim.of_answer(name, x, row, grown))
        points = growth.points[row]
        return GrownClaim(
            **given | {"lower": np.nan},  # the writer measures it
            delta=growth.delta,
            points=points.reshape(len(points), x.size),
            blocked=growth.blocked[row],
            ends=growth.ends[row],
        )


class GrownWriter(CertificateWriter):
    """Writes the certificates of the grown boxes of one network into a folder."""

    @float64()
    def write_grown(
        self, claim: GrownClaim, proof: Proof | None, deadline: float = np.inf
    ) -> Written:
        """Writes the certificate of one grown box.

        A box whose proof is missing, or is not accepted, is proved once more by branch
        and bound. If that does not succeed by the deadline the file claims its faces
        alone, unless the arithmetic is float32.

        Args:
          claim: what it states; its apothem is measured here.
          proof: of its box, if growth recorded one.
          deadline: `time.monotonic()` after which no proof is looked for.
        """
        claim = self._measured(dataclasses.replace(claim, proved=True))
        refused = "there was no time for its proof"
        for find in (lambda: proof, lambda: self._branched(claim, deadline)):
            if (found := find()) is None:
                continue
            written = self._write(claim, found)
            if written.path is not None:
                return written
            assert written.report is not None
            refused = f"the checker does not accept its proof: {written.report.reason}"
        if self._arithmetic == "float32":
            return Written(claim, None, None, refused=refused)
        alone = self._write(dataclasses.replace(claim, proved=False), None)
        return dataclasses.replace(alone, refused=refused)

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

    def _header(self, claim: Claim) -> dict[str, Any]:
        header = super()._header(claim)
        if isinstance(claim, GrownClaim):
            header |= {"delta": float(claim.delta), "proved": claim.proved}
        return header

    def _arrays(self, claim: Claim) -> dict[str, np.ndarray]:
        arrays = super()._arrays(claim)
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
