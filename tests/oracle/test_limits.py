"""Memory and time of the complete oracle: sized by bytes, kept by the clock."""

from __future__ import annotations

import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import exact32, random_network, relu_network
from scipy.optimize import linprog

import jaxcert as jc
import jaxcert.memory
from jaxcert.bounds.alpha import layout_of
from jaxcert.branch import inputs, search
from jaxcert.branch import linear_program as leaf
from jaxcert.branch.inputs import InputSplitOptions
from jaxcert.branch.questions import ParameterSplitOptions
from jaxcert.branch.search import Pace
from jaxcert.branch.signs import BranchOptions
from jaxcert.devices import float64
from jaxcert.model import Model
from jaxcert.oracle.complete import branch_and_bound
from jaxcert.trace.tracing import program_of

GIB = 1 << 30


def linear(params, x):
    w, b = params
    return w @ x.reshape(-1) + b


def tanh(params, x):
    x = x.reshape(-1)
    for w in params[:-1]:
        x = jnp.tanh(w @ x)
    return params[-1] @ x


def asked(f, params, box, spec, options=None, deadline=np.inf):
    with float64():
        model = Model(f, params, box.lo.shape)
        spec = jax.tree.map(np.asarray, spec)
        return branch_and_bound(model, box, spec, options or BranchOptions(), deadline)


def affine(features: int, outputs: int, seed: int):
    rng = np.random.default_rng(seed)
    w, b = rng.normal(size=(outputs, features)), rng.normal(size=outputs)
    lo = rng.uniform(0, 0.9, features)
    return (exact32(w), exact32(b)), jc.Box(lo, lo + rng.uniform(0, 0.1, features))


# ---------------------------------------------------------------- linear networks


@pytest.mark.parametrize("shift", [-1e-3, 1e-3])
def test_a_wide_linear_network_is_decided_without_a_search(shift, monkeypatch):
    # Not one box of a search fits, and none is needed.
    monkeypatch.setattr(inputs, "run_chunk", None)
    (w, b), box = affine(4096, 25, 0)
    rows = w[:1] - w[1:]
    least = np.where(rows > 0, rows * box.lo, rows * box.hi).sum(axis=1)
    offset = -(least + b[0] - b[1:]) + 1.0
    offset[7] += shift - 1.0
    eye = np.eye(25)
    spec = jc.Spec.rows(eye[:1] - eye[1:], offset)
    verdict, work = asked(linear, (w, b), box, spec)
    assert work <= 24
    if shift > 0:
        assert verdict.proved
        return
    assert verdict.refuted
    z = np.asarray(verdict.witness)
    assert np.all((box.lo <= z) & (z <= box.hi))
    y = w @ z + b
    np.testing.assert_allclose(y[0] - y[8] + offset[7], shift, atol=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_clauses_of_linear_networks_against_linear_programs(seed):
    """max of the rows, least over the box, from a program of its own."""
    (w, b), box = affine(6, 4, seed)
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(5, 4))
    clause = np.array([0, 1, 1, 1, 0])
    least = []
    for c in (0, 1):
        own = rows[clause == c]
        count = len(own)
        found = linprog(
            np.append(np.zeros(6), 1.0),
            A_ub=np.hstack([own @ w, -np.ones((count, 1))]), b_ub=-own @ b,
            bounds=[*zip(box.lo, box.hi, strict=True), (None, None)],
        )  # fmt: skip
        least.append(found.fun)
    for shift, status in ((1e-4, jc.Status.PROVED), (-1e-4, jc.Status.REFUTED)):
        # The worst clause is met, or missed, by the shift; the other holds clearly.
        offset = np.array([-least[0], *[-least[1]] * 3, -least[0]]) + 1.0
        offset[clause == seed % 2] += shift - 1.0
        spec = jc.Spec(rows, offset, clause, 2)
        verdict, _ = asked(linear, (w, b), box, spec)
        assert verdict.status == status, shift
        if verdict.refuted:
            z = np.asarray(verdict.witness)
            values = rows @ (w @ z + b) + offset
            assert np.all((box.lo <= z) & (z <= box.hi))
            assert min(values[clause == c].max() for c in (0, 1)) <= 0


