"""Spec: what must hold for every output over a box."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxcert.errors import InputError

_MOST_CLAUSES = 10_000


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spec:
    """Rows `C y + d > 0`, joined to clauses: every clause needs one row that holds.

    With every row its own clause (the constructors `classification`, `targeted`, `rows`
    and `output_range`) all rows must hold. `disjunction` makes one clause of all its
    rows, `top_k` and `among` several of some.

    Attributes:
      coefficients: C, shape (rows, outputs).
      offset: d, shape (rows,).
      clause: index of the clause of each row, shape (rows,).
      num_clauses: number of clauses (static).
    """

    coefficients: Float[Array, "rows outputs"]
    offset: Float[Array, " rows"]
    clause: Int[Array, " rows"]
    num_clauses: int = dataclasses.field(metadata={"static": True})

    @staticmethod
    def rows(
        coefficients: Float[ArrayLike, "rows outputs"],
        offset: Float[ArrayLike, " rows"],
    ) -> Spec:
        """Returns the spec that asks every row `C y + d > 0` to hold.

        Raises:
          InputError: no row, or shapes that do not fit.
        """
        rows, constants = _checked_rows(coefficients, offset)
        count = rows.shape[0]
        return Spec(rows, constants, jnp.arange(count), count)

    @staticmethod
    def classification(
        label: Int[ArrayLike, ""],
        num_classes: int,
        required_margin: Float[ArrayLike, ""] = 0.0,
        dtype=jnp.float32,
    ) -> Spec:
        """Returns `y_label - y_j - required_margin > 0` for every other class j.

        One row per other class, in increasing order of j: shape (num_classes - 1,).
        The label may be traced; it must lie in 0 .. num_classes - 1, which is checked
        where its value is known.

        Raises:
          InputError: fewer than 2 classes, or a label out of range.
        """
        if num_classes < 2:
            raise InputError(
                f"a classification spec needs at least 2 classes, got {num_classes}; "
                "state rows of your own with Spec.rows for a single output"
            )
        _check_class("label", label, num_classes)
        return Spec.rows(*_margins(label, num_classes, required_margin, dtype))

    @staticmethod
    def targeted(
        label: Int[ArrayLike, ""],
        target: Int[ArrayLike, ""],
        num_classes: int,
        required_margin: Float[ArrayLike, ""] = 0.0,
        dtype=jnp.float32,
    ) -> Spec:
        """Returns the single row `y_label - y_target - required_margin > 0`.

        Raises:
          InputError: label or target out of range (where the value is known).
        """
        _check_class("label", label, num_classes)
        _check_class("target", target, num_classes)
        eye = jnp.eye(num_classes, dtype=dtype)
        offset = jnp.full((1,), -1.0, dtype) * required_margin
        return Spec.rows((eye[label] - eye[target])[None], offset.astype(dtype))

    @staticmethod
    def disjunction(
        coefficients: Float[ArrayLike, "rows outputs"],
        offset: Float[ArrayLike, " rows"],
    ) -> Spec:
        """Returns the spec that asks at least one row `C y + d > 0` to hold.

        Raises:
          InputError: no row, or shapes that do not fit.
        """
        rows, constants = _checked_rows(coefficients, offset)
        count = rows.shape[0]
        return Spec(rows, constants, jnp.zeros(count, jnp.int32), 1)

    @staticmethod
    def top_k(label: int, k: int, num_classes: int) -> Spec:
        """Returns the spec that the label is among the k greatest outputs.

        It is not iff some k other classes all have `y_j >= y_label`; so every set of k
        others is a clause of the rows `y_label - y_j > 0`: a tie counts as lost. With
        k = 1 it is `classification`.

        Raises:
          InputError: a label out of range, a k that is not in 1 .. num_classes - 1, or
            more than 10,000 sets.
        """
        _check_class("label", label, num_classes)
        if not 1 <= k < num_classes:
            raise InputError(
                f"k is {k}: of {num_classes} classes it must lie in 1 .. "
                f"{num_classes - 1}"
            )
        if math.comb(num_classes - 1, k) > _MOST_CLAUSES:
            raise InputError(
                f"the {k} greatest of {num_classes} outputs make more than "
                f"{_MOST_CLAUSES} clauses: choose a smaller k"
            )
        others = [j for j in range(num_classes) if j != label]
        sets = itertools.combinations(others, k)
        return _of_sets([((label,), lost) for lost in sets], num_classes)

    @staticmethod
    def among(labels: Sequence[int], num_classes: int) -> Spec:
        """Returns the spec that the greatest output is of one of the labels.

        For every other class j one of the rows `y_label - y_j > 0` must hold.

        Raises:
          InputError: no label, one out of range or twice, or none besides them.
        """
        for label in labels:
            _check_class("label", label, num_classes)
        if not 0 < len(set(labels)) == len(labels) < num_classes:
            raise InputError(
                f"labels are {list(labels)}: give one or more, each once, and not all "
                f"of the {num_classes} classes"
            )
        others = [j for j in range(num_classes) if j not in labels]
        return _of_sets([(labels, (j,)) for j in others], num_classes)

    @staticmethod
    def output_range(
        lo: Float[ArrayLike, " outputs"], hi: Float[ArrayLike, " outputs"]
    ) -> Spec:
        """Returns the spec `lo < y < hi`, a row per end that is finite.

        Raises:
          InputError: shapes that differ, NaN, an end that no output can be within, or
            no finite end at all.
        """
        least, greatest = (np.asarray(v, np.float64) for v in (lo, hi))
        if least.ndim != 1 or least.shape != greatest.shape:
            raise InputError(
                f"the ends of the outputs have shapes {least.shape} and "
                f"{greatest.shape}: give (outputs,) for both"
            )
        if not np.all(least < greatest):
            where = int(np.argmin(least < greatest))
            raise InputError(
                f"output {where} is asked to lie between {least[where]} and "
                f"{greatest[where]}: nothing does"
            )
        rows = np.eye(len(least))
        below, above = np.isfinite(least), np.isfinite(greatest)
        coefficients = np.concatenate([rows[below], -rows[above]])
        offset = np.concatenate([-least[below], greatest[above]])
        return Spec.rows(jnp.asarray(coefficients), jnp.asarray(offset))

    def values(self, y: Float[Array, " outputs"]) -> Float[Array, " rows"]:
        """Returns C y + d for one output y."""
        exact = jax.lax.Precision.HIGHEST
        return jnp.matmul(self.coefficients, y, precision=exact) + self.offset

    def clauses(self, rows: Float[Array, " rows"]) -> Float[Array, " clauses"]:
        """Returns the greatest row of each clause; NaN if any row is NaN."""
        member = self.clause == jnp.arange(self.num_clauses)[:, None]
        best = jnp.max(jnp.where(member, rows, -jnp.inf), axis=1)
        # max of a NaN row may hide it: a NaN is a bound that nobody computed.
        return jnp.where(jnp.any(jnp.isnan(rows)), jnp.nan, best)

    def margin(self, rows: Float[Array, " rows"]) -> Float[Array, ""]:
        """Returns the least over the clauses of the greatest row of each.

        Of row values at a point: the spec holds there iff this is > 0. Of lower bounds
        of the rows over a box: the spec holds all over the box if this is > 0. NaN in
        any row gives NaN, which is not > 0.
        """
        return jnp.min(self.clauses(rows))


@functools.partial(jax.jit, static_argnames=("num_classes", "dtype"))
def _margins(
    label: Int[ArrayLike, ""],
    num_classes: int,
    required_margin: Float[ArrayLike, ""],
    dtype: Any,
) -> tuple[Array, Array]:
    """Returns rows and offsets of `Spec.classification`; one program, not some 20."""
    label = jnp.asarray(label)
    others = jnp.arange(num_classes - 1)
    others = others + (others >= label).astype(others.dtype)
    eye = jnp.eye(num_classes, dtype=dtype)
    offset = jnp.full((num_classes - 1,), -1.0, dtype) * required_margin
    return eye[label][None] - eye[others], offset.astype(dtype)


def _of_sets(
    sets: Sequence[tuple[Sequence[int], Sequence[int]]], num_classes: int
) -> Spec:
    """Returns a clause per pair: one of the first classes exceeds one of the second."""
    pairs = [list(itertools.product(*pair)) for pair in sets]
    eye = np.eye(num_classes, dtype=np.float32)
    rows = [eye[i] - eye[j] for clause in pairs for i, j in clause]
    clause = np.repeat(np.arange(len(pairs), dtype=np.int32), [len(p) for p in pairs])
    return Spec(
        jnp.asarray(np.stack(rows)), jnp.zeros(len(rows)), jnp.asarray(clause),
        len(pairs),
    )  # fmt: skip


def checked_spec(spec: Any) -> Spec:
    """Returns the spec in numpy float64.

    Raises:
      InputError: it is no Spec, it has no row, NaN, or shapes that do not fit.
    """
    if not isinstance(spec, Spec):
        raise InputError(
            f"spec must be a Spec, got {type(spec).__name__}: make one with "
            "jc.Spec.classification or jc.Spec.rows"
        )
    rows, offset = _checked_rows(spec.coefficients, spec.offset)
    rows, offset = np.asarray(rows, np.float64), np.asarray(offset, np.float64)
    if not (np.isfinite(rows).all() and np.isfinite(offset).all()):
        raise InputError("the spec holds NaN or infinity: give finite rows")
    clause = np.asarray(spec.clause)
    named = clause.shape == offset.shape and np.issubdtype(clause.dtype, np.integer)
    if not named or set(np.unique(clause)) != set(range(spec.num_clauses)):
        raise InputError(
            f"the spec's rows must name every clause of 0 .. {spec.num_clauses - 1} "
            "and no other"
        )
    clause = clause.astype(np.int32)
    return Spec(rows, offset, clause, spec.num_clauses)  # type: ignore[arg-type]


def _checked_rows(coefficients: Any, offset: Any) -> tuple[Any, Any]:
    """Returns rows and offsets as arrays; they may be traced."""
    try:
        rows, offset = (
            v if hasattr(v, "shape") else np.asarray(v, np.float64)
            for v in (coefficients, offset)
        )
    except (TypeError, ValueError):
        raise InputError(
            "the spec's rows must be numbers, of one length: give coefficients of "
            "shape (rows, outputs) and offsets of shape (rows,)"
        ) from None
    if len(rows.shape) != 2 or offset.shape != rows.shape[:1]:
        raise InputError(
            f"the spec's coefficients have shape {rows.shape} and its offsets "
            f"{offset.shape}: give shapes (rows, outputs) and (rows,)"
        )
    if not rows.shape[0]:
        raise InputError("the spec has no rows, so that it asks nothing: give one")
    return rows, offset


def _check_class(what: str, value: Int[ArrayLike, ""], num_classes: int) -> None:
    """An index out of range is clamped by JAX: another class would be proved."""
    if isinstance(value, jax.core.Tracer):
        return
    index = int(np.asarray(value))
    if not 0 <= index < num_classes:
        raise InputError(
            f"{what} {index} is out of range: the classes are 0 .. {num_classes - 1}"
        )
