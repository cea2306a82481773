"""Roots and powers of what touches 0: proved where they hold, and only there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled

import jaxcert as jc
from jaxcert.trace.tracing import program_of

BOX = jc.Box(-np.ones(2), np.ones(2))


def below(limit: float) -> jc.Spec:
    """Asks `Y_0 < limit`."""
    return jc.Spec.rows(np.array([[-1.0]]), np.array([limit]))


def scalar(f):
    return lambda p, x: jnp.reshape(f(x), (1,))


def safe_norm(x):
    squares = jnp.sum(x * x)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


# f, and its greatest value over [-1, 1]^2
ROOTS = {
    "sqrt": (lambda x: jnp.sqrt(x[0] ** 2 + x[1] ** 2), 2**0.5),
    "norm": (jnp.linalg.norm, 2**0.5),
    "norm of order 1": (lambda x: jnp.linalg.norm(x, 1), 2.0),
    "norm of order 3": (lambda x: jnp.linalg.norm(x, 3), 2 ** (1 / 3)),
    "norm of order inf": (lambda x: jnp.linalg.norm(x, jnp.inf), 1.0),
    "product with itself": (lambda x: jnp.sqrt(jnp.dot(x, x)), 2**0.5),
    "safe norm": (safe_norm, 2**0.5),
    "small power": (lambda x: jnp.sum((x * x) ** 0.3), 2.0),
    "power above 1": (lambda x: jnp.sum((x * x) ** 1.5), 2.0),
    "absolute": (lambda x: jnp.sum(jnp.sqrt(jnp.abs(x))), 2.0),
    "relu": (lambda x: jnp.sum(jnp.sqrt(jnp.maximum(x, 0))), 2.0),
    "negative power": (lambda x: (jnp.sum(x * x) + 1e-4) ** -0.7, 1e4**0.7),
    "rsqrt": (lambda x: jax.lax.rsqrt(jnp.sum(x * x) + 1e-4), 1e2),
    "constant power": (lambda x: x[0] ** 0 + jnp.power(x[1], jnp.float32(0)), 2.0),
}


@pytest.mark.parametrize("name", sampled(ROOTS, 5))
def test_a_root_that_touches_zero_is_proved_up_to_its_maximum(name: str):
    f, greatest = ROOTS[name]
    network, bounds = scalar(f), jc.CertifyOptions(attack=None)
    assert jc.verify(network, {}, BOX, below(1.42 * greatest), options=bounds).proved
    short = jc.verify(network, {}, BOX, below(0.999 * greatest), options=bounds)
    assert not short.proved


# How weights come about, and what they are of params.
WEIGHTS = {
    "stored": lambda p: p,
    "computed": lambda p: jnp.abs(p) * jnp.float32(1),
    "squared": lambda p: p * p,
}


def root_of_sums(made):
    """f, at most sqrt(3) over [-1, 1]^2 for weights of 1 and 2, and 0 at 0."""
    return lambda p, x: jnp.sqrt(made(p) @ jnp.maximum(x, 0))


@pytest.mark.parametrize("name", WEIGHTS)
def test_sums_of_products_that_are_not_negative_have_a_root(name: str):
    f, bounds = root_of_sums(WEIGHTS[name]), jc.CertifyOptions(attack=None)
    p = np.array([[1, 2]], np.float32)
    greatest = float(np.sqrt(WEIGHTS[name](p).sum()))
    assert jc.verify(f, p, BOX, below(1.42 * greatest), options=bounds).proved
    assert not jc.verify(f, p, BOX, below(0.999 * greatest), options=bounds).proved
    # Of a weight that is computed as 0 a rounding may have hidden the sign.
    with_zero = np.array([[0, 2]], np.float32)
    zero = jc.verify(f, with_zero, BOX, below(9.0), options=bounds)
    assert zero.proved == (name == "stored")


@pytest.mark.parametrize("least", [-1.0, -1e-30, -1e-310])
def test_a_weight_below_zero_spoils_the_root_however_small_it_is(least: float):
    p, bounds = np.array([[1.0, least]]), jc.CertifyOptions(attack=None)
    verdict = jc.verify(root_of_sums(lambda p: p), p, BOX, below(9.0), options=bounds)
    assert not verdict.proved


def test_products_with_what_may_be_negative_have_no_root():
    box, bounds = (
        jc.Box(np.array([0.0, -1]), np.ones(2)),
        jc.CertifyOptions(attack=None),
    )
    for second, proved in ((0.0, True), (1e-310, False), (1.0, False)):
        p = np.array([[1.0, second]])
        verdict = jc.verify(
            lambda p, x: jnp.sqrt(p @ x), p, box, below(9.0), options=bounds
        )
        assert verdict.proved == proved


@pytest.mark.parametrize("name", ["norm", "absolute"])
def test_a_violation_of_a_root_is_found_although_it_has_no_gradient_at_zero(name: str):
    f, greatest = ROOTS[name]
    verdict = jc.verify(scalar(f), {}, BOX, below(0.9 * greatest))
    assert verdict.refuted
    assert float(f(jnp.asarray(verdict.witness, jnp.float32))) > 0.9 * greatest


# Without a value somewhere in the box, if only by what a rounding hides.
UNDEFINED = {
    "below zero": lambda x: jnp.sqrt(x[0]),
    "just below zero": lambda x: jnp.sqrt(x[0] * x[0] - 1e-30),
    "hidden by a rounding": lambda x: jnp.sqrt((jnp.abs(x[0]) - 1e-30 + 1) - 1),
    "power": lambda x: (x[0] * x[0] - 1e-30) ** 1.5,
    "pole": lambda x: jax.lax.rsqrt(x[0] * x[0]),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_nothing_is_proved_where_a_root_has_no_value(name: str):
    bounds = jc.CertifyOptions(attack=None)
    verdict = jc.verify(scalar(UNDEFINED[name]), {}, BOX, below(1e9), options=bounds)
    assert not verdict.proved


def test_bounds_of_roots_enclose_exact_values():
    def f(p, x):
        h = jnp.maximum(p["w"] @ x, 0)
        return jnp.stack([jnp.sqrt(jnp.sum(h)), jnp.sum(h * h) ** 0.7])

    rng, bounds = np.random.default_rng(0), jc.CertifyOptions(attack=None)
    for seed in range(20):
        w = rng.normal(size=(3, 2)).astype(np.float32)
        center = rng.uniform(-1, 1, 2) * (seed % 3)
        box = jc.Box(center - 0.3, center + 0.3)
        z = rng.uniform(box.lo, box.hi, (2000, 2)).astype(np.longdouble)
        h = np.maximum(z @ w.T.astype(np.longdouble), 0)
        exact = [np.sqrt(h.sum(1)), (h * h).sum(1) ** np.longdouble(np.float32(0.7))]
        for k, values in enumerate(exact):
            least, most = float(values.min()), float(values.max())
            for sign, reached in ((-1.0, most), (1.0, -least)):
                row = np.zeros((1, 2))
                row[0, k] = sign
                spec = jc.Spec.rows(row, np.array([reached + 1.0]))
                proved = jc.verify(f, {"w": w}, box, spec, options=bounds)
                assert proved.proved
                # The bound that was proved leaves room for every value of f.
                assert float(proved.bound) <= 1.0


@pytest.mark.campaign
def test_the_finite_guard_of_logsumexp_is_the_identity():
    def network(w, x):
        logits = w @ x
        return logits - jax.scipy.special.logsumexp(logits)

    w = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    names = {n.name for n in program_of(network, w, np.zeros(2, np.float32)).nodes}
    assert "finite" in names and "is_finite" not in names
    answer = jc.certify(network, w, np.array([0.75, 0.25]), tolerance=1e-3)
    assert 0.2 < answer.lower <= 0.25 <= answer.upper < 0.26


def test_a_guard_against_infinity_hides_no_infinity():
    # 10 at x = 0, where log x is infinite; at most 0 elsewhere on [0, 1].
    def guarded(p, x):
        y = jnp.log(x[0])
        return jnp.where(jnp.isfinite(y), y, 10.0)[None]

    box = jc.Box(np.zeros(1), np.ones(1))
    assert not jc.verify(guarded, {}, box, below(5.0)).proved
    with jax.enable_x64(True):
        out = jc.ibp(guarded)({}, jax.tree.map(jnp.asarray, box))
    assert not out.hi[0] < 10
    inside = jc.Box(np.full(1, 0.5), np.ones(1))
    assert jc.verify(guarded, {}, inside, below(0.1)).proved

    def told(p, x):
        return jnp.where(jnp.isfinite(jnp.log(x[0])), 0.0, 1.0)[None]

    assert not jc.verify(told, {}, box, below(0.5)).proved
    assert jc.verify(told, {}, inside, below(0.5)).proved
