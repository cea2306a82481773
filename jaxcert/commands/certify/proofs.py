"""Writing the certificates of a run, batch by batch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import logging

from jaxcert.branch.leaves import Proof
from jaxcert.certificate.store import CertificateWriter, Claim
from jaxcert.certification import Certification, Outcome
from jaxcert.certifier import Certifier


@dataclasses.dataclass
class Proofs:
    """Writes one certificate per certified input, and counts.

    Attributes:
      writer: writes them.
      arithmetic: real or float32.
      written: certificates so far.
      size: their bytes.
      seconds: writing them took, the check included.
      checking: seconds of each check.
      vacuous: how many of them say nothing, because the margin may be negative, say.
    """

    writer: CertificateWriter
    arithmetic: str
    written: int = 0
    size: int = 0
    seconds: float = 0.0
    checking: list[float] = dataclasses.field(default_factory=list)
    vacuous: int = 0

    @staticmethod
    def into(folder: Path, certifier: Certifier, arithmetic: str) -> Proofs:
        """Returns proofs of a certifier's claims; raises UnsupportedError."""
        return Proofs(CertificateWriter.into(folder, certifier, arithmetic), arithmetic)

    def write(
        self,
        names: Sequence[str],
        x: np.ndarray,
        answer: Certification,
        proof: Proof | None,
    ) -> Certification:
        """Returns the answer as far as certificates were written and accepted.

        A box may have shrunk by a rounding. For `arithmetic` float32 an input whose
        certificate is rejected is unknown; for real it stays proved, with a warning.
        """
        begin = time.perf_counter()
        answer = jax.tree.map(np.array, answer)
        for row in np.flatnonzero(answer.outcome == Outcome.CERTIFIED):
            self._write_one(names[int(row)], x[row], answer, int(row), proof)
        self.seconds += time.perf_counter() - begin
        return answer

    def _write_one(
        self,
        name: str,
        x: np.ndarray,
        answer: Certification,
        row: int,
        proof: Proof | None,
    ) -> None:
        claim = Claim.of_answer(name, x, row, answer)
        own = None if proof is None else proof.of(row)
        written = self.writer.write(claim, own)
        assert written.report is not None  # there is an attempt at least
        if written.path is None:
            logging.warning(
                "%s: the checker does not accept its certificate (%s); none is written",
                name, written.report.reason,
            )  # fmt: skip
            if self.arithmetic == "float32":
                answer.outcome[row], answer.lower[row] = Outcome.UNKNOWN, 0.0
                answer.box.lo[row], answer.box.hi[row] = np.nan, np.nan
            return
        shape = answer.box.lo[row].shape
        answer.lower[row] = written.claim.lower
        answer.box.lo[row] = written.claim.lo.reshape(shape)
        answer.box.hi[row] = written.claim.hi.reshape(shape)
        self.written += 1
        self.size += written.size
        self.checking.append(written.checking)
        self.vacuous += not written.report.accepted

    def summary(self) -> str:
        """Returns one paragraph about what was written."""
        if not self.written:
            return "No certificate was written."
        said = "all accepted"
        if self.vacuous:
            said = f"{self.vacuous} of them called vacuous"
        return (
            f"{self.written} certificates of {self.size / self.written / 1000:.1f} kB "
            f"(mean) and their network\nin {self.writer.folder}; {said} by the "
            f"independent checker\n({np.median(self.checking):.3f} s each, median; "
            f"{self.seconds:.1f} s for all with writing)."
        )
