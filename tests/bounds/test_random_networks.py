"""Soundness on networks that hypothesis puts together."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ACTIVATIONS, exact32, points_of, sampled
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcert as jc
from jaxcert.trace.tracing import program_as_given

# Those that are defined everywhere, so that they can follow each other.
TOTAL = sorted(
    name
    for name, definition in ACTIVATIONS.items()
    if len(definition) == 1 or definition[1] < 0 < definition[2]
)
names = st.lists(st.sampled_from(TOTAL), min_size=2, max_size=3)


def network(layers: list[str], skip: bool):
    def f(params, x):
        z = x
        for (w, b), name in zip(params[:-1], layers, strict=True):
            y = ACTIVATIONS[name][0](w @ z + b)
            z = y + z[:1] if skip else y
        w, b = params[-1]
        return w @ z + b

    return f


@pytest.mark.parametrize("examples", sampled([4, 10]))
def test_no_point_escapes_the_bounds(examples: int):
    drawn = names, st.booleans(), st.integers(2, 4), st.integers(0, 2**16)
    few = settings(deadline=None, derandomize=True, max_examples=examples)
    few(given(*drawn)(check))()


def check(layers: list[str], skip: bool, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [3, *[width] * len(layers), 2]
    params = [
        (exact32(rng.normal(size=(n, m)) / m), exact32(rng.normal(size=n) / 2))
        for m, n in zip(sizes, sizes[1:], strict=False)
    ]
    f = network(layers, skip)
    center = rng.uniform(-1, 1, 3)
    radius = 10.0 ** rng.uniform(-6, 0, (4, 3))
    lo, hi = center - radius, center + radius
    points = points_of(lo, hi, 40, seed)
    with jax.enable_x64(True):
        program = program_as_given(f, params, jnp.zeros(3))

        @jax.jit
        def compute(params, *boxes):
            def one(given):
                lo, hi, points = given
                box = jc.Box(lo, hi)
                y = jax.vmap(lambda z: program.evaluate(params, z))(points)
                by_crown = jc.crown(f, jc.CrownOptions(bucket=None))(params, box)
                return y, jc.ibp(f)(params, box), by_crown.concretize(box)

            return jax.lax.map(one, boxes)

        y, *both = jax.device_get(compute(params, lo, hi, points))
    for bounds in both:
        low, high = bounds.lo[:, None], bounds.hi[:, None]
        # NaN is the honest answer where an interval leaves a function's domain.
        known = np.isfinite(low) & np.isfinite(high)
        assert known[np.argmin(radius.max(axis=1))].all()
        size = np.maximum(np.abs(low), np.abs(high)).max(axis=-1, keepdims=True)
        allowed = 2.0**-36 * (1 + size)
        assert (((y >= low - allowed) & (y <= high + allowed)) | ~known).all()
