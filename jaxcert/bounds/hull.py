"""Inequalities of the joint hull of k ReLUs, with right-hand sides that are safe.

A group of k neurons has inputs x in an octahedron P = {x : d . x <= U_d for every d in
{-1, 0, 1}^k except 0}. The hull of {(x, relu(x)) : x in P} is a polytope in 2 k
dimensions. `hull_directions` proposes the normals (a, b) of its facets by ordinary
arithmetic, which proves nothing; `safe_limit` then bounds a . x + b . relu(x) from
above, whatever (a, b) is.

Sources: Singh et al., "Beyond the single neuron convex barrier" (k-ReLU), NeurIPS 2019;
Mueller et al., "PRIMA", POPL 2022.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

MOST = 3
"""The greatest number of neurons in a group."""

# Vertices of the cells into which P falls at the coordinate planes: most that are kept.
_VERTICES = {1: 3, 2: 13, 3: 320}
# Facets of one group, most that are kept before the deepest are chosen.
_FACETS = {1: 3, 2: 40, 3: 96}
_TOLERANCE = 1e-9
# Twice the roundings of a dual bound of k <= 3 neurons, in units of 2^-53.
_ROUNDING = 2.0**-47
# Above whatever those lose to underflow, relatively to the greatest number involved.
_UNDERFLOW = 2.0**-1000


@functools.cache
def octahedron(k: int) -> np.ndarray:
    """Returns the 3^k - 1 directions d, shape (3^k - 1, k)."""
    every = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=k)))
    return every[np.any(every != 0, axis=1)]


@functools.cache
def _orthants(k: int) -> np.ndarray:
    return np.array(list(itertools.product((1.0, -1.0), repeat=k)))


class _Bases(NamedTuple):
    """All choices of k independent rows of a matrix.

    subset: (bases, k) row numbers; rows, inverse: (bases, k, k).
    """

    subset: np.ndarray
    rows: np.ndarray
    inverse: np.ndarray


def _bases(matrix: np.ndarray) -> _Bases:
    k = matrix.shape[1]
    subset = np.array(list(itertools.combinations(range(len(matrix)), k)))
    rows = matrix[subset]
    # Determinants of matrices of -1, 0 and 1 are integers.
    independent = np.abs(np.linalg.det(rows)) > 0.5
    subset, rows = subset[independent], rows[independent]
    return _Bases(subset, rows, np.linalg.inv(rows))


@functools.cache
def _plane_bases(k: int) -> _Bases:
    """Of the planes d . x = U_d and x_i = 0, whose meeting points hold all vertices."""
    return _bases(np.concatenate([octahedron(k), np.eye(k)]))


@functools.cache
def _dual_bases(k: int) -> _Bases:
    """Of the constraints d . x <= U_d and -x_i <= 0."""
    return _bases(np.concatenate([octahedron(k), -np.eye(k)]))


@functools.cache
def axes(k: int) -> np.ndarray:
    """Returns the numbers of the directions e_i and -e_i, shape (k, 2)."""
    return np.array(
        [np.flatnonzero(np.all(octahedron(k)[:, [j for j in range(k) if j != i]] == 0,
                               axis=1)) for i in range(k)]
    )  # fmt: skip


@functools.cache
def _reflections(k: int) -> np.ndarray:
    """Returns, per orthant s, the number of direction s * d for every d."""
    directions = octahedron(k)
    number = {tuple(d): i for i, d in enumerate(directions)}
    return np.array([[number[tuple(s * d)] for d in directions] for s in _orthants(k)])


def safe_limit(
    a: Float[Array, " k"], b: Float[Array, " k"], bounds: Float[Array, " m"]
) -> Float[Array, ""]:
    """Returns c with a . x + b . relu(x) <= c for every x with d . x <= bounds[d].

    Exact enumeration over the orthants s: there relu is linear and the left side is
    g . x with g_i = a_i + b_i [s_i > 0]. For any multipliers p_d >= 0 and q_i >= 0,

        g . x  =  sum_d p_d (d . x) - sum_i q_i (s_i x_i) + r . x
              <=  sum_d p_d U_d + sum_i |r_i| B_i

    where r is what is left, g - sum_d p_d d + sum_i q_i s_i e_i, and |x_i| <= B_i in P,
    because s_i x_i >= 0 in the orthant. Every choice of k independent constraints gives
    p and q (made >= 0, so that no choice needs to be right), the least bound is taken,
    and the greatest of all orthants. One of the choices is an optimal basis of the
    linear programme in the orthant, so that nothing but rounding is lost. An orthant
    is left out if it is empty for certain: U_{s d} < 0 for some d in {0, 1}^k, although
    d . (s x) >= 0 there.

    The computation in float64 has fewer than 2^5 roundings on any path, each of at most
    2^-53 of the sum of all magnitudes (in any order, Higham, chapter 3); 2^-47 of that
    sum is added, and 2^-1000 of the greatest number for what underflows.

    Args:
      a, b: coefficients, float64.
      bounds: U_d in the order of `octahedron(k)`; finite, and true bounds.
    """
    k = a.shape[0]
    directions, orthants, bases = octahedron(k), _orthants(k), _dual_bases(k)
    # Reflected by s every orthant is the positive one, with the same constraints.
    g = orthants * (a + b * (orthants > 0))
    limits = bounds[_reflections(k)]
    reach = jnp.max(jnp.abs(bounds[axes(k)]), axis=1)
    limits = jnp.concatenate([limits, jnp.zeros_like(g)], axis=1)[:, bases.subset]
    weights = jnp.maximum(jnp.einsum("oi,cij->ocj", g, bases.inverse), 0)
    rest = g[:, None] - jnp.einsum("ocj,cji->oci", weights, bases.rows)
    bound = jnp.sum(weights * limits, axis=2) + jnp.abs(rest) @ reach
    size = jnp.einsum("ocj,cji->oci", weights, np.abs(bases.rows))
    size = (jnp.abs(rest) + jnp.abs(g)[:, None] + size) @ reach
    size = size + jnp.sum(weights * jnp.abs(limits), axis=2)
    least = jnp.min(bound + _ROUNDING * size, axis=1)
    positive = np.flatnonzero(np.all(directions >= 0, axis=1))
    empty = jnp.any(bounds[_reflections(k)][:, positive] < 0, axis=1)
    most = jnp.max(jnp.where(empty, -jnp.inf, least))
    biggest = 1 + jnp.max(jnp.abs(bounds)) + jnp.max(jnp.abs(a)) + jnp.max(jnp.abs(b))
    return most + _UNDERFLOW * biggest


class Directions(NamedTuple):
    """Normals of facets of the hull; those that do not count are zero.

    Attributes:
      a: coefficients of x, shape (F, k).
      b: coefficients of relu(x), (F, k).
      depth: by how much the facet cuts into the product of the triangles over P, the
        deepest first; 0 for what does not count, (F,).
    """

    a: Array
    b: Array
    depth: Array


def hull_directions(bounds: Float[Array, " m"], k: int, count: int) -> Directions:
    """Returns the normals of the `count` facets that cut deepest, max(|a|, |b|) = 1.

    For k <= 2 every facet of the hull is looked at: the planes through 2 k affinely
    independent vertices that leave all others on one side. For k = 3 that would be too
    many. There the hulls of the three pairs are taken, and supporting planes are
    turned, one vertex at a time, towards points of the relaxation of single neurons
    until they are facets (gift wrapping): each is a facet, but not all facets are
    found, an approximation. The depth of a facet is its greatest violation
    by x in P and y between the lines of the triangles, so that the inequalities of
    single neurons, and those of x alone, have depth 0.
    """
    points, known = _vertices(bounds, k)
    lifted = jnp.concatenate([points, jnp.maximum(points, 0)], axis=1)
    centre = jnp.sum(jnp.where(known[:, None], lifted, 0), axis=0) / jnp.sum(known)
    lifted = jnp.where(known[:, None], lifted, centre)
    corners = _triangle_corners(points, bounds)
    corners = jnp.where(known[:, None, None], corners, centre)
    if k == MOST:
        pairs = [_of_pair(bounds, pair) for pair in itertools.combinations(range(k), 2)]
        normals = jnp.concatenate([*pairs, _facets_by_turning(lifted, corners)])
    else:
        normals = _facets_by_choice(lifted, known)
    limit = jnp.max(lifted @ normals.T, axis=0)
    depth = jnp.max(corners.reshape(-1, 2 * k) @ normals.T, axis=0) - limit
    exists = jnp.any(normals != 0, axis=1)
    depth = jnp.where(exists & (depth > 1e-6), depth, 0.0)
    best = jnp.argsort(-depth)[:count]
    normals = jnp.where(depth[best, None] > 0, normals[best], 0.0)
    return Directions(normals[:, :k], normals[:, k:], depth[best])


def all_facets(bounds: Float[Array, " m"], k: int) -> Float[Array, "F n"]:
    """Returns the normals (a, b) of all facets of the hull for k <= 2, zeros below."""
    points, known = _vertices(bounds, k)
    lifted = jnp.concatenate([points, jnp.maximum(points, 0)], axis=1)
    return _facets_by_choice(lifted, known)


def _vertices(bounds: Array, k: int) -> tuple[Array, Array]:
    """Returns the vertices of P and of its sections, (V, k), and which rows are any."""
    directions, bases = octahedron(k), _plane_bases(k)
    limits = jnp.concatenate([bounds, jnp.zeros(k, bounds.dtype)])[bases.subset]
    points = jnp.einsum("cij,cj->ci", bases.inverse, limits)
    size = jnp.max(jnp.abs(bounds))
    inside = jnp.all(points @ directions.T <= bounds + _TOLERANCE * size, axis=1)
    if k < MOST:
        apart = jnp.max(jnp.abs(points[:, None] - points), axis=2)
        same = (apart <= _TOLERANCE * size) & inside
        inside &= jnp.argmax(same, axis=1) == jnp.arange(len(points))
    order = jnp.argsort(~inside, stable=True)[: _VERTICES[k]]
    return points[order], inside[order]


def _triangle_corners(points: Array, bounds: Array) -> Array:
    """Returns (x, y) with every y_i at its ReLU or its chord, shape (V, 2^k, 2 k)."""
    k = points.shape[1]
    ends = bounds[axes(k)]  # -l and u
    low, high = -ends[:, 0], ends[:, 1]
    chord = high * (points - low) / (high - low)
    upper = jnp.array(_orthants(k) > 0)
    y = jnp.where(upper, chord[:, None], jnp.maximum(points, 0)[:, None])
    x = jnp.broadcast_to(points[:, None], y.shape)
    return jnp.concatenate([x, y], axis=2)


def _facets_by_choice(lifted: Array, known: Array) -> Array:
    """Returns the normals of all facets, shape (_FACETS, 2 k), zeros below."""
    count, dimension = lifted.shape
    subset = np.array(list(itertools.combinations(range(count), dimension)))
    chosen = lifted[subset]
    normal = _normal(chosen[:, 1:] - chosen[:, :1])
    size = jnp.max(jnp.abs(normal), axis=1, keepdims=True)
    scale = jnp.max(jnp.abs(lifted)) ** (dimension - 1)
    proper = (size[:, 0] > 1e-8 * scale) & jnp.all(known[subset], axis=1)
    normal = normal / jnp.where(proper[:, None], size, 1.0)
    gap = normal @ lifted.T - jnp.sum(normal * chosen[:, 0], axis=1, keepdims=True)
    near = 1e-7 * jnp.max(jnp.abs(lifted))
    above = jnp.all((gap >= -near) | ~known, axis=1)
    below = jnp.all((gap <= near) | ~known, axis=1)
    normal = jnp.where(below[:, None], normal, -normal)
    # The same facet is met once per choice of its vertices: tell it by all of them.
    touched = jnp.abs(gap) <= near
    name = touched @ (2.0 ** np.arange(count))
    name = jnp.where(proper & (above | below), name, jnp.inf)
    order = jnp.argsort(name)
    name = name[order]
    first = jnp.concatenate([jnp.ones(1, bool), name[1:] != name[:-1]])
    new = first & (name < jnp.inf)
    best = jnp.argsort(~new, stable=True)[: _FACETS[dimension // 2]]
    return jnp.where(new[best, None], normal[order][best], 0.0)


def _normal(edges: Array) -> Array:
    """Returns what is orthogonal to n - 1 vectors, (..., n - 1, n) for n = 2 or 4."""
    columns = np.arange(edges.shape[-1])
    minors = [edges[..., columns != j] for j in columns]
    if len(columns) == 2:
        signed = [minors[0][..., 0, 0], -minors[1][..., 0, 0]]
    else:
        volumes = [
            jnp.sum(m[..., 0, :] * jnp.cross(m[..., 1, :], m[..., 2, :]), axis=-1)
            for m in minors
        ]
        signed = [v if j % 2 == 0 else -v for j, v in enumerate(volumes)]
    return jnp.stack(signed, axis=-1)


def _of_pair(bounds: Array, pair: tuple[int, ...]) -> Array:
    """Returns the facets of the hull of two of three neurons, as normals of three."""
    directions = {tuple(d): i for i, d in enumerate(octahedron(MOST))}
    numbers = []
    for d in octahedron(2):
        full = np.zeros(MOST)
        full[list(pair)] = d
        numbers.append(directions[tuple(full)])
    normals = all_facets(bounds[np.array(numbers)], 2)
    columns = [*pair, *(MOST + i for i in pair)]
    wide = jnp.zeros((len(normals), 2 * MOST), normals.dtype)
    return wide.at[:, np.array(columns)].set(normals)


def _facets_by_turning(points: Array, corners: Array) -> Array:
    """Returns normals of some facets, shape (_FACETS, n), zeros below.

    One supporting plane per target, turned around the vertices that it already touches
    until it meets the next one, as far towards the target as it goes.

    Args:
      points: vertices of the hull, shape (V, n).
      corners: points of the relaxation of single neurons, shape (V, 2^k, n).
    """
    n = points.shape[1]
    k = n // 2
    height = jnp.sum(corners[..., k:] - jnp.maximum(corners[..., :k], 0), axis=-1)
    each = _FACETS[k] // corners.shape[1]
    index = jnp.argsort(-height, axis=0)[:each]
    targets = jnp.take_along_axis(corners, index[..., None], axis=0).reshape(-1, n)
    centre = jnp.mean(points, axis=0)
    # Where the target asks for no direction, any will do.
    spare = np.random.default_rng(0).normal(size=(n, n))
    far = _TOLERANCE * jnp.max(jnp.abs(points))

    def turned(target: Array) -> Array:
        normal = target - centre
        corner = points[jnp.argmax(points @ normal)]
        edges = points - corner

        def step(number: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            normal, touched = carry
            normal = normal / (jnp.linalg.norm(normal) + far)
            fixed = jnp.concatenate([touched, normal[None]])

            def across(v: Array) -> Array:
                v = v - fixed.T @ (fixed @ v)
                return v - fixed.T @ (fixed @ v)

            way, other = across(target - corner), across(jnp.asarray(spare)[number])
            way = jnp.where(jnp.linalg.norm(way) > 1e-6, way, other)
            ahead = edges @ way
            meets = ahead > 1e-7
            turn = jnp.where(
                meets, -(edges @ normal) / jnp.where(meets, ahead, 1), jnp.inf
            )
            first = jnp.argmin(turn)
            some = meets[first]
            normal = jnp.where(some, normal + turn[first] * way, way)
            edge = edges[first] - touched.T @ (touched @ edges[first])
            edge = edge - touched.T @ (touched @ edge)
            edge = jnp.where(some, edge / (jnp.linalg.norm(edge) + far), 0.0)
            return normal, touched.at[number].set(edge)

        start = normal, jnp.zeros((n, n), points.dtype)
        normal, _ = jax.lax.fori_loop(0, n, step, start)
        size = jnp.max(jnp.abs(normal))
        return jnp.where(size > 0, normal / jnp.where(size > 0, size, 1), 0.0)

    normals = jax.vmap(turned)(targets)
    same = jnp.max(jnp.abs(normals[:, None] - normals), axis=2) < 1e-6
    new = jnp.argmax(same, axis=1) == jnp.arange(len(normals))
    return jnp.where(new[:, None], normals, 0.0)
