"""The network that a certificate speaks of: affine maps, ReLUs and smooth activations.

Value 0 is the input, node k makes value k+1 from earlier ones, the last value holds the
logits; values are flat vectors. The file (version 1) has
  `header`, JSON as uint8: {"format": "jaxcert network", "version": 1,
    "input_shape": [...], "nodes": [{"op": "affine", "size": n, "terms": [TERM...],
    "offset": NAME or null} or {"op": "relu", "size": n, "input": v}, ...]}, in version
    2 also "op": NAME of a smooth activation (`curves.py`); TERM has an "input" v and a
    "kind": "dense" with "weight" (n, size of v); "index" with "index" int32 (n,), y_i =
    v[index_i], or 0 for -1; "sparse" with CSR "data", "column", "start";
  the arrays that it names.
Its sha256 is taken over the header, then over all other members in the order of names:
f"{name}|{dtype.str}|{shape}", and the bytes of the array.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import functools
import hashlib
import math
import os
import re
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from .arithmetic import Arithmetic
from .curves import CLIP, CURVES
from .reading import NAME, need, read, take, unpacked, whole

NUMBERS = 2**25  # at most, in all matrices


class Front(NamedTuple):
    """What makes the input of a network from `inputs` numbers, as nodes of a file.

    Its last value is that input. It may also have the op "clip", min(max(z, 0), 1).
    No name of its arrays is one that a file can have.
    """

    inputs: int
    nodes: list[dict[str, Any]]
    arrays: dict[str, Any]


class Network:
    """The network of a file's bytes, as nodes that make the values 1, 2, ...

    value = sum over terms (v, w, |w|) of w @ v, plus offset; or an activation of one
    term: a `curve`, or the ReLU number `relu` of the neurons `part`; None and -1 else.
    `direct` says that all v are affine images of the input.
    """

    def __init__(self, raw: bytes, exact: bool, front: Front | None = None) -> None:
        b, (text, head, arrays) = Arithmetic(exact), unpacked(raw, "network", 2)
        digest = hashlib.sha256(text)
        for name, array in sorted(arrays.items()):
            digest.update(f"{name}|{array.dtype.str}|{array.shape}".encode())
            digest.update(array.tobytes())
        self.sha256 = digest.hexdigest()
        lengths = [whole(n, 1, NUMBERS, "input_shape") for n in head["input_shape"]]
        self.shape, specs, curves = lengths, head["nodes"], dict[str, Any]()
        behind = 0  # the value that is the input of the nodes of the file
        if head["version"] > 1:
            curves = CURVES
        self.sizes, self.neurons = [math.prod(lengths)], 0
        if front is not None:
            specs, behind = front.nodes + specs, len(front.nodes)
            need(front.nodes[-1]["size"] == self.sizes[0], "network: another input")
            self.sizes, arrays = [front.inputs], arrays | front.arrays
            curves = CURVES | {"clip": CLIP}
        self.nodes: list[Any] = []
        direct, used, most = [True], self.sizes[0], NUMBERS >> 3 if exact else NUMBERS
        for k, spec in enumerate(specs):
            what, op = f"network: node {k}", str(spec.get("op"))
            curve = curves.get(op)
            affine, known = op == "affine", op in ("affine", "relu") or bool(curve)
            need(known, f"{what}: op {op[:40]!r}")
            size = whole(spec.get("size"), 1, NUMBERS, f"{what}: size")
            node = SimpleNamespace(size=size, terms=[], affine=affine, curve=curve)
            node.direct, node.relu, node.part = True, -1, None
            used += size
            for term in spec["terms"] if affine else [spec]:
                first = behind if k >= behind else 0
                v = first + whole(term.get("input"), 0, k + 1 - first, f"{what}: input")
                used += size * self.sizes[v] if affine else 0
                need(used <= most, f"{what}: more than {most} weights")
                w = _matrix(term, size, self.sizes[v], arrays) if affine else b.zero
                node.terms.append((v, b.number(w), abs(b.number(w))))
                node.direct &= direct[v]
            need(used <= most, f"{what}: more than {most} numbers")
            same = affine or size == self.sizes[v]
            need(same, f"{what}: its input has another size")
            if op == "relu":
                node.relu = sum(other.relu >= 0 for other in self.nodes)
                node.part = slice(self.neurons, self.neurons + size)
                self.neurons += size
            elif affine:
                offset = np.zeros(size if node.terms else 0)
                if spec["offset"] is not None or not node.terms:
                    offset = take(arrays, spec["offset"], "f4 f8", (size,))
                node.offset = b.number(offset)
            self.nodes.append(node)
            self.sizes.append(size)
            direct.append(node.direct and affine)
        self.relus = [node for node in self.nodes if node.relu >= 0]


network_of = functools.lru_cache(maxsize=4)(Network)  # by the bytes themselves


def beside(path, head, expected: str | None, exact: bool) -> tuple[bytes, Network]:
    """Returns the network that a certificate names, and the bytes of its file.

    It lies beside the certificate; its sha256 is that, and the one that is expected.
    """
    words = head["network"]
    name, sha256 = str(words.get("file")), str(words.get("sha256"))
    need(bool(re.fullmatch(NAME, name)), f"the network file's name is {name[:40]!r}")
    wrong = f"it speaks of another network, {sha256[:16]!r}, not of"
    need(expected in (None, sha256), f"{wrong} {str(expected)[:16]!r}")
    raw = read(os.path.join(os.path.dirname(os.fspath(path)), name))
    net = network_of(raw, exact)
    need(net.sha256 == sha256, f"{wrong} {net.sha256[:16]!r} beside it")
    return raw, net


def _matrix(term, rows: int, columns: int, arrays):
    """Returns the matrix of a term."""
    matrix, kind = np.zeros((rows, columns)), term.get("kind")
    if kind == "dense":
        return take(arrays, term.get("weight"), "f4 f8", matrix.shape)
    if kind == "index":
        column = take(arrays, term.get("index"), "i4", (rows,))
        need((column >= -1) & (column < columns), "network: index out of range")
        matrix[np.arange(rows), column] = column >= 0
        return matrix
    need(kind == "sparse", f"network: a term of kind {kind!r}")
    start = take(arrays, term.get("start"), "i4", (rows + 1,)).astype(np.int64)
    need((np.diff(start) >= 0) & (start[0] == 0), "network: no row start")
    data = take(arrays, term.get("data"), "f4 f8", (int(start[-1]),))
    column = take(arrays, term.get("column"), "i4", data.shape)
    need((column >= 0) & (column < columns), "network: column out of range")
    places = np.repeat(np.arange(rows), np.diff(start)) * columns + column
    need(len(np.unique(places)) == len(places), "network: an entry occurs twice")
    matrix.flat[places] = data
    return matrix
