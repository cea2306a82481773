"""Certificates of dual boxes: found, written, and accepted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxcert.box import Box
from jaxcert.branch.signs import BranchOptions
from jaxcert.certificate.duals import write_dual
from jaxcert.model import Model
from jaxcert.search.dual import DualBox

OPTIONS = BranchOptions(block=32)


def f(w, x):
    """Returns x_0 + x_1 - 1/2 and its opposite, of |x_0| and |x_1|."""
    y = abs(x).sum() - w
    return y * np.float32([1.0, -1.0])


def box(outer: float, known: bool = True) -> DualBox:
    """Returns the dual box of class 1, |x_0| + |x_1| <= 1/2."""
    domain = Box(-np.ones(2), np.ones(2))
    away = np.float64([[-0.5, 0], [0, -0.5], [0.5, 0], [0, 0.5]])
    found = DualBox.unknown(1, domain, 0.01)
    ends = Box(np.full(2, -outer), np.full(2, outer))
    inner = Box(away.min(axis=0), away.max(axis=0))
    return dataclasses.replace(
        found,
        outer=ends,
        inner=inner,
        witness=away if known else np.full((4, 2), np.nan),
    )


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(f, np.float32(0.5), (2,))


def test_the_faces_are_proved_and_reached(model, tmp_path):
    made = write_dual(tmp_path / "proofs/a.npz", model, box(0.505), OPTIONS)
    assert made.report is not None and made.report.accepted, made
    report = made.report
    assert (report.cut, report.reached, report.winner) == (4, 4, "greatest")
    assert 0.0025 <= report.gap < 0.0025001 and report.leaves > 4
    assert made.path is not None and made.size == made.path.stat().st_size


def test_without_points_the_box_is_proved(model, tmp_path):
    made = write_dual(tmp_path / "a.npz", model, box(0.6, known=False), OPTIONS)
    assert made.report is not None and made.report.accepted
    assert (made.report.cut, made.report.reached) == (4, 0)


def test_a_face_too_far_inside_moves_back(model, tmp_path):
    made = write_dual(tmp_path / "a.npz", model, box(0.4999), OPTIONS)
    assert made.report is not None and made.report.accepted
    with np.load(tmp_path / "a.npz") as arrays:
        assert np.all((arrays["dual_hi"] > 0.5) & (arrays["dual_hi"] < 0.51))


def test_what_is_false_is_not_written(model, tmp_path):
    made = write_dual(tmp_path / "a.npz", model, box(0.3), OPTIONS)
    assert made.path is None and not (tmp_path / "a.npz").exists()


def test_the_least_output_may_win(model, tmp_path):
    found = dataclasses.replace(box(0.505), label=0)
    made = write_dual(tmp_path / "a.npz", model, found, OPTIONS, lowest=True)
    assert made.report is not None and made.report.accepted
    assert "class 0 of 2 (the least output wins)" in made.report.claim


def test_an_empty_class_has_no_box(model, tmp_path):
    nowhere = np.full(2, np.inf)
    domain = Box(np.full(2, 0.3), np.ones(2))
    found = dataclasses.replace(
        box(1.0),
        domain=domain,
        outer=Box(nowhere, -nowhere),
        inner=Box(nowhere, -nowhere),
    )
    made = write_dual(tmp_path / "a.npz", model, found, OPTIONS)
    assert made.report is not None and made.report.accepted and made.report.empty
