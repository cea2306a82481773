"""A ReLU network over a box as a mixed-integer programme, answered by HiGHS."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import scipy.optimize
import scipy.sparse

from studies.milp_reference.network import Mlp

# HiGHS meets constraints and integrality within 1e-6: what is closer decides nothing.
_SOLVER_ERROR = 1e-6
# Margins beyond required + this are not told apart, which prunes most of the tree.
_CUTOFF = 1e-3


@dataclasses.dataclass(frozen=True)
class Answer:
    """What HiGHS says of a box.

    Attributes:
      status: whether margin > required all over the box.
      bound: proved lower bound of the least margin, up to the solver's tolerance.
      point: the point of least margin that was found, if any, and its margin.
    """

    status: Literal["holds", "violated", "unknown"]
    bound: float
    point: np.ndarray | None = None
    margin: float = math.nan


class Encoding:
    """The network over a box as linear constraints: x, then z, a, s of every layer.

    z = W a' + b; a = relu(z); s is 1 where the neuron is on. A stable neuron has s
    fixed. Over s in [0, 1] the constraints are those of the triangle relaxation.

    z and a are stored in units of the neuron's own range. Solvers work with absolute
    tolerances, and neurons with weights of 1e-7 have made some answer falsely.
    """

    def __init__(self, lo: np.ndarray, hi: np.ndarray) -> None:
        self.lower, self.upper = [lo], [hi]
        self.integrality = [np.zeros(len(lo))]
        self.blocks: list[list[tuple[int, scipy.sparse.spmatrix]]] = []
        self.row_lower: list[np.ndarray] = []
        self.row_upper: list[np.ndarray] = []
        # Where the activations of the last layer are, and their units.
        self.last, self.unit = slice(0, len(lo)), np.ones(len(lo))

    def append(
        self, weight: np.ndarray, bias: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> None:
        """Appends a layer with bounds low <= z <= high of its pre-activations."""
        n = len(bias)
        weight = weight * self.unit
        self.unit = np.maximum(np.maximum(np.abs(low), np.abs(high)), 1e-12)
        weight = weight / self.unit[:, None]
        bias, low, high = bias / self.unit, low / self.unit, high / self.unit
        start = sum(map(len, self.lower))
        z, a, s = start, start + n, start + 2 * n
        one = scipy.sparse.identity(n)
        infinite, zero = np.full(n, np.inf), np.zeros(n)
        minus, plus = np.minimum(low, 0), np.maximum(high, 0)
        dense = scipy.sparse.csr_array(weight)
        self.rows([(self.last.start, -dense), (z, one)], bias, bias)
        self.rows([(a, one), (z, -one)], zero, infinite)
        # a <= z - minus (1 - s) and a <= plus s
        self.rows(
            [(a, one), (z, -one), (s, scipy.sparse.diags_array(-minus))],
            -infinite,
            -minus,
        )
        self.rows([(a, one), (s, scipy.sparse.diags_array(-plus))], -infinite, zero)
        off, on = high <= 0, low >= 0
        self.lower += [low, zero, np.where(on & ~off, 1.0, 0.0)]
        self.upper += [high, plus, np.where(off, 0.0, 1.0)]
        self.integrality += [zero, zero, np.where(off | on, 0.0, 1.0)]
        self.last = slice(a, a + n)

    def rows(
        self,
        blocks: list[tuple[int, Any]],
        lower: np.ndarray,
        upper: np.ndarray,
    ) -> None:
        self.blocks.append(blocks)
        self.row_lower.append(lower)
        self.row_upper.append(upper)

    def activation_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns bounds of the activations of the last layer."""
        lower, upper = np.concatenate(self.lower), np.concatenate(self.upper)
        return lower[self.last] * self.unit, upper[self.last] * self.unit

    def minimise(
        self, cost: np.ndarray, integer: bool, time_limit: float, cutoff: float = np.inf
    ) -> tuple[float, np.ndarray | None]:
        """Returns a lower bound of min(cost @ a, cutoff), and the best x found.

        a are the activations of the last layer; without `integer`, of the relaxation.
        """
        size = sum(map(len, self.lower))
        full = np.zeros(size)
        full[self.last] = cost * self.unit
        if not integer:
            return self._relaxed_minimum(full, time_limit, cutoff)
        rows, low, high = self._rows(size)
        constraints = []
        if len(low):
            constraints.append(scipy.optimize.LinearConstraint(rows, low, high))
        if cutoff < np.inf:
            row = scipy.sparse.csr_array(full[None])
            constraints.append(scipy.optimize.LinearConstraint(row, -np.inf, cutoff))
        result = scipy.optimize.milp(
            full,
            integrality=np.concatenate(self.integrality),
            bounds=scipy.optimize.Bounds(
                np.concatenate(self.lower), np.concatenate(self.upper)
            ),
            constraints=constraints,
            options={"time_limit": time_limit, "mip_rel_gap": 0.0},
        )
        x = None if result.x is None else result.x[: len(self.lower[0])]
        if result.status == 2:  # infeasible: nothing lies below the cutoff
            return cutoff, None
        bound = result.get("mip_dual_bound")
        if bound is None and result.status == 0:
            bound = result.fun
        return (-np.inf if bound is None else min(float(bound), cutoff)), x

    def _relaxed_minimum(
        self, cost: np.ndarray, time_limit: float, cutoff: float
    ) -> tuple[float, np.ndarray | None]:
        """The linear programme, by interior points: simplex takes 30 times as long."""
        rows, low, high = self._rows(len(cost))
        equal = low == high
        at_most, at_least = ~equal & (high < np.inf), ~equal & (low > -np.inf)
        result = scipy.optimize.linprog(
            cost,
            scipy.sparse.vstack([rows[at_most], -rows[at_least]]),
            np.concatenate([high[at_most], -low[at_least]]),
            rows[equal],
            high[equal],
            np.stack([np.concatenate(self.lower), np.concatenate(self.upper)], 1),
            method="highs-ipm",
            options={"time_limit": time_limit},
        )
        if result.status != 0:
            return -np.inf, None
        return min(float(result.fun), cutoff), result.x[: len(self.lower[0])]

    def _rows(self, size: int) -> tuple[Any, np.ndarray, np.ndarray]:
        """Returns all constraints low <= A v <= high."""
        matrices = [self._matrix(blocks, size) for blocks in self.blocks]
        return (
            scipy.sparse.vstack([scipy.sparse.csr_array((0, size)), *matrices], "csr"),
            np.concatenate([np.zeros(0), *self.row_lower]),
            np.concatenate([np.zeros(0), *self.row_upper]),
        )

    def _matrix(self, blocks: list[tuple[int, Any]], size: int) -> Any:
        parts = [(at, scipy.sparse.coo_array(matrix)) for at, matrix in blocks]
        data = np.concatenate([m.data for _, m in parts])
        row = np.concatenate([m.coords[0] for _, m in parts])
        column = np.concatenate([m.coords[1] + at for at, m in parts])
        shape = (parts[0][1].shape[0], size)
        return scipy.sparse.csr_array((data, (row, column)), shape=shape)


