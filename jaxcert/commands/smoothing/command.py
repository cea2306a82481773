"""Certifies smoothed classifiers on a data set: randomized smoothing.

    for s in 0.12 0.25 0.5; do
      python experiments/train.py --channels=16,32 --epochs=12 --sigma=$s \\
        --output=out/noise_$s.npz
    done
    python experiments/smoothing.py --output=out/smoothing --inputs=0:10000:20 \\
        --model=out/noise_0.12.npz,out/noise_0.25.npz,out/noise_0.5.npz

The noise of a model is the one that it was trained with, unless --sigma names others.
Writes OUTPUT/smoothing.jsonl (one line per model and input) and accuracy.png, and
prints certified accuracy by radius. Answers are probabilistic: docs/smoothing.md says
what exactly holds. A run that was stopped goes on with --resume, and ends with the same
counts.
"""

from __future__ import annotations

from jaxcert.commands.smoothing.run import Request, smooth


def main(request: Request) -> int:
    """Runs the command; returns its exit code."""
    return smooth(request)
