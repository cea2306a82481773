"""What is left of a network over one box: its undecided neurons.

A ReLU whose sign the box decides is the identity or 0 there. So over the box the
network is affine maps from the input and from the undecided neurons before: a network
of its own, which is smaller, and on which bounds, branching and everything else work
as on any other. Products cost as much as there are undecided neurons, not as there are
neurons.

Its weights are sums over paths of the network, as the coefficients of a backward pass
are: what rounding does to them is within the slack of the network (`rounding.py`), to
which the slack of the smaller one is added.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxcert.bounds.alpha import Layout, Ranges, layout_of
from jaxcert.bounds.ibp import propagate
from jaxcert.bounds.rounding import float64_slack, multiplier_cost
from jaxcert.box import Box
from jaxcert.devices import jit_in_haste, no_convolution
from jaxcert.model import Model
from jaxcert.trace.program import AffineNode, Node, is_relu


class Map(NamedTuple):
    """One affine map of a reduced network, z = A x + sum_m A_m relu(z_m) + b.

    Attributes:
      offset: b, (n,).
      input: A, (n, d), over flat inputs.
      hidden: A_m of every ReLU layer before, (n, n_m).
    """

    offset: np.ndarray
    input: np.ndarray
    hidden: tuple[np.ndarray, ...]

    def rows(self, index: Int[np.ndarray, " m"], side: Float[np.ndarray, " m"]) -> Map:
        """Returns some rows of it times their sides."""

        def pick(v: np.ndarray) -> np.ndarray:
            return v[index] * side.reshape((-1,) + (1,) * (v.ndim - 1))

        return Map(pick(self.offset), pick(self.input), tuple(map(pick, self.hidden)))

    def combined(
        self, rows: Float[np.ndarray, "m n"], offset: Float[np.ndarray, " m"]
    ) -> Map:
        """Returns rows of it: z of this map becomes rows z + offset."""
        hidden = tuple(rows @ matrix for matrix in self.hidden)
        return Map(rows @ self.offset + offset, rows @ self.input, hidden)


def network(maps: tuple[Map, ...], x: Float[Array, "*d"]) -> Float[Array, " outputs"]:
    """Returns the output of a reduced network: ReLUs are behind all maps but one."""
    flat = x.reshape(-1)
    hidden: list[Array] = []
    for one in maps[:-1]:
        hidden.append(jnp.maximum(_applied(one, flat, hidden), 0))
    return _applied(maps[-1], flat, hidden)


def _applied(one: Map, flat: Array, hidden: list[Array]) -> Array:
    z = one.input @ flat + one.offset
    for matrix, h in zip(one.hidden, hidden, strict=True):
        z = z + matrix @ h
    return z


@dataclasses.dataclass(frozen=True, eq=False)
class Reduced:
    """A network over a box.

    Attributes:
      model: of `network`; its weights are the maps.
      maps: float64, numpy.
      ranges: of the inputs of every ReLU layer, from those of the network.
      slack: what a bound must exceed, that of the network included, ().
      cost: by how much more per unit of each neuron's beta, likewise, (N,).
      neurons: which of the inputs of all ReLUs they are, in the network that it was
        made of; -1 for padding, (N,).
    """

    model: Model
    maps: tuple[Map, ...]
    ranges: tuple[Box, ...]
    slack: Float[Array, ""]
    cost: Float[np.ndarray, " N"]
    neurons: Int[np.ndarray, " N"]

    def with_range(self, number: int, lo: np.ndarray, hi: np.ndarray) -> Reduced:
        """Returns it with the range of one layer set anew."""
        box: Any = Box(lo, hi)  # type: ignore[arg-type]
        ranges = (*self.ranges[:number], box, *self.ranges[number + 1 :])
        return dataclasses.replace(self, ranges=ranges)

    def up_to(self, depth: int) -> Model:
        """Returns the network's first ReLU layers, and one output that is 0.

        All networks whose first layers have these sizes share its programs.
        """
        nothing = self.maps[depth].rows(np.zeros(1, int), np.zeros(1))
        maps = (*self.maps[:depth], nothing)
        return Model(network, maps, self.model.input_shape)

    def named(self, layout: Layout) -> Ranges:
        """Returns the ranges by value id of the program, or of its first layers."""
        values = [node.inputs[0] for node in layout.nodes]
        return dict(zip(values, self.ranges[: len(values)], strict=True))


def reduced(
    layout: Layout,
    model: Model,
    box: Box,
    ranges: Ranges,
    rows: Float[Array, "rows outputs"],
    charges: tuple[Float[Array, ""], Float[Array, " N"]],
) -> Reduced:
    """Returns what is left of a network over a box, all in float64.

    Args:
      layout: the ReLUs of the program, which is piecewise linear.
      model: the network.
      box: of one input.
      ranges: of the inputs of ReLUs over it.
      rows: coefficients of the spec.
      charges: slack and cost of the network, as those of `Reduced`.

    Raises:
      OverflowError: a map is too large for float64.
    """
    slack, cost = charges
    lo, hi, free = (np.asarray(v) for v in _ends(layout, ranges))
    ends = np.cumsum([node.size for node in layout.nodes])
    layers = [np.flatnonzero(part) for part in np.split(free, ends[:-1])]
    layers = [own + start for own, start in zip(layers, [0, *ends], strict=False)]
    # A network without any has padding alone.
    layers = [own for own in layers if own.size] or [np.zeros(0, int)]
    places = [np.resize(own, _padded(own.size)) for own in layers]
    index = np.concatenate(places).astype(np.int32)
    found = jax.device_get(_maps(layout, model, box, ranges, index))
    counts = [own.size for own in layers]
    if not all(np.isfinite(part).all() for part in found):
        raise OverflowError("a map of the reduced network is not finite")
    counted = zip(counts, places, strict=True)
    live = np.concatenate([np.arange(len(p)) < n for n, p in counted])
    maps = tuple(_by_layer(found, live, places))
    # Padding is -1 everywhere.
    faces = (np.where(live, v[index], -1.0) for v in (lo, hi))
    parts = np.cumsum([len(p) for p in places])[:-1]
    split = (np.split(face, parts) for face in faces)
    boxes = (Box(*ends) for ends in zip(*split, strict=True))
    small = Model(network, maps, model.input_shape)
    more, each = _charges(layout_of(small.program), small, box, rows)
    own = np.where(live, np.asarray(cost)[index], 0.0) + np.asarray(each)
    neurons = np.where(live, index, -1)
    return Reduced(small, maps, tuple(boxes), slack + more, own, neurons)


def _padded(count: int) -> int:
    """Returns a size of layer that few programs are compiled for."""
    return max(32, 1 << (count - 1).bit_length())


@functools.partial(jax.jit, static_argnames=("layout",))
def _ends(layout: Layout, ranges: Ranges) -> tuple[Array, Array, Array]:
    """Returns both ends of the inputs of all ReLUs, and which are undecided."""
    boxes = {node.output: ranges[node.inputs[0]] for node in layout.nodes}
    free = {
        n.output: n.activation.undecided(boxes[n.output].lo, boxes[n.output].hi)
        for n in layout.nodes
    }
    lo, hi = ({i: getattr(b, end) for i, b in boxes.items()} for end in ("lo", "hi"))
    return layout.join(lo), layout.join(hi), layout.join(free)


@functools.partial(jit_in_haste, static_argnames=("layout",), when=no_convolution)
def _maps(
    layout: Layout, model: Model, box: Box, ranges: Ranges, index: Int[Array, " U"]
) -> tuple[Array, Array, Array]:
    """Returns the maps of these neurons and, below them, of the outputs.

    Offsets (U + K,), coefficients of the flat input (U + K, d) and of the outputs of
    these neurons (U + K, U).
    """
    program, values = layout.program, model.values(jnp.float64)

    def at(flat: Array, chosen: Array) -> Array:
        outputs = layout.parts(jnp.zeros(layout.size).at[index].add(chosen))
        inputs = {}

        def seen(node: Node, value: Array, operands: list[Array]) -> Array:
            if isinstance(node, AffineNode):
                return value
            if not is_relu(node):
                raise TypeError(f"{node.name} is neither affine nor a ReLU")
            inputs[node.output] = operands[0]
            known = ranges[node.inputs[0]]
            free = node.activation.undecided(known.lo, known.hi)
            decided = jnp.where(known.lo >= 0, operands[0], 0.0)
            return jnp.where(free, outputs[node.output], decided)

        x = flat.reshape(program.input_shape)
        y = program.evaluate_prepared(values, x, seen)
        return jnp.concatenate([layout.join(inputs)[index], y])

    origin = jnp.zeros(program.input_size), jnp.zeros(index.size)
    return at(*origin), *jax.jacrev(at, argnums=(0, 1))(*origin)


def _by_layer(
    maps: tuple[np.ndarray, np.ndarray, np.ndarray],
    live: Bool[np.ndarray, " N"],
    places: list[np.ndarray],
) -> Iterator[Map]:
    """Gives the map of every layer, where padding is -1 and reaches nothing."""
    offset, at_input, at_hidden = (np.array(v) for v in maps)
    dead = np.flatnonzero(~live)
    offset[dead], at_input[dead], at_hidden[dead] = -1.0, 0.0, 0.0
    at_hidden[:, dead] = 0.0
    ends = np.cumsum([0, *(len(p) for p in places)])
    rows = [*zip(ends[:-1], ends[1:], strict=True), (ends[-1], len(offset))]
    for number, (first, last) in enumerate(rows):
        before = [at_hidden[first:last, a:b] for a, b in rows[:number]]
        yield Map(offset[first:last], at_input[first:last], tuple(before))


@functools.partial(jit_in_haste, static_argnames=("layout",))
def _charges(
    layout: Layout, model: Model, box: Box, rows: Float[Array, "rows outputs"]
) -> tuple[Float[Array, ""], Float[Array, " N"]]:
    """Returns slack and cost of a network by itself."""
    values = model.values(jnp.float64)
    boxes = propagate(layout.program, values, box)
    slack = float64_slack(layout.program, values, boxes, rows)
    return slack, layout.join(multiplier_cost(layout.program, values, boxes))
