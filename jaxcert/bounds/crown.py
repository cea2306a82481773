"""CROWN: linear bounds by full back-substitution, tightening every layer on the way."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxcert.ball import Ball, Region, enclosing, of_jax
from jaxcert.bounds.backward import (
    Coefficients,
    follows_input,
    independent_values,
    least_over,
    nonlinear_inputs,
    pull_affine,
    pull_to_input,
)
from jaxcert.bounds.ibp import interval_rows, node_interval
from jaxcert.box import Box
from jaxcert.devices import as_one_program
from jaxcert.errors import InputError
from jaxcert.spec import Spec
from jaxcert.trace.activations import Relaxation
from jaxcert.trace.equations import Values
from jaxcert.trace.pinned import own_settings
from jaxcert.trace.program import (
    ActivationNode,
    Node,
    ProductNode,
    Program,
    is_relu,
)
from jaxcert.trace.tracing import program_as_given

# Up to this many entries, the affine map in front of a layer is laid out as a matrix
# once for all boxes, and buckets gather its rows instead of multiplying unit vectors.
_MATRIX_LIMIT = 1 << 22


@dataclasses.dataclass(frozen=True)
class CrownOptions:
    """How CROWN computes the bounds of intermediate layers.

    Attributes:
      intermediate: "crown" (full back-substitution from every layer) or "ibp".
      bucket: neurons bounded per step; only undecided ones are, so that a layer costs
        ceil(undecided / bucket) steps. None bounds every neuron in one step.
    """

    intermediate: Literal["crown", "ibp"] = "crown"
    bucket: int | None = 32

    def __post_init__(self) -> None:
        if self.intermediate not in ("crown", "ibp"):
            raise InputError(
                f"CrownOptions.intermediate is {self.intermediate!r}; choose 'crown' "
                "or 'ibp'"
            )
        if self.bucket is not None and self.bucket < 1:
            raise InputError(f"CrownOptions.bucket is {self.bucket}; it must be >= 1")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AffineBounds:
    """Affine functions of the input that enclose the outputs over one box.

    `lower_coefficients z + lower_offset <= f(z) <= upper_coefficients z + upper_offset`
    for every z of the box they were computed for, elementwise in the K outputs.

    Attributes:
      lower_coefficients: shape (K, *input shape).
      lower_offset: shape (K,).
      upper_coefficients: shape (K, *input shape).
      upper_offset: shape (K,).
    """

    lower_coefficients: Float[Array, "K *d"]
    lower_offset: Float[Array, " K"]
    upper_coefficients: Float[Array, "K *d"]
    upper_offset: Float[Array, " K"]

    @staticmethod
    def of_both_sides(
        rows: Float[Array, "2K *d"], const: Float[Array, " 2K"]
    ) -> AffineBounds:
        """Returns the bounds, given lower ones of outputs and of their negatives."""
        count = len(const) // 2
        return AffineBounds(rows[:count], const[:count], -rows[count:], -const[count:])

    @own_settings()
    def concretize(self, box: Region) -> Box:
        """Returns the box of outputs, for a box or ball inside that of the bounds."""
        return _concretized(self, of_jax(box))


@functools.partial(as_one_program, static=0)
def _concretized(bounds: AffineBounds, box: Region) -> Box:
    lower = least_over(bounds.lower_coefficients, bounds.lower_offset, box)
    upper = least_over(-bounds.upper_coefficients, -bounds.upper_offset, box)
    return Box(lower, -upper)


@dataclasses.dataclass(frozen=True, eq=False)
class Layers:
    """What is known in front of and behind every nonlinear node."""

    program: Program
    values: Values
    region: Region
    boxes: dict[int, Box]
    relaxations: dict[int, Relaxation]

    @property
    def dtype(self) -> Any:
        return self.boxes[self.program.input].lo.dtype

    def lower(self, rows: Coefficients, const: Array) -> tuple[Array, Array]:
        pulled, const, _ = pull_to_input(
            self.program, self.values, self.relaxations, self.boxes, rows, const
        )
        return pulled, const

    def lower_values(self, rows: Coefficients, const: Array) -> Array:
        pulled, const = self.lower(rows, const)
        return least_over(pulled, const, self.region)


def bound_layers(
    program: Program, values: Values, region: Region, options: CrownOptions
) -> Layers:
    """Returns ranges and relaxations of all layers over a box or a ball."""
    layers = Layers(program, values, region, {program.input: enclosing(region)}, {})
    joint = isinstance(region, Ball)
    boxes, asked = layers.boxes, bounded_again(program, joint=joint)
    for node in program.nodes:
        for value in asked.get(node.output, ()):
            if options.intermediate == "crown":
                mask = matters(node, boxes[value])
                boxes[value] = _tighten(layers, value, mask, options.bucket)
        if isinstance(node, ActivationNode):
            z = boxes[node.inputs[0]]
            layers.relaxations[node.output] = node.activation.relax(z.lo, z.hi)
        boxes[node.output] = node_interval(node, values, boxes)
    return layers


@functools.lru_cache(maxsize=64)
def bounded_again(
    program: Program, *, joint: bool = False
) -> dict[int, tuple[int, ...]]:
    """Returns the values in front of nonlinear nodes that back-substitution bounds.

    By output id of these nodes, in their order. Left out is what cannot gain: exact
    ranges, and functions of what has been bounded so; see `independent_values`.
    """
    done, asked = independent_values(program, joint=joint), {}
    for node in program.nodes:
        values = [v for v in dict.fromkeys(nonlinear_inputs(node)) if v not in done]
        if values:
            asked[node.output] = tuple(values)
        if not is_relu(node):
            done.update(values)
        exact = isinstance(node, ProductNode) and node.hint_inputs
        if exact and done.issuperset(node.hint_inputs):
            done.add(node.output)  # a hint is the exact range over those of its inputs
        if node.inputs[0] in done and follows_input(node):
            done.add(node.output)
    return asked


def matters(node: Node, box: Box) -> Bool[Array, "*n"]:
    """Returns which elements of an input of a node would gain from a tighter range."""
    if isinstance(node, ActivationNode):
        return node.activation.undecided(box.lo, box.hi)
    return ~(box.hi <= box.lo)


def _tighten(
    layers: Layers, value: int, mask: Bool[Array, "*n"], bucket: int | None
) -> Box:
    """Returns the range of a value, masked elements bounded by back-substitution."""
    rows_of = row_source(layers.program, layers.values, value, layers.dtype)

    def bound(index: Array) -> tuple[Array, Array]:
        least = layers.lower_values(*both_sides(*rows_of(index)))
        return least[: index.size], -least[index.size :]

    return meet_in_buckets(bound, layers.boxes[value], mask, bucket)


def both_sides(rows: Coefficients, const: Array) -> tuple[Coefficients, Array]:
    """Returns rows and, below them, the negated rows."""
    both = {i: jnp.concatenate([c, -c]) for i, c in rows.items()}
    return both, jnp.concatenate([const, -const])


def meet_in_buckets(
    bound: Callable[[Array], tuple[Array, Array]],
    before: Box,
    mask: Bool[Array, "*n"],
    bucket: int | None,
) -> Box:
    """Returns a range after meeting it with `bound(index)` for the masked elements."""
    count = mask.size
    lo, hi = before.lo.reshape(-1), before.hi.reshape(-1)
    if bucket is None or bucket >= count:
        new_lo, new_hi = meet(lo, hi, *bound(jnp.arange(count)))
        wanted = mask.reshape(-1)
        lo, hi = jnp.where(wanted, new_lo, lo), jnp.where(wanted, new_hi, hi)
    else:
        lo, hi = _in_buckets(bound, mask.reshape(-1), lo, hi, bucket)
    return Box(lo.reshape(mask.shape), hi.reshape(mask.shape))


def meet(lo: Array, hi: Array, new_lo: Array, new_hi: Array) -> tuple[Array, Array]:
    """Returns the intersection of two ranges of the same numbers."""
    lo, hi = jnp.maximum(lo, new_lo), jnp.minimum(hi, new_hi)
    # Two roundings of one number may cross; keep the interval from turning around.
    return jnp.minimum(lo, hi), jnp.maximum(lo, hi)


def _in_buckets(
    bound: Callable[[Array], tuple[Array, Array]],
    mask: Array,
    lo: Array,
    hi: Array,
    bucket: int,
) -> tuple[Array, Array]:
    rank = jnp.cumsum(mask)
    total, count = rank[-1], mask.size

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        first, lo, hi = state
        wanted = first + 1 + jnp.arange(bucket)
        # The index of the w-th undecided neuron is how many ranks lie below w.
        index = jnp.sum(rank[None, :] < wanted[:, None], axis=1)
        new_lo, new_hi = bound(jnp.minimum(index, count - 1))
        old_lo = lo.at[index].get(mode="fill", fill_value=0)
        old_hi = hi.at[index].get(mode="fill", fill_value=0)
        new_lo, new_hi = meet(old_lo, old_hi, new_lo, new_hi)
        lo = lo.at[index].set(new_lo, mode="drop")
        hi = hi.at[index].set(new_hi, mode="drop")
        return first + bucket, lo, hi

    start = jnp.zeros((), rank.dtype), lo, hi
    _, lo, hi = lax.while_loop(lambda state: state[0] < total, step, start)
    return lo, hi


def row_source(
    program: Program, values: Values, value: int, dtype: Any
) -> Callable[[Array], tuple[Coefficients, Array]]:
    """Returns index -> rows that pick these elements of a value."""
    sizes = {node.output: node.shape for node in program.nodes}
    shape = sizes.get(value, program.input_shape)
    count = math.prod(shape)

    def unit_rows(index: Array) -> tuple[Coefficients, Array]:
        units = jax.nn.one_hot(index, count, dtype=dtype)
        zero = jnp.zeros(index.shape, dtype)
        return {value: units.reshape((-1, *shape))}, zero

    widest = max([program.input_size, *(node.size for node in program.nodes)])
    if count * widest > _MATRIX_LIMIT:
        return unit_rows
    matrix, offset = pull_affine(program, values, *unit_rows(jnp.arange(count)))

    def gathered(index: Array) -> tuple[Coefficients, Array]:
        return {i: c[index] for i, c in matrix.items()}, offset[index]

    return gathered


def _spec_rows(
    program: Program, options: CrownOptions, params: Any, region: Region, spec: Spec
) -> tuple[Array, dict[int, Box]]:
    values = program.prepare(params, enclosing(region).lo.dtype)
    layers = bound_layers(program, values, region, options)
    by_interval = interval_rows(program, values, layers.boxes, spec)
    rows = layers.lower_values({program.output: spec.coefficients}, spec.offset)
    return jnp.maximum(rows, by_interval), layers.boxes


def _affine_bounds(
    program: Program, options: CrownOptions, params: Any, region: Region
) -> AffineBounds:
    dtype = enclosing(region).lo.dtype
    rows = output_rows(program, dtype)
    values = program.prepare(params, dtype)
    layers = bound_layers(program, values, region, options)
    return AffineBounds.of_both_sides(*layers.lower(*rows))


def output_rows(program: Program, dtype: Any) -> tuple[Coefficients, Array]:
    """Returns the rows that are the outputs and, below them, their negatives.

    Raises:
      InputError: the outputs are no vector.
    """
    if len(program.output_shape) != 1:
        raise InputError(
            f"the network returns shape {program.output_shape}; CROWN bounds a vector "
            "of outputs: flatten it"
        )
    (count,) = program.output_shape
    rows = {program.output: jnp.eye(count, dtype=dtype)}
    return both_sides(rows, jnp.zeros(count, dtype))


def _differentiable(compute: Callable) -> Callable:
    """Gives a bucketed bound the derivative of its dense form.

    Both are the same function: buckets only skip neurons whose bounds do not matter.
    Their loop cannot be differentiated in reverse; the dense form can.
    """

    @functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
    def wrapped(program: Program, options: CrownOptions, *arguments: Any) -> Any:
        return compute(program, options, *arguments)

    @wrapped.defjvp
    def _(program: Program, options: CrownOptions, primals: Any, tangents: Any) -> Any:
        dense = dataclasses.replace(options, bucket=None)
        exact = functools.partial(compute, program, dense)
        _, moved = jax.jvp(exact, primals, tangents)
        return compute(program, options, *primals), moved

    return as_one_program(wrapped, static=2)


_differentiable_rows = _differentiable(_spec_rows)
_differentiable_bounds = _differentiable(_affine_bounds)


@dataclasses.dataclass(frozen=True)
class Crown:
    """CROWN bounds of f; see `crown`."""

    f: Callable[[Any, Any], Any]
    options: CrownOptions = CrownOptions()

    @own_settings()
    def __call__(self, params: Any, box: Region) -> AffineBounds:
        """Returns affine functions that enclose f(params, z) for every z of the box."""
        box = of_jax(box)
        program = program_as_given(self.f, params, enclosing(box).lo)
        return _differentiable_bounds(program, self.options, params, box)

    def lower_rows(self, params: Any, box: Region, spec: Spec) -> Float[Array, " rows"]:
        """Returns a lower bound over the box, or ball, of every row of the spec.

        The greater of the CROWN bound and of the interval bound of each row.
        """
        return self.rows_and_boxes(params, box, spec)[0]

    @own_settings()
    def rows_and_boxes(
        self, params: Any, box: Region, spec: Spec
    ) -> tuple[Float[Array, " rows"], dict[int, Box]]:
        """Returns `lower_rows` and the range of every value of the program."""
        box = of_jax(box)
        program = program_as_given(self.f, params, enclosing(box).lo)
        return _differentiable_rows(program, self.options, params, box, spec)


def crown(f: Callable[[Any, Any], Any], options: CrownOptions | None = None) -> Crown:
    """Returns the CROWN bounds of `f(params, x)`.

    `crown(f)(params, box)` is an `AffineBounds`; `crown(f).lower_rows(params, box,
    spec)` bounds every row of a Spec from below. Both are for one box, or one `Ball`:
    batch with `jax.vmap`, compile with `jax.jit`, differentiate with respect to box or
    params with `jax.grad`. Computed in the float type of the box, without outward
    rounding. f is taken as it is called here: where JAX has 64-bit types enabled,
    params and constants in float64 are that; elsewhere they are float32.

    Source: Zhang et al., "Efficient neural network robustness certification with
    general activation functions", NeurIPS 2018; the lower slope of an unstable ReLU is
    1 if u > -l else 0.

    Args:
      f: any JAX function of params and one input, made of supported primitives, that
        returns a vector.
      options: how intermediate layers are bounded.

    Raises (on call):
      UnsupportedError: f uses a primitive on x that has no rule.
      InputError: f does not return a vector.

    Example:
      >>> import jax.numpy as jnp, jaxcert as jc
      >>> f = lambda w, x: jnp.maximum(w @ x, 0.0)
      >>> w = jnp.array([[1.0, -1.0], [2.0, 1.0]])
      >>> unit = jc.Box(jnp.zeros(2), jnp.ones(2))
      >>> bounds = jc.crown(f)(w, unit)
      >>> out = bounds.concretize(unit)
      >>> out.lo.tolist(), out.hi.tolist()
      ([0.0, 0.0], [1.0, 3.0])
    """
    return Crown(f, options or CrownOptions())
