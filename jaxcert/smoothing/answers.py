"""What randomized smoothing answers; all of it is probabilistic."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from jaxcert.answer import Listed, static
from jaxcert.report.summary import format_number, median
from jaxcert.smoothing.noise import Gaussian, Laplace, Noise, Uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxcert.report.charts import Scheme

ABSTAINED = -1
_NOISES = {kind.__name__: kind for kind in (Gaussian, Laplace, Uniform)}
_TERMS = {
    "samples": "Noisy inputs that were looked at.",
    "radius": "Distance within which the answer holds, in the norm of the noise.",
}


def _radii(radius: np.ndarray, norm: str, scheme: Scheme) -> Figure:
    from jaxcert.report.charts import shares

    some = [float(r) for r in radius if r > 0]
    groups = {"certified, probabilistic": (some, max(1, len(radius)))}
    labels = f"radius ({norm} norm)", "share of all inputs (%)"
    return shares(groups, labels, scheme)


def _middle(radius: np.ndarray) -> str:
    """Returns the median of the radii above 0, in words."""
    some = [float(r) for r in radius if r > 0]
    return f", median radius {format_number(median(some), 'down')}" if some else ""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SmoothedCertificates(Listed):
    """What is certified about a batch of inputs; all of it is probabilistic.

    For each input, with probability at least 1 - alpha over the samples drawn: unless
    it abstained, the class `predicted` is the answer with a probability above 1/2,
    over the noise and over the generator's own randomness, for every input at a
    distance below `radius`. With an oracle "the answer" is the true class of the
    output, as far as the oracle's error is bounded.

    Attributes:
      predicted: the class, or -1 where it abstained.
      selected: the class that was counted.
      hits: how often it was the answer.
      samples: of how many.
      p_lower: lower bound of its probability at the input.
      radius: in the noise's norm; 0 where it abstained.
      alpha: failure probability of each answer, oracle error included.
      norm: "l2" or "l1".
    """

    predicted: Int[np.ndarray, " m"]
    selected: Int[np.ndarray, " m"]
    hits: Int[np.ndarray, " m"]
    samples: Int[np.ndarray, " m"]
    p_lower: Float[np.ndarray, " m"]
    radius: Float[np.ndarray, " m"]
    alpha: float = static()
    norm: str = static()

    KIND = "smoothed certificates"
    TITLE = "Randomized smoothing"
    HEADS = ("input", "answer", "hits", "samples", "p, at least", "radius")
    TERMS = _TERMS | {
        "answer": "The class that the network gives most often under noise; abstained: "
        "the samples did not tell, and nothing is claimed.",
        "hits": "How often the class came out.",
        "p, at least": "A lower bound of its probability under noise.",
    }
    _counted = "predicted"

    def keeps(
        self, labels: Int[ArrayLike, " m"], radius: float
    ) -> Bool[np.ndarray, " m"]:
        """Returns where the label is certified for a radius, 0 included."""
        return (self.predicted == np.asarray(labels)) & (self.radius > radius)

    def sentence(self) -> str:
        """Returns what came out, in plain words."""
        answers, radius = map(np.atleast_1d, (self.predicted, self.radius))
        told = int((answers != ABSTAINED).sum())
        return (
            f"{told} of {len(answers)} inputs got a class{_middle(radius)} "
            f"({self.norm} norm, probabilistic: each answer fails with a chance of "
            f"{self.alpha:g} at most). {len(answers) - told} abstained."
        )

    def claim(self) -> str:
        """Returns what is claimed, and on what it rests."""
        return (
            f"Claim, not a proof: with a chance of at least {1 - self.alpha:g} over "
            "the samples, for each answer, the smoothed class is the same for every "
            f"input nearer than the radius ({self.norm} norm). It is about the "
            "smoothed classifier, and assumes that pseudo-random float32 noise behaves "
            "like the real noise."
        )

    def cells(self) -> list[tuple[str, ...]]:
        """Returns a row of texts per input, without its name; bounds rounded down."""
        rows = zip(self.predicted, self.hits, self.samples, self.p_lower, self.radius,
                   strict=True)  # fmt: skip
        return [
            ("abstained" if c == ABSTAINED else str(c), str(h), str(n),
             format_number(float(p), "down"), format_number(float(r), "down"))
            for c, h, n, p, r in rows
        ]  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """Returns what was asked, for the page."""
        return {"alpha": self.alpha, "norm": self.norm}

    def draw(self, scheme: Scheme) -> Figure:
        """Returns the share of inputs that have at least a radius."""
        return _radii(self.radius, self.norm, scheme)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class HarmlessCertificates(Listed):
    """What is certified about harmful outputs; all of it is probabilistic.

    For each input, with probability at least 1 - alpha over the samples drawn: where
    `certified`, the output is harmful with a probability of at most `threshold` for
    every input within `radius`.

    Attributes:
      certified: whether that holds at the input itself.
      harmful: how many sampled outputs were called harmful, or neither.
      samples: of how many.
      p_upper: upper bound of the probability of a harmful output at the input.
      radius: in the noise's norm; 0 where nothing is certified.
      threshold: what was asked.
      alpha: failure probability of each answer, oracle error included.
      noise: what was added.
    """

    certified: Bool[np.ndarray, " m"]
    harmful: Int[np.ndarray, " m"]
    samples: Int[np.ndarray, " m"]
    p_upper: Float[np.ndarray, " m"]
    radius: Float[np.ndarray, " m"]
    threshold: float = static()
    alpha: float = static()
    noise: Noise = static()

    KIND = "harmless certificates"
    TITLE = "Smoothing of generated outputs"
    HEADS = ("input", "certified", "harmful", "samples", "p, at most", "radius")
    TERMS = _TERMS | {
        "harmful": "Sampled outputs that the oracle did not call harmless.",
        "p, at most": "An upper bound of the probability of a harmful output.",
    }
    _counted = "certified"

    def p_upper_within(self, radius: float) -> Float[np.ndarray, " m"]:
        """Returns upper bounds of the probability of harm for inputs that near.

        F(F^-1(p_upper) + radius), for Gaussian noise
        Phi(Phi^-1(p_upper) + radius / sigma).
        """
        return self.noise.greatest(self.p_upper, radius)

    def sentence(self) -> str:
        """Returns what came out, in plain words."""
        kept, radius = map(np.atleast_1d, (self.certified, self.radius))
        return (
            f"{int(kept.sum())} of {len(kept)} inputs are harmful with a probability "
            f"of {self.threshold:g} at most{_middle(radius)} ({self.noise.norm} norm, "
            f"probabilistic: each answer fails with a chance of {self.alpha:g} at "
            "most)."
        )

    def claim(self) -> str:
        """Returns what is claimed, and on what it rests."""
        return (
            f"Claim, not a proof: with a chance of at least {1 - self.alpha:g} over "
            "the samples, for each certified answer, the output is harmful with a "
            f"probability of {self.threshold:g} at most for every input within the "
            f"radius ({self.noise.norm} norm)."
        )

    def cells(self) -> list[tuple[str, ...]]:
        """Returns a row of texts per input, without its name; bounds rounded."""
        rows = zip(self.certified, self.harmful, self.samples, self.p_upper,
                   self.radius, strict=True)  # fmt: skip
        return [
            ("yes" if c else "no", str(h), str(n), format_number(float(p), "up"),
             format_number(float(r), "down"))
            for c, h, n, p, r in rows
        ]  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """Returns what was asked, for the page."""
        kind = f"{type(self.noise).__name__}, scale {self.noise.scale:g}"
        return {"threshold": self.threshold, "alpha": self.alpha, "noise": kind}

    def draw(self, scheme: Scheme) -> Figure:
        """Returns the share of inputs that have at least a radius."""
        return _radii(self.radius, self.noise.norm, scheme)

    def _told(self) -> dict[str, Any]:
        return {**super()._told(), "noise": [type(self.noise).__name__,
                                             float(self.noise.scale)]}  # fmt: skip

    @classmethod
    def _understood(cls, told: Mapping[str, Any]) -> dict[str, Any]:
        name, scale = told["noise"]
        return {**super()._understood(told), "noise": _NOISES[name](scale)}
