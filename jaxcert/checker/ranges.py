"""Ranges of neurons that are proved by trees of their own.

What a bound loses it loses in lines, which are the coarser the wider the ranges are
that they bound ReLUs over. The least value of the input z of one ReLU, over the box, is
a question about a shorter network: signs of a few neurons in front may answer it nearly
exactly.

A proof (`proof.py`) may have, in any box, for any ReLU <k> of n neurons but the first,
with M neurons in the ReLUs before it, T trees with L leaves in all:
  range_ends_<box>_<k> int32 (T,): what each tree bounds, the lower end of the input of
    neuron i < n, or, n + i, the upper one;
  range_sizes_<box>_<k> int32 (T,), range_nodes_<box>_<k> int32 (sum of the sizes,): the
    trees (`tree.py`), one after the other, which split signs of these M neurons alone;
  range_columns_<box>_<k> int32 (C,): some of the M neurons; range_lines_<box>_<k> uint8
    (L, C), 128ths: their lower lines in every leaf. Others have those of their ranges;
  range_betas_<box>_<k> float32, >= 0: of all leaves, one for each neuron that a leaf
    has a sign of, in the order of neurons.
No end is stated: it is derived, so a wrong tree gives a weak end, never a false one.

The proof. The leaves of a tree cover the box. In each z, or -z, is bounded from below
(`Bounds.lower_bounds`) with the ranges of the ReLUs before, cut by the signs of the
leaf (`signed`); a leaf with an empty range has no point. So the least of these bounds
holds in the box. ReLUs are treated in their order, when all before them have been:
nothing can rest on what is not proved yet.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import itertools
from types import SimpleNamespace

import numpy as np

from .bounds import Bounds
from .network import Network
from .reading import need, take
from .tree import LEAF, leaves

_ARRAYS = "ends", "sizes", "nodes", "columns", "lines", "betas"


class RangeTrees:
    """The trees of one ReLU in one box; every array is as the format says."""

    def __init__(self, arrays, net: Network, node, key: str) -> None:
        self.node, self.before = node, node.part.start
        self.names = [f"range_{name}_{key}" for name in _ARRAYS]
        for name in self.names:
            need(name in arrays, f"there is no array {name!r}")
        trees, _, count, c, _, s = (arrays[name].size for name in self.names)
        size = int(np.count_nonzero(arrays[self.names[2]] == LEAF))
        shapes = (trees,), (trees,), (count,), (c,), (size, c), (s,)
        kinds = "i4", "i4", "i4", "i4", "u1", "f4"
        self.ends, self.sizes, self.nodes, self.columns, self.lines, self.betas = (
            take(arrays, *of) for of in zip(self.names, kinds, shapes, strict=True)
        )
        ends, sizes, nodes, columns, lines, betas = self.names
        need((self.ends >= 0) & (self.ends < 2 * node.size), f"{ends} is no end")
        need(self.sizes > 0, f"{sizes} has a tree without nodes")
        whole = int(self.sizes.sum(dtype=np.int64)) == count
        need(whole, f"{nodes} are not those of the trees")
        signs = (self.nodes == LEAF) | (self.nodes >= net.sizes[0])
        need(signs, f"{nodes} splits more than signs")
        known = (self.columns >= 0) & (self.columns < self.before)
        need(known, f"{columns} names no neuron before")
        need(self.lines <= 128, f"{lines} is above 128")
        need(self.betas >= 0, f"{betas} is negative")

    def leaves(self, box):
        """Yields the number of the tree and the signs (M,) of every leaf."""
        every = np.split(self.nodes, np.cumsum(self.sizes)[:-1])
        for tree, nodes in enumerate(every):
            for _, _, signs in leaves(nodes, box[0], box[1], self.before, {}):
                yield tree, signs

    def narrowed(self, bounds: Bounds, made, lo, hi):
        """Returns the range lo, hi (1, n) of the ReLU's input, met with the trees'.

        Args:
          bounds, made: of the whole box; what `enclose` knows of the values before.
        """
        n, betas = self.node.size, self.names[5]
        least = np.concatenate([hi[0], -lo[0]])[self.ends]  # of no point; else less
        every, first, used = self.leaves(bounds.ends), 0, 0
        while some := list(itertools.islice(every, bounds.step)):
            tree, signs = (np.array(of) for of in zip(*some, strict=True))
            last = used + int(np.count_nonzero(signs))
            need(last <= len(self.betas), f"{betas} is too short")
            given = self.lines[first : first + len(some)], self.betas[used:last]
            found, empty = self.bounded(bounds, made, self.ends[tree], signs, *given)
            # A NaN makes all NaN, which says nothing.
            np.minimum.at(least, tree[~empty], found[~empty])
            first, used = first + len(some), last
        need(used == len(self.betas), f"{betas} is too long")
        lo, hi, low = lo.copy(), hi.copy(), self.ends < n
        np.fmax.at(lo[0], self.ends[low], least[low])
        np.fmin.at(hi[0], self.ends[~low] - n, -least[~low])
        return lo, hi

    def bounded(self, bounds: Bounds, made, end, signs, lines, betas):
        """Returns bounds of z or -z in some leaves, and which have no point.

        Args:
          bounds, made: as of `narrowed`.
          end, signs, lines: (K,), (K, M) and (K, C), of each.
          betas: of all their signs.
        """
        b, n, parts = bounds.b, self.node.size, signed(bounds, made, signs)
        nodes, split = bounds.net.nodes, np.zeros(signs.shape)
        split[signs != 0] = betas
        usual = [v.lower for k, v in parts.lines.items() if nodes[k - 1].relu >= 0]
        slopes = np.concatenate(usual, axis=1)
        slopes[:, self.columns] = b.number(lines / 128.0)
        zeros, part = b.number(np.zeros(len(end))), np.arange(len(end))
        row = np.zeros((len(end), n))
        row[part, end % n] = np.where(end < n, 1.0, -1.0)
        rest = parts, part, slopes, b.number(split * signs)
        z = self.node.terms[0][0]
        return bounds.lower_bounds(z, b.number(row), zeros, *rest)[0], parts.empty


def signed(bounds: Bounds, made, signs):
    """Returns what holds in parts of the box of `made` that have signs (K, M).

    As `Bounds.enclose`, but ranges are cut by their own signs alone: none is derived
    anew. The M neurons are those of the ReLUs that `made` has lines of.
    """
    parts = SimpleNamespace(box=made.box, lines=dict(made.lines))
    parts.empty = np.zeros(len(signs), bool)
    for value in made.lines:
        node = bounds.net.nodes[value - 1]
        if node.relu >= 0:
            v = node.terms[0][0]
            lo, hi = bounds.cut(made.lo[v], made.hi[v], signs[:, node.part])
            parts.empty |= (lo > hi).any(axis=1)
            parts.lines[value] = bounds.lines(lo, hi)
    return parts
