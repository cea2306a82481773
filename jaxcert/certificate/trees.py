"""The arrays of a proof, put together tree by tree."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

EVERY = -1
"""The clause of a tree that proves all of its box."""


class ProofArrays:
    """Trees and the multipliers of their leaves, as `jaxcert/checker/proof.py` says."""

    def __init__(self, neurons: int) -> None:
        """Begins without trees; the network has so many inputs of ReLUs."""
        self._neurons = neurons
        self._trees: list[tuple[int, int, Int[np.ndarray, " M"]]] = []
        self._leaves: list[tuple[np.ndarray, ...]] = []

    def add(
        self,
        box: int,
        clause: int,
        nodes: Int[np.ndarray, " M"],
        weights: Float[np.ndarray, "L W"] | None = None,
        slopes: Float[np.ndarray, "L N"] | None = None,
        betas: Float[np.ndarray, "L N"] | None = None,
    ) -> None:
        """Adds a tree, by box and clause, with what its leaves need: nothing of EVERY.

        Args:
          box, clause: of which it is.
          nodes: in preorder, as `jaxcert/checker/tree.py` says.
          weights, slopes, betas: of its leaves, in order.
        """
        self._trees.append((box, clause, np.asarray(nodes, np.int32)))
        if weights is not None and slopes is not None and betas is not None:
            self._leaves.append((weights, slopes, betas))

    def arrays(self, widest: int) -> dict[str, np.ndarray]:
        """Returns the entries of the file, for clauses of so many rows at most."""
        widths = widest, self._neurons, self._neurons
        columns = list(zip(*self._leaves, strict=True)) or [()] * 3
        weights, slopes, betas = (
            np.concatenate([np.zeros((0, k)), *(_padded(v, k) for v in parts)])
            for k, parts in zip(widths, columns, strict=True)
        )
        boxes, clauses, nodes = list(zip(*self._trees, strict=True)) or [()] * 3
        return {
            "tree_box": np.array(boxes, np.int32),
            "tree_clause": np.array(clauses, np.int32),
            "tree_size": np.array([len(v) for v in nodes], np.int32),
            "nodes": np.concatenate([np.zeros(0, np.int32), *nodes]),
            "lemma_clause": np.zeros(0, np.int32),
            "lemma_signs": np.zeros((0, self._neurons), np.int8),
            "leaf_weights": weights.astype(np.float32),
            "leaf_slopes": _stored(slopes),
            "leaf_betas": _stored(betas),
        }


def _stored(v: np.ndarray) -> np.ndarray:
    """Returns multipliers as float32 where these are the same numbers."""
    single = v.astype(np.float32)
    return single if (single == v).all() else np.asarray(v, np.float64)


def _padded(v: np.ndarray, width: int) -> np.ndarray:
    return np.pad(v, ((0, 0), (0, width - v.shape[1])))
