"""The check of grown boxes accepts faces that are stopped, and rejects all else."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from builder import Case, change, logits, make_case

from jaxcert.checker.arithmetic import Arithmetic
from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Status
from jaxcert.checker.faces import AT_REST, OPEN, violations
from jaxcert.checker.network import Network

DELTA = 0.9


def least_moved(case: Case, face: int, end: float) -> tuple[np.ndarray, float]:
    """Returns the point of the box whose margin is least with the face moved."""
    a, label = case.certificate.arrays, case.certificate.head["label"]
    random = np.random.default_rng(face)
    share = random.integers(0, 2, (4000, len(a["x"]))).astype(float)
    points = np.where(share > 0, a["hi"], a["lo"])
    moved = points.copy()
    moved[:, face % len(a["x"])] = end
    y = logits(case.layers, moved)
    margins = y[:, label] - np.delete(y, label, axis=1).max(1)
    best = int(np.argmin(margins))
    return points[best], float(margins[best])


def with_faces(case: Case, delta: float = DELTA) -> Case:
    """Returns the case with its faces, as far as corners of the box stop them.

    In a wider domain, where more faces may move; the first lower face stays on it.
    """
    case = Case(case.layers, case.network, case.certificate.copy())
    a, head = case.certificate.arrays, case.certificate.head
    a["domain_lo"], a["domain_hi"] = a["domain_lo"] - 1, a["domain_hi"] + 1
    a["domain_lo"][0], head["apothem_lower"] = a["lo"][0], 0.0
    reach = delta * (1 - 1e-12)
    low = np.maximum(a["lo"] - reach * a["rate_lo"], a["domain_lo"])
    high = np.minimum(a["hi"] + reach * a["rate_hi"], a["domain_hi"])
    ends = np.concatenate([low, high])
    rest = np.concatenate([a["lo"] == a["domain_lo"], a["hi"] == a["domain_hi"]])
    by, points = np.where(rest, AT_REST, OPEN), []
    for face in np.flatnonzero(~rest):
        point, margin = least_moved(case, int(face), ends[face])
        if margin < head["required_margin"] - 1e-9:
            by[face] = len(points)
            points.append(point)
    a |= {
        "face_points": np.array(points).reshape(-1, len(a["x"])),
        "face_by": by.astype(np.int32),
        "face_ends": ends,
    }
    head |= {"delta": delta, "proved": True}
    return case


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    made = {
        "shallow": make_case(3),
        "margin": make_case(3, margin=0.05),
        "deep": make_case(3, (5, 6, 6, 3), refine=True),
        "float32": make_case(3, arithmetic="float32"),
    }
    return {name: with_faces(case) for name, case in made.items()}


@pytest.mark.parametrize("name", ["shallow", "margin", "deep", "float32"])
@pytest.mark.parametrize("exact", [False, True])
def test_stopped_faces_are_accepted_and_counted(cases, tmp_path, name, exact):
    case = cases[name]
    path = case.write(tmp_path)
    report = check_certificate(path, exact=exact)
    assert report.accepted, report.reason
    by = case.certificate.arrays["face_by"]
    assert report.faces.proved and report.faces.delta == DELTA
    assert report.faces.witnessed == (by >= 0).sum() >= 2
    assert report.faces.on_domain == (by == AT_REST).sum()
    assert report.faces.open == (by == OPEN).sum() and report.faces.fixed == 0
    assert report.leaves == len(case.certificate.arrays["leaf_target"])


def first_stopped(c) -> int:
    return int(np.flatnonzero(c.arrays["face_by"] >= 0)[0])


def outside_another_face(c):
    """The point leaves the box by a feature that is not the face's."""
    face = first_stopped(c)
    other = (face + 1) % len(c.arrays["x"])
    point = c.arrays["face_points"][c.arrays["face_by"][face]]
    point[other] = np.nextafter(c.arrays["hi"][other], 2)


