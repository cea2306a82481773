"""captioner.py on made-up pictures: the language, certificates, resuming."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from in_process import ran
from scipy import stats
from studies.captioner import captions, command
from studies.captioner import run as captioning

from jaxcert.learning.data import Dataset

# A study of the project; what it runs of the package has tests of its own.
pytestmark = pytest.mark.campaign

CAPTIONS = captions.CAPTIONS.reshape(-1, captions.LENGTH)
LABELS = np.repeat(np.arange(10), len(CAPTIONS) // 10)


def pictures(split: str) -> Dataset:
    """Returns images of ten stripes, one per class, in two shades."""
    rng = np.random.default_rng(len(split))
    labels = rng.integers(10, size=1280).astype(np.int32)
    images = np.zeros((1280, 28, 28, 1), np.float32)
    shade = rng.choice([0.3, 0.9], size=1280).astype(np.float32)
    for i, label in enumerate(labels):
        images[i, 2 * label : 2 * label + 5] = shade[i]
    names = tuple(f"class {i}" for i in range(10))
    return Dataset("fashion_mnist", split, images, labels, names, "made up")


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        captioning, "load_dataset", lambda _, split, __: pictures(split)
    )
    own = {
        "inputs": "0:6", "n": 500, "labelled": 300, "epochs": 30, "temperature": 1.0,
        "sigma": 0.1, "threshold": 0.3, "output": tmp_path / "out",
    }  # fmt: skip
    return lambda **flags: ran(command, capsys, **(own | flags))


def records(folder: Path) -> list[dict]:
    lines = (folder / "captioner.jsonl").read_text().splitlines()
    return [json.loads(line) | {"seconds": 0} for line in lines]


def test_judge_and_oracle_know_every_caption():
    assert len({tuple(caption) for caption in CAPTIONS.tolist()}) == len(CAPTIONS) == 40
    assert jax.vmap(captions.judge)(CAPTIONS).tolist() == LABELS.tolist()
    assert jax.vmap(captions.oracle)(CAPTIONS).tolist() == LABELS.tolist()
    assert not jax.vmap(captions.garbled)(CAPTIONS).any()
    assert captions.text(CAPTIONS[0]) == "a dark short sleeved top"


def test_the_oracle_names_a_class_for_nonsense():
    words = ["a", "dark", "warm", "dress", "<end>", "<end>"]
    nonsense = np.array([captions.WORDS.index(word) for word in words])
    assert int(captions.judge(nonsense)) == -1
    assert int(captions.garbled(nonsense)) == 1
    assert int(captions.oracle(nonsense)) == 3
    # Words after the end, and another order, are no caption either.
    assert int(captions.judge(CAPTIONS[0][::-1])) == -1


@pytest.mark.campaign
def test_captions_are_certified_and_a_stopped_run_goes_on(run, tmp_path, monkeypatch):
    ended = run()
    assert ended.code == 0, ended.err
    assert max(map(len, ended.out.splitlines()[:-1])) <= 80
    text = " ".join(ended.out.split())
    assert "Probabilistic, not proved: with a chance of at least 99.9 %" in text
    assert "bounded with 300 captions per image that were judged" in text
    found = records(tmp_path / "out")
    assert sum(r["predicted"] == r["label"] for r in found) >= 4
    for r in found:
        eps = stats.beta.isf(0.0005, r["wrong"] + 1, 300 - r["wrong"])
        lower = stats.beta.ppf(0.0005, r["hits"], 500 - r["hits"] + 1)
        assert r["eps"] == pytest.approx(eps)
        assert r["p_lower"] == pytest.approx(lower - eps)
        radius = 0.1 * stats.norm.ppf(max(lower - eps, 0.5))
        assert r["radius"] == pytest.approx(radius, abs=1e-7)
        garbled = stats.beta.isf(0.001, r["garbled"] + 1, 500 - r["garbled"])
        assert r["garbled_p_upper"] == pytest.approx(garbled)
        reach = 0.1 * (stats.norm.ppf(0.3) - stats.norm.ppf(garbled))
        expected = reach if garbled <= 0.3 else -1.0
        assert r["garbled_radius"] == pytest.approx(expected, rel=1e-6)
        assert r["alpha"] == pytest.approx(0.001)

    assert any(r["garbled_radius"] > 0 for r in found)

    # A second run, interrupted before its first line, finds the captioner trained.
    monkeypatch.setattr(captioning, "train", lambda *_: pytest.fail("trained already"))
    (tmp_path / "out/captioner.jsonl").unlink()
    judged = captioning._judged

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(captioning, "_judged", interrupted)
    assert run().code == 130
    monkeypatch.setattr(captioning, "_judged", judged)
    assert run(resume=True).code == 0
    assert records(tmp_path / "out") == found


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; it must lie in 0.001 .. 1000"),
        ({"labelled": 0}, "labelled is 0; it must lie in 1 .. 1073741824"),
        ({"threshold": 1.0}, "threshold is 1.0; it must lie between 0 and 1"),
        ({"inputs": "x"}, "cannot read the selection 'x'"),
        ({"n": -5}, "n is -5; it must be a whole number"),
        ({"output": ""}, "output is empty: name the folder to write"),
        ({"seed": -1}, "seed is -1; it must lie in 0 .. 4294967295"),
    ],
)
def test_mistakes_are_one_line(run, request_, message):
    ended = run(**request_)
    assert ended.code == 1
    assert message in ended.err and len(ended.err.splitlines()) == 1


def test_a_file_that_is_no_captioner_is_told(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/captioner-0.1-30-0.npz").write_bytes(b"PK\x03\x04 cut")
    ended = run()
    assert ended.code == 1 and "is no captioner of this program" in ended.err
