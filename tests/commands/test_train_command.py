"""The command `train`: what it writes and prints, and mistakes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from in_process import ran

from jaxcert.commands.train import command
from jaxcert.learning.data import load_dataset
from jaxcert.learning.models import checkpoint_metadata, load_network


@pytest.fixture
def train(capsys):
    return lambda *words: ran(command, capsys, *words)


SMALL = ("--dataset=digits", "--arch=mlp", "--hidden=16", "--epochs=2", "--limit=300")


def test_the_script_writes_a_checkpoint_and_an_onnx_file(train, tmp_path):
    pytest.importorskip("onnx", reason="needs onnx")
    checkpoint, onnx = tmp_path / "new" / "net.npz", tmp_path / "new" / "net.onnx"
    done = train(
        *SMALL, "--method=ibp", f"--output={checkpoint}", f"--onnx_output={onnx}"
    )
    assert done.code == 0, done.err
    words = [line.split()[0] for line in done.out.splitlines()]
    assert words[-5:] == ["clean", "attacked", "certified", "wrote", "wrote"]
    assert "epoch 2: loss" in done.err
    assert "evaluating 300 images: attack and bounds at 0.1" in done.err
    metadata = checkpoint_metadata(checkpoint)
    assert metadata["train"]["method"] == "ibp"
    assert metadata["dataset"] == {"name": "digits", "split": "train", "images": 300}
    assert len(metadata["history"]) == 2
    ours, theirs = load_network(checkpoint), load_network(onnx)
    x = jnp.asarray(load_dataset("digits").images[0])
    np.testing.assert_allclose(
        ours.apply(ours.params, x), theirs.apply(theirs.params, x), atol=1e-5
    )


@pytest.mark.campaign
def test_the_default_architecture_fits_the_digits(train):
    done = train("--dataset=digits", "--epochs=1", "--limit=200")
    assert done.code == 0, done.err
    assert "clean" in done.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--hidden=a",), "error: --hidden takes integers with commas, got a\n"),
        (("--kappa=1",), "error: --kappa takes two numbers, before and after the ramp"),
        (("--output=x.pt",), "error: the file to write must end in .npz: x.pt\n"),
        (("--dataset=mnist", "--data_dir=absent"), "error: no data directory absent"),
        (("--output=/proc/x/y.npz",), "error: "),
        (("--arch=cnn", "--channels=8,8,8,8,8"), "error: architecture: block"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_1(train, flags, message):
    done = train(*SMALL, *flags)
    assert done.code == 1
    assert done.err.startswith(message) and done.err.count("\n") == 1
    assert not done.out


def test_malformed_flags_are_one_line_and_exit_code_2(train):
    done = train("--method=none")
    assert done.code == 2
    assert done.err.startswith("error: flag --method=none: value should be one of")
    assert done.err.count("\n") == 1
