"""Bounds enclose: evaluations in float64 never leave what ibp and crown computed.

No tolerance is granted but the slack that the library itself states for float64.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import AS_USERS_DO, BY_NAME, CASES, OUTPUTS, Case, nested_boxes, points_of
from jax import lax

import jaxcert as jc
from jaxcert.trace.tracing import program_as_given

# Rows of a Spec: both classification rows of class 0, one mixed row, one zero row.
ROWS = np.array([[1.0, -1, 0], [1, 0, -1], [0.5, 2, -1.25], [0, 0, 0]])
OFFSET = np.array([0.0, -0.5, 0.25, 1.0])
# Others of the same rules are tested always; so are the lines of every activation, in
# test_activations.py, and what patterns recognise, in test_patterns.py.
ALIKE = set(
    """
    relu_where leaky_relu leaky_half leaky_above_one elu elu_alpha selu celu hard_tanh
    hard_sigmoid hard_swish clamp tanh_wide logistic log_sigmoid exp log1p sqrt square
    squareplus integer_pow_4 integer_pow_5 integer_pow_-1 pow_whole pow_1.5 pow_-0.75
    soft_sign gelu_tanh mish erfc cos neg ceil round constant_by_negative_x
    greater_as_number less_equal not_equal min_constant min_infinity
    reduce_max_odd reduce_min min_of_two min_with_params broadcast_squeeze stack
    slice_strided slice_backwards pad gather_clip dynamic_slice split product_of_two
    two_perturbed_batched scalar_product sub_constants used_twice partly_constant
    jit_inside stop_gradient_inside mean_variance batch_norm attention
    conv_same conv_strided_valid max_pool max_pool_dense global_average
