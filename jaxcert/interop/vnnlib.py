"""Reading VNN-LIB 1.0: a property file as boxes of inputs and specs of outputs.

A file says what must never happen: the property is violated ("sat") iff some input x
and its output y = f(x) satisfy all its assertions. It is data from somebody else: read
with bounds on its size, and whatever is not understood is an error that names the line.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import math
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from jaxtyping import ArrayLike, Float

from jaxcert.errors import InputError, UnsupportedError
from jaxcert.spec import Spec

MAX_BYTES = 2**28
"""Largest file that is read, before and after decompression."""
MAX_CONJUNCTIONS = 10_000
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
    """

    lo: Float[np.ndarray, " inputs"]
    hi: Float[np.ndarray, " inputs"]
    disjuncts: tuple[Disjunct, ...]

    def spec(self) -> Spec:
        """Returns the spec that holds at y iff y satisfies no disjunct.

        One clause per disjunct, with its rows `C y + d > 0`. Its arrays are numpy
        float64; they take JAX's precision where they are used.
        """
        counts = [len(offset) for _, offset in self.disjuncts]
        return Spec(
            coefficients=np.concatenate([c for c, _ in self.disjuncts]),  # type: ignore
            offset=np.concatenate([d for _, d in self.disjuncts]),  # type: ignore
            clause=np.repeat(  # type: ignore
                np.arange(len(counts), dtype=np.int32), counts
            ),
            num_clauses=len(counts),
        )


@dataclasses.dataclass(frozen=True)
class Atom:
    """The comparison `sum of coefficient * variable + constant <= 0` (or `< 0`).

    Attributes:
      inputs, outputs: pairs of an index and its coefficient, which is not 0.
      constant: what is added.
      strict: whether 0 itself is excluded.
      line: of the file.
    """

    inputs: tuple[tuple[int, Fraction], ...]
    outputs: tuple[tuple[int, Fraction], ...]
    constant: Fraction
    strict: bool
    line: int


@dataclasses.dataclass(frozen=True)
class Junction:
    """`and` or `or` of the last `count` values in postfix order."""

    operator: Literal["and", "or"]
    count: int


