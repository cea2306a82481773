"""The check of balls: of the points of a domain within a distance of the input.

A certificate of a ball claims what `boxes.py` states, but of every z of the domain with

    sum of (t_i)^p <= r^p,   t_i = (x_i - z_i) / rate_lo_i or (z_i - x_i) / rate_hi_i,

p = 1 or 2, r = apothem_lower, where a feature of rate 0 does not move; and that the
witness has a distance <= u in that sense. If r is null it is of all of the domain.

The file is a certificate as in `boxes.py`, of version 5, with the array `ball` int32
(1,), which is p. [lo, hi] contains the ball: it is checked as for p = infinity.

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
from typing import Any

import numpy as np

from .arithmetic import Arithmetic, each
from .bounds import Bounds
from .boxes import Certificate
from .claim import Expected, Report, Status
from .reading import need, take

_ALL = "all of the domain that may be reached"
_STEPS = 20  # of the multiplier of p = 2


class BallReport(Report):
    """What was found of a certificate of a ball."""

    @property
    def claim(self) -> str:
        """The whole claim in words; empty of a rejected file."""
        text = super().claim.replace(
            "in a box; apothem", f"in an {self.norm} ball; radius"
        )
        return text.replace("every face that may move is the domain's", _ALL)


class BallCertificate(Certificate):
    """A certificate of a ball."""

    newest = 5
    report = BallReport

    def __init__(self, path, expected: Expected, exact: bool) -> None:
        super().__init__(path, expected, exact)
        need(self.head["version"] == 5, "a ball has version 5 of the format")
        power = int(take(self.a, "ball", "i4", (1,))[0])
        need(power in (1, 2), f"ball is {power}, neither 1 nor 2")
        self.power, self.norm = power, f"l{power}"
        del self.a["ball"]

    def check(self) -> dict[str, Any]:
        return super().check() | {"norm": self.norm}

    def judged(self) -> tuple[Status, str]:
        if self.apothem_lower == 0:
            return Status.VACUOUS, "the ball holds the input alone"
        return super().judged()

    def near(self, w, u: float) -> bool:
        """The sum of t^p of the witness is at most u^p, in rational numbers."""
        a, total = self.a, Fraction(0)
        for i in np.flatnonzero(w != a["x"]).tolist():
            step = Fraction(float(a["x"][i])) - Fraction(float(w[i]))
            rate = float(a["rate_lo" if step > 0 else "rate_hi"][i])
            if rate == 0:
                return False
            total += (abs(step) / Fraction(rate)) ** self.power
        return total <= Fraction(u) ** self.power

    def bounds(self) -> Bounds:
        a, radius = self.a, self.apothem_lower
        ball = None if radius is None else Ball(self.b, a, self.power, radius)
        return Bounds(self.b, self.net, a["lo"], a["hi"], self.slopes, ball)


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
