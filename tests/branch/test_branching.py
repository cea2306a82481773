"""Children start with the bound of their parent; the best neuron is split."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_network, relu_network

import jaxcert as jc
from jaxcert.bounds.alpha import (
    Multipliers,
    Problem,
    default_slopes,
    layout_of,
    restricted,
    subproblem_bound,
)
from jaxcert.bounds.crown import CrownOptions, bound_layers
from jaxcert.branch.branching import kinks, look_ahead, scores
from jaxcert.devices import float64
from jaxcert.model import Model


@pytest.fixture
def network():
    """Layout, values (float64, float32), problem of a network with free neurons."""
    with float64():
        params = random_network((4, 8, 8, 3), seed=3)
        model = Model(relu_network, params, (4,))
        layout = layout_of(model.program)
        values = model.values(jnp.float64)
        box = jc.Box(jnp.zeros(4), jnp.ones(4))
        bound = functools.partial(bound_layers, model.program, options=CrownOptions())
        layers = jax.jit(lambda *given: bound(*given).boxes)(values, box)
        ranges = {i: layers[i] for i in layout.needed()}
        rows = jnp.array([[1.0, -1, 0]])
        problem = Problem(box, ranges, rows, jnp.zeros(1))
        yield layout, (values, model.values(jnp.float32)), problem


def children(bound, layout, multipliers, signs, outputs, neuron):
    """Returns the bounds of both children where they start."""
    found = []
    starts = kinks(multipliers.slope[neuron], outputs[neuron])
    for sign, start in zip((1, -1), starts, strict=True):
        split = multipliers.split.at[neuron].set(start)
        child = dataclasses.replace(multipliers, split=split)
        found.append(bound(signs.at[neuron].set(sign), child)[0])
    return np.asarray(found)


def test_children_start_no_worse_than_their_parent(network):
    layout, (values, _), problem = network
    bound = jax.jit(functools.partial(subproblem_bound, layout, values, problem))
    cut = jax.jit(functools.partial(restricted, layout))
    rated = jax.jit(functools.partial(scores, layout, narrowing=False))
    rng = np.random.default_rng(0)
    tried = 0
    for _ in range(20):
        signs = jnp.asarray(rng.integers(-1, 2, layout.size) * (rng.random() < 0.5))
        signs = signs.astype(jnp.int8)
        multipliers = Multipliers(
            jnp.asarray(rng.random(layout.size)),
            jnp.asarray(rng.random(layout.size)),
            jnp.zeros(1),
        )
        value, (_, outputs) = bound(signs, multipliers)
        _, free = rated(cut(problem.ranges, signs), signs, jnp.abs(outputs))
        # What takes the place of a chord is no less than it, but may be bounded worse.
        for neuron in np.flatnonzero(free & (outputs >= 0)):
            found = children(bound, layout, multipliers, signs, outputs, neuron)
            assert (found >= value - 1e-12 * (1 + abs(value))).all()
            tried += 1
    assert tried > 20


def test_of_the_candidates_the_one_whose_children_gain_most_is_split(network):
    layout, (values, values32), problem = network
    bound = jax.jit(functools.partial(subproblem_bound, layout, values, problem))
    signs = jnp.zeros(layout.size, jnp.int8)
    slopes = default_slopes(layout, problem.ranges).astype(jnp.float64)
    multipliers = Multipliers(slopes, jnp.zeros(layout.size), jnp.zeros(1))
    value, (_, outputs) = bound(signs, multipliers)
    known = problem, signs, multipliers, outputs
    rated = jax.jit(functools.partial(scores, layout, narrowing=False))
    _, free = rated(problem.ranges, signs, jnp.abs(outputs))
    gains = {
        neuron: np.prod(
            np.maximum(
                children(bound, layout, multipliers, signs, outputs, neuron) - value,
                1e-6 * (1 + abs(value)),
            )
        )
        for neuron in np.flatnonzero(free)
    }
    ahead = functools.partial(look_ahead, layout, candidates=layout.size)
    neuron, any_free = jax.jit(ahead)(values32, *known)
    assert any_free
    best = max(gains.values())
    assert gains[int(neuron)] == pytest.approx(best, rel=1e-3)
    assert best > 1.5 * np.median(list(gains.values())), "nothing to tell apart"


def test_where_every_sign_is_fixed_nothing_is_split(network):
    layout, (_, values32), problem = network
    signs = jnp.ones(layout.size, jnp.int8)
    multipliers = Multipliers(
        jnp.zeros(layout.size), jnp.zeros(layout.size), jnp.zeros(1)
    )
    outputs = jnp.ones(layout.size)
    known = problem, signs, multipliers, outputs
    ahead = functools.partial(look_ahead, layout, candidates=4)
    _, any_free = jax.jit(ahead)(values32, *known)
    assert not any_free
