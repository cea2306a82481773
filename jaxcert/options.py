"""How a certification is asked for, and what it may come to."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import time
from collections.abc import Callable, Iterator

import numpy as np

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
      batch_size: inputs that branch and bound works on together. Bounds and attack take
        them in blocks, of 8 on CPUs: more cost more there than they save.
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

    def padded(self, count: int) -> int:
        """Returns to how many inputs a batch of so many is padded: 1, 8, 16, 32, ...

        Few sizes, since each is compiled for; none is padded to much more than it has.
        """
        if self.batch_size < 8 or count == 1:
            return 1 if count == 1 else self.batch_size
        size = 8
        while size < count:
            size *= 2
        return min(size, -(-self.batch_size // 8) * 8)


@dataclasses.dataclass
class Seconds:
    """Seconds by stage, summed over batches, on whatever device they ran.

    Compilation is in the first call.

    Attributes:
      told: told the name of each stage as it begins.
    """

    prove: float = 0.0
    refute: float = 0.0
    reprove: float = 0.0
    confirm: float = 0.0
    branch: float = 0.0
    told: Callable[[str], None] = lambda _: None

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Adds the time spent inside the block to one stage."""
        self.told(stage)
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            setattr(self, stage, getattr(self, stage) + spent)
