"""The check of an image against changes with a few parameters: brightness, and so on.

The file claims of a stored image x that class c wins by more than a margin m,
    y_c - y_j > m   for every class j != c,
at every image that the change makes of x with parameters in a box around 0; and that at
some parameters, if they are stored, this is not so.

The file is a certificate (`reading.py`) of version 8, whose `header` has
  "claim": "semantic"; "network", as in `boxes.py`; "change": a name in `changes.py`;
    "label": c; "required_margin": m;
float64 change_x (n,), in [0, 1]; change_lo and change_hi (k,), the parameters; maybe
change_witness (k,); and the proof (`proof.py`) of one box and a clause per j.

The proof is one about a box of the few inputs of a larger network: nodes that make the
changed image (`changes.py`), and the network behind them.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arithmetic import Arithmetic
from .bounds import Bounds
from .changes import NAMES, WORDS, front, still
from .claim import Expected, Finding, Span, Status, exact
from .network import Network, beside
from .proof import Proof
from .reading import Rejected, need, take, whole


@dataclass(frozen=True)
class ChangeReport(Finding):
    """What was found of a certificate about changes of an image.

    Attributes:
      label, classes: the class that wins, and how many there are.
      required_margin: what its margin is greater than.
      change: its name, and in words what becomes of the image.
      parameters: of each its name, and the range in which the class wins.
      refuted: parameters at which another class is as high; none if none are stored.
      leaves: of the proof.
    """

    label: int = -1
    classes: int = 0
    required_margin: float = math.nan
    change: str = ""
    image: str = ""
    parameters: tuple[tuple[str, Span], ...] = ()
    refuted: tuple[float, ...] = ()
    leaves: int = 0

    def words(self) -> str:
        """Returns the claim in words."""
        names = [name for name, _ in self.parameters]
        ranges = ", ".join(
            f"{name} in [{exact(low)}, {exact(high)}]"
            for name, (low, high) in self.parameters
        )
        known = "no counterexample is claimed"
        if self.refuted:
            at = ", ".join(
                f"{name} = {exact(v)}"
                for name, v in zip(names, self.refuted, strict=True)
            )
            known = f"not at {at}"
        return (
            f"class {self.label} of {self.classes} wins by a margin > "
            f"{exact(self.required_margin)} at {self.image}, for x the stored image "
            f"and all {ranges}; {known}; real arithmetic; network "
            f"{self.network_sha256[:16]}; proved by {self.leaves} leaves"
        )


class ChangeCertificate:
    """A changed image and its network; the methods reject what they cannot confirm."""

    report = ChangeReport

    def __init__(self, path, head, arrays, expected: Expected, exact: bool) -> None:
        self.a = arrays
        expected.demand_only("a change", "network", "margin", "arithmetic")
        self.raw, self.net = beside(path, head, expected.network, exact)
        self.b, self.classes = Arithmetic(exact), self.net.sizes[-1]
        self.label = whole(head["label"], 0, self.classes, "label")
        margin, words = head["required_margin"], "required_margin"
        self.margin = float(whole(margin, -(2.0**53), 2.0**53, words, (int, float)))
        least = -np.inf if expected.margin is None else expected.margin
        need(self.margin >= least, f"{words} is not at least {least}")
        self.change = str(head["change"])
        need(self.change in NAMES, f"the change is {self.change[:40]!r}")
        k, own = len(NAMES[self.change]), {}
        sizes = {"change_x": self.net.sizes[0], "change_lo": k, "change_hi": k}
        if "change_witness" in self.a:
            sizes["change_witness"] = k
        for name, size in sizes.items():
            own[name] = take(self.a, name, "f8", (size,))
            del self.a[name]
        x, self.lo, self.hi, *rest = own.values()
        self.x, self.witness = x, rest[0] if rest else None
        need((x >= 0) & (x <= 1), "change_x is not in [0, 1]")
        need((self.lo <= 0) & (self.hi >= 0), "the parameters leave out 0")

    def behind(self, lo, hi, exact: bool):
        """Returns the network behind a change, that, and the box of its inputs."""
        made, *box = front(self.change, self.x, self.net.shape, lo, hi)
        return Network(self.raw, exact, made), made, box

    def check(self) -> dict[str, Any]:
        """Returns what is proved."""
        need(self.classes > 1, "the network has no other class")
        self.refuted()
        eye = np.eye(self.classes)
        rows = eye[self.label] - np.delete(eye, self.label, axis=0)
        clauses = [(row[None], np.array([-self.margin])) for row in rows]
        net, made, (lo, hi) = self.behind(self.lo, self.hi, self.b.exact)
        self.still = still(self.change, made, self.x, self.lo, self.hi)
        proof = Proof(self.a, self.b, net, [[1] * len(clauses)])
        found = proof.check([(proof.bounds(0, lo, hi), clauses)])
        ranges = zip(self.lo.tolist(), self.hi.tolist(), strict=True)
        return {
            "network_sha256": self.net.sha256, "label": self.label,
            "classes": self.classes, "required_margin": self.margin,
            "change": self.change, "image": WORDS[self.change],
            "parameters": tuple(zip(NAMES[self.change], ranges, strict=True)),
            "refuted": () if self.witness is None else tuple(self.witness.tolist()),
            "leaves": found["leaves"],
        }  # fmt: skip

    def judged(self) -> tuple[Status, str]:
        """Returns what is to be thought of it, and why."""
        if self.margin < 0:
            return Status.VACUOUS, f"the required margin is {self.margin}, below 0"
        if np.array_equal(self.lo, self.hi):
            return Status.VACUOUS, "the parameters are 0: nothing is changed"
        if self.still:
            return Status.VACUOUS, "no parameter changes the image"
        return Status.ACCEPTED, ""

    def refuted(self) -> None:
        """At the stored parameters y_j - y_c + m >= 0 for some j.

        Where rounding hides it, rational numbers decide.
        """
        if self.witness is None:
            return
        for rational in (self.b.exact, True):
            b = Arithmetic(rational)
            net, _, (lo, hi) = self.behind(self.witness, self.witness, rational)
            at = Bounds(b, net, lo, hi, {}).root
            gap = b.down(at.lo[-1][0] - at.hi[-1][0, self.label])
            gap = b.down(gap + b.number(self.margin))
            if (np.delete(gap, self.label) >= 0).any():
                return
        raise Rejected("change_witness does not violate the margin")
