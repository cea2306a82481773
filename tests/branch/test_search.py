"""The search that all branch and bound shares."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from cases import random_network, relu_network

import jaxcert as jc
from jaxcert.bounds.ascent import AscentOptions
from jaxcert.branch import brackets, inputs
from jaxcert.branch.inputs import InputSplitOptions
from jaxcert.branch.signs import BranchOptions
from jaxcert.model import Model
from jaxcert.oracle.complete import branch_and_bound

OPTIONS = {
    inputs: BranchOptions(inputs=InputSplitOptions(block=2, steps=1)),
    brackets: BranchOptions(
        block=2, steps=1, narrow=0, neurons=None, ascent=AscentOptions(iterations=1)
    ),
}


@pytest.mark.parametrize("module", OPTIONS)
def test_chunks_share_one_program(module, monkeypatch):
    """A type that changes from one chunk to the next would compile it once more."""
    types = []
    run = module.run_chunk

    def watched(*arguments, **named):
        types.append([jax.typeof(v) for v in jax.tree.leaves(arguments[-2])])
        return run(*arguments, **named)

    monkeypatch.setattr(module, "run_chunk", watched)
    model = Model(relu_network, random_network((2, 16, 2), 1), (2,))
    box = jc.Box(np.full(2, -3.0), np.full(2, 3.0))
    grid = np.stack(np.meshgrid(*[np.linspace(-3, 3, 99)] * 2), -1).reshape(-1, 2)
    row = np.array([[1.0, -1.0]])
    least = (model.outputs(grid) @ row[0]).min()
    spec = jax.tree.map(np.asarray, jc.Spec.disjunction(row, np.array([1.0 - least])))
    verdict, count = branch_and_bound(model, box, spec, OPTIONS[module])
    assert verdict.status == jc.Status.PROVED and count > 4
    assert len(types) > 2
    assert all(each == types[0] for each in types)
