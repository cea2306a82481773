"""Growth against exact answers: boxes are sound, and maximal where they say so."""

from __future__ import annotations

import dataclasses
import functools

import exact
import jax
import numpy as np
import pytest
from cases import random_network, sampled
from cases import relu_network as f

import jaxcert as jc
from jaxcert.branch.signs import BranchOptions
from jaxcert.certifier import Certifier
from jaxcert.search.growth import AT_DOMAIN, FAIRNESS, OPEN, GrowthOptions

DELTA = 1e-2
OPTIONS = jc.CertifyOptions(
    oracle="complete", batch_size=8, branch=BranchOptions(block=32, narrow=0)
)
# What the exact solver cannot tell apart, relative to the margins' size.
SOLVER = 2e-6
INPUTS, OUTPUTS = 4, 3
# The networks of odd seeds have two hidden layers.
SIZES = {0: (4, 8, 3), 1: (4, 6, 5, 3)}


def network(seed: int):
    return random_network(SIZES[seed % 2], seed)


def by_input(params):
    """Weights as the exact solver takes them: (inputs, outputs)."""
    return [(w.T, b) for w, b in params]


def least_margin(params, lo, hi, label: int) -> float:
    eye = np.eye(OUTPUTS)
    return min(
        exact.exact_min_margin(by_input(params), lo, hi, eye[label] - eye[j], 0.0).value
        for j in range(OUTPUTS)
        if j != label
    )


@functools.cache
def grown(seed: int, objective: str, rates: jc.Rates | None = None):
    params = network(seed)
    x = np.random.default_rng(seed + 100).uniform(0.1, 0.9, (8, INPUTS))
    certifier = Certifier(f, params, None, (INPUTS,), rates=rates, options=OPTIONS)
    found = certifier.batch(x, None)
    growth = certifier.grow(x, found, GrowthOptions(objective, delta=DELTA))
    return params, x, found, growth


@pytest.mark.parametrize("objective", sampled(FAIRNESS))
@pytest.mark.parametrize("seed", sampled([0, 1]))
def test_boxes_are_sound_and_maximal(seed: int, objective: str):
    params, x, found, growth = grown(seed, objective)
    lo, hi = growth.box.lo, growth.box.hi
    for j in np.flatnonzero(found.outcome == 0):
        label = int(found.label[j])
        assert (lo[j] <= x[j]).all() and (x[j] <= hi[j]).all()
        assert (lo[j] >= 0).all() and (hi[j] <= 1).all()
        assert least_margin(params, lo[j], hi[j], label) > -SOLVER
        for face, by in enumerate(growth.blocked[j]):
            side, i = divmod(face, INPUTS)
            beyond = (growth.ends[j, face] - (lo, hi)[side][j, i]) * (-1, 1)[side]
            if by == AT_DOMAIN:
                assert (lo, hi)[side][j, i] == (0, 1)[side]
            elif by != OPEN:
                z = growth.witness(j, face)
                outside = np.flatnonzero((z < lo[j]) | (z > hi[j]))
                assert outside.tolist() == [i] and 0 < beyond <= DELTA
                assert (z >= 0).all() and (z <= 1).all()
                logits = exact.evaluate(by_input(params), z)
                assert (logits[label] <= np.delete(logits, label)).any()
    certified = found.outcome == 0
    assert certified.sum() >= 6
    # Nearly all faces are closed; what is open is said to be.
    assert (growth.blocked[certified] == OPEN).mean() <= 0.02


MEASURES = {
    "mean_edge": lambda e: e.mean(),
    "min_edge": lambda e: e.min(axis=1).mean(),
    "volume": lambda e: np.log(e).sum(axis=1).mean(),
}


@pytest.mark.parametrize("objective", sampled(MEASURES))
def test_the_maximal_box_contains_the_ball_and_objectives_beat_it(objective: str):
    _, _, found, growth = grown(0, "maximal")
    kept = found.outcome == 0
    assert (growth.box.lo <= found.box.lo)[kept].all()
    assert (growth.box.hi >= found.box.hi)[kept].all()
    maximal = (growth.box.hi - growth.box.lo)[kept]
    _, _, _, growth = grown(0, objective)
    edges = (growth.box.hi - growth.box.lo)[kept]
    assert MEASURES[objective](edges) > MEASURES[objective](maximal)


def test_faces_of_rate_zero_stay():
    rates = jc.Rates(np.array([1.0, 0, 1, 1]), np.array([1.0, 0, 2, 1]))
    _, x, found, growth = grown.__wrapped__(2, "maximal", rates)
    for j in np.flatnonzero(found.outcome == 0):
        assert growth.box.lo[j, 1] == x[j, 1] == growth.box.hi[j, 1]
        assert (growth.blocked[j, [1, 5]] == AT_DOMAIN).all()


