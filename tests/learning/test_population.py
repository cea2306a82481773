"""Populations: the same networks as one by one, and continued after a kill."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from cases import sampled

from jaxcert.errors import InputError
from jaxcert.learning.architecture import Architecture
from jaxcert.learning.data import load_dataset
from jaxcert.learning.evaluate import EvaluationOptions, evaluate, evaluate_population
from jaxcert.learning.models import from_params
from jaxcert.learning.population import train_population
from jaxcert.learning.train import TrainConfig, train

MLP = Architecture("mlp", (8, 8, 1), hidden=(16,))
CNN = Architecture("cnn", (8, 8, 1), channels=(4,), batch_norm=True)
BASE = TrainConfig(method="ibp", epochs=3, batch_size=128, ramp_epochs=1)
CONFIGS = [
    dataclasses.replace(BASE, learning_rate=1e-3, epsilon=0.02),
    dataclasses.replace(BASE, learning_rate=3e-3, epsilon=0.05, seed=1),
    dataclasses.replace(BASE, learning_rate=3e-3, kappa_end=0.2, warmup_epochs=1),
]


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", "train"), load_dataset("digits", "test")


@pytest.fixture(scope="module")
def members(digits):
    return train_population(MLP, digits[0], CONFIGS)


def test_members_are_the_networks_of_train(digits, members):
    for config, member in zip(CONFIGS, members, strict=True):
        network, history = train(MLP, digits[0], config)
        assert member.network.name == network.name
        for ours, theirs in zip(member.history, history, strict=True):
            assert ours.epsilon == theirs.epsilon and ours.epoch == theirs.epoch
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)
            assert ours.accuracy == pytest.approx(theirs.accuracy, abs=3 / 1437)
        leaves = zip(*map(jax.tree.leaves, (member.network.params, network.params)),
                     strict=True)  # fmt: skip
        assert max(np.abs(a - b).max() for a, b in leaves) < 2e-3
    hashes = {member.network.content_hash for member in members}
    assert len(hashes) == len(CONFIGS)


@pytest.mark.parametrize("bound", sampled(["crown_ibp", "ibp"]))
def test_a_population_is_evaluated_as_one_by_one(digits, members, bound):
    options = EvaluationOptions(bound=bound, batch_size=100)
    networks, radii = [member.network for member in members], [0.0, 0.02, 0.05]
    together = evaluate_population(networks, digits[1], radii, options)
    for network, radius, found in zip(networks, radii, together, strict=True):
        alone = evaluate(network, digits[1], radius, options)
        assert (found.count, found.epsilon) == (alone.count, alone.epsilon)
        assert (found.clean, found.certified) == (alone.clean, alone.certified)
        assert found.attacked == pytest.approx(alone.attacked, abs=2 / 360)


@pytest.mark.campaign
def test_convolutions_train_as_one_by_one(digits):
    configs = [dataclasses.replace(c, epochs=2, method="standard") for c in CONFIGS[:2]]
    for config, member in zip(
        configs, train_population(CNN, digits[0], configs), strict=True
    ):
        network, _ = train(CNN, digits[0], config)
        leaves = zip(*map(jax.tree.leaves, (member.network.params, network.params)),
                     strict=True)  # fmt: skip
        assert max(np.abs(a - b).max() for a, b in leaves) < 1e-4


def test_training_goes_on_where_it_was_killed(digits, members, tmp_path):
    kept = tmp_path / "state.npz"
    seen = []

    def kill(records):
        seen.append(records[0].epoch)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_population(MLP, digits[0], CONFIGS, kill, kept)
    again = train_population(
        MLP, digits[0], CONFIGS, lambda records: seen.append(records[0].epoch), kept
    )
    assert seen == [1, 2, 3]
    for ours, theirs in zip(again, members, strict=True):
        assert ours.network.content_hash == theirs.network.content_hash
        assert [r.loss for r in ours.history] == [r.loss for r in theirs.history]
    # Everything is known now: not even a step is made.
    train_population(MLP, digits[0], CONFIGS, seen.append, kept)
    assert len(seen) == 3
    with pytest.raises(InputError, match="is the state of another population: remove"):
        train_population(MLP, digits[0], CONFIGS[:2], None, kept)
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(InputError, match="state.npz is damaged .* Remove it"):
        train_population(MLP, digits[0], CONFIGS, None, kept)


def test_a_member_that_diverges_stops_nobody(digits, members):
    broken = dataclasses.replace(CONFIGS[0], learning_rate=1e30)
    sound, lost = train_population(MLP, digits[0], [CONFIGS[0], broken])
    assert lost.network is None and not np.isfinite(lost.history[-1].loss)
    assert [r.loss for r in sound.history] == pytest.approx(
        [r.loss for r in members[0].history], rel=1e-3
    )


def test_mistakes(digits, members):
    other = dataclasses.replace(BASE, epochs=4)
    with pytest.raises(InputError, match="^a population has one method, batch_size, p"):
        train_population(MLP, digits[0], [BASE, other])
    with pytest.raises(InputError, match="^batch_size 2000 exceeds the 1437 images of"):
        large = dataclasses.replace(BASE, batch_size=2000)
        train_population(MLP, digits[0], [large])
    wide = Architecture("mlp", (8, 8, 1), hidden=())
    params = {"head": {"layers": {0: {"kernel": np.zeros((64, 10)),
                                      "bias": np.zeros(10)}}}}  # fmt: skip
    networks = [members[0].network, from_params(params, wide, "linear")]
    with pytest.raises(InputError, match="^a population is of one architecture; eval"):
        evaluate_population(networks, digits[1], [0.0, 0.0])
