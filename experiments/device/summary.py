"""The figures of a run, for people: a table of throughput, and a line each."""

from __future__ import annotations

from pathlib import Path

from studies.throughput.report import table

from device.parts import LANES
from device.rows import Row, read_rows

_LONG = ("rows", "operations", "failed")  # lists, which are shown apart
_KNOWN = ("part", "lane", "figure", "device")


def summary(path: Path) -> str:
    """Returns the text for the rows of results.jsonl."""
    rows = read_rows(path)
    text = []
    for lane in LANES:
        own = [row for row in rows if row["lane"] == lane]
        text.append(f"=== {lane}")
        fast = [row for row in own if row["figure"] == "throughput"]
        if fast:
            tools = list(dict.fromkeys(row["tool"] for row in fast))
            text += [table(fast, tools), *_best(fast)]
        apart = ("throughput", "compile")
        text += [_line(row) for row in own if row["figure"] not in apart]
        text += _compiled([row for row in own if row["figure"] == "compile"])
    return "\n".join(text)


def _best(rows: list[Row]) -> list[str]:
    """Returns, per network and method, what each tool does at its own best batch."""
    best: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        mine = best.setdefault((row["network"], row["method"]), {})
        speed = row.get("boxes_per_second") or 0.0
        mine[row["tool"]] = max(mine.get(row["tool"], 0.0), speed)
    lines = []
    for (network, method), speeds in best.items():
        ours = speeds.get("jaxcert", 0.0)
        words = ", ".join(f"{tool} {speed:,.0f}" for tool, speed in speeds.items())
        rest = [speed for tool, speed in speeds.items() if tool != "jaxcert" and speed]
        times = f", {ours / max(rest):.1f} times the best other" if rest else ""
        lines.append(f"best batch, {network} {method}: {words}{times}")
    return lines


def _compiled(rows: list[Row]) -> list[str]:
    """Returns, per part, what it spent on the programs that take long to compile."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row["part"], []).append(row)
    lines = []
    for name, own in parts.items():
        longest = max(own, key=lambda row: row["seconds"])
        total = sum(row["seconds"] for row in own)
        lines.append(
            f"compiling in {name}: {len(own)} long programs, {total:.1f} s, "
            f"the longest {longest['program']} {longest['seconds']:.1f} s"
        )
    return lines


def _line(row: Row) -> str:
    shown = [
        f"{name} {_word(value)}"
        for name, value in row.items()
        if name not in (*_KNOWN, *_LONG) and value is not None
    ]
    title = row["part"] if row["figure"] == "end" else f"  {row['figure']}"
    lines = [f"{title}: {', '.join(shown)}"]
    for name in ("operations", "failed"):
        lines += [f"      {_word(item)}" for item in row.get(name, [])]
    return "\n".join(lines)


def _word(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{name} {_word(own)}" for name, own in value.items())
    if isinstance(value, list):
        return " ".join(_word(own) for own in value)
    return str(value)
