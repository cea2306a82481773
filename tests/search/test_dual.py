"""Dual boxes against exact answers, dense grids, closed forms, and their laws."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import exact32, sampled
from scipy.optimize import linprog

import jaxcert as jc
from jaxcert.box import Box
from jaxcert.branch.cells import Reach, not_class, trim
from jaxcert.branch.inputs import InputSplitOptions
from jaxcert.branch.signs import BranchOptions
from jaxcert.certifier import Certifier
from jaxcert.model import Model
from jaxcert.search.dual import DualBox, DualOptions, DualTask, dual_boxes
from jaxcert.search.reach import ReachOptions, Ties
from jaxcert.witness.judge import MOST_SUSPECTS, Judge

SIZES = (3, 4, 3, 4)
CLASSES = SIZES[-1]
REACH = ReachOptions(prototypes=8, best=4, steps=12, restarts=3, stretches=40)
BY_INPUT = DualOptions(
    tolerance=0.01,
    reach=REACH,
    branch=BranchOptions(inputs=InputSplitOptions(block=64, capacity=1 << 13)),
)
BY_SIGNS = dataclasses.replace(BY_INPUT, batch=8, branch=BranchOptions(narrow=0))
# HiGHS is right up to about this much.
LP = 1e-7


def f(params, x):
    for w, b in params[:-1]:
        x = jax.nn.relu(w @ x + b)
    w, b = params[-1]
    return w @ x + b


def tanh_net(params, x):
    (w, b), (v, d) = params
    return v @ jnp.tanh(w @ x + b) + d


def network(seed: int, sizes=SIZES):
    rng = np.random.default_rng(seed)
    return [
        (exact32(rng.normal(size=(n, m))), exact32(rng.normal(size=n) / 2))
        for m, n in itertools.pairwise(sizes)
    ]


def forward(params, z):
    """Returns the outputs of points (n, d), by numpy."""
    for w, b in params[:-1]:
        z = np.maximum(z @ w.T + b, 0)
    return z @ params[-1][0].T + params[-1][1]


def cube(d: int, half: float = 1.0) -> Box:
    return Box(np.full(d, -half), np.full(d, half))  # type: ignore[arg-type]


def run(params, domain, labels, options, function=f, **more) -> list[DualBox]:
    model = Model(function, params, domain.lo.shape)
    points = np.zeros((0, *domain.lo.shape))
    return list(dual_boxes(model, DualTask(domain, labels, points), options, **more))


@functools.cache
def exact(seed: int, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bounding box of a class of `network(seed)` in the cube.

    By linear programs per activation pattern. [inf, -inf] if no point has it; where
    classes tie, a point is of both.
    """
    params, domain = network(seed), cube(3)
    d = len(domain.lo)
    lo, hi = np.full(d, np.inf), np.full(d, -np.inf)
    hidden = [len(b) for _, b in params[:-1]]
    for pattern in itertools.product((0.0, 1.0), repeat=sum(hidden)):
        slope, offset, used = np.eye(d), np.zeros(d), 0
        rows, limits = [], []
        for w, b in params[:-1]:
            slope, offset = w @ slope, w @ offset + b
            on = np.array(pattern[used : used + len(b)])
            used += len(b)
            rows.append((1 - 2 * on)[:, None] * slope)
            limits.append((2 * on - 1) * offset)
            slope, offset = on[:, None] * slope, on * offset
        w, b = params[-1]
        slope, offset = w @ slope, w @ offset + b
        rows.append(np.delete(slope - slope[label], label, axis=0))
        limits.append(np.delete(offset[label] - offset, label))
        given = {
            "A_ub": np.concatenate(rows),
            "b_ub": np.concatenate(limits),
            "bounds": np.stack([domain.lo, domain.hi], axis=1),
        }
        if linprog(np.zeros(d), **given).status != 0:
            continue
        for i in range(d):
            for sign in (1, -1):
                result = linprog(sign * np.eye(d)[i], **given)
                if result.status == 0:
                    lo[i], hi[i] = min(lo[i], result.x[i]), max(hi[i], result.x[i])
    return lo, hi


