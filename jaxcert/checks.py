"""Checks of what users hand over: weights, inputs, labels, domains, rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike

from jaxcert.box import Box, Rates
from jaxcert.errors import InputError

_SLOWEST = 1e-30
LARGEST = 3e38
"""Largest magnitude that is taken: float32, in which searches run, ends above it."""


def check_inputs(
    x: np.ndarray, domain: Box, names: Sequence[str] | None = None
) -> None:
    """Raises InputError if an input holds a NaN or lies outside the domain.

    Args:
      x: shape (n, *d).
      domain: shape d.
      names: what the message calls each input; their indices where None.
    """
    axes = tuple(range(1, x.ndim))
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


def _name(names: Sequence[str] | None, index: int) -> str:
    return str(index) if names is None else names[index]


def as_arrays(params: Any, dtype: Any) -> Any:
    """Returns params as numpy arrays, the float ones of the given type.

    Raises:
      InputError: a weight is NaN or infinite.
    """

    def cast(path: Any, leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
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


def checked_domain(
    domain: Box | tuple[ArrayLike, ArrayLike] | None, shape: tuple[int, ...]
) -> Box:
    """Returns the domain as a Box of the input's shape, numpy float64.

    Raises:
      InputError: wrong shape, NaN, beyond float32, or lower > upper somewhere.
    """
    ends = (0.0, 1.0) if domain is None else domain
    ends = (ends.lo, ends.hi) if isinstance(ends, Box) else ends
    try:
        lo, hi = (np.broadcast_to(np.asarray(v, np.float64), shape) for v in ends)
    except ValueError:
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
    if (lo > hi).any():
        raise InputError(
            "the domain is empty: its lower bound exceeds its upper one "
            f"({float(lo[lo > hi][0]):g} > {float(hi[lo > hi][0]):g})"
        )
    return Box(lo, hi)  # type: ignore[arg-type]


def checked_rates(rates: Rates | None, shape: tuple[int, ...]) -> Rates:
    """Returns the rates as arrays of the input's shape, numpy float64.

    Raises:
      InputError: wrong shape, negative or not finite, all zero, or tiny.
    """
    ends = (1.0, 1.0) if rates is None else (rates.lower, rates.upper)
    try:
        low, high = (np.broadcast_to(np.asarray(v, np.float64), shape) for v in ends)
    except ValueError:
        raise InputError(
            f"the rates do not fit inputs of shape {shape}: give two arrays of it"
        ) from None
    both = np.stack([low, high])
    if not np.isfinite(both).all() or (both < 0).any() or not (both > 0).any():
        raise InputError("rates must be finite and >= 0, and not all of them 0")
    if (slow := both[(both > 0) & (both < _SLOWEST)]).size:
        raise InputError(
            f"a rate is {slow[0]:g}: rates above 0 must be at least {_SLOWEST:g}, or "
            "radii overflow"
        )
    return Rates(low, high)  # type: ignore[arg-type]
