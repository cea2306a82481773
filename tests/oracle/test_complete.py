"""The complete oracle against exact answers that share no code with it.

A false PROVED is the worst that can happen: it is asserted everywhere, without any
tolerance but that of the exact solver. How many answers are UNKNOWN is bounded too.
"""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction

import exact
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import exact32, random_network, sampled
from cases import relu_network as f

import jaxcert as jc
from jaxcert.bounds.ascent import AscentOptions
from jaxcert.bounds.tighten import TightenOptions
from jaxcert.branch.signs import BranchOptions
from jaxcert.certifier import Certifier
from jaxcert.model import Model
from jaxcert.oracle.complete import branch_and_bound
from jaxcert.verdict import Status

# What the exact solver cannot tell apart, relative to the margins' size.
SOLVER = 2e-6
# Signs are split, and inputs; the attack would hide what the search cannot do.
SIGNS = jc.CertifyOptions(
    oracle="complete",
    attack=None,
    batch_size=8,
    branch=BranchOptions(block=32, narrow=0),
)
INPUTS = dataclasses.replace(SIGNS, branch=BranchOptions(block=32))
# Every subproblem ends as a leaf that linear programming has to close.
LEAVES = dataclasses.replace(
    SIGNS,
    branch=BranchOptions(
        block=32, narrow=0, patience=0, parked=4,
        ascent=AscentOptions(iterations=1), tighten=TightenOptions(iterations=0),
    ),
)  # fmt: skip
MODES = {"signs": SIGNS, "inputs": INPUTS, "leaves": LEAVES}
# How leaves are closed is tested in ../branch/test_signs.py.
each_mode = pytest.mark.parametrize("mode", sampled(["signs", "leaves", "inputs"]))
WIDE, FLAT, ONE_LAYER = (3, 6, 6, 3), (2, 8, 2), (3, 6, 3)


def network(sizes, seed: int):
    return random_network(sizes, seed)


def forward(params, z):
    for w, b in params[:-1]:
        z = np.maximum(z @ w.T + b, 0)
    return z @ params[-1][0].T + params[-1][1]


def clauses_of(spec, y):
    """The greatest row of each clause; y has a leading axis."""
    rows = y @ np.asarray(spec.coefficients).T + np.asarray(spec.offset)
    clause = np.asarray(spec.clause)
    return np.stack(
        [rows[:, clause == c].max(axis=1) for c in range(spec.num_clauses)], axis=1
    )


def clause_minimum(params, lo, hi, rows, offset, solve=exact.exact_min_margin):
    """min over the box of the greatest row, by one more layer per row: MILP."""
    (w, b) = params[-1]
    layers = [(w.T, b) for w, b in params[:-1]]
    # Outputs r_0 .. r_k; max(r_0, r_1) = relu(r_0 - r_1) + relu(r_1) - relu(-r_1).
    w, b = rows @ w, rows @ b + offset
    while len(w) > 1:
        head, rest = w[0] - w[1], np.concatenate([w[1:], -w[1:]])
        layers.append((
            np.vstack([head, rest]).T,
            np.concatenate([[b[0] - b[1]], b[1:], -b[1:]]),
        ))  # fmt: skip
        n = len(w) - 1
        back = np.hstack([np.zeros((n, 1)), np.eye(n), -np.eye(n)])
        back[0, 0] = 1
        w, b = back, np.zeros(n)
    layers.append((w.T, b))
    return solve(layers, lo, hi, np.ones(1), 0.0).value


def spec_minimum(params, lo, hi, spec) -> float:
    clause = np.asarray(spec.clause)
    return min(
        clause_minimum(
            params, lo, hi, np.asarray(spec.coefficients)[clause == c],
            np.asarray(spec.offset)[clause == c],
        )
        for c in range(spec.num_clauses)
    )  # fmt: skip


def check(params, lo, hi, spec, options, least: float | None = None) -> int:
    """Returns the status after holding it against the exact minimum."""
    least = spec_minimum(params, lo, hi, spec) if least is None else least
    verdict = jc.verify(f, params, jc.Box(lo, hi), spec, options=options)
    allowed = SOLVER * (1 + abs(least))
    if verdict.proved:
        assert least > -allowed, f"PROVED, although the least margin is {least}"
    if verdict.refuted:
        assert least <= allowed
        z = np.asarray(verdict.witness)
        assert (lo <= z).all() and (z <= hi).all()
        assert clauses_of(spec, forward(params, z)[None]).min() <= 0
    return int(verdict.status)


