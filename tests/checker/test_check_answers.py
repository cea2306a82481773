"""The check of answers to properties: accepted ones, and whole benchmarks."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from answer_builder import (
    ANSWERS,
    Answer,
    answer,
    box_text,
    declared,
    row_text,
    trees,
    without_leaves,
)

from jaxcert.checker import command
from jaxcert.checker.against import instance, proved
from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Expected, Status
from jaxcert.checker.reading import Rejected
from jaxcert.checker.vnnlib import Property

FOLDER = Path(command.__file__).parent


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_accepted(answers, tmp_path, name, exact):
    made: Answer = answers[name]
    report = check_certificate(made.write(tmp_path), exact=exact)
    assert report.accepted, report.reason
    assert report.answer == made.certificate.head["claim"]
    assert report.claim.startswith(report.answer)
    if report.answer == "unsat":
        nodes = made.certificate.arrays["nodes"]
        assert report.leaves == np.count_nonzero(nodes == -1) > 1
        assert report.lemmas == len(made.certificate.arrays["lemma_clause"])


def test_the_answers_have_what_their_names_say(answers):
    assert answers["lemma"].certificate.arrays["nodes"].min() == -2
    assert len(answers["halved"].certificate.arrays["nodes"]) > 10
    assert answers["refined"].certificate.arrays["range_slopes_0_1"].size


def test_a_caller_says_which_property_is_meant(answers, tmp_path):
    made = answers["halved"]
    path = made.write(tmp_path)
    mine = tmp_path / "mine.vnnlib.gz"
    mine.write_bytes(gzip.compress(made.text.encode()))
    assert check_certificate(path, expected=Expected(vnnlib=mine)).accepted
    other = tmp_path / "other.vnnlib"
    other.write_text(made.text + "; the same, but another file\n")
    report = check_certificate(path, expected=Expected(vnnlib=other))
    assert "speaks of another property" in report.reason
    report = check_certificate(path, expected=Expected(margin=0.0))
    assert "the caller expects a box with ['margin']" in report.reason


def test_a_box_is_no_answer(cases, answers, tmp_path):
    answers["few"].write(tmp_path)
    (mine,) = tmp_path.glob("*.vnnlib")
    report = check_certificate(
        cases["few"].write(tmp_path), expected=Expected(vnnlib=mine)
    )
    assert "it is of a box, not of a property" in report.reason


@pytest.mark.parametrize("counts", [(1, 3), (2, 3), (3, 2)])
def test_boxes_may_have_clauses_of_other_sizes(counts, tmp_path):
    one = np.eye(3, dtype=np.float32)
    layers = [(one, np.zeros(3, np.float32))] * 2  # y = max(x, 0), and all x are > 0
    boxes = [(np.full(3, 0.5 + k), np.full(3, 0.75 + k)) for k in range(2)]
    clauses = [(k, np.eye(3)[:n], np.zeros(n)) for k, n in enumerate(counts)]
    arrays = trees([(0, 0, [-1]), (1, 1, [-1])]) | without_leaves(3, 3)
    arrays |= {f"leaf_{k}": np.zeros((2, 3), np.float32) for k in ("slopes", "betas")}
    arrays["leaf_weights"] = one[[0, 0]]
    assert check_certificate(
        answer(layers, boxes, clauses, arrays).write(tmp_path)
    ).accepted
    few = int(np.argmin(counts))
    arrays["leaf_weights"] = arrays["leaf_weights"].copy()
    arrays["leaf_weights"][few] = one[counts[few]]  # of a row that the clause has not
    report = check_certificate(answer(layers, boxes, clauses, arrays).write(tmp_path))
    assert report.reason.startswith(f"leaf {few} (clause {few}): bound")


def test_an_answer_to_nothing_is_vacuous(answers, tmp_path):
    made = answers["witness"]
    text = declared(3, 3) + "(assert (and (<= X_0 0) (>= X_0 1) (<= Y_0 0)))\n"
    arrays = {
        "box_lo": np.zeros((0, 3)), "box_hi": np.zeros((0, 3)),
        "clause_box": np.zeros(0, np.int32), "row_clause": np.zeros(0, np.int32),
        "row_coefficients": np.zeros((0, 3)), "row_offset": np.zeros(0),
        "tree_box": np.zeros(0, np.int32), "tree_clause": np.zeros(0, np.int32),
        "tree_size": np.zeros(0, np.int32), "nodes": np.zeros(0, np.int32),
        "lemma_clause": np.zeros(0, np.int32), "lemma_signs": np.zeros((0, 6), np.int8),
        "leaf_weights": np.zeros((0, 0), np.float32),
        "leaf_slopes": np.zeros((0, 6), np.float32),
        "leaf_betas": np.zeros((0, 6), np.float32),
    }  # fmt: skip
    made = made.about(text).changed(
        lambda s: s.head.update(claim="unsat"), lambda s: s.arrays.clear(),
        lambda s: s.arrays.update(arrays),
    )  # fmt: skip
    report = check_certificate(made.write(tmp_path))
    assert report.status is Status.VACUOUS
    assert report.reason == "the property allows no input"


def benchmark(answers, folder: Path) -> Path:
    """Writes a results file of four rows, of which three are decided."""
    proofs = folder / "found_proofs"
    proofs.mkdir()
    rows = ["onnx,vnnlib,result,seconds"]
    for number, name in enumerate(("halved", None, "witness", "few"), 1):
        result = "timeout"
        if name is not None:
            answers[name].write(proofs, f"{number:03d}.npz")
            (folder / f"{number}.vnnlib").write_text(answers[name].text)
            result = answers[name].certificate.head["claim"]
        rows.append(f"{name}.onnx,{number}.vnnlib,{result},1.000")
    path = folder / "found.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_whole_benchmark_runs_alone(answers, tmp_path):
    path = benchmark(answers, tmp_path)
    given = [sys.executable, str(FOLDER), str(path), "--benchmark", str(tmp_path)]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 answers: 3 checked, in " in done.stdout
    assert done.stdout.rstrip().endswith("; 1 rows without an answer")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: (f / "found_proofs/003.npz").unlink(), "there is no proof of it"),
        (lambda f: _row(f, "sat,1", "unsat,1"), "it proves sat, the row says unsat"),
        (lambda f: _row(f, "few.onnx", "halved.onnx"), "not that of row 1, of the"),
        (
            lambda f: (f / "1.vnnlib").write_text("(declare-const X_0 Real)"),
            "nothing is asserted|is not declared",
        ),
        (
            lambda f: (f / "1.vnnlib").write_text((f / "4.vnnlib").read_text()),
            "it speaks of another property",
        ),
    ],
)
def test_a_benchmark_with_a_wrong_row_is_not_accepted(
    answers, tmp_path, capsys, change, reason
):
    path = benchmark(answers, tmp_path)
    change(tmp_path)
    code = command.main([str(path), "--benchmark", str(tmp_path), "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (bad,) = [line for line in lines if line["status"] == "rejected"]
    assert code == 1 and any(part in bad["reason"] for part in reason.split("|"))


def _row(folder: Path, old: str, new: str) -> None:
    path = folder / "found.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


OTHERS = """\
acas,./onnx/halved.onnx,./vnnlib/1.vnnlib.gz,0.1,unsat,2.5
acas,./onnx/witness.onnx,./vnnlib/3.vnnlib,0.1,holds,2.5
acas,few.onnx,4.vnnlib,0.1,sat,9

