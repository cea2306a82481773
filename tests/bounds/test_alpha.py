"""Weak duality, point by point: no multipliers make a bound exceed what it bounds."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import exact32, sampled

import jaxcert as jc
from jaxcert.bounds.alpha import (
    Multipliers,
    Problem,
    layout_of,
    subproblem_bound,
)
from jaxcert.bounds.crown import CrownOptions, bound_layers
from jaxcert.bounds.rounding import float64_slack
from jaxcert.bounds.tighten import TightenOptions, tighten_layers
from jaxcert.trace.program import ActivationNode, AffineNode
from jaxcert.trace.tracing import program_of

BOXES, TRIALS, POINTS, ROWS = 6, 40, 400, 3
# Every case is compiled once and run once: compile quickly rather than well.


def plain(params, x):
    for w, b in params[:-1]:
        x = jax.nn.relu(w @ x + b)
    w, b = params[-1]
    return w @ x + b


def residual(params, x):
    (w1, b1), (w2, b2), (w3, b3) = params
    x = jax.nn.relu(w1 @ x + b1)
    x = x + jax.nn.relu(w2 @ x + b2)
    return w3 @ x + b3


def pooled(params, x):
    (w1, b1), (w2, b2), (w3, b3) = params
    x = w1 @ x + b1
    x = jnp.abs(w2 @ jnp.maximum(x, x[::-1]) + b2)
    return w3 @ jnp.repeat(jnp.max(x.reshape(3, 2), axis=1), 2) + b3


CASES = {
    "one layer": (plain, (3, 6, 3)),
    "three layers": (plain, (3, 6, 6, 6, 3)),
    "residual": (residual, (3, 6, 6, 3)),
    "pooling": (pooled, (3, 6, 6, 3)),
}


def network(sizes, rng):
    return [
        (exact32(rng.normal(size=(n, m))), exact32(rng.normal(size=n) * 0.5))
        for m, n in zip(sizes, sizes[1:], strict=False)
    ]


def signs_at(layout, values, x):
    """Returns the inputs of all ReLUs at x, flat, and the outputs."""
    local, inputs = {**values, layout.program.input: x}, {}
    for node in layout.program.nodes:
        operands = [local[i] for i in node.inputs]
        if isinstance(node, ActivationNode):
            inputs[node.output] = operands[0]
            local[node.output] = node.activation.value(*operands)
        else:
            assert isinstance(node, AffineNode)
            local[node.output] = node.apply(local, *operands)
    return layout.join(inputs), local[layout.program.output]


@functools.cache
def results(name: str) -> dict[str, np.ndarray]:
    """Bounds of random subproblems with random multipliers, and sampled points."""
    f, sizes = CASES[name]
    rng = np.random.default_rng(len(name))
    nets = [network(sizes, rng) for _ in range(BOXES)]
    params = jax.tree.map(lambda *v: np.stack(v), *nets)
    center, radius = rng.uniform(-1, 1, (BOXES, 3)), 10.0 ** rng.uniform(-3, 0.5, BOXES)
    lo, hi = center - radius[:, None], center + radius[:, None]
    points = lo[:, None] + (hi - lo)[:, None] * rng.random((BOXES, POINTS, 3))
    points[:, : POINTS // 4] = np.where(
        rng.random((BOXES, POINTS // 4, 3)) < 0.5, lo[:, None], hi[:, None]
    )
    points = np.clip(points, lo[:, None], hi[:, None])
    program = program_of(f, nets[0], np.zeros(3))
    layout = layout_of(program)
    count = layout.size
    # Signs are those of a sampled point, on a random subset of the neurons.
    pick = rng.integers(0, POINTS, (BOXES, TRIALS))
    keep = rng.random((BOXES, TRIALS, count)) < rng.random((BOXES, TRIALS, 1)) ** 2
    scale = 10.0 ** rng.uniform(-2, 2, (BOXES, TRIALS, 1))
    draw = Multipliers(
        slope=rng.uniform(-0.5, 1.5, (BOXES, TRIALS, count)),
        split=rng.normal(size=(BOXES, TRIALS, count)) * scale,
        row=rng.normal(size=(BOXES, TRIALS, ROWS)) * 3,
    )
    rows = rng.normal(size=(BOXES, TRIALS, ROWS, 3))
    offset = rng.normal(size=(BOXES, TRIALS, ROWS))

    def one(params, lo, hi, points, pick, keep, draw, rows, offset):
        box = jc.Box(lo, hi)
        values = program.prepare(params, jnp.float64)
        values32 = program.prepare(params, jnp.float32)
        layers = bound_layers(program, values, box, CrownOptions())
        given = {i: layers.boxes[i] for i in layout.needed()}
        options = TightenOptions(iterations=6, bucket=4)
        tight = tighten_layers(layout, values32, values, box, given, options)
        z, y = jax.vmap(functools.partial(signs_at, layout, values))(points)
        signs = jnp.where(keep, jnp.where(z[pick] >= 0, 1, -1), 0).astype(jnp.int8)

        def bound(ranges, signs, m, rows, offset):
            problem = Problem(box, ranges, rows, offset)
            return subproblem_bound(layout, values, problem, signs, m)[0]

        many = jax.vmap(bound, (None, 0, 0, 0, 0))
        clipped = Multipliers(
            jnp.clip(draw.slope, 0, 1), jnp.maximum(draw.split, 0), draw.row
        )
        poisoned = Multipliers(draw.slope * jnp.nan, draw.split, draw.row)
        slack = jax.vmap(lambda r: float64_slack(program, values, layers.boxes, r))
        return {
            "z": z,
            "clause": jnp.max(
                jnp.einsum("tro,po->tpr", rows, y) + offset[:, None], axis=-1
            ),
            "signs": signs,
            "crown": many(given, signs, draw, rows, offset),
            "tight": many(tight, signs, draw, rows, offset),
            "clipped": many(tight, signs, clipped, rows, offset),
            "poisoned": many(tight, signs, poisoned, rows, offset),
            "slack": slack(rows),
            "z_slack": layout.join(
                {n.output: 1e-12 * (1 + jnp.abs(given[n.inputs[0]].hi)
                 + jnp.abs(given[n.inputs[0]].lo)) for n in layout.nodes}
            ),
            "given": [layout.join({n.output: getattr(given[n.inputs[0]], side)
                      for n in layout.nodes}) for side in ("lo", "hi")],
            "tightened": [layout.join({n.output: getattr(tight[n.inputs[0]], side)
                          for n in layout.nodes}) for side in ("lo", "hi")],
        }  # fmt: skip

    with jax.enable_x64(True):
        compute = jax.jit(jax.vmap(one))
        return jax.device_get(
            compute(params, lo, hi, points, pick, keep, draw, rows, offset)
        )


each = pytest.mark.parametrize("name", sampled(CASES, 2))


@each
def test_no_multipliers_lift_a_bound_above_a_point_with_its_signs(name: str):
    found = results(name)
    signs, z = found["signs"][:, :, None], found["z"][:, None]
    matches = ((signs == 0) | (signs * z >= 0)).all(axis=-1)
    assert (matches.sum(axis=-1) >= 1).all()
    least = np.where(matches, found["clause"], np.inf).min(axis=-1)
    for kind in ("crown", "tight"):
        assert np.isfinite(found[kind]).all()
        assert (found[kind] <= least + found["slack"]).all()


@each
def test_slopes_and_betas_out_of_range_are_clipped(name: str):
    found = results(name)
    np.testing.assert_array_equal(found["clipped"], found["tight"])


@each
def test_a_multiplier_that_is_not_a_number_proves_nothing(name: str):
    # A slope counts only where its neuron is unstable and its coefficient positive.
    found = results(name)
    poisoned = found["poisoned"]
    assert np.isnan(poisoned).any()
    assert (np.isnan(poisoned) | (poisoned == found["tight"])).all()


@each
def test_tightened_ranges_hold_every_point_and_never_widen(name: str):
    found = results(name)
    (lo, hi), (low, high) = found["given"], found["tightened"]
    assert (low >= lo).all() and (high <= hi).all()
    allowed = found["z_slack"][:, None]
    assert (found["z"] >= low[:, None] - allowed).all()
    assert (found["z"] <= high[:, None] + allowed).all()
    if name != "one layer":
        assert (low > lo).any() or (high < hi).any()
