"""The check of balls: of the points of a domain within a distance of the input.

A certificate of a ball claims what `boxes.py` states, but of every z of the domain with

    sum of (t_i)^p <= r^p,   t_i = (x_i - z_i) / rate_lo_i or (z_i - x_i) / rate_hi_i,

p = 1 or 2, r = apothem_lower, where a feature of rate 0 does not move; and that the
witness has a distance <= u in that sense. If r is null it is of all of the domain.

The file is a certificate as in `boxes.py`, with the array `ball` int32 (1,), which is
p. [lo, hi] contains the ball: it is checked as for p = infinity.

The proof. Over the ball a . z >= a . x - max b . t, with b_i = |a_i| times the rate of
the side on which a . z falls, and 0 <= t <= e, e the slack of [lo, hi] there, in rates,
or r. For any c with 0 <= c <= b (`Ball.least`)

    b . t  <=  r ||c||* + (b - c) . e,

since c . t <= ||c||* ||t|| with the dual norm: the greatest entry for p = 1, the root
of the sum of squares for p = 2. Which c is taken only matters for tightness.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import math
from fractions import Fraction

import numpy as np

from .arithmetic import Arithmetic, each
from .reading import need, take

_STEPS = 20  # of the multiplier of p = 2


def power(arrays) -> int:
    """Returns p of the norm of the ball."""
    p = int(take(arrays, "ball", "i4", (1,))[0])
    need(p in (1, 2), f"ball is {p}, neither 1 nor 2")
    return p


def near(a, w, u: float, p: int) -> bool:
    """Returns whether the sum of t^p of w is at most u^p, in rational numbers."""
    total = Fraction(0)
    for i in np.flatnonzero(w != a["x"]).tolist():
        step = Fraction(float(a["x"][i])) - Fraction(float(w[i]))
        rate = float(a["rate_lo" if step > 0 else "rate_hi"][i])
        if rate == 0:
            return False
        total += (abs(step) / Fraction(rate)) ** p
    return total <= Fraction(u) ** p


def _root(x):
    """Returns a fraction >= the square root of one >= 0, with about 64 bits."""
    if x == 0:
        return x
    shift = max(0, x.denominator.bit_length() - x.numerator.bit_length()) // 2 + 64
    return Fraction(math.isqrt(math.ceil(x * 4**shift)) + 1, 2**shift)


class Ball:
    """The points of [lo, hi] within the radius of x, in rates, in the norm of p."""

    def __init__(self, b: Arithmetic, arrays, power: int, radius: float) -> None:
        self.b, self.power, self.x = b, power, b.number(arrays["x"])
        self.radius = b.number(radius)
        self.rates, self.rooms = [], []
        for side, high, low in (("lo", "x", "lo"), ("hi", "hi", "x")):
            rate = arrays[f"rate_{side}"]
            slack = b.up(b.number(arrays[high]) - b.number(arrays[low]))
            room = b.up(slack / b.number(np.where(rate > 0, rate, 1.0)))
            self.rates.append(b.number(rate))
            room = np.minimum(room, self.radius)
            self.rooms.append(np.where(rate > 0, room, b.zero))

    def least(self, a, lo=None, hi=None):
        """Returns lower bounds of the rows a @ z over the ball, which has its own box.

        As `Arithmetic.least` does over the box [lo, hi].
        """
        b, falls = self.b, a > 0
        worth = b.up(abs(a) * np.where(falls, *self.rates))
        room = np.where(falls, *self.rooms)
        part = np.minimum(worth, b.number(self.split(worth, room)))
        rest = b.up(worth - part)
        if self.power == 1:
            norm = part.max(axis=1, initial=0)
        else:
            square = b.bound(part, part, b.along)
            norm = each(_root, square) if b.exact else b.up(np.sqrt(square))
        fall = b.up(b.up(self.radius * norm) + b.bound(rest, room, b.along))
        error = b.charge(a, abs(self.x), a.shape[-1])
        return b.down(b.down(b.dot(a, self.x) - error) - fall)

    def split(self, worth, room) -> np.ndarray:
        """Returns c before it is cut at b, in plain arithmetic; any c >= 0 will do.

        p = 1: the value of the item that fills the radius, the dearest first. p = 2:
        lambda e, for which min(b / lambda, e) is about as long as the radius.
        """
        worth, room = (np.asarray(v, np.float64) for v in (worth, room))
        radius = float(self.radius)
        if self.power == 1:
            order = np.argsort(-worth, axis=1)
            filled = np.cumsum(np.take_along_axis(room, order, axis=1), axis=1)
            item = np.argmax(filled >= radius, axis=1)[:, None]
            item = np.take_along_axis(order, item, axis=1)
            value = np.take_along_axis(worth, item, axis=1)
            full = filled[:, -1:] >= radius
            return np.broadcast_to(np.where(full, value, 0.0), worth.shape)
        room = np.minimum(room / radius, 1.0)
        factor = np.sqrt((worth**2).sum(axis=1, keepdims=True))
        for _ in range(_STEPS):
            end = worth > factor * room
            free = np.where(end, 0.0, worth**2).sum(axis=1, keepdims=True)
            left = 1 - np.where(end, room**2, 0.0).sum(axis=1, keepdims=True)
            less = np.sqrt(free / np.where(left > 0, left, 1.0))
            factor = np.where(left > 0, np.minimum(less, factor), factor)
        return np.maximum(factor * room, 0.0)
