"""Box: containment, slack, apothem, splits."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcert.box import Box, Family, Rates, distances

DOMAIN = Box.unit((3,))
X = jnp.array([0.5, 0.25, 0.75])
quick = settings(deadline=None, derandomize=True, max_examples=25)
numbers = st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3).map(np.float32)


def box(lo, hi) -> Box:
    return Box(jnp.asarray(lo, jnp.float32), jnp.asarray(hi, jnp.float32))


def test_apothem_is_the_least_slack_inside():
    assert box([0.25, 0.125, 0.5], [0.9, 0.9, 0.875]).apothem(X, DOMAIN) == 0.125


def test_a_face_on_the_domain_boundary_does_not_count():
    # the slack 0.25 of the second feature's lower face lies on the boundary
    assert box([0, 0, 0], [0.875, 1, 1]).apothem(X, DOMAIN) == 0.375


def test_a_face_collapsed_inside_the_domain_counts_with_zero():
    assert box([0.5, 0, 0], [1, 1, 1]).apothem(X, DOMAIN) == 0


def test_a_face_collapsed_on_the_boundary_does_not_count():
    x = jnp.array([0.0, 0.25, 0.75])
    assert box([0, 0, 0], [0.5, 1, 1]).apothem(x, DOMAIN) == 0.5


def test_the_apothem_of_the_whole_domain_is_infinite():
    assert jnp.isposinf(DOMAIN.apothem(X, DOMAIN))


def test_weighted_apothem_divides_by_the_rates():
    rates = Rates(jnp.array([2.0, 1, 1]), jnp.array([1.0, 0, 1]))
    b = box([0.25, 0.125, 0.5], [0.9, 0.25, 0.875])
    # lower face 0: 0.25 / 2; upper face 1 has rate 0 and is not asked to move
    assert b.apothem(X, DOMAIN, rates) == 0.125
    assert jnp.isposinf(Box.point(X).apothem(X, DOMAIN, Rates(X * 0, X * 0)))


def test_ball_is_clipped_to_the_domain():
    b = Box.ball(X, 0.375, DOMAIN)
    assert b.lo.tolist() == [0.125, 0.0, 0.375]
    assert b.hi.tolist() == [0.875, 0.625, 1.0]
    assert b.apothem(X, DOMAIN) == 0.375


def test_ball_moves_faces_at_their_rates():
    rates = Rates(jnp.array([1.0, 0, 1]), jnp.array([0.5, 1, 2]))
    b = Box.ball(X, 0.125, DOMAIN, rates)
    assert b.lo.tolist() == [0.375, 0.25, 0.625]
    assert b.hi.tolist() == [0.5625, 0.375, 1.0]


def test_nan_lies_in_no_box_and_empties_it():
    assert not Box.unit((3,)).contains(jnp.array([0.5, jnp.nan, 0.5]))
    assert box([0, jnp.nan, 0], [1, 1, 1]).is_empty()
    assert box([0, 0, 0.5], [1, 1, 0.25]).is_empty()
    assert not Box.point(X).is_empty()


def test_edges_and_log_volume():
    b = box([0, 0, 0], [0.5, 1, 0.25])
    assert b.edges().tolist() == [0.5, 1, 0.25]
    np.testing.assert_allclose(b.log_volume(), np.log(0.125), rtol=1e-6)
    assert jnp.isneginf(Box.point(X).log_volume())


def test_intersection_and_hull():
    a, b = box([0, 0, 0], [0.5, 1, 1]), box([0.25, 0.5, 0], [1, 1, 0.5])
    assert a.intersect(b).lo.tolist() == [0.25, 0.5, 0]
    assert a.intersect(b).hi.tolist() == [0.5, 1, 0.5]
    assert a.hull(b).contains_box(a) and a.hull(b).contains_box(b)
    assert not a.contains_box(b)
    assert a.intersect(box([0.75, 0, 0], [1, 1, 1])).is_empty()


@quick
@given(numbers, numbers, st.integers(0, 2), st.data())
def test_children_of_a_split_cover_the_parent(a, b, feature, data):
    lo, hi = np.minimum(a, b), np.maximum(a, b)
    parent = box(lo, hi)
    left, right = parent.split(feature)
    share = data.draw(st.lists(st.floats(0, 1), min_size=3, max_size=3))
    z = np.clip(np.float32(lo + (hi - lo) * np.float32(share)), lo, hi)
    assert left.contains(z) or right.contains(z)
    assert parent.contains_box(left) and parent.contains_box(right)
    assert left.hi[feature] == right.lo[feature]


@quick
@given(numbers, numbers, numbers)
def test_projection_and_distance(x, a, b):
    target = box(np.minimum(a, b), np.maximum(a, b))
    z = target.project(x)
    assert target.contains(z)
    one = Rates(jnp.ones(3), jnp.ones(3))
    np.testing.assert_allclose(one.distance(x, z), np.abs(x - z).max(), rtol=1e-6)
    assert Box.ball(jnp.asarray(x), one.distance(x, z) * 1.000001 + 1e-6).contains(z)


def test_a_face_of_rate_zero_is_never_reached():
    rates = Rates(jnp.array([0.0, 1, 1]), jnp.array([1.0, 1, 2]))
    assert jnp.isposinf(rates.distance(X, X - jnp.array([0.125, 0, 0])))
    assert rates.distance(X, X + jnp.array([0.125, 0, 0.5])) == 0.25
    assert rates.reach(X, DOMAIN) == 0.75


def test_distances_on_the_host_are_those_on_the_device():
    rng = np.random.default_rng(0)
    core, far = rng.uniform(-1, 1, (2, 40, 3)), rng.uniform(1, 2, (40, 3))
    rates = Rates(*rng.integers(0, 3, (2, 40, 3)).astype(float))
    points = np.where(rng.random((40, 3)) < 0.5, core[0], rng.uniform(-4, 4, (40, 3)))
    each = Family(Box(core[0], core[0] + far), Box(-5 * far, 5 * far), rates)
    one = jax.tree.map(lambda v: v[0], each)
    with jax.enable_x64(True):
        of_each = jax.vmap(Family.distance)(each, points)
        of_one = jax.vmap(one.distance)(points)
    np.testing.assert_array_equal(distances(each, points), of_each)
    np.testing.assert_array_equal(distances(one, points), of_one)
    assert np.isinf(of_each).any() and (np.asarray(of_each) == 0).any()
    assert (np.isfinite(of_each) & (np.asarray(of_each) > 0)).any()


def test_boxes_are_pytrees_that_batch():
    centers = jnp.stack([X, X / 2])
    balls = jax.vmap(lambda x: Box.ball(x, 0.125, DOMAIN))(centers)
    apothems = jax.vmap(lambda b, x: b.apothem(x, DOMAIN))(balls, centers)
    assert apothems.tolist() == [0.125, 0.125]


def test_boxes_cannot_be_changed():
    with pytest.raises(AttributeError):
        DOMAIN.lo = X


@pytest.mark.parametrize("seed", range(4))
def test_boxes_rounded_outward_hold_the_exact_ones(seed: int):
    rng = np.random.default_rng(seed)
    lower = 0
    for _ in range(50):
        x, rate = rng.uniform(-1, 1, 3), rng.uniform(0, 2, 3) * (rng.random(3) < 0.8)
        t = rng.uniform(0, 1)
        with jax.enable_x64(True):
            family = Family(Box(x, x), Box(x - 9, x + 9), Rates(rate, rate))
            given = jax.device_get(family.box(t, outward=True))
            nearest = jax.device_get(family.box(t))
        for k in range(3):
            reach = Fraction(t) * Fraction(rate[k])
            assert Fraction(float(given.lo[k])) <= Fraction(x[k]) - reach
            assert Fraction(float(given.hi[k])) >= Fraction(x[k]) + reach
            lower += Fraction(float(nearest.lo[k])) > Fraction(x[k]) - reach
    assert lower > 10  # rounding to nearest does lose some


def test_boxes_in_float32_hold_those_of_float64():
    """Also where XLA may flush an end to zero, and where float32 ends."""
    rng = np.random.default_rng(0)
    ends = rng.normal(size=500) * 10.0 ** rng.integers(-60, 30, 500)
    ends = np.concatenate([ends, [0.0, -0.0, 1e-39, -1e-39, 1e39, -1e39, np.inf]])
    with jax.enable_x64(True):
        held = jax.device_get(jax.jit(Box.float32)(Box(ends, ends)))
    assert held.lo.dtype == held.hi.dtype == np.float32
    assert (held.lo.astype(np.float64) <= ends).all()
    assert (held.hi.astype(np.float64) >= ends).all()
    with np.errstate(over="ignore"):
        nearest = ends.astype(np.float32)
    assert (nearest > ends).sum() > 100  # to the nearest is not outward
    # Whether it flushes or not, an end is the number that stands there.
    tiny = np.finfo(np.float32).tiny
    for end in (held.lo, held.hi):
        assert ((np.abs(end) >= tiny) | (end == 0)).all()
