"""What jaxcert does with a case, through the parts that its oracles are made of."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert.bounds.alpha import (
    Multipliers,
    Problem,
    default_slopes,
    layout_of,
    subproblem_bound,
)
from jaxcert.bounds.ascent import AscentOptions, ascend
from jaxcert.bounds.crown import CrownOptions, bound_layers
from jaxcert.bounds.tighten import TightenOptions, tighten_layers
from jaxcert.box import Box
from jaxcert.branch.brackets import close_brackets
from jaxcert.branch.instances import ApothemTask
from jaxcert.branch.signs import BranchOptions
from jaxcert.certifier import float64
from jaxcert.memory import room_for
from jaxcert.model import Model
from jaxcert.spec import Spec
from studies.throughput.case import Case, Run


def jaxcert(case: Case) -> Run:
    """Returns what the library does: CROWN and IBP on all local devices at once.

    Each takes a part of the batch, as batches are spread in `jaxcert.devices`.
    """
    if case.method == "complete":
        return _complete(case)
    network, box, spec = case.subject.network, case.box, case.spec
    if case.method == "alpha-crown":
        return _alpha_crown(case)
    bounds = case.bounds()
    devices = jax.local_devices()[: len(case.x)]
    batch = -(-len(case.x) // len(devices))
    # Only back-substitution of inner layers wants its rows to stay in the cache.
    chunk = min(_together(case), batch) if case.method == "crown" else batch

    def one(item: tuple[Box, Spec], params: Any) -> jax.Array:
        return bounds.lower_rows(params, *item)

    @jax.jit
    def many(params: Any, box: Box, spec: Spec) -> jax.Array:
        if chunk == batch:
            return jax.vmap(one, (0, None))((box, spec), params)
        return jax.lax.map(
            lambda item: one(item, params), (box, spec), batch_size=chunk
        )

    parts = np.array_split(np.arange(len(case.x)), len(devices))
    placed = []
    for device, part in zip(devices, parts, strict=True):
        own = jax.tree.map(lambda v, p=part: np.asarray(v)[p], (box, spec))
        placed.append(jax.device_put((network.params, *own), device))

    def run() -> np.ndarray:
        # All are dispatched before one is waited for.
        answers = [many(*arguments) for arguments in placed]
        return np.concatenate([np.asarray(answer) for answer in answers])

    return run


def _together(case: Case) -> int:
    """Returns how many boxes go through the layers at once."""
    if case.chunk:
        return case.chunk
    layout = layout_of(case.subject.network.model.program)
    rows = 2 * max((node.size for node in layout.nodes), default=1)
    widest = max(
        layout.program.input_size, *(node.size for node in layout.program.nodes)
    )
    # The rows at a value, at the one below, and what is computed between the two.
    return room_for(3 * 4 * rows * widest, 1, len(case.x))


def _alpha_crown(case: Case) -> Run:
    """Slopes of every undecided neuron and row, optimised in float32.

    As at the root of branch and bound: the bounds themselves are evaluated in float64.
    """
    network, spec = case.subject.network, case.spec
    program = network.model.program
    layout = layout_of(program)
    ascent = AscentOptions(iterations=case.iterations)
    tighten = TightenOptions(iterations=case.iterations)
    signs = jnp.zeros(layout.size, jnp.int8)

    def one(item: tuple[Box, Spec], model: Model) -> jax.Array:
        box, spec = item
        values32, values64 = model.values(jnp.float32), model.values(jnp.float64)
        layers = bound_layers(program, values64, box, CrownOptions())
        ranges = {i: layers.boxes[i] for i in layout.needed()}
        ranges = tighten_layers(layout, values32, values64, box, ranges, tighten)
        slopes = default_slopes(layout, ranges)

        def row(coefficients: jax.Array, offset: jax.Array) -> jax.Array:
            problem = Problem(box, ranges, coefficients[None], offset[None])
            start = Multipliers(
                slopes, jnp.zeros_like(slopes), jnp.zeros(1, jnp.float32)
            )
            single = problem.cast(jnp.float32)
            best = ascend(layout, values32, single, signs, start, ascent)
            best = jax.tree.map(lambda v: v.astype(jnp.float64), best)
            return subproblem_bound(layout, values64, problem, signs, best)[0]

        return jax.vmap(row)(spec.coefficients, spec.offset)

    @jax.jit
    def many(model: Model, box: Box, spec: Spec) -> jax.Array:
        chunk = min(_together(case), len(case.x))
        return jax.lax.map(lambda item: one(item, model), (box, spec), batch_size=chunk)

    box64, spec64 = jax.tree.map(double, (case.box, spec))

    @float64()
    def run() -> np.ndarray:
        return np.asarray(many(network.model, box64, spec64))

    return run


def double(array: Any) -> np.ndarray:
    """Returns an array in numpy, floats in float64."""
    floats = np.issubdtype(np.asarray(array).dtype, np.floating)
    return np.asarray(array, np.float64 if floats else None)


def _complete(case: Case) -> Run:
    """Branch and bound on the boxes of the whole batch at once."""
    network = case.subject.network
    task = ApothemTask.of_boxes(*jax.tree.map(double, (case.box, case.spec)))

    def run() -> np.ndarray:
        deadline = time.monotonic() + case.seconds
        answer = close_brackets(network.model, task, BranchOptions(), deadline)
        refuted = np.isfinite(answer.upper)
        return np.where(refuted, -1, np.where(answer.improved, 1, 0))

    return run
