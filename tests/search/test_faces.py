"""What stops a face: points are judged where they are stored."""

from __future__ import annotations

from fractions import Fraction

import jax
import numpy as np
import pytest

import jaxcert as jc
from jaxcert.certifier import float64
from jaxcert.model import Model
from jaxcert.search.faces import OPEN, Faces
from jaxcert.search.proposals import Front

DELTA = 0.3


def affine(params, x):
    w, b = params
    return w @ x + b


def watched(weight: np.ndarray, bias: float, box: jc.Box, point: list[float]):
    """Returns the faces of a box around (.5, 0) and the network after one point."""
    w = np.float64(np.float32([weight, [0, 0]]))
    params, x = (w, np.float64(np.float32([bias, 0]))), np.array([[0.5, 0.0]])
    ones = np.ones((1, 2))
    with float64():
        spec = jc.Spec.classification(0, 2, 0.0, np.float64)
        width = Front.width(spec.num_clauses)
        front = Front(
            x=x, domain=jc.Box(-ones, ones), rates=jc.Rates(ones, ones),
            spec=jax.tree.map(lambda v: np.asarray(v)[None], spec), box=box,
            free=np.ones((1, 4), bool), points=np.repeat(x[:, None], width, axis=1),
            clause=np.zeros((1, width), np.int32),
        )  # fmt: skip
        faces = Faces(Model(affine, params, (2,)), DELTA, x.shape)
        rows, face = np.zeros(1, int), np.zeros(1, int)
        faces.watch(front, rows, np.array([point]), face)
        return faces, faces.all_ends(front), params


@pytest.mark.parametrize("bias", [-1e-11, 1e-11, -1e-9, -1e-3, 1e-3])
@pytest.mark.parametrize("feature", [0.0, -1e-12, 1e-17, 0.1, -0.5])
@pytest.mark.parametrize("other", [0.0, 1e-12])
def test_a_stored_violation_is_one_wherever_the_point_was(
    bias: float, feature: float, other: float
):
    box = jc.Box(np.array([[DELTA, 0.0]]), np.array([[0.5, 0.0]]))
    faces, ends, params = watched(np.array([1e6, -1.1e6]), bias, box, [feature, other])
    end = ends[0, 0]
    assert 0 < DELTA - end <= DELTA
    if faces.blocked[0, 0] == OPEN:
        return
    z = np.array(faces.all_points()[0][0])
    assert (box.lo[0] <= z).all() and (z <= box.hi[0]).all()
    z[0] = end
    (weight, offset), (u, v) = params, map(Fraction, z)
    assert Fraction(weight[0, 0]) * u + Fraction(weight[0, 1]) * v <= -Fraction(
        offset[0]
    )


def test_a_violation_beyond_the_face_stops_it():
    box = jc.Box(np.array([[DELTA, 0.0]]), np.array([[0.5, 0.0]]))
    faces, ends, _ = watched(np.array([1.0, 0.0]), -0.1, box, [0.05, 0.0])
    assert faces.blocked[0].tolist() == [0, OPEN, OPEN, OPEN]
    assert ends[0, 0] == 0.05
