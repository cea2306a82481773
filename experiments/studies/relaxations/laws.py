"""The laws that relaxations obey, on many random networks.

Up to the tolerance of the solver, a lower bound by

    CROWN  <=  triangle LP  =  k-ReLU LP with k = 1  <=  k-ReLU LP with k = 2  <=  exact

and box and zonotope stay below the exact one too. The zonotope stays below the triangle
LP, for its bounds hold there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from studies.milp_reference.network import Mlp
from studies.relaxations.questions import Question, least

SHAPES = ((2, 4, 2), (3, 6, 2), (2, 4, 4, 2), (3, 5, 4, 2))
_TOLERANCE = 1e-5  # of HiGHS, relatively to the numbers of the networks
_CHAINS = (
    ("crown", "triangle", "krelu", "exact"),
    ("zonotope", "triangle"),
    ("box", "exact"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What every method says of one network.

    Attributes:
      bounds: by method, shape (rows,); `single` is the k-ReLU LP with k = 1.
      violations: the laws that are broken, as text.
    """

    bounds: dict[str, np.ndarray]
    violations: tuple[str, ...]


def compare(count: int, seed: int) -> Iterator[Comparison]:
    """Yields comparisons of random networks over random boxes."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        sizes = SHAPES[number % len(SHAPES)]
        layers = tuple(
            (rng.normal(size=(n, m)), rng.normal(size=n) / 2)
            for m, n in zip(sizes, sizes[1:], strict=False)
        )
        centre, radius = rng.uniform(-1, 1, sizes[0]), 10 ** rng.uniform(-1.5, 0.3)
        question = Question(
            Mlp(layers), centre - radius, centre + radius,
            rng.normal(size=(2, sizes[-1])), rng.normal(size=2),
        )  # fmt: skip
        yield judged(question)


def judged(question: Question) -> Comparison:
    """Returns what every method says, and which laws that breaks."""
    names = ("box", "zonotope", "crown", "triangle", "krelu", "exact")
    bounds = {name: least(name, question) for name in names}
    bounds["single"] = least("krelu", dataclasses.replace(question, k=1))
    allowed = _TOLERANCE * (1 + np.abs(bounds["box"]))
    broken = []
    for chain in _CHAINS:
        for looser, tighter in zip(chain, chain[1:], strict=False):
            if (bounds[looser] > bounds[tighter] + allowed).any():
                broken.append(f"{looser} is above {tighter}")
    if (np.abs(bounds["single"] - bounds["triangle"]) > allowed).any():
        broken.append("the k-ReLU LP with k = 1 is not the triangle LP")
    return Comparison(bounds, tuple(broken))
