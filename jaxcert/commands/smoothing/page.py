"""The page of a smoothing run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcert.commands.smoothing.table import Record, accuracy, kept
from jaxcert.report.answers import Answers, Rows, Shown, write_answers
from jaxcert.report.charts import in_both
from jaxcert.report.summary import format_number, format_percent

_HEADS = ("network", "input", "label", "answer", "hits", "samples", "radius", "seconds")


def write_page(
    target: Path,
    groups: Mapping[str, Sequence[Record]],
    facts: Mapping[str, Any],
    statement: str,
    norm: str,
) -> Path:
    """Writes the page; returns its path.

    Args:
      target: the file.
      groups: records by network.
      facts: what was asked; `radii` among it.
      statement: what the radii mean, in words.
      norm: of the radii.
    """
    radius = facts["radii"][-1]
    told = [
        f"{name}: {kept(found, radius)} of {len(found)} keep their label within "
        f"{radius:g}"
        for name, found in groups.items()
    ]
    heads = ("network", "n", *(f"at {r:g}" for r in facts["radii"]))
    shares = [
        (name, str(len(found)),
         *(format_percent(kept(found, r), len(found), "down") for r in facts["radii"]))
        for name, found in groups.items()
    ]  # fmt: skip
    rows = [
        (
            name, r["input"], str(r["label"]),
            "abstained" if r["predicted"] < 0 else str(r["predicted"]),
            str(r["hits"]), str(r["samples"]), format_number(r["radius"], "down"),
            f"{r['seconds']:.2f}",
        )
        for name, found in groups.items()
        for r in found
    ]  # fmt: skip
    page = Answers(
        title="Randomized smoothing",
        sentence="; ".join(told) + f" ({norm} norm, probabilistic).",
        claims=(" ".join(statement.split()),),
        facts=facts,
        terms={
            "smoothed class": "The class that the network gives most often when noise "
            "is added to the input.",
            "hits, samples": "How often the class came out, of how many noisy inputs.",
            "abstained": "The samples did not tell: nothing is claimed.",
        },
        tables=(
            Rows("Certified accuracy by radius", heads, shares),
            Rows("All inputs", _HEADS, rows),
        ),
        pictures=(
            Shown(
                "Certified accuracy",
                in_both(lambda scheme: accuracy(groups, norm, scheme)),
                "Share of all inputs that keep their label within the radius.",
            ),
        ),
    )
    return write_answers(target, page)
