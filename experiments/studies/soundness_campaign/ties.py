"""Exact ties and numbers that only float64 can hold, against exact minima.

The networks have two inputs, so that their least margin is known as a fraction.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np

from studies.soundness_campaign.bounds import BOXES_PER_NETWORK, Problems
from studies.soundness_campaign.exact import Asker, exact_minimum
from studies.soundness_campaign.record import Tally, pick

TIES = (
    ("dense 4", "relu", "dense 3", "relu"),
    ("dense 3", "clip"),
    ("dense 6", "max_pair", "dense 3"),
    ("dense 4", "abs", "dense 3", "max_half"),
)
DOUBLE = (
    ("double", ("dense 4", "relu", "dense 3")),
    ("onnx", ("dense 4", "relu", "dense 3")),
    ("onnx", ("dense 6", "max_pair", "dense 4", "abs", "dense 3")),
    ("double", ("gap literal", "dense 4", "relu", "dense 3")),
    ("double", ("dense 4", "relu", "gap array", "dense 3")),
)
"""Routes to the library, and what is asked about there."""

# Least margins: those of ties, in absolute terms; and those that float32 cannot see.
TIE_SHIFTS = (0.0, 0.0, -(2.0**-44), 2.0**-44, -(2.0**-20), 2.0**-20, 0.25)
DOUBLE_SHIFTS = (-1e-7, -1e-8, -1e-9, 1e-9, 1e-8, 1e-3)
# Where float64 itself loses nine digits.
SHARP_SHIFTS = (-1e-2, -1e-4, 1e-4, 1e-2)


def dyadic(problems: Problems) -> Problems:
    """Returns the problems with boxes whose corners have three binary digits."""
    lo, hi = np.floor(8 * problems.lo) / 8, np.ceil(8 * problems.hi) / 8
    return dataclasses.replace(problems, lo=lo, hi=hi)


def minima_group(
    problems: Problems,
    rng: np.random.Generator,
    shifts: tuple[float, ...],
    route: str = "jax",
    once: tuple[str, ...] = ("inputs",),
    seconds: float = 0.05,
) -> Tally:
    """Returns verdicts on specs whose least margin is one of the shifts, as exactly.

    The first box of every network is asked about by crown and attack, and once also by
    the other ways.
    """
    tally = Tally(networks=len(problems.lo) // BOXES_PER_NETWORK)
    asker = Asker(problems.architecture, route)
    for m in range(0, len(problems.lo), BOXES_PER_NETWORK):
        params = pick(problems.params, m)
        box = problems.lo[m], problems.hi[m]
        row = problems.rows[m, :1]
        if rng.random() < 0.5:
            row = rng.choice([-1.0, 1.0]) * np.eye(3)[rng.integers(3)][None]
        least, vertex = exact_minimum(problems.architecture, params, *box, row[0])
        known = np.clip(vertex, *box)
        scale = Fraction(1) if shifts is TIE_SHIFTS else 1 + abs(least)
        chosen = [float(s) for s in rng.choice(shifts, 3, False)]
        for index, shift in enumerate(chosen):
            spec = row, np.array([float(Fraction(shift) * scale - least)])
            exact = least + Fraction(float(spec[1][0]))
            if exact == 0:
                tally.note("ties")
            for way in ("crown", *(once if index == 0 else ())):
                asker.ask(tally, params, box, spec, way, exact, known, seconds)
    return tally
