"""The small simplex method against HiGHS, and against duality."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from jaxcert.branch.simplex import minimise


def program(seed: int, whole: bool):
    """Returns cost, matrix, limit, lo, hi; small integers make ties and bad pivots."""
    rng = np.random.default_rng(seed)
    m, n = rng.integers(0, 9), rng.integers(1, 25)

    def numbers(*shape: int):
        drawn = rng.normal(size=shape) * 2
        return np.round(drawn) if whole else drawn

    cost, matrix = numbers(n), numbers(m, n)
    lo = numbers(n)
    hi = lo + np.abs(numbers(n)) * (rng.random(n) < 0.9)
    inside = lo + rng.random(n) * (hi - lo)
    limit = matrix @ inside + np.abs(numbers(m)) - 4 * (rng.random(m) < 0.2)
    return cost, matrix, limit, lo, hi


@pytest.mark.parametrize("whole", [False, True])
def test_it_finds_what_highs_finds(whole: bool):
    solved = infeasible = 0
    for seed in range(400):
        cost, matrix, limit, lo, hi = program(seed, whole)
        found = minimise(cost, matrix, limit, lo, hi)
        known = linprog(
            cost, matrix if len(matrix) else None, limit if len(limit) else None,
            bounds=np.stack([lo, hi], axis=1), method="highs",
        )  # fmt: skip
        if known.status == 2:
            assert found is None
            infeasible += 1
            continue
        assert known.status == 0 and found is not None
        solved += 1
        assert found.value == pytest.approx(known.fun, abs=1e-6)
        assert (lo - 1e-9 <= found.point).all() and (found.point <= hi + 1e-9).all()
        assert (matrix @ found.point <= limit + 1e-7).all()
        assert (found.multipliers >= -1e-9).all()
        # The multipliers alone bound the cost from below, by its value.
        total = cost + found.multipliers @ matrix
        bound = np.minimum(total * lo, total * hi).sum() - found.multipliers @ limit
        assert bound == pytest.approx(found.value, abs=1e-6)
    assert solved >= 250 and infeasible >= 20


def test_numbers_that_are_none_end_it():
    wrong = np.array([np.nan, 1.0])
    ones = np.ones(2)
    found = minimise(ones, wrong[None], np.zeros(1), -ones, ones)
    assert found is None or not np.isfinite(found.value)