# ---------------------------------------------------------------- memory


def program_for(sizes):
    params = [w for w, _ in random_network(sizes, 0)]
    return program_of(tanh, params, np.zeros(sizes[0])), params


def test_the_stack_of_boxes_weighs_no_more_than_its_share(monkeypatch):
    options = InputSplitOptions()
    for features in (5, 784, 4096, 100_000):
        program, _ = program_for((features, 4, 2))
        for free in (2 * GIB, 16 * GIB, 1 << 50):
            monkeypatch.setattr(jaxcert.memory, "free_bytes", lambda free=free: free)
            fitted = options.fitted(program, 9, features)
            weight = fitted.capacity * features * 3 * 8
            assert weight <= min(free / 8, 2 * GIB)
            assert 1 <= fitted.block <= options.block
            assert fitted.block % fitted.part == 0
            assert 2 * fitted.block <= fitted.capacity <= options.capacity
    # Few features that vary have all the room there was, and so have narrow inputs.
    program, _ = program_for((4096, 4, 2))
    assert options.fitted(program, 9, 8).capacity == options.capacity
    program, _ = program_for((5, 4, 2))
    assert options.fitted(program, 9, 5) == options


@pytest.mark.campaign
def test_a_part_is_as_large_as_what_a_step_needs_allows(monkeypatch):
    """By XLA's own account of what the compiled step takes beside the stack."""
    program, params = program_for((3072, 512, 512, 10))
    free = 1 << 30
    monkeypatch.setattr(jaxcert.memory, "free_bytes", lambda: free)
    options = InputSplitOptions(part=512).fitted(program, 9, 3072)
    assert 1 < options.part < 512
    shape = (options.capacity, 3072)
    with float64():

        def like(shape, dtype=jnp.float64):
            return jax.ShapeDtypeStruct(shape, dtype)

        known = inputs.Known(
            witness=like((3072,)), refuted=like((), bool),
            suspect=like((3072,)), suspect_margin=like(()),
            stuck=like((), bool), processed=like((), jnp.int32),
        )  # fmt: skip
        face = like((3072,))
        varying = inputs.Varying(jc.Box(face, face), like((3072,), jnp.int64))
        stack = inputs.Open(
            jc.Box(like(shape), like(shape)), like(shape), like(shape[:1]),
            like(shape[:1], bool),
        )  # fmt: skip
        state = search.Search(stack, like((), jnp.int32), known)
        spec = jc.Spec.classification(0, 10, dtype=jnp.float64)
        weights = jax.tree.map(lambda w: like(w.shape), params)
        step = jax.jit(
            inputs.run_chunk.__wrapped__, static_argnames=("program", "options"),
            donate_argnames=("search",),
        )  # fmt: skip
        made = step.lower(
            program, options, weights, spec, varying, None, state, like((), jnp.int32)
        ).compile()
    used = made.memory_analysis().temp_size_in_bytes
    # A few stacks or blocks, each an eighth of what is free: not 512 boxes' worth.
    assert used <= free / 2


def test_pools_of_parameters_and_signs_go_by_bytes_too(monkeypatch):
    monkeypatch.setattr(jaxcert.memory, "free_bytes", lambda: 1 << 24)
    program, _ = program_for((2, 2000, 2))
    parameters = ParameterSplitOptions().fitted(program, 9)
    assert parameters.part < ParameterSplitOptions().part
    assert parameters.capacity * (2 * 2 + 9) * 8 <= 1 << 21
    params = random_network((9, 4000, 2), 0)
    layout = layout_of(program_of(relu_network, params, np.zeros(9)))
    small = BranchOptions().resolved(layout)
    assert 1 <= small.block < 32
    monkeypatch.setattr(jaxcert.memory, "free_bytes", lambda: 1 << 50)
    assert BranchOptions().resolved(layout).block == 32


