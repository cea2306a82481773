"""Marabou as the oracle call of ParallelepipedoNN: is a box sound for its class?"""

from __future__ import annotations

import warnings

import numpy as np

from studies.throughput.case import Case, Run

_TIMEOUT = 60  # seconds per query


def oracle(case: Case) -> Run | None:
    """Returns the verdicts on boxes; None for other than dense layers and ReLUs."""
    kinds = {layer.kind for layer in case.subject.graph.layers}
    if not kinds <= {"dense", "relu"}:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about parsers of other file formats
        from maraboupy import Marabou
        from maraboupy.MarabouNetwork import MarabouNetwork

    options = Marabou.createOptions(verbosity=0, timeoutInSeconds=_TIMEOUT)
    lo, hi = np.asarray(case.box.lo, float), np.asarray(case.box.hi, float)

    def query(row: int, label: int, other: int) -> str:
        """Answers: sat, unsat or something else; sat: `other` reaches the label."""
        network = MarabouNetwork()
        values = [network.getNewVariable() for _ in range(lo.shape[1])]
        network.inputVars = [np.array(values)]
        for variable, low, high in zip(values, lo[row], hi[row], strict=True):
            network.setLowerBound(variable, low)
            network.setUpperBound(variable, high)
        params = case.subject.network.params
        for layer, pair in zip(case.subject.graph.layers, params, strict=True):
            width = len(pair[1]) if pair else len(values)
            after = [network.getNewVariable() for _ in range(width)]
            for index, variable in enumerate(after):
                if layer.kind == "relu":
                    network.addRelu(values[index], variable)
                else:
                    terms = [*values, variable]
                    weights = [*map(float, pair[0][index]), -1.0]
                    network.addEquality(terms, weights, -float(pair[1][index]))
            values = after
        network.outputVars = [np.array(values)]
        network.addInequality([values[label], values[other]], [1.0, -1.0], 0.0)
        return network.solve(verbose=False, options=options)[0]

    def verdict(row: int) -> int:
        label = int(case.labels[row])
        answers = set()
        for other in range(case.subject.network.num_outputs):
            if other != label:
                answers.add(query(row, label, other))
                if "sat" in answers:
                    return -1
        return 1 if answers == {"unsat"} else 0

    return lambda: np.array([verdict(row) for row in range(min(case.asked, len(lo)))])
