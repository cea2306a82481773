"""The files, the table and the report of a run."""

from __future__ import annotations

import errno
import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from jaxcert.errors import InputError
from jaxcert.report import (
    BOX_KEYS,
    RECORD_KEYS,
    RunFiles,
    read_run,
    sentence,
    summarise,
    table,
    write_report,
)
from jaxcert.report.page import choose
from jaxcert.report.pictures import as_image, domain_of, image_shape, units
from jaxcert.report.regions import Regions
from jaxcert.report.stored import part_paths
from jaxcert.report.summary import format_number, format_percent
from jaxcert.runs.files import file_stem, writing

EDGES = ("min_edge", "mean_edge", "max_edge", "log_volume")
CONFIG = {
    "model": "net.onnx",
    "model_hash": "ab" * 32,
    "dataset": "digits",
    "domain_lower": 0.0,
    "domain_upper": 1.0,
    "oracle": "crown",
    "tolerance": 1e-3,
    "time_limit": math.inf,
    "bounds": (0, 1),
}


def record(name, lower=0.05, upper=0.06, status="certified", label=3, **changes):
    """Returns a record; a misclassified one has apothem 0 and no edges."""
    wrong = status == "misclassified"
    values = {
        "input": name,
        "label": label,
        "predicted": label + 1 if wrong else label,
        "status": status,
        "objective": "apothem",
        "apothem_lower": 0.0 if wrong else lower,
        "apothem_upper": 0.0 if wrong else upper,
        "min_edge": math.nan if wrong else lower,
        "mean_edge": None if wrong else lower,
        "max_edge": None if wrong else 2 * lower,
        "log_volume": None if wrong else -12.5,
        "required_margin": 0.0,
        "arithmetic": "real",
        "oracle": "crown",
        "oracle_calls": 7,
        "subproblems": 0,
        "seconds": 0.25,
    }
    return {**values, **changes}


def arrays(records, shape=(8, 8), seed=0, config=CONFIG):
    """Returns x, lo, hi, witness, witness_class for the records.

    What their lines say of edges is made to agree with the boxes.
    """
    rng = np.random.default_rng(seed)
    lower, upper = (config[key] for key in ("domain_lower", "domain_upper"))
    known = np.isfinite([lower, upper]).all()
    x = rng.random((len(records), *shape)) * (upper - lower if known else 1)
    x += lower if known else 0
    lo, hi, witness = np.full((3, *x.shape), np.nan)
    rates = np.reshape(config.get("rates", np.ones(shape)), shape)
    classes = np.full(len(records), -1)
    for i, rec in enumerate(records):
        if rec["status"] == "certified":
            r = rec["apothem_lower"] * rates
            lo[i] = np.clip(x[i] - r, lower, upper)
            hi[i] = np.clip(x[i] + r, lower, upper)
            edges = hi[i] - lo[i]
            found = edges.min(), edges.mean(), edges.max(), np.log(edges).sum()
            rec |= zip(EDGES, map(float, found), strict=True)
        else:
            rec |= dict.fromkeys(EDGES)
        if rec["status"] != "misclassified" and math.isfinite(rec["apothem_upper"]):
            flat = x[i].ravel().copy()
            at = np.argmin(abs(flat - (lower + upper) / 2)) if known else 0
            way = 1 if not known or flat[at] < (lower + upper) / 2 else -1
            flat[at] += way * rec["apothem_upper"] * rates.ravel()[at]
            witness[i], classes[i] = flat.reshape(shape), 5
    return x, lo, hi, witness, classes


def write(path, records, shape=(8, 8), config=CONFIG, finish=True):
    with RunFiles(path, resume=False, config=config) as files:
        if records:
            files.append(records, *arrays(records, shape, config=config))
        if finish:
            files.finish()


def many(n, classes=10):
    rng = np.random.default_rng(1)
    statuses = ("certified", "certified", "misclassified", "unknown")
    records = []
    for i in range(n):
        status = statuses[i % 4]
        lower = 0.0 if status == "unknown" else float(rng.gamma(4, 0.02))
        upper = math.inf if i % 11 == 0 else lower + 0.01
        records.append(record(str(i), lower, upper, status, label=i % classes))
    return records


