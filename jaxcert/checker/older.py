"""Older versions of the format, rewritten as today's.

Nothing rests on what is done here: the proof that comes out is checked like any other,
and nothing else of a file changes.

Boxes: versions 1, 2 (with cuts) and 5 (of a ball) have, in place of trees, of L leaves
leaf_target int32 (L,), the class j, and leaf_signs int8 (L, N); range_slopes_<k>,
cut_..._<k> and leaf_cuts_<k> without the number of the box, which is 0; and no
leaf_weights, which are 1.

Answers: version 3 repeats the property, of B boxes, Q clauses, R rows: box_lo, box_hi
float64 (B, n); clause_box int32 (Q,); row_clause int32 (R,), row_coefficients float64
(R, outputs), row_offset float64 (R,).
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import re

import numpy as np

from .reading import need, take
from .tree import LEAF


def of_signs(signs, n: int, whose: str):
    """Returns nodes of a tree whose leaves have these signs (L, N), and their order.

    Where all leaves of a part have a sign at some neuron, the leaves of each sign are a
    tree again. Nothing rests on this: the tree is checked like any other.
    """
    nodes: list[int] = []
    order: list[int] = []
    todo = [(np.arange(len(signs)), np.ones(signs.shape[1], bool))]
    while todo:
        part, free = todo.pop()
        need(len(part) > 0, f"the leaves of {whose} leave a part of the box out")
        left = (signs[part] != 0) & free
        if len(part) == 1 and not left.any():
            nodes.append(LEAF)
            order.append(int(part[0]))
            continue
        common = np.flatnonzero(left.all(axis=0))
        need(len(common) > 0, f"leaves {part[:4].tolist()} of {whose} overlap")
        nodes.append(n + int(common[0]))
        free = free.copy()
        free[common[0]] = False
        plus = signs[part, common[0]] > 0
        todo += [(part[~plus], free), (part[plus], free)]
    return nodes, order


def without_leaf_sets(arrays, version: int, others, n: int, neurons: int):
    """Returns the arrays of a proof (`proof.py`) that say the same."""
    a = dict(arrays)
    target, signs = a.pop("leaf_target"), a.pop("leaf_signs")
    signs = take({"leaf_signs": signs}, "leaf_signs", "i1", (len(target), neurons))
    target = take({"leaf_target": target}, "leaf_target", "i4", (len(target),))
    need(np.isin(target, others), "leaf_target is no other class")
    need((signs >= -1) & (signs <= 1), "leaf_signs is not -1, 0 or 1")
    trees, order = [], []
    for j in others.tolist():
        own = np.flatnonzero(target == j)
        nodes, some = of_signs(signs[own], n, f"class {j}")
        trees.append(nodes)
        order += own[some].tolist()
    of_box = "(range_slopes|leaf_cuts|cut_[a-z]+)" if version == 2 else "(range_slopes)"
    for name in list(a):
        array = a.pop(name)
        if name.startswith("leaf_"):
            shape = (len(target), *array.shape[1:])
            array = take({name: array}, name, array.dtype.str[1:], shape)[order]
        a[re.sub(rf"^{of_box}_(\d+)$", r"\1_0_\2", name)] = array
    clauses = np.arange(len(trees), dtype=np.int32)
    return a | {
        "tree_box": np.zeros_like(clauses),
        "tree_clause": clauses,
        "tree_size": np.array([len(nodes) for nodes in trees], np.int32),
        "nodes": np.array([node for nodes in trees for node in nodes], np.int32),
        "lemma_clause": np.zeros(0, np.int32),
        "lemma_signs": np.zeros((0, neurons), np.int8),
        "leaf_weights": np.ones((len(order), min(1, len(others))), np.float32),
    }


def without_property(arrays, cases, n: int, outputs: int):
    """Returns the arrays of an answer, without the property, if it is this one."""
    none = np.zeros((0, outputs))
    owner = [box for box, case in enumerate(cases) for _ in case.clauses]
    clauses = [clause for case in cases for clause in case.clauses]
    counts = [len(d) for _, d in clauses]
    stated = {
        "box_lo": np.array([case.lo for case in cases]).reshape(-1, n),
        "box_hi": np.array([case.hi for case in cases]).reshape(-1, n),
        "clause_box": np.array(owner),
        "row_clause": np.repeat(np.arange(len(clauses)), counts),
        "row_coefficients": np.concatenate([none, *(c for c, _ in clauses)]),
        "row_offset": np.concatenate([np.zeros(0), *(d for _, d in clauses)]),
    }
    for name, array in stated.items():
        same = name in arrays and np.array_equal(arrays[name], array)
        need(bool(same), f"it proves another property, or part of it: {name} differs")
    return {name: arrays[name] for name in arrays if name not in stated}
