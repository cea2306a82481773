"""Bounds, attack and certify against an exact answer that shares no code with them."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import exact32, random_network, sampled
from cases import relu_network as f
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

import jaxcert as jc
from jaxcert.verdict import Reason

SIZES = (3, 5, 4, 3)
TOLERANCE = 1e-3
ALONE = jc.CertifyOptions(batch_size=1)


def network(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return random_network(SIZES, seed)


def forward(params, z):
    for w, b in params[:-1]:
        z = np.maximum(w @ z + b, 0)
    return params[-1][0] @ z + params[-1][1]


def milp_minimum(params, lo, hi, row) -> float:
    """Returns min row . f(z) over the box: big-M encoding, solved by HiGHS."""
    hidden = [len(b) for _, b in params[:-1]]
    count = len(lo) + 2 * sum(hidden)
    low, high = np.zeros(count), np.ones(count)
    low[: len(lo)], high[: len(lo)] = lo, hi
    matrix, least, most = [], [], []

    def constrain(entries, a, b):
        line = np.zeros(count)
        for index, value in entries:
            line[index] += value
        matrix.append(line)
        least.append(a)
        most.append(b)

    before, start, low_in, high_in = np.arange(len(lo)), len(lo), lo, hi
    for w, b in params[:-1]:
        center, radius = (
            w @ (low_in + high_in) / 2 + b,
            np.abs(w) @ (high_in - low_in) / 2,
        )
        pre_lo, pre_hi = center - radius - 1e-9, center + radius + 1e-9
        out = start + np.arange(len(b))
        on = out + len(b)
        for k in range(len(b)):
            inputs = [(i, -w[k, j]) for j, i in enumerate(before)]
            high[out[k]] = max(pre_hi[k], 0)
            # out >= pre;  out <= pre - l (1 - on);  out <= u on
            constrain([(out[k], 1), *inputs], b[k], np.inf)
            constrain(
                [(out[k], 1), *inputs, (on[k], -pre_lo[k])], -np.inf, b[k] - pre_lo[k]
            )
            constrain([(out[k], 1), (on[k], -max(pre_hi[k], 0))], -np.inf, 0)
        before, start = out, start + 2 * len(b)
        low_in, high_in = np.maximum(pre_lo, 0), np.maximum(pre_hi, 0)
    whole = np.zeros(count)
    for h, begin in zip(hidden, np.cumsum([len(lo), *(2 * h for h in hidden)]),
                        strict=False):  # fmt: skip
        whole[begin + h : begin + 2 * h] = 1
    cost = np.zeros(count)
    cost[before] = row @ params[-1][0]
    answer = milp(
        cost, integrality=whole, bounds=Bounds(low, high),
        constraints=LinearConstraint(np.array(matrix), least, most),
        options={"mip_rel_gap": 0.0},
    )  # fmt: skip
    assert answer.status == 0, answer.message
    return answer.fun + row @ params[-1][1]


def pattern_minimum(params, lo, hi, row) -> float:
    """Returns the same for one hidden layer: an LP for every activation pattern."""
    (w, b), (v, c) = params
    best = np.inf
    for signs in itertools.product((0.0, 1.0), repeat=len(b)):
        s = np.array(signs)
        side = (2 * s - 1)[:, None]
        answer = linprog(
            row @ (v * s) @ w, A_ub=-side * w, b_ub=side[:, 0] * b,
            bounds=np.stack([lo, hi], axis=1),
        )  # fmt: skip
        if answer.status == 0:
            best = min(best, answer.fun + row @ (v @ (s * b) + c))
    return best


def margin_rows(label: int) -> np.ndarray:
    eye = np.eye(SIZES[-1])
    return np.array([eye[label] - eye[j] for j in range(len(eye)) if j != label])


def exact_margin(params, lo, hi, label) -> float:
    return min(milp_minimum(params, lo, hi, row) for row in margin_rows(label))


@jax.jit
def _everything(params, box, spec):
    return {
        "ibp": jc.ibp(f).lower_rows(params, box, spec),
        "crown": jc.crown(f).lower_rows(params, box, spec),
        "attack": jc.attack(f)(params, box, spec),
    }


@pytest.mark.parametrize("seed", sampled(range(8), 3))
def test_bounds_lie_below_the_exact_minimum_and_attacks_above(seed: int):
    params = network(seed)
    rng = np.random.default_rng(100 + seed)
    for radius in (0.05, 0.3):
        x = rng.uniform(size=3)
        lo, hi = np.maximum(x - radius, 0), np.minimum(x + radius, 1)
        label = int(np.argmax(forward(params, x)))
        exact = [milp_minimum(params, lo, hi, row) for row in margin_rows(label)]
        with jax.enable_x64(True):
            box = jc.Box(jnp.asarray(lo), jnp.asarray(hi))
            spec = jc.Spec.classification(label, 3, dtype=jnp.float64)
            found = jax.device_get(_everything(params, box, spec))
        # The solver's answer has its feasibility tolerance, 1e-7 times the weights.
        solver = 1e-6 * (1 + np.abs(exact))
        assert (found["ibp"] <= found["crown"] + 1e-12).all()
        assert (found["crown"] <= exact + solver).all()
        if found["attack"].reason == Reason.WITNESS:
            witness = found["attack"].witness
            assert (lo <= witness).all() and (witness <= hi).all()
            y = forward(params, witness)
            margin = min(row @ y for row in margin_rows(label))
            assert margin <= 0
            assert margin >= min(exact) - solver.max()


@pytest.mark.parametrize("seed", range(2))
def test_the_two_exact_answers_agree(seed: int):
    rng = np.random.default_rng(seed)
    params = [
        (rng.normal(size=(5, 3)), rng.normal(size=5)),
        (rng.normal(size=(3, 5)), rng.normal(size=3)),
    ]
    row = np.array([1.0, -1.0, 0.0])
    for radius in (0.2, 0.5):
        lo, hi = np.full(3, 0.5 - radius), np.full(3, 0.5 + radius)
        by_milp = milp_minimum(params, lo, hi, row)
        assert by_milp == pytest.approx(pattern_minimum(params, lo, hi, row), abs=1e-6)
        with jax.enable_x64(True):
            spec = jc.Spec.rows(jnp.asarray(row[None]), jnp.zeros(1))
            box = jc.Box(jnp.asarray(lo), jnp.asarray(hi))
            assert jc.crown(f).lower_rows(params, box, spec)[0] <= by_milp + 1e-6


@pytest.mark.parametrize("seed", sampled(range(10), 3))
def test_brackets_hold_the_exact_apothem(seed: int):
    params = network(50 + seed)
    x = np.random.default_rng(seed).uniform(0.1, 0.9, size=3)
    answer = jc.certify(f, params, x, tolerance=TOLERANCE, options=ALONE)
    label = int(np.argmax(forward(params, x)))
    assert answer.label == label

    def sound(r: float) -> bool:
        lo, hi = np.maximum(x - r, 0), np.minimum(x + r, 1)
        return exact_margin(params, lo, hi, label) > 0

    # What is asked of the exact solver is not its r* but the two ends themselves: just
    # inside the lower one all is sound, just outside the upper one nothing is.
    assert answer.lower <= answer.upper
    if np.isfinite(answer.lower) and answer.lower > 0:
        assert sound(answer.lower - 1e-6)
        assert answer.box.apothem(x, jc.Box.unit((3,))) >= answer.lower
    if np.isposinf(answer.lower):
        assert sound(1.0)
    if np.isfinite(answer.upper):
        assert not sound(answer.upper + 1e-6)
        assert np.argmax(forward(params, answer.witness)) != label
        reached = np.abs(answer.witness - x).max()
        assert reached <= answer.upper <= reached + 1e-12


def of_these_sizes(w, b, v, c):
    """Three neurons of input 0 and two classes as a network of SIZES: compiled once.

    The second hidden layer hands the neurons on, and a third class is far behind.
    """
    params = [(0 * w, 0 * b) for w, b in network(0)]
    (w1, b1), (w2, _), (w3, b3) = params
    w1[:3, 0], b1[:3] = exact32(w), exact32(b)
    w2[:3, :3] = np.eye(3)
    w3[:2, :3], b3[:] = exact32(v), exact32([*c, -100.0])
    return params


def needle(width: float = 1e-4, at: float = 0.37):
    """A network whose class flips only within a spike that no gradient points to."""
    hat = np.array([-1.0, 0.0, 1.0]) * width + at
    heights = np.array([1.0, -2.0, 1.0]) * (2 / width)
    return of_these_sizes(np.ones(3), -hat, [-heights, 0 * heights], [1.0, 0.0])


@pytest.mark.parametrize("oracle", sampled(["crown", "ibp"]))
@pytest.mark.parametrize("width", sampled([1e-4, 1e-2, 1e-6]))
def test_a_needle_in_the_box_is_never_proved_away(oracle: str, width: float):
    params = needle(width)
    spike = np.array([0.37, 0.5, 0.5])
    x = np.array([0.6, 0.5, 0.5])
    # The network in its float32 weights, where the spike is highest.
    grid = spike + np.linspace(-width, width, 401)[:, None] * [1, 0, 0]
    worst = min((forward(params, z) @ [1, -1, 0], *z) for z in grid)
    if worst[0] >= 0:
        pytest.skip("float32 weights have no spike of that width")
    options = dataclasses.replace(ALONE, oracle=oracle)
    spec = jc.Spec.classification(0, 3)
    box = jc.Box(np.array([0.3, 0.4, 0.4]), np.array([0.7, 0.6, 0.6]))
    assert not jc.verify(f, params, box, spec, options=options).proved
    answer = jc.certify(f, params, x, np.int32(0), options=options, tolerance=1e-3)
    assert answer.lower <= 0.6 - worst[1]


def test_a_nearly_dead_neuron_is_not_taken_for_dead():
    # 1.5e-7 in front, 1e7 behind: the published case with |w| <= 1.7e-7.
    one = np.array([1.0, 0, 0])
    params = of_these_sizes(
        1.5e-7 * one, -0.75e-7 * one, [-1e7 * one, 0 * one], [0.25, 0.0]
    )
    x = np.array([0.25, 0.5, 0.5])
    answer = jc.certify(f, params, x, tolerance=1e-4, options=ALONE)
    flips = (0.25 / float(np.float32(1e7)) + float(np.float32(0.75e-7))) / float(
        np.float32(1.5e-7)
    )
    assert answer.lower <= flips - 0.25 <= answer.upper
    assert answer.upper - answer.lower <= 1e-2
    whole, spec = jc.Box(np.zeros(3), np.ones(3)), jc.Spec.classification(0, 3)
    assert jc.verify(f, params, whole, spec, options=ALONE).refuted