# --- files ---------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path):
    records = [record("0"), record("1", status="misclassified"), record("a b.csv")]
    x, lo, hi, witness, classes = arrays(records)
    with RunFiles(tmp_path / "a" / "b", False, CONFIG, {"inputs": "0:3"}) as files:
        files.append(records[:1], x[:1], lo[:1], hi[:1], witness[:1], classes[:1])
        files.append(records[1:], x[1:], lo[1:], hi[1:], witness[1:], classes[1:])
        summary = files.finish()
    run = read_run(tmp_path / "a" / "b")
    assert [list(r) for r in run.records] == [list(RECORD_KEYS)] * 3
    assert run.records[0] == records[0] and run.records[2] == records[2]
    assert run.records[1]["min_edge"] is None
    np.testing.assert_array_equal(run.x, x)
    np.testing.assert_array_equal(run.hi[[0, 2]], hi[[0, 2]])
    np.testing.assert_array_equal(run.witness, witness)
    np.testing.assert_array_equal(run.witness_class, classes)
    assert np.isnan(run.lo[1]).all() and np.isnan(run.hi[1]).all()
    assert run.config["time_limit"] == math.inf and run.config["bounds"] == [0, 1]
    assert summary["complete"] and summary["flags"] == {"inputs": "0:3"}
    assert {"python", "jax", "numpy", "jaxcert"} <= set(run.about["versions"])
    assert run.about["wall_seconds"] >= 0 and "cpu" in run.about["device"].lower()
    assert not run.notices and not (tmp_path / "a" / "b" / "parts").exists()


def test_boxes_need_no_pickle_and_keep_their_type(tmp_path):
    records = [record("0"), record("1")]
    x, lo, hi, witness, classes = arrays(records)
    with RunFiles(tmp_path, False, CONFIG) as files:
        files.append(records, x.astype(np.float32), lo, hi)
    with np.load(tmp_path / "boxes.npz", allow_pickle=False) as stored:
        assert tuple(stored) == BOX_KEYS
        assert stored["input"].dtype.kind == "U" and stored["x"].dtype == np.float32
        np.testing.assert_array_equal(stored["lo"], lo)
        assert np.isnan(stored["witness"]).all()
        assert stored["witness_class"].tolist() == [-1, -1]


def test_infinities_are_strings_and_come_back(tmp_path):
    x = np.full((2, 8, 8), 0.5)
    x[:, 0, 0] = 0.0
    lo, hi = np.zeros((2, 8, 8)), np.ones((2, 8, 8))
    # A feature that the domain fixes has an edge of 0.
    config = {**CONFIG, "domain_lower": lo[0], "domain_upper": hi[0]}
    hi[:, 0, 0] = 0.0
    lo[1, 1:], hi[1, 1:] = 0.4, 0.6
    lo[1, 0, 1:], hi[1, 0, 1:] = 0.4, 0.6
    edges = {"max_edge": 1.0, "mean_edge": 63 / 64, "min_edge": 0.0}
    infinite = record("Infinity", math.inf, math.inf, log_volume=-math.inf, **edges)
    edges = {"max_edge": 0.2, "mean_edge": 0.2 * 63 / 64, "min_edge": 0.0}
    other = record("1", 0.1, np.float32(math.inf), log_volume=-math.inf, **edges)
    with RunFiles(tmp_path, resume=False, config=config) as files:
        files.append([infinite, other], x, lo, hi)
        files.finish()
    text = (tmp_path / "certificates.jsonl").read_text()

    def refuse(token):
        raise AssertionError(f"not strict JSON: {token}")

    first, second = [json.loads(s, parse_constant=refuse) for s in text.splitlines()]
    assert first["apothem_upper"] == "Infinity" and first["log_volume"] == "-Infinity"
    json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    json.loads((tmp_path / "run.json").read_text(), parse_constant=refuse)
    run = read_run(tmp_path)
    assert run.records[0]["input"] == "Infinity"
    assert run.records[0]["apothem_lower"] == math.inf
    assert run.records[0]["log_volume"] == -math.inf
    assert run.records[1]["apothem_upper"] == math.inf
    assert run.about["mean_apothem_upper"] == math.inf


