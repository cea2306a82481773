"""Programs of whole networks, and bounds as a transformation of functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_NAME, sampled
from flax import linen, nnx

import jaxcert as jc
from jaxcert.trace.tracing import program_of

IMAGE = (6, 6, 1)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(3, (3, 3), strides=(2, 2))(x[None])
        x = linen.BatchNorm(use_running_average=True)(x)
        y = linen.relu(x)
        x = y + linen.Conv(3, (3, 3))(y)
        x = linen.avg_pool(linen.gelu(x), (2, 2), padding="SAME")
        x = linen.LayerNorm()(linen.max_pool(x, (2, 2), (1, 1)).reshape(-1))
        return linen.Dense(3)(linen.silu(linen.Dense(5)(x)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 3, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(27, 3, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.leaky_relu(self.norm(self.conv(x[None])))
        x = nnx.max_pool(x, (2, 2), (2, 2))
        return self.out(self.drop(x.reshape(-1)))


def linen_network():
    model = Linen()
    params = model.init(jax.random.key(0), jnp.zeros(IMAGE))
    return model.apply, params


def nnx_network():
    model = Nnx(nnx.Rngs(0))
    model.eval()
    graph, state = nnx.split(model)

    def f(state, x):
        return nnx.merge(graph, state)(x)

    return f, state


def points():
    """Returns a box, and points in it."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=IMAGE).astype(np.float32)
    box = jc.Box(jnp.asarray(x - 0.02), jnp.asarray(x + 0.02))
    return box, rng.uniform(box.lo, box.hi, (200, *IMAGE)).astype(np.float32)


@pytest.mark.parametrize("make", sampled([nnx_network, linen_network]))
def test_programs_of_flax_modules_compute_the_same(make):
    f, params = make()
    box, z = points()
    y = jax.vmap(f, in_axes=(None, 0))(params, z)
    program = program_of(f, params, box.lo)
    again = jax.jit(jax.vmap(program.evaluate, in_axes=(None, 0)))(params, z)
    np.testing.assert_allclose(again, y, atol=2e-5)


@pytest.mark.parametrize("make", sampled([nnx_network, linen_network]))
def test_flax_modules_are_bounded(make):
    f, params = make()
    box, z = points()
    y = jax.vmap(f, in_axes=(None, 0))(params, z)
    options = jc.CrownOptions(bucket=None)
    by_crown = jax.jit(jc.crown(f, options))(params, box).concretize(box)
    by_ibp = jax.jit(jc.ibp(f))(params, box)
    for bounds in (by_ibp, by_crown):
        assert (y >= bounds.lo - 1e-4).all() and (y <= bounds.hi + 1e-4).all()
    assert (by_crown.hi - by_crown.lo < by_ibp.hi - by_ibp.lo).all()
    assert (by_crown.hi - by_crown.lo < 10).all()


CASE = BY_NAME["deep_relu"]
PARAMS = jax.tree.map(
    lambda v: v.astype(np.float32) if v.dtype == float else v, CASE.params
)
SPEC = jc.Spec.classification(0, 3)
CENTERS = np.random.default_rng(0).uniform(-0.5, 0.5, (5, 4)).astype(np.float32)


def rows_of(options, lo, hi):
    return jc.crown(CASE.f, options).lower_rows(PARAMS, jc.Box(lo, hi), SPEC)


def test_jit_vmap_and_bucket_size_change_nothing_but_rounding():
    lo, hi = jnp.asarray(CENTERS - 0.3), jnp.asarray(CENTERS + 0.3)
    dense = jc.CrownOptions(bucket=None)
    alone = np.stack([rows_of(dense, a, b) for a, b in zip(lo, hi, strict=True)])
    for bucket in (None, 1, 4, 64):
        options = jc.CrownOptions(bucket=bucket)
        batched = jax.jit(jax.vmap(lambda a, b, o=options: rows_of(o, a, b)))(lo, hi)
        np.testing.assert_allclose(batched, alone, rtol=2e-5, atol=2e-5)


