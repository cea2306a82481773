"""Verdict: the three answers of an oracle, and the reasons for the third."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Status(enum.IntEnum):
    """The answer of an oracle to: does the spec hold all over this box?"""

    REFUTED = -1
    UNKNOWN = 0
    PROVED = 1


class Reason(enum.IntEnum):
    """Why an answer is what it is; all but the first two explain an UNKNOWN."""

    BOUND = 0
    """PROVED: the lower bound of the margin is positive."""
    WITNESS = 1
    """REFUTED: the witness violates the spec."""
    BOUND_TOO_LOOSE = 2
    """The lower bound of the margin is not positive and no witness was found."""
    NOT_A_NUMBER = 3
    """A bound is NaN: the network overflows or has no value somewhere in the box."""
    EMPTY_BOX = 4
    """The box has lo > hi somewhere: there is nothing to prove."""
    NO_WITNESS = 5
    """The attack found nothing; an attack proves nothing."""
    LIMIT = 6
    """Branch and bound has nothing left to split, and bounds are not tight enough."""
    TIME = 7
    """The time limit was reached."""
    ROOM = 8
    """The stack of open subproblems is full: there is no memory for a larger one."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Verdict:
    """PROVED, REFUTED with a witness, or UNKNOWN with a reason; never a bool.

    Attributes:
      status: a `Status` value.
      reason: a `Reason` value.
      bound: lower bound of the margin over the box (-inf if the oracle has none).
      witness: a point of the box that violates the spec; NaN unless REFUTED.
      witness_margin: margin at the witness; NaN unless REFUTED.
    """

    status: Int[Array, ""]
    reason: Int[Array, ""]
    bound: Float[Array, ""]
    witness: Float[Array, "*d"]
    witness_margin: Float[Array, ""]

    @property
    def proved(self) -> Array:
        """Whether the spec was proved to hold all over the box."""
        return self.status == Status.PROVED

    @property
    def refuted(witness: np.ndarray, margin: float) -> Verdict:
    """Returns REFUTED with a witness, in numpy."""
    numbers: Any = (
        np.int32(Status.REFUTED),
        np.int32(Reason.WITNESS),
        np.float64(-np.inf),
        witness,
        np.float64(margin),
    )
    return Verdict(*numbers)


def first_decided(first: Verdict, second: Verdict) -> Verdict:
    """Returns the first verdict where it decides, else the second one."""
    return jax.tree.map(
        lambda a, b: jnp.where(first.status != Status.UNKNOWN, a, b), first, second
    )
