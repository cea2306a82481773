"""The proof that some boxes hold no point of some kind, for claims that state which.

A claim of its own says which boxes, and what is excluded there; trees (`unsat.py`)
prove it. The boxes and clauses are those of the claim, and do not stand in the file.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

from types import SimpleNamespace
from typing import Any

import numpy as np

from .arithmetic import Arithmetic
from .network import Network
from .reading import need
from .unsat import Unsat


def exclude(arrays, b: Arithmetic, net: Network, boxes, clauses) -> dict[str, Any]:
    """Returns the number of leaves that prove it; rejects trees that do not.

    Args:
      arrays: the trees, and what their leaves need: those of `unsat.py`, without the
        boxes, clauses and rows.
      b, net: the arithmetic and the network.
      boxes: pairs lo, hi (n,), float64.
      clauses: of every box, pairs C (rows, outputs), d (rows,): at no point of it
        C y + d <= 0.
    """
    rows = [len(d) for _, d in clauses] * len(boxes)
    c, d = (np.concatenate(part) for part in zip(*clauses, strict=True))
    stated = {
        "box_lo": np.array([lo for lo, _ in boxes], np.float64),
        "box_hi": np.array([hi for _, hi in boxes], np.float64),
        "clause_box": np.repeat(np.arange(len(boxes)), len(clauses)).astype(np.int32),
        "row_clause": np.repeat(np.arange(len(rows)), rows).astype(np.int32),
        "row_coefficients": np.tile(c, (len(boxes), 1)),
        "row_offset": np.tile(d, len(boxes)),
    }
    own = sorted(set(arrays) & set(stated))
    need(not own, f"arrays {own} are the claim's, not the file's")
    cases = [SimpleNamespace(lo=lo, hi=hi, clauses=clauses) for lo, hi in boxes]
    return Unsat(arrays | stated, b, net, cases).check()
