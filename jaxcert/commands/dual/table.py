"""The tables of dual.py, at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxcert.commands import console

_Record = Mapping[str, Any]
_MOST_FEATURES = 8
_MOST_ROWS = 30


def table(records: Sequence[_Record], model: str, lowest: bool) -> str:
    """Returns a line per box, or per class if there are many, and faces if few."""
    name, order = console.one_line(model)[:30], "least" if lowest else "greatest"
    lines = [
        f"dual boxes of {name}; the class is the {order} output",
        "on F: faces that are exactly the domain's, with an instance on them;",
        "smaller: faces proved to lie inside it; open: brackets that are not closed",
        "",
    ]
    shown = list(records) if len(records) <= _MOST_ROWS else []
    lines += _box_rows(shown) if shown else _class_rows(records)
    total = sum(r["seconds"] for r in records)
    told = [f"{sum(r['status'] == s for r in records)} {s}" for s in _STATUS]
    lines += ["", f"{len(records)} boxes: {', '.join(told)}; {total:.1f} s"]
    for r in shown:
        if r["faces"] <= 2 * _MOST_FEATURES:
            lines += ["", *_faces(r)]
    return "\n".join(lines)


_STATUS = ("closed", "open", "empty")
_FACES = ("faces", "on_domain", "smaller", "open", "subproblems")
_HEAD = ("faces", "on F", "smaller", "open", "subproblems")


def _box_rows(records: Sequence[_Record]) -> list[str]:
    """Returns a line per box; an empty one is proved to have no faces at all."""
    lines = [f"{'input':<14}{'class':>6}{_cells(_HEAD)}{'seconds':>9}  status"]
    for r in records:
        name = console.one_line(r["input"] or "all")[:13]
        cells = _cells([r[key] for key in _FACES])
        lines.append(
            f"{name:<14}{r['class']:>6}{cells}{r['seconds']:>9.1f}  {r['status']}"
        )
    return lines


def _class_rows(records: Sequence[_Record]) -> list[str]:
    """Returns a line per class, with sums over its boxes; empty ones have no faces."""
    states = "".join(f"{word:>7}" for word in _STATUS)
    lines = [f"{'class':>5}{'boxes':>7}{states}{_cells(_HEAD)}{'seconds':>8}"]
    for label in sorted({r["class"] for r in records}):
        group = [r for r in records if r["class"] == label]
        faced = [r for r in group if r["status"] != "empty"]
        counts = [sum(r["status"] == s for r in group) for s in _STATUS]
        cells = _cells(
            [sum(r[key] for r in faced) for key in _FACES[:-1]]
            + [sum(r["subproblems"] for r in group)]
        )
        told = "".join(f"{n:>7}" for n in counts)
        seconds = sum(r["seconds"] for r in group)
        lines.append(f"{label:>5}{len(group):>7}{told}{cells}{seconds:>8.1f}")
    return lines


def _cells(values: Sequence[Any]) -> str:
    widths = (7, 7, 8, 6, 12)
    return "".join(f"{v:>{w}}" for v, w in zip(values, widths, strict=True))


def _faces(r: _Record) -> list[str]:
    """Returns a line per face: its bracket, the domain's end, and when it closed."""
    name = console.one_line(r["input"] or "all")[:15]
    if r["status"] == "empty":
        return [f"{name}, class {r['class']}: proved that there is none"]
    lines = [
        f"{name}, class {r['class']}: beyond outer, proved, there is none; inner is "
        "reached",
        f"{'face':<10}{'outer':>12}{'inner':>12}{'domain':>12}{'of range':>10}"
        f"{'seconds':>10}  bracket",
    ]
    count = r["faces"] // 2
    seconds = r.get("face_seconds") or [None] * r["faces"]
    for i in range(count):
        width = r["domain_hi"][i] - r["domain_lo"][i]
        for side, end in enumerate(("lo", "hi")):
            outer, inner, limit = (
                r[f"{key}_{end}"][i] for key in ("outer", "inner", "domain")
            )
            gap = abs(outer - inner) / width if width > 0 else 0.0
            when = seconds[i + side * count]
            state = "open" if when is None else f"closed{' on F' * (inner == limit)}"
            time = "-" if when is None else f"{when:.1f}"
            face = f"{('lower', 'upper')[side]} {i}"
            lines.append(
                f"{face:<10}{outer:>12.5f}{inner:>12.5f}{limit:>12.5f}"
                f"{100 * gap:>8.2f} %{time:>10}  {state}"
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
