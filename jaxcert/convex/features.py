"""Feature maps phi with a known Lipschitz constant for every norm."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxcert.errors import InputError


class Features(Protocol):
    """A map from inputs to features, as the certificate needs to know it.

    Attributes:
      roundings: the float64 value of a feature errs by at most `roundings` times 2^-53
        times its entry of `magnitude`.
    """

    @property
    def roundings(self) -> int: ...

    def __call__(self, x: Float[Array, "*n"]) -> Float[Array, "*m"]:
        """Returns the features of one input, or of a batch with leading axes."""
        ...

    def magnitude(self, x: Float[Array, "*n"]) -> Float[Array, "*m"]:
        """Returns what each |feature| could reach if nothing cancelled."""
        ...

    def lipschitz(self, p: float) -> float:
        """Returns L with |phi(x) - phi(y)|_p <= L |x - y|_p for all x and y."""
        ...


@functools.partial(jax.tree_util.register_dataclass, data_fields=["mu"], meta_fields=[])
@dataclasses.dataclass(frozen=True, eq=False)
class Shift:
    """phi(x) = x - mu, with constant 1 in every norm.

    Attributes:
      mu: float32, of the input's shape.
    """

    mu: np.ndarray
    name: ClassVar[str] = "shift"
    growth: ClassVar[int] = 1
    roundings: ClassVar[int] = 1

    def __call__(self, x: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return x - jnp.asarray(self.mu, x.dtype)

    def magnitude(self, x: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.abs(x) + jnp.abs(jnp.asarray(self.mu, x.dtype))

    def lipschitz(self, p: float) -> float:
        """Returns 1."""
        return 1.0


@functools.partial(jax.tree_util.register_dataclass, data_fields=["mu"], meta_fields=[])
@dataclasses.dataclass(frozen=True, eq=False)
class ShiftAbs:
    """phi(x) = (x - mu, |x - mu|), stacked along the last axis.

    Each of the two halves moves by at most |x - y|, so |phi(x) - phi(y)|_p^p is at
    most 2 |x - y|_p^p: the constants are 2^(1/p), and 1 for p = infinity.

    Attributes:
      mu: float32, of the input's shape.
    """

    mu: np.ndarray
    name: ClassVar[str] = "shift_abs"
    growth: ClassVar[int] = 2
    roundings: ClassVar[int] = 1

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n d"]:
        moved = x - jnp.asarray(self.mu, x.dtype)
        return jnp.concatenate([moved, jnp.abs(moved)], axis=-1)

    def magnitude(self, x: Float[Array, "*n c"]) -> Float[Array, "*n d"]:
        size = jnp.abs(x) + jnp.abs(jnp.asarray(self.mu, x.dtype))
        return jnp.concatenate([size, size], axis=-1)

    def lipschitz(self, p: float) -> float:
        """Returns 2^(1/p), rounded up."""
        if p in (1.0, math.inf):
            return 2.0 if p == 1 else 1.0
        # The power errs by far less than 2^-45, relatively.
        return 2.0 ** (1 / p) * (1 + 2.0**-45)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[],
    meta_fields=["function", "constant", "size", "roundings"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class CustomFeatures:
    """A map of the user's, who answers for the constants stated.

    Attributes:
      function: phi in JAX, on one input or with leading batch axes.
      constant: p -> the Lipschitz constant of phi from the p-norm to the p-norm.
      size: x -> what each |feature| could reach if nothing cancelled.
      roundings: see `Features`.
    """

    function: Callable[[Array], Array]
    constant: Callable[[float], float]
    size: Callable[[Array], Array]
    roundings: int

    def __call__(self, x: Float[Array, "*n"]) -> Float[Array, "*m"]:
        return self.function(x)

    def magnitude(self, x: Float[Array, "*n"]) -> Float[Array, "*m"]:
        return self.size(x)

    def lipschitz(self, p: float) -> float:
        """Returns the constant stated for p.

        Raises:
          InputError: it is not a finite number above 0.
        """
        value = float(self.constant(p))
        if not 0 < value < math.inf:
            raise InputError(
                f"the feature map states the Lipschitz constant {value} for p = {p:g}; "
                "it must be finite and above 0"
            )
        return value


KINDS = {kind.name: kind for kind in (Shift, ShiftAbs)}
"""The feature maps that a checkpoint can hold, by name."""
