"""What is left out of network files: nodes that at most add an offset."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from jaxcert.certificate.network_file import _without_identities

IDENTITY = np.arange(3, dtype=np.int32)


def dense(v: int, offset: str | None = None) -> dict[str, Any]:
    term = {"input": v, "kind": "dense", "weight": "w"}
    return {"op": "affine", "size": 3, "terms": [term], "offset": offset}


def same(v: int, offset: str | None, index: str = "i") -> dict[str, Any]:
    term = {"input": v, "kind": "index", "index": index}
    return {"op": "affine", "size": 3, "terms": [term], "offset": offset}


def both(v: int, u: int) -> dict[str, Any]:
    return dense(v) | {"terms": dense(v)["terms"] + dense(u)["terms"]}


def relu(v: int) -> dict[str, Any]:
    return {"op": "relu", "size": 3, "input": v}


def evaluated(nodes, arrays, x):
    """Returns the last value of some nodes."""
    values = [x]
    for node in nodes:
        if node["op"] == "relu":
            values.append(np.maximum(values[node["input"]], 0))
            continue
        y = np.zeros(3)
        for term in node["terms"]:
            v = values[term["input"]]
            y += (
                arrays["w"] @ v if term["kind"] == "dense" else v[arrays[term["index"]]]
            )
        values.append(y + (arrays[node["offset"]] if node["offset"] else 0))
    return values[-1]


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ([dense(0), same(1, "b"), relu(2), dense(3), same(4, "c"), relu(5)], 4),
        ([dense(0, "b"), same(1, None), relu(2)], 2),
        ([dense(0), same(1, None), same(2, "b", "j"), relu(3)], 2),
        ([dense(0), same(1, "b"), relu(2), both(3, 2), same(4, "c")], 3),
        # Both offsets would have to be added, which rounds.
        ([dense(0, "b"), same(1, "c"), relu(2)], 3),
        # Somebody else uses what would be changed, or nothing comes before.
        ([dense(0), same(1, "b"), both(1, 2)], 3),
        ([same(0, "b"), relu(1)], 2),
        ([dense(0), relu(1), same(2, "b"), relu(3)], 4),
        ([dense(0), relu(1), same(1, "b"), both(3, 2)], 4),
        # It moves something.
        ([dense(0), same(1, "b", "moved"), relu(2)], 3),
    ],
)
def test_what_adds_an_offset_is_part_of_what_it_is_added_to(nodes, left):
    random = np.random.default_rng(0)
    arrays = {
        "w": random.normal(size=(3, 3)), "b": random.normal(size=3),
        "c": random.normal(size=3), "i": IDENTITY, "j": IDENTITY,
        "moved": IDENTITY[::-1].copy(),
    }  # fmt: skip
    kept, before = dict(arrays), copy.deepcopy(nodes)
    # Every term has an index of its own in a network file.
    for k, node in enumerate(nodes):
        for term in node.get("terms", []):
            if term["kind"] == "index":
                kept[f"{term['index']}{k}"] = arrays[term["index"]]
                term["index"] = f"{term['index']}{k}"
    made = _without_identities(nodes, kept)
    assert len(made) == left
    for x in random.normal(size=(5, 3)):
        found, expected = evaluated(made, kept, x), evaluated(before, arrays, x)
        assert np.array_equal(found, expected)
    used = {t["index"] for n in made for t in n.get("terms", []) if "index" in t}
    assert {name for name in kept if name not in arrays} == used
