"""Which network and which inputs a script is asked about."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import jax
import numpy as np
from absl import logging

from jaxcert.commands.console import expand
from jaxcert.errors import InputError
from jaxcert.learning.architecture import Architecture
from jaxcert.learning.data import load_dataset
from jaxcert.learning.dataset import Dataset, as_unit
from jaxcert.learning.image_folder import class_words, holds_images, load_images
from jaxcert.learning.inputs import load_inputs, parse_selection
from jaxcert.learning.models import (
    checkpoint_metadata,
    load_checkpoint,
    load_network,
    save_checkpoint,
)
from jaxcert.learning.train import TrainConfig, train
from jaxcert.network import Network

_DEMO_HIDDEN = (48, 48)


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """The inputs of a run.

    Attributes:
      source: what they are, for tables and for `--resume`.
      names: one per input.
      x: float64, shape (n, *input_shape of the network).
      labels: int32, shape (n,), or None.
      class_names: one per class, or None.
    """

    source: str
    names: tuple[str, ...]
    x: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None


def select_inputs(
    text: str,
    network: Network,
    dataset: str,
    split: str,
    data_dir: str | None,
    scale: float | None = None,
) -> Selection:
    """Returns what `--inputs` names: files if there are any so called, else indices.

    Args:
      text: a folder of images or of CSV files, a file of arrays, or indices.
      network: that takes them.
      dataset, split, data_dir: what indices are of.
      scale: what the numbers of files are divided by; images are bytes, which are
        divided by 255 unless it is given.

    Raises:
      InputError: no such files, inputs of another shape, malformed indices.
    """
    path = expand(text)
    # os.path.exists, for a long list of indices is no legal file name, and an empty
    # text is no file (its Path would be the current directory).
    named = path.suffix in (".csv", ".npy", ".npz") or "/" in text
    if named or (text and os.path.exists(path)):
        if holds_images(path):
            return _own_images(path, network, scale)
        found = load_inputs(path, network.input_shape, scale=scale)
        for name, reason in found.skipped:
            logging.warning("skipped %s: %s", name, reason)
        return Selection(path.name, found.names, found.x, found.labels, None)
    if scale is not None:
        raise InputError("--scale belongs to --inputs that are files")
    data = load_dataset(dataset, split, data_dir)
    chosen = parse_selection(text, len(data.labels))
    images = arrange_images(data.images[chosen], network.input_shape)
    return Selection(
        source=f"{data.name} {data.split}",
        names=tuple(str(i) for i in chosen),
        x=images.astype(np.float64),
        labels=data.labels[chosen],
        class_names=data.class_names,
    )


def _own_images(path: Path, network: Network, scale: float | None) -> Selection:
    """Returns the images of a folder, as the network takes them."""
    # Of a data set with a part to train on, a number is one class in both parts.
    other = {"test": "train", "train": "test"}.get(path.name)
    beside = path.with_name(other) if other else None
    known = class_words(beside) if beside is not None and beside.is_dir() else ()
    found = load_images(path, known)
    classes = found.class_names
    if classes is not None and len(classes) > network.num_outputs:
        raise InputError(
            f"{path} has {len(classes)} classes, the network {network.num_outputs}"
        )
    if classes is not None and not classes[0].isdecimal():
        if len(classes) != network.num_outputs:
            raise InputError(
                f"{path} has {len(classes)} classes, the network "
                f"{network.num_outputs}: which is which? Call them by their numbers, 0 "
                f"to {network.num_outputs - 1}"
            )
        told = ", ".join(f"{k} {name}" for k, name in enumerate(classes))
        logging.info("classes in the order of their names: %s", told)
    pixels = as_unit(found.pixels) if scale is None else found.pixels / scale
    x = arrange_images(pixels.astype(np.float64), network.input_shape)
    return Selection(path.name, found.names, x, found.labels, classes)


def arrange_images(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns images (n, h, w, c) laid out as a network takes them.

    Flat vectors keep the order h, w, c; (c, h, w) networks get their channels first.
    """
    n, h, w, c = images.shape
    if shape == (c, h, w) and c > 1:
        return images.transpose(0, 3, 1, 2)
    squeezed = tuple(k for k in shape if k != 1)
    fits = squeezed in ((h, w, c), (h, w)) or squeezed == (h * w * c,)
    if not fits or math.prod(shape) != h * w * c:
        raise InputError(
            f"the network takes inputs of shape {shape}, the data set has images of "
            f"{h} x {w} x {c}: choose the --dataset that the network was trained on"
        )
    return images.reshape(n, *shape)


def select_network(
    model: str, output: Path, dataset: str, data_dir: str | None, seed: int
) -> Network:
    """Returns the network that `--model` names; `demo` trains a small one.

    The demo network is trained once and kept as OUTPUT/network.npz, so that a resumed
    run has the same.

    Raises:
      InputError: no such model, or OUTPUT holds a demo network of other settings.
    """
    if model != "demo":
        if not model.endswith((".onnx", ".onnx.gz", ".npz")):
            raise InputError(
                f"cannot read the model {model!r}: name an .onnx file, a checkpoint "
                "(.npz) or demo"
            )
        return load_network(expand(model))
    kept = output / "network.npz"
    settings = {"dataset": dataset, "seed": seed}
    if kept.exists():
        stored = checkpoint_metadata(kept).get("demo") or {}
        for key, here in settings.items():
            if stored.get(key) != here:
                raise InputError(
                    f"{kept} is the network of other settings: {key} is "
                    f"{stored.get(key)!r} there and {here!r} here. Choose another "
                    "--output, or remove it"
                )
        return load_checkpoint(kept)
    # Before the training, which would be lost.
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write {output}: {error.strerror}. Choose another --output"
        ) from error
    data = load_dataset(dataset, "train", data_dir)
    architecture = Architecture(
        kind="mlp",
        input_shape=data.images.shape[1:],
        num_classes=len(data.class_names),
        hidden=_DEMO_HIDDEN,
    )
    logging.info("training the demo network on %s (%s)", dataset, data.source)
    small = len(data.labels) < 10_000
    config = TrainConfig(
        method="pgd",
        epsilon=0.05,
        epochs=80 if small else 4,
        batch_size=64 if small else 256,
        learning_rate=3e-3,
        seed=seed,
    )
    network, _ = train(architecture, data, config)
    layers = "-".join(map(str, _DEMO_HIDDEN))
    network = dataclasses.replace(network, name=f"demo ({dataset}, MLP {layers})")
    correct = _count_correct(network, load_dataset(dataset, "test", data_dir))
    logging.info("it classifies %d of the %d test images correctly", *correct)
    save_checkpoint(
        kept, network, {"demo": settings, "train": dataclasses.asdict(config)}
    )
    return network


def _count_correct(network: Network, data: Dataset) -> tuple[int, int]:
    """Returns how many images the network classifies correctly, and of how many."""
    logits = jax.vmap(network.apply, (None, 0))(network.params, data.images)
    return int(np.sum(np.argmax(logits, axis=1) == data.labels)), len(data.labels)
