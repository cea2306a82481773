"""Audits other people's certificates: looks for an adversarial example in each box.

    python experiments/audit.py --model=NET.onnx --boxes=BOXES.npz --output=out/audit
    python experiments/audit.py --model=NET.onnx --published_log=LOG --inputs=FOLDER

Every box is attacked, then decided by branch and bound. It is `broken` (a point of it
has another class; the network itself confirms that in float64), `sound` (proved) or
`unknown`; a box that is a single point claims nothing and is counted as `trivial`.
Prints a table and writes audit.jsonl, line by line, witnesses.npz, and in audit.json
what the proofs cover; --resume continues and redoes nothing, and with a larger
--timeout asks again about boxes that are unknown. Exit code 0 however many boxes are
broken.
"""

from __future__ import annotations

from jaxcert.commands.audit.run import Request, audit


def main(request: Request) -> int:
    """Runs the command; returns its exit code."""
    return audit(request)
