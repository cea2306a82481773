"""Brackets, certificates and verdicts over l1 and l2 balls, against exact minima."""

from __future__ import annotations

import json

import exact
import jax
import numpy as np
import pytest
from cases import random_network, relu_network

import jaxcert as jc
from jaxcert.ball import Ball
from jaxcert.box import Box, Family, Rates
from jaxcert.branch import ball_program
from jaxcert.branch.brackets import close_brackets
from jaxcert.branch.instances import ApothemTask
from jaxcert.branch.signs import BranchOptions
from jaxcert.certificate.store import CertificateWriter, Claim
from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Expected
from jaxcert.devices import float64
from jaxcert.model import Model

NORMS = ("l1", "l2")
TOLERANCE = 1e-3
UNIT = Box(np.zeros(3), np.ones(3))
# What HiGHS and the last half-space may be wrong by.
NOISE = 1e-5


def _weights(params):
    return [(w.T, b) for w, b in params]


def _least_margin(params, ball, label):
    """Returns the exact least margin over the ball."""
    eye = np.eye(3)
    found = [
        exact.brute_force_over_ball(_weights(params), ball, eye[label] - eye[j], 0.0)
        for j in range(3)
        if j != label
    ]
    return min(found, key=lambda m: m.value)


def _inputs(seed):
    """One input inside, one with features on the boundary of the domain."""
    x = np.random.default_rng(seed).uniform(size=(2, 3))
    x[1, :2] = 0, 1
    return x.astype(np.float32).astype(np.float64)


def _check(params, norm, x, label, lower, upper, witness):
    """Asserts that a bracket is sound, and that both of its ends are what they say."""
    whole = np.linalg.norm(np.maximum(x, 1 - x), int(norm[1:]))
    ball = Ball.around(x, min(lower, whole), norm, UNIT)
    assert _least_margin(params, ball, label).value > -NOISE
    if np.isinf(upper):
        assert lower >= whole
        return
    assert upper - lower <= TOLERANCE
    assert Ball.around(x, upper, norm, UNIT).holds(witness)
    y = exact.evaluate(_weights(params), witness)
    assert y[label] <= max(np.delete(y, label)) + 1e-9
    ball = Ball.around(x, upper, norm, UNIT)
    assert _least_margin(params, ball, label).value <= NOISE


def _task(model, x, norm):
    label = np.argmax(model.outputs(x), axis=1)
    with float64():
        specs = [jc.Spec.classification(c, 3, 0.0, np.float64) for c in label.tolist()]
    ones = np.ones(3)
    task = ApothemTask(
        family=Family.many(Box.point(x), UNIT, Rates(ones, ones, norm)),
        spec=jax.tree.map(lambda *v: np.stack(v), *specs),
        lower=np.zeros(len(x)),
        upper=np.full(len(x), np.inf),
        witness=np.full(x.shape, np.nan),
        reach=np.linalg.norm(np.maximum(x, 1 - x), int(norm[1:]), axis=1) * (1 + 1e-12),
        wanted=np.ones(len(x), bool),
        tolerance=TOLERANCE,
    )
    return task, label


def _closed(norm, sizes, seed):
    """Yields (network, claim, proof) of every input."""
    params, x = random_network(sizes, seed), _inputs(seed)
    model = Model(relu_network, params, (3,))
    task, label = _task(model, x, norm)
    found = close_brackets(model, task, BranchOptions(block=8, record=True))
    assert not found.open.any()
    none = np.full(3, np.nan)
    for row in range(len(x)):
        ends = float(found.lower[row]), float(found.upper[row])
        _check(params, norm, x[row], label[row], *ends, found.witness[row])
        claim = Claim(
            f"{row}", int(label[row]), x[row], none, none, *ends, found.witness[row]
        )
        yield model, claim, found.proof.of(row)


def _check_written(folder, norm, sizes, seed):
    for model, claim, proof in _closed(norm, sizes, seed):
        rates = Rates(np.ones(3), np.ones(3), norm)
        writer = CertificateWriter(model, UNIT, rates, folder)
        written = writer.write(claim, proof)
        assert written.report.accepted and written.claim.lower == claim.lower
        assert check_certificate(written.path, exact=True).accepted
        _check_changes(written.path, norm)


