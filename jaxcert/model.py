"""Model: a network, prepared once and handed to everything that asks about it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jaxcert.checks import as_arrays
from jaxcert.devices import float64, jit_in_haste
from jaxcert.errors import InputError
from jaxcert.trace.equations import Values
from jaxcert.trace.lattice import NormalForm, normal_form
from jaxcert.trace.pinned import own_settings, pinned
from jaxcert.trace.program import Program
from jaxcert.trace.tracing import program_of, with_types


@jax.tree_util.register_pytree_node_class
class Model:
    """A function, its weights in both float types, and its traced program.

    float32 searches, float64 decides; which of them a computation uses, and the context
    that float64 needs, are this class's affair. A pytree: compiled functions take it as
    an argument, its weights are leaves and the rest is static, so that one compilation
    serves every network of the same architecture.

    Attributes:
      f: `f(params, x) -> y`, of one input, pinned as it was.
      single, double: the weights in float32 and float64, numpy.
      program: what bound propagation works on, for both.
    """

    f: Callable[[Any, Any], Any]
    single: Any
    double: Any
    program: Program

    def __init__(
        self,
        f: Callable[[Any, Any], Any],
        params: Any,
        input_shape: tuple[int, ...],
    ) -> None:
        """Traces f.

        Args:
          f: any JAX function of params and one input (no batch axis) that returns one
            array.
          params: its weights.
          input_shape: shape of one input.

        Raises:
          InputError: a weight is NaN or infinite, or f returns no single array.
          UnsupportedError: f uses a primitive on x that has no rule.
        """
        self.f = pinned(f)
        self.single = as_arrays(params, np.float32)
        self.double = as_arrays(params, np.float64)
        # A float64 network is decided as that, and a bfloat16 weight makes f round to
        # bfloat16 where it says so: the weights' own types say how f is traced.
        self.f = with_types(self.f, params)
        zeros = np.zeros(input_shape, np.float32)
        self.program = program_of(self.f, self.single, zeros)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.program.input_shape

    @property
    def num_outputs(self) -> int:
        """Number of outputs.

        Raises:
          InputError: the network does not return a vector.
        """
        shape = self.program.output_shape
        if len(shape) != 1:
            raise InputError(
                f"the network returns shape {shape} for one input; what is asked needs "
                "a vector"
            )
        return shape[0]

    def values(self, dtype: Any) -> Values:
        """Returns what does not depend on the input, in a float type; traceable."""
        weights = self.double if np.dtype(dtype) == np.float64 else self.single
        return self.program.prepare(weights, dtype)

    @functools.cached_property
    def prepared(self) -> Values:
        """What does not depend on the input, in float64, for programs of one box."""
        with own_settings(), float64():
            return _prepared(self.program, self.double)

    @own_settings()
    @float64(share=1.0)
    def outputs(
        self, x: Float[np.ndarray, "batch *d"]
    ) -> Float[np.ndarray, "batch *outputs"]:
        """Returns f of every input of a batch, in float64."""
        return np.asarray(_outputs(self, np.asarray(x, np.float64)))

    @functools.cached_property
    def normal_form(self) -> NormalForm | None:
        """Its outputs as combinations of ReLUs; None where that is no small thing."""
        return normal_form(self.program, self.double, lambda: self.prepared)

    def tree_flatten(self) -> tuple[tuple[Any, Any], tuple[Any, Program]]:
        """Returns the weights, and what is static."""
        return (self.single, self.double), (self.f, self.program)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, Program], weights: Any) -> Model:
        """Returns the model of these parts."""
        model = object.__new__(cls)
        model.f, model.program = static
        model.single, model.double = weights
        return model


@jax.jit
def _outputs(model: Model, x: Any) -> Any:
    evaluate = jax.vmap(model.program.evaluate_prepared, in_axes=(None, 0))
    return evaluate(model.values(x.dtype), x)


@jit_in_haste
def _prepared(program: Program, weights: Any) -> Values:
    return program.prepare(weights, np.float64)
