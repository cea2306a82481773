"""Program: any JAX function, traced once and brought to the form bounds work on.

This is the only file that reads jaxprs. `trace` turns `f(params, x)` into

- parameter steps: what depends on params alone; recomputed for every set of weights;
- nodes: what depends on x, each one affine, an activation, a product of two values, or
  opaque (known by its range alone).

All nodes are polymorphic in the float type: a Program traced from a float32 function is
evaluated in float64 by handing it float64 params and inputs. Constants that f writes
down are those of its float32 trace, so that both evaluations speak of one function.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from jaxcert.bounds.relaxations import Activation
from jaxcert.box import Box
from jaxcert.errors import InputError, UnsupportedError

Values = dict[int, Any]
"""Arrays by value id: known constants, parameter steps and evaluated nodes."""

UNKNOWN_LINE = "unknown line"
_FOLD_LIMIT = 1 << 16
_INLINED = (
    "jit pjit closed_call core_call remat checkpoint remat2 custom_jvp_call "
    "custom_vjp_call custom_vjp_call_jaxpr custom_lin"
).split()
_DTYPE_PARAMS = ("new_dtype", "preferred_element_type", "accumulation_type")


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """One primitive application, with value ids for its variables."""

    primitive: jex.Primitive
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    params: dict[str, Any]
    where: str

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.primitive.name

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
        return self.primitive.bind(*operands, **params)


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
    """

    inputs: tuple[int, ...]
    output: int
    shape: tuple[int, ...]
    name: str
    where: str
    interval_hint: Callable[..., Box] | None = None
    hint_inputs: tuple[int, ...] = ()

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
    """

    apply: Callable[..., Any] = None  # type: ignore[assignment]
    interval: Callable[..., Box] = None  # type: ignore[assignment]
    has_offset: bool = False
    separable: bool = False
    input_shapes: tuple[tuple[int, ...], ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class ActivationNode(Node):
    """An activation, applied to every element of its one input."""

    activation: Activation = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True, eq=False)
class ProductNode(Node):
    """The elementwise product of two different inputs of equal shape."""


@dataclasses.dataclass(frozen=True, eq=False)
class OpaqueNode(Node):
    """An operation of which only value and range are known.

    `interval(values, *boxes)`; CROWN bounds it by the constants of that range.
    """

    apply: Callable[..., Any] = None  # type: ignore[assignment]
    interval: Callable[..., Box] = None  # type: ignore[assignment]


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
      equations: what nodes were made of: f as it was traced, for exact evaluation.
      traced_output: value id of f's result among the equations.
    """

    nodes: tuple[Node, ...]
    input: int
    output: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    param_ids: tuple[int, ...]
    param_steps: tuple[Equation, ...]
    known: Values
    equations: tuple[Equation, ...] = ()
    traced_output: int = -1

    @property
    def input_size(self) -> int:
        """Number of elements of x."""
        return math.prod(self.input_shape)

    def prepare(self, params: Any, dtype: Any) -> Values:
        """Returns the values that do not depend on x, in the float dtype.

        Raises:
          InputError: dtype is no float type: weights would be rounded to integers.
        """
        if not jnp.issubdtype(dtype, jnp.floating):
            raise InputError(
                f"the input or box has type {dtype}; give it a float type, such as "
                "float32 or float64"
            )
        values = {i: _as_float(v, dtype) for i, v in self.known.items()}
        leaves = jax.tree.leaves(params)
        values.update(
            (i, _as_float(v, dtype))
            for i, v in zip(self.param_ids, leaves, strict=True)
        )
        for step in self.param_steps:
            operands = [values[i] for i in step.inputs]
            for i, v in zip(
                step.outputs, _run_step(step, operands, dtype), strict=True
            ):
                values[i] = v
        return values

    def evaluate(self, params: Any, x: Any) -> Any:
        """Returns f(params, x), computed node by node in the float type of x."""
        return self.evaluate_prepared(self.prepare(params, x.dtype), x)

    def evaluate_prepared(self, values: Values, x: Any) -> Any:
        """Returns f at x, given what `prepare` returned."""
        values = {**values, self.input: x}
        for node in self.nodes:
            operands = [values[i] for i in node.inputs]
            match node:
                case ActivationNode():
                    values[node.output] = node.activation.value(*operands)
                case ProductNode():
                    values[node.output] = operands[0] * operands[1]
                case AffineNode() | OpaqueNode():
                    values[node.output] = node.apply(values, *operands)
        return values[self.output]


