"""Reading VNN-LIB 1.0: a property file as boxes of inputs and specs of outputs.

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

import numpy as np
from jaxtyping import ArrayLike

from jaxcert.errors import InputError
from jaxcert.interop.vnnlib_cases import Case as Case
from jaxcert.interop.vnnlib_cases import normal_form
from jaxcert.interop.vnnlib_reader import Reader, read_text
from jaxcert.interop.vnnlib_tree import Assertions, Atom, fold


@dataclasses.dataclass(frozen=True, eq=False)
class Property:
    """A VNN-LIB file: violated iff one of its cases is.

    Strict comparisons are read as `<=` in the boxes and rows of the cases: a proof over
    all cases holds for the file. A counterexample of a case is one of the file only if
    `violates` confirms it; `Case.inner` and `Case.strict` say where to look for it.

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
    reader = Reader(read_text(name), name)
    reader.read()
    cases, notes = normal_form(reader, name)
    return Property(
        reader.num_inputs, reader.num_outputs, cases, tuple(reader.program), notes
    )


def format_counterexample(x: ArrayLike, y: ArrayLike) -> str:
    """Returns inputs and outputs as VNN-COMP asks: `((X_0 0.5)`, ..., `(Y_0 1.5))`.

    One variable per line; every float64 number reads back as itself.
    """
    lines = []
    for letter, array in (("X", x), ("Y", y)):
        flat = np.asarray(array, np.float64).reshape(-1).tolist()
        lines += [f"({letter}_{i} {value!r})" for i, value in enumerate(flat)]
    return "(" + "\n ".join(lines) + ")"
