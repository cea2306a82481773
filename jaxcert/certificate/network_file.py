"""The network file of certificates: affine maps and activations, written down exactly.

A certificate speaks of the network as it stands in this file, named by its SHA-256. The
format is stated in `jaxcert/checker/network.py`, which reads it without any other part
of jaxcert.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert.checker.curves import CURVES
from jaxcert.errors import UnsupportedError
from jaxcert.runs.files import write_atomically
from jaxcert.trace import activations
from jaxcert.trace.equations import Values
from jaxcert.trace.program import ActivationNode, AffineNode, Node, Program, is_relu

# Elements of one matrix that is written down; conv layers of small networks fit.
_MATRIX_LIMIT = 1 << 27
# What the checker has under the name of a smooth activation.
_SMOOTH = {
    made: made.name
    for made in (
        activations.TANH, activations.LOGISTIC, activations.EXP, activations.SOFTPLUS
    )
    if made.name in CURVES
}  # fmt: skip
# Matrices with a smaller share of nonzero elements are stored sparsely.
_SPARSE = 0.4


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkFile:
    """A network in the form that certificates refer to.

    Attributes:
      header: JSON text, UTF-8.
      arrays: by name.
      sha256: over header and arrays, hex.
    """

    header: bytes
    arrays: dict[str, np.ndarray]
    sha256: str

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"network-{self.sha256[:16]}.npz"

    @property
    def reference(self) -> dict[str, str]:
        """How the header of a certificate beside the file names it."""
        return {"sha256": self.sha256, "file": self.name}

    def write(self, folder: Path) -> None:
        """Writes the file into a folder, made if missing, unless it is there."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.name
        if not path.exists():
            packed = io.BytesIO()
            header = np.frombuffer(self.header, np.uint8)
            np.savez_compressed(packed, header=header, **self.arrays)  # type: ignore[arg-type]
            write_atomically(path, packed.getvalue())


def network_file(
    program: Program, params: Any, arithmetic: str = "real"
) -> NetworkFile:
    """Returns the network of a program with these float64 weights.

    Must run where float64 is enabled. Weights that the program computes are written
    down as it computes them, in the types that it states.

    Args:
      program: the network.
      params: its weights.
      arithmetic: of the certificates, real or float32.

    Raises:
      UnsupportedError: it has other operations than affine maps, ReLUs and the smooth
        activations that the checker knows, or is too large; or the arithmetic is
        float32 and it has one of these, or computes weights with rounding: float32
        runs differ in these.
    """
    if program.noisy:
        raise UnsupportedError(
            "certificates exist for networks that compute in float32 or wider; this "
            "one casts to a narrower type. Its answers are proved, but by jaxcert only"
        )
    if arithmetic == "float32" and (program.inexact or program.assumptions):
        raise UnsupportedError(
            "certificates of float32 arithmetic exist for stored weights; this network "
            "computes weights from them, which every float32 run rounds in its own "
            "way. Compute them once and store the results, or claim real arithmetic"
        )
    activated = [node for node in program.nodes if not isinstance(node, AffineNode)]
    strange = sorted({node.name for node in activated if _op(node) is None})
    if strange:
        raise UnsupportedError(
            f"certificates exist for networks of affine maps, ReLUs, "
            f"{', '.join(_SMOOTH.values())}; this one has other operations: "
            f"{', '.join(strange)}. Its answers are proved, but by jaxcert only"
        )
    smooth = not all(map(is_relu, activated))
    if arithmetic == "float32" and smooth:
        raise UnsupportedError(
            "certificates of float32 arithmetic exist for affine maps and ReLUs alone; "
            "this network has smooth activations. Claim real arithmetic"
        )
    values = program.prepare(params, jnp.float64)
    arrays: dict[str, np.ndarray] = {}
    number = {program.input: 0}
    nodes: list[dict[str, Any]] = []
    for node in program.nodes:
        if isinstance(node, AffineNode):
            terms = _terms(node, values, number, arrays, len(nodes))
            offset = None
            if node.has_offset:
                zeros = [jnp.zeros(shape, jnp.float64) for shape in node.input_shapes]
                constant = np.asarray(node.apply(values, *zeros)).reshape(-1)
                if constant.any():
                    offset = f"b{len(nodes)}"
                    arrays[offset] = _narrow(constant)
            nodes.append(
                {"op": "affine", "size": node.size, "terms": terms, "offset": offset}
            )
        else:
            nodes.append(
                {"op": _op(node), "size": node.size, "input": number[node.inputs[0]]}
            )
        number[node.output] = len(nodes)
    if number[program.output] != len(nodes):
        raise UnsupportedError("the network's output is not its last operation")
    nodes = _without_identities(nodes, arrays)
    header = json.dumps(
        {
            "format": "jaxcert network",
            "version": 2 if smooth else 1,
            "input_shape": list(program.input_shape),
            "nodes": nodes,
        }
    ).encode()
    return NetworkFile(header, arrays, _sha256(header, arrays))


