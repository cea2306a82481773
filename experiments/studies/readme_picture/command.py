"""Draws the picture of the README from a run of experiments/certify.py on images.

    python experiments/readme_picture.py --run=out/digits --output=docs/certificate.png

Three inputs with the ends of their boxes, and certified accuracy over the radius.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxcert.commands import console
from jaxcert.commands.options import Options, option
from jaxcert.errors import InputError
from jaxcert.report import Run, read_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of the study `readme_picture`."""

    run: str = option("out/digits", "Folder of the run.")
    output: str = option("docs/certificate.png", "PNG file to write.")


def main(request: Request) -> int:
    """Draws the picture; returns the exit code."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    run = read_run(request.run)
    rows = _examples(run, 3)
    figure = plt.figure(figsize=(10, 4.6), dpi=110, layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.35, 1])
    left, right = halves
    axes = left.subplots(len(rows), 4)
    for line, row in zip(axes, rows, strict=True):
        record = run.records[row]
        tiles = [run.x[row], run.lo[row], run.hi[row], run.witness[row]]
        for axis, tile in zip(line, tiles, strict=True):
            side = round(np.sqrt(tile.size))
            axis.imshow(tile.reshape(side, side), cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(
            f"class {record['predicted']}\n"
            f"[{record['apothem_lower']:.4f},\n {record['apothem_upper']:.4f}]",
            rotation=0, ha="right", va="center", fontsize=9,
        )  # fmt: skip
        line[3].set_xlabel(f"class {int(run.witness_class[row])}", fontsize=9)
    titles = ("input", "darkest corner", "brightest corner", "counterexample")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    _draw_curve(right.subplots(), run)
    path = console.expand(request.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"wrote {path}")
    return 0


def _examples(run: Run, count: int) -> list[int]:
    """Returns rows spread over the range of apothems."""
    certified = [i for i, r in enumerate(run.records) if r["status"] == "certified"]
    if len(certified) < count:
        raise InputError(f"the run has fewer than {count} certified inputs")
    certified.sort(key=lambda i: run.records[i]["apothem_lower"])
    places = np.linspace(0.3, 1, count) * (len(certified) - 1)
    return [certified[int(p)] for p in places]


def _draw_curve(axis, run: Run) -> None:
    """Draws certified accuracy over the radius."""
    count = len(run.records)
    for key, label, style in (
        ("apothem_lower", "proved up to here", "-"),
        ("apothem_upper", "counterexample stored from here", "k:"),
    ):
        ends = np.sort([r[key] for r in run.records if r["status"] == "certified"])
        share = 100 * np.arange(len(ends), 0, -1) / count
        radius = np.concatenate([[0], ends])
        axis.step(radius, np.concatenate([share, [0]]), style, label=label, where="pre")
    axis.set_xlabel("how far every pixel may move at once (1 = full range)")
    axis.set_ylabel("share of all inputs that keep their class (%)")
    axis.set_ylim(0, 100)
    axis.set_xlim(left=0)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower left")
