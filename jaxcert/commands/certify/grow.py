"""Growing the boxes of a run, batch by batch, with their certificates."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from jaxcert.box import Box
from jaxcert.certificate.grown import Faces, GrownClaim, GrownWriter
from jaxcert.certification import Certification, Outcome
from jaxcert.certifier import Certifier
from jaxcert.measures import apothem, edge_measures
from jaxcert.search.growth import AT_DOMAIN, OPEN, Growth, GrowthOptions

NOTHING = "off"
# Per box: what has grown gets time for its proof (and its compilation) in any case.
_PROOF_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, eq=False)
class Grown:
    """Boxes that grew, row by row.

    Attributes:
      records: what `jaxcert.report.GROWN_KEYS` name; None without a box.
      lo, hi: the boxes, NaN where there is none, (n, *d).
    """

    records: list[dict[str, Any] | None]
    lo: np.ndarray
    hi: np.ndarray


@dataclasses.dataclass
class Grower:
    """Grows the boxes of certified inputs, and counts.

    Attributes:
      certifier: which certified them.
      options: how they grow.
      writer: writes their certificates; None to write none.
      arithmetic: real or float32; of float32, a box without its proof is none.
      boxes: grown so far; audited: those without a proof in their certificate.
      stopped, open: faces inside the domain.
      seconds: growing took, proofs included.
    """

    certifier: Certifier
    options: GrowthOptions
    writer: GrownWriter | None = None
    arithmetic: str = "real"
    boxes: int = 0
    audited: int = 0
    stopped: int = 0
    open: int = 0
    seconds: float = 0.0

    @staticmethod
    def into(
        folder: Path | None,
        certifier: Certifier,
        options: GrowthOptions,
        arithmetic: str = "real",
    ) -> Grower:
        """Returns what grows boxes and writes certificates into a folder, if given."""
        writer = None
        if folder is not None:
            writer = GrownWriter.into(folder, certifier, arithmetic)
        return Grower(certifier, options, writer, arithmetic)

    def grow(
        self,
        names: Sequence[str],
        x: np.ndarray,
        found: Certification,
        deadline: float = np.inf,
    ) -> Grown:
        """Returns the grown boxes of a batch and writes their certificates."""
        begin = time.perf_counter()
        growth = self.certifier.grow(
            x, found, self.options, deadline, record=self.writer is not None
        )
        own = found.outcome == Outcome.CERTIFIED
        lo, hi = (np.array(v, np.float64) for v in (growth.box.lo, growth.box.hi))
        faces = self._write(names, x, found, growth, deadline, (lo, hi))
        if self.arithmetic == "float32":  # nothing but the checker proves that
            own &= [row in faces for row in range(len(x))]
        lo[~own], hi[~own] = np.nan, np.nan
        seconds = time.perf_counter() - begin
        self.seconds += seconds
        records: list[dict[str, Any] | None] = [None] * len(x)
        for row in map(int, np.flatnonzero(own)):
            record = self._record(growth, row, x[row], Box(lo[row], hi[row]))
            record |= {"seconds": seconds / own.sum(), "proof": None}
            if row in faces:  # what the file claims is what counts
                record |= {
                    "faces_stopped": faces[row].witnessed,
                    "faces_open": faces[row].open,
                    "proof": faces[row].proved,
                }
            self.boxes += 1
            self.stopped += record["faces_stopped"]
            self.open += record["faces_open"]
            records[row] = record
        return Grown(records, lo, hi)

    def _write(
        self,
        names: Sequence[str],
        x: np.ndarray,
        found: Certification,
        growth: Growth,
        deadline: float,
        box: tuple[np.ndarray, np.ndarray],
    ) -> dict[int, Faces]:
        """Writes certificates, and what they claim into the box.

        Returns what the checker said of each file that is kept, by row.
        """
        writer, (lo, hi) = self.writer, box
        own = found.outcome == Outcome.CERTIFIED
        if writer is None or not own.any():
            return {}
        deadline = max(deadline, time.monotonic() + _PROOF_SECONDS * own.sum())
        faces: dict[int, Faces] = {}
        for row in map(int, np.flatnonzero(own)):
            claim = GrownClaim.of(names[row], x[row], row, found, growth)
            kept = writer.write_grown(claim, growth.proofs[row], deadline)
            if kept.path is None:
                logging.warning(
                    "%s: no certificate of its grown box is written (%s)",
                    claim.name, kept.refused or getattr(kept.report, "reason", ""),
                )  # fmt: skip
                continue
            assert kept.report is not None and kept.report.faces is not None
            faces[row] = kept.report.faces
            if not faces[row].proved:
                self.audited += 1
                logging.warning(
                    "%s: the certificate of its grown box holds the faces alone (%s)",
                    claim.name, kept.refused,
                )  # fmt: skip
            # Rounding may have asked for a smaller box.
            lo[row] = kept.claim.lo.reshape(x[row].shape)
            hi[row] = kept.claim.hi.reshape(x[row].shape)
        return faces

    def _record(
        self, growth: Growth, row: int, x: np.ndarray, box: Box
    ) -> dict[str, Any]:
        blocked = growth.blocked[row]
        return {
            "objective": self.options.objective,
            "delta": self.options.delta,
            "apothem": apothem(x, box, self.certifier.domain, self.certifier.rates),
            **edge_measures(box),
            "faces_on_domain": int((blocked == AT_DOMAIN).sum()),
            "faces_stopped": int((blocked >= 0).sum()),
            "faces_open": int((blocked == OPEN).sum()),
            "subproblems": int(growth.subproblems[row]),
        }

    def summary(self) -> str:
        """Returns a paragraph about what grew."""
        if not self.boxes:
            return "No box was grown."
        free = self.stopped + self.open
        text = (
            f"{self.boxes} boxes grown ({self.options.objective}) in "
            f"{self.seconds:.1f} s: {self.stopped} of {free} faces inside the domain\n"
            f"are stopped by a counterexample at most {self.options.delta:g} beyond "
            "them"
        )
        if self.writer is None:
            return text + "."
        proofs = f"certificates in {self.writer.folder}"
        if self.audited:
            proofs += f", {self.audited} of them of the faces alone"
        return f"{text};\n{proofs}."
