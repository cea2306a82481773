"""What captioner.py prints."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcert.commands.smoothing.table import WIDTH, samples_table
from jaxcert.report.summary import format_number, format_percent, mean, median
from jaxcert.smoothing import SmoothingOptions, lower_bound, scaling

Record = Mapping[str, Any]


def by_class(
    records: Sequence[Record], class_names: Sequence[str], threshold: float
) -> str:
    """Returns a row per class that occurs, and one of all."""
    bad = f"garbled <= {100 * threshold:g} %"
    lines = [
        f"{'':12}{'':>5}{'judged':>9}{'certified':>11}{'median':>9}{'oracle':>9}"
        f"{bad:>21}",
        f"{'class':12}{'n':>5}{'right':>9}{'and right':>11}{'radius':>9}{'eps':>9}"
        f"{'certified':>12}{'radius':>9}",
    ]
    lines.append("-" * len(lines[1]))
    labels = sorted({r["label"] for r in records})
    groups = [(class_names[i], [r for r in records if r["label"] == i]) for i in labels]
    for name, group in [*groups, ("all", records)]:
        n = len(group)
        radii = [r["radius"] if r["predicted"] == r["label"] else 0.0 for r in group]
        safe = [r["garbled_radius"] for r in group if r["garbled_radius"] >= 0]
        right = mean([r["agreement"] for r in group]) or 0.0
        lines.append(
            f"{name:12}{n:>5}{100 * right:>7.1f} %"
            f"{format_percent(sum(r > 0 for r in radii), n, 'down'):>11}"
            f"{format_number(median(radii), 'down'):>9}"
            f"{format_number(mean([r['eps'] for r in group]), 'up'):>9}"
            f"{format_percent(len(safe), n, 'down'):>12}"
            f"{format_number(median(safe), 'down'):>9}"
        )
    return "\n".join(lines)


def fewer_samples(records: Sequence[Record], options: SmoothingOptions) -> str:
    """Returns how radii fall with 10 and 100 times fewer samples, eps being kept."""
    marks = sorted(int(mark) for mark in records[0]["earlier"])
    shares = scaling([*marks, options.n], options).tolist()
    rows = []
    for samples, share in zip([*marks, options.n], shares, strict=True):
        hits = np.array([r["earlier"].get(str(samples), r["hits"]) for r in records])
        p = lower_bound(hits, samples, options.alpha) - [r["eps"] for r in records]
        rows.append((samples, options.noise.radius(np.maximum(p, 0)).tolist(), share))
    return samples_table(rows)


def statements(alpha: float, threshold: float, labelled: int) -> str:
    """Returns in words what the certificates mean."""
    chance = f"{100 * (1 - alpha):.6g} %"
    said = (
        f"Probabilistic, not proved: with a chance of at least {chance} over the "
        "samples, for each image: a caption of any image nearer than the radius "
        "(l2 norm), with noise and sampled words, has the certified true class with "
        f"probability above 1/2. The oracle's error was bounded with {labelled:,} "
        "captions per image that were judged; half of the failure probability is its. "
        f"And likewise: such a caption is garbled with probability <= {threshold:g}. "
        "Assumes that pseudo-random float32 numbers behave like random ones; see "
        "docs/smoothing.md."
    )
    return textwrap.fill(said, WIDTH)
