"""Trees of halves: which features are halved, and where none is found."""

from __future__ import annotations

import time

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert.certificate.answers import stored_network
from jaxcert.certificate.halving import halving_tree
from jaxcert.checker.arithmetic import Arithmetic
from jaxcert.checker.bounds import Bounds
from jaxcert.checker.clauses import Clauses
from jaxcert.checker.network import network_of
from jaxcert.checker.tree import LEAF, leaves
from jaxcert.model import Model


def question(tmp_path, features: int, offset: float, box=(-1.0, 1.0)) -> Clauses:
    """Returns whether 10 x_0 + 2 max(x_1, 0) - x_1 + offset > 10, 1 <= x_0 <= 2.

    The other features lie in the box, and do nothing but for x_1.
    """
    inputs, outputs = np.zeros((3, features)), np.array([10.0, 2.0, -1.0])
    inputs[[0, 1, 2], [0, 1, 1]] = 1
    params = inputs, np.array([0.0, 0.0, 1.0]), outputs[None], np.array([offset - 9])

    def f(params, x):
        w, b, v, c = params
        return v @ jnp.maximum(w @ x + b, 0) + c

    stored = stored_network(Model(f, params, (features,)))
    stored.write(tmp_path)
    network = network_of((tmp_path / stored.name).read_bytes(), False)
    lo, hi = (np.full(features, end) for end in box)
    lo[0], hi[0] = 1, 2
    bounds = Bounds(Arithmetic(False), network, lo, hi, {})
    return Clauses(bounds, [(np.ones((1, 1)), np.zeros(1))])


def tree(asked: Clauses, seconds: float = 60, most: int = 99) -> list[int] | None:
    """Returns the nodes that are found, of which the bounds prove every leaf."""
    with np.errstate(all="ignore"):
        deadline = time.monotonic() + seconds
        found = halving_tree(asked.bounds, asked, deadline, most)
    if found is None:
        return None
    for lo, hi, signs in leaves(found, *asked.bounds.ends, 3, {}):
        made = asked.bounds.enclose((lo[None], hi[None]), signs[None])
        assert (asked.every(made)[0] > 0).all()
    return found.tolist()


@pytest.mark.parametrize("features", [2, 30])
def test_what_is_halved_is_what_bounds_lose_by(tmp_path, features):
    """x_0 moves the bound most, but its least value stays: all is lost in max(x_1, 0).

    Of 30 features more than are tried do nothing.
    """
    assert tree(question(tmp_path, features, 0.1)) == [1, LEAF, LEAF]
    assert tree(question(tmp_path, features, 2.1)) == [LEAF]


def test_nothing_is_found_of_what_is_false_or_too_much(tmp_path):
    false = question(tmp_path, 2, -0.1)
    assert tree(false, most=999) is None
    true = question(tmp_path, 2, 0.1)
    assert tree(true, most=1) is None and tree(true, most=3) is not None
    assert tree(true, seconds=0) is None
    assert tree(question(tmp_path, 2, 2.1), most=1) == [LEAF]


def test_boxes_that_cannot_be_halved_are_given_up(tmp_path):
    tiny = question(tmp_path, 2, -0.1, (0.0, 5e-324))
    tiny.bounds.ends[1][0] = np.nextafter(1.0, 2.0)
    assert tree(tiny) is None
