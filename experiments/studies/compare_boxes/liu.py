"""Non-uniform bounds of greatest volume by an augmented Lagrangian, with CROWN.

Liu, Tomioka, Cevher, "On certifying non-uniform bounds against adversarial attacks",
ICML 2019: maximise sum_i log eps_i subject to a certified margin on x +- eps, with
eps = v^2, then shrink by 0.99 until the box is proved. The box is symmetric about x and
knows of no domain.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxcert.bounds.crown import crown
from jaxcert.box import Box
from jaxcert.spec import Spec
from studies.compare_boxes.competitors import BoxResult, Problem
from studies.compare_boxes.oracle_loop import compile_ahead, solve
from studies.compare_boxes.published_algorithms import Sound

# What the certified margin must exceed the required one by, while it is optimised.
_MARGIN = 1e-4
_SHRINK = 0.99


@dataclasses.dataclass(frozen=True)
class LiuOptions:
    """The published settings.

    Attributes:
      iterations: gradient steps.
      rates: their size; the first is the published one. Where it diverges, the next is
        tried.
      begin: eps at the start.
      penalty: beta at the start.
      growth: what beta is multiplied by, every `growth_every` steps.
      dual_every: steps between two updates of the multipliers.
    """

    iterations: int = 400
    rates: tuple[float, ...] = (1e-3, 3e-4, 1e-4)
    begin: float = 1e-3
    penalty: float = 1.0
    growth: float = 5.0
    growth_every: int = 80
    dual_every: int = 5


@dataclasses.dataclass(frozen=True)
class Liu:
    """The competitor.

    Attributes:
      clipped: shrink, and answer, the box clipped to the domain.
      options: of the optimisation.
    """

    clipped: bool = False
    options: LiuOptions = LiuOptions()

    def __call__(
        self, problem: Problem, xs: np.ndarray, labels: np.ndarray, seconds: float
    ) -> Iterator[BoxResult]:
        """Yields the boxes of all inputs, whose radii are optimised at once."""
        radii, axes = np.full(xs.shape, np.nan), tuple(range(1, xs.ndim))
        arguments = (
            problem.network.model.single,
            np.asarray(xs, np.float32),
            np.asarray(labels, np.int32),
            np.float32(problem.required_margin),
        )
        with jax.enable_x64(False):
            compiled = _radii.lower(
                problem.network.apply, problem.network.num_outputs, self.options,
                *arguments, np.float32(0),
            ).compile()  # fmt: skip
            begin = time.monotonic()
            for rate in self.options.rates:
                if np.isfinite(radii).all():
                    break
                found = np.asarray(compiled(*arguments, np.float32(rate)), np.float64)
                diverged = ~np.isfinite(radii).all(axis=axes, keepdims=True)
                radii = np.where(diverged, found, radii)
        # What diverges at every rate is left with its input alone.
        radii = np.nan_to_num(radii, posinf=0.0)
        share, search = (time.monotonic() - begin) / len(xs), Shrink()
        infinite: Any = np.full(xs[0].shape, np.inf)
        domain = problem.domain if self.clipped else Box(-infinite, infinite)
        unproved: Any = np.asarray(False)
        for row, (x, label) in enumerate(zip(xs, labels, strict=True)):
            state = ShrinkState(x, domain, radii[row], unproved)
            if row == 0:
                compile_ahead(search, problem, state, int(label))
            end = solve(search, problem, state, int(label), seconds - share)
            yield dataclasses.replace(end, seconds=end.seconds + share)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ShrinkState:
    """A symmetric box around x, clipped to a domain, and whether it is proved."""

    x: Float[Array, "*d"]
    domain: Box
    radius: Float[Array, "*d"]
    proved: Bool[Array, ""]

    @property
    def box(self) -> Box:
        """The present box."""
        return Box(self.x - self.radius, self.x + self.radius).intersect(self.domain)


@dataclasses.dataclass(frozen=True)
class Shrink(Sound):
    """Multiplies all radii by 0.99 until the box is proved."""

    def start(self, problem: Problem, x: Array) -> ShrinkState:
        """Returns the state of the whole domain, for want of other radii."""
        reach = jnp.maximum(x - problem.domain.lo, problem.domain.hi - x)
        return ShrinkState(x, problem.domain, reach, jnp.asarray(False))

    def question(self, state: ShrinkState) -> Box:
        """Returns the present box."""
        return state.box

    def after(self, state: ShrinkState, proved: Array, witness: Array) -> ShrinkState:
        """Returns the state with smaller radii, unless proved."""
        del witness
        radius = jnp.where(proved, state.radius, _SHRINK * state.radius)
        return dataclasses.replace(state, radius=radius, proved=proved)

    def finished(self, state: ShrinkState) -> Array:
        """Whether the box is proved."""
        return state.proved


@functools.partial(jax.jit, static_argnames=("f", "num_classes", "options"))
def _radii(
    f: Callable[[Any, Any], Any],
    num_classes: int,
    options: LiuOptions,
    params: Any,
    xs: Float[Array, "n *d"],
    labels: Int[Array, " n"],
    required_margin: Float[Array, ""],
    rate: Float[Array, ""],
) -> Float[Array, "n *d"]:
    """Returns the radii eps of every input after the last step, not yet proved."""
    bound = crown(f)

    def one(x: Array, label: Array) -> Array:
        spec = Spec.classification(label, num_classes, required_margin + _MARGIN)

        def loss(root: Array, dual: Array, beta: Array) -> tuple[Array, Array]:
            radius = root**2
            rows = bound.lower_rows(params, Box(x - radius, x + radius), spec)
            short = jnp.minimum(rows, -dual / beta)
            penalty = jnp.sum(dual * short) + beta / 2 * jnp.sum(short**2)
            return penalty - jnp.sum(jnp.log(radius)), short

        def step(index: Array, carry: tuple[Array, Array, Array]) -> Any:
            root, dual, beta = carry
            gradient, short = jax.grad(loss, has_aux=True)(root, dual, beta)
            root = root - rate * gradient
            updates = (index + 1) % options.dual_every == 0
            dual = jnp.where(updates, dual + beta * short, dual)
            grows = (index + 1) % options.growth_every == 0
            return root, dual, jnp.where(grows, options.growth * beta, beta)

        begin = (
            jnp.full_like(x, options.begin**0.5),
            jnp.zeros(num_classes - 1, x.dtype),
            jnp.asarray(options.penalty, x.dtype),
        )
        return lax.fori_loop(0, options.iterations, step, begin)[0] ** 2

    return jax.vmap(one)(xs, labels)
