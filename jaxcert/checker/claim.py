"""What a certificate claims, in words, and whether that is what a caller insists on.

A proof may be flawless and yet say nothing: about a class that need not win, or about
no point but the input. Such a claim is called vacuous, never accepted.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import decimal
import enum
import math
import os
from dataclasses import dataclass

import numpy as np

from .reading import need

Span = tuple[float, float]
"""The least and the greatest of what the features have."""


class Status(enum.Enum):
    """What is to be thought of a file."""

    ACCEPTED = "accepted"
    """It proves what it claims, and that says something."""
    VACUOUS = "vacuous"
    """It proves what it claims, but that says nothing."""
    UNPROVED = "not proved"
    """Its faces are as it claims; the box has no proof, and says that it has none."""
    REJECTED = "rejected"
    """Something that it claims is not proved by it."""


@dataclass(frozen=True)
class Faces:
    """What was found of the faces of a grown box.

    Attributes:
      proved: whether the file proves the box, and not its faces alone.
      delta: how far no stopped face can move, in input units times the rates.
      on_domain: faces on the domain's boundary.
      fixed: other faces, of rate 0.
      witnessed: faces that a violation stops.
      open: faces of which nothing is known.
    """

    proved: bool
    delta: float
    on_domain: int
    fixed: int
    witnessed: int
    open: int


@dataclass(frozen=True)
class Finding:
    """What was found of a file; of a rejected one nothing but the reason.

    Attributes:
      status: see there.
      reason: why it is not accepted; empty if it is.
      seconds: how long the check took.
      network_sha256: of the network that the claim is about.
      faces: those of a grown box; None of any other.
    """

    status: Status
    reason: str
    seconds: float
    network_sha256: str = ""
    faces: Faces | None = None

    @property
    def claim(self) -> str:
        """The whole claim in words; empty of a rejected file."""
        return self.words() if self.holds else ""

    def words(self) -> str:
        """Returns the claim in words."""
        raise NotImplementedError

    @property
    def accepted(self) -> bool:
        """Whether it proves what it claims, and says something by that."""
        return self.status is Status.ACCEPTED

    @property
    def holds(self) -> bool:
        """Whether all that the file claims is so, be it much or nothing."""
        return self.status is not Status.REJECTED


@dataclass(frozen=True)
class Report(Finding):
    """What was found of a certificate of a box.

    Attributes:
      label, classes: the class that wins, and how many there are.
      required_margin: what its margin is greater than.
      arithmetic: real or float32.
      domain_lo, domain_hi, rates: of the features.
      features, free: how many features there are, and how many may move at all.
      norm: "linf" for a box; "l1" or "l2" for a ball, whose radius the apothem is.
      apothem_lower: least distance of a face that may move; inf if all of them lie on
        the domain's boundary, NaN if the box is not proved.
      apothem_upper: distance of the counterexample; inf if none is stored.
      leaves, lemmas: of the proof.
    """

    label: int = -1
    classes: int = 0
    required_margin: float = math.nan
    arithmetic: str = ""
    domain_lo: Span = (math.nan, math.nan)
    domain_hi: Span = (math.nan, math.nan)
    rates: Span = (math.nan, math.nan)
    features: int = 0
    free: int = 0
    norm: str = "linf"
    apothem_lower: float = math.nan
    apothem_upper: float = math.nan
    leaves: int = 0
    lemmas: int = 0

    def words(self) -> str:
        """Returns the claim in words."""
        ends = same(self.domain_lo), same(self.domain_hi)
        where = "a box" if self.norm == "linf" else f"an {self.norm} ball"
        wins = "is said to win" if self.status is Status.UNPROVED else "wins"
        return (
            f"class {self.label} of {self.classes} {wins} by a margin > "
            f"{exact(self.required_margin)} everywhere in {where}; "
            f"{self._objective()}; "
            f"domain [{ends[0]}, {ends[1]}], {self.free} of {self.features} features "
            f"free, rates {same(self.rates)}; {self._arithmetic()}; network "
            f"{self.network_sha256[:16]}; {self._proof()}"
        )

    def _arithmetic(self) -> str:
        against = self.faces is not None or self.apothem_upper < math.inf
        if self.arithmetic == "float32" and against:
            return "float32 arithmetic, counterexamples in real arithmetic"
        return f"{self.arithmetic} arithmetic"

    def _objective(self) -> str:
        upper, faces = self.apothem_upper, self.faces
        if faces is None:
            name, every = "apothem", "every face that may move is the domain's"
            if self.norm != "linf":
                name, every = "radius", "all of the domain that may be reached"
            least = f"{name} at least {rounded(self.apothem_lower, 'FLOOR')}"
            if self.apothem_lower == math.inf:
                least = f"{name} inf: {every}"
            if upper == math.inf:
                return f"{least}, no counterexample is claimed"
            return f"{least}, a counterexample at {rounded(upper, 'CEILING')}"
        kind = "grown" if faces.open else "maximal"
        fixed = f"{faces.fixed} fixed, " if faces.fixed else ""
        return (
            f"{kind} to {exact(faces.delta)} rates: {faces.on_domain} faces on the "
            f"domain, {fixed}{faces.witnessed} stopped, {faces.open} open"
        )

    def _proof(self) -> str:
        if self.status is Status.UNPROVED:
            return "its faces are audited, the box is not proved"
        return f"proved by {self.leaves} leaves"


@dataclass(frozen=True)
class AnswerReport(Finding):
    """What was found of an answer to a property.

    Attributes:
      answer: sat or unsat.
      property_sha256: of the text of the VNN-LIB file.
      inputs, outputs: how many the network has.
      boxes, clauses: how many boxes of inputs the property speaks of, and how many
        conjunctions of outputs in all.
      leaves, lemmas: of the proof.
    """

    property_sha256: str = ""
    answer: str = ""
    inputs: int = 0
    outputs: int = 0
    boxes: int = 0
    clauses: int = 0
    leaves: int = 0
    lemmas: int = 0

    def words(self) -> str:
        """Returns the claim in words."""
        of = f"property {self.property_sha256[:16]}, network {self.network_sha256[:16]}"
        sizes = f"{self.inputs} inputs, {self.outputs} outputs; real arithmetic"
        if self.answer == "sat":
            return f"sat: the stored input satisfies the property; {of}; {sizes}"
        lemmas = f" and {self.lemmas} lemmas" if self.lemmas else ""
        return (
            f"unsat: no input satisfies the property; {of}; {sizes}; {self.boxes} "
            f"boxes, {self.clauses} clauses, proved by {self.leaves} leaves{lemmas}"
        )


@dataclass(frozen=True)
class Expected:
    """What a caller insists on; None where anything will do.

    Attributes:
      network: the sha256 of the network, in full. Which one is meant only the caller
        can know.
      margin: the claim's must be at least this.
      domain: the least and the greatest value of every feature, exactly.
      rates: of every face, exactly.
      arithmetic: real or float32.
      vnnlib: the VNN-LIB file that is answered, .vnnlib or .vnnlib.gz.
      norm: linf for boxes, l1 or l2.
    """

    network: str | None = None
    margin: float | None = None
    domain: Span | None = None
    rates: float | None = None
    arithmetic: str | None = None
    vnnlib: str | os.PathLike[str] | None = None
    norm: str | None = None

    def demand_answer(self) -> None:
        """Rejects an answer to a property if a box is expected."""
        box = ("margin", "domain", "rates", "norm")
        asked = [name for name in box if getattr(self, name) is not None]
        need(not asked, f"the caller expects a box with {asked}, this is an answer")
        good = self.arithmetic in (None, "real")
        need(good, f"arithmetic is real, the caller expects {self.arithmetic}")

    def demand_only(self, what: str, *names: str) -> None:
        """Rejects a claim, in real arithmetic, if more is expected than these."""
        asked = [name for name, v in vars(self).items() if v is not None]
        asked = [name for name in asked if name not in names]
        need(not asked, f"the caller expects {asked}, the claim is of {what}")
        good = self.arithmetic in (None, "real")
        need(good, f"arithmetic is real, the caller expects {self.arithmetic}")

    def demand_domain(self, lo, hi) -> None:
        """Rejects a claim of another domain than lo .. hi, which are arrays."""
        for array, value in zip((lo, hi), self.domain or (None, None), strict=True):
            good = value is None or array == value
            need(good, f"the domain is not {self.domain}, which the caller expects,")

    def demand(self, margin: float, arithmetic: str, features, norm: str) -> None:
        """Rejects a claim that is another one; `features` are arrays by name."""
        words = "the caller expects"
        need(self.norm in (None, norm), f"the norm is {norm}, {words} {self.norm}")
        good = self.margin is None or margin >= self.margin
        need(good, f"required_margin is {margin}, {words} at least {self.margin}")
        good = self.arithmetic in (None, arithmetic)
        need(good, f"arithmetic is {arithmetic}, {words} {self.arithmetic}")
        given = {"rate_lo": self.rates, "rate_hi": self.rates}
        if self.domain is not None:
            given |= dict(zip(("domain_lo", "domain_hi"), self.domain, strict=True))
        for name, value in given.items():
            good = value is None or features[name] == value
            need(good, f"{name} is not {value}, which {words},")


def free_features(a) -> np.ndarray:
    """Returns which features may leave x within the domain, given arrays by name."""
    down = (a["rate_lo"] > 0) & (a["domain_lo"] < a["x"])
    return down | ((a["rate_hi"] > 0) & (a["x"] < a["domain_hi"]))


def vacuous(classes: int, margin: float, a) -> str:
    """Returns why a claim says nothing, if it does; `a` are its arrays by name."""
    if classes < 2:
        return "the network has no other class"
    if margin < 0:
        return f"the required margin is {margin}, below 0: the class need not win"
    if not (np.r_[a["rate_lo"], a["rate_hi"]] > 0).any():
        return "all rates are 0"
    if not free_features(a).any():
        return "no feature is free to move in the domain"
    if np.array_equal(a["lo"], a["hi"]):
        return "the box holds the input alone"
    return ""


def span(*arrays) -> Span:
    """Returns the least and the greatest number."""
    numbers = np.concatenate(arrays)
    return float(numbers.min()), float(numbers.max())


def exact(number: float) -> str:
    """Returns all digits."""
    return repr(float(number)).removesuffix(".0")


def same(ends: Span) -> str:
    """Returns both ends, or one if they are equal."""
    low, high = map(exact, ends)
    return low if low == high else f"{low} .. {high}"


def rounded(number: float, way: str) -> str:
    """Returns six digits, rounded so that the claim does not grow by it."""
    if not math.isfinite(number):
        return str(number)
    context = decimal.Context(prec=6, rounding=f"ROUND_{way}")
    return f"{float(context.create_decimal(number)):.6g}"
