"""Cuts of certificates: what they imply is derived, and nothing else is accepted."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from builder import (
    Case,
    Stored,
    logits,
    random_layers,
    same_lines,
    stored_network,
)

from jaxcert.checker import cuts as module
from jaxcert.checker.arithmetic import Arithmetic
from jaxcert.checker.bounds import Bounds
from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Report, Status
from jaxcert.checker.network import network_of

LEAST = 0.5


def pair() -> Case:
    """A network whose margin is 2.5 - relu(x1 + x2) - relu(x1 - x2), on [-1, 1]^2.

    The least margin is 1/2; single neurons alone give -1/2. The file proves it by
    relu(z1) + relu(z2) <= 2, which z1 + z2 <= 2 and z1 - z2 <= 2 imply. A third neuron,
    that counts for nothing, has the same input as the first.
    """
    layers = [
        (np.float32([[1, 1], [1, -1], [1, 1]]), np.zeros(3, np.float32)),
        (np.float32([[-1, -1, 0], [0, 0, 0]]), np.float32([2.5, 0])),
    ]
    network, ones = stored_network(layers), np.ones(2)
    head = {
        "format": "jaxcert certificate", "version": 2, "arithmetic": "real",
        "network": {
            "sha256": network.sha256, "file": f"network-{network.sha256[:16]}.npz"
        },
        "label": 0, "required_margin": 0.0, "apothem_lower": None,
        "apothem_upper": None, "refine": False,
    }  # fmt: skip
    blank = np.zeros((1, 3), np.float32)
    arrays = {
        "x": 0 * ones, "lo": -ones, "hi": ones, "domain_lo": -ones, "domain_hi": ones,
        "rate_lo": ones, "rate_hi": ones, "leaf_target": np.int32([1]),
        "leaf_signs": blank.astype(np.int8), "leaf_betas": blank,
        "leaf_slopes": blank,
        "cut_neurons_0": np.int32([[0, 1]]), "cut_inputs_0": np.zeros((1, 1, 2)),
        "cut_outputs_0": np.ones((1, 1, 2)), "cut_scales_0": np.ones((1, 2)),
        "cut_slopes_0": np.zeros((1, 4, 0), np.uint8),
        "leaf_cuts_0": np.ones((1, 1, 1), np.float32),
    }  # fmt: skip
    return Case(layers, network, Stored(head, arrays))


def report_of(case: Case, folder: Path, exact: bool = False, **head) -> Report:
    case.certificate.head |= head
    return check_certificate(case.write(folder), exact=exact)


@pytest.mark.parametrize("exact", [False, True])
def test_cuts_prove_what_single_neurons_cannot(tmp_path, exact):
    report = report_of(pair(), tmp_path, exact)
    assert report.accepted, report.reason
    almost = report_of(pair(), tmp_path, exact, required_margin=LEAST - 1e-12)
    assert almost.accepted, almost.reason
    without = pair()
    without.certificate.arrays["leaf_cuts_0"] *= 0
    report = report_of(without, tmp_path, exact)
    assert report.status is Status.REJECTED and "bound -0.5 is not >" in report.reason


@pytest.mark.parametrize("exact", [False, True])
def test_a_false_statement_is_rejected_whatever_the_cuts_are(tmp_path, exact):
    rng = np.random.default_rng(0)
    for number in range(20 if exact else 150):
        case, size = pair(), 0 if number == 0 else 10.0 ** -rng.integers(0, 8)
        a = case.certificate.arrays
        for name in ("cut_inputs_0", "cut_outputs_0", "cut_scales_0"):
            a[name] = a[name] + size * rng.normal(size=a[name].shape)
        a["cut_scales_0"] = abs(a["cut_scales_0"])
        weight = abs(a["leaf_cuts_0"] + size * rng.normal())
        a["leaf_cuts_0"] = weight.astype(np.float32)
        # It is exactly 1/2 at x = (1, 0), so that it exceeds 1/2 nowhere near.
        report = report_of(case, tmp_path, exact, required_margin=LEAST)
        assert report.status is Status.REJECTED and "bound" in report.reason


MUTATIONS = {
    # Of the inequality: another one, whose limit is derived anew.
    "other_output": (r"bound", {"cut_outputs_0": np.float64([[[1, 0.2]]])}),
    "other_input": (r"bound", {"cut_inputs_0": np.float64([[[-1, -1]]])}),
    "turned": (r"bound", {"cut_outputs_0": -np.ones((1, 1, 2))}),
    "other_neuron": (r"bound", {"cut_neurons_0": np.int32([[2, 1]])}),
    "other_scales": (r"bound", {"cut_scales_0": np.float64([[1, 4]])}),
    "huge_multiplier": (r"bound", {"leaf_cuts_0": np.full((1, 1, 1), 1e38, "f4")}),
    # Of the form
    "negative": (r"leaf_cuts_0_0 is neg", {"leaf_cuts_0": -np.ones((1, 1, 1), "f4")}),
    "no_neuron": (r"names no neuron at", {"cut_neurons_0": np.int32([[0, 3]])}),
    "below_0": (r"names no neuron at", {"cut_neurons_0": np.int32([[-1, 1]])}),
    "twice": (r"a neuron twice", {"cut_neurons_0": np.int32([[1, 1]])}),
    "nan": (r"has a NaN", {"cut_inputs_0": np.full((1, 1, 2), np.nan)}),
    "infinite": (r"has a NaN", {"leaf_cuts_0": np.full((1, 1, 1), np.inf, "f4")}),
    "large": (r"inputs_0_0 is too large", {"cut_inputs_0": np.full((1, 1, 2), 1e300)}),
    "scale_0": (r"scales_0_0 is out of range", {"cut_scales_0": np.zeros((1, 2))}),
    "scale_below_0": (r"is out of range", {"cut_scales_0": np.float64([[1, -1]])}),
    "scale_tiny": (r"is out of range", {"cut_scales_0": np.full((1, 2), 1e-300)}),
    "slopes": (
        r"'cut_slopes_0_0' has shape",
        {"cut_slopes_0": np.zeros((1, 4, 3), np.uint8)},
    ),
    "type": (
        r"'cut_outputs_0_0' has type",
        {"cut_outputs_0": np.ones((1, 1, 2), "f4")},
    ),
    "four": (
        r"'cut_neurons_0_0' has shape \(1, 4\)",
        {"cut_neurons_0": np.int32([[0, 1, 2, 3]])},
    ),
    "flat": (r"'cut_inputs_0_0' has shape", {"cut_inputs_0": np.zeros(2)}),
    "many": (r"too many cuts", {"cut_inputs_0": np.zeros((1, 1025, 2))}),
    "leaves": (r"'leaf_cuts_0' has shape", {"leaf_cuts_0": np.ones((2, 1, 1), "f4")}),
    # What a certificate may not say: bounds and limits are derived.
    "bounds": (r"\['cut_upper_0_0'\] do not belong", {"cut_upper_0": np.ones((1, 4))}),
    "layer": (r"'cut_neurons_0_1'\] do not", {"cut_neurons_1": np.int32([[0, 1]])}),
    "spare": (r"arrays \['spare'\] do not", {"spare": np.ones(1)}),
}


@pytest.mark.parametrize("kind", MUTATIONS)
def test_a_mutation_is_rejected_with_its_cause(tmp_path, kind):
    reason, arrays = MUTATIONS[kind]
    case = pair()
    case.certificate.arrays |= arrays
    report = report_of(case, tmp_path)
    assert report.status is Status.REJECTED
    assert re.search(reason, report.reason), report.reason


@pytest.mark.parametrize("name", [n for n in pair().certificate.arrays if "cut" in n])
def test_no_array_of_cuts_may_be_missing(tmp_path, name):
    case = pair()
    del case.certificate.arrays[name]
    report = report_of(case, tmp_path)
    words = ("has shape", "there is no array", "do not belong")
    assert report.status is Status.REJECTED and any(
        word in report.reason for word in words
    )


def test_versions(tmp_path):
    report = report_of(pair(), tmp_path, version=1)
    assert (
        report.status is Status.REJECTED
        and "do not belong to the format" in report.reason
    )
    report = report_of(pair(), tmp_path, version=3)
    assert (
        report.status is Status.REJECTED
        and "version of the format is 3, which has no claim None" in report.reason
    )
    plain = pair()
    for name in [name for name in plain.certificate.arrays if "cut" in name]:
        del plain.certificate.arrays[name]
    for version in (1, 2):
        kept = report_of(plain, tmp_path, version=version, required_margin=-0.6)
        assert kept.holds, kept.reason


# What the cuts imply


def greatest(p, q, d, lo, hi, upper) -> list[Fraction]:
    """Returns the maxima of p . x + q . max(x, 0), by all vertices of all orthants."""
    k = len(lo)
    rows, ends = [*np.eye(k)] * 3 + [*d], [*lo, *hi, *np.zeros(k), *upper]
    planes = [
        ([Fraction(v) for v in row], Fraction(end))
        for row, end in zip(rows, ends, strict=True)
    ]
    best = [Fraction(-(10**60))] * len(p)
    for chosen in itertools.combinations(planes, k):
        x = solution([row for row, _ in chosen], [end for _, end in chosen])
        if x is None or any(not a <= v <= b for a, v, b in zip(lo, x, hi, strict=True)):
            continue
        if any(dot(row, x) > end for row, end in planes[3 * k :]):
            continue
        y = [max(v, Fraction(0)) for v in x]
        found = [dot(a, x) + dot(b, y) for a, b in zip(p, q, strict=True)]
        best = [max(pair) for pair in zip(best, found, strict=True)]
    return best


def dot(a, b) -> Fraction:
    return sum((Fraction(u) * v for u, v in zip(a, b, strict=True)), Fraction(0))


def solution(rows, ends):
    """Returns x with rows @ x = ends by elimination; None if there is not just one."""
    rows = [[*row, end] for row, end in zip(rows, ends, strict=True)]
    for i in range(len(rows)):
        pivot = next((r for r in rows[i:] if r[i] != 0), None)
        if pivot is None:
            return None
        rows.remove(pivot)
        pivot = [v / pivot[i] for v in pivot]
        rows = [
            [v - r[i] * u for u, v in zip(pivot, r, strict=True)] if r[i] else r
            for r in rows
        ]
        rows.insert(i, pivot)
    return [row[-1] for row in rows]


@pytest.mark.parametrize(("k", "count"), [(2, 40), (3, 4)])
def test_limits_are_valid_and_tight(k, count):
    """Against exact maxima, with no tolerance on the side that matters."""
    rng = np.random.default_rng(k)
    for number in range(count):
        a, offset = rng.normal(size=(k, 4)), rng.normal(size=k) * 0.7
        if number % 4 == 1:  # much alike, so that whole orthants are empty
            a[1:] = a[0] * rng.choice([-1, 1], (k - 1, 1)) + 0.1 * a[1:]
        size = 10.0 ** rng.integers(-12, 12) if number % 4 == 2 else 1.0
        a, offset = a * size, offset * size
        scales = 2.0 ** -np.ceil(np.log2(abs(a).sum(1)))
        d = module.directions(k) * scales
        reach = abs(a).sum(axis=1)
        lo, hi = offset - reach, offset + reach
        upper = abs(d @ a).sum(axis=1) + d @ offset
        p, q = rng.normal(size=(2, 5, k))
        p[0], q[1] = 0, 0
        true = greatest(p, q, d, lo, hi, upper)
        for exact in (False, True):
            b = Arithmetic(exact)
            given = (b.number(v) for v in (p, q, d, lo, hi, upper))
            found = module.limits(b, *given)
            for c, most in zip(found, true, strict=True):
                assert most <= Fraction(c)
                assert Fraction(c) - most < 1e-12 * Fraction(reach.max())


@pytest.mark.parametrize("exact", [False, True])
def test_limits_are_valid_for_any_weights(monkeypatch, exact):
    """Also where the weighted sums cancel, so that nothing but charges is left."""
    rng, b, tight = np.random.default_rng(0), Arithmetic(exact), 0
    for number in range(60):
        scales, w = rng.uniform(1, 2, 2), rng.exponential(size=(3, 4))
        d = module.directions(2) * scales
        if number % 2:  # x is a point with sum 0, and p the sum's coefficients
            w = w * (d > 0).all(axis=1)
            lo = hi = np.float64([1, -scales[0] / scales[1]])
            upper = [float(dot(row, [Fraction(v) for v in lo])) for row in d]
            upper = np.nextafter(upper, np.inf)
            p, q = w @ d, np.zeros((3, 2))
        else:
            lo, hi, upper = -np.ones(2), np.ones(2), rng.uniform(0, 3, 4)
            p, q = rng.normal(size=(2, 3, 2))
        monkeypatch.setattr(module, "weights", lambda *_, w=w: w)
        c = module.limits(b, *map(b.number, (p, q, d, lo, hi, upper)))
        true = greatest(p, q, d, lo, hi, upper)
        assert all(most <= Fraction(v) for most, v in zip(true, c, strict=True))
        tight += sum(
            Fraction(v) - most < 1e-13 for most, v in zip(true, c, strict=True)
        )
    assert tight == 90


def test_roundings_of_multipliers_are_charged():
    """Where z is a point all lines are exact: nothing else keeps the bound valid."""
    rng = np.random.default_rng(0)
    rounded, rational = Arithmetic(False), Arithmetic(True)
    n, half, z = 5, 40, rng.exponential(size=5)
    for kept in ("before", "after", "limits"):
        mu = np.repeat(rng.exponential(size=(8, half)), 2, axis=1)
        layer = SimpleNamespace()
        for name, shape in (("before", (n,)), ("after", (n,)), ("limits", ())):
            v = rng.normal(size=(half, *shape)) * (name == kept)
            # Much cancels.
            both = np.stack([v, -v * (1 + 1e-12)], axis=1)
            setattr(layer, name, both.reshape(2 * half, *shape))
        bounds = Bounds.__new__(Bounds)
        bounds.b, a = rounded, np.zeros((8, n))
        with_lines = module.through(bounds, layer, mu, a, lines_at(bounds, z), None, z)
        made, cost = with_lines[0], -rounded.total([-cost for cost in with_lines[1]])
        exactly = {k: rational.number(getattr(layer, k)) for k in vars(layer)}
        points = rational.number(z)
        sides = rational.dot(exactly["before"] + exactly["after"], points)
        true = rational.dot(rational.number(mu), sides - exactly["limits"])
        bound = rational.dot(rational.number(made), points) - rational.number(cost)
        assert np.all(bound <= true)
        assert np.all(true - bound < 1e-11)
        assert np.all(cost > 0) or kept == "limits"


def lines_at(bounds, z):
    """Returns the lines, of rows, of neurons that have the value z >= 0."""
    lines = bounds.lines(z[None], z[None])
    return bounds.of_rows(lines, np.zeros(8, int), None)


def test_a_group_without_values_proves_nothing():
    b = Arithmetic(False)
    d, one = module.directions(2), np.ones((1, 2))
    with pytest.raises(Exception, match="have no values"):
        module.limits(b, one, one, d, -one[0], one[0], -np.ones(4))
    nan = module.limits(b, one, one, d, np.nan * one[0], one[0], np.ones(4))
    assert np.isnan(nan).all()


def layer_of(net, relu: int, k: int, rng) -> SimpleNamespace:
    """Random cuts on a layer, half of them those of a triangle's kind."""
    node = next(node for node in net.nodes if node.relu == relu)
    neurons = np.array(
        [rng.choice(node.size, k, replace=False) for _ in range(4)], np.int32
    )
    p, q = rng.normal(size=(2, 4, 3, k))
    q = np.where(rng.random(q.shape) < 0.5, abs(q), q)
    m = len(module.directions(k))
    return SimpleNamespace(
        node=node, neurons=neurons, p=p, q=q, limits=None,
        scales=rng.uniform(0.3, 3, (4, k)),
        slopes=rng.integers(0, 129, (4, m, node.part.start), dtype=np.uint8),
    )  # fmt: skip


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_bounds_hold_for_any_cuts(seed, exact, tmp_path):
    rng = np.random.default_rng(seed)
    layers = random_layers(rng, (3, 6, 5, 3))
    stored_network(layers).write(tmp_path / "n.npz")
    net = network_of((tmp_path / "n.npz").read_bytes(), exact)
    b, centre, radius = Arithmetic(exact), rng.normal(size=3), 0.6
    slopes = {1: rng.integers(0, 129, (2, 5, 6), dtype=np.uint8)}
    bounds = Bounds(b, net, centre - radius, centre + radius, slopes)
    x = rng.uniform(centre - radius, centre + radius, (20000, 3))
    x[::2] = centre + rng.choice([-radius, 0, radius], x[::2].shape)
    z = [x @ layers[0][0].T.astype(float) + layers[0][1]]
    z.append(np.maximum(z[0], 0) @ layers[1][0].T.astype(float) + layers[1][1])
    out, tight = logits(layers, x), []
    for k in (2, 3):
        cuts = {}
        for relu in (0, 1):
            layer = layer_of(net, relu, k, rng)
            module.derive(bounds, layer)
            inputs = z[relu][:, layer.neurons][:, :, None]
            left = (layer.p * inputs + layer.q * np.maximum(inputs, 0)).sum(-1)
            limits = np.asarray(layer.limits, float).reshape(left.shape[1:])
            assert np.all(left.max(0) <= limits + 1e-12)
            tight.append(np.min(limits - left.max(0)))
            cuts[relu] = layer
        rows = rng.normal(size=(8, 3))
        for size in (0.01, 1.0):
            mu = b.number(np.float32(size * abs(rng.normal(size=(8, 12)))))
            through = {
                i: lambda *rest, c=c, mu=mu: module.through(bounds, c, mu, *rest)
                for i, c in cuts.items()
            }
            part, zeros = np.zeros(8, int), b.number(np.zeros(8))
            line = b.number(rng.uniform(0, 1, (8, 11)))
            found, _ = bounds.lower_bounds(
                5, b.number(rows), zeros, bounds.root, part, line, None, through
            )
            assert np.all(found.astype(float) <= (out @ rows.T).min(0) + 1e-12)
    assert min(tight) < 0.3, "no inequality is near its limit"