acas,None.onnx,2.vnnlib,0.1,sat,9
acas,few.onnx,4.vnnlib,0.1,timeout,9
"""


def test_answers_of_others_are_compared_with_what_is_proved(answers, tmp_path, capsys):
    path, other = benchmark(answers, tmp_path), tmp_path / "other tool.csv"
    other.write_text(OTHERS)
    given = [str(path), "--against", str(other)]
    assert command.main(given) == 4
    *_, first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("CONTRADICTED") and "other tool.csv, line 2: " in first
    assert first.endswith(": witness.onnx 3.vnnlib: unsat, proved sat")
    assert second.endswith(", line 3: few.onnx 4.vnnlib: sat, proved unsat")
    assert last.endswith("4 answers: 1 proved, 2 contradicted, 1 without a proof")
    assert command.main([*given, "--json"]) == 4
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["line"] for row in lines if "line" in row] == [2, 3]
    # What is not accepted contradicts nobody, and has a code that is worse.
    (tmp_path / "found_proofs/003.npz").unlink()
    assert command.main(given) == 1
    out = capsys.readouterr().out
    assert "1 proved, 1 contradicted, 2 without a proof" in out
    # A results file is such a file too, and what it says itself is no contradiction.
    assert command.main([str(path), "--against", str(path)]) == 1
    assert "0 contradicted" in capsys.readouterr().out
    other.write_text(OTHERS + "cifar,few.onnx,4.vnnlib,0.1,unsat,9\n")
    assert command.main(given) == 1
    out = capsys.readouterr().out
    assert "5 answers: 1 proved, 0 contradicted, 4 without a proof" in out
    other.write_text("acas,few.onnx,sat\n")
    assert command.main(given) == 2
    assert "line 1: it has 3 columns, not 6" in capsys.readouterr().err


def test_names_that_mean_two_instances_say_nothing():
    one, two = instance("a/x.onnx", "b\\p.vnnlib.gz"), instance("x.onnx", "q.vnnlib")
    assert one == ("x.onnx", "p.vnnlib")
    known = proved([(one, "sat"), (two, "unsat"), (one, "unsat"), (two, "unsat")])
    assert known == {two: "unsat"}
    assert proved([(one, "sat"), (two, ""), (one, "")]) == {}


@pytest.mark.parametrize("says", ["sat", "unsat"])
def test_names_of_which_one_instance_is_proved_say_nothing(
    answers, tmp_path, capsys, says
):
    """Another folder has files of the same names, and nothing is known of those."""
    path, other = benchmark(answers, tmp_path), tmp_path / "other.csv"
    with path.open("a") as file:
        file.write("other/few.onnx,other/4.vnnlib,timeout,9\n")
    other.write_text(f"acas,other/few.onnx,other/4.vnnlib,0.1,{says},9\n")
    assert command.main([str(path), "--against", str(other)]) == 0
    out = capsys.readouterr().out
    assert "1 answers: 0 proved, 0 contradicted, 1 without a proof" in out


def test_what_is_no_results_file_is_an_error(answers, tmp_path, capsys):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    assert command.main([str(path)]) == 2
    assert "is no results file" in capsys.readouterr().err
    good, head = benchmark(answers, tmp_path), "onnx,vnnlib,result,seconds\n"
    path.write_text(head + "a" * 200_000 + ",b,sat,1\n")
    (tmp_path / "binary.csv").write_bytes(b"\xff")
    (tmp_path / "folder.csv").mkdir()
    for name in ("other.csv", "binary.csv", "folder.csv"):
        bad = str(tmp_path / name)
        for words in ([bad], [str(good), "--against", bad]):
            assert command.main(words) == 2
            assert f"{name} is no table: " in capsys.readouterr().err
    path.write_text(head + "a,.,sat,1\n")
    assert command.main([str(path), "--benchmark", "."]) == 1
    assert "REJECTED 001: there is no proof of it" in capsys.readouterr().out


def read(*assertions: str) -> Property:
    text = declared(2, 2) + "".join(f"(assert {a})\n" for a in assertions)
    return Property(text.encode())


BOX = "(and (>= X_0 0) (<= X_0 1) (>= X_1 -2) (<= X_1 (+ 1 (* 2 0.5))))"


def test_a_property_is_what_it_says():
    (case,) = read(BOX, "(or (<= Y_0 Y_1) (and (> Y_0 3) (= Y_1 0)))").cases()
    assert case.lo.tolist() == [0, -2] and case.hi.tolist() == [1, 2]
    (c, d), (e, f) = case.clauses
    assert c.tolist() == [[1, -1]] and d.tolist() == [0]
    assert e.tolist() == [[-1, 0], [0, 1], [0, -1]] and f.tolist() == [3, 0, 0]


def test_boxes_are_rounded_outward_and_empty_ones_left_out():
    third = "(>= (* 3 X_0) 1)"
    (case,) = read(BOX, third, "(<= Y_0 0)").cases()
    assert 3 * case.lo[0] <= 1 and case.lo[0] > 0.333
    assert read(BOX, "(> X_0 1)", "(<= Y_0 0)").cases() == []
    assert read(BOX, "(>= X_0 1.5)", "(<= Y_0 0)").cases() == []
    assert len(read(BOX, "(>= X_0 1)", "(<= Y_0 0)").cases()) == 1


def test_a_witness_must_satisfy_strict_rows():
    prop = read(BOX, "(< Y_0 1)", "(<= Y_1 0)")
    x, inside = np.array([0.5, 0]), np.array([0.5, 0.0])
    assert prop.holds(x, inside, inside)
    assert not prop.holds(x, inside, np.array([1.0, 0.0]))
    assert not prop.holds(x, inside, np.array([0.5, 1e-300]))
    assert not prop.holds(np.array([np.nextafter(1, 2), 0]), inside, inside)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(assert (<= Y_0 1)", "never closed"),
        (")", "closes nothing"),
        ("X_0", "outside parentheses"),
        ("(assert (<= Y_7 1))", "'Y_7' is unknown"),
        ("(assert (<= (* Y_0 Y_1) 1))", "is not linear"),
        ("(assert (<= X_0 Y_0))", "is no box"),
        ("(assert (<= (+ X_0 X_1) 1))", "is no box"),
        ("(assert (not (<= Y_0 1)))", "is not understood"),
        ("(assert (<= Y_0 1e))", "'1e' is unknown"),
        ("(assert (<= Y_0 nan))", "'nan' is unknown"),
        ("(assert (<= X_0 1))", "nothing is asserted of the outputs"),
        ("(declare-const Y_0 Real)", "VNN-LIB"),
        ("(declare-const Y_2 Int)", "VNN-LIB"),
        ("(declare-const Y_3 Real)(assert (<= Y_0 1))", "is not declared"),
        ("(define-fun f)", "VNN-LIB"),
        ("(assert)", "VNN-LIB"),
        ("(check-sat)(assert (<= Y_0 1))", "VNN-LIB: ..assert'"),
        ("(exit)(assert (<= Y_0 1))", "VNN-LIB: ..assert'"),
        ("(assert (and))", "is no condition"),
        ('(set-info :a "b)', "a quotation is never closed"),
        ("(set-info :a |b)", "a quotation is never closed"),
    ],
)
def test_what_is_not_understood_is_rejected(text, reason):
    with pytest.raises(Rejected, match=reason):
        Property((declared(2, 2) + text).encode())


@pytest.mark.parametrize(
    "text",
    [
        '(set-info :a ";") (assert (<= Y_0 -5))\n(set-info :b ")")',
        '(set-info :a ")(assert (<= Y_1 0))(set-info :b ") (assert (<= Y_0 -5))',
        "(set-info :a |;|) (assert (<= Y_0 -5))\n(set-info :b |)|)",
        "; a comment\r(assert (<= Y_0 -5))",
        '; no "quotation\n(assert (<= Y_0 -5))',
    ],
)
def test_what_is_quoted_or_a_comment_is_no_assertion_and_hides_none(text):
    from jaxcert.interop import vnnlib

    text = declared(2, 2) + text + f"(assert {BOX})"
    ((c, d),) = Property(text.encode()).cases()[0].clauses
    assert c.tolist() == [[1, 0]] and d.tolist() == [5]
    reader = vnnlib.Reader(text, "text")
    reader.read()
    ((one,),) = (case.disjuncts for case in vnnlib.normal_form(reader, "text").cases)
    assert rows(*one) == rows(c, d)


def test_an_input_without_a_bound_is_rejected():
    with pytest.raises(Rejected, match="has no bound at"):
        read("(and (>= X_0 0) (<= X_0 1) (>= X_1 0))", "(<= Y_0 0)").cases()


def test_both_readers_agree(answers):
    from jaxcert.interop import vnnlib

    texts = [made.text for made in answers.values()]
    texts += [
        declared(2, 2) + "".join(f"(assert {a})" for a in some)
        for some in (
            (BOX, "(or (<= Y_0 Y_1) (and (> Y_0 3) (= Y_1 0)))"),
            (BOX, "(or (and (>= X_0 .25) (< Y_0 0)) (> Y_1 (- Y_0 1e-3)))"),
            (BOX, "(or (<= X_0 .5) (>= X_1 1))", "(<= Y_0 (- (* -0.1 Y_1)))"),
            (box_text(np.array([0.1, 0.2]), np.array([0.3, 0.4])).join(("(and ", ")")),
             row_text(np.array([0.1, -3e-7]), 0.7)),
        )
    ]  # fmt: skip
    for text in texts:
        reader = vnnlib.Reader(text, "text")
        reader.read()
        cases = vnnlib.normal_form(reader, "text").cases
        ours = Property(text.encode()).cases()
        assert len(ours) == len(cases)
        for one, other in zip(ours, cases, strict=True):
            assert one.lo.tobytes() == other.lo.tobytes()
            assert one.hi.tobytes() == other.hi.tobytes()
            for first, second in zip(one.clauses, other.disjuncts, strict=True):
                assert rows(*first) == rows(*second)


def rows(c, d) -> list[list[float]]:
    return sorted(np.column_stack([c, d]).tolist())