def _as_float(value: Any, dtype: Any) -> Any:
    if jnp.issubdtype(jnp.result_type(value), jnp.floating):
        return jnp.asarray(value, dtype)
    return value


def _run_step(step: Equation, operands: list[Any], dtype: Any) -> list[Any]:
    if any(_sub_jaxprs(step.params)):
        # Loops and branches are typed inside: run them as they were traced.
        traced = step.params["traced_types"]
        params = {k: v for k, v in step.params.items() if k != "traced_types"}
        typed = [jnp.asarray(v, t) for v, t in zip(operands, traced, strict=True)]
        results = step.primitive.bind(*typed, **params)
        return [_as_float(r, dtype) for r in results]
    if step.name == "convert_element_type":
        return [_convert(operands[0], step.params["new_dtype"], dtype)]
    results = step.bind(*_common_type(operands, dtype), dtype=dtype)
    results = results if step.primitive.multiple_results else [results]
    return [_as_float(r, dtype) for r in results]


def _convert(value: Any, new_dtype: Any, dtype: Any) -> Any:
    """A cast between float types is the identity of the real-valued function."""
    floating = jnp.issubdtype(new_dtype, jnp.floating)
    return jnp.asarray(value, dtype if floating else new_dtype)


def _common_type(operands: Sequence[Any], dtype: Any) -> list[Any]:
    return [_as_float(v, dtype) for v in operands]


def _sub_jaxprs(params: dict[str, Any]) -> list[Any]:
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
    own = Path(__file__).parent
    hidden = ("/jax/", "/jaxlib/", "/flax/", "/site-packages/", "<")
    for frame in frames:
        name = frame.file_name
        inside = own in Path(name).parents and "interop" not in name
        if not inside and not any(part in name for part in hidden):
            return f"{Path(name).name}:{frame.line_num}"
    return default


class Flattener:
    """Inlines a jaxpr into equations over value ids, folding what is constant."""

    def __init__(self) -> None:
        self.known: Values = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.logical: set[int] = set()
        self.param_steps: list[Equation] = []
        self.equations: list[Equation] = []
        self._depends_on_x: set[int] = set()
        # What jit compiles knows no line outside itself: its caller stands in.
        self._caller = UNKNOWN_LINE

    def new(self, shape: Sequence[int], *, depends_on_x: bool = False) -> int:
        """Returns a fresh value id of that shape."""
        value = len(self.shapes)
        self.shapes[value] = tuple(shape)
        if depends_on_x:
            self._depends_on_x.add(value)
        return value

    def constant(self, array: Any) -> int:
        """Returns the id of a new known constant."""
        value = self.new(np.shape(array))
        self.known[value] = array
        return value

    def depends_on_x(self, value: int) -> bool:
        """Returns whether a value depends on x."""
        return value in self._depends_on_x

    def inline(self, jaxpr: Any, consts: Sequence[Any], inputs: list[int]) -> list[int]:
        """Appends the equations of a jaxpr and returns the ids of its results."""
        names: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            names[var] = self.constant(const)

        def read(atom: Any) -> int:
            if isinstance(atom, jex.Literal):
                kind: Any = atom.aval  # an array's: scalars too have a dtype
                return self.constant(np.asarray(atom.val, kind.dtype))
            return names[atom]

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            for var, i in zip(eqn.outvars, self._apply(eqn, operands), strict=True):
                names[var] = i
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, eqn: Any, operands: list[int]) -> list[int]:
        if eqn.primitive.name in _INLINED:
            (sub, *_) = _sub_jaxprs(eqn.params)
            jaxpr, consts = open_jaxpr(sub)
            caller, self._caller = self._caller, source_line(eqn, self._caller)
            results = self.inline(jaxpr, consts, operands)
            self._caller = caller
            return results
        if eqn.primitive.name in ("stop_gradient", "copy", "copy_p"):
            return operands
        moves = any(i in self._depends_on_x for i in operands)
        shapes = [var.aval.shape for var in eqn.outvars]
        outputs = [self.new(shape, depends_on_x=moves) for shape in shapes]
        self.logical.update(
            i
            for i, var in zip(outputs, eqn.outvars, strict=True)
            if var.aval.dtype == bool
        )
        params = dict(eqn.params)
        if not moves and any(_sub_jaxprs(params)):
            params["traced_types"] = tuple(v.aval.dtype for v in eqn.invars)
        equation = Equation(
            eqn.primitive, tuple(operands), tuple(outputs), params,
            source_line(eqn, self._caller),
        )  # fmt: skip
        if moves:
            self.equations.append(equation)
        elif not self._fold(equation, eqn.outvars):
            self.param_steps.append(equation)
        return outputs

    def _fold(self, equation: Equation, outvars: Sequence[Any]) -> bool:
        small = sum(var.aval.size for var in outvars) <= _FOLD_LIMIT
        nested = "traced_types" in equation.params
        if nested or not small or any(i not in self.known for i in equation.inputs):
            return False
        with jax.ensure_compile_time_eval():
            operands = [jnp.asarray(self.known[i]) for i in equation.inputs]
            results = equation.primitive.bind(*operands, **equation.params)
        results = results if equation.primitive.multiple_results else [results]
        for i, result in zip(equation.outputs, results, strict=True):
            self.known[i] = np.asarray(result)
        return True

    def scalar(self, value: int) -> float | None:
        """Returns the number a value is known to be everywhere, or None."""
        array = self.known.get(value)
        if array is None or array.size == 0:
            return None
        first = array.reshape(-1)[0]
        return float(first) if np.all(array == first) else None


