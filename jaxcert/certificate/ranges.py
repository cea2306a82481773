"""Trees of the ranges of neurons, as `jaxcert/checker/ranges.py` says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxcert.branch.leaves import RangeTree
from jaxcert.checker.network import Network
from jaxcert.checker.older import of_signs
from jaxcert.checker.tree import LEAF


def range_arrays(
    network: Network, box: int, trees: Sequence[RangeTree]
) -> dict[str, np.ndarray]:
    """Returns the entries of the file for the trees of a box, ReLU by ReLU."""
    found: dict[str, np.ndarray] = {}
    for node in network.relus:
        own = [t for t in trees if node.part.start <= t.neuron < node.part.stop]
        if own:
            arrays = _of_relu(network.sizes[0], node.part.start, node.size, own)
            key = f"{box}_{node.relu}"
            found |= {f"range_{name}_{key}": array for name, array in arrays.items()}
    return found


def _of_relu(
    features: int, start: int, size: int, trees: Sequence[RangeTree]
) -> dict[str, np.ndarray]:
    """Returns the arrays of one ReLU, of so many neurons from number `start` on."""
    columns = np.unique(np.concatenate([tree.columns for tree in trees]))
    ends, nodes, lines, betas = [], [], [], [np.zeros(0, np.float32)]
    for tree in trees:
        made, order = of_signs(tree.signs, features, f"the range of {tree.neuron}")
        split = np.array(made)
        split[split != LEAF] = features + tree.columns[split[split != LEAF] - features]
        line = np.zeros((len(order), len(columns)), np.uint8)
        line[:, np.searchsorted(columns, tree.columns)] = tree.slopes[order]
        ends.append(tree.neuron - start + (0 if tree.end > 0 else size))
        nodes.append(split)
        lines.append(line)
        betas.append(tree.splits[order][tree.signs[order] != 0])
    return {
        "ends": np.array(ends, np.int32),
        "sizes": np.array([len(split) for split in nodes], np.int32),
        "nodes": np.concatenate(nodes).astype(np.int32),
        "columns": columns.astype(np.int32),
        "lines": np.concatenate(lines),
        "betas": np.concatenate(betas).astype(np.float32),
    }
