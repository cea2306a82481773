"""Affine forms enclose: no evaluation in float64 leaves a range of any case."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_NAME, CASES, nested_boxes, points_of, sampled

from jaxcert.bounds.forward import forward_layers
from jaxcert.box import Box
from jaxcert.trace.tracing import program_of


# The forms know affine nodes, activations and ranges: a fifth has them all.
@pytest.mark.parametrize("name", sampled([case.name for case in CASES[::5]], 7))
def test_every_case_is_enclosed(name):
    case = BY_NAME[name]
    lo, hi = nested_boxes(case)
    points = points_of(lo, hi, 24)
    with jax.enable_x64(True):

        def all_of(params, lo, hi, points):
            program = program_of(case.f, params, lo[0])
            values = program.prepare(params, jnp.float64)

            def one(given):
                lo, hi, points = given
                boxes, _ = forward_layers(program, values, Box(lo, hi))
                y = jax.vmap(lambda z: program.evaluate_prepared(values, z))(points)
                return boxes[program.output], y

            return jax.lax.map(one, (lo, hi, points))

        run = jax.jit(all_of).lower(case.params, lo, hi, points).compile()
        box, y = jax.device_get(run(case.params, lo, hi, points))
    known = np.isfinite(box.lo) & np.isfinite(box.hi)
    slack = 2.0**-36 * (1 + np.abs(y[np.isfinite(y)]).max(initial=0.0))
    inside = (box.lo[:, None] - slack <= y) & (y <= box.hi[:, None] + slack)
    assert np.all(inside | ~known[:, None] | np.isnan(y))
    # An infinite or missing range is no answer: some of the boxes have one.
    assert known.any()


def test_ranges_are_exact_where_every_relu_is_decided():
    random = np.random.default_rng(0)
    params = {
        "w1": random.normal(size=(6, 2)).astype(np.float32),
        "b1": np.array([9.0, -9, 9, 9, -9, 9], np.float32),
        "w2": random.normal(size=(3, 6)).astype(np.float32),
    }

    def f(p, x):
        return p["w2"] @ jnp.maximum(p["w1"] @ x + p["b1"], 0)

    with jax.enable_x64(True):
        program = program_of(f, params, np.zeros(2, np.float32))
        values = program.prepare(params, jnp.float64)
        box = Box(jnp.array([-1.0, -0.5]), jnp.array([0.5, 1.0]))
        out = forward_layers(program, values, box)[0][program.output]
    on = params["b1"] > 0
    matrix = params["w2"][:, on].astype(float) @ params["w1"][on].astype(float)
    offset = params["w2"][:, on].astype(float) @ params["b1"][on]
    corners = np.array([[a, b] for a in (-1, 0.5) for b in (-0.5, 1)]) @ matrix.T
    np.testing.assert_allclose(out.lo, (corners + offset).min(axis=0), rtol=1e-12)
    np.testing.assert_allclose(out.hi, (corners + offset).max(axis=0), rtol=1e-12)