def farther_than_delta(c):
    """The least double farther: only an exact comparison sees it."""
    face, size = first_stopped(c), len(c.arrays["x"])
    side, i = divmod(face, size)
    lo, ends = c.arrays["lo"], c.arrays["face_ends"]
    assert side == 0
    ends[i] = lo[i] - c.head["delta"] * c.arrays["rate_lo"][i]
    if Fraction(lo[i]) - Fraction(ends[i]) <= Fraction(c.head["delta"]) * Fraction(
        c.arrays["rate_lo"][i]
    ):
        ends[i] = np.nextafter(ends[i], -9)


def not_violating(c):
    c.arrays["face_points"][c.arrays["face_by"][first_stopped(c)]] = c.arrays["x"]
    face, size = first_stopped(c), len(c.arrays["x"])
    side, i = divmod(face, size)
    c.arrays["face_ends"][face] = np.nextafter(
        c.arrays["lo" if side == 0 else "hi"][i], -1 if side == 0 else 2
    )


def set_array(name, value):
    def change(c):
        face = first_stopped(c)
        c.arrays[name][face if name != "face_points" else 0] = value

    return change


def shorter(name):
    def change(c):
        c.arrays[name] = c.arrays[name][:-1]

    return change


def header(key, value):
    def change(c):
        c.head[key] = value

    return change


def rest(c):
    c.arrays["face_by"][first_stopped(c)] = AT_REST


def inside(c):
    face, size = first_stopped(c), len(c.arrays["x"])
    side, i = divmod(face, size)
    c.arrays["face_ends"][face] = c.arrays["lo" if side == 0 else "hi"][i]


def other_class(c):
    c.head["label"] = (c.head["label"] + 1) % 3


def dropped(name):
    return lambda c: c.arrays.pop(name)


def one_bound_less(c):
    c.arrays["leaf_target"] = c.arrays["leaf_target"][1:]
    for name in ("leaf_signs", "leaf_slopes", "leaf_betas"):
        c.arrays[name] = c.arrays[name][1:]


