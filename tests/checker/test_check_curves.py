"""Smooth activations in the checker: values, slopes and lines, by mpmath."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
from builder import (
    ACTIVATIONS,
    Case,
    Stored,
    change,
    logits,
    random_layers,
    stored_network,
)

from jaxcert.checker import curves
from jaxcert.checker.arithmetic import Arithmetic
from jaxcert.checker.bounds import Bounds
from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Status
from jaxcert.checker.curves import CURVES
from jaxcert.checker.float32 import float32_errors
from jaxcert.checker.network import network_of
from jaxcert.checker.reading import Rejected

EDGES = [
    0.0, -0.0, 5e-324, -5e-324, 2.3e-308, -1e-310, 1e-300, -1e-17, 0.5, -0.5,
    np.nextafter(0.5, 1), 1.0, -2.0, 32.0, -32.0, np.nextafter(32, 33), 63.999,
    64.0, -64.0, np.nextafter(-64, -65), -745.2, -1e9, -(2.0**149),
]  # fmt: skip
LARGE = [65.0, 710.0, 1e9, 2.0**149]


def real(x) -> mpmath.mpf:
    """Returns a float or a fraction, to 300 bits."""
    if isinstance(x, float | np.floating):
        return mpmath.mpf(float(x))
    return mpmath.mpf(x.numerator) / x.denominator


def true(name: str, z: mpmath.mpf) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Returns g(z) and g'(z)."""
    if name == "tanh":
        return mpmath.tanh(z), mpmath.sech(z) ** 2
    if name == "exp":
        return mpmath.exp(z), mpmath.exp(z)
    e = mpmath.exp(-abs(z))
    if name == "logistic":
        return 1 / (1 + mpmath.exp(-z)), e / (1 + e) ** 2
    return max(z, 0) + mpmath.log1p(e), 1 / (1 + mpmath.exp(-z))


def points(name: str) -> np.ndarray:
    random = np.random.default_rng(0)
    some = random.normal(size=150) * 10.0 ** random.integers(-15, 2, 150)
    z = np.r_[some, EDGES, [] if name == "exp" else LARGE]
    return z[z <= 64] if name == "exp" else z


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", CURVES)
def test_values_and_slopes_are_those_of_mpmath(name, exact):
    z, b = points(name), Arithmetic(exact)
    found = CURVES[name].enclosed(b, b.number(z))
    with mpmath.workprec(300), np.errstate(under="ignore"):
        # What the fractions of this test are rounded to.
        spare = mpmath.mpf(2) ** -250 if exact else 0
        for point, *ends in zip(z, *found, strict=True):
            lo, hi, p, q = map(real, ends)
            value, slope = true(name, real(point))
            assert lo <= value * (1 + spare) + spare and value - spare <= hi, point
            assert p <= slope * (1 + spare) + spare and slope - spare <= q, point
            size = max(1, value)
            assert hi - lo < 1e-12 * size and q - p < 1e-12 * max(1, slope), point


def test_what_has_no_value_is_nothing():
    b = Arithmetic(False)
    for name, curve in CURVES.items():
        with np.errstate(all="ignore"):
            for lo, hi in ((np.nan, 1.0), (-1.0, np.nan), (np.nan, np.nan)):
                line = curves.lines(b, curve, np.array([lo]), np.array([hi]))
                assert np.isnan(line.low).all() and np.isnan(line.high).all(), name
    for exact in (False, True):
        b = Arithmetic(exact)
        lo, hi, p, q = CURVES["exp"].enclosed(b, b.number([64.0, 64.1, 1e30]))
        assert np.array_equal(np.isinf(hi.astype(float)), [False, True, True])
        assert np.all(lo == lo[0]) and np.all(p == lo) and np.all(q == hi)


