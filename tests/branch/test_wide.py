"""Branching what a box leaves undecided: against exact answers and attacks."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from cases import (
    random_network,
    relu_network,
    residual_network,
    sampled,
    without_shortcuts,
)
from exact import exact_min_margin

import jaxcert as jc
from jaxcert.bounds import undecided
from jaxcert.bounds.ascent import AscentOptions
from jaxcert.bounds.multineuron import CutOptions
from jaxcert.branch.signs import BranchOptions
from jaxcert.branch.wide import WideOptions, decide_wide
from jaxcert.model import Model
from jaxcert.oracle.complete import branch_and_bound, reduces
from jaxcert.verdict import Reason
from jaxcert.witness.judge import Judge

SIZES = (3, 8, 8, 3)
BOX = jc.Box(np.full(3, -0.4), np.full(3, 0.5))
ROWS = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
# Bounds alone prove little: no ranges are narrowed, and slopes hardly optimised.
AT_ONCE = WideOptions(
    above=8, slopes=1, tighten=1, root=2, block=8, capacity=256,
    ascent=AscentOptions(iterations=6),
)  # fmt: skip
BRANCH = BranchOptions(narrow=0, wide=AT_ONCE)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(undecided, "_CAPACITY", 128)
    with jax.enable_x64(True):
        yield


def asked(seed: int, depths: tuple[float, float]) -> tuple[Model, jc.Spec]:
    """A network, and rows whose least values over the box are these, up to 1e-6."""
    params = random_network(SIZES, seed)
    layers = without_shortcuts(params, BOX.lo)
    offset = [
        depth - exact_min_margin(layers, BOX.lo, BOX.hi, row, 0.0).value
        for row, depth in zip(ROWS, depths, strict=True)
    ]
    return Model(residual_network, params, (3,)), jc.Spec.rows(ROWS, np.array(offset))


def check_witness(model: Model, spec: jc.Spec, point: np.ndarray) -> None:
    assert np.all((BOX.lo <= point) & (point <= BOX.hi))
    values = ROWS @ model.outputs(point[None])[0] + np.asarray(spec.offset)
    assert values.min() <= 0


@pytest.mark.parametrize("seed", [0, 4, 8])
def test_branching_closes_what_bounds_do_not(seed):
    model, spec = asked(seed, (1e-3, 1e-2))
    answer = decide_wide(Judge(model), BOX, spec, AT_ONCE, np.inf)
    assert answer.proved and answer.witness is None
    assert answer.processed > 2


@pytest.mark.parametrize("seed", sampled(range(12), 1))
def test_what_holds_by_little_is_proved(seed):
    model, spec = asked(seed, (1e-3, 1e-2))
    answer = decide_wide(Judge(model), BOX, spec, AT_ONCE, np.inf)
    assert answer.proved or answer.reason == Reason.LIMIT
    assert branch_and_bound(model, BOX, spec, BRANCH)[0].proved
    attack = jc.AttackOptions(restarts=16, steps=30)
    found = jc.attack(residual_network, attack)(model.double, BOX, spec)
    assert not found.refuted


@pytest.mark.parametrize("seed", sampled(range(12), 2))
def test_what_is_violated_by_little_is_refuted(seed):
    model, spec = asked(seed, (1.0, -1e-3))
    answer = decide_wide(Judge(model), BOX, spec, AT_ONCE, np.inf)
    assert not answer.proved
    if answer.witness is not None:
        check_witness(model, spec, answer.witness)
    verdict, _ = branch_and_bound(model, BOX, spec, BRANCH)
    assert verdict.refuted
    check_witness(model, spec, verdict.witness)


@pytest.mark.parametrize("depth", [1e-3, -1e-3])
def test_what_cannot_be_split_ends_the_search_and_another_goes_on(depth):
    """Multipliers of leaves have no time to converge."""
    model, spec = asked(1, (depth, 1.0))
    hasty = dataclasses.replace(
        AT_ONCE, patience=0, ascent=AscentOptions(iterations=1, split_rate=1e-9)
    )
    options = dataclasses.replace(BRANCH, wide=hasty)
    stuck = decide_wide(Judge(model), BOX, spec, hasty, np.inf)
    assert not stuck.proved
    if stuck.witness is None:
        assert stuck.reason == Reason.LIMIT
    verdict, count = branch_and_bound(model, BOX, spec, options)
    assert bool(verdict.proved) == (depth > 0)
    assert bool(verdict.refuted) == (depth < 0)
    assert count > 0
    if depth < 0:
        check_witness(model, spec, verdict.witness)


def test_what_leaves_too_much_is_branched_as_a_whole(monkeypatch):
    monkeypatch.setattr(undecided, "_CAPACITY", 64)
    monkeypatch.setattr(undecided, "_MOST", 64)
    model, spec = asked(0, (1e-3, 1e-3))
    alone = decide_wide(Judge(model), BOX, spec, AT_ONCE, np.inf)
    assert (alone.proved, alone.witness, alone.reason) == (False, None, Reason.ROOM)
    assert branch_and_bound(model, BOX, spec, BRANCH)[0].proved


def test_nothing_is_proved_when_the_time_is_over():
    model, spec = asked(0, (1.0, 1.0))
    late = decide_wide(Judge(model), BOX, spec, AT_ONCE, 0.0)
    assert (late.proved, late.reason) == (False, Reason.TIME)
    verdict, _ = branch_and_bound(model, BOX, spec, BRANCH, deadline=0.0)
    assert not verdict.proved and verdict.reason == Reason.TIME


def test_where_branching_begins_with_what_is_left():
    model = Model(residual_network, random_network(SIZES, 0), (3,))
    spec = jc.Spec.rows(ROWS, np.zeros(2))
    one_clause = jc.Spec(ROWS, np.zeros(2), np.zeros(2, np.int32), 1)
    rates = jc.Rates(np.ones(3), np.ones(3), "l2")
    ball = jc.Ball(np.zeros(3), np.float64(0.1), BOX, rates)
    assert reduces(model, BOX, spec, BRANCH)
    assert not reduces(model, BOX, one_clause, BRANCH)
    assert not reduces(model, ball, spec, BRANCH)
    # Of one layer intervals say all ranges exactly.
    one_layer = Model(relu_network, random_network((3, 16, 3), 0), (3,))
    assert not reduces(one_layer, BOX, spec, BRANCH)
    for changes in (
        {"wide": None},
        {"record": True},
        {"cuts": CutOptions()},
        {"narrow": 8},
        {"wide": dataclasses.replace(AT_ONCE, above=16)},
    ):
        assert not reduces(model, BOX, spec, dataclasses.replace(BRANCH, **changes))
