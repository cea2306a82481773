"""The arguments of the command."""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import argparse
import math
import re
from pathlib import Path

_EPILOG = """\
A path is a certificate or a folder; of a folder, all certificates in it, or in its
`proofs` and `grown`, are checked. Each needs its network file beside it. Of a results
file NAME.csv every row that says sat or unsat is checked, by its file in NAME_proofs.
One line per file states the whole claim, then comes a summary. Exit codes:
  0  all are accepted, and there is at least one
  1  one is REJECTED, or the box of one is NOT PROVED
  2  a path holds no certificate, or the command line is wrong
  3  all hold, but one is VACUOUS: it says nothing (a margin below 0, no free feature,
     rates 0, a box that is a point, an image that nothing changes)
  4  all are accepted, and contradict an answer of --against
Of a grown box every face is checked as well: it lies on the domain's boundary, or a
counterexample stops it, or it is open; an open face is no mistake.
"""


def parser() -> argparse.ArgumentParser:
    """Returns what reads them."""
    made = argparse.ArgumentParser(
        prog="check",
        description="Checks robustness certificates; numpy and the standard library "
        "alone, no code of the search that found them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("paths", metavar="PATH", nargs="+", type=Path,
        help="a certificate, the folder of a run, or a results file")  # fmt: skip
    add("--exact", action="store_true", help="compute in rational numbers, slowly")
    add("--json", action="store_true", help="print one JSON object per file instead")
    insist = made.add_argument_group(
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
    add("--norm", choices=("linf", "l1", "l2"),
        help="boxes (linf), or balls of one norm")  # fmt: skip
    add("--vnnlib", metavar="FILE", type=Path,
        help="the property that is answered, .vnnlib or .vnnlib.gz")  # fmt: skip
    add("--benchmark", metavar="FOLDER", type=Path,
        help="of a results file: read the VNN-LIB files that its rows name, in this "
        "folder, and not the copies beside the proofs")  # fmt: skip
    made.add_argument(
        "--against", metavar="FILE", type=Path, action="append", default=[],
        help="answers of another tool, as VNN-COMP collects them: say which of them "
        "the accepted answers of a results file contradict",
    )  # fmt: skip
    return made


def _sha256(word: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", word.lower()):
        raise argparse.ArgumentTypeError(f"{word!r} is no sha256: write 64 hex digits")
    return word.lower()


def _number(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{word!r} is not finite")
    return number
