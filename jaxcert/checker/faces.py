"""The check of grown boxes: of the box, and of what stops its faces.

A grown box claims, next to what `boxes.py` states, of each of its 2d faces that it lies
on the domain's boundary, or that it cannot move on: a point of the box of which one
feature is moved past that face, by at most delta times its rate and inside the domain,
has y_c - y_j <= m for some j. Where neither holds the face is open, and says so. A box
without open faces is maximal: no face of it can move by delta and stay sound.

Files are certificates as in `boxes.py`, with some members more:
  header: "delta": > 0, "proved": bool; if it is false there are no trees: the box was
    not recorded with its proof, and only its faces are claimed.
  face_points float64 (P, d), points of the box; face_by int32 (2d,), lower faces first:
    which of them stops the face, -1 if it need not move (the domain's boundary is
    there, or its rate is 0), -2 if it is open; face_ends float64 (2d,): where the
    feature of the face is moved to.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import numpy as np

from .arithmetic import BLOCK, LARGEST, Arithmetic, excess
from .claim import Faces
from .curves import activated
from .network import Network
from .reading import need, take, whole

ARRAYS = ("face_points", "face_by", "face_ends")
AT_REST, OPEN = -1, -2


class Grown:
    """The faces of a box, as they stand in the file; `proved` if the box is, too."""

    def __init__(self, head, arrays, net: Network) -> None:
        self.net = net
        self.delta = float(whole(head["delta"], 0, 2.0**53, "delta", (float,)))
        need(self.delta > 0, "delta is 0")
        self.proved, size = head["proved"], net.sizes[0]
        need(type(self.proved) is bool, f"proved is {str(self.proved)[:40]!r}")
        for name in ARRAYS:
            need(name in arrays, f"there is no array {name!r}")
        shapes = (len(arrays[ARRAYS[0]]), size), (2 * size,), (2 * size,)
        self.points, self.by, self.ends = (
            take(arrays, name, kind, shape)
            for name, kind, shape in zip(
                ARRAYS, ("f8", "i4", "f8"), shapes, strict=True
            )
        )

    def faces(self, a, b: Arithmetic, label: int, margin: float) -> Faces:
        """Returns what is known of them; `a` are the arrays of the box by name."""
        by, size = self.by, self.net.sizes[0]
        need((by >= OPEN) & (by < len(self.points)), "face_by is out of range")
        inside = (a["lo"] <= self.points) & (self.points <= a["hi"])
        need(inside, "face_points is outside the box")
        on_domain = np.concatenate(
            [a[side] == a[f"domain_{side}"] for side in ("lo", "hi")]
        )
        fixed = np.concatenate([a["rate_lo"] == 0, a["rate_hi"] == 0]) & ~on_domain
        need((by != AT_REST) | on_domain | fixed, "a face that may move is at rest")
        for part, side in ((slice(size), "lo"), (slice(size, None), "hi")):
            end, stopped = self.ends[part], by[part] >= 0
            low, high = (end, a["lo"]) if side == "lo" else (a["hi"], end)
            far = excess(high, low, self.delta, a[f"rate_{side}"]) > 0
            legal = (a["domain_lo"] <= end) & (end <= a["domain_hi"])
            for wrong, what in (
                (far, "farther than delta from the face"),
                (low >= high, "not beyond the face"),
                (~legal, "outside the domain"),
            ):
                need(~(stopped & wrong), f"face_ends of {side} is {what}")
        stopped = np.flatnonzero(by >= 0)
        bad = stopped[~self.violated(stopped, b, label, margin)]
        need(not len(bad), f"nothing stops the faces {bad[:4].tolist()}")
        moves = by[~(on_domain | fixed)]
        return Faces(
            proved=self.proved,
            delta=self.delta,
            on_domain=int(on_domain.sum()),
            fixed=int(fixed.sum()),
            witnessed=int((moves >= 0).sum()),
            open=int((moves == OPEN).sum()),
        )

    def violated(self, faces, b: Arithmetic, label: int, margin: float) -> np.ndarray:
        """Returns whether the moved points of these faces violate the margin."""
        size, step = self.net.sizes[0], block(b, self.net)
        kept = np.zeros(len(faces), bool)
        for first in range(0, len(faces), step):
            part = faces[first : first + step]
            moved = self.points[self.by[part]]
            moved[np.arange(len(part)), part % size] = self.ends[part]
            found = violations(b, self.net, moved, label, margin)
            kept[first : first + step] = found
        return kept


def block(b: Arithmetic, net: Network) -> int:
    """Returns at how many points values fit in memory together."""
    return max(1, (BLOCK >> 4 if b.exact else BLOCK) // max(net.sizes))


def violations(b: Arithmetic, net: Network, points, label: int, margin: float):
    """Returns of which points (P, d) it is certain that y_j - y_c + margin >= 0."""
    lo, hi, sane = outputs(b, net, points)
    gap = b.down(b.down(lo - hi[label]) + b.number(margin))
    return sane & np.any(np.delete(gap, label, axis=0) >= 0, axis=0)


def outputs(b: Arithmetic, net: Network, points):
    """Returns lo <= y <= hi (outputs, P) at points (P, d), and which of them are sane.

    They are if no value of the network is too large.
    """
    z = b.number(points.T)

    def activation(node, lo, hi):
        return activated(b, node.curve, lo, hi)

    lo, hi = enclosed(b, net, z, z, activation)
    sane = [
        np.all((-low < LARGEST) & (high < LARGEST), axis=0)
        for low, high in zip(lo, hi, strict=True)
    ]
    return lo[-1], hi[-1], np.all(sane, axis=0)


def enclosed(b: Arithmetic, net: Network, lo, hi, activation):
    """Returns lists lo, hi of (size, P) that all values lie between, node by node.

    Args:
      b, net: arithmetic and network.
      lo, hi: bounds of P inputs, (d, P).
      activation: of a node that is not affine and bounds of its input, the bounds of
        its value.
    """
    lo, hi = [lo], [hi]
    for node in net.nodes:
        if not node.affine:
            v = node.terms[0][0]
            low, high = activation(node, lo[v], hi[v])
        else:
            low = high = node.offset[:, None] + b.number(np.zeros((1, lo[0].shape[1])))
            for v, w, _ in node.terms:
                low = b.down(low + b.least(w, lo[v], hi[v]))
                high = b.up(high - b.least(-w, lo[v], hi[v]))
        lo.append(low)
        hi.append(high)
    return lo, hi
