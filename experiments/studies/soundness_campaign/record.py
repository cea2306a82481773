"""What a group of the campaign found, and how a violation is judged and saved."""

from __future__ import annotations

import dataclasses
import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcert.runs.array_files import read_npz
from jaxcert.runs.files import read_json, write_atomically
from jaxcert.verdict import Status
from studies.soundness_campaign.networks import Architecture, Params
from studies.soundness_campaign.own import own_margin

# So many suspicions of a group are judged exactly; the rest is taken for the same.
_MOST_JUDGED = 100
# Claims that were held against an exact answer already.
_CERTAIN = (
    "witness outside", "box too small", "proved, exactly not", "refuted, exactly not",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Suspicion:
    """A claim that longdouble contradicts, to be judged exactly.

    Attributes:
      claim: what was claimed: "proved" (judged at a point), "proved, exactly not",
        "refuted" (likewise), "refuted, exactly not", "bound", "witness outside" or
        "box too small".
      oracle: which oracle claimed it, on which kind of network and box.
      architecture, params: the network.
      lo, hi: the box.
      rows, offset: the spec `rows y + offset > 0`, all rows of which must hold.
      point: of the box; the rows are judged there.
      route: the way to the library: see `_campaign_exact.Asker`.
      text: of the VNN-LIB file that was asked about; then rows and offset are of one
        of its disjuncts.
    """

    claim: str
    oracle: str
    architecture: Architecture
    params: Params
    lo: np.ndarray
    hi: np.ndarray
    rows: np.ndarray
    offset: np.ndarray
    point: np.ndarray
    route: str = "jax"
    text: str = ""

    def margin(self) -> Fraction | Decimal | float:
        """Returns the least row at the point: see `exact_margin`."""
        return exact_margin(
            self.architecture, self.params, self.point, self.rows, self.offset
        )

    def stands(self) -> bool:
        """Whether the claim is false indeed."""
        if self.claim in _CERTAIN:
            return True
        if self.architecture.own:
            return self._stands_for_itself()
        margin = self.margin()
        if margin != margin:
            return False
        if self.claim == "refuted":
            return margin > 0
        return margin < 0 if self.claim == "bound" else margin <= 0

    def _stands_for_itself(self) -> bool:
        asked = self.architecture, self.params, self.point, self.rows, self.offset
        margin, doubt = own_margin(*asked)
        if self.claim != "refuted":
            return margin + Fraction(doubt) <= 0
        # A witness may be a number that only wider inputs can hold.
        wide, doubt_there = own_margin(*asked, wide=True)
        return margin > doubt and wide > doubt_there


def exact_margin(
    architecture: Architecture,
    params: Params,
    point: np.ndarray,
    rows: np.ndarray,
    offset: np.ndarray,
) -> Fraction | Decimal | float:
    """Returns the least of `rows y + offset` at a point, without rounding.

    Of the outputs in the types that f states, where it rounds on the way.
    """
    if architecture.own:
        return own_margin(architecture, params, point, rows, offset)[0]
    number = Fraction if architecture.rational else Decimal
    y = architecture.exact(params, np.asarray(point, np.float64))
    values = []
    for row, shift in zip(np.atleast_2d(rows), np.atleast_1d(offset), strict=True):
        terms = [number(float(c)) * v for c, v in zip(row, y, strict=True) if c]
        values.append(sum(terms, number(float(shift))))
    return min(values)


@dataclasses.dataclass
class Tally:
    """What one group found; counts are of verdicts, but for `networks`."""

    networks: int = 0
    proved: int = 0
    refuted: int = 0
    unknown: int = 0
    suspicions: list[Suspicion] = dataclasses.field(default_factory=list)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def count(self, status: Any) -> None:
        """Adds verdicts: one status or an array of them."""
        status = np.asarray(status)
        self.proved += int((status == Status.PROVED).sum())
        self.refuted += int((status == Status.REFUTED).sum())
        self.unknown += int((status == Status.UNKNOWN).sum())

    def note(self, name: str, count: int = 1) -> None:
        """Adds to a count of its own, kept in the group's record."""
        self.notes[name] = self.notes.get(name, 0) + int(count)

    def judged(self) -> tuple[list[Suspicion], int]:
        """Returns violations, exactly confirmed, and the number of suspicions left.

        The latter were not judged, for there were too many. False verdicts come before
        bounds that are off by more than the slack.
        """
        ranked = sorted(self.suspicions, key=lambda s: s.claim == "bound")
        chosen = ranked[:_MOST_JUDGED]
        return [s for s in chosen if s.stands()], len(self.suspicions) - len(chosen)


def save(folder: Path, name: str, violation: Suspicion) -> None:
    """Writes NAME.npz (weights, box, spec, point) and NAME.json (what it is)."""
    folder.mkdir(parents=True, exist_ok=True)
    leaves = {
        f"p{i}_{j}": v for i, p in enumerate(violation.params) for j, v in enumerate(p)
    }
    arrays = {k: getattr(violation, k) for k in ("lo", "hi", "rows", "offset", "point")}
    np.savez(folder / f"{name}.npz", **leaves, **arrays)  # type: ignore[arg-type]
    margin = violation.margin()
    text = {
        "claim": violation.claim,
        "oracle": violation.oracle,
        "shape": violation.architecture.shape,
        "layers": violation.architecture.layers,
        "exact_margin": f"{float(margin):.17g}",
        "exact_in": violation.architecture.judge,
        "route": violation.route,
        "text": violation.text,
        "reproduce": f"soundness_campaign.py --reproduce={name}.json",
    }
    write_atomically(folder / f"{name}.json", json.dumps(text, indent=1).encode())


def load(path: Path) -> Suspicion:
    """Returns a violation as `save` wrote it."""
    text = read_json(path, "Name a violation that the campaign wrote")
    architecture = Architecture(tuple(text["shape"]), tuple(text["layers"]))
    remedy = "Name a violation that the campaign wrote"
    arrays = read_npz(path.with_suffix(".npz"), remedy)
    params = tuple(
        tuple(arrays[f"p{i}_{j}"] for j in range(len(shapes)))
        for i, shapes in enumerate(architecture.parameter_shapes())
    )
    named = {k: arrays[k] for k in ("lo", "hi", "rows", "offset", "point")}
    return Suspicion(
        text["claim"], text["oracle"], architecture, params, **named,
        route=text["route"], text=text["text"],
    )  # fmt: skip


def stack(trees: list[Any]) -> Any:
    """Returns trees of arrays as one tree with a leading axis."""
    return jax.tree.map(lambda *v: np.stack(v), *trees)


def pick(tree: Any, index: int) -> Any:
    """Returns one tree of a stack."""
    return jax.tree.map(lambda v: np.asarray(v[index]), tree)
