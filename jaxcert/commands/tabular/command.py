"""Certifies rows of a table, and says in its units what is guaranteed.

    python experiments/tabular.py --dataset=wine --output=out/wine
    python experiments/tabular.py --dataset=breast_cancer --inputs=0:10 --hidden=16,16

Trains a small network, with the scaling of the features inside it, and gives for each
row of the test quarter the ranges that all features may move in, at once, with the
class proved unchanged: a box that no feature's range can outgrow by --delta rates. Then
the dual box of each class: beyond it no instance of the class exists. Printed ends are
rounded towards the safe side. --scale names a CSV file (feature,unit,lower,upper,rate)
where units, legal ranges and rates are known better; by default the legal range is the
observed one, and the rate is the standard deviation.

Certificates go to OUTPUT/grown (see check.py), the network to OUTPUT/network.npz and
.onnx; --resume continues and redoes nothing, and with a larger --time_limit goes on
with the brackets that are open.
"""

from __future__ import annotations

from jaxcert.commands.tabular.run import Request, compute


def main(request: Request) -> int:
    """Runs the command; returns its exit code."""
    return compute(request)