def rational_minimum(params, lo, hi, row) -> Fraction:
    """min of `row @ f` over a rectangle, one hidden layer, without any rounding.

    It lies on a vertex of the lines where a neuron is 0 and of the rectangle's sides.
    HiGHS is off by up to 0.7 where weights span 1e-6 .. 1e6; this is not.
    """

    def rational(a):
        return np.array([Fraction(float(v)) for v in np.ravel(a)]).reshape(np.shape(a))

    (w, b), (v, c) = [tuple(map(rational, layer)) for layer in params]
    lo, hi, row = rational(lo), rational(hi), rational(row)
    lines = [(*n, q) for n, q in zip(w, b, strict=True) if n.any()]
    for face in (lo, hi):
        lines += [(1, 0, -face[0]), (0, 1, -face[1])]
    points = set(itertools.product((lo[0], hi[0]), (lo[1], hi[1])))
    for (a, e, q), (g, h, r) in itertools.combinations(lines, 2):
        det = a * h - e * g
        if det:
            z = (e * r - q * h) / det, (q * g - a * r) / det
            if lo[0] <= z[0] <= hi[0] and lo[1] <= z[1] <= hi[1]:
                points.add(z)
    slope = row @ v
    hidden = (np.maximum(w @ np.array(z) + b, Fraction(0)) for z in points)
    return min(slope @ h for h in hidden) + row @ c


def random_box(rng, size: int):
    """Inner, clipped, wide (all unstable), flat in a feature, on the boundary."""
    x = rng.uniform(0, 1, size)
    radius = rng.choice([0.05, 0.2, 0.5, 3.0])
    lo, hi = x - radius, x + radius
    if radius < 1:
        lo, hi = np.maximum(lo, 0), np.minimum(hi, 1)
    if rng.random() < 0.2:
        lo[0] = hi[0] = x[0]
    return lo, hi


def random_spec(rng, kind: str):
    c = rng.normal(size=(3, 3))
    if kind == "classification":
        return np.array([[1.0, -1, 0], [1, 0, -1]]), np.array([0, 1]), 2
    if kind == "disjunction":
        return c[:2], np.array([0, 0]), 1
    return c, np.array([1, 0, 1]), 2


# Every kind is compiled; classification is what certify is tested with. The test
# against rational arithmetic asks the same without a campaign.
@pytest.mark.campaign
@pytest.mark.parametrize(
    ("asked", "sizes"),
    [
        ("signs mixed", ONE_LAYER),
        ("signs mixed", WIDE),
        ("signs disjunction", WIDE),
        ("inputs mixed", WIDE),
    ],
)
def test_verdicts_agree_with_a_milp(asked: str, sizes: tuple[int, ...]):
    unknown, total, (mode, kind) = 0, 0, asked.split()
    for seed in range({"signs": 4, "inputs": 8}[mode]):
        rng = np.random.default_rng(1000 + seed)
        params = network(sizes, seed)
        lo, hi = random_box(rng, 3)
        c, clause, count = random_spec(rng, kind)
        spec = jc.Spec(c, np.zeros(len(c)), clause, count)
        if count == 2:  # both clauses come as close to 0 as the offsets below
            each = [
                clause_minimum(params, lo, hi, c[clause == k], 0 * clause[clause == k])
                for k in range(2)
            ]
            spec = dataclasses.replace(spec, offset=-np.array(each)[clause])
            least = 0.0
        else:
            least = spec_minimum(params, lo, hi, spec)
            spec = dataclasses.replace(spec, offset=np.full(len(c), -least))
            least = 0.0
        for shift in (-1e-3, 1e-3):
            moved = dataclasses.replace(spec, offset=spec.offset + shift)
            status = check(params, lo, hi, moved, MODES[mode], least + shift)
            unknown += status == Status.UNKNOWN
            total += 1
    assert unknown == 0, f"{unknown} of {total} are UNKNOWN"


def test_the_exact_answers_agree():
    row = np.array([1.0, -1.0])
    for seed in range(3):
        params = network(FLAT, seed)
        lo, hi = random_box(np.random.default_rng(seed), 2)
        least = float(rational_minimum(params, lo, hi, row))
        layers = [(w.T, b) for w, b in params]
        for solve in (exact.brute_force_min_margin, exact.exact_min_margin):
            assert solve(layers, lo, hi, row, 0.0).value == pytest.approx(
                least, abs=2e-6
            )


