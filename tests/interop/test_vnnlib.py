"""Reading VNN-LIB files: the normal form against the assertion tree, and the errors."""

from __future__ import annotations

import gzip
import itertools
import math
import re
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxcert.errors import InputError, JaxcertError, UnsupportedError
from jaxcert.interop import vnnlib_cases, vnnlib_reader
from jaxcert.interop.vnnlib import Property, format_counterexample, load_vnnlib

BENCHMARKS = Path(__file__).parents[2].parent / "shared" / "peers" / "vnncomp"
needs_benchmarks = pytest.mark.skipif(
    not BENCHMARKS.is_dir(), reason="the VNN-COMP benchmarks are not on this machine"
)
DECLARED = """
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
"""
BOX = """
(assert (and (>= X_0 -1) (<= X_0 1)))
(assert (and (>= X_1 -1) (<= X_1 1)))
"""


def load(tmp_path: Path, text: str, declared: str = DECLARED) -> Property:
    path = tmp_path / "p.vnnlib"
    path.write_text(declared + text)
    return load_vnnlib(path)


def normal_form_violates(prop: Property, x: np.ndarray, y: np.ndarray) -> bool:
    return any(
        bool(np.all((case.lo <= x) & (x <= case.hi)))
        and any(all(value <= 0 for value in values(c, y, d)) for c, d in case.disjuncts)
        for case in prop.cases
    )


def values(c: np.ndarray, y: np.ndarray, d: np.ndarray) -> list[float]:
    """Rows of C y + d with their exact sign, where the products are exact."""
    return [math.fsum([*(row * y), e]) for row, e in zip(c, d, strict=True)]


def spec_violates(prop: Property, x: np.ndarray, y: np.ndarray) -> bool:
    for case in prop.cases:
        if np.all((case.lo <= x) & (x <= case.hi)):
            spec = case.spec()
            rows = values(np.asarray(spec.coefficients), y, np.asarray(spec.offset))
            rows = np.array(rows)
            best = [
                rows[np.asarray(spec.clause) == i].max()
                for i in range(spec.num_clauses)
            ]
            if not min(best) > 0:
                return True
    return False


def points(prop: Property, count: int, rng: np.random.Generator):
    """Yields inputs on, just beside and around faces; outputs with ties and near ties.

    Near ties are ties moved by one float64 step, so that a sign or a rounding error of
    the normal form shows.
    """
    faces = np.array([face for case in prop.cases for face in (case.lo, case.hi)])
    offsets = [d for case in prop.cases for _, ds in case.disjuncts for d in ds]
    levels = np.unique(np.abs([0.0, 1.0, *offsets]))
    for _ in range(count):
        case = prop.cases[rng.integers(len(prop.cases))]
        x = case.lo + rng.random(prop.num_inputs) * (case.hi - case.lo)
        x = np.clip(x, case.lo, case.hi)
        few = rng.integers(0, prop.num_inputs, size=rng.integers(0, 3))
        for i in few:
            x[i] = faces[rng.integers(len(faces)), i]
            x[i] = np.nextafter(x[i], rng.choice([-9.0, 9.0, x[i]]))
        y = rng.choice(levels, size=prop.num_outputs) * rng.choice(
            [1, -1], size=prop.num_outputs
        )
        if rng.random() < 0.5:
            y = rng.permutation(np.linspace(-1, 1, prop.num_outputs))
        for j in rng.integers(0, prop.num_outputs, size=3):
            y[j] = y[rng.integers(prop.num_outputs)]
            y[j] = np.nextafter(y[j], rng.choice([-9.0, 9.0, y[j]]))
        yield x, y


def agreement(prop: Property, count: int, seed: int = 0) -> tuple[int, int]:
    """Asserts that tree, normal form and spec agree; returns the counts of answers."""
    answers = [0, 0]
    for x, y in points(prop, count, np.random.default_rng(seed)):
        tree = prop.violates(x, y)
        assert normal_form_violates(prop, x, y) == tree, (x, y)
        assert spec_violates(prop, x, y) == tree, (x, y)
        answers[tree] += 1
    return answers[0], answers[1]


