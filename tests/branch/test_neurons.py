"""Reduced networks, ranges of neurons by branch and bound, and the rounds of both."""

from __future__ import annotations

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_network, relu_network, residual_network, sampled
from exact import exact_min_margin

import jaxcert as jc
from jaxcert.bounds.alpha import layout_of
from jaxcert.branch import rounds
from jaxcert.branch.brackets import ApothemAnswer, begin
from jaxcert.branch.instances import ApothemTask
from jaxcert.branch.neurons import NeuronOptions, branched_ranges, least_rows
from jaxcert.branch.reduced import reduced
from jaxcert.branch.signs import BranchOptions
from jaxcert.devices import float64
from jaxcert.model import Model

SIZES = (3, 8, 8, 3)
BOX = jc.Box(np.full(3, -0.2), np.full(3, 0.3))
# Only the whole box is bounded before neurons are branched.
AT_ONCE = BranchOptions(
    narrow=0, neurons=NeuronOptions(after=0, rounds=(8, 32), leaves=128, bucket=8)
)
SPEC = jc.Spec.rows(np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]]), np.zeros(2))


def transposed(params):
    return [(np.asarray(w, np.float64).T, np.asarray(b, np.float64)) for w, b in params]


def task_of(spec, box=BOX):
    return ApothemTask.of_boxes(
        *jax.tree.map(lambda v: np.asarray(v)[None], (box, spec))
    )


@float64()
def what_is_left(model, spec=SPEC, box=BOX):
    """The reduced network, from the ranges that branch and bound starts from, and which
    neurons of the network its layers are."""
    root = begin(model, task_of(spec, box), AT_ONCE).root
    ranges, slack, cost = jax.tree.map(
        lambda v: v[0], (root.ranges, root.slack, root.cost)
    )
    layout = layout_of(model.program)
    rows = np.asarray(spec.coefficients)
    small = reduced(layout, model, box, ranges, rows, (slack, cost))
    boxes = [ranges[node.inputs[0]] for node in layout.nodes]
    return small, [np.flatnonzero((z.lo < 0) & (z.hi > 0)) for z in boxes]


@pytest.mark.parametrize("network", [relu_network, residual_network])
@pytest.mark.parametrize("width", [0.0, 0.1, 0.4])
def test_a_reduced_network_is_the_network_on_the_box(network, width):
    model = Model(network, random_network(SIZES, 3), (3,))
    center = np.array([0.3, -0.2, 0.5])
    box = jc.Box(center - width / 2, center + width / 2)
    small, neurons = what_is_left(model, box=box)
    x = np.random.default_rng(0).uniform(box.lo, box.hi, (200, 3))
    apart = np.abs(model.outputs(x) - small.model.outputs(x)).max()
    assert apart <= float(small.slack)
    left = sum(n.size for n in neurons)
    assert left == sum(int(np.sum((z.lo < 0) & (z.hi > 0))) for z in small.ranges)
    assert left < layout_of(model.program).size, "the box decides some neuron"
    if width == 0:
        assert left == 0


@pytest.mark.parametrize("seed", sampled(range(6), 2))
def test_bounds_are_the_least_values(seed):
    """Of neurons and of the spec's rows; judged by MILPs."""
    params = random_network(SIZES, seed)
    model, weights = Model(relu_network, params, (3,)), transposed(params)
    before, neurons = what_is_left(model)
    options = dataclasses.replace(AT_ONCE.neurons, enough=0.0)

    def exact(layers, row):
        return exact_min_margin(layers, BOX.lo, BOX.hi, row, 0.0).value

    coefficients = np.asarray(SPEC.coefficients)
    offset = np.array([-0.1 - exact(weights, row) for row in coefficients])
    with float64():
        small, work = branched_ranges(options, before, BOX, 32)
        rows = small.maps[-1].combined(coefficients, offset)
        ask = functools.partial(least_rows, options, small, 2, BOX, rows)
        (start, _), (least, _) = ask(0), ask(128)
    assert work > 0
    # The least value is -0.1; HiGHS is right to 1e-6.
    assert np.all(least <= -0.1 + 1e-6)
    assert np.all(-0.1 - least <= 0.5 * (-0.1 - start))
    old, new = before.ranges[1], small.ranges[1]
    assert neurons[1].size > 0
    for place, neuron in enumerate(neurons[1]):
        row = np.eye(8)[neuron]
        lo, hi = exact(weights[:2], row), -exact(weights[:2], -row)
        assert old.lo[place] <= new.lo[place] <= lo + 1e-6
        assert hi - 1e-6 <= new.hi[place] <= old.hi[place]
        decided = new.lo[place] >= 0 or new.hi[place] <= 0
        width, was = new.hi[place] - new.lo[place], old.hi[place] - old.lo[place]
        assert decided or width - (hi - lo) <= 0.5 * (was - (hi - lo)) + 1e-6


def test_nothing_is_narrowed_when_time_is_over():
    model = Model(relu_network, random_network(SIZES, 0), (3,))
    small, _ = what_is_left(model)
    with float64():
        after, work = branched_ranges(AT_ONCE.neurons, small, BOX, 32, deadline=0.0)
    assert work == 0
    for old, new in zip(small.ranges, after.ranges, strict=True):
        np.testing.assert_array_equal(old.lo, new.lo)
        np.testing.assert_array_equal(old.hi, new.hi)