@each_mode
@pytest.mark.parametrize("scaled", sampled([False, True]))
def test_verdicts_agree_with_rational_arithmetic(scaled: bool, mode: str):
    """Down to margins of 1e-14, and for weights of 1e-6 .. 1e6: no tolerance at all."""
    row, unknown, total = np.array([1.0, -1.0]), 0, 0
    for seed in range(6 if mode == "leaves" else 14):
        rng = np.random.default_rng(seed)
        params = network(FLAT, seed)
        if scaled:
            (w, b), (v, c) = params
            size = 10.0 ** rng.uniform(-6, 6, (8, 1))
            params = [
                (exact32(w * size), exact32(b * size[:, 0])), (exact32(v / size.T), c)
            ]  # fmt: skip
        lo, hi = random_box(rng, 2)
        least = rational_minimum(params, lo, hi, row)
        for shift in (-1e-14, -1e-12, -1e-10, -1e-3, 1e-3):
            offset = float(Fraction(shift) - least)
            holds = least + Fraction(offset) > 0
            spec = jc.Spec.rows(row[None], np.array([offset]))
            verdict = quick(params, jc.Box(lo, hi), spec, mode)
            assert holds or not verdict.proved
            assert not (holds and verdict.refuted)
            if verdict.refuted:
                z = np.asarray(verdict.witness)
                assert (lo <= z).all() and (z <= hi).all()
                y = exact_value(params, z)
                assert y[0] - y[1] + Fraction(offset) <= 0
            if abs(shift) == 1e-3:
                unknown += verdict.status == Status.UNKNOWN
                total += 1
    # Without ascent a leaf may wait for multipliers that linear programs do not have.
    # Weights over 12 orders of magnitude may leave a leaf whose multipliers cost more
    # slack than they gain: UNKNOWN is the honest answer there.
    share = 0.2 if mode == "leaves" else 0.05 if scaled else 0.0
    assert unknown <= share * total, f"{unknown} of {total} are UNKNOWN"


@pytest.mark.parametrize("mode", sampled(MODES))
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_clauses_may_be_numbered_in_any_order(order, mode: str):
    """As many clauses as rows, but row 0 belongs to clause 1."""
    for seed in range(3):
        params = network(FLAT, seed)
        lo, hi = np.zeros(2), np.ones(2)
        least = [
            clause_minimum(params, lo, hi, row[None], np.zeros(1)) for row in np.eye(2)
        ]
        for offset in ([5.0, -1e-3], [-1e-3, 5.0]):
            spec = jc.Spec(np.eye(2), offset - np.array(least), np.array(order), 2)
            status = check(params, lo, hi, spec, MODES[mode], -1e-3)
            assert status == Status.REFUTED


# -------------------------------------------------------------------------- apothems

SETTINGS = {
    "plain": {},
    "margin": {"required_margin": 0.1},
    "negative margin": {"required_margin": -1.0},
    "rates": {"rates": jc.Rates(np.array([1, 0, 2.0]), np.array([0.5, 3, 0]))},
    "domain": {"domain": (np.array([0, -0.5, 0.2]), np.array([1, 1.5, 0.9]))},
}


