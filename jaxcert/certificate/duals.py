"""Certificates of dual boxes: what proves every face, and a point that reaches it.

As in `store.py`, a file stays only if the independent checker accepts it. The proofs
are found here again, slab by slab (`jaxcert/checker/duals.py`): the search that moved
the faces keeps no trace of itself.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.box import Box
from jaxcert.branch.signs import BranchOptions
from jaxcert.certificate.answers import Trees, stored_network
from jaxcert.certificate.checked import WrittenProof, write_checked
from jaxcert.checker.duals import UNKNOWN
from jaxcert.devices import float64
from jaxcert.interop.vnnlib import Case
from jaxcert.model import Model
from jaxcert.search.dual import DualBox

# How much of a face's way into the domain may be given up until a proof is found.
_BACK = (0.0, 2.0**-10, 2.0**-7, 2.0**-4)


@float64()
def write_dual(
    path: Path,
    model: Model,
    found: DualBox,
    branch: BranchOptions,
    *,
    lowest: bool = False,
    deadline: float = np.inf,
) -> WrittenProof:
    """Writes the certificate of a dual box, and the network beside it.

    Where no proof of a face is found, the face is moved back by the least that helps.

    Args:
      path: of the file, .npz; its folder is made if missing.
      model: the network, as it is stored.
      found: the dual box of one of its classes.
      branch: how branch and bound runs, where signs are split.
      lowest: whether the least output wins, and not the greatest.
      deadline: `time.monotonic()` after which no proof is looked for.

    Raises:
      UnsupportedError: see `network_file`.
      OSError: the folder cannot be written.
    """
    begin, network = time.monotonic(), stored_network(model)
    network.write(path.parent)
    raw = (path.parent / network.name).read_bytes()
    head = {
        "version": 7,
        "claim": "dual",
        "network": network.reference,
        "label": found.label,
        "winner": "least" if lowest else "greatest",
        "empty": found.empty,
    }
    domain = _flat(found.domain)
    report, finding = None, 0.0
    for share in (0.0,) if found.empty else _BACK:
        arrays = {"dual_domain_lo": domain[0], "dual_domain_hi": domain[1]}
        box = _flat(found.outer)
        if not found.empty:
            box = [o + share * (d - o) for o, d in zip(box, domain, strict=True)]
            arrays |= {"dual_lo": box[0], "dual_hi": box[1]} | _instances(found)
        cases = _cases(found, model.num_outputs, lowest, domain, box)
        if cases:
            trees = Trees(model, cases, branch, raw, deadline).found()
            if trees is None:
                continue
            arrays |= trees
        finding = time.monotonic() - begin
        report, size = write_checked(path, head, arrays)
        if report.holds:
            return WrittenProof(path, report, size, finding)
    return WrittenProof(None, report, 0, time.monotonic() - begin)


def _flat(box: Box) -> list[np.ndarray]:
    return [np.asarray(end, np.float64).reshape(-1) for end in (box.lo, box.hi)]


def _instances(found: DualBox) -> dict[str, np.ndarray]:
    """Returns the points of the class that are known, and which faces they reach."""
    points = np.asarray(found.witness, np.float64).reshape(len(found.witness), -1)
    known = ~np.isnan(points).any(axis=1)
    unique, place = np.unique(points[known], axis=0, return_inverse=True)
    by = np.full(len(points), UNKNOWN, np.int32)
    by[known] = place.reshape(-1)
    return {"dual_points": unique.reshape(-1, points.shape[1]), "dual_by": by}


def _cases(
    found: DualBox, classes: int, lowest: bool, domain: Any, box: Any
) -> list[Case]:
    """Returns the slabs that are cut off the domain, in the checker's order."""
    others = np.delete(np.eye(classes), found.label, axis=0)
    rows = (others - np.eye(classes)[found.label]) * (-1.0 if lowest else 1.0)
    disjuncts: Any = ((rows, np.zeros(len(rows))),)
    strict = np.zeros(len(rows), bool)

    def case(lo: np.ndarray, hi: np.ndarray) -> Case:
        return Case(lo, hi, disjuncts, (lo, hi), strict)

    left = [end.copy() for end in domain]
    if found.empty:
        return [case(*left)]
    cases = []
    for side in (0, 1):
        for i in np.flatnonzero(box[side] != domain[side]):
            slab = [end.copy() for end in left]
            slab[1 - side][i] = left[side][i] = box[side][i]
            cases.append(case(*slab))
    return cases
