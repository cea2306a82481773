"""Training what is compared, or loading it from the folder of the comparison."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from absl import logging

from jaxcert.convex import (
    ConvexArchitecture,
    ConvexClassifier,
    ConvexTrainConfig,
    Shift,
    load_classifier,
    save_classifier,
    train_classifier,
)
from jaxcert.errors import InputError
from jaxcert.learning.architecture import Architecture
from jaxcert.learning.data import Dataset
from jaxcert.learning.models import (
    checkpoint_metadata,
    load_checkpoint,
    save_checkpoint,
)
from jaxcert.learning.train import EpochRecord, TrainConfig, train
from jaxcert.smoothing import Gaussian, SmoothingOptions
from studies.asymmetric.methods import Boxes, FeatureConvex, Method
from studies.asymmetric.smoothing import Smoothing
from studies.asymmetric.task import Task


@dataclasses.dataclass(frozen=True)
class MethodOptions:
    """How the methods are made.

    Attributes:
      epochs: of the convex network.
      box_epochs: of the networks certified by boxes; smoothing's trains three times
        as long, for noise takes longer to learn.
      hidden: width of the one hidden layer of the networks certified by boxes;
        smoothing's is four times as wide.
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
    smoothed = name == "smoothing"
    config = TrainConfig(
        method="ibp" if name == "ibp" else "standard",
        epsilon=options.ibp_epsilon,
        epochs=options.box_epochs * (3 if smoothed else 1),
        seed=options.seed,
        noise=options.sigma if smoothed else 0.0,
        warmup_epochs=1.0,
        ramp_epochs=options.box_epochs / 2,
        batch_size=min(128, len(data.labels)),
    )
    hidden = options.hidden * (4 if smoothed else 1)
    shape = data.images.shape[1:]
    architecture = Architecture("mlp", shape, num_classes=2, hidden=(hidden,))
    path = folder / f"{name}.npz"
    settings = {"train": dataclasses.asdict(config), "hidden": hidden}
    if path.exists():
        _check_settings(path, checkpoint_metadata(path), settings)
        network = load_checkpoint(path)
    else:
        network, _ = train(architecture, data, config, _log)
        save_checkpoint(path, network, settings)
    if smoothed:
        sampling = SmoothingOptions(Gaussian(options.sigma), n=options.samples)
        return Smoothing(network, sampling, options.seed)
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


def _log(record: EpochRecord) -> None:
    logging.info(
        "epoch %d: loss %.4f, accuracy %.2f %%, %.1f s",
        record.epoch,
        record.loss,
        100 * record.accuracy,
        record.seconds,
    )
