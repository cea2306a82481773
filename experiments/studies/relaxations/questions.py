"""Relaxations of ReLU networks under one interface: bounds of rows from each of them.

From loosest to exact, `least(method, network, box, rows)` bounds `C f(x) + d` from
below over lo <= x <= hi, by

    box        interval arithmetic
    zonotope   DeepZ: one noise symbol per input and undecided neuron
    crown      two lines per neuron, pulled back to the input (DeepPoly, CROWN)
    triangle   a linear programme over the convex hull of every single ReLU
    krelu      a linear programme over the joint hulls of groups of k ReLUs
    exact      a mixed-integer programme

The bounds of hidden neurons come from the method itself, layer by layer. Linear
programmes are solved by HiGHS, up to its tolerance: references, not proofs.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

import jaxcert as jc
from jaxcert.bounds import hull
from studies.milp_reference.encoding import Encoding, encode
from studies.milp_reference.network import Mlp

Interval = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Question:
    """What is bounded: rows `C f(x) + d` of a network over a box.

    Attributes:
      network: affine layers with ReLUs between them.
      lo, hi: the box.
      rows, offset: C and d.
      k: neurons per group of `krelu`.
      chunk: groups are the k-subsets of so many neurons of a layer, by score.
      time_limit: seconds per programme.
    """

    network: Mlp
    lo: np.ndarray
    hi: np.ndarray
    rows: np.ndarray
    offset: np.ndarray
    k: int = 2
    chunk: int = 1000
    time_limit: float = 60.0

    @property
    def last(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows folded into the last layer."""
        weight, bias = self.network.layers[-1]
        return self.rows @ weight, self.rows @ bias + self.offset


def _box(question: Question) -> np.ndarray:
    low, high = question.lo, question.hi
    for weight, bias in question.network.layers[:-1]:
        low, high = _affine(weight, bias, low, high)
        low, high = np.maximum(low, 0), np.maximum(high, 0)
    return _affine(*question.last, low, high)[0]


def _affine(weight: np.ndarray, bias: np.ndarray, low: Any, high: Any) -> Interval:
    positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
    return (
        positive @ low + negative @ high + bias,
        positive @ high + negative @ low + bias,
    )


def zonotope(question: Question) -> tuple[np.ndarray, np.ndarray]:
    """Returns centre and generators of the zonotope of the rows (DeepZ).

    relu(z) is replaced by s z + t + t e with s = u / (u - l), t = -s l / 2, and a noise
    symbol e in [-1, 1] (Singh et al., NeurIPS 2018, Theorem 3.1).
    """
    centre = (question.lo + question.hi) / 2
    generators = np.diag((question.hi - question.lo) / 2)
    for weight, bias in question.network.layers[:-1]:
        centre, generators = weight @ centre + bias, weight @ generators
        reach = np.abs(generators).sum(axis=1)
        low, high = centre - reach, centre + reach
        unstable = (low < 0) & (high > 0)
        slope = np.where(low >= 0, 1.0, 0.0)
        slope[unstable] = high[unstable] / (high - low)[unstable]
        shift = np.where(unstable, -slope * low / 2, 0.0)
        new = np.diag(shift)[:, unstable]
        centre = slope * centre + shift
        generators = np.hstack([slope[:, None] * generators, new])
    weight, bias = question.last
    return weight @ centre + bias, weight @ generators


def _zonotope(question: Question) -> np.ndarray:
    centre, generators = zonotope(question)
    return centre - np.abs(generators).sum(axis=1)


def apply(params: Any, x: Any) -> Any:
    """Returns the outputs of an `Mlp`'s layers, as a JAX function."""
    for weight, bias in params[:-1]:
        x = jax.nn.relu(weight @ x + bias)
    weight, bias = params[-1]
    return weight @ x + bias


@functools.cache
def _crown_rows() -> Callable:
    return jax.jit(jc.crown(apply).lower_rows)


def _crown(question: Question) -> np.ndarray:
    with jax.enable_x64(True):
        box = jc.Box(jnp.asarray(question.lo), jnp.asarray(question.hi))
        rows, offset = jnp.asarray(question.rows), jnp.asarray(question.offset)
        spec = jc.Spec.rows(rows, offset)
        return np.asarray(_crown_rows()([*question.network.layers], box, spec))


def _by_programme(encoding: Encoding, question: Question, integer: bool) -> np.ndarray:
    weight, bias = question.last
    least = [encoding.minimise(w, integer, question.time_limit)[0] for w in weight]
    return np.array(least) + bias


def _triangle(question: Question) -> np.ndarray:
    encoding = encode(question.network, question.lo, question.hi, question.time_limit)
    return _by_programme(encoding, question, False)


def _exact(question: Question) -> np.ndarray:
    encoding = encode(question.network, question.lo, question.hi, question.time_limit)
    return _by_programme(encoding, question, True)


