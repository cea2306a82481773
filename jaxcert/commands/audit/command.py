"""Audits other people's certificates: looks for an adversarial example in each box.

    python experiments/audit.py --model=NET.onnx --boxes=BOXES.npz --output=out/audit
    python experiments/audit.py --model=NET.onnx --published_log=LOG --inputs=FOLDER

Every box is attacked, then decided by branch and bound. It is `broken` (a point of it
has another class; the network itself confirms that in float64), `sound` (proved) or
`unknown`; a box that is a single point claims nothing and is counted as `trivial`.
Prints a table and writes audit.jsonl, line by line, and witnesses.npz; --resume
continues and redoes nothing. Exit code 0 however many boxes are broken.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from jaxcert.commands.audit.run import Request, audit

_MODEL = flags.DEFINE_string(
    "model", "", "An .onnx (or .onnx.gz) file or a checkpoint (.npz)."
)
_BOXES = flags.DEFINE_string(
    "boxes",
    "",
    "An .npz file with arrays lo and hi of shape (n, *d), and optionally input "
    "(names), x and label (-1: not known); or a folder of files NAME.lo.csv and "
    "NAME.hi.csv, optionally NAME.x.csv, each with the values of one array in "
    "row-major order; or the NAME.lo.csv of one box. Without a label, the class to "
    "keep is the one predicted at x, and without x the one at the centre.",
)
_LOG = flags.DEFINE_string(
    "published_log",
    "",
    "Instead of --boxes: a result log of ParallelepipedoNN whose boxes are cubes "
    "(*_c-bu-d.log). Each is rebuilt from its min edge, around its input.",
)
_INPUTS = flags.DEFINE_string("inputs", "", "The .csv inputs that the log names.")
_OUTPUT = flags.DEFINE_string("output", "out/audit", "Folder to write.")
_RESUME = flags.DEFINE_boolean("resume", False, "Continue the audit in --output.")
_MARGIN = flags.DEFINE_float(
    "required_margin", 0.0, "What the margin must exceed all over a box."
)
_TIME_LIMIT = flags.DEFINE_float(
    "time_limit", 60.0, "Seconds per box, compilation included; then it is unknown."
)
_LOWER = flags.DEFINE_float(
    "domain_lower",
    None,
    "Clip boxes to values from here on; default: no clipping, 0 with --published_log.",
)
_UPPER = flags.DEFINE_float(
    "domain_upper",
    None,
    "Clip boxes to values up to here; default: no clipping, 1 with --published_log.",
)
_RESTARTS = flags.DEFINE_integer("restarts", 5, "Starts of the attack per class.")
_STEPS = flags.DEFINE_integer("steps", 30, "Gradient steps of the attack.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the attack.")


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    request = Request(
        model=_MODEL.value,
        boxes=_BOXES.value,
        published_log=_LOG.value,
        inputs=_INPUTS.value,
        output=_OUTPUT.value,
        resume=_RESUME.value,
        required_margin=_MARGIN.value,
        time_limit=_TIME_LIMIT.value,
        domain_lower=_LOWER.value,
        domain_upper=_UPPER.value,
        restarts=_RESTARTS.value,
        steps=_STEPS.value,
        seed=_SEED.value,
    )
    return audit(request)
