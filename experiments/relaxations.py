"""Explains relaxations of ReLU networks: pictures, and a measurement.

    python experiments/relaxations.py --output=out/relaxations
    python experiments/relaxations.py --model=NET.onnx --data_dir=DIR --inputs=0:100 \\
        --epsilon=0.026 --output=out/relaxations_5x100

Without --model it draws one ReLU, a pair of ReLUs, and the outputs of a small network
as box, zonotope, CROWN, triangle, k-ReLU and exact method see them. With a fully
connected ONNX network it verifies the balls around images by every method, writes
relaxations.jsonl line by line, and prints how many each method verifies, in what time;
--resume continues and redoes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import _common
import _relaxation_pictures as pictures
import jax
import numpy as np
from _inputs import select_inputs
from _milp_network import read_mlp
from _relaxation_runs import LABELS, METHODS, Images, Ledger, Measurement, means, table
from absl import flags

from jaxcert.data import DATASETS
from jaxcert.errors import InputError
from jaxcert.models import load_network

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
_OUTPUT = flags.DEFINE_string("output", "out/relaxations", "Folder to write.")
_RESUME = flags.DEFINE_boolean("resume", False, "Continue the results in --output.")


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    folder = _common.expand(_OUTPUT.value)
    if not _MODEL.value:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in pictures.DRAWINGS.items():
            draw(folder / name)
            print(f"wrote {folder / name}")
        return 0
    _check_flags()
    path = str(_common.expand(_MODEL.value))
    network, chain = load_network(path), read_mlp(path)
    data_dir = _common.expand(_DATA_DIR.value) if _DATA_DIR.value else None
    chosen = select_inputs(
        _INPUTS.value, network, _DATASET.value, _SPLIT.value, data_dir
    )
    if chosen.labels is None:
        raise InputError("--inputs must be indices into --dataset, which has labels")
    logits = jax.vmap(functools.partial(network.apply, network.params))(chosen.x)
    right = np.argmax(logits, axis=1) == chosen.labels
    names = [name for name, r in zip(chosen.names, right, strict=True) if r]
    print(f"{len(names)} of {len(right)} images are classified correctly")
    images = Images(names, chosen.x[right], chosen.labels[right], _EPSILON.value)
    measurement = Measurement(network, chain, images, _TIME_LIMIT.value)
    config = {"network": network.content_hash, "epsilon": _EPSILON.value}
    with Ledger(folder, config, _RESUME.value) as ledger:
        for method in _METHODS.value:
            measurement.run(method, ledger)
    print(table(ledger.records))
    shown = [row for row in means(ledger.records) if row["bound"] == row["bound"]]
    title = f"{network.name}, epsilon {_EPSILON.value:g}"
    pictures.draw_time(folder / "time.png", title, shown)
    print(f"wrote {folder / 'time.png'}")
    return 0


def _check_flags() -> None:
    for method in _METHODS.value:
        if method not in LABELS:
            raise InputError(
                f"--methods names {method!r}; choose from {', '.join(METHODS)}"
            )
    if not 0 < _EPSILON.value < 1:
        raise InputError(f"--epsilon is {_EPSILON.value:g}; it must lie in (0, 1)")
    if not _TIME_LIMIT.value > 0:
        raise InputError(f"--time_limit is {_TIME_LIMIT.value:g}; it must be > 0")


if __name__ == "__main__":
    _common.run(main)
