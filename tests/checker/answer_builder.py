"""Small answers to properties made by plain means, as `builder.py` makes boxes."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from builder import (
    DEEP,
    Bounder,
    Case,
    Layers,
    Stored,
    logits,
    make_case,
    random_layers,
    stored_network,
)


@dataclasses.dataclass
class Answer:
    """A network, a property of it, and the proof of an answer."""

    layers: Layers
    network: Stored
    text: str
    certificate: Stored

    def write(self, folder: Path, name: str = "answer.npz") -> Path:
        head = self.certificate.head
        files = head["network"]["file"], head["property"]["file"]
        for file, kind in zip(files, ("network", "property"), strict=True):
            # Never to where a hostile name leads.
            if re.fullmatch(rf"{kind}-[0-9a-f]{{16}}\.(npz|vnnlib)", file):
                if kind == "network":
                    self.network.write(folder / file)
                else:
                    (folder / file).write_text(self.text)
        return self.certificate.write(folder / name)

    def changed(self, *changes: Callable[[Stored], object]) -> Answer:
        """Returns the answer with its proof changed."""
        stored = self.certificate.copy()
        for alter in changes:
            alter(stored)
        return dataclasses.replace(self, certificate=stored)

    def about(self, text: str) -> Answer:
        """Returns the answer with another property that it says it is of."""
        words = {"sha256": sha256(text), "file": f"property-{sha256(text)[:16]}.vnnlib"}
        made = self.changed(lambda s: s.head["property"].update(words))
        return dataclasses.replace(made, text=text)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def declared(inputs: int, outputs: int) -> str:
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{j}" for j in range(outputs)]
    return "".join(f"(declare-const {name} Real)\n" for name in names)


def box_text(lo, hi) -> str:
    return " ".join(
        f"(>= X_{i} {a!r}) (<= X_{i} {b!r})"
        for i, (a, b) in enumerate(zip(lo.tolist(), hi.tolist(), strict=True))
    )


def row_text(c, d: float) -> str:
    terms = " ".join(f"(* {v!r} Y_{j})" for j, v in enumerate(c.tolist()))
    return f"(<= (+ {terms} {d!r}) 0)"


def answer(
    layers: Layers,
    boxes,
    clauses,
    arrays,
    claim: str = "unsat",
    ops: tuple[str, ...] = ("relu",),
) -> Answer:
    """Returns an answer about clauses (box, C, d), whose trees are in the arrays."""
    network = stored_network(layers, ops=ops)
    conjunctions = [
        f"(and {box_text(*boxes[k])} "
        + " ".join(row_text(c, v) for c, v in zip(rows, d.tolist(), strict=True))
        + ")"
        for k, rows, d in clauses
    ]
    text = declared(layers[0][0].shape[1], len(layers[-1][1]))
    text += f"(assert (or {' '.join(conjunctions)}))\n"
    head = {
        "format": "jaxcert certificate", "version": 3, "claim": claim,
        "network": {
            "sha256": network.sha256, "file": f"network-{network.sha256[:16]}.npz"
        },
        "property": {
            "sha256": sha256(text), "file": f"property-{sha256(text)[:16]}.vnnlib"
        },
    }  # fmt: skip
    if claim == "unsat":
        counts = [len(d) for _, _, d in clauses]
        arrays = {
            "box_lo": np.array([lo for lo, _ in boxes]),
            "box_hi": np.array([hi for _, hi in boxes]),
            "clause_box": np.array([k for k, _, _ in clauses], np.int32),
            "row_clause": np.repeat(np.arange(len(counts)), counts).astype(np.int32),
            "row_coefficients": np.concatenate([c for _, c, _ in clauses]),
            "row_offset": np.concatenate([d for _, _, d in clauses]),
        } | arrays
    return Answer(layers, network, text, Stored(head, arrays))


def trees(parts) -> dict[str, np.ndarray]:
    """Returns the arrays of trees (box, clause, nodes)."""
    return {
        "tree_box": np.array([box for box, _, _ in parts], np.int32),
        "tree_clause": np.array([clause for _, clause, _ in parts], np.int32),
        "tree_size": np.array([len(nodes) for *_, nodes in parts], np.int32),
        "nodes": np.concatenate([nodes for *_, nodes in parts]).astype(np.int32),
    }


def without_leaves(neurons: int, rows: int) -> dict[str, np.ndarray]:
    return {
        "lemma_clause": np.zeros(0, np.int32),
        "lemma_signs": np.zeros((0, neurons), np.int8),
        "leaf_weights": np.zeros((0, rows), np.float32),
        "leaf_slopes": np.zeros((0, neurons), np.float32),
        "leaf_betas": np.zeros((0, neurons), np.float32),
    }


def nodes_of(signs: np.ndarray, features: int) -> tuple[list[int], list[int]]:
    """Returns the nodes of the tree of these leaves, and their order."""

    def grow(rows: list[int], used: frozenset[int]) -> tuple[list[int], list[int]]:
        free = [i for i in range(signs.shape[1]) if i not in used]
        common = [i for i in free if all(signs[r, i] for r in rows)]
        if len(rows) == 1 and not common:
            return [-1], rows
        i, nodes, order = common[0], [features + common[0]], []
        for sign in (1, -1):
            some = grow([r for r in rows if signs[r, i] == sign], used | {i})
            nodes, order = nodes + some[0], order + some[1]
        return nodes, order

    return grow(list(range(len(signs))), frozenset())


def of_case(case: Case) -> Answer:
    """Returns the answer that a certificate of a box proves, by signs."""
    a, head = case.certificate.arrays, case.certificate.head
    label, classes = head["label"], len(case.layers[-1][1])
    clauses, parts, order = [], [], []
    for q, j in enumerate(i for i in range(classes) if i != label):
        c = np.zeros((1, classes))
        c[0, label], c[0, j] = 1, -1
        clauses.append((0, c, np.array([-head["required_margin"]])))
        own = np.flatnonzero(a["leaf_target"] == j)
        nodes, some = nodes_of(a["leaf_signs"][own], len(a["lo"]))
        parts.append((0, q, nodes))
        order += own[some].tolist()
    arrays = trees(parts) | without_leaves(a["leaf_signs"].shape[1], 1)
    arrays |= {name: a[name][order] for name in ("leaf_slopes", "leaf_betas")}
    arrays["leaf_weights"] = np.ones((len(order), 1), np.float32)
    for name in a:
        if name.startswith("range_slopes_"):
            arrays[name.replace("slopes_", "slopes_0_")] = a[name]
    return answer(case.layers, [(a["lo"], a["hi"])], clauses, arrays)


STATED = (
    "box_lo", "box_hi", "clause_box", "row_clause", "row_coefficients", "row_offset"
)  # fmt: skip


def without_property(made: Answer) -> Answer:
    """Returns the answer of version 10 that says what one of version 3 says."""
    return made.changed(
        lambda s: s.head.update(version=10),
        lambda s: [s.arrays.pop(name, None) for name in STATED],
    )


def with_lemma(made: Answer) -> Answer:
    """Returns the answer with the first leaf of its longest tree as a lemma."""
    a = made.certificate.arrays
    t = int(np.argmax(a["tree_size"]))
    before = int(a["tree_size"][:t].sum())
    nodes, n = a["nodes"].copy(), a["box_lo"].shape[1]
    first = before + int(np.flatnonzero(nodes[before:] == -1)[0])
    leaf = int((nodes[:first] == -1).sum())
    signs = np.zeros((1, a["leaf_slopes"].shape[1]), np.int8)
    signs[0, nodes[before:first] - n] = 1  # the first leaf has them all
    nodes[first] = -2
    order = [leaf, *(i for i in range(len(a["leaf_slopes"])) if i != leaf)]
    arrays = {k: a[k][order] for k in a if k.startswith("leaf_")}
    lemma = {"lemma_clause": a["tree_clause"][[t]], "lemma_signs": signs}
    return made.changed(lambda s: s.arrays.update(arrays | lemma | {"nodes": nodes}))


def halved(seed: int, sizes=(3, 6, 5, 3)) -> Answer:
    """Returns the answer that two boxes exclude what they do, by halving them."""
    random = np.random.default_rng(seed)
    layers = random_layers(random, sizes)
    boxes, clauses, parts = [], [], []
    for box in range(2):
        centre = random.uniform(-1, 1, sizes[0])
        lo, hi = centre - 0.4, centre + 0.4
        boxes.append((lo, hi))
        y = logits(layers, random.uniform(lo, hi, (4000, sizes[0])))
        own = []
        for count in (1, 2):
            c = random.normal(size=(count, sizes[-1]))
            least = (y @ c.T).min(axis=0).max() if count == 1 else None
            d = np.full(count, -least) if count == 1 else -np.median(y @ c.T, axis=0)
            # Of every point some row is > 0 by this much.
            d = d - (y @ c.T + d).max(axis=1).min() + 0.03
            own.append((box, c, d))
        clauses += own
        parts.append((box, -1, halving(layers, lo, hi, own)))
    arrays = trees(parts) | without_leaves(sum(sizes[1:-1]), 2)
    return answer(layers, boxes, clauses, arrays)


def halving(layers: Layers, lo, hi, clauses) -> list[int]:
    """Returns the nodes of halves of a box whose bounds prove all clauses."""
    bounder = Bounder(layers, lo, hi)
    ranges, depth = bounder.ranges(), len(layers) - 1
    if all(
        (bounder.lower(depth, c, ranges)[0] + d).max() > 1e-6 for _, c, d in clauses
    ):
        return [-1]
    i = int(np.argmax(hi - lo))
    below, above = hi.copy(), lo.copy()
    below[i] = above[i] = lo[i] + (hi[i] - lo[i]) / 2
    left = halving(layers, lo, below, clauses)
    return [i, *left, *halving(layers, above, hi, clauses)]


def witnessed(seed: int) -> Answer:
    """Returns the answer that an input satisfies a property with strict rows."""
    random = np.random.default_rng(seed)
    layers = random_layers(random, (3, 6, 3))
    lo, hi = -np.ones(3), np.ones(3)
    x = random.uniform(lo, hi)
    c = random.normal(size=(2, 3))
    d = -(c @ logits(layers, x)) - 1e-6
    arrays = {"witness": x}
    return answer(layers, [(lo, hi)], [(0, c, d)], arrays, claim="sat")


ANSWERS = {
    "shallow": lambda: of_case(make_case(3)),
    "few": lambda: of_case(make_case(1)),
    "refined": lambda: of_case(make_case(3, DEEP, refine=True)),
    "lemma": lambda: with_lemma(of_case(make_case(1))),
    "lemma of a deep network": lambda: with_lemma(
        of_case(make_case(3, DEEP, refine=True))
    ),
    "halved": lambda: halved(0),
    "halved again": lambda: halved(1),
    "witness": lambda: witnessed(0),
    "another witness": lambda: witnessed(1),
}
