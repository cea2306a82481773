"""The study `prune`: keypoints, files, continuation, mistakes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from in_process import ran
from studies.prune import command
from studies.prune import run as pruning
from studies.prune.keypoints import extremal_points, keypoints, pixel_error
from studies.prune.run import RUNS, Request

from jaxcert.errors import InputError
from jaxcert.learning.data import Dataset

# A study of the project; what it runs of the package has tests of its own.
pytestmark = pytest.mark.campaign


def small_request(**more) -> Request:
    """Returns the options of a study that takes no time."""
    return Request(
        images=128, inputs=4, epochs=1, rounds=1, penalty=0.01, radius=0.1, pixels=2.0,
        **({"seeds": 1} | more),
    )  # fmt: skip


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


@pytest.mark.campaign
def test_prune_compares_all_methods_and_resumes(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    images = (random.uniform(size=(1100, 28, 28, 1)) > 0.9).astype(np.float32)
    data = Dataset("x", "train", images, np.zeros(1100, np.int32), ("a",), "made")
    measured: list[str] = []

    def measure(network, test, request: Request) -> dict[str, float]:
        measured.append(network.name)
        figures = {"error": 1.0, "boxes": 4.0, "seconds": 0.1, "undecided": 9.0}
        counts = {"inputs": 9, "proved": len(measured), "refuted": 0, "unknown": 0}
        return figures | counts

    monkeypatch.setattr(pruning, "measure", measure)
    small = dataclasses.replace(
        pruning.ARCHITECTURE, channels=(4,), strides=(8,), hidden=(6,)
    )
    monkeypatch.setattr(pruning, "ARCHITECTURE", small)
    study = small_request(output=str(tmp_path))
    records = pruning.run(study, (data, data))
    path = tmp_path / "pruning.jsonl"
    lines = path.read_text().splitlines()
    assert [json.loads(line)["method"] for line in lines] == [n for n, *_ in RUNS]
    total = {r["method"]: sum(r["pruned"]) for r in records}
    assert total.pop("unpruned") == 0 and set(total.values()) == {5}
    said = pruning.table(records)
    assert all(name in said for name, *_ in RUNS) and "+-" not in said
    assert "Pruned neurons per layer (means): unpruned 0 0, random " in said
    twice = [*records, *({**r, "seed": 1, "error": 3.0} for r in records)]
    said = pruning.table(twice) + "\n" + pruning.sentence(twice, study)
    assert "2.00+-1.41" in said and max(map(len, said.splitlines())) <= 80
    made, resumed = len(measured), dataclasses.replace(study, resume=True)
    again = pruning.run(resumed, (data, data))
    assert again == records and len(measured) == made
    other = dataclasses.replace(resumed, sparsity=0.25)
    with pytest.raises(InputError, match="was written with another sparsity"):
        pruning.run(other, (data, data))
    with pytest.raises(InputError, match="already holds records .pruning.jsonl.. Cont"):
        pruning.run(study, (data, data))
    assert path.read_text().splitlines() == lines
    for wrong, message in (
        ({"pixels": 0}, "pixels is 0; it must be > 0 and finite"),
        ({"sparsity": 1}, "sparsity must lie in .0, 1., got 1"),
        ({"penalty": -1}, "penalty must be at least 0, got -1"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(study, **wrong)
    greedy = dataclasses.replace(study, images=1101, output=str(tmp_path / "greedy"))
    with pytest.raises(InputError, match="x train has 1100 images, not 1101: ask for"):
        pruning.run(greedy, (data, data))


def test_the_spread_decides_what_the_sentence_says():
    study = small_request(seeds=2)

    def rates(**proved: tuple[int, int]) -> list[dict]:
        return [{"method": k, "seed": i, "proved": v, "inputs": 100}
                for k, pair in proved.items() for i, v in enumerate(pair)]  # fmt: skip

    far = pruning.sentence(rates(random=(50, 52), stable=(80, 82)), study)
    assert "stable, before random, by more than the spread" in " ".join(far.split())
    near = pruning.sentence(rates(random=(50, 90), stable=(60, 82)), study)
    assert "stable, before random, but by less than the spread" in " ".join(
        near.split()
    )


def test_the_command_says_so_in_one_line(capsys):
    ended = ran(command, capsys, "--radius=0")
    assert ended.code == 1 and "radius is 0.0; it must be > 0 and finite" in ended.err
    assert ended.err.count("\n") == 1
