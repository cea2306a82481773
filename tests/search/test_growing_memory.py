"""What growth holds of its leaves at a time goes by bytes, and changes no answer."""

from __future__ import annotations

import types

import numpy as np

import jaxcert as jc
import jaxcert.memory
from jaxcert.search import growing

LEAVES, FEATURES, INPUTS = 700, 40, 2


def stopping(asked: list[int]):
    """Returns `_Run._stopping` of random leaves; notes how many it examines at once."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(LEAVES, FEATURES))
    owner = np.sort(rng.integers(0, INPUTS, LEAVES))

    class Cover:
        def __init__(self, index):
            self.index = index

        @property
        def owner(self):
            return owner[self.index]

        def rows(self, chosen):
            return Cover(self.index[chosen])

    def examine(place, leaves, weights):
        asked.append(len(leaves.index))
        return types.SimpleNamespace(weights=lambda: weight[leaves.index])

    ones = np.ones((INPUTS, FEATURES))
    run = object.__new__(growing._Run)
    run._options = types.SimpleNamespace(delta=0.1)
    run._steepest_rate, run._rounds = 1.0, np.array([3, 5])
    run._cover, run._place = Cover(np.arange(LEAVES)), None
    run._prover = types.SimpleNamespace(examine=examine)
    run._front = types.SimpleNamespace(
        box=jc.Box(ones, ones), rates=jc.Rates(ones, ones)
    )
    is_open = rng.random((INPUTS, 2 * FEATURES)) < 0.7
    run._faces = types.SimpleNamespace(open=is_open)
    exam = types.SimpleNamespace(
        excess=rng.uniform(0, 0.1, LEAVES), steepest=np.abs(weight).max(axis=1)
    )
    return run._stopping(exam)


def test_leaves_are_held_as_far_as_memory_allows(monkeypatch):
    many: list[int] = []
    everything = stopping(many)
    assert max(many) == LEAVES
    few: list[int] = []
    monkeypatch.setattr(jaxcert.memory, "free_bytes", lambda: 1 << 16)
    parts = stopping(few)
    assert max(few) <= 2 * growing._CUTS and sum(few) == LEAVES
    for whole, part in zip(everything, parts, strict=True):
        assert len(whole) > 10
        np.testing.assert_array_equal(whole, part)
