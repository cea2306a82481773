"""Groups of networks whose arithmetic matters: rounding, doubles, ties, strictness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from studies.soundness_campaign.bounds import draw_problems
from studies.soundness_campaign.certify import certify_group
from studies.soundness_campaign.exact import points_group
from studies.soundness_campaign.networks import Architecture
from studies.soundness_campaign.record import Tally
from studies.soundness_campaign.rounding import (
    CASTS,
    COMPUTED,
    DOUBLE_ROUNDED,
    draw_casts,
    own_group,
    own_problems,
)
from studies.soundness_campaign.strict import STRICT, strict_group
from studies.soundness_campaign.ties import (
    DOUBLE,
    DOUBLE_SHIFTS,
    SHARP_SHIFTS,
    TIE_SHIFTS,
    TIES,
    dyadic,
    minima_group,
)

Job = tuple[str, Callable[[np.random.Generator], Tally]]

NORMALISED = (
    ("dense 6", "layernorm 1e-6", "relu", "dense 3"),
    ("layernorm 1e-12", "dense 4", "tanh", "dense 3"),
    ("dense 4", "rmsnorm 1e-8", "dense 3"),
    ("dense 4", "fastnorm 1e-5", "relu", "dense 3"),
    ("dense 4", "softmax", "dense 3"),
)
"""Of three inputs each."""
_BOXES = ("point", "tiny", "small", "one_sided", "collapsed", "clipped", "wide")
# What the least margin found is put at, in units of 1 + its size.
_SHIFTS = (-1e-1, -1e-3, -1e-6, -1e-9, 1e-6, 1e-1)
_DRAWN = 2
_ROUNDED_REGIMES = ("plain", "dyadic", "scaled")


def casts(count: int) -> Iterator[Job]:
    """Yields the groups of networks with casts and low precision."""
    share = -(-count // (len(CASTS) + _DRAWN))
    for index, layers in enumerate(CASTS):
        job = partial(_own, architecture=Architecture((2,), layers), count=share)
        yield f"casts-{index}", job
    for index in range(_DRAWN):

        def drawn(rng: np.random.Generator) -> Tally:
            return _own(rng, draw_casts(rng), share)

        yield f"casts-drawn{index}", drawn
    for index in (0, 5):
        yield from _certified(
            "casts", index, (2,), CASTS[index], count, _ROUNDED_REGIMES
        )


def computed(count: int) -> Iterator[Job]:
    """Yields the groups of networks that compute weights from weights."""
    share = -(-count // len(COMPUTED))
    for index, layers in enumerate(COMPUTED):
        job = partial(_own, architecture=Architecture((2,), layers), count=share)
        yield f"computed-{index}", job
    yield from _certified("computed", 0, (2,), COMPUTED[0], count, _ROUNDED_REGIMES)


def double(count: int) -> Iterator[Job]:
    """Yields the groups of networks whose weights or constants are doubles."""
    share = -(-count // (len(DOUBLE) + 2))
    twins = "double", DOUBLE[0][1], "twins"
    asked = [(route, layers, "double") for route, layers in DOUBLE]
    for index, (route, layers, regime) in enumerate([*asked, twins]):
        sharp = regime == "twins" or any(v.startswith("gap") for v in layers)
        shifts = SHARP_SHIFTS if sharp else DOUBLE_SHIFTS

        def job(
            rng: np.random.Generator, layers=layers, route=route, regime=regime,
            shifts=shifts,
        ) -> Tally:  # fmt: skip
            architecture = Architecture((2,), layers)
            boxes = ("small", "clipped", "wide", "collapsed")
            problems = draw_problems(rng, architecture, share, (regime,), boxes)
            return minima_group(problems, rng, shifts, route)

        yield f"double-{index}", job
    rounded = Architecture((2,), DOUBLE_ROUNDED)
    yield "double-rounded", partial(_own, architecture=rounded, count=share)
    yield from _certified("double", 0, (2,), DOUBLE[3][1], count, ("double",), "double")


def ties(count: int) -> Iterator[Job]:
    """Yields the groups of dyadic networks with margins of exactly zero."""
    share = -(-count // len(TIES))
    for index, layers in enumerate(TIES):

        def job(rng: np.random.Generator, layers=layers) -> Tally:
            architecture = Architecture((2,), layers)
            regimes = ("dyadic", "dyadic", "ties", "duplicate")
            problems = draw_problems(rng, architecture, share, regimes, _BOXES)
            return minima_group(dyadic(problems), rng, TIE_SHIFTS)

        yield f"ties-{index}", job
    yield from _certified("ties", 0, (2,), TIES[0], count, ("dyadic", "ties"))


def strict(count: int) -> Iterator[Job]:
    """Yields the groups of properties with strict bounds."""
    share = -(-count // len(STRICT))
    for index, layers in enumerate(STRICT):
        architecture = Architecture((2,), layers)
        job = partial(strict_group, architecture=architecture, networks=share)
        yield f"strict-{index}", job


def layernorm(count: int) -> Iterator[Job]:
    """Yields the groups of networks that normalise."""
    share = -(-count // len(NORMALISED))
    for index, layers in enumerate(NORMALISED):

        def job(rng: np.random.Generator, layers=layers) -> Tally:
            architecture = Architecture((3,), layers)
            problems = draw_problems(rng, architecture, share, boxes=_BOXES)
            return points_group(problems, rng, ("crown", "inputs"), _SHIFTS)

        yield f"layernorm-{index}", job
    yield from _certified(
        "layernorm", 0, (3,), NORMALISED[0], count, ("plain", "cancel")
    )


def _own(rng: np.random.Generator, architecture: Architecture, count: int) -> Tally:
    return own_group(own_problems(rng, architecture, count), rng)


def _certified(
    kind: str, index: int, shape: tuple[int, ...], layers: tuple[str, ...], count: int,
    regimes: tuple[str, ...], route: str = "jax",
) -> Iterator[Job]:  # fmt: skip
    architecture, some = Architecture(shape, layers), max(count // 10, 3)

    def job(rng: np.random.Generator) -> Tally:
        return certify_group(rng, architecture, some, "crown", regimes, route)

    yield f"{kind}_certify-{index}", job
