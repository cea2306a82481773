"""Changes of an image: what is accepted, and that nothing false is."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from builder import (
    Layers,
    Stored,
    logits,
    random_layers,
    replaced,
    set_to,
    stored_network,
)
from cases import sampled
from claims import checked, halved_boxes, named, rejected

from jaxcert.checker.arithmetic import Arithmetic
from jaxcert.checker.changes import NAMES, front
from jaxcert.checker.claim import Expected, Status
from jaxcert.checker.curves import clip_lines

SHAPE = (2, 2, 1)
# The sum of four pixels is above 2, or it is not.
PLAIN: Layers = [
    (np.eye(4, dtype=np.float32), np.zeros(4, np.float32)),
    (np.float32([[1] * 4, [-1] * 4]), np.float32([-2, 2])),
]
PIXELS = np.array([0.5, 1.0, 0.75, 0.25])


def change(layers: Layers, kind: str, x, label: int, lo, hi, depth: int, **more):
    """Returns the network and a certificate whose parameters are halved to a depth."""
    network = stored_network(layers)
    network.head["input_shape"] = list(SHAPE)
    head = named(
        network, version=8, claim="semantic", change=kind, label=label,
        required_margin=0.0,
    )  # fmt: skip
    arrays = {"change_x": x, "change_lo": lo, "change_hi": hi} | more
    neurons = sum(len(b) for _, b in layers[:-1])
    trees = halved_boxes(1, len(NAMES[kind]), depth, neurons)
    made = {k: np.array(v, np.float64) for k, v in arrays.items()}
    return network, Stored(head, made | trees)


def plain(**head):
    """Returns what is proved of the sum under brightness: b > -1/8 keeps it above 2."""
    more = {"change_witness": [-0.125]}
    network, made = change(PLAIN, "brightness", PIXELS, 0, [-0.12], [1], 4, **more)
    made.head |= head
    return network, made


def changed(kind: str, x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Returns images (m, 4) of parameters (m, k): the changes, written once more."""
    a = theta[:, :1]
    if kind == "brightness":
        return np.clip(x + a, 0, 1)
    if kind == "contrast":
        return np.clip((1 + a) * x, 0, 1)
    if kind == "both":
        return np.clip((1 + theta[:, 1:]) * x + a, 0, 1)
    if kind == "gamma":
        return x ** (1 + a)
    # Of a 2 x 2 image with its edge repeated: 3/4 of a row are its own, 1/4 the other.
    one = np.array([[3, 1], [1, 3]]) / 4
    return (1 - a) * x + a * (np.kron(one, one) @ x)


def test_the_claim_is_told(tmp_path):
    report = checked(*plain(), tmp_path)
    assert report.accepted, report.reason
    assert report.parameters == (("b", (-0.12, 1.0)),) and report.leaves == 16
    assert report.claim.startswith(
        "class 0 of 2 wins by a margin > 0 at x + b, cut to [0, 1], for x the stored "
        "image and all b in [-0.12, 1]; not at b = -0.125; real arithmetic; network "
    )
    network, made = plain()
    del made.arrays["change_witness"]
    assert "no counterexample is claimed" in checked(network, made, tmp_path).claim


@pytest.mark.parametrize("kind", NAMES)
def test_every_change_is_proved_in_both_arithmetics(kind, tmp_path):
    ends = {"blur": ([0], [1]), "both": ([-0.05] * 2, [0.1] * 2)}
    ends |= {"gamma": ([-0.5], [0.125]), "contrast": ([-0.04], [0.5])}
    lo, hi = ends.get(kind, ([-0.1], [0.25]))
    made = change(PLAIN, kind, PIXELS, 0, lo, hi, 4)
    for exact in (False, True):
        report = checked(*made, tmp_path, exact=exact)
        assert report.accepted, (exact, report.reason)


def test_nothing_that_changes_is_vacuous(tmp_path):
    made = change(PLAIN, "contrast", PIXELS, 0, [0], [0], 0)
    assert checked(*made, tmp_path).status is Status.VACUOUS
    report = checked(*plain(required_margin=-1.0), tmp_path)
    assert report.status is Status.REJECTED  # its counterexample has a larger margin
    network, slack = plain(required_margin=-1.0)
    del slack.arrays["change_witness"]
    assert checked(network, slack, tmp_path).status is Status.VACUOUS