def test_lines_and_boxes_are_on_disk_before_append_returns(tmp_path):
    records = [record("0"), record("1")]
    files = RunFiles(tmp_path, False, CONFIG)
    files.append(records, *arrays(records))
    run = read_run(tmp_path)  # the writer is still open, as after a kill
    assert len(run.records) == 2 and run.about == {}
    again = RunFiles(tmp_path, True, CONFIG)
    assert again.done == {"0", "1"} and not again.notices
    again.close()


def test_a_torn_line_is_dropped_and_redone(tmp_path):
    records = [record(str(i)) for i in range(4)]
    rows = arrays(records)
    files = RunFiles(tmp_path, False, CONFIG)
    files.append(records[:2], *(a[:2] for a in rows))
    files.append(records[2:], *(a[2:] for a in rows))
    path = tmp_path / "certificates.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert "torn" in read_run(tmp_path).notices[0]
    with RunFiles(tmp_path, True, CONFIG) as files:
        assert files.done == {"0", "1", "2"}
        assert files.notices == [
            f"{path}: the last line is torn (the run was killed); it is dropped"
        ]
        other = [a[3:].copy() for a in rows]
        for array in other[:4]:
            array[:] = array[:, ::-1]
        files.append(records[3:], *other)
        files.finish()
    assert path.read_bytes() == whole
    # Of the two answers to input 3 the newer one counts.
    np.testing.assert_array_equal(read_run(tmp_path).x[3], rows[0][3, ::-1])


def test_every_length_of_a_killed_file_is_recovered(tmp_path):
    records = [record("0"), record("1", status="misclassified")]
    rows = arrays(records, (3,))
    files = RunFiles(tmp_path, False, CONFIG)
    files.append(records, *rows)
    path = tmp_path / "certificates.jsonl"
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(1, len(whole) + 1, 7):
        path.write_bytes(whole[:length])
        files = RunFiles(tmp_path, True, CONFIG)
        assert files.done == {str(i) for i in range(sum(e <= length for e in ends))}


def test_a_kill_between_boxes_and_lines_redoes_the_chunk(tmp_path):
    records = [record("0"), record("1")]
    rows = arrays(records)
    files = RunFiles(tmp_path, False, CONFIG)
    files.append(records[:1], *(a[:1] for a in rows))
    files.append(records[1:], *(a[1:] for a in rows))
    path = tmp_path / "certificates.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    (tmp_path / "parts" / "boxes-00002.npz.tmp").write_bytes(b"half")
    with RunFiles(tmp_path, True, CONFIG) as files:
        assert files.done == {"0"} and not files.notices
        files.append(records[1:], *(a[1:] for a in rows))
    assert [r["input"] for r in read_run(tmp_path).records] == ["0", "1"]
    assert not (tmp_path / "parts").exists()


def test_a_line_without_its_box_is_redone(tmp_path):
    records = [record("0"), record("1")]
    rows = arrays(records)
    files = RunFiles(tmp_path, False, CONFIG)
    files.append(records[:1], *(a[:1] for a in rows))
    files.append(records[1:], *(a[1:] for a in rows))
    part_paths(tmp_path)[0].unlink()
    with pytest.raises(InputError, match="1 lines .* have no box .* --resume"):
        read_run(tmp_path)
    with RunFiles(tmp_path, True, CONFIG) as files:
        assert files.done == {"1"} and "no stored box" in files.notices[0]
        files.append(records[:1], *(a[:1] for a in rows))
    run = read_run(tmp_path)
    assert [r["input"] for r in run.records] == ["1", "0"]
    np.testing.assert_array_equal(run.x, rows[0][::-1])


