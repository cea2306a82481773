"""Certificates of smooth networks: lines that the checker finds itself prove them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from cases import exact32, sampled

import jaxcert as jc
from jaxcert.checker.check import check_certificate
from jaxcert.learning.data import load_dataset

ACTIVATIONS = {
    "tanh": (jnp.tanh, mpmath.tanh),
    "sigmoid": (jax.nn.sigmoid, lambda z: 1 / (1 + mpmath.exp(-z))),
}
BOUNDS = jc.CertifyOptions(oracle="crown", batch_size=8)


def network(activation):
    def f(params, x):
        x = x.reshape(-1)
        for w, b in params[:-1]:
            x = activation(w @ x + b)
        w, b = params[-1]
        return w @ x + b

    return f


def layers(random, sizes):
    return [
        (
            exact32(random.normal(size=(m, n)) / np.sqrt(n)),
            exact32(random.normal(size=m) / 4),
        )
        for n, m in zip(sizes, sizes[1:], strict=False)
    ]


def margin(params, g, label: int, x) -> mpmath.mpf:
    """Returns the margin at a point, to 200 bits."""
    with mpmath.workprec(200):
        z = mpmath.matrix(np.asarray(x, float).reshape(-1).tolist())
        for depth, (w, b) in enumerate(params):
            if depth:
                z = z.apply(g)
            w, b = (np.asarray(v, float).tolist() for v in (w, b))
            z = mpmath.matrix(w) * z + mpmath.matrix(b)
        return z[label] - max(v for j, v in enumerate(z) if j != label)


def certified(name: str, params, x, folder) -> list:
    """Certifies and writes; checks what is stated at points of the boxes."""
    f, g = network(ACTIVATIONS[name][0]), ACTIVATIONS[name][1]
    answer = jc.certify(f, params, x, domain=(0, 1), record=True, options=BOUNDS)
    written = jc.write_certificates(folder, answer)
    random = np.random.default_rng(0)
    for row, found in enumerate(written):
        assert found is not None and found.path is not None, found
        assert check_certificate(found.path).accepted
        # No more than a rounding of the radius is given up for it.
        assert found.claim.lower >= answer.lower[row] * (1 - 2.0**-20) > 0
        with np.load(found.path) as file:
            ends = np.stack([file["lo"], file["hi"]])
            witness = file["witness"] if "witness" in file else None
        label = found.claim.label
        for _ in range(4):
            corner = np.take_along_axis(
                ends, random.integers(0, 2, (1, ends.shape[1])), axis=0
            )
            assert margin(params, g, label, corner) > 0
        if witness is not None:
            assert margin(params, g, label, witness) <= 0
    return written


@pytest.mark.parametrize("name", sampled(ACTIVATIONS))
def test_certificates_of_small_networks_are_accepted(name, tmp_path):
    random = np.random.default_rng(1)
    params = layers(random, (5, 8, 6, 3))
    x = random.uniform(0.2, 0.8, (3, 5)).astype(np.float32)
    written = certified(name, params, x, tmp_path)
    report = check_certificate(written[0].path, exact=True)
    assert report.accepted, report.reason


@pytest.mark.campaign
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_certificates_of_trained_networks_are_accepted(name, tmp_path):
    f, random = network(ACTIVATIONS[name][0]), np.random.default_rng(0)
    data, test = (load_dataset("digits", split) for split in ("train", "test"))
    params = jax.tree.map(
        lambda v: jnp.asarray(v, jnp.float32), layers(random, (64, 32, 32, 10))
    )
    optimiser = optax.adam(3e-3)
    state = optimiser.init(params)

    def loss(params, images, labels):
        y = jax.vmap(f, (None, 0))(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()

    @jax.jit
    def step(params, state, images, labels):
        change, state = optimiser.update(jax.grad(loss)(params, images, labels), state)
        return optax.apply_updates(params, change), state

    for _ in range(800):
        rows = random.integers(0, len(data.labels), 128)
        params, state = step(params, state, data.images[rows], data.labels[rows])
    written = certified(name, params, np.asarray(test.images[:20]), tmp_path)
    assert len(written) == 20