def assert_instances(params, box: DualBox) -> None:
    """The witness of every face is of the class, legal, and reaches the inner face."""
    outputs = forward(params, box.witness)
    others = np.delete(outputs, box.label, axis=1)
    assert np.all(outputs[:, box.label] > others.max(axis=1))
    assert np.all((box.domain.lo <= box.witness) & (box.witness <= box.domain.hi))
    d = box.witness.shape[1]
    own = box.witness[np.arange(2 * d), np.arange(2 * d) % d]
    np.testing.assert_array_equal(own, np.r_[box.inner.lo, box.inner.hi])


@pytest.mark.parametrize(
    ("options", "seeds", "least"),
    [
        pytest.param(BY_SIGNS, (0,), 4, id="signs"),
        pytest.param(BY_INPUT, (0, 3, 4), 10, id="input", marks=pytest.mark.campaign),
        pytest.param(BY_SIGNS, (3, 4), 6, id="more signs", marks=pytest.mark.campaign),
    ],
)
def test_brackets_hold_the_exact_face_and_are_closed(options, seeds, least):
    domain, smaller, empty = cube(3), 0, 0
    for seed in seeds:
        params = network(seed)
        for box in run(params, domain, range(CLASSES), options):
            lo, hi = exact(seed, box.label)
            assert np.all(box.outer.lo <= lo + LP) and np.all(hi <= box.outer.hi + LP)
            assert not box.open.any()
            assert (box.seconds >= 0).all() and box.seconds.shape == (6,)
            if not np.isfinite(lo).all():
                empty += box.empty
                continue
            assert not box.empty
            assert np.all(lo <= box.inner.lo + LP) and np.all(box.inner.hi <= hi + LP)
            assert np.all(box.gap <= 0.02 + 1e-12)
            assert_instances(params, box)
            smaller += int(box.smaller.sum())
    assert smaller >= least and empty >= 1


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("function", "options"), [(f, BY_SIGNS), (f, BY_INPUT), (tanh_net, BY_INPUT)]
)
def test_no_point_of_a_dense_grid_lies_outside(function, options):
    domain = cube(2, 2.0)
    axis = np.linspace(-2, 2, 161)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    outside, smaller = 0, 0
    for seed in range(4):
        params = network(seed, (2, 6, 3))
        outputs = np.asarray(jax.vmap(function, (None, 0))(params, grid))
        classes = np.argmax(outputs, axis=1)
        for box in run(params, domain, range(3), options, function):
            mine = grid[classes == box.label]
            outside += np.sum((mine < box.outer.lo) | (mine > box.outer.hi))
            smaller += int(box.smaller.sum())
            assert not box.open.any()
    assert outside == 0 and smaller >= 10


@pytest.mark.campaign
@pytest.mark.parametrize("oracle", sampled(["ibp", "crown", "complete"]))
def test_every_sound_box_lies_inside_the_dual_box(oracle: str):
    domain, rng, largest = cube(3), np.random.default_rng(0), 0.0
    options = jc.CertifyOptions(oracle=oracle, batch_size=16, attack=None)
    for seed in range(4):
        params = network(seed)
        x = rng.uniform(-1, 1, (16, 3))
        certifier = Certifier(f, params, domain, (3,), options=options)
        proved = certifier.batch(x, None)
        largest = max(largest, proved.lower.max(initial=0, where=proved.lower < 1))
        for dual in run(params, domain, range(CLASSES), BY_SIGNS):
            rows = (proved.predicted == dual.label) & (proved.lower > 0)
            assert np.all(dual.outer.lo <= proved.box.lo[rows])
            assert np.all(proved.box.hi[rows] <= dual.outer.hi)
            assert np.all(dual.outer.lo <= x[proved.predicted == dual.label])
    assert largest > 0.1