def encode(network: Mlp, lo: np.ndarray, hi: np.ndarray, time_limit: float) -> Encoding:
    """Returns the hidden layers over a box, with the bounds of their neurons.

    Interval bounds, which are exact for the first layer; behind it the relaxation's
    bounds for every neuron that intervals leave undecided.
    """
    encoding = Encoding(lo, hi)
    for depth, (weight, bias) in enumerate(network.layers[:-1]):
        low, high = _interval(weight, bias, *encoding.activation_bounds())
        if depth > 0:
            for i in np.flatnonzero((low < 0) & (high > 0)):
                least, _ = encoding.minimise(weight[i], False, time_limit)
                most, _ = encoding.minimise(-weight[i], False, time_limit)
                low[i] = max(low[i], least + bias[i] - _SOLVER_ERROR)
                high[i] = min(high[i], -most + bias[i] + _SOLVER_ERROR)
        # A rounding error of the bounds must not cut off the network's own values.
        width = 1e-9 * (1 + np.maximum(np.abs(low), np.abs(high)))
        encoding.append(weight, bias, low - width, high + width)
    return encoding


def _interval(
    weight: np.ndarray, bias: np.ndarray, lo: np.ndarray, hi: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
    return positive @ lo + negative @ hi + bias, positive @ hi + negative @ lo + bias


def check_box(
    network: Mlp,
    lo: np.ndarray,
    hi: np.ndarray,
    label: int,
    required: float,
    time_limit: float,
) -> Answer:
    """Returns whether the margin of the label exceeds `required` all over the box.

    One programme per target that intervals do not exclude. A violation counts only as a
    point of the box at which the network, evaluated in float64 with its rounding error,
    has margin <= required.
    """
    encoding = encode(network, lo, hi, time_limit)
    weight, bias = network.layers[-1]
    least, best, best_margin = np.inf, None, np.inf
    for target in range(len(bias)):
        if target == label:
            continue
        cost = weight[label] - weight[target]
        offset = bias[label] - bias[target]
        bound = _interval(cost[None], offset, *encoding.activation_bounds())[0].item()
        x = None
        if bound <= required + _CUTOFF:
            cutoff = required + _CUTOFF - offset
            below, x = encoding.minimise(cost, True, time_limit, cutoff)
            bound = max(bound, below + offset)
        least = min(least, bound)
        if x is not None:
            x = np.clip(x, lo, hi)
            margin, error = network.margin(x, label)
            if margin < best_margin:
                best, best_margin = x, margin
            if margin + error <= required:
                return Answer("violated", least, x, margin)
    status: Literal["holds", "unknown"] = "unknown"
    if least > required + _SOLVER_ERROR:
        status = "holds"
    return Answer(status, float(least), best, best_margin)


def check_ball(
    network: Mlp,
    x: np.ndarray,
    label: int,
    radius: float,
    domain: tuple[float, float] = (0.0, 1.0),
    required: float = 0.0,
    time_limit: float = 60.0,
) -> Answer:
    """Returns `check_box` of the clipped ball of a radius around x."""
    lo, hi = np.maximum(x - radius, domain[0]), np.minimum(x + radius, domain[1])
    return check_box(network, lo, hi, label, required, time_limit)
