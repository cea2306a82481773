"""Dual boxes: what is accepted, what is rejected, and nothing that is false."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from builder import (
    Layers,
    Stored,
    logits,
    random_layers,
    replaced,
    set_to,
    stored_network,
)
from cases import sampled
from claims import checked, halved_boxes, named, rejected

from jaxcert.checker.claim import Expected, Status

# Class 0 where x_0 + x_1 <= 1/2, of two features in [0, 1].
PLAIN: Layers = [
    (np.array([[1, 1], [1, 0]], np.float32), np.array([0, 0], np.float32)),
    (np.array([[-1, 0], [1, 0]], np.float32), np.array([1, 0], np.float32)),
]


def dual(layers: Layers, label: int, domain, box, points, by, depth: int, **head):
    """Returns the network and a certificate whose slabs are all halved to a depth."""
    network, n = stored_network(layers), layers[0][0].shape[1]
    slabs = sum(int(np.sum(b != d)) for b, d in zip(box, domain, strict=True))
    words = named(
        network, version=7, claim="dual", label=label,
        **{"winner": "greatest", "empty": False} | head,
    )  # fmt: skip
    arrays = {
        "dual_domain_lo": domain[0], "dual_domain_hi": domain[1],
        "dual_lo": box[0], "dual_hi": box[1],
        "dual_points": np.array(points, np.float64).reshape(-1, n),
        "dual_by": np.array(by, np.int32),
    }  # fmt: skip
    neurons, rows = sum(len(b) for _, b in layers[:-1]), len(layers[-1][1]) - 1
    if slabs:
        arrays |= halved_boxes(slabs, n, depth, neurons, rows)
    return network, Stored(words, {k: np.array(v) for k, v in arrays.items()})


def plain(**head):
    """Returns the dual box of class 0, [0, 0.51]^2, and points at all its faces."""
    ends = np.zeros(2), np.ones(2)
    points = [[0, 0], [0.5, 0], [0, 0.5]]
    box = ends[0], np.full(2, 0.51)
    return dual(PLAIN, 0, ends, box, points, [0, 0, 1, 2], 7, **head)


def test_the_claim_is_told(tmp_path):
    report = checked(*plain(), tmp_path)
    assert report.accepted
    assert (report.cut, report.reached, report.features) == (2, 4, 2)
    assert 0.01 <= report.gap < 0.0100001
    assert report.claim.startswith(
        "every point of the domain that is of class 0 of 2 (the greatest output wins) "
        "lies in a box; 2 of its 4 faces lie inside the domain; a point of the class "
        "is known at 4, behind by at most 0.0100001 of the domain's width; domain "
        "[0, 1], 2 features; real arithmetic; network "
    )
    assert checked(*plain(), tmp_path, exact=True).accepted


def test_the_caller_insists(tmp_path):
    network, made = plain()
    for expected, why in (
        (Expected(domain=(0.0, 1.0), arithmetic="real"), ""),
        (Expected(network=network.sha256), ""),
        (Expected(domain=(0.0, 2.0)), "the domain is not (0.0, 2.0), which the caller"),
        (Expected(network="0" * 64), "it speaks of another network"),
        (Expected(margin=0.0), "the caller expects ['margin'], the claim is of a dual"),
        (Expected(arithmetic="float32"), "arithmetic is real, the caller expects"),
    ):
        report = checked(network, made, tmp_path, expected=expected)
        assert report.accepted == (not why) and report.reason.startswith(why)


def test_a_class_that_is_nowhere(tmp_path):
    ends = np.full(2, 0.3), np.ones(2)
    network, made = dual(PLAIN, 0, ends, ends, [], [-1] * 4, 0, empty=True)
    for name in ("dual_lo", "dual_hi", "dual_points", "dual_by"):
        del made.arrays[name]
    made.arrays |= halved_boxes(1, 2, 0, 2)
    report = checked(network, made, tmp_path)
    assert report.accepted
    assert report.claim.startswith("no point of the domain is of class 0 of 2")
    assert not checked(network, _with(made, dual_domain_lo=np.zeros(2)), tmp_path).holds


def test_the_least_output_may_win(tmp_path):
    layers = [PLAIN[0], (-PLAIN[1][0], -PLAIN[1][1])]
    network = stored_network(layers)
    made = plain(winner="least")[1]
    made.head["network"] = named(network)["network"]
    assert checked(network, made, tmp_path).accepted
    replaced(made, winner="greatest")
    assert not checked(network, made, tmp_path).holds


def test_nothing_known_is_vacuous(tmp_path):
    ends = np.zeros(2), np.ones(2)
    report = checked(*dual(PLAIN, 0, ends, ends, [], [-1] * 4, 0), tmp_path)
    assert report.status is Status.VACUOUS
    assert report.reason == "the box is the domain, and no point is known"


def test_a_domain_that_is_a_point_is_vacuous(tmp_path):
    ends = (np.zeros(2),) * 2
    made = dual(PLAIN, 0, ends, ends, [[0, 0]], [0] * 4, 0)
    report = checked(*made, tmp_path)
    assert report.status is Status.VACUOUS and report.reason == "the domain is a point"


def test_a_gap_that_underflows_is_not_0(tmp_path):
    ends = np.zeros(2), np.array([2.0**100, 0])
    made = dual(PLAIN, 0, ends, ends, [[2.0**-1000, 0]], [0, -1, -1, -1], 0)
    report = checked(*made, tmp_path)
    assert report.accepted and 0 < report.gap < 1e-300
    assert "behind by at most 0 of" not in report.claim


def _with(made: Stored, **arrays) -> Stored:
    changed = made.copy()
    changed.arrays |= arrays
    return changed


def _without(name: str):
    return lambda stored: stored.arrays.pop(name)


MUTATIONS = {
    "a face too far inside": (set_to("dual_hi", 0, 0.49), "bound"),
    "a face that moved a rounding too far": (
        set_to("dual_hi", 1, 0.5), "a leaf without multipliers (clause 1): bound"
    ),
    "a box that reaches beyond the domain": (set_to("dual_hi", 0, 1.1), "dual_hi >"),
    "a box that is turned": (set_to("dual_lo", 0, 0.8), "dual_lo > dual_hi"),
    "a point of the other class": (
        set_to("dual_points", (1, 0), 0.52), "dual_points is not of the class at [1]"
    ),
    "a point beyond the domain": (
        set_to("dual_points", (0, 0), -0.1), "dual_points is outside the domain"
    ),
    "a point at no face": (set_to("dual_by", 3, 0), "a point is at no face"),
    "a face of a point that is not there": (set_to("dual_by", 3, 3), "dual_by is out"),
    "another class": (lambda s: replaced(s, label=1), "is not of the class"),
    "a class that is not there": (lambda s: replaced(s, label=2), "label is '2'"),
    "no class": (lambda s: replaced(s, label=True), "label is 'True'"),
    "the other order": (lambda s: replaced(s, winner="least"), "not of the class"),
    "an unknown order": (lambda s: replaced(s, winner="most"), "winner is 'most'"),
    "a box that is called empty": (lambda s: replaced(s, empty=True), "arrays"),
    "empty is no truth value": (lambda s: replaced(s, empty=0), "empty is '0'"),
    "another claim": (lambda s: replaced(s, claim="unsat"), "has no claim 'unsat'"),
    "another version": (lambda s: replaced(s, version=4), "has no claim 'dual'"),
    "a slab without a tree": (
        lambda s: s.arrays.update(halved_boxes(1, 2, 7, 2)), "clause [1] has no tree"
    ),
    "a slab too many": (
        lambda s: s.arrays.update(halved_boxes(3, 2, 7, 2)), "a tree is of no clause"
    ),
    "a tree that is cut off": (
        lambda s: s.arrays.update(
            nodes=s.arrays["nodes"][:-1],
            tree_size=s.arrays["tree_size"] - np.int32([0, 1]),
        ),
        "a tree is cut off",
    ),
    "clauses of its own": (
        lambda s: s.arrays.update(row_offset=np.ones(1)), "do not belong to the format"
    ),
    "an array too many": (
        lambda s: s.arrays.update(more=np.ones(1)), "arrays ['more'] do not belong"
    ),
    "no trees": (_without("nodes"), "there is no array 'nodes'"),
    "no points": (_without("dual_points"), "there is no array 'dual_points'"),
    "no box": (_without("dual_lo"), "there is no array 'dual_lo'"),
    "a NaN": (set_to("dual_hi", 0, np.nan), "has a NaN or an infinity"),
    "an end in float32": (
        lambda s: s.arrays.update(dual_hi=np.float32([0.51, 0.51])), "has type f4"
    ),
    "another network": (
        lambda s: s.head["network"].update(sha256="0" * 64), "it speaks of another"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_changed_is_rejected(name, tmp_path):
    change, why = MUTATIONS[name]
    assert why in rejected(*plain(), change, tmp_path)


def is_of_class(layers: Layers, x, label: int, exact: bool) -> np.ndarray:
    """Returns whether no other class is ahead: in rationals, or by 1e-9 at least."""
    if not exact:
        y = logits(layers, x)
        return y[:, label] - np.delete(y, label, axis=1).max(axis=1) > 1e-9
    z = [Fraction(float(v)) for v in x]
    for depth, (w, offset) in enumerate(layers):
        z = [max(v, Fraction(0)) for v in z] if depth else z
        z = [
            sum((Fraction(float(a)) * v for a, v in zip(row, z, strict=True)),
                Fraction(float(b)))
            for row, b in zip(w, offset, strict=True)
        ]  # fmt: skip
    return z[label] >= max(z)


def fuzz(seeds, tmp_path, certificates: int) -> Counter:
    """Returns what was said of claims that points refute, and of others."""
    found: Counter = Counter()
    for seed in seeds:
        random = np.random.default_rng(seed)
        sizes = [(2, 4, 2), (2, 3, 3, 3), (1, 3, 2), (3, 4, 2)][seed % 4]
        layers, n = random_layers(random, sizes), sizes[0]
        label, domain = int(random.integers(sizes[-1])), (-np.ones(n), np.ones(n))
        x = random.uniform(-1, 1, (3000, n))
        x[::3] = np.where(
            random.uniform(size=x[::3].shape) < 0.4, np.sign(x[::3]), x[::3]
        )
        own = x[is_of_class(layers, x, label, False)]
        if len(own) < 3:
            continue
        least, most = own.min(axis=0), own.max(axis=0)
        for _ in range(certificates):
            away = float(random.choice([1e-12, 1e-6, 1e-2, 0.1, 0.4]))
            false = random.uniform() < 0.5
            out = np.maximum(least - away, -1), np.minimum(most + away, 1)
            points = own[[*own.argmin(axis=0), *own.argmax(axis=0)]]
            by = np.arange(2 * n)
            if false and random.uniform() < 0.7:
                side, i = random.integers(2), random.integers(n)
                out[side][i] += (away / 2 + away) * (1, -1)[side]
                out[side][i] = np.clip(out[side][i], least[i], most[i])
                ends = own[:, i] < out[0][i], own[:, i] > out[1][i]
                false = bool((ends[side]).any())
            elif false:
                points = points.copy()
                points[0] = random.uniform(-1, 1, n)
                false = not is_of_class(layers, points[0], label, True)
            made = dual(layers, label, domain, out, points, by, int(random.integers(8)))
            report = checked(*made, tmp_path)
            assert "array" not in report.reason and "damaged" not in report.reason
            assert not (false and report.holds), f"seed {seed}: {report.claim}"
            found[false, report.status] += 1
    return found


@pytest.mark.parametrize("part", sampled(range(30), 2))
def test_no_box_is_accepted_that_leaves_out_a_point_of_its_class(part, tmp_path):
    found = fuzz(range(8 * part, 8 * part + 8), tmp_path, certificates=10)
    assert found[True, Status.REJECTED] >= 8
    assert found[False, Status.ACCEPTED] >= 2
