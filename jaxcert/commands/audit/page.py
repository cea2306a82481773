"""The page of an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcert.commands.audit.table import summary
from jaxcert.network import Network
from jaxcert.report.answers import Answers, Rows, write_answers
from jaxcert.scope import Scope

_HEADS = (
    "box", "class to keep", "verdict", "class there", "margin there", "least edge",
    "found by", "subproblems", "seconds",
)  # fmt: skip


def write_page(
    target: Path,
    records: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    network: Network,
    scope: Scope,
) -> Path:
    """Writes the page of all verdicts; returns its path.

    Args:
      target: the file.
      records: the lines of the audit.
      facts: what was asked; `required_margin` among it.
      network: that the boxes are about.
      scope: what the proofs cover.
    """
    rows = []
    for r in records:
        broken = r["verdict"] == "broken"
        rows.append(
            (
                r["input"], str(r["label"]), r["verdict"],
                str(r["witness_class"]) if broken else "-",
                f"{r['witness_margin']:.4g}" if broken else "-",
                f"{r['min_edge']:.4g}", r["found_by"] or "-", str(r["subproblems"]),
                f"{r['seconds']:.2f}",
            )
        )  # fmt: skip
    claim = (
        "A broken box holds a point, stored in witnesses.npz, at which the network "
        "does not keep the class. Of a sound one it is proved that no such point "
        "exists, in float64 with a margin for rounding. Of an unknown one nothing is "
        "claimed."
    )
    page = Answers(
        title=f"Audit of boxes: {network.name}",
        sentence=summary(records, facts["required_margin"]).replace("\n", "; ") + ".",
        claims=(claim,),
        facts={"network content hash": network.content_hash, **facts},
        terms={
            "margin": "By how much the class exceeds the greatest of the others.",
            "trivial": "A box that is a single point.",
            "branch and bound": "Splitting a box until its parts are decided.",
        },
        tables=(Rows("All boxes", _HEADS, rows),),
    )
    return write_answers(target, page.scoped(scope))
