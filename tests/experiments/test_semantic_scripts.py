"""The scripts `semantic` and `prune`: files, continuation, the grid, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import _prune_run
import numpy as np
import prune
import pytest
import semantic
from _keypoints import extremal_points, keypoints, pixel_error
from _prune_run import RUNS, Study
from _semantic_grid import check_on_grid
from absl.testing import flagsaver
from conftest import Tiny
from in_process import answered

from jaxcert.data import Dataset, load_dataset
from jaxcert.input_changes import FAMILIES
from jaxcert.models import load_network


def run(main, capsys, script: str, **given):
    with flagsaver.flagsaver(**given):
        return answered(main, script, capsys)


def test_semantic_writes_a_line_per_input_and_resumes(tiny: Tiny, tmp_path, capsys):
    flags = dict(model=str(tiny.checkpoint), dataset="digits", inputs="0:6",
                 changes=["brightness"], grid=201, output=str(tmp_path))  # fmt: skip
    ended = run(semantic.main, capsys, "semantic.py", **flags)
    assert ended.code == 0, ended.err
    assert "0 of them inside a certified range" in ended.out
    path = tmp_path / "semantic.jsonl"
    lines = path.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["input"] for r in records] == [str(i) for i in range(6)]
    right = [r for r in records if r["status"] == "certified"]
    assert right and all(r["grid"]["inside"] == 0 for r in right)
    for r in right:
        if not isinstance(r["lower"], str):
            assert 0 < r["lower"] < r["upper"] <= r["lower"] + 1e-3
    # A line that a kill cut off is made again, the others stay as they are.
    path.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])
    again = run(semantic.main, capsys, "semantic.py", **flags, resume=True)
    assert again.code == 0 and path.read_text().splitlines()[:3] == lines[:3]
    assert len(path.read_text().splitlines()) == 6
    other = run(semantic.main, capsys, "semantic.py", **flags, resume=True,
                tolerance=0.01)  # fmt: skip
    assert other.code == 1
    assert "was written with another tolerance" in other.err


def test_the_grid_notices_a_range_that_is_too_wide(tiny: Tiny):
    network = load_network(tiny.checkpoint)
    digits = load_dataset("digits", "test")
    x = digits.images[0].astype(np.float64)
    label = int(tiny.logits(x[None])[0].argmax())
    change = ("brightness", FAMILIES["brightness"])
    check = check_on_grid(
        network.apply, network.params, change, x, label, (1.0, np.inf), 201
    )
    wrong = [
        b for b in np.linspace(-1, 1, 201)
        if tiny.logits(np.clip(x + b, 0, 1)[None])[0].argmax() != label
    ]  # fmt: skip
    assert check.inside >= len(wrong) > 0
    assert np.isclose(check.nearest, np.abs(wrong).min())


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"changes": ["fog"]}, "unknown change fog; known: brightness"),
        ({"tolerance": 0.0}, "tolerance is 0.0; it must be > 0"),
        ({"time_limit": -1.0}, "time_limit is -1.0"),
        ({"rates": ["a", "b"]}, "--rates takes numbers with commas, got a,b"),
        ({"rates": ["1"]}, "1 rates for the parameters b, c: give one each"),
    ],
)
def test_mistakes_with_semantic_flags_are_one_line(flags, message, capsys):
    ended = run(semantic.main, capsys, "semantic.py", **flags)
    assert ended.code == 1 and message in ended.err
    assert ended.err.count("\n") == 1


def test_keypoints_are_the_extremal_pixels():
    garment = np.zeros((5, 6), bool)
    garment[1, 2:4] = garment[2, 1:6] = garment[3, 3] = True
    wanted = [1, 2.5, 3, 3, 2, 1, 2, 5]
    np.testing.assert_allclose(extremal_points(garment), wanted)
    image = np.where(garment, 1.0, 0).astype(np.float32)
    wide = np.zeros((4, 28, 28, 1), np.float32)
    wide[:, 3:8, 4:10, 0] = image
    data = Dataset("x", "test", wide, np.zeros(4, np.int32), ("a",), "made")
    task = keypoints(data, 0)
    assert task.x.shape == (4, 48, 48, 1)
    assert task.x.min() >= 0 and task.x.max() <= 1
    for x, y in zip(task.x[..., 0], task.y, strict=True):
        found = extremal_points(x > 0.9)
        np.testing.assert_allclose(y * 24 + 24, found, atol=1e-4)
    assert pixel_error(task.y, task.y) == 0
    shifted = task.y + np.tile([3, 4], 4) / 24
    assert np.isclose(pixel_error(shifted, task.y), 5, atol=1e-4)


def test_prune_compares_all_methods_and_resumes(tmp_path, monkeypatch, capsys):
    random = np.random.default_rng(0)
    images = (random.uniform(size=(1100, 28, 28, 1)) > 0.9).astype(np.float32)
    data = Dataset("x", "train", images, np.zeros(1100, np.int32), ("a",), "made")
    monkeypatch.setattr(prune, "load_dataset", lambda *_: data)
    measured: list[str] = []

    def measure(network, test, study: Study) -> dict[str, float]:
        measured.append(network.name)
        figures = {"error": 1.0, "boxes": 4.0, "seconds": 0.1, "undecided": 9.0}
        counts = {"inputs": 9, "proved": len(measured), "refuted": 0, "unknown": 0}
        return figures | counts

    monkeypatch.setattr(_prune_run, "measure", measure)
    flags = dict(images=128, epochs=1, rounds=1, seeds=1, output=str(tmp_path))
    ended = run(prune.main, capsys, "prune.py", **flags)
    assert ended.code == 0, ended.err
    path = Path(tmp_path / "pruning.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["method"] for r in records] == [name for name, _, _ in RUNS]
    total = {r["method"]: sum(r["pruned"]) for r in records}
    assert total.pop("unpruned") == 0 and set(total.values()) == {42}
    assert all(name in ended.out for name, _, _ in RUNS)
    made = len(measured)
    again = run(prune.main, capsys, "prune.py", **flags, resume=True)
    assert again.out == ended.out and len(measured) == made
    other = run(prune.main, capsys, "prune.py", **flags, resume=True, sparsity=0.25)
    assert other.code == 1 and "was written with another sparsity" in other.err
    bad = run(prune.main, capsys, "prune.py", radius=0.0)
    assert bad.code == 1 and "radius is 0.0; it must be > 0" in bad.err
