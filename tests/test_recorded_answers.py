"""What goes on from an answer: growth, certificates, dual boxes; and its limits."""

from __future__ import annotations

import dataclasses
import threading
import time

import exact
import jax
import numpy as np
import pytest
from cases import random_network
from cases import relu_network as f

import jaxcert as jc
import jaxcert.certifier
from jaxcert.branch.inputs import InputSplitOptions
from jaxcert.branch.signs import BranchOptions
from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Status
from jaxcert.search.growth import OPEN
from jaxcert.search.reach import ReachOptions

SIZES, COUNT, DELTA = (4, 8, 3), 10, 1e-2
PARAMS = random_network(SIZES, 0)
WEIGHTS = [(w.T, b) for w, b in PARAMS]
X = np.random.default_rng(100).uniform(0.1, 0.9, (COUNT, SIZES[0]))
SIGNS = BranchOptions(block=32, narrow=0)
OPTIONS = jc.CertifyOptions(oracle="complete", batch_size=8, branch=SIGNS)
DUAL = jc.DualOptions(
    tolerance=0.05, batch=8, branch=SIGNS,
    reach=ReachOptions(prototypes=8, best=4, steps=12, restarts=3, stretches=40),
)  # fmt: skip
UNIT = jc.Box(np.zeros(4), np.ones(4))
SHORT = 1e-9


class Told:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.seen.append((done, total))


def certify(x=X, **more) -> jc.Certification:
    return jc.certify(f, PARAMS, x, options=OPTIONS, tolerance=1e-3, **more)


@dataclasses.dataclass(frozen=True)
class Made:
    answer: jc.Certification
    grown: jc.Growth
    told: tuple[Told, Told]

    def rows(self) -> np.ndarray:
        return np.flatnonzero(self.answer.outcome == jc.Outcome.CERTIFIED)


@pytest.fixture(scope="module")
def made() -> Made:
    told = Told(), Told()
    answer = certify(record=True, progress=told[0])
    grown = jc.grow(answer, jc.GrowthOptions(delta=DELTA), progress=told[1])
    made = Made(answer, grown, told)
    assert len(made.rows()) >= 7
    return made


def exactly_sound(lo, hi, label: int) -> bool:
    eye = np.eye(SIZES[-1])
    return all(
        exact.exact_min_margin(WEIGHTS, lo, hi, eye[label] - eye[j], 0.0).value > -2e-6
        for j in range(SIZES[-1])
        if j != label
    )


def test_a_recorded_answer_is_that_answer(made):
    plain = certify()
    assert plain.recorded is None and made.answer.recorded.shape == (COUNT,)
    assert np.array_equal(plain.outcome, made.answer.outcome)
    np.testing.assert_allclose(plain.lower, made.answer.lower, atol=1.1e-3)
    for one, x in zip(made.answer.recorded, X, strict=True):
        assert np.array_equal(one.x, x)
    proved = [one.proof is not None for one in made.answer.recorded]
    assert sum(proved) >= len(made.rows()) // 2


def test_progress_counts_inputs(made):
    certified, grown = (told.seen for told in made.told)
    assert certified == [(8, COUNT), (COUNT, COUNT)]
    assert len(grown) > 2 and grown[-1] == (COUNT, COUNT)
    assert all(0 <= done <= total == COUNT for done, total in grown)


def test_certificates_of_an_answer_are_accepted_and_forged_ones_rejected(
    made, tmp_path
):
    told = Told()
    written = jc.write_certificates(tmp_path, made.answer, progress=told)
    assert [row for row, one in enumerate(written) if one] == made.rows().tolist()
    assert told.seen == [(row + 1, COUNT) for row in range(COUNT)]
    for row in made.rows():
        one = written[row]
        assert one.path == tmp_path / f"input-{row}.npz"
        report = check_certificate(one.path)
        assert report.accepted, report.reason
        lower = made.answer.lower[row]
        assert lower * (1 - 1e-6) <= report.apothem_lower <= lower
        assert report.label == made.answer.label[row]
    with np.load(one.path) as stored:
        arrays = dict(stored)
    for change in (
        {"hi": np.minimum(arrays["hi"] + 0.05, 1)},
        {"tree_clause": arrays["tree_clause"] * 0},
        {"x": arrays["x"] + 1e-3},
    ):
        forged = tmp_path / "forged.npz"
        np.savez(forged, **arrays | change)
        assert check_certificate(forged).status is Status.REJECTED, list(change)


