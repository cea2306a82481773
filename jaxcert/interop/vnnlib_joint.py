"""The networks of a property as one: what its cases are stated about.

It maps the variables (inputs that the property states to be equal are one of them) to
the outputs of all networks, and behind these to the variables that rows are about:
what is said of x and f(x) together is so said of outputs alone. Passing a variable on
is exact, in every bound and in float64.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxcert.errors import InputError
from jaxcert.interop.onnx_graph import evaluate
from jaxcert.interop.vnnlib import Property
from jaxcert.network import Network, content_hash

# More pieces than this are gathered element by element.
_MOST_SLICES = 32
Spread = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Joint:
    """`apply(params, z) -> outputs` of networks side by side.

    Attributes:
      parts: what computes each network.
      params: which of the parameters each takes.
      shapes: of one input of each.
      spread: which element of z every element of their inputs is, all in a row.
      passed: the elements of z that follow the outputs.
    """

    parts: tuple[Callable[[Any, Any], Any], ...]
    params: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    spread: Spread
    passed: Spread

    @property
    def needs_float64(self) -> bool:
        """Whether one of the networks does, see `OnnxGraph.needs_float64`."""
        return any(getattr(part, "needs_float64", False) for part in self.parts)

    def __call__(self, params: Any, z: Float[Array, "..."]) -> Float[Array, " outputs"]:
        """Returns the outputs of all networks, then what is passed on."""
        z = jnp.reshape(z, (-1,))
        outputs, first = [], 0
        for part, own, shape in zip(self.parts, self.params, self.shapes, strict=True):
            last = first + math.prod(shape)
            x = jnp.reshape(_picked(z, self.spread[first:last]), shape)
            outputs.append(jnp.reshape(part(params[own], x), (-1,)))
            first = last
        if self.passed:
            outputs.append(_picked(z, self.passed).astype(outputs[0].dtype))
        return jnp.concatenate(outputs) if len(outputs) > 1 else outputs[0]


def joined(prop: Property, networks: Sequence[Network]) -> Network:
    """Returns the network that the cases of a property are about.

    Args:
      prop: the property.
      networks: one per declared network, in the order of the file; the same object
        where one is declared to be equal to another.

    Raises:
      InputError: another number of inputs or outputs than the property declares.
    """
    for what, here, there in (
        ("inputs", prop.num_inputs, sum(math.prod(n.input_shape) for n in networks)),
        ("outputs", prop.num_outputs, sum(n.num_outputs for n in networks)),
    ):
        if here != there:
            raise InputError(
                f"the property declares {here} {what} and "
                f"{' and '.join(n.name for n in networks)} has {there}: they do not "
                "belong together"
            )
    if prop.is_plain:
        return networks[0]
    distinct = list(dict.fromkeys(map(id, networks)))
    where = tuple(distinct.index(id(n)) for n in networks)
    each = {id(n): n for n in networks}
    joint = Joint(
        tuple(n.apply for n in networks), where,
        tuple(n.input_shape for n in networks), prop.spread, prop.passed,
    )  # fmt: skip
    text = repr((where, joint.shapes, prop.spread, prop.passed))
    hashes = [n.content_hash for n in networks]
    notes = dict.fromkeys(itertools.chain(*(n.notes for n in networks)))
    return Network(
        apply=joint,
        params=tuple(each[key].params for key in distinct),
        input_shape=(max(prop.spread) + 1,),
        num_outputs=prop.num_outputs + len(prop.passed),
        name=" and ".join(dict.fromkeys(n.name for n in networks)),
        content_hash=content_hash(f"{text} {hashes}", ()),
        notes=tuple(notes),
        types=tuple(dict.fromkeys(itertools.chain(*(n.types for n in networks)))),
    )


def files_of(prop: Property, named: Mapping[str, str]) -> list[str]:
    """Returns the file of every declared network, by the names that files were given.

    A single file may be given without a name, as "". Networks that are equal to another
    have its file.

    Raises:
      InputError: a network without a file, or a file without a network.
    """
    wanted = [n.name for n in prop.networks if not n.same_as] or [""]
    if list(named) == [""] and len(wanted) == 1:
        named = {wanted[0]: named[""]}
    if set(named) != set(wanted):
        given = ", ".join(filter(None, named)) or "a file without a name"
        needed = ", ".join(filter(None, wanted)) or "one file without a name"
        raise InputError(f"the property needs files for {needed}, and got {given}")
    if not prop.networks:
        return [named[""]]
    return [named[n.same_as or n.name] for n in prop.networks]


def check_ports(prop: Property, networks: Sequence[Network]) -> None:
    """Checks shapes and types of the files against those that version 2.0 declares.

    Raises:
      InputError: they are not.
    """
    for declared, network in zip(prop.networks, networks, strict=False):
        for what, tensors, ports in (
            ("inputs", declared.inputs, network.inputs),
            ("outputs", declared.outputs, network.outputs),
        ):
            if len(tensors) != len(ports):
                raise InputError(
                    f"network {declared.name} is declared with {len(tensors)} {what}, "
                    f"and {network.name} has {len(ports)}"
                )
            for tensor, port in zip(tensors, ports, strict=True):
                if tensor.shape != port.shape:
                    raise InputError(
                        f"{tensor.name} is declared of shape {list(tensor.shape)}, and "
                        f"'{port.name}' of {network.name} has {list(port.shape)}"
                    )
                if tensor.dtype not in ("real", port.dtype):
                    raise InputError(
                        f"{tensor.name} is declared as {tensor.dtype}, and "
                        f"'{port.name}' of {network.name} is {port.dtype}"
                    )


def _picked(z: Array, places: Spread) -> Array:
    """Returns elements of a vector: as slices where these are few, for they are exact
    to every part of the library."""
    ends = np.flatnonzero(np.diff(places) != 1) + 1
    bounds = [0, *ends.tolist(), len(places)]
    if len(bounds) - 1 > _MOST_SLICES:
        return evaluate("gather", (("axis", 0), ("indices", places)), [z])
    parts = [z[places[a] : places[b - 1] + 1] for a, b in itertools.pairwise(bounds)]
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]