Assertions = tuple[Atom | Junction, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Property:
    """A VNN-LIB file: violated iff one of its cases is.

    Strict comparisons are read as `<=` in the cases, and `violates` tells the
    difference: a proof over all cases holds for the file, and a counterexample of a
    case is one of the file only if `violates` confirms it.

    Attributes:
      num_inputs, num_outputs: how many X_i and Y_j are declared.
      cases: the normal form. Empty iff no box of the file has a point: such a property
        holds for every network, and `notes` says so.
      assertions: the assertion tree of the file in postfix order, joined by one `and`.
      notes: sentences the user should read.
    """

    num_inputs: int
    num_outputs: int
    cases: tuple[Case, ...]
    assertions: Assertions = dataclasses.field(repr=False)
    notes: tuple[str, ...] = ()

    def violates(self, x: ArrayLike, y: ArrayLike, tolerance: float = 0.0) -> bool:
        """Returns whether the values satisfy the assertions of the file.

        This evaluates the assertion tree and not the normal form, in exact arithmetic
        on the float64 numbers given. Values that are not finite satisfy nothing.

        Args:
          x: inputs, any shape of num_inputs values, in the network's order.
          y: outputs, likewise.
          tolerance: how far every single comparison may be missed, >= 0.

        Raises:
          InputError: a wrong number of values, or a tolerance that is not >= 0.
        """
        if not 0 <= tolerance < math.inf:
            raise InputError(f"tolerance is {tolerance}; it must be >= 0 and finite")
        values = []
        for what, array, size in (
            ("x", x, self.num_inputs),
            ("y", y, self.num_outputs),
        ):
            flat = np.asarray(array, np.float64).reshape(-1)
            if flat.size != size:
                raise InputError(
                    f"{what} has {flat.size} values; the property declares {size}"
                )
            if not np.all(np.isfinite(flat)):
                return False
            values.append([Fraction(v) for v in flat.tolist()])
        slack = Fraction(tolerance)

        def holds(atom: Atom) -> bool:
            total = atom.constant - slack
            for terms, at in zip((atom.inputs, atom.outputs), values, strict=True):
                total += sum(coefficient * at[i] for i, coefficient in terms)
            return total < 0 if atom.strict else total <= 0

        return _fold(self.assertions, holds, {"and": all, "or": any})


def load_vnnlib(path: str | os.PathLike[str]) -> Property:
    """Returns the property that a VNN-LIB 1.0 file (gzipped if it ends in .gz) states.

    Read are `declare-const` of X_i and Y_j as Real, and `assert` of `and`, `or`, `<=`,
    `>=`, `<`, `>` and `=` over linear terms of `+`, `-`, `*` and numbers. Every number
    is the float64 nearest to it.

    Raises:
      InputError: the file cannot be read, is damaged or too large, declares or bounds
        its variables incompletely, or asserts nothing about the outputs.
      UnsupportedError: it holds something else than the above, input constraints that
        are no boxes, or comparisons of inputs with outputs.
    """
    name = os.fspath(path)
    reader = _Reader(_read_text(name), name)
    reader.read()
    return _normal_form(reader, name)


def format_counterexample(x: ArrayLike, y: ArrayLike) -> str:
    """Returns inputs and outputs as VNN-COMP asks: `((X_0 0.5)`, ..., `(Y_0 1.5))`.

    One variable per line; every float64 number reads back as itself.
    """
    lines = []
    for letter, array in (("X", x), ("Y", y)):
        flat = np.asarray(array, np.float64).reshape(-1).tolist()
        lines += [f"({letter}_{i} {value!r})" for i, value in enumerate(flat)]
    return "(" + "\n ".join(lines) + ")"


def _fold(
    program: Assertions,
    atom: Callable[[Atom], Any],
    join: dict[str, Callable[[list[Any]], Any]],
) -> Any:
    """Returns the value of a tree in postfix order; no recursion, however deep."""
    stack: list[Any] = []
    for step in program:
        if isinstance(step, Atom):
            stack.append(atom(step))
        else:
            first = len(stack) - step.count
            stack[first:] = [join[step.operator](stack[first:])]
    (value,) = stack
    return value


def _read_text(path: str) -> str:
    """Returns the text of a file, unpacked if its name ends in .gz."""
    too_large = InputError(
        f"{path} is larger than {MAX_BYTES} bytes, the most that is read: check the "
        "file"
    )
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a file: name a .vnnlib or .vnnlib.gz file")
        if status.st_size > MAX_BYTES:
            raise too_large
        opener: Any = gzip.open if path.endswith(".gz") else open
        with opener(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}: check the path") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} is a damaged or truncated gzip file: copy it again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): check its permissions"
        ) from error
    if len(data) > MAX_BYTES:
        raise too_large
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: {_NOT_TEXT}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path}, line {line}: {_NOT_TEXT}")
    return text


_NOT_TEXT = (
    "not text. A VNN-LIB file is plain text, or gzipped with a name that ends in .gz"
)
_TOKEN = re.compile(r';[^\n]*|[()]|"[^"]*"|\|[^|]*\||[^\s();"|]+|["|]')
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_VARIABLE = re.compile(r"[XY]_(0|[1-9][0-9]{0,8})", re.ASCII)
_CONSTANT = ""  # key of the constant of a linear term
_FORMULA = object()  # stands for a condition whose steps are in the program already
_COMPARISONS = ("<=", ">=", "<", ">", "=")
# They state nothing that could be true or false of a network.
_IGNORED = ("set-logic", "set-info", "set-option", "check-sat", "get-model", "exit")
_COMMANDS = ("declare-const", "declare-fun", "assert", *_IGNORED)
# Exact arithmetic on constants grows with their number: a file of products only could
# ask for numbers of a million digits.
_MAX_BITS = 2**14

_Linear = dict[str, Fraction]


@dataclasses.dataclass
class _Form:
    """An open parenthesis: its position, first word, and what followed so far."""

    position: int
    raw: bool  # the words are not to be understood (declarations, what is ignored)
    head: str | None = None
    items: list[Any] = dataclasses.field(default_factory=list)