@pytest.mark.parametrize("options", sampled([BY_INPUT, BY_SIGNS]))
def test_a_part_of_the_domain_has_its_dual_box_inside(options):
    params, part = network(1), Box(np.array([-0.6, 0, -1]), np.array([0.1, 0.7, 0.4]))  # type: ignore[arg-type]
    for whole, own in zip(
        run(params, cube(3), range(CLASSES), options),
        run(params, part, range(CLASSES), options),
        strict=True,
    ):
        assert np.all(whole.outer.lo <= own.inner.lo)
        assert np.all(own.inner.hi <= whole.outer.hi)
        assert own.empty or np.all(part.lo <= own.outer.lo)


def half_space(d: int, layers: int):
    """Returns weights (d,), an offset, and a network whose class 0 is where they win.

    Linear, or with so many layers whose neurons are all active in the cube. The weights
    are multiples of 2^-10, so that nothing is rounded.
    """
    w = np.round(np.random.default_rng(5).normal(size=(2, d)) * 1024) / 1024
    normal = w[0] - w[1]
    b = np.array([1.25 - np.abs(normal).sum(), 0])
    if not layers:
        return normal, b[0], [(w, b)]
    lost = np.array([-99.0, -99.0])
    # A layer adds 8 to every feature, and the last one takes 16 away.
    last = np.concatenate([w, np.zeros((2, d))])
    params = [
        (np.eye(d + 1, d), np.full(d + 1, 8.0)),
        (np.eye(d, d + 1), np.full(d, 8.0)),
        (last, np.concatenate([b, lost]) - 16 * last.sum(axis=1)),
    ]
    return normal, b[0], params


@pytest.mark.parametrize("form", sampled([(3, 2), (12, 0)]))
def test_of_a_linear_network_the_faces_are_those_of_a_half_space(form):
    d, layers = form
    normal, offset, params = half_space(d, layers)
    domain = cube(d)
    (box,) = run(params, domain, [0], BY_INPUT)
    most = np.abs(normal).sum() + offset
    # Feature i goes against its own sign until all others cannot make up for it.
    reach = np.minimum(most / np.abs(normal) - 1, 1)
    lo = np.where(normal > 0, -reach, -1)
    hi = np.where(normal < 0, reach, 1)
    assert box.smaller.sum() >= d // 2 and not box.open.any()
    assert np.all(box.outer.lo <= lo) and np.all(hi <= box.outer.hi)
    assert np.all(lo <= box.inner.lo + LP) and np.all(box.inner.hi <= hi + LP)


def tying(behind: float = 0.0):
    """Classes 0 and 1 tie everywhere, and win from x_0 = 0.5 on.

    But for what the first of them is behind.
    """
    first = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    last = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])
    return [
        (first, np.zeros(4)),
        (np.eye(3, 4), np.zeros(3)),
        (last, np.array([-behind, 0, -1, 0.5])),
    ]


@pytest.mark.parametrize(
    "options", sampled([BY_INPUT, BY_SIGNS]), ids=["input", "signs"]
)
def test_where_two_classes_tie_a_point_is_of_both(options):
    limit = time.monotonic() + (300 if options is BY_INPUT else 5)
    for box in run(tying(), cube(3), [0, 1], options, deadline=limit):
        # Neither of them ever wins alone: whatever instance was found is a tie.
        assert not box.empty and not box.inner.lo[0] < 0.5
        assert box.outer.lo[0] <= 0.5 and box.outer.hi[0] == 1
        if options is BY_INPUT:
            assert not box.open.any() and box.on_domain.sum() == 5
            outputs = forward(tying(), box.witness)
            assert (outputs[:, 0] == outputs[:, 1]).all()
            assert (outputs[:, 0] >= 0.5).all()