@pytest.mark.campaign  # test_neurons.py closes brackets on exact radii
@pytest.mark.parametrize("name", SETTINGS)
def test_brackets_close_on_the_exact_apothem(name: str):
    settings, tolerance = SETTINGS[name], 1e-3
    required = settings.get("required_margin", 0.0)
    low, high = settings.get("domain", (np.zeros(3), np.ones(3)))
    rates = settings.get("rates", jc.Rates(np.ones(3), np.ones(3)))
    closed = total = 0
    for seed in (3, 8):
        params = network(WIDE, seed)
        rng = np.random.default_rng(seed)
        x = low + (high - low) * rng.random((8, 3))
        x[0, 0], x[1] = low[0], high  # on the boundary
        answer = jc.certify(
            f, params, x, tolerance=tolerance, options=SIGNS, **settings
        )

        def sound(i: int, r: float, params=params, x=x, answer=answer) -> float:
            """The least margin over the ball of radius r, minus the required one."""
            lo = np.maximum(x[i] - r * rates.lower, low)
            hi = np.minimum(x[i] + r * rates.upper, high)
            spec = jc.Spec.classification(answer.label[i], 3, required)
            return spec_minimum(params, lo, hi, spec)

        for i in range(8):
            assert answer.label[i] == np.argmax(forward(params, x[i]))
            lower, upper = answer.lower[i], answer.upper[i]
            assert lower <= upper
            if lower > 0:
                # In float64 the box is proved, to the solver's tolerance.
                assert sound(i, min(lower, 1e3) - 1e-6) > -SOLVER
                assert (answer.box.lo[i] <= x[i]).all()
                assert (x[i] <= answer.box.hi[i]).all()
            if np.isfinite(upper):
                assert sound(i, upper + 1e-6) < SOLVER
                z = answer.witness[i]
                assert (low <= z).all() and (z <= high).all()
                y = forward(params, z)
                c = answer.label[i]
                assert y[c] - np.delete(y, c).max() <= required
                assert upper <= float(rates.distance(x[i], z)) * (1 + 1e-6) + 1e-9
            y = forward(params, x[i])
            if np.sort(y)[-1] - np.sort(y)[-2] > required:
                total += 1
                closed += lower == upper or upper - lower <= tolerance
    assert total >= 4 and closed == total


# ------------------------------------------------------------------- special networks


def quick(params, x_or_box, spec, mode="signs"):
    return jc.verify(f, params, x_or_box, spec, options=MODES[mode])


def flat(w, b, v, c):
    """A 2-8-2 network from fewer neurons; the others are 0."""
    params = network(FLAT, 0)
    params = [(0 * w, 0 * b) for w, b in params]
    n = len(b)
    params[0][0][:n], params[0][1][:n] = exact32(w), exact32(b)
    params[1][0][:, :n], params[1][1][:] = exact32(v), exact32(c)
    return params


UNIT = jc.Box(np.zeros(2), np.ones(2))
SPEC = jc.Spec.classification(0, 2)


@each_mode
def test_ties_and_constants(mode: str):
    constant = flat(np.zeros((1, 2)), [0.0], np.zeros((2, 1)), [1.0, 0.5])
    assert quick(constant, UNIT, SPEC, mode).proved
    tie = flat(np.zeros((1, 2)), [0.0], np.zeros((2, 1)), [0.5, 0.5])
    assert not quick(tie, UNIT, SPEC, mode).proved
    # |x - 1/2|: 0 at one point, on a line; then nowhere.
    kink = [[1.0, 0], [-1, 0]], [-0.5, 0.5], [[1.0, 1], [0, 0]]
    assert not quick(flat(*kink, [0.0, 0]), UNIT, SPEC, mode).proved
    assert quick(flat(*kink, [2.0**-20, 0]), UNIT, SPEC, mode).proved
    assert quick(flat(*kink, [-(2.0**-20), 0]), UNIT, SPEC, mode).refuted
    # relu(x - 1/2): 0 on half of the square.
    ramp = [[1.0, 0]], [-0.5], [[1.0], [0]]
    assert not quick(flat(*ramp, [0.0, 0]), UNIT, SPEC, mode).proved


@each_mode
@pytest.mark.parametrize("width", sampled([1e-4, 1e-2]))
def test_needles_anywhere_are_found_or_unknown(width: float, mode: str):
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(6):
        direction = rng.normal(size=2)
        direction /= np.abs(direction).sum()
        at = direction @ rng.uniform(0.1, 0.9, 2)
        hat = at + width * np.array([-1.0, 0, 1])
        heights = np.array([1.0, -2, 1]) * 2 / width
        params = flat(np.tile(direction, (3, 1)), -hat, [-heights, 0 * heights], [1, 0])
        layers = [(w.T, b) for w, b in params]
        row = np.array([1.0, -1])
        least = exact.exact_min_margin(layers, UNIT.lo, UNIT.hi, row, 0.0).value
        assert least < -0.5
        # The spike is there to plain float64 arithmetic, too: the MILP found it.
        status = check(params, UNIT.lo, UNIT.hi, SPEC, MODES[mode], least)
        found += status == Status.REFUTED
    assert found == 6


