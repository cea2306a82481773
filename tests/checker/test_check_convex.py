"""Feature-convex classifiers: what is accepted, and that nothing false is."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from builder import Stored, replaced, set_to
from claims import checked, named, rejected

from jaxcert.checker.claim import Expected, Status

NORMS = ["l1", "l2", "linf"]
ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}


class Convex:
    """g = w relu(W relu(U z + a) + V z + b) + v z + c, with W and w not below 0."""

    def __init__(self, random: np.random.Generator, n: int, paired: bool) -> None:
        m, self.n, self.paired = n * (1 + paired), n, paired
        draw = random.normal
        self.mu = draw(size=n)
        self.arrays = {
            "U": draw(size=(4, m)), "a": draw(size=4), "W": abs(draw(size=(3, 4))),
            "V": draw(size=(3, m)), "b": draw(size=3), "w": abs(draw(size=(1, 3))),
            "v": draw(size=(1, m)), "c": draw(size=1),
        }  # fmt: skip

    def network(self) -> Stored:
        def affine(offset, size, *terms):
            made = [{"input": v, "kind": "dense", "weight": w} for v, w in terms]
            return {"op": "affine", "size": size, "terms": made, "offset": offset}

        nodes = [
            affine("a", 4, (0, "U")), {"op": "relu", "size": 4, "input": 1},
            affine("b", 3, (2, "W"), (0, "V")), {"op": "relu", "size": 3, "input": 3},
            affine("c", 1, (4, "w"), (0, "v")),
        ]  # fmt: skip
        shape = [self.n * (1 + self.paired)]
        head = {"format": "jaxcert network", "version": 1, "input_shape": shape}
        return Stored(head | {"nodes": nodes}, dict(self.arrays))

    def score(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns g of inputs (k, n), and what its slope comes to in every input."""
        p, z = self.arrays, x - self.mu
        z = np.concatenate([z, abs(z)], axis=1) if self.paired else z
        one = z @ p["U"].T + p["a"]
        two = np.maximum(one, 0) @ p["W"].T + z @ p["V"].T + p["b"]
        g = np.maximum(two, 0) @ p["w"].T + z @ p["v"].T + p["c"]
        back = (two > 0) * p["w"]
        slope = back @ p["V"] + p["v"] + ((back @ p["W"]) * (one > 0)) @ p["U"]
        slope = abs(slope).reshape(len(x), -1, self.n).sum(axis=1)
        return g[:, 0], slope

    def certificate(self, x, radius, shift: float) -> tuple[Stored, Stored]:
        network = self.network()
        head = named(
            network, version=9, claim="convex", shift=shift, norms=NORMS,
            features="shift_abs" if self.paired else "shift",
        )  # fmt: skip
        arrays = {"convex_x": x, "convex_radius": radius, "convex_mu": self.mu}
        return network, Stored(head, {k: np.array(v) for k, v in arrays.items()})

    def radii(self, x, shift: float) -> np.ndarray:
        """Returns the radii (k, norms) of the theorem; 0 where the score is not > 0."""
        score, slope = self.score(x)
        dual = [np.linalg.norm(slope, ord=q, axis=1) for q in (np.inf, 2, 1)]
        return np.maximum(score + shift, 0)[:, None] / np.stack(dual, axis=1)


def plain(paired: bool = False) -> tuple[Stored, Stored]:
    """Returns the radii of four inputs, of which one has none."""
    random = np.random.default_rng(3)
    made, x = Convex(random, 3, paired), random.normal(size=(4, 3))
    radius = made.radii(x, 4.0) * (1 - 1e-9)
    radius[2] = 0
    return made.certificate(x, radius, 4.0)


@pytest.mark.parametrize("paired", [False, True])
def test_the_claim_is_told(paired, tmp_path):
    network, made = plain(paired)
    for exact in (False, True):
        report = checked(network, made, tmp_path, exact=exact)
        assert report.accepted, report.reason
    assert (report.answers, report.told) == (4, 3)
    phi = "(x - mu, |x - mu|)" if paired else "x - mu"
    assert report.claim.startswith(
        f"3 of 4 inputs: the network's output of {phi}, plus 4, is > 0 for all inputs "
        "no farther than a radius, l1 "
    )


def test_nothing_told_is_vacuous(tmp_path):
    network, made = plain()
    made.arrays["convex_radius"] = np.zeros((4, 3))
    assert checked(network, made, tmp_path).status is Status.VACUOUS


def test_the_caller_insists(tmp_path):
    network, made = plain()
    for expected, why in (
        (Expected(network=network.sha256, arithmetic="real"), ""),
        (Expected(norm="l1"), "the caller expects ['norm'], the claim is of convex"),
        (Expected(network="0" * 64), "it speaks of another network"),
    ):
        report = checked(network, made, tmp_path, expected=expected)
        assert report.accepted == (not why) and report.reason.startswith(why)


def _scaled(row: int, norm: int):
    def alter(stored: Stored) -> None:
        stored.arrays["convex_radius"] = stored.arrays["convex_radius"].copy()
        stored.arrays["convex_radius"][row, norm] *= 1 + 2e-9

    return alter


