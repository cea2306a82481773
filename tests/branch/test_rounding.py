"""Rounding must not prove: rational arithmetic is the judge of every verdict here."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled

import jaxcert as jc
from jaxcert.branch.signs import BranchOptions

pytestmark = pytest.mark.optimised

# An ordinary neuron, weights in [0.5, 1], that ends 1e-7 above 0 by cancellation.
POINT = np.array([
    0.941939142899648, 0.9743409519397173, 0.21176504397229545,
    0.8909120721964607, 0.9849560320530755, 0.9657681436887708,
])  # fmt: skip
PARAMS = {
    "w": np.array([
        0.7073279023170471, 0.8672417998313904, 0.855571448802948,
        0.9660298228263855, 0.5574663281440735, 0.8645075559616089,
    ], np.float32),
    "b": np.float32(-3.937070369720459),
}  # fmt: skip
SUM = sum(
    (Fraction(float(w)) * Fraction(z) for w, z in zip(PARAMS["w"], POINT, strict=True)),
    Fraction(float(PARAMS["b"])),
)


def neuron(p, x):
    return p["w"] @ x + p["b"]


@pytest.mark.parametrize("oracle", ["ibp", "crown"])
def test_a_pole_nearby_amplifies_rounding_and_proves_nothing_false(oracle: str):
    def f(p, x):
        return jnp.stack([1 / neuron(p, x), 0 * x[0]])

    exact = 1 / SUM
    # The margin is negative by more than any rounding of 1 / z itself.
    offset = -float(exact) - 2e-3
    assert exact + Fraction(offset) < 0
    spec = jc.Spec.rows(np.array([[1.0, 0.0]]), np.array([offset]))
    options = jc.CertifyOptions(oracle=oracle, attack=None)
    verdict = jc.verify(f, PARAMS, jc.Box(POINT, POINT), spec, options=options)
    assert not verdict.proved


@pytest.mark.parametrize("oracle", ["ibp", "crown"])
def test_a_smooth_activation_does_not_forget_the_rounding_before_it(oracle: str):
    def f(p, x):
        z = (x + p["big"]) - p["big"]
        return jnp.stack([p["gain"] * jnp.tanh(z)[0], p["gain"] * p["rival"]])

    # x is 3/4 of what float64 resolves next to 2^33: it is rounded up there.
    step = 2.0**33 * 2.0**-52
    params = {
        "big": np.float32(2.0**33),
        "gain": np.float32(2.0**40),
        "rival": np.float32(0.85 * step),
    }
    x = np.array([0.75 * step])  # tanh(x) <= x < rival
    options = jc.CertifyOptions(oracle=oracle, attack=None)
    spec = jc.Spec.classification(0, 2)
    assert not jc.verify(f, params, jc.Box(x, x), spec, options=options).proved


# ----------------------------------------------------------------------- underflow


def scaled(p, x):
    h = jax.nn.relu(p["v"] * jax.nn.relu(p["w"] * x))
    return jnp.stack([p["c"], p["u"] * h[0]])


@pytest.mark.parametrize("oracle", sampled(["ibp", "complete", "crown"], 2))
@pytest.mark.parametrize("tiny", [1e-320, 1e-310, 1e-300])
def test_what_underflows_and_comes_back_proves_nothing_false(oracle: str, tiny: float):
    """The second logit is about 1 at x = 1: 1e-320 * 1e160 * 1e160."""
    params = {
        "w": np.float64(tiny),
        "v": np.float64(1e160),
        "u": np.float64(1 / tiny / 1e160),
        "c": np.float64(0.5),
    }
    if not np.isfinite(params["u"]):
        params["u"] = np.float64(1e160)
    exact = Fraction(params["w"]) * Fraction(params["v"]) * Fraction(params["u"])
    assert exact > Fraction(1, 2)
    verdict = jc.verify(
        scaled, params, jc.Box(np.array([0.9]), np.array([1.0])),
        jc.Spec.classification(0, 2), options=jc.CertifyOptions(oracle=oracle),
    )  # fmt: skip
    assert not verdict.proved


def deep(params, x):
    for w, b in params[:-1]:
        x = jax.nn.relu(w @ x + b)
    return params[-1][0] @ x + params[-1][1]


def test_ranges_below_the_least_normal_float32_stay_undecided():
    """Flushed to zero between subproblems they called neurons dead that are alive."""
    rng = np.random.default_rng(33)
    drawn = [
        (rng.normal(size=(n, m)) / np.sqrt(m), rng.normal(size=n))
        for m, n in ((2, 6), (6, 6), (6, 6), (6, 2))
    ]
    back = (1e5 / 1e-36) ** 0.5
    scale = (1e-5, 1e-36, back, back)
    params = [
        (np.float32(w * s), np.float32(b * (t if t > 1e-37 else 0)))
        for (w, b), s, t in zip(drawn, scale, np.cumprod(scale), strict=True)
    ]
    z = np.array([-1.0, 1.0])
    for w, b in params[:-1]:
        z = np.maximum(w.astype(float) @ z + b, 0)
    y = params[-1][0].astype(float) @ z + params[-1][1]
    offset = -(y[0] - y[1]) - 0.05
    options = jc.CertifyOptions(
        oracle="complete", attack=None, branch=BranchOptions(narrow=0)
    )
    verdict = jc.verify(
        deep, params, jc.Box(-np.ones(2), np.ones(2)),
        jc.Spec.rows(np.array([[1.0, -1.0]]), np.array([offset])), options=options,
    )  # fmt: skip
    assert not verdict.proved
