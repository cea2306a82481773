"""Measures how the cost of CROWN grows with boxes, input features and layers.

    python experiments/growth.py --output=out/growth

Networks are random, 784-256-256-10 but for what grows; boxes are balls of --epsilon
around random inputs. Writes growth.jsonl, one line per measurement as soon as it is
known, and growth.png; prints the exponents of the power laws that the larger half of
each series follows, in seconds and in the multiply-adds that are needed, and why.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from absl import flags, logging

from jaxcert.commands.console import expand
from jaxcert.errors import InputError
from jaxcert.runs.journal import Journal, rows
from studies.growth.run import SERIES, Series, fitted, measured, picture

_METHODS = flags.DEFINE_list("methods", ["crown", "ibp"], "What to measure.")
_EPSILON = flags.DEFINE_float("epsilon", 0.001, "Radius of the boxes.", lower_bound=0)
_SECONDS = flags.DEFINE_float(
    "seconds", 1.0, "Least time to measure each point for.", lower_bound=0
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write.", required=True)
_RESUME = flags.DEFINE_boolean("resume", False, "Keep what is measured.")


def main(argv: Sequence[str]) -> int:
    del argv
    methods = _methods(_METHODS.value)
    config = {
        "epsilon": _EPSILON.value,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    folder = expand(_OUTPUT.value)
    journal = Journal(rows("growth"), folder, _RESUME.value, config)
    done = {(row["series"], row["method"], row["size"]) for row in journal.records}
    for series in SERIES:
        for method in methods:
            for size in series.sizes:
                if (series.name, method, size) in done:
                    continue
                row = measured(series, method, size, _EPSILON.value, _SECONDS.value)
                journal.append(row)
                logging.info(
                    "%s, %d %s: %.3g s", method, size, series.name, row["seconds"]
                )
    picture(journal.records, methods, folder / "growth")
    for series in SERIES:
        for method in methods:
            print(_sentence(series, method, journal.records))
    print(f"\nwrote growth.jsonl, growth.png in {folder}")
    return 0


def _sentence(series: Series, method: str, found: list) -> str:
    seconds = fitted(found, series.name, method).power
    arithmetic = fitted(found, series.name, method, "multiply_adds").power
    return (
        f"{method:6} seconds ~ {series.name}^{seconds:.2f}, multiply-adds "
        f"^{arithmetic:.2f}: {series.why[method]}"
    )


def _methods(words: Sequence[str]) -> list[str]:
    for word in words:
        if word not in SERIES[0].why:
            raise InputError(f"--methods: unknown {word!r}; known: crown, ibp")
    return list(words)
