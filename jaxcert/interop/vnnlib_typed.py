"""The reader of VNN-LIB 2.0: networks of typed tensors, and assertions over them.

    (vnnlib-version <2.0>)
    (declare-network f (declare-input X float32 [1,2]) (declare-output Y float32 [1]))
    (assert (<= X[0,1] 0.5))

All inputs of all networks are one vector, in the order of their declarations and each
in row-major order, and so are all outputs (arXiv:2605.07451, chapter "Query Language").
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from typing import Any, Literal

from jaxcert.errors import InputError, UnsupportedError
from jaxcert.interop.vnnlib_reader import FORMULA, Form, Linear, Reader, shown
from jaxcert.interop.vnnlib_tree import Junction

VERSION = re.compile(r"\s*(;[^\r\n]*[\r\n]\s*)*\(\s*vnnlib-version\b")
"""What a file of a version from 2.0 on begins with."""
FLOATS = ("float16", "bfloat16", "float32", "float64")
REAL = "real"
_TOKEN = re.compile(
    r';[^\r\n]*|[()]|"(?:[^"\\]|\\.)*"|[A-Za-z][A-Za-z0-9_]*\s*\[[^\]\n]*\]|\[[^\]\n]*\]'
    r'|[^\s();"\[\]]+|["\[\]]'
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
_INDEXED = re.compile(r"([A-Za-z][A-Za-z0-9_]*)\s*(\[[^\]]*\])", re.ASCII)
_NUMBERS = re.compile(r"\[\s*(?:\d{1,9}(?:\s*,\s*\d{1,9})*)?\s*\]", re.ASCII)
_MOST_ELEMENTS = 2**22
_MAX_RANK = 32


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A declared input or output.

    Attributes:
      name: unique in the file.
      kind: "X" of an input, "Y" of an output.
      dtype: one of FLOATS, or REAL.
      shape: with the batch axis, if the network has one.
      first: index of its first element among all inputs, or all outputs.
    """

    name: str
    kind: Literal["X", "Y"]
    dtype: str
    shape: tuple[int, ...]
    first: int

    @property
    def size(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)

    def element(self, index: int) -> str:
        """Returns what the file calls an element, by its place in row-major order."""
        if not self.shape:
            return self.name
        places = []
        for length in reversed(self.shape):
            index, place = divmod(index, length)
            places.append(str(place))
        return f"{self.name}[{','.join(reversed(places))}]"