@pytest.mark.parametrize(
    ("kind", "x", "lo", "hi", "moving"),
    [
        ("contrast", [0, 0, 0, 0], [-0.5], [0.5], [0, 0, 0, 0.5]),
        ("contrast", [1, 0, 1, 1], [0], [0.5], [1, 0, 1, 0.5]),
        ("brightness", [1, 1, 1, 1], [0], [0.5], [1, 1, 1, 0.5]),
        ("brightness", [0, 0, 0, 0], [-0.5], [0], [0, 0, 0, 0.5]),
        ("both", [0, 0, 0, 0], [-0.5, -0.5], [0, 0.5], [0, 0, 0, 0.5]),
        ("blur", [0.5, 0.5, 0.5, 0.5], [0], [1], [0.5, 0.5, 0.5, 0.25]),
        ("gamma", [0, 1, 1, 0], [-0.5], [0.5], [0, 1, 1, 0.5]),
    ],
)
def test_an_image_that_no_parameter_changes_is_vacuous(
    kind, x, lo, hi, moving, tmp_path
):
    constant: Layers = [
        (np.zeros((1, 4), np.float32), np.zeros(1, np.float32)),
        (np.zeros((2, 1), np.float32), np.float32([1, 0])),
    ]
    report = checked(*change(constant, kind, x, 0, lo, hi, 0), tmp_path)
    assert report.status is Status.VACUOUS
    assert report.reason == "no parameter changes the image"
    assert checked(*change(constant, kind, moving, 0, lo, hi, 0), tmp_path).accepted


def test_the_caller_insists(tmp_path):
    network, made = plain()
    for expected, why in (
        (Expected(network=network.sha256, margin=0.0, arithmetic="real"), ""),
        (Expected(margin=0.5), "required_margin is not at least 0.5"),
        (Expected(domain=(0.0, 1.0)), "the caller expects ['domain'], the claim is of"),
        (Expected(network="0" * 64), "it speaks of another network"),
    ):
        report = checked(network, made, tmp_path, expected=expected)
        assert report.accepted == (not why) and report.reason.startswith(why)


def _kind(name: str):
    return lambda s: replaced(s, change=name)