@each_mode
def test_duplicated_and_nearly_dead_neurons(mode: str):
    for seed in range(3):
        params = network(FLAT, seed)
        w, b = params[0]
        w[4:], b[4:] = w[:4], b[:4]  # twice the same
        w[3] *= exact32(1.7e-7 / np.abs(w[3]).max())
        b[3] = exact32(-w[3].sum() / 2)
        params[1][0][:, 3] = exact32([-1e7, 1e7])
        row = np.array([1.0, -1])
        least = rational_minimum(params, UNIT.lo, UNIT.hi, row)
        for shift in (-1e-4, 1e-4):
            offset = float(Fraction(shift) - least)
            spec = jc.Spec.rows(row[None], np.array([offset]))
            check(params, UNIT.lo, UNIT.hi, spec, MODES[mode], shift)


def exact_value(params, z) -> list[Fraction]:
    value = [Fraction(float(v)) for v in z]
    for depth, (w, b) in enumerate(params):
        value = [
            sum((Fraction(float(a)) * v for a, v in zip(row, value, strict=True)),
                Fraction(float(c)))
            for row, c in zip(w, b, strict=True)
        ]  # fmt: skip
        if depth < len(params) - 1:
            value = [max(v, Fraction(0)) for v in value]
    return value


@each_mode
def test_rational_arithmetic_never_contradicts(mode: str):
    """Large weights that cancel: float32 has no idea of the margin's sign."""
    flipped = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        params = network(FLAT, seed)
        scale = 10.0 ** rng.uniform(-6, 6, (8, 1))
        w, b = exact32(params[0][0] * scale), exact32(params[0][1] * scale[:, 0])
        v = exact32(params[1][0] / scale.T * 10.0 ** rng.uniform(0, 6))
        point = rng.uniform(0, 1, 2)
        y = forward([(w, b), (v, np.zeros(2))], point)
        bias = exact32([-y[0], -y[1]])
        params = [(w, b), (v, bias)]
        margin = (lambda y: y[0] - y[1])(exact_value(params, point))
        narrow32 = [np.asarray(a, np.float32) for a in (w, b, v, bias)]
        h = np.maximum(narrow32[0] @ np.float32(point) + narrow32[1], 0)
        single = narrow32[2] @ h + narrow32[3]
        flipped += (single[0] - single[1] > 0) != (margin > 0)
        for edge in (0.0, 1e-9, 1e-3):
            box = jc.Box(np.maximum(point - edge, 0), np.minimum(point + edge, 1))
            verdict = quick(params, box, SPEC, mode)
            corners = [point, box.lo, box.hi]
            values = [exact_value(params, z) for z in corners]
            if verdict.proved:
                assert all(y[0] > y[1] for y in values)
            if verdict.refuted:
                y = exact_value(params, verdict.witness)
                assert y[0] <= y[1]
    assert flipped >= 2


@pytest.mark.campaign
def test_deeper_networks_agree_with_a_milp():
    sizes = (3, 10, 10, 10, 10, 3)
    unknown = 0
    for seed in range(5):
        params = network(sizes, seed)
        params = [(exact32(w * 0.6), b) for w, b in params]
        x = np.random.default_rng(seed).uniform(0.2, 0.8, 3)
        lo, hi = x - 0.15, x + 0.15
        label = int(np.argmax(forward(params, x)))
        rows = np.asarray(jc.Spec.classification(label, 3).coefficients)
        least = min(clause_minimum(params, lo, hi, r[None], np.zeros(1)) for r in rows)
        for shift in (-1e-3, 1e-3):
            spec = jc.Spec.classification(label, 3, least - shift)
            unknown += check(params, lo, hi, spec, SIGNS, shift) == Status.UNKNOWN
    assert unknown <= 1


# ---------------------------------------------------------- networks of other kinds


def smooth(params, x):
    (w, b), (v, c) = params
    return v @ jnp.tanh(w @ x + b) + c


def softplus(params, x):
    (w, b), (v, c) = params
    return v @ jax.nn.relu(jax.nn.softplus(w @ x + b) - 0.7) + c


def affine(params, x):
    return params[0] @ x + params[1]


