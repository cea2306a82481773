"""Bounds of many boxes in few calls: those of each, none beyond the exact minimum."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from cases import random_network, relu_network
from exact import exact_min_margin

import jaxcert as jc
from jaxcert.bounds.crown import crown
from jaxcert.devices import float64
from jaxcert.errors import InputError
from jaxcert.model import Model
from jaxcert.oracle.bounds import BoundOracle, proved_at_once


def asked(weights, rng: np.random.Generator, margin: float) -> tuple:
    """Returns a box, a row, an offset and, as given, the row's exact least value."""
    layers = [(w.T, b) for w, b in weights]
    center, c = rng.uniform(-1, 1, 3), rng.integers(-2, 3, 2).astype(float)
    lo, hi = center - 0.2, center + rng.uniform(0, 0.2, 3)
    least = exact_min_margin(layers, lo, hi, c, 0.0).value
    return jc.Box(lo, hi), c, margin - least, margin


def test_many_boxes_are_bounded_as_each_is():
    weights, rng = random_network((3, 6, 2), 4), np.random.default_rng(5)
    boxes, specs, least = [], [], []
    for i in range(45):
        box, c, offset, margin = asked(
            weights, rng, [1.0, 0.1, -1e-6, -0.5, 1e-3][i % 5]
        )
        # One row; a clause beside one that fails; a clause with one that holds.
        rows, offsets = [c, np.zeros(2), np.zeros(2)], [offset, -1.0, 1.0]
        chosen, clause = [([0], [0]), ([0, 1], [0, 1]), ([1, 0], [0, 0])][i % 3]
        specs.append(
            jc.Spec(
                np.array([rows[k] for k in chosen]),
                np.array([offsets[k] for k in chosen]),
                np.array(clause, np.int32),
                max(clause) + 1,
            )
        )
        boxes.append(box)
        least.append(-1.0 if i % 3 == 1 else margin)
    model = Model(relu_network, weights, (3,))
    found = proved_at_once(model, boxes, specs, 16)
    assert not found[np.array(least) <= 0].any()
    with float64():
        one, both = jax.jit(BoundOracle(crown(model.f))), zip(boxes, specs, strict=True)
        alone = [one(model.double, b, s, b.lo).proved for b, s in both]
    assert found.tolist() == [bool(v) for v in alone]
    assert 5 < found.sum() < 25
    assert proved_at_once(model, boxes[:3], specs[:3], 16).tolist() == list(found[:3])


def test_specs_that_are_flushed_are_refused():
    model = Model(relu_network, random_network((3, 6, 2), 4), (3,))
    box = jc.Box(np.zeros(3), np.ones(3))
    spec = jc.Spec(np.array([[1e-310, 1.0]]), np.ones(1), np.zeros(1, np.int32), 1)
    with pytest.raises(InputError, match="the spec"):
        proved_at_once(model, [box], [spec], 16)
