"""Semantic robustness: brightness, contrast, blur and gamma as exact input sets.

A semantic change of an image has a few parameters theta. Put in front of a network,
`theta -> f(params, transform(x, theta))` is a function of those parameters alone, and
the set of changed images is exactly the box of parameters: nothing is relaxed into a
ball of pixels. Bounds over such a box are split over the parameters
(`jaxcert.branch.parameters`), which is complete for any continuous network.
docs/semantic.md states what is proved.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxcert.bounds.forward import forward_layers
from jaxcert.box import Box
from jaxcert.branch.parameters import (
    Goal,
    ParameterAnswer,
    ask,
    with_slacks,
)
from jaxcert.branch.questions import ParameterSplitOptions, Questions
from jaxcert.checks import (
    as_arrays,
    check_inputs,
    check_labels,
    check_not_flushed,
)
from jaxcert.devices import float64
from jaxcert.errors import InputError
from jaxcert.semantic.answers import OutputRanges, SemanticApothems, SemanticVerdicts
from jaxcert.semantic.attack import nearest_violations
from jaxcert.semantic.changes import InputFamily, Transform
from jaxcert.spec import Spec
from jaxcert.trace.pinned import own_settings, pinned
from jaxcert.trace.program import Program, is_relu
from jaxcert.trace.tracing import Stated, program_of, with_types
from jaxcert.verdict import Status


@dataclasses.dataclass(frozen=True)
class Changed:
    """The function `(params, x), theta -> f(params, transform(x, theta))`."""

    f: Callable[[Any, Any], Any]
    transform: Transform

    def __call__(self, params_and_x: tuple[Any, Any], theta: Array) -> Array:
        params, x = params_and_x
        return self.f(params, self.transform(x, theta))


class SemanticCertifier:
    """Certifies a network against one family of input changes.

    Inputs are taken in batches of `batch_size`; one compilation serves them all, and
    every network of the same architecture.
    """

    def __init__(
        self,
        f: Callable[[Any, Any], Any],
        params: Any,
        family: InputFamily,
        *,
        batch_size: int = 32,
        options: ParameterSplitOptions | None = None,
    ) -> None:
        """Checks the weights.

        Args:
          f: any JAX function of params and one input that returns a vector.
          params: its weights.
          family: how inputs change.
          batch_size: inputs per call.
          options: how parameter boxes are split.

        Raises:
          InputError: weights that are not finite, or batch_size < 1.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be >= 1")
        self.f, self.family, self.batch_size = pinned(f), family, batch_size
        # As in `Model`: a float64 network is decided as that.
        self._stated = with_types(self.f, params)
        self.weights = as_arrays(params, np.float32), as_arrays(params, np.float64)
        self.options = options or ParameterSplitOptions()

    @own_settings()
    def apothems(
        self,
        x: np.ndarray,
        spec: Spec,
        tolerance: float = 1e-3,
        deadline: float = np.inf,
    ) -> SemanticApothems:
        """Returns the bracket of every input, closed to the tolerance in time.

        Args:
          x: inputs in [0, 1], (n, *shape).
          spec: what must hold of each, leaves with a leading axis n; see `row_specs`.
          tolerance: width of the brackets, in radius units, > 0.
          deadline: `time.monotonic()` after which no more is proved.

        Raises:
          InputError: inputs outside [0, 1], a spec of another shape, no tolerance > 0.
        """
        _check_tolerance(tolerance)
        reach = self.family.reach()
        found = self._batches(x, spec, "apothem", reach, 0.95 * tolerance, deadline)
        lower = np.where(found.radius >= reach, np.inf, np.maximum(found.radius, 0))
        return SemanticApothems(
            lower, found.upper, found.witness, found.processed, self.family.names,
            float(tolerance),
        )  # fmt: skip

    @own_settings()
    def verdicts(
        self, x: np.ndarray, spec: Spec, radius: float, deadline: float = np.inf
    ) -> SemanticVerdicts:
        """Returns whether the spec holds for all parameters up to a radius.

        Args and errors are those of `apothems`; the radius must be >= 0.
        """
        _check_radius(radius)
        found = self._batches(x, spec, "apothem", radius, np.inf, deadline)
        status = np.where(found.open, Status.UNKNOWN, Status.PROVED)
        # A stretched ray or a box rounded outward may end a little beyond the radius.
        refuted = found.upper <= radius
        beyond = np.isfinite(found.upper) & ~refuted
        status = np.where(beyond, Status.UNKNOWN, status)
        status = np.where(refuted, Status.REFUTED, status)
        witness = np.where(refuted[:, None], found.witness, np.nan)
        return SemanticVerdicts(status, witness, found.processed, float(radius))

    @own_settings()
    def output_ranges(
        self,
        x: np.ndarray,
        radius: float,
        tolerance: float = 1e-3,
        deadline: float = np.inf,
    ) -> OutputRanges:
        """Returns what every output may become for parameters up to a radius.

        The range is wider than the least one by at most the tolerance and the rounding
        slack on each side, but for inputs that are `open`.

        Args and errors are those of `apothems`; the tolerance is in output units.
        """
        _check_radius(radius)
        _check_tolerance(tolerance)
        (count,) = self.program(x.shape[1:]).output_shape
        eye = np.eye(count)
        rows = np.broadcast_to(np.concatenate([eye, -eye]), (len(x), 2 * count, count))
        spec = row_specs(rows, np.zeros(rows.shape[:2]))
        found = self._batches(x, spec, "minimum", radius, tolerance, deadline)
        return OutputRanges(
            lower=found.bound[:, :count],
            upper=-found.bound[:, count:],
            boxes=found.processed,
            open=found.open,
            radius=float(radius),
        )

    @own_settings()
    @float64()
    def undecided(self, x: np.ndarray, radius: float) -> np.ndarray:
        """Returns how many ReLUs of f may change their sign up to a radius, (n,).

        Counted before any split, by the bounds that branch and bound starts from; the
        ReLUs of the input change are left out.
        """
        _check_radius(radius)
        theta = np.zeros(len(self.family.names), np.float32)
        shape = np.zeros(x.shape[1:], np.float32)
        of_change = program_of(self.family.transform, shape, theta)
        program = self.program(x.shape[1:])
        box = Box.ball(jnp.zeros(theta.shape), radius, self.family.domain,
                       self.family.rates)  # fmt: skip
        counts = _undecided(program, self.weights[1], np.float64(x), box)
        return np.asarray(counts)[:, _relus(of_change) :].sum(axis=1)

    def program(self, shape: tuple[int, ...]) -> Program:
        """Returns the network behind the change of an input, a function of theta.

        Args:
          shape: of one input.

        Raises:
          InputError: the network does not return a vector.
        """
        f, types = self._stated.f, self._stated.types
        # x is of the type of the network's input, and so are the parameters.
        changed = Stated(
            Changed(f, self.family.transform), (*types, types[-1]), self._stated.x64
        )
        x = np.zeros(shape, np.float32)
        theta = np.zeros(len(self.family.names), np.float32)
        program = program_of(changed, (self.weights[0], x), theta)
        if len(program.output_shape) != 1:
            raise InputError(
                f"the network returns shape {program.output_shape} for one changed "
                "input; what is asked needs a vector"
            )
        return program

    def _batches(
        self,
        x: np.ndarray,
        spec: Spec,
        goal: Goal,
        radius: float,
        width: float,
        deadline: float,
    ) -> ParameterAnswer:
        x = np.asarray(x, np.float64)
        check_inputs(x, Box(np.zeros(x.shape[1:]), np.ones(x.shape[1:])))  # type: ignore[arg-type]
        if len(spec.offset) != len(x) or spec.num_clauses != spec.offset.shape[1]:
            raise InputError(
                f"the spec is of {len(spec.offset)} inputs with {spec.offset.shape[1]} "
                f"rows in {spec.num_clauses} clauses; give one spec for each of the "
                f"{len(x)} inputs, every row a clause of its own (see row_specs)"
            )
        check_not_flushed("the spec", np.asarray(spec.coefficients))
        size = min(self.batch_size, len(x))
        parts = []
        for start in range(0, len(x), size):
            rows = np.minimum(np.arange(start, start + size), len(x) - 1)
            wanted = np.where(start + np.arange(size) < len(x), radius, -1.0)
            part = self._questions(x[rows], _rows_of(spec, rows), width)
            found = self._ask(part, goal, wanted, deadline)
            kept = min(size, len(x) - start)
            parts.append({k: v[:kept] for k, v in vars(found).items()})
        return ParameterAnswer(
            **{k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        )

    def _questions(self, x: np.ndarray, spec: Spec, width: float) -> Questions:
        return Questions(
            x=x, spec=spec, slack=np.zeros(len(x)),  # type: ignore[arg-type]
            centre=np.zeros(len(self.family.names)),  # type: ignore[arg-type]
            domain=self.family.domain, rates=self.family.rates,
            width=np.float64(width),  # type: ignore[arg-type]
        )  # fmt: skip

    @float64()
    def _ask(
        self, questions: Questions, goal: Goal, radius: np.ndarray, deadline: float
    ) -> ParameterAnswer:
        program = self._checked(questions)
        asked = np.maximum(radius, 0)
        questions = with_slacks(program, self.weights[1], questions, asked)
        known = None
        if goal == "apothem":
            single = jax.tree.map(_float32, questions)
            both = single, questions
            found = nearest_violations(program, self.weights, both, asked)
            distance, witness = (np.array(v) for v in found)
            # A violation beyond the radius is none of what is asked.
            distance[distance > radius] = np.inf
            known = distance, witness
        return ask(
            program, self.weights[1], questions, goal, radius, known, self.options,
            deadline,
        )  # fmt: skip

    def _checked(self, questions: Questions) -> Program:
        program = self.program(questions.x.shape[1:])
        wanted = questions.spec.coefficients.shape[-1]
        if program.output_shape != (wanted,):
            raise InputError(
                f"the spec speaks of {wanted} outputs, but the network returns shape "
                f"{program.output_shape}"
            )
        return program


def _rows_of(spec: Spec, rows: np.ndarray) -> Spec:
    return jax.tree.map(lambda v: v[rows], spec)


def _relus(program: Program) -> int:
    """Returns how many layers of ReLUs a program has."""
    return sum(map(is_relu, program.nodes))


@functools.partial(jax.jit, static_argnames=("program",))
def _undecided(
    program: Program, params: Any, x: Float[Array, "n *d"], box: Box
) -> Int[Array, "n layers"]:
    """Returns the number of undecided ReLUs of every layer, per input."""

    def one(x: Array) -> Array:
        values = program.prepare((params, x), box.lo.dtype)
        boxes, _ = forward_layers(program, values, box)
        counts = []
        for node in program.nodes:
            if is_relu(node):
                z = boxes[node.inputs[0]]
                counts.append(jnp.sum(node.activation.undecided(z.lo, z.hi)))
        return jnp.stack(counts)

    return lax.map(one, x)


def row_specs(coefficients: np.ndarray, offset: np.ndarray) -> Spec:
    """Returns specs of a batch: all rows `C y + d > 0` must hold.

    Args:
      coefficients: C, (n, rows, outputs).
      offset: d, (n, rows).
    """
    n, rows = offset.shape
    clause = np.tile(np.arange(rows), (n, 1))
    return Spec(coefficients, offset, clause, rows)  # type: ignore[arg-type]


def label_specs(labels: np.ndarray, num_classes: int) -> Spec:
    """Returns specs of a batch: the label's logit exceeds every other.

    Raises:
      InputError: a label that is no integer in 0 .. num_classes - 1.
    """
    labels = np.asarray(labels)
    check_labels(labels, len(labels), num_classes)
    eye = np.eye(num_classes)
    others = [[j for j in range(num_classes) if j != c] for c in labels]
    rows = eye[labels][:, None] - eye[np.asarray(others, int).reshape(len(labels), -1)]
    return row_specs(rows, np.zeros(rows.shape[:2]))


def stay_specs(outputs: np.ndarray, distance: float) -> Spec:
    """Returns specs of a batch: every output stays closer than `distance` to its own.

    Args:
      outputs: where they are, (n, K).
      distance: > 0, in units of the outputs.
    """
    n, count = outputs.shape
    eye = np.eye(count)
    rows = np.tile(np.concatenate([eye, -eye]), (n, 1, 1))
    return row_specs(rows, distance - np.concatenate([outputs, -outputs], axis=1))


def _float32(value: Any) -> Any:
    value = jnp.asarray(value)
    return value.astype(jnp.float32) if value.dtype == jnp.float64 else value


def _check_tolerance(tolerance: float) -> None:
    if not 0 < tolerance < np.inf:
        raise InputError(f"tolerance is {tolerance}; it must be > 0 and finite")


def _check_radius(radius: float) -> None:
    if not 0 <= radius < np.inf:
        raise InputError(f"radius is {radius}; it must be >= 0 and finite")
