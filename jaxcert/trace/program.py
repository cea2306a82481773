"""Program: any JAX function, brought to the form that bounds work on.

A Program, which `tracing.trace` makes of `f(params, x)`, consists of

- parameter steps: what depends on params alone; recomputed for every set of weights;
- nodes: what depends on x, each one affine, an activation, a product of two values, or
  opaque (known by its range alone).

All nodes are polymorphic in the float type: a Program traced from a float32 function is
evaluated in float64 by handing it float64 params and inputs. Constants that f writes
down are those of its trace, and what it computes from params alone is rounded in the
types that it states (`typed_steps`), so that both evaluations speak of one function.
Where x itself passes through a type narrower than float32, that is an operation with an
error (`rules_precision`). Arithmetic on x in float32 and wider is taken as real.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable
from typing import Any, TypeGuard

import jax

from jaxcert.box import Box
from jaxcert.errors import InputError
from jaxcert.trace import typed_steps
from jaxcert.trace.activations import Activation
from jaxcert.trace.equations import Equation, TypedFunction, Values, as_float
from jaxcert.trace.floats import has_float64, is_float


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One operation on values that depend on x.

    Attributes:
      inputs: ids of the operands that depend on x.
      output: id of the result.
      shape: shape of the result.
      name: primitive or activation, for messages.
      where: source line, for messages.
      interval_hint: `(values, *boxes of hint_inputs) -> Box`, a tighter range of the
        output than its own operation gives (for operations that were decomposed).
      hint_inputs: ids that the hint reads.
      weights: ids of the values fixed in x that its operation may read.
    """

    inputs: tuple[int, ...]
    output: int
    shape: tuple[int, ...]
    name: str
    where: str
    interval_hint: Callable[..., Box] | None = None
    hint_inputs: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements of the result."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class AffineNode(Node):
    """`apply(values, *xs)` is affine in xs; `interval(values, *boxes)` its range.

    `has_offset` says whether `apply` at zeros may differ from zero. `separable` says
    that the exact range of the output, as a box, is a box of independent elements if
    the inputs' are: every element of the input reaches at most one of the output.
    `sums` says that every element of the output is a sum of elements of the input.
    `spread(values, *magnitudes)`, where it is known and there is no offset, is
    |A| magnitudes: what `interval` makes of symmetric boxes, for less.
    `weight_error(values, *magnitudes)` is how far the result moves with the errors of
    weights that are computed, where it is not affine in these.
    """

    apply: Callable[..., Any] = None  # type: ignore[assignment]
    interval: Callable[..., Box] = None  # type: ignore[assignment]
    has_offset: bool = False
    separable: bool = False
    sums: bool = False
    input_shapes: tuple[tuple[int, ...], ...] = ()
    weight_error: Callable[..., Any] | None = None
    spread: Callable[..., Any] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ActivationNode(Node):
    """An activation, applied to every element of its one input."""

    activation: Activation = None  # type: ignore[assignment]


def is_relu(node: Node) -> TypeGuard[ActivationNode]:
    """Returns whether a node is a ReLU, whose sign branch and bound can fix."""
    return isinstance(node, ActivationNode) and node.activation.piecewise_linear


def _both(x: Any, y: Any) -> tuple[Any, Any]:
    return x, y


def _itself(z: Any) -> Any:
    return z


@dataclasses.dataclass(frozen=True, eq=False)
class ProductNode(Node):
    """Products of the elements of two inputs, or sums of such products.

    `collect(p * q)` for `p, q = expand(x, y)`, of which `apply(x, y)` is a cheaper
    form: expand repeats and moves elements, collect sums some of them. Left out, all of
    them are those of the elementwise product. Along the axis `shares` the results are
    shares of one whole: their sum is 1.
    """

    expand: Callable[[Any, Any], tuple[Any, Any]] = _both
    collect: Callable[[Any], Any] = _itself
    apply: Callable[[Any, Any], Any] = operator.mul
    shares: int | None = None

    @property
    def sums(self) -> bool:
        """Whether results are sums of several products."""
        return self.collect is not _itself


