"""Branch and bound of lattices, against exact minima in fractions and by MILP."""

from __future__ import annotations

import itertools
import time
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled
from exact import evaluate, exact_min_margin

import jaxcert as jc
from jaxcert.box import Box
from jaxcert.branch import lattice as search
from jaxcert.branch.lattice import bounded, decide_lattice, leaf_error
from jaxcert.branch.signs import BranchOptions
from jaxcert.devices import float64
from jaxcert.model import Model
from jaxcert.oracle import complete
from jaxcert.oracle.complete import branch_and_bound, lattice_of
from jaxcert.trace.lattice import Lattice
from jaxcert.verdict import Reason
from jaxcert.witness.judge import Judge

PAIR = np.array([[1.0, -1, 1, -1], [1, -1, -1, 1]])
MINIMUM = np.array([[0.5], [-0.5], [-0.5], [-0.5]])
MAXIMUM = np.array([[0.5], [-0.5], [0.5], [0.5]])


def layered(params, x):
    """ReLU layers; params are pairs (weights, biases), x a row."""
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = params[-1]
    return x @ w + b


def planes(params, x):
    """The greatest of some minima of affine functions."""
    values = (x @ params["w"] + params["b"]).reshape((-1, 3))
    return jnp.max(jnp.min(values, axis=1), keepdims=True)


def two_level(seed: int):
    """Layers of max(min(l_0, l_1), min(l_2, l_3)), as files write it; few digits."""
    rng = np.random.default_rng(seed)
    w, b = rng.integers(-32, 33, (2, 4)) / 16, rng.integers(-32, 33, 4) / 16
    pairs, halves = np.kron(np.eye(2), PAIR), np.kron(np.eye(2), MINIMUM)
    return [
        (w @ pairs, b @ pairs),
        (halves @ PAIR, np.zeros(4)),
        (MAXIMUM, np.zeros(1)),
    ]


def row(sign: float, offset: float) -> jc.Spec:
    return jc.Spec.rows(np.array([[sign]]), np.array([offset]))


def decide(model: Model, box: Box, spec: jc.Spec, deadline: float = np.inf):
    """Returns what the search of a lattice answers."""
    lattice = lattice_of(model, box, spec, BranchOptions())
    assert lattice is not None
    with float64():
        return decide_lattice(Judge(model), lattice, box, spec, deadline)


def numpy_box(lo, hi) -> Box:
    return Box(np.asarray(lo, np.float64), np.asarray(hi, np.float64))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", sampled(range(30), 3))
def test_it_agrees_with_a_milp_and_random_points(seed: int):
    layers = two_level(seed)
    model, rng = Model(layered, layers, (2,)), np.random.default_rng(seed)
    lo = rng.uniform(-2, 1, 2)
    box = numpy_box(lo, lo + rng.uniform(0.1, 2, 2))
    points = rng.uniform(box.lo, box.hi, (2000, 2))
    for sign in (1.0, -1.0):
        least = exact_min_margin(layers, box.lo, box.hi, np.array([sign]), 0.0).value
        assert np.all(sign * evaluate(layers, points) >= least - 1e-6)
        assert decide(model, box, row(sign, -least + 1e-4)).proved
        found = decide(model, box, row(sign, -least - 1e-4)).witness
        assert found is not None and np.all(
            (box.lo <= found.point) & (found.point <= box.hi)
        )
        assert sign * evaluate(layers, found.point)[0] <= least + 1e-4


