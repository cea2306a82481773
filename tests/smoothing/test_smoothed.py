"""Certificates of smoothed classifiers whose probabilities are known."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcert.errors import InputError
from jaxcert.smoothing import (
    ABSTAINED,
    Gaussian,
    Generated,
    Laplace,
    OracleError,
    Smoother,
    SmoothingOptions,
    Stopping,
    Uniform,
    certify,
    conclude,
    lower_bound,
    upper_bound,
)

REPETITIONS = 2000
WEIGHTS = jnp.array([[1.0, 0.0], [-1.0, 0.0]])


def halfspace(weights, x):
    """Class 0 where x_0 > 0: its probability at (t, .) is F(t), its radius t."""
    return weights @ x


def repeated(t: float) -> np.ndarray:
    return np.tile(np.float32([t, 0.3]), (REPETITIONS, 1))


def no_more_than(failures: int, alpha: float) -> bool:
    """Whether so many failures in 2,000 are compatible with a failure rate alpha."""
    test = stats.binomtest(failures, REPETITIONS, alpha, alternative="greater")
    return test.pvalue > 1e-3


@pytest.mark.parametrize(
    "noise", [Gaussian(0.5), Laplace(0.5), Uniform(0.5)], ids=lambda n: n.norm
)
@pytest.mark.parametrize("t", [0.02, 0.4])
def test_the_bound_holds_as_often_as_promised(noise, t):
    alpha = 0.05
    options = SmoothingOptions(
        noise, n0=20, n=300, alpha=alpha, chunk=100, batch_size=50_000
    )
    found = certify(halfspace, WEIGHTS, jax.random.key(11), repeated(t), options)
    p = float(noise.unit_cdf(np.float64(np.float32(t)) / noise.scale))
    truth = np.where(found.selected == 0, p, 1 - p)
    failures = int((found.p_lower > truth).sum())
    assert no_more_than(failures, alpha)
    # Clopper-Pearson is not far from alpha: a bound that never fails is too low.
    assert failures > 0.3 * alpha * REPETITIONS
    too_far = (found.predicted == 0) & (found.radius > np.float32(t))
    assert no_more_than(int((too_far | (found.predicted == 1)).sum()), alpha)
    assert (found.radius[found.predicted == ABSTAINED] == 0).all()
    assert found.alpha == alpha


def test_the_bound_holds_when_stopped_as_soon_as_it_fails():
    # The wanted radius is the true one: an input stops early iff its bound is false.
    noise, alpha, t = Gaussian(0.5), 0.05, 0.3
    options = SmoothingOptions(
        noise, n0=20, n=4000, alpha=alpha, batch_size=50_000,
        stopping=Stopping(float(np.float32(t)), 8),
    )  # fmt: skip
    found = certify(halfspace, WEIGHTS, jax.random.key(5), repeated(t), options)
    assert len(options.looks()) == 8
    assert no_more_than(int((found.radius > np.float32(t)).sum()), alpha)

    # A bound at alpha instead of alpha / 8 at every look would fail far too often.
    p = float(stats.norm.cdf(t / 0.5))
    rng = np.random.default_rng(0)
    steps = np.diff([0, *options.looks()])
    hits = rng.binomial(steps, p, (REPETITIONS, len(steps))).cumsum(axis=1)
    for level, holds in ((options.alpha_per_look(), True), (alpha, False)):
        fails = (lower_bound(hits, np.array(options.looks()), level) > p).any(axis=1)
        assert bool(no_more_than(int(fails.sum()), alpha)) is holds


def test_stopping_saves_samples_and_keeps_its_word():
    noise = Gaussian(0.5)
    options = SmoothingOptions(noise, n=20_000, stopping=Stopping(0.25, 8))
    x = np.float32([[1.2, 0.0], [0.4, 0.0], [0.2505, 0.0], [0.02, 0.0]])
    found = certify(halfspace, WEIGHTS, jax.random.key(1), x, options)
    assert (found.radius > 0.25).tolist() == [True, True, False, False]
    assert found.samples[0] <= 313 and found.samples[1] <= 2500
    assert found.samples[2] == 20_000 and found.samples[3] < 20_000
    assert (found.radius <= x[:, 0]).all()


def mlp(params, x):
    return params["v"] @ jnp.tanh(params["w"] @ x)


@functools.cache
def random_mlp():
    rng = np.random.default_rng(4)
    params = {"w": rng.normal(size=(16, 3)), "v": rng.normal(size=(3, 16))}
    params = jax.tree.map(jnp.float32, params)
    return params, rng.normal(size=(5, 3)).astype(np.float32)


def test_an_interrupted_count_goes_on_to_the_same_end():
    params, x = random_mlp()
    key = jax.random.key(7)
    options = SmoothingOptions(Gaussian(1.0), n0=37, n=1234, chunk=50, batch_size=100)
    whole = certify(mlp, params, key, x, options)

    smoother = Smoother(mlp, params, options)
    tally = smoother.select(key, x)
    for most in (1, 49, 7, 500, 333, 10_000):
        stored = jax.tree.map(np.array, dataclasses.asdict(tally))
        smoother = Smoother(mlp, params, dataclasses.replace(options, batch_size=250))
        drawn = smoother.advance(tally, key, x, most)
        assert (drawn.samples - tally.samples <= most).all()
        assert (drawn.counts.sum(axis=1) == drawn.samples).all()
        np.testing.assert_array_equal(tally.counts, stored["counts"])
        tally = drawn
    resumed = conclude(tally, options)
    for field in dataclasses.fields(whole):
        np.testing.assert_array_equal(
            getattr(resumed, field.name), getattr(whole, field.name)
        )


@pytest.mark.campaign
def test_no_point_within_a_radius_loses_its_class():
    params, x = random_mlp()
    sharp = {"w": 3 * params["w"], "v": params["v"]}
    options = SmoothingOptions(Gaussian(0.5), n=4000, batch_size=100_000)
    found = certify(mlp, sharp, jax.random.key(1), x, options)
    assert (found.radius > 0.05).sum() >= 3
    rng = np.random.default_rng(2)
    for i in np.flatnonzero(found.radius):
        # The worst of 400 directions, by few samples; then judged by fresh ones.
        away = rng.normal(size=(400, 3))
        length = 0.999 * found.radius[i]
        away *= length / np.linalg.norm(away, axis=1, keepdims=True)
        few = certify(mlp, sharp, jax.random.key(3), x[i] + away, options)
        share = np.where(few.selected == found.selected[i], few.hits, 4000 - few.hits)
        worst = x[i] + away[share.argmin()]
        again = certify(mlp, sharp, jax.random.key(4), worst[None], options)
        assert again.selected[0] == found.selected[i] or again.predicted[0] < 0
        hits = again.hits[0] if again.selected[0] == found.selected[i] else 2000
        least = options.noise.least(found.p_lower[i], length)
        assert upper_bound(hits, 4000, 1e-4) >= least >= 0.5


def test_samples_are_fresh_and_of_each_input_alone():
    params, x = random_mlp()
    same = np.repeat(x[:1], 6, axis=0)
    options = SmoothingOptions(Gaussian(1.0), n0=100, n=100, chunk=10, batch_size=30)
    smoother = Smoother(mlp, params, options)
    tallies = [smoother.select(jax.random.key(2), same)]
    for _ in range(10):
        tallies.append(smoother.advance(tallies[-1], jax.random.key(2), same, 10))
    slices = [b.counts - a.counts for a, b in zip(tallies, tallies[1:], strict=False)]
    # Ten slices of six equal inputs: their counts would agree if samples came back.
    assert len({tuple(s.ravel()) for s in slices}) == 10
    assert len({tuple(row) for row in tallies[-1].counts}) > 3
    assert (tallies[0].selection != tallies[-1].counts).any()
    # An input's own key decides, not its place in the batch.
    keys = jax.random.split(jax.random.key(3), 6)
    forward = certify(mlp, params, keys, same, options)
    backward = certify(mlp, params, keys[::-1], same[::-1], options)
    np.testing.assert_array_equal(forward.hits, backward.hits[::-1])


def test_a_network_that_answers_nan_has_no_class():
    def broken(params, x):
        return jnp.where(x[0] > 0, jnp.array([params, 0.0]), jnp.nan)

    options = SmoothingOptions(Gaussian(0.5), n=400)
    x = np.float32([[0.0], [1.5]])
    found = certify(broken, jnp.float32(1.0), jax.random.key(0), x, options)
    assert found.predicted.tolist() == [ABSTAINED, 0]
    assert 150 < found.hits[0] < 250 and found.hits[1] < 400


def test_a_data_set_shares_alpha():
    options = SmoothingOptions(alpha=0.001).shared_by(500)
    assert options.alpha == pytest.approx(2e-6)


def test_keeps_asks_for_the_label_and_more_than_the_radius():
    x = np.float32([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.0]])
    options = SmoothingOptions(Gaussian(0.5), n=2000)
    found = certify(halfspace, WEIGHTS, jax.random.key(0), x, options)
    assert found.keeps([0, 0, 0], 0.0).tolist() == [True, False, False]
    assert found.keeps([0, 1, 1], 0.3).tolist() == [True, True, False]
    assert not found.keeps([0, 1, 1], float(found.radius[0]))[0]


def ask(**changes):
    given = {"model": halfspace, "params": WEIGHTS, "key": jax.random.key(0)}
    given |= {"x": np.zeros((2, 2)), "options": SmoothingOptions(n=10)} | changes
    return certify(**given)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: SmoothingOptions(noise=0.5), "noise is 0.5; give a jaxcert.smoothing"),
        (lambda: SmoothingOptions(n=0), r"n is 0; it must be a whole number in 1 \.\."),
        (lambda: SmoothingOptions(n0=1.5), "n0 is 1.5; it must be a whole number"),
        (lambda: SmoothingOptions(n=2**31), "n is 2147483648; it must be a whole"),
        (lambda: SmoothingOptions(alpha=0.0), "alpha is 0.0; a failure probability"),
        (lambda: Stopping(-1.0), "the wanted radius is -1.0; it must be >= 0"),
        (lambda: Stopping(1.0, 0), r"looks is 0; it must lie in 1 \.\. 30"),
        (lambda: OracleError(1.5), "oracle error is 1.5; give a probability"),
        (lambda: OracleError(0.1, 1.0), "oracle error's alpha is 1.0"),
        (lambda: ask(key=0), "make the key with jax.random.key"),
        (lambda: ask(key=jax.random.PRNGKey(0)), "make the key with jax.random.key"),
        (lambda: ask(key=jax.random.key(0, impl="rbg")), "impl='threefry2x32'"),
        (
            lambda: ask(key=jax.random.split(jax.random.key(0), 3)),
            r"keys of shape \(3,\) for 2 inputs: give one key, or one per input",
        ),
        (lambda: ask(x=np.zeros((0, 2))), "there is no input to certify"),
        (lambda: ask(x=0.5), "there is no input to certify: give x a leading axis"),
        (lambda: ask(x=[[0.0, 0.0], [0.0, np.nan]]), "input 1 holds NaN or infinity"),
        (
            lambda: ask(oracle=OracleError(np.zeros(3))),
            "there are 3 oracle errors for 2 inputs: give one, or one per input",
        ),
        (lambda: ask(x=np.zeros(2)), r"does not take one input of shape \(\): "),
        (lambda: ask(model=[halfspace]), "the model cannot be hashed"),
        (
            lambda: ask(model=Generated(lambda p, k, x: x, lambda s: s, 2)),
            "the oracle returns .*; it must be one integer",
        ),
        (lambda: ask(model=lambda w, x: x.sum()), "needs a vector of at least 2 logit"),
    ],
)
def test_mistakes_are_told(mistake, message):
    with pytest.raises(InputError, match=message):
        mistake()


def test_an_unfinished_count_certifies_nothing():
    options = SmoothingOptions(Gaussian(0.5), n=1000)
    smoother = Smoother(halfspace, WEIGHTS, options)
    x = np.float32([[1.0, 0.0]])
    tally = smoother.advance(
        smoother.select(jax.random.key(0), x), jax.random.key(0), x, 500
    )
    with pytest.raises(InputError, match="500 samples were drawn, but 1000 were fixed"):
        conclude(tally, options)


@pytest.mark.parametrize(
    ("alpha", "eps", "looks", "least"),
    [(0.001, 0.0, 1, 10), (1e-6, 0.0, 1, 20), (0.001, 0.3, 1, 31), (0.001, 0.0, 4, 12)],
)
def test_too_few_samples_say_how_many_are_the_least(alpha, eps, looks, least):
    x, key = np.float32([[3.0, 0.0]]), jax.random.key(0)
    oracle = OracleError(eps)

    def found(n):
        stopping = None if looks == 1 else Stopping(1.0, looks)
        options = SmoothingOptions(Gaussian(0.1), n=n, alpha=alpha, stopping=stopping)
        return certify(halfspace, WEIGHTS, key, x, options, oracle)

    with pytest.raises(InputError, match=f"n is {least - 1}; .* from n = {least} on"):
        found(least - 1)
    # With that many, all of which agree, the class is certified.
    assert found(least).predicted[0] == 0


def test_an_oracle_that_errs_half_the_time_certifies_nothing():
    with pytest.raises(InputError, match="no number of samples certifies a class"):
        ask(oracle=OracleError(0.5))
