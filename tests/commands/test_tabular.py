"""The script `tabular`: what it prints is inside what is proved."""

from __future__ import annotations

import contextlib
import io
import json
import re
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from in_process import answered

from jaxcert.box import Box
from jaxcert.certification import CertifyOptions
from jaxcert.checker.check import check_certificate
from jaxcert.commands.tabular import run as tabular
from jaxcert.commands.tabular.data import NO_UNIT, NOT_STATED, load_scale, load_table
from jaxcert.commands.tabular.run import Request, compute
from jaxcert.commands.tabular.text import (
    box_sentence,
    dual_sentence,
    rounded,
    rounded_outward,
)
from jaxcert.errors import InputError
from jaxcert.learning.models import load_network
from jaxcert.report import read_run
from jaxcert.scope import Scope
from jaxcert.search.dual import DualBox

TWO = {"dataset": "wine", "use": "alcohol,flavanoids", "inputs": "0:2", "hidden": (8,)}


def intervals(count: int):
    random = np.random.default_rng(0)
    for _ in range(count):
        scale = 10.0 ** random.uniform(-6, 6)
        low, width = random.normal() * scale, scale * 10.0 ** random.uniform(-7, 3)
        high = low + width
        yield low, high, low + random.uniform() ** 4 * (high - low)


def test_ends_are_rounded_to_the_safe_side_exactly():
    """As rational numbers: the printed text is inside, or outside, the doubles."""
    held, total = 0, 4000
    for low, high, value in intervals(total):
        inner = [Fraction(end) for end in rounded(low, high, value)]
        assert Fraction(low) <= inner[0] <= inner[1] <= Fraction(high)
        assert inner[1] - inner[0] >= Fraction(95, 100) * (
            Fraction(high) - Fraction(low)
        )
        held += inner[0] <= Fraction(value) <= inner[1]
        outer = [Fraction(end) for end in rounded_outward(low, high, high - low)]
        assert outer[0] <= Fraction(low) and Fraction(high) <= outer[1]
    assert held > 0.99 * total
    assert [Fraction(end) for end in rounded(0.1, 0.1)] == [Fraction(0.1)] * 2
    assert rounded(11.197, 14.903) == ("11.20", "14.90")


def test_printed_boxes_lie_inside_the_proved_ones():
    table = load_table("breast_cancer")
    scale = load_scale(table, np.arange(400), "")
    random = np.random.default_rng(1)
    domain = scale.domain
    for row in range(20):
        x, width = table.x[row], (domain.hi - domain.lo) * random.uniform(0, 0.5, 30)
        lo = np.maximum(x - width, domain.lo)
        hi = np.minimum(x + width * random.uniform(0, 1, 30), domain.hi)
        text = box_sentence(table, scale, {"predicted": 1}, x, (lo, hi))
        assert text.startswith("Class benign is guaranteed while\n")
        for i, feature in enumerate(table.features):
            free = lo[i] == domain.lo[i] and hi[i] == domain.hi[i]
            pattern = rf"^    {re.escape(feature)} (is|stays) (.*) \(now"
            found = re.search(pattern, text, re.MULTILINE)
            assert (found is None) == free, (feature, text)
            if found:
                ends = [Fraction(n) for n in re.findall(r"-?\d+\.?\d*", found[2])]
                assert all(Fraction(lo[i]) <= e <= Fraction(hi[i]) for e in ends)
                one_sided = lo[i] == domain.lo[i] or hi[i] == domain.hi[i]
                assert len(ends) == (1 if one_sided else 2)


def test_a_pinned_feature_stays_at_its_value():
    table = load_table("wine", "alcohol,hue")
    scale = load_scale(table, np.arange(100), "")
    x = table.x[0]
    box = np.array([x[0], scale.domain.lo[1]]), np.array([x[0], scale.domain.hi[1]])
    text = box_sentence(table, scale, {"predicted": 0}, x, box)
    assert text == (
        "Class 0 is guaranteed while\n    alcohol stays at 14.23 % vol,\n"
        "with any value in the observed range of\n    hue."
    )


