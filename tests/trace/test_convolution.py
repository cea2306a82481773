"""Convolutions with the channels last, against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

from jaxcert.model import Model
from jaxcert.trace.convolution import Window, _by_phases, _by_taps, convolve

_LAYOUTS = {
    1: (("NCH", "OIH", "NCH"), ("NHC", "HIO", "NCH")),
    2: (("NCHW", "OIHW", "NCHW"), ("NHWC", "HWIO", "CHWN")),
}


# XLA's own ends the process where it swaps operand and kernel and one axis has a kernel
# as large as the dilation of the operand, and no padding: (2, 3, 4, 3) by (4, 2, 3, 2),
# NHWC and HWIO, padding ((1, 1), (0, 0)), dilation (1, 2).
_STEADY = {"xla_disable_hlo_passes": "algsimp,conv-operand-swapper"}


@st.composite
def convolutions(draw):
    """Operand, kernel and parameters of a convolution."""
    axes = draw(st.integers(1, 2))
    layout = draw(st.sampled_from(_LAYOUTS[axes]))

    def sizes(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, most)) for _ in range(axes))

    channels = {key: draw(st.integers(1, 3)) for key in "NCO"}
    x_shape = channels | dict(zip("HW", sizes(3, 6), strict=False))
    k_shape = channels | {"I": channels["C"]}
    k_shape |= dict(zip("HW", sizes(1, 3), strict=False))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    x = jnp.asarray(rng.normal(size=[x_shape[key] for key in layout[0]]))
    kernel = jnp.asarray(rng.normal(size=[k_shape[key] for key in layout[1]]))
    taps = tuple(k_shape[key] for key in "HW"[:axes])
    still, parts = (1,) * axes, draw(st.booleans())
    pads = sizes(-1, 2), sizes(-1, 2)
    params = {
        "window_strides": taps if parts else sizes(1, 2),
        "padding": ((0, 0),) * axes if parts else tuple(zip(*pads, strict=True)),
        "lhs_dilation": still if parts else sizes(1, 2),
        "rhs_dilation": still if parts else sizes(1, 2),
        "dimension_numbers": lax.conv_dimension_numbers(x.shape, kernel.shape, layout),
        "feature_group_count": 1,
        "batch_group_count": 1,
        "precision": None,
        "preferred_element_type": None,
        "out_sharding": None,
    }
    return x, kernel, params


@pytest.fixture(autouse=True)
def doubles():
    with jax.enable_x64(True):
        yield


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_values_and_derivatives_are_those_of_jax(data):
    x, kernel, params = data.draw(convolutions())

    def theirs(x, kernel):
        return lax.conv_general_dilated_p.bind(x, kernel, **params)

    def ours(x, kernel):
        return convolve(x, kernel, params)

    try:
        shape = jax.eval_shape(theirs, x, kernel).shape
    except ValueError:  # a kernel larger than what it moves over
        assume(False)
    assume(0 not in shape)

    def facts(f, x, kernel):
        """The value, both transposes, batches, and a derivative of a transpose."""
        value, back = jax.vjp(f, x, kernel)
        many = jnp.stack([x, 2 * x, x * x])
        kernels = jnp.stack([kernel, kernel + 1, kernel * kernel])

        def twice(x):
            pulled = jax.vjp(lambda z: f(z, kernel), x)[1](jnp.cos(f(x, kernel)))
            return jnp.sum(jnp.sin(pulled[0]))

        return (
            value,
            back(jnp.sin(value)),
            jax.jvp(f, (x, kernel), (jnp.cos(x), jnp.cos(kernel)))[1],
            jax.vmap(f, (0, None))(many, kernel),
            jax.vmap(f, (None, 0))(x, kernels),
            jax.vmap(f)(many, kernels),
            jax.grad(twice)(x),
        )

    told = jax.jit(facts, static_argnums=0, compiler_options=_STEADY)
    for a, b in zip(
        *(jax.tree.leaves(told(f, x, kernel)) for f in (ours, theirs)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", sampled(range(12), 1))
def test_dilated_operands_meet_the_same_taps_by_phases(seed):
    """Also kernels of fewer taps than phases, and padding that cuts."""
    rng, tried = np.random.default_rng(seed), 0
    while tried < 4:
        base, taps, size = (tuple(rng.integers(1, n, 2).tolist()) for n in (4, 5, 6))
        padding = tuple(map(tuple, rng.integers(-1, 4, (2, 2)).tolist()))
        reach = zip(size, base, padding, taps, strict=True)
        if min((n - 1) * b + 1 + sum(p) - k for n, b, p, k in reach) < 0:
            continue  # a kernel larger than what it moves over
        tried += 1
        window = Window((1, 1), padding, base, (1, 1))
        x, kernel = rng.normal(size=(2, *size, 3)), rng.normal(size=(*taps, 3, 2))
        layout = "NHWC", "HWIO", "NHWC"

        def direct(x, kernel, padding=padding, base=base, layout=layout):
            return lax.conv_general_dilated(
                x, kernel, (1, 1), padding, base, dimension_numbers=layout
            )

        theirs = jax.jit(direct, compiler_options=_STEADY)(x, kernel)
        ours = _by_phases(jnp.asarray(x), jnp.asarray(kernel), window)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", sampled(range(12), 1))
def test_results_of_few_channels_are_sums_over_taps(seed):
    """Also padding that cuts; compared with sums that numpy writes out."""
    rng = np.random.default_rng(seed)
    for _ in range(4):
        taps, size = rng.integers(1, 4, 2).tolist(), rng.integers(4, 7, 2).tolist()
        padding = tuple(map(tuple, rng.integers(-1, 3, (2, 2)).tolist()))
        x, kernel = rng.normal(size=(2, *size, 5)), rng.normal(size=(*taps, 5, 2))
        around = [(max(before, 0), max(behind, 0)) for before, behind in padding]
        inner = tuple(
            slice(max(-a, 0), n + min(b, 0))
            for n, (a, b) in zip(size, padding, strict=True)
        )
        padded = np.pad(x[:, *inner], ((0, 0), *around, (0, 0)))
        parts = np.lib.stride_tricks.sliding_window_view(padded, taps, axis=(1, 2))
        theirs = np.einsum("nijcab,abco->nijo", parts, kernel)
        window = Window((1, 1), padding, (1, 1), (1, 1))
        ours = _by_taps(jnp.asarray(x), jnp.asarray(kernel), window)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_both_directions_are_what_xla_has_a_fast_routine_for():
    """In a loop it compiles a convolution as it is written. That is for float32."""
    x = jnp.ones((2, 3, 8, 8), jnp.float32)
    kernel = jnp.ones((4, 3, 3, 3), jnp.float32)
    layout = lax.conv_dimension_numbers(x.shape, kernel.shape, ("NCHW", "OIHW", "NCHW"))
    params = {
        "window_strides": (2, 2),
        "padding": ((1, 1), (1, 1)),
        "lhs_dilation": (1, 1),
        "rhs_dilation": (1, 1),
        "dimension_numbers": layout,
        "feature_group_count": 1,
        "batch_group_count": 1,
    }

    def moved(_, x):
        made, back = jax.vjp(lambda z: convolve(z, kernel, params), x)
        return back(made)[0]

    loop = jax.jit(lambda x: lax.fori_loop(0, 3, moved, x))
    text = loop.lower(x).compile().as_text()
    found = [line for line in text.splitlines() if " convolution(" in line]
    assert len(found) == 2
    assert all("dim_labels=b01f_01io->b01f" in line for line in found)


@pytest.mark.parametrize(("taps", "product"), [((2, 2), True), ((3, 3), False)])
def test_only_windows_that_do_not_overlap_are_products_of_matrices(taps, product):
    kernel = np.ones((4, 3, *taps))

    def f(kernel, x):
        return lax.conv_general_dilated(x[None], kernel, (2, 2), "VALID").reshape(-1)

    program = Model(f, kernel, (3, 8, 8)).program
    assert program.convolves
    assert program.slides == (not product)
    x = jnp.ones((3, 8, 8))
    text = jax.jit(program.evaluate).lower(kernel, x).as_text()
    assert ("convolution" in text) == (not product)