# ---------------------------------------------------------------- the benchmarks


@pytest.mark.campaign
@needs_benchmarks
def test_every_benchmark_file_is_read_and_its_normal_form_is_the_tree():
    files = sorted(BENCHMARKS.glob("*/vnnlib/*.vnnlib*"))
    assert len(files) == 39
    no, yes = 0, 0
    for file in files:
        prop = load_vnnlib(file)
        assert not prop.notes
        wide = prop.num_inputs > 100
        counts = agreement(prop, 20 if wide else 400)
        no, yes = no + counts[0], yes + counts[1]
    assert no > 1000 and yes > 1000


@needs_benchmarks
def test_mnist_fc_is_read_as_stated_and_fast():
    path = BENCHMARKS / "mnist_fc/vnnlib/prop_0_0.03.vnnlib.gz"
    start = time.process_time()
    prop = load_vnnlib(path)
    assert time.process_time() - start < 1
    assert (prop.num_inputs, prop.num_outputs) == (784, 10)
    (case,) = prop.cases
    text = gzip.decompress(path.read_bytes()).decode()
    for sign, faces in ((">=", case.lo), ("<=", case.hi)):
        stated = dict(re.findall(rf"\(assert \({sign} X_(\d+) (\S+?)\)\)", text))
        assert faces.tolist() == [float(stated[str(i)]) for i in range(784)]
    stated = re.findall(r"\(and \(>= Y_(\d) Y_(\d)\)\)", text)
    assert len(case.disjuncts) == len(stated) == 9
    for (c, d), (greater, label) in zip(case.disjuncts, stated, strict=True):
        row = np.zeros(10)
        row[int(label)], row[int(greater)] = 1, -1
        np.testing.assert_array_equal(c, [row])
        assert d.tolist() == [0.0]


def acas(number: int) -> Property:
    return load_vnnlib(BENCHMARKS / f"acasxu/vnnlib/prop_{number}.vnnlib.gz")


def rows(*pairs: tuple[int, int]) -> list[list[float]]:
    """Rows y_a - y_b, for `y_a <= y_b`."""
    result = np.zeros((len(pairs), 5))
    for row, (a, b) in zip(result, pairs, strict=True):
        row[a], row[b] = 1, -1
    return result.tolist()


# Copied by hand from the comments of the files: which output order is unsafe.
ACAS = {
    2: [rows((1, 0), (2, 0), (3, 0), (4, 0))],
    3: [rows((0, 1), (0, 2), (0, 3), (0, 4))],
    4: [rows((0, 1), (0, 2), (0, 3), (0, 4))],
    5: [rows((i, 4)) for i in (0, 1, 2, 3)],
    6: [rows((i, 0)) for i in (1, 2, 3, 4)],
    7: [rows((3, 0), (3, 1), (3, 2)), rows((4, 0), (4, 1), (4, 2))],
    8: [rows((i, 0), (i, 1)) for i in (2, 3, 4)],
    9: [rows((i, 3)) for i in (0, 1, 2, 4)],
    10: [rows((i, 0)) for i in (1, 2, 3, 4)],
}


@needs_benchmarks
@pytest.mark.parametrize("number", sorted(ACAS))
def test_acasxu_disjuncts_are_those_checked_by_hand(number):
    if not (BENCHMARKS / f"acasxu/vnnlib/prop_{number}.vnnlib.gz").exists():
        pytest.skip(f"prop_{number} is not among the benchmark's files")
    for case in acas(number).cases:
        assert [c.tolist() for c, _ in case.disjuncts] == ACAS[number]
        assert all(not d.any() for _, d in case.disjuncts)


