"""certify against closed forms, its laws, and how often it compiles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import exact32, sampled

import jaxcert as jc
from jaxcert import model
from jaxcert.search import stages

TOLERANCE = 1e-4
RNG = np.random.default_rng(7)
W = exact32(RNG.normal(size=(3, 4)))
B = exact32(RNG.normal(size=3) * 0.1)
X = RNG.uniform(0.1, 0.9, size=(6, 4))


def linear(params, x):
    return params[0] @ x + params[1]


def linear_apothem(x, lo, hi, down, up, margin=0.0) -> float:
    """The exact apothem of a linear network, by bisection on a closed form."""
    y = W @ x + B
    c = int(np.argmax(y))

    def worst(t):
        low, high = np.maximum(x - t * down, lo), np.minimum(x + t * up, hi)
        rows = [W[c] - W[j] for j in range(3) if j != c]
        offset = [B[c] - B[j] for j in range(3) if j != c]
        return min(
            np.where(r > 0, r * low, r * high).sum() + b
            for r, b in zip(rows, offset, strict=True)
        )

    a, b = 0.0, 1e3
    if worst(b) > margin:
        return np.inf
    for _ in range(100):
        m = (a + b) / 2
        a, b = (m, b) if worst(m) > margin else (a, m)
    return a


SETTINGS = {
    "plain": {},
    "margin": {"required_margin": 0.05},
    "negative margin": {"required_margin": -0.3},
    "domain": {"domain": (np.array([0.0, -1, 0.05, -5]), np.array([1.0, 2, 0.95, 5]))},
    "rates": {"rates": jc.Rates(np.array([1, 0.5, 2, 0]), np.array([0.25, 1, 0, 3.0]))},
}


@pytest.mark.parametrize("name", sampled(SETTINGS, 2))
def test_brackets_of_a_linear_network_close_on_its_apothem(name: str):
    settings = SETTINGS[name]
    options = jc.CertifyOptions(batch_size=8)
    answer = jc.certify(
        linear, (W, B), X, tolerance=TOLERANCE, options=options, **settings
    )
    lo, hi = settings.get("domain", (np.zeros(4), np.ones(4)))
    rates = settings.get("rates", jc.Rates(np.ones(4), np.ones(4)))
    margin = settings.get("required_margin", 0.0)
    for i, x in enumerate(X):
        exact = linear_apothem(x, lo, hi, rates.lower, rates.upper, margin)
        lower, upper = answer.lower[i], answer.upper[i]
        if exact == 0:  # the margin at x itself is not above the required one
            assert lower == 0
            continue
        assert lower <= exact <= upper
        if np.isfinite(exact):
            assert upper - lower <= 4 * TOLERANCE
        else:
            assert np.isposinf(lower) and np.isposinf(upper)
        box = jax.tree.map(lambda v, i=i: v[i], answer.box)
        if lower > 0:
            assert (box.lo <= x).all() and (x <= box.hi).all()
            assert (box.lo >= lo).all() and (box.hi <= hi).all()
            assert box.apothem(x, jc.Box(lo, hi), rates) >= lower
        if np.isfinite(upper):
            z = answer.witness[i]
            assert (z >= lo).all() and (z <= hi).all()
            y = W @ z + B
            c = answer.label[i]
            assert y[c] - np.delete(y, c).max() <= margin


def test_a_constant_class_has_an_infinite_apothem():
    answer = jc.certify(linear, (0 * W, np.array([0.0, 1, 0])), X)
    assert np.isposinf(answer.lower).all() and np.isposinf(answer.upper).all()
    assert (answer.box.lo == 0).all() and (answer.box.hi == 1).all()


@pytest.mark.parametrize("oracle", sampled(["crown", "ibp"]))
def test_ties_are_never_proved(oracle: str):
    options = jc.CertifyOptions(oracle=oracle)
    answer = jc.certify(linear, (0 * W, 0 * B), X, options=options)
    assert (answer.lower == 0).all()
    assert (answer.outcome == jc.Outcome.UNKNOWN).all()
    assert np.isnan(answer.box.lo).all()
    box = jc.Box(np.zeros(4), np.ones(4))
    spec = jc.Spec.classification(0, 3)
    assert not jc.verify(linear, (0 * W, 0 * B), box, spec, options=options).proved


@pytest.mark.parametrize("margin", sampled([0.5, 0.5 + 1e-13, 0.5 - 1e-13]))
def test_a_margin_that_rounding_decides_is_not_proved(margin: float):
    params = (0 * W, np.array([0.5, 0, -1]))
    answer = jc.certify(linear, params, X, required_margin=margin)
    assert (answer.lower == 0).all()


def test_misclassified_inputs_have_no_box():
    wrong = (np.argmax(X @ W.T + B, axis=1) + 1) % 3
    answer = jc.certify(linear, (W, B), X, wrong.astype(np.int32))
    assert (answer.outcome == jc.Outcome.MISCLASSIFIED).all()
    assert (answer.lower == 0).all() and (answer.upper == 0).all()
    assert np.isnan(answer.box.lo).all() and np.isnan(answer.witness).all()


def smooth(params, x):
    z = jnp.tanh(params["a"] @ x + params["b"])
    return jnp.stack([z @ params["c"], jnp.sin(3 * x).sum() * 0.3])


@pytest.mark.campaign
@pytest.mark.parametrize(("d", "points"), [(1, 4001), (2, 121)])
def test_a_dense_grid_finds_no_counterexample_in_a_proved_box(d: int, points: int):
    rng = np.random.default_rng(d)
    params = {
        "a": exact32(rng.normal(size=(5, d)) * 3),
        "b": exact32(rng.normal(size=5)),
        "c": exact32(rng.normal(size=5)),
    }
    x = rng.uniform(0.1, 0.9, size=(4, d))
    options = jc.CertifyOptions(batch_size=8)
    answer = jc.certify(smooth, params, x, options=options)
    assert (answer.lower <= answer.upper).all()
    assert (answer.lower > 0).any()
    axis = np.linspace(0, 1, points)
    cube = np.stack(np.meshgrid(*[axis] * d), axis=-1).reshape(-1, d)
    for i in np.flatnonzero(answer.lower > 0):
        lo, hi = answer.box.lo[i], answer.box.hi[i]
        with jax.enable_x64(True):
            y = jax.vmap(smooth, (None, 0))(params, jnp.asarray(lo + (hi - lo) * cube))
        c = int(answer.label[i])
        assert (np.asarray(y[:, c] - y[:, 1 - c]) > 0).all()
        if np.isfinite(answer.upper[i]):
            with jax.enable_x64(True):
                y = smooth(params, jnp.asarray(answer.witness[i]))
            assert y[c] - y[1 - c] <= 0


def test_permuting_features_permutes_the_answer():
    order = np.array([2, 0, 3, 1])
    one = jc.certify(linear, (W, B), X)
    other = jc.certify(linear, (W[:, order], B), X[:, order])
    np.testing.assert_allclose(other.lower, one.lower, atol=2 * TOLERANCE)
    np.testing.assert_allclose(other.upper, one.upper, atol=2 * TOLERANCE)
    np.testing.assert_allclose(other.box.lo, one.box.lo[:, order], atol=2 * TOLERANCE)


def counted(params, x):
    return params[0] @ jax.nn.relu(x) + params[1]


@pytest.mark.campaign
def test_compilations_are_no_more_than_buckets():
    names = ("search", "reprove", "confirm")
    compiled = {name: getattr(stages, name) for name in names}
    compiled["outputs"] = model._outputs
    # Whatever proves: intervals compile in the least time.
    options = jc.CertifyOptions(oracle="ibp", batch_size=8)
    inputs = np.random.default_rng(0).uniform(size=(20, 4))
    before = {name: stage._cache_size() for name, stage in compiled.items()}
    for count in (1, 7, 8, 20):
        jc.certify(counted, (W, B), inputs[:count], options=options)
    jc.certify(counted, (2 * W, B), inputs[:7], tolerance=1e-2, options=options)
    jc.certify(
        counted, (W, -B), inputs[:3], required_margin=0.1, domain=(-1, 2),
        options=options,
    )  # fmt: skip
    grown = {n: stage._cache_size() - before[n] for n, stage in compiled.items()}
    buckets = len({options.padded(n) for n in range(1, options.batch_size + 1)})
    # One search proves and one refutes.
    limits = {"outputs": 1, "search": 2, "reprove": 1, "confirm": 1}
    assert all(grown[n] <= limits[n] * buckets for n in grown), grown
    assert grown["search"] >= 1
