"""Bounds of clauses: what is excluded in a box, and how parts of it prove that.

A clause excludes C y + d <= 0: at every point some row is > 0. Rows are weighed with
w >= 0, since w @ (C y + d) > 0 leaves no point where all rows are <= 0.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import numpy as np

from .bounds import Bounds


class Clauses:
    """The clauses (C, d) of a box, and bounds of them in parts of that box.

    C is float64 (rows, outputs); d (rows,) may be the arithmetic's own numbers.
    """

    def __init__(self, bounds: Bounds, clauses) -> None:
        self.bounds, b = bounds, bounds.b
        counts = [len(d) for _, d in clauses]
        self.first = np.cumsum([0, *counts[:-1]])
        self.c, self.d = (
            b.number(np.concatenate(v)) for v in zip(*clauses, strict=True)
        )
        # Clauses with fewer rows than others have rows of zeros, which add nothing.
        most, outputs = max(counts), self.c.shape[1]
        self.padded = b.number(np.zeros((len(counts), most, outputs)))
        self.offset = b.number(np.zeros((len(counts), most)))
        for q, (first, count) in enumerate(zip(self.first, counts, strict=True)):
            self.padded[q, :count] = self.c[first : first + count]
            self.offset[q, :count] = self.d[first : first + count]
        reach = b.bound(abs(self.padded.reshape(-1, outputs)), bounds.size[-1])
        self.reach = reach.reshape(self.offset.shape)

    def every(self, made):
        """Returns bounds (K, Q) of all clauses in all parts, of their best rows,

        and the coefficients (K, R, n) of the input in the bounds of all rows. Of a row
        that the lines of the parts do not prove, the better bound of two is taken: the
        other one has the slope 0 for all lower lines of undecided ReLUs.
        """
        b, rows, last = self.bounds.b, len(self.c), len(self.bounds.net.nodes)
        count, found, pulled = len(made.empty), [], []
        for some in self.bounds.blocks(count, rows):
            part = np.repeat(np.arange(count)[some], rows)
            times = len(part) // rows
            a, d = np.tile(self.c, (times, 1)), np.tile(self.d, times)
            below, inputs = self.bounds.lower_bounds(last, a, d, made, part)
            if len(r := np.flatnonzero(~(below > 0))):
                flat = b.number(np.zeros((len(r), self.bounds.net.neurons)))
                rest = a[r], d[r], made, part[r], flat
                again, others = self.bounds.lower_bounds(last, *rest)
                better = again > below[r]
                below[r[better]], inputs[r[better]] = again[better], others[better]
            found.append(below.reshape(times, rows))
            pulled.append(inputs.reshape(times, rows, -1))
        best = np.maximum.reduceat(np.concatenate(found), self.first, axis=1)
        return np.where(made.empty[:, None], b.one, best), np.concatenate(pulled)

    def weighed(self, made, part, clause, weights, slopes, betas, cuts=None):
        """Returns a bound for every leaf: of its clause, its weights and multipliers.

        Args:
          made: what holds in the parts; see `Bounds.enclose`.
          part, clause: of every leaf, (L,).
          weights, slopes, betas: (L, W), (L, N), (L, N); betas times signs.
          cuts: the cuts of some of the leaves, for `Bounds.lower_bounds`.
        """
        b, last = self.bounds.b, len(self.bounds.net.nodes)
        found = [b.number(np.zeros(0))]
        for some in self.bounds.blocks(len(part)):
            q, n = clause[some], self.padded.shape[1]  # of other boxes: more rows
            w = b.number(weights[some, :n])
            columns = self.padded[q].transpose(2, 0, 1)
            a = np.stack([b.along(w, column) for column in columns], axis=1)
            d = b.along(w, self.offset[q])
            for error in (
                b.charge(w, abs(self.offset[q]), n, b.along),
                b.charge(w, self.reach[q], n, b.along),
            ):
                d = b.down(d - error)
            rest = b.number(slopes[some]), b.number(betas[some]), cuts and cuts(some)
            below, _ = self.bounds.lower_bounds(last, a, d, made, part[some], *rest)
            found.append(below)
        return np.where(made.empty[part], b.one, np.concatenate(found))
