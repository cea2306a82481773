"""Lines that disagree with what is stored beside them are not believed."""

from __future__ import annotations

import json

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
    RunFiles,
    read_run,
    write_report,
)
from jaxcert.runs.files import file_stem


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
    # Of an answer that was being refined when the run was killed.
    further = {"apothem_lower": 0.055, "apothem_upper": 0.0575}
    larger = {"lo": np.maximum(lo[0] - 0.005, 0), "hi": np.minimum(hi[0] + 0.005, 1)}
    proof_of(path, rec, x[0], lo[0], hi[0], **further, arrays=larger)
    assert read_run(tmp_path).records[0]["apothem_lower"] == 0.05
    proof_of(path, rec, x[0], lo[0], hi[0], **further, arrays={"hi": hi[0] - 1e-9})
    with pytest.raises(InputError, match="hi is another one in "):
        read_run(tmp_path)
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match="proofs/.* is damaged .*Remove it and line"):
        read_run(tmp_path)