def test_mistakes_are_told():
    with pytest.raises(
        jc.InputError, match="unknown objective 'widest'; choose one of"
    ):
        GrowthOptions("widest")
    with pytest.raises(jc.InputError, match="delta is 0; it must be > 0"):
        GrowthOptions(delta=0)


def test_answers_of_other_inputs_are_refused():
    params, x, found, _ = grown(0, "maximal")
    certifier = Certifier(f, params, None, (INPUTS,), options=OPTIONS)
    with pytest.raises(jc.InputError, match="does not lie in the box of its answer"):
        certifier.grow(x[::-1], found)
    with pytest.raises(jc.InputError, match="x holds 7 inputs, the answers are for"):
        certifier.grow(x[:7], found)


def test_a_batch_that_threads_share_keeps_its_order():
    params = network(0)
    x = np.random.default_rng(5).uniform(0.1, 0.9, (16, INPUTS))
    half = Certifier(f, params, None, (INPUTS,), options=OPTIONS)
    parts = half.batch(x[:8], None), half.batch(x[8:], None)
    found = jax.tree.map(lambda *v: np.concatenate(v), *parts)
    options = dataclasses.replace(OPTIONS, batch_size=16)
    certifier = Certifier(f, params, None, (INPUTS,), options=options)
    seen = []
    growth = certifier.grow(
        x, found, GrowthOptions(delta=DELTA), progress=lambda *state: seen.append(state)
    )
    kept = found.outcome == 0
    assert kept.sum() >= 12 and seen[-1][1] == 0
    assert (growth.box.lo <= found.box.lo)[kept].all()
    assert (growth.box.hi >= found.box.hi)[kept].all()
    wider = growth.box.hi - growth.box.lo > found.box.hi - found.box.lo
    assert wider[kept].any(axis=1).sum() >= 10
    for j in np.flatnonzero(kept):
        assert growth.rounds[j] > 0
        for face in np.flatnonzero(growth.blocked[j] >= 0):
            z = growth.witness(j, int(face))
            logits, label = exact.evaluate(by_input(params), z), int(found.label[j])
            assert (logits[label] <= np.delete(logits, label)).any()


@pytest.mark.campaign
def test_a_linear_network_grows_until_its_margin_is_spent():
    w = np.array([[1.0, 0.25, 0.0, 0.0], [0.0, 0.5, 0.0, 0.0]], np.float32)
    certifier = Certifier(lambda p, x: p @ x, w, None, (INPUTS,), options=OPTIONS)
    x = np.full((1, INPUTS), 0.5)
    growth = certifier.grow(x, certifier.batch(x, None), GrowthOptions(delta=DELTA))
    lo, hi = growth.box.lo[0], growth.box.hi[0]
    # The margin is z0 - z1 / 4: all that matters are its lower and its upper face.
    assert lo[0] - hi[1] / 4 > 0 and lo[0] - hi[1] / 4 < DELTA
    assert (lo[1:] == 0).all() and (np.delete(hi, 1) == 1).all()


def test_more_inputs_than_a_batch_are_refused():
    _, x, found, _ = grown(0, "maximal")
    small = dataclasses.replace(OPTIONS, batch_size=4)
    certifier = Certifier(f, network(0), None, (INPUTS,), options=small)
    with pytest.raises(jc.InputError, match="8 inputs are more than batch_size = 4"):
        certifier.grow(x, found)


@pytest.mark.parametrize("ahead", [0.0, -(2.0**-30)])
def test_ties_stop_a_face_and_near_ties_do_not(ahead: float):
    """Class 0 has relu(x_0 - .5), class 1 a constant: from .5 down they tie, or not."""
    first, last = np.zeros((8, 4)), np.zeros((3, 8))
    first[0, 0] = last[0, 0] = 1
    bias = np.zeros(8)
    bias[0] = -0.5
    params = [(first, bias), (last, np.array([0, ahead, -1]))]
    x = np.full((8, INPUTS), 0.75)  # shapes and types as elsewhere: compiled once
    certifier = Certifier(f, params, None, (INPUTS,), options=OPTIONS)
    found = certifier.batch(x, None)
    growth = certifier.grow(x, found, GrowthOptions(delta=DELTA))
    lo, hi = growth.box.lo[0], growth.box.hi[0]
    assert lo[1:].tolist() == [0, 0, 0] and hi.tolist() == [1, 1, 1, 1]
    if ahead:
        assert lo[0] == 0 and (growth.blocked[0] == AT_DOMAIN).all()
        return
    assert growth.blocked[0, 0] >= 0 and (growth.blocked[0, 1:] == AT_DOMAIN).all()
    z = growth.witness(0, 0)
    assert 0.5 < lo[0] and lo[0] - DELTA <= z[0] <= 0.5
    assert exact.evaluate(by_input(params), z).tolist() == [0, 0, -1]
