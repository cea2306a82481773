"""The page of dual boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcert.dual_answer import STATES, DualBoxes
from jaxcert.network import Network
from jaxcert.report.answers import Answers, Rows, write_answers
from jaxcert.report.summary import format_number
from jaxcert.scope import Scope

_HEADS = (
    "within", "class", "status", "faces", "on the domain", "smaller", "open",
    "widest bracket", "subproblems", "seconds",
)  # fmt: skip


def write_page(
    target: Path,
    records: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    network: Network,
    scope: Scope,
    proofs: str = "",
) -> Path:
    """Writes the page; returns its path.

    Args:
      target: the file.
      records: the lines of the run.
      facts: what was asked.
      network: whose classes they are.
      scope: what the proofs cover.
      proofs: what is said of the certificates, if there are any.
    """
    rows = [
        (
            r["input"] or "the domain", str(r["class"]), r["status"], str(r["faces"]),
            str(r["on_domain"]), str(r["smaller"]), str(r["open"]),
            format_number(r["widest_bracket"], "up"), str(r["subproblems"]),
            f"{r['seconds']:.1f}",
        )
        for r in records
    ]  # fmt: skip
    states = [r["status"] for r in records]
    told = ", ".join(f"{states.count(s)} {s}" for s in STATES)
    page = Answers(
        title=f"Dual boxes: {network.name}",
        sentence=f"{len(records)} boxes: {told}.",
        claims=(DualBoxes.CLAIM, *([proofs] if proofs else [])),
        facts={"network content hash": network.content_hash, **facts},
        terms=DualBoxes.TERMS,
        tables=(Rows("All boxes", _HEADS, rows),),
    )
    return write_answers(target, page.scoped(scope))
