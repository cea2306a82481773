"""alpha-CROWN: valid whatever its slopes, and never looser than CROWN."""

from __future__ import annotations

import functools

import exact
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_NAME, OUTPUTS, nested_boxes, points_of, random_network, sampled
from cases import relu_network as f

import jaxcert as jc

SIZES, BOXES = (4, 6, 5, 3), 6
ROWS = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [-1.0, 0.5, 0.5]])
OPTIONS = jc.TightenOptions(iterations=8)


def boxes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    center, radius = rng.uniform(0.2, 0.8, (BOXES, 4)), np.linspace(0, 0.4, BOXES)
    return center - radius[:, None], center + radius[:, None]


@pytest.fixture(scope="module")
def found():
    """Bounds of both methods over boxes, by one compiled function in float64."""
    params, (lo, hi) = random_network(SIZES, 3), boxes()
    with jax.enable_x64(True):
        spec = jc.Spec.rows(jnp.asarray(ROWS), jnp.zeros(3))

        @jax.jit
        def compute(params, lo, hi):
            def one(lo, hi):
                box, alpha = jc.Box(lo, hi), jc.alpha_crown(f, OPTIONS)
                affine = alpha(params, box)
                return {
                    "outputs": affine.concretize(box),
                    "affine": affine,
                    "rows": alpha.lower_rows(params, box, spec),
                    "crown": jc.crown(f).lower_rows(params, box, spec),
                }

            return jax.vmap(one)(lo, hi)

        return params, lo, hi, jax.device_get(compute(params, lo, hi))


def test_rows_lie_below_the_exact_minimum_and_above_crown(found):
    params, lo, hi, bounds = found
    weights = [(w.T, b) for w, b in params]
    assert (bounds["rows"] >= bounds["crown"]).all()
    for b in range(BOXES):
        for k, row in enumerate(ROWS):
            least = exact.exact_min_margin(weights, lo[b], hi[b], row, 0.0).value
            assert bounds["rows"][b, k] <= least + 2e-6
    # In the widest box slopes matter to every row.
    assert (bounds["rows"][-1] > bounds["crown"][-1] + 1e-3).all()


def test_affine_bounds_enclose_every_output(found):
    params, lo, hi, bounds = found
    weights = [(w.T, b) for w, b in params]
    z = points_of(lo, hi, 200)
    y, affine, out = exact.evaluate(weights, z), bounds["affine"], bounds["outputs"]
    for b in range(BOXES):
        low = z[b] @ affine.lower_coefficients[b].T + affine.lower_offset[b]
        high = z[b] @ affine.upper_coefficients[b].T + affine.upper_offset[b]
        assert (low <= y[b] + 1e-12).all() and (y[b] <= high + 1e-12).all()
        assert (out.lo[b] <= y[b].min(axis=0) + 1e-12).all()
        assert (out.hi[b] >= y[b].max(axis=0) - 1e-12).all()


@pytest.mark.parametrize(
    "name", sampled(["softplus", "cnn", "conv_same", "max_of_two", "max_pool"], 3)
)
def test_other_operations_are_bounded_as_well(name):
    case = BY_NAME[name]
    lo, hi = nested_boxes(case)
    points = points_of(lo, hi, 24)
    with jax.enable_x64(True):
        eye = jnp.eye(OUTPUTS)
        spec = jc.Spec.rows(jnp.concatenate([eye, -eye]), jnp.zeros(2 * OUTPUTS))
        alpha = jc.alpha_crown(case.f, OPTIONS)

        @jax.jit
        def compute(params, lo, hi, points):
            def one(given):
                lo, hi, z = given
                rows = alpha.lower_rows(params, jc.Box(lo, hi), spec)
                return rows, jax.vmap(functools.partial(case.f, params))(z)

            return jax.lax.map(one, (lo, hi, points))

        rows, y = jax.device_get(compute(case.params, lo, hi, points))
    assert np.isfinite(rows).all()
    slack = 4e-6 * (1 + np.abs(y))  # constants of f may be float32
    assert (y >= rows[:, None, :OUTPUTS] - slack).all()
    assert (y <= -rows[:, None, OUTPUTS:] + slack).all()


def test_float32_boxes_get_float32_bounds():
    w = jnp.array([[1.0, -1.0], [2.0, 1.0]])
    box = jc.Box.unit((2,))
    out = jc.alpha_crown(lambda w, x: w @ x)(w, box).concretize(box)
    assert out.lo.dtype == jnp.float32
    np.testing.assert_allclose(out.lo, [-1, 0], atol=1e-6)
    np.testing.assert_allclose(out.hi, [1, 3], atol=1e-6)


def test_a_network_that_returns_no_vector_is_refused():
    with pytest.raises(jc.InputError, match="CROWN bounds a vector"):
        jc.alpha_crown(lambda w, x: w * x)(jnp.eye(2), jc.Box.unit((2,)))