def test_parts_of_an_answer_and_answers_of_bounds_alone_can_be_written(made, tmp_path):
    row = int(made.rows()[-1])
    one = jax.tree.map(lambda v: v[row], made.answer)
    (written,) = jc.write_certificates(tmp_path, one, names=["a/b"])
    assert check_certificate(written.path).accepted
    rows = made.rows()[-2:]
    part = jax.tree.map(lambda v: v[rows], made.answer)
    grown = jc.grow(part, jc.GrowthOptions(delta=DELTA)).box.lo
    assert np.array_equal(grown, made.grown.box.lo[rows])
    by_crown = jc.certify(f, PARAMS, X[row], record=True)
    assert by_crown.recorded.proof is None
    (written,) = jc.write_certificates(tmp_path / "crown", by_crown)
    assert check_certificate(written.path).accepted


def test_grown_boxes_hold_the_cube_and_are_certified(made, tmp_path):
    box, cube, rows = made.grown.box, made.answer.box, made.rows()
    assert (box.lo <= cube.lo)[rows].all() and (cube.hi <= box.hi)[rows].all()
    assert ((box.hi - box.lo) > (cube.hi - cube.lo) + DELTA)[rows].any()
    others = np.setdiff1d(np.arange(COUNT), rows)
    assert (box.lo == X)[others].all() and (box.hi == X)[others].all()
    written = jc.write_certificates(tmp_path, made.answer, made.grown)
    for row in rows:
        report = check_certificate(written[row].path)
        assert report.accepted, report.reason
        assert report.faces.witnessed == (made.grown.blocked[row] >= 0).sum()
        assert report.faces.delta == DELTA
        assert exactly_sound(box.lo[row], box.hi[row], made.answer.label[row])


@pytest.mark.campaign
def test_dual_boxes_hold_every_sound_box(made):
    told = Told()
    found = jc.dual_boxes(f, PARAMS, UNIT, points=X, options=DUAL, progress=told)
    assert [box.label for box in found] == [0, 1, 2]
    assert told.seen == [(1, 3), (2, 3), (3, 3)]
    for row in made.rows():
        box = found[made.answer.label[row]]
        for sound in (made.answer.box, made.grown.box):
            assert (box.outer.lo <= sound.lo[row]).all()
            assert (sound.hi[row] <= box.outer.hi).all()
    points = np.random.default_rng(0).uniform(0, 1, (4000, 4))
    classes = np.argmax(exact.evaluate(WEIGHTS, points), axis=1)
    for box in found:
        own = points[classes == box.label]
        assert not box.empty and len(own)
        assert ((box.outer.lo <= own) & (own <= box.outer.hi)).all()
        outputs = exact.evaluate(WEIGHTS, box.witness)
        assert (np.argmax(outputs, axis=1) == box.label).all()
    (again,) = jc.dual_boxes(f, PARAMS, UNIT, [2], points=X, options=DUAL)
    assert again.label == 2


@pytest.mark.campaign
def test_dual_boxes_of_two_features_hold_the_class():
    """y = (|x_0| + |x_1|, 1): class 1 is the diamond, class 0 what is around it."""
    signs = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    params = [(signs, np.zeros(4)), (np.repeat([[1.0], [0]], 4, 1), np.array([0.0, 1]))]
    domain, told = jc.Box(np.full(2, -2.0), np.full(2, 2.0)), Told()
    small = BranchOptions(inputs=InputSplitOptions(block=64, capacity=1 << 13))
    options = jc.DualOptions(tolerance=0.05, branch=small, reach=DUAL.reach)
    around, diamond = jc.dual_boxes(f, params, domain, options=options, progress=told)
    assert (around.label, diamond.label) == (0, 1) and told.seen == [(1, 2), (2, 2)]
    assert around.on_domain.all() and not diamond.on_domain.any()
    for face, sign in ((diamond.outer.lo, -1), (diamond.outer.hi, 1)):
        assert ((sign * face >= 1) & (sign * face <= 1.05)).all()
    assert (np.abs(diamond.witness).sum(axis=1) < 1).all()
    (again,) = jc.dual_boxes(f, params, domain, [1], options=options)
    assert again.label == 1


def test_without_time_nothing_is_claimed(made, tmp_path):
    answer = certify(record=True, time_limit=SHORT)
    assert (answer.outcome != jc.Outcome.CERTIFIED).all()
    assert np.isnan(answer.box.lo).all() and (answer.lower == 0).all()
    assert jc.write_certificates(tmp_path, answer) == [None] * COUNT
    grown = jc.grow(answer, time_limit=SHORT)
    assert np.array_equal(grown.box.lo, X) and np.array_equal(grown.box.hi, X)
    grown = jc.grow(made.answer, time_limit=SHORT)
    rows = made.rows()
    assert np.array_equal(grown.box.lo[rows], made.answer.box.lo[rows])
    assert np.array_equal(grown.box.hi[rows], made.answer.box.hi[rows])
    assert (grown.blocked < 0).all() and (grown.blocked == OPEN).any()
    written = jc.write_certificates(tmp_path, made.answer, time_limit=SHORT)
    assert written == [None] * COUNT and not list(tmp_path.glob("input-*"))
    for box in jc.dual_boxes(f, PARAMS, UNIT, options=DUAL, time_limit=SHORT):
        assert np.array_equal(box.outer.lo, UNIT.lo) and not box.empty
        assert np.array_equal(box.outer.hi, UNIT.hi) and box.open.all()
        assert not box.on_domain.any() and np.isnan(box.witness).all()


