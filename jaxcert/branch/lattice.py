"""Branch and bound over the input box, where the margin is a lattice.

The least value of an affine function over a box is known, up to rounding. Minima and
maxima of lower bounds are lower bounds: nothing is relaxed, and no error grows on the
way from the affine functions to the margin (`trace/lattice.py`). Boxes that this does
not prove are halved, that of the least margin first. All of it is float64 on the host:
some thousand comparisons a box, and nothing to compile.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxcert.box import Box
from jaxcert.spec import Spec
from jaxcert.trace.lattice import Lattice
from jaxcert.verdict import Reason
from jaxcert.witness.judge import MOST_SUSPECTS, Judge, Witness

_BLOCK = 64
"""Boxes bounded at once."""
_MOST_BOXES = 1 << 16
"""Boxes after which bounds with relaxations may be the better ones."""
_GREATEST = 1e300
"""Magnitudes up to which sums of a few numbers do not overflow."""


class LatticeAnswer(NamedTuple):
    """What splitting the input came to.

    proved; witness: a point that violates the spec, or None; processed: boxes bounded;
    reason: why neither, where it is neither.
    """

    proved: bool
    witness: Witness | None
    processed: int
    reason: Reason


def decide_lattice(
    judge: Judge, lattice: Lattice, box: Box, spec: Spec, deadline: float
) -> LatticeAnswer:
    """Returns what can be decided by the deadline. Runs where float64 is enabled.

    Args:
      judge: of points that may violate the spec: the network itself is asked.
      lattice: the margin.
      box: numpy float64, not empty.
      spec: what must hold, numpy float64.
      deadline: `time.monotonic()` after which no further boxes are bounded.
    """
    shape = np.shape(box.lo)
    lo, hi = np.reshape(box.lo, (1, -1)), np.reshape(box.hi, (1, -1))
    error = leaf_error(lattice, np.maximum(np.abs(lo[0]), np.abs(hi[0])))
    steep = np.abs(lattice.weights).max(axis=0)
    margin, processed, suspects = np.zeros(1), 0, 0
    while len(lo):
        if time.monotonic() >= deadline:
            return LatticeAnswer(False, None, processed, Reason.TIME)
        if processed >= _MOST_BOXES or not np.all(np.isfinite(error)):
            break
        order = np.argpartition(margin, min(_BLOCK, len(margin)) - 1)
        now, later = order[:_BLOCK], order[_BLOCK:]
        least, centre = bounded(lattice, error, lo[now], hi[now])
        processed += len(now)
        left = ~(least > 0)
        now, centre = now[left], centre[left]
        # Halves of subnormal numbers are rounded, out of an edge of length 0 even.
        middle = np.clip(lo[now] / 2 + hi[now] / 2, lo[now], hi[now])
        if len(now) and centre.min() <= error.max() and suspects < MOST_SUSPECTS:
            suspects += 1
            point = middle[centre.argmin()].reshape(shape)
            witness = judge.exactly(spec, point) or judge.search(spec, box, point[None])
            if witness is not None:
                return LatticeAnswer(False, witness, processed, Reason.WITNESS)
        widths = (hi[now] - lo[now]) * steep
        cut = np.arange(len(lo[0])) == widths.argmax(axis=1)[:, None]
        if not np.all((lo[now] < middle) & (middle < hi[now]) | ~cut):
            break
        halves = np.where(cut, middle, hi[now]), np.where(cut, middle, lo[now])
        lo = np.concatenate([lo[later], lo[now], halves[1]])
        hi = np.concatenate([hi[later], halves[0], hi[now]])
        margin = np.concatenate([margin[later], centre, centre])
    proved = not len(lo)
    reason = Reason.BOUND if proved else Reason.LIMIT
    return LatticeAnswer(proved, None, processed, reason)


def leaf_error(
    lattice: Lattice, greatest: Float[np.ndarray, " d"]
) -> Float[np.ndarray, " leaves"]:
    """Returns how far `bounded` may be off at each leaf, from its true function.

    w x + b is computed in at most 2 d + 3 roundings, of w and b themselves, products,
    and sums of two products' worth each: by gamma_(2 d + 3) (|w| |x| + |b|) at most, in
    any order (Higham, chapter 3), and what underflows. Twice that and more is returned,
    for the rounding of this and of its subtraction. Infinite if a sum may overflow.

    Args:
      lattice: whose leaves they are.
      greatest: the greatest |x| of every feature.
    """
    terms = 2 * len(greatest) + 4
    with np.errstate(over="ignore", invalid="ignore"):
        size = np.abs(lattice.weights) @ greatest + np.abs(lattice.offset)
        error = terms * (2.0**-52 * size + 2.0**-1000 * (1 + greatest.sum()))
    return np.where(size < _GREATEST, error, np.inf)


def bounded(
    lattice: Lattice,
    error: Float[np.ndarray, " leaves"],
    lo: Float[np.ndarray, "n d"],
    hi: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Returns lower bounds of a lattice over boxes, and about what it is at centres.

    Args:
      lattice: the function.
      error: of its leaves, see `leaf_error`; finite.
      lo, hi: faces of the boxes.
    """
    weights, offset = lattice.weights, lattice.offset[:, None]
    up, down = np.maximum(weights, 0), np.minimum(weights, 0)
    least = up @ lo.T + down @ hi.T + offset - error[:, None]
    centre = weights @ (lo / 2 + hi / 2).T + offset
    both = lattice.value(np.concatenate([least, centre], axis=1))
    return both[: len(lo)], both[len(lo) :]
