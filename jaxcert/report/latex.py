"""The table of a run for LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxcert.report.summary import finite, format_number, mean, median
from jaxcert.report.table import by_class

_HEAD = r"""\begin{tabular}{lrrrrrrr}
\toprule
class & $n$ & certified & misclassified & unknown & \multicolumn{2}{c}{lower} & upper \\
 & & & & & mean & median & mean \\
\midrule"""
_FOOT = r"""\bottomrule
\end{tabular}"""


def latex(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table of the classes and of all inputs, for the package booktabs.

    Lower ends are proved and rounded down, upper ends refuted and rounded up; means are
    over the correctly classified inputs, those of upper ends over the finite ones.
    """
    rows = [_row(str(key), group) for key, group in by_class(records)]
    return "\n".join([_HEAD, *rows, r"\midrule", _row("all", records), _FOOT])


def latex_rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table of texts, for the package booktabs."""
    lines = [" & ".join(map(_escaped, row)) + r" \\" for row in (heads, *rows)]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
            r"\toprule", lines[0], r"\midrule", *lines[1:], _FOOT,
        ]
    )  # fmt: skip


def _escaped(text: str) -> str:
    shown = {"-": "--", "inf": r"$\infty$"}.get(text)
    return shown or "".join(f"\\{c}" if c in "&%$#_{}" else c for c in text)


def _row(name: str, records: Sequence[Mapping[str, Any]]) -> str:
    states = [r["status"] for r in records]
    counts = [states.count(s) for s in ("certified", "misclassified", "unknown")]
    correct = [r for r in records if r["status"] != "misclassified"]
    lower = [float(r["apothem_lower"]) for r in correct]
    upper = finite(r["apothem_upper"] for r in correct)
    numbers = (
        format_number(mean(lower), "down"),
        format_number(median(lower), "down"),
        format_number(mean(upper), "up"),
    )
    cells = [name, str(len(records)), *map(str, counts), *map(_escaped, numbers)]
    return " & ".join(cells) + r" \\"