def test_intermediate_interval_bounds_are_looser_but_hold():
    lo, hi = jnp.asarray(CENTERS[0] - 0.3), jnp.asarray(CENTERS[0] + 0.3)
    tight = rows_of(jc.CrownOptions(bucket=None), lo, hi)
    loose = rows_of(jc.CrownOptions(intermediate="ibp"), lo, hi)
    z = np.random.default_rng(1).uniform(lo, hi, (500, 4)).astype(np.float32)
    rows = jax.vmap(lambda v: SPEC.values(CASE.f(PARAMS, v)))(z)
    assert (loose <= tight + 1e-5).all()
    assert (rows >= tight - 1e-4).all()


@pytest.mark.parametrize("bucket", [None, 2])
def test_gradient_of_rows_by_the_box_matches_finite_differences(bucket):
    options = jc.CrownOptions(bucket=bucket)
    with jax.enable_x64(True):
        params = CASE.params
        x = jnp.asarray(CENTERS[0], jnp.float64)
        spec = jc.Spec.classification(0, 3, dtype=jnp.float64)

        def worst(radius):
            box = jc.Box(x - radius, x + radius)
            return jc.crown(CASE.f, options).lower_rows(params, box, spec).sum()

        value = jax.jit(worst)
        at = jnp.asarray([0.21, 0.32, 0.17, 0.28])
        gradient = jax.jit(jax.grad(worst))(at)
        steps = 1e-6 * jnp.eye(4)
        numeric = [(value(at + s) - value(at - s)) / 2e-6 for s in steps]
    assert np.isfinite(gradient).all() and (np.abs(gradient) > 1e-3).any()
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-5)


def test_weights_are_arguments_one_trace_serves_all():
    lo, hi = jnp.asarray(CENTERS[0] - 0.1), jnp.asarray(CENTERS[0] + 0.1)
    other = jax.tree.map(lambda v: v * 2 if v.dtype == np.float32 else v, PARAMS)
    assert program_of(CASE.f, PARAMS, lo) is program_of(CASE.f, other, lo)
    bounds = [jc.ibp(CASE.f)(p, jc.Box(lo, hi)) for p in (PARAMS, other)]
    for p, b in zip((PARAMS, other), bounds, strict=True):
        y = CASE.f(p, CENTERS[0])
        assert (b.lo - 1e-4 <= y).all() and (y <= b.hi + 1e-4).all()


def test_scalar_inputs_and_identity():
    point = jc.Box(jnp.float32(-1), jnp.float32(2))
    for bounds in (
        jc.ibp(lambda p, x: jnp.stack([x, x * x]))(None, point),
        jc.crown(lambda p, x: jnp.stack([x, x * x]))(None, point).concretize(point),
    ):
        assert bounds.lo[0] == -1 and bounds.hi[0] == 2
        assert bounds.lo[1] <= 0 and bounds.hi[1] >= 4
    box = jc.Box(jnp.zeros(3), jnp.ones(3))
    same = jc.crown(lambda p, x: x)(None, box).concretize(box)
    assert same.lo.tolist() == [0, 0, 0] and same.hi.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "name",
    ["residual", "conv_grouped", "max_of_two", "batch_norm", "two_perturbed_dot"],
)
def test_spreads_are_what_intervals_make_of_symmetric_boxes(name):
    case = BY_NAME[name]
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        program = program_of(case.f, case.params, np.zeros(case.shape))
        values = program.prepare(case.params, jnp.float64)
        nodes = [n for n in program.nodes if getattr(n, "spread", None) is not None]
        sizes = [[rng.uniform(0, 2, s) for s in n.input_shapes] for n in nodes]

        @jax.jit
        def both(values, sizes):
            made = []
            for node, size in zip(nodes, sizes, strict=True):
                box = node.interval(values, *(jc.Box(-z, z) for z in size))
                made.append((node.spread(values, *size), box))
            return made

        found = jax.device_get(both(values, sizes))
    assert len(found) > 1
    for spread, box in found:
        np.testing.assert_allclose(spread, box.hi, rtol=1e-12, atol=1e-300)
        np.testing.assert_allclose(spread, -box.lo, rtol=1e-12, atol=1e-300)
