"""Plans of samples: published figures, and sums over every possible count."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from jaxcert.errors import InputError
from jaxcert.smoothing import (
    Gaussian,
    Laplace,
    SmoothingOptions,
    Uniform,
    expected_radius,
    largest_radius,
    lower_bound,
    mean_radius,
    samples_needed,
    scaling,
    success_probability,
)

OPTIONS = SmoothingOptions(Gaussian(1.0), n=1000, alpha=0.001)


def drawn(n: int, **changes) -> SmoothingOptions:
    return dataclasses.replace(OPTIONS, n=n, **changes)


def test_the_scaling_curve():
    ratios = scaling((100, 1_000, 10_000, 100_000), OPTIONS)
    np.testing.assert_allclose(ratios, [0.486, 0.815, 0.939, 0.980], rtol=0.02)
    # For many samples about 1 - 2.02 z / sqrt(n), z the normal quantile of 1 - alpha.
    loss = 2.02 * stats.norm.isf(0.001) / np.sqrt(100_000)
    assert 1 - ratios[-1] == pytest.approx(loss, rel=0.02)


def test_the_largest_radii():
    found = [largest_radius(drawn(n)) for n in (100, 1_000, 100_000)]
    np.testing.assert_allclose(found, [1.50, 2.46, 3.81], rtol=0.02)


@pytest.mark.parametrize("noise", [Gaussian(0.5), Laplace(2.0), Uniform(1.0)])
def test_expected_radii_are_sums_over_all_counts(noise):
    options = drawn(200, noise=noise, alpha=0.01)
    hits = np.arange(201)
    radii = noise.radius(np.maximum(lower_bound(hits, 200, 0.01) - 0.05, 0))
    for agreement in (0.3, 0.7, 0.95, 1.0):
        expected = stats.binom.pmf(hits, 200, agreement) @ radii
        assert expected_radius(agreement, options, 0.05) == pytest.approx(expected)
    grid = np.linspace(0.5, 1, 2001)
    means = [expected_radius(p, options) for p in grid]
    assert mean_radius(options) == pytest.approx(np.trapezoid(means, grid) * 2, 1e-4)


def test_the_samples_needed_are_the_samples_needed():
    for radius, agreement, eps in ((0.5, 0.8, 0.0), (1.0, 0.9, 0.02), (2.0, 0.9999, 0)):
        n = samples_needed(radius, agreement, OPTIONS, eps, power=0.8)
        for samples, enough in ((n, True), (n - 1, False)):
            hits = np.arange(samples + 1)
            p = lower_bound(hits, samples, 0.001) - eps
            weight = stats.binom.pmf(hits, samples, agreement)
            power = weight[OPTIONS.noise.radius(np.maximum(p, 0)) >= radius].sum()
            assert bool(power >= 0.8) is enough
            assert success_probability(
                radius, agreement, drawn(samples), eps
            ) == pytest.approx(power, abs=1e-9)


def test_mistakes_are_told():
    with pytest.raises(InputError, match="does not carry a radius of 1, whatever the "):
        samples_needed(1.0, 0.84, OPTIONS)
    with pytest.raises(InputError, match="it would have to exceed 0.8513"):
        samples_needed(1.0, 0.85, OPTIONS, eps=0.01)
    with pytest.raises(InputError, match="takes more than 1073741824 samples"):
        samples_needed(0.0, 0.50001, OPTIONS)
    with pytest.raises(InputError, match=r"power is 1; it must lie in \(0, 1\)"):
        samples_needed(0.1, 0.9, OPTIONS, power=1)
    with pytest.raises(InputError, match=r"the agreement is 1.2; it must lie in"):
        expected_radius(1.2, OPTIONS)
