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
    "options by name": (
        lambda: certify(options="complete"),
        r"options must be CertifyOptions, got str: pass jc.CertifyOptions\(oracle="
        "'complete'",
    ),
    "options of verify": (
        lambda: jc.verify(f, W, BOX, SPEC, options={"oracle": "crown"}),
        r"options must be CertifyOptions, got dict: pass jc.CertifyOptions\(\.\.\.\)",
    ),
    "attack option": (
        lambda: jc.CertifyOptions(attack=True),
        "attack is True; it must be AttackOptions, or None for no attack",
    ),
    "branch option": (
        lambda: jc.CertifyOptions(branch=None),
        "branch is None; it must be BranchOptions",
    ),
    "text of a number": (
        lambda: jc.CertifyOptions(batch_size="8"),
        "batch_size is '8'; it must be an integer >= 1",
    ),
    "tolerance of text": (
        lambda: certify(tolerance="1e-4"),
        "tolerance is '1e-4'; it must be one number",
    ),
    "no tolerance": (lambda: certify(tolerance=None), "tolerance is None; it must be"),
    "tolerances": (lambda: certify(tolerance=[1e-4, 1e-3]), "it must be one number"),
    "margin of text": (
        lambda: certify(required_margin="0"),
        "required_margin is '0'; it must be one number",
    ),
    "rates as a pair": (
        lambda: certify(rates=(np.ones(2), np.ones(2))),
        r"rates must be Rates, got tuple: pass jc.Rates\(lower, upper\), or one array",
    ),
    "rates of text": (lambda: certify(rates="fast"), "rates must be Rates, got str"),
    "rates of three": (lambda: certify(rates=np.ones(3)), "rates do not fit inputs"),
    "one end of a domain": (
        lambda: certify(domain=1.0),
        r"domain does not fit inputs of shape \(2,\): give two numbers",
    ),
    "three ends of a domain": (lambda: certify(domain=(0, 1, 2)), "give two numbers"),
    "domain of text": (lambda: certify(domain="unit"), "give two numbers"),
    "domain of nothing": (lambda: certify(domain=(None, 1)), "domain has NaN"),
    "ragged labels": (
        lambda: certify(np.stack([X, X]), [[0], [0, 1]]),
        "labels have rows of different lengths",
    ),
    "two labels of one input": (
        lambda: certify(labels=[0, 1], input_shape=(2,)),
        r"labels have shape \(2,\).*each of the 1 inputs",
    ),
    "input of text": (
        lambda: certify(["a", "b"]),
        "x must hold real numbers in one shape, got list",
    ),
    "ragged input": (lambda: certify([[0.1], [0.1, 0.2]]), "x must hold real numbers"),
    "complex input": (lambda: certify(X + 1j), "x must hold real numbers"),
    "weights of text": (
        lambda: certify(
            params={"w": W, "name": "mlp"}, network=lambda p, x: p["w"] @ x
        ),
        r"params hold str at \['name'\]: pass a pytree whose leaves are arrays",
    ),
    "a module as weights": (
        lambda: certify(
            params={"w": W, "act": jax.nn.relu}, network=lambda p, x: p["w"] @ x
        ),
        r"params hold a function at \['act'\]: .* eqx.partition\(model, eqx.is_array\)",
    ),
    "an object as weights": (
        lambda: certify(params=object()),
        "params hold object instead of arrays",
    ),
    "no function": (lambda: certify(network=W), "f must be a function f.params, x."),
    "a pair as a box": (
        lambda: jc.verify(f, W, (BOX.lo, BOX.hi), SPEC),
        r"box must be a Box, got tuple: pass jc.Box\(lower, upper\)",
    ),
    "rows as a spec": (
        lambda: jc.verify(f, W, BOX, np.eye(2)),
        "spec must be a Spec, got ndarray: make one with",
    ),
    "spec without rows": (
        lambda: jc.Spec.rows(np.zeros((0, 2)), np.zeros(0)),
        "the spec has no rows, so that it asks nothing",
    ),
    "spec made without rows": (
        lambda: jc.verify(
            f, W, BOX, jc.Spec(np.zeros((0, 2)), np.zeros(0), np.zeros(0, int), 0)
        ),
        "the spec has no rows, so that it asks nothing",
    ),
    "ragged rows": (
        lambda: jc.Spec.rows([[1, -1], [1]], [0, 0]),
        "rows must be numbers, of one length",
    ),
    "one offset too many": (
        lambda: jc.Spec.rows([[1, -1]], [0, 0]),
        r"coefficients have shape \(1, 2\) and its offsets \(2,\)",
    ),
    "nan in a spec": (
        lambda: jc.verify(f, W, BOX, jc.Spec.rows([[1, nan]], [0])),
        "the spec holds NaN or infinity",
    ),
    "clauses": (
        lambda: jc.verify(
            f, W, BOX, jc.Spec(np.eye(2), np.zeros(2), np.array([0, 5]), 2)
        ),
        r"rows must name every clause of 0 \.\. 1 and no other",
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

    options = jc.CertifyOptions(oracle="ibp", attack=None)
    assert certify(X[None], network=flat, options=options).lower.shape == (1,)
    assert certify(X, network=flat, options=options).lower.shape == ()


def test_what_may_be_given_in_other_ways_is_taken():
    answer = certify(tolerance=1e-3)
    for settings in (
        {"rates": 1.0},
        {"rates": np.ones(2)},
        {"rates": [1, 1]},
        {"domain": [0, 1]},
        {"domain": np.array([[0.0, 0.0], [1.0, 1.0]])},
        {"labels": 0},
        {"labels": [0]},
        {"tolerance": np.array(1e-3)},
    ):
        again = certify(**{"tolerance": 1e-3, **settings})
        assert again.lower == answer.lower and again.upper == answer.upper
    double = certify(rates=np.full(2, 2.0), tolerance=1e-3)
    assert double.lower == pytest.approx(answer.lower / 2, abs=1e-3)
    listed = jc.Spec.rows([[1, -1]], [0])
    assert jc.verify(f, W, BOX, listed).proved
    bare = jc.Spec([[1, -1]], [0], [0], 1)  # type: ignore[arg-type]
    assert jc.verify(f, W, BOX, bare).proved


def test_index_arrays_and_random_keys_in_params_are_left_alone():
    params = {"w": W, "order": np.array([1, 0]), "key": jax.random.key(0)}

    def permuted(p, x):
        return p["w"] @ x[p["order"]]

    spec = jc.Spec.classification(1, 2)
    # Of a linear network intervals are exact, and compile in no time.
    options = jc.CertifyOptions(oracle="ibp", attack=None)
    assert jc.verify(permuted, params, BOX, spec, options=options).proved
    assert not jc.verify(permuted, params, BOX, SPEC, options=options).proved
    answer = certify(params=params, network=permuted, options=options)
    assert answer.predicted == 1 and answer.lower == pytest.approx(0.25, abs=1e-3)


def test_an_empty_intermediate_is_no_obstacle():
    def network(w, x):
        return w @ x + jnp.sum(jnp.maximum(x[:0], 0)) + jnp.sum(jnp.tanh(x[:0]))

    for oracle in ("ibp", "crown", "complete"):
        options = jc.CertifyOptions(oracle=oracle)
        assert jc.verify(network, W, BOX, SPEC, options=options).proved


def test_certify_leaves_the_configuration_alone():
    certify()
    assert not jax.config.jax_enable_x64
    assert jnp.zeros(1).dtype == jnp.float32
