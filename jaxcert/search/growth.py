"""Growth: from a proved box to a maximal one, all faces of all inputs at once.

Every round takes the boxes that `proposals.py` makes of what is known, and asks
branch and bound about them. What is proved becomes the box; a counterexample is watched
from then on, so that the next proposal avoids it. A face is done when it lies on the
domain's boundary, or when a point of the box, moved to delta beyond the face, violates
the spec. Nothing proved is ever given up: stopping early leaves a smaller proved box.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from jaxcert.bounds.ibp import program_of
from jaxcert.box import Box, Family, Rates
from jaxcert.errors import InputError
from jaxcert.oracle.brackets import ApothemAnswer, close_brackets
from jaxcert.oracle.branch_and_bound import BranchOptions
from jaxcert.oracle.instances import ApothemTask
from jaxcert.program import Program
from jaxcert.search.proposals import (
    WITNESSES,
    Front,
    ProposalOptions,
    probe,
    propose,
    settle_points,
    worst_clause,
)
from jaxcert.spec import Spec

FAIRNESS = {"maximal": None, "min_edge": 32.0, "mean_edge": 0.1, "volume": 1.0}
"""Objectives, and the fairness that stands for each."""
AT_DOMAIN, OPEN = -1, -2
_ALL_OR_NOTHING, _PART_OF_THE_WAY = 1e6, 1e-3
_RESERVES = (1e-3, 1e-5, 1e-7, 1e-9)
"""What blocks a face that no point blocks: the domain's boundary, or nothing known."""


@dataclasses.dataclass(frozen=True)
class GrowthOptions:
    """How boxes grow.

    Attributes:
      objective: "maximal" keeps the given box and moves all faces evenly as far as
        they go. The others start from the input itself and may trade the apothem:
        "min_edge" for the least edge, "mean_edge" for the sum of the edges, "volume"
        for the log-volume; then they grow to a maximal box as well.
      delta: resolution of maximality, in input units (times the rates).
      rounds: most proposals that branch and bound is asked about.
      stubborn: refuted proposals in a row after which a box moves part of the way.
    """

    objective: Literal["maximal", "min_edge", "mean_edge", "volume"] = "maximal"
    delta: float = 1e-3
    rounds: int = 40
    stubborn: int = 5

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


@dataclasses.dataclass(frozen=True, eq=False)
class Growth:
    """Grown boxes, numpy; F = 2d faces, lower ones first.

    Attributes:
      box: proved, leaves (J, *d).
      points: of every input, (n_j, *d), points of its box.
      blocked: (J, F), which of these points, moved to delta beyond the face (but inside
        the domain), violates the spec; AT_DOMAIN for a face on the domain's boundary or
        of rate 0; OPEN for one that nothing is known to stop.
      subproblems: that branch and bound bounded, (J,).
      rounds: proposals asked about, (J,).
    """

    box: Box
    points: list[np.ndarray]
    blocked: np.ndarray
    subproblems: np.ndarray
    rounds: np.ndarray

    def rows(self, count: int) -> Growth:
        """Returns the first `count` inputs."""
        box = jax.tree.map(lambda v: v[:count], self.box)
        return Growth(
            box, self.points[:count], self.blocked[:count], self.subproblems[:count],
            self.rounds[:count],
        )  # fmt: skip

    def witness(self, row: int, face: int, end: float) -> np.ndarray:
        """Returns the counterexample that blocks a face, given how far it may move.

        Args:
          row: the input.
          face: a blocked face, flat; lower faces first.
          end: where delta beyond the face is, or the domain's boundary before it.
        """
        point = np.array(self.points[row][self.blocked[row, face]])
        point.reshape(-1)[face % point.size] = end
        return point


def grow_boxes(
    f: Callable[[Any, Any], Any],
    params32: Any,
    params64: Any,
    task: GrowthTask,
    options: GrowthOptions,
    branch: BranchOptions,
    deadline: float = np.inf,
    progress: Callable[[int, int], None] | None = None,
) -> Growth:
    """Returns maximal boxes, as far as the rounds and the deadline allow.

    Must run where float64 is enabled.

    Args:
      f: the network's function; ReLUs are its only nonlinear parts.
      params32, params64: its weights in both float types.
      task: see `GrowthTask`.
      options: see `GrowthOptions`.
      branch: how branch and bound runs.
      deadline: `time.monotonic()` after which no further round begins.
      progress: told the round and how many inputs are not done.
    """
    run = _Run(f, params32, params64, task, options, branch, deadline)
    for index in range(options.rounds):
        if not run.active.any() or time.monotonic() > deadline:
            break
        run.round(index)
        if progress:
            progress(index, int(run.active.sum()))
    return run.result()


