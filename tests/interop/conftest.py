"""Every test draws its own numbers, whichever ran before in its process."""

from __future__ import annotations

import sys

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def drawn_anew():
    """The numbers of `onnx_models.floats` begin anew with every test that has them."""
    models = sys.modules.get("onnx_models")  # it skips where onnx is not installed
    if models is not None:
        models.rng.bit_generator.state = np.random.default_rng(0).bit_generator.state
