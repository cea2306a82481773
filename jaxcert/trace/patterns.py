"""Activations made of several primitives, recognised by the structure of their jaxpr.

A pattern is an ordinary JAX function of x and of scalar wildcards. It is traced for the
shape at hand and compared with the equations that compute a value: same primitives,
same parameters, same wiring, equal constants. Names of functions are never looked at.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert.trace.equations import Equation, open_jaxpr
from jaxcert.trace.flatten import Flattener
from jaxcert.trace.floats import has_float64, is_float, is_low

_COMMUTES = ("add", "mul", "max", "min")
# Where it was written, how XLA shards it, and types, which the shapes already settle.
_IRRELEVANT = ("sharding", "out_sharding", "weak_type")


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A function to recognise, and what to call it.

    Attributes:
      name: key of the rule that takes it over.
      function: `function(x, *wildcards)`, wildcards being known scalars.
      wildcards: how many.
      along_axis: it is `function(x, axis=...)`, and the axis is found like a wildcard.
    """

    name: str
    function: Callable[..., Any]
    wildcards: int = 0
    along_axis: bool = False

    @property
    def exact(self) -> bool:
        """Whether it is the same function, or rounded once, in every float type."""
        return self.name in ("relu", "leaky_relu", "hard_tanh", "finite")


def _elu(x: Any, alpha: Any) -> Any:
    safe = jnp.where(x > 0, 0.0, x)
    return jnp.where(x > 0, x, alpha * jnp.expm1(safe))


PATTERNS = (
    Pattern("leaky_relu", lambda x, a: jnp.where(x >= 0, x, a * x), 1),
    Pattern("leaky_relu", lambda x, a: jnp.where(x > 0, x, a * x), 1),
    Pattern("relu", lambda x: jnp.where(x > 0, x, 0)),
    Pattern("relu", lambda x: jnp.where(x >= 0, x, 0)),
    Pattern("relu", lambda x: jnp.where(x > 0, x, jnp.zeros_like(x))),
    Pattern("softplus", jax.nn.softplus),
    Pattern("silu", lambda x: x * jax.nn.sigmoid(x)),
    Pattern("gelu", lambda x: jax.nn.gelu(x, approximate=False)),
    Pattern(
        "gelu_by_quotient",
        lambda x: 0.5 * x * (1 + jax.lax.erf(x / np.sqrt(2).item())),
    ),
    Pattern("gelu_tanh", lambda x: jax.nn.gelu(x, approximate=True)),
    Pattern("mish", jax.nn.mish),
    Pattern("soft_sign", jax.nn.soft_sign),
    Pattern("elu", _elu, 1),
    Pattern("hard_tanh", jax.nn.hard_tanh),
    # How logsumexp guards the maximum that it takes away.
    Pattern("finite", lambda x, c: jnp.where(jnp.isfinite(x), x, c), 1),
    Pattern("softmax", jax.nn.softmax, along_axis=True),
    Pattern("log_softmax", jax.nn.log_softmax, along_axis=True),
)


@dataclasses.dataclass(frozen=True)
class Match:
    """What a pattern matched: name, id of x, numbers of the wildcards and the axis."""

    name: str
    x: int
    numbers: tuple[float, ...]


class Matcher:
    """Finds patterns in the equations of one Flattener."""

    def __init__(self, flat: Flattener) -> None:
        self._flat = flat
        self._maker = {i: e for e in flat.equations for i in e.outputs}

    def match(self, value: int) -> Match | None:
        """Returns the first pattern that computes a value, or None.

        All of it must be computed in one float type. In one that is narrower than
        float32 most patterns are other functions: every step of them is rounded.
        """
        maker, kind = self._maker[value], self._flat.types[value]
        shape = self._flat.shapes[value]
        # JAX traces functions of nothing to constants.
        if not is_float(kind) or 0 in shape:
            return None
        for pattern, axis in self._candidates(len(shape)):
            if is_low(kind) and not pattern.exact:
                continue
            x64 = has_float64()
            if _last_step(pattern, axis, len(shape), kind, x64) != maker.name:
                continue
            traced, x, wildcards, result, maker_of = _traced(
                pattern, axis, shape, kind, x64
            )
            bound: dict[int, int] = {}
            if _unify(traced, maker_of, result, self._flat, self._maker, value, bound):
                numbers = [self._flat.scalar(bound[w]) for w in wildcards]
                known = [n for n in numbers if n is not None]
                if len(known) == len(numbers) and x in bound and self._one_type(bound):
                    along = () if axis is None else (float(axis),)
                    return Match(pattern.name, bound[x], (*known, *along))
        return None

    def _one_type(self, bound: dict[int, int]) -> bool:
        types = {
            self._flat.types[i] for i in bound.values() if self._flat.depends_on_x(i)
        }
        return sum(is_float(t) for t in types) == 1

    def _candidates(self, rank: int) -> Iterator[tuple[Pattern, int | None]]:
        for pattern in PATTERNS:
            for axis in range(rank) if pattern.along_axis else (None,):
                yield pattern, axis


