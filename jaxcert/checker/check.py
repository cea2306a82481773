"""The check of one file, of whichever kind it is."""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import os

from .answers import AnswerCertificate
from .balls import BallCertificate
from .boxes import Certificate, report_on
from .claim import AnyReport, Expected
from .cuts import CutCertificate
from .duals import DualCertificate
from .faces import GrownCertificate
from .reading import members
from .semantic import ChangeCertificate
from .smoothed import SmoothedCertificate


def check_certificate(
    path: str | os.PathLike[str],
    *,
    expected: Expected | None = None,
    exact: bool = False,
) -> AnyReport:
    """Returns whether the file proves what it claims, and if not, why. Never raises.

    Args:
      path: a certificate of any kind. The network file that it names lies in the same
        folder and must have the sha256 that it states.
      expected: what the claim must be, where the caller insists.
      exact: compute in rational numbers, instead of float64.
    """
    return report_on(_of_its_kind, path, expected or Expected(), exact)


# Of what is no box, by an array that no other kind has.
_KINDS = {
    "hits": SmoothedCertificate,
    "dual_domain_lo": DualCertificate,
    "change_x": ChangeCertificate,
}


def _of_its_kind(path, expected: Expected, exact: bool):
    names = members(path)
    for name, made in _KINDS.items():
        if name in names:
            return made(path, expected, exact)
    if not names & {"x", "lo"}:
        return AnswerCertificate(path, expected, exact)
    kind: type[Certificate] = CutCertificate
    if "ball" in names:
        kind = BallCertificate
    elif "face_by" in names:
        kind = GrownCertificate
    return kind(path, expected, exact)