class _Reader:
    """One pass over one file: every form is reduced when its parenthesis closes."""

    def __init__(self, text: str, path: str) -> None:
        self.text = text
        self.path = path
        self.declared: dict[str, tuple[str, int]] = {}
        self.program: list[Atom | Junction] = []
        self.num_assertions = 0
        self.num_inputs = self.num_outputs = 0
        # Lines are counted as the reading goes on: comparisons need theirs.
        self.counted = (0, 1)

    def read(self) -> None:
        """Reads the declarations and assertions."""
        stack: list[_Form] = []
        for match in _TOKEN.finditer(self.text):
            token, position = match.group(), match.start()
            if token == "(":
                if stack and stack[-1].head is None and not stack[-1].raw:
                    raise self.error(position, "'(' where a word must stand")
                stack.append(_Form(position, bool(stack) and stack[-1].raw))
            elif token == ")":
                if not stack:
                    raise self.error(position, "')' closes nothing")
                form = stack.pop()
                value = self.reduce(form, top=not stack)
                if stack:
                    stack[-1].items.append(value)
            elif not token.startswith(";"):
                if not stack:
                    raise self.error(position, f"{_shown(token)} outside parentheses")
                self.word(stack[-1], token, position, top=len(stack) == 1)
        if stack:
            raise self.error(
                stack[0].position,
                "'(' is never closed; the file may be truncated: copy it again",
            )
        self.finish()

    def line(self, position: int) -> int:
        """Returns the line of a position."""
        start, line = self.counted
        if position < start:
            start, line = 0, 1
        line += self.text.count("\n", start, position)
        self.counted = (position, line)
        return line

    def error(self, position: int, message: str, kind: type = InputError) -> Exception:
        return kind(f"{self.path}, line {self.line(position)}: {message}")

    def word(self, form: _Form, token: str, position: int, top: bool) -> None:
        """Takes a word that is no parenthesis."""
        if form.head is None:
            form.head = token
            if top and token not in _COMMANDS:
                raise self.error(
                    position,
                    f"command {_shown(token)} is not supported; known: declare-const "
                    "and assert",
                    UnsupportedError,
                )
            form.raw |= top and token != "assert"
        elif form.raw:
            form.items.append(token)
        elif _NUMBER.fullmatch(token):
            number = float(token)
            if math.isinf(number):
                raise self.error(position, f"number {_shown(token)} is too large")
            form.items.append({_CONSTANT: Fraction(number)})
        elif token in self.declared:
            form.items.append({token: Fraction(1)})
        else:
            raise self.error(
                position,
                f"{_shown(token)} is neither a number nor a declared variable",
            )

    def reduce(self, form: _Form, top: bool) -> Any:
        """Returns the value of a form that is complete."""
        head, items = form.head, form.items
        if form.raw:
            if top and head in ("declare-const", "declare-fun"):
                self.declare(form)
            return items
        if head is None:
            raise self.error(form.position, "'()' says nothing")
        formulas = sum(item is _FORMULA for item in items)
        if head == "assert" and top:
            if len(items) != 1 or formulas != 1:
                raise self.error(form.position, "assert takes one condition")
            self.num_assertions += 1
            return None
        if head in ("and", "or"):
            if not items or formulas != len(items):
                raise self.error(form.position, f"'{head}' joins conditions only")
            operator: Literal["and", "or"] = "and" if head == "and" else "or"
            self.program.append(Junction(operator, len(items)))
            return _FORMULA
        if head in (*_COMPARISONS, "+", "-", "*"):
            if formulas or not items:
                raise self.error(form.position, f"'{head}' takes numbers and variables")
            if head in _COMPARISONS:
                return self.compare(head, form)
            return self.arithmetic(head, form)
        raise self.error(
            form.position,
            f"operator {_shown(head)} is not supported; known: and, or, "
            f"{', '.join(_COMPARISONS)}, +, -, *",
            UnsupportedError,
        )

    def declare(self, form: _Form) -> None:
        """Takes the declaration of one variable."""
        items = form.items
        if form.head == "declare-fun" and len(items) == 3 and items[1] == []:
            items = [items[0], items[2]]
        if len(items) != 2 or not all(isinstance(item, str) for item in items):
            raise self.error(form.position, "not of the form (declare-const X_0 Real)")
        name, sort = items
        if not _VARIABLE.fullmatch(name):
            raise self.error(
                form.position,
                f"variable {_shown(name)} is neither an input X_i nor an output Y_j",
                UnsupportedError,
            )
        if sort != "Real":
            raise self.error(
                form.position,
                f"{name} is of sort {_shown(sort)}; only Real is supported",
                UnsupportedError,
            )
        if name in self.declared:
            raise self.error(form.position, f"{name} is declared twice")
        self.declared[name] = (name[0], int(name[2:]))

    def arithmetic(self, operator: str, form: _Form) -> _Linear:
        """Returns the sum, difference or product of the terms of a form."""
        terms: list[_Linear] = form.items
        if operator == "*":
            varying = [t for t in terms if t.keys() - {_CONSTANT}]
            if len(varying) > 1:
                raise self.error(
                    form.position,
                    "a product of variables is not linear and not supported",
                    UnsupportedError,
                )
            scale = Fraction(1)
            for term in terms:
                if not varying or term is not varying[0]:
                    scale = self.bounded(scale * term.get(_CONSTANT, 0), form)
            term = varying[0] if varying else {_CONSTANT: Fraction(1)}
            return {k: self.bounded(v * scale, form) for k, v in term.items()}
        if operator == "-":
            kept = 0 if len(terms) == 1 else 1
            terms = terms[:kept] + [_negative(term) for term in terms[kept:]]
        # Into the largest of them, so that deeply nested sums take linear time.
        result = max(terms, key=len)
        for term in terms:
            if term is not result:
                for key, value in term.items():
                    total = result.get(key, Fraction(0)) + value
                    result[key] = self.bounded(total, form)
        return result

    def bounded(self, value: Fraction, form: _Form) -> Fraction:
        size = max(value.numerator.bit_length(), value.denominator.bit_length())
        if size > _MAX_BITS:
            raise self.error(form.position, "too much arithmetic on constants")
        return value

    def compare(self, operator: str, form: _Form) -> object:
        """Appends a comparison (a chain is the `and` of its links) to the program."""
        if len(form.items) < 2:
            raise self.error(form.position, f"'{operator}' compares two terms")
        count = 0
        for left, right in itertools.pairwise(form.items):
            if operator in ("<=", "<", "="):
                self.append(left, right, operator == "<", form)
                count += 1
            if operator in (">=", ">", "="):
                self.append(right, left, operator == ">", form)
                count += 1
        if count > 1:
            self.program.append(Junction("and", count))
        return _FORMULA

    def append(self, small: _Linear, large: _Linear, strict: bool, form: _Form) -> None:
        """Appends `small <= large`."""
        terms = dict(small)
        for key, value in large.items():
            terms[key] = self.bounded(terms.get(key, Fraction(0)) - value, form)
        constant = terms.pop(_CONSTANT, Fraction(0))
        sides: dict[str, list[tuple[int, Fraction]]] = {"X": [], "Y": []}
        for name, coefficient in terms.items():
            letter, index = self.declared[name]
            if coefficient:
                sides[letter].append((index, coefficient))
        if sides["X"] and sides["Y"]:
            raise self.error(
                form.position,
                "a comparison of inputs with outputs is not supported",
                UnsupportedError,
            )
        if len(sides["X"]) > 1:
            names = ", ".join(f"X_{i}" for i, _ in sorted(sides["X"])[:4])
            raise self.error(
                form.position,
                f"the constraint ties several inputs together ({names}); only "
                "constraints of single inputs (boxes) are supported",
                UnsupportedError,
            )
        line = self.line(form.position)
        self.program.append(
            Atom(tuple(sides["X"]), tuple(sides["Y"]), constant, strict, line)
        )

    def finish(self) -> None:
        """Checks that the declarations are complete and that there are assertions."""
        counts = {}
        for letter, what in (("X", "input"), ("Y", "output")):
            indices = {i for kind, i in self.declared.values() if kind == letter}
            if not indices:
                raise InputError(
                    f"{self.path} declares no {what} {letter}_0: check that this is a "
                    "whole VNN-LIB file"
                )
            if len(indices) != max(indices) + 1:
                missing = next(i for i in itertools.count() if i not in indices)
                raise InputError(
                    f"{self.path} declares {letter}_{max(indices)} but not "
                    f"{letter}_{missing}: declare every {what}"
                )
            counts[letter] = len(indices)
        if not self.num_assertions:
            raise InputError(
                f"{self.path} asserts nothing: check that the file is complete"
            )
        self.num_inputs, self.num_outputs = counts["X"], counts["Y"]
        self.program.append(Junction("and", self.num_assertions))