@pytest.mark.campaign
@pytest.mark.parametrize("depth", [1e-3, -1e-3])
@pytest.mark.parametrize("seed", range(8))
def test_rounds_decide_what_the_whole_network_does(seed, depth):
    """Clauses of two rows, of which one holds, by 1e-3, or neither at some point."""
    params = random_network(SIZES, seed)
    model, weights = Model(relu_network, params, (3,)), transposed(params)
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((2, 3))
    least = exact_min_margin(weights, BOX.lo, BOX.hi, rows[0], 0.0)
    other = np.array([rows[1] @ model.outputs(least.point[None])[0]])
    offset = np.array([-least.value + depth, -other[0] - 10.0])
    spec = jc.Spec(rows, offset, np.zeros(2, np.int32), 1)
    answer = rounds.close_in_rounds(model, task_of(spec), AT_ONCE)
    assert not answer.open[0]
    assert bool(answer.improved[0]) == (depth > 0)
    assert np.isfinite(answer.upper[0]) == (depth < 0)
    if depth < 0:
        y = model.outputs(answer.witness)[0]
        assert np.all(rows @ y + offset <= 0)
        assert np.all((BOX.lo <= answer.witness[0]) & (answer.witness[0] <= BOX.hi))


def test_rounds_close_brackets_on_the_exact_radius():
    """The family is that of balls, whose radius falls while rounds go on."""
    params = random_network(SIZES, 1)
    model = Model(relu_network, params, (3,))
    x = np.array([[0.1, 0.2, -0.1]])
    margin = np.asarray(SPEC.coefficients) @ model.outputs(x)[0]
    sides = np.where(margin > 0, 1.0, -1.0)
    spec = jc.Spec.rows(np.asarray(SPEC.coefficients) * sides[:, None], np.zeros(2))
    domain = jc.Box(np.full(3, -3.0), np.full(3, 3.0))
    task = ApothemTask(
        family=jc.box.Family.many(
            jc.Box.point(x), domain, jc.Rates(np.ones(3), np.ones(3))
        ),
        spec=jax.tree.map(lambda v: np.asarray(v)[None], spec),
        lower=np.zeros(1), upper=np.full(1, np.inf), witness=np.full((1, 3), np.nan),
        reach=np.full(1, 3.0), wanted=np.ones(1, bool), tolerance=1e-3,
    )  # fmt: skip
    answer = rounds.close_in_rounds(model, task, AT_ONCE)
    assert not answer.open[0]
    assert answer.upper[0] - answer.lower[0] <= 1e-3

    def least(radius: float) -> float:
        lo, hi = np.maximum(x[0] - radius, -3.0), np.minimum(x[0] + radius, 3.0)
        rows = np.asarray(spec.coefficients)
        found = (exact_min_margin(transposed(params), lo, hi, r, 0.0) for r in rows)
        return min(minimum.value for minimum in found)

    # HiGHS is right to 1e-6.
    assert least(answer.lower[0]) >= -1e-6
    assert least(answer.upper[0]) <= 1e-6


def test_what_rounds_find_of_an_input_is_its_own(monkeypatch):
    """Two of three inputs are open; what is found of each is told by its offset."""
    count = 3
    points = np.arange(9.0).reshape(count, 3)
    spec = jc.Spec(
        np.tile([[1.0, -1.0, 0.0]], (count, 1, 1)), np.array([[0.5], [1.5], [2.5]]),
        np.zeros((count, 1), np.int32), 1,
    )  # fmt: skip
    task = ApothemTask.of_boxes(jc.Box(points, points), spec)

    def answer(lower, box, opened):
        size = len(lower)
        return ApothemAnswer(
            lower=np.array(lower), box=box, improved=np.array(lower) > 0,
            upper=np.full(size, np.inf), witness=np.full((size, 3), np.nan),
            processed=np.ones(size, int), open=np.array(opened),
        )  # fmt: skip

    def by_rounds(model, own, neurons, options, root, until, judge):
        (row,) = root
        np.testing.assert_array_equal(own.family.core.lo, points[row : row + 1])
        return answer(own.spec.offset[0], own.family.core, [False])

    first = answer([0.0] * count, jc.Box(0 * points, 0 * points), [True, False, True])
    monkeypatch.setattr(rounds, "close_brackets", lambda *given, **named: first)
    begun = types.SimpleNamespace(root=np.arange(count))
    monkeypatch.setattr(rounds, "begin", lambda *given: begun)
    monkeypatch.setattr(rounds, "_by_rounds", by_rounds)
    model = Model(relu_network, random_network(SIZES, 0), (3,))
    found = rounds.close_in_rounds(model, task, AT_ONCE)
    np.testing.assert_array_equal(found.lower, [0.5, 0.0, 2.5])
    np.testing.assert_array_equal(found.improved, [True, False, True])
    np.testing.assert_array_equal(found.box.lo, points * [[1], [0], [1]])
    np.testing.assert_array_equal(found.processed, [2, 1, 2])
    assert not found.open.any()


