"""Checks certificates by a small program that shares no code with the search.

    python experiments/check.py out/certify
    python experiments/check.py out/certify/proofs/7.npz --exact

A path is a certificate or a folder; of a folder, all certificates in it or in its
`proofs` are checked. Each needs its network file beside it. One line per file, then a
summary. Exit code 0 if all of them are accepted, and there is at least one.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path

import _common
from absl import flags

from jaxcert.certificate.check import Report
from jaxcert.certificate.check_cuts import check_certificate
from jaxcert.errors import InputError

_EXACT = flags.DEFINE_bool("exact", False, "Compute in rational numbers, slowly.")
_NETWORK = flags.DEFINE_string(
    "network", None, "The sha256 that the network must have, in full."
)


def certificates(path: Path) -> list[Path]:
    """Returns the certificates that a path stands for.

    Raises:
      InputError: there is nothing, or no certificate in the folder.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(
            f"{path}: there is no such file or folder; name a certificate, or the "
            "folder of a run"
        )
    folder = path / "proofs" if (path / "proofs").is_dir() else path
    found = sorted(
        entry
        for entry in folder.glob("*.npz")
        if not entry.name.startswith(("network-", "."))
    )
    if not found:
        raise InputError(f"{folder} holds no certificate (*.npz)")
    return found


def line(path: Path, report: Report) -> str:
    """Returns what to print of a checked file."""
    name = _common.one_line(path.name.removesuffix(".npz"))
    if not report.accepted:
        return f"REJECTED {name}: {_common.one_line(report.reason)}"
    return (
        f"accepted {name} class {report.label} "
        f"[{report.apothem_lower:.6g}, {report.apothem_upper:.6g}] "
        f"{report.arithmetic} leaves {report.leaves} {1e3 * report.seconds:.0f} ms"
    )


def main(argv: Sequence[str]) -> int:
    """Runs the script on the paths; returns its exit code."""
    network = _NETWORK.value
    if network is not None:
        network = network.lower()
        if not re.fullmatch(r"[0-9a-f]{64}", network):
            raise InputError(f"--network={network} is no sha256: write 64 hex digits")
    if len(argv) < 2:
        raise InputError("name certificates, or the folder of a run")
    paths = [found for word in argv[1:] for found in certificates(_common.expand(word))]
    reports = []
    for path in paths:
        report = check_certificate(path, network=network, exact=_EXACT.value)
        print(line(path, report), flush=True)
        reports.append(report)
    accepted = sum(report.accepted for report in reports)
    median = 1e3 * statistics.median(report.seconds for report in reports)
    print(
        f"{len(reports)} checked: {accepted} accepted, {len(reports) - accepted} "
        f"rejected; median {median:.1f} ms"
    )
    return 0 if accepted == len(reports) else 1


if __name__ == "__main__":
    _common.run(main, positional=True)
