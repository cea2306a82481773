"""The independent check accepts what is proved, and rejects everything else."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from jaxcert.certificate import check
from jaxcert.certificate.check import check_certificate

sys.path.insert(0, str(Path(__file__).parent))

from builder import Case, Stored, logits, make_case, stored_network  # noqa: E402

DEEP = (5, 6, 6, 3)
CASES = {
    "shallow": lambda: make_case(3),
    "few": lambda: make_case(1),
    "margin": lambda: make_case(3, margin=0.05),
    "slack": lambda: make_case(1, margin=-0.1),
    "float32": lambda: make_case(3, arithmetic="float32"),
    "terms": lambda: make_case(2, kinds=("index", "sparse")),
    "deep": lambda: make_case(3, DEEP),
    "refined": lambda: make_case(3, DEEP, refine=True),
    "four": lambda: make_case(5, (6, 10, 4)),
    "linear": lambda: make_case(4, (4, 3)),
}


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: make() for name, make in CASES.items()}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("exact", [False, True])
def test_a_proved_box_is_accepted(cases, tmp_path, name, exact):
    case = cases[name]
    report = check_certificate(case.write(tmp_path), exact=exact)
    assert report.accepted, report.reason
    assert report.reason == "" and report.seconds > 0
    head = case.certificate.head
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
    assert not report.accepted and re.search(r"leaf \d+ \(class \d\)", report.reason)


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
    net = check._network(raw, exact)
    bounds = check.Bounds(check.Arithmetic(exact), net, a["lo"], a["hi"], slopes)
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
    errors = bounds.float32_errors().astype(float)
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
        b = check.Arithmetic(exact)
        net = check._network(raw, exact)
        bounds = check.Bounds(b, net, a["lo"], a["hi"], {})
        # Ranges of float64 for both: then the bounds are of the same lines.
        if not exact:
            low, high = bounds.root.zlo, bounds.root.zhi
        rows = b.number(np.eye(net.sizes[-1]))
        zero = b.number(np.zeros(len(rows)))
        z = b.number(low), b.number(high)
        found.append(bounds.lower_bounds(len(net.nodes), rows, zero, z))
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
    net = check._network(network.write(tmp_path / "n.npz").read_bytes(), exact)
    centre, radius = random.normal(size=4), random.uniform(0.05, 0.5)
    slopes = {1: random.integers(0, 129, (2, 5, 6), dtype=np.uint8)}
    b = check.Arithmetic(exact)
    ends = centre - radius, centre + radius
    bounds = check.Bounds(b, net, *ends, slopes)
    x = random.uniform(*ends, (20000, 4))
    x[::2] = np.where(random.integers(0, 2, x[::2].shape) == 0, *ends)
    values = {name: value.astype(float) for name, value in network.arrays.items()}
    z = x @ values["w"].T + values["b"]
    active = np.maximum(z, 0)
    y = active @ values["v"].T + z @ values["u"].T + x @ values["t"].T
    out = np.maximum(y, 0) @ values["q"].T + active @ values["r"].T + values["c"]
    inputs = np.concatenate([z, y, z], 1)
    low, high = (np.asarray(e, float) for e in (bounds.root.zlo, bounds.root.zhi))
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
        for made in (bounds.root, bounds.enclose({}, signs)):
            if made is not bounds.root:
                assert np.all(made.lo[6].astype(float) <= out[there].min(0) + 1e-12)
                assert np.all(out[there].max(0) - 1e-12 <= made.hi[6].astype(float))
            z_range = bounds.cut(made.zlo, made.zhi, signs)
            zeros = b.number(np.zeros(3))
            rest = b.number(lines), b.number(betas)
            found = bounds.lower_bounds(6, b.number(rows), zeros, z_range, *rest)
            least = (out[there] @ rows.T).min(0)
            assert np.all(found.astype(float) <= least + 1e-12)
            assert np.all(np.isfinite(found.astype(float)))
            used += there.sum()
    assert used > 1000


def test_roundings_are_charged():
    random = np.random.default_rng(0)
    rounded, rational = check.Arithmetic(False), check.Arithmetic(True)
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


def test_nothing_is_concluded_from_a_nan():
    bounds = check.Bounds.__new__(check.Bounds)
    bounds.b = check.Arithmetic(False)
    nan, one = np.array([np.nan]), np.ones(1)
    with np.errstate(invalid="ignore"):
        for lo, hi in ((nan, one), (-one, nan), (nan, nan)):
            a = -np.ones((1, 1))
            _, cost = bounds.through_relu(a, lo, hi, None, None, one)
            assert np.isnan(cost).all()


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
    assert not report.accepted or truly


# What must be rejected


def change(case: Case, *changes: Callable[[Stored], object]) -> Case:
    """Returns the case with its certificate changed."""
    stored = case.certificate.copy()
    for alter in changes:
        alter(stored)
    return Case(case.layers, case.network, stored)


def set_to(name: str, index, value) -> Callable[[Stored], None]:
    def alter(stored: Stored) -> None:
        stored.arrays[name] = stored.arrays[name].copy()
        stored.arrays[name][index] = value

    return alter


def replaced(stored: Stored, **head) -> None:
    stored.head |= head


Mutation = Callable[[Case, np.random.Generator], Case | None]
MUTATIONS: dict[str, tuple[str, Mutation]] = {}


def mutation(reason: str) -> Callable[[Mutation], Mutation]:
    """Registers a mutation and what the reason of its rejection must match."""

    def register(function: Mutation) -> Mutation:
        MUTATIONS[function.__name__] = reason, function
        return function

    return register


@mutation(r"face (lo|hi) is nearer than apothem_lower at \[\d+\]")
def moved_face(case, random):
    a = case.certificate.arrays
    side = random.choice(["lo", "hi"])
    free = np.flatnonzero(a[side] != a[f"domain_{side}"])
    if not len(free):
        return None
    i = random.choice(free)
    inward = a[side][i] + 1e-9 * (a["x"][i] - a[side][i])
    return change(case, set_to(side, i, inward))


@mutation(r"leaf \d+ \(class \d+\): bound \S+ is not >")
def widened_box(case, random):
    a = case.certificate.arrays
    share = random.uniform(0.6, 1)
    lo = a["lo"] + share * (a["domain_lo"] - a["lo"])
    hi = a["hi"] + share * (a["domain_hi"] - a["hi"])
    return change(case, set_to("lo", slice(None), lo), set_to("hi", slice(None), hi))


@mutation(r"face (lo|hi) is nearer than apothem_lower")
def claims_a_greater_ball(case, random):
    r = case.certificate.head["apothem_lower"] * random.uniform(1.0001, 1.1)
    return change(case, lambda s: replaced(s, apothem_lower=r))


@mutation(r"lo > x at|x > hi at|face (lo|hi) is nearer")
def moved_input(case, random):
    a = case.certificate.arrays
    i = random.integers(len(a["x"]))
    value = random.choice([a["lo"][i] - 1e-3, a["hi"][i] + 1e-3])
    return change(case, set_to("x", i, value))


@mutation(r"domain_lo > lo|hi > domain_hi")
def smaller_domain(case, random):
    a, i = case.certificate.arrays, random.integers(3)
    return change(case, set_to("domain_hi", i, np.nextafter(a["hi"][i], 0)))


@mutation(r"the leaves of class \d+ leave a part of the box out")
def dropped_leaf(case, random):
    a = case.certificate.arrays
    keep = np.arange(len(a["leaf_target"])) != random.integers(len(a["leaf_target"]))
    leaves = {k: v[keep] for k, v in a.items() if k.startswith("leaf_")}
    return change(case, lambda s: s.arrays.update(leaves))


@mutation(r"leaves \[.*\] of class \d+ overlap")
def duplicated_leaf(case, random):
    a = case.certificate.arrays
    i = random.integers(len(a["leaf_target"]))
    leaves = {
        k: np.concatenate([v, v[i : i + 1]])
        for k, v in a.items()
        if k.startswith("leaf_")
    }
    return change(case, lambda s: s.arrays.update(leaves))


@mutation(r"leave a part of the box out|overlap")
def flipped_sign(case, random):
    signs = case.certificate.arrays["leaf_signs"]
    places = np.argwhere(signs)
    if not len(places):
        return None
    i, j = random.choice(places)
    return change(case, set_to("leaf_signs", (i, j), -signs[i, j]))


@mutation(r"leave a part of the box out|overlap|leaf_betas has no sign")
def forgotten_sign(case, random):
    places = np.argwhere(case.certificate.arrays["leaf_signs"])
    if not len(places):
        return None
    return change(case, set_to("leaf_signs", tuple(random.choice(places)), 0))


@mutation(r"leaf_signs is not -1, 0 or 1")
def strange_sign(case, random):
    if not case.certificate.arrays["leaf_signs"].size:
        return None
    return change(case, set_to("leaf_signs", (0, 0), random.choice([2, -2, -128])))


@mutation(r"leaf_betas is negative at \[\d+, \d+\]")
def negative_multiplier(case, random):
    places = np.argwhere(case.certificate.arrays["leaf_signs"])
    if not len(places):
        return None
    return change(case, set_to("leaf_betas", tuple(random.choice(places)), -1e-3))


@mutation(r"leaf_betas has no sign at \[\d+, \d+\]")
def beta_without_sign(case, random):
    places = np.argwhere(case.certificate.arrays["leaf_signs"] == 0)
    if not len(places):
        return None
    return change(case, set_to("leaf_betas", tuple(random.choice(places)), 0.1))


@mutation(r"leaf \d+ \(class \d+\): bound \S+ is not >")
def huge_multipliers(case, random):
    signs = case.certificate.arrays["leaf_signs"]
    if not signs.any():
        return None
    return change(case, set_to("leaf_betas", signs != 0, 1e4))


@mutation(r"leaf_slopes is outside \[0, 1\] at")
def strange_slope(case, random):
    slopes = case.certificate.arrays["leaf_slopes"]
    if not slopes.size:
        return None
    place = tuple(random.integers(slopes.shape))
    return change(case, set_to("leaf_slopes", place, random.choice([-0.1, 1.001, 7])))


@mutation(r"range_slopes_1 is above 128")
def strange_range_slope(case, random):
    if "range_slopes_1" not in case.certificate.arrays:
        return None
    return change(case, set_to("range_slopes_1", (0, 0, 0), 129))


@mutation(r"speaks of another network")
def another_network(case, random):
    layers = [(w + np.float32(1e-3), offset) for w, offset in case.layers]
    other = stored_network(layers)
    file = f"network-{other.sha256[:16]}.npz"
    changed = change(case, lambda s: s.head["network"].update(file=file))
    return Case(layers, other, changed.certificate)


@mutation(r"speaks of another network")
def edited_weight(case, random):
    network = case.network.copy()
    floats = [k for k, v in network.arrays.items() if v.dtype.kind == "f"]
    name = random.choice(floats)
    array = network.arrays[name] = network.arrays[name].copy()
    array.flat[random.integers(array.size)] *= np.float32(1 + 2**-20)
    return Case(case.layers, network, case.certificate)


@mutation(r"speaks of another network")
def edited_header_of_the_network(case, random):
    network = case.network.copy()
    network.head["input_shape"] = [1, *network.head["input_shape"]]
    return Case(case.layers, network, case.certificate)


@mutation(r"leaf_target is no other class|leave a part of the box out|overlap")
def swapped_class(case, random):
    label = (case.certificate.head["label"] + 1) % 3
    return change(case, lambda s: replaced(s, label=label))


@mutation(r"witness|leaf \d+ \(class \d+\): bound")
def swapped_class_everywhere(case, random):
    label = case.certificate.head["label"]
    target = case.certificate.arrays["leaf_target"]
    other = int(target[0])
    return change(
        case,
        lambda s: replaced(s, label=other),
        set_to("leaf_target", target == other, label),
    )


@mutation(r"leaf_target is no other class")
def target_out_of_range(case, random):
    label = case.certificate.head["label"]
    value = random.choice([-1, 99, label])
    return change(case, set_to("leaf_target", 0, value))


@mutation(r"array '\w+' has a NaN or an infinity")
def not_a_number(case, random):
    return change(case, _somewhere(case, random, np.nan))


@mutation(r"array '\w+' has a NaN or an infinity")
def infinity(case, random):
    return change(case, _somewhere(case, random, random.choice([np.inf, -np.inf])))


def _somewhere(case, random, value):
    floats = [
        k for k, v in case.certificate.arrays.items() if v.dtype.kind == "f" and v.size
    ]
    name = random.choice(floats)
    shape = case.certificate.arrays[name].shape
    return set_to(name, tuple(random.integers(shape)), value)


@mutation(r"version of the format is")
def wrong_version(case, random):
    version = [0, 2, "1", True, None, 1.0][random.integers(6)]
    return change(case, lambda s: replaced(s, version=version))


@mutation(r"format '.*', not 'jaxcert certificate'")
def wrong_format(case, random):
    return change(case, lambda s: replaced(s, format="jaxcert network"))


@mutation(r"the witness is outside the domain at \[\d+\]")
def witness_outside(case, random):
    if "witness" not in case.certificate.arrays:
        return None
    value = random.choice([-1e-9, 1 + 1e-9])
    i = random.integers(len(case.certificate.arrays["x"]))
    return change(case, set_to("witness", i, value))


@mutation(r"the witness is farther than apothem_upper at \[\d+\]")
def witness_too_far(case, random):
    upper = case.certificate.head["apothem_upper"]
    if upper is None:
        return None
    return change(case, lambda s: replaced(s, apothem_upper=upper * (1 - 1e-9)))


@mutation(r"the witness does not violate the margin")
def witness_of_nothing(case, random):
    a = case.certificate.arrays
    if "witness" not in a:
        return None
    share = random.uniform(0, 0.5) * case.certificate.head["apothem_lower"]
    share /= case.certificate.head["apothem_upper"]
    point = a["x"] + share * (a["witness"] - a["x"])
    return change(case, set_to("witness", slice(None), point))


@mutation(r"there is no array 'witness'|do not belong to the format")
def witness_missing_or_unasked(case, random):
    upper = case.certificate.head["apothem_upper"]
    if upper is not None and random.integers(2):
        return change(case, lambda s: replaced(s, apothem_upper=None))
    return change(
        case,
        lambda s: replaced(s, apothem_upper=1.0),
        lambda s: s.arrays.pop("witness", None),
    )


@mutation(r"leaf \d+ \(class \d+\): bound")
def greater_margin(case, random):
    margin = case.certificate.head["required_margin"] + random.uniform(5, 50)
    return change(case, lambda s: replaced(s, required_margin=margin))


@mutation(r"(required_margin|apothem_lower|apothem_upper) is")
def strange_number(case, random):
    key = random.choice(["required_margin", "apothem_lower", "apothem_upper"])
    value = [float("nan"), float("inf"), -float("inf"), "1", True, [1]][
        random.integers(6)
    ]
    return change(case, lambda s: s.head.update({str(key): value}))


@mutation(r"rate_(lo|hi) is negative|face (lo|hi) is nearer")
def strange_rate(case, random):
    side = random.choice(["lo", "hi"])
    a = case.certificate.arrays
    free = np.flatnonzero(a[side] != a[f"domain_{side}"])
    if not len(free):
        return None
    value = random.choice([-1.0, 2.0])
    return change(case, set_to(f"rate_{side}", free[0], value))


@mutation(r"array '\w+' has type|array '\w+' has shape")
def other_type_or_shape(case, random):
    name = str(random.choice(["x", "leaf_betas", "leaf_target", "rate_lo"]))

    def alter(stored):
        array = stored.arrays[name]
        other = {"f8": "f4", "f4": "f8", "i4": "f4"}[array.dtype.str[1:]]
        recast = random.integers(2) or name == "leaf_target"
        stored.arrays[name] = array.astype(other) if recast else array[..., :-1]

    if not case.certificate.arrays[name].size:
        return None
    return change(case, alter)


@mutation(r"the network file's name is")
def path_traversal(case, random):
    names = [
        "../network.npz",
        "/etc/passwd",
        "a/b.npz",
        "..",
        "",
        "a\\b.npz",
        "n\0.npz",
    ]
    name = names[random.integers(len(names))]
    return change(case, lambda s: s.head["network"].update(file=name))


@mutation(r"arrays \['extra'\] do not belong|KeyError: 'leaf_target'|no array 'hi'")
def more_or_fewer_arrays(case, random):
    def alter(stored):
        kind = random.integers(3)
        if kind == 0:
            stored.arrays["extra"] = np.zeros(3)
        else:
            del stored.arrays["leaf_target" if kind == 1 else "hi"]

    return change(case, alter)


@pytest.mark.parametrize("kind", MUTATIONS)
def test_a_mutation_is_rejected_with_its_cause(cases, tmp_path, kind):
    reason, mutate = MUTATIONS[kind]
    random = np.random.default_rng(sum(map(ord, kind)))
    made = 0
    for name, case in cases.items():
        mutant = mutate(case, random)
        if mutant is None:
            continue
        made += 1
        report = check_certificate(mutant.write(tmp_path))
        assert not report.accepted, f"{name} is accepted"
        assert re.search(reason, report.reason), f"{name}: {report.reason}"
        assert report.leaves == 0 and np.isnan(report.apothem_lower)
    assert made >= (2 if kind == "strange_range_slope" else 4)


def test_there_are_more_than_200_mutants_of_more_than_12_kinds(cases):
    random = np.random.default_rng(0)
    made = [m(c, random) for _, m in MUTATIONS.values() for c in cases.values()]
    assert len(MUTATIONS) >= 30
    assert sum(mutant is not None for mutant in made) >= 250


def test_exact_arithmetic_rejects_the_same(cases, tmp_path):
    for kind in ("moved_face", "greater_margin", "dropped_leaf", "witness_of_nothing"):
        reason, mutate = MUTATIONS[kind]
        mutant = mutate(cases["few"], np.random.default_rng(0))
        report = check_certificate(mutant.write(tmp_path), exact=True)
        assert not report.accepted and re.search(reason, report.reason)


# Damaged and hostile files


def same_content(one: Path, two: bytes) -> bool:
    """Returns whether the arrays of two files are equal."""
    try:
        with np.load(one) as a, np.load(io.BytesIO(two)) as b:
            return set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a)
    except Exception:  # whatever damage does to numpy's reader
        return False


def damaged(raw: bytes, random) -> Iterator[bytes]:
    for _ in range(60):
        i = random.integers(len(raw))
        yield raw[:i] + bytes([raw[i] ^ (1 << random.integers(8))]) + raw[i + 1 :]


@pytest.mark.parametrize("which", ["certificate", "network"])
def test_flipped_bits_are_rejected_or_change_nothing(cases, tmp_path, which):
    case = cases["deep"]
    path = case.write(tmp_path)
    broken = path
    if which == "network":
        broken = tmp_path / case.certificate.head["network"]["file"]
    raw = broken.read_bytes()
    rejected = 0
    for changed in damaged(raw, np.random.default_rng(0)):
        broken.write_bytes(changed)
        report = check_certificate(path)
        if report.accepted:  # a date of the archive, say: what it holds is the same
            assert same_content(broken, raw)
        else:
            assert report.reason
            rejected += 1
    assert rejected >= 40


@pytest.mark.parametrize("which", ["certificate", "network"])
def test_truncated_files_are_rejected(cases, tmp_path, which):
    case = cases["few"]
    path = case.write(tmp_path)
    cut = path
    if which == "network":
        cut = tmp_path / case.certificate.head["network"]["file"]
    raw = cut.read_bytes()
    for share in np.linspace(0, 0.999, 20):
        cut.write_bytes(raw[: int(share * len(raw))])
        report = check_certificate(path)
        assert not report.accepted
        assert "damaged file: BadZipFile" in report.reason


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path: Path, content: dict[str, bytes], **options) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def npy(header: dict, data: bytes = b"") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


@pytest.mark.parametrize("name", ["x.npy", "leaf_signs.npy", "header.npy"])
def test_sizes_are_not_believed(cases, tmp_path, name):
    path = cases["few"].write(tmp_path)
    content = members(path)
    huge = {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**15)}
    report = check_certificate(rewrite(path, content | {name: npy(huge)}))
    assert not report.accepted and "has another size" in report.reason


def test_a_bomb_is_refused_before_it_is_unpacked(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "_BYTES", 2**20)
    path = cases["few"].write(tmp_path)
    shape = {"descr": "|u1", "fortran_order": False, "shape": (2**21,)}
    content = members(path) | {"x.npy": npy(shape, bytes(2**21))}
    rewrite(path, content, compression=zipfile.ZIP_DEFLATED)
    report = check_certificate(path)
    assert not report.accepted and "bytes of arrays, more than" in report.reason
    rewrite(path, content)
    report = check_certificate(path)
    assert not report.accepted and "has more than" in report.reason


def test_pickles_are_refused(cases, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = cases["few"].write(tmp_path)
    file = io.BytesIO()
    np.save(file, np.array([Trap()], object), allow_pickle=True)
    for name in ("x.npy", "leaf_target.npy", "header.npy"):
        report = check_certificate(
            rewrite(path, members(path) | {name: file.getvalue()})
        )
        assert not report.accepted and "holds pickled objects" in report.reason
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "name, reason",
    [
        ("../x.npy", "array named '../x'"),
        ("sub/x.npy", "array named 'sub/x'"),
        ("x|<f8.npy", "array named"),
        ("x", "two arrays named 'x'"),
    ],
)
def test_strange_members_are_refused(cases, tmp_path, name, reason):
    path = cases["few"].write(tmp_path)
    content = members(path)
    report = check_certificate(rewrite(path, content | {name: content["x.npy"]}))
    assert not report.accepted and reason in report.reason


def test_strange_packing_is_refused(cases, tmp_path):
    path = cases["few"].write(tmp_path)
    rewrite(path, members(path), compression=zipfile.ZIP_LZMA)
    assert "is packed in an unknown way" in check_certificate(path).reason


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"{}", b"\xff}", b"[" * 100000 + b"}", b'{"a":1} ']
)
def test_strange_headers_are_rejected(cases, tmp_path, text):
    path = cases["few"].write(tmp_path)
    shape = {"descr": "|u1", "fortran_order": False, "shape": (len(text),)}
    report = check_certificate(
        rewrite(path, members(path) | {"header.npy": npy(shape, text)})
    )
    assert not report.accepted and report.reason


def hostile_networks(network: Stored) -> Iterator[tuple[str, Stored]]:
    def node(index: int, **values) -> Stored:
        changed = network.copy()
        changed.head["nodes"][index] |= values
        return changed

    def term(**values) -> Stored:
        changed = network.copy()
        changed.head["nodes"][0]["terms"][0] |= values
        return changed

    yield "size", node(1, size=10**15)
    yield "input", node(1, input=7)
    yield "input", node(1, input=-1)
    yield "input", node(1, input=2)
    yield "another size", node(1, input=0)
    yield "no array", node(0, offset="nothing")
    yield "op", node(1, op="tanh")
    yield "no array", term(weight="nothing")
    yield "shape", term(weight="w1")
    yield "kind", term(kind="pickle")
    yield "no array", node(0, terms=[], offset=None)
    yield "input_shape", Stored(network.head | {"input_shape": [2**40]}, network.arrays)
    yield "shape", Stored(network.head | {"input_shape": [4]}, network.arrays)
    relu = {"op": "relu", "size": 2**24, "input": 0}
    yield "weights", Stored(
        network.head
        | {"input_shape": [2**24], "nodes": [relu] * 2},
        network.arrays,
    )  # fmt: skip


def test_hostile_networks_are_rejected(cases, tmp_path):
    case = cases["few"]
    for reason, network in hostile_networks(case.network):
        stored = case.certificate.copy()
        file = f"network-{network.sha256[:16]}.npz"
        stored.head["network"] = {"sha256": network.sha256, "file": file}
        report = check_certificate(Case(case.layers, network, stored).write(tmp_path))
        assert not report.accepted and reason in report.reason, report.reason


@pytest.mark.parametrize(
    "key, value, reason",
    [
        ("index", np.array([0, 1, 2, 3, 5], np.int32), "index out of range"),
        ("index", np.array([0, 1, 2, 3, -2], np.int32), "index out of range"),
        ("column", 99, "column out of range"),
        ("column", -1, "column out of range"),
        ("column", 0, "an entry occurs twice"),
        ("start", 3, "no row start"),
    ],
)
def test_strange_sparse_weights_are_rejected(cases, tmp_path, key, value, reason):
    case = cases["terms"]
    network = case.network.copy()
    name = "w0.index" if key == "index" else f"w1.{key}"
    array = network.arrays[name].copy()
    array[slice(None) if key == "index" else slice(0, 2)] = value
    network.arrays[name] = array
    stored = case.certificate.copy()
    file = f"network-{network.sha256[:16]}.npz"
    stored.head["network"] = {"sha256": network.sha256, "file": file}
    report = check_certificate(Case(case.layers, network, stored).write(tmp_path))
    assert not report.accepted and reason in report.reason


def test_what_is_no_file_is_rejected(cases, tmp_path):
    assert "FileNotFound" in check_certificate(tmp_path / "none.npz").reason
    assert "is no file" in check_certificate(tmp_path).reason
    os.mkfifo(tmp_path / "pipe.npz")
    assert "is no file" in check_certificate(tmp_path / "pipe.npz").reason
    path = cases["few"].write(tmp_path)
    (tmp_path / cases["few"].certificate.head["network"]["file"]).unlink()
    report = check_certificate(path)
    assert not report.accepted and "network-" in report.reason


def test_the_caller_names_the_network(cases, tmp_path):
    path = cases["few"].write(tmp_path)
    right = cases["few"].network.sha256
    assert check_certificate(path, network=right).accepted
    report = check_certificate(path, network=cases["four"].network.sha256)
    assert not report.accepted and "another network" in report.reason


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
    assert not report.accepted and "bound" in report.reason


def test_null_ends(cases, tmp_path):
    case = cases["slack"]
    widest = change(case, lambda s: replaced(s, apothem_lower=None))
    report = check_certificate(widest.write(tmp_path))
    assert not report.accepted and "face" in report.reason
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
    excess = check._excess(
        np.array([1.0, 1.0, 3.0, 1 + 2**-52]),
        np.array([0.0, -(2.0**-80), 2.0, 0.0]),
        third,
        np.array([3.0, 3.0, 3.0, 3.0]),
    )
    # 3 * (1 / 3 as stored) is less than 1.
    assert excess.tolist() == [1, 1, 1, 1]
    nearly = np.array([2.0**-80])
    assert check._excess(np.ones(1), nearly, 1.0, np.ones(1)).tolist() == [-1]
    assert check._excess(np.ones(1), 0 * nearly, 1.0, np.ones(1)).tolist() == [0]


# The program itself


def test_it_is_short():
    """At most 500 lines of code, blank lines and docstrings not counted."""
    source = Path(check.__file__).read_text()
    lines = {i for i, line in enumerate(source.splitlines(), 1) if line.strip()}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                lines -= set(range(first.lineno, (first.end_lineno or 0) + 1))
    assert len(lines) <= 500
    assert len(source.splitlines()) <= 660


def test_it_imports_numpy_and_the_standard_library_only():
    tree = ast.parse(Path(check.__file__).read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add((node.module or "").split(".")[0])
    assert names <= {"numpy", *sys.stdlib_module_names}
    assert "pickle" not in names


SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "check.py"


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """Runs experiments/check.py as a process."""
    cache = str(tmp_path_factory.mktemp("xla"))
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}

    def run(*arguments: object) -> tuple[int, list[str], str]:
        words = [sys.executable, str(SCRIPT), *map(str, arguments)]
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout.splitlines(), done.stderr

    return run


def test_the_script_checks_a_run(cases, tmp_path, script):
    proofs = tmp_path / "proofs"
    proofs.mkdir()
    cases["few"].write(proofs, "7.npz")
    cases["deep"].write(proofs, "8.npz")
    code, lines, err = script(tmp_path, "--exact")
    assert code == 0, err
    assert re.fullmatch(
        r"accepted 7 class \d \[\S+, \S+\] real leaves \d+ \d+ ms", lines[0]
    )
    summary = r"2 checked: 2 accepted, 0 rejected; median \S+ ms"
    assert re.fullmatch(summary, lines[-1]) and len(lines) == 3
    assert max(map(len, lines)) <= 80
    bad = MUTATIONS["dropped_leaf"][1](cases["few"], np.random.default_rng(0))
    bad.write(proofs, "9.npz")
    code, lines, _ = script(proofs / "7.npz", proofs / "9.npz")
    assert code == 1
    assert lines[1].startswith("REJECTED 9: the leaves of class")
    assert lines[-1].startswith("2 checked: 1 accepted, 1 rejected")


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ((), "name certificates, or the folder of a run"),
        (("{folder}/nothing",), "there is no such file or folder"),
        (("{folder}",), "holds no certificate"),
        (("{folder}", "--network=abc"), "is no sha256"),
    ],
)
def test_mistakes_of_the_caller(tmp_path, script, arguments, reason):
    code, lines, err = script(*(word.format(folder=tmp_path) for word in arguments))
    assert code == 1 and not lines
    assert err.startswith("error: ") and reason in err and err.count("\n") == 1


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
    assert not report.accepted and reason in report.reason
    # The same with ordinary numbers is accepted.
    network, certificate = affine_case(
        [([[1.0], [0.0]], [1.0, 0.0])], 0.5, 0.5, 0.5, arithmetic
    )
    network.write(tmp_path / "network.npz")
    report = check_certificate(certificate.write(tmp_path / "c.npz"), exact=exact)
    assert report.accepted, report.reason


def test_a_name_that_stands_twice_is_rejected(tmp_path):
    network, certificate = affine_case(
        [([[1.0], [0.0]], [1.0, 0.0])], 0.5, 0.5, 0.5, "real"
    )
    network.write(tmp_path / "network.npz")
    text = json.dumps(certificate.head).replace('"label": 0', '"label": 1, "label": 0')
    header = np.frombuffer(text.encode(), np.uint8)
    np.savez(tmp_path / "c.npz", header=header, **certificate.arrays)
    report = check_certificate(tmp_path / "c.npz")
    assert not report.accepted and "stands twice" in report.reason
