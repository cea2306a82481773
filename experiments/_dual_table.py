"""The tables of dual.py, at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import _common

_Record = Mapping[str, Any]
_MOST_FEATURES = 8
_MOST_ROWS = 30


def table(records: Sequence[_Record], model: str, lowest: bool) -> str:
    """Returns a line per box, or per class if there are many, and faces if few."""
    order = "least" if lowest else "greatest"
    lines = [
        f"dual boxes of {_common.one_line(model)}; the class is the {order} output",
        "F: the face is exactly the domain's, an instance lies on it;",
        "smaller: proved to lie inside the domain; open: bracket not closed",
        "",
        f"{'input':<16}{'class':>6}{'faces':>7}{'F':>7}{'smaller':>8}{'open':>6}"
        f"{'subproblems':>13}{'seconds':>9}  status",
    ]
    rows = list(records)
    if len(rows) > _MOST_ROWS:
        rows = _by_class(rows)
    for r in rows:
        name = _common.one_line(r["input"] or "all")[:15]
        lines.append(
            f"{name:<16}{r['class']:>6}{r['faces']:>7}{r['on_domain']:>7}"
            f"{r['smaller']:>8}{r['open']:>6}{r['subproblems']:>13}"
            f"{r['seconds']:>9.1f}  {r['status']}"
        )
    total = sum(r["seconds"] for r in records)
    counts = {s: sum(r["status"] == s for r in records) for s in _STATUS}
    told = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    lines.append(f"{len(records)} boxes ({told or 'none'}) in {total:.1f} s")
    if records and records[0]["faces"] <= 2 * _MOST_FEATURES:
        for r in rows[:_MOST_ROWS]:
            lines += ["", *_faces(r)]
    return "\n".join(lines)


_STATUS = ("closed", "open", "empty")


def _by_class(records: Sequence[_Record]) -> list[_Record]:
    """Returns the sums over the boxes of each class."""
    rows: list[_Record] = []
    for label in sorted({r["class"] for r in records}):
        group = [r for r in records if r["class"] == label]
        keys = ("faces", "on_domain", "smaller", "open", "subproblems", "seconds")
        row = {key: sum(r[key] for r in group) for key in keys}
        told = [f"{sum(r['status'] == s for r in group)} {s}" for s in _STATUS]
        status = ", ".join(word for word in told if not word.startswith("0 "))
        rows.append(
            {**row, "input": f"{len(group)} inputs", "class": label, "status": status}
        )
    return rows


def _faces(r: _Record) -> list[str]:
    """Returns a line per feature: both brackets, and the domain."""
    name = _common.one_line(r["input"] or "all")[:15]
    if r["status"] == "empty":
        return [f"{name}, class {r['class']}: proved that there is none"]
    lines = [
        f"{name}, class {r['class']}: proved outer and witnessed inner ends",
        f"{'feature':>8}{'outer':>12}{'inner':>12} ..{'inner':>11}{'outer':>12}"
        f"{'domain':>20}",
    ]
    for i in range(r["faces"] // 2):
        ends = [r[key][i] for key in ("outer_lo", "inner_lo", "inner_hi", "outer_hi")]
        domain = f"[{r['domain_lo'][i]:.4g}, {r['domain_hi'][i]:.4g}]"
        lines.append(
            f"{i:>8}{ends[0]:>12.5f}{ends[1]:>12.5f} ..{ends[2]:>11.5f}"
            f"{ends[3]:>12.5f}{domain:>20}"
        )
    return lines


def claim_text(claims: Sequence[_Record], radius: float) -> str:
    """Returns what the instances say of a published radius."""
    farther = [c for c in claims if c["farther"]]
    text = (
        f"claim: all inputs of a class lie within {radius:g} of an input of it.\n"
        f"wrong for {len(farther)} of {len(claims)} inputs: an instance of the class "
        "that differs\nin one feature only lies farther away"
    )
    if farther:
        least = min(c["distance"] for c in farther)
        text += f" (at least {least:.4f}; claims.jsonl)"
    return text
