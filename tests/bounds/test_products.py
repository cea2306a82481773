"""No product of bounds may be rounded to fewer bits than float32 has (TF32)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcert as jc
from jaxcert.trace.pinned import own_settings

PRODUCTS = ("dot_general", "conv_general_dilated")
HIGHEST = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)


def mlp(params: Any, x: Any) -> Any:
    for w, b in params:
        x = w @ x + b
        hidden, x = x, jax.nn.relu(x)
    return hidden


def cnn(params: Any, x: Any) -> Any:
    (kernel, bias), *rest = params
    y = lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME")[0]
    return mlp(rest, jax.nn.relu(y + bias[:, None, None]).reshape(-1))


def made(name: str) -> tuple[Any, Any, tuple[int, ...]]:
    random = np.random.default_rng(0)

    def weights(*shape: int) -> tuple[np.ndarray, np.ndarray]:
        numbers = random.normal(size=shape).astype(np.float32)
        return numbers, np.zeros(shape[0], np.float32)

    if name == "mlp":
        return mlp, [weights(5, 4), weights(6, 5), weights(3, 6)], (4,)
    return cnn, [weights(2, 1, 3, 3), weights(5, 18), weights(3, 5)], (1, 3, 3)


def products(jaxpr: Any) -> Iterator[Any]:
    """Yields the products of a program, those of its inner programs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            yield equation
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def check(program: Any) -> int:
    """Asserts that all products have all bits; returns how many there are."""
    found = list(products(program.jaxpr))
    for equation in found:
        assert equation.params["precision"] == HIGHEST, equation
    return len(found)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("method", [jc.ibp, jc.crown, jc.alpha_crown])
def test_products_of_bounds_keep_all_bits(name, method):
    f, params, shape = made(name)
    spec = jc.Spec.classification(0, 3)

    def bounds(params: Any, x: Any) -> Any:
        box = jc.Box(x - 0.1, x + 0.1)
        return method(f).lower_rows(params, box, spec)

    with jax.default_matmul_precision("bfloat16"):
        program = jax.make_jaxpr(bounds)(params, jnp.zeros(shape))
    assert check(program) >= 3


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_products_of_gradients_keep_all_bits(name):
    """Under the settings of certifiers: attacks descend along them."""
    f, params, shape = made(name)

    def descent(params: Any, x: Any) -> Any:
        return jax.grad(lambda z: f(params, z)[0])(x)

    with jax.default_matmul_precision("bfloat16"), own_settings():
        program = jax.make_jaxpr(descent)(params, jnp.zeros(shape))
    assert check(program) >= 2
