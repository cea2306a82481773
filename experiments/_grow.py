"""Growing the boxes of a run, batch by batch, with their certificates."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from jaxcert.box import Box, Rates
from jaxcert.certificate.grown import GrownClaim, GrownWriter, prove_boxes
from jaxcert.certification import Certification, Outcome
from jaxcert.certifier import Certifier, float64
from jaxcert.search.growth import AT_DOMAIN, OPEN, Growth, GrowthOptions

NOTHING = "off"
# A box that has grown gets time for its proof, even when the run's is over.
_PROOF_SECONDS = 10.0


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
      boxes: grown so far; audited: those without a proof in their certificate.
      stopped, open: faces inside the domain.
      seconds: growing took, proofs included.
    """

    certifier: Certifier
    options: GrowthOptions
    writer: GrownWriter | None = None
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
            with float64():
                writer = GrownWriter(
                    certifier.f, certifier.params32, certifier.params64,
                    certifier.domain, certifier.rates, folder,
                    required_margin=certifier.required_margin, arithmetic=arithmetic,
                )  # fmt: skip
        return Grower(certifier, options, writer)

    def grow(
        self,
        names: Sequence[str],
        x: np.ndarray,
        found: Certification,
        deadline: float = np.inf,
    ) -> Grown:
        """Returns the grown boxes of a batch and writes their certificates."""
        begin = time.perf_counter()
        growth = self.certifier.grow(x, found, self.options, deadline)
        own = found.outcome == Outcome.CERTIFIED
        lo, hi = (np.array(v, np.float64) for v in (growth.box.lo, growth.box.hi))
        proofs: list[bool | None] = [None] * len(x)
        if own.any():
            proofs = self._write(names, x, found, growth, deadline, (lo, hi))
        lo[~own], hi[~own] = np.nan, np.nan
        seconds = time.perf_counter() - begin
        self.seconds += seconds
        records: list[dict[str, Any] | None] = [None] * len(x)
        for row in map(int, np.flatnonzero(own)):
            record = self._record(growth, row, x[row], Box(lo[row], hi[row]))
            record |= {"seconds": seconds / own.sum(), "proof": proofs[row]}
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
    ) -> list[bool | None]:
        """Writes certificates, and what they claim into the box.

        Returns which have a proof; None where none is kept.
        """
        writer, (lo, hi) = self.writer, box
        if writer is None:
            return [None] * len(x)
        own = found.outcome == Outcome.CERTIFIED
        deadline = max(deadline, time.monotonic() + _PROOF_SECONDS * own.sum())
        answer = prove_boxes(self.certifier, found.label, growth.box, own, deadline)
        trees_of = answer.trees.of if answer.trees is not None else None
        proofs: list[bool | None] = [None] * len(x)
        for row in map(int, np.flatnonzero(own)):
            claim = GrownClaim.of(
                names[row], x[row], row, found, growth, self.options.delta
            )
            trees = trees_of(row) if trees_of and answer.improved[row] else None
            with float64():
                written = writer.write_grown(claim, trees)
                if written.path is None and trees is not None:
                    logging.warning(
                        "%s: the checker does not accept the proof of its grown box "
                        "(%s); its faces are written alone",
                        names[row], written.report.reason,
                    )  # fmt: skip
                    written, trees = writer.write_grown(claim, None), None
            if written.path is None:
                logging.warning(
                    "%s: no certificate of its grown box is written (%s)",
                    names[row], written.report.reason,
                )  # fmt: skip
                continue
            proofs[row] = trees is not None
            self.audited += trees is None
            # Rounding may have asked for a smaller box.
            lo[row] = written.claim.lo.reshape(x[row].shape)
            hi[row] = written.claim.hi.reshape(x[row].shape)
        return proofs

    def _record(
        self, growth: Growth, row: int, x: np.ndarray, box: Box
    ) -> dict[str, Any]:
        blocked = growth.blocked[row]
        edges = np.asarray(box.hi) - np.asarray(box.lo)
        stopped, still = int((blocked >= 0).sum()), int((blocked == OPEN).sum())
        self.boxes += 1
        self.stopped += stopped
        self.open += still
        with np.errstate(divide="ignore"):
            volume = float(np.sum(np.log(edges)))
        return {
            "objective": self.options.objective,
            "delta": self.options.delta,
            "apothem": apothem(x, box, self.certifier.domain, self.certifier.rates),
            "min_edge": float(edges.min()),
            "mean_edge": float(edges.mean()),
            "max_edge": float(edges.max()),
            "log_volume": volume,
            "faces_on_domain": int((blocked == AT_DOMAIN).sum()),
            "faces_stopped": stopped,
            "faces_open": still,
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


def apothem(x: np.ndarray, box: Box, domain: Box, rates: Rates) -> float:
    """Returns the apothem of a box around x, in float64."""
    with float64():
        return float(jax.device_get(box.apothem(x, domain, rates)))  # type: ignore[arg-type]
