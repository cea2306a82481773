"""Every box of a network of max, abs, clip and pooling has its certificate.

These operations are rewritten to ReLUs, and the search knows more of them than the
rewritten network says: exact ranges of the originals. What a proof is recorded of must
do without, for the checker sees the rewritten network alone.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled

import jaxcert as jc
from jaxcert.branch.signs import BranchOptions
from jaxcert.certificate.grown import GrownClaim, GrownWriter
from jaxcert.certificate.store import CertificateWriter, Claim
from jaxcert.certifier import Certifier, float64
from jaxcert.checker.check import check_certificate
from jaxcert.search.growth import GrowthOptions

TOLERANCE, DELTA, EACH = 1e-3, 1e-2, 8
ONE, SEVERAL = range(1), range(4)


def maxout_and_abs(params, x):
    """Layers of 4, 6, 5 and 3."""
    (w0, b0), (v0, c0), (w1, b1), (w2, b2) = params
    h = jnp.maximum(w0 @ x + b0, v0 @ x + c0)
    return w2 @ jnp.abs(w1 @ h + b1) + b2


def clip_and_pool(params, x):
    """The same layers, with min, clip and max-pooling."""
    (w0, b0), (v0, c0), (w1, b1), (w2, b2) = params
    h = jnp.minimum(jnp.clip(w0 @ x + b0, -0.5, 1), v0 @ x + c0)
    h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (2,), (1,), "SAME")
    return w2 @ jnp.clip(w1 @ h + b1, 0, 1) + b2


def weights(seed: int) -> list:
    random = np.random.default_rng(seed)
    return [
        (
            (random.normal(size=(m, n)) / np.sqrt(n)).astype(np.float32),
            (random.normal(size=m) * 0.3).astype(np.float32),
        )
        for n, m in ((4, 6), (4, 6), (6, 5), (5, 3))
    ]


@functools.cache
def certified(f, oracle: str, seed: int) -> tuple:
    """Returns a certifier, inputs, its answers, which are certified, and the proof."""
    options = jc.CertifyOptions(
        oracle=oracle, batch_size=EACH, attack=None,
        branch=BranchOptions(record=True, block=32),
    )  # fmt: skip
    certifier = Certifier(
        f, weights(seed), (0.0, 1.0), (4,), options=options, tolerance=TOLERANCE
    )
    x = np.random.default_rng(50 + seed).uniform(0.1, 0.9, (EACH, 4))
    answer, proof = certifier.batch_with_proofs(x, None)
    rows = np.flatnonzero(answer.outcome == jc.Outcome.CERTIFIED)
    return certifier, x, answer, rows, proof


ASKED = {
    "one": (maxout_and_abs, "crown", ONE),
    "complete": (maxout_and_abs, "complete", ONE),
    "several": (maxout_and_abs, "complete", SEVERAL),
    "clip and pool": (clip_and_pool, "complete", SEVERAL),
    "crown": (maxout_and_abs, "crown", SEVERAL),
}


@pytest.mark.parametrize("asked", sampled(ASKED))
def test_every_certified_box_has_an_accepted_certificate(asked, tmp_path):
    (f, oracle, seeds), count = ASKED[asked], 0
    for seed in seeds:
        certifier, x, answer, rows, proof = certified(f, oracle, seed)
        writer = CertificateWriter(
            certifier.model, certifier.domain, certifier.rates, tmp_path / str(seed)
        )
        for i in rows:
            lower, upper = float(answer.lower[i]), float(answer.upper[i])
            claim = Claim(
                str(i), int(answer.label[i]), x[i], answer.box.lo[i], answer.box.hi[i],
                lower, upper, answer.witness[i],
            )  # fmt: skip
            own = proof.of(i) if proof is not None else None
            written = writer.write(claim, own)
            assert written.path is not None, (seed, i, written.report.reason)
            assert check_certificate(written.path).accepted
            # No more than a rounding of the radius is given up for it.
            assert written.claim.lower >= lower * (1 - 2.0**-20)
            if oracle == "complete":  # and none by searching without what is not said
                assert np.isinf(lower) or upper - lower <= 1.01 * TOLERANCE
            count += 1
    assert count >= len(seeds) * EACH * 3 // 4


@pytest.mark.campaign
def test_every_grown_box_has_an_accepted_proof(tmp_path):
    f, count = maxout_and_abs, 0
    for seed in SEVERAL:
        certifier, x, answer, rows, _ = certified(f, "complete", seed)
        growth = certifier.grow(x, answer, GrowthOptions(delta=DELTA), record=True)
        writer = GrownWriter(
            certifier.model, certifier.domain, certifier.rates, tmp_path / str(seed)
        )
        for i in rows:
            with float64():
                claim = GrownClaim.of(str(i), x[i], i, answer, growth)
                written = writer.write_grown(claim, growth.proofs[i])
            assert written.path is not None, (seed, i, written.report.reason)
            report = check_certificate(written.path)
            assert report.accepted and report.faces.proved and not report.faces.open
            assert np.array_equal(written.claim.lo, claim.lo)
            assert np.array_equal(written.claim.hi, claim.hi)
            count += 1
    assert count >= len(SEVERAL) * EACH * 3 // 4
