"""Program: any JAX function, traced once and brought to the form bounds work on.

This is the only file that reads jaxprs. `trace` turns `f(params, x)` into

- parameter steps: what depends on params alone; recomputed for every set of weights;
- nodes: what depends on x, each one affine, an activation, a product of two values, or
  opaque (known by its range alone).

All nodes are polymorphic in the float type: a Program traced from a float32 function is
evaluated in float64 by handing it float64 params and inputs. Constants that f writes
down are those of its trace, and what it computes from params alone is rounded in the
types that it states (`typed_steps`), so that both evaluations speak of one function.
Where x itself passes through a type narrower than float32, that is an operation with an
error (`bounds.rules_precision`). Arithmetic on x in float32 and wider is taken as real.
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

from jaxcert.box import Box
from jaxcert.errors import InputError, UnsupportedError
from jaxcert.trace import typed_steps
from jaxcert.trace.activations import Activation
from jaxcert.trace.floats import has_float64, is_float, is_low

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
    input_types: tuple[Any, ...]
    output_types: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.primitive.name

    @property
    def nested(self) -> bool:
        """Whether it runs functions of its own, as loops and branches do."""
        return any(_sub_jaxprs(self.params))

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
    `weight_error(values, *magnitudes)` is how far the result moves with the errors of
    weights that are computed, where it is not affine in these.
    """

    apply: Callable[..., Any] = None  # type: ignore[assignment]
    interval: Callable[..., Box] = None  # type: ignore[assignment]
    has_offset: bool = False
    separable: bool = False
    input_shapes: tuple[tuple[int, ...], ...] = ()
    weight_error: Callable[..., Any] | None = None


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

    def evaluate_typed(self, params: Any, x: Any) -> Any:
        """Returns f at x, rounded to the type of its input, as f states it.

        One operation after the other, each in its own type and none fused: what f gives
        under `jax.disable_jit`. This, and not `evaluate`, says what a program with
        narrow types answers at a point. Call it outside of `jax.jit`, which would fuse.
        """
        return self.typed.evaluate(jax.tree.leaves(params), x)


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
        self.types: dict[int, Any] = {}
        self.param_steps: list[Equation] = []
        self.equations: list[Equation] = []
        self.inexact: set[int] = set()
        self.coarse: set[int] = set()
        self.assumptions: list[str] = []
        self._depends_on_x: set[int] = set()
        # What jit compiles knows no line outside itself: its caller stands in.
        self._caller = UNKNOWN_LINE

    def new(
        self, shape: Sequence[int], dtype: Any = None, *, depends_on_x: bool = False
    ) -> int:
        """Returns a fresh value id of that shape; the type is that of the trace."""
        value = len(self.shapes)
        self.shapes[value] = tuple(shape)
        self.types[value] = dtype
        if depends_on_x:
            self._depends_on_x.add(value)
        return value

    def constant(self, array: Any) -> int:
        """Returns the id of a new known constant."""
        value = self.new(np.shape(array), jnp.result_type(array))
        self.known[value] = array
        return value

    def depends_on_x(self, value: int) -> bool:
        """Returns whether a value depends on x."""
        return value in self._depends_on_x

    def assume(self, text: str) -> None:
        """Adds an assumption, once."""
        if text not in self.assumptions:
            self.assumptions.append(text)

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
        outputs = [
            self.new(var.aval.shape, var.aval.dtype, depends_on_x=moves)
            for var in eqn.outvars
        ]
        equation = Equation(
            eqn.primitive, tuple(operands), tuple(outputs), dict(eqn.params),
            source_line(eqn, self._caller),
            tuple(var.aval.dtype for var in eqn.invars),
            tuple(var.aval.dtype for var in eqn.outvars),
        )  # fmt: skip
        _refuse_low_algorithm(equation)
        if moves:
            self.equations.append(equation)
        elif not self._fold(equation, eqn.outvars):
            self.param_steps.append(equation)
            self._note_rounding(equation)
        return outputs

    def _note_rounding(self, step: Equation) -> None:
        """Learns which values a parameter step rounds, or that nobody knows."""
        if not typed_steps.is_modelled(step, self.inexact):
            self.assume(
                f"weights computed by '{step.name}' ({step.where}) are taken as "
                "computed there: how far another run would round them is not known"
            )
        elif typed_steps.is_inexact(step, self.inexact):
            self.inexact.update(step.outputs)
            narrow = any(is_low(t) for t in step.output_types)
            if narrow or any(i in self.coarse for i in step.inputs):
                # Too much to be a slack: it becomes noise (Builder.affine).
                self.coarse.update(step.outputs)

    def _fold(self, equation: Equation, outvars: Sequence[Any]) -> bool:
        small = sum(var.aval.size for var in outvars) <= _FOLD_LIMIT
        known = all(i in self.known for i in equation.inputs)
        if equation.nested or not small or not known:
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