def test_an_interrupt_leaves_a_whole_run_that_can_be_continued(tmp_path):
    records = [record(str(i)) for i in range(3)]
    rows = arrays(records)
    with pytest.raises(KeyboardInterrupt):
        with RunFiles(tmp_path, False, CONFIG) as files:
            files.append(records[:2], *(a[:2] for a in rows))
            raise KeyboardInterrupt
    assert read_run(tmp_path).about["complete"] is False
    assert (tmp_path / "boxes.npz").exists()
    with RunFiles(tmp_path, True, CONFIG) as files:
        assert files.done == {"0", "1"}
        files.append(records[2:], *(a[2:] for a in rows))
        assert files.finish()["n"] == 3
    run = read_run(tmp_path)
    np.testing.assert_array_equal(run.x, rows[0])
    assert run.about["complete"] is True


def test_resume_begins_a_run_where_there_is_none(tmp_path):
    with RunFiles(tmp_path / "new", True, CONFIG) as files:
        assert files.done == set()


def test_a_run_is_not_continued_under_other_settings(tmp_path):
    write(tmp_path, [record("0")])
    before = (tmp_path / "run.json").read_bytes()
    other = {**CONFIG, "oracle": "ibp", "tolerance": 0.01, "seed": 1}
    with pytest.raises(InputError) as error:
        RunFiles(tmp_path, True, other)
    assert str(error.value) == (
        f"{tmp_path} holds a run with other settings: oracle is 'crown' there and "
        "'ibp' here; tolerance is 0.001 there and 0.01 here; seed is not set there and "
        "1 here. Continue it under the same settings, or choose another --output"
    )
    assert (tmp_path / "run.json").read_bytes() == before


def test_a_run_without_settings_is_not_continued(tmp_path):
    write(tmp_path, [record("0")])
    (tmp_path / "run.json").unlink()
    with pytest.raises(InputError, match="no run.json, so its settings are not known"):
        RunFiles(tmp_path, True, CONFIG)


def test_an_existing_run_is_not_overwritten(tmp_path):
    write(tmp_path, [record("0")])
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with pytest.raises(InputError) as error:
        RunFiles(tmp_path, False, CONFIG)
    assert str(error.value) == (
        f"{tmp_path} already holds a run (certificates.jsonl). Continue it with "
        "--resume, or choose another --output; nothing was changed"
    )
    assert before == {p: p.read_bytes() for p in before}


def test_an_unwritable_output_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError) as error:
        RunFiles(tmp_path / "file" / "out", False, CONFIG)
    assert str(error.value) == (
        f"cannot write {tmp_path / 'file' / 'out'}: Not a directory. Choose another "
        "--output"
    )


def test_there_is_no_run_to_read(tmp_path):
    with pytest.raises(InputError, match="holds no run .*certificates.jsonl is miss"):
        read_run(tmp_path)


