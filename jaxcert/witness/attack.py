"""The oracle that refutes by searching for a counterexample: REFUTED or UNKNOWN."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxcert.ball import Ball, Region, enclosing, lowest, of_jax
from jaxcert.bounds.cuts import cast_floats
from jaxcert.box import Box
from jaxcert.devices import LESS_OPTIMISED, jit_in_haste, some_convolution
from jaxcert.errors import InputError
from jaxcert.spec import Spec
from jaxcert.trace.pinned import own_settings
from jaxcert.trace.program import ActivationNode, Node, OpaqueNode, Program
from jaxcert.trace.tracing import program_as_given
from jaxcert.verdict import Verdict, from_witness
from jaxcert.witness.judge import Accepts, Judge, Witness, point_slack


@dataclasses.dataclass(frozen=True)
class AttackOptions:
    """How hard the attack tries.

    Attributes:
      restarts: starting points per clause of the spec, >= 1; the first is the centre of
        the box, the second the hint, the others random vertices.
      steps: gradient steps from each, >= 1.
      seed: of the random vertices.
    """

    restarts: int = 2
    steps: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("restarts", "steps"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"AttackOptions.{name} is {getattr(self, name)}; it must be >= 1"
                )


@dataclasses.dataclass(frozen=True)
class AttackOracle:
    """Projected gradient descent on the margin of every clause; see `attack`."""

    f: Callable[[Any, Any], Any]
    options: AttackOptions = AttackOptions()

    @own_settings()
    def __call__(
        self,
        params: Any,
        box: Region,
        spec: Spec,
        hint: Float[Array, "*d"] | None = None,
    ) -> Verdict:
        """Returns REFUTED with the worst point found, if it violates the spec there.

        In float32 the witness is a candidate, to be confirmed in float64. In float64
        it must violate by more than rounding could feign; `find_witness` also judges
        what lies within that.
        """
        box = of_jax(box)
        like = enclosing(box).lo
        program = program_as_given(self.f, params, like)
        points, margins, _ = self.candidates(params, box, spec, hint)
        worst = jnp.argmin(jnp.where(jnp.isnan(margins), jnp.inf, margins))
        witness, margin = points[worst], margins[worst]
        slack = jnp.zeros((), like.dtype)
        if like.dtype == jnp.float64:
            values = program.prepare(params, like.dtype)
            slack = point_slack(program, values, spec, witness)
        found = (margin <= -slack) & box.contains(witness)
        return from_witness(witness, margin, found)

    def candidates(
        self,
        params: Any,
        box: Region,
        spec: Spec,
        hint: Float[Array, "*d"] | None = None,
        starts: Float[Array, "m *d"] | None = None,
        plenty: Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, "n *d"], Float[Array, " n"], Bool[Array, ""]]:
        """Returns the worst points of all descents, their margins, and what ended them.

        They begin at `starts`; where there are none, as the options say. If `plenty` is
        given, all end once one has met a violation by that, relative to the outputs;
        the last says whether one has.
        """
        like = enclosing(box).lo
        program = program_as_given(self.f, params, like)

        values = program.prepare(params, like.dtype)
        seen = _sloped if program.jumps else None

        def value(z: Array, target: Array) -> tuple[Array, Array]:
            more = {} if seen is None else {"seen": seen}
            outputs = program.evaluate_prepared(values, z, **more)
            clauses = spec.clauses(spec.values(outputs))
            return clauses[target], jnp.min(clauses)

        center = box.center
        hint = center if hint is None else jnp.where(jnp.isnan(hint), center, hint)
        starts = self.starts(box, hint) if starts is None else starts
        targets = jnp.arange(spec.num_clauses)
        outputs = program.evaluate_prepared(values, center)
        if spec.num_clauses > _TARGETS:
            clauses = spec.clauses(spec.values(outputs))
            targets = lax.top_k(-clauses, _TARGETS)[1]
        begin = jnp.repeat(starts, len(targets), axis=0)
        aims = jnp.tile(targets, len(starts))

        def total(z: Array) -> tuple[Array, Array]:
            each, margins = jax.vmap(value)(z, aims)
            return jnp.sum(each), margins

        steps = self.options.steps
        if plenty is None:
            return *descend(total, box, begin, steps), jnp.zeros((), bool)
        enough = -plenty * (1 + jnp.max(jnp.abs(outputs)))
        points, margins = descend(total, box, begin, steps, enough)
        return points, margins, jnp.any(margins <= enough)

    def starts(self, box: Region, hint: Array) -> Array:
        """Returns where descents begin, see the options."""
        random = self.options.restarts - 2
        starts = [box.center, box.project(hint)][: self.options.restarts]
        if random > 0:
            key = jax.random.key(self.options.seed)
            shape = (random, *hint.shape)
            if isinstance(box, Ball):
                starts += list(box.lowest(jax.random.normal(key, shape, hint.dtype)))
            else:
                side = jax.random.bernoulli(key, 0.5, shape)
                starts += list(jnp.where(side, box.lo, box.hi))
        return jnp.stack(starts)


_TARGETS = 8
"""Clauses that are descended on: those that hold least at the centre."""
_FAR = 0.1
"""The margin, relative to the outputs, that is not worth looking near a point, where
evaluating one takes long."""
_PLENTY = 0.01
"""The violation, relative to the outputs, that no rounding is likely to feign."""
_SEEDS = 8
"""Candidates of the attack that are judged."""


@functools.partial(
    jit_in_haste, static_argnames=("program", "oracle"), when=some_convolution,
    options=LESS_OPTIMISED,
)  # fmt: skip
def _seeds(
    program: Program,
    oracle: AttackOracle,
    params: Any,
    box: Region,
    spec: Spec,
    starts: Array,
    plenty: Array | None,
) -> tuple[Array, Array]:
    """Returns where descents lead that begin at `starts`, and whether one met `plenty`.

    The worst points first. How it is compiled depends on the program.
    """
    points, margins, met = oracle.candidates(
        params, box, spec, starts=starts, plenty=plenty
    )
    count = min(_SEEDS, len(margins))
    order = jnp.argsort(jnp.where(jnp.isnan(margins), jnp.inf, margins))
    return points[order[:count]], met


@functools.partial(jit_in_haste, static_argnames=("oracle",), when=lambda oracle: True)
def _starts(oracle: AttackOracle, region: Region) -> Array:
    return oracle.starts(region, region.center)


def _sloped(node: Node, value: Array, operands: Sequence[Array]) -> Array:
    """Returns a step with a slope to descend on; its value is what it was.

    Those to whole numbers have that of the identity. A sign has that of a soft one, as
    wide as its arguments are large on the mean ("straight-through"; Bengio et al., 2013
    and Hubara et al., "Binarized neural networks", NeurIPS 2016).
    """
    if isinstance(node, ActivationNode) and node.activation.jump is not None:
        (soft,) = operands
    elif isinstance(node, OpaqueNode) and node.name == "sign":
        (z,) = operands
        width = jnp.mean(jnp.abs(lax.stop_gradient(z))) + 1e-12
        soft = jnp.arctan(z / width)
    else:
        return value
    return lax.stop_gradient(value) + (soft - lax.stop_gradient(soft))


def find_witness(
    oracle: AttackOracle,
    judge: Judge,
    region: Region,
    spec: Spec,
    accepts: Accepts | None = None,
) -> Witness | None:
    """Returns a witness that the attack's points lead to, or None: ties count.

    One for a ball lies in it exactly.

    Must run where float64 is enabled.

    Args:
      oracle: the attack.
      judge: of its network.
      region: numpy float64, not empty.
      spec: numpy float64.
      accepts: what a witness must satisfy besides; see `Judge.first`.
    """
    model, asked = judge.model, (region, spec)
    weights = model.double
    if model.program.convolves and not model.program.typed.x64:
        # Convolutions in float64 are no library's on CPUs: they take ten times as long.
        weights, asked = model.single, cast_floats(asked, jnp.float32)
    starts = _starts(oracle, asked[0])
    # One start after the other where each takes long: the first often finds it.
    each, far = (1, _FAR) if model.program.convolves else (len(starts), math.inf)
    for first in range(0, len(starts), each):
        part = starts[first : first + each]
        # There, too, all descents end at one violation; unless it then is none.
        ends = (_PLENTY, math.inf) if model.program.convolves else (None,)
        for end in ends:
            plenty = None if end is None else jnp.asarray(end, part.dtype)
            found, met = _seeds(model.program, oracle, weights, *asked, part, plenty)
            seeds = jax.vmap(region.project)(jnp.asarray(found, jnp.float64))
            witness = judge.search(spec, region, np.asarray(seeds), accepts, far)
            if witness is not None:
                return witness
            if not met:
                break
    if isinstance(region, Ball) or not _worth_sampling(model.program, region):
        return None
    # Their gradients say little of trees of minima and maxima, nor of other large
    # networks of few features, and branching takes long to get as far as this.
    points = spread(region, _SAMPLES)
    margins = judge.values(spec, points).margin
    order = np.argsort(np.nan_to_num(margins, nan=np.inf), kind="stable")
    return judge.search(spec, region, points[order[:_SEEDS]], accepts)


_SAMPLES = 2048
"""Points of a box that few features span, where the attack finds nothing."""
_FEW_FEATURES, _LARGE = 4, 1 << 13
"""Features that such a box varies at most, and elements that its networks have."""


def _worth_sampling(program: Program, box: Box) -> bool:
    varying = int(np.count_nonzero(np.asarray(box.lo) < np.asarray(box.hi)))
    size = sum(node.size for node in program.nodes)
    few = 0 < varying <= _FEW_FEATURES
    return few and size >= _LARGE and not program.convolves


def spread(box: Box, count: int) -> np.ndarray:
    """Returns points of a box, spread evenly over the features that vary.

    Element j of point i is the fractional part of `i / g^(j+1)`, g the root of
    `g^(d+1) = g + 1` (Roberts, "The unreasonable effectiveness of quasirandom
    sequences", 2018).

    Args:
      box: numpy float64, of d features that vary.
      count: how many, shape (count, *d).
    """
    lo, hi = np.asarray(box.lo), np.asarray(box.hi)
    flat = np.repeat(lo.reshape(1, -1), count, axis=0)
    varying = np.flatnonzero(lo.reshape(-1) < hi.reshape(-1))
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (len(varying) + 1))
    steps = root ** -np.arange(1.0, len(varying) + 1)
    share = np.modf(0.5 + np.outer(np.arange(count), steps))[0]
    least, most = lo.reshape(-1)[varying], hi.reshape(-1)[varying]
    flat[:, varying] = np.clip(least + share * (most - least), least, most)
    return flat.reshape((count, *lo.shape))


def descend(
    value: Callable[[Array], tuple[Array, Array]],
    region: Region,
    start: Float[Array, "*n *d"],
    steps: int,
    enough: Float[Array, ""] | None = None,
) -> tuple[Float[Array, "*n *d"], Float[Array, "*n"]]:
    """Returns (the worst point that every descent meets, how bad it is).

    From one start or several, and with `value`, as of `walk`: less is worse. All end
    once one is as bad as `enough`, if that is given.

    The step is a fraction of every edge, from 1 (a jump to a vertex: on a piece where
    the network is linear that is the minimiser) down to 1/50, then vertices again. In a
    ball it is that fraction of the way to the minimiser of the gradient.
    """
    shrinking = jnp.geomspace(1.0, 0.02, max(steps - 2, 1))
    fractions = jnp.concatenate([shrinking, jnp.ones(2)])[:steps].astype(start.dtype)
    if isinstance(region, Ball):

        def moved(z: Array, gradient: Array, fraction: Array) -> Array:
            down = jnp.where(jnp.isnan(gradient), 1, gradient)
            least = functools.partial(lowest, region)
            if z.ndim > region.center.ndim:
                least = jax.vmap(least)
            return z + fraction * (least(down) - z)

        return _walk(value, moved, start, fractions, enough)
    return walk(value, region, start, fractions, region.edges(), enough)


def walk(
    value: Callable[[Array], tuple[Array, Array]],
    box: Box,
    start: Float[Array, "*n *d"],
    fractions: Float[Array, " steps"],
    scale: Array,
    enough: Float[Array, ""] | None = None,
) -> tuple[Float[Array, "*n *d"], Float[Array, "*n"]]:
    """Returns (the worst point that every descent meets, how bad it is).

    Args:
      value: of all points, the sum of what to descend on, and by what to judge each:
        less is worse.
      box: that the descents stay in.
      start: one point, or several.
      fractions: of the scale, how far each step goes along the gradient's sign.
      scale: per coordinate, or one for all.
      enough: how bad one point has to be for all to end; None: none ends early.
    """

    def moved(z: Array, gradient: Array, fraction: Array) -> Array:
        # A root has no gradient at 0, where every way may lead down: any will do.
        down = jnp.where(jnp.isnan(gradient), 1, jnp.sign(gradient))
        return box.project(z - fraction * scale * down)

    return _walk(value, moved, start, fractions, enough)


def _walk(
    value: Callable[[Array], tuple[Array, Array]],
    moved: Callable[[Array, Array, Array], Array],
    start: Float[Array, "*n *d"],
    fractions: Float[Array, " steps"],
    enough: Float[Array, ""] | None,
) -> tuple[Float[Array, "*n *d"], Float[Array, "*n"]]:
    """Returns what `walk` does; `moved` is one step, from point, gradient, fraction."""

    def worse(z: Array, margin: Array, best: Array, least: Array) -> tuple:
        better = margin < least
        spread = better.reshape(better.shape + (1,) * (z.ndim - better.ndim))
        return jnp.where(spread, z, best), jnp.where(better, margin, least)

    def step(carry: tuple[Array, Array, Array], fraction: Array) -> Any:
        z, best, least = carry
        (_, margin), gradient = jax.value_and_grad(value, has_aux=True)(z)
        best, least = worse(z, margin, best, least)
        return (moved(z, gradient, fraction), best, least), None

    first = jnp.full(jax.eval_shape(value, start)[1].shape, jnp.inf, start.dtype)
    carry = start, start, first
    if enough is None:
        z, best, least = lax.scan(step, carry, fractions)[0]
    else:
        z, best, least = lax.while_loop(
            lambda v: (v[0] < len(fractions)) & ~jnp.any(v[1][2] <= enough),
            lambda v: (v[0] + 1, step(v[1], fractions[v[0]])[0]),
            (jnp.int32(0), carry),
        )[1]
    return worse(z, value(z)[1], best, least)


def attack(
    f: Callable[[Any, Any], Any], options: AttackOptions | None = None
) -> AttackOracle:
    """Returns the attack on `f(params, x)`: multi-restart projected gradient descent.

    `attack(f)(params, box, spec)` is a `Verdict`, REFUTED with a witness inside the
    box, or the `Ball`, or UNKNOWN: an attack proves nothing. All clauses of the spec
    are targets. For one box: batch with `jax.vmap`, compile with `jax.jit`.

    Source: Madry et al., "Towards deep learning models resistant to adversarial
    attacks", ICLR 2018, with steps that begin and end at vertices of the box.

    Args:
      f: any JAX function of params and one input, made of supported primitives.
      options: how hard it tries.

    Example:
      >>> import jax.numpy as jnp, jaxcert as jc
      >>> f = lambda w, x: w @ x
      >>> w = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> spec = jc.Spec.classification(0, 2)
      >>> box = jc.Box(jnp.array([0.4, 0.0]), jnp.array([1.0, 0.6]))
      >>> verdict = jc.attack(f)(w, box, spec)
      >>> bool(verdict.refuted), verdict.witness.round(1).tolist()
      (True, [0.4000000059604645, 0.6000000238418579])
    """
    return AttackOracle(f, options or AttackOptions())
