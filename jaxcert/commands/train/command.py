"""Trains a network, reports its accuracies and writes a checkpoint.

    python experiments/train.py --dataset=fashion_mnist --output=out/fashion.npz
    python experiments/train.py --dataset=mnist --method=ibp --epsilon=0.1 \\
        --output=out/mnist_ibp.npz --onnx=out/mnist_ibp.onnx

Progress goes to stderr, the accuracies on the test split to stdout.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags, logging

from jaxcert.errors import InputError
from jaxcert.learning.architecture import Architecture, usual_kernel
from jaxcert.learning.data import DATASETS, Dataset, load_dataset
from jaxcert.learning.evaluate import EvaluationOptions, evaluate
from jaxcert.learning.models import export_onnx, save_checkpoint
from jaxcert.learning.train import METHODS, EpochRecord, TrainConfig, train

_DATASET = flags.DEFINE_enum("dataset", "fashion_mnist", DATASETS, "Data set.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data set lies.")
_ARCH = flags.DEFINE_enum("arch", "cnn", ["mlp", "cnn"], "Kind of network.")
_HIDDEN = flags.DEFINE_list("hidden", ["128"], "Widths of the hidden dense layers.")
_CHANNELS = flags.DEFINE_list("channels", ["32", "64"], "Channels per convolution.")
_KERNEL = flags.DEFINE_integer(
    "kernel", None, "Side of the kernels; default: 4, or 3 for images below 10 pixels."
)
_STRIDES = flags.DEFINE_list("strides", ["2"], "Stride of all, or per convolution.")
_PADDING = flags.DEFINE_enum("padding", "VALID", ["VALID", "SAME"], "Padding.")
_POOL = flags.DEFINE_enum("pool", "none", ["none", "max", "avg"], "2 x 2 pooling.")
_BATCH_NORM = flags.DEFINE_boolean("batch_norm", False, "Normalise hidden layers.")
_METHOD = flags.DEFINE_enum("method", "standard", METHODS, "How to train.")
_EPSILON = flags.DEFINE_float("epsilon", 0.1, "Radius to train and evaluate at.")
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Passes over the training split.")
_WARMUP = flags.DEFINE_float("warmup_epochs", 1.0, "Epochs at radius 0.")
_RAMP = flags.DEFINE_float("ramp_epochs", 10.0, "Epochs in which the radius grows.")
_KAPPA = flags.DEFINE_list("kappa", ["1", "0.5"], "Clean weight: before, after ramp.")
_BETA = flags.DEFINE_list("beta", ["1", "0"], "CROWN weight: before, after ramp.")
_PGD_STEPS = flags.DEFINE_integer("pgd_steps", 7, "Steps of the training attack.")
_NOISE = flags.DEFINE_float("noise", 0.0, "Standard deviation of noise on the images.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images per step.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Learning rate of Adam.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights, order and attacks.")
_LIMIT = flags.DEFINE_integer(
    "limit", None, "Use only the first so many images of each split.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string("output", None, "Checkpoint to write (.npz).")
_ONNX = flags.DEFINE_string("onnx", None, "ONNX file to write as well.")


def main(argv: Sequence[str]) -> int:
    del argv
    logging.set_verbosity(logging.INFO)
    for path, suffix in ((_OUTPUT.value, ".npz"), (_ONNX.value, ".onnx")):
        _check_writable(path, suffix)
    # Where mypy is told to look away, absl has checked the choice.
    config = TrainConfig(
        method=_METHOD.value,  # type: ignore[arg-type]
        epsilon=_EPSILON.value,
        epochs=_EPOCHS.value,
        batch_size=_BATCH_SIZE.value,
        learning_rate=_LEARNING_RATE.value,
        seed=_SEED.value,
        warmup_epochs=_WARMUP.value,
        ramp_epochs=_RAMP.value,
        kappa_start=_pair("kappa", _KAPPA.value)[0],
        kappa_end=_pair("kappa", _KAPPA.value)[1],
        beta_start=_pair("beta", _BETA.value)[0],
        beta_end=_pair("beta", _BETA.value)[1],
        pgd_steps=_PGD_STEPS.value,
        noise=_NOISE.value,
    )
    train_set, test_set = (
        _first(load_dataset(_DATASET.value, split, _DATA_DIR.value), _LIMIT.value)
        for split in ("train", "test")
    )
    cnn, shape = _ARCH.value == "cnn", train_set.images.shape[1:]
    channels = _integers("channels", _CHANNELS.value) if cnn else ()
    strides = _integers("strides", _STRIDES.value) if cnn else ()
    architecture = Architecture(
        kind=_ARCH.value,  # type: ignore[arg-type]
        input_shape=shape,
        num_classes=len(train_set.class_names),
        hidden=_integers("hidden", _HIDDEN.value),
        channels=channels,
        kernel=usual_kernel(shape) if _KERNEL.value is None else _KERNEL.value,
        strides=strides * len(channels) if len(strides) == 1 else strides,
        padding=_PADDING.value,  # type: ignore[arg-type]
        pool=_POOL.value,  # type: ignore[arg-type]
        batch_norm=_BATCH_NORM.value,
    )
    logging.info("training on %d images (%s)", len(train_set.labels), train_set.source)
    network, history = train(architecture, train_set, config, _log)
    result = evaluate(network, test_set, config.epsilon, EvaluationOptions())
    print(f"network    {network.name} {network.content_hash[:12]}")
    print(f"test       {result.count} images of {test_set.name}")
    print(f"training   {sum(record.seconds for record in history):.1f} s")
    print(f"clean      {100 * result.clean:.2f} %")
    print(f"attacked   {100 * result.attacked:.2f} % at epsilon {result.epsilon:g}")
    print(f"certified  {100 * result.certified:.2f} % at epsilon {result.epsilon:g}")
    if _OUTPUT.value:
        metadata = {
            "dataset": {
                "name": train_set.name,
                "split": train_set.split,
                "images": len(train_set.labels),
            },
            "train": dataclasses.asdict(config),
            "history": [dataclasses.asdict(record) for record in history],
            "evaluation": dataclasses.asdict(result),
            "versions": {
                "jaxcert": importlib.metadata.version("jaxcert"),
                "jax": jax.__version__,
            },
        }
        save_checkpoint(_OUTPUT.value, network, metadata)
        print(f"wrote      {_OUTPUT.value}")
    if _ONNX.value:
        export_onnx(_ONNX.value, network)
        print(f"wrote      {_ONNX.value}")
    return 0


def _check_writable(path: str | None, suffix: str) -> None:
    """Makes the folder of a file to write; better now than after the training."""
    if path is None:
        return
    if not path.endswith(suffix):
        raise InputError(f"the file to write must end in {suffix}: {path}")
    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK) or Path(path).is_dir():
        raise InputError(f"cannot write {path}")


def _first(dataset: Dataset, limit: int | None) -> Dataset:
    return dataclasses.replace(
        dataset, images=dataset.images[:limit], labels=dataset.labels[:limit]
    )


def _integers(flag: str, words: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in words)
    except ValueError as error:
        raise InputError(
            f"--{flag} takes integers with commas, got {','.join(words)}"
        ) from error


def _pair(flag: str, words: list[str]) -> tuple[float, float]:
    try:
        before, after = (float(word) for word in words)
    except ValueError as error:
        raise InputError(
            f"--{flag} takes two numbers, before and after the ramp, got "
            f"{','.join(words)}"
        ) from error
    return before, after


def _log(record: EpochRecord) -> None:
    logging.info(
        "epoch %d: loss %.4f, accuracy %.2f %%, robust %.2f %% at epsilon %.4f, %.1f s",
        record.epoch,
        record.loss,
        100 * record.accuracy,
        100 * record.robust,
        record.epsilon,
        record.seconds,
    )
