"""Certificates of grown boxes that jaxcert writes: accepted, and right."""

from __future__ import annotations

import dataclasses

import exact
import numpy as np
import pytest
from cases import random_network
from cases import relu_network as f

import jaxcert as jc
from jaxcert.branch.signs import BranchOptions
from jaxcert.certificate.grown import GrownClaim, GrownWriter
from jaxcert.certifier import Certifier, float64
from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Status
from jaxcert.search.cover import Prover
from jaxcert.search.growth import Growth, GrowthOptions

DELTA, SIZES = 1e-2, (4, 8, 3)
OPTIONS = jc.CertifyOptions(
    oracle="complete", batch_size=8, branch=BranchOptions(block=32, narrow=0)
)
RATES = jc.Rates(np.array([1.0, 0.5, 2.0, 1.0]), np.array([1.0, 0.0, 1.0, 1.5]))


def network(seed: int):
    return random_network(SIZES, seed)


@dataclasses.dataclass
class Made:
    params: list
    certifier: Certifier
    x: np.ndarray
    found: jc.Certification
    growth: Growth

    def rows(self) -> np.ndarray:
        return np.flatnonzero(self.found.outcome == jc.Outcome.CERTIFIED)

    def writer(self, folder, arithmetic="real") -> GrownWriter:
        c = self.certifier
        return GrownWriter(c.model, c.domain, c.rates, folder, arithmetic=arithmetic)

    def claim(self, row: int) -> GrownClaim:
        return GrownClaim.of(str(row), self.x[row], row, self.found, self.growth)


@pytest.fixture(scope="module")
def made() -> Made:
    params = network(0)
    certifier = Certifier(f, params, None, (SIZES[0],), rates=RATES, options=OPTIONS)
    x = np.random.default_rng(100).uniform(0.1, 0.9, (8, SIZES[0]))
    found = certifier.batch(x, None)
    growth = certifier.grow(x, found, GrowthOptions(delta=DELTA), record=True)
    proved = [proof is not None for proof in growth.proofs]
    assert np.array_equal(proved, found.outcome == jc.Outcome.CERTIFIED)
    return Made(params, certifier, x, found, growth)


def test_a_box_that_no_point_stops_has_a_claim_too(made):
    row = made.rows()[0]
    none = [p[:0] for p in made.growth.points]
    growth = dataclasses.replace(made.growth, points=none)
    claim = GrownClaim.of("0", made.x[row], row, made.found, growth)
    assert claim.points.shape == (0, SIZES[0])


def test_every_grown_box_is_accepted_with_its_faces(made, tmp_path):
    stopped = fixed = 0
    with float64():
        writer = made.writer(tmp_path)
        for row in made.rows():
            written = writer.write_grown(made.claim(row), made.growth.proofs[row])
            assert written.path is not None, written.report.reason
            report = check_certificate(written.path)
            assert report.accepted and report.faces.proved
            blocked = made.growth.blocked[row]
            assert report.faces.witnessed == (blocked >= 0).sum()
            assert report.faces.on_domain + report.faces.fixed == (blocked == -1).sum()
            assert np.array_equal(written.claim.lo, made.growth.box.lo[row])
            assert np.array_equal(written.claim.hi, made.growth.box.hi[row])
            stopped += report.faces.witnessed
            fixed += report.faces.fixed
    assert stopped > 20 and fixed > 2
    report = check_certificate(written.path, exact=True)
    assert report.accepted, report.reason


def test_grown_boxes_agree_with_a_milp(made):
    weights, eye = [(w.T, b) for w, b in made.params], np.eye(SIZES[-1])
    for row in made.rows():
        lo, hi, label = (
            made.growth.box.lo[row], made.growth.box.hi[row], made.found.label[row]
        )  # fmt: skip
        least = min(
            exact.exact_min_margin(weights, lo, hi, eye[label] - eye[j], 0.0).value
            for j in range(SIZES[-1])
            if j != label
        )
        assert least > -2e-6


