"""What answers of every family can do alike: be counted, indexed, kept and shown."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest

import jaxcert as jc
from jaxcert import convex, semantic, smoothing
from jaxcert.search.dual import DualBox

NAN, INF = np.nan, np.inf
WITNESS = np.array([[0.3], [NAN], [0.0]])
BOXES = np.array([4, 9, 1])


def dual() -> jc.DualBoxes:
    domain = jc.Box(np.zeros(2), np.ones(2))
    known = DualBox(
        1, domain, jc.Box(np.array([0.2, 0]), np.ones(2)),
        jc.Box(np.array([0.25, 0]), np.ones(2)), np.full((4, 2), 0.5),
        np.full(2, 0.01), 7, np.array([NAN, 1.0, 1.0, 1.0]),
    )  # fmt: skip
    nowhere = jc.Box(np.full(2, INF), np.full(2, -INF))
    empty = DualBox(
        2, domain, nowhere, nowhere, np.full((4, 2), NAN), np.full(2, 0.01), 3,
        np.zeros(4),
    )  # fmt: skip
    return jc.DualBoxes((DualBox.unknown(0, domain, 0.01), known, empty))


ANSWERS = {
    "semantic apothems": semantic.SemanticApothems(
        np.array([0.25, INF, 0.0]), np.array([0.3, INF, 0.0]), WITNESS, BOXES, ("b",)
    ),
    "semantic verdicts": semantic.SemanticVerdicts(
        np.array([jc.Status.PROVED, jc.Status.UNKNOWN, jc.Status.REFUTED]), WITNESS,
        BOXES, 0.5,
    ),
    "output ranges": semantic.OutputRanges(
        np.array([[0.0, 1.0], [2.0, -INF], [0.0, 0.0]]),
        np.array([[0.5, 2.0], [2.5, INF], [1.0, 0.25]]), BOXES,
        np.array([False, True, False]), 0.5,
    ),
    "smoothed certificates": smoothing.SmoothedCertificates(
        np.array([4, -1, 2]), np.array([4, 3, 2]), np.array([99, 51, 80]),
        np.array([100, 100, 100]), np.array([0.95, 0.4, 0.7]),
        np.array([0.8, 0.0, 0.25]), 0.001, "l2",
    ),
    "harmless certificates": smoothing.HarmlessCertificates(
        np.array([True, False, True]), np.array([1, 60, 0]), np.array([100, 100, 100]),
        np.array([0.06, 0.7, 0.05]), np.array([0.4, 0.0, 0.5]), 0.1, 0.001,
        smoothing.Laplace(0.25),
    ),
    "convex radii": convex.Radii(
        np.array([1.5, -0.5, 0.25]), np.array([1.4, -0.6, 0.2]),
        np.array([[2.0, 0.1], [0.0, 0.0], [0.3, 0.02]]), (1.0, INF),
    ),
    "dual boxes": dual(),
}  # fmt: skip

SAID = {
    "semantic apothems": "2 of 3 inputs proved: median radius inf, weakest 0.2500",
    "semantic verdicts": "Up to radius 0.5: 1 PROVED, 1 REFUTED, 1 UNKNOWN",
    "output ranges": "2 outputs of 3 inputs up to radius 0.5: the widest range is inf",
    "smoothed certificates": "2 of 3 inputs got a class, median radius 0.5250",
    "harmless certificates": "2 of 3 inputs are harmful with a probability of 0.1 at",
    "convex radii": "2 of 3 inputs proved of the sensitive class, median l1 radius",
    "dual boxes": "3 boxes: 0 closed, 2 open, 1 empty.",
}
LINES = {
    "semantic apothems": "b inf inf 9",
    "semantic verdicts": "b UNKNOWN 9",
    "output ranges": "b 0.5000 inf open 9",
    "smoothed certificates": "b abstained 51 100 0.4000 0",
    "harmless certificates": "b no 60 100 0.7000 0",
    "convex radii": "b -0.5000 -0.6000 0 0",
    "dual boxes": "b 1 open 4 3 1 1 0.0500 7",
}


@pytest.fixture(params=ANSWERS)
def kind(request) -> str:
    return request.param


def leaves(answer: jc.Answer) -> list:
    return list(answer._arrays().items())


def test_an_answer_has_a_length_parts_and_few_lines(kind):
    answer = ANSWERS[kind]
    assert isinstance(answer, jc.Answer) and len(answer) == 3 == len(list(answer))
    mask = np.array([True, False, True])
    assert len(answer[1:]) == 2 == len(answer[mask]) and type(answer[1:]) is type(
        answer
    )
    with pytest.raises(TypeError, match="is no bool"):
        bool(answer)
    with pytest.raises(IndexError):
        answer[3]
    for part in (answer, answer[2:], answer[-1]):
        lines = repr(part).splitlines()
        assert len(lines) <= 5 and max(map(len, lines)) <= 80
    assert repr(answer).startswith(f"{type(answer).__name__} of 3")
    assert SAID[kind] in " ".join(repr(answer).split())
    if kind != "dual boxes":  # one of them is a DualBox
        with pytest.raises(TypeError, match="of one input"):
            len(answer[0])
        with pytest.raises(TypeError, match="of one input"):
            answer[0][0]


def test_a_saved_answer_is_read_again(kind, tmp_path):
    answer = ANSWERS[kind]
    for part in (answer, answer[:0] if kind == "dual boxes" else answer[1]):
        again = jc.load(part.save(tmp_path / "answer.npz"))
        assert type(again) is type(part) and repr(again) == repr(part)
        assert again._told() == part._told()
        for (name, mine), (other, yours) in zip(
            leaves(again), leaves(part), strict=True
        ):
            assert name == other and np.asarray(mine).dtype == np.asarray(yours).dtype
            np.testing.assert_array_equal(mine, yours)
    with np.load(tmp_path / "answer.npz") as stored:
        arrays = dict(stored)
    wrong = str(arrays["head"]).replace(f"jaxcert {kind} 1", f"jaxcert {kind} 9")
    np.savez(tmp_path / "other.npz", **(arrays | {"head": np.array(wrong)}))
    with pytest.raises(jc.InputError, match=f"its format is 'jaxcert {kind} 9', this"):
        jc.load(tmp_path / "other.npz")


def test_an_answer_is_shown_as_table_latex_figure_and_page(kind, tmp_path):
    answer = ANSWERS[kind]
    shown = answer.table(names=["a", "b", "<c>"])
    assert LINES[kind] in [" ".join(line.split()) for line in shown.splitlines()]
    assert max(map(len, shown.splitlines())) <= 80
    assert SAID[kind] in " ".join(shown.split())
    latex = answer.to_latex()
    assert latex.count(r"\\") == 4 and latex.endswith("\\end{tabular}")
    assert len(answer.plot().axes) == 1
    path = answer.report(tmp_path / "page.html", names=["a", "b", "<c>"])
    assert [path] == list(tmp_path.iterdir())
    text = path.read_text()
    assert "Claim" in text and "&lt;c&gt;" in text and answer.TITLE in text
    assert all(f"<dt>{word}</dt>" in text for word in answer.TERMS)
    assert not re.findall(r'(?:src|href|srcset)="(?!data:)', text)
    with pytest.raises(jc.InputError, match="2 names for 3 rows: give one each"):
        answer.table(names=["a", "b"])
    one = answer[:1] if kind == "dual boxes" else answer[0]
    assert one.table() and one.plot() and one.to_latex()


def test_smoothing_is_never_said_to_be_proved():
    for kind in ("smoothed certificates", "harmless certificates"):
        answer = ANSWERS[kind]
        assert "probabilistic" in answer.sentence()
        assert answer.claim().startswith("Claim, not a proof")
        assert "proved" not in answer.sentence() + answer.claim() + answer.table()
        (legend,) = (axes.get_legend() for axes in answer.plot().axes)
        assert [t.get_text() for t in legend.texts] == ["certified, probabilistic"]


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("semantic apothems", {"lower": np.full(3, 0.4)}, "bracket is not ordered"),
        ("semantic verdicts", {"status": np.full(3, 9)}, "a value that is none"),
        ("convex radii", {"lower": np.zeros(2)}, r"lower is float64 of shape \(2,\)"),
        ("dual boxes", {"label": np.zeros(2, int)}, "of different lengths"),
    ],
)
def test_an_answer_of_another_form_is_refused(kind, changes, reason, tmp_path):
    path = ANSWERS[kind].save(tmp_path / "answer.npz")
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **(arrays | changes))
    with pytest.raises(jc.InputError, match=reason):
        jc.load(path)


def test_answers_are_pytrees():
    answer = ANSWERS["semantic apothems"]
    twice = jax.tree.map(lambda v: np.concatenate([v, v]), answer)
    assert len(twice) == 6 and twice.parameters == ("b",)
