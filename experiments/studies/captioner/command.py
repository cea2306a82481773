"""Certifies the captions that a small captioner generates, through an erring oracle.

    python experiments/captioner.py --data_dir=DIR --output=out/captioner

Trains a recurrent captioner of Fashion-MNIST (image -> "a dark long sleeved top"),
samples its words with a temperature, and certifies the class that its captions name. An
oracle, naive Bayes on the words in any order, names the classes; a judge, the list of
all captions, labels some outputs per image and so bounds the oracle's error. And how
far an image can move with garbled captions staying rare.

Writes OUTPUT/captioner.jsonl, a line per image. A run that was stopped goes on with
--resume and ends with the same counts.
"""

from __future__ import annotations

from studies.captioner.run import Request, run


def main(request: Request) -> int:
    """Runs the command; returns its exit code."""
    return run(request)
