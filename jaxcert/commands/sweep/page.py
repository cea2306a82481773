"""The page of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcert.commands.sweep.report import (
    SHARES,
    Row,
    front,
    front_chart,
    heat_map,
    text_of,
    varying,
)
from jaxcert.report.answers import Answers, Rows, Shown, write_answers
from jaxcert.report.charts import in_both


def write_page(
    target: Path,
    rows: Sequence[Row],
    facts: Mapping[str, Any],
    axes: tuple[str, ...],
) -> Path:
    """Writes the page; returns its path.

    Args:
      target: the file.
      rows: one per setting.
      facts: what was asked.
      axes: the two hyperparameters of the heat map; empty for none.
    """
    names, best, radius = varying(rows), front(rows), rows[0]["radius"]
    known = [r for r in rows if r["certified"] is not None]
    heads = (*names, "radius", *(f"{s} (%)" for s in SHARES), "front", "network")
    table = [
        (
            *(text_of(r["setting"][n]) for n in names), text_of(r["radius"]),
            *(f"{100 * r[s]:.2f}" if r["certified"] is not None else "-"
              for s in SHARES),
            "yes" if r in best else "-", r["network"] or "diverged",
        )
        for r in sorted(rows, key=lambda r: -(r["certified"] or -1.0))
    ]  # fmt: skip
    sentence, pictures = f"{len(rows)} settings; none could be certified.", []
    if known:
        top = max(known, key=lambda r: r["certified"])
        own = ", ".join(f"{n} = {text_of(top['setting'][n])}" for n in names)
        sentence = (
            f"{len(rows)} settings, all certified at radius {radius:g}: the best "
            f"keeps {100 * top['certified']:.2f} % of {top['images']} test images"
            + (f" ({own})." if own else ".")
        )
        pictures = [
            Shown(
                "Clean against certified accuracy",
                in_both(lambda scheme: front_chart(rows, scheme)),
                "The line is the front: no other setting is at least as good in both.",
            )
        ]
        if len(axes) == 2:
            pair = axes[0], axes[1]
            pictures.append(
                Shown(
                    "Best certified accuracy over two hyperparameters",
                    in_both(lambda scheme: heat_map(rows, pair, scheme)),
                    f"At radius {radius:g}, the best over all others.",
                )
            )
    claim = (
        "Claim: of the certified share of the test images no change of any pixels by "
        f"at most {radius:g} each changes the class, whatever radius the network was "
        "trained with. Bounds are computed in float64 and have to exceed a slack for "
        "rounding. There are no certificate files; the command jaxcert certify writes "
        "some, with --proofs."
    )
    page = Answers(
        title="Sweep of hyperparameters",
        sentence=sentence,
        claims=(claim,),
        facts=facts,
        terms={
            "clean": "Share of test images that are classified correctly.",
            "attacked": "Share that an attack within the radius did not break.",
            "certified": "Share that is proved to keep its class within the radius.",
        },
        tables=(Rows("All settings", heads, table),),
        pictures=pictures,
    )
    return write_answers(target, page)
