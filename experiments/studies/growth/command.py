"""Measures how the cost of CROWN grows with boxes, input features and layers.

    python experiments/growth.py --output=out/growth

Networks are random, 784-256-256-10 but for what grows; boxes are balls of --epsilon
around random inputs. Writes growth.jsonl, one line per measurement as soon as it is
known, and growth.png; prints the exponents of the power laws that the larger half of
each series follows, in seconds and in the multiply-adds that are needed, and why.
"""

from __future__ import annotations

import dataclasses
import math

import jax
from absl import logging

from jaxcert.commands.console import expand
from jaxcert.commands.options import REQUIRED, Options, folder, option
from jaxcert.errors import InputError
from jaxcert.runs.journal import Journal, rows
from studies.growth.run import SERIES, Series, fitted, measured, picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of the study `growth`."""

    methods: tuple[str, ...] = option(("crown", "ibp"), "What to measure.")
    epsilon: float = option(0.001, "Radius of the boxes.", least=0, below=math.inf)
    seconds: float = option(
        1.0, "Least time to measure each point for.", least=0, below=math.inf
    )
    output: str = folder(REQUIRED)
    resume: bool = option(False, "Keep what is measured.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for word in self.methods:
            if word not in SERIES[0].why:
                raise InputError(f"--methods: unknown {word!r}; known: crown, ibp")


def main(request: Request) -> int:
    """Runs the study; returns its exit code."""
    methods = list(request.methods)
    config = {
        "epsilon": request.epsilon,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    output = expand(request.output)
    journal = Journal(rows("growth"), output, request.resume, config)
    done = {(row["series"], row["method"], row["size"]) for row in journal.records}
    for series in SERIES:
        for method in methods:
            for size in series.sizes:
                if (series.name, method, size) in done:
                    continue
                row = measured(series, method, size, request.epsilon, request.seconds)
                journal.append(row)
                logging.info(
                    "%s, %d %s: %.3g s", method, size, series.name, row["seconds"]
                )
    picture(journal.records, methods, output / "growth")
    for series in SERIES:
        for method in methods:
            print(_sentence(series, method, journal.records))
    print(f"\nwrote growth.jsonl, growth.png in {output}")
    return 0


def _sentence(series: Series, method: str, found: list) -> str:
    seconds = fitted(found, series.name, method).power
    arithmetic = fitted(found, series.name, method, "multiply_adds").power
    return (
        f"{method:6} seconds ~ {series.name}^{seconds:.2f}, multiply-adds "
        f"^{arithmetic:.2f}: {series.why[method]}"
    )
