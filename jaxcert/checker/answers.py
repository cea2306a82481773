"""The check of an answer to a question about a network: a VNN-LIB property.

"sat" is proved by an input that satisfies the property with the outputs of the network.
"unsat" is proved if all that the property asks is excluded: for every box of inputs
that it speaks of, and every conjunction C y + d <= 0 of that box, a clause, at every
point of the box some row has C y + d > 0.

The file is a certificate (`reading.py`) of version 3, whose `header` has
  "claim": "sat" or "unsat"; "network", as in `boxes.py`; "property": {"sha256": of the
    text of the VNN-LIB file, "file": the name of a copy beside this file}.
"sat" has the array `witness` float64 (n,). "unsat" has
  the property as the proof means it, of B boxes, Q clauses, R rows: box_lo, box_hi
    float64 (B, n); clause_box int32 (Q,); row_clause int32 (R,), row_coefficients
    float64 (R, outputs), row_offset float64 (R,);
  the proof of these clauses (`proof.py`).
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import gzip
import io
import os
import re
from typing import Any

import numpy as np

from .arithmetic import LARGEST, Arithmetic
from .bounds import Bounds
from .claim import AnswerReport, Expected, Status
from .network import beside, network_of
from .proof import Proof
from .reading import BYTES, NAME, Rejected, need, read, take
from .vnnlib import Property


def property_text(path) -> bytes:
    """Returns the text of a VNN-LIB file, unpacked if its name ends in .gz."""
    raw = read(path)
    if os.fspath(path).endswith(".gz"):
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            raw = file.read(BYTES + 1)
    need(len(raw) <= BYTES, "the property is too large")
    return raw


class AnswerCertificate:
    """An answer, its network and its property; rejects what it cannot confirm."""

    report = AnswerReport

    def __init__(self, path, head, arrays, expected: Expected, exact: bool) -> None:
        expected.demand_answer()
        self.a, self.claim = arrays, head["claim"]
        self.raw, self.net = beside(path, head, expected.network, exact)
        self.b = Arithmetic(exact)
        words = head["property"]
        name, sha256 = str(words.get("file")), str(words.get("sha256"))
        need(bool(re.fullmatch(NAME, name)), f"the property's file is {name[:40]!r}")
        copy = os.path.join(os.path.dirname(os.fspath(path)), name)
        self.property = Property(property_text(expected.vnnlib or copy))
        found = self.property.sha256
        need(
            found == sha256,
            f"it speaks of another property, {sha256[:16]!r}, not of {found[:16]!r}",
        )
        n, outputs = self.property.inputs, self.property.outputs
        good = (n, outputs) == (self.net.sizes[0], self.net.sizes[-1])
        need(good, f"the property has {n} inputs and {outputs} outputs")

    def check(self) -> dict[str, Any]:
        """Returns what is proved."""
        self.cases = self.property.cases()
        found = self.sat() if self.claim == "sat" else self.unsat()
        return found | {
            "answer": self.claim,
            "network_sha256": self.net.sha256,
            "property_sha256": self.property.sha256,
            "inputs": self.property.inputs,
            "outputs": self.property.outputs,
            "boxes": len(self.cases),
            "clauses": sum(len(case.clauses) for case in self.cases),
        }

    def judged(self) -> tuple[Status, str]:
        """Returns what is to be thought of an answer that was proved, and why."""
        if self.cases:
            return Status.ACCEPTED, ""
        return Status.VACUOUS, "the property allows no input"

    def sat(self) -> dict[str, Any]:
        """The witness and the outputs there satisfy the property.

        Where rounding hides whether they do, rational numbers decide.
        """
        need(set(self.a) == {"witness"}, "the arrays are not those of a witness")
        x = take(self.a, "witness", "f8", (self.net.sizes[0],))
        need(abs(x) < LARGEST, "a value of the witness is too large")
        for exact in (self.b.exact, True):
            net = network_of(self.raw, exact)
            at = Bounds(Arithmetic(exact), net, x, x, {}).root
            if self.property.holds(x, at.lo[-1][0], at.hi[-1][0]):
                return {}
        raise Rejected("the witness does not satisfy the property")

    def unsat(self) -> dict[str, Any]:
        """The boxes and clauses are those of the property, and all are proved."""
        a, (n, *_, outputs) = self.a, self.net.sizes
        for name in ("box_lo", "clause_box", "row_clause"):
            need(name in a, f"there is no array {name!r}")
        boxes, count, rows = (len(a[k]) for k in ("box_lo", "clause_box", "row_clause"))
        shapes: dict[str, Any] = {
            "box_lo": ("f8", (boxes, n)), "box_hi": ("f8", (boxes, n)),
            "clause_box": ("i4", (count,)), "row_clause": ("i4", (rows,)),
            "row_coefficients": ("f8", (rows, outputs)), "row_offset": ("f8", (rows,)),
        }  # fmt: skip
        for name, (kind, shape) in shapes.items():
            take(a, name, kind, shape)
        for name, most in (("clause_box", boxes), ("row_clause", count)):
            kinds = np.unique(a[name]).tolist()
            need(kinds == list(range(most)), f"{name} leaves one out")
            need(np.diff(a[name]) >= 0, f"{name} is not in order")
        splits = np.searchsorted(a["row_clause"], np.arange(1, count))
        parts = (np.split(a[f"row_{x}"], splits) for x in ("coefficients", "offset"))
        clauses: list[list[Any]] = [[] for _ in range(boxes)]
        for box, clause in zip(a["clause_box"], zip(*parts, strict=True), strict=False):
            clauses[box].append(clause)
        self.same_property(clauses)
        arrays = {name: a[name] for name in a if name not in shapes}
        sizes, b, net = [[len(d) for _, d in own] for own in clauses], self.b, self.net
        proof = Proof(arrays, b, net, sizes)
        every = zip(a["box_lo"], a["box_hi"], proof.slopes, clauses, strict=True)
        return proof.check(
            (Bounds(b, net, lo, hi, slopes), own) for lo, hi, slopes, own in every
        )

    def same_property(self, clauses) -> None:
        """Boxes and clauses are those of the VNN-LIB file, none more and none less."""
        a = self.a
        stated = {
            _key(lo, hi, clause)
            for lo, hi, own in zip(a["box_lo"], a["box_hi"], clauses, strict=True)
            for clause in own
        }
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


def _key(lo, hi, clause):
    """Returns what tells clauses apart; adding 0 turns -0.0 into 0.0."""
    rows = (
        (c + 0.0).tobytes() + (d + 0.0).tobytes() for c, d in zip(*clause, strict=True)
    )
    return (lo + 0.0).tobytes(), (hi + 0.0).tobytes(), tuple(sorted(rows))
