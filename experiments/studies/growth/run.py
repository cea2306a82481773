"""The series of growing problems, their times, and the power laws fitted to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.report.charts import SCHEMES, chart, legend, style
from studies.throughput.case import Case
from studies.throughput.floor import multiply_adds
from studies.throughput.networks import random_mlp
from studies.throughput.run import timed
from studies.throughput.with_jaxcert import jaxcert

Row = dict[str, Any]

_WIDTH, _INPUTS, _LAYERS, _BOXES = 256, 784, 2, 16
_LEAST_CALLS = 3


@dataclasses.dataclass(frozen=True)
class Series:
    """One thing that grows, all else being equal.

    Attributes:
      name: what grows.
      sizes: how it grows.
      why: by method, why the cost follows the power that it does.
    """

    name: str
    sizes: tuple[int, ...]
    why: dict[str, str]


SERIES = (
    Series(
        "boxes",
        (1, 4, 16, 64, 256, 1024),
        {
            "crown": "boxes share nothing but the weights, so each costs the same",
            "ibp": "one product of all boxes with each matrix; the power is below 1 "
            "while the fixed cost of a call still counts",
        },
    ),
    Series(
        "input features",
        (98, 196, 392, 784, 1568, 3136),
        {
            "crown": "the product with the first layer has one column per feature, and "
            "a box of more features leaves more neurons undecided, each two more rows",
            "ibp": "only the first layer grows, one column per feature",
        },
    ),
    Series(
        "hidden layers",
        (1, 2, 3, 4, 6, 8),
        {
            "crown": "every layer is pulled back through all layers below it, which is "
            "quadratic; deeper layers have more undecided neurons, which adds to it",
            "ibp": "one pair of products per layer; the wide first layer is constant "
            "and lowers the power",
        },
    ),
)


def measured(
    series: Series, method: str, size: int, epsilon: float, seconds: float
) -> Row:
    """Returns the seconds of the fastest call, after one that compiles.

    What else the machine does only adds to them.
    """
    case = _case(series.name, method, size, epsilon)
    call = jaxcert(case)
    call()
    spent: list[float] = []
    while sum(spent) < seconds or len(spent) < _LEAST_CALLS:
        spent.append(timed(call))
    return {
        "series": series.name,
        "method": method,
        "size": size,
        "seconds": min(spent),
        "calls": len(spent),
        "multiply_adds": (multiply_adds(case) or 0.0) * len(case.x),
    }


def _case(series: str, method: str, size: int, epsilon: float) -> Case:
    inputs = size if series == "input features" else _INPUTS
    layers = size if series == "hidden layers" else _LAYERS
    boxes = size if series == "boxes" else _BOXES
    subject = random_mlp((inputs, *[_WIDTH] * layers, 10), f"{size} {series}")
    x = np.random.default_rng(1).uniform(size=(boxes, inputs)).astype(np.float32)
    labels = np.zeros(boxes, np.int32)
    return Case(
        subject, method, x, labels, epsilon, iterations=1, chunk=8, seconds=np.inf
    )


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """A law `value ~ factor * size^power` for sizes from `least` to `most`."""

    factor: float
    power: float
    least: int
    most: int

    def at(self, size: int) -> float:
        """Returns the value for a size."""
        return self.factor * size**self.power


def fitted(
    rows: Sequence[Row], series: str, method: str, key: str = "seconds"
) -> PowerLaw:
    """Returns the law that the larger half of a series follows, by least squares."""
    mine = [r for r in rows if (r["series"], r["method"]) == (series, method)]
    mine = sorted(mine, key=lambda r: r["size"])[len(mine) // 2 - 1 :]
    sizes, values = (np.log([r[k] for r in mine]) for k in ("size", key))
    power, factor = np.polyfit(sizes, values, 1)
    ends = mine[0]["size"], mine[-1]["size"]
    return PowerLaw(float(np.exp(factor)), float(power), *ends)


def picture(rows: Sequence[Row], methods: Sequence[str], stem: Path) -> None:
    """Writes one panel per series, both axes logarithmic, with the fitted laws."""
    for scheme in SCHEMES:
        colours = dict(zip(methods, (scheme.proved, scheme.refuted), strict=False))
        fig, first = chart(scheme, 11.0, 3.8)
        first.remove()
        for number, series in enumerate(SERIES, 1):
            ax = fig.add_subplot(1, len(SERIES), number)
            style(ax, scheme)
            for method in methods:
                mine = [
                    r
                    for r in rows
                    if (r["series"], r["method"]) == (series.name, method)
                ]
                law = fitted(rows, series.name, method)
                ax.plot(
                    [r["size"] for r in mine],
                    [r["seconds"] for r in mine],
                    marker="o", linestyle="none", color=colours[method],
                )  # fmt: skip
                ax.plot(
                    [law.least, law.most],
                    [law.at(law.least), law.at(law.most)],
                    color=colours[method], label=f"{method}: power {law.power:.2f}",
                )  # fmt: skip
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_ylim(top=10 * ax.get_ylim()[1])  # room for the legend
            ax.set_xlabel(series.name)
            ax.set_xticks(series.sizes, [f"{s:,}" for s in series.sizes])
            ax.minorticks_off()
            if number == 1:
                ax.set_ylabel("seconds per call")
            legend(ax, scheme, loc="upper left")
        fig.savefig(stem.with_name(stem.name + scheme.suffix + ".png"))
