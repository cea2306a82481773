"""Leaves: the subproblems that a proof consists of, and what proves each of them."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Int

from jaxcert.bounds.alpha import Multipliers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Leaves:
    """Leaves of the proofs of many inputs; N neurons.

    Attributes:
      owner: the input, (L,).
      clause: the clause of its spec that is proved, (L,).
      signs: -1, 0 or 1 per neuron, (L, N) int8: what the leaf assumes.
      multipliers: of the bound that proves it, leaves (L, ...).
    """

    owner: Int[Array, " L"]
    clause: Int[Array, " L"]
    signs: Int[Array, "L N"]
    multipliers: Multipliers

    def rows(self, chosen: np.ndarray) -> Leaves:
        """Returns the chosen leaves, by mask or index."""
        return jax.tree.map(lambda v: v[chosen], self)

    @staticmethod
    def joined(parts: list[Leaves]) -> Leaves:
        """Returns the leaves of all parts, numpy; at least one is needed."""
        return jax.tree.map(lambda *v: np.concatenate(v), *parts)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RecordedCuts:
    """Cuts of one layer as a checker derives them, numpy; one input, or J in front.

    Attributes:
      index: which neurons of the flat layer, (G, k).
      at_input, at_output: coefficients, (G, F, k).
      scales: of the neurons in the sums that the limits rest on, (G, k).
      slopes: of the bounds of these sums, uint8; see `Cutter.recorded_cuts`.
    """

    index: np.ndarray
    at_input: np.ndarray
    at_output: np.ndarray
    scales: np.ndarray
    slopes: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class RangeTree:
    """Leaves that cover a box and bound the input of one ReLU neuron in it; numpy.

    Attributes:
      neuron: its number among the inputs of all ReLUs.
      end: 1 if they bound it from below, -1 from above.
      columns: numbers of the neurons that the rest is of, ascending, (C,).
      signs: of every leaf, (L, C) int8.
      slopes: of lower lines, in 128ths, (L, C) uint8.
      splits: multipliers >= 0 of the signs, (L, C) float32.
    """

    neuron: int
    end: int
    columns: Int[np.ndarray, " C"]
    signs: Int[np.ndarray, "L C"]
    slopes: Int[np.ndarray, "L C"]
    splits: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Proof:
    """What certificates of many inputs are made of, numpy.

    Attributes:
      leaves: of all inputs; multipliers of cuts by number of the ReLU node.
      range_slopes: recorded slopes of layer ranges, by number of the ReLU node, each
        (J, 2, n, neurons before), uint8; see `tighten.recorded_ranges`.
      cuts: those that the leaves have multipliers of, by number of the ReLU node.
      trees: of ranges that the leaves rest on, of one input.
    """

    leaves: Leaves
    range_slopes: dict[int, np.ndarray]
    cuts: dict[int, RecordedCuts] = dataclasses.field(default_factory=dict)
    trees: tuple[RangeTree, ...] = ()

    def of(self, row: int) -> Proof | None:
        """Returns that of one input; slopes and cuts without the leading axis.

        None if there is no proof of it here: another one proved its box, or nothing.
        """
        own = np.asarray(self.leaves.owner) == row
        if not own.any():
            return None
        slopes, cuts = jax.tree.map(lambda v: v[row], (self.range_slopes, self.cuts))
        return Proof(self.leaves.rows(own), slopes, cuts)
