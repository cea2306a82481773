"""The check of an answer to a question about a network: a VNN-LIB property.

"sat" is proved by an input that satisfies the property with the outputs of the network.
"unsat" is proved if all that the property asks is excluded: for every box of inputs
that it speaks of, and every conjunction C y + d <= 0 of that box, a clause, at every
point of the box some row has C y + d > 0.

The file is a certificate (`reading.py`) of version 3, whose `header` has
  "claim": "sat" or "unsat"; "network", as in `boxes.py`; "property": {"sha256": of the
    text of the VNN-LIB file, "file": the name of a copy beside this file}.
"sat" has the array `witness` float64 (n,); what "unsat" has says `unsat.py`.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import gzip
import io
import os
import re
from typing import Any

from .arithmetic import LARGEST, Arithmetic
from .bounds import Bounds
from .claim import AnswerReport, Expected, Status
from .network import beside, network_of
from .reading import BYTES, NAME, Rejected, need, read, take, unpacked
from .unsat import Unsat
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

    def __init__(self, path, expected: Expected, exact: bool) -> None:
        expected.demand_answer()
        _, self.head, self.a = unpacked(read(path), "certificate", 3)
        need(self.head["version"] == 3, "an answer has version 3 of the format")
        self.claim = self.head["claim"]
        known = self.claim in ("sat", "unsat")
        need(known, f"the claim is {str(self.claim)[:40]!r}")
        self.raw, self.net = beside(path, self.head, expected.network, exact)
        self.b = Arithmetic(exact)
        words = self.head["property"]
        name, sha256 = str(words.get("file")), str(words.get("sha256"))
        need(bool(re.fullmatch(NAME, name)), f"the property's file is {name[:40]!r}")
        copy = os.path.join(os.path.dirname(os.fspath(path)), name)
        self.property = Property(property_text(expected.vnnlib or copy))
        found = self.property.sha256
        need(
            found == sha256,
            f"it speaks of another property, {sha256[:16]!r}, not of {found[:16]!r}",
        )
        self.sizes = n, outputs = self.property.inputs, self.property.outputs
        good = self.sizes == (self.net.sizes[0], self.net.sizes[-1])
        need(good, f"the property has {n} inputs and {outputs} outputs")

    def check(self) -> dict[str, Any]:
        """Returns what is proved."""
        self.cases = self.property.cases()
        if self.claim == "sat":
            self.sat()
            counts = {}
        else:
            counts = Unsat(self.a, self.b, self.net, self.cases).check()
        return counts | {
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

    def sat(self) -> None:
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
                return
        raise Rejected("the witness does not satisfy the property")
