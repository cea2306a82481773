"""The tables and the picture of a comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.report.charts import SCHEMES, legend, style
from jaxcert.report.summary import format_number, format_percent
from studies.asymmetric.attack import Attacks
from studies.asymmetric.task import NORM_NAMES

RADII = (
    (0.5, 1.0, 2.0, 4.0, 8.0),
    (0.1, 0.25, 0.5, 0.75, 1.0),
    (0.01, 0.02, 0.05, 0.1, 0.2),
)
"""Per norm, where the table prints certified accuracy."""


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What is reported about a method.

    Attributes:
      title: its name.
      norm: position of the one norm it certifies; None for all of them.
      probabilistic: whether its certificates hold with a probability only.
      shift: the logit shift chosen on validation images.
      validation: (right, images) of the validation images, with the shift.
      clean: (right, images) of the whole test set.
      sensitive: (right, images) of the sensitive class.
      radius: of all test inputs of the sensitive class, shape (n, 3).
      seconds: per certificate, without compilation.
    """

    title: str
    norm: int | None
    probabilistic: bool
    shift: float
    validation: tuple[int, int]
    clean: tuple[int, int]
    sensitive: tuple[int, int]
    radius: np.ndarray
    seconds: float


def table(results: Sequence[Result], target: float, heading: str) -> str:
    """Returns accuracies, median radii, times and certified accuracies, 80 columns."""
    count = len(results[0].radius)
    lines = [
        heading,
        f"matched at {100 * target:.2f} % clean accuracy on validation images; "
        f"{count} test inputs",
        "",
        f"{'':20}{'accuracy':>21}{'median certified radius':>30}{'ms per':>9}",
        f"{'method':15}{'':5}{'valid.':>7}{'test':>7}{'sens.':>7}"
        + "".join(f"{name:>10}" for name in NORM_NAMES)
        + f"{'cert.':>9}",
    ]
    lines.append("-" * 80)
    for result in results:
        kind = "prob." if result.probabilistic else "proof"
        medians = np.median(result.radius, axis=0)
        cells = "".join(_radius(result, k, float(medians[k])) for k in range(3))
        lines.append(
            f"{result.title:15}{kind:5}"
            + "".join(
                f"{format_percent(*counts, 'down'):>7}"
                for counts in (result.validation, result.clean, result.sensitive)
            )
            + f"{cells}{1000 * result.seconds:>9.3g}"
        )
    lines += [
        "(sens.: test images of the sensitive class; in brackets: implied by the norm",
        "inequality from the one norm that the method certifies; `prob.`: each",
        "certificate is wrong with probability at most 0.001)",
        _apart(results),
        "",
        "Certified accuracy, share of the inputs of the sensitive class",
    ]
    for norm, name in enumerate(NORM_NAMES):
        radii = RADII[norm]
        lines += ["", f"{name + ' radius':23}" + "".join(f"{r:>11g}" for r in radii)]
        for result in results:
            shares = [
                format_percent(int(np.sum(result.radius[:, norm] >= r)), count, "down")
                for r in radii
            ]
            cells = "".join(f"{_bracket(result, norm, s):>11}" for s in shares)
            lines.append(f"{result.title:23}{cells}")
    return "\n".join(lines)


def _apart(results: Sequence[Result]) -> str:
    """Returns how far the accuracies of the methods lie apart, rounded up."""
    gaps = []
    for counts in ([r.validation for r in results], [r.clean for r in results]):
        right = [right for right, _ in counts]
        gap = format_percent(max(right) - min(right), counts[0][1], "up")
        gaps.append(gap.removesuffix("%"))
    return (
        f"The accuracies lie {gaps[0]} points apart on validation images, {gaps[1]} on "
        "test images."
    )


def verdict(results: Sequence[Result]) -> str:
    """Returns which method has the greatest median radius, per norm."""
    words = []
    for norm, name in enumerate(NORM_NAMES):
        best = max(results, key=lambda r: float(np.median(r.radius[:, norm])))
        words.append(f"{name} {best.title}")
    return "Greatest median radius: " + ", ".join(words)


def attack_lines(attacks: Sequence[Attacks]) -> str:
    """Returns how many attacks succeeded, inside the radii and beyond."""
    made = sum(a.made for a in attacks if a.multiple == 1)
    found = sum(a.found for a in attacks if a.multiple == 1)
    lines = [f"{made} attacks inside certified radii: {found} succeeded"]
    for multiple in sorted({a.multiple for a in attacks} - {1.0}):
        beyond = [a for a in attacks if a.multiple == multiple]
        shares = ", ".join(
            f"{a.norm} {100 * a.broken / a.inputs:.0f} %" for a in beyond
        )
        lines.append(f"at {multiple:g} times the radii they break: {shares} of inputs")
    return "\n".join(lines)


def _radius(result: Result, norm: int, value: float) -> str:
    return f"{_bracket(result, norm, format_number(value, 'down')):>10}"


def _bracket(result: Result, norm: int, text: str) -> str:
    implied = result.norm is not None and result.norm != norm
    return f"({text})" if implied else text


def write_curves(results: Sequence[Result], heading: str, stem: Path) -> None:
    """Writes certified accuracy over the radius, one panel per norm, light and dark."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for scheme in SCHEMES:
        fig = Figure(
            figsize=(11, 4), dpi=140, layout="constrained", facecolor=scheme.paper
        )
        colours = (scheme.proved, scheme.refuted, "#009e73", "#cc79a7")
        panels: Any = fig.subplots(1, 3, sharey=True)
        for norm, ax in enumerate(panels):
            style(ax, scheme)
            for result, colour in zip(results, colours, strict=False):
                _curve(ax, result, norm, colour)
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_xlim(*_range(results, norm))
            ax.set_ylim(0, 103)
            ax.set_xlabel(f"{NORM_NAMES[norm]} radius")
        panels[0].set_ylabel("inputs of the sensitive class (%)")
        lines = [
            Line2D([], [], color=colour, linewidth=2.4, label=result.title)
            for result, colour in zip(results, colours, strict=False)
        ]
        legend(fig, scheme, handles=lines, loc="outside lower center", ncols=4)
        fig.suptitle(
            f"{heading} (dashed: implied by another norm)",
            color=scheme.ink,
            fontsize=12,
        )
        fig.savefig(stem.with_name(stem.name + scheme.suffix + ".png"))


def _curve(ax: Any, result: Result, norm: int, colour: str) -> None:
    radii = np.sort(result.radius[:, norm])
    positive = radii[radii > 0]
    corners = np.concatenate([[1e-9], positive, positive[-1:]])
    share = 100 * np.concatenate(
        [[len(positive)], len(positive) - np.arange(len(positive)), [0]]
    )
    implied = result.norm is not None and result.norm != norm
    ax.step(
        corners,
        share / len(radii),
        where="pre",
        color=colour,
        linestyle="--" if implied else "-",
        linewidth=1.6 if implied else 2.4,
    )


def _range(results: Sequence[Result], norm: int) -> tuple[float, float]:
    values = np.concatenate([r.radius[:, norm] for r in results])
    values = values[(values > 0) & np.isfinite(values)]
    if not len(values):
        return 1e-3, 1.0
    return float(np.quantile(values, 0.02)), 1.2 * float(values.max())
