"""The files of a run: whole, readable and resumable at any moment."""

from __future__ import annotations

import errno
import json
import math

import numpy as np
import pytest
from made_runs import (
    CONFIG,
    arrays,
    grown_records,
    record,
    with_grown,
    write,
)

from jaxcert.errors import InputError
from jaxcert.report import (
    BOX_KEYS,
    RECORD_KEYS,
    RunFiles,
    read_run,
)
from jaxcert.report.boxes import part_paths
from jaxcert.runs.files import writing
from jaxcert.runs.journal import Journal


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


def refine_one(folder):
    """Begins a run of two inputs and refines the first.

    Returns the writer, still open as after a kill, and the records before and after.
    """
    old = [record("0"), record("1")]
    new = [record("0", 0.055, 0.0575), record("1")]
    before, after = arrays(old), arrays(new)  # around the same inputs
    files = RunFiles(folder, False, CONFIG)
    files.append(old, *before)
    names = ("x", "lo", "hi", "witness", "witness_class")
    own = dict(zip(names, (a[:1] for a in after), strict=True))
    files.refine(new[:1], **own)
    with pytest.raises(InputError, match="'0': no wider bracket is stored in "):
        files.refine(old[:1], **own)
    with pytest.raises(InputError, match="'2': no wider bracket is stored in "):
        files.refine([record("2")], **own)
    return files, (old, before), (new, after)


def holds(folder, answers):
    """Whether a run holds these answers, line by line and box by box."""
    records, rows = answers
    run = read_run(folder)
    boxes = zip((run.x, run.lo, run.hi, run.witness), rows, strict=False)
    same = all(np.array_equal(a, b) for a, b in boxes)
    return same and run.records == records


def test_a_refined_answer_counts_and_leaves_one_line(tmp_path):
    files, _, new = refine_one(tmp_path)
    path = tmp_path / "certificates.jsonl"
    assert path.read_bytes().count(b"\n") == 3 and holds(tmp_path, new)
    with RunFiles(tmp_path, True, CONFIG) as again:
        assert list(again.done) == ["0", "1"] and not again.notices
        assert holds(tmp_path, new)
        again.finish()
    assert path.read_bytes().count(b"\n") == 2 and holds(tmp_path, new)


def test_a_kill_while_an_answer_is_refined_keeps_one_of_the_two(tmp_path, monkeypatch):
    files, old, new = refine_one(tmp_path)
    path = tmp_path / "certificates.jsonl"
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for length in (last, last + 1, len(whole) - 1):  # its boxes are there already
        path.write_bytes(whole[:length])
        assert holds(tmp_path, old)
        assert RunFiles(tmp_path, True, CONFIG).done == {"0", "1"}
        assert holds(tmp_path, old)
    path.write_bytes(whole)
    settle = Journal.settle

    def killed(self, after):
        settle(self) if after else None
        raise KeyboardInterrupt

    for after in (False, True):  # boxes.npz is written, the parts are not removed
        monkeypatch.setattr(Journal, "settle", lambda self, a=after: killed(self, a))
        with pytest.raises(KeyboardInterrupt):
            RunFiles(tmp_path, True, CONFIG).finish()
        assert part_paths(tmp_path) and holds(tmp_path, new)
    monkeypatch.undo()
    RunFiles(tmp_path, True, CONFIG).finish()
    assert not part_paths(tmp_path) and holds(tmp_path, new)


def test_a_second_line_that_refines_nothing_is_refused(tmp_path):
    write(tmp_path, [record("0", 0.05, 0.06)])
    path = tmp_path / "certificates.jsonl"
    line = json.loads(path.read_text())
    for changes in (
        {},  # the same again
        {"apothem_lower": 0.04},
        {"apothem_lower": 0.055, "apothem_upper": 0.07},
        {"apothem_lower": 0.055, "predicted": 2},
    ):
        path.write_text(f"{json.dumps(line)}\n{json.dumps(line | changes)}\n")
        with pytest.raises(InputError, match="'0' has 2 lines. Remove all but one"):
            read_run(tmp_path)


def test_a_run_remembers_the_longest_time_limit(tmp_path):
    with RunFiles(tmp_path, False, CONFIG) as files:
        for seconds, told in ((5.0, 5.0), (2.0, 5.0), (math.inf, math.inf)):
            files.tell_time_limit(seconds)
            assert files.time_limit == told
    path = tmp_path / "run.json"
    for wrong in (-1, "x", True, None):
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"time_limit": wrong})
        )
        with pytest.raises(InputError, match="run.json: time_limit is "):
            _ = files.time_limit


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


@pytest.mark.parametrize("name", ["run.json", "summary.json"])
def test_a_run_of_another_schema_is_refused(tmp_path, name):
    write(tmp_path, [record("0")])
    path = tmp_path / name
    assert '"schema": 1' in path.read_text()
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(InputError, match=f"{name} is of schema 2; .* reads 1"):
        read_run(tmp_path)
    path.write_text(path.read_text().replace('"schema": 2,', ""))
    assert len(read_run(tmp_path).records) == 1  # written before there were numbers


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
