"""Tracing: from `f(params, x)` to its Program, once per function and shape."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert.errors import InputError
from jaxcert.trace.equations import TypedFunction, open_jaxpr
from jaxcert.trace.flatten import Flattener
from jaxcert.trace.floats import has_float64, is_float, is_low
from jaxcert.trace.pinned import Pinned, asks_strict_types, own_settings, pinned
from jaxcert.trace.program import Program
from jaxcert.trace.rules import build_nodes

LeafType = tuple[Any, bool]
"""The dtype of a leaf, and whether it is weak: a Python number, which takes part in
arithmetic without widening the other operand."""


def stated_types(params: Any, x: Any = None) -> tuple[LeafType, ...]:
    """Returns the types of the leaves of params, and last that of x, for `trace`.

    As the arrays state them, float64 included, whether or not JAX has 64-bit types
    enabled. x is float64 if a leaf of params or x itself is, or if they are enabled;
    float32 otherwise: bounds speak of real inputs, of which narrower types hold few.
    Under strict promotion of types, which lets f mix none, x is float32 where weights
    are and none is float64.
    """

    def kind(leaf: Any) -> LeafType:
        if type(leaf) in (bool, int, float):
            return jnp.result_type(leaf), True
        # A numpy array knows float64 where jnp.result_type does not.
        dtype = getattr(leaf, "dtype", None)
        weak = bool(getattr(leaf, "weak_type", False))
        return jnp.result_type(leaf) if dtype is None else dtype, weak

    kinds = [kind(leaf) for leaf in jax.tree.leaves(params)]
    given = [*kinds, kind(x)] if x is not None else kinds
    follows = asks_strict_types() and (np.dtype(np.float32), False) in kinds
    double = _any_float64(given) or (has_float64() and not follows)
    return (*kinds, (np.dtype(np.float64 if double else np.float32), False))


def _any_float64(types: Sequence[LeafType]) -> bool:
    return any(dtype == np.float64 and not weak for dtype, weak in types)


@dataclasses.dataclass(frozen=True)
class Stated:
    """A function with the types that its arguments have; called, it is that function.

    Attributes:
      f: `f(params, x) -> y`.
      types: what `stated_types` returned.
      x64: whether f has 64-bit types: what it makes of nothing, such as constants, is
        float64 then.
    """

    f: Callable[[Any, Any], Any]
    types: tuple[LeafType, ...]
    x64: bool

    def __call__(self, params: Any, x: Any) -> Any:
        """Returns f(params, x), weights of narrow types being held in these."""
        leaves, tree = jax.tree.flatten(params)
        held = [
            jnp.asarray(v, kind) if is_float(kind) and is_low(kind) else v
            for v, (kind, _) in zip(leaves, self.types, strict=False)
        ]
        return self.f(jax.tree.unflatten(tree, held), x)


def with_types(f: Callable[[Any, Any], Any], params: Any) -> Stated:
    """Returns f with the types of these params, unless it has types already.

    One that says `needs_float64` is traced with it.
    """
    if isinstance(f, Stated):
        return f
    wide = getattr(f.f if isinstance(f, Pinned) else f, "needs_float64", False)
    types = stated_types(params, np.float64(0) if wide else None)
    return Stated(f, types, has_float64() or _any_float64(types))


def program_as_given(f: Callable[[Any, Any], Any], params: Any, x: Any) -> Program:
    """Returns the Program of what f is for these params, for transformations of f.

    Where JAX has 64-bit types, f is traced with them and with the types of params, as
    it is wherever else it is called; where it has none, as `program_of` says.
    """
    return program_of(with_types(f, params) if has_float64() else f, params, x)


def _is_plain(f: Stated) -> bool:
    """Whether f is the same if it is traced with float32 alone."""
    floats = [(kind, weak) for kind, weak in f.types if is_float(kind)]
    return not f.x64 and all(k == np.float32 and not weak for k, weak in floats)


def trace(
    f: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    types: Sequence[LeafType] | None = None,
    x64: bool | None = None,
) -> Program:
    """Returns the Program of f for params and x of the given shapes.

    Matrix products are taken to run at the highest precision where f does not say
    otherwise, as they do on CPUs; where it asks for an algorithm of lower precision, it
    is refused.

    Args:
      f: `f(params, x) -> y`, any JAX function of one input (no batch axis), y a single
        array.
      params: pytree of arrays (or of their shapes).
      x: one input, or a `jax.ShapeDtypeStruct`.
      types: of the leaves of params and of x, see `stated_types`: f is traced with
        them. None: every float is float32.
      x64: whether f has 64-bit types, see `Stated`. None: if one of `types` is float64.

    Raises:
      UnsupportedError: f uses a primitive on x that has no rule, or asks for matrix
        products of low precision.
      InputError: f does not return a single array.
    """

    def single(v: Any) -> LeafType:
        dtype = jnp.result_type(v)
        return np.dtype(np.float32) if is_float(dtype) else dtype, False

    leaves, tree = jax.tree.flatten((params, x))
    given = [single(v) for v in leaves] if types is None else types
    if x64 is None:
        x64 = types is not None and _any_float64(types)

    def described(v: Any, dtype: Any, weak: bool) -> jax.ShapeDtypeStruct:
        if isinstance(dtype, np.dtype):  # a PRNG key's is none
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        return jax.ShapeDtypeStruct(jnp.shape(v), dtype, weak_type=weak)

    with jax.enable_x64(x64), jax.default_matmul_precision("highest"):
        arguments = jax.tree.unflatten(
            tree, [described(v, *kind) for v, kind in zip(leaves, given, strict=True)]
        )
        closed = jax.make_jaxpr(f)(*arguments)
        jaxpr, consts = open_jaxpr(closed)
        if len(jaxpr.outvars) != 1:
            raise InputError(
                f"f(params, x) must return one array, it returned {len(jaxpr.outvars)}:"
                " wrap it in a function that returns the logits alone"
            )
        flat = Flattener()
        ids = [flat.new(v.aval.shape, v.aval.dtype) for v in jaxpr.invars[:-1]]
        last = jaxpr.invars[-1].aval
        x_id = flat.new(last.shape, last.dtype, depends_on_x=True)
        (result,) = flat.inline(jaxpr, consts, [*ids, x_id])
        typed = TypedFunction(
            equations=(*flat.param_steps, *flat.equations),
            known=dict(flat.known),
            arguments=(*ids, x_id),
            types=tuple(flat.types[i] for i in (*ids, x_id)),
            result=result,
            x64=x64,
        )
        nodes, result = build_nodes(flat, result)
    return Program(
        nodes=nodes,
        input=x_id,
        output=result,
        input_shape=flat.shapes[x_id],
        output_shape=flat.shapes[result],
        param_ids=tuple(ids),
        param_steps=tuple(flat.param_steps),
        known=flat.known,
        inexact=frozenset(flat.inexact),
        assumptions=tuple(flat.assumptions),
        typed=typed,
    )


@functools.lru_cache(maxsize=256)
def _cached_trace(
    f: Callable,
    tree: Any,
    leaves: tuple[Any, ...],
    x: tuple[int, ...],
    types: tuple[LeafType, ...] | None,
    x64: bool | None,
) -> Program:
    params = jax.tree.unflatten(
        tree, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves]
    )
    return trace(f, params, jax.ShapeDtypeStruct(x, jnp.float32), types, x64)


def program_of(f: Callable, params: Any, x: Any) -> Program:
    """Returns the Program of f for the shapes of params and x; traced once per shape.

    Functions that are made alike share it; see `pinned`. A `Stated` one is traced with
    its types, and so is one whose params hold narrow types; any other with float32.

    Raises:
      UnsupportedError: f uses a primitive on x that has no rule.
    """
    leaves, tree = jax.tree.flatten(params)
    kinds = tuple((jnp.shape(v), jnp.result_type(v)) for v in leaves)
    if any(is_low(dtype) for _, dtype in kinds):
        f = with_types(f, params)
    types, x64 = None, None
    if isinstance(f, Stated):
        if not _is_plain(f):
            types, x64 = f.types, f.x64
        f = f.f
    with own_settings():
        return _cached_trace(pinned(f), tree, kinds, tuple(jnp.shape(x)), types, x64)