def test_damaged_files_are_named(tmp_path):
    write(tmp_path, [record("0"), record("1")])
    lines = tmp_path / "certificates.jsonl"
    whole = lines.read_bytes()
    lines.write_bytes(b"{}\n" + whole)
    with pytest.raises(InputError, match="line 1: not a record of this program"):
        read_run(tmp_path)
    lines.write_bytes(whole + whole.splitlines(keepends=True)[0])
    with pytest.raises(InputError, match="input '0' has 2 lines"):
        read_run(tmp_path)
    lines.write_bytes(whole)
    boxes = (tmp_path / "boxes.npz").read_bytes()
    (tmp_path / "boxes.npz").write_bytes(boxes[: len(boxes) // 2])
    with pytest.raises(InputError, match="boxes.npz is damaged .* --resume"):
        read_run(tmp_path)
    (tmp_path / "boxes.npz").write_bytes(boxes)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="run.json is not JSON.* another --output"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"config": 3}')
    with pytest.raises(InputError, match="run.json: config must be an object"):
        read_run(tmp_path)


@pytest.mark.parametrize("about", ['{"wall_seconds": "3"}', '{"versions": 3}', "[]"])
def test_a_damaged_summary_is_no_traceback(tmp_path, about):
    write(tmp_path, [record("0")])
    (tmp_path / "summary.json").write_text(about)
    for attempt in (read_run, lambda path: RunFiles(path, True, CONFIG)):
        with pytest.raises(InputError, match="summary.json.*Remove it and continue"):
            attempt(tmp_path)


def test_a_refused_run_changes_nothing(tmp_path):
    write(tmp_path, [record("0")])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="already holds a run"):
        RunFiles(tmp_path, False, CONFIG)
    with pytest.raises(InputError, match="with other settings"):
        RunFiles(tmp_path, True, {**CONFIG, "seed": 1234})
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_keeps_the_run(tmp_path):
    with pytest.raises(InputError, match="Free some space .* --resume"):
        with writing(tmp_path):
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"apothem_lower": 0.07}, r"the apothem bracket \[0.07, 0.06\] is not ordered"),
        ({"apothem_upper": math.nan}, "is not ordered"),
        ({"apothem_lower": -0.1}, "is not ordered"),
        ({"status": "safe"}, "status is 'safe', must be one of certified, misclass"),
        ({"input": 3}, "input must be a string, got 3"),
        ({"colour": 1}, r"unknown keys \['colour'\]"),
        ({"oracle": object()}, "oracle is of type object, which JSON cannot hold"),
    ],
)
def test_a_false_record_is_refused_and_not_written(tmp_path, changes, text):
    good = record("0")
    with RunFiles(tmp_path, False, CONFIG) as files:
        with pytest.raises(InputError, match=text):
            files.append([{**good, **changes}], *arrays([good]))
        assert not files.done
    assert read_run(tmp_path).records == []


def test_an_input_is_answered_once_and_arrays_must_fit(tmp_path):
    with RunFiles(tmp_path, False, CONFIG) as files:
        rows = arrays([record("0")])
        files.append([record("0")], *rows)
        with pytest.raises(InputError, match="input '0' is already answered"):
            files.append([record("0")], *rows)
        with pytest.raises(InputError, match=r"x has shape \(1, 8, 8\), must be \(2,"):
            files.append([record("1"), record("2")], *rows)
        files.finish()
        with pytest.raises(InputError, match="is closed"):
            files.append([record("1")], *rows)


# --- numbers and table ---------------------------------------------------------------


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


# --- report --------------------------------------------------------------------------


class Page(HTMLParser):
    """Gathers the links and the text of a page."""

    def __init__(self, path):
        super().__init__()
        self.sources, self.tags, self.words = [], [], []
        self.feed(Path(path).read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())
        assert "script" not in self.tags and "link" not in self.tags
        for source in self.sources:
            assert (Path(path).parent / source).is_file()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            if key in ("src", "srcset", "href"):
                self.sources.append(value)

    def handle_data(self, data):
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


@pytest.mark.parametrize("shape", [(8, 8), (64,), (3, 8, 9), (8, 9, 1)], ids=str)
def test_report_of_images(tmp_path, shape):
    records = [record(str(i), 0.01 * (i + 1), 0.01 * (i + 2)) for i in range(3)]
    records += [record("w", status="misclassified"), record("i", 0.02, math.inf)]
    write(tmp_path, records, shape)
    page = Page(write_report(tmp_path))
    tiles = [s for s in page.sources if "input-" in s]
    # Seven tiles each, five without a counterexample, one without a box.
    assert len(tiles) == 3 * 7 + 5 + 1
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
    down = imread(tmp_path / "pictures" / "input-00000-slack-down.png")[..., :3]
    up = imread(tmp_path / "pictures" / "input-00000-slack-up.png")[..., :3]
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
    assert len([s for s in page.sources if "features" in s]) == 4
    assert units(config, (40,)) == "input units"


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


@pytest.mark.parametrize("shape", [(8, 8), (5,)], ids=str)
def test_report_of_an_unbounded_domain(tmp_path, shape):
    config = {**CONFIG, "domain_lower": -math.inf, "domain_upper": math.inf}
    write(tmp_path, [record("0"), record("1", 0.1, math.inf)], shape, config)
    assert "[-inf, inf]" in Page(write_report(tmp_path)).text


