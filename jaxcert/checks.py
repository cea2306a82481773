"""Checks of what users hand over: weights, inputs, labels, domains, rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import ArrayLike

from jaxcert.box import FLUSHED, NORMS, Box, Norm, Rates
from jaxcert.errors import InputError

Options = TypeVar("Options")

SLOWEST = 1e-30
"""Least rate or radius that is taken, but for 0."""
LARGEST = 3e38
"""Largest magnitude that is taken: float32, in which searches run, ends above it."""


def check_inputs(
    x: np.ndarray, domain: Box, names: Sequence[str] | None = None
) -> None:
    """Raises InputError if an input holds a NaN, or numbers that XLA flushes, or lies
    outside the domain.

    Args:
      x: shape (n, *d).
      domain: shape d.
      names: what the message calls each input; their indices where None.
    """
    axes = tuple(range(1, x.ndim))
    check_not_flushed("x", x)
    broken = ~np.isfinite(x).all(axis=axes)
    if broken.any():
        i = int(np.flatnonzero(broken)[0])
        raise InputError(
            f"input {_name(names, i)} holds NaN or infinity: clean it before certifying"
        )
    outside = ((x < domain.lo) | (x > domain.hi)).any(axis=axes)
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        raise InputError(
            f"input {_name(names, i)} lies outside the domain: its values span "
            f"[{x[i].min():.6g}, {x[i].max():.6g}], the domain "
            f"[{np.min(domain.lo):.6g}, {np.max(domain.hi):.6g}]. Rescale the input or "
            "widen the domain"
        )


def check_not_flushed(what: str, *values: np.ndarray) -> None:
    """Raises InputError if a number is so small that XLA computes with 0 instead."""
    for value in values:
        tiny = value[(value != 0) & (np.abs(value) < FLUSHED)]
        if tiny.size:
            raise InputError(
                f"{what} holds {tiny[0]:g}: numbers nearer to 0 than {FLUSHED:.0e} "
                "count as 0 where bounds are computed; give 0, or a greater one"
            )


def check_at_least(options: object, least: float, *fields: str) -> None:
    """Raises InputError if a field of some options is less than this, or infinite."""
    for field in fields:
        value = getattr(options, field)
        if not least <= value < float("inf"):
            raise InputError(f"{field} must be at least {least:g}, got {value}")


def check_labels(
    labels: np.ndarray,
    count: int,
    num_classes: int,
    names: Sequence[str] | None = None,
) -> None:
    """Raises InputError unless labels are `count` integers in 0 .. num_classes - 1.

    The message calls an input by its name of `names`, else by its index.
    """
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"labels have shape {labels.shape} and type {labels.dtype}; give one "
            f"integer for each of the {count} inputs"
        )
    bad = (labels < 0) | (labels >= num_classes)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"label {labels[i]} of input {_name(names, i)} is out of range: the "
            f"network has classes 0 .. {num_classes - 1}"
        )


def as_labels(labels: Any) -> np.ndarray:
    """Returns labels as a numpy array.

    Raises:
      InputError: they are of no one shape.
    """
    try:
        return np.asarray(labels)
    except ValueError:
        raise InputError(
            "labels have rows of different lengths: give one integer for each input"
        ) from None


def _name(names: Sequence[str] | None, index: int) -> str:
    return str(index) if names is None else names[index]


def as_arrays(params: Any, dtype: Any) -> Any:
    """Returns params as numpy arrays, the float ones of the given type.

    Integers get the 32 bits that f is traced with, truth values and random keys stay
    what they are.

    Raises:
      InputError: a weight is NaN or infinite, an integer of more bits, or no array.
    """

    def cast(path: Any, leaf: Any) -> Any:
        array = _weight(path, leaf)
        if jax.dtypes.issubdtype(array.dtype, np.integer) and array.itemsize > 4:
            short = array.astype(np.int32 if array.dtype.kind == "i" else np.uint32)
            if (short != array).any():
                raise InputError(
                    f"weight {jax.tree_util.keystr(path)} holds integers of more than "
                    "32 bits, with which f is traced: give smaller ones"
                )
            return short
        if not jax.dtypes.issubdtype(array.dtype, np.floating):
            return array
        array = array.astype(np.promote_types(dtype, array.dtype))
        if not np.isfinite(array).all():
            raise InputError(
                f"weight {jax.tree_util.keystr(path)} holds NaN or infinity: nothing "
                "can be certified about this network; retrain it or load another"
            )
        return array.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


def weight_types(params: Any) -> Any:
    """Returns the shapes and types of params as f is traced for them: float32.

    Raises:
      InputError: a weight is no array.
    """

    def kind(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        array = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else _weight(path, leaf)
        floating = jax.dtypes.issubdtype(array.dtype, np.floating)
        kept = jax.dtypes.canonicalize_dtype(array.dtype, allow_extended_dtype=True)
        return jax.ShapeDtypeStruct(array.shape, np.float32 if floating else kept)

    return jax.tree_util.tree_map_with_path(kind, params)


def _weight(path: Any, leaf: Any) -> Any:
    """Returns a leaf of params as an array; random keys stay arrays of JAX."""
    if isinstance(leaf, jax.Array):
        key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
        return leaf if key else np.asarray(leaf)
    where = f"at {jax.tree_util.keystr(path)}" if path else "instead of arrays"
    if callable(leaf) and not hasattr(leaf, "__array__"):
        raise InputError(
            f"params hold a function {where}: pass the arrays alone and let f hold the "
            "rest (an Equinox model: params, static = eqx.partition(model, "
            "eqx.is_array), and eqx.combine in f)"
        )
    try:
        array = np.asarray(leaf)
        known = jax.dtypes.issubdtype(array.dtype, np.number) or array.dtype == bool
    except (TypeError, ValueError):
        known = False
    if not known:
        raise InputError(
            f"params hold {type(leaf).__name__} {where}: pass a pytree whose leaves "
            "are arrays of numbers, and let f hold the rest"
        )
    return array


def as_inputs(x: Any) -> np.ndarray:
    """Returns x as numpy float64.

    Raises:
      InputError: x is no array of real numbers.
    """
    return _real_array("x", x)


def _real_array(what: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
        if not array.size:
            array = array.astype(np.float64)
        if array.dtype.kind in "USO" or np.iscomplexobj(array):
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise InputError(
            f"{what} must hold real numbers in one shape, got {kind}: give a number or "
            "an array"
        ) from None


def checked_number(what: str, value: Any) -> float:
    """Returns a number that was given as an argument.

    Raises:
      InputError: it is none.
    """
    try:
        if isinstance(value, str) or np.ndim(value) != 0:
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{what} is {value!r}; it must be one number") from None


def checked_options(options: Any, kind: type[Options]) -> Options:
    """Returns options, those that are the default where None is given.

    Raises:
      InputError: they are of another kind.
    """
    if options is None:
        return kind()
    if not isinstance(options, kind):
        name, first = kind.__name__, dataclasses.fields(kind)[0].name  # type: ignore[arg-type]
        example = f"{first}={options!r}" if isinstance(options, str) else "..."
        raise InputError(
            f"options must be {name}, got {type(options).__name__}: pass "
            f"jc.{name}({example})"
        )
    return options


def checked_domain(
    domain: Box | tuple[ArrayLike, ArrayLike] | None, shape: tuple[int, ...]
) -> Box:
    """Returns the domain as a Box of the input's shape, numpy float64.

    Raises:
      InputError: wrong shape, NaN, beyond float32, flushed by XLA, or lower > upper
        somewhere.
    """
    ends = (0.0, 1.0) if domain is None else domain
    ends = (ends.lo, ends.hi) if isinstance(ends, Box) else ends
    try:
        lo, hi = (np.broadcast_to(np.asarray(v, np.float64), shape) for v in ends)
    except (TypeError, ValueError):
        raise InputError(
            f"the domain does not fit inputs of shape {shape}: give two numbers, or "
            "two arrays of that shape"
        ) from None
    if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
        raise InputError("the domain has NaN or infinite bounds: give finite ones")
    if max(np.abs(lo).max(initial=0), np.abs(hi).max(initial=0)) > LARGEST:
        raise InputError(
            f"the domain has bounds beyond {LARGEST:g}, which float32 cannot hold: "
            "rescale the inputs and the network's first layer"
        )
    check_not_flushed("the domain", lo, hi)
    if (lo > hi).any():
        raise InputError(
            "the domain is empty: its lower bound exceeds its upper one "
            f"({float(lo[lo > hi][0]):g} > {float(hi[lo > hi][0]):g})"
        )
    return Box(lo, hi)  # type: ignore[arg-type]


def checked_norm(norm: Any, among: Sequence[Norm] = NORMS) -> Norm:
    """Returns the norm.

    Raises:
      InputError: it is none of these.
    """
    if norm not in among:
        names = ", ".join(repr(name) for name in among)
        raise InputError(f"norm is {norm!r}; choose one of {names}")
    return norm


def check_no_cuts(norm: str, cuts: object) -> None:
    """Raises InputError where branch and bound over balls is to make cuts."""
    if norm != "linf" and cuts is not None:
        raise InputError(
            f"cuts are made over boxes, not over balls of norm {norm!r}: leave "
            "BranchOptions.cuts out"
        )


def checked_rates(
    rates: Rates | ArrayLike | None, shape: tuple[int, ...], norm: Norm = "linf"
) -> Rates:
    """Returns the rates as arrays of the input's shape, numpy float64, with the norm.

    A number, or an array, is the rate of both faces.

    Raises:
      InputError: wrong shape, negative or not finite, all zero, or tiny; of another
        norm.
    """
    ends: Any = (1.0, 1.0) if rates is None else (rates, rates)
    if isinstance(rates, Rates):
        ends = rates.lower, rates.upper
        if rates.norm not in ("linf", norm):
            raise InputError(
                f"the rates are of norm {rates.norm!r}, where {norm!r} is asked: pass "
                f"norm={rates.norm!r}"
            )
    elif isinstance(rates, tuple | dict | str):
        raise InputError(
            f"rates must be Rates, got {type(rates).__name__}: pass jc.Rates(lower, "
            "upper), or one array for both sides"
        )
    try:
        low, high = (np.broadcast_to(np.asarray(v, np.float64), shape) for v in ends)
    except (TypeError, ValueError):
        raise InputError(
            f"the rates do not fit inputs of shape {shape}: give jc.Rates(lower, upper)"
            ", two arrays of it, or one for both sides"
        ) from None
    both = np.stack([low, high])
    if not np.isfinite(both).all() or (both < 0).any() or not (both > 0).any():
        raise InputError("rates must be finite and >= 0, and not all of them 0")
    if (slow := both[(both > 0) & (both < SLOWEST)]).size:
        raise InputError(
            f"a rate is {slow[0]:g}: rates above 0 must be at least {SLOWEST:g}, or "
            "radii overflow"
        )
    return Rates(low, high, norm)  # type: ignore[arg-type]
