"""The tree of a proof: a box cut into parts, each of which is proved on its own.

Its nodes stand in preorder, as int32. Over n features and N neurons, the inputs of all
ReLUs, a node is
  i < n: the box is halved along feature i; first the lower half;
  n + k, k < N: the input of neuron k is >= 0, then it is <= 0;
  -1: a leaf, whose proof stands elsewhere;
  -2 - l: the lemma l proves it.
The halves share the face in the middle, wherever rounding puts that, and 0 has both
signs: no point is left out, whatever the nodes are. A lemma says that its clause holds
wherever the inputs of some neurons have certain signs, anywhere in the whole box; it is
proved like a leaf, and proves all parts that have these signs.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import numpy as np

from .reading import need

LEAF = -1


def middle(lo, hi):
    """Returns where a feature is halved, from lo to hi, within rounding."""
    return min(max(lo + (hi - lo) / 2, lo), hi)


def leaves(nodes, lo, hi, neurons: int, lemmas):
    """Yields the box and the signs of every leaf, in order: lo, hi (n,), signs (N,).

    Where no feature was halved they are the very arrays lo and hi that are given.

    Args:
      nodes: of one tree.
      lo, hi: the box.
      neurons: N.
      lemmas: the signs (N,) of those that may be cited, by number.
    """
    n, stack = len(lo), [(lo, hi, np.zeros(neurons, np.int8))]
    for node in nodes.tolist():
        need(bool(stack), "a tree has nodes that belong to no part of the box")
        lo, hi, signs = stack.pop()
        need(node < n + neurons, "a tree splits what does not exist")
        if node == LEAF:
            yield lo, hi, signs
        elif node < 0:
            lemma = lemmas.get(-2 - node)
            need(lemma is not None, f"lemma {-2 - node} is not of this clause")
            same = (lemma == 0) | (lemma == signs)
            need(same, f"lemma {-2 - node} is cited where its signs do not hold")
        elif node < n:
            below, above = hi.copy(), lo.copy()
            below[node] = above[node] = middle(lo[node], hi[node])
            stack += [(above, hi, signs), (lo, below, signs)]
        else:
            need(bool(signs[node - n] == 0), "a tree splits a neuron twice")
            plus, minus = signs.copy(), signs.copy()
            plus[node - n], minus[node - n] = 1, -1
            stack += [(lo, hi, minus), (lo, hi, plus)]
    need(not stack, "a tree is cut off: a part of the box is left out")
