"""Trees that halve the input box, found with the bounds of the checker itself.

Narrow networks are decided by splitting inputs (`branch/inputs.py`), with clipping and
without a trace. A proof needs neither multipliers nor clips: a tree of boxes so small
that the checker's own bounds prove each of them. So they are found by these very
bounds, many boxes at once.
"""

from __future__ import annotations

import time

import numpy as np

from jaxcert.checker.bounds import Bounds
from jaxcert.checker.clauses import Clauses
from jaxcert.checker.tree import LEAF, middle

# Boxes bounded at once: enough to fill the matrices, few enough to stay in a cache.
_BLOCK = 256
# By how much, of the greatest output, a bound must exceed 0: other blocks of the same
# boxes are rounded in another way.
_SPARE = 2.0**-44


def halving_tree(
    bounds: Bounds, question: Clauses, deadline: float, most: int = 2**22
) -> np.ndarray | None:
    """Returns the nodes of a tree whose leaves the checker proves, in preorder.

    None if the deadline (`time.monotonic()`) or so many nodes do not suffice, or a box
    is too small to be halved.

    Args:
      bounds: of the whole box, float64.
      question: the clauses to prove in it.
      deadline, most: when to give up.
    """
    spare = _SPARE * float(np.max(bounds.size[-1]))
    split, children = [LEAF], [0]
    stack = [(0, bounds.box[0][0], bounds.box[1][0])]
    while stack:
        if time.monotonic() >= deadline or len(split) > most:
            return None
        block, stack = stack[-_BLOCK:], stack[:-_BLOCK]
        lo, hi = (np.stack(faces) for faces in list(zip(*block, strict=True))[1:])
        signs = np.zeros((len(block), bounds.net.neurons), np.int8)
        found, pulled = question.every(bounds.enclose((lo, hi), signs))
        # The clause that is worst, and what its rows lose by the width of each feature.
        worst = found.argmin(axis=1)
        gain = np.add.reduceat(abs(pulled), question.first, axis=1)
        gain = np.nan_to_num(gain[np.arange(len(block)), worst])
        gain += 1e-3 * gain.max(axis=1, keepdims=True) + 1e-300
        chosen = (gain * (hi - lo)).argmax(axis=1)
        proved = (found > spare).all(axis=1)
        for (node, low, high), done, i in zip(block, proved, chosen, strict=True):
            if done:
                continue
            at = middle(low[i], high[i])
            if not low[i] < at < high[i]:
                return None
            split[node], children[node] = int(i), len(split)
            below, above = high.copy(), low.copy()
            below[i] = above[i] = at
            stack += [(len(split), low, below), (len(split) + 1, above, high)]
            split += [LEAF, LEAF]
            children += [0, 0]
    return _preorder(split, children)


def _preorder(split: list[int], children: list[int]) -> np.ndarray:
    """Returns the splits in preorder; children are at `children` and the next place."""
    nodes, todo = [], [0]
    while todo:
        node = todo.pop()
        nodes.append(split[node])
        if split[node] != LEAF:
            todo += [children[node] + 1, children[node]]
    return np.array(nodes, np.int32)
