"""The normal form of VNN-LIB assertions: boxes of inputs, disjuncts of outputs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jaxcert.errors import InputError, UnsupportedError
from jaxcert.interop.vnnlib_reader import Reader
from jaxcert.interop.vnnlib_tree import Atom, fold
from jaxcert.spec import Spec

MAX_CONJUNCTIONS = 100_000
"""Most conjunctions in the disjunctive normal form."""
MAX_ATOMS = 2**22
"""Most comparisons in the disjunctive normal form, counted once per conjunction."""
MAX_NUMBERS = 2**27
"""Most numbers in the boxes and the rows of all cases."""

Disjunct = tuple[Float[np.ndarray, "rows outputs"], Float[np.ndarray, " rows"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One box of inputs, and the outputs that must not occur over it.

    The case is violated iff, for some x in [lo, hi] and y = f(x), some disjunct
    `(C, d)` has `C y + d <= 0` in all its rows. So a disjunct is excluded on a box iff
    at every point one of its rows has `C y + d > 0`: a clause of a `Spec`.

    Attributes:
      lo, hi: faces of the box, float64, shape (inputs,). Bounds that are no float64
        numbers are rounded outwards.
      disjuncts: pairs of C, shape (rows, outputs), and d, shape (rows,), float64. Every
        disjunct has at least one row; one that allows every output is the row -1 <= 0.
      inner: the least and the greatest float64 inputs that the file allows, strict
        bounds and bounds that are no float64 numbers included. It may be empty.
      strict: which rows of all disjuncts are `C y + d < 0` in the file.
    """

    lo: Float[np.ndarray, " inputs"]
    hi: Float[np.ndarray, " inputs"]
    disjuncts: tuple[Disjunct, ...]
    inner: tuple[Float[np.ndarray, " inputs"], Float[np.ndarray, " inputs"]]
    strict: Bool[np.ndarray, " rows"]

    def spec(self, gap: float = 0.0) -> Spec:
        """Returns the spec that holds at y iff y satisfies no disjunct.

        One clause per disjunct, with its rows `C y + d > 0`. Its arrays are numpy
        float64; they take JAX's precision where they are used.

        Args:
          gap: what is added to d in strict rows, >= 0. What violates the spec then
            satisfies them as they stand in the file; proofs mean nothing.
        """
        counts = [len(offset) for _, offset in self.disjuncts]
        offset = np.concatenate([d for _, d in self.disjuncts])
        offset = offset + np.where(self.strict, gap * (1 + np.abs(offset)), 0.0)
        return Spec(
            coefficients=np.concatenate([c for c, _ in self.disjuncts]),  # type: ignore[arg-type]
            offset=offset,  # type: ignore[arg-type]
            clause=np.repeat(  # type: ignore[arg-type]
                np.arange(len(counts), dtype=np.int32), counts
            ),
            num_clauses=len(counts),
        )


@dataclasses.dataclass(frozen=True)
class NormalForm:
    """What a file states as cases, and over which variables.

    Rows of the cases have a column per output, and then one per input of `passed`:
    what they say of inputs that are no box, or of inputs and outputs together, they say
    of outputs of a network that passes these inputs on (`vnnlib_joint`).

    Attributes:
      cases: boxes and rows.
      notes: sentences the user should read.
      spread: of every declared input, which variable it is: inputs that the file states
        to be equal are one. The boxes are over the variables.
      passed: the variables that have columns.
    """

    cases: tuple[Case, ...]
    notes: tuple[str, ...]
    spread: tuple[int, ...]
    passed: tuple[int, ...]


