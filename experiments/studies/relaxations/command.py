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

from collections.abc import Sequence

from absl import flags

from jaxcert.learning.data import DATASETS
from studies.relaxations.answer import Request, answer
from studies.relaxations.runs import METHODS

_MODEL = flags.DEFINE_string("model", "", "Fully connected network, .onnx.")
_DATASET = flags.DEFINE_enum("dataset", "mnist", DATASETS, "Data set.")
_SPLIT = flags.DEFINE_enum("split", "test", ["train", "test"], "Split of it.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data set lies.")
_INPUTS = flags.DEFINE_string("inputs", "0:100", "Indices, such as 0:100 or 3,5.")
_EPSILON = flags.DEFINE_float("epsilon", 0.026, "Radius of the balls.")
_METHODS = flags.DEFINE_list(
    "methods", list(METHODS), f"Which of {', '.join(METHODS)}, in this order."
)
_TIME_LIMIT = flags.DEFINE_float(
    "time_limit", 10.0, "Seconds per image (complete) or programme (triangle)."
)
_LAWS = flags.DEFINE_integer("laws", 0, "Random networks to compare methods on.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of these networks.")
_OUTPUT = flags.DEFINE_string("output", "out/relaxations", "Folder to write.")
_RESUME = flags.DEFINE_boolean("resume", False, "Continue the results in --output.")


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    request = Request(
        model=_MODEL.value,
        dataset=_DATASET.value,
        split=_SPLIT.value,
        data_dir=_DATA_DIR.value,
        inputs=_INPUTS.value,
        epsilon=_EPSILON.value,
        methods=_METHODS.value,
        time_limit=_TIME_LIMIT.value,
        laws=_LAWS.value,
        seed=_SEED.value,
        output=_OUTPUT.value,
        resume=_RESUME.value,
    )
    return answer(request)
