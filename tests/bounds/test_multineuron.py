"""Cuts of several neurons: no point breaks one, no multiplier lifts a bound too far."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import exact32, sampled
from exact import exact_min_margin
from test_alpha import plain, residual, signs_at

import jaxcert as jc
from jaxcert.bounds.alpha import Multipliers, Problem, layout_of, subproblem_bound
from jaxcert.bounds.crown import CrownOptions, bound_layers
from jaxcert.bounds.multineuron import (
    CutOptions,
    RowOptions,
    bound_rows,
    cutter,
)
from jaxcert.bounds.rounding import float64_slack
from jaxcert.bounds.tighten import TightenOptions
from jaxcert.errors import InputError
from jaxcert.trace.tracing import program_of

BOXES, TRIALS, POINTS = 10, 40, 400
SIZES = (3, 8, 8, 3)
FAST = TightenOptions(iterations=4, bucket=8)
CASES = {
    "pairs": (plain, CutOptions(k=2, partners=3, count=24, iterations=3)),
    "triples": (plain, CutOptions(k=3, partners=1, count=16, iterations=1)),
    "residual": (residual, CutOptions(k=2, partners=1, sharpen=False)),
}


def networks(rng, sizes=SIZES, count=BOXES):
    nets = [
        [
            (exact32(rng.normal(size=(n, m))), exact32(rng.normal(size=n) * 0.5))
            for m, n in zip(sizes, sizes[1:], strict=False)
        ]
        for _ in range(count)
    ]
    return jax.tree.map(lambda *v: np.stack(v), *nets)


def boxes_of(rng, inputs=3, count=BOXES):
    center = rng.uniform(-1, 1, (count, inputs))
    radius = 10.0 ** rng.uniform(-2, 0.5, (count, 1))
    return center - radius, center + radius


@functools.cache
def results(name: str) -> dict:
    """Cuts of random networks, and bounds with random multipliers of subproblems."""
    f, options = CASES[name]
    rng = np.random.default_rng(len(name))
    sizes = (3, 8, 8, 3)
    params = networks(rng, sizes)
    lo, hi = boxes_of(rng)
    points = lo[:, None] + (hi - lo)[:, None] * rng.random((BOXES, POINTS, 3))
    points[:, ::4] = np.where(
        points[:, ::4] > (lo + hi)[:, None] / 2, hi[:, None], lo[:, None]
    )
    program = program_of(f, jax.tree.map(lambda v: v[0], params), np.zeros(3))
    layout = layout_of(program)
    keep = rng.random((BOXES, TRIALS, layout.size)) < rng.random((BOXES, TRIALS, 1)) / 4
    pick = rng.integers(0, POINTS, (BOXES, TRIALS))
    row = rng.normal(size=(BOXES, TRIALS, 1, 3))

    def one(params, lo, hi, points, keep, pick, row, key):
        box = jc.Box(lo, hi)
        values, values32 = (
            program.prepare(params, t) for t in (jnp.float64, jnp.float32)
        )
        layers = bound_layers(program, values, box, CrownOptions())
        maker = cutter(layout, (values32, values), layers.boxes, options, FAST)
        given = {i: layers.boxes[i] for i in layout.needed()}
        ranges, cuts = maker.tighten_layers(box, given)
        z, y = jax.vmap(functools.partial(signs_at, layout, values))(points)
        inputs = layout.parts(z)
        broken = []
        for i, cut in cuts.items():
            x = inputs[i].reshape(POINTS, -1)[:, cut.index]
            left = jnp.einsum("gfk,pgk->pgf", cut.at_input, x)
            left += jnp.einsum("gfk,pgk->pgf", cut.at_output, jnp.maximum(x, 0))
            broken.append(jnp.max(left - cut.limit))
        signs = jnp.where(keep, jnp.where(z[pick] >= 0, 1, -1), 0).astype(jnp.int8)
        keys = jax.random.split(key, TRIALS)

        def bound(signs, row, key):
            problem = Problem(box, ranges, row, jnp.zeros(1), cuts)
            one, two, three, four = jax.random.split(key, 4)
            size = 10.0 ** jax.random.uniform(four, minval=-2, maxval=2)
            multipliers = Multipliers(
                jax.random.uniform(one, (layout.size,)),
                jax.random.normal(two, (layout.size,)),
                jnp.zeros(1),
                {
                    i: jax.random.normal(jax.random.fold_in(three, i), c.limit.shape)
                    * size * (jax.random.uniform(key, c.limit.shape) < 0.1)
                    for i, c in cuts.items()
                },
            )  # fmt: skip
            least, _ = subproblem_bound(layout, values, problem, signs, multipliers)
            charge = sum(c.charge(multipliers.cut[i]) for i, c in cuts.items())
            slack = float64_slack(program, values, layers.boxes, row)
            return least, slack + charge

        least, slack = jax.vmap(bound)(signs, row, keys)
        ends = [
            layout.join(
                {n.output: getattr(ranges[n.inputs[0]], side) for n in layout.nodes}
            )
            for side in ("lo", "hi")
        ]
        return {
            "broken": jnp.stack(broken), "least": least, "slack": slack, "signs": signs,
            "z": z, "rows": jnp.einsum("tro,po->tp", row, y), "ends": ends,
            "groups": [
                (c.index, jnp.any(c.at_output != 0, axis=(1, 2))) for c in cuts.values()
            ],
            "alive": sum(jnp.sum(jnp.any(c.at_output != 0, -1)) for c in cuts.values()),
        }  # fmt: skip

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), BOXES)
        compute = jax.jit(lambda *v: jax.lax.map(lambda a: one(*a), v))
        return jax.device_get(compute(params, lo, hi, points, keep, pick, row, keys))


each = pytest.mark.parametrize("name", sampled(CASES))


@each
def test_no_point_of_the_box_breaks_a_cut(name: str):
    found = results(name)
    assert found["alive"].sum() > 10 * BOXES
    assert (found["broken"] <= 1e-12).all()


@each
def test_no_multipliers_of_cuts_lift_a_bound_above_a_point_with_its_signs(name: str):
    found = results(name)
    signs, z = found["signs"][:, :, None], found["z"][:, None]
    matches = ((signs == 0) | (signs * z >= 0)).all(axis=-1)
    assert (matches.sum(axis=-1) >= 1).all()
    least = np.where(matches, found["rows"], np.inf).min(axis=-1)
    assert np.isfinite(found["least"]).all()
    assert (found["least"] <= least + found["slack"]).all()


@each
def test_ranges_tightened_with_cuts_hold_every_point(name: str):
    found = results(name)
    lo, hi = found["ends"]
    allowed = 1e-12 * (1 + np.abs(lo) + np.abs(hi))[:, None]
    assert (found["z"] >= lo[:, None] - allowed).all()
    assert (found["z"] <= hi[:, None] + allowed).all()


@pytest.mark.campaign
def test_cuts_prove_what_single_neurons_cannot_and_never_more_than_holds():
    rng, count = np.random.default_rng(5), 12
    params = networks(rng, count=count)
    lo, hi = boxes_of(rng, count=count)
    c = rng.normal(size=(count, 3))
    program = program_of(plain, jax.tree.map(lambda v: v[0], params), np.zeros(3))
    layout = layout_of(program)

    def least(options):
        def one(arguments):
            params, lo, hi, c = arguments
            spec = jc.Spec.rows(c[None], jnp.zeros(1))
            params32 = jax.tree.map(lambda v: v.astype(jnp.float32), params)
            return bound_rows(layout, (params32, params), jc.Box(lo, hi), spec, options)

        return jax.jit(lambda *v: jax.lax.map(one, v))

    final = TightenOptions(iterations=40, decay=0.95)
    with jax.enable_x64(True):
        single, pairs = (
            jax.device_get(least(RowOptions(cuts, FAST, final))(params, lo, hi, c))
            for cuts in (CutOptions(k=1), CutOptions(k=2, partners=4))
        )
    exact = []
    for i in range(count):
        weights = [(w[i].T, b[i]) for w, b in params]
        exact.append(exact_min_margin(weights, lo[i], hi[i], c[i], 0.0).value)
    exact = np.array(exact)
    tolerance = 1e-6 * (1 + np.abs(exact))
    for bound, slack in (single, pairs):
        assert (bound[:, 0] <= exact + slack + tolerance).all()
    lost = [(exact - bound[:, 0]).sum() for bound, _ in (single, pairs)]
    assert lost[1] < 0.6 * lost[0]


@each
def test_groups_are_distinct_sets_of_undecided_neurons(name: str):
    found, k = results(name), CASES[name][1].k
    lo, hi = (side.reshape(BOXES, 2, -1) for side in found["ends"])
    for layer, (index, alive) in enumerate(found["groups"]):
        for b in range(BOXES):
            groups = [frozenset(g) for g in index[b][alive[b]].tolist()]
            assert all(len(g) == k for g in groups)
            assert len(set(groups)) == len(groups)
            members = sorted(set().union(*groups))
            assert (lo[b, layer][members] < 0).all() and (
                hi[b, layer][members] > 0
            ).all()


@pytest.mark.parametrize(("k", "size", "count"), [(1, 9, 0), (2, 1, 0), (2, 9, 18)])
def test_single_neurons_make_no_groups(k: int, size: int, count: int):
    assert CutOptions(k=k, partners=2).groups(size) == count


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"k": 4}, "CutOptions.k is 4; it must be 1, 2 or 3"),
        ({"neurons": 0}, "CutOptions.neurons is 0; it must be >= 1"),
        ({"partners": 0}, "CutOptions.partners is 0; it must be >= 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, text: str):
    with pytest.raises(InputError) as caught:
        CutOptions(**options)
    assert str(caught.value) == text
