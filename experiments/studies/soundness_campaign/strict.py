"""VNN-LIB properties with strict bounds of inputs and outputs, decided exactly.

The networks have two inputs: on each of the polygons where one is affine, a conjunction
of comparisons leaves a polygon, on which all of them hold strictly somewhere iff each
does at the mean of its vertices. Files go the way that verify.py takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import tempfile
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from jaxcert.commands.verify.answer import Effort, load_subject, verify_files
from jaxcert.errors import JaxcertError
from jaxcert.witness.attack import AttackOptions
from studies.soundness_campaign.exact import MODES, Piece, at, pieces_of
from studies.soundness_campaign.networks import Architecture, Params
from studies.soundness_campaign.numbers import FRACTIONS
from studies.soundness_campaign.onnx import to_onnx
from studies.soundness_campaign.record import Suspicion, Tally
from studies.soundness_campaign.weights import draw_params

STRICT = (
    ("dense 4", "relu", "dense 2"),
    ("dense 3", "clip"),
    ("dense 4", "max_pair", "dense 2"),
)
_BOXES = ("box", "box", "box", "point", "collapsed", "empty", "crossed")
_SHIFTS = (Fraction(0), Fraction(0), Fraction(0), Fraction(-1, 1024), Fraction(1, 1024))
# Of a property; the first of its form compiles.
_SECONDS, _COMPILING = 0.4, 120.0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`row y + constant < 0` if strict, else `<= 0`; its text speaks of Y_i."""

    row: np.ndarray
    constant: Fraction
    strict: bool
    text: str


@dataclasses.dataclass(frozen=True)
class Question:
    """A property: the box, which faces are open, and the comparisons, all or any."""

    lo: np.ndarray
    hi: np.ndarray
    open_lo: np.ndarray
    open_hi: np.ndarray
    comparisons: tuple[Comparison, ...]
    any_of: bool

    def text(self, outputs: int) -> str:
        """Returns the VNN-LIB file."""
        names = [f"X_{i}" for i in range(2)] + [f"Y_{j}" for j in range(outputs)]
        lines = [f"(declare-const {name} Real)" for name in names]
        for i in range(2):
            below, above = ("<" if v[i] else "<=" for v in (self.open_lo, self.open_hi))
            lines.append(f"(assert ({below} {_decimal(self.lo[i])} X_{i}))")
            lines.append(f"(assert ({above} X_{i} {_decimal(self.hi[i])}))")
        parts = [c.text for c in self.comparisons]
        if self.any_of:
            lines.append(f"(assert (or {' '.join(f'(and {p})' for p in parts)}))")
        else:
            lines += [f"(assert {p})" for p in parts]
        return "\n".join(lines) + "\n"

    def contains(self, x: np.ndarray) -> bool:
        """Whether a point lies in the box and on no open face."""
        low = np.where(self.open_lo, self.lo < x, self.lo <= x)
        return bool((low & np.where(self.open_hi, x < self.hi, x <= self.hi)).all())

    def satisfied(self, y: np.ndarray) -> bool:
        """Whether outputs, fractions, satisfy the comparisons."""
        values = [FRACTIONS.convert(c.row) @ y + c.constant for c in self.comparisons]
        held = [
            v < 0 if c.strict else v <= 0
            for v, c in zip(values, self.comparisons, strict=True)
        ]
        return any(held) if self.any_of else all(held)

    def violation(self, pieces: list[Piece]) -> tuple[Fraction, Fraction] | None:
        """Returns a point that violates the property, exactly, or None."""
        faces = [_line(i, side, bound) for i in range(2)
                 for side, bound in ((1, self.hi[i]), (-1, self.lo[i]))]  # fmt: skip
        strict = [bool(v[i]) for i in range(2) for v in (self.open_hi, self.open_lo)]
        groups = [self.comparisons]
        if self.any_of:
            groups = [(c,) for c in self.comparisons]
        for vertices, rows in pieces:
            for group in groups:
                lines = list(zip(faces, strict, strict=True))
                for c in group:
                    line = FRACTIONS.convert(c.row) @ rows
                    line[2] += c.constant
                    lines.append((line, c.strict))
                point = _point_of(vertices, lines)
                if point is not None:
                    return point
        return None


def _line(i: int, side: int, bound: float) -> np.ndarray:
    line = np.array([Fraction(0)] * 3, object)
    line[i], line[2] = Fraction(side), -side * Fraction(float(bound))
    return line


def _decimal(value: float) -> str:
    return format(Decimal(float(value)), "f")


def _point_of(
    vertices: list[Any], lines: list[tuple[np.ndarray, bool]]
) -> tuple[Fraction, Fraction] | None:
    """Returns a point of a polygon where all lines are <= 0, or < 0 if strict."""
    for line, _ in lines:
        vertices = _below(vertices, line)
        if not vertices:
            return None
    count = Fraction(len(vertices))
    x, y = (sum((v[i] for v in vertices), Fraction(0)) / count for i in range(2))
    if all(at(line, (x, y)) < 0 for line, strict in lines if strict):
        return x, y
    return None


def _below(vertices: list[Any], line: np.ndarray) -> list[Any]:
    """Returns the part of a polygon, which may be a point, where a line is <= 0."""
    values = [at(line, v) for v in vertices]
    found = []
    for i, (p, a) in enumerate(zip(vertices, values, strict=True)):
        q, b = vertices[i - 1], values[i - 1]
        if a * b < 0:
            t = b / (b - a)
            found.append((q[0] + t * (p[0] - q[0]), q[1] + t * (p[1] - q[1])))
        if a <= 0:
            found.append(p)
    return found


# ------------------------------------------------------------------------ questions


