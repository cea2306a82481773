"""Semantic robustness: brightness, contrast, blur and gamma as exact input sets.

A semantic change of an image has a few parameters theta. Put in front of a network,
`theta -> f(params, transform(x, theta))` is a function of those parameters alone, and
the set of changed images is exactly the box of parameters: nothing is relaxed into a
ball of pixels. Bounds over such a box are split over the parameters
(`jaxcert.oracle.parameter_split`), which is complete for any continuous network.
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
from jaxcert.bounds.ibp import program_of
from jaxcert.box import Box, Rates
from jaxcert.certifier import float64
from jaxcert.checks import as_arrays, check_inputs
from jaxcert.errors import InputError
from jaxcert.oracle.parameter_attack import nearest_violations
from jaxcert.oracle.parameter_split import (
    Goal,
    ParameterAnswer,
    ParameterSplitOptions,
    Questions,
    ask,
    with_slacks,
)
from jaxcert.program import ActivationNode, Program
from jaxcert.spec import Spec
from jaxcert.verdict import Status

Transform = Callable[[Array, Array], Array]


def _move(x: Array, theta: Array, *directions: Array) -> Array:
    """Returns clip(x + sum_k theta_k D_k, 0, 1): one affine map, then two ReLUs."""
    return jnp.clip(x + jnp.tensordot(theta, jnp.stack(directions), 1), 0, 1)


def brightness(x: Array, theta: Array) -> Array:
    """Returns clip(x + b, 0, 1), theta = (b,)."""
    return _move(x, theta, jnp.ones_like(x))


def contrast(x: Array, theta: Array) -> Array:
    """Returns clip((1 + c) x, 0, 1), theta = (c,)."""
    return _move(x, theta, x)


def brightness_contrast(x: Array, theta: Array) -> Array:
    """Returns clip((1 + c) x + b, 0, 1), theta = (b, c)."""
    return _move(x, theta, jnp.ones_like(x), x)


def blur(x: Array, theta: Array) -> Array:
    """Returns (1 - a) x + a B x, theta = (a,), B the 3 x 3 binomial blur.

    x has the shape (h, w, c); its edge is repeated beyond it.
    """
    h, w, _ = x.shape
    wide = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = wide[:h] + 2 * wide[1 : h + 1] + wide[2:]
    both = rows[:, :w] + 2 * rows[:, 1 : w + 1] + rows[:, 2:]
    return _move(x, theta, both / 16 - x)


def gamma(x: Array, theta: Array) -> Array:
    """Returns x ** (1 + g), theta = (g,), as x exp(g log x); 0 stays 0."""
    logarithm = jnp.log(jnp.where(x > 0, x, 1))
    return x * jnp.exp(jnp.tensordot(theta, logarithm[None], 1))


@dataclasses.dataclass(frozen=True)
class InputFamily:
    """A set of changed inputs with a few parameters; theta = 0 changes nothing.

    Attributes:
      transform: `transform(x, theta) -> x'`, JAX, theta of shape (k,). A function with
        a name of its own, not a lambda made per call: it is part of what is compiled.
      names: of the parameters, (k,).
      lower, upper: legal parameters, around 0, (k,).
      rates_down, rates_up: how far every parameter may go at radius 1, (k,); 0: not at
        all on that side.
    """

    transform: Transform
    names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    rates_down: tuple[float, ...]
    rates_up: tuple[float, ...]

    def __post_init__(self) -> None:
        ends = (self.lower, self.upper, self.rates_down, self.rates_up)
        if any(len(end) != len(self.names) for end in ends):
            raise InputError(
                f"a family of {len(self.names)} parameters needs as many bounds and "
                f"rates, got {', '.join(str(len(end)) for end in ends)}"
            )
        if not all(a <= 0 <= b for a, b in zip(self.lower, self.upper, strict=True)):
            raise InputError("legal parameters must lie around 0, which changes nothing")
        rates = self.rates_down + self.rates_up
        if not all(0 <= rate < np.inf for rate in rates) or max(rates) == 0:
            raise InputError("rates must be finite and >= 0, and not all of them 0")

    def with_rates(self, *rates: float) -> InputFamily:
        """Returns the family with these rates on the sides that may move."""
        if len(rates) != len(self.names):
            raise InputError(
                f"{len(rates)} rates for the parameters {', '.join(self.names)}: give "
                "one each"
            )
        down, up = (
            tuple(r if old > 0 else 0.0 for r, old in zip(rates, side, strict=True))
            for side in (self.rates_down, self.rates_up)
        )
        return dataclasses.replace(self, rates_down=down, rates_up=up)

    @property
    def domain(self) -> Box:
        """The legal parameters, numpy float64."""
        return Box(*(np.asarray(v, np.float64) for v in (self.lower, self.upper)))  # type: ignore[arg-type]

    @property
    def rates(self) -> Rates:
        """The rates, numpy float64."""
        ends = (self.rates_down, self.rates_up)
        return Rates(*(np.asarray(v, np.float64) for v in ends))  # type: ignore[arg-type]

    def reach(self) -> float:
        """Returns the radius from which on the box fills the legal parameters."""
        with float64():
            centre = jnp.zeros(len(self.names))
            return float(self.rates.reach(centre, self.domain))


FAMILIES = {
    "brightness": InputFamily(brightness, ("b",), (-1.0,), (1.0,), (1.0,), (1.0,)),
    "contrast": InputFamily(contrast, ("c",), (-1.0,), (1.0,), (1.0,), (1.0,)),
    "both": InputFamily(
        brightness_contrast, ("b", "c"), (-1.0, -1.0), (1.0, 1.0),
        (1.0, 1.0), (1.0, 1.0),
    ),
    "blur": InputFamily(blur, ("a",), (0.0,), (1.0,), (0.0,), (1.0,)),
    "gamma": InputFamily(gamma, ("g",), (-0.75,), (3.0,), (1.0,), (1.0,)),
}  # fmt: skip
"""The families by the name that experiments give them."""


@dataclasses.dataclass(frozen=True)
class SampledChange:
    """The function `x, u -> x'` for u in [-1, 1]^k: a change up to a radius.

    What `jaxcert.prune` trains with, and what scores are taken over.
    """

    family: InputFamily
    radius: float

    def __call__(self, x: Array, u: Array) -> Array:
        rates, domain = self.family.rates, self.family.domain
        rate = jnp.where(u < 0, rates.lower, rates.upper).astype(x.dtype)
        theta = jnp.clip(self.radius * u * rate, domain.lo, domain.hi)
        return self.family.transform(x, theta.astype(x.dtype))


@dataclasses.dataclass(frozen=True)
class Changed:
    """The function `(params, x), theta -> f(params, transform(x, theta))`."""

    f: Callable[[Any, Any], Any]
    transform: Transform

    def __call__(self, params_and_x: tuple[Any, Any], theta: Array) -> Array:
        params, x = params_and_x
        return self.f(params, self.transform(x, theta))


@dataclasses.dataclass(frozen=True, eq=False)
class SemanticApothems:
    """A bracket per input around the radius up to which the spec holds.

    Attributes:
      lower: proved: the spec holds for all parameters up to it, (n,); 0: nothing was
        proved; inf: for all legal parameters.
      upper: a violation lies at this radius, (n,); inf: none is known.
      witness: its parameters, (n, k); NaN if none.
      boxes: parameter boxes bounded, (n,).
    """

    lower: np.ndarray
    upper: np.ndarray
    witness: np.ndarray
    boxes: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class SemanticVerdicts:
    """A verdict per input on one box of parameters.

    Attributes:
      status: `Status` values, (n,).
      witness: parameters that violate the spec, (n, k); NaN unless REFUTED.
      boxes: parameter boxes bounded, (n,).
    """

    status: np.ndarray
    witness: np.ndarray
    boxes: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class OutputRanges:
    """What every output may become over one box of parameters.

    Attributes:
      lower, upper: proved: no output leaves [lower, upper], (n, outputs); infinite
        where nothing was proved in time.
      boxes: parameter boxes bounded, (n,).
      open: inputs whose range may be wider than the tolerance says, (n,).
    """

    lower: np.ndarray
    upper: np.ndarray
    boxes: np.ndarray
    open: np.ndarray


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
        self.f, self.family, self.batch_size = f, family, batch_size
        self.params32 = as_arrays(params, np.float32)
        self.params64 = as_arrays(params, np.float64)
        self.options = options or ParameterSplitOptions()

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
          spec: what must hold of each; leaves with a leading axis n, every row a clause.
          tolerance: width of the brackets, in radius units, > 0.
          deadline: `time.monotonic()` after which no more is proved.

        Raises:
          InputError: inputs outside [0, 1], a spec of another shape, no tolerance > 0.
        """
        _check_tolerance(tolerance)
        reach = self.family.reach()
        found = self._batches(x, spec, "apothem", reach, 0.95 * tolerance, deadline)
        lower = np.where(found.radius >= reach, np.inf, np.maximum(found.radius, 0))
        return SemanticApothems(lower, found.upper, found.witness, found.processed)

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
        return SemanticVerdicts(status, witness, found.processed)

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
        count = jax.eval_shape(self.f, self.params32, np.float32(x[0])).shape[0]
        eye = np.eye(count)
        rows = np.broadcast_to(np.concatenate([eye, -eye]), (len(x), 2 * count, count))
        spec = row_specs(rows, np.zeros(rows.shape[:2]))
        found = self._batches(x, spec, "minimum", radius, tolerance, deadline)
        return OutputRanges(
            lower=found.bound[:, :count],
            upper=-found.bound[:, count:],
            boxes=found.processed,
            open=found.open,
        )

    def undecided(self, x: np.ndarray, radius: float) -> np.ndarray:
        """Returns how many ReLUs of f may change their sign up to a radius, (n,).

        Counted before any split, by the bounds that branch and bound starts from; the
        ReLUs of the input change are left out.
        """
        _check_radius(radius)
        theta = np.zeros(len(self.family.names), np.float32)
        shape = np.zeros(x.shape[1:], np.float32)
        of_change = program_of(self.family.transform, shape, theta)
        changed = Changed(self.f, self.family.transform)
        program = program_of(changed, (self.params32, shape), theta)
        with float64():
            box = Box.ball(jnp.zeros(theta.shape), radius, self.family.domain,
                           self.family.rates)  # fmt: skip
            counts = _undecided(program, self.params64, np.float64(x), box)
        return np.asarray(counts)[:, _relus(of_change) :].sum(axis=1)

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
        size = min(self.batch_size, len(x))
        parts = []
        for start in range(0, len(x), size):
            rows = np.minimum(np.arange(start, start + size), len(x) - 1)
            wanted = np.where(start + np.arange(size) < len(x), radius, -1.0)
            part = self._questions(x[rows], jax.tree.map(lambda v: v[rows], spec), width)
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

    def _ask(
        self, questions: Questions, goal: Goal, radius: np.ndarray, deadline: float
    ) -> ParameterAnswer:
        program = self._program(questions)
        with float64():
            asked = np.maximum(radius, 0)
            questions = with_slacks(program, self.params64, questions, asked)
            known = None
            if goal == "apothem":
                single = jax.tree.map(_float32, questions)
                both, weights = (single, questions), (self.params32, self.params64)
                found = nearest_violations(program, weights, both, asked)
                known = tuple(np.array(v) for v in found)
                known[0][radius < 0] = np.inf
            return ask(
                program, self.params64, questions, goal, radius, known, self.options,
                deadline,
            )  # fmt: skip

    def _program(self, questions: Questions) -> Program:
        changed = Changed(self.f, self.family.transform)
        x = np.asarray(questions.x[0], np.float32)
        theta = np.zeros(len(self.family.names), np.float32)
        program = program_of(changed, (self.params32, x), theta)
        wanted = questions.spec.coefficients.shape[-1]
        if program.output_shape != (wanted,):
            raise InputError(
                f"the spec speaks of {wanted} outputs, but the network returns shape "
                f"{program.output_shape}"
            )
        return program


def _relus(program: Program) -> int:
    """Returns how many layers of ReLUs a program has."""
    return sum(
        isinstance(node, ActivationNode) and node.activation.piecewise_linear
        for node in program.nodes
    )


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
            if isinstance(node, ActivationNode) and node.activation.piecewise_linear:
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
    """Returns specs of a batch: the label's logit exceeds every other."""
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
