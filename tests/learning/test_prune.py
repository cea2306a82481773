"""Pruning: scores are what they say, masks prune, training keeps them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert.errors import InputError
from jaxcert.learning.architecture import Architecture
from jaxcert.learning.models import FlaxApply
from jaxcert.learning.prune import (
    PruneConfig,
    Task,
    concentration,
    fresh_params,
    full_masks,
    lowest_pruned,
    pre_activations,
    prune_network,
    stable_scores,
    train_regression,
    with_masks,
)
from jaxcert.semantic.changes import FAMILIES, SampledChange

ARCHITECTURE = Architecture(
    "cnn", (9, 9, 1), num_classes=2, hidden=(6,), channels=(4, 5), kernel=3,
    strides=(2, 1), padding="SAME",
)  # fmt: skip
CHANGE = SampledChange(FAMILIES["both"], 0.2)


@pytest.fixture(scope="module")
def params():
    made = fresh_params(ARCHITECTURE, 0)
    key = jax.random.key(1)
    return jax.tree.map(lambda v: v + 0.1 * jax.random.normal(key, v.shape), made)


def forward(params, x: np.ndarray) -> list[np.ndarray]:
    """Returns all pre-activations of the CNN above, and the outputs, in plain numpy."""
    found = []
    for index, stride in ((0, 2), (1, 1)):
        layer = params["convolutions"][index]
        kernel, bias = (np.asarray(layer[k], float) for k in ("kernel", "bias"))
        side = -(-x.shape[0] // stride)
        pad = max((side - 1) * stride + 3 - x.shape[0], 0)
        x = np.pad(x, ((pad // 2, pad - pad // 2),) * 2 + ((0, 0),))
        z = np.array([[
            np.tensordot(x[i * stride : i * stride + 3, j * stride : j * stride + 3],
                         kernel, 3) + bias
            for j in range(side)] for i in range(side)])  # fmt: skip
        found.append(z)
        x = np.maximum(z, 0)
    x = x.reshape(-1)
    for index in (0, 1):
        layer = params["head"]["layers"][index]
        z = x @ np.asarray(layer["kernel"], float) + np.asarray(layer["bias"], float)
        found.append(z)
        x = np.maximum(z, 0)
    return found


def test_pre_activations_and_scores_are_those_of_the_formula(params):
    random = np.random.default_rng(0)
    x = random.uniform(size=(3, 9, 9, 1)).astype(np.float32)
    steps = np.array([[-1, 1], [0.5, 0], [1, 1]], np.float32)
    plain = [forward(params, v.astype(float)) for v in x]
    for z, wanted in zip(
        pre_activations(ARCHITECTURE, params, jnp.asarray(x[0])), plain[0], strict=False
    ):
        np.testing.assert_allclose(z, wanted, atol=1e-5)
    np.testing.assert_allclose(
        FlaxApply(ARCHITECTURE)(params, x[0]), plain[0][-1], atol=1e-5
    )
    scores = stable_scores(ARCHITECTURE, params, x, CHANGE, steps)
    # The numbers of the formula, for one neuron after the other, in numpy.
    for depth in range(3):
        moved = []
        for image in x.astype(float):
            b, c = 0.2 * steps[:, 0], 0.2 * steps[:, 1]
            others = [np.clip((1 + ck) * image + bk, 0, 1)
                      for bk, ck in zip(b, c, strict=True)]  # fmt: skip
            still = forward(params, image)[depth]
            moved.append(np.max([np.abs(forward(params, o)[depth] - still)
                                 for o in others], axis=0))  # fmt: skip
        z = np.stack([p[depth] for p in plain])
        d = np.stack(moved)
        flat = (-1, z.shape[-1])
        active = np.maximum(z, 0).reshape(flat).mean(axis=0)
        smooth = (np.abs(z) / (np.abs(z) + d)).reshape(flat).mean(axis=0)
        move = d.reshape(flat).mean(axis=0)
        layers = [*params["convolutions"].values(), *params["head"]["layers"].values()]
        after = np.asarray(layers[depth + 1]["kernel"], float)
        out = [
            np.linalg.norm(
                after[:, :, j] if depth == 0
                else after.reshape(-1, z.shape[-1], after.shape[-1])[:, j]
            )
            for j in range(z.shape[-1])
        ]  # fmt: skip
        bias = np.abs(np.asarray(layers[depth]["bias"], float))
        use = active * out / (active * out).mean()
        wanted = use * (smooth + bias / (bias + move)) / 2
        np.testing.assert_allclose(scores[depth], wanted, rtol=1e-3, atol=1e-5)


def test_pruned_neurons_are_dead_and_the_rest_is_as_before(params):
    masks = (np.array([1, 0, 1, 1]) > 0, np.array([1, 1, 0, 0, 1]) > 0,
             np.array([0, 1, 1, 1, 1, 0]) > 0)  # fmt: skip
    pruned = with_masks(ARCHITECTURE, params, masks)
    x = jnp.asarray(np.random.default_rng(1).uniform(size=(9, 9, 1)), jnp.float32)
    for z, mask in zip(pre_activations(ARCHITECTURE, pruned, x), masks, strict=True):
        assert (np.asarray(z)[..., ~mask] == 0).all()
    kept = np.asarray(params["convolutions"][0]["kernel"])[..., masks[0]]
    found = np.asarray(pruned["convolutions"][0]["kernel"])[..., masks[0]]
    np.testing.assert_array_equal(found, kept)
    assert np.asarray(params["convolutions"][0]["kernel"])[..., 1].any()


def test_the_lowest_scores_are_pruned_and_stay_pruned():
    scores = (np.array([0.1, 0.9, 0.2]), np.array([0.5, 0.3, 0.05, 0.06]))
    masks = tuple(np.ones(len(s), bool) for s in scores)
    half = lowest_pruned(scores, masks, 3 / 7)
    assert [m.tolist() for m in half] == [
        [False, True, True], [True, True, False, False],
    ]  # fmt: skip
    later = lowest_pruned(tuple(1 - s for s in scores), half, 4 / 7)
    assert sum((~m).sum() for m in later) == 4
    assert all((new <= old).all() for new, old in zip(later, half, strict=True))
    # However much is asked for, no layer is cut off.
    assert all(m.sum() == 1 for m in lowest_pruned(scores, masks, 0.99))


def test_concentration_is_a_distance_to_the_nearest_point_mass():
    ones, none = jnp.ones(4), 1e-9 * jnp.ones(4)
    dead = jnp.array([1.0, 1, 1, 0])
    in_one = concentration([ones, jnp.concatenate([1e3 * ones, none]), ones])
    spread = concentration([dead, ones, dead])
    assert in_one < spread <= 1
    outer = np.exp(-3 * np.array([1, 1, 1, 0]) / 0.75).sum()
    shares = np.array([outer, 4 * np.exp(-3), outer])
    shares /= shares.sum()
    nearest = min(np.sum(shares * np.abs(np.arange(3) - m)) for m in range(3)) / 2
    np.testing.assert_allclose(spread, nearest, rtol=1e-5)


def test_every_method_ends_at_the_same_sparsity_with_less_error():
    random = np.random.default_rng(0)
    x = random.uniform(size=(256, 9, 9, 1)).astype(np.float32)
    y = np.stack([x.mean(axis=(1, 2, 3)), x[:, :4].mean(axis=(1, 2, 3))], 1) * 4
    task = Task(x, y.astype(np.float32), CHANGE, 2)
    config = PruneConfig(
        method="none", sparsity=0.4, rounds=2, epochs=4, batch_size=32, images=32,
        penalty=0.01, learning_rate=5e-3,
    )  # fmt: skip
    base = train_regression(ARCHITECTURE, fresh_params(ARCHITECTURE, 0), task, config)
    apply = jax.jit(jax.vmap(FlaxApply(ARCHITECTURE), (None, 0)))

    def error(params) -> float:
        return float(np.mean((np.asarray(apply(params, x)) - y) ** 2))

    assert error(base) < 0.5 * np.var(y, axis=0).mean() + 0.5 * y.mean() ** 2
    for method in ("random", "magnitude", "stable"):
        each = dataclasses.replace(config, method=method)
        rounds = list(prune_network(ARCHITECTURE, base, task, each))
        assert [sum(int((~m).sum()) for m in masks) for _, masks in rounds] == [3, 6]
        params, masks = rounds[-1]
        again = with_masks(ARCHITECTURE, params, masks)
        jax.tree.map(np.testing.assert_array_equal, params, again)
        assert np.isfinite(error(params))
    *_, (_, masks) = prune_network(ARCHITECTURE, base, task, config)
    assert all(m.all() for m in masks)


def test_mistakes_are_named():
    with pytest.raises(InputError, match="unknown pruning method 'all'; known: none"):
        PruneConfig(method="all")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sparsity must lie in"):
        PruneConfig(sparsity=1.0)
    with pytest.raises(InputError, match="rounds must be at least 1, got 0"):
        PruneConfig(rounds=0)
    with pytest.raises(InputError, match="penalty must be at least 0"):
        PruneConfig(penalty=-1)
    with pytest.raises(InputError, match="learning_rate must be above 0"):
        PruneConfig(learning_rate=0)
    pooled = dataclasses.replace(ARCHITECTURE, pool="max")
    with pytest.raises(InputError, match="only networks without batch norm"):
        full_masks(pooled)
