"""The faces of growing boxes: how far they are out, and what stops each of them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxcert.box import Box, Rates
from jaxcert.model import Model
from jaxcert.search.proposals import (
    WITNESSES,
    Front,
    ProposalOptions,
    judge,
    probe,
    settle_points,
)
from jaxcert.witness.judge import MOST_SUSPECTS, Judge

AT_DOMAIN, OPEN = -1, -2
# Points are judged so many at a time, and the faces of so many inputs probed.
_BLOCK, _INPUTS = 64, 8


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


def at_rest(box: Box, domain: Box, rates: Rates) -> np.ndarray:
    """Returns which faces lie on the domain's boundary or never move, (J, F)."""
    low = (box.lo <= domain.lo) | (rates.lower == 0)
    high = (box.hi >= domain.hi) | (rates.upper == 0)
    return _both(low, high)


def ends_beyond(box: Box, domain: Box, rates: Rates, delta: float) -> np.ndarray:
    """Returns where every face would be, moved by delta, (J, F)."""
    moved = moved_out(box, domain, rates, delta)
    return _both(moved.lo, moved.hi)


def _both(low: Any, high: Any) -> np.ndarray:
    sides = np.asarray(low), np.asarray(high)
    return np.concatenate([v.reshape(len(v), -1) for v in sides], axis=1)


def moved_out(box: Box, domain: Box, rates: Rates, delta: float) -> Box:
    """Returns the box with every face moved by delta inside the domain, numpy.

    Rounded toward the box, so that no face is farther. Leaves of any equal shape.
    """
    reach = delta * (1 - 2.0**-50)
    lo = np.nextafter(box.lo - reach * np.asarray(rates.lower), box.lo)
    hi = np.nextafter(box.hi + reach * np.asarray(rates.upper), box.hi)
    return Box(np.maximum(lo, domain.lo), np.minimum(hi, domain.hi))  # type: ignore[arg-type]


