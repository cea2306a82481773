"""The machinery of branch and bound: it may give up, but never lose a subproblem."""

from __future__ import annotations

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import cancelling, exact32, random_network, sampled
from cases import relu_network as f

import jaxcert as jc
from jaxcert.bounds.alpha import layout_of
from jaxcert.bounds.ascent import AscentOptions
from jaxcert.bounds.tighten import TightenOptions
from jaxcert.box import Family
from jaxcert.branch import brackets, settle
from jaxcert.branch import instances as setup
from jaxcert.branch import linear_program as leaf
from jaxcert.branch.instances import ApothemTask, Instances
from jaxcert.branch.settle import settle_leaves
from jaxcert.branch.signs import BranchOptions, resume_leaves, run_chunk
from jaxcert.certifier import float64
from jaxcert.model import Model
from jaxcert.oracle import complete
from jaxcert.verdict import Status

# Batches have 8 inputs, or 1: every size is compiled for.
UNIT = jc.Box(np.zeros(2), np.ones(2))
# Every subproblem soon becomes a leaf, and every leaf is left to linear programming.
LEAVES = BranchOptions(
    block=4, steps=1, patience=0, parked=1, narrow=0,
    ascent=AscentOptions(iterations=1), tighten=TightenOptions(iterations=0),
)  # fmt: skip
GRID = np.stack(np.meshgrid(*[np.linspace(0, 1, 301)] * 2), axis=-1).reshape(-1, 2)
ROW = np.array([[1.0, -1.0]])


def network(seed: int):
    return random_network((2, 8, 2), seed)


def forward(params, z):
    (w, b), (v, c) = params
    return np.maximum(z @ w.T + b, 0) @ v.T + c


def model_of(params):
    return Model(f, params, (2,))


def violated(params, depth: float = 1e-2):
    """A spec whose clause is `-depth` or less at some point of the unit square."""
    least = (forward(params, GRID) @ ROW[0]).min()
    return jc.Spec.disjunction(ROW, np.array([-least - depth]))


def decide(params, spec, options, deadline=np.inf):
    spec = jax.tree.map(np.asarray, spec)
    return complete.branch_and_bound(model_of(params), UNIT, spec, options, deadline)


def task_of(params, x, reach, offsets, wanted=None):
    """One clause per input over its ball: `y0 - y1 + offset > 0`."""
    count = len(x)
    return ApothemTask(
        family=Family.many(
            jc.Box.point(np.asarray(x)), UNIT, jc.Rates(np.ones(2), np.ones(2))
        ),
        spec=jc.Spec(
            np.tile(ROW, (count, 1, 1)), np.reshape(offsets, (count, 1)),
            np.zeros((count, 1), np.int32), 1,
        ),
        lower=np.full(count, -1.0), upper=np.full(count, np.inf),
        witness=np.full((count, 2), np.nan), reach=np.asarray(reach),
        wanted=np.ones(count, bool) if wanted is None else wanted, tolerance=1e9,
    )  # fmt: skip


def close(params, task, options, deadline=np.inf):
    return brackets.close_brackets(model_of(params), task, options, deadline)


def kinds(answer, reach) -> str:
    """P, R or U per input; a witness may lie beyond the ball that was asked about."""
    full = answer.improved & (answer.lower >= reach)
    found = answer.upper <= reach * (1 + 1e-12)
    return "".join(
        "P" if p else "R" if r else "U" for p, r in zip(full, found, strict=True)
    )


def batch(seed: int, count: int):
    """Inputs whose clause is clearly violated or barely so, or holds, in turn."""
    rng = np.random.default_rng(seed)
    params = network(seed)
    x, reach = rng.uniform(0.2, 0.8, (count, 2)), rng.uniform(0.1, 0.5, count)
    offsets, holds = [], []
    for i in range(count):
        lo, hi = np.maximum(x[i] - reach[i], 0), np.minimum(x[i] + reach[i], 1)
        least = (forward(params, lo + (hi - lo) * GRID) @ ROW[0]).min()
        shift = (-1e-2, 0.1, -0.5)[i % 3]
        offsets.append(-least + shift)
        holds.append(shift > 0)
    return params, x, reach, np.array(offsets), np.array(holds)