@pytest.mark.parametrize("behind", [0.0, 2.0**-60])
def test_points_in_doubt_are_instances_only_if_they_tie(behind, monkeypatch):
    """A class that is behind by less than float64 tells has no instance."""
    asked, first = [], Judge.first
    monkeypatch.setattr(
        Judge, "first", lambda *a, **k: asked.append(a) or first(*a, **k)
    )
    suspects = np.random.default_rng(0).uniform(0.5, 0.9, (4, 20, 3))
    with jax.enable_x64(True):
        judge = Judge(Model(f, tying(behind), (3,)))
        ties = Ties(judge, cube(3), not_class(0, CLASSES), np.full(3, 0.01))
        reach = Reach.none((3,))
        for points in suspects:
            farthest = Reach.none((3,)).joined(points, np.ones(20, bool))
            reach = ties.joined(reach, farthest)
        inner = jax.device_get(reach.box())
    if behind:
        assert np.isnan(reach.point).all() and len(asked) == MOST_SUSPECTS
    else:
        # All ends but the first are the domain's: there the class goes on.
        np.testing.assert_array_equal(inner.hi, [1, 1, 1])
        np.testing.assert_array_equal(inner.lo[1:], [-1, -1])
        assert 0.5 <= inner.lo[0] <= suspects[0, :, 0].min()
        # Whatever else is in doubt goes no farther.
        assert len(asked) <= 6 + len(suspects)


@pytest.mark.parametrize("options", sampled([BY_INPUT, BY_SIGNS]))
def test_without_time_or_room_the_box_is_wider_and_says_so(options):
    params, domain = network(2), cube(3)
    full = {box.label: box for box in run(params, domain, range(CLASSES), options)}
    small = InputSplitOptions(block=64, capacity=128)
    cramped = dataclasses.replace(
        options, branch=dataclasses.replace(options.branch, inputs=small)
    )
    hurried = run(params, domain, range(CLASSES), options, deadline=-1.0)
    for box in [*hurried, *run(params, domain, range(CLASSES), cramped)]:
        best = full[box.label]
        assert np.array_equal(np.isnan(box.seconds), box.open)
        assert np.all(box.outer.lo <= best.inner.lo)
        assert np.all(best.inner.hi <= box.outer.hi)
    assert all(box.open.any() for box in hurried if full[box.label].smaller.any())


def test_the_parts_of_a_cell_cover_it():
    rng = np.random.default_rng(3)
    for _ in range(200):
        lo, inner_lo = rng.integers(-4, 4, (2, 3)) / 4
        hi, inner_hi = (v + rng.integers(0, 5, 3) / 4 for v in (lo, inner_lo))
        tolerance = np.full(3, 0.25)
        cell, inner = Box(lo, hi), Box(inner_lo, inner_hi)
        look, kept, done = trim(cell, inner, tolerance)
        points = lo + (hi - lo) * rng.integers(0, 5, (60, 3)) / 4
        at = np.all((look.lo <= points) & (points <= look.hi), axis=1)
        held = np.all((kept.lo <= points) & (points <= kept.hi), axis=1)
        assert np.all(held if done else at | held)
        near = inner_lo - 0.25, inner_hi + 0.25
        assert np.all(kept.lo >= near[0]) and np.all(kept.hi <= near[1])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: DualOptions(tolerance=0.0), "tolerance is 0.0; it must be > 0"),
        (lambda: DualOptions(batch=0), "batch is 0; it must be >= 1"),
        (
            lambda: run(network(0), cube(3), [4], BY_INPUT),
            "class 4 is out of range: the classes are 0 .. 3",
        ),
        (
            lambda: run(network(0), cube(3), [0], BY_INPUT, lambda p, x: f(p, x)[0]),
            "dual boxes need a vector of at least 2 logits",
        ),
    ],
)
def test_mistakes_are_named(make, text):
    with pytest.raises(jc.InputError, match=text):
        make()
