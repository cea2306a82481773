"""The faces of growing boxes: how far they are out, and what stops each of them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxcert.box import Box
from jaxcert.program import Program
from jaxcert.search.proposals import (
    WITNESSES,
    Front,
    ProposalOptions,
    probe,
    settle_points,
    worst_clause,
)

AT_DOMAIN, OPEN = -1, -2


@jax.jit
def extents_of(fronts: Front, boxes: Box) -> Float[Array, "J F"]:
    """Returns how far the faces of boxes lie from the inputs, in their rates."""
    return jax.vmap(Front.extents)(fronts, boxes)


@jax.jit
def box_of(fronts: Front, extents: Float[Array, "J F"]) -> Box:
    """Returns the boxes of these extents, clipped to the domain."""
    return jax.vmap(Front.at)(fronts, extents)


def face_weights(weight: np.ndarray, front: Front, row: int) -> np.ndarray:
    """Returns by how much bounds fall per unit of every face, (n, F), >= 0.

    Args:
      weight: coefficients of the bounds at one input, (n, *d).
      front: of all inputs.
      row: which input.
    """
    down, up = (np.ravel(side[row]) for side in (front.rates.lower, front.rates.upper))
    flat = weight.reshape(len(weight), down.size)
    return np.concatenate(
        [np.maximum(flat, 0) * down, np.maximum(-flat, 0) * up], axis=1
    )


def at_rest(front: Front) -> np.ndarray:
    """Returns which faces lie on the domain's boundary or never move, (J, F)."""
    box, domain, rates = front.box, front.domain, front.rates
    low = np.asarray((box.lo <= domain.lo) | (rates.lower == 0))
    high = np.asarray((box.hi >= domain.hi) | (rates.upper == 0))
    count = len(low)
    return np.concatenate([low.reshape(count, -1), high.reshape(count, -1)], axis=1)


class Faces:
    """What is known to stop the faces of J boxes; F = 2d faces, lower ones first.

    Attributes:
      blocked: (J, F), which of an input's points stops a face; see `Growth`.
      points: of every input, arrays (n, *d).
    """

    def __init__(self, program: Program, params: Any, delta: float, shape: Any) -> None:
        self._program, self._params = program, params
        self._options = ProposalOptions(delta=delta)
        count, features = shape[0], int(np.prod(shape[1:]))
        self._shape = shape
        self.blocked = np.full((count, 2 * features), OPEN)
        self.points: list[list[np.ndarray]] = [[] for _ in range(count)]
        self._watched = np.zeros(count, int)

    @property
    def open(self) -> np.ndarray:
        """Which faces nothing is known to stop, (J, F)."""
        return self.blocked == OPEN

    def watch(self, front: Front, rows: np.ndarray, points: np.ndarray) -> Front:
        """Returns the front with bad points, (n, *d), of the inputs `rows`, (n,)."""
        if not len(rows):
            return front
        spec = jax.tree.map(lambda v: np.asarray(v)[rows], front.spec)
        aims = np.asarray(worst_clause(self._program, self._params, spec, points))
        watched, clause = np.array(front.points), np.array(front.clause)
        for row, point, aim in zip(rows, points, aims, strict=True):
            place = front.spec.num_clauses + self._watched[row] % WITNESSES
            watched[row, place], clause[row, place] = point, aim
            self._watched[row] += 1
        return front.replaced(points=watched, clause=clause)

    def close(self, front: Front, usable: np.ndarray) -> None:
        """Finds out which faces are done, of the inputs that are usable, (J,)."""
        self.blocked[at_rest(front) & usable[:, None]] = AT_DOMAIN
        # Points of linear programs are exact; pressing them may lose what they stop.
        for press in (False, True):
            self._probe(front, usable, press)

    def _probe(self, front: Front, usable: np.ndarray, press: bool) -> None:
        rows = np.flatnonzero(usable & self.open.any(axis=1))
        if not len(rows):
            return
        front = front.replaced(free=self.open)
        inside = settle_points(self._program, self._options, self._params, front, press)
        padded = np.zeros(len(usable), np.int32)
        padded[: len(rows)] = rows
        stops, by = jax.device_get(
            probe(
                self._program, self._options, self._params, inside, padded, len(rows)
            )
        )  # fmt: skip
        points = np.asarray(inside.points)
        new = stops & self.open
        for j in np.flatnonzero(new.any(axis=1)):
            offset = sum(map(len, self.points[j]))
            used, place = np.unique(by[j, new[j]], return_inverse=True)
            self.blocked[j, new[j]] = offset + place
            self.points[j].append(points[j, used])

    def all_points(self) -> list[np.ndarray]:
        """Returns the points of every input, (n_j, *d)."""
        none = np.zeros((0, *self._shape[1:]))
        return [np.concatenate(p) if p else none for p in self.points]
