"""Smooth activations: their values enclosed, and lines that bound them over a range.

No library function is believed. exp is a sum and a power, everything else is made of
it, and every operation on the way is rounded outward. The functions g are increasing,
convex up to a point and concave from there, which is all that a line needs.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

_FAR = 64.0  # exp is computed of no more
_TERMS = 16  # of its sum
_HALVINGS = 24  # of the search for a tangent


def exponential(b, t):
    """Returns lo <= exp(t) <= hi, for 0 <= t <= 64.

    t is halved k times, exactly, to r <= 1/2, and exp(r) is squared k times. With
    T = 1 + r/17 + r^2/(17 18) + ..., 1 <= T <= 1 / (1 - r/17) <= 2,

        exp(r) = 1 + r (1 + r/2 (1 + ... r/16 T)).

    Nothing in it is negative, so that it grows with each of its parts, and may be
    rounded down, or up, part by part.
    """
    r, halved = t, np.zeros(np.shape(t), int)
    for _ in range(7):
        large = r > b.half
        r, halved = np.where(large, r * b.half, r), halved + large
    found = []
    for rounded, p in ((b.below, b.one), (b.above, b.one + b.one)):
        for k in range(_TERMS, 0, -1):
            p = rounded(b.one + r * p / b.number(k), 3)
        for k in range(7):
            p = np.where(halved > k, rounded(p * p, 1), p)
        found.append(p)
    return found


def decay(b, t):
    """Returns 0 <= lo <= exp(-t) <= hi <= 1, for t >= 0: 1 / exp(t)."""
    lo, hi = exponential(b, np.minimum(t, b.number(_FAR)))
    lo, hi = b.below(b.one / hi, 1), np.minimum(b.above(b.one / lo, 1), b.one)
    return np.where(t > _FAR, b.zero, lo), hi


# Each of the following returns lo <= g(z) <= hi and p <= g'(z) <= q, arrays like z.


def tanh(b, z):
    """g = s (1 - e) / (1 + e), g' = 4 e / (1 + e)^2, e = exp(-2 |z|), s the sign of z.

    For 0 <= e <= 1 the quotient of g falls with e, and g' grows with it.
    """
    two = b.one + b.one
    e, f = decay(b, abs(z) * two)
    lo = b.below((b.one - f) / (b.one + f), 3)
    hi = b.above((b.one - e) / (b.one + e), 3)
    lo, hi = np.where(z < 0, -hi, lo), np.where(z < 0, -lo, hi)
    (p, _), (_, q) = (_bell(b, x) for x in (e, f))
    return lo, hi, p * two * two, q * two * two


def logistic(b, z):
    """g = 1 / (1 + e) for z >= 0, else e / (1 + e), g' = e / (1 + e)^2, e = exp(-|z|).

    The first falls with e, the second and, for e <= 1, the third grow with it.
    """
    e, f = decay(b, abs(z))
    lo = np.where(z < 0, b.below(e / (b.one + e), 2), b.below(b.one / (b.one + f), 2))
    hi = np.where(z < 0, b.above(f / (b.one + f), 2), b.above(b.one / (b.one + e), 2))
    (p, _), (_, q) = (_bell(b, x) for x in (e, f))
    return lo, hi, p, q


def exp(b, z):
    """g = g' = exp(z); of z > 64 it is only known to be > exp(64)."""
    lo, hi = exponential(b, np.minimum(abs(z), b.number(_FAR)))
    below, above = decay(b, abs(z))
    lo, hi = np.where(z < 0, below, lo), np.where(z < 0, above, hi)
    hi = np.where(z > _FAR, np.inf, hi)
    return lo, hi, lo, hi


def softplus(b, z):
    """g = max(z, 0) + log(1 + e), e = exp(-|z|); g' is `logistic`.

    With y = e / (2 + e) <= 1/3, which grows with e, and T = 1/41 + y^2/43 + ... <= 1,

        log(1 + e) = 2 artanh(y) = 2 y (1 + y^2 (1/3 + ... y^2 (1/39 + y^2 T))).
    """
    two, ends = b.one + b.one, []
    for e, rounded, s in zip(
        decay(b, abs(z)), (b.below, b.above), (b.zero, b.one), strict=True
    ):
        y = rounded(e / (two + e), 2)
        for k in range(39, 0, -2):
            s = rounded(b.one / b.number(k) + y * y * s, 3)
        ends.append(rounded(np.maximum(z, b.zero) + two * y * s, 2))
    return (*ends, *logistic(b, z)[:2])


def _bell(b, e):
    """Returns bounds of e / (1 + e)^2: one and one = two roundings of the square."""
    bell = e / ((b.one + e) * (b.one + e))
    return b.below(bell, 4), b.above(bell, 4)


class Curve(NamedTuple):
    """A function g that increases, convex if `turn` is 1 and concave if it is -1.

    If it is 0, g is convex for z <= 0 and concave for z >= 0. `enclosed` is one of the
    functions above. `plain` and `steepness` are what numpy
    takes for g, and g' as a function of g: they choose lines, and are not believed.
    """

    enclosed: Callable[..., Any]
    turn: int
    plain: Callable[..., Any]
    steepness: Callable[..., Any]

    def turned(self) -> Curve:
        """Returns -g(-z), a function of the same kind."""

        def enclosed(b, z):
            lo, hi, p, q = self.enclosed(b, -z)
            return -hi, -lo, p, q

        return Curve(
            enclosed,
            -self.turn,
            lambda z: -self.plain(-z),
            lambda y: self.steepness(-y),
        )


