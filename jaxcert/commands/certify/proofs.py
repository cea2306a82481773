"""Writing the certificates of a run, batch by batch."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import logging

from jaxcert.branch.leaves import Proof
from jaxcert.branch.linear_program import is_piecewise_linear
from jaxcert.certificate.store import CertificateWriter, Claim
from jaxcert.certification import Certification, Outcome
from jaxcert.certifier import Certifier
from jaxcert.errors import UnsupportedError
from jaxcert.trace.program import is_relu

_FEW_NEURONS = 64
"""Neurons of networks whose proofs are written unasked: to record the trees of wider
ones takes a quarter of the time to search, and three times the memory."""
_FEW_LEAVES = 1000
"""Leaves of trees that are written unasked: the checker takes a tenth of a second."""


def are_cheap(certifier: Certifier) -> bool:
    """Returns whether proofs take little beside the search: one layer, or no branching.

    Others may need ranges of neurons that no tree records.
    """
    program = certifier.model.program
    layers = [node.size for node in program.nodes if is_relu(node)]
    small = sum(layers) <= _FEW_NEURONS and is_piecewise_linear(program)
    return small and (len(layers) <= 1 or certifier.options.oracle != "complete")


@dataclasses.dataclass
class Proofs:
    """Writes one certificate per certified input, and counts.

    Attributes:
      writer: writes them.
      arithmetic: real or float32.
      most: leaves of a tree that is written; inf for all, however long it takes.
      written: certificates so far.
      size: their bytes.
      seconds: writing them took, the check included.
      checking: seconds of each check.
      vacuous: how many of them say nothing, because the margin may be negative, say.
      rejected: names of the inputs of which none was accepted.
      large: how many have none because their trees have more than `most` leaves.
    """

    writer: CertificateWriter
    arithmetic: str
    most: float = math.inf
    written: int = 0
    size: int = 0
    seconds: float = 0.0
    checking: list[float] = dataclasses.field(default_factory=list)
    vacuous: int = 0
    rejected: set[str] = dataclasses.field(default_factory=set)
    large: int = 0

    @staticmethod
    def into(folder: Path, certifier: Certifier, arithmetic: str) -> Proofs:
        """Returns proofs of a certifier's claims; raises UnsupportedError."""
        return Proofs(CertificateWriter.into(folder, certifier, arithmetic), arithmetic)

    @staticmethod
    def where_cheap(folder: Path, certifier: Certifier) -> Proofs | None:
        """Returns proofs of small trees alone; None for a network that has no files."""
        try:
            writer = CertificateWriter.into(folder, certifier)
        except UnsupportedError:
            return None
        return Proofs(writer, "real", _FEW_LEAVES)

    def write(
        self,
        names: Sequence[str],
        x: np.ndarray,
        answer: Certification,
        proof: Proof | None,
        least: np.ndarray | None = None,
    ) -> Certification:
        """Returns the answer as far as certificates were written and accepted.

        A box may have shrunk by a rounding. For `arithmetic` float32 an input whose
        certificate is rejected is unknown; for real it stays proved, with a warning.

        Args:
          names, x, answer, proof: of the inputs of a batch.
          least: apothems below which certificates stay as they are, (n,); NaN where
            they stay in any case. None: there are none yet.
        """
        begin = time.perf_counter()
        answer = jax.tree.map(np.array, answer)
        least = np.zeros(len(names)) if least is None else least
        wanted = (answer.outcome == Outcome.CERTIFIED) & ~np.isnan(least)
        for row in map(int, np.flatnonzero(wanted)):
            claim = Claim.of_answer(names[row], x[row], row, answer)
            own = None if proof is None else proof.of(row)
            if self._is_large(claim.name, own):
                self.large += 1
                continue
            self._write_one(claim, answer, row, own, float(least[row]))
        self.seconds += time.perf_counter() - begin
        return answer

    def _is_large(self, name: str, proof: Proof | None) -> bool:
        """Returns whether a proof is left out; one that would replace a file is not."""
        if proof is None or len(proof.leaves.owner) <= self.most:
            return False
        return not self.writer.path(name).exists()

    def _write_one(
        self,
        claim: Claim,
        answer: Certification,
        row: int,
        proof: Proof | None,
        least: float,
    ) -> None:
        deadline = math.inf if math.isinf(self.most) else -math.inf
        written = self.writer.write(claim, proof, deadline, least)
        assert written.report is not None  # there is an attempt at least
        if written.path is None:
            self.rejected.add(claim.name)
            logging.warning(
                "%s: the checker does not accept its certificate (%s); none is written",
                claim.name, written.report.reason,
            )  # fmt: skip
            if self.arithmetic == "float32":
                answer.outcome[row], answer.lower[row] = Outcome.UNKNOWN, 0.0
                answer.box.lo[row], answer.box.hi[row] = np.nan, np.nan
            return
        self.rejected.discard(claim.name)
        shape = answer.box.lo[row].shape
        answer.lower[row] = written.claim.lower
        answer.box.lo[row] = written.claim.lo.reshape(shape)  # NaN of a ball
        answer.box.hi[row] = written.claim.hi.reshape(shape)
        self.written += 1
        self.size += written.size
        self.checking.append(written.checking)
        self.vacuous += not written.report.accepted

    def summary(self) -> str:
        """Returns one paragraph about what was written; '' if there was nothing to."""
        large = (
            f"{self.large} inputs have no certificate, since their trees have more "
            f"than\n{self.most} leaves each: --proofs writes these too."
        )
        if not self.written:
            none = "No certificate was written." if self.rejected else ""
            return large if self.large else none
        said = "all accepted"
        if self.vacuous:
            said = f"{self.vacuous} of them called vacuous"
        return (
            f"{self.written} certificates of {self.size / self.written / 1000:.1f} kB "
            f"(mean), {said} by the independent checker\n"
            f"({np.median(self.checking):.3f} s each, median; {self.seconds:.1f} s for "
            f"all with writing), and their network, in\n{self.writer.folder}"
            + (f"\n{large}" if self.large else "")
        )
