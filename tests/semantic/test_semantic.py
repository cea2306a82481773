"""Semantic certificates against exact answers, dense grids and bad input.

The exact radius of a brightness change is computed in fractions: along one parameter
the network is piecewise linear, and its breakpoints can be followed layer by layer.
With two parameters a MILP decides the boxes of both ends of the bracket.
"""

from __future__ import annotations

import functools
import time
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from cases import sampled
from exact import exact_min_margin

from jaxcert.branch.questions import ParameterSplitOptions
from jaxcert.errors import InputError
from jaxcert.semantic.certifier import (
    SemanticCertifier,
    label_specs,
    row_specs,
    stay_specs,
)
from jaxcert.semantic.changes import FAMILIES, InputFamily
from jaxcert.spec import Spec
from jaxcert.verdict import Status

PIXELS, HIDDEN, CLASSES, COUNT = 6, 5, 3, 8
TOLERANCE = 1e-4
SMALL = ParameterSplitOptions(block=32, steps=4, capacity=1 << 12)


def net(params, x):
    """An MLP of one hidden layer over a 2 x 3 image."""
    hidden = jnp.maximum(params["w1"] @ x.reshape(-1) + params["b1"], 0)
    return params["w2"] @ hidden + params["b2"]


def network(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {"w1": (HIDDEN, PIXELS), "b1": HIDDEN, "w2": (CLASSES, HIDDEN),
              "b2": CLASSES}  # fmt: skip
    made = {k: random.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    # No class wins everywhere.
    made["b2"] -= logits(made, random.uniform(size=(200, PIXELS))).mean(axis=0)
    return {k: v.astype(np.float32) for k, v in made.items()}


def images(seed: int) -> np.ndarray:
    """Returns images of which some pixels lie at the ends of their range."""
    random = np.random.default_rng(seed)
    x = np.clip(random.uniform(-0.3, 1.3, (COUNT, 2, 3, 1)), 0, 1)
    return x.astype(np.float32).astype(np.float64)


def logits(params, x: np.ndarray) -> np.ndarray:
    p = {k: v.astype(np.float64) for k, v in params.items()}
    hidden = np.maximum(x.reshape(len(x), -1) @ p["w1"].T + p["b1"], 0)
    return hidden @ p["w2"].T + p["b2"]


@functools.cache
def certifier(family: str, seed: int) -> SemanticCertifier:
    return SemanticCertifier(
        net, network(seed), FAMILIES[family], batch_size=COUNT, options=SMALL
    )


def _first_violation(params, x: np.ndarray, label: int, sign: int) -> Fraction | None:
    """Returns the least b > 0 at which clip(x + sign b) is not of the class; exact."""
    p = {k: [[Fraction(float(v)) for v in row] for row in np.atleast_2d(a)]
         for k, a in params.items()}  # fmt: skip
    pixels = [Fraction(float(v)) for v in x.ravel()]

    def clipped(b: Fraction) -> list[Fraction]:
        return [min(max(v + sign * b, Fraction(0)), Fraction(1)) for v in pixels]

    def before(b: Fraction) -> list[Fraction]:
        z = clipped(b)
        return [sum(w * v for w, v in zip(row, z, strict=True)) + c
                for row, c in zip(p["w1"], p["b1"][0], strict=True)]  # fmt: skip

    def gaps(b: Fraction) -> list[Fraction]:
        a = [max(v, Fraction(0)) for v in before(b)]
        y = [sum(w * v for w, v in zip(row, a, strict=True)) + c
             for row, c in zip(p["w2"], p["b2"][0], strict=True)]  # fmt: skip
        return [y[label] - v for j, v in enumerate(y) if j != label]

    def refined(points: list[Fraction], values) -> list[Fraction]:
        """Adds the zeros of functions that are linear between two points."""
        new = set(points)
        for a, b in zip(points[:-1], points[1:], strict=True):
            for u, v in zip(values(a), values(b), strict=True):
                if u * v < 0:
                    new.add(a + (b - a) * u / (u - v))
        return sorted(new)

    ends = {-v if sign < 0 else 1 - v for v in pixels}
    ends |= {v if sign < 0 else -v for v in pixels}
    points = sorted({Fraction(0), Fraction(1)} | {e for e in ends if 0 < e < 1})
    points = refined(refined(points, before), gaps)
    return next((b for b in points if min(gaps(b)) <= 0), None)


# Those of two parameters are held against a MILP always.
@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(4))
def test_brightness_brackets_hold_the_exact_radius(seed):
    params, x = network(seed), images(seed)
    labels = logits(params, x).argmax(axis=1)
    found = certifier("brightness", seed).apothems(
        x, label_specs(labels, CLASSES), TOLERANCE
    )
    for i in range(COUNT):
        roots = [_first_violation(params, x[i], int(labels[i]), s) for s in (-1, 1)]
        exact = min([r for r in roots if r is not None], default=None)
        if exact is None:
            assert found.lower[i] == np.inf and found.upper[i] == np.inf
            continue
        assert Fraction(float(found.lower[i])) < exact
        assert exact <= Fraction(float(found.upper[i]))
        assert found.upper[i] - found.lower[i] <= TOLERANCE
        assert abs(found.witness[i, 0]) <= found.upper[i]
        y = logits(params, np.clip(x[i] + found.witness[i], 0, 1)[None])[0]
        assert y[labels[i]] <= np.delete(y, labels[i]).max()
        changed = np.clip(x[i] + found.witness[i, 0], 0, 1)
        assert logits(params, changed[None])[0].argmax() != labels[i] or np.isclose(
            *np.sort(logits(params, changed[None])[0])[-2:]
        )
    assert np.isfinite(found.lower).any()


def _unrolled(params, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns theta -> f(clip((1 + c) x + b)) as layers with ReLUs between them."""
    p = {k: v.astype(np.float64) for k, v in params.items()}
    flat = x.ravel()
    return [
        (np.stack([np.ones(PIXELS), flat]), flat),
        (-np.eye(PIXELS), np.ones(PIXELS)),
        (-p["w1"].T, p["w1"].sum(axis=1) + p["b1"]),
        (p["w2"].T, p["b2"]),
    ]


def test_brackets_of_two_parameters_agree_with_a_milp():
    params, x = network(7), images(7)
    labels = logits(params, x).argmax(axis=1)
    found = certifier("both", 7).apothems(x, label_specs(labels, CLASSES), TOLERANCE)
    decided = 0
    for i in range(COUNT):
        layers = _unrolled(params, x[i])

        def least(radius, layers=layers, label=labels[i]):
            box = np.full(2, min(radius, 1.0))
            rows = [np.eye(CLASSES)[label] - np.eye(CLASSES)[j]
                    for j in range(CLASSES) if j != label]  # fmt: skip
            return min(exact_min_margin(layers, -box, box, c, 0.0).value for c in rows)

        assert least(found.lower[i]) > -1e-6
        if np.isfinite(found.upper[i]):
            decided += 1
            assert least(found.upper[i]) < 1e-6
            assert found.upper[i] - found.lower[i] <= TOLERANCE
    assert decided >= 3


@pytest.mark.parametrize("name", sampled(["both", "brightness", "blur", "gamma"]))
def test_no_grid_point_inside_a_certified_range_violates(name):
    family = FAMILIES[name]
    for seed in (1, 2):
        params, x = network(seed), images(seed)
        labels = logits(params, x).argmax(axis=1)
        found = certifier(name, seed).apothems(
            x, label_specs(labels, CLASSES), TOLERANCE
        )
        k = len(family.names)
        axis = np.linspace(-1, 1, 4001 if k == 1 else 61)
        steps = np.stack(np.meshgrid(*[axis] * k), -1).reshape(-1, k)
        rates = np.where(steps < 0, family.rates_down, family.rates_up)
        for i in np.flatnonzero(found.lower > 0):
            radius = min(found.lower[i], family.reach())
            theta = np.clip(radius * steps * rates, family.lower, family.upper)
            changed = _changed(name, x[i], theta)
            assert (logits(params, changed).argmax(axis=1) == labels[i]).all()
        known = np.isfinite(found.upper)
        assert np.max(found.upper[known] - found.lower[known], initial=0) <= TOLERANCE


def _changed(name: str, x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Returns the changed images by other code than the library's."""
    t = theta[..., None, None, None]
    if name == "blur":
        kernel = np.outer([1, 2, 1], [1, 2, 1])[..., None] / 16
        blurred = scipy.ndimage.convolve(x, kernel, mode="nearest")
        return (1 - t[:, 0]) * x + t[:, 0] * blurred
    if name == "gamma":
        return x ** (1 + t[:, 0])
    b = t[:, 0] if name in ("brightness", "both") else 0
    c = {"contrast": t[:, 0], "both": t[:, -1]}.get(name, 0)
    return np.clip((1 + c) * x + b, 0, 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_changes_are_what_they_say(name):
    family, x = FAMILIES[name], images(3)[0]
    random = np.random.default_rng(0)
    theta = random.uniform(family.lower, family.upper, (20, len(family.names)))
    theta[0] = 0
    with jax.enable_x64(True):
        found = jax.vmap(family.transform, (None, 0))(jnp.asarray(x), theta)
    np.testing.assert_allclose(found, _changed(name, x, theta), atol=1e-13)
    np.testing.assert_array_equal(found[0], x)


def test_output_ranges_agree_with_a_milp():
    params, x, radius = network(7), images(7), 0.3
    found = certifier("both", 7).output_ranges(x, radius, 1e-3)
    assert not found.open.any()
    box = np.full(2, radius)
    for i in range(0, COUNT, 3):
        layers = _unrolled(params, x[i])
        for j, unit in enumerate(np.eye(CLASSES)):
            least = exact_min_margin(layers, -box, box, unit, 0.0).value
            most = -exact_min_margin(layers, -box, box, -unit, 0.0).value
            assert least - 1.01e-3 - 1e-6 < found.lower[i, j] < least + 1e-6
            assert most - 1e-6 < found.upper[i, j] < most + 1.01e-3 + 1e-6


def _cropped_and_brighter(x, theta):
    """Returns the right 2 x 2 pixels of a 2 x 3 image, brighter by theta."""
    return x[:, 1:] + theta[0]


@pytest.mark.campaign
def test_output_ranges_of_a_change_that_crops_the_image():
    crop = InputFamily(_cropped_and_brighter, ("b",), (-1.0,), (1.0,), (1.0,), (1.0,))

    def f(params, x):
        assert x.shape == (2, 2, 1)
        return params * jnp.stack([x.sum(), x[0, 0, 0], -x[1, 1, 0]])

    x = images(7)[:2]
    found = SemanticCertifier(f, np.float32(2), crop).output_ranges(x, 0.25, 1e-3)
    kept = x[:, :, 1:, 0]
    middle = 2 * np.stack([kept.sum((1, 2)), kept[:, 0, 0], -kept[:, 1, 1]], axis=1)
    reach = np.array([2.0, 0.5, 0.5])
    assert not found.open.any()
    for end, exactly, sign in (
        (found.lower, middle - reach, -1), (found.upper, middle + reach, 1),
    ):  # fmt: skip
        beyond = sign * (end - exactly)
        assert (beyond >= -1e-12).all() and (beyond < 1.01e-3).all()
    batch = SemanticCertifier(lambda p, x: p * x[:, 0, 0][None], np.float32(2), crop)
    with pytest.raises(InputError, match=r"the network returns shape \(1, 2\) for one"):
        batch.output_ranges(x, 0.25)


def _tiny_surplus(w, x):
    """Class 0 has 1e9 (w - 1) times the mean less .5, class 1 nothing."""
    return jnp.stack([(w - 1) * 1e9 * x.mean() - 0.5, 0 * x.mean()])


@pytest.mark.campaign
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_double_network_is_decided_as_that(dtype):
    """In float64 class 0 wins as long as the mean exceeds .5; in float32 w is 1."""
    w, x = dtype(1 + 2.0**-30), np.full((1, 2, 2, 1), 0.75)
    family, spec = FAMILIES["brightness"], label_specs(np.zeros(1, int), 2)
    found = SemanticCertifier(_tiny_surplus, w, family).apothems(x, spec, TOLERANCE)
    if dtype == np.float32:
        assert found.lower[0] == found.upper[0] == 0
        return
    exactly = 0.75 - 0.5 * 2.0**30 / 1e9
    assert found.upper[0] - TOLERANCE <= found.lower[0] <= exactly <= found.upper[0]


def test_verdicts_agree_with_the_brackets():
    params, x = network(7), images(7)
    labels = logits(params, x).argmax(axis=1)
    both, spec = certifier("both", 7), label_specs(labels, CLASSES)
    found = both.apothems(x, spec, TOLERANCE)
    radius = float(np.median(found.lower))
    verdicts = both.verdicts(x, spec, radius)
    proved, refuted = found.lower >= radius, found.upper <= radius
    assert proved.any() and refuted.any()
    assert (verdicts.status[proved] == Status.PROVED).all()
    assert (verdicts.status[refuted] == Status.REFUTED).all()
    for i in np.flatnonzero(verdicts.status == Status.REFUTED):
        assert np.abs(verdicts.witness[i]).max() <= radius
        changed = _changed("both", x[i], verdicts.witness[i : i + 1])
        y = logits(params, changed)[0]
        assert y[labels[i]] <= np.delete(y, labels[i]).max()


def _shifted(x, theta):
    return x + theta


def _dip(params, x):
    """Is |x - c| / w - 0.01: below 0 in a gap that is 0.02 w wide."""
    away = jax.nn.relu((x[0] - params) * jnp.array([1e3, -1e3]))
    return jnp.stack([away.sum() - 0.01, 0 * x[0]])


def test_a_verdict_that_needs_splits_does_not_miss_a_narrow_gap():
    family = InputFamily(_shifted, ("t",), (-1.0,), (1.0,), (1.0,), (1.0,))
    narrow = SemanticCertifier(_dip, np.float32(0.6371), family, batch_size=2)
    x = np.array([[0.5], [0.9]])
    verdicts = narrow.verdicts(x, label_specs(np.zeros(2, int), 2), 0.2)
    assert verdicts.status[0] != Status.PROVED
    assert verdicts.status[1] == Status.PROVED


def test_specs_of_staying_hold_where_every_output_is_nearer_than_the_distance():
    random = np.random.default_rng(0)
    y, distance = random.normal(size=(4, CLASSES)), 0.25
    spec = stay_specs(y, distance)
    for i in range(4):
        near = y[i] + random.uniform(-1.5, 1.5, size=(200, CLASSES)) * distance
        near[0] = y[i]
        rows = near @ np.asarray(spec.coefficients[i]).T + np.asarray(spec.offset[i])
        within = (np.abs(near - y[i]) < distance).all(axis=1)
        assert ((rows > 0).all(axis=1) == within).all() and 1 < within.sum() < 200


@pytest.mark.campaign
def test_outputs_stay_within_a_distance():
    params, x = network(7), images(7)
    y = logits(params, x)
    spec, both = stay_specs(y, 0.25), certifier("both", 7)
    found = both.apothems(x, spec, TOLERANCE)
    radius = float(np.median(found.lower))
    ranges = both.output_ranges(x, radius, 1e-4)
    off = np.maximum(ranges.upper - y, y - ranges.lower).max(axis=1)
    assert (off[found.lower >= radius] < 0.2502).all()
    assert (off[found.upper <= radius] >= 0.25).all()


def test_misclassified_inputs_have_nothing_to_prove():
    params, x = network(1), images(1)
    wrong = logits(params, x).argmin(axis=1)
    found = certifier("both", 1).apothems(x, label_specs(wrong, CLASSES), TOLERANCE)
    assert (found.lower == 0).all() and (found.upper == 0).all()


@pytest.mark.parametrize("limit", [0.0, 0.002, 0.02])
def test_what_is_proved_by_a_deadline_is_proved(limit):
    params, x = network(7), images(7)
    labels = logits(params, x).argmax(axis=1)
    spec, both = label_specs(labels, CLASSES), certifier("both", 7)
    full = both.apothems(x, spec, TOLERANCE)
    part = both.apothems(x, spec, TOLERANCE, time.monotonic() + limit)
    assert (part.lower <= full.upper).all() and (part.upper >= full.lower).all()
    ranges = both.output_ranges(x, 0.3, 1e-3, time.monotonic() + limit)
    y = logits(params, x)
    assert (ranges.lower <= y).all() and (y <= ranges.upper).all()
    if limit == 0:
        assert (part.lower == 0).all() and np.isinf(ranges.lower).all()


@pytest.mark.campaign
def test_a_full_stack_proves_less_and_nothing_false():
    params, x = network(7), images(7)
    labels = logits(params, x).argmax(axis=1)
    spec = label_specs(labels, CLASSES)
    full = certifier("both", 7).apothems(x, spec, TOLERANCE)
    tight = SemanticCertifier(
        net, params, FAMILIES["both"], batch_size=COUNT,
        options=ParameterSplitOptions(block=32, steps=4, capacity=4 * 4 * COUNT + 33),
    )  # fmt: skip
    part = tight.apothems(x, spec, TOLERANCE)
    assert (part.lower <= full.upper).all()
    narrow = ParameterSplitOptions(block=32, capacity=64)
    few = SemanticCertifier(
        net, params, FAMILIES["both"], batch_size=COUNT, options=narrow
    )
    with pytest.raises(InputError, match="do not fit on a stack of 64"):
        few.apothems(x, spec, TOLERANCE)


def test_no_relu_of_a_pruned_neuron_is_undecided():
    params = {k: v.copy() for k, v in network(2).items()}
    x = images(2)
    full = certifier("both", 2).undecided(x, 0.5)
    params["w1"][:] = 0
    none = SemanticCertifier(net, params, FAMILIES["both"]).undecided(x, 0.5)
    assert (none == 0).all() and (full > 0).any() and (full <= HIDDEN).all()
    assert (certifier("both", 2).undecided(x, 0.0) == 0).all()


def test_mistakes_are_named():
    params, x = network(1), images(1)
    both = certifier("both", 1)
    spec = label_specs(np.zeros(COUNT, int), CLASSES)
    with pytest.raises(InputError, match="tolerance is 0; it must be > 0 and finite"):
        both.apothems(x, spec, 0)
    with pytest.raises(InputError, match="radius is -1; it must be >= 0 and finite"):
        both.verdicts(x, spec, -1)
    with pytest.raises(InputError, match="lies outside the domain"):
        both.apothems(x + 1, spec)
    with pytest.raises(InputError, match="give one spec for each of the 2 inputs"):
        both.apothems(x[:2], spec)
    joined = Spec(spec.coefficients, spec.offset, 0 * spec.clause, 1)
    with pytest.raises(InputError, match="every row a clause of its own"):
        both.apothems(x, joined)
    wide = row_specs(np.zeros((COUNT, 1, CLASSES + 1)), np.ones((COUNT, 1)))
    with pytest.raises(InputError, match="speaks of 4 outputs, but the network"):
        both.apothems(x, wide)
    with pytest.raises(InputError, match=f"label {CLASSES} of input 1 is out of range"):
        label_specs(np.array([0, CLASSES]), CLASSES)
    with pytest.raises(InputError, match="batch_size is 0"):
        SemanticCertifier(net, params, FAMILIES["both"], batch_size=0)
    with pytest.raises(InputError, match="2 rates for the parameters b: give one each"):
        FAMILIES["brightness"].with_rates(1, 2)
    with pytest.raises(InputError, match="rates must be finite and >= 0, and not all"):
        FAMILIES["brightness"].with_rates(0)
    transform = FAMILIES["brightness"].transform
    with pytest.raises(InputError, match="needs as many bounds and rates, got 2, 1"):
        InputFamily(transform, ("b",), (-1, 0), (1,), (1,), (1,))
    with pytest.raises(InputError, match="parameters must lie around 0: no change"):
        InputFamily(transform, ("b",), (0.1,), (1,), (1,), (1,))
    with pytest.raises(InputError, match="reach beyond 1e.30: give finite bounds"):
        InputFamily(transform, ("b",), (0,), (np.inf,), (0,), (1,))
    with pytest.raises(InputError, match="rates above 0 must be at least 1e-30"):
        InputFamily(transform, ("b",), (0,), (1,), (0,), (1e-310,))


# What it guards is tested of input boxes in ../branch/test_input_split.py.
@pytest.mark.campaign
def test_a_point_that_rounding_puts_beyond_a_jump_refutes_nothing():
    """floor(1 - 2^-70) is 0; computed, sin^2 + cos^2 is 1 at many points."""

    def f(params, x):
        z = jnp.sum(x) * 7.0
        whole = jnp.floor(params * (jnp.sin(z) ** 2 + jnp.cos(z) ** 2) - 2.0**-70)
        return jnp.stack([0.5 + 0 * z, whole])

    x = np.full((3, 1, 2, 2), 0.4) + np.arange(3).reshape(3, 1, 1, 1) / 10
    asked = SemanticCertifier(f, np.float64(1.0), FAMILIES["brightness"])
    spec = label_specs(np.zeros(3, int), 2)
    late = time.monotonic() + 5.0
    assert np.isinf(asked.apothems(x, spec, 0.1, late).upper).all()
