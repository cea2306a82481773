"""Image data sets that tensorflow-datasets has prepared, read without TensorFlow."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np

from jaxcert.errors import InputError
from jaxcert.runs.files import parse_json, read_text


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A split as it was prepared, in the order of its files.

    Attributes:
      folder: of the version.
      pixels: uint8, (n, h, w, c).
      labels: (n,).
      class_names: one per class.
    """

    folder: Path
    pixels: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


def read_prepared(name: str, split: str, directory: Path) -> Prepared | str:
    """Returns a split of `DIRECTORY/NAME/VERSION`, or a string that says what is amiss.

    Any data set will do whose examples have an `image` of 8 bits and a `label`, and
    whose images are of one size. It must be prepared as array_record.

    Raises:
      InputError: it is there, and is damaged or of another form.
    """
    found = sorted(directory.glob(f"{name}/*/dataset_info.json"))
    if not found:
        return f"no {directory / name}/VERSION/dataset_info.json"
    folder = found[-1].parent
    try:
        text = read_text(found[-1], kind="a dataset_info.json")
        file_format = parse_json(text).get("fileFormat")
    except (ValueError, AttributeError) as error:
        raise InputError(f"cannot read {found[-1]}: {error}") from error
    if file_format != "array_record":
        return (
            f"{folder} is prepared as {file_format}, which only TensorFlow reads; "
            "prepare it with file_format='array_record'"
        )
    try:
        # The first two are named here because tensorflow-datasets would import them
        # later, with an error of its own.
        import array_record  # noqa: F401
        import importlib_resources  # noqa: F401
        import PIL.Image
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        return (
            f"{folder} needs the package {error.name}: pip install "
            "tensorflow-datasets array_record importlib_resources pillow"
        )
    try:
        builder = tfds.builder_from_directory(str(folder))
        source = builder.as_data_source(
            split=split, decoders={"image": tfds.decode.SkipDecoding()}
        )
        records = source.__getitems__(range(len(source)))
        images = [np.asarray(PIL.Image.open(io.BytesIO(r["image"]))) for r in records]
        labels = np.array([record["label"] for record in records])
        names = getattr(builder.info.features["label"], "names", None)
    except (ValueError, KeyError, IndexError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"cannot read the {split} split of {folder}: {reason}; prepare it again, "
            "or remove it to use another source"
        ) from error
    if len({image.shape for image in images}) != 1 or images[0].dtype != np.uint8:
        raise InputError(
            f"{folder} has no images of 8 bits in one size, which a network takes"
        )
    pixels = np.stack(images)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if labels.ndim != 1 or not len(labels) or labels.min() < 0:
        raise InputError(f"{folder} has no class for every image of its {split} split")
    classes = names or [str(k) for k in range(int(labels.max()) + 1)]
    return Prepared(folder, pixels, labels, tuple(classes))
