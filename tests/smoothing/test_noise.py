"""The theorem of noise.py against worst-case classifiers, and its rounding."""

from __future__ import annotations

import decimal
import math

import jax
import numpy as np
import pytest
from scipy import stats

from jaxcert.errors import InputError
from jaxcert.smoothing import Gaussian, Laplace, Noise, Uniform

NOISES = (Gaussian(0.7), Laplace(0.5), Uniform(1.3))
each_noise = pytest.mark.parametrize("noise", NOISES, ids=lambda n: type(n).__name__)


def worst(p: float, here: np.ndarray, there: np.ndarray) -> float:
    """Returns the least mass `there` of a set that has mass p `here`.

    Neyman and Pearson: cells enter in the order of their likelihood ratio.
    """
    ratio = np.divide(there, here, out=np.full_like(here, np.inf), where=here > 0)
    order = np.argsort(ratio, kind="stable")
    taken = np.clip(p - (np.cumsum(here[order]) - here[order]), 0, here[order])
    share = np.divide(taken, here[order], out=np.zeros_like(taken), where=taken > 0)
    return float(share @ there[order])


def cells(noise: Noise, shift: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the masses of a grid of cells, without and with a shift."""
    edges = np.linspace(-9, 9, count + 1)
    scale = float(np.float32(noise.scale))
    edges[0], edges[-1] = -np.inf, np.inf
    return tuple(
        np.diff(noise.unit_cdf((edges - moved) / scale)) for moved in (0.0, shift)
    )


@each_noise
def test_bounds_equal_the_worst_classifier_in_one_dimension(noise):
    for shift in (0.05, 0.4, 1.1):
        here, there = cells(noise, shift, 20_000)
        for p in (0.1, 0.5, 0.75, 0.99):
            least = float(noise.least(p, shift))
            # A grid has fewer sets than the line, so it cannot undercut a true bound.
            assert least <= worst(p, here, there) + 1e-12 <= least + 2e-3
            greatest = float(noise.greatest(p, shift))
            highest = 1 - worst(1 - p, here, there)
            assert greatest >= highest - 1e-12 >= greatest - 2e-3


@each_noise
def test_the_radius_is_where_the_worst_classifier_falls_to_one_half(noise):
    for p in (0.6, 0.9, 0.99):
        radius = float(noise.radius(p))
        assert worst(p, *cells(noise, 0.99 * radius, 40_000)) > 0.5
        assert worst(p, *cells(noise, 1.02 * radius, 40_000)) < 0.5


@each_noise
def test_bounds_hold_in_two_dimensions(noise):
    for shift in ((0.3, 0.3), (0.7, 0.2), (0.0, 0.6)):
        (a, c), (b, d) = (cells(noise, s, 300) for s in shift)
        here, there = np.outer(a, b).ravel(), np.outer(c, d).ravel()
        length = math.hypot(*shift) if noise.norm == "l2" else sum(shift)
        for p in (0.55, 0.8, 0.97):
            assert worst(p, here, there) >= float(noise.least(p, length)) - 1e-12


def exact_cdf(noise: Noise, t: decimal.Decimal) -> decimal.Decimal:
    """Returns the distribution function at t >= 0, at scale 1, in 50 digits."""
    if isinstance(noise, Laplace):
        return 1 - (-t).exp() / 2
    if isinstance(noise, Uniform):
        return (t + 1) / 2
    # Phi(t) = 1/2 + phi(t) (t + t^3/3 + t^5/15 + ...)
    term = total = t
    for i in range(1, 400):
        term *= t * t / (2 * i + 1)
        total += term
    pi = decimal.Decimal("3.14159265358979323846264338327950288419716939937510582")
    return decimal.Decimal("0.5") + (-t * t / 2).exp() * total / (2 * pi).sqrt()


@each_noise
def test_radii_are_rounded_down(noise):
    ps = [0.5 + 1e-12, 0.500001, 0.6, 0.9, 0.9999, 1 - 1e-9]
    with decimal.localcontext(decimal.Context(prec=50)):
        scale = decimal.Decimal(float(np.float32(noise.scale)))
        for p, radius in zip(ps, noise.radius(ps).tolist(), strict=True):
            below = exact_cdf(noise, decimal.Decimal(radius) / scale)
            above = exact_cdf(noise, decimal.Decimal(radius * (1 + 1e-11)) / scale)
            assert below <= decimal.Decimal(p) < above
    assert (noise.radius([0.0, 0.3, 0.5]) == 0).all()
    assert (noise.radius([0.6, 1 - 1e-9]) > 0).all()


@each_noise
def test_distance_leads_from_one_probability_to_the_other(noise):
    low, high = np.array([0.01, 0.2, 0.3]), np.array([0.05, 0.9, 0.3])
    way = noise.distance(low, high)
    assert way[2] == 0
    reached = noise.greatest(low, way)
    assert (reached >= low).all()
    np.testing.assert_allclose(reached[:2], high[:2], rtol=1e-9)
    np.testing.assert_allclose(noise.least(high, way)[:2], low[:2], rtol=1e-9)


@each_noise
def test_samples_have_the_distribution_that_radii_assume(noise):
    drawn = np.asarray(noise.unit(jax.random.key(3), (40_000,)), np.float64)
    assert stats.kstest(drawn, noise.unit_cdf).pvalue > 1e-3
    assert np.abs(drawn).mean() == pytest.approx(noise.unit_magnitude, rel=0.02)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), "0.5"])
def test_a_scale_that_is_none_is_told(scale):
    with pytest.raises(InputError, match="scale of Laplace noise is .* must be a num"):
        Laplace(scale)
