"""How far float32 may be from real arithmetic, over a box."""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")

import numpy as np

from .reading import need


def float32_errors(bounds):
    """Returns e >= |y evaluated in float32 - y| for the logits, over the box.

    Input and weights are rounded first. A node of n summands makes of the error e
    of its inputs |w| e + gamma_n (|w| |v| + |offset|) + n 2^-124, with u = 2^-24.
    """
    b, tiny, u = bounds.b, bounds.b.number(2.0**-124), bounds.b.number(2.0**-24)
    smooth = any(node.curve for node in bounds.net.nodes)
    need(not smooth, "arithmetic is float32: smooth activations have no bound")
    errors = [b.up(b.up(bounds.size[0] * u) + tiny)]
    need(bounds.size[0] < 2.0**127, "arithmetic is float32: an input overflows")
    for node in bounds.net.nodes:
        if node.relu >= 0:
            errors.append(errors[node.terms[0][0]])
            continue
        carried, total = b.number(np.zeros(node.size)), abs(node.offset)
        n = b.number(sum((np.count_nonzero(w, 1) for _, w, _ in node.terms), 2))
        for v, w, absolute in node.terms:
            normal = (w == 0) | (absolute >= 2.0**-126)
            need(normal, "arithmetic is float32: a weight is subnormal")
            need(absolute < 2.0**127, "arithmetic is float32: a weight overflows")
            error = b.up(errors[v] + tiny)  # subnormal values may count as 0
            carried = b.up(carried + b.bound(absolute, error))
            total = b.up(total + b.bound(absolute, b.up(bounds.size[v] + error)))
        x = n * u  # gamma_n = x / (1 - x) <= x (1 + 2 x)
        need((x < 0.25) & (total < 2.0**127), "arithmetic is float32: overflow")
        local = b.up(total * b.up(x * b.up(2 * x + b.one)))
        errors.append(b.up(b.up(carried + local) + b.up(n * tiny)))
    return errors[-1]
