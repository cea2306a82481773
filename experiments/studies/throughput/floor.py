"""The arithmetic floor: multiply-adds that bounds need, and the rate of a device.

What a method needs, per box: two products per layer for the intervals; and for every
row that is pulled back (the undecided neurons of a layer, twice, and the spec's) the
products with the layers below. Columns of neurons that are off are zero and not
counted; columns of neurons that are on are the same in a neuron's lower and upper row
at the first layer below, and counted once. The first product, with the layer that the
rows stand in front of, is the layer's own matrix and costs nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert.bounds.alpha import layout_of
from jaxcert.bounds.crown import Crown
from jaxcert.bounds.ibp import Ibp, node_interval
from jaxcert.box import Box
from jaxcert.spec import Spec
from jaxcert.trace.program import Program
from jaxcert.trace.tracing import program_of
from studies.throughput.case import Case
from studies.throughput.networks import Graph

_SAMPLE = 64  # boxes that the count is the mean over


def multiply_adds(case: Case) -> float | None:
    """Returns the multiply-adds that the mean box needs; None without a count."""
    if case.method not in ("ibp", "crown-ibp", "crown"):
        return None
    counts = _neurons(case)
    graph, params = case.subject.graph, case.subject.network.params
    sizes = _sizes(case)
    relus = [i for i, layer in enumerate(graph.layers, 1) if layer.kind == "relu"]
    states = dict(zip(relus, counts, strict=True))
    alive = _alive(graph, sizes, states)
    fan_in = [math.prod(pair[0].shape[1:]) if pair else 0 for pair in params]
    total = 2.0 * sum(sizes[i] * fan for i, fan in enumerate(fan_in, 1))

    def pull(value: int, both: bool) -> Any:
        """Returns the cost of one row, or of the two of a neuron, over a value."""
        cost: Any = 0.0
        depth = {value: 0}  # ReLUs on the longest way from the row
        for index in range(value, 0, -1):
            if index not in depth:
                continue
            layer = graph.layers[index - 1]
            below = depth[index] + (layer.kind == "relu")
            for source in layer.inputs:
                depth[source] = max(depth.get(source, 0), below)
            if fan_in[index - 1] and (depth[index] > 0 or not both):
                (source,) = layer.inputs
                columns = alive[index] * (2 if both else 1)
                if both and depth[index] == 1:
                    columns = columns - _on(graph, states, index)
                share = alive[source] / sizes[source]
                cost = cost + columns * fan_in[index - 1] * share
        return cost

    if case.method == "crown":
        before: set[int] = set()
        for index, layer in enumerate(graph.layers, 1):
            mixed = any(i in before for i in layer.inputs)
            if layer.kind == "relu":
                if mixed:
                    rows = states[index][0]
                    total = total + rows * pull(layer.inputs[0], both=True)
                mixed = True
            if mixed:
                before.add(index)
    if case.method != "ibp":
        total = total + (sizes[len(graph.layers)] - 1) * pull(len(graph.layers), False)
    return float(np.mean(total))


def _neurons(case: Case) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns per ReLU layer, (boxes,) each: rows to bound, undecided after, on."""
    network = case.subject.network
    program = program_of(network.apply, network.params, case.x[0])
    items = jax.tree.map(lambda v: v[:_SAMPLE], (case.box, case.spec))
    return jax.device_get(_counted(program, case.bounds(), network.params, items))


@functools.partial(jax.jit, static_argnames=("program", "method"))
def _counted(
    program: Program, method: Ibp | Crown, params: Any, items: tuple[Box, Spec]
) -> list[Any]:
    layout = layout_of(program)
    producer = {node.output: node for node in program.nodes}

    def one(item: tuple[Box, Spec]) -> Any:
        _, boxes = method.rows_and_boxes(params, *item)
        values = program.prepare(params, jnp.float32)
        found = []
        for node in layout.nodes:
            z = node.inputs[0]
            before = node_interval(producer[z], values, boxes)
            wanted = node.activation.undecided(before.lo, before.hi)
            left = node.activation.undecided(boxes[z].lo, boxes[z].hi)
            on = boxes[z].lo >= 0
            found.append(tuple(jnp.sum(mask) for mask in (wanted, left, on)))
        return found

    return jax.lax.map(one, items)


def _sizes(case: Case) -> list[int]:
    """Returns the number of elements of every value."""
    network, graph = case.subject.network, case.subject.graph

    def values(params: Any, x: Any) -> list[Any]:
        return [
            Graph(graph.layers[:i])(params[:i], x) for i in range(len(graph.layers) + 1)
        ]

    shapes = jax.eval_shape(values, network.params, case.x[0])
    return [math.prod(s.shape) for s in shapes]


def _alive(graph: Graph, sizes: list[int], states: dict[int, Any]) -> dict[int, Any]:
    """Returns per value how many of its elements have coefficients that matter."""
    alive: dict[int, Any] = {0: sizes[0], len(graph.layers): sizes[-1]}
    for index in range(len(graph.layers), 0, -1):
        layer = graph.layers[index - 1]
        if layer.kind == "relu":
            alive[index] = states[index][1] + states[index][2]
        above = alive.get(index, sizes[index])
        for source in layer.inputs:
            if source and layer.kind in ("relu", "flatten", "add"):
                alive.setdefault(source, above)
            elif source:
                alive.setdefault(source, sizes[source])
    return alive


def _on(graph: Graph, states: dict[int, Any], value: int) -> Any:
    """Returns how many neurons are on in the ReLU that takes a value, perhaps added."""
    for index, layer in enumerate(graph.layers, 1):
        if value in layer.inputs:
            if layer.kind == "relu":
                return states[index][2]
            if layer.kind == "add":
                return _on(graph, states, index)
    return 0


def product_side() -> int:
    """Returns the side of the square matrices whose product measures the device.

    An accelerator multiplies small ones faster than it is told to.
    """
    return 2048 if jax.default_backend() == "cpu" else 8192


@functools.cache
def matrix_products(tools: tuple[str, ...]) -> dict[str, Callable[[], Any]]:
    """Returns float32 matrix products to be timed, one per array library at hand."""
    side = product_side()
    a = jax.random.normal(jax.random.key(0), (side, side), jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    multiply = jax.jit(lambda a: jnp.matmul(a, a, precision=highest))
    products: dict[str, Callable[[], Any]] = {
        "jax product": lambda: multiply(a).block_until_ready()
    }
    if "torch" in tools:
        import torch

        from studies.throughput.tools import torch_device

        b = torch.randn(side, side, device=torch_device())
        products["torch product"] = lambda: (b @ b)[0, 0].item()
    return products
