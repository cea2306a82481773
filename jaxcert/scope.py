"""What proofs about a network cover, and what they take for granted, in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # reports are written without JAX
    from jaxcert.trace.program import Program


@dataclasses.dataclass(frozen=True)
class Scope:
    """What a run of proofs covers; `scope_of` words it, `record` is what files hold.

    Attributes:
      types: names of the float types that the network computes in, the widest first.
      assumptions: what bounds take for granted of it, `Program.assumptions`.
      sentences: the whole of it in words.
    """

    types: tuple[str, ...]
    assumptions: tuple[str, ...]
    sentences: tuple[str, ...]

    @property
    def words(self) -> str:
        """One paragraph."""
        return " ".join(self.sentences)

    def record(self) -> dict[str, list[str]]:
        """Returns it as JSON has it."""
        return {name: list(value) for name, value in vars(self).items()}

    @staticmethod
    def read(record: object) -> Scope:
        """Returns the scope of a record; raises ValueError where it is none."""
        names = [field.name for field in dataclasses.fields(Scope)]
        if not isinstance(record, Mapping) or sorted(record) != sorted(names):
            raise ValueError(f"a scope has the keys {', '.join(names)}")
        for name in names:
            value = record[name]
            if not isinstance(value, list) or any(type(v) is not str for v in value):
                raise ValueError(f"{name} must be a list of texts")
        return Scope(**{name: tuple(record[name]) for name in names})

    def joined(self, other: Scope) -> Scope:
        """Returns what holds of all that either speaks of: nothing is left unsaid."""
        pairs = zip(vars(self).items(), vars(other).values(), strict=True)
        return Scope(**{k: tuple(dict.fromkeys((*a, *b))) for (k, a), b in pairs})


def scope_of(
    program: Program, types: Sequence[str] = ("float32",), arithmetic: str = "real"
) -> Scope:
    """Returns what proofs about a network cover.

    Args:
      program: of the network.
      types: names of the float types that it computes in, `Network.types`.
      arithmetic: of the proofs, real or float32.
    """
    about = {
        "real": "the network as a function of real numbers, its weights as stored",
        "float32": "every float32 evaluation of the network, in any order of summation",
    }
    sentences = [f"Proofs are about {about[arithmetic]}."]
    if tuple(types) != ("float32",):
        sentences.append(f"It computes in {' and '.join(types)}.")
    if program.typed.x64:
        sentences.append("What it states in float64 is decided as that.")
    if program.noisy:
        sentences.append(
            "Casts to narrower types, and arithmetic in them, count as the roundings "
            "they are."
        )
    if program.inexact:
        sentences.append(
            "Weights that it computes are computed in the types that it states, with "
            "all that another order of evaluation may change."
        )
    sentences += [f"Taken for granted: {text}." for text in program.assumptions]
    return Scope(tuple(types), program.assumptions, tuple(sentences))
