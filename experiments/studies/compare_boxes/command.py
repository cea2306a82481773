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

All ask the same complete oracle and get --time_limit per input; what an algorithm has
when its time is over is its box. Every box that claims to be sound is then audited:
attacked, and decided by branch and bound. Writes rows.jsonl, line by line, and the
boxes into --output and prints a table; --resume continues and redoes nothing.
Misclassified inputs are left out. The perimeter of a box is the sum of its edges.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from studies.compare_boxes.run import ALGORITHMS, Request, compare

_MODEL = flags.DEFINE_string("model", "", "An .onnx file or a checkpoint (.npz).")
_INPUTS = flags.DEFINE_string(
    "inputs", "0:10", "Indices (0:100; 3,17; all), a CSV folder, or an .npy/.npz file."
)
_DATASET = flags.DEFINE_string(
    "dataset", "mnist", "digits, mnist or fashion_mnist, if --inputs are indices."
)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where the data set lies.")
_SPLIT = flags.DEFINE_string("split", "test", "train or test.")
_ALGORITHMS = flags.DEFINE_list(
    "algorithms", list(ALGORITHMS), f"Which to run: {', '.join(ALGORITHMS)}."
)
_MARGIN = flags.DEFINE_float(
    "required_margin", 0.0, "Prove margin > this; -1 reproduces published slack."
)
_DELTA = flags.DEFINE_float("delta", 0.1, "Resolution of the published algorithms.")
_TIME_LIMIT = flags.DEFINE_float(
    "time_limit", 60.0, "Seconds per input and algorithm, without compilation."
)
_LOWER = flags.DEFINE_float("domain_lower", 0.0, "Least legal value of a feature.")
_UPPER = flags.DEFINE_float("domain_upper", 1.0, "Greatest legal value of a feature.")
_OUTPUT = flags.DEFINE_string("output", "out/compare", "Folder to write.")
_RESUME = flags.DEFINE_boolean("resume", False, "Continue the run in --output.")


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    request = Request(
        model=_MODEL.value,
        inputs=_INPUTS.value,
        dataset=_DATASET.value,
        split=_SPLIT.value,
        data_dir=_DATA_DIR.value,
        output=_OUTPUT.value,
        resume=_RESUME.value,
        algorithms=tuple(_ALGORITHMS.value),
        required_margin=_MARGIN.value,
        delta=_DELTA.value,
        time_limit=_TIME_LIMIT.value,
        domain_lower=_LOWER.value,
        domain_upper=_UPPER.value,
    )
    return compare(request)
