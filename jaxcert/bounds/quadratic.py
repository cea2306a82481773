"""Forms of second degree: bounds that keep what products of few features cancel.

Over a box with centre m and radii r every value is enclosed as

    v(m + r eps) in  centre + g . eps + sum_{i <= j} q_ij eps_i eps_j + s . eta
                     + [-error, error],      eps in [-1, 1]^k,  eta in [-1, 1]^l

with one number eta for every element of an activation that is relaxed by lines. CROWN
bounds each product by planes, so that x'Px, or the change of such a function along a
trajectory, loses the width of every term: terms that cancel are relaxed one by one.
Here a product of two forms is exact in second degree, and the sum of all terms is one
quadratic polynomial of the features, which is bounded at the end by itself:

    q(eps)  =  eps'N eps + eps'(H - N) eps  >=  2 (N t)'eps - t'N t - sum_ij |H - N|_ij

for any t and any N that is a sum of squares, by convexity; the terms of the diagonal
count only where they are negative. A convex q loses little, any other its concave part.

What is computed rounds. Every form has in its error u times its own magnitude, with u
twice the roundings of all nodes: half for the node itself and half for the node that
reads it, in which magnitudes multiply as errors do. What the network's own functions
and weights do to a bound is `float64_slack`'s, as for all bounds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxcert.bounds.backward import concretize_lower, without_infinity
from jaxcert.bounds.forward import (
    Form,
    RowBounds,
    constant_form,
    meet_cheap,
    met,
    parallel_lines,
    through_affine,
    through_lines,
)
from jaxcert.bounds.ibp import node_interval
from jaxcert.bounds.rounding import moves, rounding_unit
from jaxcert.box import Box
from jaxcert.spec import Spec
from jaxcert.trace.activations import Relaxation
from jaxcert.trace.equations import Values
from jaxcert.trace.program import ActivationNode, AffineNode, ProductNode, Program

# Programs that are bounded so: of few features, of few numbers in any value and of few
# numbers eta, all of which every value carries. Forms of many layers are looser than
# CROWN (BUILD_NOTES.md), so that these have a product of computed values.
_FEATURES, _SIZE, _SYMBOLS = 8, 64, 64
# A pivot is at least this part of what it is to eliminate: lesser ones, or negative
# ones, would make great numbers of the rest.
_PIVOT = 0.3
# Rows that are bounded by planes that touch, at most.
_TOUCHED = 2
# Steps towards the point at which the convex part is touched.
_TOUCHES = 8
# Twice the roundings of a bound of eps'H eps for k <= 8, in units of 2^-53.
_ROUNDING = 2.0**-44
# Above whatever the operations of one node lose to underflow.
_UNDERFLOW = 2.0**-1000


def is_quadratic(program: Program) -> bool:
    """Returns whether forms of second degree are what a program is bounded by.

    Not one that jumps: what rounding does to a jump is told at the ends of a box, and
    parts of the box, for which the slack of the whole stands, have others.
    """
    products = any(isinstance(node, ProductNode) for node in program.nodes)
    little = all(node.size <= _SIZE for node in program.nodes)
    few = program.input_size <= _FEATURES and _symbols(program) <= _SYMBOLS
    return products and little and few and not program.jumps


def _symbols(program: Program) -> int:
    return sum(node.size for node in program.nodes if _has_symbols(node))


def _has_symbols(node: object) -> bool:
    """Whether elements of an activation have a number eta each: others are smooth."""
    return isinstance(node, ActivationNode) and node.activation.third is None


def quadratic_rows(
    program: Program, values: Values, box: Box, spec: Spec, around: dict[int, Box]
) -> RowBounds:
    """Returns lower bounds of the rows of a spec, in float64.

    Valid but for what `float64_slack` says of the ranges around.

    Args:
      program, values: the program and its prepared parameter values.
      box: of the inputs.
      spec: whose rows are bounded.
      around: a range of every value over the box or more, which no range exceeds.
    """
    forms = _Forms(program, values, box, around)
    forms.run()
    out, k = forms.of[program.output], forms.features
    c = spec.coefficients
    u = forms.unit + 2.0**-52 * sum(c.shape)
    generators = jnp.einsum("ry,my->rm", c, forms.padded(out, forms.rows))
    linear, eta, pairs = jnp.split(generators, [k, forms.rows - forms.pairs], axis=1)
    size = jnp.abs(c) @ _magnitude(out) + jnp.abs(spec.offset)
    error = jnp.abs(c) @ out.error + u * size + _UNDERFLOW
    constant = c @ out.centre + spec.offset - error - jnp.abs(eta).sum(axis=1)
    slope, lost = linear, _term_by_term(pairs)
    slope, lost = _touched(spec, constant, linear, pairs, lost)
    constant = constant - lost
    least = constant - jnp.abs(slope).sum(axis=1)
    by_range = concretize_lower(c, forms.boxes[program.output]) + spec.offset
    rows = without_infinity(jnp.maximum(least, by_range - u * size))
    i, j = _pairs(k)
    curved = jnp.zeros_like(linear).at[:, i].add(jnp.abs(pairs))
    curved = curved.at[:, j].add(jnp.abs(pairs))
    lost = curved + jnp.abs(eta) @ forms.shares()
    radius = box.radius.reshape(-1)
    pulled, gain = (
        jnp.where(radius > 0, part / radius, 0.0).reshape((-1, *box.lo.shape))
        for part in (slope, lost)
    )
    return RowBounds(rows, pulled, least, gain)


class _Forms:
    """The forms of all values, in the order of the program.

    Generators are those of the features, of the numbers eta, and of the pairs of
    features, in this order; a form without eta or pairs has the first of them only.
    """

    def __init__(
        self, program: Program, values: Values, box: Box, around: dict[int, Box]
    ) -> None:
        self.features = box.lo.size
        self.etas, self.pairs = _symbols(program), len(_pairs(self.features)[0])
        self.rows = self.features + self.etas + self.pairs
        self.unit = 2 * rounding_unit(program) + 2.0**-52 * self.rows
        self.boxes = {program.input: box}
        self._program, self._values, self._around = program, values, around
        self._shares: list[Array] = []
        units = jnp.eye(self.features, dtype=box.lo.dtype)
        units = units.reshape((-1, *box.lo.shape)) * box.radius
        start = Form(box.center, units, jnp.zeros_like(box.lo))
        self.of = {program.input: self._charged(start)}

    def run(self) -> None:
        """Adds the forms of all nodes."""
        for node in self._program.nodes:
            forms = [self.of[i] for i in node.inputs if i in self.of]
            known = len(forms) == len(node.inputs)
            if known and isinstance(node, AffineNode):
                rows = max(len(form.generators) for form in forms)
                forms = [self._widened(form, rows) for form in forms]
                form = through_affine(node, self._values, forms)
            elif known and isinstance(node, ProductNode):
                form = self._product(node, *forms)
            elif known and isinstance(node, ActivationNode):
                form = self._activation(node, *forms)
            else:
                found = node_interval(node, self._values, self.boxes)
                self.boxes[node.output] = found
                if found.lo.dtype != bool:
                    self.of[node.output] = self._charged(
                        constant_form(found, self.features)
                    )
                continue
            if not moves(node):
                # Fused with the next ones, XLA computes it anew for each of these.
                form = lax.optimization_barrier(self._charged(form))
            self.of[node.output] = form
            found = meet_cheap(node, self._range(form), self._values, self.boxes)
            self.boxes[node.output] = met(found, self._around[node.output])

    def shares(self) -> Array:
        """Returns, per number eta, the share of the features in its argument."""
        nothing = jnp.zeros((0, self.features))
        return jnp.concatenate([nothing, *self._shares])

    def padded(self, form: Form, rows: int) -> Array:
        """Returns the generators of a form, zeros for those that it does not have."""
        return self._padded(form.generators, rows)

    def _padded(self, g: Array, rows: int) -> Array:
        none = jnp.zeros((rows - len(g), *g.shape[1:]), g.dtype)
        return jnp.concatenate([g, none]) if len(none) else g

    def _sum(self, *parts: Array) -> Array:
        """Returns the sum of generators; those of pairs alone are the last part."""
        *others, pairs = parts
        most = self.rows - self.pairs
        first = sum(self._padded(part[:most], most) for part in others)
        for part in others:
            pairs = pairs + part[most:] if len(part) == self.rows else pairs
        return jnp.concatenate([first, pairs])

    def _widened(self, form: Form, rows: int) -> Form:
        return dataclasses.replace(form, generators=self.padded(form, rows))

    def _charged(self, form: Form) -> Form:
        error = form.error + self.unit * _magnitude(form) + _UNDERFLOW
        return dataclasses.replace(form, error=error)

    def _parts(self, form: Form) -> tuple[Array, Array, Array]:
        """Returns the generators of the features, and the sums of |g| of these and of
        all others."""
        first = form.generators[: self.features]
        others = form.generators[self.features :]
        return first, jnp.abs(first).sum(axis=0), jnp.abs(others).sum(axis=0)

    def _range(self, form: Form) -> Box:
        """Returns the range of a form; squares of eps lie in [0, 1]."""
        i, j = _pairs(self.features)
        begin = self.rows - self.pairs
        found = form.range()
        if len(form.generators) == self.rows:
            squares = form.generators[begin + np.flatnonzero(i == j)]
            found = Box(
                found.lo + jnp.maximum(squares, 0).sum(axis=0),
                found.hi + jnp.minimum(squares, 0).sum(axis=0),
            )
        return found

    def _squared(
        self, x: Array, y: Array, times: Callable[[Array, Array], Array]
    ) -> Array:
        """Returns the pairs' coefficients of a product of two linear functions."""
        i, j = _pairs(self.features)
        once, turned = jax.vmap(times)(x[i], y[j]), jax.vmap(times)(x[j], y[i])
        apart = (i != j).reshape((-1,) + (1,) * (once.ndim - 1))
        return once + jnp.where(apart, turned, 0)

    def _product(self, node: ProductNode, x: Form, y: Form) -> Form:
        """(c_x + X)(c_y + Y): the part of X Y that is no product of two features is
        bounded by magnitudes, and goes to the error."""
        times = node.apply
        left = jax.vmap(times, (0, None))(x.generators, y.centre)
        right = jax.vmap(times, (None, 0))(x.centre, y.generators)
        (x1, lx, ox), (y1, ly, oy) = self._parts(x), self._parts(y)
        pairs = self._squared(x1, y1, times)
        generators = self._sum(left, right, pairs)
        error = times(ox, ly + oy) + times(lx, oy)
        error += times(jnp.abs(x.centre) + lx + ox, y.error)
        error += times(x.error, jnp.abs(y.centre) + ly + oy + y.error)
        return Form(times(x.centre, y.centre), generators, error)

    def _activation(self, node: ActivationNode, form: Form) -> Form:
        z = self.boxes[node.inputs[0]]
        lines = parallel_lines(node, z)
        by_lines = through_lines(lines, z, form)
        # A function may round relatively to its argument, and so do lines.
        rounded = self.unit * _magnitude(form)
        moved = node.activation.carried(z.lo, z.hi, rounded)
        by_lines = dataclasses.replace(by_lines, error=by_lines.error + moved)
        if _has_symbols(node):
            return self._with_symbols(by_lines, form)
        return self._smooth(node, lines, by_lines, form, moved)

    def _with_symbols(self, form: Form, argument: Form) -> Form:
        """Returns the form with its error as numbers eta of its own."""
        count, begin = form.error.size, self.features
        begin += sum(len(part) for part in self._shares)
        first = jnp.abs(argument.generators[: self.features]).reshape((-1, count)).T
        total = first.sum(axis=1, keepdims=True)
        self._shares.append(first / jnp.where(total > 0, total, 1))
        rows = max(len(form.generators), begin + count)
        generators = self.padded(form, rows).reshape((rows, count))
        new = begin + np.arange(count)
        generators = generators.at[new, np.arange(count)].set(form.error.reshape(-1))
        shape = (rows, *form.centre.shape)
        return Form(form.centre, generators.reshape(shape), 0 * form.error)

    def _smooth(
        self,
        node: ActivationNode,
        lines: Relaxation,
        by_lines: Form,
        form: Form,
        moved: Array,
    ) -> Form:
        """g(c + d) = g(c) + g'(c) d + g''(c) d^2 / 2 + e, |e| <= max |g'''| |d|^3 / 6,
        or between lines where these are closer."""
        g, third = node.activation.value, node.activation.third
        one = jnp.ones_like(form.centre)

        def slope_at(z: Array) -> Array:
            return jax.jvp(g, (z,), (one,))[1]

        value, slope = jax.jvp(g, (form.centre,), (one,))
        bend = jax.jvp(slope_at, (form.centre,), (one,))[1] / 2
        first, linear, other = self._parts(form)
        rest = other + form.error
        error = jnp.abs(slope) * form.error + moved
        error += jnp.abs(bend) * rest * (2 * linear + rest)
        error += third * (linear + rest) ** 3 / 6  # type: ignore[operator]
        pairs = bend * self._squared(first, first, jnp.multiply)
        generators = self._sum(slope * form.generators, pairs)
        closer = error < by_lines.error
        return Form(
            jnp.where(closer, value, by_lines.centre),
            jnp.where(closer, generators, self.padded(by_lines, self.rows)),
            jnp.where(closer, error, by_lines.error),
        )


