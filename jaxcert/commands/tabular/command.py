"""Certifies rows of a table, and says in its units what is guaranteed.

    python experiments/tabular.py --data=wine --output=out/wine
    python experiments/tabular.py --data=breast_cancer --inputs=0:10 --hidden=16,16

Trains a small network, with the scaling of the features inside it, and gives for each
row of the test quarter the ranges that all features may move in, at once, with the
class proved unchanged: a box that no feature's range can outgrow by --delta rates. Then
the dual box of each class: beyond it no instance of the class exists. Printed ends are
rounded towards the safe side. --scale names a CSV file (feature,unit,lower,upper,rate)
where units, legal ranges and rates are known better; by default the legal range is the
observed one, and the rate is the standard deviation.

Certificates go to OUTPUT/grown (see check.py), the network to OUTPUT/network.npz and
.onnx; --resume continues and redoes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from jaxcert.commands.tabular.data import TABLES
from jaxcert.commands.tabular.run import Request, compute, hidden_widths
from jaxcert.search.growth import FAIRNESS

_DATA = flags.DEFINE_enum("data", "wine", TABLES, "The table; none is downloaded.")
_USE = flags.DEFINE_string("use", "", "Features to use, with commas; '' for all.")
_SCALE = flags.DEFINE_string("scale", "", "A CSV file of units, ranges and rates.")
_INPUTS = flags.DEFINE_string("inputs", "0:5", "Which of the test rows.")
_HIDDEN = flags.DEFINE_list("hidden", ["16"], "Widths of the hidden layers.")
_TRAIN_EPS = flags.DEFINE_float(
    "train_eps", 0.05, "Radius of adversarial training, in ranges; 0: standard."
)
_EPOCHS = flags.DEFINE_integer("epochs", 100, "Epochs of the training.")
_OBJECTIVE = flags.DEFINE_enum(
    "objective", "maximal", list(FAIRNESS), "What boxes grow for."
)
_DELTA = flags.DEFINE_float(
    "delta", 0.01, "No feature's range can grow by this many rates."
)
_TOLERANCE = flags.DEFINE_float("tolerance", 1e-3, "Of the apothem, in rates.")
_DUAL = flags.DEFINE_boolean("dual", True, "Dual boxes of all classes as well.")
_WITHIN = flags.DEFINE_float(
    "within", 0.0, "Dual boxes this many rates around each row; 0: of the whole range."
)
_TIME_LIMIT = flags.DEFINE_float("time_limit", 300.0, "Seconds for boxes, and duals.")
_SEED = flags.DEFINE_integer("seed", 0, "Of split, training and search.")
_OUTPUT = flags.DEFINE_string("output", "out/tabular", "Folder to write.")
_RESUME = flags.DEFINE_boolean("resume", False, "Continue the run in --output.")


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    request = Request(
        data=_DATA.value,
        use=_USE.value,
        scale=_SCALE.value,
        inputs=_INPUTS.value,
        hidden=hidden_widths(_HIDDEN.value),
        train_eps=_TRAIN_EPS.value,
        epochs=_EPOCHS.value,
        objective=_OBJECTIVE.value,
        delta=_DELTA.value,
        tolerance=_TOLERANCE.value,
        dual=_DUAL.value,
        within=_WITHIN.value,
        time_limit=_TIME_LIMIT.value,
        seed=_SEED.value,
        output=_OUTPUT.value,
        resume=_RESUME.value,
    )
    return compute(request)
