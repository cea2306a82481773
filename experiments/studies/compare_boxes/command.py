"""Compares algorithms for boxes on one oracle: published ones, and the cube.

    python experiments/compare_boxes.py --model=NET.onnx --inputs=FOLDER \\
        --delta=0.1 --output=out/compare

    cube            the apothem ball, exact to 1e-4
    cyclic          the ball's radius, bisected to delta
    top_down        the domain, cut by delta past one counterexample after the other
    bottom_up       the input, every face bisected in turn to delta
    liu             greatest volume by an augmented Lagrangian, symmetric, no domain
    liu_clipped     the same, clipped to the domain before it is shrunk until proved
    dual_bottom_up  the input, grown until no point of the class is outside

All ask the same complete oracle and get --timeout per input; what an algorithm has
when its time is over is its box. Every box that claims to be sound is then audited:
attacked, and decided by branch and bound. Writes rows.jsonl, line by line, and the
boxes into --output and prints a table; --resume continues and redoes nothing.
Misclassified inputs are left out. The perimeter of a box is the sum of its edges.
"""

from __future__ import annotations

from studies.compare_boxes.run import Request, compare


def main(request: Request) -> int:
    """Runs the command; returns its exit code."""
    return compare(request)
