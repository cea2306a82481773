"""Zonotopes: affine forms of few features, with a number for each neuron relaxed.

Over a box with centre m and radii r every value is enclosed as

    v(m + r eps) in  centre + G eps + H eta + [-error, error],   eps, eta in [-1, 1]

An activation lies in a strip between two parallel lines, and each neuron that loses by
that has a number eta of its own for the strip's width: what depends on the neuron in
several places, and cancels behind, is known to. Generators, the rows of G and H, go
through affine maps as points do. That is one evaluation of the network for every
undecided neuron and all layers behind it, where back-substitution takes two for every
undecided neuron of every layer; and on small boxes of few features a network of many
layers has few of them, if their ranges follow from one another.

What is computed rounds, and every node is charged where it is done. With M what a value
reaches where nothing cancels (|centre|, all |generators| and the error), a node that
computes A v + b adds u (|A| M + |b|) to the error: u is four times 2^-53 times its own
roundings and those of a sum over generators, half for the node itself and half for
whoever reads the value. What is flushed below 2^-1022, weights and products, is charged
by the greatest M. Bounds hold as they are: there is no slack to be exceeded.

The stack of generators has a fixed capacity, and is walked in blocks of rows, as many
as there are; what a block becomes is written over it. Neurons beyond the capacity have
their strip in the error; where that are many, or will be, bounds would say nothing, and
the rest is skipped.

Source: Singh et al., "Fast and effective robustness certification", NeurIPS 2018.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxcert.bounds.backward import without_infinity
from jaxcert.bounds.forward import RowBounds, parallel_lines, strip
from jaxcert.bounds.rounding import moves, roundings, through_affine
from jaxcert.box import Box
from jaxcert.spec import Spec
from jaxcert.trace.equations import Values
from jaxcert.trace.program import ActivationNode, AffineNode, Program, is_relu

# Programs that are bounded so: boxes in which at most so many features vary.
_FEATURES = 8
# Rows that go through an affine map together: what they take stays in the cache.
_BLOCK = 16
# Parts of the stack that the neurons of one smooth layer may take.
_SMOOTH = 8
# Halvings that look for the least loss that still has a number of its own.
_HALVINGS = 30
# Above what the operations of one node lose below 2^-1022: per unit of what they read
# (weights are lost there) and of 1 (products are).
_UNDERFLOW = 2.0**-960


def has_zonotopes(program: Program, features: int) -> bool:
    """Returns whether zonotopes are what a program is bounded by where features vary.

    Convolutions are where other bounds take longer, for their many neurons. Known are
    affine maps and activations without jumps.

    Args:
      program: the program.
      features: how many of its inputs vary.
    """
    known = (AffineNode, ActivationNode)
    plain = all(isinstance(node, known) for node in program.nodes)
    few = features <= _FEATURES
    return program.slides and plain and few and not program.jumps


def generator_bytes(program: Program) -> int:
    """Returns what one row of the generators takes, float64: one value's are kept."""
    written = _written_out(program)
    sizes = [n.size for n in program.nodes if n.output in written]
    return 8 * max(program.input_size, *sizes)


def _written_out(program: Program) -> set[int]:
    """Returns the values whose generators are written out: what activations read, the
    output, and what others read of the affine nodes that wait before these."""
    written, waiting = {program.input}, set[int]()
    for node in program.nodes:
        if isinstance(node, AffineNode):
            waiting.add(node.output)
        elif node.inputs[0] not in written:
            written |= {node.inputs[0], *(waiting & _read_elsewhere(program, waiting))}
            waiting.clear()
    return written | {program.output}


def _read_elsewhere(program: Program, inside: set[int]) -> set[int]:
    """Returns what nodes read that are not the affine ones with these outputs."""
    others = [node for node in program.nodes if node.output not in inside]
    return {program.output, *(i for node in others for i in node.inputs)}


