"""Leaves over balls: what `linear_program.py` is for boxes.

Over an l1 ball a leaf is a linear program still, with what each feature moves as a
variable of its own. Over an l2 ball its dual is concave and smooth in the multipliers,
bounded below zero by nothing else: L-BFGS climbs it. Nothing here is believed either.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxcert.ball import Ball
from jaxcert.box import Box, Family
from jaxcert.branch.linear_program import LeafProof, finite, solved

# How far beyond a tie the nearest violation is looked for, relative to the rows: an
# optimum of L-BFGS is no more exact than this.
_BEYOND = 1e-7
_CLIMBS = {"maxiter": 500, "ftol": 1e-15, "gtol": 1e-10}

Maps = tuple[np.ndarray, ...]
"""As `linear_program.affine_maps` gives them."""


def proving_multipliers(
    maps: Maps, fixed: Int[np.ndarray, " N"], ball: Ball, deadline: float = np.inf
) -> LeafProof | None:
    """Returns multipliers whose bound of the leaf over a ball is about the greatest.

    See `linear_program.proving_multipliers`, which is the same over a box.
    """
    if not finite(maps) or time.monotonic() >= deadline:
        return None
    if ball.rates.norm == "l1":
        return _by_program(maps, fixed, ball, deadline)
    return _by_ascent(maps, fixed, ball)


def nearest_violation(
    maps: Maps,
    fixed: Int[np.ndarray, " N"],
    family: Family,
    slack: float,
    deadline: float = np.inf,
) -> np.ndarray | None:
    """Returns the point nearest to the core with these signs, every row <= -2 slack.

    None where there is none or none is found, and by the deadline.
    """
    if not finite(maps) or time.monotonic() >= deadline:
        return None
    if family.rates.norm == "l1":
        return _nearest_l1(maps, fixed, family, slack, deadline)
    return _nearest_l2(maps, fixed, family, slack)


def _moves(center: Any, domain: Box, rates: Any) -> tuple[Any, ...]:
    """Returns what says how far features move, for variables (z, u): A, b, bounds.

    (z - x) <= w_hi u and (x - z) <= w_lo u.
    """
    from scipy import sparse

    x = np.ravel(center)
    low, high = np.ravel(rates.lower), np.ravel(rates.upper)
    eye = sparse.eye_array(x.size)
    sides = sparse.block_array(
        [[eye, -sparse.diags_array(high)], [-eye, -sparse.diags_array(low)]]
    )
    bounds = np.stack([np.ravel(domain.lo), np.ravel(domain.hi)], axis=1)
    return sides, np.concatenate([x, -x]), bounds


def _signed(maps: Maps, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns A, b with A z + b >= 0 where the signs hold; 0 where there is none."""
    sign = fixed.astype(float)
    return sign[:, None] * maps[0], sign * maps[1]


def _by_program(
    maps: Maps, fixed: np.ndarray, ball: Ball, deadline: float
) -> LeafProof | None:
    from scipy import sparse

    neurons, offsets = _signed(maps, fixed)
    chosen = np.flatnonzero(fixed)
    rows, row_offset = maps[2], maps[3]
    sides, ends, bounds = _moves(ball.center, ball.domain, ball.rates)
    n, signs, many = len(bounds), len(chosen), len(rows)
    # Variables: z, u, t, and by how much each sign is violated, at a price that no
    # point with the signs would pay.
    below = sparse.block_array(
        [
            [sparse.csr_array(rows), sparse.csr_array((many, n)), -np.ones((many, 1)),
             sparse.csr_array((many, signs))],
            [sparse.csr_array(-neurons[chosen]), sparse.csr_array((signs, n)),
             sparse.csr_array((signs, 1)), -sparse.eye_array(signs)],
            [sides[:, :n], sides[:, n:], sparse.csr_array((2 * n, 1)),
             sparse.csr_array((2 * n, signs))],
            [sparse.csr_array((1, n)), np.ones((1, n)), sparse.csr_array((1, 1)),
             sparse.csr_array((1, signs))],
        ],
        format="csc",
    )  # fmt: skip
    limit = np.concatenate([-row_offset, offsets[chosen], ends, [float(ball.radius)]])
    worth = np.max(np.abs(rows)) + np.max(np.abs(row_offset))
    price = 1e4 * worth / np.max(np.abs(neurons[chosen]), initial=1e-9)
    goal = np.concatenate([np.zeros(2 * n), [1], np.full(signs, price)])
    free = [(0, None)] * n + [(None, None)] + [(0, None)] * signs
    result = solved(goal, below, limit, [*map(tuple, bounds), *free], deadline)
    if result is None:
        return None
    duals = np.maximum(-np.asarray(result.ineqlin.marginals), 0)
    beta = np.zeros(fixed.size)
    beta[chosen] = duals[many : many + signs]
    return LeafProof(beta, duals[:many], float(result.fun), result.x[:n])


