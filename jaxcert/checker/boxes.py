"""The check of a box: numpy and the standard library only.

A certificate claims, of a feed-forward network y(z) and a class c, that
    y_c(z) - y_j(z) > m   for every class j != c and every z with lo <= z <= hi,
that [lo, hi] contains the ball clip([x - r rate_lo, x + r rate_hi], domain), and that a
witness w of the domain, at weighted distance <= u from x, has y_c(w) - y_j(w) <= m for
some j. Nothing of the search is trusted: it hands over multipliers, and every bound is
derived from them here. Wrong multipliers give a weak bound, never a false one.

The file (version 6; `reading.py` says of what kind files are, `older.py` what was other
in versions 1, 2 and 5) has
  `header` {"format": "jaxcert certificate", "version": 6, "claim": "box", "network":
    {"sha256", "file": name of a file beside this one}, "arithmetic": "real" or
    "float32", "label": c, "required_margin": m, "apothem_lower": r or null (all faces
    on the domain), "apothem_upper": u or null (no witness)}, numbers rounded to
    float64;
  float64 x, lo, hi, domain_lo, domain_hi, rate_lo, rate_hi, witness;
  `ball`, if the claim is of a ball instead of the box (`balls.py`);
  what stops the faces of a grown box (`faces.py`), whose header says if it is "proved";
  the proof (`proof.py`) of clauses for the classes j != c in order, in the one box
    [lo, hi]: y_c - y_j - m <= 0 is excluded, or, for float32, y_c - y_j - m <= e with
    all that evaluation errs (`float32.py`).
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import itertools
import math
from typing import Any

import numpy as np

from . import balls, faces, older
from .arithmetic import Arithmetic, excess
from .bounds import Bounds
from .claim import Expected, Report, Status, free_features, span, vacuous
from .float32 import float32_errors
from .network import beside
from .proof import Proof
from .reading import need, take, whole

_CLAIM = ("label", "required_margin", "arithmetic", "apothem_lower", "apothem_upper")
_FEATURES = ("domain_lo", "lo", "x", "hi", "domain_hi", "rate_lo", "rate_hi")


class Certificate:
    """A certificate and its network; the methods reject what they cannot confirm."""

    report = Report
    required_margin: float
    apothem_lower: float | None
    apothem_upper: float | None

    def __init__(self, path, head, arrays, expected: Expected, exact: bool) -> None:
        need(expected.vnnlib is None, "it is of a box, not of a property")
        _, net = beside(path, head, expected.network, exact)
        self.net, self.b, self.classes = net, Arithmetic(exact), net.sizes[-1]
        self.label = whole(head["label"], 0, self.classes, "label")
        reals = {"required_margin": -(2.0**53), "apothem_lower": 0, "apothem_upper": 0}
        for key, least in reals.items():
            value = head[key]
            if value is not None or key == "required_margin":
                value = float(whole(value, least, 2.0**53, key, (int, float)))
            setattr(self, key, value)
        self.arithmetic = head["arithmetic"]
        known = self.arithmetic in ("real", "float32")
        need(known, f"arithmetic is {self.arithmetic!r}")
        self.others = np.delete(np.arange(self.classes), self.label)
        names = _FEATURES + ("witness",) * (self.apothem_upper is not None)
        self.a = {name: take(arrays, name, "f8", (net.sizes[0],)) for name in names}
        self.power = balls.power(arrays) if "ball" in arrays else 0
        self.norm = f"l{self.power}" if self.power else "linf"
        self.grown = faces.Grown(head, arrays, net) if "face_by" in arrays else None
        need(not (self.power and self.grown), "a ball has no faces")
        self.proved = self.grown is None or self.grown.proved
        own = {*names, "ball"} | set(faces.ARRAYS if self.grown else ())
        proof = {name: array for name, array in arrays.items() if name not in own}
        if (version := head["version"]) < 6:
            ball = (self.power > 0) == (version == 5)
            need(ball, "version 5 of the format is that of balls")
            if self.proved:
                given = version, self.others, net.sizes[0], net.neurons
                proof = older.without_leaf_sets(proof, *given)
        if self.proved:
            self.proof = Proof(proof, self.b, net, [[1] * len(self.others)])
        else:
            nothing = all(array.size == 0 for array in proof.values())
            need(nothing, "there are leaves, but proved is false")
        expected.demand(self.required_margin, self.arithmetic, self.a, self.norm)

    def check(self) -> dict[str, Any]:
        """Returns what is proved."""
        self.box()
        self.witness()
        counts = self.proof.check([self.clauses()]) if self.proved else {}
        a, found = self.a, {name: getattr(self, name) for name in _CLAIM}
        for end in ("apothem_lower", "apothem_upper"):
            found[end] = math.inf if found[end] is None else found[end]
        if self.grown:
            margin = self.required_margin
            found["faces"] = self.grown.faces(a, self.b, self.label, margin)
        if not self.proved:
            found["apothem_lower"] = math.nan
        found |= counts
        return found | {
            "network_sha256": self.net.sha256,
            "classes": self.classes,
            "domain_lo": span(a["domain_lo"]),
            "domain_hi": span(a["domain_hi"]),
            "rates": span(a["rate_lo"], a["rate_hi"]),
            "features": self.net.sizes[0],
            "free": int(np.count_nonzero(free_features(a))),
            "norm": self.norm,
        }

    def judged(self) -> tuple[Status, str]:
        """Returns what is to be thought of a claim that was proved, and why."""
        if not self.proved:
            return Status.UNPROVED, "its faces are audited, the box is not proved"
        if self.power and self.apothem_lower == 0:
            return Status.VACUOUS, "the ball holds the input alone"
        empty = vacuous(self.classes, self.required_margin, self.a)
        return (Status.VACUOUS, empty) if empty else (Status.ACCEPTED, "")

    def box(self) -> None:
        """domain_lo <= lo <= x <= hi <= domain_hi, and the box contains the ball:

        lo = domain_lo or x - lo >= r rate_lo, and the same for hi.
        """
        a, r = self.a, self.apothem_lower
        for one, two in itertools.pairwise(_FEATURES[:5]):
            need(a[one] <= a[two], f"{one} > {two}")
        for side, high, low in (("lo", a["x"], a["lo"]), ("hi", a["hi"], a["x"])):
            rate, inside = a[f"rate_{side}"], a[side] != a[f"domain_{side}"]
            need(rate >= 0, f"rate_{side} is negative")
            short = rate > 0 if r is None else excess(high, low, r, rate) < 0
            need(~(inside & short), f"face {side} is nearer than apothem_lower")

    def rows(self, sign: float):
        """Returns the rows sign (y_c - y_j) for all j, and -sign m of each."""
        rows = -sign * np.eye(self.classes)[self.others]
        rows[:, self.label] = sign
        return rows, np.full(len(rows), -sign * self.required_margin)

    def witness(self) -> None:
        """w is in the domain and at most u from x, and it violates:

        y_j - y_c + m >= 0 for some j, bounded over the box [w, w].
        """
        if self.apothem_upper is None:
            return
        a, w, u, b = self.a, self.a["witness"], self.apothem_upper, self.b
        inside = (a["domain_lo"] <= w) & (w <= a["domain_hi"])
        need(inside, "the witness is outside the domain")
        sides = ((a["x"], w, a["rate_lo"]), (w, a["x"], a["rate_hi"]))
        near = np.all([excess(high, low, u, rate) <= 0 for high, low, rate in sides], 0)
        near = balls.near(a, w, u, self.power) if self.power else near
        need(near, "the witness is farther than apothem_upper")
        bounds = Bounds(b, self.net, w, w, {})
        row, margin = map(b.number, self.rows(-1.0))
        part, last = np.zeros(len(row), int), len(self.net.nodes)
        found, _ = bounds.lower_bounds(last, row, margin, bounds.root, part)
        need(bool((found >= 0).any()), "the witness does not violate the margin")

    def clauses(self):
        """Returns the bounds over what is claimed, and the clauses to prove there.

        y_c - y_j - m > 0, or more than what float32 errs.
        """
        a, b, ball = self.a, self.b, None
        if self.power and self.apothem_lower is not None:
            ball = balls.Ball(b, a, self.power, self.apothem_lower)
        bounds = self.proof.bounds(0, a["lo"], a["hi"], ball)
        rows, offset = self.rows(1.0)
        if self.arithmetic == "float32":
            errors = float32_errors(bounds)
            most = b.up(errors[self.label] + errors[self.others])
            offset = b.down(b.number(offset) - most)
        return bounds, [(rows[i : i + 1], offset[i : i + 1]) for i in range(len(rows))]
