"""The caller's strict settings of JAX hold for his function, and not for bounds."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled

import jaxcert as jc
from jaxcert.model import Model

# Of the type that the settings make of it, as `jnp.zeros` is: under strict promotion a
# function of mixed types is none.
W = np.array([[1.0, 0.5], [0.0, 1.0], [-1.0, 0.25]])
X = np.array([[0.75, 0.25], [0.5, 0.5]])
MODES = {
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_enable_x64": True,
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
}


@contextlib.contextmanager
def settings(**chosen):
    """Sets them for the whole process, as a user does."""
    before = {name: getattr(jax.config, name) for name in chosen}
    try:
        for name, value in chosen.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def f(p, x):
    return p["w"] @ jnp.maximum(x, 0) + p["b"]


def params():
    return {"w": jnp.asarray(W), "b": jnp.zeros(3)}


def answers():
    options = jc.CertifyOptions(batch_size=2)
    certified = jc.certify(f, params(), X, tolerance=1e-3, options=options)
    spec = jc.Spec.classification(0, 3)
    wide = jc.Box(np.zeros(2), np.ones(2))
    refuted = jc.verify(f, params(), wide, spec)
    narrow = jc.Box(np.array([0.6, 0.0]), np.array([1.0, 0.2]))
    proved = jc.verify(f, params(), narrow, spec)
    unit = jc.Box.unit((2,))
    bounds = jc.ibp(f)(params(), unit), jc.crown(f)(params(), unit).concretize(unit)
    return certified, refuted, proved, bounds


@pytest.fixture(scope="module")
def plain():
    return answers()


# All at once, and one at a time.
@pytest.mark.parametrize(
    "chosen", sampled([MODES, *({n: v} for n, v in MODES.items())])
)
def test_strict_settings_change_no_answer(chosen, plain):
    with settings(**chosen):
        certified, refuted, proved, bounds = answers()
        for name, value in chosen.items():
            assert getattr(jax.config, name) == value
    assert refuted.refuted and proved.proved
    np.testing.assert_allclose(certified.lower, plain[0].lower, atol=1e-3)
    np.testing.assert_array_equal(certified.outcome, plain[0].outcome)
    for ours, theirs in zip(bounds, plain[3], strict=True):
        np.testing.assert_allclose(ours.lo, theirs.lo, atol=1e-6)
        np.testing.assert_allclose(ours.hi, theirs.hi, atol=1e-6)


def test_the_network_itself_is_traced_as_strictly_as_its_owner_asks():
    def careless(p, x):
        return p["w"] @ x + jnp.ones((1, 3))[0] * jnp.ones((2, 3))

    def loose(p, x):
        return (p["w"] @ x) * jnp.arange(3)

    box = jc.Box.unit((2,))
    jc.ibp(careless)(params(), box)
    jc.ibp(loose)(params(), box)
    with settings(jax_numpy_rank_promotion="raise"), pytest.raises(ValueError):
        jc.ibp(careless)(params(), box)
    with settings(jax_numpy_dtype_promotion="strict"):
        with pytest.raises(Exception, match="strict"):
            jc.ibp(loose)(params(), box)
        with pytest.raises(jc.InputError, match="TypePromotionError"):
            jc.certify(loose, params(), X[0])


@pytest.mark.parametrize("wide", sampled([False, True]))
def test_strict_types_let_x_be_what_weights_of_float32_are(wide, plain):
    weights = {"w": W.astype(np.float32), "b": np.zeros(3, np.float32)}
    spec = jc.Spec.classification(0, 3)
    narrow = jc.Box(np.array([0.6, 0.0]), np.array([1.0, 0.2]))
    options = jc.CertifyOptions(batch_size=2, attack=None)
    own = {"w": W, "b": np.zeros(3)} if wide else weights
    with settings(jax_enable_x64=True, jax_numpy_dtype_promotion="strict"):
        answer = jc.certify(f, own, X, tolerance=1e-3, options=options)
        verdict = jc.verify(f, own, narrow, spec, options=options)
        assert Model(f, own, (2,)).program.typed.x64
    np.testing.assert_allclose(answer.lower, plain[0].lower, atol=1e-3)
    np.testing.assert_array_equal(answer.outcome, plain[0].outcome)
    assert verdict.proved


def test_constants_of_wide_types_stay_so_where_x_is_narrow():
    def wide(p, x):
        # (1 + 1e-9) x is no number of float32.
        return (x @ p).astype(jnp.float64) * jnp.asarray(1 + 1e-9)

    with settings(jax_enable_x64=True, jax_numpy_dtype_promotion="strict"):
        program = Model(wide, np.ones((1, 1), np.float32), (1,)).program
        y = program.evaluate(np.ones((1, 1), np.float32), jnp.ones(1, jnp.float64))
    assert program.input_shape == (1,) and float(y[0]) == 1 + 1e-9


@pytest.mark.campaign
def test_integer_weights_work_where_integers_are_wide():
    def permuted(p, x):
        return p["w"] @ x[p["order"]]

    weights = {"w": W[:2], "order": np.array([1, 0])}
    with settings(jax_enable_x64=True):
        answer = jc.certify(permuted, weights, X[0])
    assert answer.predicted == 1
