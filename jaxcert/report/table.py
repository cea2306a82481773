"""The table of a run, in plain text that fits a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcert.errors import InputError
from jaxcert.report.summary import (
    finite,
    format_number,
    format_percent,
    mean,
    median,
    sentence,
)

_MOST_ROWS = 20
_LEAST_WIDTH = 66


def table(
    records: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    width: int = 80,
    tolerance: float | None = None,
) -> str:
    """Returns the run as text of at most `width` columns.

    Up to 20 inputs get a row each; more are gathered in a row per class (the label, or
    the prediction where there is no label). Then totals, certified accuracy, and what
    it all means in one sentence. Proved numbers are rounded down, refuted ones up.

    Args:
      records: as `read_run(...).records`.
      summary: `summarise(records)`.
      width: columns, at least 66.
      tolerance: as in `sentence`.

    Raises:
      InputError: `width` is below 66.
    """
    if width < _LEAST_WIDTH:
        raise InputError(
            f"a table needs {_LEAST_WIDTH} columns, got {width}. Give a larger width"
        )
    lines: list[str] = []
    if records:
        if len(records) <= _MOST_ROWS:
            lines += _input_rows(records, width)
        else:
            lines += _class_rows(records, width)
        lines += ["", *_accuracy_rows(summary, width), ""]
    lines += textwrap.wrap(sentence(summary, tolerance), width)
    return "\n".join(lines)


def plain_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], width: int = 80
) -> str:
    """Returns a table of texts, the first 20 rows; names are cut to fit the width."""
    shown = rows[:_MOST_ROWS]
    sizes = [max(map(len, column)) for column in zip(heads, *shown, strict=True)]
    sizes[0] = max(5, min(sizes[0], width - sum(size + 2 for size in sizes[1:])))

    def line(cells: Sequence[str]) -> str:
        first, *others = cells
        ends = (f"{c:>{size}}" for c, size in zip(others, sizes[1:], strict=True))
        return "  ".join([f"{_cut(first, sizes[0]):{sizes[0]}}", *ends]).rstrip()

    lines = [line(heads), "-" * len(line(heads)), *map(line, shown)]
    if len(rows) > len(shown):
        lines.append(f"(the first {len(shown)} of {len(rows)})")
    return "\n".join(lines)


def printable(text: str) -> str:
    """Returns `text` in ASCII: a file name must not steer the terminal."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def _cut(text: str, width: int) -> str:
    """Returns `text` in `width` columns, the middle left out where it is longer."""
    text = printable(text)
    if len(text) <= width:
        return text
    keep = width - 2
    return text[: keep - keep // 2] + ".." + text[len(text) - keep // 2 :]


def _input_rows(records: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Returns a heading, and a row per input."""
    room = width - 56
    name_width = min(room, max(len("input"), *(len(r["input"]) for r in records)))
    heading = f"{'':{name_width}} {'':>5} {'':>5} {'':13} {'apothem':>19}"
    lines = [
        heading.rstrip(),
        f"{'input':{name_width}} {'label':>5} {'pred.':>5} {'status':13} "
        f"{'lower':>9} {'upper':>9}  {'min edge':>8}",
    ]
    lines.append("-" * len(lines[1]))
    for r in records:
        label = "-" if r["label"] is None else str(r["label"])
        predicted = "-" if r["predicted"] is None else str(r["predicted"])
        wrong = r["status"] == "misclassified"
        lines.append(
            f"{_cut(r['input'], name_width):{name_width}} {_cut(label, 5):>5} "
            f"{_cut(predicted, 5):>5} {r['status']:13} "
            f"{format_number(r['apothem_lower'], 'down'):>9} "
            f"{format_number(r['apothem_upper'], 'up'):>9} "
            f"{'no box' if wrong else format_number(r['min_edge'], 'down'):>9}"
        )
    return lines


def by_class(
    records: Sequence[Mapping[str, Any]],
) -> list[tuple[Any, list[Mapping[str, Any]]]]:
    """Returns the records of each class, in the order of the classes.

    The class is the label, or the prediction where there is no label.
    """
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for r in records:
        key = r["predicted"] if r["label"] is None else r["label"]
        groups.setdefault(key, []).append(r)
    return sorted(groups.items(), key=lambda item: (isinstance(item[0], str), item[0]))


def _class_rows(records: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Returns a heading, a row per class, and the row of all classes."""
    groups = shown = by_class(records)
    if len(shown) > _MOST_ROWS:
        shown = sorted(shown, key=lambda item: -len(item[1]))[:_MOST_ROWS]
    shown.sort(key=lambda item: (isinstance(item[0], str), item[0]))
    # The edge column is the first to go where the width is short.
    with_edges = width >= 78
    upper_line = f"{'':36}{'mean':>10}{'mean':>10}{'median':>10}"
    heading = f"{'class':6}{'n':>6}{'certif.':>8}{'misclass.':>10}{'unkn.':>6}"
    heading += f"{'lower':>10}{'upper':>10}{'lower':>10}"
    lines = [upper_line, heading]
    if with_edges:
        lines = [upper_line + f"{'mean':>11}", heading + f"{'min edge':>11}"]
    rule = "-" * len(lines[1])
    lines.append(rule)
    rows = [(_cut(str(key), 6), group) for key, group in shown]
    for name, group in rows:
        lines.append(_class_row(name, group, with_edges))
    if len(groups) > len(shown):
        lines.append(f"(the {len(shown)} largest of {len(groups)} classes)")
    lines += [rule, _class_row("all", records, with_edges)]
    if any("*" in line for line in lines):
        lines.append("* without infinite upper ends (no counterexample found)")
    return lines


def _class_row(
    name: str, records: Sequence[Mapping[str, Any]], with_edges: bool
) -> str:
    """Returns the row of one class; apothems are over its correctly classified.

    The mean of the upper ends leaves infinite ones out, and has a star then.
    """
    count = {
        status: sum(r["status"] == status for r in records)
        for status in ("certified", "misclassified", "unknown")
    }
    correct = [r for r in records if r["status"] != "misclassified"]
    lower = [float(r["apothem_lower"]) for r in correct]
    upper = [float(r["apothem_upper"]) for r in correct]
    known = finite(upper)
    mean_upper = format_number(mean(known or upper), "up")
    if known and len(known) < len(upper):
        mean_upper += "*"
    row = (
        f"{name:6}{len(records):>6}{count['certified']:>8}"
        f"{count['misclassified']:>10}{count['unknown']:>6}"
        f"{format_number(mean(lower), 'down'):>10}"
        f"{mean_upper:>10}"
        f"{format_number(median(lower), 'down'):>10}"
    )
    if with_edges:
        edges = finite(r["min_edge"] for r in correct)
        row += f"{format_number(mean(edges), 'down'):>11}"
    return row


def _accuracy_rows(summary: Mapping[str, Any], width: int) -> list[str]:
    """Returns certified accuracy by radius, in as many columns as fit."""
    n = summary["n"]
    columns = summary["certified_accuracy"][: (width - 22) // 7]
    lines = [f"{'radius':22}", f"{'proved':22}", f"{'not refuted':22}"]
    for column in columns:
        lines[0] += f"{column['radius']:>7.4g}"
        proved, refutable = (
            round(column[key] * n) for key in ("proved", "not_refuted")
        )
        lines[1] += f"{format_percent(proved, n, 'down'):>7}"
        lines[2] += f"{format_percent(refutable, n, 'up'):>7}"
    return ["Certified accuracy, share of all inputs", *lines]
