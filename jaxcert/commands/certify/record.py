"""What a run's line says of one input that was certified."""

from __future__ import annotations

from jaxcert.box import Box
from jaxcert.certification import Certification, Outcome
from jaxcert.certifier import Certifier
from jaxcert.commands.certify.measures import edge_measures
from jaxcert.report import Record

OBJECTIVE = "apothem"


def record_of(
    certifier: Certifier, answer: Certification, row: int, name: str, labelled: bool
) -> Record:
    """Returns the record of one input but for its arithmetic and its seconds.

    Args:
      certifier: what answered.
      answer: of a batch.
      row: the input in it.
      name: of the input.
      labelled: whether its label is known, and not merely what is predicted.
    """
    return {
        "input": name,
        "label": int(answer.label[row]) if labelled else None,
        "predicted": int(answer.predicted[row]),
        "status": Outcome(answer.outcome[row]).name.lower(),
        "objective": OBJECTIVE,
        "apothem_lower": float(answer.lower[row]),
        "apothem_upper": float(answer.upper[row]),
        **edge_measures(Box(answer.box.lo[row], answer.box.hi[row])),
        "required_margin": certifier.required_margin,
        "oracle": certifier.options.oracle,
        "oracle_calls": int(answer.oracle_calls[row]),
        "subproblems": int(answer.subproblems[row]),
    }
