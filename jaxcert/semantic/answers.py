"""What a semantic certification answers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxcert.answer import Listed, static
from jaxcert.report.summary import finite, format_number, median
from jaxcert.verdict import Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxcert.report.charts import Scheme

_BASIS = (
    "The claim rests on the search, which proved it in float64 with a margin for "
    "rounding; jaxcert semantic --proofs writes certificate files."
)
_TERMS = {
    "radius": "How far the parameters of the change may go, in units of their rates.",
    "boxes": "Boxes of parameters that were bounded: the work done.",
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SemanticApothems(Listed):
    """A bracket per input around the radius up to which the spec holds.

    Attributes:
      lower: proved: the spec holds for all parameters up to it, (n,); 0: nothing was
        proved; inf: for all legal parameters.
      upper: a violation lies at this radius, (n,); inf: none is known.
      witness: its parameters, (n, k); NaN if none.
      boxes: parameter boxes bounded, (n,).
      parameters: their names.
      tolerance: width of the brackets that was asked for.
    """

    lower: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]
    witness: Float[np.ndarray, "n k"]
    boxes: Int[np.ndarray, " n"]
    parameters: tuple[str, ...] = static(())
    tolerance: float = static(1e-3)

    KIND = "semantic apothems"
    TITLE = "Certified input changes"
    HEADS = ("input", "lower", "upper", "boxes")
    TERMS = _TERMS | {
        "lower, upper": "The bracket around the greatest radius up to which the spec "
        "holds: proved up to the lower end, violated at the upper one."
    }
    _counted = "lower"

    def sentence(self) -> str:
        """Returns what came out, in plain words."""
        lower, upper = map(np.atleast_1d, (self.lower, self.upper))
        some = [float(v) for v in lower if v > 0]
        parts = [f"{len(some)} of {len(lower)} inputs proved"]
        if some:
            parts[0] += (
                f": median radius {format_number(median(some), 'down')}, weakest "
                f"{format_number(min(some), 'down')}"
            )
        known = len(finite(upper.tolist()))
        parts.append(f"A violation is stored for {known} of {len(lower)}")
        return ". ".join(parts) + "."

    def claim(self) -> str:
        """Returns what is claimed, and on what it rests."""
        return (
            "Claim: of every input the spec holds for all parameters of the change up "
            f"to the lower end of its bracket. {_BASIS}"
        )

    def cells(self) -> list[tuple[str, ...]]:
        """Returns a row of texts per input, without its name; proved rounded down."""
        columns = zip(self.lower, self.upper, self.boxes, strict=True)
        return [
            (format_number(float(a), "down"), format_number(float(b), "up"), str(k))
            for a, b, k in columns
        ]

    def facts(self) -> dict[str, Any]:
        """Returns what was asked, for the page."""
        return {
            "parameters": ", ".join(self.parameters) or None,
            "tolerance": self.tolerance,
        }

    def draw(self, scheme: Scheme) -> Figure:
        """Returns the share of inputs over the radius, proved and not refuted."""
        from jaxcert.report.charts import accuracy

        records = [
            {
                "status": "certified" if a > 0 else "unknown",
                "apothem_lower": float(a),
                "apothem_upper": float(b),
            }
            for a, b in zip(self.lower, self.upper, strict=True)
        ]
        return accuracy(records, "of the parameters", scheme)

    def _check(self) -> None:
        super()._check()
        if not np.all((self.lower >= 0) & (self.lower <= self.upper)):
            raise ValueError("a bracket is not ordered")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SemanticVerdicts(Listed):
    """A verdict per input on one box of parameters.

    Attributes:
      status: `Status` values, (n,).
      witness: parameters that violate the spec, (n, k); NaN unless REFUTED.
      boxes: parameter boxes bounded, (n,).
      radius: up to which parameters were asked about.
    """

    status: Int[np.ndarray, " n"]
    witness: Float[np.ndarray, "n k"]
    boxes: Int[np.ndarray, " n"]
    radius: float = static(float("nan"))

    KIND = "semantic verdicts"
    TITLE = "Verdicts on input changes"
    HEADS = ("input", "status", "boxes")
    TERMS = _TERMS | {
        "PROVED, REFUTED, UNKNOWN": "The spec holds for all parameters; a stored one "
        "violates it; neither is known, and nothing is claimed."
    }
    _counted = "status"

    def _counts(self) -> dict[str, int]:
        status = np.atleast_1d(self.status)
        order = (Status.PROVED, Status.REFUTED, Status.UNKNOWN)
        return {s.name: int((status == s).sum()) for s in order}

    def sentence(self) -> str:
        """Returns what came out, in plain words."""
        told = ", ".join(f"{count} {name}" for name, count in self._counts().items())
        return f"Up to radius {self.radius:g}: {told}."

    def claim(self) -> str:
        """Returns what is claimed, and on what it rests."""
        return (
            "Claim: of every input called PROVED the spec holds for all parameters of "
            f"the change up to radius {self.radius:g}. {_BASIS}"
        )

    def cells(self) -> list[tuple[str, ...]]:
        """Returns a row of texts per input, without its name."""
        rows = zip(self.status, self.boxes, strict=True)
        return [(Status(int(s)).name, str(k)) for s, k in rows]

    def draw(self, scheme: Scheme) -> Figure:
        """Returns a bar per verdict."""
        from jaxcert.report.charts import counts

        return counts(self._counts(), "inputs", scheme)

    def _check(self) -> None:
        super()._check()
        if not np.isin(self.status, [int(s) for s in Status]).all():
            raise ValueError("status holds a value that is none")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class OutputRanges(Listed):
    """What every output may become over one box of parameters.

    Attributes:
      lower, upper: proved: no output leaves [lower, upper], (n, outputs); infinite
        where nothing was proved in time.
      boxes: parameter boxes bounded, (n,).
      open: inputs whose range may be wider than the tolerance says, (n,).
      radius: up to which parameters were asked about.
    """

    lower: Float[np.ndarray, "n outputs"]
    upper: Float[np.ndarray, "n outputs"]
    boxes: Int[np.ndarray, " n"]
    open: Bool[np.ndarray, " n"]
    radius: float = static(float("nan"))

    KIND = "output ranges"
    TITLE = "Ranges of outputs under input changes"
    HEADS = ("input", "narrowest", "widest", "open", "boxes")
    TERMS = _TERMS | {
        "narrowest, widest": "The least and the greatest range of an output.",
        "open": "The range may be wider than the tolerance says.",
    }
    _counted = "boxes"

    def _widths(self) -> np.ndarray:
        return np.atleast_2d(self.upper) - np.atleast_2d(self.lower)

    def sentence(self) -> str:
        """Returns what came out, in plain words."""
        widths = self._widths()
        widest = format_number(float(widths.max(initial=0.0)), "up")
        return (
            f"{widths.shape[1]} outputs of {len(widths)} inputs up to radius "
            f"{self.radius:g}: the widest range is {widest}. "
            f"{int(np.sum(self.open))} inputs are open."
        )

    def claim(self) -> str:
        """Returns what is claimed, and on what it rests."""
        return (
            "Claim: for no parameters of the change up to radius "
            f"{self.radius:g} an output leaves its range. {_BASIS}"
        )

    def cells(self) -> list[tuple[str, ...]]:
        """Returns a row of texts per input, without its name; ranges rounded up."""
        rows = zip(self._widths(), self.open, self.boxes, strict=True)
        return [
            (*(format_number(float(e), "up") for e in (w.min(), w.max())),
             "open" if is_open else "-", str(k))
            for w, is_open, k in rows
        ]  # fmt: skip

    def draw(self, scheme: Scheme) -> Figure:
        """Returns the share of all ranges that are at least as wide as a width."""
        from jaxcert.report.charts import shares

        widths = finite(self._widths().reshape(-1).tolist())
        groups = {"ranges of outputs": (widths, max(1, self._widths().size))}
        return shares(groups, ("width", "share that is as wide (%)"), scheme)