@needs_benchmarks
def test_acasxu_boxes_are_those_checked_by_hand():
    (case,) = acas(1).cases
    assert case.lo.tolist() == [0.6, -0.5, -0.5, 0.45, -0.5]
    assert case.hi.tolist() == [0.679857769, 0.5, 0.5, 0.5, -0.45]
    ((c, d),) = case.disjuncts
    assert c.tolist() == [[-1, 0, 0, 0, 0]]
    assert d.tolist() == [3.991125645861615]
    left, right = acas(6).cases
    assert left.lo.tolist() == [-0.129289109, 0.11140846, -0.499999896, -0.5, -0.5]
    assert left.hi.tolist() == [0.700434925, 0.499999896, -0.499204121, 0.5, 0.5]
    assert right.lo.tolist() == [-0.129289109, -0.499999896, -0.499999896, -0.5, -0.5]
    assert right.hi.tolist() == [0.700434925, -0.11140846, -0.499204121, 0.5, 0.5]


# ------------------------------------------------------------------ the language


def test_mixed_conjunctions_of_inputs_and_outputs_are_cases(tmp_path):
    text = """
    (assert (and (>= X_1 0) (<= X_1 1) (<= X_0 3)))
    (assert (or
      (and (>= X_0 0) (<= X_0 1) (<= Y_0 Y_1))
      (and (>= X_0 2) (<= X_0 3) (or (>= Y_0 1) (and (<= Y_1 -1) (<= Y_0 5))))
      (and (>= X_0 0) (<= X_0 1) (>= Y_1 7))))
    """
    prop = load(tmp_path, text)
    assert [(c.lo.tolist(), c.hi.tolist()) for c in prop.cases] == [
        ([0, 0], [1, 1]),
        ([2, 0], [3, 1]),
    ]
    forms = [[(c.tolist(), d.tolist()) for c, d in k.disjuncts] for k in prop.cases]
    assert forms == [
        [([[1, -1]], [0]), ([[0, -1]], [7])],
        [([[-1, 0]], [1]), ([[0, 1], [1, 0]], [1, -5])],
    ]
    no, yes = agreement(prop, 2000)
    assert min(no, yes) > 100


def test_terms_are_linear_in_every_spelling(tmp_path):
    text = """
    (assert (<= 0 (* 2 X_0) 1.0)) ; a chain
    (assert (= X_1 0.25))
    (assert (or (<= (+ (* 2.0 Y_0) (- Y_1) (* -0.5 (- Y_0 1))) (- 3 (+ 1 1) 0.25))
      (>= (- Y_0) 1e0) (<= (* (* 2 0.5) Y_1 2) (+ Y_1 Y_1 -.5))))
    """
    prop = load(tmp_path, BOX + text)
    (case,) = prop.cases
    assert case.lo.tolist() == [0, 0.25] and case.hi.tolist() == [0.5, 0.25]
    forms = [(c.tolist(), d.tolist()) for c, d in case.disjuncts]
    assert forms == [([[1.5, -1]], [-0.25]), ([[1, 0]], [1])]  # the third: 0 <= -0.5


def test_numbers_are_the_nearest_doubles_and_bounds_round_outwards(tmp_path):
    text = """
    (assert (>= X_0 0.1000000000000000055511151231257827021181583404541015625))
    (assert (<= (* 3 X_0) 1)) (assert (>= (* 3 X_1) 1)) (assert (<= X_1 1))
    (assert (<= (+ Y_0 0.1 0.2) 0))
    """
    (case,) = load(tmp_path, text).cases
    assert case.lo[0] == 0.1
    third = 1 / 3  # rounds down
    assert case.hi[0] == np.nextafter(third, 1) and case.lo[1] == third
    # The exact sum of the two doubles lies between two doubles.
    assert case.disjuncts[0][1].tolist() == [0.3]


