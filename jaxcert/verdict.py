"""Verdict: the three answers of an oracle, and the reasons for the third."""

from __future__ import annotations

import dataclasses
import enum

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
    def refuted(self) -> Array:
        """Whether a point of the box violates the spec."""
        return self.status == Status.REFUTED

    def __bool__(self) -> bool:
        raise TypeError(
            "a Verdict has three values and is no bool: ask .proved or .refuted"
        )


def from_bound(bound: Array, x: Array, empty: Array, slack: Array | float) -> Verdict:
    """Returns PROVED where bound > slack on a box that is not empty, else UNKNOWN.

    Args:
      bound: lower bound of the margin, scalar.
      x: any point of the input's shape and dtype (for the shape of the witness).
      empty: whether the box is empty.
      slack: what the bound must exceed, >= 0.
    """
    proved = (bound > slack) & ~empty
    reason = jnp.where(jnp.isnan(bound), Reason.NOT_A_NUMBER, Reason.BOUND_TOO_LOOSE)
    reason = jnp.where(empty, Reason.EMPTY_BOX, reason)
    return Verdict(
        status=jnp.where(proved, Status.PROVED, Status.UNKNOWN),
        reason=jnp.where(proved, Reason.BOUND, reason),
        bound=bound,
        witness=jnp.full_like(x, jnp.nan),
        witness_margin=jnp.full((), jnp.nan, x.dtype),
    )


def from_witness(witness: Array, margin: Array, found: Array) -> Verdict:
    """Returns REFUTED with the witness where it was found, else UNKNOWN."""
    nothing = jnp.full_like(witness, jnp.nan)
    return Verdict(
        status=jnp.where(found, Status.REFUTED, Status.UNKNOWN),
        reason=jnp.where(found, Reason.WITNESS, Reason.NO_WITNESS),
        bound=jnp.full_like(margin, -jnp.inf),
        witness=jnp.where(found, witness, nothing),
        witness_margin=jnp.where(found, margin, jnp.nan),
    )


def refuted(witness: np.ndarray, margin: float) -> Verdict:
    """Returns REFUTED with a witness, in numpy."""
    return Verdict(
        status=np.int32(Status.REFUTED),
        reason=np.int32(Reason.WITNESS),
        bound=np.float64(-np.inf),
        witness=witness,
        witness_margin=np.float64(margin),
    )


def unknown(x: np.ndarray, reason: Reason = Reason.NO_WITNESS) -> Verdict:
    """Returns UNKNOWN about inputs of x's shape, in numpy."""
    return Verdict(
        status=np.int32(Status.UNKNOWN),
        reason=np.int32(reason),
        bound=np.float64(-np.inf),
        witness=np.full(x.shape, np.nan),
        witness_margin=np.float64(np.nan),
    )
