"""What a sweep found: a table, a heat map, and accuracy against certified accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcert.report.charts import SCHEMES, Scheme, chart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
SHARES = ("clean", "attacked", "certified")


def varying(rows: Sequence[Row]) -> list[str]:
    """Returns the names of the hyperparameters in which rows differ."""
    names = rows[0]["setting"] if rows else {}
    return [n for n in names if len({str(r["setting"][n]) for r in rows}) > 1]


def table(rows: Sequence[Row], width: int = 80) -> str:
    """Returns one line per setting, the most certified first, in `width` columns.

    Columns are the hyperparameters that vary, as many as fit, the radius at which all
    were attacked and certified, and shares in percent; a `*` marks the settings on the
    front (no other is at least as good in both).
    """
    best = front(rows)
    ranked = sorted(rows, key=lambda r: (r["certified"] is None, -_value(r)))
    names = varying(rows)
    widths = {
        n: max(len(n), *(len(text_of(r["setting"][n])) for r in rows)) + 2
        for n in names
    }
    room = width - 42
    shown = []
    for name in names:
        room -= widths[name]
        if room >= 0:
            shown.append(name)
    lines = ["".join(f"{n:>{widths[n]}}" for n in shown)]
    lines[0] += f"{'radius':>8}" + "".join(f"{name:>10}" for name in SHARES)
    lines.append("-" * len(lines[0]))
    for row in ranked:
        line = "".join(f"{text_of(row['setting'][n]):>{widths[n]}}" for n in shown)
        line += f"{text_of(row['radius']):>8}"
        if row["certified"] is None:
            lines.append(line + f"{'diverged':>10}")
            continue
        line += "".join(f"{100 * row[name]:>8.2f} %" for name in SHARES)
        lines.append(line + (" *" if row in best else ""))
    hidden = [name for name in names if name not in shown]
    if hidden:
        lines.append(f"not shown, for want of room: {', '.join(hidden)}")
    return "\n".join(lines)


def _value(row: Row) -> float:
    return -1.0 if row["certified"] is None else float(row["certified"])


def text_of(value: Any) -> str:
    """Returns a hyperparameter in few characters."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def front(rows: Sequence[Row]) -> list[Row]:
    """Returns the settings that no other beats in clean and certified accuracy.

    Sorted by clean accuracy.
    """
    known = [r for r in rows if r["certified"] is not None]

    def beaten(row: Row) -> bool:
        return any(
            other["clean"] >= row["clean"]
            and other["certified"] >= row["certified"]
            and (other["clean"], other["certified"]) != (row["clean"], row["certified"])
            for other in known
        )

    return sorted((r for r in known if not beaten(r)), key=lambda r: r["clean"])


def write_both(draw: Callable[[Scheme], Figure], stem: Path) -> None:
    """Writes STEM.png and STEM-dark.png."""
    for scheme in SCHEMES:
        draw(scheme).savefig(stem.with_name(stem.name + scheme.suffix + ".png"))


def front_chart(rows: Sequence[Row], scheme: Scheme) -> Figure:
    """Returns clean against certified accuracy, and the front of both."""
    best = front(rows)
    known = [r for r in rows if r["certified"] is not None]
    fig, ax = chart(scheme, 7.2, 4.8)
    ax.plot(
        [100 * r["clean"] for r in best],
        [100 * r["certified"] for r in best],
        color=scheme.proved, lw=1.6, drawstyle="steps-post", alpha=0.7,
    )  # fmt: skip
    ax.scatter(
        [100 * r["clean"] for r in known],
        [100 * r["certified"] for r in known],
        color=scheme.proved, s=36,
    )  # fmt: skip
    ax.set_xlabel("clean accuracy (%)")
    ax.set_ylabel(f"certified accuracy at radius {rows[0]['radius']:g} (%)")
    ax.margins(0.06)
    return fig


def heat_map(rows: Sequence[Row], axes: tuple[str, str], scheme: Scheme) -> Figure:
    """Returns the best certified accuracy over two hyperparameters."""
    cells: dict[tuple[Any, Any], float] = {}
    for row in rows:
        if row["certified"] is not None:
            key = tuple(row["setting"][axis] for axis in axes)
            cells[key] = max(cells.get(key, 0.0), 100 * row["certified"])
    across, down = (
        sorted({key[i] for key in cells}, key=lambda v: (isinstance(v, str), v))
        for i in (0, 1)
    )
    grid = [[cells.get((a, d), float("nan")) for a in across] for d in down]
    width, height = 2.4 + 0.9 * len(across), 1.8 + 0.6 * len(down)
    fig, ax = chart(scheme, max(width, 5.0), max(height, 3.2))
    image = ax.imshow(grid, cmap="viridis", aspect="auto", origin="lower")
    ax.grid(False)
    ax.set_xticks(range(len(across)), [text_of(v) for v in across])
    ax.set_yticks(range(len(down)), [text_of(v) for v in down])
    ax.set_xlabel(axes[0])
    ax.set_ylabel(axes[1])
    low, high = image.get_clim()
    for i, line in enumerate(grid):
        for j, value in enumerate(line):
            if value == value:
                dark = value < (low + high) / 2
                colour = "#ffffff" if dark else "#1b1f24"
                ax.text(j, i, f"{value:.1f}", ha="center", va="center", color=colour)
    bar = fig.colorbar(image, ax=ax)
    radius = rows[0]["radius"]
    bar.set_label(f"best certified accuracy at {radius:g} (%)", color=scheme.ink)
    bar.ax.tick_params(colors=scheme.ink)
    return fig