def test_strict_comparisons_are_closed_in_the_cases_and_exact_in_the_tree(tmp_path):
    prop = load(tmp_path, BOX + "(assert (< Y_0 1)) (assert (> Y_1 (+ Y_0 1)))")
    tie, beyond = np.array([0.0, 1.0]), np.array([0.0, np.nextafter(1, 2)])
    assert normal_form_violates(prop, np.zeros(2), tie)
    assert not prop.violates(np.zeros(2), tie)
    assert prop.violates(np.zeros(2), beyond)


def test_a_case_that_allows_every_output_is_never_excluded(tmp_path):
    text = "(assert (or (<= X_0 0) (and (<= Y_0 0) (<= Y_1 0)) (<= Y_1 -5)))"
    prop = load(tmp_path, BOX + text)
    agreement(prop, 500)
    free = next(case for case in prop.cases if case.hi[0] == 0)
    assert not float(free.spec().margin(free.spec().values(np.ones(2)))) > 0


def test_empty_boxes_are_dropped_and_noted(tmp_path):
    text = """(assert (<= Y_0 0))
    (assert (or (and (>= X_0 0.5) (<= X_0 0.25)) (<= X_1 0) (<= 1 0) (< 0 0)))"""
    prop = load(tmp_path, BOX + text)
    assert len(prop.cases) == 1
    (note,) = prop.notes
    assert note.startswith("3 of 4 conjunctions of ")
    assert note.endswith(
        "p.vnnlib allow no input (bounds that no number satisfies) and are dropped"
    )


def test_a_property_without_any_input_holds_for_every_network(tmp_path):
    prop = load(tmp_path, BOX + "(assert (>= X_0 2)) (assert (<= Y_0 0))")
    assert prop.cases == () and len(prop.notes) == 2
    assert prop.notes[1].endswith("holds for every network: it allows no input")
    assert not prop.violates([2.0, 0.0], [0.0, 0.0])


def test_random_trees_agree_with_their_normal_form(tmp_path):
    rng = np.random.default_rng(7)

    def number() -> str:
        return str(rng.integers(-4, 5) / 4)

    def atom() -> str:
        sign = rng.choice(["<=", ">="])
        left = rng.choice(["X_0", "X_1", "Y_0", "Y_1", "(- Y_0 Y_1)", "(+ Y_1 Y_0)"])
        sides = [str(left), number()]
        return f"({sign} {' '.join(rng.permutation(sides))})"

    def tree(depth: int) -> str:
        if depth == 0 or rng.random() < 0.2:
            return atom()
        parts = " ".join(tree(depth - 1) for _ in range(rng.integers(1, 4)))
        return f"({rng.choice(['and', 'or'])} {parts})"

    no, yes = 0, 0
    for seed in range(60):
        text = BOX + f"(assert {tree(3)}) (assert (or {tree(1)} (<= Y_0 0.5)))"
        prop = load(tmp_path, text)
        if prop.cases:
            counts = agreement(prop, 100, seed)
            no, yes = no + counts[0], yes + counts[1]
    assert min(no, yes) > 300


def test_depth_and_length_are_no_problem(tmp_path):
    deep = 50_000
    nested = "(and " * deep + "(<= Y_0 0)" + ")" * deep
    chain = "(and (<= Y_0 0) " * 5_000 + "(<= Y_1 0)" + ")" * 5_000
    total = "(+ Y_0 " * deep + "1" + ")" * deep
    many = "(assert (<= Y_1 0))\n" * 5_000
    prop = load(
        tmp_path,
        f"{BOX}(assert {nested}) (assert {chain}) (assert (<= {total} 0)){many}",
    )
    ((c, _),) = prop.cases[0].disjuncts
    assert c[:, 0].max() == deep
    assert prop.violates([0, 0], [-1, -1]) and not prop.violates([0, 0], [-1, 1])