def test_a_full_stack_and_a_time_limit_are_reasons():
    params = [exact32(w) for w, _ in random_network((2, 8, 8, 2), 3)]
    box = jc.Box(np.full(2, -1.0), np.ones(2))
    grid = np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, 201)]), -1).reshape(-1, 2)
    values = jax.vmap(tanh, (None, 0))(params, grid)
    least = float(np.min(values[:, 0] - values[:, 1]))
    # Too near to the least value to be proved with a few boxes.
    spec = jc.Spec.rows(np.array([[1.0, -1.0]]), np.array([1e-4 - least]))
    tiny = BranchOptions(inputs=InputSplitOptions(block=2, capacity=4))
    verdict, _ = asked(tanh, params, box, spec, tiny)
    assert (verdict.status, verdict.reason) == (jc.Status.UNKNOWN, jc.Reason.ROOM)
    verdict, work = asked(tanh, params, box, spec, tiny, deadline=-1.0)
    assert (verdict.status, verdict.reason) == (jc.Status.UNKNOWN, jc.Reason.TIME)
    assert work == 0


# ---------------------------------------------------------------- time


def test_chunks_are_as_long_as_a_step_allows(monkeypatch):
    now = [0.0]
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(search, "time", clock)

    def steps_taken(each: float, compiling: float, deadline: float, count: int):
        now[0], found, chunks = 0.0, [], Pace(20, deadline)
        for _ in range(count):
            with chunks.chunk() as steps:
                found.append(int(steps))
                now[0] += each * steps + compiling
                compiling = 0.0
        return found

    assert steps_taken(1e-3, 9.0, 100.0, 7) == [1, 1, 2, 4, 8, 16, 20]
    assert steps_taken(0.125, 0.0, 100.0, 4) == [1, 2, 4, 4]
    assert steps_taken(3.0, 0.0, 100.0, 4) == [1, 1, 1, 1]
    # The last ones end in time.
    assert steps_taken(0.125, 0.0, 1.125, 5) == [1, 2, 4, 2, 1]
    assert steps_taken(0.125, 0.0, np.inf, 2) == [20, 20]


@pytest.mark.campaign
def test_a_search_without_end_ends_in_time():
    """Wide enough never to be proved; most of what it does is bounding boxes."""
    _, params = program_for((12, 24, 24, 2))
    box = jc.Box(np.full(12, -1.0), np.ones(12))
    values = np.asarray(
        jax.vmap(tanh, (None, 0))(
            params, np.random.default_rng(0).uniform(-1, 1, (4096, 12))
        )
    )
    offset = 1.5 * np.abs(values).max()
    spec = jc.Spec.rows(np.array([[1.0, -1.0]]), np.array([offset]))
    options = BranchOptions(inputs=InputSplitOptions(block=8))
    point = jc.Box.point(np.zeros(12))
    assert asked(tanh, params, point, spec, options)[0].proved  # compiles
    begin = time.monotonic()
    verdict, work = asked(tanh, params, box, spec, options, begin + 3.0)
    assert (verdict.status, verdict.reason) == (jc.Status.UNKNOWN, jc.Reason.TIME)
    assert work > 0 and time.monotonic() - begin < 3.0 + 30.0


def test_linear_programs_end_at_the_deadline():
    rng = np.random.default_rng(0)
    nothing = np.zeros((0, 3)), np.zeros(0)
    maps = *nothing, rng.normal(size=(4, 3)), rng.normal(size=4), np.zeros(0)
    box, fixed = jc.Box(np.zeros(3), np.ones(3)), np.zeros(0, np.int8)
    assert leaf.proving_multipliers(maps, fixed, box) is not None
    assert leaf.proving_multipliers(maps, fixed, box, time.monotonic() - 1) is None
    family = jc.box.Family(
        jc.Box.point(np.zeros(3)), box, jc.Rates(np.ones(3), np.ones(3))
    )
    low = (*maps[:3], maps[3] - 100.0, maps[4])
    assert leaf.nearest_violation(low, fixed, family, 0.0) is not None
    late = time.monotonic() - 1
    assert leaf.nearest_violation(low, fixed, family, 0.0, late) is None
