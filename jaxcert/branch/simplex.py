"""Small linear programs over boxes: few constraints, many variables.

The bounded dual simplex method on a dense tableau, with the ratio test that flips
bounds (Koberstein, The Dual Simplex Method, Techniques for a fast and stable
implementation, 2005). The programs of leaves need a handful of steps: HiGHS takes 5 ms
for one, nearly all of them before and after its own steps, and this .3 ms.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

_STEPS = 200
# Pivots, relatively to the greatest of their row, and what counts as met.
_PIVOT, _MET = 1e-9, 1e-10


@dataclasses.dataclass(frozen=True, eq=False)
class Optimum:
    """Where c @ z is least.

    Attributes:
      point: z, shape (n,).
      multipliers: >= 0 of the constraints, shape (m,): over the box alone, the least
        c @ z + multipliers @ (A z - b) is the same.
      value: c @ z.
    """

    point: Float[np.ndarray, " n"]
    multipliers: Float[np.ndarray, " m"]
    value: float


def minimise(
    cost: Float[np.ndarray, " n"],
    matrix: Float[np.ndarray, "m n"],
    limit: Float[np.ndarray, " m"],
    lo: Float[np.ndarray, " n"],
    hi: Float[np.ndarray, " n"],
) -> Optimum | None:
    """Returns the least cost @ z with matrix @ z <= limit and lo <= z <= hi.

    None where nothing satisfies the constraints, and where the method does not end.
    What is returned is exact up to rounding, and not checked.
    """
    m, n = matrix.shape
    unit = np.maximum(np.max(np.abs(matrix), axis=1, initial=0), 1e-300)
    # Columns: z, then the slack of every constraint, which is >= 0.
    table = np.concatenate([matrix / unit[:, None], np.eye(m)], axis=1)
    lower, upper = np.append(lo, np.zeros(m)), np.append(hi, np.full(m, np.inf))
    width = upper - lower
    reduced = np.append(cost, np.zeros(m))
    value = np.append(
        np.where(cost >= 0, lo, hi),
        limit / unit - table[:, :n] @ np.where(cost >= 0, lo, hi),
    )
    basis, free = n + np.arange(m), width > 0
    free[n:] = False
    for _ in range(_STEPS):
        now = value[basis]
        below, above = lower[basis] - now, now - upper[basis]
        wrong = np.maximum(below, above)
        row = int(np.argmax(wrong)) if m else 0
        if not m or wrong[row] <= _MET * (1 + abs(now[row])):
            return Optimum(value[:n], reduced[n:] / unit, float(cost @ value[:n]))
        up = below[row] >= above[row]
        pull = table[row] if up else -table[row]
        # Moving off their bounds, these bring the basic variable back to its own.
        helps = np.where(value <= lower, -pull, pull)
        able = free & (helps > _PIVOT * np.max(np.abs(pull)))
        columns = np.flatnonzero(able)
        ratio = np.abs(reduced[columns]) / helps[columns]
        columns = columns[np.argsort(ratio, kind="stable")]
        # Those that reach their other bound before it is back go there.
        left = wrong[row] - np.cumsum(helps[columns] * width[columns])
        count = int(np.searchsorted(-left, 0))
        if count == len(columns):
            return None
        flipped, entering = columns[:count], columns[count]
        there = np.where(
            value[flipped] <= lower[flipped], upper[flipped], lower[flipped]
        )
        value[basis] -= table[:, flipped] @ (there - value[flipped])
        value[flipped] = there
        leaving, goal = basis[row], (lower if up else upper)[basis[row]]
        step = (value[leaving] - goal) / table[row, entering]
        value[basis] -= table[:, entering] * step
        value[entering] += step
        value[leaving] = goal
        reduced -= reduced[entering] / table[row, entering] * table[row]
        reduced[entering] = 0
        table[row] /= table[row, entering]
        others = np.arange(m) != row
        table[others] -= np.outer(table[others, entering], table[row])
        basis[row] = entering
        free[entering], free[leaving] = False, width[leaving] > 0
    return None