def _check_changes(path, norm):
    """What is not proved is rejected, and a caller may insist on the norm."""
    assert check_certificate(path, expected=Expected(norm=norm)).accepted
    with np.load(path) as archive:
        arrays = dict(archive)
    head = json.loads(arrays.pop("header").tobytes())

    def report(head=head, expected=None, **changed):
        changed = {k: v for k, v in (arrays | changed).items() if v is not None}
        header = np.frombuffer(json.dumps(head).encode(), np.uint8)
        target = path.with_name("changed.npz")
        np.savez(target, header=header, **changed)
        return check_certificate(target, expected=expected)

    def reason(*given, **changed):
        found = report(*given, **changed)
        assert not found.holds
        return found.reason

    assert report().accepted
    wrong = Expected(norm="linf")
    assert "the norm is" in reason(expected=wrong)
    # The box around the ball holds more: the counterexample, or it may be a true claim.
    beside = np.inf if "witness" not in arrays else arrays["witness"]
    if (arrays["lo"] <= beside).all() and (beside <= arrays["hi"]).all():
        assert "is not >" in reason(ball=None)
    assert "has no claim 'box'" in reason(head | {"version": 5})
    assert "neither 1 nor 2" in reason(ball=np.array([3], np.int32))
    assert "ball" in reason(ball=np.array([2.0]))
    if "witness" not in arrays:  # the whole domain is proved
        return
    far = arrays["x"] + 1.0001 * (arrays["witness"] - arrays["x"])
    inside = np.clip(far, 0, 1)
    assert "farther" in reason(witness=inside) or (inside == arrays["witness"]).all()
    # The radius of a ball that holds a counterexample, with the box around it.
    r = head["apothem_upper"] * 1.01
    a = r * (1 + 1e-9)
    box = {"lo": np.clip(arrays["x"] - a, 0, 1), "hi": np.clip(arrays["x"] + a, 0, 1)}
    assert "is not >" in reason(head | {"apothem_lower": r}, **box)
    held = (arrays["lo"] <= box["lo"]).all() and (arrays["hi"] >= box["hi"]).all()
    cause = "is not >" if held else "is nearer"
    assert cause in reason(head | {"apothem_lower": r})
    # The ball of the same radius in the norm in which it holds the counterexample, or
    # in which that is farther than stated; along an axis it may be a true claim.
    away = np.linalg.norm(arrays["witness"] - arrays["x"], 3 - int(norm[1:]))
    ends = head["apothem_lower"], head["apothem_upper"]
    if away < ends[0] * (1 - 1e-9) or away > ends[1] * (1 + 1e-9):
        assert reason(ball=np.array([3 - int(norm[1:])], np.int32))


def test_l2_brackets_are_those_of_all_patterns_and_have_certificates(tmp_path):
    _check_written(tmp_path, "l2", (3, 5, 3), 0)


@pytest.mark.campaign
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(40))
def test_more_brackets_have_certificates(tmp_path, norm, seed):
    _check_written(tmp_path, norm, (3, 4, 3, 3), seed)


@pytest.mark.campaign
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(20))
def test_certified_and_verified_balls_are_right(norm, seed):
    params, x = random_network((3, 4, 3, 3), seed), _inputs(seed)
    options = jc.CertifyOptions(
        oracle="complete", candidates=4, branch=BranchOptions(block=8)
    )
    found = jc.certify(
        relu_network, params, x, norm=norm, tolerance=TOLERANCE, options=options
    )
    assert np.isnan(found.box.lo).all()
    for row in range(len(x)):
        label, lower, upper = (v[row] for v in (found.label, found.lower, found.upper))
        _check(params, norm, x[row], label, lower, upper, found.witness[row])
        spec = jc.Spec.classification(int(label), 3)
        for radius in (0.0, lower, upper):
            if not np.isfinite(radius):
                continue
            ball = Ball.around(x[row], radius, norm, UNIT)
            verdict = jc.verify(relu_network, params, ball, spec, options=options)
            if radius == upper:
                assert not verdict.proved
            else:
                assert verdict.proved
            if verdict.refuted:
                assert ball.holds(verdict.witness)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(10))
def test_one_feature_has_one_bracket(seed):
    params = random_network((1, 4, 3), seed)
    x = np.random.default_rng(seed).uniform(size=(3, 1))
    options = jc.CertifyOptions(oracle="complete", branch=BranchOptions(narrow=0))
    ends = [
        jc.certify(relu_network, params, x, norm=norm, tolerance=1e-4, options=options)
        for norm in ("linf", *NORMS)
    ]
    for one in ends:
        for two in ends:
            assert (one.lower <= two.upper).all()
            np.testing.assert_allclose(one.lower, two.lower, atol=2e-4)


@pytest.mark.parametrize("norm", NORMS)
@float64()
def test_leaves_over_balls_have_the_exact_bound_and_point(norm):
    random = np.random.default_rng(3)
    for _ in range(3):
        neurons, rows = random.normal(size=(2, 3)), random.normal(size=(1, 3))
        x = random.uniform(size=3)
        fixed = np.array([1, -1], np.int8)
        offset = -neurons @ x + 0.05 * fixed
        maps = neurons, offset, rows, np.zeros(1), fixed
        ball = Ball.around(x, 0.4, norm, UNIT)
        found = ball_program.proving_multipliers(maps, fixed, ball)
        # A network of that one pattern: the others have a margin out of reach.
        halves, limits = -fixed[:, None] * neurons, fixed * offset
        expected = exact.least_in_ball(rows[0], halves, limits, ball)
        assert abs(found.bound - rows[0] @ expected) < NOISE
        row = rows[0] - (found.beta * fixed) @ neurons
        proved = float(_least(ball, row[None])[0]) - found.beta * fixed @ offset
        assert abs(proved - found.bound) < NOISE
        goal = rows[0] @ expected / 2 + rows[0] @ x / 2
        maps = neurons, offset, rows, np.array([-goal]), fixed
        ones = np.ones(3)
        family = Family(Box.point(x), UNIT, Rates(ones, ones, norm))
        z = ball_program.nearest_violation(maps, fixed, family, 0.0)
        assert rows[0] @ z <= goal + NOISE and (halves @ z <= limits + NOISE).all()
        away = float(family.distance(z))
        nearer = Ball.around(x, away * 0.999, norm, UNIT)
        none_there = exact.least_in_ball(rows[0], halves, limits, nearer)
        assert none_there is None or rows[0] @ none_there > goal


_least = jax.jit(lambda ball, rows: ball.least(rows))
