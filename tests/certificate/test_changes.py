"""Certificates against changes of an image: found, written, and accepted."""

from __future__ import annotations

import numpy as np
import pytest

from jaxcert.certificate.semantic import ChangeClaim, write_change
from jaxcert.model import Model
from jaxcert.semantic.changes import FAMILIES

PIXELS = np.array([0.5, 1.0, 0.75, 0.25]).reshape(2, 2, 1)


def f(w, x):
    """Returns sum(x) - w and its opposite."""
    return (x.sum() - w) * np.float32([1.0, -1.0])


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(f, np.float32(2.0), PIXELS.shape)


def claim(change: str, lower: float, witness=np.nan) -> ChangeClaim:
    at = np.full(len(FAMILIES[change].names), witness)
    return ChangeClaim(change, FAMILIES[change], PIXELS, 0, lower, at)


def test_a_radius_is_proved_and_a_counterexample_stored(model, tmp_path):
    asked = claim("brightness", 0.12499, -0.1251)
    made = write_change(tmp_path / "proofs/a.npz", model, asked)
    assert made.path is not None and made.size == made.path.stat().st_size
    assert made.report is not None and made.report.accepted
    assert made.report.parameters == (("b", (-0.12499, 0.12499)),)
    assert made.report.refuted == (-0.1251,)


def test_a_counterexample_in_doubt_is_left_out(model, tmp_path):
    asked = claim("brightness", 0.1, -0.1)
    made = write_change(tmp_path / "a.npz", model, asked)
    assert made.report is not None and made.report.accepted
    assert made.report.refuted == ()


def test_a_radius_too_large_shrinks_a_little_or_is_not_written(model, tmp_path):
    made = write_change(tmp_path / "a.npz", model, claim("brightness", 0.125))
    assert made.report is not None and made.report.accepted
    ((_, (low, high)),) = made.report.parameters
    assert -0.125 < low < -0.1249 and high == -low
    made = write_change(tmp_path / "b.npz", model, claim("brightness", 0.2))
    assert made.path is None and not (tmp_path / "b.npz").exists()


def test_all_legal_parameters(model, tmp_path):
    made = write_change(tmp_path / "a.npz", model, claim("blur", np.inf))
    assert made.report is not None and made.report.accepted
    assert made.report.parameters == (("a", (0.0, 1.0)),)
