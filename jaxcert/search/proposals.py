"""Proposals for growth: boxes that should be maximal, as far as attacks can tell.

The points at which the margin is least inside a box say how fast it falls as the faces
move out; `filling.py` turns that into extents, and the attack is asked again, until it
finds nothing wrong and no face could move by delta. All faces of all inputs at once, in
one `lax.while_loop`. Nothing is proved here: an oracle decides about the proposal.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxcert.bounds.ibp import propagate
from jaxcert.bounds.rounding import float64_slack
from jaxcert.box import Box, Rates
from jaxcert.search.filling import Cuts, fill_evenly, fill_fairly
from jaxcert.spec import Spec
from jaxcert.trace.equations import Values
from jaxcert.trace.program import Program
from jaxcert.witness.attack import descend

# Witnesses of branch and bound that are watched, and other low points.
WITNESSES, _LOWEST = 24, 4
# Cuts that one attack adds, and how many attacks are remembered.
_CUTS, _MEMORY = 12, 3
# Faces of one input that are probed at once.
_PROBED = 512
_UNLIMITED = 1e9


@dataclasses.dataclass(frozen=True)
class ProposalOptions:
    """How a proposal is made.

    Attributes:
      delta: resolution of maximality, in input units (times the rates).
      fairness: of the utility that shapes the box, see `filling.fill_fairly`; None
        keeps the box that is proved and only grows it.
      iterations: attacks on the way to one proposal.
      shaping: how many of them may reshape it.
      reserve: part of the margin at the input that a proposal leaves unused.
      restarts: random starts per clause of each attack.
      steps: gradient steps of each.
    """

    delta: float = 1e-3
    fairness: float | None = None
    iterations: int = 6
    shaping: int = 4
    reserve: float = 1e-3
    restarts: int = 8
    steps: int = 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Front:
    """One input during growth; batched with a leading axis. F = 2d faces, lower first.

    Attributes:
      x: the input.
      domain: box of legal inputs.
      rates: units of the faces; those of rate 0 never move.
      spec: what must hold.
      box: what is proved.
      free: faces that may move still.
      points: bad points that are watched, W of them: the worst of every clause,
        `WITNESSES` of branch and bound, and the lowest others.
      clause: the clause that each of them is after.
    """

    x: Float[Array, "*d"]
    domain: Box
    rates: Rates
    spec: Spec
    box: Box
    free: Bool[Array, " F"]
    points: Float[Array, "W *d"]
    clause: Int[Array, " W"]

    @staticmethod
    def width(clauses: int) -> int:
        """Returns W."""
        return clauses + WITNESSES + _LOWEST

    def replaced(self, **changes: Any) -> Front:
        """Returns the front with some attributes replaced."""
        return dataclasses.replace(self, **changes)

    def extents(self, box: Box) -> Float[Array, " F"]:
        """Returns the slacks of a box's faces in units of their rates."""
        down, up = box.slack(self.x)
        sides = (_per(down, self.rates.lower), _per(up, self.rates.upper))
        return jnp.concatenate(sides)

    def at(self, extents: Float[Array, " F"]) -> Box:
        """Returns the box of these extents, clipped to the domain."""
        down, up = extents.reshape(2, *self.x.shape)
        lo, hi = self.x - down * self.rates.lower, self.x + up * self.rates.upper
        return Box(lo, hi).intersect(self.domain)


def _per(slack: Array, rate: Array) -> Array:
    return jnp.where(rate > 0, slack / jnp.where(rate > 0, rate, 1), 0).reshape(-1)


def _clauses(program: Program, values: Values, spec: Spec, z: Array) -> Array:
    return spec.clauses(spec.values(program.evaluate_prepared(values, z)))


def _press(
    program: Program, values: Values, front: Front, box: Box, steps: int
) -> tuple[Array, Array]:
    """Returns the worst points of a box near the front's points, and their margins."""

    def one(start: Array, clause: Array) -> tuple[Array, Array]:
        def value(z: Array) -> tuple[Array, Array]:
            margin = _clauses(program, values, front.spec, z)[clause]
            return margin, margin

        return descend(value, box, box.project(start), steps)

    return jax.vmap(one)(front.points, front.clause)


