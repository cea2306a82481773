"""Branch and bound over the signs of ReLU inputs, for many instances in one program.

One stack (`search.py`) holds the open subproblems of all instances. A step bounds the
top block (multipliers optimised in float32, the bound decided in float64), drops what
is proved, and hands back two children of everything else.

Nothing is ever dropped that was not proved, except subproblems of an input that is
closed: refuted (it needs no proof any more) or given up (it is answered UNKNOWN). A
subproblem in which every sign is fixed, a leaf, is a linear program and is proved by
converged multipliers alone; if they do not converge it is parked for the host to solve.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxcert.ball import lowest
from jaxcert.bounds.alpha import (
    Layout,
    Multipliers,
    Problem,
    charged_bound,
    narrowed,
    restricted,
    subproblem_bound,
)
from jaxcert.bounds.ascent import AscentOptions, ascend
from jaxcert.bounds.cuts import cast_floats
from jaxcert.bounds.multineuron import CutOptions
from jaxcert.bounds.tighten import (
    TightenOptions,
    refine_ranges,
    refine_undecided,
)
from jaxcert.box import Family, outward
from jaxcert.branch.branching import kinks, look_ahead, neuron_to_split, scores
from jaxcert.branch.inputs import InputSplitOptions
from jaxcert.branch.instances import Instances, Known, Subproblems, ball
from jaxcert.branch.leaves import Leaves
from jaxcert.branch.neurons import NeuronOptions
from jaxcert.branch.search import Search, advance, push
from jaxcert.branch.wide import WideOptions
from jaxcert.devices import is_accelerator
from jaxcert.memory import room_for
from jaxcert.model import Model
from jaxcert.trace.equations import Values

# Most neurons of a network whose ranges are bounded again in every subproblem.
_REFINED = 2048
# Subproblems that an accelerator bounds together, if its memory takes them.
_ON_ACCELERATOR = 1024


@dataclasses.dataclass(frozen=True)
class BranchOptions:
    """How branch and bound runs.

    Attributes:
      block: most subproblems bounded per step; 0 for 1,024 on an accelerator, 256 on a
        CPU, and there 32 above 256 neurons.
      steps: most steps per call (a chunk).
      patience: how often a leaf is pushed back before it is parked.
      parked: leaves that end a chunk, so that the host solves them.
      ascent: how multipliers of subproblems are optimised.
      refine: neurons per layer whose range every subproblem bounds again, given its
        signs; 0 leaves the ranges of the root. None for 32, and 0 above 2,048 neurons,
        where that costs more than it saves; not where leaves are recorded.
      lookahead: neurons that are tried before one is split, where `refine` is 0; else
        scores alone decide, which takes less to compile.
      root: how those of the first subproblems are, which all others start from.
      tighten: how layer ranges are tightened before branching.
      neurons: how ranges of neurons are found by branching, where the search over
        signs of a single input stalls; None to do without. Not where leaves are
        recorded, and not where `refine` is 0.
      inputs: how the input box is split, where that is done instead.
      wide: how boxes of networks of many neurons are decided, where clauses have one
        row each; None to do without. Not where leaves are recorded, nor with cuts.
      narrow: boxes in which at most this many features vary are split themselves; so
        are those of networks with smooth activations, of any width.
      record: keep the leaves of the proof, which certificates are made of. Ranges are
        then derived anew in every subproblem, as a checker does; those that cuts rest
        on are not sharpened by other cuts.
      cuts: how neurons are relaxed together; None relaxes each on its own.
    """

    block: int = 0
    steps: int = 50
    patience: int = 2
    parked: int = 32
    ascent: AscentOptions = AscentOptions()
    refine: int | None = None
    lookahead: int = 8
    root: AscentOptions = AscentOptions(iterations=100, decay=0.98)
    tighten: TightenOptions = TightenOptions()
    neurons: NeuronOptions | None = NeuronOptions()
    inputs: InputSplitOptions = InputSplitOptions()
    wide: WideOptions | None = WideOptions()
    narrow: int = 8
    record: bool = False
    cuts: CutOptions | None = None

    def resolved(self, layout: Layout) -> BranchOptions:
        """Returns the options with what 0 stands for, as far as the memory allows."""
        refine = self.refine
        if refine is None:
            refine = 32 if self.record or layout.size <= _REFINED else 0
        program = layout.program
        sizes = [program.input_size, *(node.size for node in program.nodes)]
        # Rows at two values and what is computed of them; ranges, lines, multipliers.
        step = 8 * max(refine, 1) * max(sizes) + 40 * sum(sizes)
        usual = 32 if layout.size > 256 else 256
        most = self.block or (_ON_ACCELERATOR if is_accelerator() else usual)
        block = room_for(8 * step, 1, most)
        return dataclasses.replace(self, block=block, refine=refine)

    def narrowing(self, layout: Layout) -> bool:
        """Returns whether the ranges of subproblems follow their signs."""
        return self.refine != 0 and bool(layout.improvable)

    def neuron_to_split(
        self, layout: Layout, *known: Any
    ) -> tuple[Int[Array, ""], Bool[Array, ""]]:
        """Returns the neuron of the greatest score; see `branching.neuron_to_split`."""
        return neuron_to_split(layout, *known, narrowing=self.narrowing(layout))


def step(
    layout: Layout,
    options: BranchOptions,
    model: Model,
    instances: Instances,
    state: Known,
    popped: Subproblems,
    valid: Bool[Array, " block"],
) -> tuple[Known, Subproblems, Bool[Array, " n"]]:
    """Returns what is known after one block was bounded, and what is left of it."""
    values32, values64 = model.values(jnp.float32), model.values(jnp.float64)
    owner = instances.owner[popped.instance]
    valid = valid & state.open[owner]

    def narrow(problem: Problem, item: Subproblems) -> Problem:
        if not options.record:
            problem = narrowed(problem, item.ranges)
        values = values32, values64
        return sharpened(layout, options, values, problem, item.signs, item.multipliers)

    def optimise(problem: Problem, item: Subproblems) -> Multipliers:
        pace = jnp.float32(0.7) ** item.tries
        problem, start = problem.cast(jnp.float32), item.multipliers
        if problem.cuts:
            # A sign that was fixed may leave the cuts of its neuron without use.
            without = dataclasses.replace(
                start, cut=jax.tree.map(jnp.zeros_like, start.cut)
            )
            kept, bare = (
                subproblem_bound(layout, values32, problem, item.signs, m)[0]
                for m in (start, without)
            )
            start = jax.tree.map(
                lambda a, b: jnp.where(kept > bare, a, b), start, without
            )
        return ascend(
            layout, values32, problem, item.signs, start, options.ascent, pace
        )

    problem = jax.vmap(narrow)(instances.problem(popped.instance, state.box), popped)
    best = jax.vmap(optimise)(problem, popped)
    decide = jax.vmap(functools.partial(charged_bound, layout, values64))
    bound, charged, (at_input, at_outputs) = decide(
        problem, popped.signs, best, instances.split_cost[owner]
    )
    proved = bound > instances.slack[owner] + charged
    survives = valid & ~proved
    if options.record:
        found = Leaves(owner, instances.clause[popped.instance], popped.signs, best)
        proofs, proof_count = push(
            state.proved, state.proved_count, found, valid & proved
        )
        state = dataclasses.replace(state, proved=proofs, proved_count=proof_count)

    state = dataclasses.replace(
        state,
        processed=state.processed.at[owner].add(valid.astype(jnp.int32)),
    )
    points = jax.vmap(lowest)(problem.box, at_input)
    state = share_witnesses(
        layout, values64, instances, state, popped.instance, points, survives
    )

    def choose(
        problem: Problem, signs: Array, multipliers: Multipliers, at_outputs: Array
    ) -> tuple[Array, Array]:
        if options.refine == 0 and options.lookahead > 1:
            known = problem, signs, multipliers, at_outputs
            return look_ahead(layout, values32, *known, options.lookahead)
        return options.neuron_to_split(layout, problem.ranges, signs, at_outputs)

    neuron, splittable = jax.vmap(choose)(problem, popped.signs, best, at_outputs)
    tries = popped.tries + ~splittable
    parked = survives & ~splittable & (tries > options.patience) & state.open[owner]
    survives = survives & state.open[owner] & ~parked
    chosen = jax.nn.one_hot(neuron, layout.size, dtype=jnp.int8)
    chosen = jnp.where(splittable[:, None], chosen, 0)
    kept = dataclasses.replace(
        popped,
        ranges={i: problem.ranges[i].float32() for i in popped.ranges},
        multipliers=best,
        tries=tries,
    )
    leaves, leaf_count = push(state.leaves, state.leaf_count, kept, parked)
    state = dataclasses.replace(state, leaves=leaves, leaf_count=leaf_count)
    rows = jnp.arange(valid.size)
    starts = kinks(best.slope[rows, neuron], at_outputs[rows, neuron])

    def child(sign: int, start: Array) -> Subproblems:
        split = jnp.where(chosen != 0, start[:, None].astype(jnp.float32), best.split)
        return dataclasses.replace(
            kept,
            signs=popped.signs + sign * chosen,
            multipliers=dataclasses.replace(best, split=split),
        )

    # A leaf is its own first child, with its own multipliers: nothing was chosen.
    children = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]),
        child(1, starts[:, 0]),
        child(-1, starts[:, 1]),
    )
    wanted = jnp.concatenate([survives, survives & splittable])
    return state, children, wanted


def sharpened(
    layout: Layout,
    options: BranchOptions,
    values: tuple[Values, Values],
    problem: Problem,
    signs: Int[Array, " N"],
    multipliers: Multipliers,
) -> Problem:
    """Returns the problem with its ranges narrowed by the signs.

    Args:
      layout: the ReLUs of the program.
      options: how many ranges are bounded again.
      values: prepared parameters, float32 and float64.
      problem: float64.
      signs: of the subproblem.
      multipliers: its own, by which the ranges that matter most are chosen.
    """
    values32, values64 = values
    cut = restricted(layout, problem.ranges, signs)
    problem = dataclasses.replace(problem, ranges=cut)
    if not options.narrowing(layout):
        return problem
    if options.record:
        cut = refine_undecided(layout, values64, problem.box, cut)
        return dataclasses.replace(problem, ranges=cut)
    single = cast_floats(multipliers, jnp.float32)
    _, (_, at_outputs) = subproblem_bound(
        layout, values32, problem.cast(jnp.float32), signs, single
    )
    score, _ = scores(layout, cut, signs, jnp.abs(at_outputs), narrowing=True)
    count = options.refine or 0
    cut = refine_ranges(layout, values64, problem.box, cut, score, count)
    return dataclasses.replace(problem, ranges=cut)


def share_witnesses(
    layout: Layout,
    values: Values,
    instances: Instances,
    state: Known,
    instance: Int[Array, " block"],
    points: Float[Array, "block *d"],
    asked: Bool[Array, " block"],
) -> Known:
    """Returns the state after trying points as counterexamples, in float64.

    A point counts if every row of its clause is below minus the rounding slack. That is
    the slack of the whole box: the host judges the worst point within it, the suspect.
    """
    owner = instances.owner[instance]
    slack = instances.slack[owner]

    def margin(z: Array, rows: Array, offset: Array) -> Array:
        y = layout.program.evaluate_prepared(values, z)
        row = jnp.matmul(rows, y, precision=lax.Precision.HIGHEST) + offset
        return jnp.max(row)

    def violates(z: Array, rows: Array, offset: Array, slack: Array) -> Array:
        return margin(z, rows, offset) <= -slack

    rows, offset = instances.rows[instance], instances.offset[instance]
    margins = jax.vmap(margin)(points, rows, offset)
    found = (margins <= -slack) & asked
    doubt = asked & ~found & ~jnp.isnan(margins) & ~(margins > slack)
    state = _with_suspects(state, owner, points, jnp.where(doubt, margins, jnp.inf))

    def improve(state: Known) -> Known:
        def nearer(family: Family, z: Array, *clause: Array) -> Array:
            def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
                safe, bad = ends
                middle = (safe + bad) / 2
                worse = violates(family.toward(z, middle), *clause)
                return jnp.where(worse, safe, middle), jnp.where(worse, middle, bad)

            zero, one = jnp.zeros((), z.dtype), jnp.ones((), z.dtype)
            _, part = lax.fori_loop(0, 20, halve, (zero, one))
            return family.toward(z, part)

        family = jax.tree.map(lambda v: v[owner], instances.family)
        close = jax.vmap(nearer)(family, points, rows, offset, slack)
        distance = jax.vmap(Family.distance)(family, close)
        distance = outward(distance, close[0].size)
        distance = jnp.where(found, distance, jnp.inf)
        count = state.upper.size
        least = jax.ops.segment_min(distance, owner, count)
        wins = found & (distance <= least[owner]) & (distance < state.upper[owner])
        where = _one_each(wins, owner, count)
        upper = jnp.minimum(state.upper, least)
        witness = state.witness.at[where].set(close, mode="drop")
        radius = jnp.minimum(state.radius, upper - instances.width)
        still = state.open & (radius > instances.floor)
        return dataclasses.replace(
            state,
            upper=upper,
            witness=witness,
            radius=radius,
            box=ball(instances.family, jnp.maximum(radius, 0)),
            open=still,
        )

    return lax.cond(jnp.any(found), improve, lambda s: s, state)


def _one_each(
    wins: Bool[Array, " block"], owner: Int[Array, " block"], count: int
) -> Int[Array, " block"]:
    """Returns where to write: one winner per owner, the others past the end.

    On accelerators two writes to one row could mix.
    """
    index = jnp.where(wins, jnp.arange(len(wins)), len(wins))
    wins &= index == jax.ops.segment_min(index, owner, count)[owner]
    return jnp.where(wins, owner, count)


def _with_suspects(
    state: Known,
    owner: Int[Array, " block"],
    points: Float[Array, "block *d"],
    margins: Float[Array, " block"],
) -> Known:
    """Returns the state with the points of least margin, inf for none, remembered."""
    count = state.upper.size
    least = jnp.minimum(
        jax.ops.segment_min(margins, owner, count), state.suspect_margin
    )
    wins = (margins <= least[owner]) & (margins < state.suspect_margin[owner])
    where = _one_each(wins, owner, count)
    return dataclasses.replace(
        state,
        suspect=state.suspect.at[where].set(points, mode="drop"),
        suspect_margin=least,
    )


@functools.partial(jax.jit, donate_argnames=("state",))
def accept_witnesses(
    instances: Instances,
    state: Known,
    points: Float[Array, "J *d"],
    distance: Float[Array, " J"],
) -> Known:
    """Returns the state after the host judged the suspects, which are forgotten.

    Args:
      instances, state: see there.
      points: witnesses, which are believed.
      distance: of each, rounded outward; inf where there is none.
    """
    nearer = distance < state.upper
    upper = jnp.minimum(state.upper, distance)
    wide = nearer.reshape((-1,) + (1,) * (points.ndim - 1))
    radius = jnp.minimum(state.radius, upper - instances.width)
    return dataclasses.replace(
        state,
        upper=upper,
        witness=jnp.where(wide, points, state.witness),
        suspect_margin=jnp.full_like(state.suspect_margin, jnp.inf),
        radius=radius,
        box=ball(instances.family, jnp.maximum(radius, 0)),
        open=state.open & (radius > instances.floor),
    )


@functools.partial(
    jax.jit, static_argnames=("layout", "options"), donate_argnames=("search",)
)
def run_chunk(
    layout: Layout,
    options: BranchOptions,
    model: Model,
    instances: Instances,
    search: Search,
    steps: Int[Array, ""] | None = None,
) -> Search:
    """Returns the search after at most so many steps, by default `options.steps`.

    Stops early where no proof more can be kept, or enough leaves wait for the host.
    """

    def going(state: Known) -> Array:
        room = state.leaf_count < options.parked
        if options.record:
            filled = state.proved_count + options.block
            room = room & (filled <= state.proved.owner.size)
        return room

    most = options.steps if steps is None else steps
    one = functools.partial(step, layout, options, model, instances)
    return advance(one, search, options.block, most, going)


@functools.partial(jax.jit, donate_argnames=("search",))
def take_turns(instances: Instances, search: Search) -> Search:
    """Returns the search with the inputs that had least work so far on top.

    Depth first, an input that is out of reach would keep all others waiting.
    """
    owner = instances.owner[search.items.instance]
    return search.ordered(-search.known.processed[owner].astype(jnp.float64))


@functools.partial(jax.jit, static_argnames=("layout",), donate_argnames=("search",))
def resume_leaves(
    layout: Layout,
    model: Model,
    instances: Instances,
    search: Search,
    leaves: Subproblems,
    points: Float[Array, "n *d"],
    has_point: Bool[Array, " n"],
    wanted: Bool[Array, " n"],
) -> Search:
    """Returns the search after the host solved the parked leaves.

    Its points are tried as counterexamples, and the wanted leaves go back on the stack
    with its multipliers, to be proved there; nothing the host says is believed.
    """
    values64 = model.values(jnp.float64)
    state = share_witnesses(
        layout, values64, instances, search.known, leaves.instance, points, has_point
    )
    state = dataclasses.replace(state, leaf_count=jnp.zeros_like(state.leaf_count))
    return Search(*push(search.items, search.count, leaves, wanted), state)
