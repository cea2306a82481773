"""Smoothed answers: tails and distribution functions, and what is rejected."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest
from builder import Stored

from jaxcert.certificate.smoothed import write_smoothed
from jaxcert.checker import smoothed
from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Expected, Status
from jaxcert.checker.command import main
from jaxcert.checker.smoothed import SmoothedReport, cdf, tail
from jaxcert.smoothing import Gaussian, Laplace, SmoothingOptions, Stopping, Uniform
from jaxcert.smoothing.certify import conclude
from jaxcert.smoothing.options import OracleError
from jaxcert.smoothing.smoother import Tally

NETWORK = "ab" * 32
TAILS = [
    (1, 1, 0.5), (3, 0, 0.2), (10, 10, 0.3), (10, 5, 0.5), (600, 590, 0.96),
    (300, 3, 0.3), (300, 299, 0.5), (7, 3, 1e-300), (50, 20, 1 - 2.0**-53),
    (100, 37, 0.37), (5, 2, 5e-324), (200, 1, 1e-5), (4, 4, 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("n", "k", "p"), TAILS)
def test_tails_are_above_the_exact_sum_and_close(n, k, p):
    exact = Fraction(p)
    hit, whole = exact.numerator, exact.denominator
    parts = (
        math.comb(n, i) * hit**i * (whole - hit) ** (n - i) for i in range(k, n + 1)
    )
    true = Fraction(sum(parts), whole**n)
    found = tail(n, k, exact)
    assert true <= found <= true * (1 + Fraction(1, 2**150))


def test_tails_of_many_samples_are_those_of_mpmath():
    n, k, p = 10_000, 9_900, 0.985
    with mpmath.workprec(400):
        true = mpmath.betainc(k, n - k + 1, 0, mpmath.mpf(p), regularized=True)
        found = tail(n, k, Fraction(p))
        found = mpmath.mpf(found.numerator) / found.denominator
        assert (
            true * (1 - mpmath.mpf(2) ** -300)
            <= found
            <= true * (1 + mpmath.mpf("1e-40"))
        )


@pytest.mark.parametrize("t", [0.0, 5e-324, 1e-9, 0.1, 1.0, 2.5, 3.7, 9.9, 11.0, 1e9])
def test_distribution_functions_are_those_of_mpmath(t):
    with mpmath.workprec(300):
        point = mpmath.mpf(t)
        true = {
            "gaussian": mpmath.ncdf(point), "laplace": 1 - mpmath.exp(-point) / 2,
            "uniform": min(mpmath.mpf(1), (1 + point) / 2),
        }  # fmt: skip
        for noise, value in true.items():
            found = cdf(noise, Fraction(t))
            found = mpmath.mpf(found.numerator) / found.denominator
            assert value <= found + mpmath.mpf(2) ** -250 and found - value < 1e-15
        root = mpmath.mpf(smoothed._ROOT.numerator) / smoothed._ROOT.denominator
        assert 1 < root * mpmath.sqrt(2 * mpmath.pi) < 1 + mpmath.mpf("1e-19")


def answers(options, oracle, count: int = 12):
    random = np.random.default_rng(0)
    samples = random.choice(options.looks(), count)
    hits = (samples * random.choice([0.4, 0.7, 0.97, 1.0], count)).astype(np.int64)
    counts = np.stack([hits, samples - hits], axis=1)
    tally = Tally(np.tile([[1, 0]], (count, 1)), counts, samples)
    return conclude(tally, options, oracle)


KINDS = {
    "gaussian": (Gaussian(0.3), None, OracleError()),
    "laplace": (Laplace(0.1), None, OracleError()),
    "uniform": (Uniform(0.7), None, OracleError(0.01)),
    "looks": (Gaussian(0.25), Stopping(0.1), OracleError(0.02, 0.001)),
}


@pytest.fixture(params=KINDS)
def written(request, tmp_path) -> Path:
    noise, stopping, oracle = KINDS[request.param]
    options = SmoothingOptions(noise=noise, n=1000, alpha=0.001, stopping=stopping)
    found, path = answers(options, oracle), tmp_path / "answers.npz"
    report = write_smoothed(path, found, options, NETWORK, oracle)
    assert report.accepted, report.reason
    assert report.told == (found.radius > 0).sum() > 3
    assert report.alpha + report.oracle_alpha == pytest.approx(found.alpha)
    assert report.radius[1] == found.radius.max()
    return path


def stored(path: Path) -> Stored:
    with np.load(path) as file:
        arrays = dict(file)
    return Stored(json.loads(arrays.pop("header").tobytes()), arrays)


def set_head(**words):
    return lambda s: s.head.update(words)


def scaled(name: str, factor: float):
    return lambda s: s.arrays.update({name: s.arrays[name] * factor})


def moved(name: str, by: int):
    return lambda s: s.arrays.update({name: (s.arrays[name] + by).astype(np.int32)})


def without(name: str):
    return lambda s: s.arrays.pop(name)


MUTATIONS = {
    "a greater radius": (scaled("radius", 1 + 1e-9), "radius is too great"),
    "a radius without limit": (scaled("radius", 1e30), "radius is too great"),
    "a negative radius": (scaled("radius", -1), "radius is negative"),
    "a greater p": (scaled("p", 1 + 1e-6), "hits have a greater chance|out of range"),
    "a p above 1": (scaled("p", 1.2), "out of range"),
    "fewer hits": (moved("hits", -2), "hits have a greater chance|within samples"),
    "more hits than samples": (moved("hits", 10**6), "within samples"),
    "other samples": (moved("samples", 1), "none of the looks"),
    "another alpha": (set_head(alpha=0.0009), "hits have a greater chance"),
    "alpha 0": (set_head(alpha=0), "alpha is 0"),
    "alpha nan": (set_head(alpha=float("nan")), "alpha is 'nan'"),
    "a greater scale": (set_head(scale=1e-3), "radius is too great"),
    "a scale of text": (set_head(scale="1"), "scale is '1'"),
    "more looks": (
        lambda s: s.head.update(looks=[*s.head["looks"], 7]),
        "hits have a greater chance",
    ),
    "no looks": (set_head(looks=[]), "there is no look"),
    "too many samples": (set_head(looks=[2**30]), "looks is"),
    "another noise": (set_head(noise="cauchy"), "the noise is 'cauchy'"),
    "an error of the oracle": (
        lambda s: s.arrays.update(eps=s.arrays["eps"] + 1e-6),
        "radius is too great",
    ),
    "a negative error": (lambda s: s.arrays.update(eps=s.arrays["eps"] - 0.5), "eps"),
    "no hits": (without("samples"), "there is no array 'samples'"),
    "no radius": (without("radius"), "there is no array 'radius'"),
    "an array too many": (lambda s: s.arrays.update(lo=np.zeros(1)), "do not belong"),
    "another claim": (set_head(claim="unsat"), "is 4, which has no claim 'unsat'"),
    "another version": (set_head(version=3), "is 3, which has no claim 'smoothed'"),
    "an unknown claim": (set_head(claim="smooth"), "the claim is 'smooth'"),
    "no network": (set_head(network={}), "the network's sha256 is 'None'"),
}


def test_mutations_are_rejected_with_their_cause(written, tmp_path):
    for name, (alter, reason) in MUTATIONS.items():
        made = stored(written)
        alter(made)
        report = check_certificate(made.write(tmp_path / "mutated.npz"))
        assert report.status is Status.REJECTED, name
        import re

        assert re.search(reason, report.reason), (name, report.reason)


def test_what_is_expected_is_its_network_alone(written):
    assert check_certificate(written, expected=Expected(network=NETWORK)).accepted
    other = check_certificate(written, expected=Expected(network="cd" * 32))
    assert "speaks of another network" in other.reason
    for word, value in (("margin", 0.0), ("arithmetic", "real"), ("vnnlib", "x")):
        report = check_certificate(written, expected=Expected(**{word: value}))
        assert f"the caller expects ['{word}']" in report.reason


def test_the_command_says_what_is_claimed(written, capsys):
    assert main([str(written)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("accepted answers: ")
    assert "if the samples were drawn as stated, which is not checked" in out
    assert main([str(written), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["told"] > 3


def test_answers_that_may_all_be_false_are_vacuous(written, tmp_path):
    made = stored(written)
    made.head.update(oracle_alpha=0.9999)
    report = check_certificate(made.write(tmp_path / "doubtful.npz"))
    assert report.status is Status.VACUOUS
    assert report.reason == "every answer may be false"


def test_answers_that_abstain_are_vacuous(tmp_path):
    options = SmoothingOptions(noise=Gaussian(1.0), n=100)
    tally = Tally(np.eye(2, dtype=int), np.full((2, 2), 50), np.full(2, 100))
    path = tmp_path / "a.npz"
    report = write_smoothed(path, conclude(tally, options), options, NETWORK)
    assert isinstance(report, SmoothedReport) and report.status is Status.VACUOUS
    assert path.exists() and report.reason == "no radius is above 0"