MUTANTS = {
    "point outside the box": (outside_another_face, "face_points is outside the box"),
    "farther than delta": (farther_than_delta, "farther than delta"),
    "end outside the domain": (set_array("face_ends", -9), "face_ends of lo is"),
    "end inside the box": (inside, "not beyond the face"),
    "no violation": (not_violating, "nothing stops the faces"),
    "NaN in a point": (set_array("face_points", np.nan), "has a NaN"),
    "NaN in an end": (set_array("face_ends", np.nan), "has a NaN"),
    "no such point": (set_array("face_by", 10**6), "face_by is out of range"),
    "no such state": (set_array("face_by", -3), "face_by is out of range"),
    "a face at rest that may move": (rest, "a face that may move is at rest"),
    "a face missing": (shorter("face_by"), "'face_by' has shape"),
    "an end missing": (shorter("face_ends"), "'face_ends' has shape"),
    "no points": (dropped("face_points"), "there is no array 'face_points'"),
    "no faces": (dropped("face_by"), "'face_points'] do not belong to"),
    "another class": (other_class, ""),
    "a leaf less": (one_bound_less, ""),
    "delta 0": (header("delta", 0.0), "delta is 0"),
    "delta negative": (header("delta", -1.0), "delta is '-1.0'"),
    "delta no number": (header("delta", "1"), "delta is '1'"),
    "delta infinite": (header("delta", float("inf")), "delta is 'inf'"),
    "leaves, but not proved": (header("proved", False), "proved is false"),
    "proved unclear": (header("proved", 1), "proved is '1'"),
    "another network": (
        lambda c: c.head["network"].update(sha256="0" * 64), "another network"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_rejected_for_their_reason(cases, tmp_path, name):
    mutate, reason = MUTANTS[name]
    case = cases["shallow"]
    case = Case(case.layers, case.network, case.certificate.copy())
    mutate(case.certificate)
    report = check_certificate(case.write(tmp_path))
    assert report.status is Status.REJECTED and reason in report.reason, report.reason
    assert report.faces is None and report.claim == ""


def test_a_box_without_its_proof_says_so(cases, tmp_path):
    case = cases["shallow"]
    case = Case(case.layers, case.network, case.certificate.copy())
    case.certificate.head["proved"] = False
    for name in ("leaf_target", "leaf_signs", "leaf_slopes", "leaf_betas"):
        case.certificate.arrays[name] = case.certificate.arrays[name][:0]
    report = check_certificate(case.write(tmp_path))
    assert report.status is Status.UNPROVED and report.holds and not report.accepted
    assert not report.faces.proved and report.faces.witnessed >= 2
    assert np.isnan(report.apothem_lower) and report.leaves == 0
    assert "its faces are audited, the box is not proved" in report.claim
    assert "of 3 is said to win by a margin > 0 everywhere" in report.claim
    case.certificate.head["proved"] = True
    report = check_certificate(case.write(tmp_path))
    assert report.status is Status.REJECTED and "leave a part" in report.reason


@pytest.mark.parametrize("exact", [False, True])
def test_a_grown_box_equal_to_the_domain_without_a_proof_is_not_accepted(
    cases, tmp_path, exact
):
    """All faces lie on the domain's boundary: nothing else would be asked of it."""
    case = cases["shallow"]
    case = Case(case.layers, case.network, case.certificate.copy())
    a, size = case.certificate.arrays, len(case.certificate.arrays["x"])
    a |= {"lo": a["domain_lo"], "hi": a["domain_hi"]}
    a |= {
        "face_points": np.zeros((0, size)),
        "face_by": np.full(2 * size, AT_REST, np.int32),
        "face_ends": np.zeros(2 * size),
    }
    a.pop("witness", None)
    for name in ("leaf_target", "leaf_signs", "leaf_slopes", "leaf_betas"):
        a[name] = a[name][:0]
    claims = {"proved": False, "apothem_lower": None, "apothem_upper": None}
    case.certificate.head |= claims
    report = check_certificate(case.write(tmp_path), exact=exact)
    assert report.status is Status.UNPROVED and not report.accepted
    assert report.reason == "its faces are audited, the box is not proved"
    case.certificate.head["proved"] = True
    report = check_certificate(case.write(tmp_path), exact=exact)
    assert report.status is Status.REJECTED and "leave a part" in report.reason


def test_a_ball_has_no_faces(cases, tmp_path):
    ball = change(
        cases["shallow"], lambda s: s.head.update(version=5),
        lambda s: s.arrays.update(ball=np.int32([1])),
    )  # fmt: skip
    assert check_certificate(ball.write(tmp_path)).reason == "a ball has no faces"


def test_a_grown_claim_is_said_in_words(cases, tmp_path):
    report = check_certificate(cases["shallow"].write(tmp_path))
    faces = report.faces
    kind = "grown" if faces.open else "maximal"
    words = (
        f"everywhere in a box; {kind} to 0.9 rates: {faces.on_domain} faces on the "
        f"domain, {faces.witnessed} stopped, {faces.open} open; domain ["
    )
    assert words in report.claim, report.claim


def test_damaged_files_are_rejected(cases, tmp_path):
    path = cases["shallow"].write(tmp_path)
    raw = path.read_bytes()
    random = np.random.default_rng(0)
    for place in random.integers(0, len(raw), 60):
        path.write_bytes(raw[:place])
        assert check_certificate(path).status is Status.REJECTED
    assert "FileNotFound" in check_certificate(tmp_path / "none.npz").reason


def test_violations_are_certain(cases, tmp_path):
    """No point is called violating that exact arithmetic finds to keep the class."""
    case = cases["deep"]
    path = case.write(tmp_path)
    name = case.certificate.head["network"]["file"]
    raw = (path.parent / name).read_bytes()
    label = case.certificate.head["label"]
    points = np.random.default_rng(1).uniform(-1, 2, (200, 5))
    found = {}
    for exact in (False, True):
        b, network = Arithmetic(exact), Network(raw, exact)
        found[exact] = violations(b, network, points, label, 0.0)
    assert not (found[False] & ~found[True]).any()
    assert (found[False] == found[True]).mean() > 0.99 and 20 < found[True].sum() < 180
    points[:3] = 1e60
    sure = violations(Arithmetic(False), Network(raw, False), points, label, 0.0)
    assert not sure[:3].any()
