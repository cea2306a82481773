"""Feature-convex classifiers and their checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from jaxcert.checks import as_arrays
from jaxcert.convex import networks
from jaxcert.convex.features import KINDS, Features
from jaxcert.convex.networks import ConvexArchitecture
from jaxcert.devices import float64
from jaxcert.errors import InputError
from jaxcert.learning.checkpoint import (
    Format,
    Header,
    check_hash,
    check_params,
    read_checkpoint,
    write_checkpoint,
)
from jaxcert.network import content_hash

_FORMAT = Format("jaxcert convex checkpoint", 1)
_BATCH = 256


@dataclasses.dataclass(frozen=True, eq=False)
class ConvexClassifier:
    """The classifier f(x) = g(phi(x)) + shift; f(x) > 0 is the sensitive class.

    Attributes:
      architecture: of g.
      params: of g, float32, in nested dictionaries.
      features: phi.
      input_shape: shape of one input.
      shift: the logit shift, a float32 number.
      name: what to call it.
    """

    architecture: ConvexArchitecture
    params: Any
    features: Features
    input_shape: tuple[int, ...]
    shift: float = 0.0
    name: str = "feature-convex"

    def __post_init__(self) -> None:
        """Checks everything the certificate rests on.

        Raises:
          InputError: an array that is missing, too many, of another shape, or not
            finite; a negative weight where convexity forbids it; features of another
            shape than the architecture's; a shift that is not finite.
        """
        expected = networks.skeleton(self.architecture)[1]
        params = check_params(self.params, expected, self.name)
        networks.check_convex(params, self.name)
        object.__setattr__(self, "params", jax.tree.map(np.asarray, params))
        shift = float(np.float32(self.shift))
        if not np.isfinite(shift):
            raise InputError(f"{self.name}: the logit shift is {shift}")
        object.__setattr__(self, "shift", shift)
        spec = jax.ShapeDtypeStruct(self.input_shape, jnp.float32)
        for part in (self.features, self.features.magnitude):
            shape = jax.eval_shape(part, spec).shape
            if shape != self.architecture.feature_shape:
                raise InputError(
                    f"{self.name}: the feature map turns inputs of shape "
                    f"{self.input_shape} into {shape}, the network takes "
                    f"{self.architecture.feature_shape}"
                )

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) over architecture, feature map, shift and weights."""
        text = repr((self.architecture, self.input_shape, _feature_name(self), "1"))
        return content_hash(text, self.params | _outside(self))

    def scores(self, x: Float[ArrayLike, "n *d"]) -> Float[np.ndarray, " n"]:
        """Returns f of a batch of inputs, evaluated in float64.

        Raises:
          InputError: inputs of another shape.
        """
        values = checked_inputs(self, x)
        params = as_arrays(self.params, np.float64)

        def run(part: np.ndarray) -> tuple[jax.Array]:
            return (_scores(self.architecture, self.features, params, part),)

        return in_batches(run, values)[0] + self.shift

    def with_shift(self, shift: float) -> ConvexClassifier:
        """Returns the same classifier with another logit shift."""
        return dataclasses.replace(self, shift=shift)


@functools.partial(jax.jit, static_argnums=0)
def _scores(
    architecture: ConvexArchitecture, features: Features, params: Any, x: jax.Array
) -> jax.Array:
    return networks.apply(architecture, params, features(x))


def checked_inputs(
    classifier: ConvexClassifier, x: Float[ArrayLike, "n *d"]
) -> Float[np.ndarray, "n *d"]:
    """Returns a batch of inputs in float64.

    Raises:
      InputError: another shape, or a value that is not finite.
    """
    values = np.asarray(x, np.float64)
    if values.shape[1:] != classifier.input_shape or not values.size:
        raise InputError(
            f"inputs have shape {values.shape}; {classifier.name} takes "
            f"(n, {', '.join(map(str, classifier.input_shape))}) with n >= 1"
        )
    broken = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if broken.any():
        raise InputError(
            f"input {int(np.flatnonzero(broken)[0])} holds NaN or infinity: clean it "
            "before certifying"
        )
    return values


@float64(share=1.0)
def in_batches(
    run: Callable[[np.ndarray], Sequence[jax.Array]], values: np.ndarray
) -> list[np.ndarray]:
    """Returns what `run` gives for all inputs, computed in float64, batch by batch.

    Batches have a power of two of inputs, so that few sizes are compiled; the last
    input fills the last of them up.
    """
    count = len(values)
    size = min(_BATCH, 1 << (count - 1).bit_length())
    parts = []
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        parts.append([np.asarray(part) for part in run(values[rows])])
    return [np.concatenate(part)[:count] for part in zip(*parts, strict=True)]


def save_classifier(
    path: str | os.PathLike[str],
    classifier: ConvexClassifier,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Writes a classifier to one `.npz` file that holds no code, atomically.

    Raises:
      InputError: a custom feature map, which is code; another suffix; metadata that
        JSON cannot hold; or a place that cannot be written.
    """
    if _feature_name(classifier) not in KINDS:
        raise InputError(
            f"{classifier.name}: a custom feature map is code, which a checkpoint does "
            f"not hold; known: {', '.join(KINDS)}"
        )
    header = {
        "architecture": dataclasses.asdict(classifier.architecture),
        "features": _feature_name(classifier),
        "input_shape": list(classifier.input_shape),
        "name": classifier.name,
        "content_hash": classifier.content_hash,
        "metadata": metadata or {},
    }
    params = classifier.params | _outside(classifier)
    write_checkpoint(Path(path), _FORMAT, header, params)


def load_classifier(
    path: str | os.PathLike[str],
) -> tuple[ConvexClassifier, dict[str, Any]]:
    """Returns the classifier of a checkpoint, and the metadata it was saved with.

    Raises:
      InputError: missing, truncated or no such checkpoint; another format version; a
        negative weight where convexity forbids it; an array that is missing, of another
        shape or not finite; another content hash.
    """
    header, params = read_checkpoint(Path(path), _FORMAT, _shapes)
    outside = params.pop("outside")
    try:
        classifier = ConvexClassifier(
            architecture=ConvexArchitecture.from_dict(header["architecture"]),
            params=params,
            features=KINDS[header["features"]](outside["mu"]),
            input_shape=tuple(header["input_shape"]),
            shift=float(outside["shift"]),
            name=str(header.get("name") or path),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    check_hash(path, header, classifier.content_hash)
    return classifier, header.get("metadata", {})


def _outside(classifier: ConvexClassifier) -> dict[str, Any]:
    """Returns the numbers of a classifier that are no weights of its network."""
    mu = getattr(classifier.features, "mu", 0.0)
    mu = np.broadcast_to(np.asarray(mu, np.float32), classifier.input_shape)
    return {"outside": {"mu": mu, "shift": np.float32(classifier.shift)}}


def _feature_name(classifier: ConvexClassifier) -> str:
    return getattr(classifier.features, "name", "custom")


def _shapes(header: Header) -> dict[str, Any]:
    architecture = ConvexArchitecture.from_dict(header.get("architecture"))
    if header.get("features") not in KINDS:
        raise InputError(
            f"unknown feature map {header.get('features')!r}; known: {', '.join(KINDS)}"
        )
    shape = header.get("input_shape")
    if not isinstance(shape, list) or not all(isinstance(n, int) for n in shape):
        raise InputError(f"input_shape is {shape!r}, not a list of integers")
    outside = {
        "mu": jax.ShapeDtypeStruct(tuple(shape), jnp.float32),
        "shift": jax.ShapeDtypeStruct((), jnp.float32),
    }
    return networks.skeleton(architecture)[1] | {"outside": outside}
