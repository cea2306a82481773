"""The numbers and the table that a run comes to."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_runs import (
    many,
    record,
)

from jaxcert.errors import InputError
from jaxcert.report import (
    sentence,
    summarise,
    table,
)
from jaxcert.report.summary import format_number, format_percent, telling_radii


def test_summary_against_numbers_done_by_hand():
    records = [
        record("0", 0.02, 0.04),
        record("1", 0.10, 0.12),
        record("2", 0.00, 0.08, status="unknown"),
        record("3", status="misclassified"),
    ]
    s = summarise(records, radii=(0.0, 0.02, 0.05, 0.12, 0.13))
    assert (s["n"], s["certified"], s["misclassified"], s["unknown"]) == (4, 2, 1, 1)
    assert s["correct"] == 3
    assert s["mean_apothem_lower"] == pytest.approx(0.04)
    assert s["median_apothem_lower"] == 0.02
    assert s["mean_apothem_upper"] == pytest.approx(0.08)
    assert s["median_apothem_upper"] == 0.08
    assert s["mean_apothem_lower_all"] == pytest.approx(0.03)
    assert s["median_apothem_lower_all"] == pytest.approx(0.01)
    assert s["mean_apothem_upper_all"] == pytest.approx(0.06)
    assert s["mean_apothem_certified"] == pytest.approx(0.06)
    assert s["least_apothem_certified"] == 0.02
    assert s["oracle_calls"] == 28 and s["seconds"] == 1.0
    assert [row["proved"] for row in s["certified_accuracy"]] == [
        0.5,  # at radius 0 the unknown input is not proved
        0.5,
        0.25,
        0.0,
        0.0,
    ]
    assert [row["not_refuted"] for row in s["certified_accuracy"]] == [
        0.75,
        0.75,
        0.5,
        0.25,
        0.0,
    ]
    assert [row["radius"] for row in summarise(records)["certified_accuracy"]] == [
        0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2,
    ]  # fmt: skip
    assert sentence(s) == (
        "2 of 4 inputs proved at radius 0.02: each feature may move by 0.02 at once, "
        "and the prediction stays. 2 certified, each at a radius of its own: mean "
        "0.0600, weakest 0.0200. Counterexamples are stored at 0.0800 (mean). 1 is "
        "misclassified (apothem 0, no box). 1 is unknown: neither proved nor refuted, "
        "so nothing is claimed."
    )


def test_summary_of_nothing_and_of_errors_only():
    empty = summarise([])
    assert empty["n"] == 0 and empty["mean_apothem_lower"] is None
    assert sentence(empty).startswith("No input was certified")
    wrong = summarise([record("0", status="misclassified")])
    assert wrong["mean_apothem_lower"] is None and wrong["mean_apothem_lower_all"] == 0
    assert sentence(wrong) == (
        "0 of 1 input certified. 1 is misclassified (apothem 0, no box)."
    )


def test_the_headline_is_true_of_the_inputs_that_it_counts():
    # 99 strong inputs and a weak one: their mean is no guarantee.
    records = [record(str(i), 0.2, 0.3) for i in range(99)] + [record("w", 6e-4, 1e-3)]
    assert sentence(summarise(records)).startswith(
        "99 of 100 inputs proved at radius 0.2: each feature may move by 0.2 at once, "
        "and the prediction stays. 100 certified, each at a radius of its own: mean "
        "0.1980, weakest 6.00e-04."
    )
    asked = sentence(summarise(records, radius=0.25))
    assert asked.startswith("0 of 100 inputs proved at radius 0.25: ")
    assert "at least" not in asked
    for lower in (1e-7, 3e-3, 0.0999, 0.1, 0.3, 7.0, 5e4):
        radius = summarise([record("0", lower, 2 * lower)])["radius"]
        assert lower / 2.5 < radius <= lower and f"{radius:e}"[0] in "125"


@pytest.mark.parametrize("scale", [1e-6, 0.03, 40.0])
def test_radii_of_certified_accuracy_lie_among_the_proved_ends(scale):
    ends = scale * np.array([0.4, 0.9, 1.0])
    first, *radii, beyond = telling_radii([{"apothem_lower": end} for end in ends])
    assert first == 0 and max(radii) <= scale < beyond and len(radii) > 3
    assert all(f"{radius:.0e}"[0] in "125" for radius in (*radii, beyond))


def test_infinite_apothems_are_said_in_words():
    text = sentence(summarise([record("0", math.inf, math.inf)]))
    assert text.startswith(
        "1 of 1 input proved on the whole domain: each feature may take any value in "
        "it, and the prediction stays. No counterexample"
    )
    assert "No counterexample is known." in text


@pytest.mark.parametrize("lower, closed", [(0.0599, True), (0.0597, False)])
def test_closed_brackets_are_said_to_be(lower, closed):
    records = [
        record("0", lower, 0.06),
        record("1", math.inf, math.inf),
        record("2", status="misclassified"),
    ]
    said = "Every bracket is closed to 0.0002: the apothems are exact to that."
    summary = summarise(records)
    assert (said in sentence(summary, tolerance=2e-4)) is closed
    assert "closed" not in sentence(summary)


def test_no_printed_bracket_claims_more_than_the_stored_one():
    rng = np.random.default_rng(0)
    values = 10 ** rng.uniform(-12, 9, 500)
    for value in [*values, 1e-320, 0.1, 0.00099999, 999.99999, 1e300]:
        down, up = format_number(value, "down"), format_number(value, "up")
        assert float(down) <= value <= float(up)
        assert len(down) <= 9 and len(up) <= 9
        assert float(up) - float(down) <= max(1.01e-4, 0.011 * value)
    assert format_number(0.06129, "down") == "0.0612"
    assert format_number(0.06121, "up") == "0.0613"
    assert format_number(-1805.23, "down") == "-1805.3"
    assert format_number(None) == "-" and format_number(-math.inf) == "-inf"
    assert format_percent(2, 3, "down") == "66.6%"
    assert format_percent(2, 3, "up") == "66.7%"


AWKWARD = [
    record("0", math.inf, math.inf, log_volume=-math.inf),
    record("x" * 300 + ".csv", 1e-12, 123456.789),
    record("\x1b[31mred\n", 0.99999, 1e300, label=123456789),
    record("é中文", status="misclassified"),
    record("4", 0.0, math.inf, status="unknown", label=3),
]


@pytest.mark.parametrize("width", [66, 80, 120])
@pytest.mark.parametrize(
    "records",
    [
        [],
        AWKWARD,
        AWKWARD * 5,
        many(20),
        many(21),
        many(10_000),
        many(10_000, 1000),
        [{**r, "label": None} for r in AWKWARD * 5],
        [record(str(i), status="misclassified") for i in range(30)],
    ],
    ids=str,
)
def test_the_table_fits(records, width):
    lines = table(records, summarise(records), width).split("\n")
    assert max(len(line) for line in lines) <= width
    assert len(lines) < 45
    assert all(" " <= c <= "~" for line in lines for c in line)


def test_the_table_says_what_it_means():
    few = table(AWKWARD, summarise(AWKWARD))
    assert "misclassified         0         0    no box" in few
    assert "inf       inf" in few and "?[31mred?" in few
    records = many(100)
    text = table(records, summarise(records))
    words = " ".join(text.split())
    assert "of 100 inputs proved at radius 0.05: each feature may move by" in words
    assert "50 certified, each at a radius of its own: mean 0." in words
    assert "* without infinite upper ends" in text
    row = next(line for line in text.split("\n") if line.startswith("all"))
    assert row.split()[1:5] == ["100", "50", "25", "25"]
    classes = table(many(200, 50), summarise(many(200, 50)))
    assert "(the 20 largest of 50 classes)" in classes
    with pytest.raises(InputError, match="a table needs 66 columns, got 20"):
        table(records, summarise(records), width=20)
