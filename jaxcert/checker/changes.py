"""Changes of an image with a few parameters, as nodes in front of a network.

A front (`network.Front`) makes the changed image from the parameters, which are its
first inputs. Nothing is relaxed: for every parameter there are inputs of the front for
which it makes exactly that image.
"""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

from fractions import Fraction

import numpy as np

from .arithmetic import Arithmetic
from .curves import decay
from .network import Front
from .reading import need

NAMES = {
    "brightness": ("b",), "contrast": ("c",), "both": ("b", "c"), "blur": ("a",),
    "gamma": ("g",),
}  # fmt: skip
WORDS = {
    "brightness": "x + b, cut to [0, 1]",
    "contrast": "(1 + c) x, cut to [0, 1]",
    "both": "(1 + c) x + b, cut to [0, 1]",
    "blur": "(1 - a) x + a B x, B the 3 x 3 binomial blur along the first two axes",
    "gamma": "x^(1 + g)",
}
"""What becomes of the image x."""
_DEEPEST = 60.0  # of -log x


def front(kind: str, x, shape, lo, hi) -> tuple[Front, np.ndarray, np.ndarray]:
    """Returns the front of a change, and the box of its inputs, float64.

    Args:
      kind: of the change, a name in `NAMES`.
      x: the image, (n,), in [0, 1].
      shape: of the network's input.
      lo, hi: the least and the greatest parameters, (k,).
    """
    if kind == "gamma":
        need(lo > -1, "1 + g is not > 0")
        return _gamma(x, lo, hi)
    directions = {"brightness": [np.ones_like(x)], "contrast": [x]}
    directions["both"] = directions["brightness"] + directions["contrast"]
    if kind == "blur":
        # A mean of numbers in [0, 1] is in [0, 1]: nothing is cut off.
        need((lo >= 0) & (hi <= 1), "a is not within [0, 1]")
        directions["blur"] = [_blurred(x, shape)]
    matrix = np.stack(directions[kind], axis=1)
    nodes = [_affine(len(x), ".x")]
    if kind != "blur":
        nodes.append({"op": "clip", "size": len(x), "input": 1})
    return Front(matrix.shape[1], nodes, {".w": matrix, ".x": x}), lo, hi


def still(kind: str, made: Front, x, lo, hi) -> bool:
    """Returns whether a front makes the image x itself, of all parameters (k,)."""
    moved = made.arrays[".w"][:, : len(lo)] != 0
    up, down = (np.any(moved & end, axis=1) for end in (hi > 0, lo < 0))
    if kind in ("brightness", "contrast", "both"):  # they are cut, and no slope is < 0
        up, down = up & (x < 1), down & (x > 0)
    return not (up | down).any()


def _affine(size: int, offset: str):
    """Returns the node offset + .w @ inputs."""
    term = {"input": 0, "kind": "dense", "weight": ".w"}
    return {"op": "affine", "size": size, "terms": [term], "offset": offset}


def _blurred(x, shape) -> np.ndarray:
    """Returns B x - x, with weights 1/4, 1/2, 1/4 both ways and the edge repeated.

    Of pixels that are float32 numbers, say, these are float64 numbers.
    """
    need(len(shape) == 3, "a blur needs an image (h, w, c)")
    image = x.reshape(shape)
    wide = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    found = np.zeros(shape)
    for place in np.ndindex(*shape):
        i, j, c = place
        total = -Fraction(float(image[place]))
        for p, q in np.ndindex(3, 3):
            weight = Fraction((1 + p % 2) * (1 + q % 2), 16)
            total += weight * Fraction(float(wide[i + p, j + q, c]))
        found[place] = float(total)
        need(
            Fraction(float(found[place])) == total,
            "a blurred pixel is no float64 number",
        )
    return found.reshape(-1)


def _gamma(x, lo, hi):
    """Returns the front of x^(1 + g), g in [lo, hi]: exp((1 + g) l) + e, and its box.

    l is what numpy takes for log x. As log r <= r - 1 for all r > 0, for any bounds
    p <= exp(l) <= q

        |log x - l| <= d = max(x / p - 1, q / x - 1).

    For l <= 0 and 0 < 1 + g <= G, |x^(1 + g) - exp((1 + g) l)| <= exp(G d) - 1
    <= 2 G d = E if that is <= 1: so some e in [-E, E] makes the two equal. A pixel 0
    stays 0.
    """
    b, some = Arithmetic(False), np.flatnonzero(x > 0)
    pixel, n = x[some], len(x)
    logs = np.minimum(np.log(pixel), 0.0)
    need(logs > -_DEEPEST, "a pixel is too close to 0")
    p, q = decay(b, -logs)
    away = np.maximum(b.up(b.up(pixel / p) - 1), b.up(b.up(q / pixel) - 1))
    error = b.up(2 * b.up(b.up(1 + hi[0]) * away))
    need(error <= 1, "the logarithm of a pixel is not known well enough")
    m = len(some)
    place = np.full(n, -1, np.int32)
    place[some] = np.arange(m)
    matrix = np.zeros((m, 1 + m))
    matrix[:, 0] = logs
    embed = [
        {"input": 2, "kind": "index", "index": ".at"},
        {"input": 0, "kind": "index", "index": ".error"},
    ]
    nodes = [
        _affine(m, ".l"),
        {"op": "exp", "size": m, "input": 1},
        {"op": "affine", "size": n, "terms": embed, "offset": None},
    ]
    shifted = np.where(place < 0, -1, place + 1).astype(np.int32)
    arrays = {".w": matrix, ".l": logs, ".at": place, ".error": shifted}
    return Front(1 + m, nodes, arrays), np.r_[lo, -error], np.r_[hi, error]
