"""The published box algorithms, on jaxcert's oracle.

Top-down, bottom-up dichotomic, cyclic and dual bottom-up are those of the
ParallelepipedoNN paper (arXiv:2606.23858), written from their description. Each asks
about one box after the other; see `_oracle_loop.Search`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxcert.box import Box
from jaxcert.spec import Spec
from studies.compare_boxes.competitors import Problem


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bracket:
    """A bisection of [0, end]: `low` is proved; `high` is refuted once `refuted`."""

    low: Float[Array, ""]
    high: Float[Array, ""]
    delta: Float[Array, ""]
    refuted: Bool[Array, ""]

    @staticmethod
    def begin(end: Array, delta: Array) -> Bracket:
        """Returns the bracket before the first question."""
        return Bracket(jnp.zeros_like(end), end, delta, jnp.asarray(False))

    def question(self) -> Array:
        """Returns the midpoint, and the end itself if all below it was proved."""
        wide = self.high - self.low > self.delta
        return jnp.where(wide, (self.low + self.high) / 2, self.high)

    def after(self, proved: Array) -> Bracket:
        """Returns the bracket after the answer to `question`."""
        asked = self.question()
        return Bracket(
            low=jnp.where(proved, asked, self.low),
            high=jnp.where(proved, self.high, asked),
            delta=self.delta,
            refuted=self.refuted | ~proved,
        )

    def closed(self) -> Array:
        """Whether `high` is reached, or refuted and within delta of `low`."""
        near = self.high - self.low <= self.delta
        return (self.low >= self.high) | (self.refuted & near)


class Sound:
    """A search for a box that holds one class."""

    needs_witness = False

    def spec(self, problem: Problem, label: int) -> Spec:
        """Returns: the label wins by more than the required margin."""
        return problem.spec(label)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TopDownState:
    """The box that is being cut down around x."""

    x: Float[Array, "*d"]
    box: Box
    delta: Float[Array, ""]
    proved: Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class TopDown(Sound):
    """From the whole domain, cut off one counterexample after the other.

    The face to cut is that of the feature in which the counterexample is farthest from
    x; it moves delta past the counterexample, not beyond x. Stopped early, the box may
    still hold counterexamples.
    """

    needs_witness = True

    def start(self, problem: Problem, x: Array) -> TopDownState:
        """Returns the state of the whole domain."""
        delta = jnp.asarray(problem.delta)
        return TopDownState(x, problem.domain, delta, jnp.asarray(False))

    def question(self, state: TopDownState) -> Box:
        """Returns the box itself."""
        return state.box

    def after(self, state: TopDownState, proved: Array, witness: Array) -> TopDownState:
        """Returns the state with one face moved past the witness, unless proved."""
        away = witness - state.x
        farthest = jnp.argmax(jnp.abs(away).reshape(-1))
        here = (jnp.arange(away.size) == farthest).reshape(away.shape) & ~proved
        hi = jnp.maximum(state.x, witness - state.delta)
        lo = jnp.minimum(state.x, witness + state.delta)
        box = Box(
            jnp.where(here & (away < 0), lo, state.box.lo),
            jnp.where(here & (away > 0), hi, state.box.hi),
        )
        return dataclasses.replace(state, box=box, proved=state.proved | proved)

    def finished(self, state: TopDownState) -> Array:
        """Whether the box was proved."""
        return state.proved


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CyclicState:
    """The ball that was proved last, and the bracket around the greatest radius."""

    x: Float[Array, "*d"]
    domain: Box
    box: Box
    bracket: Bracket


@dataclasses.dataclass(frozen=True)
class Cyclic(Sound):
    """Bisects the radius of the ball around x, clipped to the domain, to delta."""

    def start(self, problem: Problem, x: Array) -> CyclicState:
        """Returns the state of x alone."""
        domain = problem.domain
        end = jnp.max(jnp.maximum(x - domain.lo, domain.hi - x))
        bracket = Bracket.begin(end, jnp.asarray(problem.delta))
        return CyclicState(x, domain, Box.point(x), bracket)

    def question(self, state: CyclicState) -> Box:
        """Returns the ball of the bracket's next radius."""
        return Box.ball(state.x, state.bracket.question(), state.domain)

    def after(self, state: CyclicState, proved: Array, witness: Array) -> CyclicState:
        """Returns the state with one half of the bracket."""
        del witness
        box = _chosen(proved, self.question(state), state.box)
        bracket = state.bracket.after(proved)
        return dataclasses.replace(state, box=box, bracket=bracket)

    def finished(self, state: CyclicState) -> Array:
        """Whether the bracket is closed to delta."""
        return state.bracket.closed()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FacesState:
    """The box, the face that is being moved (2d: none), and how far it may move."""

    x: Float[Array, "*d"]
    domain: Box
    box: Box
    face: Int[Array, ""]
    bracket: Bracket


