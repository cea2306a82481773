"""Bounds in steps: those of `crown`, and optimised ones that enclose all points."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_NAME, CASES, OUTPUTS, nested_boxes, points_of, sampled

import jaxcert as jc
from jaxcert.bounds.crown import CrownOptions, bound_layers
from jaxcert.bounds.rounding import float64_slack, slack_of
from jaxcert.bounds.staged import Staged, StagedOptions
from jaxcert.model import Model
from jaxcert.trace.program import ProductNode

OPTIONS = StagedOptions(iterations=12, layers=4)
# Every operation with an activation or product in front of another one, and some more.
NAMES = [
    case.name
    for case in CASES
    if case.name
    in ("relu", "tanh", "attention", "softmax", "mul_of_two", "reciprocal", "sigmoid",
        "layer_norm", "max_of_two", "floor", "sign", "conv", "reduce_max", "exp")
]  # fmt: skip


def rows_of_outputs() -> jc.Spec:
    eye = np.eye(OUTPUTS)
    return jc.Spec.rows(np.concatenate([eye, -eye]), np.zeros(2 * OUTPUTS))


def deep(params, x):
    """Residual products and ReLUs, several layers of them."""
    for w, v in params[:-1]:
        y = w @ x
        x = x + jax.nn.relu(y) + jnp.tanh(v @ x) * y
    w, _ = params[-1]
    return w @ x


@functools.cache
def deep_params():
    rng = np.random.default_rng(0)
    draw = functools.partial(rng.normal, scale=0.4)
    return [(draw(size=(4, 4)), draw(size=(4, 4))) for _ in range(3)] + [
        (draw(size=(OUTPUTS, 4)), None)
    ]


def asked(name: str) -> tuple[Model, list[jc.Box]]:
    """Returns a network and boxes, the least last."""
    if name == "deep":
        boxes = [(-np.full(4, r), np.full(4, r)) for r in (0.5, 0.1, 1e-3)]
        return Model(deep, deep_params(), (4,)), [jc.Box(*b) for b in boxes]
    case = BY_NAME[name]
    lo, hi = nested_boxes(case)
    chosen = [jc.Box(lo[i], hi[i]) for i in (0, 2, 4)]
    return Model(case.f, case.params, case.shape), chosen


@pytest.mark.parametrize("name", ["deep", *sampled(NAMES)])
def test_bounds_in_steps_are_those_of_crown_and_enclose_all_points(name: str):
    with jax.enable_x64(True):
        model, boxes = asked(name)
        program, values, spec = model.program, model.prepared, rows_of_outputs()

        @jax.jit
        def whole(box):
            layers = bound_layers(program, values, box, CrownOptions(bucket=None))
            rows = {program.output: jnp.asarray(spec.coefficients)}
            return layers.lower_values(rows, jnp.zeros(2 * OUTPUTS)), layers.boxes

        for box in boxes:
            staged = Staged(program, values, box)
            by_interval = staged.interval_rows(spec)
            staged.tighten()
            by_crown = staged.rows(spec)
            together, ranges = jax.device_get(whole(jax.tree.map(jnp.asarray, box)))
            size = 1 + np.abs(together).max(initial=0, where=np.isfinite(together))
            if np.isfinite(together).all():
                assert np.abs(by_crown - together).max() <= 1e-9 * size
                assert np.isfinite(by_interval).all()
            for value, known in staged.boxes.items():
                if known.lo.dtype != bool and np.isfinite(ranges[value].lo).all():
                    assert np.abs(known.lo - ranges[value].lo).max() <= 1e-9 * size
            optimised = staged.rows(spec, OPTIONS)
            assert not (optimised < by_crown - 1e-12 * size).any()
            staged.tighten(OPTIONS)
            both = staged.rows(spec, OPTIONS)
            slack = float(slack_of(program, values, staged.boxes, spec.coefficients))
            points = points_of(box.lo[None], box.hi[None], 200)[0]
            y = model.outputs(points)
            least = np.concatenate([y, -y], axis=1).min(axis=0)
            for bounds in (by_interval, by_crown, optimised, both):
                assert not (bounds > least + slack).any(), (least - bounds).min()


def test_planes_of_products_gain_where_slopes_cannot():
    """x y - x + y over [0, 1]^2: the mean of McCormick's planes loses, his do not."""

    def f(_, x):
        return jnp.stack([x[0] * x[1] - x[0] + x[1], x[0]])

    model = Model(f, {}, (2,))
    spec = jc.Spec.rows(np.array([[1.0, 0.0]]), np.zeros(1))
    with jax.enable_x64(True):
        assert any(isinstance(n, ProductNode) for n in model.program.nodes)
        staged = Staged(model.program, model.prepared, jc.Box(np.zeros(2), np.ones(2)))
        staged.tighten()
        (crown,) = staged.rows(spec)
        (best,) = staged.rows(spec, StagedOptions(iterations=80))
    assert crown == pytest.approx(-1.0, abs=0.51) and crown <= -1.0
    assert crown < best <= -1.0 + 1e-12 or best == pytest.approx(-1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("f", "least"),
    [
        (lambda _, x: x, -3.0),
        (lambda _, x: 2 * x + 1, -5.0),
        (lambda _, x: jnp.sign(x), -1.0),
        (lambda _, x: jnp.ones(2), 1.0),
    ],
)
def test_networks_of_few_nodes_have_rows_too(f, least):
    spec = jc.Spec.rows(np.array([[1.0, 0.0]]), np.zeros(1))
    with jax.enable_x64(True):
        model = Model(f, {}, (2,))
        box = jc.Box(np.array([-3.0, 1.0]), np.array([0.5, 2.0]))
        staged = Staged(model.program, model.prepared, box)
        staged.tighten()
        found = (
            staged.interval_rows(spec),
            staged.rows(spec),
            staged.rows(spec, OPTIONS),
        )
        for (row,) in found:
            assert least - 1e-13 <= row < least


def test_nothing_more_is_bounded_when_the_time_is_over():
    with jax.enable_x64(True):
        model, (box, *_) = asked("deep")
        late = Staged(model.program, model.prepared, box, deadline=0.0)
        before = late.interval_rows(rows_of_outputs())
        late.tighten()
        assert np.array_equal(late.interval_rows(rows_of_outputs()), before)


def test_the_slack_in_a_program_of_its_own_is_that_of_the_others():
    with jax.enable_x64(True):
        model, (box, *_) = asked("deep")
        program, values = model.program, model.prepared
        boxes = Staged(program, values, box).boxes
        rows = rows_of_outputs().coefficients
        assert float(slack_of(program, values, boxes, rows)) == pytest.approx(
            float(float64_slack(program, values, boxes, rows)), rel=1e-12
        )
