"""The independent check rejects every kind of change to an answer, and says why."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from answer_builder import Answer
from builder import Stored, set_to
from claims import rejections

from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Status

Mutation = Callable[[Answer, np.random.Generator], Answer | None]
MUTATIONS: dict[str, tuple[str, Mutation]] = {}

LEAF = r"(leaf \d+|a leaf without multipliers) \(clause \d+\)"
BOUND = rf"{LEAF}: bound \S+ is not > 0"


def mutation(reason: str) -> Callable[[Mutation], Mutation]:
    """Registers a mutation and what the reason of its rejection must match."""

    def register(function: Mutation) -> Mutation:
        MUTATIONS[function.__name__] = reason, function
        return function

    return register


def arrays_of(made: Answer) -> dict[str, np.ndarray]:
    return made.certificate.arrays


def is_unsat(made: Answer) -> bool:
    return made.certificate.head["claim"] == "unsat"


def with_leaves(made: Answer) -> bool:
    return is_unsat(made) and len(arrays_of(made)["leaf_weights"]) > 0


def with_lemmas(made: Answer) -> bool:
    return with_leaves(made) and len(arrays_of(made)["lemma_clause"]) > 0


def without_tree(made: Answer, which: int) -> dict[str, np.ndarray]:
    """Returns the arrays without one of the trees, and without its leaves."""
    a = arrays_of(made)
    ends = np.cumsum(a["tree_size"])
    of = np.repeat(np.arange(len(ends)), a["tree_size"])
    leaves = of[(a["nodes"] == -1)]
    left = {k: np.delete(a[k], which, axis=0) for k in a if k.startswith("tree_")}
    left["nodes"] = a["nodes"][of != which]
    lemmas = len(a["lemma_clause"])
    if len(a["leaf_weights"]):
        keep = np.r_[np.ones(lemmas, bool), leaves != which]
        left |= {k: a[k][keep] for k in a if k.startswith("leaf_")}
    return left


@mutation("it speaks of another property")
def another_property_file(made, random):
    text = made.text.replace("(assert", "; changed\n(assert", 1)
    return Answer(made.layers, made.network, text, made.certificate)


@mutation("it proves another property, or part of it: box_hi differs")
def another_epsilon(made, random):
    """The VNN-LIB file has a wider box, and the proof says that it is of that file."""
    if not is_unsat(made):
        return None
    a = arrays_of(made)
    i, k = random.integers(a["box_hi"].shape[1]), random.integers(len(a["box_hi"]))
    old = a["box_hi"][k, i]
    wider = f"(<= X_{i} {float(old + 0.02)!r})"
    return made.about(made.text.replace(f"(<= X_{i} {float(old)!r})", wider))


@mutation(BOUND)
def another_epsilon_everywhere(made, random):
    """The boxes of the proof are those of the wider property, the tree is the old."""
    if not is_unsat(made):
        return None
    a, text = arrays_of(made), made.text
    for name, way, word in (("box_lo", -3.0, ">="), ("box_hi", 3.0, "<=")):
        for i, old in ((i, v) for row in a[name] for i, v in enumerate(row)):
            new = f"({word} X_{i} {float(old + way)!r})"
            text = text.replace(f"({word} X_{i} {float(old)!r})", new)
    return made.about(text).changed(
        set_to("box_lo", slice(None), a["box_lo"] - 3),
        set_to("box_hi", slice(None), a["box_hi"] + 3),
    )


@mutation("it speaks of another network")
def another_network(made, random):
    network = made.network.copy()
    name = random.choice([k for k, v in network.arrays.items() if v.dtype.kind == "f"])
    network.arrays[name] = network.arrays[name] * np.float32(1 + 2**-20)
    return Answer(made.layers, network, made.text, made.certificate)


@mutation("it speaks of another network")
def another_network_in_the_header(made, random):
    return made.changed(lambda s: s.head["network"].update(sha256="0" * 64))


@mutation("a tree is cut off: a part of the box is left out")
def missing_box_of_the_cover(made, random):
    if not is_unsat(made):
        return None
    size = arrays_of(made)["tree_size"].copy()
    t = int(np.argmax(size))
    place = int(size[: t + 1].sum()) - 1
    size[t] -= 1
    nodes = np.delete(arrays_of(made)["nodes"], place)
    return made.changed(lambda s: s.arrays.update(nodes=nodes, tree_size=size))


@mutation("a tree has nodes that belong to no part of the box")
def superfluous_node(made, random):
    if not is_unsat(made):
        return None
    size = arrays_of(made)["tree_size"].copy()
    size[-1] += 1
    nodes = np.append(arrays_of(made)["nodes"], np.int32(-1))
    return made.changed(lambda s: s.arrays.update(nodes=nodes, tree_size=size))


@mutation(r"nodes are not those of the trees|a tree has no nodes")
def wrong_size_of_a_tree(made, random):
    if not is_unsat(made):
        return None
    return made.changed(set_to("tree_size", 0, random.choice([0, 2**30])))


@mutation(r"it proves another property")
def hole_of_one_ulp(made, random):
    if not is_unsat(made):
        return None
    name, way = random.choice([("box_lo", 9), ("box_hi", -9)])
    box = arrays_of(made)[str(name)]
    i = tuple(random.integers(box.shape))
    return made.changed(set_to(str(name), i, np.nextafter(box[i], float(way))))


@mutation(f"a leaf has no multipliers|{BOUND}")
def whole_box_as_one_leaf(made, random):
    """A part that was halved is claimed to be proved as it is."""
    if not is_unsat(made):
        return None
    a = arrays_of(made)
    size, ends = a["tree_size"].copy(), np.cumsum(a["tree_size"])
    t = int(np.argmax(size))
    rest = np.arange(len(a["nodes"]))
    keep = (rest < ends[t] - size[t]) | (rest >= ends[t] - 1)
    nodes = a["nodes"][keep].copy()
    nodes[ends[t] - size[t]] = -1
    first = int((a["nodes"][: ends[t] - size[t]] == -1).sum()) + len(a["lemma_clause"])
    gone = int((a["nodes"][ends[t] - size[t] : ends[t]] == -1).sum())
    size[t] = 1
    drop = np.arange(first + 1, first + gone) if len(a["leaf_weights"]) else []
    left = {k: np.delete(a[k], drop, axis=0) for k in a if k.startswith("leaf_")}
    if len(left["leaf_betas"]):
        left["leaf_betas"][first] = 0
    return made.changed(
        lambda s: s.arrays.update(left | {"nodes": nodes, "tree_size": size})
    )


@mutation("a tree splits what does not exist")
def splits_no_neuron(made, random):
    if not is_unsat(made):
        return None
    a = arrays_of(made)
    place = int(np.flatnonzero(a["nodes"] >= 0)[0])
    most = a["box_lo"].shape[1] + a["leaf_betas"].shape[1]
    return made.changed(set_to("nodes", place, most + random.integers(3)))


@mutation("a tree splits a neuron twice")
def splits_a_neuron_twice(made, random):
    if not with_leaves(made):
        return None
    nodes = arrays_of(made)["nodes"]
    pairs = np.flatnonzero((nodes[:-1] >= 0) & (nodes[1:] >= 0))
    if not len(pairs):
        return None
    return made.changed(set_to("nodes", pairs[0] + 1, nodes[pairs[0]]))


@mutation("leaf_betas has no sign|splits a neuron twice|lemma 0 is cited|" + BOUND)
def splits_another_neuron(made, random):
    if not with_leaves(made):
        return None
    a = arrays_of(made)
    n, places = a["box_lo"].shape[1], np.flatnonzero(a["nodes"] >= 0)
    betas = a["leaf_betas"].any(axis=0)
    free = np.flatnonzero(~betas)
    if not len(free) or not betas.any():
        return None
    node = int(next(p for p in places if betas[a["nodes"][p] - n]))
    return made.changed(set_to("nodes", node, n + free[0]))


@mutation(r"leaf_betas is negative at \[\d+, \d+\]")
def flipped_multiplier(made, random):
    if not with_leaves(made):
        return None
    betas = arrays_of(made)["leaf_betas"]
    places = np.argwhere(betas > 0)
    if not len(places):
        return None
    place = tuple(random.choice(places))
    return made.changed(set_to("leaf_betas", place, -betas[place]))


@mutation("leaf_betas has no sign at")
def multiplier_without_a_sign(made, random):
    if not with_leaves(made):
        return None
    betas = arrays_of(made)["leaf_betas"]
    never = np.flatnonzero(~betas.any(axis=0))
    n = arrays_of(made)["box_lo"].shape[1]
    never = [i for i in never if n + i not in arrays_of(made)["nodes"]]
    if not never:
        return None
    return made.changed(set_to("leaf_betas", (0, random.choice(never)), 0.5))


@mutation("leaf_weights is negative at")
def negative_weight(made, random):
    if not with_leaves(made):
        return None
    return made.changed(set_to("leaf_weights", (0, 0), -1.0))


@mutation(BOUND)
def no_weights(made, random):
    if not with_leaves(made):
        return None
    return made.changed(set_to("leaf_weights", 0, 0.0))


@mutation(BOUND)
def huge_multipliers(made, random):
    if not with_leaves(made) or not arrays_of(made)["leaf_betas"].any():
        return None
    betas = arrays_of(made)["leaf_betas"]
    return made.changed(set_to("leaf_betas", betas > 0, 1e4))


@mutation(r"leaf_slopes is outside \[0, 1\] at")
def strange_slope(made, random):
    if not with_leaves(made):
        return None
    return made.changed(set_to("leaf_slopes", (0, 0), random.choice([-0.1, 1.01])))


@mutation(f"leaf_betas has no sign|{BOUND}")
def leaves_in_another_order(made, random):
    if not with_leaves(made) or not arrays_of(made)["leaf_betas"].any():
        return None
    return made.changed(
        lambda s: s.arrays.update(leaf_betas=s.arrays["leaf_betas"][::-1].copy())
    )


@mutation("a leaf has no multipliers|there are leaves without a tree")
def more_or_fewer_leaves(made, random):
    if not with_leaves(made):
        return None
    a, count = arrays_of(made), len(arrays_of(made)["leaf_weights"])
    rows = np.arange(count + 1) % count if random.integers(2) else np.arange(count - 1)
    leaves = {k: a[k][rows] for k in a if k.startswith("leaf_")}
    return made.changed(lambda s: s.arrays.update(leaves))


@mutation(r"clause \[\d+\] has no tree")
def missing_tree(made, random):
    if not is_unsat(made):
        return None
    which = int(random.integers(len(arrays_of(made)["tree_size"])))
    if with_lemmas(made):
        return None  # its lemma would be of no tree: allowed, and in other tests
    return made.changed(lambda s: s.arrays.update(without_tree(made, which)))


@mutation("it proves another property, or part of it: clause_box differs")
def missing_clause(made, random):
    """The last clause is left out, with its rows and, if it has one, with its tree."""
    if not is_unsat(made) or with_lemmas(made):
        return None
    a = arrays_of(made)
    last = len(a["clause_box"]) - 1
    kept = a["row_clause"] != last
    left = {k: a[k][kept] for k in a if k.startswith("row_")}
    left["clause_box"] = a["clause_box"][:-1]
    if a["tree_clause"][-1] == last:
        left |= without_tree(made, len(a["tree_size"]) - 1)
    return made.changed(lambda s: s.arrays.update(left))


@mutation("it proves another property")
def other_row(made, random):
    if not is_unsat(made):
        return None
    name = str(random.choice(["row_offset", "row_coefficients"]))
    array = arrays_of(made)[name]
    place = tuple(random.integers(array.shape))
    return made.changed(set_to(name, place, array[place] + 1e-9))


@mutation("it proves another property, or part of it: clause_box differs")
def clause_of_another_box(made, random):
    if not is_unsat(made) or len(arrays_of(made)["box_lo"]) < 2:
        return None
    return made.changed(
        set_to("clause_box", random.integers(4), random.integers(2) + 5)
    )


@mutation("a tree is of no clause of its box|are not in order|has no tree")
def tree_of_another_clause(made, random):
    if not is_unsat(made):
        return None
    name = str(random.choice(["tree_clause", "tree_box"]))
    trees = len(arrays_of(made)["tree_box"])
    return made.changed(set_to(name, random.integers(trees), random.choice([-2, 7])))


@mutation(f"lemma 0 is not of this clause|lemma 0 is cited where|{BOUND}")
def lemma_of_another_clause(made, random):
    if not with_lemmas(made):
        return None
    clauses = len(arrays_of(made)["clause_box"])
    other = (int(arrays_of(made)["lemma_clause"][0]) + 1) % clauses
    return made.changed(set_to("lemma_clause", 0, other))


@mutation("lemma 0 is cited where its signs do not hold at")
def lemma_with_another_sign(made, random):
    if not with_lemmas(made):
        return None
    signs = arrays_of(made)["lemma_signs"]
    places = np.argwhere(signs == 0)
    place = tuple(random.choice(places))
    return made.changed(set_to("lemma_signs", place, random.choice([-1, 1])))


@mutation("lemma 0 is cited where its signs do not hold at")
def lemma_cited_elsewhere(made, random):
    """A leaf of the same tree, on the other side of its first split, cites it too."""
    if not with_lemmas(made):
        return None
    a = arrays_of(made)
    ends = np.cumsum(a["tree_size"])
    t = int(np.argmax(a["tree_clause"] == a["lemma_clause"][0]))
    last = int(ends[t]) - 1
    assert a["nodes"][last] == -1
    leaf = len(a["lemma_clause"]) + int((a["nodes"][:last] == -1).sum())
    left = {k: np.delete(a[k], leaf, axis=0) for k in a if k.startswith("leaf_")}
    return made.changed(lambda s: s.arrays.update(left), set_to("nodes", last, -2))


@mutation(BOUND + "|leaf_betas has no sign")
def lemma_that_is_not_proved(made, random):
    if not with_lemmas(made):
        return None
    signs = np.zeros_like(arrays_of(made)["lemma_signs"])
    return made.changed(
        lambda s: s.arrays.update(lemma_signs=signs), set_to("leaf_betas", 0, 0)
    )


@mutation("lemma [17] is not of this clause")
def lemma_that_does_not_exist(made, random):
    if not is_unsat(made):
        return None
    nodes = arrays_of(made)["nodes"]
    place = int(np.flatnonzero(nodes == -1)[0])
    return made.changed(set_to("nodes", place, random.choice([-3, -9])))


@mutation(r"array '\w+' has a NaN or an infinity")
def not_a_number(made, random):
    floats = [k for k, v in arrays_of(made).items() if v.dtype.kind == "f" and v.size]
    name = str(random.choice(floats))
    place = tuple(random.integers(arrays_of(made)[name].shape))
    value = random.choice([np.nan, np.inf, -np.inf])
    return made.changed(set_to(name, place, value))


@mutation("the witness does not satisfy the property")
def wrong_witness(made, random):
    if is_unsat(made):
        return None
    x = arrays_of(made)["witness"]
    return made.changed(set_to("witness", slice(None), -x))


@mutation("the witness does not satisfy the property")
def witness_outside_the_box(made, random):
    if is_unsat(made):
        return None
    text = re.sub(r"\(<= X_0 \S+\)", "(<= X_0 -1.0)", made.text)
    x = np.nextafter(-1.0, 0)
    return made.about(text).changed(set_to("witness", 0, x))


@mutation("the witness does not satisfy the property")
def witness_within_rounding(made, random):
    """A strict row that is exactly 0 at the witness: rational numbers decide."""
    if is_unsat(made):
        return None
    text = made.text.replace("(<= (+ (*", "(< (+ (*")
    text = re.sub(r"\(<= X_0 \S+\)", "(< X_0 0.25)", text)
    return made.about(text).changed(set_to("witness", 0, 0.25))


@mutation("the arrays are not those of a witness|box_lo differs")
def other_claim(made, random):
    return made.changed(
        lambda s: s.head.update(claim="sat" if is_unsat(made) else "unsat")
    )


@mutation("the claim is")
def strange_claim(made, random):
    return made.changed(lambda s: s.head.update(claim="unknown"))


@mutation("an answer has version 3|version of the format is")
def other_version(made, random):
    version = [1, 2, 4, "3", None][random.integers(5)]
    return made.changed(lambda s: s.head.update(version=version))


@mutation("the property's file is '")
def path_traversal(made, random):
    name = ["../p.vnnlib", "/etc/passwd", "a/b", ""][random.integers(4)]
    return made.changed(lambda s: s.head["property"].update(file=name))


@mutation(r"arrays \['extra'\] do not belong|the arrays are not those of a witness")
def more_arrays(made, random):
    return made.changed(lambda s: s.arrays.update(extra=np.zeros(3)))


@mutation(r"array '\w+' has type")
def other_type(made, random):
    name = "nodes" if is_unsat(made) else "witness"

    def alter(s: Stored) -> None:
        s.arrays[name] = s.arrays[name].astype(np.float32)

    return made.changed(alter)


@pytest.mark.parametrize("kind", MUTATIONS)
def test_a_mutation_is_rejected_with_its_cause(answers, tmp_path, kind):
    found = rejections(kind, MUTATIONS, answers, tmp_path)
    assert all(report.leaves == 0 for report in found)
    assert len(found) >= 2


def test_there_are_many_mutants(answers):
    random = np.random.default_rng(0)
    made = [m(a, random) for _, m in MUTATIONS.values() for a in answers.values()]
    assert len(MUTATIONS) >= 40
    assert sum(mutant is not None for mutant in made) >= 200


@pytest.mark.parametrize("name", ["few", "halved", "witness"])
def test_a_file_that_is_cut_off_is_rejected(answers, tmp_path, name):
    path = answers[name].write(tmp_path)
    whole = path.read_bytes()
    for share in np.linspace(0, 0.999, 25):
        path.write_bytes(whole[: int(share * len(whole))])
        assert check_certificate(path).status is Status.REJECTED


def test_a_flipped_bit_is_rejected_or_changes_nothing(answers, tmp_path):
    random, path = np.random.default_rng(3), answers["few"].write(tmp_path)
    whole = path.read_bytes()
    for _ in range(60):
        data = bytearray(whole)
        data[random.integers(len(data))] ^= 1 << random.integers(8)
        path.write_bytes(bytes(data))
        report = check_certificate(path)
        assert report.status is Status.REJECTED or report.answer == "unsat"


def test_exact_arithmetic_rejects_the_same(answers, tmp_path):
    for kind in ("no_weights", "hole_of_one_ulp", "whole_box_as_one_leaf"):
        reason, mutate = MUTATIONS[kind]
        mutant = mutate(answers["few"], np.random.default_rng(0))
        report = check_certificate(mutant.write(tmp_path), exact=True)
        assert report.status is Status.REJECTED and re.search(reason, report.reason)