def test_other_spellings_of_the_frame(tmp_path):
    text = (
        "(set-logic QF_LRA)\n(set-info :source |a ; ) b|)\n"
        '(set-info :note "x ) y")\n(declare-fun X_0 () Real)\r\n'
        "(declare-const Y_0 Real)(assert(<= 0 X_0 1))(assert(<= Y_0 0))(check-sat)"
    )
    prop = load(tmp_path, text, declared="\ufeff; a comment ( without end\n")
    assert (prop.num_inputs, prop.num_outputs, len(prop.cases)) == (1, 1, 1)


def test_gzip_by_suffix(tmp_path):
    path = tmp_path / "p.vnnlib.gz"
    path.write_bytes(gzip.compress((DECLARED + BOX + "(assert (<= Y_0 0))").encode()))
    assert load_vnnlib(path).num_inputs == 2
    assert load_vnnlib(str(path)).num_outputs == 2


# ------------------------------------------------- spec, violates, counterexamples


def test_specs_work_under_jit_in_both_precisions(tmp_path):
    text = "(assert (or (<= Y_0 (+ Y_1 0.1)) (and (<= Y_0 2) (<= Y_1 3))))"
    spec = load(tmp_path, BOX + text).cases[0].spec()
    margin = jax.jit(lambda s, y: s.margin(s.values(y)))
    for y, excluded in (([3, 1], True), ([3, 3], False), ([2, 1], False)):
        assert (float(margin(spec, np.array(y, np.float32))) > 0) == excluded
        with jax.enable_x64():
            value = margin(spec, np.array(y, np.float64))
        assert value.dtype == np.float64 and (float(value) > 0) == excluded


def test_violates_is_exact_and_takes_a_tolerance(tmp_path):
    # In float64, 0.1 + 0.2 > 0.3 and 1e16 + 1 == 1e16; the exact values decide.
    prop = load(tmp_path, BOX + "(assert (<= (+ Y_0 Y_1) 10000000000000000))")
    assert not prop.violates([0, 0], [1e16, 0.5])
    assert prop.violates([0, 0], [1e16, 0.5], tolerance=0.5)
    assert prop.violates([[1.0], [1.0]], [[1e16, 0.0]])
    assert not prop.violates([np.nextafter(1, 2), 0], [0, 0])
    assert prop.violates([1 + 1e-9, 0], [0, 0], tolerance=1e-8)
    assert not prop.violates([0, np.nan], [0, 0])
    assert not prop.violates([0, 0], [-np.inf, 0])
    with pytest.raises(InputError, match="x has 3 values; the property declares 2"):
        prop.violates([0, 0, 0], [0, 0])
    with pytest.raises(InputError, match="y has 1 values; the property declares 2"):
        prop.violates([0, 0], [0])
    with pytest.raises(InputError, match="tolerance is -1; it must be >= 0"):
        prop.violates([0, 0], [0, 0], tolerance=-1)


def test_counterexamples_read_back_as_they_were():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=20), [0.0, 1e-300, -1e22, 0.1, 5e-324]])
    y = rng.normal(size=(1, 3)).astype(np.float32)
    text = format_counterexample(x.reshape(5, 5), y)
    assert text.startswith("((X_0 ") and text.endswith("))")
    assert text.count("(") == text.count(")") == 29
    lines = text[1:-1].split("\n ")
    assert len(lines) == 28
    read = [re.fullmatch(r"\(([XY]_\d+) (\S+)\)", line).groups() for line in lines]
    names = [f"X_{i}" for i in range(25)] + [f"Y_{i}" for i in range(3)]
    assert [name for name, _ in read] == names
    values = np.array([float(value) for _, value in read])
    np.testing.assert_array_equal(values, np.concatenate([x, y.reshape(-1)]))
    assert format_counterexample([0.1], [2]) == "((X_0 0.1)\n (Y_0 2.0))"


# ------------------------------------------------------------------------ errors

