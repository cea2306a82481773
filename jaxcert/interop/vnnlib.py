"""Reading VNN-LIB 1.0 and 2.0: a property as boxes of inputs and specs of outputs.

A file says what must never happen: the property is violated ("sat") iff some input x
and its output y = f(x) satisfy all its assertions. It is data from somebody else: read
with bounds on its size, and whatever is not understood is an error that names the line.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float

from jaxcert.errors import InputError
from jaxcert.interop.vnnlib_cases import Case as Case
from jaxcert.interop.vnnlib_cases import normal_form
from jaxcert.interop.vnnlib_reader import Reader, read_text
from jaxcert.interop.vnnlib_tree import Assertions, Atom, fold
from jaxcert.interop.vnnlib_typed import REAL, VERSION, Declared, TypedReader


@dataclasses.dataclass(frozen=True, eq=False)
class Property:
    """A VNN-LIB file: violated iff one of its cases is.

    Strict comparisons are read as `<=` in the boxes and rows of the cases: a proof over
    all cases holds for the file. A counterexample of a case is one of the file only if
    `violates` confirms it; `Case.inner` and `Case.strict` say where to look for it.

    Attributes:
      num_inputs, num_outputs: how many X_i and Y_j are declared, by all networks.
      cases: the normal form. Empty iff no box of the file has a point: such a property
        holds for every network, and `notes` says so.
      assertions: the assertion tree of the file in postfix order, joined by one `and`.
      notes: sentences the user should read.
      spread: which variable of the boxes every declared input is.
      passed: variables whose columns follow those of the outputs in the rows: see
        `vnnlib_joint.joined`, whose network the cases are about.
      networks: what a file of version 2.0 declares; () of version 1.0.
    """

    num_inputs: int
    num_outputs: int
    cases: tuple[Case, ...]
    assertions: Assertions = dataclasses.field(repr=False)
    notes: tuple[str, ...]
    spread: tuple[int, ...] = dataclasses.field(repr=False)
    passed: tuple[int, ...] = ()
    networks: tuple[Declared, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether it is about boxes of the inputs and the outputs of one network alone.

        Its cases are then about that network as it is.
        """
        apart = self.spread == tuple(range(self.num_inputs))
        return len(self.networks) <= 1 and apart and not self.passed

    @property
    def compares_outputs(self) -> bool:
        """Whether every comparison that names outputs is one of Y_i with Y_j alone.

        Such a property means the same for any strictly increasing function of the
        outputs that is common to all of them, as Softmax is for one input.
        """

        def kept(atom: Atom) -> bool:
            coefficients = [c for _, c in atom.outputs]
            return (
                not atom.inputs
                and not atom.constant
                and len(coefficients) == 2
                and sum(coefficients) == 0
            )

        atoms = [a for a in self.assertions if isinstance(a, Atom)]
        return all(kept(a) for a in atoms if a.outputs)

    def inputs_at(self, z: ArrayLike) -> Float[np.ndarray, " num_inputs"]:
        """Returns the declared inputs at a point of the boxes, float64."""
        return np.asarray(z, np.float64).reshape(-1)[list(self.spread)]

    def violated_at(self, z: ArrayLike, outputs: Sequence[Any] | np.ndarray) -> bool:
        """Returns whether a point of the boxes, and what is computed there, violate.

        Args:
          z: the point, a value per variable.
          outputs: of the joint network, of which what it passes on is not looked at.
        """
        return self.violates(self.inputs_at(z), list(outputs)[: self.num_outputs])

    def counterexample(self, z: ArrayLike, outputs: ArrayLike) -> str:
        """Returns a point of the boxes, and its outputs, as the file's version asks.

        Version 1.0: see `format_counterexample`. Version 2.0: per tensor a line of its
        name, type and shape, and a line per element in row-major order.
        """
        x = self.inputs_at(z)
        y = np.asarray(outputs, np.float64).reshape(-1)[: self.num_outputs]
        if not self.networks:
            return format_counterexample(x, y)
        lines = []
        for network in self.networks:
            for tensor in (*network.inputs, *network.outputs):
                own = (x if tensor.kind == "X" else y)[tensor.first :][: tensor.size]
                shape = ",".join(map(str, tensor.shape))
                lines += [f"{tensor.name} {tensor.dtype} [{shape}]"]
                lines += [repr(value) for value in own.tolist()]
        return "\n".join(lines)

    def violates(
        self,
        x: ArrayLike,
        y: ArrayLike | Sequence[float] | Sequence[Fraction],
        tolerance: float = 0.0,
    ) -> bool:
        """Returns whether the values satisfy the assertions of the file.

        This evaluates the assertion tree and not the normal form, in exact arithmetic
        on the numbers given. Values that are not finite satisfy nothing.

        Args:
          x: inputs, any shape of num_inputs values, in the network's order.
          y: outputs, likewise; fractions are taken as they are.
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
            flat = np.asarray(array)
            exact = flat.dtype == object
            flat = (flat if exact else flat.astype(np.float64)).reshape(-1)
            if flat.size != size:
                raise InputError(
                    f"{what} has {flat.size} values; the property declares {size}"
                )
            if not exact and not np.all(np.isfinite(flat)):
                return False
            values.append([Fraction(v) for v in flat.tolist()])
        slack = Fraction(tolerance)

        def holds(atom: Atom) -> bool:
            total = atom.constant - slack
            for terms, at in zip((atom.inputs, atom.outputs), values, strict=True):
                total += sum(coefficient * at[i] for i, coefficient in terms)
            return total < 0 if atom.strict else total <= 0

        return fold(self.assertions, holds, {"and": all, "or": any})


def load_vnnlib(path: str | os.PathLike[str]) -> Property:
    """Returns the property that a VNN-LIB file (gzipped if it ends in .gz) states.

    Of version 1.0 `declare-const` of X_i and Y_j as Real are read; of version 2.0
    networks with real or float tensors, `equal-to` and `isomorphic-to`. Of both,
    `assert` of `and`, `or`, `<=`, `>=`, `<`, `>` and `=` (2.0: `==`, `!=`) over linear
    terms of `+`, `-`, `*` and numbers. Every number is the float64 nearest to it.

    Raises:
      InputError: the file cannot be read, is damaged or too large, declares or bounds
        its variables incompletely, or asserts nothing about the outputs.
      UnsupportedError: it holds something else than the above.
    """
    name = os.fspath(path)
    text = read_text(name)
    typed = VERSION.match(text) is not None
    reader = (TypedReader if typed else Reader)(text, name)
    reader.read()
    form = normal_form(reader, name)
    networks = tuple(reader.networks) if isinstance(reader, TypedReader) else ()
    tensors = [t for n in networks for t in (*n.inputs, *n.outputs)]
    floats = dict.fromkeys(t.dtype for t in tensors if t.dtype != REAL)
    notes = form.notes
    if floats:
        notes = (
            *notes,
            f"{name} declares {' and '.join(floats)}; what is proved is the network in "
            "real arithmetic, as for 'real'",
        )
    return Property(
        reader.num_inputs, reader.num_outputs, form.cases, tuple(reader.program),
        notes, form.spread, form.passed, networks,
    )  # fmt: skip


def format_counterexample(x: ArrayLike, y: ArrayLike) -> str:
    """Returns inputs and outputs as VNN-COMP asks: `((X_0 0.5)`, ..., `(Y_0 1.5))`.

    One variable per line; every float64 number reads back as itself.
    """
    lines = []
    for letter, array in (("X", x), ("Y", y)):
        flat = np.asarray(array, np.float64).reshape(-1).tolist()
        lines += [f"({letter}_{i} {value!r})" for i, value in enumerate(flat)]
    return "(" + "\n ".join(lines) + ")"
