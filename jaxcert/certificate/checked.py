"""Certificate files that stay only if the checker accepts them."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import jaxcert
from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Finding
from jaxcert.runs.files import write_atomically


@dataclasses.dataclass(frozen=True)
class WrittenProof:
    """One certificate whose proof was looked for.

    Attributes:
      path: the file; None if there is none.
      report: what the checker said; None if no proof was found in time.
      size: bytes of the file.
      finding: seconds that finding the proof took.
    """

    path: Path | None
    report: Finding | None
    size: int = 0
    finding: float = 0.0

    @property
    def refused(self) -> str:
        """Why there is no file; empty if there is one."""
        if self.path is not None:
            return ""
        if self.report is None:
            return "no proof was found in time"
        return f"the checker does not accept it: {self.report.reason}"


def write_checked(
    path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[Finding, int]:
    """Writes a certificate, asks the checker, and returns what it says and the bytes.

    A file that it does not accept is removed, and leaves another one of this name as
    it was.

    Args:
      path: of the file, .npz, in a folder that exists.
      header: what it states beside the format and the tool; JSON.
      arrays: its other entries.

    Raises:
      OSError: the folder cannot be written.
    """
    packed, tool = io.BytesIO(), f"jaxcert {jaxcert.__version__}"
    whole = {"format": "jaxcert certificate", "tool": tool, **header}
    text = np.frombuffer(json.dumps(whole).encode(), np.uint8)
    np.savez_compressed(packed, header=text, **arrays)  # type: ignore[arg-type]
    temporary = path.with_name(f".unchecked-{path.name}")
    write_atomically(temporary, packed.getvalue())
    try:
        report = check_certificate(temporary)
        if report.holds:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return report, len(packed.getvalue())
