"""The page that a run is reported on, and its pictures."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from cases import sampled
from made_runs import (
    CONFIG,
    EDGES,
    arrays,
    grown_records,
    many,
    record,
    with_grown,
    write,
)

from jaxcert.errors import InputError
from jaxcert.report import (
    RunFiles,
    read_run,
    write_report,
)
from jaxcert.report.page import _TILES, choose, write_page
from jaxcert.report.pictures import MIXED, as_image, domain_of, image_shape, units
from jaxcert.report.regions import Regions
from jaxcert.report.summary import format_number


class Page(HTMLParser):
    """Gathers the pictures and the text of a page, which loads nothing."""

    def __init__(self, path):
        super().__init__()
        self.sources, self.tags, self.words, self.marks = [], [], [], []
        self.feed(Path(path).read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())
        assert self.tags.count("script") == 1 and "link" not in self.tags
        assert all(s.startswith("data:image/png;base64,") for s in self.sources)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            if key in ("src", "srcset", "href"):
                self.sources.append(value)
            if key in ("class", "id"):
                self.marks += value.split()

    def handle_data(self, data):
        if self.tags[-1:] not in (["script"], ["style"]):
            self.words.append(data)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((8, 8), (8, 8, 1)),
        ((8, 9, 1), (8, 9, 1)),
        ((8, 9, 3), (8, 9, 3)),
        ((1, 8, 9), (8, 9, 1)),
        ((3, 8, 9), (8, 9, 3)),
        ((1, 1, 28, 28), (28, 28, 1)),
        ((784,), (28, 28, 1)),
        ((1, 64), (8, 8, 1)),
        ((5,), None),
        ((25,), None),
        ((1, 1, 1, 5), None),
        ((40,), None),
        ((2, 3, 4, 5), None),
        ((), None),
    ],
)
def test_shapes_of_images(shape, layout):
    assert image_shape(shape) == layout
    array = np.arange(math.prod(shape), dtype=float).reshape(shape)
    if layout is None:
        with pytest.raises(InputError, match="is not an image"):
            as_image(array)
    else:
        assert as_image(array).shape == layout
        if shape == (3, 8, 9):
            np.testing.assert_array_equal(as_image(array)[..., 2], array[2])


@pytest.mark.parametrize(
    "shape", sampled([(8, 8), (64,), (3, 8, 9), (8, 9, 1)]), ids=str
)
def test_report_of_images(tmp_path, shape):
    records = [record(str(i), 0.01 * (i + 1), 0.01 * (i + 2)) for i in range(3)]
    records += [record("w", status="misclassified"), record("i", 0.02, math.inf)]
    write(tmp_path, records, shape)
    page = Page(write_report(tmp_path))
    names = [m for m in page.marks if m in _TILES]
    # Seven tiles each, five without a counterexample, one without a box.
    assert len(names) == 3 * 7 + 5 + 1
    assert "4 of 5 inputs certified" in page.text
    assert "Label 3, predicted 4. Apothem 0, no box." in page.text
    assert "Apothem bracket [0.0100, 0.0200]" in page.text
    assert "No counterexample found" in page.text
    assert "not finished" not in page.text


def test_slack_tiles_hatch_the_domain_boundary(tmp_path):
    from matplotlib.image import imread

    x = np.full((1, 8, 8), 0.5)
    x[0, 0, :] = 0.0
    edges = (0.1, 0.1875, 0.2, 8 * math.log(0.1) + 56 * math.log(0.2))
    one = [record("0", 0.1, math.inf, **dict(zip(EDGES, edges, strict=True)))]
    with RunFiles(tmp_path, False, CONFIG) as files:
        files.append(one, x, np.clip(x - 0.1, 0, 1), np.clip(x + 0.1, 0, 1))
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()

    def tile(name):
        shown = re.search(rf'class="{name}"><img src="data:[^,]*,([^"]*)"', page)
        return imread(io.BytesIO(base64.b64decode(shown[1])))[..., :3]

    down, up = tile("slack-down"), tile("slack-up")
    grey = np.ptp(down, axis=2) == 0
    height = down.shape[0] // 8
    assert grey[:height].all() and not grey[height:].any()
    assert not (np.ptp(up, axis=2) == 0).any()


def test_report_of_features_names_the_least_slack(tmp_path):
    records = [record(str(i), 0.05) for i in range(2)]
    config = {
        **CONFIG,
        "domain_lower": [0.0] * 40,
        "domain_upper": [1.0] * 39 + [2.0],
        "feature_names": [f"cost $ {i}" for i in range(40)],
    }
    with RunFiles(tmp_path, resume=False, config=config) as files:
        files.append(records, *arrays(records, (40,)))
    page = Page(write_report(tmp_path))
    assert "The 24 of 40 features with the least slack." in page.text
    assert page.marks.count("bars") == 2
    assert units(config, (40,)) == MIXED
    assert "min edge" not in page.text  # of features whose ranges differ


def test_domain_and_units():
    lo, hi = domain_of({}, (2, 3))
    assert (lo == 0).all() and (hi == 1).all() and lo.shape == (2, 3)
    assert units({}, (28, 28)) == "input units, 1 = full pixel range"
    assert units({"domain_lower": -1, "domain_upper": 1}, (5,)) == (
        "input units, 2 = full feature range"
    )
    unbounded = {"domain_lower": -math.inf, "domain_upper": math.inf}
    assert units(unbounded, (5,)) == "input units"
    with pytest.raises(InputError, match="domain_lower has 2 values, inputs have sha"):
        domain_of({"domain_lower": [0, 1]}, (5,))


@pytest.mark.parametrize("shape", sampled([(5,), (8, 8)]), ids=str)
def test_report_of_an_unbounded_domain(tmp_path, shape):
    config = {**CONFIG, "domain_lower": -math.inf, "domain_upper": math.inf}
    write(tmp_path, [record("0"), record("1", 0.1, math.inf)], shape, config)
    assert "[-inf, inf]" in Page(write_report(tmp_path)).text


@pytest.mark.parametrize("shape", sampled([(8, 8), (5,)]), ids=str)
def test_report_where_everything_is_misclassified(tmp_path, shape):
    write(tmp_path, [record(str(i), status="misclassified") for i in range(3)], shape)
    page = Page(write_report(tmp_path))
    assert "0 of 3 inputs certified. 3 are misclassified" in page.text
    assert "apothems" not in page.marks and "certified-accuracy" in page.marks


def test_report_of_an_empty_run_and_of_an_unfinished_one(tmp_path):
    write(tmp_path / "empty", [])
    page = Page(write_report(tmp_path / "empty"))
    assert "The run holds no input yet." in page.text and not page.sources
    write(tmp_path / "half", [record("0")], finish=False)
    assert "This run is not finished" in Page(write_report(tmp_path / "half")).text


def test_names_are_escaped(tmp_path):
    evil = '<script>alert("x")</script>&<b>'
    config = {**CONFIG, "model": evil, "note": evil, "class_names": [evil] * 10}
    write(tmp_path, [record(evil), record("\udcff.csv")], config=config)
    page = Page(write_report(tmp_path))  # Page takes one script, ours
    assert page.text.count('<script>alert("x")</script>&<b>') >= 4


@pytest.mark.campaign
def test_report_of_many_inputs(tmp_path):
    write(tmp_path, many(300), (5, 5))
    page = Page(write_report(tmp_path))
    assert "All 300; a click on a heading sorts them." in page.text
    assert page.tags.count("article") == 12 and page.tags.count("tr") > 300
    assert page.marks.count("sortable") == 2
    assert not (tmp_path / "pictures").exists()
    assert Page(write_report(tmp_path)).sources == page.sources


def test_report_that_cannot_be_written(tmp_path):
    write(tmp_path, [record("0")])
    (tmp_path / "report.html").mkdir()
    with pytest.raises(InputError, match="cannot write the report .*: Is a directory"):
        write_report(tmp_path)


@pytest.mark.parametrize("counts", [(50, 5, 5), (3, 40, 0), (3, 0, 40), (0, 9, 9)])
def test_the_gallery_covers_the_range(counts):
    records = [
        record(str(i), 0.001 * i, 1.0, status)
        for status, count in zip(
            ("certified", "unknown", "misclassified"), counts, strict=True
        )
        for i in range(count)
    ]
    rows = choose(records)
    assert len(rows) == 12 == len(set(rows))
    chosen = [records[row] for row in rows]
    certified = [r["apothem_lower"] for r in chosen if r["status"] == "certified"]
    assert certified == sorted(certified)
    if counts[0]:
        assert certified[0] == 0.0
        assert certified[-1] == pytest.approx(0.001 * (counts[0] - 1))
    for status, count in zip(("unknown", "misclassified"), counts[1:], strict=True):
        shown = sum(r["status"] == status for r in chosen)
        assert shown >= min(2, count)


def test_importing_the_report_loads_nothing_heavy():
    code = (
        "import sys; before = set(sys.modules); import jaxcert;"
        "already = set(sys.modules); import jaxcert.report;"
        "heavy = {'jax', 'matplotlib', 'jinja2', 'rich', 'flax', 'scipy'};"
        "print(sorted(heavy & (set(sys.modules) - already)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("proof", sampled([True, None, False]))
def test_report_of_grown_images(tmp_path, proof):
    records = grown_records(proof)
    with RunFiles(tmp_path, resume=False, config=CONFIG) as files:
        files.append(records, *with_grown(records, (8, 8)))
        files.finish()
    page = write_report(tmp_path).read_text()
    for name in ("grown-lower", "grown-upper", "grown-edges"):
        assert page.count(f'class="{name}"') == 2
    means = records[0]["grown"]["mean_edge"], records[0]["mean_edge"]
    large, small = (format_number(mean, "down") for mean in means)
    assert f"Grown (min edge): mean edge {large} instead of {small}" in page
    assert "124 stopped by a counterexample at most 0.001 beyond, 1 open" in page
    assert ("certificate of the box and its faces" in page) == (proof is True)
    assert ("certificate of its faces alone" in page) == (proof is False)


@pytest.mark.campaign
def test_edges_of_features_in_different_units_are_not_averaged(tmp_path):
    records = grown_records(True)
    config = {**CONFIG, "rates_are": "standard deviations", "rates": [1.0, 2.0]}
    with RunFiles(tmp_path, resume=False, config=config) as files:
        files.append(records, *with_grown(records, (2,), config))
        files.finish()
    run = read_run(tmp_path)
    for upper, shown in ((1.0, True), ([1.0, 30.0], False)):
        own = dataclasses.replace(run, config={**run.config, "domain_upper": upper})
        page = write_page(own, tmp_path / "page.html").read_text()
        assert ("mean edge" in page) == shown


def test_report_of_two_features_draws_the_plane(tmp_path):
    records = grown_records(True)
    config = {**CONFIG, "rates_are": "standard deviations", "rates": [1.0, 2.0]}
    with RunFiles(tmp_path, resume=False, config=config) as files:
        files.append(records, *with_grown(records, (2,), config))
        files.finish()
    axis = np.linspace(0, 1, 5)
    everywhere = np.zeros((9, 2)), np.ones((9, 2))
    classes = np.arange(25, dtype=np.int32).reshape(5, 5) % 9
    Regions(axis, axis, classes, *everywhere).write(tmp_path)
    page = write_report(tmp_path).read_text()
    assert page.count('class="plane"') == 3 and "Distances are in rates" in page
    assert "3 grown boxes have a certificate in the folder grown" not in page
    assert page.count("grown boxes have a certificate") == 1
    (tmp_path / "regions.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"regions.npz is damaged .* Delete it"):
        write_report(tmp_path)
