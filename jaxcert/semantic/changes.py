"""Input changes with a few parameters: brightness, contrast, blur, gamma.

Every change is written as one affine map of its parameters and piecewise linear or
smooth functions behind it, so that bounds see the exact set of changed inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxcert.box import Box, Rates
from jaxcert.devices import float64
from jaxcert.errors import InputError

Transform = Callable[[Array, Array], Array]

# Radii are quotients of legal parameters and rates: they must not overflow.
_LARGEST = 1e30


def _move(x: Array, theta: Array, *directions: Array) -> Array:
    """Returns clip(x + sum_k theta_k D_k, 0, 1): one affine map, then two ReLUs."""
    return jnp.clip(x + jnp.tensordot(theta, jnp.stack(directions), 1), 0, 1)


def brightness(x: Array, theta: Array) -> Array:
    """Returns clip(x + b, 0, 1), theta = (b,)."""
    return _move(x, theta, jnp.ones_like(x))


def contrast(x: Array, theta: Array) -> Array:
    """Returns clip((1 + c) x, 0, 1), theta = (c,)."""
    return _move(x, theta, x)


def brightness_contrast(x: Array, theta: Array) -> Array:
    """Returns clip((1 + c) x + b, 0, 1), theta = (b, c)."""
    return _move(x, theta, jnp.ones_like(x), x)


def blur(x: Array, theta: Array) -> Array:
    """Returns (1 - a) x + a B x, theta = (a,), B the 3 x 3 binomial blur.

    x has the shape (h, w, c); its edge is repeated beyond it.
    """
    h, w, _ = x.shape
    wide = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = wide[:h] + 2 * wide[1 : h + 1] + wide[2:]
    both = rows[:, :w] + 2 * rows[:, 1 : w + 1] + rows[:, 2:]
    return _move(x, theta, both / 16 - x)


def gamma(x: Array, theta: Array) -> Array:
    """Returns x ** (1 + g), theta = (g,), as x exp(g log x); 0 stays 0."""
    logarithm = jnp.log(jnp.where(x > 0, x, 1))
    return x * jnp.exp(jnp.tensordot(theta, logarithm[None], 1))


@dataclasses.dataclass(frozen=True)
class InputFamily:
    """A set of changed inputs with a few parameters; theta = 0 changes nothing.

    Attributes:
      transform: `transform(x, theta) -> x'`, JAX, theta of shape (k,). A function with
        a name of its own, not a lambda made per call: it is part of what is compiled.
      names: of the parameters, (k,).
      lower, upper: legal parameters, around 0, (k,).
      rates_down, rates_up: how far every parameter may go at radius 1, (k,); 0: not at
        all on that side.
    """

    transform: Transform
    names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    rates_down: tuple[float, ...]
    rates_up: tuple[float, ...]

    def __post_init__(self) -> None:
        ends = (self.lower, self.upper, self.rates_down, self.rates_up)
        if any(len(end) != len(self.names) for end in ends):
            raise InputError(
                f"a family of {len(self.names)} parameters needs as many bounds and "
                f"rates, got {', '.join(str(len(end)) for end in ends)}"
            )
        if not all(a <= 0 <= b for a, b in zip(self.lower, self.upper, strict=True)):
            raise InputError("legal parameters must lie around 0: no change")
        if max(map(abs, self.lower + self.upper)) > _LARGEST:
            raise InputError(
                f"legal parameters reach beyond {_LARGEST:g}: give finite bounds"
            )
        rates = self.rates_down + self.rates_up
        if not all(0 <= rate < np.inf for rate in rates) or max(rates) == 0:
            raise InputError("rates must be finite and >= 0, and not all of them 0")
        if any(0 < rate < 1 / _LARGEST for rate in rates):
            raise InputError(f"rates above 0 must be at least {1 / _LARGEST:g}")

    def with_rates(self, *rates: float) -> InputFamily:
        """Returns the family with these rates on the sides that may move."""
        if len(rates) != len(self.names):
            raise InputError(
                f"{len(rates)} rates for the parameters {', '.join(self.names)}: give "
                "one each"
            )
        down, up = (
            tuple(r if old > 0 else 0.0 for r, old in zip(rates, side, strict=True))
            for side in (self.rates_down, self.rates_up)
        )
        return dataclasses.replace(self, rates_down=down, rates_up=up)

    @property
    def domain(self) -> Box:
        """The legal parameters, numpy float64."""
        return Box(*(np.asarray(v, np.float64) for v in (self.lower, self.upper)))  # type: ignore[arg-type]

    @property
    def rates(self) -> Rates:
        """The rates, numpy float64."""
        ends = (self.rates_down, self.rates_up)
        return Rates(*(np.asarray(v, np.float64) for v in ends))  # type: ignore[arg-type]

    @float64()
    def reach(self) -> float:
        """Returns the radius from which on the box fills the legal parameters."""
        centre = jnp.zeros(len(self.names))
        return float(self.rates.reach(centre, self.domain))


FAMILIES = {
    "brightness": InputFamily(brightness, ("b",), (-1.0,), (1.0,), (1.0,), (1.0,)),
    "contrast": InputFamily(contrast, ("c",), (-1.0,), (1.0,), (1.0,), (1.0,)),
    "both": InputFamily(
        brightness_contrast, ("b", "c"), (-1.0, -1.0), (1.0, 1.0),
        (1.0, 1.0), (1.0, 1.0),
    ),
    "blur": InputFamily(blur, ("a",), (0.0,), (1.0,), (0.0,), (1.0,)),
    "gamma": InputFamily(gamma, ("g",), (-0.75,), (3.0,), (1.0,), (1.0,)),
}  # fmt: skip
"""The families by the name that experiments give them."""


@dataclasses.dataclass(frozen=True)
class SampledChange:
    """The function `x, u -> x'` for u in [-1, 1]^k: a change up to a radius.

    What `jaxcert.learning.prune` trains with, and what scores are taken over.
    """

    family: InputFamily
    radius: float

    def __call__(self, x: Array, u: Array) -> Array:
        rates, domain = self.family.rates, self.family.domain
        rate = jnp.where(u < 0, rates.lower, rates.upper).astype(x.dtype)
        theta = jnp.clip(self.radius * u * rate, domain.lo, domain.hi)
        return self.family.transform(x, theta.astype(x.dtype))