LeafType = tuple[Any, bool]
"""The dtype of a leaf, and whether it is weak: a Python number, which takes part in
arithmetic without widening the other operand."""


def stated_types(params: Any, x: Any = None) -> tuple[LeafType, ...]:
    """Returns the types of the leaves of params, and last that of x, for `trace`.

    As the arrays state them, float64 included, whether or not JAX has 64-bit types
    enabled. x is float64 if a leaf of params or x itself is, or if they are enabled;
    float32 otherwise: bounds speak of real inputs, of which narrower types hold few.
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
    double = any(dtype == np.float64 and not weak for dtype, weak in given)
    double = double or has_float64()
    return (*kinds, (np.dtype(np.float64 if double else np.float32), False))


@dataclasses.dataclass(frozen=True)
class Stated:
    """A function with the types that its arguments have; called, it is that function.

    Attributes:
      f: `f(params, x) -> y`.
      types: what `stated_types` returned.
    """

    f: Callable[[Any, Any], Any]
    types: tuple[LeafType, ...]

    def __call__(self, params: Any, x: Any) -> Any:
        """Returns f(params, x), weights of narrow types being held in these."""
        leaves, tree = jax.tree.flatten(params)
        held = [
            jnp.asarray(v, kind) if is_float(kind) and is_low(kind) else v
            for v, (kind, _) in zip(leaves, self.types, strict=False)
        ]
        return self.f(jax.tree.unflatten(tree, held), x)


def with_types(f: Callable[[Any, Any], Any], params: Any) -> Callable[[Any, Any], Any]:
    """Returns f, as `Stated` if tracing it with float32 alone would be another one."""
    types = stated_types(params)
    plain = all(not is_float(kind) or kind == np.float32 for kind, _ in types)
    weak = any(weak and is_float(kind) for kind, weak in types)
    return f if plain and not weak else Stated(f, types)


def trace(
    f: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    types: Sequence[LeafType] | None = None,
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
        them, with 64-bit types if one is float64. None: every float is float32.

    Raises:
      UnsupportedError: f uses a primitive on x that has no rule, or asks for matrix
        products of low precision.
      InputError: f does not return a single array.
    """
    from jaxcert.trace.rules import build_nodes  # rules build on this module

    def single(v: Any) -> LeafType:
        dtype = jnp.result_type(v)
        return np.dtype(np.float32) if is_float(dtype) else dtype, False

    leaves, tree = jax.tree.flatten((params, x))
    given = [single(v) for v in leaves] if types is None else types
    x64 = types is not None and any(
        dtype == np.float64 and not weak for dtype, weak in types
    )

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


_EXACT_ALGORITHMS = ("DEFAULT", "F32_F32_F32", "F64_F64_F64")


def _refuse_low_algorithm(equation: Equation) -> None:
    """`Equation.bind` computes at the highest precision: it must not do so unasked."""
    asked = equation.params.get("precision")
    for one in asked if isinstance(asked, tuple) else (asked,):
        if one is None or isinstance(one, jax.lax.Precision):
            continue
        name = getattr(one, "name", str(one))
        if name not in _EXACT_ALGORITHMS:
            raise UnsupportedError(
                f"'{equation.name}' ({equation.where}) asks for the algorithm {name}, "
                "whose rounding is not modelled. Ask for precision='highest', or cast "
                "the operands to the type you mean"
            )


def unsupported(equation: Equation) -> UnsupportedError:
    """Returns the error for a primitive without a rule."""
    return UnsupportedError(
        f"no bound rule for primitive '{equation.name}' ({equation.where}). Register "
        "one with jaxcert.register_rule, or rewrite that line with supported operations"
    )
