"""Dual boxes: boxes proved to contain every legal input of a class.

Of each face there is a bracket. Its inner end is an instance of the class, a point that
goes that far; its outer end is proved: beyond it lies no point of the class, for there
another class is strictly ahead. So where two classes tie, a point counts as of both.
Every sound box of the class lies inside its dual box.

Most faces of a dual box of images lie on the domain's boundary, and an instance on that
boundary settles them. For every other face, one family of nested boxes grows from the
domain's face inwards, and branch and bound proves as many of them free of the class as
it can: a disjunction over the other classes, whose rows are weighed inside the bounds
(the multipliers of Kotha et al., "Provably bounding neural network preimages", NeurIPS
2023). Narrow inputs are split themselves; see `dual_split`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxcert.ball import enclosing
from jaxcert.bounds.alpha import layout_of
from jaxcert.bounds.crown import CrownOptions
from jaxcert.box import Box, Family, Rates, distances
from jaxcert.branch.brackets import close_brackets
from jaxcert.branch.cells import Reach, SplitTask, Stopwatch, not_class, split_domain
from jaxcert.branch.inputs import InputSplitOptions
from jaxcert.branch.instances import ApothemTask
from jaxcert.branch.linear_program import is_piecewise_linear
from jaxcert.branch.signs import BranchOptions
from jaxcert.devices import float64
from jaxcert.errors import InputError
from jaxcert.model import Model
from jaxcert.rows import select
from jaxcert.search.reach import (
    ReachOptions,
    Ties,
    attack_faces,
    ends,
    find_instances,
    snap,
    stretch,
)
from jaxcert.spec import Spec
from jaxcert.trace.program import Program
from jaxcert.witness.judge import Judge


@dataclasses.dataclass(frozen=True)
class DualOptions:
    """How dual boxes are computed.

    Attributes:
      tolerance: width of a bracket to reach, as a part of the feature's range in the
        domain, > 0.
      batch: faces that branch and bound works on at once, >= 1.
      reach: how instances are searched.
      branch: how branch and bound runs.
    """

    tolerance: float = 0.01
    batch: int = 64
    reach: ReachOptions = ReachOptions()
    branch: BranchOptions = BranchOptions(
        inputs=InputSplitOptions(
            block=256, steps=40, capacity=1 << 18, crown=CrownOptions(bucket=8)
        )
    )

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise InputError(f"tolerance is {self.tolerance}; it must be > 0")
        if self.batch < 1:
            raise InputError(f"batch is {self.batch}; it must be >= 1")


@dataclasses.dataclass(frozen=True, eq=False)
class DualTask:
    """What is asked, numpy float64.

    Attributes:
      domain: box of legal inputs, or the part of it that is of interest; shape d.
      labels: the classes whose dual boxes are wanted.
      points: where else to look for instances, (n, *d); may be empty.
    """

    domain: Box
    labels: Sequence[int]
    points: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DualBox:
    """The dual box of one class, numpy; F = 2d faces, lower ones first.

    Attributes:
      label: the class.
      domain: it is within this box, shape d.
      outer: proved to contain every point of the class; [inf, -inf] if there is none.
      inner: the least box that holds the instances known; [inf, -inf] without any.
      witness: the instance that goes farthest towards each face, (F, *d).
      tolerance: width of a closed bracket, per feature, shape d.
      subproblems: boxes or sign patterns that were bounded.
      seconds: after which the bracket of every face was closed, since the search began
        (that of all classes together, where the domain is split); NaN if open, (F,).
    """

    label: int
    domain: Box
    outer: Box
    inner: Box
    witness: np.ndarray
    tolerance: np.ndarray
    subproblems: int
    seconds: np.ndarray

    @staticmethod
    def unknown(label: int, domain: Box, tolerance: float) -> DualBox:
        """Returns all of the domain, of which nothing is known.

        Args:
          label: the class.
          domain: it is within this box.
          tolerance: as in `DualOptions`.
        """
        shape = domain.lo.shape
        nowhere, faces = np.full(shape, np.inf), 2 * domain.lo.size
        return DualBox(
            label=label, domain=domain, outer=domain,
            inner=Box(nowhere, -nowhere),  # type: ignore[arg-type]
            witness=np.full((faces, *shape), np.nan),
            tolerance=tolerance * np.asarray(domain.hi - domain.lo), subproblems=0,
            seconds=np.full(faces, np.nan),
        )  # fmt: skip

    def narrowed(self, other: DualBox) -> DualBox:
        """Returns what this box and another of the same question say together.

        Beyond either outer box no point of the class is; all instances are known.
        """

        def ends(lower: Any, upper: Any, name: str) -> Box:
            a, b = getattr(self, name), getattr(other, name)
            return Box(lower(a.lo, b.lo), upper(a.hi, b.hi))

        outer = ends(np.maximum, np.minimum, "outer")
        inner = ends(np.minimum, np.maximum, "inner")
        farther = np.concatenate(
            [
                np.reshape(other.inner.lo < self.inner.lo, -1),
                np.reshape(other.inner.hi > self.inner.hi, -1),
            ]
        )
        seconds = np.where(np.isnan(self.seconds), other.seconds, self.seconds)
        return dataclasses.replace(
            self, outer=outer, inner=inner, seconds=seconds,
            witness=select(farther, other.witness, self.witness),
            subproblems=self.subproblems + other.subproblems,
        )  # fmt: skip

    @property
    def empty(self) -> bool:
        """Whether it is proved that the domain holds no point of the class."""
        return not bool(np.all(self.outer.lo <= self.outer.hi))

    @property
    def status(self) -> str:
        """closed, open (a bracket is wider than the tolerance) or empty."""
        return "empty" if self.empty else "open" if self.open.any() else "closed"

    def __repr__(self) -> str:
        """What it is and what is known of its faces, in one line."""
        inside = 0 if self.empty else int(self.smaller.sum())
        return (
            f"DualBox of class {self.label}: {self.status}, {self.gap.size} faces, "
            f"{inside} proved inside the domain, {int(self.open.sum())} open"
        )

    @property
    def gap(self) -> np.ndarray:
        """Width of the bracket of every face, (F,); infinite without an instance."""
        if self.empty:
            return np.zeros(2 * self.tolerance.size)
        return np.concatenate(
            [
                (self.inner.lo - self.outer.lo).reshape(-1),
                (self.outer.hi - self.inner.hi).reshape(-1),
            ]
        )

    @property
    def open(self) -> np.ndarray:
        """Which brackets are wider than the tolerance, (F,)."""
        return self.gap > np.tile(self.tolerance.reshape(-1), 2)

    @property
    def on_domain(self) -> np.ndarray:
        """Which faces are exactly the domain's: an instance lies there, (F,)."""
        return _faces(self.inner) == _faces(self.domain)

    @property
    def smaller(self) -> np.ndarray:
        """Which faces are proved to lie inside the domain, (F,)."""
        return _faces(self.outer) != _faces(self.domain)


