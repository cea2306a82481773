"""Bounds of a network over a box, derived from lines and multipliers.

Nothing here is believed: wrong lines or multipliers give a weak bound, never a false
one. An error E of the coefficients of a value v costs E @ max |v| at once.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

from types import SimpleNamespace
from typing import Any

import numpy as np

from .arithmetic import BLOCK, LARGEST, Arithmetic
from .network import Network
from .reading import need


class Bounds:
    """Bounds of a network over the box [lo, hi].

    `root`: ranges lo <= v <= hi of all values, zlo <= z <= zhi of all ReLU inputs.
    Over the whole box, too, size[v] >= |v| and reach[v][t] >= |w_t| @ size of its v.
    """

    def __init__(self, b: Arithmetic, net: Network, lo, hi, slopes) -> None:
        self.b, self.net, self.box = b, net, (b.number(lo), b.number(hi))
        self.size: list[Any] = [np.maximum(*map(abs, self.box))]
        need(self.size[0] < LARGEST, "a value of the box is too large")
        self.reach: list[Any] = [[]]
        self.root: Any = None
        self.root = self.enclose(slopes, np.zeros(net.neurons))
        need(self.root is not None, "the ranges of the whole box are empty")

    def enclose(self, slopes, signs):
        """Returns ranges over the points of the box with these signs; None if empty.

        Input ranges of ReLUs are met with back-substituted bounds if there are slopes
        for them; in a leaf always, unless they are affine images of the input.
        """
        b, root, z = self.b, self.root, self.b.number(np.zeros(self.net.neurons))
        made = SimpleNamespace(lo=[self.box[0]], hi=[self.box[1]], zlo=z, zhi=z.copy())
        for value, node in enumerate(self.net.nodes, 1):
            if node.relu >= 0:
                v = node.terms[0][0]
                lo, hi = made.lo[v], made.hi[v]
                if node.relu in slopes or (root and not node.direct):
                    lo, hi = self.tightened(made, node, slopes.get(node.relu))
                made.lo[v], made.hi[v] = lo, hi = self.cut(lo, hi, signs[node.part])
                if (lo > hi).any():
                    return None
                made.zlo[node.part], made.zhi[node.part] = lo, hi
                lo, hi = np.maximum(lo, b.zero), np.maximum(hi, b.zero)
            elif root and node.direct:
                lo, hi = root.lo[value], root.hi[value]
            else:
                lo = hi = node.offset
                for v, w, _ in node.terms:
                    lo = b.down(lo + b.least(w, made.lo[v], made.hi[v]))
                    hi = b.up(hi - b.least(-w, made.lo[v], made.hi[v]))
                if root:
                    lo = np.fmax(lo, root.lo[value])  # fmax: a NaN says nothing
                    hi = np.fmin(hi, root.hi[value])
            made.lo.append(lo)
            made.hi.append(hi)
            if not root:
                self.size.append(np.maximum(abs(lo), abs(hi)))
                need(self.size[-1] < LARGEST, "a value of the network is too large")
                terms = node.terms if node.relu < 0 else []
                self.reach.append([b.bound(w, self.size[v]) for v, _, w in terms])
        return made

    def cut(self, lo, hi, signs):
        """Returns the ranges of z with z >= 0 for sign +1 and z <= 0 for sign -1."""
        lo = np.where(signs > 0, np.maximum(lo, self.b.zero), lo)
        return lo, np.where(signs < 0, np.minimum(hi, self.b.zero), hi)

    def tightened(self, made, node, slopes):
        """Returns the ranges of z met, where undecided, with bounds of z_i and -z_i."""
        b, v, line = self.b, node.terms[0][0], None
        lo, hi = made.lo[v].copy(), made.hi[v].copy()
        for rows in self.blocks(np.flatnonzero((lo < 0) & (hi > 0))):
            unit, n = np.eye(node.size)[rows], len(rows)
            a, zeros = b.number(np.r_[unit, -unit]), b.number(np.zeros(2 * n))
            if slopes is not None:
                line = b.number(np.concatenate(slopes[:, rows]) / 128.0)
            bound = self.lower_bounds(v, a, zeros, (made.zlo, made.zhi), line)
            lo[rows] = np.fmax(lo[rows], bound[:n])
            hi[rows] = np.fmin(hi[rows], -bound[n:])
        return lo, hi

    def blocks(self, rows):
        """Returns the rows in parts that fit into memory."""
        block = BLOCK >> 4 if self.b.exact else BLOCK
        step = max(1, block // max(self.net.sizes))
        return [rows[i : i + step] for i in range(0, len(rows), step)]

    def lower_bounds(self, value, a, constant, z, slopes=None, betas=None, cuts=None):
        """Returns lower bounds of a @ value + constant wherever z[0] <= z <= z[1].

        Kept true from `value` down to the input: it is >= constant + sum of a_v @ v of
        the values v held. `slopes` (rows, N) of lower lines: by default 1 or 0, as
        z[1] > -z[0]; `betas`: multipliers times signs; `cuts[k]`: for `through_relu`.
        """
        b, held = self.b, {value: a}
        for made in reversed(range(1, value + 1)):
            node, a = self.net.nodes[made - 1], held.pop(made, None)
            if a is None:
                continue
            if node.relu >= 0:
                part, v = node.part, node.terms[0][0]
                line, beta = (x if x is None else x[:, part] for x in (slopes, betas))
                lo, hi = (end[..., part] for end in z)
                through = (cuts or {}).get(node.relu, self.through_relu)
                a, cost = through(a, lo, hi, line, beta, self.size[v])
                passed, costs = [(v, a)], [cost]
            else:
                cost = b.charge(a, abs(node.offset), node.size)
                constant = b.down(constant + b.down(b.dot(a, node.offset) - cost))
                passed = [(v, b.dot(a, w)) for v, w, _ in node.terms]
                costs = [b.charge(a, reach, node.size) for reach in self.reach[made]]
            for v, a in passed:
                if v in held:
                    a = held[v] + a
                    costs.append(b.charge(a, self.size[v]))
                held[v] = a
            for cost in costs:
                constant = b.down(constant - cost)
        return b.down(constant + b.least(held[0], *self.box)) if 0 in held else constant

    def through_relu(self, a, lo, hi, line, beta, size):
        """Returns a' and cost with a @ max(z, 0) >= a' @ z - cost for z in [lo, hi].

        max(z, 0) is z if lo >= 0, and 0 if hi <= 0. Else max(z, 0) >= s z for any s in
        [0, 1], used where a > 0; and max(z, 0) <= s z + t by convexity, if at lo and at
        hi: t >= max(-s lo, hi - s hi), used where a < 0. A beta of the sign of z has
        beta z >= 0, so it may be subtracted. Roundings are charged with size >= |z|.
        """
        b, open_ = self.b, ~((lo >= 0) | (hi <= 0))  # a NaN is undecided, and stays
        left, right = np.where(open_, lo, -b.one), np.where(open_, hi, b.one)
        upper = b.number(np.clip((right / (right - left)).astype(np.float64), 0.0, 1.0))
        height = np.maximum(b.up(-left * upper), b.up(right * b.up(b.one - upper)))
        line = np.where(right > -left, b.one, b.zero) if line is None else line
        slope = np.where(open_, np.where(a > 0, line, upper), b.zero)
        made = a * np.where(lo >= 0, b.one, slope)
        cost = b.charge(made, size)
        if beta is not None:
            made = made - beta
            cost = b.up(cost + b.charge(made, size))
        fall = np.where(open_ & (a < 0), -a * height, b.zero)
        return made, b.up(cost + b.bound(fall, b.number(np.ones(len(size)))))

    def float32_errors(self):
        """Returns e >= |y evaluated in float32 - y| for the logits, over the box.

        Input and weights are rounded first. A node of n summands makes of the error e
        of its inputs |w| e + gamma_n (|w| |v| + |offset|) + n 2^-124, with u = 2^-24.
        """
        b, tiny, u = self.b, self.b.number(2.0**-124), self.b.number(2.0**-24)
        errors = [b.up(b.up(self.size[0] * u) + tiny)]
        need(self.size[0] < 2.0**127, "arithmetic is float32: an input overflows")
        for node in self.net.nodes:
            if node.relu >= 0:
                errors.append(errors[node.terms[0][0]])
                continue
            carried, total = b.number(np.zeros(node.size)), abs(node.offset)
            n = b.number(sum((np.count_nonzero(w, 1) for _, w, _ in node.terms), 2))
            for v, w, absolute in node.terms:
                normal = (w == 0) | (absolute >= 2.0**-126)
                need(normal, "arithmetic is float32: a weight is subnormal")
                need(absolute < 2.0**127, "arithmetic is float32: a weight overflows")
                error = b.up(errors[v] + tiny)  # subnormal values may count as 0
                carried = b.up(carried + b.bound(absolute, error))
                total = b.up(total + b.bound(absolute, b.up(self.size[v] + error)))
            x = n * u  # gamma_n = x / (1 - x) <= x (1 + 2 x)
            need((x < 0.25) & (total < 2.0**127), "arithmetic is float32: overflow")
            local = b.up(total * b.up(x * b.up(2 * x + b.one)))
            errors.append(b.up(b.up(carried + local) + b.up(n * tiny)))
        return errors[-1]
