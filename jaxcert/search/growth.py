"""Growth, from a proved box to a maximal one: what is asked and what is answered."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import numpy as np

from jaxcert.box import Box, Rates
from jaxcert.branch.leaves import Proof
from jaxcert.errors import InputError
from jaxcert.search.faces import AT_DOMAIN as AT_DOMAIN
from jaxcert.search.faces import OPEN as OPEN
from jaxcert.search.faces import at_rest, ends_beyond
from jaxcert.spec import Spec

FAIRNESS = {"maximal": None, "min_edge": 32.0, "mean_edge": 0.1, "volume": 1.0}
"""Objectives, and the fairness that stands for each."""


@dataclasses.dataclass(frozen=True)
class GrowthOptions:
    """How boxes grow.

    Attributes:
      objective: "maximal" keeps the given box and moves all faces evenly as far as
        they go. The others start from the input itself and may trade the apothem:
        "min_edge" for the least edge, "mean_edge" for the sum of the edges, "volume"
        for the log-volume; then they grow to a maximal box as well.
      delta: resolution of maximality, in input units (times the rates).
      rounds: most proposals that are to be proved.
      subproblems: most per input and round.
    """

    objective: Literal["maximal", "min_edge", "mean_edge", "volume"] = "maximal"
    delta: float = 1e-3
    rounds: int = 60
    subproblems: int = 4000

    def __post_init__(self) -> None:
        if self.objective not in FAIRNESS:
            raise InputError(
                f"unknown objective '{self.objective}'; choose one of "
                f"{', '.join(FAIRNESS)}"
            )
        if not self.delta > 0:
            raise InputError(f"delta is {self.delta}; it must be > 0")


@dataclasses.dataclass(frozen=True, eq=False)
class GrowthTask:
    """What growth starts from, numpy float64, J inputs.

    Attributes:
      x: inputs, (J, *d).
      box: proved boxes around them, leaves (J, *d).
      witness: counterexamples near these boxes, NaN if none, (J, *d).
      domain, rates: shape d.
      spec: one per input, leaves (J, ...).
      wanted: which inputs to work on, (J,).
    """

    x: np.ndarray
    box: Box
    witness: np.ndarray
    domain: Box
    rates: Rates
    spec: Spec
    wanted: np.ndarray

    def rows(self, chosen: np.ndarray) -> GrowthTask:
        """Returns the chosen inputs."""
        return GrowthTask(
            self.x[chosen], _rows(self.box, chosen), self.witness[chosen], self.domain,
            self.rates, _rows(self.spec, chosen), self.wanted[chosen],
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Growth:
    """Grown boxes, numpy; F = 2d faces, lower ones first.

    Attributes:
      box: proved, leaves (J, *d).
      points: of every input, (n_j, *d), points of its box.
      blocked: (J, F), which of these points violates the spec once the feature of the
        face is moved to the face's end; AT_DOMAIN for a face on the domain's boundary
        or of rate 0; OPEN for one that nothing is known to stop.
      ends: (J, F), beyond every blocked face by delta or less, inside the domain.
      subproblems: that were bounded with multipliers of their own, (J,).
      rounds: proposals that were to be proved, (J,).
      proofs: of the boxes, (J,); None where none was recorded.
      delta: resolution of maximality that was asked for.
    """

    box: Box
    points: list[np.ndarray]
    blocked: np.ndarray
    ends: np.ndarray
    subproblems: np.ndarray
    rounds: np.ndarray
    proofs: list[Proof | None]
    delta: float

    @staticmethod
    def unchanged(task: GrowthTask, delta: float) -> Growth:
        """Returns the boxes that growth starts from, and nothing known of their faces.

        Except which of them lie on the domain's boundary.
        """
        given, none = (task.box, task.domain, task.rates), np.zeros(len(task.x), int)
        return Growth(
            box=task.box,
            points=[np.zeros((0, *x.shape)) for x in task.x],
            blocked=np.where(at_rest(*given), AT_DOMAIN, OPEN),
            ends=ends_beyond(*given, delta),
            subproblems=none,
            rounds=none,
            proofs=[None] * len(task.x),
            delta=delta,
        )

    def rows(self, count: int) -> Growth:
        """Returns the first `count` inputs."""
        return Growth(
            _rows(self.box, slice(count)), self.points[:count], self.blocked[:count],
            self.ends[:count], self.subproblems[:count], self.rounds[:count],
            self.proofs[:count], self.delta,
        )  # fmt: skip

    @staticmethod
    def joined(parts: list[Growth], slices: list[np.ndarray]) -> Growth:
        """Returns the inputs of all parts; `slices` says where those of each belong."""
        order = np.argsort(np.concatenate(slices))

        def join(*values: np.ndarray) -> np.ndarray:
            return np.concatenate(values)[order]

        points = [p for part in parts for p in part.points]
        proofs = [p for part in parts for p in part.proofs]
        return Growth(
            jax.tree.map(join, *[part.box for part in parts]),
            [points[k] for k in order],
            join(*[part.blocked for part in parts]),
            join(*[part.ends for part in parts]),
            join(*[part.subproblems for part in parts]),
            join(*[part.rounds for part in parts]),
            [proofs[k] for k in order],
            parts[0].delta,
        )

    def witness(self, row: int, face: int) -> np.ndarray:
        """Returns the counterexample that blocks a face of an input.

        Args:
          row: the input.
          face: a blocked face, flat; lower faces first.
        """
        point = np.array(self.points[row][self.blocked[row, face]])
        point.reshape(-1)[face % point.size] = self.ends[row, face]
        return point


def _rows(tree: Any, chosen: Any) -> Any:
    return jax.tree.map(lambda v: np.asarray(v)[chosen], tree)
