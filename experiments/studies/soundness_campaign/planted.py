"""Networks with a known counterexample that is hard to find: it must never be proved.

A spike is a hat, relu(z - a) - 2 relu(z - b) + relu(z - c) of z in a random direction,
added to the losing logit of a network that is robust without it. Trained networks are
made in the manner of SoundnessBench (Zhou et al. 2024): they are robust to what random
points and gradients find, but not at one point.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcert as jc
from jaxcert.certifier import float64
from jaxcert.learning.inputs import load_inputs
from jaxcert.learning.models import load_network
from jaxcert.verdict import Status
from studies.soundness_campaign.exact import Asker
from studies.soundness_campaign.networks import Architecture, Params
from studies.soundness_campaign.record import Tally, exact_margin, pick

SPIKED = {
    "narrow": Architecture((2,), ("dense 8", "relu", "dense 2")),
    "deep": Architecture((3,), ("dense 8", "relu", "dense 6", "relu", "dense 2")),
    "wide": Architecture((12,), ("dense 8", "relu", "dense 2")),
    "smooth": Architecture((2,), ("dense 8", "relu", "dense 6", "tanh", "dense 2")),
}
TRAINED = Architecture((4,), ("dense 24", "relu", "dense 24", "relu", "dense 2"))
_ROWS, _OFFSET = np.array([[1.0, -1.0]]), np.zeros(1)
_DEAD = 22


def spiked(
    rng: np.random.Generator, architecture: Architecture, lo: np.ndarray, hi: np.ndarray
) -> tuple[Params, np.ndarray]:
    """Returns a network that is robust but for a spike, and the spike's point."""
    size = architecture.shape[0]
    point = rng.uniform(lo, hi)
    if rng.random() < 0.2:
        point = np.where(rng.random(size) < 0.5, lo, hi)  # a corner
    width = 10.0 ** rng.uniform(-6, -2)
    direction = rng.normal(size=size)
    direction /= np.abs(direction).sum()
    at = direction @ point
    w = np.concatenate([np.tile(direction, (3, 1)), rng.normal(size=(5, size))])
    b = np.append(-(at + width * np.array([-1.0, 0, 1])), rng.normal(size=5))
    hat = np.array([1.0, -2.0, 1.0]) / width
    reach = np.maximum(np.maximum(w[3:] * lo, w[3:] * hi).sum(axis=1) + b[3:], 0)
    layers: list[tuple[np.ndarray, ...]] = [(w, b)]
    if len(architecture.layers) > 3:
        v, c = np.zeros((6, 8)), np.zeros(6)
        v[0, :3], v[1:, 3:] = hat, rng.normal(size=(5, 5)) / 2
        c[1:] = rng.normal(size=5)
        reach = np.abs(v[1:, 3:]) @ reach + np.abs(c[1:])
        layers.append((v, c))
        hat = np.ones(1)
    readout = rng.normal(size=len(reach))
    floor = np.abs(readout) @ reach + 0.5
    # The peak outbids all that the rest can reach; tanh(1) > 3/4.
    u = np.zeros((2, len(hat) + len(reach)))
    u[0, len(hat) :], u[1, : len(hat)] = readout, hat * (3 * floor)
    layers.append((u, np.array([floor, 0.0])))
    params = iter(layers)
    named = tuple(
        next(params) if name.startswith("dense") else () for name in architecture.layers
    )
    return named, point


def spike_group(
    rng: np.random.Generator, architecture: Architecture, count: int
) -> Tally:
    """Returns verdicts on networks with a spike somewhere in the box."""
    tally, asker = Tally(), Asker(architecture)
    ways = (
        ["ibp", "crown", "inputs"] if architecture.shape[0] <= 8 else ["ibp", "crown"]
    )
    ways += ["signs"] if architecture.piecewise else []
    while tally.networks < count:
        size = architecture.shape
        lo = rng.uniform(0, 0.6, size)
        hi = lo + rng.uniform(0.02, 0.4, size)
        params, point = spiked(rng, architecture, lo, hi)
        if exact_margin(architecture, params, point, _ROWS, _OFFSET) > 0:
            tally.note("without a spike")  # float64 could not hold it
            continue
        tally.networks += 1
        _ask_all(tally, asker, params, (lo, hi), point, ways)
    return tally


def _ask_all(
    tally: Tally, asker: Asker, params: Params, box: Any, point: np.ndarray,
    ways: list[str], seconds: float = 0.3,
) -> None:  # fmt: skip
    for way in ways:
        status = asker.ask(
            tally, params, box, (_ROWS, _OFFSET), way, None, point, seconds
        )
        name = "complete" if way in ("signs", "inputs") else f"{way} and attack"
        tally.note(f"{name} {Status(int(status)).name.lower()}")


def trained_group(rng: np.random.Generator, count: int) -> Tally:
    """Returns verdicts on networks that were trained to hide a counterexample."""
    tally, asker = Tally(), Asker(TRAINED)
    points = rng.uniform(0.1, 0.9, (count, *TRAINED.shape))
    params = train(rng, points)
    unit = np.zeros(TRAINED.shape), np.ones(TRAINED.shape)
    for m in range(count):
        own = pick(params, m)
        if exact_margin(TRAINED, own, points[m], _ROWS, _OFFSET) > 0:
            tally.note("robust at its point")
            continue
        tally.networks += 1
        ways = ["ibp", "crown", "inputs", "signs"]
        _ask_all(tally, asker, own, unit, points[m], ways, seconds=2.0)
    return tally


