"""The scripts `semantic` and `prune`: files, continuation, the grid, mistakes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Tiny
from studies.prune import run as _prune_run
from studies.prune.keypoints import extremal_points, keypoints, pixel_error
from studies.prune.run import RUNS, Study

from jaxcert.commands.inputs import select_inputs
from jaxcert.commands.semantic.grid import check_on_grid
from jaxcert.commands.semantic.run import (
    Request,
    named_families,
    run,
    sentence,
    table,
    violations,
)
from jaxcert.errors import InputError
from jaxcert.learning.data import Dataset, load_dataset
from jaxcert.learning.models import load_network
from jaxcert.semantic.changes import FAMILIES

SCRIPTS = Path(__file__).parents[2] / "experiments"


def request(**given) -> Request:
    families = named_families(given.pop("changes", ["brightness"]), [])
    plain = {"tolerance": 1e-3, "batch_size": 32, "time_limit": np.inf, "grid": 201}
    return Request(families, **(plain | given))


def test_semantic_writes_a_line_per_input_and_resumes(tiny: Tiny, tmp_path):
    network = load_network(tiny.checkpoint)
    chosen = select_inputs("0:6", network, "digits", "test", None)
    asked = request()
    records = run(asked, network, chosen, tmp_path, False)
    assert violations(records) == 0
    said = sentence(records, asked)
    assert "0 of them inside a certified range" in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 80
    lines = table(records, asked).splitlines()
    assert lines[-1].split()[:2] == ["brightness", "6"] and max(map(len, lines)) <= 80
    path = tmp_path / "semantic.jsonl"
    lines = path.read_text().splitlines()
    assert [json.loads(line)["input"] for line in lines] == [str(i) for i in range(6)]
    right = [r for r in records if r["status"] == "certified"]
    assert right and all(r["grid"]["points"] > 200 for r in right)
    for r in right:
        assert np.isinf(r["lower"]) or 0 < r["lower"] < r["upper"] <= r["lower"] + 1e-3
    # A line that a kill cut off is made again, the others stay as they are.
    path.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])
    run(asked, network, chosen, tmp_path, True)
    again = path.read_text().splitlines()
    assert again[:3] == lines[:3] and len(again) == 6
    with pytest.raises(InputError, match="was written with another tolerance: resume"):
        run(request(tolerance=0.01), network, chosen, tmp_path, True)
    with pytest.raises(InputError, match="already holds records .semantic.jsonl.. Con"):
        run(asked, network, chosen, tmp_path, False)
    assert path.read_text().splitlines() == again
    unlabelled = dataclasses.replace(chosen, labels=None)
    with pytest.raises(InputError, match="the inputs have no labels"):
        run(asked, network, unlabelled, tmp_path, False)
    of_another = dataclasses.replace(chosen, labels=np.full(6, 10))
    with pytest.raises(InputError, match="label 10 of input 0 is out of range: the"):
        run(asked, network, of_another, tmp_path, False)


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


def test_mistakes_are_named():
    with pytest.raises(InputError, match="unknown change fog; known: brightness"):
        named_families(["fog"], [])
    with pytest.raises(InputError, match="unknown change none"):
        named_families([], [])
    with pytest.raises(InputError, match="--rates takes numbers with commas, got a,b"):
        named_families(["both"], ["a", "b"])
    with pytest.raises(InputError, match="1 rates for the parameters b, c"):
        named_families(["both"], ["1"])
    assert named_families(["both"], ["1", "2"])["both"].rates_up == (1, 2)
    with pytest.raises(InputError, match="tolerance is 0; it must be > 0"):
        request(tolerance=0)
    with pytest.raises(InputError, match="time_limit is -1; it must be >= 0"):
        request(time_limit=-1)


@pytest.mark.parametrize(
    "script, flag, message",
    [
        ("semantic.py", "--changes=fog", "unknown change fog"),
        ("prune.py", "--radius=0", "radius is 0.0; it must be > 0 and finite"),
    ],
)
def test_a_script_says_so_in_one_line(script, flag, message, environment):
    words = [sys.executable, str(SCRIPTS / script), flag]
    ended = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert ended.returncode == 1 and message in ended.stderr
    assert ended.stderr.count("\n") == 1


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


def test_prune_compares_all_methods_and_resumes(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    images = (random.uniform(size=(1100, 28, 28, 1)) > 0.9).astype(np.float32)
    data = Dataset("x", "train", images, np.zeros(1100, np.int32), ("a",), "made")
    measured: list[str] = []

    def measure(network, test, study: Study) -> dict[str, float]:
        measured.append(network.name)
        figures = {"error": 1.0, "boxes": 4.0, "seconds": 0.1, "undecided": 9.0}
        counts = {"inputs": 9, "proved": len(measured), "refuted": 0, "unknown": 0}
        return figures | counts

    monkeypatch.setattr(_prune_run, "measure", measure)
    small = dataclasses.replace(
        _prune_run.ARCHITECTURE, channels=(4,), strides=(8,), hidden=(6,)
    )
    monkeypatch.setattr(_prune_run, "ARCHITECTURE", small)
    study = Study(1, 128, 4, 1, 0.5, 1, 0.01, 0.1, 2.0)
    records = _prune_run.run(study, tmp_path, (data, data), False)
    path = tmp_path / "pruning.jsonl"
    lines = path.read_text().splitlines()
    assert [json.loads(line)["method"] for line in lines] == [n for n, *_ in RUNS]
    total = {r["method"]: sum(r["pruned"]) for r in records}
    assert total.pop("unpruned") == 0 and set(total.values()) == {5}
    said = _prune_run.table(records)
    assert all(name in said for name, *_ in RUNS) and "+-" not in said
    assert "Pruned neurons per layer (means): unpruned 0 0, random " in said
    twice = [*records, *({**r, "seed": 1, "error": 3.0} for r in records)]
    said = _prune_run.table(twice) + "\n" + _prune_run.sentence(twice, study)
    assert "2.00+-1.41" in said and max(map(len, said.splitlines())) <= 80
    made = len(measured)
    again = _prune_run.run(study, tmp_path, (data, data), True)
    assert again == records and len(measured) == made
    other = dataclasses.replace(study, sparsity=0.25)
    with pytest.raises(InputError, match="was written with another sparsity"):
        _prune_run.run(other, tmp_path, (data, data), True)
    with pytest.raises(InputError, match="already holds records .pruning.jsonl.. Cont"):
        _prune_run.run(study, tmp_path, (data, data), False)
    assert path.read_text().splitlines() == lines
    for wrong, message in (
        ({"pixels": 0}, "pixels is 0; it must be > 0 and finite"),
        ({"sparsity": 1}, "sparsity must lie in .0, 1., got 1"),
        ({"penalty": -1}, "penalty must be at least 0, got -1"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(study, **wrong)
    greedy = dataclasses.replace(study, images=1101)
    with pytest.raises(InputError, match="x train has 1100 images, not 1101: ask for"):
        _prune_run.run(greedy, tmp_path / "greedy", (data, data), False)


def test_the_spread_decides_what_the_sentence_says():
    study = Study(2, 128, 4, 1, 0.5, 1, 0.01, 0.1, 2.0)

    def rates(**proved: tuple[int, int]) -> list[dict]:
        return [{"method": k, "seed": i, "proved": v, "inputs": 100}
                for k, pair in proved.items() for i, v in enumerate(pair)]  # fmt: skip

    far = _prune_run.sentence(rates(random=(50, 52), stable=(80, 82)), study)
    assert "stable, before random, by more than the spread" in " ".join(far.split())
    near = _prune_run.sentence(rates(random=(50, 90), stable=(60, 82)), study)
    assert "stable, before random, but by less than the spread" in " ".join(
        near.split()
    )