MUTATIONS = {
    "an l1 radius a little larger": (_scaled(0, 0), "input 0: the l1 radius is too"),
    "an l2 radius a little larger": (_scaled(1, 1), "input 1: the l2 radius is too"),
    "a linf radius a little larger": (_scaled(3, 2), "input 3: the linf radius is too"),
    "a radius of an input that has none": (
        set_to("convex_radius", (2, 0), 50.0), "input 2: the l1 radius is too great"
    ),
    "a negative radius": (set_to("convex_radius", (0, 0), -1.0), "is negative"),
    "another input": (set_to("convex_x", (0, 1), -9.0), "input 0: the"),
    "another mean": (set_to("convex_mu", 0, 9.0), "radius is too great"),
    "a smaller shift": (lambda s: replaced(s, shift=3.99), "radius is too great"),
    "no shift": (lambda s: replaced(s, shift=None), "shift is 'None'"),
    "an infinite shift": (lambda s: replaced(s, shift=1e300), "shift is '1e+300'"),
    "norms in another order": (
        lambda s: replaced(s, norms=NORMS[::-1]), "radius is too great"
    ),
    "a norm twice": (lambda s: replaced(s, norms=["l1"] * 3), "a norm is named twice"),
    "an unknown norm": (lambda s: replaced(s, norms=["l1", "l2", "l3"]), "norms are"),
    "norms that are no list": (lambda s: replaced(s, norms="l1"), "norms are 'l1'"),
    "a norm too few": (
        lambda s: replaced(s, norms=NORMS[:2]), "'convex_radius' has shape"
    ),
    "features that are no pairs": (
        lambda s: replaced(s, features="shift_abs"), "the features are not pairs"
    ),
    "unknown features": (lambda s: replaced(s, features="pca"), "features are 'pca'"),
    "another claim": (lambda s: replaced(s, claim="sat"), "which has no claim 'sat'"),
    "another version": (lambda s: replaced(s, version=5), "no claim 'convex'"),
    "an array too many": (
        lambda s: s.arrays.update(more=np.ones(1)), "arrays ['more'] do not belong"
    ),
    "no mean": (lambda s: s.arrays.pop("convex_mu"), "no array 'convex_mu'"),
    "no radii": (lambda s: s.arrays.pop("convex_radius"), "no array 'convex_radius'"),
    "an infinite radius": (set_to("convex_radius", (0, 0), np.inf), "a NaN or an inf"),
    "an input of float32": (
        lambda s: s.arrays.update(convex_x=np.float32(s.arrays["convex_x"])), "type f4"
    ),
    "another network": (
        lambda s: s.head["network"].update(sha256="0" * 64), "it speaks of another"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_changed_is_rejected(name, tmp_path):
    alter, why = MUTATIONS[name]
    assert why in rejected(*plain(), alter, tmp_path)


def _weight(name: str, place, value: float):
    def alter(network: Stored) -> None:
        network.arrays[name] = network.arrays[name].copy()
        network.arrays[name][place] = value

    return alter


NETWORKS = {
    "a negative weight behind a ReLU": (
        _weight("W", (1, 2), -1e-30), "node 2 has a negative weight behind a ReLU, at"
    ),
    "a negative weight of the output": (_weight("w", (0, 0), -0.5), "node 4 has a neg"),
    "a smooth activation": (
        lambda s: (s.head.update(version=2), s.head["nodes"][1].update(op="tanh")),
        "node 1 is no ReLU",
    ),
    "a second output": (
        lambda s: (
            s.head["nodes"][4].update(size=2),
            s.arrays.update({k: np.vstack([s.arrays[k]] * 2) for k in "wv"}),
            s.arrays.update(c=np.zeros(2)),
        ),
        "the network has not one output",
    ),
    "a weight that is another": (_weight("U", (0, 0), 9.0), "radius is too great"),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_is_not_convex_is_rejected(name, tmp_path):
    alter, why = NETWORKS[name]
    network, made = plain()
    alter(network)
    made.head["network"] = named(network)["network"]
    report = checked(network, made, tmp_path)
    assert report.status is Status.REJECTED and why in report.reason


def on_the_sphere(random, n: int, norm: str, slope) -> np.ndarray:
    """Returns points of norm 1, those of the steepest descent among them."""
    if norm == "l1":
        return np.concatenate([np.eye(n), -np.eye(n)])
    if norm == "linf":
        corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * n)).reshape(n, -1).T
        return np.concatenate([corners, random.uniform(-1, 1, (200, n))])
    drawn = np.concatenate([random.normal(size=(400, n)), slope, -slope])
    return drawn / np.maximum(np.linalg.norm(drawn, axis=1), 1e-300)[:, None]


def fuzz(seeds, tmp_path, certificates: int) -> Counter:
    """Returns what was said of claims that a point refutes, and of others."""
    found: Counter = Counter()
    for seed in seeds:
        random = np.random.default_rng(seed)
        made = Convex(random, int(random.integers(1, 4)), seed % 2 == 1)
        for _ in range(certificates):
            x, shift = random.normal(size=(1, made.n)), float(random.normal(2))
            share = random.choice([0.5, 1 - 1e-12, 1.2, 2.0, 5.0])
            radius = made.radii(x, shift) * share
            if not radius.any():
                radius += 0.1
            false = False
            for k, norm in enumerate(NORMS):
                away = on_the_sphere(random, made.n, norm, made.score(x)[1])
                for part in (1.0, 0.5):
                    near = x + part * radius[0, k] * away
                    false |= bool((made.score(near)[0] + shift).min() < -1e-9)
            report = checked(*made.certificate(x, radius, shift), tmp_path)
            assert "array" not in report.reason and "damaged" not in report.reason
            assert not (false and report.holds), f"seed {seed}: {report.claim}"
            found[false, report.status] += 1
    return found


def test_no_radius_is_accepted_that_a_point_refutes(tmp_path):
    found = fuzz(range(20), tmp_path, certificates=10)
    assert found[True, Status.REJECTED] >= 16
    assert found[False, Status.ACCEPTED] >= 16


@pytest.mark.campaign
def test_no_radius_of_many_is_accepted_that_a_point_refutes(tmp_path):
    found = fuzz(range(20, 320), tmp_path, certificates=10)
    assert found[True, Status.REJECTED] >= 300
    assert found[False, Status.ACCEPTED] >= 800
