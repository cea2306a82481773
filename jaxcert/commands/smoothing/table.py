"""What a smoothing run prints and draws: certified accuracy, radii, plans."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcert.report.charts import SCHEMES, Scheme, shares
from jaxcert.report.summary import format_number, format_percent, mean, median
from jaxcert.smoothing import ABSTAINED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = Mapping[str, Any]
WIDTH = 80


def kept(records: Sequence[Record], radius: float) -> int:
    """Returns how many inputs keep their label, certified, for a radius."""
    return sum(r["predicted"] == r["label"] and r["radius"] > radius for r in records)


def accuracy_table(
    groups: Mapping[str, Sequence[Record]], radii: Sequence[float]
) -> str:
    """Returns a row per group: clean accuracy, certified accuracy per radius."""
    name_width = max(len("network"), *map(len, groups))
    shown = list(radii)[: (WIDTH - name_width - 37) // 7]
    title = "certified accuracy at radius"
    head = f"{'':{name_width + 14}}{title:>{7 * len(shown)}}"
    head += f"{'':>8}{'median':>8}{'s per':>7}"
    columns = "".join(f"{radius:>7.4g}" for radius in shown)
    line = f"{'network':{name_width}}{'n':>6}{'clean':>8}{columns}"
    line += f"{'abst.':>8}{'radius':>8}{'input':>7}"
    lines = [head, line, "-" * len(line)]
    for name, records in groups.items():
        n = len(records)
        clean = format_percent(sum(r["clean"] for r in records), n, "down")
        row = f"{name:{name_width}}{n:>6}{clean:>8}"
        for radius in shown:
            row += f"{format_percent(kept(records, radius), n, 'down'):>7}"
        abstained = sum(r["predicted"] == ABSTAINED for r in records)
        right = [r["radius"] if r["predicted"] == r["label"] else 0.0 for r in records]
        seconds = float(np.mean([r["seconds"] for r in records]))
        row += f"{format_percent(abstained, n, 'up'):>8}"
        row += f"{format_number(median(right), 'down'):>8}{seconds:>7.2f}"
        lines.append(row)
    return "\n".join(lines)


def samples_table(rows: Sequence[tuple[int, Sequence[float], float]]) -> str:
    """Returns a row per number of samples, from (samples, radii, predicted share).

    The share is that of the radius with infinitely many samples, for probabilities
    that are uniform on [1/2, 1].
    """
    line = f"{'samples':>9}{'answered':>11}{'mean radius':>13}{'of the last':>13}"
    line += f"{'if uniform':>12}"
    lines = [line, "-" * len(line)]
    most = mean(list(rows[-1][1])) or 1.0
    last = rows[-1][2]
    for samples, radii, share in rows:
        certified = sum(radius > 0 for radius in radii)
        average = mean(list(radii)) or 0.0
        lines.append(
            f"{samples:>9,}{format_percent(certified, len(radii), 'down'):>11}"
            f"{format_number(average, 'down'):>13}{100 * average / most:>11.1f} %"
            f"{100 * share / last:>10.1f} %"
        )
    lines.append(
        "(answered: right or wrong, but not abstained; if uniform: the same for\n"
        "probabilities that are uniform on [1/2, 1])"
    )
    return "\n".join(lines)


def statement(alpha: float, norm: str, inputs: int, together: bool) -> str:
    """Returns in words what the radii of a table mean."""
    chance = f"{100 * (1 - alpha):.6g} %"
    whom = f"all {inputs} answers of a row at once" if together else "each answer"
    return textwrap.fill(
        f"Probabilistic, not proved: with a chance of at least {chance} over the "
        f"samples, for {whom}, the smoothed class is the same for every input nearer "
        f"than the radius ({norm} norm). Assumes that pseudo-random float32 noise "
        "behaves like the real noise; see docs/smoothing.md.",
        WIDTH,
    )


def draw_accuracy(
    groups: Mapping[str, Sequence[Record]], norm: str, stem: Path
) -> None:
    """Writes STEM.png and STEM-dark.png: certified accuracy over the radius."""
    for scheme in SCHEMES:
        fig = accuracy(groups, norm, scheme)
        fig.savefig(stem.with_name(stem.name + scheme.suffix + ".png"))


def accuracy(
    groups: Mapping[str, Sequence[Record]], norm: str, scheme: Scheme
) -> Figure:
    """Returns certified accuracy over the radius, a line per group."""
    radii = {
        name: ([r["radius"] for r in found if r["predicted"] == r["label"]], len(found))
        for name, found in groups.items()
    }
    return shares(radii, (f"radius ({norm} norm)", "certified accuracy (%)"), scheme)