class Faces:
    """What is known to stop the faces of J boxes; F = 2d faces, lower ones first.

    Attributes:
      blocked: (J, F), which of an input's points stops a face; see `Growth`.
      ends: (J, F), where that point has the face's feature; NaN where none is known.
      points: of every input, arrays (n, *d).
    """

    def __init__(self, model: Model, delta: float, shape: Any) -> None:
        self._program, self._params = model.program, model.double
        self._judge, self._failures = Judge(model), np.zeros(shape[0], int)
        self._options = ProposalOptions(delta=delta)
        count, features = shape[0], int(np.prod(shape[1:]))
        self._shape = shape
        self.blocked = np.full((count, 2 * features), OPEN)
        self.ends = np.full(self.blocked.shape, np.nan)
        self.points: list[list[np.ndarray]] = [[] for _ in range(count)]
        self._watched = np.zeros(count, int)

    @property
    def open(self) -> np.ndarray:
        """Which faces nothing is known to stop, (J, F)."""
        return self.blocked == OPEN

    def watch(
        self,
        front: Front,
        rows: np.ndarray,
        points: np.ndarray,
        faces: np.ndarray | None = None,
    ) -> Front:
        """Returns the front with bad points, (n, *d), of the inputs `rows`, (n,).

        Those that belong to `faces`, (n,), are first moved into the box whose face is
        moved by delta; there, a violation beyond the face stops it: ties count.
        """
        if not len(rows):
            return front
        if faces is not None:
            boxes = [self.moved(front, *of) for of in zip(rows, faces, strict=True)]
            points = np.stack(
                [np.clip(p, b.lo, b.hi) for p, b in zip(points, boxes, strict=True)]
            )
        count, parts = len(rows), []
        for start in range(0, count, _BLOCK):
            index = np.minimum(np.arange(start, start + _BLOCK), count - 1)
            found = judge(
                self._program, self._params, front, rows[index], points[index]
            )
            parts.append(jax.device_get(found))
        aims, bad, doubtful = (
            np.concatenate(v)[:count] for v in zip(*parts, strict=True)
        )
        watched, clause = np.array(front.points), np.array(front.clause)
        for row, point, aim in zip(rows, points, aims, strict=True):
            place = front.spec.num_clauses + self._watched[row] % WITNESSES
            watched[row, place], clause[row, place] = point, aim
            self._watched[row] += 1
        if faces is not None:
            for k in np.flatnonzero(bad):
                self._stop(front, rows[k], faces[k], points[k])
            for k in np.flatnonzero(doubtful):
                self._stop_by_tie(front, rows[k], faces[k], points[k])
        return front.replaced(points=watched, clause=clause)

    def _stop(self, front: Front, row: int, face: int, point: np.ndarray) -> None:
        """Notes what a violation just beyond a face stops."""
        lo, hi = (np.asarray(v[row]) for v in (front.box.lo, front.box.hi))
        inside = np.clip(point, lo, hi)
        feature = int(face) % point.size
        # Inside it nothing can be violated: then the face would have to move first.
        moved = point.reshape(-1)[feature] != inside.reshape(-1)[feature]
        if self.blocked[row, face] != OPEN or not moved:
            return
        self.blocked[row, face] = sum(map(len, self.points[row]))
        self.ends[row, face] = point.reshape(-1)[feature]
        self.points[row].append(inside[None])

    def _stop_by_tie(
        self, front: Front, row: int, face: int, point: np.ndarray
    ) -> None:
        """Notes what a violation stops beyond a face, near a point in doubt, if any.

        Several points in vain, and those of an input are let be.
        """
        if self.blocked[row, face] != OPEN or self._failures[row] >= MOST_SUSPECTS:
            return
        side, feature = divmod(int(face), point.size)
        beyond = self.moved(front, row, face)
        inner = (front.box.lo, front.box.hi)[side][row].reshape(-1)[feature]
        # Of the box whose face has moved, the part that lies beyond the face.
        outward = np.inf if side else -np.inf
        (beyond.hi, beyond.lo)[side].reshape(-1)[feature] = np.nextafter(inner, outward)
        if beyond.is_empty():
            return
        spec = jax.tree.map(lambda v: np.asarray(v)[row], front.spec)
        seed = np.clip(point, beyond.lo, beyond.hi)
        found = self._judge.search(spec, beyond, seed[None])
        if found is None:
            self._failures[row] += 1
        else:
            self._stop(front, row, face, found.point)

    def close(self, front: Front, usable: np.ndarray) -> None:
        """Finds out which faces are done, of the inputs that are usable, (J,)."""
        resting = at_rest(front.box, front.domain, front.rates)
        self.blocked[resting & usable[:, None]] = AT_DOMAIN
        # Points of linear programs are exact; pressing them may lose what they stop.
        for press in (False, True):
            self._probe(front, usable, press)

    def _probe(self, front: Front, usable: np.ndarray, press: bool) -> None:
        rows = np.flatnonzero(usable & self.open.any(axis=1))
        front, beyond = front.replaced(free=self.open), self._beyond(front)
        for start in range(0, len(rows), _INPUTS):
            part = rows[start : start + _INPUTS]
            padded = np.resize(part, _INPUTS)
            own = jax.tree.map(lambda v, p=padded: np.asarray(v)[p], front)
            inside = settle_points(
                self._program, self._options, self._params, own, press
            )
            stops, doubtful, by = jax.device_get(
                probe(
                    self._program, self._options, self._params, inside, beyond[padded],
                    len(part),
                )
            )  # fmt: skip
            points = np.asarray(inside.points)
            for k, j in enumerate(part):
                new = stops[k] & self.open[j]
                if new.any():
                    offset = sum(map(len, self.points[j]))
                    used, place = np.unique(by[k, new], return_inverse=True)
                    self.blocked[j, new] = offset + place
                    self.ends[j, new] = beyond[j, new]
                    self.points[j].append(points[k, used])
                for face in np.flatnonzero(doubtful[k] & self.open[j]):
                    z = points[k, by[k, face]].copy()
                    z.reshape(-1)[face % z.size] = beyond[j, face]
                    self._stop_by_tie(front, j, face, z)

    def _beyond(self, front: Front) -> np.ndarray:
        return ends_beyond(front.box, front.domain, front.rates, self._options.delta)

    def moved(self, front: Front, row: int, face: int) -> Box:
        """Returns the box of one input with one face moved by delta, leaves d."""
        box, domain, rates = (
            jax.tree.map(lambda v: np.array(v[row]), tree)
            for tree in (front.box, front.domain, front.rates)
        )
        ends = moved_out(box, domain, rates, self._options.delta)
        side, feature = divmod(int(face), box.lo.size)
        faces, end = (box.lo, box.hi)[side], (ends.lo, ends.hi)[side]
        np.asarray(faces).reshape(-1)[feature] = end.reshape(-1)[feature]
        return box

    def all_ends(self, front: Front) -> np.ndarray:
        """Returns where what stops a face lies beyond it, else the farthest, (J, F)."""
        low, high = np.split(self._beyond(front), 2, axis=1)
        known_low, known_high = np.split(self.ends, 2, axis=1)
        ends = [np.fmax(low, known_low), np.fmin(high, known_high)]
        return np.concatenate(ends, axis=1)

    def all_points(self) -> list[np.ndarray]:
        """Returns the points of every input, (n_j, *d)."""
        none = np.zeros((0, *self._shape[1:]))
        return [np.concatenate(p) if p else none for p in self.points]