def _op(node: Node) -> str | None:
    """Returns what the file calls an activation; None if it has no name for it."""
    if is_relu(node):
        return "relu"
    return _SMOOTH.get(node.activation) if isinstance(node, ActivationNode) else None


def _without_identities(
    nodes: list[dict[str, Any]], arrays: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Returns the nodes without those that move nothing, and at most add an offset.

    Such a one becomes part of the affine node before it, of which it is all that
    anybody sees, if at most one of the two has an offset: nothing is computed, so that
    nothing is rounded. Checking costs a matrix product less for each.
    """
    kept: list[dict[str, Any]] = []
    place = [0]  # of every value among those that are kept
    uses = Counter(
        v
        for node in nodes
        for v in ([t["input"] for t in node["terms"]] if "terms" in node
                  else [node["input"]])
    )  # fmt: skip
    for number, node in enumerate(nodes):
        terms = node.get("terms", [])
        identity = len(terms) == 1 and terms[0]["kind"] == "index"
        identity = identity and terms[0]["input"] == number > 0
        if identity and uses[number] == 1 and kept[-1]["op"] == "affine":
            index, before = arrays[terms[0]["index"]], kept[-1]
            same = np.array_equal(index, np.arange(before["size"]))
            if same and None in (before["offset"], node["offset"]):
                del arrays[terms[0]["index"]]
                before["offset"] = before["offset"] or node["offset"]
                place.append(len(kept))
                continue
        moved = [t | {"input": place[t["input"]]} for t in terms]
        own = {"terms": moved} if terms else {}
        own |= {"input": place[node["input"]]} if "input" in node else {}
        kept.append(node | own)
        place.append(len(kept))
    return kept


def _sha256(header: bytes, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(header)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _narrow(array: np.ndarray) -> np.ndarray:
    """Returns the array in float32 where that holds the same numbers."""
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    return single if np.array_equal(single.astype(np.float64), array) else array


def _terms(
    node: AffineNode,
    values: Values,
    number: dict[int, int],
    arrays: dict[str, np.ndarray],
    index: int,
) -> list[dict[str, Any]]:
    zeros = [jnp.zeros(shape, jnp.float64) for shape in node.input_shapes]
    terms = []
    for place, value in enumerate(node.inputs):

        def alone(x: Any, place: int = place) -> Any:
            operands = [*zeros[:place], x, *zeros[place + 1 :]]
            return node.apply(values, *operands)

        matrix = _matrix(alone, zeros[place], node)
        name = f"{index}_{place}"
        terms.append({"input": number[value], **_stored(matrix, name, arrays)})
    return terms


def _matrix(
    apply: Callable[[Any], Any], zeros: jax.Array, node: AffineNode
) -> np.ndarray:
    """Returns the matrix of an affine map, exactly: each element is one weight times 1.

    Raises:
      UnsupportedError: it has too many elements to be written down.
    """
    size = zeros.size
    if size * node.size > _MATRIX_LIMIT:
        raise UnsupportedError(
            f"{node.name} at {node.where} is a matrix of {node.size} x {size}: too "
            "large for a certificate"
        )
    _, linear = jax.linearize(apply, zeros)
    columns = []
    eye = np.eye(size)
    many = jax.vmap(linear)
    for start in range(0, size, 512):
        units = jnp.asarray(eye[start : start + 512].reshape(-1, *zeros.shape))
        columns.append(np.asarray(many(units)).reshape(len(units), node.size))
    return np.concatenate(columns).T


def _stored(
    matrix: np.ndarray, name: str, arrays: dict[str, np.ndarray]
) -> dict[str, Any]:
    filled = matrix != 0
    per_row = filled.sum(axis=1)
    if per_row.max(initial=0) <= 1 and np.all(matrix[filled] == 1):
        picked = np.where(per_row == 1, filled.argmax(axis=1), -1)
        arrays[f"i{name}"] = picked.astype(np.int32)
        return {"kind": "index", "index": f"i{name}"}
    if filled.mean() < _SPARSE:
        arrays[f"d{name}"] = _narrow(matrix[filled])
        arrays[f"c{name}"] = np.nonzero(filled)[1].astype(np.int32)
        start = np.concatenate([[0], np.cumsum(per_row)])
        arrays[f"s{name}"] = start.astype(np.int32)
        stored = {"data": f"d{name}", "column": f"c{name}", "start": f"s{name}"}
        return {"kind": "sparse", **stored}
    arrays[f"w{name}"] = _narrow(matrix)
    return {"kind": "dense", "weight": f"w{name}"}