def train(rng: np.random.Generator, points: np.ndarray, steps: int = 600) -> Params:
    """Returns networks, stacked, each of which is to violate the spec at its point.

    Hinge losses: margin >= 1 at random points and where gradient steps lead from them,
    but not within 0.1 of the hidden point; margin <= -1 at that one.
    """
    shapes = TRAINED.parameter_shapes()
    start = tuple(
        tuple(
            rng.normal(size=(len(points), *s)) * np.sqrt(2 / s[-1]) * (len(s) > 1)
            for s in layer
        )
        for layer in shapes
    )
    f = TRAINED.function()
    optimiser = optax.adam(optax.cosine_decay_schedule(1e-2, steps))

    def margin(params: Any, z: Any) -> Any:
        y = f(params, z)
        return y[0] - y[1]

    def loss(params: Any, point: Any, z: Any) -> Any:
        def descend(z: Any) -> Any:
            gradient = jax.grad(margin, argnums=1)(params, z)
            return jnp.clip(z - 0.3 * jnp.sign(gradient), 0, 1)

        everywhere = jnp.concatenate([z, jax.lax.stop_gradient(jax.vmap(descend)(z))])
        margins = jax.vmap(margin, (None, 0))(params, everywhere)
        far = jnp.abs(everywhere - point).max(axis=1) > 0.1
        robust = jnp.mean(jnp.where(far, jnp.maximum(1 - margins, 0), 0))
        return 5 * robust + jnp.maximum(1 + margin(params, point), 0)

    def one(params: Any, point: Any, batches: Any) -> Any:
        def step(carry: Any, z: Any) -> Any:
            params, state = carry
            gradient = jax.grad(loss)(params, point, z)
            updates, state = optimiser.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimiser.init(params)), batches)[0][0]

    batches = rng.random((steps, 64, *TRAINED.shape), np.float32)
    single = jax.tree.map(lambda v: np.float32(v), (start, points))
    result = jax.jit(jax.vmap(one, (0, 0, None)))(*single, batches)
    return jax.tree.map(lambda v: np.asarray(v, np.float64), result)


# ---------------------------------------------------------------- the published network


def published_group(folder: Path, inputs: int, seconds: float = 4.0) -> Tally:
    """Returns verdicts on the published Fashion network, around its neuron 22.

    All |w| of that neuron are at most 1.7e-7: a solver once took it for dead and
    answered UNSAT falsely. Its weights are left, set to zero, rescaled without changing
    the function, and made to count.
    """
    network = load_network(folder / "networks" / "fashion_mnist_nn-64.onnx")
    stored = [np.asarray(network.params[f"w{i}"], np.float64) for i in range(4)]
    size = int(np.prod(network.input_shape))
    found = load_inputs(folder / "inputs" / "fashion_mnist", network.input_shape)
    hidden, classes = stored[0].shape[1], stored[2].shape[1]
    architecture = Architecture(
        (size,), (f"dense {hidden}", "relu", f"dense {classes}")
    )
    tally, asker = Tally(), Asker(architecture)
    attack = jax.jit(jc.attack(asker.f, jc.AttackOptions(restarts=4, steps=16)))
    for variant in ("stored", "zero", "rescaled", "amplified"):
        w, b, v, c = (np.array(a) for a in stored)
        if variant == "zero":
            w[:, _DEAD], b[_DEAD] = 0, 0
        if variant == "rescaled":
            w[:, _DEAD] *= 2.0**30
            b[_DEAD] *= 2.0**30
            v[_DEAD] /= 2.0**30
        if variant == "amplified":
            v[_DEAD] *= 1e7
        params = ((w.T, b), (), (v.T, c))
        tally.networks += 1
        step = max(len(found.x) // inputs, 1)
        for x in found.x[::step][:inputs].reshape(-1, size):
            for rows, box, witness in _refuted_boxes(asker, attack, params, x):
                if exact_margin(architecture, params, witness, rows,
                                np.zeros(len(rows))) > 0:  # fmt: skip
                    tally.note("no counterexample after all")
                    continue
                spec = rows, np.zeros(len(rows))
                for way in ("crown", "signs"):
                    asker.ask(tally, params, box, spec, way, None, witness, seconds)
    return tally


def _refuted_boxes(asker: Asker, attack: Any, params: Params, x: np.ndarray) -> Any:
    """Yields spec rows, boxes and a point of each box that violates the spec."""
    with float64():
        y = np.asarray(asker.f(params, jnp.asarray(x)))
        label, classes = int(y.argmax()), len(y)
        rows = np.eye(classes)[label] - np.delete(np.eye(classes), label, axis=0)
        spec = jc.Spec.rows(jnp.asarray(rows), jnp.zeros(len(rows)))
        for radius in (0.01, 0.02, 0.05, 0.1, 0.2):
            lo, hi = np.maximum(x - radius, 0), np.minimum(x + radius, 1)
            box = jc.Box(jnp.asarray(lo), jnp.asarray(hi))
            verdict = jax.device_get(attack(params, box, spec))
            if verdict.refuted:
                break
        else:
            return
    z = verdict.witness
    yield rows, (lo, hi), z
    yield rows, (np.minimum(x, z), np.maximum(x, z)), z
    yield rows, (np.maximum(z - 1e-6, 0), np.minimum(z + 1e-6, 1)), z
