"""The check of a dual box: a box that holds every legal input of a class.

A point of the domain is of class c if no other class is strictly ahead: s y_c >= s y_j
for all j, s = 1 where the greatest output wins and -1 where the least does. The file
claims that all points of class c lie in [lo, hi]; and of its faces that a stored point
of the class goes as far as them, but for a gap.

The file is a certificate (`reading.py`) of version 7, whose `header` has
  "claim": "dual"; "network", as in `boxes.py`; "label": c; "winner": "greatest" or
    "least"; "empty": whether the domain holds no point of the class at all;
float64 dual_domain_lo and dual_domain_hi (n,); if it is not empty dual_lo and dual_hi
(n,), dual_points (P, n), points of the class, and dual_by int32 (2n,), lower faces
first: which of them goes farthest there, -1 if none is known; and the proof
(`proof.py`) of one clause in every slab, where there are any.

The proof. Slabs are cut off the domain one after the other, of the lower faces first,
in the order of features: the slab of a face is what the earlier ones left, as far as
the face and with it. The box is what is left when all are cut off. A face on the
domain's boundary has no slab. The only slab of an empty class is the domain. In every
slab it is proved that at no point s (y_j - y_c) <= 0 for all j != c.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arithmetic import LARGEST, Arithmetic
from .claim import Expected, Finding, Span, Status, rounded, same, span
from .faces import block, outputs
from .network import beside, network_of
from .proof import Proof
from .reading import need, take, whole

_ENDS = ("dual_domain_lo", "dual_lo", "dual_hi", "dual_domain_hi")
UNKNOWN = -1


@dataclass(frozen=True)
class DualReport(Finding):
    """What was found of a dual box.

    Attributes:
      label, classes: the class whose points it holds, and how many there are.
      winner: which output wins, the greatest or the least.
      empty: whether the domain holds no point of the class.
      domain_lo, domain_hi, features: of the domain.
      cut: faces that are proved to lie inside the domain.
      reached: faces at which a point of the class is known.
      gap: how far such a point stays behind at most, as a part of the domain's width.
      leaves: of the proof.
    """

    label: int = -1
    classes: int = 0
    winner: str = ""
    empty: bool = False
    domain_lo: Span = (math.nan, math.nan)
    domain_hi: Span = (math.nan, math.nan)
    features: int = 0
    cut: int = 0
    reached: int = 0
    gap: float = math.nan
    leaves: int = 0

    def words(self) -> str:
        """Returns the claim in words."""
        of = f"class {self.label} of {self.classes} (the {self.winner} output wins)"
        known = f"every point of the domain that is of {of} lies in a box"
        if self.empty:
            known = f"no point of the domain is of {of}"
        else:
            known += (
                f"; {self.cut} of its {2 * self.features} faces lie inside the domain; "
                f"a point of the class is known at {self.reached}, behind by at most "
                f"{rounded(self.gap, 'CEILING')} of the domain's width"
            )
        ends = same(self.domain_lo), same(self.domain_hi)
        return (
            f"{known}; domain [{ends[0]}, {ends[1]}], {self.features} features; real "
            f"arithmetic; network {self.network_sha256[:16]}; proved by {self.leaves} "
            "leaves"
        )


class DualCertificate:
    """A dual box and its network; the methods reject what they cannot confirm."""

    report = DualReport

    def __init__(self, path, head, arrays, expected: Expected, exact: bool) -> None:
        self.a = arrays
        self.raw, self.net = beside(path, head, expected.network, exact)
        self.b, self.classes = Arithmetic(exact), self.net.sizes[-1]
        self.label = whole(head["label"], 0, self.classes, "label")
        self.winner, self.empty = head["winner"], head["empty"]
        known = self.winner in ("greatest", "least")
        need(known, f"winner is {str(self.winner)[:40]!r}")
        need(type(self.empty) is bool, f"empty is {str(self.empty)[:40]!r}")
        self.sign = 1.0 if self.winner == "greatest" else -1.0
        n = self.net.sizes[0]
        names = _ENDS[::3] if self.empty else _ENDS
        ends = [take(self.a, name, "f8", (n,)) for name in names]
        for array in ends:
            need(abs(array) < LARGEST, "an end of a box is too large")
        for one, two in zip(names, names[1:], strict=False):
            need(self.a[one] <= self.a[two], f"{one} > {two}")
        self.domain = ends[0], ends[-1]
        expected.demand_only("a dual box", "network", "domain", "arithmetic")
        expected.demand_domain(*self.domain)
        self.box = tuple(ends[1:3])
        for name in names:
            self.a.pop(name)

    def slabs(self) -> list[Any]:
        """Returns the boxes that are cut off the domain."""
        left = [end.copy() for end in self.domain]
        if self.empty:
            return [tuple(left)]
        found = []
        for side in (0, 1):
            for i in np.flatnonzero(self.box[side] != self.domain[side]):
                slab = [end.copy() for end in left]
                slab[1 - side][i] = left[side][i] = self.box[side][i]
                found.append(tuple(slab))
        return found

    def check(self) -> dict[str, Any]:
        """Returns what is proved."""
        need(self.classes > 1, "the network has no other class")
        points, by = self.instances()
        slabs, found = self.slabs(), {"leaves": 0}
        others = np.delete(np.eye(self.classes), self.label, axis=0)
        rows = self.sign * (others - np.eye(self.classes)[self.label])
        if slabs:
            clause, b, net = (rows, np.zeros(len(rows))), self.b, self.net
            proof = Proof(self.a, b, net, [[len(rows)]] * len(slabs))
            found = proof.check(
                (proof.bounds(box, *slab), [clause]) for box, slab in enumerate(slabs)
            )
            found.pop("lemmas")
        else:
            need(not self.a, f"arrays {sorted(self.a)[:3]} prove nothing")
        return found | self.faces(points, by) | {
            "network_sha256": self.net.sha256, "label": self.label,
            "classes": self.classes, "winner": self.winner, "empty": self.empty,
            "domain_lo": span(self.domain[0]), "domain_hi": span(self.domain[1]),
            "cut": 0 if self.empty else len(slabs),
        }  # fmt: skip

    def judged(self) -> tuple[Status, str]:
        """Returns what is to be thought of it, and why."""
        if np.array_equal(*self.domain):
            return Status.VACUOUS, "the domain is a point"
        if self.empty or self.slabs() or self.known:
            return Status.ACCEPTED, ""
        return Status.VACUOUS, "the box is the domain, and no point is known"

    def instances(self):
        """Returns points of the class in the domain, and which of them is at a face."""
        n, self.known = self.net.sizes[0], False
        if self.empty:
            return np.zeros((0, n)), np.full(2 * n, UNKNOWN)
        need("dual_points" in self.a, "there is no array 'dual_points'")
        shape = self.a["dual_points"].shape[:1] + (n,)
        points = take(self.a, "dual_points", "f8", shape)
        by = take(self.a, "dual_by", "i4", (2 * n,))
        need((by >= UNKNOWN) & (by < len(points)), "dual_by is out of range")
        need(set(range(len(points))) <= set(by.tolist()), "a point is at no face")
        lo, hi = self.domain
        need((lo <= points) & (points <= hi), "dual_points is outside the domain")
        step = block(self.b, self.net)
        for first in range(0, len(points), step):
            good = self.of_class(points[first : first + step], self.b)
            for i in np.flatnonzero(~good) + first:
                sure = self.of_class(points[i : i + 1], Arithmetic(True))
                need(bool(sure[0]), f"dual_points is not of the class at {[int(i)]}")
        for name in ("dual_points", "dual_by"):
            self.a.pop(name)
        self.known = bool(len(points))
        return points, by

    def of_class(self, points, b: Arithmetic) -> np.ndarray:
        """Returns of which points it is certain that s (y_c - y_j) >= 0 for all j.

        Where rounding hides it, rational numbers decide.
        """
        net = self.net if b.exact == self.b.exact else network_of(self.raw, b.exact)
        lo, hi, sane = outputs(b, net, points)
        if self.sign < 0:
            lo, hi = -hi, -lo
        behind = np.delete(hi, self.label, axis=0) <= lo[self.label]
        return sane & np.all(behind.astype(bool), axis=0)

    def faces(self, points, by) -> dict[str, Any]:
        """Returns how many faces points reach, and how far they stay behind at most.

        As a part of the domain's width, rounded up.
        """
        n, (lo, hi) = self.net.sizes[0], self.domain
        at, gap = np.flatnonzero(by >= 0), 0.0
        for face in at.tolist():
            i, point = face % n, points[by[face], face % n]
            face_at = self.box[face // n][i]
            away = abs(point - face_at)
            if away > 0:
                # Five roundings, each by a factor of at most 1 + 2^-52, or underflow.
                gap = max(gap, away / (hi[i] - lo[i]) * (1 + 2.0**-49) + 2.0**-1022)
        return {"features": n, "reached": len(at), "gap": float(gap)}
