"""Clopper-Pearson bounds against exact sums of binomial probabilities."""

from __future__ import annotations

import decimal
import math
from fractions import Fraction

import numpy as np
import pytest

from jaxcert.errors import InputError
from jaxcert.smoothing import lower_bound, upper_bound
from jaxcert.smoothing.binomial import hits_needed


def tail(hits: int, samples: int, p: Fraction) -> Fraction:
    """Returns P(Binomial(samples, p) >= hits), exactly."""
    terms = (
        math.comb(samples, j) * p**j * (1 - p) ** (samples - j)
        for j in range(hits, samples + 1)
    )
    return sum(terms, Fraction(0))


def long_tail(hits: int, samples: int, p: float) -> decimal.Decimal:
    """Returns the same in 60 digits, for many samples."""
    with decimal.localcontext(decimal.Context(prec=60, Emin=-(10**9), Emax=10**9)):
        p_exact = decimal.Decimal(p)
        q = 1 - p_exact
        term = decimal.Decimal(math.comb(samples, hits))
        term *= p_exact**hits * q ** (samples - hits)
        total = term
        for j in range(hits, samples):
            term *= (samples - j) * p_exact / ((j + 1) * q)
            total += term
        return total


@pytest.mark.parametrize("alpha", [0.2, 0.05, 1e-3, 1e-9])
def test_lower_bound_is_exact_and_rounded_down(alpha):
    for n in (1, 2, 7, 40):
        hits = np.arange(n + 1)
        bounds = lower_bound(hits, n, alpha)
        assert bounds[0] == 0
        for k in hits[1:].tolist():
            p = Fraction(float(bounds[k]))
            assert tail(k, n, p) <= Fraction(alpha)
            assert tail(k, n, p * (1 + Fraction(1, 10**8))) > Fraction(alpha)


@pytest.mark.parametrize("hits", [50_400, 90_000, 99_700, 99_999, 100_000])
def test_lower_bound_of_many_samples(hits):
    p, alpha = float(lower_bound(hits, 100_000, 0.001)), decimal.Decimal(0.001)
    assert long_tail(hits, 100_000, p) <= alpha
    assert long_tail(hits, 100_000, p * (1 + 1e-8)) > alpha


def test_upper_bound_mirrors_the_lower_one():
    hits = np.arange(31)
    upper = upper_bound(hits, 30, 0.01)
    for k in hits[:-1].tolist():
        p = Fraction(float(upper[k]))
        assert 1 - tail(k + 1, 30, p) <= Fraction(0.01)
        assert 1 - tail(k + 1, 30, p - Fraction(1, 10**7)) > Fraction(0.01)
    assert upper[-1] == 1


def test_hits_needed_is_the_least_number():
    for n in (1, 9, 50, 333):
        bounds = lower_bound(np.arange(n + 1), n, 0.01)
        for p in (1e-6, 0.3, 0.5, 0.77, 0.99, 1.0):
            reached = np.flatnonzero(bounds >= p)
            expected = reached[0] if len(reached) else n + 1
            assert hits_needed(n, p, 0.01) == expected


def test_mistakes_are_told():
    with pytest.raises(InputError, match="0 <= hits <= samples and samples >= 1"):
        lower_bound(5, 4, 0.1)
    with pytest.raises(InputError, match="alpha is 1.0; a failure probability lies in"):
        upper_bound(1, 4, 1.0)
