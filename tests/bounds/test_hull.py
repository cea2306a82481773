"""Inequalities of joint hulls: rational arithmetic and qhull are the judges here."""

from __future__ import annotations

import functools
import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import ConvexHull

from jaxcert.bounds import hull

KINDS = ("spread", "correlated", "loose", "box", "flat", "tiny", "huge", "lopsided")


def octahedra(k: int, count: int, seed: int) -> np.ndarray:
    """Bounds of k undecided neurons that depend on 6 inputs, of every kind in turn."""
    rng, directions = np.random.default_rng(seed), hull.octahedron(k)
    found: list[np.ndarray] = []
    while len(found) < count:
        kind = KINDS[len(found) % len(KINDS)]
        a, b = rng.normal(size=(k, 6)), rng.normal(size=k) * 0.8
        if kind == "correlated":
            a[1:] = a[:1] * rng.choice([-1, 1], (k - 1, 1)) + a[1:] * 0.2
        if kind == "flat" and k > 1:
            a[1], b[1] = a[0] / 2, b[0] / 2
        if kind == "lopsided":
            b = 0.9 * np.abs(a).sum(axis=1)
        bounds = np.abs(directions @ a).sum(axis=1) + directions @ b
        if kind == "loose":
            bounds += rng.uniform(0, 1, len(bounds))
        if kind == "box":
            axes = bounds[hull.axes(k)]
            bounds = np.maximum(directions, 0) @ axes[:, 1]
            bounds += np.maximum(-directions, 0) @ axes[:, 0]
        bounds = bounds * {"tiny": 1e-30, "huge": 1e30}.get(kind, 1.0)
        if (bounds[hull.axes(k)] > 0).all():
            found.append(bounds)
    return np.array(found)


def normals(k: int, bounds: np.ndarray, seed: int) -> np.ndarray:
    """Facets, and random directions of all sizes, some with zeros, (G, F, 2 k)."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(len(bounds), 10, 2 * k)) * 10.0 ** rng.integers(
        -3, 4, (len(bounds), 10, 1)
    )
    drawn[:, 5:] = np.where(rng.random(drawn[:, 5:].shape) < 0.5, 0, drawn[:, 5:])

    def proposed(bounds):
        found = hull.hull_directions(bounds, k, 12)
        return jnp.concatenate([found.a, found.b], axis=1)

    with jax.enable_x64(True):
        facets = jax.jit(lambda v: jax.lax.map(proposed, v))(bounds)
    return np.concatenate([np.asarray(facets), drawn], axis=1)


@functools.cache
def limits_of(k: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    bounds = octahedra(k, count, seed=k)
    both = normals(k, bounds, seed=k)

    def limit(bounds, both):
        by_normal = jax.vmap(hull.safe_limit, (0, 0, None))
        return by_normal(both[:, :k], both[:, k:], bounds)

    with jax.enable_x64(True):
        found = jax.jit(lambda *v: jax.lax.map(lambda g: limit(*g), v))(bounds, both)
    return bounds, both, np.asarray(found)


def determinant(rows: list[list[int]]) -> int:
    if not rows:
        return 1
    return sum(
        (-1) ** j * rows[0][j] * determinant([r[:j] + r[j + 1 :] for r in rows[1:]])
        for j in range(len(rows))
    )


def cofactors(rows: list[list[int]]) -> list[list[int]]:
    """Returns A^-1 det A, for Cramer's rule."""
    n = range(len(rows))
    return [
        [
            (-1) ** (i + j) * determinant([r[:j] + r[j + 1 :] for r in others])
            for i in n
            for others in [rows[:i] + rows[i + 1 :]]
        ]
        for j in n
    ]


@functools.cache
def meeting(k: int) -> list[tuple[tuple[int, ...], int, list[list[int]]]]:
    """All k planes that meet in one point, their determinant > 0 and cofactors."""
    planes = hull.octahedron(k).astype(int).tolist() + np.eye(k, dtype=int).tolist()
    found = []
    for subset in itertools.combinations(range(len(planes)), k):
        rows = [planes[i] for i in subset]
        whole = determinant(rows)
        sign = -1 if whole < 0 else 1
        if whole:
            signed = [[sign * c for c in row] for row in cofactors(rows)]
            found.append((subset, sign * whole, signed))
    return found


