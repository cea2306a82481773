"""The proof that nothing satisfies a property: trees for all that it asks.

The file has, besides its header (`answers.py`),
  the property as the proof means it, of B boxes, Q clauses, R rows: box_lo, box_hi
    float64 (B, n); clause_box int32 (Q,); row_clause int32 (R,), row_coefficients
    float64 (R, outputs), row_offset float64 (R,);
  T trees (`tree.py`), one after the other, by box and clause: tree_box, tree_clause,
    tree_size int32 (T,), nodes int32 (sum of the sizes,). A tree of clause -1 proves
    all clauses of its box: its leaves need no multipliers and have none;
  of the H lemmas: lemma_clause int32 (H,), lemma_signs int8 (H, N);
  of the lemmas and then the L leaves of all trees of one clause: leaf_weights float32
    (H + L, W) of the rows of the clause, >= 0, W the most rows of a clause; leaf_slopes
    and leaf_betas as in `boxes.py`;
  range_slopes_<box>_<k>, as in `boxes.py`, of a box.

The proof. Ranges enclose the network over every part of a box that is a leaf
(`Bounds.enclose`). Weights w >= 0 of rows with w @ (C y + d) > 0 leave no point where
all rows are <= 0; a leaf of all clauses has one row that is > 0 for each of them.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import itertools
from typing import Any

import numpy as np

from .arithmetic import Arithmetic
from .bounds import Bounds
from .clauses import Clauses
from .network import Network
from .reading import Rejected, need, take
from .tree import leaves

_BLOCK = 2**16  # numbers in the boxes and signs of the leaves that are treated at once


class Unsat:
    """Arrays that are to prove that nothing satisfies a property, of these cases."""

    def __init__(self, arrays, b: Arithmetic, net: Network, cases) -> None:
        self.a, self.b, self.net, self.cases = arrays, b, net, cases
        self.slopes: list[dict[int, Any]] = []
        self.clauses: list[tuple[Any, Any]] = []

    def check(self) -> dict[str, Any]:
        """The trees are of all of this property, and every leaf of them is proved."""
        self.form()
        self.same_property()
        a = self.a
        trees = list(
            zip(a["tree_box"].tolist(), a["tree_clause"].tolist(), strict=True)
        )
        want = set(zip(a["clause_box"].tolist(), itertools.count()))
        for tree in trees:
            good = tree in want or (tree[1] == -1 and 0 <= tree[0] < len(a["box_lo"]))
            need(good, "a tree is of no clause of its box")
        every = {box for box, clause in trees if clause == -1}
        left = sorted(q for box, q in want - set(trees) if box not in every)
        need(not left, f"clause {left[:1]} has no tree")
        need(trees == sorted(trees), "the trees are not in order")
        self.next = len(a["lemma_clause"])
        count = sum(self.box(box, trees) for box in range(len(a["box_lo"])))
        need(self.next == len(a["leaf_weights"]), "there are leaves without a tree")
        return {"leaves": count, "lemmas": len(a["lemma_clause"])}

    def form(self) -> None:
        """Every array has the type, the shape and the range of the format."""
        a, net = self.a, self.net

        def count(name):
            need(name in a, f"there is no array {name!r}")
            return len(a[name])

        boxes, rows = count("box_lo"), count("row_clause")
        n, outputs = net.sizes[0], net.sizes[-1]
        trees, lemmas, leaves = map(count, ("tree_box", "lemma_clause", "leaf_weights"))
        need(lemmas <= leaves, "there are lemmas without a leaf")
        clauses = count("clause_box")
        widest = max(np.bincount(a["row_clause"].clip(0, rows)), default=0)
        shapes: dict[str, Any] = {
            "box_lo": ("f8", (boxes, n)), "box_hi": ("f8", (boxes, n)),
            "clause_box": ("i4", (clauses,)), "row_clause": ("i4", (rows,)),
            "row_coefficients": ("f8", (rows, outputs)), "row_offset": ("f8", (rows,)),
            "tree_box": ("i4", (trees,)), "tree_clause": ("i4", (trees,)),
            "tree_size": ("i4", (trees,)), "nodes": ("i4", (count("nodes"),)),
            "lemma_clause": ("i4", (lemmas,)),
            "lemma_signs": ("i1", (lemmas, net.neurons)),
            "leaf_weights": ("f4", (leaves, int(widest))),
            "leaf_slopes": ("f4", (leaves, net.neurons)),
            "leaf_betas": ("f4", (leaves, net.neurons)),
        }  # fmt: skip
        self.slopes = [{} for _ in range(boxes)]
        for box, node in itertools.product(range(boxes), net.relus):
            if (name := f"range_slopes_{box}_{node.relu}") in a:
                shapes[name] = ("u1", (2, node.size, node.part.start))
                self.slopes[box][node.relu] = a[name]
                need(a[name] <= 128, f"{name} is above 128")
        for name, (kind, shape) in shapes.items():
            take(a, name, kind, shape)
        strange = sorted(set(a) - set(shapes))
        need(not strange, f"arrays {strange[:3]} do not belong to the format")
        for name, most in (("clause_box", boxes), ("row_clause", clauses)):
            kinds = np.unique(a[name]).tolist()
            need(kinds == list(range(most)), f"{name} leaves one out")
            need(np.diff(a[name]) >= 0, f"{name} is not in order")
        need((a["lemma_clause"] >= 0) & (a["lemma_clause"] < clauses), "lemma_clause")
        signs = a["lemma_signs"]
        need((signs >= -1) & (signs <= 1), "lemma_signs is not -1, 0 or 1")
        need(a["tree_size"] > 0, "a tree has no nodes")
        whole = int(a["tree_size"].sum(dtype=np.int64)) == len(a["nodes"])
        need(whole, "nodes are not those of the trees")
        need(a["leaf_weights"] >= 0, "leaf_weights is negative")
        need(a["leaf_betas"] >= 0, "leaf_betas is negative")
        slopes = (a["leaf_slopes"] >= 0) & (a["leaf_slopes"] <= 1)
        need(slopes, "leaf_slopes is outside [0, 1]")

    def same_property(self) -> None:
        """Boxes and clauses are those of the VNN-LIB file, none more and none less."""
        a, stated = self.a, set()
        splits = np.searchsorted(a["row_clause"], np.arange(1, len(a["clause_box"])))
        parts = (np.split(a[f"row_{x}"], splits) for x in ("coefficients", "offset"))
        self.clauses = list(zip(*parts, strict=True))[: len(a["clause_box"])]
        for box, clause in zip(a["clause_box"], self.clauses, strict=True):
            stated.add(_key(a["box_lo"][box], a["box_hi"][box], clause))
        asked = {
            _key(case.lo, case.hi, clause)
            for case in self.cases
            for clause in case.clauses
        }
        more, less = len(stated - asked), len(asked - stated)
        need(
            not (more or less),
            f"it proves another property: of its clauses {more} are not those of the "
            f"VNN-LIB file, of which {less} are missing",
        )

    def box(self, box: int, trees) -> int:
        """Proves the lemmas and the trees of a box; returns the number of leaves."""
        a, first = self.a, int(np.searchsorted(self.a["clause_box"], box))
        own = self.clauses[first : int(np.searchsorted(a["clause_box"], box, "right"))]
        lo, hi = a["box_lo"][box], a["box_hi"][box]
        self.bounds = Bounds(self.b, self.net, lo, hi, self.slopes[box])
        self.question = Clauses(self.bounds, own)
        lemmas: dict[int, dict[int, Any]] = {}
        for number, clause in enumerate(a["lemma_clause"].tolist()):
            if first <= clause < first + len(own):
                lemmas.setdefault(clause, {})[number] = a["lemma_signs"][number]

        def proofs():
            """Yields number, clause, box and signs of the leaves, -1 for no number."""
            for clause, some in lemmas.items():
                for number, signs in some.items():
                    yield number, clause - first, lo, hi, signs
            ends = np.cumsum(a["tree_size"]).tolist()
            for t, (of, clause) in enumerate(trees):
                if of != box:
                    continue
                nodes = a["nodes"][ends[t] - a["tree_size"][t] : ends[t]]
                known = lemmas.get(clause, {})
                for part in leaves(nodes, lo, hi, self.net.neurons, known):
                    number = -1
                    if clause >= 0:
                        number, self.next = self.next, self.next + 1
                    yield number, clause - first, *part

        count, size = 0, max(1, _BLOCK // (2 * len(lo) + self.net.neurons))
        for kind, group in itertools.groupby(proofs(), lambda item: item[0] >= 0):
            while block := list(itertools.islice(group, size)):
                count += len(block)
                which, of, *parts = (np.array(v) for v in zip(*block, strict=True))
                need(which < len(a["leaf_weights"]), "a leaf has no multipliers")
                if kind:
                    self.weighed(which, of, *parts)
                else:
                    self.free(*parts)
        return count - sum(map(len, lemmas.values()))

    def weighed(self, number, clause, lo, hi, signs) -> None:
        """The multipliers of these leaves prove their clauses."""
        a, bounds = self.a, self.bounds
        whole = not ((lo != bounds.box[0]).any() or (hi != bounds.box[1]).any())
        slopes, betas = a["leaf_slopes"][number], a["leaf_betas"][number]
        need((betas == 0) | (signs != 0), "leaf_betas has no sign")
        weights, betas = a["leaf_weights"][number], betas * signs
        groups = bounds.parts(signs, True)
        if not whole:
            every = np.arange(len(number))
            made = bounds.enclose((self.b.number(lo), self.b.number(hi)), signs)
            groups = iter([(made, every, every)])
        for made, i, part in groups:
            given = clause[i], weights[i], slopes[i], betas[i]
            found = self.question.weighed(made, part, *given)
            for k in np.flatnonzero(~(found > 0)).tolist():
                raise Rejected(f"leaf {number[i[k]]}: bound {float(found[k]):.3g} <= 0")

    def free(self, lo, hi, signs) -> None:
        """The bounds alone prove all clauses of the box in these leaves."""
        ends = self.b.number(lo), self.b.number(hi)
        found, _ = self.question.every(self.bounds.enclose(ends, signs))
        for k, q in np.argwhere(~(found > 0)).tolist():
            value = float(found[k, q])
            raise Rejected(f"a leaf without multipliers: bound {value:.3g} <= 0")


def _key(lo, hi, clause):
    """Returns what tells clauses apart; adding 0 turns -0.0 into 0.0."""
    rows = (
        (c + 0.0).tobytes() + (d + 0.0).tobytes() for c, d in zip(*clause, strict=True)
    )
    return (lo + 0.0).tobytes(), (hi + 0.0).tobytes(), tuple(sorted(rows))
