"""Boxes and answers in today's format: trees, and nothing stated twice."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import test_check_answer_mutations
import test_check_mutations
from answer_builder import (
    ANSWERS,
    Answer,
    answer,
    halving,
    nodes_of,
    trees,
    without_leaves,
    without_property,
)
from builder import CASES, Case, Layers, change, make_case, set_to
from claims import rejections

from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Status
from jaxcert.checker.clauses import Clauses
from jaxcert.checker.tree import middle

# Kinds of mutations that only sets of leaves, or a property of their own, can have.
OF_SETS = {
    "dropped_leaf", "duplicated_leaf", "flipped_sign", "forgotten_sign", "strange_sign",
    "swapped_class", "swapped_class_everywhere", "target_out_of_range", "wrong_version",
    "other_type_or_shape", "more_or_fewer_arrays",
}  # fmt: skip
OF_PROPERTIES = {
    "another_epsilon", "hole_of_one_ulp", "missing_clause", "other_row", "other_claim",
    "clause_of_another_box", "not_a_number", "other_version",
}  # fmt: skip
FEW = "few", "refined", "four", "lemma", "halved", "witness"


def as_trees(case: Case) -> Case:
    """Returns the certificate of version 6 that says what one of version 1 says."""
    a, head = dict(case.certificate.arrays), dict(case.certificate.head)
    target, signs = a.pop("leaf_target"), a.pop("leaf_signs")
    parts, order = [], []
    others = [j for j in range(len(case.layers[-1][1])) if j != head["label"]]
    for q, j in enumerate(others):
        own = np.flatnonzero(target == j)
        nodes, some = nodes_of(signs[own], len(a["x"]))
        parts.append((0, q, nodes))
        order += own[some].tolist()
    proof = without_leaves(signs.shape[1], 1) | trees(parts)
    for name in list(a):
        if name.startswith("leaf_"):
            proof[name] = a.pop(name)[order]
        elif name.startswith("range_slopes_"):
            proof[name.replace("slopes_", "slopes_0_")] = a.pop(name)
    proof["leaf_weights"] = np.ones((len(order), 1), np.float32)
    head.pop("refine")
    stored = case.certificate.copy()
    stored.head, stored.arrays = head | {"version": 6, "claim": "box"}, a | proof
    return Case(case.layers, case.network, stored)


@pytest.mark.parametrize("name", CASES)
def test_a_box_of_trees_is_accepted_and_says_the_same(cases, tmp_path, name):
    old = check_certificate(cases[name].write(tmp_path))
    case = as_trees(cases[name])
    new = check_certificate(case.write(tmp_path))
    assert new.holds, new.reason
    assert new.leaves == np.count_nonzero(case.certificate.arrays["nodes"] == -1)
    assert dataclasses.replace(new, seconds=old.seconds) == old


def test_rational_numbers_accept_it_as_well(cases, tmp_path):
    report = check_certificate(as_trees(cases["few"]).write(tmp_path), exact=True)
    assert report.accepted, report.reason


@pytest.mark.parametrize("kind", sorted(set(test_check_mutations.MUTATIONS) - OF_SETS))
def test_a_changed_box_is_rejected_with_its_cause(cases, tmp_path, kind):
    few = {name: cases[name] for name in sorted(set(FEW) & set(cases))}
    assert rejections(kind, test_check_mutations.MUTATIONS, few, tmp_path, as_trees)


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_need_not_repeat_its_property(answers, tmp_path, name):
    old = check_certificate(answers[name].write(tmp_path))
    new = check_certificate(without_property(answers[name]).write(tmp_path))
    assert new.accepted, new.reason
    assert dataclasses.replace(new, seconds=old.seconds) == old


@pytest.mark.parametrize(
    "kind", sorted(set(test_check_answer_mutations.MUTATIONS) - OF_PROPERTIES)
)
def test_a_changed_answer_is_rejected_with_its_cause(answers, tmp_path, kind):
    few = {name: answers[name] for name in sorted(set(FEW) & set(answers))}
    mutations = test_check_answer_mutations.MUTATIONS
    assert rejections(kind, mutations, few, tmp_path, without_property)


def of_another_property(made: Answer) -> Answer:
    """Returns the answer, of a property whose first box is wider by 3."""
    lo = made.certificate.arrays["box_lo"][0]
    text = made.text
    for i, old in enumerate(lo.tolist()):
        text = text.replace(f"(>= X_{i} {old!r})", f"(>= X_{i} {old - 3!r})")
    assert text != made.text
    return without_property(made.about(text))


@pytest.mark.parametrize("name", ["shallow", "halved", "lemma"])
def test_what_is_proved_is_the_property_that_is_read(answers, tmp_path, name):
    report = check_certificate(of_another_property(answers[name]).write(tmp_path))
    assert report.status is Status.REJECTED and "is not > 0" in report.reason


def halved_box(sizes=(3, 4, 3)) -> Case:
    """Returns a box of a class that halves of it prove, without multipliers."""
    case = as_trees(make_case(1, sizes))
    a, head = case.certificate.arrays, case.certificate.head
    n, classes, label = len(a["x"]), sizes[-1], head["label"]
    rows = np.eye(classes)[label] - np.delete(np.eye(classes), label, axis=0)
    clauses = [(0, row[None], np.zeros(1)) for row in rows]
    nodes = halving(case.layers, a["lo"], a["hi"], clauses)
    leaves = without_leaves(sum(sizes[1:-1]), 1)
    assert len(nodes) > 3 and n == sizes[0]
    return change(case, lambda s: s.arrays.update(leaves | trees([(0, -1, nodes)])))


def test_halves_prove_a_box(tmp_path):
    case = halved_box()
    report = check_certificate(case.write(tmp_path))
    assert report.accepted, report.reason
    nodes = case.certificate.arrays["nodes"]
    assert report.leaves == (nodes == -1).sum()
    fewer = nodes[:-1], np.int32([len(nodes) - 1])
    cut_off = change(
        case, lambda s: s.arrays.update(nodes=fewer[0], tree_size=fewer[1])
    )
    assert "a tree is cut off" in check_certificate(cut_off.write(tmp_path)).reason
    whole = {"nodes": np.int32([-1]), "tree_size": np.int32([1])}
    coarse = change(case, lambda s: s.arrays.update(whole))
    report = check_certificate(coarse.write(tmp_path))
    assert "a leaf without multipliers (clause" in report.reason
    no_tree = change(case, lambda s: s.arrays.update(trees([(0, 0, nodes)])))
    assert "has no tree" in check_certificate(no_tree.write(tmp_path)).reason


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("share", "proved"), [(0.0, 0.0), (0.9, -0.1), (0.5, -0.5)])
def test_a_leaf_takes_the_better_of_two_lines(tmp_path, exact, share, proved):
    """Of max(x, 0) - share x for -1 <= x <= 2: x - share x, or 0 - share x."""
    inputs = np.array([[1.0], [1.0]]), np.array([0.0, 3.0])
    layers: Layers = [inputs, (np.array([[1.0, -share]]), np.array([3 * share]))]
    box = -np.ones(1), 2 * np.ones(1)
    found = {}
    for t in (proved - 1e-6, proved + 1e-6):
        clause = 0, np.ones((1, 1)), np.array([-t])
        arrays = trees([(0, -1, [-1])]) | without_leaves(2, 1)
        made = without_property(answer(layers, [box], [clause], arrays))
        report = check_certificate(made.write(tmp_path), exact=exact)
        assert report.accepted or "is not > 0" in report.reason, report.reason
        found[t > proved] = report.accepted
    assert found == {False: True, True: False}


@pytest.mark.parametrize(("name", "method"), [("few", "weighed"), ("halved", "every")])
def test_nothing_is_proved_by_a_nan(answers, tmp_path, monkeypatch, name, method):
    """The bounds of all leaves are as they were, but for one, which is no number."""
    true = getattr(Clauses, method)

    def spoiled(*given):
        found = true(*given)
        (found if method == "weighed" else found[0])[-1] = np.nan
        return found

    path = without_property(answers[name]).write(tmp_path)
    assert check_certificate(path).accepted
    monkeypatch.setattr(Clauses, method, spoiled)
    assert "bound nan is not > 0" in check_certificate(path).reason


def test_trees_of_two_classes_cannot_be_exchanged(cases, tmp_path):
    case = as_trees(cases["few"])
    a = case.certificate.arrays
    swapped = a["tree_clause"][::-1].copy()
    mutant = change(case, set_to("tree_clause", slice(None), swapped))
    assert "not in order" in check_certificate(mutant.write(tmp_path)).reason
    # With their nodes and leaves: then the multipliers are those of another class.
    ends = np.cumsum([(part == -1).sum() for part in parts(a)]).tolist()
    order = np.r_[tuple(np.arange(i, j) for i, j in pairs([0, *ends])[::-1])]
    new = trees([(0, q, part) for q, part in enumerate(parts(a)[::-1])])
    new |= {name: a[name][order] for name in a if name.startswith("leaf_")}
    mutant = change(case, lambda s: s.arrays.update(new))
    assert "is not > 0" in check_certificate(mutant.write(tmp_path)).reason


def parts(a):
    return np.split(a["nodes"], np.cumsum(a["tree_size"])[:-1])


def pairs(ends):
    return list(zip(ends, ends[1:], strict=False))


def test_a_ball_of_an_older_version_is_read(cases, tmp_path):
    """The box holds it, so that the same leaves prove it."""
    case = change(
        cases["few"],
        lambda s: s.head.update(version=5, apothem_upper=None),
        lambda s: s.arrays.pop("witness", None),
        lambda s: s.arrays.update(ball=np.int32([2])),
    )
    report = check_certificate(case.write(tmp_path))
    assert report.accepted and report.norm == "l2", report.reason
    assert "everywhere in an l2 ball; radius at least" in report.claim
    for version in (1, 2):
        mutant = change(case, lambda s, v=version: s.head.update(version=v))
        assert "is that of balls" in check_certificate(mutant.write(tmp_path)).reason
    mutant = change(cases["few"], lambda s: s.head.update(version=5))
    assert "is that of balls" in check_certificate(mutant.write(tmp_path)).reason


@pytest.mark.parametrize("version", [1, 3, 6, 10])
def test_a_claim_of_another_version_is_rejected(cases, answers, tmp_path, version):
    for made, own in ((as_trees(cases["few"]), (6,)), (answers["few"], (3,))):
        if version in own:
            continue
        made.certificate.copy()
        stored = made.certificate.copy()
        stored.head["version"] = version
        changed = dataclasses.replace(made, certificate=stored)
        report = check_certificate(changed.write(tmp_path))
        assert report.status is Status.REJECTED
        assert version == 10 or "which has no claim" in report.reason


def test_a_middle_is_between_the_ends():
    random = np.random.default_rng(0)
    ends = np.sort(np.ldexp(random.normal(size=(2000, 2)), random.integers(-9, 9)))
    ends[::2, 1] = np.nextafter(ends[::2, 0], np.inf)
    for lo, hi in ends:
        assert lo <= middle(lo, hi) <= hi
