"""The attack: steps have a slope to descend on, and of many clauses the worst count."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcert as jc
from jaxcert.model import Model
from jaxcert.trace.program import ActivationNode, OpaqueNode
from jaxcert.witness import attack as attacking
from jaxcert.witness.attack import AttackOptions, AttackOracle, find_witness
from jaxcert.witness.judge import Judge

INPUTS, WIDTH = 24, 32


def binarised(p, x):
    """Two layers of signs: the gradient is 0 wherever there is one."""
    h = jnp.sign(jnp.sign(p["w"] @ x) + 0.1)
    return p["v"] @ jnp.sign(jnp.sign(p["u"] @ h) + 0.1)


def rounding_down(p, x):
    return p["v"] @ jnp.floor(4 * (p["u"] @ jnp.floor(8 * (p["w"] @ x))) / WIDTH)


def weights(seed: int):
    rng = np.random.default_rng(seed)
    shapes = {"w": (WIDTH, INPUTS), "u": (WIDTH, WIDTH), "v": (2, WIDTH)}
    return {
        k: np.sign(rng.normal(size=s)).astype(np.float32) for k, s in shapes.items()
    }


def found_in(f, seeds, part: float, steps: int = 30) -> int:
    """Returns in how many networks a logit falls below part of its greatest size."""
    count = 0
    for seed in seeds:
        params = weights(seed)
        model = Model(f, params, (INPUTS,))
        box = jc.Box(-np.ones(INPUTS), np.ones(INPUTS))
        corners = np.sign(np.random.default_rng(1).normal(size=(500, INPUTS)))
        y = model.outputs(corners)[:, 0]
        spec = jc.Spec.rows(np.array([[1.0, 0.0]]), np.array([-part * y.min()]))
        with jax.enable_x64(True):
            oracle = AttackOracle(model.f, AttackOptions(3, steps))
            witness = find_witness(oracle, Judge(model), box, spec)
        if witness is not None:
            (value,) = model.outputs(witness.point[None])[:, 0]
            assert value <= part * y.min()
            count += 1
    return count


@pytest.mark.parametrize(
    ("f", "node", "part"),
    [(binarised, OpaqueNode, 1.1), (rounding_down, ActivationNode, 1.1)],
)
def test_steps_are_descended_on(monkeypatch, f, node, part):
    """Below what 500 random corners reach; without a slope there is no way there."""
    seeds = range(4)
    program = Model(f, weights(0), (INPUTS,)).program
    assert any(isinstance(n, node) for n in program.nodes) and program.jumps
    assert found_in(f, seeds, part) >= 3
    monkeypatch.setattr(attacking, "_sloped", lambda node, value, operands: value)
    # Other options: what is compiled already has the slope.
    assert found_in(f, seeds, part, steps=31) == 0


def test_the_value_of_a_step_is_what_it_was():
    with jax.enable_x64(True):
        model = Model(binarised, weights(0), (INPUTS,))
        x = np.random.default_rng(0).uniform(-1, 1, INPUTS)
        values = model.values(jnp.float64)
        sloped = model.program.evaluate_prepared(values, x, attacking._sloped)
        assert np.array_equal(sloped, model.program.evaluate_prepared(values, x))

        def first(z):
            return model.program.evaluate_prepared(values, z, attacking._sloped)[0]

        assert np.abs(jax.grad(first)(jnp.asarray(x))).max() > 0


def test_the_worst_of_many_classes_is_found():
    classes = 30
    rng = np.random.default_rng(3)
    w = rng.normal(size=(classes, 5))
    b = np.full(classes, -5.0)
    b[0], b[17] = 0.0, -1.0
    spec = jc.Spec.classification(0, classes)
    with jax.enable_x64(True):
        model = Model(lambda p, x: p[0] @ jnp.tanh(x) + p[1], (w, b), (5,))
        gap = w[17] - w[0]
        box = jc.Box(-np.ones(5), np.ones(5))
        assert np.abs(gap).sum() * np.tanh(1) > 1
        oracle = AttackOracle(model.f, AttackOptions(2, 10))
        witness = find_witness(oracle, Judge(model), box, spec)
    assert witness is not None
    y = model.outputs(witness.point[None])[0]
    assert y[0] <= np.delete(y, 0).max()


def bump(p, x):
    """Flat but for a small pyramid, and large: a gradient says nothing elsewhere."""
    far = jnp.abs(x[:2] - p["top"]).sum() + 0.0 * jnp.sum(jax.nn.relu(p["w"] @ x))
    return 0.5 - jax.nn.relu(1 - 12 * far)[None]


@pytest.mark.parametrize("large", [False, True])
def test_points_of_a_box_of_few_features_are_tried(large: bool):
    rng = np.random.default_rng(0)
    w = np.zeros((1 << 13 if large else 8, 3), np.float32)
    box = jc.Box(np.array([-1.0, -1.0, 0.3]), np.array([1.0, 1.0, 0.3]))
    spec = jc.Spec.rows(np.ones((1, 1)), np.zeros(1))
    found = 0
    for _ in range(4):
        model = Model(bump, {"w": w, "top": rng.uniform(0.3, 0.9, 2)}, (3,))
        with jax.enable_x64(True):
            oracle = AttackOracle(model.f, AttackOptions())
            witness = find_witness(oracle, Judge(model), box, spec)
        if witness is not None:
            assert model.outputs(witness.point[None]).item() <= 0
            assert (box.lo <= witness.point).all() and (witness.point <= box.hi).all()
            found += 1
    assert found == (4 if large else 0)


@pytest.mark.parametrize("features", [1, 2, 3, 4])
def test_points_are_spread_evenly(features: int):
    rng = np.random.default_rng(features)
    lo = rng.normal(size=6)
    hi = lo.copy()
    varying = rng.permutation(6)[:features]
    hi[varying] += rng.uniform(0.1, 9, features)
    points = attacking.spread(jc.Box(lo, hi), 2048)
    assert points.shape == (2048, 6)
    assert (points >= lo).all() and (points <= hi).all()
    cells = {1: 1024, 2: 24, 3: 8, 4: 4}[features]
    share = (points[:, varying] - lo[varying]) / (hi - lo)[varying]
    seen = np.unique(np.minimum(cells * share, cells - 1).astype(int), axis=0)
    assert len(seen) == cells**features


def convolved(p, x):
    h = jax.lax.conv_general_dilated(x[None, None], p["k"], (1, 1), "VALID")
    return p["v"] @ jax.nn.relu(h.reshape(-1))


def test_descents_end_at_a_violation_unless_it_was_none(monkeypatch):
    rng = np.random.default_rng(3)
    params = {"k": rng.normal(size=(2, 1, 2, 2)), "v": rng.normal(size=(2, 18))}
    params = {k: v.astype(np.float32) for k, v in params.items()}
    model = Model(convolved, params, (4, 4))
    box = jc.Box(np.zeros((4, 4)), np.ones((4, 4)))
    oracle, asked, seeds = AttackOracle(model.f, AttackOptions(2)), [], attacking._seeds

    def counted(*given):
        found = seeds(*given)
        asked.append((float(given[-1]), bool(found[1])))
        return found

    monkeypatch.setattr(attacking, "_seeds", counted)
    part = float(np.float32(attacking._PLENTY))
    first, last = (part, True), (np.inf, False)
    for offset, accepts, expected in (
        (-100.0, None, [first]),
        (-100.0, lambda *_: False, [first, last] * 2),
        (1e3, None, [(part, False)] * 2),
    ):
        spec = jc.Spec.rows(np.array([[1.0, 0.0]]), np.array([offset]))
        asked.clear()
        with jax.enable_x64(True):
            witness = find_witness(oracle, Judge(model), box, spec, accepts)
        assert (witness is not None) == (expected == [first])
        assert asked == expected


def test_all_descents_end_once_one_has_enough():
    box, start = jc.Box(jnp.zeros(2), jnp.ones(2)), jnp.array([[0.5, 0.5], [0.9, 0.5]])

    def value(z):
        each = z[:, 0] ** 2
        return each.sum(), each

    walk, given = attacking.walk, (value, box, start, jnp.full(9, 0.125))
    z, least = walk(*given, box.edges(), jnp.float32(0.2))
    # After a step of an eighth .375^2 < .2, and of the next one the points are judged.
    np.testing.assert_allclose(z[:, 0], [0.25, 0.65], rtol=1e-6)
    np.testing.assert_allclose(least, [0.25**2, 0.65**2], rtol=1e-6)
    z, least = walk(*given, box.edges(), jnp.float32(-1))
    same, as_bad = walk(*given, box.edges())
    np.testing.assert_array_equal(z, same)
    np.testing.assert_array_equal(least, as_bad)
    assert (least == 0).all()
