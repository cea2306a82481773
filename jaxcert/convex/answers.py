"""What a feature-convex classifier is certified for."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Float

from jaxcert.answer import Listed, static
from jaxcert.report.summary import format_number, median

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxcert.report.charts import Scheme


def norm_name(p: float) -> str:
    """Returns what the norm of an exponent is called."""
    return "l-infinity" if p == math.inf else f"l{p:g}"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Radii(Listed):
    """What is proved about a batch of inputs; numpy, float64.

    Attributes:
      score: f(x) as float64 evaluates it.
      lower: a proved lower bound of f(x).
      radius: shape (n, norms): every x' with |x' - x|_p <= radius keeps the sensitive
        class. 0 where nothing is proved, as for every input of the other class.
      norms: the exponents p, in the order that was asked for.
    """

    score: Float[np.ndarray, " n"]
    lower: Float[np.ndarray, " n"]
    radius: Float[np.ndarray, "n norms"]
    norms: tuple[float, ...] = static()

    KIND = "convex radii"
    TITLE = "Certified radii of a feature-convex classifier"
    TERMS = {
        "score": "f(x); above 0 the input is of the sensitive class.",
        "at least": "A proved lower bound of the score.",
        "radius": "Every input that near, in that norm, keeps the sensitive class.",
    }
    _counted = "score"

    @property
    def HEADS(self) -> tuple[str, ...]:  # type: ignore[override]  # noqa: N802
        """Of its table: a column per norm."""
        radii = (f"{norm_name(p)} radius" for p in self.norms)
        return ("input", "score", "at least", *radii)

    def sentence(self) -> str:
        """Returns what came out, in plain words."""
        lower, radius = np.atleast_1d(self.lower), np.atleast_2d(self.radius)
        own = radius[lower > 0]
        parts = [f"{len(own)} of {len(lower)} inputs proved of the sensitive class"]
        for p, column in zip(self.norms, own.T, strict=True):
            if len(column):
                middle = format_number(median(column.tolist()), "down")
                parts.append(f"median {norm_name(p)} radius {middle}")
        return ", ".join(parts) + "."

    def claim(self) -> str:
        """Returns what is claimed, and on what it rests."""
        return (
            "Claim: every input within a radius, in its norm, keeps the sensitive "
            "class; a theorem about convex functions, its constants rounded outward "
            "in float64. Of the other class nothing is claimed. "
            "jaxcert.certificate.convex.write_radii writes a certificate file."
        )

    def cells(self) -> list[tuple[str, ...]]:
        """Returns a row of texts per input, without its name; proved rounded down."""
        rows = zip(self.score, self.lower, self.radius, strict=True)
        return [
            (format_number(float(s)), format_number(float(b), "down"),
             *(format_number(float(r), "down") for r in own))
            for s, b, own in rows
        ]  # fmt: skip

    def draw(self, scheme: Scheme) -> Figure:
        """Returns the share of inputs that have at least a radius, a line per norm."""
        from jaxcert.report.charts import shares

        groups = {
            norm_name(p): ([float(r) for r in column if r > 0], max(1, len(column)))
            for p, column in zip(self.norms, self.radius.T, strict=True)
        }
        return shares(groups, ("radius", "share of all inputs (%)"), scheme)
