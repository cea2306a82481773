"""Rules: errors name primitive, line and remedy; primitives of one's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

import jaxcert as jc
from jaxcert.trace import rules

UNIT = jc.Box(jnp.zeros(2), jnp.ones(2))


@pytest.mark.parametrize("method", [jc.ibp, jc.crown])
def test_unsupported_primitive_names_itself_its_line_and_the_remedy(method):
    def f(p, x):
        return jnp.cumprod(x)

    line = f.__code__.co_firstlineno + 1
    with pytest.raises(jc.UnsupportedError) as error:
        method(f)(None, UNIT)
    message = str(error.value)
    assert "'cumprod'" in message
    assert f"(test_rules.py:{line})" in message
    assert "jaxcert.register_rule" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "g",
    [
        lambda x: jnp.argsort(x).astype(jnp.float32),
        lambda x: x[lax.top_k(x, 1)[1]],
        lambda x: lax.switch(jnp.argmax(x), [jnp.sin, jnp.cos], x),
        lambda x: lax.sort((jnp.arange(2), x))[1],
        lambda x: lax.while_loop(lambda z: z[0] < 2, lambda z: z + 1, x),
        lambda x: lax.fori_loop(0, 20_001, lambda i, z: z + 1, x),
        lambda x: x.at[0].add(1.0),
        lambda x: jnp.argmax(x)[None].astype(jnp.float32),
        lambda x: x.astype(jnp.int32).astype(jnp.float32),
        lambda x: jnp.power(2.0, x),
        lambda x: jnp.power(x, jnp.inf),
        lambda x: x**x,
        lambda x: lax.clamp(x, x, 2 * x),
    ],
)
def test_what_has_no_rule_is_an_error_and_no_bound(g):
    with pytest.raises(jc.UnsupportedError):
        jc.crown(lambda p, x: g(x))(None, UNIT)


def _halved(w, x, more):
    count = jnp.asarray(w[0, 0], jnp.int32)
    return lax.while_loop(
        lambda c: more(c[0], count), lambda c: (c[0] + 1, c[1] / 2), (0, x)
    )[1]


@pytest.mark.parametrize(
    "given,written_out",
    [
        (
            lambda w, x: lax.fori_loop(0, 2, lambda i, z: jax.nn.relu(w @ z) + i, x),
            lambda w, x: jax.nn.relu(w @ jax.nn.relu(w @ x)) + 1,
        ),
        (
            lambda w, x: lax.map(lambda row: jax.nn.relu(row @ x), w),
            lambda w, x: jax.nn.relu(w @ x),
        ),
        (
            lambda w, x: _halved(w, x, lambda i, count: i < 3),
            lambda w, x: x / 8,
        ),
        (
            lambda w, x: lax.switch(7, [jnp.sin, jnp.cos, lambda z: w @ z], x),
            lambda w, x: w @ x,
        ),
        (
            lambda w, x: lax.cond(w[0, 0] > 0, lambda z: z, jnp.sin, x),
            lambda w, x: jnp.where(w[0, 0] > 0, x, jnp.sin(x)),
        ),
        (
            lambda w, x: lax.cond(x[0] > 0.5, lambda z: z, lambda z: -z, x),
            lambda w, x: jnp.where(x[0] > 0.5, x, -x),
        ),
    ],
    ids=["fori", "map", "while", "switch", "branch of a weight", "branch of x"],
)
def test_loops_and_branches_have_the_bounds_of_what_they_stand_for(given, written_out):
    w = jnp.asarray([[0.5, -1.0], [2.0, 0.25]])
    box = jc.Box(jnp.asarray([-0.5, 0.25]), jnp.asarray([0.75, 1.0]))
    bounds = [jc.crown(f)(w, box).concretize(box) for f in (given, written_out)]
    np.testing.assert_allclose(bounds[0].lo, bounds[1].lo, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(bounds[0].hi, bounds[1].hi, rtol=1e-6, atol=1e-6)


def test_a_loop_that_a_weight_ends_is_refused_with_what_to_do():
    with pytest.raises(jc.UnsupportedError, match=r"test_rules.py:\d+.*lax.fori_loop"):
        jc.ibp(lambda w, x: _halved(w, x, lambda i, count: i < count))(
            jnp.ones((1, 1)), UNIT
        )


def _primitive(name: str, g):
    primitive = Primitive(name)
    primitive.def_impl(g)
    primitive.def_abstract_eval(lambda *x: jax.core.ShapedArray(x[0].shape, x[0].dtype))
    mlir.register_lowering(primitive, mlir.lower_fun(g, multiple_results=False))
    return primitive


@pytest.fixture
def registered(monkeypatch):
    """Undoes registrations after the test."""
    monkeypatch.setattr(rules, "_REGISTERED", {})


def test_registered_rule_bounds_a_primitive_of_ones_own(registered):
    cosh = _primitive("cosh_of_ours", lambda z: (jnp.exp(z) + jnp.exp(-z)) / 2)

    def f(w, x):
        return w @ cosh.bind(x)

    def even(lo, hi):
        a, c = jnp.cosh(lo), jnp.cosh(hi)
        inside = (lo <= 0) & (hi >= 0)
        return jnp.where(inside, 1.0, jnp.minimum(a, c)), jnp.maximum(a, c)

    w, box = jnp.array([[1.0, -2.0]]), jc.Box(jnp.array([-1.0, 0.5]), jnp.ones(2))
    with pytest.raises(jc.UnsupportedError, match="cosh_of_ours"):
        jc.ibp(f)(w, box)
    jc.register_rule(cosh, jc.activations.convex("cosh", jnp.cosh, even))
    z = np.random.default_rng(0).uniform(box.lo, box.hi, (50, 2)).astype(np.float32)
    y = np.stack([f(w, v) for v in z])
    for bounds in (jc.ibp(f)(w, box), jc.crown(f)(w, box).concretize(box)):
        assert (y >= bounds.lo - 1e-5).all() and (y <= bounds.hi + 1e-5).all()


def test_registration_by_name_works(registered):
    twice = _primitive("twice_of_ours", lambda z: 2 * z)
    affine = jc.activations.convex("twice", lambda z: 2 * z)
    jc.register_rule("twice_of_ours", affine)
    out = jc.ibp(lambda p, x: twice.bind(x))(None, UNIT)
    assert out.hi.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("name", ["exp", "dot_general", "max"])
def test_builtin_rules_cannot_be_replaced(name: str):
    with pytest.raises(jc.InputError, match=f"'{name}' has a built-in rule; wrap"):
        jc.register_rule(name, jc.activations.EXP)


def test_a_registered_activation_must_have_one_operand(registered):
    scaled = _primitive("scaled_of_ours", lambda z, c: z * c)
    jc.register_rule(scaled, jc.activations.convex("scaled", lambda z: z))
    with pytest.raises(
        jc.UnsupportedError, match="elementwise function of one operand"
    ):
        jc.ibp(lambda p, x: scaled.bind(x, p))(-jnp.ones(2), UNIT)


def test_a_gather_out_of_bounds_reads_its_fill_value():
    index = jnp.array([0, 7])

    def f(p, x):
        return x.at[index].get(mode="fill", fill_value=-5.0)

    for bounds in (jc.ibp(f)(None, UNIT), jc.crown(f)(None, UNIT).concretize(UNIT)):
        assert bounds.lo.tolist() == [0.0, -5.0] and bounds.hi.tolist() == [1.0, -5.0]


def test_a_gather_that_fills_with_nan_is_never_a_number():
    def f(p, x):
        return x.at[jnp.array([0, 7])].get(mode="fill")

    bounds = jc.crown(f)(None, UNIT).concretize(UNIT)
    assert np.isnan([bounds.lo[1], bounds.hi[1]]).all()


@pytest.mark.parametrize("ordered", [jnp.sort, lambda z: lax.top_k(z, 3)[0]])
def test_order_tells_nothing_where_nothing_is_known_of_one_element(ordered):
    """1/(x - 0.5) takes all values, and NaN as its range would be sorted last."""
    bounds = jc.ibp(lambda p, x: ordered(jnp.append(1 / (x[:1] - 0.5), x + 1)))
    assert np.isnan(bounds(None, UNIT).lo).all()


@pytest.mark.parametrize("method", [jc.ibp, jc.crown])
def test_an_integer_box_does_not_round_the_weights(method):
    box = jc.Box(jnp.zeros(2, jnp.int32), jnp.ones(2, jnp.int32))
    with pytest.raises(jc.InputError, match="has type int32; give it a float type"):
        method(lambda w, x: w @ x)(jnp.array([[0.5, -0.5]]), box)


UNDEFINED = {
    "sqrt of negative": lambda x: jnp.sqrt(x - 0.5),
    "log of negative": lambda x: jnp.log(x - 0.5),
    "log of zero": jnp.log,
    "log1p below -1": lambda x: jnp.log1p(x - 1.5),
    "pole inside": lambda x: 1 / (x - 0.5),
    "pole at the edge": lambda x: 1 / x,
    "rsqrt of zero": lax.rsqrt,
    "power of negative": lambda x: (x - 0.5) ** 0.75,
    "pole of an even power": lambda x: (x - 0.5) ** -2,
    "overflow": lambda x: jnp.exp(jnp.exp(20 * x)),
    "infinity minus infinity": lambda x: jnp.exp(1e4 * x) - jnp.exp(1e4 * x),
    "zero times infinity": lambda x: 0 * jnp.exp(1e4 * x),
    "quotient of zeros": lambda x: x / x,
    "nan constant": lambda x: x + jnp.nan,
    "relu of a nan": lambda x: jax.nn.relu(jnp.log(x - 0.5)),
    "max with a nan": lambda x: jnp.maximum(jnp.log(x - 0.5), 3.0),
}


@pytest.mark.parametrize("oracle", sampled(["crown", "ibp"]))
@pytest.mark.parametrize("name", UNDEFINED)
def test_what_is_undefined_in_the_box_is_never_proved(name: str, oracle: str):
    g = UNDEFINED[name]

    def f(p, x):
        return jnp.concatenate([g(x), 0 * x[:1] - 100.0])

    spec = jc.Spec.rows(jnp.array([[1.0, 0, -1.0], [0.0, 0, 1]]), jnp.array([0.0, 200]))
    options = jc.CertifyOptions(oracle=oracle, attack=None)
    verdict = jc.verify(f, None, UNIT, spec, options=options)
    assert not verdict.proved
