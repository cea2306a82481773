"""A network as every part of jaxcert takes it: a function, its weights, its shapes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxcert.model import Model


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output of the file that a network was read from.

    Attributes:
      name: what the file calls it.
      shape: its whole shape, the batch axis included.
      dtype: name of its type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network: `apply(params, x)` maps one input to its logits.

    `apply` is hashable and compares equal for equal architectures, so that programs
    compiled for one network serve every other network of the same shape.

    Attributes:
      apply: `apply(params, x) -> logits`, x of shape `input_shape` (one input, no batch
        axis), logits of shape `(num_outputs,)`.
      params: pytree of float arrays, in the types in which they are stored.
      input_shape: shape of one input.
      num_outputs: number of logits.
      name: what to call it in tables and reports.
      content_hash: SHA-256 (hex) over architecture and weights.
      notes: sentences the user should read, such as "final Softmax replaced by its
        logits".
      types: names of the float types that the network computes in, the widest first.
      inputs, outputs: of the file, in its order, where it has names for them. Several
        of them are the parts of one vector, each in row-major order.
    """

    apply: Callable[[Any, Any], Any]
    params: Any
    input_shape: tuple[int, ...]
    num_outputs: int
    name: str
    content_hash: str
    notes: tuple[str, ...] = ()
    types: tuple[str, ...] = ("float32",)
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()

    @functools.cached_property
    def model(self) -> Model:
        """The network as bounds and searches take it; see `Model` for errors."""
        return Model(self.apply, self.params, self.input_shape)


def content_hash(architecture_text: str, params: Any) -> str:
    """Returns the SHA-256 (hex) of an architecture and its weights.

    Every leaf of `params` enters with its path, dtype, shape and little-endian bytes,
    each length-prefixed so that no two different inputs serialise alike.

    Args:
      architecture_text: the canonical text of the architecture; equal architectures
        must give equal text.
      params: pytree of arrays.
    """
    digest = hashlib.sha256()

    def feed(data: bytes) -> None:
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)

    feed(b"jaxcert network 1")
    feed(architecture_text.encode())
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        array = np.asarray(leaf)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        feed(jax.tree_util.keystr(path).encode())
        feed(array.dtype.name.encode())
        feed(repr(tuple(array.shape)).encode())
        feed(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