@dataclasses.dataclass(frozen=True, eq=False)
class OpaqueNode(Node):
    """An operation of which only value and range are known.

    `interval(values, *boxes)`; CROWN bounds it by the constants of that range.
    """

    apply: Callable[..., Any] = None  # type: ignore[assignment]
    interval: Callable[..., Box] = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseNode(OpaqueNode):
    """What rounding adds to a value: added to it, the value as its type holds it.

    `apply` is one way to round; every number in the range is another, nothing at all
    included, since XLA may keep more precision than f states.
    """


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """The form of `f(params, x)` that bound propagation works on.

    Attributes:
      nodes: in topological order.
      input: value id of x.
      output: value id of f's result.
      input_shape: shape of x.
      output_shape: shape of the result.
      param_ids: value ids of the leaves of params.
      param_steps: equations that depend on params alone.
      known: constants by value id.
      inexact: value ids that parameter steps compute with rounding: `prepare` tells
        their error.
      assumptions: what bounds take for granted of this function, in words.
      typed: the equations of f in the types that it states, for `evaluate_typed`.
    """

    nodes: tuple[Node, ...]
    input: int
    output: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    param_ids: tuple[int, ...]
    param_steps: tuple[Equation, ...]
    known: Values
    inexact: frozenset[int]
    assumptions: tuple[str, ...]
    typed: TypedFunction

    @property
    def noisy(self) -> bool:
        """Whether x passes through a type that is too narrow for it."""
        return any(isinstance(node, NoiseNode) for node in self.nodes)

    @property
    def jumps(self) -> bool:
        """Whether f may jump inside a box: it decides, or rounds to whole numbers."""
        steps = (n for n in self.nodes if isinstance(n, ActivationNode))
        jumping = any(n.activation.jump is not None for n in steps)
        return jumping or any(isinstance(n, OpaqueNode) for n in self.nodes)

    @property
    def convolves(self) -> bool:
        """Whether f has a convolution."""
        return any(e.name == "conv_general_dilated" for e in self.typed.equations)

    @property
    def slides(self) -> bool:
        """Whether bounds have one; they make products of matrices of others."""
        return any(node.name == "conv_general_dilated" for node in self.nodes)

    @property
    def slides_over(self) -> int:
        """Entries that the convolutions which bounds have would have as matrices."""
        return sum(
            node.size * math.prod(shape)
            for node in self.nodes
            if isinstance(node, AffineNode) and node.name == "conv_general_dilated"
            for shape in node.input_shapes
        )

    @property
    def input_size(self) -> int:
        """Number of elements of x."""
        return math.prod(self.input_shape)

    def prepare(self, params: Any, dtype: Any) -> Values:
        """Returns the values that do not depend on x, in the float dtype.

        Parameter steps are rounded to the types that f states. `values[~i]` is the
        error of every value i of `inexact`: how far another order of summation, fused
        operations or more precision may move it (`typed_steps`).

        Raises:
          InputError: dtype is no float type: weights would be rounded to integers.
        """
        if not is_float(dtype):
            raise InputError(
                f"the input or box has type {dtype}; give it a float type, such as "
                "float32 or float64"
            )
        values = {i: as_float(v, dtype) for i, v in self.known.items()}
        leaves = jax.tree.leaves(params)
        values.update(
            (i, as_float(v, dtype)) for i, v in zip(self.param_ids, leaves, strict=True)
        )
        with jax.enable_x64(self.typed.x64 or has_float64()):
            for step in self.param_steps:
                typed_steps.run(step, values, self.inexact, dtype)
        return values

    def evaluate(self, params: Any, x: Any) -> Any:
        """Returns f(params, x), computed node by node in the float type of x."""
        return self.evaluate_prepared(self.prepare(params, x.dtype), x)

    def evaluate_prepared(
        self,
        values: Values,
        x: Any,
        seen: Callable[[Node, Any, Any], Any] = lambda node, value, operands: value,
    ) -> Any:
        """Returns f at x, given what `prepare` returned.

        `seen(node, value, operands)` may put something else in the place of a value.
        """
        values = {**values, self.input: x}
        for node in self.nodes:
            operands = [values[i] for i in node.inputs]
            match node:
                case ActivationNode():
                    values[node.output] = node.activation.value(*operands)
                case ProductNode():
                    values[node.output] = node.apply(*operands)
                case AffineNode() | OpaqueNode():
                    values[node.output] = node.apply(values, *operands)
            values[node.output] = seen(node, values[node.output], operands)
        return values[self.output]

    def evaluate_typed(self, params: Any, x: Any) -> Any:
        """Returns f at x, rounded to the type of its input, as f states it.

        One operation after the other, each in its own type and none fused: what f gives
        under `jax.disable_jit`. This, and not `evaluate`, says what a program with
        narrow types answers at a point. Call it outside of `jax.jit`, which would fuse.
        """
        return self.typed.evaluate(jax.tree.leaves(params), x)
