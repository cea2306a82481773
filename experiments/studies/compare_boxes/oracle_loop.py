"""Runs a search that asks one box after the other, most of it inside one program.

A search is sequential: which box it asks about depends on the last answer. Where a
quick oracle decides (the last witness again, bounds, an attack), both stay
inside a compiled loop; what it leaves open goes to branch and bound.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxcert.bounds.ascent import AscentOptions
from jaxcert.bounds.crown import crown
from jaxcert.box import Box
from jaxcert.branch.signs import BranchOptions
from jaxcert.certifier import float64
from jaxcert.oracle.bounds import BoundOracle
from jaxcert.oracle.decide import Effort, decide
from jaxcert.spec import Spec
from jaxcert.trace.tracing import program_as_given
from jaxcert.verdict import Status, Verdict, from_witness
from jaxcert.witness.attack import AttackOptions, AttackOracle
from studies.compare_boxes.competitors import BoxResult, Competitor, Problem

# Questions per call: the clock is looked at between two of them.
_QUESTIONS = 256
# One box has few subproblems open at once: half the time of larger blocks.
_BRANCH = Effort(
    branch=BranchOptions(block=16, steps=10, root=AscentOptions(iterations=20))
)
_ATTACK = AttackOptions(restarts=2, steps=8)


class Search(Protocol):
    """An algorithm as a state machine; hashable, and its last three methods are traced.

    Its state is a pytree of arrays with the attributes `x`, the input, and `box`, the
    answer so far.

    Attributes:
      needs_witness: whether it cannot go on from an answer without a witness; else a
        box of which nothing is known counts as one that is not sound.
    """

    needs_witness: bool

    def spec(self, problem: Problem, label: int) -> Spec:
        """Returns what the oracle is asked about every box."""
        ...

    def start(self, problem: Problem, x: Array) -> Any:
        """Returns the state before the first question."""
        ...

    def question(self, state: Any) -> Box:
        """Returns the box to ask about next."""
        ...

    def after(self, state: Any, proved: Array, witness: Array) -> Any:
        """Returns the state after the answer: proved, or else refuted by a witness."""
        ...

    def finished(self, state: Any) -> Array:
        """Returns whether nothing is left to ask."""
        ...


@dataclasses.dataclass(frozen=True)
class QuickOracle:
    """The last witness drawn into the box, then CROWN, then the attack.

    Attributes:
      f: the network's function.
    """

    f: Callable[[Any, Any], Any]

    def __call__(
        self, params: Any, box: Box, spec: Spec, hint: Float[Array, "*d"]
    ) -> Verdict:
        """Returns PROVED, REFUTED or UNKNOWN; the hint is the last witness."""
        program = program_as_given(self.f, params, box.lo)
        point = box.project(hint)
        margin = spec.margin(spec.values(program.evaluate(params, point)))
        # No slack for rounding: a box is not claimed unsound here, only not taken.
        again = from_witness(point, margin, margin <= 0)

        def attacked() -> Verdict:
            return AttackOracle(self.f, _ATTACK)(params, box, spec, hint)

        def bounded() -> Verdict:
            verdict = BoundOracle(crown(self.f))(params, box, spec, hint)
            return lax.cond(verdict.proved, lambda: verdict, attacked)

        return lax.cond(again.refuted, lambda: again, bounded)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a search has come.

    Attributes:
      state: of the search.
      hint: the last witness; at first, the input.
      calls: questions that were decided.
      decided: whether the last one was.
    """

    state: Any
    hint: Float[Array, "*d"]
    calls: Int[Array, ""]
    decided: Bool[Array, ""]