def _negative(term: _Linear) -> _Linear:
    return {key: -value for key, value in term.items()}


def _shown(word: str) -> str:
    return ascii(word if len(word) <= 40 else word[:37] + "...")


_Conjunction = tuple[Atom, ...]


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


def _normal_form(reader: _Reader, path: str) -> Property:
    """Returns the property whose assertions have been read."""
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

    whole: _Disjunctive = _fold(
        program,
        lambda atom: _Disjunctive([atom]),
        {"and": conjunction, "or": disjunction},
    )
    if not any(isinstance(step, Atom) and step.outputs for step in program):
        raise InputError(
            f"{path} asserts nothing about the outputs; it may be truncated: copy it "
            "again"
        )
    return _Builder(reader, path, program).build(whole)


class _Builder:
    """Turns conjunctions into boxes and rows, and groups them by box."""

    def __init__(self, reader: _Reader, path: str, program: Assertions) -> None:
        self.path = path
        self.program = program
        self.num_inputs, self.num_outputs = reader.num_inputs, reader.num_outputs

    def build(self, whole: _Disjunctive) -> Property:
        """Returns the property of a condition in disjunctive normal form."""
        shared = sum(bool(atom.outputs) for atom in whole.common)
        rows = sum(sum(bool(a.outputs) for a in c) + shared for c in whole.any_of)
        boxes = len(whole.any_of) * self.num_inputs
        if boxes + rows * self.num_outputs > MAX_NUMBERS:
            raise InputError(
                f"{self.path} has {len(whole.any_of)} cases of {self.num_inputs} "
                f"inputs, more than {MAX_NUMBERS} numbers in all. Split it into "
                "several properties"
            )
        everywhere = np.full(self.num_inputs, np.inf)
        common = self.narrow((-everywhere, everywhere), whole.common)
        common_rows = [self.row(atom) for atom in whole.common if atom.outputs]
        groups: dict[tuple[bytes, bytes], tuple[Any, list[Disjunct]]] = {}
        dropped = 0
        for atoms in whole.any_of:
            box = None if common is None else self.narrow(common, atoms)
            if box is None:
                dropped += 1
                continue
            self.require_bounded(box)
            rows_here = common_rows + [self.row(a) for a in atoms if a.outputs]
            if not rows_here:
                rows_here = [(np.zeros(self.num_outputs), -1.0)]
            disjunct = (
                np.stack([c for c, _ in rows_here]),
                np.array([d for _, d in rows_here]),
            )
            key = (box[0].tobytes(), box[1].tobytes())
            groups.setdefault(key, (box, []))[1].append(disjunct)
        cases = [Case(lo, hi, tuple(ds)) for (lo, hi), ds in groups.values()]
        notes = []
        if dropped:
            notes.append(
                f"{dropped} of {len(whole.any_of)} conjunctions of {self.path} allow "
                "no input (a lower bound above an upper bound) and are dropped"
            )
        if not cases:
            notes.append(f"{self.path} holds for every network: it allows no input")
        return Property(
            self.num_inputs, self.num_outputs, tuple(cases), self.program, tuple(notes)
        )

    def narrow(
        self, box: tuple[np.ndarray, np.ndarray], atoms: Iterable[Atom]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the box cut by the input constraints; None where it is empty."""
        lo, hi = box[0].copy(), box[1].copy()
        for atom in atoms:
            if atom.inputs:
                ((index, coefficient),) = atom.inputs
                bound = -atom.constant / coefficient
                if coefficient > 0:
                    hi[index] = min(hi[index], self.rounded(bound, np.inf, atom))
                else:
                    lo[index] = max(lo[index], self.rounded(bound, -np.inf, atom))
            elif not atom.outputs and not (
                atom.constant < 0 or (atom.constant == 0 and not atom.strict)
            ):
                return None
        # Adding 0 turns -0.0 into 0.0: equal boxes are found by their bytes.
        return None if np.any(lo > hi) else (lo + 0.0, hi + 0.0)

    def require_bounded(self, box: tuple[np.ndarray, np.ndarray]) -> None:
        for faces, what in zip(box, ("lower", "upper"), strict=True):
            if not np.all(np.isfinite(faces)):
                index = int(np.argmin(np.isfinite(faces)))
                raise InputError(
                    f"{self.path} gives X_{index} no {what} bound (in some case): "
                    "bound every input from both sides. The file may be truncated"
                )

    def row(self, atom: Atom) -> tuple[np.ndarray, float]:
        """Returns C and d of the row `C y + d <= 0` that a comparison of outputs is.

        d is rounded downwards, so that the row allows at least what the file does.
        """
        coefficients = np.zeros(self.num_outputs)
        for index, coefficient in atom.outputs:
            number = self.rounded(coefficient, np.inf, atom)
            if Fraction(number) != coefficient:
                raise UnsupportedError(
                    f"{self.path}, line {atom.line}: the coefficient of Y_{index} is "
                    "no float64 number: write it as one number"
                )
            coefficients[index] = number
        return coefficients, self.rounded(atom.constant, -np.inf, atom)

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
