"""Computes dual boxes: boxes proved to contain every legal input of a class.

    python experiments/dual.py --model=NET.onnx --classes=all --output=out/dual
    python experiments/dual.py --model=NET.onnx --inputs=inputs/ --within=0.1 \\
        --classes=predicted --output=out/within

Of every face there is a bracket: an instance of the class goes as far as its inner end,
and beyond the outer end none exists, proved. The first form takes all legal inputs, the
second one those within a distance of each input. Boxes are appended to dual.jsonl as
soon as they are known, and instances lie beside it; --resume continues and redoes
nothing. --claimed_radius looks for instances farther away from their input than a
published certificate allows.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from jaxcert.commands.dual.run import Request, compute

_MODEL = flags.DEFINE_string(
    "model", "", "An .onnx (or .onnx.gz) file or a checkpoint (.npz)."
)
_CLASSES = flags.DEFINE_string(
    "classes", "all", "all, predicted (of the inputs, with --within), or 0,3,7."
)
_LOWEST = flags.DEFINE_boolean(
    "lowest", False, "The class is the least output (ACAS Xu), not the greatest."
)
_WITHIN = flags.DEFINE_float(
    "within", 0.0, "Only inputs within this distance of each of --inputs; 0: all."
)
_INPUTS = flags.DEFINE_string(
    "inputs", "", "Indices of the data set, a CSV folder, or an .npy/.npz file."
)
_DATASET = flags.DEFINE_string("dataset", "digits", "digits, mnist or fashion_mnist.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data set lies.")
_SPLIT = flags.DEFINE_string("split", "test", "train or test.")
_CLAIM = flags.DEFINE_float(
    "claimed_radius", 0.0, "Look for instances farther away from --inputs; 0: do not."
)
_LOWER = flags.DEFINE_list(
    "domain_lower", ["0"], "Least legal values: one for all features, or one of each."
)
_UPPER = flags.DEFINE_list("domain_upper", ["1"], "Greatest legal values, likewise.")
_TOLERANCE = flags.DEFINE_float(
    "tolerance", 0.01, "Width of a closed bracket, as a part of the feature's range."
)
_TIME_LIMIT = flags.DEFINE_float(
    "time_limit", 0.0, "Seconds after which nothing new is begun; 0: no limit."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the search for instances.")
_OUTPUT = flags.DEFINE_string("output", "out/dual", "Folder to write.")
_RESUME = flags.DEFINE_boolean("resume", False, "Continue the run in --output.")


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    request = Request(
        model=_MODEL.value,
        classes=_CLASSES.value,
        lowest=_LOWEST.value,
        within=_WITHIN.value,
        inputs=_INPUTS.value,
        dataset=_DATASET.value,
        data_dir=_DATA_DIR.value,
        split=_SPLIT.value,
        claimed_radius=_CLAIM.value,
        domain=(_LOWER.value, _UPPER.value),
        tolerance=_TOLERANCE.value,
        time_limit=_TIME_LIMIT.value,
        seed=_SEED.value,
        output=_OUTPUT.value,
        resume=_RESUME.value,
    )
    return compute(request)
