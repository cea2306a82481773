"""Trees that halve the input box, found with the bounds of the checker itself.

Narrow networks are decided by splitting inputs (`branch/inputs.py`), with clipping and
without a trace. A proof needs neither multipliers nor clips: a tree of boxes so small
that the checker's own bounds prove each of them. So they are found by these very
bounds, many boxes at once.

The slopes of a bound say little about what relaxing the activations loses. So which
feature to halve is tried: both halves of several are bounded, and those are kept whose
bounds lack least.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from jaxcert.checker.bounds import Bounds
from jaxcert.checker.clauses import Clauses
from jaxcert.checker.tree import LEAF, middle

# Boxes bounded at once: enough to fill the matrices, few enough to stay in a cache.
_BLOCK = 256
# By how much, of the greatest output, a bound must exceed 0: other blocks of the same
# boxes are rounded in another way.
_SPARE = 2.0**-44
# How many features are tried, those first whose width moves the bound most; and what
# that counts beside the share of the lack that halving takes away.
_TRIED, _MOVES = 8, 0.1


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
    features = len(bounds.ends[0])
    size = max(_BLOCK // (2 * min(features, _TRIED)), 1)

    def bound(lo: np.ndarray, hi: np.ndarray) -> list[tuple[Any, ...]]:
        return list(
            zip(lo, hi, *_bounded(bounds, question, spare, lo, hi), strict=True)
        )

    (root,) = bound(*(end[None] for end in bounds.ends))
    split, children = [LEAF], [0]
    stack = [(0, *root)] if root[2] != 0 else []
    while stack:
        if time.monotonic() >= deadline or len(split) >= most:
            return None
        block, stack = stack[-size:], stack[:-size]
        lo, hi, lacks, moves = (np.stack(v) for v in list(zip(*block, strict=True))[1:])
        tried = np.argsort(-moves, axis=1, kind="stable")[:, :_TRIED]
        halves, inside = _halves(lo, hi, tried)
        found = bound(*halves.reshape(2, -1, features))
        left = np.array([lack for _, _, lack, _ in found]).reshape(2, *tried.shape)
        gained = (1 - np.fmin(left / lacks[:, None], 1)).sum(axis=0)
        share = np.take_along_axis(moves / moves.sum(axis=1, keepdims=True), tried, 1)
        chosen = np.where(inside, gained + _MOVES * share, -np.inf).argmax(axis=1)
        for k, (node, *_) in enumerate(block):
            if not inside[k, chosen[k]]:
                return None
            split[node], children[node] = int(tried[k, chosen[k]]), len(split)
            for half in range(2):
                part = found[np.ravel_multi_index((half, k, chosen[k]), left.shape)]
                if part[2] != 0:
                    stack.append((len(split), *part))
                split.append(LEAF)
                children.append(0)
    return _preorder(split, children)


def _bounded(
    bounds: Bounds, question: Clauses, spare: float, lo: np.ndarray, hi: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what bounds over boxes lack, and what moves them.

    That is by how much the clauses together are below what proves them, 0 where all are
    proved, (K,); and for each feature what the rows of the worst clause lose by its
    width, (K, n), > 0 where that is.

    Args:
      bounds, question: of the whole box.
      spare: what a bound must exceed.
      lo, hi: the boxes, (K, n).
    """
    signs = np.zeros((len(lo), bounds.net.neurons), np.int8)
    found, pulled = question.every(bounds.enclose((lo, hi), signs))
    least = np.finfo(np.float64).tiny
    lacks = np.where(found > spare, 0, np.maximum(spare - found, least))
    rows = np.add.reduceat(abs(pulled), question.first, axis=1)
    moves = np.nan_to_num(rows[np.arange(len(lo)), found.argmin(axis=1)])
    moves += 1e-3 * moves.max(axis=1, keepdims=True) + 1e-300
    return lacks.sum(axis=1), moves * (hi - lo)


def _halves(
    lo: np.ndarray, hi: np.ndarray, tried: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns both halves of boxes (K, n) along each of some features (K, T).

    Their ends are (2, 2, K, T, n), lo and hi first, then the lower and the upper half;
    and whether the face in the middle lies inside, (K, T).
    """
    low, high = (np.take_along_axis(end, tried, axis=1) for end in (lo, hi))
    at = np.vectorize(middle, otypes=[np.float64])(low, high)
    shape = (2, 2, *tried.shape, lo.shape[1])
    ends = np.broadcast_to(np.stack([lo, hi])[:, None, :, None], shape).copy()
    k, t = np.indices(tried.shape)
    ends[1, 0, k, t, tried] = ends[0, 1, k, t, tried] = at
    return ends, (low < at) & (at < high)


def _preorder(split: list[int], children: list[int]) -> np.ndarray:
    """Returns the splits in preorder; children are at `children` and the next place."""
    nodes, todo = [], [0]
    while todo:
        node = todo.pop()
        nodes.append(split[node])
        if split[node] != LEAF:
            todo += [children[node] + 1, children[node]]
    return np.array(nodes, np.int32)
