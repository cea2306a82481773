"""What a certification is asked and what it answers."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxcert.box import Box
from jaxcert.branch.signs import BranchOptions
from jaxcert.errors import InputError
from jaxcert.witness.attack import AttackOptions

ORACLES = ("ibp", "crown", "complete")

Progress = Callable[[int, int], None]
"""Told now and then how many things are done, and of how many."""


class Outcome(enum.IntEnum):
    """What became of an input."""

    CERTIFIED = 0
    """A box of positive apothem was proved."""
    MISCLASSIFIED = 1
    """The network predicts another class than the label: there is nothing to prove."""
    UNKNOWN = 2
    """No box of positive apothem was proved, for reasons of tightness or margin."""


@dataclasses.dataclass(frozen=True)
class CertifyOptions:
    """How an apothem is searched for.

    Attributes:
      oracle: what proves. "ibp" and "crown" are bounds; "complete" goes on from CROWN
        with branch and bound until the bracket is no wider than the tolerance.
      candidates: radii per input that are checked in one call.
      batch_size: inputs per call; smaller rests are padded to 1, 8 or this size.
      max_steps: most calls per search and batch.
      attack: how hard the attack on the upper end tries; None for no attack.
      branch: how branch and bound runs.
    """

    oracle: str = "crown"
    candidates: int = 8
    batch_size: int = 64
    max_steps: int = 40
    attack: AttackOptions | None = AttackOptions()
    branch: BranchOptions = BranchOptions()

    def __post_init__(self) -> None:
        if self.oracle not in ORACLES:
            raise InputError(
                f"unknown oracle '{self.oracle}'; choose one of {', '.join(ORACLES)}"
            )
        for name in ("candidates", "batch_size", "max_steps"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise InputError(f"{name} is {value!r}; it must be an integer >= 1")
        for name, kind in (("attack", AttackOptions), ("branch", BranchOptions)):
            value = getattr(self, name)
            if not isinstance(value, kind) and not (name == "attack" and value is None):
                raise InputError(
                    f"{name} is {value!r}; it must be {kind.__name__}"
                    + (", or None for no attack" if name == "attack" else "")
                )

    def buckets(self) -> tuple[int, ...]:
        """Returns the batch sizes that are compiled for."""
        return tuple(sorted({min(1, self.batch_size), min(8, self.batch_size),
                             self.batch_size}))  # fmt: skip


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Certification:
    """The answer for every input: bracket of its apothem, proved box, witness.

    All arrays are numpy, float64, with a leading axis over the inputs (none if one
    input was given).

    Attributes:
      outcome: an `Outcome` value.
      label: the class that was to be kept.
      predicted: the class that the network predicts at x.
      lower: proved lower end of the bracket around the apothem optimum: the box has
        this apothem. 0 if nothing was proved; inf if all faces reach the domain's
        boundary.
      upper: upper end of the bracket: distance of the witness; inf if there is none;
        0 for a misclassified input.
      box: the proved box; NaN if there is none.
      witness: a point whose margin is not above the required one; NaN if none.
      witness_class: the class that wins at the witness, or ties with the label there;
        -1 if none.
      oracle_calls: boxes that the oracles were asked about.
      subproblems: subproblems that branch and bound bounded.
      recorded: what `jaxcert.grow` and `jaxcert.write_certificates` go on from, a
        `jaxcert.certifier.Recorded` of each input, in an array of type object; None
        unless `certify` was asked to record.
    """

    outcome: Int[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]
    predicted: Int[np.ndarray, " n"]
    lower: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]
    box: Box
    witness: Float[np.ndarray, "n *d"]
    witness_class: Int[np.ndarray, " n"]
    oracle_calls: Int[np.ndarray, " n"]
    subproblems: Int[np.ndarray, " n"]
    recorded: np.ndarray | None = None


@dataclasses.dataclass
class Seconds:
    """Seconds by stage, summed over batches, on whatever device they ran.

    Compilation is in the first call.
    """

    prove: float = 0.0
    refute: float = 0.0
    reprove: float = 0.0
    confirm: float = 0.0
    branch: float = 0.0

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Adds the time spent inside the block to one stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            setattr(self, stage, getattr(self, stage) + spent)
