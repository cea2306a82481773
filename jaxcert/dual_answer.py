"""The dual boxes of several classes, as one answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from jaxcert.answer import Listed
from jaxcert.box import Box
from jaxcert.report.summary import format_number
from jaxcert.search.dual import DualBox

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxcert.report.charts import Scheme

STATES = ("closed", "open", "empty")
_LEAVES = ("domain", "outer", "inner")
_PLAIN = ("label", "witness", "tolerance", "subproblems", "seconds")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DualBoxes(Listed):
    """The dual box of every class that was asked about, in order.

    A part is such an answer again, but one of them is a `DualBox`.

    Attributes:
      boxes: of the classes.
    """

    boxes: tuple[DualBox, ...]

    KIND = "dual boxes"
    TITLE = "Dual boxes"
    HEADS = (
        "box", "class", "status", "faces", "on the domain", "smaller", "open",
        "widest", "subproblems",
    )  # fmt: skip
    TERMS = {
        "on the domain": "Faces that are exactly the domain's: an instance lies there.",
        "smaller": "Faces that are proved to lie inside the domain.",
        "open": "Faces whose outer and inner ends are farther apart than the "
        "tolerance.",
        "widest": "The widest bracket of a face.",
    }
    CLAIM = (
        "Claim: beyond the outer box of a class no point of the domain is of the "
        "class; that is proved in float64 with a margin for rounding. A stored "
        "instance of the class reaches each face of the inner box. Of an empty class "
        "it is proved that the domain holds no point."
    )

    @property
    def single(self) -> bool:
        """Whether it is of one box alone; it never is, which is a `DualBox`."""
        return False

    def __len__(self) -> int:
        """How many boxes there are."""
        return len(self.boxes)

    def __getitem__(self, index: Any) -> Any:
        """Returns the box of one class, or the answer of those of a slice or mask."""
        if isinstance(index, int | np.integer):
            return self.boxes[index]
        rows = np.arange(len(self))[index]
        return DualBoxes(tuple(self.boxes[row] for row in rows))

    def many(self) -> Self:
        """Returns it as it is: it has an axis over the boxes."""
        return self

    def sentence(self) -> str:
        """Returns what came out, in plain words."""
        states = [box.status for box in self.boxes]
        told = ", ".join(f"{states.count(s)} {s}" for s in STATES)
        return f"{len(states)} boxes: {told}."

    def claim(self) -> str:
        """Returns what is claimed, and on what it rests."""
        return self.CLAIM

    def cells(self) -> list[tuple[str, ...]]:
        """Returns a row of texts per box, without its name; widths rounded up."""
        return [
            (
                str(box.label), box.status, str(box.gap.size),
                str(int(box.on_domain.sum())),
                "0" if box.empty else str(int(box.smaller.sum())),
                str(int(box.open.sum())),
                format_number(float(np.max(box.gap)), "up"), str(box.subproblems),
            )
            for box in self.boxes
        ]  # fmt: skip

    def draw(self, scheme: Scheme) -> Figure:
        """Returns a bar per class, as high as the faces proved inside the domain."""
        from jaxcert.report.charts import counts

        faces = {
            f"class {box.label}": 0 if box.empty else int(box.smaller.sum())
            for box in self.boxes
        }
        return counts(faces, "faces proved inside the domain", scheme)

    def _arrays(self) -> dict[str, Any]:
        arrays = {n: np.array([getattr(b, n) for b in self.boxes]) for n in _PLAIN}
        for name in _LEAVES:
            pairs = [getattr(box, name) for box in self.boxes]
            arrays[f"{name}_lo"] = np.array([np.asarray(pair.lo) for pair in pairs])
            arrays[f"{name}_hi"] = np.array([np.asarray(pair.hi) for pair in pairs])
        return arrays

    def _told(self) -> dict[str, Any]:
        return {}

    @classmethod
    def _of_file(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        names = {*_PLAIN, *(f"{n}_{end}" for n in _LEAVES for end in ("lo", "hi"))}
        if names != set(arrays):
            raise ValueError(f"its arrays are {', '.join(sorted(arrays))}")
        count = len(arrays["label"])
        if any(len(array) != count for array in arrays.values()):
            raise ValueError("its arrays are of different lengths")

        def box(row: int) -> DualBox:
            ends: dict[str, Any] = {
                name: Box(arrays[f"{name}_lo"][row], arrays[f"{name}_hi"][row])
                for name in _LEAVES
            }
            plain: dict[str, Any] = {n: arrays[n][row] for n in _PLAIN}
            whole = {n: int(plain[n]) for n in ("label", "subproblems")}
            return DualBox(**ends, **(plain | whole))

        return cls(tuple(map(box, range(count))))