@dataclasses.dataclass(frozen=True)
class Declared:
    """A declared network.

    Attributes:
      name: what the file calls it.
      same_as: the network that it is equal to, whose file is its own; '' if none.
      inputs, outputs: its tensors.
    """

    name: str
    same_as: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class TypedReader(Reader):
    """One pass over one file of VNN-LIB 2.0."""

    token = _TOKEN
    commands = ("vnnlib-version", "declare-network", "assert")
    comparisons = ("<=", ">=", "<", ">", "==", "!=", "=")

    def __init__(self, text: str, path: str) -> None:
        super().__init__(text, path)
        self.networks: list[Declared] = []
        self.tensors: dict[str, Tensor] = {}
        self._names: set[str] = set()

    def word(self, form: Form, token: str, position: int, top: bool) -> None:
        """Takes a word; in declarations a type may touch the shape behind it."""
        indexed = _INDEXED.fullmatch(token)
        if form.raw and indexed:
            form.items += indexed.groups()
            return
        super().word(form, token, position, top)

    def knows(self, token: str, position: int) -> bool:
        """Returns whether a word is an element of a tensor, which is remembered."""
        if token in self.declared:
            return True
        indexed = _INDEXED.fullmatch(token)
        name, places = indexed.groups() if indexed else (token, "[]")
        tensor = self.tensors.get(name)
        if tensor is None:
            return False
        index = self._numbers(places, position)
        if len(index) != len(tensor.shape):
            raise self.error(
                position,
                f"{shown(token)} has {len(index)} indices and {name} has "
                f"{len(tensor.shape)} axes",
            )
        flat = 0
        for place, length in zip(index, tensor.shape, strict=True):
            if place >= length:
                raise self.error(
                    position,
                    f"{shown(token)} lies outside {name} of shape {list(tensor.shape)}",
                )
            flat = flat * length + place
        self.declared[token] = (tensor.kind, tensor.first + flat)
        return True

    def name(self, letter: str, index: int) -> str:
        """Returns what the file calls an element, by its place among all of a kind."""
        for tensor in self.tensors.values():
            if tensor.kind == letter and 0 <= index - tensor.first < tensor.size:
                return tensor.element(index - tensor.first)
        raise IndexError(index)

    def raw(self, form: Form, top: bool) -> Any:
        """Returns a complete form of a declaration; takes it, where it is the whole."""
        if top and form.head == "vnnlib-version":
            self._version(form)
        elif top and form.head == "declare-network":
            self._network(form)
        return form

    def compare(self, operator: str, form: Form) -> object:
        """Appends a comparison of two terms."""
        if len(form.items) != 2:
            raise self.error(form.position, f"'{operator}' compares two terms")
        if operator != "!=":
            return super().compare("=" if operator == "==" else operator, form)
        left, right = form.items
        self.append(left, right, True, form)
        self.append(right, left, True, form)
        self.program.append(Junction("or", 2))
        return FORMULA

    def arithmetic(self, operator: str, form: Form) -> Linear:
        """Returns a sum, difference or product; with one term, only a difference."""
        if operator != "-" and len(form.items) < 2:
            raise self.error(form.position, f"'{operator}' takes two terms or more")
        return super().arithmetic(operator, form)

    def finish(self) -> None:
        """Checks that there are networks and assertions."""
        if not self.networks:
            raise InputError(f"{self.path} declares no network")
        if not self.num_assertions:
            raise InputError(
                f"{self.path} asserts nothing: check that the file is complete"
            )
        self.program.append(Junction("and", self.num_assertions))

    def _version(self, form: Form) -> None:
        stated = form.items[0] if len(form.items) == 1 else ""
        match = re.fullmatch(r"<?(\d{1,4})\.(\d{1,4})>?", str(stated))
        if match is None:
            raise self.error(form.position, "not of the form (vnnlib-version <2.0>)")
        if match.group(1) != "2":
            raise self.error(
                form.position,
                f"version {match.group(1)}.{match.group(2)} is not supported; known: "
                "2.0, and 1.0, which states no version",
                UnsupportedError,
            )

    def _network(self, form: Form) -> None:
        if self.num_assertions:
            raise self.error(form.position, "networks are declared before assertions")
        name, *parts = [*form.items] or [""]
        self._take_name(name, form)
        same_as, like = "", ""
        found: dict[str, list[Tensor]] = {"X": [], "Y": []}
        for part in parts:
            if not isinstance(part, Form):
                raise self.error(form.position, f"{shown(part)} in declare-network")
            match part.head:
                case "equal-to" | "isomorphic-to":
                    if like or found["X"] or len(part.items) != 1:
                        raise self.error(
                            part.position, f"one '{part.head}' stands in front, alone"
                        )
                    like = str(part.items[0])
                    same_as = like if part.head == "equal-to" else ""
                case "declare-input":
                    if found["Y"]:
                        raise self.error(
                            part.position, "inputs are declared before outputs"
                        )
                    found["X"].append(self._tensor(part, "X"))
                case "declare-output":
                    found["Y"].append(self._tensor(part, "Y"))
                case "declare-hidden":
                    raise self.error(
                        part.position,
                        "hidden nodes are not supported: export them as outputs",
                        UnsupportedError,
                    )
                case _:
                    raise self.error(
                        part.position, f"{shown(str(part.head))} in declare-network"
                    )
        for kind, what in (("X", "input"), ("Y", "output")):
            if not found[kind]:
                raise self.error(form.position, f"network {name} declares no {what}")
        declared = Declared(name, same_as, tuple(found["X"]), tuple(found["Y"]))
        if like:
            self._check_like(declared, like, form)
        self.networks.append(declared)

    def _check_like(self, own: Declared, like: str, form: Form) -> None:
        others = [n for n in self.networks if n.name == like]
        if not others:
            raise self.error(
                form.position,
                f"network {own.name} is like {shown(like)}: unknown",
            )
        (other,) = others
        if other.same_as:
            raise self.error(
                form.position,
                f"network {own.name} is like {like}, which is like another: name that",
            )
        typed = bool(own.same_as)
        mine, theirs = (
            [(t.kind, t.shape, typed and t.dtype) for t in (*n.inputs, *n.outputs)]
            for n in (own, other)
        )
        if mine != theirs:
            raise self.error(
                form.position,
                f"network {own.name} is like {like} and declares other tensors",
            )

    def _tensor(self, form: Form, kind: Literal["X", "Y"]) -> Tensor:
        items = form.items
        if len(items) == 4 and items[3] == "initialized":
            raise self.error(
                form.position,
                "'initialized' is not supported: assert the value of the input",
                UnsupportedError,
            )
        if len(items) != 3 or not all(isinstance(item, str) for item in items):
            raise self.error(
                form.position, f"not of the form ({form.head} X float32 [1,2])"
            )
        name, dtype, text = items
        self._take_name(name, form)
        dtype = REAL if dtype in ("Real", REAL) else dtype
        if dtype not in (REAL, *FLOATS):
            raise self.error(
                form.position,
                f"{name} is of type {shown(dtype)}; known: {REAL}, {', '.join(FLOATS)}",
                UnsupportedError,
            )
        shape = self._numbers(text, form.position)
        counted = self.num_inputs if kind == "X" else self.num_outputs
        tensor = Tensor(name, kind, dtype, shape, counted)
        if not tensor.size:
            raise self.error(form.position, f"{name} has no elements")
        if counted + tensor.size > _MOST_ELEMENTS or len(shape) > _MAX_RANK:
            raise self.error(form.position, f"{name} is too large")
        if kind == "X":
            self.num_inputs += tensor.size
        else:
            self.num_outputs += tensor.size
        self.tensors[name] = tensor
        return tensor

    def _take_name(self, name: Any, form: Form) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            word = shown(name) if isinstance(name, str) else "'('"
            raise self.error(form.position, f"{word} where a name must stand")
        if name in self._names:
            raise self.error(form.position, f"{name} is declared twice")
        self._names.add(name)

    def _numbers(self, text: str, position: int) -> tuple[int, ...]:
        if not _NUMBERS.fullmatch(text):
            raise self.error(position, f"{shown(text)} where [1,2,...] must stand")
        return tuple(int(n) for n in re.findall(r"\d+", text))


def by_network(networks: tuple[Declared, ...]) -> list[tuple[int, int]]:
    """Returns where the inputs of every network begin and end among all inputs."""
    sizes = [sum(t.size for t in n.inputs) for n in networks]
    return list(itertools.pairwise(itertools.accumulate(sizes, initial=0)))
