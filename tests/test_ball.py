"""Balls: what linear functions are over them, against exact arithmetic."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import jaxcert as jc
from jaxcert.ball import Ball
from jaxcert.bounds.multineuron import CutOptions
from jaxcert.box import Box, Rates, distance_above
from jaxcert.branch.signs import BranchOptions
from jaxcert.certifier import Certifier
from jaxcert.checker import balls
from jaxcert.checker.arithmetic import Arithmetic
from jaxcert.commands.certify.request import Request
from jaxcert.devices import float64

D, ROWS = 5, 3
_NUMBERS = st.one_of(
    st.floats(-2, 2, width=32),
    st.sampled_from([0.0, 1.0, -1.0, 1e-9, 1e6, -1e6, 1e-30, 3e30]),
)


@st.composite
def _balls(draw, d=D):
    """Centres inside, on faces and at corners; faces that are one; any radius."""
    center = draw(arrays(np.float64, d, elements=st.floats(-2, 2, width=32)))
    room = st.sampled_from([0.0, 0.1, 0.5, 1.0, 1e-12, 1e8])
    below, above = (draw(arrays(np.float64, d, elements=room)) for _ in range(2))
    norm = draw(st.sampled_from(["l1", "l2"]))
    rate = st.sampled_from([1.0, 1.0, 0.5, 3.0, 0.0])
    rates = Rates(*(draw(arrays(np.float64, d, elements=rate)) for _ in range(2)), norm)
    radius = draw(
        st.one_of(
            st.floats(2.0**-20, 4, width=32), st.sampled_from([0.0, 1e-30, 1e-9, 1e12])
        )
    )
    domain = Box(center - below, center + above)
    return Ball(center, np.float64(radius), domain, rates)


_ROWS = arrays(np.float64, (ROWS, D), elements=_NUMBERS)


def _exactly(v):
    return [Fraction(float(x)) for x in np.ravel(v)]


def _knapsack(ball, row):
    """Returns exact (worth, room) of every feature, in rates."""
    sides = zip(
        _exactly(row), _exactly(ball.center), _exactly(ball.domain.lo),
        _exactly(ball.domain.hi), _exactly(ball.rates.lower),
        _exactly(ball.rates.upper), strict=True,
    )  # fmt: skip
    made = []
    for a, x, lo, hi, low, high in sides:
        rate, slack = (low, x - lo) if a > 0 else (high, hi - x)
        made.append((abs(a) * rate, slack / rate if rate else Fraction(0)))
    return made


def _fall(ball, row):
    """Returns how far a . z falls from the centre on: l1 exactly, l2 nearly.

    For l2 a point of the ball that nearly reaches it, so that a bound must be beyond.
    """
    items, radius = _knapsack(ball, row), Fraction(float(ball.radius))
    if ball.rates.norm == "l1":
        total, left = Fraction(0), radius
        for worth, room in sorted(items, reverse=True):
            taken = min(room, left)
            total, left = total + worth * taken, left - taken
        return total
    if not radius or not any(worth * room for worth, room in items):
        return Fraction(0)
    low, high = Fraction(0), sum(worth for worth, _ in items) / radius
    for _ in range(250):  # the multiplier: min(b / lambda, e) fits if it is large
        middle = (low + high) / 2
        if sum(min(w / middle, e) ** 2 for w, e in items) > radius**2:
            low = middle
        else:
            high = middle
    steps = [min(w / high, e) for w, e in items]
    assert sum(t * t for t in steps) <= radius**2
    return sum(w * t for (w, _), t in zip(items, steps, strict=True))


@float64()
def _least(ball, rows):
    return np.asarray(_compiled(ball, rows))


_compiled = jax.jit(lambda ball, rows: ball.least(rows))


def _check(ball, rows, found, *, charged):
    """Asserts that bounds are below the exact minima, and hardly more than that.

    Args:
      charged: whether the rounding of a . x is; else the slack of a network covers it.
    """
    for row, least in zip(rows, found, strict=True):
        center, a = _exactly(ball.center), _exactly(row)
        terms = [p * q for p, q in zip(a, center, strict=True)]
        size, fall = sum(map(abs, terms)), _fall(ball, row)
        slack = 0 if charged else size * D * Fraction(2) ** -52 + Fraction(2) ** -900
        least = Fraction(least)
        assert least <= sum(terms) - fall + slack
        tiny = Fraction(2) ** -300 * (1 + Fraction(float(ball.radius)))
        assert sum(terms) - fall - least <= (size + fall) * Fraction(2) ** -40 + tiny


@settings(deadline=None, max_examples=30)
@given(_balls(), _ROWS)
def test_least_is_a_bound_and_tight(ball, rows):
    _check(ball, rows, map(float, _least(ball, rows)), charged=False)


@settings(deadline=None, max_examples=30)
@given(_balls(), _ROWS, st.booleans())
def test_the_checker_bounds_alike(ball, rows, exact):
    if ball.radius == 0:
        return
    b = Arithmetic(exact)
    faces = {
        "x": ball.center, "lo": ball.domain.lo, "hi": ball.domain.hi,
        "rate_lo": ball.rates.lower, "rate_hi": ball.rates.upper,
    }  # fmt: skip
    own = balls.Ball(b, faces, int(ball.rates.norm[1:]), float(ball.radius))
    with np.errstate(all="ignore"):
        _check(ball, rows, own.least(b.number(rows)), charged=True)


@settings(deadline=None, max_examples=30)
@given(_balls(), _ROWS)
@float64()
def test_lowest_points_lie_in_the_ball_and_are_low(ball, rows):
    points, least = map(np.asarray, _lowest(ball, rows))
    for row, z, bound in zip(rows, points, least, strict=True):
        assert ball.holds(z)
        # Points are drawn inward by the rounding of their largest feature.
        size = np.abs(row).max() * (np.abs(ball.center) + np.abs(z)).sum()
        assert abs(row @ z - bound) <= 1e-9 * size + 2.0**-400 * (1 + ball.radius)


_lowest = jax.jit(lambda ball, rows: (ball.lowest(rows), ball.least(rows)))


@settings(deadline=None, max_examples=30)
@given(_balls(), arrays(np.float64, D, elements=st.floats(-2, 2)))
def test_distances_are_rounded_up_by_the_least(ball, z):
    found = distance_above(Box.point(ball.center), ball.rates, z)
    power = int(ball.rates.norm[1:])
    total = Fraction(0)
    parts = map(_exactly, (ball.center, z, ball.rates.lower, ball.rates.upper))
    for x, w, low, high in zip(*parts, strict=True):
        rate = low if w < x else high
        if w != x and not rate:
            assert math.isinf(found)
            return
        total += (abs(x - w) / rate) ** power if w != x else 0
    assert Fraction(found) ** power >= total
    assert not found or Fraction(float(np.nextafter(found, 0))) ** power < total


@float64()
def test_one_feature_has_one_norm():
    w = np.array([[2.0], [-1.0]], np.float32)

    def f(w, x):
        return jax.nn.relu(w @ x - 0.25) @ jnp.ones((2, 2), jnp.float32)

    x, domain = np.array([0.1]), Box(np.array([-1.0]), np.array([0.4]))
    bounds = jax.jit(lambda region: jc.crown(f)(w, region).concretize(region))
    expected = bounds(Box.ball(jnp.asarray(x), 0.45, domain))
    for norm in ("l1", "l2"):
        found = bounds(Ball.around(x, 0.45, norm, domain))
        np.testing.assert_allclose(found.lo, expected.lo, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found.hi, expected.hi, rtol=1e-12, atol=1e-12)


def test_overflow_proves_nothing():
    ball = Ball.around(np.full(2, 0.5), 0.1, "l2", Box(np.zeros(2), np.ones(2)))
    for huge in (np.inf, np.nan, 1e308):
        with float64():
            row = jnp.array([[huge, huge]])
            found = float(ball.least(row)[0])
        assert not found > 1.7e308


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_ball_knows_what_it_holds(norm):
    ball = Ball.around([0.5, 0.0], 0.25, norm, Box.unit((2,)))
    assert ball.holds(np.array([0.75, 0.0]))
    assert not ball.holds(np.array([np.nextafter(0.75, 1), 0.0]))
    assert not ball.holds(np.array([0.5, -1e-300]))
    assert ball.holds(np.array([0.6, 0.15])) and not ball.holds(np.array([0.7, 0.2]))


def _refused(words, function, *given, **named):
    with pytest.raises(jc.InputError, match=words):
        function(*given, **named)


def test_what_is_about_boxes_refuses_balls():
    def f(w, x):
        return w @ x

    w, x = np.eye(2, dtype=np.float32), np.array([0.75, 0.25])
    ball = Ball.around(x, 0.1, "l2", Box.unit((2,)))
    spec = jc.Spec.classification(0, 2)
    cuts = jc.CertifyOptions(
        oracle="complete", branch=BranchOptions(cuts=CutOptions(partners=1))
    )
    _refused("of norm 'l1' or 'l2', not 'linf'", Ball.around, x, 0.1, "linf")
    _refused("centre of the ball lies outside", Ball.around, x, 1, "l1", Box(x + 1, x))
    _refused("domain must be a Box, got Ball", jc.dual_boxes, f, w, ball)
    _refused("the domain does not fit", jc.certify, f, w, x, domain=ball)
    _refused("norm is 'l3'; choose one of", jc.certify, f, w, x, norm="l3")
    _refused("cuts are made over boxes", jc.certify, f, w, x, norm="l1", options=cuts)
    _refused("cuts are made over boxes", jc.verify, f, w, ball, spec, options=cuts)
    rates = Rates(np.ones(2), np.ones(2), "l2")
    _refused("pass norm='l2'", jc.certify, f, w, x, rates=rates)
    _refused("radius of the ball is -1", jc.verify, f, w, _with(ball, -1.0), spec)
    _refused("radius of the ball is nan", jc.verify, f, w, _with(ball, np.nan), spec)
    _refused("--grow is about boxes", Request, norm="l2", grow="maximal")
    _refused("--cuts is about boxes", Request, norm="l1", cuts=True)
    certifier = Certifier(f, w, None, (2,), norm="l2")
    _refused("only boxes grow", certifier.grow, x[None], None)


def _with(ball, radius):
    return dataclasses.replace(ball, radius=np.float64(radius))


@float64()
def test_nothing_is_known_of_a_ball_around_a_point_outside():
    ball = Ball.around([0.5, 0.5], 0.1, "l1", Box.unit((2,)))
    outside = dataclasses.replace(ball, center=np.array([0.5, 2.0]))
    assert np.isnan(outside.least(jnp.ones((1, 2)))).all()
