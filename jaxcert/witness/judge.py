"""Witnesses: points that violate a spec in real arithmetic, and where to look for them.

A point violates a spec iff its margin is <= 0: a tie is a counterexample. In float64 a
margin is known up to a slack, which is that of the point and not of the box around it.
Below minus the slack the point is a witness; within the slack exact arithmetic decides,
or, where the network has no exact values, more digits and a radius of its own. Points
where the margin is exactly 0 are corners, kinks and numbers with few digits: those near
a promising point are tried too.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxcert.ball import Ball, Region, enclosing
from jaxcert.bounds.ibp import propagate
from jaxcert.bounds.rounding import float64_slack, slack_of
from jaxcert.bounds.staged import ranges_at
from jaxcert.box import FLUSHED, Box, Family, distances
from jaxcert.devices import LESS_OPTIMISED, jit_in_haste, some_convolution
from jaxcert.model import Model
from jaxcert.spec import Spec
from jaxcert.trace.program import Program
from jaxcert.witness.exact import ExactNetwork
from jaxcert.witness.exact_ranges import Range

_BATCH, _SMALL_BATCH = 64, 8
"""Points per call of the compiled evaluation, and where the network convolves."""
_CLEAR = 1e-3
"""Margins above this, relative to the outputs, are taken to be > 0."""
_MOST_EXACT, _MOST_CLOSE = 12, 3
"""Points that are evaluated exactly in one search, and with more digits."""
MOST_SUSPECTS = 8
"""How many points in doubt a search has judged before it lets them be."""
_CLOSE_BITS = 96
"""Bits that an evaluation keeps which is not exact; it takes seconds."""
_DIGITS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 30)
"""Binary digits behind the point to which promising points are rounded."""

Outputs = Sequence[float] | Sequence[Fraction]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Values:
    """What float64 says about points, leaves (n, ...).

    Attributes:
      outputs: (n, outputs).
      margin: of the spec, (n,).
      gradient: of the margin, (n, *d).
    """

    outputs: Float[Array, "n outputs"]
    margin: Float[Array, " n"]
    gradient: Float[Array, "n *d"]


@functools.partial(jit_in_haste, when=some_convolution, options=LESS_OPTIMISED)
def _values(program: Program, params: Any, spec: Spec, points: Array) -> Values:
    prepared = program.prepare(params, points.dtype)

    def one(z: Array) -> Values:
        def margin(z: Array) -> tuple[Array, Array]:
            outputs = program.evaluate_prepared(prepared, z)
            return spec.margin(spec.values(outputs)), outputs

        (value, outputs), gradient = jax.value_and_grad(margin, has_aux=True)(z)
        return Values(outputs, value, gradient)

    return jax.vmap(one)(points)


def point_slack(program: Program, values: Any, spec: Spec, z: Array) -> Array:
    """Returns by how much the float64 margin of a point may be wrong, > 0."""
    here = propagate(program, values, Box.point(z))
    return float64_slack(program, values, here, spec.coefficients, lines=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Witness:
    """A point that violates the spec.

    Attributes:
      point: float64.
      margin: its margin, <= 0, up to rounding.
      outputs: the network's: floats, or fractions where those decided.
    """

    point: np.ndarray
    margin: float
    outputs: Outputs


Accepts = Callable[[np.ndarray, Outputs], bool]


class Judge:
    """Judges points of one network; must be asked where float64 is enabled.

    Args:
      model: the network.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.exact = ExactNetwork(model.program, model.double)
        self._last: tuple[bytes | None, Range | None] = None, None

    @functools.cached_property
    def _close(self) -> ExactNetwork:
        model = self.model
        return ExactNetwork(
            model.program, model.double, prepared=model.prepared, bits=_CLOSE_BITS
        )

    def values(self, spec: Spec, points: np.ndarray) -> Values:
        """Returns what float64 says about points, (n, *d)."""
        found = []
        batch = _SMALL_BATCH if self.model.program.convolves else _BATCH
        for start in range(0, len(points), batch):
            part = points[start : start + batch]
            filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)])
            answer = jax.device_get(
                _values(
                    self.model.program, self.model.double, spec, jnp.asarray(filled)
                )
            )
            count = len(part)
            found.append(jax.tree.map(lambda v, n=count: v[:n], answer))
        return jax.tree.map(lambda *v: np.concatenate(v), *found)

    def first(
        self,
        spec: Spec,
        points: np.ndarray,
        order: np.ndarray | None = None,
        accepts: Accepts | None = None,
    ) -> Witness | None:
        """Returns the first of the points that violates the spec, or None.

        Args:
          spec: numpy float64.
          points: (n, *d), float64.
          order: what the first one has least of; by default its margin.
          accepts: what a witness must satisfy besides, given its outputs.
        """
        if not len(points):
            return None
        values = self.values(spec, points)
        order = np.asarray(values.margin) if order is None else order
        return self._first(spec, points, values, order, accepts)

    def _first(
        self,
        spec: Spec,
        points: np.ndarray,
        values: Values,
        order: np.ndarray,
        accepts: Accepts | None,
    ) -> Witness | None:
        """Returns what `first` does of points whose values are known."""
        left = 1.0
        for i in np.argsort(order, kind="stable"):
            margin = float(values.margin[i])
            if self._is_clear(margin, values.outputs[i]):
                continue
            if self._last[0] == points[i].tobytes() and self._last[1] is not None:
                slack = np.inf  # what exact numbers say is known
            else:
                slack = self.slack(spec, points[i])
            if margin <= -slack:
                outputs: Outputs = values.outputs[i].tolist()
                if accepts is None or accepts(points[i], outputs):
                    return Witness(points[i], margin, outputs)
            elif not margin > slack and left > 0:
                found, cost = self._judged(spec, points[i])
                left -= cost
                if found is not None and (
                    accepts is None or accepts(points[i], found.outputs)
                ):
                    return found
        return None

    def exactly(self, spec: Spec, point: np.ndarray) -> Witness | None:
        """Returns the witness that a point is in exact numbers, or None.

        None says nothing where the network has no exact value. Nothing is compiled.

        Args:
          spec: numpy float64.
          point: float64, of the shape of the input.
        """
        output = self._output(point)
        margin = None if output is None else self.exact.margin(spec, output)
        if output is None or margin is None or margin > 0:
            return None
        return Witness(point, float(margin), output.lo.fractions())

    def _output(self, point: np.ndarray) -> Range | None:
        """Returns the exact output at a point; the last one is kept."""
        key = point.tobytes()
        if self._last[0] != key:
            self._last = key, self.exact.output(Box.point(point))  # type: ignore[arg-type]
        return self._last[1]

    def slack(self, spec: Spec, point: np.ndarray) -> float:
        """Returns by how much the float64 margin of a point may be wrong, > 0.

        Infinite where XLA computes with 0 instead of one of its numbers.
        """
        if np.any((point != 0) & (np.abs(point) < FLUSHED)):
            return math.inf
        program, prepared = self.model.program, self.model.prepared
        here = ranges_at(program, prepared, point)
        rows = spec.coefficients
        return float(slack_of(program, prepared, here, rows, lines=False))

    def _is_clear(self, margin: float, outputs: np.ndarray) -> bool:
        """Whether a point is no witness, as far as anybody would look for one.

        A margin this far above 0 is no tie that rounding hides, unless f jumps. What is
        found so is lost and nothing else: the slack takes a program of its own.
        """
        far = _CLEAR * (1 + np.abs(outputs).max(initial=0.0))
        return bool(np.isnan(margin) or (margin > far and not self.model.program.jumps))

    def _first_in_doubt(self, spec: Spec, points: np.ndarray, values: Values) -> list:
        for i, margin in enumerate(values.margin):
            if self._is_clear(margin, values.outputs[i]):
                continue
            if not margin > self.slack(spec, points[i]):  # which may be NaN
                return [i]
        return []

    def _judged(self, spec: Spec, point: np.ndarray) -> tuple[Witness | None, float]:
        """Returns the witness that a point is beyond rounding, or None.

        And which part of all that a search may evaluate so it has taken.
        """
        if self._output(point) is not None:
            return self.exactly(spec, point), 1 / _MOST_EXACT
        output = self._close.output(Box.point(point))  # type: ignore[arg-type]
        margin = None if output is None else self._close.margin(spec, output)
        if output is None or margin is None or margin > 0:
            return None, 1 / _MOST_CLOSE
        centres = [float(v) for v in output.lo.fractions()]
        return Witness(point, float(margin), centres), 1 / _MOST_CLOSE

    def search(
        self,
        spec: Spec,
        region: Region,
        seeds: np.ndarray,
        accepts: Accepts | None = None,
        far: float = math.inf,
    ) -> Witness | None:
        """Returns a witness among points of a box or ball, or near them; or None.

        Args:
          spec, region: numpy float64.
          seeds: (n, *d), inside the set, but for rounding.
          accepts: see `first`.
          far: the margin, relative to the outputs, above which nothing near a seed is
            looked at.
        """
        box: Any = jax.tree.map(np.asarray, enclosing(region))
        if isinstance(region, Ball):
            accepts = _within(region, accepts)
        if not len(seeds):
            return None
        seeds = np.clip(seeds, box.lo, box.hi)  # what XLA flushed may lie beside it
        values = self.values(spec, seeds)
        found = self._first(spec, seeds, values, values.margin, accepts)
        if found is not None:
            return found
        margin = np.nan_to_num(values.margin, nan=np.inf)
        size = 1 + np.abs(values.outputs).max(axis=1, initial=0.0)
        best = np.argsort(margin, kind="stable")[:3]
        best = best[~(margin[best] > far * size[best])]
        if not best.size:
            return None
        near = [
            nearby(seeds[i], box, values.margin[i], values.gradient[i]) for i in best
        ]
        return self.first(spec, np.concatenate(near), accepts=accepts)

    def nearest(self, spec: Spec, family: Family, point: np.ndarray) -> Witness | None:
        """Returns a witness near a point of the domain, or on its way to the core.

        Args:
          spec, family: numpy float64.
          point: inside the domain.
        """
        parts = np.linspace(0, 1, 33)[1:]
        begin = np.clip(point, family.core.lo, family.core.hi)
        way = begin + np.multiply.outer(parts, point - begin)
        way[-1] = point
        values = self.values(spec, way)
        near = [way]
        for i in {len(way) - 1, *self._first_in_doubt(spec, way, values)}:
            z = np.clip(way[i], family.domain.lo, family.domain.hi)
            near.append(nearby(z, family.domain, values.margin[i], values.gradient[i]))
        points = np.concatenate(near)
        points = np.clip(points, family.domain.lo, family.domain.hi)
        distance = distances(family, points)
        possible = np.isfinite(distance)
        return self.first(spec, points[possible], order=distance[possible])