def dual_boxes(
    model: Model,
    task: DualTask,
    options: DualOptions,
    deadline: float = np.inf,
) -> Iterator[DualBox]:
    """Yields the dual box of every class as soon as it is known, in their order.

    Args:
      model: the network. If its inputs are wide, its only nonlinear parts are ReLUs,
        for brackets to be closed by branch and bound.
      task: what is asked.
      options: see there.
      deadline: `time.monotonic()` after which no further work begins; what is proved
        by then is yielded.

    Raises:
      InputError: the network does not return a vector of at least 2 logits, or has no
        such class.
    """
    boxes = _dual_boxes(model, task, options, deadline)
    while True:
        # Not around the yield: what runs between two boxes is none of this context.
        with float64():
            box = next(boxes, None)
        if box is None:
            return
        yield box


def _dual_boxes(
    model: Model, task: DualTask, options: DualOptions, deadline: float
) -> Iterator[DualBox]:
    program = model.program
    classes = checked_classes(program, task.labels)
    domain = jax.tree.map(np.asarray, task.domain)
    query = _Query(model, domain, options, deadline)
    narrow = program.input_size <= options.branch.narrow
    signs = is_piecewise_linear(program) and layout_of(program).size > 0
    if narrow or not signs:
        yield from _by_input(query, task, classes)
        return
    for label in task.labels:
        spec, watch = not_class(label, classes), Stopwatch(query.tolerance)
        strong = _strong_instances(query, spec, task.points)
        found = _by_signs(query, spec, *strong, watch)
        yield _result(query, label, *found, watch)


def checked_classes(program: Program, labels: Sequence[int]) -> int:
    """Returns how many classes there are.

    Raises:
      InputError: fewer than 2, or no such class as one of the labels.
    """
    if len(program.output_shape) != 1 or program.output_shape[0] < 2:
        raise InputError(
            f"the network returns shape {program.output_shape} for one input; dual "
            "boxes need a vector of at least 2 logits"
        )
    (classes,) = program.output_shape
    for label in labels:
        if not 0 <= label < classes:
            raise InputError(
                f"class {label} is out of range: the classes are 0 .. {classes - 1}"
            )
    return classes