_Conjunction = tuple[Atom, ...]
_Faces = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""lo and hi of the closed box, then of the float64 points that are allowed."""


@dataclasses.dataclass(frozen=True)
class _Disjunctive:
    """A condition in disjunctive normal form: all of `common` and one of `any_of`."""

    common: list[Atom]
    any_of: tuple[_Conjunction, ...] = ((),)

    def expanded(self) -> tuple[_Conjunction, ...]:
        common = tuple(self.common)
        return tuple(common + atoms for atoms in self.any_of)

    @property
    def size(self) -> int:
        return sum(map(len, self.any_of)) + len(self.any_of) * len(self.common)


def normal_form(reader: Reader, path: str) -> NormalForm:
    """Returns the normal form of the assertions that were read."""
    program = tuple(reader.program)

    def limit(conjunctions: int, atoms: int) -> None:
        if conjunctions > MAX_CONJUNCTIONS or atoms > MAX_ATOMS:
            raise InputError(
                f"{path} is too large as a disjunction of conjunctions: more than "
                f"{MAX_CONJUNCTIONS} of them, or {MAX_ATOMS} comparisons in all. "
                "Split it into several properties"
            )

    def conjunction(parts: list[_Disjunctive]) -> _Disjunctive:
        # Into the longest of them, so that deeply nested files take linear time.
        common = max((p.common for p in parts), key=len)
        for part in parts:
            if part.common is not common:
                common.extend(part.common)
        product, *others = [p.any_of for p in parts if p.any_of != ((),)] or [((),)]
        for choices in others:
            limit(
                len(product) * len(choices),
                sum(map(len, product)) * len(choices)
                + sum(map(len, choices)) * len(product),
            )
            product = tuple(a + b for a in product for b in choices)
        return _Disjunctive(common, product)

    def disjunction(parts: list[_Disjunctive]) -> _Disjunctive:
        if len(parts) == 1:
            return parts[0]
        limit(sum(len(p.any_of) for p in parts), sum(p.size for p in parts))
        choices = itertools.chain.from_iterable(p.expanded() for p in parts)
        return _Disjunctive([], tuple(choices))

    whole: _Disjunctive = fold(
        program,
        lambda atom: _Disjunctive([atom]),
        {"and": conjunction, "or": disjunction},
    )
    if not any(isinstance(step, Atom) and step.outputs for step in program):
        raise InputError(
            f"{path} asserts nothing about the outputs; it may be truncated: copy it "
            "again"
        )
    return _Builder(reader, path).build(whole)


class _Builder:
    """Turns conjunctions into boxes and rows, and groups them by box."""

    def __init__(self, reader: Reader, path: str) -> None:
        self.path, self.name = path, reader.name
        self.num_declared, self.num_outputs = reader.num_inputs, reader.num_outputs
        self.spread: tuple[int, ...] = ()
        self.passed: dict[int, int] = {}  # column of a variable

    def build(self, whole: _Disjunctive) -> NormalForm:
        """Returns the normal form of a condition in disjunctive normal form."""
        self.spread, whole = _without_equalities(whole, self.num_declared)
        self.num_inputs = max(self.spread) + 1
        atoms = itertools.chain(whole.common, *whole.any_of)
        tied = sorted({i for a in atoms if _is_row(a) for i, _ in a.inputs})
        self.passed = {i: self.num_outputs + k for k, i in enumerate(tied)}
        cases, notes = self.grouped(whole)
        return NormalForm(cases, notes, self.spread, tuple(tied))

    def grouped(self, whole: _Disjunctive) -> tuple[tuple[Case, ...], tuple[str, ...]]:
        """Returns cases and notes; what is said of single inputs is in the boxes."""
        shared = sum(map(_is_row, whole.common))
        rows = sum(sum(map(_is_row, c)) + shared for c in whole.any_of)
        boxes = len(whole.any_of) * self.num_inputs
        if boxes + rows * self.columns > MAX_NUMBERS:
            raise InputError(
                f"{self.path} has {len(whole.any_of)} cases of {self.num_inputs} "
                f"inputs, more than {MAX_NUMBERS} numbers in all. Split it into "
                "several properties"
            )
        everywhere = np.full(self.num_inputs, np.inf)
        common = self.narrow(
            (-everywhere, everywhere, -everywhere, everywhere), whole.common
        )
        common_rows = [self.row(atom) for atom in whole.common if _is_row(atom)]
        groups: dict[tuple[bytes, ...], tuple[_Faces, list[Any]]] = {}
        dropped = 0
        for atoms in whole.any_of:
            box = None if common is None else self.narrow(common, atoms)
            if box is None:
                dropped += 1
                continue
            self.require_bounded(box)
            rows_here = common_rows + [self.row(a) for a in atoms if _is_row(a)]
            if not rows_here:
                rows_here = [(np.zeros(self.columns), -1.0, False)]
            disjunct = (
                np.stack([c for c, _, _ in rows_here]),
                np.array([d for _, d, _ in rows_here]),
            )
            strict = [s for _, _, s in rows_here]
            key = tuple(face.tobytes() for face in box)
            groups.setdefault(key, (box, []))[1].append((disjunct, strict))
        cases = [self.case(*group) for group in groups.values()]
        notes = []
        if dropped:
            notes.append(
                f"{dropped} of {len(whole.any_of)} conjunctions of {self.path} allow "
                "no input (bounds that no number satisfies) and are dropped"
            )
        if not cases:
            notes.append(f"{self.path} holds for every network: it allows no input")
        return tuple(cases), tuple(notes)

    @property
    def columns(self) -> int:
        return self.num_outputs + len(self.passed)

    def case(self, box: _Faces, parts: list[Any]) -> Case:
        lo, hi, least, greatest = box
        strict = np.concatenate([np.array(s) for _, s in parts])
        return Case(lo, hi, tuple(d for d, _ in parts), (least, greatest), strict)

    def narrow(self, box: _Faces, atoms: Iterable[Atom]) -> _Faces | None:
        """Returns the box cut by the input constraints; None where it is empty."""
        lo, hi, least, greatest = (face.copy() for face in box)
        for atom in atoms:
            if _is_row(atom):
                continue
            if atom.inputs:
                ((index, coefficient),) = atom.inputs
                bound = -atom.constant / coefficient
                side = np.inf if coefficient > 0 else -np.inf
                outer = self.rounded(bound, side, atom)
                inner = outer
                if atom.strict or Fraction(outer) != bound:
                    inner = float(np.nextafter(outer, -side))
                if coefficient > 0:
                    hi[index] = min(hi[index], outer)
                    greatest[index] = min(greatest[index], inner)
                else:
                    lo[index] = max(lo[index], outer)
                    least[index] = max(least[index], inner)
            elif not (atom.constant < 0 or (atom.constant == 0 and not atom.strict)):
                return None
        # One number is left, and a strict bound may exclude it too.
        excluded = (lo == hi) & ((least > lo) | (greatest < hi))
        if np.any((lo > hi) | excluded):
            return None
        # Adding 0 turns -0.0 into 0.0: equal boxes are found by their bytes.
        return lo + 0.0, hi + 0.0, least + 0.0, greatest + 0.0

    def require_bounded(self, box: _Faces) -> None:
        for faces, what in zip(box[:2], ("lower", "upper"), strict=True):
            if not np.all(np.isfinite(faces)):
                index = int(np.argmin(np.isfinite(faces)))
                name = self.name("X", self.spread.index(index))
                raise InputError(
                    f"{self.path} gives {name} no {what} bound (in some case): "
                    "bound every input from both sides. The file may be truncated"
                )

    def row(self, atom: Atom) -> tuple[np.ndarray, float, bool]:
        """Returns C and d of the row `C y + d <= 0`, and if it is strict.

        d is rounded downwards, so that the row allows at least what the file does.
        """
        coefficients = np.zeros(self.columns)
        terms = [(j, self.name("Y", j), c) for j, c in atom.outputs]
        for i, c in atom.inputs:
            terms.append((self.passed[i], self.name("X", self.spread.index(i)), c))
        for column, name, coefficient in terms:
            number = self.rounded(coefficient, np.inf, atom)
            if Fraction(number) != coefficient:
                raise UnsupportedError(
                    f"{self.path}, line {atom.line}: the coefficient of {name} is "
                    "no float64 number: write it as one number"
                )
            coefficients[column] = number
        return coefficients, self.rounded(atom.constant, -np.inf, atom), atom.strict

    def rounded(self, value: Fraction, towards: float, atom: Atom) -> float:
        """Returns the nearest float64 on the side of `value` that is asked for."""
        try:
            number = float(value)
        except OverflowError as error:
            raise InputError(
                f"{self.path}, line {atom.line}: a constant is too large for float64"
            ) from error
        wrong = number < value if towards > 0 else number > value
        return float(np.nextafter(number, towards)) if wrong else number


def _is_row(atom: Atom) -> bool:
    """Returns whether a comparison is no bound of one input."""
    return bool(atom.outputs) or len(atom.inputs) > 1


def _without_equalities(
    whole: _Disjunctive, count: int
) -> tuple[tuple[int, ...], _Disjunctive]:
    """Returns which variable every input is, and the condition over these.

    Inputs are one variable where the condition holds only if they are equal: so two
    networks of one input cost no more than the one they are.
    """
    below = {_pair(atom) for atom in whole.common} - {None}
    equal = [pair for pair in below if pair and pair[::-1] in below]
    root = list(range(count))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, j in equal:
        low, high = sorted((find(i), find(j)))
        root[high] = low
    roots = [find(i) for i in range(count)]
    order = {r: k for k, r in enumerate(dict.fromkeys(roots))}
    spread = tuple(order[r] for r in roots)
    if not equal:
        return spread, whole

    def renamed(atom: Atom) -> Atom:
        total: dict[int, Fraction] = {}
        for i, coefficient in atom.inputs:
            total[spread[i]] = total.get(spread[i], Fraction(0)) + coefficient
        left = tuple((i, c) for i, c in total.items() if c)
        return dataclasses.replace(atom, inputs=left)

    choices = tuple(tuple(map(renamed, atoms)) for atoms in whole.any_of)
    return spread, _Disjunctive(list(map(renamed, whole.common)), choices)


def _pair(atom: Atom) -> tuple[int, int] | None:
    """Returns (i, j) of a comparison that says X_i <= X_j, else None."""
    if atom.outputs or atom.constant or atom.strict or len(atom.inputs) != 2:
        return None
    (i, a), (j, b) = atom.inputs
    if a != -b:
        return None
    return (i, j) if a > 0 else (j, i)