def draw_question(
    rng: np.random.Generator, architecture: Architecture, params: Params
) -> Question:
    """Returns a property whose threshold is, most often, an exact extreme."""
    kind = str(rng.choice(_BOXES))
    lo = rng.integers(-8, 8, 2) / 8
    hi = lo + rng.integers(1, 9, 2) / 8
    open_lo, open_hi = rng.random((2, 2)) < 0.5
    if kind == "point":
        hi, open_lo, open_hi = lo.copy(), np.zeros(2, bool), np.zeros(2, bool)
    if kind in ("collapsed", "empty"):
        i = int(rng.integers(2))
        hi[i] = lo[i]
        open_lo[i], open_hi[i] = kind == "empty", rng.random() < 0.5 and kind == "empty"
    outputs = architecture.parameter_shapes()[-1]
    count = int(outputs[1][0]) if outputs else 3
    pieces = pieces_of(architecture, params, lo, hi)
    if kind == "crossed":
        i = int(rng.integers(2))
        lo[i], hi[i] = hi[i], lo[i]
    many = int(rng.integers(1, 3))
    comparisons = tuple(_comparison(rng, pieces, count) for _ in range(many))
    any_of = many == 2 and bool(rng.random() < 0.5)
    return Question(lo, hi, open_lo, open_hi, comparisons, any_of)


def _comparison(
    rng: np.random.Generator, pieces: list[Piece], outputs: int
) -> Comparison:
    strict, sign = bool(rng.random() < 0.5), int(rng.choice([-1, 1]))
    j = int(rng.integers(outputs))
    row = np.zeros(outputs)
    row[j] = sign
    word = ("<" if sign > 0 else ">") + ("" if strict else "=")
    if rng.random() < 0.25:
        i = (j + 1) % outputs
        row[i] = -sign
        return Comparison(row, Fraction(0), strict, f"({word} Y_{j} Y_{i})")
    values = [at(rows[j], v) for vertices, rows in pieces for v in vertices]
    extreme = min(values) if sign > 0 else max(values)
    shift = Fraction(rng.choice(np.array(_SHIFTS, object)))
    threshold = float(extreme + shift)
    constant = -sign * Fraction(threshold)
    return Comparison(row, constant, strict, f"({word} Y_{j} {_decimal(threshold)})")


# --------------------------------------------------------------------------- asking


def strict_group(
    rng: np.random.Generator, architecture: Architecture, networks: int
) -> Tally:
    """Returns answers to a property of each network, judged exactly."""
    tally, compiled = Tally(), set()
    for _ in range(networks):
        regime = str(rng.choice(["dyadic", "dyadic", "plain", "ties"]))
        params = draw_params(rng, architecture, np.zeros(2), regime)
        params = tuple(
            tuple(v.astype(np.float32).astype(np.float64) for v in p) for p in params
        )
        question = draw_question(rng, architecture, params)
        tally.networks += 1
        form = len(question.comparisons), question.any_of
        seconds = _SECONDS if form in compiled else _COMPILING
        compiled.add(form)
        ask(tally, architecture, params, question, regime, seconds)
    return tally


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Runs the block without the warnings that a user would want to read."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def answer(
    architecture: Architecture, params: Params, text: str, seconds: float = _SECONDS
) -> tuple[str, str]:
    """Returns what verify.py answers, and its counterexample."""
    effort = Effort(None, AttackOptions(3, 12), MODES["inputs"])
    with tempfile.TemporaryDirectory() as folder:
        onnx, vnnlib = Path(folder) / "network.onnx", Path(folder) / "p.vnnlib"
        onnx.write_bytes(to_onnx(architecture, params, np.float32))
        vnnlib.write_text(text)
        deadline = time.monotonic() + seconds
        with _silence():
            found = verify_files({"": onnx}, vnnlib, deadline, effort, load_subject)
    return found.result, found.counterexample


def ask(
    tally: Tally, architecture: Architecture, params: Params, question: Question,
    name: str, seconds: float = _SECONDS,
) -> None:  # fmt: skip
    """Holds the answer to a property against the exact one."""
    comparisons = question.comparisons
    text = question.text(len(comparisons[0].row))
    try:
        result, counterexample = answer(architecture, params, text, seconds)
    except JaxcertError as error:
        tally.note(f"refused: {error}"[:60])
        tally.unknown += 1
        return
    pieces = pieces_of(architecture, params, np.minimum(question.lo, question.hi),
                       np.maximum(question.lo, question.hi))  # fmt: skip
    truth = question.violation(pieces)
    doubt = functools.partial(
        Suspicion, oracle=f"verify.py: {name}", architecture=architecture,
        params=params, lo=question.lo, hi=question.hi,
        rows=np.stack([-c.row for c in comparisons]),
        offset=np.array([-float(c.constant) for c in comparisons]),
        route="vnnlib", text=text,
    )  # fmt: skip
    tally.proved += result == "unsat"
    tally.refuted += result == "sat"
    if result == "unsat" and truth is not None:
        point = np.array([float(v) for v in truth])
        tally.suspicions.append(doubt(claim="proved, exactly not", point=point))
    if result == "sat":
        values = dict(re.findall(r"\(([XY]_\d+) ([^)\s]+)\)", counterexample))
        x = np.array([float(values[f"X_{i}"]) for i in range(2)])
        if truth is None or not (
            question.contains(x) and question.satisfied(architecture.exact(params, x))
        ):
            tally.suspicions.append(doubt(claim="refuted, exactly not", point=x))
    if result not in ("sat", "unsat"):
        tally.unknown += 1
        tally.note("violated but unknown" if truth else "true but unknown")
