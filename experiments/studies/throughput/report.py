"""What was measured, as a table of 80 columns and as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcert.report.charts import SCHEMES, chart, legend

Row = dict[str, Any]
_COLOURS = ("#0072b2", "#e69f00", "#d55e00", "#009e73")


def table(rows: Sequence[Row], tools: Sequence[str]) -> str:
    """Returns boxes per second by case and tool, in at most 80 columns.

    `times` is jaxcert against the best other tool that was measured; `floor` is the
    share of the device's matrix rate that went into multiply-adds that were needed.
    """
    heading = f"{'network':11}{'method':12}{'batch':>5}"
    heading += "".join(f"{tool.replace('_', ''):>10}" for tool in tools)
    lines = [heading + f"{'times':>6}{'floor':>6}"]
    lines.append("-" * len(lines[0]))
    for (name, method, batch), found in _cases(rows).items():
        line = f"{shortened(name, 10):11}{method:12}{batch:>5}"
        line += "".join(f"{_rate(found.get(tool)):>10}" for tool in tools)
        ours = _speed(found.get("jaxcert"))
        others = [_speed(row) for tool, row in found.items() if tool != "jaxcert"]
        best = max(others, default=0.0)
        line += f"{f'{ours / best:.1f}' if ours and best else '-':>6}"
        fraction = found.get("jaxcert", {}).get("fraction_of_floor")
        lines.append(line + f"{'-' if fraction is None else f'{fraction:.0%}':>6}")
    for row in rows:
        if row["problem"]:
            words = f"not timed: {row['tool']} on {row['network']}, {row['method']}, "
            words += f"batch {row['batch']}: {row['problem']}"
            lines += textwrap.wrap(words, 80, subsequent_indent="  ")
    return "\n".join(lines)


def compilation(rows: Sequence[Row]) -> str:
    """Returns, per method, the seconds before the first answer that do not recur."""
    lines = []
    for row in rows:
        if row["tool"] == "jaxcert" and row.get("compile_seconds") is not None:
            lines.append(
                f"{shortened(row['network'], 10):11}{row['method']:12}{row['batch']:>5}"
                f"{row['compile_seconds']:>10.2f} s to trace and compile"
            )
    return "\n".join(lines)


def _cases(rows: Sequence[Row]) -> dict[tuple[str, str, int], dict[str, Row]]:
    found: dict[tuple[str, str, int], dict[str, Row]] = {}
    for row in rows:
        key = row["network"], row["method"], row["batch"]
        found.setdefault(key, {})[row["tool"]] = row
    return found


def _speed(row: Row | None) -> float:
    return float((row or {}).get("boxes_per_second") or 0.0)


def _rate(row: Row | None) -> str:
    if row is None:
        return "-"
    if row["problem"]:
        return "wrong" if row["boxes"] else "failed"
    speed = _speed(row)
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"


def shortened(text: str, width: int) -> str:
    """Returns a name in `width` columns, its end kept: that is where names differ."""
    return text if len(text) <= width else ".." + text[2 - width :]


def picture(rows: Sequence[Row], tools: Sequence[str], stem: Path) -> None:
    """Writes bars of boxes per second: one panel per method, at the largest batch."""
    cases = _cases(rows)
    methods = list(dict.fromkeys(method for _, method, _ in cases))
    for scheme in SCHEMES:
        fig, first = chart(scheme, 9.6, 2.3 * len(methods) + 0.6)
        first.remove()
        for panel, method in enumerate(methods, 1):
            ax = fig.add_subplot(len(methods), 1, panel, facecolor=scheme.paper)
            largest: dict[str, int] = {}
            for name, other, batch in cases:
                if other == method:
                    largest[name] = max(batch, largest.get(name, 0))
            for number, tool in enumerate(tools):
                heights = [
                    _speed(cases[name, method, batch].get(tool))
                    for name, batch in largest.items()
                ]
                spots = [i + 0.2 * number for i in range(len(heights))]
                ax.bar(spots, heights, 0.18, color=_COLOURS[number], label=tool)
            ax.set_yscale("log")
            ax.set_ylabel("boxes / s", color=scheme.ink)
            ax.set_title(method, loc="left", fontsize=11, color=scheme.ink)
            middle = 0.1 * (len(tools) - 1)
            ax.set_xticks(
                [i + middle for i in range(len(largest))],
                [f"{shortened(n, 16)}\nbatch {b}" for n, b in largest.items()],
            )
            ax.tick_params(colors=scheme.ink, labelsize=9)
            for side, spine in ax.spines.items():
                spine.set_visible(side in ("left", "bottom"))
                spine.set_color(scheme.ink)
            ax.grid(axis="y", color=scheme.faint, linewidth=0.8)
            ax.set_axisbelow(True)
            if panel == 1:
                legend(ax, scheme, loc="upper right", ncols=len(tools))
        fig.savefig(stem.with_name(stem.name + scheme.suffix + ".png"))