OUT = "(assert (<= Y_0 0))"
UNSUPPORTED = [
    ("(assert (<= (* Y_0 Y_1) 1))", "a product of variables is not linear"),
    ("(assert (not (<= Y_0 1)))", "operator 'not' is not supported; known: and, or"),
    ("(assert (<= (/ Y_0 2) 1))", "operator '/' is not supported"),
    ("(declare-const Z Real)", "variable 'Z' is neither an input X_i nor an output"),
    ("(declare-const X_2 Int)", "X_2 is of sort 'Int'; only Real is supported"),
    ("(define-fun f () Real 1)", "command 'define-fun' is not supported; known:"),
    ("(assert (<= (* 0.1 0.1 Y_0) 1))", "the coefficient of Y_0 is no float64 number"),
]
MALFORMED = [
    ("(assert (<= X_7 1))", "'X_7' is neither a number nor a declared variable"),
    ("(assert (<= Y_0 1_0))", "'1_0' is neither a number nor a declared variable"),
    ("(assert (<= Y_0 nan))", "'nan' is neither a number nor a declared variable"),
    ("(assert (<= Y_0 1e999))", "number '1e999' is too large"),
    ("(assert (<= Y_0 (* 1e308 1e308)))", "a constant is too large for float64"),
    (f"(assert (<= Y_0 (* {'1.1 ' * 400})))", "too much arithmetic on constants"),
    ("(assert (<= Y_0 1)))", "')' closes nothing"),
    ("(assert (<= Y_0 1)", "'(' is never closed; the file may be truncated"),
    ("((assert (<= Y_0 1)))", "'(' where a word must stand"),
    ("assert", "'assert' outside parentheses"),
    ("()", "'()' says nothing"),
    ("(assert Y_0)", "assert takes one condition"),
    ("(assert (<= Y_0 1) (<= Y_0 1))", "assert takes one condition"),
    ("(assert (and))", "'and' joins conditions only"),
    ("(assert (or (<= Y_0 1) Y_1))", "'or' joins conditions only"),
    ("(assert (<= Y_0))", "'<=' compares two terms"),
    ("(assert (<= Y_0 (<= Y_1 1)))", "'<=' takes numbers and variables"),
    ("(assert (<= Y_0 (+)))", "'+' takes numbers and variables"),
    ("(declare-const X_0)", "not of the form (declare-const X_0 Real)"),
    ("(declare-const X_0 Real)", "X_0 is declared twice"),
    ('(assert (<= Y_0 "))', "the quotation is never closed"),
    ("(set-info :a |b)", "the quotation is never closed"),
    ("(check-sat)(assert (<= Y_0 1))", "an assertion after (check-sat) or (exit)"),
    ("(exit)(assert (<= Y_0 1))", "an assertion after (check-sat) or (exit)"),
]


@pytest.mark.parametrize("text, message", UNSUPPORTED)
def test_what_is_unsupported_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(UnsupportedError) as caught:
        load(tmp_path, f"{BOX}{OUT}\n{text}")
    line = (DECLARED + BOX).count("\n") + 2
    assert f"p.vnnlib, line {line}: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("text, message", MALFORMED)
def test_what_is_malformed_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        load(tmp_path, f"{BOX}{OUT}\n{text}")
    line = (DECLARED + BOX).count("\n") + 2
    assert f"p.vnnlib, line {line}: " in str(caught.value)
    assert message in str(caught.value)


INCOMPLETE = [
    ("(declare-const X_0 Real)", "", "declares no output Y_0: check that this is"),
    ("(declare-const Y_0 Real)", "", "declares no input X_0: check that this is"),
    (DECLARED + "(declare-const X_3 Real)", BOX, "declares X_3 but not X_2: declare"),
    (DECLARED, "", "asserts nothing: check that the file is complete"),
    ("", "", "declares no input X_0"),
    (DECLARED, BOX, "asserts nothing about the outputs; it may be truncated"),
    (
        DECLARED,
        "(assert (<= 0 X_0 1))" + OUT,
        "gives X_1 no lower bound (in some case)",
    ),
    (
        DECLARED,
        "(assert (<= 0 X_0 1)) (assert (or (<= 0 X_1 1) (<= 0 X_1)))" + OUT,
        "gives X_1 no upper bound (in some case): bound every input from both sides",
    ),
]


