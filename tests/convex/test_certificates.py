"""Certificates of feature-convex radii: written, accepted, and of the same function."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from cases import sampled
from test_convex import CNN, MLP, classifier, exact, exact_score

from jaxcert.certificate.convex import write_radii
from jaxcert.checker.arithmetic import Arithmetic
from jaxcert.checker.faces import outputs
from jaxcert.checker.network import network_of
from jaxcert.convex import CustomFeatures, Shift, ShiftAbs, certified_radii
from jaxcert.errors import InputError, UnsupportedError


@pytest.mark.parametrize("features", [Shift, ShiftAbs])
@pytest.mark.parametrize("architecture", sampled([MLP, CNN]))
def test_fifty_answers_are_accepted(architecture, features, tmp_path):
    if features is ShiftAbs:
        shape = architecture.feature_shape
        shape = (*shape[:-1], 2 * shape[-1])
        architecture = dataclasses.replace(architecture, feature_shape=shape)
    model = classifier(architecture, 1, 0, 3.0, features)
    x = np.random.default_rng(0).normal(size=(50, *model.input_shape))
    found = certified_radii(model, x)
    path, report = write_radii(tmp_path / "proofs/a.npz", model, x, found)
    assert path is not None and report.accepted, report.reason
    assert report.told == int((found.radius > 0).any(axis=1).sum()) > 40
    assert [norm for norm, _ in report.radii] == ["l1", "l2", "linf"]


def test_the_network_file_is_g(tmp_path):
    """Its batch norms, of which all is rational, are those that were certified."""
    model = classifier(MLP, 2, 0, 3.0)
    x = np.random.default_rng(1).normal(size=(6, 3))
    write_radii(tmp_path / "a.npz", model, x, certified_radii(model, x))
    (file,) = tmp_path.glob("network-*.npz")
    network, mu = network_of(file.read_bytes(), True), np.float64(model.features.mu)
    for row in x:
        moved = exact(row) - exact(mu)
        z = np.array([[float(v) for v in moved]])
        lo, hi, sane = outputs(Arithmetic(True), network, z)
        assert sane.all() and lo[0, 0] == hi[0, 0]
        z = np.array([Fraction(v) for v in z[0]], object) + exact(mu)
        score = exact_score(model, z) - Fraction(model.shift)
        assert abs(score - lo[0, 0]) < Fraction(1, 10**14)


def test_what_no_file_can_state_is_named(tmp_path):
    model = classifier(MLP, 1, 0, 3.0)
    x = np.zeros((2, 3))
    found = certified_radii(model, x, [3.0])
    with pytest.raises(UnsupportedError, match="shift_abs and the norms l1, l2, linf"):
        write_radii(tmp_path / "a.npz", model, x, found)
    own = CustomFeatures(lambda x: x, lambda p: 1.0, abs, 0)
    custom = dataclasses.replace(model, features=own)
    found = certified_radii(model, x)
    with pytest.raises(UnsupportedError, match="the feature maps shift, shift_abs"):
        write_radii(tmp_path / "a.npz", custom, x, found)
    with pytest.raises(InputError, match="1 inputs, but radii of 2"):
        write_radii(tmp_path / "a.npz", model, x[:1], found)
