"""Builder: makes the nodes of a Program, for the rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxcert.box import Box
from jaxcert.trace.activations import Activation
from jaxcert.trace.equations import Equation
from jaxcert.trace.flatten import Flattener
from jaxcert.trace.program import (
    ActivationNode,
    AffineNode,
    Node,
    NoiseNode,
    OpaqueNode,
    ProductNode,
)
from jaxcert.trace.weight_errors import weight_error

Rule = Callable[["Builder", Equation], "int | tuple[int, ...]"]


class Builder:
    """Collects nodes; every method returns the value id of its result.

    Attributes:
      needed: value ids that the result is computed from.
      kind: type of the result of the equation that a rule is asked about.
    """

    def __init__(self, flat: Flattener, needed: Set[int] = frozenset()) -> None:
        self.flat = flat
        self.needed = needed
        self.nodes: list[Node] = []
        self.alias: dict[int, int] = {}
        self.where, self.kind = "", None
        self._weights: tuple[int, ...] = ()

    def at(self, equation: Equation) -> None:
        """Sets line and type of the nodes to come, and the weights they may read."""
        self.where, self.kind = equation.where, equation.output_types[0]
        self._weights = tuple(i for i in equation.inputs if not self.moves(i))

    def resolve(self, value: int) -> int:
        """Returns the node output that stands for a value of the traced function."""
        return self.alias.get(value, value)

    def moves(self, value: int) -> bool:
        """Returns whether a value depends on x."""
        return self.flat.depends_on_x(value)

    def moving(self, equation: Equation) -> tuple[int, ...]:
        """Returns the operands that depend on x."""
        return tuple(self.resolve(i) for i in equation.inputs if self.moves(i))

    def shape(self, equation: Equation) -> tuple[int, ...]:
        """Returns the shape of the equation's first result."""
        return self.flat.shapes[equation.outputs[0]]

    def operation(
        self, equation: Equation, weights: Callable[[Any], Any] = lambda w: w
    ) -> Callable[..., Any]:
        """Returns `apply(values, *xs)`: the equation on its moving operands.

        `weights` is applied to every other operand.
        """
        moves = [self.moves(i) for i in equation.inputs]

        def apply(values: Any, *xs: Any) -> Any:
            queue = iter(xs)
            operands = [
                next(queue) if m else weights(values[i])
                for i, m in zip(equation.inputs, moves, strict=True)
            ]
            return equation.bind(*operands, dtype=xs[0].dtype)

        return apply

    def affine(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        apply: Callable[..., Any],
        interval: Callable[..., Box],
        *,
        has_offset: bool = False,
        separable: bool = False,
        sums: bool = False,
        hint: Callable[..., Box] | None = None,
        hint_inputs: tuple[int, ...] = (),
        error: Callable[..., Any] | None = None,
        spread: Callable[..., Any] | None = None,
        reads: bool = True,
    ) -> int:
        """Adds an affine node; weights of low precision add their error as noise.

        `reads` is whether it may read values that are fixed in x.
        """
        weights = self._weights if reads else ()
        coarse = tuple(i for i in weights if i in self.flat.coarse)
        fine = tuple(i for i in weights if i not in self.flat.coarse)
        output = self.flat.new(shape, depends_on_x=True)
        node = AffineNode(
            tuple(inputs), output, tuple(shape), name, self.where, hint, hint_inputs,
            fine, apply, interval, has_offset, separable, sums,
            tuple(self.flat.shapes[i] for i in inputs), error, spread,
        )  # fmt: skip
        self.nodes.append(node)
        return self._with_errors_of(coarse, node) if coarse else output

    def _with_errors_of(self, weights: tuple[int, ...], node: AffineNode) -> int:
        """Adds what the errors of these weights do to a node, as noise."""

        def apply(_: Any, *xs: Any) -> Any:
            return jnp.zeros(node.shape, xs[0].dtype)

        def interval(values: Any, *boxes: Box) -> Box:
            error = weight_error(node, values, [z.magnitude for z in boxes], weights)
            return Box(-error, error)

        return self.add_noise(node.output, node.inputs, apply, interval)

    def add_noise(
        self,
        value: int,
        inputs: Sequence[int],
        apply: Callable[..., Any],
        interval: Callable[..., Box],
    ) -> int:
        """Adds value + e, e in a range that depends on inputs: what rounding does."""
        shape = self.flat.shapes[value]
        noise = self.flat.new(shape, depends_on_x=True)
        self.nodes.append(
            NoiseNode(
                tuple(inputs), noise, shape, "rounding", self.where,
                apply=apply, interval=interval,
            )
        )  # fmt: skip
        return self.add(value, noise)

    def opaque(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        apply: Callable[..., Any],
        interval: Callable[..., Box],
    ) -> int:
        """Adds a node of which only value and range are known."""
        output = self.flat.new(shape, depends_on_x=True)
        self.nodes.append(
            OpaqueNode(
                tuple(inputs), output, tuple(shape), name, self.where,
                weights=self._weights, apply=apply, interval=interval,
            )
        )  # fmt: skip
        return output

    def activation(self, activation: Activation, x: int) -> int:
        """Adds activation(x)."""
        shape = self.flat.shapes[x]
        output = self.flat.new(shape, depends_on_x=True)
        self.nodes.append(
            ActivationNode(
                (x,), output, shape, activation.name, self.where, activation=activation
            )
        )
        return output

    def product(self, x: int, y: int) -> int:
        """Adds x * y, elementwise."""
        shape = self.flat.shapes[x]
        output = self.flat.new(shape, depends_on_x=True)
        self.nodes.append(ProductNode((x, y), output, shape, "mul", self.where))
        return output

    def bilinear(
        self,
        name: str,
        inputs: tuple[int, int],
        shape: Sequence[int],
        expand: Callable[[Any, Any], tuple[Any, Any]],
        apply: Callable[[Any, Any], Any],
        **settings: Any,
    ) -> int:
        """Adds products of elements, or sums of them: see `ProductNode`."""
        output = self.flat.new(shape, depends_on_x=True)
        self.nodes.append(
            ProductNode(
                inputs, output, tuple(shape), name, self.where,
                expand=expand, apply=apply, **settings,
            )
        )  # fmt: skip
        return output

    def structural(
        self,
        name: str,
        x: int,
        shape: Sequence[int],
        apply: Callable[[Any], Any],
        *,
        separable: bool = True,
    ) -> int:
        """Adds a linear, non-decreasing rearrangement or sum of elements."""

        def interval(_: Any, z: Box) -> Box:
            return Box(apply(z.lo), apply(z.hi))

        return self.affine(
            name, (x,), shape, lambda _, z: apply(z), interval, separable=separable,
            sums=True, spread=lambda _, z: apply(z), reads=False,
        )  # fmt: skip

    def broadcast_to(self, x: int, shape: Sequence[int]) -> int:
        """Adds x broadcast to a shape, if it has not got it."""
        if self.flat.shapes[x] == tuple(shape):
            return x
        return self.structural(
            "broadcast", x, shape, lambda z: jnp.broadcast_to(z, shape), separable=False
        )

    def scale(self, x: int, factor: float) -> int:
        """Adds factor * x."""
        if factor == 1.0:
            return x

        def interval(_: Any, z: Box) -> Box:
            a, c = factor * z.lo, factor * z.hi
            return Box(a, c) if factor > 0 else Box(c, a)

        shape = self.flat.shapes[x]
        return self.affine(
            "mul", (x,), shape, lambda _, z: factor * z, interval, separable=True,
            spread=lambda _, z: abs(factor) * z, reads=False,
        )  # fmt: skip

    def shifted(self, x: int, constant: int, x_sign: float, sign: float) -> int:
        """Adds x_sign * x + sign * constant, for signs +-1 and a value fixed in x."""
        shape = self.flat.shapes[x]

        def apply(values: Any, z: Any) -> Any:
            return lax.add(x_sign * z, jnp.broadcast_to(sign * values[constant], shape))

        def interval(values: Any, z: Box) -> Box:
            a, c = apply(values, z.lo), apply(values, z.hi)
            return Box(a, c) if x_sign > 0 else Box(c, a)

        return self.affine(
            "add", (x,), shape, apply, interval, has_offset=True, separable=True
        )

    def add(self, x: int, y: int, **hint: Any) -> int:
        """Adds x + y."""
        return self.affine(
            "add", (x, y), self.flat.shapes[x],
            lambda _, p, q: p + q,
            lambda _, p, q: Box(p.lo + q.lo, p.hi + q.hi),
            spread=lambda _, p, q: p + q, reads=False, **hint,
        )  # fmt: skip

    def sub(self, x: int, y: int, **hint: Any) -> int:
        """Adds x - y."""
        return self.affine(
            "sub", (x, y), self.flat.shapes[x],
            lambda _, p, q: p - q,
            lambda _, p, q: Box(p.lo - q.hi, p.hi - q.lo),
            spread=lambda _, p, q: p + q, reads=False, **hint,
        )  # fmt: skip

    def finish(self, result: int) -> tuple[tuple[Node, ...], int]:
        """Returns the nodes that the result needs, and its value id."""
        value = self.resolve(result)
        if not self.moves(value):
            value = self._constant_result(value)
        needed = {value}
        kept = []
        for node in reversed(self.nodes):
            if node.output in needed:
                kept.append(node)
                needed.update(node.inputs, node.hint_inputs)
        return tuple(reversed(kept)), value

    def _constant_result(self, value: int) -> int:
        """An output that does not depend on x is an affine map of slope 0."""
        shape = self.flat.shapes[value]
        self._weights = (value,)
        (x,) = [i for i in self.flat.shapes if self.moves(i)][:1]

        def apply(values: Any, z: Any) -> Any:
            return jnp.asarray(values[value], z.dtype)

        def interval(values: Any, z: Box) -> Box:
            return Box(apply(values, z.lo), apply(values, z.lo))

        return self.affine("constant", (x,), shape, apply, interval, has_offset=True)
