"""The check of a box: numpy and the standard library only.

A certificate claims, of a feed-forward ReLU network y(z) and a class c, that
    y_c(z) - y_j(z) > m   for every class j != c and every z with lo <= z <= hi,
that [lo, hi] contains the ball clip([x - r rate_lo, x + r rate_hi], domain), and that a
witness w of the domain, at weighted distance <= u from x, has y_c(w) - y_j(w) <= m for
some j. Nothing of the search is trusted: it hands over multipliers, and every bound is
derived from them here. Wrong multipliers give a weak bound, never a false one.

The file (version 1; `reading.py` says of what kind files are) has
  `header` {"format": "jaxcert certificate", "version": 1, "network": {"sha256", "file":
    name of a file beside this one}, "arithmetic": "real" or "float32", "label": c,
    "required_margin": m, "apothem_lower": r or null (all faces on the domain),
    "apothem_upper": u or null (no witness), "refine": bool}, numbers rounded to
    float64;
  float64 x, lo, hi, domain_lo, domain_hi, rate_lo, rate_hi, witness;
  of L leaves over the N inputs z of all ReLUs: leaf_target int32 (L,), j; leaf_signs
    int8 (L, N), 1 assumes z >= 0, -1 z <= 0; leaf_slopes float32 (L, N) in [0, 1];
    leaf_betas float32 (L, N), >= 0 and only where a sign is;
  range_slopes_<k> uint8 (2, n, M), 128ths, which may bound the inputs of ReLU k from
    below and from above.
Version 2 also has cuts (`cuts.py`), version 5 is of a ball instead of the box
(`balls.py`); a grown box also has faces (`faces.py`).

The proof. Ranges of all values enclose the network over the box (`Bounds.enclose`). A
leaf assumes signs; the leaves of a class form a binary tree and so cover the box
(`cover`). In each, y_c - y_j - m is bounded by replacing ReLUs by lines
(`Bounds.through_relu`), from the output back to the input, where the box gives the
minimum (`Bounds.lower_bounds`).
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import functools
import itertools
import math
import time
from typing import Any

import numpy as np

from .arithmetic import Arithmetic, excess
from .bounds import Bounds
from .claim import Expected, Report, Status, free_features, span, vacuous
from .float32 import float32_errors
from .network import beside
from .reading import Rejected, need, read, take, unpacked, whole

_CLAIM = ("label", "required_margin", "arithmetic", "apothem_lower", "apothem_upper")
_FEATURES = ("domain_lo", "lo", "x", "hi", "domain_hi", "rate_lo", "rate_hi")


def report_on(kind, path, expected: Expected, exact: bool):
    """Returns what a certificate of that kind proves. Never raises."""
    begin, found, status, reason = time.perf_counter(), {}, Status.REJECTED, ""
    form = Report
    try:
        with np.errstate(all="ignore"):
            certificate = kind(path, expected, exact)
            form = certificate.report
            found = certificate.check()
            status, reason = certificate.judged()
    except Rejected as rejected:
        reason = str(rejected)
    except Exception as error:  # whatever a damaged file provokes: not accepted
        reason = f"damaged file: {type(error).__name__}: {str(error)[:200]}"
    if status is Status.REJECTED:
        found = {}
    seconds = time.perf_counter() - begin
    return form(status, " ".join(reason.split()), seconds, **found)


class Certificate:
    """A certificate and its network; the methods reject what they cannot confirm."""

    newest = 1  # version of the format
    norm = "linf"
    report = Report
    required_margin: float
    apothem_lower: float | None
    apothem_upper: float | None

    def __init__(self, path, expected: Expected, exact: bool) -> None:
        self.expected = expected
        _, self.head, self.a = unpacked(read(path), "certificate", self.newest)
        need(expected.vnnlib is None, "it is of a box, not of a property")
        _, self.net = beside(path, self.head, expected.network, exact)
        self.b = Arithmetic(exact)
        self.classes = self.net.sizes[-1]
        self.label = whole(self.head["label"], 0, self.classes, "label")
        reals = {"required_margin": -(2.0**53), "apothem_lower": 0, "apothem_upper": 0}
        for key, least in reals.items():
            value = self.head[key]
            if value is not None or key == "required_margin":
                value = float(whole(value, least, 2.0**53, key, (int, float)))
            setattr(self, key, value)
        self.arithmetic, self.refine = self.head["arithmetic"], self.head["refine"]
        known = self.arithmetic in ("real", "float32")
        need(known, f"arithmetic is {self.arithmetic!r}")
        need(type(self.refine) is bool, f"refine is {self.refine!r}")

    def check(self) -> dict[str, Any]:
        """Returns what is proved."""
        for part in (self.form, self.box, self.witness, self.cover, self.leaves):
            part()
        a, found = self.a, {name: getattr(self, name) for name in _CLAIM}
        for end in ("apothem_lower", "apothem_upper"):
            found[end] = math.inf if found[end] is None else found[end]
        return found | {
            "network_sha256": self.net.sha256,
            "classes": self.classes,
            "domain_lo": span(a["domain_lo"]),
            "domain_hi": span(a["domain_hi"]),
            "rates": span(a["rate_lo"], a["rate_hi"]),
            "features": self.net.sizes[0],
            "free": int(np.count_nonzero(free_features(a))),
            "leaves": len(a["leaf_target"]),
        }

    def judged(self) -> tuple[Status, str]:
        """Returns what is to be thought of a claim that was proved, and why."""
        empty = vacuous(self.classes, self.required_margin, self.a)
        return (Status.VACUOUS, empty) if empty else (Status.ACCEPTED, "")

    def form(self) -> None:
        """Every array has the type, the shape and the range of the format."""
        a, net = self.a, self.net
        shapes: dict[str, Any] = dict.fromkeys(_FEATURES, ("f8", (net.sizes[0],)))
        if self.apothem_upper is not None:
            shapes["witness"] = shapes["x"]
        leaves = (a["leaf_target"].size, net.neurons)
        shapes |= {"leaf_target": ("i4", leaves[:1]), "leaf_signs": ("i1", leaves)}
        shapes |= dict.fromkeys(("leaf_slopes", "leaf_betas"), ("f4", leaves))
        self.slopes = {}
        for node in net.relus:
            if (name := f"range_slopes_{node.relu}") in a:
                shapes[name] = ("u1", (2, node.size, node.part.start))
                self.slopes[node.relu] = a[name]
                need(a[name] <= 128, f"{name} is above 128")
        for name, (kind, shape) in shapes.items():
            take(a, name, kind, shape)
        strange = sorted(set(a) - set(shapes))
        need(not strange, f"arrays {strange[:3]} do not belong to the format")
        target, signs, slopes = a["leaf_target"], a["leaf_signs"], a["leaf_slopes"]
        other = (target >= 0) & (target < self.classes) & (target != self.label)
        need(other, "leaf_target is no other class")
        need((signs >= -1) & (signs <= 1), "leaf_signs is not -1, 0 or 1")
        need((slopes >= 0) & (slopes <= 1), "leaf_slopes is outside [0, 1]")
        need(a["leaf_betas"] >= 0, "leaf_betas is negative")
        need((a["leaf_betas"] == 0) | (signs != 0), "leaf_betas has no sign")
        self.expected.demand(self.required_margin, self.arithmetic, a, self.norm)

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

    def rows(self, targets, sign: float):
        """Returns the rows sign (y_c - y_j) for the targets j."""
        rows = np.zeros((len(targets), self.classes))
        rows[:, self.label] = sign
        rows[np.arange(len(targets)), targets] = -sign
        margin = np.full(len(rows), -sign * self.required_margin)
        return self.b.number(rows), self.b.number(margin)

    def witness(self) -> None:
        """w is in the domain, x - w <= u rate_lo, w - x <= u rate_hi, and it violates:

        y_j - y_c + m >= 0 for some j, bounded over the box [w, w].
        """
        if self.apothem_upper is None:
            return
        a, w, u = self.a, self.a["witness"], self.apothem_upper
        inside = (a["domain_lo"] <= w) & (w <= a["domain_hi"])
        need(inside, "the witness is outside the domain")
        need(self.near(w, u), "the witness is farther than apothem_upper")
        bounds = Bounds(self.b, self.net, w, w, {})
        row, margin = self.rows(np.delete(np.arange(self.classes), self.label), -1.0)
        part, last = np.zeros(len(row), int), len(self.net.nodes)
        found, _ = bounds.lower_bounds(last, row, margin, bounds.root, part)
        need(bool((found >= 0).any()), "the witness does not violate the margin")

    def near(self, w, u: float):
        """Returns whether x - w <= u rate_lo and w - x <= u rate_hi."""
        a, x = self.a, self.a["x"]
        sides = ((x, w, a["rate_lo"]), (w, x, a["rate_hi"]))
        return np.all([excess(h, low, u, rate) <= 0 for h, low, rate in sides], axis=0)

    def bounds(self) -> Bounds:
        """Returns the bounds over what is claimed."""
        return Bounds(self.b, self.net, self.a["lo"], self.a["hi"], self.slopes)

    def cover(self) -> None:
        """The leaves of every other class form a binary tree of signs:

        one leaf without signs, or all have a sign at a neuron and each side is a tree.
        """
        signs, target = self.a["leaf_signs"], self.a["leaf_target"]
        plus, minus = (np.packbits(signs == sign, axis=1) for sign in (1, -1))
        masks = [
            (i, *(int.from_bytes(row[i].tobytes(), "big") for row in (plus, minus)))
            for i in range(len(signs))
        ]
        for j in set(range(self.classes)) - {self.label}:
            parts = [[masks[i] for i in np.flatnonzero(target == j)]]
            while parts:
                part = parts.pop()
                need(bool(part), f"the leaves of class {j} leave a part of the box out")
                if len(part) == 1 and part[0][1:] == (0, 0):
                    continue
                either = (p | m for _, p, m in part)
                common, some = functools.reduce(int.__and__, either), part[:4]
                need(common > 0, f"leaves {[i for i, *_ in some]} of class {j} overlap")
                bit = common & -common
                parts.append([(i, p ^ bit, m) for i, p, m in part if p & bit])
                parts.append([(i, p, m ^ bit) for i, p, m in part if m & bit])

    def cuts(self, bounds, rows):
        """Returns the cuts of these leaves, for `lower_bounds`: none in version 1."""

    def leaves(self) -> None:
        """Every leaf has y_c - y_j - m > 0, or more than what float32 errs."""
        b, last, arrays = self.b, len(self.net.nodes), self.a
        target, signs = arrays["leaf_target"], arrays["leaf_signs"]
        slopes, betas = arrays["leaf_slopes"], arrays["leaf_betas"] * signs
        bounds = self.bounds()
        errors = b.number(np.zeros(self.classes))
        if self.arithmetic == "float32":
            errors = float32_errors(bounds)
        for made, leaves, part in bounds.parts(signs, self.refine):
            for some in bounds.blocks(len(leaves)):
                rows, p = leaves[some], part[some]
                line, beta = b.number(slopes[rows]), b.number(betas[rows])
                a, m = self.rows(target[rows], 1.0)
                cuts = self.cuts(bounds, rows)
                found, _ = bounds.lower_bounds(last, a, m, made, p, line, beta, cuts)
                least = b.up(errors[self.label] + errors[target[rows]])
                for i in np.flatnonzero(~(made.empty[p] | (found > least))).tolist():
                    leaf = f"leaf {rows[i]} (class {target[rows[i]]})"
                    low, high = float(found[i]), float(least[i])
                    raise Rejected(f"{leaf}: bound {low:.3g} is not > {high:.3g}")