def exact_vertices(bounds: np.ndarray, k: int) -> list[list[Fraction]]:
    """All points where k planes meet inside: the vertices of P in every orthant."""
    directions = hull.octahedron(k).astype(int).tolist()
    exact = [Fraction(float(u)) for u in bounds]
    scale = max(u.denominator for u in exact)  # powers of 2: whole numbers from here on
    right = [int(u * scale) for u in exact]
    values = right + [0] * k
    vertices = []
    for subset, whole, rows in meeting(k):
        x = [sum(c * values[i] for c, i in zip(r, subset, strict=True)) for r in rows]
        if all(
            sum(c * v for c, v in zip(d, x, strict=True)) <= u * whole
            for d, u in zip(directions, right, strict=True)
        ):
            vertices.append([Fraction(v, whole * scale) for v in x])
    return vertices


@pytest.mark.parametrize(("k", "count"), [(1, 40), (2, 40), (3, 8)])
def test_inequalities_hold_at_all_orthant_vertices_in_exact_arithmetic(k, count):
    bounds, both, limits = limits_of(k, count)
    for octahedron, directions, most in zip(bounds, both, limits, strict=True):
        vertices = exact_vertices(octahedron, k)
        assert len(vertices) > k
        lifted = [x + [max(v, Fraction(0)) for v in x] for x in vertices]
        for direction, limit in zip(directions, most, strict=True):
            exact = [Fraction(float(v)) for v in direction]
            greatest = max(
                sum(c * v for c, v in zip(exact, x, strict=True)) for x in lifted
            )
            assert greatest <= Fraction(float(limit))
            # Nothing but rounding is given away, where no orthant is nearly empty.
            size = np.abs(direction).max() * np.abs(octahedron).max()
            assert float(Fraction(float(limit)) - greatest) <= 1e-9 * size + 1e-260


@pytest.mark.parametrize(("k", "count"), [(2, 40), (3, 8)])
def test_inequalities_hold_at_random_points(k: int, count: int):
    bounds, both, limits = limits_of(k, count)
    rng = np.random.default_rng(0)
    for octahedron, directions, most in zip(bounds, both, limits, strict=True):
        axes = octahedron[hull.axes(k)]
        x = rng.uniform(-axes[:, 0], axes[:, 1], (4000, k))
        x = x[(x @ hull.octahedron(k).T <= octahedron).all(axis=1)]
        values = np.hstack([x, np.maximum(x, 0)]) @ directions.T
        size = np.abs(directions).max(axis=1) * np.abs(octahedron).max()
        # The evaluation of the left side is rounded as well.
        assert (values <= most + 1e-15 * 8 * size).all()


@pytest.mark.parametrize("k", [1, 2])
def test_every_facet_of_the_hull_is_found(k: int):
    bounds = octahedra(k, 80, seed=9)
    kinds = np.array(KINDS * 10)
    bounds = bounds[~np.isin(kinds, ("flat", "tiny", "huge"))]

    def of(octahedron):
        found = hull.all_facets(octahedron, k)
        limit = jax.vmap(hull.safe_limit, (0, 0, None))
        return found, limit(found[:, :k], found[:, k:], octahedron)

    with jax.enable_x64(True):
        facets, limits = jax.device_get(jax.jit(jax.vmap(of))(bounds))
    for octahedron, found, most in zip(bounds, facets, limits, strict=True):
        x = np.array([[float(v) for v in x] for x in exact_vertices(octahedron, k)])
        x = np.unique(np.round(x, 12), axis=0)
        wanted = ConvexHull(np.hstack([x, np.maximum(x, 0)])).equations
        wanted /= np.abs(wanted[:, :-1]).max(axis=1, keepdims=True)
        used = np.any(found != 0, axis=1)
        ours = np.hstack([found, -most[:, None]])[used]
        apart = np.abs(wanted[:, None] - ours).max(axis=2)
        assert (apart.min(axis=1) <= 1e-6).all()
        assert (apart.min(axis=0) <= 1e-6).all()


def test_an_octahedron_that_is_not_finite_has_no_limit():
    bounds = octahedra(2, 1, seed=0)[0]
    a, b = jnp.ones(2), jnp.ones(2)
    for wrong in (np.nan, np.inf):
        with jax.enable_x64(True):
            spoiled = jnp.asarray(np.where(np.arange(8) == 4, wrong, bounds))
            assert not np.isfinite(hull.safe_limit(a, b, spoiled))
