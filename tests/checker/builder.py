"""Small certificates made by plain means: no code of jaxcert, and none of its search.

Leaves come from splitting every neuron in turn, betas from a few subgradient steps.
The bounds are ordinary float64 numbers; whether they prove anything the check decides.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

Layers = list[tuple[np.ndarray, np.ndarray]]
Ranges = list[tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass
class Stored:
    """Header and arrays of a certificate or a network; `write` writes what they are."""

    head: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def copy(self) -> Stored:
        return copy.deepcopy(self)

    def write(self, path: Path) -> Path:
        header = np.frombuffer(json.dumps(self.head).encode(), np.uint8)
        np.savez_compressed(path, header=header, **self.arrays)
        return path

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256(json.dumps(self.head).encode())
        for name in sorted(self.arrays):
            array = self.arrays[name]
            digest.update(f"{name}|{array.dtype.str}|{array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


@dataclasses.dataclass
class Case:
    """A network, a certificate of it, and the weights to evaluate it with."""

    layers: Layers
    network: Stored
    certificate: Stored

    def write(self, folder: Path, name: str = "case.npz") -> Path:
        file = self.certificate.head["network"]["file"]
        if not re.fullmatch(r"network-[0-9a-f]{16}\.npz", file):
            file = "network-hostile.npz"  # never to where a hostile name leads
        self.network.write(folder / file)
        return self.certificate.write(folder / name)


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "logistic": lambda z: 1 / (1 + np.exp(-z)),
    "exp": np.exp,
    "softplus": lambda z: np.logaddexp(0, z),
}


def logits(
    layers: Layers, x: np.ndarray, ops: tuple[str, ...] = ("relu",)
) -> np.ndarray:
    """Returns the outputs at points (..., d), in float64; activations in turn."""
    for depth, (w, offset) in enumerate(layers):
        if depth:
            x = ACTIVATIONS[ops[(depth - 1) % len(ops)]](x)
        x = x @ w.T.astype(np.float64) + offset
    return x


def random_layers(random: np.random.Generator, sizes: tuple[int, ...]) -> Layers:
    """Returns float32 weights (out, in) and offsets."""
    return [
        (
            (random.normal(size=(m, n)) / np.sqrt(n)).astype(np.float32),
            (random.normal(size=m) / 4).astype(np.float32),
        )
        for n, m in zip(sizes, sizes[1:], strict=False)
    ]


def stored_network(
    layers: Layers,
    kinds: tuple[str, ...] = ("dense",),
    ops: tuple[str, ...] = ("relu",),
) -> Stored:
    """Returns the network file, its weights in turn as the kinds of terms say.

    Activations are in turn as the ops say.

    An "index" term in front reverses and adds the features, and the network's first
    weights are those that undo it.
    """
    arrays: dict[str, np.ndarray] = {}
    nodes: list[dict[str, Any]] = []
    for depth, (w, offset) in enumerate(layers):
        kind, v = kinds[depth % len(kinds)], len(nodes)
        name = f"w{depth}"
        if kind == "sparse":
            rows, columns = np.nonzero(w)
            start = np.searchsorted(rows, np.arange(len(w) + 1)).astype(np.int32)
            arrays[f"{name}.data"] = w[rows, columns]
            arrays[f"{name}.column"] = columns.astype(np.int32)
            arrays[f"{name}.start"] = start
            words = {key: f"{name}.{key}" for key in ("data", "column", "start")}
            term = {"input": v, "kind": "sparse", **words}
        else:
            if kind == "index":
                order = np.arange(w.shape[1])[::-1].astype(np.int32)
                arrays[f"{name}.index"] = np.ascontiguousarray(order)
                moved = {"input": v, "kind": "index", "index": f"{name}.index"}
                nodes.append(
                    {"op": "affine", "size": len(order), "terms": [moved],
                     "offset": None}
                )  # fmt: skip
                w, v = w[:, order], v + 1
            arrays[name] = np.ascontiguousarray(w)
            term = {"input": v, "kind": "dense", "weight": name}
        arrays[f"b{depth}"] = offset
        nodes.append(
            {"op": "affine", "size": len(w), "terms": [term], "offset": f"b{depth}"}
        )
        if depth < len(layers) - 1:
            op = ops[depth % len(ops)]
            nodes.append({"op": op, "size": len(w), "input": len(nodes)})
    shape, newest = [layers[0][0].shape[1]], 2 if set(ops) - {"relu"} else 1
    head = {"format": "jaxcert network", "version": newest, "input_shape": shape}
    return Stored(head | {"nodes": nodes}, arrays)


@dataclasses.dataclass
class Bounder:
    """Plain float64 bounds of a network over a box."""

    layers: Layers
    lo: np.ndarray
    hi: np.ndarray

    def lower(self, depth, rows, ranges, slopes=None, betas=None):
        """Returns lower bounds of rows @ z_depth, and values of all z that give them.

        betas: (neurons,), times the signs; slopes: (neurons,) or default.
        """
        a, constant, lines = rows, np.zeros(len(rows)), []
        first = sum(len(self.layers[i][1]) for i in range(depth))
        for i in range(depth, -1, -1):
            w, offset = self.layers[i]
            constant = constant + a @ offset
            a = a @ w.astype(np.float64)
            if i == 0:
                break
            lo, hi = ranges[i - 1]
            first -= len(lo)
            open_ = (lo < 0) & (hi > 0)
            s = np.where(hi > -lo, 1.0, 0.0)
            if slopes is not None:
                s = slopes[..., first : first + len(lo)]
            up = np.where(open_, hi / np.where(open_, hi - lo, 1), 0)
            slope = np.where(open_, np.where(a > 0, s, up), np.where(lo >= 0, 1.0, 0.0))
            rise = np.where(open_ & (a < 0), -lo * up, 0.0)
            constant = constant + (a * rise).sum(1)
            lines.append((slope, rise))
            a = a * slope
            if betas is not None:
                a = a - betas[first : first + len(lo)]
        x = np.where(a > 0, self.lo, self.hi)
        values = [x @ self.layers[0][0].T + self.layers[0][1]]
        for (w, offset), (slope, rise) in zip(
            self.layers[1 : depth + 1], lines[::-1], strict=True
        ):
            values.append((slope * values[-1] + rise) @ w.T + offset)
        return constant + (a * x).sum(1), np.concatenate(
            [values[0][:, :0], *values[:depth]], 1
        )

    def ranges(self, signs=None, slopes=None, root=None) -> Ranges | None:
        """Returns the ranges of the inputs of the ReLUs; None if they are empty."""
        lo, hi, made, first = self.lo, self.hi, [], 0
        for depth, (w, offset) in enumerate(self.layers[:-1]):
            mid, rad = (lo + hi) / 2, (hi - lo) / 2
            centre, spread = w @ mid + offset, abs(w) @ rad
            lo, hi = centre - spread, centre + spread
            if root is not None:
                lo, hi = np.maximum(lo, root[depth][0]), np.minimum(hi, root[depth][1])
            if depth:
                line = None if slopes is None else slopes[depth]
                unit = np.eye(len(lo))
                below, above = (None, None) if line is None else line / 128
                lo = np.maximum(lo, self.lower(depth, unit, made, below)[0])
                hi = np.minimum(hi, -self.lower(depth, -unit, made, above)[0])
            if signs is not None:
                sign = signs[first : first + len(lo)]
                lo = np.where(sign > 0, np.maximum(lo, 0), lo)
                hi = np.where(sign < 0, np.minimum(hi, 0), hi)
                if (lo > hi).any():
                    return None
            first += len(lo)
            made.append((lo, hi))
            lo, hi = np.maximum(lo, 0), np.maximum(hi, 0)
        return made


def cut(root: Ranges, signs: np.ndarray) -> Ranges | None:
    """Returns the root's ranges cut by signs, nothing else."""
    made, first = [], 0
    for lo, hi in root:
        sign = signs[first : first + len(lo)]
        first += len(lo)
        lo = np.where(sign > 0, np.maximum(lo, 0), lo)
        hi = np.where(sign < 0, np.minimum(hi, 0), hi)
        if (lo > hi).any():
            return None
        made.append((lo, hi))
    return made


