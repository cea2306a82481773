"""Covers: the leaves of a proof, kept and used again while its box changes.

The signs that the leaves fix cover all cases, so a box is proved where every leaf has a
positive bound. For given multipliers that bound falls linearly as the faces of the box
move out: a leaf says how far they may go, and nothing has to be asked again. Where it
allows too little its multipliers are optimised, and then it is split.

Nothing here is believed: `Prover.examine` evaluates every bound in float64.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxcert.ball import enclosing
from jaxcert.bounds.alpha import Layout, Multipliers, Problem, charged_bound
from jaxcert.bounds.ascent import AscentOptions, ascend
from jaxcert.bounds.cuts import cast_floats
from jaxcert.box import Box, Family, Rates
from jaxcert.branch.brackets import roots
from jaxcert.branch.branching import kinks
from jaxcert.branch.instances import Instances, clause_rows
from jaxcert.branch.leaves import Leaves, Proof
from jaxcert.branch.linear_program import LeafProof, affine_maps, proving_multipliers
from jaxcert.branch.signs import BranchOptions, sharpened
from jaxcert.model import Model
from jaxcert.spec import Spec
from jaxcert.trace.equations import Values

# Leaves that are bounded together, and how many of them share the box of one input.
_CHUNKS, _CHUNK = 32, 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Exam:
    """What is known of n leaves over a box.

    Attributes:
      excess: by how much the bound exceeds what proves it; > 0 is proved, (n,).
      far: what the excess would be over the farthest box, by the same multipliers.
      steepest: the greatest of |weight|, (n,).
      weight: coefficients at the input, (n, *d): the bound is their least sum over the
        box, and a constant. None if not asked for: they are large.
      multipliers: of the bound, leaves (n, ...).
      neuron: which to split, (n,).
      splittable: whether there is one, (n,).
      kink: multiplier of the new sign (+ and -) with which the bound of a child is at
        least that of the leaf, if there is one hidden layer, (n, 2).
    """

    excess: Float[Array, " n"]
    far: Float[Array, " n"]
    steepest: Float[Array, " n"]
    weight: Float[Array, "n *d"] | None
    multipliers: Multipliers
    neuron: Array
    splittable: Array
    kink: Float[Array, "n 2"]

    def weights(self) -> np.ndarray:
        """Returns the coefficients, which must have been asked for."""
        if self.weight is None:
            raise ValueError("this exam was made without weights")
        return np.asarray(self.weight)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Ground:
    """What all leaves of one input share.

    Attributes:
      problem: the box and ranges over it; its rows and offset are those of all clauses.
      far: the box of `Exam.far`.
      slack: what a bound must exceed.
      cost: by how much more per unit of each neuron's beta, (N,).
    """

    problem: Problem
    far: Box
    slack: Float[Array, ""]
    cost: Float[Array, " N"]

    def clause_of(self, index: Array) -> Problem:
        """Returns the problem of one clause."""
        whole = self.problem
        assert not isinstance(whole.rows, dict)  # they are over outputs
        return dataclasses.replace(
            whole, rows=whole.rows[index], offset=whole.offset[index]
        )


@functools.partial(jax.jit, static_argnames=("layout", "options"))
def _excess(
    layout: Layout,
    options: BranchOptions,
    model: Model,
    grounds: _Ground,
    leaves: Leaves,
) -> Array:
    """Returns `Exam.excess` of chunks of leaves."""
    values = _prepared(model)

    def one(ground: _Ground, leaf: Leaves) -> Array:
        signs, m = leaf.signs, leaf.multipliers
        problem = ground.clause_of(leaf.clause)
        problem = sharpened(layout, options, values, problem, signs, m)
        bound, charged, _ = charged_bound(
            layout, values[1], problem, signs, m, ground.cost
        )
        return bound - ground.slack - charged

    return jax.vmap(jax.vmap(one, (None, 0)))(grounds, leaves)


@functools.partial(jax.jit, static_argnames=("layout", "options", "ascent", "weights"))
def _examine(
    layout: Layout,
    options: BranchOptions,
    ascent: AscentOptions | None,
    weights: bool,
    model: Model,
    grounds: _Ground,
    leaves: Leaves,
) -> Exam:
    """Returns the exam of chunks of leaves."""
    values32, values64 = values = _prepared(model)

    def one(ground: _Ground, leaf: Leaves) -> Exam:
        signs, best = leaf.signs, leaf.multipliers
        problem = ground.clause_of(leaf.clause)
        problem = sharpened(layout, options, values, problem, signs, best)

        def excess(m: Multipliers) -> Any:
            bound, charged, parts = charged_bound(
                layout, values64, problem, signs, m, ground.cost
            )
            return bound - ground.slack - charged, parts

        value = excess(best)
        if ascent is not None:
            single, begin = problem.cast(jnp.float32), cast_floats(best, jnp.float32)
            found = ascend(layout, values32, single, signs, begin, ascent)
            found = cast_floats(found, jnp.float64)
            other = excess(found)
            best, value = jax.tree.map(
                lambda a, b: jnp.where(other[0] > value[0], a, b),
                (found, other), (best, value),
            )  # fmt: skip
        over, (weight, outputs) = value
        box = enclosing(problem.box)
        moved = jnp.sum(
            jnp.maximum(weight, 0) * (ground.far.lo - box.lo)
            + jnp.minimum(weight, 0) * (ground.far.hi - box.hi)
        )
        steepest = jnp.max(jnp.abs(weight))
        kept = weight if weights else None
        known = over, over + moved, steepest, kept, best
        if not layout.size:
            return Exam(
                *known, jnp.zeros((), jnp.int32), jnp.zeros((), bool), jnp.zeros(2)
            )
        ranges = problem.ranges
        neuron, splittable = options.neuron_to_split(layout, ranges, signs, outputs)
        kink = kinks(best.slope[neuron], outputs[neuron])
        return Exam(*known, neuron, splittable, kink)

    return jax.vmap(jax.vmap(one, (None, 0)))(grounds, leaves)


def _prepared(model: Model) -> tuple[Values, Values]:
    return model.values(jnp.float32), model.values(jnp.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """A box per input, leaves (J, *d), and what bounds over it and its parts need.

    Attributes:
      box: the boxes.
      instances: every clause of every input, with ranges over the boxes.
      slopes: CROWN's lower slopes, (J, N).
      recorded: slopes of the ranges, if the prover records them; see `Proof`.
    """

    box: Box
    instances: Instances
    slopes: np.ndarray
    recorded: dict[int, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Prover:
    """Bounds leaves over boxes; must run where float64 is enabled.

    Attributes:
      layout: of the program.
      options: how ranges are found and leaves split.
      model: the network.
      spec: of every input, leaves (J, ...).
    """

    layout: Layout
    options: BranchOptions
    model: Model
    spec: Spec

    def at(self, box: Box) -> Place:
        """Returns what bounds over boxes start from."""
        found = jax.device_get(
            roots(self.layout, self.options, self.model, box, self.spec)
        )
        count, clauses = len(box.lo), self.spec.num_clauses
        owner = np.repeat(np.arange(count, dtype=np.int32), clauses)
        clause = np.tile(np.arange(clauses, dtype=np.int32), count)
        rows, offset = self._rows
        still = Rates(np.zeros_like(box.lo), np.zeros_like(box.lo))
        instances = Instances(
            family=Family(box, box, still), ranges=found.ranges, slack=found.slack,
            split_cost=found.cost, floor=np.zeros(count), width=np.float64(0),
            owner=owner, clause=clause, rows=rows, offset=offset,
        )  # fmt: skip
        slopes = np.asarray(found.slopes, np.float64)
        return Place(box, instances, slopes, found.recorded)

    @functools.cached_property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        count, clauses = len(self.spec.offset), self.spec.num_clauses
        owner = np.repeat(np.arange(count), clauses)
        return clause_rows(self.spec, owner, np.tile(np.arange(clauses), count))

    def complete(self, leaves: Leaves) -> np.ndarray:
        """Returns for which inputs the leaves of every clause cover all signs, (J,).

        Every split halves what its leaf stands for, so that the shares of a whole tree
        sum to 1. Computed in integers.
        """
        depth = np.count_nonzero(leaves.signs, axis=1)
        clauses, deepest = self.spec.num_clauses, int(depth.max(initial=0))
        total = [0] * (len(self.spec.offset) * clauses)
        instance = leaves.owner * clauses + leaves.clause
        kinds = np.stack([instance, depth], axis=1)
        for (instance, level), count in zip(
            *np.unique(kinds, axis=0, return_counts=True), strict=True
        ):
            total[instance] += int(count) << (deepest - int(level))
        whole = np.array([share == 1 << deepest for share in total])
        return np.asarray(whole.reshape(-1, clauses).all(axis=1))

    def unsplit(self, place: Place, wanted: np.ndarray) -> Leaves:
        """Returns one leaf without signs per clause of the wanted inputs."""
        clauses = self.spec.num_clauses
        owner = np.repeat(np.flatnonzero(wanted), clauses).astype(np.int32)
        clause = np.tile(np.arange(clauses, dtype=np.int32), int(np.sum(wanted)))
        slope = place.slopes[owner]
        row = np.zeros((len(slope), place.instances.offset.shape[1]))
        multipliers = Multipliers(slope, np.zeros_like(slope), row)
        return Leaves(owner, clause, np.zeros(slope.shape, np.int8), multipliers)

    def examine(
        self,
        place: Place,
        leaves: Leaves,
        ascent: AscentOptions | None = None,
        box: Box | None = None,
        far: Box | None = None,
        weights: bool = False,
    ) -> Exam:
        """Returns what is known of leaves over the place's boxes, numpy.

        Args:
          place: a box per input.
          leaves: with the multipliers to evaluate.
          ascent: how these are optimised first; the better ones count.
          box: parts of the place's boxes to bound over instead.
          far: the boxes that `Exam.far` is about; the same boxes by default.
          weights: whether `Exam.weight` is wanted.
        """
        near = place.box if box is None else box

        def ask(ground: _Ground, block: Leaves) -> Exam:
            return _examine(
                self.layout, self.options, ascent, weights, self.model, ground, block
            )

        return self._in_blocks(ask, place, near, near if far is None else far, leaves)

    def excess(self, place: Place, leaves: Leaves) -> Float[np.ndarray, " n"]:
        """Returns `Exam.excess` of leaves over the place's boxes."""

        def ask(ground: _Ground, block: Leaves) -> Array:
            return _excess(self.layout, self.options, self.model, ground, block)

        return self._in_blocks(ask, place, place.box, place.box, leaves)

    def _in_blocks(
        self, ask: Callable, place: Place, near: Box, far: Box, leaves: Leaves
    ) -> Any:
        """Returns what is asked of leaves, in their order.

        Leaves that share a chunk are of one input; a block has many chunks.
        """
        if not len(leaves.owner):
            first = self.unsplit(place, np.arange(len(place.slopes)) == 0).rows([0])
            found = self._in_blocks(ask, place, near, far, first)
            return jax.tree.map(lambda v: v[:0], found)
        owner = leaves.owner
        order = np.argsort(owner, kind="stable")
        _, start, count = np.unique(owner[order], return_index=True, return_counts=True)
        place_in = np.arange(len(order)) - np.repeat(start, count)
        before = np.cumsum(-(-count // _CHUNK)) - -(-count // _CHUNK)
        chunk = np.repeat(before, count) + place_in // _CHUNK
        # Chunks that are not full, and blocks, end with repetitions.
        slots = np.full((-(-(chunk[-1] + 1) // _CHUNKS) * _CHUNKS, _CHUNK), -1)
        slots[chunk, place_in % _CHUNK] = order
        slots[slots[:, 0] < 0, 0] = order[0]
        slots = np.where(slots < 0, slots[:, :1], slots)
        parts = []
        for first_chunk in range(0, len(slots), _CHUNKS):
            index = slots[first_chunk : first_chunk + _CHUNKS]
            grounds = self._grounds(place, near, far, owner[index[:, 0]])
            parts.append(jax.device_get(ask(grounds, leaves.rows(index))))
        where = np.empty(len(order), int)
        where[order] = chunk * _CHUNK + place_in % _CHUNK
        return jax.tree.map(
            lambda *v: np.concatenate(v).reshape(slots.size, *v[0].shape[2:])[where],
            *parts,
        )

    def _grounds(self, place: Place, near: Box, far: Box, rows: np.ndarray) -> _Ground:
        known, clauses = place.instances, self.spec.num_clauses
        box, beyond, ranges = jax.tree.map(
            lambda v: np.asarray(v)[rows], (near, far, known.ranges)
        )
        own = rows[:, None] * clauses + np.arange(clauses)
        problem = Problem(box, ranges, known.rows[own], known.offset[own])
        return _Ground(problem, beyond, known.slack[rows], known.split_cost[rows])

    def prove(
        self,
        place: Place,
        leaves: Leaves,
        ascent: AscentOptions,
        budget: int,
        deadline: float = np.inf,
    ) -> tuple[Leaves, Leaves, np.ndarray]:
        """Returns leaves that are proved at a place, those that are not, and the work.

        What is not proved is split until no sign is left, or the budget is used up: the
        leaves that are given up have the multipliers they came with.

        Args:
          place: a box per input.
          leaves: of a cover.
          ascent: how multipliers of leaves that are not proved are optimised.
          budget: most subproblems per input.
          deadline: `time.monotonic()` after which nothing is split.
        """
        proved = self.excess(place, leaves) > 0
        done, given_up, open_ = [leaves.rows(proved)], [], leaves.rows(~proved)
        used = np.zeros(len(place.slopes), np.int64)
        while len(open_.owner):
            exam = self.examine(place, open_, ascent)
            owner = open_.owner
            np.add.at(used, owner, 1)
            proved = np.asarray(exam.excess > 0)
            now = dataclasses.replace(open_, multipliers=exam.multipliers)
            done.append(now.rows(proved))
            room = (used[owner] < budget) & (time.monotonic() < deadline)
            split = ~proved & exam.splittable & room
            given_up.append(open_.rows(~proved & ~split))
            open_ = children(
                open_.rows(split), jax.tree.map(lambda v, s=split: v[s], exam)
            )
        given_up.append(open_)
        return Leaves.joined(done), Leaves.joined(given_up), used

    def record(
        self, box: Box, leaves: Leaves, ascent: AscentOptions, budget: int
    ) -> list[Proof | None]:
        """Returns the proof of every box that leaves of a cover prove, (J,).

        As a certificate holds it: over ranges that a checker derives again, and with
        multipliers of float32, or of float64 where some leaf of the box needs these.
        Leaves for which they are too coarse are split on.

        Args:
          box: a box per input.
          leaves: of a cover.
          ascent, budget: as in `prove`.
        """
        options = dataclasses.replace(self.options, record=True, cuts=None)
        prover = dataclasses.replace(self, options=options)
        place = prover.at(box)
        whole = self.complete(leaves)
        missing, parts = whole.copy(), []
        for dtype in (np.float32, np.float64):
            asked = leaves.rows(missing[leaves.owner])
            multipliers = cast_floats(cast_floats(asked.multipliers, dtype), np.float64)
            asked = dataclasses.replace(asked, multipliers=multipliers)
            done, rest, _ = prover.prove(place, asked, ascent, budget)
            missing = np.isin(np.arange(len(whole)), rest.owner)
            parts.append(done.rows(~missing[done.owner]))
            if not missing.any():
                break
        number = {node.output: k for k, node in enumerate(self.layout.nodes)}
        slopes = {number[i]: np.asarray(v) for i, v in place.recorded.items()}
        proof, missing = Proof(Leaves.joined(parts), slopes), missing | ~whole
        return [None if missing[j] else proof.of(j) for j in range(len(missing))]

    def solve(self, place: Place, leaf: Leaves, box: Box) -> LeafProof | None:
        """Returns the best multipliers of one leaf over a box, by linear programming.

        Args:
          place: whose ranges the leaf has.
          leaf: one leaf, without the leading axis; every neuron must be decided.
          box: of its input, leaves d.
        """
        instance = leaf.owner * self.spec.num_clauses + leaf.clause
        problem = place.instances.problem(instance, place.box)
        maps = affine_maps(self.layout, self.model.double, problem, leaf.signs)
        return proving_multipliers(jax.device_get(maps), leaf.signs, box)


def children(leaves: Leaves, exam: Exam) -> Leaves:
    """Returns two leaves for each, with the sign of its chosen neuron fixed.

    They begin with the multipliers of the exam, and its kink.
    """
    parts, each = [], np.arange(len(leaves.owner))
    for side, sign in enumerate((1, -1)):
        signs, split = leaves.signs.copy(), np.array(exam.multipliers.split)
        signs[each, exam.neuron] = sign
        split[each, exam.neuron] = exam.kink[:, side]
        multipliers = dataclasses.replace(exam.multipliers, split=split)
        parts.append(Leaves(leaves.owner, leaves.clause, signs, multipliers))
    return Leaves.joined(parts)
