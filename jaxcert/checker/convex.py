"""The check of a feature-convex classifier: radii in closed form, from one gradient.

The file claims of inputs x and radii r, of the l1, l2 or linf norm, that
    f(x') = g(phi(x')) + shift > 0   for every x' with |x' - x| <= r,
where the network is g, with one output, and phi(x) = x - mu, or x - mu and |x - mu|
side by side in the last axis. A radius of 0 claims nothing.

The file is a certificate (`reading.py`) of version 9, whose `header` has
  "claim": "convex"; "network", as in `boxes.py`; "features": "shift" or "shift_abs";
    "shift": a number; "norms": some of "l1", "l2", "linf";
of M inputs it has float64 convex_x (M, n), convex_radius (M, norms); convex_mu (n,).

The proof (after Pfrommer et al. 2023, theorem 1). Every weight behind a ReLU is >= 0
(`convex`). Let every ReLU be replaced by a gate t in {0, 1}, its input times t. As
relu(u) >= t u, and what is behind grows with it, this makes an affine function l <= g,
whatever the gates are. Let s_i >= 0 be the size of its slope in feature i, or the sum
of its sizes in the two features made of x_i. As | |a| - |b| | <= |a - b|, x'_i moves l
by at most s_i |x'_i - x_i|, and by Hoelder's inequality, with the dual norm of s,
    f(x') >= l(phi(x)) + shift - |s|_dual |x' - x|.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from .arithmetic import LARGEST, Arithmetic
from .claim import Expected, Finding, Span, Status, exact, rounded, span
from .faces import block, enclosed
from .network import beside
from .reading import need, take, whole

NORMS = ("l1", "l2", "linf")
FEATURES = {"shift": "x - mu", "shift_abs": "(x - mu, |x - mu|)"}


@dataclass(frozen=True)
class ConvexReport(Finding):
    """What was found of the radii of a feature-convex classifier.

    Attributes:
      answers, told: how many inputs there are, and how many have a radius above 0.
      features: the map in front of the network, in words.
      shift: what is added to the network's output.
      radii: of every norm its name, and the radii of those that have one.
    """

    answers: int = 0
    told: int = 0
    features: str = ""
    shift: float = math.nan
    radii: tuple[tuple[str, Span], ...] = ()

    def words(self) -> str:
        """Returns the claim in words."""
        ends = ", ".join(
            f"{norm} {rounded(low, 'FLOOR')} .. {rounded(high, 'FLOOR')}"
            for norm, (low, high) in self.radii
        )
        return (
            f"{self.told} of {self.answers} inputs: the network's output of "
            f"{self.features}, plus {exact(self.shift)}, is > 0 for all inputs no "
            f"farther than a radius, {ends}; no domain; real arithmetic; network "
            f"{self.network_sha256[:16]}"
        )


class ConvexCertificate:
    """Inputs, radii and a network; the methods reject what they cannot confirm."""

    report = ConvexReport

    def __init__(self, path, head, arrays, expected: Expected, exact: bool) -> None:
        self.a = arrays
        expected.demand_only("convex radii", "network", "arithmetic")
        _, self.net = beside(path, head, expected.network, exact)
        self.b = Arithmetic(exact)
        self.features = str(head["features"])
        need(self.features in FEATURES, f"features are {self.features[:40]!r}")
        shift = whole(head["shift"], -LARGEST, LARGEST, "shift", (int, float))
        self.shift, self.norms = float(shift), head["norms"]
        known = type(self.norms) is list and all(n in NORMS for n in self.norms)
        need(known and bool(self.norms), f"norms are {str(self.norms)[:40]!r}")
        need(len(set(self.norms)) == len(self.norms), "a norm is named twice")

    def check(self) -> dict[str, Any]:
        """Returns what is proved."""
        a, net, n = self.a, self.net, self.net.sizes[0]
        need(net.sizes[-1] == 1, "the network has not one output")
        if self.features == "shift_abs":
            need(net.shape[-1] % 2 == 0, "the features are not pairs")
            n //= 2
        need("convex_radius" in a, "there is no array 'convex_radius'")
        count = a["convex_radius"].shape[:1]
        shapes = {"convex_x": (*count, n), "convex_mu": (n,)}
        shapes["convex_radius"] = (*count, len(self.norms))
        for name, shape in shapes.items():
            take(a, name, "f8", shape)
        strange = sorted(set(a) - set(shapes))
        need(not strange, f"arrays {strange[:3]} do not belong to the format")
        x, radius = a["convex_x"], a["convex_radius"]
        need((abs(x) < LARGEST) & (abs(a["convex_mu"]) < LARGEST), "x is too large")
        need(radius >= 0, "convex_radius is negative")
        self.convex()
        told = np.flatnonzero(radius.any(axis=1))
        step = block(self.b, net)
        for first in range(0, len(told), step):
            rows = told[first : first + step]
            self.proved(rows, *self.minorants(x[rows]))
        radii = [
            (norm, span(column[column > 0]) if column.any() else (0.0, 0.0))
            for norm, column in zip(self.norms, radius.T, strict=True)
        ]
        return {
            "network_sha256": net.sha256, "answers": len(x), "told": len(told),
            "features": FEATURES[self.features], "shift": self.shift,
            "radii": tuple(radii),
        }  # fmt: skip

    def judged(self) -> tuple[Status, str]:
        """Returns what is to be thought of it, and why."""
        if self.a["convex_radius"].any():
            return Status.ACCEPTED, ""
        return Status.VACUOUS, "no radius is above 0"

    def convex(self) -> None:
        """Behind a ReLU there are ReLUs and weights >= 0 alone.

        By induction every value that is no affine image of the input is at least the
        same value with gates.
        """
        direct = [True]
        for k, node in enumerate(self.net.nodes):
            need(node.affine or node.relu >= 0, f"node {k} is no ReLU")
            for v, w, _ in node.terms if node.affine else ():
                good = direct[v] or w >= 0
                need(good, f"network: node {k} has a negative weight behind a ReLU,")
            direct.append(node.affine and node.direct)

    def minorants(self, x):
        """Returns bounds L <= l(phi(x)) + shift (P,), and S >= |s| (n, P)."""
        b, net, gates = self.b, self.net, {}
        x, mu = b.number(x.T), b.number(self.a["convex_mu"])[:, None]
        lo, hi = b.down(x - mu), b.up(x - mu)
        if self.features == "shift_abs":
            low, high = np.maximum(np.maximum(lo, -hi), b.zero), np.maximum(-lo, hi)
            lo, hi = self.paired(lo, low), self.paired(hi, high)

        def gate(node, low, high):
            t = b.number(np.where(low + high > 0, 1.0, 0.0))
            gates[node.relu] = t
            return low * t, high * t

        low, high = enclosed(b, net, lo, hi, gate)
        for ends in (*low, *high):
            need((-LARGEST < ends) & (ends < LARGEST), "a value is too large")
        one = b.number(np.ones((1, x.shape[1])))
        held = {len(net.nodes): (one, one)}
        for last in reversed(range(1, len(net.nodes) + 1)):
            node = net.nodes[last - 1]
            if last not in held:
                continue
            s, t = held.pop(last)
            for v, w, _ in node.terms:
                if node.affine:
                    down, up = b.least(w.T, s, t), -b.least(-w.T, s, t)
                else:
                    down, up = s * gates[node.relu], t * gates[node.relu]
                if v in held:
                    down, up = b.down(held[v][0] + down), b.up(held[v][1] + up)
                held[v] = down, up
        down, up = held.get(0, (one * b.zero, one * b.zero))
        steep = np.maximum(abs(down), abs(up)) + b.number(np.zeros(lo.shape))
        if self.features == "shift_abs":
            half = self.net.shape[-1] // 2
            pairs = steep.reshape(-1, 2 * half, steep.shape[1])
            steep = b.up(pairs[:, :half] + pairs[:, half:]).reshape(x.shape)
        return b.down(low[-1][0] + b.number(self.shift)), steep

    def paired(self, one, two):
        """Returns both, (n, P), side by side in the last axis of the features."""
        half = self.net.shape[-1] // 2
        parts = [v.reshape(-1, half, v.shape[1]) for v in (one, two)]
        return np.concatenate(parts, axis=1).reshape(2 * len(one), -1)

    def proved(self, rows, least, steep) -> None:
        """The radii of these inputs have |s|_q r < L, in rational numbers."""
        b = self.b
        ones = b.number(np.ones((len(steep), 1)))
        dual = {
            "l1": steep.max(axis=0),
            "l2": b.bound((steep * steep).T, ones)[:, 0],
            "linf": b.bound(steep.T, ones)[:, 0],
        }
        for k, norm in enumerate(self.norms):
            power = 2 if norm == "l2" else 1
            for i, low, size in zip(rows.tolist(), least, dual[norm], strict=True):
                r = Fraction(float(self.a["convex_radius"][i, k]))
                good = low > 0 and r**power * Fraction(size) < Fraction(low) ** power
                need(good or r == 0, f"input {i}: the {norm} radius is too great")
