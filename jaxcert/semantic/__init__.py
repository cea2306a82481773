"""Certificates against semantic changes: brightness, contrast, blur, gamma, yours."""

from jaxcert.semantic.answers import OutputRanges, SemanticApothems, SemanticVerdicts
from jaxcert.semantic.certifier import (
    SemanticCertifier,
    label_specs,
    row_specs,
    stay_specs,
)
from jaxcert.semantic.changes import FAMILIES, InputFamily, SampledChange, Transform

__all__ = [
    "FAMILIES",
    "InputFamily",
    "OutputRanges",
    "SampledChange",
    "SemanticApothems",
    "SemanticCertifier",
    "SemanticVerdicts",
    "Transform",
    "label_specs",
    "row_specs",
    "stay_specs",
]