def clock(readings: int):
    """A `time` whose clock passes every deadline after so many readings."""
    left = iter(range(readings))
    return types.SimpleNamespace(
        monotonic=lambda: 0.0 if next(left, None) is not None else 1e9
    )


# ---------------------------------------------------------------- deadlines and room


@pytest.mark.parametrize("readings", sampled([*range(13), 20, 30], 5))
def test_a_deadline_at_any_moment_claims_nothing_false(readings: int, monkeypatch):
    for seed in (2, 3):
        params = network(seed)
        now = clock(readings)
        for module in (brackets, settle, leaf):
            monkeypatch.setattr(module, "time", now)
        verdict, _ = decide(params, violated(params), LEAVES, deadline=1.0)
        assert verdict.status != Status.PROVED, seed
        if readings == 0:
            assert verdict.status == Status.UNKNOWN


def test_a_deadline_in_the_past_leaves_the_brackets_as_they_were():
    params, x, reach, offsets, _ = batch(0, 8)
    task = task_of(params, x, reach, offsets)
    task = dataclasses.replace(
        task, lower=np.full(8, 0.01), upper=np.full(8, 0.4), tolerance=1e-3
    )
    answer = close(params, task, LEAVES, deadline=-1.0)
    still = ~answer.improved
    assert still.any()
    assert (answer.lower[still] == 0.01).all()
    assert (answer.upper == 0.4).all()
    assert (answer.processed == 0).all()


@pytest.mark.campaign
@pytest.mark.parametrize("seed", [1])
def test_a_tiny_stack_is_unknown_or_right(seed: int, monkeypatch):
    monkeypatch.setattr(setup, "_MOST_ITEMS", 1)
    params, x, reach, offsets, holds = batch(seed, 60)
    options = dataclasses.replace(LEAVES, block=16, parked=64, steps=2)
    answer = close(params, task_of(params, x, reach, offsets), options)
    for kind, good in zip(kinds(answer, reach), holds, strict=True):
        assert kind != ("R" if good else "P")


def _instances(task, ranges, slack, cost) -> Instances:
    return Instances(
        family=task.family, ranges=ranges, slack=slack,
        split_cost=cost, floor=task.lower, width=np.float64(1.0),
        owner=np.arange(len(task.lower), dtype=np.int32),
        clause=np.zeros(len(task.lower), np.int32),
        rows=task.spec.coefficients, offset=task.spec.offset,
    )  # fmt: skip


def _full_stack(params, rows: int, capacity: int):
    """Instances, and a state with so many subproblems of input 1 on its stack."""
    layout = layout_of(model_of(params).program)
    task = task_of(params, np.full((2, 2), 0.5), np.full(2, 0.5), np.zeros(2))
    box = jc.Box(np.zeros((2, 2)), np.ones((2, 2)))
    with float64():
        root = brackets.roots(layout, LEAVES, model_of(params), box, task.spec)
        instances = _instances(task, root.ranges, root.slack, root.cost)
        instances, state = setup.start(
            layout, instances, setup.Room(4, 1), np.full(2, 0.5), box, root.slopes, task
        )
    signs = np.random.default_rng(0).integers(-1, 2, (capacity, 8)).astype(np.int8)
    pool = dataclasses.replace(
        state.items, instance=np.ones(capacity, np.int32), signs=signs,
        ranges=jax.tree.map(lambda v: v[:capacity], state.items.ranges),
        multipliers=jax.tree.map(lambda v: v[:capacity], state.items.multipliers),
        tries=np.zeros(capacity, np.int32),
    )  # fmt: skip
    return (
        layout,
        instances,
        dataclasses.replace(state, items=pool, count=np.int32(rows)),
    )


