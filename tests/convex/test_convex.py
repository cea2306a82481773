"""Feature-convex classifiers: exact answers in fractions, attacks, files, training."""

from __future__ import annotations

import dataclasses
import json
import math
import zipfile
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled
from flax import nnx

from jaxcert.convex import (
    ConvexArchitecture,
    ConvexClassifier,
    ConvexTrainConfig,
    CustomFeatures,
    Shift,
    ShiftAbs,
    certified_radii,
    certify,
    load_classifier,
    networks,
    project,
    save_classifier,
    train_classifier,
)
from jaxcert.convex.certify import norm_above
from jaxcert.errors import InputError
from jaxcert.learning.checkpoint import by_path
from jaxcert.learning.data import load_dataset

MLP = ConvexArchitecture("mlp", (3,), hidden=(5, 4))
CNN = ConvexArchitecture("cnn", (6, 6, 1), channels=2, depth=3, first_kernel=3)
# var + 2^-16 is a square, so that batch norms are rational.
SQUARES = np.float32([0.25, 1, 4]) - np.float32(2.0**-16)
INF = math.inf


def fails(message: str):
    return pytest.raises(InputError, match=message)


def random_params(architecture: ConvexArchitecture, seed: int, grid: int = 0) -> Any:
    """Returns random convex parameters with rational batch norms.

    With a grid all numbers are multiples of 1 / grid, so that zeros of pre-activations
    are frequent.
    """
    random = np.random.default_rng(seed)

    def draw(keys: Any, leaf: Any) -> np.ndarray:
        name = keys[-1].key
        if name == "var":
            return random.choice(SQUARES, leaf.shape)
        values = random.normal(size=leaf.shape)
        values = np.round(values * grid) / grid if grid else values
        if keys[0].key in ("monotone", "readout"):
            return np.abs(values)
        return np.abs(values) + 0.5 if name == "scale" else values

    shapes = networks.skeleton(architecture)[1]
    drawn = jax.tree_util.tree_map_with_path(draw, shapes)
    return jax.tree.map(np.float32, project(drawn))


