"""Computes dual boxes: boxes proved to contain every legal input of a class.

    python experiments/dual.py --model=NET.onnx --classes=all --output=out/dual
    python experiments/dual.py --model=NET.onnx --inputs=inputs/ --within=0.1 \\
        --classes=predicted --output=out/within

Of every face there is a bracket: an instance of the class goes as far as its inner end,
and beyond the outer end none exists, proved. The first form takes all legal inputs, the
second one those within a distance of each input. Boxes are appended to dual.jsonl as
soon as they are known, and instances lie beside it; --resume continues and redoes
nothing, and with a larger --time_limit goes on with what is open. --claimed_radius
looks for instances farther away from their input than a published certificate allows.
"""

from __future__ import annotations

from jaxcert.commands.dual.run import Request, compute


def main(request: Request) -> int:
    """Runs the command; returns its exit code."""
    return compute(request)