def ranges(random, name: str) -> tuple[np.ndarray, np.ndarray]:
    lo = random.normal(size=40) * 10.0 ** random.integers(-3, 2, 40)
    hi = lo + random.exponential(size=40) * 10.0 ** random.integers(-14, 3, 40)
    lo = np.r_[lo, 0.0, -0.0, -5e-324, -1.0, -(2.0**149), 1e9, -1e9, -30, 0, -4]
    hi = np.r_[hi, 0.0, 5e-324, 5e-324, 0.0, 64.0, 1e9, 1e9, 30, 30, -4]
    if name == "exp":
        lo, hi = np.minimum(lo, 63), np.minimum(hi, 64)
    return lo, hi


@pytest.mark.parametrize("chosen", ["by the checker", "by an adversary"])
@pytest.mark.parametrize("name", CURVES)
def test_lines_hold_all_over_their_range(name, chosen, monkeypatch):
    random, b, curve = np.random.default_rng(1), Arithmetic(False), CURVES[name]
    lo, hi = ranges(random, name)
    if chosen == "by an adversary":

        def anything(curve, lo, m, hi):
            absurd = random.normal(size=len(lo)) * 10.0 ** random.integers(
                -3, 4, len(lo)
            )
            with np.errstate(over="ignore"):
                own = curve.steepness(curve.plain(random.uniform(lo, hi)))
            slope = np.where(random.uniform(size=len(lo)) < 0.3, absurd, own)
            return slope, random.uniform(lo - 1, hi + 1)

        monkeypatch.setattr(curves, "tangent", anything)
    lines = curves.lines(b, curve, lo, hi)
    with mpmath.workprec(300):
        for i in range(len(lo)):
            ends = real(lo[i]), real(hi[i])
            # Where the distance to the line may be least: ends, turn, and like slopes.
            some = [
                *ends,
                0,
                *(ends[0] + (ends[1] - ends[0]) * k / 16 for k in range(17)),
            ]
            for s, c, sign in (
                (lines.upper[i], lines.high[i], 1), (lines.lower[i], lines.low[i], -1)
            ):  # fmt: skip
                at = [z for z in (*some, *_of_slope(name, float(s)))]
                for z in at:
                    if ends[0] <= z <= ends[1]:
                        gap = sign * (
                            real(s) * z + real(c) - true(name, mpmath.mpf(z))[0]
                        )
                        assert gap >= 0, (lo[i], hi[i], z, s)


def _of_slope(name: str, s: float) -> list[mpmath.mpf]:
    """Returns where g' is s."""
    s = mpmath.mpf(s)
    if s <= 0 or (name != "exp" and s >= 1) or (name == "logistic" and s >= 0.25):
        return []
    if name == "tanh":
        root = mpmath.acosh(1 / mpmath.sqrt(s))
        return [root, -root]
    if name == "exp":
        return [mpmath.log(s)]
    y = s if name == "softplus" else (1 - mpmath.sqrt(1 - 4 * s)) / 2
    return [mpmath.log(y / (1 - y)), -mpmath.log(y / (1 - y))]