def classifier(architecture=MLP, seed=0, grid=0, shift=1.0, features=Shift):
    shape = architecture.feature_shape
    if features is ShiftAbs:
        shape = (*shape[:-1], shape[-1] // 2)
    mu = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    mu = np.float32(np.round(mu * grid) / grid if grid else mu)
    params = random_params(architecture, seed, grid)
    return ConvexClassifier(architecture, params, features(mu), shape, shift)


def exact(values: Any) -> np.ndarray:
    """Returns an array of fractions."""
    array = np.asarray(values, np.float64)
    flat = [Fraction(float(v)) for v in array.ravel()]
    return np.array(flat, object).reshape(array.shape)


def exact_score(model: ConvexClassifier, x: np.ndarray) -> Fraction:
    """Returns f at one input of an MLP, in rational arithmetic; x holds fractions."""
    p = {path: exact(array) for path, array in by_path(model.params).items()}
    moved = x - exact(model.features.mu)
    if isinstance(model.features, ShiftAbs):
        moved = np.concatenate([moved, np.abs(moved)])

    def norm(index: int, z: np.ndarray) -> np.ndarray:
        mean, var, scale, bias = (
            p[f"norms/{index}/{part}"][0] for part in ("mean", "var", "scale", "bias")
        )
        square = var + Fraction(1, 2**16)
        root = Fraction(math.isqrt(square.numerator), math.isqrt(square.denominator))
        assert root**2 == square
        return (z - mean) / root * scale + bias

    z = moved @ p["first/kernel"] + p["first/bias"]
    for index in range(len(model.architecture.hidden)):
        z = norm(index, np.maximum(z, Fraction(0)))
        z = z @ p[f"monotone/{index}/kernel"]
        z = z + moved @ p[f"passthrough/{index}/kernel"]
        z = z + p[f"passthrough/{index}/bias"]
    return z[0] + Fraction(model.shift)


def directions(p: float, size: int, seed: int) -> np.ndarray:
    """Returns vectors of p-norm at most 1, corners of the ball among them."""
    random = np.random.default_rng(seed)
    if p == 1:
        return np.concatenate([np.eye(size), -np.eye(size)])
    if p == INF:
        return np.array(np.meshgrid(*[[-1.0, 1.0]] * size)).reshape(size, -1).T
    drawn = np.concatenate(
        [random.normal(size=(12, size)), np.eye(size), -np.eye(size)]
    )
    return drawn / np.linalg.norm(drawn, p, axis=1, keepdims=True) * (1 - 1e-15)


@pytest.mark.parametrize("grid", sampled([1, 0, 4]))
@pytest.mark.parametrize("features", sampled([ShiftAbs, Shift]))
def test_exact_arithmetic_confirms_the_radii(grid, features):
    """At kinks too: on the grid many pre-activations are exactly 0."""
    architecture = MLP
    if features is ShiftAbs:
        architecture = dataclasses.replace(MLP, feature_shape=(6,))
    norms = (1.0, 1.5, 2.0, 3.0, INF)
    certified = 0
    for seed in range(8):
        model = classifier(architecture, seed, grid, 3.0, features)
        random = np.random.default_rng(100 + seed)
        x = random.normal(size=(6, 3))
        x = np.round(x * grid) / grid if grid else x
        found = certified_radii(model, x, norms)
        for row, point in enumerate(x):
            value = exact_score(model, exact(point))
            lower = Fraction(float(found.lower[row]))
            assert lower <= value < lower + Fraction(1, 10**9)
            assert abs(value - Fraction(float(found.score[row]))) < Fraction(1, 10**9)
            for column, p in enumerate(norms):
                radius = float(found.radius[row, column])
                certified += radius > 0
                assert radius == 0 or value > 0
                if radius == 0:
                    continue
                for direction in directions(p, 3, seed):
                    other = exact(point) + exact(direction) * Fraction(radius)
                    assert exact_score(model, other) > 0
    assert certified > 60


def linear_params(slope: list[float], offset: float) -> Any:
    """Returns parameters of MLP for g(z) = slope z + offset."""

    def fill(keys: Any, leaf: Any) -> np.ndarray:
        fills = {"var": SQUARES[1], "scale": 1}
        return np.full(leaf.shape, fills.get(keys[-1].key, 0), np.float32)

    shapes = networks.skeleton(MLP)[1]
    params = jax.tree_util.tree_map_with_path(fill, shapes)
    params["passthrough"][1]["kernel"] = np.float32(slope)[:, None]
    params["passthrough"][1]["bias"] = np.float32([offset])
    return params


def test_the_radius_is_that_of_the_exact_gradient():
    """A linear piece: the closed form, and nothing lost but rounding."""
    params = linear_params([3, -4, 12], 26)
    model = ConvexClassifier(MLP, params, Shift(np.zeros(3, np.float32)), (3,))
    found = certified_radii(model, np.zeros((1, 3)), (1.0, 2.0, 1.25, INF))
    q5 = (3**5 + 4**5 + 12**5) ** 0.2
    np.testing.assert_allclose(found.radius[0], [26 / 12, 2, 26 / q5, 26 / 19], 1e-9)
    assert Fraction(found.radius[0, 1]) < 2
    assert found.lower[0] < 26 == found.score[0]


def test_a_wrong_gate_costs_nothing_but_itself():
    """Cancellation gives the pre-activation the wrong sign in float64.

    The ReLU sees 2^60 + 1 - 2^60 = 1, or 0 in float64: its slope is 1, not 0.
    """
    architecture = ConvexArchitecture("mlp", (3,), hidden=(1,))
    params = jax.tree.map(lambda a: np.zeros(a.shape, np.float32),
                          networks.skeleton(architecture)[1])  # fmt: skip
    params["norms"][0]["var"] += SQUARES[1]
    params["norms"][0]["scale"] += 1
    params["first"]["kernel"] = np.float32([[2.0**60], [1], [-(2.0**60)]])
    params["monotone"][0]["kernel"] += 1
    params["passthrough"][0]["kernel"] = np.float32([[0], [-1.0], [0]])
    for shift in (-0.5, 0.0, 0.5, 2.0**30):
        model = ConvexClassifier(
            architecture, params, Shift(np.zeros(3, np.float32)), (3,), shift
        )
        x = np.ones((1, 3))
        found = certified_radii(model, x)
        value = exact_score(model, exact(x[0]))
        assert value == 1 - 1 + Fraction(shift)
        assert Fraction(float(found.lower[0])) <= value
        for column, p in enumerate((1.0, 2.0, INF)):
            for direction in directions(p, 3, 0):
                step = Fraction(float(found.radius[0, column]))
                other = exact(x[0]) + exact(direction) * step
                assert step == 0 or exact_score(model, other) > 0


def test_a_slope_that_cancels_is_charged():
    """The slope is 2^60 - 1 - 2^60 = -1, or 0 in float64, which would prove any radius.

    f(y) = relu(2^60 y + 1) + relu(1 - y) - 2^60 y - 3/2, which is 1/2 - y on [0, 1].
    """
    architecture = ConvexArchitecture("mlp", (1,), hidden=(2,))
    params = jax.tree.map(
        lambda a: np.zeros(a.shape, np.float32), networks.skeleton(architecture)[1]
    )
    params["norms"][0]["var"] += SQUARES[1]
    params["norms"][0]["scale"] += 1
    params["first"]["kernel"] = np.float32([[2.0**60, -1]])
    params["first"]["bias"] += 1
    params["monotone"][0]["kernel"] += 1
    params["passthrough"][0]["kernel"] = np.float32([[-(2.0**60)]])
    model = ConvexClassifier(
        architecture, params, Shift(np.zeros(1, np.float32)), (1,), -1.5
    )
    at = [exact_score(model, exact([y])) for y in (0.0, 0.25, 0.5)]
    assert at == [Fraction(1, 2), Fraction(1, 4), 0]
    found = certified_radii(model, np.zeros((1, 1)), (1.0, 1.5, 2.0, INF))
    assert found.score[0] == 0.5
    assert ((found.radius > 0) & (found.radius < 0.5)).all()


def test_numbers_that_underflow_are_charged():
    """-1e-30 times 1e-300 is 0 in float64, and below it in truth."""
    params = linear_params([-1e-30, 0, 0], 0)
    model = ConvexClassifier(MLP, params, Shift(np.zeros(3, np.float32)), (3,))
    x = np.full((1, 3), 1e-300)
    found = certified_radii(model, x)
    assert found.score[0] == 0 > exact_score(model, exact(x[0]))
    assert Fraction(float(found.lower[0])) <= exact_score(model, exact(x[0]))
    assert not found.radius.any()


def test_numbers_that_overflow_prove_nothing():
    model = classifier(MLP, 3, shift=1e-3)
    assert not certified_radii(model, np.full((1, 3), 1e308)).radius.any()


@pytest.mark.parametrize("p", [1.0, 1.001, 1.3, 2.0, 2.5, 7.0, 1e6, INF])
def test_dual_norms_are_rounded_up(p):
    vectors = np.abs(np.random.default_rng(0).normal(size=(20, 50)))
    vectors[0] = 0
    above = norm_above(vectors, p)
    for row, found in zip(vectors[1:], above[1:], strict=True):
        if p == 1:
            assert found == row.max()
        elif p == INF:
            total = sum(map(Fraction, row.tolist()))
            assert total <= Fraction(found) <= total * (1 + Fraction(1, 10**12))
        elif p == 2:
            total = sum(Fraction(v) ** 2 for v in row.tolist())
            assert total <= Fraction(found) ** 2 <= total * (1 + Fraction(1, 10**11))
        else:
            q = p / (p - 1)
            norm = row.max() * np.linalg.norm(row / row.max(), q)
            assert norm <= found <= norm * (1 + 1e-9)
    assert above[0] == 0
    assert norm_above(np.array([[1.0, np.nan]]), p)[0] == INF


@pytest.mark.parametrize("architecture", [MLP, CNN])
def test_networks_are_convex(architecture):
    """The midpoint inequality, on random pairs and random parameters."""
    with jax.enable_x64(True):
        for seed in range(3):
            params = jax.tree.map(np.float64, random_params(architecture, seed))
            random = np.random.default_rng(seed)
            shape = (2, 500, *architecture.feature_shape)
            sizes = random.exponential(size=(500, *(1,) * (len(shape) - 2)))
            a, b = random.normal(size=shape) * sizes
            g = jax.jit(lambda z, p=params: networks.apply(architecture, p, z))
            gap = (g(a) + g(b)) / 2 - g((a + b) / 2)
            assert float(gap.min()) > -1e-9
            assert float(gap.max()) > 1e-3, "it is not affine"


def test_a_cnn_keeps_its_class_inside_its_radii():
    model = classifier(CNN, 1, shift=0.0)
    x = np.random.default_rng(0).normal(size=(40, 6, 6, 1))
    model = model.with_shift(float(-np.median(model.scores(x))))
    found = certified_radii(model, x)
    assert (found.radius > 0).any(axis=1).sum() >= 15
    assert not found.radius[found.score <= 0].any()
    random = np.random.default_rng(1)
    for column, p in enumerate(found.norms):
        steps = random.normal(size=(30, 1, 36))
        steps = np.sign(steps) if p == INF else steps
        steps /= np.linalg.norm(steps, p, axis=-1, keepdims=True)
        steps = (
            steps.reshape(30, 1, 6, 6, 1) * found.radius[:, column, None, None, None]
        )
        moved = (x + steps).reshape(-1, 6, 6, 1)
        scores = model.scores(moved).reshape(30, 40)
        assert (scores > 0)[:, found.radius[:, column] > 0].all()


@pytest.mark.campaign
def test_batches_change_nothing_and_compile_little():
    model = classifier(CNN, 1, shift=5.0)
    x = np.random.default_rng(0).normal(size=(300, 6, 6, 1))
    whole = certified_radii(model, x)
    assert whole.radius.shape == (300, 3) and (whole.radius > 0).any()
    before = certify._minorants._cache_size()
    for part in (slice(0, 1), slice(17, 24), slice(100, 250)):
        some = certified_radii(model.with_shift(5.0), x[part])
        for field in ("score", "lower", "radius"):
            np.testing.assert_allclose(
                getattr(some, field), getattr(whole, field)[part], 1e-9
            )
    assert certify._minorants._cache_size() == before + 2, (
        "sizes 1 and 8; 256 was there"
    )


def test_lipschitz_constants_hold():
    random = np.random.default_rng(0)
    mu = random.normal(size=(4, 3)).astype(np.float32)
    x, y = random.normal(size=(2, 200, 4, 3)).astype(np.float32)
    for features in (Shift(mu), ShiftAbs(mu)):
        for p in (1.0, 1.5, 2.0, 10.0, INF):
            change = np.asarray(features(x) - features(y)).reshape(200, -1)
            size = np.linalg.norm(change, p, axis=1)
            least = np.linalg.norm((x - y).reshape(200, -1), p, axis=1)
            assert (size <= features.lipschitz(p) * least * (1 + 1e-5)).all()
    assert ShiftAbs(mu).lipschitz(1.0) == 2
    assert Fraction(ShiftAbs(mu).lipschitz(2.0)) ** 2 >= 2
    assert ShiftAbs(mu).lipschitz(INF) == 1


def test_custom_features_enter_with_their_constant():
    """phi(x) = 2 x: half the radius of phi(x) = x with weights twice as large."""
    double = CustomFeatures(
        lambda x: 2 * x, lambda p: 2.0, lambda x: 2 * jnp.abs(x), roundings=0
    )
    params = random_params(MLP, 2)
    twice = jax.tree_util.tree_map_with_path(
        lambda keys, a: (
            2 * a
            if keys[0].key in ("first", "passthrough") and keys[-1].key == "kernel"
            else a
        ),
        params,
    )
    zero = Shift(np.zeros(3, np.float32))
    x = np.random.default_rng(0).normal(size=(10, 3))
    one = certified_radii(ConvexClassifier(MLP, params, double, (3,), 9.0), x)
    two = certified_radii(ConvexClassifier(MLP, twice, zero, (3,), 9.0), x)
    assert (two.radius > 0).any()
    np.testing.assert_allclose(one.radius, two.radius, rtol=1e-9)
    with fails("^feature-convex: a custom feature map is code, which a checkpoint"):
        save_classifier("x.npz", ConvexClassifier(MLP, params, double, (3,)))
    wrong = dataclasses.replace(double, constant=lambda p: 0.0)
    with fails("^the feature map states the Lipschitz constant 0.0 for p = 1; it"):
        certified_radii(ConvexClassifier(MLP, params, wrong, (3,)), x)


def test_projection_is_the_nearest_convex_network():
    params = nnx.to_pure_dict(nnx.state(networks.build(MLP, nnx.Rngs(0))))
    moved = jax.tree.map(lambda a: a - 0.01, params)
    for path, array in by_path(project(moved)).items():
        before = by_path(moved)[path]
        least = networks.least_allowed(path)
        assert (least is not None) == (
            path.startswith("monotone/") or path.endswith("scale")
        )
        expected = before if least is None else np.maximum(before, least)
        np.testing.assert_array_equal(array, expected)


@pytest.fixture(scope="module")
def trained():
    digits = load_dataset("digits", "train")
    chosen = np.isin(digits.labels, (3, 8))
    labels = (digits.labels[chosen] == 3).astype(np.int32)
    data = dataclasses.replace(digits, images=digits.images[chosen], labels=labels)
    architecture = ConvexArchitecture("mlp", (8, 8, 1), hidden=(16, 8))
    config = ConvexTrainConfig(epochs=20, batch_size=32, learning_rate=5e-3)
    features = Shift(data.images.mean(axis=0))
    return data, *train_classifier(architecture, features, data, config)


def test_training_learns_and_stays_convex(trained):
    data, model, history = trained
    assert len(history) == 20 and history[-1].loss < history[0].loss
    assert np.mean((model.scores(data.images) > 0) == data.labels) > 0.9
    for path, array in by_path(model.params).items():
        least = networks.least_allowed(path)
        assert least is None or array.min() >= least
    assert any(np.any(a == 0) for a in by_path(model.params).values()), "clamped"
    means = [a for k, a in by_path(model.params).items() if k.endswith("mean")]
    assert all(np.any(a != 0) for a in means)


@pytest.mark.campaign
def test_a_penalty_flattens_the_network(trained):
    data, model, _ = trained
    config = ConvexTrainConfig(epochs=20, batch_size=32, learning_rate=5e-3, penalty=3)
    flat, _ = train_classifier(model.architecture, model.features, data, config)
    x = data.images[data.labels == 1]

    def steepness(model: ConvexClassifier) -> float:
        found = certified_radii(model.with_shift(100.0), x)
        return float(np.median(found.lower / found.radius[:, 1]))

    assert steepness(flat) < 0.7 * steepness(model)


def test_files_come_back_equal(trained, tmp_path):
    _, model, _ = trained
    path = tmp_path / "net.npz"
    save_classifier(path, model.with_shift(0.3), {"note": 1})
    loaded, metadata = load_classifier(path)
    assert metadata == {"note": 1}
    assert loaded.content_hash == model.with_shift(0.3).content_hash
    assert loaded.content_hash != model.content_hash
    x = np.random.default_rng(0).uniform(size=(5, 8, 8, 1))
    np.testing.assert_array_equal(loaded.scores(x), model.with_shift(0.3).scores(x))


def test_a_network_that_is_not_convex_is_refused(trained, tmp_path):
    _, model, _ = trained
    path = tmp_path / "net.npz"
    save_classifier(path, model)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    broken = model.params["monotone"][1]["kernel"].copy()
    broken[2, 0] = -0.25
    with open(tmp_path / "kernel.npy", "wb") as file:
        np.save(file, broken)
    members["monotone/1/kernel.npy"] = (tmp_path / "kernel.npy").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with fails(
        r"net.npz: .*: array monotone/1/kernel holds -0.25, so the network is not "
        "convex and nothing can be certified about it: call jaxcert.convex.project "
        "after every training step$"
    ):
        load_classifier(path)
    for field, value in (("scale", -1e-3), ("var", -0.5)):
        params = jax.tree.map(np.copy, model.params)
        params["norms"][0][field][0] = value
        with fails(f"array norms/0/{field} holds"):
            dataclasses.replace(model, params=params)


def test_damaged_files_are_refused(trained, tmp_path):
    _, model, _ = trained
    path = tmp_path / "net.npz"
    with fails("^no checkpoint .*net.npz$"):
        load_classifier(path)
    save_classifier(path, model)
    with np.load(path) as stored:
        arrays = dict(stored)

    def rewrite(**changes: Any) -> None:
        header = json.loads(arrays["header"].tobytes())
        header |= changes.pop("header", {})
        text = np.frombuffer(json.dumps(header).encode(), np.uint8)
        np.savez(path, **(arrays | {"header": text} | changes))

    rewrite(**{"outside/shift": np.float32(5)})
    with fails("net.npz: the weights do not have the content hash of the header"):
        load_classifier(path)
    rewrite(header={"features": "fourier"})
    with fails("unknown feature map 'fourier'; known: shift, shift_abs$"):
        load_classifier(path)
    rewrite(header={"format": "jaxcert checkpoint"})
    with fails("is not a jaxcert convex checkpoint: its header is another's$"):
        load_classifier(path)
    rewrite(header={"input_shape": [64]})
    with fails("net.npz: .* the feature map turns inputs of shape .64,. into"):
        load_classifier(path)


def test_mistakes_are_named():
    model = classifier()
    with fails("^inputs have shape .2, 4.; feature-convex takes .n, 3. with n >= 1$"):
        certified_radii(model, np.zeros((2, 4)))
    with fails("^inputs have shape .0, 3.; feature-convex takes .n, 3. with n >= 1$"):
        model.scores(np.zeros((0, 3)))
    with fails("^input 1 holds NaN or infinity: clean it before certifying$"):
        certified_radii(model, np.array([[0, 0, 0], [0, np.nan, 0]]))
    with fails("^the exponent of a norm must be at least 1, got 0.5$"):
        certified_radii(model, np.zeros((2, 3)), (0.5,))
    with fails("^feature-convex: the feature map turns inputs of shape .3,. into .6,."):
        dataclasses.replace(model, features=ShiftAbs(np.zeros(3, np.float32)))
    with fails("^feature-convex: the logit shift is inf$"):
        model.with_shift(INF)
    with fails("^a convex cnn takes features .h, w, c., not .3,.$"):
        ConvexArchitecture("cnn", (3,))
    with fails("^unknown kind 'rnn' of convex network: mlp, cnn$"):
        ConvexArchitecture("rnn", (3,))  # type: ignore[arg-type]
    with fails("^convex network: hidden must be integers above 0$"):
        ConvexArchitecture("mlp", (3,), hidden=(0,))
    for field, value in (("epochs", 0), ("decay", 2), ("momentum", 1), ("penalty", -1)):
        with fails(f"^{field} must "):
            ConvexTrainConfig(**{field: value})


def test_labels_must_be_binary():
    digits = load_dataset("digits", "test")
    architecture = ConvexArchitecture("mlp", (8, 8, 1), hidden=(4,))
    features = Shift(digits.images[0])
    with fails("^digits has labels other than 0 and 1: make the sensitive class 1"):
        train_classifier(architecture, features, digits, ConvexTrainConfig(epochs=1))
    with fails("^batch_size 1000 exceeds the 360 images of digits test$"):
        config = ConvexTrainConfig(batch_size=1000)
        train_classifier(architecture, features, digits, config)