CURVES = {
    "tanh": Curve(tanh, 0, np.tanh, lambda y: 1 - y * y),
    "logistic": Curve(
        logistic, 0, lambda z: 1 / (1 + np.exp(-z)), lambda y: y * (1 - y)
    ),
    "exp": Curve(exp, 1, np.exp, lambda y: y),
    "softplus": Curve(
        softplus, 1, lambda z: np.logaddexp(0, z), lambda y: 1 - np.exp(-y)
    ),
}


def clip(b, z):
    """g = min(max(z, 0), 1), exactly; of its slope nothing is said."""
    value = np.minimum(np.maximum(z, b.zero), b.one)
    return value, value, b.zero, b.one


CLIP = Curve(clip, 0, lambda z: np.clip(z, 0, 1), lambda y: y)
"""Pixels are cut to [0, 1]; see `clip_lines`. It is no activation of files."""


def clip_lines(b, lo, hi):
    """Returns what `lines` does, of min(max(z, 0), 1).

    For any slope s, g(z) - s z is piecewise linear, so that over [lo, hi] it is
    greatest, and least, at an end or at a kink, 0 or 1, that lies between them. The
    slopes are those of chords, from lo to 1 above and from 0 to hi below.
    """
    zero, one = (np.minimum(np.maximum(k, lo), hi) for k in (b.zero, b.one))
    points = np.stack([lo, zero, one, hi])
    values = clip(b, points)[0]

    def chord(first, last):
        rise, width = (np.float64(v[last] - v[first]) for v in (values, points))
        return b.number(np.where(width > 0, rise / np.where(width > 0, width, 1), 0))

    upper, lower = chord(0, 2), chord(1, 3)
    high = b.up(values - b.down(upper * points)).max(axis=0)
    low = b.down(values - b.up(lower * points)).min(axis=0)
    return SimpleNamespace(lower=lower, low=low, upper=upper, high=high)


def activated(b, curve: Curve | None, lo, hi):
    """Returns bounds of g, or of max(z, 0), over lo <= z <= hi: both increase."""
    if curve is None:
        return np.maximum(lo, b.zero), np.maximum(hi, b.zero)
    return curve.enclosed(b, lo)[0], curve.enclosed(b, hi)[1]


def lines(b, curve: Curve, lo, hi):
    """Returns `lower` z + `low` <= g(z) <= `upper` z + `high` for lo <= z <= hi.

    A line above -g(-z) is, turned, one below g(z).
    """
    if curve is CLIP:
        return clip_lines(b, lo, hi)
    upper, high = line_above(b, curve, lo, hi)
    lower, low = line_above(b, curve.turned(), -hi, -lo)
    return SimpleNamespace(lower=lower, low=-low, upper=upper, high=high)


def line_above(b, curve: Curve, lo, hi):
    """Returns s and h with g(z) <= s z + h for lo <= z <= hi, arrays like these.

    Let m be the turn, or the end of [lo, hi] next to it, and d any point of [m, hi]. On
    [lo, m] g(z) - s z is convex, and greatest at lo or m. On [m, hi], m included, g is
    concave and so below its tangent at d, whose slope is in [p, q]:

        g(z) - s z <= g(d) - s d + (g'(d) - s) (z - d)
                   <= g(d) - s d + max((q - s) (hi - d), (s - p) (d - m), 0).

    This holds for all s and d; `tangent` chooses them.
    """
    inside = np.minimum(np.maximum(lo, b.zero), hi)
    m = {-1: lo, 0: inside, 1: hi}[curve.turn]
    s, d = (b.number(x) for x in tangent(curve, lo, m, hi))
    d = np.minimum(np.maximum(d, m), hi)
    points = np.stack([lo, d])
    _, top, p, q = curve.enclosed(b, points)
    first, height = b.up(top - b.down(s * points))
    right = b.up(b.up(q[1] - s) * b.up(hi - d))
    left = b.up(b.up(s - p[1]) * b.up(d - m))
    height = b.up(height + np.maximum(np.maximum(right, left), b.zero))
    return s, np.maximum(first, height)


@np.errstate(all="ignore")
def tangent(curve: Curve, lo, m, hi):
    """Returns a slope and a point of a line that is likely to be close, in float64.

    On a concave piece the tangent in its middle; else the tangent at the first point
    where it stays above g(lo), or the chord where there is none.
    """
    lo, m, hi = (np.asarray(x, np.float64) for x in (lo, m, hi))
    g, middle, width = curve.plain, lo + (hi - lo) / 2, hi - lo

    def clears(d):
        y = g(d)
        return y + curve.steepness(y) * (lo - d) >= g(lo)

    fails, holds = m, hi
    for _ in range(_HALVINGS):
        between = fails + (holds - fails) / 2
        good = clears(between)
        fails, holds = np.where(good, fails, between), np.where(good, between, holds)
    wide = (m > lo) & (width > 1e-6)  # else rounding would be most of a chord's slope
    at = np.where(wide, holds, middle)
    chord = (g(hi) - g(lo)) / np.where(wide, width, 1)
    slope = np.where(wide & ~clears(hi), chord, curve.steepness(g(at)))
    return np.nan_to_num(slope), at