@pytest.mark.parametrize("name", CURVES)
def test_lines_are_close(name):
    random, b = np.random.default_rng(2), Arithmetic(False)
    lo, hi = random.uniform(-4, 4, (2, 300))
    lo, hi = np.minimum(lo, hi), np.maximum(lo, hi)
    line = curves.lines(b, CURVES[name], lo, hi)
    z = lo + np.linspace(0, 1, 400)[:, None] * (hi - lo)
    y = ACTIVATIONS[name](z)
    for gap in (line.upper * z + line.high - y, y - line.lower * z - line.low):
        assert np.all(gap.min(axis=0) <= 1e-4 * (1 + y.max(axis=0)))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    "ops", [("tanh",), ("logistic", "relu"), ("exp", "tanh"), ("relu", "softplus")]
)
def test_bounds_hold_of_networks(ops, exact, tmp_path):
    random = np.random.default_rng(3)
    sizes = (2, 3, 3, 2) if exact else (3, 5, 4, 2)
    layers = random_layers(random, sizes)
    raw = stored_network(layers, ops=ops).write(tmp_path / "n.npz").read_bytes()
    net, b = network_of(raw, exact), Arithmetic(exact)
    for radius in (0.0, 0.1, 0.7):
        centre = random.normal(size=sizes[0])
        lo, hi = centre - radius, centre + radius
        bounds = Bounds(b, net, lo, hi, {})
        x = random.uniform(lo, hi, (4000, sizes[0]))
        x[::2] = np.where(random.integers(0, 2, x[::2].shape) == 0, lo, hi)
        y = logits(layers, x, ops)
        assert np.all(bounds.root.lo[-1][0].astype(float) <= y.min(0) + 1e-12)
        assert np.all(y.max(0) - 1e-12 <= bounds.root.hi[-1][0].astype(float))
        rows = random.normal(size=(4, 2))
        zeros, part = b.number(np.zeros(4)), np.zeros(4, int)
        signs = np.sign(random.normal(size=(1, net.neurons))).astype(np.int8)
        last, a = len(net.nodes), b.number(rows)
        for made in (bounds.root, bounds.enclose(bounds.box, 0 * signs)):
            found, _ = bounds.lower_bounds(last, a, zeros, made, part)
            least = (y @ rows.T).min(0)
            assert np.all(found.astype(float) <= least + 1e-12)
            assert radius or np.all(found.astype(float) >= least - 1e-9)
    with pytest.raises(Rejected, match="smooth activations have no bound"):
        float32_errors(bounds)


def test_roundings_of_lines_are_charged():
    random, n = np.random.default_rng(5), 200
    rounded, rational = Bounds.__new__(Bounds), Arithmetic(True)
    rounded.b = Arithmetic(False)
    a = random.normal(size=(20, n))
    a[:, 100:] = -a[:, :100]
    exact = rational.number
    # Slopes of which nothing but products is rounded, and ends whose sums cancel.
    for slope, end in ((random.normal(size=n), np.zeros(n)), (np.ones(n), a[0] ** 2)):
        lines = SimpleNamespace(
            **dict.fromkeys(("lower", "upper"), slope[None]),
            **dict.fromkeys(("low", "high"), end[None]),
        )
        size = np.full(n, 0.0 if end.any() else 1.0)
        made, costs = rounded.through_curve(a, lines, np.zeros(20, int), size)
        cost = -rounded.b.total([-cost for cost in costs])
        lost = abs(exact(a) * exact(slope) - exact(made)) @ exact(size)
        got = (exact(a) * exact(end)).sum(axis=1)
        spare = exact(cost) + got - lost
        assert np.all(spare >= 0) and np.all(spare < 1e-10)


@functools.cache
def layers():
    return random_layers(np.random.default_rng(4), (2, 3, 2))


@pytest.mark.parametrize(
    ("version", "op", "reason"),
    [(1, "tanh", "op 'tanh'"), (2, "sinh", "op 'sinh'"), (2, "Tanh", "op 'Tanh'"),
     (3, "tanh", "version of the format is '3'"), (2, ["tanh"], "op")],
)  # fmt: skip
def test_other_operations_are_rejected(version, op, reason, tmp_path):
    stored = stored_network(layers(), ops=("tanh",))
    stored.head["version"], stored.head["nodes"][1]["op"] = version, op
    raw = stored.write(tmp_path / "n.npz").read_bytes()
    with pytest.raises(Rejected, match=reason):
        network_of(raw, False)


