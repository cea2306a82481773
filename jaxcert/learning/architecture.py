"""Architecture: the shape of a network that jaxcert can build, train and store."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

import numpy as np

from jaxcert.errors import InputError


def usual_kernel(input_shape: tuple[int, ...]) -> int:
    """Returns the side of kernels of stride 2 of which two fit into images.

    4 for images of 10 pixels or more, 3 for smaller ones, such as scikit-learn's digits
    of 8 x 8.
    """
    return 4 if min(input_shape[:2]) >= 10 else 3


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The shape of a network: hashable, and equal to its own JSON read back.

    A `cnn` is convolution blocks (convolution, batch norm, ReLU, pooling), then the
    dense layers of an `mlp`: hidden layers with ReLU (and batch norm before it), and
    one linear layer to the logits.

    Attributes:
      kind: "mlp" or "cnn".
      input_shape: shape of one input; (h, w, c) for a cnn.
      num_classes: number of logits, at least 2.
      hidden: widths of the hidden dense layers.
      channels: output channels of each convolution (cnn only).
      kernel: side of every convolution kernel.
      strides: stride of each convolution, one per entry of `channels`; () for all 1.
      padding: "VALID" or "SAME".
      pool: pooling over 2 x 2 after each block: "none", "max" or "avg".
      batch_norm: whether every hidden layer is normalised.
    """

    kind: Literal["mlp", "cnn"]
    input_shape: tuple[int, ...]
    num_classes: int = 10
    hidden: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    kernel: int = 3
    strides: tuple[int, ...] = ()
    padding: Literal["VALID", "SAME"] = "VALID"
    pool: Literal["none", "max", "avg"] = "none"
    batch_norm: bool = False

    def __post_init__(self) -> None:
        for field in ("input_shape", "hidden", "channels", "strides"):
            numbers = getattr(self, field)
            if isinstance(numbers, int) or not all(_is_count(n) for n in numbers):
                raise InputError(
                    f"architecture: {field} must be integers of at least 1"
                )
            object.__setattr__(self, field, tuple(int(n) for n in numbers))
        for field, known in (
            ("kind", ("mlp", "cnn")),
            ("padding", ("VALID", "SAME")),
            ("pool", ("none", "max", "avg")),
            ("batch_norm", (False, True)),
        ):
            if getattr(self, field) not in known:
                options = ", ".join(str(option) for option in known)
                raise InputError(
                    f"architecture: unknown {field} {getattr(self, field)!r}; known: "
                    f"{options}"
                )
        if not _is_count(self.kernel) or not _is_count(self.num_classes):
            raise InputError("architecture: kernel and num_classes must be integers")
        if self.num_classes < 2:
            raise InputError("architecture: num_classes must be at least 2")
        if not self.input_shape:
            raise InputError("architecture: input_shape must not be empty")
        if self.kind == "mlp" and self.channels:
            raise InputError("architecture: channels belong to a cnn, not to an mlp")
        if self.kind == "cnn" and (not self.channels or len(self.input_shape) != 3):
            raise InputError(
                "architecture: a cnn needs channels and an input_shape (h, w, c)"
            )
        if self.strides and len(self.strides) != len(self.channels):
            raise InputError(
                f"architecture: {len(self.strides)} strides for {len(self.channels)} "
                "convolutions"
            )
        self.feature_shape  # noqa: B018  (raises where the image is used up)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape that reaches the first dense layer, before it is made flat.

        Raises:
          InputError: a convolution or a pooling has no room left.
        """
        if self.kind == "mlp":
            return self.input_shape
        height, width = self.input_shape[:2]
        for index, stride in enumerate(self.conv_strides):
            if self.padding == "SAME":
                height, width = -(-height // stride), -(-width // stride)
            else:
                height = (height - self.kernel) // stride + 1
                width = (width - self.kernel) // stride + 1
            if self.pool != "none":
                height, width = height // 2, width // 2
            if min(height, width) < 1:
                raise InputError(
                    f"architecture: block {index + 1} leaves nothing of an image of "
                    f"{self.input_shape[:2]}; use fewer blocks, padding SAME, or "
                    "smaller kernels and strides"
                )
        return (height, width, self.channels[-1])

    @property
    def conv_strides(self) -> tuple[int, ...]:
        """One stride per convolution."""
        return self.strides or (1,) * len(self.channels)

    def to_json(self) -> str:
        """Returns its canonical text: equal architectures give equal text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @staticmethod
    def from_dict(values: Any) -> Architecture:
        """Returns the architecture of a mapping, such as JSON gives it.

        Raises:
          InputError: another set of keys, or values that are none of an architecture.
        """
        names = {field.name for field in dataclasses.fields(Architecture)}
        if not isinstance(values, dict) or set(values) != names:
            raise InputError(f"an architecture has the keys {', '.join(sorted(names))}")
        try:
            return Architecture(**values)
        except TypeError as error:
            raise InputError(f"malformed architecture: {error}") from error


def _is_count(number: Any) -> bool:
    integer = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
    return integer and 0 < number < 1 << 24
