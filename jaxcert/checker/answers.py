"""The check of an answer to a question about a network: a VNN-LIB property.

"sat" is proved by an input that satisfies the property with the outputs of the network.
"unsat" is proved if all that the property asks is excluded: for every box of inputs
that it speaks of, and every conjunction C y + d <= 0 of that box, a clause, at every
point of the box some row has C y + d > 0.

The file is a certificate (`reading.py`) of version 11, whose `header` has
  "claim": "sat" or "unsat"; "network", as in `boxes.py`; "property": {"sha256": of the
    text of the VNN-LIB file, "file": the name of a copy beside this file}.
"sat" has the array `witness` float64 (n,), "unsat" the proof (`proof.py`) of the
clauses of all boxes, in the order in which `Property.cases` reads them. Version 10 has
no trees of ranges (`ranges.py`), and version 3 also repeats the property (`older.py`).
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import gzip
import io
import os
import re
from typing import Any

from . import older
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
        self.a, self.claim, self.version = arrays, head["claim"], head["version"]
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
        """All clauses of the property are proved, in the order of its conjunctions."""
        arrays, b, net, cases = self.a, self.b, self.net, self.cases
        if self.version == 3:
            arrays = older.without_property(arrays, cases, net.sizes[0], net.sizes[-1])
        rows = [[len(d) for _, d in case.clauses] for case in cases]
        proof = Proof(arrays, b, net, rows, ranged=self.version > 10)
        return proof.check(
            (proof.bounds(box, case.lo, case.hi), case.clauses)
            for box, case in enumerate(cases)
        )
