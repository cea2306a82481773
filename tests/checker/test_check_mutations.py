"""The independent check rejects every kind of change, and says why."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from builder import Case, change, replaced, set_to, stored_network
from claims import rejections

from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Status

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


@mutation(r"leaf \d+ \(clause \d+\): bound \S+ is not >")
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


@mutation(r"leaf \d+ \(clause \d+\): bound \S+ is not >")
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


@mutation(r"range_slopes_0_1 is above 128")
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


@mutation(r"witness|leaf \d+ \(clause \d+\): bound")
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
    version = [0, 3, "1", True, None, 1.0][random.integers(6)]
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


@mutation(r"leaf \d+ \(clause \d+\): bound")
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
        other = {"f8": "f4", "f4": "f2", "i4": "f4"}[array.dtype.str[1:]]
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
    found = rejections(kind, MUTATIONS, cases, tmp_path)
    assert all(r.leaves == 0 and np.isnan(r.apothem_lower) for r in found)
    assert len(found) >= (2 if kind == "strange_range_slope" else 4)


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
        assert report.status is Status.REJECTED and re.search(reason, report.reason)