@dataclasses.dataclass(frozen=True, eq=False)
class _Query:
    """What is the same for all classes."""

    model: Model
    domain: Box
    options: DualOptions
    deadline: float

    @property
    def width(self) -> np.ndarray:
        return np.asarray(self.domain.hi) - np.asarray(self.domain.lo)

    @property
    def tolerance(self) -> np.ndarray:
        return self.options.tolerance * self.width

    def batches(self, faces: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields faces in batches of one size, and which of them are no padding."""
        size = self.options.batch
        for start in range(0, len(faces), size):
            if time.monotonic() >= self.deadline:
                return
            part = faces[start : start + size]
            real = np.arange(size) < len(part)
            yield np.concatenate([part, np.repeat(part[:1], size - len(part))]), real


def _strong_instances(
    query: _Query, spec: Spec, points: np.ndarray
) -> tuple[Reach, np.ndarray]:
    """Returns what `find_instances` does, numpy, with points to start from as well."""
    domain = query.domain
    given = np.full((_bucket(len(points)), *domain.lo.shape), np.nan)
    given[: len(points)] = points
    return jax.device_get(
        find_instances(
            query.model.program,
            query.options.reach,
            query.model.double,
            domain,
            spec,
            given,
        )
    )


def _attacked(query: _Query, spec: Spec, reach: Reach, hints: np.ndarray) -> Reach:
    """Returns how far instances reach after an attack on every face not yet reached."""
    domain = query.domain
    missing = np.flatnonzero(_faces(reach.box()) != _faces(domain))
    for faces, real in query.batches(missing):
        found, valid = attack_faces(
            query.model.f, query.options.reach, query.model.double, domain, spec, faces,
            hints[faces],
        )  # fmt: skip
        reach = reach.joined(found, valid & real)
    return jax.device_get(reach)


def _bucket(count: int) -> int:
    size = 8
    while size < count:
        size *= 4
    return size


def _by_signs(
    query: _Query, spec: Spec, reach: Reach, hints: np.ndarray, watch: Stopwatch
) -> tuple[Box, Reach, int]:
    """Returns (dual box, instances, subproblems) of one class by branch and bound."""
    total, faces = 0, np.arange(2 * query.width.size)
    outer = _faces(query.domain).copy()
    if np.isnan(reach.point).all():
        # Is there any point of the class? Every face asks the same.
        proved, reach, processed = _advance(query, spec, reach, outer, faces[:1], watch)
        total += processed
        if proved:
            infinite = np.full(query.width.shape, np.inf)
            watch.note(0.0)
            return Box(infinite, -infinite), reach, total  # type: ignore[arg-type]
        if np.isnan(reach.point).all():
            return query.domain, reach, total
    reach = _attacked(query, spec, reach, hints)
    inner = _faces(reach.box())
    watch.note(np.abs(outer - inner))
    missing = np.flatnonzero(inner != _faces(query.domain))
    _, reach, processed = _advance(query, spec, reach, outer, missing, watch)
    halves: Any = (v.reshape(query.width.shape) for v in np.split(outer, 2))
    return Box(*halves), reach, total + processed


def _advance(
    query: _Query,
    spec: Spec,
    reach: Reach,
    outer: np.ndarray,
    faces: np.ndarray,
    watch: Stopwatch,
) -> tuple[bool, Reach, int]:
    """Moves the outer faces inwards as far as branch and bound proves it.

    Returns whether it proved that there is no point of the class, the instances, now
    with its witnesses, and how many subproblems it bounded.
    """
    total = 0
    for chosen, real in query.batches(faces):
        task = _face_task(query, spec, reach, chosen, real)
        answer = close_brackets(query.model, task, query.options.branch, query.deadline)
        total += int(answer.processed[real].sum())
        proved = real & answer.improved
        if np.any(proved & (answer.lower >= task.reach)):
            return True, reach, total
        lower = chosen < query.width.size
        # The excluded box and the outer one share the face that moved.
        box = enclosing(answer.box)
        moved = np.where(lower, _own(box.hi, chosen), _own(box.lo, chosen))
        outer[chosen[proved]] = moved[proved]
        seen: Any = real & np.isfinite(answer.upper)
        witness: Any = answer.witness
        reach = reach.joined(witness, seen)
        # A witness was found by halving: it may go the little that is left as well.
        nearest = np.asarray(reach.point)[chosen]
        on_face = snap(
            query.model.program, query.model.double, query.domain, spec, chosen, nearest
        )
        reach = jax.device_get(reach.joined(*on_face))
        watch.note(np.abs(outer - _faces(reach.box())))
    return False, reach, total


def _face_task(
    query: _Query, spec: Spec, reach: Reach, faces: np.ndarray, real: np.ndarray
) -> ApothemTask:
    """Returns, per face, the boxes that grow from it inwards; 1 is the whole domain."""
    domain, count, features = query.domain, len(faces), query.width.size
    shape = (count, *query.width.shape)
    lo, hi = (
        np.tile(np.reshape(v, (1, features)), (count, 1))
        for v in (domain.lo, domain.hi)
    )
    row, feature, end = np.arange(count), faces % features, _faces(domain)[faces]
    lo[row, feature] = hi[row, feature] = end
    inwards = np.zeros((2, count, features))
    # From a lower face the upper one moves, and the other way round.
    inwards[(faces < features).astype(int), row, feature] = query.width.flat[feature]
    rates: Any = (v.reshape(shape) for v in inwards)
    core: Any = (lo.reshape(shape), hi.reshape(shape))
    everywhere = jax.tree.map(lambda v: np.broadcast_to(v, shape), domain)
    family = Family(Box(*core), everywhere, Rates(*rates))
    known = np.asarray(reach.point)[faces]
    unknown = np.isnan(known).reshape(count, -1).any(axis=1)
    upper = distances(family, known)
    return ApothemTask(
        family=family,
        spec=jax.tree.map(lambda v: np.repeat(np.asarray(v)[None], count, 0), spec),
        lower=np.zeros(count),
        upper=np.where(unknown, np.inf, upper),
        witness=known,
        reach=np.ones(count),
        wanted=real,
        tolerance=query.options.tolerance,
    )


def _own(faces: Any, chosen: np.ndarray) -> np.ndarray:
    """Returns the feature that belongs to each chosen face."""
    flat = np.asarray(faces).reshape(len(chosen), -1)
    return flat[np.arange(len(chosen)), chosen % flat.shape[1]]


def _by_input(query: _Query, task: DualTask, classes: int) -> Iterator[DualBox]:
    """Yields the dual boxes of all classes, found by splitting the domain itself."""
    search, domain = query.options.reach, query.domain
    program, params = query.model.program, query.model.double
    found, begin = [], time.monotonic()
    specs = [not_class(label, classes) for label in task.labels]
    judge = Judge(query.model)
    # Less than the tolerance, so that no cell is left for points that are not judged.
    ties = [Ties(judge, domain, spec, query.tolerance / 2) for spec in specs]

    def stretched(k: int, reach: Reach, turn: int) -> Reach:
        return stretch(program, search, params, domain, specs[k], reach, np.int32(turn))

    def moved(k: int, reach: Reach, suspect: Reach, turn: int) -> Reach:
        return stretched(k, ties[k].joined(reach, suspect), turn)

    watches = [Stopwatch(query.tolerance, begin) for _ in task.labels]
    for k, watch in enumerate(watches):
        strong = _strong_instances(query, specs[k], task.points)
        found.append(stretched(k, _attacked(query, specs[k], *strong), 0))
        watch.note(np.abs(_faces(domain) - _faces(found[-1].box())))
    reach = jax.tree.map(lambda *v: np.stack(v), *found)
    split = SplitTask(
        program=program, params=params, domain=domain,
        labels=tuple(task.labels), num_classes=classes, reach=reach,
        tolerance=query.tolerance,
    )  # fmt: skip
    outer, reach, processed = split_domain(
        split, query.options.branch.inputs, moved, query.deadline, watches
    )
    for k, label in enumerate(task.labels):
        box, own = (jax.tree.map(lambda v, k=k: v[k], part) for part in (outer, reach))
        yield _result(query, label, box, own, int(processed[k]), watches[k])


def _result(
    query: _Query,
    label: int,
    outer: Box,
    reach: Reach,
    subproblems: int,
    watch: Stopwatch,
) -> DualBox:
    """Returns the dual box, after a check that no instance lies outside it."""
    inner = jax.device_get(reach.box())
    if not (np.all(outer.lo <= inner.lo) and np.all(inner.hi <= outer.hi)):
        raise AssertionError(
            f"an instance of class {label} lies outside of the box that was proved to "
            "contain them all. This is a bug of jaxcert: please report it with the "
            "network"
        )
    return DualBox(
        label=int(label), domain=query.domain, outer=outer, inner=inner,
        witness=np.asarray(reach.point),
        tolerance=query.tolerance, subproblems=subproblems, seconds=watch.seconds,
    )  # fmt: skip


def _faces(box: Box) -> np.ndarray:
    return np.asarray(ends(box))
