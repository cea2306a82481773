"""Equations: what is read of a jaxpr, and how it is computed in the types it states.

An equation is one primitive with ids for its variables, so that code which is traced
more than once (a jitted function, say) is told apart.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from jaxcert.errors import UnsupportedError
from jaxcert.trace.convolution import convolve
from jaxcert.trace.floats import is_float

Values = dict[int, Any]
"""Arrays by value id: known constants, parameter steps and evaluated nodes."""


UNKNOWN_LINE = "unknown line"


_DTYPE_PARAMS = ("new_dtype", "preferred_element_type", "accumulation_type")


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """One primitive application, with value ids for its variables."""

    primitive: jex.Primitive
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    params: dict[str, Any]
    where: str
    input_types: tuple[Any, ...]
    output_types: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.primitive.name

    @property
    def nested(self) -> bool:
        """Whether it runs functions of its own, as loops and branches do."""
        return any(sub_jaxprs(self.params))

    @property
    def without_floats(self) -> bool:
        """Whether it computes with truth values and integers alone."""
        return not any(is_float(t) for t in (*self.input_types, *self.output_types))

    def bind(self, *operands: Any, dtype: Any) -> Any:
        """Returns the primitive applied to operands, computed in the float dtype.

        Matrix products and convolutions run at the highest precision, so that TF32 and
        bfloat16 never enter a bound.
        """
        params = dict(self.params)
        for key in _DTYPE_PARAMS:
            wanted = params.get(key)
            if wanted is not None and jnp.issubdtype(wanted, jnp.floating):
                params[key] = np.dtype(dtype)
        if "precision" in params:
            highest = jax.lax.Precision.HIGHEST
            params["precision"] = (highest, highest)
        if self.name == "conv_general_dilated":
            x, kernel = operands
            return convolve(x, kernel, params)
        return self.primitive.bind(*operands, **params)


@dataclasses.dataclass(frozen=True, eq=False)
class TypedFunction:
    """The equations of f as traced; see `Program.evaluate_typed`.

    Attributes:
      equations: all of them, in order.
      known: constants by value id, in the types of the trace.
      arguments: value ids of the leaves of params and of x.
      types: their types.
      result: value id of the result.
      x64: whether f was traced with 64-bit types enabled.
    """

    equations: tuple[Equation, ...]
    known: Values
    arguments: tuple[int, ...]
    types: tuple[Any, ...]
    result: int
    x64: bool

    def evaluate(self, leaves: Sequence[Any], x: Any) -> Any:
        """Returns f, given the leaves of params and x."""
        with jax.enable_x64(self.x64):
            values: Values = {i: jnp.asarray(v) for i, v in self.known.items()}
            for i, v, kind in zip(
                self.arguments, (*leaves, x), self.types, strict=True
            ):
                values[i] = jnp.asarray(v, kind)
            for e in self.equations:
                made = e.primitive.bind(*(values[i] for i in e.inputs), **e.params)
                made = made if e.primitive.multiple_results else [made]
                values.update(zip(e.outputs, made, strict=True))
            return values[self.result]


def as_float(value: Any, dtype: Any) -> Any:
    """Returns a float value in the float dtype, any other as it is."""
    return jnp.asarray(value, dtype) if is_float(jnp.result_type(value)) else value


def sub_jaxprs(params: dict[str, Any]) -> list[Any]:
    found = []
    for value in params.values():
        items = value if isinstance(value, tuple | list) else (value,)
        found += [v for v in items if isinstance(v, jex.Jaxpr | jex.ClosedJaxpr)]
    return found


def open_jaxpr(closed: Any) -> tuple[Any, Sequence[Any]]:
    """Returns (jaxpr, consts) for the closed jaxprs of jax 0.10 and of jax 0.11."""
    return getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())


def source_line(equation: Any, default: str = UNKNOWN_LINE) -> str:
    """Returns `file.py:line` of the user's code that made a jaxpr equation."""
    traceback = getattr(equation.source_info, "traceback", None)
    frames = traceback.frames if traceback is not None else ()
    for frame in frames:
        if _is_users(frame.file_name):
            return f"{Path(frame.file_name).name}:{frame.line_num}"
    return default


@functools.lru_cache(maxsize=1024)
def _is_users(name: str) -> bool:
    """Returns whether a file is neither ours, nor jax's or another library's."""
    inside = Path(__file__).parents[1] in Path(name).parents and "interop" not in name
    hidden = ("/jax/", "/jaxlib/", "/flax/", "/site-packages/", "<")
    return not inside and not any(part in name for part in hidden)


def unsupported(equation: Equation) -> UnsupportedError:
    """Returns the error for a primitive without a rule."""
    return UnsupportedError(
        f"no bound rule for primitive '{equation.name}' ({equation.where}). Register "
        "one with jaxcert.register_rule, or rewrite that line with supported operations"
    )
