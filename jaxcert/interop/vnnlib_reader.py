"""The reader of VNN-LIB files: text to declarations and an assertion tree."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from fractions import Fraction
from typing import Any, Literal

from jaxcert.errors import InputError, UnsupportedError
from jaxcert.interop.vnnlib_tree import Atom, Junction
from jaxcert.runs.files import read_bounded

MAX_BYTES = 2**27
"""Largest file that is read, before and after decompression."""
_FREE_BYTES = 2**22
"""What any gzipped file may unpack to; longer texts must not be packed so well."""

_NOT_TEXT = (
    "not text. A VNN-LIB file is plain text, or gzipped with a name that ends in .gz"
)
_TOKEN = re.compile(r';[^\r\n]*|[()]|"[^"]*"|\|[^|]*\||[^\s();"|]+|["|]')
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_VARIABLE = re.compile(r"[XY]_(0|[1-9][0-9]{0,8})", re.ASCII)
_CONSTANT = ""  # key of the constant of a linear term
FORMULA = object()  # stands for a condition whose steps are in the program already
_COMPARISONS = ("<=", ">=", "<", ">", "=")
# They state nothing that could be true or false of a network.
_IGNORED = ("set-logic", "set-info", "set-option", "check-sat", "get-model", "exit")
_COMMANDS = ("declare-const", "declare-fun", "assert", *_IGNORED)
# Exact arithmetic on constants grows with their number: a file of products only could
# ask for numbers of a million digits.
_MAX_BITS = 2**14

Linear = dict[str, Fraction]


def read_text(path: str) -> str:
    """Returns the text of a file, unpacked if its name ends in .gz."""
    data = read_bounded(
        path, MAX_BYTES, gzipped=path.endswith(".gz"),
        kind="a .vnnlib or .vnnlib.gz file", remedy="check the file",
        free=_FREE_BYTES,
    )  # fmt: skip
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: {_NOT_TEXT}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path}, line {line}: {_NOT_TEXT}")
    return text


@dataclasses.dataclass
class Form:
    """An open parenthesis: its position, first word, and what followed so far."""

    position: int
    raw: bool  # the words are not to be understood (declarations, what is ignored)
    head: str | None = None
    items: list[Any] = dataclasses.field(default_factory=list)


class Reader:
    """One pass over one file: every form is reduced when its parenthesis closes."""

    token = _TOKEN
    commands: tuple[str, ...] = _COMMANDS
    comparisons: tuple[str, ...] = _COMPARISONS

    def __init__(self, text: str, path: str) -> None:
        self.text = text
        self.path = path
        self.declared: dict[str, tuple[str, int]] = {}
        self.program: list[Atom | Junction] = []
        self.num_assertions = 0
        self.asked = False  # what is asserted from there on is no part of the question
        self.num_inputs = self.num_outputs = 0
        # Lines are counted as the reading goes on: comparisons need theirs.
        self.counted = (0, 1)

    def read(self) -> None:
        """Reads the declarations and assertions."""
        stack: list[Form] = []
        for match in self.token.finditer(self.text):
            token, position = match.group(), match.start()
            if token == "(":
                if stack and stack[-1].head is None and not stack[-1].raw:
                    raise self.error(position, "'(' where a word must stand")
                stack.append(Form(position, bool(stack) and stack[-1].raw))
            elif token == ")":
                if not stack:
                    raise self.error(position, "')' closes nothing")
                form = stack.pop()
                value = self.reduce(form, top=not stack)
                if stack:
                    stack[-1].items.append(value)
            elif token in ('"', "|"):
                raise self.error(position, "the quotation is never closed")
            elif not token.startswith(";"):
                if not stack:
                    raise self.error(position, f"{shown(token)} outside parentheses")
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

    def word(self, form: Form, token: str, position: int, top: bool) -> None:
        """Takes a word that is no parenthesis."""
        if form.head is None:
            form.head = token
            if top and token not in self.commands:
                known = [c for c in self.commands if c not in _IGNORED]
                raise self.error(
                    position,
                    f"command {shown(token)} is not supported; known: "
                    f"{', '.join(known)}",
                    UnsupportedError,
                )
            self.asked |= top and token in ("check-sat", "exit")
            if top and token == "assert" and self.asked:
                raise self.error(
                    position, "an assertion after (check-sat) or (exit): remove it"
                )
            form.raw |= top and token != "assert"
        elif form.raw:
            form.items.append(token)
        elif NUMBER.fullmatch(token):
            number = float(token)
            if math.isinf(number):
                raise self.error(position, f"number {shown(token)} is too large")
            form.items.append({_CONSTANT: Fraction(number)})
        elif self.knows(token, position):
            form.items.append({token: Fraction(1)})
        else:
            raise self.error(
                position,
                f"{shown(token)} is neither a number nor a declared variable",
            )

    def knows(self, token: str, position: int) -> bool:
        """Returns whether a word is a variable, which `declared` then has."""
        return token in self.declared

    def name(self, letter: str, index: int) -> str:
        """Returns what the file calls an input X or an output Y."""
        return f"{letter}_{index}"

    def reduce(self, form: Form, top: bool) -> Any:
        """Returns the value of a form that is complete."""
        head, items = form.head, form.items
        if form.raw:
            return self.raw(form, top)
        if head is None:
            raise self.error(form.position, "'()' says nothing")
        formulas = sum(item is FORMULA for item in items)
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
            return FORMULA
        if head in (*self.comparisons, "+", "-", "*"):
            if formulas or not items:
                raise self.error(form.position, f"'{head}' takes numbers and variables")
            if head in self.comparisons:
                return self.compare(head, form)
            return self.arithmetic(head, form)
        raise self.error(
            form.position,
            f"operator {shown(head)} is not supported; known: and, or, "
            f"{', '.join(self.comparisons)}, +, -, *",
            UnsupportedError,
        )

    def raw(self, form: Form, top: bool) -> Any:
        """Returns the value of a complete form that is no condition."""
        if top and form.head in ("declare-const", "declare-fun"):
            self.declare(form)
        return form.items

    def declare(self, form: Form) -> None:
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
                f"variable {shown(name)} is neither an input X_i nor an output Y_j",
                UnsupportedError,
            )
        if sort != "Real":
            raise self.error(
                form.position,
                f"{name} is of sort {shown(sort)}; only Real is supported",
                UnsupportedError,
            )
        if name in self.declared:
            raise self.error(form.position, f"{name} is declared twice")
        self.declared[name] = (name[0], int(name[2:]))

    def arithmetic(self, operator: str, form: Form) -> Linear:
        """Returns the sum, difference or product of the terms of a form."""
        terms: list[Linear] = form.items
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

    def bounded(self, value: Fraction, form: Form) -> Fraction:
        size = max(value.numerator.bit_length(), value.denominator.bit_length())
        if size > _MAX_BITS:
            raise self.error(form.position, "too much arithmetic on constants")
        return value

    def compare(self, operator: str, form: Form) -> object:
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
        return FORMULA

    def append(self, small: Linear, large: Linear, strict: bool, form: Form) -> None:
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


def _negative(term: Linear) -> Linear:
    return {key: -value for key, value in term.items()}


def shown(word: str) -> str:
    """Returns a word of the file, short and harmless."""
    return ascii(word if len(word) <= 40 else word[:37] + "...")