def smooth_box(ops: tuple[str, ...] = ("tanh", "logistic")) -> Case:
    """Returns a certificate of a box of a smooth network, which has no multipliers."""
    random = np.random.default_rng(6)
    made = random_layers(random, (3, 5, 4, 2))
    x = random.uniform(0.3, 0.7, 3)
    y = logits(made, x, ops)
    label, radius = int(y.argmax()), 0.05
    network = stored_network(made, ops=ops)
    reach = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)])
    corners = logits(made, x + radius * reach, ops)
    margin = (corners[:, label] - corners[:, 1 - label]).min()
    none = np.zeros((1, 0), np.float32)
    arrays = {
        "x": x, "lo": x - radius, "hi": x + radius, "domain_lo": np.zeros(3),
        "domain_hi": np.ones(3), "rate_lo": np.ones(3), "rate_hi": np.ones(3),
        "leaf_target": np.array([1 - label], np.int32), "leaf_slopes": none,
        "leaf_signs": none.astype(np.int8), "leaf_betas": none,
    }  # fmt: skip
    head = {
        "format": "jaxcert certificate", "version": 1, "input": "0",
        "network": {
            "sha256": network.sha256, "file": f"network-{network.sha256[:16]}.npz"
        },
        "arithmetic": "real", "label": label, "apothem_lower": radius * (1 - 1e-9),
        "required_margin": float(margin) - 0.02, "apothem_upper": None,
        "refine": False,
    }  # fmt: skip
    return Case(made, network, Stored(head, arrays))


@functools.cache
def box() -> Case:
    return smooth_box()


def with_ops(*ops: str) -> Callable[[Case], Case]:
    """Returns what makes the certificate one of a network of other activations."""

    def changed(case: Case) -> Case:
        network = stored_network(case.layers, ops=ops)
        words = {"sha256": network.sha256, "file": f"network-{network.sha256[:16]}.npz"}
        stored = case.certificate.copy()
        stored.head["network"] = words
        return Case(case.layers, network, stored)

    return changed


def with_weights(case: Case) -> Case:
    """Returns the certificate beside another network under its network's name."""
    network = case.network.copy()
    network.arrays["w1"] = network.arrays["w1"] * np.float32(1.001)
    return Case(case.layers, network, case.certificate)


def farther(factor: float) -> Callable[[Stored], None]:
    def alter(stored: Stored) -> None:
        a = stored.arrays
        for name in ("lo", "hi"):
            a[name] = np.clip(a["x"] + factor * (a[name] - a["x"]), 0, 1)
        stored.head["apothem_lower"] *= factor

    return alter


WRONG: dict[str, tuple[Callable[[Case], Case], str]] = {
    "another activation": (with_ops("tanh", "tanh"), "bound .* is not >"),
    "one more like it": (with_ops("logistic", "tanh"), "bound .* is not >"),
    "relu": (with_ops("relu", "relu"), "has shape"),
    "another network": (with_weights, "speaks of another network"),
    "a wider box": (lambda c: change(c, farther(4.0)), "bound .* is not >"),
    "a greater margin": (
        lambda c: change(
            c, lambda s: s.head.update(required_margin=s.head["required_margin"] + 0.03)
        ),
        "bound .* is not >",
    ),
    "float32": (
        lambda c: change(c, lambda s: s.head.update(arithmetic="float32")),
        "smooth activations have no bound",
    ),
    "slopes of its own": (
        lambda c: change(
            c, lambda s: s.arrays.update(leaf_slopes=np.ones((1, 9), np.float32))
        ),
        "array 'leaf_slopes' has shape",
    ),
    "no leaf": (
        lambda c: change(
            c,
            lambda s: s.arrays.update(
                {k: v[:0] for k, v in s.arrays.items() if k.startswith("leaf_")}
            ),
        ),
        "leave a part of the box out",
    ),
}


@pytest.mark.parametrize("exact", [False, True])
def test_a_box_of_a_smooth_network_is_accepted(exact, tmp_path):
    path = box().write(tmp_path)
    report = check_certificate(path, exact=exact)
    assert report.accepted and report.leaves == 1, report.reason


@pytest.mark.parametrize("name", WRONG)
def test_a_mutation_of_it_is_rejected_with_its_cause(name, tmp_path):
    alter, reason = WRONG[name]
    report = check_certificate(alter(box()).write(tmp_path))
    assert report.status is Status.REJECTED and re.search(reason, report.reason), report
