"""The charts of a run, each in a light and a dark version.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcert.report.summary import accuracy_at, finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The colours of one version of a chart."""

    suffix: str
    paper: str
    ink: str
    faint: str
    proved: str
    refuted: str
    between: str
    grown: str


SCHEMES = (
    Scheme(
        "", "#ffffff", "#1b1f24", "#d5d9de", "#0072b2", "#d55e00", "#eecb9a", "#8cc4e6"
    ),
    Scheme(
        "-dark",
        "#1a1e24",
        "#e7eaee",
        "#3b424c",
        "#56b4e9",
        "#ff9447",
        "#6b5434",
        "#2b5f85",
    ),
)


LIGHT, DARK = SCHEMES
_SHADES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_STYLES = ("-", "--", "-.", ":")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A chart as data URIs, in its light and its dark version."""

    light: str
    dark: str


def in_both(draw: Callable[[Scheme], Figure]) -> Picture:
    """Returns both versions of a chart, given what draws it in a scheme."""
    return Picture(*(data_uri(_png(draw(scheme))) for scheme in SCHEMES))


def data_uri(png: bytes) -> str:
    """Returns a PNG as the address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _png(fig: Figure) -> bytes:
    stream = io.BytesIO()
    fig.savefig(stream, format="png")
    return stream.getvalue()


def histogram(
    records: Sequence[Mapping[str, Any]], unit: str, scheme: Scheme
) -> Figure:
    """Returns the histogram of both ends of the apothem brackets."""
    correct = [r for r in records if r["status"] != "misclassified"]
    lower = finite(r["apothem_lower"] for r in correct)
    upper = finite(r["apothem_upper"] for r in correct)
    top = max([*lower, *upper], default=0.0) or 1.0
    count = min(40, max(8, round(2 * math.sqrt(len(correct)))))
    bins = np.linspace(0, top * (1 + 1e-9), count + 1)
    missing = 2 * len(correct) - len(lower) - len(upper)
    fig, ax = chart(scheme, 7.2, 4.2)
    for values, colour, label, style in (
        (lower, scheme.proved, "lower end: proved", "-"),
        (upper, scheme.refuted, "upper end: refuted", "--"),
    ):
        ax.hist(values, bins, color=colour, alpha=0.25)
        ax.hist(
            values,
            bins,
            histtype="step",
            color=colour,
            linewidth=2,
            linestyle=style,
            label=label,
        )
    ax.set_xlim(0, top * 1.02)
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])  # room for the legend
    ax.set_xlabel(f"apothem ({unit})")
    ax.set_ylabel("correctly classified inputs")
    ax.yaxis.get_major_locator().set_params(integer=True)
    if missing:
        ax.set_title(
            f"{missing} infinite ends are not drawn",
            loc="right",
            fontsize=10,
            color=scheme.ink,
        )
    legend(ax, scheme, loc="upper right")
    return fig


def accuracy(records: Sequence[Mapping[str, Any]], unit: str, scheme: Scheme) -> Figure:
    """Returns certified accuracy as a function of radius, exact at every radius."""
    correct = [r for r in records if r["status"] != "misclassified"]
    lower = np.sort([float(r["apothem_lower"]) for r in correct])
    upper = np.sort([float(r["apothem_upper"]) for r in correct])
    ends = np.array(finite([*lower, *upper]))
    top = float(ends.max(initial=0.0)) or 1.0
    # Just past each end too, where the share drops.
    corners = np.unique([0.0, 1.05 * top, *ends, *np.nextafter(ends, np.inf)])
    # How many ends are at least r; at 0 `accuracy_at` knows better.
    proved = len(correct) - np.searchsorted(lower, corners)
    refutable = len(correct) - np.searchsorted(upper, corners)
    proved[0], refutable[0] = accuracy_at(records, 0.0)
    below, above = (
        100 * proved / len(records),
        100 * refutable / len(records),
    )
    fig, ax = chart(scheme, 7.2, 4.2)
    ax.fill_between(
        corners,
        below,
        above,
        color=scheme.between,
        label="unknown",
        lw=0,
    )
    ax.plot(
        corners,
        above,
        color=scheme.refuted,
        linewidth=2,
        linestyle="--",
        label="not refuted (upper ends)",
    )
    ax.plot(
        corners,
        below,
        color=scheme.proved,
        lw=2.4,
        label="proved (lower ends)",
    )
    ax.set_xlim(0, 1.05 * top)
    ax.set_ylim(0, 103)
    ax.set_xlabel(f"radius ({unit})")
    ax.set_ylabel("share of all inputs (%)")
    legend(ax, scheme, loc="upper right", reverse=True)
    return fig


def shares(
    groups: Mapping[str, tuple[Sequence[float], int]],
    labels: tuple[str, str],
    scheme: Scheme,
) -> Figure:
    """Returns which share of each group has at least a radius, a line per group.

    Args:
      groups: radii by name, and out of how many.
      labels: of the axes.
      scheme: colours.
    """
    top = max((max(r, default=0.0) for r, _ in groups.values()), default=0.0) or 1.0
    fig, ax = chart(scheme, 7.2, 4.2)
    for index, (name, (found, count)) in enumerate(groups.items()):
        radii = np.sort(np.array([0.0, *found]))
        share = 100 * (len(found) - np.arange(len(radii))) / count
        ax.step(
            [*radii, radii[-1]], [*share, 0.0], where="post", label=name,
            color=_SHADES[index % len(_SHADES)], lw=2.2,
            linestyle=_STYLES[index % len(_STYLES)],
        )  # fmt: skip
    ax.set_xlim(0, 1.03 * top)
    ax.set_ylim(0, 103)
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    legend(ax, scheme, loc="upper right")
    return fig


def counts(groups: Mapping[str, int], label: str, scheme: Scheme) -> Figure:
    """Returns a bar per group, as high as its count."""
    fig, ax = chart(scheme, 7.2, 4.2)
    ax.bar(list(groups), list(groups.values()), color=scheme.proved)
    ax.set_ylabel(label)
    ax.yaxis.get_major_locator().set_params(integer=True)
    return fig


def chart(scheme: Scheme, width: float, height: float) -> tuple[Any, Any]:
    """Returns a figure and its axes, without touching matplotlib's global state."""
    from matplotlib.figure import Figure

    fig = Figure(
        figsize=(width, height), dpi=160, layout="constrained", facecolor=scheme.paper
    )
    ax = fig.add_subplot()
    style(ax, scheme)
    return fig, ax


def style(ax: Any, scheme: Scheme) -> None:
    """Gives axes the colours of a scheme."""
    ax.set_facecolor(scheme.paper)
    ax.tick_params(which="both", colors=scheme.ink, labelsize=11)
    ax.xaxis.label.set(color=scheme.ink, fontsize=12)
    ax.yaxis.label.set(color=scheme.ink, fontsize=12)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(scheme.ink)
    ax.grid(color=scheme.faint, linewidth=0.8)
    ax.set_axisbelow(True)


def legend(ax: Any, scheme: Scheme, **where: Any) -> None:
    ax.legend(
        fontsize=11,
        labelcolor=scheme.ink,
        facecolor=scheme.paper,
        edgecolor=scheme.faint,
        framealpha=0.9,
        **where,
    )
