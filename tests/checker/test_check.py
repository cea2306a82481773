"""The independent check accepts what is proved, with bounds that hold."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from builder import (
    CASES,
    Case,
    Stored,
    change,
    logits,
    replaced,
    same_lines,
    set_to,
    stored_network,
)

from jaxcert.checker.arithmetic import Arithmetic, excess
from jaxcert.checker.bounds import Bounds
from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Status
from jaxcert.checker.clauses import Clauses
from jaxcert.checker.float32 import float32_errors
from jaxcert.checker.network import network_of


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("exact", [False, True])
def test_a_proved_box_is_accepted(cases, tmp_path, name, exact):
    case = cases[name]
    report = check_certificate(case.write(tmp_path), exact=exact)
    head = case.certificate.head
    assert report.holds and report.seconds > 0, report.reason
    assert report.accepted == (report.reason == "") == (head["required_margin"] >= 0)
    assert report.network_sha256 == case.network.sha256
    assert (report.label, report.arithmetic) == (head["label"], head["arithmetic"])
    assert report.required_margin == head["required_margin"]
    assert report.apothem_lower == head["apothem_lower"]
    assert report.apothem_upper == (head["apothem_upper"] or np.inf)
    assert report.leaves == len(case.certificate.arrays["leaf_target"])


def test_the_cases_need_leaves_betas_and_witnesses(cases):
    arrays = [case.certificate.arrays for case in cases.values()]
    assert sum(len(a["leaf_target"]) >= 10 for a in arrays) >= 4
    assert sum((a["leaf_betas"] > 0).sum() >= 5 for a in arrays) >= 4
    assert sum("witness" in a for a in arrays) >= 4


def test_betas_matter(cases, tmp_path):
    case = cases["shallow"]
    plain = change(case, lambda c: c.arrays["leaf_betas"].fill(0))
    report = check_certificate(plain.write(tmp_path))
    assert report.status is Status.REJECTED and re.search(
        r"leaf \d+ \(clause \d+\)", report.reason
    )


@pytest.mark.parametrize("name", CASES)
def test_accepted_boxes_hold_their_class(cases, name):
    case = cases[name]
    a, head = case.certificate.arrays, case.certificate.head
    random = np.random.default_rng(0)
    share = random.uniform(size=(20000, len(a["x"])))
    share[::2] = share[::2].round()
    y = logits(case.layers, a["lo"] + share * (a["hi"] - a["lo"]))
    others = np.delete(y, head["label"], axis=1).max(1)
    assert np.all(y[:, head["label"]] - others > head["required_margin"])


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_ranges_contain_every_value(cases, name, exact, tmp_path):
    case = cases[name]
    case.write(tmp_path)
    raw = (tmp_path / case.certificate.head["network"]["file"]).read_bytes()
    a = case.certificate.arrays
    slopes = {
        int(key.removeprefix("range_slopes_")): value
        for key, value in a.items()
        if key.startswith("range_slopes_")
    }
    net = network_of(raw, exact)
    bounds = Bounds(Arithmetic(exact), net, a["lo"], a["hi"], slopes)
    random = np.random.default_rng(1)
    share = random.integers(0, 3, (5000, len(a["x"]))) / 2
    x = np.clip(a["lo"] + share * (a["hi"] - a["lo"]), a["lo"], a["hi"])
    values = [x]
    for node in net.nodes:
        if node.relu >= 0:
            values.append(np.maximum(values[node.terms[0][0]], 0))
        else:
            parts = [values[v] @ w.astype(float).T for v, w, _ in node.terms]
            values.append(sum(parts) + node.offset.astype(float))
    slack = 1e-12  # of the evaluations here
    for value, lo, hi in zip(values, bounds.root.lo, bounds.root.hi, strict=True):
        assert np.all(lo.astype(float) - slack <= value)
        assert np.all(value <= hi.astype(float) + slack)
    errors = float32_errors(bounds).astype(float)
    single = x.astype(np.float32)
    for depth, (w, offset) in enumerate(case.layers):
        single = (np.maximum(single, 0) if depth else single) @ w.T + offset
    assert single.dtype == np.float32
    assert np.all(abs(single - logits(case.layers, x)) <= errors)


def test_float64_bounds_lie_below_the_exact_ones(cases, tmp_path):
    case = cases["deep"]
    case.write(tmp_path)
    raw = (tmp_path / case.certificate.head["network"]["file"]).read_bytes()
    a = case.certificate.arrays
    found = []
    for exact in (False, True):
        b = Arithmetic(exact)
        net = network_of(raw, exact)
        bounds = Bounds(b, net, a["lo"], a["hi"], {})
        # Ranges of float64 for both: then the bounds are of the same lines.
        if not exact:
            root = bounds.root
        made = same_lines(bounds, root)
        rows = b.number(np.eye(net.sizes[-1]))
        zero, part = b.number(np.zeros(len(rows))), np.zeros(len(rows), int)
        found.append(bounds.lower_bounds(len(net.nodes), rows, zero, made, part)[0])
    rounded, true = found
    assert np.all(rounded <= true)
    assert np.all((true - rounded).astype(float) < 1e-12)


def branched(random) -> Stored:
    """Returns a network with shared ReLU inputs and several terms in a node.

    Values: x, z = W x + b, relu(z), y = V relu(z) + U z + T x, relu(y), relu(z),
    Q relu(y) + R relu(z) + b.
    """
    arrays = {
        name: random.normal(size=shape) / 2
        for name, shape in {
            "w": (6, 4), "b": (6,), "v": (5, 6), "u": (5, 6), "t": (5, 4), "q": (3, 5),
            "r": (3, 6), "c": (3,),
        }.items()
    }  # fmt: skip

    def affine(size, offset, **terms):
        made = [
            {"input": v, "kind": "dense", "weight": name} for name, v in terms.items()
        ]
        return {"op": "affine", "size": size, "terms": made, "offset": offset}

    nodes = [
        affine(6, "b", w=0),
        {"op": "relu", "size": 6, "input": 1},
        affine(5, None, v=2, u=1, t=0),
        {"op": "relu", "size": 5, "input": 3},
        {"op": "relu", "size": 6, "input": 1},
        affine(3, "c", q=4, r=5),
    ]
    head = {"format": "jaxcert network", "version": 1, "input_shape": [2, 2]}
    return Stored(head | {"nodes": nodes}, arrays)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_bounds_hold_for_any_slopes_and_multipliers(seed, exact, tmp_path):
    random = np.random.default_rng(seed)
    network = branched(random)
    net = network_of(network.write(tmp_path / "n.npz").read_bytes(), exact)
    centre, radius = random.normal(size=4), random.uniform(0.05, 0.5)
    slopes = {1: random.integers(0, 129, (2, 5, 6), dtype=np.uint8)}
    b = Arithmetic(exact)
    ends = centre - radius, centre + radius
    bounds = Bounds(b, net, *ends, slopes)
    x = random.uniform(*ends, (20000, 4))
    x[::2] = np.where(random.integers(0, 2, x[::2].shape) == 0, *ends)
    values = {name: value.astype(float) for name, value in network.arrays.items()}
    z = x @ values["w"].T + values["b"]
    active = np.maximum(z, 0)
    y = active @ values["v"].T + z @ values["u"].T + x @ values["t"].T
    out = np.maximum(y, 0) @ values["q"].T + active @ values["r"].T + values["c"]
    inputs = np.concatenate([z, y, z], 1)
    low, high = (
        np.concatenate(
            [e[node.terms[0][0]][0] for node in net.nodes if node.relu >= 0]
        ).astype(float)
        for e in (bounds.root.lo, bounds.root.hi)
    )
    assert np.all((low <= inputs + 1e-12) & (inputs - 1e-12 <= high))
    used = 0
    for _ in range(12):
        # Signs as they are at a sampled point, at some of the neurons.
        signs = np.sign(inputs[random.integers(len(x))]).astype(np.int8)
        signs *= random.uniform(size=17) < 0.2
        there = np.all(inputs * signs >= 0, axis=1)
        betas = (random.exponential(size=(3, 17)) / 4 * signs).astype(np.float32)
        lines = random.uniform(size=(3, 17)).astype(np.float32)
        rows = random.normal(size=(3, 3))
        made = bounds.enclose(bounds.box, signs[None])
        assert np.all(made.lo[3].astype(float) <= y[there].min(0) + 1e-12)
        assert np.all(y[there].max(0) - 1e-12 <= made.hi[3].astype(float))
        zeros, part = b.number(np.zeros(3)), np.zeros(3, int)
        rest = b.number(lines), b.number(betas)
        found, _ = bounds.lower_bounds(6, b.number(rows), zeros, made, part, *rest)
        least = (out[there] @ rows.T).min(0)
        assert np.all(found.astype(float) <= least + 1e-12)
        assert np.all(np.isfinite(found.astype(float)))
        used += there.sum()
    assert used > 500


def test_roundings_are_charged():
    random = np.random.default_rng(0)
    rounded, rational = Arithmetic(False), Arithmetic(True)
    a, w = random.normal(size=(30, 300)), random.normal(size=(300, 20))
    size = random.exponential(size=20)
    a[:, 150:] = -a[:, :150] * (1 + 1e-12)  # so that much cancels
    w[150:] = w[:150]
    true = rational.dot(rational.number(a), rational.number(w))
    error = abs(rational.number(rounded.dot(a, w)) - true)
    reach = rounded.bound(abs(w), size)
    magnitude = rational.dot(abs(rational.number(w)), rational.number(size))
    assert np.all(rational.number(reach) >= magnitude)
    charge = rational.number(rounded.charge(a, reach, len(w)))
    assert np.all(rational.dot(error, rational.number(size)) <= charge)
    assert np.all(charge < 1e-9) and np.all(error.max(axis=0) > 0)
    # At a point nothing but the charges keeps the bound below the true value.
    for v in w.T:
        least = rational.number(rounded.least(a, v, v))
        assert np.all(least <= rational.dot(rational.number(a), rational.number(v)))


def test_sums_of_parts_are_below_the_true_ones():
    random, rounded = np.random.default_rng(0), Arithmetic(False)
    parts = list(
        random.normal(size=(12, 500)) * np.exp2(random.integers(-9, 9, (12, 1)))
    )
    parts += [-part for part in parts[:11]]  # much cancels
    exact = sum(map(Arithmetic(True).number, parts))
    found = rounded.total(parts)
    assert np.all(found <= exact) and np.all((exact - found).astype(float) < 1e-10)
    assert np.any(sum(parts) > exact), "plain sums are below as well"


@pytest.mark.parametrize("kept", ["coefficients", "offsets"])
def test_roundings_of_weighed_rows_are_charged(kept, tmp_path):
    """At a point, of rows that cancel: nothing but the charges keeps the bound true."""
    random, n, count = np.random.default_rng(0), 3, 40
    network = stored_network([(np.eye(n), np.zeros(n))])
    raw = network.write(tmp_path / "n.npz").read_bytes()
    x = random.normal(size=n)
    bounds = Bounds(Arithmetic(False), network_of(raw, False), x, x, {})
    c, d = random.normal(size=(count, n)), random.normal(size=count)
    c, d = (v * (kept == name) for v, name in ((c, "coefficients"), (d, "offsets")))
    rows = np.concatenate([c, -c * (1 + 1e-12)]), np.concatenate([d, -d * (1 + 1e-12)])
    weights = np.tile(random.exponential(size=(200, count)), 2)
    zero, none = np.zeros(200, int), np.zeros((200, 0))
    question = Clauses(bounds, [rows])
    found = question.weighed(bounds.root, zero, zero, weights, none, none)
    b = Arithmetic(True)
    values = b.dot(b.number(rows[0]), b.number(x)) + b.number(rows[1])
    true = b.dot(b.number(weights), values)
    assert np.all(found <= true) and np.all((true - found).astype(float) < 1e-10)


def test_nothing_is_concluded_from_a_nan():
    bounds = Bounds.__new__(Bounds)
    bounds.b = Arithmetic(False)
    nan, one = np.array([np.nan]), np.ones(1)
    with np.errstate(invalid="ignore"):
        for lo, hi in ((nan, one), (-one, nan), (nan, nan)):
            a, lines = -np.ones((1, 1)), bounds.lines(lo[None], hi[None])
            lines = bounds.of_rows(lines, np.zeros(1, int), None)
            _, costs = bounds.through_relu(a, lines, None, one)
            assert np.isnan(sum(costs)).all()


@pytest.mark.parametrize("name", ["deep", "refined"])
@pytest.mark.parametrize("scale", [1e40, 1e160, 1e300])
def test_what_overflows_is_rejected(cases, tmp_path, name, scale):
    case = cases[name]
    layers = [(w.astype(float), offset) for w, offset in case.layers]
    for i, factor in ((0, scale), (1, 1 / scale), (2, scale)):
        layers[i] = layers[i][0] * factor, layers[i][1]
    network = stored_network(layers)
    stored = case.certificate.copy()
    file = f"network-{network.sha256[:16]}.npz"
    stored.head["network"] = {"sha256": network.sha256, "file": file}
    # Nowhere is the margin proved to exceed this.
    stored.head["required_margin"] = 9e15
    for key in ("lo", "hi"):
        stored.arrays[key] = stored.arrays["x"]
    stored.head |= {"apothem_lower": 0.0, "apothem_upper": None}
    stored.arrays.pop("witness", None)
    stored.arrays["leaf_betas"] = stored.arrays["leaf_betas"] * np.float32(1e38)
    report = check_certificate(Case(layers, network, stored).write(tmp_path))
    y = logits(layers, stored.arrays["x"])
    truly = (np.delete(y[stored.head["label"]] - y, stored.head["label"]) > 9e15).all()
    assert report.status is Status.REJECTED or truly


def test_a_sound_box_needs_its_own_proof(cases, tmp_path):
    """A box that is a little wider may be sound; the proof has to cover it."""
    case = cases["shallow"]
    a = case.certificate.arrays
    label = case.certificate.head["label"]
    wide = {"lo": a["lo"] - 0.03, "hi": a["hi"] + 0.03}
    wide = {key: np.clip(value, 0, 1) for key, value in wide.items()}
    share = np.random.default_rng(0).integers(0, 2, (4000, len(a["x"])))
    y = logits(case.layers, wide["lo"] + share * (wide["hi"] - wide["lo"]))
    assert np.all(y.argmax(1) == label)
    report = check_certificate(
        change(case, lambda s: s.arrays.update(wide)).write(tmp_path)
    )
    assert report.status is Status.REJECTED and "bound" in report.reason


def test_null_ends(cases, tmp_path):
    case = cases["few"]
    widest = change(case, lambda s: replaced(s, apothem_lower=None))
    report = check_certificate(widest.write(tmp_path))
    assert report.status is Status.REJECTED and "face" in report.reason
    a = case.certificate.arrays
    moves = [set_to(f"domain_{side}", slice(None), a[side]) for side in ("lo", "hi")]
    whole = change(
        case,
        *moves,
        lambda s: replaced(s, apothem_lower=None, apothem_upper=None),
        lambda s: s.arrays.pop("witness", None),
    )
    report = check_certificate(whole.write(tmp_path))
    assert report.accepted, report.reason
    assert report.apothem_lower == report.apothem_upper == np.inf


def test_comparisons_are_exact():
    third = 1 / 3
    signs = excess(
        np.array([1.0, 1.0, 3.0, 1 + 2**-52]),
        np.array([0.0, -(2.0**-80), 2.0, 0.0]),
        third,
        np.array([3.0, 3.0, 3.0, 3.0]),
    )
    # 3 * (1 / 3 as stored) is less than 1.
    assert signs.tolist() == [1, 1, 1, 1]
    nearly = np.array([2.0**-80])
    assert excess(np.ones(1), nearly, 1.0, np.ones(1)).tolist() == [-1]
    assert excess(np.ones(1), 0 * nearly, 1.0, np.ones(1)).tolist() == [0]


# What once was accepted and is false


def affine_case(layers, x, lo, hi, arithmetic: str) -> tuple[Stored, Stored]:
    """Returns a network of affine maps, and a certificate for class 0 of one leaf."""
    nodes, arrays = [], {}
    for k, (weight, bias) in enumerate(layers):
        arrays |= {f"w{k}": np.float64(weight), f"b{k}": np.float64(bias)}
        term = {"input": k, "kind": "dense", "weight": f"w{k}"}
        nodes.append(
            {"op": "affine", "size": len(bias), "terms": [term], "offset": f"b{k}"}
        )
    network = Stored(
        {"format": "jaxcert network", "version": 1, "input_shape": [1], "nodes": nodes},
        arrays,
    )
    faces = dict(x=x, lo=lo, hi=hi, domain_lo=lo, domain_hi=hi, rate_lo=1, rate_hi=1)
    blank = np.zeros((1, 0), np.float32)
    head = {
        "format": "jaxcert certificate", "version": 1, "arithmetic": arithmetic,
        "network": {"sha256": network.sha256, "file": "network.npz"}, "label": 0,
        "required_margin": 0.0, "apothem_lower": None, "apothem_upper": None,
        "refine": False,
    }  # fmt: skip
    leaf = {
        "leaf_target": np.int32([1]), "leaf_signs": blank.astype(np.int8),
        "leaf_betas": blank, "leaf_slopes": blank,
    }  # fmt: skip
    wide = {name: np.float64([value]) for name, value in faces.items()}
    return network, Stored(head, wide | leaf)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("layers", "point", "arithmetic", "reason"),
    [
        # The coefficient 2^-1100 underflows; times the input it is 2^-100.
        (
            [([[2.0**-1000]], [0.0]), ([[2.0**-100], [0]], [2.0**-101, 0])],
            -(2.0**1000), "real", "value of the box is too large",
        ),
        # inf * 0 in float32
        ([([[2.0**130], [0]], [1e3, 0])], 0.0, "float32", "weight overflows"),
        ([([[-(2.0**-100)], [0]], [2.0**50, 0])], 2.0**140, "float32", "overflows"),
    ],
)  # fmt: skip
def test_numbers_out_of_range(layers, point, arithmetic, reason, exact, tmp_path):
    network, certificate = affine_case(layers, point, point, point, arithmetic)
    network.write(tmp_path / "network.npz")
    report = check_certificate(certificate.write(tmp_path / "c.npz"), exact=exact)
    assert report.status is Status.REJECTED and reason in report.reason
    # The same with ordinary numbers is accepted.
    network, certificate = affine_case(
        [([[1.0], [0.0]], [1.0, 0.0])], 0.5, 0.25, 0.75, arithmetic
    )
    network.write(tmp_path / "network.npz")
    report = check_certificate(certificate.write(tmp_path / "c.npz"), exact=exact)
    assert report.accepted, report.reason


@pytest.mark.parametrize("exact", [False, True])
def test_float32_must_win_by_more_than_it_errs(exact, tmp_path):
    """The margin is 1e-9 more than is required, which float32 may lose."""
    for arithmetic, spare in (("real", 1e-9), ("float32", 1e-9), ("float32", 1e-5)):
        network, certificate = affine_case(
            [([[1.0], [0.0]], [1.0, 0.0])], 0.5, 0.5, 0.75, arithmetic
        )
        certificate.head["required_margin"] = 1.5 - spare
        network.write(tmp_path / "network.npz")
        report = check_certificate(certificate.write(tmp_path / "c.npz"), exact=exact)
        assert report.accepted == (arithmetic == "real" or spare == 1e-5), report.reason
        assert report.accepted or "is not > 0" in report.reason


def test_a_name_that_stands_twice_is_rejected(tmp_path):
    network, certificate = affine_case(
        [([[1.0], [0.0]], [1.0, 0.0])], 0.5, 0.5, 0.5, "real"
    )
    network.write(tmp_path / "network.npz")
    text = json.dumps(certificate.head).replace('"label": 0', '"label": 1, "label": 0')
    header = np.frombuffer(text.encode(), np.uint8)
    np.savez(tmp_path / "c.npz", header=header, **certificate.arrays)
    report = check_certificate(tmp_path / "c.npz")
    assert report.status is Status.REJECTED and "stands twice" in report.reason