def trace(f: Callable[[Any, Any], Any], params: Any, x: Any) -> Program:
    """Returns the Program of f for params and x of the given shapes.

    Args:
      f: `f(params, x) -> y`, any JAX function of one input (no batch axis), y a single
        array.
      params: pytree of arrays (or of their shapes).
      x: one input, or a `jax.ShapeDtypeStruct`.

    Raises:
      UnsupportedError: f uses a primitive on x that has no rule.
      InputError: f does not return a single array.
    """
    from jaxcert.bounds.rules import build_nodes  # rules build on this module

    def single(v: Any) -> jax.ShapeDtypeStruct:
        dtype = jnp.result_type(v)
        floating = jnp.issubdtype(dtype, jnp.floating)
        return jax.ShapeDtypeStruct(jnp.shape(v), jnp.float32 if floating else dtype)

    arguments = jax.tree.map(single, (params, x))
    with jax.enable_x64(False), jax.default_matmul_precision("highest"):
        closed = jax.make_jaxpr(f)(*arguments)
        jaxpr, consts = open_jaxpr(closed)
        if len(jaxpr.outvars) != 1:
            raise InputError(
                f"f(params, x) must return one array, it returned {len(jaxpr.outvars)}:"
                " wrap it in a function that returns the logits alone"
            )
        flat = Flattener()
        ids = [flat.new(v.aval.shape) for v in jaxpr.invars[:-1]]
        x_id = flat.new(jaxpr.invars[-1].aval.shape, depends_on_x=True)
        (traced,) = flat.inline(jaxpr, consts, [*ids, x_id])
        nodes, result = build_nodes(flat, traced)
    return Program(
        nodes=nodes,
        input=x_id,
        output=result,
        input_shape=flat.shapes[x_id],
        output_shape=flat.shapes[result],
        param_ids=tuple(ids),
        param_steps=tuple(flat.param_steps),
        known=flat.known,
        equations=tuple(flat.equations),
        traced_output=traced,
    )


def unsupported(equation: Equation) -> UnsupportedError:
    """Returns the error for a primitive without a rule."""
    return UnsupportedError(
        f"no bound rule for primitive '{equation.name}' ({equation.where}). Register "
        "one with jaxcert.register_rule, or rewrite that line with supported operations"
    )
