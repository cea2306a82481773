"""Compares ways to prune a keypoint network by how well it can be certified.

    python experiments/prune.py --data_dir=DIR --output=out/prune

Fashion-MNIST garments lie on canvases of 48 x 48; a small CNN predicts the top, bottom,
left and right point of each. Per seed one network is trained, then pruned step by step
and trained on by every method, to equal sparsity. An input is certified if every
keypoint coordinate stays within --pixels of its prediction for all brightness and
contrast changes up to --radius. Writes pruning.jsonl, line by line, and a checkpoint
per network; --resume continues and redoes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from jaxcert.commands import console
from jaxcert.learning.data import load_dataset
from studies.prune.run import Study, run, sentence, table

_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder with Fashion-MNIST; if unset it is looked for, else downloaded.",
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Networks per method.", 1)
_IMAGES = flags.DEFINE_integer("images", 10000, "Training images.", 128)
_INPUTS = flags.DEFINE_integer("inputs", 50, "Test images to certify.", 1, 10000)
_EPOCHS = flags.DEFINE_integer("epochs", 6, "Passes over the images before pruning.", 1)
_SPARSITY = flags.DEFINE_float("sparsity", 0.5, "Share of neurons to prune.")
_ROUNDS = flags.DEFINE_integer("rounds", 4, "Steps to prune in, an epoch each.", 1)
_PENALTY = flags.DEFINE_float(
    "penalty", 10.0, "Weight of the Wasserstein penalty of the last method."
)
_RADIUS = flags.DEFINE_float(
    "radius", 0.15, "How far brightness and contrast may move, each way."
)
_PIXELS = flags.DEFINE_float(
    "pixels", 3.0, "How far a keypoint coordinate may move, in pixels."
)
_OUTPUT = flags.DEFINE_string("output", "out/prune", "Folder to write.")
_RESUME = flags.DEFINE_boolean("resume", False, "Continue the run in --output.")


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    study = Study(
        seeds=_SEEDS.value,
        images=_IMAGES.value,
        inputs=_INPUTS.value,
        epochs=_EPOCHS.value,
        sparsity=_SPARSITY.value,
        rounds=_ROUNDS.value,
        penalty=_PENALTY.value,
        radius=_RADIUS.value,
        pixels=_PIXELS.value,
    )
    data_dir = console.expand(_DATA_DIR.value) if _DATA_DIR.value else None
    train, test = (
        load_dataset("fashion_mnist", split, data_dir) for split in ("train", "test")
    )
    output = console.expand(_OUTPUT.value)
    records = run(study, output, (train, test), _RESUME.value)
    print(table(records))
    print(sentence(records, study))
    return 0