@pytest.mark.parametrize("shape", [(8, 8), (5,)], ids=str)
def test_report_where_everything_is_misclassified(tmp_path, shape):
    write(tmp_path, [record(str(i), status="misclassified") for i in range(3)], shape)
    page = Page(write_report(tmp_path))
    assert "0 of 3 inputs certified. 3 are misclassified" in page.text
    assert not any("apothems" in source for source in page.sources)


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
    page = Page(write_report(tmp_path))  # Page refuses a script
    assert page.text.count('<script>alert("x")</script>&<b>') >= 4


def test_report_of_many_inputs(tmp_path):
    write(tmp_path, many(300), (5, 5))
    page = Page(write_report(tmp_path))
    assert "Table of 300 inputs" in page.text
    assert page.tags.count("article") == 12
    first = set(page.sources)
    assert set(Page(write_report(tmp_path)).sources) == first
    stored = {f"pictures/{p.name}" for p in (tmp_path / "pictures").iterdir()}
    assert stored == first


def test_report_that_cannot_be_written(tmp_path):
    write(tmp_path, [record("0")])
    (tmp_path / "pictures").write_text("in the way")
    with pytest.raises(InputError, match="cannot write the report in .*: File exists"):
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


# --- grown boxes ---------------------------------------------------------------------


def with_grown(records, shape, config=CONFIG):
    """Returns what `append` takes, with boxes that grew by half of what is left."""
    x, lo, hi, witness, classes = arrays(records, shape, config=config)
    own = np.array([r["grown"] is not None for r in records])
    mask = own.reshape(-1, *[1] * len(shape))
    grown = np.where(mask, lo / 2, np.nan), np.where(mask, (1 + hi) / 2, np.nan)
    rates = np.reshape(config.get("rates", np.ones(shape)), shape)
    for i in np.flatnonzero(own):
        edges = grown[1][i] - grown[0][i]
        down, up = (x[i] - grown[0][i]) / rates, (grown[1][i] - x[i]) / rates
        down, up = down[grown[0][i] > 0], up[grown[1][i] < 1]
        found = edges.min(), edges.mean(), edges.max(), np.log(edges).sum()
        records[i]["grown"] |= zip(EDGES, map(float, found), strict=True)
        records[i]["grown"]["apothem"] = float(np.concatenate([down, up]).min())
    return x, lo, hi, witness, classes, grown


def grown_records(proof):
    values = {
        "objective": "min_edge", "delta": 1e-3, "apothem": math.inf, "min_edge": 0.2,
        "mean_edge": 0.5, "max_edge": 0.9, "log_volume": -math.inf,
        "faces_on_domain": 3, "faces_stopped": 124, "faces_open": 1, "subproblems": 9,
        "seconds": 1.5, "proof": proof,
    }  # fmt: skip
    return [
        record("0", grown=dict(values)),
        record("1", status="misclassified", grown=None),
        record("2", lower=0.1, upper=0.2, grown={**values, "mean_edge": 0.71}),
    ]


def test_grown_boxes_are_read_back_also_after_a_kill(tmp_path):
    records = grown_records(True)
    given = with_grown(records, (8, 8))
    files = RunFiles(tmp_path, resume=False, config=CONFIG)
    files.append(records, *given)
    for run in (read_run(tmp_path), files.finish() and read_run(tmp_path)):
        assert [r["grown"] for r in run.records] == [r["grown"] for r in records]
        np.testing.assert_array_equal(run.grown_lo, given[-1][0])
        np.testing.assert_array_equal(run.grown_hi, given[-1][1])
        assert np.isnan(run.grown_lo[1]).all()


def test_a_false_grown_record_or_box_is_refused(tmp_path):
    records = grown_records(None)
    *given, grown = with_grown(records, (8, 8))
    with RunFiles(tmp_path, resume=False, config=CONFIG) as files:
        with pytest.raises(InputError, match="grown_hi has shape"):
            files.append(records, *given, (grown[0], grown[1][:2]))
        records[0]["grown"].pop("delta")
        with pytest.raises(InputError, match="GROWN_KEYS"):
            files.append(records, *given, grown)


