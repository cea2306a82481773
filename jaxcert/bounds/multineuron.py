"""Multi-neuron relaxations (k-ReLU) inside bound propagation.

Relaxing every ReLU on its own cannot be tighter than the triangle relaxation (the
convex barrier of Salman et al., NeurIPS 2019). Here k ReLUs of a layer are relaxed at
once: back-substitution bounds the 3^k - 1 sums of their inputs with coefficients -1, 0
and 1, and the facets of the hull of {(x, relu(x))} over that octahedron (`hull.py`)
become cuts, which enter the backward pass with multipliers >= 0 as slopes and splits
do (`cuts.py`).

Sources: Singh et al., "Beyond the single neuron convex barrier", NeurIPS 2019 (k-ReLU);
Mueller et al., "PRIMA", POPL 2022 (groups with little overlap).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxcert.bounds import hull
from jaxcert.bounds.alpha import Layout, Ranges, relaxations_of
from jaxcert.bounds.backward import pull_to_input
from jaxcert.bounds.crown import CrownOptions, both_sides, bound_layers, row_source
from jaxcert.bounds.cuts import Cuts, cast_floats
from jaxcert.bounds.rounding import cut_cost, float64_slack
from jaxcert.bounds.tighten import (
    STEPS,
    Known,
    RowMultipliers,
    TightenOptions,
    ascend_rows,
    charged_bounds,
    tightened,
)
from jaxcert.box import Box
from jaxcert.errors import InputError
from jaxcert.spec import Spec
from jaxcert.trace.equations import Values
from jaxcert.trace.program import ActivationNode


@dataclasses.dataclass(frozen=True)
class CutOptions:
    """Which neurons are relaxed together, and how thoroughly.

    Attributes:
      k: neurons per group, 1 to 3; 1 is the relaxation of single neurons: no cuts.
      neurons: undecided neurons per layer that enter groups, those of greatest -l u.
      partners: groups per neuron; it meets those neurons of greater -l u that depend
        most on the same inputs.
      count: cuts per group, the deepest; 24 are all that matter for k = 2.
      iterations: ascent steps per octahedral bound; 1 takes CROWN's slopes.
      sharpen: whether the ranges of later layers use the cuts of earlier ones.
    """

    k: int = 2
    neurons: int = 64
    partners: int = 3
    count: int = 8
    iterations: int = 6
    sharpen: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.k <= hull.MOST:
            raise InputError(f"CutOptions.k is {self.k}; it must be 1, 2 or 3")
        for name in ("neurons", "partners", "count", "iterations"):
            if getattr(self, name) < 1:
                value = getattr(self, name)
                raise InputError(f"CutOptions.{name} is {value}; it must be >= 1")

    def groups(self, size: int) -> int:
        """Returns how many groups a layer of so many neurons has."""
        return min(self.neurons, size) * self.partners if 1 < self.k <= size else 0


class _Groups(NamedTuple):
    """Groups of one layer: neurons, units of their inputs, octahedra, and if alive.

    slopes: those that the bounds of the sums are recorded with, see `recorded_cuts`.
    """

    neurons: Int[Array, "G k"]
    unit: Float[Array, "G k"]
    bounds: Float[Array, "G m"]
    alive: Array
    slopes: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Cutter:
    """Makes cuts for the ReLUs of one program over one box.

    Attributes:
      layout: the ReLUs.
      values32, values64: prepared parameter values in both float types.
      options: of the cuts.
      tighten: of the ranges and octahedral bounds.
      cost: error per unit of a neuron's coefficients, by output id, and per unit of a
        limit, see `cut_cost`.
    """

    layout: Layout
    values32: Values
    values64: Values
    options: CutOptions
    tighten: TightenOptions
    cost: tuple[dict[int, Array], float]

    def recorded_cuts(
        self, box: Box, ranges: Ranges
    ) -> tuple[dict[int, Cuts], dict[int, tuple[Array, Array]]]:
        """Returns cuts that rest on these ranges alone, and what proves them.

        That is, by output id, the scales of the neurons in the sums of a group, (G, k),
        and the slopes of the bounds of those sums with more than one neuron, in the
        order of `hull.octahedron`: (G, sums, neurons of all ReLUs before), uint8, in
        units of 1 / 128.
        """
        known, cuts, behind = Known(box, dict(ranges)), {}, {}
        for node in self.layout.nodes:
            if self.options.groups(node.size):
                groups = self._octahedra(known, node)
                cuts[node.output] = self._cuts_of(node, groups)
                behind[node.output] = 1 / groups.unit, groups.slopes
        return cuts, behind

    def tighten_layers(
        self, box: Box, ranges: Ranges
    ) -> tuple[Ranges, dict[int, Cuts]]:
        """Returns ranges of all ReLU inputs and cuts of all ReLUs, layer by layer."""
        known = Known(box, dict(ranges))
        cuts: dict[int, Cuts] = {}
        for node in self.layout.nodes:
            z = node.inputs[0]
            if node in self.layout.improvable and self.tighten.iterations > 0:
                known.ranges[z] = tightened(
                    self.layout, self.values32, self.values64, known, node, self.tighten
                )
            if self.options.groups(node.size):
                groups = self._octahedra(known, node)
                cuts[node.output] = self._cuts_of(node, groups)
                if self.options.sharpen:
                    known.cuts[node.output] = cuts[node.output]
        return known.ranges, cuts

    def _cuts_of(self, node: ActivationNode, groups: _Groups) -> Cuts:
        """Returns the cuts of one layer, valid for all inputs of the box."""
        k, count = self.options.k, self.options.count

        def of_group(bounds: Array) -> tuple[Array, Array, Array]:
            found = hull.hull_directions(bounds, k, count)
            limit = jax.vmap(hull.safe_limit, (0, 0, None))(found.a, found.b, bounds)
            return found.a, found.b, jnp.where(found.depth > 0, limit, 0.0)

        a, b, limit = lax.map(of_group, groups.bounds, batch_size=8 if k < 3 else 1)
        # In the network's units, and so that the greatest coefficient is about 1: all
        # by powers of 2, which are exact.
        a, b = a / groups.unit[:, None], b / groups.unit[:, None]
        size = jnp.maximum(jnp.abs(a), jnp.abs(b)).max(axis=-1)
        factor = _power_of_two(jnp.where(size > 0, size, 1.0))
        a, b, limit = a / factor[..., None], b / factor[..., None], limit / factor
        alive = groups.alive[:, None] & jnp.isfinite(limit)
        a, b = (jnp.where(alive[..., None], v, 0.0) for v in (a, b))
        limit = jnp.where(alive, limit, 0.0)
        per_neuron, per_limit = self.cost[0][node.output].reshape(-1), self.cost[1]
        cost = jnp.sum(
            (jnp.abs(a) + jnp.abs(b)) * per_neuron[groups.neurons][:, None], -1
        )
        return Cuts(groups.neurons, a, b, limit, cost + per_limit * jnp.abs(limit))

    def _octahedra(self, known: Known, node: ActivationNode) -> _Groups:
        """Returns the groups of a layer and upper bounds of their octahedral sums.

        Inputs are measured in units of their own range (a power of 2, so that scaling
        is exact). The bounds are widened by twice what rounding can do to them, so that
        they hold for the network as a real-valued function.
        """
        z = known.ranges[node.inputs[0]]
        lo, hi = z.lo.reshape(-1), z.hi.reshape(-1)
        score = jnp.where(node.activation.undecided(lo, hi), -lo * hi, -1.0)
        unit = _power_of_two(jnp.where(score > 0, hi - lo, 1.0))
        index, alive = self._partners(known, node, score, (hi - lo) / unit, unit)
        unit = unit[index]
        directions = hull.octahedron(self.options.k)
        mixed = np.count_nonzero(directions, axis=1) > 1
        high, low = hi[index] / unit, lo[index] / unit
        bounds = high @ np.maximum(directions, 0).T - low @ np.maximum(-directions, 0).T
        sums = directions[mixed] / unit[:, None]
        least, slopes = self._least(known, node, index, -sums)
        bounds = bounds.at[:, np.flatnonzero(mixed)].min(-least)
        cost = self.cost[0][node.output].reshape(-1)[index]
        bounds = bounds + 2 * (cost / unit) @ np.abs(directions).T
        alive &= jnp.all(jnp.isfinite(bounds), axis=1)
        bounds = jnp.where(alive[:, None], bounds, 1.0)
        return _Groups(index.astype(jnp.int32), unit, bounds, alive, slopes)

    def _partners(
        self,
        known: Known,
        node: ActivationNode,
        score: Array,
        width: Array,
        unit: Array,
    ) -> tuple[Array, Array]:
        """Returns groups (G, k) of the neurons of greatest score, and which count.

        Two neurons depend on the same inputs where the linear parts of their bounds do:
        by how much |A_i + A_j| or |A_i - A_j|, summed over the inputs, stays below
        |A_i| + |A_j|, relatively to their ranges. What depends most gains most from
        bounds of sums. Each neuron is grouped with such of greater score, so that no
        two groups are the same.
        """
        options, k = self.options, self.options.k
        best = jnp.argsort(-score)[: min(options.neurons, node.size)]
        source = row_source(
            self.layout.program, self.values32, node.inputs[0], jnp.float32
        )
        lines = relaxations_of(self.layout, cast_floats(known.ranges, jnp.float32), {})
        pulled, _, _ = pull_to_input(
            self.layout.program, self.values32, lines, known.ranges,
            *both_sides(*source(best)),
        )  # fmt: skip
        radius = cast_floats(known.box.radius, jnp.float32)
        pulled = (pulled * radius).reshape(2, len(best), -1)
        linear = (pulled[0] - pulled[1]) / 2 / unit[best, None].astype(jnp.float32)

        def with_all(row: Array) -> Array:
            sums = jnp.abs(linear + row).sum(axis=1), jnp.abs(linear - row).sum(axis=1)
            apart = jnp.abs(linear).sum(axis=1) + jnp.abs(row).sum()
            return apart - jnp.minimum(*sums)

        gain = lax.map(with_all, linear, batch_size=8)
        gain = gain / (width[best] + width[best, None]).astype(jnp.float32)
        rank = jnp.arange(len(best))
        gain = jnp.where(rank < rank[:, None], gain, -1.0)
        most = min(options.partners * (k - 1), len(best))
        chosen = lax.top_k(gain, most)[1]
        missing = options.partners * (k - 1) - most
        chosen = jnp.pad(chosen, ((0, 0), (0, missing)), mode="wrap")
        others = chosen.reshape(len(best), options.partners, k - 1)
        own = jnp.broadcast_to(rank[:, None, None], (*others.shape[:2], 1))
        ranks = jnp.concatenate([own, others], axis=2).reshape(-1, k)
        index = best[ranks]
        alive = jnp.all(ranks[:, 1:] < ranks[:, :1], axis=1)
        if k > 2:
            alive &= ranks[:, 1] != ranks[:, 2]
        return index, alive & jnp.all(score[index] > 0, axis=1)

    def _least(
        self, known: Known, node: ActivationNode, index: Array, sums: Array
    ) -> tuple[Array, Array]:
        """Returns lower bounds of sums, (G, m), of coefficients (G, m, k), and slopes.

        By slopes alone: multipliers of all cuts for every sum cost ten times as much.
        They are rounded to what is recorded of them, (G, m, neurons before) uint8.
        """
        known = Known(known.box, known.ranges)

        def rows(values: Values, dtype: Any) -> Any:
            source = row_source(self.layout.program, values, node.inputs[0], dtype)
            units, offset = source(index.reshape(-1))
            weights = sums.astype(dtype)

            def mix(v: Array) -> Array:
                v = v.reshape(*index.shape, *v.shape[1:])
                mixed = jnp.einsum("gmk,gk...->gm...", weights, v,
                                   precision=lax.Precision.HIGHEST)  # fmt: skip
                return mixed.reshape(-1, *mixed.shape[2:])

            return {i: mix(c) for i, c in units.items()}, mix(offset)

        options = dataclasses.replace(self.tighten, iterations=self.options.iterations)
        multipliers = ascend_rows(
            self.layout, self.values32, known, rows(self.values32, jnp.float32), options
        )
        before = self.layout.nodes[: self.layout.nodes.index(node)]
        count = sums.shape[0] * sums.shape[1]
        stored = [
            jnp.round(multipliers.slope[b.output].reshape(count, -1) * STEPS)
            for b in before
        ]
        exact = RowMultipliers(
            {
                b.output: (s.astype(jnp.float64) / STEPS).reshape(count, *b.shape)
                for b, s in zip(before, stored, strict=True)
            }
        )
        least, _ = charged_bounds(
            self.layout, self.values64, known, rows(self.values64, jnp.float64), exact
        )
        slopes = jnp.concatenate([jnp.zeros((count, 0)), *stored], axis=1)
        slopes = slopes.astype(jnp.uint8).reshape(*sums.shape[:2], -1)
        return least.reshape(sums.shape[:2]), slopes


def cutter(
    layout: Layout,
    values: tuple[Values, Values],
    boxes: dict[int, Box],
    options: CutOptions,
    tighten: TightenOptions,
) -> Cutter:
    """Returns what makes the cuts over one box.

    Args:
      layout: the ReLUs of the program.
      values: prepared parameter values in float32 and in float64.
      boxes: the range of every value of the program over the box, float64.
      options: of the cuts.
      tighten: of the ranges and octahedral bounds.
    """
    terms = 0
    for node in layout.nodes:
        terms += 2 * options.groups(node.size) * (options.count + options.k)
    cost = cut_cost(layout.program, values[1], boxes, terms)
    return Cutter(layout, *values, options, tighten, cost)


@dataclasses.dataclass(frozen=True)
class RowOptions:
    """How `bound_rows` works.

    Attributes:
      cuts: how neurons are relaxed together; k = 1 is alpha-CROWN.
      tighten: how ranges and octahedral bounds are optimised.
      final: how the bounds of the spec's rows are.
    """

    cuts: CutOptions = CutOptions()
    tighten: TightenOptions = TightenOptions()
    final: TightenOptions = TightenOptions(iterations=60, decay=0.97)


def bound_rows(
    layout: Layout,
    params: tuple[Any, Any],
    box: Box,
    spec: Spec,
    options: RowOptions,
) -> tuple[Float[Array, " rows"], Float[Array, ""]]:
    """Returns lower bounds of the spec's rows, and what they must exceed to be proved.

    Must run where float64 is enabled; `params` are in float32, in which multipliers are
    optimised, and in float64, in which every bound is evaluated.
    """
    program = layout.program
    values32, values64 = (
        program.prepare(p, kind)
        for p, kind in zip(params, (jnp.float32, jnp.float64), strict=True)
    )
    boxes = bound_layers(program, values64, box, CrownOptions()).boxes
    maker = cutter(layout, (values32, values64), boxes, options.cuts, options.tighten)
    ranges = {i: boxes[i] for i in layout.needed()}
    ranges, cuts = maker.tighten_layers(box, ranges)
    known = Known(box, ranges, cuts)
    rows = {program.output: spec.coefficients}, spec.offset
    multipliers = ascend_rows(
        layout, values32, known, cast_floats(rows, jnp.float32), options.final
    )
    multipliers = cast_floats(multipliers, jnp.float64)
    least, _ = charged_bounds(layout, values64, known, rows, multipliers)
    return least, float64_slack(program, values64, boxes, spec.coefficients)


def _power_of_two(size: Array) -> Array:
    """Returns the power of 2 next below positive numbers, kept in a safe range."""
    exponent = jnp.clip(jnp.frexp(size)[1] - 1, -200, 200)
    return jnp.ldexp(jnp.ones_like(size), exponent)