@pytest.mark.campaign
def test_inputs_of_a_batch_take_rounds_of_their_own():
    """One holds, one is violated, one was not asked for; each answer is its own.

    Clauses have two rows, of which one holds, by 1e-3, or neither at some point.
    """
    params = random_network(SIZES, 2)
    model, weights = Model(relu_network, params, (3,)), transposed(params)
    rows = np.array([[1.0, -1.0, 0.0], [0.5, 1.0, -1.0]])
    least = exact_min_margin(weights, BOX.lo, BOX.hi, rows[0], 0.0)
    below = -10.0 - float(rows[1] @ model.outputs(least.point[None])[0])
    firsts = np.array([-least.value + 1e-3, -least.value - 1e-3, 0.0])
    offsets = np.stack([firsts, np.full(3, below)], axis=1)
    boxes = jc.Box(np.tile(BOX.lo, (3, 1)), np.tile(BOX.hi, (3, 1)))
    spec = jc.Spec(np.tile(rows, (3, 1, 1)), offsets, np.zeros((3, 2), np.int32), 1)
    task = ApothemTask.of_boxes(boxes, spec, np.array([True, True, False]))
    answer = rounds.close_in_rounds(model, task, AT_ONCE)
    np.testing.assert_array_equal(answer.open, [False, False, False])
    np.testing.assert_array_equal(answer.improved, [True, False, False])
    np.testing.assert_array_equal(np.isfinite(answer.upper), [False, True, False])
    assert np.all(answer.processed[:2] > 0)
    assert answer.processed[2] == 0
    assert np.all(rows @ model.outputs(answer.witness[1:2])[0] + offsets[1] <= 0)
    assert np.all((BOX.lo <= answer.witness[1]) & (answer.witness[1] <= BOX.hi))


def test_no_part_is_lost_where_there_is_no_room_for_it():
    """More splits are asked for than parts can be kept."""
    options = dataclasses.replace(AT_ONCE.neurons, leaves=4, rounds=(64,))
    for seed in range(4):
        params = random_network(SIZES, seed)
        model, weights = Model(relu_network, params, (3,)), transposed(params)
        small, _ = what_is_left(model)
        row = np.array([[1.0, -1.0, 0.0]])
        exact = exact_min_margin(weights, BOX.lo, BOX.hi, row[0], 0.0).value
        rows = small.maps[-1].combined(row, np.array([-0.01 - exact]))
        with float64():
            least, _ = least_rows(options, small, 2, BOX, rows, 64)
        assert least[0] <= -0.01 + 1e-6


def test_witnesses_lie_where_the_reduced_network_is_the_network():
    """Leaves are solved by programs that look for violations in the whole domain."""
    params = random_network(SIZES, 1)
    model = Model(relu_network, params, (3,))
    x = np.array([[0.1, 0.2, -0.1]])
    row = np.array([[1.0, -1.0, 0.0]])
    far = 3 * np.ones(3)
    reach = 0.25
    task = ApothemTask(
        family=jc.box.Family.many(
            jc.Box.point(x), jc.Box(-far, far), jc.Rates(np.ones(3), np.ones(3))
        ),
        spec=jc.Spec(row[None], np.zeros((1, 1)), np.zeros((1, 1), np.int32), 1),
        lower=np.zeros(1), upper=np.full(1, reach + 0.5),
        witness=np.full((1, 3), np.nan), reach=np.full(1, reach),
        wanted=np.ones(1, bool), tolerance=0.5,
    )  # fmt: skip
    seen = []
    keep = rounds.close_brackets

    def watched(model, task, *more, **named):
        seen.append((task, named["beginning"].box))
        return keep(model, task, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "close_brackets", watched)
        rounds.close_in_rounds(model, task, AT_ONCE)
    assert len(seen) > 1, "a round was taken"
    for task, box in seen[1:]:
        np.testing.assert_array_equal(np.asarray(task.family.domain.lo), box.lo)
        np.testing.assert_array_equal(np.asarray(task.family.domain.hi), box.hi)


def in_part_smooth():
    def f(params, x):
        (w, b), (v, c), (u, e) = params
        h = jax.nn.relu(w @ x + b)
        return u @ (jax.nn.relu(v @ h + c) * jnp.tanh(h)) + e

    return Model(f, random_network(SIZES, 0), (3,))


def test_smooth_networks_take_no_rounds(monkeypatch):
    asked = []
    monkeypatch.setattr(
        rounds, "close_brackets", lambda *given, **named: asked.append((given, named))
    )
    monkeypatch.setattr(rounds, "begin", None)
    model, task = in_part_smooth(), task_of(SPEC)
    rounds.close_in_rounds(model, task, AT_ONCE)
    ((given, named),) = asked
    assert given[:2] == (model, task) and not named


@pytest.mark.campaign
def test_smooth_networks_are_searched_all_the_same():
    answer = rounds.close_in_rounds(in_part_smooth(), task_of(SPEC), AT_ONCE)
    assert answer.open[0] or answer.improved[0] or np.isfinite(answer.upper[0])