@pytest.mark.parametrize("proof", [True, False, None])
def test_report_of_grown_images(tmp_path, proof):
    records = grown_records(proof)
    with RunFiles(tmp_path, resume=False, config=CONFIG) as files:
        files.append(records, *with_grown(records, (8, 8)))
        files.finish()
    page = write_report(tmp_path).read_text()
    for name in ("grown-lower", "grown-upper", "grown-edges"):
        assert page.count(f"-{name}.png") == 2
        assert len(list((tmp_path / "pictures").glob(f"*-{name}.png"))) == 2
    means = records[0]["grown"]["mean_edge"], records[0]["mean_edge"]
    large, small = (format_number(mean, "down") for mean in means)
    assert f"Grown (min edge): mean edge {large} instead of {small}" in page
    assert "124 stopped by a counterexample at most 0.001 beyond, 1 open" in page
    assert ("certificate of the box and its faces" in page) == (proof is True)
    assert ("certificate of its faces alone" in page) == (proof is False)


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
    assert page.count('-plane.png"') == 3 and "Distances are in rates" in page
    assert len(list((tmp_path / "pictures").glob("*-plane*.png"))) == 6
    (tmp_path / "regions.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"regions.npz is damaged .* Delete it"):
        write_report(tmp_path)


# --- lines that disagree with what is stored beside them -----------------------------


def retold(path, change):
    """Rewrites every line of a run after a change."""
    lines = path / "certificates.jsonl"
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    for each in records:
        change(each)
    lines.write_text("".join(json.dumps(each) + "\n" for each in records))


def edit(**changes):
    return lambda each: each.update(changes)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            edit(apothem_lower=0.9, apothem_upper=0.95),
            "apothem_lower is 0.9, but its box",
        ),
        (edit(apothem_lower=0.0501), "apothem_lower is 0.0501, but its box has the ap"),
        (edit(apothem_lower=0.0499), "apothem_lower is 0.0499, but its box has the ap"),
        (edit(apothem_lower=0.05 * (1 + 1e-12)), "apothem_lower is 0.0500000"),
        (edit(apothem_upper="Infinity"), "apothem_upper is inf, but its witness is at"),
        (edit(apothem_upper=0.3), "apothem_upper is 0.3, but its witness is at 0.0"),
        (edit(min_edge=0.2), "min_edge is 0.2, of its box 0.0"),
        (edit(mean_edge=None), "mean_edge is None, of its box"),
        (edit(log_volume=-1.0), "log_volume is -1.0, of its box"),
        (edit(status="unknown"), "apothem_lower is 0.05, of an input that is unknown"),
        (
            edit(status="misclassified"),
            "status is misclassified, of label 3 predicted 3",
        ),
        (edit(predicted=4), "status is certified, of label 3 predicted 4"),
        (
            edit(status="unknown", apothem_lower=0.0),
            "status is unknown, but a box is stored",
        ),
        (
            edit(oracle="complete"),
            "oracle is 'complete', in the run's settings 'crown'",
        ),
        (edit(subproblems=-1), "subproblems is -1, which it cannot be"),
        (edit(seconds="soon"), "seconds is 'soon', which it cannot be"),
    ],
)
def test_a_line_that_disagrees_with_its_box_is_refused(tmp_path, change, text):
    write(tmp_path, [record("0"), record("1")])
    retold(tmp_path, change)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for open_it in (read_run, write_report, lambda p: RunFiles(p, True, CONFIG)):
        with pytest.raises(InputError, match="certificates.jsonl, line 1") as refused:
            open_it(tmp_path)
        assert text in str(refused.value) and "--resume" in str(refused.value)
    after = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    assert after == before  # nothing is lost or overwritten


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda a: a["lo"].fill(np.nan),
            "certified, but no box around x in the domain",
        ),
        (lambda a: a["hi"].__isub__(1e-9), "but its box has the apothem"),
        (lambda a: a["x"].__iadd__(1e-9), "but its box has the apothem"),
        (lambda a: a["lo"].fill(0.0), "but its box has the apothem"),
        (
            lambda a: a["lo"].__isub__(2.0),
            "certified, but no box around x in the domain",
        ),
        (lambda a: a["witness"].fill(np.nan), "the witness and its class are not both"),
        (
            lambda a: a["witness_class"].fill(-1),
            "the witness and its class are not both",
        ),
        (lambda a: a["witness"].__iadd__(2.0), "the witness lies outside the domain"),
    ],
)
def test_a_box_that_disagrees_with_its_line_is_refused(tmp_path, change, text):
    write(tmp_path, [record("0"), record("1")])
    with np.load(tmp_path / "boxes.npz") as stored:
        boxes = dict(stored)
    change(boxes)
    np.savez(tmp_path / "boxes.npz", **boxes)
    for open_it in (read_run, lambda p: RunFiles(p, True, CONFIG)):
        with pytest.raises(InputError, match=f"line 1, input '0': .*{text}"):
            open_it(tmp_path)


