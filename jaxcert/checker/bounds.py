"""Bounds of a network over a box and its parts, derived from lines and multipliers.

Nothing here is believed: wrong lines or multipliers give a weak bound, never a false
one. An error E of the coefficients of a value v costs E @ max |v| at once.

A part is a box within the box, and signs that the inputs of ReLUs have in it. Many are
treated at once: K of them, a row each.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

from types import SimpleNamespace
from typing import Any

import numpy as np

from . import curves
from .arithmetic import LARGEST, Arithmetic
from .network import Network
from .reading import need

# Rows bounded at once: few enough that their coefficients are this many numbers, which
# a cache holds and an allocator has at hand, but not fewer than this many.
_NUMBERS, _ROWS = 2**15, 64
_PARTS = 2**17  # numbers in one value of the parts that are enclosed at once


class Bounds:
    """Bounds of a network over the box [lo, hi], or a ball that it contains.

    `root`: what `enclose` returns of the whole box, without signs, as one part.
    Over the whole box, too, size[v] >= |v|, and reach[v] >= |offset| + |w| @ size, of
    all terms.
    """

    def __init__(
        self, b: Arithmetic, net: Network, lo, hi, slopes, ball=None, trees=None
    ) -> None:
        self.b, self.net, self.least = b, net, ball.least if ball else b.least
        self.step = max(_NUMBERS // max(net.sizes), _ROWS)
        self.trees: dict[int, Any] = trees or {}
        self.ends, self.box = (lo, hi), (b.number(lo)[None], b.number(hi)[None])
        self.size: list[Any] = [np.maximum(*map(abs, self.box))[0]]
        need(self.size[0] < LARGEST, "a value of the box is too large")
        self.reach: list[Any] = [[]]
        self.root: Any = None
        signs = np.zeros((1, net.neurons), np.int8)
        self.root = self.enclose(self.box, signs, slopes)
        need(~self.root.empty, "the ranges of the whole box are empty")

    def enclose(self, box, signs, slopes=None):
        """Returns what holds in K parts, of boxes (1 or K, n) and signs (K, N).

        `lo` <= v <= `hi` (1 or K, size of v) of all values; `lines` of every
        activation, by value; and `empty` (K,), of which parts it is certain that they
        hold no point.

        Input ranges of ReLUs are met with back-substituted bounds if there are slopes
        for them; those of smooth activations, and in a part of the box all, always,
        unless they are affine images of the input, whose ranges are exact. Those of the
        whole box are met with what trees of theirs prove (`ranges.py`), too.
        """
        b, root, slopes = self.b, self.root, slopes or {}
        made = SimpleNamespace(box=box, lo=[box[0]], hi=[box[1]])
        made.lines = dict(root.lines) if root else {}
        made.empty = np.zeros(len(signs), bool)
        for value, node in enumerate(self.net.nodes, 1):
            known = root and node.direct and box is self.box
            if known and node.relu < 0:
                lo, hi = root.lo[value], root.hi[value]  # and `lines` are the root's
            elif not node.affine:
                v = node.terms[0][0]
                lo, hi = made.lo[v], made.hi[v]
                again = bool(root or node.curve) and not node.direct
                if again or node.relu in slopes:
                    lo, hi = self.tightened(made, node, slopes.get(node.relu))
                if not root and node.relu in self.trees:
                    lo, hi = self.trees[node.relu].narrowed(self, made, lo, hi)
                if node.relu >= 0:
                    lo, hi = self.cut(lo, hi, signs[:, node.part])
                made.lo[v], made.hi[v] = lo, hi
                made.empty |= (lo > hi).any(axis=1)
                made.lines[value] = self.lines(lo, hi, node.curve)
                lo, hi = curves.activated(b, node.curve, lo, hi)
            else:
                lo = hi = node.offset[None]
                for v, w, _ in node.terms:
                    lo = b.down(lo + b.least(w, made.lo[v].T, made.hi[v].T).T)
                    hi = b.up(hi - b.least(-w, made.lo[v].T, made.hi[v].T).T)
                if root:
                    lo = np.fmax(lo, root.lo[value])  # fmax: a NaN says nothing
                    hi = np.fmin(hi, root.hi[value])
            made.lo.append(lo)
            made.hi.append(hi)
            if not root:
                self.size.append(np.maximum(abs(lo), abs(hi))[0])
                need(self.size[-1] < LARGEST, "a value of the network is too large")
                self.reach.append(self.reach_of(node))
        return made

    def reach_of(self, node):
        """Returns what stands in `reach` for an affine node, else nothing."""
        if not node.affine:
            return []
        total = abs(node.offset)
        for v, _, w in node.terms:
            total = self.b.up(total + self.b.bound(w, self.size[v]))
        return total

    def cut(self, lo, hi, signs):
        """Returns the ranges of z with z >= 0 for sign +1 and z <= 0 for sign -1."""
        lo = np.where(signs > 0, np.maximum(lo, self.b.zero), lo)
        return lo, np.where(signs < 0, np.minimum(hi, self.b.zero), hi)

    def lines(self, lo, hi, curve=None):
        """Returns lines that bound max(z, 0) for lo <= z <= hi, arrays like these.

        `open`: whether 0 is inside. Where it is not, max(z, 0) is `upper` z, 1 or 0
        times z. Where it is, by convexity max(z, 0) <= upper z + height if that holds
        at lo and at hi: height >= max(-upper lo, hi - upper hi); and max(z, 0) >= s z
        for any s in [0, 1], of which `lower` is one. Of a curve: see `curves.lines`.
        """
        if curve:
            return curves.lines(self.b, curve, lo, hi)
        b, open_ = self.b, ~((lo >= 0) | (hi <= 0))  # a NaN is undecided, and stays
        left, right = np.where(open_, lo, -b.one), np.where(open_, hi, b.one)
        upper = b.number(np.clip((right / (right - left)).astype(np.float64), 0.0, 1.0))
        height = np.maximum(b.up(-left * upper), b.up(right * b.up(b.one - upper)))
        fixed = np.where(lo >= 0, b.one, b.zero)
        return SimpleNamespace(
            open=open_,
            upper=np.where(open_, upper, fixed),
            height=np.where(open_, height, b.zero),
            lower=np.where(open_, np.where(right > -left, b.one, b.zero), fixed),
        )

    def tightened(self, made, node, slopes):
        """Returns the ranges of z met, where undecided, with bounds of z_i and -z_i."""
        b, v, line = self.b, node.terms[0][0], None
        lo, hi = made.lo[v].copy(), made.hi[v].copy()
        part, neuron = np.nonzero((lo < hi) if node.curve else (lo < 0) & (hi > 0))
        for some in self.blocks(len(part), 2):
            p, i = part[some], neuron[some]
            n, unit = len(p), np.eye(node.size)[i]
            a, zeros = b.number(np.r_[unit, -unit]), b.number(np.zeros(2 * n))
            if slopes is not None:
                line = b.number(np.concatenate(slopes[:, i]) / 128.0)
            bound = self.lower_bounds(v, a, zeros, made, np.r_[p, p], line)[0]
            lo[p, i] = np.fmax(lo[p, i], bound[:n])
            hi[p, i] = np.fmin(hi[p, i], -bound[n:])
        return lo, hi

    def blocks(self, count: int, rows: int = 1):
        """Returns slices of things, each of so many rows, whose rows fit in a cache."""
        step = self.step // rows or 1
        return [slice(i, i + step) for i in range(0, count, step)]

    def lower_bounds(
        self, value, a, constant, made, part, slopes=None, betas=None, cuts=None
    ):
        """Returns lower bounds of a @ value + constant, row r over the part part[r].

        Kept true from `value` down to the input: it is >= constant + sum of a_v @ v of
        the values v held. `slopes` (rows, N) of lower lines, betas: multipliers times
        signs; `cuts[k]`: for `through_relu`. Also returns the a of the input.
        """
        b, held, parts = self.b, {value: a}, [constant]
        for last in reversed(range(1, value + 1)):
            node, a = self.net.nodes[last - 1], held.pop(last, None)
            if a is None:
                continue
            if not node.affine:
                v, lines, at = node.terms[0][0], made.lines[last], node.part
                if node.curve:
                    a, costs = self.through_curve(a, lines, part, self.size[v])
                else:
                    line, beta = (x if x is None else x[:, at] for x in (slopes, betas))
                    lines = self.of_rows(lines, part, line)
                    through = (cuts or {}).get(node.relu, self.through_relu)
                    a, costs = through(a, lines, beta, self.size[v])
                passed = [(v, a)]
            else:
                costs = [b.charge(a, self.reach[last], node.size)]
                parts.append(b.dot(a, node.offset))
                passed = [(v, b.dot(a, w)) for v, w, _ in node.terms]
            for v, a in passed:
                if v in held:
                    a = held[v] + a
                    costs.append(b.charge(a, self.size[v]))
                held[v] = a
            parts += [-cost for cost in costs]
        a, (lo, hi) = held.get(0), made.box
        if a is None:
            a = b.number(np.zeros((len(constant), self.net.sizes[0])))
        elif len(lo) == 1:
            parts.append(self.least(a, lo[0], hi[0]))
        else:
            parts.append(b.least(a, lo[part], hi[part], b.along))
        return b.total(parts), a

    def of_rows(self, lines, part, slopes):
        """Returns the lines of the part of every row, with slopes where undecided."""
        some = np.zeros(1, int) if len(lines.open) == 1 else part
        lower, upper, height = (
            x.take(some, axis=0) for x in (lines.lower, lines.upper, lines.height)
        )
        if slopes is not None:
            lower = np.where(lines.open[some], slopes, lower)
        return lower, upper, height

    def through_relu(self, a, lines, beta, size):
        """Returns a' and costs with a @ max(z, 0) >= a' @ z - their sum.

        By the lower line where a > 0, by the upper one where a < 0 (`lines`). A beta of
        the sign of z has beta z >= 0, so it may be subtracted. Roundings are charged
        with size >= |z|.
        """
        b, (lower, upper, height) = self.b, lines
        made = a * np.where(a > 0, lower, upper)
        costs = [b.charge(made, size)]
        if beta is not None:
            made = made - beta
            costs.append(b.charge(made, size))
        along = b.along if len(height) > 1 else None
        height = height if along else height[0]
        return made, [*costs, b.bound(-np.minimum(a, b.zero), height, along)]

    def through_curve(self, a, lines, part, size):
        """Returns a' and costs with a @ g(z) >= a' @ z - their sum, of an activation.

        By the lower line where a > 0, by the upper one where a < 0; the ends of lines
        have either sign, and so has a cost.
        """
        b, some = self.b, np.zeros(1, int) if len(lines.low) == 1 else part
        made = a * np.where(a > 0, lines.lower[some], lines.upper[some])
        ends = np.where(a > 0, lines.low[some], lines.high[some])
        error = b.charge(a, abs(ends), a.shape[1], b.along)
        return made, [b.charge(made, size), -b.along(a, ends), error]
