"""Shapes: what of x is one input, told by what the function takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert.checks import weight_types
from jaxcert.errors import InputError

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a function makes of one input of a shape.

    Attributes:
      shape: of the input.
      result: shape of its result; None if it takes no such input.
      reason: why it does not, or that the result is no vector; one line.
    """

    shape: Shape
    result: Shape | None
    reason: str

    @property
    def fits(self) -> bool:
        """Whether the result is a vector."""
        return self.result is not None and len(self.result) == 1


def try_shape(f: Callable[..., Any], params: Any, shape: Shape) -> Trial:
    """Returns what f makes of one input of a shape, without computing anything.

    Whatever f raises says that it does not take that shape.
    """
    one = jax.ShapeDtypeStruct(shape, jnp.float32)
    try:
        with jax.enable_x64(False):
            result = jax.eval_shape(f, weight_types(params), one)
    except InputError as error:
        return Trial(shape, None, str(error))
    except Exception as error:  # f is the user's, who may raise anything
        text = str(error).strip()
        told = f": {text.splitlines()[0]}" if text else ""
        return Trial(shape, None, type(error).__name__ + told)
    leaves = jax.tree.leaves(result)
    if len(leaves) != 1:
        return Trial(shape, None, f"it returns {len(leaves)} arrays")
    (made,) = leaves
    return Trial(shape, made.shape, f"it returns shape {made.shape}, not a vector")


def expects_batch(f: Callable[..., Any], params: Any, shape: Shape) -> str:
    """Returns how to mend an f that takes batches of this shape alone, else ""."""
    result = try_shape(f, params, (1, *shape)).result
    if result is None or len(result) != 2 or result[0] != 1:
        return ""
    return (
        f". It takes a batch of inputs of shape {shape}: pass "
        "lambda p, x: f(p, x[None])[0], which takes one"
    )


def find_input(
    f: Callable[..., Any],
    params: Any,
    x: np.ndarray,
    labels: np.ndarray | None,
    given: Shape | None,
) -> tuple[bool, Shape]:
    """Returns (whether x is one input, the shape of one input).

    A vector is one input wherever f takes it. Of more axes, the first is that of a
    batch if f takes what lies behind it. Labels tell which it is: one for each input.

    Raises:
      InputError: f takes neither, or both and nothing tells which is meant.
    """
    if given is not None:
        return _as_told(x, tuple(int(n) for n in given))
    whole = try_shape(f, params, x.shape)
    if x.ndim <= 1 and whole.fits and (labels is None or labels.size == 1):
        return True, x.shape
    each = try_shape(f, params, x.shape[1:]) if x.ndim else None
    if each is not None and each.fits:
        told = len(x) <= 1 or (labels is not None and labels.ndim == 1)
        if not whole.fits or told:
            return False, each.shape
        if labels is None:
            raise InputError(
                f"the network takes x of shape {x.shape} as one input, and as a batch "
                f"of {len(x)} inputs of shape {each.shape}: say which with input_shape"
            )
    if whole.fits:
        return True, x.shape
    if each is None:
        raise InputError(
            f"the network takes no input of shape () ({whole.reason}): give x the "
            "network's input shape" + expects_batch(f, params, ())
        )
    hint = expects_batch(f, params, each.shape) or expects_batch(f, params, x.shape)
    raise InputError(
        f"the network takes neither one input of shape {x.shape} ({whole.reason}) nor "
        f"a batch of {each.shape} ({each.reason}): give x the network's input shape, "
        f"with or without a leading batch axis{hint}"
    )


def _as_told(x: np.ndarray, shape: Shape) -> tuple[bool, Shape]:
    if x.shape == shape:
        return True, shape
    if x.ndim and x.shape[1:] == shape:
        return False, shape
    batch = "(" + ", ".join(map(str, ("n", *shape))) + ")"
    raise InputError(
        f"x has shape {x.shape}, but input_shape is {shape}: give x that shape, or "
        f"{batch} for a batch"
    )