def test_growth_keeps_its_proofs_only_where_they_are_wanted(made):
    growth = made.certifier.grow(made.x, made.found, GrowthOptions(delta=DELTA))
    assert growth.proofs == [None] * 8
    assert np.array_equal(growth.box.lo, made.growth.box.lo)


def test_a_box_whose_proof_is_missing_is_proved_again(made, tmp_path):
    row = int(made.rows()[0])
    written = made.writer(tmp_path).write_grown(made.claim(row), None)
    assert check_certificate(written.path).accepted and not written.refused


def test_multipliers_are_float64_where_float32_is_too_coarse(
    made, tmp_path, monkeypatch
):
    keep, refused = Prover.prove, []

    def prove(self, place, leaves, *more):
        if self.options.record and not refused:
            refused.append(leaves)  # those of float32
            return leaves.rows(slice(0)), leaves, np.zeros(8, int)
        if self.options.record:
            finer = leaves.multipliers.split * (1 - 2.0**-40)
            multipliers = dataclasses.replace(leaves.multipliers, split=finer)
            leaves = dataclasses.replace(leaves, multipliers=multipliers)
        return keep(self, place, leaves, *more)

    monkeypatch.setattr(Prover, "prove", prove)
    options = GrowthOptions(delta=DELTA)
    growth = made.certifier.grow(made.x, made.found, options, record=True)
    (coarse,) = refused
    split = np.asarray(coarse.multipliers.split)
    np.testing.assert_array_equal(split, split.astype(np.float32))
    kinds = set()
    for row in made.rows():
        claim = GrownClaim.of(str(row), made.x[row], row, made.found, growth)
        written = made.writer(tmp_path).write_grown(claim, growth.proofs[row])
        assert check_certificate(written.path, exact=True).faces.proved
        with np.load(written.path) as stored:
            kinds.add(stored["leaf_betas"].dtype.name)
    assert "float64" in kinds


@pytest.mark.parametrize("given", [True, False])
def test_a_box_that_is_not_sound_is_not_proved(made, tmp_path, given):
    """Neither by the proof of another box, nor by one that is looked for."""
    row = int(made.rows()[0])
    wide = dataclasses.replace(
        made.claim(row), lo=np.zeros(SIZES[0]), hi=np.ones(SIZES[0])
    )
    proof = made.growth.proofs[row] if given else None
    written = made.writer(tmp_path).write_grown(wide, proof)
    report = check_certificate(written.path)
    assert report.status is Status.UNPROVED and not report.accepted
    assert ("leaf" if given else "no time") in written.refused
    written = made.writer(tmp_path / "float32", "float32").write_grown(wide, proof)
    assert written.path is None and not list((tmp_path / "float32").glob("0.npz"))


def test_without_time_for_a_proof_the_faces_are_claimed_alone(made, tmp_path):
    row = int(made.rows()[0])
    written = made.writer(tmp_path).write_grown(made.claim(row), None, -np.inf)
    report = check_certificate(written.path)
    assert report.status is Status.UNPROVED and report.faces.witnessed > 2
    assert not report.faces.proved and not report.accepted
    assert "no time" in written.refused


def test_a_box_that_must_shrink_keeps_honest_faces(made, tmp_path):
    """Every float32 evaluation asks for more than the reserve that growth leaves."""
    kept = 0
    with float64():
        writer = made.writer(tmp_path, "float32")
        for row in made.rows():
            written = writer.write_grown(made.claim(row), made.growth.proofs[row])
            if written.path is None:
                continue
            report, claim = check_certificate(written.path), written.claim
            assert report.accepted and report.arithmetic == "float32"
            assert (claim.lo >= made.growth.box.lo[row]).all()
            on_domain = made.growth.box.lo[row] == 0
            assert np.array_equal(claim.lo[on_domain], np.zeros(on_domain.sum()))
            free = (made.growth.blocked[row] != -1).sum()
            assert report.faces.witnessed + report.faces.open == free
            kept += claim.lower < made.claim(row).upper
    assert kept >= 4
