"""The check of one file, of whichever kind it is."""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import os
import time
from typing import Any

import numpy as np

from .answers import AnswerCertificate
from .boxes import Certificate
from .claim import Expected, Finding, Report, Status
from .convex import ConvexCertificate
from .duals import DualCertificate
from .reading import Rejected, need, read, unpacked
from .semantic import ChangeCertificate
from .smoothed import SmoothedCertificate

# By claim, which older boxes do not name: the versions, and what reads them.
_KINDS: dict[Any, tuple[tuple[int, ...], Any]] = {
    None: ((1, 2, 5), Certificate),
    "box": ((6,), Certificate),
    "sat": ((3, 10, 11), AnswerCertificate),
    "unsat": ((3, 10, 11), AnswerCertificate),
    "smoothed": ((4,), SmoothedCertificate),
    "dual": ((7,), DualCertificate),
    "semantic": ((8,), ChangeCertificate),
    "convex": ((9,), ConvexCertificate),
}


def check_certificate(
    path: str | os.PathLike[str],
    *,
    expected: Expected | None = None,
    exact: bool = False,
) -> Finding:
    """Returns whether the file proves what it claims, and if not, why. Never raises.

    Args:
      path: a certificate of any kind. The network file that it names lies in the same
        folder and must have the sha256 that it states.
      expected: what the claim must be, where the caller insists.
      exact: compute in rational numbers, instead of float64.
    """
    begin, status, form = time.perf_counter(), Status.REJECTED, Report
    found: dict[str, Any] = {}
    try:
        with np.errstate(all="ignore"):
            _, head, arrays = unpacked(read(path), "certificate", 11)
            claim, version = head.get("claim"), head["version"]
            known = claim is None or isinstance(claim, str) and claim in _KINDS
            need(known, f"the claim is {str(claim)[:40]!r}")
            versions, kind = _KINDS[claim]
            said = f"version of the format is {version}, which has no claim {claim!r}"
            need(version in versions, said)
            form = kind.report
            certificate = kind(path, head, arrays, expected or Expected(), exact)
            found = certificate.check()
            status, reason = certificate.judged()
    except Rejected as rejected:
        reason = str(rejected)
    except Exception as error:  # whatever a damaged file provokes: not accepted
        reason = f"damaged file: {type(error).__name__}: {str(error)[:200]}"
    found = {} if status is Status.REJECTED else found
    seconds = time.perf_counter() - begin
    return form(status, " ".join(reason.split()), seconds, **found)