def _attack(
    program: Program,
    values: Values,
    options: ProposalOptions,
    front: Front,
    box: Box,
    key: Array,
) -> tuple[Front, Array]:
    """Returns the front with the worst points found in a box, and their margins."""
    clauses = front.spec.num_clauses
    aims = jnp.tile(jnp.arange(clauses, dtype=jnp.int32), options.restarts)
    side = jax.random.bernoulli(key, 0.5, (aims.size, *front.x.shape))
    starts = jnp.where(side, box.lo, box.hi)
    random = dataclasses.replace(front, points=starts, clause=aims)
    fresh, low = _press(program, values, random, box, options.steps)
    known, old = _press(program, values, front, box, options.steps)
    points, margins = jnp.concatenate([known, fresh]), jnp.concatenate([old, low])
    aimed = jnp.concatenate([front.clause, aims])
    own = jnp.where(aimed == jnp.arange(clauses)[:, None], margins, jnp.inf)
    lowest = lax.top_k(-low, _LOWEST)[1] + old.size
    watched = jnp.arange(clauses, clauses + WITNESSES)
    chosen = jnp.concatenate([jnp.argmin(own, axis=1), watched, lowest])
    front = dataclasses.replace(front, points=points[chosen], clause=aimed[chosen])
    return front, margins[chosen]


def _cuts(
    program: Program, values: Values, front: Front, box: Box, margins: Array
) -> tuple[Array, Array, Array]:
    """Returns how the margin falls at the lowest points: weights, margins, which."""
    # The same point may have been reached from several starts.
    same = jnp.abs(margins[:, None] - margins) <= 1e-12 * jnp.abs(margins)
    repeated = jnp.any(jnp.tril(same, -1), axis=1)
    count = min(_CUTS, margins.size)
    index = lax.top_k(-jnp.where(repeated, jnp.inf, margins), count)[1]

    def one(z: Array, clause: Array) -> Array:
        slope = jax.grad(lambda z: _clauses(program, values, front.spec, z)[clause])(z)
        low = jnp.where((z <= box.lo) & (slope > 0), slope * front.rates.lower, 0)
        high = jnp.where((z >= box.hi) & (slope < 0), -slope * front.rates.upper, 0)
        return jnp.concatenate([low.reshape(-1), high.reshape(-1)])

    weights = jax.vmap(one)(front.points[index], front.clause[index])
    return weights, margins[index], index


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Draft:
    """A proposal in the making.

    Attributes:
      extents: what is tried next.
      good: the best that the attack found nothing wrong with.
      cuts: of the last attacks.
      front: with the points that are watched.
      shaping: whether it may still be reshaped.
      done: whether nothing can be added.
    """

    extents: Float[Array, " F"]
    good: Float[Array, " F"]
    cuts: Cuts
    front: Front
    shaping: Bool[Array, ""]
    done: Bool[Array, ""]


