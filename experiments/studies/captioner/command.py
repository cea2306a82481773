"""Certifies the captions that a small captioner generates, through an erring oracle.

    python experiments/captioner.py --data_dir=DIR --output=out/captioner

Trains a recurrent captioner of Fashion-MNIST (image -> "a dark long sleeved top"),
samples its words with a temperature, and certifies the class that its captions name. An
oracle, naive Bayes on the words in any order, names the classes; a judge, the list of
all captions, labels some outputs per image and so bounds the oracle's error. And how
far an image can move with garbled captions staying rare.

Writes OUTPUT/captioner.jsonl, a line per image. A run that was stopped goes on with
--resume and ends with the same counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from studies.captioner.run import Request, run

_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder with Fashion-MNIST; if unset it is looked for, else downloaded.",
)
_INPUTS = flags.DEFINE_string("inputs", "0:10000:100", "Indices of test images.")
_SIGMA = flags.DEFINE_float(
    "sigma", 0.25, "Scale of the noise, in training and certification."
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature", 0.7, "Temperature at which words are sampled."
)
_N0 = flags.DEFINE_integer("n0", 100, "Samples that choose the class.")
_N = flags.DEFINE_integer(
    "n", 10_000, "Samples that bound the probability of that class."
)
_LABELLED = flags.DEFINE_integer(
    "labelled", 2_000, "Captions per image that the judge labels."
)
_ALPHA = flags.DEFINE_float(
    "alpha", 0.001, "Most probability with which an answer may be false."
)
_THRESHOLD = flags.DEFINE_float(
    "threshold", 0.05, "How often captions may be garbled at most."
)
_EPOCHS = flags.DEFINE_integer("epochs", 4, "Passes over the training images.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 1000, "Noisy images per call; more need more memory."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of training and sampling.")
_OUTPUT = flags.DEFINE_string("output", "out/captioner", "Folder to write.")
_RESUME = flags.DEFINE_boolean("resume", False, "Continue the run in --output.")


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    return run(
        Request(
            data_dir=_DATA_DIR.value,
            inputs=_INPUTS.value,
            sigma=_SIGMA.value,
            temperature=_TEMPERATURE.value,
            n0=_N0.value,
            n=_N.value,
            labelled=_LABELLED.value,
            alpha=_ALPHA.value,
            threshold=_THRESHOLD.value,
            epochs=_EPOCHS.value,
            batch_size=_BATCH_SIZE.value,
            seed=_SEED.value,
            output=_OUTPUT.value,
            resume=_RESUME.value,
        )
    )