def joined(root: Ranges) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ranges of all neurons."""
    none = np.zeros(0)
    return tuple(np.concatenate([none, *(ends[i] for ends in root)]) for i in (0, 1))


def leaves(bounder, label, target, margin, root, refine, limit):
    """Returns (signs, betas) of leaves that prove a class, or None if too many."""
    neurons = sum(len(lo) for lo, _ in root)
    lo, hi = joined(root)
    order = [i for i in np.argsort(-np.minimum(-lo, hi)) if lo[i] < 0 < hi[i]]
    row = np.zeros((1, len(bounder.layers[-1][1])))
    row[0, label], row[0, target] = 1, -1
    done, todo = [], [np.zeros(neurons, np.int8)]
    while todo:
        signs = todo.pop()
        betas = np.zeros(neurons)
        made = bounder.ranges(signs, None, root) if refine else cut(root, signs)
        best, chosen = -np.inf if made is not None else np.inf, betas
        for step in range(60):
            if best > margin + 1e-6:
                break
            depth = len(bounder.layers) - 1
            bound, z = bounder.lower(depth, row, made, None, betas * signs)
            if bound[0] > best:
                best, chosen = bound[0], betas
            betas = np.maximum(betas - 0.5 / (1 + step / 8) * signs * z[0], 0)
            betas = (betas * (signs != 0)).astype(np.float32)
        if best > margin + 1e-6:
            done.append((signs, chosen))
            continue
        free = [i for i in order if not signs[i]]
        if not free or len(done) + len(todo) + 2 > limit:
            return None
        for sign in (1, -1):
            child = signs.copy()
            child[free[0]] = sign
            todo.append(child)
    return done


def make_case(
    seed: int,
    sizes: tuple[int, ...] = (5, 8, 3),
    *,
    refine: bool = False,
    arithmetic: str = "real",
    margin: float = 0.0,
    kinds: tuple[str, ...] = ("dense",),
    limit: int = 24,
) -> Case:
    """Returns a certificate whose radius needs about `limit` leaves for some class."""
    random = np.random.default_rng(seed)
    layers = random_layers(random, sizes)
    x = random.uniform(0.2, 0.8, sizes[0])
    label = int(np.argmax(logits(layers, x)))
    top = np.sort(logits(layers, x))
    if top[-1] - top[-2] < margin + 0.05:
        return make_case(
            seed + 1000, sizes, refine=refine, arithmetic=arithmetic, margin=margin,
            kinds=kinds, limit=limit,
        )  # fmt: skip
    rate_lo, rate_hi = random.uniform(0.5, 1.5, (2, sizes[0]))
    # A quarter of the features moves less than anything else.
    domain = np.zeros(sizes[0]), np.ones(sizes[0])
    # The float32 proof must exceed the error of evaluation.
    ask = margin + (1e-4 if arithmetic == "float32" else 0)
    for r in 0.65 * 0.92 ** np.arange(60):
        lo = np.maximum(np.nextafter(x - r * rate_lo * (1 + 1e-14), -1), 0)
        hi = np.minimum(np.nextafter(x + r * rate_hi * (1 + 1e-14), 2), 1)
        bounder = Bounder(layers, lo, hi)
        slopes = {
            depth: random.integers(
                0, 129, (2, n, sum(sizes[1 : depth + 1])), dtype=np.uint8
            )
            for depth, n in enumerate(sizes[1:-1])
            if depth
        }
        root = bounder.ranges(None, slopes)
        proved = {}
        for j in range(sizes[-1]):
            if j != label:
                proved[j] = leaves(bounder, label, j, ask, root, refine, limit)
                if proved[j] is None:
                    break
        if all(proved.values()):
            break
    else:
        raise AssertionError("no radius is proved")
    rows = [(j, *leaf) for j, part in proved.items() for leaf in part]
    neurons = sum(sizes[1:-1])
    low, high = joined(root)
    arrays = {
        "x": x, "lo": lo, "hi": hi, "domain_lo": domain[0], "domain_hi": domain[1],
        "rate_lo": rate_lo, "rate_hi": rate_hi,
        "leaf_target": np.array([row[0] for row in rows], np.int32),
        "leaf_signs": np.array([row[1] for row in rows], np.int8),
        "leaf_betas": np.array([row[2] for row in rows], np.float32),
        "leaf_slopes": np.zeros((len(rows), neurons), np.float32),
    }  # fmt: skip
    arrays |= {f"range_slopes_{depth}": s for depth, s in slopes.items()}
    for i, (_, signs, _) in enumerate(rows):
        made = bounder.ranges(signs, None, root) if refine else cut(root, signs)
        if made is not None:
            low, high = joined(made)
        arrays["leaf_slopes"][i] = np.where(high > -low, 1, 0)
    upper = None
    points = random.uniform(size=(20000, sizes[0]))
    corners = random.integers(0, 2, (20000, sizes[0])).astype(float)
    points = x + (corners - x) * np.sqrt(points[:, :1])
    y = logits(layers, points)
    gap = y[:, label] - np.max(np.delete(y, label, axis=1), axis=1)
    points = points[gap < margin - 1e-3]
    if len(points):
        away = np.maximum((x - points) / rate_lo, (points - x) / rate_hi).max(1)
        arrays["witness"] = points[np.argmin(away)]
        upper = float(np.nextafter(away.min() * (1 + 1e-12), 9))
    network = stored_network(layers, kinds)
    head = {
        "format": "jaxcert certificate", "version": 1, "tool": "builder", "input": "0",
        "network": {
            "sha256": network.sha256, "file": f"network-{network.sha256[:16]}.npz"
        },
        "arithmetic": arithmetic, "label": label, "required_margin": margin,
        "apothem_lower": float(r), "apothem_upper": upper, "refine": refine,
    }  # fmt: skip
    return Case(layers, network, Stored(head, arrays))


DEEP = (5, 6, 6, 3)
CASES = {
    "shallow": lambda: make_case(3),
    "few": lambda: make_case(1),
    "margin": lambda: make_case(3, margin=0.05),
    "slack": lambda: make_case(1, margin=-0.1),
    "float32": lambda: make_case(3, arithmetic="float32"),
    "terms": lambda: make_case(2, kinds=("index", "sparse")),
    "deep": lambda: make_case(3, DEEP),
    "refined": lambda: make_case(3, DEEP, refine=True),
    "four": lambda: make_case(5, (6, 10, 4)),
    "linear": lambda: make_case(4, (4, 3)),
}


def change(case: Case, *changes: Callable[[Stored], object]) -> Case:
    """Returns the case with its certificate changed."""
    stored = case.certificate.copy()
    for alter in changes:
        alter(stored)
    return Case(case.layers, case.network, stored)


def set_to(name: str, index, value) -> Callable[[Stored], None]:
    def alter(stored: Stored) -> None:
        stored.arrays[name] = stored.arrays[name].copy()
        stored.arrays[name][index] = value

    return alter


def replaced(stored: Stored, **head) -> None:
    stored.head |= head


def same_lines(bounds, root):
    """Returns the float64 lines of a root, for bounds in any arithmetic."""
    lines = {
        value: SimpleNamespace(
            open=of.open,
            **{
                k: bounds.b.number(getattr(of, k)) for k in ("upper", "lower", "height")
            },
        )
        for value, of in root.lines.items()
    }
    return SimpleNamespace(box=bounds.box, lines=lines)
