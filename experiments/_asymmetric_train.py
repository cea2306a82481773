"""Training what is compared, or loading it from the folder of the comparison."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from _asymmetric_methods import Boxes, FeatureConvex, Method
from _asymmetric_smoothing import Smoothing
from _asymmetric_task import Task
from absl import logging

from jaxcert.architecture import Architecture
from jaxcert.convex import (
    ConvexArchitecture,
    ConvexClassifier,
    ConvexTrainConfig,
    Shift,
    load_classifier,
    save_classifier,
    train_classifier,
)
from jaxcert.data import Dataset
from jaxcert.errors import InputError
from jaxcert.models import checkpoint_metadata, load_checkpoint, save_checkpoint
from jaxcert.train import EpochRecord, TrainConfig, train

_NOISY_COPIES = 4


@dataclasses.dataclass(frozen=True)
class MethodOptions:
    """How the methods are made.

    Attributes:
      epochs: of the convex network.
      box_epochs: of the three other networks.
      hidden: width of the one hidden layer of the networks certified by boxes.
      ibp_epsilon: radius that IBP trains at.
      sigma: noise of smoothing.
      samples: noisy copies per certificate of smoothing.
      time_limit: seconds per batch of 64 boxes.
      seed: of everything.
    """

    epochs: int
    box_epochs: int
    hidden: int
    ibp_epsilon: float
    sigma: float
    samples: int
    time_limit: float
    seed: int


METHODS = ("convex", "standard", "ibp", "smoothing")


def make_method(
    name: str, task: Task, data: Dataset, options: MethodOptions, folder: Path
) -> Method:
    """Returns a method, trained; a network in the folder is loaded instead.

    Raises:
      InputError: the folder's network was trained with other settings.
    """
    logging.info("%s: training on %d images", name, len(data.labels))
    if name == "convex":
        return FeatureConvex(_convex(task, data, options, folder / "convex.npz"))
    config = TrainConfig(
        method="ibp" if name == "ibp" else "standard",
        epsilon=options.ibp_epsilon,
        epochs=options.box_epochs,
        seed=options.seed,
        warmup_epochs=1.0,
        ramp_epochs=options.box_epochs / 2,
        batch_size=min(128, len(data.labels)),
    )
    hidden = options.hidden
    if name == "smoothing":
        hidden, data = 4 * hidden, _noisy_copies(data, options)
    shape = data.images.shape[1:]
    architecture = Architecture("mlp", shape, num_classes=2, hidden=(hidden,))
    path = folder / f"{name}.npz"
    settings = {
        "train": dataclasses.asdict(config),
        "hidden": hidden,
        "sigma": options.sigma if name == "smoothing" else None,
    }
    if path.exists():
        _check_settings(path, checkpoint_metadata(path), settings)
        network = load_checkpoint(path)
    else:
        network, _ = train(architecture, data, config, _log)
        save_checkpoint(path, network, settings)
    if name == "smoothing":
        return Smoothing(network, options.sigma, options.samples, options.seed)
    title = "box, IBP" if name == "ibp" else "box, standard"
    return Boxes(network, title, options.time_limit)


def _convex(
    task: Task, data: Dataset, options: MethodOptions, path: Path
) -> ConvexClassifier:
    config = ConvexTrainConfig(
        epochs=options.epochs, seed=options.seed, batch_size=min(64, len(data.labels))
    )
    settings = {"train": dataclasses.asdict(config)}
    if path.exists():
        classifier, stored = load_classifier(path)
        _check_settings(path, stored, settings)
        return classifier
    architecture = ConvexArchitecture(task.kind, data.images.shape[1:])
    features = Shift(data.images.mean(axis=0))
    classifier, _ = train_classifier(architecture, features, data, config, _log)
    save_classifier(path, classifier, settings)
    return classifier


def _check_settings(path: Path, stored: dict, settings: dict) -> None:
    if stored != settings:
        raise InputError(
            f"{path} was trained with other settings: choose another --output, or "
            "remove it"
        )


def _noisy_copies(data: Dataset, options: MethodOptions) -> Dataset:
    random = np.random.default_rng(options.seed)
    shape = (_NOISY_COPIES, *data.images.shape)
    noise = random.standard_normal(shape, np.float32) * np.float32(options.sigma)
    images = (data.images + noise).reshape(-1, *data.images.shape[1:])
    labels = np.tile(data.labels, _NOISY_COPIES)
    return dataclasses.replace(data, images=images, labels=labels)


def _log(record: EpochRecord) -> None:
    logging.info(
        "epoch %d: loss %.4f, accuracy %.2f %%, %.1f s",
        record.epoch,
        record.loss,
        100 * record.accuracy,
        record.seconds,
    )