@functools.lru_cache(maxsize=1024)
def _traced(
    pattern: Pattern, axis: int | None, shape: tuple[int, ...], kind: Any, x64: bool
) -> tuple[Flattener, int, list[int], int, dict[int, Equation]]:
    """Returns a pattern's equations, x, wildcards, result, and who computes what.

    `x64` says whether 64-bit types are enabled, on which the trace depends.
    """
    flat = Flattener()
    spec = jax.ShapeDtypeStruct(shape, kind)
    scalars = [jax.ShapeDtypeStruct((), kind)] * pattern.wildcards
    along = {} if axis is None else {"axis": axis}
    closed = jax.make_jaxpr(functools.partial(pattern.function, **along))(
        spec, *scalars
    )
    jaxpr, consts = open_jaxpr(closed)
    x = flat.new(shape, kind, depends_on_x=True)
    wildcards = [flat.new((), kind) for _ in scalars]
    (result,) = flat.inline(jaxpr, consts, [x, *wildcards])
    maker_of = {i: e for e in flat.equations for i in e.outputs}
    maker_of |= {i: e for e in flat.param_steps for i in e.outputs}
    return flat, x, wildcards, result, maker_of


@functools.lru_cache(maxsize=1024)
def _last_step(
    pattern: Pattern, axis: int | None, rank: int, kind: Any, x64: bool
) -> str:
    """Returns the primitive that a pattern ends with, whatever the sizes are.

    Tracing all patterns for a shape takes 0.1 s: most are told apart by this alone.
    """
    _, _, _, result, maker_of = _traced(pattern, axis, (2,) * rank, kind, x64)
    return maker_of[result].name


def _unify(
    pattern: Flattener,
    pattern_maker: dict[int, Equation],
    p: int,
    graph: Flattener,
    graph_maker: dict[int, Equation],
    g: int,
    bound: dict[int, int],
) -> bool:
    """Returns whether pattern value p computes what graph value g does."""
    if p in bound:
        return bound[p] == g
    if p in pattern.known:
        number, other = pattern.scalar(p), graph.scalar(g)
        return number is not None and number == other
    if p not in pattern_maker:  # x or a wildcard
        fits = graph.depends_on_x(g) == pattern.depends_on_x(p)
        if fits and pattern.depends_on_x(p):
            fits = pattern.shapes[p] == graph.shapes[g]
        if fits:
            bound[p] = g
        return fits
    if not pattern.depends_on_x(p):
        # A wildcard that was broadcast or cast on the way: compare it as a number.
        return _unify_number(pattern_maker, p, graph, g, bound)
    ours, theirs = pattern_maker[p], graph_maker.get(g)
    if theirs is None or ours.primitive is not theirs.primitive:
        return False
    if _relevant(ours.params) != _relevant(theirs.params):
        return False
    orders = [theirs.inputs]
    if ours.name in _COMMUTES:
        orders.append(theirs.inputs[::-1])
    for order in orders:
        attempt = dict(bound)
        if all(
            _unify(pattern, pattern_maker, a, graph, graph_maker, b, attempt)
            for a, b in zip(ours.inputs, order, strict=True)
        ):
            bound.clear()
            bound.update(attempt, **{})
            bound[p] = g
            return True
    return False


def _unify_number(
    pattern_maker: dict[int, Equation],
    p: int,
    graph: Flattener,
    g: int,
    bound: dict[int, int],
) -> bool:
    while p in pattern_maker:
        maker = pattern_maker[p]
        if maker.name not in ("broadcast_in_dim", "convert_element_type"):
            return False
        (p,) = maker.inputs
    if graph.scalar(g) is None:
        return False
    if p in bound:
        return graph.scalar(bound[p]) == graph.scalar(g)
    bound[p] = g
    return True


def _relevant(params: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in params.items() if k not in _IRRELEVANT}
