"""Cuts: inequalities on several neurons, which a leaf may use.

A cut is an inequality p . x + q . max(x, 0) <= c on the inputs x of K = 2 or 3 neurons
of one ReLU layer that holds everywhere in the box. A file names the neurons, p, q, and
multipliers >= 0 for every leaf. What the inequalities rest on is not believed but
derived: first upper bounds U of sums of x with coefficients D, then the least c that
they imply. A wrong number gives a weak bound here too, never a false one.

A proof (`proof.py`) may have, in any box, for any ReLU <k> of n neurons with M neurons
in the ReLUs before it, G groups of K neurons with F cuts each:
  cut_neurons_<box>_<k> int32 (G, K), different ones; cut_inputs_<box>_<k> and
  cut_outputs_<box>_<k> float64 (G, F, K), p and q; cut_scales_<box>_<k> float64 (G, K),
  > 0: D has a row d * scales for each of the m = 3^K - 1 - 2 K vectors d of
  {-1, 0, 1}^K with two or more entries that are not 0, in lexicographic order;
  cut_slopes_<box>_<k> uint8 (G, m, M), 128ths, of the lower lines behind U;
  leaf_cuts_<box>_<k> float32 (H + L, G, F), multipliers mu.

The proof. U = -(lower bounds of -D x) over the box. In the orthant with signs s the
left side is linear, p . x + q . max(x, 0) = g . x, and for any w >= 0

    g . x  =  w . (D x) + (g - w D) . x  <=  w . U + max (g - w D) . x,

the maximum over the ranges of x in the orthant (`limits`); c is the greatest of these.
As no bracket p . x + q . max(x, 0) - c is positive, a leaf's function is at least
itself plus mu times the brackets (`through`).
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import functools
import itertools
from types import SimpleNamespace

import numpy as np

from .arithmetic import Arithmetic
from .bounds import Bounds
from .network import Network
from .reading import need, take

_ARRAYS = tuple(
    f"cut_{name}" for name in ("neurons", "inputs", "outputs", "scales", "slopes")
) + ("leaf_cuts",)
_LARGEST = 2.0**60  # of a coefficient
_SCALES = 2.0**-200, 2.0**200
_NUMBERS, _COUNT = 2**25, 2**10  # at most, in a matrix of a layer; cuts of a group


def layers(arrays, b: Arithmetic, net: Network, box: int, leaves: int):
    """Returns the cuts of a box as they stand in the file, by number of the ReLU.

    Every array has its type, shape and range; `names` are those of a layer.
    """
    return {
        node.relu: _layer(arrays, b, node, f"{box}_{node.relu}", leaves)
        for node in net.relus
        if f"cut_neurons_{box}_{node.relu}" in arrays
    }


def _layer(a, b: Arithmetic, node, key: str, leaves: int):
    names = [f"{name}_{key}" for name in _ARRAYS]
    neurons, given = a[names[0]], a.get(names[1], np.zeros(0))
    good = neurons.ndim == 2 and neurons.shape[1] in (2, 3)
    need(good, f"array {names[0]!r} has shape {neurons.shape}")
    need(given.ndim == 3, f"array {names[1]!r} has shape {given.shape}")
    (groups, k), count, n = neurons.shape, given.shape[1], node.size
    sums = groups * len(directions(k))
    most = _NUMBERS >> 3 if b.exact else _NUMBERS
    good = max(sums, groups * count) * n <= most and count <= _COUNT
    need(good, f"there are too many cuts: {groups} x {count} of {n} neurons")
    shapes = {
        "neurons": ("i4", (groups, k)), "p": ("f8", (groups, count, k)),
        "q": ("f8", (groups, count, k)), "scales": ("f8", (groups, k)),
        "slopes": ("u1", (groups, len(directions(k)), node.part.start)),
        "multipliers": ("f4", (leaves, groups, count)),
    }  # fmt: skip
    made = SimpleNamespace(node=node, names=names, limits=None)
    for name, (attribute, (kind, shape)) in zip(names, shapes.items(), strict=True):
        setattr(made, attribute, take(a, name, kind, shape))
    need((neurons >= 0) & (neurons < n), f"{names[0]} names no neuron")
    same = np.diff(np.sort(neurons, axis=1), axis=1) == 0
    need(~same, f"{names[0]} names a neuron twice")
    for name, v in zip(names[1:3], (made.p, made.q), strict=True):
        need(abs(v) <= _LARGEST, f"{name} is too large")
    usual = (_SCALES[0] <= made.scales) & (made.scales <= _SCALES[1])
    need(usual, f"{names[3]} is out of range")
    need(made.slopes <= 128, f"{names[4]} is above 128")
    need(made.multipliers >= 0, f"{names[5]} is negative")
    return made


def through_all(bounds: Bounds, of_box, leaves, some):
    """Returns what bounds the ReLUs with cuts in some of the leaves (L,)."""
    made = {}
    for k, layer in of_box.items():
        if layer.limits is None:
            derive(bounds, layer)
        multipliers = layer.multipliers[leaves[some]]
        mu = bounds.b.number(multipliers.reshape(len(multipliers), -1))
        made[k] = functools.partial(through, bounds, layer, mu)
    return made


@functools.cache
def directions(k: int) -> np.ndarray:
    """Returns the d of {-1, 0, 1}^k with two or more entries that are not 0."""
    every = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=k)))
    return every[np.count_nonzero(every, axis=1) > 1]


def derive(bounds: Bounds, layer) -> None:
    """Gives a layer `limits` (G F,), and p and q as matrices `before` and `after`."""
    b, (groups, count, k), n = bounds.b, layer.p.shape, layer.node.size
    v, d = layer.node.terms[0][0], directions(k) * layer.scales[:, None]  # exact
    ends = bounds.root.lo[v], bounds.root.hi[v]
    lo, hi = (end[0][layer.neurons] for end in ends)
    every = layer.p, layer.q, d, lo, hi, octahedra(bounds, layer, d)
    found = [
        limits(b, *map(b.number, (p, q, d)), *ends)
        for p, q, d, *ends in zip(*every, strict=True)
    ]
    layer.limits = np.concatenate([b.number(np.zeros(0)), *found])
    index = np.repeat(layer.neurons, count, axis=0)
    place = np.arange(groups * count)[:, None], index
    for name, v in (("before", layer.p), ("after", layer.q)):
        matrix = np.zeros((groups * count, n))
        matrix[place] = v.reshape(-1, k)
        setattr(layer, name, b.number(matrix))


def octahedra(bounds: Bounds, layer, d):
    """Returns upper bounds of d @ x over the box, (G, m), for d (G, m, K)."""
    b, node, (groups, m, k) = bounds.b, layer.node, d.shape
    rows = np.zeros((groups * m, node.size))
    index = np.repeat(layer.neurons, m, axis=0)
    rows[np.arange(len(rows))[:, None], index] = -d.reshape(-1, k)
    slopes = layer.slopes.reshape(len(rows), -1)
    v, found = node.terms[0][0], [b.number(np.zeros(0))]
    for some in bounds.blocks(len(rows)):
        a, line = b.number(rows[some]), b.number(slopes[some] / 128.0)
        zeros, part = b.number(np.zeros(len(a))), np.zeros(len(a), int)
        below, _ = bounds.lower_bounds(v, a, zeros, bounds.root, part, line)
        found.append(below)
    return -np.concatenate(found).reshape(groups, m)


def limits(b: Arithmetic, p, q, d, lo, hi, upper):
    """Returns c with p . x + q . max(x, 0) <= c for every row of p and q.

    x has lo <= x <= hi and d @ x <= upper. An orthant is left out if it is empty: a sum
    without an entry of the other sign is >= 0 in it.
    """
    n, size, most = len(d), np.maximum(abs(lo), abs(hi)), None
    sums = b.bound(abs(d), size)
    for signs in itertools.product((1, -1), repeat=len(lo)):
        s = np.array(signs)
        low = np.where(s > 0, np.maximum(lo, b.zero), lo)
        high = np.where(s < 0, np.minimum(hi, b.zero), hi)
        along = (d * s >= 0).all(axis=1)
        if (low > high).any() or (upper[along] < 0).any():
            continue
        g = p + np.where(s > 0, q, b.zero)
        w = b.number(weights(*(np.asarray(v, float) for v in (g, d, low, high, upper))))
        rest = g - b.dot(w, d)
        errors = b.charge(g, size), b.charge(w, sums, n), b.charge(rest, size)
        bound = b.up(b.dot(w, upper) + b.charge(w, abs(upper), n))
        bound = b.up(bound - b.least(-rest, low, high))
        for error in errors:
            bound = b.up(bound + error)
        most = bound if most is None else np.maximum(most, bound)
    need(most is not None, "the inputs of a group of neurons have no values")
    return most


def weights(g, d, low, high, upper):
    """Returns w >= 0 that make the bound of `limits` small, in plain arithmetic.

    An optimum has as many constraints that hold as there are neurons: all choices of
    sums and coordinates are tried, and the best one of each row of g is taken.
    """
    scales = abs(d).max(axis=0)
    g, low, high = g / scales, low * scales, high * scales
    rows, chosen, inverse = _bases(len(scales))
    m = len(upper)
    tried = np.maximum(np.einsum("fi,cij->fcj", g, inverse), 0) * (chosen < m)
    rest = g[:, None] - np.einsum("fcj,cji->fci", tried, rows)
    bound = (tried * np.append(upper, 0 * low)[chosen]).sum(axis=2)
    bound = bound + np.maximum(rest * low, rest * high).sum(axis=2)
    best = np.argmin(np.where(np.isnan(bound), np.inf, bound), axis=1)
    found, each = np.zeros((len(g), m + len(low))), np.arange(len(g))
    found[each[:, None], chosen[best]] = tried[each, best]
    return found[:, :m]


@functools.cache
def _bases(k: int):
    """Returns all k independent rows of sums and coordinates, and inverses."""
    every = np.concatenate([directions(k), np.eye(k)])
    chosen = np.array(list(itertools.combinations(range(len(every)), k)))
    rows = every[chosen]
    good = abs(np.linalg.det(rows)) > 0.5  # they are integers
    return rows[good], chosen[good], np.linalg.inv(rows[good])


def through(bounds: Bounds, layer, mu, a, lines, beta, size):
    """Returns a' and costs with a @ max(z, 0) >= a' @ z - their sum.

    As `through_relu` does, after mu times the brackets of the cuts was added.
    """
    b, n = bounds.b, len(layer.limits)
    a = a + b.dot(mu, layer.after)
    costs = [b.charge(a, size), b.charge(mu, b.bound(abs(layer.after), size), n)]
    a, others = bounds.through_relu(a, lines, beta, size)
    a = a + b.dot(mu, layer.before)
    costs += [b.charge(a, size), b.charge(mu, b.bound(abs(layer.before), size), n)]
    costs += [b.dot(mu, layer.limits), b.charge(mu, abs(layer.limits), n)]
    return a, costs + others