@pytest.mark.parametrize("declared, text, message", INCOMPLETE)
def test_what_is_incomplete_is_named(tmp_path, declared, text, message):
    with pytest.raises(InputError) as caught:
        load(tmp_path, text, declared)
    assert "p.vnnlib " in str(caught.value) and message in str(caught.value)


def test_every_truncation_is_an_error_or_loses_whole_assertions(tmp_path):
    whole = f"{BOX}{OUT}(assert (or (<= Y_1 0.25) (<= Y_1 Y_0)))"
    for cut in range(len(whole)):
        try:
            prop = load(tmp_path, whole[:cut])
        except JaxcertError:
            continue
        assert whole[:cut].count("(") == whole[:cut].count(")")
        assert prop.cases


def test_size_caps(tmp_path, monkeypatch):
    choices = "(assert (or (<= X_0 0) (<= Y_0 0)))"
    monkeypatch.setattr(vnnlib_cases, "MAX_CONJUNCTIONS", 100)
    with pytest.raises(InputError, match="p.vnnlib is too large as a disjunction of"):
        load(tmp_path, BOX + choices * 7)
    with pytest.raises(InputError, match="p.vnnlib is too large as a disjunction of"):
        load(tmp_path, f"{BOX}(assert (or {'(<= Y_0 0)' * 101}))")
    monkeypatch.setattr(vnnlib_cases, "MAX_NUMBERS", 100)
    with pytest.raises(InputError, match="32 cases of 2 inputs, more than 100 numbers"):
        load(tmp_path, BOX + choices * 5)
    monkeypatch.setattr(vnnlib_reader, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="p.vnnlib is larger than 100 bytes, the most"):
        load(tmp_path, BOX)
    packed = tmp_path / "p.vnnlib.gz"
    packed.write_bytes(gzip.compress(b" " * 1000))
    assert packed.stat().st_size < 100
    with pytest.raises(InputError, match="p.vnnlib.gz is larger than 100 bytes"):
        load_vnnlib(packed)


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(InputError, match="there is no file .*none.vnnlib: check the"):
        load_vnnlib(tmp_path / "none.vnnlib")
    with pytest.raises(InputError, match="is not a file: name a .vnnlib or"):
        load_vnnlib(tmp_path)
    whole = gzip.compress((DECLARED + BOX + OUT).encode())
    path = tmp_path / "p.vnnlib.gz"
    for data in (whole[:-20], b"plain text", whole[:30] + b"\0\1" + whole[32:]):
        path.write_bytes(data)
        with pytest.raises(InputError, match="p.vnnlib.gz is a damaged or truncated"):
            load_vnnlib(path)
    path = tmp_path / "p.vnnlib"
    for data, line in ((whole, 1), (b"; ok\n; \xff", 2), (b";\n;\n(\0)", 3)):
        path.write_bytes(data)
        with pytest.raises(InputError, match=rf"p.vnnlib, line {line}: not text\. A"):
            load_vnnlib(path)


def test_names_in_messages_are_harmless(tmp_path):
    with pytest.raises(InputError) as caught:
        load(tmp_path, "(assert (<= Y_0 \x1b[31m" + "z" * 500 + "))")
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 400


def test_the_tree_does_not_depend_on_the_order_of_disjuncts(tmp_path):
    parts = ["(<= Y_0 0)", "(and (<= Y_1 0) (>= X_0 0))", "(<= X_1 -0.5)"]
    for order in itertools.permutations(parts):
        prop = load(tmp_path, f"{BOX}(assert (or {' '.join(order)}))")
        assert prop.violates([0, 0], [1, -1])
        assert not prop.violates([-0.5, 0], [1, -1])
        agreement(prop, 50)
