"""Choosing between batches, row by row, on the host."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def expand(mask: np.ndarray, like: Any) -> np.ndarray:
    """Returns a mask of rows, (n,), that broadcasts against an array (n, *d)."""
    return mask.reshape(mask.shape + (1,) * (np.ndim(like) - 1))


def select(mask: np.ndarray, chosen: Any, other: Any) -> Any:
    """Returns `chosen` where the mask, (n,), holds and `other` elsewhere.

    Args:
      mask: of rows.
      chosen, other: pytrees of arrays with n rows.
    """
    return jax.tree.map(lambda a, b: np.where(expand(mask, a), a, b), chosen, other)
