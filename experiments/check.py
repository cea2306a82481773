"""Checks certificates by a small program that shares no code with the search.

    python experiments/check.py out/certify
    python experiments/check.py out/certify/proofs/7.npz --exact

A path is a certificate or a folder; of a folder, all certificates in it, or in its
`proofs` and `grown`, are checked. Each needs its network file beside it. One line per
file, then a summary. Of a grown box every face is checked as well: it lies on the
domain's boundary, or a counterexample stops it, or it is open. Exit code 0 if all files
are accepted, and there is at least one; an open face is no mistake.
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
from jaxcert.certificate.check_faces import FacesReport, check_faces, has_faces
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
    own = [path / name for name in ("proofs", "grown") if (path / name).is_dir()]
    folders = own or [path]
    found = sorted(
        entry
        for folder in folders
        for entry in folder.glob("*.npz")
        if not entry.name.startswith(("network-", "."))
    )
    if not found:
        names = " and ".join(str(folder) for folder in folders)
        raise InputError(f"{names} holds no certificate (*.npz)")
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


def faces_line(path: Path, report: FacesReport) -> str:
    """Returns what to print of a checked grown box."""
    box = report.box
    if not box.accepted:
        return line(path, box)
    name = _common.one_line(path.name.removesuffix(".npz"))
    proved = f"leaves {box.leaves}" if report.proved else "box audited, faces checked"
    fixed = f"{report.fixed} fixed, " if report.fixed else ""
    return (
        f"accepted {name} class {box.label} grown {box.arithmetic} {proved}: "
        f"{report.on_domain} on F, {fixed}{report.witnessed} stopped, {report.open} "
        f"open, {1e3 * box.seconds:.0f} ms"
    )


def faces_total(reports: Sequence[FacesReport]) -> str:
    """Returns what to print of all grown boxes that were accepted."""
    proved = sum(report.proved for report in reports)
    maximal = sum(not report.open for report in reports)
    free = sum(report.witnessed + report.open for report in reports)
    stopped = sum(report.witnessed for report in reports)
    boxes = f"{proved} with their proof"
    if audited := len(reports) - proved:
        boxes += f", {audited} audited only"
    deltas = sorted({report.delta for report in reports})
    beyond = f"{deltas[0]:g}" + (f" .. {deltas[-1]:g}" if deltas[1:] else "")
    return (
        f"grown boxes: {len(reports)} accepted, {boxes}; {maximal} maximal;\n"
        f"{stopped} of {free} faces inside the domain F are stopped by a "
        f"counterexample at most\n{beyond} beyond"
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
    reports, grown = [], []
    for path in paths:
        if has_faces(path):
            faces = check_faces(path, network=network, exact=_EXACT.value)
            print(faces_line(path, faces), flush=True)
            reports.append(faces.box)
            grown += [faces] if faces.box.accepted else []
        else:
            report = check_certificate(path, network=network, exact=_EXACT.value)
            print(line(path, report), flush=True)
            reports.append(report)
    accepted = sum(report.accepted for report in reports)
    median = 1e3 * statistics.median(report.seconds for report in reports)
    if grown:
        print(faces_total(grown))
    print(
        f"{len(reports)} checked: {accepted} accepted, {len(reports) - accepted} "
        f"rejected; median {median:.1f} ms"
    )
    return 0 if accepted == len(reports) else 1


if __name__ == "__main__":
    _common.run(main, positional=True)
