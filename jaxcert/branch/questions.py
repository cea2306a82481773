"""Questions about input families, and the stack of parameter boxes that answers them.

See `jaxcert.branch.parameters`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxcert.box import Box, Rates
from jaxcert.branch.search import Search
from jaxcert.errors import InputError
from jaxcert.memory import room_for
from jaxcert.spec import Spec
from jaxcert.trace.program import Program


@dataclasses.dataclass(frozen=True)
class ParameterSplitOptions:
    """How the parameter boxes are split.

    Attributes:
      block: most boxes bounded per step.
      part: how many of them at once.
      steps: most steps per call (a chunk).
      capacity: most boxes on the stack.
      pieces: equal parts of every parameter's range, on either side of the centre,
        from which the search starts.
    """

    block: int = 128
    part: int = 8
    steps: int = 16
    capacity: int = 1 << 16
    pieces: int = 2

    def fitted(self, program: Program, rows: int) -> ParameterSplitOptions:
        """Returns the options with part, block and stack as the memory allows.

        Args:
          program: of the parameters.
          rows: of the spec that is bounded over every box.
        """
        sizes = [program.input_size, *(node.size for node in program.nodes)]
        # Affine forms of every value from below and above; rows at two values.
        step = 4 * program.input_size * sum(sizes) + 4 * rows * max(sizes)
        part = room_for(8 * (step + 12 * sum(sizes)), 1, min(self.part, self.block))
        item = 8 * (2 * program.input_size + rows) + 4
        block = room_for(4 * item, part, self.block)
        capacity = room_for(item, min(4 * block, self.capacity), self.capacity)
        return dataclasses.replace(self, part=part, block=block, capacity=capacity)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Questions:
    """One question per input; leaves of x, spec and slack have a leading axis n.

    Attributes:
      x: inputs; with params they are what the family's function takes as params.
      spec: rows `C y + d`, each of which must be > its bar.
      slack: what a float64 bound must exceed its bar by, (n,); see `with_slacks`.
      centre: the parameters that leave x as it is, (k,).
      domain: legal parameters, (k,).
      rates: how fast every parameter moves with the radius, (k,).
      width: the tolerance, in radius units or in units of the rows.
    """

    x: Any
    spec: Spec
    slack: Float[Array, " n"]
    centre: Float[Array, " k"]
    domain: Box
    rates: Rates
    width: Float[Array, ""]

    def box(self, radius: Float[Array, ""]) -> Box:
        """Returns the parameters up to that radius, rounded outward."""
        return Box.ball(self.centre, radius, self.domain, self.rates, outward=True)

    def select(self, owner: Int[Array, ""]) -> tuple[Any, Spec]:
        """Returns the input and the spec of one question."""
        return jax.tree.map(lambda v: v[owner], (self.x, self.spec))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ParameterBoxes:
    """Subproblems: parts of the parameters of a question.

    Attributes:
      box: leaves (P, k).
      owner: the question of each, (P,).
      bound: proved lower bounds of its rows, (P, rows); -inf at first.
    """

    box: Box
    owner: Int[Array, " P"]
    bound: Float[Array, "P rows"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Known:
    """What a search over parameter boxes has learned about every question.

    Attributes:
      radius: what is to be proved of each question, (n,); negative: nothing.
      bar: what every row must exceed, (n, rows).
      upper, witness: nearest violation, (n,) and (n, k).
      stuck: least distance of a box that could not be cut any more, (n,); inf: none.
      processed: boxes bounded, (n,).
    """

    radius: Float[Array, " n"]
    bar: Float[Array, "n rows"]
    upper: Float[Array, " n"]
    witness: Float[Array, "n k"]
    stuck: Float[Array, " n"]
    processed: Int[Array, " n"]


def distance_to(questions: Questions, box: Box) -> Float[Array, ""]:
    """Returns the radius at which the parameters first meet a box, rounded down."""
    nearest = box.project(questions.centre)
    return questions.rates.distance(questions.centre, nearest) * (1 - 2.0**-48)


def start_search(
    questions: Questions,
    options: ParameterSplitOptions,
    radius: np.ndarray,
    bar: np.ndarray,
    upper: np.ndarray,
    witness: np.ndarray,
) -> Search:
    """Returns the search before the first step, with the pieces of every question."""
    centre = np.asarray(questions.centre)
    found: list[tuple[np.ndarray, np.ndarray, int]] = []
    for i in np.flatnonzero(radius >= 0):
        whole = questions.box(jnp.asarray(radius[i]))
        cuts = [
            _cuts(float(a), float(c), float(b), options.pieces)
            for a, c, b in zip(whole.lo, centre, whole.hi, strict=True)
        ]
        lows = np.stack(np.meshgrid(*[c[:-1] for c in cuts], indexing="ij"), -1)
        highs = np.stack(np.meshgrid(*[c[1:] for c in cuts], indexing="ij"), -1)
        k = len(centre)
        pairs = zip(lows.reshape(-1, k), highs.reshape(-1, k), strict=True)
        found += [(lo, hi, int(i)) for lo, hi in pairs]
    n, rows = bar.shape
    capacity = options.capacity
    if len(found) + options.block > capacity:
        raise InputError(
            f"{len(found)} boxes to start from do not fit on a stack of {capacity}: "
            "ask about fewer inputs at once, or raise ParameterSplitOptions.capacity"
        )
    lo = np.zeros((capacity, len(centre)))
    hi, owner = lo.copy(), np.zeros(capacity, np.int32)
    for row, (low, high, i) in enumerate(reversed(found)):
        lo[row], hi[row], owner[row] = low, high, i
    items = ParameterBoxes(
        box=Box(jnp.asarray(lo), jnp.asarray(hi)),
        owner=jnp.asarray(owner),
        bound=jnp.full((capacity, rows), -jnp.inf),
    )
    known = Known(
        radius=jnp.asarray(radius),
        bar=jnp.asarray(bar),
        upper=jnp.asarray(upper),
        witness=jnp.asarray(witness),
        stuck=jnp.full(n, jnp.inf),
        processed=jnp.zeros(n, jnp.int32),
    )
    return Search(items, jnp.asarray(len(found), jnp.int32), known)


def _cuts(low: float, centre: float, high: float, pieces: int) -> np.ndarray:
    """Returns the faces of equal parts on either side of the centre, increasing.

    Pixels at the ends of their range have their kink at the centre itself.
    """
    sides = [
        np.linspace(a, b, pieces + 1) if a < b else np.array([a, b])
        for a, b in ((low, centre), (centre, high))
    ]
    return np.unique(np.concatenate(sides)) if low < high else np.array([low, high])
