"""Inputs of two features: decision regions, the boxes in them, dual boxes around."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from jaxcert.errors import InputError
from jaxcert.report.charts import Picture, Scheme, chart, in_both, legend
from jaxcert.report.pictures import Example
from jaxcert.runs.array_files import read_npz, write_npz

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REGIONS = "regions.npz"
# Light and dark tints of the colours of Okabe and Ito, one per class in turn.
_TINTS = {
    "": ("#cfe6f5", "#f7e3b5", "#cdeadf", "#f3d9e6", "#e4e4e4", "#f6d4bd"),
    "-dark": ("#22394a", "#4a3f20", "#1f4038", "#45303c", "#383838", "#4a3020"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
    """Which class wins where, over a domain of two features.

    Attributes:
      first, second: values of the features, increasing, (a,) and (b,).
      classes: winner at (first[i], second[j]), (a, b); sampled, so nothing is proved.
      dual_lo, dual_hi: dual box of each class, proved, (K, 2); [inf, -inf] if empty.
    """

    first: Float[np.ndarray, " a"]
    second: Float[np.ndarray, " b"]
    classes: Int[np.ndarray, "a b"]
    dual_lo: Float[np.ndarray, "K 2"]
    dual_hi: Float[np.ndarray, "K 2"]

    def write(self, directory: Path) -> None:
        """Writes them beside a run, for its report."""
        write_npz(directory / REGIONS, dataclasses.asdict(self), compressed=True)

    @staticmethod
    def read(directory: Path) -> Regions | None:
        """Returns those of a run; None if it has none.

        Raises:
          InputError: the file is damaged.
        """
        path = directory / REGIONS
        if not path.exists():
            return None
        names = [field.name for field in dataclasses.fields(Regions)]
        arrays = read_npz(path, "Delete it", names)
        numbers = all(a.dtype.kind in "fiu" for a in arrays.values())
        rows, classes = (len(arrays[n]) if arrays[n].ndim else 0
                         for n in ("first", "dual_lo"))  # fmt: skip
        expected = {
            "first": (rows,), "second": arrays["classes"].shape[1:],
            "classes": (rows, arrays["second"].size),
            "dual_lo": (classes, 2), "dual_hi": (classes, 2),
        }  # fmt: skip
        shapes = {name: array.shape for name, array in arrays.items()}
        if not numbers or shapes != expected or not arrays["classes"].size:
            raise InputError(f"{path} is damaged (shapes {shapes}). Delete it")
        winners = arrays["classes"]
        if (
            winners.dtype.kind == "f"
            or not 0 <= winners.min() <= winners.max() < classes
        ):
            raise InputError(f"{path} is damaged (a class that is none). Delete it")
        return Regions(**arrays)


def plane(regions: Regions, example: Example, label: int, names: Any) -> Picture:
    """Returns the boxes of an input over the regions of the classes.

    Args:
      regions: of the network.
      example: an input of two features, in any shape.
      label: its class, whose dual box is drawn.
      names: of the features, or None.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    names = names or ("feature 0", "feature 1")
    first, second = regions.first, regions.second
    count = int(max(regions.classes.max(), label)) + 1

    def draw(scheme: Scheme) -> Figure:
        fig, ax = chart(scheme, 6.4, 5.2)
        tints = _TINTS[scheme.suffix]
        ax.imshow(
            regions.classes.T,
            origin="lower",
            extent=(first[0], first[-1], second[0], second[-1]),
            aspect="auto",
            interpolation="nearest",
            cmap=ListedColormap([tints[k % len(tints)] for k in range(count)]),
            vmin=-0.5,
            vmax=count - 0.5,
        )
        for k in np.unique(regions.classes):
            ax.text(
                *_middle(regions, k), f"class {k}", color=scheme.ink, fontsize=10,
                alpha=0.75, ha="center", va="center",
            )  # fmt: skip
        boxes = [
            ((regions.dual_lo[label], regions.dual_hi[label]), "--", 1.6, scheme.ink,
             "dual box of its class"),
            (example.grown, "-", 2.2, scheme.proved, "grown box, proved"),
            (example.box, "-", 1.4, scheme.refuted, "cube, proved"),
        ]  # fmt: skip
        for box, line, width, colour, text in boxes:
            if box is None or not np.all(np.ravel(box[0]) <= np.ravel(box[1])):
                continue
            (x, y), (right, top) = np.ravel(box[0]), np.ravel(box[1])
            ax.add_patch(
                Rectangle(
                    (x, y), right - x, top - y, fill=False, linestyle=line,
                    linewidth=width, edgecolor=colour, label=text, clip_on=False,
                )
            )  # fmt: skip
        for point, mark, colour, text in (
            (example.witness, "X", scheme.refuted, "nearest counterexample"),
            (example.x, "o", scheme.ink, "input"),
        ):
            if point is not None:
                ax.plot(
                    *np.ravel(point), mark, color=colour, markersize=8,
                    markeredgecolor=scheme.paper, linestyle="", label=text,
                )  # fmt: skip
        ax.grid(visible=False)
        ax.set_xlabel(str(names[0]).replace("$", r"\$"))
        ax.set_ylabel(str(names[1]).replace("$", r"\$"))
        legend(ax, scheme, loc="lower center", ncols=2, bbox_to_anchor=(0.5, 1.0))
        return fig

    return in_both(draw)


def _middle(regions: Regions, label: int) -> tuple[float, float]:
    """Returns the point of a class that is nearest to the middle of its region."""
    where = np.argwhere(regions.classes == label)
    away = np.sum((where - where.mean(axis=0)) ** 2, axis=1)
    i, j = where[np.argmin(away)]
    return float(regions.first[i]), float(regions.second[j])
