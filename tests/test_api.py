"""Every mistake that a user of the library can make ends in one clear sentence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcert as jc

W = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
X = np.array([0.75, 0.25])
BOX = jc.Box(np.array([0.6, 0.0]), np.array([1.0, 0.5]))
SPEC = jc.Spec.classification(0, 2)


def f(w, x):
    return w @ x


def certify(x=X, labels=None, params=W, network=f, **settings):
    return jc.certify(network, params, x, labels, **settings)


nan = float("nan")
MISTAKES = {
    "zero tolerance": (lambda: certify(tolerance=0.0), "tolerance is 0.0; .* > 0"),
    "negative tolerance": (lambda: certify(tolerance=-1), "tolerance is -1"),
    "nan tolerance": (lambda: certify(tolerance=nan), "tolerance is nan"),
    "nan margin": (lambda: certify(required_margin=nan), "required_margin is nan"),
    "nan weight": (
        lambda: certify(params={"w": W * nan}, network=lambda p, x: p["w"] @ x),
        r"weight \['w'\] holds NaN or infinity: nothing can be certified",
    ),
    "infinite weight": (lambda: certify(params=W + np.inf), "holds NaN or infinity"),
    "nan input": (lambda: certify(X * nan), "input 0 holds NaN or infinity"),
    "infinite input": (lambda: certify(X + np.inf), "input 0 holds NaN or infinity"),
    "outside": (
        lambda: certify(np.stack([X, X + 1])),
        r"input 1 lies outside the domain: its values span \[1.25, 1.75\]",
    ),
    "label too large": (
        lambda: certify(labels=2),
        r"label 2 of input 0 is out of range: the network has classes 0 \.\. 1",
    ),
    "negative label": (lambda: certify(labels=-1), "label -1 of input 0"),
    "label count": (
        lambda: certify(np.stack([X, X]), np.array([0])),
        r"labels have shape \(1,\).*each of the 2 inputs",
    ),
    "label type": (lambda: certify(labels=0.5), "type float64; give one integer"),
    "wrong shape": (
        lambda: certify(np.zeros(3)),
        r"takes neither one input of shape \(3,\)",
    ),
    "no input": (lambda: certify(np.zeros((0, 2))), "no input to certify"),
    "empty domain": (
        lambda: certify(domain=(1.0, 0.0)),
        r"the domain is empty: .* \(1 > 0\)",
    ),
    "nan domain": (lambda: certify(domain=(0.0, nan)), "domain has NaN or infinite"),
    "domain shape": (
        lambda: certify(domain=(np.zeros(3), 1.0)),
        r"domain does not fit inputs of shape \(2,\)",
    ),
    "negative rate": (
        lambda: certify(rates=jc.Rates(-np.ones(2), np.ones(2))),
        "rates must be finite and >= 0",
    ),
    "tiny rate": (
        lambda: certify(rates=jc.Rates(np.full(2, 1e-40), np.ones(2))),
        "a rate is 1e-40: rates above 0 must be at least 1e-30, or radii overflow",
    ),
    "zero rates": (
        lambda: certify(rates=jc.Rates(np.zeros(2), np.zeros(2))),
        "not all of them 0",
    ),
    "rate shape": (
        lambda: certify(rates=jc.Rates(np.ones(3), np.ones(2))),
        "rates do not fit inputs of shape",
    ),
    "one logit": (
        lambda: certify(params=W[:1]),
        r"returns shape \(1,\) for one input; .* at least 2 logits",
    ),
    "two outputs": (
        lambda: certify(network=lambda w, x: (w @ x, x), input_shape=(2,)),
        "must return one array, it returned 2",
    ),
    "overflow": (
        lambda: certify(network=lambda w, x: jnp.exp(1e4 * (w @ x))),
        "output is not finite at input 0",
    ),
    "oracle": (
        lambda: jc.CertifyOptions(oracle="magic"),
        "unknown oracle 'magic'; choose one of ibp, crown",
    ),
    "candidates": (lambda: jc.CertifyOptions(candidates=0), "candidates is 0; .* >= 1"),
    "batch_size": (lambda: jc.CertifyOptions(batch_size=0), "batch_size is 0"),
    "max_steps": (lambda: jc.CertifyOptions(max_steps=0), "max_steps is 0"),
    "restarts": (
        lambda: jc.AttackOptions(restarts=0),
        "AttackOptions.restarts is 0; it must be >= 1",
    ),
    "steps": (lambda: jc.AttackOptions(steps=-2), "AttackOptions.steps is -2"),
    "bucket": (lambda: jc.CrownOptions(bucket=0), "CrownOptions.bucket is 0"),
    "intermediate": (
        lambda: jc.CrownOptions(intermediate="lp"),
        "intermediate is 'lp'; choose 'crown' or 'ibp'",
    ),
    "empty box": (
        lambda: jc.verify(f, W, jc.Box(BOX.hi, BOX.lo), SPEC),
        "the box is empty: lo > hi for 2 of 2 features",
    ),
    "nan box": (
        lambda: jc.verify(f, W, jc.Box(BOX.lo * nan, BOX.hi), SPEC),
        "the box has NaN or infinite faces",
    ),
    "verify with nan weights": (
        lambda: jc.verify(f, W * nan, BOX, SPEC),
        "holds NaN or infinity",
    ),
    "spec width": (
        lambda: jc.verify(f, W, BOX, jc.Spec.classification(0, 3)),
        "the spec speaks of 3 outputs, but the network returns shape",
    ),
    "box shape": (
        lambda: jc.verify(f, W, jc.Box(np.zeros(3), np.ones(3)), SPEC),
        "shape",
    ),
    "ragged box": (
        lambda: jc.verify(f, W, jc.Box(np.zeros(3), np.ones(2)), SPEC),
        "shape",
    ),
    "crown of a matrix": (
        lambda: jc.crown(lambda w, x: w * x)(W, jc.Box(jnp.zeros(2), jnp.ones(2))),
        r"returns shape \(2, 2\); CROWN bounds a vector",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_in_one_clear_sentence(name: str):
    attempt, message = MISTAKES[name]
    with pytest.raises(jc.InputError, match=message) as error:
        attempt()
    assert "\n" not in str(error.value)


def test_verify_proves_refutes_and_does_not_know():
    assert jc.verify(f, W, BOX, SPEC).proved
    wide = jc.Box(np.zeros(2), np.ones(2))
    refuted = jc.verify(f, W, wide, SPEC)
    assert refuted.refuted
    assert wide.contains(refuted.witness)
    assert (W @ refuted.witness)[0] <= (W @ refuted.witness)[1]
    unknown = jc.verify(f, W, wide, SPEC, options=jc.CertifyOptions(attack=None))
    assert unknown.status == jc.Status.UNKNOWN
    assert unknown.reason == jc.Reason.BOUND_TOO_LOOSE


def test_a_batch_of_one_stays_a_batch():
    def flat(w, x):
        return w @ x.reshape(-1)

    assert certify(X[None], network=flat).lower.shape == (1,)
    assert certify(X, network=flat).lower.shape == ()


def test_certify_leaves_the_configuration_alone():
    certify()
    assert not jax.config.jax_enable_x64
    assert jnp.zeros(1).dtype == jnp.float32
