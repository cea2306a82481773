"""Exact least margins of small ReLU networks, by two methods that share nothing.

Networks are lists of `(W, b)` with W of shape (in, out) and a ReLU between any two
layers; a margin is `c @ f(x) + d`. For the tests only: slow, and up to the tolerance of
HiGHS (about 1e-6 of the numbers' size).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.sparse

from jaxcert.ball import Ball

Layers = Sequence[tuple[np.ndarray, np.ndarray]]


class Minimum(NamedTuple):
    """The least margin over a box, and a point where the network takes it."""

    value: float
    point: np.ndarray


def evaluate(weights: Layers, x: np.ndarray) -> np.ndarray:
    """Returns the outputs at x (leading axes are batches), in float64."""
    value = np.asarray(x, np.float64)
    for depth, (weight, bias) in enumerate(weights):
        value = value @ np.asarray(weight, np.float64) + bias
        if depth < len(weights) - 1:
            value = np.maximum(value, 0)
    return value


def exact_min_margin(
    weights: Layers, lo: np.ndarray, hi: np.ndarray, c: np.ndarray, d: float
) -> Minimum:
    """Returns the minimum of `c @ f(x) + d` over lo <= x <= hi, by one MILP.

    Big-M encoding with interval bounds: relu(z) is the a >= 0 with z <= a <= z - l
    (1 - s) and a <= u s for a binary s.

    Raises:
      RuntimeError: HiGHS did not solve it to optimality.
    """
    lo, hi = np.asarray(lo, np.float64).ravel(), np.asarray(hi, np.float64).ravel()
    total = len(lo) + 2 * sum(len(bias) for _, bias in weights[:-1])
    lower, upper, integral = [lo], [hi], [np.zeros(len(lo))]
    rows: list[np.ndarray] = []
    limits: list[np.ndarray] = []
    first, low, high = 0, lo, hi
    start = len(lo)
    for weight, bias in weights[:-1]:
        weight, bias = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
        n = len(bias)
        middle = (low + high) / 2 @ weight + bias
        reach = (high - low) / 2 @ np.abs(weight) * (1 + 1e-9) + 1e-9
        least = np.minimum(middle - reach, 0)
        most = np.maximum(middle + reach, 0)
        # Of a - W z, of that with s, and of a with s: what each of them may not pass.
        above = np.zeros((n, total))
        above[:, start : start + n] = np.eye(n)
        below_u = above.copy()
        above[:, first : first + weight.shape[0]] = -weight.T
        below = above.copy()
        below[:, start + n : start + 2 * n] = np.diag(-least)
        below_u[:, start + n : start + 2 * n] = np.diag(-most)
        rows += [-above, below, below_u]
        limits += [-bias, bias - least, np.zeros(n)]
        lower += [np.zeros(n), np.zeros(n)]
        upper += [most, np.ones(n)]
        integral += [np.zeros(n), np.ones(n)]
        low, high = np.maximum(middle - reach, 0), most
        first, start = start, start + 2 * n
    weight, bias = weights[-1]
    cost = np.zeros(total)
    cost[first : first + np.shape(weight)[0]] = np.asarray(weight, np.float64) @ c
    constraints = []
    if rows:
        matrix = scipy.sparse.csr_array(np.concatenate(rows))
        limit = np.concatenate(limits)
        constraints = [scipy.optimize.LinearConstraint(matrix, -np.inf, limit)]
    result = scipy.optimize.milp(
        cost,
        integrality=np.concatenate(integral),
        bounds=scipy.optimize.Bounds(np.concatenate(lower), np.concatenate(upper)),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    if result.status != 0:
        raise RuntimeError(f"HiGHS: {result.message}")
    value = float(result.fun + np.asarray(bias, np.float64) @ c + d)
    return Minimum(value, np.clip(result.x[: len(lo)], lo, hi))


def brute_force_min_margin(
    weights: Layers, lo: np.ndarray, hi: np.ndarray, c: np.ndarray, d: float
) -> Minimum:
    """Returns the same minimum by one LP per activation pattern, of at most 8 neurons.

    Under a fixed pattern the network is affine in x, and the pattern is a polyhedron of
    inputs: no big-M, no relaxation, no bounds.
    """
    lo, hi = np.asarray(lo, np.float64).ravel(), np.asarray(hi, np.float64).ravel()
    best = Minimum(np.inf, np.full(len(lo), np.nan))
    for halves, limits, cost, constant in _pieces(weights, len(lo), c, d):
        result = scipy.optimize.linprog(
            cost, A_ub=halves, b_ub=limits, bounds=np.stack([lo, hi], axis=1)
        )
        if result.status == 0 and result.fun + constant < best.value:
            best = Minimum(float(result.fun + constant), result.x)
    return best


def _pieces(weights: Layers, n: int, c: np.ndarray, d: float) -> Iterator[tuple]:
    """Yields (A, b, e, f) per activation pattern: the margin is e @ x + f if A x <= b.

    Raises:
      ValueError: there are more than 8 neurons.
    """
    widths = [len(bias) for _, bias in weights[:-1]]
    if sum(widths) > 8:
        raise ValueError(f"{sum(widths)} neurons are too many for brute force")
    for pattern in itertools.product((0.0, 1.0), repeat=sum(widths)):
        slope, offset = np.eye(n), np.zeros(n)
        halves, limits, used = [np.zeros((0, n))], [np.zeros(0)], 0
        for weight, bias in weights[:-1]:
            slope, offset = weight.T @ slope, weight.T @ offset + bias
            on = np.array(pattern[used : used + len(bias)])
            used += len(bias)
            sign = 1 - 2 * on  # sign * z <= 0 is what the pattern asks for
            halves.append(sign[:, None] * slope)
            limits.append(-sign * offset)
            slope, offset = on[:, None] * slope, on * offset
        weight, bias = weights[-1]
        slope, offset = weight.T @ slope, weight.T @ offset + bias
        yield np.concatenate(halves), np.concatenate(limits), c @ slope, c @ offset + d


def brute_force_over_ball(
    weights: Layers, ball: Ball, c: np.ndarray, d: float
) -> Minimum:
    """Returns the least margin over a ball of rates 1, by at most 8 neurons' patterns.

    Over an l1 ball a pattern is one LP, in which x - center is a difference of two
    vectors >= 0. An l2 ball is what the half-spaces that touch it have in common: those
    are added where the last optimum lies outside, until it does so by what HiGHS may
    err by alone.
    """
    n = np.size(ball.center)
    best = Minimum(np.inf, np.full(n, np.nan))
    for halves, limits, cost, constant in _pieces(weights, n, c, d):
        x = least_in_ball(cost, halves, limits, ball)
        if x is not None:
            value = float(cost @ x + constant)
            best = min(best, Minimum(value, x), key=lambda m: m.value)
    return best


def least_in_ball(
    cost: np.ndarray, halves: np.ndarray, limits: np.ndarray, ball: Ball
) -> np.ndarray | None:
    """Returns the x with least `cost @ x` and `halves @ x <= limits`, or None."""
    center, n, radius = np.ravel(ball.center), len(cost), float(ball.radius)
    lo, hi = np.ravel(ball.domain.lo) - center, np.ravel(ball.domain.hi) - center
    limits = limits - halves @ center
    if ball.rates.norm == "l2":
        step = _least_in_l2(cost, halves, limits, radius, np.stack([lo, hi], 1))
        return None if step is None else center + step
    result = scipy.optimize.linprog(
        np.r_[cost, -cost],
        A_ub=np.vstack([np.hstack([halves, -halves]), np.ones(2 * n)]),
        b_ub=np.append(limits, radius),
        bounds=[(0, v) for v in (*hi, *-lo)],
    )
    return None if result.status else center + result.x[:n] - result.x[n:]


def _least_in_l2(
    cost: np.ndarray,
    halves: np.ndarray,
    limits: np.ndarray,
    radius: float,
    bounds: np.ndarray,
) -> np.ndarray | None:
    for _ in range(200):
        result = scipy.optimize.linprog(cost, A_ub=halves, b_ub=limits, bounds=bounds)
        if result.status != 0:
            return None
        far = np.linalg.norm(result.x)
        if far <= radius + 4e-7:
            return result.x
        halves = np.vstack([halves, result.x / far])
        limits = np.append(limits, radius)
    raise RuntimeError("the half-spaces do not come together")