def _magnitude(form: Form) -> Array:
    """Returns what a form reaches at most where nothing cancels."""
    return jnp.abs(form.centre) + jnp.abs(form.generators).sum(axis=0) + form.error


def _pairs(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns i and j of the pairs i <= j of k features."""
    return np.triu_indices(k)


def _touched(
    spec: Spec, constant: Array, linear: Array, pairs: Array, lost: Array
) -> tuple[Array, Array]:
    """Returns slopes and losses of affine functions below `linear . eps + q(eps)`.

    Planes that touch are looked for where they may decide: for the best rows of the
    clause that holds least term by term, and for all rows that are the same as these.
    """
    least = constant - lost - jnp.abs(linear).sum(axis=1)
    clauses = spec.clauses(least)
    worst = jnp.argmin(jnp.where(jnp.isnan(clauses), jnp.inf, clauses))
    inside = jnp.where(spec.clause == worst, least, -jnp.inf)
    _, chosen = lax.top_k(inside, min(_TOUCHED, len(least)))
    slopes, losses = jax.vmap(_touching)(linear[chosen], pairs[chosen])
    rows = jnp.concatenate([spec.coefficients, spec.offset[:, None]], axis=1)
    same = jnp.all(rows[:, None] == rows[chosen], axis=2)
    first, any_same = jnp.argmax(same, axis=1), jnp.any(same, axis=1)
    slopes, losses = slopes[first], losses[first]
    better = losses + jnp.abs(slopes).sum(axis=1) < lost + jnp.abs(linear).sum(axis=1)
    better &= any_same
    return jnp.where(better[:, None], slopes, linear), jnp.where(better, losses, lost)


def _term_by_term(pairs: Float[Array, "rows p"]) -> Float[Array, " rows"]:
    """Returns by how much q may lie below 0: squares are not negative."""
    i, j = _pairs(int(math.isqrt(2 * pairs.shape[1])))
    lost = jnp.where(i == j, jnp.maximum(-pairs, 0), jnp.abs(pairs)).sum(axis=1)
    return lost + _ROUNDING * jnp.abs(pairs).sum(axis=1)


def _touching(
    linear: Float[Array, " k"], pairs: Float[Array, " p"]
) -> tuple[Float[Array, " k"], Float[Array, ""]]:
    """Returns a plane that touches the convex part of `linear . eps + q(eps)`.

    It is `slope . eps - lost`, below that function on [-1, 1]^k; the best of those that
    touch at a few points.
    """
    k = linear.shape[0]
    i, j = _pairs(k)
    size = jnp.abs(pairs).sum()
    half = jnp.zeros((k, k), linear.dtype).at[i, j].set(pairs / 2)
    whole = half + half.T
    squares, most = _sum_of_squares(whole)
    rest = whole - squares
    rounding = _ROUNDING * (size + most)
    diagonal = jnp.diagonal(rest)
    outside = jnp.abs(rest).sum() - jnp.abs(diagonal).sum()
    apart = outside + jnp.maximum(-diagonal, 0).sum() + rounding
    apart += _ROUNDING * jnp.abs(linear).sum()
    steep = 2 * jnp.abs(squares).sum(axis=1)
    steep = jnp.where(steep > 0, steep, 1)
    point = jnp.zeros_like(linear)
    slope, lost = linear, apart
    for _ in range(_TOUCHES):
        at = linear + 2 * (squares @ point)
        point = jnp.clip(point - at / steep, -1, 1)
        bend = squares @ point
        found, below = linear + 2 * bend, point @ bend + apart
        better = below + jnp.abs(found).sum() < lost + jnp.abs(slope).sum()
        slope = jnp.where(better, found, slope)
        lost = jnp.where(better, below, lost)
    return slope, lost


def _sum_of_squares(
    matrix: Float[Array, "k k"],
) -> tuple[Float[Array, "k k"], Float[Array, ""]]:
    """Returns a matrix that is a sum of squares, near a symmetric one, and the sum of
    the magnitudes of its terms.

    Elimination by rows l with pivots p > 0: the sum of l l' / p. A pivot that would be
    negative, or far below its row, is raised; what that adds is a difference of the
    two matrices, on the diagonal.
    """
    k = len(matrix)
    tiny = 2.0**-60 * jnp.max(jnp.abs(matrix)) + 2.0**-400
    total, most, left = jnp.zeros_like(matrix), jnp.zeros((), matrix.dtype), matrix
    for a in range(k):
        later = np.arange(k) > a
        row = jnp.where(later, left[a], 0)
        pivot = jnp.maximum(left[a, a], _PIVOT * jnp.max(jnp.abs(row)))
        pivot = jnp.maximum(pivot, tiny)
        row = row.at[a].set(pivot)
        square = row[:, None] * row / pivot
        total, left, most = total + square, left - square, most + jnp.abs(square).sum()
    return total, most
