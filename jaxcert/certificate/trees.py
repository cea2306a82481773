"""The trees that the leaves of a search over signs come from."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from jaxcert.checker.tree import LEAF


def sign_tree(
    signs: Int[np.ndarray, "L N"], features: int
) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " L"]]:
    """Returns the nodes of a binary tree with these leaves, and their order in it.

    Nodes are in preorder, as `jaxcert/checker/tree.py` states them. Where all leaves of
    a part have a sign at some neuron, the leaves of each sign are a tree again.

    Args:
      signs: -1, 0 or 1 of every neuron in every leaf.
      features: of the input, which nodes count first.

    Raises:
      ValueError: these are not the leaves of a tree.
    """
    nodes, order = [], []
    todo = [(np.arange(len(signs)), np.zeros(signs.shape[1], bool))]
    while todo:
        part, used = todo.pop()
        left = (signs[part] != 0) & ~used
        if len(part) == 1 and not left.any():
            nodes.append(LEAF)
            order.append(part[0])
            continue
        common = np.flatnonzero(left.all(axis=0))
        if not len(part) or not len(common):
            raise ValueError("the leaves are not those of a tree of signs")
        neuron = common[0]
        nodes.append(features + neuron)
        used = used.copy()
        used[neuron] = True
        plus = signs[part, neuron] > 0
        todo += [(part[~plus], used), (part[plus], used)]
    return np.array(nodes, np.int32), np.array(order, np.int64)
