"""The script `asymmetric`: matching, certificates, attacks, files, mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from in_process import Ended, ran
from studies.asymmetric import attack, command, smoothing
from studies.asymmetric import run as comparison
from studies.asymmetric.methods import Boxes, shifted
from studies.asymmetric.task import (
    NORMS,
    TASKS,
    implied_radii,
    load_task,
    matched_shifts,
    thresholds,
)
from studies.asymmetric.training import _check_settings

from jaxcert.convex import (
    ConvexArchitecture,
    ConvexClassifier,
    Shift,
    certified_radii,
    load_classifier,
    networks,
)
from jaxcert.errors import InputError
from jaxcert.learning.architecture import Architecture
from jaxcert.learning.models import checkpoint_metadata, from_params
from jaxcert.smoothing import Gaussian, SmoothingOptions

# A study of the project; what it runs of the package has tests of its own.
pytestmark = pytest.mark.campaign

DATA = Path(__file__).parents[2].parent / "shared/data"
INPUTS = 12

Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path, capsys) -> Run:
    """Runs the study in this process, small, into tmp_path/out."""
    small = {
        "dataset": "digits", "output": tmp_path / "out", "epochs": 40,
        "box_epochs": 20, "hidden": 8, "n": 200, "validation": 50, "attacks": 60,
        "inputs": f"0:{INPUTS}", "methods": ("convex", "smoothing"),
    }  # fmt: skip
    return lambda **flags: ran(command, capsys, **(small | flags))


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "certificates.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.campaign
def test_a_run_is_complete_and_continues(run, tmp_path, monkeypatch):
    out, methods = tmp_path / "out", ("convex", "smoothing")
    ended = run()
    assert ended.code == 0, ended.err
    *lines, path = ended.out.splitlines()
    assert path == f"curves: {out / 'curves.png'}" and max(map(len, lines)) <= 80
    assert "60 attacks inside certified radii: 0 succeeded" in ended.out
    assert "at 10 times the radii they break: l1 " in ended.out
    found = rows(out)
    assert len(found) == 2 * INPUTS
    assert {row["method"] for row in found} == set(methods)
    assert (out / "curves.png").stat().st_size > 10_000
    summary = json.loads((out / "summary.json").read_text())
    assert [m["certifies"] for m in summary["methods"]] == ["all", "l2"]
    # The certificates of the file are those of the stored classifier.
    classifier, _ = load_classifier(out / "convex.npz")
    data = load_task("digits", TASKS["digits"], None, 50, 0)
    mine = [row for row in found if row["method"] == "convex"]
    index = data.index.astype(str).tolist()
    x = data.test.images[[index.index(row["input"]) for row in mine]]
    model = classifier.with_shift(summary["methods"][0]["shift"])
    radius = np.array([[row[k] for k in ("l1", "l2", "linf")] for row in mine])
    np.testing.assert_array_equal(radius, certified_radii(model, x).radius)
    right = (model.scores(data.test.images) > 0) == data.test.labels
    assert summary["methods"][0]["clean"] == [int(right.sum()), len(right)]
    right = (model.scores(data.validation.images) > 0) == data.validation.labels
    assert summary["methods"][0]["validation"] == [int(right.sum()), len(right)]
    target = summary["matched_validation_accuracy"]
    assert all(m["validation"][0] / 50 >= target for m in summary["methods"])
    assert " points apart on validation images, " in ended.out
    stored = checkpoint_metadata(out / "smoothing.npz")["train"]
    assert stored["noise"] == TASKS["digits"].sigma, "fresh noise in every step"
    # A kill inside a line, and a method that has not begun.
    lines = (out / "certificates.jsonl").read_bytes().split(b"\n")
    (out / "certificates.jsonl").write_bytes(b"\n".join(lines[:15]) + b"\n{")
    certified: list[int] = []
    certify = smoothing.Smoothing.certify

    def counted(self, x, shift):
        certified.append(len(x))
        return certify(self, x, shift)

    monkeypatch.setattr(smoothing.Smoothing, "certify", counted)
    monkeypatch.setattr(comparison, "make_method", no_training(comparison.make_method))
    refused = run()
    assert refused.code == 1 and "already holds a comparison" in refused.err
    other = run(resume=True, n=300)
    assert other.code == 1 and "samples is 200 there and 300 here" in other.err
    again = run(resume=True)
    assert again.code == 0, again.err
    assert "the last line is torn" in again.err
    assert "convex: 12 inputs are done already" in again.err
    assert len(certified) == 2, "one batch, and once before to compile"
    assert {key(r): r["l2"] for r in rows(out)} == {key(r): r["l2"] for r in found}


def key(row: dict[str, Any]) -> tuple[str, str]:
    return row["method"], row["input"]


def no_training(make: Callable) -> Callable:
    def checked(name, task, data, options, folder):
        assert (folder / f"{name}.npz").exists()
        return make(name, task, data, options, folder)

    return checked


def test_shifts_are_the_greatest_that_keep_the_accuracy():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200)
    scores = [labels + random.normal(size=200) * s for s in (0.3, 1.0)]
    shifts, target = matched_shifts(scores, labels)

    def accuracy(values: np.ndarray, shift: float) -> float:
        return float(np.mean((values + shift > 0) == labels))

    grid = np.linspace(-5, 5, 20_001)
    best = [max(accuracy(values, shift) for shift in grid) for values in scores]
    assert target == min(best)
    for values, shift in zip(scores, shifts, strict=True):
        assert accuracy(values, shift) >= target
        for further in grid[grid > shift]:
            same = np.array_equal(values + further > 0, values + shift > 0)
            assert same or accuracy(values, further) < target
    cuts, shares = thresholds(scores[1], labels)
    assert [accuracy(scores[1], c) for c in cuts] == shares.tolist()


def test_implied_radii_are_those_of_the_norm_inequalities():
    d = 9
    radius = np.array([0.3])
    assert implied_radii(radius, 2, d).tolist() == [[0.3, 0.3, 0.3]]
    one, two, infinity = implied_radii(radius, 1, d)[0]
    assert (one, two) == (0.3, 0.3)
    assert Fraction(infinity) ** 2 * d <= Fraction(0.3) ** 2
    assert infinity == pytest.approx(0.1)
    one, two, infinity = implied_radii(radius, 0, d)[0]
    assert (
        one == 0.3 and two == pytest.approx(0.1) and infinity == pytest.approx(0.3 / 9)
    )
    assert NORMS == (1.0, 2.0, np.inf)


def linear(weight: np.ndarray) -> Any:
    """Returns the network with logits (0, w x)."""
    w = np.zeros((len(weight), 2), np.float32)
    w[:, 1] = weight
    architecture = Architecture("mlp", (len(weight),), num_classes=2, hidden=())
    layers = {0: {"kernel": w, "bias": np.zeros(2, np.float32)}}
    return from_params({"head": {"layers": layers}}, architecture, "linear")


def test_smoothing_of_a_linear_classifier_has_the_right_radius():
    """Its smoothed radius is the distance (w x + b) / |w|; no bound exceeds it."""
    weight = np.array([3.0, 4.0])
    options = SmoothingOptions(Gaussian(0.5), n=5000)
    method = smoothing.Smoothing(linear(weight), options, 0)
    x = np.random.default_rng(0).uniform(size=(8, 2))
    distance = (x @ weight - 2.0) / 5
    found = method.certify(x, -2.0)
    radius = found.radius[:, 1]
    assert (radius <= np.maximum(distance, 0) + 1e-6).all()
    inside = (distance > 0.1) & (distance < 1)
    assert inside.sum() >= 4
    assert (radius[inside] > distance[inside] - 0.1).all()
    np.testing.assert_allclose(method.scores(x) - 2, 5 * distance, atol=1.0)


@pytest.mark.campaign
def test_boxes_of_a_linear_classifier_have_the_right_radius():
    weight = np.array([3.0, -4.0])
    method = Boxes(linear(weight), "box", 60.0)
    x = np.array([[0.5, 0.25], [0.5, 0.5], [0.4, 0.1]])
    found = method.certify(x, 0.5)
    np.testing.assert_allclose(found.score, x @ weight + 0.5, atol=1e-6)
    exact = (x @ weight + 0.5) / 7
    np.testing.assert_allclose(found.radius[:, 2], np.maximum(exact, 0), atol=2e-4)
    moved = shifted(method.network, 0.5)
    assert moved.params["head"]["layers"][0]["bias"].tolist() == [0, 0.5]
    assert method.network.params["head"]["layers"][0]["bias"].tolist() == [0, 0]


@pytest.mark.campaign
def test_a_radius_that_is_too_large_is_noticed():
    """The attack has to be able to succeed: on radii 1 % too large, for example."""
    data = load_task("digits", TASKS["digits"], None, 50, 0)
    architecture = ConvexArchitecture("mlp", (8, 8, 1), hidden=(4,))
    shapes = networks.skeleton(architecture)[1]
    random = np.random.default_rng(0)
    params = networks.project(positive(shapes, random))
    x = data.test.images[:10]
    model = ConvexClassifier(
        architecture, params, Shift(data.fit.images[0]), (8, 8, 1), 0.0
    )
    model = model.with_shift(float(0.01 - model.scores(x).min()))
    radius = certified_radii(model, x).radius
    inside = attack.attack_all(model, x, radius, 60, 0)
    assert sum(a.found for a in inside if a.multiple == 1) == 0
    beyond = attack.attack_all(model, x, 1.01 * radius, 60, 0)
    assert sum(a.found for a in beyond if a.multiple == 1) > 0
    assert sum(a.made for a in beyond if a.multiple == 1) >= 60


def positive(shapes: Any, random: np.random.Generator) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: np.float32(
            np.ones(leaf.shape)
            if keys[-1].key == "var"
            else np.abs(random.normal(size=leaf.shape)) / 4
        ),
        shapes,
    )


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            {"methods": ("convex", "box")},
            "methods is 'convex,box'; choose some of",
        ),
        ({"epochs": 0}, "epochs is 0; it must lie in 1 .. 10000"),
        ({"timeout": 0.0}, "timeout is 0.0; it must be > 0"),
        ({"sigma": -1.0}, "sigma is -1.0; it must lie between 0 and 100"),
        ({"output": ""}, "output is empty: name the folder to write"),
        ({"validation": 200}, "200 validation images are more than half of the 287"),
        ({"inputs": "0:500"}, "selection '0:500' goes past the end: there are 3"),
    ],
)
def test_mistakes(run, request_, message):
    ended = run(**request_)
    assert ended.code == 1
    assert ended.err.startswith("error: ") and message in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_network_of_other_settings_is_not_used(tmp_path):
    with pytest.raises(InputError, match="was trained with other settings: choose"):
        _check_settings(tmp_path / "a.npz", {"train": 1}, {"train": 2})


@pytest.mark.campaign
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the images of ../shared/data")
def test_mnist(run):
    ended = run(
        dataset="mnist", data_dir=str(DATA), methods=("convex",), epochs=1,
        validation=1000,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "mnist: 3 (sensitive) against 8" in ended.out
    assert "convex: training on 10982 images" in ended.err
    assert "60 attacks inside certified radii: 0 succeeded" in ended.out


def test_flags(capsys):
    ended = ran(command, capsys, "--dataset=cifar")
    assert ended.code == 2 and ended.err.startswith("error: flag --dataset=cifar")