@pytest.mark.parametrize("missing", [6, 5])
def test_leaves_that_are_given_up_leave_an_almost_full_stack_alone(missing: int):
    capacity, params = 64, network(0)
    rows = capacity - missing
    layout, instances, state = _full_stack(params, rows, capacity)
    before = np.array(state.items.instance[:rows]), np.array(state.items.signs[:rows])
    leaves = jax.tree.map(np.array, state.known.leaves)  # the state is donated
    size = len(leaves.tries)
    nothing = np.zeros(size, bool)
    with float64():
        state = resume_leaves(
            layout, model_of(params), instances, state, leaves, np.zeros((size, 2)),
            nothing, nothing,
        )  # fmt: skip
    assert int(state.count) == rows
    np.testing.assert_array_equal(state.items.instance[:rows], before[0])
    np.testing.assert_array_equal(state.items.signs[:rows], before[1])


def test_a_full_stack_with_parked_leaves_forgets_no_other_input():
    """Input 0 has a parked leaf and is given up for want of room; input 1 stays open.

    What is left of input 1 lies on top of the stack.
    """
    capacity, params = 64, network(2)
    layout, instances, state = _full_stack(params, capacity - 1, capacity)
    owned = np.repeat(np.int32([0, 1]), [capacity - 4, 4])
    pool = dataclasses.replace(state.items, instance=jnp.asarray(owned))
    state = dataclasses.replace(state, items=pool)
    parked = dataclasses.replace(
        state.known.leaves, instance=jnp.zeros_like(state.known.leaves.instance)
    )
    state = state.learned(leaves=parked, leaf_count=jnp.int32(1))
    task = task_of(params, np.full((2, 2), 0.5), np.full(2, 0.5), np.zeros(2))
    with float64():
        state = settle_leaves(layout, LEAVES, params, instances, state, task, {})
        answer = brackets._answer(instances, jax.device_get(state), task)
    assert answer.open.all()
    assert not answer.improved.any()


# --------------------------------------------------------------------------- batches


def test_a_batch_answers_as_its_inputs_do_one_at_a_time():
    params, x, reach, offsets, holds = batch(4, 8)
    together = kinds(close(params, task_of(params, x, reach, offsets), LEAVES), reach)
    alone = "".join(
        kinds(
            close(
                params,
                task_of(params, x[i : i + 1], reach[i : i + 1], offsets[i : i + 1]),
                LEAVES,
            ),
            reach[i],
        )
        for i in range(8)
    )
    assert together == alone == "".join("P" if good else "R" for good in holds)


@pytest.mark.campaign
def test_rows_of_the_instance_table_that_pad_it_are_never_read(monkeypatch):
    params, x, reach, offsets, holds = batch(5, 7)
    start = brackets.start

    def poisoned(layout, instances, *rest):
        used = len(instances.owner)
        instances, state = start(layout, instances, *rest)
        rows, offset = np.array(instances.rows), np.array(instances.offset)
        rows[used:], offset[used:] = np.nan, np.nan
        return dataclasses.replace(instances, rows=rows, offset=offset), state

    monkeypatch.setattr(brackets, "start", poisoned)
    answer = close(params, task_of(params, x, reach, offsets), LEAVES)
    assert kinds(answer, reach) == "".join("P" if good else "R" for good in holds)


def test_inputs_that_are_not_wanted_are_left_alone():
    params, x, reach, offsets, _ = batch(6, 8)
    wanted = np.array([True, False] * 4)
    answer = close(params, task_of(params, x, reach, offsets, wanted), LEAVES)
    assert not answer.improved[~wanted].any() and not answer.open[~wanted].any()
    assert (answer.processed[~wanted] == 0).all()
    assert np.isposinf(answer.upper[~wanted]).all()


# ---------------------------------------------------------------------------- leaves


