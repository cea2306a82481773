"""Explains relaxations of ReLU networks: pictures, and a measurement.

    python experiments/relaxations.py --output=out/relaxations
    python experiments/relaxations.py --laws=1000
    python experiments/relaxations.py --model=NET.onnx --data_dir=DIR --inputs=0:100 \\
        --epsilon=0.026 --output=out/relaxations_5x100

Without --model it draws one ReLU, a pair of ReLUs, and the outputs of a small network
as box, zonotope, CROWN, triangle, k-ReLU and exact method see them. With a fully
connected ONNX network it verifies the balls around images by every method, writes
relaxations.jsonl line by line, and prints how many each method verifies, in what time;
--resume continues and redoes nothing. --laws compares all of them on so many random
networks; exit code 3 says that one was tighter than a tighter one.
"""

from __future__ import annotations

from studies.relaxations.answer import Request, answer


def main(request: Request) -> int:
    """Runs the command; returns its exit code."""
    return answer(request)
