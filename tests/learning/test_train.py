"""Training, evaluation and the training script."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled

from jaxcert.bounds.crown import crown
from jaxcert.bounds.ibp import ibp
from jaxcert.box import Box
from jaxcert.errors import InputError
from jaxcert.learning.architecture import Architecture
from jaxcert.learning.data import load_dataset
from jaxcert.learning.evaluate import (
    EvaluationOptions,
    certified_margins,
    evaluate,
    margins,
    pgd,
)
from jaxcert.learning.train import METHODS, TrainConfig, train

ROOT = Path(__file__).resolve().parents[1]
MLP = Architecture("mlp", (8, 8, 1), hidden=(32, 32))
CNN = Architecture(
    "cnn", (8, 8, 1), hidden=(8,), channels=(4,), batch_norm=True, pool="avg"
)
EPSILON = 0.05
CONFIG = TrainConfig(
    epsilon=EPSILON,
    epochs=20,
    batch_size=64,
    learning_rate=3e-3,
    warmup_epochs=1,
    ramp_epochs=10,
)


def fails(message: str):
    return pytest.raises(InputError, match=message)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", "train"), load_dataset("digits", "test")


@pytest.fixture(scope="module")
def trained(digits):
    """method -> (network, history) of the MLP, trained once."""
    return functools.cache(
        lambda method: train(MLP, digits[0], dataclasses.replace(CONFIG, method=method))
    )


@pytest.fixture(scope="module")
def measured(digits, trained):
    """method -> its evaluation."""
    return functools.cache(
        lambda method: evaluate(trained(method)[0], digits[1], EPSILON)
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(trained, measured, method):
    _, history = trained(method)
    assert [record.epoch for record in history] == list(range(1, 21))
    assert history[-1].accuracy > 0.9 > history[0].accuracy
    assert history[-1].epsilon == pytest.approx(0 if method == "standard" else EPSILON)
    assert measured(method).clean > 0.85
    assert measured(method).count == 360


@pytest.mark.parametrize("method", ["ibp", "crown_ibp"])
def test_certified_training_certifies_more(measured, method):
    assert measured(method).certified > measured("standard").certified + 0.15


def test_adversarial_training_withstands_more(measured):
    assert measured("pgd").attacked > measured("standard").attacked + 0.05


def test_training_with_noise_withstands_noise(digits, trained):
    noisy, _ = train(MLP, digits[0], dataclasses.replace(CONFIG, noise=0.4))
    drawn = np.random.default_rng(0).normal(size=digits[1].images.shape)
    images = digits[1].images + np.float32(0.4) * drawn.astype(np.float32)

    def accuracy(network):
        logits = jax.vmap(network.apply, (None, 0))(network.params, images)
        return np.mean(np.argmax(logits, axis=1) == digits[1].labels)

    assert accuracy(noisy) > accuracy(trained("standard")[0]) + 0.05


def test_certified_is_at_most_attacked_at_most_clean(measured):
    for result in map(measured, METHODS):
        assert 0 <= result.certified <= result.attacked <= result.clean <= 1


def test_tighter_bounds_certify_no_less(digits, trained):
    network, _ = trained("ibp")
    certified = [
        evaluate(network, digits[1], EPSILON, EvaluationOptions(bound=bound)).certified
        for bound in ("ibp", "crown_ibp", "crown")
    ]
    assert certified == sorted(certified) and certified[0] > 0


def test_accuracies_fall_with_the_radius(digits, trained):
    network, _ = trained("ibp")
    results = [evaluate(network, digits[1], e) for e in (0.0, 0.02, 0.1)]
    assert results[0].attacked == results[0].clean
    for wide, narrow in zip(results[1:], results[:-1], strict=True):
        assert wide.certified <= narrow.certified
        assert wide.clean == narrow.clean


def test_batches_do_not_change_an_evaluation(digits, trained):
    network, _ = trained("ibp")
    some = dataclasses.replace(
        digits[1], images=digits[1].images[:50], labels=digits[1].labels[:50]
    )
    told: list[tuple[int, int]] = []
    options = [EvaluationOptions(batch_size=size) for size in (7, 50, 400)]
    results = [
        evaluate(network, some, EPSILON, option, lambda *now: told.append(now))
        for option in options
    ]
    assert len({(r.clean, r.certified, r.count) for r in results}) == 1
    assert told == [(min(done, 50), 50) for done in (*range(7, 57, 7), 50, 50)]


@pytest.mark.parametrize("method", sampled(["standard", "crown_ibp"]))
def test_convolution_and_batch_norm(digits, method):
    config = dataclasses.replace(
        CONFIG, method=method, epochs=4, ramp_epochs=2, learning_rate=1e-2
    )
    network, history = train(CNN, digits[0], config)
    assert history[-1].accuracy > history[0].accuracy
    moved = np.asarray(network.params["norms"][0]["mean"])
    assert np.isfinite(moved).all() and np.abs(moved).max() > 0
    assert evaluate(network, digits[1], 0.0).clean > 0.6


def test_equal_seeds_give_equal_networks(digits):
    config = dataclasses.replace(CONFIG, epochs=2)
    first, second, other = (
        train(MLP, digits[0], dataclasses.replace(config, seed=seed))[0]
        for seed in (0, 0, 1)
    )
    assert first.content_hash == second.content_hash != other.content_hash


def test_progress_is_called_after_every_epoch(digits):
    seen = []
    _, history = train(
        MLP, digits[0], dataclasses.replace(CONFIG, epochs=2), seen.append
    )
    assert tuple(seen) == history


def test_pgd_points_lie_in_the_ball_and_lower_the_margin(digits, trained):
    network, _ = trained("standard")
    x, labels = jnp.asarray(digits[1].images[:64]), jnp.asarray(digits[1].labels[:64])
    key = jax.random.key(0)
    z = pgd(network.apply, network.params, x, labels, 0.1, key, 10)
    assert float(z.min()) >= 0 and float(z.max()) <= 1
    assert float(jnp.abs(z - x).max()) <= 0.1 + 1e-7
    before, after = (
        margins(jax.vmap(network.apply, (None, 0))(network.params, at), labels)
        for at in (x, z)
    )
    assert float(jnp.mean(after < before)) > 0.95


def test_margins():
    logits = jnp.array([[3.0, 1.0, 2.5], [0.0, -1.0, 4.0]])
    assert margins(logits, jnp.array([0, 1])).tolist() == [0.5, -5.0]
    assert np.isnan(margins(jnp.array([1.0, jnp.nan]), jnp.array(0)))


@pytest.mark.parametrize("bound", [ibp, crown])
def test_certified_margins_bound_the_margins_of_samples(digits, trained, bound):
    network, _ = trained("ibp")
    x, label = jnp.asarray(digits[1].images[0]), int(digits[1].labels[0])
    box = Box.ball(x, 0.05, Box.unit(x.shape))
    lower = jax.jit(
        lambda params, box: certified_margins(
            bound(network.apply), params, box, label, 10
        )
    )
    rows = lower(network.params, box)
    assert rows.shape == (10,) and rows[label] == 0
    share = np.random.default_rng(0).random((200, *x.shape), np.float32)
    points = box.lo + share * box.edges()
    y = jax.vmap(network.apply, (None, 0))(network.params, points)
    assert bool(jnp.all(y[:, label, None] - y >= rows - 1e-4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "trades"}, "^unknown training method 'trades'; known: standard, "),
        ({"epochs": 0}, "^epochs must be at least 1, got 0$"),
        ({"batch_size": -1}, "^batch_size must be at least 1, got -1$"),
        ({"pgd_steps": 0}, "^pgd_steps must be at least 1, got 0$"),
        ({"learning_rate": 0.0}, "^learning_rate must be above 0, got 0.0$"),
        ({"learning_rate": float("nan")}, "^learning_rate must be above 0, got nan$"),
        ({"epsilon": -0.1}, "^epsilon must be at least 0, got -0.1$"),
        ({"epsilon": float("inf")}, "^epsilon must be at least 0, got inf$"),
        ({"noise": -0.1}, "^noise must be at least 0, got -0.1$"),
        (
            {"noise": 0.1, "method": "pgd"},
            "^noise belongs to the method standard, not to pgd: set one of the two$",
        ),
        ({"ramp_epochs": -1}, "^ramp_epochs must be at least 0, got -1$"),
        ({"kappa_end": 2.0}, r"^kappa_end must lie in \[0, 1\], got 2.0$"),
    ],
)
def test_malformed_configurations(changes, message):
    with fails(message):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bound": "lp"}, "^unknown bound 'lp'; known: ibp, crown_ibp, crown$"),
        ({"restarts": 0}, "^restarts must be at least 1, got 0$"),
        ({"slack": -1.0}, "^slack must be at least 0, got -1.0$"),
    ],
)
def test_malformed_options(changes, message):
    with fails(message):
        EvaluationOptions(**changes)


def test_data_that_do_not_fit(digits, trained):
    network, _ = trained("standard")
    other = Architecture("mlp", (28, 28, 1))
    with fails(r"^digits has images of shape \(8, 8, 1\), the architecture takes \(28"):
        train(other, digits[0], CONFIG)
    few = dataclasses.replace(MLP, num_classes=5)
    with fails("^digits has the label 9, the architecture 5 classes from 0 on$"):
        train(few, digits[0], CONFIG)
    with fails("^batch_size 2000 exceeds the 1437 images of digits train$"):
        train(MLP, digits[0], dataclasses.replace(CONFIG, batch_size=2000))
    with fails("^epsilon must be at least 0, got -1$"):
        evaluate(network, digits[1], -1)
    small = dataclasses.replace(digits[1], images=digits[1].images[:, :7])
    with fails(r"^digits has images of shape \(7, 8, 1\), .* takes \(8, 8, 1\)$"):
        evaluate(network, small, 0.1)
    wrong = dataclasses.replace(digits[1], labels=digits[1].labels + 1)
    with fails("^digits has the label 10, digits_mlp_standard only 10 outputs$"):
        evaluate(network, wrong, 0.1)
    none = dataclasses.replace(
        digits[1], images=small.images[:0], labels=wrong.labels[:0]
    )
    with fails("^digits test has no images to evaluate$"):
        evaluate(network, none, 0.1)


def test_divergence_is_an_error(digits):
    config = dataclasses.replace(CONFIG, learning_rate=1e30, epochs=3)
    with fails(
        "^training diverged in epoch .: the loss is .*; lower the learning rate"
    ):
        train(MLP, digits[0], config)
