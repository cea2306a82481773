"""The check of a whole benchmark: of every answer in a results file.

The file NAME.csv has the columns onnx, vnnlib, result, seconds; its row k that says sat
or unsat is proved by NAME_proofs/<k>.npz, three digits or more. All rows of one network
file must be about one network.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from .against import Instance, instance, table
from .check import check_certificate
from .claim import AnswerReport, Expected, Finding, Status

_COLUMNS = ["onnx", "vnnlib", "result", "seconds"]


class Results:
    """The rows of a results file; `decided` of `rows` many say sat or unsat."""

    def __init__(self, path: Path, folder: Path | None) -> None:
        """Reads the rows; raises OSError.

        Args:
          path: of the file.
          folder: that the names of VNN-LIB files are relative to; None to read the
            copies beside the proofs instead.
        """
        self.folder, self.networks = folder, dict[str, tuple[str, int]]()
        self._accepted: list[tuple[tuple[str, str], str]] = []
        self.proofs = path.with_name(f"{path.stem}_proofs")
        head, *rows = [row for row in table(path) if row] or [[]]
        if head != _COLUMNS or any(len(row) != len(_COLUMNS) for row in rows):
            raise OSError(f"{path} is no results file: its columns are not {_COLUMNS}")
        self.rows = len(rows)
        self._named = {(row[0], row[1]) for row in rows}
        self.decided = [
            (number, row)
            for number, row in enumerate(rows, 1)
            if row[2] in ("sat", "unsat")
        ]

    def reports(
        self, expected: Expected, exact: bool
    ) -> Iterator[tuple[Path, Finding]]:
        """Yields the file of every answer and what is to be thought of it."""
        for number, (onnx, vnnlib, result, _) in self.decided:
            path = self.proofs / f"{number:03d}.npz"
            if self.folder is not None:
                expected = dataclasses.replace(expected, vnnlib=self.original(vnnlib))
            if path.exists():
                report = check_certificate(path, expected=expected, exact=exact)
            else:
                report = AnswerReport(Status.REJECTED, "there is no proof of it", 0.0)
            report = self.of_row(number, onnx, result, report)
            if report.accepted:
                self._accepted.append(((onnx, vnnlib), result))
            yield path, report

    def known(self) -> list[tuple[Instance, str]]:
        """Returns instances with the answers that `reports` found accepted.

        One without any has the answer "": its names may be those of another one.
        """
        open_ = self._named - {names for names, _ in self._accepted}
        answers = [*self._accepted, *((names, "") for names in sorted(open_))]
        return [(instance(*names), answer) for names, answer in answers]

    def original(self, vnnlib: str) -> Path:
        """Returns where the VNN-LIB file of a row is, gzipped or not."""
        assert self.folder is not None
        path = self.folder / vnnlib
        packed = Path(f"{path}.gz")
        return packed if packed.exists() and not path.exists() else path

    def of_row(self, number: int, onnx: str, result: str, report: Finding) -> Finding:
        """Returns the report; a rejection, if it is not of this row."""
        reason = ""
        if not report.holds:
            return report
        if not isinstance(report, AnswerReport):
            reason = "it is of a box, not of a property"
        elif report.answer != result:
            reason = f"it proves {report.answer}, the row says {result}"
        else:
            known = report.network_sha256, number
            sha256, first = self.networks.setdefault(onnx, known)
            if sha256 != report.network_sha256:
                reason = f"the network is not that of row {first}, of the same file"
        if not reason:
            return report
        return AnswerReport(Status.REJECTED, reason, report.seconds)