class _Run:
    """The state of `grow_boxes` between rounds."""

    def __init__(
        self,
        f: Callable[[Any, Any], Any],
        params32: Any,
        params64: Any,
        task: GrowthTask,
        options: GrowthOptions,
        branch: BranchOptions,
        deadline: float,
    ) -> None:
        self._f, self._params = f, (params32, params64)
        self._options, self._branch, self._deadline = options, branch, deadline
        self._program: Program = program_of(f, params32, task.x[0])
        count, faces = len(task.x), 2 * task.x[0].size
        everywhere = Family.many(task.box, task.domain, task.rates)
        clauses = task.spec.num_clauses
        width = Front.width(clauses)
        keeps = FAIRNESS[options.objective] is None
        self._front = Front(
            x=task.x, domain=everywhere.domain, rates=everywhere.rates, spec=task.spec,
            box=task.box if keeps else Box.point(task.x),
            free=np.ones((count, faces), bool),
            points=np.repeat(task.x[:, None], width, axis=1),
            clause=np.tile(np.arange(width) % clauses, (count, 1)).astype(np.int32),
            reserve=np.full(count, _RESERVES[0]),
        )  # fmt: skip
        self.active = task.wanted.copy()
        self._shaped = np.full(count, keeps)
        self._failed, self._level = np.zeros(count, int), np.zeros(count, int)
        self._witnesses = np.zeros(count, int)
        self._blocked = np.full((count, faces), OPEN)
        self._points: list[list[np.ndarray]] = [[] for _ in range(count)]
        self._subproblems = np.zeros(count, np.int64)
        self._rounds = np.zeros(count, np.int64)
        known = np.isfinite(task.witness).reshape(count, -1).all(axis=1)
        self._watch(task.witness, known & task.wanted)

    def round(self, index: int) -> None:
        """Asks branch and bound about one proposal for every active input."""
        options, weights = self._options, self._params[1]
        shaping = bool(np.any(self.active & ~self._shaped))
        asked = self.active & (~self._shaped if shaping else True)
        fairness = FAIRNESS[options.objective] if shaping else None
        proposing = ProposalOptions(delta=options.delta, fairness=fairness)
        target, self._front = jax.device_get(
            propose(
                self._program, proposing, weights, self._front, np.int32(index)
            )
        )  # fmt: skip
        front = self._front
        core = Box.point(front.x) if shaping else front.box
        if not shaping:
            target = self._or_one_face(target)
        partly = asked & (self._failed >= options.stubborn)
        answer = self._ask(core, target, asked & ~partly, _ALL_OR_NOTHING)
        if np.any(partly):
            part = self._ask(core, target, partly, _PART_OF_THE_WAY)
            answer = _merged(answer, part, partly)
        self._subproblems += answer.processed
        self._rounds += asked
        moved = asked & answer.improved
        self._failed = np.where(moved, 0, self._failed + asked)
        self._shaped |= moved
        self._level += moved
        reserve = np.asarray(_RESERVES)[np.minimum(self._level, len(_RESERVES) - 1)]
        box = jax.tree.map(partial(np.where, _expand(moved, front.x)), answer.box,
                           front.box)  # fmt: skip
        self._front = dataclasses.replace(front, box=box, reserve=reserve)
        self._watch(answer.witness, asked & np.isfinite(answer.upper))
        if self._shaped.any():
            self._close_faces(proposing)

    def _or_one_face(self, target: Box) -> Box:
        """Returns targets; one open face moved by delta where they are no growth."""
        front, delta = self._front, self._options.delta
        box, rates, domain = front.box, front.rates, front.domain
        count = len(front.x)
        lo, hi = np.array(target.lo), np.array(target.hi)
        growth = np.maximum(box.lo - lo, hi - box.hi).reshape(count, -1).max(axis=1)
        still = self.active & (growth < 0.01 * delta)
        beyond = Box(box.lo - delta * rates.lower, box.hi + delta * rates.upper)
        ends = [np.maximum(beyond.lo, domain.lo), np.minimum(beyond.hi, domain.hi)]
        faces = self._blocked.shape[1] // 2
        for j in np.flatnonzero(still):
            lo[j], hi[j] = box.lo[j], box.hi[j]
            side, feature = divmod(int(np.argmax(self._blocked[j] == OPEN)), faces)
            moving = (lo, hi)[side][j].reshape(-1)
            moving[feature] = ends[side][j].reshape(-1)[feature]
        return Box(lo, hi)

    def _ask(
        self, core: Box, target: Box, wanted: np.ndarray, tolerance: float
    ) -> ApothemAnswer:
        """Returns how far boxes can go from the core to the target, 0 to 1."""
        front, count = self._front, len(wanted)
        rates = Rates(core.lo - target.lo, target.hi - core.hi)
        task = ApothemTask(
            family=Family(core, front.domain, rates),
            spec=front.spec,
            lower=np.zeros(count),
            upper=np.full(count, np.inf),
            witness=np.full(front.x.shape, np.nan),
            reach=np.ones(count),
            wanted=wanted,
            tolerance=tolerance,
        )
        return close_brackets(
            self._f, *self._params, task, self._branch, self._deadline
        )

    def _watch(self, points: np.ndarray, known: np.ndarray) -> None:
        """Adds one counterexample per input, where known, to what proposals avoid."""
        if not known.any():
            return
        front = self._front
        safe = np.where(_expand(known, points), points, front.x)
        aims = np.asarray(
            worst_clause(self._program, self._params[1], front.spec, safe)
        )
        rows = np.flatnonzero(known)
        place = front.spec.num_clauses + self._witnesses[rows] % WITNESSES
        watched, clause = np.array(front.points), np.array(front.clause)
        watched[rows, place], clause[rows, place] = points[rows], aims[rows]
        self._witnesses[rows] += 1
        self._front = dataclasses.replace(front, points=watched, clause=clause)

    def _close_faces(self, proposing: ProposalOptions) -> None:
        """Finds out which faces are done."""
        front, params = self._front, self._params[1]
        inside = settle_points(self._program, proposing, params, front)
        stops, by = jax.device_get(probe(self._program, proposing, params, inside))
        points = np.asarray(inside.points)
        box, domain, rates = front.box, front.domain, front.rates
        low = (box.lo <= domain.lo) | (rates.lower == 0)
        high = (box.hi >= domain.hi) | (rates.upper == 0)
        count = len(low)
        done = np.concatenate([low.reshape(count, -1), high.reshape(count, -1)], axis=1)
        usable = self.active & self._shaped
        new = stops & (self._blocked == OPEN) & ~done & usable[:, None]
        for j in np.flatnonzero(new.any(axis=1)):
            offset = sum(map(len, self._points[j]))
            used, place = np.unique(by[j, new[j]], return_inverse=True)
            self._blocked[j, new[j]] = offset + place
            self._points[j].append(points[j, used])
        self._blocked[done & self._shaped[:, None]] = AT_DOMAIN
        self._front = dataclasses.replace(front, free=self._blocked == OPEN)
        self.active &= ~self._shaped | (self._blocked == OPEN).any(axis=1)

    def result(self) -> Growth:
        """Returns what was found so far."""
        shape = self._front.x.shape[1:]
        points = [
            np.concatenate(p) if p else np.zeros((0, *shape)) for p in self._points
        ]
        return Growth(
            self._front.box, points, self._blocked, self._subproblems, self._rounds
        )


def _expand(mask: np.ndarray, like: Any) -> np.ndarray:
    return mask.reshape((-1,) + (1,) * (np.ndim(like) - 1))


def _merged(a: ApothemAnswer, b: ApothemAnswer, use_b: np.ndarray) -> ApothemAnswer:
    def pick(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.where(_expand(use_b, u), v, u)

    return ApothemAnswer(
        lower=pick(a.lower, b.lower),
        box=jax.tree.map(pick, a.box, b.box),
        improved=pick(a.improved, b.improved),
        upper=pick(a.upper, b.upper),
        witness=pick(a.witness, b.witness),
        processed=a.processed + b.processed,
        open=pick(a.open, b.open),
    )