@pytest.mark.parametrize("g", sampled([smooth, softplus]))
def test_smooth_networks_are_right_or_unknown(g):
    axis = np.linspace(0, 1, 201)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    params = network(FLAT, 1)
    with jax.enable_x64(True):
        y = np.asarray(jax.vmap(g, (None, 0))(params, jnp.asarray(grid)))
    least = (y[:, 0] - y[:, 1]).min()
    answers = []
    for shift in (-0.01, 0.1):
        spec = jc.Spec.rows(np.array([[1.0, -1]]), np.array([shift - least]))
        verdict = jc.verify(g, params, UNIT, spec, options=SIGNS)
        assert verdict.status != (Status.PROVED if shift < 0 else Status.REFUTED)
        answers.append(int(verdict.status))
    assert answers == [-1, 1]


@pytest.mark.parametrize("mode", sampled(["signs", "inputs"]))
def test_networks_without_a_relu(mode: str):
    params = np.array([[1.0, -1], [0, 0]]), np.zeros(2)
    assert quick_affine(params, UNIT, mode).refuted
    tie = np.zeros((2, 2)), np.zeros(2)
    assert not quick_affine(tie, UNIT, mode).proved
    assert quick_affine((params[0], np.array([1.01, 0])), UNIT, mode).proved
    answer = jc.certify(affine, params, np.array([0.75, 0.25]), options=MODES[mode])
    assert answer.lower <= 0.25 <= answer.upper


@pytest.mark.campaign
@pytest.mark.parametrize("mode", ["signs", "inputs"])
def test_brackets_of_smooth_networks_are_in_order(mode: str):
    x = np.array([0.4, 0.6])
    answer = jc.certify(smooth, network(FLAT, 1), x, options=MODES[mode])
    assert answer.lower <= answer.upper


def quick_affine(params, box, mode):
    return jc.verify(affine, params, box, SPEC, options=MODES[mode])


@each_mode
@pytest.mark.parametrize("size", sampled([1e200, 1e30]))
def test_overflow_proves_nothing_and_breaks_nothing(size: float, mode: str):
    # 1e30: float32 overflows, float64 does not. 1e200: both do.
    params = network(FLAT, 0)
    params = [(w * size, b) for w, b in params]
    verdict = quick(params, UNIT, SPEC, mode)
    if size > 1e100:
        assert verdict.status == Status.UNKNOWN
    assert not verdict.proved
    if verdict.refuted:
        y = exact_value(params, verdict.witness)
        assert y[0] <= y[1]


@pytest.mark.campaign
def test_weights_that_become_nan_after_the_checks_prove_nothing():
    # Of the sizes, and with the options, that brackets are closed for above.
    params = network(WIDE, 0)
    certifier = Certifier(f, params, None, (3,), tolerance=1e-3, options=SIGNS)
    model = certifier.model
    model.single = jax.tree.map(lambda v: v * np.nan, model.single)
    answer = certifier.batch(np.random.default_rng(0).random((8, 3)), None)
    assert (answer.lower <= answer.upper).all()
    for row in np.flatnonzero(answer.lower > 0):
        spec = jc.Spec.classification(answer.label[row], 3)
        lo, hi = answer.box.lo[row], answer.box.hi[row]
        assert spec_minimum(params, lo, hi, spec) > -SOLVER


def test_what_is_flushed_at_the_input_is_no_proof():
    """The ends are subnormal, and 1e300 times 2e-308 is more than the offset."""
    weight = np.array([[-1e300, 0.0]])
    model = Model(lambda p, x: jnp.sum(jax.nn.relu(x)) * 0 + p @ x, weight, (2,))
    box = jc.Box(np.array([1e-308, -1.0]), np.array([2e-308, 1.0]))
    spec = jc.Spec.rows(np.ones((1, 1)), np.array([1e-8]))
    verdict, _ = branch_and_bound(model, box, spec, BranchOptions(narrow=0, wide=None))
    assert not verdict.proved


@pytest.mark.parametrize("least", [0.0, 2.0**-1023])
def test_what_is_flushed_at_the_input_is_no_proof_where_inputs_are_split(least):
    """tanh(1) is more than 1/2, and 1 is 2^1023 times the upper end."""

    def smooth(p, x):
        return jnp.tanh((p @ x) * 2.0**23)

    model = Model(smooth, np.array([[2.0**1000, 0.0]]), (2,))
    box = jc.Box(np.array([least, 0.0]), np.array([2.0**-1023, 1.0]))
    spec = jc.Spec.rows(-np.ones((1, 1)), np.array([0.5]))
    verdict, _ = branch_and_bound(model, box, spec, BranchOptions())
    assert not verdict.proved
