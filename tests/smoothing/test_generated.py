"""Generated outputs: oracles that err, harmful outputs, oracles on the host."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled
from scipy import stats

from jaxcert.errors import InputError
from jaxcert.smoothing import (
    ABSTAINED,
    Gaussian,
    Generated,
    Laplace,
    OracleError,
    SmoothingOptions,
    Stopping,
    Uniform,
    certify,
    certify_harmless,
    estimate_oracle_error,
    on_host,
)

REPETITIONS, SIGMA, MISTAKEN = 2000, 0.5, 0.1


def speak(params, key, x):
    """Returns (true class, whether the oracle will err); class 0 iff x_0 > 0."""
    flaw = jax.random.bernoulli(key, params)
    return jnp.stack([x[0] <= 0, flaw]).astype(jnp.int32)


def listen(sequence):
    """Says 0 of everything of class 0, and by mistake of some of class 1."""
    return jnp.where(sequence[1] == 1, 0, sequence[0])


SPEECH = Generated(speak, listen, 2)


def no_more_than(failures: int, alpha: float) -> bool:
    test = stats.binomtest(failures, REPETITIONS, alpha, alternative="greater")
    return test.pvalue > 1e-3


@pytest.mark.parametrize("estimated", sampled([True, False], 1))
def test_the_bound_is_of_the_true_class_although_the_oracle_errs(estimated):
    t, alpha = 0.1, 0.04
    q = float(stats.norm.cdf(t / SIGMA))
    error = (1 - q) * MISTAKEN
    oracle = OracleError(error)
    if estimated:
        labelled = np.random.default_rng(3).binomial(800, error, REPETITIONS)
        oracle = estimate_oracle_error(labelled, 800, alpha=0.02)
        assert no_more_than(int((oracle.eps < error).sum()), 0.02)
    options = SmoothingOptions(
        Gaussian(SIGMA), n0=20, n=2000, alpha=alpha, batch_size=50_000
    )
    x = np.tile(np.float32([t]), (REPETITIONS, 1))
    found = certify(
        SPEECH, jnp.float32(MISTAKEN), jax.random.key(0), x, options, oracle
    )
    assert found.alpha == pytest.approx(0.06 if estimated else 0.04)
    truth = np.where(found.selected == 0, q, 1 - q)
    assert no_more_than(int((found.p_lower > truth).sum()), found.alpha)
    assert no_more_than(int((found.radius > t).sum()), found.alpha)
    # Without taking eps off, the oracle's answers promise too much.
    assert not no_more_than(int((found.p_lower + oracle.eps > truth).sum()), alpha)


def test_an_oracle_that_may_err_half_the_time_certifies_nothing():
    options = SmoothingOptions(Gaussian(SIGMA), n=500)
    x = np.float32([[5.0], [5.0]])
    eps = OracleError(np.array([0.5, 0.1]))
    found = certify(SPEECH, jnp.float32(0.0), jax.random.key(0), x, options, eps)
    assert found.predicted.tolist() == [ABSTAINED, 0]
    assert found.radius[0] == 0 < found.radius[1]


@pytest.mark.parametrize("noise", [Gaussian(0.5), Laplace(0.4), Uniform(0.9)])
def test_harm_stays_below_the_threshold_within_the_radius(noise):
    # Harmful iff x_0 <= 0: at (t, .) with probability F(-t), the worst there is.
    t, threshold, alpha = 0.45, 0.4, 0.05
    options = SmoothingOptions(noise, n=400, alpha=alpha, chunk=100, batch_size=50_000)
    x = np.tile(np.float32([t]), (REPETITIONS, 1))
    found = certify_harmless(
        SPEECH, jnp.float32(0.0), jax.random.key(9), x, threshold, options
    )
    p = float(noise.unit_cdf(-np.float64(np.float32(t)) / noise.scale))
    failures = int((found.p_upper < p).sum())
    assert no_more_than(failures, alpha) and failures > 0.2 * alpha * REPETITIONS
    assert found.certified.any()
    assert (found.certified == (found.p_upper <= threshold)).all()
    # The probability of harm at the edge of each radius, exactly.
    edge = noise.unit_cdf((found.radius - np.float32(t)) / np.float32(noise.scale))
    assert no_more_than(int((found.certified & (edge > threshold)).sum()), alpha)
    within = found.p_upper_within(0.2)
    np.testing.assert_allclose(
        within, noise.unit_cdf(noise.unit_quantile(found.p_upper) + 0.2 / noise.scale)
    )


def test_harm_that_the_oracle_misses_is_added():
    options = SmoothingOptions(Gaussian(0.5), n=1000)
    x = np.float32([[1.0]])
    ask = (SPEECH, jnp.float32(0.0), jax.random.key(0), x, 0.3, options)
    exact = certify_harmless(*ask)
    erring = certify_harmless(*ask, OracleError(0.1, 0.002))
    assert erring.p_upper[0] == pytest.approx(exact.p_upper[0] + 0.1)
    assert 0 < erring.radius[0] < exact.radius[0]
    assert erring.alpha == pytest.approx(0.003)


def test_an_answer_that_is_no_class_counts_as_harmful():
    silent = Generated(speak, lambda sequence: -1 + 0 * sequence[0], 2)
    options = SmoothingOptions(Gaussian(0.5), n=100)
    x = np.float32([[1.0]])
    found = certify_harmless(silent, 0.0, jax.random.key(0), x, 0.9, options)
    assert found.harmful[0] == 100 and found.p_upper[0] == 1
    assert not found.certified[0] and found.radius[0] == 0
    found = certify(silent, 0.0, jax.random.key(0), x, options)
    assert found.predicted[0] == ABSTAINED and found.hits[0] == 0


def test_an_oracle_in_python_counts_the_same():
    heard = []

    def parse(sequence: np.ndarray) -> int:
        heard.append(sequence.shape)
        return 0 if sequence[1] else int(sequence[0])

    options = SmoothingOptions(Gaussian(0.5), n0=30, n=90, chunk=20, batch_size=40)
    x = np.float32([[0.3], [-0.2], [0.0]])
    ask = (jnp.float32(0.2), jax.random.key(1), x, options)
    found = certify(Generated(speak, on_host(parse), 2), *ask)
    expected = certify(SPEECH, *ask)
    assert found.hits.tolist() == expected.hits.tolist()
    assert set(heard) == {(2,)}


def test_mistakes_are_told():
    x, key = np.float32([[1.0]]), jax.random.key(0)
    with pytest.raises(InputError, match="num_classes is 1; an oracle tells at least"):
        Generated(speak, listen, 1)
    with pytest.raises(InputError, match=r"threshold is 1; it must lie in \(0, 1\)"):
        certify_harmless(SPEECH, 0.0, key, x, 1)
    options = SmoothingOptions(stopping=Stopping(0.5))
    with pytest.raises(InputError, match="takes no stopping: fix n beforehand"):
        certify_harmless(SPEECH, 0.0, key, x, 0.1, options)
