"""The proof of clauses in boxes: trees of them, and the multipliers of their leaves.

A clause excludes C y + d <= 0 in a box (`clauses.py`). Which boxes there are, and which
clauses, says the claim: `boxes.py`, `answers.py`. Clauses are numbered box by box. Of
the proof, over the N inputs of all ReLUs, the file has
  T trees (`tree.py`), one after the other, by box and clause: tree_box, tree_clause,
    tree_size int32 (T,), nodes int32 (sum of the sizes,). A tree of clause -1 proves
    all clauses of its box: its leaves need no multipliers and have none;
  of the H lemmas: lemma_clause int32 (H,), lemma_signs int8 (H, N), 1 assumes that the
    input is >= 0, -1 that it is <= 0;
  of the lemmas and then the L leaves of all trees of one clause: leaf_weights float32
    (H + L, W) of the rows of the clause, >= 0, W the most rows of a clause; leaf_slopes
    (H + L, N) in [0, 1] and leaf_betas (H + L, N), >= 0 and only where the leaf has a
    sign, each float32, or float64 where that is too coarse;
  range_slopes_<box>_<k> uint8 (2, n, M), 128ths, which may bound the n inputs of ReLU k
    of a box from below and from above, M neurons before it;
  cuts of a box (`cuts.py`); of answers also trees of the ranges of a box (`ranges.py`).

The proof. Ranges enclose the network over every part of a box that is a leaf
(`Bounds.enclose`); where the ranges of the box have trees, and the part is all of it
but for signs, they are those of the box, cut by the signs (`ranges.signed`). The
clause, its rows weighed, is bounded there by replacing ReLUs by lines
(`Bounds.through_relu`), from the output back to the input, where the box gives the
minimum (`Bounds.lower_bounds`); a leaf of all clauses has one row that is > 0 for each
of them.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import functools
import itertools
from typing import Any

import numpy as np

from . import cuts
from .arithmetic import Arithmetic
from .bounds import Bounds
from .clauses import Clauses
from .network import Network
from .ranges import RangeTrees, signed
from .reading import Rejected, need, take
from .tree import LEAF, leaves

_NUMBERS = 2**17  # in the boxes, signs and values of the leaves treated at once


class Proof:
    """The arrays of a proof; `slopes` are those of the ranges, box by box."""

    def __init__(
        self, arrays, b: Arithmetic, net: Network, rows, ranged: bool = False
    ) -> None:
        """Every array has the type, the shape and the range of the format.

        Args:
          arrays: of the proof, and no others.
          b, net: the arithmetic and the network.
          rows: of every box, how many rows each of its clauses has.
          ranged: whether ranges may have trees; not in older versions.
        """
        self.a, self.b, self.net, a = arrays, b, net, arrays

        def count(name):
            need(name in a, f"there is no array {name!r}")
            return len(a[name])

        trees, lemmas, proofs = map(count, ("tree_box", "lemma_clause", "leaf_weights"))
        need(lemmas <= proofs, "there are lemmas without a leaf")
        widest = max(itertools.chain(*rows), default=0)
        of_leaves = "f4 f8", (proofs, net.neurons)
        shapes: dict[str, Any] = {
            "tree_box": ("i4", (trees,)), "tree_clause": ("i4", (trees,)),
            "tree_size": ("i4", (trees,)), "nodes": ("i4", (count("nodes"),)),
            "lemma_clause": ("i4", (lemmas,)),
            "lemma_signs": ("i1", (lemmas, net.neurons)),
            "leaf_weights": ("f4", (proofs, widest)),
            "leaf_slopes": of_leaves, "leaf_betas": of_leaves,
        }  # fmt: skip
        self.slopes: list[dict[int, Any]] = [{} for _ in rows]
        self.ranges: list[dict[int, RangeTrees]] = [{} for _ in rows]
        for box, node in itertools.product(range(len(rows)), net.relus):
            if (name := f"range_slopes_{box}_{node.relu}") in a:
                shapes[name] = ("u1", (2, node.size, node.part.start))
                self.slopes[box][node.relu] = a[name]
                need(a[name] <= 128, f"{name} is above 128")
            key = f"{box}_{node.relu}"
            if ranged and node.relu and f"range_ends_{key}" in a:
                self.ranges[box][node.relu] = RangeTrees(a, net, node, key)
        for name, (kind, shape) in shapes.items():
            take(a, name, kind, shape)
        self.cuts = [cuts.layers(a, b, net, box, proofs) for box in range(len(rows))]
        every = itertools.chain(*(of.values() for of in self.cuts + self.ranges))
        known = set(shapes).union(*(of.names for of in every))
        strange = sorted(set(a) - known)
        need(not strange, f"arrays {strange[:3]} do not belong to the format")
        signs = a["lemma_signs"]
        need((signs >= -1) & (signs <= 1), "lemma_signs is not -1, 0 or 1")
        need(a["tree_size"] > 0, "a tree has no nodes")
        whole = int(a["tree_size"].sum(dtype=np.int64)) == len(a["nodes"])
        need(whole, "nodes are not those of the trees")
        need(a["leaf_weights"] >= 0, "leaf_weights is negative")
        need(a["leaf_betas"] >= 0, "leaf_betas is negative")
        slopes = (a["leaf_slopes"] >= 0) & (a["leaf_slopes"] <= 1)
        need(slopes, "leaf_slopes is outside [0, 1]")
        self.first = np.cumsum([0, *map(len, rows)]).tolist()
        self.every_clause_has_a_tree()

    def every_clause_has_a_tree(self) -> None:
        """Trees are of clauses of their boxes, in order, and none is left out."""
        a, first = self.a, self.first
        boxes = range(len(first) - 1)
        want = {(box, q) for box in boxes for q in range(first[box], first[box + 1])}
        both = (a[name].tolist() for name in ("tree_box", "tree_clause"))
        self.trees = list(zip(*both, strict=True))
        for box, clause in self.trees:
            good = (box, clause) in want or (clause == -1 and box in boxes)
            need(good, "a tree is of no clause of its box")
        need(self.trees == sorted(self.trees), "the trees are not in order")
        every = {box for box, clause in self.trees if clause == -1}
        left = sorted(q for box, q in want - set(self.trees) if box not in every)
        need(not left, f"clause {left[:1]} has no tree")
        clauses = a["lemma_clause"]
        need((clauses >= 0) & (clauses < first[-1]), "lemma_clause is no clause")

    def bounds(self, box: int, lo, hi, ball=None) -> Bounds:
        """Returns bounds over a box, of what the proof has for its ranges."""
        rest = self.slopes[box], ball, self.ranges[box]
        return Bounds(self.b, self.net, lo, hi, *rest)

    def check(self, boxes) -> dict[str, Any]:
        """Proves all lemmas and leaves; returns how many there are.

        Args:
          boxes: of every box, its bounds and its clauses, pairs C, d.
        """
        self.next = len(self.a["lemma_clause"])
        for box, (bounds, clauses) in enumerate(boxes):
            if not clauses:
                continue  # nothing is claimed of it
            question, (lo, hi) = Clauses(bounds, clauses), bounds.ends

            def kind(leaf, lo=lo, hi=hi) -> tuple[bool, bool]:
                number, _, low, high, _ = leaf
                return number >= 0, low is lo and high is hi

            every, largest = (
                self.leaves(box, lo, hi),
                max(self.net.sizes[1:], default=1),
            )
            for (own, whole), group in itertools.groupby(every, kind):
                each = max(largest, self.net.neurons, 0 if whole else 2 * len(lo))
                size = max(1, _NUMBERS // each)
                while some := list(itertools.islice(group, size)):
                    self.batch(box, bounds, question, own, whole, some)
        enough = self.next == len(self.a["leaf_weights"])
        need(enough, "there are leaves without a tree")
        count = int(np.count_nonzero(self.a["nodes"] == LEAF))
        count += sum(len(trees.lines) for of in self.ranges for trees in of.values())
        return {"leaves": count, "lemmas": len(self.a["lemma_clause"])}

    def leaves(self, box: int, lo, hi):
        """Yields number, clause, part and signs of a box's lemmas, then of its leaves.

        Those that have no multipliers have the number -1.
        """
        a, ends = self.a, np.cumsum(self.a["tree_size"]).tolist()
        lemmas: dict[int, dict[int, Any]] = {}
        for number, clause in enumerate(a["lemma_clause"].tolist()):
            if self.first[box] <= clause < self.first[box + 1]:
                lemmas.setdefault(clause, {})[number] = a["lemma_signs"][number]
                yield number, clause, lo, hi, a["lemma_signs"][number]
        for end, size, tree in zip(ends, a["tree_size"], self.trees, strict=True):
            of, clause = tree
            if of != box:
                continue
            nodes, known = a["nodes"][end - size : end], lemmas.get(clause, {})
            for part in leaves(nodes, lo, hi, self.net.neurons, known):
                number = -1
                if clause >= 0:
                    number, self.next = self.next, self.next + 1
                yield number, clause, *part

    def batch(self, box, bounds, question, own: bool, whole: bool, some) -> None:
        """Proves some leaves, with their own multipliers or without any.

        Args:
          box, bounds, question: the box, and its bounds and clauses.
          own: whether they have multipliers, and prove one clause instead of all.
          whole: whether their parts are all of the box, but for their signs.
          some: what `leaves` yields of them.
        """
        numbers, clauses, lo, hi, every = zip(*some, strict=True)
        number, clause, signs = map(np.array, (numbers, clauses, every))
        if whole:  # leaves with the same signs have one part
            kinds, part = np.unique(signs, axis=0, return_inverse=True)
            if self.ranges[box]:
                made = signed(bounds, bounds.root, kinds)
            else:
                made = bounds.enclose(bounds.box, kinds)
            part = part.reshape(-1)
        else:
            ends = self.b.number(np.stack(lo)), self.b.number(np.stack(hi))
            made, part = bounds.enclose(ends, signs), np.arange(len(some))
        if own:
            a = self.a
            need(number < len(a["leaf_weights"]), "a leaf has no multipliers")
            slopes, betas = a["leaf_slopes"][number], a["leaf_betas"][number]
            need((betas == 0) | (signs != 0), "leaf_betas has no sign")
            given = a["leaf_weights"][number], slopes, betas * signs
            cut = functools.partial(cuts.through_all, bounds, self.cuts[box], number)
            of = clause - self.first[box]
            found = question.weighed(made, part, of, *given, cut)[:, None]
        else:
            found = question.every(made)[0][part]
        for k, q in np.argwhere(~(found > 0)).tolist():
            leaf = f"leaf {number[k]}" if own else "a leaf without multipliers"
            of = clause[k] if own else q + self.first[box]
            value = float(found[k, q])
            raise Rejected(f"{leaf} (clause {of}): bound {value:.3g} is not > 0")