@pytest.mark.parametrize("seed", sampled(range(60), 4))
def test_minima_are_known_to_the_last_digits(seed: int):
    """On an interval the least value is taken at an end, or where two lines meet."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-3, 4)
    params = {
        "w": (scale * rng.normal(size=(1, 6))).astype(np.float32),
        "b": (scale * rng.normal(size=6)).astype(np.float32),
    }
    model = Model(planes, params, (1,))
    lo = rng.uniform(-1, 1)
    box = numpy_box([lo], [lo + rng.uniform(0.01, 1)])
    slopes = [Fraction(float(v)) for v in params["w"][0]]
    starts = [Fraction(float(v)) for v in params["b"]]
    ends = [Fraction(float(v[0])) for v in (box.lo, box.hi)]
    meets = [
        (starts[i] - starts[j]) / (slopes[j] - slopes[i])
        for i, j in itertools.combinations(range(6), 2)
        if slopes[i] != slopes[j]
    ]
    candidates = ends + [x for x in meets if ends[0] <= x <= ends[1]]

    def exact(x: Fraction) -> Fraction:
        values = [a * x + b for a, b in zip(slopes, starts, strict=True)]
        return max(min(values[:3]), min(values[3:]))

    for sign in (1, -1):
        least = min(sign * exact(x) for x in candidates)
        above = np.nextafter(float(-least), np.inf) + scale * 2.0**-42
        spec = row(float(sign), above)
        assert least + Fraction(above) > 0
        assert decide(model, box, spec).proved
        below = np.nextafter(float(-least), -np.inf)
        assert least + Fraction(below) <= 0
        assert not decide(model, box, row(float(sign), below)).proved


def test_a_tie_is_no_proof():
    """|x| - |y| >= -1 over a square, with equality at two points of its edge."""
    f = lambda p, x: jnp.maximum(x[:1], -x[:1]) + p * jnp.minimum(x[1:], -x[1:])  # noqa: E731
    model = Model(f, np.float32(1), (2,))
    box = numpy_box([-0.75, -1], [0.5, 1])
    assert decide(model, box, row(1.0, 1 + 2.0**-45)).proved
    tied = decide(model, box, row(1.0, 1.0))
    assert tied.witness is not None and tied.witness.margin == 0


@pytest.mark.parametrize("seed", sampled(range(10), 2))
def test_no_leaf_rounds_beyond_its_error(seed: int):
    rng = np.random.default_rng(seed)
    leaves, features = 40, 5
    lattice = Lattice(
        rng.normal(size=(leaves, features)) * 10.0 ** rng.integers(-9, 9, (leaves, 1)),
        rng.normal(size=leaves), (),
    )  # fmt: skip
    lo = rng.normal(size=(30, features))
    hi = lo + rng.uniform(0, 1, lo.shape)
    most = np.maximum(np.abs(lo), np.abs(hi)).max(axis=0)
    error, wrong = leaf_error(lattice, most), 0
    for leaf in range(leaves):
        one = Lattice(lattice.weights[leaf : leaf + 1], lattice.offset[[leaf]], ())
        least, _ = bounded(one, error[[leaf]], lo, hi)
        plain, _ = bounded(one, np.zeros(1), lo, hi)
        for i in range(len(lo)):
            exact = Fraction(lattice.offset[leaf]) + sum(
                min(Fraction(w) * Fraction(a), Fraction(w) * Fraction(b))
                for w, a, b in zip(one.weights[0], lo[i], hi[i], strict=True)
            )
            assert Fraction(least[i]) <= exact
            wrong += Fraction(plain[i]) > exact
    assert wrong  # what the error is there for


def test_what_overflows_is_not_proved():
    params = {"w": np.full((1, 6), 3e38, np.float32), "b": np.zeros(6, np.float32)}
    model = Model(planes, params, (1,))
    with np.errstate(all="raise"):
        answer = decide(model, numpy_box([1.0], [1e300]), row(1.0, 0.0))
    assert not answer.proved and answer.processed == 0
    assert answer.reason == Reason.LIMIT


def test_a_point_within_rounding_of_0_ends_the_search():
    """What cannot be halved is unknown, though it is > 0: branch and bound goes on."""
    model = Model(lambda p, x: jnp.maximum(x - p, p - x), np.float32(0.5), (1,))
    point = np.nextafter([0.5], 1)
    answer = decide(model, numpy_box(point, point), row(1.0, 0.0))
    assert (answer.proved, answer.witness, answer.processed) == (False, None, 1)
    assert answer.reason == Reason.LIMIT


def test_witnesses_of_subnormal_numbers_are_in_the_box():
    """Half of 3 units is 2, and twice that is 4."""
    model = Model(lambda p, x: jnp.minimum(x[:1], x[1:] + p), np.float32(0), (2,))
    unit = np.nextafter(0.0, 1.0)
    box = numpy_box([3 * unit, 1.0], [3 * unit, 2.0])
    answer = decide(model, box, row(-1.0, 3 * unit))
    assert answer.witness is not None
    assert answer.witness.point[0] == 3 * unit


def test_time_and_room_are_limited(monkeypatch):
    # |x - y| is least along a line, which many boxes lie around.
    model = Model(lambda p, x: jnp.abs(x[:1] - p * x[1:]), np.float32(1), (2,))
    box, spec = numpy_box([-2, -2], [2, 2]), row(1.0, 2.0**-4)
    late = decide(model, box, spec, time.monotonic() - 1)
    assert (late.proved, late.reason, late.processed) == (False, Reason.TIME, 0)
    whole = decide(model, box, spec)
    assert whole.proved and whole.processed > search._BLOCK
    monkeypatch.setattr(search, "_MOST_BOXES", search._BLOCK)
    assert decide(model, box, spec).reason == Reason.LIMIT
    # Then bounds with relaxations go on.
    asked = []
    monkeypatch.setattr(
        complete, "decide_by_input", lambda *a: asked.append(a) or (True, None, 1, 0)
    )
    verdict, _ = branch_and_bound(model, box, spec, BranchOptions())
    assert verdict.proved and len(asked) == 1


def test_branch_and_bound_of_a_lattice_compiles_no_bounds(monkeypatch):
    monkeypatch.setattr(complete, "decide_by_input", None)
    model, box = Model(layered, two_level(0), (2,)), numpy_box([-2, -2], [2, 2])
    for offset, proved in ((100.0, True), (-100.0, False)):
        verdict, count = branch_and_bound(model, box, row(1.0, offset), BranchOptions())
        assert (verdict.proved, verdict.refuted, count) == (proved, not proved, 1)
    wide = numpy_box(np.zeros(2), np.ones(2))
    assert lattice_of(model, wide, row(1.0, 0.0), BranchOptions(narrow=1)) is None