class HullEncoding(Encoding):
    """Layers as linear constraints: z = W a' + b, and a inside joint hulls alone."""

    def append_hulls(
        self, weight: np.ndarray, bias: np.ndarray, question: Question
    ) -> None:
        """Appends a layer, its neurons bounded by the programme so far."""
        n, limit = len(bias), question.time_limit
        low, high = _affine(weight, bias, *self.activation_bounds())
        if self.blocks:
            for i in np.flatnonzero((low < 0) & (high > 0)):
                low[i] = max(low[i], self._least(weight[i], limit) + bias[i])
                high[i] = min(high[i], -self._least(-weight[i], limit) + bias[i])
        groups = self._groups(low, high, question)
        bounds = [self._octahedron(weight, bias, g, (low, high), limit) for g in groups]
        start = sum(map(len, self.lower))
        z, a = start, start + n
        one = scipy.sparse.identity(n)
        inputs = (self.last.start, -scipy.sparse.csr_array(weight))
        self.rows([inputs, (z, one)], bias, bias)
        self.lower += [low, np.maximum(low, 0)]
        self.upper += [high, np.maximum(high, 0)]
        self.integrality += [np.zeros(n), np.zeros(n)]
        self.last, self.unit = slice(a, a + n), np.ones(n)
        on = np.where(low >= 0)[0]
        pick = scipy.sparse.csr_array(np.eye(n)[on])
        self.rows([(a, pick), (z, -pick)], np.zeros(len(on)), np.zeros(len(on)))
        for group, bound in zip(groups, bounds, strict=True):
            p, q, most = facets(bound, len(group))
            place = np.eye(n)[list(group)]
            at_z, at_a = (scipy.sparse.csr_array(c @ place) for c in (p, q))
            self.rows([(z, at_z), (a, at_a)], np.full(len(p), -np.inf), most)

    def _groups(
        self, low: np.ndarray, high: np.ndarray, question: Question
    ) -> list[tuple[int, ...]]:
        """Returns the k-subsets of chunks of undecided neurons; rests stay smaller."""
        score = np.where((low < 0) & (high > 0), -low * high, 0.0)
        order = np.argsort(-score)[: np.count_nonzero(score)]
        groups: list[tuple[int, ...]] = []
        for start in range(0, len(order), question.chunk):
            chunk = [int(i) for i in order[start : start + question.chunk]]
            size = min(question.k, len(chunk))
            groups += itertools.combinations(chunk, size)
        return groups

    def _octahedron(
        self, weight: Any, bias: Any, group: Any, box: Interval, limit: float
    ) -> np.ndarray:
        low, high = (side[list(group)] for side in box)
        rows, shift = weight[list(group)], bias[list(group)]
        bounds = []
        for d in hull.octahedron(len(group)):
            most = np.where(d > 0, high, np.where(d < 0, -low, 0)).sum()
            if np.count_nonzero(d) > 1:
                most = min(most, d @ shift - self._least(-d @ rows, limit))
            bounds.append(most)
        return np.array(bounds)

    def _least(self, cost: np.ndarray, limit: float) -> float:
        # What HiGHS may be wrong by must not cut off values of the network.
        return self.minimise(cost, False, limit)[0] - 1e-7


@functools.cache
def _facet_maker(k: int) -> Callable:
    def facets_and_limits(bounds: Any) -> Any:
        # Single neurons come with the pairs, but not with the turned facets of three.
        if k < hull.MOST:
            normals = hull.all_facets(bounds, k)
            a, b = normals[:, :k], normals[:, k:]
        else:
            a, b, _ = hull.hull_directions(bounds, k, 96)
            # Of one neuron: y >= x, y >= 0 and the chord.
            own = np.eye(k)
            axes = bounds[hull.axes(k)]  # -l and u
            slope = axes[:, 1] / axes.sum(axis=1)
            a = jnp.concatenate([a, own, 0 * own, -slope[:, None] * own])
            b = jnp.concatenate([b, -own, -own, own])
        limits = jax.vmap(hull.safe_limit, (0, 0, None))(a, b, bounds)
        return a, b, limits

    return jax.jit(facets_and_limits)


def facets(bounds: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (a, b, c) of a . x + b . relu(x) <= c, all facets for k <= 2."""
    with jax.enable_x64(True):
        a, b, c = (np.asarray(v) for v in _facet_maker(k)(bounds))
    used = np.any(a != 0, axis=1) | np.any(b != 0, axis=1)
    return a[used], b[used], c[used]


def _krelu(question: Question) -> np.ndarray:
    encoding = HullEncoding(question.lo, question.hi)
    for weight, bias in question.network.layers[:-1]:
        encoding.append_hulls(weight, bias, question)
    return _by_programme(encoding, question, False)


METHODS: dict[str, Callable[[Question], np.ndarray]] = {
    "box": _box,
    "zonotope": _zonotope,
    "crown": _crown,
    "triangle": _triangle,
    "krelu": _krelu,
    "exact": _exact,
}
"""By name, from the loosest to the exact one (zonotope and crown do not compare)."""


def least(method: str, question: Question) -> np.ndarray:
    """Returns lower bounds of the rows by a method, one of `METHODS`."""
    return METHODS[method](question)