""".split()
)
TOLD_APART = [case for case in CASES if case.name not in ALIKE]
# Every fifth is compiled as users do it, with all that XLA may fuse and reorder, and as
# one batch, with neurons in buckets.
OPTIMISED = {
    case.name
    for cases in (TOLD_APART, [c for c in CASES if c.name in ALIKE])
    for case in cases[4::5]
}
ATTACKED = {case.name for case in TOLD_APART[2::20]}


def slack(*arrays) -> float:
    """Returns the stated float64 slack, see jaxcert.bounds.rounding."""
    finite = [np.abs(a[np.isfinite(a)]).max(initial=0.0) for a in arrays]
    return 2.0**-36 * (1 + max(finite))


def _descend(evaluate, lo, hi):
    """Points that signed gradient steps reach for + and - every output."""
    signs = jnp.concatenate([jnp.eye(3), -jnp.eye(3)]).astype(lo.dtype)

    def one(sign):
        gradient = jax.grad(lambda z: sign @ evaluate(z))

        def step(z, rate):
            moved = z - rate * (hi - lo) * jnp.sign(gradient(z))
            moved = jnp.clip(moved, lo, hi)
            return moved, moved

        return lax.scan(step, (lo + hi) / 2, jnp.asarray([1.0, 0.5, 0.2, 0.05]))[1]

    return jax.vmap(one)(signs).reshape((-1, *lo.shape))


@functools.cache
def results(name: str) -> dict[str, np.ndarray]:
    """Returns all bounds and evaluations of a case, by one compiled function."""
    case = BY_NAME[name]
    lo, hi = nested_boxes(case)
    points = points_of(lo, hi, 24)
    optimised = name in OPTIMISED
    crown = jc.crown(case.f, jc.CrownOptions(bucket=4 if optimised else None))

    with jax.enable_x64(True):
        program = program_as_given(case.f, case.params, jnp.zeros(case.shape))
        eye = np.eye(OUTPUTS)
        spec = jc.Spec.rows(
            jnp.concatenate([eye, -eye, ROWS]), jnp.append(jnp.zeros(6), OFFSET)
        )

        @functools.partial(jax.jit, compiler_options=AS_USERS_DO if optimised else None)
        def compute(params, lo, hi, points):
            evaluate = functools.partial(program.evaluate, params)

            def one(lo, hi, points):
                box = jc.Box(lo, hi)
                if name in ATTACKED:
                    attacked = _descend(evaluate, lo, hi)
                    points = jnp.concatenate([points, attacked])
                # One pass for outputs and spec: the rows y, -y and C y + d.
                by_ibp = jc.ibp(case.f).lower_rows(params, box, spec)
                rows = crown.lower_rows(params, box, spec)
                return {
                    "points": points,
                    "y": jax.vmap(evaluate)(points),
                    "direct": jax.vmap(case.f, in_axes=(None, 0))(params, points),
                    "ibp_lo": by_ibp[:OUTPUTS],
                    "ibp_hi": -by_ibp[OUTPUTS : 2 * OUTPUTS],
                    "crown_lo": rows[:OUTPUTS],
                    "crown_hi": -rows[OUTPUTS : 2 * OUTPUTS],
                    "ibp_rows": by_ibp[2 * OUTPUTS :],
                    "crown_rows": rows[2 * OUTPUTS :],
                }

            if optimised:
                return jax.vmap(one)(lo, hi, points)
            return lax.map(lambda given: one(*given), (lo, hi, points))

        return jax.device_get(compute(case.params, lo, hi, points))


each_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.campaign) if case.name in ALIKE else case
        for case in CASES
    ],
    ids=lambda case: case.name,
)


@each_case
def test_program_computes_the_function(case: Case):
    found = results(case.name)
    # Constants of the float32 trace differ from float64 ones by a float32 rounding;
    # a step function may fall on its other side at a jump.
    close = np.abs(found["y"] - found["direct"]) <= 4e-6 * (1 + np.abs(found["y"]))
    assert np.isfinite(found["y"]).all()
    if case.name in ("floor", "ceil", "round", "equal", "not_equal", "cast"):
        assert close.mean() > 0.97
    else:
        assert close.all()


@each_case
@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_outputs_lie_inside_the_bounds(case: Case, method: str):
    found = results(case.name)
    y, lo, hi = found["y"], found[f"{method}_lo"], found[f"{method}_hi"]
    assert np.isfinite(lo).all() and np.isfinite(hi).all()
    for b in range(len(lo)):
        allowed = slack(y[b], lo[b], hi[b])
        assert (y[b] >= lo[b] - allowed).all(), (b, (y[b] - lo[b]).min(axis=0))
        assert (y[b] <= hi[b] + allowed).all(), (b, (y[b] - hi[b]).max(axis=0))


@each_case
@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_spec_rows_lie_above_their_lower_bounds(case: Case, method: str):
    found = results(case.name)
    rows = found["y"] @ ROWS.T + OFFSET
    lower = found[f"{method}_rows"]
    assert np.isfinite(lower).all()
    for b in range(len(lower)):
        allowed = slack(found["y"][b], lower[b], found[f"{method}_lo"][b])
        assert (rows[b] >= lower[b] - allowed).all(), (rows[b] - lower[b]).min(axis=0)


@each_case
def test_bounds_of_a_point_are_its_value(case: Case):
    if case.name == "cast":
        pytest.skip("from float64 to float32 it rounds, in any way")
    if case.name in ("floor", "ceil", "round", "sign", "equal", "not_equal"):
        pytest.skip("a step has an interval of values where its argument is rounded")
    found = results(case.name)
    # Interval products of equal factors are exact at a point: so are all bounds.
    width = found["ibp_hi"][4] - found["ibp_lo"][4]
    assert (width <= 1e-9).all()
    assert (found["crown_hi"][4] - found["crown_lo"][4] <= 1e-9).all()


@each_case
def test_smaller_boxes_have_tighter_interval_bounds(case: Case):
    found = results(case.name)
    lo, hi = found["ibp_lo"][:5], found["ibp_hi"][:5]
    # Ranges from a lattice of 128 cells shift by a fraction of its error, M h^2 / 8.
    extra = 2e-2 if case.lattice else 0.0
    allowed = slack(lo, hi) + extra
    assert (np.diff(lo, axis=0) >= -allowed).all()
    assert (np.diff(hi, axis=0) <= allowed).all()


@each_case
def test_crown_rows_are_no_looser_than_interval_rows(case: Case):
    found = results(case.name)
    allowed = slack(found["ibp_rows"])
    assert (found["crown_rows"] >= found["ibp_rows"] - allowed).all()
