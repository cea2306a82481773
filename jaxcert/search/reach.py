"""How far known instances of a class reach: points that the network puts into it.

Everything here is a search by evaluation. What it returns are points whose class was
computed in float64, by a margin that rounding cannot feign, or exactly (`Ties`); it
proves nothing of others. Of the F = 2d faces of a box, the lower ones come first.
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
from jaxtyping import Array, Bool, Float, Int

from jaxcert.bounds.ibp import propagate
from jaxcert.bounds.rounding import float64_slack
from jaxcert.box import Box
from jaxcert.branch.cells import Reach
from jaxcert.spec import Spec
from jaxcert.trace.equations import Values
from jaxcert.trace.program import Program
from jaxcert.witness.attack import AttackOptions, AttackOracle, descend
from jaxcert.witness.judge import MOST_SUSPECTS, Judge

# Of `stretch`: points tried per face and step, and the widths of the steps.
_TRIED, _WIDEST, _GROWTH, _DECAY = 64, 0.3, 2.0, 0.8


@dataclasses.dataclass(frozen=True)
class ReachOptions:
    """How instances are searched.

    Attributes:
      prototypes: random starts of the search for strong instances, >= 1.
      best: strongest ones whose features are moved to every face, >= 1.
      steps: gradient steps of every search, >= 1.
      restarts: starts of the search on a face that is not reached yet.
      stretches: steps in which the farthest instances are moved on at random.
      seed: of the random points.
    """

    prototypes: int = 32
    best: int = 8
    steps: int = 30
    restarts: int = 6
    stretches: int = 100
    seed: int = 0


def ends(domain: Box) -> Float[Array, " F"]:
    """Returns where the faces of the domain lie."""
    return jnp.concatenate([domain.lo.reshape(-1), domain.hi.reshape(-1)])


def slab(domain: Box, face: Int[Array, ""]) -> Box:
    """Returns the face of the domain, a box without width in one feature."""
    shape, features = domain.lo.shape, domain.lo.size
    end = ends(domain)[face]
    lo, hi = (
        v.reshape(-1).at[face % features].set(end) for v in (domain.lo, domain.hi)
    )
    return Box(lo.reshape(shape), hi.reshape(shape))


class _Judge:
    """Margins of points against the spec, and which of them are instances."""

    def __init__(self, program: Program, params: Any, domain: Box, spec: Spec) -> None:
        values: Values = program.prepare(params, jnp.float64)
        ranges = propagate(program, values, domain)
        self._program, self._values = program, values
        self._domain, self._spec = domain, spec
        rows = spec.coefficients
        self._slack = float64_slack(program, values, ranges, rows, lines=False)

    def margin(self, z: Array) -> Array:
        """Returns how far the best other class is ahead; NaN becomes infinite."""
        y = self._program.evaluate_prepared(self._values, z)
        margin = self._spec.margin(self._spec.values(y))
        return jnp.where(jnp.isnan(margin), jnp.inf, margin)

    def is_instance(self, z: Array, margin: Array) -> Array:
        return (margin <= -self._slack) & self._domain.contains(z)

    def on_faces(self, z: Array) -> tuple[Array, Array]:
        """Returns z with one feature moved to its end, for every face, and margins."""
        faces = jnp.arange(2 * z.size)
        points = jax.vmap(lambda face: slab(self._domain, face).project(z))(faces)
        return points, jax.vmap(self.margin)(points)

    def descend(self, box: Box, start: Array, steps: int) -> tuple[Array, Array]:
        def aim(z: Array) -> tuple[Array, Array]:
            margin = self.margin(z)
            return margin, margin

        return descend(aim, box, start, steps)


@functools.partial(jax.jit, static_argnames=("program", "options"))
def find_instances(
    program: Program,
    options: ReachOptions,
    params: Any,
    domain: Box,
    spec: Spec,
    given: Float[Array, "n *d"],
) -> tuple[Reach, Float[Array, "F *d"]]:
    """Returns how far instances reach, and the most promising point on every face.

    Strong instances are found by gradient steps from random points; then every feature
    of the strongest, one at a time, is moved to both its ends.

    Args:
      program, params: the network and its weights, float64.
      options: see `ReachOptions`.
      domain: box of legal inputs.
      spec: of `not_class`.
      given: points that may be instances; rows of NaN are none.
    """
    judge = _Judge(program, params, domain, spec)
    key = jax.random.key(options.seed)
    part = jax.random.uniform(key, (options.prototypes, *domain.lo.shape), jnp.float64)
    starts = domain.lo + part * domain.edges()
    starts = jnp.concatenate([starts, jax.vmap(domain.project)(given)])
    found, _ = jax.vmap(lambda z: judge.descend(domain, z, options.steps))(starts)
    points = jnp.concatenate([found, starts])
    margins = jax.vmap(judge.margin)(points)
    valid = jax.vmap(judge.is_instance)(points, margins)
    reach = Reach(jnp.full((2 * domain.lo.size, *domain.lo.shape), jnp.nan))
    reach = reach.joined(points, valid)

    def better_of(carry: tuple[Array, Array], z: Array) -> Any:
        best, least = carry
        points, margins = judge.on_faces(z)
        mask = (margins < least).reshape((-1,) + (1,) * (points.ndim - 1))
        return (jnp.where(mask, points, best), jnp.minimum(margins, least)), None

    strongest = points[jnp.argsort(margins)[: options.best]]
    first = judge.on_faces(strongest[0])
    (best, least), _ = lax.scan(better_of, first, strongest[1:])
    return reach.joined(best, jax.vmap(judge.is_instance)(best, least)), best


@functools.partial(jax.jit, static_argnames=("program",))
def move_one_feature(
    program: Program, params: Any, domain: Box, spec: Spec, x: Float[Array, "*d"]
) -> tuple[Float[Array, "F *d"], Bool[Array, " F"]]:
    """Returns x with one feature moved to its end, per face, and the instances of it.

    Args:
      program, params: the network and its weights, float64.
      domain, spec: as in `find_instances`.
      x: a point of the domain.
    """
    judge = _Judge(program, params, domain, spec)
    points, margins = judge.on_faces(x)
    return points, jax.vmap(judge.is_instance)(points, margins)


@functools.partial(jax.jit, static_argnames=("program",))
def snap(
    program: Program,
    params: Any,
    domain: Box,
    spec: Spec,
    faces: Int[Array, " n"],
    points: Float[Array, "n *d"],
) -> tuple[Float[Array, "n *d"], Bool[Array, " n"]]:
    """Returns points moved onto faces of the domain, and if they are instances there.

    Args:
      program, params, domain, spec: as in `find_instances`.
      faces: the face of each point.
      points: NaN where there is none.
    """
    judge = _Judge(program, params, domain, spec)

    def one(face: Array, z: Array) -> tuple[Array, Array]:
        z = slab(domain, face).project(z)
        return z, judge.is_instance(z, judge.margin(z))

    return jax.vmap(one)(faces, points)


@functools.partial(jax.jit, static_argnames=("f", "options"))
def attack_faces(
    f: Callable[[Any, Any], Any],
    options: ReachOptions,
    params: Any,
    domain: Box,
    spec: Spec,
    faces: Int[Array, " n"],
    hints: Float[Array, "n *d"],
) -> tuple[Float[Array, "n *d"], Bool[Array, " n"]]:
    """Returns a point on each of these faces of the domain, and if it is an instance.

    Args:
      f, params: the network and its weights, float64.
      options: see `ReachOptions`.
      domain, spec: as in `find_instances`.
      faces: their numbers.
      hints: where else to start from.
    """
    attack = AttackOptions(options.restarts, options.steps, options.seed)
    oracle = AttackOracle(f, attack)

    def one(face: Array, hint: Array) -> tuple[Array, Array]:
        verdict = oracle(params, slab(domain, face), spec, hint)
        return verdict.witness, verdict.refuted

    return jax.vmap(one)(faces, hints)


@functools.partial(jax.jit, static_argnames=("program", "options"))
def stretch(
    program: Program,
    options: ReachOptions,
    params: Any,
    domain: Box,
    spec: Spec,
    reach: Reach,
    seed: Int[Array, ""],
) -> Reach:
    """Returns the reach after moving its instances on at random, for narrow inputs.

    Of the points tried around the instance of a face, the farthest that is one takes
    its place; the steps widen where that succeeds and shrink where not.
    """
    judge = _Judge(program, params, domain, spec)
    features = domain.lo.size
    flat_domain = jax.tree.map(lambda v: v.reshape(-1), domain)

    def one(face: Array, start: Array, key: Array) -> Array:
        sign = jnp.where(face < features, -1.0, 1.0)
        feature = face % features

        def step(carry: tuple[Array, Array], key: Array) -> Any:
            z, width = carry
            noise = jax.random.normal(key, (_TRIED, features), jnp.float64)
            # Along few features at a time: corners of regions are left otherwise.
            use = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.5, noise.shape)
            tried = z + width * flat_domain.edges() * noise * use
            tried = jax.vmap(flat_domain.project)(tried)
            shaped = tried.reshape(-1, *domain.lo.shape)
            margins = jax.vmap(judge.margin)(shaped)
            valid = jax.vmap(judge.is_instance)(shaped, margins)
            far = jnp.where(valid, sign * tried[:, feature], -jnp.inf)
            best = jnp.argmax(far)
            better = far[best] > sign * z[feature]
            width = jnp.where(better, _GROWTH, _DECAY) * width
            width = jnp.clip(width, 1e-7, _WIDEST)
            return (jnp.where(better, tried[best], z), width), None

        keys = jax.random.split(key, options.stretches)
        carry = (start.reshape(-1), jnp.float64(_WIDEST))
        (z, _), _ = lax.scan(step, carry, keys)
        return z.reshape(start.shape)

    keys = jax.random.split(jax.random.key(seed), 2 * features)
    moved = jax.vmap(one)(jnp.arange(2 * features), reach.point, keys)
    margins = jax.vmap(judge.margin)(moved)
    valid = jax.vmap(judge.is_instance)(moved, margins)
    return reach.joined(moved, valid)


class Ties:
    """Has points of one class that rounding leaves in doubt judged, on the host.

    Where classes tie, a point is of both.

    Args:
      judge: of the network's points.
      domain, spec: as in `find_instances`, numpy float64.
      tolerance: how much farther a point must go to be looked at, shape d.
    """

    def __init__(
        self, judge: Judge, domain: Box, spec: Spec, tolerance: np.ndarray
    ) -> None:
        self._judge, self._domain = judge, jax.tree.map(jnp.asarray, domain)
        self._spec = jax.tree.map(np.asarray, spec)
        self._tolerance = np.tile(np.reshape(tolerance, -1), 2)
        self._failures = 0

    def joined(self, reach: Reach, suspect: Reach) -> Reach:
        """Returns the reach with those of the points that are instances.

        Args:
          reach: of the class.
          suspect: points in doubt, by the face that each goes farthest to.
        """
        if np.isnan(suspect.point).all():
            return reach
        known, farther = (_signed_faces(v.box()) for v in (reach, suspect))
        far = np.flatnonzero(farther > known + self._tolerance)
        for face in far[np.argsort(known[far] - farther[far], kind="stable")]:
            if self._failures >= MOST_SUSPECTS:
                break
            if farther[face] < _signed_faces(reach.box())[face]:
                continue  # what was found for another face goes farther
            point = jnp.asarray(suspect.point[face])
            on_face = slab(self._domain, face).project(point)
            tried = np.stack([on_face, point])
            found = self._judge.first(self._spec, tried, order=np.arange(2.0))
            if found is None:
                self._failures += 1
            else:
                reach = reach.joined(jnp.asarray(found.point)[None], jnp.array([True]))
        return reach


def _signed_faces(box: Box) -> np.ndarray:
    """Returns where the faces of a box lie, outward counted; -inf without any."""
    sign = np.repeat([-1.0, 1.0], np.size(box.lo))
    return sign * np.asarray(ends(box))
