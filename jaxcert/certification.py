"""What a certification answers: brackets, boxes, witnesses, and ways to show them."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxcert.answer import Answer, static
from jaxcert.box import Box, Norm
from jaxcert.branch.leaves import Proof
from jaxcert.errors import InputError
from jaxcert.measures import edge_measures
from jaxcert.options import CertifyOptions as CertifyOptions
from jaxcert.options import Outcome as Outcome
from jaxcert.options import Progress as Progress
from jaxcert.options import Seconds as Seconds
from jaxcert.report.summary import OBJECTIVES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDE = ("witness", "x", "suspect", "lo", "hi")


@dataclasses.dataclass(frozen=True)
class Asked:
    """What was asked of every input alike.

    Attributes:
      network: what f is called.
      content_hash: SHA-256 (hex) of its weights.
      num_classes: of the network.
      labelled: whether labels were given; else the predicted class was to be kept.
      oracle, tolerance, required_margin: as in `certify`.
      domain_lower, domain_upper: legal inputs; one number, or one per feature.
      rates: how fast the faces move: None for 1, one number or one per feature; None
        also where the two sides differ, and `one_sided` is true.
      norm: whose balls are asked about: "linf" for boxes, "l1" or "l2".
      one_sided: whether the two faces of a feature move at different rates.
      stopped: what ended the search early: "", "the time limit" or "Ctrl-C".
    """

    network: str = "f"
    content_hash: str = ""
    num_classes: int = 0
    labelled: bool = False
    oracle: str = "crown"
    tolerance: float = 1e-4
    required_margin: float = 0.0
    domain_lower: float | tuple[float, ...] = 0.0
    domain_upper: float | tuple[float, ...] = 1.0
    rates: float | tuple[float, ...] | None = None
    one_sided: bool = False
    norm: Norm = "linf"
    stopped: str = ""

    def config(self) -> dict[str, Any]:
        """Returns it as the settings of a run, for reports."""
        kept = {
            "model": self.network, "model_hash": self.content_hash,
            "objective": OBJECTIVES[self.norm],
            "oracle": self.oracle, "arithmetic": "real",
            "required_margin": self.required_margin, "tolerance": self.tolerance,
            "domain_lower": self.domain_lower, "domain_upper": self.domain_upper,
        }  # fmt: skip
        if self.rates is not None or self.one_sided:
            own = "one per face" if self.one_sided else self.rates
            kept |= {"rates": own, "rates_are": "units of each feature's rate"}
        return kept


def plain(array: Any) -> float | tuple[float, ...]:
    """Returns the number that all elements are, else all of them, row by row."""
    flat = np.asarray(array, np.float64).reshape(-1)
    same = flat.size > 0 and bool((flat == flat[0]).all())
    return float(flat[0]) if same else tuple(flat.tolist())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Certification(Answer):
    """The answer for every input: bracket of its apothem, proved box, witness.

    All arrays are numpy, float64, with a leading axis over the inputs (none if one
    input was given). It has a length and can be indexed, sliced and walked through;
    each part is such an answer again.

    Attributes:
      outcome: an `Outcome` value.
      label: the class that was to be kept.
      predicted: the class that the network predicts at x.
      lower: proved lower end of the bracket around the apothem optimum: the box has
        this apothem. 0 if nothing was proved; inf if all faces reach the domain's
        boundary. With the norm "l1" or "l2" it is the radius of the ball that is
        proved, within the domain, and inf if that is all of the domain.
      upper: upper end of the bracket: distance of the witness; inf if there is none;
        0 for a misclassified input.
      box: the proved box; NaN if there is none, as with the norms "l1" and "l2".
      witness: a point whose margin is not above the required one; NaN if none.
      witness_class: the class that wins at the witness, or ties with the label there;
        -1 if none.
      oracle_calls: boxes that the oracles were asked about.
      subproblems: subproblems that branch and bound bounded.
      recorded: what `jaxcert.grow` and `jaxcert.write_certificates` go on from, a
        `jaxcert.certifier.Recorded` of each input, in an array of type object; None
        unless `certify` was asked to record.
      x: the inputs.
      suspect: where no witness is confirmed, the point that the attack took for one;
        NaN if it took none. Nothing is claimed of it.
      suspect_margin: its margin as float64 evaluates it, less the required one: so
        near 0 that rounding leaves its sign in doubt; NaN if there is none.
      asked: what was asked, the same of every input.
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
    recorded: np.ndarray | None = dataclasses.field(
        default=None, metadata={"saved": False}
    )
    x: Float[np.ndarray, "n *d"] | None = None
    suspect: Float[np.ndarray, "n *d"] | None = None
    suspect_margin: Float[np.ndarray, " n"] | None = None
    asked: Asked = static(Asked())

    KIND = "certification"
    _counted = "outcome"

    def __bool__(self) -> bool:
        raise TypeError(
            "an answer is no bool: ask .outcome == jc.Outcome.CERTIFIED, or .lower > 0"
        )

    def sentence(self) -> str:
        """Returns what came out, in plain words."""
        from jaxcert.report import sentence, summarise

        return sentence(summarise(self.records()), self.asked.tolerance)

    def __repr__(self) -> str:
        """Five lines: of how many inputs, what became of them, brackets, question."""
        from jaxcert.report.summary import described

        many = self.many()
        shape = np.shape(many.witness)[1:]
        return described(many.records(), self.asked, shape, self.single, many.doubts())

    def doubts(self) -> dict[int, float]:
        """Returns the margins of the unconfirmed counterexamples, by input.

        Of inputs for which no counterexample is confirmed: the attack found a point
        where the margin is so near 0 that rounding leaves its sign in doubt.
        """
        margins = self.many().suspect_margin
        if margins is None:
            return {}
        return {int(i): float(margins[i]) for i in np.flatnonzero(np.isfinite(margins))}

    @property
    def proofs(self) -> list[Proof | None]:
        """The branching tree of every box; None where bounds alone prove it.

        Raises:
          InputError: the answer was not recorded.
        """
        if self.recorded is None:
            raise InputError(
                "the answer holds no proofs: ask with jc.certify(..., record=True). "
                "jc.write_certificates writes them for the independent checker"
            )
        kept = np.atleast_1d(np.asarray(self.recorded, object))
        return [one.proof for one in kept]

    def record_arrays(self) -> dict[str, np.ndarray]:
        """Returns what runs store beside `records`: boxes and counterexamples."""
        return {
            "lo": np.asarray(self.box.lo),
            "hi": np.asarray(self.box.hi),
            "witness": self.witness,
            "witness_class": self.witness_class,
        }

    def records(self, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Returns a record per input, as `certificates.jsonl` has them.

        Args:
          names: of the inputs; None for their numbers.

        Raises:
          InputError: there are not as many names as inputs.
        """
        many = self.many()
        count = len(many.outcome)
        names = [str(row) for row in range(count)] if names is None else list(names)
        if len(names) != count:
            raise InputError(f"{len(names)} names for {count} inputs: give one each")
        return [many._record(row, name) for row, name in enumerate(names)]

    def _record(self, row: int, name: str) -> dict[str, Any]:
        return {
            "input": name,
            "label": int(self.label[row]) if self.asked.labelled else None,
            "predicted": int(self.predicted[row]),
            "status": Outcome(self.outcome[row]).name.lower(),
            "objective": OBJECTIVES[self.asked.norm],
            "apothem_lower": float(self.lower[row]),
            "apothem_upper": float(self.upper[row]),
            **edge_measures(Box(self.box.lo[row], self.box.hi[row])),
            "required_margin": self.asked.required_margin,
            "arithmetic": "real",
            "oracle": self.asked.oracle,
            "oracle_calls": int(self.oracle_calls[row]),
            "subproblems": int(self.subproblems[row]),
            "seconds": None,
        }

    def table(self, width: int = 80, names: Sequence[str] | None = None) -> str:
        """Returns the answer as text: inputs or classes, totals, and one sentence.

        Args:
          width: columns, at least 66.
          names: of the inputs; None for their numbers.
        """
        from jaxcert.report import summarise, table

        records = self.records(names)
        return table(records, summarise(records), width, self.asked.tolerance)

    def to_latex(self) -> str:
        """Returns a LaTeX table (booktabs) of classes, proved numbers rounded down."""
        from jaxcert.report.latex import latex

        return latex(self.records())

    def plot(self) -> Figure:
        """Returns a matplotlib figure: certified accuracy over the radius.

        Below the solid line it is proved, above the dashed one refuted.
        """
        from jaxcert.report.charts import LIGHT, accuracy
        from jaxcert.report.pictures import units

        shape = np.shape(self.many().witness)[1:]
        return accuracy(self.records(), units(self.asked.config(), shape), LIGHT)

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        names: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Path:
        """Writes one self-contained HTML page, and returns its path.

        Args:
          path: of the page, ending in .html.
          names: of the inputs; None for their numbers.
          class_names: one per class; None for their numbers.

        Raises:
          InputError: the answer does not know its inputs, names do not fit, or the page
            cannot be written.
        """
        from jaxcert.report.page import write_page
        from jaxcert.report.stored import Run

        many = self.many()
        if many.x is None:
            raise InputError("the answer does not know its inputs: ask jc.certify")
        config = self.asked.config()
        if class_names is not None:
            config["class_names"] = [str(name) for name in class_names]
        nowhere, notices = np.full(many.x.shape, np.nan), []
        if self.asked.stopped:
            notices.append(f"{self.asked.stopped} ended the search early.")
        notices += [
            f"Input {row}: the attack took a point for a counterexample, and rounding "
            f"leaves that in doubt (margin {margin:.1e} in float64). Unconfirmed: "
            "nothing is claimed of it."
            for row, margin in self.doubts().items()
        ]
        run = Run(
            self.records(names), many.x, np.asarray(many.box.lo),
            np.asarray(many.box.hi), nowhere, nowhere, many.witness,
            many.witness_class, config, {"complete": True}, tuple(notices),
        )  # fmt: skip
        return write_page(run, Path(path))

    @classmethod
    def _understood(cls, told: Mapping[str, Any]) -> dict[str, Any]:
        return {"asked": Asked(**super()._understood(told["asked"]))}

    def _check(self) -> None:
        """Raises ValueError where arrays do not fit, or brackets are disordered."""
        shape, wide = np.shape(self.outcome), self.witness.shape
        for name, value in self._arrays().items():
            expected = wide if name in _WIDE else shape
            if np.shape(value) != expected or value.dtype.kind not in "if":
                raise ValueError(f"{name} is {value.dtype} of shape {np.shape(value)}")
        if len(shape) > 1 or wide[: len(shape)] != shape:
            raise ValueError(f"outcome has shape {shape}")
        if not np.isin(self.outcome, [int(o) for o in Outcome]).all():
            raise ValueError("outcome holds a value that is none")
        if not np.all((self.lower >= 0) & (self.lower <= self.upper)):
            raise ValueError("a bracket is not ordered")
        if not math.isfinite(self.asked.required_margin):
            raise ValueError("required_margin is no number")