def test_a_line_names_itself_also_after_blank_ones(tmp_path):
    write(tmp_path, [record("0"), record("1")])
    lines = tmp_path / "certificates.jsonl"
    first, second = lines.read_text().splitlines()
    lines.write_text(f"{first}\n\n\n{second.replace('0.05', '0.051', 1)}\n")
    with pytest.raises(InputError, match="line 4, input '1': apothem_lower is 0.051"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("apothem", 0.9), ("min_edge", 0.0), ("log_volume", 3.0)]
)
def test_a_grown_record_that_disagrees_is_refused(tmp_path, key, value):
    records = grown_records(True)
    with RunFiles(tmp_path, resume=False, config=CONFIG) as files:
        files.append(records, *with_grown(records, (8, 8)))
        files.finish()
    retold(tmp_path, lambda each: each["grown"] and each["grown"].update({key: value}))
    with pytest.raises(InputError, match=rf"line 1, input '0': grown.{key} is "):
        read_run(tmp_path)


def proof_of(path, rec, x, lo, hi, **changes):
    head = {
        "label": rec["label"], "required_margin": 0.0, "arithmetic": "real",
        "apothem_lower": rec["apothem_lower"], "apothem_upper": rec["apothem_upper"],
    }  # fmt: skip
    arrays = {"x": x, "lo": lo, "hi": hi} | changes.pop("arrays", {})
    header = np.frombuffer(json.dumps(head | changes).encode(), np.uint8)
    path.parent.mkdir(exist_ok=True)
    flat = {key: array.reshape(-1) for key, array in arrays.items()}
    np.savez(path, header=header, **flat)


def test_a_line_agrees_with_its_certificate(tmp_path):
    rec, path = record("a b.csv"), tmp_path / "proofs" / f"{file_stem('a b.csv')}.npz"
    x, lo, hi, witness, classes = arrays([rec])
    with RunFiles(tmp_path, resume=False, config=CONFIG) as files:
        files.append([rec], x, lo, hi, witness, classes)
        files.finish()
    proof_of(path, rec, x[0], lo[0], hi[0])
    assert len(read_run(tmp_path).records) == 1
    for changes, text in (
        ({"label": 4}, "label is 3, in .*proofs.* 4"),
        ({"apothem_lower": 0.04}, "apothem_lower is 0.05, in .*npz 0.04"),
        ({"apothem_upper": None}, "apothem_upper is 0.06, in .*npz None"),
        ({"arithmetic": "float32"}, "arithmetic is 'real', in .* 'float32'"),
        ({"arrays": {"hi": hi[0] + 1e-16 + 2e-16}}, "hi is another one in "),
    ):
        proof_of(path, rec, x[0], lo[0], hi[0], **changes)
        with pytest.raises(InputError, match=f"line 1, input 'a b.csv': {text}"):
            RunFiles(tmp_path, True, CONFIG)
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match="proofs/.* is damaged .*Remove it and line"):
        read_run(tmp_path)