@functools.partial(jax.jit, static_argnames=("program", "options"))
def propose(
    program: Program,
    options: ProposalOptions,
    params: Any,
    fronts: Front,
) -> tuple[Box, Front]:
    """Returns the boxes proposed for all inputs, and the fronts with their points.

    Args:
      program: of the network.
      options: see `ProposalOptions`.
      params: weights, float64.
      fronts: leaves (J, ...).
    """
    values = program.prepare(params, jnp.float64)
    shapes = options.fairness is not None
    clauses = fronts.spec.num_clauses

    def one(front: Front) -> tuple[Box, Front]:
        known = front.extents(front.box)
        low = jnp.zeros_like(known) if shapes else known
        cap = jnp.where(front.free, front.extents(front.domain), known)
        at_x = jnp.min(_clauses(program, values, front.spec, front.x))
        slack = _slack(program, values, front)
        reserve = options.reserve * jnp.abs(at_x) + 4 * slack
        if not shapes:
            _, begin = _press(program, values, front, front.box, options.steps)
            reserve = jnp.clip(0.2 * jnp.min(begin), 0, reserve)

        def improve(index: Array, draft: _Draft) -> _Draft:
            box = front.at(draft.extents)
            key = jax.random.fold_in(jax.random.key(0), index)
            seen, margins = _attack(program, values, options, draft.front, box, key)
            weights, lowest, _ = _cuts(program, values, seen, box, margins)
            fine = (jnp.min(margins) >= 0.5 * reserve) & (index > 0)
            good = jnp.where(fine, draft.extents, draft.good)
            # What older attacks saw elsewhere holds no longer once a box is good.
            cuts = _remembered(draft.cuts, fine)
            budget = lowest + weights @ draft.extents - reserve
            cuts = _written(cuts, weights, budget, index)
            even = fill_evenly(cuts, good, cap, options.delta, 2 * slack)
            moved = jnp.max(even - good) > 1e-3 * options.delta
            shaping = draft.shaping & ~fine & (index < options.shaping)
            done = fine & ~draft.shaping & ~moved
            extents = even
            if options.fairness is not None:
                shaped = fill_fairly(cuts, cap, options.fairness)
                # Where shaping has not settled in time, it is pulled back until it has.
                late = draft.shaping & ~fine & (index >= options.shaping)
                extents = jnp.where(shaping, shaped, extents)
                extents = jnp.where(late, 0.95 * draft.extents, extents)
                shaping = draft.shaping & ~fine
            # Witnesses stay where they are; pressed into a small box they are lost.
            kept = slice(clauses, clauses + WITNESSES)
            points = seen.points.at[kept].set(draft.front.points[kept])
            seen = dataclasses.replace(seen, points=points)
            return _Draft(extents, good, cuts, seen, shaping, done)

        def unfinished(carry: tuple[Array, _Draft]) -> Array:
            index, draft = carry
            return ~draft.done & (index < options.iterations)

        def body(carry: tuple[Array, _Draft]) -> tuple[Array, _Draft]:
            index, draft = carry
            return index + 1, improve(index, draft)

        many = _MEMORY * min(_CUTS, front.clause.size)
        cuts = Cuts(jnp.zeros((many, low.size)), jnp.full(many, _UNLIMITED))
        draft = _Draft(low, low, cuts, front, jnp.asarray(shapes), jnp.zeros((), bool))
        _, draft = lax.while_loop(unfinished, body, (jnp.int32(0), draft))
        box = front.at(draft.good)
        if not shapes:
            box = box.hull(front.box)
        return box, draft.front

    return jax.vmap(one)(fronts)


def _remembered(cuts: Cuts, forget: Array) -> Cuts:
    """Returns the cuts, or none of them if they are to be forgotten."""
    return Cuts(
        jnp.where(forget, 0.0, cuts.weight),
        jnp.where(forget, _UNLIMITED, cuts.budget),
    )


def _written(cuts: Cuts, weights: Array, budget: Array, index: Array) -> Cuts:
    """Returns the cuts with those of one more attack, in place of the oldest."""
    place = (index % _MEMORY) * budget.size
    return Cuts(
        lax.dynamic_update_slice_in_dim(cuts.weight, weights, place, 0),
        lax.dynamic_update_slice_in_dim(cuts.budget, budget, place, 0),
    )


def _slack(program: Program, values: Values, front: Front) -> Array:
    ranges = propagate(program, values, front.domain)
    rows = front.spec.coefficients
    return float64_slack(program, values, ranges, rows, lines=False)