@float64()
def solve(
    search: Search, problem: Problem, state: Any, label: int, seconds: float
) -> BoxResult:
    """Returns the box of one input, as far as the search came in the time given.

    The search begins in the given state, most often that of `Search.start`.

    An UNKNOWN of the complete oracle ends a search that needs a witness.
    """
    begin = time.monotonic()
    spec = search.spec(problem, label)
    progress = _begin(state)
    while not search.finished(progress.state):
        if time.monotonic() >= begin + seconds:
            break
        progress = _advance(search, problem, spec, progress)
        if progress.decided:
            continue
        box = jax.tree.map(np.asarray, search.question(progress.state))
        verdict = _decide(problem, box, spec, begin + seconds)
        in_time = time.monotonic() < begin + seconds
        if verdict.status == Status.UNKNOWN and in_time and not search.needs_witness:
            verdict = from_witness(
                progress.hint, jnp.asarray(jnp.nan), jnp.asarray(True)
            )
        progress = _answered(search, progress, verdict)
        if not progress.decided:
            break
    state, box = progress.state, jax.device_get(progress.state.box)
    finished = bool(search.finished(state))
    return BoxResult(
        lo=box.lo,
        hi=box.hi,
        oracle_calls=int(progress.calls),
        seconds=time.monotonic() - begin,
        finished=finished,
    )


def one_by_one(search: Search) -> Competitor:
    """Returns the competitor that runs a search on one input after the other."""

    @float64()
    def start(problem: Problem, x: np.ndarray) -> Any:
        return search.start(problem, jnp.asarray(x))

    def compete(
        problem: Problem, xs: np.ndarray, labels: np.ndarray, seconds: float
    ) -> Iterator[BoxResult]:
        for row, (x, label) in enumerate(zip(xs, labels, strict=True)):
            state = start(problem, x)
            if row == 0:
                compile_ahead(search, problem, state, int(label))
            yield solve(search, problem, state, int(label), seconds)

    return compete


@float64()
def compile_ahead(search: Search, problem: Problem, state: Any, label: int) -> None:
    """Compiles what `solve` runs, so that it counts for no input's time."""
    spec = search.spec(problem, label)
    progress = _begin(state)
    box = jax.tree.map(np.asarray, search.question(progress.state))
    _decide(problem, box, spec, np.inf)
    # The domain as a box is never proved by bounds: this one branches.
    verdict = _decide(problem, problem.domain, spec, time.monotonic() + 0.1)
    _advance(search, problem, spec, _answered(search, progress, verdict))


def _begin(state: Any) -> Progress:
    # Every later state is one of arrays too: nothing is compiled twice.
    state = jax.tree.map(jnp.asarray, state)
    return Progress(state, state.x, jnp.int32(0), jnp.asarray(True))


def _decide(problem: Problem, box: Box, spec: Spec, deadline: float) -> Verdict:
    return decide(problem.network.model, box, spec, _BRANCH, deadline).verdict


def _advance(
    search: Search, problem: Problem, spec: Spec, progress: Progress
) -> Progress:
    model = problem.network.model
    return _ask_many(search, QuickOracle(model.f), model.double, spec, progress)


@functools.partial(jax.jit, static_argnames=("search", "oracle"))
def _ask_many(
    search: Search, oracle: QuickOracle, params: Any, spec: Spec, progress: Progress
) -> Progress:
    """Returns the progress up to a question that the oracle leaves open, at most."""

    def more(carry: tuple[Array, Progress]) -> Array:
        asked, progress = carry
        going = progress.decided & ~search.finished(progress.state)
        return going & (asked < _QUESTIONS)

    def ask(carry: tuple[Array, Progress]) -> tuple[Array, Progress]:
        asked, progress = carry
        box = search.question(progress.state)
        verdict = oracle(params, box, spec, progress.hint)
        return asked + 1, _answered(search, progress, verdict)

    fresh = dataclasses.replace(progress, decided=jnp.asarray(True))
    return lax.while_loop(more, ask, (jnp.int32(0), fresh))[1]


@functools.partial(jax.jit, static_argnames=("search",))
def _answered(search: Search, progress: Progress, verdict: Verdict) -> Progress:
    decided = verdict.proved | verdict.refuted
    after = search.after(progress.state, verdict.proved, verdict.witness)
    return Progress(
        state=jax.tree.map(
            lambda new, old: jnp.where(decided, new, old), after, progress.state
        ),
        hint=jnp.where(verdict.refuted, verdict.witness, progress.hint),
        calls=progress.calls + decided.astype(jnp.int32),
        decided=decided,
    )
