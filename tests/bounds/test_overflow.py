"""Coefficients that overflow prove nothing."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxcert as jc
from jaxcert.branch.signs import BranchOptions
from jaxcert.model import Model
from jaxcert.oracle.decide import Effort, decide


def relu_of_scalars(params, x):
    h = x
    for w, b in params[:-1]:
        h = jax.nn.relu(w @ h + b)
    w, b = params[-1]
    return w @ h + b


def scalars(*layers):
    return [(np.array([[w]]), np.array([b])) for w, b in layers]


@pytest.mark.parametrize(
    "effort",
    [
        Effort("crown"),
        Effort("alpha"),
        pytest.param(
            Effort("ibp", branch=BranchOptions(narrow=0)), marks=pytest.mark.campaign
        ),
        Effort("ibp", branch=BranchOptions()),
    ],
    ids=["crown", "alpha", "signs", "inputs"],
)
@pytest.mark.parametrize(
    ("layers", "least"),
    [
        # The coefficient at the input is 1e309; the least value -4e307.
        ([(1e200, 0.0), (1e109, 0.0), (1.0, -5e307)], -4e307),
        # The same, violated beside the centre alone.
        ([(1e200, 0.0), (1e109, 0.0), (1.0, -1.2e307)], -2e306),
        # The range of the second neuron would be empty, and what follows finite.
        ([(1e200, 0.0), (1e109, -1.5e307), (1e-302, -10.0)], -10.0),
    ],
)
def test_what_overflows_is_not_proved(layers, least, effort):
    params, box = scalars(*layers), jc.Box(np.array([0.01]), np.array([0.02]))
    model = Model(relu_of_scalars, params, (1,))
    value = model.outputs(box.lo[None])[0, 0]
    assert value <= least * 0.99, "the property is violated at this point"
    spec = jc.Spec.rows(np.array([[1.0]]), np.zeros(1))
    assert not decide(model, box, spec, effort).verdict.proved
