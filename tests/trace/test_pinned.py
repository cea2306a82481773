"""Functions are told apart by what they are made of: no answer from a stale trace."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxcert as jc
from jaxcert.trace import activations as r
from jaxcert.trace.pinned import Pinned, pinned
from jaxcert.trace.tracing import program_of

X = np.array([0.75, 0.25])
POINT = np.zeros(2, np.float32)
scale = 1.0


def reads_global(p, x):
    return scale * x


def calls_reader(p, x):
    return reads_global(p, x)


@jax.jit
def jitted(p, x):
    return scale * x


class Net:
    """A callable with a weight of its own."""

    factor = 1.0

    def __init__(self):
        self.w = np.eye(2, dtype=np.float32)
        self.layers = [1.0]

    def __call__(self, p, x):
        return self.factor * self.layers[0] * (self.w @ x)

    def method(self, p, x):
        return self(p, x)


@dataclasses.dataclass
class Config:
    """Unhashable, compared by value."""

    slope: float = 1.0


def closure():
    """Returns (f, what sets a value of its closure anew)."""
    weight = np.eye(2)

    def f(p, x):
        return jnp.asarray(weight, jnp.float32) @ x

    def change():
        nonlocal weight
        weight = np.eye(2)[::-1]

    return f, change


def closed_over(value, change):
    """Returns (f, a change in place of what it closes over)."""

    def f(p, x):
        return jnp.asarray(np.asarray(jax.tree.leaves(value)[0]), jnp.float32) * x

    return f, lambda: change(value)


def of_object(select):
    net = Net()
    return select(net), net


def set_global(value):
    globals()["scale"] = value


def set_config(config):
    config.slope = 2.0


def set_first(values):
    values[0] = 2.0


CONFIG, PARTIAL = Config(), [1.0]
VARIABLE = nnx.Param(jnp.ones(2))


def with_default(p, x, gain=2.0):
    return gain * x


def new_default():
    with_default.__defaults__ = (3.0,)


CHANGES = {
    "closure": closure,
    "array in place": lambda: closed_over(np.ones(2), set_first),
    "list in place": lambda: closed_over([1.0], set_first),
    "global": lambda: (reads_global, lambda: set_global(2.0)),
    "global of a function it calls": lambda: (calls_reader, lambda: set_global(2.0)),
    "global of a jitted function": lambda: (jitted, lambda: set_global(2.0)),
    "default": lambda: (with_default, new_default),
    "partial": lambda: (
        functools.partial(lambda s, p, x: s[0] * x, PARTIAL),
        lambda: set_first(PARTIAL),
    ),
    "attribute": lambda: (
        lambda p, x: CONFIG.slope * x,
        lambda: set_config(CONFIG),
    ),
    "flax variable": lambda: (
        lambda p, x: VARIABLE[...] * x,
        lambda: VARIABLE.set_value(jnp.full(2, 2.0)),
    ),
}


@pytest.fixture(autouse=True)
def unchanged():
    set_global(1.0)
    PARTIAL[0], CONFIG.slope = 1.0, 1.0
    yield


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_what_f_is_made_of_is_seen(name):
    f, change = CHANGES[name]()
    before = pinned(f)
    assert before == pinned(f) and hash(before) == hash(pinned(f))
    program = program_of(f, {}, POINT)
    assert program_of(f, {}, POINT) is program
    change()
    assert pinned(f) != before
    assert program_of(f, {}, POINT) is not program
    with pytest.raises(jc.InputError, match="changed after it was handed over"):
        before({}, POINT)


@pytest.mark.parametrize("select", [lambda net: net, lambda net: net.method])
def test_a_change_of_an_object_is_seen(select):
    f, net = of_object(select)
    seen = [pinned(f)]

    def record():
        assert pinned(f) not in seen
        assert pinned(f) == pinned(f)
        seen.append(pinned(f))

    net.w[0, 1] = 3
    record()
    net.layers[0] = 2.0
    record()
    try:
        Net.factor = 2.0
        record()
    finally:
        Net.factor = 1.0
    assert pinned(f) == seen[2]


def test_certify_and_verify_answer_about_the_function_as_it_is():
    f, change = closure()
    assert jc.certify(f, {}, X, tolerance=1e-3).predicted == 0
    box = jc.Box(np.array([0.6, 0.0]), np.array([1.0, 0.5]))
    spec = jc.Spec.classification(0, 2)
    assert jc.verify(f, {}, box, spec).proved
    bounds = jc.ibp(f)
    unit = jc.Box(jnp.zeros(2), jnp.asarray([1.0, 0.5]))
    assert bounds({}, unit).hi.tolist() == [1.0, 0.5]
    change()
    assert jc.certify(f, {}, X, tolerance=1e-3).predicted == 1
    assert jc.verify(f, {}, box, spec).refuted
    assert bounds({}, unit).hi.tolist() == [0.5, 1.0]


SOURCE = """
def network(p, x):
    return gain * jnp.maximum(p @ x, 0)
"""


def defined(gain):
    cell = {"jnp": jnp, "gain": gain}
    exec(compile(SOURCE, "<cell>", "exec"), cell)
    return cell["network"]


def test_a_cell_that_is_run_again_finds_its_program():
    weights = np.eye(2, dtype=np.float32)
    program = program_of(defined(2.0), weights, POINT)
    assert program_of(defined(2.0), weights, POINT) is program
    assert program_of(defined(2), weights, POINT) is not program
    assert program_of(defined(-0.0), weights, POINT) is not program_of(
        defined(0.0), weights, POINT
    )


def test_a_function_may_count_its_own_calls():
    calls = []

    def counting(p, x):
        calls.append(1)
        return x

    f = pinned(counting)
    assert f({}, 1) == 1 and f({}, 2) == 2
    calls.append(1)
    with pytest.raises(jc.InputError, match="counting changed after"):
        f({}, 3)


def test_what_is_too_much_to_look_at_is_never_shared():
    numbers = [[i] for i in range(30_000)]

    def f(p, x):
        return numbers[0][0] * x

    assert pinned(f) != pinned(f)
    kept = pinned(f)
    assert kept == kept and kept({}, 1) == 0
    nested = []
    for _ in range(500):
        nested = [nested]
    assert pinned(lambda p, x: (nested, x)[1]) is not None


def test_a_pinned_function_inside_another_is_compared_as_it_was():
    f, change = closure()
    inner = pinned(f)
    outer = pinned(functools.partial(inner))
    change()
    assert pinned(functools.partial(inner)) == outer
    assert pinned(functools.partial(pinned(f))) != outer
    assert isinstance(inner, Pinned) and pinned(inner) is inner


def test_another_rule_of_a_primitive_is_another_function():
    primitive = jax.extend.core.Primitive("pinned_test_cube")
    primitive.def_impl(lambda x: x**3)
    primitive.def_abstract_eval(lambda x: x)
    jax.interpreters.mlir.register_lowering(
        primitive, jax.interpreters.mlir.lower_fun(lambda x: x**3, False)
    )

    def f(p, x):
        return primitive.bind(x)

    jc.register_rule(primitive, r.power(3))
    box = jc.Box(jnp.full(2, -1.0), jnp.full(2, 2.0))
    assert jc.ibp(f)({}, box).hi[0] == 8
    jc.register_rule(primitive, r.curved("wide", lambda z: z**3, 100.0))
    assert jc.ibp(f)({}, box).hi[0] > 8