def zonotope_rows(
    program: Program,
    values: Values,
    box: Box,
    features: Int[Array, " k"],
    spec: Spec,
    capacity: int,
) -> RowBounds:
    """Returns lower bounds of the rows of a spec, in float64, which hold as they are.

    NaN where they say nothing.

    Args:
      program, values: the program and its prepared parameter values.
      box: of the inputs.
      features: flat indices of all inputs that vary in it.
      spec: whose rows are bounded.
      capacity: of the stack of generators, rounded up to whole blocks.
    """
    forms = _Forms(program, values, box, features, capacity)
    forms.run()
    return forms.rows_of(spec)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
    """Generators of a value: `scale * buffer`, and one element more in some rows.

    Attributes:
      buffer: shape (capacity, width). The first elements of a row are those of the
        value; those behind may be what another value has left.
      scale: shape (*n).
      place, amount: flat index of that element, and what is added to it, (capacity,).
    """

    buffer: Float[Array, "rows width"]
    scale: Float[Array, "*n"]
    place: Int[Array, " rows"]
    amount: Float[Array, " rows"]

    def block(self, start: Int[Array, ""]) -> Float[Array, "block *n"]:
        """Returns the rows of a block."""

        def part(v: Array) -> Array:
            return lax.dynamic_slice_in_dim(v, start, _BLOCK)

        sizes = (_BLOCK, self.scale.size)
        flat = lax.dynamic_slice(self.buffer, (start, jnp.zeros_like(start)), sizes)
        flat = flat * self.scale.reshape(-1)
        flat = flat.at[np.arange(_BLOCK), part(self.place)].add(part(self.amount))
        return flat.reshape((_BLOCK, *self.scale.shape))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Value:
    """Centre, generators and error of a value, and the magnitude M.

    `first` are the generators of the features, (k, n), and `reach` is the sum of the
    magnitudes of all; None until they are written out.
    """

    centre: Float[Array, "*n"]
    rows: _Rows
    error: Float[Array, "*n"]
    size: Float[Array, "*n"]
    reach: Float[Array, "*n"] | None
    first: Float[Array, "k n"] | None