def test_float64_bounds_lie_below_the_exact_ones(tmp_path):
    """The same lines, ranges and limits: then only roundings differ."""
    rng = np.random.default_rng(7)
    layers = random_layers(rng, (3, 6, 3))
    stored_network(layers).write(tmp_path / "n.npz")
    found, made = [], layer_of(network_of((tmp_path / "n.npz").read_bytes(), False),
                               0, 2, rng)  # fmt: skip
    mu, rows = np.float32(abs(rng.normal(size=(4, 12)))), rng.normal(size=(4, 3))
    for exact in (False, True):
        b = Arithmetic(exact)
        net = network_of((tmp_path / "n.npz").read_bytes(), exact)
        bounds = Bounds(b, net, -np.ones(3), np.ones(3), {})
        if not exact:
            module.derive(bounds, made)
            root, plain = bounds.root, made
        else:
            made = SimpleNamespace(
                **{
                    n: b.number(getattr(plain, n))
                    for n in ("limits", "before", "after")
                }
            )
        through = {
            0: lambda *rest, made=made, b=b, bounds=bounds: module.through(
                bounds, made, b.number(mu), *rest
            )
        }
        zeros, part = b.number(np.zeros(4)), np.zeros(4, int)
        args = b.number(rows), zeros, same_lines(bounds, root), part, None, None
        found.append(bounds.lower_bounds(3, *args, through)[0])
    rounded, true = found
    assert np.all(rounded <= true)
    assert np.all((true - rounded).astype(float) < 1e-11)
