"""A dense grid against certified ranges: numpy transforms and the network itself.

Shares no code with the search: the changes are written again, in numpy float64, and the
network is evaluated as its author wrote it, not as the program that bounds see.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from jaxcert.semantic.changes import InputFamily

Changes = Callable[[np.ndarray, np.ndarray], np.ndarray]
_CHUNK = 512


@dataclasses.dataclass(frozen=True)
class GridCheck:
    """What the grid says about one input.

    Attributes:
      points: grid points evaluated.
      inside: those inside the certified range that violate the claim: must be 0.
      nearest: least radius of a violating grid point beyond it; inf: none.
    """

    points: int
    inside: int
    nearest: float


def _blurred(x: np.ndarray) -> np.ndarray:
    """The 3 x 3 binomial blur as nine shifted copies, edges repeated."""
    wide = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
    h, w, _ = x.shape
    weight = np.array([1.0, 2.0, 1.0]) / 4
    return sum(
        weight[i] * weight[j] * wide[i : i + h, j : j + w]
        for i in range(3)
        for j in range(3)
    )


def _each(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Returns one parameter of every grid point, to be broadcast over an image."""
    return theta.reshape(-1, *(1,) * x.ndim)


CHANGES: dict[str, Changes] = {
    "brightness": lambda x, t: np.clip(x + _each(t[:, 0], x), 0, 1),
    "contrast": lambda x, t: np.clip((1 + _each(t[:, 0], x)) * x, 0, 1),
    "both": lambda x, t: np.clip((1 + _each(t[:, 1], x)) * x + _each(t[:, 0], x), 0, 1),
    "blur": lambda x, t: (1 - _each(t[:, 0], x)) * x + _each(t[:, 0], x) * _blurred(x),
    "gamma": lambda x, t: np.power(x, 1 + _each(t[:, 0], x)),
}


def grid_of(family: InputFamily, radius: float, points: int) -> np.ndarray:
    """Returns about that many parameters in the box of a radius, its corners too."""
    k = len(family.names)
    side = max(3, round(points ** (1 / k)) // 2 * 2 + 1)
    axis = np.linspace(-1, 1, side)
    steps = np.stack(np.meshgrid(*[axis] * k, indexing="ij"), -1).reshape(-1, k)
    rates = np.where(steps < 0, family.rates_down, family.rates_up)
    return np.clip(radius * steps * rates, family.lower, family.upper)


def radius_of(family: InputFamily, theta: np.ndarray) -> np.ndarray:
    """Returns the radius of the least box that holds each of the parameters."""
    rates = np.where(theta < 0, family.rates_down, family.rates_up)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(theta == 0, 0, np.abs(theta) / rates).max(axis=1)


def check_on_grid(
    apply: Callable[[Any, Array], Array],
    params: Any,
    change: tuple[str, InputFamily],
    x: np.ndarray,
    label: int,
    bracket: tuple[float, float],
    points: int,
) -> GridCheck:
    """Returns what two grids say: one over the certified range, one over twice it.

    Args:
      apply, params: the network.
      change: name and family of the input change.
      x: input, float64.
      label: class that is to win.
      bracket: proved and refuted radius; the latter may be infinite.
      points: of each grid.
    """
    name, family = change
    reach = family.reach()
    lower = min(bracket[0], reach)
    wide = min(2 * bracket[1], reach)
    certified, around = (grid_of(family, r, points) for r in (lower, wide))
    wrong_inside, wrong = (
        _wrong(apply, params, CHANGES[name], x, label, theta)
        for theta in (certified, around)
    )
    away = radius_of(family, around)[wrong]
    return GridCheck(
        points=len(certified) + len(around),
        inside=int(wrong_inside.sum() + (away <= lower).sum()),
        nearest=float(away.min(initial=np.inf)),
    )


def _wrong(
    apply: Callable[[Any, Array], Array],
    params: Any,
    change: Changes,
    x: np.ndarray,
    label: int,
    theta: np.ndarray,
) -> np.ndarray:
    """Returns at which parameters another class is at least as high, in float64."""
    found = []
    with jax.enable_x64(True):
        weights = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
        for start in range(0, len(theta), _CHUNK):
            part = theta[start : start + _CHUNK]
            padded = np.resize(part, (_CHUNK, theta.shape[1]))
            logits = np.asarray(_logits(apply, weights, change(x, padded)))[: len(part)]
            others = np.delete(logits, label, axis=1).max(axis=1)
            found.append(~(logits[:, label] > others))
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=0)
def _logits(apply: Any, params: Any, x: Array) -> Array:
    return jax.vmap(apply, (None, 0))(params, x)
