"""What an audit prints: a row per box or per class, and the count in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxcert.commands import console
from jaxcert.commands.audit.files import VERDICTS

_MOST_ROWS, _WIDTH, _GAP = 60, 80, 2
# The required margin that published boxes were made with: a full logit may be lost.
_PUBLISHED_MARGIN = -1.0

_Record = Mapping[str, Any]


def table(records: Sequence[_Record]) -> str:
    """Returns a row per box, or per class above 60 boxes, in at most 80 columns."""
    if not records:
        return "no boxes"
    return _by_class(records) if len(records) > _MOST_ROWS else _by_box(records)


def summary(records: Sequence[_Record], required_margin: float) -> str:
    """Returns how many boxes are broken, sound and unknown, point boxes apart.

    How many witnesses have a margin <= -1 is a lower bound of how many boxes are
    broken when that is the required margin.
    """
    broken, sound, unknown, trivial = (
        [r for r in records if r["verdict"] == verdict] for verdict in VERDICTS
    )
    asked = len(broken) + len(sound) + len(unknown)
    what = "contain an adversarial example"
    if required_margin != 0:
        what = f"contain a point of margin <= {required_margin:g}"
    lines = [
        f"{len(broken)} of {asked} boxes {what}, {len(sound)} proved sound, "
        f"{len(unknown)} unknown"
    ]
    if trivial:
        many = len(trivial) > 1
        are = "boxes are single points" if many else "box is a single point"
        lines.append(f"{len(trivial)} {are} (trivial), not counted")
    if broken and required_margin > _PUBLISHED_MARGIN:
        deep = sum(r["witness_margin"] <= _PUBLISHED_MARGIN for r in broken)
        lines.append(
            f"{deep} of the {len(broken)} points found have a margin <= "
            f"{_PUBLISHED_MARGIN:g}"
        )
    return "\n".join(lines)


def _by_box(records: Sequence[_Record]) -> str:
    head = ["box", "keep", "verdict", "class", "margin", "min edge", "by", "seconds"]
    rows = [head]
    for r in records:
        broken = r["verdict"] == "broken"
        rows.append(
            [
                console.one_line(r["input"]).encode("ascii", "replace").decode(),
                str(r["label"]),
                r["verdict"],
                str(r["witness_class"]) if broken else "",
                f"{r['witness_margin']:.4g}" if broken else "",
                f"{r['min_edge']:.4g}",
                {"attack": "attack", "branch and bound": "b&b"}.get(r["found_by"], ""),
                f"{r['seconds']:.2f}",
            ]
        )
    others = [max(map(len, column)) + _GAP for column in zip(*rows, strict=True)][1:]
    room = _WIDTH - sum(others)
    return _aligned([[_cut(name, room), *row] for name, *row in rows], left=(0, 2, 6))


def _by_class(records: Sequence[_Record]) -> str:
    groups: dict[int, list[_Record]] = {}
    for r in records:
        groups.setdefault(r["label"], []).append(r)

    def row(name: str, group: Sequence[_Record]) -> list[str]:
        counts = [sum(r["verdict"] == verdict for r in group) for verdict in VERDICTS]
        seconds = sum(r["seconds"] for r in group)
        return [name, str(len(group)), *map(str, counts), f"{seconds:.1f}"]

    rows = [["class to keep", "boxes", *VERDICTS, "seconds"]]
    largest = sorted(groups, key=lambda label: -len(groups[label]))[:_MOST_ROWS]
    rows += [row(str(label), groups[label]) for label in sorted(largest)]
    if len(groups) > len(largest):
        others = [r for r in records if r["label"] not in set(largest)]
        rows.append(row("others", others))
    return _aligned([*rows, row("all", records)], left=(0,))


def _aligned(rows: Sequence[Sequence[str]], left: Iterable[int]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        (" " * _GAP)
        .join(
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        .rstrip()
        for cells in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _cut(text: str, width: int) -> str:
    """Returns `text` in `width` columns, the middle left out where it is longer."""
    if len(text) <= width:
        return text
    keep = width - 2
    return text[: keep - keep // 2] + ".." + text[-(keep // 2) :]
