"""What a run has answered before, and the brackets of it that are open."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.box import Box
from jaxcert.certifier import Known
from jaxcert.report import Record, Run, read_run
from jaxcert.report.agreement import PROOFS
from jaxcert.report.stored import refines
from jaxcert.runs.files import file_stem


@dataclasses.dataclass(frozen=True, eq=False)
class Earlier:
    """Answers of a run, by the names of their inputs.

    Attributes:
      folder: of the run.
      run: as it is stored.
      place: of every input, its row.
    """

    folder: Path
    run: Run
    place: Mapping[str, int]

    @staticmethod
    def read(folder: Path) -> Earlier:
        """Returns what a run holds; raises InputError where that is damaged."""
        run = read_run(folder)
        place = {record["input"]: row for row, record in enumerate(run.records)}
        return Earlier(folder, run, place)

    def record(self, name: str) -> Record:
        """Returns the record of an input."""
        return self.run.records[self.place[name]]

    def is_open(self, name: str, tolerance: float) -> bool:
        """Whether the bracket of an input is wider than the tolerance."""
        record = self.record(name)
        lower, upper = record["apothem_lower"], record["apothem_upper"]
        wide = math.isfinite(lower) and upper - lower > tolerance
        return wide and record["status"] != "misclassified"

    def certified_by_file(self, name: str) -> bool:
        """Whether a certificate of an input lies in the folder."""
        return (self.folder / PROOFS / f"{file_stem(name)}.npz").is_file()

    def known(self, names: Sequence[str]) -> Known:
        """Returns the brackets of inputs, for the search to go on from."""
        rows = [self.place[name] for name in names]
        records = [self.run.records[row] for row in rows]
        lo, hi = (np.asarray(v[rows], np.float64) for v in (self.run.lo, self.run.hi))
        return Known(
            lower=np.array([r["apothem_lower"] for r in records], np.float64),
            box=Box(lo, hi),  # type: ignore[arg-type]
            upper=np.array([r["apothem_upper"] for r in records], np.float64),
            witness=np.asarray(self.run.witness[rows], np.float64),
        )

    def least(
        self, names: Sequence[str], records: Sequence[Mapping[str, Any]]
    ) -> np.ndarray:
        """Returns the lower ends that new records go beyond; NaN where they do not."""
        old = [self.record(name) for name in names]
        return np.array(
            [
                before["apothem_lower"] if refines(after, before) else math.nan
                for before, after in zip(old, records, strict=True)
            ]
        )

    def with_work(self, record: Record) -> Record:
        """Returns a new record with the work of the earlier one counted in."""
        before, whole = self.record(record["input"]), dict(record)
        for key in ("oracle_calls", "subproblems", "seconds"):
            whole[key] = (before[key] or 0) + (record[key] or 0)
        return whole

    def grown(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the boxes that those of inputs grew to, NaN where there is none."""
        rows = [self.place[name] for name in names]
        return self.run.grown_lo[rows], self.run.grown_hi[rows]
