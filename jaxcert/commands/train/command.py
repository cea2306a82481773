"""Trains a network, reports its accuracies and writes a checkpoint.

    python experiments/train.py --dataset=fashion_mnist --output=out/fashion.npz
    python experiments/train.py --dataset=mnist --method=ibp --epsilon=0.1 \\
        --output=out/mnist_ibp.npz --onnx_output=out/mnist_ibp.onnx

Progress goes to stderr, the accuracies on the test split to stdout.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import jax
from absl import logging

import jaxcert
from jaxcert.commands.options import DATASET, Options, data_dir, option
from jaxcert.errors import InputError
from jaxcert.learning.architecture import Architecture, usual_kernel
from jaxcert.learning.data import Dataset, training_data
from jaxcert.learning.evaluate import Evaluation, evaluate
from jaxcert.learning.models import export_onnx, save_checkpoint
from jaxcert.learning.train import METHODS, EpochRecord, TrainConfig, train
from jaxcert.network import Network
from jaxcert.runs.progress import progress

_NEWS_SECONDS = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `jaxcert train`."""

    dataset: str = option("fashion_mnist", DATASET)
    data_dir: str | None = data_dir()
    arch: str = option("cnn", "Kind of network.", choices=("mlp", "cnn"))
    hidden: tuple[int, ...] = option((128,), "Widths of the hidden dense layers.")
    channels: tuple[int, ...] = option((32, 64), "Channels per convolution.")
    kernel: int | None = option(
        None, "Side of the kernels; default: 4, or 3 for images below 10 pixels."
    )
    strides: tuple[int, ...] = option((2,), "Stride of all, or per convolution.")
    padding: str = option("VALID", "Padding.", choices=("VALID", "SAME"))
    pool: str = option("none", "2 x 2 pooling.", choices=("none", "max", "avg"))
    batch_norm: bool = option(False, "Normalise hidden layers.")
    method: str = option("standard", "How to train.", choices=METHODS)
    epsilon: float = option(0.1, "Radius to train and evaluate at.")
    epochs: int = option(20, "Passes over the training split.")
    warmup_epochs: float = option(1.0, "Epochs at radius 0.")
    ramp_epochs: float = option(10.0, "Epochs in which the radius grows.")
    kappa: tuple[float, ...] = option((1.0, 0.5), "Clean weight: before, after ramp.")
    beta: tuple[float, ...] = option((1.0, 0.0), "CROWN weight: before, after ramp.")
    pgd_steps: int = option(7, "Steps of the training attack.")
    sigma: float = option(0.0, "Scale of Gaussian noise on the images.")
    batch_size: int = option(128, "Images per step; all, where there are fewer.")
    learning_rate: float = option(1e-3, "Learning rate of Adam.")
    seed: int = option(0, "Seed of weights, order and attacks.")
    limit: int | None = option(
        None, "Use only the first so many images of each split.", least=1
    )
    output: str | None = option(None, "Checkpoint to write (.npz).")
    onnx_output: str | None = option(None, "ONNX file to write as well.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kappa", "beta"):
            value = getattr(self, name)
            if len(value) != 2:
                raise InputError(
                    f"--{name} takes two numbers, before and after the ramp, got "
                    f"{','.join(map(str, value))}"
                )

    def config(self) -> TrainConfig:
        """Returns how to train."""
        # Where mypy is told to look away, the options have checked the choice.
        return TrainConfig(
            method=self.method,  # type: ignore[arg-type]
            epsilon=self.epsilon,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=self.seed,
            warmup_epochs=self.warmup_epochs,
            ramp_epochs=self.ramp_epochs,
            kappa_start=self.kappa[0],
            kappa_end=self.kappa[1],
            beta_start=self.beta[0],
            beta_end=self.beta[1],
            pgd_steps=self.pgd_steps,
            noise=self.sigma,
        )

    def architecture(self, data: Dataset) -> Architecture:
        """Returns the network for a data set."""
        cnn, shape = self.arch == "cnn", data.images.shape[1:]
        channels = self.channels if cnn else ()
        strides = self.strides if cnn else ()
        return Architecture(
            kind=self.arch,  # type: ignore[arg-type]
            input_shape=shape,
            num_classes=len(data.class_names),
            hidden=self.hidden,
            channels=channels,
            kernel=usual_kernel(shape) if self.kernel is None else self.kernel,
            strides=strides * len(channels) if len(strides) == 1 else strides,
            padding=self.padding,  # type: ignore[arg-type]
            pool=self.pool,  # type: ignore[arg-type]
            batch_norm=self.batch_norm,
        )

    def data(self, split: str) -> Dataset:
        """Returns a part of the data set."""
        return training_data(self.dataset, split, self.data_dir).first(self.limit)


def main(request: Request) -> int:
    """Runs the command; returns its exit code."""
    logging.set_verbosity(logging.INFO)
    _check_writable(request.output, ".npz")
    _check_writable(request.onnx_output, ".onnx")
    config = request.config()
    train_set, test_set = (request.data(split) for split in ("train", "test"))
    fewer = min(config.batch_size, len(train_set.labels))
    config = dataclasses.replace(config, batch_size=fewer)
    architecture = request.architecture(train_set)
    logging.info("training on %d images (%s)", len(train_set.labels), train_set.source)
    network, history = train(architecture, train_set, config, _log)
    result = _evaluated(network, test_set, config.epsilon)
    print(f"network    {network.name} {network.content_hash[:12]}")
    print(f"test       {result.count} images of {test_set.name}")
    print(f"training   {sum(record.seconds for record in history):.1f} s")
    print(f"clean      {100 * result.clean:.2f} %")
    print(f"attacked   {100 * result.attacked:.2f} % at epsilon {result.epsilon:g}")
    print(f"certified  {100 * result.certified:.2f} % at epsilon {result.epsilon:g}")
    if request.output:
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
                "jaxcert": jaxcert.__version__,
                "jax": jax.__version__,
            },
        }
        save_checkpoint(request.output, network, metadata)
        print(f"wrote      {request.output}")
    if request.onnx_output:
        export_onnx(request.onnx_output, network)
        print(f"wrote      {request.onnx_output}")
    return 0


def _evaluated(network: Network, data: Dataset, epsilon: float) -> Evaluation:
    """Returns the accuracies, and shows how far their computation is."""
    count = len(data.labels)
    logging.info("evaluating %d images: attack and bounds at %g", count, epsilon)
    with progress("evaluating", "images", count, _NEWS_SECONDS) as show:
        return evaluate(network, data, epsilon, progress=lambda done, _: show(done))


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