@functools.partial(jax.jit, static_argnames=("program", "options"))
def probe(
    program: Program,
    options: ProposalOptions,
    params: Any,
    fronts: Front,
    beyond: Float[Array, "J F"],
    count: Int[Array, ""],
) -> tuple[Array, Array, Array]:
    """Returns which free faces of the boxes are blocked, which may be, by which points.

    (J, F) whether the front's point (J, F), moved to where `beyond` says, violates the
    spec by more than rounding could feign; and whether rounding leaves that in doubt.
    The points must lie in the boxes. Of every input the most promising `_PROBED` free
    faces are tried; of the inputs only the first `count`.
    """
    values = program.prepare(params, jnp.float64)
    size, faces = fronts.free.shape

    def one(front: Front, ends: Array) -> tuple[Array, Array, Array]:
        box, delta = front.box, options.delta
        margins = jax.vmap(
            lambda z, c: _clauses(program, values, front.spec, z)[c]
        )(front.points, front.clause)  # fmt: skip
        weights, lowest, index = _cuts(program, values, front, box, margins)
        # Of each face, the point that should be worst beyond it.
        beyond_it = lowest[:, None] - weights * delta
        chosen = index[jnp.argmin(beyond_it, axis=0)]
        expected = jnp.where(front.free, jnp.min(beyond_it, axis=0), jnp.inf)
        tried = lax.top_k(-expected, min(_PROBED, faces))[1]
        slack = _slack(program, values, front)
        features = front.x.size
        flat = front.points.reshape(-1, features)

        def margin(face: Array) -> Array:
            z = flat[chosen[face]].at[face % features].set(ends[face])
            z = z.reshape(front.x.shape)
            return jnp.min(_clauses(program, values, front.spec, z))

        inside = jax.vmap(box.contains)(front.points)
        there, none = jax.vmap(margin)(tried), jnp.zeros(faces, bool)
        counts = inside[chosen[tried]] & front.free[tried]
        stops = none.at[tried].set(counts & (there <= -slack))
        doubtful = none.at[tried].set(counts & (jnp.abs(there) < slack))
        return stops, doubtful, chosen

    def body(index: Array, found: tuple[Array, ...]) -> tuple[Array, ...]:
        new = one(*jax.tree.map(lambda v: v[index], (fronts, beyond)))
        return tuple(v.at[index].set(w) for v, w in zip(found, new, strict=True))

    none = jnp.zeros((size, faces), bool)
    nothing = none, none, jnp.zeros((size, faces), jnp.int32)
    return lax.fori_loop(0, count, body, nothing)


@functools.partial(jax.jit, static_argnames=("program", "options", "press"))
def settle_points(
    program: Program, options: ProposalOptions, params: Any, fronts: Front, press: bool
) -> Front:
    """Returns the fronts with their points moved into the proved boxes.

    To the nearest ones there, or, if they are to be pressed, to the worst around.
    """
    values = program.prepare(params, jnp.float64)

    def one(front: Front) -> Front:
        if press:
            points, _ = _press(program, values, front, front.box, options.steps)
        else:
            points = jax.vmap(front.box.project)(front.points)
        return dataclasses.replace(front, points=points)

    return jax.vmap(one)(fronts)


@functools.partial(jax.jit, static_argnames=("program",))
def judge(
    program: Program,
    params: Any,
    fronts: Front,
    rows: Int[Array, " n"],
    points: Float[Array, "n *d"],
) -> tuple[Int[Array, " n"], Bool[Array, " n"], Bool[Array, " n"]]:
    """Returns each point's clause of least margin, whether it surely is violated.

    And whether rounding leaves that in doubt.

    Args:
      program: the network.
      params: its weights, float64.
      fronts: leaves (J, ...).
      rows: whose inputs' points they are.
      points: anywhere in the domain.
    """
    values = program.prepare(params, jnp.float64)

    def one(row: Array, z: Array) -> tuple[Array, Array, Array]:
        front = jax.tree.map(lambda v: v[row], fronts)
        margins = _clauses(program, values, front.spec, z)
        worst = jnp.argmin(margins).astype(jnp.int32)
        # What rounding can feign at this point, which is less than anywhere.
        alone = dataclasses.replace(front, domain=Box.point(z))
        slack = _slack(program, values, alone)
        return worst, margins[worst] <= -slack, jnp.abs(margins[worst]) < slack

    return jax.vmap(one)(rows, points)
