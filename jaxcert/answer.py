"""What an answer can do, of whichever family: be counted, indexed, kept and shown."""

from __future__ import annotations

import abc
import dataclasses
import importlib
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import numpy as np

from jaxcert.box import Box
from jaxcert.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxcert.report.charts import Scheme

_KINDS = {
    "certification": "jaxcert.certification.Certification",
    "dual boxes": "jaxcert.dual_answer.DualBoxes",
    "semantic apothems": "jaxcert.semantic.answers.SemanticApothems",
    "semantic verdicts": "jaxcert.semantic.answers.SemanticVerdicts",
    "output ranges": "jaxcert.semantic.answers.OutputRanges",
    "smoothed certificates": "jaxcert.smoothing.answers.SmoothedCertificates",
    "harmless certificates": "jaxcert.smoothing.answers.HarmlessCertificates",
    "convex radii": "jaxcert.convex.answers.Radii",
}
"""What a file may hold, and the class of that."""
VERSION = 1
"""Of the files that `Answer.save` writes."""
_REMEDY = "Write it again, with its method save"


def static(default: Any = dataclasses.MISSING) -> Any:
    """Returns a field of an answer that is of all its rows alike."""
    return dataclasses.field(default=default, metadata={"static": True})


class Answer(abc.ABC):
    """An answer about several inputs or boxes; a part of it is an answer again.

    A subclass is a frozen dataclass, registered as a pytree. Its fields are arrays (or
    boxes of such, or None) with a leading axis over the rows, which the answer about
    one lacks; but for those that are `static`, which are of all rows alike.

    Attributes:
      KIND: what it is called in files.
    """

    KIND: ClassVar[str]

    # Field of one number per row, which tells how many rows there are.
    _counted: ClassVar[str]

    @abc.abstractmethod
    def sentence(self) -> str:
        """Returns what came out, in plain words."""

    @abc.abstractmethod
    def table(self, width: int = 80, names: Sequence[str] | None = None) -> str:
        """Returns the answer as text: a row per input, and one sentence.

        Args:
          width: columns.
          names: of the inputs; None for their numbers.
        """

    @abc.abstractmethod
    def to_latex(self) -> str:
        """Returns a LaTeX table (booktabs)."""

    @abc.abstractmethod
    def plot(self) -> Figure:
        """Returns a matplotlib figure of it."""

    @abc.abstractmethod
    def report(
        self, path: str | os.PathLike[str], *, names: Sequence[str] | None = None
    ) -> Path:
        """Writes one self-contained HTML page, and returns its path.

        Args:
          path: of the page, ending in .html.
          names: of the inputs; None for their numbers.

        Raises:
          InputError: names do not fit, or the page cannot be written.
        """

    @property
    def single(self) -> bool:
        """Whether it is the answer of one input, without a leading axis."""
        return np.ndim(getattr(self, self._counted)) == 0

    def __len__(self) -> int:
        """How many inputs it answers.

        Raises:
          TypeError: it is the answer of one input, which has no axis to count.
        """
        if self.single:
            raise TypeError("the answer is of one input: it has no length")
        return len(getattr(self, self._counted))

    def __bool__(self) -> bool:
        raise TypeError("an answer is no bool: ask for its arrays, such as .lower > 0")

    def __getitem__(self, index: Any) -> Self:
        """Returns the answer of one input, or of those of a slice, mask or index array.

        Raises:
          TypeError: it is the answer of one input.
          IndexError: there is no such input.
        """
        if self.single:
            raise TypeError("the answer is of one input: there is nothing to index")
        return jax.tree.map(lambda v: np.asarray(v)[index], self)

    def __iter__(self) -> Iterator[Any]:
        """Yields the answer of each input."""
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        """What it is of and what came out, in five lines at most."""
        many = self.many()
        said = textwrap.wrap(many.sentence(), 76, max_lines=4, placeholder=" ...")
        what = "one" if self.single else str(len(many))
        return "\n  ".join([f"{type(self).__name__} of {what}", *said])

    def many(self) -> Self:
        """Returns the answer with an axis over the inputs, also if it is of one."""
        if not self.single:
            return self
        return jax.tree.map(lambda v: np.asarray(v)[None], self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the answer to an .npz file, for `jaxcert.load`; returns its path.

        What it was recorded with (the network, branching trees) is not in it: for
        proofs write certificates, with `jaxcert.write_certificates`.

        Raises:
          InputError: the file cannot be written, or is not called .npz.
        """
        from jaxcert.runs import strict_json
        from jaxcert.runs.array_files import write_npz

        target = Path(path)
        if target.suffix != ".npz":
            raise InputError(f"cannot save to {target}: name a file that ends in .npz")
        told = strict_json.encode(self._told(), "the answer")
        head = strict_json.dumps({"format": _format(self.KIND), **told}, "head")
        arrays = {name: np.asarray(v) for name, v in self._arrays().items()}
        write_npz(target, {**arrays, "head": np.array(head)}, True)
        return target

    def _told(self) -> dict[str, Any]:
        """Returns the static fields, as JSON holds them."""
        told = {f.name: getattr(self, f.name) for f in _fields(self, static=True)}
        return {
            name: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v  # type: ignore[arg-type]
            for name, v in told.items()
        }

    @classmethod
    def _understood(cls, told: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the static fields of what `_told` returned."""
        return {name: _tuples(value) for name, value in told.items()}

    def _arrays(self) -> dict[str, Any]:
        """Returns the other fields by name: the faces of a box, what is not None."""
        arrays: dict[str, Any] = {}
        for field in _fields(self, static=False):
            value = getattr(self, field.name)
            if isinstance(value, Box):
                lo, hi = _faces(field.name)
                arrays |= {lo: value.lo, hi: value.hi}
            elif value is not None:
                arrays[field.name] = value
        return arrays

    @classmethod
    def _of_file(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        """Returns the answer of what a file holds; raises as reading may."""
        given: dict[str, Any] = cls._understood(told)
        for field in _fields(cls, static=False):
            lo, hi = _faces(field.name)
            if lo in arrays:
                given[field.name] = Box(arrays[lo], arrays[hi])
            elif field.name in arrays:
                given[field.name] = arrays[field.name]
        answer = cls(**given)
        answer._check()
        if answer.single:
            # numpy keeps arrays () apart from the numbers that it holds of one input.
            return jax.tree.map(lambda v: v[()], answer)
        return answer

    def _check(self) -> None:
        """Raises ValueError where arrays do not fit."""
        shape = np.shape(getattr(self, self._counted))
        if len(shape) > 1:
            raise ValueError(f"{self._counted} has shape {shape}")
        for name, value in self._arrays().items():
            own = np.asarray(value)
            if own.dtype.kind not in "ifb" or own.shape[: len(shape)] != shape:
                raise ValueError(f"{name} is {own.dtype} of shape {own.shape}")


class Listed(Answer):
    """An answer that is shown as a list: a row of texts for every input.

    Attributes:
      TITLE: what it is called on a page.
      HEADS: of its table; the first column holds the names.
      TERMS: words that the page uses, and what they mean.
    """

    TITLE: ClassVar[str]
    HEADS: ClassVar[tuple[str, ...]]
    TERMS: ClassVar[Mapping[str, str]]

    @abc.abstractmethod
    def claim(self) -> str:
        """Returns what is claimed, and on what it rests."""

    @abc.abstractmethod
    def cells(self) -> list[tuple[str, ...]]:
        """Returns a row of texts per input, without its name; proved rounded down."""

    @abc.abstractmethod
    def draw(self, scheme: Scheme) -> Figure:
        """Returns a matplotlib figure in the colours of a scheme."""

    def facts(self) -> dict[str, Any]:
        """Returns what was asked, for the page."""
        return {}

    def plot(self) -> Figure:
        """Returns a matplotlib figure of it."""
        from jaxcert.report.charts import LIGHT

        return self.many().draw(LIGHT)

    def table(self, width: int = 80, names: Sequence[str] | None = None) -> str:
        """Returns the answer as text; see `Answer`."""
        from jaxcert.report.table import plain_table

        many = self.many()
        shown = plain_table(self.HEADS, many._named(names), width)
        return "\n".join([shown, "", *textwrap.wrap(many.sentence(), width)])

    def to_latex(self) -> str:
        """Returns a LaTeX table (booktabs) with a row per input."""
        from jaxcert.report.latex import latex_rows

        return latex_rows(self.HEADS, self.many()._named(None))

    def report(
        self, path: str | os.PathLike[str], *, names: Sequence[str] | None = None
    ) -> Path:
        """Writes one self-contained HTML page; see `Answer`."""
        from jaxcert.report.answers import Answers, Rows, Shown, write_answers
        from jaxcert.report.charts import in_both

        many = self.many()
        picture = Shown(self.TITLE, in_both(many.draw), many.sentence())
        page = Answers(
            title=self.TITLE,
            sentence=many.sentence(),
            claims=(many.claim(),),
            facts=many.facts(),
            terms=self.TERMS,
            tables=(Rows("All rows", self.HEADS, many._named(names)),),
            pictures=(picture,) if len(many) else (),
        )
        return write_answers(Path(path), page)

    def _named(self, names: Sequence[str] | None) -> list[tuple[str, ...]]:
        cells = self.cells()
        given = [str(row) for row in range(len(cells))] if names is None else names
        if len(given) != len(cells):
            raise InputError(f"{len(given)} names for {len(cells)} rows: give one each")
        return [(str(n), *row) for n, row in zip(given, cells, strict=True)]


def load(path: str | os.PathLike[str]) -> Any:
    """Returns the answer that its method `save` wrote, of whichever family.

    A file proves nothing: whoever wrote it is believed. `jaxcert check` checks
    certificates, which are files of their own.

    Args:
      path: the file.

    Raises:
      InputError: there is no such file, it is damaged, or of a version that is not
        known here.

    Example:
      >>> import tempfile, jax.numpy as jnp, jaxcert as jc
      >>> w = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> answer = jc.certify(lambda w, x: w @ x, w, jnp.array([[0.75, 0.25]]))
      >>> path = answer.save(tempfile.mkdtemp() + "/answer.npz")
      >>> jc.load(path).upper.round(3).tolist()
      [0.25]
    """
    from jaxcert.runs import strict_json
    from jaxcert.runs.array_files import read_npz
    from jaxcert.runs.files import parse_json

    arrays = read_npz(path, _REMEDY)
    try:
        told = strict_json.decode(parse_json(str(arrays.pop("head"))))
        form = told.pop("format")
        kinds = {_format(kind): home for kind, home in _KINDS.items()}
        if form not in kinds:
            raise ValueError(
                f"its format is {form!r}, this version reads {', '.join(kinds)}"
            )
        module, _, name = kinds[form].rpartition(".")
        kind: type[Answer] = getattr(importlib.import_module(module), name)
        return kind._of_file(told, arrays)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(
            f"{os.fspath(path)} holds no answer that this version can read ({reason}). "
            f"{_REMEDY}"
        ) from error


def _format(kind: str) -> str:
    return f"jaxcert {kind} {VERSION}"


def _fields(of: Any, *, static: bool) -> list[dataclasses.Field]:
    return [
        field
        for field in dataclasses.fields(of)
        if bool(field.metadata.get("static")) == static
        and field.metadata.get("saved", True)
    ]


def _faces(name: str) -> tuple[str, str]:
    """Returns what the faces of the box of a field are called in a file."""
    prefix = "" if name == "box" else f"{name}_"
    return f"{prefix}lo", f"{prefix}hi"


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
