"""The script `certify`: its files, its table, interruption and continuation."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich
from in_process import answered

from jaxcert.bounds.multineuron import CutOptions
from jaxcert.certificate.grown import GrownWriter
from jaxcert.certification import CertifyOptions
from jaxcert.checker import command as check
from jaxcert.checker.check import check_certificate
from jaxcert.commands import inputs
from jaxcert.commands.certify import command as certify
from jaxcert.commands.certify import proofs as certify_proofs
from jaxcert.commands.certify import run as running
from jaxcert.learning.data import load_dataset
from jaxcert.report import BOX_KEYS, GROWN_KEYS, RECORD_KEYS, Run, read_run
from jaxcert.search.cover import Prover

COUNT = 12


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", "test")


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """Where the first test that needs a finished run puts it for the others."""
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def whole(kept, run_certify) -> Path:
    """An uninterrupted run over inputs 0:12 in batches of 4."""
    if not kept.exists():
        done = run_certify(f"--inputs=0:{COUNT}", "--batch_size=4", f"--output={kept}")
        assert done.code == 0, done.err
    return kept


def records(output: Path) -> list[dict]:
    """Returns the lines of a run as they stand."""
    text = (output / "certificates.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def answers(output: Path) -> tuple[list[dict], Run]:
    """Returns (the records without their times, the run)."""
    found = read_run(output)
    return [{**record, "seconds": None} for record in found.records], found


def same_answers(one: Path, other: Path) -> None:
    """Asserts that two runs agree in all but their times."""
    (first, run), (second, again) = answers(one), answers(other)
    assert first == second
    for key in BOX_KEYS[1:]:
        np.testing.assert_array_equal(getattr(run, key), getattr(again, key), key)


# Files


def test_files(whole):
    found = records(whole)
    assert [record["input"] for record in found] == [str(i) for i in range(COUNT)]
    for record in found:
        assert tuple(record) == RECORD_KEYS
        assert record["objective"] == "apothem" and record["oracle"] == "crown"
        assert record["arithmetic"] == "real" and record["required_margin"] == 0
        assert record["oracle_calls"] > 0 and record["seconds"] > 0
        assert record["apothem_lower"] <= record["apothem_upper"]
    boxes = np.load(whole / "boxes.npz")
    assert sorted(boxes.files) == sorted(BOX_KEYS)
    assert boxes["input"].tolist() == [record["input"] for record in found]
    assert (whole / "report.html").stat().st_size > 1000
    assert not (whole / "parts").exists()
    summary = json.loads((whole / "summary.json").read_text())
    counted = [
        sum(record["status"] == status for record in found)
        for status in ("certified", "misclassified", "unknown")
    ]
    assert [
        summary[key] for key in ("certified", "misclassified", "unknown")
    ] == counted
    assert summary["n"] == COUNT and summary["complete"] is True
    assert summary["flags"]["batch_size"] == 4
    assert {"jax", "numpy", "jaxcert"} <= summary["versions"].keys()


@pytest.mark.campaign
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_balls_of_a_run(run_certify, tmp_path, norm):
    out = tmp_path / "out"
    flags = f"--norm={norm}", "--oracle=complete", "--proofs", f"--output={out}"
    ended = run_certify("--inputs=0:3", *flags)
    assert ended.code == 0, ended.err
    assert "at once" not in ended.out and norm in ended.out
    ended = run_certify("--inputs=0:5", *flags, "--resume")
    assert ended.code == 0, ended.err
    run = read_run(out)
    assert {r["objective"] for r in run.records} == {f"{norm} radius"}
    assert np.isnan(run.lo).all() and len(run.records) == 5
    certified = [r for r in run.records if r["status"] == "certified"]
    for record in certified:
        report = check_certificate(out / "proofs" / f"{record['input']}.npz")
        assert report.accepted and report.norm == norm
        assert report.apothem_lower == record["apothem_lower"]
    assert certified
    page = (out / "report.html").read_text()
    assert f"whose {norm} distance from the input is no greater" in page
    assert "no feature is farther" not in page


@pytest.mark.parametrize("arithmetic", ["real", "float32"])
def test_proofs_of_a_run(run_certify, tmp_path, arithmetic):
    out = tmp_path / "out"
    flags = "--inputs=0:5", "--noreport", "--proofs", f"--arithmetic={arithmetic}"
    ended = run_certify(*flags, f"--output={out}")
    assert ended.code == 0 and ended.err == ""
    assert "all accepted by the" in ended.out
    found = [r for r in records(out) if r["status"] == "certified"]
    assert len(found) > 2
    checked = f"Checked by the independent program: {len(found)} of {len(found)}."
    meant = {"real": "as a function of real numbers", "float32": "in every float32 ev"}
    said = " ".join(ended.out.split())
    assert f"Claim: of each of the {len(found)} inputs called certified" in said
    assert checked in said and meant[arithmetic] in said
    for record in found:
        assert record["arithmetic"] == arithmetic
        report = check_certificate(out / "proofs" / f"{record['input']}.npz")
        assert report.accepted, report.reason
        assert report.arithmetic == arithmetic
        assert report.apothem_lower == record["apothem_lower"]


def test_proofs_are_written_where_they_are_cheap(run_certify, tmp_path, monkeypatch):
    """Of the tiny network, of one layer: all, but for trees that are large."""
    out = tmp_path / "out"
    flags = "--oracle=complete", "--inputs=0:5", "--noreport", f"--output={out}"
    said = " ".join(run_certify(*flags).out.split())
    found = {r["input"]: r for r in records(out) if r["status"] == "certified"}
    assert len(found) > 2
    assert f"Checked by the independent program: {len(found)} of {len(found)}." in said
    leaves = {}
    for name, record in found.items():
        report = check_certificate(out / "proofs" / f"{name}.npz")
        assert report.accepted and report.apothem_lower == record["apothem_lower"]
        leaves[name] = report.leaves
    again = run_certify(*flags, "--resume").out
    assert "and their network" not in again and "No certificate" not in again

    most = sorted(leaves.values())[len(leaves) // 2]
    monkeypatch.setattr(certify_proofs, "_FEW_LEAVES", most)
    fewer = tmp_path / "fewer"
    said = " ".join(run_certify(*flags[:-1], f"--output={fewer}").out.split())
    kept = {name for name, count in leaves.items() if count <= most}
    assert {path.stem for path in (fewer / "proofs").glob("[0-9].npz")} == kept
    assert 0 < len(kept) < len(found)
    left = len(found) - len(kept)
    assert (
        f"{left} inputs have no certificate, since their trees have more than" in said
    )
    assert f"independent program: {len(kept)} of {len(found)}." in said


def test_networks_of_which_no_proofs_are_written_unasked(tmp_path):
    def certifier(f, oracle):
        options = CertifyOptions(oracle)
        return certify.Certifier(f, np.eye(2), (0.0, 1.0), (2,), options=options)

    relu, tanh = jax.nn.relu, jnp.tanh
    deep = certifier(lambda w, x: w @ relu(w @ relu(w @ x)), "complete")
    assert not certify_proofs.are_cheap(deep)
    deep = certifier(lambda w, x: w @ relu(w @ relu(w @ x)), "crown")
    assert certify_proofs.are_cheap(deep)
    one = certifier(lambda w, x: w @ relu(w @ x), "complete")
    assert certify_proofs.are_cheap(one)
    for count in (32, 33):

        def wide(w, x, count=count):
            return w @ relu(jnp.tile(w @ x, count))[:2]

        assert certify_proofs.are_cheap(certifier(wide, "crown")) == (count == 32)
    assert not certify_proofs.are_cheap(certifier(lambda w, x: tanh(w @ x), "crown"))
    narrow = certifier(lambda w, x: relu(w @ x).astype(jnp.float16), "crown")
    assert certify_proofs.Proofs.where_cheap(tmp_path, narrow) is None


def test_cuts_are_asked_of_branch_and_bound(run_certify, monkeypatch, tmp_path):
    """They need not change an answer: what the search is told is looked at."""
    given = []

    def batch(self, x, labels, deadline):
        given.append(self.options.branch)
        raise KeyboardInterrupt

    monkeypatch.setattr(certify.Certifier, "batch_with_proofs", batch)
    arguments = "--inputs=0:2", "--oracle=complete", "--proofs", "--noreport"
    for flags, expected in (((), None), (("--cuts",), CutOptions())):
        out = tmp_path / f"out{len(given)}"
        assert run_certify(*arguments, *flags, f"--output={out}").code == 130
        assert given[-1].record and given[-1].cuts == expected
        # Subproblems of both kinds do not belong into one run.
        assert ("cuts" in read_run(out).config) == bool(flags)


def test_labels_and_predictions(whole, tiny, digits):
    predicted = tiny.logits(digits.images[:COUNT]).argmax(axis=1)
    for record, label, winner in zip(
        records(whole), digits.labels, predicted, strict=False
    ):
        assert (record["label"], record["predicted"]) == (label, winner)
        assert (record["status"] == "misclassified") == (label != winner)


def test_boxes_hold_x_and_no_other_class(whole, tiny, digits):
    random = np.random.default_rng(0)
    run = read_run(whole)
    certified = [i for i, r in enumerate(run.records) if r["status"] == "certified"]
    assert len(certified) > COUNT / 2
    for i in certified:
        record, x, lo, hi = run.records[i], run.x[i], run.lo[i], run.hi[i]
        np.testing.assert_array_equal(x, digits.images[i])
        assert (lo >= 0).all() and (lo <= x).all()
        assert (x <= hi).all() and (hi <= 1).all()
        slack = np.concatenate([(x - lo)[lo > 0], (hi - x)[hi < 1]])
        lower = record["apothem_lower"]
        assert lower <= slack.min() <= lower + 1e-12
        edges = hi - lo
        stated = [record[f"{which}_edge"] for which in ("min", "mean", "max")]
        assert stated == pytest.approx([edges.min(), edges.mean(), edges.max()])
        assert record["log_volume"] == pytest.approx(np.log(edges).sum())
        share = random.random((500, *x.shape))
        share[:250] = share[:250].round()  # corners
        logits = tiny.logits(lo + share * edges)
        assert (logits.argmax(axis=1) == record["label"]).all()


def test_witnesses_are_of_another_class(whole, tiny):
    run = read_run(whole)
    found = 0
    for i, record in enumerate(run.records):
        if record["status"] == "misclassified":
            continue
        found += 1
        witness = run.witness[i]
        assert (witness >= 0).all() and (witness <= 1).all()
        distance = np.abs(witness - run.x[i]).max()
        assert distance <= record["apothem_upper"] <= distance + 1e-12
        logits = tiny.logits(witness[None])[0]
        rival = run.witness_class[i]
        assert rival != record["label"]
        assert logits[rival] >= logits[record["label"]]
        assert record["apothem_upper"] < 2  # found at all
    assert found > COUNT / 2


def test_misclassified_inputs_have_no_box(whole):
    run = read_run(whole)
    wrong = [i for i, r in enumerate(run.records) if r["status"] == "misclassified"]
    assert wrong
    for i in wrong:
        record = run.records[i]
        assert record["apothem_lower"] == record["apothem_upper"] == 0
        for key in ("min_edge", "mean_edge", "max_edge", "log_volume"):
            assert record[key] is None
        for array in (run.lo, run.hi, run.witness):
            assert np.isnan(array[i]).all()
        assert run.witness_class[i] == -1


def test_unknown_and_boundless_inputs(run_certify, tmp_path):
    out = tmp_path / "unknown"
    ended = run_certify(
        "--inputs=0", "--required_margin=1000", f"--output={out}", "--noreport"
    )
    assert ended.code == 0 and "nothing is claimed" in ended.out
    (record,) = records(out)
    assert record["status"] == "unknown" and record["apothem_lower"] == 0
    assert record["min_edge"] is None and np.isnan(read_run(out).lo).all()
    out = tmp_path / "boundless"
    ended = run_certify(
        "--inputs=0", "--required_margin=-1000", f"--output={out}", "--noreport"
    )
    assert ended.code == 0
    (record,) = records(out)
    assert record["status"] == "certified"
    assert record["apothem_lower"] == record["apothem_upper"] == "Infinity"
    run = read_run(out)
    assert (run.lo == 0).all() and (run.hi == 1).all() and np.isnan(run.witness).all()


def test_the_complete_oracle_is_exact_to_the_tolerance(run_certify, whole, tmp_path):
    out = tmp_path / "out"
    arguments = "--inputs=0:4", "--oracle=complete", "--tolerance=1e-3", "--noreport"
    assert run_certify(*arguments, f"--output={out}").code == 0
    for exact, crown in zip(records(out), records(whole), strict=False):
        assert exact["apothem_upper"] - exact["apothem_lower"] <= 1e-3
        assert exact["apothem_upper"] >= crown["apothem_lower"]
        assert exact["apothem_lower"] <= crown["apothem_upper"]


def test_resume_with_more_time_refines_open_brackets(
    run_certify, calls, monkeypatch, tmp_path
):
    out, batch = tmp_path / "out", certify.Certifier.batch_with_proofs
    flags = (
        "--inputs=0:4", "--oracle=complete", "--tolerance=1e-5", "--noreport",
        "--proofs", f"--output={out}",
    )  # fmt: skip

    def widths():
        return [r["apothem_upper"] - r["apothem_lower"] for r in records(out)]

    def hurried(self, x, labels, deadline, **known):
        return batch(self, x, labels, 0.0, **known)

    with monkeypatch.context() as patch:
        patch.setattr(certify.Certifier, "batch_with_proofs", hurried)
        assert run_certify(*flags, "--time_limit=5").code == 0
    first, wide = records(out), sum(w > 1e-5 for w in widths())
    assert wide > 1 and calls == [4]
    # No more time than before: they stay as they are.
    assert run_certify(*flags, "--time_limit=5", "--resume").code == 0
    assert calls == [4] and records(out) == first

    def killed(self, *records, **arrays):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # its certificates are written, no line is
        patch.setattr(running.RunFiles, "refine", killed)
        assert run_certify(*flags, "--time_limit=500", "--resume").code == 130
    assert records(out) == first and len(read_run(out).records) == 4
    assert run_certify(*flags, "--time_limit=500", "--resume").code == 0
    assert calls == [4, wide, wide]
    assert max(widths()) <= 1e-5
    for before, after in zip(first, records(out), strict=True):
        assert before["input"] == after["input"]
        assert before["apothem_lower"] <= after["apothem_lower"]
        assert after["apothem_upper"] <= before["apothem_upper"]
        assert before["oracle_calls"] <= after["oracle_calls"]
        if after["status"] == "certified":
            report = check_certificate(out / "proofs" / f"{after['input']}.npz")
            assert report.accepted and report.apothem_lower == after["apothem_lower"]
    assert read_run(out).about["complete"] is True
    # All are closed, and nothing is done again.
    assert run_certify(*flags, "--time_limit=900", "--resume").code == 0
    assert calls == [4, wide, wide]


# What ONNX files compute is tested apart; and `verify` reads them always.
@pytest.mark.campaign
def test_checkpoint_and_onnx_agree(run_certify, tiny, whole, tmp_path):
    out = tmp_path / "out"
    arguments = f"--model={tiny.onnx}", "--batch_size=4", f"--inputs=0:{COUNT}"
    ended = run_certify(*arguments, f"--output={out}", "--noreport")
    assert ended.code == 0, ended.err
    for one, other in zip(records(out), records(whole), strict=True):
        assert one["status"] == other["status"]
        for key in ("apothem_lower", "apothem_upper"):
            assert one[key] == pytest.approx(other[key], abs=2e-4)


# Table and streams


def test_table_fits_80_columns(run_certify, whole):
    ended = run_certify(
        f"--inputs=0:{COUNT}", "--resume", f"--output={whole}", "--again"
    )
    lines = [line for line in ended.out.splitlines() if str(whole) not in line]
    assert max(map(len, lines)) <= 80
    assert f"report: {whole}/report.html" in ended.out
    for name in ("certified", "misclassified", "Certified accuracy", "proof search"):
        assert name in ended.out
    assert "\x1b" not in ended.out and "\r" not in ended.out
    assert "certifying" not in ended.out  # no bar
    assert ended.err == f"{COUNT} inputs are done already\n"


def test_again_prints_where_the_time_goes(run_certify, whole):
    arguments = f"--inputs=0:{COUNT}", "--resume", "--noreport", f"--output={whole}"
    plain = run_certify(*arguments)
    again = run_certify(*arguments, "--again")
    assert again.out.startswith(plain.out)
    words = again.out[len(plain.out) :].split()
    assert f"second run, {COUNT} inputs" in " ".join(words)
    assert {"proof", "re-proof", "attack", "confirmation"} <= set(words)


def test_noreport_writes_no_page(run_certify, tmp_path):
    out = tmp_path / "out"
    flags = "--inputs=0:2", "--noreport", "--noproofs"
    ended = run_certify(*flags, f"--output={out}")
    assert ended.code == 0 and ended.err == "" and "report:" not in ended.out
    written = sorted(path.name for path in out.iterdir())
    assert written == ["boxes.npz", "certificates.jsonl", "run.json", "summary.json"]


# Which inputs


@pytest.mark.parametrize(
    ("text", "names"),
    [("0:3", "0 1 2"), ("3,17", "3 17"), ("all", "0 1 2 3 4"), ("4", "4")],
)
def test_selections(run_certify, digits, monkeypatch, tmp_path, text, names):
    if text == "all":
        few = dataclasses.replace(
            digits, images=digits.images[:5], labels=digits.labels[:5]
        )
        monkeypatch.setattr(inputs, "load_dataset", lambda *_: few)
    out = tmp_path / "out"
    ended = run_certify(f"--inputs={text}", "--noreport", f"--output={out}")
    assert ended.code == 0, ended.err
    assert [record["input"] for record in records(out)] == names.split()
    np.testing.assert_array_equal(
        read_run(out).x, digits.images[[int(name) for name in names.split()]]
    )


def test_a_long_list_of_indices_is_no_file_name(run_certify, tmp_path):
    # Longer than file names may be; the last index is out of range, to be told soon.
    text = ",".join(map(str, [*range(100), 10**6]))
    ended = run_certify(f"--inputs={text}", f"--output={tmp_path / 'out'}")
    assert ended.code == 1 and "goes past the end" in ended.err


def write_csv(path: Path, values: np.ndarray) -> None:
    path.write_text(",".join(repr(float(v)) for v in values.ravel()))


def test_csv_folder(run_certify, digits, tmp_path):
    folder, out = tmp_path / "csv", tmp_path / "out"
    folder.mkdir()
    for i in (1, 0):
        write_csv(folder / f"{digits.labels[i]}-{i}.csv", digits.images[i])
    (folder / "9-9.csv").write_text("")
    ended = run_certify(f"--inputs={folder}", "--noreport", f"--output={out}")
    assert ended.code == 0
    assert ended.err == "warning: skipped 9-9.csv: the file is empty\n"
    found = records(out)
    assert [record["input"] for record in found] == ["2-0.csv", "3-1.csv"]
    assert [record["label"] for record in found] == [2, 3]
    np.testing.assert_array_equal(read_run(out).x, digits.images[:2])


def test_array_files(run_certify, digits, tmp_path):
    np.savez(tmp_path / "x.npz", x=digits.images[:2], names=["b", "\x1b[31ma\n"])
    out = tmp_path / "out"
    path = tmp_path / "x.npz"
    ended = run_certify(f"--inputs={path}", "--noreport", f"--output={out}")
    assert ended.code == 0 and "\x1b" not in ended.out
    found = records(out)
    assert [record["input"] for record in found] == ["b", "\x1b[31ma\n"]
    assert all(record["label"] is None for record in found)
    np.save(tmp_path / "x.npy", digits.images[:3].reshape(3, 64))
    out, path = tmp_path / "two", tmp_path / "x.npy"
    assert run_certify(f"--inputs={path}", "--noreport", f"--output={out}").code == 0
    assert [record["input"] for record in records(out)] == ["0", "1", "2"]


def test_a_home_directory_in_a_flag(run_certify, digits, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "x.npy", digits.images[:1])
    # No shell expands the ~ of --flag=~/x.
    ended = run_certify("--inputs=~/x.npy", "--output=~/out", "--noreport")
    assert ended.code == 0, ended.err
    assert len(records(tmp_path / "out")) == 1


# The demo network


@pytest.mark.campaign
def test_demo_network_is_trained_once(run_certify, monkeypatch, tmp_path):
    trained = []
    train = inputs.train

    def short(architecture, data, config):
        trained.append(config.seed)
        return train(architecture, data, dataclasses.replace(config, epochs=1))

    monkeypatch.setattr(inputs, "train", short)
    out = tmp_path / "out"
    # The search is not what is tested here.
    arguments = "--model=demo", "--time_limit=1e-9", "--noreport", f"--output={out}"
    ended = run_certify(*arguments)
    assert ended.code == 0
    assert ended.err.startswith("training the demo network on digits")
    ended = run_certify(*arguments, "--resume")
    assert ended.code == 0 and trained == [0]
    before = (out / "network.npz").read_bytes()
    # A network of another seed must not be taken for this one, nor written over.
    for more in ([], ["--resume"]):
        ended = run_certify(*arguments, "--seed=1", *more)
        assert ended.code == 1
        assert "network.npz" in ended.err and "seed is 0 there and 1 here" in ended.err
    assert trained == [0] and (out / "network.npz").read_bytes() == before


# Interruption and continuation


def test_ctrl_c_and_resume(run_certify, whole, calls, monkeypatch, tmp_path):
    out = tmp_path / "out"
    arguments = f"--inputs=0:{COUNT}", "--batch_size=4", "--noreport", f"--output={out}"
    counted = certify.Certifier.batch_with_proofs

    def interrupted(self, x, *rest):
        if len(calls) == 1:
            raise KeyboardInterrupt
        return counted(self, x, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(certify.Certifier, "batch_with_proofs", interrupted)
        ended = run_certify(*arguments)
    assert ended.code == 130 and calls == [4]
    assert ended.out.endswith("stopped by Ctrl-C; continue with --resume\n")
    assert len(records(out)) == 4
    assert json.loads((out / "summary.json").read_text())["complete"] is False
    assert read_run(out).x.shape == (4, 8, 8, 1)

    ended = run_certify(*arguments, "--resume")
    assert ended.code == 0 and calls == [4, 4, 4]
    assert ended.err == "4 inputs are done already\n"
    same_answers(out, whole)
    assert json.loads((out / "summary.json").read_text())["complete"] is True

    ended = run_certify(*arguments, "--resume")
    assert ended.code == 0 and calls == [4, 4, 4]  # nothing redone
    same_answers(out, whole)


def test_resume_adds_inputs(run_certify, whole, calls, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    arguments = "--batch_size=4", "--noreport", "--resume", f"--output={out}"
    assert run_certify(f"--inputs=2:{COUNT + 2}", *arguments).code == 0
    assert calls == [2]
    assert [r["input"] for r in records(out)] == [str(i) for i in range(COUNT + 2)]


def test_a_torn_line_is_redone(run_certify, whole, calls, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    lines = out / "certificates.jsonl"
    lines.write_bytes(lines.read_bytes()[:-50])
    arguments = f"--inputs=0:{COUNT}", "--batch_size=4", "--noreport", "--resume"
    ended = run_certify(*arguments, f"--output={out}")
    assert ended.code == 0 and calls == [1]
    assert "the last line is torn" in ended.err
    same_answers(out, whole)


def test_ctrl_c_outside_the_search(run_certify, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(certify, "select_network", interrupted)
    ended = run_certify("--inputs=0:2", f"--output={tmp_path / 'out'}")
    assert ended.code == 130 and ended.err == "stopped by Ctrl-C\n"


def test_time_limit(run_certify, calls, monkeypatch, tmp_path):
    counted = certify.Certifier.batch_with_proofs

    def slow(self, x, *rest):
        answer = counted(self, x, *rest)
        time.sleep(0.5)
        return answer

    monkeypatch.setattr(certify.Certifier, "batch_with_proofs", slow)
    out = tmp_path / "out"
    arguments = "--inputs=0:12", "--batch_size=4", "--noreport", f"--output={out}"
    ended = run_certify(*arguments, "--time_limit=0.4")
    assert ended.code == 0 and calls == [4]
    assert ended.out.endswith("stopped by the time limit; continue with --resume\n")
    assert [record["input"] for record in records(out)] == ["0", "1", "2", "3"]
    assert run_certify(*arguments, "--resume").code == 0 and calls == [4, 4, 4]


def test_batches_get_the_deadline(run_certify, monkeypatch, tmp_path):
    counted, given = certify.Certifier.batch_with_proofs, []

    def batch(self, x, labels, deadline):
        given.append(deadline - time.monotonic())
        return counted(self, x, labels, deadline)

    monkeypatch.setattr(certify.Certifier, "batch_with_proofs", batch)
    arguments = "--inputs=0:2", "--noreport", f"--output={tmp_path / 'out'}"
    assert run_certify(*arguments, "--time_limit=1000").code == 0
    assert len(given) == 1 and 900 < given[0] <= 1000


def test_time_limit_before_the_first_batch(run_certify, calls, tmp_path):
    out = tmp_path / "out"
    arguments = "--inputs=0:2", f"--output={out}"
    ended = run_certify(*arguments, "--time_limit=1e-9")
    assert ended.code == 0 and calls == [] and records(out) == []
    assert (out / "report.html").exists()
    assert run_certify(*arguments, "--resume").code == 0 and calls == [2]


# Processes


def wait_for_lines(process: subprocess.Popen, out: Path, count: int) -> None:
    """Waits until a run has written `count` lines."""
    lines = out / "certificates.jsonl"
    for _ in range(60000):
        if lines.exists() and lines.read_bytes().count(b"\n") >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail(f"{out} got no {count} lines in ten minutes")


# Ctrl-C is tested in process, and a kill by `verify`, which writes with the same code.
@pytest.mark.campaign
@pytest.mark.parametrize(
    ("kind", "oracle"),
    [(signal.SIGINT, "crown"), (signal.SIGKILL, "complete")],
)
def test_killed_in_mid_run(start, run_certify, calls, tmp_path, kind, oracle):
    out = tmp_path / "out"
    # Batches are of the size for which other runs have compiled.
    flags = (
        "--inputs=0:300", "--batch_size=4", "--noreport", f"--oracle={oracle}",
        f"--output={out}",
    )  # fmt: skip
    process = start(*flags)
    wait_for_lines(process, out, 3)
    process.send_signal(kind)
    printed, said = process.communicate(timeout=600)
    assert process.returncode == (-9 if kind == signal.SIGKILL else 130)
    assert "Traceback" not in said
    if kind == signal.SIGINT:
        assert printed.endswith("stopped by Ctrl-C; continue with --resume\n")
        assert json.loads((out / "summary.json").read_text())["complete"] is False
    lines = (out / "certificates.jsonl").read_bytes()
    done = lines.count(b"\n")
    assert 3 <= done < 300
    assert len(read_run(out).x) == done  # every line has its box, and can be read

    few = f"--inputs=0:{done + 3}", *flags[1:]
    assert run_certify(*few, "--resume").code == 0
    assert sum(calls) == 3
    assert (out / "certificates.jsonl").read_bytes().startswith(lines)
    fresh = tmp_path / "fresh"
    assert run_certify(*few[:-1], f"--output={fresh}").code == 0
    same_answers(out, fresh)


@pytest.mark.campaign
def test_what_a_process_without_a_terminal_prints(start, tmp_path):
    out = tmp_path / "out"
    ended = start("--inputs=0:2", "--batch_size=1", "--noreport", f"--output={out}")
    printed, said = ended.communicate(timeout=600)
    assert (ended.returncode, said) == (0, "")
    lines = [line for line in printed.splitlines() if line != str(out / "proofs")]
    assert max(map(len, lines)) <= 80 and "\x1b" not in printed


def test_exit_code_of_a_process_that_is_asked_wrongly(start):
    wrong = start("--candidates=x")
    printed, said = wrong.communicate(timeout=600)
    assert wrong.returncode == 2 and printed == ""
    assert said.startswith("error: ") and said.count("\n") == 1


def test_news_without_a_terminal(run_certify, monkeypatch, tmp_path):
    flags = "--inputs=0:12", "--batch_size=4", "--noreport"
    assert run_certify(*flags, f"--output={tmp_path / 'a'}").err == ""  # too short
    monkeypatch.setattr(running, "_NEWS_SECONDS", 0.0)
    ended = run_certify(*flags, f"--output={tmp_path / 'b'}")
    # The first batch compiles and says nothing of the pace; the last is the end.
    assert re.fullmatch(r"8 of 12 inputs, about \d+ s to go\n", ended.err)


def test_bar_on_a_terminal(run_certify, monkeypatch, tmp_path):
    master, slave = pty.openpty()
    shown: list[bytes] = []

    def collect() -> None:
        # Linux ends a terminal that nobody writes to any more with an error.
        while select.select([master], [], [], 60)[0]:
            try:
                shown.append(os.read(master, 4096))
            except OSError:
                return

    reader = threading.Thread(target=collect)
    reader.start()
    out = tmp_path / "out"
    with open(slave, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        patch.setattr(rich, "_console", None)  # made for the first output it is asked
        flags = f"--inputs=0:{COUNT}", "--batch_size=4", "--noreport", "--noproofs"
        ended = run_certify(*flags, f"--output={out}")
    reader.join()
    os.close(master)
    assert (ended.code, ended.err) == (0, "")
    text = b"".join(shown).decode().replace("\r\n", "\n")
    bar, _, after = text.rpartition("\x1b")
    assert "certifying" in bar and "100%" in bar
    summary = json.loads((out / "summary.json").read_text())
    tolerance = summary["config"]["tolerance"]
    records = read_run(out).records
    table = certify.table(records, summary, tolerance=tolerance)
    # After the bar has been wiped, the table and what is claimed.
    said = re.sub(r"^\[[0-9;?]*[a-zA-Z]", "", after)
    assert said.startswith(table + "\n\nClaim: of each of the ")
    assert "\nChecked by the independent program: 0 of 9." in said


# Grown boxes


@pytest.mark.campaign
def test_boxes_grow_with_their_certificates(run_certify, tmp_path, capsys):
    out = tmp_path / "out"
    ended = run_certify(
        "--inputs=0:1", "--grow=maximal", "--delta=0.05", "--proofs", f"--output={out}"
    )
    assert ended.code == 0, ended.err
    assert "are stopped by a counterexample at most 0.05 beyond them" in ended.out
    run = read_run(out)
    own = [r for r in run.records if r["status"] == "certified"]
    assert own
    for row, record in enumerate(run.records):
        grown = record["grown"]
        if record["status"] != "certified":
            assert grown is None and np.isnan(run.grown_lo[row]).all()
            continue
        assert tuple(grown) == GROWN_KEYS
        assert (run.grown_lo[row] <= run.lo[row]).all()
        assert (run.grown_hi[row] >= run.hi[row]).all()
        assert grown["mean_edge"] > record["mean_edge"]
        assert (
            grown["faces_on_domain"] + grown["faces_stopped"] + grown["faces_open"]
            == 2 * run.x[row].size
        )
        report = check_certificate(out / "grown" / f"{record['input']}.npz")
        assert report.accepted and report.faces.proved == grown["proof"]
        assert report.faces.witnessed == grown["faces_stopped"]
    page = (out / "report.html").read_text()
    assert "grown" in page and 'class="grown-edges"' in page
    checked = answered(lambda: check.main([str(out)]), capsys)
    assert checked.code == 0 and f"{len(own)} with their proof" in checked.out
    path = out / "grown" / f"{own[0]['input']}.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **{**arrays, "face_by": arrays["face_by"][:-1]})
    checked = answered(lambda: check.main([str(out)]), capsys)
    assert checked.code == 1 and "REJECTED" in checked.out and "face_by" in checked.out
    other = run_certify("--inputs=0:1", "--proofs", "--resume", f"--output={out}")
    assert other.code == 1 and "grow is 'maximal' there" in other.err


@pytest.mark.campaign
def test_a_grown_box_of_float32_without_its_proof_is_none(
    run_certify, tmp_path, monkeypatch
):
    flags = "--inputs=0:2", "--grow=maximal", "--delta=0.05", "--arithmetic=float32"
    proved = run_certify(*flags, f"--output={tmp_path / 'proved'}")
    assert proved.code == 0, proved.err
    own = [r for r in read_run(tmp_path / "proved").records if r["grown"]]
    for record in own:
        path = tmp_path / "proved" / "grown" / f"{record['input']}.npz"
        report = check_certificate(path)
        assert report.accepted and report.faces.proved and record["grown"]["proof"]
        assert report.arithmetic == "float32"
    assert own

    def unrecorded(self, box, leaves, ascent, budget):
        return [None] * len(box.lo)

    monkeypatch.setattr(Prover, "record", unrecorded)
    monkeypatch.setattr(GrownWriter, "_branched", lambda self, claim, deadline: None)
    ended = run_certify(*flags, f"--output={tmp_path / 'unproved'}")
    assert ended.code == 0 and "there was no time for its proof" in ended.err
    run = read_run(tmp_path / "unproved")
    assert not any(r["grown"] for r in run.records) and np.isnan(run.grown_lo).all()
    assert "No box was grown." in ended.out
    assert not list((tmp_path / "unproved" / "grown").glob("[0-9]*.npz"))