@dataclasses.dataclass(frozen=True)
class BottomUpDichotomic(Sound):
    """From x alone, bisects how far each face moves out, one face after the other.

    Feature by feature, the lower face before the upper one. Faces that come first take
    what there is, so that some of the last do not move: the least edge is 0.
    """

    def start(self, problem: Problem, x: Array) -> FacesState:
        """Returns the state of x alone, at the first face."""
        delta = jnp.asarray(problem.delta)
        none = jnp.asarray(-1), Bracket.begin(delta, delta)
        return self._at_next_face(FacesState(x, problem.domain, Box.point(x), *none))

    def question(self, state: FacesState) -> Box:
        """Returns the box with its present face moved."""
        step = state.bracket.question()
        # x - step may miss the domain's face by a rounding.
        whole = step >= state.bracket.high
        lower, upper = _one_face(state.face, state.x.shape)
        lo = jnp.where(whole, state.domain.lo, state.x - step)
        hi = jnp.where(whole, state.domain.hi, state.x + step)
        return Box(
            jnp.where(lower, lo, state.box.lo), jnp.where(upper, hi, state.box.hi)
        )

    def after(self, state: FacesState, proved: Array, witness: Array) -> FacesState:
        """Returns the state with one half of the bracket, or at the next face."""
        del witness
        box = _chosen(proved, self.question(state), state.box)
        bracket = state.bracket.after(proved)
        state = dataclasses.replace(state, box=box, bracket=bracket)
        following = self._at_next_face(state)
        return _chosen(bracket.closed(), following, state)

    def finished(self, state: FacesState) -> Array:
        """Whether all faces were moved."""
        return state.face >= 2 * state.x.size

    def _at_next_face(self, state: FacesState) -> FacesState:
        room = _pairs(state.x - state.domain.lo, state.domain.hi - state.x)
        face = _next_face(state.face, room > 0)
        end = room[jnp.minimum(face, room.size - 1)]
        bracket = Bracket.begin(end, state.bracket.delta)
        return dataclasses.replace(state, face=face, bracket=bracket)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DualState:
    """The hull of what was found of the class, and the face beyond which to look."""

    x: Float[Array, "*d"]
    domain: Box
    box: Box
    delta: Float[Array, ""]
    face: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class DualBottomUp:
    """From x alone, grows until no point of the class is left outside the box.

    What is outside is looked at as slabs, one beyond each face. A point of the class
    that is found there joins the hull, with delta around it. Stopped early, the box
    proves nothing.
    """

    needs_witness = True

    def spec(self, problem: Problem, label: int) -> Spec:
        """Returns: some other class comes within the required margin."""
        wins = problem.spec(label)
        one_clause = np.zeros(len(wins.offset), np.int32)
        return Spec(-wins.coefficients, -wins.offset, one_clause, 1)  # type: ignore[arg-type]

    def start(self, problem: Problem, x: Array) -> DualState:
        """Returns the state of x alone."""
        delta, none = jnp.asarray(problem.delta), jnp.asarray(-1)
        state = DualState(x, problem.domain, Box.point(x), delta, none)
        return self._at_next_face(state)

    def question(self, state: DualState) -> Box:
        """Returns the slab of the domain beyond the present face."""
        lower, upper = _one_face(state.face, state.box.lo.shape)
        return Box(
            jnp.where(upper, state.box.hi, state.domain.lo),
            jnp.where(lower, state.box.lo, state.domain.hi),
        )

    def after(self, state: DualState, proved: Array, witness: Array) -> DualState:
        """Returns the state with a larger hull, or at the next face."""
        around = Box(witness - state.delta, witness + state.delta)
        hull = state.box.hull(around.intersect(state.domain))
        larger = dataclasses.replace(state, box=_chosen(proved, state.box, hull))
        following = self._at_next_face(larger)
        done = proved | ~_to_do(larger)[jnp.minimum(state.face, 2 * witness.size - 1)]
        return _chosen(done, following, larger)

    def finished(self, state: DualState) -> Array:
        """Whether all slabs are proved or gone."""
        return state.face >= 2 * state.box.lo.size

    def _at_next_face(self, state: DualState) -> DualState:
        face = _next_face(state.face, _to_do(state))
        return dataclasses.replace(state, face=face)


def _to_do(state: DualState) -> Bool[Array, " 2d"]:
    return _pairs(state.box.lo > state.domain.lo, state.box.hi < state.domain.hi)


def _pairs(lower: Array, upper: Array) -> Array:
    """Returns a value per face, the lower and the upper one of each feature."""
    return jnp.stack([lower.reshape(-1), upper.reshape(-1)], axis=1).reshape(-1)


def _one_face(face: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Returns masks of the features whose lower, and whose upper face is meant."""
    index = jnp.arange(int(np.prod(shape))).reshape(shape)
    here = index == face // 2
    return here & (face % 2 == 0), here & (face % 2 == 1)


def _next_face(face: Array, wanted: Bool[Array, " 2d"]) -> Array:
    """Returns the first wanted face behind this one; the number of faces if none."""
    index = jnp.arange(wanted.size)
    return jnp.min(jnp.where(wanted & (index > face), index, wanted.size))


def _chosen(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
