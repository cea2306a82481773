"""Activations are recognised by structure: what only looks like one is not taken."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcert as jc
from jaxcert.devices import float64
from jaxcert.trace.program import ActivationNode, OpaqueNode
from jaxcert.trace.tracing import program_of

RECOGNISED = {
    "relu by where >": (lambda x: jnp.where(x > 0, x, 0), {"relu"}),
    "relu by where >=": (lambda x: jnp.where(x >= 0, x, 0.0), {"relu"}),
    "relu by zeros": (lambda x: jnp.where(x > 0, x, jnp.zeros_like(x)), {"relu"}),
    "jax.nn.relu": (jax.nn.relu, {"relu"}),
    "leaky_relu": (jax.nn.leaky_relu, {"relu"}),
    "leaky by >": (lambda x: jnp.where(x > 0, x, 0.3 * x), {"relu"}),
    "leaky, factor behind": (lambda x: jnp.where(x >= 0, x, x * 0.3), {"relu"}),
    "softplus": (jax.nn.softplus, {"softplus"}),
    "silu": (jax.nn.silu, {"silu"}),
    "silu, swapped": (lambda x: jax.nn.sigmoid(x) * x, {"silu"}),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), {"gelu"}),
    "gelu by erf": (lambda x: 0.5 * x * (1 + lax.erf(x / np.sqrt(2).item())), {"gelu"}),
    "gelu by tanh": (jax.nn.gelu, {"gelu_tanh"}),
    "elu": (jax.nn.elu, {"relu", "expm1"}),
    "elu, alpha": (lambda x: jax.nn.elu(x, 0.7), {"relu", "expm1"}),
    "selu": (jax.nn.selu, {"relu", "expm1"}),
    "hard_tanh": (jax.nn.hard_tanh, {"relu"}),
    "soft_sign": (jax.nn.soft_sign, {"soft_sign"}),
    "mish": (jax.nn.mish, {"mish"}),
    "softmax": (jax.nn.softmax, {"exp", "reciprocal"}),
    "log_softmax": (jax.nn.log_softmax, {"exp", "log"}),
}


def nodes_of(g):
    return program_of(lambda p, x: g(x), None, jnp.zeros(3)).nodes


def names(g) -> set[str]:
    return {n.activation.name for n in nodes_of(g) if isinstance(n, ActivationNode)}


@pytest.mark.parametrize("name", RECOGNISED)
def test_pattern_is_recognised(name: str):
    g, expected = RECOGNISED[name]
    assert names(g) == expected
    assert not any(isinstance(n, OpaqueNode) for n in nodes_of(g))


def relu(x):
    """Not what its name says."""
    return jnp.maximum(x, -1.0) + 0.25


def _other_softplus(x):
    # softplus of base 2: log2(1 + 2^x)
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp2(-jnp.abs(x))) / np.log(2).item()


IMPOSTORS = {
    "named relu": jax.jit(relu),
    "leaky with < instead of >": lambda x: jnp.where(x < 0, x, 0.25 * x),
    "leaky with branches swapped": lambda x: jnp.where(x > 0, 0.25 * x, x),
    "leaky of another value": lambda x: jnp.where(x >= 0, x, 0.25 * x[::-1]),
    "leaky by another sign": lambda x: jnp.where(x[::-1] >= 0, x, 0.25 * x),
    "relu with a shifted kink": lambda x: jnp.where(x > 0.125, x, 0),
    "relu with another floor": lambda x: jnp.where(x > 0, x, -0.5),
    "relu by equality": lambda x: jnp.where(x == 0, x, 0),
    "softplus of base 2": _other_softplus,
    "softplus of 2x": lambda x: jax.nn.softplus(2 * x),
    "silu with factor inside": lambda x: x * jax.nn.sigmoid(1.75 * x),
    "silu of another value": lambda x: x * jax.nn.sigmoid(x[::-1]),
    "gelu, other constant": lambda x: 0.5 * x * (1 + lax.erf(x * 0.75)),
    "gelu, other half": lambda x: 0.25 * x * (1 + lax.erf(x / np.sqrt(2).item())),
    "gelu of two values": lambda x: (
        0.5 * x * (1 + lax.erf(x[::-1] / np.sqrt(2).item()))
    ),
    "gelu_tanh, other cubic": lambda x: (
        0.5 * x * (1 + jnp.tanh(np.sqrt(2 / np.pi).item() * (x + 0.25 * x**3)))
    ),
    "elu without the guard's sign": lambda x: jnp.where(
        x > 0, x, 0.5 * jnp.expm1(jnp.where(x > 0, x, 0.0))
    ),
    "elu with another kink": lambda x: jnp.where(
        x > 0.5, x, 0.5 * jnp.expm1(jnp.where(x > 0.5, 0.0, x))
    ),
    "softmax with weights": lambda x: (
        jnp.exp(x - x[0]) / jnp.sum(jnp.exp(x - x[0]) * jnp.array([1.0, 2.0, 3.0]))
    ),
    "softmax with a part of the sum": lambda x: (
        jnp.exp(x - x.max()) / jnp.exp(x - x.max())[:2].sum()
    ),
    "softmax of two values": lambda x: (
        jnp.exp(x - x.max()) / jnp.exp(x[::-1] / 2 - x.max()).sum()
    ),
    "hard_tanh of 2": lambda x: jnp.where(x > 2, 2, jnp.where(x < -2, -2, x)),
    "hard_tanh, one side": lambda x: jnp.where(x > 1, 1, jnp.where(x < -0.5, -1, x)),
}


# Other ways to write what is tested always.
ALIKE = {
    "relu by where >=", "relu by zeros", "jax.nn.relu", "leaky by >", "silu, swapped",
    "leaky, factor behind", "gelu by erf", "elu, alpha", "selu",
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.campaign) if name in ALIKE else name
        for name in (*IMPOSTORS, *RECOGNISED)
    ],
)
def test_bounds_hold_for_what_is_computed_not_for_what_it_looks_like(name: str):
    g = IMPOSTORS.get(name) or RECOGNISED[name][0]

    def f(p, x):
        return g(x)

    rng = np.random.default_rng(1)
    ends = np.float32([(-3, 3), (-1.5, 0.25), (-0.25, 1.5), (0.05, 0.2)])
    program = program_of(f, None, np.zeros(3, np.float32))
    options = jc.CrownOptions(bucket=None)

    def one(given):
        (low, high), z = given
        box = jc.Box(jnp.full(3, low), jnp.full(3, high))
        by_crown = jc.crown(f, options)(None, box).concretize(box)
        values = jax.vmap(lambda v: program.evaluate(None, v))(z)
        return jax.vmap(g)(z), values, jc.ibp(f)(None, box), by_crown

    low, high = ends.T[:, :, None, None]
    z = rng.uniform(low, high, (len(ends), 300, 3)).astype(np.float32)
    y, values, *both = jax.device_get(jax.jit(lambda v: lax.map(one, v))((ends, z)))
    for bounds in both:
        # float32 here: a wrong pattern is off by far more than its rounding.
        assert (y >= bounds.lo[:, None] - 1e-5).all(), name
        assert (y <= bounds.hi[:, None] + 1e-5).all(), name
    np.testing.assert_allclose(values, y, atol=2e-6)


GELUS = {
    "gelu": lambda x: x * math.erfc(-x * np.float32(np.sqrt(0.5))) / 2,
    "gelu by erf": lambda x: x * math.erfc(-x / float(np.float32(np.sqrt(2)))) / 2,
    "gelu by tanh": lambda x: x / 2 * (
        1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GELUS)
def test_the_constants_of_a_pattern_are_those_of_the_trace(name: str):
    """In float32 the root of 2 is another number than in float64."""
    program = program_of(lambda p, x: RECOGNISED[name][0](x), None, jnp.zeros(1))
    with jax.enable_x64(True):
        for x in (-2.0, -0.3, 1.7):
            value = float(program.evaluate(None, jnp.array([x]))[0])
            assert value == pytest.approx(GELUS[name](np.float64(x)), rel=1e-13)


def test_an_impostor_is_no_named_activation():
    assert "silu" not in names(IMPOSTORS["silu with factor inside"])
    assert "gelu" not in names(IMPOSTORS["gelu, other constant"])
    assert "gelu_tanh" not in names(IMPOSTORS["gelu_tanh, other cubic"])
    assert "softplus" not in names(IMPOSTORS["softplus of base 2"])


def test_a_slope_that_is_a_parameter_is_no_pattern():
    def prelu(p, x):
        return jnp.where(x >= 0, x, p * x)

    slopes = jnp.array([0.5, -2.0, 3.0])
    box = jc.Box(-jnp.ones(3), jnp.ones(3))
    bounds = jc.ibp(prelu)(slopes, box)
    assert (bounds.lo <= jnp.array([-0.5, 0.0, -3.0])).all()
    assert (bounds.hi >= jnp.array([1.0, 2.0, 1.0])).all()


def test_an_inner_value_of_a_pattern_may_be_used_elsewhere():
    def f(p, x):
        s = jax.nn.sigmoid(x)
        return x * s + 3 * s

    box = jc.Box(-jnp.ones(3), jnp.ones(3))
    bounds = jc.crown(f)(None, box).concretize(box)
    z = jnp.linspace(-1, 1, 41)[:, None] * jnp.ones(3)
    y = jax.vmap(lambda v: f(None, v))(z)
    assert (y >= bounds.lo - 1e-5).all() and (y <= bounds.hi + 1e-5).all()


@pytest.mark.parametrize("gap", [10.0, 700.0, 720.0, 740.0, 800.0, 1e5])
def test_the_range_of_log_softmax_outlives_the_probabilities(gap: float):
    """Probabilities below 2^-1022 are lost; their logarithms are ordinary numbers."""

    def f(p, x):
        return jax.nn.log_softmax(x + jnp.asarray([-gap, 0.0], x.dtype))

    with float64():
        box = jc.Box(-jnp.ones(2), jnp.ones(2))
        found = jc.ibp(f)(None, box)
        corners = jnp.asarray([[-1.0, 1.0], [1.0, -1.0]])
        least, most = (f(None, z)[0] for z in corners)
    np.testing.assert_allclose(found.lo[0], least, rtol=1e-12)
    np.testing.assert_allclose(found.hi[0], most, rtol=1e-12)


def test_no_proof_from_a_probability_that_is_lost():
    def f(p, x):
        y = jax.nn.log_softmax(jnp.stack([x[0] - 800, x[1]]))
        return jax.nn.relu(p * y + 900)

    box = jc.Box(-jnp.ones(2), jnp.ones(2))
    options = jc.CertifyOptions(oracle="ibp")
    for least, proved in ((101.999, False), (102.001, True)):  # its maximum is 102
        spec = jc.Spec.rows([[-1.0, 0.0]], [least])
        verdict = jc.verify(f, np.float32(1), box, spec, options=options)
        assert bool(verdict.proved) == proved
