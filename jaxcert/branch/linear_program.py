"""Leaves: subproblems in which every sign is fixed are linear programs, solved as such.

Where all ReLU signs are fixed the network is affine, so the nearest counterexample with
these signs, and the multipliers that prove there is none, come from a linear program
(HiGHS through scipy). Neither is believed: the point is evaluated in float64, and the
multipliers go back to branch and bound, which evaluates their bound in float64.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Int

from jaxcert.bounds.alpha import Layout, Problem
from jaxcert.box import Box, Family
from jaxcert.branch.simplex import minimise
from jaxcert.trace.program import AffineNode, Node, Program, is_relu


def is_piecewise_linear(program: Program) -> bool:
    """Returns whether a program is made of affine maps and ReLUs alone."""
    return all(isinstance(node, AffineNode) or is_relu(node) for node in program.nodes)


@functools.partial(jax.jit, static_argnames=("layout",))
def affine_maps(
    layout: Layout, params: Any, problem: Problem, signs: Int[Array, " N"]
) -> tuple[Array, Array, Array, Array, Array]:
    """Returns the affine maps of a leaf: neurons (A, b), clause rows (A, b), and signs.

    A is (N, d) or (rows, d), over flat inputs. The signs are those of every neuron,
    fixed by the leaf or by its range; 0 where one is neither.
    """
    program = layout.program
    values = program.prepare(params, jnp.float64)
    full = {}
    for node, given in zip(layout.nodes, layout.parts(signs).values(), strict=True):
        z = problem.ranges[node.inputs[0]]
        by_range = jnp.where(z.lo >= 0, 1, jnp.where(z.hi <= 0, -1, 0))
        full[node.output] = jnp.where(given != 0, given, by_range)

    def neurons_and_rows(flat: Array) -> tuple[Array, Array]:
        inputs = {}

        def seen(node: Node, value: Array, operands: list[Array]) -> Array:
            if isinstance(node, AffineNode):
                return value
            inputs[node.output] = operands[0]
            return jnp.where(full[node.output] > 0, operands[0], 0.0)

        x = flat.reshape(program.input_shape)
        y = program.evaluate_prepared(values, x, seen)
        rows = problem.rows @ y + problem.offset
        return layout.join(inputs), rows

    origin = jnp.zeros(program.input_size)
    neurons, rows = neurons_and_rows(origin)
    jacobian = jax.jacrev(neurons_and_rows)(origin)
    return jacobian[0], neurons, jacobian[1], rows, layout.join(full)


def finite(numbers: Iterable[ArrayLike]) -> bool:
    """A network that overflows has no linear program."""
    return all(bool(np.isfinite(v).all()) for v in numbers)


def solved(
    goal: np.ndarray,
    below: Any,
    limit: np.ndarray,
    bounds: Any,
    deadline: Any,
    **options: Any,
) -> Any:
    """Returns what HiGHS finds: the least goal @ v with below @ v <= limit.

    None where nothing is found, by the deadline, or a number overflowed.

    Args:
      below: dense or sparse.
      bounds: of v, as of `scipy.optimize.linprog`.
      deadline: `time.monotonic()` at which it is given up.
      options: of HiGHS.
    """
    from scipy import sparse
    from scipy.optimize import linprog

    if not finite((goal, below.data if sparse.issparse(below) else below, limit)):
        return None
    left = float(deadline) - time.monotonic()
    if not math.isinf(left) or left < 0:
        options["time_limit"] = max(left, 0.0)
    result = linprog(
        goal, A_ub=below, b_ub=limit, bounds=bounds, method="highs", options=options
    )
    return result if result.status == 0 else None


def nearest_violation(
    maps: tuple[np.ndarray, ...],
    fixed: Int[np.ndarray, " N"],
    family: Family,
    slack: float,
    deadline: float = np.inf,
) -> np.ndarray | None:
    """Returns the point nearest to the core with these signs, every row <= -2 slack.

    None where there is none, and where it is not found by the deadline.
    """
    from scipy import sparse

    if not finite(maps) or time.monotonic() >= deadline:
        return None
    neurons, neuron_offset, rows, row_offset, _ = maps
    low, high = np.ravel(family.rates.lower), np.ravel(family.rates.upper)
    begin, end = np.ravel(family.core.lo), np.ravel(family.core.hi)
    count = begin.size
    chosen = np.flatnonzero(fixed)
    sign = fixed[chosen].astype(float)[:, None]
    # Variables: z (d) and the radius t. core.lo - t w_lo <= z <= core.hi + t w_hi.
    eye = sparse.eye_array(count)
    below = sparse.block_array(
        [
            [eye, -high[:, None]],
            [-eye, -low[:, None]],
            [-sign * neurons[chosen], None],
            [rows, None],
        ],
        format="csc",
    )
    limit = np.concatenate(
        [end, -begin, sign[:, 0] * neuron_offset[chosen], -row_offset - 2 * slack]
    )
    low, high = np.ravel(family.domain.lo), np.ravel(family.domain.hi)
    bounds = [*zip(low, high, strict=True), (0, None)]
    goal = np.zeros(count + 1)
    goal[-1] = 1
    found = solved(goal, below, limit, bounds, deadline)
    return None if found is None else found.x[:count]


@dataclasses.dataclass(frozen=True, eq=False)
class LeafProof:
    """Multipliers of a leaf's lower bound.

    Attributes:
      beta: of the signs, shape (N,).
      weights: of the rows.
      bound: what they should give.
      point: where it is taken, flat, shape (d,).
    """

    beta: np.ndarray
    weights: np.ndarray
    bound: float
    point: np.ndarray

    @property
    def row(self) -> np.ndarray:
        """The weights as `Multipliers.row` has them, up to rounding."""
        return np.log(self.weights + 1e-9)


def proving_multipliers(
    maps: tuple[np.ndarray, ...],
    fixed: Int[np.ndarray, " N"],
    box: Box,
    deadline: float = np.inf,
) -> LeafProof | None:
    """Returns the multipliers that maximise the leaf's lower bound over a box.

    From the duals of: minimise t subject to rows(z) <= t and the signs. None where the
    program is not solved, or not by the deadline.
    """
    if not finite(maps) or time.monotonic() >= deadline:
        return None
    neurons, neuron_offset, rows, row_offset, _ = maps
    chosen = np.flatnonzero(fixed)
    sign = fixed[chosen].astype(float)[:, None]
    sides = -sign * neurons[chosen], sign[:, 0] * neuron_offset[chosen]
    if len(rows) == 1:
        found = minimise(rows[0], *sides, np.ravel(box.lo), np.ravel(box.hi))
        if found is not None:
            beta = np.zeros(fixed.size)
            beta[chosen] = np.maximum(found.multipliers, 0)
            bound = found.value + float(row_offset[0])
            return LeafProof(beta, np.ones(1), bound, found.point)
    # Variables: z (d), t, and by how much each sign is violated. That costs so much
    # that it only happens where no point has the signs; then the bound is large.
    below = np.concatenate(
        [
            np.hstack(
                [rows, -np.ones((len(rows), 1)), np.zeros((len(rows), len(chosen)))]
            ),
            np.hstack(
                [sides[0], np.zeros((len(chosen), 1)), -np.eye(len(chosen))]
            ),
        ]
    )  # fmt: skip
    limit = np.concatenate([-row_offset, sides[1]])
    count, free = box.lo.size, np.full(len(chosen), np.inf)
    lowest = np.concatenate([np.ravel(box.lo), [-np.inf], 0 * chosen])
    highest = np.concatenate([np.ravel(box.hi), [np.inf], free])
    # Rows may be constant on the leaf; then their offset is what has to be outbid.
    worth = np.max(np.abs(rows)) + np.max(np.abs(row_offset))
    price = 1e4 * worth / np.max(np.abs(neurons[chosen]), initial=1e-9)
    goal = np.concatenate([np.zeros(count), [1], np.full(len(chosen), price)])
    # It takes but a few steps; what presolve does takes longer than they.
    bounds = np.stack([lowest, highest], axis=1)
    result = solved(goal, below, limit, bounds, deadline, presolve=False)
    if result is None:
        return None
    duals = -np.asarray(result.ineqlin.marginals)
    beta = np.zeros(fixed.size)
    beta[chosen] = np.maximum(duals[len(rows) :], 0)
    weights, point = np.maximum(duals[: len(rows)], 0), result.x[:count]
    return LeafProof(beta, weights, float(result.fun), point)
