"""Growing: from a proved box to a maximal one, all faces of all inputs at once.

The first proposal comes from attacks (`proposals.py`). The leaves that it leaves
unproved say how far its faces have to come back (`cover.py`); what remains is proved.
From then on the leaves themselves say how far the faces may go. Those that stop a face
are split, or solved as linear programs, whose solutions are the points that violate the
spec beyond it. A face is done when it lies on the domain's boundary, or when a point of
the box, moved to delta beyond the face, violates the spec.

No box counts before every leaf of its cover was bounded over it, in float64. Nothing
proved is ever given up: stopping early leaves a smaller proved box.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from jaxcert.bounds.alpha import layout_of
from jaxcert.bounds.ascent import AscentOptions
from jaxcert.box import Box, Family
from jaxcert.branch.leaves import Leaves, Proof
from jaxcert.branch.signs import BranchOptions
from jaxcert.devices import float64, local_devices
from jaxcert.memory import room_for
from jaxcert.model import Model
from jaxcert.rows import select
from jaxcert.search.cover import Exam, Place, Prover, children
from jaxcert.search.faces import (
    Faces,
    at_rest,
    box_of,
    extents_of,
    face_weights,
)
from jaxcert.search.filling import Cuts, fill
from jaxcert.search.growth import (
    AT_DOMAIN,
    FAIRNESS,
    OPEN,
    Growth,
    GrowthOptions,
    GrowthTask,
)
from jaxcert.search.proposals import Front, ProposalOptions, propose

# Threads that share a batch, and the inputs that are worth one.
_WORKERS, _PER_WORKER = 2, 8
# Cuts per input that a box is chosen by; a cover has more leaves, most of no concern.
_CUTS = 128
# Leaves whose weights are held at a time.
_HELD = 4096
_BRIEF = AscentOptions()
_THOROUGH = AscentOptions(iterations=100, decay=0.97)
# How much more room than they seem to have leaves get that can still be split.
_BOLDER, _BOLDEST = 2.0, 64.0
# The part of the room that leaves have which is left for rounding.
_SPARE = 1e-3
# And what is left for other proofs, in units of what rounding may come to.
_RESERVE = 4.0
# How often leaves that stop a face are split before they are solved.
_SPLITS = 4
# How often what stops faces next is looked for, once the leaves before were solved.
_SOLVES = 4
# Linear programs per input at a time.
_PROGRAMS = 16
# Boxes that are tried after a proposal could not be proved.
_REPAIRS = 3
# Rounds without progress after which an input is left as it is.
_PATIENCE = 6


def grow_boxes(
    model: Model,
    task: GrowthTask,
    options: GrowthOptions,
    branch: BranchOptions,
    deadline: float = np.inf,
    progress: Callable[[int, int], None] | None = None,
) -> Growth:
    """Returns maximal boxes, as far as the rounds and the deadline allow.

    Args:
      model: the network; ReLUs are its only nonlinear parts.
      task: see `GrowthTask`.
      options: see `GrowthOptions`.
      branch: how branch and bound runs; `record` keeps the proofs of the boxes.
      deadline: `time.monotonic()` after which no further round begins.
      progress: told the round and how many inputs are not done; by several threads.
    """
    count = len(task.x)
    workers = max(min(os.cpu_count() or 1, _WORKERS, count // _PER_WORKER), 1)
    slices = [np.arange(k, count, workers) for k in range(workers)]
    active, stopped = [len(rows) for rows in slices], threading.Event()

    device = local_devices()[0]

    def work(number: int) -> Growth:
        with jax.default_device(device), float64():
            part = task.rows(slices[number])
            run = _Run(model, part, options, branch, deadline)
            for index in range(options.rounds):
                late = time.monotonic() > deadline or stopped.is_set()
                if not run.active.any() or late:
                    break
                run.round(index)
                active[number] = int(run.active.sum())
                if progress:
                    progress(index, sum(active))
            active[number] = 0
            return run.result()

    # Some programs are too small for two cores, and linear programs are solved on one.
    with ThreadPoolExecutor(workers) as pool:
        try:
            parts = list(pool.map(work, range(workers)))
        except BaseException:
            stopped.set()
            raise
    return Growth.joined(parts, slices)


class _Run:
    """The state of `grow_boxes` between rounds."""

    def __init__(
        self,
        model: Model,
        task: GrowthTask,
        options: GrowthOptions,
        branch: BranchOptions,
        deadline: float,
    ) -> None:
        self._options, self._deadline, self._params = options, deadline, model.double
        self._program = model.program
        layout = layout_of(self._program)
        self._records = branch.record
        # What growth asks on its way is no certificate's proof: that is of its end.
        search = dataclasses.replace(branch, record=False).resolved(layout)
        self._prover = Prover(layout, search, model, task.spec)
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
        )  # fmt: skip
        self._faces = Faces(model, options.delta, task.x.shape)
        self._subproblems = np.zeros(count, np.int64)
        self._rounds = np.zeros(count, np.int64)
        self._boldness, self._idle = np.ones(count), np.zeros(count, int)
        self.active = task.wanted.copy()
        known = np.isfinite(task.witness).reshape(count, -1).all(axis=1) & task.wanted
        self._front = self._faces.watch(
            self._front, np.flatnonzero(known), task.witness[known]
        )
        self._steepest_rate = max(np.max(task.rates.lower), np.max(task.rates.upper))
        # A box can only be changed with a cover of it at hand.
        self._first = task.box
        self._place = self._prover.at(self._front.box)
        first = self._prover.unsplit(self._place, task.wanted)
        cover, rest = self._solve_rest(self._place, *self._prove(self._place, first))
        self.active[rest.owner] = False
        self._cover = cover.rows(self.active[cover.owner])
        self._resting = [self._cover.rows(np.zeros(len(self._cover.owner), bool))]

    def round(self, index: int) -> None:
        """Moves the faces of every active input as far as one proposal allows."""
        self._rounds += self.active
        before, open_ = self._extents(), self._faces.open
        fairness = None
        if index == 0:
            fairness = FAIRNESS[self._options.objective]
            target = self._attacked(fairness)
        else:
            target = self._guided(before)
        self._advance(before, target, fairness)
        self._faces.close(self._front, self.active)
        gain = self._extents() - before
        closed = (open_ & ~self._faces.open).any(axis=1)
        moved = (gain.max(axis=1) > self._options.delta) | closed
        self._idle = np.where(moved, 0, self._idle + 1)
        left = self._faces.open.sum(axis=1)
        self.active &= (left > 0) & (self._idle < _PATIENCE)
        self._rest(~self.active[self._cover.owner])

    def _attacked(self, fairness: float | None) -> Box:
        """Returns boxes that attacks find nothing wrong with."""
        options = ProposalOptions(delta=self._options.delta, fairness=fairness)
        target, self._front = jax.device_get(
            propose(self._program, options, self._params, self._front)
        )
        return target

    def _guided(self, extents: np.ndarray) -> Box:
        """Returns boxes as large as the leaves seem to allow."""
        front, delta = self._front, self._options.delta
        limits = np.where(
            self._faces.open, np.asarray(extents_of(front, front.domain)), extents
        )
        far = self._box(limits)
        self._rest(self._prover.excess(self._prover.at(far), self._cover) > 0)
        exam = self._prover.examine(self._place, self._cover, far=far)
        exam = self._refine(exam, far)
        owner = self._cover.owner
        room = np.where(exam.splittable, self._boldness[owner], 1.0) * exam.excess
        part = room / np.maximum(exam.excess - exam.far, 1e-300)
        goal, chosen = extents.copy(), []
        for j in np.flatnonzero(self.active).tolist():
            own = np.flatnonzero(owner == j)
            chosen.append((j, own[np.argsort(part[own])][:_CUTS]))
        for j, own, weight in self._weights(chosen):
            spend = (1 - _SPARE) * np.maximum(room[own] - self._spare(j), 0)
            budget = spend + weight @ extents[j]
            goal[j] = fill(_padded(weight, budget), extents[j], limits[j], delta)
        return self._box(goal)

    def _spare(self, j: int) -> float:
        """Returns by how much proofs of input j stay above what they need.

        So that others, with other multipliers, find proofs too. Less where nothing
        moves any more.
        """
        return float(_RESERVE * self._place.instances.slack[j] * 0.5 ** self._idle[j])

    def _rest(self, leaves: np.ndarray) -> None:
        """Takes leaves out of the cover that need no further work, by mask."""
        self._resting.append(self._cover.rows(leaves))
        self._cover = self._cover.rows(~leaves)

    def _weights(
        self, chosen: list[tuple[int, np.ndarray]]
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yields what faces cost leaves of the cover: input, rows and costs, (n, F).

        More than `_CUTS` leaves of one input may come in several parts: their costs are
        held no further than memory allows.
        """
        # Coefficients as they come and with the blocks' padding, and costs per face.
        held = room_for(5 * 8 * self._front.box.lo[0].size, _CUTS, _HELD)
        chosen = [
            (j, rows[first : first + held])
            for j, rows in chosen
            for first in range(0, max(len(rows), 1), held)  # without leaves too
        ]
        ends = np.cumsum([len(rows) for _, rows in chosen])
        group = ends // held
        for number in np.unique(group):
            part = [chosen[k] for k in np.flatnonzero(group == number)]
            leaves = self._cover.rows(np.concatenate([rows for _, rows in part]))
            exam = self._prover.examine(self._place, leaves, weights=True)
            weight = np.split(exam.weights(), np.cumsum([len(r) for _, r in part])[:-1])
            for (j, rows), own in zip(part, weight, strict=True):
                yield j, rows, face_weights(own, self._front, j)

    def _refine(self, exam: Exam, far: Box) -> Exam:
        """Splits or solves the leaves that stop open faces; returns the new exam."""
        for left in reversed(range(_SPLITS + 1)):
            rows, faces = self._stopping(exam)
            split = np.zeros(len(exam.excess), bool)
            split[rows[exam.splittable[rows]]] = True
            if not split.any() or not left:
                break
            chosen = jax.tree.map(lambda v, s=split: v[s], exam)
            fresh = children(self._cover.rows(split), chosen)
            found = self._prover.examine(self._place, fresh, _BRIEF, far=far)
            owner = fresh.owner
            self._subproblems += np.bincount(owner, minlength=len(self.active))
            fresh = dataclasses.replace(fresh, multipliers=found.multipliers)
            # A pair of children counts only if both are proved.
            good = np.tile((found.excess > 0).reshape(2, -1).all(axis=0), 2)
            kept = np.ones(len(split), bool)
            kept[np.flatnonzero(split)[good[: split.sum()]]] = False
            if not good.any():
                break
            self._cover = Leaves.joined([self._cover.rows(kept), fresh.rows(good)])
            exam = jax.tree.map(
                lambda u, v, k=kept, g=good: np.concatenate([u[k], v[g]]), exam, found
            )
        known: set[tuple[int, int]] = set()
        for left in reversed(range(_SOLVES)):
            untried = [
                not exam.splittable[k] and (k, face) not in known
                for k, face in zip(rows, faces, strict=True)
            ]
            if not any(untried):
                break
            rows, faces = rows[untried], faces[untried]
            known.update(zip(rows, faces, strict=True))
            exam = self._solve(rows, faces, exam, far)
            if left:
                rows, faces = self._stopping(exam)
        return exam

    def _stopping(self, exam: Exam) -> tuple[np.ndarray, np.ndarray]:
        """Returns leaves that stop open faces from moving by delta, and one such face.

        Of each leaf one face, if it allows that one the least; of the last all.
        """
        delta, owner = self._options.delta, self._cover.owner
        tight = exam.excess <= delta * exam.steepest * self._steepest_rate
        rows, faces = [], []
        found = np.unique(owner[tight])
        chosen = [(j, np.flatnonzero(tight & (owner == j))) for j in found]
        least: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for j, own, weight in self._weights(chosen):
            room = exam.excess[own][:, None] / np.maximum(weight, 1e-300)
            place = np.argmin(room, axis=0)
            each = own[place], room[place, np.arange(room.shape[1])]
            before = least.get(j, each)
            nearer = each[1] < before[1]
            least[j] = (
                np.where(nearer, each[0], before[0]),
                np.minimum(each[1], before[1]),
            )
        for j, (leaf, room) in least.items():
            open_ = np.flatnonzero(self._faces.open[j])
            # Another face every time, should one come to nothing.
            open_ = np.roll(open_, -self._rounds[j])
            held = np.flatnonzero(room[open_] < delta)
            first = np.unique(leaf[open_][held], return_index=True)[1]
            if len(open_) <= 2 * _PROGRAMS:
                # The last faces one by one; those that leaves share come last.
                first = np.append(first, np.delete(np.arange(len(held)), first))
            rows.append(leaf[open_][held[first]])
            faces.append(open_[held[first]])
        none = np.zeros(0, int)
        return np.concatenate([none, *rows]), np.concatenate([none, *faces])

    def _advance(
        self,
        extents: np.ndarray,
        target: Box,
        fairness: float | None,
    ) -> None:
        """Proves the targets, or what their unproved leaves allow of them."""
        goal = np.array(extents_of(self._front, target))
        place = self._prover.at(target)
        good, bad = self._prove(place, self._cover)
        failed = np.zeros(len(extents), bool)
        failed[bad.owner] = True
        self._boldness = np.where(
            failed, 1.0, np.minimum(self._boldness * _BOLDER, _BOLDEST)
        )
        rooms: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        for _ in range(_REPAIRS):
            if not len(bad.owner):
                break
            bad = self._limits(place, bad, extents, goal, rooms)
            for j in np.unique(bad.owner):
                weight, budget = (
                    np.concatenate(v) for v in zip(*rooms[j], strict=True)
                )
                cuts = _padded(weight[-_CUTS:], budget[-_CUTS:])
                cap = np.maximum(goal[j], extents[j])
                goal[j] = fill(cuts, extents[j], cap, self._options.delta, fairness)
            target = self._box(goal)
            place = self._prover.at(target)
            good, bad = self._prove(place, Leaves.joined([good, bad]))
        lost = np.zeros(len(extents), bool)
        lost[bad.owner] = True
        kept = self.active & ~lost
        self._cover = Leaves.joined(
            [good.rows(kept[good.owner]),
             self._cover.rows(lost[self._cover.owner])]
        )  # fmt: skip
        box = select(kept, target, self._front.box)
        self._front = self._front.replaced(box=box)
        self._place = self._prover.at(box)

    def _limits(
        self,
        place: Place,
        bad: Leaves,
        extents: np.ndarray,
        goal: np.ndarray,
        rooms: dict[int, list[tuple[np.ndarray, np.ndarray]]],
    ) -> Leaves:
        """Adds what leaves allow to `rooms`; returns them with the multipliers of it.

        Those optimised for the target, if they prove the box there is; else those that
        the leaves have.
        """
        box = self._front.box
        best = self._prover.examine(place, bad, _THOROUGH, far=box, weights=True)
        known = self._prover.examine(place, bad, box=box, weights=True)
        old = ~(best.far > 0)
        owner = bad.owner
        for j in np.unique(owner):
            own = np.flatnonzero(owner == j)
            own = own[np.argsort(-best.excess[own])]
            chosen = np.where(old[own], known.excess[own], best.excess[own])
            weight = select(old[own], known.weights()[own], best.weights()[own])
            weight = face_weights(weight, self._front, j)
            at = np.where(old[own][:, None], extents[j], goal[j])
            spare = _SPARE * np.abs(known.excess[own]) + self._spare(j)
            budget = chosen + np.sum(weight * at, axis=1) - spare
            rooms.setdefault(j, []).append((weight, budget))
        multipliers = select(old, bad.multipliers, best.multipliers)
        return dataclasses.replace(bad, multipliers=multipliers)

    def _prove(self, place: Place, leaves: Leaves) -> tuple[Leaves, Leaves]:
        good, bad, used = self._prover.prove(
            place, leaves, _BRIEF, self._options.subproblems, self._deadline
        )
        self._subproblems += used
        return good, bad

    def _solve_rest(
        self, place: Place, good: Leaves, bad: Leaves
    ) -> tuple[Leaves, Leaves]:
        """Returns what is proved and what is not, once the latter were solved."""
        owner = bad.owner
        first = [np.flatnonzero(owner == j)[:_PROGRAMS] for j in np.unique(owner)]
        rows = np.concatenate([np.zeros(0, int), *first])
        boxes = [jax.tree.map(lambda v, j=j: v[j], place.box) for j in owner[rows]]
        bad = self._solved(place, bad, rows, boxes)
        proved = self._prover.excess(place, bad) > 0
        return Leaves.joined([good, bad.rows(proved)]), bad.rows(~proved)

    def _solve(self, rows: np.ndarray, faces: np.ndarray, exam: Exam, far: Box) -> Exam:
        """Solves leaves of the cover over the box with one face moved; the new exam.

        What the program ends with either lets the face move, or is a point that stops
        it.
        """
        owner = self._cover.owner
        kept = [np.flatnonzero(owner[rows] == j)[:_PROGRAMS] for j in np.unique(owner)]
        few = np.concatenate([np.zeros(0, int), *kept])
        if not len(few):
            return exam
        rows, faces = rows[few], faces[few]
        leaves = self._cover.rows(rows)
        boxes = [
            self._faces.moved(self._front, owner[k], face)
            for k, face in zip(rows, faces, strict=True)
        ]
        before = self._prover.examine(self._place, leaves, weights=True)
        each = np.arange(len(rows))
        solved = self._solved(self._place, leaves, each, boxes, faces)
        after = self._prover.examine(self._place, solved, far=far, weights=True)

        def room(found: Exam) -> np.ndarray:
            weight = [
                face_weights(found.weights()[k : k + 1], self._front, owner[row])[
                    0, face
                ]
                for k, (row, face) in enumerate(zip(rows, faces, strict=True))
            ]
            return np.asarray(found.excess) / np.maximum(weight, 1e-300)

        better = (after.excess > 0) & (room(after) > room(before))
        # Of a leaf that was solved for several faces the first result is kept.
        first = np.unique(rows, return_index=True)[1]
        better &= np.isin(each, first)

        def put(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            old = np.array(old)
            old[rows[better]] = new[better]
            return old

        multipliers = jax.tree.map(put, self._cover.multipliers, solved.multipliers)
        self._cover = dataclasses.replace(self._cover, multipliers=multipliers)
        return jax.tree.map(put, exam, dataclasses.replace(after, weight=None))

    def _solved(
        self,
        place: Place,
        leaves: Leaves,
        rows: np.ndarray,
        boxes: list[Box],
        faces: np.ndarray | None = None,
    ) -> Leaves:
        """Returns the leaves with multipliers from linear programs over the boxes.

        The points where the programs end are watched from then on. Those that violate
        the spec stop the faces that their boxes have moved.
        """
        split = np.array(leaves.multipliers.split)
        row = np.array(leaves.multipliers.row)
        owner, whose, points = leaves.owner, [], []
        solved = []
        for number, (k, box) in enumerate(zip(rows, boxes, strict=True)):
            proof = self._prover.solve(place, leaves.rows(k), box)
            if proof is not None:
                split[k], row[k] = proof.beta, proof.row
                whose.append(owner[k])
                points.append(proof.point.reshape(box.lo.shape))
                solved.append(number)
        stopped = None if faces is None else faces[solved]
        self._front = self._faces.watch(
            self._front, np.asarray(whose, int), np.asarray(points), stopped
        )
        multipliers = dataclasses.replace(leaves.multipliers, split=split, row=row)
        return dataclasses.replace(leaves, multipliers=multipliers)

    def _extents(self) -> np.ndarray:
        return np.asarray(extents_of(self._front, self._front.box))

    def _box(self, extents: np.ndarray) -> Box:
        """Returns the boxes of these extents, and what is proved already."""
        box, known = jax.device_get(box_of(self._front, extents)), self._front.box
        return Box(np.minimum(box.lo, known.lo), np.maximum(box.hi, known.hi))

    def result(self) -> Growth:
        """Returns what was found so far, after every leaf was bounded once more.

        An input with a leaf that is missing or not proved has the box it came with.
        """
        leaves = Leaves.joined([*self._resting, self._cover])
        box, points = self._front.box, self._faces.all_points()
        # Over a part of the box it was proved for, a leaf may need other multipliers.
        _, rest, _ = self._prover.prove(
            self._prover.at(box), leaves, _BRIEF, self._options.subproblems
        )
        failed = ~self._prover.complete(leaves)
        failed[rest.owner] = True
        box = select(failed, self._first, box)
        proofs: list[Proof | None] = [None] * len(failed)
        if self._records:
            proofs = self._prover.record(box, leaves, _BRIEF, self._options.subproblems)
        front = self._front.replaced(box=box)
        resting = at_rest(box, front.domain, front.rates)
        unknown = np.where(resting, AT_DOMAIN, OPEN)
        return Growth(
            box,
            [p[:0] if failed[j] else p for j, p in enumerate(points)],
            np.where(failed[:, None], unknown, self._faces.blocked),
            self._faces.all_ends(front),
            self._subproblems,
            self._rounds,
            proofs,
            self._options.delta,
        )


def _padded(weight: np.ndarray, budget: np.ndarray) -> Cuts:
    """Returns `_CUTS` cuts; those that are missing limit nothing."""
    missing = _CUTS - len(budget)
    return Cuts(
        np.pad(weight, ((0, missing), (0, 0))),
        np.pad(budget, (0, missing), constant_values=1e9),
    )
