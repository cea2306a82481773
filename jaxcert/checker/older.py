"""Older versions of the format of boxes, rewritten as today's.

Versions 1, 2 (with cuts) and 5 (of a ball) have, in place of trees, of L leaves
leaf_target int32 (L,), the class j, and leaf_signs int8 (L, N); range_slopes_<k>,
cut_..._<k> and leaf_cuts_<k> without the number of the box, which is 0; and no
leaf_weights, which are 1. Nothing rests on what is done here: the proof that comes out
is checked like any other, and nothing else of the file is touched.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import re

import numpy as np

from .reading import need, take
from .tree import of_signs


def rewritten(arrays, version: int, others, n: int, neurons: int):
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