@pytest.mark.parametrize("seed", sampled([2, 0, 1, 3]))
def test_leaves_are_closed_rightly_by_linear_programs(seed: int):
    params = network(seed)
    least = (forward(params, GRID) @ ROW[0]).min()
    for shift, expected in ((-1e-3, Status.REFUTED), (2e-2, Status.PROVED)):
        spec = jc.Spec.disjunction(ROW, np.array([-least + shift]))
        verdict, _ = decide(params, spec, LEAVES)
        assert verdict.status == expected
        if expected == Status.REFUTED:
            point = np.asarray(verdict.witness)
            assert (point >= 0).all() and (point <= 1).all()
            assert forward(params, point) @ ROW[0] - least + shift <= 0


def test_leaves_that_nobody_solved_stay_open(monkeypatch):
    parked = []

    def out_of_time(*given):
        search = given[4]
        parked.append((int(search.known.leaf_count), int(search.count)))
        return settle_leaves(*given[:-1], 0.0)

    monkeypatch.setattr(brackets, "settle_leaves", out_of_time)
    options = dataclasses.replace(LEAVES, parked=64)
    params = network(2)
    least = (forward(params, GRID) @ ROW[0]).min()
    spec = jc.Spec.disjunction(ROW, np.array([-least + 1e-2]))
    verdict, _ = decide(params, spec, options)
    # All that is left is parked; what it would take to prove it is not done.
    assert parked[-1][0] > 0 and parked[-1][1] == 0
    assert verdict.status == Status.UNKNOWN


def test_leaves_that_no_point_has_are_closed():
    # Neurons x and x - 1/4, x - 1/2 ... : most sign patterns have no point.
    w = np.zeros((8, 2))
    w[:, 0] = 1
    b = -np.arange(1, 9) / 9
    v = np.zeros((2, 8))
    v[0] = (-1.0) ** np.arange(8) * 3
    params = [(exact32(w), exact32(b)), (exact32(v), np.zeros(2))]
    least = (forward(params, GRID) @ ROW[0]).min()
    spec = jc.Spec.disjunction(ROW, np.array([-least + 1e-2]))
    # One whose rows are constant is not to be closed by their slope.
    verdict, _ = decide(params, spec, LEAVES)
    assert verdict.status == Status.PROVED
    verdict, _ = decide(params, violated(params, 1e-4), LEAVES)
    assert verdict.status == Status.REFUTED


@pytest.mark.parametrize("size", sampled([2.0**20, 1.0, 2.0**10]))
def test_no_multipliers_make_a_violated_subproblem_vanish(size: float):
    """Betas multiply rounding errors; a decision must charge them for it.

    Every output is -1, so nothing can be proved. The box is one point, at which a sign
    is fixed that the point really has. A huge beta on it lifts the bound by rounding.
    """
    count = 16
    for seed in range(4):
        params, x, sign = cancelling(seed, size)
        layout = layout_of(model_of(params).program)
        task = task_of(params, np.tile(x, (count, 1)), np.zeros(count), np.zeros(count))
        box = task.family.core
        with float64():
            root = brackets.roots(layout, LEAVES, model_of(params), box, task.spec)
            instances = _instances(task, root.ranges, root.slack, root.cost)
            options = dataclasses.replace(LEAVES, block=count).resolved(layout)
            instances, state = setup.start(
                layout,
                instances,
                setup.Room(count, 1),
                np.zeros(count),
                box,
                root.slopes,
                task,
            )
            pool = jax.tree.map(np.array, jax.device_get(state.items))
            pool.signs[:count, 3] = sign
            pool.multipliers.split[:count, 3] = np.geomspace(1e3, 1e30, count)
            state = dataclasses.replace(state, items=jax.tree.map(jnp.asarray, pool))
            after = run_chunk(
                layout, options, model_of(params), instances, state, jnp.int32(1)
            )
        # The point of the box is a counterexample: whoever bounded it has found it.
        refuted = np.isfinite(after.known.upper)
        waiting = np.zeros(count, bool)
        waiting[instances.owner[after.items.instance[: int(after.count)]]] = True
        waiting[
            instances.owner[after.known.leaves.instance[: int(after.known.leaf_count)]]
        ] = True
        assert (refuted | waiting).all(), "a subproblem was dropped as proved"
