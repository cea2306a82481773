"""Ball: the points of a box within a distance of a centre, in the l1 or the l2 norm.

What a linear function is at least over it comes from one multiplier, and any will do.
With displacements measured in rates, t_i >= 0 along the side that lowers the function
by b_i per unit, the function falls by at most

    max b . t  over  0 <= t <= e, ||t|| <= r   <=   r ||p||* + (b - p) . e

for every split of b >= 0 into p >= 0 and b - p >= 0: the ball bounds p . t by the dual
norm, the box bounds the rest. With p = min(b, tau) for l1 and p = min(b, lambda e) for
l2 the best multiplier gives equality (for l1 it is the value per unit of the item that
a fractional knapsack breaks; for l2 this is the Lagrangian dual of the norm).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float

from jaxcert.box import Box, Family, Norm, Rates, distance_above, outward
from jaxcert.errors import InputError

# Steps of the multiplier of the l2 norm; each ends with more features at the box.
_STEPS = 12
# Roundings of a nonnegative term that are charged beside one per feature.
_PLAIN = 32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ball:
    """The set of all z of a domain with || (z - center) / rates || <= radius.

    Every feature counts in units of the rate of the side that it moves to; with a rate
    of 0 it stays. A batch of balls is a Ball whose leaves have a leading axis.

    Attributes:
      center: shape d; it lies in the domain, so that no ball is empty.
      radius: scalar, >= 0.
      domain: a box.
      rates: of both sides, with the norm, which is "l1" or "l2".
    """

    center: Float[Array, "*d"]
    radius: Float[Array, ""]
    domain: Box
    rates: Rates

    def __post_init__(self) -> None:
        norm = getattr(self.rates, "norm", "l1")  # axes of vmap stand there, too
        if norm not in ("l1", "l2"):
            raise InputError(
                f"a Ball is of norm 'l1' or 'l2', not {norm!r}: the balls of 'linf' "
                "are boxes, see jc.Box.ball"
            )

    @staticmethod
    def around(
        center: Float[ArrayLike, "*d"],
        radius: float,
        norm: Norm,
        domain: Box | None = None,
    ) -> Ball:
        """Returns the ball of a norm around a point, numpy float64.

        Args:
          center: shape d.
          radius: >= 0, in input units.
          norm: "l1" or "l2"; balls of "linf" are boxes, see `Box.ball`.
          domain: the legal inputs; None for all.

        Raises:
          InputError: another norm, or a centre outside the domain.

        Example:
          >>> import jax, jaxcert as jc
          >>> ball = jc.Ball.around([0.5, 0.5], 0.3, "l2", jc.Box.unit((2,)))
          >>> w = jax.numpy.array([[4.0, 3.0]])
          >>> out = jc.crown(lambda w, x: w @ x)(w, ball).concretize(ball)
          >>> out.lo.round(2).tolist(), out.hi.round(2).tolist()
          ([2.0], [5.0])
        """
        middle: Any = np.asarray(center, np.float64)
        ones = np.ones(middle.shape)
        rates = Rates(ones, ones, norm)  # type: ignore[arg-type]
        within: Any = domain
        if domain is None:
            low, high = middle - radius, middle + radius
            below, above = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)
            within = Box(below, above).normal()
        else:
            within = Box(
                *(np.asarray(v, np.float64) for v in (domain.lo, domain.hi))  # type: ignore[arg-type]
            )
        if not ((within.lo <= middle) & (middle <= within.hi)).all():
            raise InputError(
                "the centre of the ball lies outside its domain: give one inside"
            )
        return Ball(middle, np.float64(radius), within, rates)  # type: ignore[arg-type]

    @property
    def enclosing(self) -> Box:
        """A box that holds the ball, and hardly more."""
        return Box.ball(self.center, self.radius, self.domain, self.rates, outward=True)

    def is_empty(self) -> Bool[Array, ""]:
        """Returns whether no point lies in the ball: its radius is no number >= 0."""
        return ~(self.domain.contains(self.center) & (jnp.asarray(self.radius) >= 0))

    def contains(self, z: Float[Array, "*d"]) -> Bool[Array, ""]:
        """Returns whether z lies in the ball for certain, in spite of rounding."""
        distance = outward(self.rates.distance(self.center, z), self.center.size)
        near = (distance <= self.radius) | jnp.all(z == self.center)
        return near & self.domain.contains(z)

    def holds(self, z: Float[np.ndarray, "*d"]) -> bool:
        """Returns whether z lies in the ball, in exact arithmetic; numpy float64."""
        inside = (self.domain.lo <= z) & (z <= self.domain.hi)
        core: Any = Box.point(self.center)
        return bool(
            np.all(inside) and distance_above(core, self.rates, z) <= self.radius
        )

    def project(self, z: Float[Array, "*d"]) -> Float[Array, "*d"]:
        """Returns a point of the ball, up to rounding, on the way from the centre to z.

        Points of the ball stay what they are; z is put into the domain first.
        """
        z = self.rates.pin(self.center, self.domain.project(z))
        distance = self.rates.distance(self.center, z)
        far = distance > self.radius
        part = jnp.where(far, self.radius / jnp.where(far, distance, 1), 1)
        return jnp.where(far, self.center + part * (z - self.center), z)

    def least(self, rows: Float[Array, "rows *d"]) -> Float[Array, " rows"]:
        """Returns lower bounds of linear functions over the ball, tight up to rounding.

        The rounding of what they fall by from the centre is charged; that of the value
        at the centre is not, which is what a sum over all features errs by. NaN of a
        ball that `is_empty`.
        """
        count = len(rows)
        exact = lax.Precision.HIGHEST
        middle = jnp.matmul(
            rows.reshape(count, -1), self.center.reshape(-1), precision=exact
        )
        scale, worth, room = self._knapsack(rows)
        dual = _dual_l1 if self.rates.norm == "l1" else _dual_l2
        fall = scale * self.radius * dual(worth, room)
        kind = jnp.finfo(rows.dtype)
        fall = fall * (1 + (self.center.size + _PLAIN) * kind.eps)
        # What is flushed to 0 on the way.
        size = jnp.sum(jnp.abs(rows.reshape(count, -1)), axis=1)
        lost = (1 + self.radius) * (self.center.size * (1 + scale) + size)
        least = middle - fall - 64 * kind.tiny * lost
        # Of a centre outside the domain the dual says nothing.
        return jnp.where(self.is_empty(), jnp.nan, least)

    def lowest(self, rows: Float[Array, "rows *d"]) -> Float[Array, "rows *d"]:
        """Returns points where linear functions are about least, inside the ball.

        They are drawn to the centre by more than rounding may put them outside.
        """
        _, worth, room = self._knapsack(rows)
        point = _point_l1 if self.rates.norm == "l1" else _point_l2
        step = (point(worth, room) * self._inner()).reshape(rows.shape)
        down = self.center - step * self.rates.lower
        up = self.center + step * self.rates.upper
        moved = jnp.where(rows > 0, down, jnp.where(rows < 0, up, self.center))
        return jax.vmap(self.domain.project)(moved)

    def _inner(self) -> Float[Array, ""]:
        """Returns the radius, less what a norm and points may err by."""
        eps = jnp.finfo(self.center.dtype).eps
        rate = jnp.minimum(
            *(
                jnp.where(v > 0, v, jnp.inf)
                for v in (self.rates.lower, self.rates.upper)
            )
        )
        moved = jnp.sum(jnp.abs(self.center) / rate)
        norm = 4 * (self.center.size + _PLAIN) * eps
        return jnp.maximum(self.radius * (1 - norm) - 2 * eps * moved, 0)

    def _knapsack(
        self, rows: Float[Array, "rows *d"]
    ) -> tuple[Array, Float[Array, "rows n"], Float[Array, "rows n"]]:
        """Returns s, b / s and e / r of the docstring above, n flat features.

        Scaled so that neither squares nor sums leave the range of numbers: the greatest
        b / s is 1, and no e / r is above 1, beyond which the ball is narrower.
        """
        count = len(rows)

        def flat(v: Array) -> Array:
            return jnp.broadcast_to(v, rows.shape).reshape(count, -1)

        falls = flat(rows) > 0
        rate = jnp.where(falls, flat(self.rates.lower), flat(self.rates.upper))
        slack = jnp.where(
            falls,
            flat(self.center - self.domain.lo),
            flat(self.domain.hi - self.center),
        )
        worth = jnp.abs(flat(rows)) * rate
        room = slack / jnp.where(rate > 0, rate, 1)
        inside = room < self.radius
        room = jnp.where(inside, room / jnp.where(inside, self.radius, 1), 1)
        scale = lax.stop_gradient(jnp.max(worth, axis=1, initial=0))
        some = scale > 0
        worth = jnp.where(some[:, None], worth / jnp.where(some, scale, 1)[:, None], 0)
        return scale, worth, room


def _dual_l1(
    worth: Float[Array, "rows n"], room: Float[Array, "rows n"]
) -> Float[Array, " rows"]:
    """Returns tau + sum (b - tau)+ e for the tau of the item that breaks."""
    tau = _breaking(worth, room)
    return tau + jnp.sum(jnp.maximum(worth - tau[:, None], 0) * room, axis=1)


def _breaking(
    worth: Float[Array, "rows n"], room: Float[Array, "rows n"]
) -> Float[Array, " rows"]:
    """Returns the worth of the item that fills a knapsack of size 1; 0 if all fit."""
    order = jnp.argsort(-worth, axis=1)
    filled = jnp.cumsum(jnp.take_along_axis(room, order, axis=1), axis=1)
    full = filled >= 1
    item = jnp.take_along_axis(order, jnp.argmax(full, axis=1)[:, None], axis=1)
    tau = jnp.take_along_axis(worth, item, axis=1)[:, 0]
    return jnp.where(jnp.any(full, axis=1), tau, 0)


def _point_l1(
    worth: Float[Array, "rows n"], room: Float[Array, "rows n"]
) -> Float[Array, "rows n"]:
    order = jnp.argsort(-worth, axis=1)
    wide = jnp.take_along_axis(room, order, axis=1)
    before = jnp.cumsum(wide, axis=1) - wide
    packed = jnp.clip(1 - before, 0, wide)
    back = jnp.argsort(order, axis=1)
    return jnp.take_along_axis(packed, back, axis=1)


def _multiplier(
    worth: Float[Array, "rows n"], room: Float[Array, "rows n"]
) -> Float[Array, " rows"]:
    """Returns about the lambda with || min(b / lambda, e) || = 1; 0 if all fit.

    From the one without a box on down, until no further feature meets its end.
    """
    worth, room = lax.stop_gradient(worth), lax.stop_gradient(room)

    def step(_: int, lam: Array) -> Array:
        at_end = worth > lam[:, None] * room
        free = jnp.sum(jnp.where(at_end, 0, worth * worth), axis=1)
        left = 1 - jnp.sum(jnp.where(at_end, room * room, 0), axis=1)
        lower = jnp.sqrt(free / jnp.where(left > 0, left, 1))
        return jnp.where(left > 0, jnp.minimum(lower, lam), lam)

    return lax.fori_loop(0, _STEPS, step, jnp.sqrt(jnp.sum(worth * worth, axis=1)))


def _dual_l2(
    worth: Float[Array, "rows n"], room: Float[Array, "rows n"]
) -> Float[Array, " rows"]:
    """Returns ||p|| + (b - p) . e for p = min(b, lambda e).

    Parts whose squares are flushed to 0 are charged.
    """
    part = jnp.minimum(worth, _multiplier(worth, room)[:, None] * room)
    square = jnp.sum(part * part, axis=1)
    some = square > 0
    norm = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1)), square)
    norm = norm + worth.shape[1] * math.sqrt(jnp.finfo(worth.dtype).tiny)
    return norm + jnp.sum((worth - part) * room, axis=1)


def _point_l2(
    worth: Float[Array, "rows n"], room: Float[Array, "rows n"]
) -> Float[Array, "rows n"]:
    lam = _multiplier(worth, room)[:, None]
    free = worth < lam * room
    return jnp.where(
        free, worth / jnp.where(free, lam, 1), jnp.where(worth > 0, room, 0)
    )


Region = Box | Ball
"""A set of inputs. What takes a `Region` treats a ball as a ball."""


def enclosing(region: Region) -> Box:
    """Returns a box that holds the set: itself, or the one around a ball."""
    return region.enclosing if isinstance(region, Ball) else region


def lowest(region: Region, row: Float[Array, "*d"]) -> Float[Array, "*d"]:
    """Returns a point of the set where a linear function is about least."""
    if isinstance(region, Ball):
        return region.lowest(row[None])[0]
    return jnp.where(row > 0, region.lo, region.hi)


def of_jax(region: Region) -> Region:
    """Returns the set as transformations take it: a ball of numpy as arrays of JAX."""
    return jax.tree.map(jnp.asarray, region) if isinstance(region, Ball) else region


def region_of(
    family: Family, t: Float[ArrayLike, ""], *, outward: bool = False
) -> Region:
    """Returns the set of t of a family: a box, or a ball around its core.

    Args:
      family: of one input.
      t: radius.
      outward: round a box outward; a ball is what it is.
    """
    if family.rates.norm == "linf":
        return family.box(t, outward=outward)
    radius: Any = t
    return Ball(family.core.lo, radius, family.domain, family.rates)