def test_boxes_that_did_not_grow_in_time_are_certified_as_they_are(made, tmp_path):
    one = jax.tree.map(lambda v: v[made.rows()[0]], made.answer)
    grown = jc.grow(one, time_limit=SHORT)
    (written,) = jc.write_certificates(tmp_path, one, grown)
    report = check_certificate(written.path)
    assert report.accepted and report.faces.witnessed == 0


def test_growth_that_is_late_is_left_behind(made, monkeypatch):
    go_on, begin = threading.Event(), time.monotonic()
    monkeypatch.setattr(jaxcert.certifier, "grow_boxes", lambda *_: go_on.wait(600))
    grown = jc.grow(made.answer, time_limit=0.1)
    go_on.set()
    assert time.monotonic() - begin < 60
    rows = made.rows()
    assert np.array_equal(grown.box.lo[rows], made.answer.box.lo[rows])


def smooth(w, x):
    return w @ jax.numpy.tanh(x)


# Of a smooth network it is only refused what comes after: any proof does.
BY_INTERVALS = jc.CertifyOptions(oracle="ibp", attack=None)


def two_answers() -> jc.Certification:
    one = jc.certify(f, PARAMS, X[:1], record=True)
    other = jc.certify(f, PARAMS, X[1:2], record=True)
    return jax.tree.map(lambda *v: np.concatenate(v), one, other)


MISTAKES = {
    "not recorded": (
        lambda _: jc.grow(jc.certify(f, PARAMS, X[:1])),
        r"does not know its question: ask with jc.certify\(..., record=True\)",
    ),
    "no answer": (
        lambda _: jc.grow(X),
        "answer must be what jc.certify returns, got ndarray",
    ),
    "two answers": (lambda _: jc.grow(two_answers()), "is of 2 calls of jc.certify"),
    "growth by name": (
        lambda made: jc.grow(made.answer, "volume"),
        r"must be GrowthOptions, got str: pass jc.GrowthOptions\(objective='volume'\)",
    ),
    "smooth": (
        lambda _: jc.grow(
            jc.certify(smooth, np.eye(2), X[0, :2], record=True, options=BY_INTERVALS)
        ),
        "this network has other activations",
    ),
    "names": (
        lambda made: jc.write_certificates("unused", made.answer, names=["a"]),
        "names must be 10 texts, one per input",
    ),
    "equal names": (
        lambda made: jc.write_certificates("unused", made.answer, names=["a"] * 10),
        "10 inputs are called 'a': name each differently",
    ),
    "other boxes": (
        lambda made: jc.write_certificates("unused", made.answer, made.grown.rows(2)),
        "grown has 2 boxes, the answer 10 inputs",
    ),
    "arithmetic": (
        lambda made: jc.write_certificates("unused", made.answer, arithmetic="exact"),
        "arithmetic is 'exact'; choose real or float32",
    ),
    "domain": (
        lambda _: jc.dual_boxes(f, PARAMS, (0, 1)),
        r"domain must be a Box, got tuple: pass jc.Box\(lower, upper\)",
    ),
    "empty domain": (
        lambda _: jc.dual_boxes(f, PARAMS, jc.Box(UNIT.hi, UNIT.lo)),
        "the domain is empty: lo > hi for 4 of 4 features",
    ),
    "shape": (
        lambda _: jc.dual_boxes(f, PARAMS, jc.Box(np.zeros(3), np.ones(3))),
        r"does not take one input of shape \(3,\), the shape of the domain",
    ),
    "class": (
        lambda _: jc.dual_boxes(f, PARAMS, UNIT, [3]),
        r"class 3 is out of range: the classes are 0 \.\. 2",
    ),
    "points": (
        lambda _: jc.dual_boxes(f, PARAMS, UNIT, points=X[:, :3]),
        r"points have shape \(10, 3\); give a batch of inputs of shape \(4,\)",
    ),
    "limits": (lambda made: jc.grow(made.answer, time_limit=0), "time_limit is 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_in_one_clear_sentence(made, name):
    attempt, message = MISTAKES[name]
    with pytest.raises(jc.InputError, match=message) as error:
        attempt(made)
    assert "\n" not in str(error.value)


def test_networks_without_certificates_are_told(tmp_path):
    w = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    x = np.array([0.8, 0.2])
    answer = jc.certify(
        lambda w, x: w @ jax.numpy.sin(x), w, x, record=True, options=BY_INTERVALS
    )
    with pytest.raises(jc.UnsupportedError, match="other operations: sin. Its answers"):
        jc.write_certificates(tmp_path, answer)