def _nearest_l1(
    maps: Maps, fixed: np.ndarray, family: Family, slack: float, deadline: float
) -> np.ndarray | None:
    from scipy import sparse

    neurons, offsets = _signed(maps, fixed)
    chosen = np.flatnonzero(fixed)
    sides, ends, bounds = _moves(family.core.lo, family.domain, family.rates)
    n = len(bounds)
    still = sparse.csr_array((len(chosen) + len(maps[2]), n))
    own = sparse.csr_array(np.concatenate([-neurons[chosen], maps[2]]))
    below = sparse.vstack([sides, sparse.hstack([own, still])], format="csc")
    limit = np.concatenate([ends, offsets[chosen], -maps[3] - 2 * slack])
    goal = np.concatenate([np.zeros(n), np.ones(n)])
    every = [*map(tuple, bounds), *[(0, None)] * n]
    found = solved(goal, below, limit, every, deadline)
    return None if found is None else found.x[:n]


@jax.jit
@jax.value_and_grad
def _dual(
    multipliers: tuple[Array, Array], ball: Ball, signed: Any, rows: Any
) -> Float[Array, ""]:
    """Returns the lower bound of a leaf by betas and logits of the rows' weights."""
    beta, logits = multipliers
    weights = jax.nn.softmax(logits)
    row = weights @ rows[0] - beta @ signed[0]
    const = weights @ rows[1] - beta @ signed[1]
    return ball.least(row.reshape((1, *ball.center.shape)))[0] + const


def _by_ascent(maps: Maps, fixed: np.ndarray, ball: Ball) -> LeafProof | None:
    signed, rows = _signed(maps, fixed), maps[2:4]
    count = fixed.size

    def negated(v: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = _dual((v[:count], v[count:]), ball, signed, rows)
        return -float(value), -np.concatenate([np.asarray(g) for g in slope])

    start = np.zeros(count + len(rows[1]))
    bounds = [(0, None)] * count + [(None, None)] * len(rows[1])
    found = _climbed(negated, start, bounds)
    if found is None:
        return None
    beta, logits = found.x[:count], found.x[count:]
    weights = np.exp(logits - logits.max())
    weights = weights / weights.sum()
    row = weights @ rows[0] - beta @ signed[0]
    point = np.asarray(ball.lowest(jnp.asarray(row.reshape((1, *ball.center.shape)))))
    return LeafProof(beta, weights, -float(found.fun), point.reshape(-1))


def _climbed(negated: Any, start: np.ndarray, bounds: list) -> Any:
    """Returns what L-BFGS-B finds; None where that is no number."""
    from scipy.optimize import minimize

    with np.errstate(all="ignore"):
        found = minimize(
            negated, start, jac=True, method="L-BFGS-B", bounds=bounds, options=_CLIMBS
        )
    return found if np.isfinite(found.fun) and np.isfinite(found.x).all() else None


def _nearest_l2(
    maps: Maps, fixed: np.ndarray, family: Family, slack: float
) -> np.ndarray | None:
    """The dual of min |(z - x) / w|^2 / 2 is taken at z = x - c w^2, put in the domain.

    With c the sum of the constraints' coefficients times multipliers >= 0.
    """
    neurons, offsets = _signed(maps, fixed)
    rows, row_offset = maps[2], maps[3]
    x, lo, hi = (
        np.ravel(v) for v in (family.core.lo, family.domain.lo, family.domain.hi)
    )
    low, high = np.ravel(family.rates.lower), np.ravel(family.rates.upper)
    size = np.abs(row_offset).max(initial=0) + (np.abs(rows) @ np.abs(x)).max(initial=0)
    beyond = 2 * slack + _BEYOND * size
    # A z + b <= 0.
    a = np.concatenate([-neurons, rows])
    b = np.concatenate([-offsets, row_offset + beyond])

    def taken(v: np.ndarray) -> np.ndarray:
        c = v @ a
        return np.clip(x - c * np.where(c > 0, low, high) ** 2, lo, hi)

    def negated(v: np.ndarray) -> tuple[float, np.ndarray]:
        z = taken(v)
        step = z - x
        rate = np.where(step < 0, low, high)
        moved = np.where(step == 0, 0, step / np.where(rate > 0, rate, 1))
        value = moved @ moved / 2 + v @ (a @ z + b)
        return -value, -(a @ z + b)

    found = _climbed(negated, np.zeros(len(b)), [(0, None)] * len(b))
    if found is None:
        return None
    z = taken(found.x)
    short = (a @ z + b)[len(neurons) :].max(initial=0)
    return z if short <= beyond / 2 else None
