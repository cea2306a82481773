"""A small reader of VNN-LIB 1.0, which states what must never happen.

A file declares inputs X_i and outputs Y_j and asserts conditions of them: `and`, `or`,
`<=`, `>=`, `<`, `>`, `=` over sums of `+`, `-`, `*` and numbers, each of which is the
float64 nearest to what is written; from there on all is exact. An answer "sat" is an
input that satisfies them all, with its outputs; "unsat" says that there is none.

Multiplied out they are a disjunction of conjunctions. A conjunction allows a box of
inputs and has rows C y + d <= 0 of outputs, strict or not. A proof is of the closed
boxes, rounded outward, and of rows with `<=`, whose d is rounded down: so much contains
all that the file asks.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import hashlib
import re
from fractions import Fraction
from types import SimpleNamespace

import numpy as np

from .reading import need

_TOKEN = re.compile(r';[^\r\n]*|[()]|"[^"]*"|\|[^|]*\||[^\s();"|]+|["|]')
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_VARIABLE = re.compile(r"[XY]_(0|[1-9][0-9]{0,8})", re.ASCII)
_IGNORED = ("set-logic", "set-info", "set-option", "check-sat", "get-model", "exit")
_MOST = 2**14  # conjunctions
_ATOMS = 2**22  # comparisons in all of them
_ONE = ""  # the name of the constant of a sum


class Property:
    """What a file states; `sha256` is that of its text.

    `conjunctions` are lists of atoms (`_atom`).
    """

    def __init__(self, text: bytes) -> None:
        self.sha256 = hashlib.sha256(text).hexdigest()
        self.names: set[str] = set()
        asserted, asked = [], False
        for form in _forms(text.decode("utf-8-sig")):
            word = form[0] if form else None
            if word in ("declare-const", "declare-fun"):
                good = len(form) == (3 if word == "declare-const" else 4)
                good = good and form[2:-1] in ([], [[]]) and form[-1] == "Real"
                good = good and bool(_VARIABLE.fullmatch(str(form[1])))
                need(good and form[1] not in self.names, f"VNN-LIB: {_shown(form)}")
                self.names.add(form[1])
            elif word == "assert":
                need(len(form) == 2 and not asked, f"VNN-LIB: {_shown(form)}")
                asserted.append(self.condition(form[1]))
            else:
                need(word in _IGNORED, f"VNN-LIB: {_shown(form)}")
                asked |= word in ("check-sat", "exit")
        self.conjunctions = _all_of(asserted)
        self.inputs, self.outputs = (
            sum(name[0] == letter for name in self.names) for letter in "XY"
        )
        known = {f"X_{i}" for i in range(self.inputs)}
        known |= {f"Y_{j}" for j in range(self.outputs)}
        need(self.names == known, "VNN-LIB: a variable is not declared")
        found = any(a.y for atoms in self.conjunctions for a in atoms)
        need(found, "VNN-LIB: nothing is asserted of the outputs")

    def condition(self, form):
        """Returns a condition as a list of conjunctions, lists of atoms."""
        good = isinstance(form, list) and len(form) > 1
        need(good, f"VNN-LIB: {_shown(form)} is no condition")
        word, *parts = form
        if word == "and":
            return _all_of([self.condition(part) for part in parts])
        if word == "or":
            found = [one for part in parts for one in self.condition(part)]
            need(len(found) <= _MOST, f"VNN-LIB: more than {_MOST} conjunctions")
            return found
        known = word in ("<=", ">=", "<", ">", "=") and len(parts) == 2
        need(known, f"VNN-LIB: {_shown(form)} is not understood")
        left, right = map(self.sum, parts)
        if word == "=":
            return [[_atom(left, right, False), _atom(right, left, False)]]
        if word in (">=", ">"):
            left, right = right, left
        return [[_atom(left, right, word in ("<", ">"))]]

    def sum(self, form) -> dict[str, Fraction]:
        """Returns coefficients by name."""
        if isinstance(form, str):
            if form in self.names:
                return {form: Fraction(1)}
            need(bool(_NUMBER.fullmatch(form)), f"VNN-LIB: {form[:40]!r} is unknown")
            return {_ONE: Fraction(float(form))}
        word, *parts = form or [None]
        need(word in ("+", "-", "*") and bool(parts), f"VNN-LIB: {_shown(form)}")
        first, *others = map(self.sum, parts)
        if word == "-" and not others:
            return _minus({}, first)
        for other in others:
            if word == "*":
                if set(other) - {_ONE}:
                    first, other = other, first
                need(not set(other) - {_ONE}, f"VNN-LIB: {_shown(form)} is not linear")
                first = {k: v * other.get(_ONE, 0) for k, v in first.items()}
            else:
                first = _minus(first, other if word == "-" else _minus({}, other))
        return first

    def cases(self):
        """Returns what has to be excluded, as a list of cases: boxes and their clauses.

        A case has `lo` and `hi`, and in `clauses` a pair of C (rows, outputs) and d
        (rows,) for every conjunction of that box that allows an input at all.
        """
        found: dict[tuple[bytes, bytes], SimpleNamespace] = {}
        for atoms in self.conjunctions:
            lo, hi = np.full(self.inputs, -np.inf), np.full(self.inputs, np.inf)
            rows, empty = [], False
            for atom in atoms:
                if atom.x:
                    ((i, c),) = atom.x.items()
                    if c > 0:
                        hi[i] = min(hi[i], atom.end)
                    else:
                        lo[i] = max(lo[i], atom.end)
                elif atom.y:
                    row = np.zeros(self.outputs)
                    row[list(atom.y)] = list(map(float, atom.y.values()))
                    rows.append((row, atom.end))
                else:
                    empty |= atom.d > 0 or (atom.strict and atom.d == 0)
            empty |= bool((lo > hi).any()) or self.excluded(atoms, lo, hi)
            if empty:
                continue
            need(np.isfinite(lo) & np.isfinite(hi), "VNN-LIB: an input has no bound")
            rows = rows or [(np.zeros(self.outputs), -1.0)]  # of any output
            lo, hi = lo + 0.0, hi + 0.0  # -0.0 becomes 0.0
            case = SimpleNamespace(lo=lo, hi=hi, clauses=[])
            case = found.setdefault((lo.tobytes(), hi.tobytes()), case)
            c, d = zip(*rows, strict=True)
            case.clauses.append((np.stack(c), np.array(d)))
        return list(found.values())

    def excluded(self, atoms, lo, hi) -> bool:
        """Returns whether a feature with one value alone has none that is allowed."""
        for atom in atoms:
            for i, c in atom.x.items():
                left = c * Fraction(lo[i]) + atom.d if lo[i] == hi[i] else -1
                if left > 0 or (atom.strict and left == 0):
                    return True
        return False

    def holds(self, x, lo, hi) -> bool:
        """Returns whether it is certain that x and its outputs satisfy the file.

        x is exact; the outputs lie in [lo, hi].
        """
        at = {f"X_{i}": (v, v) for i, v in enumerate(map(Fraction, x.tolist()))}
        ends = zip(map(Fraction, lo.tolist()), map(Fraction, hi.tolist()), strict=True)
        at |= {f"Y_{j}": pair for j, pair in enumerate(ends)}
        at[_ONE] = (Fraction(1), Fraction(1))

        def certain(atom) -> bool:
            most = sum(c * at[name][c > 0] for name, c in atom.terms.items())
            return most < 0 if atom.strict else most <= 0

        return any(all(map(certain, atoms)) for atoms in self.conjunctions)


def _forms(text: str):
    """Returns the forms of a text, as nested lists of words."""
    stack: list[list] = [[]]
    for token in _TOKEN.findall(text):
        if token == "(":
            stack.append([])
        elif token == ")":
            form = stack.pop()
            need(bool(stack), "VNN-LIB: ')' closes nothing")
            stack[-1].append(form)
        elif not token.startswith(";"):
            need(len(stack) > 1, f"VNN-LIB: {token[:40]!r} outside parentheses")
            need(token not in ('"', "|"), "VNN-LIB: a quotation is never closed")
            stack[-1].append(token)
    need(len(stack) == 1, "VNN-LIB: '(' is never closed; the file may be truncated")
    return stack[0]


def _all_of(conditions):
    """Returns the conjunction of conditions, multiplied out."""
    common = [a for c in conditions if len(c) == 1 for a in c[0]]
    product, size = [common], 0
    for choices in (c for c in conditions if len(c) != 1):
        atoms = sum(map(len, choices)) * len(product)
        size = atoms + sum(map(len, product)) * len(choices)
        few = len(product) * len(choices) <= _MOST and size <= _ATOMS
        need(few, "VNN-LIB: too many conjunctions")
        product = [one + other for one in product for other in choices]
    return product


def _minus(left, right):
    """Returns a difference of sums, without the variables that cancel."""
    names = {**left, **right}
    found = {k: left.get(k, Fraction(0)) - right.get(k, Fraction(0)) for k in names}
    return {k: v for k, v in found.items() if v or k == _ONE}


def _atom(left, right, strict: bool) -> SimpleNamespace:
    """Returns left - right <= 0, or < 0: its `terms` by name, x, y and d of them, and

    `end`: of one input, its bound rounded outward; of outputs, d rounded down.
    """
    terms = _minus(left, right)
    x, y = (
        {int(name[2:]): c for name, c in terms.items() if name[:1] == letter}
        for letter in "XY"
    )
    d = terms.get(_ONE, Fraction(0))
    need(len(x) < 2 and not (x and y), "VNN-LIB: a constraint is no box")
    need(all(float(c) == c for c in y.values()), "VNN-LIB: a coefficient is rounded")
    end = _rounded(d, -1)
    for c in x.values():
        end = _rounded(-d / c, 1 if c > 0 else -1)
    return SimpleNamespace(terms=terms, strict=strict, x=x, y=y, d=d, end=end)


def _rounded(value: Fraction, towards: int) -> float:
    """Returns the nearest float64 that is >= value, for -1 one that is <= value."""
    number = float(value)
    wrong = number < value if towards > 0 else number > value
    return float(np.nextafter(number, towards * np.inf)) if wrong else number


def _shown(form) -> str:
    return repr(form)[:60]
