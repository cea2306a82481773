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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .against import Comparison, compare, proved
from .arguments import parser
from .check import check_certificate
from .claim import Expected, Finding, Status
from .results import Results

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
    if not own and (path / "run.json").is_file():
        raise Nothing(
            f"{path} is the folder of a run that wrote no certificates; certify and "
            "verify write them with --proofs"
        )
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


def line(path: Path, report: Finding) -> str:
    """Returns what to print of a checked file."""
    name, reason = _one_line(path.name.removesuffix(".npz")), _one_line(report.reason)
    if report.status is Status.REJECTED:
        return f"REJECTED {name}: {reason}"
    said = f"{report.claim}, {1e3 * report.seconds:.0f} ms"
    if report.accepted:
        return f"accepted {name}: {said}"
    return f"{_SAY[report.status]} {name}: {reason}; {said}"


def as_json(path: Path, report: Finding) -> str:
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


def summary(reports: Sequence[Finding]) -> str:
    """Returns what to print at the end."""
    count = {status: 0 for status in Status}
    for report in reports:
        count[report.status] += 1
    parts = [f"{len(reports)} checked: {count[Status.ACCEPTED]} accepted"]
    parts += [f"{count[s]} {s.value}" for s in _SAY if count[s]]
    median = 1e3 * statistics.median(report.seconds for report in reports)
    parts += [f"{count[Status.REJECTED]} rejected; median {median:.1f} ms"]
    return faces_total(reports) + ", ".join(parts)


def faces_total(reports: Sequence[Finding]) -> str:
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


def answers(table: Results, reports: Sequence[Finding]) -> str:
    """Returns what to print of a results file."""
    seconds = sum(report.seconds for report in reports)
    accepted = sum(report.accepted for report in reports)
    text = f"{len(reports)} answers: {accepted} checked, in {seconds:.1f} s"
    left = table.rows - len(reports)
    return f"{text}; {left} rows without an answer" if left else text


def contradictions(path: Path, found: Comparison, as_json: bool) -> Iterator[str]:
    """Yields what to print of another tool's answers."""
    for number, names, says, known in found.contradicted:
        words = [*map(_one_line, (path, *names)), says, known]
        if as_json:
            keys = ("file", "onnx", "vnnlib", "says", "proved")
            yield json.dumps(dict(zip(keys, words, strict=True)) | {"line": number})
        else:
            yield "CONTRADICTED {0}, line {5}: {1} {2}: {3}, proved {4}".format(
                *words, number
            )
    if not as_json:
        without = found.answers - found.agree - len(found.contradicted)
        yield (
            f"{_one_line(path)}: {found.answers} answers: {found.agree} proved, "
            f"{len(found.contradicted)} contradicted, {without} without a proof"
        )


def _tables(words: argparse.Namespace) -> list[Results]:
    folder = words.benchmark and words.benchmark.expanduser()
    return [
        Results(word.expanduser(), folder)
        for word in words.paths
        if word.suffix == ".csv"
    ]


def exit_code(reports: Sequence[Finding]) -> int:
    """Returns 0, or what keeps the reports from being accepted, the worst first."""
    found = {report.status for report in reports}
    if not reports:
        return 2
    if found & {Status.REJECTED, Status.UNPROVED}:
        return 1
    return 3 if Status.VACUOUS in found else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Checks what the arguments name; returns the exit code."""
    words = parser().parse_args(argv)
    expected = Expected(
        words.network, words.margin, tuple(words.domain) if words.domain else None,
        words.rates, words.arithmetic, words.vnnlib, words.norm,
    )  # fmt: skip
    try:
        tables, paths = _tables(words), []
        for word in words.paths:
            if word.suffix != ".csv":
                paths += certificates(word.expanduser())
        reports: list[Finding] = []

        def told(path: Path, report: Finding) -> None:
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
        known = proved(one for table in tables for one in table.known())
        wrong = False
        for other in words.against:
            compared = compare(other.expanduser(), known)
            for text in contradictions(other, compared, words.json):
                print(text, flush=True)
            wrong |= bool(compared.contradicted)
        return exit_code(reports) or (4 if wrong else 0)
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


def _one_line(text: object) -> str:
    """Returns the text in one line; a file's name must not steer the terminal."""
    words = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "?" for c in words)
