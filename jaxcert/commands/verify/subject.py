"""What an instance is about: the files of its networks, read as one network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from absl import logging

from jaxcert.errors import InputError, UnsupportedError
from jaxcert.interop.onnx import final_softmax, load_onnx
from jaxcert.interop.vnnlib import Property
from jaxcert.interop.vnnlib_joint import check_ports, files_of, joined
from jaxcert.network import Network

Shapes = tuple[tuple[int, ...], ...]
_BATCH = "takes a fixed batch"


class Load(Protocol):
    """Reads networks, as `load_subject` does."""

    def __call__(self, onnx: Path, shapes: Shapes | None = None, /) -> Network:
        """Returns the network of a file."""
        ...


def load_subject(onnx: Path, shapes: Shapes | None = None) -> Network:
    """Returns the network of a file; its notes are logged.

    Args:
      onnx: the file.
      shapes: see `load_onnx`.

    Raises:
      InputError: see `load_onnx`, or a weight is not finite.
      UnsupportedError: see `load_onnx`.
    """
    network = load_onnx(onnx, shapes)
    for note in network.notes:
        if "replaced by its logits" in note or _BATCH in note:
            continue  # asked about below, where the property is known
        logging.warning("%s: %s", onnx, note)
    return network


def joint_network(
    prop: Property, onnx: Mapping[str, Path], vnnlib: Path, load: Load
) -> Network:
    """Returns the network that a property is about, of one or several files.

    Raises:
      InputError: the files and the property do not belong together.
      UnsupportedError: one cannot be read, or a final Softmax does not go with it.
    """
    files = files_of(prop, {name: str(path) for name, path in onnx.items()})
    networks: list[Network] = []
    for index, file in enumerate(files):
        if file in files[:index]:
            networks.append(networks[files.index(file)])
            continue
        shapes: Shapes | None = None
        if prop.networks:
            shapes = tuple(t.shape for t in prop.networks[index].inputs)
        network = load(Path(file), shapes)
        if not prop.networks and math.prod(network.input_shape) != prop.num_inputs:
            whole = tuple(port.shape for port in network.inputs)
            if sum(map(math.prod, whole)) == prop.num_inputs:
                network = load(Path(file), whole)  # all rows of a fixed batch
        for note in network.notes:
            if _BATCH in note:
                logging.warning("%s: %s", file, note)
        networks.append(network)
    softmax = [final_softmax(network) for network in networks]
    if any(softmax) and not (len(networks) == 1 and prop.compares_outputs):
        raise UnsupportedError(
            f"{all_of(onnx)} ends in a {next(filter(None, softmax))}, of which "
            f"{vnnlib} states more than comparisons of one output with another: "
            "export the network without it, and state the property of the logits"
        )
    check_ports(prop, networks)
    try:
        return joined(prop, networks)
    except InputError as error:
        raise InputError(f"{vnnlib} and {all_of(onnx)}: {error}") from error


def all_of(onnx: Mapping[str, Path]) -> str:
    """Returns the names of the files, for messages."""
    return " and ".join(map(str, onnx.values()))
