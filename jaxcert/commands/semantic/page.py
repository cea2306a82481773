"""The page of a semantic run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.commands.semantic.run import Request, sentence
from jaxcert.network import Network
from jaxcert.report.answers import Answers, Rows, data_fact, write_answers
from jaxcert.report.summary import format_number
from jaxcert.scope import Scope

NO_PROOFS = (
    "No certificate files were written: the claim rests on the search, which proved it "
    "in float64 with a margin for rounding. Run again with --proofs for files that the "
    "independent checker accepts or rejects."
)
_HEADS = ("change", "input", "label", "status", "lower", "upper", "boxes", "seconds")


def write_page(
    target: Path,
    records: Sequence[dict[str, Any]],
    request: Request,
    network: Network,
    scope: Scope | None,
    x: np.ndarray,
    proofs: str = "",
) -> Path:
    """Writes the page; returns its path.

    Args:
      target: the file.
      records: the lines of the run.
      request: what was asked.
      network: what was certified.
      scope: what the proofs cover.
      x: what was certified, (n, *d).
      proofs: what is said of the certificates, if there are any.
    """
    rows = [
        (
            r["family"], r["input"], str(r["label"]), r["status"],
            format_number(r["lower"], "down"), format_number(r["upper"], "up"),
            str(r["boxes"]), f"{r['seconds']:.2f}",
        )
        for r in records
    ]  # fmt: skip
    claim = (
        "Claim: every certified input keeps its label for all parameters of the change "
        "up to the lower end of its bracket. At the upper end a stored counterexample "
        "has another class. "
    ) + (proofs or NO_PROOFS)
    page = Answers(
        title=f"Certified input changes: {network.name}",
        sentence=sentence(records, request).replace("\n", " "),
        claims=(claim,),
        facts={
            "command": request.command("semantic"),
            "network content hash": network.content_hash,
            "inputs": request.inputs,
            "tolerance": request.tolerance,
            "seconds per batch, at most": request.timeout or None,
            **data_fact(x),
        },
        terms={
            "change": "What is done to an image: brightness, contrast, blur, gamma.",
            "lower, upper": "The bracket around the greatest parameter that the label "
            "bears: proved up to the lower end, refuted at the upper one.",
            "boxes": "Intervals of parameters that were bounded: the work done.",
        },
        tables=(Rows("All inputs", _HEADS, rows),),
    )
    return write_answers(target, page.scoped(scope))