def test_dual_sentences_round_outward_and_count():
    table = load_table("wine", "alcohol,hue")
    scale = load_scale(table, np.arange(100), "")
    lo, hi = np.asarray(scale.domain.lo), np.asarray(scale.domain.hi)
    outer = Box(lo.copy(), np.array([13.18123, hi[1]]))
    inner = Box(lo.copy(), np.array([13.15, hi[1]]))
    witness, spread = np.zeros((4, 2)), 0.01 * (hi - lo)
    box = DualBox(1, scale.domain, outer, inner, witness, spread, 3, np.ones(4))
    text = dual_sentence(table, scale, box, "in the observed range")
    assert text == (
        "No instance in the observed range is of class 1 with\n"
        "    alcohol above 13.182 % vol (one is known at 13.15).\n"
        "(3 of the 4 ends in the observed range are reached by class 1)"
    )


def test_units_are_stated_or_said_to_be_unknown():
    table = load_table("breast_cancer")
    units = dict(zip(table.features, table.units, strict=True))
    assert units["mean radius"] is NOT_STATED and units["worst area"] is NOT_STATED
    assert units["mean fractal dimension"] == NO_UNIT
    assert load_table("wine").units[0] == "% vol"


def made(output, **more):
    """Returns a run: what was asked, where it is, and what it printed."""
    request, text = Request(**TWO, epochs=30, output=str(output), **more), io.StringIO()
    with contextlib.redirect_stdout(text):
        assert compute(request) == 0
    return request, output, text.getvalue()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run that compiles little: intervals prove its boxes, which do not grow."""
    grow, options = tabular.Grower.grow, partial(CertifyOptions, attack=None)

    def late(self, names, x, answer, deadline):
        return grow(self, names, x, answer, -np.inf)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tabular, "CertifyOptions", lambda oracle, **more: options("ibp", **more)
        )
        patch.setattr(tabular.Grower, "grow", late)
        patch.setattr(tabular, "write_regions", lambda *_: None)
        return made(tmp_path_factory.mktemp("tabular") / "out", dual=False)


@pytest.mark.campaign
def test_a_run_and_its_dual_boxes_are_proved_checked_and_said(tmp_path):
    request, output, _ = whole = made(tmp_path / "out")
    for report in said(whole):
        assert report.accepted and report.faces.proved
    page = (output / "report.html").read_text()
    assert 'class="plane"' in page
    run, network = read_run(output), load_network(output / "network.npz")
    table = load_table("wine", request.use)
    lines = (output / "dual.jsonl").read_text().splitlines()
    duals = {d["class"]: d for d in map(json.loads, lines)}
    assert sorted(duals) == sorted(table.classes)
    everything = tabular._predicted(network, table.x)
    for label, name in enumerate(table.classes):
        own = table.x[everything == label]
        assert (own >= duals[name]["outer_lo"]).all()
        assert (own <= duals[name]["outer_hi"]).all()
    for row, record in enumerate(run.records):  # a sound box is inside the dual box
        if record["status"] == "certified":
            dual = duals[table.classes[record["predicted"]]]
            assert (run.grown_lo[row] >= dual["outer_lo"]).all()
            assert (run.grown_hi[row] <= dual["outer_hi"]).all()


def test_a_run_is_checked_and_said(done):
    for report in said(done):
        assert report.accepted and report.faces.proved and report.faces.open == 4


def said(whole) -> list:
    """Checks what a run says of its boxes; returns what the checker says of them."""
    request, output, text = whole
    run, network = read_run(output), load_network(output / "network.npz")
    certified = [r for r in run.records if r["status"] == "certified"]
    assert certified and run.config["feature_names"] == [
        "alcohol (% vol)",
        "flavanoids",
    ]
    table = load_table("wine", request.use)
    scale = load_scale(table, table.split(request.seed)[0], request.scale)
    random, reports = np.random.default_rng(0), []
    for row, record in enumerate(run.records):
        if record["status"] != "certified":
            continue
        lo, hi = run.grown_lo[row], run.grown_hi[row]
        assert (lo <= run.lo[row]).all() and (run.hi[row] <= hi).all()
        moved = run.lo[row] > scale.domain.lo
        radius = (run.x[row] - run.lo[row])[moved] / scale.rates.lower[moved]
        np.testing.assert_allclose(radius, record["apothem_lower"], rtol=1e-6)
        points = lo + random.uniform(size=(2000, 2)) * (hi - lo)
        predicted = tabular._predicted(network, points)
        assert (predicted == record["predicted"]).all()
        (path,) = (output / "grown").glob(f"row_{record['input'][4:]}-*.npz")
        reports.append(check_certificate(path))
        assert f"Class {record['predicted']} is guaranteed while" in text
    assert "Distances are in rates" in (output / "report.html").read_text()
    return reports


def test_a_run_is_continued_and_redoes_nothing(done, capsys, monkeypatch):
    request, output, _ = done

    def refuse(*arguments, **words):
        raise AssertionError("certified again")

    monkeypatch.setattr(tabular.Certifier, "batch_with_proofs", refuse)
    monkeypatch.setattr(tabular, "write_regions", lambda *_: None)
    before = (output / "certificates.jsonl").read_bytes()
    again = Request(**{**request.record(), "resume": True, "dual": False})
    ended = answered(lambda: compute(again), capsys)
    assert ended.code == 0 and "is guaranteed while" in ended.out
    assert (output / "certificates.jsonl").read_bytes() == before
    other = Request(**{**request.record(), "resume": True, "epochs": 5})
    ended = answered(lambda: compute(other), capsys)
    assert ended.code == 1 and "epochs is 30 there and 5 here" in ended.err


# Both searches compile; that runs are refined is tested in test_certify.py as well.
@pytest.mark.campaign
def test_a_longer_limit_refines_open_brackets(tmp_path, monkeypatch):
    batch, asked = tabular.Certifier.batch_with_proofs, []

    def noted(self, x, labels, deadline, **known):
        asked.append(len(x))
        return batch(self, x, labels, 0.0 if len(asked) == 1 else deadline, **known)

    monkeypatch.setattr(tabular.Certifier, "batch_with_proofs", noted)
    request, output, _ = made(tmp_path / "out", dual=False, time_limit=200.0)
    before = read_run(output).records
    widths = [r["apothem_upper"] - r["apothem_lower"] for r in before]
    wide = [r["input"] for r, w in zip(before, widths, strict=True) if w > 1e-3]
    assert wide and asked == [2]

    def again(seconds):
        words = {**request.record(), "resume": True, "time_limit": seconds}
        with contextlib.redirect_stdout(io.StringIO()) as text:
            assert compute(Request(**words)) == 0
        return read_run(output).records, text.getvalue()

    assert again(200.0)[0] == before and asked == [2]
    after, text = again(400.0)
    assert asked == [2, len(wide)] and after != before
    for old, new in zip(before, after, strict=True):
        assert new["apothem_upper"] - new["apothem_lower"] <= 1e-3
        assert old["apothem_lower"] <= new["apothem_lower"] <= old["apothem_upper"]
        if old["input"] not in wide:
            assert new == old
    for report in said((request, output, text)):
        assert report.accepted
    assert again(800.0)[0] == after and asked == [2, len(wide)]


def test_what_proofs_take_for_granted_is_said_and_recorded(
    tmp_path, capsys, monkeypatch
):
    taken = Scope(("float32",), ("the moon is round",), ())

    def recorded(*given):
        assert taken in given
        raise InputError("no further")

    monkeypatch.setattr(tabular, "scope_of", lambda *_: taken)
    monkeypatch.setattr(tabular, "RunFiles", recorded)
    request = Request(**TWO, epochs=1, output=str(tmp_path / "out"))
    ended = answered(lambda: compute(request), capsys)
    assert ended.code == 1 and "error: no further" in ended.err
    assert "warning: taken for granted: the moon is round" in ended.err


def own_table(path, text):
    path.write_text(text)
    return load_table(str(path))


def test_a_table_of_ones_own(tmp_path):
    path = tmp_path / "pears.csv"
    rows = [f"{k / 8}, {k % 3} ,{10 - k % 2},{k}" for k in range(8)]
    table = own_table(path, "\n".join(["weight, ripe,class,age", *rows]))
    assert table.features == ("weight", "ripe", "age")
    assert table.classes == ("9", "10") and table.units == (NOT_STATED,) * 3
    assert table.labels.tolist() == [1, 0] * 4 and table.x.shape == (8, 3)
    assert table.x[3].tolist() == [0.375, 0.0, 3.0]
    assert load_table(str(path), "age,weight").x[3].tolist() == [3.0, 0.375]
    other = own_table(path, "\ufeffa,kind\n" + "1,ja\n2.5,nein\n" * 4)
    assert other.classes == ("ja", "nein") and other.labels.tolist() == [0, 1] * 4
    assert other.name.startswith("pears.csv ") and other.name != table.name
    for text, message in (
        ("", "the first line must name at least two columns, each once"),
        ("class\n1\n", "the first line must name at least two columns"),
        ("a,a,class\n1,2,3\n", "each once, the class among them; it is 'a,a,class'"),
        ("a,class\n1\n", "pears.csv, line 2 has not 2 cells, as the first line"),
        ("a,class\n1,2,3\n", "pears.csv, line 2 has not 2 cells"),
        ("a,class\n1,x\nred,x\n", "line 3: a is 'red'; give a finite number"),
        ("a,class\n1,x\n1,y\n", "has 2 rows of 2 classes (column 'class'); a table"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            own_table(path, text)


def test_mistakes_are_one_line(tmp_path):
    table = load_table("wine", "hue")
    for text, message in (
        ("unit\n%\n", "the first line must name columns out of feature, unit"),
        ("feature,color\nhue,1\n", "the first line must name columns"),
        ("feature,lower\nhues,1\n", "line 2: there is no feature 'hues'"),
        ("feature,lower\nhue,x\n", "line 2: lower is 'x'; give a finite number"),
        ("feature,rate\nhue,inf\n", "rate is 'inf'; give a finite number"),
        ("feature,lower,upper\nhue,2,1\n", "hue: lower 2 is not below upper 1"),
        ("feature,rate\nhue,-1\n", "hue: rate -1 is negative"),
    ):
        path = tmp_path / "scale.csv"
        path.write_text(text)
        with pytest.raises(InputError, match=re.escape(message)):
            load_scale(table, np.arange(50), str(path))
    path.write_text("feature,unit,lower,upper,rate\nhue,deg,0,2,\n")
    scale = load_scale(table, np.arange(50), str(path))
    assert scale.units == ("deg",) and not scale.observed and scale.deviations
    assert (scale.domain.lo, scale.domain.hi) == (0, 2)
    for call, message in (
        (lambda: load_table("iris"), "unknown data 'iris'; choose one of breast"),
        (lambda: load_table("wine", "hu"), "there is no feature 'hu'"),
        (lambda: load_table("wine", "hue,hue"), "a feature stands twice"),
        (lambda: Request(output=""), "output is empty"),
        (lambda: Request(within=-1), "within is -1; it must be a number >= 0"),
        (lambda: Request(time_limit=0), "time_limit is 0; it must be > 0"),
        (lambda: Request(epsilon=1), "epsilon is 1; it must lie in [0, 1)"),
        (lambda: Request(seed=-1), "seed is -1"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            call()