def _within(ball: Ball, accepts: Accepts | None) -> Accepts:
    """Returns what accepts the points that lie in a ball exactly."""

    def inside(point: np.ndarray, outputs: Outputs) -> bool:
        return ball.holds(point) and (accepts is None or accepts(point, outputs))

    return inside


def nearby(z: np.ndarray, box: Box, margin: float, gradient: np.ndarray) -> np.ndarray:
    """Returns points of the box where a margin near a point's may be exactly 0.

    They are: the point; the corner that the gradient points away from; where the
    margin's tangent is 0, along the steepest features and along the gradient; and all
    of these with few digits.

    Args:
      z: a point of the box, float64.
      box: numpy float64.
      margin, gradient: at the point.
    """
    lo, hi = np.asarray(box.lo), np.asarray(box.hi)
    gradient = np.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    starts = [z, np.where(gradient > 0, lo, np.where(gradient < 0, hi, z))]
    steepest = np.argsort(-np.abs(gradient).reshape(-1), kind="stable")[:2]
    margin = float(margin) if np.isfinite(margin) else 0.0
    with np.errstate(all="ignore"):
        for i in steepest:
            moved = z.copy()
            moved.reshape(-1)[i] -= margin / gradient.reshape(-1)[i]
            starts.append(moved)
        norm = np.sum(gradient**2)
        starts.append(z - margin / norm * gradient)
    found = []
    for start in starts:
        if np.all(np.isfinite(start)):
            found += [start, start.astype(np.float32).astype(np.float64)]
            found += [np.round(start * 2.0**k) / 2.0**k for k in _DIGITS]
            found += [np.round(start, 1), np.round(start, 2)]
    stacked = np.clip(np.stack(found), lo, hi)
    flat = stacked.reshape(len(stacked), -1)
    _, unique = np.unique(flat, axis=0, return_index=True)
    return stacked[np.sort(unique)]
