"""Bounds of a probability from counts: Clopper and Pearson, rounded outward."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from jaxcert.errors import InputError

Counts = Int[ArrayLike, "*n"]
Numbers = Float[np.ndarray, "*n"]

# Far beyond the error of scipy's incomplete beta function (about 1e-13).
_SLACK = 1e-9


def lower_bound(hits: Counts, samples: Counts, alpha: float) -> Numbers:
    """Returns p such that the probability of a hit is >= p, failing with <= alpha.

    The exact bound of Clopper and Pearson (1934): the least p whose chance of so many
    hits, or more, reaches alpha. 0 where there is no hit. Rounded down: the chance is
    evaluated again at the returned p.

    Args:
      hits: between 0 and samples.
      samples: drawn independently, their number fixed beforehand, >= 1.
      alpha: in (0, 1).

    Raises:
      InputError: counts or alpha out of range.
    """
    from scipy import special

    k, n = (np.asarray(v, np.float64) for v in (hits, samples))
    check_alpha(alpha)
    if not ((k >= 0) & (k <= n) & (n >= 1)).all():
        raise InputError("counts must satisfy 0 <= hits <= samples and samples >= 1")
    some = np.maximum(k, 1)
    p = special.betaincinv(some, n - some + 1, alpha) * (1 - _SLACK)
    while True:
        # P(Binomial(n, p) >= k), which has to be at most alpha.
        chance = special.betainc(some, n - some + 1, p)
        if (chance <= alpha).all():
            return np.where(k > 0, p, 0.0)
        p = np.where(chance <= alpha, p, p * (1 - _SLACK))


def upper_bound(hits: Counts, samples: Counts, alpha: float) -> Numbers:
    """Returns p such that the probability of a hit is <= p, failing with <= alpha.

    Arguments and errors as for `lower_bound`; 1 where every sample is a hit.
    """
    misses = np.asarray(samples) - np.asarray(hits)
    return np.minimum(np.nextafter(1 - lower_bound(misses, samples, alpha), 2.0), 1.0)


def hits_needed(samples: Counts, p: Float[ArrayLike, "*n"], alpha: float) -> Numbers:
    """Returns the fewest hits that make `lower_bound` reach p; samples + 1 if none."""
    from scipy import stats

    check_alpha(alpha)
    n = np.asarray(samples, np.float64)
    k = stats.binom.isf(alpha, n, p) + 1
    # The bound is rounded down, so that at a tie one more is needed.
    short = lower_bound(np.minimum(k, n), n, alpha) < p
    return np.where(short, np.minimum(k, n) + 1, k)


def least_samples(p: float, alpha: float) -> int | None:
    """Returns the fewest samples whose `lower_bound` exceeds p if all of them are hits.

    That bound is alpha^(1 / n): with fewer samples nothing above p is ever certified.
    None where no number of samples is enough (p >= 1).
    """
    check_alpha(alpha)
    if not p < 1:
        return None
    n = max(1, math.floor(math.log(alpha) / math.log(p))) if p > 0 else 1
    while not lower_bound(n, n, alpha) > p:
        n += 1
    return n


def check_alpha(alpha: float) -> None:
    """Raises InputError unless alpha is a failure probability in (0, 1)."""
    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha}; a failure probability lies in (0, 1)")
