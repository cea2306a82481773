"""The command: one line per certificate, a summary, and an exit code."""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import argparse
import dataclasses
import enum
import json
import math
import os
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .check import check_certificate
from .claim import AnyReport, Expected, Status
from .results import Results

_EPILOG = """\
A path is a certificate or a folder; of a folder, all certificates in it, or in its
`proofs` and `grown`, are checked. Each needs its network file beside it. Of a results
file NAME.csv every row that says sat or unsat is checked, by its file in NAME_proofs.
One line per file states the whole claim, then comes a summary. Exit codes:
  0  all are accepted, and there is at least one
  1  one is REJECTED, or the box of one is NOT PROVED
  2  a path holds no certificate, or the command line is wrong
  3  all hold, but one is VACUOUS: it says nothing (a margin below 0, no free feature,
     rates 0, a box that is a point)
Of a grown box every face is checked as well: it lies on the domain's boundary, or a
counterexample stops it, or it is open; an open face is no mistake.
"""
_SAY = {Status.UNPROVED: "NOT PROVED", Status.VACUOUS: "VACUOUS"}


class Nothing(Exception):
    """There is no certificate where one was expected."""


def certificates(path: Path) -> list[Path]:
    """Returns the certificates that a path stands for.

    Raises:
      Nothing: there is nothing, or no certificate in the folder.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise Nothing(
            f"{path}: there is no such file or folder; name a certificate, or the "
            "folder of a run"
        )
    own = [path / name for name in ("proofs", "grown") if (path / name).is_dir()]
    folders = own or [path]
    found = sorted(
        entry
        for folder in folders
        for entry in folder.glob("*.npz")
        if not re.fullmatch(r"\..*|network-[0-9a-f]{16}\.npz", entry.name)
    )
    if not found:
        names = " and ".join(str(folder) for folder in folders)
        raise Nothing(f"{names} holds no certificate (*.npz)")
    return found


def line(path: Path, report: AnyReport) -> str:
    """Returns what to print of a checked file."""
    name, reason = _one_line(path.name.removesuffix(".npz")), _one_line(report.reason)
    if report.status is Status.REJECTED:
        return f"REJECTED {name}: {reason}"
    said = f"{report.claim}, {1e3 * report.seconds:.0f} ms"
    if report.accepted:
        return f"accepted {name}: {said}"
    return f"{_SAY[report.status]} {name}: {reason}; {said}"


def as_json(path: Path, report: AnyReport) -> str:
    """Returns one line of JSON: status, reason, the claim in words and its parts.

    What is infinite is null, as in the file.
    """
    found: dict[str, Any] = {"file": str(path), "claim": report.claim}
    return json.dumps(_plain(found | dataclasses.asdict(report)), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, enum.Enum):
        return value.value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary(reports: Sequence[AnyReport]) -> str:
    """Returns what to print at the end."""
    count = {status: 0 for status in Status}
    for report in reports:
        count[report.status] += 1
    parts = [f"{len(reports)} checked: {count[Status.ACCEPTED]} accepted"]
    parts += [f"{count[s]} {s.value}" for s in _SAY if count[s]]
    median = 1e3 * statistics.median(report.seconds for report in reports)
    parts += [f"{count[Status.REJECTED]} rejected; median {median:.1f} ms"]
    return faces_total(reports) + ", ".join(parts)


def faces_total(reports: Sequence[AnyReport]) -> str:
    """Returns what to print of all grown boxes whose claims hold; empty without any."""
    grown = [report.faces for report in reports if report.faces is not None]
    if not grown:
        return ""
    proved = sum(faces.proved for faces in grown)
    maximal = sum(faces.proved and not faces.open for faces in grown)
    free = sum(faces.witnessed + faces.open for faces in grown)
    stopped = sum(faces.witnessed for faces in grown)
    boxes = f"{proved} with their proof"
    if audited := len(grown) - proved:
        boxes += f", {audited} not proved"
    deltas = sorted({faces.delta for faces in grown})
    beyond = f"{deltas[0]:g}" + (f" .. {deltas[-1]:g}" if deltas[1:] else "")
    return (
        f"grown boxes: {len(grown)}, {boxes}; {maximal} maximal;\n"
        f"{stopped} of {free} faces inside the domain F are stopped by a "
        f"counterexample at most\n{beyond} beyond\n"
    )


def answers(table: Results, reports: Sequence[AnyReport]) -> str:
    """Returns what to print of a results file."""
    seconds = sum(report.seconds for report in reports)
    accepted = sum(report.accepted for report in reports)
    text = f"{len(reports)} answers: {accepted} checked, in {seconds:.1f} s"
    left = table.rows - len(reports)
    return f"{text}; {left} rows without an answer" if left else text


def _tables(words: argparse.Namespace) -> list[Results]:
    folder = words.benchmark and words.benchmark.expanduser()
    return [
        Results(word.expanduser(), folder)
        for word in words.paths
        if word.suffix == ".csv"
    ]


def exit_code(reports: Sequence[AnyReport]) -> int:
    """Returns 0, or what keeps the reports from being accepted, the worst first."""
    found = {report.status for report in reports}
    if not reports:
        return 2
    if found & {Status.REJECTED, Status.UNPROVED}:
        return 1
    return 3 if Status.VACUOUS in found else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Checks what the arguments name; returns the exit code."""
    words = _parser().parse_args(argv)
    expected = Expected(
        words.network, words.margin, tuple(words.domain) if words.domain else None,
        words.rates, words.arithmetic, words.vnnlib,
    )  # fmt: skip
    try:
        tables, paths = _tables(words), []
        for word in words.paths:
            if word.suffix != ".csv":
                paths += certificates(word.expanduser())
        reports: list[AnyReport] = []

        def told(path: Path, report: AnyReport) -> None:
            print((as_json if words.json else line)(path, report), flush=True)
            reports.append(report)

        for path in paths:
            told(path, check_certificate(path, expected=expected, exact=words.exact))
        if reports and not words.json:
            print(summary(reports), flush=True)
        for table in tables:
            first = len(reports)
            for path, report in table.reports(expected, words.exact):
                told(path, report)
            if not words.json:
                print(answers(table, reports[first:]), flush=True)
        return exit_code(reports)
    except BrokenPipeError:
        # The reader of stdout has gone; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Nothing, OSError, RuntimeError) as error:  # no home, no permission, ...
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="check",
        description="Checks robustness certificates; numpy and the standard library "
        "alone, no code of the search that found them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("paths", metavar="PATH", nargs="+", type=Path,
        help="a certificate, the folder of a run, or a results file")  # fmt: skip
    add("--exact", action="store_true", help="compute in rational numbers, slowly")
    add("--json", action="store_true", help="print one JSON object per file instead")
    insist = parser.add_argument_group(
        "what the caller insists on", "a claim that is another one is rejected"
    )
    add = insist.add_argument
    add("--network", metavar="HASH", type=_sha256,
        help="the sha256 of the network, in full")  # fmt: skip
    add("--margin", type=_number, help="the required margin must be at least this")
    add("--domain", nargs=2, type=_number, metavar=("LO", "HI"),
        help="the domain of every feature must be exactly this")  # fmt: skip
    add("--rates", type=_number, help="the rate of every face must be exactly this")
    add("--arithmetic", choices=("real", "float32"))
    add("--vnnlib", metavar="FILE", type=Path,
        help="the property that is answered, .vnnlib or .vnnlib.gz")  # fmt: skip
    add("--benchmark", metavar="FOLDER", type=Path,
        help="of a results file: read the VNN-LIB files that its rows name, in this "
        "folder, and not the copies beside the proofs")  # fmt: skip
    return parser


def _sha256(word: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", word.lower()):
        raise argparse.ArgumentTypeError(f"{word!r} is no sha256: write 64 hex digits")
    return word.lower()


def _number(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{word!r} is not finite")
    return number


def _one_line(text: object) -> str:
    """Returns the text in one line; a file's name must not steer the terminal."""
    words = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "?" for c in words)