MUTATIONS = {
    "parameters that reach too far": (set_to("change_lo", 0, -0.13), "bound"),
    "parameters up to the counterexample": (set_to("change_lo", 0, -0.125), "bound"),
    "parameters without 0": (set_to("change_lo", 0, 0.1), "the parameters leave out 0"),
    "another image": (set_to("change_x", 1, 0.875), "bound"),
    "a pixel above 1": (set_to("change_x", 1, 1.5), "change_x is not in [0, 1]"),
    "a pixel below 0": (set_to("change_x", 3, -0.5), "change_x is not in [0, 1]"),
    "a counterexample that is none": (
        set_to("change_witness", 0, -0.124), "change_witness does not violate"
    ),
    "another class": (lambda s: replaced(s, label=1), "bound"),
    "a class that is not there": (lambda s: replaced(s, label=2), "label is '2'"),
    "a larger margin": (lambda s: replaced(s, required_margin=0.1), "bound"),
    "an infinite margin": (
        lambda s: replaced(s, required_margin=1e300), "required_margin is '1e+300'"
    ),
    "another change": (_kind("contrast"), "change_witness does not violate"),
    "a change of two parameters": (_kind("both"), "'change_lo' has shape"),
    "an unknown change": (_kind("rotation"), "the change is 'rotation'"),
    "a blur backwards": (_kind("blur"), "a is not within [0, 1]"),
    "a power below 0": (
        lambda s: (_kind("gamma")(s), set_to("change_lo", 0, -1.5)(s)),
        "change_witness does not violate",
    ),
    "another claim": (lambda s: replaced(s, claim="dual"), "has no claim 'dual'"),
    "another version": (lambda s: replaced(s, version=1), "has no claim 'semantic'"),
    "a tree that is cut off": (
        lambda s: s.arrays.update(
            nodes=s.arrays["nodes"][:-1], tree_size=s.arrays["tree_size"] - np.int32(1)
        ),
        "a tree is cut off",
    ),
    "a tree of another box": (set_to("tree_box", 0, 1), "a tree is of no clause"),
    "a tree of one clause": (
        set_to("tree_clause", 0, 0), "leaf has no multipliers"
    ),
    "a node that is none": (set_to("nodes", 0, 9), "a tree splits what does not exist"),
    "a box of its own": (
        lambda s: s.arrays.update(box_lo=np.zeros((1, 1))), "do not belong to"
    ),
    "no tree": (lambda s: s.arrays.pop("nodes"), "there is no array 'nodes'"),
    "no image": (lambda s: s.arrays.pop("change_x"), "is "),
    "an infinite pixel": (set_to("change_x", 0, np.inf), "has a NaN or an infinity"),
    "an image in float32": (
        lambda s: s.arrays.update(change_x=np.float32(PIXELS)), "has type f4"
    ),
    "another network": (
        lambda s: s.head["network"].update(sha256="0" * 64), "it speaks of another"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_changed_is_rejected(name, tmp_path):
    alter, why = MUTATIONS[name]
    assert why in rejected(*plain(), alter, tmp_path)


def test_a_power_below_0_is_rejected(tmp_path):
    report = checked(*change(PLAIN, "gamma", PIXELS, 0, [-1], [0], 3), tmp_path)
    assert report.reason.startswith("1 + g is not > 0")


def test_a_blur_that_no_float64_holds_is_rejected(tmp_path):
    x = PIXELS + np.array([1e-17, 0, 0, 2.0**-54])
    report = checked(*change(PLAIN, "blur", x, 0, [0], [1], 2), tmp_path)
    assert report.reason.startswith("a blurred pixel is no float64 number")


def test_a_network_must_not_reach_into_what_is_in_front_of_it(tmp_path):
    network, made = plain()
    network.head["nodes"][0]["terms"][0]["input"] = -1
    made.head["network"] = named(network)["network"]
    assert "input is '-1'" in checked(network, made, tmp_path).reason


def test_words_that_belong_to_no_node_change_no_input(tmp_path):
    negative: Layers = [(-np.eye(4, dtype=np.float32), np.zeros(4, np.float32))]
    network, made = change(
        [*negative, (np.float32([[1] * 4, [0] * 4]), np.float32([-1, 0]))],
        "brightness", PIXELS, 0, [-0.1], [0.1], 3,
    )  # fmt: skip
    network.head["nodes"][1]["terms"] = []  # of the ReLU, whose input is -x <= 0
    made.head["network"] = named(network)["network"]
    assert "bound -1 is not > 0" in checked(network, made, tmp_path).reason


@pytest.mark.parametrize("seed", range(4))
def test_lines_of_clip_hold_at_all_points(seed):
    random = np.random.default_rng(seed)
    ends = np.sort(random.normal(0.5, [[2.0], [0.3]][seed % 2], (2, 40)), axis=0)
    ends[:, :6] = [[0, 1, 0, 0.5, -1, 1], [1, 1, 0, 0.5, 2, 3]]
    for exact, count in ((False, 200), (True, 3)):
        b = Arithmetic(exact)
        lines = clip_lines(b, b.number(ends[0]), b.number(ends[1]))
        for i in range(ends.shape[1]):
            for t in [0, 1, *random.uniform(size=count)]:
                z = Fraction(ends[0, i]) + Fraction(t) * (
                    Fraction(ends[1, i]) - Fraction(ends[0, i])
                )
                g = min(max(z, Fraction(0)), Fraction(1))
                low, high = (
                    Fraction(slope[i]) * z + Fraction(end[i])
                    for slope, end in (
                        (lines.lower, lines.low), (lines.upper, lines.high)
                    )
                )  # fmt: skip
                assert low <= g <= high


def test_gamma_holds_every_power():
    random = np.random.default_rng(0)
    x = np.r_[random.uniform(size=30), 1.0, 1e-12, 0.0]
    lo, hi = np.array([-0.75]), np.array([3.0])
    made, least, most = front("gamma", x, (33, 1, 1), lo, hi)
    logs, error = made.arrays[".l"], most[1:]
    assert made.inputs == 33 and np.array_equal(least[1:], -error)
    assert error.max() < 1e-11
    with mpmath.workdps(50):
        for g in (-0.75, 0.0, 1.0, 3.0):
            for pixel, log, most in zip(x[:-1], logs, error, strict=True):
                power = mpmath.mpf(pixel) ** (1 + mpmath.mpf(g))
                stored = mpmath.exp((1 + mpmath.mpf(g)) * mpmath.mpf(log))
                assert abs(power - stored) <= most


def fuzz(seeds, tmp_path, certificates: int) -> Counter:
    """Returns what was said of claims that an image refutes, and of others."""
    found: Counter = Counter()
    for seed in seeds:
        random = np.random.default_rng(seed)
        kind = list(NAMES)[seed % 5]
        layers = random_layers(random, [(4, 5, 2), (4, 4, 3, 3)][seed % 2])
        x = (
            random.integers(0, 17, 4) / 16
            if kind != "gamma"
            else random.uniform(size=4)
        )
        y = logits(layers, x)
        label, k = int(np.argmax(y)), len(NAMES[kind])
        for _ in range(certificates):
            reach = random.choice([0.02, 0.2, 0.9]) * random.uniform(size=(2, k))
            lo, hi = -reach[0], reach[1]
            if kind == "blur":
                lo = np.zeros(1)
            own = label if random.uniform() < 0.9 else int(random.integers(len(y)))
            theta = random.uniform(lo, hi, (600, k))
            theta[: 2**k] = np.where(
                (np.arange(2**k)[:, None] >> np.arange(k)) & 1, hi, lo
            )
            ahead = logits(layers, changed(kind, x, theta))
            margin = ahead[:, own] - np.delete(ahead, own, axis=1).max(axis=1)
            false = bool(margin.min() < -1e-9)
            if margin.min() > 1e-3 and random.uniform() < 0.5:
                # Of a margin that the samples go below by a little.
                stated, false = margin.min() + 1e-9, True
            else:
                stated = 0.0
            depth = int(random.integers(7))
            network, made = change(layers, kind, x, own, lo, hi, depth)
            made.head["required_margin"] = float(stated)
            report = checked(network, made, tmp_path)
            assert "array" not in report.reason and "damaged" not in report.reason
            assert not (false and report.holds), f"seed {seed}: {report.claim}"
            found[false, report.status] += 1
    return found


@pytest.mark.parametrize("part", sampled(range(30), 2))
def test_no_range_is_accepted_in_which_another_class_wins(part, tmp_path):
    found = fuzz(range(10 * part, 10 * part + 10), tmp_path, certificates=8)
    assert found[True, Status.REJECTED] >= 8
    assert found[False, Status.ACCEPTED] >= 8
