"""Noise to smooth with, and how far it lets a probability move.

Theorem. Let the noise have independent coordinates with one symmetric log-concave
density and distribution function F. Let h be any measurable function into [0, 1] and
P(x) the mean of h(x + noise). Then for every shift d

    F(F^-1(P(x)) - |d|) <= P(x + d) <= F(F^-1(P(x)) + |d|)

with |d| the l1 norm, and for Gaussian noise also with the l2 norm.

Proof. One coordinate: the likelihood ratio of a shift is monotone, so by Neyman and
Pearson the worst h is the indicator of a half line, for which equality holds. Several:
shift one coordinate after the other. Given the others, the bound holds for the mean
over this one; as a trade-off function it is convex in P, so Jensen carries it to the
mean over the others, and the bounds compose by adding their shifts. A Gaussian can be
rotated until d points along one coordinate.

Special cases: Gaussian, Cohen et al. 2019, theorem 1; Laplace, Teng et al. 2020;
uniform, Lee et al. 2019; all three, Yang et al. 2020.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxcert.errors import InputError

Probability = Float[ArrayLike, "*n"]
Numbers = Float[np.ndarray, "*n"]

# Relative, and thousands of times the error of scipy's and numpy's functions.
_SLACK = 2.0**-40


@dataclasses.dataclass(frozen=True)
class Noise(abc.ABC):
    """Independent noise on every feature; see `Gaussian`, `Laplace`, `Uniform`.

    The scale is used as the nearest float32, in samples and in radii alike.

    Attributes:
      scale: of the density, in input units, > 0.
      norm: the norm in which radii are measured.
      unit_magnitude: mean of |noise| of one feature at scale 1.
    """

    scale: float
    norm: ClassVar[str]
    unit_magnitude: ClassVar[float]

    def __post_init__(self) -> None:
        good = isinstance(self.scale, (int, float, np.floating))
        if not good or not 1e-30 < self.scale < 1e30:
            raise InputError(
                f"the scale of {type(self).__name__} noise is {self.scale!r}; it must "
                "be a number > 0"
            )

    @staticmethod
    @abc.abstractmethod
    def unit(key: Array, shape: tuple[int, ...]) -> Float[Array, " *shape"]:
        """Returns float32 noise of scale 1."""

    @staticmethod
    @abc.abstractmethod
    def unit_cdf(t: Numbers) -> Numbers:
        """Returns F at scale 1, to a few units in the last place."""

    @staticmethod
    @abc.abstractmethod
    def unit_quantile(p: Numbers) -> Numbers:
        """Returns F^-1 at scale 1, to a few units in the last place."""

    def distance(self, low: Probability, high: Probability) -> Numbers:
        """Returns how long a shift must be to move a probability from low to high.

        F^-1(high) - F^-1(low), rounded down, 0 where low >= high: no shorter shift
        raises P(x) <= low above high, nor lowers P(x) >= high below low.
        """
        start, end = self._quantile(low, 1), self._quantile(high, -1)
        apart = np.asarray(low) < np.asarray(high)
        gap = np.subtract(end, start, where=apart, out=np.zeros(apart.shape))
        return np.maximum(gap, 0.0) * (self._exact_scale * (1 - _SLACK))

    def radius(self, p: Probability) -> Numbers:
        """Returns the certified radius of a class of probability >= p, rounded down.

        F^-1(p): within it the class keeps a probability above 1/2. 0 if p <= 1/2.
        """
        return self.distance(np.full_like(np.asarray(p, np.float64), 0.5), p)

    def least(self, p: Probability, radius: Float[ArrayLike, "*n"]) -> Numbers:
        """Returns a lower bound of P(x + d) where P(x) >= p and |d| <= radius."""
        shift = np.asarray(radius, np.float64) / self._exact_scale * (1 + _SLACK)
        value = self.unit_cdf(_moved(self._quantile(p, -1) - shift, -1))
        return np.maximum(value * (1 - _SLACK), 0.0)

    def greatest(self, p: Probability, radius: Float[ArrayLike, "*n"]) -> Numbers:
        """Returns an upper bound of P(x + d) where P(x) <= p and |d| <= radius."""
        shift = np.asarray(radius, np.float64) / self._exact_scale * (1 + _SLACK)
        value = self.unit_cdf(_moved(self._quantile(p, 1) + shift, 1))
        return np.minimum(value * (1 + _SLACK), 1.0)

    @property
    def _exact_scale(self) -> float:
        return float(np.float32(self.scale))

    def _quantile(self, p: Probability, direction: int) -> Numbers:
        return _moved(self.unit_quantile(np.asarray(p, np.float64)), direction)


def _moved(value: Numbers, direction: int) -> Numbers:
    finite = np.where(np.isfinite(value), value, 0.0)
    return value + direction * _SLACK * np.abs(finite)


class Gaussian(Noise):
    """N(0, scale^2) on every feature; radii in l2 (Cohen et al. 2019)."""

    norm = "l2"
    unit_magnitude = math.sqrt(2 / math.pi)

    @staticmethod
    def unit(key: Array, shape: tuple[int, ...]) -> Float[Array, " *shape"]:
        return jax.random.normal(key, shape, np.float32)

    @staticmethod
    def unit_cdf(t: Numbers) -> Numbers:
        from scipy import special

        return special.ndtr(t)

    @staticmethod
    def unit_quantile(p: Numbers) -> Numbers:
        from scipy import special

        return special.ndtri(p)


class Laplace(Noise):
    """Density exp(-|t| / scale) / (2 scale) on every feature; radii in l1.

    The radius of p is -scale log(2 (1 - p)) (Teng et al. 2020).
    """

    norm = "l1"
    unit_magnitude = 1.0

    @staticmethod
    def unit(key: Array, shape: tuple[int, ...]) -> Float[Array, " *shape"]:
        return jax.random.laplace(key, shape, np.float32)

    @staticmethod
    def unit_cdf(t: Numbers) -> Numbers:
        tail = np.exp(-np.abs(t)) / 2
        return np.where(t < 0, tail, 1 - tail)

    @staticmethod
    def unit_quantile(p: Numbers) -> Numbers:
        with np.errstate(divide="ignore"):
            return np.where(p < 0.5, np.log(2 * p), -np.log(2 * (1 - p)))


class Uniform(Noise):
    """Uniform on [-scale, scale] on every feature; radii in l1.

    The radius of p is 2 scale (p - 1/2) (Lee et al. 2019).
    """

    norm = "l1"
    unit_magnitude = 0.5

    @staticmethod
    def unit(key: Array, shape: tuple[int, ...]) -> Float[Array, " *shape"]:
        return jax.random.uniform(key, shape, np.float32, -1.0, 1.0)

    @staticmethod
    def unit_cdf(t: Numbers) -> Numbers:
        return np.clip((t + 1) / 2, 0.0, 1.0)

    @staticmethod
    def unit_quantile(p: Numbers) -> Numbers:
        return 2 * np.asarray(p) - 1
