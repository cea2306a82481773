"""Compares ways to prune a keypoint network by how well it can be certified.

    python experiments/prune.py --data_dir=DIR --output=out/prune

Fashion-MNIST garments lie on canvases of 48 x 48; a small CNN predicts the top, bottom,
left and right point of each. Per seed one network is trained, then pruned step by step
and trained on by every method, to equal sparsity. An input is certified if every
keypoint coordinate stays within --pixels of its prediction for all brightness and
contrast changes up to --radius. Writes pruning.jsonl, line by line, and a checkpoint
per network; --resume continues and redoes nothing.
"""

from __future__ import annotations

from jaxcert.learning.data import load_dataset
from studies.prune.run import Request, run, sentence, table


def main(request: Request) -> int:
    """Runs the study; returns its exit code."""
    train, test = (
        load_dataset("fashion_mnist", split, request.data_dir)
        for split in ("train", "test")
    )
    records = run(request, (train, test))
    print(table(records))
    print(sentence(records, request))
    return 0