class _Forms:
    """The forms of all values, in the order of the program.

    Affine nodes wait in `_waiting` until an activation asks for the last of them: they
    are one loop over the rows.
    """

    def __init__(
        self,
        program: Program,
        values: Values,
        box: Box,
        features: Int[Array, " k"],
        capacity: int,
    ) -> None:
        self._program, self._values, self._box = program, values, box
        self._features, k = features, len(features)
        self._capacity = -(-max(capacity, k) // _BLOCK) * _BLOCK
        self._sizes = {program.input: program.input_size}
        self._sizes |= {node.output: node.size for node in program.nodes}
        self._width = max(self._sizes[i] for i in _written_out(program))
        self._waiting: list[AffineNode] = []
        self._count: Array = jnp.asarray(k)
        self._full: Bool[Array, ""] = jnp.zeros((), bool)
        # Share of each feature in the arguments of the neurons that have a row.
        self._shares = jnp.zeros((self._capacity, k))
        # What all neurons of a layer lose to the width of each feature.
        self._lost = jnp.zeros(k)
        flat = jnp.zeros((self._capacity, self._width), box.lo.dtype)
        radius = box.radius.reshape(-1)[features]
        flat = flat.at[jnp.arange(k), features].set(radius)
        size = box.magnitude
        error = self._unit(own=0) * size + _lost(size)
        self._of = {program.input: self._written(box.center, flat, error, box.radius)}

    def run(self) -> None:
        """Adds the forms of all nodes."""
        for node in self._program.nodes:
            if isinstance(node, AffineNode):
                self._waiting.append(node)
            elif isinstance(node, ActivationNode):
                self._of[node.output] = self._activated(node)
            else:
                raise TypeError(f"no zonotope for {type(node).__name__}")
        self._write_out(self._program.output)

    def rows_of(self, spec: Spec) -> RowBounds:
        """Returns the bounds of the rows of a spec."""
        out, k = self._of[self._program.output], len(self._features)
        c = spec.coefficients
        unit = self._unit(own=sum(c.shape))
        size = jnp.abs(c) @ out.size + jnp.abs(spec.offset)
        error = jnp.abs(c) @ out.error + unit * size + _lost(out.size)
        generators = c @ out.rows.buffer[:, : out.centre.size].T
        linear, eta = generators[:, :k], jnp.abs(generators[:, k:])
        constant = c @ out.centre + spec.offset - error - eta.sum(axis=1)
        least = constant - jnp.abs(linear).sum(axis=1)
        least = without_infinity(jnp.where(self._full, jnp.nan, least))
        lost = jnp.where(self._full, self._lost, eta @ self._shares[k:])
        radius = self._box.radius.reshape(-1)[self._features]
        empty = jnp.zeros((len(c), self._box.lo.size), c.dtype)
        pulled, gain = (
            empty.at[:, self._features]
            .set(jnp.where(radius > 0, part / radius, 0.0))
            .reshape((-1, *self._box.lo.shape))
            for part in (linear, lost)
        )
        return RowBounds(least, pulled, least, gain)

    def _unit(self, own: int) -> float:
        """Returns u of a node with so many roundings of its own."""
        return 2.0**-51 * (own + self._capacity + 8)

    def _written(
        self, centre: Array, buffer: Array, error: Array, reach: Array
    ) -> _Value:
        """Returns a value whose generators are a buffer's."""
        none = jnp.zeros(self._capacity, int), jnp.zeros(self._capacity, error.dtype)
        # Read before another value's rows take the place of these.
        first, buffer = lax.optimization_barrier(
            (buffer[: len(self._features), : centre.size], buffer)
        )
        rows = _Rows(buffer, jnp.ones_like(centre), *none)
        size = jnp.abs(centre) + reach + error
        return _Value(centre, rows, error, size, reach, first)

    def _write_out(self, value: int) -> None:
        """Brings the generators of a value to a buffer, through the nodes that wait."""
        if value in self._of and self._of[value].reach is not None:
            return
        nodes, self._waiting = self._waiting, []
        inside = {node.output for node in nodes}
        read = [i for node in nodes for i in node.inputs if i not in inside]
        ins = [*dict.fromkeys([*read, value] if value not in inside else read)]
        outside = _read_elsewhere(self._program, inside)
        outs = [value, *(i for i in inside if i in outside and i != value)]
        centre, error, size = self._points(nodes, ins)
        start = {i: self._of[i].rows for i in ins}
        # Rows take the place of those that they are made of: memory that is zeroed anew
        # takes as long as the products of matrices.
        over = len(ins) == len(outs) == 1

        def through(block: dict[int, Array]) -> dict[int, Array]:
            made = dict(block)
            for node in nodes:
                at = tuple(centre[i] for i in node.inputs)

                def moved(
                    *rows: Array, node: AffineNode = node, at: tuple = at
                ) -> Array:
                    apply = lambda *xs: node.apply(self._values, *xs)  # noqa: E731
                    return jax.jvp(apply, at, rows)[1]

                made[node.output] = jax.vmap(moved)(*(made[i] for i in node.inputs))
            return {i: made[i] for i in outs}

        def step(number: Array, made: tuple) -> tuple:
            begin = number * _BLOCK
            buffers, reach = made
            now = start
            if over:
                (i,), (buffer,) = ins, buffers.values()
                now = {i: dataclasses.replace(start[i], buffer=buffer)}
            found = through({i: rows.block(begin) for i, rows in now.items()})
            return (
                {
                    i: lax.dynamic_update_slice(
                        buffers[i], v.reshape((_BLOCK, -1)), (begin, begin * 0)
                    )
                    for i, v in found.items()
                },
                {i: reach[i] + jnp.abs(v).sum(axis=0) for i, v in found.items()},
            )

        blocks = jnp.where(self._full, 0, (self._count + _BLOCK - 1) // _BLOCK)
        if over:
            empty = {value: start[ins[0]].buffer}
        else:
            shape = self._capacity, self._width
            empty = {i: jnp.zeros(shape, centre[i].dtype) for i in outs}
        none = {i: jnp.zeros_like(centre[i]) for i in outs}
        buffers, reach = lax.fori_loop(0, blocks, step, (empty, none))
        for i in outs:
            self._of[i] = self._written(centre[i], buffers[i], error[i], reach[i])

    def _points(
        self, nodes: list[AffineNode], ins: list[int]
    ) -> tuple[dict[int, Array], dict[int, Array], dict[int, Array]]:
        """Returns centre, error and magnitude behind affine nodes."""
        centre = {i: self._of[i].centre for i in ins}
        error = {i: self._of[i].error for i in ins}
        size = {i: self._of[i].size for i in ins}
        for node in nodes:
            out = node.output
            centre[out] = node.apply(self._values, *(centre[i] for i in node.inputs))
            if moves(node):
                (i,) = node.inputs
                error[out], size[out] = (
                    node.apply(self._values, v[i]) for v in (error, size)
                )
                continue
            unit = self._unit(roundings(node, self._sizes))
            both = [jnp.stack([size[i], error[i]]) for i in node.inputs]
            size[out], error[out] = through_affine(node, self._values, both, unit)
            error[out] += _lost(*(size[i] for i in node.inputs))
        return centre, error, size

    def _activated(self, node: ActivationNode) -> _Value:
        """Between two parallel lines, whose distance is a number of its own."""
        (i,) = node.inputs
        self._write_out(i)
        z = self._of[i]
        assert z.reach is not None
        unit = self._unit(roundings(node, self._sizes))
        reach = z.reach + z.error
        box = Box(z.centre - reach, z.centre + reach)
        found = strip(parallel_lines(node, box), box)
        slope = found.slope
        moved = node.activation.carried(box.lo, box.hi, unit * z.size)
        centre = slope * z.centre + found.middle
        error = jnp.abs(slope) * z.error + found.half + moved
        size = jnp.abs(centre) + jnp.abs(slope) * z.reach + error
        error = error + unit * size + _lost(z.size)
        own, place, amount = self._new_rows(node, z, found.half, error)
        rows = _Rows(z.rows.buffer, slope, place, amount)
        error = jnp.where(own, 0, error)
        return _Value(centre, rows, error, size + unit * size, None, None)

    def _whole_by_part(self, node: ActivationNode) -> float:
        """Returns how many ReLUs there are for each of those up to a layer."""
        sizes = [n.size for n in self._program.nodes if is_relu(n)]
        until = [
            n.size
            for n in self._program.nodes
            if is_relu(n) and n.output <= node.output
        ]
        return sum(sizes) / sum(until)

    def _new_rows(
        self, node: ActivationNode, z: _Value, half: Array, error: Array
    ) -> tuple[Bool[Array, "*n"], Int[Array, " rows"], Float[Array, " rows"]]:
        """Returns which elements have a row of their own, and these rows.

        Those that lose most, as many as there is room for.
        """
        k = len(self._features)
        loses = jnp.where(half > 0, error, 0).reshape(-1)
        assert z.first is not None
        first = jnp.abs(z.first)
        total = first.sum(axis=0)
        shares = (first / jnp.where(total > 0, total, 1)).T
        most = self._capacity if is_relu(node) else self._capacity // _SMOOTH
        room = jnp.minimum(self._capacity - self._count, most)
        wanted = jnp.sum(loses > 0)
        # A number for every neuron or none: what is left out is what bounds lose.
        full = jnp.zeros((), bool)
        if is_relu(node):
            full = wanted > room
            times = self._whole_by_part(node)
            # Layers ahead are not walked where too many of their neurons are expected
            # to be undecided, by those of a quarter to a half of all ReLUs.
            if 2 <= times <= 4:
                expected = k + (self._count + wanted - k) * times
                full = full | (expected > self._capacity)
        self._lost = jnp.where(full & ~self._full, loses @ shares, self._lost)
        self._full = self._full | full

        def halved(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            fits = jnp.sum(loses > middle) <= room
            return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

        low = jnp.where(wanted <= room, 0.0, jnp.max(loses))
        _, least = lax.fori_loop(0, _HALVINGS, halved, (jnp.zeros_like(low), low))
        own = loses > jnp.where(wanted <= room, 0.0, least)
        row = jnp.where(own, self._count + jnp.cumsum(own) - 1, self._capacity)

        def at_rows(v: Array) -> Array:
            none = jnp.zeros((self._capacity, *v.shape[1:]), v.dtype)
            return none.at[row].set(v, mode="drop")

        place, amount = at_rows(jnp.arange(half.size)), at_rows(error.reshape(-1))
        self._shares = self._shares + at_rows(shares)
        self._count = self._count + jnp.sum(own)
        return own.reshape(half.shape), place, amount


def _lost(*sizes: Array) -> Float[Array, ""]:
    """Returns what a node loses to underflow that reads values of these magnitudes."""
    most = functools.reduce(jnp.maximum, (jnp.max(m, initial=0) for m in sizes))
    return _UNDERFLOW * (1 + most)
