"""Certifies inputs against brightness, contrast, blur and gamma changes.

    python experiments/semantic.py --model=NET.npz --dataset=fashion_mnist \\
        --data_dir=DIR --inputs=0:200 --grid=2500 --output=out/semantic

The set of changed inputs is exact, clip((1 + c) x + b) and the like; per input the
greatest range of the parameters is bracketed: proved up to `lower`, violated at
`upper`. --grid checks every certified range on a dense grid, with code of its own; exit
code 1 if a grid point contradicts it. Writes semantic.jsonl into --output, line by
line; --resume continues and redoes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from absl import flags

from jaxcert.commands import console
from jaxcert.commands.inputs import select_inputs, select_network
from jaxcert.commands.semantic.run import (
    Request,
    named_families,
    run,
    sentence,
    table,
    violations,
)
from jaxcert.semantic.changes import FAMILIES

_MODEL = flags.DEFINE_string(
    "model", "demo", "An .onnx file, a checkpoint (.npz), or 'demo' to train one."
)
_DATASET = flags.DEFINE_string("dataset", "digits", "digits, mnist or fashion_mnist.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder with the data set; if unset it is looked for, else downloaded.",
)
_SPLIT = flags.DEFINE_string("split", "test", "train or test.")
_INPUTS = flags.DEFINE_string(
    "inputs", "0:100", "Indices (0:100; 3,17; all), a CSV folder, or an .npy/.npz file."
)
_CHANGES = flags.DEFINE_list(
    "changes", list(FAMILIES), f"Which of {', '.join(FAMILIES)}."
)
_RATES = flags.DEFINE_list(
    "rates", [], "How far b and c of 'both' go per unit of radius; default 1,1."
)
_TOLERANCE = flags.DEFINE_float("tolerance", 1e-3, "Width of the brackets to reach.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Inputs per call.", 1, 512)
_TIME_LIMIT = flags.DEFINE_float("time_limit", 0.0, "Seconds per batch; 0: no limit.")
_GRID = flags.DEFINE_integer(
    "grid", 0, "Points per input of the grid check; 0: none.", 0
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the demo network.", 0, 2**32 - 1)
_OUTPUT = flags.DEFINE_string("output", "out/semantic", "Folder to write.")
_RESUME = flags.DEFINE_boolean("resume", False, "Continue the run in --output.")


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    request = Request(
        families=named_families(_CHANGES.value, _RATES.value),
        tolerance=_TOLERANCE.value,
        batch_size=_BATCH_SIZE.value,
        time_limit=_TIME_LIMIT.value or math.inf,
        grid=_GRID.value,
    )
    output = console.expand(_OUTPUT.value)
    data_dir = console.expand(_DATA_DIR.value) if _DATA_DIR.value else None
    network = select_network(
        _MODEL.value, output, _DATASET.value, data_dir, _SEED.value
    )
    chosen = select_inputs(
        _INPUTS.value, network, _DATASET.value, _SPLIT.value, data_dir
    )
    records = run(request, network, chosen, output, _RESUME.value)
    print(table(records, request))
    print(sentence(records, request))
    return 1 if violations(records) else 0
