"""Covers: their leaves leave no case out, and children are no worse than parents."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from cases import relu_network as f
from cases import sampled

import jaxcert as jc
from jaxcert.bounds.alpha import layout_of
from jaxcert.bounds.ascent import AscentOptions
from jaxcert.branch.leaves import Leaves
from jaxcert.branch.signs import BranchOptions
from jaxcert.certifier import float64
from jaxcert.model import Model
from jaxcert.search.cover import Prover, children

SIZES = (4, 8, 6, 3)
ASCENT = AscentOptions()


def prover(seed: int, sizes: tuple[int, ...] = SIZES):
    """Returns a prover of 6 inputs, boxes around them, weights and labels."""
    rng = np.random.default_rng(seed)
    params = [
        tuple(np.float32(v) for v in (rng.normal(size=(n, m)), rng.normal(size=n) / 3))
        for m, n in itertools.pairwise(sizes)
    ]
    x = rng.uniform(0.2, 0.8, (6, SIZES[0]))
    box = jc.Box(np.maximum(x - 0.3, 0), np.minimum(x + 0.3, 1))
    params64 = [tuple(np.float64(v) for v in layer) for layer in params]
    labels = [int(np.argmax(f(params64, z))) for z in x]
    specs = [jc.Spec.classification(c, SIZES[-1], 0.0, np.float64) for c in labels]
    spec = jax.tree.map(lambda *v: np.stack(v), *specs)
    model = Model(f, params, (SIZES[0],))
    layout = layout_of(model.program)
    options = BranchOptions(refine=4).resolved(layout)
    return Prover(layout, options, model, spec), box, params64, labels


def signs_at(params, z) -> np.ndarray:
    signs = []
    for w, b in params[:-1]:
        z = w @ z + b
        signs.append(np.where(z >= 0, 1, -1))
        z = np.maximum(z, 0)
    return np.concatenate(signs)


@pytest.mark.parametrize("seed", sampled([0, 1, 2]))
def test_every_point_falls_in_a_leaf_and_leaves_bound_what_is_there(seed: int):
    with float64():
        prove, box, params, labels = prover(seed)
        place = prove.at(box)
        first = prove.unsplit(place, np.ones(6, bool))
        good, bad, used = prove.prove(place, first, ASCENT, 500)
        exam = prove.examine(place, good)
        rest = prove.examine(place, bad)
    assert (exam.excess > 0).all() and used.max() > 0
    every = Leaves.joined([good, bad])
    assert prove.complete(every).all()
    without = prove.complete(every.rows(np.arange(len(every.owner)) != 3))
    assert list(np.flatnonzero(~without)) == [every.owner[3]]
    clauses = SIZES[-1] - 1
    rng = np.random.default_rng(seed)
    for j in range(6):
        for z in rng.uniform(box.lo[j], box.hi[j], (50, SIZES[0])):
            signs, logits = signs_at(params, z), f(params, z)
            margins = logits[labels[j]] - np.delete(logits, labels[j])
            for clause in range(clauses):
                inside, least = [], np.inf
                for leaves, found in ((good, exam), (bad, rest)):
                    own = (leaves.owner == j) & (leaves.clause == clause)
                    fits = ((leaves.signs == 0) | (leaves.signs == signs)).all(axis=1)
                    inside += list(np.flatnonzero(own & fits))
                    least = min(least, *found.excess[own & fits], np.inf)
                assert len(inside) == 1
                # Up to the rounding of the margins here.
                assert margins[clause] >= least - 1e-12


@pytest.mark.parametrize("seed", sampled([0, 1, 2]))
def test_children_are_bounded_no_worse_than_their_parent(seed: int):
    with float64():
        # With more layers other lines may be chosen in those before the new sign.
        prove, box, _, _ = prover(seed, (4, 12, 3))
        place = prove.at(box)
        leaves, compared = prove.unsplit(place, np.ones(6, bool)), 0
        for _ in range(3):
            exam = prove.examine(place, leaves, ASCENT)
            split = exam.splittable
            parents = jax.tree.map(lambda v, s=split: v[s], exam)
            leaves = children(leaves.rows(split), parents)
            fresh = prove.examine(place, leaves)
            both = fresh.excess.reshape(2, -1)
            assert (both >= parents.excess - 1e-9).all()
            compared += both.size
    assert compared > 100


def test_a_network_without_neurons_is_bounded_too():
    with float64():
        prove, box, params, labels = prover(0, (4, 3))
        place = prove.at(box)
        exam = prove.examine(place, prove.unsplit(place, np.ones(6, bool)))
        assert exam.multipliers.slope.shape == (12, 0) and not exam.splittable.any()
        (w, b), k = params[0], 0
        for j, label in enumerate(labels):
            for other in np.delete(np.arange(3), label):
                row = w[label] - w[other]
                least = np.minimum(row * box.lo[j], row * box.hi[j]).sum()
                least += b[label] - b[other]
                assert exam.excess[k] <= least
                assert exam.excess[k] == pytest.approx(least, abs=1e-9)
                k += 1


def test_the_bound_moves_with_the_faces_as_the_weights_say():
    with float64():
        prove, box, _, _ = prover(0, (4, 12, 3))
        place = prove.at(box)
        leaves = prove.unsplit(place, np.ones(6, bool))
        middle = (box.lo + box.hi) / 2
        half = jc.Box((box.lo + middle) / 2, (box.hi + middle) / 2)
        whole = prove.examine(place, leaves, far=half, weights=True)
        part = prove.examine(place, leaves, box=half)
    owner, weight = leaves.owner, whole.weights()
    rise = np.maximum(weight, 0) * (half.lo - box.lo)[owner]
    rise = (rise + np.minimum(weight, 0) * (half.hi - box.hi)[owner]).sum(axis=1)
    np.testing.assert_allclose(part.excess, whole.excess + rise, atol=1e-12)
    np.testing.assert_allclose(part.excess, whole.far, atol=1e-12)
    assert (part.excess > whole.excess).all()
