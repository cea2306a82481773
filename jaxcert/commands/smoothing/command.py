"""Certifies smoothed classifiers on a data set: randomized smoothing.

    for s in 0.12 0.25 0.5; do
      python experiments/train.py --channels=16,32 --epochs=12 --noise=$s \\
        --output=out/noise_$s.npz
    done
    python experiments/smoothing.py --output=out/smoothing --inputs=0:10000:20 \\
        --models=out/noise_0.12.npz,out/noise_0.25.npz,out/noise_0.5.npz

The noise of a model is the one that it was trained with, unless --scales names others.
Writes OUTPUT/smoothing.jsonl (one line per model and input) and accuracy.png, and
prints certified accuracy by radius. Answers are probabilistic: docs/smoothing.md says
what exactly holds. A run that was stopped goes on with --resume, and ends with the same
counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from jaxcert.commands.smoothing.options import Request, smooth
from jaxcert.learning.data import DATASETS, SPLITS

_MODELS = flags.DEFINE_list("models", [], "Checkpoints or ONNX files.")
_SCALES = flags.DEFINE_list(
    "scales",
    [],
    "Scale of the noise per model (sigma if gaussian); as trained if empty.",
)
_NOISE = flags.DEFINE_enum(
    "noise", "gaussian", ["gaussian", "laplace", "uniform"], "Kind of noise."
)
_DATASET = flags.DEFINE_enum("dataset", "fashion_mnist", DATASETS, "Data set.")
_SPLIT = flags.DEFINE_enum("split", "test", SPLITS, "Split.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder with the data set; if unset it is looked for, else downloaded.",
)
_INPUTS = flags.DEFINE_string(
    "inputs", "0:100", "Indices (0:100; 3,17; all), or a file of inputs with labels."
)
_N0 = flags.DEFINE_integer("n0", 100, "Samples that choose the class.")
_N = flags.DEFINE_integer(
    "n", 10_000, "Samples that bound the probability of that class."
)
_ALPHA = flags.DEFINE_float(
    "alpha", 0.001, "Most probability with which an answer may be false."
)
_UNION = flags.DEFINE_boolean(
    "union", False, "Let all answers hold at once with probability 1 - alpha."
)
_STOP = flags.DEFINE_float("stop_radius", None, "Stop counting once this is certified.")
_RADII = flags.DEFINE_list("radii", ["0", "0.25", "0.5", "1"], "Radii of the table.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 250, "Noisy inputs per call; more need more memory."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.")
_OUTPUT = flags.DEFINE_string("output", "out/smoothing", "Folder to write.")
_RESUME = flags.DEFINE_boolean("resume", False, "Continue the run in --output.")


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    return smooth(
        Request(
            models=tuple(_MODELS.value),
            scales=tuple(_SCALES.value),
            noise=_NOISE.value,
            dataset=_DATASET.value,
            split=_SPLIT.value,
            data_dir=_DATA_DIR.value,
            inputs=_INPUTS.value,
            n0=_N0.value,
            n=_N.value,
            alpha=_ALPHA.value,
            union=_UNION.value,
            stop_radius=_STOP.value,
            radii=tuple(_RADII.value),
            batch_size=_BATCH_SIZE.value,
            seed=_SEED.value,
            output=_OUTPUT.value,
            resume=_RESUME.value,
        )
    )
